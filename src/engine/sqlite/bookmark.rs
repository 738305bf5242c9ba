//! What this host remembers of following a database: the moment that was stored last, and a segment on its way.
//!
//! Two files an incarnation, below `state_dir/follow/<source>`. Write order of a segment: the file that holds it; the
//! segment in the repositories; the bookmark; then the file goes. So a process that dies in between stores the same bytes
//! again, and no number is ever given to two contents. Losing both costs a backup, and a gap in the log.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::base::{Error, Incarnation, Result, SourceName, durable};
use crate::engine::lease::boot;
use crate::source::sqlite::{Moment, SegmentReader};

/// Version of the file; others are not used.
const VERSION: u32 = 1;

/// Where the log of one incarnation stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bookmark {
    version: u32,
    pub incarnation: Incarnation,
    /// The segment that was stored last, or that before the first.
    pub segment: u64,
    /// The moment that was stored last; none when nothing goes on from it.
    pub last: Option<Moment>,
    /// Which run of the machine that was in.
    boot: String,
}

impl Bookmark {
    /// That `last` was stored, and `segment` is the last number that was given away.
    pub fn new(incarnation: &Incarnation, segment: u64, last: Option<Moment>) -> Self {
        Self { version: VERSION, incarnation: incarnation.clone(), segment, last, boot: boot() }
    }

    /// What is remembered in `dir`; none when nothing is.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn load(dir: &Path, incarnation: &Incarnation) -> Result<Option<Self>> {
        let path = path(dir, incarnation);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("read", &path, error)),
        };
        // Of another version, or damaged: as good as none.
        let found: Option<Self> = serde_json::from_slice(&text).ok();
        Ok(found.filter(|found| found.version == VERSION && found.incarnation == *incarnation))
    }

    /// What was remembered last, of whatever incarnation: for whoever cannot ask a repository yet which it is.
    pub fn newest(dir: &Path) -> Option<Self> {
        let changed = |entry: &fs::DirEntry| entry.metadata().and_then(|metadata| metadata.modified()).ok();
        let entries = fs::read_dir(dir).ok()?.filter_map(std::result::Result::ok);
        let newest = entries.filter(|entry| entry.path().extension().is_some_and(|kind| kind == "json")).max_by_key(changed)?;
        let incarnation = newest.path().file_stem()?.to_str()?.parse().ok()?;
        Self::load(dir, &incarnation).ok()?
    }

    /// Remembers it, durably.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn remember(&self, dir: &Path) -> Result<()> {
        let path = path(dir, &self.incarnation);
        let text = serde_json::to_vec(self).expect("a bookmark is a plain struct");
        durable::create_dir_all(dir).and_then(|()| durable::write_file(&path, &text, 0o600)).map_err(|error| {
            Error::io("write", &path, error).hint("set state_dir in lifeboat.toml to a directory this user may write")
        })
    }

    /// Whether the machine was not started anew since: then no log has lost its tail.
    pub fn is_of_this_boot(&self) -> bool {
        !self.boot.is_empty() && self.boot == boot()
    }
}

fn path(dir: &Path, incarnation: &Incarnation) -> PathBuf {
    dir.join(format!("{incarnation}.json"))
}

/// A segment that is on its way to the repositories.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pending {
    /// Its number.
    pub segment: u64,
    /// Transactions in it.
    pub commits: u32,
    /// What it goes on from.
    pub from: Moment,
    /// What it leads to.
    pub to: Moment,
    /// Its content.
    pub raw: bytes::Bytes,
}

