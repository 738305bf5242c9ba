//! The records of one segment, in order.
//!
//! Follows `XLogDecodeNextRecord` of PostgreSQL's `xlogreader.c`: what it would not accept as a record ends the reading here too.
//! Where later pages of the segment still carry the right addresses, the reading did not end, something is damaged;
//! recycled segments and segments filled with zeros have none. One false alarm remains: in the segment a server was writing
//! when its machine crashed, later pages may have reached the disk and earlier ones not. A caller who reads such a segment,
//! not one from an archive, takes [`Stop::Damaged`] for the end of the log, as the server does.

use crate::base::{Lsn, Segment, SegmentSize, TimelineId};

use super::bytes::u32_at;
use super::carry::{Carry, Partial};
use super::error::{Fault, WalError};
use super::page::{FIRST_IS_OVERWRITE, LONG_HEADER_BYTES, PageHeader, SegmentHeader, WAL_PAGE_BYTES};
use super::record::{RECORD_HEADER_BYTES, Record, RecordHeader, check_length};

/// Where the reading of a segment ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// At the segment's last byte: all of it is valid.
    SegmentEnd,
    /// No record begins, or none is completed, at `at`, and no valid page follows: the log ends here.
    EndOfLog {
        /// Start of the record that is missing or incomplete.
        at: Lsn,
        /// What stands in its place.
        fault: Fault,
    },
    /// No record could be read at `at` although valid pages follow.
    Damaged {
        /// Start of the record that could not be read.
        at: Lsn,
        /// What is wrong with it.
        fault: Fault,
    },
}

/// A complete record's position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordSpan {
    /// First byte of its header.
    pub start: Lsn,
    /// One past its end (see [`Record::end`]).
    pub end: Lsn,
}

/// What is known once a segment has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentEnd {
    /// Where and why the reading ended.
    pub stop: Stop,
    /// The last complete record that ends in this segment.
    pub last_record: Option<RecordSpan>,
    /// End of the valid log: the segment's end, or the start of the record that could not be read, which may lie in the segment before.
    pub valid_end: Lsn,
    /// A record straddles in, and its beginning is not known: it could not be read.
    pub head_unknown: bool,
    /// For the next segment; [`Carry::Unknown`] unless the reading got to the segment's end.
    pub carry: Carry,
}

/// Reads the records that end in one segment.
///
/// ```text
/// let mut reader = SegmentReader::new(segment, size, bytes, Carry::Unknown)?;
/// while let Some(record) = reader.next_record() { … }
/// let end = reader.finish();
/// ```
pub struct SegmentReader<'a> {
    segment: Segment,
    size: SegmentSize,
    bytes: &'a [u8],
    header: SegmentHeader,
    /// Next byte to read, within the segment: a multiple of 8, or just after a page header.
    offset: usize,
    /// Timeline of the last page seen.
    timeline: TimelineId,
    /// Start of the last complete record, in this segment or the one before.
    previous: Option<Lsn>,
    last_record: Option<RecordSpan>,
    pending: Pending,
    /// Memory of the last record that had to be put together, to be used again.
    assembled: Vec<u8>,
    head_unknown: bool,
    stopped: Option<(Stop, Lsn)>,
}

/// A record that goes on in the page at `offset`.
enum Pending {
    None,
    /// With its beginning.
    Record(Partial),
    /// Without: so many bytes are to be skipped.
    Headless {
        start: Lsn,
        missing_bytes: u32,
    },
}

/// A complete record, and where its bytes are.
struct Found {
    header: RecordHeader,
    span: RecordSpan,
    /// Its body's range in the segment; `None` when it was put together in `assembled`.
    in_place: Option<(usize, usize)>,
}

/// Reading cannot go on at the record that starts at `at`.
struct Halt {
    at: Lsn,
    fault: Fault,
}

