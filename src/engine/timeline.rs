//! The way through the timelines to one of them, and which archived segments lie on it without a gap. Pure.

use std::ops::Range;

use crate::base::{Lsn, Result, Segment, SegmentSize, TimelineId, Timestamp};
use crate::repo::BackupSummary;
use crate::repo::log::LogCatalog;

/// The timelines from the oldest archived ancestor to one of them, with the points where each branched off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelinePath {
    /// Oldest first, each with the first LSN that is its own.
    steps: Vec<(TimelineId, Lsn)>,
    size: SegmentSize,
}

/// Archived segments that follow each other without a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The segments in log order.
    pub segments: Vec<Segment>,
    /// First segment that is missing: where the run ends.
    pub missing: Segment,
    /// Set when the last segment is one of the parent timeline, whose log belongs to the path only before this LSN, or one
    /// that is not whole: there is no log in it from here on.
    pub limit: Option<Lsn>,
    /// Whether the last segment goes on beyond the limit, with what does not belong to the path.
    pub goes_on: bool,
}

impl TimelinePath {
    /// The path to `timeline`.
    ///
    /// # Errors
    /// When a history on the way is missing.
    pub fn to(timeline: TimelineId, catalog: &LogCatalog, size: SegmentSize) -> Result<Self> {
        let ancestry = catalog.ancestry(timeline)?;
        let begins = ancestry.iter().skip(1).map(|(_, branched)| branched.unwrap_or_default()).chain([Lsn(0)]);
        let mut steps: Vec<(TimelineId, Lsn)> = Vec::new();
        for ((timeline, _), begin) in ancestry.iter().zip(begins) {
            // PostgreSQL names the recovery's target timeline as the parent, even when it stopped before that one began:
            // then nothing of that timeline is on the way.
            if steps.last().is_none_or(|(_, left)| begin < *left || begin == Lsn(0)) {
                steps.push((*timeline, begin));
            }
        }
        steps.reverse();
        Ok(Self { steps, size })
    }

    /// Whether the backup's own log is archived whole on the way to its timeline, or to another: where a younger one begins
    /// within it, its own last segment may have been lost with its server.
    pub fn any_serves(catalog: &LogCatalog, backup: &BackupSummary) -> bool {
        let to_serves =
            |timeline| Self::to(timeline, catalog, backup.segment_bytes).is_ok_and(|path| path.serves(catalog, backup));
        to_serves(backup.timeline) || catalog.timelines().into_iter().any(to_serves)
    }

    /// The timeline it leads to.
    pub fn timeline(&self) -> TimelineId {
        self.steps.last().map_or(TimelineId(1), |(timeline, _)| *timeline)
    }

    /// Where `timeline` was left on the way; `None` for the last one and for those not on the path.
    pub fn left_at(&self, timeline: TimelineId) -> Option<Lsn> {
        let at = self.steps.iter().position(|(step, _)| *step == timeline)?;
        self.steps.get(at + 1).map(|(_, begin)| *begin)
    }

    /// Whether the log of `timeline` up to `lsn` lies on the path.
    pub fn contains(&self, timeline: TimelineId, lsn: Lsn) -> bool {
        let on_path = self.steps.iter().any(|(step, _)| *step == timeline);
        on_path && self.left_at(timeline).is_none_or(|left| lsn <= left)
    }

    /// The segment with this number that PostgreSQL reads on the way: of the newest timeline that has begun by its end.
    pub fn segment(&self, number: u64) -> Segment {
        let begun = |begin: &Lsn| begin.0 / self.size.bytes() <= number;
        let timeline = self.steps.iter().rfind(|(_, begin)| begun(begin)).map_or(self.timeline(), |(timeline, _)| *timeline);
        Segment { timeline, number }
    }

    /// The timelines on the way, oldest first, each with the numbers of its segments that [`Self::segment`] gives.
    pub fn parts(&self) -> impl Iterator<Item = (TimelineId, Range<u64>)> {
        let number = |begin: &Lsn| begin.0 / self.size.bytes();
        let ends = self.steps.iter().skip(1).map(move |(_, begin)| number(begin)).chain([u64::MAX]);
        self.steps.iter().zip(ends).map(move |((timeline, begin), end)| (*timeline, number(begin)..end))
    }

