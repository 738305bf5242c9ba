//! From what a repository holds to what a policy makes of it: the facts for [`crate::policy::retention`]. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::{BackupId, Incarnation, Segment, SegmentSize, TimelineId, Timestamp};
use crate::engine::timeline::TimelinePath;
use crate::policy::Retention;
use crate::policy::retention::{self, Begun, Branch, Extent, Facts, Holding, LogVerdict, Verdict};
use crate::repo::BackupSummary;
use crate::repo::evidence::{DrillOutcome, Record};
use crate::repo::log::{CommitTime, LogCatalog, SegmentObject, TimelineHistory};

/// The rules of one policy.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// The policy's name.
    pub policy: &'a str,
    /// What it keeps.
    pub retention: &'a Retention,
}

/// The archived logs of a source, by incarnation.
pub type Catalogs = BTreeMap<Incarnation, (SegmentSize, LogCatalog)>;

/// What a repository holds of a source.
#[derive(Clone, Debug)]
pub struct Present<'a> {
    /// The backups, in the order in which they were committed.
    pub backups: Vec<&'a BackupSummary>,
    /// Those whose chain and own log are whole.
    pub restorable: &'a BTreeSet<BackupId>,
    /// Those that a drill has proven.
    pub proven: BTreeSet<BackupId>,
    /// Until when backups are locked.
    pub locked_until: BTreeMap<BackupId, Timestamp>,
    /// Those of which an operator withdrew the mark.
    pub held: &'a BTreeSet<BackupId>,
    /// What may be in flight.
    pub begun: Vec<Begun>,
    /// The log.
    pub catalogs: &'a Catalogs,
    /// The present moment.
    pub now: Timestamp,
}

impl Rules<'_> {
    /// Which of the backups stay, and why.
    pub fn judge(&self, present: &Present<'_>) -> Vec<Verdict> {
        retention::decide(self.retention, &self.facts(present))
    }

    /// Which log stays when all these backups do, and why.
    pub fn judge_log(&self, present: &Present<'_>) -> Vec<LogVerdict> {
        retention::decide_log(self.retention, &self.facts(present))
    }

    fn facts(&self, present: &Present<'_>) -> Facts {
        let start = self.retention.window_start(present.now);
        let log = |(incarnation, (size, catalog)): (&Incarnation, &(SegmentSize, LogCatalog))| {
            let from = catalog.segments.keys().map(|segment| segment.start(*size)).min();
            let to = catalog.segments.keys().map(|segment| segment.end(*size)).max();
            Some(Extent { incarnation: incarnation.clone(), from: from?, to: to?, segment_bytes: size.bytes() })
        };
        let contradicted = |incarnation: &Incarnation| Some((incarnation.clone(), contradicted(present, incarnation)?));
        Facts {
            backups: present.backups.iter().map(|backup| holding(backup, present)).collect(),
            branches: present.catalogs.keys().flat_map(|incarnation| branches(present, incarnation, start)).collect(),
            begun: present.begun.clone(),
            logs: present.catalogs.iter().filter_map(log).collect(),
            contradicted: present.catalogs.keys().filter_map(contradicted).collect(),
            now: present.now,
        }
    }
}

/// The backups that drills which passed restored or read whole.
pub fn proven(record: &Record) -> BTreeSet<BackupId> {
    let passed = record.kept.iter().map(|kept| &kept.evidence).filter(|evidence| evidence.outcome == DrillOutcome::Passed);
    passed
        .flat_map(|evidence| evidence.restored.iter().map(|restored| &restored.backup).chain(&evidence.verified))
        .cloned()
        .collect()
}

fn holding(backup: &BackupSummary, present: &Present<'_>) -> Holding {
    Holding {
        id: backup.id.clone(),
        base: backup.base.clone(),
        incarnation: backup.incarnation.clone(),
        start_lsn: backup.start_lsn,
        stop_lsn: backup.stop_lsn,
        stop_time: backup.stop_time,
        restorable: present.restorable.contains(&backup.id),
        proven: present.proven.contains(&backup.id),
        locked_until: present.locked_until.get(&backup.id).copied(),
        held: present.held.contains(&backup.id),
    }
}

/// Why what can be restored of an incarnation is not known: two contents under one name, or a history that is not there.
fn contradicted(present: &Present<'_>, incarnation: &Incarnation) -> Option<String> {
    let (size, catalog) = present.catalogs.get(incarnation)?;
    if let Some(split) = catalog.split_brains.first() {
        let others = match catalog.split_brains.len() - 1 {
            0 => String::new(),
            others => format!(" (and {others} more)"),
        };
        let why = "was archived with different contents: decide first (lifeboat archive resolve)";
        return Some(format!("{}{others} {why}", split.file));
    }
    let own = present.backups.iter().filter(|backup| backup.incarnation == *incarnation).map(|backup| backup.timeline);
    let unknown = catalog.timelines().into_iter().chain(own).find_map(|timeline| catalog.ancestry(timeline).err());
    unknown.map(|error| error.summary()).or_else(|| belied(catalog, *size))
}

