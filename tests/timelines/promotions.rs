//! One source through two promotions: every timeline, the abandoned ones too, gives back exactly its own rows.

use std::time::Duration;

use lifeboat::base::Timestamp;

use super::support::amcheck;
use super::support::ledger::Ledger;
use super::support::majors::on_majors;
use super::support::oracle::Oracle;
use super::support::postgres::{Cluster, Stop};
use super::support::random;
use super::support::scenario::{SOURCE, Scenario};
use super::{
    archive, assert_says, backups, load_and_archive, plan, protect_instead, refused, scenario, time, timeline_of, wait_for_object,
};

on_majors! {
    a_promotion_before_an_older_one_is_understood: pg13 13, pg15 15;
    every_timeline_comes_back: pg15 15, pg18 18;
}

/// How long each stretch of load lasts.
const STRETCH: Duration = Duration::from_millis(1500);

/// What the first timeline holds, before and after it was left.
struct First {
    oracle: Oracle,
    /// The moment at which the second timeline leaves it.
    left_at: Timestamp,
    /// A moment that only the first timeline has.
    late: Timestamp,
    /// A transaction that only the first timeline has.
    late_xid: u32,
}

fn every_timeline_comes_back(major: u32) {
    let Some(mut scenario) = scenario(major, 16) else { return };
    let seed = random::seed("promotions");
    let first = first_timeline(&mut scenario, seed);

    let left_at = first.left_at.rfc3339();
    let data = scenario.restore("second", &["--to", &left_at]);
    let mut second = scenario.open(&data);
    assert_eq!(timeline_of(&second), 2);
    first.oracle.assert_at(&mut second.sql(), first.left_at);
    protect_instead(&scenario, &scenario.cluster, &second);
    before_the_second_timeline_is_archived(&scenario, &first);
    archive(&second);
    what_only_the_first_timeline_has_is_refused(&scenario, &first);

    let (mut ledger, before) = (Ledger::attach(&second, seed + 1), Timestamp::now());
    load_and_archive(&second, &mut ledger, STRETCH);
    scenario.full_backup();
    load_and_archive(&second, &mut ledger, STRETCH);
    let oracle = ledger.oracle();
    the_second_timeline(&scenario, &first, &oracle, before, seed);
    a_position_that_both_have(&scenario, &first);
    the_first_timeline_again(&scenario, &first);
    third_timeline(&scenario, &mut second, &oracle, seed);
}

/// Load, full, load; then more of it that the second timeline will not have, with a backup and a restore point.
fn first_timeline(scenario: &mut Scenario, seed: u64) -> First {
    let mut ledger = Ledger::create(&scenario.cluster, seed);
    scenario.full_backup();
    load_and_archive(&scenario.cluster, &mut ledger, STRETCH);
    scenario.full_backup();
    load_and_archive(&scenario.cluster, &mut ledger, STRETCH);
    let split = Timestamp::now();
    load_and_archive(&scenario.cluster, &mut ledger, STRETCH);
    scenario.full_backup();
    scenario.cluster.sql().execute("SELECT pg_create_restore_point('only-first')");
    let late_from = Timestamp::now();
    load_and_archive(&scenario.cluster, &mut ledger, STRETCH);

    let oracle = ledger.oracle();
    let mut random = random::generator(seed, 1);
    // A commit follows it before the third backup begins: that backup holds what the second timeline has not.
    let third = backups(scenario)[2].start_time;
    let follows = oracle.commits().iter().map(|commit| commit.time).filter(|time| *time < third).max().expect("commits");
    let left_at = oracle.pick_moments(1, split..=follows, &mut random)[0];
    let late = oracle.pick_moments(1, late_from..=*oracle.span().end(), &mut random)[0];
    let late_xid = oracle.commits().last().expect("commits").xid;
    scenario.cluster.stop(Stop::Fast);
    First { oracle, left_at, late, late_xid }
}

/// Its history is archived, but none of its segments: what it may have done since it began is not known.
fn before_the_second_timeline_is_archived(scenario: &Scenario, first: &First) {
    wait_for_object(scenario, "00000002_from-00000001-");
    let said = refused(scenario, &["--to", &first.late.rfc3339()]);
    assert_says(&said, &["the archived log does not reach it", "nearest", "--timeline 1"]);
    // The first timeline went on, and the second has nothing yet: which of them is meant must be said.
    let said = refused(scenario, &["--to", "latest"]);
    assert_says(&said, &["cannot tell which history", "timelines 2 and 1", "--timeline 1", "--timeline 2"]);
    let latest = plan(scenario, &["--to", "latest", "--timeline", "2"]);
    let stop: lifeboat::base::Lsn = latest["stop_lsn"].as_str().expect("a position").parse().expect("an LSN");
    let kept = first.oracle.commits_until(first.left_at);
    assert!(stop < first.oracle.commits()[kept].start, "{stop} is of the abandoned branch");
}

