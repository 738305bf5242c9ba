//! A file of the log as PostgreSQL hands it over: read, understood and described, ready to be stored.

use std::fs;
use std::path::Path;

use bytes::Bytes;

use super::contents::Compressing;
use super::named::{Named, Streamed};
use super::{FileKind, file_kind};
use crate::base::{Error, Incarnation, Result, Segment, SegmentSize, TimelineId, Timestamp, durable};
use crate::codec::Sha256Digest;
use crate::engine::pages::Kept;
use crate::engine::{Scope, Writing};
use crate::repo::identity::{self, Identity};
use crate::repo::layout;
use crate::repo::log::name::{self, CommitTime, HistoryName, SegmentName};
use crate::repo::log::tail;
use crate::source::postgres::control::{ClusterState, ControlFile};
use crate::source::postgres::history::{self, History};
use crate::source::postgres::touched::Touched;
use crate::source::postgres::wal::{
    Carry, EndTime, SegmentHeader, SegmentSummary, Stop, WAL_PAGE_BYTES, WalError, summarise, summarise_with,
};
use crate::store::list_all;

/// Whole name of an object without its directory, given `.age` or nothing.
type ObjectName = Box<dyn Fn(&str) -> String + Send + Sync>;

/// A file ready to be archived.
pub(super) struct LogFile {
    pub named: Named,
    pub object: ObjectName,
    /// For a segment: what straddles out of it, and the next segment's name.
    pub carry: Option<(Carry, String)>,
    /// What is odd about the file, though it is archived as it is.
    pub warnings: Vec<String>,
    /// The identity to put on record when this source has none.
    pub identity: Option<Identity>,
    /// Its content, on its way to a stored object.
    pub compressing: Compressing,
    /// How it was streamed before it was whole.
    pub streamed: Option<Streamed>,
    /// For a segment that was read whole: which pages it touches.
    pub pages: Option<Kept>,
}

/// What a file's content says of it.
struct Described {
    file: String,
    digest: Sha256Digest,
    incarnation: Incarnation,
    object: ObjectName,
    carry: Option<(Carry, String)>,
    warnings: Vec<String>,
    identity: Option<Identity>,
    /// A segment, and its size, in which the log ends as if that were all.
    unfinished: Option<(Segment, SegmentSize)>,
    pages: Option<Kept>,
}

impl LogFile {
    /// Reads `file`; `before` is the file before it, when that is archived in the same breath.
    ///
    /// # Errors
    /// When it is none that can be archived, or cannot be read.
    pub async fn read(scope: &Scope, writing: &Writing, file: &Path, before: Option<&LogFile>) -> Result<Self> {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let unknown = || {
            Error::usage(format!("{} is no file that PostgreSQL archives", file.display()))
                .hint("archive_command = 'lifeboat archive push SOURCE %p'")
        };
        let kind = file_kind(name).ok_or_else(unknown)?;
        let raw = Bytes::from(fs::read(file).map_err(|error| Error::io("read", file, error))?);
        // In vain when the file is refused or there already: both are rare, and the archiver waits for every push.
        let compressing = Compressing::start(raw.clone(), writing.compression_level);
        let described = match kind {
            FileKind::Segment => {
                let before = before.and_then(|before| before.carry.as_ref()).filter(|(_, next)| next == name);
                let described = segment(file, name, &raw, |incarnation, segment, size| match before {
                    Some((carry, _)) => carry.clone(),
                    None => carry_into(scope, incarnation, segment, size, file),
                })?;
                match described.unfinished {
                    Some((segment, size)) => unless_a_part(scope, file, described, segment, size).await?,
                    None => described,
                }
            }
            FileKind::History(timeline) => {
                let (incarnation, identity) = cluster_of(scope, file).await?;
                history(file, timeline, &raw, incarnation, identity)?
            }
            FileKind::Auxiliary => auxiliary(scope, file, name, &raw).await?,
        };
        Self::new(scope, described, compressing)
    }

    /// A segment that was received whole; `carry` straddles into it.
    ///
    /// # Errors
    /// When it is none.
    pub fn of_segment(scope: &Scope, writing: &Writing, name: &str, raw: Bytes, carry: &Carry) -> Result<Self> {
        let compressing = Compressing::start(raw.clone(), writing.compression_level);
        Self::new(scope, segment(Path::new(name), name, &raw, |_, _, _| carry.clone())?, compressing)
    }

