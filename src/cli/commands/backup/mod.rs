//! `lifeboat backup SOURCE`: one backup, in as many repositories of the source as must hold it, or what it would be.

mod copies;
mod directory;
mod sqlite;

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::base::units::{format_bytes, format_duration};
use crate::base::{BackupId, BackupType, Error, ErrorKind, Result, Timestamp};
use crate::cli::args::{BackupArgs, BackupTypeArg, CheckpointMode, PageErrors};
use crate::cli::config::{PostgresSettings, RepositorySettings, Settings, SourceKind, SourceSettings};
use crate::cli::context::Context;
use crate::cli::exit::Outcome;
use crate::cli::scope::{self, Use};
use crate::engine::backup::{self, BackupOptions, BackupReport, Detection, Preview, Reading, Wish};
use crate::engine::lease::Terms;
use crate::engine::{Scope, head};
use crate::policy::{BackupPolicy, ChangedPages, LogMode};
use crate::repo::BackupSummary;
use crate::store::layer::metrics::{Metrics, Requests};

use self::copies::Copied;

/// The document `backup`, version 1.
#[derive(Serialize)]
struct Document {
    source: String,
    /// The backup that was taken.
    backups: Vec<Taken>,
    /// What became of it in the other repositories.
    copies: Vec<Copied>,
}

#[derive(Serialize)]
struct Taken {
    repository: String,
    #[serde(flatten)]
    summary: BackupSummary,
    reason: Option<String>,
    /// How a diff or an incr got to know which pages changed.
    detection: Option<Detected>,
    /// Bytes read of the source's files.
    read_bytes: u64,
    warnings: Vec<String>,
    requests: Requests,
}

/// How changed pages are known.
#[derive(Serialize)]
struct Detected {
    /// `log` or `read`.
    changed_pages: &'static str,
    /// Why the data is read.
    reason: Option<String>,
    /// Whether everything is read and compared with what change detection says.
    audited: bool,
}

impl Detected {
    fn of(detection: Detection) -> Self {
        let Detection { from_log, reason, audited, .. } = detection;
        let place = if from_log { ChangedPages::Log } else { ChangedPages::Read };
        Self { changed_pages: place.as_str(), reason, audited }
    }

    fn text(&self) -> String {
        let place = if self.changed_pages == "log" { "told by the log" } else { "found by reading" };
        self.reason.as_ref().map_or_else(|| place.to_owned(), |reason| format!("{place} ({reason})"))
    }
}

/// The document `backup_plan`, version 1.
#[derive(Serialize)]
struct Plans {
    source: String,
    plans: Vec<Planned>,
    /// The repositories that would get a copy.
    copied_to: Vec<String>,
}

