//! What `lifeboat verify` found, for people and as a document.

use std::time::Duration;

use serde::Serialize;

use crate::base::Engine;
use crate::base::units::{format_bytes, format_duration};
use crate::cli::config::RepositorySettings;
use crate::cli::output::{Align, table};
use crate::engine::verify::{Finding, Gap, SourceReport, Uncommitted};

/// The document `verify`, version 1.
#[derive(Serialize)]
pub struct Document {
    /// Whether everything was decrypted and decoded.
    pub deep: bool,
    /// By repository.
    pub repositories: Vec<RepositoryPart>,
    /// How long it took.
    pub duration_seconds: f64,
}

/// What was found in one repository.
#[derive(Serialize)]
pub struct RepositoryPart {
    /// Its name in the configuration.
    pub repository: String,
    /// Its address.
    pub url: String,
    /// SHA-256 of its first keys; unknown when it could not be opened.
    pub root_sha256: Option<String>,
    /// By source.
    pub sources: Vec<SourceReport>,
    /// What belongs to no source.
    pub findings: Vec<Finding>,
}

impl RepositoryPart {
    /// Nothing found yet.
    pub fn new(chosen: &RepositorySettings) -> Self {
        Self {
            repository: chosen.name.clone(),
            url: chosen.url.clone(),
            root_sha256: None,
            sources: Vec::new(),
            findings: Vec::new(),
        }
    }

    fn all_findings(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().chain(self.sources.iter().flat_map(|source| &source.findings))
    }

    fn text(&self) -> String {
        let mut text = format!("repository {} at {}\n", self.repository, self.url);
        for source in &self.sources {
            text += &source_text(source);
        }
        for (damage, heading) in [(true, "damaged, forged or missing"), (false, "worth knowing")] {
            let mut findings = self.all_findings().filter(|finding| finding.is_damage() == damage).peekable();
            if findings.peek().is_some() {
                text += &format!("\n{heading}:\n");
            }
            findings.for_each(|finding| text += &finding_text(finding));
        }
        text
    }
}

impl Document {
    /// Whether anything is damaged.
    pub fn is_damaged(&self) -> bool {
        self.repositories.iter().any(|repository| repository.all_findings().any(Finding::is_damage))
    }

    /// For people.
    pub fn text(&self) -> String {
        let parts: Vec<String> = self.repositories.iter().map(RepositoryPart::text).collect();
        let sources = || self.repositories.iter().flat_map(|repository| &repository.sources);
        let objects: u64 = sources().map(|source| source.checked_objects).sum();
        let bytes: u64 = sources().map(|source| source.checked_bytes).sum();
        let took = format_duration(Duration::try_from_secs_f64(self.duration_seconds).unwrap_or_default());
        let damaged =
            self.repositories.iter().flat_map(RepositoryPart::all_findings).filter(|finding| finding.is_damage()).count();
        let verdict = match damaged {
            0 => "nothing is damaged".to_owned(),
            1 => "1 OBJECT IS DAMAGED, FORGED OR MISSING".to_owned(),
            count => format!("{count} OBJECTS ARE DAMAGED, FORGED OR MISSING"),
        };
        let how = if self.deep { "decoded" } else { "checked" };
        format!("{}\n{verdict}\n{objects} objects, {} {how} in {took}\n", parts.join("\n"), format_bytes(bytes))
    }
}

fn source_text(source: &SourceReport) -> String {
    let mut text = format!("\n{}\n", source.source);
    let verdict = |intact: bool| if intact { "ok" } else { "DAMAGED" };
    let rows: Vec<Vec<String>> = source
        .backups
        .iter()
        .map(|backup| {
            let stored = format_bytes(backup.stored_bytes);
            vec![format!("  {}", backup.id), backup.packs.to_string(), stored, verdict(backup.intact).to_owned()]
        })
        .collect();
    if rows.is_empty() {
        text += "  no backups\n";
    } else {
        text += &table(&[("  backup", Align::Left), ("packs", Align::Right), ("stored", Align::Right), ("", Align::Left)], &rows);
    }
    for log in source.logs.iter().filter(|log| log.incarnation.engine() != Engine::Directory) {
        text += &format!("  log {}: {} segments\n", log.incarnation, log.segments);
        if log.uncovered > 0 {
            text += &format!("    not yet covered by signed digests: {} objects\n", log.uncovered);
        }
        for Gap { first, last, segments } in &log.gaps {
            text += &match segments {
                1 => format!("    gap: {first}\n"),
                count => format!("    gap: {first} to {last} ({count})\n"),
            };
        }
    }
    for Uncommitted { id, begun, host } in &source.uncommitted {
        let begun = begun.map_or("begun at an unknown time".to_owned(), |begun| format!("begun {}", begun.human_seconds()));
        let host = host.as_ref().map(|host| format!(" on {host}")).unwrap_or_default();
        text += &format!("  not committed: {id}\n    {begun}{host}\n");
    }
    text
}

fn finding_text(finding: &Finding) -> String {
    let mut text = format!("  {}\n      {}\n", finding.key, finding.what);
    if let Some(backup) = &finding.backup {
        text += &format!("      backup {backup} is useless without it\n");
    }
    for other in &finding.others {
        text += &format!("      and so is {other}\n");
    }
    text
}
