//! What a backup of a database builds on, and where its log goes on.

use std::collections::BTreeSet;
use std::io::Read;

use super::{SIZE, TIMELINE, number};
use crate::base::{BackupId, BackupType, Engine, Incarnation, Result, Timestamp};
use crate::engine::Scope;
use crate::engine::backup::auto;
use crate::engine::backup::plan::{Choice, Decision, Wish, decide_by, unfit_chain};
use crate::repo::base_cache::{BaseFacts, BaseLine};
use crate::repo::expiry::Marks;
use crate::repo::log::LogCatalog;
use crate::repo::{BackupSummary, CommitLog, identity};

/// The decision and what it takes to carry it out.
pub(super) struct Chosen {
    pub decision: Decision,
    /// That of the newest backup, or a new one.
    pub incarnation: Incarnation,
    /// The first segment that follows the backup.
    pub first_segment: u64,
    /// The latest moment that is stored, by whatever clock.
    pub latest: Option<Timestamp>,
    pub base: Option<OpenBase>,
}

/// A base, as this host remembers it.
pub(super) struct OpenBase {
    /// The table of owners of a backup that builds on it, but for that backup itself.
    pub owners: Vec<BackupId>,
    /// Its one line.
    pub line: BaseLine,
    /// A digest of every 8 KiB of it.
    pub digests: Box<dyn Read + Send>,
}

/// What speaks for a choice.
pub(super) struct Wanted {
    pub wish: Wish,
    /// Bytes of a page of the database.
    pub page_bytes: u32,
    /// This host's clock before the snapshot.
    pub started: Timestamp,
    /// The first segment that is to follow, at least.
    pub first_segment: Option<u64>,
}

/// Chooses incarnation, position, type and base. Must be called before the snapshot is taken: what is listed now was captured
/// before it.
///
/// # Errors
/// When the repository does not answer; what speaks against a base makes a full.
pub(super) async fn choose(scope: &Scope, wanted: &Wanted) -> Result<Chosen> {
    let log = CommitLog::load(&scope.repository, &scope.source).await?;
    let backups: Vec<&BackupSummary> = log.backups().collect();
    let known = current(scope, &backups, wanted.page_bytes).await?;
    let incarnation = known.clone().unwrap_or_else(|| Incarnation::dated(Engine::Sqlite, wanted.started));
    let (mut first_segment, mut latest) = (1, latest_backup(&log));
    if let Some(incarnation) = &known {
        let catalog = LogCatalog::load(&scope.repository, &scope.source, incarnation, SIZE).await?;
        first_segment = next_segment(&catalog, &backups, incarnation).max(wanted.first_segment.unwrap_or(1));
        latest = latest.max(latest_segment(&catalog));
    }
    let decision = decide(scope, wanted, &backups, &incarnation, first_segment).await?;
    let mut chosen = Chosen { decision, incarnation, first_segment, latest, base: None };
    if let Some(summary) = chosen.decision.base.clone() {
        match open(scope, &summary) {
            Ok(base) => chosen.base = Some(base),
            Err(why) => chosen.decision = Decision::full(Wish::Type(chosen.decision.backup_type), why),
        }
    }
    Ok(chosen)
}

/// The incarnation of the newest backup, or one that came on record since with a backup that came to nothing, if its pages are
/// as large as those now.
async fn current(scope: &Scope, backups: &[&BackupSummary], page_bytes: u32) -> Result<Option<Incarnation>> {
    let (known, _) = identity::survey(&scope.repository, &scope.source).await?;
    let is_own = |incarnation: &Incarnation| incarnation.engine() == Engine::Sqlite;
    let newest = backups.iter().rev().map(|backup| &backup.incarnation).find(|incarnation| is_own(incarnation));
    let from = newest.and_then(|newest| known.iter().position(|identity| identity.incarnation == *newest));
    let later = &known[from.unwrap_or(0)..];
    let found = later.iter().rfind(|identity| is_own(&identity.incarnation) && identity.block_bytes == page_bytes);
    Ok(found.map(|identity| identity.incarnation.clone()))
}

/// The segment that a backup can be followed by whose snapshot is taken after this: behind all that are there, and never
/// before one that a backup was told already.
fn next_segment(catalog: &LogCatalog, backups: &[&BackupSummary], incarnation: &Incarnation) -> u64 {
    let told = backups.iter().filter(|backup| backup.incarnation == *incarnation).map(|backup| number(backup.start_lsn)).max();
    newest_segment(catalog).map_or(1, |newest| newest + 1).max(told.unwrap_or(1))
}

/// The latest moment of the backups of a database.
pub(super) fn latest_backup(log: &CommitLog) -> Option<Timestamp> {
    log.backups().filter(|backup| backup.incarnation.engine() == Engine::Sqlite).map(|backup| backup.stop_time).max()
}

/// The latest moment that a segment leads to.
pub(super) fn latest_segment(catalog: &LogCatalog) -> Option<Timestamp> {
    catalog.segments.values().filter_map(|segment| segment.name.last.known()).max()
}

/// The largest number in the log, contradicted ones included.
pub(super) fn newest_segment(catalog: &LogCatalog) -> Option<u64> {
    let named = catalog.segments.keys().filter(|segment| segment.timeline == TIMELINE).map(|segment| segment.number);
    let split = catalog.split_brains.iter().filter_map(|split| crate::base::Segment::parse(&split.file, SIZE));
    named.chain(split.map(|segment| segment.number)).max()
}

async fn decide(
    scope: &Scope,
    wanted: &Wanted,
    backups: &[&BackupSummary],
    incarnation: &Incarnation,
    first_segment: u64,
) -> Result<Decision> {
    if wanted.wish == Wish::Type(BackupType::Full) {
        return Ok(Decision::full(wanted.wish, ""));
    }
    let marks = Marks::load(&scope.repository, &scope.source).await?;
    let marked: BTreeSet<&BackupId> = marks.standing.keys().collect();
    let newest = auto::newest(backups, incarnation, Some(super::position(first_segment)));
    let choice = Choice { backups, start_time: wanted.started, newest };
    Ok(decide_by(wanted.wish, &choice, |base| {
        if base.incarnation != *incarnation {
            return Some(format!("{} is of another life of the database ({})", base.id, base.incarnation));
        }
        unfit_chain(base, backups, &marked)
    }))
}

/// What this host remembers of `summary`; or why it cannot be used.
fn open(scope: &Scope, summary: &BackupSummary) -> std::result::Result<OpenBase, String> {
    let (facts, mut lines) = scope.state.load_base(scope.repository.id(), &scope.source, &summary.id, summary.manifest_sha256)?;
    let BaseFacts { owners, .. } = facts;
    let line = match (lines.next(), lines.next()) {
        (Some(Ok(line)), None) => line.shifted(),
        (Some(Err(error)), _) => return Err(error.summary()),
        _ => return Err(format!("the record of {} has not one line", summary.id)),
    };
    let digests = scope.state.load_digests(&scope.source, &summary.id, summary.manifest_sha256)?;
    Ok(OpenBase { owners, line, digests: Box::new(digests) })
}
