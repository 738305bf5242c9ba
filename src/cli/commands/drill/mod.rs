//! `lifeboat drill SOURCE`: the disaster rehearsed, timed and recorded.
//!
//! What says something about the backups is a drill's outcome and becomes evidence; what only says that this host cannot
//! drill (no room, no such PostgreSQL, no key, no answer from the repository) is an error and leaves the record alone.

mod files;
mod identity;
mod junit;
mod list;
mod production;
mod report;
mod self_test;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::identity::Key;
use self::production::{Production, loss};
use self::report::Document;
use crate::base::{DrillLevel, Engine, Error, ErrorKind, Result, TimelineId, Timestamp, durable};
use crate::cli::args::{DrillArgs, DrillMoment, RestoreMoment};
use crate::cli::config::{RepositorySettings, Settings, SourceKind, SourceSettings};
use crate::cli::context::Context;
use crate::cli::exit::Outcome;
use crate::cli::restoring::{self, Plan, Wanted};
use crate::cli::runtime::{brief, long};
use crate::cli::scope::{self, Use};
use crate::engine::drill::evidence::{Circumstances, Standing, standing};
use crate::engine::drill::run::{Drilled, Fault, Job};
use crate::engine::drill::{Stopwatch, plan as drill_plan, run as drill_run, scene};
use crate::engine::restore::Target;
use crate::engine::restore::prepare::Request;
use crate::engine::{Scope, backup, head, list as window_list, verify};
use crate::policy::{DrillPolicy, Policy};
use crate::repo::Signer;
use crate::repo::evidence::{DrillOutcome, Evidence, KeyUse, Record};
use crate::source::postgres::conninfo;
use crate::source::postgres::scratch_server::Account;

/// How much a drill gives way to what else runs on the host; the disk's scheduler follows it (ioprio_set(2)).
const NICENESS: i32 = 10;

/// Drills, tests the drill itself, or lists earlier ones.
///
/// # Errors
/// When this host cannot drill, or no plan can be made; what a drill found out is an [`Outcome`].
pub fn run(args: &DrillArgs, context: &Context) -> Result<Outcome> {
    if args.list {
        return brief(&context.cancel, list::run(args, context));
    }
    // Before the runtime has threads, which inherit it, as the server does. Being refused is no reason not to drill.
    let _ = rustix::process::nice(NICENESS);
    long(async {
        let settings = context.settings()?;
        let drill = Drill::new(args, context, &settings)?;
        for told in scene::sweep(&settings.state_dir)? {
            context.progress.note(&told);
        }
        if args.self_test { drill.self_test().await } else { drill.run().await }
    })
}

/// What a level leaves no room for.
///
/// # Errors
/// Usage errors.
pub(super) fn refuse_contradictions(args: &DrillArgs) -> Result<()> {
    if args.level == Some(DrillLevel::Failover) && !matches!(args.to, None | Some(DrillMoment::As(RestoreMoment::Latest))) {
        return Err(Error::usage("a failover goes to the end of the archive: --to says something else")
            .hint(format!("lifeboat drill {} --level component --to …", args.source)));
    }
    if args.level == Some(DrillLevel::Verify) && (args.to.is_some() || args.keep || args.self_test) {
        return Err(Error::usage("the level verify restores nothing: --to, --keep and --self-test have no meaning there")
            .hint(format!("lifeboat drill {} --level component …", args.source)));
    }
    Ok(())
}

/// A drill of one source, as it was asked for.
struct Drill<'a> {
    args: &'a DrillArgs,
    context: &'a Context,
    settings: &'a Settings,
    /// A host that only drills need not describe the source.
    source: Option<&'a SourceSettings>,
    repositories: Vec<&'a RepositorySettings>,
    policy: Option<Policy>,
    signer: Option<Signer>,
}

/// Everything about the restore of one drill.
struct Prepared<'a> {
    circumstances: Circumstances,
    stopwatch: Stopwatch,
    key: Key<'a>,
    plan: Plan,
    target_time: Option<Timestamp>,
    restore_command: String,
}

impl<'a> Drill<'a> {
    fn new(args: &'a DrillArgs, context: &'a Context, settings: &'a Settings) -> Result<Self> {
        let source = settings.source(&args.source).ok();
        let repositories = restoring::repositories(&args.source, context, settings)?;
        let policy = source.map(|source| settings.policy_of(source)).transpose()?.flatten();
        if args.gate && policy.is_none() {
            return Err(Error::usage(format!("--gate compares with objectives, and {} has no policy", args.source))
                .hint(format!("policy = \"…\"   in [source.{}] of {}", args.source, settings.config_file.display())));
        }
        refuse_contradictions(args)?;
        // Evidence that cannot be signed is noticed before hours of work.
        let signer = if args.self_test { None } else { Some(scope::signer(settings)?) };
        let drill = Self { args, context, settings, source, repositories, policy, signer };
        drill.try_files()?;
        Ok(drill)
    }

