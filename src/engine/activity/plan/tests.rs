use super::*;
use crate::base::TimelineId;
use crate::repo::log::catalog::SplitBrain;
use crate::repo::log::name::{HistoryName, SegmentName};
use crate::repo::log::{SegmentObject, TimelineHistory};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_micros(seconds * 1_000_000).unwrap()
}

fn catalog(segments: &[(u64, i64, i64, u32)]) -> LogCatalog {
    let mut catalog = LogCatalog::default();
    for (number, first, last, commits) in segments {
        let segment = Segment { timeline: TimelineId(1), number: *number };
        let time = |seconds: i64| if *commits == 0 { CommitTime::None } else { CommitTime::At(at(seconds)) };
        let (first, last) = (time(*first), time(*last));
        let name = SegmentName { segment, first, last, commits: Some(*commits), digest: "0".repeat(16) };
        let object = SegmentObject { key: String::new(), name, stored_bytes: 1000, arrived: at(5) };
        catalog.segments.insert(segment, object);
    }
    catalog
}

/// Adds a segment of a later timeline with commits within ten seconds.
fn add(catalog: &mut LogCatalog, timeline: u32, number: u64, first: i64) {
    let segment = Segment { timeline: TimelineId(timeline), number };
    let (first, last) = (CommitTime::At(at(first)), CommitTime::At(at(first + 9)));
    let name = SegmentName { segment, first, last, commits: Some(3), digest: "0".repeat(16) };
    catalog.segments.insert(segment, SegmentObject { key: String::new(), name, stored_bytes: 1000, arrived: at(5) });
}

fn branch(catalog: &mut LogCatalog, timeline: u32, parent: u32, switch_lsn: Lsn) {
    let (timeline, parent) = (TimelineId(timeline), TimelineId(parent));
    let name = HistoryName { timeline, parent, switch_lsn, digest: "0".repeat(16) };
    catalog.histories.insert(timeline, TimelineHistory { key: String::new(), name, arrived: at(5) });
}

fn track(catalog: &LogCatalog) -> Track {
    let path = TimelinePath::to(TimelineId(1), catalog, SegmentSize::DEFAULT).unwrap();
    Track::on(&path, catalog, |segment| segment.number == 9)
}

#[test]
fn commits_and_bytes_are_spread_and_none_is_lost() {
    let track = track(&catalog(&[(1, 100, 159, 60), (2, 160, 160, 7), (3, 0, 0, 0), (4, 170, 229, 61)]));
    let axis = axis(&track, &[], at(100), at(229), Duration::from_secs(60));
    let rows: Vec<(i64, u64)> = axis.rows.iter().map(|row| (row.from.unix_micros() / 1_000_000, row.commits)).collect();
    assert_eq!(rows.iter().map(|(from, _)| *from).collect::<Vec<_>>(), [60, 120, 180]);
    assert_eq!(rows.iter().map(|(_, commits)| commits).sum::<u64>(), 128);
    assert_eq!(axis.rows.iter().map(|row| row.stored_bytes).sum::<u64>(), 4000, "the idle one counts too");
    assert!((19..=21).contains(&rows[0].1) && (56..=58).contains(&rows[1].1), "{rows:?}");
    let inside = super::axis(&track, &[], at(120), at(150), Duration::from_secs(60));
    assert_eq!((inside.rows.len(), inside.rows[0].commits), (1, rows[1].1), "what lies outside is left out");
}

#[test]
fn the_length_of_a_row_is_round_and_fits_the_screen() {
    for (seconds, expected) in [(0, 1), (20, 1), (40, 2), (3600, 300), (86_400, 7200), (86_400 * 365, 2_419_200)] {
        let interval = round_interval(at(1_000_000), at(1_000_000 + seconds));
        assert!(rows_of(at(1_000_000), at(1_000_000 + seconds), interval) <= ROWS);
        assert_eq!(interval.as_secs(), expected, "{seconds} s");
    }
    assert!(rows_of(at(0), at(250_000_000_000), round_interval(at(0), at(250_000_000_000))) <= ROWS);
}

#[test]
fn gaps_say_why_and_between_which_times() {
    let mut catalog = catalog(&[(1, 10, 20, 3), (3, 40, 50, 3), (6, 70, 80, 3), (8, 90, 95, 3), (10, 99, 100, 3)]);
    let contradicted = Segment { timeline: TimelineId(1), number: 7 }.name(SegmentSize::DEFAULT);
    catalog.split_brains.push(SplitBrain { file: contradicted, digests: Vec::new() });
    let track = track(&catalog);
    let gaps: Vec<_> = track.gaps.iter().map(|gap| (gap.first.number, gap.segments(), gap.reason)).collect();
    assert_eq!(
        gaps,
        [(2, 1, GapReason::Missing), (4, 2, GapReason::Missing), (7, 1, GapReason::Contradicted), (9, 1, GapReason::Expired)]
    );
    assert_eq!((track.gaps[1].after, track.gaps[1].before), (Some(at(50)), Some(at(70))));
    let axis = axis(&track, &[], at(0), at(100), Duration::from_secs(50));
    assert_eq!(axis.rows.iter().map(|row| row.gaps.clone()).collect::<Vec<_>>(), [vec![0], vec![1, 2, 3], vec![]]);
}

