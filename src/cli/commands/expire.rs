//! `lifeboat expire SOURCE`: marks, withdrawals, what is due, and what crashed backups left.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::base::units::format_bytes;
use crate::base::{BackupId, Error, Result, Timestamp};
use crate::cli::args::ExpireArgs;
use crate::cli::config::Settings;
use crate::cli::context::Context;
use crate::cli::exit::Outcome;
use crate::cli::scope::{self, Use};
use crate::engine::Scope;
use crate::engine::expire::mark::{self, Marked};
use crate::engine::expire::orphans::{self, Orphan};
use crate::engine::expire::run::{self as carry_out, LogAccount, Report};
use crate::engine::expire::{Fate, Verdict};
use crate::engine::lease::Terms;
use crate::repo::Signer;

/// The document `expire`, version 1.
#[derive(Serialize)]
struct Document {
    source: String,
    dry_run: bool,
    repositories: Vec<Part>,
}

/// What was done in one repository, or would be.
#[derive(Default, Serialize)]
struct Part {
    repository: String,
    marked: Option<Marking>,
    withdrawn: Option<Withdrawing>,
    carried_out: Option<Report>,
    orphans: Option<Vec<Orphan>>,
}

#[derive(Serialize)]
struct Marking {
    /// The mark's name; none when nothing was to be done.
    mark: Option<String>,
    backups: Vec<BackupId>,
    due: Timestamp,
    /// Backups that were marked before.
    standing: Vec<StandingMark>,
}

#[derive(Serialize)]
struct StandingMark {
    backup: BackupId,
    due: Timestamp,
}

#[derive(Serialize)]
struct Withdrawing {
    /// The withdrawal's name; none when nothing was to be done.
    withdrawal: Option<String>,
    backups: Vec<BackupId>,
}

/// Marks, withdraws, carries out or sweeps, in every repository of the source.
///
/// # Errors
/// The first repository's that fails; running it again is harmless.
pub async fn run(args: &ExpireArgs, context: &Context) -> Result<Outcome> {
    let settings = context.settings()?;
    let source = settings.source(&args.source)?;
    let operator = match (&args.key, args.dry_run) {
        (Some(file), false) => Some(Signer::read(file)?),
        _ => None,
    };
    let mut document = Document { source: source.name.to_string(), dry_run: args.dry_run, repositories: Vec::new() };
    for chosen in settings.repositories_of(source, context.global.repository.as_deref())? {
        let in_repository = |error: Error| error.context(format!("repository {}", chosen.name));
        let layers = scope::layers(context, chosen, Use::Long { limit_rate_bytes: None });
        let scope = scope::open(context, &settings, chosen, &source.name, &layers).await?;
        let part = one_repository(args, context, &settings, &scope, operator.as_ref()).await.map_err(in_repository)?;
        document.repositories.push(Part { repository: chosen.name.clone(), ..part });
    }
    context.result("expire", 1, &document, || text(&document))?;
    Ok(Outcome::Done)
}

async fn one_repository(
    args: &ExpireArgs,
    context: &Context,
    settings: &Settings,
    scope: &Scope,
    operator: Option<&Signer>,
) -> Result<Part> {
    let mut part = Part::default();
    if args.orphans {
        let terms = Terms { wait: args.wait.unwrap_or_default(), ..Terms::new(settings.backup.lease_ttl) };
        let acting = operator.map(|operator| (operator, terms));
        let found = orphans::run(scope, acting, args.older_than, context.progress.clone(), &context.cancel).await?;
        part.orphans = Some(found);
        return Ok(part);
    }
    if args.withdraw {
        let done = mark::withdraw(scope, operator, &args.backups).await?;
        part.withdrawn = Some(Withdrawing { withdrawal: done.name, backups: done.backups });
        return Ok(part);
    }
    let mut only = BTreeSet::new();
    if !args.backups.is_empty() {
        let wish =
            mark::Wish { backups: args.backups.clone(), chain: args.chain, grace: args.grace, allow_none: args.allow_none };
        let Marked { name, backups, due, standing } = mark::mark(scope, operator, &wish).await?;
        let marks_something = !backups.is_empty();
        only.extend(standing.iter().map(|(id, _)| id.clone()));
        let standing = standing.into_iter().map(|(backup, due)| StandingMark { backup, due }).collect();
        part.marked = Some(Marking { mark: name, backups, due, standing });
        // A run that marks deletes nothing, however short the grace.
        if marks_something {
            return Ok(part);
        }
    }
    let wish = carry_out::Wish { only, allow_none: args.allow_none };
    let report = carry_out::run(scope, operator, &wish, context.progress.clone(), &context.cancel).await?;
    for (key, why) in &report.unused_marks {
        context.progress.warn(&format!("{key} is not used: {why}"));
    }
    part.carried_out = Some(report);
    Ok(part)
}

