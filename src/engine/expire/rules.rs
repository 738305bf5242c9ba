//! Expiry by rules: what they let go is marked, what they marked and want again is withdrawn.
//!
//! Rules decide afresh whenever something is marked, put on record or deleted; a mark of theirs is never more than the
//! beginning of a grace.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;

use super::mark::{keep, put_mark, trusted_log};
use super::survey::{IN_FLIGHT, Survey, Uncommitted, locked};
use crate::base::{BackupId, Incarnation, Result, SegmentSize, Timestamp};
use crate::engine::Scope;
use crate::engine::backup::host_name;
use crate::engine::retention::{Present, Rules, proven};
use crate::policy::retention::{Begun, LogVerdict, Verdict};
use crate::repo::evidence::Record;
use crate::repo::expiry::{Mark, StandingLog};
use crate::repo::log::{LogCatalog, LogCut, LogRange};
use crate::repo::{BackupSummary, CommitLog, Signer};

/// What rules make of a repository.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Judgement {
    /// Every backup, oldest first.
    pub backups: Vec<Verdict>,
    /// The log of every incarnation, in order.
    pub logs: Vec<LogVerdict>,
}

/// What was marked and withdrawn by rules, or would be.
#[derive(Clone, Debug)]
pub struct Ruled {
    /// On what grounds.
    pub judgement: Judgement,
    /// The mark's name; none when nothing had to be marked, or nothing was to be done.
    pub mark: Option<String>,
    /// The backups that it marks.
    pub marked: Vec<BackupId>,
    /// The log that it marks.
    pub marked_log: Vec<LogRange>,
    /// From when on it may be carried out.
    pub due: Timestamp,
    /// Backups that go and were marked before, with the time from which on they may go.
    pub standing: Vec<(BackupId, Timestamp)>,
    /// Backups that the rules had marked and want to keep.
    pub withdrawn: Vec<BackupId>,
}

impl Judgement {
    /// Why a backup stays; none when it goes.
    pub(super) fn keeps(&self, id: &BackupId) -> Option<&str> {
        let verdict = self.backups.iter().find(|verdict| verdict.kept && verdict.id == *id)?;
        verdict.why.first().map(String::as_str)
    }
}

/// The log that goes, on the timelines that there are.
pub(super) fn cut(logs: &[LogVerdict], incarnation: &Incarnation, catalog: &LogCatalog) -> LogCut {
    let going = logs.iter().filter(|log| !log.kept && log.incarnation == *incarnation);
    LogCut::on(catalog.timelines(), going.map(|log| (log.from, log.to)))
}

/// Whether a segment is there that `cut` lets go and `before` does not.
pub(super) fn adds(cut: &LogCut, before: &LogCut, (size, catalog): &(SegmentSize, LogCatalog)) -> bool {
    catalog.segments.keys().any(|segment| cut.covers_segment(*segment, *size) && !before.covers_segment(*segment, *size))
}

/// What the rules make of the repository as it was surveyed.
pub(super) async fn judge(scope: &Scope, log: &CommitLog, survey: &Survey, rules: Rules<'_>) -> Result<Judgement> {
    let record = Record::load(&scope.repository, &scope.source).await?;
    let mut present = Present { proven: proven(&record), ..present(survey, log.backups().collect()) };
    let dropped: BTreeSet<BackupId> =
        rules.judge(&present).into_iter().filter(|verdict| !verdict.kept).map(|verdict| verdict.id).collect();
    let locks = locked(scope, log, |id| dropped.contains(id)).await?;
    present.locked_until = locks.into_iter().map(|(id, lock)| (id, lock.until)).collect();
    let backups = rules.judge(&present);
    let kept: BTreeSet<&BackupId> = backups.iter().filter(|verdict| verdict.kept).map(|verdict| &verdict.id).collect();
    present.backups.retain(|backup| kept.contains(&backup.id));
    let logs = rules.judge_log(&present);
    Ok(Judgement { backups, logs })
}

/// What the rules make of the log when exactly these backups stay.
pub(super) fn judge_log(survey: &Survey, backups: Vec<&BackupSummary>, rules: Rules<'_>) -> Vec<LogVerdict> {
    rules.judge_log(&present(survey, backups))
}

