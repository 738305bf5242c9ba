//! The status for people: the verdict first, then what it rests on, then what to type next. At most 80 columns, but for
//! commands, which are to be copied.

use std::time::Duration;

use crate::base::Engine;
use crate::base::units::{format_bytes, format_duration};
use crate::cli::output::wrapped;
use crate::engine::status::report::{DrillReport, IntervalReport, Kind, PathReport, RepositoryReport, ScopeReport, ServerReport};
use crate::engine::status::standby::StandbyReport;
use crate::engine::status::{StatusReport, Verdict};
use crate::repo::evidence::DrillOutcome;

/// Where the second column begins.
const INDENT: usize = 22;

/// All sources.
pub fn text(reports: &[StatusReport]) -> String {
    if reports.is_empty() {
        return "the configuration names no source\n".to_owned();
    }
    reports.iter().map(one).collect::<Vec<_>>().join("\n")
}

fn one(report: &StatusReport) -> String {
    let verdict = report.verdict.as_str().replace('_', " ").to_uppercase();
    let mut text = format!("{}: {verdict} at {}\n", report.source, report.time.human_seconds());
    for scope in &report.scopes {
        text += &row(scope.scope.replace('_', " ").as_str(), &exposure(scope, report));
    }
    text += &row("recovery", &recovery(report));
    text += &report.standby.as_ref().map(|found| row("standby", &standby(found))).unwrap_or_default();
    text += &row("window", &window(report));
    text += &row("last drill", &drills(report));
    text += &row("backups", &backups(report));
    text += &row("copies", &copies(report));
    for repository in &report.repositories {
        text += &row(&format!("in {}", repository.repository), &standing(repository, report.kind));
    }
    text += &report.server.as_ref().map(|found| row("server", &server(found))).unwrap_or_default();
    text += &report.path.as_ref().map(|found| row(report.kind.noun(), &path(found))).unwrap_or_default();
    if let Some(forecast) = &report.forecast {
        let objective = report.objectives.as_ref().map_or(0.0, |objectives| objectives.rto_seconds);
        let growth = format_bytes(forecast.growth_bytes_per_day as u64);
        let told = format!("the RTO of {} breaks around {}, at {growth} a day", span(objective), month(forecast.rto_breach));
        text += &row("growth", &told);
    }
    text + &next(report)
}

/// What to do, command by command.
fn next(report: &StatusReport) -> String {
    if report.reasons.is_empty() {
        return String::new();
    }
    let mut text = "what to do next\n".to_owned();
    for reason in &report.reasons {
        let verdict = match reason.verdict {
            Verdict::Ok => "note".to_owned(),
            verdict => verdict.as_str().replace('_', " "),
        };
        text += &wrapped(&format!("  {verdict:<10}"), 12, &reason.message);
        text += &format!("{:14}{}\n", "", reason.command);
    }
    text
}

fn row(name: &str, value: &str) -> String {
    wrapped(&format!("  {name:<width$}", width = INDENT - 2), INDENT, value)
}

fn span(seconds: f64) -> String {
    Duration::try_from_secs_f64(seconds).map_or_else(|_| "for ever".to_owned(), format_duration)
}

fn exposure(scope: &ScopeReport, report: &StatusReport) -> String {
    let why = scope.why.as_deref().unwrap_or_default();
    let mut told = match (scope.kind, scope.rpo_seconds) {
        (Kind::NotAssessed, _) => return format!("not assessed: {why}"),
        (Kind::Unknown, _) => format!("not known: {why}"),
        (Kind::Infinite, _) | (_, None) => format!("everything: {why}"),
        (Kind::UpperBound, Some(seconds)) => match scope.rpo_at_least_seconds {
            Some(certain) if certain > 0.0 => format!("{} to {} lost ({why})", span(certain), span(seconds)),
            _ => format!("at most {} lost ({why})", span(seconds)),
        },
        (Kind::Exact, Some(0.0)) => "nothing lost".to_owned(),
        (Kind::Exact, Some(seconds)) => format!("{} lost", span(seconds)),
    };
    if let Some(objectives) = report.objectives.as_ref().filter(|_| scope.verdict.is_some()) {
        told += &format!(", RPO {}", span(objectives.rpo_seconds));
    }
    if let (Some(of_day), Some(of_month)) = (scope.worst_24h_seconds, scope.worst_30d_seconds) {
        let most = if report.kind == Engine::Directory { "at most " } else { "" };
        told += &format!("; worst in 24 h {most}{}, in 30 d {}", span(of_day), span(of_month));
    }
    told
}

