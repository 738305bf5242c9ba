//! Which backup, which segments, and which moment they lead to. Pure, from names alone.
//!
//! Of every backup the segments from its position on are followed, without a gap, to the last whose moment is not after the
//! target. The way that leads furthest wins, by incarnation and number, for a clock may have been ahead for a while; of several
//! the one with the newest backup, which is the shortest. Only what is stored tells whether a way holds ([`super::prepare()`]):
//! so all are given, the best first.

use std::collections::BTreeMap;

use crate::base::{BackupId, Error, Incarnation, Result, Segment, Timestamp};
use crate::engine::restore::Target;
use crate::engine::sqlite::{SIZE, TIMELINE, number};
use crate::repo::BackupSummary;
use crate::repo::log::{LogCatalog, SegmentObject};

/// What there is to restore from.
pub struct Situation<'a> {
    /// The source, for people.
    pub source: &'a str,
    /// Its backups that can be restored.
    pub backups: Vec<&'a BackupSummary>,
    /// The log of each of their incarnations.
    pub logs: &'a BTreeMap<Incarnation, LogCatalog>,
}

/// One way to a moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The backup.
    pub backup: BackupSummary,
    /// Why this one, for people.
    pub because: String,
    /// What is applied to it, in order.
    pub segments: Vec<SegmentObject>,
    /// The moment that is reached: nothing is in it that was committed later.
    pub reaches: Timestamp,
    /// Commits after this, up to the target, are not in it, and nobody looked in between; none when nothing is missing.
    pub unknown_after: Option<Timestamp>,
    /// What the operator should know.
    pub notes: Vec<String>,
    /// Places of its incarnation, and of its backup, among those that there are.
    ages: (usize, usize),
}

impl Plan {
    /// What a plan leads to is later than what another one does, where this is greater.
    fn rank(&self) -> impl Ord + use<> {
        let ((life, backup), start) = (self.ages, number(self.backup.start_lsn));
        (life, start + self.segments.len() as u64, start, backup)
    }

    /// The moment that the segments lead to, or the backup's own.
    fn end(&self) -> Timestamp {
        self.segments.last().and_then(|last| last.name.last.known()).unwrap_or(self.backup.stop_time)
    }

    /// Stored bytes of the segments.
    pub fn log_stored_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.stored_bytes).sum()
    }
}

/// The ways to the latest moment up to `target`, the best first; only those from the backup `only` when it is given.
///
/// # Errors
/// When there is none, or the target lies in a gap, with the nearest moments.
pub fn plans(situation: &Situation<'_>, target: &Target, only: Option<&BackupId>) -> Result<Vec<Plan>> {
    let source = situation.source;
    let until = match target {
        Target::Latest | Target::Immediate => None,
        Target::Time(time) => Some(*time),
        Target::Lsn { .. } | Target::Xid { .. } | Target::Name(_) => return Err(foreign_target(source, target)),
    };
    if situation.backups.is_empty() {
        return Err(Error::failed(format!("{source} has no backup that can be restored"))
            .hint(format!("lifeboat backup {source} --type full")));
    }
    let with_log = *target != Target::Immediate;
    let is_wanted = |backup: &&&BackupSummary| only.is_none_or(|id| backup.id == *id);
    let mut plans: Vec<Plan> = Vec::new();
    for backup in situation.backups.iter().filter(is_wanted) {
        if until.is_none_or(|until| backup.stop_time <= until) {
            plans.extend(ways(situation, backup, until, with_log));
        }
    }
    sort(&mut plans);
    let Some(best) = plans.first() else { return Err(out_of_reach(situation, until, only)) };
    if let Some(gap) = until.and_then(|until| gap(situation, best, until)) {
        return Err(gap);
    }
    if with_log {
        plans.iter_mut().for_each(|plan| tell_what_is_unknown(situation, plan, until));
    }
    tell_of_a_clock_that_was_ahead(&mut plans);
    let because = |plan: &Plan| match only {
        Some(_) => "it was asked for",
        None if situation.backups.iter().any(|other| other.stop_time > plan.backup.stop_time) => "the newest that leads there",
        None => "the newest",
    };
    let because: Vec<String> = plans.iter().map(|plan| because(plan).to_owned()).collect();
    plans.iter_mut().zip(because).for_each(|(plan, because)| plan.because = because);
    Ok(plans)
}

