//! `lifeboat backup SOURCE`: one backup in each repository of the source, or what it would be.

use std::time::Duration;

use serde::Serialize;

use crate::base::units::{format_bytes, format_duration};
use crate::base::{BackupId, BackupType, Error, Result};
use crate::cli::args::{BackupArgs, BackupTypeArg, CheckpointMode, PageErrors};
use crate::cli::config::{RepositorySettings, Settings, SourceKind, SourceSettings};
use crate::cli::context::Context;
use crate::cli::exit::Outcome;
use crate::cli::scope::{self, Use};
use crate::engine::backup::{self, BackupOptions, BackupReport, Preview, Wish};
use crate::engine::head;
use crate::engine::lease::Terms;
use crate::repo::BackupSummary;
use crate::store::layer::metrics::Requests;

/// The document `backup`, version 1.
#[derive(Serialize)]
struct Document {
    source: String,
    backups: Vec<Taken>,
}

#[derive(Serialize)]
struct Taken {
    repository: String,
    #[serde(flatten)]
    summary: BackupSummary,
    reason: Option<String>,
    warnings: Vec<String>,
    requests: Requests,
}

/// The document `backup_plan`, version 1.
#[derive(Serialize)]
struct Plans {
    source: String,
    plans: Vec<Planned>,
}

#[derive(Serialize)]
struct Planned {
    repository: String,
    #[serde(rename = "type")]
    backup_type: BackupType,
    /// What it would build on.
    base: Option<BackupId>,
    reason: Option<String>,
    warnings: Vec<String>,
    incarnation: String,
    server_version: String,
    from_standby: bool,
    data_directory: String,
    entries: u64,
    raw_bytes: u64,
    pack_bytes: u64,
    packs_at_most: u64,
}

/// Takes a backup, or with `--dry-run` says what it would be.
///
/// # Errors
/// The first repository's that fails; the backups in those before it stand.
pub async fn run(args: &BackupArgs, context: &Context) -> Result<Outcome> {
    let settings = context.settings()?;
    let source = settings.source(&args.source)?;
    let repositories = settings.repositories_of(source, context.global.repository.as_deref())?;
    let options = options(args, &settings, source);
    if args.dry_run {
        return dry_run(context, &settings, source, &repositories, &options).await;
    }
    let writing = scope::writing(&settings)?;
    let mut document = Document { source: source.name.to_string(), backups: Vec::new() };
    for chosen in repositories {
        let in_repository = |error: Error| error.context(format!("repository {}", chosen.name));
        let layers = scope::layers(context, chosen, Use::Long { limit_rate_bytes: args.limit_rate });
        let scope = scope::open(context, &settings, chosen, &source.name, &layers).await?;
        let seen = head::look(&scope).await.map_err(in_repository)?;
        if let Some(warning) = &seen.warning {
            context.progress.warn(warning);
        }
        seen.trusted(&scope)?;
        let report = backup::run(&scope, &writing, &options, context.progress.clone(), context.cancel.clone()).await;
        let BackupReport { summary, reason, warnings } = report.map_err(in_repository)?;
        warnings.iter().for_each(|warning| context.progress.warn(warning));
        let requests = layers.metrics.requests();
        document.backups.push(Taken { repository: chosen.name.clone(), summary, reason, warnings, requests });
    }
    context.result("backup", 1, &document, || text(&document))?;
    Ok(Outcome::Done)
}

fn options(args: &BackupArgs, settings: &Settings, source: &SourceSettings) -> BackupOptions {
    let SourceKind::Postgres(postgres) = &source.kind;
    BackupOptions {
        wish: match args.backup_type {
            BackupTypeArg::Full => Wish::Type(BackupType::Full),
            BackupTypeArg::Diff => Wish::Type(BackupType::Diff),
            BackupTypeArg::Incr => Wish::Type(BackupType::Incr),
            BackupTypeArg::Auto => Wish::Auto,
        },
        conninfo: postgres.conninfo.clone(),
        primary_conninfo: postgres.primary_conninfo.clone(),
        data_directory: postgres.data_directory.clone(),
        fast_checkpoint: args.checkpoint == CheckpointMode::Fast,
        audit: args.audit,
        fail_on_bad_pages: args.page_errors == PageErrors::Fail,
        workers: settings.backup.workers,
        pack_bytes: settings.backup.pack_size_bytes,
        archive_timeout: postgres.archive_timeout,
        lease: (!args.no_lease).then(|| Terms { wait: args.wait.unwrap_or_default(), ..Terms::new(settings.backup.lease_ttl) }),
    }
}

