//! The restored server from its start to a server that takes writes, each step timed.

use std::time::{Duration, Instant};

use super::Stopwatch;
use super::run::Job;
use crate::base::{Error, Lsn, Result};
use crate::engine::restore::plan::RecoveryStop;
use crate::repo::evidence::PhaseKind;
use crate::source::postgres::connect::{Session, connect};
use crate::source::postgres::scratch_checks::ReplayState;
use crate::source::postgres::scratch_server::ScratchServer;

/// How often the server is looked at.
const POLL: Duration = Duration::from_millis(20);
/// A server that is ready lets somebody in within this time.
const DOOR_PATIENCE: Duration = Duration::from_secs(20);
/// A standby that replays nothing for so long will not get there.
const STALL: Duration = Duration::from_secs(600);
/// The database that every cluster has.
const FIRST_DATABASE: &str = "template1";

/// Starts the server and waits until it takes writes; gives a session of its superuser.
///
/// # Errors
/// When it ends, refuses everybody, pauses or does not get on; on the wish to stop.
pub(super) async fn recover(
    job: &Job<'_>,
    server: &mut ScratchServer,
    stopwatch: &mut Stopwatch,
    standby: bool,
) -> Result<Session> {
    server.launch()?;
    job.progress.phase("replaying the log", None);
    let (session, ready_since) = (None, None);
    let mut recovery = Recovery { job, server, stopwatch, session, ready_since, log_bytes: 0, replaying: false, replayed: false };
    if standby {
        recovery.follow().await?;
    }
    while recovery.look().await?.is_none_or(|state| state.in_recovery) {
        tokio::time::sleep(POLL).await;
    }
    recovery.pass(PhaseKind::Promote);
    recovery.session.ok_or_else(|| Error::failed("the restored server has no session: this is a bug"))
}

/// A session in another database of the same server.
///
/// # Errors
/// With the server's words.
pub(super) async fn session_in(server: &ScratchServer, user: &str, database: &str) -> Result<Session> {
    connect(&server.conninfo(user, database)).await
}

struct Recovery<'a, 'j> {
    job: &'a Job<'j>,
    server: &'a mut ScratchServer,
    stopwatch: &'a mut Stopwatch,
    session: Option<Session>,
    ready_since: Option<Instant>,
    /// How long the server's log was at the last look.
    log_bytes: usize,
    /// Whether replay has begun, and has ended.
    replaying: bool,
    replayed: bool,
}

impl Recovery<'_, '_> {
    /// One look at the server; its replay as far as it can be asked.
    async fn look(&mut self) -> Result<Option<ReplayState>> {
        self.job.cancel.check()?;
        if self.server.has_ended()? {
            return Err(Error::failed("the restored server ended before it took writes"));
        }
        let log = self.server.log_text();
        self.log_bytes = log.len();
        if log.contains("redo starts at") {
            self.pass(PhaseKind::Start);
        }
        if log.contains("redo done at") {
            self.pass(PhaseKind::Replay);
        }
        if log.contains("recovery has paused") {
            return Err(Error::failed("the restored server pauses its recovery")
                .hint("its log says why: a setting may be lower than it was on the source"));
        }
        if !log.contains("database system is ready to accept") {
            return Ok(None);
        }
        let since = *self.ready_since.get_or_insert_with(Instant::now);
        if self.session.is_none() {
            match self.enter().await {
                Ok(session) => self.session = Some(session),
                Err(error) if since.elapsed() > DOOR_PATIENCE => return Err(error),
                Err(_) => return Ok(None),
            }
        }
        match &self.session {
            Some(session) => session.replay_state().await.map(Some),
            None => Ok(None),
        }
    }

