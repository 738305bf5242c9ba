//! `lifeboat run`: what the policies schedule, run as it falls due, until somebody stops it.
//!
//! Each source has lanes ([`lane`]) in which one job runs at a time: backups and their expiry; drills and verification,
//! which may take hours and must not hold backups up; deliveries; the stream of the log. Jobs are child processes, so that one that dies takes
//! nothing with it. Who runs which slot is decided in the repository ([`crate::engine::slots`]): several hosts may follow
//! one schedule, and the lease is free while nothing runs. What happens is logged on stderr and recorded in `state_dir`.
//! Besides, the log is stored ahead of PostgreSQL's archiver ([`archiver`]).

mod archiver;
mod board;
mod child;
mod deliveries;
mod expected;
mod lane;
mod list;
mod lock;
mod log;
mod metrics;
mod streams;

pub(super) use expected::scheduled;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, watch};

use self::archiver::Archivers;
use self::board::Board;
use self::log::{Level, Log};
use crate::base::{Error, Job, Result, SourceName, Timestamp};
use crate::cli::args::RunArgs;
use crate::cli::config::Settings;
use crate::cli::context::Context;
use crate::cli::exit::Outcome;
use crate::cli::scope;
use crate::policy::Policy;
use crate::repo::Signer;
use crate::repo::run_record::{Line, RunRecord};
use crate::store::layer::breaker::Breaker;

/// How often the scheduler shows that it is alive.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// What the files say; read again on SIGHUP.
struct Config {
    settings: Settings,
    policies: BTreeMap<SourceName, Policy>,
    signer: Signer,
}

impl Config {
    /// The configuration, without the sources whose policy is refused, and these.
    ///
    /// # Errors
    /// Usage errors: in the configuration or in every policy, no source with a policy, no signing key.
    fn load(context: &Context) -> Result<(Self, Vec<(SourceName, Error)>)> {
        let settings = context.settings()?;
        let (policies, refused) = followed(&settings)?;
        if policies.is_empty() {
            return Err(Error::usage(format!(
                "no source in {} has a policy: nothing is scheduled",
                settings.config_file.display()
            ))
            .hint("add policy = \"NAME\" to a [source.…]; policies/ holds examples"));
        }
        let signer = scope::writing(&settings)?.signer;
        Ok((Self { settings, policies, signer }, refused))
    }
}

/// The policies of sources, and the sources whose policy is refused, with the reason.
type Followed = (BTreeMap<SourceName, Policy>, Vec<(SourceName, Error)>);

/// The policies of all sources.
///
/// # Errors
/// Usage errors in the policies, when all are refused.
fn followed(settings: &Settings) -> Result<Followed> {
    let (mut policies, mut refused) = (BTreeMap::new(), Vec::new());
    for source in settings.sources.values() {
        match settings.policy_of(source) {
            Ok(policy) => policies.extend(policy.map(|policy| (source.name.clone(), policy))),
            Err(error) => refused.push((source.name.clone(), error)),
        }
    }
    match refused.is_empty() || !policies.is_empty() {
        true => Ok((policies, refused)),
        false => Err(refused.remove(0).1),
    }
}

/// Jobs that may start still, over all sources. Drills have their own: they take hours, for which no backup waits.
struct Permits {
    backups: Semaphore,
    drills: Semaphore,
}

impl Permits {
    fn new(jobs_at_once: usize) -> Self {
        Self { backups: Semaphore::new(jobs_at_once), drills: Semaphore::new(jobs_at_once) }
    }

    fn of(&self, job: Job) -> &Semaphore {
        if lane::DRILLS.contains(&job) { &self.drills } else { &self.backups }
    }
}

