//! `list`: what a repository holds of a source and which moments it can bring back, from names and signed entries
//! alone: no key needed. It shows and decides nothing, so the names may be those that this host remembers
//! ([`crate::repo::log::listing`]).

use std::collections::BTreeMap;

use crate::base::{BackupId, Error, Lsn, Result, SourceName, TimelineId};
use crate::engine::Scope;
use crate::engine::timeline::TimelinePath;
use crate::engine::window::{Window, window};
use crate::repo::expiry::{Marks, Standing};
use crate::repo::identity::{self, Identity};
use crate::repo::log::catalog::SplitBrain;
use crate::repo::log::listing::{self, Place};
use crate::repo::log::{LogCatalog, tail};
use crate::repo::{BackupSummary, CommitLog, Repository};

/// What there is of one source.
#[derive(Clone, Debug)]
pub struct Survey {
    /// The source.
    pub source: SourceName,
    /// Its incarnations, in the order in which they were first seen.
    pub incarnations: Vec<IncarnationSurvey>,
    /// Backups that are marked to be expired, with the mark that is due first.
    pub marks: BTreeMap<BackupId, Standing>,
    /// Marks and withdrawals that count for nothing: the object's key and why.
    pub unused_marks: Vec<(String, String)>,
    /// Commit entries and identities that are not used: the object's key and why.
    pub problems: Vec<(String, String)>,
}

/// What there is of one incarnation.
#[derive(Clone, Debug)]
pub struct IncarnationSurvey {
    /// Who it is.
    pub identity: Identity,
    /// Its backups, oldest first.
    pub backups: Vec<BackupSummary>,
    /// What each timeline leads to, newest first. Timelines that add nothing to a newer one are left out.
    pub timelines: Vec<TimelineSurvey>,
    /// Archived segments.
    pub segments: usize,
    /// Their stored size in bytes.
    pub log_stored_bytes: u64,
    /// Contradictions in the archive.
    pub split_brains: Vec<SplitBrain>,
}

/// The moments that one timeline leads to.
#[derive(Clone, Debug)]
pub struct TimelineSurvey {
    /// The timeline.
    pub timeline: TimelineId,
    /// The timeline it branched from, and where.
    pub branched: Option<(TimelineId, Lsn)>,
    /// Its recovery window; why there is none, when a history is missing.
    pub window: std::result::Result<Window, String>,
}

/// The names of all sources in a repository.
///
/// # Errors
/// When the repository does not answer.
pub async fn sources(repository: &Repository) -> Result<Vec<SourceName>> {
    let dirs = repository.store().list_dirs("").await?;
    Ok(dirs.iter().filter_map(|dir| dir.parse().ok()).collect())
}

/// Surveys one source, whose commit log is `log`.
///
/// # Errors
/// When the repository does not answer.
pub async fn survey(scope: &Scope, log: &CommitLog) -> Result<Survey> {
    let mut incarnations = Vec::new();
    let (identities, mut problems) = identity::survey(&scope.repository, &scope.source).await?;
    problems.extend(log.problems.iter().cloned());
    let marks = Marks::load(&scope.repository, &scope.source).await?;
    problems.extend(log.broken().map(|(backup, broken)| (backup.id.to_string(), broken.to_string())));
    for identity in identities {
        let place = Place {
            repository: &scope.repository,
            state: &scope.state,
            source: &scope.source,
            incarnation: &identity.incarnation,
            size: identity.segment_bytes,
        };
        // The pieces first: a segment that becomes whole in between is not missed.
        let tails = tail::load(&scope.repository, &scope.source, &identity.incarnation, identity.segment_bytes).await?;
        let mut catalog = listing::catalog(place, log).await?;
        catalog.add_tail(tails, identity.segment_bytes);
        let backups: Vec<BackupSummary> =
            log.restorable().filter(|backup| backup.incarnation == identity.incarnation).cloned().collect();
        problems.extend(catalog.contradicted_pieces.iter().map(|pieces| (pieces.file.clone(), pieces.to_string())));
        incarnations.push(IncarnationSurvey {
            timelines: timelines(&identity, &backups, &catalog),
            segments: catalog.segments.len() - catalog.tail.len(),
            log_stored_bytes: catalog.segments.values().map(|object| object.stored_bytes).sum(),
            split_brains: catalog.split_brains,
            identity,
            backups,
        });
    }
    Ok(Survey { source: scope.source.clone(), incarnations, marks: marks.standing, unused_marks: marks.problems, problems })
}

fn timelines(identity: &Identity, backups: &[BackupSummary], catalog: &LogCatalog) -> Vec<TimelineSurvey> {
    let mut timelines = catalog.timelines();
    timelines.extend(backups.iter().map(|backup| backup.timeline));
    timelines.sort_unstable();
    timelines.dedup();
    let branched = |timeline| catalog.histories.get(&timeline).map(|history| (history.name.parent, history.name.switch_lsn));
    let mut surveys: Vec<TimelineSurvey> = Vec::new();
    for timeline in timelines.into_iter().rev() {
        let path = TimelinePath::to(timeline, catalog, identity.segment_bytes);
        let window = path.map(|path| window(backups.iter(), catalog, &path)).map_err(|error: Error| error.summary());
        let adds = match &window {
            Ok(own) => surveys.iter().all(|newer| newer.window.as_ref().is_ok_and(|newer| reaches_further(own, newer))),
            Err(_) => true,
        };
        if adds {
            surveys.push(TimelineSurvey { timeline, branched: branched(timeline), window });
        }
    }
    surveys
}

/// Whether one window ends with moments or positions that the other does not have.
fn reaches_further(own: &Window, other: &Window) -> bool {
    own.intervals.iter().any(|interval| {
        !other.intervals.iter().any(|other| {
            other.from <= interval.from
                && other.to >= interval.to
                && other.end_lsn >= interval.end_lsn
                && interval.missing == other.missing
        })
    })
}