fn recovery(report: &StatusReport) -> String {
    let rto = &report.rto;
    let mut told = match rto.predicted_seconds {
        Some(seconds) => {
            let drills = if rto.drills == 1 { "1 drill".to_owned() } else { format!("{} drills", rto.drills) };
            let how = if rto.by == Some("standby") { " by promoting the standby, rates" } else { "" };
            format!("about {}{how} by {drills}", span(seconds))
        }
        None if rto.write_bytes.is_none() => "there is nothing to restore".to_owned(),
        None => "unproven: never rehearsed".to_owned(),
    };
    if let Some(objectives) = &report.objectives {
        told += &format!(", RTO {}", span(objectives.rto_seconds));
    }
    told += &rto.measured_seconds.map(|seconds| format!("; the last drill took {}", span(seconds))).unwrap_or_default();
    if let Some(write) = rto.write_bytes {
        told += &format!("; writes {}", format_bytes(write));
    }
    if let Some(replay) = rto.replay_bytes.filter(|_| report.kind != Engine::Directory) {
        told += &format!(", replays {}", format_bytes(replay));
    }
    told
}

fn standby(standby: &StandbyReport) -> String {
    if let Some(why) = &standby.why_not {
        return format!("counts for nothing: {why} ({})", standby.place);
    }
    let lag = match (standby.lag_bytes, standby.lag_seconds) {
        (_, Some(0.0)) | (None | Some(0), _) => "has all that is archived".to_owned(),
        (Some(bytes), seconds) => {
            let behind = seconds.map(|seconds| format!(", {}", span(seconds))).unwrap_or_default();
            format!("{}{behind} behind the archive", format_bytes(bytes))
        }
    };
    let delay = standby.delay_seconds.filter(|seconds| *seconds > 0.0);
    let delay = delay.map(|seconds| format!(" ({} on purpose)", span(seconds))).unwrap_or_default();
    let takes = standby.predicted_seconds.map(|seconds| format!("; promoted in about {}", span(seconds)));
    format!("{lag}{delay}{}", takes.unwrap_or_else(|| "; no drill has told how long a promotion takes".to_owned()))
}

fn window(report: &StatusReport) -> String {
    let (Some(first), Some(last)) = (report.window.first(), report.window.last()) else {
        return "nothing can be restored".to_owned();
    };
    if report.kind == Engine::Directory {
        let (first, last) = (first.from.human_seconds(), last.to.human_seconds());
        return match report.window.len() {
            1 => format!("the moment of 1 backup: {last}"),
            moments => format!("the moments of {moments} backups, {} to {last}", first.trim_end_matches(" UTC")),
        };
    }
    // A snapshot that nobody followed is a moment: nothing is missing after it.
    let is_gap = |pair: &&[IntervalReport]| report.kind == Engine::Postgres || pair[0].from < pair[0].to;
    let gaps = match report.window.windows(2).filter(is_gap).count() {
        0 => String::new(),
        1 => ", 1 gap".to_owned(),
        gaps => format!(", {gaps} gaps"),
    };
    format!("{} to {}{gaps}", first.from.human_seconds().trim_end_matches(" UTC"), last.to.human_seconds())
}

fn drills(report: &StatusReport) -> String {
    let Some(last) = &report.drills.last else { return "never".to_owned() };
    let told = |drill: &DrillReport| {
        let outcome = match drill.outcome {
            DrillOutcome::Passed => "passed",
            DrillOutcome::Failed => "failed",
            DrillOutcome::Inconclusive => "inconclusive",
        };
        format!("{outcome} {} ago ({})", span(drill.age_seconds), drill.level)
    };
    match &report.drills.last_passed {
        Some(passed) if passed.finished == last.finished => told(last),
        Some(passed) => format!("{}; the last that restored {}", told(last), told(passed)),
        None => format!("{}; none has restored and passed", told(last)),
    }
}

