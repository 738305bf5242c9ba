//! One record: its header's fields, and its body.
//!
//! Header, 24 bytes: total length u32, transaction id u32, start of the record before u64, info u8, resource manager u8,
//! 2 unused, CRC-32C u32 over the body and then the header's first 20 bytes.
//! Source: PostgreSQL `src/include/access/xlogrecord.h`.

use crate::base::Lsn;

use super::body::{Body, MAIN_DATA_SHORT};
use super::bytes::{u32_at, u64_at};
use super::error::{Fault, WalError};

/// Size of a record's header in bytes; no record is shorter.
pub const RECORD_HEADER_BYTES: usize = 24;
/// No server writes a longer record (`XLogRecordMaxSize`, and the allocation limit before 16).
const MAX_RECORD_BYTES: u32 = 0x3FFF_FFFF;

/// Numbers of the resource managers whose records are interpreted. Source: `src/include/access/rmgrlist.h`.
pub mod resource_manager {
    /// Checkpoints, restore points, switches and other marks in the log itself.
    pub const XLOG: u8 = 0;
    /// Transaction ends.
    pub const TRANSACTION: u8 = 1;
    /// Relations' files made and cut.
    pub const STORAGE: u8 = 2;
    /// Databases made and dropped.
    pub const DATABASE: u8 = 4;
    /// Tablespaces made and dropped.
    pub const TABLESPACE: u8 = 5;
    /// What a standby must know of running transactions.
    pub const STANDBY: u8 = 8;
    /// Rows: inserts of many at once, and what VACUUM does.
    pub const HEAP2: u8 = 9;
    /// Rows.
    pub const HEAP: u8 = 10;
    /// The last one that is built in.
    pub(crate) const LAST_BUILT_IN: u8 = 21;
    /// The first one an extension can register, from 15 on.
    pub(crate) const FIRST_CUSTOM: u8 = 128;
}

/// A record whose checksum has been verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// First byte of its header.
    pub start: Lsn,
    /// One past its last byte, rounded up to 8; for a switch, the segment's end. What PostgreSQL calls `EndRecPtr`.
    pub end: Lsn,
    /// Start of the record before; 0 for the very first of a cluster.
    pub previous: Lsn,
    /// The writing transaction, 0 for none.
    pub xid: u32,
    /// Number of the resource manager.
    pub resource_manager: u8,
    /// Its flag bits; the upper four say what kind of record it is.
    pub info: u8,
    /// Length of header and body in bytes, without page headers and padding.
    pub total_length: u32,
    /// Major version of the server.
    pub major_version: u16,
    /// Everything after the header. Shorter than `total_length − 24` when [`Record::is_whole`] is false.
    pub body: &'a [u8],
}

impl<'a> Record<'a> {
    /// One past its last byte, without the padding up to [`Record::end`]: whoever has the bytes up to here has all of it.
    /// Not for a switch.
    pub fn unpadded_end(&self) -> Lsn {
        Lsn(self.end.0 - u64::from(self.total_length.wrapping_neg() % 8))
    }

    /// Whether the whole body is at hand. Of very long records that nothing here interprets only the beginning is kept
    /// (see [`Partial`](super::Partial)).
    pub fn is_whole(&self) -> bool {
        self.body.len() + RECORD_HEADER_BYTES == self.total_length as usize
    }

    /// The record's main data: what the resource manager wrote beside the block references.
    ///
    /// # Errors
    /// [`WalError::Malformed`] when the body is not in a known form, or not whole.
    pub fn main_data(&self) -> Result<&'a [u8], WalError> {
        // As all ends of transactions have it: `archive push` reads each of them.
        if let [MAIN_DATA_SHORT, length, data @ ..] = self.body
            && data.len() == usize::from(*length)
            && self.is_whole()
        {
            return Ok(data);
        }
        let kept = || format!("{} bytes kept", self.body.len());
        self.parts()?.main_data().ok_or_else(|| self.malformed("body", kept(), "all of it"))
    }

    /// The record's body, taken apart.
    ///
    /// # Errors
    /// [`WalError::Malformed`] when it is not in a known form.
    pub fn parts(&self) -> Result<Body<'a>, WalError> {
        Body::parse(self)
    }

    /// An error about this record.
    pub(super) fn malformed(&self, what: &'static str, found: impl ToString, expected: impl ToString) -> WalError {
        WalError::Malformed { record: self.start, what, found: found.to_string(), expected: expected.to_string() }
    }
}

/// The fields of a record's header.
#[derive(Clone, Copy, Debug)]
pub(super) struct RecordHeader {
    pub total_length: u32,
    pub xid: u32,
    pub previous: Lsn,
    pub info: u8,
    pub resource_manager: u8,
    pub checksum: u32,
}

impl RecordHeader {
    /// Reads the header; `None` when the bytes end within it.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..RECORD_HEADER_BYTES)?;
        Some(Self {
            total_length: u32_at(bytes, 0)?,
            xid: u32_at(bytes, 4)?,
            previous: Lsn(u64_at(bytes, 8)?),
            info: bytes[16],
            resource_manager: bytes[17],
            checksum: u32_at(bytes, 20)?,
        })
    }

    /// Checks what can be checked without the body, for a record at `start` that follows the one at `last`, where known.
    pub fn check(&self, start: Lsn, last: Option<Lsn>, major_version: u16) -> Result<(), Fault> {
        let custom = major_version >= 15 && self.resource_manager >= resource_manager::FIRST_CUSTOM;
        if self.resource_manager > resource_manager::LAST_BUILT_IN && !custom {
            return Err(Fault::ResourceManager(self.resource_manager));
        }
        let linked = match last {
            Some(last) => self.previous == last,
            None => self.previous < start,
        };
        if linked { Ok(()) } else { Err(Fault::PreviousRecord { found: self.previous, expected: last }) }
    }

    /// Checks the checksum, given that of the body alone and the header's bytes.
    pub fn check_checksum(&self, body_checksum: u32, header: &[u8]) -> Result<(), Fault> {
        let expected = crc32c::crc32c_append(body_checksum, header.get(..20).unwrap_or(header));
        if expected == self.checksum { Ok(()) } else { Err(Fault::Checksum { found: self.checksum, expected }) }
    }

    /// Whether this is the mark after which the rest of the segment is padding.
    pub fn is_switch(&self) -> bool {
        self.resource_manager == resource_manager::XLOG && self.info & 0xF0 == super::event::XLOG_SWITCH
    }

    /// The record that this header begins.
    pub fn record(self, start: Lsn, end: Lsn, major_version: u16, body: &[u8]) -> Record<'_> {
        let Self { total_length, xid, previous, info, resource_manager, .. } = self;
        Record { start, end, previous, xid, resource_manager, info, total_length, major_version, body }
    }
}

/// Checks a record's length field.
pub(super) fn check_length(total_length: u32) -> Result<u32, Fault> {
    match total_length {
        0 => Err(Fault::Empty),
        length if (length as usize) < RECORD_HEADER_BYTES || length > MAX_RECORD_BYTES => Err(Fault::RecordLength(length)),
        length => Ok(length),
    }
}
