//! What a PostgreSQL server says of itself.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future;

use super::super::facts::{ArchiverFacts, ServerFacts};
use super::super::unarchived::OwnLog;
use super::Standby;
use crate::base::{Error, Incarnation, Result, Timestamp};
use crate::engine::archive::slot::{Slot, own_log};
use crate::source::postgres::connect::{self, Session};
use crate::source::postgres::server::{ArchiveMode, ServerInfo};

/// A cluster, by its server.
pub struct Server<'a> {
    /// How to connect to its primary: a standby does not know what that has committed.
    pub conninfo: &'a str,
    /// Where its data directory is, when not where the server says.
    pub data_directory: Option<PathBuf>,
    /// The slot of its stream.
    pub slot: &'a str,
    /// How to connect to the server that is streamed from, where that is another one: a standby that is backed up.
    pub streamed_from: Option<&'a str>,
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
    /// Asks the server, and for the slot the one that has it; waits for neither longer than `patience`. The slot is none when
    /// its server is the one that does not answer.
    pub(super) async fn ask(&self, patience: Duration) -> (Option<Result<Asked>>, Option<Result<Slot>>) {
        let (asked, elsewhere) = future::join(patiently(self.asked(), patience), self.slot_elsewhere(patience)).await;
        match asked {
            Ok((asked, slot)) => (Some(Ok(asked)), elsewhere.or(slot)),
            Err(error) => (Some(Err(error)), elsewhere),
        }
    }

    /// The slot, where it is on another server than the primary; none where it is not.
    async fn slot_elsewhere(&self, patience: Duration) -> Option<Result<Slot>> {
        let conninfo = self.streamed_from?;
        let asking = async {
            let session = connect::connect(conninfo).await?;
            let info = session.info().await?;
            self.slot_of(&session, &info, &info.data_directory).await
        };
        Some(patiently(asking, patience).await)
    }

    /// The slot as a server says whose data directory is `data`.
    async fn slot_of(&self, session: &Session, info: &ServerInfo, data: &Path) -> Result<Slot> {
        let state = session.slot(self.slot).await?;
        let free_bytes = Slot::free_bytes(data, info.system_identifier);
        Ok(Slot { name: self.slot.to_owned(), state, free_bytes, size: info.wal_segment_size })
    }

    /// What the server says, and the slot, where it has that.
    async fn asked(&self) -> Result<(Asked, Option<Result<Slot>>)> {
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
        let slot = match self.streamed_from {
            Some(_) => None,
            None => Some(self.slot_of(&session, &info, self.data_directory(&info)).await),
        };
        let facts = ServerFacts { wal_lsn, clock_skew_seconds: offset_micros as f64 / 1e6, in_recovery, archiver };
        Ok((Asked { info, facts, offset_micros }, slot))
    }

    /// Where the server's data directory should be.
    fn data_directory<'a>(&'a self, info: &'a ServerInfo) -> &'a Path {
        self.data_directory.as_ref().unwrap_or(&info.data_directory)
    }
}

/// What a server answers, if it does so in time.
async fn patiently<T>(asking: impl Future<Output = Result<T>>, patience: Duration) -> Result<T> {
    let asked = tokio::time::timeout(patience, asking).await;
    asked.unwrap_or_else(|_| Err(Error::unreachable("the server does not answer")))
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
