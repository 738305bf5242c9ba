//! `lifeboat restore SOURCE --into DIR`: the plan, and unless `--dry-run` its execution.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use crate::base::units::{format_bytes, format_duration};
use crate::base::{Error, ErrorKind, Result, Timestamp};
use crate::cli::args::{RecoveryAction, RestoreArgs};
use crate::cli::config::{RepositorySettings, Settings};
use crate::cli::context::Context;
use crate::cli::exit::Outcome;
use crate::cli::scope::{self, Use};
use crate::engine::restore::Target;
use crate::engine::restore::plan::{RecoveryStop, RestorePlan};
use crate::engine::restore::prepare::{Prepared, Request, prepare};
use crate::engine::restore::run::{self, RestoreOptions, RestoreReport};
use crate::engine::{Scope, head};
use crate::source::postgres::recovery_config::TargetAction;
use crate::store::layer::any_of;
use crate::store::layer::metrics::{Metrics, Requests};
use crate::store::{self, StoreError};

/// The document `restore`, version 1; also of a dry run, without what only a restore knows.
#[derive(Serialize)]
struct Document {
    source: String,
    repository: String,
    into: String,
    target: String,
    backup: String,
    because: String,
    /// The backup and what it builds on.
    chain: Vec<String>,
    timeline: u32,
    stop_lsn: Option<String>,
    stop_inclusive: Option<bool>,
    last_commit: Option<Timestamp>,
    first_left_out: Option<Timestamp>,
    packs: u32,
    fetch_bytes: u64,
    write_bytes: u64,
    segments: usize,
    log_stored_bytes: u64,
    replay_bytes: u64,
    notes: Vec<String>,
    done: bool,
    written_bytes: Option<u64>,
    duration_seconds: Option<f64>,
    /// What was asked of the repository, planning included.
    requests: Option<Requests>,
}

/// Restores from the first repository of the source that can serve the target.
///
/// # Errors
/// The plan's or the restore's.
pub async fn run(args: &RestoreArgs, context: &Context) -> Result<Outcome> {
    let settings = context.settings()?;
    let into = std::path::absolute(&args.into).map_err(|error| Error::io("find", &args.into, error))?;
    if !args.delta {
        run::check_empty(&into)?;
    }
    let repositories = repositories(args, context, &settings)?;
    let Plan { scope, prepared, metrics } = plan(args, context, &settings, &repositories).await?;
    let options = RestoreOptions {
        into: into.clone(),
        tablespaces: args.tablespaces.clone(),
        action: match args.action {
            RecoveryAction::Promote => TargetAction::Promote,
            RecoveryAction::Pause => TargetAction::Pause,
            RecoveryAction::Shutdown => TargetAction::Shutdown,
        },
        delta: args.delta,
        discard_log: args.discard_log,
        clone: args.clone,
        restore_command: restore_command(args, context, &settings, &prepared.plan)?,
        workers: settings.backup.workers,
    };
    let in_place = run::check(&prepared, &options)?;
    let mut document = document(args, &scope, &into, &prepared);
    if args.dry_run {
        context.result("restore", 1, &document, || plan_text(&document, &prepared, in_place))?;
        return Ok(Outcome::Done);
    }
    let scope = with_others(args, context, &repositories, scope, &metrics)?;
    let report = run::run(&scope, &prepared, &options, context.progress.clone(), context.cancel.clone()).await;
    let report = report.map_err(|error| with_a_way_out(error, &repositories, &scope))?;
    document.done = true;
    document.written_bytes = Some(report.written_bytes);
    document.duration_seconds = Some(report.duration.as_secs_f64());
    document.requests = Some(metrics.requests());
    document.notes.extend(report.notes.iter().cloned());
    context.result("restore", 1, &document, || done_text(&document, &prepared, &report, args))?;
    Ok(Outcome::Done)
}

/// A plan, and where the requests of its repository are counted.
struct Plan {
    scope: Scope,
    prepared: Prepared,
    metrics: Arc<Metrics>,
}

/// Where the source is kept.
fn repositories<'a>(args: &RestoreArgs, context: &Context, settings: &'a Settings) -> Result<Vec<&'a RepositorySettings>> {
    let only = context.global.repository.as_deref();
    match settings.source(&args.source) {
        Ok(source) => settings.repositories_of(source, only),
        // A host that only restores need not describe the source.
        Err(_) => Ok(vec![settings.repository(only)?]),
    }
}

