//! What a server says of itself: identity, settings, its archiver.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::SystemTime;

use crate::base::{Error, Lsn, RelPath, Result, SegmentSize, TimelineId, Timestamp};

use super::connect::{Session, column};
use super::control::WalLevel;

/// `archive_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveMode {
    /// Nothing is archived.
    Off,
    /// A primary archives.
    On,
    /// A standby archives too.
    Always,
}

/// Identity and settings of a running server.
#[derive(Clone, Debug)]
pub struct ServerInfo {
    /// `150018` for 15.18.
    pub version_num: u32,
    /// `15`.
    pub major: u32,
    /// In the server's words: `15.18 (Debian 15.18-0+deb12u1)`.
    pub version: String,
    /// Names the cluster; shared by all its standbys and restored copies.
    pub system_identifier: u64,
    /// True for a standby, or while recovery runs.
    pub in_recovery: bool,
    /// The timeline the server writes, or the latest one that recovery is known to have reached.
    pub timeline: TimelineId,
    /// When the server process was started.
    pub started: Timestamp,
    /// The data directory as the server sees it.
    pub data_directory: PathBuf,
    /// `postgresql.conf`, wherever it is.
    pub config_file: PathBuf,
    /// `pg_hba.conf`, wherever it is.
    pub hba_file: PathBuf,
    /// `pg_ident.conf`, wherever it is.
    pub ident_file: PathBuf,
    /// `cluster_name`; often empty.
    pub cluster_name: String,
    /// Size of a WAL segment.
    pub wal_segment_size: SegmentSize,
    /// Bytes in a page; 8192 unless built otherwise.
    pub block_size_bytes: u32,
    /// Whether pages carry checksums.
    pub data_checksums: bool,
    /// `wal_level`.
    pub wal_level: WalLevel,
    /// `wal_log_hints`.
    pub wal_log_hints: bool,
    /// `full_page_writes`.
    pub full_page_writes: bool,
    /// `archive_mode`.
    pub archive_mode: ArchiveMode,
    /// `archive_command`; empty when unset.
    pub archive_command: String,
    /// `archive_library` (15 and later); empty when unset.
    pub archive_library: String,
    /// `archive_timeout`; 0 when off.
    pub archive_timeout_seconds: u32,
    /// Where 13 and 14 keep temporary statistics, when that is below the data directory.
    pub stats_temp_directory: Option<RelPath>,
}

/// The archiver's record (`pg_stat_archiver`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiverStatus {
    /// Files archived since the statistics were reset.
    pub archived_count: u64,
    /// The last file archived.
    pub last_archived_file: Option<String>,
    /// When.
    pub last_archived_time: Option<Timestamp>,
    /// Failed attempts since the statistics were reset.
    pub failed_count: u64,
    /// The file of the last failed attempt.
    pub last_failed_file: Option<String>,
    /// When.
    pub last_failed_time: Option<Timestamp>,
}

impl ArchiverStatus {
    /// True when the latest attempt failed.
    pub fn is_failing(&self) -> bool {
        self.last_failed_time.is_some() && self.last_failed_time > self.last_archived_time
    }
}

/// Settings read from `pg_settings`, where values are in base units: bytes and seconds for those used here.
const SETTINGS: [&str; 18] = [
    "server_version",
    "data_directory",
    "config_file",
    "hba_file",
    "ident_file",
    "cluster_name",
    "wal_segment_size",
    "block_size",
    "data_checksums",
    "wal_level",
    "wal_log_hints",
    "full_page_writes",
    "archive_mode",
    "archive_command",
    "archive_library",
    "archive_timeout",
    "stats_temp_directory",
    "server_version_num",
];

/// Where the log ends that a backup started now could begin with.
const LOG_END: &str = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text";

/// On a standby no function tells the timeline being replayed; the control file knows the latest one recorded.
const IDENTITY: &str = "SELECT system_identifier, pg_is_in_recovery(), CASE WHEN pg_is_in_recovery() \
    THEN (SELECT greatest(min_recovery_end_timeline, timeline_id) FROM pg_control_recovery(), pg_control_checkpoint()) \
    ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int4 END, pg_postmaster_start_time() \
    FROM pg_control_system()";

