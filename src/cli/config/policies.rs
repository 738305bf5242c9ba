//! The policy that a source names: a file, or one of those that come with the program.
//!
//! Who acts on a policy gets none that contradicts itself. How many copies are needed is answered whatever the policy is
//! like: with one that cannot be used, all of them, as without a policy.

use std::path::{Path, PathBuf};

use super::{Settings, SourceSettings};
use crate::base::document::{beside, nearest};
use crate::base::{Error, Result, Timestamp};
use crate::policy::contradictions::{Finding, Severity, against_engine, against_repositories, contradictions};
use crate::policy::{Copies, Policy, parse};

/// The policies that come with the program, by name.
pub const READY: &[(&str, &str)] = &[
    ("critical-banking", include_str!("../../../policies/critical-banking.toml")),
    ("e-commerce", include_str!("../../../policies/e-commerce.toml")),
    ("corporate-site", include_str!("../../../policies/corporate-site.toml")),
    ("analytics", include_str!("../../../policies/analytics.toml")),
    ("archive", include_str!("../../../policies/archive.toml")),
    ("internet-bank-transactions", include_str!("../../../policies/internet-bank-transactions.toml")),
    ("internet-bank-documents", include_str!("../../../policies/internet-bank-documents.toml")),
    ("shared-files", include_str!("../../../policies/shared-files.toml")),
    ("app-database", include_str!("../../../policies/app-database.toml")),
];

/// A source's policy, looked at closely.
pub struct Examined {
    /// As the source names it.
    pub name: String,
    /// What it declares.
    pub policy: Policy,
    /// The file that it is in; none when it comes with the program.
    pub file: Option<PathBuf>,
    /// What does not fit.
    pub findings: Vec<Finding>,
}

/// How many repositories must hold something before it counts as stored.
#[derive(Debug)]
pub struct Needed {
    /// So many.
    pub repositories: usize,
    /// Why that is all of them although the source has a policy.
    pub doubt: Option<String>,
}

impl Settings {
    /// The policy of `source`, read from its file now, to act on; none when the source names none.
    ///
    /// # Errors
    /// Usage errors when there is no such policy, when something in it is wrong, or when it contradicts itself or the
    /// source's repositories.
    pub fn policy_of(&self, source: &SourceSettings) -> Result<Option<Policy>> {
        let Some(examined) = self.examined_policy_of(source)? else { return Ok(None) };
        match refusal(&examined) {
            Some(refusal) => Err(refusal.detail("source", source.name.to_string())),
            None => Ok(Some(examined.policy)),
        }
    }

    /// The policy of `source`, and all that does not fit in it or with the source.
    ///
    /// # Errors
    /// As [`load`].
    pub fn examined_policy_of(&self, source: &SourceSettings) -> Result<Option<Examined>> {
        let Some(name) = source.policy.clone() else { return Ok(None) };
        let (policy, file) = load(&name, Some(&self.config_file))?;
        let mut findings = contradictions(&policy, Timestamp::now());
        findings.extend(against_engine(&policy, &source.name, source.kind.engine()));
        findings.extend(against_repositories(&policy, &source.repositories));
        findings.extend(overridden("log_copies", source.copies.log, "copies.log", policy.copies.log));
        findings.extend(overridden("backup_copies", source.copies.backup, "copies.backup", policy.copies.backup));
        Ok(Some(Examined { name, policy, file, findings }))
    }

    /// The policy called `name`, to look at: it may contradict itself.
    ///
    /// # Errors
    /// As [`load`].
    pub fn policy(&self, name: &str) -> Result<Policy> {
        load(name, Some(&self.config_file)).map(|(policy, _)| policy)
    }

    /// How many repositories must hold a file of the log of `source` before it counts as archived: what the configuration
    /// says, else the policy, else all.
    pub fn log_copies(&self, source: &SourceSettings) -> Needed {
        self.needed(source, source.copies.log, |copies| copies.log)
    }

