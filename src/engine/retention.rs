//! From what a repository holds to what a policy makes of it: the facts for [`crate::policy::retention`]. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::{BackupId, Incarnation, Lsn, SegmentSize, TimelineId, Timestamp};
use crate::engine::timeline::TimelinePath;
use crate::policy::Retention;
use crate::policy::retention::{self, Begun, Branch, Extent, Facts, Holding, LogVerdict, Verdict};
use crate::repo::BackupSummary;
use crate::repo::evidence::{DrillOutcome, Record};
use crate::repo::log::LogCatalog;

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
            Some(Extent { incarnation: incarnation.clone(), from: from?, to: to? })
        };
        Facts {
            backups: present.backups.iter().map(|backup| holding(backup, present)).collect(),
            branches: present.catalogs.keys().flat_map(|incarnation| branches(present, incarnation, start)).collect(),
            begun: present.begun.clone(),
            logs: present.catalogs.iter().filter_map(log).collect(),
            now: present.now,
        }
    }
}

/// The backups that drills which passed restored or read whole.
pub fn proven(record: &Record) -> BTreeSet<BackupId> {
    let passed = record.kept.iter().map(|kept| &kept.evidence).filter(|evidence| evidence.outcome == DrillOutcome::Passed);
    passed.flat_map(|evidence| evidence.restored.iter().map(|restored| &restored.backup).chain(&evidence.verified)).cloned().collect()
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
    }
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
        Branch {
            incarnation: incarnation.clone(),
            timeline,
            backups: own.iter().filter(is_on_way).map(|backup| backup.id.clone()).collect(),
            latest,
            window_lsn: path.ok().and_then(|path| window_lsn(catalog, &path, start, present.now)),
        }
    };
    latest.into_iter().map(branch).collect()
}

/// The last moment that each timeline's own segments tell: of a transaction's end, else of their arrival. A name from the
/// future tells nothing.
fn latest_moments(catalog: &LogCatalog, now: Timestamp) -> BTreeMap<TimelineId, Timestamp> {
    let mut latest: BTreeMap<TimelineId, Timestamp> = BTreeMap::new();
    for (segment, object) in &catalog.segments {
        let told = object.name.last.known().filter(|told| *told <= now).max(Some(object.arrived)).unwrap_or(object.arrived);
        let moment = latest.entry(segment.timeline).or_insert(told);
        *moment = told.max(*moment);
    }
    latest
}

/// Where the first segment on the way begins that holds a transaction of the window which began at `start`.
fn window_lsn(catalog: &LogCatalog, path: &TimelinePath, start: Timestamp, now: Timestamp) -> Option<Lsn> {
    let size = path.segment_size();
    let in_window = |moment: Timestamp| moment > start && moment <= now;
    let on_way = catalog.segments.iter().filter(|(segment, _)| path.segment(segment.number) == **segment);
    let holds = on_way.filter(|(_, object)| object.name.last.known().is_some_and(in_window));
    holds.map(|(segment, _)| segment.start(size)).min()
}
