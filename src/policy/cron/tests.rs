//! Lines read, refused and run; the runs of lines at random against an oracle that walks minute by minute.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, Datelike, NaiveDateTime, TimeDelta, Timelike, Utc};
use chrono_tz::Tz;
use proptest::prelude::*;

use super::{Cron, longest_gap};
use crate::base::Timestamp;

fn at(text: &str) -> Timestamp {
    Timestamp::from_unix_micros(text.parse::<DateTime<Utc>>().unwrap().timestamp_micros()).unwrap()
}

fn cron(text: &str) -> Cron {
    text.parse().unwrap()
}

/// The next `count` runs after `after`, as local times with their offset.
fn runs(line: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
    let (cron, zone, mut time) = (cron(line), zone.parse::<Tz>().unwrap(), at(after));
    let mut runs = Vec::new();
    for _ in 0..count {
        time = cron.next_after(time, zone).unwrap();
        runs.push(super::utc(time).with_timezone(&zone).format("%m-%d %H:%M %z").to_string());
    }
    runs
}

#[test]
fn what_is_wrong_is_said_with_its_field() {
    for (line, words) in [
        ("0 2 * *", "'0 2 * *' has 4 fields; a crontab line has five"),
        ("0 0 2 * * *", "has 6 fields; a crontab line has five"),
        ("", "has 0 fields"),
        ("60 * * * *", "the minute '60': '60' is not 0 to 59"),
        ("0 24 * * *", "the hour '24': '24' is not 0 to 23"),
        ("0 0 0 * *", "the day of month '0': '0' is not 1 to 31"),
        ("0 0 1 13 *", "the month '13': '13' is not 1 to 12 or JAN to DEC"),
        ("0 0 * * 8", "the day of week '8': '8' is not 0 to 7 or SUN to SAT"),
        ("0 0 * * MOON", "the day of week 'MOON'"),
        ("0 0 * MON *", "the month 'MON'"),
        ("MON 0 * * *", "the minute 'MON'"),
        ("+5 0 * * *", "'+5' is not 0 to 59"),
        ("-5 0 * * *", "'' is not 0 to 59"),
        ("1, 0 * * *", "the minute '1,': '' is not 0 to 59"),
        ("*/0 * * * *", "'0' is no step; a step is a number from 1 to 60"),
        ("*/90 * * * *", "'90' is no step"),
        ("*/x * * * *", "'x' is no step"),
        ("5/15 * * * *", "a step follows * or a range: '5-59/15'"),
        ("0 22-2 * * *", "the hour '22-2': '22-2' ends before it begins"),
        ("0 0 * * FRI-MON", "'FRI-MON' ends before it begins"),
        ("0 0 30 2 *", "never comes"),
        ("0 0 31 4,6,9,11 *", "never comes"),
        ("@reboot", "'@reboot' is not known"),
        ("0 0 ? * *", "the day of month '?'"),
        ("99999999999 * * * *", "is not 0 to 59"),
    ] {
        let error = line.parse::<Cron>().unwrap_err();
        assert!(error.contains(words), "{line}: {error}");
    }
}

#[test]
fn it_reads_as_written() {
    for line in ["0 3 * * SUN", "@daily", "*/15 8-18/2 1,15 jan-mar mon-fri", "0 0 31 4 1"] {
        assert_eq!(cron(line).to_string(), line);
    }
    assert_eq!(cron("  @weekly ").to_string(), "@weekly");
}

#[test]
fn sundays_have_two_numbers_and_a_name() {
    let sundays = runs("0 3 * * 0", "UTC", "2026-11-21T00:00:00Z", 3);
    assert_eq!(sundays, ["11-22 03:00 +0000", "11-29 03:00 +0000", "12-06 03:00 +0000"]);
    for same in ["0 3 * * 7", "0 3 * * SUN", "0 3 * * sun", "0 3 * * 7,0", "0 3 * * */7", "0 3 * * SUN-SUN"] {
        assert_eq!(runs(same, "UTC", "2026-11-21T00:00:00Z", 3), sundays, "{same}");
    }
    let weekend = runs("0 3 * * 6-7", "UTC", "2026-11-20T12:00:00Z", 3);
    assert_eq!(weekend, ["11-21 03:00 +0000", "11-22 03:00 +0000", "11-28 03:00 +0000"]);
    assert_eq!(runs("0 3 * * SAT-SUN", "UTC", "2026-11-20T12:00:00Z", 3), weekend);
    assert_eq!(runs("0 3 * * 0-6", "UTC", "2026-11-20T12:00:00Z", 3), runs("0 3 * * *", "UTC", "2026-11-20T12:00:00Z", 3));
}

