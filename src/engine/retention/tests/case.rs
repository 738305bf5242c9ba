//! A history with everything that decides, the decision, and what must be true of it.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;

use super::replay::{Cuts, Replay, whole};
use super::world::{HOUR, Line, Planted, SIZE, Taken, Told, World, incarnation, is_on, moment, size};
use crate::base::{BackupId, BackupType, Segment};
use crate::engine::retention::{Catalogs, Present, Rules};
use crate::engine::timeline::TimelinePath;
use crate::policy::Retention;
use crate::policy::retention::{Begun, Verdict};
use crate::repo::BackupSummary;

pub(super) fn retention(random: &mut StdRng) -> Retention {
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

/// Backups that are special for one reason or another.
struct Marked {
    proven: BTreeSet<BackupId>,
    locked: BTreeSet<BackupId>,
    held: BTreeSet<BackupId>,
}

/// A history, and what the rules make of it.
pub(super) struct Case {
    pub world: World,
    pub retention: Retention,
    pub now: i64,
    marked: Marked,
    pub begun: Vec<Begun>,
    /// As a survey of the repository finds them.
    pub restorable: BTreeSet<BackupId>,
    pub verdicts: Vec<Verdict>,
    pub kept: BTreeSet<BackupId>,
    pub cuts: Cuts,
    /// What can be replayed on each line before what goes is gone, and after.
    before: Vec<Replay>,
    after: Vec<Replay>,
}

/// What the window may need on the way to a line.
struct Way<'a> {
    on: Vec<(usize, u64)>,
    restorable: BTreeSet<&'a BackupId>,
    /// The end of the log before the first transaction that ended in the window, or may have; none when there is none.
    clear: Option<u64>,
}

