//! What the server says of a replication slot.

use crate::base::{Lsn, Result};
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
}

impl Session {
    /// The slot `name`; none when there is none.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn slot(&self, name: &str) -> Result<Option<SlotState>> {
        let sql = "SELECT slot_type = 'physical', active_pid, restart_lsn::text, wal_status, safe_wal_size \
            FROM pg_replication_slots WHERE slot_name = $1";
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
        }))
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