#[test]
fn either_day_is_enough_when_both_are_restricted() {
    // 1 December 2026 is a Tuesday.
    assert_eq!(
        runs("0 0 1 * MON", "UTC", "2026-11-28T00:00:00Z", 3),
        ["11-30 00:00 +0000", "12-01 00:00 +0000", "12-07 00:00 +0000"]
    );
    // With a star in front both must hold: odd days that are Mondays.
    assert_eq!(runs("0 0 */2 * MON", "UTC", "2026-11-28T00:00:00Z", 2), ["12-07 00:00 +0000", "12-21 00:00 +0000"]);
}

#[test]
fn a_skipped_time_comes_after_the_gap_and_a_repeated_one_once() {
    let zurich = "Europe/Zurich";
    let spring = "2027-03-27T12:00:00Z";
    assert_eq!(runs("30 2 * * *", zurich, spring, 2), ["03-28 03:00 +0200", "03-29 02:30 +0200"]);
    assert_eq!(runs("0,30 2,3 * * *", zurich, spring, 3), ["03-28 03:00 +0200", "03-28 03:30 +0200", "03-29 02:00 +0200"]);
    assert_eq!(runs("0 */2 * * *", zurich, "2027-03-27T23:30:00Z", 2), ["03-28 03:00 +0200", "03-28 04:00 +0200"]);
    let autumn = "2026-10-24T12:00:00Z";
    assert_eq!(runs("30 2 * * *", zurich, autumn, 2), ["10-25 02:30 +0200", "10-26 02:30 +0100"]);
    assert_eq!(runs("30 2 * * *", zurich, "2026-10-25T01:15:00Z", 1), ["10-26 02:30 +0100"]);
    let new_york = "America/New_York";
    assert_eq!(runs("30 2 * * *", new_york, "2027-03-13T12:00:00Z", 2), ["03-14 03:00 -0400", "03-15 02:30 -0400"]);
    assert_eq!(runs("30 1 * * *", new_york, "2026-10-31T12:00:00Z", 2), ["11-01 01:30 -0400", "11-02 01:30 -0500"]);
    // Half an hour: 02:00 to 02:30 is skipped in October, 01:30 to 02:00 is repeated in April.
    let lord_howe = "Australia/Lord_Howe";
    assert_eq!(runs("15 2 * * *", lord_howe, "2026-10-03T00:00:00Z", 2), ["10-04 02:30 +1100", "10-05 02:15 +1100"]);
    assert_eq!(runs("45 1 * * *", lord_howe, "2027-04-03T00:00:00Z", 2), ["04-04 01:45 +1100", "04-05 01:45 +1030"]);
    assert_eq!(runs("30 2 * * *", "Asia/Tokyo", "2027-03-27T12:00:00Z", 2), ["03-28 02:30 +0900", "03-29 02:30 +0900"]);
    // A gap that swallows the end of a day, and one at its beginning.
    assert_eq!(runs("30 23 * * SAT", "America/Scoresbysund", "2027-03-27T12:00:00Z", 1), ["03-28 00:00 -0100"]);
    assert_eq!(runs("@daily", "Africa/Cairo", "2027-04-29T12:00:00Z", 2), ["04-30 01:00 +0300", "05-01 00:00 +0300"]);
}

#[test]
fn every_quarter_of_an_hour_stays_one_when_the_clock_changes() {
    for zone in ["Europe/Zurich", "America/New_York", "Australia/Lord_Howe", "Asia/Tokyo", "Asia/Kathmandu"] {
        let (cron, zone) = (cron("*/15 * * * *"), zone.parse::<Tz>().unwrap());
        let mut time = at("2026-09-30T23:50:00Z");
        let end = at("2027-05-01T00:00:00Z");
        time = cron.next_after(time, zone).unwrap();
        while time < end {
            let next = cron.next_after(time, zone).unwrap();
            assert_eq!(next.since(time), Duration::from_secs(900), "{zone} after {time}");
            assert_eq!(cron.last_until(next.minus(Duration::from_micros(1)), zone), Some(time), "{zone}");
            time = next;
        }
    }
}

