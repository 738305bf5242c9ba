//! Which backup to restore and where its replay must stop.
//!
//! For a moment T the transaction ends on the chosen path of timelines are looked through from each candidate's redo,
//! newest candidate first, and the first one is taken whose own end lies at or before the result. A backup that began
//! after T is no candidate, wherever the first later end lies: it may hold what was committed between T and its redo,
//! and no record after its redo would tell. PostgreSQL stops before the first COMMIT or ABORT in log order whose time is after T; so recovery
//! is told that record's start, exclusive, and when there is none the start of the last complete record, inclusive.
//! Nothing here touches the target directory.

use crate::base::{BackupId, Error, Incarnation, Lsn, Result, Segment, TimelineId, Timestamp};
use crate::engine::timeline::{Run, TimelinePath};
use crate::engine::window::{Window, latest_end, window};
use crate::repo::BackupSummary;
use crate::repo::log::LogCatalog;
use crate::source::postgres::wal::Event;

use super::search::{Hit, LastRecord, LogReader, Search};
use super::{Target, refuse};

/// What a plan is made from.
pub struct Situation<'a> {
    /// The source's name, for messages.
    pub source: &'a str,
    /// Backups of one incarnation.
    pub backups: Vec<&'a BackupSummary>,
    /// The incarnation.
    pub incarnation: &'a Incarnation,
    /// Its archived log.
    pub catalog: &'a LogCatalog,
    /// The way to the chosen timeline.
    pub path: TimelinePath,
    /// Whether the operator chose it, or the backup; else it is the newest.
    pub timeline_chosen: bool,
}

/// Where replay stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoveryStop {
    /// As soon as the backup is consistent.
    Immediate,
    /// At a record.
    Record {
        /// The record's first byte.
        lsn: Lsn,
        /// Whether it is replayed.
        inclusive: bool,
    },
}

/// What a restore will do.
#[derive(Clone, Debug, PartialEq)]
pub struct RestorePlan {
    /// The backup.
    pub backup: BackupSummary,
    /// Why this one, for people.
    pub because: String,
    /// The timeline that replay follows.
    pub timeline: TimelineId,
    /// Where replay stops.
    pub stop: RecoveryStop,
    /// Where replay stands then: the end of the last record that is replayed.
    pub consistent_at: Lsn,
    /// Time of the last transaction end that is replayed, where it is known.
    pub reaches: Option<Timestamp>,
    /// Time of the first transaction end that is not replayed any more.
    pub leaves_out: Option<Timestamp>,
    /// Segments to replay, in order.
    pub segments: Vec<Segment>,
    /// Whether one of them is there in pieces only: then the log has to be fetched from this repository, since another one
    /// that does not answer may have more of it.
    pub needs_pieces: bool,
    /// Names of segments whose pieces are not used, or `NAME:BYTES` where only so many bytes of them are: the server may ask
    /// for what comes after its target, and is told that it is not there.
    pub without_pieces_of: Vec<String>,
    /// Their stored size in bytes.
    pub log_stored_bytes: u64,
    /// Bytes of log between the backup's start and the stop.
    pub replay_bytes: u64,
    /// What the operator should know.
    pub notes: Vec<String>,
}

/// The default timeline: the newest one that is archived or has a backup.
///
/// # Errors
/// When nothing was archived.
pub fn newest_timeline(backups: &[&BackupSummary], catalog: &LogCatalog) -> Option<TimelineId> {
    backups.iter().map(|backup| backup.timeline).chain(catalog.timelines()).max()
}

/// A candidate: a backup on the path, with the log that follows it.
struct Candidate<'a> {
    backup: &'a BackupSummary,
    run: Run,
}

/// A place found for a target.
struct Found {
    stop: RecoveryStop,
    /// The record's first byte, or the backup's stop.
    position: Lsn,
    /// Position that must be at or after the backup's stop.
    consistent_at: Lsn,
    reaches: Option<Timestamp>,
    leaves_out: Option<Timestamp>,
}

