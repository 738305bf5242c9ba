//! What was declared of a source: objectives, schedule, log, retention, copies, drills. Pure: no I/O, and the present
//! moment is passed in.
//!
//! A policy is a TOML file ([`parse::parse`]); `policies/` holds working examples.

pub mod cadence;
pub mod choice;
pub mod contradictions;
pub mod cron;
pub mod parse;
pub mod retention;
pub mod turn;

use std::fmt;
use std::time::Duration;

use chrono_tz::Tz;

use self::cron::Cron;
use crate::base::DrillLevel;
use crate::base::units::format_duration;

/// Everything that one policy declares, with every default filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Its name: the file's, without `.toml`.
    pub name: String,
    /// What a recovery must achieve.
    pub objectives: Objectives,
    /// When what is done.
    pub schedule: Schedule,
    /// How the change log reaches the repositories.
    pub log: LogPolicy,
    /// How backups find what changed.
    pub backup: BackupPolicy,
    /// What is kept.
    pub retention: Retention,
    /// How many copies there are, and where.
    pub copies: Copies,
    /// How the disaster is rehearsed.
    pub drill: DrillPolicy,
}

/// `[objectives]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Objectives {
    /// Longest time from the disaster to a server that takes writes.
    pub rto: Duration,
    /// Longest stretch of commits that may be lost.
    pub rpo: Duration,
    /// How long it takes until somebody knows of the disaster and begins; counts into the RTO.
    pub detection: Duration,
    /// A drill older than this proves nothing any more.
    pub drill_max_age: Duration,
}

/// `[schedule]`: five-field cron, each in `timezone`.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// The zone in which the fields are read.
    pub timezone: Tz,
    /// Full backups.
    pub full: Option<Cron>,
    /// Differential backups.
    pub diff: Option<Cron>,
    /// Incremental backups.
    pub incr: Option<Cron>,
    /// Verification of what is stored.
    pub verify: Option<Cron>,
    /// Drills.
    pub drill: Option<Cron>,
}

impl Schedule {
    /// Its jobs by the names of their keys, those that are not scheduled too.
    pub fn jobs(&self) -> [(&'static str, Option<&Cron>); 5] {
        [
            ("full", self.full.as_ref()),
            ("diff", self.diff.as_ref()),
            ("incr", self.incr.as_ref()),
            ("verify", self.verify.as_ref()),
            ("drill", self.drill.as_ref()),
        ]
    }
}

/// How the change log reaches the repositories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogMode {
    /// Not at all: only the backups can be restored.
    None,
    /// Segment by segment, by the server's `archive_command`.
    Segments,
    /// Continuously, by streaming replication.
    Stream,
}

impl LogMode {
    /// `none`, `segments` or `stream`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Segments => "segments",
            Self::Stream => "stream",
        }
    }
}

/// `[log]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogPolicy {
    /// How it travels.
    pub mode: LogMode,
    /// Longest time for which a commit may not have left the host: `archive_timeout` and the time to store, or the
    /// interval of the stream. Half of the RPO unless the policy says otherwise.
    pub max_lag: Duration,
}

/// Where a diff or an incr looks for pages that changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangedPages {
    /// In what the change log told as it passed; the data is read where that does not tell.
    Log,
    /// In the data.
    Read,
}

impl ChangedPages {
    /// `log` or `read`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Read => "read",
        }
    }
}

/// `[backup]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupPolicy {
    /// Where changed pages are looked for.
    pub changed_pages: ChangedPages,
    /// How old the last audit of what the log tells may get. A week unless the policy says otherwise: the usual life of a
    /// chain, so that a fault is noticed before every backup that could have it depends on it, for one reading a week.
    pub audit: Duration,
}

impl Default for BackupPolicy {
    fn default() -> Self {
        Self { changed_pages: ChangedPages::Log, audit: Duration::from_secs(7 * 86_400) }
    }
}

/// `[retention]`. A backup stays while any of these wants it, and so does what it builds on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Every moment of this long back can be restored. Without a log zero unless the policy says otherwise.
    pub window: Duration,
    /// So many of the newest chains stay.
    pub keep_chains: u32,
    /// Chains younger than this stay.
    pub keep_for: Option<Duration>,
    /// The newest chain of each of so many days.
    pub daily: u32,
    /// Of each of so many weeks (from Monday on).
    pub weekly: u32,
    /// Of each of so many months.
    pub monthly: u32,
    /// Of each of so many years.
    pub yearly: u32,
    /// What `monthly` and `yearly` keep does not go before this age, whatever the numbers say.
    pub legal_minimum: Option<Duration>,
    /// Whether the log between kept backups that lie before the window goes; else it stays as long as they do.
    pub thin_log: bool,
}

impl Retention {
    /// Wants no backup, and lets no log between them go.
    pub const NOTHING: Self = Self {
        window: Duration::ZERO,
        keep_chains: 0,
        keep_for: None,
        daily: 0,
        weekly: 0,
        monthly: 0,
        yearly: 0,
        legal_minimum: None,
        thin_log: false,
    };
}

/// `[copies]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copies {
    /// Repositories that must hold a file of the log before it counts as archived; all of the source's when not said.
    pub log: Option<usize>,
    /// As `log`, for a backup.
    pub backup: Option<usize>,
    /// The repositories that hold the source, by their names in the configuration; those of the source when empty.
    pub repositories: Vec<String>,
    /// Those of them whose objects must be locked, so that nobody with the host's credentials can delete them.
    pub locked: Vec<String>,
    /// How long the storage class that the backups lie in takes before it can be read: for the arithmetic of the RTO.
    pub thaw: Option<Duration>,
}

/// `[drill]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DrillPolicy {
    /// How far the drills go, each in turn; `component` unless the policy says otherwise.
    pub levels: Vec<DrillLevel>,
    /// What must hold of the restored data.
    pub checks: Vec<SqlCheck>,
    /// Bytes a second that a drill may fetch.
    pub limit_rate_bytes: Option<u64>,
    /// How long one query of a check may take; five minutes when the policy does not say.
    pub statement_timeout: Option<Duration>,
    /// Libraries of `shared_preload_libraries` that the restored server cannot do without; the others are not loaded.
    pub preload_libraries: Vec<String>,
    /// For `--self-test`: what spoils the restored data so that a check must notice.
    pub spoil: Option<Spoil>,
}

/// `spoil` and `spoil_database` of `[drill]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spoil {
    /// The statement, run in the restored copy only.
    pub sql: String,
    /// The database; `postgres` unless the policy says otherwise.
    pub database: String,
}

/// One `[[drill.check]]`: a query, and what it must answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqlCheck {
    /// What it proves, for people.
    pub name: String,
    /// The database to ask; `postgres` unless the policy says otherwise.
    pub database: String,
    /// One query.
    pub sql: String,
    /// What it must answer.
    pub expect: Expect,
}

/// What a query must answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// One row with one column, which reads like this as text.
    Value(String),
    /// One number, at least this.
    AtLeast(i64),
    /// No row at all.
    NoRows,
    /// One row or more.
    Rows,
    /// One timestamp with time zone, at most this long before the moment that was restored: a canary.
    FreshWithin(Duration),
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(value) => write!(f, "'{value}'"),
            Self::AtLeast(least) => write!(f, "at least {least}"),
            Self::NoRows => f.write_str("no rows"),
            Self::Rows => f.write_str("rows"),
            Self::FreshWithin(age) => write!(f, "a time at most {} before the target", format_duration(*age)),
        }
    }
}
