//! Which segments restore a moment. Pure.

use std::collections::BTreeMap;

use super::segment::SegmentHeader;
use crate::base::Timestamp;

/// The segments, as indices into `segments` (any order), that lead to the latest captured moment at or before `target`
/// (`None`: the latest of all): a snapshot first, then each that goes on from the one before.
///
/// A moment whose chain has a gap is never chosen; the latest that can be reached is. `None` when none can.
pub fn chain_to(segments: &[SegmentHeader], target: Option<Timestamp>) -> Option<Vec<usize>> {
    let mut in_time: Vec<usize> = (0..segments.len()).collect();
    in_time.retain(|index| target.is_none_or(|target| segments[*index].to.captured_at <= target));
    in_time.sort_by_key(|index| segments[*index].to.captured_at);
    let places: BTreeMap<Timestamp, usize> =
        in_time.iter().enumerate().map(|(place, index)| (segments[*index].to.captured_at, place)).collect();
    // The place of the segment that each goes on from; `None` for a snapshot and behind a gap.
    let before = |place: usize| {
        let from = segments[in_time[place]].from?;
        let found = *places.get(&from.captured_at)?;
        (found < place && segments[in_time[found]].to == from).then_some(found)
    };
    let mut reachable = vec![false; in_time.len()];
    for place in 0..in_time.len() {
        reachable[place] = segments[in_time[place]].from.is_none() || before(place).is_some_and(|before| reachable[before]);
    }
    let mut place = reachable.iter().rposition(|reachable| *reachable);
    let mut chain = Vec::new();
    while let Some(last) = place {
        chain.push(in_time[last]);
        place = before(last);
    }
    chain.reverse();
    (!chain.is_empty()).then_some(chain)
}

#[cfg(test)]
mod tests {
    use super::super::segment::tests::header;
    use super::*;

    #[test]
    fn the_newest_snapshot_and_what_goes_on_from_it() {
        let segments = [
            header(Some(4), 6, 9),
            header(None, 1, 9),
            header(Some(1), 2, 9),
            header(None, 4, 9),
            header(Some(6), 8, 9),
            header(Some(7), 9, 9),
        ];
        let at = |seconds: i64| Timestamp::from_unix_micros(seconds * 1_000_000);
        assert_eq!(chain_to(&segments, at(0)), None, "before the first snapshot");
        assert_eq!(chain_to(&segments, at(1)), Some(vec![1]));
        assert_eq!(chain_to(&segments, at(3)), Some(vec![1, 2]));
        assert_eq!(chain_to(&segments, at(7)), Some(vec![3, 0]));
        assert_eq!(chain_to(&segments, None), Some(vec![3, 0, 4]), "what has a gap before it is out of reach");
    }

    #[test]
    fn of_two_ways_on_the_one_that_leads_to_the_moment_is_taken() {
        let segments = [header(None, 1, 9), header(Some(1), 2, 9), header(Some(2), 3, 9), header(Some(1), 5, 9)];
        assert_eq!(chain_to(&segments, None), Some(vec![0, 3]));
        assert_eq!(chain_to(&segments, Timestamp::from_unix_micros(4_000_000)), Some(vec![0, 1, 2]));
    }

    #[test]
    fn states_that_look_the_same_are_told_apart_by_their_times() {
        let (first, mut second, mut on) = (header(None, 1, 9), header(None, 2, 9), header(Some(1), 3, 9));
        second.to.at = first.to.at;
        on.from = Some(second.to);
        assert_eq!(chain_to(&[first, on], None), Some(vec![0]), "what it goes on from is missing");
        assert_eq!(chain_to(&[first, second, on], None), Some(vec![1, 2]));
    }
}
