//! `lifeboat run --list`: the last runs on this host, the next ones, and what was missed; read from this host alone.

use std::collections::BTreeMap;

use serde::Serialize;

use super::expected::timetable;
use super::followed;
use super::lane::{BACKUPS, DRILLS, blocked, known_before};
use super::lock::is_streaming;
use crate::base::{Job, Result, SourceName, Timestamp};
use crate::cli::config::{Settings, SourceKind};
use crate::cli::context::Context;
use crate::cli::exit::Outcome;
use crate::cli::output::{Align, table};
use crate::policy::{LogMode, Policy};
use crate::repo::run_record::{self, Event, Line};

/// Errors longer than this are cut in the table's lines.
const ERROR_CHARACTERS: usize = 76;

/// The document `run_list`, version 1.
#[derive(Serialize)]
struct Document {
    /// Whether a scheduler works with this state directory.
    running: bool,
    /// Whether it lets backups go.
    expires: bool,
    jobs: Vec<Row>,
    /// Sources whose log is streamed.
    streams: Vec<StreamRow>,
    /// Sources whose policy is refused: nothing is scheduled for them.
    refused: Vec<Refused>,
}

#[derive(Serialize)]
struct StreamRow {
    source: SourceName,
    /// The replication slot of a cluster's.
    #[serde(skip_serializing_if = "Option::is_none")]
    slot: Option<String>,
    /// Whether a scheduler's stream is at work on this host.
    running: bool,
}

#[derive(Serialize)]
struct Refused {
    source: SourceName,
    error: String,
}

#[derive(Serialize)]
struct Row {
    source: SourceName,
    job: Job,
    schedule: String,
    timezone: String,
    /// The last run on this host.
    last: Option<Last>,
    /// The next run: in the past while one is due.
    next: Option<Timestamp>,
    /// Why it cannot be started.
    blocked: Option<String>,
    /// Times that nobody ran, as far as the record goes back.
    missed: u64,
    /// The last of them.
    last_missed: Option<Timestamp>,
}

#[derive(Serialize)]
struct Last {
    slot: Timestamp,
    began: Timestamp,
    /// None while it runs, or when the scheduler died meanwhile.
    ended: Option<Timestamp>,
    exit_code: Option<i32>,
    error: Option<String>,
}

/// Shows what the scheduler of this host did and will do.
///
/// # Errors
/// Usage errors in the configuration, and in the policies when all are refused; when the record cannot be read.
pub(super) fn run(context: &Context) -> Result<Outcome> {
    let settings = context.settings()?;
    let lines = run_record::read(&settings.state_dir)?;
    let running = run_record::is_held(&settings.state_dir);
    let expires = settings.run.expire_key_file.is_some();
    let (policies, refused) = followed(&settings)?;
    let now = Timestamp::now();
    let jobs = policies.iter().flat_map(|(source, policy)| rows(&settings, source, policy, &lines, now)).collect();
    let streams = streams(&settings, &policies);
    let refused = refused.into_iter().map(|(source, error)| Refused { source, error: error.summary() }).collect();
    let document = Document { running, expires, jobs, streams, refused };
    context.result("run_list", 1, &document, || text(&document))?;
    Ok(Outcome::Done)
}

fn streams(settings: &Settings, policies: &BTreeMap<SourceName, Policy>) -> Vec<StreamRow> {
    let streamed = policies.iter().filter(|(_, policy)| policy.log.mode == LogMode::Stream);
    let row = |(source, _): (&SourceName, &Policy)| {
        let slot = match &settings.sources.get(source)?.kind {
            SourceKind::Postgres(postgres) => Some(postgres.slot.clone()),
            SourceKind::Sqlite(_) => None,
            SourceKind::Directory(_) => return None,
        };
        Some(StreamRow { source: source.clone(), slot, running: is_streaming(&settings.state_dir, source) })
    };
    streamed.filter_map(row).collect()
}

