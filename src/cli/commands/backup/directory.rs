//! `lifeboat backup` of a directory.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::copies::{self, Copied};
use super::{block, by_policy, first_that_answers, needed, wish};
use crate::base::units::{format_bytes, format_duration};
use crate::base::{BackupId, BackupType, Error, Result};
use crate::cli::args::{BackupArgs, CheckpointMode, PageErrors};
use crate::cli::config::{DirectorySettings, RepositorySettings, Settings, SourceSettings};
use crate::cli::context::Context;
use crate::cli::exit::Outcome;
use crate::cli::scope::{self, Use};
use crate::engine::directory::backup::{self, BackupOptions, BackupReport};
use crate::engine::directory::{Preview, preview};
use crate::engine::head;
use crate::engine::lease::Terms;
use crate::repo::BackupSummary;
use crate::source::directory::scan::Tally;
use crate::store::layer::metrics::Requests;

/// The document `backup`, version 1, of a directory.
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
    files: Files,
    /// Bytes read of files.
    read_bytes: u64,
    /// What is not whole in the backup, the first of it by name.
    not_whole: NotWhole,
    warnings: Vec<String>,
    requests: Requests,
}

/// What was met in the directory.
#[derive(Serialize)]
struct Files {
    /// Entries that are as the base has them, and were not read.
    kept: u64,
    /// Files that were read.
    read: u64,
    /// Further names of files.
    hard_links: u64,
    /// Directories, links, pipes and devices that were stored.
    others: u64,
    /// Entries of the base that are gone.
    gone: u64,
    /// What has no entry: excluded, sockets, removed meanwhile.
    left_out: u64,
    /// Directories of other file systems, stored empty.
    other_file_systems: u64,
}

impl Files {
    fn of(tally: Tally) -> Self {
        let Tally { kept, read, linked, stored, left, gone, other_file_systems, .. } = tally;
        Self { kept, read, hard_links: linked, others: stored, gone, left_out: left, other_file_systems }
    }

    fn line(&self) -> String {
        let Self { kept, read, gone, .. } = self;
        format!("{read} read, {kept} kept, {gone} gone")
    }
}

#[derive(Serialize)]
struct NotWhole {
    count: u64,
    first: Vec<String>,
}

