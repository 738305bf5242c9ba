//! Random histories against an oracle that knows nothing of the decision: it enumerates the moments of the window, on every
//! timeline, and tries every backup.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use super::{Catalogs, Present, Rules};
use crate::base::{BackupId, BackupType, Incarnation, Lsn, Segment, SegmentSize, TimelineId, Timestamp};
use crate::engine::timeline::TimelinePath;
use crate::policy::Retention;
use crate::policy::retention::{Begun, LogVerdict, Verdict};
use crate::repo::BackupSummary;
use crate::repo::log::name::{CommitTime, HistoryName, SegmentName};
use crate::repo::log::{LogCatalog, LogCut, SegmentObject, SplitBrain, TimelineHistory};

const HOUR: i64 = 3600;
const SIZE: u64 = 1 << 20;

fn size() -> SegmentSize {
    SegmentSize::new(SIZE as u32).expect("a size")
}

fn moment(seconds: i64) -> Timestamp {
    Timestamp::parse_compact("20270101T000000Z").expect("a time").plus(Duration::from_secs(seconds as u64))
}

/// One timeline of one incarnation: what was written to it, from its branching off on.
#[derive(Clone, Debug)]
struct Line {
    incarnation: usize,
    id: TimelineId,
    /// Index of the parent, and where this branched off.
    parent: Option<(usize, u64)>,
    /// Position and time of every commit, in log order; a clock may have been set back.
    commits: Vec<(u64, i64)>,
    end: u64,
    /// By segment number, when it arrived.
    arrived: BTreeMap<u64, i64>,
}

#[derive(Clone, Debug)]
struct Taken {
    summary: BackupSummary,
    line: usize,
}

/// A history, and the clock of its server.
struct World {
    random: StdRng,
    time: i64,
    skew: i64,
    steps: bool,
    lines: Vec<Line>,
    current: usize,
    taken: Vec<Taken>,
}

impl World {
    fn random(seed: u64) -> Self {
        let line = Line { incarnation: 0, id: TimelineId(1), parent: None, commits: vec![], end: SIZE, arrived: BTreeMap::new() };
        let mut random = StdRng::seed_from_u64(seed);
        let steps = random.random_bool(0.3);
        let mut world = Self { random, time: 400 * 24 * HOUR, skew: 0, steps, lines: vec![line], current: 0, taken: vec![] };
        for _ in 0..world.random.random_range(5..60) {
            world.step();
        }
        world
    }

    fn step(&mut self) {
        let pause = [60, HOUR, 8 * HOUR, 30 * HOUR, 20 * 24 * HOUR][self.random.random_range(0..5)];
        self.time += self.random.random_range(1..=pause);
        match self.random.random_range(0..100) {
            0..45 => self.write(),
            45..50 => self.switch(),
            50..85 => self.back_up(),
            85..90 => self.branch(),
            90..93 => self.new_cluster(),
            93..97 if self.steps => self.skew = self.random.random_range(-30 * HOUR..30 * HOUR),
            _ => self.lose(),
        }
    }

