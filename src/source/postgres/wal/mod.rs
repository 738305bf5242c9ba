//! Reading PostgreSQL's write-ahead log, 13 to 18: segments → pages → records → the events a restore stops at, and, where
//! asked for, what each record does ([`Change`]) and to which pages ([`Body::blocks`]).
//!
//! Invariants:
//! - No input makes this code panic or loop: every step consumes at least eight bytes or stops.
//! - A [`Record`] is only handed out once its CRC-32C has been verified.
//! - A record belongs to the segment in which it *ends*; what straddles out of a segment travels in a [`Carry`].
//! - Where the log ends, or is damaged, is a result ([`Stop`]), not an error. A [`WalError`] means that the bytes are not
//!   the segment they are said to be, that the carry does not belong to it, or that a record has a form this code does not know.
//!
//! Sources: PostgreSQL `src/include/access/{xlog_internal,xlogrecord,xact}.h`, `src/include/catalog/pg_control.h`,
//! `src/backend/access/transam/xlogreader.c`. All numbers in the log are in the byte order of the server; big-endian
//! servers are refused by the page magic.

mod body;
mod bytes;
mod carry;
mod change;
mod error;
mod event;
#[cfg(test)]
pub(crate) mod fixture;
mod list;
mod page;
mod reader;
mod record;
mod soundness;
mod summary;
#[cfg(test)]
mod tests;
mod transaction;

pub use body::{BlockRef, Blocks, Body, Compression, Image, Relation};
pub use carry::{Carry, Partial};
pub use change::{Change, CutForks, ExclusiveLock, RowKind, RowPlace, changed_row};
pub use error::{Fault, WalError};
pub use event::{Checkpoint, Event, WalLevel};
pub use list::{Item, List};
pub use page::{LONG_HEADER_BYTES, SHORT_HEADER_BYTES, SegmentHeader, WAL_PAGE_BYTES};
pub use reader::{RecordSpan, SegmentEnd, SegmentReader, Stop};
pub use record::{RECORD_HEADER_BYTES, Record, resource_manager};
pub use soundness::{Doubt, DoubtKind, Soundness, soundness};
pub use summary::{EndTime, SegmentSummary, scan, summarise, summarise_with};
pub use transaction::{Assignment, EndKind, Ended, Prepare, PreparedDetails, TransactionEnd};
