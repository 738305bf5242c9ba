//! A running base backup: from `pg_backup_start` to `pg_backup_stop`, in one held session.
//!
//! Invariants: the server counts a backup as running only as long as the session lives, so dropping a [`RunningBackup`]
//! aborts it and leaves nothing behind; a [`Stopped`] is returned only when the server vouched for the whole stretch and
//! its `backup_label` agrees with what the start said.
//!
//! From a standby: the server's stop function cannot switch WAL nor write a record, so recovery of such a backup takes
//! its end from `pg_control`, which must therefore be copied after everything else and before the stop, and the
//! primary must be asked ([`Session::switch_wal`]) for the segment that holds the stop LSN to be archived.
//! Source: PostgreSQL documentation, "Making a Base Backup Using the Low Level API"; `do_pg_backup_stop` in `xlog.c`.

use std::time::SystemTime;

use crate::base::{Error, Lsn, Result, Segment, SegmentSize, TimelineId, Timestamp};

use super::connect::{Session, column};
use super::label::BackupLabel;
use super::server::parse_lsn;

/// What the start of a backup fixed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// Redo LSN: where recovery of this backup begins.
    pub start_lsn: Lsn,
    /// The checkpoint's timeline.
    pub timeline: TimelineId,
    /// The segment that holds [`Started::start_lsn`]: the first one a restore needs.
    pub start_segment: Segment,
    /// When, by the server's clock.
    pub start_time: Timestamp,
    /// True when the server is a standby.
    pub from_standby: bool,
}

/// What the stop of a backup returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// The log up to here is needed to make the backup consistent.
    pub stop_lsn: Lsn,
    /// The last segment a restore needs. On a standby its timeline is the latest that recovery had reached.
    pub stop_segment: Segment,
    /// Content of the file `backup_label`, to be stored with the backup.
    pub backup_label: Vec<u8>,
    /// Content of the file `tablespace_map`; empty when there is no tablespace.
    pub tablespace_map: Vec<u8>,
    /// When, by the server's clock.
    pub stop_time: Timestamp,
}

/// A backup in progress. Dropping it aborts it.
pub struct RunningBackup {
    session: Session,
    started: Started,
    segment_size: SegmentSize,
}

impl Session {
    /// Starts a backup. With `fast` the checkpoint is made at once; otherwise it is spread and this takes minutes.
    ///
    /// Fails with a hint when the user lacks the right or `wal_level` is `minimal`.
    pub async fn start_backup(self, label: &str, fast: bool) -> Result<RunningBackup> {
        self.check_backup_rights().await?;
        let info = self.info().await?;
        if info.wal_level == super::control::WalLevel::Minimal {
            return Err(Error::failed("wal_level is minimal: the server's log is not enough for a backup")
                .hint("ALTER SYSTEM SET wal_level = replica; then restart the server"));
        }
        let start = match self.major() {
            13 | 14 => "pg_start_backup($1, $2, false)",
            _ => "pg_backup_start($1, $2)",
        };
        // No commit before the redo position may carry a later time than the start: on a standby whose clock is slow,
        // what it has replayed tells better.
        let sql = format!("SELECT {start}::text, greatest(clock_timestamp(), pg_last_xact_replay_timestamp())");
        let row = self.row("start a backup on", &sql, &[&label, &fast]).await?;
        let start_lsn = parse_lsn(&column::<String>(&row, 0)?)?;
        let timeline = self.start_timeline(info.in_recovery, info.timeline).await?;
        let started = Started {
            start_lsn,
            timeline,
            start_segment: Segment::containing(timeline, start_lsn, info.wal_segment_size),
            start_time: Timestamp::from_system_time(column::<SystemTime>(&row, 1)?),
            from_standby: info.in_recovery,
        };
        Ok(RunningBackup { session: self, started, segment_size: info.wal_segment_size })
    }

