//! What the server says of a replication slot.

use std::path::PathBuf;
use std::time::SystemTime;

use crate::base::{Lsn, Result, Segment, SegmentSize, Timestamp};
use crate::source::postgres::connect::{Session, column};
use crate::source::postgres::server::parse_lsn;

/// Whether the log that a slot needs is there. Source: PostgreSQL documentation, "pg_replication_slots".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalStatus {
    /// Within `max_wal_size`.
    Reserved,
    /// More than `max_wal_size`, kept by the slot.
    Extended,
    /// To be removed at the next checkpoint, unless the slot moves on.
    Unreserved,
    /// Removed: the slot is of no use.
    Lost,
}

/// A slot as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotState {
    /// Whether it is for physical replication.
    pub is_physical: bool,
    /// The server's process that uses it.
    pub active_pid: Option<i32>,
    /// The log from here on is kept.
    pub restart_lsn: Option<Lsn>,
    /// Whether it is; none when the slot never kept any.
    pub wal_status: Option<WalStatus>,
    /// Bytes that may still be written before the slot is lost; none without `max_slot_wal_keep_size`.
    pub safe_wal_bytes: Option<i64>,
    /// Why the server dropped what it kept, from 17 on.
    pub invalidation: Option<String>,
    /// Bytes of log that the server keeps for it; none when it keeps none.
    pub retained_bytes: Option<i64>,
    /// When the server drops it because nobody uses it (`idle_replication_slot_timeout`, from 18 on).
    pub dropped_when_idle: Option<Timestamp>,
}

impl SlotState {
    /// Whether the server has removed log that the slot kept.
    pub fn is_lost(&self) -> bool {
        self.wal_status == Some(WalStatus::Lost) || self.invalidation.is_some()
    }
}

impl Session {
    /// Whether the server is a standby, or still recovers.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn is_in_recovery(&self) -> Result<bool> {
        let rows = self.rows("ask the state of", "SELECT pg_catalog.pg_is_in_recovery()", &[]).await?;
        rows.first().map_or(Ok(true), |row| column(row, 0))
    }

    /// The slot `name`; none when there is none.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn slot(&self, name: &str) -> Result<Option<SlotState>> {
        // As JSON: the older versions lack some of the columns.
        let sql = "SELECT slot_type = 'physical', active_pid, restart_lsn::text, wal_status, safe_wal_size, \
            to_jsonb(s) ->> 'invalidation_reason', \
            pg_catalog.pg_wal_lsn_diff(CASE WHEN pg_catalog.pg_is_in_recovery() \
                THEN coalesce(pg_catalog.pg_last_wal_receive_lsn(), pg_catalog.pg_last_wal_replay_lsn()) \
                ELSE pg_catalog.pg_current_wal_lsn() END, restart_lsn)::bigint, \
            (to_jsonb(s) ->> 'inactive_since')::timestamptz \
                + nullif(pg_catalog.current_setting('idle_replication_slot_timeout', true), '0')::interval \
            FROM pg_catalog.pg_replication_slots s WHERE slot_name = $1";
        let rows = self.rows("ask the replication slots of", sql, &[&name]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let restart_lsn = column::<Option<String>>(row, 2)?.map(|lsn| parse_lsn(&lsn)).transpose()?;
        let wal_status = match column::<Option<&str>>(row, 3)? {
            Some("reserved") => Some(WalStatus::Reserved),
            Some("extended") => Some(WalStatus::Extended),
            Some("unreserved") => Some(WalStatus::Unreserved),
            Some("lost") => Some(WalStatus::Lost),
            _ => None,
        };
        Ok(Some(SlotState {
            is_physical: column(row, 0)?,
            active_pid: column(row, 1)?,
            restart_lsn,
            wal_status,
            safe_wal_bytes: column(row, 4)?,
            invalidation: column(row, 5)?,
            retained_bytes: column(row, 6)?,
            dropped_when_idle: column::<Option<SystemTime>>(row, 7)?.map(Timestamp::from_system_time),
        }))
    }

    /// Who is served by the server's process `pid`, as far as this role may know: `lifeboat_orders from 10.0.0.7`.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn served_by(&self, pid: i32) -> Result<Option<String>> {
        let sql = "SELECT coalesce(application_name, '') || ' from ' || coalesce(host(client_addr), 'the server''s own host') \
            || ', since ' || to_char(backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC' \
            FROM pg_catalog.pg_stat_replication WHERE pid = $1";
        let rows = self.rows("ask who is connected to", sql, &[&pid]).await?;
        rows.first().map(|row| column::<Option<String>>(row, 0)).transpose().map(Option::flatten)
    }

    /// Where the server says that its data directory is.
    ///
    /// # Errors
    /// When this role may not know, or the server does not answer.
    pub async fn data_directory(&self) -> Result<PathBuf> {
        let sql = "SELECT pg_catalog.current_setting('data_directory')";
        let row = self.row("ask the data directory of", sql, &[]).await?;
        column::<String>(&row, 0).map(PathBuf::from)
    }

    /// The first byte of the oldest segment that is in the server's `pg_wal`, where this role may look there.
    ///
    /// # Errors
    /// When it may not, or the server does not answer.
    pub async fn oldest_log(&self, size: SegmentSize) -> Result<Option<Lsn>> {
        let sql = "SELECT min(substr(name, 9)) FROM pg_catalog.pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'";
        let row = self.row("list the log of", sql, &[]).await?;
        let name = column::<Option<String>>(&row, 0)?;
        let segment = name.and_then(|name| Segment::parse(&format!("00000001{name}"), size));
        Ok(segment.map(|segment| segment.start(size)))
    }

    /// Whether commits wait, or may come to wait, for the standby that calls itself `application_name`: that the setting
    /// names it. Of the state itself, in `pg_stat_replication`, only `pg_read_all_stats` sees anything.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn waits_for(&self, application_name: &str) -> Result<bool> {
        let sql = "SELECT pg_catalog.current_setting('synchronous_standby_names')";
        let row = self.row("ask the synchronous standbys of", sql, &[]).await?;
        Ok(names(column(&row, 0)?, application_name))
    }
}

/// Whether `synchronous_standby_names` names `standby`: `FIRST 1 (a, "b c")`, `ANY 2 (*)`, `a, b`; without case.
fn names(setting: &str, standby: &str) -> bool {
    let mut rest = setting;
    while let Some(first) = rest.chars().next() {
        let quoted = rest.strip_prefix('"');
        let name = match quoted {
            Some(text) => &text[..text.find('"').unwrap_or(text.len())],
            None => &rest[..rest.find(|c: char| c.is_whitespace() || ",()\"".contains(c)).unwrap_or(rest.len())],
        };
        if name == "*" || !name.is_empty() && name.eq_ignore_ascii_case(standby) {
            return true;
        }
        let passed = name.len() + if quoted.is_some() { 2 } else { usize::from(name.is_empty()) * first.len_utf8() };
        rest = rest.get(passed..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standby_is_found_by_its_name_among_the_synchronous_ones() {
        for setting in ["s_1", " S_1 ", "a, s_1", "FIRST 1 (a,s_1)", "ANY 1 (\"s_1\", b)", "2(b , \"S_1\")", "*", "FIRST 1 (*)"] {
            assert!(names(setting, "s_1"), "{setting}");
        }
        for setting in ["", "s_10", "a, s", "ANY 1 (s, \"s_1 \")", "FIRST 1 (\"x, s_1\")", "\"\"", "\"open", "ü, \"ü\""] {
            assert!(!names(setting, "s_1"), "{setting}");
        }
    }
}
