//! The log that goes with what expires: before the floor of each incarnation, and between backups where rules say so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use super::delete::{delete, let_go, total_bytes, without_locked};
use super::rules::{self, adds, cut};
use super::survey::{Survey, in_flight, uncommitted};
use crate::base::cancel::Cancel;
use crate::base::progress::Progress;
use crate::base::{BackupId, Incarnation, Lsn, Result, SegmentSize, Timestamp};
use crate::engine::Scope;
use crate::engine::retention::Rules;
use crate::repo::commit::LogFloor;
use crate::repo::expiry::StandingLog;
use crate::repo::log::{LogCut, LogRange};
use crate::repo::{BackupSummary, CommitLog, Tombstone, layout};
use crate::store::{ObjectInfo, list_all};

/// What becomes of the log of one incarnation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogAccount {
    /// The incarnation.
    pub incarnation: Incarnation,
    /// From here on it is kept, but for the ranges.
    pub floor_lsn: Lsn,
    /// The backup whose start that is; none when it is another limit.
    pub needed_by: Option<BackupId>,
    /// What goes after that.
    pub ranges: Vec<Span>,
    /// Objects that went.
    pub deleted_objects: u64,
    /// Their bytes.
    pub deleted_bytes: u64,
    /// Objects that stay.
    pub kept_objects: u64,
    /// Those of them that nothing needs and a lock holds.
    pub locked_objects: u64,
    /// When the last of these locks ends.
    pub locked_until: Option<Timestamp>,
}

/// A stretch of log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Span {
    /// Its first byte.
    pub from: Lsn,
    /// One past its last byte.
    pub to: Lsn,
}

/// What of the log of one incarnation goes.
struct Going {
    size: SegmentSize,
    floor: Lsn,
    ranges: LogCut,
}

/// The ranges that the rules let go while exactly `remaining` stay, that are marked and due, and that let a segment go
/// which is not let go without them. A mark called `except` does not count.
pub(super) fn due_ranges(
    log: &CommitLog,
    survey: &Survey,
    remaining: Vec<&BackupSummary>,
    planned: &[LogFloor],
    rules: Rules<'_>,
    except: Option<&str>,
) -> Vec<LogRange> {
    let (verdicts, now) = (rules::judge_log(survey, remaining, rules), Timestamp::now());
    let is_due = |mark: &StandingLog| mark.due <= now && Some(mark.mark.as_str()) != except;
    let mut found = Vec::new();
    for (incarnation, catalog) in &survey.catalogs {
        let due = cut(&verdicts, incarnation, &catalog.1).and(&survey.marks.marked_log(incarnation, is_due));
        let floor = planned.iter().filter(|floor| floor.incarnation == *incarnation).map(|floor| floor.lsn).max();
        let before = log.log_cut(incarnation).or(&LogCut::before(floor.unwrap_or_default()));
        if adds(&due, &before, catalog) {
            found.extend(due.ranges(incarnation));
        }
    }
    found
}

/// Deletes, or counts, all log that goes: by the tombstones on record and by `planned`, which is one of them or would be.
///
/// It is looked at again: something may have begun since it was decided, and what does not say which log it needs needs
/// all of it. Ranges go only when the rules let them go now.
pub(super) async fn delete_all(
    scope: &Scope,
    log: &CommitLog,
    planned: &Tombstone,
    rules: Option<Rules<'_>>,
    acting: bool,
    progress: &Arc<dyn Progress>,
    cancel: &Cancel,
) -> Result<Vec<LogAccount>> {
    let (mut accounts, going): (Vec<LogAccount>, BTreeSet<&BackupId>) = (Vec::new(), planned.backups.iter().collect());
    let (new, kept): (Vec<&BackupSummary>, Vec<&BackupSummary>) = log.backups().partition(|backup| going.contains(&backup.id));
    let survey = match rules {
        Some(_) => Some(Survey::of(scope, log).await?),
        None => None,
    };
    let flying = match &survey {
        Some(survey) => survey.in_flight(),
        None => in_flight(&uncommitted(scope, log).await?),
    };
    let Some(flying) = flying else { return Ok(accounts) };
    let gone: Vec<&BackupSummary> = log.expired().chain(new).collect();
    let mut all = floors(log, &gone, &planned.log_floors, &kept, &flying);
    if let (Some(rules), Some(survey)) = (rules, &survey) {
        add_ranges(&mut all, log, survey, kept.clone(), &planned.log_ranges, rules);
    }
    for (incarnation, going) in all {
        let is_first = |backup: &&&BackupSummary| backup.incarnation == incarnation && backup.start_lsn == going.floor;
        let needed_by = kept.iter().filter(is_first).map(|backup| backup.id.clone()).min();
        accounts.push(delete_one(scope, incarnation, going, needed_by, acting, progress, cancel).await?);
    }
    Ok(accounts)
}

