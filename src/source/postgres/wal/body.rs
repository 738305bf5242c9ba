//! A record's body: a list of small headers, then the data they describe in the same order, main data last.
//!
//! Source: PostgreSQL `src/include/access/xlogrecord.h` and `DecodeXLogRecord` in `xlogreader.c`, whose checks are made
//! here too. Nothing is copied: a [`Body`] is read again each time its blocks are walked.

use std::fmt;

use crate::source::Fork;

use super::bytes::{u16_at, u32_at};
use super::error::WalError;
use super::page::WAL_PAGE_BYTES;
use super::record::{RECORD_HEADER_BYTES, Record};

const MAX_BLOCK_ID: u8 = 32;
const TOP_LEVEL_XID: u8 = 252;
const ORIGIN: u8 = 253;
const MAIN_DATA_LONG: u8 = 254;
pub(super) const MAIN_DATA_SHORT: u8 = 255;

const BLOCK_FORK_MASK: u8 = 0x0F;
const BLOCK_HAS_IMAGE: u8 = 0x10;
const BLOCK_HAS_DATA: u8 = 0x20;
const BLOCK_WILL_INIT: u8 = 0x40;
const BLOCK_SAME_RELATION: u8 = 0x80;
const IMAGE_HAS_HOLE: u8 = 0x01;

/// A page of a relation. Servers with other pages are refused (see the control file).
const PAGE_BYTES: u16 = WAL_PAGE_BYTES as u16;
/// Where a page's header says at which byte its special space begins (`pd_special`).
const PAGE_SPECIAL_AT: usize = 16;

/// A relation's files: what PostgreSQL calls `RelFileNode`, from 16 on `RelFileLocator`. Shown as `1663/5/16384`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Relation {
    /// The tablespace's id.
    pub tablespace: u32,
    /// The database's id; 0 for what all databases share.
    pub database: u32,
    /// The number its files are named by: at first the relation's own id, another one after each rewrite.
    pub file_node: u32,
}

impl Relation {
    /// The first number that a relation of a user can have; below are those that `initdb` made (`FirstNormalObjectId`).
    pub const FIRST_OF_USERS: u32 = 16384;

    /// Whether `initdb` made its files: a system catalogue that was never rewritten, or an index of one.
    pub fn is_from_initdb(self) -> bool {
        self.file_node < Self::FIRST_OF_USERS
    }
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.tablespace, self.database, self.file_node)
    }
}

/// A page that a record refers to: it changes it, or its replay needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRef<'a> {
    /// Its number in the record, ascending, not always from 0.
    pub id: u8,
    /// Whose page.
    pub relation: Relation,
    /// Of which fork.
    pub fork: Fork,
    /// The page's number in the fork.
    pub block: u32,
    /// Replay makes the page anew.
    pub initialises: bool,
    /// Length in bytes of what the record holds for this page beside an image.
    pub data_bytes: u16,
    /// The whole page, in the record.
    pub image: Option<Image<'a>>,
}

/// A page in a record, without the hole of zeros in its middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image<'a> {
    /// Length in the record, in bytes.
    pub stored_bytes: u16,
    /// Where the hole begins, in bytes from the page's start.
    pub hole_offset: u16,
    /// The hole's length in bytes; 0 for none.
    pub hole_bytes: u16,
    /// How it is compressed, if it is.
    pub compression: Option<Compression>,
    /// Replay puts it in place; else it is there to be compared.
    pub applied: bool,
    /// As stored. Shorter than `stored_bytes` when the record is not whole.
    pub bytes: &'a [u8],
}

impl Image<'_> {
    /// Length in bytes before compression: a page less its hole.
    pub fn raw_bytes(&self) -> u16 {
        PAGE_BYTES.saturating_sub(self.hole_bytes)
    }

    /// Whether the page ends in the space that index pages have and pages of tables have not; `None` where the image is
    /// compressed or not at hand.
    pub fn has_special_space(&self) -> Option<bool> {
        if self.compression.is_some() || usize::from(self.hole_offset) < PAGE_SPECIAL_AT + 2 && self.hole_bytes > 0 {
            return None;
        }
        // 0 on a page that was never written.
        Some(u16_at(self.bytes, PAGE_SPECIAL_AT)?).filter(|special| *special > 0).map(|special| special < PAGE_BYTES)
    }
}

/// How an image is compressed (`wal_compression`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// PostgreSQL's own.
    Pglz,
    /// LZ4, from 15 on.
    Lz4,
    /// Zstandard, from 15 on.
    Zstd,
    /// These flags name no method, or several, that this version is known to have.
    Unknown(u8),
}

