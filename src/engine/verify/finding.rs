//! What a verification found, as data.

use serde::Serialize;

use super::plan::Gap;
use crate::base::{BackupId, Incarnation, SourceName, Timestamp};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something stored is damaged, forged or missing.
    Damage,
    /// Worth knowing, and no damage.
    Notice,
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The object's key.
    pub key: String,
    /// What is wrong with it.
    pub what: String,
    /// The source it belongs to, if it belongs to one.
    pub source: Option<SourceName>,
    /// The backup that cannot be restored because of it.
    pub backup: Option<BackupId>,
    /// Others that cannot be restored either: they build on that one, or need the same log.
    pub others: Vec<BackupId>,
}

impl Finding {
    /// Damage that belongs to no one source.
    pub fn damage(key: impl Into<String>, what: impl Into<String>) -> Self {
        let (key, what) = (key.into(), what.into());
        Self { severity: Severity::Damage, key, what, source: None, backup: None, others: Vec::new() }
    }

    /// Something worth knowing.
    pub fn notice(key: impl Into<String>, what: impl Into<String>) -> Self {
        Self { severity: Severity::Notice, ..Self::damage(key, what) }
    }

    /// The same, of `source`.
    #[must_use]
    pub fn of(mut self, source: &SourceName) -> Self {
        self.source = Some(source.clone());
        self
    }

    /// The same, which makes `backups` useless.
    #[must_use]
    pub fn affecting<'b>(mut self, backups: impl IntoIterator<Item = &'b BackupId>) -> Self {
        let mut backups = backups.into_iter().cloned();
        self.backup = backups.next();
        self.others = backups.collect();
        self
    }

    /// Whether it is damage.
    pub fn is_damage(&self) -> bool {
        self.severity == Severity::Damage
    }

    /// Every backup that cannot be restored because of it.
    pub fn useless(&self) -> impl Iterator<Item = &BackupId> {
        self.backup.iter().chain(&self.others).filter(|_| self.is_damage())
    }
}

/// What came of one committed backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BackupVerdict {
    /// The backup.
    pub id: BackupId,
    /// Whether nothing of it and of what it builds on is damaged, and the log it needs is whole.
    pub intact: bool,
    /// Number of its packs.
    pub packs: u32,
    /// Bytes it stored.
    pub stored_bytes: u64,
}

/// What came of one incarnation's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogVerdict {
    /// The incarnation.
    pub incarnation: Incarnation,
    /// Segments that are there and not contradicted.
    pub segments: u64,
    /// Objects that no signed digest covers yet.
    pub uncovered: u64,
    /// Stretches that are missing.
    pub gaps: Vec<Gap>,
}

/// A backup without a valid commit entry: in flight, or left behind by a crash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Uncommitted {
    /// The backup.
    pub id: BackupId,
    /// When it began, by the writing host's clock; unknown when it left no valid mark.
    pub begun: Option<Timestamp>,
    /// Who took it.
    pub host: Option<String>,
}

/// What came of one source in one repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SourceReport {
    /// The source.
    pub source: SourceName,
    /// Its backups, in the order of the commit log.
    pub backups: Vec<BackupVerdict>,
    /// Its logs.
    pub logs: Vec<LogVerdict>,
    /// What looks like a backup and is none.
    pub uncommitted: Vec<Uncommitted>,
    /// Everything that is not as it should be.
    pub findings: Vec<Finding>,
    /// Objects whose content was looked at.
    pub checked_objects: u64,
    /// Bytes of them.
    pub checked_bytes: u64,
}

impl SourceReport {
    /// A report of nothing yet.
    pub fn new(source: &SourceName) -> Self {
        Self {
            source: source.clone(),
            backups: Vec::new(),
            logs: Vec::new(),
            uncommitted: Vec::new(),
            findings: Vec::new(),
            checked_objects: 0,
            checked_bytes: 0,
        }
    }

    /// Whether anything is damaged.
    pub fn is_damaged(&self) -> bool {
        self.findings.iter().any(Finding::is_damage)
    }
}