/// Says it where a moment that others lead to counts as earlier, although its time is later.
fn tell_of_a_clock_that_was_ahead(plans: &mut [Plan]) {
    // A backup's state was taken hold of between two times: what was captured in between may be the later one.
    let begun = |plan: &Plan| if plan.segments.is_empty() { plan.backup.start_time } else { plan.reaches };
    let moments: Vec<(Timestamp, Timestamp)> = plans.iter().map(|plan| (begun(plan), plan.reaches)).collect();
    for plan in plans.iter_mut().filter(|plan| !plan.segments.is_empty()) {
        let latest = moments.iter().filter(|(begun, _)| *begun > plan.reaches).map(|(_, reaches)| *reaches).max();
        plan.notes.extend(latest.map(|latest| {
            format!("a moment of {latest} was stored before this one: a clock was ahead then; what was stored last counts")
        }));
    }
}

fn sort(plans: &mut [Plan]) {
    plans.sort_by_key(|plan| std::cmp::Reverse(plan.rank()));
}

/// The ways that are left, the best first, when the segment `key` cannot be read: those through it end before it.
pub(super) fn without(mut plans: Vec<Plan>, key: &str) -> Vec<Plan> {
    plans.retain_mut(|plan| match plan.segments.iter().position(|segment| segment.key == key) {
        // The backup's own moment is a way of its own.
        Some(0) => false,
        Some(at) => {
            plan.segments.truncate(at);
            plan.reaches = plan.end();
            plan.unknown_after = Some(plan.reaches);
            true
        }
        None => true,
    });
    sort(&mut plans);
    plans
}

/// From `backup`: to the end of what follows it by `until`, and its own moment.
fn ways(situation: &Situation<'_>, backup: &BackupSummary, until: Option<Timestamp>, with_log: bool) -> Vec<Plan> {
    let life = situation.backups.iter().rposition(|other| other.incarnation == backup.incarnation);
    let place = situation.backups.iter().position(|other| other.id == backup.id);
    let plan = |segments: Vec<SegmentObject>, reaches| Plan {
        backup: backup.clone(),
        because: String::new(),
        segments,
        reaches,
        unknown_after: None,
        notes: Vec::new(),
        ages: (life.unwrap_or_default(), place.unwrap_or_default()),
    };
    let mut plans = vec![plan(Vec::new(), backup.stop_time)];
    let segments: Vec<SegmentObject> = run(situation, backup)
        .take_while(|segment| segment.name.last.known().is_some_and(|last| until.is_none_or(|until| last <= until)))
        .cloned()
        .collect();
    if let Some(last) = segments.last().and_then(|last| last.name.last.known())
        && with_log
    {
        plans.push(plan(segments, last));
    }
    plans
}

/// The segments from the backup's position on, up to the first that is missing.
fn run<'a>(situation: &'a Situation<'_>, backup: &BackupSummary) -> impl Iterator<Item = &'a SegmentObject> {
    let log = situation.logs.get(&backup.incarnation);
    let from = number(backup.start_lsn);
    (from..).map_while(move |number| log?.segments.get(&Segment { timeline: TIMELINE, number }))
}

/// The number of the first segment behind a backup that is not there.
fn first_missing(situation: &Situation<'_>, backup: &BackupSummary) -> u64 {
    number(backup.start_lsn) + run(situation, backup).count() as u64
}

/// A moment that was captured later than `after`, from which nothing leads back to `best`: the earliest.
fn next_beyond(situation: &Situation<'_>, best: &Plan, after: Timestamp) -> Option<Timestamp> {
    let follows = first_missing(situation, &best.backup);
    // What begins right where the run ends may go on from it: no number was left out.
    let backups = situation
        .backups
        .iter()
        .filter(|backup| backup.incarnation != best.backup.incarnation || number(backup.start_lsn) > follows);
    backups.map(|backup| backup.stop_time).filter(|moment| *moment > after).min()
}