    /// When it is decided: at once, later, or when the window begins close to the end of a backup.
    fn now(&mut self, retention: &Retention) -> i64 {
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
        let time = self.time;
        let line = self.line();
        let before = line.end / SIZE;
        line.end += bytes;
        for number in before..line.end / SIZE {
            line.arrived.insert(number, time);
        }
    }

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
        let on_way = self.taken.iter().filter(|taken| self.is_on_way(taken, self.current));
        let bases: Vec<BackupSummary> = on_way.map(|taken| taken.summary.clone()).collect();
        let chosen = bases.get(self.random.random_range(0..=bases.len())).cloned();
        let base = chosen.filter(|base| base.stop_lsn.0 <= start.0);
        let backup_type = match &base {
            None => BackupType::Full,
            Some(base) if base.backup_type == BackupType::Full && self.random.random_bool(0.5) => BackupType::Diff,
            Some(_) => BackupType::Incr,
        };
        let id = BackupId::fresh(moment(self.time), backup_type);
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
        self.taken.push(Taken { summary, line: self.current });
        self.switch();
    }

    /// A promotion, or a restore to some place: a new timeline. The old one may be gone back to.
    fn branch(&mut self) {
        let own = self.lines[self.current].incarnation;
        let others: Vec<usize> = (0..self.lines.len()).filter(|at| self.lines[*at].incarnation == own).collect();
        let parent = others[self.random.random_range(0..others.len())];
        if self.random.random_bool(0.2) {
            self.current = parent;
            return;
        }
        let from = self.lines[parent].parent.map_or(SIZE, |(_, at)| at);
        let at = if self.random.random_bool(0.6) {
            self.lines[parent].end
        } else {
            self.random.random_range(from..=self.lines[parent].end)
        };
        let id = TimelineId(others.len() as u32 + 1);
        let line = Line { incarnation: own, id, parent: Some((parent, at)), commits: vec![], end: at, arrived: BTreeMap::new() };
        self.lines.push(line);
        self.current = self.lines.len() - 1;
        self.write();
    }

    fn new_cluster(&mut self) {
        let incarnation = self.lines[self.current].incarnation + 1;
        let line = Line { incarnation, id: TimelineId(1), parent: None, commits: vec![], end: SIZE, arrived: BTreeMap::new() };
        self.lines.push(line);
        self.current = self.lines.len() - 1;
        self.write();
    }

    /// A segment is lost.
    fn lose(&mut self) {
        let at = self.random.random_range(0..self.lines.len());
        let numbers: Vec<u64> = self.lines[at].arrived.keys().copied().collect();
        if !numbers.is_empty() {
            let lost = numbers[self.random.random_range(0..numbers.len())];
            self.lines[at].arrived.remove(&lost);
        }
    }

    /// The lines on the way to one, itself first, each with where the way leaves it.
    fn way(&self, line: usize) -> Vec<(usize, u64)> {
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

    fn is_on_way(&self, taken: &Taken, line: usize) -> bool {
        self.way(line).iter().any(|(on, left)| *on == taken.line && taken.summary.stop_lsn.0 <= *left)
    }

    /// Every commit on the way, in log order.
    fn commits(&self, line: usize) -> Vec<(u64, i64)> {
        let way = self.way(line);
        let mut commits: Vec<(u64, i64)> = way
            .iter()
            .flat_map(|(on, left)| self.lines[*on].commits.iter().filter(|(at, _)| at < left).copied().collect::<Vec<_>>())
            .collect();
        commits.sort_unstable();
        commits
    }

    /// Whether the byte at `at` on the way is archived, in a segment that was not let go.
    fn has(&self, way: &[(usize, u64)], at: u64, cuts: &Cuts) -> bool {
        let number = at / SIZE;
        let is_there = |on: usize| {
            let cut = cuts.get(&self.lines[on].incarnation);
            let segment = Segment { timeline: self.lines[on].id, number };
            self.lines[on].arrived.contains_key(&number) && cut.is_none_or(|cut| !cut.covers_segment(segment, size()))
        };
        // The newest line that has begun in the segment; before its own beginning also the one that it came from.
        let begun = |on: usize| self.lines[on].parent.map_or(0, |(_, at)| at);
        let newest = way.iter().position(|(on, _)| begun(*on) / SIZE <= number).unwrap_or(way.len() - 1);
        let (on, _) = way[newest];
        is_there(on)
            || (at < begun(on) && begun(on) / SIZE == number && way.get(newest + 1).is_some_and(|(parent, _)| is_there(*parent)))
    }

    /// Where the log on the way that is archived without a gap from `start` on ends.
    fn reach(&self, way: &[(usize, u64)], start: u64, cuts: &Cuts) -> u64 {
        let mut at = start;
        loop {
            // Where a line begins is a place at which the answer may change.
            let begins = way.iter().filter_map(|(on, _)| self.lines[*on].parent).map(|(_, begin)| begin);
            let next = begins.filter(|begin| *begin > at).chain([(at / SIZE + 1) * SIZE]).min().expect("one");
            if !self.has(way, at, cuts) {
                return at;
            }
            at = next;
        }
    }

    fn has_chain(&self, backup: &BackupSummary, present: &BTreeSet<BackupId>) -> bool {
        let base = |id: &BackupId| self.taken.iter().map(|taken| &taken.summary).find(|other| other.id == *id);
        present.contains(&backup.id)
            && backup.base.as_ref().is_none_or(|id| base(id).is_some_and(|base| self.has_chain(base, present)))
    }

    /// Whether a backup restores by itself, on its own timeline.
    fn restores(&self, taken: &Taken, present: &BTreeSet<BackupId>, cuts: &Cuts) -> bool {
        let way = self.way(taken.line);
        self.has_chain(&taken.summary, present)
            && self.is_on_way(taken, taken.line)
            && self.reach(&way, taken.summary.start_lsn.0, cuts) >= taken.summary.stop_lsn.0
    }

    /// Before which commit on the way to `line` a restore to `time` can stop, with the backups of `present`.
    fn stops(&self, line: usize, time: i64, present: &BTreeSet<BackupId>, cuts: &Cuts) -> BTreeSet<u64> {
        let (way, commits) = (self.way(line), self.commits(line));
        let mut stops = BTreeSet::new();
        for taken in self.taken.iter().filter(|taken| self.is_on_way(taken, line)) {
            let backup = &taken.summary;
            if !self.has_chain(backup, present) || backup.start_time > moment(time) {
                continue;
            }
            let end = self.reach(&way, backup.start_lsn.0, cuts);
            let replayed = || commits.iter().filter(|(at, _)| *at >= backup.start_lsn.0 && *at < end);
            let stop = replayed().find(|(_, at)| *at > time).map(|(at, _)| *at);
            let known = replayed().any(|(_, at)| *at == time);
            match stop {
                Some(stop) if stop >= backup.stop_lsn.0 => drop(stops.insert(stop)),
                None if known && end >= backup.stop_lsn.0 => drop(stops.insert(u64::MAX)),
                _ => {}
            }
        }
        stops
    }

    fn catalogs(&self) -> Catalogs {
        let mut catalogs = Catalogs::new();
        for (index, line) in self.lines.iter().enumerate() {
            let (_, catalog) = catalogs.entry(incarnation(line.incarnation)).or_insert((size(), LogCatalog::default()));
            for (number, arrived) in &line.arrived {
                let (begin, end) = (number * SIZE, (number + 1) * SIZE);
                let commits = self.commits(index);
                let last = commits.iter().filter(|(at, _)| (begin..end).contains(at)).map(|(_, time)| *time).max();
                let last = last.map_or(CommitTime::None, |last| CommitTime::At(moment(last)));
                let segment = Segment { timeline: line.id, number: *number };
                let name = SegmentName { segment, first: last, last, commits: Some(1), digest: "0".repeat(16) };
                let object = SegmentObject { key: String::new(), name, stored_bytes: 1, arrived: moment(*arrived) };
                catalog.segments.insert(segment, object);
            }
            if let Some((parent, at)) = line.parent {
                let (parent, switch_lsn) = (self.lines[parent].id, Lsn(at));
                let name = HistoryName { timeline: line.id, parent, switch_lsn, digest: "0".repeat(16) };
                catalog.histories.insert(line.id, TimelineHistory { key: String::new(), name });
            }
        }
        catalogs
    }
}

