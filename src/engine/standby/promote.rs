//! The end of a standby: it replays what it was asked to, and takes writes.
//!
//! Two ways. A running standby that was asked for the latest moment is told to promote once it has replayed the last
//! archived record: nothing is stopped. Any other is stopped, given the target of a restore, and started again.
//!
//! Write order: the marker says that a promotion has begun; the server is stopped; what it has replayed is looked at once
//! more; the settings, then `recovery.signal`, then `standby.signal` goes; the server is started; once it takes writes, the
//! marker goes. After a crash in between the same command goes on from there.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::marker::{Marker, Promoting};
use super::plan::{Goal, Position};
use crate::base::progress::Progress;
use crate::base::units::{format_bytes, format_duration};
use crate::base::{Cancel, Error, Incarnation, Lsn, Result, SourceName, Timestamp, killpoint};
use crate::engine::restore::Target;
use crate::source::postgres::connect::{Session, connect, is_an_answer};
use crate::source::postgres::control::ClusterState;
use crate::source::postgres::recovery_config::{
    RECOVERY_SIGNAL, RecoverySettings, RecoveryTarget, STANDBY_SIGNAL, TargetAction, configured, retarget,
};
use crate::source::postgres::standby::{Following, LocalServer, has_signal};

/// How often the server is looked at.
const POLL: Duration = Duration::from_millis(100);
/// A server that is up lets somebody in within this time.
const DOOR_PATIENCE: Duration = Duration::from_secs(5);
/// How long it may take to see a server that was just started.
const BIRTH_PATIENCE: Duration = Duration::from_secs(20);
/// How long a server may take to write what it has in memory before it ends.
const STOP_PATIENCE: Duration = Duration::from_secs(600);
/// How long the source may take to answer.
const SOURCE_PATIENCE: Duration = Duration::from_secs(5);
/// Lines of the server's log that are shown.
const LOG_LINES: usize = 5;

/// How long somebody waits, and who is told.
pub struct Wait {
    /// The longest.
    pub timeout: Duration,
    /// Counted from here.
    pub began: Instant,
    /// Told of phases.
    pub progress: Arc<dyn Progress>,
    /// The wish to stop.
    pub cancel: Cancel,
}

impl Wait {
    fn is_over(&self) -> bool {
        self.began.elapsed() >= self.timeout
    }

    async fn pause(&self) -> Result<()> {
        self.cancel.check()?;
        tokio::time::sleep(POLL).await;
        Ok(())
    }
}

/// Where a promotion stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It follows the archive.
    Following,
    /// It recovers to the target that it was given.
    Ending,
    /// PostgreSQL has ended its recovery.
    Ended,
}

/// A data directory that follows an archive.
pub struct Standby {
    /// Its server.
    pub server: LocalServer,
    /// What it is.
    pub marker: Marker,
    /// How far the promotion is.
    pub stage: Stage,
    users: Vec<String>,
}

impl Standby {
    /// The standby of `source` in `data`, where one of `users` may be able to log in.
    ///
    /// # Errors
    /// Says what the directory is instead.
    pub fn open(data: &Path, source: &SourceName, users: Vec<String>) -> Result<Self> {
        let server = LocalServer::of(data)?;
        let restore = || format!("lifeboat restore {source} --into DIR --standby   makes one");
        let Some(marker) = Marker::read(data)? else {
            let runs = server.is_running()?;
            let takes_writes = runs && server.control()?.state == ClusterState::InProduction;
            let what = match (takes_writes, runs) {
                (true, _) => "a server runs there that takes writes already",
                (false, true) => "a server runs there that lifeboat did not restore as a standby",
                (false, false) => "it was not restored as a standby",
            };
            return Err(Error::failed(format!("{} is no standby of {source}: {what}", data.display())).hint(restore()));
        };
        if marker.source != *source {
            return Err(Error::failed(format!("{} is a standby of {}, not of {source}", data.display(), marker.source))
                .hint(format!("lifeboat promote {} --dir '{}'", marker.source, data.display())));
        }
        let control = server.control()?;
        let found = Incarnation::postgres(server.major, control.system_identifier);
        if found != marker.incarnation {
            return Err(Error::failed(format!("{} is another cluster than its marker says", data.display()))
                .detail("there", found.to_string())
                .detail("marker", marker.incarnation.to_string())
                .hint(restore()));
        }
        let stage = match (has_signal(data, STANDBY_SIGNAL)?, has_signal(data, RECOVERY_SIGNAL)?) {
            (true, _) => Stage::Following,
            (false, true) => Stage::Ending,
            (false, false) => Stage::Ended,
        };
        if stage != Stage::Following && marker.promoting.is_none() {
            return Err(Error::failed(format!("{} follows no archive any more: somebody else has promoted it", data.display()))
                .detail("timeline", control.timeline.to_string())
                .hint(format!("lifeboat check {source}   and protect it: lifeboat backup {source} --type full"))
                .hint(restore()));
        }
        Ok(Self { server, marker, stage, users })
    }