    /// A segment of a log that Lifeboat keeps itself, `name` but for its digest.
    ///
    /// # Errors
    /// When the name is none.
    pub fn of_own(
        scope: &Scope,
        writing: &Writing,
        incarnation: Incarnation,
        (name, size): (SegmentName, SegmentSize),
        raw: Bytes,
    ) -> Result<Self> {
        let (digest, file) = (Sha256Digest::of(&raw), name.segment.name(size));
        let compressing = Compressing::start(raw, writing.compression_level);
        let name = SegmentName { digest: digest.short(), ..name };
        let described = Described {
            file,
            digest,
            incarnation,
            object: Box::new(move |suffix| name.text(size, suffix)),
            carry: None,
            warnings: Vec::new(),
            identity: None,
            unfinished: None,
            pages: None,
        };
        Self::new(scope, described, compressing)
    }

    /// The history of `timeline`, received from the cluster with this identity.
    ///
    /// # Errors
    /// When it is none.
    pub fn of_history(scope: &Scope, writing: &Writing, timeline: TimelineId, raw: Bytes, identity: Identity) -> Result<Self> {
        let compressing = Compressing::start(raw.clone(), writing.compression_level);
        let name = history::file_name(timeline);
        let described = history(Path::new(&name), timeline, &raw, identity.incarnation.clone(), Some(identity))?;
        Self::new(scope, described, compressing)
    }

    fn new(scope: &Scope, described: Described, compressing: Compressing) -> Result<Self> {
        let Described { file, digest, incarnation, object, carry, warnings, identity, pages, .. } = described;
        let named = Named::new(&scope.source, incarnation, &file, digest)
            .ok_or_else(|| Error::usage(format!("{file} is no file that PostgreSQL archives")))?;
        Ok(Self { named, object, carry, warnings, identity, compressing, streamed: None, pages })
    }
}

fn segment(
    file: &Path,
    name: &str,
    raw: &[u8],
    carry_into: impl Fn(&Incarnation, Segment, SegmentSize) -> Carry,
) -> Result<Described> {
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
    let carry = carry_into(&incarnation, segment, size);
    let read = |carry: &Carry| {
        let mut touched = Touched::default();
        let summary = summarise_with(segment, size, raw, carry, |record| touched.note(record))?;
        Ok::<_, WalError>((summary, touched))
    };
    let read = match read(&carry) {
        Err(error) if error.is_carry_mismatch() => read(&Carry::Unknown),
        outcome => outcome,
    };
    let mut touched = None;
    let (summary, warning) = match read {
        Ok((summary, pages)) => {
            touched = summary.is_complete().then_some(pages);
            (Some(summary), None)
        }
        // What cannot be interpreted is archived all the same, with unknown times: nothing may wedge the archiver.
        Err(error @ WalError::Malformed { .. }) => (None, Some(format!("{name} is archived without its times: {error}"))),
        Err(error) => return Err(refuse(error)),
    };
    let warning = warning.or_else(|| damage(name, summary.as_ref()?));
    let ends_early = summary.as_ref().is_some_and(|summary| matches!(summary.end.stop, Stop::EndOfLog { .. }));
    let digest = Sha256Digest::of(raw);
    let pages = touched.map(|touched| Kept::of(segment, size, &incarnation, digest, &touched));
    let object_name = object_name(segment, summary.as_ref(), digest);
    let carry = summary.map_or(Carry::Unknown, |summary| summary.end.carry);
    Ok(Described {
        file: name.to_owned(),
        digest,
        object: Box::new(move |suffix| object_name.text(size, suffix)),
        warnings: warning.into_iter().collect(),
        carry: Some((carry, segment.next().name(size))),
        identity: Some(identity_of(u32::from(header.major_version), header.system_identifier, size)),
        incarnation,
        unfinished: ends_early.then_some((segment, size)),
        pages,
    })
}

