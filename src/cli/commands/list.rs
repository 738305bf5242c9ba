//! `lifeboat list [SOURCE]`: backups and the moments they can bring back.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::base::units::format_bytes;
use crate::base::{BackupId, Engine, Result, SourceName, Timestamp};
use crate::cli::args::ListArgs;
use crate::cli::config::{RepositorySettings, Settings};
use crate::cli::context::Context;
use crate::cli::exit::Outcome;
use crate::cli::output::{Align, table};
use crate::cli::scope::{self, Use};
use crate::engine::list::{IncarnationSurvey, Survey, sources, survey};
use crate::engine::{Scope, head};
use crate::repo::BackupSummary;
use crate::repo::expiry::Standing;

/// The document `list`, version 1.
#[derive(Serialize)]
struct Document {
    repositories: Vec<Listed>,
}

#[derive(Serialize)]
struct Listed {
    repository: String,
    url: String,
    sources: Vec<Source>,
}

#[derive(Serialize)]
struct Source {
    source: String,
    incarnations: Vec<Incarnation>,
    /// Commit entries and marks that are not used, and why.
    problems: Vec<String>,
}

#[derive(Serialize)]
struct Incarnation {
    incarnation: String,
    /// `postgres`, `sqlite` or `directory`.
    kind: Engine,
    backups: Vec<Backup>,
    timelines: Vec<Timeline>,
    segments: usize,
    log_stored_bytes: u64,
    split_brains: Vec<String>,
}

#[derive(Serialize)]
struct Backup {
    /// Whether its own log is archived whole.
    restorable: bool,
    /// The mark that has it go, when there is one.
    marked: Option<Marked>,
    #[serde(flatten)]
    summary: BackupSummary,
}

#[derive(Serialize)]
struct Marked {
    mark: String,
    /// From when on `expire` may carry it out.
    due: Timestamp,
}

#[derive(Serialize)]
struct Timeline {
    timeline: u32,
    branched_from: Option<u32>,
    branched_at_lsn: Option<String>,
    window: Vec<Interval>,
    problem: Option<String>,
}

#[derive(Serialize)]
struct Interval {
    from: Timestamp,
    to: Timestamp,
    /// Of a cluster's log alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    end_lsn: Option<String>,
    /// The segment that is not there after it, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    missing: Option<String>,
}

/// Lists what the repositories hold.
///
/// # Errors
/// When a repository does not answer or is not the one seen before.
pub async fn run(args: &ListArgs, context: &Context) -> Result<Outcome> {
    let settings = context.settings()?;
    let mut document = Document { repositories: Vec::new() };
    for chosen in repositories(args, context, &settings)? {
        let layers = scope::layers(context, chosen, Use::Brief);
        let repository = scope::open_repository(context, &settings, chosen, &layers).await?;
        let names: Vec<SourceName> = match &args.source {
            Some(source) => vec![source.clone()],
            None => sources(&repository).await?,
        };
        let mut listed = Vec::new();
        for name in names {
            let scope = Scope::new(repository.clone(), name, &settings.state_dir);
            let seen = head::look(&scope).await?;
            seen.warning.iter().for_each(|warning| context.progress.warn(warning));
            if let Some(wound_back) = &seen.wound_back {
                context.progress.warn(&format!("{} in repository {}: {}", scope.source, chosen.name, wound_back.text()));
            }
            listed.push(source(survey(&scope, &seen.log).await?));
        }
        document.repositories.push(Listed {
            repository: chosen.name.clone(),
            url: repository.store().url().to_owned(),
            sources: listed,
        });
    }
    context.result("list", 1, &document, || text(&document))?;
    Ok(Outcome::Done)
}

fn repositories<'a>(args: &ListArgs, context: &Context, settings: &'a Settings) -> Result<Vec<&'a RepositorySettings>> {
    let wanted = context.global.repository.as_deref();
    if let Some(name) = &args.source
        && let Ok(source) = settings.source(name)
    {
        return settings.repositories_of(source, wanted);
    }
    match wanted {
        Some(_) => Ok(vec![settings.repository(wanted)?]),
        None if settings.repositories.is_empty() => Ok(vec![settings.repository(None)?]),
        None => Ok(settings.repositories.values().collect()),
    }
}

