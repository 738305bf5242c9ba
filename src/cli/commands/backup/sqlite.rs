//! `lifeboat backup` of a SQLite database.

use std::time::Duration;

use serde::Serialize;

use super::copies::{self, Copied};
use super::{block, by_policy, first_that_answers, needed, wish};
use crate::base::units::{format_bytes, format_duration};
use crate::base::{BackupId, BackupType, Error, Result, Timestamp};
use crate::cli::args::{BackupArgs, CheckpointMode};
use crate::cli::config::{RepositorySettings, Settings, SourceSettings, SqliteSettings};
use crate::cli::context::Context;
use crate::cli::exit::Outcome;
use crate::cli::scope::{self, Use};
use crate::engine::head;
use crate::engine::lease::Terms;
use crate::engine::sqlite::backup::{self, BackupOptions, BackupReport, Preview};
use crate::repo::BackupSummary;
use crate::store::layer::metrics::Requests;

/// The document `backup`, version 1, of a SQLite database.
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
    /// Everything whose commit had returned by then is in it.
    complete_at: Timestamp,
    /// Nothing is in it that was committed later.
    captured_at: Timestamp,
    /// Whether commits after it can be followed.
    is_wal: bool,
    reason: Option<String>,
    /// Bytes read of the database.
    read_bytes: u64,
    warnings: Vec<String>,
    requests: Requests,
}

/// The document `backup_plan`, version 1, of a SQLite database.
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
    path: String,
    is_wal: bool,
    raw_bytes: u64,
}

/// Takes a backup in the first repository that answers and copies it to the others of the source, or with `--dry-run` says
/// what it would be.
///
/// # Errors
/// As [`super::run`].
pub(super) async fn run(
    args: &BackupArgs,
    context: &Context,
    settings: &Settings,
    source: &SourceSettings,
    sqlite: &SqliteSettings,
) -> Result<Outcome> {
    refuse_what_only_clusters_have(args)?;
    let repositories = settings.repositories_of(source, context.global.repository.as_deref())?;
    // Found now rather than when the backup is due.
    let writing = scope::writing(settings)?;
    let (chosen, scope, metrics) = first_that_answers(args, context, settings, &repositories).await?;
    let others: Vec<&RepositorySettings> = repositories.iter().copied().filter(|other| other.name != chosen.name).collect();
    let mut options = BackupOptions {
        wish: by_policy(wish(args), settings, source, &scope).await?,
        path: sqlite.path.clone(),
        workers: settings.backup.workers,
        pack_bytes: settings.backup.pack_size_bytes,
        lease: (!args.no_lease).then(|| Terms { wait: args.wait.unwrap_or_default(), ..Terms::new(settings.backup.lease_ttl) }),
        admit_in: Vec::new(),
    };
    if args.dry_run {
        let preview = backup::preview(&scope, &options).await?;
        return dry_run(context, source, chosen, &others, sqlite, preview);
    }
    let in_repository = |error: Error| error.context(format!("repository {}", chosen.name));
    let seen = head::look(&scope).await.map_err(in_repository)?;
    seen.warning.iter().for_each(|warning| context.progress.warn(warning));
    seen.trusted(&scope)?;
    for other in &others {
        let layers = scope::layers(context, other, Use::Brief);
        // Away, it is told of by what copies the backup there.
        options.admit_in.extend(scope::open(context, settings, other, &source.name, &layers).await.ok());
    }
    let report = backup::run(&scope, &writing, &options, context.progress.clone(), context.cancel.clone()).await;
    let BackupReport { summary, moment, is_wal, reason, warnings, read_bytes } = report.map_err(in_repository)?;
    warnings.iter().for_each(|warning| context.progress.warn(warning));
    let id = summary.id.clone();
    let taken = Taken {
        repository: chosen.name.clone(),
        summary,
        complete_at: moment.complete_at,
        captured_at: moment.captured_at,
        is_wal,
        reason,
        read_bytes,
        warnings,
        requests: metrics.requests(),
    };
    let needed = needed(context, settings, source);
    let copies = copies::spread(context, settings, source, others.into_iter(), &id, needed).await?;
    let held = 1 + copies.iter().filter(|copy| copy.held).count();
    let document = Document { source: source.name.to_string(), backups: vec![taken], copies };
    context.result("backup", 1, &document, || text(&document))?;
    match held < needed.min(1 + document.copies.len()) {
        true => Err(copies::too_few(&document.source, &id, held, needed)),
        false => Ok(Outcome::Done),
    }
}

