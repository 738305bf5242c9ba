//! `check`: a doctor. Looks at everything a backup and a restore will need, and tries what can be tried.
//!
//! Nothing here changes the source but one segment switch of a cluster; the repository gets what a probe of its store puts there: a
//! report, and three small objects that are taken away again where that is allowed.

mod archive;
mod files;
mod keys;
pub mod probe;
mod repository;
mod server;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::base::cancel::Cancel;
use crate::base::progress::Progress;
use crate::base::{Error, Result};
use crate::engine::{IdentitySource, Scope, Writing};
use crate::policy::LogMode;
use crate::repo::CommitLog;
use crate::repo::probe::Recorded;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Ok,
    /// Works, and may hurt one day.
    Warning,
    /// Does not work.
    Fault,
}

impl Level {
    /// `ok`, `warning` or `fault`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Fault => "fault",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How much it matters.
    pub level: Level,
    /// What was looked at, in a word or two.
    pub subject: &'static str,
    /// What was found.
    pub message: String,
    /// What to do, a command to type where there is one.
    pub hints: Vec<String>,
}

impl Finding {
    fn new(level: Level, subject: &'static str, message: impl Into<String>) -> Self {
        Self { level, subject, message: message.into(), hints: Vec::new() }
    }

    fn ok(subject: &'static str, message: impl Into<String>) -> Self {
        Self::new(Level::Ok, subject, message)
    }

    fn warning(subject: &'static str, message: impl Into<String>) -> Self {
        Self::new(Level::Warning, subject, message)
    }

    fn fault(subject: &'static str, message: impl Into<String>) -> Self {
        Self::new(Level::Fault, subject, message)
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// An error as a finding: its details become part of the message, its hints stay.
    pub fn of_error(level: Level, subject: &'static str, error: &Error) -> Self {
        let details: String = error.details().iter().map(|(label, value)| format!("; {label} {value}")).collect();
        Self { level, subject, message: error.summary() + &details, hints: error.hints().to_vec() }
    }
}

/// What is protected.
pub enum System<'a> {
    /// A PostgreSQL cluster.
    Postgres(Cluster<'a>),
    /// The SQLite database at this path.
    Sqlite(&'a Path),
    /// A directory.
    Directory {
        /// Where it is.
        path: &'a Path,
        /// What is left out, as gitignore lines.
        exclude: &'a [String],
        /// Whether what is mounted below is left out.
        one_file_system: bool,
    },
}

/// A cluster, by its server.
pub struct Cluster<'a> {
    /// How to connect to the server.
    pub conninfo: &'a str,
    /// Where the data directory is, when not where the server says.
    pub data_directory: Option<PathBuf>,
    /// How long to wait for a segment to be archived.
    pub archive_timeout: Duration,
    /// The slot of the source's stream.
    pub slot: &'a str,
}

/// What a check looks at beside the repository.
pub struct Subject<'a> {
    /// What is protected.
    pub system: System<'a>,
    /// How its policy says that the log travels; none without a policy that can be used.
    pub log_mode: Option<LogMode>,
    /// What a verb that writes needs; why there is none.
    pub writing: std::result::Result<&'a Writing, &'a Error>,
    /// Where the identities are.
    pub identities: &'a dyn IdentitySource,
    /// What the repository's store was found to do, or why it could not be tried out.
    pub probe: std::result::Result<&'a Recorded, &'a Error>,
    /// Whether the configuration pins the repository's keys.
    pub pinned: bool,
}

impl Subject<'_> {
    fn is_streamed(&self) -> bool {
        self.log_mode == Some(LogMode::Stream)
    }

    /// A host that has the recovery key and no signing key is where one restores to: that the source is not there is as it
    /// should be.
    fn level_of_absence(&self) -> Level {
        let has_identity = self.identities.identities().is_ok_and(|identities| !identities.is_empty());
        if has_identity && self.writing.is_err() { Level::Warning } else { Level::Fault }
    }
}

/// Looks at one source in one repository, whose commit log is `log`.
///
/// # Errors
/// Interrupted only; everything else is a finding.
pub async fn run(
    scope: &Scope,
    log: &CommitLog,
    subject: &Subject<'_>,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Vec<Finding>> {
    let mut findings = repository::check(scope, subject);
    cancel.check()?;
    findings.extend(keys::check(scope, log, subject).await);
    cancel.check()?;
    match &subject.system {
        System::Postgres(cluster) => findings.extend(check_cluster(scope, subject, cluster, progress, cancel).await?),
        System::Sqlite(path) => findings.extend(files::database(subject, path).await?),
        System::Directory { path, exclude, one_file_system } => {
            progress.phase("walking through the directory", None);
            findings.extend(files::directory(scope, subject, path, exclude, *one_file_system, cancel).await?);
        }
    }
    cancel.check()?;
    findings.extend(repository::check_window(scope, log, subject).await);
    Ok(findings)
}

async fn check_cluster(
    scope: &Scope,
    subject: &Subject<'_>,
    cluster: &Cluster<'_>,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Vec<Finding>> {
    let (server, mut findings) = server::check(scope, subject, cluster).await;
    cancel.check()?;
    if let Some(server) = server {
        progress.phase("waiting for a segment to be archived", None);
        let trip = archive::check(scope, subject, cluster, &server);
        tokio::select! {
            found = trip => findings.extend(found),
            () = cancel.cancelled() => return Err(Error::interrupted()),
        }
    }
    Ok(findings)
}
