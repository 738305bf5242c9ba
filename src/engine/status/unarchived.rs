//! The first commit beyond the archived log: read from the server's own `pg_wal`, else from what object names tell.
//!
//! An idle server writes checkpoints and snapshots of running transactions past the last archived segment, so positions
//! alone cannot tell whether anything would be lost. A PREPARE counts as a commit: a client may have been told of it.
//! What cannot be read is never taken for nothing, and what is certainly lost is told even where the first of it is not known.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::base::{Lsn, Segment, SegmentSize, TimelineId, Timestamp};
use crate::source::postgres::control::{ClusterState, ControlFile};
use crate::source::postgres::history::{self, History};
use crate::source::postgres::wal::{Carry, Event, LONG_HEADER_BYTES, SegmentEnd, SegmentHeader, Stop, WalError, scan, summarise};

use super::rpo::{Exposure, FirstCommit};

/// A server's own log, as far as this process can read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnLog {
    /// The directory `pg_wal`; none when it is not known where, or whether it is the server's.
    pub directory: Option<PathBuf>,
    /// The cluster it must be of.
    pub system_identifier: u64,
    /// The timeline that the server writes.
    pub timeline: TimelineId,
    /// Where the server's log ended before anything was read; none when the server does not answer.
    pub end_lsn: Option<Lsn>,
    /// Whether what is not in it was not committed; a standby's is not.
    pub is_whole: bool,
    /// Size of its segments.
    pub size: SegmentSize,
}

/// The log of a server that does not answer, as its data directory shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SilentLog {
    /// Its `pg_wal`.
    pub directory: PathBuf,
    /// The newest timeline that the cluster is known to have been on.
    pub timeline: TimelineId,
    /// Whether it was stopped, or died, as a standby.
    pub is_standby: bool,
}

impl SilentLog {
    /// That of the cluster in `data`; none when its control file cannot be read.
    pub fn of(data: &Path) -> Option<Self> {
        let control = ControlFile::read(data).ok()?;
        Some(Self {
            directory: data.join("pg_wal"),
            // After a promotion the checkpoint's is the old one for a while.
            timeline: control.min_recovery_timeline.map_or(control.timeline, |timeline| timeline.max(control.timeline)),
            is_standby: matches!(control.state, ClusterState::ShutDownInRecovery | ClusterState::ArchiveRecovery),
        })
    }
}

/// Where an archive's reach ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    /// The timeline it follows.
    pub timeline: TimelineId,
    /// One past its last byte.
    pub end_lsn: Lsn,
    /// Everything committed by then is there.
    pub time: Timestamp,
}

/// What the name of an archived segment tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// The first commit in it.
    pub first: FirstCommit,
    /// A moment by which something in it was committed, where that is certain.
    pub committed_by: Option<Timestamp>,
}

/// What is known of the log beside the server's files.
pub struct Known<C> {
    /// The archived segments on the archive's path, by their numbers.
    pub named: BTreeMap<u64, Named>,
    /// What straddles into a segment, as this host remembers it of the segment before.
    pub carry_into: C,
}

/// What one segment holds from some position on.
enum Found {
    Commit(Timestamp),
    /// No commit up to its end; what straddles into the next.
    Nothing(Carry),
    /// No commit, and the log ends in it.
    End,
    /// It is not there: why that is known.
    Missing(String),
    /// It cannot be read: why.
    Unreadable(String),
}

/// One segment, looked at.
struct Looked {
    found: Found,
    /// Why it is not known whether the record that straddles into it is a commit.
    head_lost: Option<String>,
}

impl Looked {
    fn whole(found: Found) -> Self {
        Self { found, head_lost: None }
    }
}

/// What would be lost beyond `reached`.
pub fn exposure<C: Fn(Segment) -> Option<Carry>>(own: &OwnLog, reached: Reached, known: &Known<C>) -> Exposure {
    match found(own, reached, known) {
        Exposure::Nothing if !own.is_whole => Exposure::AtMostSince {
            frontier: reached.time,
            why: "a standby does not know what its primary has committed".to_owned(),
            lost: None,
        },
        exposure => exposure,
    }
}