    /// Older timelines that the way leaves inside `segment`, and where, when a younger one's copy of it is replayed.
    pub fn left_within(&self, segment: Segment) -> Vec<(Segment, Lsn)> {
        let inside = |left: &Lsn| *left > segment.start(self.size) && *left < segment.end(self.size);
        let older = self.steps.iter().map(|(timeline, _)| *timeline).take_while(|timeline| *timeline != segment.timeline);
        older.filter_map(|timeline| Some((Segment { timeline, ..segment }, self.left_at(timeline).filter(inside)?))).collect()
    }

    /// The archived segments from the one that holds `start` on.
    pub fn run(&self, catalog: &LogCatalog, start: Lsn) -> Run {
        self.run_through(catalog, start, u64::MAX)
    }

    /// As [`Self::run`], but not looked at beyond the segment with the number `last`.
    fn run_through(&self, catalog: &LogCatalog, start: Lsn, last: u64) -> Run {
        let mut segments = Vec::new();
        let mut number = start.0 / self.size.bytes();
        loop {
            let segment = self.segment(number);
            let ended = Run { segments: Vec::new(), missing: segment, limit: None, goes_on: false };
            if number > last {
                return Run { segments, ..ended };
            }
            let streamed = catalog.streamed_end(segment, self.size);
            if catalog.segments.contains_key(&segment) && streamed.is_none() {
                segments.push(segment);
                number += 1;
                continue;
            }
            // A branch whose first segment is not archived yet: the parent's holds the log up to the branch.
            let parent = self.parent_at_branch(segment).filter(|(parent, _)| catalog.segments.contains_key(parent));
            let up_to = |parent, begin: Lsn| catalog.streamed_end(parent, self.size).map_or(begin, |end| end.min(begin));
            let parent = parent.map(|(parent, begin)| (parent, up_to(parent, begin)));
            return match (streamed, parent) {
                (Some(end), parent) if parent.is_none_or(|(_, limit)| limit <= end) => {
                    segments.push(segment);
                    Run { segments, limit: Some(end), ..ended }
                }
                (_, Some((parent, limit))) => {
                    segments.push(parent);
                    Run { segments, limit: Some(limit), goes_on: true, ..ended }
                }
                (_, None) => Run { segments, ..ended },
            };
        }
    }

    /// The parent's copy of the segment in which the timeline of `segment` begins, and where it begins.
    fn parent_at_branch(&self, segment: Segment) -> Option<(Segment, Lsn)> {
        let at = self.steps.iter().position(|(timeline, _)| *timeline == segment.timeline)?;
        let (begin, parent) = (self.steps[at].1, self.steps[at.checked_sub(1)?].0);
        (begin.0 / self.size.bytes() == segment.number).then_some((Segment { timeline: parent, ..segment }, begin))
    }

    /// Whether the backup lies on the path and its own log is archived whole.
    pub fn serves(&self, catalog: &LogCatalog, backup: &BackupSummary) -> bool {
        if !self.contains(backup.timeline, backup.stop_lsn) {
            return false;
        }
        if !backup.needs_log() {
            return true;
        }
        let last_needed = backup.stop_lsn.0.saturating_sub(1) / self.size.bytes();
        let run = self.run_through(catalog, backup.start_lsn, last_needed);
        let reaches = run.segments.last().is_some_and(|last| last.number >= last_needed);
        let inside_limit = run.limit.is_none_or(|limit| backup.stop_lsn <= limit);
        reaches && inside_limit
    }

    /// Size of a segment.
    pub fn segment_size(&self) -> SegmentSize {
        self.size
    }
}

impl Run {
    /// One past the last byte of log in the run.
    pub fn end(&self, size: SegmentSize) -> Lsn {
        let end = self.segments.last().map_or(Lsn(0), |last| last.end(size));
        self.limit.map_or(end, |limit| limit.min(end))
    }
}

