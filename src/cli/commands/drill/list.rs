//! `lifeboat drill SOURCE --list`: the evidence so far, and what is wrong with it.

use std::time::Duration;

use serde::Serialize;

use super::report::{outcome_text, seconds_text};
use crate::base::units::format_duration;
use crate::base::{Result, Timestamp};
use crate::cli::args::DrillArgs;
use crate::cli::context::Context;
use crate::cli::exit::Outcome;
use crate::cli::output::{Align, table};
use crate::cli::restoring;
use crate::cli::scope::{self, Use};
use crate::repo::evidence::{Evidence, Record};

/// The document `drills`, version 1.
#[derive(Serialize)]
struct Document {
    source: String,
    repositories: Vec<Part>,
}

#[derive(Serialize)]
struct Part {
    repository: String,
    drills: Vec<Drill>,
    /// What does not verify, and where the chain is broken.
    problems: Vec<Problem>,
    /// What was appended at the same moment as another: nothing is wrong with it.
    forks: Vec<Problem>,
}

#[derive(Serialize)]
struct Drill {
    key: String,
    age_seconds: u64,
    evidence: Evidence,
}

#[derive(Serialize)]
struct Problem {
    key: String,
    why: String,
}

/// Shows the drills that every repository of the source has on record.
///
/// # Errors
/// When a repository does not answer. Evidence that does not verify, or is missing, is [`Outcome::Damaged`].
pub(super) async fn run(args: &DrillArgs, context: &Context) -> Result<Outcome> {
    let settings = context.settings()?;
    let mut document = Document { source: args.source.to_string(), repositories: Vec::new() };
    let now = Timestamp::now();
    for chosen in restoring::repositories(&args.source, context, &settings)? {
        let layers = scope::layers(context, chosen, Use::Brief);
        let scope = scope::open(context, &settings, chosen, &args.source, &layers).await?;
        let record = Record::load(&scope.repository, &scope.source).await?;
        let drills = record.kept.into_iter().map(|kept| Drill {
            key: kept.key,
            age_seconds: now.since(kept.evidence.declared).as_secs(),
            evidence: kept.evidence,
        });
        let problems = record.problems.into_iter().map(|(key, why)| Problem { key, why });
        document.repositories.push(Part {
            repository: chosen.name.clone(),
            drills: drills.collect(),
            problems: problems.collect(),
            forks: record.forks.into_iter().map(|(key, why)| Problem { key, why }).collect(),
        });
    }
    context.result("drills", 1, &document, || text(&document))?;
    let damaged = document.repositories.iter().any(|part| !part.problems.is_empty());
    Ok(if damaged { Outcome::Damaged } else { Outcome::Done })
}

fn text(document: &Document) -> String {
    let part = |part: &Part| {
        let mut text = format!("drills of {} in repository {}\n", document.source, part.repository);
        if part.drills.is_empty() {
            text += "  none\n";
        } else {
            let rows: Vec<Vec<String>> = part.drills.iter().map(row).collect();
            let columns = [
                ("  declared", Align::Left),
                ("level", Align::Left),
                ("outcome", Align::Left),
                ("rto", Align::Right),
                ("age", Align::Right),
            ];
            text += &table(&columns, &rows);
        }
        part.problems.iter().for_each(|Problem { key, why }| text += &format!("  damaged: {key}: {why}\n"));
        part.forks.iter().for_each(|Problem { key, why }| text += &format!("  note: {key}: {why}\n"));
        text
    };
    document.repositories.iter().map(part).collect()
}

fn row(drill: &Drill) -> Vec<String> {
    let evidence = &drill.evidence;
    vec![
        format!("  {}", evidence.declared.human_seconds()),
        evidence.level.to_string(),
        outcome_text(evidence.outcome).to_owned(),
        evidence.rto_seconds.map_or_else(|| "-".to_owned(), seconds_text),
        format_duration(Duration::from_secs(drill.age_seconds)),
    ]
}
