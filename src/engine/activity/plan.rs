//! What the names of the archived log tell: what was committed when, how much was stored, and where something is missing.
//! Pure, and without any key.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use crate::base::{BackupId, Lsn, Segment, SegmentSize, TimelineId, Timestamp};
use crate::engine::timeline::{Run, TimelinePath};
use crate::repo::BackupSummary;
use crate::repo::log::{CommitTime, LogCatalog};

/// So many rows fit on a screen.
pub const ROWS: u64 = 24;
/// More rows than these are refused.
pub const MOST_ROWS: u64 = 10_000;
/// What is read before an interval, for transactions that began before it.
const LEAD_BYTES: u64 = 64 << 20;

/// Lengths of a row in seconds, among which one is chosen: those that a clock shows as round.
const ROUND_SECONDS: [u64; 22] = [
    1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800, 1_209_600,
    2_419_200,
];

/// An archived segment on the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Which.
    pub segment: Segment,
    /// First transaction end in it.
    pub first: CommitTime,
    /// Latest one.
    pub last: CommitTime,
    /// Commits; none when unknown.
    pub commits: Option<u32>,
    /// Stored size in bytes.
    pub stored_bytes: u64,
    /// When it arrived, by the store's clock.
    pub arrived: Timestamp,
    /// The segment before it on the path is not there.
    pub after_gap: bool,
    /// Only its log before this position belongs to the path.
    pub limit: Option<Lsn>,
}

/// Why segments are not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapReason {
    /// Nobody knows.
    Missing,
    /// They were let go.
    Expired,
    /// One of them was archived with different contents, and nobody has said which is right.
    Contradicted,
}

/// Segments that are not there although later ones are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The first one.
    pub first: Segment,
    /// The last one.
    pub last: Segment,
    /// Why.
    pub reason: GapReason,
    /// The last known time before it.
    pub after: Option<Timestamp>,
    /// The first known time behind it.
    pub before: Option<Timestamp>,
}

impl Gap {
    /// How many segments.
    pub fn segments(&self) -> u64 {
        self.last.number - self.first.number + 1
    }
}

/// The log on one path of timelines, as its names tell it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Track {
    /// In log order.
    pub items: Vec<Item>,
    /// In log order.
    pub gaps: Vec<Gap>,
}

impl Track {
    /// The log of `catalog` on `path`; `expired` tells which segments were let go.
    pub fn on(path: &TimelinePath, catalog: &LogCatalog, expired: impl Fn(Segment) -> bool) -> Self {
        let mut track = Self::default();
        let mut numbers: Vec<u64> = catalog.segments.keys().map(|segment| segment.number).collect();
        numbers.sort_unstable();
        let mut next = 0;
        while let Some(start) = numbers.get(numbers.partition_point(|number| *number < next)) {
            let run = path.run(catalog, Lsn(start * path.segment_size().bytes()));
            // A segment with this number may lie on another timeline only; and the one in which the way leaves a timeline
            // is missing on the next one until that has archived its own.
            let behind = run.segments.last().map_or(start + 1, |last| last.number + 1);
            next = run.missing.number.max(behind);
            track.add(&run, catalog);
        }
        track.find_gaps(path, catalog, expired);
        track
    }

    fn add(&mut self, run: &Run, catalog: &LogCatalog) {
        for (index, segment) in run.segments.iter().enumerate() {
            let Some(object) = catalog.segments.get(segment) else { continue };
            let follows = self.items.last().is_some_and(|last| last.segment.number + 1 == segment.number && last.limit.is_none());
            self.items.push(Item {
                segment: *segment,
                first: object.name.first,
                last: object.name.last,
                commits: object.name.commits,
                stored_bytes: object.stored_bytes,
                arrived: object.arrived,
                after_gap: !follows && !self.items.is_empty(),
                limit: run.limit.filter(|_| index + 1 == run.segments.len()),
            });
        }
    }

    fn find_gaps(&mut self, path: &TimelinePath, catalog: &LogCatalog, expired: impl Fn(Segment) -> bool) {
        let size = path.segment_size();
        let contradicted: BTreeSet<Segment> =
            catalog.split_brains.iter().filter_map(|split| Segment::parse(&split.file, size)).collect();
        for at in 1..self.items.len() {
            if !self.items[at].after_gap {
                continue;
            }
            // Of a segment in which a timeline is left the rest is missing, too.
            let last = &self.items[at - 1];
            let numbers = last.segment.number + u64::from(last.limit.is_none())..self.items[at].segment.number;
            let (first, last) = (path.segment(numbers.start), path.segment(numbers.end - 1));
            let between = || numbers.clone().map(|number| path.segment(number));
            let reason = if contradicted.iter().any(|segment| numbers.contains(&segment.number)) {
                GapReason::Contradicted
            } else if between().all(&expired) {
                GapReason::Expired
            } else {
                GapReason::Missing
            };
            let after = self.items[..at].iter().rev().find_map(|item| item.last.known());
            let before = self.items[at..].iter().find_map(|item| item.first.known());
            self.gaps.push(Gap { first, last, reason, after, before });
        }
    }

