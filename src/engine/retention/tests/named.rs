//! What random histories found, each by hand.

use std::collections::BTreeSet;
use std::time::Duration;

use super::plain;
use super::world::{HOUR, SIZE, history, incarnation, moment, size};
use crate::base::{BackupId, Lsn, Segment, TimelineId};
use crate::engine::retention::{Catalogs, Rules};
use crate::engine::timeline::TimelinePath;
use crate::policy::Retention;
use crate::repo::BackupSummary;
use crate::repo::log::SegmentObject;
use crate::repo::log::name::{CommitTime, HistoryName, SegmentName};

/// Whatever the window does not need goes.
const WINDOW_ONLY: Retention = Retention { window: Duration::from_secs(10 * 3600), thin_log: true, ..Retention::NOTHING };

/// A small archive; times are hours, positions are segments.
#[derive(Clone, Default)]
struct Scene {
    catalogs: Catalogs,
    backups: Vec<BackupSummary>,
}

impl Scene {
    /// Segments of a timeline, without a commit in them, that arrived in one hour.
    fn segments(mut self, cluster: usize, timeline: u32, numbers: std::ops::Range<u64>, hour: i64) -> Self {
        for number in numbers {
            self = self.segment(cluster, timeline, number, hour, CommitTime::None);
        }
        self
    }

    fn segment(mut self, cluster: usize, timeline: u32, number: u64, hour: i64, last: CommitTime) -> Self {
        let segment = Segment { timeline: TimelineId(timeline), number };
        let name = SegmentName { segment, first: last, last, commits: None, digest: "0".repeat(16) };
        let object = SegmentObject { key: String::new(), name, stored_bytes: 1, arrived: moment(hour * HOUR) };
        self.catalogs.entry(incarnation(cluster)).or_insert((size(), Default::default())).1.segments.insert(segment, object);
        self
    }

    fn history(mut self, cluster: usize, (timeline, parent): (u32, u32), at: u64, hour: i64) -> Self {
        let (timeline, parent) = (TimelineId(timeline), TimelineId(parent));
        let name = HistoryName { timeline, parent, switch_lsn: Lsn(at * SIZE), digest: "0".repeat(16) };
        let catalog = &mut self.catalogs.entry(incarnation(cluster)).or_insert((size(), Default::default())).1;
        catalog.histories.insert(timeline, history(name, moment(hour * HOUR)));
        self
    }

    /// A full inside one segment, that ended at the full hour.
    fn full(mut self, cluster: usize, timeline: u32, number: u64, hour: i64) -> Self {
        let stop = moment(hour * HOUR);
        let id = format!("{}-full-aaaa", stop.compact_seconds());
        let sample = BackupSummary::sample(&id, (Lsn(number * SIZE + 10), Lsn(number * SIZE + 500)));
        let (incarnation, timeline) = (incarnation(cluster), TimelineId(timeline));
        self.backups.push(BackupSummary { incarnation, timeline, segment_bytes: size(), ..sample });
        self
    }

    /// Which backups stay, and which segments of the first cluster's first timeline go, with a window of ten hours.
    fn decided(&self, hour: i64) -> (Vec<bool>, Vec<u64>) {
        let serves = |backup: &&BackupSummary| TimelinePath::any_serves(&self.catalogs[&backup.incarnation].1, backup);
        let restorable: BTreeSet<BackupId> = self.backups.iter().filter(serves).map(|backup| backup.id.clone()).collect();
        let mut present = plain(&self.backups, &restorable, &self.catalogs, moment(hour * HOUR));
        let rules = Rules { policy: "window only", retention: &WINDOW_ONLY };
        let kept: Vec<bool> = rules.judge(&present).iter().map(|verdict| verdict.kept).collect();
        let mut verdicts = kept.iter();
        present.backups.retain(|_| *verdicts.next().expect("one for each"));
        let logs = rules.judge_log(&present);
        let goes = |number: &u64| {
            let (from, to) = (Lsn(number * SIZE), Lsn((number + 1) * SIZE));
            logs.iter().any(|log| log.incarnation == incarnation(0) && !log.kept && log.from <= from && to <= log.to)
        };
        (kept, (0..30).filter(goes).collect())
    }
}

/// Two timelines, a backup on each; the second timeline has been idle since hour 25.
fn idle() -> Scene {
    Scene::default()
        .segments(0, 1, 1..6, 10)
        .full(0, 1, 1, 10)
        .history(0, (2, 1), 5, 20)
        .segments(0, 2, 5..9, 25)
        .full(0, 2, 7, 25)
}

