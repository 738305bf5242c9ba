//! Phase one: marking backups that are to go, and withdrawing marks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::plan::{self, Fate, bases, descendants};
use super::survey::{Survey, require_whole};
use crate::base::{BackupId, Error, Result, Timestamp, killpoint};
use crate::engine::backup::host_name;
use crate::engine::{Scope, head};
use crate::repo::expiry::{self, Expiry, Mark, Marks, Standing, Withdrawal};
use crate::repo::{BackupSummary, CommitLog, Role, Signer};

/// What is to be marked.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The backups.
    pub backups: Vec<BackupId>,
    /// Whether what builds on them goes too.
    pub chain: bool,
    /// How long the mark can be withdrawn before anything is deleted.
    pub grace: Duration,
    /// Whether nothing restorable may be left.
    pub allow_none: bool,
}

/// What was marked, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marked {
    /// The mark's name; none when nothing had to be marked, or nothing was to be done.
    pub name: Option<String>,
    /// The backups that it marks.
    pub backups: Vec<BackupId>,
    /// From when on it may be carried out.
    pub due: Timestamp,
    /// Backups that were marked before, with the time from which on they may go.
    pub standing: Vec<(BackupId, Timestamp)>,
}

/// What was withdrawn, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Withdrawn {
    /// The withdrawal's name; none when nothing was to be done.
    pub name: Option<String>,
    /// The backups that stay, those on which the named ones build among them.
    pub backups: Vec<BackupId>,
}

/// Marks backups; without an `operator` says what would be marked.
///
/// # Errors
/// Failed when one is not there, when something else builds on one and `wish` does not include it, or when nothing
/// restorable would be left; usage when the operator's key has no right to; damaged when the commit log is.
pub async fn mark(scope: &Scope, operator: Option<&Signer>, wish: &Wish) -> Result<Marked> {
    let log = trusted_log(scope, operator).await?;
    let survey = Survey::of(scope, &log).await?;
    let backups: Vec<&BackupSummary> = log.backups().collect();
    let mut wanted: BTreeSet<BackupId> = known(scope, &log, &wish.backups)?;
    if wish.chain {
        let more: Vec<BackupId> = wanted.iter().flat_map(|id| descendants(&backups, id)).collect();
        wanted.extend(more);
    }
    // A mark by a policy alone is no decision of an operator.
    let marked_before = |id: &BackupId| survey.marks.standing.get(id).filter(|mark| !mark.by_policy);
    let standing: Vec<(BackupId, Timestamp)> =
        wanted.iter().filter_map(|id| Some((id.clone(), marked_before(id)?.due))).collect();
    let marked = Timestamp::now();
    let due = marked.plus(wish.grace);
    refuse_what_cannot_go(scope, &log, &survey, &wanted, wish)?;
    let fresh: Vec<BackupId> = wanted.into_iter().filter(|id| marked_before(id).is_none()).collect();
    let name = match operator {
        Some(operator) if !fresh.is_empty() => {
            let grace_seconds = wish.grace.as_secs();
            let (backups, log_ranges, policy, host) = (fresh.clone(), Vec::new(), None, host_name());
            Some(put_mark(scope, operator, Mark { backups, log_ranges, policy, marked, grace_seconds, host }).await?)
        }
        _ => None,
    };
    Ok(Marked { name, backups: fresh, due, standing })
}

/// Withdraws every mark on the named backups, and on those that they build on; without an `operator` says which.
///
/// # Errors
/// Failed when one is not there or not marked; usage when the operator's key has no right to.
pub async fn withdraw(scope: &Scope, operator: Option<&Signer>, ids: &[BackupId]) -> Result<Withdrawn> {
    let log = trusted_log(scope, operator).await?;
    let marks = Marks::load(&scope.repository, &scope.source).await?;
    let named = known(scope, &log, ids)?;
    if let Some(id) = named.iter().find(|id| !marks.standing.contains_key(*id)) {
        return Err(Error::failed(format!("{id} is not marked: there is nothing to withdraw"))
            .hint(format!("lifeboat expire {} --dry-run   shows what is marked", scope.source)));
    }
    let all: Vec<&BackupSummary> = log.backups().collect();
    let with_bases = named.iter().flat_map(|id| bases(&all, id).into_iter().chain([id.clone()]));
    let kept: BTreeSet<BackupId> = with_bases.filter(|id| marks.standing.contains_key(id)).collect();
    let backups: Vec<BackupId> = kept.into_iter().collect();
    let name = match operator {
        Some(operator) => Some(keep(scope, operator, &marks, backups.clone(), &BTreeSet::new(), None).await?),
        None => None,
    };
    Ok(Withdrawn { name, backups })
}