/// Backup, restore point, transaction and position of the abandoned branch, while the second timeline is shorter.
fn what_only_the_first_timeline_has_is_refused(scenario: &Scenario, first: &First) {
    let abandoned = &backups(scenario)[2];
    let said = refused(scenario, &["--backup", &abandoned.id]);
    assert_says(&said, &[&abandoned.id, "lies on timeline 1", "timeline 2 left it", "--timeline 1"]);
    let said = refused(scenario, &["--to-name", "only-first"]);
    assert_says(&said, &["there is no such restore point", "timeline 2", "--timeline 1", "lifeboat list"]);
    let said = refused(scenario, &["--to-xid", &first.late_xid.to_string()]);
    assert_says(&said, &["no such transaction ended", "timeline 2", "window", "--timeline 1"]);
    let last = first.oracle.commits().last().expect("commits").start.to_string();
    let said = refused(scenario, &["--to-lsn", &last]);
    assert_says(&said, &["the archived log does not reach it", "reachable", "--timeline 1"]);
    for target in [["--to-name", "only-first"], ["--to-xid", &first.late_xid.to_string()], ["--to-lsn", &last]] {
        let there = plan(scenario, &[&target[..], &["--timeline", "1"]].concat());
        assert_eq!(there["timeline"], 1, "{target:?}");
    }
}

/// From its own backup, and from those of the first timeline across the switch: before it, between, and after it.
fn the_second_timeline(scenario: &Scenario, first: &First, oracle: &Oracle, before: Timestamp, seed: u64) {
    let taken = backups(scenario);
    let own = &taken[3];
    assert_eq!((taken.len(), own.timeline), (4, 2));
    let mut random = random::generator(seed, 2);
    let early = first.oracle.pick_moments(1, taken[1].stop_time..=first.left_at, &mut random)[0];
    let earliest = first.oracle.pick_moments(1, taken[0].stop_time..=taken[1].start_time, &mut random)[0];
    let across = oracle.pick_moments(2, before..=own.start_time, &mut random);
    let later = oracle.pick_moments(2, own.stop_time..=*oracle.span().end(), &mut random);
    let cases = [
        (earliest, &first.oracle, &taken[0]),
        (early, &first.oracle, &taken[1]),
        (across[0], oracle, &taken[1]),
        (across[1], oracle, &taken[1]),
        (later[0], oracle, own),
        (later[1], oracle, own),
    ];
    for (number, (moment, oracle, backup)) in cases.iter().enumerate() {
        let moment_text = moment.rfc3339();
        assert_eq!(plan(scenario, &["--to", &moment_text])["backup"], backup.id, "{moment_text}");
        let restored = scenario.restore_and_start(&format!("two-{number}"), &["--to", &moment_text]);
        oracle.assert_at(&mut restored.sql(), *moment);
    }
    let moment = later[1].rfc3339();
    let restored = scenario.restore_and_start("two-from-first", &["--to", &moment, "--backup", &taken[0].id]);
    oracle.assert_at(&mut restored.sql(), later[1]);
    amcheck::assert_clean(&restored);

    let noted = plan(scenario, &["--to", &moment])["notes"].to_string();
    assert_says(&noted, &["timeline 1 went on after", "where timeline 2 left it", "--timeline 1 leads to them"]);
    let noted = plan(scenario, &["--to", &early.rfc3339()])["notes"].to_string();
    assert!(!noted.contains("went on after"), "nothing before {} was abandoned: {noted}", early.rfc3339());
    // Between the two timelines nothing happened: the rows are those at which the second one began.
    let said = refused(scenario, &["--to", &first.late.rfc3339()]);
    assert_says(&said, &["cannot tell which history", "timelines 2 and 1", "--timeline 1", "--timeline 2"]);
    what_happened_is_not_told_of_one_timeline_alone(scenario, first);
    let between = plan(scenario, &["--to", &first.late.rfc3339(), "--timeline", "2"]);
    assert!(time(between["last_commit"].as_str().expect("a time")) <= first.left_at, "{between}");
}

/// `timeline` does not hide the one that is not the newest, and does not choose between them.
fn what_happened_is_not_told_of_one_timeline_alone(scenario: &Scenario, first: &First) {
    let around = first.late.rfc3339();
    let arguments = ["timeline", SOURCE, "--around", &around];
    let words = ["cannot tell which history", "timelines 2 and 1 have this time", "--timeline 2", "--timeline 1"];
    assert_says(&scenario.rescue.run(&arguments).exits(1).stderr, &words);
    for timeline in ["1", "2"] {
        let chosen = scenario.rescue.ok(&[&arguments[..], &["--timeline", timeline]].concat()).stdout;
        assert_says(&chosen, &[&format!("timeline {timeline}\n"), "transactions that committed around"]);
    }
    let shown = scenario.rescue.ok(&["timeline", SOURCE]).stdout;
    assert_says(&shown, &["timeline 2\n", "timeline 1 went on beside it, until ", ": --timeline 1\n"]);
    let shown = scenario.rescue.ok(&["timeline", SOURCE, "--timeline", "2"]).stdout;
    assert!(!shown.contains("went on beside"), "it was chosen: {shown}");
}