#[test]
fn an_idle_source_keeps_its_newest_backup_whatever_is_planted() {
    let newest = vec![false, true];
    assert_eq!(idle().decided(100).0, newest);
    let planted = [
        ("an invented timeline", idle().segments(0, 9, 40..41, 99)),
        ("one with a history", idle().history(0, (9, 1), 3, 99).segments(0, 9, 40..41, 99)),
        ("one with a history, an hour after all else", idle().history(0, (9, 1), 3, 26).segments(0, 9, 40..41, 26)),
        ("one that begins before everything", idle().history(0, (9, 1), 0, 26).segments(0, 9, 40..41, 26)),
        ("a timeline that was left", idle().segments(0, 1, 40..41, 26)),
        ("a history alone", idle().history(0, (9, 1), 3, 99)),
        ("the last segment there can be", idle().segments(0, 1, u64::MAX / SIZE..u64::MAX / SIZE + 1, 26)),
    ];
    for (what, scene) in planted {
        let (kept, gone) = scene.decided(100);
        assert!(kept[1], "{what}");
        assert!(gone.iter().all(|number| *number < 7), "{what}: {gone:?}");
    }
    // An older cluster of which something arrives does not take the place of the newest one.
    let upgraded = Scene::default().segments(0, 1, 1..6, 10).full(0, 1, 2, 10).segments(1, 1, 1..9, 25).full(1, 1, 7, 25);
    assert_eq!(upgraded.decided(100).0, newest);
    for hour in [26, 99] {
        let (kept, _) = upgraded.clone().segments(0, 1, 40..41, hour).decided(100);
        assert!(kept[1], "at {hour}");
    }
}

#[test]
fn a_branch_that_backups_went_on_without_is_not_kept_for_being_idle() {
    let left = idle().history(0, (3, 1), 3, 26).segments(0, 3, 3..5, 26);
    assert_eq!(left.decided(100).0, [true, true], "nothing tells which of the two goes on");
    let went_on = left.segments(0, 2, 9..12, 40).full(0, 2, 10, 40);
    assert_eq!(went_on.decided(100).0, [false, false, true]);
}

#[test]
fn a_restore_to_an_old_place_counts_before_its_first_segment_arrives() {
    let back = Scene::default().segments(0, 1, 1..20, 95).full(0, 1, 1, 10).full(0, 1, 10, 80);
    assert_eq!(back.decided(100), (vec![false, true], (1..10).collect()));
    // To a place between the two, an hour ago; and long ago, with nothing since.
    let branched = back.clone().history(0, (2, 1), 5, 99);
    assert_eq!(branched.decided(100), (vec![true, true], vec![]));
    let gone_on = branched.segments(0, 2, 5..7, 99);
    assert_eq!(gone_on.decided(100), (vec![true, true], vec![]));
    // Before the window, and after the newest backup: only the next one tells that it was left.
    let left = back.history(0, (2, 1), 5, 85);
    assert_eq!(left.decided(100).0, [true, true]);
    assert_eq!(left.full(0, 1, 15, 90).decided(100).0, [false, false, true]);
}

#[test]
fn what_no_name_tells_may_lie_in_the_window() {
    // The second backup's clock was slow: it ended in hour 95. Of what it holds, only arrivals tell.
    let scene = |arrived, last| {
        let first = Scene::default().segments(0, 1, 1..5, 10).full(0, 1, 1, 10);
        first.segment(0, 1, 5, arrived, last).segments(0, 1, 6..9, 95).full(0, 1, 6, 80)
    };
    assert_eq!(scene(95, CommitTime::None).decided(100).0, [false, true]);
    assert_eq!(scene(95, CommitTime::At(moment(93 * HOUR))).decided(100).0, [true, true]);
    assert_eq!(scene(95, CommitTime::Unknown).decided(100), (vec![true, true], vec![]));
    assert_eq!(scene(50, CommitTime::Unknown).decided(100).0, [false, true], "it arrived before the window");
    // A clock that was fast, and set right later: its moments of the window are restored from before it.
    assert_eq!(scene(95, CommitTime::At(moment(120 * HOUR))).decided(100), (vec![true, true], vec![]));
    assert_eq!(scene(50, CommitTime::At(moment(120 * HOUR))).decided(100).0, [false, true], "or nothing would ever go");
}

#[test]
fn a_backup_that_only_a_younger_timeline_serves_is_its_base() {
    // Segment 5 of timeline 1 was lost with the server: timeline 2, which begins in it, has all of it that counts.
    let scene = Scene::default().segments(0, 1, 1..5, 10).full(0, 1, 1, 10).full(0, 1, 5, 80).history(0, (2, 1), 6, 81);
    assert_eq!(scene.clone().segments(0, 2, 6..9, 95).decided(100).0, [true, false], "it is lost");
    let mut copied = scene.segments(0, 2, 5..9, 95);
    let switch = &mut copied.catalogs.get_mut(&incarnation(0)).unwrap().1.histories.get_mut(&TimelineId(2)).unwrap().name;
    switch.switch_lsn = Lsn(5 * SIZE + 900);
    assert!(copied.decided(100).0[1]);
    // On the timeline that was left, what follows the loss is no reason to keep less.
    assert_eq!(copied.segments(0, 1, 6..9, 95).decided(100).0, [true, true]);
}

#[test]
fn a_history_that_the_log_itself_belies_lets_nothing_go() {
    // The archive began on timeline 5, whose history nobody had to archive.
    let scene = Scene::default().segments(0, 5, 1..20, 95).full(0, 5, 1, 10).full(0, 5, 5, 80).full(0, 5, 10, 95);
    assert_eq!(scene.decided(100).0, [false, true, true]);
    let planted = scene.clone().history(0, (5, 4), 8, 99);
    assert_eq!(planted.decided(100), (vec![true; 3], vec![]));
    // One that may be true changes nothing.
    assert_eq!(scene.history(0, (5, 4), 1, 99).decided(100).0, [false, true, true]);
}