/// Where the log that is archived without a gap from some start on ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// One past its last byte; the start itself where nothing is.
    pub end_lsn: Lsn,
    /// First segment that is missing.
    pub missing: Segment,
    /// Latest transaction end that the names from the start on tell.
    pub latest_end: Option<Timestamp>,
}

/// All runs on a path, for many starts: every segment is looked at once.
pub struct Runs<'a> {
    path: &'a TimelinePath,
    catalog: &'a LogCatalog,
    /// In the order of their numbers, each as long as it can be; of each segment the latest end from there on.
    runs: Vec<(Run, Vec<Option<Timestamp>>)>,
}

impl<'a> Runs<'a> {
    /// The runs of `catalog` on `path`.
    pub fn on(path: &'a TimelinePath, catalog: &'a LogCatalog) -> Self {
        let on_path = catalog.segments.keys().filter(|segment| path.segment(segment.number) == **segment);
        let mut numbers: Vec<u64> = on_path.map(|segment| segment.number).collect();
        numbers.sort_unstable();
        let mut runs: Vec<(Run, Vec<Option<Timestamp>>)> = Vec::new();
        for number in numbers {
            let last = runs.last().and_then(|(run, _)| run.segments.last());
            if last.is_none_or(|last| last.number < number) {
                let run = path.run(catalog, Lsn(number * path.size.bytes()));
                let latest = latest_ends(&run, catalog);
                runs.push((run, latest));
            }
        }
        Self { path, catalog, runs }
    }

    /// What the run from `start` on comes to.
    pub fn from(&self, start: Lsn) -> Reach {
        let end = |run: &Run| run.end(self.path.size).max(start);
        let reach = |run: &Run, latest_end| Reach { end_lsn: end(run), missing: run.missing, latest_end };
        let number = start.0 / self.path.size.bytes();
        let first = |run: &Run| run.segments.first().map_or(0, |first| first.number);
        let after = self.runs.partition_point(|(run, _)| first(run) <= number);
        if let Some((run, latest)) = after.checked_sub(1).map(|at| &self.runs[at])
            && let Some(latest_end) = latest.get((number - first(run)) as usize)
        {
            return reach(run, *latest_end);
        }
        let run = self.path.run(self.catalog, start);
        reach(&run, latest_ends(&run, self.catalog).first().copied().flatten())
    }
}

