//! A log made by hand, for tests that need one without a server: written as `CopyXLogRecordToWAL` of PostgreSQL's `xlog.c` does.

use crate::base::{Lsn, Segment, SegmentSize, TimelineId};

use super::event::XLOG_SWITCH;
use super::page::{
    FIRST_IS_CONTINUATION, FIRST_IS_OVERWRITE, LONG_HEADER, LONG_HEADER_BYTES, SHORT_HEADER_BYTES, WAL_PAGE_BYTES,
};
use super::record::RECORD_HEADER_BYTES;
use super::{Relation, resource_manager};

pub const SYSTEM_IDENTIFIER: u64 = 7_312_345_678_901_234_567;

/// A record's position and where its bytes lie in the log, page headers left out.
#[derive(Clone, Debug)]
pub struct Written {
    pub start: Lsn,
    pub end: Lsn,
    pub ranges: Vec<std::ops::Range<usize>>,
}

/// A log that begins with a segment.
#[derive(Clone)]
pub struct Log {
    pub first: Segment,
    pub size: SegmentSize,
    pub bytes: Vec<u8>,
    pub timeline: TimelineId,
    magic: u16,
    previous: Lsn,
    /// Flag for the next page that is begun.
    overwrite_next: bool,
}

impl Log {
    /// An empty log of version 15 with segments of 1 MiB, beginning at segment 3 of timeline 1.
    pub fn new() -> Self {
        let first = Segment { timeline: TimelineId(1), number: 3 };
        let size = SegmentSize::new(1 << 20).unwrap();
        let timeline = first.timeline;
        Self { first, size, bytes: Vec::new(), timeline, magic: 0xD110, previous: Lsn(8), overwrite_next: false }
    }

    /// As [`Log::new`], of the version with this magic number.
    pub fn of_version(magic: u16) -> Self {
        Self { magic, ..Self::new() }
    }

    pub fn lsn(&self, offset: usize) -> Lsn {
        self.first.start(self.size).plus(offset as u64)
    }

