//! How a diff or an incr gets to know which pages changed: from the log, or by reading; and when it audits.
//!
//! The log is asked only where base and server are one data directory on one host, which nothing but the server has
//! written since: a restore or `pg_rewind` leaves a `backup_label.old` of its own time. Any doubt makes it read.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::base::Moment;
use super::told::LogTold;
use crate::base::units::format_duration;
use crate::base::{Result, SourceName, Timestamp};
use crate::engine::pages::{self, Hole, Stretch};
use crate::engine::timeline::TimelinePath;
use crate::engine::{Scope, joined};
use crate::repo::BackupSummary;
use crate::repo::base_cache::{BaseFacts, Place};
use crate::repo::host_state::HostState;
use crate::repo::log::LogCatalog;
use crate::repo::page_index::PageTrust;

/// How long before the base's start the traces of a restore must lie to be no trace of one since.
const CLOCK_GRAIN: Duration = Duration::from_secs(2);

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Read everything and compare it with what change detection says.
    pub audit: bool,
    /// Ask the log, not the data, where it can be asked.
    pub from_log: bool,
    /// Audit what the log tells when the last audit is so old.
    pub audit_every: Duration,
}

/// How changed pages are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detection {
    /// The log told them, else the data was read.
    pub from_log: bool,
    /// Why the data is read.
    pub reason: Option<String>,
    /// Everything is read and compared with what change detection says.
    pub audited: bool,
    /// The log told them, and in an audit that is what is compared.
    pub log_audited: bool,
}

impl Detection {
    fn read(reason: Option<String>, audited: bool) -> Self {
        Self { from_log: false, reason, audited, log_audited: false }
    }
}

/// The archived log, and the way through it to the server's timeline.
pub(super) struct Archived {
    pub path: TimelinePath,
    pub catalog: LogCatalog,
}

/// Decides how changed pages since `base` get known; gives what the log told where it was asked.
///
/// # Errors
/// When the gathering dies; what speaks against the log is no error.
pub(super) async fn detect(
    scope: &Scope,
    reading: &Reading,
    base: &BackupSummary,
    facts: &BaseFacts,
    place: &Place,
    moment: &Moment<'_>,
    log: Option<Archived>,
) -> Result<(Option<LogTold>, Detection)> {
    let read = |why: Option<String>| Ok((None, Detection::read(why, reading.audit)));
    if !reading.from_log {
        return read(None);
    }
    let trust = match scope.state.page_trust(&scope.source) {
        Ok(trust) => trust,
        Err(error) => return read(Some(format!("{}; a full replaces it", error.summary()))),
    };
    if let Some(missed) = trust.missed {
        return read(Some(format!(
            "an audit found on {} that the log does not tell all; a full ends that",
            missed.human_seconds()
        )));
    }
    if facts.place != *place {
        return read(Some(format!("{} was taken of another data directory or host", base.id)));
    }
    if moment.host_time < facts.started {
        return read(Some(format!("this host's clock is behind the start of {}", base.id)));
    }
    if let Some(why) = was_restored_since(moment.data_directory, facts.started) {
        return read(Some(why));
    }
    let Some(Archived { path, catalog }) = log else { return read(Some("the server's history is not archived".to_owned())) };
    let (since, until) = (base.start_lsn, moment.start_lsn);
    let pg_wal = moment.data_directory.join("pg_wal");
    let mut stretch = Stretch::new(moment.incarnation, &path, &catalog, (since, until), pg_wal);
    stretch.may_end_early = moment.is_preview;
    let own = scope.clone();
    let gathered = joined(tokio::task::spawn_blocking(move || Ok(pages::gather(&own, &stretch))).await)?;
    let told = match gathered {
        Ok(told) => LogTold { told: Arc::new(told), since, until },
        Err(Hole(why)) => return read(Some(why)),
    };
    let due = is_due(trust.audited, reading.audit_every, moment.host_time);
    let detection = match (reading.audit, due) {
        (false, false) => Detection { from_log: true, reason: None, audited: false, log_audited: false },
        (true, _) => Detection { log_audited: true, ..Detection::read(Some("an audit".to_owned()), true) },
        (false, true) => {
            let why = format!("an audit: the last one is older than {}", format_duration(reading.audit_every));
            Detection { log_audited: true, ..Detection::read(Some(why), true) }
        }
    };
    Ok((Some(told), detection))
}

