//! `lifeboat status [SOURCE]`: would it survive, what would be lost, how long would it take, and what to do next.

mod nagios;
mod prometheus;
mod text;

use std::io::{self, IsTerminal};
use std::path::Path;
use std::time::Duration;

use futures_util::future;
use serde::Serialize;

use crate::base::{Engine, Error, Result};
use crate::cli::args::{OutputFormat, StatusArgs, StatusFormat};
use crate::cli::config::{PostgresSettings, Settings, SourceKind, SourceSettings, StandbyPlace};
use crate::cli::context::Context;
use crate::cli::exit::Outcome;
use crate::cli::output;
use crate::cli::scope::{self, Use};
use crate::engine::status::facts::{CopiesWanted, Facts, PolicyProblem};
use crate::engine::status::gather::{self, Place, Server, Subject, System};
use crate::engine::status::{StatusReport, Verdict, history};
use crate::repo::queue::Queue;
use crate::source::postgres::conninfo;

pub use nagios::unknown;
pub use prometheus::prometheus;

/// The document `status`, version 1.
#[derive(Serialize)]
struct Document<'r> {
    verdict: Verdict,
    sources: &'r [StatusReport],
}

/// Tells the status, once or again and again.
///
/// # Errors
/// Usage errors; unreachable, after everything was told, when no repository of a source answers.
pub async fn run(args: &StatusArgs, context: &Context) -> Result<Outcome> {
    let settings = context.settings()?;
    let sources: Vec<&SourceSettings> = match &args.source {
        Some(name) => vec![settings.source(name)?],
        None => settings.sources.values().collect(),
    };
    let format = args.format.unwrap_or(match context.global.output {
        OutputFormat::Json => StatusFormat::Json,
        OutputFormat::Text => StatusFormat::Text,
    });
    if let Some(seconds) = args.watch {
        return watch(args, context, &settings, &sources, format, Duration::from_secs(seconds)).await;
    }
    let reports = tokio::select! {
        reports = reports(context, &settings, &sources) => reports?,
        () = context.cancel.cancelled() => return Err(Error::interrupted()),
    };
    context.progress.finish();
    output::print(&rendered(&reports, format))?;
    write_textfile(args.textfile.as_deref(), &reports)?;
    let blind: Vec<&StatusReport> = reports.iter().filter(|report| report.is_blind()).collect();
    match (verdict(&reports), blind.first()) {
        (Verdict::Breach, _) if format == StatusFormat::Nagios => Ok(Outcome::Breached),
        (_, Some(_)) if format == StatusFormat::Nagios => Ok(Outcome::Faults),
        (_, Some(blind)) => Err(nothing_answers(blind)),
        (verdict, None) if args.gate || format == StatusFormat::Nagios => Ok(outcome(verdict)),
        _ => Ok(Outcome::Done),
    }
}

/// The status of each of `sources`, noted in this host's history unless only one repository was asked for.
///
/// # Errors
/// Usage errors: a repository that the configuration does not know.
pub async fn reports(context: &Context, settings: &Settings, sources: &[&SourceSettings]) -> Result<Vec<StatusReport>> {
    let all = future::join_all(sources.iter().map(|source| report(context, settings, source))).await;
    all.into_iter().collect()
}

async fn report(context: &Context, settings: &Settings, source: &SourceSettings) -> Result<StatusReport> {
    let facts = facts(context, settings, source).await?;
    let report = StatusReport::of(&facts);
    let path = history::path(&settings.state_dir, &source.name);
    // What one of several repositories would have lost was never lost.
    if context.global.repository.is_none()
        && let Err(error) = history::append(&path, &facts.history, &report.sample())
    {
        context.progress.warn(&format!("the history of {} was not written: {}", source.name, error.summary()));
    }
    Ok(report)
}

