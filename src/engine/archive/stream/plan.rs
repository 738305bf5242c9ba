//! Where a stream begins, and what is safe. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::{Lsn, Segment, SegmentSize};
use crate::source::postgres::history::History;

/// What a repository holds of the log, near where a stream begins.
#[derive(Clone, Debug, Default)]
pub(super) struct Holding {
    /// Segments that are there whole.
    pub whole: BTreeSet<Segment>,
    /// Segments of which there are pieces.
    pub begun: BTreeSet<Segment>,
    /// How many bytes of them the pieces hold, from the first on.
    pub streamed: BTreeMap<Segment, u64>,
}

/// The segment with this number as the server has it: of the newest timeline that has begun by its end.
pub(super) fn segment(history: &History, number: u64, size: SegmentSize) -> Segment {
    let last_byte = Lsn((number + 1) * size.bytes() - 1);
    Segment { timeline: history.timeline_at(last_byte), number }
}

/// The offset in `segment` at which its own timeline begins; what comes before it is its parent's.
pub(super) fn begins_at(history: &History, segment: Segment, size: SegmentSize) -> u64 {
    let inside = |lsn: &Lsn| *lsn > segment.start(size) && *lsn < segment.end(size);
    let switches = history.steps().iter().filter(|step| step.timeline < segment.timeline).map(|step| step.switch_lsn);
    switches.filter(inside).max().map_or(0, |lsn| lsn.bytes_since(segment.start(size)))
}

/// The segment to begin with: the one from which on the slot keeps the log, or right after what is in each of the
/// repositories, whichever is older. Where a repository holds nothing before the slot's there is nothing to go on from.
pub(super) fn first_segment(history: &History, kept_from: Lsn, size: SegmentSize, holdings: &[Holding]) -> Segment {
    let kept = kept_from.0 / size.bytes();
    let after_what_is_there = |holding: &Holding| {
        let on_path = |found: &&Segment| found.number < kept && segment(history, found.number, size) == **found;
        if holding.whole.contains(&segment(history, kept, size)) || holding.begun.contains(&segment(history, kept, size)) {
            return kept;
        }
        let whole = holding.whole.iter().filter(on_path).map(|found| found.number + 1).max();
        let begun = holding.begun.iter().filter(on_path).map(|found| found.number).max();
        whole.max(begun).unwrap_or(kept)
    };
    let number = holdings.iter().map(after_what_is_there).min().unwrap_or(kept);
    segment(history, number, size)
}

/// Where what is stored ends on the way to the server's timeline, what was streamed included.
pub(super) fn stored_up_to(history: &History, size: SegmentSize, holdings: &[Holding]) -> Option<Lsn> {
    let ends = holdings.iter().flat_map(|holding| {
        let on_path = |found: &&Segment| segment(history, found.number, size) == **found;
        let whole = holding.whole.iter().filter(on_path).map(|found| found.end(size));
        let streamed = |found: &Segment| holding.streamed.get(found).copied().unwrap_or_default();
        whole.chain(holding.begun.iter().filter(on_path).map(move |found| found.start(size).plus(streamed(found))))
    });
    ends.max()
}

/// The position that `needed` of the repositories have reached.
pub(super) fn safe(mut reached: Vec<Lsn>, needed: usize) -> Lsn {
    reached.sort_unstable_by_key(|lsn| std::cmp::Reverse(*lsn));
    reached.get(needed.max(1) - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::TimelineId;

    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    fn at(number: u64, offset: u64) -> Lsn {
        Lsn(number * SIZE.bytes() + offset)
    }

    fn of(timeline: u32, number: u64) -> Segment {
        Segment { timeline: TimelineId(timeline), number }
    }

    fn holding(whole: &[(u32, u64)], begun: &[(u32, u64)]) -> Holding {
        let set = |list: &[(u32, u64)]| list.iter().map(|(timeline, number)| of(*timeline, *number)).collect();
        Holding { whole: set(whole), begun: set(begun), streamed: BTreeMap::new() }
    }

    fn branched() -> History {
        let line = format!("1\t{}\tno recovery target specified\n", at(7, 100));
        History::parse(TimelineId(2), line.as_bytes()).unwrap()
    }

    #[test]
    fn a_segment_with_a_switch_in_it_is_the_younger_timelines() {
        let history = branched();
        assert_eq!(segment(&history, 6, SIZE), of(1, 6));
        assert_eq!((segment(&history, 7, SIZE), begins_at(&history, of(2, 7), SIZE)), (of(2, 7), 100));
        assert_eq!((segment(&history, 8, SIZE), begins_at(&history, of(2, 8), SIZE)), (of(2, 8), 0));
        assert_eq!(begins_at(&history, of(1, 7), SIZE), 0);
    }

    #[test]
    fn a_stream_begins_where_the_slot_keeps_or_earlier_where_a_repository_lacks_it() {
        let root = History::root(TimelineId(1));
        let first = |holdings: &[Holding]| first_segment(&root, at(9, 50), SIZE, holdings).number;
        assert_eq!(first(&[]), 9);
        assert_eq!(first(&[holding(&[], &[])]), 9, "a repository that is new");
        assert_eq!(first(&[holding(&[(1, 7), (1, 8)], &[(1, 9)])]), 9);
        assert_eq!(first(&[holding(&[(1, 8), (1, 12)], &[(1, 9)])]), 9);
        assert_eq!(first(&[holding(&[(1, 6)], &[])]), 7);
        assert_eq!(first(&[holding(&[(1, 6)], &[(1, 7)])]), 7);
        assert_eq!(first(&[holding(&[(1, 8)], &[(1, 9)]), holding(&[(1, 5)], &[])]), 6);
        assert_eq!(first(&[holding(&[(3, 8)], &[])]), 9, "another server's");
    }

    #[test]
    fn what_an_abandoned_branch_left_is_not_gone_on_from() {
        let history = branched();
        let first = |holdings: &[Holding]| first_segment(&history, at(9, 0), SIZE, holdings);
        assert_eq!(first(&[holding(&[(1, 6)], &[(1, 7)])]), of(2, 7));
        assert_eq!(first(&[holding(&[(1, 6), (1, 7), (1, 8)], &[(1, 9)])]), of(2, 7));
        assert_eq!(first(&[holding(&[(1, 5)], &[(1, 6)])]), of(1, 6));
    }

    #[test]
    fn what_is_stored_ends_with_the_last_segment_on_the_way() {
        let stored = |holdings: &[Holding]| stored_up_to(&branched(), SIZE, holdings);
        assert_eq!(stored(&[holding(&[], &[])]), None);
        assert_eq!(stored(&[holding(&[(1, 5)], &[(1, 6)]), holding(&[(1, 4)], &[])]), Some(at(6, 0)));
        let streamed = Holding { streamed: [(of(1, 6), 77)].into(), ..holding(&[(1, 5)], &[(1, 6)]) };
        assert_eq!(stored(&[streamed]), Some(at(6, 77)));
        assert_eq!(stored(&[holding(&[(1, 6), (1, 7), (1, 8)], &[(1, 9)])]), Some(at(7, 0)), "a branch that was left");
    }

    #[test]
    fn as_many_as_are_needed_must_have_reached_what_is_safe() {
        let reached = || vec![Lsn(5), Lsn(9), Lsn(7)];
        assert_eq!([1, 2, 3].map(|needed| safe(reached(), needed)), [Lsn(9), Lsn(7), Lsn(5)]);
        assert_eq!(safe(reached(), 4), Lsn(0));
    }
}