/// Refuses a moment between the end of what was followed and the backup from which the log goes on.
fn gap(situation: &Situation<'_>, best: &Plan, until: Timestamp) -> Option<Error> {
    let reached = best.reaches.max(best.backup.stop_time);
    // The way went on beyond the target: nothing is missing.
    let goes_on = run(situation, &best.backup).filter_map(|segment| segment.name.last.known()).any(|last| last > until);
    if goes_on || until == reached {
        return None;
    }
    let next = next_beyond(situation, best, until)?;
    let source = situation.source;
    Some(
        Error::failed(format!("cannot restore {source} to {until}: the log has a gap"))
            .detail("followed up to", reached.to_string())
            .detail("goes on from", next.to_string())
            .detail("missing", segment_name(first_missing(situation, &best.backup)))
            .hint(format!("lifeboat restore {source} --to '{}' --into FILE   is the last moment before it", reached.rfc3339()))
            .hint(format!("lifeboat restore {source} --to '{}' --into FILE   is the first after it", next.rfc3339())),
    )
}

fn segment_name(number: u64) -> String {
    Segment { timeline: TIMELINE, number }.name(SIZE)
}

/// Says what is not known of the time between the moment that is reached and the target, or the latest.
fn tell_what_is_unknown(situation: &Situation<'_>, plan: &mut Plan, until: Option<Timestamp>) {
    let reaches = plan.reaches;
    if until == Some(reaches) {
        return;
    }
    if let Some((missing, last)) = hole(situation, plan) {
        plan.unknown_after = Some(reaches);
        plan.notes.push(format!(
            "commits after {reaches} are not in it: segment {missing} is missing, and nothing leads to what was stored behind \
             it, up to {last}"
        ));
        return;
    }
    let Some(until) = until else { return };
    let next_segment = run(situation, &plan.backup).filter_map(|segment| segment.name.last.known()).find(|last| *last > until);
    if let Some(next) = next_segment {
        // Followed all the while: what was committed in between is in the next segment, and none may have been.
        plan.notes.push(format!("the next moment that was captured is {next}"));
        return;
    }
    let next_backup = situation.backups.iter().map(|backup| backup.stop_time).filter(|moment| *moment > until).min();
    plan.unknown_after = Some(reaches);
    plan.notes.push(match next_backup {
        Some(next) => format!("commits after {reaches} are not in it: nobody followed them, and the next moment is {next}"),
        None => format!("nothing was stored after {reaches}: what was committed since, up to {until}, is not known here"),
    });
}

/// Where a way ends because a segment is missing, and nothing leads to those behind it: its name, and the latest moment there.
fn hole(situation: &Situation<'_>, plan: &Plan) -> Option<(String, Timestamp)> {
    let backup = &plan.backup;
    let missing = first_missing(situation, backup);
    let ends_there = number(backup.start_lsn) + plan.segments.len() as u64 == missing;
    let mut others = situation.backups.iter().filter(|other| other.incarnation == backup.incarnation);
    if !ends_there || others.any(|other| number(other.start_lsn) > missing) {
        return None;
    }
    let behind = Segment { timeline: TIMELINE, number: missing + 1 };
    let stored = situation.logs.get(&backup.incarnation)?.segments.range(behind..);
    let last = stored.filter_map(|(_, segment)| segment.name.last.known()).max()?;
    Some((segment_name(missing), last))
}

fn out_of_reach(situation: &Situation<'_>, until: Option<Timestamp>, only: Option<&BackupId>) -> Error {
    let source = situation.source;
    let first =
        situation.backups.iter().filter(|backup| only.is_none_or(|id| backup.id == *id)).map(|backup| backup.stop_time).min();
    match (only, first, until) {
        (Some(id), None, _) => Error::failed(format!("{source} has no backup {id} that can be restored"))
            .hint(format!("lifeboat list {source}   shows what there is")),
        (Some(id), Some(first), Some(until)) => Error::failed(format!("backup {id} of {source} was taken after {until}"))
            .detail("taken", first.to_string())
            .hint("leave --backup out: then the newest backup that leads there is taken"),
        (_, first, until) => {
            let target = until.map_or_else(|| "any moment".to_owned(), |until| until.to_string());
            let error = Error::failed(format!("cannot restore {source} to {target}: no backup had been taken by then"));
            let error = error.hint(format!("lifeboat list {source}   shows the recovery window"));
            match first {
                Some(first) => error
                    .detail("first moment", first.to_string())
                    .hint(format!("lifeboat restore {source} --to '{}' --into FILE", first.rfc3339())),
                None => error,
            }
        }
    }
}

