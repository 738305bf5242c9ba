//! Phase two: what is due goes, if it may go now.
//!
//! Order, each step durable before the next: the tombstone in the commit log, the objects of the backups it names, the
//! log that nothing needs. The decision is taken on the very log to which the tombstone is appended: a backup that was
//! committed a moment before is seen, and one that comes a moment later finds its base gone and is not committed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use super::delete::{below_floor, delete, ordered, total_bytes, without_locked};
use super::plan::{self, Fate, Verdict, log_floors};
use super::survey::{Survey, in_flight, locked, require_whole, uncommitted};
use crate::base::cancel::Cancel;
use crate::base::progress::Progress;
use crate::base::{BackupId, Error, Incarnation, Lsn, Result, SegmentSize, Timestamp, killpoint};
use crate::engine::backup::host_name;
use crate::engine::{Scope, head};
use crate::repo::commit::{self, Author, Committed, LogFloor};
use crate::repo::expiry::Standing;
use crate::repo::{BackupSummary, CommitLog, Role, Signer, Tombstone, layout};
use crate::store::{ObjectInfo, list_all};

/// What is to be carried out.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// Only marks on these; all when it is empty.
    pub only: BTreeSet<BackupId>,
    /// Whether nothing restorable may be left.
    pub allow_none: bool,
}

/// What was done, or would be.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Every backup, oldest first, with what became of it.
    pub backups: Vec<Verdict>,
    /// Number of the tombstone; none when none was put.
    pub tombstone: Option<u32>,
    /// Objects of backups that went, those of earlier interrupted runs among them.
    pub deleted_backup_objects: u64,
    /// Their bytes.
    pub deleted_backup_bytes: u64,
    /// The log of each incarnation that lost backups.
    pub logs: Vec<LogAccount>,
    /// Marks that are not used: key and why.
    pub unused_marks: Vec<(String, String)>,
    /// What the operator should know.
    pub notes: Vec<String>,
}

/// What becomes of the log of one incarnation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogAccount {
    /// The incarnation.
    pub incarnation: Incarnation,
    /// From here on it is kept.
    pub floor_lsn: Lsn,
    /// The backup whose start that is; none when it is another limit.
    pub needed_by: Option<BackupId>,
    /// Objects that went.
    pub deleted_objects: u64,
    /// Their bytes.
    pub deleted_bytes: u64,
    /// Objects that stay.
    pub kept_objects: u64,
    /// Those of them that nothing needs and a lock holds.
    pub locked_objects: u64,
    /// When the last of these locks ends.
    pub locked_until: Option<Timestamp>,
}

/// What was decided on one state of the commit log.
struct Decision {
    verdicts: Vec<Verdict>,
    tombstone: Tombstone,
    notes: Vec<String>,
    unused_marks: Vec<(String, String)>,
}

impl Decision {
    /// Whether there is anything to put on record.
    fn is_empty(&self) -> bool {
        self.tombstone.backups.is_empty() && self.tombstone.log_floors.is_empty()
    }
}

