//! `archive get`: one file of PostgreSQL's log out of the repository.
//!
//! "Not there" is said only when a successful listing shows it: PostgreSQL takes it for the end of the log, promotes
//! and loses what follows. Everything else is an error, whose exit code (255) makes PostgreSQL stop and try again.
//! The file is handed over by rename: a half-written segment is never seen. A segment that is not archived whole, but was
//! streamed in part, is that part and zeros: PostgreSQL ends its recovery where they begin. It replaces its own copy of a
//! segment by what it is given, so a part that its own copy begins with, and may go on from, is not given to it.

use std::fs;
use std::path::Path;

use crate::base::{Error, ErrorKind, Incarnation, Lsn, Result, Segment, SegmentSize, TimelineId, durable, killpoint};
use crate::codec::encrypt::Opener;
use crate::engine::{IdentitySource, Scope};
use crate::repo::identity;
use crate::repo::log::catalog::LogCatalog;
use crate::repo::log::keys;
use crate::repo::log::name::{HistoryName, SegmentName};
use crate::repo::log::resolution;
use crate::repo::log::tail::Piece;
use crate::repo::{layout, log::name};
use crate::store::{ObjectInfo, list_all};

use super::contents::{self, Sealed};
use super::read::identity_of_data_directory;
use super::rehearsal::Rehearsal;
use super::{FileKind, file_kind, tablespaces, tail};

/// Longest file: the largest segment.
const LARGEST_BYTES: u64 = 1 << 30;

/// How much counts of what was streamed of a segment that is not there whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pieces {
    /// All of it.
    All,
    /// So many bytes from its first on.
    UpTo(u64),
    /// Nothing.
    None,
}

/// Whether the file was in the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Got<W = Vec<u8>> {
    /// Its content: for [`hand_over`]; or [`Sealed`].
    Whole(W),
    /// The segment is not there whole, and this is what was streamed of it: for [`hand_over`], once nobody has more.
    Part(Part),
    /// A successful listing shows that it is not archived.
    NotThere,
}

impl Got {
    fn raw(&self) -> &[u8] {
        match self {
            Self::Whole(raw) | Self::Part(Part { raw, .. }) => raw,
            Self::NotThere => &[],
        }
    }
}

/// Who looks, before a segment is handed over, whether its replay would write outside the data directory.
#[derive(Clone, Copy, Debug)]
pub enum Look<'a> {
    /// The drill whose server it is for.
    Rehearsal(&'a Rehearsal),
    /// For the cluster in the working directory.
    Here,
}

/// The beginning of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// As long as the segment; zeros where nothing was streamed.
    pub raw: Vec<u8>,
    /// How much of it was streamed.
    pub bytes: u64,
}

impl Part {
    /// Leaves out what comes from the offset `end` on.
    pub(crate) fn cut(&mut self, end: u64) {
        let end = end.min(self.bytes);
        self.raw[end as usize..self.bytes as usize].fill(0);
        self.bytes = end;
    }

    /// Whether the segment in the file `own` begins with this part: then it holds as much of the log, or more.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn is_held_by(&self, own: &Path) -> Result<bool> {
        let held = match fs::read(own) {
            Ok(held) => held,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(Error::io("read", own, error)),
        };
        let streamed = self.bytes as usize;
        Ok(held.len() == self.raw.len() && held[..streamed] == self.raw[..streamed])
    }
}

