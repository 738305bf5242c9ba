//! Examples: places in the calendar, and the reasons as they are told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::*;

const DAY: Duration = Duration::from_secs(86_400);

const NOTHING: Retention = Retention { window: DAY, ..Retention::NOTHING };

fn at(text: &str) -> Timestamp {
    Timestamp::parse_compact(&format!("{text}T010000Z")).expect("a day")
}

fn full(day: &str) -> Holding {
    let number = day.parse().expect("a number");
    Holding {
        id: format!("{day}T010000Z-full-aaaa").parse().expect("an id"),
        base: None,
        incarnation: Incarnation::postgres(15, 1),
        start_lsn: Lsn(number),
        stop_lsn: Lsn(number + 1),
        stop_time: at(day),
        restorable: true,
        proven: false,
        locked_until: None,
        held: false,
    }
}

fn facts(backups: Vec<Holding>, now: &str) -> Facts {
    let branch = Branch {
        incarnation: Incarnation::postgres(15, 1),
        timeline: TimelineId(1),
        backups: backups.iter().map(|backup| backup.id.clone()).collect(),
        served: backups.iter().map(|backup| backup.id.clone()).collect(),
        late: BTreeSet::new(),
        latest: at(now),
    };
    Facts { backups, branches: vec![branch], begun: vec![], logs: vec![], contradicted: BTreeMap::new(), now: at(now) }
}

/// The days of what stays for this reason, and the reason.
fn stays(retention: Retention, days: &[&str], now: &str, part: &str) -> Vec<String> {
    let facts = facts(days.iter().map(|day| full(day)).collect(), now);
    let verdicts = decide(&retention, &facts).into_iter().filter(|verdict| verdict.kept);
    let told = verdicts.filter_map(|verdict| {
        Some(format!("{} {}", &verdict.id.as_str()[..8], verdict.why.iter().find(|why| why.contains(part))?))
    });
    told.collect()
}

#[test]
fn a_leap_day_is_a_day_and_ends_its_month() {
    let days = ["20280228", "20280229", "20280301"];
    let daily = stays(Retention { daily: 2, ..NOTHING }, &days, "20280309", "daily");
    assert_eq!(daily, ["20280229 daily, the newest of 2028-02-29 (2 of 2)", "20280301 daily, the newest of 2028-03-01 (1 of 2)"]);
    let monthly = stays(Retention { monthly: 12, ..NOTHING }, &days, "20280309", "monthly");
    assert_eq!(
        monthly,
        ["20280229 monthly, the newest of 2028-02 (2 of 12)", "20280301 monthly, the newest of 2028-03 (1 of 12)"]
    );
}

#[test]
fn a_week_begins_on_monday_and_may_lie_in_two_years() {
    // A Sunday, a Thursday, the Friday and the Sunday of the same week in the next year, a Monday.
    let days = ["20261227", "20261231", "20270101", "20270103", "20270104"];
    let weekly = stays(Retention { weekly: 9, ..NOTHING }, &days, "20270120", "weekly");
    assert_eq!(
        weekly,
        [
            "20261227 weekly, the newest of 2026-W52 (3 of 9)",
            "20270103 weekly, the newest of 2026-W53 (2 of 9)",
            "20270104 weekly, the newest of 2027-W01 (1 of 9)"
        ]
    );
    let yearly = stays(Retention { yearly: 1, ..NOTHING }, &days, "20270120", "yearly");
    assert_eq!(yearly, ["20270104 yearly, the newest of 2027 (1 of 1)"]);
}

#[test]
fn periods_without_a_chain_take_no_place_and_the_legal_minimum_outlasts_the_places() {
    let days = ["20200110", "20260110", "20261001", "20261031", "20261110"];
    let monthly = Retention { monthly: 2, ..NOTHING };
    let kept = stays(monthly, &days, "20261120", "monthly");
    assert_eq!(kept, ["20261031 monthly, the newest of 2026-10 (2 of 2)", "20261110 monthly, the newest of 2026-11 (1 of 2)"]);
    let legal = stays(Retention { legal_minimum: Some(365 * DAY), ..monthly }, &days, "20261120", "legal");
    assert_eq!(legal, ["20260110 monthly, the newest of 2026-01, younger than the legal minimum of 365 d"]);
}