impl Session {
    /// Asks the server for its identity and settings.
    ///
    /// Fails, naming the privilege, when the user may not read settings like `data_directory`.
    pub async fn info(&self) -> Result<ServerInfo> {
        let names: Vec<&str> = SETTINGS.to_vec();
        let sql = "SELECT name, setting FROM pg_settings WHERE name = ANY ($1)";
        let mut values = HashMap::new();
        for row in self.rows("read the settings of", sql, &[&names]).await? {
            values.insert(column::<String>(&row, 0)?, column::<Option<String>>(&row, 1)?.unwrap_or_default());
        }
        let settings = Settings { values, user: self.user() };
        let row = self.row("identify", IDENTITY, &[]).await?;
        let timeline: i32 = column(&row, 2)?;
        let data_directory = PathBuf::from(settings.text("data_directory")?);
        Ok(ServerInfo {
            version_num: self.version_num(),
            major: self.major(),
            version: settings.text("server_version")?,
            system_identifier: column::<i64>(&row, 0)?.cast_unsigned(),
            in_recovery: column(&row, 1)?,
            timeline: TimelineId(timeline.cast_unsigned()),
            started: Timestamp::from_system_time(column::<SystemTime>(&row, 3)?),
            stats_temp_directory: settings.below(&data_directory, "stats_temp_directory"),
            data_directory,
            config_file: settings.text("config_file")?.into(),
            hba_file: settings.text("hba_file")?.into(),
            ident_file: settings.text("ident_file")?.into(),
            cluster_name: settings.text("cluster_name")?,
            wal_segment_size: SegmentSize::new(settings.number("wal_segment_size")?)
                .ok_or_else(|| Error::failed("the server's wal_segment_size is impossible"))?,
            block_size_bytes: settings.number("block_size")?,
            data_checksums: settings.switch("data_checksums")?,
            wal_level: settings.wal_level()?,
            wal_log_hints: settings.switch("wal_log_hints")?,
            full_page_writes: settings.switch("full_page_writes")?,
            archive_mode: settings.archive_mode()?,
            archive_command: settings.archive_command()?,
            archive_library: settings.values.get("archive_library").cloned().unwrap_or_default(),
            archive_timeout_seconds: settings.number("archive_timeout")?,
        })
    }

    /// The timeline the server writes, or the latest one that recovery is known to have reached.
    pub async fn timeline(&self) -> Result<TimelineId> {
        let row = self.row("identify", IDENTITY, &[]).await?;
        Ok(TimelineId(column::<i32>(&row, 2)?.cast_unsigned()))
    }

    /// The end of the log that is written, on a standby of what was replayed.
    pub async fn log_end(&self) -> Result<Lsn> {
        let row = self.row("ask for the log's end of", LOG_END, &[]).await?;
        parse_lsn(&column::<Option<String>>(&row, 0)?.unwrap_or_default())
    }

    /// The server's clock.
    pub async fn clock(&self) -> Result<Timestamp> {
        let row = self.row("ask for the time of", "SELECT clock_timestamp()", &[]).await?;
        Ok(Timestamp::from_system_time(column::<SystemTime>(&row, 0)?))
    }

    /// The archiver's own record: tells why a segment is not yet archived.
    pub async fn archiver_status(&self) -> Result<ArchiverStatus> {
        let sql = "SELECT archived_count, last_archived_wal, last_archived_time, failed_count, last_failed_wal, \
            last_failed_time FROM pg_stat_archiver";
        let row = self.row("read the archiver's status from", sql, &[]).await?;
        let time = |at| Ok::<_, Error>(column::<Option<SystemTime>>(&row, at)?.map(Timestamp::from_system_time));
        Ok(ArchiverStatus {
            archived_count: column::<i64>(&row, 0)?.unsigned_abs(),
            last_archived_file: column(&row, 1)?,
            last_archived_time: time(2)?,
            failed_count: column::<i64>(&row, 3)?.unsigned_abs(),
            last_failed_file: column(&row, 4)?,
            last_failed_time: time(5)?,
        })
    }