    async fn run(&self) -> Result<Outcome> {
        let level = self.level().await;
        if level == DrillLevel::Verify {
            return self.verify().await;
        }
        let engine = self.engine().await?;
        self.refuse_for_kind(engine, level)?;
        match engine {
            Engine::Postgres => self.restore(level).await,
            Engine::Sqlite | Engine::Directory => self.restore_files(engine, level).await,
        }
    }

    /// Whether the drill would notice.
    async fn self_test(&self) -> Result<Outcome> {
        self.refuse_for_kind(self.engine().await?, DrillLevel::Component)?;
        self_test::run(self).await
    }

    /// The level asked for, else the policy's that was drilled the longest ago.
    async fn level(&self) -> DrillLevel {
        let levels = self.policy.as_ref().map(|policy| policy.drill.levels.clone()).unwrap_or_default();
        match (self.args.level, levels.as_slice()) {
            (Some(level), _) => level,
            (None, []) => DrillLevel::Component,
            (None, [only]) => *only,
            // Nobody was asked for a level: an answer that does not come changes only which is first.
            (None, several) => match self.record().await {
                Ok(record) => drill_plan::next_level(several, &record),
                Err(_) => several[0],
            },
        }
    }

    async fn record(&self) -> Result<Record> {
        let scope = self.first_scope().await?;
        Record::load(&scope.repository, &scope.source).await
    }

