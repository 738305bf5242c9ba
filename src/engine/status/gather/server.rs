//! What a PostgreSQL server says of itself.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::facts::{ArchiverFacts, ServerFacts};
use super::super::unarchived::OwnLog;
use super::Standby;
use crate::base::{Error, Incarnation, Result, Timestamp};
use crate::engine::archive::slot::{Slot, own_log};
use crate::source::postgres::connect;
use crate::source::postgres::server::{ArchiveMode, ServerInfo};

/// A cluster, by its server.
pub struct Server<'a> {
    /// How to connect to its primary: a standby does not know what that has committed.
    pub conninfo: &'a str,
    /// Where its data directory is, when not where the server says.
    pub data_directory: Option<PathBuf>,
    /// The slot of its stream; none when that is on another server than this one.
    pub slot: Option<&'a str>,
    /// Its warm standby, where one is declared.
    pub standby: Option<Standby>,
}

/// What it answered.
pub(super) struct Asked {
    info: ServerInfo,
    /// What of that matters here.
    pub facts: ServerFacts,
    /// Its clock minus this host's.
    pub offset_micros: i64,
}

impl Server<'_> {
    /// Asks, and waits no longer than `patience`.
    ///
    /// # Errors
    /// When it does not answer.
    pub(super) async fn ask(&self, patience: Duration) -> Result<Asked> {
        let asked = tokio::time::timeout(patience, self.asked()).await;
        asked.unwrap_or_else(|_| Err(Error::unreachable("the server does not answer")))
    }

    async fn asked(&self) -> Result<Asked> {
        let session = connect::connect(self.conninfo).await?;
        let info = session.info().await?;
        let wal_lsn = session.log_end().await?;
        let before = Timestamp::now();
        let clock = session.clock().await?;
        let after = Timestamp::now();
        let middle = before.unix_micros() + (after.unix_micros() - before.unix_micros()) / 2;
        let offset_micros = if clock < before || clock > after { clock.unix_micros() - middle } else { 0 };
        let archives = info.archive_mode == ArchiveMode::Always || (info.archive_mode == ArchiveMode::On && !info.in_recovery);
        let status = session.archiver_status().await?;
        let archiver = archives.then(|| ArchiverFacts {
            failing: status.is_failing(),
            failed_count: status.failed_count,
            last_failed_file: status.last_failed_file,
            last_failed_time: status.last_failed_time,
        });
        let in_recovery = info.in_recovery;
        let slot = match self.slot {
            Some(name) => Some(Slot {
                name: name.to_owned(),
                state: session.slot(name).await?,
                free_bytes: Slot::free_bytes(self.data_directory(&info), info.system_identifier),
                size: info.wal_segment_size,
            }),
            None => None,
        };
        let facts = ServerFacts { wal_lsn, clock_skew_seconds: offset_micros as f64 / 1e6, in_recovery, archiver, slot };
        Ok(Asked { info, facts, offset_micros })
    }

    /// Where the server's data directory should be.
    fn data_directory<'a>(&'a self, info: &'a ServerInfo) -> &'a Path {
        self.data_directory.as_ref().unwrap_or(&info.data_directory)
    }
}

impl Asked {
    /// Which cluster answered.
    pub fn incarnation(&self) -> Incarnation {
        Incarnation::postgres(self.info.major, self.info.system_identifier)
    }

    /// Its own log, where that can be read from here.
    pub fn own_log(&self, server: &Server<'_>) -> OwnLog {
        let Self { info, facts, .. } = self;
        OwnLog {
            directory: own_log(server.data_directory(info), info.system_identifier),
            system_identifier: info.system_identifier,
            timeline: info.timeline,
            // A standby's log ends before its primary's does.
            end_lsn: Some(facts.wal_lsn).filter(|_| !info.in_recovery),
            is_whole: !info.in_recovery,
            size: info.wal_segment_size,
        }
    }
}
