//! The five fields of a crontab line as numbers, and the words for what is wrong with them.
//!
//! What passes here runs at least once in eight years: a line that can never come is refused.

use std::collections::BTreeSet;

/// One of the five fields.
struct Kind {
    name: &'static str,
    first: u32,
    last: u32,
    /// Names of the values, from `first` on.
    names: &'static [&'static str],
}

const MONTHS: [&str; 12] = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];
/// Sunday, written as 7.
const SUNDAY_AGAIN: u32 = 7;

const KINDS: [Kind; 5] = [
    Kind { name: "minute", first: 0, last: 59, names: &[] },
    Kind { name: "hour", first: 0, last: 23, names: &[] },
    Kind { name: "day of month", first: 1, last: 31, names: &[] },
    Kind { name: "month", first: 1, last: 12, names: &MONTHS },
    Kind { name: "day of week", first: 0, last: SUNDAY_AGAIN, names: &WEEKDAYS },
];

const SHORTHANDS: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

/// Which values each field allows.
pub(super) struct Fields {
    minutes: BTreeSet<u32>,
    hours: BTreeSet<u32>,
    days_of_month: BTreeSet<u32>,
    months: BTreeSet<u32>,
    /// 0 is Sunday; no 7.
    days_of_week: BTreeSet<u32>,
    /// Whether a day must be in both sets of days, because one of the two fields begins with `*`; else one is enough.
    both_days: bool,
}

impl Fields {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let line = match SHORTHANDS.iter().find(|(name, _)| *name == text.trim()) {
            Some((_, line)) => line,
            None if text.trim().starts_with('@') => {
                let known = SHORTHANDS.map(|(name, _)| name).join(", ");
                return Err(format!("'{}' is not known; the short forms are {known}", text.trim()));
            }
            None => text,
        };
        let words: Vec<&str> = line.split_whitespace().collect();
        let [minute, hour, day_of_month, month, day_of_week] = words[..] else {
            return Err(format!(
                "'{text}' has {} fields; a crontab line has five: minute, hour, day of month, month, day of week",
                words.len()
            ));
        };
        let mut days_of_week = KINDS[4].values(day_of_week)?;
        if days_of_week.remove(&SUNDAY_AGAIN) {
            days_of_week.insert(0);
        }
        let fields = Self {
            minutes: KINDS[0].values(minute)?,
            hours: KINDS[1].values(hour)?,
            days_of_month: KINDS[2].values(day_of_month)?,
            months: KINDS[3].values(month)?,
            days_of_week,
            both_days: day_of_month.starts_with('*') || day_of_week.starts_with('*'),
        };
        if fields.both_days && !fields.has_a_day() {
            return Err(format!("'{text}' never comes: no month of it has such a day"));
        }
        Ok(fields)
    }

    fn has_a_day(&self) -> bool {
        let longest = |month: &u32| match month {
            2 => 29,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        self.months.iter().any(|month| self.days_of_month.iter().any(|day| *day <= longest(month)))
    }

    /// Whether the line goes by the running clock, because it names no hour.
    pub(super) fn every_hour(&self) -> bool {
        self.hours.len() == 24
    }

    /// The lines of the crate `cron` that together say the same: it wants a seconds field, counts Sunday as 1 (so it is
    /// given names), and wants both fields of days to hold.
    pub(super) fn lines(&self) -> Vec<String> {
        let line = |days_of_month: &str, days_of_week: &str| {
            let (minutes, hours) = (numbers(&self.minutes, 60), numbers(&self.hours, 24));
            format!("0 {minutes} {hours} {days_of_month} {} {days_of_week}", numbers(&self.months, 12))
        };
        let days_of_month = numbers(&self.days_of_month, 31);
        let names: Vec<&str> = self.days_of_week.iter().map(|day| WEEKDAYS[*day as usize]).collect();
        let days_of_week = if names.len() == 7 { "*".to_owned() } else { names.join(",") };
        if self.both_days {
            vec![line(&days_of_month, &days_of_week)]
        } else {
            vec![line(&days_of_month, "*"), line("*", &days_of_week)]
        }
    }

    /// As [`Fields::lines`], for the midnights of the days on which it runs.
    pub(super) fn midnights(&self) -> Vec<String> {
        let midnight = || BTreeSet::from([0]);
        let days = Self {
            minutes: midnight(),
            hours: midnight(),
            days_of_month: self.days_of_month.clone(),
            months: self.months.clone(),
            days_of_week: self.days_of_week.clone(),
            both_days: self.both_days,
        };
        days.lines()
    }
}

fn numbers(values: &BTreeSet<u32>, all: usize) -> String {
    if values.len() == all {
        return "*".to_owned();
    }
    values.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

impl Kind {
    /// The values of one field: a list of `*`, `7`, `MON`, `1-5`, `*/15` or `8-18/2`.
    fn values(&self, field: &str) -> Result<BTreeSet<u32>, String> {
        let mut values = BTreeSet::new();
        for item in field.split(',') {
            values.extend(self.item(item).map_err(|why| format!("the {} '{field}': {why}", self.name))?);
        }
        Ok(values)
    }

    fn item(&self, item: &str) -> Result<impl Iterator<Item = u32> + use<>, String> {
        let (span, step) = match item.split_once('/') {
            Some((span, step)) => (span, Some(step)),
            None => (item, None),
        };
        let (first, last) = match span.split_once('-') {
            // 7 is 0 over again: `*/7` must not find both.
            _ if span == "*" => (self.first, self.last.min(self.first + self.count() - 1)),
            Some((first, last)) => {
                let (first, last) = (self.value(first)?, self.value(last)?);
                // SAT-SUN: the Sunday at the end of the week.
                (first, if !self.names.is_empty() && last == 0 && first > 0 { SUNDAY_AGAIN } else { last })
            }
            None => {
                if let Some(step) = step {
                    return Err(format!("a step follows * or a range: '{span}-{}/{step}'", self.last));
                }
                self.value(span).map(|value| (value, value))?
            }
        };
        if first > last {
            return Err(format!("'{span}' ends before it begins; write two ranges with a comma"));
        }
        let step = step.map_or(Ok(1), |step| self.step(step))?;
        Ok((first..=last).step_by(step))
    }

    fn step(&self, text: &str) -> Result<usize, String> {
        let count = self.count() as usize;
        let step = digits(text).map(|step| step as usize).filter(|step| (1..=count).contains(step));
        step.ok_or_else(|| format!("'{text}' is no step; a step is a number from 1 to {count}"))
    }

    /// How many different values there are.
    fn count(&self) -> u32 {
        if self.last == SUNDAY_AGAIN { SUNDAY_AGAIN } else { self.last - self.first + 1 }
    }

    fn value(&self, text: &str) -> Result<u32, String> {
        let named = self.names.iter().position(|name| name.eq_ignore_ascii_case(text)).map(|at| at as u32 + self.first);
        let value = named.or_else(|| digits(text)).filter(|value| (self.first..=self.last).contains(value));
        value.ok_or_else(|| {
            let names = match self.names {
                [first, .., last] => format!(" or {first} to {last}"),
                _ => String::new(),
            };
            format!("'{text}' is not {} to {}{names}", self.first, self.last)
        })
    }
}

/// A number in plain digits: `parse` alone would take `+5`.
fn digits(text: &str) -> Option<u32> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}
