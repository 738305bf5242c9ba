//! The planner against brute force: random histories of timelines, backups, segments and gaps, in real bytes of log.
//!
//! The oracle knows every record that was ever written, archived or not, and tries every backup. A plan must name the
//! newest backup that serves and stop at the right record; a refusal must mean that no backup serves.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::Target;
use super::plan::{RecoveryStop, RestorePlan, Situation, plan};
use super::search::LogReader;
use crate::base::{BackupId, BackupType, Incarnation, Lsn, Result, Segment, SegmentSize, TimelineId, Timestamp};
use crate::engine::timeline::TimelinePath;
use crate::repo::BackupSummary;
use crate::repo::log::name::{CommitTime, HistoryName, SegmentName};
use crate::repo::log::{LogCatalog, SegmentObject, TimelineHistory};
use crate::source::postgres::wal::fixture::{Log, Written};
use crate::source::postgres::wal::{Carry, EndTime, summarise};

/// 2000-01-01 in microseconds since 1970.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;
/// A transaction's time is taken this much before its record is written, at most.
const JITTER_MICROS: i64 = 40;
/// Random histories in one run.
const HISTORIES: u64 = 100;
/// Random targets in one history.
const TARGETS: usize = 40;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    End { xid: u32 },
    RestorePoint { number: u32 },
    Other,
}

/// A record as it was written.
#[derive(Clone, Copy, Debug)]
struct Record {
    start: Lsn,
    end: Lsn,
    kind: Kind,
    /// In microseconds since 2000, for the kinds that carry one.
    time: Option<i64>,
}

/// A timeline with the whole log that leads to its end, that of its ancestors included.
#[derive(Clone)]
struct Timeline {
    id: TimelineId,
    parent: Option<(TimelineId, Lsn)>,
    log: Log,
    records: Vec<Record>,
}

struct World {
    random: StdRng,
    clock: i64,
    next_xid: u32,
    next_point: u32,
    timelines: Vec<Timeline>,
    backups: Vec<BackupSummary>,
    catalog: LogCatalog,
    bytes: BTreeMap<Segment, Vec<u8>>,
}

#[async_trait]
impl LogReader for World {
    async fn segment(&self, segment: Segment) -> Result<Vec<u8>> {
        assert!(self.catalog.segments.contains_key(&segment), "{segment:?} is not archived");
        Ok(self.bytes[&segment].clone())
    }
}

fn timestamp(micros: i64) -> Timestamp {
    Timestamp::from_unix_micros(POSTGRES_EPOCH_MICROS + micros).expect("in range")
}

/// A history.
impl World {
    fn random(seed: u64) -> Self {
        let mut world = Self {
            random: StdRng::seed_from_u64(seed),
            clock: 700_000_000_000_000,
            next_xid: 700,
            next_point: 1,
            timelines: Vec::new(),
            backups: Vec::new(),
            catalog: LogCatalog::default(),
            bytes: BTreeMap::new(),
        };
        let first = Log::new();
        world.timelines.push(Timeline { id: first.timeline, parent: None, log: first, records: Vec::new() });
        world.live(0);
        for _ in 0..world.random.random_range(0..3) {
            let parent = world.random.random_range(0..world.timelines.len());
            let child = world.branch(parent);
            world.live(child);
            // The old primary may go on beside the new one.
            if world.random.random_bool(0.3) {
                world.live(parent);
            }
        }
        world.archive();
        world
    }

    /// Some segments of log, and backups.
    fn live(&mut self, at: usize) {
        for _ in 0..self.random.random_range(1..4) {
            let began = self.random.random_bool(0.7).then(|| self.begin_backup(at));
            for _ in 0..self.random.random_range(0..12) {
                self.write(at);
            }
            if let Some(began) = began {
                self.end_backup(at, began);
            }
            if self.random.random_bool(0.3) {
                self.fill_up(at);
            } else {
                let switch = self.timelines[at].log.switch();
                self.note(at, &switch, Kind::Other, None);
            }
        }
        // Only whole segments are ever archived.
        if !self.timelines[at].log.bytes.len().is_multiple_of(self.segment_bytes()) {
            let switch = self.timelines[at].log.switch();
            self.note(at, &switch, Kind::Other, None);
        }
    }

    fn segment_bytes(&self) -> usize {
        self.timelines[0].log.size.bytes() as usize
    }

