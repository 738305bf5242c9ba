//! `lifeboat restore` of a directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::with_a_way_out;
use crate::base::units::{format_bytes, format_duration};
use crate::base::{Error, ErrorKind, Result, Timestamp};
use crate::cli::args::{RecoveryAction, RestoreArgs};
use crate::cli::config::{RepositorySettings, Settings};
use crate::cli::context::Context;
use crate::cli::exit::Outcome;
use crate::cli::restoring;
use crate::cli::scope::{self, Use};
use crate::engine::directory::restore::{self, Prepared, Request, RestoreOptions, RestoreReport};
use crate::engine::{Scope, head};
use crate::store::layer::metrics::{Metrics, Requests};

/// The document `restore`, version 1, of a directory; also of a dry run, without what only a restore knows.
#[derive(Serialize)]
struct Document {
    source: String,
    repository: String,
    into: String,
    target: String,
    backup: String,
    because: String,
    /// The moment that comes back.
    moment: Timestamp,
    /// The backup and what it builds on.
    chain: Vec<String>,
    /// What is restored; everything when it is empty.
    paths: Vec<String>,
    packs: u32,
    fetch_bytes: u64,
    notes: Vec<String>,
    done: bool,
    entries: Option<u64>,
    written_bytes: Option<u64>,
    /// How much is not as it was, and the first of it.
    shortfalls: Option<u64>,
    /// Of this, what is not there at all.
    missing: Option<u64>,
    first_shortfalls: Vec<String>,
    duration_seconds: Option<f64>,
    /// What was asked of the repository, planning included.
    requests: Option<Requests>,
}

/// A plan, and the repository that it is of.
struct Plan {
    scope: Scope,
    prepared: Prepared,
    metrics: Arc<Metrics>,
}

/// Restores from the repository of the source that has the latest moment up to the target. [`Outcome::Faults`] when something
/// is not there afterwards, although everything else is.
///
/// # Errors
/// The plan's or the restore's.
pub(super) async fn run(
    args: &RestoreArgs,
    context: &Context,
    settings: &Settings,
    repositories: &[&RepositorySettings],
) -> Result<Outcome> {
    refuse_what_only_databases_have(args)?;
    let into = std::path::absolute(&args.into).map_err(|error| Error::io("find", &args.into, error))?;
    let into: PathBuf = into.components().collect();
    restore::check(&into)?;
    let Plan { scope, prepared, metrics } = plan(args, context, settings, repositories).await?;
    let mut document = document(args, &scope, &into, &prepared);
    if args.dry_run {
        context.result("restore", 1, &document, || plan_text(&document, &prepared))?;
        return Ok(Outcome::Done);
    }
    let scope = restoring::with_others(args.limit_rate, context, repositories, scope, &metrics)?;
    let options = RestoreOptions { into, paths: args.paths.clone(), workers: settings.backup.workers };
    let report = restore::run(&scope, &prepared, &options, context.progress.clone(), context.cancel.clone()).await;
    let report = report.map_err(|error| with_a_way_out(error, repositories, &scope))?;
    tell_shortfalls(context, &report);
    document.done = true;
    document.entries = Some(report.entries);
    document.written_bytes = Some(report.raw_bytes);
    document.shortfalls = Some(report.shortfalls);
    document.missing = Some(report.missing);
    document.first_shortfalls.clone_from(&report.first_shortfalls);
    document.duration_seconds = Some(report.duration.as_secs_f64());
    document.requests = Some(metrics.requests());
    document.notes.extend(report.notes.iter().cloned());
    context.result("restore", 1, &document, || done_text(&document, &prepared, &report))?;
    Ok(if report.missing > 0 { Outcome::Faults } else { Outcome::Done })
}

/// Options that a directory has no use for.
fn refuse_what_only_databases_have(args: &RestoreArgs) -> Result<()> {
    let named = [
        ("--standby", args.standby),
        ("--delta", args.delta),
        ("--tablespace", !args.tablespaces.is_empty()),
        ("--timeline", args.timeline.is_some()),
        ("--action", args.action != RecoveryAction::Promote),
        ("--clone", args.clone),
    ];
    match named.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((option, _)) => Err(Error::usage(format!("{} is a directory", args.source))
            .detail("not for it", format!("{option} is for PostgreSQL clusters"))
            .hint(format!("lifeboat restore {} --to TIME --into DIR   brings the directory back", args.source))),
    }
}