/// A history that the log itself belies: of its timeline there is a segment that ends before it began. Nobody vouches for
/// a history that came late.
fn belied(catalog: &LogCatalog, size: SegmentSize) -> Option<String> {
    let first = |timeline: TimelineId| {
        catalog.segments.range(Segment { timeline, number: 0 }..).next().filter(|(segment, _)| segment.timeline == timeline)
    };
    let is_belied = |(timeline, history): &(&TimelineId, &TimelineHistory)| {
        first(**timeline).is_some_and(|(segment, _)| segment.end(size) <= history.name.switch_lsn)
    };
    let (timeline, history) = catalog.histories.iter().find(is_belied)?;
    let (file, began) = (format!("{}.history", timeline.hex()), history.name.switch_lsn);
    Some(format!(
        "{file} says that timeline {timeline} began at {began}, and older log of it is archived: one of the two is not true"
    ))
}

/// Every timeline of an incarnation, whether it has log or only backups.
fn branches(present: &Present<'_>, incarnation: &Incarnation, start: Timestamp) -> Vec<Branch> {
    let Some((size, catalog)) = present.catalogs.get(incarnation) else { return Vec::new() };
    let own: Vec<&BackupSummary> = present.backups.iter().filter(|backup| backup.incarnation == *incarnation).copied().collect();
    let mut latest = latest_moments(catalog, present.now);
    for backup in &own {
        let moment = latest.entry(backup.timeline).or_insert(backup.stop_time);
        *moment = backup.stop_time.max(*moment);
    }
    let branch = |(timeline, latest): (TimelineId, Timestamp)| {
        let path = TimelinePath::to(timeline, catalog, *size);
        // Without its history nothing is known of the way: then only what was taken on the timeline itself.
        let is_on_way = |backup: &&&BackupSummary| match &path {
            Ok(path) => path.contains(backup.timeline, backup.stop_lsn),
            Err(_) => backup.timeline == timeline,
        };
        let on_way: Vec<&BackupSummary> = own.iter().filter(is_on_way).copied().collect();
        let late = path.as_ref().map(|path| late(catalog, path, &on_way, start, present.now)).unwrap_or_default();
        let serves = |backup: &&&BackupSummary| path.as_ref().is_ok_and(|path| path.serves(catalog, backup));
        let served = on_way.iter().filter(serves).map(|backup| backup.id.clone()).collect();
        let backups = on_way.iter().map(|backup| backup.id.clone()).collect();
        Branch { incarnation: incarnation.clone(), timeline, backups, served, late, latest }
    };
    latest.into_iter().map(branch).collect()
}

/// The last moment that each timeline's own segments tell: of a transaction's end, else of their arrival; and the arrival
/// of its history, for before its first segment is full a timeline has nothing else. A name from the future tells nothing.
fn latest_moments(catalog: &LogCatalog, now: Timestamp) -> BTreeMap<TimelineId, Timestamp> {
    let mut latest: BTreeMap<TimelineId, Timestamp> = BTreeMap::new();
    for (segment, object) in &catalog.segments {
        let told = object.name.last.known().filter(|told| *told <= now).max(Some(object.arrived)).unwrap_or(object.arrived);
        let moment = latest.entry(segment.timeline).or_insert(told);
        *moment = told.max(*moment);
    }
    for (timeline, history) in &catalog.histories {
        let moment = latest.entry(*timeline).or_insert(history.arrived);
        *moment = history.arrived.max(*moment);
    }
    latest
}

/// The backups on the way of which the log tells that they may have ended after `start`: they hold a transaction that ended
/// later, of their own time or of the time before.
///
/// A transaction from the future that arrived before the window counts only for a backup in whose own log it is: replay to
/// any moment would stop there.
fn late(
    catalog: &LogCatalog,
    path: &TimelinePath,
    backups: &[&BackupSummary],
    start: Timestamp,
    now: Timestamp,
) -> BTreeSet<BackupId> {
    let size = path.segment_size();
    let on_way = catalog.segments.iter().filter(|(segment, _)| path.segment(segment.number) == **segment);
    let in_window = on_way.filter(|(_, object)| reaches_window(object, start, now));
    let window_lsn = in_window.map(|(segment, _)| segment.start(size)).min();
    let ends_later = |segment: &Segment| {
        let later = |object: &SegmentObject| object.name.last.known() > Some(start) || reaches_window(object, start, now);
        catalog.segments.get(segment).is_some_and(later)
    };
    let is_late = |backup: &&&BackupSummary| {
        let mut numbers = backup.start_lsn.0 / size.bytes()..=backup.stop_lsn.0.saturating_sub(1) / size.bytes();
        let own = |number| [path.segment(number), Segment { timeline: backup.timeline, number }];
        let in_own_log = backup.needs_log() && numbers.any(|number| own(number).iter().any(ends_later));
        window_lsn.is_some_and(|lsn| backup.stop_lsn > lsn) || in_own_log
    };
    backups.iter().filter(is_late).map(|backup| backup.id.clone()).collect()
}

/// Whether a transaction in a segment may have ended after `start`. What its name does not tell, or tells from the future,
/// its arrival tells.
fn reaches_window(object: &SegmentObject, start: Timestamp, now: Timestamp) -> bool {
    let (name, last) = (&object.name, object.name.last.known());
    let is_untold = [name.first, name.last].contains(&CommitTime::Unknown) || last.is_some_and(|last| last > now);
    last.is_some_and(|last| last > start && last <= now) || (is_untold && object.arrived > start)
}

#[cfg(test)]
mod tests;
