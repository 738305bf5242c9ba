//! What a diff or an incr builds on: the decision, and the base as this host remembers it.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::compare::Rules;
use super::copy::{Base, BaseLines};
use super::how::{self, Archived, Detection, Reading};
use super::plan::{Decision, Situation, Wish, decide};
use super::run::host_name;
use crate::base::{BackupId, BackupType, Error, Incarnation, Lsn, Result, Segment, TimelineId, Timestamp};
use crate::engine::Scope;
use crate::engine::timeline::TimelinePath;
use crate::repo::base_cache::{BaseFacts, BaseLine, Place};
use crate::repo::expiry::Marks;
use crate::repo::log::LogCatalog;
use crate::repo::{BackupSummary, CommitLog};
use crate::source::postgres::server::ServerInfo;

/// The server that is backed up, at the moment when the backup starts.
pub(super) struct Moment<'a> {
    pub info: &'a ServerInfo,
    pub incarnation: &'a Incarnation,
    pub data_directory: &'a Path,
    pub timeline: TimelineId,
    pub start_lsn: Lsn,
    /// Whether that is only how far the log is written by now, perhaps within a record: nothing was started.
    pub is_preview: bool,
    pub start_time: Timestamp,
    /// This host's clock before the start.
    pub host_time: Timestamp,
    /// Segments that were on their way to the repository before its log was listed.
    pub underway: BTreeSet<Segment>,
}

/// The decision and what it takes to carry it out.
pub(super) struct Chosen {
    pub decision: Decision,
    pub base: Option<OpenBase>,
    /// What the operator should know of how changes are found.
    pub notes: Vec<String>,
    /// How changed pages are known; none for a full.
    pub detection: Option<Detection>,
}

impl Chosen {
    fn full(decision: Decision) -> Self {
        Self { decision, base: None, notes: Vec::new(), detection: None }
    }

    /// Whether everything is read and compared with what change detection says.
    pub fn is_audit(&self, asked: bool) -> bool {
        asked || self.detection.as_ref().is_some_and(|detection| detection.audited)
    }
}

/// A base with its lines at hand.
pub(super) struct OpenBase {
    pub summary: BackupSummary,
    /// The table of owners of a backup that builds on it, but for that backup itself.
    pub owners: Vec<BackupId>,
    pub copied: Base,
}

/// Chooses type and base.
///
/// # Errors
/// When the repository does not answer; what speaks against a base makes a full.
pub(super) async fn choose(scope: &Scope, wish: Wish, reading: &Reading, moment: &Moment<'_>) -> Result<Chosen> {
    let (decision, log) = decide_now(scope, wish, moment).await?;
    let Some(summary) = decision.base.clone() else { return Ok(Chosen::full(decision)) };
    let place = place(moment.data_directory)?;
    let repository = scope.repository.id();
    match scope.state.load_base(repository, &scope.source, &summary.id, summary.manifest_sha256) {
        Ok((facts, lines)) => {
            let (told, detection) = how::detect(scope, reading, &summary, &facts, &place, moment, log).await?;
            let (mut rules, notes) = rules(&summary, &facts, &place, moment);
            (rules.audit, rules.log) = (detection.audited, told);
            let lines: BaseLines = Box::new(lines.map(|line| line.map(BaseLine::shifted)));
            let copied = Base::new(lines, rules);
            let base = Some(OpenBase { summary, owners: facts.owners, copied });
            // What speaks against page LSNs matters where they are asked.
            let notes = if detection.from_log { Vec::new() } else { notes };
            Ok(Chosen { decision, base, notes, detection: Some(detection) })
        }
        Err(why) => Ok(Chosen::full(Decision::full(Wish::Type(decision.backup_type), why))),
    }
}

/// Decides from what is committed and archived.
///
/// # Errors
/// When the repository does not answer.
async fn decide_now(scope: &Scope, wish: Wish, moment: &Moment<'_>) -> Result<(Decision, Option<Archived>)> {
    if wish == Wish::Type(BackupType::Full) {
        return Ok((Decision::full(wish, ""), None));
    }
    let log = CommitLog::load(&scope.repository, &scope.source).await?;
    let size = moment.info.wal_segment_size;
    let catalog = LogCatalog::load(&scope.repository, &scope.source, moment.incarnation, size).await?;
    let path = TimelinePath::to(moment.timeline, &catalog, size).ok();
    let marks = Marks::load(&scope.repository, &scope.source).await?;
    let situation = Situation {
        backups: log.backups().collect(),
        marked: marks.standing.keys().collect(),
        incarnation: moment.incarnation,
        path: path.as_ref(),
        catalog: &catalog,
        underway: &moment.underway,
        size,
        start_lsn: moment.start_lsn,
        start_time: moment.start_time,
        data_checksums: moment.info.data_checksums,
        wal_level: &moment.info.wal_level.to_string(),
    };
    let decision = decide(wish, &situation);
    Ok((decision, path.map(|path| Archived { path, catalog })))
}

/// How changes since the base are found, and what to say about it.
fn rules(base: &BackupSummary, facts: &BaseFacts, place: &Place, moment: &Moment<'_>) -> (Rules, Vec<String>) {
    let mut notes = Vec::new();
    let moves_lsns_then = base.data_checksums || base.wal_log_hints;
    let moves_lsns_now = moment.info.data_checksums || moment.info.wal_log_hints;
    let distrust = if !(moves_lsns_then && moves_lsns_now) {
        Some("data checksums and wal_log_hints are off: VACUUM changes pages without moving their LSN")
    } else if facts.server_started != moment.info.started {
        Some("the server was restarted since the base: settings on which page LSNs depend may have changed meanwhile")
    } else {
        None
    };
    notes.extend(distrust.map(|why| format!("relations are compared by digest and stored in parts of 256 KiB ({why})")));
    let same_place = facts.place == *place && (base.timeline, facts.timeline) == (moment.timeline, moment.timeline);
    let clock_went_back = moment.host_time < facts.started;
    if clock_went_back {
        notes.push(format!("every file is read: this host's clock is behind the start of {}", base.id));
    }
    let untouched_before = (same_place && !clock_went_back).then_some(facts.started);
    let trusted_since = distrust.is_none().then_some(base.start_lsn);
    (Rules { trusted_since, untouched_before, audit: false, log: None }, notes)
}

/// Where a data directory is.
///
/// # Errors
/// When it cannot be looked at.
pub(super) fn place(data_directory: &Path) -> Result<Place> {
    let metadata = std::fs::metadata(data_directory).map_err(|error| Error::io("look at", data_directory, error))?;
    // Not every system has one; names of hosts and numbers of directories are compared besides.
    let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    Ok(Place {
        host: format!("{} {}", host_name(), machine.trim()).trim().to_owned(),
        data_directory: data_directory.display().to_string(),
        directory: (metadata.dev(), metadata.ino()),
    })
}
