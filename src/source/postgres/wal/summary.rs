//! A whole segment at once: a visitor over its records, and the summary that becomes an archived segment's name.

use std::ops::ControlFlow;

use crate::base::{Segment, SegmentSize, Timestamp};

use super::carry::Carry;
use super::error::{Fault, WalError};
use super::event::Event;
use super::page::SegmentHeader;
use super::reader::{RecordSpan, SegmentEnd, SegmentReader, Stop};
use super::record::Record;

/// A time in a segment's summary: `-`, `?` or the time itself in an archived segment's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndTime {
    /// No transaction ended.
    None,
    /// Perhaps one did, in a part that could not be read.
    Unknown,
    /// One ended then.
    At(Timestamp),
}

/// What a segment says of the transactions that end in it.
///
/// A record belongs to the segment in which it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentSummary {
    /// Whose log it is.
    pub header: SegmentHeader,
    /// Time of the first COMMIT or ABORT (plain or prepared) that could be read.
    pub first_end: Option<Timestamp>,
    /// Latest time of any COMMIT or ABORT (plain or prepared) that could be read: neighbours may carry times out of order.
    pub latest_end: Option<Timestamp>,
    /// COMMITs and COMMIT PREPAREDs that could be read.
    pub commits: u64,
    /// PREPARE TRANSACTIONs that could be read.
    pub prepares: u64,
    /// Latest time that any record carries: ends, prepares, checkpoints, restore points, ends of recovery.
    pub latest_evidence: Option<Timestamp>,
    /// Where the reading ended, and what the next segment must know.
    pub end: SegmentEnd,
}

impl SegmentSummary {
    /// Whether every record that ends in this segment was read, up to its last byte.
    pub fn is_complete(&self) -> bool {
        self.end.stop == Stop::SegmentEnd && !self.end.head_unknown
    }

    /// The last complete record that ends in this segment.
    pub fn last_record(&self) -> Option<RecordSpan> {
        self.end.last_record
    }

    /// Time of the first transaction end in the segment. Unknown when a record straddles in whose beginning is missing,
    /// and when none was found before the damage.
    pub fn first_time(&self) -> EndTime {
        match self.first_end {
            _ if self.end.head_unknown => EndTime::Unknown,
            Some(time) => EndTime::At(time),
            None if self.is_tail_unknown() => EndTime::Unknown,
            None => EndTime::None,
        }
    }

    /// Latest time of a transaction end in the segment. Unknown when part of the segment is damaged, and when the only record
    /// that may be one straddles in with its beginning missing. (With such a record and others the time is that of the others.)
    pub fn latest_time(&self) -> EndTime {
        match self.latest_end {
            _ if self.is_tail_unknown() => EndTime::Unknown,
            Some(time) => EndTime::At(time),
            None if self.end.head_unknown => EndTime::Unknown,
            None => EndTime::None,
        }
    }

    /// Whether records may stand where the reading stopped: anything but untouched or recycled space.
    fn is_tail_unknown(&self) -> bool {
        match self.end.stop {
            Stop::SegmentEnd => false,
            Stop::Damaged { .. } => true,
            Stop::EndOfLog { fault, .. } => !matches!(fault, Fault::Empty | Fault::NoMoreBytes | Fault::Page { .. }),
        }
    }
}

/// Calls `visit` with every record that ends in the segment, in order, and what it means.
///
/// `bytes` is the whole segment or its beginning. The visitor ends the scan early with [`ControlFlow::Break`], whose value is returned.
/// To go on with the next segment, hand it the returned [`SegmentEnd::carry`].
///
/// # Errors
/// Those of [`SegmentReader::new`] and [`Event::decode`]. The end of the log, and damage, are no errors: see [`SegmentEnd::stop`].
pub fn scan<B>(
    segment: Segment,
    size: SegmentSize,
    bytes: &[u8],
    carry_in: &Carry,
    mut visit: impl FnMut(&Record<'_>, &Event) -> ControlFlow<B>,
) -> Result<ControlFlow<B, SegmentEnd>, WalError> {
    let mut reader = SegmentReader::new(segment, size, bytes, carry_in.clone())?;
    while let Some(record) = reader.next_record() {
        let event = Event::decode(&record)?;
        if let ControlFlow::Break(found) = visit(&record, &event) {
            return Ok(ControlFlow::Break(found));
        }
    }
    Ok(ControlFlow::Continue(reader.finish()))
}

/// Summarises `bytes`, the whole of `segment` or its beginning, given what the segment before handed on.
///
/// # Errors
/// Those of [`scan`].
pub fn summarise(segment: Segment, size: SegmentSize, bytes: &[u8], carry_in: &Carry) -> Result<SegmentSummary, WalError> {
    summarise_with(segment, size, bytes, carry_in, |_| {})
}

/// [`summarise`] that shows `visit` every record that ends in the segment, in order.
///
/// # Errors
/// Those of [`scan`].
pub fn summarise_with(
    segment: Segment,
    size: SegmentSize,
    bytes: &[u8],
    carry_in: &Carry,
    mut visit: impl FnMut(&Record<'_>),
) -> Result<SegmentSummary, WalError> {
    let mut reader = SegmentReader::new(segment, size, bytes, carry_in.clone())?;
    let mut tally = Tally::default();
    while let Some(record) = reader.next_record() {
        tally.note(&Event::decode(&record)?);
        visit(&record);
    }
    let header = reader.header();
    let Tally { first_end, latest_end, commits, prepares, latest_evidence } = tally;
    Ok(SegmentSummary { header, first_end, latest_end, commits, prepares, latest_evidence, end: reader.finish() })
}

/// What is counted while a segment is read.
#[derive(Default)]
struct Tally {
    first_end: Option<Timestamp>,
    latest_end: Option<Timestamp>,
    commits: u64,
    prepares: u64,
    latest_evidence: Option<Timestamp>,
}

impl Tally {
    fn note(&mut self, event: &Event) {
        self.latest_evidence = self.latest_evidence.max(event.time());
        match event {
            Event::TransactionEnd(end) => {
                self.first_end = self.first_end.or(Some(end.time));
                self.latest_end = self.latest_end.max(Some(end.time));
                self.commits += u64::from(end.kind.is_commit());
            }
            Event::Prepare(_) => self.prepares += 1,
            _ => {}
        }
    }
}