    fn page_header(&mut self, continued_bytes: usize) {
        let offset = self.bytes.len();
        assert!(offset.is_multiple_of(WAL_PAGE_BYTES));
        let long = (offset as u64).is_multiple_of(self.size.bytes());
        let mut flags = if long { LONG_HEADER } else { 0 };
        if continued_bytes > 0 {
            flags |= FIRST_IS_CONTINUATION;
        }
        if std::mem::take(&mut self.overwrite_next) {
            flags |= FIRST_IS_OVERWRITE;
        }
        let address = self.lsn(offset).0;
        self.bytes.extend_from_slice(&self.magic.to_le_bytes());
        self.bytes.extend_from_slice(&flags.to_le_bytes());
        self.bytes.extend_from_slice(&self.timeline.0.to_le_bytes());
        self.bytes.extend_from_slice(&address.to_le_bytes());
        self.bytes.extend_from_slice(&(continued_bytes as u32).to_le_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        if long {
            self.bytes.extend_from_slice(&SYSTEM_IDENTIFIER.to_le_bytes());
            self.bytes.extend_from_slice(&(self.size.bytes() as u32).to_le_bytes());
            self.bytes.extend_from_slice(&(WAL_PAGE_BYTES as u32).to_le_bytes());
        }
        assert_eq!(self.bytes.len() - offset, if long { LONG_HEADER_BYTES } else { SHORT_HEADER_BYTES });
    }

    /// Appends a record with the given body as it is.
    pub fn append_raw(&mut self, resource_manager: u8, info: u8, xid: u32, body: &[u8]) -> Written {
        let mut record = Vec::with_capacity(RECORD_HEADER_BYTES + body.len());
        record.extend_from_slice(&((RECORD_HEADER_BYTES + body.len()) as u32).to_le_bytes());
        record.extend_from_slice(&xid.to_le_bytes());
        record.extend_from_slice(&self.previous.0.to_le_bytes());
        record.extend_from_slice(&[info, resource_manager, 0, 0]);
        let checksum = crc32c::crc32c_append(crc32c::crc32c(body), &record);
        record.extend_from_slice(&checksum.to_le_bytes());
        record.extend_from_slice(body);
        if self.bytes.len().is_multiple_of(WAL_PAGE_BYTES) {
            self.page_header(0);
        }
        let start = self.lsn(self.bytes.len());
        let mut ranges = Vec::new();
        let mut rest = record.as_slice();
        while !rest.is_empty() {
            if self.bytes.len().is_multiple_of(WAL_PAGE_BYTES) {
                self.page_header(rest.len());
            }
            let from = self.bytes.len();
            let (piece, later) = rest.split_at(rest.len().min(WAL_PAGE_BYTES - from % WAL_PAGE_BYTES));
            self.bytes.extend_from_slice(piece);
            ranges.push(from..self.bytes.len());
            rest = later;
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        self.previous = start;
        Written { start, end: self.lsn(self.bytes.len()), ranges }
    }

    /// Appends a record whose body is nothing but main data.
    pub fn append(&mut self, resource_manager: u8, info: u8, xid: u32, main_data: &[u8]) -> Written {
        self.append_raw(resource_manager, info, xid, &main_data_body(main_data))
    }

    /// Appends a COMMIT at a time in microseconds since 2000.
    pub fn commit(&mut self, xid: u32, micros: i64) -> Written {
        self.append(resource_manager::TRANSACTION, 0x00, xid, &micros.to_le_bytes())
    }

    /// Appends a restore point at a time in microseconds since 2000.
    pub fn restore_point(&mut self, name: &str, micros: i64) -> Written {
        let mut data = [&micros.to_le_bytes()[..], name.as_bytes()].concat();
        data.resize(8 + 64, 0);
        self.append(resource_manager::XLOG, 0x70, 0, &data)
    }

    /// Ends the segment with a switch record and its padding.
    pub fn switch(&mut self) -> Written {
        let switch = self.append_raw(resource_manager::XLOG, XLOG_SWITCH, 0, &[]);
        let filled = self.bytes.len().next_multiple_of(self.size.bytes() as usize);
        self.bytes.resize(filled, 0);
        switch
    }

    /// The log of a new timeline that leaves this one at `offset`, a record's end; the record before it starts at `previous`.
    pub fn branch(&self, timeline: TimelineId, offset: usize, previous: Lsn) -> Self {
        let bytes = self.bytes[..offset].to_vec();
        Self { bytes, timeline, previous, overwrite_next: false, ..self.clone() }
    }

    /// Cuts the log off after `offset`, a page's start, as a crash in the middle of the record at `start` does:
    /// the next record takes that page, and links to `previous`.
    pub fn abandon(&mut self, offset: usize, previous: Lsn) {
        assert!(offset.is_multiple_of(WAL_PAGE_BYTES));
        self.bytes.truncate(offset);
        self.previous = previous;
        self.overwrite_next = true;
    }

    /// The log's segments, the last one filled up with zeros.
    pub fn segments(&self) -> Vec<(Segment, Vec<u8>)> {
        let size_bytes = self.size.bytes() as usize;
        let cut = self.bytes.chunks(size_bytes).enumerate();
        cut.map(|(index, chunk)| {
            let mut bytes = chunk.to_vec();
            bytes.resize(size_bytes, 0);
            (Segment { number: self.first.number + index as u64, ..self.first }, bytes)
        })
        .collect()
    }
}

/// The body of a record that refers to these pages, each with its flags (no data, no image), and has main data.
pub fn body_with_pages(pages: &[(u8, Relation, u32)], main_data: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for (id, (flags, relation, block)) in pages.iter().enumerate() {
        body.extend_from_slice(&[id as u8, *flags, 0, 0]);
        let numbers = [relation.tablespace, relation.database, relation.file_node, *block];
        body.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    }
    [body, main_data_body(main_data)].concat()
}

/// The body of a record that has nothing but main data.
pub fn main_data_body(main_data: &[u8]) -> Vec<u8> {
    let mut body = match u8::try_from(main_data.len()) {
        _ if main_data.is_empty() => Vec::new(),
        Ok(length) => vec![255, length],
        Err(_) => [&[254][..], &(main_data.len() as u32).to_le_bytes()].concat(),
    };
    body.extend_from_slice(main_data);
    body
}