/// A standby whose archive gave it what was streamed of a segment may hand that over for the segment (`archive_mode =
/// always`), with zeros where the rest is still to come: the primary's would never be admitted beside it. It may have come
/// from another repository than this one, so a server that recovers, which hands over nothing else that ends early, is
/// believed as well as the pieces here. Where a timeline was left in the segment there is no rest, and it is what PostgreSQL
/// itself archives as `.partial` then.
async fn unless_a_part(
    scope: &Scope,
    file: &Path,
    described: Described,
    segment: Segment,
    size: SegmentSize,
) -> Result<Described> {
    let (repository, incarnation, name) = (&scope.repository, &described.incarnation, &described.file);
    let pieces = tail::load_segment(repository, &scope.source, incarnation, segment, size).await?;
    let prefix = format!("{}{name}_", layout::log_timeline(&scope.source, incarnation, segment.timeline));
    let whole = list_all(repository.store(), &prefix, None).await?;
    if whole.iter().any(|object| object.key.contains(&described.digest.short())) {
        return Ok(described);
    }
    if !was_left_in(file, segment, size)? {
        if pieces.is_empty() && !is_recovering(file) {
            return Ok(described);
        }
        return Err(Error::failed(format!("{} holds only what was streamed of it so far", file.display()))
            .hint("PostgreSQL archives it again once it is complete; nothing was stored"));
    }
    let (partial, short) = (format!("{name}.partial"), described.digest.short());
    let own = partial.clone();
    let object: ObjectName = Box::new(move |suffix| name::auxiliary_text(&own, &short, suffix));
    Ok(Described { file: partial, object, carry: None, warnings: Vec::new(), pages: None, ..described })
}

/// Whether the server whose log `file` is a part of recovers, or is a standby.
fn is_recovering(file: &Path) -> bool {
    let control = data_directory_of(file).and_then(|dir| ControlFile::read(dir).ok());
    control.is_some_and(|control| matches!(control.state, ClusterState::ArchiveRecovery | ClusterState::ShutDownInRecovery))
}

/// The directory two above `file`, of a cluster when `file` is of its log.
fn data_directory_of(file: &Path) -> Option<&Path> {
    file.parent().filter(|dir| dir.parent().is_some()).map(durable::directory_of)
}

/// Whether a history beside `file` says that the timeline of `segment` was left before the segment's end.
fn was_left_in(file: &Path, segment: Segment, size: SegmentSize) -> Result<bool> {
    let directory = durable::directory_of(file);
    let listed = fs::read_dir(directory).map_err(|error| Error::io("read", directory, error))?;
    let names = listed.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    for name in names {
        let Some(timeline) = history::parse_file_name(&name) else { continue };
        let path = directory.join(&name);
        let raw = match fs::read(&path) {
            Ok(raw) => raw,
            // Removed since it was listed.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::io("read", &path, error)),
        };
        let history = History::parse(timeline, &raw).map_err(|error| error.context(path.display()))?;
        if history.switch_point(segment.timeline).is_some_and(|left| left < segment.end(size)) {
            return Ok(true);
        }
    }
    Ok(false)
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

fn history(
    file: &Path,
    timeline: TimelineId,
    raw: &[u8],
    incarnation: Incarnation,
    identity: Option<Identity>,
) -> Result<Described> {
    let parent = History::parse(timeline, raw).map_err(|error| error.context(file.display()))?.parent().cloned();
    let parent = parent.ok_or_else(|| Error::failed(format!("{} names no parent timeline", file.display())))?;
    let digest = Sha256Digest::of(raw);
    let name = HistoryName { timeline, parent: parent.timeline, switch_lsn: parent.switch_lsn, digest: digest.short() };
    Ok(Described {
        file: history::file_name(timeline),
        digest,
        object: Box::new(move |suffix| name.text(suffix)),
        carry: None,
        warnings: Vec::new(),
        identity,
        incarnation,
        unfinished: None,
        pages: None,
    })
}

async fn auxiliary(scope: &Scope, file: &Path, name: &str, raw: &[u8]) -> Result<Described> {
    let (incarnation, identity) = cluster_of(scope, file).await?;
    let digest = Sha256Digest::of(raw);
    let (own, short) = (name.to_owned(), digest.short());
    Ok(Described {
        file: name.to_owned(),
        digest,
        object: Box::new(move |suffix| name::auxiliary_text(&own, &short, suffix)),
        carry: None,
        warnings: Vec::new(),
        identity,
        incarnation,
        unfinished: None,
        pages: None,
    })
}

/// The incarnation of a file that does not say, and its identity where it can be told: that of the cluster whose
/// `pg_wal` holds the file, else the only one on record.
async fn cluster_of(scope: &Scope, file: &Path) -> Result<(Incarnation, Option<Identity>)> {
    if let Some(identity) = data_directory_of(file).and_then(identity_of_data_directory) {
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

pub(super) fn identity_of(major_version: u32, system_identifier: u64, segment_bytes: SegmentSize) -> Identity {
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