fn found<C: Fn(Segment) -> Option<Carry>>(own: &OwnLog, reached: Reached, known: &Known<C>) -> Exposure {
    let bound = |why: String, lost: Option<Timestamp>| Exposure::AtMostSince { frontier: reached.time, why, lost };
    if own.timeline < reached.timeline {
        let why = format!("the server writes timeline {}, the archive goes on with {}", own.timeline, reached.timeline);
        return bound(why, None);
    }
    let Some((from, left)) = parting(own, reached) else {
        let why =
            format!("the server writes timeline {}, and where it left {} is not known here", own.timeline, reached.timeline);
        return bound(why, None);
    };
    let header_bytes = if from.0.is_multiple_of(own.size.bytes()) { LONG_HEADER_BYTES as u64 } else { 0 };
    if own.end_lsn.is_some_and(|end| end.0 <= from.0 + header_bytes) {
        return Exposure::Nothing;
    }
    // What was archived of a timeline after the server left it is not the server's log.
    let named = |segment: Segment| {
        let is_own = left.is_none_or(|left| segment.end(own.size) <= left);
        known.named.get(&segment.number).filter(|_| is_own)
    };
    let last_named = known.named.keys().next_back().copied().unwrap_or_default();
    let mut carry = straddling(own, from);
    let mut read_before = false;
    // Set once part of the log is not known: what is found after that is certainly lost, but perhaps not the first.
    let mut unknown: Option<String> = None;
    for number in from.0 / own.size.bytes().. {
        let segment = Segment { timeline: own.timeline, number };
        if own.end_lsn.is_some_and(|end| segment.start(own.size) >= end) {
            return unknown.map_or(Exposure::Nothing, |why| bound(why, None));
        }
        let Looked { found, head_lost } = look(own, segment, from, &carry, &known.carry_into);
        let named = named(segment);
        let first = named.map(|named| named.first);
        match (head_lost, first) {
            (Some(_), Some(FirstCommit::At(time))) if unknown.is_none() => return Exposure::Since(time),
            (Some(why), Some(FirstCommit::Unknown) | None) => _ = unknown.get_or_insert(why),
            _ => {}
        }
        carry = Carry::Unknown;
        match (found, first) {
            (Found::Commit(time), _) => return unknown.map_or(Exposure::Since(time), |why| bound(why, Some(time))),
            (Found::Nothing(next), _) => (carry, read_before) = (next, true),
            (Found::End, _) => return unknown.map_or(Exposure::Nothing, |why| bound(why, None)),
            (Found::Missing(_) | Found::Unreadable(_), Some(FirstCommit::At(time))) if unknown.is_none() => {
                return Exposure::Since(time);
            }
            (Found::Missing(_) | Found::Unreadable(_), Some(FirstCommit::None)) => {}
            // A server that is down cannot say where its log ends: there.
            (Found::Missing(_), None) if own.end_lsn.is_none() && read_before && unknown.is_none() => return Exposure::Nothing,
            (Found::Missing(why) | Found::Unreadable(why), _) => {
                let why = unknown.get_or_insert(why);
                let lost = named.and_then(|named| named.committed_by);
                if lost.is_some() || (own.end_lsn.is_none() && number >= last_named) {
                    return bound(why.clone(), lost);
                }
            }
        }
    }
    Exposure::Nothing
}

/// Where the server's log and the archive's part, and where the server left the archive's timeline if it did; none when
/// that is not known.
fn parting(own: &OwnLog, reached: Reached) -> Option<(Lsn, Option<Lsn>)> {
    if own.timeline == reached.timeline {
        return Some((reached.end_lsn, None));
    }
    let content = fs::read(own.directory.as_ref()?.join(history::file_name(own.timeline))).ok()?;
    let left = History::parse(own.timeline, &content).ok()?.switch_point(reached.timeline)?;
    Some((left.min(reached.end_lsn), Some(left)))
}

/// What straddles out of the segment before `from`, where that begins a segment and the one before it is still there.
fn straddling(own: &OwnLog, from: Lsn) -> Carry {
    let before = Segment::ending_at(own.timeline, from, own.size);
    if before.end(own.size) != from {
        return Carry::Unknown;
    }
    let read = read(own, before).ok();
    let summary = read.and_then(|bytes| summarise(before, own.size, &bytes, &Carry::Unknown).ok());
    summary.map_or(Carry::Unknown, |summary| summary.end.carry)
}