/// Carries out what is due, and goes on with what an earlier run left; without an `operator` says what would be done.
///
/// # Errors
/// Usage when the operator's key has no right to; damaged when the commit log is; when the repository does not answer.
/// After an error the next run goes on.
pub async fn run(
    scope: &Scope,
    operator: Option<&Signer>,
    wish: &Wish,
    progress: Arc<dyn Progress>,
    cancel: &Cancel,
) -> Result<Report> {
    if let Some(operator) = operator {
        scope.repository.keyring().require(operator, Role::Expire)?;
    }
    progress.phase(&format!("deciding what of {} expires", scope.source), None);
    let mut log = head::look(scope).await?.trusted(scope)?;
    let mut decision = decide(scope, &log, wish).await?;
    let mut tombstone = None;
    if let (Some(operator), false) = (operator, decision.is_empty()) {
        cancel.check()?;
        let host = host_name();
        let author = Author { signer: operator, host: &host, lease_token: 0 };
        let entry = commit::append_decided(&scope.repository, &scope.source, author, async |log| {
            decision = decide(scope, log, wish).await?;
            match decision.is_empty() {
                true => Err(Error::busy("what was due a moment ago is not any more").hint("run the same command again")),
                false => Ok(Committed::Tombstone(decision.tombstone.clone())),
            }
        });
        tombstone = Some(entry.await?.number);
        killpoint::reach("expire.committed");
        log = head::look(scope).await?.trusted(scope)?;
    }
    let mut report = Report {
        backups: decision.verdicts,
        tombstone,
        deleted_backup_objects: 0,
        deleted_backup_bytes: 0,
        logs: Vec::new(),
        unused_marks: decision.unused_marks,
        notes: decision.notes,
    };
    let acting = operator.is_some();
    let going: BTreeSet<&BackupId> = decision.tombstone.backups.iter().collect();
    let gone: Vec<BackupSummary> =
        log.expired().chain(log.backups().filter(|backup| going.contains(&backup.id))).cloned().collect();
    delete_backups(scope, &gone, acting, &progress, cancel, &mut report).await?;
    let kept: Vec<&BackupSummary> = log.backups().filter(|backup| !going.contains(&backup.id)).collect();
    // Looked at again: something may have begun since it was decided. What does not say which log it needs needs all of it.
    let Some(in_flight) = in_flight(&uncommitted(scope, &log).await?) else { return Ok(report) };
    let floors = floors(&log, &gone, &decision.tombstone.log_floors, &kept, &in_flight);
    for (incarnation, (floor, size)) in floors {
        let remaining = log.backups().filter(|backup| !going.contains(&backup.id));
        let needed_by =
            remaining.filter(|backup| backup.incarnation == incarnation && backup.start_lsn == floor).map(|b| b.id.clone());
        let needed_by = needed_by.min();
        let account = LogAccount {
            incarnation,
            floor_lsn: floor,
            needed_by,
            deleted_objects: 0,
            deleted_bytes: 0,
            kept_objects: 0,
            locked_objects: 0,
            locked_until: None,
        };
        report.logs.push(delete_log(scope, account, size, acting, &progress, cancel).await?);
    }
    Ok(report)
}

/// Decides on one state of the commit log and of everything else.
async fn decide(scope: &Scope, log: &CommitLog, wish: &Wish) -> Result<Decision> {
    require_whole(scope, log)?;
    let survey = Survey::of(scope, log).await?;
    let standing = &survey.marks.standing;
    let marks: BTreeMap<BackupId, Standing> = standing
        .iter()
        .filter(|(id, _)| wish.only.is_empty() || wish.only.contains(*id))
        .map(|(id, standing)| (id.clone(), standing.clone()))
        .collect();
    let locked = locked(scope, log, &marks).await?;
    let verdicts = plan::decide(&survey.situation(log, &marks, &locked, wish.allow_none));
    let going: BTreeSet<&BackupId> =
        verdicts.iter().filter(|verdict| verdict.fate == Fate::Expired).map(|verdict| &verdict.id).collect();
    let (going_now, remaining): (Vec<&BackupSummary>, Vec<&BackupSummary>) =
        log.backups().partition(|backup| going.contains(&backup.id));
    let gone: Vec<&BackupSummary> = log.expired().chain(going_now.iter().copied()).collect();
    let mut notes = Vec::new();
    let floors = match survey.in_flight() {
        Some(in_flight) => log_floors(&remaining, &gone, &in_flight, |incarnation| log.log_floor(incarnation)),
        None => {
            notes.push(format!(
                "no log is deleted now: something was begun that does not say which log it needs \
                 (lifeboat expire {} --orphans --dry-run)",
                scope.source
            ));
            Vec::new()
        }
    };
    let names: BTreeSet<String> = going.iter().filter_map(|id| Some(marks.get(*id)?.mark.clone())).collect();
    let tombstone = Tombstone {
        backups: going_now.iter().map(|backup| backup.id.clone()).collect(),
        marks: names.into_iter().collect(),
        log_floors: floors,
    };
    Ok(Decision { verdicts, tombstone, notes, unused_marks: survey.marks.problems })
}

