//! Asks a warm standby how far it is. What cannot be asked is told, and counts for nothing.

use std::path::PathBuf;
use std::time::Duration;

use super::super::facts::{Held, StandbyFacts, StandbyState};
use super::archive::Loaded;
use crate::base::{Incarnation, Result};
use crate::source::postgres::connect::{Session, connect};
use crate::source::postgres::standby::LocalServer;

/// How long it may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where a standby is said to be.
pub enum Standby {
    /// In a directory on this host, where one of these users may be able to log in.
    Directory(PathBuf, Vec<String>),
    /// At the end of this connection string.
    Server(String),
}

impl Standby {
    /// For people, without secrets.
    fn shown(&self, session: Option<&Session>) -> String {
        match (self, session) {
            (Self::Directory(data, _), _) => data.display().to_string(),
            (Self::Server(_), Some(session)) => session.describe(),
            (Self::Server(_), None) => "its server".to_owned(),
        }
    }

    async fn session(&self) -> Result<Session> {
        let (data, users) = match self {
            Self::Server(conninfo) => return connect(conninfo).await,
            Self::Directory(data, users) => (data, users),
        };
        LocalServer::of(data)?.session(users).await
    }
}

/// What the standby says, beside what the repositories hold.
pub(super) async fn ask(standby: &Standby, loaded: &[Result<Loaded, String>], held: &[Result<Held, String>]) -> StandbyFacts {
    let asking = async {
        let session = standby.session().await;
        let shown = standby.shown(session.as_ref().ok());
        let state = match session {
            Ok(session) => state(&session, loaded, held).await,
            Err(error) => Err(error),
        };
        StandbyFacts { place: shown, state: state.map_err(|error| error.summary()) }
    };
    let silent = || StandbyFacts { place: standby.shown(None), state: Err("it does not answer".to_owned()) };
    tokio::time::timeout(TIMEOUT, asking).await.unwrap_or_else(|_| silent())
}

async fn state(session: &Session, loaded: &[Result<Loaded, String>], held: &[Result<Held, String>]) -> Result<StandbyState> {
    let info = session.info().await?;
    let following = session.following().await?;
    let incarnation = Incarnation::postgres(info.major, info.system_identifier);
    // The repository whose log goes farthest says which timelines count.
    let frontier = |held: &Held| held.frontier.as_ref().map(|frontier| (frontier.timeline, frontier.end_lsn));
    let places = loaded.iter().flatten().zip(held.iter().flatten()).filter_map(|(one, held)| Some((frontier(held)?, one)));
    let farthest = places.max_by_key(|(frontier, _)| *frontier);
    let replayed = following.replay_lsn.unwrap_or_default();
    let leads = |at| farthest.as_ref().is_none_or(|((newest, _), one)| one.leads_to(*newest, at, replayed));
    let (mut timeline, mut is_on_path) = (info.timeline, leads(info.timeline));
    if !is_on_path && following.in_recovery {
        // It notes a new timeline only now and then: made to, it says whether what it has is of that one.
        session.checkpoint().await?;
        timeline = session.timeline().await?;
        is_on_path = leads(timeline);
    }
    Ok(StandbyState {
        is_of_source: farthest.as_ref().is_none_or(|(_, one)| one.is_of(&incarnation)),
        in_recovery: following.in_recovery,
        is_paused: following.is_paused,
        is_on_path,
        delay: following.delay,
        timeline,
        replay_lsn: replayed,
        last_commit: following.last_commit,
    })
}