type Cuts = BTreeMap<usize, LogCut>;

fn incarnation(number: usize) -> Incarnation {
    Incarnation::postgres(15, number as u64 + 1)
}

fn retention(random: &mut StdRng) -> Retention {
    let hours = |random: &mut StdRng, most: u64| Duration::from_secs(3600 * random.random_range(1..most));
    let mut few = |most: u32| if random.random_bool(0.5) { 0 } else { random.random_range(0..=most) };
    let (keep_chains, daily, weekly, monthly, yearly) = (few(3), few(4), few(3), few(3), few(2));
    Retention {
        window: if random.random_bool(0.5) { hours(random, 72) } else { hours(random, 1500) },
        keep_chains,
        keep_for: random.random_bool(0.2).then(|| hours(random, 2000)),
        daily,
        weekly,
        monthly,
        yearly,
        legal_minimum: random.random_bool(0.2).then(|| hours(random, 4000)),
        thin_log: random.random_bool(0.5),
    }
}

/// A history with everything that decides, and the decision.
struct Case {
    world: World,
    retention: Retention,
    now: i64,
    proven: BTreeSet<BackupId>,
    locked: BTreeSet<BackupId>,
    begun: Vec<Begun>,
    restorable: BTreeSet<BackupId>,
    verdicts: Vec<Verdict>,
    kept: BTreeSet<BackupId>,
    cuts: Cuts,
}