fn backups(report: &StatusReport) -> String {
    let told = report.backups.iter().map(|backup| {
        let age = backup.age_seconds.map_or_else(|| "never".to_owned(), |age| format!("{} ago", span(age)));
        let missed = if backup.missed > 0 { format!(" ({} missed)", backup.missed) } else { String::new() };
        format!("{} {age}{missed}", backup.backup_type)
    });
    let told: Vec<String> = told.collect();
    if told.is_empty() { "none".to_owned() } else { told.join(", ") }
}

fn copies(report: &StatusReport) -> String {
    let copies = report.copies;
    let log = match copies.log_wanted {
        0 => String::new(),
        wanted => format!(", newest log in {} of {wanted}", copies.log_held),
    };
    format!("newest backup in {} of {} repositories{log}", copies.backup_held, copies.backup_wanted)
}

fn standing(repository: &RepositoryReport, kind: Engine) -> String {
    let mut told = match (&repository.error, repository.frontier_time) {
        (Some(why), _) => format!("no answer: {why}"),
        (None, Some(time)) if kind == Engine::Directory => format!("newest backup begun {}", time.human_seconds()),
        (None, Some(time)) => format!("log up to {}", time.human_seconds()),
        (None, None) => "nothing to restore".to_owned(),
    };
    if repository.gaps > 0 {
        told += &format!(", {} gaps", repository.gaps);
    }
    let (waiting, given_up) = (repository.queue_items.unwrap_or(0), repository.queue_given_up.unwrap_or(0));
    if repository.queue_items.is_none() {
        told += ", queue not known";
    } else if waiting + given_up > 0 {
        told += &format!(", {waiting} waiting");
        told += &repository.queue_oldest_seconds.map(|age| format!(" for {}", span(age))).unwrap_or_default();
        if given_up > 0 {
            told += &format!(", {given_up} given up");
        }
        told += &repository.queue_last_error.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
    }
    told += &repository.protected_by.as_ref().map(|why| format!(", {why}")).unwrap_or_default();
    told + &skew("its clock", repository.clock_skew_seconds)
}

fn path(found: &PathReport) -> String {
    match &found.error {
        Some(why) => format!("cannot be looked at: {why}"),
        None => found.path.clone(),
    }
}

fn server(server: &ServerReport) -> String {
    if let Some(why) = &server.error {
        return format!("no answer: {why}");
    }
    let mut told = match server.archiver_failing {
        Some(true) => "archiver fails".to_owned(),
        Some(false) => "archiver works".to_owned(),
        None => "does not archive".to_owned(),
    };
    if let (Some(count @ 1..), Some(file)) = (server.archiver_failed_count, &server.archiver_last_failed_file) {
        let time = server.archiver_last_failed_time.map(|time| time.human_seconds()).unwrap_or_default();
        told += &format!(", {count} failures, last {file} at {time}");
    }
    told + &skew("clock", server.clock_skew_seconds)
}

fn skew(whose: &str, seconds: Option<f64>) -> String {
    match seconds {
        Some(seconds) if seconds.abs() >= 0.5 => {
            let side = if seconds > 0.0 { "ahead" } else { "behind" };
            format!(", {whose} {} {side}", span(seconds.abs()))
        }
        _ => String::new(),
    }
}

/// `March 2027`.
fn month(time: crate::base::Timestamp) -> String {
    const NAMES: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let text = time.rfc3339();
    let number: usize = text[5..7].parse().unwrap_or(1);
    format!("{} {}", NAMES[number - 1], &text[..4])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_that_cannot_be_read_is_told_as_such() {
        let mut found = RepositoryReport {
            repository: "main".to_owned(),
            site: None,
            error: None,
            protected_by: None,
            backup: None,
            frontier_lsn: None,
            frontier_time: None,
            gaps: 0,
            queue_items: None,
            queue_given_up: None,
            queue_oldest_seconds: None,
            queue_last_error: None,
            clock_skew_seconds: None,
        };
        assert_eq!(standing(&found, Engine::Postgres), "nothing to restore, queue not known");
        (found.queue_items, found.queue_given_up) = (Some(0), Some(0));
        assert_eq!(standing(&found, Engine::Postgres), "nothing to restore");
    }

    #[test]
    fn names_and_months() {
        assert_eq!(row("window", "a b"), "  window              a b\n");
        assert_eq!(month(crate::base::Timestamp::parse_compact("20270314T000000Z").unwrap()), "March 2027");
    }
}
