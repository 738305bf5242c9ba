//! Everything that `status` reads: the server, its log, the repositories, the queues of this host and what it remembers.
//!
//! What cannot be read becomes a sentence in the facts, never a missing fact that looks like a good one. The present
//! moment is the database's: its clock wrote the commit times that it is compared with.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future;

use crate::base::{Error, Incarnation, Result, SourceName, Timestamp};
use crate::engine::Scope;
use crate::engine::archive::slot::{Slot, own_log};
use crate::policy::Policy;
use crate::repo::evidence::Kept;
use crate::repo::queue::Queue;
use crate::source::postgres::connect::{self, Session};
use crate::source::postgres::server::{ArchiveMode, ServerInfo};

use super::facts::{ArchiverFacts, CopiesWanted, Facts, PolicyProblem, QueueFacts, RepositoryFacts, ServerFacts};
use super::history;
use super::unarchived::{OwnLog, SilentLog};

mod archive;
mod standby;

pub use standby::Standby;

/// How long the server may take to answer.
const SERVER_TIMEOUT: Duration = Duration::from_secs(15);

/// What to gather of.
pub struct Subject<'a> {
    /// The source.
    pub source: &'a SourceName,
    /// The site that it stands on, where it is declared.
    pub site: Option<String>,
    /// What was declared; why that is not known.
    pub policy: Result<Option<Policy>, PolicyProblem>,
    /// How many repositories must hold what.
    pub copies_wanted: CopiesWanted,
    /// How to connect to its primary: a standby does not know what that has committed.
    pub conninfo: &'a str,
    /// Where its data directory is, when not where the server says.
    pub data_directory: Option<PathBuf>,
    /// The slot of its stream.
    pub slot: &'a str,
    /// How to connect to the server that is streamed from, where that is another one: a standby that is backed up.
    pub streamed_from: Option<&'a str>,
    /// Its warm standby, where one is declared.
    pub standby: Option<Standby>,
    /// Its repositories.
    pub repositories: Vec<Place>,
    /// Where this host keeps what it remembers.
    pub state_dir: &'a Path,
}

/// A repository of the source.
pub struct Place {
    /// Its name in the configuration.
    pub name: String,
    /// The site that it stands on, where it is declared.
    pub site: Option<String>,
    /// The mode of the lock under which its objects are put, if any.
    pub lock_mode: Option<String>,
    /// What waits for it.
    pub queue: Queue,
    /// The source in it; why it cannot be opened.
    pub scope: Result<Scope, Error>,
}

/// Gathers the facts of one source.
pub async fn gather(subject: Subject<'_>) -> Facts {
    let (server, elsewhere) = future::join(patiently(ask_server(&subject)), slot_elsewhere(&subject)).await;
    let (server, slot) = match server {
        Ok((info, facts, offset_micros, slot)) => (Ok((info, facts, offset_micros)), slot),
        Err(error) => (Err(error), None),
    };
    let slot = elsewhere.or(slot);
    let running = server.as_ref().ok().map(|(info, _, _)| Incarnation::postgres(info.major, info.system_identifier));
    let loading = subject.repositories.iter().map(async |place| match &place.scope {
        Ok(scope) => archive::load(scope, running.as_ref()).await.map_err(|error| told(&error)),
        Err(error) => Err(told(error)),
    });
    let loaded = future::join_all(loading).await;
    let drills = drills(&loaded);
    let evidence_problems = loaded.iter().flatten().flat_map(|loaded| &loaded.record.problems);
    let evidence_problems = evidence_problems.map(|(key, why)| format!("{key}: {why}")).collect();
    let own = server.as_ref().ok().map(|(info, facts, _)| log_of(&subject, info, facts));
    let silent = subject.data_directory.as_deref().filter(|_| own.is_none()).and_then(SilentLog::of);
    let repositories = archive::measure(&loaded, own, silent).await;
    let standby = match &subject.standby {
        Some(standby) => Some(standby::ask(standby, &loaded, &repositories).await),
        None => None,
    };
    let offset_micros = server.as_ref().map_or(0, |(_, _, offset_micros)| *offset_micros);
    let here = Timestamp::now();
    let mut warnings: Vec<String> = loaded.iter().flatten().filter_map(|loaded| loaded.warning.clone()).collect();
    let history = history::load(&history::path(subject.state_dir, subject.source)).unwrap_or_else(|error| {
        warnings.push(format!("what earlier runs saw is not known: {}", error.summary()));
        Vec::new()
    });
    let (policy, policy_problem) = match subject.policy {
        Ok(policy) => (policy, None),
        Err(problem) => (None, Some(problem)),
    };
    Facts {
        source: subject.source.clone(),
        now: Timestamp::from_unix_micros(here.unix_micros() + offset_micros).unwrap_or(here),
        site: subject.site,
        policy,
        policy_problem,
        copies_wanted: subject.copies_wanted,
        server: server.map(|(_, facts, _)| facts).map_err(|error| told(&error)),
        slot: slot.map(|slot| slot.map_err(|error| told(&error))),
        repositories: subject
            .repositories
            .into_iter()
            .zip(loaded.iter().zip(repositories))
            .map(|(place, (loaded, held))| {
                let guard = loaded.as_ref().ok().and_then(|loaded| loaded.probe.as_ref());
                RepositoryFacts {
                    protected_by: archive::protected_by(guard, place.lock_mode.as_deref()),
                    clock_skew_seconds: guard.and_then(|report| report.clock_skew_seconds),
                    queue: queue(&place.queue),
                    name: place.name,
                    site: place.site,
                    held,
                }
            })
            .collect(),
        standby,
        drills,
        evidence_problems,
        history,
        warnings,
    }
}