    fn tick(&mut self) -> i64 {
        self.clock += self.random.random_range(1..60);
        self.clock
    }

    fn note(&mut self, at: usize, written: &Written, kind: Kind, time: Option<i64>) {
        self.timelines[at].records.push(Record { start: written.start, end: written.end, kind, time });
    }

    fn write(&mut self, at: usize) {
        let now = self.tick();
        match self.random.random_range(0..10) {
            0..6 => {
                let (xid, time) = (self.next_xid, now - self.random.random_range(0..JITTER_MICROS));
                self.next_xid += 1;
                let written = self.timelines[at].log.commit(xid, time);
                self.note(at, &written, Kind::End { xid }, Some(time));
            }
            6 => {
                let number = self.next_point;
                self.next_point += 1;
                let written = self.timelines[at].log.restore_point(&format!("point-{number}"), now);
                self.note(at, &written, Kind::RestorePoint { number }, Some(now));
            }
            _ => {
                let length = self.random.random_range(0..5000);
                self.other(at, length);
            }
        }
    }

    fn other(&mut self, at: usize, length: usize) {
        let written = self.timelines[at].log.append(10, 0, 0, &vec![7; length]);
        self.note(at, &written, Kind::Other, None);
    }

    /// Brings the log to within a few bytes of the segment's end, so that the next record straddles; sometimes beyond.
    fn fill_up(&mut self, at: usize) {
        let left = self.segment_bytes() - self.timelines[at].log.bytes.len() % self.segment_bytes();
        let beyond = if self.random.random_bool(0.2) { 1_200_000 } else { 0 };
        // A page header for every 8 KiB, and the record's own.
        let headers = (left / 8192 + 2) * 24 + 64;
        if left > headers {
            self.other(at, left - headers + beyond);
        }
    }

    fn begin_backup(&mut self, at: usize) -> (usize, i64) {
        // Where replay begins is a record's start.
        self.other(at, 10);
        let now = self.tick();
        (self.timelines[at].records.len() - 1, now)
    }

    fn end_backup(&mut self, at: usize, (first, start_time): (usize, i64)) {
        let from_standby = self.random.random_bool(0.2);
        self.other(at, 20);
        let stop_time = self.tick() + if from_standby { 500 } else { 0 };
        let timeline = &self.timelines[at];
        let stop = timeline.records.last().expect("just written").end;
        let start = timeline.records[first].start;
        self.backups.push(summary(timeline.id, (start, stop), (start_time, stop_time), from_standby, timeline.log.size));
    }

    /// A new timeline that leaves the parent at a record's end.
    fn branch(&mut self, parent: usize) -> usize {
        let (id, from) = (TimelineId(self.timelines.len() as u32 + 1), self.timelines[parent].clone());
        let kept = self.random.random_range(from.records.len() / 2..from.records.len());
        let last = from.records[kept];
        // After a switch the next record begins in the next segment.
        let switched = from
            .records
            .get(kept + 1)
            .is_none_or(|next| next.start.0 / from.log.size.bytes() != last.end.0 / from.log.size.bytes());
        let end = (last.end.0 - from.log.first.start(from.log.size).0) as usize;
        let mut log = from.log.branch(id, end, last.start);
        if switched {
            log.bytes.resize(end.next_multiple_of(self.segment_bytes()), 0);
        }
        let switch_lsn = log.lsn(log.bytes.len());
        let parent = Some((from.id, switch_lsn));
        self.timelines.push(Timeline { id, parent, log, records: from.records[..=kept].to_vec() });
        self.timelines.len() - 1
    }

