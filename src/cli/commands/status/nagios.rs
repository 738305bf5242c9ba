//! One line for Nagios and its kin: the state, what is wrong, and performance data behind a bar.
//!
//! Source: Nagios Plugins Development Guidelines, "Plugin Output for Nagios" and "Performance data".

use crate::engine::status::report::Kind;
use crate::engine::status::{StatusReport, Verdict};

/// The line of several sources; the state is that of the worst.
pub fn nagios(reports: &[StatusReport]) -> String {
    let worst = reports.iter().map(|report| report.verdict).max();
    let state = match worst {
        Some(Verdict::Breach) => "CRITICAL",
        _ if reports.iter().any(StatusReport::is_blind) => "UNKNOWN",
        Some(Verdict::AtRisk | Verdict::Unproven) => "WARNING",
        Some(Verdict::Ok) | None => "OK",
    };
    let told: Vec<String> = reports.iter().map(told).collect();
    let measured: Vec<String> = reports.iter().flat_map(measured).collect();
    let told = if told.is_empty() { "the configuration names no source".to_owned() } else { told.join("; ") };
    line(state, &told, &measured.join(" "))
}

/// The line of a failure.
pub fn unknown(why: &str) -> String {
    line("UNKNOWN", why, "")
}

fn line(state: &str, told: &str, measured: &str) -> String {
    // A bar begins the performance data, and the first line alone is shown.
    let told: String = told.chars().map(|sign| if sign == '|' || sign.is_control() { ' ' } else { sign }).collect();
    let measured = if measured.is_empty() { String::new() } else { format!(" | {measured}") };
    format!("LIFEBOAT {state} - {told}{measured}\n")
}

fn told(report: &StatusReport) -> String {
    let (source, verdict) = (&report.source, report.verdict.as_str());
    match report.reasons.first() {
        Some(reason) => {
            let more = match report.reasons.len() {
                1 => String::new(),
                count => format!(" (and {} more)", count - 1),
            };
            format!("{source} {verdict}: {}{more}", reason.message)
        }
        None => format!("{source} {verdict}"),
    }
}

/// `'label'=value[unit];warning;critical;minimum`; `U` stands for what has no value.
fn measured(report: &StatusReport) -> Vec<String> {
    let source = report.source.replace(['\'', '='], "_");
    let limits = |objective: Option<f64>, part: f64| match objective {
        Some(objective) => format!("{:.3};{objective:.3};0", objective * part),
        None => ";;0".to_owned(),
    };
    let objectives = report.objectives.as_ref();
    let rpo = limits(objectives.map(|objectives| objectives.rpo_seconds), 0.75);
    let rto = limits(objectives.map(|objectives| objectives.rto_seconds), 0.8);
    let value = |seconds: Option<f64>| seconds.map_or_else(|| "U".to_owned(), |seconds| format!("{seconds:.3}s"));
    let mut measured: Vec<String> = Vec::new();
    for scope in report.scopes.iter().filter(|scope| scope.kind != Kind::NotAssessed) {
        let limits = if scope.verdict.is_some() { &rpo } else { ";;0" };
        measured.push(format!("'{source}_{}_rpo'={};{limits}", scope.scope, value(scope.rpo_seconds)));
    }
    measured.push(format!("'{source}_rto'={};{rto}", value(report.rto.predicted_seconds)));
    measured
}
