//! What the repository's store does, and in plain words what follows from what it does not.

use super::{Finding, Level};
use crate::base::{Error, Result};
use crate::engine::backup::run::host_name;
use crate::repo::Repository;
use crate::repo::probe::{self, Recorded, Weight};

const SUBJECT: &str = "store";

/// Tries out the repository's store, and puts what was found on record.
///
/// # Errors
/// The store's, when objects cannot be written, read or listed.
pub async fn probe(repository: &Repository) -> Result<Recorded> {
    probe::run(repository, &host_name()).await
}

/// What a probe found, as findings about the store at `url`.
pub fn findings(url: &str, outcome: std::result::Result<&Recorded, &Error>) -> Vec<Finding> {
    let Recorded { report, warnings, .. } = match outcome {
        Ok(recorded) => recorded,
        Err(error) => return vec![Finding::of_error(Level::Fault, SUBJECT, error)],
    };
    let mut findings = vec![Finding::ok(SUBJECT, format!("{url} can be written, read and listed"))];
    findings.extend(report.lacks().map(|lack| {
        let level = match lack.weight {
            Weight::Note => Level::Ok,
            Weight::Degraded => Level::Warning,
            Weight::Broken => Level::Fault,
        };
        Finding::new(level, SUBJECT, lack.sentence)
    }));
    findings.extend(report.skew_sentence().map(|sentence| Finding::warning(SUBJECT, sentence)));
    let unknown = report.unknown();
    if !unknown.is_empty() {
        let unknown: Vec<String> = unknown.iter().map(|ability| ability.replace('_', " ")).collect();
        findings.push(Finding::ok(SUBJECT, format!("not known of it: {}", unknown.join(", "))));
    }
    findings.extend(warnings.iter().map(|warning| Finding::warning(SUBJECT, warning.clone())));
    findings
}