impl Case {
    fn random(seed: u64) -> Self {
        let mut world = World::random(seed);
        let retention = retention(&mut world.random);
        let now = world.now(&retention);
        let all: BTreeSet<BackupId> = world.taken.iter().map(|taken| taken.summary.id.clone()).collect();
        let none = Cuts::new();
        let restorable: BTreeSet<BackupId> =
            world.taken.iter().filter(|taken| world.restores(taken, &all, &none)).map(|taken| taken.summary.id.clone()).collect();
        let mut some =
            |share: f64| -> BTreeSet<BackupId> { all.iter().filter(|_| world.random.random_bool(share)).cloned().collect() };
        let (proven, locked, bases) = (some(0.15), some(0.05), some(0.05));
        let begun: Vec<Begun> = bases.into_iter().take(1).map(|base| in_flight(&world, base)).collect();
        let catalogs = world.catalogs();
        let mut present = Present {
            backups: world.taken.iter().map(|taken| &taken.summary).collect(),
            restorable: &restorable,
            proven: proven.clone(),
            locked_until: locked.iter().map(|id| (id.clone(), moment(now + HOUR))).collect(),
            held: &BTreeSet::new(),
            begun: begun.clone(),
            catalogs: &catalogs,
            now: moment(now),
        };
        let rules = Rules { policy: "random", retention: &retention };
        let verdicts = rules.judge(&present);
        let kept: BTreeSet<BackupId> = verdicts.iter().filter(|verdict| verdict.kept).map(|verdict| verdict.id.clone()).collect();
        present.backups.retain(|backup| kept.contains(&backup.id));
        let cuts = cuts(&rules.judge_log(&present));
        drop(present);
        Self { world, retention, now, proven, locked, begun, restorable, verdicts, kept, cuts }
    }

    fn window_start(&self) -> i64 {
        self.now - self.retention.window.as_secs() as i64
    }

    /// Every moment of the window that could be restored still can be, to the same state where clocks agree on it.
    fn assert_window_stays(&self) -> u64 {
        let (all, none) = (self.world.taken.iter().map(|taken| taken.summary.id.clone()).collect(), Cuts::new());
        let mut moments = 0;
        for line in 0..self.world.lines.len() {
            let own = self.world.lines[line].commits.iter().map(|(_, time)| *time);
            let mut times: BTreeSet<i64> = own.flat_map(|time| [time, time - 1]).collect();
            times.insert(self.window_start());
            times.retain(|time| *time >= self.window_start() && *time <= self.now);
            for time in times {
                let before = self.world.stops(line, time, &all, &none);
                let after = self.world.stops(line, time, &self.kept, &self.cuts);
                // The window's first moment on a line that ended before it is no moment of the window.
                let idle = time == self.window_start() && !self.world.lines[line].commits.iter().any(|(_, at)| *at > time);
                if idle {
                    continue;
                }
                assert_eq!(before.is_empty(), after.is_empty(), "line {line} at {:?}", moment(time));
                // With a clock that was set, or another host's, two backups may lead to two places.
                if !self.world.steps && before.len() == 1 {
                    assert_eq!(before, after, "line {line} at {:?}", moment(time));
                }
                moments += u64::from(!before.is_empty());
            }
        }
        moments
    }

    /// Nothing that is kept lost its base or its own log.
    fn assert_kept_is_whole(&self) {
        for taken in self.world.taken.iter().filter(|taken| self.kept.contains(&taken.summary.id)) {
            assert!(self.world.has_chain(&taken.summary, &self.kept), "{} lost its chain", taken.summary.id);
            let restores = self.world.restores(taken, &self.kept, &self.cuts);
            assert_eq!(restores, self.restorable.contains(&taken.summary.id), "{} lost its log", taken.summary.id);
        }
        assert!(self.locked.is_subset(&self.kept));
        assert!(self.restorable.is_empty() || !self.restorable.is_disjoint(&self.kept), "nothing restorable is left");
        let by_time = |id: &&BackupId| (self.summary(id).stop_time, self.summary(id).stop_lsn);
        let proven = self.proven.iter().filter(|id| self.restorable.contains(*id)).max_by_key(by_time);
        assert!(proven.is_none_or(|proven| self.kept.contains(proven)), "the last proven one goes");
        for begun in &self.begun {
            assert!(begun.base.iter().all(|base| self.kept.contains(base)));
            let (own, from) = begun.log_start.as_ref().expect("it says");
            for (number, cut) in self.cuts.iter().filter(|(number, _)| incarnation(**number) == *own) {
                for segment in self.world.lines.iter().filter(|line| line.incarnation == *number).flat_map(segments) {
                    assert!(!cut.covers_segment(segment, size()) || segment.end(size()) <= *from, "{segment:?} is in flight");
                }
            }
        }
    }

