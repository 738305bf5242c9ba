//! `lifeboat check [SOURCE]`: what works, what may hurt one day, and what does not work.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::base::{Error, Result};
use crate::cli::args::CheckArgs;
use crate::cli::config::{Encryption, RepositorySettings, Settings, SourceKind, SourceSettings, policies};
use crate::cli::context::Context;
use crate::cli::exit::Outcome;
use crate::cli::scope::{self, Use};
use crate::codec::encrypt::Identity;
use crate::engine::IdentitySource;
use crate::engine::check::{self, Cluster, Finding, Level, Subject, System};
use crate::engine::{Scope, head};
use crate::policy::contradictions::{Finding as Contradiction, Severity};
use crate::repo::probe::{ProbeReport, Recorded};
use crate::repo::queue::Queue;

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
    /// What the repository's store was found to do; none when it could not be tried out.
    probe: Option<ProbeReport>,
    findings: Vec<Found>,
}

/// What the store of each repository was found to do: tried out once, however many sources it holds.
type Probes = BTreeMap<String, Result<Recorded>>;

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
    let (mut checks, mut probes) = (Vec::new(), Probes::new());
    for source in sources {
        // Said once, however many repositories hold the source.
        let mut of_policy = policy_findings(&settings, source);
        for chosen in settings.repositories_of(source, context.global.repository.as_deref())? {
            let mut findings = findings(context, &settings, source, chosen, &mut probes).await?;
            findings.append(&mut of_policy);
            findings.extend(queue_finding(&settings, source, chosen));
            let findings = findings.into_iter().map(found).collect();
            let probed = probes.get(&chosen.name).and_then(|outcome| outcome.as_ref().ok());
            let probe = probed.map(|recorded| recorded.report.clone());
            checks.push(Checked { source: source.name.to_string(), repository: chosen.name.clone(), probe, findings });
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
    probes: &mut Probes,
) -> Result<Vec<Finding>> {
    let layers = scope::layers(context, chosen, Use::Brief);
    let scope = match scope::open(context, settings, chosen, &source.name, &layers).await {
        Ok(scope) => scope,
        Err(error) => return Ok(vec![Finding::of_error(Level::Fault, "repository", &error)]),
    };
    let seen = match head::look(&scope).await {
        Ok(seen) => seen,
        Err(error) => return Ok(vec![Finding::of_error(Level::Fault, "commit log", &error)]),
    };
    let probe = probe_once(context, chosen, &scope, probes).await?;
    let writing = scope::writing(settings);
    let subject = Subject {
        system: system(&source.kind),
        // A policy that cannot be used has a finding of its own.
        log_mode: settings.policy_of(source).ok().flatten().map(|policy| policy.log.mode),
        writing: writing.as_ref(),
        identities: &AtHand(&settings.encryption),
        probe,
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

fn system(kind: &SourceKind) -> System<'_> {
    match kind {
        SourceKind::Postgres(postgres) => System::Postgres(Cluster {
            conninfo: &postgres.conninfo,
            data_directory: postgres.data_directory.clone(),
            archive_timeout: postgres.archive_timeout,
            slot: &postgres.slot,
        }),
        SourceKind::Sqlite(sqlite) => System::Sqlite(&sqlite.path),
        SourceKind::Directory(directory) => {
            System::Directory { path: &directory.path, exclude: &directory.exclude, one_file_system: directory.one_file_system }
        }
    }
}

/// What is wrong with the policy of `source`.
fn policy_findings(settings: &Settings, source: &SourceSettings) -> Vec<Finding> {
    let examined = match settings.examined_policy_of(source) {
        Ok(examined) => examined,
        Err(error) => return vec![Finding::of_error(Level::Fault, "policy", &error)],
    };
    let Some(examined) = examined else { return Vec::new() };
    let finding = |found: &Contradiction| Finding {
        level: match found.severity {
            Severity::Refused => Level::Fault,
            Severity::Warned => Level::Warning,
        },
        subject: "policy",
        message: format!("{}: {}", examined.name, policies::sentence(found)),
        hints: Vec::new(),
    };
    let mut findings: Vec<Finding> = examined.findings.iter().map(finding).collect();
    // One hint is enough for all of them.
    if let Some(last) = findings.last_mut() {
        last.hints.push(format!("lifeboat policy show {}   shows what it declares", examined.name));
    }
    findings
}

/// What the repository still lacks, by this host's queue.
fn queue_finding(settings: &Settings, source: &SourceSettings, chosen: &RepositorySettings) -> Option<Finding> {
    let items = match Queue::new(&settings.state_dir, &source.name, &chosen.name).items() {
        Ok(items) => items,
        Err(error) => return Some(Finding::of_error(Level::Fault, "queue", &error)),
    };
    let given_up = items.iter().filter(|queued| queued.given_up).count();
    let oldest = items.first()?;
    let why = items.iter().find_map(|queued| queued.last_error.clone()).map(|why| format!(": {why}")).unwrap_or_default();
    let since = oldest.since.human_seconds();
    let (level, message, hint) = match given_up {
        0 => (Level::Warning, format!("{} items wait to be delivered, since {since}{why}", items.len()), "--deliver"),
        _ => (Level::Fault, format!("{given_up} items were given up, since {since}{why}"), "--deliver --retry"),
    };
    let hints = vec![format!("lifeboat queue {}   lists them; {hint} tries again", source.name)];
    Some(Finding { level, subject: "queue", message, hints })
}

async fn probe_once<'p>(
    context: &Context,
    chosen: &RepositorySettings,
    scope: &Scope,
    probes: &'p mut Probes,
) -> Result<std::result::Result<&'p Recorded, &'p Error>> {
    if !probes.contains_key(&chosen.name) {
        context.progress.phase("trying out the repository's store", None);
        let outcome = tokio::select! {
            outcome = check::probe::probe(&scope.repository) => outcome,
            () = context.cancel.cancelled() => return Err(Error::interrupted()),
        };
        probes.insert(chosen.name.clone(), outcome);
    }
    Ok(probes[&chosen.name].as_ref())
}

/// The identities of this host; that a protected host has none is as it should be, and no fault.
struct AtHand<'a>(&'a Encryption);

impl IdentitySource for AtHand<'_> {
    fn identities(&self) -> Result<Vec<Identity>> {
        if self.0.identity_files.is_empty() { Ok(Vec::new()) } else { self.0.identities() }
    }
}

fn found(finding: Finding) -> Found {
    Found { level: finding.level.as_str(), subject: finding.subject, message: finding.message, hints: finding.hints }
}

fn text(document: &Document) -> String {
    let mut text = String::new();
    for Checked { source, repository, findings, .. } in &document.checks {
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
