//! `archive push`: one file of PostgreSQL's log into the repository.
//!
//! Returns only once the file is durable there. Write order: identity (first time), the stretch's key, the file under a
//! name that carries its digest, then this host's journal, which is stored as a signed index in batches.
//!
//! Split brain: names differ by content, so two primaries never overwrite each other; the directory is listed before
//! and after the put, and whoever sees two contents under one name refuses. Of two that put at the same instant at
//! least one lists after both objects are there.

use std::fs;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;

use crate::base::{Error, Incarnation, Result, Segment, SegmentSize, TimelineId, Timestamp, killpoint};
use crate::codec::Sha256Digest;
use crate::codec::encrypt::{Recipient, Seal};
use crate::engine::reread::digest_to_sign;
use crate::engine::{Scope, Writing};
use crate::repo::host_state::{Journal, Stretch};
use crate::repo::identity::{self, Identity};
use crate::repo::log::index::{self, IndexLine};
use crate::repo::log::keys::{STRETCH_DAYS, begin_stretch};
use crate::repo::log::name::{self, CommitTime, HistoryName, SegmentName};
use crate::repo::log::resolution;
use crate::repo::{Role, layout};
use crate::source::postgres::control::ControlFile;
use crate::source::postgres::history::History;
use crate::source::postgres::wal::{Carry, EndTime, SegmentHeader, SegmentSummary, Stop, WAL_PAGE_BYTES, WalError, summarise};
use crate::store::{PutOutcome, list_all};

use super::contents::Compressing;
use super::{FileKind, file_kind};

/// The journal is stored when it holds so many lines …
const INDEX_BATCH: usize = 16;
/// … or when its oldest line is as old as this.
const INDEX_AGE: Duration = Duration::from_secs(60);

/// What became of a pushed file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The object that holds it.
    pub key: String,
    /// Whether it was there before, with the same content.
    pub already_there: bool,
    /// What went wrong beside the archiving itself; the file is safe all the same.
    pub warnings: Vec<String>,
}

/// Archives `file`.
///
/// # Errors
/// Whenever the file is not durable in the repository, and on any contradiction with what is there.
pub async fn run(scope: &Scope, writing: &Writing, file: &Path) -> Result<Pushed> {
    killpoint::reach("push.start");
    scope.repository.keyring().require(&writing.signer, Role::Write)?;
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let kind = file_kind(name).ok_or_else(|| {
        Error::usage(format!("{} is no file that PostgreSQL archives", file.display()))
            .hint("archive_command = 'lifeboat archive push SOURCE %p'")
    })?;
    let raw = Bytes::from(fs::read(file).map_err(|error| Error::io("read", file, error))?);
    // In vain when the file is refused or there already: both are rare, and the archiver waits for every push.
    let compressing = Compressing::start(raw.clone(), writing.compression_level);
    let push = match kind {
        FileKind::Segment => segment(scope, file, name, &raw).await?,
        FileKind::History(timeline) => history(scope, file, timeline, &raw).await?,
        FileKind::Auxiliary => auxiliary(scope, file, name, &raw).await?,
    };
    push.run(scope, writing, compressing).await
}

/// A file ready to be archived.
struct Push {
    /// As PostgreSQL calls it.
    file: String,
    digest: Sha256Digest,
    incarnation: Incarnation,
    /// Directory and beginning of the object names that stand for the same file.
    prefix: String,
    /// Whole name without directory and `.age`; what follows `prefix`'s directory.
    object: Box<dyn Fn(&str) -> String + Send + Sync>,
    /// The digest in such an object's name.
    digest_of: fn(&str) -> Option<String>,
    /// For a segment: what straddles out of it, and the next segment's name.
    carry: Option<(Carry, String)>,
    /// What is odd about the file, though it is archived as it is.
    warnings: Vec<String>,
    /// The identity to put on record when this source has none.
    identity: Option<Identity>,
}