#[derive(Serialize)]
struct Planned {
    repository: String,
    #[serde(rename = "type")]
    backup_type: BackupType,
    /// What it would build on.
    base: Option<BackupId>,
    reason: Option<String>,
    /// How a diff or an incr would get to know which pages changed.
    detection: Option<Detected>,
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

/// Takes a backup in the first repository that answers and copies it to the others of the source, or with `--dry-run`
/// says what it would be.
///
/// # Errors
/// When it cannot be taken, or when fewer repositories hold it in the end than must; then it stands all the same.
pub async fn run(args: &BackupArgs, context: &Context) -> Result<Outcome> {
    let settings = context.settings()?;
    let source = settings.source(&args.source)?;
    match &source.kind {
        SourceKind::Directory(directory) => return directory::run(args, context, &settings, source, directory).await,
        SourceKind::Sqlite(sqlite) => return sqlite::run(args, context, &settings, source, sqlite).await,
        SourceKind::Postgres(_) => {}
    }
    let repositories = settings.repositories_of(source, context.global.repository.as_deref())?;
    let mut options = options(args, context, &settings, source, source.postgres("backup")?);
    if args.dry_run {
        return dry_run(args, context, &settings, source, &repositories, options).await;
    }
    let writing = scope::writing(&settings)?;
    let (chosen, scope, metrics) = first_that_answers(args, context, &settings, &repositories).await?;
    let in_repository = |error: Error| error.context(format!("repository {}", chosen.name));
    options.wish = by_policy(options.wish, &settings, source, &scope).await?;
    let seen = head::look(&scope).await.map_err(in_repository)?;
    if let Some(warning) = &seen.warning {
        context.progress.warn(warning);
    }
    seen.trusted(&scope)?;
    for other in repositories.iter().filter(|other| other.name != chosen.name) {
        let layers = scope::layers(context, other, Use::Brief);
        // Away, it is told of by what copies the backup there.
        options.admit_in.extend(scope::open(context, &settings, other, &source.name, &layers).await.ok());
    }
    let report = backup::run(&scope, &writing, &options, context.progress.clone(), context.cancel.clone()).await;
    let BackupReport { summary, reason, warnings, detection, read_bytes } = report.map_err(in_repository)?;
    warnings.iter().for_each(|warning| context.progress.warn(warning));
    let id = summary.id.clone();
    let (repository, requests, detection) = (chosen.name.clone(), metrics.requests(), detection.map(Detected::of));
    let taken = Taken { repository, summary, reason, detection, read_bytes, warnings, requests };
    let others = repositories.into_iter().filter(|other| other.name != chosen.name);
    let needed = needed(context, &settings, source);
    let copies = copies::spread(context, &settings, source, others, &id, needed).await?;
    let held = 1 + copies.iter().filter(|copy| copy.held).count();
    let document = Document { source: source.name.to_string(), backups: vec![taken], copies };
    context.result("backup", 1, &document, || text(&document))?;
    match held < needed.min(1 + document.copies.len()) {
        true => Err(copies::too_few(&document.source, &id, held, needed)),
        false => Ok(Outcome::Done),
    }
}

/// How many repositories must hold the backup. A policy that is wrong costs no backup: then all of them.
fn needed(context: &Context, settings: &Settings, source: &SourceSettings) -> usize {
    let needed = settings.backup_copies(source);
    if let Some(doubt) = &needed.doubt {
        context.progress.warn(doubt);
    }
    needed.repositories
}

/// The first repository that can be opened. Those before it are told of, and get the backup later.
async fn first_that_answers<'a>(
    args: &BackupArgs,
    context: &Context,
    settings: &Settings,
    repositories: &[&'a RepositorySettings],
) -> Result<(&'a RepositorySettings, Scope, Arc<Metrics>)> {
    let mut away: Vec<(&str, Error)> = Vec::new();
    for chosen in repositories {
        let layers = scope::layers(context, chosen, Use::Long { limit_rate_bytes: args.limit_rate });
        match scope::open(context, settings, chosen, &args.source, &layers).await {
            Ok(scope) => {
                for (name, error) in away {
                    context.progress.warn(&format!("repository {name} is passed over: {}", error.summary()));
                }
                return Ok((chosen, scope, layers.metrics));
            }
            Err(error) if error.kind() == ErrorKind::Unreachable => away.push((&chosen.name, error)),
            Err(error) => return Err(error),
        }
    }
    let first = away.into_iter().next().map(|(_, error)| error);
    Err(first.unwrap_or_else(|| Error::usage(format!("{} names no repository", args.source))))
}

/// What was asked for.
fn wish(args: &BackupArgs) -> Wish {
    match args.backup_type {
        BackupTypeArg::Full => Wish::Type(BackupType::Full),
        BackupTypeArg::Diff => Wish::Type(BackupType::Diff),
        BackupTypeArg::Incr => Wish::Type(BackupType::Incr),
        BackupTypeArg::Auto => Wish::Auto,
    }
}

fn options(
    args: &BackupArgs,
    context: &Context,
    settings: &Settings,
    source: &SourceSettings,
    postgres: &PostgresSettings,
) -> BackupOptions {
    BackupOptions {
        wish: wish(args),
        conninfo: postgres.conninfo.clone(),
        primary_conninfo: postgres.primary_conninfo.clone(),
        data_directory: postgres.data_directory.clone(),
        fast_checkpoint: args.checkpoint == CheckpointMode::Fast,
        reading: reading(args, context, settings, source),
        fail_on_bad_pages: args.page_errors == PageErrors::Fail,
        workers: settings.backup.workers,
        pack_bytes: settings.backup.pack_size_bytes,
        archive_timeout: postgres.archive_timeout,
        // Without a policy that can be used nothing is said of a stream.
        log_is_streamed: settings.policy_of(source).ok().flatten().is_some_and(|policy| policy.log.mode == LogMode::Stream),
        admit_in: Vec::new(),
        lease: (!args.no_lease).then(|| Terms { wait: args.wait.unwrap_or_default(), ..Terms::new(settings.backup.lease_ttl) }),
    }
}

/// Where changed pages are looked for, and when that is audited. A policy that is wrong costs no backup: then the data is
/// read.
fn reading(args: &BackupArgs, context: &Context, settings: &Settings, source: &SourceSettings) -> Reading {
    let policy = match settings.policy_of(source) {
        Ok(policy) => policy.map(|policy| policy.backup).unwrap_or_default(),
        Err(error) => {
            context.progress.warn(&format!("changed pages are found by reading: {}", error.summary()));
            BackupPolicy { changed_pages: ChangedPages::Read, ..BackupPolicy::default() }
        }
    };
    Reading { audit: args.audit, from_log: policy.changed_pages == ChangedPages::Log, audit_every: policy.audit }
}

/// With a policy, what it makes of `auto`; any other wish as it is.
async fn by_policy(wish: Wish, settings: &Settings, source: &SourceSettings, scope: &Scope) -> Result<Wish> {
    if wish != Wish::Auto {
        return Ok(wish);
    }
    let Some(policy) = settings.policy_of(source)? else { return Ok(wish) };
    Ok(Wish::ByPolicy(backup::auto::terms(scope, &policy, Timestamp::now()).await?))
}

async fn dry_run(
    args: &BackupArgs,
    context: &Context,
    settings: &Settings,
    source: &SourceSettings,
    repositories: &[&RepositorySettings],
    mut options: BackupOptions,
) -> Result<Outcome> {
    // Found now rather than when the backup is due.
    scope::writing(settings)?;
    let (chosen, scope, _) = first_that_answers(args, context, settings, repositories).await?;
    options.wish = by_policy(options.wish, settings, source, &scope).await?;
    let preview = tokio::select! {
        preview = backup::preview(&scope, &options) => preview?,
        () = context.cancel.cancelled() => return Err(Error::interrupted()),
    };
    preview.notes.iter().for_each(|note| context.progress.warn(note));
    let plans = vec![planned(&chosen.name, preview)];
    let others = repositories.iter().filter(|other| other.name != chosen.name).map(|other| other.name.clone());
    let document = Plans { source: source.name.to_string(), plans, copied_to: others.collect() };
    context.result("backup_plan", 1, &document, || plan_text(&document))?;
    Ok(Outcome::Done)
}

fn planned(repository: &str, preview: Preview) -> Planned {
    Planned {
        repository: repository.to_owned(),
        backup_type: preview.decision.backup_type,
        base: preview.decision.base.map(|base| base.id),
        reason: preview.decision.reason,
        detection: preview.detection.map(Detected::of),
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
    for Taken { repository, summary, reason, detection, read_bytes, .. } in &document.backups {
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
        let read = format_bytes(*read_bytes);
        lines.extend(detection.iter().map(|detection| ("pages", format!("{}; {read} read", detection.text()))));
        lines.extend(document.copies.iter().map(Copied::line));
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
        lines.extend(plan.detection.iter().map(|detection| ("pages", detection.text())));
        lines.extend(document.copied_to.iter().map(|other| ("copied to", other.clone())));
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
