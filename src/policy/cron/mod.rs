//! Five-field crontab lines, and when they run in a zone.
//!
//! Days: when both fields of days are restricted (neither begins with `*`), a day that is in one of them is enough;
//! else it must be in both. As crontab(5) has it.
//!
//! When the clock changes: a line that names hours runs at each of its local times once. A time that is skipped comes at
//! the first moment after the gap (together with others of the same gap and with one that is due then anyhow), a time
//! that is repeated comes the first time only. A line for every hour (`*`) goes by the running clock: what is skipped
//! does not come, what is repeated comes twice, so that `*/15 * * * *` keeps its 15 minutes of elapsed time.
//!
//! The crate `cron` finds the local times, on a calendar without zones; it ends with the year 2100.

mod fields;
mod foreign;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Days, MappedLocalTime, NaiveDateTime, Offset, TimeDelta, TimeZone, Utc};
use chrono_tz::{GapInfo, Tz};
use cron::Schedule;

use self::fields::Fields;
use crate::base::Timestamp;

/// After 28 years the calendar repeats itself, weekdays and leap days together.
const CALENDAR_ROUND: Duration = Duration::from_secs(7 * 1461 * 86_400);

/// A five-field crontab line: minute, hour, day of month, month, day of week (0 and 7 are Sunday).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cron {
    text: String,
    /// Together, all its local times.
    times: Calendar,
    /// The midnights of its days.
    days: Calendar,
    every_hour: bool,
}

impl FromStr for Cron {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fields = Fields::parse(text)?;
        Ok(Self {
            text: text.trim().to_owned(),
            times: Calendar::new(&fields.lines()),
            days: Calendar::new(&fields.midnights()),
            every_hour: fields.every_hour(),
        })
    }
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Cron {
    /// The first run after `after`; `None` when there is none until the year 2100.
    pub fn next_after(&self, after: Timestamp, zone: Tz) -> Option<Timestamp> {
        let (after, local, repeat) = place(after, zone);
        let mut best = None;
        // Of two passes through the same local times, both are looked at.
        let mut from = local - repeat;
        while let Some(time) = self.times.next(from) {
            best = self.moments(time, zone).into_iter().filter(|moment| *moment > after).chain(best).min();
            if best.is_some() && time > local + repeat {
                break;
            }
            from = time;
        }
        timestamp(best?)
    }

    /// The last run at or before `until`.
    pub fn last_until(&self, until: Timestamp, zone: Tz) -> Option<Timestamp> {
        let (until, local, repeat) = place(until, zone);
        let mut best = None;
        let mut from = local + repeat + TimeDelta::seconds(1);
        while let Some(time) = self.times.previous(from) {
            best = self.moments(time, zone).into_iter().filter(|moment| *moment <= until).chain(best).max();
            if best.is_some() && time < local - repeat {
                break;
            }
            from = time;
        }
        timestamp(best?)
    }

    /// The longest pause between two runs, as [`longest_gap`].
    pub fn longest_gap(&self, from: Timestamp, zone: Tz) -> Option<Duration> {
        longest_gap(&[self], from, zone)
    }

    /// Whether `day`, a midnight, is one of its days.
    fn runs_on(&self, day: NaiveDateTime) -> bool {
        self.days.next(day - TimeDelta::seconds(1)) == Some(day)
    }

    /// When the local time `time` comes as a run: never, once or twice.
    fn moments(&self, time: NaiveDateTime, zone: Tz) -> Vec<DateTime<Utc>> {
        match zone.from_local_datetime(&time) {
            MappedLocalTime::Single(moment) => vec![moment.to_utc()],
            MappedLocalTime::Ambiguous(first, second) if self.every_hour => vec![first.to_utc(), second.to_utc()],
            MappedLocalTime::Ambiguous(first, _) => vec![first.to_utc()],
            MappedLocalTime::None if self.every_hour => Vec::new(),
            MappedLocalTime::None => first_moment(time, zone).into_iter().collect(),
        }
    }
}