/// Makes the plan for `target`, with `only` that backup when given.
///
/// # Errors
/// When the target cannot be reached: says why, and the nearest moments that can.
pub async fn plan(
    situation: &Situation<'_>,
    target: &Target,
    only: Option<&BackupId>,
    reader: &dyn LogReader,
) -> Result<RestorePlan> {
    let window = window(situation.backups.iter().copied(), situation.catalog, &situation.path);
    let candidates = candidates(situation, only, &window)?;
    let mut reasons = Vec::new();
    for backup in &candidates {
        if began_too_late(backup, target) {
            reasons.push(*backup);
            continue;
        }
        // One run at a time: each may be as long as the log.
        let candidate = &Candidate { backup, run: situation.path.run(situation.catalog, backup.start_lsn) };
        let Some(found) = locate(situation, candidate, target, reader).await? else { continue };
        if found.consistent_at < backup.stop_lsn {
            reasons.push(*backup);
            continue;
        }
        let newest = candidates.first().is_some_and(|first| first.id == backup.id);
        let because = match (only.is_some(), newest) {
            (true, _) => "it was asked for",
            (false, true) => "the newest backup on the timeline",
            (false, false) => "the newest backup that ends at or before the target",
        };
        let plan = finish(situation, candidate, found, because);
        return match refuse::later_elsewhere(situation, target, &plan) {
            Some(refusal) if !situation.timeline_chosen => Err(refusal),
            _ => Ok(plan),
        };
    }
    Err(refuse::refuse(situation, target, &window, candidates, &reasons))
}

/// Whether a backup may hold what came after the target.
fn began_too_late(backup: &BackupSummary, target: &Target) -> bool {
    match target {
        Target::Time(time) => *time < backup.start_time,
        Target::Lsn { lsn, .. } => *lsn < backup.stop_lsn,
        Target::Latest | Target::Xid { .. } | Target::Name(_) | Target::Immediate => false,
    }
}

/// Restorable backups on the path, newest first.
fn candidates<'a>(situation: &Situation<'a>, only: Option<&BackupId>, window: &Window) -> Result<Vec<&'a BackupSummary>> {
    let mut backups: Vec<&BackupSummary> = situation.backups.clone();
    if let Some(id) = only {
        backups.retain(|backup| backup.id == *id);
        let Some(backup) = backups.first() else {
            return Err(Error::failed(format!("{} has no backup {id} of {}", situation.source, situation.incarnation))
                .hint(format!("lifeboat list {}   shows what there is", situation.source)));
        };
        if !situation.path.contains(backup.timeline, backup.stop_lsn) {
            return Err(refuse::abandoned(situation, backup));
        }
    }
    backups.sort_by_key(|backup| std::cmp::Reverse(backup.stop_lsn));
    backups.retain(|backup| situation.path.serves(situation.catalog, backup));
    match backups.is_empty() {
        true => Err(refuse::nothing_restorable(situation, window)),
        false => Ok(backups),
    }
}

/// Where replay from `candidate` would stop for `target`; `None` when its log does not hold the target.
async fn locate(
    situation: &Situation<'_>,
    candidate: &Candidate<'_>,
    target: &Target,
    reader: &dyn LogReader,
) -> Result<Option<Found>> {
    let size = situation.path.segment_size();
    let mut search = Search::new(reader, &candidate.run, size);
    match target {
        Target::Immediate => Ok(Some(Found {
            stop: RecoveryStop::Immediate,
            position: candidate.backup.stop_lsn,
            consistent_at: candidate.backup.stop_lsn,
            reaches: None,
            leaves_out: None,
        })),
        Target::Latest => {
            let last = search.last_record().await?;
            Ok(last.map(|last| at_last_record(situation, candidate, last)))
        }
        Target::Time(time) => locate_time(situation, candidate, *time, &mut search).await,
        Target::Lsn { lsn, inclusive } => {
            let first = |segment: Segment| segment.end(size) > *lsn;
            let hit = search.first(first, |start, _| start >= *lsn).await?;
            Ok(hit.map(|hit| at_hit(hit, *inclusive)))
        }
        Target::Xid { xid, inclusive } => {
            // Only the low half is in the log; PostgreSQL compares it alone, too.
            let wanted = (*xid & 0xFFFF_FFFF) as u32;
            let hit = search.first(|_| true, |_, event| matches!(event, Event::TransactionEnd(end) if end.xid == wanted)).await?;
            Ok(hit.map(|hit| at_hit(hit, *inclusive)))
        }
        Target::Name(name) => locate_name(situation, name, &mut search).await,
    }
}

