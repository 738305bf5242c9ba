//! Everything that `status` reads: the protected system, the repositories, the queues of this host and what it remembers.
//!
//! What cannot be read becomes a sentence in the facts, never a missing fact that looks like a good one. The present
//! moment is the database's where a server answers: its clock wrote the commit times that it is compared with.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future;

use crate::base::{Engine, Error, Result, SourceName, Timestamp};
use crate::engine::Scope;
use crate::policy::Policy;
use crate::repo::evidence::Kept;
use crate::repo::queue::Queue;
use crate::source::sqlite::{Moment, probe};

use self::archive::{Beyond, Loaded};
use self::database::Seen;
use self::server::Asked;
use super::facts::{CopiesWanted, Facts, PolicyProblem, QueueFacts, RepositoryFacts, SystemFacts};
use super::history;
use super::unarchived::SilentLog;

mod archive;
mod database;
mod server;
mod standby;

pub use server::Server;
pub use standby::Standby;

/// How long the protected system may take to answer.
const PATIENCE: Duration = Duration::from_secs(15);

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
    /// What is protected.
    pub system: System<'a>,
    /// Its repositories.
    pub repositories: Vec<Place>,
    /// Where this host keeps what it remembers.
    pub state_dir: &'a Path,
}

/// What is protected, and how it is looked at.
pub enum System<'a> {
    /// A PostgreSQL cluster, by its server.
    Postgres(Server<'a>),
    /// The SQLite database at this path.
    Sqlite(&'a Path),
    /// The directory at this path.
    Directory(&'a Path),
}

impl System<'_> {
    fn engine(&self) -> Engine {
        match self {
            Self::Postgres(_) => Engine::Postgres,
            Self::Sqlite(_) => Engine::Sqlite,
            Self::Directory(_) => Engine::Directory,
        }
    }
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
    let engine = subject.system.engine();
    let (asked, slot) = match &subject.system {
        System::Postgres(server) => server.ask(PATIENCE).await,
        System::Sqlite(_) | System::Directory(_) => (None, None),
    };
    let running = asked.as_ref().and_then(|asked| asked.as_ref().ok()).map(Asked::incarnation);
    let loading = subject.repositories.iter().map(async |place| match &place.scope {
        Ok(scope) => archive::load(scope, engine, running.as_ref()).await.map_err(|error| told(&error)),
        Err(error) => Err(told(error)),
    });
    let loaded = future::join_all(loading).await;
    let drills = drills(&loaded);
    let evidence_problems = loaded.iter().flatten().flat_map(|loaded| &loaded.record.problems);
    let evidence_problems = evidence_problems.map(|(key, why)| format!("{key}: {why}")).collect();
    let beyond = beyond(&subject, asked.as_ref(), &loaded).await;
    let repositories = archive::measure(&loaded, &beyond).await;
    let standby = match &subject.system {
        System::Postgres(Server { standby: Some(standby), .. }) => Some(standby::ask(standby, &loaded, &repositories).await),
        _ => None,
    };
    let offset_micros = asked.as_ref().and_then(|asked| asked.as_ref().ok()).map_or(0, |asked| asked.offset_micros);
    let system = match (asked, &subject.system) {
        (Some(asked), _) => SystemFacts::Server(asked.map(|asked| asked.facts).map_err(|error| told(&error))),
        (None, System::Sqlite(path) | System::Directory(path)) => look_at(path, engine).await,
        (None, System::Postgres(_)) => SystemFacts::Server(Err("it was not asked".to_owned())),
    };
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
    let places = subject.repositories.into_iter().zip(loaded.iter().zip(repositories));
    Facts {
        source: subject.source.clone(),
        engine,
        now: Timestamp::from_unix_micros(here.unix_micros() + offset_micros).unwrap_or(here),
        site: subject.site,
        policy,
        policy_problem,
        copies_wanted: subject.copies_wanted,
        system,
        slot: slot.map(|slot| slot.map_err(|error| told(&error))),
        repositories: places.map(|(place, (loaded, held))| repository(place, loaded.as_ref().ok(), held)).collect(),
        standby,
        drills,
        evidence_problems,
        history,
        warnings,
    }
}

fn repository(place: Place, loaded: Option<&Loaded>, held: Result<super::facts::Held, String>) -> RepositoryFacts {
    let guard = loaded.and_then(|loaded| loaded.probe.as_ref());
    RepositoryFacts {
        protected_by: archive::protected_by(guard, place.lock_mode.as_deref()),
        clock_skew_seconds: guard.and_then(|report| report.clock_skew_seconds),
        queue: queue(&place.queue),
        name: place.name,
        site: place.site,
        held,
    }
}

/// An error in one sentence.
fn told(error: &Error) -> String {
    error.summary()
}

/// What the source's own log tells of what lies beyond the archive.
async fn beyond(subject: &Subject<'_>, asked: Option<&Result<Asked>>, loaded: &[Result<Loaded, String>]) -> Beyond {
    match &subject.system {
        System::Directory(_) => Beyond::Nothing,
        System::Sqlite(path) => Beyond::Database(Seen::look(path, stored_last(loaded), PATIENCE).await),
        System::Postgres(server) => {
            let own = asked.and_then(|asked| asked.as_ref().ok()).map(|asked| asked.own_log(server));
            let data_directory = server.data_directory.as_deref().filter(|_| own.is_none());
            Beyond::Server { own, silent: data_directory.and_then(SilentLog::of) }
        }
    }
}

/// What this host remembers to have stored last of a database: the newest that is noted beside any of its repositories.
fn stored_last(loaded: &[Result<Loaded, String>]) -> Option<Moment> {
    let noted = loaded.iter().flatten().filter_map(Loaded::stored_moment);
    noted.max_by_key(|moment| moment.captured_at)
}

/// Whether there is something at `path` that can be backed up, as far as looking tells.
async fn look_at(path: &Path, engine: Engine) -> SystemFacts {
    let own = path.to_owned();
    let looking = tokio::task::spawn_blocking(move || match engine {
        Engine::Directory => std::fs::read_dir(&own).err().map(|error| Error::io("read", &own, error)),
        _ => match probe(&own) {
            Ok(probe) => probe.refusal(&own),
            Err(error) => Some(error),
        },
    });
    let problem = match tokio::time::timeout(PATIENCE, looking).await {
        Ok(Ok(problem)) => problem.map(|error| told(&error)),
        Ok(Err(_)) => Some("looking at it was broken off".to_owned()),
        Err(_) => Some("its file system does not answer".to_owned()),
    };
    SystemFacts::Path { path: PathBuf::from(path), problem }
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
fn drills(loaded: &[Result<Loaded, String>]) -> Vec<Kept> {
    let kept = loaded.iter().flatten().flat_map(|loaded| &loaded.record.kept);
    let distinct: BTreeMap<_, _> =
        kept.map(|kept| ((kept.evidence.declared, kept.evidence.host.clone()), kept.clone())).collect();
    distinct.into_values().collect()
}