    /// Archives each timeline's own segments up to a random one, with gaps.
    fn archive(&mut self) {
        for timeline in self.timelines.clone() {
            let size = timeline.log.size;
            let mut carry = Carry::Unknown;
            let segments = timeline.log.segments();
            let own_from = timeline.parent.map_or(Lsn(0), |(_, switch)| switch).0 / size.bytes();
            let own = segments.iter().filter(|(segment, _)| segment.number >= own_from).count();
            let unarchived = if self.random.random_bool(0.7) { 0 } else { self.random.random_range(0..=own) };
            let count = segments.len();
            for (index, (segment, bytes)) in segments.into_iter().enumerate() {
                let segment = Segment { timeline: timeline.id, ..segment };
                let summary = summarise(segment, size, &bytes, &carry).expect("a whole segment");
                carry = summary.end.carry.clone();
                if segment.number < own_from || index + unarchived >= count || self.random.random_bool(0.04) {
                    continue;
                }
                let time = |time| match time {
                    EndTime::None => CommitTime::None,
                    EndTime::Unknown => CommitTime::Unknown,
                    EndTime::At(time) => CommitTime::At(time),
                };
                let name = SegmentName {
                    segment,
                    first: time(summary.first_time()),
                    last: time(summary.latest_time()),
                    commits: u32::try_from(summary.commits).ok(),
                    digest: "0".repeat(16),
                };
                let object = SegmentObject { key: String::new(), name, stored_bytes: 1, arrived: timestamp(self.clock) };
                self.catalog.segments.insert(segment, object);
                self.bytes.insert(segment, bytes);
            }
            if let Some((parent, switch_lsn)) = timeline.parent {
                let name = HistoryName { timeline: timeline.id, parent, switch_lsn, digest: "0".repeat(16) };
                let arrived = timestamp(self.clock);
                self.catalog.histories.insert(timeline.id, TimelineHistory { key: String::new(), name, arrived });
            }
        }
    }
}

fn summary(
    timeline: TimelineId,
    (start_lsn, stop_lsn): (Lsn, Lsn),
    (start_time, stop_time): (i64, i64),
    from_standby: bool,
    segment_bytes: SegmentSize,
) -> BackupSummary {
    let id = BackupId::fresh(timestamp(start_time), BackupType::Full);
    BackupSummary {
        timeline,
        start_time: timestamp(start_time),
        stop_time: timestamp(stop_time),
        segment_bytes,
        from_standby,
        ..BackupSummary::sample(id.as_str(), (start_lsn, stop_lsn))
    }
}

/// What is right, by brute force.
impl World {
    /// The timelines on the way to `goal`: each with the LSN at which the way leaves it.
    fn way(&self, goal: &Timeline) -> Vec<(TimelineId, Lsn)> {
        let mut way = vec![(goal.id, Lsn(u64::MAX))];
        let (mut at, mut left) = (goal, Lsn(u64::MAX));
        while let Some((parent, switch)) = at.parent {
            at = &self.timelines[parent.0 as usize - 1];
            left = left.min(switch);
            // Recovery along a timeline may stop before that one began: nothing of it is on the way.
            if at.parent.is_none_or(|(_, began)| began < left) {
                way.push((parent, left));
            }
        }
        way
    }

    /// Whether the byte before `end` on the way is archived: in a segment of its own timeline, or, where a timeline begins,
    /// in its parent's or in the one that was begun with a copy of the parent's.
    fn archived_until(&self, way: &[(TimelineId, Lsn)], from: Lsn) -> Lsn {
        let size = self.timelines[0].log.size;
        let mut number = from.0 / size.bytes();
        loop {
            let (start, end) = (Lsn(number * size.bytes()), Lsn((number + 1) * size.bytes()));
            // Newest first: the timeline that has begun by the segment's end, then those it follows within the segment.
            let in_segment = |at: &usize| way.get(at + 1).is_none_or(|(_, began)| *began < end) && way[*at].1 > start;
            let newest = (0..way.len()).find(in_segment).expect("a timeline covers every position");
            if self.catalog.segments.contains_key(&Segment { timeline: way[newest].0, number }) {
                number += 1;
                continue;
            }
            let served = way.get(newest + 1).filter(|(older, left)| {
                *left > start && self.catalog.segments.contains_key(&Segment { timeline: *older, number })
            });
            return served.map_or(start, |(_, left)| *left);
        }
    }

    /// Where replay of each backup must stop for `target` on the way to `goal`; newest backup first.
    fn right(&self, goal: &Timeline, target: &Target) -> Vec<(BackupId, RecoveryStop)> {
        let way = self.way(goal);
        let on_way = |backup: &&BackupSummary| way.iter().any(|(id, left)| *id == backup.timeline && backup.stop_lsn <= *left);
        let mut backups: Vec<&BackupSummary> = self.backups.iter().filter(on_way).collect();
        backups.sort_by_key(|backup| std::cmp::Reverse(backup.stop_lsn));
        let serves = |backup: &BackupSummary| {
            let until = self.archived_until(&way, backup.start_lsn);
            if until < backup.stop_lsn {
                return None;
            }
            let (stop, consistent_at) = self.stop_at(goal, target, backup, until)?;
            (consistent_at >= backup.stop_lsn).then(|| (backup.id.clone(), stop))
        };
        backups.into_iter().filter_map(serves).collect()
    }