/// A record's body, its headers checked.
#[derive(Clone, Copy, Debug)]
pub struct Body<'a> {
    body: &'a [u8],
    body_bytes: usize,
    headers_bytes: usize,
    main_data_bytes: usize,
    major_version: u16,
    /// The top-level transaction, where the record tells: its first with this subtransaction, with `wal_level = logical`, from 14 on.
    pub top_level_xid: Option<u32>,
    /// Number of the replication origin that the change came from.
    pub origin: Option<u16>,
}

impl<'a> Body<'a> {
    /// Reads the headers of `record`'s body.
    pub(super) fn parse(record: &Record<'a>) -> Result<Self, WalError> {
        let body_bytes = (record.total_length as usize).saturating_sub(RECORD_HEADER_BYTES);
        let mut headers = Headers::new(record.body, body_bytes, record.major_version);
        let mut parsed = Self {
            body: record.body,
            body_bytes,
            headers_bytes: 0,
            main_data_bytes: 0,
            major_version: record.major_version,
            top_level_xid: None,
            origin: None,
        };
        let malformed = |why| record.malformed("body", why, "block and data headers");
        while let Some(header) = headers.next().map_err(malformed)? {
            match header {
                Header::Block(_) => {}
                Header::Origin(origin) => parsed.origin = Some(origin),
                Header::TopLevelXid(xid) => parsed.top_level_xid = Some(xid),
                Header::MainData(bytes) => parsed.main_data_bytes = bytes,
            }
        }
        parsed.headers_bytes = headers.at;
        if headers.at + headers.data_bytes != body_bytes {
            let found = format!("{} + {} bytes of headers and data", headers.at, headers.data_bytes);
            return Err(record.malformed("body", found, format!("{body_bytes} bytes")));
        }
        Ok(parsed)
    }

    /// The pages it refers to, in order.
    pub fn blocks(&self) -> Blocks<'a> {
        let headers = Headers::new(self.body, self.body_bytes, self.major_version);
        Blocks { headers, data_at: self.headers_bytes }
    }

    /// The page with this number in the record.
    pub fn block(&self, id: u8) -> Option<BlockRef<'a>> {
        self.blocks().find(|block| block.id == id)
    }

    /// What the resource manager wrote beside the block references; `None` when the record is not whole.
    pub fn main_data(&self) -> Option<&'a [u8]> {
        self.body.get(self.body_bytes - self.main_data_bytes..self.body_bytes)
    }
}

/// See [`Body::blocks`].
#[derive(Clone, Debug)]
pub struct Blocks<'a> {
    headers: Headers<'a>,
    /// Where the data of the next page begins in the body.
    data_at: usize,
}

impl<'a> Iterator for Blocks<'a> {
    type Item = BlockRef<'a>;

    fn next(&mut self) -> Option<BlockRef<'a>> {
        // The headers were checked when the body was made: none is broken.
        while let Ok(Some(header)) = self.headers.next() {
            let Header::Block(mut block) = header else { continue };
            let from = self.data_at;
            let image_bytes = block.image.map_or(0, |image| usize::from(image.stored_bytes));
            if let Some(image) = &mut block.image {
                let body = self.headers.body;
                image.bytes = &body[from.min(body.len())..(from + image_bytes).min(body.len())];
            }
            self.data_at = from + image_bytes + usize::from(block.data_bytes);
            return Some(block);
        }
        None
    }
}

enum Header<'a> {
    /// Its image without the bytes.
    Block(BlockRef<'a>),
    Origin(u16),
    TopLevelXid(u32),
    MainData(usize),
}

/// Walks the headers of a body.
#[derive(Clone, Debug)]
struct Headers<'a> {
    body: &'a [u8],
    body_bytes: usize,
    major_version: u16,
    /// Where the next header begins.
    at: usize,
    /// What the headers so far announce.
    data_bytes: usize,
    relation: Option<Relation>,
    last_id: Option<u8>,
    ended: bool,
}

const CUT: &str = "a header that ends outside it";

impl<'a> Headers<'a> {
    fn new(body: &'a [u8], body_bytes: usize, major_version: u16) -> Self {
        Self { body, body_bytes, major_version, at: 0, data_bytes: 0, relation: None, last_id: None, ended: false }
    }

    fn next(&mut self) -> Result<Option<Header<'a>>, &'static str> {
        // As xlogreader.c does: the headers end where what is left is just the data announced.
        if self.ended || self.body_bytes <= self.at + self.data_bytes {
            return Ok(None);
        }
        let (at, body) = (self.at, self.body);
        let id = *body.get(at).ok_or(CUT)?;
        match id {
            MAIN_DATA_SHORT => self.main_data(at + 2, body.get(at + 1).map(|length| usize::from(*length))).map(Some),
            MAIN_DATA_LONG => self.main_data(at + 5, u32_at(body, at + 1).map(|length| length as usize)).map(Some),
            ORIGIN => {
                self.at = at + 3;
                u16_at(body, at + 1).map(|origin| Some(Header::Origin(origin))).ok_or(CUT)
            }
            TOP_LEVEL_XID if self.major_version >= 14 => {
                self.at = at + 5;
                u32_at(body, at + 1).map(|xid| Some(Header::TopLevelXid(xid))).ok_or(CUT)
            }
            id if id <= MAX_BLOCK_ID => self.block(id).map(|block| Some(Header::Block(block))),
            _ => Err("a header with an unknown id"),
        }
    }

