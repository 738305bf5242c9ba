//! What records mean to a restore: the moments it can stop at and the marks that say where the log stands.
//!
//! Sources: PostgreSQL `src/include/catalog/pg_control.h` (`CheckPoint`, the info values), `src/include/access/xlog_internal.h`
//! (`xl_restore_point`, `xl_parameter_change`, `xl_end_of_recovery`, `xl_overwrite_contrecord`, `xl_checkpoint_redo`),
//! `src/include/commands/tablespace.h` (`xl_tblspc_create_rec`).

use std::fmt;

use crate::base::{Lsn, TimelineId, Timestamp};

use super::bytes::{i64_at, u32_at, u64_at};
use super::error::WalError;
use super::record::{Record, resource_manager};
use super::transaction::{self, Prepare, TransactionEnd};

const KIND_MASK: u8 = 0xF0;
const XLOG_CHECKPOINT_SHUTDOWN: u8 = 0x00;
const XLOG_CHECKPOINT_ONLINE: u8 = 0x10;
pub(super) const XLOG_SWITCH: u8 = 0x40;
const XLOG_BACKUP_END: u8 = 0x50;
const XLOG_PARAMETER_CHANGE: u8 = 0x60;
const XLOG_RESTORE_POINT: u8 = 0x70;
const XLOG_END_OF_RECOVERY: u8 = 0x90;
const XLOG_OVERWRITE_CONTRECORD: u8 = 0xD0;
const XLOG_CHECKPOINT_REDO: u8 = 0xE0;
const XLOG_TBLSPC_CREATE: u8 = 0x00;

/// 2000-01-01T00:00:00Z, PostgreSQL's epoch, in microseconds since 1970.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// The server's `wal_level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WalLevel {
    /// Not enough for archiving: a restore cannot cross it.
    Minimal,
    /// Enough for archiving.
    Replica,
    /// Enough for logical decoding too.
    Logical,
}

impl fmt::Display for WalLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WalLevel::Minimal => "minimal",
            WalLevel::Replica => "replica",
            WalLevel::Logical => "logical",
        })
    }
}

/// A checkpoint's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Taken while shutting down (or at the end of recovery), not while running.
    pub shutdown: bool,
    /// Where replay from this checkpoint begins.
    pub redo: Lsn,
    /// The timeline from here on.
    pub timeline: TimelineId,
    /// The timeline before: differs from `timeline` when this checkpoint begins one.
    pub previous_timeline: TimelineId,
    /// `full_page_writes` was on.
    pub full_page_writes: bool,
    /// The server's level; recorded from 17 on.
    pub wal_level: Option<WalLevel>,
    /// Next transaction id, with its epoch in the upper half.
    pub next_xid: u64,
    /// When the checkpoint began, to the second.
    pub time: Timestamp,
}

/// What a record means to a restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A transaction ended.
    TransactionEnd(TransactionEnd),
    /// A transaction was prepared.
    Prepare(Prepare),
    /// `pg_create_restore_point`.
    RestorePoint {
        /// Its name; bytes that are not UTF-8 are replaced.
        name: String,
        /// When.
        time: Timestamp,
    },
    /// A checkpoint was completed.
    Checkpoint(Checkpoint),
    /// Where a later checkpoint's replay begins; from 17 on.
    CheckpointRedo {
        /// The server's level.
        wal_level: WalLevel,
    },
    /// Recovery ended without a checkpoint: a promotion.
    EndOfRecovery {
        /// The timeline from here on.
        timeline: TimelineId,
        /// The timeline before.
        previous_timeline: TimelineId,
        /// When.
        time: Timestamp,
        /// The server's level; recorded from 17 on.
        wal_level: Option<WalLevel>,
    },
    /// Settings that matter to standbys are now these.
    ParameterChange {
        /// The server's level.
        wal_level: WalLevel,
        /// `wal_log_hints` is on.
        wal_log_hints: bool,
    },
    /// A base backup ended: consistency is reached here.
    BackupEnd {
        /// Redo position of the checkpoint the backup started with.
        start: Lsn,
    },
    /// The rest of the segment is padding.
    Switch,
    /// A record that was begun before a crash was abandoned.
    ContinuationOverwritten {
        /// Start of the abandoned record.
        abandoned: Lsn,
        /// When it was abandoned.
        time: Timestamp,
    },
    /// `CREATE TABLESPACE`: replay makes a link to this directory, and writes there.
    TablespaceCreate {
        /// Its number: the link's name below `pg_tblspc`.
        oid: u32,
        /// Its location; empty for one inside the data directory. Bytes that are not UTF-8 are replaced.
        path: String,
    },
    /// Anything else.
    Other,
}

impl Event {
    /// Interprets a record.
    ///
    /// # Errors
    /// [`WalError::Malformed`] when a record of a kind named here has not the form of its version.
    pub fn decode(record: &Record<'_>) -> Result<Self, WalError> {
        match record.resource_manager {
            resource_manager::XLOG => decode_xlog(record),
            resource_manager::TRANSACTION => transaction::decode(record),
            resource_manager::TABLESPACE => decode_tablespace(record),
            _ => Ok(Event::Other),
        }
    }

