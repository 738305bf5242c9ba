//! The page: one document without a single request to anywhere, that also prints.

use std::time::Duration;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::happened::Happened;
use crate::base::units::{format_bytes, format_duration};
use crate::base::{Engine, Timestamp};
use crate::engine::status::Verdict;
use crate::engine::status::standby::StandbyReport;
use crate::engine::status::verdict::Reason;
use crate::repo::evidence::{CheckResult, DrillOutcome, Kept, KeyUse};

/// Everything that is said of one source.
pub(super) struct Section {
    pub source: String,
    pub policy: Option<String>,
    pub verdict: Verdict,
    /// Why, the worst first.
    pub reasons: Vec<Reason>,
    /// What was promised, and what is achieved.
    pub objectives: Vec<Objective>,
    /// The parts of the predicted recovery: name and seconds.
    pub phases: Vec<(&'static str, f64)>,
    /// Titles and plots.
    pub plots: Vec<(String, String)>,
    /// What was committed when, where there is a log; why that is not known.
    pub happened: Option<Result<Happened, String>>,
    pub standby: Option<StandbyReport>,
    pub repositories: Vec<Place>,
    pub drills: Vec<Kept>,
    /// What is wrong with the evidence.
    pub problems: Vec<String>,
}

/// One line of the table of objectives.
pub(super) struct Objective {
    pub name: String,
    pub promised: String,
    pub now: String,
    pub worst: String,
    /// None when objectives are not held against it.
    pub verdict: Option<Verdict>,
}

/// One repository.
pub(super) struct Place {
    pub name: String,
    pub problem: Option<String>,
    pub backups: usize,
    pub newest: Option<Timestamp>,
    /// Of what kind of system.
    pub kind: Engine,
    /// Stretches of the recovery window: from, to, and what is missing after it, if anything is.
    pub window: Vec<(Timestamp, Timestamp, Option<String>)>,
}

/// The whole page.
pub(super) fn page(now: Timestamp, sections: &[Section]) -> String {
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Lifeboat: would we survive?" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { "Would we survive?" }
                    p { "Written " (now.human_seconds()) " by lifeboat " (env!("CARGO_PKG_VERSION")) ". All times are UTC." }
                    @if sections.len() > 1 {
                        nav { @for section in sections { a href={ "#" (section.source) } { (section.source) } (badge(section.verdict.as_str())) } }
                    }
                }
                @for section in sections { (source(section)) }
            }
        }
    };
    markup.into_string()
}

fn source(section: &Section) -> Markup {
    html! {
        section id=(section.source) {
            h2 { (section.source) " " (badge(section.verdict.as_str())) }
            p class="policy" {
                @match &section.policy { Some(policy) => { "Policy " (policy) } None => { "No policy: nothing is promised." } }
            }
            @if !section.reasons.is_empty() {
                ul class="reasons" {
                    @for reason in &section.reasons { li { (reason.message) br; code { (reason.command) } } }
                }
            }
            h3 { "Objectives against what was measured" }
            (objectives(section))
            @for (title, plot) in &section.plots { figure { figcaption { (title) } (PreEscaped(plot)) } }
            @if let Some(standby) = &section.standby { (warm_standby(standby)) }
            @if let Some(happened) = &section.happened {
                h3 { "What happened when" }
                @match happened {
                    Ok(happened) => (happened.markup()),
                    Err(why) => p class="problem" { "Not known: " (why) "." },
                }
            }
            h3 { "What can be restored" }
            @for place in &section.repositories { (repository(place)) }
            h3 { "Drills" }
            (drills(section))
        }
    }
}

fn objectives(section: &Section) -> Markup {
    html! {
        table {
            thead { tr { th { "" } th { "promised" } th { "now" } th { "worst in 30 days" } th { "" } } }
            tbody {
                @for line in &section.objectives {
                    tr { th { (line.name) } td { (line.promised) } td { (line.now) } td { (line.worst) } td { @if let Some(verdict) = line.verdict { (badge(verdict.as_str())) } } }
                }
            }
        }
        @if !section.phases.is_empty() {
            p class="phases" {
                "Predicted recovery: "
                @for (number, (name, seconds)) in section.phases.iter().enumerate() {
                    @if number > 0 { " + " }
                    (name.replace('_', " ")) " " (format_duration(Duration::from_secs_f64(seconds.max(0.0))))
                }
            }
        }
    }
}

fn warm_standby(standby: &StandbyReport) -> Markup {
    let seconds = |seconds: f64| format_duration(Duration::from_secs_f64(seconds.max(0.0)));
    html! {
        h3 { "Warm standby" }
        @if let Some(why) = &standby.why_not {
            p class="problem" { (standby.place) " counts for nothing: " (why) "." }
        } @else {
            p {
                (standby.place) " has replayed up to " (standby.replay_lsn.as_deref().unwrap_or("an unknown position"))
                @if let Some(bytes) = standby.lag_bytes { ", " (format_bytes(bytes)) " behind the archive" }
                @if let Some(lag) = standby.lag_seconds { " (" (seconds(lag)) ")" }
                "; "
                @match standby.predicted_seconds {
                    Some(predicted) => { "its promotion would take about " (seconds(predicted)) "." }
                    None => { "no drill has told how long its promotion takes." }
                }
            }
        }
    }
}

