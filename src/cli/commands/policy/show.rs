//! `lifeboat policy show FILE|NAME`: a policy with every default filled in, and the next runs of its schedule.

use std::time::Duration;

use chrono::DateTime;
use chrono_tz::Tz;
use serde::Serialize;

use super::{place, shown, typed};
use crate::base::units::format_bytes;
use crate::base::{DrillLevel, Result, Timestamp};
use crate::cli::args::PolicyShowArgs;
use crate::cli::context::Context;
use crate::cli::exit::Outcome;
use crate::cli::output::{Align, table};
use crate::policy::Policy;
use crate::policy::contradictions::{Severity, contradictions, time};

/// So many runs of each job are shown.
const RUNS: usize = 5;

/// The document `policy_show`, version 1.
#[derive(Serialize)]
struct Document {
    policy: String,
    file: Option<String>,
    objectives: Objectives,
    schedule: Schedule,
    log: Log,
    backup: Backup,
    retention: Retention,
    copies: Copies,
    drill: Drill,
    runs: Vec<Run>,
    refused: usize,
    warnings: usize,
}

#[derive(Serialize)]
struct Objectives {
    rto_seconds: f64,
    rpo_seconds: f64,
    detection_seconds: f64,
    drill_max_age_seconds: f64,
}

#[derive(Serialize)]
struct Schedule {
    timezone: String,
    full: Option<String>,
    diff: Option<String>,
    incr: Option<String>,
    verify: Option<String>,
    drill: Option<String>,
}

#[derive(Serialize)]
struct Log {
    mode: &'static str,
    max_lag_seconds: f64,
}

#[derive(Serialize)]
struct Backup {
    changed_pages: &'static str,
    audit_seconds: f64,
}

#[derive(Serialize)]
struct Retention {
    window_seconds: f64,
    keep_chains: u32,
    keep_for_seconds: Option<f64>,
    daily: u32,
    weekly: u32,
    monthly: u32,
    yearly: u32,
    legal_minimum_seconds: Option<f64>,
    thin_log: bool,
}

#[derive(Serialize)]
struct Copies {
    /// None: all.
    log: Option<usize>,
    backup: Option<usize>,
    /// Empty: those of the source.
    repositories: Vec<String>,
    locked: Vec<String>,
    thaw_seconds: Option<f64>,
}

#[derive(Serialize)]
struct Drill {
    levels: Vec<DrillLevel>,
    checks: Vec<Check>,
    limit_rate_bytes: Option<u64>,
}

#[derive(Serialize)]
struct Check {
    name: String,
    database: String,
    sql: String,
    expect: String,
}

#[derive(Serialize)]
struct Run {
    job: &'static str,
    /// With the zone's offset, RFC 3339.
    local: String,
    time: Timestamp,
}

/// Shows one policy.
///
/// # Errors
/// When it cannot be read. One that contradicts itself is shown, and said to be refused.
pub fn run(args: &PolicyShowArgs, context: &Context) -> Result<Outcome> {
    let (policy, file) = typed(context, &args.policy)?;
    let now = Timestamp::now();
    let findings = contradictions(&policy, now);
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let (refused, warnings) = (count(Severity::Refused), count(Severity::Warned));
    let document = document(&args.policy, shown(file), &policy, now, refused, warnings);
    context.result("policy_show", 1, &document, || text(&document, &policy))?;
    Ok(Outcome::Done)
}

fn document(name: &str, file: Option<String>, policy: &Policy, now: Timestamp, refused: usize, warnings: usize) -> Document {
    let Policy { objectives, schedule, log, backup, retention, copies, drill, .. } = policy;
    let line = |cron: &Option<_>| cron.as_ref().map(ToString::to_string);
    let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
    Document {
        policy: name.to_owned(),
        file,
        objectives: Objectives {
            rto_seconds: objectives.rto.as_secs_f64(),
            rpo_seconds: objectives.rpo.as_secs_f64(),
            detection_seconds: objectives.detection.as_secs_f64(),
            drill_max_age_seconds: objectives.drill_max_age.as_secs_f64(),
        },
        schedule: Schedule {
            timezone: schedule.timezone.to_string(),
            full: line(&schedule.full),
            diff: line(&schedule.diff),
            incr: line(&schedule.incr),
            verify: line(&schedule.verify),
            drill: line(&schedule.drill),
        },
        log: Log { mode: log.mode.as_str(), max_lag_seconds: log.max_lag.as_secs_f64() },
        backup: Backup { changed_pages: backup.changed_pages.as_str(), audit_seconds: backup.audit.as_secs_f64() },
        retention: Retention {
            window_seconds: retention.window.as_secs_f64(),
            keep_chains: retention.keep_chains,
            keep_for_seconds: seconds(retention.keep_for),
            daily: retention.daily,
            weekly: retention.weekly,
            monthly: retention.monthly,
            yearly: retention.yearly,
            legal_minimum_seconds: seconds(retention.legal_minimum),
            thin_log: retention.thin_log,
        },
        copies: Copies {
            log: copies.log,
            backup: copies.backup,
            repositories: copies.repositories.clone(),
            locked: copies.locked.clone(),
            thaw_seconds: seconds(copies.thaw),
        },
        drill: Drill {
            levels: drill.levels.clone(),
            checks: drill.checks.iter().map(check).collect(),
            limit_rate_bytes: drill.limit_rate_bytes,
        },
        runs: runs(policy, now),
        refused,
        warnings,
    }
}