/// Fetches the archived file `name`. Without `incarnation` it is that of the cluster in the working
/// directory, where PostgreSQL runs its `restore_command`, else the only one on record. Of what is there in pieces as
/// much counts as `pieces` says. No server is given log whose replay would lead it out of its directory, as `look` says.
///
/// # Errors
/// Whenever it is not certain whether the file is archived, or it is damaged.
pub async fn run(
    scope: &Scope,
    identities: &dyn IdentitySource,
    incarnation: Option<Incarnation>,
    name: &str,
    pieces: Pieces,
    look: Look<'_>,
) -> Result<Got> {
    killpoint::reach("get.start");
    let kind = file_kind(name).ok_or_else(|| {
        Error::usage(format!("'{name}' is no file that PostgreSQL archives"))
            .hint("restore_command = 'lifeboat archive get SOURCE %f %p'")
    })?;
    let incarnation = match incarnation {
        Some(incarnation) => incarnation,
        None => choose_incarnation(scope).await?,
    };
    let mut got = whole(scope, identities, &incarnation, name, kind).await?;
    if got.is_none() && kind == FileKind::Segment && pieces != Pieces::None {
        let up_to = if let Pieces::UpTo(bytes) = pieces { Some(bytes) } else { None };
        got = match tail::read_named(scope, identities, &incarnation, name, up_to).await {
            // It may have become whole meanwhile, and its pieces be gone.
            Ok(None) => whole(scope, identities, &incarnation, name, kind).await?,
            Ok(part) => part.map(Got::Part),
            // The pieces of a whole segment go one by one.
            Err(error) => Some(whole(scope, identities, &incarnation, name, kind).await?.ok_or(error)?),
        };
    }
    let Some(got) = got else {
        // An empty listing says nothing about a cluster that this source never was.
        require_identity(scope, &incarnation).await?;
        return Ok(Got::NotThere);
    };
    if kind == FileKind::Segment {
        match look {
            Look::Rehearsal(rehearsal) => rehearsal.examine(name, got.raw())?,
            Look::Here => tablespaces::spare(Path::new("."), name, got.raw())?,
        }
    }
    Ok(got)
}

/// Fetches the archived segment `name`, if it is there whole, and leaves it closed: whether it is what it should be, and may
/// be replayed, is for whoever opens it to find out. Without `incarnation` it is chosen as by [`run`].
///
/// # Errors
/// Whenever it is not certain whether the segment is archived.
pub async fn sealed(
    scope: &Scope,
    identities: &dyn IdentitySource,
    incarnation: Option<Incarnation>,
    name: &str,
) -> Result<Got<Sealed>> {
    let incarnation = match incarnation {
        Some(incarnation) => incarnation,
        None => choose_incarnation(scope).await?,
    };
    if let Some(sealed) = fetch_sealed(scope, identities, &incarnation, name, FileKind::Segment).await? {
        return Ok(Got::Whole(sealed));
    }
    require_identity(scope, &incarnation).await?;
    Ok(Got::NotThere)
}

/// The file as it was archived whole; none when it was not.
async fn whole(
    scope: &Scope,
    identities: &dyn IdentitySource,
    incarnation: &Incarnation,
    name: &str,
    kind: FileKind,
) -> Result<Option<Got>> {
    let sealed = fetch_sealed(scope, identities, incarnation, name, kind).await?;
    sealed.map(|sealed| sealed.open(LARGEST_BYTES).map(Got::Whole)).transpose()
}

async fn fetch_sealed(
    scope: &Scope,
    identities: &dyn IdentitySource,
    incarnation: &Incarnation,
    name: &str,
    kind: FileKind,
) -> Result<Option<Sealed>> {
    let Some((object, digest)) = find(scope, incarnation, name, kind).await? else { return Ok(None) };
    let opener = opener(scope, identities, incarnation, &object.key).await?;
    let stored = scope.repository.store().get(&object.key).await?;
    Ok(Some(Sealed { key: object.key, stored, opener, digest }))
}

async fn require_identity(scope: &Scope, incarnation: &Incarnation) -> Result<()> {
    let (store, key) = (scope.repository.store(), layout::identity(&scope.source, incarnation));
    match store.head(&key).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Err(Error::failed(format!(
            "{} in repository {} never was the cluster {incarnation}",
            scope.source,
            scope.repository.name()
        ))
        .hint("correct the source or --incarnation in restore_command")),
        Err(error) => Err(error.into()),
    }
}