/// The longest pause between two runs of any of `lines` within the 28 years (one round of the calendar) after `from`;
/// `None` when there are not two runs until the year 2100.
pub fn longest_gap(lines: &[&Cron], from: Timestamp, zone: Tz) -> Option<Duration> {
    let next_after = |time| lines.iter().filter_map(|line| line.next_after(time, zone)).min();
    let last_until = |time| lines.iter().filter_map(|line| line.last_until(time, zone)).max();
    let next_day = |day| lines.iter().filter_map(|line| line.days.next(day)).min();
    let end = from.plus(CALENDAR_ROUND);
    let (mut longest, mut seen) = (None, Vec::new());
    let mut coming = next_day(local(utc(from), zone));
    while let Some(day) = coming {
        let begin = first_moment(day, zone)?;
        let before = timestamp(begin - TimeDelta::microseconds(1))?;
        let Some(mut run) = next_after(before).filter(|run| *run <= end) else { break };
        longest = longest.max(last_until(before).map(|last| run.since(last)));
        // Ordinary days on which the same lines run look the same inside: one is enough.
        let tomorrow = day + Days::new(1);
        let clock_changes = offset_seconds(begin, zone) != offset_seconds(first_moment(tomorrow, zone)?, zone);
        let pattern: Vec<bool> = lines.iter().map(|line| line.runs_on(day)).collect();
        if clock_changes || !seen.contains(&pattern) {
            while let Some(next) = next_after(run).filter(|next| local(utc(*next), zone) < tomorrow) {
                longest = longest.max(Some(next.since(run)));
                run = next;
            }
            if !clock_changes {
                seen.push(pattern);
            }
        }
        coming = next_day(day);
    }
    longest
}

/// The moment, its local time, and how far that local time lies from its repetition (zero when it comes once).
fn place(moment: Timestamp, zone: Tz) -> (DateTime<Utc>, NaiveDateTime, TimeDelta) {
    let local = local(utc(moment), zone);
    let repeat = match zone.from_local_datetime(&local) {
        MappedLocalTime::Ambiguous(first, second) => second - first,
        _ => TimeDelta::zero(),
    };
    (utc(moment), local, repeat)
}

/// When the local time comes for the first time; when it is skipped, the first moment after the gap.
fn first_moment(time: NaiveDateTime, zone: Tz) -> Option<DateTime<Utc>> {
    let moment = zone.from_local_datetime(&time).earliest().or_else(|| GapInfo::new(&time, &zone)?.end);
    Some(moment?.to_utc())
}

fn local(moment: DateTime<Utc>, zone: Tz) -> NaiveDateTime {
    moment.with_timezone(&zone).naive_local()
}

fn offset_seconds(moment: DateTime<Utc>, zone: Tz) -> i32 {
    zone.offset_from_utc_datetime(&moment.naive_utc()).fix().local_minus_utc()
}

fn utc(moment: Timestamp) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(moment.unix_micros()).expect("a Timestamp lies in the years 1 to 9999")
}

fn timestamp(moment: DateTime<Utc>) -> Option<Timestamp> {
    Timestamp::from_unix_micros(moment.timestamp_micros())
}

/// Local times on a calendar without zones: those of any of these lines.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Calendar(Vec<Schedule>);

impl Calendar {
    fn new(lines: &[String]) -> Self {
        Self(lines.iter().map(|line| line.parse().expect("the fields were checked")).collect())
    }

    fn next(&self, after: NaiveDateTime) -> Option<NaiveDateTime> {
        let next = |schedule: &Schedule| schedule.after(&after.and_utc()).next();
        self.0.iter().filter_map(next).min().map(|time| time.naive_utc())
    }

    fn previous(&self, before: NaiveDateTime) -> Option<NaiveDateTime> {
        let previous = |schedule: &Schedule| schedule.after(&before.and_utc()).next_back();
        self.0.iter().filter_map(previous).max().map(|time| time.naive_utc())
    }
}
