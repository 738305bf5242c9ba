//! A lane of one source: of its jobs one runs at a time.
//!
//! Each round asks the plan ([`crate::policy::cadence`]) what is due by what is known here, then the repository what became
//! of that slot elsewhere, claims it, and runs it. What cannot be looked up is tried again; nothing runs unclaimed.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use super::expected::{Wanted, arguments, timetable};
use super::lock::{self, Lock};
use super::log::Level;
use super::{Config, Shared, child, pause};
use crate::base::units::format_duration;
use crate::base::{Error, ErrorKind, Job, Result, SourceName, Timestamp};
use crate::cli::scope::{self, Use};
use crate::engine::Scope;
use crate::engine::slots::{self, Claimed, Look, ending};
use crate::policy::Policy;
use crate::policy::cadence::{Due, Record, Timetable, plan};
use crate::policy::turn::{Ending, Turn};
use crate::repo::run_record::{Event, Line};

/// Jobs that write backups and let them go.
pub(super) const BACKUPS: &[Job] = &[Job::Full, Job::Diff, Job::Incr, Job::Expire];
/// Jobs that only read.
pub(super) const DRILLS: &[Job] = &[Job::Drill, Job::Verify];

/// Longest sleep: after that the clock is looked at again.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);
/// How long to wait when the repository does not answer.
const UNREACHABLE_PAUSE: Duration = Duration::from_secs(30);
/// How often to look whether a job that an earlier scheduler left behind has ended.
const LOCKED_PAUSE: Duration = Duration::from_secs(60);
/// A slot that came longer ago than this is made up for: such jobs start with a little jitter.
const LATE: Duration = Duration::from_secs(60);
/// The longest jitter.
const JITTER: Duration = Duration::from_millis(1500);
/// A claim older than this is not begun on: this process was stopped in between, and others may have gone on.
const CLAIM_FRESH: Duration = Duration::from_secs(60);
/// How often old claims are removed.
const TIDY_EVERY: Duration = Duration::from_secs(24 * 3600);

struct Lane<'s, 'c> {
    shared: &'s Shared<'c>,
    source: SourceName,
    record: Record,
    /// What was told of a trouble of a job that lasts, so that it is told once.
    told: BTreeMap<Job, String>,
    /// Whether it was told that the store honours no conditions.
    told_of_store: bool,
    /// When the claims of each job were tidied up.
    tidied: BTreeMap<Job, Timestamp>,
}

/// Runs `jobs` of `source`, and idles while it has no policy: it may get one again, and another lane be at work still.
pub(super) async fn run(shared: &Shared<'_>, source: SourceName, jobs: &[Job]) {
    let record = known_before(&shared.before, &source);
    let blocked = |job: &Job| Some((*job, blocked(&shared.before, &source, *job)?.to_owned()));
    let told = jobs.iter().filter_map(blocked).collect();
    let mut lane = Lane { shared, source, record, told, told_of_store: false, tidied: BTreeMap::new() };
    let (mut watched, mut was_away) = (shared.config.clone(), false);
    while !shared.context.cancel.is_cancelled() {
        let config = watched.borrow_and_update().clone();
        let Some(policy) = config.policies.get(&lane.source) else {
            was_away = true;
            shared.board.forget(&lane.source);
            pause(shared, &mut watched, None, LONGEST_SLEEP).await;
            continue;
        };
        let table = timetable(&config.settings, policy, jobs);
        if std::mem::take(&mut was_away) {
            // Nothing was scheduled, so nothing was missed.
            lane.record.passed(&table, Timestamp::now());
        }
        match lane.round(&config, policy, &table).await {
            Next::AtOnce => {}
            Next::Sleep(until) => pause(shared, &mut watched, until, LONGEST_SLEEP).await,
        }
    }
}

/// Why `job` could not be started, by the last word on that.
pub(super) fn blocked<'l>(lines: &'l [Line], source: &SourceName, job: Job) -> Option<&'l str> {
    let own = lines.iter().rev().filter(|line| line.source == *source && line.job == job);
    let word = |line: &'l Line| match &line.event {
        Event::Blocked { error } => Some(Some(error.as_str())),
        Event::Unblocked => Some(None),
        _ => None,
    };
    own.filter_map(word).next().flatten()
}