fn source(survey: Survey) -> Source {
    Source {
        source: survey.source.to_string(),
        incarnations: survey.incarnations.into_iter().map(|of_one| incarnation(of_one, &survey.marks)).collect(),
        problems: survey.problems.into_iter().chain(survey.unused_marks).map(|(key, why)| format!("{key}: {why}")).collect(),
    }
}

fn incarnation(survey: IncarnationSurvey, marks: &BTreeMap<BackupId, Standing>) -> Incarnation {
    let (size, kind) = (survey.identity.segment_bytes, survey.identity.incarnation.engine());
    let of_cluster = |text: &dyn Fn() -> String| (kind == Engine::Postgres).then(text);
    let windows = || survey.timelines.iter().filter_map(|timeline| timeline.window.as_ref().ok());
    let restorable = |backup: &BackupSummary| {
        windows().flat_map(|window| &window.intervals).any(|interval| interval.backups.contains(&backup.id))
    };
    let marked = |id: &BackupId| marks.get(id).map(|mark| Marked { mark: mark.mark.clone(), due: mark.due });
    let listed =
        |backup: &BackupSummary| Backup { restorable: restorable(backup), marked: marked(&backup.id), summary: backup.clone() };
    let backups = survey.backups.iter().map(listed).collect();
    let timelines = survey.timelines.iter().map(|timeline| Timeline {
        timeline: timeline.timeline.0,
        branched_from: timeline.branched.map(|(parent, _)| parent.0),
        branched_at_lsn: timeline.branched.map(|(_, lsn)| lsn.to_string()),
        window: timeline
            .window
            .iter()
            .flat_map(|window| &window.intervals)
            .map(|interval| Interval {
                from: interval.from,
                to: interval.to,
                end_lsn: of_cluster(&|| interval.end_lsn.to_string()),
                missing: of_cluster(&|| interval.missing.name(size)),
            })
            .collect(),
        problem: timeline.window.as_ref().err().cloned(),
    });
    Incarnation {
        timelines: timelines.collect(),
        backups,
        segments: survey.segments,
        log_stored_bytes: survey.log_stored_bytes,
        split_brains: survey.split_brains.iter().map(|split| format!("{}: {}", split.file, split.digests.join(", "))).collect(),
        incarnation: survey.identity.incarnation.to_string(),
        kind,
    }
}

fn text(document: &Document) -> String {
    let mut text = String::new();
    for listed in &document.repositories {
        if listed.sources.is_empty() {
            text += &format!("repository {} at {} holds no source yet\n", listed.repository, listed.url);
        }
        for source in &listed.sources {
            if !text.is_empty() {
                text.push('\n');
            }
            text += &source_text(source, &listed.repository);
        }
    }
    text
}

fn source_text(source: &Source, repository: &str) -> String {
    let mut text = String::new();
    if source.incarnations.is_empty() {
        text += &format!("{} in repository {repository}: nothing yet\n", source.source);
    }
    for incarnation in &source.incarnations {
        text += &format!("{} in repository {repository} ({})\n", source.source, incarnation.incarnation);
        let rows: Vec<Vec<String>> = incarnation.backups.iter().map(row).collect();
        if rows.is_empty() {
            text += "  no backup: nothing can be restored\n";
        } else {
            let columns = [
                ("backup", Align::Left),
                ("base", Align::Left),
                ("ended", Align::Left),
                ("size", Align::Right),
                ("stored", Align::Right),
                ("", Align::Left),
            ];
            text += &indented(&table(&columns, &rows));
        }
        text += &marks_text(&incarnation.backups);
        text += &window_text(incarnation);
        for split in &incarnation.split_brains {
            text += &format!("  split brain: {split}\n");
        }
    }
    source.problems.iter().for_each(|problem| text += &format!("  not used: {problem}\n"));
    text
}

/// The backups that are to go, by the time from which on they may: no column of the table has room for it.
fn marks_text(backups: &[Backup]) -> String {
    let mut by_due: BTreeMap<Timestamp, Vec<&BackupId>> = BTreeMap::new();
    for backup in backups {
        if let Some(marked) = &backup.marked {
            by_due.entry(marked.due).or_default().push(&backup.summary.id);
        }
    }
    let mut text = String::new();
    for (due, ids) in by_due {
        text += &format!("  marked to be expired; may go from {} on\n", due.human_seconds());
        ids.iter().for_each(|id| text += &format!("    {id}\n"));
    }
    text
}