    /// The files of the log that the server has still to hand over to be archived. Needs the role `pg_monitor`.
    pub async fn awaiting_archive(&self) -> Result<Vec<String>> {
        let sql = "SELECT substr(name, 1, length(name) - 6) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'";
        let rows = self.rows("list what is not archived on", sql, &[]).await?;
        rows.iter().map(|row| column(row, 0)).collect()
    }

    /// Ends the current WAL segment, so that it is archived; returns the log's end. Only on a primary.
    ///
    /// An idle server that has just switched does nothing.
    pub async fn switch_wal(&self) -> Result<Lsn> {
        let row = self.row("switch the WAL segment of", "SELECT pg_switch_wal()::text", &[]).await?;
        parse_lsn(&column::<String>(&row, 0)?)
    }

    /// Writes a named restore point into the log; returns its LSN. Only on a primary; the name has at most 63 bytes.
    pub async fn create_restore_point(&self, name: &str) -> Result<Lsn> {
        let sql = "SELECT pg_create_restore_point($1)::text";
        let row = self.row("create a restore point on", sql, &[&name]).await?;
        parse_lsn(&column::<String>(&row, 0)?)
    }
}

/// Checks that `primary` can switch the log of `standby`: the same cluster, and not itself in recovery.
pub fn check_is_primary_of(standby: &ServerInfo, primary: &ServerInfo) -> Result<()> {
    if standby.system_identifier != primary.system_identifier {
        return Err(Error::usage("primary_conninfo leads to another cluster")
            .detail("standby", standby.system_identifier.to_string())
            .detail("primary", primary.system_identifier.to_string())
            .hint("correct primary_conninfo of this source in lifeboat.toml"));
    }
    if primary.in_recovery {
        return Err(Error::usage("primary_conninfo leads to a server that is itself a standby")
            .hint("correct primary_conninfo of this source in lifeboat.toml"));
    }
    Ok(())
}

pub(super) fn parse_lsn(text: &str) -> Result<Lsn> {
    text.parse().map_err(|why| Error::failed(format!("the server's answer has an unexpected form: {why}")))
}

/// Rows of `pg_settings`; a name that is missing is one the user may not see.
struct Settings<'a> {
    values: HashMap<String, String>,
    user: &'a str,
}

impl Settings<'_> {
    fn text(&self, name: &str) -> Result<String> {
        self.values.get(name).cloned().ok_or_else(|| {
            Error::failed(format!("user {} may not read the setting {name}", self.user))
                .hint(format!("GRANT pg_read_all_settings TO \"{}\";", self.user))
        })
    }

    fn number(&self, name: &str) -> Result<u32> {
        self.text(name)?.parse().map_err(|_| self.unexpected(name))
    }

    fn switch(&self, name: &str) -> Result<bool> {
        Ok(self.text(name)? == "on")
    }

    fn wal_level(&self) -> Result<WalLevel> {
        match self.text("wal_level")?.as_str() {
            "minimal" => Ok(WalLevel::Minimal),
            "replica" => Ok(WalLevel::Replica),
            "logical" => Ok(WalLevel::Logical),
            _ => Err(self.unexpected("wal_level")),
        }
    }

    fn archive_mode(&self) -> Result<ArchiveMode> {
        match self.text("archive_mode")?.as_str() {
            "off" => Ok(ArchiveMode::Off),
            "on" => Ok(ArchiveMode::On),
            "always" => Ok(ArchiveMode::Always),
            _ => Err(self.unexpected("archive_mode")),
        }
    }

    /// With archiving off the server shows `(disabled)`, whatever is configured.
    fn archive_command(&self) -> Result<String> {
        Ok(Some(self.text("archive_command")?).filter(|command| command != "(disabled)").unwrap_or_default())
    }

    /// A directory setting as a path below `data_directory`, when it is one.
    fn below(&self, data_directory: &std::path::Path, name: &str) -> Option<RelPath> {
        let path = data_directory.join(self.values.get(name)?);
        let below = path.strip_prefix(data_directory).ok()?;
        RelPath::new(below.as_os_str().as_encoded_bytes()).ok()
    }

    fn unexpected(&self, name: &str) -> Error {
        let value = self.values.get(name).map_or("", String::as_str);
        Error::failed(format!("the server's setting {name} has an unexpected value '{value}'"))
    }
}
