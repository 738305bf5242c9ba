//! One drill that restores: scratch directory, restore, server, checks; and everything gone again.
//!
//! Once the scratch directory is there, whatever goes wrong is what the drill found out, not an error of this program;
//! only the wish to stop ends it without a result.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::checks::{Checker, page_checksums};
use super::evidence::outcome;
use super::plan::{check_space, needed_bytes};
use super::recovery::recover;
use super::scene::Scene;
use super::{Noted, Stopwatch, isolation};
use crate::base::progress::Progress;
use crate::base::{Cancel, DrillLevel, Error, ErrorKind, Result, Timestamp, durable, killpoint};
use crate::engine::Scope;
use crate::engine::archive::rehearsal::Rehearsal;
use crate::engine::restore::plan::RecoveryStop;
use crate::engine::restore::prepare::Prepared;
use crate::engine::restore::run::{self as restore, RestoreOptions};
use crate::policy::DrillPolicy;
use crate::repo::evidence::{CheckResult, DrillOutcome, Phase, PhaseKind, Restored};
use crate::source::postgres::cluster_pages::flip_bit;
use crate::source::postgres::recovery_config::{RecoverySettings, RecoveryTarget, TargetAction, write_recovery_settings};
use crate::source::postgres::scratch_checks::ReplayState;
use crate::source::postgres::scratch_server::{Account, Installation, ScratchServer};

/// The variable that names the file with the identity; it wins over the configuration.
pub const IDENTITY_VARIABLE: &str = "LIFEBOAT_IDENTITY_FILE";
/// Lines of the server's log that a failure shows.
const LOG_LINES: usize = 20;

/// Something broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// One bit of one page, before the server starts.
    FlippedBit,
    /// What the policy's `spoil` does, before the queries.
    WrongRow,
}

/// What a drill is to do.
pub struct Job<'a> {
    /// Where the backup is.
    pub scope: &'a Scope,
    /// Which, and how far to go.
    pub prepared: &'a Prepared,
    /// `component` or `failover`.
    pub level: DrillLevel,
    /// The moment asked for; none for the end of the log.
    pub target_time: Option<Timestamp>,
    /// When the disaster was declared.
    pub declared: Timestamp,
    /// The checks, and what the server needs.
    pub policy: &'a DrillPolicy,
    /// Below this the scratch directory is made.
    pub scratch: &'a Path,
    /// Where this host remembers what it does.
    pub state_dir: &'a Path,
    /// What the server runs for each file of the log.
    pub restore_command: &'a str,
    /// The configuration that this command reads.
    pub config_file: &'a Path,
    /// The identity's text, where a command gave it or the server's account cannot read the file.
    pub secret: Option<&'a str>,
    /// Names to log in with, likeliest first.
    pub users: Vec<String>,
    /// Threads that decode and write.
    pub workers: usize,
    /// Leave directory and server.
    pub keep: bool,
    /// What to break.
    pub fault: Option<Fault>,
    /// Who listens.
    pub progress: Arc<dyn Progress>,
    /// The wish to stop.
    pub cancel: Cancel,
}

impl Job<'_> {
    /// Whether the cluster is restored as a standby.
    pub(super) fn is_standby(&self) -> bool {
        self.level == DrillLevel::Failover
    }
}

/// What was left for somebody to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The scratch directory.
    pub directory: PathBuf,
    /// A command that connects; none when no server runs.
    pub connect: Option<String>,
    /// Commands that stop the server and remove everything.
    pub remove: String,
}

/// What a drill found out.
#[derive(Clone, Debug)]
pub struct Drilled {
    /// What took how long.
    pub phases: Vec<Phase>,
    /// Every check, in order.
    pub checks: Vec<CheckResult>,
    /// What was restored; none when it did not come to that.
    pub restored: Option<Restored>,
    /// From the declaration to the first check of data that passed.
    pub rto_seconds: Option<f64>,
    /// Why it could not be carried through.
    pub why: Vec<String>,
    /// What the operator should know.
    pub notes: Vec<String>,
    /// The last of the server's own complaints.
    pub log_lines: Vec<String>,
    /// What was left, when that was asked for.
    pub kept: Option<Kept>,
    /// Whether the fault asked for could be planted.
    pub fault_planted: bool,
    /// The superuser of the restored server, once somebody was in.
    pub user: Option<String>,
}

impl Drilled {
    /// A drill that found out nothing yet.
    pub fn new(phases: Vec<Phase>) -> Self {
        Self {
            phases,
            checks: Vec::new(),
            restored: None,
            rto_seconds: None,
            why: Vec::new(),
            notes: Vec::new(),
            log_lines: Vec::new(),
            kept: None,
            fault_planted: false,
            user: None,
        }
    }

    /// What it came to.
    pub fn outcome(&self) -> DrillOutcome {
        outcome(&self.checks, &self.why)
    }
}