fn rows(settings: &Settings, source: &SourceName, policy: &Policy, lines: &[Line], now: Timestamp) -> Vec<Row> {
    let timetable = timetable(settings, policy, &[BACKUPS, DRILLS].concat());
    let known = known_before(lines, source);
    let row = |job: Job| {
        let own = || lines.iter().filter(move |line| line.source == *source && line.job == job);
        let missed = || {
            own().filter_map(|line| if let Event::Missed { count, last, .. } = line.event { Some((count, last)) } else { None })
        };
        Some(Row {
            source: source.clone(),
            job,
            schedule: timetable.line(job)?.to_string(),
            timezone: timetable.zone().to_string(),
            last: own().rev().find_map(last),
            next: known.pending(&timetable, job, now),
            blocked: blocked(lines, source, job).map(str::to_owned),
            missed: missed().map(|(count, _)| u64::from(count)).sum(),
            last_missed: missed().map(|(_, last)| last).max(),
        })
    };
    timetable.jobs().filter_map(row).collect()
}

fn last(line: &Line) -> Option<Last> {
    let slot = line.slot;
    match &line.event {
        Event::Started { .. } => Some(Last { slot, began: line.time, ended: None, exit_code: None, error: None }),
        Event::Ended { began, exit_code, error, .. } => {
            Some(Last { slot, began: *began, ended: Some(line.time), exit_code: *exit_code, error: error.clone() })
        }
        Event::Elsewhere | Event::Missed { .. } | Event::Blocked { .. } | Event::Unblocked => None,
    }
}

fn text(document: &Document) -> String {
    if document.jobs.is_empty() && document.refused.is_empty() {
        return "no source has a policy: nothing is scheduled\n".to_owned();
    }
    let columns = [
        ("source", Align::Left),
        ("job", Align::Left),
        ("last", Align::Left),
        ("", Align::Left),
        ("next", Align::Left),
        ("missed", Align::Right),
    ];
    // Seconds, and the zone said once below: a line stays under 80 columns.
    let short = |moment: Timestamp| moment.human_seconds().trim_end_matches(" UTC").to_owned();
    let cells = |row: &Row| {
        let outcome = match &row.last {
            _ if row.blocked.is_some() => "blocked",
            None => "",
            Some(Last { ended: None, .. }) if document.running => "runs",
            Some(Last { ended: None, .. }) => "died",
            Some(Last { exit_code: Some(0), .. }) => "ok",
            Some(Last { exit_code: Some(130), .. }) => "stopped",
            Some(_) => "failed",
        };
        let last = row.last.as_ref().map(|last| short(last.began)).unwrap_or_default();
        let next = row.next.map_or("never".to_owned(), short);
        vec![row.source.to_string(), row.job.to_string(), last, outcome.to_owned(), next, row.missed.to_string()]
    };
    let mut text = table(&columns, &document.jobs.iter().map(cells).collect::<Vec<_>>());
    for row in &document.jobs {
        let of_last = row.last.as_ref().and_then(|last| last.error.as_deref());
        if let Some(error) = row.blocked.as_deref().or(of_last) {
            let line: String = format!("  {} {}: {error}", row.source, row.job).chars().take(ERROR_CHARACTERS).collect();
            text += &format!("{line}\n");
        }
    }
    text += "times are UTC\n";
    for StreamRow { source, slot, running } in &document.streams {
        let what = if *running { "is streamed" } else { "is not streamed by this host now" };
        let slot = slot.as_ref().map(|slot| format!(" (slot {slot})")).unwrap_or_default();
        text += &format!("the log of {source} {what}{slot}\n");
    }
    for Refused { source, error } in &document.refused {
        text += &format!("not scheduled: {source}: {error}\n");
    }
    if !document.running {
        text += "no scheduler runs with this state directory: lifeboat run\n";
    }
    if !document.expires {
        text += "backups are not let go here; what is due: lifeboat expire SOURCE --dry-run\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_blocked_until_it_is_told_that_it_is_not() {
        let (source, at): (SourceName, _) = ("orders".parse().unwrap(), Timestamp::parse_compact("20261120T000000Z").unwrap());
        let line = |event| Line { time: at, source: source.clone(), job: Job::Full, slot: at, event };
        let mut lines = vec![line(Event::Elsewhere), line(Event::Blocked { error: "no answer".to_owned() })];
        assert_eq!(blocked(&lines, &source, Job::Full), Some("no answer"));
        assert_eq!(blocked(&lines, &source, Job::Incr), None);
        lines.push(line(Event::Unblocked));
        assert_eq!(blocked(&lines, &source, Job::Full), None);
    }
}
