use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_micros(seconds * 1_000_000).unwrap()
}

fn point(first: i64, last: i64, arrived: i64) -> SegmentPoint {
    SegmentPoint { first: FirstCommit::At(at(first)), last: Some(at(last)), arrived: at(arrived) }
}

fn backup(first_segment: u64, last_segment: u64, committed: i64) -> BackupCover {
    let (started, stopped) = (at(committed - 2), at(committed - 1));
    BackupCover { first_segment, last_segment, started, stopped, committed: at(committed) }
}

fn coverage(segments: &[(u64, SegmentPoint)], backups: &[BackupCover]) -> Coverage {
    let segments = segments.iter().copied().collect();
    Coverage { segments, let_go: Vec::new(), backups: backups.to_vec(), witness: Witness::Log }
}

fn worst_seconds(coverages: &[&Coverage], from: i64, now: i64) -> Option<u64> {
    worst(coverages, at(from), at(now)).map(|worst| worst.as_secs())
}

#[test]
fn the_worst_is_the_arrival_less_the_first_commit_segment_by_segment() {
    let log = [(1, point(1, 5, 6)), (2, point(10, 15, 16)), (3, point(20, 40, 50)), (4, point(51, 55, 60))];
    let archive = coverage(&log, &[backup(1, 1, 8)]);
    assert_eq!(worst_seconds(&[&archive], 0, 100), Some(30));
    assert_eq!(worst_seconds(&[&archive], 55, 100), Some(9), "what ended before the stretch is not in it");
    assert_eq!(worst_seconds(&[&archive], 61, 100), Some(0));
}

#[test]
fn nothing_counts_before_the_first_backup_and_nothing_is_known_without_one() {
    let log = [(1, point(1, 5, 900)), (2, point(10, 15, 900)), (3, point(1000, 1001, 1003))];
    assert_eq!(worst_seconds(&[&coverage(&log, &[])], 0, 2000), None);
    assert_eq!(worst_seconds(&[&coverage(&log, &[backup(2, 2, 950)])], 0, 2000), Some(3));
}

#[test]
fn a_segment_is_no_use_before_those_before_it_have_arrived() {
    let log = [(1, point(1, 5, 6)), (2, point(10, 15, 100)), (3, point(20, 40, 45))];
    assert_eq!(worst_seconds(&[&coverage(&log, &[backup(1, 1, 8)])], 0, 200), Some(90), "segment 2 arrived last");
    let late = [(1, point(1, 5, 6)), (2, point(96, 97, 100)), (3, point(20, 40, 45))];
    assert_eq!(worst_seconds(&[&coverage(&late, &[backup(1, 1, 8)])], 0, 200), Some(80), "segment 3 waited for segment 2");
}

#[test]
fn a_gap_lasts_until_the_next_backup_or_now() {
    let log = [(1, point(1, 5, 6)), (2, point(10, 15, 16)), (4, point(50, 55, 56)), (6, point(80, 85, 86))];
    let open = coverage(&log, &[backup(1, 1, 8)]);
    assert_eq!(worst_seconds(&[&open], 0, 100), Some(85), "from the last commit before the gap until now");
    let closed = coverage(&log, &[backup(1, 1, 8), backup(6, 6, 90)]);
    assert_eq!(worst_seconds(&[&closed], 0, 100), Some(75), "the backup holds what was lost of the log");
    // Another repository has what is missing here.
    let whole = coverage(&[(1, point(1, 5, 7)), (3, point(30, 31, 33)), (5, point(60, 61, 62))], &[backup(1, 1, 8)]);
    let rest = [(1, point(1, 5, 6)), (2, point(10, 15, 16)), (3, point(30, 31, 34)), (4, point(50, 55, 56))];
    let other = coverage(&[&rest[..], &[(5, point(60, 61, 63)), (6, point(80, 85, 88))]].concat(), &[backup(1, 1, 8)]);
    assert_eq!(worst_seconds(&[&whole, &other], 0, 100), Some(8));
}

#[test]
#[allow(clippy::single_range_in_vec_init)]
fn what_was_let_go_is_no_gap() {
    let log = [(1, point(1, 5, 6)), (2, point(10, 15, 16)), (6, point(50, 55, 56)), (9, point(80, 85, 86))];
    let archive = |let_go: &[Range<u64>], backups: &[BackupCover]| {
        let mut archive = coverage(&log, backups);
        archive.let_go = let_go.to_vec();
        archive
    };
    let backups = [backup(1, 1, 8), backup(9, 9, 90)];
    assert_eq!(worst_seconds(&[&archive(&[], &backups)], 0, 100), Some(75));
    assert_eq!(worst_seconds(&[&archive(&[3..6, 7..9], &backups)], 0, 100), Some(6), "the log between old backups was thinned");
    assert_eq!(worst_seconds(&[&archive(&[], &backups), &archive(&[3..9], &backups)], 0, 100), Some(6), "one of them had it");
    assert_eq!(worst_seconds(&[&archive(&[3..5, 7..9], &backups)], 0, 100), Some(75), "segment 5 was not let go");
}

