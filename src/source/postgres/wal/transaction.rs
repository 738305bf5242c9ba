//! Records of the transaction manager: the ends that a restore can stop at, and what prepares one.
//!
//! Source: PostgreSQL `src/include/access/xact.h`; order of the optional parts as in `ParseCommitRecord`, `ParseAbortRecord`
//! and `ParsePrepareRecord` of `src/backend/access/rmgrdesc/xactdesc.c`.

use crate::base::Timestamp;

use super::bytes::{u16_at, u32_at};
use super::error::WalError;
use super::event::{Event, name, time_at};
use super::record::Record;

const KIND_MASK: u8 = 0x70;
const COMMIT: u8 = 0x00;
const PREPARE: u8 = 0x10;
const ABORT: u8 = 0x20;
const COMMIT_PREPARED: u8 = 0x30;
const ABORT_PREPARED: u8 = 0x40;

/// In the record's info: a word of flags follows the time.
const HAS_INFO: u8 = 0x80;
const HAS_DATABASE: u32 = 1 << 0;
const HAS_TWO_PHASE: u32 = 1 << 4;

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndKind {
    /// COMMIT.
    Commit,
    /// ROLLBACK, or a failure.
    Abort,
    /// COMMIT PREPARED.
    CommitPrepared,
    /// ROLLBACK PREPARED.
    AbortPrepared,
}

impl EndKind {
    /// Whether the transaction's effects stay.
    pub fn is_commit(self) -> bool {
        matches!(self, EndKind::Commit | EndKind::CommitPrepared)
    }
}

/// The end of a transaction: what `recovery_target_time` and `recovery_target_xid` look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionEnd {
    /// How it ended.
    pub kind: EndKind,
    /// The transaction that ended: as recovery compares it, for the prepared forms the prepared transaction, not the one that ends it.
    /// 0 for a commit that had no id of its own.
    pub xid: u32,
    /// When it ended, by the server's clock.
    pub time: Timestamp,
}

/// A transaction that was prepared for two-phase commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepare {
    /// The prepared transaction.
    pub xid: u32,
    /// Its name, as given to PREPARE TRANSACTION; bytes that are not UTF-8 are replaced.
    pub gid: String,
    /// When, by the server's clock.
    pub time: Timestamp,
}

/// Interprets a record of the transaction manager.
pub(super) fn decode(record: &Record<'_>) -> Result<Event, WalError> {
    let kind = match record.info & KIND_MASK {
        COMMIT => EndKind::Commit,
        ABORT => EndKind::Abort,
        COMMIT_PREPARED => EndKind::CommitPrepared,
        ABORT_PREPARED => EndKind::AbortPrepared,
        PREPARE => return prepare(record).map(Event::Prepare),
        _ => return Ok(Event::Other),
    };
    let data = record.main_data()?;
    let time = time_at(record, data, 0)?;
    let xid = match kind {
        EndKind::Commit | EndKind::Abort => record.xid,
        EndKind::CommitPrepared | EndKind::AbortPrepared => prepared_xid(record, data).ok_or_else(|| {
            record.malformed("end of a prepared transaction", format!("{} bytes", data.len()), "a transaction id")
        })?,
    };
    Ok(Event::TransactionEnd(TransactionEnd { kind, xid, time }))
}

/// The two-phase transaction's id: behind the optional lists, of which each has a count and items of fixed size.
fn prepared_xid(record: &Record<'_>, data: &[u8]) -> Option<u32> {
    if record.info & HAS_INFO == 0 {
        return None;
    }
    let flags = u32_at(data, 8)?;
    let mut at = 12_usize;
    if flags & HAS_DATABASE != 0 {
        at += 8;
    }
    let stats_item_bytes = if record.major_version >= 18 { 16 } else { 12 };
    // (flag, bytes an item): subtransactions, dropped relations, dropped statistics (15 on), invalidations.
    for (flag, item_bytes) in [(1 << 1, 4), (1 << 2, 12), (1 << 8, stats_item_bytes), (1 << 3, 16)] {
        if flags & flag != 0 {
            let count = u32_at(data, at)? as usize;
            at = at.checked_add(4)?.checked_add(count.checked_mul(item_bytes)?)?;
        }
    }
    if flags & HAS_TWO_PHASE == 0 {
        return None;
    }
    u32_at(data, at)
}

fn prepare(record: &Record<'_>) -> Result<Prepare, WalError> {
    let data = record.main_data()?;
    let parse = || {
        // 15 added two counts (of statistics to drop) before the length of the name.
        let (length_at, name_at) = if record.major_version >= 15 { (54, 72) } else { (46, 64) };
        let gid = data.get(name_at..name_at + usize::from(u16_at(data, length_at)?))?;
        Some((u32_at(data, 8)?, name(gid)))
    };
    let (xid, gid) =
        parse().ok_or_else(|| record.malformed("prepared transaction", format!("{} bytes", data.len()), "an id and a name"))?;
    Ok(Prepare { xid, gid, time: time_at(record, data, 16)? })
}