    /// As [`Settings::log_copies`], for a backup.
    pub fn backup_copies(&self, source: &SourceSettings) -> Needed {
        self.needed(source, source.copies.backup, |copies| copies.backup)
    }

    fn needed(&self, source: &SourceSettings, said: Option<usize>, declared: impl Fn(&Copies) -> Option<usize>) -> Needed {
        let all = source.repositories.len();
        let (Some(name), None) = (&source.policy, said) else {
            return Needed { repositories: said.unwrap_or(all), doubt: None };
        };
        let count = self.policy(name).map_err(|error| error.summary()).and_then(|policy| {
            match against_repositories(&policy, &source.repositories).into_iter().next() {
                Some(finding) => Err(sentence(&finding)),
                None => Ok(declared(&policy.copies)),
            }
        });
        match count {
            Ok(count) => Needed { repositories: count.unwrap_or(all), doubt: None },
            Err(why) => {
                let doubt =
                    format!("source {}: policy {name} cannot be used, so all repositories are needed: {why}", source.name);
                Needed { repositories: all, doubt: Some(doubt) }
            }
        }
    }
}

/// The policy called `name`, with the file that it is in (none for one that comes with the program).
///
/// A name with a slash, or that ends in `.toml`, is a path beside the configuration; any other is `policies/NAME.toml`
/// beside it when there is such a file, else one of those that come with the program. Without a configuration, paths
/// count from the present directory.
///
/// # Errors
/// Usage errors when there is no such policy, or something in it is wrong.
pub fn load(name: &str, config_file: Option<&Path>) -> Result<(Policy, Option<PathBuf>)> {
    let path = if is_path(name) { name.to_owned() } else { format!("policies/{name}.toml") };
    let path = beside(config_file.unwrap_or(Path::new("")), &path);
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            parse::parse(&stem, &path, &text).map(|policy| (policy, Some(path)))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => match READY.iter().find(|(ready, _)| *ready == name) {
            Some((ready, text)) => {
                let path = PathBuf::from(format!("policies/{ready}.toml"));
                parse::parse(ready, &path, text).map(|policy| (policy, None))
            }
            None => Err(unknown(name, &path)),
        },
        Err(error) => Err(Error::usage(format!("cannot read the policy {}", path.display())).caused_by(error)),
    }
}

/// Whether a policy's name is that of a file.
pub fn is_path(name: &str) -> bool {
    name.contains('/') || name.ends_with(".toml")
}

/// A finding in one line.
pub fn sentence(finding: &Finding) -> String {
    format!("{}: {} ({})", finding.key, finding.sentence, finding.arithmetic)
}

/// That the configuration asks for fewer copies than the policy.
fn overridden(said_key: &str, said: Option<usize>, key: &'static str, declared: Option<usize>) -> Option<Finding> {
    let (said, declared) = (said?, declared?);
    (said < declared).then(|| Finding {
        severity: Severity::Warned,
        key,
        sentence: format!("the configuration says {said_key}, and that is what counts"),
        arithmetic: format!("{said_key} {said}, less than the {declared} of the policy"),
    })
}

/// Why nothing acts on the policy; none when nothing is refused.
fn refusal(Examined { name, findings, .. }: &Examined) -> Option<Error> {
    let mut refused = findings.iter().filter(|finding| finding.severity == Severity::Refused);
    let error = Error::usage(format!("policy {name} contradicts itself: {}", sentence(refused.next()?)));
    let error = refused.fold(error, |error, finding| error.detail("also", sentence(finding)));
    Some(error.hint(format!("lifeboat policy check {name}   shows all of it")))
}

fn unknown(name: &str, path: &Path) -> Error {
    let known: Vec<&str> = READY.iter().map(|(ready, _)| *ready).collect();
    let error = Error::usage(format!("there is no policy '{name}'"))
        .detail("looked for", path.display().to_string())
        .detail("ready", known.join("\n"));
    match nearest(name, known.into_iter()) {
        Some(near) => error.hint(format!("did you mean '{near}'?")),
        None => error.hint("lifeboat policy list   shows those that there are"),
    }
}
