//! `lifeboat restore SOURCE --into DIR`: the plan, and unless `--dry-run` its execution.

mod directory;
mod sqlite;

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::base::units::{format_bytes, format_duration};
use crate::base::{Engine, Error, ErrorKind, Result, Timestamp};
use crate::cli::args::{RecoveryAction, RestoreArgs};
use crate::cli::config::RepositorySettings;
use crate::cli::context::Context;
use crate::cli::exit::Outcome;
use crate::cli::restoring::{self, Plan, Wanted};
use crate::engine::Scope;
use crate::engine::restore::Target;
use crate::engine::restore::plan::RecoveryStop;
use crate::engine::restore::prepare::{Prepared, Request};
use crate::engine::restore::run::{self, Follow, RestoreOptions, RestoreReport};
use crate::source::postgres::recovery_config::TargetAction;
use crate::store::layer::metrics::Requests;

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
    /// Whether it stays a standby: then it does not stop.
    standby: bool,
    delay_seconds: Option<u64>,
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
    let repositories = restoring::repositories(&args.source, context, &settings)?;
    let named = (args.incarnation.as_ref(), args.backup.as_ref());
    match restoring::engine(&args.source, named, context, &settings, &repositories).await? {
        Engine::Directory => return directory::run(args, context, &settings, &repositories).await,
        Engine::Sqlite => {
            refuse_a_part(args)?;
            return sqlite::run(args, context, &settings, &repositories).await;
        }
        Engine::Postgres => refuse_a_part(args)?,
    }
    refuse_a_moment_to_follow(args)?;
    let into = std::path::absolute(&args.into).map_err(|error| Error::io("find", &args.into, error))?;
    if !args.delta {
        run::check_empty(&into)?;
    }
    let request = Request {
        target: args.target(),
        timeline: args.timeline,
        incarnation: args.incarnation.clone(),
        backup: args.backup.clone(),
    };
    let (source, identities) = (&args.source, &settings.encryption);
    let wanted = Wanted { source, request, limit_rate: args.limit_rate, identities };
    let Plan { scope, prepared, metrics, .. } = restoring::plan(&wanted, context, &settings, &repositories).await?;
    let options = RestoreOptions {
        into: into.clone(),
        tablespaces: args.tablespaces.clone(),
        other_tablespaces_below: None,
        action: match args.action {
            RecoveryAction::Promote => TargetAction::Promote,
            RecoveryAction::Pause => TargetAction::Pause,
            RecoveryAction::Shutdown => TargetAction::Shutdown,
        },
        delta: args.delta,
        discard_log: args.discard_log,
        clone: args.clone,
        follow: args
            .standby
            .then(|| Follow { delay: args.delay.unwrap_or_default(), repository: context.global.repository.clone() }),
        restore_command: match args.standby {
            true => restoring::follow_command(source, context, &settings, &prepared.plan)?,
            false => restoring::restore_command(source, context, &settings, &prepared.plan, scope.repository.name())?,
        },
        workers: settings.backup.workers,
    };
    let in_place = run::check(&prepared, &options)?;
    let mut document = document(args, &scope, &into, &prepared);
    if args.dry_run {
        context.result("restore", 1, &document, || plan_text(&document, &prepared, in_place))?;
        return Ok(Outcome::Done);
    }
    let scope = restoring::with_others(wanted.limit_rate, context, &repositories, scope, &metrics)?;
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

/// A database is whole or nothing.
fn refuse_a_part(args: &RestoreArgs) -> Result<()> {
    match args.paths.as_slice() {
        [] => Ok(()),
        _ => Err(Error::usage(format!("{} is a database: --path restores a part of a directory", args.source))
            .hint("drop --path; restore all of it elsewhere, and take from there what is wanted")),
    }
}

/// A standby has no target until it is promoted.
fn refuse_a_moment_to_follow(args: &RestoreArgs) -> Result<()> {
    if !args.standby || args.target() == Target::Latest {
        return Ok(());
    }
    Err(Error::usage(format!("a standby follows the archive, and does not stop at {}", args.target()))
        .hint("drop --to; it is given when the standby ends: lifeboat promote --to TIME")
        .hint("drop --standby   to restore to that moment and stop there"))
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

fn document(args: &RestoreArgs, scope: &Scope, into: &Path, prepared: &Prepared) -> Document {
    let plan = &prepared.plan;
    let (stop_lsn, stop_inclusive) = match plan.stop {
        _ if args.standby => (None, None),
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
        standby: args.standby,
        delay_seconds: args.standby.then(|| args.delay.unwrap_or_default().as_secs()),
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
    if document.standby {
        lines.retain(|(label, _)| *label != "stop");
        let delay = document.delay_seconds.filter(|seconds| *seconds > 0).map(Duration::from_secs);
        let delay = delay.map(|delay| format!(", each commit {} after it", format_duration(delay))).unwrap_or_default();
        lines.push(("follow", format!("the archive, on its newest timeline{delay}")));
    }
    lines.extend(document.notes.iter().map(|note| ("note", note.clone())));
    lines.iter().map(|(label, value)| format!("  {label:11}  {value}\n")).collect()
}

fn plan_text(document: &Document, prepared: &Prepared, in_place: bool) -> String {
    let Document { source, target, into, repository, .. } = document;
    let kept = if in_place { "  in place     only what differs is fetched and written\n" } else { "" };
    let what = if document.standby { "a standby of " } else { "" };
    let to = if document.standby { String::new() } else { format!(" to {target}") };
    format!("would restore {what}{source}{to} into {into}\n  repository   {repository}\n{kept}{}", lines(document, prepared))
}

fn done_text(document: &Document, prepared: &Prepared, report: &RestoreReport, args: &RestoreArgs) -> String {
    let Document { source, target, into, .. } = document;
    let what = if document.standby { "a standby of " } else { "" };
    let begins = match document.standby {
        true => "it follows the archive from its start on, until it is promoted".to_owned(),
        false => format!("replay to {target} begins when the server starts"),
    };
    let heading = format!(
        "restored {what}{source} into {into}: {}{} in {}\n{begins}\n",
        format_bytes(report.raw_bytes),
        if args.delta { format!(", {} of it fetched and written,", format_bytes(report.written_bytes)) } else { String::new() },
        format_duration(report.duration)
    );
    let data = args.into.display();
    let next = match document.standby {
        true => format!(
            "  next         pg_ctl -D '{data}' -w start\n\
             {:15}standby = '{data}' in [source.{source}]   has status look at it\n\
             {:15}lifeboat promote {source} --dir '{data}'   ends it\n",
            "", ""
        ),
        false => format!("  next         pg_ctl -D '{data}' -w start\n"),
    };
    format!("{heading}{}{next}", lines(document, prepared))
}