    /// Where replay stops when the log is there up to `until`, and the position it has then replayed.
    fn stop_at(&self, goal: &Timeline, target: &Target, backup: &BackupSummary, until: Lsn) -> Option<(RecoveryStop, Lsn)> {
        let at = |record: &Record, inclusive: bool| {
            let consistent_at = if inclusive { record.end } else { record.start };
            (record.end <= until).then_some((RecoveryStop::Record { lsn: record.start, inclusive }, consistent_at))
        };
        let find = |wanted: &dyn Fn(&Record) -> bool| goal.records.iter().find(|record| wanted(record));
        match target {
            Target::Time(time) => {
                let time = time.unix_micros() - POSTGRES_EPOCH_MICROS;
                if timestamp(time) < backup.start_time {
                    return None;
                }
                let later = find(&|record| matches!(record.kind, Kind::End { .. }) && record.time > Some(time));
                match later.filter(|record| record.end <= until) {
                    Some(record) => at(record, false),
                    None if time <= self.known_until(goal, backup, until) => {
                        self.last_of(goal, until).and_then(|last| at(last, true))
                    }
                    None => None,
                }
            }
            Target::Lsn { lsn, inclusive } => {
                find(&|record| record.start >= *lsn).filter(|_| *lsn >= backup.stop_lsn).and_then(|record| at(record, *inclusive))
            }
            Target::Xid { xid, inclusive } => {
                find(&|record| matches!(record.kind, Kind::End { xid: ended } if u64::from(ended) == *xid))
                    .filter(|record| record.start >= backup.start_lsn)
                    .and_then(|record| at(record, *inclusive))
            }
            Target::Name(name) => {
                find(&|record| matches!(record.kind, Kind::RestorePoint { number } if format!("point-{number}") == *name))
                    .filter(|record| record.start >= backup.start_lsn)
                    .and_then(|record| at(record, true))
            }
            Target::Latest => self.last_of(goal, until).and_then(|last| at(last, true)),
            Target::Immediate => Some((RecoveryStop::Immediate, backup.stop_lsn)),
        }
    }

    fn last_of<'a>(&self, goal: &'a Timeline, until: Lsn) -> Option<&'a Record> {
        goal.records.iter().rfind(|record| record.end <= until)
    }

    /// Up to when the log before `until` tells everything: any transaction's end, and whatever the last segment that
    /// tells a time tells; or the backup's own end.
    fn known_until(&self, goal: &Timeline, backup: &BackupSummary, until: Lsn) -> i64 {
        let size = goal.log.size;
        let first = backup.start_lsn.0 / size.bytes();
        let number = |record: &Record| (record.end.0 - 1) / size.bytes();
        let there = || goal.records.iter().filter(|record| record.end <= until && number(record) >= first);
        let ends = there().filter(|record| matches!(record.kind, Kind::End { .. })).filter_map(|record| record.time);
        let last = there().filter(|record| record.time.is_some()).map(number).max();
        let told = there().filter(|record| Some(number(record)) == last).filter_map(|record| record.time);
        let stopped = (!backup.from_standby).then(|| backup.stop_time.unix_micros() - POSTGRES_EPOCH_MICROS);
        ends.chain(told).chain(stopped).max().unwrap_or(i64::MIN)
    }

    /// Whether a plan for `time` replays exactly what ended by then: nothing more, and no less than clocks can tell.
    fn assert_sound(&self, goal: &Timeline, time: i64, plan: &RestorePlan) {
        let RecoveryStop::Record { lsn, inclusive } = plan.stop else { panic!("{plan:?}") };
        let ends = goal.records.iter().filter(|record| matches!(record.kind, Kind::End { .. }));
        let (replayed, left): (Vec<&Record>, Vec<&Record>) =
            ends.partition(|record| record.start < lsn.max(plan.backup.start_lsn) || inclusive && record.start == lsn);
        for record in replayed {
            assert!(record.time <= Some(time), "{record:?} ended after {time}, and would be replayed");
        }
        let first_later = left.iter().position(|record| record.time > Some(time)).unwrap_or(left.len());
        for record in &left[..first_later] {
            assert!(record.time > Some(time - JITTER_MICROS), "{record:?} ended by {time}, and would be left out");
        }
    }
}

