//! What one segment hands to the next: the beginning of a record that straddles the boundary between them.
//!
//! Byte form, version 1, little-endian: version u8, kind u8 (0 unknown, 1 nothing, 2 partial), then unless unknown: boundary u64,
//! system identifier u64, start of the last complete record u64 (2⁶⁴−1 when not known); for a partial record: its start u64, total length u32,
//! received bytes u32, CRC-32C of the received body u32, kept length u32, kept bytes; last, XXH3-64 of all before u64.

use crate::base::Lsn;

use super::bytes::{u32_at, u64_at};
use super::record::{RECORD_HEADER_BYTES, RecordHeader, check_length, resource_manager};

const VERSION: u8 = 1;
/// Longest beginning kept of a record that ends a transaction: more than a million subtransactions or dropped relations.
const KEPT_TRANSACTION_BYTES: usize = 64 << 20;
/// Where in a record the number of its resource manager is (`xl_rmid` of `XLogRecord`).
const RESOURCE_MANAGER_AT: usize = 17;
/// Longest beginning kept of any other record: nothing that is interpreted is longer.
const KEPT_BYTES: usize = 512 << 10;

/// What is known, at a segment boundary, of the record that straddles it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carry {
    /// Nothing is known of the segment before, or the record's beginning is lost: whatever straddles in cannot be read.
    Unknown,
    /// No record straddles the boundary.
    Nothing {
        /// The boundary: end of the segment read and start of the next.
        boundary: Lsn,
        /// The cluster.
        system_identifier: u64,
        /// Start of the last complete record before the boundary, where known.
        last_record: Option<Lsn>,
    },
    /// A record straddles the boundary.
    Partial {
        /// The boundary: end of the segment read and start of the next.
        boundary: Lsn,
        /// The cluster.
        system_identifier: u64,
        /// Start of the last complete record before the boundary, where known.
        last_record: Option<Lsn>,
        /// The record's beginning.
        partial: Partial,
    },
}

/// A record's beginning: at least its length, at most all but its last byte.
///
/// Memory is bounded: of a transaction's end 64 MiB are kept, of any other record 512 KiB; the checksum covers the rest as it passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partial {
    pub(super) start: Lsn,
    pub(super) total_length: u32,
    pub(super) received_bytes: u32,
    pub(super) body_checksum: u32,
    pub(super) kept: Vec<u8>,
}

impl Partial {
    /// Start of the record.
    pub fn start(&self) -> Lsn {
        self.start
    }

    /// Bytes of the record that are still to come.
    pub fn missing_bytes(&self) -> u32 {
        self.total_length - self.received_bytes
    }

    /// Whether the record may be of this resource manager: as long as its header is not known whole, it may.
    pub fn may_be_of(&self, resource_manager: u8) -> bool {
        self.kept.get(RESOURCE_MANAGER_AT).is_none_or(|own| *own == resource_manager)
    }

    /// An empty beginning, reusing `kept`'s memory.
    pub(super) fn begin(start: Lsn, total_length: u32, mut kept: Vec<u8>) -> Self {
        kept.clear();
        Self { start, total_length, received_bytes: 0, body_checksum: 0, kept }
    }

    /// Adds the next piece of the record. The caller sees to it that no more comes than is missing.
    pub(super) fn push(&mut self, piece: &[u8]) {
        let header_rest = RECORD_HEADER_BYTES.saturating_sub(self.received_bytes as usize).min(piece.len());
        self.body_checksum = crc32c::crc32c_append(self.body_checksum, &piece[header_rest..]);
        let room = kept_limit(&self.kept).saturating_sub(self.kept.len());
        self.kept.extend_from_slice(&piece[..piece.len().min(room)]);
        self.received_bytes += piece.len() as u32;
    }

    /// The header, once enough has been received.
    pub(super) fn header(&self) -> Option<RecordHeader> {
        RecordHeader::parse(&self.kept)
    }

    fn is_consistent(&self) -> bool {
        let expected_kept = kept_limit(&self.kept).min(self.received_bytes as usize);
        check_length(self.total_length).is_ok()
            && self.received_bytes < self.total_length
            && u32_at(&self.kept, 0) == Some(self.total_length)
            && self.kept.len() == expected_kept
    }
}

/// How much of a record is kept, as far as its beginning tells what it is.
fn kept_limit(beginning: &[u8]) -> usize {
    match beginning.get(RESOURCE_MANAGER_AT) {
        Some(&resource_manager::TRANSACTION) => KEPT_TRANSACTION_BYTES,
        _ => KEPT_BYTES,
    }
}

impl Carry {
    /// The byte form, at most a little over 64 MiB and usually under 10 KiB.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        let mut common = |kind: u8, boundary: &Lsn, system_identifier: &u64, last_record: &Option<Lsn>| {
            out.push(kind);
            for number in [boundary.0, *system_identifier, last_record.map_or(u64::MAX, |lsn| lsn.0)] {
                out.extend_from_slice(&number.to_le_bytes());
            }
        };
        match self {
            Carry::Unknown => out.push(0),
            Carry::Nothing { boundary, system_identifier, last_record } => common(1, boundary, system_identifier, last_record),
            Carry::Partial { boundary, system_identifier, last_record, partial } => {
                common(2, boundary, system_identifier, last_record);
                out.extend_from_slice(&partial.start.0.to_le_bytes());
                for number in [partial.total_length, partial.received_bytes, partial.body_checksum, partial.kept.len() as u32] {
                    out.extend_from_slice(&number.to_le_bytes());
                }
                out.extend_from_slice(&partial.kept);
            }
        }
        out.extend_from_slice(&xxhash_rust::xxh3::xxh3_64(&out).to_le_bytes());
        out
    }

    /// Parses [`Carry::to_bytes`]; `None` for anything else: another version, cut short, changed.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (content, checksum) = bytes.split_at_checked(bytes.len().checked_sub(8)?)?;
        if u64_at(checksum, 0)? != xxhash_rust::xxh3::xxh3_64(content) || *content.first()? != VERSION {
            return None;
        }
        let kind = *content.get(1)?;
        if kind == 0 {
            return (content.len() == 2).then_some(Carry::Unknown);
        }
        let (boundary, system_identifier) = (Lsn(u64_at(content, 2)?), u64_at(content, 10)?);
        let last_record = Some(u64_at(content, 18)?).filter(|lsn| *lsn != u64::MAX).map(Lsn);
        match kind {
            1 => (content.len() == 26).then_some(Carry::Nothing { boundary, system_identifier, last_record }),
            2 => {
                let kept = content.get(50..)?;
                let partial = Partial {
                    start: Lsn(u64_at(content, 26)?),
                    total_length: u32_at(content, 34)?,
                    received_bytes: u32_at(content, 38)?,
                    body_checksum: u32_at(content, 42)?,
                    kept: (kept.len() == u32_at(content, 46)? as usize).then(|| kept.to_vec())?,
                };
                let consistent = partial.is_consistent() && partial.start < boundary;
                consistent.then_some(Carry::Partial { boundary, system_identifier, last_record, partial })
            }
            _ => None,
        }
    }
}
