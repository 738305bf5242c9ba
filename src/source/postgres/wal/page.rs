//! Page headers, and the header of a segment's first page, which says whose log this is.
//!
//! Short header, 24 bytes: magic u16, flags u16, timeline u32, page address u64, bytes of continuation u32, 4 unused.
//! Long header, 40 bytes, on a segment's first page only: the short one, system identifier u64, segment size u32, page size u32.
//! Source: PostgreSQL `src/include/access/xlog_internal.h` (`XLogPageHeaderData`, `XLogLongPageHeaderData`).

use crate::base::{Lsn, Segment, SegmentSize, TimelineId};

use super::bytes::{u16_at, u32_at, u64_at};
use super::error::{Fault, WalError};

/// Size of a WAL page, in bytes: `XLOG_BLCKSZ`'s default, the only one supported.
pub const WAL_PAGE_BYTES: usize = 8192;
/// Size of an ordinary page header, in bytes.
pub const SHORT_HEADER_BYTES: usize = 24;
/// Size of the header of a segment's first page, in bytes.
pub const LONG_HEADER_BYTES: usize = 40;

/// The page begins with the rest of a record.
pub(super) const FIRST_IS_CONTINUATION: u16 = 0x0001;
/// The header is a long one.
pub(super) const LONG_HEADER: u16 = 0x0002;
/// The rest of the record begun before was never written; a new record takes its place.
pub(super) const FIRST_IS_OVERWRITE: u16 = 0x0008;
/// The fourth flag, 0004, says that page images here are optional (`XLP_BKP_REMOVABLE`): of no interest, but often set.
const ALL_FLAGS: u16 = 0x000F;

/// `XLOG_PAGE_MAGIC` of each supported major version.
const MAGICS: [(u16, u16); 6] = [(0xD106, 13), (0xD10D, 14), (0xD110, 15), (0xD113, 16), (0xD116, 17), (0xD118, 18)];

/// What the first page of a segment says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Major version of the server that wrote it, 13 to 18.
    pub major_version: u16,
    /// Timeline of the first page. Older than the one in the file's name when the segment begins with a copy from the parent timeline.
    pub timeline: TimelineId,
    /// Address of the first page: the segment's start.
    pub start: Lsn,
    /// The cluster's system identifier.
    pub system_identifier: u64,
    /// The cluster's segment size.
    pub segment_size: SegmentSize,
    /// Bytes of a record that straddles in; 0 when the segment begins with a record of its own.
    pub continued_bytes: u32,
    /// The record that straddled out of the segment before was abandoned in a crash.
    pub overwrites_continuation: bool,
}

impl SegmentHeader {
    /// Parses the first 40 bytes of a segment.
    ///
    /// # Errors
    /// [`WalError::Length`] for fewer bytes; [`WalError::Header`] when they are no long page header of PostgreSQL 13 to 18,
    /// or one with a page size other than 8 KiB.
    pub fn parse(bytes: &[u8]) -> Result<Self, WalError> {
        let page = PageHeader::parse(bytes, 0).filter(|_| bytes.len() >= LONG_HEADER_BYTES).ok_or(WalError::Length {
            position: Lsn(0),
            found_bytes: bytes.len(),
            expected: format!("at least {LONG_HEADER_BYTES}"),
        })?;
        let refuse = |what, found: String, expected: String| WalError::Header { position: page.address, what, found, expected };
        let major_version = MAGICS.iter().find(|(magic, _)| *magic == page.magic).map(|(_, major)| *major).ok_or_else(|| {
            refuse("magic number", format!("{:04X}", page.magic), "that of PostgreSQL 13 to 18 (D106 to D118)".into())
        })?;
        if page.flags & !ALL_FLAGS != 0 || page.flags & LONG_HEADER == 0 {
            return Err(refuse("flags", format!("{:04X}", page.flags), "a long page header (0002)".into()));
        }
        if page.timeline.0 == 0 {
            return Err(refuse("timeline", "0".into(), "1 or more".into()));
        }
        let (system_identifier, size_bytes, page_bytes) = u64_at(bytes, 24)
            .zip(u32_at(bytes, 32))
            .zip(u32_at(bytes, 36))
            .map(|((id, size), page)| (id, size, page))
            .unwrap_or_default();
        let segment_size = SegmentSize::new(size_bytes)
            .ok_or_else(|| refuse("segment size", format!("{size_bytes} bytes"), "a power of two from 1 MiB to 1 GiB".into()))?;
        if page_bytes as usize != WAL_PAGE_BYTES {
            let expected = format!("{WAL_PAGE_BYTES} bytes (servers built with another WAL block size are not supported)");
            return Err(refuse("page size", format!("{page_bytes} bytes"), expected));
        }
        if !page.address.0.is_multiple_of(segment_size.bytes()) {
            return Err(refuse("page address", page.address.to_string(), "a segment's start".into()));
        }
        Ok(Self {
            major_version,
            timeline: page.timeline,
            start: page.address,
            system_identifier,
            segment_size,
            continued_bytes: page.continued_bytes(),
            overwrites_continuation: page.flags & FIRST_IS_OVERWRITE != 0,
        })
    }

