//! The recovery window: the moments to which a restore is possible, and the gaps between them. Pure, from names alone.

use crate::base::{BackupId, Lsn, Segment, Timestamp};
use crate::repo::BackupSummary;
use crate::repo::log::LogCatalog;

use super::timeline::{Reach, Run, Runs, TimelinePath, latest_ends};

/// Moments to which a restore is possible, without a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interval {
    /// First moment: the end of the oldest backup that reaches this interval.
    pub from: Timestamp,
    /// Last moment that is certain: the latest transaction end in the archived log, or the end of a backup.
    pub to: Timestamp,
    /// End of the archived log here.
    pub end_lsn: Lsn,
    /// Backups that lead into it, oldest first.
    pub backups: Vec<BackupId>,
    /// First segment that is missing after it; for the newest interval the one that is still being written.
    pub missing: Segment,
}

/// Everything to which a restore on one path of timelines is possible.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// In order of time, none overlapping.
    pub intervals: Vec<Interval>,
    /// Backups on the path whose own log is not archived whole: they cannot be restored.
    pub unusable: Vec<BackupId>,
}

/// The window on `path` that `backups` (of one incarnation) open.
pub fn window<'a>(backups: impl Iterator<Item = &'a BackupSummary>, catalog: &LogCatalog, path: &TimelinePath) -> Window {
    let mut window = Window::default();
    let mut on_path: Vec<&BackupSummary> = backups.filter(|backup| path.contains(backup.timeline, backup.stop_lsn)).collect();
    on_path.sort_by_key(|backup| backup.stop_lsn);
    let runs = Runs::on(path, catalog);
    for backup in on_path {
        if !path.serves(catalog, backup) {
            window.unusable.push(backup.id.clone());
            continue;
        }
        let Reach { end_lsn, missing, latest_end } = runs.from(backup.start_lsn);
        // A standby's clock is no witness of what the primary had committed by then.
        let stopped = Some(backup.stop_time).filter(|_| !backup.from_standby);
        let to = latest_end.max(stopped).unwrap_or(backup.stop_time);
        match window.intervals.last_mut() {
            // Two moments with no log after them are not joined by what nobody knows.
            Some(interval) if interval.end_lsn == end_lsn && end_lsn > backup.start_lsn => {
                interval.from = interval.from.min(backup.stop_time);
                interval.to = interval.to.max(to);
                interval.backups.push(backup.id.clone());
            }
            _ => {
                let (from, backups) = (backup.stop_time, vec![backup.id.clone()]);
                window.intervals.push(Interval { from, to, end_lsn, backups, missing });
            }
        }
    }
    window
}

/// Latest transaction end that the names in a run tell.
pub fn latest_end(run: &Run, catalog: &LogCatalog) -> Option<Timestamp> {
    latest_ends(run, catalog).first().copied().flatten()
}

impl Interval {
    /// Whether it is one moment only: that of a backup which no log follows.
    pub fn is_moment(&self) -> bool {
        self.from == self.to
    }
}

impl Window {
    /// The last restorable moment at or before `time`.
    pub fn nearest_before(&self, time: Timestamp) -> Option<Timestamp> {
        self.intervals.iter().filter(|interval| interval.from <= time).map(|interval| interval.to.min(time)).max()
    }

    /// The first restorable moment after `time`.
    pub fn nearest_after(&self, time: Timestamp) -> Option<Timestamp> {
        self.intervals.iter().filter(|interval| interval.to > time).map(|interval| interval.from.max(time)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Engine, Incarnation, SegmentSize, TimelineId};

    #[test]
    fn backups_without_a_log_are_moments() {
        let id = |hour: u32| format!("20261120T{hour:02}0000Z-full-aaaa");
        let taken = |hour: u32| {
            let start = id(hour).parse::<BackupId>().unwrap().start();
            let stop = start.plus(std::time::Duration::from_secs(600));
            let positions = (Lsn::of_moment(start), Lsn::of_moment(stop));
            let sample = BackupSummary::sample_of(Incarnation::dated(Engine::Directory, start), &id(hour), positions);
            BackupSummary { stop_time: stop, ..sample }
        };
        let (backups, catalog) = ([taken(1), taken(2)], LogCatalog::default());
        let path = TimelinePath::to(TimelineId(1), &catalog, SegmentSize::DEFAULT).unwrap();
        let window = window(backups.iter(), &catalog, &path);
        assert!(window.unusable.is_empty());
        let moments: Vec<_> = window.intervals.iter().map(|interval| (interval.from, interval.to)).collect();
        assert_eq!(moments, backups.each_ref().map(|backup| (backup.stop_time, backup.stop_time)));
    }
}