#[test]
fn what_one_let_go_is_as_late_as_another_that_has_it_tells() {
    let near = Coverage {
        let_go: std::iter::once(6..9).collect(),
        ..coverage(&[(5, point(40, 45, 50)), (9, point(590, 595, 600))], &[backup(5, 5, 51), backup(9, 9, 900)])
    };
    let log = [(5, point(40, 45, 50)), (6, point(60, 65, 66)), (7, point(70, 75, 500)), (8, point(560, 565, 570))];
    let far = coverage(&[&log[..], &[(9, point(590, 595, 600))]].concat(), &[backup(5, 5, 51)]);
    assert_eq!(worst_seconds(&[&near], 0, 1000), Some(10), "it was there in time, as far as anybody knows");
    assert_eq!(worst_seconds(&[&near, &far], 0, 1000), Some(430));
}

#[test]
fn with_two_repositories_the_better_one_counts_at_every_moment() {
    let near = coverage(&[(1, point(1, 5, 6)), (2, point(10, 15, 60)), (3, point(70, 71, 72))], &[backup(1, 1, 8)]);
    let far = coverage(&[(1, point(1, 5, 6)), (2, point(10, 15, 20)), (3, point(70, 71, 99))], &[backup(1, 1, 8)]);
    assert_eq!(worst_seconds(&[&near, &far], 0, 100), Some(10));
}

#[test]
fn unknown_times_are_bounded_by_the_commits_before_them() {
    let unknown = |arrived: i64| SegmentPoint { first: FirstCommit::Unknown, last: None, arrived: at(arrived) };
    let idle = |arrived: i64| SegmentPoint { first: FirstCommit::None, last: None, arrived: at(arrived) };
    let log = [(1, point(1, 5, 6)), (2, point(10, 15, 16)), (3, idle(90)), (4, unknown(40))];
    let archive = coverage(&log, &[backup(1, 1, 8)]);
    assert_eq!(worst_seconds(&[&archive], 0, 100), Some(75), "at most since the last commit of segment 2");
}

#[test]
fn without_a_log_everything_is_at_stake_from_the_beginning_of_a_backup_to_the_end_of_the_next() {
    let of = |backups: &[BackupCover]| Coverage { witness: Witness::Backups, ..coverage(&[], backups) };
    let taken = |started, committed| BackupCover { started: at(started), ..backup(0, 0, committed) };
    let near = of(&[taken(0, 10), taken(100, 130), taken(200, 205)]);
    assert_eq!(worst_seconds(&[&near], 0, 1000), Some(130), "what is open is told apart");
    assert_eq!(worst_seconds(&[&near], 131, 1000), Some(105));
    assert_eq!(worst_seconds(&[&of(&[])], 0, 1000), None);
    assert_eq!(worst_seconds(&[&of(&[taken(0, 10)])], 0, 1000), Some(0), "there was nothing before the first");
    // The other repository had the second one sooner, and lacks the third.
    let far = of(&[taken(0, 12), taken(100, 120)]);
    assert_eq!(worst_seconds(&[&near, &far], 0, 1000), Some(120));
    let silent = Coverage { witness: Witness::Nobody, ..near };
    assert_eq!(worst_seconds(&[&silent], 0, 1000), None);
}

#[test]
fn clocks_that_step_back_make_nothing_negative() {
    let archive = coverage(&[(1, point(1, 5, 6)), (2, point(100, 105, 50))], &[backup(1, 1, 8)]);
    assert_eq!(worst_seconds(&[&archive], 0, 60), Some(0));
    let found = Exposure::Since(at(100)).seconds(at(40));
    assert!(found > 0.0 && found < 0.01, "what is certainly lost is never told as nothing: {found}");
}

/// By brute force: at each second, over each repository, the first commit that a restore would not have.
#[test]
fn random_histories_agree_with_a_walk_through_time() {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    let seed = rand::random::<u64>();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..300 {
        let firsts: BTreeMap<u64, i64> =
            (1..=12).map(|number| (number, number as i64 * 20 + random.random_range(0..10))).collect();
        let mut repositories = Vec::new();
        for _ in 0..random.random_range(1..3) {
            let mut archive = Coverage::default();
            for (number, first) in &firsts {
                archive.segments.insert(*number, point(*first, *first + 5, *first + random.random_range(6..90)));
            }
            let mut backups = vec![1, random.random_range(2..12)];
            backups.dedup();
            for number in backups {
                let committed = archive.segments[&number].arrived.unix_micros() / 1_000_000 + 1;
                archive.backups.push(backup(number, number, committed));
            }
            repositories.push(archive);
        }
        let counted_after =
            repositories.iter().flat_map(|archive| &archive.backups).min_by_key(|backup| backup.committed).unwrap();
        let exposure = |time: i64| {
            let first_lost = repositories.iter().map(|archive| {
                let restorable = archive.backups.iter().filter(|backup| backup.committed <= at(time));
                let reach = restorable.map(|backup| {
                    let arrived = |number: &u64| archive.segments[number].arrived <= at(time);
                    (backup.first_segment..=12).take_while(arrived).last().unwrap_or(0).max(backup.last_segment)
                });
                reach.max().map_or(1, |reach| reach + 1)
            });
            let lost = first_lost.max().unwrap().max(counted_after.last_segment + 1);
            firsts.get(&lost).map_or(0, |first| (time - first).max(0))
        };
        let walked = (0..600).map(exposure).max().unwrap() as u64;
        let told = worst_seconds(&repositories.iter().collect::<Vec<_>>(), 0, 600).unwrap();
        // The walk sees the second before the arrival.
        assert!((walked..=walked + 1).contains(&told), "told {told}, walked {walked}: {repositories:#?}");
    }
}