/// After the switch both timelines count on: a position there means two things.
fn a_position_that_both_have(scenario: &Scenario, first: &First) {
    let kept = first.oracle.commits_until(first.left_at);
    let beyond = first.oracle.commits()[kept].start.to_string();
    let said = refused(scenario, &["--to-lsn", &beyond]);
    assert_says(&said, &["cannot tell which LSN", "timelines 2 and 1 both have it", "--timeline 1"]);
    for timeline in [1, 2] {
        let there = plan(scenario, &["--to-lsn", &beyond, "--timeline", &timeline.to_string()]);
        assert_eq!(there["timeline"], timeline);
    }
}

/// A moment after the switch that only the first timeline has, from its backup there and from the one before.
fn the_first_timeline_again(scenario: &Scenario, first: &First) {
    let taken = backups(scenario);
    let late = first.late.rfc3339();
    let arguments = ["--to", &late, "--timeline", "1"];
    assert_eq!(plan(scenario, &arguments)["backup"], taken[2].id);
    let restored = scenario.restore_and_start("one-again", &arguments);
    first.oracle.assert_at(&mut restored.sql(), first.late);
    assert!(timeline_of(&restored) > 2, "a new timeline must not be called as one that exists");
    let earlier = [&arguments[..], &["--backup", &taken[0].id]].concat();
    let restored = scenario.restore_and_start("one-again-from-first", &earlier);
    first.oracle.assert_at(&mut restored.sql(), first.late);
    amcheck::assert_clean(&restored);
}

/// A second promotion; the way from the very first backup leads over two switches.
fn third_timeline(scenario: &Scenario, second: &mut Cluster, oracle: &Oracle, seed: u64) {
    let mut random = random::generator(seed, 3);
    let own = &backups(scenario)[3];
    let left_at = oracle.pick_moments(1, own.stop_time..=*oracle.span().end(), &mut random)[0];
    second.stop(Stop::Fast);
    let data = scenario.restore("third", &["--to", &left_at.rfc3339()]);
    let third = scenario.open(&data);
    assert_eq!(timeline_of(&third), 3);
    protect_instead(scenario, second, &third);
    let (mut ledger, before) = (Ledger::attach(&third, seed + 2), Timestamp::now());
    load_and_archive(&third, &mut ledger, STRETCH);
    let newest = ledger.oracle();
    let moment = newest.pick_moments(1, before..=*newest.span().end(), &mut random)[0];
    let text = moment.rfc3339();
    for (number, backup) in [0, 1, 3].iter().enumerate() {
        let id = &backups(scenario)[*backup].id;
        let restored = scenario.restore_and_start(&format!("three-{number}"), &["--to", &text, "--backup", id]);
        newest.assert_at(&mut restored.sql(), moment);
    }
    // A backup of a restored, promoted cluster, restored again.
    scenario.full_backup();
    load_and_archive(&third, &mut ledger, Duration::from_millis(300));
    let newest = ledger.oracle();
    let restored = scenario.restore_and_start("three-own", &["--to", "latest"]);
    newest.assert_tables(&mut restored.sql(), &newest.rows_at_end(), "the end of timeline 3");
}

/// Recovery along the second timeline that stops before that one began: its history names a parent that it has nothing of.
fn a_promotion_before_an_older_one_is_understood(major: u32) {
    let Some(mut scenario) = scenario(major, 16) else { return };
    let seed = random::seed("earlier promotion");
    let mut ledger = Ledger::create(&scenario.cluster, seed);
    scenario.full_backup();
    let began = Timestamp::now();
    load_and_archive(&scenario.cluster, &mut ledger, STRETCH);
    let middle = *ledger.oracle().span().end();
    scenario.full_backup();
    load_and_archive(&scenario.cluster, &mut ledger, STRETCH);
    let (oracle, mut random) = (ledger.oracle(), random::generator(seed, 1));
    let late = oracle.pick_moments(1, backups(&scenario)[1].stop_time..=*oracle.span().end(), &mut random)[0];
    let early = oracle.pick_moments(1, began..=middle, &mut random)[0];
    scenario.cluster.stop(Stop::Fast);

    let data = scenario.restore("second", &["--to", &late.rfc3339()]);
    let mut second = scenario.open(&data);
    archive(&second);
    second.stop(Stop::Fast);
    let data = scenario.restore("third", &["--to", &early.rfc3339()]);
    let third = scenario.open(&data);
    assert_eq!(timeline_of(&third), 3);
    oracle.assert_at(&mut third.sql(), early);
    let (mut ledger, before) = (Ledger::attach(&third, seed + 1), Timestamp::now());
    load_and_archive(&third, &mut ledger, STRETCH);
    let newest = ledger.oracle();
    let moment = newest.pick_moments(1, before..=*newest.span().end(), &mut random)[0];
    // The second backup lies beyond the point where the third timeline left the first.
    assert_eq!(plan(&scenario, &["--to", &moment.rfc3339()])["backup"], backups(&scenario)[0].id);
    refused(&scenario, &["--to", &moment.rfc3339(), "--backup", &backups(&scenario)[1].id]);
    let restored = scenario.restore_and_start("newest", &["--to", &moment.rfc3339()]);
    newest.assert_at(&mut restored.sql(), moment);
    amcheck::assert_clean(&restored);
}