    /// From the first to the latest transaction end that the names tell; none when they tell none.
    pub fn span(&self) -> Option<(Timestamp, Timestamp)> {
        let first = self.items.iter().filter_map(|item| item.first.known().or(item.last.known())).min()?;
        let last = self.items.iter().filter_map(|item| item.last.known()).max()?;
        Some((first.min(last), last))
    }

    /// The segments to read for what happened from `from` to `to`, with what goes before them as far as it may be needed.
    pub fn reading(&self, from: Timestamp, to: Timestamp, size: SegmentSize) -> Range<usize> {
        let ended_before = |item: &Item| item.last.known().is_some_and(|last| last < from);
        let begins_after = |item: &Item| item.first.known().is_some_and(|first| first > to);
        // Neighbouring commits carry times out of order now and then: the farthest that may matter decides.
        let start = self.items.iter().rposition(ended_before).map_or(0, |at| at + 1);
        let first_inside = self.items.iter().position(|item| item.last.known().is_some_and(|last| last >= from));
        let start = start.min(first_inside.unwrap_or(start));
        let end = self.items.iter().position(begins_after).unwrap_or(self.items.len());
        let last_inside = self.items.iter().rposition(|item| item.first.known().is_some_and(|first| first <= to));
        let end = end.max(last_inside.map_or(end, |at| at + 1)).max(start);
        let lead = (LEAD_BYTES / size.bytes()).max(1) as usize;
        start.saturating_sub(lead)..end
    }

    /// As [`Track::reading`], and at least up to the nearest segments on both sides of `time` in which transactions ended.
    pub fn reading_around(&self, time: Timestamp, from: Timestamp, to: Timestamp, size: SegmentSize) -> Range<usize> {
        let range = self.reading(from, to, size);
        let before = self.items.iter().rposition(|item| item.first.known().is_some_and(|first| first < time));
        let after = self.items.iter().position(|item| item.last.known().is_some_and(|last| last >= time));
        let start = before.map_or(range.start, |at| range.start.min(at));
        start..after.map_or(range.end, |at| range.end.max(at + 1))
    }
}

/// Another timeline than those on the way, or the rest of one that the way leaves, that has an interval, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elsewhere {
    /// Which.
    pub timeline: TimelineId,
    /// The latest transaction end in the interval's segments that the names tell.
    pub last: Option<Timestamp>,
}

/// The timelines off the `path` in which transactions ended, or may have, from `from` to `to`. A cluster restored for a
/// look and promoted has the newest timeline, while production goes on on another one.
pub fn elsewhere(path: &TimelinePath, catalog: &LogCatalog, from: Timestamp, to: Timestamp) -> Vec<Elsewhere> {
    let size = path.segment_size();
    let mut found = BTreeMap::new();
    for (segment, object) in &catalog.segments {
        let timeline = segment.timeline;
        // What lies before the branch is common to both.
        let is_apart = timeline != path.timeline() && path.left_at(timeline).is_none_or(|left| segment.end(size) > left);
        let (first, last) = (object.name.first.known(), object.name.last);
        let is_inside =
            last != CommitTime::None && last.known().is_none_or(|last| last >= from) && first.is_none_or(|first| first <= to);
        if is_apart && is_inside {
            let latest: &mut Option<Timestamp> = found.entry(timeline).or_default();
            *latest = (*latest).max(last.known());
        }
    }
    found.into_iter().rev().map(|(timeline, last)| Elsewhere { timeline, last }).collect()
}

/// One row of the axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its first moment.
    pub from: Timestamp,
    /// Commits in it. Those of a segment are spread evenly over the time that its name tells.
    pub commits: u64,
    /// Stored bytes of log, spread in the same way.
    pub stored_bytes: u64,
    /// Segments that end in it whose commits are not known.
    pub unknown_segments: u64,
    /// Backups that ended in it.
    pub backups: Vec<BackupId>,
    /// Gaps that begin in it, by their place in [`Track::gaps`].
    pub gaps: Vec<usize>,
}

/// What happened from one moment to another, in rows of the same length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Axis {
    /// Length of a row.
    pub interval: Duration,
    /// The rows, in order of time.
    pub rows: Vec<Row>,
}