/// What is known of `source` now.
///
/// # Errors
/// As [`reports`].
pub async fn facts(context: &Context, settings: &Settings, source: &SourceSettings) -> Result<Facts> {
    let chosen = settings.repositories_of(source, context.global.repository.as_deref())?;
    // Only looked at: a policy that contradicts itself still has objectives, and the facts tell whether they are met.
    let policy = source
        .policy
        .as_deref()
        .map(|name| settings.policy(name).map_err(|error| PolicyProblem { name: name.to_owned(), why: error.summary() }));
    let has_log = source.kind.engine() != Engine::Directory;
    let copies_wanted = match context.global.repository {
        // Of the others nothing is asked, so nothing is missed there.
        Some(_) => CopiesWanted { log: usize::from(has_log), backup: 1 },
        None => {
            let (log, backup) = (settings.log_copies(source), settings.backup_copies(source));
            CopiesWanted { log: if has_log { log.repositories } else { 0 }, backup: backup.repositories }
        }
    };
    let places = chosen.into_iter().map(async |chosen| {
        let layers = scope::layers(context, chosen, Use::Brief);
        Place {
            name: chosen.name.clone(),
            site: chosen.site.clone(),
            lock_mode: chosen.options.s3.lock.as_ref().map(|terms| terms.mode.as_str().to_owned()),
            queue: Queue::new(&settings.state_dir, &source.name, &chosen.name),
            scope: scope::open(context, settings, chosen, &source.name, &layers).await,
        }
    });
    let subject = Subject {
        source: &source.name,
        site: source.site.clone(),
        policy: policy.transpose(),
        copies_wanted,
        system: match &source.kind {
            SourceKind::Postgres(postgres) => System::Postgres(server(postgres)),
            SourceKind::Sqlite(sqlite) => System::Sqlite(&sqlite.path),
            SourceKind::Directory(directory) => System::Directory(&directory.path),
        },
        repositories: future::join_all(places).await,
        state_dir: &settings.state_dir,
    };
    let facts = gather::gather(subject).await;
    facts.warnings.iter().for_each(|warning| context.progress.warn(warning));
    Ok(facts)
}

fn server(postgres: &PostgresSettings) -> Server<'_> {
    Server {
        conninfo: postgres.primary_conninfo.as_ref().unwrap_or(&postgres.conninfo),
        // That of the server that is backed up, which is then a standby.
        data_directory: postgres.data_directory.clone().filter(|_| postgres.primary_conninfo.is_none()),
        slot: &postgres.slot,
        streamed_from: postgres.primary_conninfo.as_ref().map(|_| postgres.conninfo.as_str()),
        standby: standby(postgres),
    }
}

/// Where the standby is, with whoever may be let in.
fn standby(postgres: &PostgresSettings) -> Option<gather::Standby> {
    Some(match postgres.standby.as_ref()? {
        StandbyPlace::Server(conninfo) => gather::Standby::Server(conninfo.clone()),
        StandbyPlace::Directory(directory) => {
            let users = conninfo::user(&postgres.conninfo).into_iter().chain(["postgres".to_owned()]);
            gather::Standby::Directory(directory.clone(), users.collect())
        }
    })
}

/// The worst of several.
fn verdict(reports: &[StatusReport]) -> Verdict {
    reports.iter().map(|report| report.verdict).max().unwrap_or(Verdict::Ok)
}

fn outcome(verdict: Verdict) -> Outcome {
    match verdict {
        Verdict::Ok => Outcome::Done,
        Verdict::Unproven => Outcome::Unproven,
        Verdict::AtRisk => Outcome::AtRisk,
        Verdict::Breach => Outcome::Breached,
    }
}

fn nothing_answers(report: &StatusReport) -> Error {
    let error =
        Error::unreachable(format!("no repository of {} answers: what is told of it is not known to be so", report.source));
    let told = report.repositories.iter().filter_map(|repository| Some((&repository.repository, repository.error.clone()?)));
    let error = told.fold(error, |error, (name, why)| error.detail(name.clone(), why));
    error.hint(format!("lifeboat check {}   tells more", report.source))
}

fn rendered(reports: &[StatusReport], format: StatusFormat) -> String {
    match format {
        StatusFormat::Text => text::text(reports),
        StatusFormat::Json => output::document("status", 1, &Document { verdict: verdict(reports), sources: reports }) + "\n",
        StatusFormat::Prometheus => prometheus(reports),
        StatusFormat::Nagios => nagios::nagios(reports),
    }
}

/// Whoever collects it reads it as another user, and must never see half of it.
fn write_textfile(path: Option<&Path>, reports: &[StatusReport]) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    output::write_file(path, &prometheus(reports))
}

/// Tells it again every `pause` until somebody asks to stop: over itself in a terminal, else block after block.
async fn watch(
    args: &StatusArgs,
    context: &Context,
    settings: &Settings,
    sources: &[&SourceSettings],
    format: StatusFormat,
    pause: Duration,
) -> Result<Outcome> {
    let over_itself = io::stdout().is_terminal() && format == StatusFormat::Text;
    let mut first = true;
    loop {
        let reports = tokio::select! {
            reports = reports(context, settings, sources) => reports?,
            () = context.cancel.cancelled() => return Ok(Outcome::Done),
        };
        context.progress.finish();
        let told = rendered(&reports, format);
        output::print(&match (over_itself, first) {
            (true, true) => format!("\x1b[2J{}", redrawn(&told)),
            (true, false) => redrawn(&told),
            (false, true) => told,
            (false, false) => format!("\n{told}"),
        })?;
        write_textfile(args.textfile.as_deref(), &reports)?;
        first = false;
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = context.cancel.cancelled() => return Ok(Outcome::Done),
        }
    }
}

/// From the first line on, each line to its end, and what is left below is wiped.
fn redrawn(text: &str) -> String {
    format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"))
}
