//! What must hold of the restored server. A check that fails is a result, not an error: all of them are run.
//!
//! Data checks are those that look at rows and indexes: the policy's queries and `amcheck`. Page checksums come last,
//! over the files of the stopped server: they prove what lies on the disk, not that it is the right data.

use std::time::Instant;

use super::Noted;
use super::judge::judge;
use super::recovery::session_in;
use super::run::{Fault, Job};
use crate::base::{Error, Lsn, Result};
use crate::engine::restore::plan::RecoveryStop;
use crate::policy::SqlCheck;
use crate::repo::evidence::CheckResult;
use crate::source::postgres::cluster_pages::{PageSurvey, survey_pages};
use crate::source::postgres::connect::Session;
use crate::source::postgres::scratch_checks::{ReplayState, Soundness};
use crate::source::postgres::scratch_server::ScratchServer;

/// How long a query of a check may take when the policy does not say.
pub(super) const STATEMENT_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(300);
/// A record ends up to this much before the next one begins: a long page header.
const PAGE_HEADER_BYTES: u64 = 64;

/// Page checksums, by this name in results.
pub const PAGES: &str = "page checksums";

/// Runs the checks of a live server.
pub(super) struct Checker<'a, 'j> {
    pub job: &'a Job<'j>,
    pub server: &'a ScratchServer,
    pub session: &'a Session,
    pub noted: Noted<'a>,
    /// What could not be checked.
    pub notes: Vec<String>,
}

impl Checker<'_, '_> {
    /// Runs all of them.
    ///
    /// # Errors
    /// Only on the wish to stop, or when a planted fault cannot be planted.
    pub async fn run(&mut self, state: &ReplayState) -> Result<()> {
        self.job.progress.phase("checking", None);
        let began = Instant::now();
        let writable = self.stoppable(self.session.prove_writable()).await?;
        let writable = writable.map(|()| "a table was written, read and dropped".to_owned());
        self.note("takes writes", false, began, writable.map_err(|error| error.summary()));
        self.note("replay reached the target", false, Instant::now(), self.reached(state));
        self.spoil().await?;
        for check in &self.job.policy.checks {
            let began = Instant::now();
            let judged = self.stoppable(self.query(check, state)).await?;
            self.note(&check.name, true, began, judged);
        }
        self.amcheck().await
    }

    /// The answer of some work, unless somebody asks to stop meanwhile.
    async fn stoppable<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        tokio::select! {
            answer = work => Ok(answer),
            () = self.job.cancel.cancelled() => Err(Error::interrupted()),
        }
    }

    fn note(&mut self, name: &str, of_data: bool, began: Instant, judged: Result<String, String>) {
        self.noted.note(name, of_data, began, judged);
    }

    /// Whether replay ended where the plan says, and nothing later than the target is there.
    fn reached(&self, state: &ReplayState) -> Result<String, String> {
        let replay_lsn = state.replay_lsn.ok_or("the server does not say how far it replayed")?;
        let following = self.job.is_standby();
        match self.job.prepared.plan.stop {
            RecoveryStop::Record { lsn, inclusive } => reached(replay_lsn, lsn, inclusive || following)?,
            RecoveryStop::Immediate => {}
        }
        match (self.job.target_time, state.last_commit) {
            (Some(target), Some(last)) if last > target => {
                Err(format!("a commit of {} is there, after the target {}", last.human(), target.human()))
            }
            (_, Some(last)) => Ok(format!("replayed to {replay_lsn}, last commit {}", last.human())),
            (_, None) => Ok(format!("replayed to {replay_lsn}, no commit in the log")),
        }
    }

    /// A wrong row, where a self-test wants one.
    async fn spoil(&self) -> Result<()> {
        let (Some(Fault::WrongRow), Some(spoil)) = (self.job.fault, &self.job.policy.spoil) else { return Ok(()) };
        let plant = async {
            let session = session_in(self.server, self.session.user(), &spoil.database).await?;
            session.ask(&spoil.sql, self.job.policy.statement_timeout.unwrap_or(STATEMENT_TIMEOUT)).await
        };
        let planted = self.stoppable(plant).await?;
        planted.map(drop).map_err(|error| error.context("the policy's 'spoil' does not run in the restored copy"))
    }

    async fn query(&self, check: &SqlCheck, state: &ReplayState) -> Result<String, String> {
        let timeout = self.job.policy.statement_timeout.unwrap_or(STATEMENT_TIMEOUT);
        let ask = async {
            let session = session_in(self.server, self.session.user(), &check.database).await?;
            session.ask(&check.sql, timeout).await
        };
        let rows = ask.await.map_err(|error| error.summary())?;
        // The canary's clock and the log's are the source server's; the declaration is by this host's.
        let moment = self.job.target_time.unwrap_or(self.job.declared);
        judge(&check.expect, &rows, moment.max(state.last_commit.unwrap_or(moment)))
    }

    async fn amcheck(&mut self) -> Result<()> {
        let databases = match self.stoppable(self.session.databases()).await? {
            Ok(databases) => databases,
            Err(error) => {
                self.note("amcheck", true, Instant::now(), Err(error.summary()));
                return Ok(());
            }
        };
        for database in databases {
            let began = Instant::now();
            let look = async { session_in(self.server, self.session.user(), &database).await?.soundness().await };
            match self.stoppable(look).await? {
                Ok(None) => {
                    self.notes.push("amcheck is not installed on this host: indexes were not compared with their tables".into());
                    return Ok(());
                }
                outcome => {
                    let judged =
                        outcome.map_err(|error| error.summary()).and_then(|sound| sound_or_not(&sound.unwrap_or_default()));
                    self.note(&format!("amcheck of database {database}"), true, began, judged);
                }
            }
        }
        Ok(())
    }
}

