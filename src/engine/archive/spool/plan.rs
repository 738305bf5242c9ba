//! Which segment a recovery asks for next. Pure.

use crate::base::{Segment, SegmentSize, TimelineId};
use crate::source::postgres::history::History;

/// The segments with `number` that a recovery may want, the one it asks for first before the others: PostgreSQL tries the
/// newest timeline that had begun by then, and goes back (`XLogFileReadAnyTLI` in `xlogrecovery.c`). Nothing from before
/// `timeline`, on which the recovery is; without a `history` there is no other.
pub(super) fn candidates(timeline: TimelineId, number: u64, history: Option<&History>, size: SegmentSize) -> Vec<Segment> {
    let Some(history) = history else { return vec![Segment { timeline, number }] };
    let steps = history.steps();
    let timelines = steps.iter().map(|step| step.timeline).chain([history.timeline()]);
    // A timeline begins where the one before it was left.
    let begins = [None].into_iter().chain(steps.iter().map(|step| Some(step.switch_lsn)));
    let has_begun =
        |(_, begin): &(TimelineId, Option<crate::base::Lsn>)| begin.is_none_or(|begin| begin.0 / size.bytes() <= number);
    let mut found: Vec<Segment> = timelines
        .zip(begins)
        .filter(has_begun)
        .filter(|(known, _)| *known >= timeline)
        .map(|(timeline, _)| Segment { timeline, number })
        .collect();
    found.reverse();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_timeline_that_had_begun_comes_first() {
        let size = SegmentSize::new(1 << 20).unwrap();
        // Left in the middle of segment 3, and at the beginning of segment 5.
        let content = b"1\t0/380000\tno reason\n2\t0/500000\tno reason\n";
        let history = History::parse(TimelineId(3), content).unwrap();
        let of = |timeline, number| {
            let found = candidates(TimelineId(timeline), number, Some(&history), size);
            found.iter().map(|segment| segment.timeline.0).collect::<Vec<_>>()
        };
        assert_eq!((of(1, 2), of(1, 3), of(1, 4), of(1, 5)), (vec![1], vec![2, 1], vec![2, 1], vec![3, 2, 1]));
        assert_eq!((of(2, 4), of(3, 9)), (vec![2], vec![3]));
        assert_eq!(candidates(TimelineId(7), 9, None, size), [Segment { timeline: TimelineId(7), number: 9 }]);
    }
}