    /// Checks that the user may start and stop a backup.
    pub async fn check_backup_rights(&self) -> Result<()> {
        let functions = match self.major() {
            13 | 14 => ["pg_start_backup(text, boolean, boolean)", "pg_stop_backup(boolean, boolean)"],
            _ => ["pg_backup_start(text, boolean)", "pg_backup_stop(boolean)"],
        };
        let sql = "SELECT has_function_privilege($1, 'EXECUTE') AND has_function_privilege($2, 'EXECUTE')";
        let row = self.row("check privileges on", sql, &[&functions[0], &functions[1]]).await?;
        if column(&row, 0)? {
            return Ok(());
        }
        let user = self.user();
        Err(Error::failed(format!("user {user} may not make backups")).hint(format!(
            "GRANT EXECUTE ON FUNCTION {}, {}, pg_switch_wal() TO \"{user}\"; GRANT pg_read_all_settings TO \"{user}\";",
            functions[0], functions[1]
        )))
    }

    /// A backup on a standby starts from its last restartpoint, which may be on an older timeline than recovery.
    async fn start_timeline(&self, in_recovery: bool, current: TimelineId) -> Result<TimelineId> {
        if !in_recovery {
            return Ok(current);
        }
        let row = self.row("ask the checkpoint of", "SELECT timeline_id FROM pg_control_checkpoint()", &[]).await?;
        Ok(TimelineId(column::<i32>(&row, 0)?.cast_unsigned()))
    }
}

impl RunningBackup {
    /// What the start fixed. On a standby the timeline is confirmed by the stop.
    pub fn started(&self) -> &Started {
        &self.started
    }

    /// The session, for questions meanwhile.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Ends the backup without waiting for the archive, and gives the session back.
    ///
    /// Everything, `pg_control` last, must have been copied. A primary switches its WAL segment by itself; a standby
    /// does not. Fails when the session was lost, or a standby was promoted meanwhile: then the copy is worthless.
    pub async fn stop(self) -> Result<(Session, Stopped)> {
        let stop = match self.session.major() {
            13 | 14 => "pg_stop_backup(false, false)",
            _ => "pg_backup_stop(false)",
        };
        let sql = format!("SELECT lsn::text, labelfile, spcmapfile, clock_timestamp() FROM {stop}");
        let rows = match self.session.query(&sql, &[]).await {
            Ok(rows) => rows,
            Err(error) => return Err(self.stop_error(&error).await),
        };
        let row = rows.first().ok_or_else(|| Error::failed("the server ended the backup without an answer"))?;
        let stop_lsn = parse_lsn(&column::<String>(row, 0)?)?;
        let backup_label = column::<String>(row, 1)?.into_bytes();
        let label = BackupLabel::parse(&backup_label)?;
        self.check_label(&label)?;
        // A primary cannot change its timeline under a held session; a standby follows its primary's changes.
        let timeline = if label.from_standby { self.session.timeline().await? } else { label.start_timeline };
        let stopped = Stopped {
            stop_lsn,
            stop_segment: Segment::ending_at(timeline, stop_lsn, self.segment_size),
            backup_label,
            tablespace_map: column::<Option<String>>(row, 2)?.unwrap_or_default().into_bytes(),
            stop_time: Timestamp::from_system_time(column::<SystemTime>(row, 3)?),
        };
        Ok((self.session, stopped))
    }

    fn check_label(&self, label: &BackupLabel) -> Result<()> {
        if label.start_lsn == self.started.start_lsn
            && label.start_timeline == self.started.timeline
            && label.from_standby == self.started.from_standby
        {
            return Ok(());
        }
        Err(Error::failed("the server's backup_label does not belong to the backup that was started")
            .detail("started", format!("{} on timeline {}", self.started.start_lsn, self.started.timeline))
            .detail("label", format!("{} on timeline {}", label.start_lsn, label.start_timeline)))
    }

    async fn stop_error(&self, error: &tokio_postgres::Error) -> Error {
        if self.session.is_closed() || error.is_closed() {
            return self
                .session
                .error("end the backup on", error)
                .detail("backup", "aborted by the server when its session ended; the copy is worthless")
                .hint("find out why the connection ended (server log), then start the backup again");
        }
        if self.started.from_standby
            && let Ok(row) = self.session.row("ask the state of", "SELECT pg_is_in_recovery()", &[]).await
            && matches!(column(&row, 0), Ok(false))
        {
            return Error::failed("the standby was promoted during the backup: the copy is worthless")
                .caused_by(self.session.error("end the backup on", error).summary())
                .hint("start the backup again; the server is a primary now");
        }
        self.session.error("end the backup on", error)
    }
}
