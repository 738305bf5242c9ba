//! What `--type auto` goes by when a source has a policy: its schedule, and what its drills measured.

use crate::base::{BackupType, Incarnation, Job, Lsn, Result, Timestamp};
use crate::engine::Scope;
use crate::engine::slots;
use crate::engine::status::rto;
use crate::policy::Policy;
use crate::policy::cadence::{Record, Timetable, plan};
use crate::policy::choice::{AutoTerms, Newest};
use crate::repo::{BackupSummary, commit, evidence};

/// The terms for a backup of `scope` at `now`.
///
/// # Errors
/// When the repository does not answer.
pub async fn terms(scope: &Scope, policy: &Policy, now: Timestamp) -> Result<AutoTerms> {
    let table = Timetable::of(&policy.schedule, &[Job::Full, Job::Diff, Job::Incr]);
    let mut record = Record::default();
    for (job, began) in slots::done(scope, Job::Full).await? {
        record.done(job, began);
    }
    let due = plan(&table, &record, now).due.first().and_then(|due| type_of(due.job));
    let lightest = table.jobs().last().and_then(type_of).unwrap_or(BackupType::Incr);
    let evidence = evidence::Record::load(&scope.repository, &scope.source).await?;
    Ok(AutoTerms { due, lightest, objectives: policy.objectives, rates: rto::rates(&evidence.kept) })
}

fn type_of(job: Job) -> Option<BackupType> {
    match job {
        Job::Full => Some(BackupType::Full),
        Job::Diff => Some(BackupType::Diff),
        Job::Incr => Some(BackupType::Incr),
        Job::Expire | Job::Drill | Job::Verify => None,
    }
}

/// The newest of `backups` of this incarnation, as the choice of a type looks at it; none when nothing can build on it. The
/// log is that up to `log_end`, of a source that has one.
pub(in crate::engine) fn newest(backups: &[&BackupSummary], incarnation: &Incarnation, log_end: Option<Lsn>) -> Option<Newest> {
    let backup = backups.iter().rfind(|backup| backup.incarnation == *incarnation)?;
    let chain = commit::chain(backup, backups).ok()?;
    let links = || chain.iter().filter(|link| link.base.is_some()).map(|link| link.stored_bytes);
    Some(Newest {
        raw_bytes: backup.raw_bytes,
        full_stored_bytes: chain.iter().find(|link| link.base.is_none())?.stored_bytes,
        links_stored_bytes: links().sum(),
        largest_link_stored_bytes: links().max().unwrap_or_default(),
        links: links().count(),
        wal_bytes: log_end.map_or(0, |end| end.0.saturating_sub(backup.start_lsn.0)),
    })
}
