//! A copy of one source, from the first look to the last commit.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use tokio::task::JoinSet;

use super::carry::{Carried, Carrier, Load};
use super::log::LogAccount;
use super::plan::{self, Fate, Verdict};
use crate::base::cancel::Cancel;
use crate::base::progress::Progress;
use crate::base::{BackupId, Error, ErrorKind, Incarnation, Result, SegmentSize, Timestamp, killpoint};
use crate::codec::Sha256Digest;
use crate::engine::backup::host_name;
use crate::engine::lease::{self, Held, Terms};
use crate::engine::timeline::TimelinePath;
use crate::engine::{Scope, Writing, head, joined, locks};
use crate::repo::commit::{self, Author, Committed, LogFloor};
use crate::repo::log::LogCatalog;
use crate::repo::pack::PackLine;
use crate::repo::{BackupSummary, CommitLog, Role, backup, identity, layout};
use crate::store::list_all;

/// Objects carried at one time.
pub(super) const CONCURRENT: usize = 4;

/// How a source is copied.
#[derive(Clone, Debug)]
pub struct CopyOptions {
    /// Say what would be copied, and copy nothing.
    pub dry_run: bool,
    /// Only this backup and what it builds on, without any log.
    pub only: Option<BackupId>,
    /// How the lease of the other repository is taken.
    pub lease: Terms,
}

/// What was copied, or would be.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Every backup of the first repository, oldest first, with what became of it.
    pub backups: Vec<Verdict>,
    /// The log of each incarnation.
    pub logs: Vec<LogAccount>,
    /// Objects that were copied.
    pub copied_objects: u64,
    /// What is wrong in the first repository, or contradicts the second, and was not copied: object and why.
    pub faults: Vec<(String, String)>,
}

/// A copy under way.
pub(super) struct Run<'a> {
    pub from: &'a Scope,
    pub to: &'a Scope,
    pub writing: &'a Writing,
    pub carrier: Carrier,
    pub dry_run: bool,
    only: Option<BackupId>,
    pub copied_objects: u64,
    faults: Vec<(String, String)>,
}

/// Copies the source of both scopes from the repository of `from` to that of `to`.
///
/// # Errors
/// When a repository does not answer, is damaged as a whole, or is being written to by another run; what is damaged in a
/// single object is in the report, and the rest is copied.
pub async fn run(
    from: &Scope,
    to: &Scope,
    writing: &Writing,
    options: CopyOptions,
    progress: Arc<dyn Progress>,
    cancel: &Cancel,
) -> Result<Report> {
    if from.repository.id() == to.repository.id() {
        return Err(Error::usage(format!("{} and {} are the same repository", from.repository.name(), to.repository.name()))
            .hint("name two repositories of lifeboat.toml: --from main --to second"));
    }
    let scratch = to.state.scratch()?;
    let carrier = Carrier {
        from: from.repository.shared_store(),
        to: to.repository.shared_store(),
        scratch: scratch.path().to_owned(),
        progress: Arc::clone(&progress),
        cancel: cancel.clone(),
    };
    let CopyOptions { dry_run, only, lease: terms } = options;
    let run = Run { from, to, writing, carrier, dry_run, only, copied_objects: 0, faults: Vec::new() };
    if dry_run {
        return run.copy(None).await;
    }
    let _lock = to.state.lock_backup(&to.source)?;
    to.repository.keyring().require(&writing.signer, Role::Write)?;
    progress.phase("waiting for the lease", None);
    let held = lease::acquire(to, &writing.signer, "copy", terms, cancel).await?;
    let outcome = run.copy(Some(&held)).await;
    held.release().await;
    outcome
}