/// Carries a drill out; `stopwatch` has measured the planning already.
///
/// # Errors
/// When this host cannot drill (no such PostgreSQL, no room, no directory), and on the wish to stop. The scratch
/// directory is gone then.
pub async fn run(job: &Job<'_>, mut stopwatch: Stopwatch) -> Result<Drilled> {
    let incarnation = &job.prepared.plan.backup.incarnation;
    let major = incarnation.postgres_major().ok_or_else(|| Error::failed(format!("{incarnation} is no PostgreSQL cluster")))?;
    let (installation, account) = (Installation::of_major(major)?, Account::choose()?);
    std::fs::create_dir_all(job.scratch).map_err(|error| Error::io("create", job.scratch, error))?;
    check_space(job.scratch, needed_bytes(&job.prepared.plan), free_bytes(job.scratch)?)?;
    require_access(&account, job)?;
    let mut scene = Scene::make(job.scratch, job.state_dir, &job.scope.source, Some((&account, job.secret)))?;
    killpoint::reach("drill.scene-made");
    let mut drilled = Drilled::new(Vec::new());
    let outcome = act(job, &mut scene, (&installation, &account), &mut stopwatch, &mut drilled).await;
    drilled.phases = stopwatch.phases;
    if let Err(error) = outcome {
        if error.kind() == ErrorKind::Interrupted {
            return Err(error);
        }
        // Why `archive get` ended the server; the server itself cannot tell.
        drilled.why.extend(Rehearsal::refusal(&scene.directory).map(|why| format!("{why}; this says nothing of the backup")));
        drilled.why.push(error.summary());
        drilled.why.extend(error.details().iter().map(|(label, value)| format!("{label}: {value}")));
    }
    if drilled.outcome() == DrillOutcome::Failed {
        drilled.log_lines = scene.server.as_ref().map(|server| complaints(&server.log_text())).unwrap_or_default();
    }
    if job.keep {
        drilled.kept = Some(kept(&mut scene, drilled.user.as_deref())?);
    }
    Ok(drilled)
}

/// Refuses what the server's account cannot reach: that would say something of this host, and nothing of the backup.
fn require_access(account: &Account, job: &Job<'_>) -> Result<()> {
    let user = &account.name;
    if !account.may("-r", job.config_file)? {
        let file = job.config_file.display();
        return Err(Error::failed(format!("user {user}, who runs the restored server, cannot read {file}"))
            .hint(format!("chgrp {user} {file} && chmod g+r {file}"))
            .hint("or run the drill as the user who owns it"));
    }
    if !account.may("-x", job.scratch)? {
        let directory = job.scratch.display();
        return Err(Error::failed(format!("user {user}, who runs the restored server, cannot enter {directory}"))
            .hint(format!("add --scratch DIR   that {user} can enter")));
    }
    Ok(())
}

async fn act(
    job: &Job<'_>,
    scene: &mut Scene,
    (installation, account): (&Installation, &Account),
    stopwatch: &mut Stopwatch,
    drilled: &mut Drilled,
) -> Result<()> {
    restore_into(job, scene).await?;
    account.give_tree(&scene.directory)?;
    stopwatch.lap(PhaseKind::Fetch, Some(job.prepared.plan.backup.raw_bytes));
    killpoint::reach("drill.restored");
    drilled.restored = Some(restored(job, None));
    if job.fault == Some(Fault::FlippedBit) {
        drilled.fault_planted = flip_bit(&scene.data(), installation.major)?.is_some();
    }
    let mut server = ScratchServer::new(installation, account, &scene.data(), &scene.sockets(), &scene.log());
    server.settings.extend(isolation::settings(scene, installation.major, &job.policy.preload_libraries));
    server.environment.extend(scene.identity_file().map(|file| (IDENTITY_VARIABLE.into(), file.into())));
    server.environment.push(rehearsal(job, &scene.directory).begin()?);
    let server = scene.server.insert(server);
    let session = recover(job, server, stopwatch, job.is_standby()).await?;
    killpoint::reach("drill.started");
    drilled.user = Some(session.user().to_owned());
    let state = session.replay_state().await?;
    drilled.restored = Some(restored(job, Some(&state)));
    let mut checker = Checker { job, server, session: &session, noted: Noted::new(stopwatch), notes: Vec::new() };
    let checked = checker.run(&state).await;
    (drilled.checks, drilled.rto_seconds) = (checker.noted.results, checker.noted.rto_seconds);
    drilled.notes.extend(checker.notes);
    checked?;
    drilled.fault_planted |= job.fault == Some(Fault::WrongRow) && job.policy.spoil.is_some();
    killpoint::reach("drill.checked");
    drop(session);
    // Every page is on the disk, and none is being written, once the server has stopped.
    tokio::task::block_in_place(|| server.stop(&job.cancel))?;
    let pages = page_checksums(job, server)?;
    if pages.is_none() {
        drilled.notes.push("the cluster has no data checksums: its pages were not compared with any".to_owned());
    }
    drilled.checks.extend(pages);
    stopwatch.lap(PhaseKind::Checks, None);
    if job.keep {
        tokio::task::block_in_place(|| server.start())?;
    }
    Ok(())
}

