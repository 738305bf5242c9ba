//! Random histories of a source: timelines, clusters that follow each other, backups, gaps, and what somebody puts there.
//!
//! The world knows what was really written, archived or not, and what the names tell of it: they may tell less.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::base::{BackupId, BackupType, Incarnation, Lsn, Segment, SegmentSize, TimelineId, Timestamp};
use crate::engine::retention::Catalogs;
use crate::policy::Retention;
use crate::repo::BackupSummary;
use crate::repo::log::name::{CommitTime, HistoryName, SegmentName};
use crate::repo::log::{LogCatalog, SegmentObject, SplitBrain, TimelineHistory};

pub(super) const HOUR: i64 = 3600;
pub(super) const SIZE: u64 = 1 << 20;

pub(super) fn size() -> SegmentSize {
    SegmentSize::new(SIZE as u32).expect("a size")
}

pub(super) fn moment(seconds: i64) -> Timestamp {
    Timestamp::parse_compact("20270101T000000Z").expect("a time").plus(Duration::from_secs(seconds as u64))
}

pub(super) fn incarnation(number: usize) -> Incarnation {
    Incarnation::postgres(15, number as u64 + 1)
}

/// What a segment's name tells of the commits in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    All,
    LastOnly,
    Nothing,
}

/// A segment in the archive.
#[derive(Clone, Copy, Debug)]
pub(super) struct Archived {
    pub at: i64,
    pub told: Told,
    /// Whether another content was archived under its name, and nobody decided yet.
    pub contradicted: bool,
}

/// One timeline of one incarnation: what was written to it, from its branching off on.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub incarnation: usize,
    pub id: TimelineId,
    /// Index of the parent, and where this branched off.
    pub parent: Option<(usize, u64)>,
    /// When its history arrived; none when there is none, or it was lost.
    pub history: Option<i64>,
    /// Position and time of every commit, in log order; a clock may have been set back.
    pub commits: Vec<(u64, i64)>,
    pub end: u64,
    /// By segment number.
    pub arrived: BTreeMap<u64, Archived>,
}

#[derive(Clone, Debug)]
pub(super) struct Taken {
    pub summary: BackupSummary,
    pub line: usize,
    /// When it was committed, by a clock that is right.
    pub at: i64,
}

/// What somebody put there who can only put.
#[derive(Clone, Debug)]
pub(super) enum Planted {
    Segment { incarnation: usize, segment: Segment, arrived: i64, last: Option<i64> },
    History { incarnation: usize, name: HistoryName, arrived: i64 },
}

/// A history, and the clock of its server.
pub(super) struct World {
    pub random: StdRng,
    pub time: i64,
    skew: i64,
    /// Whether clocks are set.
    pub steps: bool,
    /// The share of names that do not tell all.
    untold: f64,
    pub lines: Vec<Line>,
    current: usize,
    pub taken: Vec<Taken>,
    pub planted: Vec<Planted>,
    ids: u32,
}

impl World {
    pub fn random(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let steps = random.random_bool(0.3);
        // Where clocks were set and names do not tell it, nothing can know what a backup holds.
        let untold = if !steps && random.random_bool(0.3) { random.random_range(0.2..1.0) } else { 0.0 };
        let (time, skew) = (400 * 24 * HOUR, 0);
        let mut world =
            Self { random, time, skew, steps, untold, lines: vec![], current: 0, taken: vec![], planted: vec![], ids: 0 };
        world.first_line(0);
        let steps = world.random.random_range(5..60);
        world.live(steps);
        if world.random.random_bool(0.2) {
            world.promote();
        }
        world
    }

    /// So many things happen.
    pub fn live(&mut self, steps: usize) {
        for _ in 0..steps {
            self.step();
        }
    }

    fn step(&mut self) {
        let pause = [60, HOUR, 8 * HOUR, 30 * HOUR, 20 * 24 * HOUR][self.random.random_range(0..5)];
        self.time += self.random.random_range(1..=pause);
        match self.random.random_range(0..100) {
            0..42 => self.write(),
            42..50 => self.switch(),
            50..83 => self.back_up(),
            83..90 => self.branch(),
            90..93 => self.new_cluster(),
            93..97 if self.steps => self.skew = self.random.random_range(-30 * HOUR..30 * HOUR),
            _ => self.lose(),
        }
    }

    /// When it is decided: at once, later, or when the window begins close to the end of a backup.
    pub fn now(&mut self, retention: &Retention) -> i64 {
        let window = retention.window.as_secs() as i64;
        let stops: Vec<i64> = self.taken.iter().map(|taken| taken.summary.stop_time.since(moment(0)).as_secs() as i64).collect();
        let later = match self.random.random_range(0..4) {
            0 => 60,
            1 => self.random.random_range(0..window * 2),
            _ if stops.is_empty() => 60,
            _ => {
                let stop = stops[self.random.random_range(0..stops.len())];
                stop + window + self.random.random_range(-HOUR..3 * HOUR) - self.time
            }
        };
        self.time + later.max(60)
    }