fn text(document: &Document) -> String {
    let mut text = String::new();
    for part in &document.repositories {
        text += &format!("{} in repository {}\n", document.source, part.repository);
        if let Some(marking) = &part.marked {
            text += &marking_text(marking, document);
        }
        if let Some(withdrawing) = &part.withdrawn {
            let would = if document.dry_run { "would stay" } else { "stays: its marks are withdrawn" };
            text += &lines(withdrawing.backups.iter().map(|id| format!("{id}  {would}")));
        }
        if let Some(report) = &part.carried_out {
            text += &report_text(report, document);
        }
        if let Some(orphans) = &part.orphans {
            text += &orphans_text(orphans, document.dry_run);
        }
    }
    text
}

fn marking_text(marking: &Marking, document: &Document) -> String {
    let mut text = String::new();
    let would = if document.dry_run { "would be marked" } else { "is marked" };
    let due = marking.due.human_seconds();
    text += &lines(marking.backups.iter().map(|id| format!("{id}  {would}, and may go from {due} on")));
    let before = |standing: &StandingMark| {
        format!("{}  was marked before, and may go from {} on", standing.backup, standing.due.human_seconds())
    };
    text += &lines(marking.standing.iter().map(before));
    if !marking.backups.is_empty() && !document.dry_run {
        text += "  nothing is deleted yet\n";
        text += &format!("  to carry it out then:  lifeboat expire {} --key FILE\n", document.source);
        let first = &marking.backups[0];
        text += &format!("  to keep it after all:  lifeboat expire {} --backup {first} --withdraw --key FILE\n", document.source);
    }
    text
}

fn report_text(report: &Report, document: &Document) -> String {
    let verdict = |verdict: &Verdict| {
        let fate = match (verdict.fate, document.dry_run) {
            (Fate::Kept, _) => "kept    ",
            (Fate::Pending, _) => "pending ",
            (Fate::Expired, false) => "expired ",
            (Fate::Expired, true) => "would go",
        };
        format!("{fate}  {}: {}", verdict.id, verdict.why)
    };
    let mut text = lines(report.backups.iter().map(verdict));
    let done = if document.dry_run { "would be deleted" } else { "deleted" };
    if report.deleted_backup_objects > 0 {
        let bytes = format_bytes(report.deleted_backup_bytes);
        text += &format!("  backups: {} objects, {bytes}, {done}\n", report.deleted_backup_objects);
    }
    text += &lines(report.logs.iter().map(|log| log_text(log, done)));
    text += &lines(report.notes.iter().cloned());
    if report.backups.is_empty() {
        text += "  there is no backup\n";
    }
    text
}

fn log_text(log: &LogAccount, done: &str) -> String {
    let LogAccount { incarnation, floor_lsn, deleted_objects, deleted_bytes, kept_objects, .. } = log;
    let why = match &log.needed_by {
        Some(id) => format!("{id} needs it from {floor_lsn} on"),
        None => format!("nothing needs what lies before {floor_lsn}"),
    };
    let bytes = format_bytes(*deleted_bytes);
    let mut text = format!("log of {incarnation}: {deleted_objects} objects, {bytes}, {done}; {kept_objects} kept: {why}");
    if let Some(until) = log.locked_until {
        text += &format!("; {} of them only because they are locked until {}", log.locked_objects, until.human_seconds());
    }
    text
}

fn orphans_text(orphans: &[Orphan], dry_run: bool) -> String {
    if orphans.is_empty() {
        return "  no backup was left unfinished\n".to_owned();
    }
    let line = |orphan: &Orphan| {
        let fate = match (orphan.removed, dry_run) {
            (true, false) => "removed ",
            (true, true) => "would go",
            (false, _) => "kept    ",
        };
        let host = orphan.host.as_deref().unwrap_or("unknown host");
        let bytes = format_bytes(orphan.stored_bytes);
        let why = match (orphan.removed, orphan.locked_until) {
            (true, _) => String::new(),
            (false, Some(until)) => format!(": it is locked until {}", until.human_seconds()),
            (false, None) => ": it may be in flight, or be gone on with".to_owned(),
        };
        let last = orphan.last_written.human_seconds();
        format!("{fate}  {} ({host}, {} objects, {bytes}, last written {last}){why}", orphan.id, orphan.objects)
    };
    lines(orphans.iter().map(line))
}

/// Each indented, on a line of its own.
fn lines(items: impl Iterator<Item = String>) -> String {
    items.map(|item| format!("  {item}\n")).collect()
}