/// Options that a database file has no use for.
fn refuse_what_only_clusters_have(args: &BackupArgs) -> Result<()> {
    let named = [("--audit", args.audit), ("--checkpoint spread", args.checkpoint == CheckpointMode::Spread)];
    match named.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((option, _)) => Err(Error::usage(format!("{} is a SQLite database", args.source))
            .detail("not for it", format!("{option} is for PostgreSQL clusters; every page is compared anyway"))),
    }
}

fn dry_run(
    context: &Context,
    source: &SourceSettings,
    chosen: &RepositorySettings,
    others: &[&RepositorySettings],
    sqlite: &SqliteSettings,
    preview: Preview,
) -> Result<Outcome> {
    let Preview { backup_type, base, reason, is_wal, raw_bytes } = preview;
    let path = sqlite.path.display().to_string();
    let planned = Planned { repository: chosen.name.clone(), backup_type, base, reason, path, is_wal, raw_bytes };
    let copied_to = others.iter().map(|other| other.name.clone()).collect();
    let document = Plans { source: source.name.to_string(), plans: vec![planned], copied_to };
    context.result("backup_plan", 1, &document, || plan_text(&document))?;
    Ok(Outcome::Done)
}

fn text(document: &Document) -> String {
    let mut text = String::new();
    for Taken { repository, summary, complete_at, captured_at, reason, .. } in &document.backups {
        let stored = format!("{} in {} packs", format_bytes(summary.stored_bytes), summary.packs);
        let took = Duration::try_from_secs_f64(summary.duration_seconds).unwrap_or_default();
        let mut lines = vec![("repository", repository.clone())];
        lines.extend(summary.base.iter().map(|base| ("builds on", base.to_string())));
        lines.extend([
            ("restores to", captured_at.human()),
            ("complete", format!("every commit acknowledged by {} is in it", complete_at.human())),
            ("holds", format!("a database of {}", format_bytes(summary.raw_bytes))),
            ("stored", if summary.encrypted { stored } else { format!("{stored}, not encrypted") }),
            ("took", format_duration(took)),
        ]);
        lines.extend(document.copies.iter().map(Copied::line));
        lines.extend(reason.clone().map(|reason| ("note", reason)));
        text += &block(&format!("{} backup {} of {}", summary.backup_type, summary.id, document.source), &lines);
    }
    text
}

fn plan_text(document: &Plans) -> String {
    let mut text = String::new();
    for plan in &document.plans {
        let mut lines = vec![("repository", plan.repository.clone())];
        lines.extend(plan.base.iter().map(|base| ("builds on", base.to_string())));
        let journal = if plan.is_wal { "a write-ahead log" } else { "a rollback journal: its commits cannot be followed" };
        lines.extend([
            ("reads", format!("{}, {}", plan.path, format_bytes(plan.raw_bytes))),
            ("journal", journal.to_owned()),
        ]);
        lines.extend(document.copied_to.iter().map(|other| ("copied to", other.clone())));
        lines.extend(plan.reason.clone().map(|reason| ("note", reason)));
        let article = if plan.backup_type == BackupType::Incr { "an" } else { "a" };
        text += &block(&format!("would take {article} {} backup of {}", plan.backup_type, document.source), &lines);
    }
    text
}
