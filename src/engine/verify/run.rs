//! One source in one repository, from its commit log to the end of its log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::task::JoinSet;

use super::fetch;
use super::finding::{BackupVerdict, Finding, SourceReport, Uncommitted};
use super::keys::Openers;
use super::manifest::KeptManifests;
use super::plan::{self, Chains, Check, Stored};
use crate::base::cancel::Cancel;
use crate::base::progress::Progress;
use crate::base::{BackupId, ErrorKind, Incarnation, Result, SegmentSize, SourceName};
use crate::codec::encrypt::Identity;
use crate::engine::{IdentitySource, Scope, head, joined};
use crate::repo::expiry::Marks;
use crate::repo::log::LogCut;
use crate::repo::pack::PackLine;
use crate::repo::{BackupSummary, Repository, backup, identity, layout, lease};
use crate::store::{Store, list_all};

/// Objects digested at one time.
const CONCURRENT: usize = 4;

/// Names at the top of a repository that are no sources.
const OWN_DIRECTORIES: [&str; 2] = ["keys", "probe"];

/// A verification under way.
pub(super) struct Run<'a> {
    pub scope: &'a Scope,
    pub progress: Arc<dyn Progress>,
    pub cancel: Cancel,
    /// In a deep run only.
    pub identities: Option<Vec<Identity>>,
    /// What builds on what.
    pub chains: Chains,
    /// Backups that are gone by a tombstone.
    pub expired: BTreeSet<BackupId>,
    /// The log that was let go, by right of a tombstone, of each incarnation that lost any.
    pub cuts: BTreeMap<Incarnation, LogCut>,
    /// Manifests that later backups refer to.
    pub manifests: KeptManifests,
    pub report: SourceReport,
}

/// The sources that a repository holds something of, and what at its top is none.
///
/// # Errors
/// When the repository does not answer.
pub async fn sources(repository: &Repository) -> Result<(Vec<SourceName>, Vec<Finding>)> {
    let (mut sources, mut findings) = (Vec::new(), Vec::new());
    for name in repository.store().list_dirs("").await? {
        if OWN_DIRECTORIES.contains(&name.as_str()) {
            continue;
        }
        match name.parse() {
            Ok(source) => sources.push(source),
            Err(_) => findings.push(Finding::notice(format!("{name}/"), "is no source, and nothing that lifeboat made")),
        }
    }
    Ok((sources, findings))
}

/// Verifies one source. With `identities` it is a deep run.
///
/// # Errors
/// When the repository does not answer, the identities cannot be read, or on the wish to stop. Damage is in the report,
/// and so is every key that the identities do not open.
pub async fn run(
    scope: &Scope,
    identities: Option<&dyn IdentitySource>,
    progress: Arc<dyn Progress>,
    cancel: &Cancel,
) -> Result<SourceReport> {
    let identities = identities.map(IdentitySource::identities).transpose()?;
    let report = SourceReport::new(&scope.source);
    let (chains, manifests) = (Chains::default(), KeptManifests::default());
    let (expired, cuts) = (BTreeSet::new(), BTreeMap::new());
    let mut run = Run { scope, progress, cancel: cancel.clone(), identities, chains, expired, cuts, manifests, report };
    run.source_of_scope().await?;
    Ok(run.report)
}