impl<'a> SegmentReader<'a> {
    /// Begins to read `bytes`, the whole of `segment` or its beginning.
    ///
    /// # Errors
    /// [`WalError::Length`] and [`WalError::Header`] when the bytes are not this segment of a PostgreSQL 13 to 18 log with segments of `size`;
    /// [`WalError::CarryMismatch`] when the segment does not go on where `carry` ends.
    pub fn new(segment: Segment, size: SegmentSize, bytes: &'a [u8], carry: Carry) -> Result<Self, WalError> {
        let position = segment.start(size);
        if bytes.len() as u64 > size.bytes() || bytes.len() < LONG_HEADER_BYTES {
            let expected = format!("{LONG_HEADER_BYTES} to {}", size.bytes());
            return Err(WalError::Length { position, found_bytes: bytes.len(), expected });
        }
        let header = SegmentHeader::parse(bytes)?;
        header.check(segment, size)?;
        let (previous, pending) = begin(&header, carry)?;
        Ok(Self {
            segment,
            size,
            bytes,
            header,
            offset: if matches!(pending, Pending::None) { LONG_HEADER_BYTES } else { 0 },
            timeline: header.timeline,
            previous,
            last_record: None,
            head_unknown: matches!(pending, Pending::Headless { .. }),
            pending,
            assembled: Vec::new(),
            stopped: None,
        })
    }

    /// The segment's header.
    pub fn header(&self) -> SegmentHeader {
        self.header
    }

