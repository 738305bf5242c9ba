//! The first commit beyond the archived log: read from the server's own `pg_wal`, else from what object names tell.
//!
//! An idle server writes checkpoints and snapshots of running transactions past the last archived segment, so positions
//! alone cannot tell whether anything would be lost. A PREPARE counts as a commit: a client may have been told of it.
//! What cannot be read is never taken for nothing.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::base::{Lsn, Segment, SegmentSize, TimelineId, Timestamp};
use crate::source::postgres::history::{self, History};
use crate::source::postgres::wal::{Carry, Event, LONG_HEADER_BYTES, SegmentHeader, Stop, scan, summarise};

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

/// What one segment holds from some position on.
enum Found {
    Commit(Timestamp),
    /// No commit up to its end; what straddles into the next.
    Nothing(Carry),
    /// No commit, and the log ends in it.
    End,
    /// It cannot be read: why.
    Unreadable(String),
}

/// What would be lost beyond `reached`. `named` tells what some repository knows of a segment by its name.
pub fn exposure(own: &OwnLog, reached: Reached, named: impl Fn(u64) -> Option<FirstCommit>) -> Exposure {
    match found(own, reached, named) {
        Exposure::Nothing if !own.is_whole => Exposure::AtMostSince {
            frontier: reached.time,
            why: "a standby does not know what its primary has committed".to_owned(),
        },
        exposure => exposure,
    }
}

fn found(own: &OwnLog, reached: Reached, named: impl Fn(u64) -> Option<FirstCommit>) -> Exposure {
    let bound = |why: String| Exposure::AtMostSince { frontier: reached.time, why };
    if own.timeline < reached.timeline {
        return bound(format!("the server writes timeline {}, the archive goes on with {}", own.timeline, reached.timeline));
    }
    let from = branched_before(own, reached);
    let header_bytes = if from.0.is_multiple_of(own.size.bytes()) { LONG_HEADER_BYTES as u64 } else { 0 };
    if own.end_lsn.is_some_and(|end| end.0 <= from.0 + header_bytes) {
        return Exposure::Nothing;
    }
    let mut carry = straddling(own, from);
    let mut read_before = false;
    for number in from.0 / own.size.bytes().. {
        let segment = Segment { timeline: own.timeline, number };
        if own.end_lsn.is_some_and(|end| segment.start(own.size) >= end) {
            return Exposure::Nothing;
        }
        match look(own, segment, from, &carry) {
            Found::Commit(time) => return Exposure::Since(time),
            Found::Nothing(next) => (carry, read_before) = (next, true),
            Found::End => return Exposure::Nothing,
            // A server that is down cannot say where its log ends: there.
            Found::Unreadable(_) if own.end_lsn.is_none() && read_before => return Exposure::Nothing,
            Found::Unreadable(why) => match named(number) {
                Some(FirstCommit::At(time)) => return Exposure::Since(time),
                Some(FirstCommit::None) => carry = Carry::Unknown,
                Some(FirstCommit::Unknown) | None => return bound(why),
            },
        }
    }
    Exposure::Nothing
}

/// Where the server's log and the archive's part: the archive's end, unless the server left its timeline before that.
fn branched_before(own: &OwnLog, reached: Reached) -> Lsn {
    let Some(directory) = own.directory.as_ref().filter(|_| own.timeline > reached.timeline) else { return reached.end_lsn };
    let content = fs::read(directory.join(history::file_name(own.timeline))).ok();
    let history = content.and_then(|content| History::parse(own.timeline, &content).ok());
    let left = history.and_then(|history| history.switch_point(reached.timeline));
    left.map_or(reached.end_lsn, |left| left.min(reached.end_lsn))
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

fn look(own: &OwnLog, segment: Segment, from: Lsn, carry: &Carry) -> Found {
    let name = segment.name(own.size);
    let bytes = match read(own, segment) {
        Ok(bytes) => bytes,
        Err(why) => return Found::Unreadable(why),
    };
    // One that was recycled under a later name, or under this one, still holds what it held before.
    let header = SegmentHeader::parse(&bytes).ok().filter(|header| header.start == segment.start(own.size));
    let Some(header) = header.filter(|header| header.system_identifier == own.system_identifier) else {
        return Found::Unreadable(format!("{name} on the server is not what its name says"));
    };
    let found = scan(segment, own.size, &bytes, carry, |record, event| match event {
        Event::TransactionEnd(end) if end.kind.is_commit() && record.start >= from => ControlFlow::Break(end.time),
        Event::Prepare(prepare) if record.start >= from => ControlFlow::Break(prepare.time),
        _ => ControlFlow::Continue(()),
    });
    let head_lost = header.continued_bytes > 0 && *carry == Carry::Unknown && segment.start(own.size) >= from;
    match found {
        Ok(_) if head_lost => Found::Unreadable(format!("what straddles into {name} is not on the server any more")),
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
    }
}

fn read(own: &OwnLog, segment: Segment) -> Result<Vec<u8>, String> {
    let Some(directory) = &own.directory else { return Err("the server's pg_wal cannot be read from here".to_owned()) };
    let path = |timeline: TimelineId| directory.join(Segment { timeline, ..segment }.name(own.size));
    let is_there = |path: &PathBuf| path.exists();
    // The beginning of a branch's first segment is its parent's, under the parent's name as well.
    let older = (1..own.timeline.0).rev().map(|timeline| path(TimelineId(timeline)));
    let path = [path(own.timeline)].into_iter().chain(older).find(is_there).unwrap_or_else(|| path(own.timeline));
    fs::read(&path).map_err(|error| format!("{} cannot be read: {error}", shown(&path)))
}

fn shown(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| format!("pg_wal/{}", name.to_string_lossy()))
}
