//! Phase two: what is due goes, if it may go now.
//!
//! Order, each step durable before the next: the tombstone in the commit log, the objects of the backups it names, the
//! log that nothing needs. The decision is taken on the very log to which the tombstone is appended: a backup that was
//! committed a moment before is seen, and one that comes a moment later finds its base gone and is not committed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use super::delete::{delete, ordered, total_bytes, without_locked};
use super::log::{self, LogAccount};
use super::plan::{self, Fate, Verdict, log_floors};
use super::rules::{self, Judgement};
use super::survey::{Survey, locked, require_whole};
use super::tail;
use crate::base::cancel::Cancel;
use crate::base::progress::Progress;
use crate::base::{BackupId, Error, Result, Timestamp, killpoint};
use crate::engine::backup::host_name;
use crate::engine::retention::Rules;
use crate::engine::{Scope, head};
use crate::repo::commit::{self, Author, Committed};
use crate::repo::expiry::{Marks, Standing};
use crate::repo::{BackupSummary, CommitLog, Role, Signer, Tombstone, layout};
use crate::store::list_all;

/// What is to be carried out.
#[derive(Clone, Debug, Default)]
pub struct Wish<'a> {
    /// Only marks on these; all when it is empty.
    pub only: BTreeSet<BackupId>,
    /// A mark that does not count yet: it was just made.
    pub except: Option<String>,
    /// Rules that may want what they marked to stay, and say which log goes.
    pub rules: Option<Rules<'a>>,
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
        let Tombstone { backups, log_floors, log_ranges, .. } = &self.tombstone;
        backups.is_empty() && log_floors.is_empty() && log_ranges.is_empty()
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
    wish: &Wish<'_>,
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
    report.notes.extend(tail::delete_redundant(scope, &log, acting, &progress, cancel).await?);
    report.logs = log::delete_all(scope, &log, &decision.tombstone, wish.rules, acting, &progress, cancel).await?;
    Ok(report)
}

/// Decides on one state of the commit log and of everything else.
async fn decide(scope: &Scope, log: &CommitLog, wish: &Wish<'_>) -> Result<Decision> {
    require_whole(scope, log)?;
    let survey = Survey::of(scope, log).await?;
    let judgement = match wish.rules {
        Some(rules) => Some(rules::judge(scope, log, &survey, rules).await?),
        None => None,
    };
    let standing = &survey.marks.standing;
    let counts = |id: &BackupId, mark: &Standing| {
        let is_asked_for = wish.only.is_empty() || wish.only.contains(id);
        is_asked_for && wish.except.as_ref() != Some(&mark.mark) && stands(id, mark, judgement.as_ref())
    };
    let marks: BTreeMap<BackupId, Standing> =
        standing.iter().filter(|(id, mark)| counts(id, mark)).map(|(id, standing)| (id.clone(), standing.clone())).collect();
    let now = Timestamp::now();
    let locked = locked(scope, log, |id| marks.get(id).is_some_and(|mark| mark.due <= now)).await?;
    let mut verdicts = plan::decide(&survey.situation(log, &marks, &locked, wish.allow_none));
    give_reasons(&mut verdicts, judgement.as_ref(), &survey.marks, &marks);
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
    let log_ranges = match wish.rules {
        Some(rules) => log::due_ranges(log, &survey, remaining, &floors, rules, wish.except.as_deref()),
        None => Vec::new(),
    };
    let names: BTreeSet<String> = going.iter().filter_map(|id| Some(marks.get(*id)?.mark.clone())).collect();
    let tombstone = Tombstone {
        backups: going_now.iter().map(|backup| backup.id.clone()).collect(),
        marks: names.into_iter().collect(),
        log_floors: floors,
        log_ranges,
    };
    Ok(Decision { verdicts, tombstone, notes, unused_marks: survey.marks.problems })
}

/// Whether a mark still means something: a policy's does only while the policy is there and lets the backup go.
fn stands(id: &BackupId, mark: &Standing, judgement: Option<&Judgement>) -> bool {
    !mark.by_policy || judgement.is_some_and(|judgement| judgement.keeps(id).is_none())
}

/// What stays without a mark that counts does so for what the rules say, or because they are gone.
fn give_reasons(
    verdicts: &mut [Verdict],
    judgement: Option<&Judgement>,
    standing: &Marks,
    counting: &BTreeMap<BackupId, Standing>,
) {
    for verdict in verdicts.iter_mut().filter(|verdict| !counting.contains_key(&verdict.id)) {
        let was_marked = standing.standing.get(&verdict.id).is_some_and(|mark| mark.by_policy);
        match judgement.map(|judgement| judgement.keeps(&verdict.id)) {
            Some(Some(why)) if was_marked => verdict.why = format!("was marked by the policy, which wants it now: {why}"),
            Some(Some(why)) => verdict.why = why.to_owned(),
            None if was_marked => {
                verdict.why = "was marked by a policy that the source no longer has: name it with --backup".to_owned();
            }
            _ => {}
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::retention;

    #[test]
    fn a_mark_by_a_policy_means_nothing_without_the_policy() {
        let id: BackupId = "20261120T214002Z-full-k3fq".parse().unwrap();
        let mark = |by_policy| Standing { mark: "m".into(), due: Timestamp::now(), by_policy };
        let judged = |kept| {
            let backups = vec![retention::Verdict { id: id.clone(), kept, why: vec!["it is old".to_owned()] }];
            Judgement { backups, ..Judgement::default() }
        };
        assert!(stands(&id, &mark(true), Some(&judged(false))));
        assert!(!stands(&id, &mark(true), Some(&judged(true))));
        assert!(!stands(&id, &mark(true), None));
        for judgement in [None, Some(&judged(true))] {
            assert!(stands(&id, &mark(false), judgement), "an operator's goes whatever the policy wants");
        }
        let mut marks = Marks::default();
        marks.standing.insert(id.clone(), mark(true));
        let mut verdicts = [Verdict { id: id.clone(), fate: Fate::Kept, why: "is not marked".to_owned() }];
        give_reasons(&mut verdicts, None, &marks, &BTreeMap::new());
        assert!(verdicts[0].why.contains("no longer has: name it with --backup"), "{}", verdicts[0].why);
        give_reasons(&mut verdicts, Some(&judged(true)), &marks, &BTreeMap::new());
        assert_eq!(verdicts[0].why, "was marked by the policy, which wants it now: it is old");
    }
}