/// Deletes, or counts, what is left of the backups that are gone.
async fn delete_backups(
    scope: &Scope,
    gone: &[BackupSummary],
    acting: bool,
    progress: &Arc<dyn Progress>,
    cancel: &Cancel,
    report: &mut Report,
) -> Result<()> {
    let store = scope.repository.store();
    // Most of what ever expired is gone for long: only what is left of the others is listed.
    let left: BTreeSet<String> = store.list_dirs(&layout::backups(&scope.source)).await?.into_iter().collect();
    for backup in gone.iter().filter(|backup| left.contains(backup.id.as_str())) {
        cancel.check()?;
        let objects = list_all(store, &layout::backup(&scope.source, &backup.id), None).await?;
        let (objects, held) = without_locked(scope, ordered(&scope.source, &backup.id, objects)).await?;
        // Locked after it was decided upon, or decided upon elsewhere.
        if let Some((count, lock)) = held {
            report.notes.push(format!(
                "{count} objects of {}, which is gone already, are {lock}: they go with the next run after that",
                backup.id
            ));
        }
        if objects.is_empty() {
            continue;
        }
        report.deleted_backup_objects += objects.len() as u64;
        report.deleted_backup_bytes += total_bytes(&objects);
        if acting {
            progress.phase(&format!("deleting backup {}", backup.id), Some(total_bytes(&objects)));
            delete(scope, &objects, "expire.object-deleted", progress.as_ref(), cancel).await?;
            killpoint::reach("expire.backup-deleted");
        }
    }
    Ok(())
}

/// Where the log of each incarnation that lost backups begins to be needed: by the tombstones on record and the one that
/// would be put, but never after the start of a backup that is there or being taken. One may have come to lie before a
/// recorded floor, by a copy from another repository or because the server was wound back.
fn floors(
    log: &CommitLog,
    gone: &[BackupSummary],
    planned: &[LogFloor],
    kept: &[&BackupSummary],
    in_flight: &[LogFloor],
) -> BTreeMap<Incarnation, (Lsn, SegmentSize)> {
    let mut floors = BTreeMap::new();
    for backup in gone {
        let incarnation = &backup.incarnation;
        let of = |floors: &[LogFloor]| -> Vec<Lsn> {
            floors.iter().filter(|floor| floor.incarnation == *incarnation).map(|floor| floor.lsn).collect()
        };
        let declared = log.log_floor(incarnation).max(of(planned).into_iter().max().unwrap_or_default());
        let kept = kept.iter().filter(|kept| kept.incarnation == *incarnation).map(|kept| kept.start_lsn);
        let floor = kept.chain(of(in_flight)).min().map_or(declared, |needed| declared.min(needed));
        floors.insert(incarnation.clone(), (floor, backup.segment_bytes));
    }
    floors
}

/// Deletes, or counts, the log of one incarnation that lies before its floor.
async fn delete_log(
    scope: &Scope,
    mut account: LogAccount,
    size: SegmentSize,
    acting: bool,
    progress: &Arc<dyn Progress>,
    cancel: &Cancel,
) -> Result<LogAccount> {
    let prefix = layout::log(&scope.source, &account.incarnation);
    let listing: Vec<ObjectInfo> = list_all(scope.repository.store(), &prefix, None).await?;
    let going = below_floor(&prefix, &listing, size, account.floor_lsn);
    let (going, held) = without_locked(scope, going).await?;
    if let Some((count, lock)) = held {
        (account.locked_objects, account.locked_until) = (count, Some(lock.until));
    }
    account.deleted_objects = going.len() as u64;
    account.deleted_bytes = total_bytes(&going);
    account.kept_objects = (listing.len() - going.len()) as u64;
    if acting && !going.is_empty() {
        progress.phase(&format!("deleting the log before {}", account.floor_lsn), Some(account.deleted_bytes));
        delete(scope, &going, "expire.log-object-deleted", progress.as_ref(), cancel).await?;
    }
    Ok(account)
}