/// Where the log of each incarnation that lost backups begins to be needed: by the tombstones on record and the one that
/// would be put, but never after the start of a backup that is there or being taken. One may have come to lie before a
/// recorded floor, by a copy from another repository or because the server was wound back.
fn floors(
    log: &CommitLog,
    gone: &[&BackupSummary],
    planned: &[LogFloor],
    kept: &[&BackupSummary],
    in_flight: &[LogFloor],
) -> BTreeMap<Incarnation, Going> {
    let mut floors = BTreeMap::new();
    for backup in gone {
        let incarnation = &backup.incarnation;
        let of = |floors: &[LogFloor]| -> Vec<Lsn> {
            floors.iter().filter(|floor| floor.incarnation == *incarnation).map(|floor| floor.lsn).collect()
        };
        let declared = log.log_floor(incarnation).max(of(planned).into_iter().max().unwrap_or_default());
        let kept = kept.iter().filter(|kept| kept.incarnation == *incarnation).map(|kept| kept.start_lsn);
        let floor = kept.chain(of(in_flight)).min().map_or(declared, |needed| declared.min(needed));
        let going = Going { size: backup.segment_bytes, floor, ranges: LogCut::default() };
        floors.insert(incarnation.clone(), going);
    }
    floors
}

/// Adds the ranges that are on record, or planned, and that the rules let go now.
fn add_ranges(
    all: &mut BTreeMap<Incarnation, Going>,
    log: &CommitLog,
    survey: &Survey,
    kept: Vec<&BackupSummary>,
    planned: &[LogRange],
    rules: Rules<'_>,
) {
    let verdicts = rules::judge_log(survey, kept, rules);
    for (incarnation, (size, catalog)) in &survey.catalogs {
        let declared = log.log_cut(incarnation).or(&LogCut::of(incarnation, planned));
        let ranges = cut(&verdicts, incarnation, catalog).and(&declared);
        if ranges == LogCut::default() {
            continue;
        }
        let none = Going { size: *size, floor: Lsn(0), ranges: LogCut::default() };
        let going = all.entry(incarnation.clone()).or_insert(none);
        going.ranges = ranges;
    }
}

/// Deletes, or counts, what goes of the log of one incarnation.
async fn delete_one(
    scope: &Scope,
    incarnation: Incarnation,
    going: Going,
    needed_by: Option<BackupId>,
    acting: bool,
    progress: &Arc<dyn Progress>,
    cancel: &Cancel,
) -> Result<LogAccount> {
    let prefix = layout::log(&scope.source, &incarnation);
    let listing: Vec<ObjectInfo> = list_all(scope.repository.store(), &prefix, None).await?;
    let Going { size, floor, ranges } = going;
    let spans = ranges.ranges(&incarnation).into_iter().filter(|range| range.to > floor);
    let spans = spans.map(|range| Span { from: range.from.max(floor), to: range.to }).collect();
    let objects = let_go(&prefix, &listing, size, &ranges.or(&LogCut::before(floor)));
    let (objects, held) = without_locked(scope, objects).await?;
    let (locked_objects, locked_until) = held.map_or((0, None), |(count, lock)| (count, Some(lock.until)));
    let account = LogAccount {
        incarnation,
        floor_lsn: floor,
        needed_by,
        ranges: spans,
        deleted_objects: objects.len() as u64,
        deleted_bytes: total_bytes(&objects),
        kept_objects: (listing.len() - objects.len()) as u64,
        locked_objects,
        locked_until,
    };
    if acting && !objects.is_empty() {
        progress.phase(&format!("deleting log of {}", account.incarnation), Some(account.deleted_bytes));
        delete(scope, &objects, "expire.log-object-deleted", progress.as_ref(), cancel).await?;
    }
    Ok(account)
}