    /// Checks that this is the header of `segment` in a log with segments of `size`.
    ///
    /// # Errors
    /// [`WalError::Header`] when size or address differ, or the page's timeline is younger than the segment's.
    pub fn check(&self, segment: Segment, size: SegmentSize) -> Result<(), WalError> {
        let position = segment.start(size);
        let refuse = |what, found: String, expected: String| Err(WalError::Header { position, what, found, expected });
        if self.segment_size != size {
            return refuse("segment size", format!("{} bytes", self.segment_size.bytes()), format!("{} bytes", size.bytes()));
        }
        if self.start != position {
            return refuse("page address", self.start.to_string(), position.to_string());
        }
        if self.timeline > segment.timeline {
            return refuse("timeline", self.timeline.to_string(), format!("at most {}", segment.timeline));
        }
        Ok(())
    }

    /// The magic number of the version's pages.
    pub(super) fn magic(&self) -> u16 {
        MAGICS.iter().find(|(_, major)| *major == self.major_version).map_or(0, |(magic, _)| *magic)
    }
}

/// The fields that every page header has.
#[derive(Clone, Copy, Debug)]
pub(super) struct PageHeader {
    pub magic: u16,
    pub flags: u16,
    pub timeline: TimelineId,
    pub address: Lsn,
    remaining_bytes: u32,
}

impl PageHeader {
    /// Reads the header at byte `at`; `None` when the bytes end within it.
    pub fn parse(bytes: &[u8], at: usize) -> Option<Self> {
        let bytes = bytes.get(at..at.checked_add(SHORT_HEADER_BYTES)?)?;
        Some(Self {
            magic: u16_at(bytes, 0)?,
            flags: u16_at(bytes, 2)?,
            timeline: TimelineId(u32_at(bytes, 4)?),
            address: Lsn(u64_at(bytes, 8)?),
            remaining_bytes: u32_at(bytes, 16)?,
        })
    }

    /// Bytes of the record that is continued here; 0 when none is.
    pub fn continued_bytes(&self) -> u32 {
        if self.flags & FIRST_IS_CONTINUATION != 0 { self.remaining_bytes } else { 0 }
    }

    /// Size of this header in bytes.
    pub fn length(&self) -> usize {
        if self.flags & LONG_HEADER != 0 { LONG_HEADER_BYTES } else { SHORT_HEADER_BYTES }
    }

    /// Checks the header against what must stand at `page`; timelines may only grow, up to the segment's.
    pub fn check(&self, page: Lsn, first: bool, magic: u16, timelines: (TimelineId, TimelineId)) -> Result<(), Fault> {
        let wrong = |what, found: u64, expected: u64| Err(Fault::Page { page, what, found, expected });
        if self.magic != magic {
            return wrong("magic number", self.magic.into(), magic.into());
        }
        if self.address != page {
            return wrong("address", self.address.0, page.0);
        }
        let long = if first { LONG_HEADER } else { 0 };
        if self.flags & !ALL_FLAGS != 0 || self.flags & LONG_HEADER != long {
            return wrong("flags", self.flags.into(), long.into());
        }
        let (oldest, youngest) = timelines;
        if self.timeline < oldest || self.timeline > youngest {
            return wrong("timeline", self.timeline.0.into(), youngest.0.into());
        }
        Ok(())
    }
}