    fn summary(&self, id: &BackupId) -> &BackupSummary {
        &self.world.taken.iter().find(|taken| taken.summary.id == *id).expect("one of them").summary
    }

    /// What no rule wants by its definition is not kept, and what one wants is.
    fn assert_rules_hold(&self) {
        if self.restorable.is_empty() {
            return;
        }
        let wanted: BTreeSet<&BackupId> =
            self.world.taken.iter().map(|taken| &taken.summary.id).filter(|id| self.is_wanted(id)).collect();
        for verdict in &self.verdicts {
            let id = &verdict.id;
            let is_base = wanted.iter().any(|other| self.ancestors(other).contains(id));
            let is_late = self.may_be_of_window(id);
            assert!(!verdict.why.is_empty());
            assert!(!wanted.contains(id) || verdict.kept, "{id} goes, and is wanted: {:?}", verdict.why);
            let is_last = self.kept.is_disjoint(&wanted.iter().map(|id| (*id).clone()).collect());
            let for_late = self.kept.iter().any(|other| self.may_be_of_window(other) && self.ancestors(other).contains(id));
            let expected = wanted.contains(id) || is_base || is_late || for_late || is_last;
            assert!(!verdict.kept || expected, "{id} stays, and no rule wants it: {:#?}", self.verdicts);
        }
    }

    fn ancestors(&self, id: &BackupId) -> BTreeSet<BackupId> {
        let mut found = BTreeSet::new();
        let mut next = self.summary(id).base.clone();
        while let Some(base) = next {
            next = self.summary(&base).base.clone();
            found.insert(base);
        }
        found
    }

    /// Wanted by a rule that needs no look at the log, by counting.
    fn is_wanted(&self, id: &BackupId) -> bool {
        let (backup, start, now) = (self.summary(id), moment(self.window_start()), moment(self.now));
        let root = self.ancestors(id).into_iter().find(|id| self.summary(id).base.is_none()).unwrap_or_else(|| id.clone());
        let newer = |id: &BackupId, than: &BackupId| {
            let key = |id: &BackupId| (self.summary(id).stop_time, self.summary(id).stop_lsn, id.clone());
            key(id) > key(than)
        };
        let members = |full: &BackupId| {
            let belongs = |id: &BackupId| id == full || self.ancestors(id).contains(full);
            let own = self.world.taken.iter().map(|taken| &taken.summary).filter(|backup| belongs(&backup.id));
            own.collect::<Vec<_>>()
        };
        // Once by the chains whose full restores, once by those of which anything does.
        let by_chain = [true, false].into_iter().any(|whole| {
            let counts = |id: &BackupId| {
                let (full, restores) = (self.summary(id), |id: &BackupId| self.restorable.contains(id));
                let is_of_use = if whole { restores(id) } else { members(id).iter().any(|member| restores(&member.id)) };
                full.base.is_none() && is_of_use && full.stop_time <= now
            };
            if !counts(&root) {
                return false;
            }
            let all: Vec<&BackupId> = self.world.taken.iter().map(|taken| &taken.summary.id).filter(|id| counts(id)).collect();
            let ahead: Vec<&&BackupId> = all.iter().filter(|other| newer(other, &root)).collect();
            let young =
                self.retention.keep_for.is_some_and(|age| members(&root).iter().any(|member| member.stop_time > now.minus(age)));
            ahead.len() < self.retention.keep_chains as usize
                || young
                || PERIODS.iter().any(|(format, places, is_legal)| {
                    let label = |id: &BackupId| self.summary(id).stop_time.date_utc().format(format).to_string();
                    let others: BTreeSet<String> = ahead.iter().map(|id| label(id)).collect();
                    let age = now.since(self.summary(&root).stop_time);
                    let legal = *is_legal && self.retention.legal_minimum.is_some_and(|least| age < least);
                    let places = places(&self.retention) as usize;
                    !others.contains(&label(&root)) && places > 0 && (others.len() < places || legal)
                })
        });
        let is_last_proven = self.proven.contains(id)
            && self.restorable.contains(id)
            && !self.proven.iter().any(|other| {
                let key = |id: &BackupId| (self.summary(id).stop_time, self.summary(id).stop_lsn);
                self.restorable.contains(other) && key(other) > key(id)
            });
        let in_flight = self.begun.iter().any(|begun| begun.base.as_ref() == Some(id));
        backup.stop_time > start || by_chain || is_last_proven || in_flight || self.locked.contains(id)
    }

