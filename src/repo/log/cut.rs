//! Log that was let go: what lies before a floor, and ranges between backups that stay. What is missing there is not lost.
//!
//! A range is let go on the timelines that were there when it was decided, and on no other: a server that was restored to
//! a moment inside it writes the same positions again, on a timeline of its own, and that log is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::base::{Incarnation, Lsn, Segment, SegmentSize, TimelineId};

/// Log of one incarnation that nothing needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRange {
    /// The incarnation.
    pub incarnation: Incarnation,
    /// Its first byte.
    pub from: Lsn,
    /// One past its last byte. Segments that lie wholly between the two are not needed.
    pub to: Lsn,
    /// The timelines that were asked when it was decided; all of them when there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub timelines: Vec<TimelineId>,
}

/// All log of one incarnation that was let go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogCut {
    /// On each timeline that `on` does not name.
    everywhere: Spans,
    /// On these timelines; what is let go everywhere is part of each.
    on: BTreeMap<TimelineId, Spans>,
}

impl LogCut {
    /// What lies before `floor`, on every timeline.
    pub fn before(floor: Lsn) -> Self {
        Self { everywhere: Spans::new([(Lsn(0), floor)]), on: BTreeMap::new() }
    }

    /// These stretches, in any order, on these timelines.
    pub fn on(timelines: impl IntoIterator<Item = TimelineId>, spans: impl IntoIterator<Item = (Lsn, Lsn)>) -> Self {
        let spans = Spans::new(spans);
        let on = timelines.into_iter().map(|timeline| (timeline, spans.clone())).collect();
        Self { everywhere: Spans::default(), on }.in_short()
    }

    /// The part of `ranges` that concerns `incarnation`.
    pub fn of<'a>(incarnation: &Incarnation, ranges: impl IntoIterator<Item = &'a LogRange>) -> Self {
        let own = ranges.into_iter().filter(|range| range.incarnation == *incarnation);
        own.fold(Self::default(), |cut, range| {
            let span = (range.from, range.to);
            cut.or(&match range.timelines.is_empty() {
                true => Self { everywhere: Spans::new([span]), on: BTreeMap::new() },
                false => Self::on(range.timelines.iter().copied(), [span]),
            })
        })
    }

    /// What is in either.
    pub fn or(&self, other: &Self) -> Self {
        self.combined(other, Spans::or)
    }

    /// What is in both.
    pub fn and(&self, other: &Self) -> Self {
        self.combined(other, Spans::and)
    }

    /// Whether all of a segment was let go.
    pub fn covers_segment(&self, segment: Segment, size: SegmentSize) -> bool {
        self.covers(segment.timeline, segment.start(size), segment.end(size))
    }

    /// Whether all log of `timeline` from `from` up to `to` was let go.
    pub fn covers(&self, timeline: TimelineId, from: Lsn, to: Lsn) -> bool {
        self.spans(timeline).covers(from, to)
    }

    /// Numbers of the segments of `timeline` of which all was let go, ascending.
    pub fn segments(&self, timeline: TimelineId, size: SegmentSize) -> impl Iterator<Item = Range<u64>> {
        self.spans(timeline).0.iter().map(move |(from, to)| from.0.div_ceil(size.bytes())..to.0 / size.bytes())
    }

    /// As ranges of `incarnation`, ascending.
    pub fn ranges(&self, incarnation: &Incarnation) -> Vec<LogRange> {
        let everywhere = self.everywhere.0.iter().map(|span| (*span, Vec::new()));
        let mut ranges: BTreeMap<(Lsn, Lsn), Vec<TimelineId>> = everywhere.collect();
        for (timeline, spans) in &self.on {
            for span in spans.0.iter().filter(|span| !self.everywhere.covers(span.0, span.1)) {
                ranges.entry(*span).or_default().push(*timeline);
            }
        }
        let range = |((from, to), timelines)| LogRange { incarnation: incarnation.clone(), from, to, timelines };
        ranges.into_iter().map(range).collect()
    }

    fn spans(&self, timeline: TimelineId) -> &Spans {
        self.on.get(&timeline).unwrap_or(&self.everywhere)
    }

    fn combined(&self, other: &Self, combine: impl Fn(&Spans, &Spans) -> Spans) -> Self {
        let timelines: BTreeSet<TimelineId> = self.on.keys().chain(other.on.keys()).copied().collect();
        let on = timelines.into_iter().map(|timeline| (timeline, combine(self.spans(timeline), other.spans(timeline))));
        Self { everywhere: combine(&self.everywhere, &other.everywhere), on: on.collect() }.in_short()
    }

    /// The same without timelines on which nothing more is let go than everywhere.
    fn in_short(mut self) -> Self {
        self.on.retain(|_, spans| *spans != self.everywhere);
        self
    }
}

/// Stretches of log: ascending, and none touches the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Spans(Vec<(Lsn, Lsn)>);