fn check(check: &crate::policy::SqlCheck) -> Check {
    let expect = check.expect.to_string();
    Check { name: check.name.clone(), database: check.database.clone(), sql: check.sql.clone(), expect }
}

fn runs(policy: &Policy, now: Timestamp) -> Vec<Run> {
    let zone = policy.schedule.timezone;
    let mut runs = Vec::new();
    for (job, cron) in policy.schedule.jobs() {
        let Some(cron) = cron else { continue };
        let times = std::iter::successors(cron.next_after(now, zone), |time| cron.next_after(*time, zone));
        runs.extend(times.take(RUNS).map(|time| Run { job, local: local(time, zone).to_rfc3339(), time }));
    }
    runs
}

fn local(time: Timestamp, zone: Tz) -> DateTime<Tz> {
    let time = DateTime::from_timestamp_micros(time.unix_micros()).expect("a Timestamp lies in the years 1 to 9999");
    time.with_timezone(&zone)
}

fn text(document: &Document, policy: &Policy) -> String {
    let mut text = format!("{} ({})\n", document.policy, place(document.file.as_deref()));
    for (section, lines) in sections(document, policy) {
        text += &format!("\n{section}\n");
        lines.iter().for_each(|(key, value)| text += &format!("  {key:15}  {value}\n"));
    }
    let zone = policy.schedule.timezone;
    let row = |run: &Run| {
        let local = local(run.time, zone).format("%a %Y-%m-%d %H:%M %Z").to_string();
        vec![run.job.to_owned(), local, run.time.human_seconds()]
    };
    let rows: Vec<Vec<String>> = document.runs.iter().map(row).collect();
    if !rows.is_empty() {
        text += "\n";
        text += &table(&[("next", Align::Left), (zone.name(), Align::Left), ("UTC", Align::Left)], &rows);
    }
    if document.refused + document.warnings > 0 {
        let plural = if document.warnings == 1 { "" } else { "s" };
        text += &format!(
            "\n{} refused, {} warning{plural}: lifeboat policy check {}\n",
            document.refused, document.warnings, document.policy
        );
    }
    text
}

type Section = (&'static str, Vec<(&'static str, String)>);

fn sections(document: &Document, policy: &Policy) -> Vec<Section> {
    let Policy { objectives, log, backup, retention, copies, drill, .. } = policy;
    let some_time = |duration: Option<Duration>| duration.map_or("-".to_owned(), time);
    let line = |cron: &Option<String>| cron.clone().unwrap_or("-".to_owned());
    let count = |count: Option<usize>| count.map_or("all".to_owned(), |count| count.to_string());
    let names = |names: &[String], none: &str| if names.is_empty() { none.to_owned() } else { names.join(", ") };
    let levels: Vec<&str> = drill.levels.iter().map(|level| level.as_str()).collect();
    let schedule = &document.schedule;
    let mut drill_lines = vec![
        ("levels", levels.join(", ")),
        ("limit_rate", drill.limit_rate_bytes.map_or("-".to_owned(), |rate| format!("{}/s", format_bytes(rate)))),
    ];
    let checks = document.drill.checks.iter();
    drill_lines.extend(checks.map(|check| ("check", format!("{}: {} in {}", check.name, check.expect, check.database))));
    vec![
        (
            "objectives",
            vec![
                ("rto", time(objectives.rto)),
                ("rpo", time(objectives.rpo)),
                ("detection", time(objectives.detection)),
                ("drill_max_age", time(objectives.drill_max_age)),
            ],
        ),
        (
            "schedule",
            vec![
                ("timezone", schedule.timezone.clone()),
                ("full", line(&schedule.full)),
                ("diff", line(&schedule.diff)),
                ("incr", line(&schedule.incr)),
                ("verify", line(&schedule.verify)),
                ("drill", line(&schedule.drill)),
            ],
        ),
        ("log", vec![("mode", document.log.mode.to_owned()), ("max_lag", time(log.max_lag))]),
        ("backup", vec![("changed_pages", document.backup.changed_pages.to_owned()), ("audit", time(backup.audit))]),
        (
            "retention",
            vec![
                ("window", time(retention.window)),
                ("keep_chains", retention.keep_chains.to_string()),
                ("keep_for", some_time(retention.keep_for)),
                ("daily", retention.daily.to_string()),
                ("weekly", retention.weekly.to_string()),
                ("monthly", retention.monthly.to_string()),
                ("yearly", retention.yearly.to_string()),
                ("legal_minimum", some_time(retention.legal_minimum)),
                ("thin_log", retention.thin_log.to_string()),
            ],
        ),
        (
            "copies",
            vec![
                ("log", count(copies.log)),
                ("backup", count(copies.backup)),
                ("repositories", names(&copies.repositories, "those of the source")),
                ("locked", names(&copies.locked, "-")),
                ("thaw", some_time(copies.thaw)),
            ],
        ),
        ("drill", drill_lines),
    ]
}