impl Run<'_> {
    async fn copy(mut self, held: Option<&Held>) -> Result<Report> {
        let log = head::look(self.from).await?.trusted(self.from)?;
        for (key, why) in &log.problems {
            self.fault(key.clone(), why.clone());
        }
        let there = head::look(self.to).await?.trusted(self.to)?;
        let mut verdicts = plan::decide(&log, &there);
        if let Some(only) = &self.only {
            plan::narrow(&mut verdicts, &log, only);
        }
        let (mut logs, mut catalogs) = (Vec::new(), BTreeMap::new());
        for (incarnation, size) in self.incarnations().await? {
            if self.only.is_none() {
                logs.push(self.copy_log(&incarnation, size, &there.log_cut(&incarnation)).await?);
                killpoint::reach("copy.log-copied");
            }
            if !self.dry_run {
                let catalog = LogCatalog::load(&self.to.repository, &self.to.source, &incarnation, size).await?;
                catalogs.insert(incarnation, catalog);
            }
        }
        if let Some(held) = held {
            self.copy_backups(held, &log, &catalogs, &mut verdicts).await?;
        }
        Ok(Report { backups: verdicts, logs, copied_objects: self.copied_objects, faults: self.faults })
    }

    /// The clusters that the source is known to have been; each is on record in the other repository afterwards.
    async fn incarnations(&mut self) -> Result<Vec<(Incarnation, SegmentSize)>> {
        let (identities, problems) = identity::survey(&self.from.repository, &self.from.source).await?;
        for (key, why) in problems {
            self.fault(key, why);
        }
        let mut incarnations = Vec::new();
        for identity in identities {
            if !self.dry_run {
                identity::ensure(&self.to.repository, &self.to.source, &self.writing.signer, &identity).await?;
            }
            incarnations.push((identity.incarnation, identity.segment_bytes));
        }
        Ok(incarnations)
    }

    /// Copies and commits the backups that are to be copied. One that is damaged, or whose own log is not whole `there`, is left
    /// out, with all that build on it.
    async fn copy_backups(
        &mut self,
        held: &Held,
        log: &CommitLog,
        there: &BTreeMap<Incarnation, LogCatalog>,
        verdicts: &mut [Verdict],
    ) -> Result<()> {
        let mut left_out: BTreeMap<String, String> = BTreeMap::new();
        for backup in plan::copied(log, verdicts) {
            self.carrier.cancel.check()?;
            let base = backup.base.as_ref().filter(|base| left_out.contains_key(&base.to_string()));
            let outcome = match base {
                Some(base) => Err(format!("{base}, which it builds on, is not copied")),
                None => match lacks_log(backup, there) {
                    Some(why) => Err(why),
                    None => self.copy_backup(held, backup).await?,
                },
            };
            if let Err(why) = outcome {
                left_out.insert(backup.id.to_string(), why);
            }
        }
        for verdict in verdicts {
            if let Some(why) = left_out.remove(&verdict.id.to_string()) {
                verdict.fate = Fate::LeftOut { why };
            }
        }
        Ok(())
    }

    /// Copies one backup and commits it; why not, when something of it is damaged.
    async fn copy_backup(&mut self, held: &Held, backup: &BackupSummary) -> Result<std::result::Result<(), String>> {
        let source = &self.from.source;
        self.begin(held, backup).await?;
        let packs = match backup::load_packs(&self.from.repository, source, &backup.id, backup.packs_sha256).await {
            Ok(packs) => packs,
            Err(error) if error.kind() == ErrorKind::Damaged => {
                let why = error.summary();
                self.fault(layout::packs_list(source, &backup.id), why.clone());
                return Ok(Err(why));
            }
            Err(error) => return Err(error),
        };
        self.carrier.progress.phase(&format!("copying backup {}", backup.id), Some(backup.stored_bytes));
        let loads = self.loads(backup, &packs).await?;
        if let Some(why) = self.carry_all(loads).await? {
            return Ok(Err(why));
        }
        killpoint::reach("copy.objects-copied");
        self.commit(held, backup).await?;
        killpoint::reach("copy.committed");
        Ok(Ok(()))
    }

    /// Says that the backup is being written; an earlier copy may have said so.
    async fn begin(&self, held: &Held, backup: &BackupSummary) -> Result<()> {
        let (repository, source) = (&self.to.repository, &self.to.source);
        if backup::load_begin(repository, source, &backup.id).await?.is_some() {
            return Ok(());
        }
        let begin = backup::Begin {
            id: backup.id.clone(),
            base: backup.base.clone(),
            host: host_name(),
            process: std::process::id(),
            lease_token: held.token(),
            started: Timestamp::now(),
            log_start: Some(LogFloor { incarnation: backup.incarnation.clone(), lsn: backup.start_lsn }),
        };
        backup::begin(repository, source, &self.writing.signer, &begin).await
    }

    /// What is missing of a backup, in the order in which it is written: keys, packs, their list, the manifest.
    async fn loads(&self, backup: &BackupSummary, packs: &[PackLine]) -> Result<Vec<Vec<Load>>> {
        let (source, id) = (&self.from.source, &backup.id);
        let suffix = if backup.encrypted { ".age" } else { "" };
        let there = list_all(self.to.repository.store(), &layout::backup(source, id), None).await?;
        let has = |key: &str, bytes: Option<u64>| {
            there.iter().any(|object| object.key == key && bytes.is_none_or(|bytes| bytes == object.size_bytes))
        };
        let load = |key: String, expected: Vec<Sha256Digest>| Load { new_key: key.clone(), key, expected };
        let keys = list_all(self.from.repository.store(), &layout::backup_keys(source, id), None).await?;
        let keys = keys.into_iter().filter(|object| layout::backup_key_wrapping(source, id, &object.key).is_some());
        let keys = keys.filter(|object| !has(&object.key, Some(object.size_bytes))).map(|object| load(object.key, vec![]));
        let named = packs.iter().map(|pack| (layout::pack(source, id, pack.pack, suffix), pack));
        let packs =
            named.filter(|(key, pack)| !has(key, Some(pack.stored_bytes))).map(|(key, pack)| load(key, vec![pack.sha256]));
        let list = load(layout::packs_list(source, id), vec![backup.packs_sha256]);
        let manifest = load(layout::manifest(source, id, suffix), vec![backup.manifest_sha256]);
        let lists = [vec![list], vec![manifest]]
            .into_iter()
            .map(|loads| loads.into_iter().filter(|load| !has(&load.key, None)).collect());
        Ok([keys.collect(), packs.collect()].into_iter().chain(lists).collect())
    }

    /// Carries group after group, the loads of one a few at one time; why not all of it, when something is damaged.
    async fn carry_all(&mut self, groups: Vec<Vec<Load>>) -> Result<Option<String>> {
        for group in groups {
            let mut carrying: JoinSet<Result<(String, Carried)>> = JoinSet::new();
            let (mut waiting, mut damage) = (group.into_iter(), None);
            loop {
                while carrying.len() < CONCURRENT
                    && damage.is_none()
                    && let Some(load) = waiting.next()
                {
                    let carrier = self.carrier.clone();
                    carrying.spawn(async move { Ok((load.key.clone(), carrier.carry(&load).await?)) });
                }
                let Some(outcome) = carrying.join_next().await else { break };
                match joined(outcome)? {
                    (_, Carried::Stored { .. }) => self.copied_objects += 1,
                    (_, Carried::Present) => {}
                    (key, Carried::Damaged { why }) => {
                        damage = Some(format!("{key}: {why}"));
                        self.fault(key, why);
                    }
                }
                killpoint::reach("copy.object-copied");
            }
            if damage.is_some() {
                return Ok(damage);
            }
        }
        Ok(None)
    }

    async fn commit(&self, held: &Held, backup: &BackupSummary) -> Result<()> {
        held.check().await?;
        let host = host_name();
        let author = Author { signer: &self.writing.signer, host: &host, lease_token: held.token() };
        commit::append_decided(&self.to.repository, &self.to.source, author, async |log| {
            let all: Vec<&BackupSummary> = log.backups().collect();
            match commit::chain(backup, &all) {
                Ok(_) => Ok(Committed::Backup(Box::new(backup.clone()))),
                Err(broken) => Err(Error::failed(format!("backup {} is not committed: {broken}", backup.id))
                    .hint("run the same command again: what expired meanwhile is left out then")),
            }
        })
        .await?;
        // The backup stands: what fails from here on is a warning.
        let extended = async {
            let log = CommitLog::load(&self.to.repository, &self.to.source).await?;
            locks::extend(self.to, &log, backup, Timestamp::now()).await
        };
        let warning = match extended.await {
            Ok(extension) => extension.warning(&backup.id),
            Err(error) => Some(format!("locks of {} were not extended: {}", backup.id, error.summary())),
        };
        if let Some(warning) = warning {
            self.carrier.progress.warn(&warning);
        }
        Ok(())
    }

    /// Notes what is wrong and was not copied.
    pub(super) fn fault(&mut self, key: String, why: String) {
        self.faults.push((key, why));
    }
}

/// Why a backup could not be restored with the log that the other repository has; none when it can.
fn lacks_log(backup: &BackupSummary, there: &BTreeMap<Incarnation, LogCatalog>) -> Option<String> {
    let Some(catalog) = there.get(&backup.incarnation) else {
        return Some(format!("the cluster {} is not on record there", backup.incarnation));
    };
    (!TimelinePath::any_serves(catalog, backup)).then(|| "its own log is not archived whole there".to_owned())
}