    /// The source in the first repository that opens.
    async fn first_scope(&self) -> Result<Scope> {
        let mut refused = Error::usage(format!("{} names no repository", self.args.source));
        for chosen in &self.repositories {
            let layers = scope::layers(self.context, chosen, Use::Long { limit_rate_bytes: self.limit_rate() });
            match scope::open(self.context, self.settings, chosen, &self.args.source, &layers).await {
                Ok(scope) => return Ok(scope),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    fn limit_rate(&self) -> Option<u64> {
        self.args.limit_rate.or_else(|| self.policy.as_ref()?.drill.limit_rate_bytes)
    }

    fn circumstances(&self, level: DrillLevel) -> Circumstances {
        Circumstances {
            host: backup::run::host_name(),
            level,
            declared: Timestamp::now(),
            policy: self.policy.as_ref().map(|policy| policy.name.clone()),
            seed: None,
            target: "latest".to_owned(),
            key_use: KeyUse::None,
        }
    }

    /// Level `verify`: what is stored is read, nothing is restored.
    async fn verify(&self) -> Result<Outcome> {
        let circumstances = self.circumstances(DrillLevel::Verify);
        let scope = self.first_scope().await?;
        let verified = verify::run(&scope, None, self.context.progress.clone(), &self.context.cancel).await?;
        let evidence = circumstances.of_verification(&verified);
        self.conclude(&scope, evidence, None).await
    }

    async fn restore(&self, level: DrillLevel) -> Result<Outcome> {
        let production = if self.is_latest() { Production::ask(self.source).await } else { None };
        let prepared = self.prepare(level).await?;
        let plan = prepared.plan.prepared.plan.clone();
        // Read while the restore runs: the server may recycle its log.
        let looking = tokio::task::spawn_blocking({
            let plan = plan.clone();
            move || production.and_then(|production| production.first_lost(&plan))
        });
        let drilled = self.drill(&prepared, None).await?;
        let first_lost = looking.await.unwrap_or_default();
        let lost = self.is_latest().then(|| loss(prepared.circumstances.declared, &plan, first_lost, &drilled)).flatten();
        let evidence = prepared.circumstances.of_restore(&drilled, lost);
        self.conclude(&prepared.plan.scope, evidence, Some(drilled)).await
    }

    fn is_latest(&self) -> bool {
        matches!(self.args.to, None | Some(DrillMoment::As(RestoreMoment::Latest)))
    }

    /// Declares the disaster, fetches the key and makes the plan.
    async fn prepare(&self, level: DrillLevel) -> Result<Prepared<'a>> {
        let (target, timeline, seed) = self.target().await?;
        let mut circumstances = Circumstances { seed, ..self.circumstances(level) };
        let target_time = match target {
            Target::Time(time) => Some(time),
            _ => None,
        };
        circumstances.target = target_time.map_or_else(|| "latest".to_owned(), Timestamp::rfc3339);
        let mut stopwatch = Stopwatch::start();
        let key = tokio::task::block_in_place(|| Key::fetch(self.args, self.settings, &self.context.cancel))?;
        let request = Request { target, timeline, incarnation: None, backup: None };
        let wanted = Wanted { source: &self.args.source, request, limit_rate: self.limit_rate(), identities: &key };
        let planned = restoring::plan(&wanted, self.context, self.settings, &self.repositories).await;
        let plan = match planned {
            Ok(plan) => plan,
            Err(error) => return Err(self.refused(&circumstances, error).await),
        };
        let metrics = Arc::clone(&plan.metrics);
        let scope = restoring::with_others(wanted.limit_rate, self.context, &self.repositories, plan.scope, &metrics)?;
        let plan = Plan { scope, ..plan };
        let summary = &plan.prepared.plan.backup;
        circumstances.key_use = key.key_use(summary.encrypted);
        let planned = plan.scope.repository.name();
        let restore_command =
            restoring::restore_command(&self.args.source, self.context, self.settings, &plan.prepared.plan, planned)?;
        stopwatch.lap(crate::repo::evidence::PhaseKind::Plan, None);
        Ok(Prepared { circumstances, stopwatch, key, plan, target_time, restore_command })
    }

    /// A plan that the repository itself makes impossible is a failed drill, and goes on record; a moment that somebody
    /// named and that cannot be reached is not.
    async fn refused(&self, circumstances: &Circumstances, error: Error) -> Error {
        let of_the_backups = matches!(error.kind(), ErrorKind::Failed | ErrorKind::Damaged | ErrorKind::Contradicted);
        let named = matches!(self.args.to, Some(DrillMoment::As(RestoreMoment::At(_))));
        let (Some(signer), true) = (&self.signer, of_the_backups && !named) else { return error };
        let evidence = circumstances.of_refusal(error.summary());
        if let Some(file) = &self.args.junit
            && let Err(failed) = junit::write(file, &self.args.source, &evidence, &[])
        {
            self.context.progress.warn(&failed.summary());
        }
        let kept = async {
            let scope = self.first_scope().await?;
            let key = self.keep(&scope, signer, evidence).await?;
            let copied = self.copy(&scope, &key).await;
            Result::<_>::Ok((key, copied))
        };
        match kept.await {
            Ok((key, Ok(()))) => error.detail("evidence", key),
            Ok((key, Err(failed))) => error.detail("evidence", format!("{key}; without a copy: {}", failed.summary())),
            Err(failed) => error.detail("evidence", format!("none: {}", failed.summary())),
        }
    }

    /// Where to go, along which timeline, and the seed of a random moment.
    async fn target(&self) -> Result<(Target, Option<TimelineId>, Option<u64>)> {
        match self.args.to {
            None | Some(DrillMoment::As(RestoreMoment::Latest)) => Ok((Target::Latest, None, None)),
            Some(DrillMoment::As(RestoreMoment::At(time))) => Ok((Target::Time(time), None, None)),
            Some(DrillMoment::Random) => {
                let seed = self.args.seed.unwrap_or_else(rand::random);
                let scope = self.first_scope().await?;
                let survey = window_list::survey(&scope, &head::look(&scope).await?.log).await?;
                let newest = survey.incarnations.iter().rfind(|incarnation| !incarnation.backups.is_empty());
                let timelines = newest.map(|incarnation| incarnation.timelines.as_slice()).unwrap_or_default();
                let drawn = timelines.iter().find_map(|timeline| {
                    let window = timeline.window.as_ref().ok()?;
                    Some((drill_plan::random_moment(&window.intervals, seed)?, timeline.timeline))
                });
                let (moment, timeline) = drawn.ok_or_else(|| {
                    Error::failed(format!("{} cannot be restored to any moment", self.args.source))
                        .hint(format!("lifeboat backup {} --type full", self.args.source))
                })?;
                Ok((Target::Time(moment), Some(timeline), Some(seed)))
            }
        }
    }

    /// Carries one drill out, with `fault` when there is one.
    async fn drill(&self, prepared: &Prepared<'_>, fault: Option<Fault>) -> Result<Drilled> {
        let none = DrillPolicy::default();
        let scratch = self.scratch()?;
        let secret = prepared.key.secret(&Account::choose()?);
        // A backup that is not encrypted needs no key, not even one that cannot be read.
        let secret = if prepared.circumstances.key_use == KeyUse::None { secret.unwrap_or_default() } else { secret? };
        let job = Job {
            scope: &prepared.plan.scope,
            prepared: &prepared.plan.prepared,
            level: prepared.circumstances.level,
            target_time: prepared.target_time,
            declared: prepared.circumstances.declared,
            policy: self.policy.as_ref().map_or(&none, |policy| &policy.drill),
            scratch: &scratch,
            state_dir: &self.settings.state_dir,
            restore_command: &prepared.restore_command,
            config_file: &self.settings.config_file,
            secret: secret.as_deref(),
            users: self.users()?,
            workers: self.settings.backup.workers,
            keep: self.args.keep,
            fault,
            progress: self.context.progress.clone(),
            cancel: self.context.cancel.clone(),
        };
        drill_run::run(&job, prepared.stopwatch.clone()).await
    }

    fn scratch(&self) -> Result<PathBuf> {
        let asked = self.args.scratch.as_deref().or(self.settings.drill_scratch_dir.as_deref());
        let scratch = asked.map_or_else(|| self.settings.state_dir.join("scratch"), Path::to_path_buf);
        std::path::absolute(&scratch).map_err(|error| Error::io("find", &scratch, error))
    }

    /// Who may be able to log in to the restored server.
    fn users(&self) -> Result<Vec<String>> {
        let named = self.source.and_then(|source| {
            let SourceKind::Postgres(postgres) = &source.kind else { return None };
            let parsed = conninfo::parse(&postgres.conninfo, &conninfo::process_environment).ok()?;
            parsed.config.get_user().map(str::to_owned)
        });
        let mut users: Vec<String> = named.into_iter().collect();
        users.extend(["postgres".to_owned(), Account::choose()?.name]);
        users.dedup();
        Ok(users)
    }

    /// Signs and stores evidence; its key.
    async fn keep(&self, scope: &Scope, signer: &Signer, evidence: Evidence) -> Result<String> {
        let record = Record::load(&scope.repository, &scope.source).await?;
        record.append(&scope.repository, &scope.source, signer, evidence).await
    }

    /// Writes a copy of the stored evidence where one is wanted.
    async fn copy(&self, scope: &Scope, key: &str) -> Result<()> {
        let Some(file) = &self.args.evidence else { return Ok(()) };
        let document = scope.repository.store().get(key).await?;
        durable::write_file(file, &document, 0o644).map_err(|error| Error::io("write", file, error))
    }

    /// Tries whether the files that were asked for can be written, before hours of work.
    fn try_files(&self) -> Result<()> {
        for file in [&self.args.junit, &self.args.evidence].into_iter().flatten() {
            let trial = durable::temporary_beside(file);
            let tried = std::fs::write(&trial, b"").and_then(|()| std::fs::remove_file(&trial));
            let hint = "nothing was drilled yet: name a file in a directory that this user may write to";
            tried.map_err(|error| Error::io("write", file, error).hint(hint))?;
        }
        Ok(())
    }

    /// Records what came of it, and tells.
    async fn conclude(&self, scope: &Scope, evidence: Evidence, drilled: Option<Drilled>) -> Result<Outcome> {
        let policy = self.policy.as_ref().filter(|_| evidence.outcome == DrillOutcome::Passed);
        let standing = policy.map(|policy| standing(&evidence, &policy.objectives));
        let log_lines = drilled.as_ref().map(|drilled| drilled.log_lines.as_slice()).unwrap_or_default();
        // Whatever cannot be written, the result of hours of work is shown, and with it what was kept.
        let (mut key, mut errors) = (None, Vec::new());
        if let Some(signer) = &self.signer {
            match self.keep(scope, signer, evidence.clone()).await {
                Ok(stored) => {
                    errors.extend(self.copy(scope, &stored).await.err());
                    key = Some(stored);
                }
                Err(error) => errors.push(error.context("the evidence could not be stored")),
            }
        }
        if let Some(file) = &self.args.junit {
            errors.extend(junit::write(file, &self.args.source, &evidence, log_lines).err());
        }
        let document = Document::new(&self.args.source, scope, key, &evidence, drilled, standing.as_ref());
        self.context.result("drill", 1, &document, || document.text())?;
        let mut errors = errors.into_iter();
        if let Some(first) = errors.next() {
            errors.for_each(|error| self.context.progress.warn(&error.summary()));
            return Err(first);
        }
        Ok(match (evidence.outcome, standing) {
            (DrillOutcome::Failed, _) => Outcome::Faults,
            (DrillOutcome::Inconclusive, _) => Outcome::Unproven,
            (DrillOutcome::Passed, Some(Standing::Broken(_))) if self.args.gate => Outcome::Breached,
            (DrillOutcome::Passed, Some(Standing::Unproven(_))) if self.args.gate => Outcome::Unproven,
            (DrillOutcome::Passed, _) => Outcome::Done,
        })
    }
}