#[test]
fn the_longest_pause_is_found() {
    const HOUR: u64 = 3600;
    for (line, zone, hours) in [
        ("@hourly", "UTC", 1),
        ("0 3 * * *", "UTC", 24),
        ("0 3 * * *", "Asia/Tokyo", 24),
        // Autumn: a day of 25 hours.
        ("0 3 * * *", "Europe/Zurich", 25),
        ("0 3 * * SUN", "Europe/Zurich", 7 * 24 + 1),
        ("0 */6 * * *", "Europe/Zurich", 7),
        ("0 8,18 * * MON-FRI", "UTC", 62),
        ("0 0 1 * *", "UTC", 31 * 24),
        ("0 0 31 * *", "UTC", 61 * 24),
        ("0 0 1 1 *", "UTC", 366 * 24),
        ("0 0 29 2 *", "UTC", 1461 * 24),
        ("0 0 1,15 * MON", "UTC", 7 * 24),
        ("*/15 * 1 * *", "UTC", 30 * 24),
    ] {
        let gap = cron(line).longest_gap(at("2026-11-21T13:00:00Z"), zone.parse().unwrap());
        let extra = if line.starts_with("*/15") { 900 } else { 0 };
        assert_eq!(gap, Some(Duration::from_secs(hours * HOUR + extra)), "{line} in {zone}");
    }
    let lord_howe: Tz = "Australia/Lord_Howe".parse().unwrap();
    assert_eq!(cron("@hourly").longest_gap(at("2026-11-21T13:00:00Z"), lord_howe), Some(Duration::from_secs(5400)));
    assert_eq!(cron("0 0 29 2 *").longest_gap(at("2097-01-01T00:00:00Z"), Tz::UTC), None);
    assert_eq!(longest_gap(&[], at("2026-11-21T13:00:00Z"), Tz::UTC), None);
    // Together: a full on Sunday, increments on the other days, the last of them in the evening.
    let together = [&cron("0 3 * * SUN"), &cron("0 3,21 * * MON-SAT")];
    let gap = longest_gap(&together, at("2026-11-21T13:00:00Z"), Tz::UTC);
    assert_eq!(gap, Some(Duration::from_secs(24 * HOUR)), "Sunday 03:00 to Monday 03:00");
}

#[test]
fn years_ahead_and_back_are_reached() {
    let leap_day = cron("0 0 29 2 *");
    assert_eq!(leap_day.next_after(at("2028-02-29T00:00:00Z"), Tz::UTC), Some(at("2032-02-29T00:00:00Z")));
    assert_eq!(leap_day.last_until(at("2028-02-28T23:59:59.999Z"), Tz::UTC), Some(at("2024-02-29T00:00:00Z")));
    assert_eq!(leap_day.last_until(at("2028-02-29T00:00:00Z"), Tz::UTC), Some(at("2028-02-29T00:00:00Z")));
    let year = cron("@yearly");
    assert_eq!(year.next_after(at("2026-12-31T23:59:59.999999Z"), Tz::UTC), Some(at("2027-01-01T00:00:00Z")));
    assert_eq!(year.next_after(at("2100-01-01T00:00:00Z"), Tz::UTC), None);
    assert_eq!(year.last_until(at("1969-12-31T00:00:00Z"), Tz::UTC), None);
}

/// A field as text, with the values that it is to mean.
fn field(first: u32, last: u32) -> impl Strategy<Value = (String, BTreeSet<u32>)> {
    let ordered = move || (first..=last, first..=last).prop_map(|(a, b)| (a.min(b), a.max(b)));
    prop_oneof![
        3 => Just(("*".to_owned(), (first..=last).collect())),
        1 => (1..=(last - first + 1)).prop_map(move |step| (format!("*/{step}"), (first..=last).step_by(step as usize).collect())),
        2 => (first..=last).prop_map(|value| (value.to_string(), BTreeSet::from([value]))),
        1 => ordered().prop_map(|(a, b)| (format!("{a}-{b}"), (a..=b).collect())),
        1 => (ordered(), 1..=5_u32).prop_map(|((a, b), step)| (format!("{a}-{b}/{step}"), (a..=b).step_by(step as usize).collect())),
        1 => (first..=last, ordered()).prop_map(|(one, (a, b))| (format!("{one},{a}-{b}"), (a..=b).chain([one]).collect())),
    ]
}

/// What a crontab line means, written down a second time.
struct Oracle {
    minutes: BTreeSet<u32>,
    hours: BTreeSet<u32>,
    days_of_month: BTreeSet<u32>,
    months: BTreeSet<u32>,
    days_of_week: BTreeSet<u32>,
    both_days: bool,
}

impl Oracle {
    fn matches(&self, time: NaiveDateTime) -> bool {
        let in_month = self.days_of_month.contains(&time.day());
        let in_week = self.days_of_week.contains(&time.weekday().num_days_from_sunday());
        self.minutes.contains(&time.minute())
            && self.hours.contains(&time.hour())
            && self.months.contains(&time.month())
            && if self.both_days { in_month && in_week } else { in_month || in_week }
    }

