//! What can be wrong with a log: errors that stop the caller, and faults that stop the reading.

use std::fmt;

use crate::base::{Error, Lsn};

/// The bytes are not what the caller took them for. Each says where, what was found and what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WalError {
    /// The segment is too short to hold a page header, or longer than the segment size.
    #[error("WAL segment at {position} has {found_bytes} bytes, expected {expected}")]
    Length {
        /// Start of the segment.
        position: Lsn,
        /// Bytes given.
        found_bytes: usize,
        /// What would have been right.
        expected: String,
    },
    /// The segment's first page is not the one expected here.
    #[error("WAL segment at {position}: {what} is {found}, expected {expected}")]
    Header {
        /// Start of the segment.
        position: Lsn,
        /// The header's field.
        what: &'static str,
        /// Its value.
        found: String,
        /// What would have been right.
        expected: String,
    },
    /// The [`Carry`](super::Carry) does not belong to this segment; reading with `Carry::Unknown` may still succeed.
    #[error("WAL segment at {position} does not continue what was carried into it: found {found}, expected {expected}")]
    CarryMismatch {
        /// Start of the segment.
        position: Lsn,
        /// What the segment's first page says.
        found: String,
        /// What the carry says.
        expected: String,
    },
    /// A record whose checksum is right has a form that this version does not know.
    #[error("WAL record at {record}: {what} is {found}, expected {expected}")]
    Malformed {
        /// Start of the record.
        record: Lsn,
        /// The part that could not be read.
        what: &'static str,
        /// What is there.
        found: String,
        /// What would have been right.
        expected: String,
    },
}

impl WalError {
    /// Whether the carry is at fault, so that reading with `Carry::Unknown` is worth another try.
    pub fn is_carry_mismatch(&self) -> bool {
        matches!(self, WalError::CarryMismatch { .. })
    }
}

impl From<WalError> for Error {
    fn from(error: WalError) -> Self {
        Error::damaged(error.to_string())
    }
}

/// Why no record could be read at a position: at the end of a log one of these is normal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The bytes given end here, before the segment does.
    NoMoreBytes,
    /// A record's length is zero: nothing was ever written here.
    Empty,
    /// A record's length in bytes is impossible.
    RecordLength(u32),
    /// A record of a resource manager that does not exist.
    ResourceManager(u8),
    /// The record's link to the record before is wrong.
    PreviousRecord {
        /// The link.
        found: Lsn,
        /// Start of the record before; `None` when it is only known that the link must point backwards.
        expected: Option<Lsn>,
    },
    /// The record's CRC-32C is wrong.
    Checksum {
        /// What the record says.
        found: u32,
        /// What its bytes give.
        expected: u32,
    },
    /// A page header's field is wrong.
    Page {
        /// Start of the page.
        page: Lsn,
        /// The field.
        what: &'static str,
        /// Its value.
        found: u64,
        /// The only, or the largest possible, right value.
        expected: u64,
    },
    /// A page begins with the rest of a record that was not begun before it, or not with the rest of the one that was.
    Continuation {
        /// Start of the page.
        page: Lsn,
        /// Bytes of continuation the page announces.
        found_bytes: u32,
        /// Bytes that are missing from the record being read.
        expected_bytes: u32,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Fault::NoMoreBytes => f.write_str("no more bytes"),
            Fault::Empty => f.write_str("nothing was written here"),
            Fault::RecordLength(found) => write!(f, "impossible record length of {found} bytes"),
            Fault::ResourceManager(found) => write!(f, "unknown resource manager {found}"),
            Fault::PreviousRecord { found, expected: Some(expected) } => {
                write!(f, "link to previous record is {found}, expected {expected}")
            }
            Fault::PreviousRecord { found, expected: None } => {
                write!(f, "link to previous record is {found}, expected an earlier position")
            }
            Fault::Checksum { found, expected } => write!(f, "record checksum is {found:08X}, expected {expected:08X}"),
            Fault::Page { page, what, found, expected } => {
                write!(f, "page at {page}: {what} is {found:X}, expected {expected:X}")
            }
            Fault::Continuation { page, found_bytes, expected_bytes } => {
                write!(f, "page at {page} begins with {found_bytes} bytes of a continued record, expected {expected_bytes}")
            }
        }
    }
}