/// What all lanes share.
struct Shared<'c> {
    context: &'c Context,
    log: Log,
    board: Arc<Board>,
    record: Mutex<RunRecord>,
    /// What was recorded before this start.
    before: Vec<Line>,
    permits: Permits,
    /// By repository: one that keeps failing is left alone by all lanes for a while.
    breakers: Mutex<BTreeMap<String, Arc<Breaker>>>,
    /// Held by the job that starts: jobs start one after another.
    gate: tokio::sync::Mutex<()>,
    config: watch::Receiver<Arc<Config>>,
}

impl Shared<'_> {
    fn breaker(&self, repository: &str) -> Arc<Breaker> {
        let mut breakers = self.breakers.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(breakers.entry(repository.to_owned()).or_default())
    }

    fn record(&self, line: &Line) {
        if let Err(error) = self.record.lock().unwrap_or_else(PoisonError::into_inner).append(line) {
            self.log.say(Level::Error, Some(&line.source), Some(line.job), &error.summary());
        }
    }
}

/// Runs until it is told to stop, or shows what a scheduler on this host does.
///
/// # Errors
/// Busy when another scheduler has the state directory; usage errors in the configuration; failed when a job did not stop
/// in time at the end.
pub async fn run(args: &RunArgs, context: &Context) -> Result<Outcome> {
    if args.list {
        return list::run(context);
    }
    let (config, refused) = Config::load(context)?;
    let state_dir = config.settings.state_dir.clone();
    let record = RunRecord::open(&state_dir)?;
    let before = crate::repo::run_record::read(&state_dir)?;
    let board = Arc::new(Board::new(&before));
    let log = Log::new(context.global.output);
    for (source, error) in refused {
        log.say(Level::Error, Some(&source), None, &format!("not scheduled: {}", error.summary()));
    }
    let hangup = signal(SignalKind::hangup()).map_err(|error| Error::failed("cannot listen for SIGHUP").caused_by(error))?;
    if let Some(address) = config.settings.run.metrics_listen {
        let listener = TcpListener::bind(address).await.map_err(|error| {
            Error::failed(format!("cannot serve metrics on {address}"))
                .caused_by(error)
                .hint("[run] metrics_listen in lifeboat.toml names address and port")
        })?;
        let bound = listener.local_addr().unwrap_or(address);
        log.say(Level::Info, None, None, &format!("metrics on http://{bound}/metrics"));
        tokio::spawn(metrics::serve(listener, Arc::clone(&board), config.settings.config_file.clone(), log));
    }
    let permits = Permits::new(config.settings.run.jobs_at_once);
    let (changed, watched) = watch::channel(Arc::new(config));
    let gate = tokio::sync::Mutex::new(());
    let (record, breakers) = (Mutex::new(record), Mutex::default());
    let shared = Shared { context, log, board, record, before, permits, breakers, gate, config: watched };
    log.say(Level::Info, None, None, &format!("started, with {}", state_dir.display()));
    supervise(&shared, &changed, hangup).await;
    let left = shared.board.left_behind();
    match left.is_empty() {
        true => {
            log.say(Level::Info, None, None, "stopped");
            Ok(Outcome::Done)
        }
        false => Err(Error::failed(format!("stopped, and left running: {}", left.join(", ")))
            .hint("it ends by itself; the next start waits for it")),
    }
}

type Running<'a> = FuturesUnordered<Pin<Box<dyn Future<Output = ()> + 'a>>>;

/// Keeps the lanes of every source that ever had a policy going until somebody asks to stop, and waits for them then.
async fn supervise(shared: &Shared<'_>, changed: &watch::Sender<Arc<Config>>, mut hangup: Signal) {
    let mut lanes: Running<'_> = FuturesUnordered::new();
    let mut known = BTreeSet::new();
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    let cancel = &shared.context.cancel;
    let mut archivers = Archivers::new(shared.context, shared.config.clone(), shared.log);
    loop {
        archivers.start_missing();
        let sources: Vec<SourceName> = changed.borrow().policies.keys().cloned().collect();
        for source in sources {
            if known.insert(source.clone()) {
                lanes.push(Box::pin(lanes_of(shared, source)));
            }
        }
        tokio::select! {
            // They end when this does: nothing is to be done but to drive them.
            Some(()) = lanes.next() => {}
            _ = heartbeat.tick() => shared.board.beat(),
            _ = hangup.recv() => reload(shared, changed),
            () = cancel.cancelled() => break,
        }
    }
    shared.log.say(Level::Info, None, None, "stopping: no new job starts");
    while lanes.next().await.is_some() {}
}