impl Spans {
    /// In any order; what holds nothing is left out.
    fn new(spans: impl IntoIterator<Item = (Lsn, Lsn)>) -> Self {
        let mut all: Vec<(Lsn, Lsn)> = spans.into_iter().filter(|(from, to)| from < to).collect();
        all.sort_unstable();
        let mut merged: Vec<(Lsn, Lsn)> = Vec::new();
        for (from, to) in all {
            match merged.last_mut() {
                Some(last) if from <= last.1 => last.1 = last.1.max(to),
                _ => merged.push((from, to)),
            }
        }
        Self(merged)
    }

    fn or(&self, other: &Self) -> Self {
        Self::new(self.0.iter().chain(&other.0).copied())
    }

    fn and(&self, other: &Self) -> Self {
        Self::new(self.0.iter().flat_map(|own| other.0.iter().map(move |other| (own.0.max(other.0), own.1.min(other.1)))))
    }

    fn covers(&self, from: Lsn, to: Lsn) -> bool {
        self.0.iter().any(|span| span.0 <= from && to <= span.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: TimelineId = TimelineId(1);
    const TWO: TimelineId = TimelineId(2);

    fn cut(floor: u64, ranges: &[(u64, u64)]) -> LogCut {
        LogCut::before(Lsn(floor)).or(&LogCut::on([ONE], ranges.iter().map(|(from, to)| (Lsn(*from), Lsn(*to)))))
    }

    #[test]
    fn ranges_that_touch_are_one() {
        let cut = cut(100, &[(300, 400), (100, 150), (390, 500), (7, 7)]);
        assert!(cut.covers(ONE, Lsn(0), Lsn(150)) && cut.covers(ONE, Lsn(310), Lsn(500)));
        assert!(
            !cut.covers(ONE, Lsn(140), Lsn(310)) && !cut.covers(ONE, Lsn(0), Lsn(151)) && !cut.covers(ONE, Lsn(500), Lsn(501))
        );
        let (size, inside) = (SegmentSize::DEFAULT, SegmentSize::DEFAULT.bytes());
        let second = Segment::parse("000000010000000000000001", size).unwrap();
        assert!(LogCut::on([ONE], [(Lsn(inside), Lsn(2 * inside))]).covers_segment(second, size));
        let less = LogCut::on([ONE], [(Lsn(inside + 1), Lsn(2 * inside))]);
        assert!(!less.covers_segment(second, size), "wholly or not at all");
        let numbers =
            LogCut::on([ONE], [(Lsn(inside + 1), Lsn(4 * inside + 1))]).segments(ONE, size).flatten().collect::<Vec<_>>();
        assert_eq!(numbers, [2, 3]);
    }

    #[test]
    fn a_range_is_let_go_on_its_timelines_and_what_lies_before_the_floor_on_all() {
        let cut = cut(100, &[(90, 200)]);
        assert!(cut.covers(ONE, Lsn(0), Lsn(200)) && !cut.covers(TWO, Lsn(0), Lsn(200)) && cut.covers(TWO, Lsn(0), Lsn(100)));
        let incarnation = Incarnation::postgres(15, 1);
        let ranges = cut.ranges(&incarnation);
        assert_eq!(ranges.iter().map(|range| range.timelines.len()).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(LogCut::of(&incarnation, &ranges), cut);
        assert_eq!(LogCut::of(&Incarnation::postgres(15, 2), &ranges), LogCut::default());
        let old: LogRange = serde_json::from_str(r#"{"incarnation":"pg15-1","from":"0/A","to":"0/14"}"#).unwrap();
        assert!(LogCut::of(&incarnation, [&old]).covers(TWO, Lsn(10), Lsn(20)), "which timelines were meant was not said");
        let both = LogCut::on([ONE, TWO], [(Lsn(10), Lsn(20))]);
        assert_eq!(both.ranges(&incarnation).len(), 1);
        assert_eq!(both.and(&LogCut::on([TWO], [(Lsn(0), Lsn(15))])), LogCut::on([TWO], [(Lsn(10), Lsn(15))]));
        assert_eq!(both.and(&LogCut::before(Lsn(12))), LogCut::on([ONE, TWO], [(Lsn(10), Lsn(12))]));
    }

    #[test]
    fn what_is_in_both_is_in_each() {
        let (own, other) = (cut(100, &[(200, 300), (400, 500)]), cut(50, &[(90, 210), (290, 410), (490, 600)]));
        let common = own.and(&other);
        for (from, to) in [(0, 50), (90, 100), (200, 210), (290, 300), (400, 410), (490, 500)] {
            assert!(common.covers(ONE, Lsn(from), Lsn(to)), "{from} to {to}");
            assert!(!common.covers(ONE, Lsn(from), Lsn(to + 1)), "{from} to {to}");
        }
        assert_eq!(common.spans(TWO), &Spans::new([(Lsn(0), Lsn(50))]));
        assert_eq!(own.or(&common), own);
        assert!(own.or(&other).covers(ONE, Lsn(0), Lsn(600)) && !own.or(&other).covers(TWO, Lsn(0), Lsn(101)));
        assert_eq!(own.and(&LogCut::default()), LogCut::default());
    }
}