/// What the lanes of `source` did, as this host recorded it.
pub(super) fn known_before(lines: &[Line], source: &SourceName) -> Record {
    let mut record = Record::default();
    for line in lines.iter().filter(|line| line.source == *source) {
        let job = line.job;
        match &line.event {
            Event::Ended { began, exit_code, settled, .. } => match (settled, ending(job, *exit_code)) {
                (true, _) => {
                    record.settled(job, line.slot);
                    record.ran(job, *began);
                }
                (false, Ending::Interrupted) => {}
                (false, _) => record.failed(job, line.time),
            },
            Event::Elsewhere => record.settled(job, line.slot),
            Event::Started { .. } | Event::Missed { .. } => record.judged(job, line.slot),
            Event::Blocked { .. } | Event::Unblocked => {}
        }
    }
    record
}

enum Next {
    AtOnce,
    Sleep(Option<Timestamp>),
}

impl Lane<'_, '_> {
    /// Runs what is due first, or tells how long nothing is.
    async fn round(&mut self, config: &Arc<Config>, policy: &Policy, table: &Timetable) -> Next {
        let now = Timestamp::now();
        for (job, moment) in self.record.distrust(now) {
            let told = format!("a run was noted for {}: a clock was wrong; it is not waited for", moment.human_seconds());
            self.say(Level::Warn, Some(job), &told);
        }
        for job in table.jobs() {
            self.shared.board.next(&self.source, job, self.record.pending(table, job, now));
        }
        let plan = plan(table, &self.record, now);
        let Some(due) = plan.due.first() else { return Next::Sleep(plan.wake) };
        match self.attempt(config, policy, table, due).await {
            Ok(()) => self.unblock(due),
            Err(error) => {
                if error.kind() != ErrorKind::Interrupted {
                    self.tell_once(due, &error);
                }
                self.record.hold(due.job, Timestamp::now().plus(UNREACHABLE_PAUSE));
            }
        }
        Next::AtOnce
    }

    fn say(&self, level: Level, job: Option<Job>, message: &str) {
        self.shared.log.say(level, Some(&self.source), job, message);
    }

    fn tell_once(&mut self, due: &Due, error: &Error) {
        let told = error.summary();
        if self.told.get(&due.job) != Some(&told) {
            self.say(Level::Error, Some(due.job), &format!("cannot be started: {told}"));
            self.note(due, Event::Blocked { error: told.clone() });
            self.told.insert(due.job, told);
        }
    }

    fn unblock(&mut self, due: &Due) {
        if self.told.remove(&due.job).is_some() {
            self.note(due, Event::Unblocked);
        }
    }

    fn note(&self, due: &Due, event: Event) {
        let line = Line { time: Timestamp::now(), source: self.source.clone(), job: due.job, slot: due.slot, event };
        self.shared.board.note(&line);
        self.shared.record(&line);
    }

    /// Runs `due`, unless it has been run elsewhere or is being.
    ///
    /// # Errors
    /// When the repository does not answer; then nothing was run.
    async fn attempt(&mut self, config: &Arc<Config>, policy: &Policy, table: &Timetable, due: &Due) -> Result<()> {
        let cancel = &self.shared.context.cancel;
        let scope = tokio::select! {
            scope = self.open(config) => scope?,
            () = cancel.cancelled() => return Err(Error::interrupted()),
        };
        let Some(mut taken) = self.look(&scope, table, due).await? else { return Ok(()) };
        // Taken last: nobody holds one who only waits for another host.
        let permits = self.shared.permits.of(due.job);
        let _permit = match permits.try_acquire() {
            Ok(permit) => permit,
            Err(_) => {
                let permit = tokio::select! {
                    permit = permits.acquire() => permit.expect("it is never closed"),
                    () = cancel.cancelled() => return Err(Error::interrupted()),
                };
                // That may have taken hours.
                let Some(again) = self.look(&scope, table, due).await? else { return Ok(()) };
                taken = again;
                permit
            }
        };
        let (number, drills) = taken;
        let lock = match lock::lock(&config.settings.state_dir, &self.source, due.job)? {
            Lock::NotNeeded => None,
            Lock::Held(file) => Some(file),
            Lock::Busy => {
                // An earlier scheduler's job, which works on.
                self.record.hold(due.job, Timestamp::now().plus(LOCKED_PAUSE));
                return Ok(());
            }
        };
        let Some(claimed) = self.claim(config, &scope, due, number).await? else { return Ok(()) };
        // While a heavier one waits after a failure, `auto` would choose that again.
        let wanted = Wanted { job: due.job, explicit: due.heavier_waits, drills: Some(drills) };
        let words = arguments(&config.settings, policy, &self.source, wanted);
        let outcome = self.work(config, &scope, due, &claimed, (&words, lock)).await;
        // Whatever came of it, what passed meanwhile was not missed: this lane runs one job at a time.
        self.record.passed(table, Timestamp::now());
        self.tidy(&scope, due).await;
        outcome
    }