impl Pending {
    /// The one that is on its way; none when there is none, or it is not whole: then it was never stored anywhere.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn load(dir: &Path, incarnation: &Incarnation) -> Result<Option<Self>> {
        let path = pending_path(dir, incarnation);
        let content = match fs::read(&path) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("read", &path, error)),
        };
        Ok(Self::parse(bytes::Bytes::from(content)))
    }

    fn parse(content: bytes::Bytes) -> Option<Self> {
        let segment = u64::from_be_bytes(*content.first_chunk()?);
        let commits = u32::from_be_bytes(*content.get(8..)?.first_chunk()?);
        let raw = content.slice(12..);
        let mut reader = SegmentReader::begin(raw.as_ref()).ok()?;
        let header = *reader.header();
        let mut page = Vec::new();
        while reader.next_page(&mut page).ok()?.is_some() {}
        Some(Self { segment, commits, from: header.from?, to: header.to, raw })
    }

    /// Puts it on this host's disk, durably: nothing is stored anywhere before.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn remember(&self, dir: &Path, incarnation: &Incarnation) -> Result<()> {
        let path = pending_path(dir, incarnation);
        let content = [&self.segment.to_be_bytes()[..], &self.commits.to_be_bytes(), &self.raw].concat();
        durable::create_dir_all(dir)
            .and_then(|()| durable::write_file(&path, &content, 0o600))
            .map_err(|error| Error::io("write", &path, error))
    }

    /// Forgets it: the bookmark says that it is stored.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn forget(dir: &Path, incarnation: &Incarnation) -> Result<()> {
        let path = pending_path(dir, incarnation);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", &path, error)),
            _ => Ok(()),
        }
    }
}

fn pending_path(dir: &Path, incarnation: &Incarnation) -> PathBuf {
    dir.join(format!("{incarnation}.segment"))
}

/// The right to follow a source on this host.
///
/// # Errors
/// Busy when another process does.
pub(super) fn lock(dir: &Path, source: &SourceName) -> Result<File> {
    let path = dir.join("lock");
    let open = || {
        durable::create_dir_all(dir)?;
        fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path)
    };
    let file = open().map_err(|error| Error::io("open", &path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::busy(format!("another process on this host follows {source} already"))
            .hint(format!("wait for it, or find it: fuser -v {}", path.display()))),
        Err(TryLockError::Error(error)) => Err(Error::io("lock", &path, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ErrorKind;
    use crate::source::sqlite::{SegmentHeader, SegmentWriter};

    #[test]
    fn what_was_remembered_is_known_again_and_a_part_of_it_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (dir, incarnation): (_, Incarnation) = (dir.path().join("deep"), "sqlite-7".parse().unwrap());
        assert!(Bookmark::load(&dir, &incarnation).unwrap().is_none() && Pending::load(&dir, &incarnation).unwrap().is_none());
        let bookmark = Bookmark::new(&incarnation, 5, Some(Moment::sample(3)));
        bookmark.remember(&dir).unwrap();
        assert_eq!(Bookmark::load(&dir, &incarnation).unwrap().as_ref(), Some(&bookmark));
        assert_eq!(Bookmark::newest(&dir).as_ref(), Some(&bookmark));
        assert!(bookmark.is_of_this_boot() && !Bookmark { boot: "another".into(), ..bookmark }.is_of_this_boot());

        let mut writer =
            SegmentWriter::begin(Vec::new(), &SegmentHeader { from: Some(Moment::sample(3)), to: Moment::sample(4) }).unwrap();
        writer.page(2, &[7; 512]).unwrap();
        let raw = writer.finish().unwrap().into();
        let pending = Pending { segment: 6, commits: 3, from: Moment::sample(3), to: Moment::sample(4), raw };
        pending.remember(&dir, &incarnation).unwrap();
        assert_eq!(Pending::load(&dir, &incarnation).unwrap().as_ref(), Some(&pending));
        let path = pending_path(&dir, &incarnation);
        let good = fs::read(&path).unwrap();
        for end in 0..good.len() {
            fs::write(&path, &good[..end]).unwrap();
            assert_eq!(Pending::load(&dir, &incarnation).unwrap(), None, "cut at {end}");
        }
        Pending::forget(&dir, &incarnation).unwrap();
        Pending::forget(&dir, &incarnation).unwrap();
    }

    #[test]
    fn one_process_follows() {
        let dir = tempfile::tempdir().unwrap();
        let source: SourceName = "app".parse().unwrap();
        let held = lock(dir.path(), &source).unwrap();
        assert_eq!(lock(dir.path(), &source).unwrap_err().kind(), ErrorKind::Busy);
        drop(held);
        lock(dir.path(), &source).unwrap();
    }
}
