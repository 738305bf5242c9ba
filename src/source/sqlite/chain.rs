//! Which segments restore a moment. Pure.

use super::segment::SegmentHeader;
use crate::base::Timestamp;

/// The segments, as indices into `segments` (any order), that lead to the latest captured moment at or before `target`
/// (`None`: the latest of all): a snapshot first, then each that goes on from the one before.
///
/// `None` when no snapshot is that old. A moment whose chain has a gap is never reached; the latest reachable one is.
pub fn chain_to(segments: &[SegmentHeader], target: Option<Timestamp>) -> Option<Vec<usize>> {
    let mut in_time: Vec<usize> = (0..segments.len()).collect();
    in_time.retain(|index| target.is_none_or(|target| segments[*index].to.captured_at <= target));
    in_time.sort_by_key(|index| segments[*index].to.captured_at);
    let begin = in_time.iter().rposition(|index| segments[*index].from.is_none())?;
    let mut chain = vec![in_time[begin]];
    for &index in &in_time[begin + 1..] {
        let last = &segments[*chain.last().expect("it begins with a snapshot")];
        if segments[index].from == Some(last.to.at) {
            chain.push(index);
        }
    }
    Some(chain)
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
}