/// An error in one sentence.
fn told(error: &Error) -> String {
    error.summary()
}

/// What a server answers, if it does so in time.
async fn patiently<T>(asking: impl Future<Output = Result<T>>) -> Result<T> {
    let asked = tokio::time::timeout(SERVER_TIMEOUT, asking).await;
    asked.unwrap_or_else(|_| Err(Error::unreachable("the server does not answer")))
}

/// The slot, where it is on another server than the primary; none where it is not.
async fn slot_elsewhere(subject: &Subject<'_>) -> Option<Result<Slot>> {
    let conninfo = subject.streamed_from?;
    let asking = async {
        let session = connect::connect(conninfo).await?;
        let info = session.info().await?;
        slot(subject.slot, &session, &info, &info.data_directory).await
    };
    Some(patiently(asking).await)
}

/// The slot `name` of a server whose data directory is `data`.
async fn slot(name: &str, session: &Session, info: &ServerInfo, data: &Path) -> Result<Slot> {
    let state = session.slot(name).await?;
    let free_bytes = Slot::free_bytes(data, info.system_identifier);
    Ok(Slot { name: name.to_owned(), state, free_bytes, size: info.wal_segment_size })
}

/// The server's identity, what it says, its clock minus this host's in microseconds, and the slot, where it has that.
async fn ask_server(subject: &Subject<'_>) -> Result<(ServerInfo, ServerFacts, i64, Option<Result<Slot>>)> {
    let session = connect::connect(subject.conninfo).await?;
    let info = session.info().await?;
    let wal_lsn = session.log_end().await?;
    let before = Timestamp::now();
    let clock = session.clock().await?;
    let after = Timestamp::now();
    let middle = before.unix_micros() + (after.unix_micros() - before.unix_micros()) / 2;
    let offset_micros = if clock < before || clock > after { clock.unix_micros() - middle } else { 0 };
    let archives = info.archive_mode == ArchiveMode::Always || (info.archive_mode == ArchiveMode::On && !info.in_recovery);
    let status = session.archiver_status().await?;
    let archiver = archives.then(|| ArchiverFacts {
        failing: status.is_failing(),
        failed_count: status.failed_count,
        last_failed_file: status.last_failed_file,
        last_failed_time: status.last_failed_time,
    });
    let in_recovery = info.in_recovery;
    let slot = match subject.streamed_from {
        Some(_) => None,
        None => Some(slot(subject.slot, &session, &info, data_directory(subject, &info)).await),
    };
    let facts = ServerFacts { wal_lsn, clock_skew_seconds: offset_micros as f64 / 1e6, in_recovery, archiver };
    Ok((info, facts, offset_micros, slot))
}

/// The log of the server that answers.
fn log_of(subject: &Subject<'_>, info: &ServerInfo, facts: &ServerFacts) -> OwnLog {
    OwnLog {
        directory: own_log(data_directory(subject, info), info.system_identifier),
        system_identifier: info.system_identifier,
        timeline: info.timeline,
        // A standby's log ends before its primary's does.
        end_lsn: Some(facts.wal_lsn).filter(|_| !info.in_recovery),
        is_whole: !info.in_recovery,
        size: info.wal_segment_size,
    }
}

/// Where the server's data directory should be.
fn data_directory<'a>(subject: &'a Subject<'_>, info: &'a ServerInfo) -> &'a Path {
    subject.data_directory.as_ref().unwrap_or(&info.data_directory)
}

fn queue(queue: &Queue) -> Result<QueueFacts, String> {
    let items = queue.items().map_err(|error| told(&error))?;
    let given_up = items.iter().filter(|queued| queued.given_up).count();
    Ok(QueueFacts {
        waiting: items.len() - given_up,
        given_up,
        oldest: items.first().map(|queued| queued.since),
        last_error: items.iter().rev().find_map(|queued| queued.last_error.clone()),
    })
}

/// The evidence of all repositories: the same drill is counted once.
fn drills(loaded: &[Result<archive::Loaded, String>]) -> Vec<Kept> {
    let kept = loaded.iter().flatten().flat_map(|loaded| &loaded.record.kept);
    let distinct: BTreeMap<_, _> =
        kept.map(|kept| ((kept.evidence.declared, kept.evidence.host.clone()), kept.clone())).collect();
    distinct.into_values().collect()
}