/// The shortest round length with which `from` to `to` takes at most [`ROWS`] rows.
pub fn round_interval(from: Timestamp, to: Timestamp) -> Duration {
    let fits = |seconds: &&u64| rows_of(from, to, Duration::from_secs(**seconds)) <= ROWS;
    let longest = ROUND_SECONDS[ROUND_SECONDS.len() - 1];
    let seconds = ROUND_SECONDS.iter().find(fits).copied().unwrap_or_else(|| {
        let weeks = to.since(from).as_secs().div_ceil((ROWS - 1) * longest);
        weeks * longest
    });
    Duration::from_secs(seconds)
}

/// How many rows of this length there are from `from` to `to`.
pub fn rows_of(from: Timestamp, to: Timestamp, interval: Duration) -> u64 {
    to.since(row_start(from, interval)).as_micros() as u64 / interval.as_micros().max(1) as u64 + 1
}

/// The beginning of the row in which `time` lies.
fn row_start(time: Timestamp, interval: Duration) -> Timestamp {
    let micros = i64::try_from(interval.as_micros()).unwrap_or(i64::MAX).max(1);
    let start = time.unix_micros().div_euclid(micros) * micros;
    Timestamp::from_unix_micros(start).unwrap_or(time)
}

/// The axis from `from` to `to`.
pub fn axis(track: &Track, backups: &[&BackupSummary], from: Timestamp, to: Timestamp, interval: Duration) -> Axis {
    let start = row_start(from, interval);
    let row = |index: u64| Row {
        from: start.plus(interval.saturating_mul(u32::try_from(index).unwrap_or(u32::MAX))),
        commits: 0,
        stored_bytes: 0,
        unknown_segments: 0,
        backups: Vec::new(),
        gaps: Vec::new(),
    };
    let rows: Vec<Row> = (0..rows_of(from, to, interval).min(MOST_ROWS)).map(row).collect();
    let mut axis = Axis { interval, rows };
    let mut known = None;
    for item in &track.items {
        // Where no transaction ended, the segment counts for the moment of the last one before it.
        let last = item.last.known().or(item.first.known()).or(known).unwrap_or(item.arrived);
        let first = item.first.known().unwrap_or(last).min(last);
        known = Some(last);
        axis.spread(first, last, u64::from(item.commits.unwrap_or(0)), |row, share| row.commits += share);
        axis.spread(first, last, item.stored_bytes, |row, share| row.stored_bytes += share);
        if item.commits.is_none() {
            axis.at(last, |row| row.unknown_segments += 1);
        }
    }
    for backup in backups {
        axis.at(backup.stop_time, |row| row.backups.push(backup.id.clone()));
    }
    for (index, gap) in track.gaps.iter().enumerate() {
        if let Some(time) = gap.after.or(gap.before) {
            axis.at(time, |row| row.gaps.push(index));
        }
    }
    axis
}

impl Axis {
    fn position(&self, time: Timestamp) -> Option<usize> {
        let start = self.rows.first()?.from;
        let index = time.unix_micros().checked_sub(start.unix_micros())?.div_euclid(self.interval.as_micros() as i64);
        usize::try_from(index).ok().filter(|index| *index < self.rows.len())
    }

    fn at(&mut self, time: Timestamp, change: impl FnOnce(&mut Row)) {
        if let Some(index) = self.position(time) {
            change(&mut self.rows[index]);
        }
    }

    /// Spreads `amount` evenly from `first` to `last`; what falls outside the axis is left out.
    fn spread(&mut self, first: Timestamp, last: Timestamp, amount: u64, mut add: impl FnMut(&mut Row, u64)) {
        let (start, micros) = (self.rows.first().map_or(0, |row| row.from.unix_micros()), self.interval.as_micros() as i64);
        let (first, last) = (first.unix_micros(), last.unix_micros());
        let length = i128::from(last - first + 1);
        // How much there is before a moment: the differences of whole numbers add up to the amount.
        let before = |moment: i64| (i128::from((moment - first).clamp(0, last - first + 1)) * i128::from(amount) / length) as u64;
        let row_of = |moment: i64| (moment - start).div_euclid(micros).clamp(0, self.rows.len() as i64);
        let (from_row, to_row) = (row_of(first), row_of(last).min(self.rows.len() as i64 - 1));
        for index in from_row..=to_row {
            let row_from = start + index * micros;
            let share = before(row_from + micros) - before(row_from);
            add(&mut self.rows[index as usize], share);
        }
    }
}

#[cfg(test)]
mod tests;