    /// Whether the window may need it: it holds a later transaction, or no newer one ends before the window on some line.
    fn may_be_of_window(&self, id: &BackupId) -> bool {
        let taken = self.world.taken.iter().find(|taken| taken.summary.id == *id).expect("one of them");
        let start = self.window_start();
        (0..self.world.lines.len()).filter(|line| self.world.is_on_way(taken, *line)).any(|line| {
            let holds_later = |taken: &Taken| {
                let last = (taken.summary.stop_lsn.0 - 1) / SIZE * SIZE + SIZE;
                self.world.commits(line).iter().any(|(at, time)| *at < last && *time > start)
            };
            let better = self.world.taken.iter().any(|other| {
                let clear = other.summary.stop_time <= moment(start) && !holds_later(other);
                let newer = other.summary.stop_lsn > taken.summary.stop_lsn;
                clear && newer && self.world.is_on_way(other, line) && self.restorable.contains(&other.summary.id)
            });
            holds_later(taken) || (!better && self.restorable.contains(id))
        })
    }
}

type Period = (&'static str, fn(&Retention) -> u32, bool);

const PERIODS: [Period; 4] = [
    ("%Y-%m-%d", |retention| retention.daily, false),
    ("%G-%V", |retention| retention.weekly, false),
    ("%Y-%m", |retention| retention.monthly, true),
    ("%Y", |retention| retention.yearly, true),
];

fn segments(line: &Line) -> Vec<Segment> {
    line.arrived.keys().map(|number| Segment { timeline: line.id, number: *number }).collect()
}

fn in_flight(world: &World, base: BackupId) -> Begun {
    let base = &world.taken.iter().find(|taken| taken.summary.id == base).expect("one of them").summary;
    let log_start = Some((base.incarnation.clone(), base.stop_lsn.plus(10)));
    Begun { id: BackupId::fresh(moment(world.time), BackupType::Incr), base: Some(base.id.clone()), log_start }
}

fn cuts(logs: &[LogVerdict]) -> Cuts {
    let mut cuts = Cuts::new();
    for number in 0..100 {
        let own = logs.iter().filter(|log| !log.kept && log.incarnation == incarnation(number));
        let cut = LogCut::on((1..=100).map(TimelineId), own.map(|log| (log.from, log.to)));
        if cut != LogCut::default() {
            cuts.insert(number, cut);
        }
    }
    cuts
}

#[test]
fn what_the_window_promises_stays_and_what_nothing_wants_goes() {
    let seed: u64 = match std::env::var("LIFEBOAT_TEST_SEED") {
        Ok(seed) => seed.parse().expect("a number"),
        Err(_) => rand::rng().next_u64(),
    };
    println!("LIFEBOAT_TEST_SEED={seed}");
    let (mut moments, mut gone, mut thinned, mut kept) = (0, 0, 0, 0);
    for history in 0..500 {
        let seed = seed.wrapping_add(history);
        println!("history {history}: LIFEBOAT_TEST_SEED={seed}");
        let case = Case::random(seed);
        moments += case.assert_window_stays();
        case.assert_kept_is_whole();
        case.assert_rules_hold();
        gone += case.verdicts.len() - case.kept.len();
        kept += case.kept.len();
        thinned += case.cuts.len();
    }
    println!("{moments} moments, {gone} backups gone, {kept} kept, {thinned} logs cut");
    assert!(moments > 2000 && gone > 500 && thinned > 200 && kept > 1000, "{moments} {gone} {thinned} {kept}");
}

/// Three old fulls that have their places, on two timelines, with all the log.
fn old_chains() -> (Vec<BackupSummary>, LogCatalog) {
    let summary = |(day, timeline, number): &(&str, u32, u64)| {
        let stop = Timestamp::parse_compact(&format!("{day}T010000Z")).expect("a time");
        let sample =
            BackupSummary::sample(&format!("{day}T010000Z-full-aaaa"), (Lsn(number * SIZE + 10), Lsn(number * SIZE + 500)));
        let (incarnation, timeline) = (incarnation(0), TimelineId(*timeline));
        BackupSummary { incarnation, timeline, start_time: stop, stop_time: stop, segment_bytes: size(), ..sample }
    };
    let backups = [("20260110", 1, 2), ("20260210", 2, 6), ("20260310", 2, 8)].iter().map(summary).collect();
    let mut catalog = LogCatalog::default();
    for number in 1..10 {
        let segment = Segment { timeline: TimelineId(if number < 5 { 1 } else { 2 }), number };
        let name =
            SegmentName { segment, first: CommitTime::None, last: CommitTime::None, commits: Some(0), digest: "0".repeat(16) };
        let object = SegmentObject { key: String::new(), name, stored_bytes: 1, arrived: moment(0) };
        catalog.segments.insert(segment, object);
    }
    let name = HistoryName { timeline: TimelineId(2), parent: TimelineId(1), switch_lsn: Lsn(5 * SIZE), digest: "0".repeat(16) };
    catalog.histories.insert(TimelineId(2), TimelineHistory { key: String::new(), name });
    (backups, catalog)
}

/// The backups that a policy with 12 monthly places keeps, and whether it keeps all log.
fn kept_of(backups: &[BackupSummary], catalog: LogCatalog) -> (usize, bool) {
    let serves = |backup: &&BackupSummary| {
        TimelinePath::to(backup.timeline, &catalog, size()).is_ok_and(|path| path.serves(&catalog, backup))
    };
    let restorable: BTreeSet<BackupId> = backups.iter().filter(serves).map(|backup| backup.id.clone()).collect();
    let catalogs = Catalogs::from([(incarnation(0), (size(), catalog))]);
    let present = Present {
        backups: backups.iter().collect(),
        restorable: &restorable,
        proven: BTreeSet::new(),
        locked_until: BTreeMap::new(),
        held: &BTreeSet::new(),
        begun: Vec::new(),
        catalogs: &catalogs,
        now: moment(0),
    };
    let retention = Retention {
        window: Duration::from_secs(3600),
        keep_chains: 0,
        keep_for: None,
        daily: 0,
        weekly: 0,
        monthly: 12,
        yearly: 0,
        legal_minimum: None,
        thin_log: true,
    };
    let rules = Rules { policy: "monthly", retention: &retention };
    let kept = rules.judge(&present).iter().filter(|verdict| verdict.kept).count();
    (kept, rules.judge_log(&present).iter().all(|log| log.kept))
}

#[test]
fn what_is_contradicted_takes_no_backup_with_it() {
    let (backups, catalog) = old_chains();
    assert_eq!(kept_of(&backups, catalog.clone()), (3, false), "all have places, and thinned log goes");
    let split = |file: &str| SplitBrain { file: file.to_owned(), digests: vec!["0".repeat(16), "1".repeat(16)] };
    // Somebody puts another content beside the segment that a backup needs, or beside the history of its timeline.
    let (mut planted, segment) = (catalog.clone(), Segment { timeline: TimelineId(2), number: 6 });
    planted.segments.remove(&segment);
    planted.split_brains.push(split(&segment.name(size())));
    assert_eq!(kept_of(&backups, planted), (3, true));
    let mut lost = catalog.clone();
    lost.histories.clear();
    assert_eq!(kept_of(&backups, lost.clone()), (3, true), "a lost history");
    lost.split_brains.push(split("00000002.history"));
    assert_eq!(kept_of(&backups, lost), (3, true));
    // A segment that is just lost makes its backup useless, and nothing else.
    let mut gap = catalog;
    gap.segments.remove(&segment);
    assert_eq!(kept_of(&backups, gap), (2, false));
}
