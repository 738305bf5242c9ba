//! What the repository's store does, and in plain words what follows from what it does not.

use super::{Finding, Level};
use crate::base::{Error, Result};
use crate::engine::backup::run::host_name;
use crate::repo::Repository;
use crate::repo::probe::{self, Answer, LockSeen, ProbeReport, Recorded, Weight};

const SUBJECT: &str = "store";
const GUARD: &str = "protection";

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
    findings.extend(guard_findings(url, report));
    let unknown = report.unknown();
    if !unknown.is_empty() {
        let unknown: Vec<String> = unknown.iter().map(|ability| ability.replace('_', " ")).collect();
        findings.push(Finding::ok(SUBJECT, format!("not known of it: {}", unknown.join(", "))));
    }
    findings.extend(warnings.iter().map(|warning| Finding::warning(SUBJECT, warning.clone())));
    findings
}

/// What stands between a thief of these credentials and the backups.
fn guard_findings(url: &str, report: &ProbeReport) -> Vec<Finding> {
    let guard = &report.guard;
    let mut findings = Vec::new();
    match &guard.lock {
        None => {}
        Some(LockSeen::Proven { mode }) => {
            findings.push(Finding::ok(GUARD, format!("lock proven: a locked canary could not be deleted ({mode})")));
        }
        Some(LockSeen::Recorded { mode }) => findings.push(Finding::ok(
            GUARD,
            format!("the store has a canary's lock on record ({mode}); these credentials delete nothing, so none was tried"),
        )),
        Some(LockSeen::Broken) => findings.push(
            Finding::fault(GUARD, "the lock does not hold: a locked canary was deleted")
                .hint("do not rely on object_lock with this store or these credentials (s3:BypassGovernanceRetention)"),
        ),
        Some(LockSeen::Refused { why }) => findings.push(
            Finding::fault(GUARD, format!("objects cannot be locked as lifeboat.toml says: {why}"))
                .hint("object lock is turned on for the whole bucket; these credentials need s3:PutObjectRetention"),
        ),
    }
    let keeps_versions = report.abilities.versioning;
    if guard.reads_oldest_versions && keeps_versions == Answer::No {
        findings.push(
            Finding::fault(GUARD, "lifeboat.toml says versions = true, and the bucket keeps none: nothing can be written")
                .hint("turn versioning on for the bucket"),
        );
    }
    if !guard.reads_oldest_versions && keeps_versions == Answer::Yes {
        findings.push(
            Finding::warning(
                GUARD,
                "the bucket keeps versions, and the newest is read: an overwrite or a delete marker hides a backup",
            )
            .hint("versions = true in this [repository] section: then the oldest version of each object is read"),
        );
    }
    if guard.deletes_versions == Answer::Yes && guard.lock.is_none() {
        findings.push(Finding::ok(GUARD, "these credentials may delete versions"));
    }
    findings.push(match report.can_be_destroyed() {
        Some(true) => Finding::warning(
            GUARD,
            "whoever takes over this host could destroy the backups here: these credentials may overwrite or delete them, and \
             neither kept versions nor a lock stands against it",
        )
        .hint("credentials that only put and get, with a bucket policy against overwriting, versions = true, or object_lock"),
        Some(false) => Finding::ok(GUARD, "with these credentials no committed backup can be destroyed"),
        None if url.starts_with("file:") => {
            Finding::ok(GUARD, "on a file system whoever takes over this host could destroy the backups")
        }
        None => return findings,
    });
    findings
}
