//! Which scheduled jobs are due. Pure: what was done and the present moment are passed in.
//!
//! A *slot* is a moment that a job's crontab line names. It is *settled* once a run of its own has come to its end, or a
//! run that does as much and began at or after it (a full settles the slots of diffs and incrementals before it).
//!
//! - Of all slots of a job only the newest at or before now can be due: what was missed is told and not made up for.
//! - A settled slot is never due again, and neither is one before it, also when the clock steps back; what is said of
//!   moments more than [`CLOCK_TRUST`] ahead of now was said by a wrong clock: it is told and not believed. What is said of
//!   nearer ones is: so the schedule may stand still for that long after a step back, and once more in the last
//!   [`CLOCK_TRUST`] before a moment that a wrong clock noted.
//! - A job that failed is due again after [`backoff`], also when its next slot comes before that.
//! - Of jobs that are due together the one that does most runs, and what it covers is due no more. While it waits after a
//!   failure the lighter ones run: a light backup is better than none. While it runs elsewhere they do not.
//! - Of those that are left the one whose slot came first runs first, so that none waits for ever behind one that is due
//!   again as soon as it ends; of one moment the one that does more.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono_tz::Tz;

use super::Schedule;
use super::cron::Cron;
use crate::base::{Job, Timestamp};

/// A moment so far ahead of now was noted by a clock that was wrong.
pub const CLOCK_TRUST: Duration = Duration::from_secs(3600);

/// Pause after the first failure; it doubles with each further one …
const FIRST_PAUSE: Duration = Duration::from_secs(60);
/// … up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// Missed slots are counted up to here.
const MISSED_AT_MOST: u32 = 1000;

/// Moments remembered of each job: enough to see which of the slots of the last outage were run.
const REMEMBERED: usize = 2000;

/// The pause after so many failures in a row: 1 minute, doubling, at most an hour; none after none.
pub fn backoff(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        _ => FIRST_PAUSE.saturating_mul(1 << (failures - 1).min(16)).min(LONGEST_PAUSE),
    }
}

/// The jobs of one lane: what never runs two at a time.
#[derive(Clone, Debug, PartialEq)]
pub struct Timetable {
    zone: Tz,
    lines: BTreeMap<Job, Cron>,
}

impl Timetable {
    /// What `schedule` says of `jobs`.
    pub fn of(schedule: &Schedule, jobs: &[Job]) -> Self {
        let line = |job: &Job| {
            let cron = match job {
                Job::Full => &schedule.full,
                Job::Diff => &schedule.diff,
                Job::Incr => &schedule.incr,
                Job::Verify => &schedule.verify,
                Job::Drill => &schedule.drill,
                Job::Expire => &None,
            };
            Some((*job, cron.clone()?))
        };
        Self { zone: schedule.timezone, lines: jobs.iter().filter_map(line).collect() }
    }

    /// Adds a job that the policy's schedule has no line for.
    pub fn insert(&mut self, job: Job, cron: Cron) {
        self.lines.insert(job, cron);
    }

    /// The jobs in it, what does more first.
    pub fn jobs(&self) -> impl Iterator<Item = Job> {
        self.lines.keys().copied()
    }

    /// The zone of its lines.
    pub fn zone(&self) -> Tz {
        self.zone
    }

    /// The line of `job`.
    pub fn line(&self, job: Job) -> Option<&Cron> {
        self.lines.get(&job)
    }

    /// The newest slot of `job` at or before `until`.
    pub fn slot(&self, job: Job, until: Timestamp) -> Option<Timestamp> {
        self.lines.get(&job)?.last_until(until, self.zone)
    }

    /// The first slot of `job` after `after`.
    pub fn next(&self, job: Job, after: Timestamp) -> Option<Timestamp> {
        self.lines.get(&job)?.next_after(after, self.zone)
    }
}

/// What is known of one job.
#[derive(Clone, Debug, Default)]
struct History {
    /// Slots that are settled.
    settled: BTreeSet<Timestamp>,
    /// When runs began that came to their end.
    began: BTreeSet<Timestamp>,
    /// Failures in a row, and when the next attempt may be made.
    failures: u32,
    not_before: Option<Timestamp>,
    /// It is being run elsewhere, or nobody knows: to be looked at again then.
    held: Option<Timestamp>,
    /// Slots up to here were looked at: those that were missed are told.
    judged: Option<Timestamp>,
    /// The latest moment that was not believed, and told.
    distrusted: Option<Timestamp>,
}