async fn segment(scope: &Scope, file: &Path, name: &str, raw: &[u8]) -> Result<Push> {
    let refuse = |error: WalError| {
        Error::failed(format!("{} is not a segment that can be archived", file.display()))
            .caused_by(error)
            .hint("is the source's archive_command that of the right server? nothing was stored")
    };
    let header = SegmentHeader::parse(raw).map_err(refuse)?;
    let size = header.segment_size;
    if raw.len() as u64 != size.bytes() {
        return Err(Error::failed(format!(
            "{} is {} bytes long; a segment here has {}",
            file.display(),
            raw.len(),
            size.bytes()
        ))
        .hint("it is still being written, or was cut short; archive only what archive_command names"));
    }
    let segment = Segment::parse(name, size)
        .ok_or_else(|| Error::failed(format!("{name} cannot be the name of a segment of {} bytes", size.bytes())))?;
    let incarnation = Incarnation::postgres(u32::from(header.major_version), header.system_identifier);
    let carry = carry_into(scope, &incarnation, segment, size, file);
    let summary = match summarise(segment, size, raw, &carry) {
        Err(error) if error.is_carry_mismatch() => summarise(segment, size, raw, &Carry::Unknown),
        outcome => outcome,
    };
    let (summary, warning) = match summary {
        Ok(summary) => (Some(summary), None),
        // What cannot be interpreted is archived all the same, with unknown times: nothing may wedge the archiver.
        Err(error @ WalError::Malformed { .. }) => (None, Some(format!("{name} is archived without its times: {error}"))),
        Err(error) => return Err(refuse(error)),
    };
    let warning = warning.or_else(|| damage(name, summary.as_ref()?));
    let digest = Sha256Digest::of(raw);
    let object_name = object_name(segment, summary.as_ref(), digest);
    let carry = summary.map_or(Carry::Unknown, |summary| summary.end.carry);
    Ok(Push {
        file: name.to_owned(),
        digest,
        prefix: format!("{}{name}_", layout::log_timeline(&scope.source, &incarnation, segment.timeline)),
        object: Box::new(move |suffix| object_name.text(size, suffix)),
        digest_of: |name| Some(name.split('_').nth(4)?.split('.').next()?.to_owned()),
        warnings: warning.into_iter().collect(),
        carry: Some((carry, segment.next().name(size))),
        identity: Some(identity_of(u32::from(header.major_version), header.system_identifier, size)),
        incarnation,
    })
}

/// A segment is archived as the server wrote it; but one that cannot be replayed to its end is worth a word at once.
fn damage(name: &str, summary: &SegmentSummary) -> Option<String> {
    match &summary.end.stop {
        Stop::SegmentEnd => None,
        Stop::EndOfLog { at, fault } | Stop::Damaged { at, fault } => {
            Some(format!("{name} cannot be replayed beyond {at}: {fault}"))
        }
    }
}

fn object_name(segment: Segment, summary: Option<&SegmentSummary>, digest: Sha256Digest) -> SegmentName {
    let time = |time: EndTime| match time {
        EndTime::None => CommitTime::None,
        EndTime::Unknown => CommitTime::Unknown,
        EndTime::At(time) => CommitTime::At(time),
    };
    let readable = summary.filter(|summary| !summary.end.head_unknown);
    SegmentName {
        segment,
        first: summary.map_or(CommitTime::Unknown, |summary| time(summary.first_time())),
        last: summary.map_or(CommitTime::Unknown, |summary| time(summary.latest_time())),
        commits: readable.and_then(|summary| u32::try_from(summary.commits).ok()),
        digest: digest.short(),
    }
}

/// What straddles into `segment`: remembered from the push before, else read from the segment before it beside `file`.
fn carry_into(scope: &Scope, incarnation: &Incarnation, segment: Segment, size: SegmentSize, file: &Path) -> Carry {
    let remembered = scope.state.carry_into(&scope.source, incarnation, &segment.name(size));
    if let Some(carry) = remembered.and_then(|bytes| Carry::from_bytes(&bytes)) {
        return carry;
    }
    let Some(previous) = segment.previous() else { return Carry::Unknown };
    // The first segment of a timeline follows one of its parent.
    for timeline in (1..=previous.timeline.0).rev().take(16) {
        let previous = Segment { timeline: TimelineId(timeline), ..previous };
        let Ok(bytes) = fs::read(file.with_file_name(previous.name(size))) else { continue };
        match summarise(previous, size, &bytes, &Carry::Unknown) {
            Ok(summary) if summary.end.carry != Carry::Unknown => return summary.end.carry,
            // Recycled, or not whole: the times of a record that straddles in stay unknown, and the name says so.
            Ok(_) | Err(_) => {}
        }
    }
    Carry::Unknown
}