/// What a backup builds on, by the letters that end its id: a whole id more would not fit on a line.
fn base(summary: &BackupSummary) -> &str {
    let id = summary.base.as_ref().map(BackupId::as_str);
    id.map_or("", |id| id.rsplit('-').next().unwrap_or(id))
}

fn row(backup: &Backup) -> Vec<String> {
    let summary = &backup.summary;
    let mut state = Vec::new();
    if !backup.restorable {
        state.push("log missing".to_owned());
    }
    match (summary.bad_pages, summary.incarnation.engine()) {
        (0, _) => {}
        (count, Engine::Directory) => state.push(format!("{count} not whole")),
        (count, _) => state.push(format!("{count} bad pages")),
    }
    let ended = moment(summary.stop_time, summary.incarnation.engine());
    vec![
        summary.id.to_string(),
        base(summary).to_owned(),
        ended.trim_end_matches(" UTC").to_owned(),
        format_bytes(summary.raw_bytes),
        format_bytes(summary.stored_bytes),
        state.join(", "),
    ]
}

/// The log, and what can be brought back with it.
fn window_text(incarnation: &Incarnation) -> String {
    let (segments, stored) = (incarnation.segments, format_bytes(incarnation.log_stored_bytes));
    let windows = || incarnation.timelines.iter().flat_map(|timeline| &timeline.window);
    match incarnation.kind {
        Engine::Postgres => {
            let log = format!("  log: {segments} segments, {stored} stored\n");
            log + &incarnation.timelines.iter().map(timeline_text).collect::<String>()
        }
        Engine::Sqlite if windows().next().is_none() => String::new(),
        Engine::Sqlite => {
            let log = if segments > 0 { format!("  log: {segments} pieces, {stored} stored\n") } else { String::new() };
            log + "  restores to\n" + &stretches(&windows().collect::<Vec<_>>())
        }
        Engine::Directory if incarnation.backups.is_empty() => String::new(),
        Engine::Directory => "  restores to the moments of its backups\n".to_owned(),
    }
}

/// Stretches and moments, told exactly, with what is not there between them.
fn stretches(all: &[&Interval]) -> String {
    let mut text = String::new();
    for (index, Interval { from, to, .. }) in all.iter().enumerate() {
        let is_moment = from == to;
        text += &match is_moment {
            true => format!("    {}\n", from.human()),
            false => format!("    {} to {}\n", from.human().trim_end_matches(" UTC"), to.human()),
        };
        if !is_moment && index + 1 < all.len() {
            text += "    gap: its commits were not followed without a break\n";
        }
    }
    text
}

/// A moment as it may be typed after `--to`. What has no server's log comes back at captured moments alone, which are told
/// exactly.
fn moment(time: Timestamp, engine: Engine) -> String {
    if engine == Engine::Postgres { time.human_seconds() } else { time.human() }
}

fn timeline_text(timeline: &Timeline) -> String {
    let mut text = match (timeline.branched_from, &timeline.branched_at_lsn) {
        (Some(parent), Some(lsn)) => format!("  timeline {} (from {parent} at {lsn}) restores to\n", timeline.timeline),
        _ => format!("  timeline {} restores to\n", timeline.timeline),
    };
    if let Some(problem) = &timeline.problem {
        return text + &format!("    nothing: {problem}\n");
    }
    if timeline.window.is_empty() {
        text += "    nothing: no backup on it whose log is archived\n";
    }
    for (index, interval) in timeline.window.iter().enumerate() {
        let (from, to) = (interval.from.human_seconds(), interval.to.human_seconds());
        text += &format!("    {} to {to}\n", from.trim_end_matches(" UTC"));
        if index + 1 < timeline.window.len() {
            text += &format!("    gap: {} is missing\n", interval.missing.as_deref().unwrap_or("a segment"));
        }
    }
    text
}

fn indented(block: &str) -> String {
    block.lines().map(|line| format!("  {line}\n")).collect()
}