/// The document `backup_plan`, version 1, of a directory.
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
    files: Files,
    /// Bytes in all files, each counted once, holes included.
    file_bytes: u64,
    /// Bytes in those that would be read.
    read_bytes: u64,
    not_whole: NotWhole,
    warnings: Vec<String>,
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
    directory: &DirectorySettings,
) -> Result<Outcome> {
    refuse_what_only_clusters_have(args)?;
    let repositories = settings.repositories_of(source, context.global.repository.as_deref())?;
    let mut options = options(args, context, settings, directory);
    // Found now rather than when the backup is due.
    let writing = scope::writing(settings)?;
    let (chosen, scope, metrics) = first_that_answers(args, context, settings, &repositories).await?;
    options.wish = by_policy(options.wish, settings, source, &scope).await?;
    let others: Vec<&RepositorySettings> = repositories.iter().copied().filter(|other| other.name != chosen.name).collect();
    if args.dry_run {
        let preview = preview(&scope, &options, &context.cancel).await?;
        return dry_run(context, source, chosen, &others, directory, preview);
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
    let BackupReport { summary, reason, warnings, tally, trouble, read_bytes } = report.map_err(in_repository)?;
    warnings.iter().for_each(|warning| context.progress.warn(warning));
    let id = summary.id.clone();
    let taken = Taken {
        repository: chosen.name.clone(),
        summary,
        reason,
        files: Files::of(tally),
        read_bytes,
        not_whole: NotWhole { count: trouble.count, first: trouble.first },
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

/// Options that a directory has no use for.
fn refuse_what_only_clusters_have(args: &BackupArgs) -> Result<()> {
    let named = [("--audit", args.audit), ("--checkpoint spread", args.checkpoint == CheckpointMode::Spread)];
    match named.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((option, _)) => Err(Error::usage(format!("{} is a directory", args.source))
            .detail("not for it", format!("{option} is for PostgreSQL clusters"))
            .hint(format!("lifeboat backup {} --type full   reads everything", args.source))),
    }
}

fn options(args: &BackupArgs, context: &Context, settings: &Settings, directory: &DirectorySettings) -> BackupOptions {
    // Most hosts have none, which is as it should be.
    let identities = match settings.encryption.identity_files.is_empty() {
        true => Vec::new(),
        false => settings.encryption.identities().unwrap_or_else(|error| {
            context.progress.warn(&format!("the identity is not used: {}", error.summary()));
            Vec::new()
        }),
    };
    let local = settings.repositories.values().filter_map(|repository| repository.url.strip_prefix("file://"));
    let own_places = local.map(PathBuf::from).chain([settings.state_dir.clone()]).collect();
    BackupOptions {
        wish: wish(args),
        path: directory.path.clone(),
        exclude: directory.exclude.clone(),
        own_places,
        one_file_system: directory.one_file_system,
        fail_on_trouble: args.page_errors == PageErrors::Fail,
        workers: settings.backup.workers,
        pack_bytes: settings.backup.pack_size_bytes,
        lease: (!args.no_lease).then(|| Terms { wait: args.wait.unwrap_or_default(), ..Terms::new(settings.backup.lease_ttl) }),
        admit_in: Vec::new(),
        identities,
    }
}

fn dry_run(
    context: &Context,
    source: &SourceSettings,
    chosen: &RepositorySettings,
    others: &[&RepositorySettings],
    directory: &DirectorySettings,
    preview: Preview,
) -> Result<Outcome> {
    let Preview { decision, notes, tally, read_bytes, trouble } = preview;
    notes.iter().for_each(|note| context.progress.warn(note));
    let planned = Planned {
        repository: chosen.name.clone(),
        backup_type: decision.backup_type,
        base: decision.base.map(|base| base.id),
        reason: decision.reason,
        path: directory.path.display().to_string(),
        files: Files::of(tally),
        file_bytes: tally.file_bytes,
        read_bytes,
        not_whole: NotWhole { count: trouble.count, first: trouble.first },
        warnings: notes,
    };
    let copied_to = others.iter().map(|other| other.name.clone()).collect();
    let document = Plans { source: source.name.to_string(), plans: vec![planned], copied_to };
    context.result("backup_plan", 1, &document, || plan_text(&document))?;
    Ok(Outcome::Done)
}

fn text(document: &Document) -> String {
    let mut text = String::new();
    for Taken { repository, summary, reason, files, read_bytes, not_whole, .. } in &document.backups {
        let stored = format!("{} in {} packs", format_bytes(summary.stored_bytes), summary.packs);
        let took = Duration::try_from_secs_f64(summary.duration_seconds).unwrap_or_default();
        let mut lines = vec![("repository", repository.clone())];
        lines.extend(summary.base.iter().map(|base| ("builds on", base.to_string())));
        lines.extend([
            ("restores to", summary.stop_time.human()),
            ("holds", format!("{} in {} files and directories", format_bytes(summary.raw_bytes), summary.entries)),
            ("files", format!("{}; {} read", files.line(), format_bytes(*read_bytes))),
            ("stored", if summary.encrypted { stored } else { format!("{stored}, not encrypted") }),
            ("took", format_duration(took)),
        ]);
        lines.extend((not_whole.count > 0).then(|| ("not whole", format!("{}, named above", not_whole.count))));
        lines.extend(document.copies.iter().map(Copied::line));
        lines.extend(reason.clone().map(|reason| ("note", reason)));
        text += &block(&format!("{} backup {} of {}", summary.backup_type, summary.id, document.source), &lines);
    }
    text
}

fn plan_text(document: &Plans) -> String {
    let mut text = String::new();
    for plan in &document.plans {
        let (all, read) = (format_bytes(plan.file_bytes), format_bytes(plan.read_bytes));
        let mut lines = vec![("repository", plan.repository.clone())];
        lines.extend(plan.base.iter().map(|base| ("builds on", base.to_string())));
        lines.extend([("reads", plan.path.clone()), ("files", format!("{}; {read} of {all} to read", plan.files.line()))]);
        lines.extend(plan.not_whole.first.iter().map(|what| ("not whole", what.clone())));
        lines.extend(document.copied_to.iter().map(|other| ("copied to", other.clone())));
        lines.extend(plan.reason.clone().map(|reason| ("note", reason)));
        let article = if plan.backup_type == BackupType::Incr { "an" } else { "a" };
        text += &block(&format!("would take {article} {} backup of {}", plan.backup_type, document.source), &lines);
    }
    text
}
