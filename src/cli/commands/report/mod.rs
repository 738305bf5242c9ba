//! `lifeboat report`: objectives against what was measured, over time, as one HTML file that needs nothing else.

mod happened;
mod page;
mod plot;

use std::time::Duration;

use crate::base::units::{format_bytes, format_duration};
use crate::base::{Engine, Result, Timestamp};
use crate::cli::args::ReportArgs;
use crate::cli::commands::status;
use crate::cli::config::{Settings, SourceSettings};
use crate::cli::context::Context;
use crate::cli::exit::Outcome;
use crate::cli::output;
use crate::engine::status::facts::{Facts, RepositoryFacts, Window};
use crate::engine::status::report::{Kind, ScopeReport};
use crate::engine::status::rpo::{self, Coverage};
use crate::engine::status::{StatusReport, Verdict};
use crate::policy::Policy;
use crate::repo::evidence::DrillOutcome;

use self::page::{Objective, Place, Section};
use self::plot::{Plot, Series, Unit};

/// Points in a plot: more cannot be told apart.
const MAX_POINTS: usize = 600;

/// The document `report`, version 1.
#[derive(serde::Serialize)]
struct Document {
    file: String,
    sources: Vec<String>,
    bytes: usize,
}

/// Writes the page.
///
/// # Errors
/// Usage errors, and when the file cannot be written. A repository that does not answer is told in the page.
pub async fn run(args: &ReportArgs, context: &Context) -> Result<Outcome> {
    let settings = context.settings()?;
    let sources: Vec<&SourceSettings> = match &args.source {
        Some(name) => vec![settings.source(name)?],
        None => settings.sources.values().collect(),
    };
    let mut sections = Vec::new();
    for source in sources {
        sections.push(section(context, &settings, source).await?);
    }
    let page = page::page(Timestamp::now(), &sections);
    output::write_file(&args.file, &page)?;
    let sources = sections.iter().map(|section| section.source.clone()).collect();
    let document = Document { file: args.file.display().to_string(), sources, bytes: page.len() };
    context.result("report", 1, &document, || format!("wrote {} ({})\n", document.file, format_bytes(document.bytes as u64)))?;
    Ok(Outcome::Done)
}

async fn section(context: &Context, settings: &Settings, source: &SourceSettings) -> Result<Section> {
    let facts = status::facts(context, settings, source).await?;
    let report = StatusReport::of(&facts);
    let drills = facts.drills.clone();
    Ok(Section {
        source: report.source.clone(),
        policy: facts.policy.as_ref().map(|policy| policy.name.clone()),
        verdict: report.verdict,
        reasons: report.reasons.clone(),
        objectives: objectives(&facts, &report),
        phases: report.rto.parts.iter().map(|part| (part.part, part.seconds)).collect(),
        plots: plots(&facts, &report)?,
        happened: match facts.engine {
            Engine::Postgres | Engine::Sqlite => Some(happened::happened(context, settings, source).await),
            Engine::Directory => None,
        },
        standby: report.standby.clone(),
        repositories: facts.repositories.iter().map(|repository| place(facts.engine, repository)).collect(),
        problems: facts.evidence_problems.clone(),
        drills,
    })
}

fn place(kind: Engine, repository: &RepositoryFacts) -> Place {
    let name = repository.name.clone();
    let held = match &repository.held {
        Ok(held) => held,
        Err(why) => return Place { name, problem: Some(why.clone()), backups: 0, newest: None, kind, window: Vec::new() },
    };
    let kept = || held.backups.iter().filter(|backup| !backup.expired);
    let mut window: Vec<_> = held.window.iter().map(|window| stretch(kind, window)).collect();
    // After the last one nothing is missing yet.
    window.last_mut().into_iter().for_each(|(_, _, missing)| *missing = None);
    Place { name, kind, problem: None, backups: kept().count(), newest: kept().map(|backup| backup.stopped).max(), window }
}

/// From when to when, and what is missing after it.
fn stretch(kind: Engine, Window { interval, missing }: &Window) -> (Timestamp, Timestamp, Option<String>) {
    let missing = match kind {
        Engine::Postgres => Some(missing.clone()),
        Engine::Sqlite => (!interval.is_moment()).then(|| "commits that were not followed without a break".to_owned()),
        Engine::Directory => None,
    };
    (interval.from, interval.to, missing)
}

/// RTO first, then what would be lost in each scope.
fn objectives(facts: &Facts, report: &StatusReport) -> Vec<Objective> {
    let promised = |choose: fn(&Policy) -> Duration| {
        facts.policy.as_ref().map_or_else(|| "–".to_owned(), |policy| format_duration(choose(policy)))
    };
    let mut lines = vec![Objective {
        name: "Recovery time (RTO)".to_owned(),
        promised: promised(|policy| policy.objectives.rto),
        now: match (report.rto.predicted_seconds, report.rto.write_bytes) {
            (Some(seconds), _) => Unit::Seconds.text(seconds),
            (None, Some(_)) => "never rehearsed".to_owned(),
            (None, None) => "nothing to restore".to_owned(),
        },
        worst: seconds_or(worst_drill(facts), "–"),
        verdict: recovery_verdict(facts, report),
    }];
    lines.extend(report.scopes.iter().map(|scope| Objective {
        name: format!("Loss (RPO), {}", scope.scope.replace('_', " ")),
        promised: promised(|policy| policy.objectives.rpo),
        now: loss(scope),
        worst: seconds_or(scope.worst_30d_seconds, "–"),
        verdict: scope.verdict,
    }));
    lines
}