async fn dry_run(
    context: &Context,
    settings: &Settings,
    source: &SourceSettings,
    repositories: &[&RepositorySettings],
    options: &BackupOptions,
) -> Result<Outcome> {
    // Found now rather than when the backup is due.
    scope::writing(settings)?;
    let mut document = Plans { source: source.name.to_string(), plans: Vec::new() };
    for chosen in repositories {
        let layers = scope::layers(context, chosen, Use::Brief);
        let scope = scope::open(context, settings, chosen, &source.name, &layers).await?;
        let preview = tokio::select! {
            preview = backup::preview(&scope, options) => preview?,
            () = context.cancel.cancelled() => return Err(Error::interrupted()),
        };
        preview.notes.iter().for_each(|note| context.progress.warn(note));
        document.plans.push(planned(&chosen.name, preview));
    }
    context.result("backup_plan", 1, &document, || plan_text(&document))?;
    Ok(Outcome::Done)
}

fn planned(repository: &str, preview: Preview) -> Planned {
    Planned {
        repository: repository.to_owned(),
        backup_type: preview.decision.backup_type,
        base: preview.decision.base.map(|base| base.id),
        reason: preview.decision.reason,
        warnings: preview.notes,
        incarnation: preview.incarnation.to_string(),
        server_version: preview.server_version,
        from_standby: preview.from_standby,
        data_directory: preview.data_directory.display().to_string(),
        entries: preview.entries,
        raw_bytes: preview.raw_bytes,
        pack_bytes: preview.pack_bytes,
        packs_at_most: preview.packs_at_most,
    }
}

fn text(document: &Document) -> String {
    let mut text = String::new();
    for Taken { repository, summary, reason, .. } in &document.backups {
        let entries = format!("{} in {} files and directories", format_bytes(summary.raw_bytes), summary.entries);
        let stored = format!("{} in {} packs", format_bytes(summary.stored_bytes), summary.packs);
        let took = Duration::try_from_secs_f64(summary.duration_seconds).unwrap_or_default();
        let mut lines = vec![("repository", repository.clone())];
        lines.extend(summary.base.iter().map(|base| ("builds on", base.to_string())));
        lines.extend([
            ("restores to", format!("{} and later", summary.stop_time.human_seconds())),
            ("holds", entries),
            ("stored", if summary.encrypted { stored } else { format!("{stored}, not encrypted") }),
            ("took", format_duration(took)),
        ]);
        lines.extend(reason.clone().map(|reason| ("note", reason)));
        text += &block(&format!("{} backup {} of {}", summary.backup_type, summary.id, document.source), &lines);
    }
    text
}

fn plan_text(document: &Plans) -> String {
    let mut text = String::new();
    for plan in &document.plans {
        let server = format!("PostgreSQL {}{}", plan.server_version, if plan.from_standby { ", a standby" } else { "" });
        let packs = format!("{} packs of {} at most", plan.packs_at_most, format_bytes(plan.pack_bytes));
        let mut lines = vec![("repository", plan.repository.clone())];
        lines.extend(plan.base.iter().map(|base| ("builds on", base.to_string())));
        lines.extend([
            ("server", server),
            ("cluster", plan.incarnation.clone()),
            ("reads", plan.data_directory.clone()),
            ("", format!("{} in {} files and directories", format_bytes(plan.raw_bytes), plan.entries)),
            ("stores", packs),
        ]);
        lines.extend(plan.reason.clone().map(|reason| ("note", reason)));
        let article = if plan.backup_type == BackupType::Incr { "an" } else { "a" };
        text += &block(&format!("would take {article} {} backup of {}", plan.backup_type, document.source), &lines);
    }
    text
}

/// A heading and labelled lines below it.
fn block(heading: &str, lines: &[(&str, String)]) -> String {
    let width = lines.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
    let lines: String = lines.iter().map(|(label, value)| format!("  {label:width$}  {value}\n")).collect();
    format!("{heading}\n{lines}")
}