    /// The first repository of the source that answers: the one that a backup goes to.
    async fn open(&self, config: &Config) -> Result<Scope> {
        let settings = config.settings.source(&self.source)?;
        let mut first = None;
        for chosen in config.settings.repositories_of(settings, self.shared.context.global.repository.as_deref())? {
            let mut layers = scope::layers(self.shared.context, chosen, Use::Brief);
            layers.breaker = Some(self.shared.breaker(&chosen.name));
            match scope::open(self.shared.context, &config.settings, chosen, &self.source, &layers).await {
                Ok(scope) => return Ok(scope),
                Err(error) if error.kind() == ErrorKind::Unreachable => first = first.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        Err(first.unwrap_or_else(|| Error::usage(format!("{} names no repository", self.source))))
    }

    /// The number of the attempt to make at `due`, if one is to be made here and now, and how many drills were done before.
    ///
    /// # Errors
    /// When the repository does not answer.
    async fn look(&mut self, scope: &Scope, table: &Timetable, due: &Due) -> Result<Option<(u32, usize)>> {
        let now = Timestamp::now();
        let look = slots::look(scope, due.job, due.slot, now).await?;
        for (key, why) in &look.problems {
            self.say(Level::Warn, Some(due.job), &format!("{key} is not used: {why}"));
        }
        let drills = look.done.len();
        Ok(self.turn(table, due, look, now).map(|number| (number, drills)))
    }

    /// The number of the attempt to make at `due`, if one is to be made here and now.
    fn turn(&mut self, table: &Timetable, due: &Due, look: Look, now: Timestamp) -> Option<u32> {
        look.done.iter().for_each(|(job, began)| self.record.done(*job, *began));
        if look.turn == Turn::Settled || self.record.is_settled(due.job, due.slot, now) {
            self.tell_missed(table, due);
            self.record.settled(due.job, due.slot);
            self.note(due, Event::Elsewhere);
            return None;
        }
        match look.turn {
            Turn::Busy(until) => self.record.hold(due.job, until),
            Turn::Wait(until) => self.record.wait(due.job, until),
            Turn::Settled => {}
            Turn::Take(number) => {
                self.tell_missed(table, due);
                return Some(number);
            }
        }
        None
    }

    /// Tells of the slots before `due` that nobody ran, once.
    fn tell_missed(&mut self, table: &Timetable, due: &Due) {
        if let Some(missed) = self.record.missed(table, due.job, due.slot) {
            let (first, last) = (missed.first.human_seconds(), missed.last.human_seconds());
            self.say(Level::Warn, Some(due.job), &format!("missed {} times, from {first} to {last}", missed.count));
            self.note(due, Event::Missed { count: missed.count, first: missed.first, last: missed.last });
        }
        self.record.judged(due.job, due.slot);
    }

    /// Claims the attempt; none when another host has it, or this one was stopped meanwhile.
    async fn claim(&mut self, config: &Config, scope: &Scope, due: &Due, number: u32) -> Result<Option<Claimed>> {
        let _gate = self.shared.gate.lock().await;
        if Timestamp::now().since(due.slot) > LATE {
            tokio::select! {
                () = tokio::time::sleep(JITTER.mul_f64(rand::random_range(0.0..1.0))) => {}
                () = self.shared.context.cancel.cancelled() => return Err(Error::interrupted()),
            }
        }
        if !self.told_of_store && !scope.repository.store().honours_conditions().await? {
            self.told_of_store = true;
            self.say(Level::Warn, None, "the store honours no conditions: claims are waited on, and go by who came first");
        }
        let claimed = slots::claim(scope, &config.signer, due.job, due.slot, number, None).await?;
        Ok(claimed.filter(|claimed| claimed.age(Timestamp::now()) < CLAIM_FRESH && !self.shared.context.cancel.is_cancelled()))
    }

    /// Runs the claimed attempt to its end.
    async fn work(
        &mut self,
        config: &Config,
        scope: &Scope,
        due: &Due,
        claimed: &Claimed,
        (words, lock): (&[String], Option<File>),
    ) -> Result<()> {
        let (job, number, began) = (due.job, claimed.number(), Timestamp::now());
        self.say(Level::Info, Some(job), &format!("started: attempt {number} at {}", due.slot.human_seconds()));
        self.unblock(due);
        self.note(due, Event::Started { attempt: number });
        self.shared.board.running(&self.source, job, true);
        let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
        words.extend(self.shared.context.global.repository.iter().flat_map(|name| ["--repository", name]));
        let ran = child::run(&config.settings.config_file, &words, lock, &self.shared.context.cancel).await;
        self.shared.board.running(&self.source, job, false);
        let ended =
            ran.unwrap_or_else(|error| child::Ended { exit_code: Some(1), error: Some(error.summary()), left_running: None });
        if let Some(process) = ended.left_running {
            // Not ended: its claim stays open, and the next start waits for it.
            self.say(Level::Error, Some(job), &format!("process {process} did not stop: it is left running"));
            self.shared.board.leave_behind(&self.source, job, process);
            return Ok(());
        }
        let took = format_duration(Timestamp::now().since(began));
        let ending = ending(job, ended.exit_code);
        self.tell_end(job, ending, &ended, &took);
        let settled = ending == Ending::Settled;
        let (exit_code, error) = (ended.exit_code, ended.error);
        self.note(due, Event::Ended { began, exit_code, settled, error });
        match ending {
            Ending::Settled => {
                self.record.settled(job, due.slot);
                self.record.ran(job, began);
            }
            Ending::Interrupted => {}
            Ending::Failed => self.record.failed(job, Timestamp::now()),
        }
        if let Err(error) = claimed.end(scope, &config.signer, exit_code).await {
            self.say(Level::Warn, Some(job), &format!("its end is not noted in the repository: {}", error.summary()));
        }
        Ok(())
    }

    fn tell_end(&self, job: Job, ending: Ending, ended: &child::Ended, took: &str) {
        let code = ended.exit_code.map(|code| format!(" with exit code {code}")).unwrap_or_default();
        let why = ended.error.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
        match (ending, ended.exit_code) {
            (Ending::Settled, Some(0)) => self.say(Level::Info, Some(job), &format!("done in {took}")),
            (Ending::Settled, _) => self.say(Level::Error, Some(job), &format!("done in {took}, but{code}{why}")),
            (Ending::Interrupted, _) => self.say(Level::Warn, Some(job), &format!("interrupted after {took}")),
            (Ending::Failed, _) => self.say(Level::Error, Some(job), &format!("failed after {took}{code}{why}")),
        }
    }

    /// Removes old claims now and then. A store that does not let go is no trouble.
    async fn tidy(&mut self, scope: &Scope, due: &Due) {
        let (job, now) = (due.job, Timestamp::now());
        let is_time = self.tidied.get(&job).is_none_or(|tidied| now.since(*tidied) >= TIDY_EVERY);
        if is_time && !self.shared.context.cancel.is_cancelled() {
            self.tidied.insert(job, now);
            let _ = slots::forget_old(scope, job, due.slot, now).await;
        }
    }
}