    /// A session of the superuser, whose name is known only once somebody is in.
    async fn enter(&self) -> Result<Session> {
        let mut refused = Error::failed("nobody is known who could log in to the restored server");
        for user in &self.job.users {
            match session_in(self.server, user, FIRST_DATABASE).await {
                Ok(session) => {
                    let superuser = session.bootstrap_superuser().await?;
                    if superuser == *user {
                        return Ok(session);
                    }
                    return session_in(self.server, &superuser, FIRST_DATABASE).await;
                }
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    /// Waits until the standby has replayed what is archived, and promotes it.
    async fn follow(&mut self) -> Result<()> {
        let goal = match self.job.prepared.plan.stop {
            RecoveryStop::Record { lsn, .. } => lsn,
            RecoveryStop::Immediate => self.job.prepared.plan.backup.stop_lsn,
        };
        let mut movement = Movement { furthest: Lsn(0), log_bytes: 0, last: Instant::now() };
        loop {
            let replay_lsn = self.look().await?.and_then(|state| state.replay_lsn).unwrap_or(Lsn(0));
            if replay_lsn > goal {
                break;
            }
            let log_bytes = self.session.is_none().then_some(self.log_bytes);
            if movement.stalled(Instant::now(), replay_lsn, log_bytes, self.replaying) {
                let furthest = movement.furthest;
                return Err(Error::failed(format!("the standby stays at {furthest}, and {goal} is archived")));
            }
            tokio::time::sleep(POLL).await;
        }
        self.pass(PhaseKind::Replay);
        match &self.session {
            Some(session) => session.promote().await,
            None => Ok(()),
        }
    }

    /// Ends the phases up to `phase`, each once.
    fn pass(&mut self, phase: PhaseKind) {
        if !self.replaying {
            self.replaying = true;
            self.stopwatch.lap(PhaseKind::Start, None);
        }
        if phase != PhaseKind::Start && !self.replayed {
            self.replayed = true;
            self.stopwatch.lap(PhaseKind::Replay, Some(self.job.prepared.plan.replay_bytes));
        }
        if phase == PhaseKind::Promote {
            self.stopwatch.lap(PhaseKind::Promote, None);
        }
    }
}

/// Whether a standby gets on.
struct Movement {
    furthest: Lsn,
    log_bytes: usize,
    last: Instant,
}

impl Movement {
    /// Notes a look at `now`. Before there is a session, `log_bytes` are what the server has written to its log: it tells of
    /// every segment that it fetches, however long it replays until it is consistent and lets anybody in. Before it
    /// replays it may be silent for long, while it makes sure that its files are on the disk.
    fn stalled(&mut self, now: Instant, replay_lsn: Lsn, log_bytes: Option<usize>, replaying: bool) -> bool {
        let moves = match log_bytes {
            Some(bytes) => !replaying || bytes > self.log_bytes,
            None => replay_lsn > self.furthest,
        };
        if moves {
            self.last = now;
        }
        self.furthest = self.furthest.max(replay_lsn);
        self.log_bytes = self.log_bytes.max(log_bytes.unwrap_or_default());
        now.duration_since(self.last) > STALL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standby_stalls_when_nothing_moves_and_not_because_it_takes_long_to_become_consistent() {
        let begin = Instant::now();
        let at = |minutes: u64| begin + Duration::from_secs(60 * minutes);
        let mut movement = Movement { furthest: Lsn(0), log_bytes: 0, last: begin };
        assert!(!movement.stalled(at(15), Lsn(0), Some(10), false), "it has not begun to replay");
        for minutes in [20, 29, 38] {
            assert!(!movement.stalled(at(minutes), Lsn(0), Some(10 + minutes as usize), true), "its log grows");
        }
        assert!(!movement.stalled(at(47), Lsn(5), None, true));
        assert!(!movement.stalled(at(56), Lsn(5), None, true));
        assert!(movement.stalled(at(58), Lsn(5), None, true), "neither of them for 11 minutes");

        let mut silent = Movement { furthest: Lsn(0), log_bytes: 10, last: begin };
        assert!(silent.stalled(at(11), Lsn(0), Some(10), true), "nothing at all");
    }
}