async fn choose_incarnation(scope: &Scope) -> Result<Incarnation> {
    if let Some(incarnation) = identity_of_data_directory(Path::new(".")).map(|identity| identity.incarnation) {
        return Ok(incarnation);
    }
    let (known, _) = identity::survey(&scope.repository, &scope.source).await?;
    match known.as_slice() {
        [only] => Ok(only.incarnation.clone()),
        [] => Err(Error::failed(format!("nothing of {} was ever archived here", scope.source))
            .hint("lifeboat list   shows what there is")),
        several => {
            let names: Vec<String> = several.iter().map(|identity| identity.incarnation.to_string()).collect();
            Err(Error::usage(format!("{} has several incarnations; name one with --incarnation", scope.source))
                .detail("known", names.join(", ")))
        }
    }
}

/// The object that holds the whole segment called `name`, and the digest of its content.
///
/// # Errors
/// As for [`run`].
pub(super) async fn find_segment(scope: &Scope, incarnation: &Incarnation, name: &str) -> Result<Option<(ObjectInfo, String)>> {
    find(scope, incarnation, name, FileKind::Segment).await
}

/// The object that holds the file, and the digest of its content.
async fn find(scope: &Scope, incarnation: &Incarnation, name: &str, kind: FileKind) -> Result<Option<(ObjectInfo, String)>> {
    let prefix = match kind {
        FileKind::History(timeline) => format!("{}{}_from-", layout::log(&scope.source, incarnation), timeline.hex()),
        FileKind::Segment | FileKind::Auxiliary => {
            let timeline = TimelineId::parse_hex(&name[..8]).ok_or_else(|| Error::usage(format!("{name} names no timeline")))?;
            format!("{}{name}_", layout::log_timeline(&scope.source, incarnation, timeline))
        }
    };
    let store = scope.repository.store();
    let mut found: Vec<(ObjectInfo, String)> = Vec::new();
    for object in list_all(store, &prefix, None).await? {
        let file = object.key.rsplit('/').next().unwrap_or_default();
        let digest = match kind {
            FileKind::History(_) => HistoryName::parse(file).map(|name| name.digest),
            FileKind::Auxiliary => name::parse_auxiliary(file).map(|(_, digest)| digest.to_owned()),
            // A name for one segment size is one for the smallest; only the digest is wanted here.
            FileKind::Segment => {
                SegmentSize::new(1 << 20).and_then(|size| SegmentName::parse(file, size)).map(|name| name.digest)
            }
        };
        match digest {
            Some(digest) => found.push((object, digest)),
            None => return Err(Error::damaged(format!("{} is not a name that lifeboat gives", object.key))),
        }
    }
    let first = found.first().map(|(_, digest)| digest.clone());
    if found.iter().all(|(_, digest)| Some(digest) == first.as_ref()) || kind == FileKind::Auxiliary {
        return Ok(found.into_iter().next());
    }
    let resolutions = resolution::load(&scope.repository, &scope.source, incarnation).await?;
    let kept = resolution::kept(&resolutions, name).and_then(|kept| found.iter().position(|(_, digest)| digest == kept));
    match kept {
        Some(position) => Ok(Some(found.swap_remove(position))),
        None => {
            let digests: Vec<String> = found.into_iter().map(|(_, digest)| digest).collect();
            let what = format!("{name} of {} was archived with different contents by two servers", scope.source);
            Err(Error::new(ErrorKind::Contradicted, what).detail("digests", digests.join(", ")).hint(format!(
                "lifeboat archive resolve {} {name} --keep DIGEST --key FILE   once you know which server was the primary",
                scope.source
            )))
        }
    }
}

/// What opens the log objects of `incarnation`; `sample` is one of them.
pub(crate) async fn opener(
    scope: &Scope,
    identities: &dyn IdentitySource,
    incarnation: &Incarnation,
    sample: &str,
) -> Result<Opener> {
    if !sample.ends_with(".age") {
        return Ok(Opener::Plain);
    }
    keys::opener(&scope.repository, &scope.source, incarnation, &identities.identities()?).await
}

/// Fetches and opens one archived file.
///
/// # Errors
/// When the repository does not answer, or the object is damaged.
pub(crate) async fn fetch(scope: &Scope, key: &str, opener: &Opener, digest: &str, limit_bytes: u64) -> Result<Vec<u8>> {
    let stored = scope.repository.store().get(key).await?;
    contents::open(key, &stored, opener, digest, limit_bytes)
}