async fn restore_into(job: &Job<'_>, scene: &Scene) -> Result<()> {
    let options = RestoreOptions {
        into: scene.data(),
        tablespaces: Vec::new(),
        other_tablespaces_below: Some(scene.tablespaces()),
        action: TargetAction::Promote,
        delta: false,
        discard_log: false,
        clone: true,
        follow: None,
        restore_command: job.restore_command.to_owned(),
        workers: job.workers,
    };
    restore::run(job.scope, job.prepared, &options, Arc::clone(&job.progress), job.cancel.clone()).await?;
    if !job.is_standby() {
        return Ok(());
    }
    let following = RecoverySettings {
        restore_command: job.restore_command.to_owned(),
        target: RecoveryTarget::Latest,
        timeline: job.prepared.plan.timeline,
        action: TargetAction::Promote,
        standby: true,
        clone: true,
        extra: Vec::new(),
    };
    write_recovery_settings(&scene.data(), &following)
}

/// What the server is going to replay; a standby replays whatever there is.
fn rehearsal(job: &Job<'_>, directory: &Path) -> Rehearsal {
    let plan = &job.prepared.plan;
    let last = match plan.stop {
        RecoveryStop::Record { lsn, .. } => lsn,
        RecoveryStop::Immediate => plan.backup.stop_lsn,
    };
    Rehearsal { directory: directory.to_owned(), from: plan.backup.start_lsn, last: (!job.is_standby()).then_some(last) }
}

fn restored(job: &Job<'_>, state: Option<&ReplayState>) -> Restored {
    let plan = &job.prepared.plan;
    Restored {
        backup: plan.backup.id.clone(),
        incarnation: plan.backup.incarnation.clone(),
        timeline: plan.timeline,
        reached_lsn: state.and_then(|state| state.replay_lsn),
        // The plan knows the names of the log; the server forgets what was before its own replay.
        last_commit: state.and_then(|state| state.last_commit).or(plan.reaches).filter(|_| state.is_some()),
        raw_bytes: plan.backup.raw_bytes,
        replay_bytes: plan.replay_bytes,
    }
}

pub(super) fn free_bytes(directory: &Path) -> Result<u64> {
    durable::free_bytes(directory).map_err(|error| Error::io("look at the disk of", directory, error))
}

/// The last lines of a server's log that are not mere news: its complaints, and what the commands that it ran said.
fn complaints(log: &str) -> Vec<String> {
    // A line that begins with a tab goes on with the message before.
    let is_news = |line: &str| line.contains("LOG:  ") || line.starts_with('\t') || line.trim().is_empty();
    let all: Vec<&str> = log.lines().filter(|line| !is_news(line)).collect();
    all[all.len().saturating_sub(LOG_LINES)..].iter().map(|line| (*line).to_owned()).collect()
}

pub(super) fn kept(scene: &mut Scene, user: Option<&str>) -> Result<Kept> {
    scene.keep();
    let word = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
    let quoted = |path: &Path| word(&path.display().to_string());
    let directory = quoted(&scene.directory);
    let running = match &mut scene.server {
        Some(server) => !server.has_ended()?,
        None => false,
    };
    let server = scene.server.as_ref().filter(|_| running);
    let sockets = quoted(&scene.sockets());
    let stop = server.map(|server| {
        let pg_ctl = server.installation.program("pg_ctl");
        format!("{}{} -D {} -m immediate stop && ", become_user(&server.account), pg_ctl.display(), quoted(&scene.data()))
    });
    Ok(Kept {
        directory: scene.directory.clone(),
        connect: server.map(|_| format!("psql -h {sockets} -p 5432 -U {} postgres", word(user.unwrap_or("postgres")))),
        remove: format!("{}rm -r {directory}", stop.unwrap_or_default()),
    })
}

/// How whoever ran the drill runs `pg_ctl`, which refuses root.
fn become_user(account: &Account) -> String {
    if account.is_another() { format!("runuser -u {} -- ", account.name) } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_complaints_are_shown_and_only_the_last() {
        let mut log = "2026 [1] LOG:  redo starts at 0/2\n2026 [1] FATAL:  could not open\n".to_owned();
        assert_eq!(complaints(&log), ["2026 [1] FATAL:  could not open"]);
        log += "error: cannot read /etc/lifeboat/identity.txt\n";
        assert_eq!(complaints(&log)[1], "error: cannot read /etc/lifeboat/identity.txt", "what archive get says");
        (0..30).for_each(|n| log += &format!("2026 [2] WARNING:  number {n}\n"));
        let shown = complaints(&log);
        assert_eq!((shown.len(), shown[0].as_str()), (LOG_LINES, "2026 [2] WARNING:  number 10"));
    }
}
