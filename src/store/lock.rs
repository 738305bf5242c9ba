//! Locks on objects: what an operator asks for, and what a store says of one object.
//!
//! Only stores that keep versions have locks. The lock is on the version that was written; a name can still be hidden
//! by a delete marker or a later version, which is why a repository under lock is read by its oldest versions.

use std::fmt;
use std::time::Duration;

use crate::base::Timestamp;

/// Who may end a lock early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockMode {
    /// Whoever has `s3:BypassGovernanceRetention`.
    Governance,
    /// Nobody, not even the account's owner.
    Compliance,
}

impl LockMode {
    /// `governance` or `compliance`, as in `lifeboat.toml`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Governance => "governance",
            Self::Compliance => "compliance",
        }
    }

    /// The inverse of [`LockMode::as_str`], in any case.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Governance, Self::Compliance].into_iter().find(|mode| text.eq_ignore_ascii_case(mode.as_str()))
    }
}

impl fmt::Display for LockMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How the objects of a repository are locked when they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockTerms {
    /// Who may end a lock early.
    pub mode: LockMode,
    /// How long a backup is locked from its commit on, with everything it builds on.
    pub lock_for: Duration,
    /// How long a chain is expected to be built on: so much longer each object is locked at once, so that the locks of
    /// a chain need no extension while it is younger.
    pub chain_for: Duration,
}

impl LockTerms {
    /// Until when an object that is written, or extended, at `now` is locked.
    pub fn until(&self, now: Timestamp) -> Timestamp {
        now.plus(self.lock_for).plus(self.chain_for)
    }

    /// Until when everything that a backup committed at `now` needs must be locked.
    pub fn needed(&self, now: Timestamp) -> Timestamp {
        now.plus(self.lock_for)
    }
}

/// A lock on an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lock {
    /// Who may end it early.
    pub mode: LockMode,
    /// When it ends.
    pub until: Timestamp,
}

impl Lock {
    /// Whether it still holds.
    pub fn holds_at(&self, now: Timestamp) -> bool {
        self.until > now
    }
}

impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "locked until {} ({})", self.until.human_seconds(), self.mode)
    }
}

/// How long objects of a name live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// Written once, and locked where objects are locked.
    Lasting,
    /// Written once and removed soon: never locked.
    Short,
    /// Rewritten: the newest version counts, and is never locked.
    Rewritten,
}

/// How long the object of a key lives: a rule that the repository's layout gives the store.
#[derive(Clone, Copy)]
pub struct LifetimeRule(pub fn(&str) -> Lifetime);

impl LifetimeRule {
    pub(crate) fn of(self, key: &str) -> Lifetime {
        (self.0)(key)
    }
}

impl Default for LifetimeRule {
    /// Everything lasts.
    fn default() -> Self {
        Self(|_| Lifetime::Lasting)
    }
}

impl fmt::Debug for LifetimeRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LifetimeRule")
    }
}

/// A program has one rule.
impl PartialEq for LifetimeRule {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for LifetimeRule {}

/// What stands between the credentials in use and what is stored; none where it could not be tried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Protection {
    /// A plain put does not replace an object.
    pub refuses_overwrite: Option<bool>,
    /// What was overwritten or deleted is kept as a version.
    pub keeps_versions: Option<bool>,
    /// These credentials may delete versions.
    pub deletes_versions: Option<bool>,
    /// Objects can be locked in this bucket.
    pub can_lock: Option<bool>,
    /// What the lock on a canary did, where objects are locked.
    pub lock: Option<LockTrial>,
    /// Whether the repository is read by its oldest versions.
    pub reads_oldest: bool,
}

/// What came of trying to delete a locked canary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockTrial {
    /// The store refused to delete it, and let go another that was not locked.
    Proven(LockMode),
    /// The store says that it is locked; nothing could be deleted to prove it, for these credentials delete nothing.
    Recorded(LockMode),
    /// It was deleted although it was locked.
    Broken,
    /// It could not be locked: why.
    Refused(String),
}