impl History {
    /// What is remembered in `moments` of the time from `from` on, as far as it is believed at `now`.
    fn any_since(moments: &BTreeSet<Timestamp>, from: Timestamp, now: Timestamp) -> bool {
        let limit = now.plus(CLOCK_TRUST);
        from <= limit && moments.range(from..=limit).next().is_some()
    }
}

/// What is known of all jobs of one source.
#[derive(Clone, Debug, Default)]
pub struct Record {
    jobs: BTreeMap<Job, History>,
}

impl Record {
    fn of(&self, job: Job) -> Option<&History> {
        self.jobs.get(&job)
    }

    fn of_mut(&mut self, job: Job) -> &mut History {
        self.jobs.entry(job).or_default()
    }

    /// The slot is settled, by whichever host.
    pub fn settled(&mut self, job: Job, slot: Timestamp) {
        remember(&mut self.of_mut(job).settled, slot);
        self.judged(job, slot);
    }

    /// Some host's run of `job`, begun at `began`, did what it was for.
    pub fn done(&mut self, job: Job, began: Timestamp) {
        remember(&mut self.of_mut(job).began, began);
    }

    /// This host's run of `job`, begun at `began`, did what it was for: nothing is waited for after it.
    pub fn ran(&mut self, job: Job, began: Timestamp) {
        self.done(job, began);
        let history = self.of_mut(job);
        (history.failures, history.not_before) = (0, None);
    }

    /// An attempt failed at `at`.
    pub fn failed(&mut self, job: Job, at: Timestamp) {
        let history = self.of_mut(job);
        history.failures += 1;
        history.not_before = Some(at.plus(backoff(history.failures)));
    }

    /// It failed elsewhere: no attempt is to be made before `until`.
    pub fn wait(&mut self, job: Job, until: Timestamp) {
        let history = self.of_mut(job);
        history.not_before = history.not_before.max(Some(until));
    }

    /// `job` is being run elsewhere, or it cannot be known: until then neither it nor what it covers is due.
    pub fn hold(&mut self, job: Job, until: Timestamp) {
        self.of_mut(job).held = Some(until);
    }

    /// The slots of `job` up to `slot` were looked at: they count as missed no more.
    pub fn judged(&mut self, job: Job, slot: Timestamp) {
        let history = self.of_mut(job);
        history.judged = history.judged.max(Some(slot));
    }

    /// The slots of all jobs up to `now` passed while another job ran.
    pub fn passed(&mut self, table: &Timetable, now: Timestamp) {
        for job in table.jobs() {
            let before = table.slot(job, now).and_then(|slot| table.slot(job, slot.minus(Duration::from_micros(1))));
            before.into_iter().for_each(|slot| self.judged(job, slot));
        }
    }

    /// No longer waits for moments that a wrong clock noted ahead of `now`; what is new of them, for each job.
    pub fn distrust(&mut self, now: Timestamp) -> Vec<(Job, Timestamp)> {
        let limit = now.plus(CLOCK_TRUST);
        let mut told = Vec::new();
        for (job, history) in &mut self.jobs {
            // A pause that follows a failure may rightly end later than the trust reaches.
            let pause = history.not_before.filter(|until| *until > limit.plus(LONGEST_PAUSE));
            // Nobody is held for long.
            history.held = history.held.filter(|until| *until <= limit);
            let noted = history.settled.last().max(history.began.last()).copied().max(history.judged).max(pause);
            let Some(latest) = noted.filter(|moment| *moment > limit) else { continue };
            history.judged = history.judged.filter(|moment| *moment <= limit);
            history.not_before = history.not_before.filter(|_| pause.is_none());
            if history.distrusted != Some(latest) {
                history.distrusted = Some(latest);
                told.push((*job, latest));
            }
        }
        told
    }