    /// The next record that ends in this segment, its checksum verified; `None` at the end, whatever ended it.
    pub fn next_record(&mut self) -> Option<Record<'_>> {
        let found = loop {
            if self.stopped.is_some() {
                return None;
            }
            let step = match std::mem::replace(&mut self.pending, Pending::None) {
                Pending::Record(partial) => self.continue_record(partial),
                Pending::Headless { start, missing_bytes } => self.skip_headless(start, missing_bytes).map(|()| None),
                Pending::None => self.begin_record(),
            };
            match step {
                Ok(Some(found)) => break found,
                Ok(None) => {}
                Err(halt) => self.stop(halt),
            }
        };
        self.previous = Some(found.span.start);
        self.last_record = Some(found.span);
        let body = match found.in_place {
            Some((from, to)) => &self.bytes[from..to],
            None => &self.assembled[RECORD_HEADER_BYTES..],
        };
        Some(found.header.record(found.span.start, found.span.end, self.header.major_version, body))
    }

    /// What was found, once [`SegmentReader::next_record`] has returned `None`; before, the rest is read first.
    pub fn finish(mut self) -> SegmentEnd {
        while self.next_record().is_some() {}
        let boundary = self.segment.end(self.size);
        let (stop, valid_end) = self.stopped.unwrap_or((Stop::SegmentEnd, boundary));
        let (system_identifier, last_record) = (self.header.system_identifier, self.previous);
        let carry = match (stop, self.pending) {
            (Stop::SegmentEnd, Pending::None) => Carry::Nothing { boundary, system_identifier, last_record },
            (Stop::SegmentEnd, Pending::Record(partial)) => Carry::Partial { boundary, system_identifier, last_record, partial },
            _ => Carry::Unknown,
        };
        SegmentEnd { stop, last_record: self.last_record, valid_end, head_unknown: self.head_unknown, carry }
    }

    /// Reads the record at `offset`, or the beginning of it that is on this page.
    fn begin_record(&mut self) -> Result<Option<Found>, Halt> {
        if self.at_segment_end() {
            return Ok(None);
        }
        if self.offset.is_multiple_of(WAL_PAGE_BYTES) {
            let at = self.lsn(self.offset);
            let page = self.page(self.offset, at)?;
            if page.continued_bytes() > 0 {
                let fault = Fault::Continuation { page: at, found_bytes: page.continued_bytes(), expected_bytes: 0 };
                return Err(Halt { at, fault });
            }
            self.offset += page.length();
        }
        let (from, at) = (self.offset, self.lsn(self.offset));
        let halt = |fault| Halt { at, fault };
        let length = u32_at(self.bytes, from).ok_or(Fault::NoMoreBytes).and_then(check_length).map_err(halt)?;
        let room = WAL_PAGE_BYTES - from % WAL_PAGE_BYTES;
        if self.bytes.len() < from + room.min(length as usize) {
            let header = RecordHeader::parse(&self.bytes[from..]);
            let checked = header.map_or(Ok(()), |header| header.check(at, self.previous, self.header.major_version));
            return Err(halt(checked.err().unwrap_or(Fault::NoMoreBytes)));
        }
        if length as usize > room {
            let piece = &self.bytes[from..from + room];
            let mut partial = Partial::begin(at, length, std::mem::take(&mut self.assembled));
            partial.push(piece);
            self.check_header(&partial)?;
            self.offset = from + room;
            self.pending = Pending::Record(partial);
            return Ok(None);
        }
        let to = from + length as usize;
        let record = &self.bytes[from..to];
        let header = RecordHeader::parse(record).ok_or(halt(Fault::RecordLength(length)))?;
        header.check(at, self.previous, self.header.major_version).map_err(halt)?;
        header.check_checksum(crc32c::crc32c(&record[RECORD_HEADER_BYTES..]), record).map_err(halt)?;
        let end = self.end_record(to, &header);
        Ok(Some(Found { header, span: RecordSpan { start: at, end }, in_place: Some((from + RECORD_HEADER_BYTES, to)) }))
    }

    /// Reads what the page at `offset` holds of a record begun before.
    fn continue_record(&mut self, mut partial: Partial) -> Result<Option<Found>, Halt> {
        if self.at_segment_end() {
            self.pending = Pending::Record(partial);
            return Ok(None);
        }
        let at = partial.start;
        let Some((from, to)) = self.continuation(at, partial.missing_bytes())? else {
            return Ok(None);
        };
        partial.push(&self.bytes[from..to]);
        self.check_header(&partial)?;
        if partial.missing_bytes() > 0 {
            self.offset = to;
            self.pending = Pending::Record(partial);
            return Ok(None);
        }
        let halt = |fault| Halt { at, fault };
        let header = partial.header().ok_or(halt(Fault::RecordLength(partial.total_length)))?;
        header.check_checksum(partial.body_checksum, &partial.kept).map_err(halt)?;
        self.assembled = partial.kept;
        let end = self.end_record(to, &header);
        Ok(Some(Found { header, span: RecordSpan { start: at, end }, in_place: None }))
    }

    /// Passes over what the page at `offset` holds of a record whose beginning is not known.
    fn skip_headless(&mut self, start: Lsn, missing_bytes: u32) -> Result<(), Halt> {
        if self.at_segment_end() {
            self.pending = Pending::Headless { start, missing_bytes };
            return Ok(());
        }
        if let Some((from, to)) = self.continuation(start, missing_bytes)? {
            let missing_bytes = missing_bytes - (to - from) as u32;
            if missing_bytes > 0 {
                self.offset = to;
                self.pending = Pending::Headless { start, missing_bytes };
            } else {
                self.offset = to.next_multiple_of(8);
            }
        }
        Ok(())
    }

    /// Range, on the page at `offset`, of the record at `at` of which `missing_bytes` are to come;
    /// `None` when the page says that the record was abandoned: then `offset` is where the next one begins.
    fn continuation(&mut self, at: Lsn, missing_bytes: u32) -> Result<Option<(usize, usize)>, Halt> {
        let page_start = self.offset;
        let page = self.page(page_start, at)?;
        if page.flags & FIRST_IS_OVERWRITE != 0 {
            self.offset = page_start + page.length();
            return Ok(None);
        }
        if page.continued_bytes() != missing_bytes {
            let page_lsn = self.lsn(page_start);
            let fault =
                Fault::Continuation { page: page_lsn, found_bytes: page.continued_bytes(), expected_bytes: missing_bytes };
            return Err(Halt { at, fault });
        }
        let from = page_start + page.length();
        let to = (page_start + WAL_PAGE_BYTES).min(from + missing_bytes as usize);
        if to > self.bytes.len() {
            return Err(Halt { at, fault: Fault::NoMoreBytes });
        }
        Ok(Some((from, to)))
    }

    /// The checked header of the page at `offset`, needed for the record at `at`.
    fn page(&mut self, offset: usize, at: Lsn) -> Result<PageHeader, Halt> {
        let page = PageHeader::parse(self.bytes, offset).ok_or(Halt { at, fault: Fault::NoMoreBytes })?;
        let timelines = (self.timeline, self.segment.timeline);
        page.check(self.lsn(offset), offset == 0, self.header.magic(), timelines).map_err(|fault| Halt { at, fault })?;
        self.timeline = page.timeline;
        Ok(page)
    }

    /// Checks a record's header as soon as it has been received.
    fn check_header(&self, partial: &Partial) -> Result<(), Halt> {
        let Some(header) = partial.header() else { return Ok(()) };
        let checked = header.check(partial.start, self.previous, self.header.major_version);
        checked.map_err(|fault| Halt { at: partial.start, fault })
    }

    /// Moves past a record whose last byte is before `to`; returns its end.
    fn end_record(&mut self, to: usize, header: &RecordHeader) -> Lsn {
        self.offset = if header.is_switch() { self.size.bytes() as usize } else { to.next_multiple_of(8) };
        self.lsn(self.offset)
    }

    fn at_segment_end(&mut self) -> bool {
        let ended = self.offset as u64 >= self.size.bytes();
        if ended {
            self.stopped = Some((Stop::SegmentEnd, self.segment.end(self.size)));
        }
        ended
    }

    fn stop(&mut self, Halt { at, fault }: Halt) {
        let stop = if self.valid_page_follows() { Stop::Damaged { at, fault } } else { Stop::EndOfLog { at, fault } };
        self.stopped = Some((stop, at));
    }

    /// Whether any page after the one at `offset` belongs to this segment's log.
    fn valid_page_follows(&self) -> bool {
        let first = (self.offset / WAL_PAGE_BYTES + 1) * WAL_PAGE_BYTES;
        (first..self.bytes.len()).step_by(WAL_PAGE_BYTES).any(|offset| {
            let timelines = (self.timeline, self.segment.timeline);
            PageHeader::parse(self.bytes, offset)
                .is_some_and(|page| page.check(self.lsn(offset), false, self.header.magic(), timelines).is_ok())
        })
    }

    fn lsn(&self, offset: usize) -> Lsn {
        self.segment.start(self.size).plus(offset as u64)
    }
}