    /// The first timeline of a cluster; the archive may begin on a later one.
    fn first_line(&mut self, incarnation: usize) {
        let id = TimelineId(if self.random.random_bool(0.15) { 5 } else { 1 });
        let line = Line { incarnation, id, parent: None, history: None, commits: vec![], end: SIZE, arrived: BTreeMap::new() };
        self.lines.push(line);
        self.current = self.lines.len() - 1;
    }

    fn line(&mut self) -> &mut Line {
        &mut self.lines[self.current]
    }

    /// A few commits, some of them hours apart.
    fn write(&mut self) {
        for _ in 0..self.random.random_range(1..5) {
            self.time += self.random.random_range(1..2 * HOUR);
            let (bytes, at) = (self.random.random_range(100..SIZE * 2 / 3), self.time + self.skew);
            self.grow(bytes);
            let end = self.lines[self.current].end;
            self.line().commits.push((end - 50, at));
        }
    }

    /// Lets the log grow; every segment that is full arrives.
    fn grow(&mut self, bytes: u64) {
        let before = self.line().end / SIZE;
        self.line().end += bytes;
        for number in before..self.lines[self.current].end / SIZE {
            let told = match self.random.random_bool(self.untold) {
                true => [Told::LastOnly, Told::Nothing][self.random.random_range(0..2)],
                false => Told::All,
            };
            let archived = Archived { at: self.time, told, contradicted: false };
            self.line().arrived.insert(number, archived);
        }
    }

    /// A segment ends early, perhaps without a commit in it.
    fn switch(&mut self) {
        let bytes = SIZE - self.lines[self.current].end % SIZE;
        self.grow(bytes);
    }

    fn back_up(&mut self) {
        let from_standby = self.random.random_bool(0.3);
        // A standby's clock may be slow or fast.
        let off = if from_standby { self.random.random_range(-20 * HOUR..20 * HOUR) } else { 0 };
        let start = (self.lines[self.current].end, self.time + self.skew + off);
        if self.random.random_bool(0.5) {
            self.write();
        }
        self.grow(200);
        self.time += self.random.random_range(1..HOUR);
        let stop = (self.lines[self.current].end, (self.time + self.skew + off).max(start.1));
        let way = self.way(self.current);
        let on_way = self.taken.iter().filter(|taken| is_on(&way, taken));
        let bases: Vec<BackupSummary> = on_way.map(|taken| taken.summary.clone()).collect();
        let chosen = bases.get(self.random.random_range(0..=bases.len())).cloned();
        let base = chosen.filter(|base| base.stop_lsn.0 <= start.0);
        let backup_type = match &base {
            None => BackupType::Full,
            Some(base) if base.backup_type == BackupType::Full && self.random.random_bool(0.5) => BackupType::Diff,
            Some(_) => BackupType::Incr,
        };
        let id = self.id(backup_type);
        let summary = BackupSummary {
            backup_type,
            base: base.map(|base| base.id),
            incarnation: incarnation(self.lines[self.current].incarnation),
            timeline: self.lines[self.current].id,
            start_time: moment(start.1),
            stop_time: moment(stop.1),
            segment_bytes: size(),
            from_standby,
            ..BackupSummary::sample(id.as_str(), (Lsn(start.0), Lsn(stop.0)))
        };
        self.taken.push(Taken { summary, line: self.current, at: self.time });
        self.switch();
    }

    /// An id that is the same for the same seed.
    pub fn id(&mut self, backup_type: BackupType) -> BackupId {
        self.ids += 1;
        let letter = |place: u32| char::from(b'a' + (self.ids >> (4 * place) & 15) as u8);
        let letters: String = (0..4).rev().map(letter).collect();
        format!("{}-{backup_type}-{letters}", moment(self.time).compact_seconds()).parse().expect("an id")
    }

    /// A new timeline, or back to an old one.
    pub fn branch(&mut self) {
        if self.random.random_bool(0.2) {
            let own = self.lines[self.current].incarnation;
            let others: Vec<usize> = (0..self.lines.len()).filter(|at| self.lines[*at].incarnation == own).collect();
            self.current = others[self.random.random_range(0..others.len())];
            return;
        }
        self.promote();
        match self.random.random_range(0..10) {
            0..6 => self.write(),
            6..8 => self.switch(),
            _ => {}
        }
    }

