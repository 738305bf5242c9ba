//! Positions in a write-ahead log: LSNs, timelines and segment names, as PostgreSQL writes them.
//!
//! Source: PostgreSQL `src/include/access/xlog_internal.h` (segment naming) and `xlogdefs.h`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Timestamp;

/// A log sequence number: a byte offset in the log. Shown as `A3/F1000028`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The LSN `bytes` further on, saturating.
    pub fn plus(self, bytes: u64) -> Self {
        Self(self.0.saturating_add(bytes))
    }

    /// Bytes from `earlier` to here; zero when `earlier` is the later one.
    pub fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Lsn {
    /// The position of a moment, in a source that has no positions of its own: microseconds since 1970.
    pub fn of_moment(moment: Timestamp) -> Self {
        Self(u64::try_from(moment.unix_micros()).unwrap_or(0))
    }

    /// Undoes [`Lsn::of_moment`].
    pub fn moment(self) -> Option<Timestamp> {
        i64::try_from(self.0).ok().and_then(Timestamp::from_unix_micros)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = |part: &str| {
            let hex = (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit());
            hex.then(|| u32::from_str_radix(part, 16).ok()).flatten()
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Self(u64::from(parse(high)?) << 32 | u64::from(parse(low)?))))
            .ok_or_else(|| format!("'{text}' is not an LSN; write it as A3/F1000028"))
    }
}

/// A timeline, counted from 1. Named with eight hex digits (`0000000A`), shown in decimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TimelineId(pub u32);

impl TimelineId {
    /// Eight upper-case hex digits, as in segment and history file names.
    pub fn hex(self) -> String {
        format!("{:08X}", self.0)
    }

    /// Parses [`TimelineId::hex`]; zero is no timeline.
    pub fn parse_hex(text: &str) -> Option<Self> {
        Some(Self(parse_upper_hex(text)?)).filter(|timeline| timeline.0 > 0)
    }
}

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Size of a WAL segment in bytes: a power of two from 1 MiB to 1 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct SegmentSize(u32);

impl SegmentSize {
    /// PostgreSQL's default, 16 MiB.
    pub const DEFAULT: SegmentSize = SegmentSize(16 << 20);

    /// `None` unless a power of two from 1 MiB to 1 GiB.
    pub fn new(size_bytes: u32) -> Option<Self> {
        (size_bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&size_bytes)).then_some(Self(size_bytes))
    }

    /// The size in bytes.
    pub fn bytes(self) -> u64 {
        u64::from(self.0)
    }

    /// Segments in one 4 GiB "xlogid", the middle part of a segment's name.
    fn per_xlogid(self) -> u64 {
        0x1_0000_0000 / self.bytes()
    }
}

impl<'de> Deserialize<'de> for SegmentSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let size = u32::deserialize(deserializer)?;
        Self::new(size).ok_or_else(|| serde::de::Error::custom(format!("{size} is not a WAL segment size")))
    }
}

/// One WAL segment file: a timeline and the segment's number, counted from LSN 0.
///
/// The name has 24 hex digits; what number it stands for depends on the [`SegmentSize`].
/// Ordered by timeline, then number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment {
    /// The timeline the segment belongs to.
    pub timeline: TimelineId,
    /// Segment number: its first byte's LSN divided by the segment size.
    pub number: u64,
}

impl Segment {
    /// The segment that holds the byte at `lsn`.
    pub fn containing(timeline: TimelineId, lsn: Lsn, size: SegmentSize) -> Self {
        Self { timeline, number: lsn.0 / size.bytes() }
    }

    /// The segment that holds the byte before `lsn`: where a record that ends at `lsn` ends.
    pub fn ending_at(timeline: TimelineId, lsn: Lsn, size: SegmentSize) -> Self {
        Self { timeline, number: lsn.0.saturating_sub(1) / size.bytes() }
    }

    /// LSN of the segment's first byte.
    pub fn start(self, size: SegmentSize) -> Lsn {
        Lsn(self.number * size.bytes())
    }

    /// LSN one past the segment's last byte; of the last segment that has a name, the last LSN there is.
    pub fn end(self, size: SegmentSize) -> Lsn {
        Lsn((self.number + 1).saturating_mul(size.bytes()))
    }

    /// The following segment on the same timeline.
    pub fn next(self) -> Self {
        Self { number: self.number + 1, ..self }
    }

    /// The preceding segment on the same timeline; `None` for number 0.
    pub fn previous(self) -> Option<Self> {
        Some(Self { number: self.number.checked_sub(1)?, ..self })
    }

    /// The file name, 24 upper-case hex digits.
    pub fn name(self, size: SegmentSize) -> String {
        format!("{:08X}{:08X}{:08X}", self.timeline.0, self.number / size.per_xlogid(), self.number % size.per_xlogid())
    }

    /// Parses a 24-digit name; `None` when it is not one that PostgreSQL would write for this size.
    pub fn parse(name: &str, size: SegmentSize) -> Option<Self> {
        if name.len() != 24 || !name.is_ascii() {
            return None;
        }
        let timeline = TimelineId::parse_hex(&name[..8])?;
        let (high, low) = (u64::from(parse_upper_hex(&name[8..16])?), u64::from(parse_upper_hex(&name[16..])?));
        (low < size.per_xlogid()).then_some(Self { timeline, number: high * size.per_xlogid() + low })
    }
}

fn parse_upper_hex(text: &str) -> Option<u32> {
    let upper = text.len() == 8 && text.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
    upper.then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

impl Serialize for Lsn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Lsn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lsn_text_round_trips() {
        let lsn: Lsn = "A3/F1000028".parse().unwrap();
        assert_eq!(lsn, Lsn(0xA3_F100_0028));
        assert_eq!(lsn.to_string(), "A3/F1000028");
        for bad in ["", "A3", "A3/", "/1", "A3/F10000280", "g/0", "+1/0"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad}");
        }
    }

    #[test]
    fn segment_names_follow_the_segment_size() {
        let size = SegmentSize::DEFAULT;
        let segment = Segment::containing(TimelineId(1), Lsn(0xA3_F100_0028), size);
        assert_eq!(segment.name(size), "00000001000000A3000000F1");
        assert_eq!(Segment::parse("00000001000000A3000000F1", size), Some(segment));
        assert_eq!(segment.start(size), Lsn(0xA3_F100_0000));
        let last = Segment::parse("00000001000000A3000000FF", size).unwrap();
        assert_eq!(last.next().name(size), "00000001000000A400000000");
        let large = SegmentSize::new(1 << 30).unwrap();
        assert_eq!(Segment::parse("000000010000000000000003", large).unwrap().next().name(large), "000000010000000100000000");
        assert_eq!(Segment::parse("000000010000000000000004", large), None);
        for bad in [
            "",
            "00000001000000a3000000F1",
            "00000000000000A3000000F1",
            "00000001000000A3000001F1",
            "00000001000000A3000000F1.partial",
        ] {
            assert_eq!(Segment::parse(bad, size), None, "{bad}");
        }
    }

    #[test]
    fn a_record_that_ends_on_a_boundary_belongs_to_the_segment_before() {
        let size = SegmentSize::DEFAULT;
        let boundary = Lsn(size.bytes() * 5);
        assert_eq!(Segment::ending_at(TimelineId(1), boundary, size).number, 4);
        assert_eq!(Segment::containing(TimelineId(1), boundary, size).number, 5);
    }
}