fn random_target(world: &mut World) -> Target {
    let kind = world.random.random_range(0..10);
    let records: Vec<Record> = world.timelines.iter().flat_map(|timeline| timeline.records.clone()).collect();
    let record = records[world.random.random_range(0..records.len())];
    match kind {
        0..5 => {
            let about = record.time.unwrap_or(world.clock - world.random.random_range(0..2000));
            Target::Time(timestamp(about + world.random.random_range(-30..30)))
        }
        5 => match world.backups.is_empty() {
            true => Target::Latest,
            false => {
                let backup = &world.backups[world.random.random_range(0..world.backups.len())];
                let either = [backup.start_time, backup.stop_time][world.random.random_range(0..2)];
                let off = Duration::from_micros(world.random.random_range(0..30));
                Target::Time(if world.random.random_bool(0.5) { either.plus(off) } else { either.minus(off) })
            }
        },
        6 => Target::Lsn { lsn: Lsn(record.start.0 + world.random.random_range(0..2)), inclusive: world.random.random_bool(0.5) },
        7 => Target::Xid {
            xid: u64::from(world.random.random_range(690..world.next_xid + 2)),
            inclusive: world.random.random_bool(0.5),
        },
        8 => Target::Name(format!("point-{}", world.random.random_range(1..=world.next_point))),
        _ => [Target::Latest, Target::Immediate][world.random.random_range(0..2)].clone(),
    }
}

/// How a run went: a test in which nothing was ever planned, or nothing refused, shows nothing.
#[derive(Debug, Default)]
struct Tally {
    planned: usize,
    refused: usize,
    from_older: usize,
    across_timelines: usize,
}

async fn try_target(world: &World, goal: &Timeline, target: &Target, tally: &mut Tally) {
    let size = goal.log.size;
    let path = TimelinePath::to(goal.id, &world.catalog, size).expect("every history is archived");
    let incarnation = Incarnation::postgres(15, 1);
    let situation = Situation {
        source: "model",
        backups: world.backups.iter().collect(),
        incarnation: &incarnation,
        catalog: &world.catalog,
        path,
        timeline_chosen: true,
    };
    let right = world.right(goal, target);
    let only = Some(&right).filter(|right| right.len() > 1).map(|right| right[right.len() - 1].0.clone());
    match (plan(&situation, target, None, world).await, right.first()) {
        (Ok(plan), Some((backup, stop))) => {
            assert_eq!((&plan.backup.id, plan.stop), (backup, *stop), "{target:?}: {plan:?}\nright: {right:?}");
            if let Target::Time(time) = target {
                world.assert_sound(goal, time.unix_micros() - POSTGRES_EPOCH_MICROS, &plan);
            }
            tally.planned += 1;
            tally.from_older += usize::from(world.backups.iter().any(|other| other.stop_lsn > plan.backup.stop_lsn));
            tally.across_timelines += usize::from(plan.backup.timeline != goal.id);
        }
        (Err(_), None) => tally.refused += 1,
        (Ok(plan), None) => panic!("{target:?} cannot be reached, and was planned: {plan:?}"),
        (Err(error), Some(_)) => panic!("{target:?} was refused: {error:?}\nright: {right:?}"),
    }
    if let Some(oldest) = only {
        let plan = plan(&situation, target, Some(&oldest), world).await.expect("the oldest backup that serves");
        assert_eq!((&plan.backup.id, plan.stop), (&right[right.len() - 1].0, right[right.len() - 1].1), "{target:?}");
    }
}

#[tokio::test]
async fn plans_are_those_of_brute_force() {
    let seed: u64 = match std::env::var("LIFEBOAT_TEST_SEED") {
        Ok(text) => text.parse().expect("LIFEBOAT_TEST_SEED is a number"),
        Err(_) => rand::random(),
    };
    println!("LIFEBOAT_TEST_SEED={seed}");
    let mut tally = Tally::default();
    for history in 0..HISTORIES {
        let mut world = World::random(seed.wrapping_add(history));
        for _ in 0..TARGETS {
            let (target, goal) = (random_target(&mut world), world.random.random_range(0..world.timelines.len()));
            let goal = world.timelines[goal].clone();
            println!("history {history}: {target:?} on timeline {}", goal.id);
            try_target(&world, &goal, &target, &mut tally).await;
        }
    }
    println!("{tally:?}");
    assert!(tally.planned > 200 && tally.refused > 200 && tally.from_older > 50 && tally.across_timelines > 50, "{tally:?}");
}
