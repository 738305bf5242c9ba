//! Brute force over moments and segments: what could be replayed of a world, by what was really written.

use std::collections::{BTreeMap, BTreeSet};

use super::world::{SIZE, Taken, World, incarnation, is_on, moment, size};
use crate::base::{BackupId, Segment, Timestamp};
use crate::policy::retention::LogVerdict;
use crate::repo::log::LogCut;

/// The log that goes, by incarnation.
#[derive(Clone, Default)]
pub(super) struct Cuts(BTreeMap<usize, LogCut>);

impl Cuts {
    pub fn of(world: &World, logs: &[LogVerdict]) -> Self {
        let cut = |number: usize| {
            let own = logs.iter().filter(|log| !log.kept && log.incarnation == incarnation(number));
            let timelines = world.lines.iter().filter(|line| line.incarnation == number).map(|line| line.id);
            (number, LogCut::on(timelines, own.map(|log| (log.from, log.to))))
        };
        let cuts = world.lines.iter().map(|line| cut(line.incarnation)).filter(|(_, cut)| *cut != LogCut::default());
        Self(cuts.collect())
    }

    /// Whether a segment of an incarnation goes.
    pub fn takes(&self, incarnation: usize, segment: Segment) -> bool {
        self.0.get(&incarnation).is_some_and(|cut| cut.covers_segment(segment, size()))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// A backup from which replay on the way to a line becomes consistent.
struct Start {
    id: BackupId,
    stop: u64,
    start_time: Timestamp,
    /// Where the log that follows it without a gap ends.
    end: u64,
    /// Every commit that is replayed, with the latest time up to it.
    replayed: Vec<(u64, i64)>,
}

/// What can be replayed on the way to one line.
pub(super) struct Replay {
    starts: Vec<Start>,
}

impl Replay {
    /// On the way to each line, with the backups of `present` and the log that `cuts` leave. What is contradicted or lacks
    /// its history counts: an operator can end that.
    pub fn of(world: &World, present: &BTreeSet<BackupId>, cuts: &Cuts) -> Vec<Self> {
        let whole = whole(world, present);
        let usable: Vec<&Taken> = world.taken.iter().filter(|taken| whole.contains(&taken.summary.id)).collect();
        (0..world.lines.len()).map(|line| Self::on(world, line, &usable, cuts)).collect()
    }

    fn on(world: &World, line: usize, usable: &[&Taken], cuts: &Cuts) -> Self {
        let (way, commits) = (world.way(line), world.commits(line));
        let pieces = pieces(world, &way, cuts);
        let start = |taken: &&Taken| {
            let backup = &taken.summary;
            let end = reach(&pieces, backup.start_lsn.0);
            let from = commits.partition_point(|(at, _)| *at < backup.start_lsn.0);
            let mut latest = i64::MIN;
            let replayed = commits[from..].iter().take_while(|(at, _)| *at < end).map(|(at, time)| {
                latest = latest.max(*time);
                (*at, latest)
            });
            let (id, replayed) = (backup.id.clone(), replayed.collect());
            Start { id, stop: backup.stop_lsn.0, start_time: backup.start_time, end, replayed }
        };
        let on_way = usable.iter().filter(|taken| is_on(&way, taken));
        Self { starts: on_way.map(start).filter(|start| start.end >= start.stop).collect() }
    }

    /// Before which commits a restore to `time` can stop.
    pub fn stops(&self, time: i64) -> BTreeSet<u64> {
        let mut stops = BTreeSet::new();
        for start in self.starts.iter().filter(|start| start.start_time <= moment(time)) {
            let later = start.replayed.partition_point(|(_, latest)| *latest <= time);
            match start.replayed.get(later) {
                Some((stop, _)) if *stop >= start.stop => drop(stops.insert(*stop)),
                // The last moment that the log knows.
                None if start.replayed.last().is_some_and(|(_, latest)| *latest == time) => drop(stops.insert(u64::MAX)),
                _ => {}
            }
        }
        stops
    }

    /// How far the log leads from any backup; none when none becomes consistent.
    pub fn end(&self) -> Option<u64> {
        self.starts.iter().map(|start| start.end).max()
    }

    /// The backups that become consistent, each with how far the log leads from it.
    pub fn ends(&self) -> BTreeMap<&BackupId, u64> {
        self.starts.iter().map(|start| (&start.id, start.end)).collect()
    }
}

/// The backups that are there with all that they build on.
pub(super) fn whole(world: &World, present: &BTreeSet<BackupId>) -> BTreeSet<BackupId> {
    let mut whole = BTreeSet::new();
    // What one builds on was taken before it.
    for backup in world.taken.iter().map(|taken| &taken.summary).filter(|backup| present.contains(&backup.id)) {
        if backup.base.as_ref().is_none_or(|base| whole.contains(base)) {
            whole.insert(backup.id.clone());
        }
    }
    whole
}

/// The log on a way in pieces, each with whether it is archived and stays: cut where a segment or a line begins.
fn pieces(world: &World, way: &[(usize, u64)], cuts: &Cuts) -> Vec<(u64, bool)> {
    let last = way.iter().map(|(on, _)| world.lines[*on].end).max().unwrap_or(SIZE) / SIZE + 1;
    let begins = way.iter().filter_map(|(on, _)| world.lines[*on].parent).map(|(_, begin)| begin);
    let cuts_at: BTreeSet<u64> = (0..=last).map(|number| number * SIZE).chain(begins).collect();
    cuts_at.into_iter().map(|at| (at, has(world, way, at, cuts))).collect()
}

/// Where the log that is there without a gap from `start` on ends.
fn reach(pieces: &[(u64, bool)], start: u64) -> u64 {
    let first = pieces.partition_point(|(at, _)| *at <= start) - 1;
    let gap = pieces[first..].iter().find(|(_, is_there)| !is_there);
    gap.map_or(u64::MAX, |(at, _)| (*at).max(start))
}

/// Whether the byte at `at` on the way is archived, in a segment that stays.
fn has(world: &World, way: &[(usize, u64)], at: u64, cuts: &Cuts) -> bool {
    let number = at / SIZE;
    let is_there = |on: usize| {
        let line = &world.lines[on];
        line.arrived.contains_key(&number) && !cuts.takes(line.incarnation, Segment { timeline: line.id, number })
    };
    // The newest line that has begun in the segment; before its own beginning also the one that it came from.
    let begun = |on: usize| world.lines[on].parent.map_or(0, |(_, at)| at);
    let newest = way.iter().position(|(on, _)| begun(*on) / SIZE <= number).unwrap_or(way.len() - 1);
    let (on, _) = way[newest];
    is_there(on)
        || (at < begun(on) && begun(on) / SIZE == number && way.get(newest + 1).is_some_and(|(parent, _)| is_there(*parent)))
}