    /// A promotion, or a restore to some place: a new timeline, of which nothing but the history is archived yet.
    fn promote(&mut self) {
        let own = self.lines[self.current].incarnation;
        let others: Vec<usize> = (0..self.lines.len()).filter(|at| self.lines[*at].incarnation == own).collect();
        let parent = others[self.random.random_range(0..others.len())];
        let from = self.lines[parent].parent.map_or(SIZE, |(_, at)| at);
        let ends: Vec<u64> =
            self.taken.iter().filter(|taken| taken.line == parent).map(|taken| taken.summary.stop_lsn.0).collect();
        let at = match self.random.random_range(0..10) {
            0..5 => self.lines[parent].end,
            // As soon as a backup is consistent.
            5..7 if !ends.is_empty() => ends[self.random.random_range(0..ends.len())],
            // PostgreSQL calls the target the parent even when replay stopped before that one began.
            7 => self.random.random_range(SIZE..=from),
            _ => self.random.random_range(from..=self.lines[parent].end),
        };
        let id = TimelineId(others.iter().map(|other| self.lines[*other].id.0).max().expect("itself") + 1);
        let (parent, history) = (Some((parent, at)), Some(self.time));
        let line = Line { incarnation: own, id, parent, history, commits: vec![], end: at, arrived: BTreeMap::new() };
        self.lines.push(line);
        self.current = self.lines.len() - 1;
    }

    fn new_cluster(&mut self) {
        self.first_line(self.lines[self.current].incarnation + 1);
        self.write();
    }

    /// Some segment in the archive: of which line, and its number.
    fn some_segment(&mut self) -> Option<(usize, u64)> {
        let at = self.random.random_range(0..self.lines.len());
        let numbers: Vec<u64> = self.lines[at].arrived.keys().copied().collect();
        (!numbers.is_empty()).then(|| (at, numbers[self.random.random_range(0..numbers.len())]))
    }

    /// A segment is lost.
    fn lose(&mut self) {
        if let Some((at, number)) = self.some_segment() {
            self.lines[at].arrived.remove(&number);
        }
    }

    /// A second content arrives under the name of a segment, or a history is lost.
    pub fn trouble(&mut self) {
        if self.random.random_bool(0.1)
            && let Some((at, number)) = self.some_segment()
        {
            self.lines[at].arrived.get_mut(&number).expect("one of them").contradicted = true;
        }
        if self.random.random_bool(0.1) {
            let at = self.random.random_range(0..self.lines.len());
            self.lines[at].history = None;
        }
    }

    /// An operator decides what is contradicted; what was lost is archived again.
    pub fn resolve(&mut self) {
        for line in &mut self.lines {
            line.arrived.values_mut().for_each(|archived| archived.contradicted = false);
            line.history = line.history.or(line.parent.map(|_| self.time));
        }
    }

    /// Somebody who can only put puts a segment or a history there, before `now`.
    pub fn plant(&mut self, now: i64) {
        let on = self.random.random_range(0..self.lines.len());
        let (incarnation, arrived) = (self.lines[on].incarnation, self.random.random_range(self.time..now));
        let own: Vec<&Line> = self.lines.iter().filter(|line| line.incarnation == incarnation).collect();
        let youngest = own.iter().map(|line| line.id.0).max().expect("itself");
        // Far beyond all that is written.
        let end = own.iter().map(|line| line.end).max().expect("its own");
        let beyond = end / SIZE + 1000 + self.random.random_range(0..50);
        let is_oldest_known = self.lines[on].id == TimelineId(5) && self.lines[on].parent.is_none();
        let is_invented = self.random.random_bool(if is_oldest_known { 0.2 } else { 0.7 });
        let has_history = self.random.random_bool(0.7);
        let timeline = if is_invented { TimelineId(youngest + 100) } else { self.lines[on].id };
        let last = self.random.random_bool(0.5).then_some(arrived);
        let number = if self.random.random_bool(0.05) { u64::MAX / SIZE } else { beyond };
        self.planted.push(Planted::Segment { incarnation, segment: Segment { timeline, number }, arrived, last });
        // A second history of a timeline would be seen; the first timeline of an archive may have none.
        if has_history && (is_invented || is_oldest_known) {
            let parent = TimelineId(if is_invented { self.lines[on].id.0 } else { 4 });
            let switch_lsn = Lsn(self.random.random_range(0..end));
            let name = HistoryName { timeline, parent, switch_lsn, digest: "0".repeat(16) };
            self.planted.push(Planted::History { incarnation, name, arrived });
        }
    }

    /// What expired goes.
    pub fn expire(&mut self, kept: &BTreeSet<BackupId>, goes: impl Fn(usize, Segment) -> bool) {
        self.taken.retain(|taken| kept.contains(&taken.summary.id));
        for line in &mut self.lines {
            let (incarnation, timeline) = (line.incarnation, line.id);
            line.arrived.retain(|number, _| !goes(incarnation, Segment { timeline, number: *number }));
        }
    }