async fn history(scope: &Scope, file: &Path, timeline: TimelineId, raw: &[u8]) -> Result<Push> {
    let parent = History::parse(timeline, raw).map_err(|error| error.context(file.display()))?.parent().cloned();
    let parent = parent.ok_or_else(|| Error::failed(format!("{} names no parent timeline", file.display())))?;
    let (incarnation, identity) = cluster_of(scope, file).await?;
    let digest = Sha256Digest::of(raw);
    let name = HistoryName { timeline, parent: parent.timeline, switch_lsn: parent.switch_lsn, digest: digest.short() };
    Ok(Push {
        file: crate::source::postgres::history::file_name(timeline),
        digest,
        prefix: format!("{}{}_from-", layout::log(&scope.source, &incarnation), timeline.hex()),
        object: Box::new(move |suffix| name.text(suffix)),
        digest_of: |name| HistoryName::parse(name).map(|name| name.digest),
        carry: None,
        warnings: Vec::new(),
        identity,
        incarnation,
    })
}

async fn auxiliary(scope: &Scope, file: &Path, name: &str, raw: &[u8]) -> Result<Push> {
    let (incarnation, identity) = cluster_of(scope, file).await?;
    let timeline = TimelineId::parse_hex(&name[..8]).ok_or_else(|| Error::usage(format!("{name} names no timeline")))?;
    let digest = Sha256Digest::of(raw);
    let (own, short) = (name.to_owned(), digest.short());
    Ok(Push {
        file: name.to_owned(),
        digest,
        prefix: format!("{}{name}_", layout::log_timeline(&scope.source, &incarnation, timeline)),
        object: Box::new(move |suffix| name::auxiliary_text(&own, &short, suffix)),
        // Two servers may rightly archive different partial segments or labels: nothing is ever restored from them.
        digest_of: |_| None,
        carry: None,
        warnings: Vec::new(),
        identity,
        incarnation,
    })
}

/// The incarnation of a file that does not say, and its identity where it can be told: that of the cluster whose
/// `pg_wal` holds the file, else the only one on record.
async fn cluster_of(scope: &Scope, file: &Path) -> Result<(Incarnation, Option<Identity>)> {
    let data_directory =
        file.parent().and_then(Path::parent).map(|dir| if dir.as_os_str().is_empty() { Path::new(".") } else { dir });
    if let Some(identity) = data_directory.and_then(identity_of_data_directory) {
        return Ok((identity.incarnation.clone(), Some(identity)));
    }
    let (mut known, _) = identity::survey(&scope.repository, &scope.source).await?;
    match (known.pop(), known.is_empty()) {
        (Some(only), true) => Ok((only.incarnation, None)),
        (None, _) => Err(Error::failed(format!("cannot tell which cluster {} belongs to", file.display()))
            .hint("archive a segment of the same server first, or give the path below its data directory")),
        (Some(_), false) => Err(Error::failed(format!("cannot tell which of several clusters {} belongs to", file.display()))
            .hint("give the path below the server's data directory: /var/lib/postgresql/15/main/pg_wal/…")),
    }
}

/// The identity of the cluster in `dir`; `None` when there is none that can be read.
pub(super) fn identity_of_data_directory(dir: &Path) -> Option<Identity> {
    let control = ControlFile::read(dir).ok()?;
    let major = fs::read_to_string(dir.join("PG_VERSION")).ok()?.trim().parse().ok()?;
    Some(identity_of(major, control.system_identifier, control.wal_segment_size))
}

fn identity_of(major_version: u32, system_identifier: u64, segment_bytes: SegmentSize) -> Identity {
    Identity {
        incarnation: Incarnation::postgres(major_version, system_identifier),
        engine: "postgres".into(),
        major_version,
        system_identifier: system_identifier.to_string(),
        segment_bytes,
        // Pages of another size are refused by the reader of the log, of the control file and of pages.
        block_bytes: WAL_PAGE_BYTES as u32,
        first_seen: Timestamp::now(),
    }
}