impl Run<'_> {
    async fn source_of_scope(&mut self) -> Result<()> {
        self.progress.phase(&format!("reading the records of {}", self.source()), None);
        let mut backups = self.commit_log().await?;
        let sizes = self.incarnations(&backups).await?;
        let names: Vec<Incarnation> = sizes.keys().cloned().collect();
        let openers = self.keys(&backups, &names).await?;
        let last_uses = self.chains.last_uses(&backups);
        for (index, backup) in backups.iter().enumerate() {
            self.cancel.check()?;
            self.backup(backup, &openers).await?;
            self.manifests.keep(|id| last_uses.get(id).is_some_and(|last| *last > index))?;
        }
        self.uncommitted(&backups).await?;
        self.intentions().await?;
        for (incarnation, size) in &sizes {
            self.cancel.check()?;
            let own: Vec<&BackupSummary> = backups.iter().filter(|backup| backup.incarnation == *incarnation).collect();
            self.log(incarnation, *size, &own, &openers).await?;
        }
        self.leave_out_expired(&mut backups, &sizes).await?;
        self.chains.spread(&self.scope.source, &mut self.report.findings);
        let useless: BTreeSet<&BackupId> = self.report.findings.iter().flat_map(Finding::useless).collect();
        let verdict = |backup: &BackupSummary| BackupVerdict {
            id: backup.id.clone(),
            intact: !useless.contains(&backup.id),
            packs: backup.packs,
            stored_bytes: backup.stored_bytes,
        };
        self.report.backups = backups.iter().map(verdict).collect();
        Ok(())
    }

    /// The backups whose commit entries verify.
    async fn commit_log(&mut self) -> Result<Vec<BackupSummary>> {
        let seen = head::look(self.scope).await?;
        if let Some(warning) = &seen.warning {
            self.progress.warn(warning);
        }
        for (key, why) in &seen.log.problems {
            self.find(Finding::damage(key, why));
        }
        if let Some(wound_back) = &seen.wound_back {
            self.find(Finding::damage(layout::commit(self.source(), wound_back.number), wound_back.text()));
        }
        let log = &seen.log;
        for (backup, broken) in log.broken() {
            let entry = log.entries.iter().find(|entry| entry.backup().is_some_and(|other| other.id == backup.id));
            let key = layout::commit(self.source(), entry.map_or(0, |entry| entry.number));
            self.find(Finding::damage(key, broken.to_string()).affecting(Some(&backup.id)));
        }
        self.chains = Chains::of(log);
        self.expired = log.expired().map(|backup| backup.id.clone()).collect();
        let all = log.entries.iter().filter_map(|entry| Some(&entry.backup()?.incarnation));
        self.cuts = all.map(|incarnation| (incarnation.clone(), log.log_cut(incarnation))).collect();
        self.report.checked_objects += log.entries.len() as u64;
        let mut known = BTreeSet::new();
        Ok(log.backups().filter(|backup| known.insert(backup.id.clone())).cloned().collect())
    }

    /// Every incarnation that anything speaks of, with its segment size.
    async fn incarnations(&mut self, backups: &[BackupSummary]) -> Result<BTreeMap<Incarnation, SegmentSize>> {
        let (identities, problems) = identity::survey(&self.scope.repository, self.source()).await?;
        self.report.checked_objects += (identities.len() + problems.len()) as u64;
        let damaged: BTreeSet<String> = problems.iter().map(|(key, _)| key.clone()).collect();
        for (key, why) in problems {
            self.find(Finding::damage(key, why));
        }
        let mut sizes: BTreeMap<Incarnation, SegmentSize> =
            identities.into_iter().map(|identity| (identity.incarnation, identity.segment_bytes)).collect();
        let mut others: BTreeMap<Incarnation, SegmentSize> =
            backups.iter().map(|backup| (backup.incarnation.clone(), backup.segment_bytes)).collect();
        for name in self.store().list_dirs(&layout::logs(self.source())).await? {
            match name.parse::<Incarnation>() {
                Ok(incarnation) => {
                    others.entry(incarnation).or_insert(SegmentSize::DEFAULT);
                }
                Err(why) => self.find(Finding::notice(format!("{}{name}/", layout::logs(self.source())), why)),
            }
        }
        others.retain(|incarnation, _| !sizes.contains_key(incarnation));
        for incarnation in others.keys() {
            let key = layout::identity(self.source(), incarnation);
            if !damaged.contains(&key) {
                self.find(Finding::damage(key, "is missing"));
            }
        }
        sizes.extend(others);
        Ok(sizes)
    }

    async fn backup(&mut self, summary: &BackupSummary, openers: &Openers) -> Result<()> {
        let (source, id) = (self.source().clone(), &summary.id);
        self.progress.phase(&format!("verifying backup {id}"), Some(summary.stored_bytes));
        let packs = match backup::load_packs(&self.scope.repository, &source, id, summary.packs_sha256).await {
            Ok(packs) => {
                self.report.checked_objects += 1;
                self.agree(summary, &packs);
                packs
            }
            Err(error) if error.kind() == ErrorKind::Damaged => {
                self.find(Finding::damage(layout::packs_list(&source, id), error.summary()).affecting(Some(id)));
                Vec::new()
            }
            Err(error) => return Err(error),
        };
        self.extras(summary, &packs).await?;
        match openers.backups.get(id).filter(|_| self.identities.is_some()) {
            Some(opener) => self.deep_backup(summary, &packs, opener).await,
            None => {
                let manifest = plan::manifest_check(&source, summary);
                let checks = plan::pack_checks(&source, summary, &packs).into_iter().chain([manifest]).collect();
                self.look_at(checks).await
            }
        }
    }

    /// What the commit entry says of the packs must be what their list says.
    fn agree(&mut self, summary: &BackupSummary, packs: &[PackLine]) {
        let stored_bytes = packs.iter().map(|pack| pack.stored_bytes).sum::<u64>() + summary.manifest_bytes;
        if packs.len() as u64 != u64::from(summary.packs) || stored_bytes != summary.stored_bytes {
            let what = format!(
                "lists {} packs, {stored_bytes} bytes with the manifest, where the commit entry says {} and {}",
                packs.len(),
                summary.packs,
                summary.stored_bytes
            );
            self.find(Finding::damage(layout::packs_list(self.source(), &summary.id), what).affecting(Some(&summary.id)));
        }
    }

    /// Objects beside those of the backup: somebody put them there.
    async fn extras(&mut self, summary: &BackupSummary, packs: &[PackLine]) -> Result<()> {
        let (source, id) = (self.source().clone(), &summary.id);
        if packs.is_empty() {
            return Ok(());
        }
        let mut expected: BTreeSet<String> =
            plan::pack_checks(&source, summary, packs).into_iter().map(|check| check.key).collect();
        expected.extend([
            layout::begin(&source, id),
            layout::packs_list(&source, id),
            plan::manifest_check(&source, summary).key,
        ]);
        for object in list_all(self.store(), &layout::backup(&source, id), None).await? {
            if !expected.contains(&object.key) && layout::backup_key_wrapping(&source, id, &object.key).is_none() {
                self.find(Finding::notice(object.key, "is not part of the backup"));
            }
        }
        Ok(())
    }

    async fn uncommitted(&mut self, backups: &[BackupSummary]) -> Result<()> {
        let prefix = layout::backups(self.source());
        for name in self.store().list_dirs(&prefix).await? {
            let Ok(id) = name.parse::<BackupId>() else {
                self.find(Finding::notice(format!("{prefix}{name}/"), "is no backup"));
                continue;
            };
            if backups.iter().any(|backup| backup.id == id) {
                continue;
            }
            if self.expired.contains(&id) {
                let what = format!(
                    "expired, and is not deleted whole: lifeboat expire {} --key FILE   goes on with it",
                    self.scope.source
                );
                self.find(Finding::notice(layout::backup(self.source(), &id), what));
                continue;
            }
            let (begun, host) = match backup::load_begin(&self.scope.repository, self.source(), &id).await {
                Ok(begin) => begin.map(|begin| (begin.started, begin.host)).unzip(),
                Err(error) if error.kind() == ErrorKind::Damaged => {
                    self.find(Finding::notice(layout::begin(self.source(), &id), error.summary()));
                    (None, None)
                }
                Err(error) => return Err(error),
            };
            self.report.uncommitted.push(Uncommitted { id, begun, host });
        }
        Ok(())
    }

    /// Marks that count for nothing, and a lease that lets nobody in.
    async fn intentions(&mut self) -> Result<()> {
        let (repository, source) = (&self.scope.repository, self.source().clone());
        for (key, why) in Marks::load(repository, &source).await?.problems {
            self.find(Finding::notice(key, format!("counts for nothing: {why}")));
        }
        match lease::load(repository, &source).await {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Damaged => {
                self.find(Finding::damage(layout::lease(&source), format!("keeps every backup out: {}", error.summary())));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Digests objects and compares them with what is signed.
    pub(super) async fn look_at(&mut self, checks: Vec<Check>) -> Result<()> {
        let mut checks = checks.into_iter();
        let mut tasks: JoinSet<Result<(Check, Option<Stored>)>> = JoinSet::new();
        loop {
            self.cancel.check()?;
            while tasks.len() < CONCURRENT
                && let Some(check) = checks.next()
            {
                let store = self.scope.repository.shared_store();
                tasks.spawn(async move {
                    let found = fetch::digest(store.as_ref(), &check.key, None).await?;
                    Ok((check, found))
                });
            }
            let Some(done) = tasks.join_next().await else { return Ok(()) };
            let (check, found) = joined(done)?;
            self.conclude(&check, found);
        }
    }

    /// Counts one object and reports what is wrong with it; whether nothing is.
    pub(super) fn conclude(&mut self, check: &Check, found: Option<Stored>) -> bool {
        if let Some(found) = found {
            self.count(found.bytes);
            self.progress.advance(found.bytes);
        }
        let wrong = check.judge(found);
        let intact = wrong.is_none();
        if let Some(what) = wrong {
            self.find(Finding::damage(&check.key, what).affecting(&check.backups));
        }
        intact
    }

    /// Counts one object looked at.
    pub(super) fn count(&mut self, bytes: u64) {
        self.report.checked_objects += 1;
        self.report.checked_bytes += bytes;
    }

    /// Reports something about this source.
    pub(super) fn find(&mut self, finding: Finding) {
        self.report.findings.push(finding.of(&self.scope.source));
    }

    /// The source.
    pub(super) fn source(&self) -> &SourceName {
        &self.scope.source
    }

    /// Where it is stored.
    pub(super) fn store(&self) -> &dyn Store {
        self.scope.repository.store()
    }
}