async fn locate_time(
    situation: &Situation<'_>,
    candidate: &Candidate<'_>,
    time: Timestamp,
    search: &mut Search<'_>,
) -> Result<Option<Found>> {
    let may_end_later = |segment: Segment| {
        use crate::repo::log::CommitTime;
        situation.catalog.segments.get(&segment).is_none_or(|object| match object.name.last {
            CommitTime::None => false,
            CommitTime::Unknown => true,
            // With the first time unknown a later end may hide in the record that straddles in.
            CommitTime::At(last) => last > time || object.name.first == CommitTime::Unknown,
        })
    };
    let later = |_: Lsn, event: &Event| matches!(event, Event::TransactionEnd(end) if end.time > time);
    if let Some(hit) = search.first(may_end_later, later).await? {
        let reaches = hit.end_before.or_else(|| latest_before(situation, candidate, hit.start));
        let leaves_out = hit.event.time();
        return Ok(Some(Found { reaches, leaves_out, ..at_hit(hit, false) }));
    }
    // Nothing ended after T: everything archived belongs to it, if the archive is known to reach T.
    let Some(last) = search.last_record().await? else { return Ok(None) };
    // A standby's clock runs ahead of what it has replayed: it is no witness of what the primary had committed by then.
    let stopped = Some(candidate.backup.stop_time).filter(|_| !candidate.backup.from_standby);
    let known = [last.evidence, latest_end(&candidate.run, situation.catalog), stopped];
    let reached = known.into_iter().flatten().max().is_some_and(|known| time <= known);
    Ok(reached.then(|| at_last_record(situation, candidate, last)))
}

async fn locate_name(situation: &Situation<'_>, name: &str, search: &mut Search<'_>) -> Result<Option<Found>> {
    let mut found: Vec<(Lsn, Timestamp)> = Vec::new();
    // Every one of that name is looked for: two of them would be a trap.
    search
        .first(
            |_| true,
            |start, event| {
                if let Event::RestorePoint { name: point, time } = event
                    && point == name
                {
                    found.push((start, *time));
                }
                false
            },
        )
        .await?;
    match found.as_slice() {
        [] => Ok(None),
        [(lsn, _)] => {
            let lsn = *lsn;
            let hit = search.first(|segment| segment.end(situation.path.segment_size()) > lsn, |start, _| start == lsn).await?;
            Ok(hit.map(|hit| at_hit(hit, true)))
        }
        several => Err(refuse::ambiguous_name(situation, name, several)),
    }
}

fn at_hit(hit: Hit, inclusive: bool) -> Found {
    let own = hit.event.time().filter(|_| matches!(hit.event, Event::TransactionEnd(_)));
    let (reaches, leaves_out) = if inclusive { (own.or(hit.end_before), None) } else { (hit.end_before, own) };
    Found {
        stop: RecoveryStop::Record { lsn: hit.start, inclusive },
        position: hit.start,
        consistent_at: if inclusive { hit.end } else { hit.start },
        reaches,
        leaves_out,
    }
}

fn at_last_record(situation: &Situation<'_>, candidate: &Candidate<'_>, last: LastRecord) -> Found {
    Found {
        stop: RecoveryStop::Record { lsn: last.start, inclusive: true },
        position: last.start,
        consistent_at: last.end,
        reaches: last.latest_end.max(latest_end(&candidate.run, situation.catalog)),
        leaves_out: None,
    }
}

/// The latest transaction end before `position` that the names of the earlier segments tell.
fn latest_before(situation: &Situation<'_>, candidate: &Candidate<'_>, position: Lsn) -> Option<Timestamp> {
    let size = situation.path.segment_size();
    let earlier = candidate.run.segments.iter().filter(|segment| segment.end(size) <= position);
    earlier.filter_map(|segment| situation.catalog.segments.get(segment)?.name.last.known()).max()
}

fn finish(situation: &Situation<'_>, candidate: &Candidate<'_>, found: Found, because: &str) -> RestorePlan {
    let size = situation.path.segment_size();
    let (backup, run) = (candidate.backup, &candidate.run);
    // The record at the stop may straddle into the next segment; PostgreSQL reads it before it decides.
    let needed = |segment: &&Segment| segment.start(size) < found.consistent_at.max(found.position.plus(1));
    let segments: Vec<Segment> = run.segments.iter().filter(needed).copied().collect();
    let log_stored_bytes =
        segments.iter().filter_map(|segment| Some(situation.catalog.segments.get(segment)?.stored_bytes)).sum();
    RestorePlan {
        backup: backup.clone(),
        because: because.to_owned(),
        // Recovery follows the timeline it ends on: PostgreSQL calls the target the parent of the new timeline.
        timeline: segments.last().map_or(backup.timeline, |last| last.timeline),
        stop: found.stop,
        consistent_at: found.consistent_at,
        reaches: found.reaches,
        leaves_out: found.leaves_out,
        needs_pieces: segments.iter().any(|segment| situation.catalog.tail.contains_key(segment)),
        segments,
        without_pieces_of: Vec::new(),
        log_stored_bytes,
        replay_bytes: found.position.bytes_since(backup.start_lsn),
        notes: refuse::abandoned_commits(situation, found.reaches),
    }
}