/// Of each segment of a run the latest transaction end that the names from it on tell.
///
/// What the name of a last segment that goes on tells may have happened beyond the limit, on the abandoned branch.
pub fn latest_ends(run: &Run, catalog: &LogCatalog) -> Vec<Option<Timestamp>> {
    let whole = run.segments.len() - usize::from(run.goes_on);
    let told = |segment: &Segment| catalog.segments.get(segment).and_then(|object| object.name.last.known());
    let mut latest = vec![None; run.segments.len()];
    let mut so_far = None;
    for at in (0..whole).rev() {
        so_far = so_far.max(told(&run.segments[at]));
        latest[at] = so_far;
    }
    latest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::log::name::{CommitTime, HistoryName, SegmentName};
    use crate::repo::log::{SegmentObject, TimelineHistory};

    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    fn at(number: u64, offset: u64) -> Lsn {
        Lsn(number * SIZE.bytes() + offset)
    }

    fn catalog(segments: &[(u32, u64)], histories: &[(u32, u32, Lsn)]) -> LogCatalog {
        let mut catalog = LogCatalog::default();
        let now = Timestamp::now();
        for (timeline, number) in segments {
            let segment = Segment { timeline: TimelineId(*timeline), number: *number };
            let name = SegmentName {
                segment,
                first: CommitTime::None,
                last: CommitTime::None,
                commits: Some(0),
                digest: "0".repeat(16),
            };
            catalog.segments.insert(segment, SegmentObject { key: String::new(), name, stored_bytes: 1, arrived: now });
        }
        for (timeline, parent, switch_lsn) in histories {
            let (timeline, parent) = (TimelineId(*timeline), TimelineId(*parent));
            let name = HistoryName { timeline, parent, switch_lsn: *switch_lsn, digest: "0".repeat(16) };
            catalog.histories.insert(timeline, TimelineHistory { key: String::new(), name, arrived: now });
        }
        catalog
    }

    fn run(catalog: &LogCatalog, timeline: u32, from: u64) -> Vec<(u32, u64)> {
        let path = TimelinePath::to(TimelineId(timeline), catalog, SIZE).unwrap();
        path.run(catalog, at(from, 0)).segments.iter().map(|segment| (segment.timeline.0, segment.number)).collect()
    }

    #[test]
    fn the_path_leaves_the_parent_where_the_branch_begins() {
        let archived = catalog(&[(1, 3), (1, 4), (1, 5), (1, 6), (2, 5), (2, 6)], &[(2, 1, at(5, 100))]);
        assert_eq!(run(&archived, 2, 3), [(1, 3), (1, 4), (2, 5), (2, 6)]);
        assert_eq!(
            run(&archived, 1, 3),
            [(1, 3), (1, 4), (1, 5), (1, 6)],
            "the first timeline goes on as if nothing had branched"
        );
        let path = TimelinePath::to(TimelineId(2), &archived, SIZE).unwrap();
        let left = |timeline, number| path.left_within(Segment { timeline: TimelineId(timeline), number });
        assert_eq!(left(2, 5), [(Segment { timeline: TimelineId(1), number: 5 }, at(5, 100))]);
        assert!(left(1, 5).is_empty() && left(1, 4).is_empty() && left(2, 6).is_empty());
        assert!(path.contains(TimelineId(1), at(5, 100)) && !path.contains(TimelineId(1), at(5, 101)));
        assert!(path.contains(TimelineId(2), at(9, 0)) && !path.contains(TimelineId(3), at(5, 0)));
    }

    #[test]
    fn a_parent_that_began_only_later_is_not_on_the_way() {
        let segments = [(1, 3), (1, 4), (1, 5), (1, 6), (2, 6), (3, 4), (3, 5)];
        let archived = catalog(&segments, &[(2, 1, at(6, 100)), (3, 2, at(4, 100))]);
        assert_eq!(run(&archived, 3, 3), [(1, 3), (3, 4), (3, 5)]);
        let path = TimelinePath::to(TimelineId(3), &archived, SIZE).unwrap();
        assert_eq!(path.left_at(TimelineId(1)), Some(at(4, 100)));
        assert!(!path.contains(TimelineId(1), at(5, 0)) && !path.contains(TimelineId(2), at(4, 0)));
    }

    #[test]
    fn a_branch_on_a_segment_boundary_owns_the_segment_that_begins_there() {
        let archived = catalog(&[(1, 3), (1, 4), (2, 5)], &[(2, 1, at(5, 0))]);
        assert_eq!(run(&archived, 2, 3), [(1, 3), (1, 4), (2, 5)]);
    }

    #[test]
    fn until_the_branch_is_archived_the_parent_serves_up_to_it() {
        let archived = catalog(&[(1, 4), (1, 5), (1, 6)], &[(2, 1, at(5, 100))]);
        let path = TimelinePath::to(TimelineId(2), &archived, SIZE).unwrap();
        let run = path.run(&archived, at(4, 0));
        assert_eq!(run.limit, Some(at(5, 100)));
        assert_eq!(run.end(SIZE), at(5, 100));
        assert_eq!(run.missing, Segment { timeline: TimelineId(2), number: 5 });
    }

    #[test]
    fn what_was_streamed_ends_a_run_and_a_branch_that_lags_leaves_its_parent_the_word() {
        use crate::repo::log::tail::Tail;
        let streamed = |world: &mut LogCatalog, timeline, number, offset| {
            let segment = Segment { timeline: TimelineId(timeline), number };
            world.tail.insert(segment, Tail { end: at(number, offset), pieces: Vec::new(), is_cut: false });
        };
        let mut archived = catalog(&[(1, 4), (1, 5), (1, 6)], &[(2, 1, at(5, 100))]);
        streamed(&mut archived, 1, 6, 700);
        let of = |archived: &LogCatalog, timeline| {
            let run = TimelinePath::to(TimelineId(timeline), archived, SIZE).unwrap().run(archived, at(4, 0));
            let last = run.segments.last().map(|last| (last.timeline.0, last.number));
            (last, run.end(SIZE), run.goes_on)
        };
        assert_eq!(of(&archived, 1), (Some((1, 6)), at(6, 700), false));
        assert_eq!(of(&archived, 2), (Some((1, 5)), at(5, 100), true));
        let mut branched = catalog(&[(1, 4), (1, 5), (2, 5)], &[(2, 1, at(5, 100))]);
        streamed(&mut branched, 2, 5, 40);
        assert_eq!(of(&branched, 2), (Some((1, 5)), at(5, 100), true), "the parent's copy reaches farther");
        streamed(&mut branched, 2, 5, 300);
        assert_eq!(of(&branched, 2), (Some((2, 5)), at(5, 300), false));
        streamed(&mut branched, 1, 5, 60);
        streamed(&mut branched, 2, 5, 40);
        assert_eq!(of(&branched, 2), (Some((1, 5)), at(5, 60), true), "neither reaches the branch");
        let served = TimelinePath::to(TimelineId(1), &archived, SIZE).unwrap().run(&archived, at(6, 0));
        assert_eq!((served.end(SIZE), served.missing.number), (at(6, 700), 6));
    }

    #[test]
    fn many_starts_come_to_what_each_of_them_comes_to() {
        let worlds = [
            catalog(&[(1, 3), (1, 4), (1, 5), (1, 6), (2, 5), (2, 6)], &[(2, 1, at(5, 100))]),
            catalog(&[(1, 4), (1, 5), (1, 6)], &[(2, 1, at(5, 100))]),
            catalog(&[(1, 3), (1, 4), (2, 5), (2, 8)], &[(2, 1, at(5, 0))]),
            catalog(&[(1, 3), (1, 5), (1, 7), (2, 9)], &[(2, 1, at(7, 100))]),
            catalog(&[(1, 3), (1, 4), (1, 5), (1, 6), (2, 6), (3, 4), (3, 5)], &[(2, 1, at(6, 100)), (3, 2, at(4, 100))]),
            catalog(&[], &[]),
        ];
        for (world, mut archived) in worlds.into_iter().enumerate() {
            // Times that go up and down.
            for (number, object) in archived.segments.values_mut().enumerate() {
                let time = Timestamp::from_unix_micros([50, 10, 40, 20, 30][number % 5]).unwrap();
                object.name.last = if number % 3 == 2 { CommitTime::Unknown } else { CommitTime::At(time) };
            }
            for timeline in 1..=3 {
                let Ok(path) = TimelinePath::to(TimelineId(timeline), &archived, SIZE) else { continue };
                let runs = Runs::on(&path, &archived);
                for number in 0..12 {
                    let run = path.run(&archived, at(number, 40));
                    let whole = run.segments.len() - usize::from(run.goes_on);
                    let told = run.segments[..whole].iter().filter_map(|segment| archived.segments[segment].name.last.known());
                    let end_lsn = run.end(SIZE).max(at(number, 40));
                    let expected = Reach { end_lsn, missing: run.missing, latest_end: told.max() };
                    assert_eq!(runs.from(at(number, 40)), expected, "world {world}, timeline {timeline}, segment {number}");
                }
            }
        }
    }

    #[test]
    fn gaps_and_lost_histories_end_the_way() {
        let archived = catalog(&[(1, 3), (1, 5), (3, 7)], &[(3, 2, at(7, 0))]);
        assert_eq!(run(&archived, 1, 3), [(1, 3)]);
        assert!(TimelinePath::to(TimelineId(3), &archived, SIZE).is_err(), "timeline 2 has no history");
        let late = catalog(&[(5, 9)], &[]);
        assert_eq!(run(&late, 5, 9), [(5, 9)], "an archive may begin on a later timeline");
    }
}
