//! The drill of what has no server: a SQLite database, a directory.

use std::path::Path;
use std::sync::Arc;

use super::Drill;
use super::identity::Key;
use crate::base::{DrillLevel, Engine, Error, ErrorKind, Result, Timestamp};
use crate::cli::exit::Outcome;
use crate::cli::restoring;
use crate::cli::scope::{self, Use};
use crate::engine::directory::restore as directory;
use crate::engine::drill::Stopwatch;
use crate::engine::drill::evidence::{Circumstances, Loss};
use crate::engine::drill::files::{self, Job, Written};
use crate::engine::drill::run::Drilled;
use crate::engine::restore::Target;
use crate::engine::sqlite::restore as sqlite;
use crate::engine::{IdentitySource, Scope, head};
use crate::policy::DrillPolicy;
use crate::repo::evidence::PhaseKind;
use crate::repo::{BackupSummary, CommitLog, identity};

/// A plan, and where it reads from.
struct Planned {
    scope: Scope,
    restore: Restore,
}

/// A restore that was planned, by kind.
enum Restore {
    Sqlite(Box<sqlite::Prepared>),
    Directory(directory::Prepared),
}

impl Restore {
    /// Plans the restore to `target`.
    ///
    /// # Errors
    /// When it cannot be reached, or no identity fits.
    async fn plan(
        engine: Engine,
        scope: &Scope,
        log: &CommitLog,
        identities: &dyn IdentitySource,
        target: &Target,
    ) -> Result<Self> {
        match engine {
            Engine::Directory => {
                let request = directory::Request { target: target.clone(), incarnation: None, backup: None };
                directory::prepare(scope, log, identities, &request).await.map(Self::Directory)
            }
            // A cluster has a drill of its own, and never comes here.
            Engine::Sqlite | Engine::Postgres => {
                let request = sqlite::Request { target: target.clone(), incarnation: None, backup: None };
                sqlite::prepare(scope, log, identities, &request).await.map(|prepared| Self::Sqlite(Box::new(prepared)))
            }
        }
    }

    /// The backup with which it begins.
    fn backup(&self) -> &BackupSummary {
        match self {
            Self::Sqlite(prepared) => &prepared.plan.backup,
            Self::Directory(prepared) => &prepared.plan.backup,
        }
    }

    /// The moment that comes back.
    fn moment(&self) -> Timestamp {
        match self {
            Self::Sqlite(prepared) => prepared.plan.reaches,
            Self::Directory(prepared) => prepared.plan.moment,
        }
    }

    /// Bytes of log to apply.
    fn log_bytes(&self) -> u64 {
        match self {
            Self::Sqlite(prepared) => prepared.plan.log_stored_bytes(),
            Self::Directory(_) => 0,
        }
    }

    /// Carries it out, into `into`, which does not exist.
    async fn run(&self, drill: &Drill<'_>, scope: &Scope, into: &Path) -> Result<Written> {
        let (progress, cancel) = (drill.context.progress.clone(), drill.context.cancel.clone());
        let (into, workers) = (into.to_owned(), drill.settings.backup.workers);
        match self {
            Self::Sqlite(prepared) => {
                let options = sqlite::RestoreOptions { into, workers };
                let report = sqlite::run(scope, prepared, &options, progress, cancel).await?;
                Ok(Written { path: report.path, reaches: report.captured_at, notes: report.notes })
            }
            Self::Directory(prepared) => {
                let options = directory::RestoreOptions { into: into.clone(), paths: Vec::new(), workers };
                let report = directory::run(scope, prepared, &options, progress, cancel).await?;
                let notes = report.notes.into_iter().chain(report.first_shortfalls).collect();
                Ok(Written { path: into, reaches: self.moment(), notes })
            }
        }
    }
}