fn repository(place: &Place) -> Markup {
    html! {
        h4 { "Repository " (place.name) }
        @if let Some(problem) = &place.problem {
            p class="problem" { (problem) }
        } @else {
            p {
                (place.backups) " backups"
                @if let Some(newest) = place.newest { ", the newest of " (newest.human_seconds()) }
                "."
            }
            @if place.window.is_empty() { p class="problem" { "Nothing can be restored." } } @else { (window(place)) }
        }
    }
}

fn window(place: &Place) -> Markup {
    html! {
        @if place.kind == Engine::Directory {
            table {
                thead { tr { th { "moments" } } }
                tbody { @for (_, moment, _) in &place.window { tr { td { (moment.human_seconds()) } } } }
            }
        } @else {
            table {
                thead { tr { th { "from" } th { "to" } th { "missing after it" } } }
                tbody {
                    @for (number, (from, to, missing)) in place.window.iter().enumerate() {
                        @let is_last = number + 1 == place.window.len();
                        tr {
                            td { (from.human_seconds()) } td { (to.human_seconds()) }
                            td {
                                @if is_last && place.kind == Engine::Postgres { "the segment being written" }
                                @else if let Some(missing) = missing { span class="problem" { (missing) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn drills(section: &Section) -> Markup {
    html! {
        @for problem in &section.problems { p class="problem" { (problem) } }
        @if section.drills.is_empty() { p class="problem" { "Never rehearsed." } } @else {
            table class="drills" {
                thead { tr { th { "declared" } th { "level" } th { "outcome" } th { "recovery" } th { "key" } th { "evidence (SHA-256)" } } }
                tbody { @for kept in section.drills.iter().rev() { (drill(kept)) } }
            }
        }
    }
}

fn drill(kept: &Kept) -> Markup {
    let evidence = &kept.evidence;
    let outcome = match evidence.outcome {
        DrillOutcome::Passed => "passed",
        DrillOutcome::Failed => "failed",
        DrillOutcome::Inconclusive => "inconclusive",
    };
    let key = match evidence.key_use {
        KeyUse::Command => "recovery key",
        KeyUse::File => "file at hand",
        KeyUse::None => "none",
    };
    let failed: Vec<&CheckResult> = evidence.checks.iter().filter(|check| !check.passed).collect();
    html! {
        tr {
            td { (evidence.declared.human_seconds()) } td { (evidence.level) } td { (badge(outcome)) }
            td { @match evidence.rto_seconds {
                Some(seconds) => (format_duration(Duration::from_secs_f64(seconds.max(0.0)))),
                None => "–",
            } }
            td { (key) }
            td { code title=(kept.key) { (kept.sha256) } }
        }
        @if !failed.is_empty() || !evidence.why.is_empty() {
            tr class="detail" { td colspan="6" {
                @for why in &evidence.why { p { (why) } }
                @for check in failed { p { strong { (check.name) } ": " (check.detail) } }
            } }
        } @else if let Some(restored) = &evidence.restored {
            tr class="detail" { td colspan="6" {
                (restored.backup) ": " (format_bytes(restored.raw_bytes))
                @if restored.incarnation.engine() != Engine::Directory { " and " (format_bytes(restored.replay_bytes)) " of log" }
                @if let Some(commit) = restored.last_commit { ", to " (commit.human_seconds()) }
                "; " (evidence.checks.len()) " checks passed"
            } }
        }
    }
}

fn badge(word: &str) -> Markup {
    html! { span class={ "badge " (word) } { (word.replace('_', " ")) } }
}

const STYLE: &str = "
:root { color-scheme: light; --ink: #263238; --faint: #607d8b; --line: #cfd8dc; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif; color: var(--ink); background: #fff; max-width: 62rem; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.7rem; margin: 0; } h2 { margin: 2.5rem 0 .25rem; border-top: 1px solid var(--line); padding-top: 1.5rem; }
h3 { margin: 1.75rem 0 .5rem; } h4 { margin: 1rem 0 .25rem; }
header p, .policy, .phases { color: var(--faint); margin: .25rem 0 .75rem; }
nav a { margin-right: .4rem; } nav .badge { margin-right: 1.2rem; }
table { border-collapse: collapse; width: 100%; font-size: .93em; }
th, td { text-align: left; padding: .35rem .75rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { color: var(--faint); font-weight: 500; } tbody th { font-weight: 500; }
tr.detail td { color: var(--faint); font-size: .92em; padding-top: 0; } tr.detail p { margin: .1rem 0; }
.drills tr:has(+ .detail) td { border-bottom: 0; padding-bottom: 0; }
code { font-family: ui-monospace, 'DejaVu Sans Mono', monospace; font-size: .85em; overflow-wrap: anywhere; }
.badge { display: inline-block; padding: .05em .55em; border-radius: .7em; font-size: .8em; font-weight: 600; vertical-align: middle; background: #eceff1; }
.badge.ok, .badge.passed { background: #e0f2e9; color: #1b5e3b; }
.badge.at_risk, .badge.inconclusive { background: #fff3d6; color: #7a4b00; }
.badge.breach, .badge.failed { background: #fde0de; color: #a11a14; }
.badge.unproven { background: #e3e8f4; color: #29407c; }
.problem { color: #a11a14; } .reasons li { margin-bottom: .4rem; }
figure { margin: 1.25rem 0 0; } figcaption { font-weight: 500; } svg.plot { width: 100%; height: auto; display: block; }
@media print { body { padding: 0; font-size: 12px; } section { break-inside: auto; } figure, table { break-inside: avoid; } }
";
