//! Moments in time, always UTC, in whole microseconds: the resolution of PostgreSQL's commit times.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Local, NaiveDate, NaiveDateTime, TimeZone, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A moment: microseconds since 1970-01-01T00:00:00Z, without leap seconds.
///
/// Serialised as RFC 3339 in UTC with six fractional digits (`2026-11-20T21:40:02.123456Z`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// Smallest and largest representable moments: years 0001 and 9999, so that text stays four-digit.
const MIN_MICROS: i64 = -62_135_596_800_000_000;
const MAX_MICROS: i64 = 253_402_300_799_999_999;

impl Timestamp {
    /// The system clock's present moment.
    pub fn now() -> Self {
        Self(Utc::now().timestamp_micros())
    }

    /// From microseconds since the Unix epoch; `None` outside the years 1 to 9999.
    pub fn from_unix_micros(micros: i64) -> Option<Self> {
        (MIN_MICROS..=MAX_MICROS).contains(&micros).then_some(Self(micros))
    }

    /// From a file system's or another system clock's time; saturates at the representable range.
    pub fn from_system_time(time: std::time::SystemTime) -> Self {
        Self(DateTime::<Utc>::from(time).timestamp_micros().clamp(MIN_MICROS, MAX_MICROS))
    }

    /// Microseconds since the Unix epoch.
    pub fn unix_micros(self) -> i64 {
        self.0
    }

    /// `self − earlier`, zero when `earlier` is the later one.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The moment `duration` before this one, saturating.
    pub fn minus(self, duration: Duration) -> Self {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(micros).max(MIN_MICROS))
    }

    /// The moment `duration` after this one, saturating.
    pub fn plus(self, duration: Duration) -> Self {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(micros).min(MAX_MICROS))
    }

    fn to_chrono(self) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(self.0).expect("range is checked on construction")
    }

    /// The day on which it lies, in UTC.
    pub fn date_utc(self) -> NaiveDate {
        self.to_chrono().date_naive()
    }

    /// The form used in object names, to the microsecond: `20261120T214002.123456Z`.
    pub fn compact(self) -> String {
        self.to_chrono().format("%Y%m%dT%H%M%S%.6fZ").to_string()
    }

    /// The form used in ids, to the second, rounded down: `20261120T214002Z`.
    pub fn compact_seconds(self) -> String {
        self.to_chrono().format("%Y%m%dT%H%M%SZ").to_string()
    }

    /// Parses [`Timestamp::compact`] and [`Timestamp::compact_seconds`]; `None` for anything else.
    pub fn parse_compact(text: &str) -> Option<Self> {
        let ascii = text.is_ascii() && matches!(text.len(), 16 | 23);
        let naive = NaiveDateTime::parse_from_str(text.strip_suffix('Z')?, "%Y%m%dT%H%M%S%.f").ok()?;
        let parsed = Self::from_unix_micros(naive.and_utc().timestamp_micros())?;
        (ascii && (parsed.compact() == text || parsed.compact_seconds() == text)).then_some(parsed)
    }

    /// For people: `2026-11-20 21:40:02 UTC`, with fractions only when there are any.
    pub fn human(self) -> String {
        let format = if self.0.rem_euclid(1_000_000) == 0 { "%Y-%m-%d %H:%M:%S UTC" } else { "%Y-%m-%d %H:%M:%S%.6f UTC" };
        self.to_chrono().format(format).to_string()
    }

    /// For people, to the second, rounded down: `2026-11-20 21:40:02 UTC`.
    pub fn human_seconds(self) -> String {
        self.to_chrono().format("%Y-%m-%d %H:%M:%S UTC").to_string()
    }

    /// RFC 3339 in UTC with six fractional digits.
    pub fn rfc3339(self) -> String {
        self.to_chrono().format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
    }

    /// Parses what an operator types: RFC 3339, `2026-11-20 21:40[:02[.5]]` with an optional zone
    /// (`Z`, `UTC`, `+01:00`; the machine's local zone when absent), a date, `now`, or `15m ago`.
    ///
    /// A local time that a daylight-saving change skips or repeats is refused, not guessed.
    pub fn parse_human(text: &str, now: Timestamp) -> Result<Self, String> {
        let text = text.trim();
        if text.eq_ignore_ascii_case("now") {
            return Ok(now);
        }
        if let Some(age) = text.strip_suffix("ago") {
            let age = super::units::parse_duration(age.trim()).map_err(|why| format!("'{text}': {why}"))?;
            return Ok(now.minus(age));
        }
        if let Ok(time) = DateTime::parse_from_rfc3339(&text.replacen(' ', "T", 1)) {
            return Self::from_unix_micros(time.timestamp_micros()).ok_or_else(|| format!("'{text}' is out of range"));
        }
        let (body, zone) = split_zone(text);
        let naive = ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M"]
            .iter()
            .find_map(|format| NaiveDateTime::parse_from_str(body, format).ok())
            .or_else(|| NaiveDate::parse_from_str(body, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0))
            .ok_or_else(|| format!("'{text}' is not a time; write 2026-11-20 21:40:02, 2026-11-20T21:40:02Z or '15m ago'"))?;
        let micros = match zone {
            Zone::Offset(zone) => zone.from_local_datetime(&naive).single().map(|time| time.timestamp_micros()),
            Zone::Local => Local.from_local_datetime(&naive).single().map(|time| time.timestamp_micros()),
        };
        let micros = micros.ok_or_else(|| {
            format!("'{text}' is skipped or repeated by a change of the local clock; add a zone, for example +01:00")
        })?;
        Self::from_unix_micros(micros).ok_or_else(|| format!("'{text}' is out of range"))
    }
}