/// Whether the last audit is older than `every`, or was noted under a clock that ran ahead.
fn is_due(audited: Option<Timestamp>, every: Duration, now: Timestamp) -> bool {
    audited.is_some_and(|audited| audited > now || audited.plus(every) <= now)
}

/// Whether the data directory was restored, or written by `pg_rewind`, since `started`, by this host's clock.
fn was_restored_since(data_directory: &Path, started: Timestamp) -> Option<String> {
    let path = data_directory.join("backup_label.old");
    let metadata = match fs::symlink_metadata(&path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => return Some(format!("{}: {error}", path.display())),
    };
    let changed_micros = metadata.ctime().saturating_mul(1_000_000).saturating_add(metadata.ctime_nsec() / 1000);
    let limit_micros = started.unix_micros().saturating_sub(CLOCK_GRAIN.as_micros() as i64);
    (changed_micros >= limit_micros).then(|| "the data directory was restored or rewound since the base".to_owned())
}

/// Remembers that a backup was taken which knew its pages so: a full is trusted, and so is what an audit found right.
/// What cannot be read says nothing to a full, which depends on no log, and is replaced by it.
///
/// # Errors
/// When it cannot be written; after a diff or an incr also when it cannot be read.
pub(super) fn remember(state: &HostState, source: &SourceName, detection: Option<&Detection>, now: Timestamp) -> Result<()> {
    let old = match (state.page_trust(source), detection) {
        (Ok(old), _) => old,
        (Err(_), None) => return state.remember_page_trust(source, &PageTrust::default()),
        (Err(error), Some(_)) => return Err(error),
    };
    let mut trust = old.clone();
    match detection {
        None => trust.missed = None,
        Some(detection) if detection.log_audited => trust.audited = Some(now),
        Some(detection) if detection.from_log => trust.audited = trust.audited.or(Some(now)),
        Some(_) => {}
    }
    if trust == old { Ok(()) } else { state.remember_page_trust(source, &trust) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audit_is_due_when_the_last_one_is_old_or_lies_in_the_future() {
        let at = |seconds: i64| Timestamp::from_unix_micros(seconds * 1_000_000).unwrap();
        let is_due = |audited, now| is_due(audited, Duration::from_secs(100), at(now));
        assert!(!is_due(None, 1000));
        assert!(!is_due(Some(at(901)), 1000) && !is_due(Some(at(1000)), 1000));
        assert!(is_due(Some(at(900)), 1000));
        assert!(is_due(Some(at(1001)), 1000));
    }

    #[test]
    fn a_full_replaces_what_cannot_be_read_and_ends_distrust() {
        let dir = tempfile::tempdir().unwrap();
        let (state, source) = (HostState::new(dir.path(), "r"), "orders".parse::<SourceName>().unwrap());
        let path = dir.path().join("r/orders/changed-pages.json");
        let now = Timestamp::now();
        let told = Detection { from_log: true, ..Detection::read(None, false) };
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        for spoilt in ["", "{\"audited\":", "{\"other\":1}"] {
            fs::write(&path, spoilt).unwrap();
            assert!(remember(&state, &source, Some(&told), now).is_err(), "an incr does not make it good");
            assert_eq!(fs::read_to_string(&path).unwrap(), spoilt);
            remember(&state, &source, None, now).unwrap();
            assert_eq!(state.page_trust(&source).unwrap(), PageTrust::default());
        }
        let missed = PageTrust { audited: Some(now), missed: Some(now) };
        state.remember_page_trust(&source, &missed).unwrap();
        remember(&state, &source, Some(&told), now).unwrap();
        assert_eq!(state.page_trust(&source).unwrap(), missed);
        remember(&state, &source, None, now).unwrap();
        assert_eq!(state.page_trust(&source).unwrap(), PageTrust { audited: Some(now), missed: None });
    }
}