    /// Whether `slot` of `job` needs no run.
    pub fn is_settled(&self, job: Job, slot: Timestamp, now: Timestamp) -> bool {
        let own = |history: &History| history.settled.contains(&slot) || History::any_since(&history.settled, slot, now);
        let covered = |history: &History| History::any_since(&history.began, slot, now);
        self.of(job).is_some_and(own) || self.covering(job).any(covered)
    }

    /// The slot of `job` to be run next: the newest that has passed, while it needs a run, else the first to come.
    pub fn pending(&self, table: &Timetable, job: Job, now: Timestamp) -> Option<Timestamp> {
        let passed = table.slot(job, now).filter(|slot| !self.is_settled(job, *slot, now));
        passed.or_else(|| table.next(job, now))
    }

    fn covering(&self, job: Job) -> impl Iterator<Item = &History> {
        self.jobs.iter().filter(move |(other, _)| other.covers(job)).map(|(_, history)| history)
    }

    /// The slots of `job` before its newest, `slot`, that nobody looked at and nobody ran.
    pub fn missed(&self, table: &Timetable, job: Job, slot: Timestamp) -> Option<Missed> {
        let judged = self.of(job)?.judged?;
        let mut missed: Option<Missed> = None;
        let mut candidate = table.next(job, judged)?;
        while candidate < slot && missed.is_none_or(|missed| missed.count < MISSED_AT_MOST) {
            let next = table.next(job, candidate)?;
            if !self.was_run(job, candidate, next) {
                let so_far = missed.unwrap_or(Missed { count: 0, first: candidate, last: candidate });
                missed = Some(Missed { count: so_far.count + 1, last: candidate, ..so_far });
            }
            candidate = next;
        }
        missed
    }

    fn was_run(&self, job: Job, slot: Timestamp, next: Timestamp) -> bool {
        let own = self.of(job).is_some_and(|history| history.settled.contains(&slot));
        own || self.covering(job).any(|history| history.began.range(slot..next).next().is_some())
    }
}

fn remember(moments: &mut BTreeSet<Timestamp>, moment: Timestamp) {
    moments.insert(moment);
    while moments.len() > REMEMBERED {
        moments.pop_first();
    }
}

/// Slots that nobody ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missed {
    /// How many, up to a thousand.
    pub count: u32,
    /// The first.
    pub first: Timestamp,
    /// The last that was counted.
    pub last: Timestamp,
}

/// A job to be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// What.
    pub job: Job,
    /// For which slot.
    pub slot: Timestamp,
    /// Whether a job that does more is due as well, and waits after a failure.
    pub heavier_waits: bool,
}

/// What a lane does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What is due now, to be run one after the other: the oldest slot first, of one moment what does more, and nothing
    /// that another covers.
    pub due: Vec<Due>,
    /// When to look again; none when nothing of this schedule ever comes.
    pub wake: Option<Timestamp>,
}

/// What is due at `now`.
pub fn plan(table: &Timetable, record: &Record, now: Timestamp) -> Plan {
    let mut plan = Plan { due: Vec::new(), wake: None };
    let (mut waiting, mut held): (Vec<Job>, Vec<Job>) = (Vec::new(), Vec::new());
    for job in table.jobs() {
        plan.wake = earlier(plan.wake, table.next(job, now));
        let Some(slot) = table.slot(job, now).filter(|slot| !record.is_settled(job, *slot, now)) else { continue };
        let later = |moment: fn(&History) -> Option<Timestamp>| record.of(job).and_then(moment).filter(|until| *until > now);
        if let Some(until) = later(|history| history.held) {
            plan.wake = earlier(plan.wake, Some(until));
            held.push(job);
        } else if held.iter().any(|heavier| heavier.covers(job)) {
            // What runs elsewhere may do this as well.
        } else if let Some(until) = later(|history| history.not_before) {
            plan.wake = earlier(plan.wake, Some(until));
            waiting.push(job);
        } else if !plan.due.iter().any(|due| due.job.covers(job)) {
            let heavier_waits = waiting.iter().any(|heavier| heavier.covers(job));
            plan.due.push(Due { job, slot, heavier_waits });
        }
    }
    plan.due.sort_by_key(|due| due.slot);
    plan
}

fn earlier(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    one.into_iter().chain(other).min()
}