#[test]
fn why_a_backup_stays_or_goes_is_told() {
    let (first, second, third) = (full("20261101"), full("20261105"), full("20261110"));
    let incr = Holding {
        id: "20261106T010000Z-incr-aaaa".parse().expect("an id"),
        base: Some(second.id.clone()),
        stop_time: at("20261106"),
        locked_until: Some(at("20271101")),
        ..full("20261106")
    };
    let future = Holding { stop_time: at("20990101"), ..full("20261111") };
    let broken = Holding { restorable: false, ..full("20261102") };
    let retention = Retention { window: 7 * DAY, keep_chains: 1, monthly: 1, daily: 1, ..NOTHING };
    let verdicts = decide(&retention, &facts(vec![first, broken, second, incr.clone(), third, future], "20261120"));
    let told: Vec<(bool, &str)> = verdicts.iter().map(|verdict| (verdict.kept, verdict.why[0].as_str())).collect();
    let builds_on = format!("{} builds on it", incr.id);
    assert_eq!(
        told,
        [
            (false, "older than the 7 d window, not of the newest chain, in no daily or monthly place"),
            (false, "it cannot be restored, and is older than the 7 d window"),
            (true, builds_on.as_str()),
            (true, "it is locked until 2027-11-01 01:00:00 UTC"),
            (true, "the 7 d window needs it (the newest that ended before 2026-11-13 01:00:00 UTC)"),
            (true, "it ended within the 7 d window"),
        ]
    );
    assert!(verdicts[5].why.contains(&"it is from the future: it ended at 2099-01-01 01:00:00 UTC".to_owned()));
}

#[test]
fn thinned_log_goes_in_whole_segments() {
    let holding = |day: &str, start, stop| Holding { start_lsn: Lsn(start), stop_lsn: Lsn(stop), proven: true, ..full(day) };
    let mut facts = facts(vec![holding("20261101", 130, 190), holding("20261105", 420, 430)], "20261120");
    facts.logs = vec![Extent { incarnation: Incarnation::postgres(15, 1), from: Lsn(0), to: Lsn(900), segment_bytes: 100 }];
    let spans = |retention: &Retention, facts: &Facts| -> Vec<(u64, u64, bool)> {
        decide_log(retention, facts).iter().map(|log| (log.from.0, log.to.0, log.kept)).collect()
    };
    let thin = Retention { thin_log: true, ..NOTHING };
    assert_eq!(spans(&thin, &facts), [(0, 100, false), (100, 200, true), (200, 400, false), (400, 900, true)]);
    assert_eq!(spans(&NOTHING, &facts), [(0, 100, false), (100, 900, true)]);
    // What is in flight needs all from its start on; when it does not say which, all of it.
    let id: BackupId = "20261120T000000Z-incr-aaaa".parse().expect("an id");
    let log_start = Some((Incarnation::postgres(15, 1), Lsn(250)));
    facts.begun = vec![Begun { id: id.clone(), base: None, log_start }];
    assert_eq!(spans(&thin, &facts)[2..], [(200, 900, true)]);
    facts.begun = vec![Begun { id, base: None, log_start: None }];
    assert_eq!(spans(&thin, &facts), [(0, 900, true)]);
}

#[test]
fn a_chain_keeps_its_place_when_only_its_full_lost_its_log() {
    let full_of = |day: &str, restorable| Holding { restorable, ..full(day) };
    let id: BackupId = "20261016T010000Z-incr-aaaa".parse().expect("an id");
    let broken = full_of("20261015", false);
    let incr = Holding { id: id.clone(), base: Some(broken.id.clone()), stop_time: at("20261016"), ..full("20261016") };
    let others = [full_of("20260910", true), full_of("20261005", true), full_of("20261119", true)];
    let retention = Retention { monthly: 3, ..NOTHING };
    let backups = others.into_iter().chain([broken, incr]).collect();
    let verdicts = decide(&retention, &facts(backups, "20261120"));
    let told: Vec<(&str, bool)> = verdicts.iter().map(|verdict| (&verdict.id.as_str()[..8], verdict.kept)).collect();
    // Nor does the chain of which the incr restores take the place of the one that is whole.
    let expected = [("20260910", true), ("20261005", true), ("20261119", true), ("20261015", true), ("20261016", true)];
    assert_eq!(told, expected);
    assert_eq!(verdicts[4].why, ["monthly, the newest of 2026-10 (2 of 3)"]);
}

#[test]
fn what_an_operator_wants_to_stay_stays() {
    let held = Holding { held: true, ..full("20260101") };
    let verdicts = decide(&NOTHING, &facts(vec![held, full("20260102"), full("20261110")], "20261120"));
    assert_eq!(verdicts[0].why, ["an operator withdrew its mark"]);
    assert!(verdicts[0].kept && !verdicts[1].kept, "{verdicts:?}");
}