/// What is under way at a segment's first byte, and the start of the last complete record before it.
fn begin(header: &SegmentHeader, carry: Carry) -> Result<(Option<Lsn>, Pending), WalError> {
    let position = header.start;
    let mismatch = |found: String, expected: String| Err(WalError::CarryMismatch { position, found, expected });
    if let Carry::Nothing { boundary, system_identifier, .. } | Carry::Partial { boundary, system_identifier, .. } = &carry
        && (*boundary, *system_identifier) != (position, header.system_identifier)
    {
        let found = format!("system identifier {}", header.system_identifier);
        return mismatch(found, format!("position {boundary}, system identifier {system_identifier}"));
    }
    let found = || match header.overwrites_continuation {
        true => "the mark of an abandoned record".to_string(),
        false => format!("{} bytes of a continued record", header.continued_bytes),
    };
    match carry {
        Carry::Unknown if header.continued_bytes > 0 => {
            Ok((None, Pending::Headless { start: position, missing_bytes: header.continued_bytes }))
        }
        Carry::Unknown => Ok((None, Pending::None)),
        Carry::Nothing { last_record, .. } if header.continued_bytes == 0 && !header.overwrites_continuation => {
            Ok((last_record, Pending::None))
        }
        Carry::Nothing { .. } => mismatch(found(), "0 bytes of a continued record".into()),
        Carry::Partial { last_record, .. } if header.overwrites_continuation => Ok((last_record, Pending::None)),
        Carry::Partial { last_record, partial, .. } if header.continued_bytes == partial.missing_bytes() => {
            Ok((last_record, Pending::Record(partial)))
        }
        Carry::Partial { partial, .. } => {
            mismatch(found(), format!("{} bytes of the record at {}", partial.missing_bytes(), partial.start))
        }
    }
}