    /// A session, by whoever is let in.
    ///
    /// # Errors
    /// The last refusal.
    pub async fn session(&self) -> Result<Session> {
        self.server.session(&self.users).await
    }

    /// A session with a server that runs; none when it does not run, or lets nobody in yet.
    ///
    /// # Errors
    /// When the system does not tell whether it runs.
    pub async fn patient_session(&self, wait: &Wait) -> Result<Option<Session>> {
        let began = Instant::now();
        loop {
            if let Ok(session) = self.session().await {
                return Ok(Some(session));
            }
            if !self.server.is_running()? || began.elapsed() > DOOR_PATIENCE {
                return Ok(None);
            }
            wait.pause().await?;
        }
    }

    /// What the control file says of it: no later than what was replayed, and no earlier than what is on the disk.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn noted_position(&self) -> Result<Position> {
        let control = self.server.control()?;
        Ok(Position {
            timeline: control.min_recovery_timeline.unwrap_or(control.timeline).max(control.timeline),
            replayed: control.min_recovery_lsn.max(self.marker.consistent_lsn),
            last_commit: None,
        })
    }

    /// How far it is. The timeline is the one noted last, so a server that runs is made to note it now.
    ///
    /// # Errors
    /// When nobody tells.
    pub async fn position(&self, session: Option<&Session>) -> Result<Position> {
        let Some(session) = session else { return self.noted_position() };
        session.checkpoint().await?;
        self.position_now(session).await
    }

    /// Refuses to promote a running server that has left the way to `goal` while it was waited for: positions alone say
    /// nothing about the timeline.
    ///
    /// # Errors
    /// Says where it stands.
    pub async fn check_way(&self, session: &Session, goal: &Goal<'_>) -> Result<()> {
        let at = self.position(Some(session)).await?;
        goal.check_branch(&at)?;
        if at.timeline == goal.plan.timeline {
            return Ok(());
        }
        Err(Error::failed(format!("the standby of {} went to another timeline meanwhile: it was not promoted", goal.source))
            .detail("standby", format!("{} on timeline {}", at.replayed, at.timeline))
            .detail("archive", format!("{} on timeline {}", goal.plan.consistent_at, goal.plan.timeline))
            .hint("type the same command again   to have it look afresh"))
    }

    async fn position_now(&self, session: &Session) -> Result<Position> {
        let Following { replay_lsn, last_commit, .. } = session.following().await?;
        let noted = self.noted_position()?;
        Ok(Position { replayed: replay_lsn.unwrap_or(Lsn(0)).max(noted.replayed), last_commit, ..noted })
    }

    /// Waits until the standby has replayed what `goal` asks for, without the delay that it has; gives that delay.
    ///
    /// # Errors
    /// When it does not get there in time: says how far it came, and what would be lost. The delay is as before then.
    pub async fn catch_up(&self, session: &Session, goal: &Goal<'_>, wait: &Wait) -> Result<Duration> {
        let before = session.following().await?;
        if before.is_paused {
            wait.progress.note("its replay was paused, and goes on");
            session.resume_replay().await?;
        }
        if !before.delay.is_zero() {
            wait.progress
                .note(&format!("its replay lagged by {} on purpose, and does not any more", format_duration(before.delay)));
            session.set_apply_delay(Duration::ZERO).await?;
        }
        match self.replay(session, goal, wait).await {
            Ok(()) => Ok(before.delay),
            Err(error) => Err(put_back(session, before.delay, error).await),
        }
    }

    async fn replay(&self, session: &Session, goal: &Goal<'_>, wait: &Wait) -> Result<()> {
        let mut at = self.position_now(session).await?;
        wait.progress.phase("replaying the log", Some(goal.remaining_bytes(&at)));
        loop {
            if goal.is_reached(&at) {
                return Ok(());
            }
            if wait.is_over() {
                return Err(self.too_late(goal, &at, wait));
            }
            wait.pause().await?;
            let now = self.position_now(session).await?;
            wait.progress.advance(now.replayed.bytes_since(at.replayed));
            at = now;
        }
    }

    fn too_late(&self, goal: &Goal<'_>, at: &Position, wait: &Wait) -> Error {
        let (source, plan, data) = (&self.marker.source, goal.plan, self.server.data.display());
        let time = |time: Option<Timestamp>| time.map(|time| format!(", commits up to {time}")).unwrap_or_default();
        Error::failed(format!(
            "the standby of {source} has not replayed what is archived within {}: it was not promoted, and goes on following",
            format_duration(wait.timeout)
        ))
        .detail("replayed", format!("{} on timeline {}{}", at.replayed, at.timeline, time(at.last_commit)))
        .detail("archived", format!("{} on timeline {}{}", plan.consistent_at, plan.timeline, time(plan.reaches)))
        .detail("would be lost", format!("{} of log", format_bytes(goal.remaining_bytes(at))))
        .hint(format!(
            "lifeboat promote {source} --dir '{data}' --timeout {}s   waits longer",
            (wait.timeout * 10).as_secs().max(10)
        ))
        .hint(format!("pg_ctl -D '{data}' promote   gives the rest up: ends it where it stands"))
    }

    /// Notes that the promotion begins.
    ///
    /// # Errors
    /// When the marker cannot be written.
    pub fn begin(&mut self, target: &Target) -> Result<()> {
        self.marker.promoting = Some(Promoting { target: target.to_string(), began: Timestamp::now() });
        self.marker.write(&self.server.data)?;
        killpoint::reach("promote.begun");
        Ok(())
    }

    /// Stops the standby, and says whether it ran. What the server writes when it is started again before it has a log of
    /// its own goes to `log`.
    ///
    /// # Errors
    /// When it cannot be stopped, or has replayed too much by the time that it has stopped: then it follows the archive
    /// again, if it ran.
    pub fn halt(&mut self, goal: &Goal<'_>, log: &Path) -> Result<bool> {
        let runs = self.server.is_running()?;
        drop(open_log(log)?);
        self.begin(goal.target)?;
        if runs {
            self.server.stop(STOP_PATIENCE)?;
        }
        killpoint::reach("promote.stopped");
        let at = self.noted_position()?;
        if let Err(refused) = goal.check(&at) {
            self.release(runs, log)?;
            return Err(refused);
        }
        Ok(runs)
    }

    /// Has a standby that [`Standby::halt`] stopped follow the archive again; it is started if it `ran`.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn release(&mut self, ran: bool, log: &Path) -> Result<()> {
        self.marker.promoting = None;
        self.marker.write(&self.server.data)?;
        if ran { self.server.start(&open_log(log)?) } else { Ok(()) }
    }

    /// Gives a standby that [`Standby::halt`] stopped its target, and starts it again.
    ///
    /// # Errors
    /// When that cannot be written, or it cannot be started.
    pub fn end_stopped(&mut self, goal: &Goal<'_>, restore_command: &str, log: &Path) -> Result<()> {
        let (at, data) = (self.noted_position()?, &self.server.data);
        let (lsn, inclusive) = goal.stop();
        // At or beyond the last record that answers: what it has itself is replayed, and what else there is. What came by
        // streaming may lie in pg_wal alone, unreplayed.
        let streams = configured(data, "primary_conninfo")?.is_some_and(|value| !value.is_empty());
        let is_ahead = *goal.target == Target::Latest && (streams || goal.is_reached(&at));
        let target = if is_ahead { RecoveryTarget::Latest } else { RecoveryTarget::Lsn { lsn, inclusive } };
        let settings = RecoverySettings {
            restore_command: restore_command.to_owned(),
            target,
            timeline: goal.plan.timeline,
            action: TargetAction::Promote,
            standby: false,
            clone: false,
            extra: Vec::new(),
        };
        retarget(&self.server.data, &settings)?;
        self.stage = Stage::Ending;
        killpoint::reach("promote.retargeted");
        self.server.start(&open_log(log)?)?;
        killpoint::reach("promote.started");
        Ok(())
    }

    /// Starts a server that does not run, as it was.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_again(&self, log: &Path) -> Result<()> {
        if self.server.is_running()? { Ok(()) } else { self.server.start(&open_log(log)?) }
    }

    /// Waits until the server takes writes.
    ///
    /// # Errors
    /// When it ends, or takes too long: says how far it came.
    pub async fn wait_for_writes(&self, log: &Path, wait: &Wait) -> Result<Session> {
        wait.progress.phase("waiting for a server that takes writes", None);
        let (began, mut seen) = (Instant::now(), false);
        let mut last = None;
        loop {
            if let Ok(session) = self.session().await
                && let Ok(following) = session.following().await
            {
                if !following.in_recovery {
                    killpoint::reach("promote.promoted");
                    return Ok(session);
                }
                last = following.replay_lsn.or(last);
            }
            let runs = self.server.is_running()?;
            seen |= runs;
            if !runs && (seen || began.elapsed() > BIRTH_PATIENCE) {
                return Err(self.ended(log));
            }
            if wait.is_over() {
                return Err(self.still_recovers(last, wait));
            }
            wait.pause().await?;
        }
    }

    fn ended(&self, log: &Path) -> Error {
        let (source, data) = (&self.marker.source, self.server.data.display());
        let text = std::fs::read(log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let error = Error::failed(format!("the server on {data} ended before it took writes"));
        let error = match &lines[lines.len().saturating_sub(LOG_LINES)..] {
            [] => error,
            end => error.detail("log", end.join("\n")),
        };
        error
            .hint(format!("its log ({}, or the server's own) says why", log.display()))
            .hint(format!("lifeboat promote {source} --dir '{data}' …   goes on from there"))
    }

    fn still_recovers(&self, replayed: Option<Lsn>, wait: &Wait) -> Error {
        let data = self.server.data.display();
        let error = Error::failed(format!(
            "the server on {data} does not take writes within {}: it still recovers, and goes on",
            format_duration(wait.timeout)
        ));
        let error = match replayed {
            Some(lsn) => error.detail("replayed", lsn.to_string()),
            None => error,
        };
        error
            .hint("type the same command again   to wait on")
            .hint("a repository that does not answer may hold it up: lifeboat check   says so")
    }

    /// Notes that it is no standby any more.
    ///
    /// # Errors
    /// When the marker cannot be removed.
    pub fn finish(&self) -> Result<()> {
        Marker::remove(&self.server.data)
    }
}