/// A reader of the archived log for the restore planner: decodes each segment it is asked for.
pub struct ArchivedLog<'a> {
    /// Where the log is.
    pub scope: &'a Scope,
    /// Whose it is.
    pub incarnation: &'a Incarnation,
    /// Which segments there are.
    pub catalog: &'a LogCatalog,
    /// What opens them.
    pub opener: Opener,
    /// Size of a segment.
    pub size: SegmentSize,
}

impl ArchivedLog<'_> {
    /// The raw bytes of `segment`; `None` when it is not archived.
    ///
    /// # Errors
    /// When the repository does not answer, or the object is damaged.
    pub async fn read(&self, segment: Segment) -> Result<Option<Vec<u8>>> {
        if let Some(tail) = self.catalog.tail.get(&segment) {
            let of = tail::Streamed { incarnation: self.incarnation, segment, size: self.size };
            let up_to = tail.end.bytes_since(segment.start(self.size));
            let read = match tail.is_cut {
                false => tail::read_current(self.scope, of, tail.pieces.clone(), &self.opener).await,
                true => tail::read_up_to(self.scope, of, tail.pieces.clone(), &self.opener, up_to).await,
            };
            let name = segment.name(self.size);
            let error = match read {
                Ok(Some(part)) => return Ok(Some(part.raw)),
                Ok(None) => Error::damaged(format!("what was streamed of {name} vanished")),
                Err(error) => error,
            };
            // A segment that became whole since it was listed takes its pieces away.
            let Some((object, digest)) = find_segment(self.scope, self.incarnation, &name).await? else {
                return Err(error);
            };
            return fetch(self.scope, &object.key, &self.opener, &digest, self.size.bytes()).await.map(Some);
        }
        match self.catalog.segments.get(&segment) {
            Some(object) => fetch(self.scope, &object.key, &self.opener, &object.name.digest, self.size.bytes()).await.map(Some),
            None => Ok(None),
        }
    }
}

impl ArchivedLog<'_> {
    /// Where what was streamed of `segment` is no log any more, and why; none when all of it is, or it is gone.
    ///
    /// # Errors
    /// When the repository does not answer.
    pub async fn wrong_from(&self, segment: Segment, pieces: Vec<Piece>) -> Result<Option<(Lsn, Error)>> {
        let of = tail::Streamed { incarnation: self.incarnation, segment, size: self.size };
        let Some((part, wrong)) = tail::read_sound(self.scope, of, pieces, &self.opener).await? else { return Ok(None) };
        Ok(wrong.map(|error| (segment.start(self.size).plus(part.bytes), error)))
    }
}

/// Writes the file to `destination`, whole or not at all.
///
/// # Errors
/// When it cannot be written.
pub fn hand_over(raw: &[u8], destination: &Path) -> Result<()> {
    let temporary = durable::temporary_beside(destination);
    let write = || {
        fs::write(&temporary, raw)?;
        killpoint::reach("get.written");
        fs::rename(&temporary, destination)
    };
    write().map_err(|error| {
        // Best effort: the error that matters is the one that is reported.
        let _ = fs::remove_file(&temporary);
        Error::io("write", destination, error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_held_by_a_copy_that_begins_with_it_and_by_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let part = Part { raw: b"abcd\0\0\0\0".to_vec(), bytes: 4 };
        for (own, expected) in
            [(&b"abcd\0\0\0\0"[..], true), (b"abcdefgh", true), (b"abc\0\0\0\0\0", false), (b"abXdefgh", false), (b"abcd", false)]
        {
            let file = dir.path().join("own");
            fs::write(&file, own).unwrap();
            assert_eq!(part.is_held_by(&file).unwrap(), expected, "{own:?}");
        }
        assert!(!part.is_held_by(&dir.path().join("none")).unwrap());
        assert!(part.is_held_by(dir.path()).is_err(), "a directory: whether it is held is not known");
    }
}