impl Case {
    /// The world as it is some time later.
    pub fn of(mut world: World) -> Self {
        let retention = retention(&mut world.random);
        let now = world.now(&retention);
        world.trouble();
        if world.random.random_bool(0.25) {
            world.plant(now);
        }
        let all: Vec<BackupId> = world.taken.iter().map(|taken| taken.summary.id.clone()).collect();
        let mut some =
            |share: f64| -> BTreeSet<BackupId> { all.iter().filter(|_| world.random.random_bool(share)).cloned().collect() };
        let marked = Marked { proven: some(0.15), locked: some(0.05), held: some(0.02) };
        let bases = some(0.05);
        let begun = bases.into_iter().take(1).map(|base| in_flight(&mut world, base)).collect();
        let mut case = Self {
            world,
            retention,
            now,
            marked,
            begun,
            restorable: BTreeSet::new(),
            verdicts: vec![],
            kept: BTreeSet::new(),
            cuts: Cuts::default(),
            before: vec![],
            after: vec![],
        };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| case.decide())) {
            println!("{case}");
            resume_unwind(panic);
        }
        case
    }

    fn decide(&mut self) {
        let catalogs = self.world.catalogs();
        let whole = whole(&self.world, &self.all());
        let has_log = |backup: &&BackupSummary| {
            catalogs.get(&backup.incarnation).is_some_and(|(_, catalog)| TimelinePath::any_serves(catalog, backup))
        };
        let served = self.world.taken.iter().map(|taken| &taken.summary).filter(has_log).map(|backup| backup.id.clone());
        self.restorable = served.filter(|id| whole.contains(id)).collect();
        let (verdicts, kept, cuts) = {
            let rules = Rules { policy: "random", retention: &self.retention };
            let mut present = self.present(&catalogs);
            let verdicts = rules.judge(&present);
            let kept: BTreeSet<BackupId> =
                verdicts.iter().filter(|verdict| verdict.kept).map(|verdict| verdict.id.clone()).collect();
            present.backups.retain(|backup| kept.contains(&backup.id));
            let cuts = Cuts::of(&self.world, &rules.judge_log(&present));
            (verdicts, kept, cuts)
        };
        self.before = Replay::of(&self.world, &self.all(), &Cuts::default());
        self.after = Replay::of(&self.world, &kept, &cuts);
        (self.verdicts, self.kept, self.cuts) = (verdicts, kept, cuts);
    }

    fn present<'a>(&'a self, catalogs: &'a Catalogs) -> Present<'a> {
        let until = moment(self.now + HOUR);
        Present {
            backups: self.world.taken.iter().map(|taken| &taken.summary).collect(),
            restorable: &self.restorable,
            proven: self.marked.proven.clone(),
            locked_until: self.marked.locked.iter().map(|id| (id.clone(), until)).collect(),
            held: &self.marked.held,
            begun: self.begun.clone(),
            catalogs,
            now: moment(self.now),
        }
    }

    /// What is out of the ordinary in it.
    pub fn oddities(&self) -> Vec<&'static str> {
        let lines = &self.world.lines;
        let has_history = |timeline| {
            let is_it = |planted: &Planted| matches!(planted, Planted::History { name, .. } if name.timeline == timeline);
            self.world.planted.iter().any(is_it)
        };
        let planted: Vec<bool> = self
            .world
            .planted
            .iter()
            .filter_map(|planted| match planted {
                Planted::Segment { segment, .. } if segment.timeline.0 > 100 => Some(has_history(segment.timeline)),
                _ => None,
            })
            .collect();
        let newest = (0..lines.len()).max_by_key(|line| self.world.last_trace(*line)).expect("one");
        let is_idle = self.world.last_trace(newest).is_some_and(|trace| trace < self.window_start());
        let is_left = |line: usize| line != newest && lines.iter().all(|child| child.parent.is_none_or(|(on, _)| on != line));
        let lacks_its_beginning =
            |line: &Line| line.parent.is_some_and(|(on, at)| at < lines[on].end && !lines[on].arrived.contains_key(&(at / SIZE)));
        let odd = [
            ("contradicted", lines.iter().any(|line| self.is_contradicted(line.incarnation))),
            ("a lost history", lines.iter().any(|line| line.parent.is_some() && line.history.is_none())),
            ("an invented timeline", planted.contains(&false)),
            ("an invented timeline with a history", planted.contains(&true)),
            ("untold times", lines.iter().any(|line| line.arrived.values().any(|archived| archived.told == Told::Nothing))),
            ("clocks set", self.world.steps),
            ("in flight, and needs all", self.begun.iter().any(|begun| begun.log_start.is_none())),
            ("an idle newest timeline without a commit", is_idle && lines[newest].commits.is_empty()),
            ("a timeline that nobody continues", (0..lines.len()).any(is_left)),
            ("several clusters", lines.iter().any(|line| line.incarnation > 0)),
            ("a branch from log that is gone", lines.iter().any(lacks_its_beginning)),
        ];
        odd.into_iter().filter(|(_, is_so)| *is_so).map(|(name, _)| name).collect()
    }

    /// The world after what goes is gone, at the moment of the decision.
    pub fn carried_out(self) -> World {
        let Self { mut world, now, kept, cuts, .. } = self;
        world.expire(&kept, |incarnation, segment| cuts.takes(incarnation, segment));
        world.time = now;
        world
    }

    pub fn all(&self) -> BTreeSet<BackupId> {
        self.world.taken.iter().map(|taken| taken.summary.id.clone()).collect()
    }

    pub fn window_start(&self) -> i64 {
        self.now - self.retention.window.as_secs() as i64
    }

    /// Everything; how many moments were looked at.
    pub fn assert_all(&self) -> u64 {
        let moments = self.assert_window_stays();
        self.assert_kept_is_whole();
        self.assert_log_is_thinned_only_if_asked_for();
        self.assert_what_is_in_flight_can_end();
        self.assert_contradicted_stays();
        self.assert_rules_hold();
        moments
    }

    /// Every moment of the window that could be restored still can be, to the same state where clocks agree on it; and so
    /// does the end of each line of which anything is left from the window, or which is the newest.
    fn assert_window_stays(&self) -> u64 {
        let traces: Vec<Option<i64>> = (0..self.world.lines.len()).map(|line| self.world.last_trace(line)).collect();
        let newest = traces.iter().flatten().max().copied();
        let mut moments = 0;
        for (line, trace) in traces.into_iter().enumerate() {
            let (before, after) = (&self.before[line], &self.after[line]);
            if trace.is_some_and(|trace| trace > self.window_start() || Some(trace) == newest) && !self.world.steps {
                assert_eq!(before.end(), after.end(), "the end of line {line}");
                moments += 1;
            }
            for time in self.moments(line) {
                let (mut before, after) = (before.stops(time), after.stops(time));
                if self.world.steps {
                    // A clock that was ahead once: the time is also that of a moment long before the window.
                    before.retain(|stop| self.arrived_in_window(line, *stop));
                }
                assert!(before.is_empty() || !after.is_empty(), "line {line} at {:?}: {before:?} {after:?}", moment(time));
                // With a clock that was set, or another host's, two backups may lead to two places.
                if !self.world.steps && before.len() == 1 {
                    assert_eq!(before, after, "line {line} at {:?}", moment(time));
                }
                moments += u64::from(!before.is_empty());
            }
        }
        moments
    }

    /// Whether the log at `position` on the way to a line, or its end, was archived in the window.
    fn arrived_in_window(&self, line: usize, position: u64) -> bool {
        let way = self.world.way(line);
        let mut archived = way.iter().filter_map(|(on, _)| self.world.lines[*on].arrived.get(&(position / SIZE)));
        position == u64::MAX || archived.any(|archived| archived.at > self.window_start())
    }

    /// The moments of the window on a line: around each of its own commits, and the first, unless it had ended by then.
    fn moments(&self, line: usize) -> BTreeSet<i64> {
        let (start, own) = (self.window_start(), &self.world.lines[line].commits);
        let around = own.iter().flat_map(|(_, time)| [*time, time - 1]);
        let first = own.iter().any(|(_, time)| *time > start).then_some(start);
        around.chain(first).filter(|time| (start..=self.now).contains(time)).collect()
    }

    /// Nothing that is kept lost its base or its own log, and something that restores is left.
    fn assert_kept_is_whole(&self) {
        let on_any =
            |lines: &[Replay]| -> BTreeSet<BackupId> { lines.iter().flat_map(|line| line.ends().into_keys()).cloned().collect() };
        let (before, after) = (on_any(&self.before), on_any(&self.after));
        let (chained, whole) = (whole(&self.world, &self.all()), whole(&self.world, &self.kept));
        for id in &self.kept {
            assert_eq!(chained.contains(id), whole.contains(id), "{id} lost its chain");
            assert_eq!(before.contains(id), after.contains(id), "{id} lost its log");
        }
        // What the survey finds restores; and it finds all, unless somebody must decide first.
        assert!(self.restorable.is_subset(&before), "{:?}", self.restorable.difference(&before));
        let clear = before.iter().filter(|id| !self.is_troubled(self.number_of(id)));
        let missed: Vec<&BackupId> = clear.filter(|id| !self.restorable.contains(*id)).collect();
        assert!(missed.is_empty(), "{missed:?} restore");
        assert!(self.restorable.is_empty() || !self.restorable.is_disjoint(&self.kept), "nothing restorable is left");
        assert!(self.marked.locked.is_subset(&self.kept) && self.marked.held.is_subset(&self.kept));
        let by_time = |id: &&BackupId| (self.summary(id).stop_time, self.summary(id).stop_lsn);
        let proven = self.marked.proven.iter().filter(|id| self.restorable.contains(*id)).max_by_key(by_time);
        assert!(proven.is_none_or(|proven| self.kept.contains(proven)), "the last proven one goes");
    }

    /// Unless the policy thins the log, each backup that stays leads as far as before.
    fn assert_log_is_thinned_only_if_asked_for(&self) {
        for (before, after) in self.before.iter().zip(&self.after).filter(|_| !self.retention.thin_log) {
            let (before, after) = (before.ends(), after.ends());
            for id in &self.kept {
                assert_eq!(before.get(id), after.get(id), "{id} does not lead as far as before");
            }
        }
    }

    /// What is being taken finds its base, and all log from its start on: all that there is, when it does not say.
    fn assert_what_is_in_flight_can_end(&self) {
        for begun in &self.begun {
            assert!(begun.base.iter().all(|base| self.kept.contains(base)));
            for (number, segment) in self.segments().filter(|(number, segment)| self.cuts.takes(*number, *segment)) {
                let (own, from) = begun.log_start.as_ref().expect("what does not say it needs all");
                let is_before = incarnation(number) != *own || segment.end(size()) <= *from;
                assert!(is_before, "{segment:?} is in flight");
            }
        }
    }

    /// Where somebody must decide first, nothing goes.
    fn assert_contradicted_stays(&self) {
        for number in self.world.lines.iter().map(|line| line.incarnation).filter(|number| self.is_contradicted(*number)) {
            let own = self.world.taken.iter().filter(|taken| taken.summary.incarnation == incarnation(number));
            let goes: Vec<&Taken> = own.filter(|taken| !self.kept.contains(&taken.summary.id)).collect();
            assert!(goes.is_empty(), "{goes:?} goes, and what restores is not known");
            let cut = self.segments().find(|(own, segment)| *own == number && self.cuts.takes(number, *segment));
            assert_eq!(cut, None);
        }
    }

    /// Every segment that is archived, with the number of its incarnation.
    fn segments(&self) -> impl Iterator<Item = (usize, Segment)> {
        let own = |line: &Line| {
            let (incarnation, timeline) = (line.incarnation, line.id);
            let numbers: Vec<u64> = line.arrived.keys().copied().collect();
            numbers.into_iter().map(move |number| (incarnation, Segment { timeline, number }))
        };
        self.world.lines.iter().flat_map(own)
    }

    fn is_contradicted(&self, number: usize) -> bool {
        let mut own = self.world.lines.iter().filter(|line| line.incarnation == number);
        own.any(|line| line.arrived.values().any(|archived| archived.contradicted))
    }

    /// Whether names may tell something else of an incarnation than what was written.
    fn is_troubled(&self, number: usize) -> bool {
        let mut own = self.world.lines.iter().filter(|line| line.incarnation == number);
        let is_planted = self.world.planted.iter().any(|planted| match planted {
            Planted::Segment { incarnation, .. } | Planted::History { incarnation, .. } => *incarnation == number,
        });
        is_planted || self.is_contradicted(number) || own.any(|line| line.parent.is_some() && line.history.is_none())
    }

    fn number_of(&self, id: &BackupId) -> usize {
        self.world.lines[self.taken(id).line].incarnation
    }

    fn taken(&self, id: &BackupId) -> &Taken {
        self.world.taken.iter().find(|taken| taken.summary.id == *id).expect("one of them")
    }

    fn summary(&self, id: &BackupId) -> &BackupSummary {
        &self.taken(id).summary
    }

    /// What no rule wants by its definition is not kept, and what one wants is.
    fn assert_rules_hold(&self) {
        if self.restorable.is_empty() {
            return;
        }
        let all = self.all();
        let ways: Vec<Way<'_>> = (0..self.world.lines.len()).map(|line| self.way(line)).collect();
        let wanted: BTreeSet<BackupId> = all.into_iter().filter(|id| self.is_wanted(id)).collect();
        let by_log: BTreeSet<&BackupId> = self.kept.iter().filter(|id| self.may_be_of_window(id, &ways)).collect();
        let bases: BTreeSet<BackupId> = wanted.iter().chain(by_log.iter().copied()).flat_map(|id| self.ancestors(id)).collect();
        let is_last = self.kept.is_disjoint(&wanted);
        for verdict in &self.verdicts {
            let id = &verdict.id;
            assert!(!verdict.why.is_empty());
            assert!(!wanted.contains(id) || verdict.kept, "{id} goes, and is wanted: {:?}", verdict.why);
            let expected = wanted.contains(id) || bases.contains(id) || by_log.contains(id) || is_last;
            assert!(!verdict.kept || expected, "{id} stays, and no rule wants it: {:?}", verdict.why);
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
        let is_last_proven = self.marked.proven.contains(id)
            && self.restorable.contains(id)
            && !self.marked.proven.iter().any(|other| {
                let key = |id: &BackupId| (self.summary(id).stop_time, self.summary(id).stop_lsn);
                self.restorable.contains(other) && key(other) > key(id)
            });
        let in_flight = self.begun.iter().any(|begun| begun.base.as_ref() == Some(id));
        self.summary(id).stop_time > moment(self.window_start())
            || is_last_proven
            || in_flight
            || self.marked.locked.contains(id)
            || self.marked.held.contains(id)
            || [true, false].into_iter().any(|whole| self.has_place(id, whole))
    }

    /// Whether the chain of a backup has a place: among the chains whose full restores, or of which anything does.
    fn has_place(&self, id: &BackupId, whole: bool) -> bool {
        let now = moment(self.now);
        let root = self.ancestors(id).into_iter().find(|id| self.summary(id).base.is_none()).unwrap_or_else(|| id.clone());
        let key = |id: &BackupId| (self.summary(id).stop_time, self.summary(id).stop_lsn, id.clone());
        let members = |full: &BackupId| -> Vec<&BackupSummary> {
            let belongs = |id: &BackupId| id == full || self.ancestors(id).contains(full);
            self.world.taken.iter().map(|taken| &taken.summary).filter(|backup| belongs(&backup.id)).collect()
        };
        let counts = |id: &BackupId| {
            let restores = |id: &BackupId| self.restorable.contains(id);
            let is_of_use = if whole { restores(id) } else { members(id).iter().any(|member| restores(&member.id)) };
            self.summary(id).base.is_none() && is_of_use && self.summary(id).stop_time <= now
        };
        if !counts(&root) {
            return false;
        }
        let all = self.world.taken.iter().map(|taken| &taken.summary.id);
        let ahead: Vec<&BackupId> = all.filter(|other| counts(other) && key(other) > key(&root)).collect();
        let is_young = |age| members(&root).iter().any(|member| member.stop_time > now.minus(age));
        ahead.len() < self.retention.keep_chains as usize
            || self.retention.keep_for.is_some_and(is_young)
            || PERIODS.iter().any(|(format, places, is_legal)| {
                let label = |id: &BackupId| self.summary(id).stop_time.date_utc().format(format).to_string();
                let others: BTreeSet<String> = ahead.iter().map(|id| label(id)).collect();
                let age = now.since(self.summary(&root).stop_time);
                let legal = *is_legal && self.retention.legal_minimum.is_some_and(|least| age < least);
                let places = places(&self.retention) as usize;
                !others.contains(&label(&root)) && places > 0 && (others.len() < places || legal)
            })
    }

    /// Whether the window may need it: it may hold a later transaction, no newer one ends before the window on some line,
    /// or nobody knows.
    fn may_be_of_window(&self, id: &BackupId, ways: &[Way<'_>]) -> bool {
        let (taken, start) = (self.taken(id), moment(self.window_start()));
        if self.is_troubled(self.number_of(id)) {
            return true;
        }
        ways.iter().filter(|way| is_on(&way.on, taken)).any(|way| {
            let holds_later = |taken: &Taken| way.clear.is_some_and(|clear| taken.summary.stop_lsn.0 > clear);
            let better = self.world.taken.iter().any(|other| {
                let is_newer = other.summary.stop_lsn > taken.summary.stop_lsn;
                is_newer && other.summary.stop_time <= start && !holds_later(other) && way.restorable.contains(&other.summary.id)
            });
            holds_later(taken) || (!better && way.restorable.contains(id))
        })
    }

    /// A segment counts as a whole, and one that arrived in the window and does not tell all its commits.
    fn way(&self, line: usize) -> Way<'_> {
        let (on, start) = (self.world.way(line), self.window_start());
        let commits = self.world.commits(line);
        let later = commits.iter().filter(|(_, time)| *time > start).map(|(at, _)| at / SIZE * SIZE);
        let arrived = on.iter().flat_map(|(on, _)| &self.world.lines[*on].arrived);
        let untold = arrived.filter(|(_, archived)| archived.told != Told::All && archived.at > start);
        let clear = later.chain(untold.map(|(number, _)| number * SIZE)).min();
        Way { on, restorable: self.before[line].ends().into_keys().collect(), clear }
    }
}

type Period = (&'static str, fn(&Retention) -> u32, bool);

const PERIODS: [Period; 4] = [
    ("%Y-%m-%d", |retention| retention.daily, false),
    ("%G-%V", |retention| retention.weekly, false),
    ("%Y-%m", |retention| retention.monthly, true),
    ("%Y", |retention| retention.yearly, true),
];

/// A backup that is being taken; what it wrote may not be readable.
fn in_flight(world: &mut World, base: BackupId) -> Begun {
    let id = world.id(BackupType::Incr);
    if world.random.random_bool(0.3) {
        return Begun { id, base: None, log_start: None };
    }
    let base = &world.taken.iter().find(|taken| taken.summary.id == base).expect("one of them").summary;
    let log_start = Some((base.incarnation.clone(), base.stop_lsn.plus(10)));
    Begun { id, base: Some(base.id.clone()), log_start }
}
