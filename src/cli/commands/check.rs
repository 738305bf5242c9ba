//! `lifeboat check [SOURCE]`: what works, what may hurt one day, and what does not work.

use serde::Serialize;

use crate::base::Result;
use crate::cli::args::CheckArgs;
use crate::cli::config::{RepositorySettings, Settings, SourceKind, SourceSettings};
use crate::cli::context::Context;
use crate::cli::exit::Outcome;
use crate::cli::scope;
use crate::engine::check::{self, Finding, Level, Subject};
use crate::engine::head;

/// The document `check`, version 1.
#[derive(Serialize)]
struct Document {
    checks: Vec<Checked>,
    warnings: usize,
    faults: usize,
}

#[derive(Serialize)]
struct Checked {
    source: String,
    repository: String,
    findings: Vec<Found>,
}

#[derive(Serialize)]
struct Found {
    level: &'static str,
    subject: &'static str,
    message: String,
    hints: Vec<String>,
}

/// Checks each source in each of its repositories.
///
/// # Errors
/// Only when the configuration cannot be used at all; everything else is a finding.
pub async fn run(args: &CheckArgs, context: &Context) -> Result<Outcome> {
    let settings = context.settings()?;
    let sources = match &args.source {
        Some(name) => vec![settings.source(name)?],
        None => settings.sources.values().collect(),
    };
    let mut checks = Vec::new();
    for source in sources {
        for chosen in settings.repositories_of(source, context.global.repository.as_deref())? {
            let findings = findings(context, &settings, source, chosen).await?;
            let findings = findings.into_iter().map(found).collect();
            checks.push(Checked { source: source.name.to_string(), repository: chosen.name.clone(), findings });
        }
    }
    let count = |level: &str| checks.iter().flat_map(|check| &check.findings).filter(|finding| finding.level == level).count();
    let document = Document { warnings: count("warning"), faults: count("fault"), checks };
    context.result("check", 1, &document, || text(&document))?;
    Ok(if document.faults > 0 { Outcome::Faults } else { Outcome::Done })
}

async fn findings(
    context: &Context,
    settings: &Settings,
    source: &SourceSettings,
    chosen: &RepositorySettings,
) -> Result<Vec<Finding>> {
    let SourceKind::Postgres(postgres) = &source.kind;
    let scope = match scope::open(context, settings, chosen, &source.name).await {
        Ok(scope) => scope,
        Err(error) => return Ok(vec![Finding::of_error(Level::Fault, "repository", &error)]),
    };
    let seen = match head::look(&scope).await {
        Ok(seen) => seen,
        Err(error) => return Ok(vec![Finding::of_error(Level::Fault, "commit log", &error)]),
    };
    let writing = scope::writing(settings);
    let subject = Subject {
        conninfo: &postgres.conninfo,
        data_directory: postgres.data_directory.clone(),
        writing: writing.as_ref(),
        identities: &settings.encryption,
        archive_timeout: postgres.archive_timeout,
        pinned: chosen.root.is_some(),
    };
    let mut findings = Vec::new();
    if let Some(warning) = &seen.warning {
        findings.push(Finding { level: Level::Warning, subject: "state", message: warning.clone(), hints: Vec::new() });
    }
    if let Some(wound_back) = &seen.wound_back {
        findings.push(Finding { level: Level::Fault, subject: "commit log", message: wound_back.text(), hints: Vec::new() });
    }
    findings.extend(check::run(&scope, &seen.log, &subject, context.progress.as_ref(), &context.cancel).await?);
    Ok(findings)
}

fn found(finding: Finding) -> Found {
    let level = match finding.level {
        Level::Ok => "ok",
        Level::Warning => "warning",
        Level::Fault => "fault",
    };
    Found { level, subject: finding.subject, message: finding.message, hints: finding.hints }
}

fn text(document: &Document) -> String {
    let mut text = String::new();
    for Checked { source, repository, findings } in &document.checks {
        text += &format!("{source} in repository {repository}\n");
        for Found { level, subject, message, hints } in findings {
            text += &format!("  {level:7}  {subject}: {message}\n");
            hints.iter().for_each(|hint| text += &format!("           hint: {hint}\n"));
        }
    }
    if document.checks.is_empty() {
        text += "the configuration names no source\n";
    }
    let plural = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    text + &format!("{}, {}\n", plural(document.faults, "fault"), plural(document.warnings, "warning"))
}