impl Drill<'_> {
    /// What kind of system the source is: as the configuration says, else as the repository does, for a host that only
    /// drills need not describe the source.
    pub(super) async fn engine(&self) -> Result<Engine> {
        if let Some(source) = self.source {
            return Ok(source.kind.engine());
        }
        let scope = self.first_scope().await?;
        let (known, _) = identity::survey(&scope.repository, &scope.source).await?;
        Ok(known.last().map_or(Engine::Postgres, |newest| newest.incarnation.engine()))
    }

    /// Refuses what only a cluster has.
    ///
    /// # Errors
    /// Usage errors.
    pub(super) fn refuse_for_kind(&self, engine: Engine, level: DrillLevel) -> Result<()> {
        let refused = |what: &str, why: &str| {
            let source = &self.args.source;
            Err(Error::usage(format!("{what} is not for {source}, {}", engine.with_article()))
                .detail("why", why)
                .hint(format!("lifeboat drill {source} --level component")))
        };
        match (engine, level) {
            (Engine::Postgres, _) => Ok(()),
            (_, DrillLevel::Failover) => refused("a failover", "there is no server that could take over"),
            _ if self.args.self_test => refused("--self-test", "its faults are those of a cluster"),
            _ => Ok(()),
        }
    }

    /// Restores what has no server, and looks at it.
    pub(super) async fn restore_files(&self, engine: Engine, level: DrillLevel) -> Result<Outcome> {
        let (target, _, seed) = self.target().await?;
        let target_time = match target {
            Target::Time(time) => Some(time),
            _ => None,
        };
        let mut circumstances = Circumstances { seed, ..self.circumstances(level) };
        circumstances.target = target_time.map_or_else(|| "latest".to_owned(), Timestamp::rfc3339);
        let mut stopwatch = Stopwatch::start();
        let key = tokio::task::block_in_place(|| Key::fetch(self.args, self.settings, &self.context.cancel))?;
        let planned = match self.plan_files(engine, &target, &key).await {
            Ok(planned) => planned,
            Err(error) => return Err(self.refused(&circumstances, error).await),
        };
        circumstances.key_use = key.key_use(planned.restore.backup().encrypted);
        stopwatch.lap(PhaseKind::Plan, None);
        let drilled = self.drill_files(&planned, &circumstances, target_time, stopwatch).await?;
        let lost = target_time.is_none().then(|| lost(engine, &planned.restore, circumstances.declared));
        let evidence = circumstances.of_restore(&drilled, lost);
        self.conclude(&planned.scope, evidence, Some(drilled)).await
    }

    /// The plan from the repository whose newest moment is the latest; the first refusal when none has any.
    async fn plan_files(&self, engine: Engine, target: &Target, key: &Key<'_>) -> Result<Planned> {
        let (mut best, mut failures): (Option<Planned>, Vec<Error>) = (None, Vec::new());
        for chosen in &self.repositories {
            let planning = async {
                let layers = scope::layers(self.context, chosen, Use::Long { limit_rate_bytes: self.limit_rate() });
                let scope = scope::open(self.context, self.settings, chosen, &self.args.source, &layers).await?;
                let seen = head::look(&scope).await?;
                seen.warning.iter().for_each(|warning| self.context.progress.warn(warning));
                if let Some(wound_back) = &seen.wound_back {
                    self.context.progress.warn(&format!("repository {}: {}", chosen.name, wound_back.text()));
                }
                let restore = Restore::plan(engine, &scope, &seen.log, key, target).await?;
                let metrics = Arc::clone(&layers.metrics);
                let scope = restoring::with_others(self.limit_rate(), self.context, &self.repositories, scope, &metrics)?;
                Result::<_>::Ok(Planned { scope, restore })
            };
            let planned = tokio::select! {
                planned = planning => planned,
                () = self.context.cancel.cancelled() => return Err(Error::interrupted()),
            };
            match planned {
                Ok(found) if best.as_ref().is_none_or(|best| found.restore.moment() > best.restore.moment()) => {
                    best = Some(found)
                }
                Ok(_) => {}
                Err(error) => failures.push(error),
            }
        }
        // An answer is worth more than an outage.
        failures.sort_by_key(|error| error.kind() == ErrorKind::Unreachable);
        let mut failures = failures.into_iter();
        let refusal = if best.is_none() { failures.next() } else { None };
        failures.for_each(|error| self.context.progress.warn(&format!("not taken into account: {}", error.summary())));
        best.ok_or_else(|| refusal.unwrap_or_else(|| Error::usage(format!("{} names no repository", self.args.source))))
    }

    async fn drill_files(
        &self,
        planned: &Planned,
        circumstances: &Circumstances,
        target_time: Option<Timestamp>,
        stopwatch: Stopwatch,
    ) -> Result<Drilled> {
        let (none, scratch) = (DrillPolicy::default(), self.scratch()?);
        let job = Job {
            source: &self.args.source,
            backup: planned.restore.backup(),
            log_bytes: planned.restore.log_bytes(),
            target_time,
            declared: circumstances.declared,
            policy: self.policy.as_ref().map_or(&none, |policy| &policy.drill),
            scratch: &scratch,
            state_dir: &self.settings.state_dir,
            keep: self.args.keep,
            progress: self.context.progress.clone(),
            cancel: self.context.cancel.clone(),
        };
        files::run(&job, stopwatch, async |into: &Path| planned.restore.run(self, &planned.scope, into).await).await
    }
}

/// What a disaster at the declaration would have lost, at most: since the moment from which on something may be missing.
fn lost(engine: Engine, restore: &Restore, declared: Timestamp) -> Loss {
    let from = match engine {
        Engine::Directory => restore.backup().start_time,
        Engine::Sqlite | Engine::Postgres => restore.moment(),
    };
    Loss { seconds: declared.since(from).as_secs_f64(), is_upper_bound: true }
}