fn look(own: &OwnLog, segment: Segment, from: Lsn, carry: &Carry, carry_into: impl Fn(Segment) -> Option<Carry>) -> Looked {
    let name = segment.name(own.size);
    let bytes = match read(own, segment) {
        Ok(bytes) => bytes,
        Err(found) => return Looked::whole(found),
    };
    // One that was recycled under a later name, or under this one, still holds what it held before.
    let header = SegmentHeader::parse(&bytes).ok().filter(|header| header.start == segment.start(own.size));
    let Some(header) = header.filter(|header| header.system_identifier == own.system_identifier) else {
        return Looked::whole(Found::Missing(format!("{name} on the server is not what its name says")));
    };
    let search = |carry: &Carry| {
        scan(segment, own.size, &bytes, carry, |record, event| match event {
            Event::TransactionEnd(end) if end.kind.is_commit() && record.end > from => ControlFlow::Break(end.time),
            Event::Prepare(prepare) if record.end > from => ControlFlow::Break(prepare.time),
            _ => ControlFlow::Continue(()),
        })
    };
    // What is remembered may be of another life of the cluster: it counts when the record's checksum bears it out.
    let is_borne_out = |found: &Result<ControlFlow<Timestamp, SegmentEnd>, WalError>| match found {
        Ok(ControlFlow::Break(_)) => true,
        Ok(ControlFlow::Continue(end)) => end.valid_end >= segment.start(own.size),
        Err(_) => false,
    };
    let is_headless = header.continued_bytes > 0 && *carry == Carry::Unknown && segment.start(own.size) >= from;
    let remembered = is_headless.then(|| carry_into(segment)).flatten();
    let remembered = remembered.filter(|carry| matches!(carry, Carry::Partial { .. }));
    let with_head = remembered.map(|carry| search(&carry)).filter(is_borne_out);
    let head_lost = is_headless && with_head.is_none();
    let found = match with_head.unwrap_or_else(|| search(carry)) {
        Ok(ControlFlow::Break(time)) => Found::Commit(time),
        Ok(ControlFlow::Continue(end)) => match end.stop {
            Stop::SegmentEnd => Found::Nothing(end.carry),
            // The server as well takes damage for the end of its log.
            _ if own.end_lsn.is_none() => Found::End,
            // Everything before that end was written before it was asked for, but for a record that is only begun.
            Stop::EndOfLog { at, .. } | Stop::Damaged { at, .. } if own.end_lsn.is_some_and(|end| at >= end) => Found::End,
            Stop::EndOfLog { .. } if own.end_lsn.is_some_and(|end| end <= segment.end(own.size)) => Found::End,
            Stop::EndOfLog { at, fault } | Stop::Damaged { at, fault } => {
                Found::Unreadable(format!("{name} cannot be read beyond {at}: {fault}"))
            }
        },
        Err(error) => Found::Unreadable(format!("{name}: {error}")),
    };
    let why = || format!("what straddles into {name} is not on the server any more");
    Looked { found, head_lost: head_lost.then(why) }
}

/// The segment's bytes; else why there are none.
fn read(own: &OwnLog, segment: Segment) -> Result<Vec<u8>, Found> {
    let unreadable = || Found::Unreadable("the server's pg_wal cannot be read from here".to_owned());
    let directory = own.directory.as_ref().ok_or_else(unreadable)?;
    // The beginning of a branch's first segment is its parent's, under the parent's name as well.
    for timeline in (1..=own.timeline.0).rev() {
        let name = Segment { timeline: TimelineId(timeline), ..segment }.name(own.size);
        match fs::read(directory.join(&name)) {
            Ok(bytes) => return Ok(bytes),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(Found::Unreadable(format!("pg_wal/{name} cannot be read: {error}"))),
        }
    }
    Err(Found::Missing(format!("pg_wal/{} is not there", segment.name(own.size))))
}

#[cfg(test)]
mod tests;
