//! Log that was let go: what lies before a floor, and ranges between backups that stay. What is missing there is not lost.

use serde::{Deserialize, Serialize};

use crate::base::{Incarnation, Lsn, Segment, SegmentSize};

/// Log of one incarnation that nothing needs, on every timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRange {
    /// The incarnation.
    pub incarnation: Incarnation,
    /// Its first byte.
    pub from: Lsn,
    /// One past its last byte. Segments that lie wholly between the two are not needed.
    pub to: Lsn,
}

/// All log of one incarnation that was let go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogCut {
    /// Ascending; none touches the next.
    ranges: Vec<(Lsn, Lsn)>,
}

impl LogCut {
    /// What lies before `floor`, and `ranges`, in any order.
    pub fn new(floor: Lsn, ranges: impl IntoIterator<Item = (Lsn, Lsn)>) -> Self {
        let mut all: Vec<(Lsn, Lsn)> = ranges.into_iter().chain([(Lsn(0), floor)]).filter(|(from, to)| from < to).collect();
        all.sort_unstable();
        let mut merged: Vec<(Lsn, Lsn)> = Vec::new();
        for (from, to) in all {
            match merged.last_mut() {
                Some(last) if from <= last.1 => last.1 = last.1.max(to),
                _ => merged.push((from, to)),
            }
        }
        Self { ranges: merged }
    }

    /// The part of `ranges` that concerns `incarnation`.
    pub fn of<'a>(incarnation: &Incarnation, ranges: impl IntoIterator<Item = &'a LogRange>) -> Self {
        let own = ranges.into_iter().filter(|range| range.incarnation == *incarnation);
        Self::new(Lsn(0), own.map(|range| (range.from, range.to)))
    }

    /// What is in either.
    pub fn or(&self, other: &Self) -> Self {
        Self::new(Lsn(0), self.ranges.iter().chain(&other.ranges).copied())
    }

    /// What is in both.
    pub fn and(&self, other: &Self) -> Self {
        let pairs =
            self.ranges.iter().flat_map(|own| other.ranges.iter().map(move |other| (own.0.max(other.0), own.1.min(other.1))));
        Self::new(Lsn(0), pairs)
    }

    /// Whether all log from `from` up to `to` was let go.
    pub fn covers(&self, from: Lsn, to: Lsn) -> bool {
        self.ranges.iter().any(|range| range.0 <= from && to <= range.1)
    }

    /// Whether all of a segment was let go.
    pub fn covers_segment(&self, segment: Segment, size: SegmentSize) -> bool {
        self.covers(segment.start(size), segment.end(size))
    }

    /// As ranges of `incarnation`, ascending.
    pub fn ranges(&self, incarnation: &Incarnation) -> Vec<LogRange> {
        let range = |(from, to): &(Lsn, Lsn)| LogRange { incarnation: incarnation.clone(), from: *from, to: *to };
        self.ranges.iter().map(range).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(floor: u64, ranges: &[(u64, u64)]) -> LogCut {
        LogCut::new(Lsn(floor), ranges.iter().map(|(from, to)| (Lsn(*from), Lsn(*to))))
    }

    #[test]
    fn ranges_that_touch_are_one() {
        let cut = cut(100, &[(300, 400), (100, 150), (390, 500), (7, 7)]);
        assert!(cut.covers(Lsn(0), Lsn(150)) && cut.covers(Lsn(310), Lsn(500)));
        assert!(!cut.covers(Lsn(140), Lsn(310)) && !cut.covers(Lsn(0), Lsn(151)) && !cut.covers(Lsn(500), Lsn(501)));
        let (before, inside) = (Segment::parse("000000030000000000000001", SegmentSize::DEFAULT), SegmentSize::DEFAULT.bytes());
        let one = LogCut::new(Lsn(0), [(Lsn(inside), Lsn(2 * inside))]);
        assert!(one.covers_segment(before.unwrap(), SegmentSize::DEFAULT), "on every timeline");
        let less = LogCut::new(Lsn(0), [(Lsn(inside + 1), Lsn(2 * inside))]);
        assert!(!less.covers_segment(before.unwrap(), SegmentSize::DEFAULT), "wholly or not at all");
    }

    #[test]
    fn what_is_in_both_is_in_each() {
        let (own, other) = (cut(100, &[(200, 300), (400, 500)]), cut(50, &[(90, 210), (290, 410), (490, 600)]));
        assert_eq!(own.and(&other), cut(50, &[(90, 100), (200, 210), (290, 300), (400, 410), (490, 500)]));
        assert_eq!(own.or(&own.and(&other)), own);
        assert_eq!(own.or(&other), cut(600, &[]));
        assert_eq!(own.and(&cut(0, &[])), cut(0, &[]));
    }
}