    /// The lines on the way to one, itself first, each with where the way leaves it.
    pub fn way(&self, line: usize) -> Vec<(usize, u64)> {
        let (mut way, mut at, mut left) = (vec![(line, u64::MAX)], line, u64::MAX);
        while let Some((parent, branched)) = self.lines[at].parent {
            left = left.min(branched);
            if self.lines[parent].parent.is_none_or(|(_, began)| began < left) {
                way.push((parent, left));
            }
            at = parent;
        }
        way
    }

    /// Every commit on the way, in log order.
    pub fn commits(&self, line: usize) -> Vec<(u64, i64)> {
        let way = self.way(line);
        let mut commits: Vec<(u64, i64)> = way
            .iter()
            .flat_map(|(on, left)| self.lines[*on].commits.iter().filter(|(at, _)| at < left).copied().collect::<Vec<_>>())
            .collect();
        commits.sort_unstable();
        commits
    }

    /// The last moment of which anything on the line itself is left; none when nothing is.
    pub fn last_trace(&self, line: usize) -> Option<i64> {
        let own = &self.lines[line];
        let backups = self.taken.iter().filter(|taken| taken.line == line).map(|taken| taken.at);
        own.arrived.values().map(|archived| archived.at).chain(own.history).chain(backups).max()
    }

    pub fn catalogs(&self) -> Catalogs {
        let mut catalogs = Catalogs::new();
        for (index, line) in self.lines.iter().enumerate() {
            let (_, catalog) = catalogs.entry(incarnation(line.incarnation)).or_insert((size(), LogCatalog::default()));
            let commits = self.commits(index);
            for (number, archived) in &line.arrived {
                let segment = Segment { timeline: line.id, number: *number };
                if archived.contradicted {
                    let digests = vec!["0".repeat(16), "1".repeat(16)];
                    catalog.split_brains.push(SplitBrain { file: segment.name(size()), digests });
                    continue;
                }
                let (begin, end) = (segment.start(size()).0, segment.end(size()).0);
                let index = |lsn: u64| commits.partition_point(|(at, _)| *at < lsn);
                let own = || commits[index(begin)..index(end)].iter().map(|(_, time)| *time);
                catalog.segments.insert(segment, object(segment, (own().next(), own().max()), archived));
            }
            if let (Some((parent, at)), Some(arrived)) = (line.parent, line.history) {
                let (parent, switch_lsn) = (self.lines[parent].id, Lsn(at));
                let name = HistoryName { timeline: line.id, parent, switch_lsn, digest: "0".repeat(16) };
                catalog.histories.insert(line.id, history(name, moment(arrived)));
            }
        }
        self.add_planted(&mut catalogs);
        catalogs
    }

    fn add_planted(&self, catalogs: &mut Catalogs) {
        for planted in &self.planted {
            match planted {
                Planted::Segment { incarnation: own, segment, arrived, last } => {
                    let archived = Archived { at: *arrived, told: Told::All, contradicted: false };
                    let object = object(*segment, (*last, *last), &archived);
                    catalogs.get_mut(&incarnation(*own)).expect("its own").1.segments.insert(*segment, object);
                }
                Planted::History { incarnation: own, name, arrived } => {
                    let histories = &mut catalogs.get_mut(&incarnation(*own)).expect("its own").1.histories;
                    histories.entry(name.timeline).or_insert(history(name.clone(), moment(*arrived)));
                }
            }
        }
    }
}

/// Whether a backup lies on a way.
pub(super) fn is_on(way: &[(usize, u64)], taken: &Taken) -> bool {
    way.iter().any(|(on, left)| *on == taken.line && taken.summary.stop_lsn.0 <= *left)
}

/// A segment that holds a first and a latest commit.
fn object(segment: Segment, (first, last): (Option<i64>, Option<i64>), archived: &Archived) -> SegmentObject {
    let time = |time: Option<i64>| time.map_or(CommitTime::None, |time| CommitTime::At(moment(time)));
    let (first, last) = match archived.told {
        Told::All => (time(first), time(last)),
        Told::LastOnly => (CommitTime::Unknown, time(last)),
        Told::Nothing => (CommitTime::Unknown, CommitTime::Unknown),
    };
    let name = SegmentName { segment, first, last, commits: None, digest: "0".repeat(16) };
    SegmentObject { key: String::new(), name, stored_bytes: 1, arrived: moment(archived.at) }
}

pub(super) fn history(name: HistoryName, arrived: Timestamp) -> TimelineHistory {
    TimelineHistory { key: String::new(), name, arrived }
}
