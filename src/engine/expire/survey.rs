//! What a decision is made on: backups, marks, what can be restored, what is being written.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::plan::Situation;
use crate::base::{BackupId, Error, ErrorKind, Incarnation, Result, SegmentSize, Timestamp};
use crate::engine::retention::Catalogs;
use crate::engine::timeline::TimelinePath;
use crate::engine::{Scope, locks};
use crate::repo::commit::LogFloor;
use crate::repo::expiry::Marks;
use crate::repo::log::LogCatalog;
use crate::repo::{BackupSummary, CommitLog, backup, layout};
use crate::store::{Lock, ObjectInfo, list_all};

/// What was written to later than this may still be a backup in flight, or one that will be gone on with: an interrupted
/// backup is resumed for a week.
pub const IN_FLIGHT: Duration = Duration::from_secs(8 * 24 * 3600);

/// Everything but the commit log.
pub(super) struct Survey {
    pub marks: Marks,
    pub restorable: BTreeSet<BackupId>,
    pub uncommitted: Vec<Uncommitted>,
    pub catalogs: Catalogs,
}

/// The objects of something that was begun and has no commit entry.
#[derive(Clone, Debug)]
pub(super) struct Uncommitted {
    pub id: BackupId,
    pub objects: Vec<ObjectInfo>,
    /// What it builds on, as far as it says.
    pub base: Option<BackupId>,
    /// Where its log begins, as far as it says.
    pub log_start: Option<LogFloor>,
    /// Who took it, as far as it says.
    pub host: Option<String>,
    /// When its newest object was written, by the store's clock.
    pub newest: Timestamp,
}

impl Uncommitted {
    /// Whether it may be a backup that is being taken, or one that will be gone on with.
    pub fn may_be_in_flight(&self, limit: Duration, now: Timestamp) -> bool {
        now.since(self.newest) < limit
    }
}

/// Refuses to decide anything on a commit log of which a part is not understood: what it says may build on a backup that
/// is to go, or be one that looks like an orphan.
pub(super) fn require_whole(scope: &Scope, log: &CommitLog) -> Result<()> {
    if log.is_whole() {
        return Ok(());
    }
    let error =
        Error::damaged(format!("nothing of {} expires: a part of its commit log is damaged, forged or missing", scope.source));
    let error = log.problems.iter().fold(error, |error, (key, why)| error.detail(key.clone(), why.clone()));
    Err(error.hint(format!("lifeboat verify {}   shows everything that is wrong", scope.source)))
}

impl Survey {
    /// Looks at everything that `log` does not say.
    pub async fn of(scope: &Scope, log: &CommitLog) -> Result<Self> {
        let marks = Marks::load(&scope.repository, &scope.source).await?;
        let catalogs = catalogs(scope, log).await?;
        let restorable = restorable(log, &catalogs);
        let uncommitted = uncommitted(scope, log).await?;
        Ok(Self { marks, restorable, uncommitted, catalogs })
    }

    /// The situation, as far as the marks concern `only`.
    pub fn situation<'a>(
        &'a self,
        log: &'a CommitLog,
        marks: &'a BTreeMap<BackupId, crate::repo::expiry::Standing>,
        locked: &'a BTreeMap<BackupId, Lock>,
        allow_none: bool,
    ) -> Situation<'a> {
        let restorable = self.restorable.clone();
        Situation { backups: log.backups().collect(), restorable, marks, locked, now: Timestamp::now(), allow_none }
    }

    /// As [`in_flight`].
    pub fn in_flight(&self) -> Option<Vec<LogFloor>> {
        in_flight(&self.uncommitted)
    }
}

/// Where the log of what may be in flight begins; none when one of these does not say.
pub(super) fn in_flight(uncommitted: &[Uncommitted]) -> Option<Vec<LogFloor>> {
    let now = Timestamp::now();
    let flying = uncommitted.iter().filter(|begun| begun.may_be_in_flight(IN_FLIGHT, now));
    flying.map(|begun| begun.log_start.clone()).collect()
}

/// The locks that hold on those of the backups that are asked for, by backup: the one that ends last.
pub(super) async fn locked(
    scope: &Scope,
    log: &CommitLog,
    is_asked_for: impl Fn(&BackupId) -> bool,
) -> Result<BTreeMap<BackupId, Lock>> {
    let (store, now) = (scope.repository.shared_store(), Timestamp::now());
    let mut found = BTreeMap::new();
    for backup in log.backups().filter(|backup| is_asked_for(&backup.id)) {
        if !store.may_lock() {
            break;
        }
        let mut objects = list_all(store.as_ref(), &layout::backup(&scope.source, &backup.id), None).await?;
        // What somebody else puts there must not hold it.
        objects.retain(|object| layout::belongs_to_backup(&scope.source, &backup.id, &object.key));
        let held = locks::held(&store, &objects, now).await?;
        found.extend(locks::latest(held.values()).map(|lock| (backup.id.clone(), lock)));
    }
    Ok(found)
}

/// The log of every incarnation that has backups, or had some.
async fn catalogs(scope: &Scope, log: &CommitLog) -> Result<Catalogs> {
    let mut catalogs = Catalogs::new();
    let sizes: BTreeMap<&Incarnation, SegmentSize> =
        log.expired().chain(log.backups()).map(|backup| (&backup.incarnation, backup.segment_bytes)).collect();
    for (incarnation, size) in sizes {
        let catalog = LogCatalog::load(&scope.repository, &scope.source, incarnation, size).await?;
        catalogs.insert(incarnation.clone(), (size, catalog));
    }
    Ok(catalogs)
}

/// The backups whose chain is sound and whose own log is archived whole.
fn restorable(log: &CommitLog, catalogs: &Catalogs) -> BTreeSet<BackupId> {
    let has_log = |backup: &&BackupSummary| {
        catalogs.get(&backup.incarnation).is_some_and(|(_, catalog)| TimelinePath::any_serves(catalog, backup))
    };
    log.restorable().filter(has_log).map(|backup| backup.id.clone()).collect()
}

/// Everything that was begun and never committed.
pub(super) async fn uncommitted(scope: &Scope, log: &CommitLog) -> Result<Vec<Uncommitted>> {
    let store = scope.repository.store();
    let mut found = Vec::new();
    for name in store.list_dirs(&layout::backups(&scope.source)).await? {
        let Ok(id) = name.parse::<BackupId>() else { continue };
        if log.was_committed(&id) {
            continue;
        }
        let begin = match backup::load_begin(&scope.repository, &scope.source, &id).await {
            Ok(begin) => begin,
            // Whoever wrote that, nothing it says counts.
            Err(error) if error.kind() == ErrorKind::Damaged => None,
            Err(error) => return Err(error),
        };
        let objects = list_all(store, &layout::backup(&scope.source, &id), None).await?;
        let Some(newest) = objects.iter().map(|object| object.modified).max() else { continue };
        let (base, log_start, host) = begin.map_or((None, None, None), |begin| (begin.base, begin.log_start, Some(begin.host)));
        found.push(Uncommitted { id, objects, base, log_start, host, newest });
    }
    Ok(found)
}
