//! What is known of a source at one moment: plain data, from which everything is judged.

use std::path::PathBuf;
use std::time::Duration;

use crate::base::{BackupId, BackupType, Engine, Lsn, SourceName, TimelineId, Timestamp};
use crate::engine::archive::slot::Slot;
use crate::engine::window::Interval;
use crate::policy::Policy;
use crate::repo::evidence::Kept;

use super::history::Sample;
use super::rpo::{Coverage, Exposure};

/// Everything that was gathered of one source.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The source.
    pub source: SourceName,
    /// What kind of system it is.
    pub engine: Engine,
    /// The present moment: by the database's clock when it answers, else by this host's.
    pub now: Timestamp,
    /// The site that the source stands on, where it is declared.
    pub site: Option<String>,
    /// What was declared; none when the source names no policy, or one that cannot be used.
    pub policy: Option<Policy>,
    /// The policy that cannot be used, and why.
    pub policy_problem: Option<PolicyProblem>,
    /// How many repositories must hold a file of the log, and a backup.
    pub copies_wanted: CopiesWanted,
    /// What it says of itself.
    pub system: SystemFacts,
    /// The slot of the source's stream, or why it cannot be looked at; none when its server is the one that says nothing, and
    /// of what has none.
    pub slot: Option<Result<Slot, String>>,
    /// Each repository of the source, in the order of the configuration.
    pub repositories: Vec<RepositoryFacts>,
    /// Its warm standby, where one is declared.
    pub standby: Option<StandbyFacts>,
    /// All evidence that verified, oldest first.
    pub drills: Vec<Kept>,
    /// What is wrong with the evidence.
    pub evidence_problems: Vec<String>,
    /// What earlier runs saw, oldest first.
    pub history: Vec<Sample>,
    /// What this host could not look up or remember.
    pub warnings: Vec<String>,
}

/// Why what was declared is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyProblem {
    /// The policy's name.
    pub name: String,
    /// Why it cannot be used.
    pub why: String,
}

/// How many repositories must hold what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopiesWanted {
    /// A file of the log.
    pub log: usize,
    /// A backup.
    pub backup: usize,
}

impl Facts {
    /// What the server says; none when it says nothing, or there is no server.
    pub fn server(&self) -> Option<&ServerFacts> {
        match &self.system {
            SystemFacts::Server(server) => server.as_ref().ok(),
            SystemFacts::Path { .. } => None,
        }
    }
}

/// What the protected system says of itself.
#[derive(Clone, Debug, PartialEq)]
pub enum SystemFacts {
    /// A server; why it says nothing.
    Server(Result<ServerFacts, String>),
    /// A database file or a directory.
    Path {
        /// Where it lies on this host.
        path: PathBuf,
        /// Why it cannot be looked at.
        problem: Option<String>,
    },
}

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerFacts {
    /// The end of its log.
    pub wal_lsn: Lsn,
    /// Its clock minus this host's, in seconds; 0 when they agree within what can be measured.
    pub clock_skew_seconds: f64,
    /// Whether it is a standby.
    pub in_recovery: bool,
    /// Its archiver; none when it does not archive.
    pub archiver: Option<ArchiverFacts>,
}

/// A warm standby.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandbyFacts {
    /// Where it is, without secrets.
    pub place: String,
    /// What it says; why it says nothing.
    pub state: Result<StandbyState, String>,
}

/// What a standby says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandbyState {
    /// Whether it is of the cluster that the repositories hold.
    pub is_of_source: bool,
    /// Whether it follows, and takes no writes.
    pub in_recovery: bool,
    /// Whether somebody has paused its replay.
    pub is_paused: bool,
    /// Whether what it has replayed lies on the way to the archive's newest timeline.
    pub is_on_path: bool,
    /// By how much it lags on purpose.
    pub delay: Duration,
    /// The timeline that it has noted last.
    pub timeline: TimelineId,
    /// The end of what it has replayed.
    pub replay_lsn: Lsn,
    /// Time of the last transaction end that it has replayed since it was started.
    pub last_commit: Option<Timestamp>,
}

/// A server's archiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiverFacts {
    /// Whether its latest attempt failed.
    pub failing: bool,
    /// Failures since the statistics were reset.
    pub failed_count: u64,
    /// The file of the last failure.
    pub last_failed_file: Option<String>,
    /// When that was.
    pub last_failed_time: Option<Timestamp>,
}

/// One repository of a source.
#[derive(Clone, Debug)]
pub struct RepositoryFacts {
    /// Its name in the configuration.
    pub name: String,
    /// The site that it stands on, where it is declared.
    pub site: Option<String>,
    /// Why somebody with the protected host's credentials cannot destroy what it holds; none when that is not known to be so.
    pub protected_by: Option<String>,
    /// Its clock minus that of the host that probed it last, in seconds.
    pub clock_skew_seconds: Option<f64>,
    /// What waits on this host to be delivered to it; why that cannot be read.
    pub queue: Result<QueueFacts, String>,
    /// What it holds; why that is not known.
    pub held: Result<Held, String>,
}

/// What waits to be delivered to a repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueFacts {
    /// Items that are tried again.
    pub waiting: usize,
    /// Items that were given up.
    pub given_up: usize,
    /// Since when the oldest waits.
    pub oldest: Option<Timestamp>,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
}

/// What a repository holds of a source.
#[derive(Clone, Debug, Default)]
pub struct Held {
    /// How far a restore would get; why there would be none.
    pub frontier: Option<Frontier>,
    /// Why there is no frontier.
    pub no_frontier: Option<String>,
    /// Its backups, oldest first.
    pub backups: Vec<BackupPoint>,
    /// The recovery window of the timeline that a restore would follow, in order of time.
    pub window: Vec<Window>,
    /// When which part of the log arrived.
    pub coverage: Coverage,
    /// Files that were archived with different contents.
    pub split_brains: Vec<String>,
    /// What is not used, and why; how the commit log contradicts what was seen before.
    pub problems: Vec<String>,
}

/// A stretch of the recovery window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// What it is.
    pub interval: Interval,
    /// The name of the segment that is missing after it.
    pub missing: String,
}

/// How far a restore of the newest backup gets.
#[derive(Clone, Debug, PartialEq)]
pub struct Frontier {
    /// The backup.
    pub backup: BackupId,
    /// Version number of the server that it was taken from, `150018`; 0 where there is none.
    pub server_version: u32,
    /// The timeline that a restore would follow.
    pub timeline: TimelineId,
    /// End of the log that follows it without a gap.
    pub end_lsn: Lsn,
    /// Everything that was committed by then is there.
    pub reaches: Timestamp,
    /// What would be lost with the server.
    pub exposure: Exposure,
    /// Bytes of log that would be replayed.
    pub replay_bytes: u64,
    /// Stored bytes that may have to be fetched: the whole chain.
    pub fetch_bytes: u64,
    /// Bytes that would be written.
    pub write_bytes: u64,
}

/// A backup, as far as its age and size matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupPoint {
    /// Its id.
    pub id: BackupId,
    /// Its type.
    pub backup_type: BackupType,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub stopped: Timestamp,
    /// Bytes in the restored tree.
    pub raw_bytes: u64,
    /// Whether it has expired since.
    pub expired: bool,
}
