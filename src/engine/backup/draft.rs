//! A backup being written, whatever it is of: the half of `backup` that knows the repository and not the source.
//!
//! Write order, each step durable before the next: `begin.json`, the wrapped key, the packs, `packs.jsonl`, the manifest,
//! the commit entry. A crash anywhere before the commit leaves an orphan that no reader looks at.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::packs::{ordered, put_new, store_while};
use super::plan::Decision;
use super::pool::{BUDGET_BYTES, PackNumbers, Pool};
use super::run::host_name;
use super::worker::{FinishedPack, Shared};
use crate::base::cancel::Cancel;
use crate::base::progress::Progress;
use crate::base::{BackupId, Error, ErrorKind, Incarnation, Result, Timestamp, killpoint};
use crate::codec::Sha256Digest;
use crate::codec::encrypt::Seal;
use crate::engine::lease::{self, Held, Terms};
use crate::engine::{Scope, Writing, head, locks};
use crate::repo::backup::{self, Begin};
use crate::repo::commit::{self, Author, BackupSummary, CommitLog, Committed, LogFloor};
use crate::repo::expiry::Marks;
use crate::repo::manifest::{Facts, Header};
use crate::repo::pack::PackLine;
use crate::repo::resume::ResumeDir;
use crate::repo::{layout, signed};
use crate::store::Body;

/// What every backup has at hand from its beginning on.
pub(in crate::engine) struct Draft<'a> {
    pub scope: &'a Scope,
    pub writing: &'a Writing,
    pub held: Option<&'a Held>,
    pub progress: Arc<dyn Progress>,
    pub cancel: Cancel,
    pub id: BackupId,
    pub seal: Seal,
    pub numbers: Arc<PackNumbers>,
    pub decision: Decision,
    pub incarnation: Incarnation,
    /// Where stored packs are noted, for a run that goes on with them.
    pub resume: Option<ResumeDir>,
    pub began: Instant,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

impl<'a> Draft<'a> {
    #[allow(dead_code, reason = "SQLite and directories")]
    /// Announces a backup that goes on with nothing: `begin.json`, then its key.
    ///
    /// # Errors
    /// When the repository does not answer.
    pub async fn begin(
        (scope, writing, held): (&'a Scope, &'a Writing, Option<&'a Held>),
        decision: Decision,
        log_start: LogFloor,
        started: Timestamp,
        (progress, cancel): (Arc<dyn Progress>, Cancel),
    ) -> Result<Self> {
        let (id, seal) = announce(scope, writing, held.map_or(0, Held::token), &decision, &log_start, started).await?;
        let numbers = Arc::new(PackNumbers::beside(std::iter::empty()));
        let (resume, began, incarnation) = (None, Instant::now(), log_start.incarnation);
        let warnings = Vec::new();
        Ok(Self { scope, writing, held, progress, cancel, id, seal, numbers, decision, incarnation, resume, began, warnings })
    }

    /// What the copying threads share, and where the packs that they fill come out.
    pub fn shared(&self, pack_bytes: u64, checksums: bool) -> (Shared, mpsc::Receiver<FinishedPack>) {
        let (sender, receiver) = mpsc::channel(1);
        let shared = Shared {
            pool: Pool::new(self.seal.clone(), pack_bytes, BUDGET_BYTES, Arc::clone(&self.numbers), sender),
            compression_level: self.writing.compression_level,
            checksums,
            progress: Arc::clone(&self.progress),
            cancel: self.cancel.clone(),
            read_bytes: AtomicU64::new(0),
        };
        (shared, receiver)
    }

    /// Stores packs until `work` has ended and every pack it handed over is durable.
    ///
    /// # Errors
    /// The first failure to store, else that of `work`.
    pub async fn store_while<T: Send + 'static>(
        &self,
        work: JoinHandle<Result<T>>,
        packs: mpsc::Receiver<FinishedPack>,
    ) -> Result<(T, Vec<PackLine>)> {
        store_while(self.scope, &self.id, self.seal.suffix(), work, packs, self.resume.as_ref()).await
    }

    /// The manifest's first line; `owners` are those of the base.
    pub fn header(&self, facts: Facts, owners: &[BackupId]) -> Header {
        Header {
            format: signed::FORMAT,
            backup: self.id.clone(),
            backup_type: self.decision.backup_type,
            source: self.scope.source.clone(),
            incarnation: self.incarnation.clone(),
            owners: [std::slice::from_ref(&self.id), owners].concat(),
            users: Default::default(),
            groups: Default::default(),
            facts,
        }
    }

    /// Stores `packs.jsonl` and the manifest that lies in the file `manifest`; returns the digest of the former.
    ///
    /// # Errors
    /// When a pack is missing, or the repository does not answer.
    pub async fn store_lists(&self, packs: Vec<PackLine>, manifest: &Path) -> Result<(Vec<PackLine>, Sha256Digest)> {
        let packs = ordered(packs)?;
        let text = backup::packs_text(&packs);
        let sha256 = Sha256Digest::of(&text);
        let (source, id) = (&self.scope.source, &self.id);
        put_new(self.scope, &layout::packs_list(source, id), text.into()).await?;
        killpoint::reach("backup.packs-listed");
        put_new(self.scope, &layout::manifest(source, id, self.seal.suffix()), Body::File(manifest.to_owned())).await?;
        killpoint::reach("backup.manifest-stored");
        Ok((packs, sha256))
    }