/// The plan whose moment is the latest; the first refusal when no repository has one.
async fn plan(args: &RestoreArgs, context: &Context, settings: &Settings, repositories: &[&RepositorySettings]) -> Result<Plan> {
    let (mut best, mut failures): (Option<Plan>, Vec<(&str, Error)>) = (None, Vec::new());
    for chosen in repositories {
        let planning = plan_from(args, context, settings, chosen);
        let planned = tokio::select! {
            planned = planning => planned,
            () = context.cancel.cancelled() => return Err(Error::interrupted()),
        };
        match planned {
            Ok(found) => {
                let moment = |plan: &Plan| plan.prepared.plan.moment;
                if best.as_ref().is_none_or(|best| moment(&found) > moment(best)) {
                    best = Some(found);
                }
            }
            Err(error) => failures.push((&chosen.name, error)),
        }
    }
    // An answer is worth more than an outage.
    failures.sort_by_key(|(_, error)| error.kind() == ErrorKind::Unreachable);
    let mut failures = failures.into_iter();
    let first = if best.is_none() { failures.next().map(|(_, error)| error) } else { None };
    failures.for_each(|(name, error)| context.progress.warn(&format!("repository {name}: {}", error.summary())));
    best.ok_or_else(|| first.unwrap_or_else(|| Error::usage(format!("{} names no repository", args.source))))
}

async fn plan_from(args: &RestoreArgs, context: &Context, settings: &Settings, chosen: &RepositorySettings) -> Result<Plan> {
    let layers = scope::layers(context, chosen, Use::Long { limit_rate_bytes: args.limit_rate });
    let scope = scope::open(context, settings, chosen, &args.source, &layers).await?;
    let seen = head::look(&scope).await?;
    seen.warning.iter().for_each(|warning| context.progress.warn(warning));
    // Whoever restores takes what there is; but is told.
    if let Some(wound_back) = &seen.wound_back {
        context.progress.warn(&format!("repository {}: {}", chosen.name, wound_back.text()));
    }
    let request = Request { target: args.target(), incarnation: args.incarnation.clone(), backup: args.backup.clone() };
    let prepared = restore::prepare(&scope, &seen.log, &settings.encryption, &request).await?;
    Ok(Plan { scope, prepared, metrics: layers.metrics })
}

fn tell_shortfalls(context: &Context, report: &RestoreReport) {
    report.first_shortfalls.iter().for_each(|shortfall| context.progress.warn(shortfall));
    // A note tells of what has no name.
    let others = report.shortfalls - report.nameless - report.first_shortfalls.len() as u64;
    if others > 0 {
        context.progress.warn(&format!("and {others} more are not as they were"));
    }
}

fn document(args: &RestoreArgs, scope: &Scope, into: &Path, prepared: &Prepared) -> Document {
    let plan = &prepared.plan;
    Document {
        source: args.source.to_string(),
        repository: scope.repository.name().to_owned(),
        into: into.display().to_string(),
        target: match args.target() {
            crate::engine::restore::Target::Latest => "its newest backup".to_owned(),
            target => target.to_string(),
        },
        backup: plan.backup.id.to_string(),
        because: plan.because.clone(),
        moment: plan.moment,
        chain: prepared.links.iter().map(|link| link.summary.id.to_string()).collect(),
        paths: args.paths.clone(),
        packs: prepared.links.iter().map(|link| link.summary.packs).sum(),
        fetch_bytes: prepared.fetch_bytes(),
        notes: plan.notes.clone(),
        done: false,
        entries: None,
        written_bytes: None,
        shortfalls: None,
        missing: None,
        first_shortfalls: Vec::new(),
        duration_seconds: None,
        requests: None,
    }
}

fn lines(document: &Document, prepared: &Prepared) -> String {
    let mut lines = restore::describe(prepared);
    lines.extend(document.paths.iter().map(|path| ("only", path.clone())));
    lines.extend(document.notes.iter().map(|note| ("note", note.clone())));
    lines.iter().map(|(label, value)| format!("  {label:11}  {value}\n")).collect()
}

fn plan_text(document: &Document, prepared: &Prepared) -> String {
    let Document { source, target, into, repository, .. } = document;
    format!("would restore {source} to {target} into {into}\n  repository   {repository}\n{}", lines(document, prepared))
}

fn done_text(document: &Document, prepared: &Prepared, report: &RestoreReport) -> String {
    let Document { source, into, .. } = document;
    let heading = format!(
        "restored {source} into {into}: {} in {} files and directories in {}\n",
        format_bytes(report.raw_bytes),
        report.entries,
        format_duration(report.duration)
    );
    // What has no name is told by a note.
    let named = if report.nameless == 0 { ", named above" } else { "" };
    let short = match (report.shortfalls, report.missing) {
        (0, _) => String::new(),
        (count, 0) => format!("  not as it was  {count}{named}\n"),
        (count, missing) => format!("  not as it was  {count}{named}; {missing} of them are not there at all\n"),
    };
    format!("{heading}{}{short}", lines(document, prepared))
}