impl Push {
    async fn run(mut self, scope: &Scope, writing: &Writing, compressing: Compressing) -> Result<Pushed> {
        self.require_known_incarnation(scope, writing).await?;
        let mut warnings = std::mem::take(&mut self.warnings);
        let resolved = match self.look(scope).await? {
            Found::Nothing { resolved } => resolved,
            Found::Same { key } => {
                // Listed is not yet durable: whoever put it may have died before its last sync. A put of the same name
                // finds it there and makes it so.
                let store = scope.repository.store();
                if store.put_if_absent(&key, Vec::new().into()).await? == PutOutcome::Created {
                    store.delete(&key).await?;
                    return Err(Error::unreachable(format!("{key} vanished while it was being archived again")));
                }
                self.remember(scope, writing, &key, None, &mut warnings).await;
                return Ok(Pushed { key, already_there: true, warnings });
            }
        };
        let seal = self.seal(scope, writing).await?;
        let stored =
            compressing.seal(&seal).map_err(|error| Error::failed(format!("cannot encode {}", self.file)).caused_by(error))?;
        killpoint::reach("push.encoded");
        let directory = &self.prefix[..=self.prefix.rfind('/').unwrap_or(0)];
        let key = format!("{directory}{}", (self.object)(seal.suffix()));
        let stored = Bytes::from(stored);
        let store = scope.repository.store();
        let outcome = store.put_if_absent(&key, stored.clone().into()).await?;
        killpoint::reach("push.stored");
        // Whoever put at the same instant is seen now, by us or by them.
        if !resolved {
            self.look(scope).await?;
        }
        // Another process may have stored the same content, encrypted otherwise, a moment before: its object is looked at.
        let line = (outcome == PutOutcome::Created).then(|| (Sha256Digest::of(&stored), stored.len() as u64));
        self.remember(scope, writing, &key, line, &mut warnings).await;
        killpoint::reach("push.recorded");
        Ok(Pushed { key, already_there: false, warnings })
    }

    /// A source's log is that of the clusters it is known to have been. A new one is admitted by its first segment
    /// when there is none yet, and afterwards only by a backup, which asks the server itself.
    async fn require_known_incarnation(&self, scope: &Scope, writing: &Writing) -> Result<()> {
        let (known, problems) = identity::survey(&scope.repository, &scope.source).await?;
        let own = layout::identity(&scope.source, &self.incarnation);
        if let Some((key, why)) = problems.into_iter().find(|(key, _)| *key == own) {
            return Err(Error::damaged(format!("{key} cannot be used: {why}")));
        }
        if known.iter().any(|identity| identity.incarnation == self.incarnation) {
            return Ok(());
        }
        match (&self.identity, known.last()) {
            (Some(identity), None) => identity::ensure(&scope.repository, &scope.source, &writing.signer, identity).await,
            (_, Some(latest)) => Err(Error::failed(format!("{} belongs to another cluster than {}", self.file, scope.source))
                .detail("this file", self.incarnation.to_string())
                .detail("on record", format!("{} (since {})", latest.incarnation, latest.first_seen.human_seconds()))
                .hint(format!(
                    "after pg_upgrade or a new initdb: lifeboat backup {} --type full   admits the new cluster",
                    scope.source
                ))
                .hint("otherwise correct the archive_command of the server that runs this")),
            (None, None) => Err(Error::failed(format!("{} came before any segment of {}", self.file, scope.source))
                .hint("PostgreSQL archives it again after the first segment")),
        }
    }

    /// What stands under this file's name.
    async fn look(&self, scope: &Scope) -> Result<Found> {
        let store = scope.repository.store();
        let found = list_all(store, &self.prefix, None).await?;
        let own = self.digest.short();
        let mut others = Vec::new();
        let mut same = None;
        for object in found {
            let name = object.key.rsplit('/').next().unwrap_or_default();
            match (self.digest_of)(name) {
                Some(digest) if digest == own => same = same.or(Some(object.key)),
                Some(digest) => others.push(digest),
                None if object.key.contains(&own) => same = same.or(Some(object.key)),
                None => {}
            }
        }
        if others.is_empty() {
            return Ok(same.map_or(Found::Nothing { resolved: false }, |key| Found::Same { key }));
        }
        let resolutions = resolution::load(&scope.repository, &scope.source, &self.incarnation).await?;
        match resolution::kept(&resolutions, &self.file) {
            Some(kept) if *kept == own => Ok(same.map_or(Found::Nothing { resolved: true }, |key| Found::Same { key })),
            _ => Err(self.split_brain(scope, &own, &others)),
        }
    }

    fn split_brain(&self, scope: &Scope, own: &str, others: &[String]) -> Error {
        Error::failed(format!(
            "{} of {} is in the archive with other content: two servers write the same log",
            self.file, scope.source
        ))
        .detail("this file", own)
        .detail("archived", others.join(", "))
        .hint("stop the server that is not the primary, or whose disk was rolled back; nothing was overwritten")
        .hint(format!(
            "then, with the operator's key: lifeboat archive resolve {} {} --keep DIGEST --key FILE",
            scope.source, self.file
        ))
    }