    /// Commits the backup; then it stands, and what fails from here on is a warning. Gives the commit log as it is then.
    ///
    /// # Errors
    /// When the lease or a base was lost meanwhile, or the entry cannot be written.
    pub async fn commit(&mut self, summary: &BackupSummary) -> Result<Option<CommitLog>> {
        self.cancel.check()?;
        let (repository, source) = (&self.scope.repository, &self.scope.source);
        if let Some(held) = self.held {
            held.check().await?;
        }
        killpoint::reach("backup.lease-checked");
        let host = host_name();
        let author = Author { signer: &self.writing.signer, host: &host, lease_token: self.held.map_or(0, Held::token) };
        commit::append_decided(repository, source, author, async |log| {
            still_has_its_bases(self.scope, log, summary).await?;
            Ok(Committed::Backup(Box::new(summary.clone())))
        })
        .await?;
        killpoint::reach("backup.committed");
        if let Some(Err(error)) = self.resume.as_ref().map(ResumeDir::clear) {
            self.warnings.push(format!("what an interrupted run would go on from is left: {}", error.summary()));
        }
        let log = match CommitLog::load(repository, source).await {
            Ok(log) => log,
            Err(error) => {
                self.warnings.push(format!("the commit log's head was not remembered: {}", error.summary()));
                return Ok(None);
            }
        };
        if let Some(head) = head::to_remember(&log)
            && let Err(error) = self.scope.state.remember_head(source, head)
        {
            self.warnings.push(format!("the commit log's head was not remembered: {}", error.summary()));
        }
        match locks::extend(self.scope, &log, summary, Timestamp::now()).await {
            Ok(extension) => self.warnings.extend(extension.warning(&summary.id)),
            Err(error) => self.warnings.push(format!("locks were not extended: {}", error.summary())),
        }
        Ok(Some(log))
    }
}

/// Announces a backup under a fresh id, and stores its key.
///
/// # Errors
/// When the repository does not answer.
pub(super) async fn announce(
    scope: &Scope,
    writing: &Writing,
    lease_token: u64,
    decision: &Decision,
    log_start: &LogFloor,
    started: Timestamp,
) -> Result<(BackupId, Seal)> {
    let id = BackupId::fresh(started, decision.backup_type);
    let begin = Begin {
        id: id.clone(),
        base: decision.base.as_ref().map(|base| base.id.clone()),
        host: host_name(),
        process: std::process::id(),
        lease_token,
        started: Timestamp::now(),
        log_start: Some(log_start.clone()),
    };
    backup::begin(&scope.repository, &scope.source, &writing.signer, &begin).await?;
    killpoint::reach("backup.begun");
    let seal = backup::store_key(&scope.repository, &scope.source, &id, writing.recipients.as_deref()).await?;
    Ok((id, seal))
}

/// Does `work` under the source's lease, or without one where there are no `terms`. `work` is told to stop when the
/// operator says so and when another run took the lease: there is nothing to commit then.
///
/// # Errors
/// Those of the work; busy when the lease is held by another, or was lost.
pub(in crate::engine) async fn leased<T>(
    (scope, writing): (&Scope, &Writing),
    terms: Option<Terms>,
    progress: &Arc<dyn Progress>,
    cancel: Cancel,
    work: impl AsyncFnOnce(Option<&Held>, Cancel) -> Result<T>,
) -> Result<T> {
    let Some(terms) = terms else { return work(None, cancel).await };
    progress.phase("taking the lease", None);
    let held = lease::acquire(scope, &writing.signer, "backup", terms, &cancel).await?;
    killpoint::reach("backup.leased");
    let stop = Cancel::new();
    let outcome = {
        let work = work(Some(&held), stop.clone());
        let told = async {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = held.lost() => {}
            }
            stop.cancel();
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            outcome = work => outcome,
            never = told => match never {},
        }
    };
    let outcome = match (outcome, held.check_not_lost()) {
        (Err(error), Err(lost)) if error.kind() == ErrorKind::Interrupted && !cancel.is_cancelled() => Err(lost),
        (outcome, _) => outcome,
    };
    held.release().await;
    outcome
}

/// A backup does not become one when what it builds on expired, or was marked to, while it was taken.
async fn still_has_its_bases(scope: &Scope, log: &CommitLog, summary: &BackupSummary) -> Result<()> {
    let again = format!("lifeboat backup {}   takes one that builds on another, or a full", scope.source);
    let all: Vec<&BackupSummary> = log.backups().collect();
    let chain = commit::chain(summary, &all)
        .map_err(|broken| Error::failed(format!("backup {} is not committed: {broken}", summary.id)).hint(again.clone()))?;
    if chain.len() == 1 {
        return Ok(());
    }
    let marks = Marks::load(&scope.repository, &scope.source).await?;
    match chain.iter().find_map(|link| Some((&link.id, marks.standing.get(&link.id)?))) {
        None => Ok(()),
        Some((id, mark)) => Err(Error::failed(format!(
            "backup {} is not committed: {id}, which it builds on, was marked to be expired",
            summary.id
        ))
        .detail("mark", format!("{}, due {}", mark.mark, mark.due.human_seconds()))
        .hint(again)
        .hint(format!("to keep the base: lifeboat expire {} --backup {id} --withdraw --key FILE", scope.source))),
    }
}