    /// The runs from `from` to `end`, minute by minute, with a day before to see what was already there.
    fn runs(&self, from: DateTime<Utc>, end: DateTime<Utc>, zone: Tz) -> Vec<DateTime<Utc>> {
        let minute = TimeDelta::minutes(1);
        let mut moment = from - TimeDelta::days(1);
        let mut seen = moment.with_timezone(&zone).naive_local();
        let mut runs = Vec::new();
        while moment < end {
            moment += minute;
            let local = moment.with_timezone(&zone).naive_local();
            let is_due = if self.hours.len() == 24 {
                self.matches(local)
            } else {
                let mut passed = std::iter::successors(Some(seen + minute), |time| Some(*time + minute));
                passed.by_ref().take_while(|time| *time <= local).any(|time| self.matches(time))
            };
            seen = seen.max(local);
            if is_due && moment > from {
                runs.push(moment);
            }
        }
        runs
    }
}

/// Moments at which the clock changes in one of [`ZONES`], and one at which it does not.
const MOMENTS: [&str; 8] = [
    "2026-10-25T01:00:00Z",
    "2027-03-28T01:00:00Z",
    "2026-11-01T06:00:00Z",
    "2027-03-14T07:00:00Z",
    "2026-10-03T15:30:00Z",
    "2031-04-05T15:00:00Z",
    "2028-02-28T00:00:00Z",
    "2035-03-25T01:00:00Z",
];
const ZONES: [&str; 6] =
    ["Europe/Zurich", "America/New_York", "Australia/Lord_Howe", "America/Scoresbysund", "Asia/Kolkata", "UTC"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn runs_are_those_of_the_oracle(
        minute in field(0, 59), hour in field(0, 23), day in field(1, 31), month in field(1, 12), weekday in field(0, 6),
        around in prop::sample::select(&MOMENTS[..]), zone in prop::sample::select(&ZONES[..]),
        days in prop_oneof![3 => 2..4_i64, 1 => 30..60_i64], minutes_before in 0..2880_i64, probe in any::<prop::sample::Index>()
    ) {
        let line = format!("{} {} {} {} {}", minute.0, hour.0, day.0, month.0, weekday.0);
        let Ok(cron) = line.parse::<Cron>() else {
            prop_assert!(line.parse::<Cron>().unwrap_err().contains("never comes"), "{line}");
            return Ok(());
        };
        let both_days = day.0.starts_with('*') || weekday.0.starts_with('*');
        let oracle = Oracle {
            minutes: minute.1, hours: hour.1, days_of_month: day.1, months: month.1, days_of_week: weekday.1, both_days,
        };
        let zone: Tz = zone.parse().unwrap();
        let from = around.parse::<DateTime<Utc>>().unwrap() - TimeDelta::minutes(minutes_before);
        let end = from + TimeDelta::days(days);
        let expected: Vec<Timestamp> = oracle.runs(from, end, zone).into_iter().map(|run| super::timestamp(run).unwrap()).collect();

        let (from, end) = (super::timestamp(from).unwrap(), super::timestamp(end).unwrap());
        let mut found = Vec::new();
        let mut time = from;
        while let Some(next) = cron.next_after(time, zone).filter(|next| *next <= end) {
            found.push(next);
            time = next;
        }
        prop_assert_eq!(&found, &expected, "{} in {}", &line, zone);
        // Looking back from any moment finds the newest of them; none is in between.
        let moment = from.plus(Duration::from_secs(60 * probe.index(days as usize * 1440) as u64));
        let newest = expected.iter().filter(|run| **run <= moment).max();
        let looked_back = cron.last_until(moment, zone);
        prop_assert_eq!(looked_back.filter(|run| *run > from), newest.copied(), "{} in {} until {}", &line, zone, moment);
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_longest_pause_is_that_of_the_runs_one_by_one(
        // Few enough runs that all of 28 years can be walked.
        minute in 0..60_u32, hours in prop::collection::btree_set(0..24_u32, 1..3), day in field(1, 31), weekday in field(0, 6),
        other_hour in 0..24_u32, other_weekday in field(0, 6), zone in prop::sample::select(&ZONES[..])
    ) {
        let hours: Vec<String> = hours.iter().map(u32::to_string).collect();
        let lines = [
            format!("{minute} {} {} * {}", hours.join(","), day.0, weekday.0),
            format!("15 {other_hour} * * {}", other_weekday.0),
        ];
        let crons = [cron(&lines[0]), cron(&lines[1])];
        let (crons, zone) = ([&crons[0], &crons[1]], zone.parse::<Tz>().unwrap());
        let from = at("2026-11-21T13:53:27Z");
        let end = from.plus(super::CALENDAR_ROUND);
        let (mut longest, mut time) = (None, crons.iter().filter_map(|cron| cron.last_until(from, zone)).max().unwrap());
        while let Some(next) = crons.iter().filter_map(|cron| cron.next_after(time, zone)).min().filter(|next| *next <= end) {
            longest = longest.max(Some(next.since(time)));
            time = next;
        }
        prop_assert_eq!(longest_gap(&crons, from, zone), longest, "{:?} in {}", &lines, zone);
    }
}