/// `error`, after which the standby lags on purpose as before.
pub async fn put_back(session: &Session, delay: Duration, error: Error) -> Error {
    if delay.is_zero() {
        return error;
    }
    match session.set_apply_delay(delay).await {
        Ok(()) => error,
        Err(why) => error.detail("delay", format!("{} on purpose was not put back: {}", format_duration(delay), why.summary())),
    }
}

fn open_log(log: &Path) -> Result<File> {
    let open = OpenOptions::new().create(true).append(true).open(log);
    open.map_err(|error| Error::io("write", log, error))
}

/// Where what a promoted server writes at its start goes.
pub fn start_log(state_dir: &Path, source: &SourceName) -> PathBuf {
    state_dir.join(format!("promote-{source}.log"))
}

/// What the source's own server is seen to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceState {
    /// It takes writes, there.
    TakesWrites(String),
    /// A server answers and turns us away: it lives, and may take writes.
    TurnsAway(String),
    /// Nobody answers, which does not prove that it is off.
    Silent(String),
    /// Who answers follows, or is another cluster.
    IsNone,
}

/// Asks the server at `conninfo` whether it is a primary of `incarnation`.
pub async fn ask_source(conninfo: &str, incarnation: &Incarnation) -> SourceState {
    let asking = async {
        let session = match connect(conninfo).await {
            Ok(session) => session,
            Err(error) if is_an_answer(&error) => return SourceState::TurnsAway(error.summary()),
            Err(error) => return SourceState::Silent(error.summary()),
        };
        let seen = async {
            let info = session.info().await?;
            if Incarnation::postgres(info.major, info.system_identifier) != *incarnation || info.in_recovery {
                return Ok(SourceState::IsNone);
            }
            let lsn = session.log_end().await?;
            let place = format!("{}, at {lsn} on timeline {}", session.describe(), info.timeline);
            Ok::<_, Error>(SourceState::TakesWrites(place))
        };
        seen.await.unwrap_or_else(|error| SourceState::TurnsAway(error.summary()))
    };
    let silent = || SourceState::Silent(format!("no answer within {}", format_duration(SOURCE_PATIENCE)));
    tokio::time::timeout(SOURCE_PATIENCE, asking).await.unwrap_or_else(|_| silent())
}