/// All lanes of `source`.
async fn lanes_of(shared: &Shared<'_>, source: SourceName) {
    let lane = |jobs| lane::run(shared, source.clone(), jobs);
    tokio::join!(lane(lane::BACKUPS), lane(lane::DRILLS), deliveries::run(shared, &source), streams::run(shared, &source));
}

/// Reads the configuration again. One with mistakes is told, and the old one stays.
fn reload(shared: &Shared<'_>, changed: &watch::Sender<Arc<Config>>) {
    let fresh = Config::load(shared.context).and_then(|(fresh, refused)| {
        if let Some((_, error)) = refused.into_iter().next() {
            return Err(error);
        }
        let old = changed.borrow();
        let same = fresh.settings.state_dir == old.settings.state_dir
            && fresh.settings.run.metrics_listen == old.settings.run.metrics_listen
            && fresh.settings.run.jobs_at_once == old.settings.run.jobs_at_once;
        if same { Ok(fresh) } else { Err(Error::usage("state_dir, metrics_listen and jobs_at_once change with a restart")) }
    });
    match fresh {
        Ok(fresh) => {
            changed.send_replace(Arc::new(fresh));
            shared.log.say(Level::Info, None, None, "configuration read again");
        }
        Err(error) => {
            let told = format!("configuration not read again, the old one stays: {}", error.summary());
            shared.log.say(Level::Error, None, None, &told);
        }
    }
}

/// Sleeps until `until`, but no longer than `at_most`: a clock may step. Ends early when somebody asks to stop, or the
/// configuration changes.
async fn pause(shared: &Shared<'_>, config: &mut watch::Receiver<Arc<Config>>, until: Option<Timestamp>, at_most: Duration) {
    let left = until.map_or(at_most, |until| until.since(Timestamp::now()).min(at_most));
    tokio::select! {
        () = tokio::time::sleep(left) => {}
        _ = config.changed() => {}
        () = shared.context.cancel.cancelled() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::config::{self, Environment};

    #[test]
    fn drills_leave_the_permits_of_backups_alone() {
        let permits = Permits::new(1);
        let _drill = permits.of(Job::Drill).try_acquire().unwrap();
        assert!(permits.of(Job::Verify).try_acquire().is_err());
        let _backup = permits.of(Job::Full).try_acquire().unwrap();
        assert!(permits.of(Job::Expire).try_acquire().is_err());
    }

    #[test]
    fn a_broken_policy_keeps_its_own_source_from_being_scheduled_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let source = |name| format!("[source.{name}]\nkind = \"postgres\"\nconninfo = \"host=/x\"\npolicy = \"{name}.toml\"\n");
        let text =
            "state_dir = \"state\"\n[repository.main]\nurl = \"file:///srv\"\n".to_owned() + &source("sound") + &source("torn");
        let path = dir.path().join("lifeboat.toml");
        std::fs::write(&path, text).unwrap();
        std::fs::write(dir.path().join("sound.toml"), "[objectives]\nrto = \"30min\"\nrpo = \"15min\"\n").unwrap();
        std::fs::write(dir.path().join("torn.toml"), "[objectives]\nrto = \"soon\"\n").unwrap();
        let settings = config::load(Some(&path), &Environment::of_process()).unwrap();
        let (policies, refused) = followed(&settings).unwrap();
        assert_eq!(policies.keys().map(|name| name.to_string()).collect::<Vec<_>>(), ["sound"]);
        assert_eq!(refused.iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>(), ["torn"]);
    }
}