    /// What this file is sealed with: the key of the present stretch of log, or of a new one.
    async fn seal(&self, scope: &Scope, writing: &Writing) -> Result<Seal> {
        let Some(recipients) = &writing.recipients else { return Ok(Seal::Plain) };
        let wrapped_to: Vec<String> = recipients.iter().map(ToString::to_string).collect();
        let now = Timestamp::now();
        let longest = Duration::from_secs(STRETCH_DAYS * 86_400);
        if let Some(stretch) = scope.state.stretch(&scope.source, &self.incarnation)?
            && stretch.wrapped_to == wrapped_to
            && now.since(stretch.began) < longest
            && let Ok(recipient) = stretch.recipient.parse::<Recipient>()
        {
            return Ok(Seal::Age(recipient));
        }
        // Without a place to remember it every push would begin a stretch of its own.
        drop(scope.state.journal(&scope.source, &self.incarnation)?);
        let (number, recipient) = begin_stretch(&scope.repository, &scope.source, &self.incarnation, recipients).await?;
        let stretch = Stretch { number, recipient: recipient.to_string(), wrapped_to, began: now };
        scope.state.remember_stretch(&scope.source, &self.incarnation, &stretch)?;
        killpoint::reach("push.key-stored");
        Ok(Seal::Age(recipient))
    }

    /// Notes the stored object's digest and what straddles out of the segment. The file is safe already: what fails
    /// here is a warning.
    async fn remember(
        &self,
        scope: &Scope,
        writing: &Writing,
        key: &str,
        stored: Option<(Sha256Digest, u64)>,
        warnings: &mut Vec<String>,
    ) {
        if let Some((carry, next)) = &self.carry
            && let Err(error) = scope.state.remember_carry(&scope.source, &self.incarnation, &self.file, next, &carry.to_bytes())
        {
            warnings.push(error.summary());
        }
        if let Err(error) = self.note(scope, writing, key, stored).await {
            warnings.push(format!("{} is archived, but its digest is not signed yet: {}", self.file, error.summary()));
        }
    }

    async fn note(&self, scope: &Scope, writing: &Writing, key: &str, stored: Option<(Sha256Digest, u64)>) -> Result<()> {
        let mut journal = scope.state.journal(&scope.source, &self.incarnation)?;
        let waiting = journal.lines()?;
        let (stored_sha256, stored_bytes) = match stored {
            Some(stored) => stored,
            // Archived before; a crash may have come between the object and its note.
            None if waiting.iter().any(|line| line.file == self.file) => return Ok(()),
            None => digest_to_sign(scope.repository.store(), key).await?,
        };
        let line = IndexLine {
            file: self.file.clone(),
            raw_sha256: self.digest,
            stored_sha256,
            stored_bytes,
            arrived: Timestamp::now(),
        };
        journal.append(&line)?;
        let oldest = waiting.first().map_or(line.arrived, |line| line.arrived);
        if waiting.len() + 1 >= INDEX_BATCH || line.arrived.since(oldest) >= INDEX_AGE {
            flush(scope, writing, &self.incarnation, &mut journal).await?;
        }
        Ok(())
    }
}

/// What a look at the archive found under a file's name.
enum Found {
    /// Nothing, or (`resolved`) only what an operator decided against.
    Nothing { resolved: bool },
    /// The same content.
    Same { key: String },
}

/// Stores what waits in the journal as a signed index.
async fn flush(scope: &Scope, writing: &Writing, incarnation: &Incarnation, journal: &mut Journal) -> Result<()> {
    let lines = journal.lines()?;
    if lines.is_empty() {
        return Ok(());
    }
    index::store(&scope.repository, &scope.source, incarnation, &writing.signer, lines).await?;
    journal.clear()
}

/// Signs the digests that wait on this host, so that `verify` covers them without a key.
///
/// # Errors
/// When the repository or the journal does not answer.
pub async fn flush_index(scope: &Scope, writing: &Writing, incarnation: &Incarnation) -> Result<()> {
    let mut journal = scope.state.journal(&scope.source, incarnation)?;
    flush(scope, writing, incarnation, &mut journal).await
}