/// Puts a mark on record; its name.
pub(super) async fn put_mark(scope: &Scope, operator: &Signer, mark: Mark) -> Result<String> {
    let name = expiry::store(&scope.repository, &scope.source, operator, Expiry::Mark(mark)).await?;
    killpoint::reach("expire.marked");
    Ok(name)
}

/// Withdraws every mark on these backups, and for log the marks named in `log`, when it is a policy for `policy`; the
/// withdrawal's name.
pub(super) async fn keep(
    scope: &Scope,
    operator: &Signer,
    marks: &Marks,
    backups: Vec<BackupId>,
    log: &BTreeSet<&str>,
    policy: Option<&str>,
) -> Result<String> {
    let names = backups.iter().flat_map(|id| marks.names_for(id));
    let marks: BTreeSet<String> = names.chain(log.iter().map(|name| (*name).to_owned())).collect();
    let (marks, withdrawn, host) = (marks.into_iter().collect(), Timestamp::now(), host_name());
    let policy = policy.map(str::to_owned);
    let withdrawal = Withdrawal { marks, backups, log: !log.is_empty(), policy, withdrawn, host };
    expiry::store(&scope.repository, &scope.source, operator, Expiry::Withdrawal(withdrawal)).await
}

/// The commit log, whole and the one seen before, for an operator who may expire.
pub(super) async fn trusted_log(scope: &Scope, operator: Option<&Signer>) -> Result<CommitLog> {
    if let Some(operator) = operator {
        scope.repository.keyring().require(operator, Role::Expire)?;
    }
    let log = head::look(scope).await?.trusted(scope)?;
    require_whole(scope, &log)?;
    Ok(log)
}

/// The named backups, all of which must be there.
fn known(scope: &Scope, log: &CommitLog, ids: &[BackupId]) -> Result<BTreeSet<BackupId>> {
    let source = &scope.source;
    for id in ids {
        if log.find(id).is_some() {
            continue;
        }
        let error = match log.was_committed(id) {
            true => Error::failed(format!("{id} of {source} has expired already")),
            false => Error::failed(format!("{source} has no backup {id}")),
        };
        return Err(error.hint(format!("lifeboat list {source}   shows what there is")));
    }
    Ok(ids.iter().cloned().collect())
}

/// Refuses a mark that could not be carried out if all were due now.
fn refuse_what_cannot_go(
    scope: &Scope,
    log: &CommitLog,
    survey: &Survey,
    wanted: &BTreeSet<BackupId>,
    wish: &Wish,
) -> Result<()> {
    let backups: Vec<&BackupSummary> = log.backups().collect();
    let others: BTreeSet<BackupId> = wanted.iter().flat_map(|id| descendants(&backups, id)).collect();
    let others: Vec<String> = others
        .iter()
        .filter(|id| !wanted.contains(*id) && !survey.marks.standing.contains_key(*id))
        .map(ToString::to_string)
        .collect();
    let source = &scope.source;
    let named = |ids: &mut dyn Iterator<Item = &BackupId>| ids.map(|id| format!(" --backup {id}")).collect::<String>();
    if !others.is_empty() {
        return Err(Error::failed(format!("{source} has backups that build on what is to go, and would be lost with it"))
            .detail("would be lost", others.join("\n"))
            .hint(format!("lifeboat expire {source}{} --chain --key FILE   if they are to go too", named(&mut wanted.iter()))));
    }
    // As if the grace of this mark and of those before it, and every lock, were over.
    let unlocked = BTreeMap::new();
    let all_due = |id: &BackupId| (id.clone(), Standing { mark: String::new(), due: Timestamp::now(), by_policy: false });
    let marks: BTreeMap<BackupId, Standing> = wanted.iter().chain(survey.marks.standing.keys()).map(all_due).collect();
    let verdicts = plan::decide(&survey.situation(log, &marks, &unlocked, wish.allow_none));
    let stuck = verdicts.iter().find(|verdict| wanted.contains(&verdict.id) && verdict.fate != Fate::Expired);
    match stuck {
        None => Ok(()),
        Some(verdict) => Err(Error::failed(format!("{} cannot expire: it {}", verdict.id, verdict.why))
            .hint(format!("lifeboat backup {source} --type full   first"))
            .hint("or, when nothing is to be left: --allow-none")),
    }
}
