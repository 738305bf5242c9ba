//! Records of the transaction manager: the ends that a restore can stop at, and what prepares one.
//!
//! Source: PostgreSQL `src/include/access/xact.h`; order of the optional parts as in `ParseCommitRecord`, `ParseAbortRecord`
//! and `ParsePrepareRecord` of `src/backend/access/rmgrdesc/xactdesc.c`.

use crate::base::Timestamp;

use super::body::Relation;
use super::bytes::{u16_at, u32_at};
use super::change::Change;
use super::error::WalError;
use super::event::{Event, name, time_at};
use super::list::List;
use super::record::Record;

const KIND_MASK: u8 = 0x70;
const COMMIT: u8 = 0x00;
const PREPARE: u8 = 0x10;
const ABORT: u8 = 0x20;
const COMMIT_PREPARED: u8 = 0x30;
const ABORT_PREPARED: u8 = 0x40;
const ASSIGNMENT: u8 = 0x50;
/// Invalidation messages of a transaction under way; from 14 on.
const INVALIDATIONS: u8 = 0x60;

/// In the record's info: a word of flags follows the time.
const HAS_INFO: u8 = 0x80;
const HAS_DATABASE: u32 = 1 << 0;
const HAS_SUBTRANSACTIONS: u32 = 1 << 1;
const HAS_DROPPED_RELATIONS: u32 = 1 << 2;
const HAS_INVALIDATIONS: u32 = 1 << 3;
const HAS_TWO_PHASE: u32 = 1 << 4;
/// From 15 on.
const HAS_DROPPED_STATISTICS: u32 = 1 << 8;
/// Origin, locks, name of a prepared transaction; and the three at the top, which ask something of a standby.
const OTHER_FLAGS: u32 = 0b111 << 5 | 0b111 << 29;

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
        EndKind::CommitPrepared | EndKind::AbortPrepared => {
            let prepared = flags(record, data).and_then(|flags| parts(record, data, flags)?.prepared_xid);
            prepared.ok_or_else(|| {
                record.malformed("end of a prepared transaction", format!("{} bytes", data.len()), "a transaction id")
            })?
        }
    };
    Ok(Event::TransactionEnd(TransactionEnd { kind, xid, time }))
}

/// What the end of a transaction brings about, beside the end itself.
#[derive(Clone, Copy, Debug)]
pub struct Ended<'a> {
    /// How it ended.
    pub kind: EndKind,
    /// The transaction, as in [`TransactionEnd::xid`].
    pub xid: u32,
    /// The database it was in, where told.
    pub database: Option<u32>,
    /// Its subtransactions that ended as it did.
    pub subtransactions: List<'a, u32>,
    /// Relations whose files are removed now: dropped or replaced by a commit, made in vain by an abort.
    pub dropped: List<'a, Relation>,
}

/// What a prepared transaction will bring about.
#[derive(Clone, Copy, Debug)]
pub struct PreparedDetails<'a> {
    /// The transaction.
    pub xid: u32,
    /// The database it is in.
    pub database: u32,
    /// Its subtransactions.
    pub subtransactions: List<'a, u32>,
    /// Relations whose files a commit removes.
    pub dropped_by_commit: List<'a, Relation>,
    /// Relations whose files a rollback removes.
    pub dropped_by_abort: List<'a, Relation>,
}

/// Subtransactions and whose they are: written for every 64 of them.
#[derive(Clone, Copy, Debug)]
pub struct Assignment<'a> {
    /// The top-level transaction.
    pub top_level_xid: u32,
    /// Its subtransactions, children of children included.
    pub subtransactions: List<'a, u32>,
}

/// The optional parts of a transaction's end, as far as they are of use.
struct Parts<'a> {
    database: Option<u32>,
    subtransactions: List<'a, u32>,
    dropped: List<'a, Relation>,
    prepared_xid: Option<u32>,
}

/// The flags that say which parts there are; `None` when the record is too short.
fn flags(record: &Record<'_>, data: &[u8]) -> Option<u32> {
    if record.info & HAS_INFO == 0 { Some(0) } else { u32_at(data, 8) }
}

/// The parts that `flags` announce, one behind the other; lists have a count and items of fixed size.
fn parts<'a>(record: &Record<'_>, data: &'a [u8], flags: u32) -> Option<Parts<'a>> {
    let has = |flag| flags & flag != 0;
    let mut parts = Parts { database: None, subtransactions: List::EMPTY, dropped: List::EMPTY, prepared_xid: None };
    let mut at = 12_usize;
    if has(HAS_DATABASE) {
        parts.database = Some(u32_at(data, at)?);
        at += 8;
    }
    if has(HAS_SUBTRANSACTIONS) {
        (parts.subtransactions, at) = List::at(data, at + 4, u32_at(data, at)?)?;
    }
    if has(HAS_DROPPED_RELATIONS) {
        (parts.dropped, at) = List::at(data, at + 4, u32_at(data, at)?)?;
    }
    let statistics_bytes = if record.major_version >= 18 { 16 } else { 12 };
    for (flag, item_bytes) in [(HAS_DROPPED_STATISTICS, statistics_bytes), (HAS_INVALIDATIONS, 16)] {
        if has(flag) {
            let count = u32_at(data, at)? as usize;
            at = at.checked_add(4)?.checked_add(count.checked_mul(item_bytes)?)?;
        }
    }
    if has(HAS_TWO_PHASE) {
        parts.prepared_xid = Some(u32_at(data, at)?);
    }
    Some(parts)
}