/// What is there, without what drills and locks say.
fn present<'a>(survey: &'a Survey, backups: Vec<&'a BackupSummary>) -> Present<'a> {
    let now = Timestamp::now();
    let begun = |begun: &Uncommitted| Begun {
        id: begun.id.clone(),
        base: begun.base.clone(),
        log_start: begun.log_start.clone().map(|start| (start.incarnation, start.lsn)),
    };
    Present {
        backups,
        restorable: &survey.restorable,
        proven: BTreeSet::new(),
        locked_until: BTreeMap::new(),
        held: &survey.marks.held,
        begun: survey.uncommitted.iter().filter(|begun| begun.may_be_in_flight(IN_FLIGHT, now)).map(begun).collect(),
        catalogs: &survey.catalogs,
        now,
    }
}

/// Marks what the rules let go, and withdraws their marks on what they keep; without an `operator` says what would be done.
///
/// # Errors
/// Usage when the operator's key has no right to; damaged when the commit log is; when the repository does not answer.
pub async fn apply(scope: &Scope, operator: Option<&Signer>, rules: Rules<'_>, grace: Duration) -> Result<Ruled> {
    let log = trusted_log(scope, operator).await?;
    let survey = Survey::of(scope, &log).await?;
    let judgement = judge(scope, &log, &survey, rules).await?;
    let marks = &survey.marks;
    let withdrawn: Vec<BackupId> = log
        .backups()
        .map(|backup| &backup.id)
        .filter(|id| marks.standing.get(id).is_some_and(|mark| mark.by_policy) && judgement.keeps(id).is_some())
        .cloned()
        .collect();
    let is_wanted_again = |mark: &&StandingLog| {
        let own = |range: &LogRange| {
            let marked = LogCut::of(&range.incarnation, std::slice::from_ref(range));
            // What was let go already, or is not there, cannot be wanted.
            let declared = log.log_cut(&range.incarnation);
            survey.catalogs.get(&range.incarnation).is_some_and(|catalog| {
                let going = cut(&judgement.logs, &range.incarnation, &catalog.1);
                adds(&marked, &going.or(&declared), catalog)
            })
        };
        mark.ranges.iter().any(own)
    };
    let log_again: BTreeSet<&str> = marks.log.iter().filter(is_wanted_again).map(|mark| mark.mark.as_str()).collect();
    let going = judgement.backups.iter().filter(|verdict| !verdict.kept).map(|verdict| &verdict.id);
    let (before, marked): (Vec<&BackupId>, Vec<&BackupId>) = going.partition(|id| marks.standing.contains_key(*id));
    let standing = before.iter().map(|id| ((*id).clone(), marks.standing[*id].due)).collect();
    let marked: Vec<BackupId> = marked.into_iter().cloned().collect();
    let still_marked = |incarnation: &Incarnation| marks.marked_log(incarnation, |mark| !log_again.contains(mark.mark.as_str()));
    let fresh = |(incarnation, catalog): (&Incarnation, &(SegmentSize, LogCatalog))| {
        let going = cut(&judgement.logs, incarnation, &catalog.1);
        let is_new = adds(&going, &still_marked(incarnation).or(&log.log_cut(incarnation)), catalog);
        if is_new { going.ranges(incarnation) } else { Vec::new() }
    };
    let marked_log: Vec<LogRange> = survey.catalogs.iter().flat_map(fresh).collect();
    let mut mark = None;
    let now = Timestamp::now();
    if let Some(operator) = operator {
        if !withdrawn.is_empty() || !log_again.is_empty() {
            keep(scope, operator, marks, withdrawn.clone(), &log_again, Some(rules.policy)).await?;
        }
        if !marked.is_empty() || !marked_log.is_empty() {
            let body = Mark {
                backups: marked.clone(),
                log_ranges: marked_log.clone(),
                policy: Some(rules.policy.to_owned()),
                marked: now,
                grace_seconds: grace.as_secs(),
                host: host_name(),
            };
            mark = Some(put_mark(scope, operator, body).await?);
        }
    }
    Ok(Ruled { judgement, mark, marked, marked_log, due: now.plus(grace), standing, withdrawn })
}