enum Zone {
    Offset(chrono::FixedOffset),
    Local,
}

fn split_zone(text: &str) -> (&str, Zone) {
    let utc = chrono::FixedOffset::east_opt(0).expect("zero is a valid offset");
    for suffix in ["UTC", "utc", "Z", "z"] {
        if let Some(body) = text.strip_suffix(suffix) {
            return (body.trim_end(), Zone::Offset(utc));
        }
    }
    // A sign after the date part starts a numeric offset.
    if let Some(sign) = text.char_indices().skip(10).find(|(_, c)| matches!(c, '+' | '-')).map(|(at, _)| at)
        && let Ok(offset) = parse_offset(&text[sign..])
    {
        return (text[..sign].trim_end(), Zone::Offset(offset));
    }
    (text, Zone::Local)
}

fn parse_offset(text: &str) -> Result<chrono::FixedOffset, ()> {
    let sign = if text.starts_with('-') { -1 } else { 1 };
    let digits: String = text[1..].chars().filter(|c| *c != ':').collect();
    let number = |part: &str| part.parse::<i32>().map_err(|_| ());
    let (hours, minutes) = match digits.len() {
        1 | 2 => (number(&digits)?, 0),
        4 => (number(digits.get(..2).ok_or(())?)?, number(digits.get(2..).ok_or(())?)?),
        _ => return Err(()),
    };
    chrono::FixedOffset::east_opt(sign * (hours * 3600 + minutes * 60)).ok_or(())
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.human())
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rfc3339())
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.rfc3339())
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        DateTime::parse_from_rfc3339(&text)
            .ok()
            .and_then(|time| Self::from_unix_micros(time.timestamp_micros()))
            .ok_or_else(|| serde::de::Error::custom(format!("'{text}' is not an RFC 3339 time")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(text: &str) -> i64 {
        DateTime::parse_from_rfc3339(text).unwrap().timestamp_micros()
    }

    #[test]
    fn compact_names_round_trip_and_reject_other_forms() {
        let time = Timestamp::from_unix_micros(micros("2026-11-20T21:40:02.123456Z")).unwrap();
        assert_eq!(time.compact(), "20261120T214002.123456Z");
        assert_eq!(Timestamp::parse_compact(&time.compact()), Some(time));
        assert_eq!(Timestamp::parse_compact("20261120T214002Z").unwrap().compact_seconds(), "20261120T214002Z");
        for bad in ["", "-", "?", "20261120T214002.1Z", "20261120T214002.123456", "2026-11-20T21:40:02Z", "20261320T214002Z"] {
            assert_eq!(Timestamp::parse_compact(bad), None, "{bad}");
        }
    }

    #[test]
    fn people_may_write_times_in_several_ways() {
        let now = Timestamp::from_unix_micros(micros("2026-11-20T21:55:02Z")).unwrap();
        let expected = micros("2026-11-20T21:40:02Z");
        for text in [
            "2026-11-20T21:40:02Z",
            "2026-11-20 21:40:02Z",
            "2026-11-20 21:40:02 UTC",
            "2026-11-20 22:40:02+01",
            "2026-11-20 22:40:02 +01:00",
            "2026-11-20T20:10:02-0130",
            "15m ago",
            "900s ago",
        ] {
            assert_eq!(Timestamp::parse_human(text, now).unwrap().unix_micros(), expected, "{text}");
        }
        assert_eq!(Timestamp::parse_human("2026-11-20 21:40 UTC", now).unwrap().unix_micros(), micros("2026-11-20T21:40:00Z"));
        assert_eq!(Timestamp::parse_human("now", now).unwrap(), now);
        for bad in ["yesterday", "2026-02-30 00:00Z", "ago", "21:40", "2026-11-20 25:00"] {
            assert!(Timestamp::parse_human(bad, now).is_err(), "{bad}");
        }
    }

    #[test]
    fn human_form_shows_fractions_only_when_there_are_any() {
        let time = Timestamp::from_unix_micros(micros("2026-11-20T21:40:02Z")).unwrap();
        assert_eq!(time.human(), "2026-11-20 21:40:02 UTC");
        assert_eq!(time.plus(Duration::from_micros(5)).human(), "2026-11-20 21:40:02.000005 UTC");
        assert_eq!(
            Timestamp::parse_human(&time.plus(Duration::from_micros(5)).human(), time).unwrap(),
            time.plus(Duration::from_micros(5))
        );
    }
}