/// The plan from the first repository that has one; the first refusal when none has. Where the plan depends on how far
/// the log goes, all are asked, and the one whose log goes farthest is taken: another may have missed the end of it.
async fn plan(args: &RestoreArgs, context: &Context, settings: &Settings, repositories: &[&RepositorySettings]) -> Result<Plan> {
    let is_latest = matches!(args.target(), Target::Latest);
    let ask_all = is_latest || args.timeline.is_none();
    let (mut best, mut failures): (Option<Plan>, Vec<(&str, Error)>) = (None, Vec::new());
    for chosen in repositories {
        match plan_from(args, context, settings, chosen).await {
            Ok(found) if !ask_all => return Ok(found),
            Ok(found) => {
                if best.as_ref().is_none_or(|best| goes_farther(&found.prepared.plan, &best.prepared.plan, is_latest)) {
                    best = Some(found);
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
            Err(error) => failures.push((&chosen.name, error)),
        }
    }
    let Some(best) = best else {
        // An answer is worth more than an outage.
        failures.sort_by_key(|(_, error)| error.kind() == ErrorKind::Unreachable);
        let mut failures = failures.into_iter();
        let first = failures.next().map(|(_, error)| error);
        failures.for_each(|(name, error)| context.progress.warn(&format!("repository {name}: {}", error.summary())));
        return Err(first.unwrap_or_else(|| Error::usage(format!("{} names no repository", args.source))));
    };
    for (name, error) in failures {
        let unknown = if error.kind() == ErrorKind::Unreachable { "; it may hold newer log" } else { "" };
        context.progress.warn(&format!("repository {name} was not taken into account{unknown}: {}", error.summary()));
    }
    Ok(best)
}

/// Whether `new` is of a later cluster or timeline than `best` or, when asked for the end of the log, goes on for longer.
fn goes_farther(new: &RestorePlan, best: &RestorePlan, is_latest: bool) -> bool {
    if new.backup.incarnation != best.backup.incarnation {
        return new.backup.start_time > best.backup.start_time;
    }
    let end = |plan: &RestorePlan| is_latest.then(|| (plan.segments.last().map(|segment| segment.number), plan.reaches));
    (new.timeline, end(new)) > (best.timeline, end(best))
}

/// The same scope, reading also from the other repositories of the source when its own fails on the way. They need not
/// hold the backup: every object is compared with what the plan's repository signed.
fn with_others(
    args: &RestoreArgs,
    context: &Context,
    repositories: &[&RepositorySettings],
    scope: Scope,
    metrics: &Arc<Metrics>,
) -> Result<Scope> {
    let (own, others): (Vec<&RepositorySettings>, Vec<_>) =
        repositories.iter().partition(|chosen| chosen.name == scope.repository.name());
    let bare = |chosen: &RepositorySettings| -> Result<_> {
        let mut layers = scope::layers(context, chosen, Use::Long { limit_rate_bytes: args.limit_rate });
        layers.metrics = Arc::clone(metrics);
        Ok((store::open(&chosen.url, &chosen.options)?, layers))
    };
    let (Some(own), false) = (own.first(), others.is_empty()) else { return Ok(scope) };
    let others = others.into_iter().map(bare).collect::<Result<Vec<_>>>()?;
    let progress = Arc::clone(&context.progress);
    let told = move |from: &str, error: &StoreError, to: &str| {
        progress.warn(&format!("{from} does not answer, reading on from {to}: {error}"));
    };
    let store = any_of(bare(own)?, others, Box::new(told));
    Ok(Scope { repository: scope.repository.reading_from(store), ..scope })
}

/// Where else there may be a sound copy of what is damaged.
fn with_a_way_out(error: Error, repositories: &[&RepositorySettings], scope: &Scope) -> Error {
    match repositories.iter().find(|other| other.name != scope.repository.name()) {
        Some(other) if error.kind() == ErrorKind::Damaged => error.hint(format!(
            "empty the directory, then restore from the other one: lifeboat restore … --repository {}",
            other.name
        )),
        _ => error,
    }
}

async fn plan_from(args: &RestoreArgs, context: &Context, settings: &Settings, chosen: &RepositorySettings) -> Result<Plan> {
    let request = Request {
        target: args.target(),
        timeline: args.timeline,
        incarnation: args.incarnation.clone(),
        backup: args.backup.clone(),
    };
    let planning = async {
        let layers = scope::layers(context, chosen, Use::Long { limit_rate_bytes: args.limit_rate });
        let scope = scope::open(context, settings, chosen, &args.source, &layers).await?;
        let seen = head::look(&scope).await?;
        if let Some(warning) = &seen.warning {
            context.progress.warn(warning);
        }
        // Whoever restores takes what there is; but is told.
        if let Some(wound_back) = &seen.wound_back {
            context.progress.warn(&format!("repository {}: {}", chosen.name, wound_back.text()));
        }
        let prepared = prepare(&scope, &seen.log, &settings.encryption, &request).await?;
        Ok(Plan { scope, prepared, metrics: layers.metrics })
    };
    tokio::select! {
        outcome = planning => outcome,
        () = context.cancel.cancelled() => Err(Error::interrupted()),
    }
}

/// What the restored server runs for each file of the log: it asks the repository that was asked for, or all.
fn restore_command(args: &RestoreArgs, context: &Context, settings: &Settings, plan: &RestorePlan) -> Result<String> {
    let program =
        std::env::current_exe().map_err(|error| Error::failed("cannot find this program's own path").caused_by(error))?;
    let (program, config) = (quoted(&program)?, quoted(&settings.config_file)?);
    let only = context.global.repository.as_ref().map(|name| quoted(Path::new(name))).transpose()?;
    let only = only.map(|name| format!(" --repository {name}")).unwrap_or_default();
    let incarnation = &plan.backup.incarnation;
    Ok(format!("{program} --config {config}{only} archive get {} %f %p --incarnation {incarnation}", args.source))
}

/// A path as one word of a shell command in which PostgreSQL expands `%`.
fn quoted(path: &Path) -> Result<String> {
    let text = path
        .to_str()
        .ok_or_else(|| Error::usage(format!("{} is not UTF-8: a restore_command cannot name it", path.display())))?;
    Ok(format!("'{}'", text.replace('\'', r"'\''").replace('%', "%%")))
}

fn document(args: &RestoreArgs, scope: &Scope, into: &Path, prepared: &Prepared) -> Document {
    let plan = &prepared.plan;
    let (stop_lsn, stop_inclusive) = match plan.stop {
        RecoveryStop::Immediate => (None, None),
        RecoveryStop::Record { lsn, inclusive } => (Some(lsn.to_string()), Some(inclusive)),
    };
    Document {
        source: args.source.to_string(),
        repository: scope.repository.name().to_owned(),
        into: into.display().to_string(),
        target: args.target().to_string(),
        backup: plan.backup.id.to_string(),
        because: plan.because.clone(),
        timeline: plan.timeline.0,
        stop_lsn,
        stop_inclusive,
        last_commit: plan.reaches,
        first_left_out: plan.leaves_out,
        chain: prepared.links.iter().map(|link| link.summary.id.to_string()).collect(),
        packs: prepared.links.iter().map(|link| link.summary.packs).sum(),
        fetch_bytes: prepared.fetch_bytes(),
        write_bytes: plan.backup.raw_bytes,
        segments: plan.segments.len(),
        log_stored_bytes: plan.log_stored_bytes,
        replay_bytes: plan.replay_bytes,
        notes: plan.notes.clone(),
        done: false,
        written_bytes: None,
        duration_seconds: None,
        requests: None,
    }
}

fn lines(document: &Document, prepared: &Prepared) -> String {
    let mut lines = run::describe(prepared);
    lines.extend(document.notes.iter().map(|note| ("note", note.clone())));
    lines.iter().map(|(label, value)| format!("  {label:11}  {value}\n")).collect()
}

fn plan_text(document: &Document, prepared: &Prepared, in_place: bool) -> String {
    let Document { source, target, into, repository, .. } = document;
    let kept = if in_place { "  in place     only what differs is fetched and written\n" } else { "" };
    format!("would restore {source} to {target} into {into}\n  repository   {repository}\n{kept}{}", lines(document, prepared))
}

fn done_text(document: &Document, prepared: &Prepared, report: &RestoreReport, args: &RestoreArgs) -> String {
    let Document { source, target, into, .. } = document;
    let heading = format!(
        "restored {source} into {into}: {}{} in {}\nreplay to {target} begins when the server starts\n",
        format_bytes(report.raw_bytes),
        if args.delta { format!(", {} of it fetched and written,", format_bytes(report.written_bytes)) } else { String::new() },
        format_duration(report.duration)
    );
    let data = args.into.display();
    format!("{heading}{}  next         pg_ctl -D '{data}' -w start\n", lines(document, prepared))
}