/// Nobody says "ok" of what was never predicted.
fn recovery_verdict(facts: &Facts, report: &StatusReport) -> Option<Verdict> {
    let worst = report.reasons.iter().filter(|reason| reason.is_of_recovery()).map(|reason| reason.verdict).max();
    let is_promised = facts.policy.is_some() && report.rto.predicted_seconds.is_some();
    worst.or_else(|| is_promised.then_some(Verdict::Ok))
}

/// What the slowest drill of the last 30 days would have made of a disaster, declared times included.
fn worst_drill(facts: &Facts) -> Option<f64> {
    let declared = facts
        .policy
        .as_ref()
        .map_or(Duration::ZERO, |policy| policy.objectives.detection + policy.copies.thaw.unwrap_or_default());
    let since = facts.now.minus(Duration::from_secs(30 * 86_400));
    let recent = facts.drills.iter().map(|kept| &kept.evidence).filter(|drill| drill.finished >= since);
    recent.filter_map(|drill| drill.rto_seconds).reduce(f64::max).map(|seconds| seconds + declared.as_secs_f64())
}

fn loss(scope: &ScopeReport) -> String {
    match scope.kind {
        Kind::Exact => seconds_or(scope.rpo_seconds, "–"),
        Kind::UpperBound => format!("at most {}", seconds_or(scope.rpo_seconds, "–")),
        Kind::Infinite => "everything".to_owned(),
        Kind::Unknown => "unknown".to_owned(),
        Kind::NotAssessed => "not assessed".to_owned(),
    }
}

fn seconds_or(seconds: Option<f64>, otherwise: &str) -> String {
    seconds.map_or_else(|| otherwise.to_owned(), |seconds| Unit::Seconds.text(seconds))
}

/// Recovery time, exposure and size over time; those of which nothing is known are left out.
fn plots(facts: &Facts, report: &StatusReport) -> Result<Vec<(String, String)>> {
    let objectives = facts.policy.as_ref().map(|policy| policy.objectives);
    let passed = facts.drills.iter().map(|kept| &kept.evidence).filter(|drill| drill.outcome == DrillOutcome::Passed);
    let measured = passed.filter_map(|drill| Some((drill.declared, drill.rto_seconds?))).collect();
    let predicted = facts.history.iter().filter_map(|seen| Some((seen.time, seen.rto_predicted_seconds?)));
    let predicted = predicted.chain(report.rto.predicted_seconds.map(|seconds| (report.time, seconds))).collect();
    let coverages: Vec<&Coverage> =
        facts.repositories.iter().filter_map(|repository| Some(&repository.held.as_ref().ok()?.coverage)).collect();
    let mut exposures: Vec<(Timestamp, f64)> =
        rpo::exposures(&coverages, facts.now).into_iter().flatten().map(|(until, lost)| (until, lost.as_secs_f64())).collect();
    exposures.sort_by_key(|(until, _)| *until);
    let mut sizes: Vec<(Timestamp, f64)> = facts
        .repositories
        .iter()
        .filter_map(|repository| repository.held.as_ref().ok())
        .flat_map(|held| held.backups.iter().map(|backup| (backup.stopped, backup.raw_bytes as f64)))
        .collect();
    sizes.sort_by_key(|(time, _)| *time);
    sizes.dedup();
    let series = |label: &str, points: Vec<(Timestamp, f64)>, joined| Series {
        label: label.to_owned(),
        points: thinned(points, MAX_POINTS),
        joined,
    };
    let plots = [
        Plot {
            title: "Recovery time",
            unit: Unit::Seconds,
            series: vec![series("predicted", predicted, true), series("measured in drills", measured, false)],
            objective: objectives.map(|objectives| objectives.rto.as_secs_f64()),
        },
        Plot {
            title: match facts.engine {
                Engine::Postgres | Engine::Sqlite => "What losing the host would have lost, as each part of the log arrived",
                Engine::Directory => "What losing the host would have lost at most, until each backup was there",
            },
            unit: Unit::Seconds,
            series: vec![series("exposure", exposures, true)],
            objective: objectives.map(|objectives| objectives.rpo.as_secs_f64()),
        },
        Plot {
            title: match facts.engine {
                Engine::Postgres | Engine::Sqlite => "Size of the database in its backups",
                Engine::Directory => "Size of the files in its backups",
            },
            unit: Unit::Bytes,
            series: vec![series("size", sizes, true)],
            objective: None,
        },
    ];
    let mut drawn = Vec::new();
    for plot in &plots {
        drawn.extend(plot::draw(plot)?.map(|svg| (plot.title.to_owned(), svg)));
    }
    Ok(drawn)
}

/// At most `most` points: of each stretch the largest, so that nothing bad is lost.
fn thinned(points: Vec<(Timestamp, f64)>, most: usize) -> Vec<(Timestamp, f64)> {
    let stretch = points.len().div_ceil(most).max(1);
    let largest = |points: &[(Timestamp, f64)]| points.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1));
    points.chunks(stretch).filter_map(largest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinning_keeps_the_worst() {
        let at = |second: i64| Timestamp::from_unix_micros(second * 1_000_000).unwrap();
        let points: Vec<(Timestamp, f64)> = (0..1000).map(|second| (at(second), if second == 777 { 9.0 } else { 1.0 })).collect();
        let few = thinned(points.clone(), 10);
        assert_eq!((few.len(), few.iter().filter(|point| point.1 == 9.0).count()), (10, 1));
        assert_eq!(thinned(points.clone(), 1000), points);
        assert_eq!(thinned(Vec::new(), 10), []);
    }
}