fn prepare(record: &Record<'_>) -> Result<Prepare, WalError> {
    let data = record.main_data()?;
    let parse = || {
        let header = PrepareHeader::of(record.major_version);
        let gid = data.get(header.bytes..header.bytes + header.name_bytes(data)?)?;
        Some((u32_at(data, 8)?, name(gid)))
    };
    let (xid, gid) =
        parse().ok_or_else(|| record.malformed("prepared transaction", format!("{} bytes", data.len()), "an id and a name"))?;
    Ok(Prepare { xid, gid, time: time_at(record, data, 16)? })
}

/// `xl_xact_prepare`, in the two forms it has had.
struct PrepareHeader {
    bytes: usize,
    name_length_at: usize,
}

impl PrepareHeader {
    /// 15 added two counts (of statistics to drop) before the length of the name.
    fn of(major_version: u16) -> Self {
        if major_version >= 15 { Self { bytes: 72, name_length_at: 54 } } else { Self { bytes: 64, name_length_at: 46 } }
    }

    fn name_bytes(&self, data: &[u8]) -> Option<usize> {
        u16_at(data, self.name_length_at).map(usize::from)
    }
}

/// Interprets a record of the transaction manager in full.
pub(super) fn decode_change<'a>(record: &Record<'a>, data: &'a [u8]) -> Result<Change<'a>, WalError> {
    let kind = match record.info & KIND_MASK {
        COMMIT => EndKind::Commit,
        ABORT => EndKind::Abort,
        COMMIT_PREPARED => EndKind::CommitPrepared,
        ABORT_PREPARED => EndKind::AbortPrepared,
        PREPARE => {
            let details = prepared_details(record, data).map(Change::Prepared);
            return details
                .ok_or_else(|| record.malformed("prepared transaction", format!("{} bytes", data.len()), "more bytes"));
        }
        ASSIGNMENT => {
            let details = assignment(data).map(Change::Assigned);
            return details.ok_or_else(|| record.malformed("assignment", format!("{} bytes", data.len()), "more bytes"));
        }
        INVALIDATIONS if record.major_version >= 14 => return Ok(Change::Other),
        _ => return Ok(Change::Unknown),
    };
    let short = || record.malformed("end of a transaction", format!("{} bytes", data.len()), "more bytes");
    let flags = flags(record, data).ok_or_else(short)?;
    let statistics = if record.major_version >= 15 { HAS_DROPPED_STATISTICS } else { 0 };
    let known = HAS_DATABASE | HAS_SUBTRANSACTIONS | HAS_DROPPED_RELATIONS | HAS_INVALIDATIONS | HAS_TWO_PHASE;
    if flags & !(known | statistics | OTHER_FLAGS) != 0 {
        return Ok(Change::Unknown);
    }
    let Parts { database, subtransactions, dropped, prepared_xid } = parts(record, data, flags).ok_or_else(short)?;
    let xid = match kind {
        EndKind::Commit | EndKind::Abort => record.xid,
        EndKind::CommitPrepared | EndKind::AbortPrepared => prepared_xid.ok_or_else(short)?,
    };
    Ok(Change::Ended(Ended { kind, xid, database, subtransactions, dropped }))
}

/// Behind the header follow name, subtransactions, relations of a commit and of a rollback, each padded to eight bytes.
fn prepared_details<'a>(record: &Record<'_>, data: &'a [u8]) -> Option<PreparedDetails<'a>> {
    let header = PrepareHeader::of(record.major_version);
    let at = (header.bytes + header.name_bytes(data)?).next_multiple_of(8);
    let (subtransactions, at) = List::at(data, at, u32_at(data, 28)?)?;
    let (dropped_by_commit, at) = List::at(data, at.next_multiple_of(8), u32_at(data, 32)?)?;
    let (dropped_by_abort, _) = List::at(data, at.next_multiple_of(8), u32_at(data, 36)?)?;
    let (xid, database) = (u32_at(data, 8)?, u32_at(data, 12)?);
    Some(PreparedDetails { xid, database, subtransactions, dropped_by_commit, dropped_by_abort })
}

fn assignment(data: &[u8]) -> Option<Assignment<'_>> {
    let (subtransactions, _) = List::at(data, 8, u32_at(data, 4)?)?;
    Some(Assignment { top_level_xid: u32_at(data, 0)?, subtransactions })
}