/// Whether replay that ended at `replay_lsn` stopped at the record at `lsn`.
fn reached(replay_lsn: Lsn, lsn: Lsn, through: bool) -> Result<(), String> {
    if through && replay_lsn <= lsn {
        return Err(format!("replay ended at {replay_lsn}, before the record at {lsn}"));
    }
    if !through && replay_lsn > lsn {
        return Err(format!("replay ended at {replay_lsn}, beyond {lsn}"));
    }
    if !through && lsn.bytes_since(replay_lsn) > PAGE_HEADER_BYTES {
        return Err(format!("replay ended at {replay_lsn}, before the record that ends at {lsn}"));
    }
    Ok(())
}

fn sound_or_not(sound: &Soundness) -> Result<String, String> {
    let looked_at = match sound.tables {
        0 => format!("{} indexes", sound.indexes),
        tables => format!("{} indexes and {tables} tables", sound.indexes),
    };
    match sound.faults {
        0 => Ok(format!("{looked_at} are sound")),
        faults => Err(format!("{faults} faults in {looked_at}: {}", sound.findings.join("; "))),
    }
}

/// Page checksums of the stopped server's files; none where the cluster has none.
///
/// # Errors
/// On the wish to stop.
pub(super) fn page_checksums(job: &Job<'_>, server: &ScratchServer) -> Result<Option<CheckResult>> {
    job.progress.phase("reading every page", None);
    let began = Instant::now();
    let surveyed = tokio::task::block_in_place(|| survey_pages(&server.data, server.installation.major, &job.cancel));
    job.cancel.check()?;
    let judged = match surveyed {
        Ok(None) => return Ok(None),
        Ok(Some(PageSurvey { pages, bad: 0, .. })) => Ok(format!("{pages} pages are as their checksums say")),
        Ok(Some(survey)) => Err(format!("{} of {} pages are bad: {}", survey.bad, survey.pages, survey.named.join(", "))),
        Err(error) => Err(error.summary()),
    };
    let passed = judged.is_ok();
    let detail = judged.unwrap_or_else(|why| why);
    Ok(Some(CheckResult { name: PAGES.to_owned(), passed, of_data: false, detail, seconds: began.elapsed().as_secs_f64() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replay_that_stops_early_or_late_is_noticed() {
        let at = |replay, lsn, through| reached(Lsn(replay), Lsn(lsn), through).is_ok();
        assert!(at(0x2000, 0x1000, true) && !at(0x1000, 0x1000, true) && !at(0x800, 0x1000, true));
        assert!(at(0x1000, 0x1000, false) && at(0x1000 - 40, 0x1000, false));
        assert!(!at(0x1001, 0x1000, false) && !at(0x800, 0x1000, false));
    }
}