fn foreign_target(source: &str, target: &Target) -> Error {
    Error::usage(format!("{source} is a SQLite database: it cannot be restored to {target}"))
        .detail("has", "the moments at which it was captured")
        .hint(format!("lifeboat restore {source} --to TIME --into FILE"))
        .hint(format!("lifeboat restore {source} --backup ID --into FILE"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;
    use crate::base::{BackupType, Lsn};
    use crate::engine::sqlite::position;
    use crate::repo::log::CommitTime;
    use crate::repo::log::name::SegmentName;

    fn at(second: u64) -> Timestamp {
        Timestamp::from_unix_micros(1_790_000_000_000_000 + second as i64 * 1_000_000).unwrap()
    }

    /// Numbers and moments of segments; positions, moments and incarnations of backups.
    #[derive(Debug, Default)]
    struct World {
        segments: BTreeMap<(u64, u64), u64>,
        backups: Vec<(u64, u64, u64)>,
    }

    impl World {
        fn incarnation(number: u64) -> Incarnation {
            format!("sqlite-{number}").parse().unwrap()
        }

        fn logs(&self) -> BTreeMap<Incarnation, LogCatalog> {
            let mut logs: BTreeMap<Incarnation, LogCatalog> = BTreeMap::new();
            for ((life, number), moment) in &self.segments {
                let segment = Segment { timeline: TIMELINE, number: *number };
                let time = CommitTime::At(at(*moment));
                let name = SegmentName { segment, first: time, last: time, commits: Some(1), digest: "0".repeat(16) };
                let object = SegmentObject { key: String::new(), name, stored_bytes: 1, arrived: at(*moment) };
                logs.entry(Self::incarnation(*life)).or_default().segments.insert(segment, object);
            }
            logs
        }

        fn summaries(&self) -> Vec<BackupSummary> {
            let summary = |(life, number, moment): &(u64, u64, u64)| {
                let id = BackupId::fresh(at(*moment), BackupType::Full);
                let sample = BackupSummary::sample_of(Self::incarnation(*life), id.as_str(), (Lsn(0), Lsn(0)));
                let (lsn, time) = (position(*number), at(*moment));
                BackupSummary { start_lsn: lsn, stop_lsn: lsn, start_time: time, stop_time: time, ..sample }
            };
            self.backups.iter().map(summary).collect()
        }

        fn reached(&self, target: &Target) -> std::result::Result<Timestamp, String> {
            let (logs, summaries) = (self.logs(), self.summaries());
            let situation = Situation { source: "app", backups: summaries.iter().collect(), logs: &logs };
            plans(&situation, target, None).map(|plans| plans[0].reaches).map_err(|error| error.message().to_owned())
        }

        fn best(&self, target: &Target) -> Plan {
            let (logs, summaries) = (self.logs(), self.summaries());
            let situation = Situation { source: "app", backups: summaries.iter().collect(), logs: &logs };
            plans(&situation, target, None).unwrap().remove(0)
        }

        /// Every moment to which some backup and some unbroken run of segments lead.
        fn moments(&self) -> BTreeSet<u64> {
            let mut moments: BTreeSet<u64> = self.backups.iter().map(|(_, _, moment)| *moment).collect();
            for (life, first, moment) in &self.backups {
                let mut number = *first;
                while let Some(captured) = self.segments.get(&(*life, number)) {
                    moments.extend(Some(*captured).filter(|captured| captured > moment));
                    number += 1;
                }
            }
            moments
        }
    }

    /// A history as the follower and backups beside it write it: runs of segments, gaps, other lives.
    fn random(seed: u64) -> World {
        let mut random = StdRng::seed_from_u64(seed);
        let (mut world, mut clock, mut life, mut next) = (World::default(), 0, 1, 1);
        for _ in 0..random.random_range(1..12) {
            clock += random.random_range(1..5);
            match random.random_range(0..10) {
                0 => (life, next) = (life + 1, 1),
                1..4 => next += 1,
                _ => {}
            }
            world.backups.push((life, next, clock));
            for _ in 0..random.random_range(0..4) {
                clock += random.random_range(1..5);
                world.segments.insert((life, next), clock);
                next += 1;
            }
        }
        // What expiry or a loss took away.
        world.backups.retain(|_| random.random_bool(0.8));
        world.segments.retain(|_, _| random.random_bool(0.95));
        world
    }

    #[test]
    fn every_target_leads_to_the_latest_moment_that_brute_force_finds_or_is_refused() {
        for seed in 0..400 {
            let world = random(seed);
            let moments = world.moments();
            for second in 0..60 {
                let expected = moments.iter().rfind(|moment| **moment <= second).map(|moment| at(*moment));
                match (world.reached(&Target::Time(at(second))), expected) {
                    (Ok(found), Some(expected)) => assert_eq!(found, expected, "seed {seed}, {second}: {world:?}"),
                    (Err(why), Some(expected)) => {
                        assert!(why.contains("gap"), "seed {seed}, {second}: {why}");
                        assert!(expected < at(second), "seed {seed}: a moment that was captured, {second}: {world:?}");
                        assert!(moments.iter().any(|moment| *moment > second), "seed {seed}: nothing lies behind the gap");
                    }
                    (Err(_), None) => {}
                    (Ok(found), None) => panic!("seed {seed}, {second}: {found} in {world:?}"),
                }
            }
            let latest = moments.last().map(|moment| at(*moment));
            assert_eq!(world.reached(&Target::Latest).ok(), latest, "seed {seed}");
        }
    }

    #[test]
    fn a_gap_is_told_with_the_moments_on_both_sides_and_an_idle_database_has_none() {
        let world = World { segments: [((1, 1), 20), ((1, 3), 50)].into(), backups: vec![(1, 1, 10), (1, 3, 40)] };
        let reached = |second| world.reached(&Target::Time(at(second)));
        assert_eq!((reached(10), reached(19), reached(20), reached(49)), (Ok(at(10)), Ok(at(10)), Ok(at(20)), Ok(at(40))));
        for second in [21, 30, 39] {
            let (logs, summaries) = (world.logs(), world.summaries());
            let situation = Situation { source: "app", backups: summaries.iter().collect(), logs: &logs };
            let error = plans(&situation, &Target::Time(at(second)), None).unwrap_err();
            let sides =
                [("followed up to", at(20)), ("goes on from", at(40))].map(|(label, time)| (label.to_owned(), time.to_string()));
            assert_eq!(error.details()[..2], sides, "{second}");
        }
        assert_eq!(reached(500), Ok(at(50)));
        assert!(reached(9).unwrap_err().contains("no backup had been taken by then"));
        // A backup beside the follower, of an idle database: no number was left out.
        let idle = World { segments: [((1, 1), 20)].into(), backups: vec![(1, 1, 10), (1, 2, 40)] };
        assert_eq!(idle.reached(&Target::Time(at(30))), Ok(at(20)));
    }

    #[test]
    fn what_was_stored_last_counts_when_a_clock_was_ahead() {
        // The second backup, and the first segments, were taken by a clock that was an hour ahead.
        let world =
            World { segments: [((1, 1), 3620), ((1, 2), 30), ((1, 3), 40)].into(), backups: vec![(1, 1, 10), (1, 2, 3625)] };
        let best = world.best(&Target::Latest);
        assert_eq!((best.reaches, best.segments.len(), best.backup.stop_time), (at(40), 2, at(3625)));
        assert!(best.notes[0].contains("a clock was ahead"), "{:?}", best.notes);
        // Another life goes by its backups, whatever they say.
        let two = World { segments: [((1, 1), 3620), ((2, 1), 30)].into(), backups: vec![(1, 1, 3610), (2, 1, 20)] };
        assert_eq!(two.reached(&Target::Latest), Ok(at(30)));
    }

    #[test]
    fn a_segment_that_cannot_be_read_ends_the_ways_through_it() {
        let world = World { segments: [((1, 1), 20), ((1, 2), 30), ((1, 3), 50)].into(), backups: vec![(1, 1, 10), (1, 3, 40)] };
        let (mut logs, summaries) = (world.logs(), world.summaries());
        for log in logs.values_mut() {
            log.segments.iter_mut().for_each(|(segment, object)| object.key = segment.number.to_string());
        }
        let situation = Situation { source: "app", backups: summaries.iter().collect(), logs: &logs };
        let all = plans(&situation, &Target::Latest, None).unwrap();
        let reached = |plans: &[Plan]| plans.iter().map(|plan| (plan.reaches, plan.segments.len())).collect::<Vec<_>>();
        assert_eq!(reached(&all), [(at(50), 1), (at(50), 3), (at(40), 0), (at(10), 0)]);
        let left = without(all, "3");
        assert_eq!(reached(&left), [(at(40), 0), (at(30), 2), (at(10), 0)]);
        assert_eq!(reached(&without(left, "1")), [(at(40), 0), (at(10), 0)]);
    }

    #[test]
    fn what_nobody_followed_is_said_and_what_was_followed_is_not_called_missing() {
        let world = World { segments: [((1, 1), 20), ((1, 2), 60)].into(), backups: vec![(1, 1, 10), (1, 3, 90)] };
        let idle = World { segments: [((1, 1), 20)].into(), backups: vec![(1, 1, 10), (1, 2, 90)] };
        let told = |world: &World, second| {
            let plan = world.best(&Target::Time(at(second)));
            (plan.reaches, plan.unknown_after, plan.notes.first().cloned().unwrap_or_default())
        };
        assert_eq!(told(&world, 20), (at(20), None, String::new()));
        assert_eq!(told(&world, 40), (at(20), None, format!("the next moment that was captured is {}", at(60))));
        let (reaches, unknown_after, note) = told(&idle, 50);
        assert_eq!((reaches, unknown_after), (at(20), Some(at(20))));
        assert!(note.contains("are not in it") && note.contains(&at(90).to_string()), "{note}");
        assert_eq!(told(&idle, 95).1, Some(at(90)));
    }

    #[test]
    fn what_lies_behind_a_missing_segment_is_told() {
        let world = World { segments: [((1, 1), 20), ((1, 3), 50), ((1, 4), 60)].into(), backups: vec![(1, 1, 10)] };
        let led = World { segments: world.segments.clone(), backups: vec![(1, 1, 10), (1, 3, 40)] };
        let told = |world: &World, target: &Target| {
            let plan = world.best(target);
            (plan.reaches, plan.unknown_after, plan.notes.join("; "))
        };
        for target in [Target::Latest, Target::Time(at(30)), Target::Time(at(55)), Target::Time(at(99))] {
            let (reaches, unknown_after, notes) = told(&world, &target);
            assert_eq!((reaches, unknown_after), (at(20), Some(at(20))), "{target}");
            let missing = "segment 000000010000000000000002 is missing";
            assert!(notes.contains(missing) && notes.ends_with(&at(60).to_string()), "{target}: {notes}");
            assert!(!notes.contains("nothing was stored"), "{target}: {notes}");
        }
        assert_eq!(told(&world, &Target::Time(at(20))).1, None);
        assert_eq!(told(&world, &Target::Immediate).1, None);
        assert_eq!(told(&led, &Target::Latest), (at(60), None, String::new()));
    }

    #[test]
    fn the_backup_that_was_asked_for_is_taken_and_its_own_moment_where_that_is_asked_for() {
        let world = World { segments: [((1, 1), 20), ((1, 2), 30)].into(), backups: vec![(1, 1, 10), (1, 2, 25)] };
        let (logs, summaries) = (world.logs(), world.summaries());
        let situation = Situation { source: "app", backups: summaries.iter().collect(), logs: &logs };
        let first = |target: &Target, only: Option<&BackupId>| {
            plans(&situation, target, only).map(|plans| (plans[0].backup.stop_time, plans[0].reaches, plans[0].segments.len()))
        };
        let [old, new] = [&summaries[0].id, &summaries[1].id];
        assert_eq!(first(&Target::Latest, None).unwrap(), (at(25), at(30), 1));
        assert_eq!(first(&Target::Latest, Some(old)).unwrap(), (at(10), at(30), 2));
        assert_eq!(first(&Target::Immediate, Some(old)).unwrap(), (at(10), at(10), 0));
        assert!(first(&Target::Time(at(24)), Some(new)).unwrap_err().message().contains("was taken after"));
        assert!(first(&Target::Name("x".into()), None).unwrap_err().message().contains("is a SQLite database"));
    }
}
