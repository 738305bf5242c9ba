//! How far bytes are log: for those who store what a server sends, and for those who read what somebody stored.

use std::ops::ControlFlow;

use super::carry::Carry;
use super::error::{Fault, WalError};
use super::page::LONG_HEADER_BYTES;
use super::reader::Stop;
use super::summary::scan;
use crate::base::{Lsn, Segment, SegmentSize};

/// How far the beginning of a segment is log whose checksums are right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Soundness {
    /// End of the last record whose checksum is right, at most one past the last byte: what comes then is a record that is
    /// not complete, or what the doubt says.
    pub end: Lsn,
    /// What is no log; none when the bytes are, up to where they were cut.
    pub doubt: Option<Doubt>,
}

/// What could not be read as log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// From here on; it may lie in the segment before.
    pub at: Lsn,
    /// Why.
    pub why: String,
    /// What it is about.
    pub kind: DoubtKind,
}

/// What a doubt is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DoubtKind {
    /// A record, or a page behind the first.
    Record,
    /// The first page: it is not this segment of such a log at all.
    Header,
    /// It does not go on where the carry says that the segment before ended.
    Carry,
}

/// Reads `bytes`, the beginning of `segment`, as what follows `carry`.
pub fn soundness(segment: Segment, size: SegmentSize, bytes: &[u8], carry: &Carry) -> Soundness {
    let (start, all) = (segment.start(size), segment.start(size).plus(bytes.len() as u64));
    let doubt = |at, why, kind| Soundness { end: at, doubt: Some(Doubt { at, why, kind }) };
    // Too short to tell: the first page's header is not there yet.
    if bytes.len() < LONG_HEADER_BYTES {
        return Soundness { end: start, doubt: None };
    }
    match scan(segment, size, bytes, carry, |_, _| ControlFlow::<()>::Continue(())) {
        // Its checksum is right: the server that wrote it can read it.
        Err(WalError::Malformed { .. }) | Ok(ControlFlow::Break(())) => Soundness { end: all, doubt: None },
        Err(error) if error.is_carry_mismatch() => doubt(start, error.to_string(), DoubtKind::Carry),
        Err(error) => doubt(start, error.to_string(), DoubtKind::Header),
        Ok(ControlFlow::Continue(end)) => match end.stop {
            Stop::SegmentEnd | Stop::EndOfLog { fault: Fault::NoMoreBytes, .. } => {
                Soundness { end: end.valid_end.min(all), doubt: None }
            }
            Stop::EndOfLog { at, fault } | Stop::Damaged { at, fault } => {
                doubt(at.min(all), fault.to_string(), DoubtKind::Record)
            }
        },
    }
}