    /// Main data is always last.
    fn main_data(&mut self, headers_end: usize, length: Option<usize>) -> Result<Header<'a>, &'static str> {
        let length = length.ok_or(CUT)?;
        self.at = headers_end;
        self.data_bytes += length;
        self.ended = true;
        Ok(Header::MainData(length))
    }

    fn block(&mut self, id: u8) -> Result<BlockRef<'a>, &'static str> {
        if self.last_id.is_some_and(|last| id <= last) {
            return Err("a block header out of order");
        }
        let header = self.body.get(self.at..).ok_or(CUT)?;
        let flags = *header.get(1).ok_or(CUT)?;
        let data_bytes = u16_at(header, 2).ok_or(CUT)?;
        if (flags & BLOCK_HAS_DATA != 0) != (data_bytes > 0) {
            return Err("a block header whose flags contradict its length");
        }
        let fork = match flags & BLOCK_FORK_MASK {
            0 => Fork::Main,
            1 => Fork::FreeSpaceMap,
            2 => Fork::VisibilityMap,
            3 => Fork::Init,
            _ => return Err("a block header with an unknown fork"),
        };
        let mut next = 4;
        let image = match flags & BLOCK_HAS_IMAGE != 0 {
            true => Some(image(header, &mut next, self.major_version)?),
            false => None,
        };
        if flags & BLOCK_SAME_RELATION == 0 {
            let number = |at| u32_at(header, at).ok_or(CUT);
            let (tablespace, database, file_node) = (number(next)?, number(next + 4)?, number(next + 8)?);
            self.relation = Some(Relation { tablespace, database, file_node });
            next += 12;
        }
        let relation = self.relation.ok_or("a block header without a relation")?;
        let block = u32_at(header, next).ok_or(CUT)?;
        self.last_id = Some(id);
        self.at += next + 4;
        self.data_bytes += usize::from(data_bytes) + image.map_or(0, |image| usize::from(image.stored_bytes));
        let initialises = flags & BLOCK_WILL_INIT != 0;
        Ok(BlockRef { id, relation, fork, block, initialises, data_bytes, image })
    }
}

/// The image's header at `next`, which moves behind it.
fn image<'a>(header: &[u8], next: &mut usize, major_version: u16) -> Result<Image<'a>, &'static str> {
    let (stored_bytes, hole_offset) = (u16_at(header, *next).ok_or(CUT)?, u16_at(header, *next + 2).ok_or(CUT)?);
    let info = *header.get(*next + 4).ok_or(CUT)?;
    *next += 5;
    let has_hole = info & IMAGE_HAS_HOLE != 0;
    // One flag for compression up to 14, one a method from 15 on.
    let (compressed, applied, method) = match major_version {
        ..=14 => (info & 0x02 != 0, info & 0x04 != 0, Compression::Pglz),
        _ => (info & 0x1C != 0, info & 0x02 != 0, method_since_15(info)),
    };
    let known_flags = if major_version >= 15 { 0x1F } else { 0x07 };
    if info & !known_flags != 0 {
        return Err("a page image with unknown flags");
    }
    let hole_bytes = match (has_hole, compressed) {
        (false, _) => 0,
        (true, false) => PAGE_BYTES.saturating_sub(stored_bytes),
        (true, true) => {
            *next += 2;
            u16_at(header, *next - 2).ok_or(CUT)?
        }
    };
    let whole = stored_bytes == PAGE_BYTES;
    let consistent = match (has_hole, compressed) {
        (true, _) => hole_offset > 0 && hole_bytes > 0 && !whole,
        (false, true) => hole_offset == 0 && !whole,
        (false, false) => hole_offset == 0 && whole,
    };
    if !consistent || u32::from(hole_offset) + u32::from(hole_bytes) > u32::from(PAGE_BYTES) {
        return Err("a page image whose lengths contradict each other");
    }
    let compression = compressed.then_some(method);
    Ok(Image { stored_bytes, hole_offset, hole_bytes, compression, applied, bytes: &[] })
}

fn method_since_15(info: u8) -> Compression {
    match info & 0x1C {
        0x04 => Compression::Pglz,
        0x08 => Compression::Lz4,
        0x10 => Compression::Zstd,
        other => Compression::Unknown(other),
    }
}