#[test]
fn the_segment_in_which_a_timeline_is_left_is_read_once() {
    let mut catalog = catalog(&[(4, 40, 49, 3), (5, 50, 59, 3), (6, 60, 69, 3)]);
    let left = Lsn(5 * SegmentSize::DEFAULT.bytes() + 100);
    branch(&mut catalog, 2, 1, left);
    let path = TimelinePath::to(TimelineId(2), &catalog, SegmentSize::DEFAULT).unwrap();
    let track = Track::on(&path, &catalog, |_| false);
    let items: Vec<_> = track.items.iter().map(|item| (item.segment.number, item.limit)).collect();
    assert_eq!((items.as_slice(), track.gaps.len()), (&[(4, None), (5, Some(left))][..], 0));
    add(&mut catalog, 2, 7, 70);
    let track = Track::on(&path, &catalog, |_| false);
    let items: Vec<_> = track.items.iter().map(|item| (item.segment.timeline.0, item.segment.number)).collect();
    assert_eq!(items, [(1, 4), (1, 5), (2, 7)]);
    let gaps: Vec<_> = track.gaps.iter().map(|gap| (gap.first.timeline.0, gap.first.number, gap.segments())).collect();
    assert_eq!(gaps, [(2, 5, 2)], "the rest of segment 5 is missing, too");
}

#[test]
fn timelines_that_went_on_beside_the_one_shown_are_found() {
    // Timeline 2 left 1 in segment 3, 3 left 2 in segment 5, 4 left 1 in segment 2.
    let mut catalog = catalog(&[(1, 10, 19, 3), (2, 20, 29, 3), (3, 30, 39, 3), (4, 40, 49, 3), (5, 0, 0, 0)]);
    for (timeline, number, first) in [(2, 3, 30), (2, 4, 60), (2, 5, 70), (3, 5, 70), (3, 6, 90), (4, 2, 20)] {
        add(&mut catalog, timeline, number, first);
    }
    for (timeline, parent, number) in [(2, 1, 3), (3, 2, 5), (4, 1, 2)] {
        branch(&mut catalog, timeline, parent, Lsn(number * SegmentSize::DEFAULT.bytes() + 100));
    }
    let found = |timeline, from, to| -> Vec<(u32, Option<Timestamp>)> {
        let path = TimelinePath::to(TimelineId(timeline), &catalog, SegmentSize::DEFAULT).unwrap();
        elsewhere(&path, &catalog, at(from), at(to)).iter().map(|found| (found.timeline.0, found.last)).collect()
    };
    assert_eq!(found(3, 40, 45), [(1, Some(at(49)))], "production goes on after it was left");
    assert_eq!(found(3, 10, 18), [], "what all have is no other history");
    assert_eq!(found(3, 0, 100), [(4, Some(at(29))), (2, Some(at(79))), (1, Some(at(49)))], "nearer and farther relatives");
    assert_eq!(found(1, 95, 100), [(3, Some(at(99)))], "a descendant, too");
    assert_eq!(found(1, 200, 300), []);
    let unknown = Segment { timeline: TimelineId(1), number: 4 };
    catalog.segments.get_mut(&unknown).unwrap().name.last = CommitTime::Unknown;
    let path = TimelinePath::to(TimelineId(3), &catalog, SegmentSize::DEFAULT).unwrap();
    assert_eq!(elsewhere(&path, &catalog, at(1000), at(1001)), [Elsewhere { timeline: TimelineId(1), last: None }]);
}

#[test]
fn what_is_read_holds_the_interval_and_a_lead() {
    let segments: Vec<(u64, i64, i64, u32)> = (0..40_i64).map(|n| (1 + n as u64, n * 10, n * 10 + 9, 5)).collect();
    let track = track(&catalog(&segments));
    assert_eq!(track.reading(at(205), at(215), SegmentSize::DEFAULT), 16..22);
    assert_eq!(track.reading(at(0), at(5), SegmentSize::DEFAULT), 0..1);
    assert_eq!(track.reading(at(395), at(1000), SegmentSize::DEFAULT), 35..40);
}