    /// The server's clock when the record was written, for the records that carry it.
    /// A checkpoint's is that of its beginning, to the second.
    pub fn time(&self) -> Option<Timestamp> {
        match self {
            Event::TransactionEnd(end) => Some(end.time),
            Event::Prepare(prepare) => Some(prepare.time),
            Event::Checkpoint(checkpoint) => Some(checkpoint.time),
            Event::RestorePoint { time, .. }
            | Event::EndOfRecovery { time, .. }
            | Event::ContinuationOverwritten { time, .. } => Some(*time),
            Event::CheckpointRedo { .. }
            | Event::ParameterChange { .. }
            | Event::BackupEnd { .. }
            | Event::Switch
            | Event::TablespaceCreate { .. }
            | Event::Other => None,
        }
    }
}

fn decode_xlog(record: &Record<'_>) -> Result<Event, WalError> {
    let kind = record.info & KIND_MASK;
    match kind {
        XLOG_SWITCH => return Ok(Event::Switch),
        XLOG_CHECKPOINT_SHUTDOWN | XLOG_CHECKPOINT_ONLINE | XLOG_BACKUP_END | XLOG_PARAMETER_CHANGE => {}
        XLOG_RESTORE_POINT | XLOG_END_OF_RECOVERY | XLOG_OVERWRITE_CONTRECORD | XLOG_CHECKPOINT_REDO => {}
        _ => return Ok(Event::Other),
    }
    let data = record.main_data()?;
    let short = || record.malformed("record of the log itself", format!("kind {kind:02X}, {} bytes", data.len()), "more bytes");
    let number = |at| u32_at(data, at).ok_or_else(short);
    let lsn = |at| u64_at(data, at).map(Lsn).ok_or_else(short);
    // Recorded in checkpoints and ends of recovery since 17.
    let level_since_17 = |at| (record.major_version >= 17).then(|| wal_level(record, number(at)?)).transpose();
    Ok(match kind {
        XLOG_CHECKPOINT_SHUTDOWN | XLOG_CHECKPOINT_ONLINE => Event::Checkpoint(Checkpoint {
            shutdown: kind == XLOG_CHECKPOINT_SHUTDOWN,
            redo: lsn(0)?,
            timeline: TimelineId(number(8)?),
            previous_timeline: TimelineId(number(12)?),
            full_page_writes: *data.get(16).ok_or_else(short)? != 0,
            wal_level: level_since_17(20)?,
            next_xid: lsn(24)?.0,
            time: seconds_at(record, data, 64)?,
        }),
        XLOG_BACKUP_END => Event::BackupEnd { start: lsn(0)? },
        XLOG_PARAMETER_CHANGE => Event::ParameterChange {
            wal_level: wal_level(record, number(20)?)?,
            wal_log_hints: *data.get(24).ok_or_else(short)? != 0,
        },
        XLOG_RESTORE_POINT => {
            Event::RestorePoint { time: time_at(record, data, 0)?, name: name(data.get(8..).ok_or_else(short)?) }
        }
        XLOG_END_OF_RECOVERY => Event::EndOfRecovery {
            time: time_at(record, data, 0)?,
            timeline: TimelineId(number(8)?),
            previous_timeline: TimelineId(number(12)?),
            wal_level: level_since_17(16)?,
        },
        XLOG_OVERWRITE_CONTRECORD => Event::ContinuationOverwritten { abandoned: lsn(0)?, time: time_at(record, data, 8)? },
        _ => Event::CheckpointRedo { wal_level: wal_level(record, number(0)?)? },
    })
}

/// `xl_tblspc_create_rec`: the tablespace's id, and its location up to a NUL.
fn decode_tablespace(record: &Record<'_>) -> Result<Event, WalError> {
    if record.info & KIND_MASK != XLOG_TBLSPC_CREATE {
        return Ok(Event::Other);
    }
    let data = record.main_data()?;
    let parts = data.split_first_chunk().filter(|(_, path)| !path.is_empty());
    let (oid, path) = parts.ok_or_else(|| record.malformed("tablespace", format!("{} bytes", data.len()), "5 or more"))?;
    Ok(Event::TablespaceCreate { oid: u32::from_le_bytes(*oid), path: name(path) })
}

fn wal_level(record: &Record<'_>, number: u32) -> Result<WalLevel, WalError> {
    match number {
        0 => Ok(WalLevel::Minimal),
        1 => Ok(WalLevel::Replica),
        2 => Ok(WalLevel::Logical),
        _ => Err(record.malformed("wal_level", number, "0, 1 or 2")),
    }
}

/// The time at byte `at`: microseconds since 2000.
pub(super) fn time_at(record: &Record<'_>, data: &[u8], at: usize) -> Result<Timestamp, WalError> {
    let micros = i64_at(data, at).ok_or_else(|| record.malformed("time", format!("{} bytes", data.len()), "8 bytes more"))?;
    micros
        .checked_add(POSTGRES_EPOCH_MICROS)
        .and_then(Timestamp::from_unix_micros)
        .ok_or_else(|| record.malformed("time", format!("{micros} µs since 2000"), "a moment in the years 1 to 9999"))
}

/// The time at byte `at`: seconds since 1970.
fn seconds_at(record: &Record<'_>, data: &[u8], at: usize) -> Result<Timestamp, WalError> {
    let seconds = i64_at(data, at).ok_or_else(|| record.malformed("time", format!("{} bytes", data.len()), "8 bytes more"))?;
    seconds
        .checked_mul(1_000_000)
        .and_then(Timestamp::from_unix_micros)
        .ok_or_else(|| record.malformed("time", format!("{seconds} s since 1970"), "a moment in the years 1 to 9999"))
}

/// A name that ends at its first NUL byte.
pub(super) fn name(bytes: &[u8]) -> String {
    let length = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}
