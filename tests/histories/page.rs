//! A page of a relation as bytes, read without the crate's own code: what is judged must not judge itself.
//!
//! Source: PostgreSQL's `bufpage.h`, `itemid.h`; little-endian, 8 KiB pages.

use std::path::Path;

/// Bytes in a page.
pub const PAGE_BYTES: usize = 8192;
/// Bytes of its header.
pub const HEADER_BYTES: usize = 24;
/// `PD_HAS_FREE_LINES`, `PD_PAGE_FULL`: hints.
pub const HINT_FLAGS: u16 = 0x0003;
/// `PD_ALL_VISIBLE`.
pub const ALL_VISIBLE: u16 = 0x0004;

const FLAGS_AT: usize = 10;
const LOWER_AT: usize = 12;
const UPPER_AT: usize = 14;
const SPECIAL_AT: usize = 16;

/// The two bytes at `at`.
pub fn u16_at(page: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([page[at], page[at + 1]])
}

/// The four bytes at `at`.
pub fn u32_at(page: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]])
}

/// Writes two bytes at `at`.
pub fn put_u16(page: &mut [u8], at: usize, value: u16) {
    page[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

/// `pd_lsn`.
pub fn lsn(page: &[u8]) -> u64 {
    u64::from(u32_at(page, 0)) << 32 | u64::from(u32_at(page, 4))
}

/// `pd_flags`.
pub fn flags(page: &[u8]) -> u16 {
    u16_at(page, FLAGS_AT)
}

/// Writes `pd_flags`.
pub fn put_flags(page: &mut [u8], flags: u16) {
    put_u16(page, FLAGS_AT, flags);
}

/// `pd_lower`: where the line pointers end.
pub fn lower(page: &[u8]) -> usize {
    usize::from(u16_at(page, LOWER_AT))
}

/// `pd_upper`: where the tuples begin.
pub fn upper(page: &[u8]) -> usize {
    usize::from(u16_at(page, UPPER_AT))
}

/// `pd_special`: where the space of the access method begins.
pub fn special(page: &[u8]) -> usize {
    usize::from(u16_at(page, SPECIAL_AT))
}

/// Whether the page was never used: all zero.
pub fn is_new(page: &[u8]) -> bool {
    page.iter().all(|byte| *byte == 0)
}

/// Whether the header makes sense, so that its offsets can be followed.
pub fn is_sane(page: &[u8]) -> bool {
    lower(page) >= HEADER_BYTES && lower(page) <= upper(page) && upper(page) <= special(page) && special(page) <= PAGE_BYTES
}

/// The line pointers: where each lies in the page, and its offset, flags and length.
pub fn line_pointers(page: &[u8]) -> Vec<LinePointer> {
    let read = |at: usize| {
        let word = u32_at(page, at);
        LinePointer { at, offset: (word & 0x7FFF) as usize, flags: (word >> 15 & 3) as u8, length: (word >> 17) as usize }
    };
    (HEADER_BYTES..lower(page)).step_by(4).map(read).collect()
}

/// One line pointer (`ItemIdData`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinePointer {
    /// Where it lies in the page.
    pub at: usize,
    /// Where its tuple begins.
    pub offset: usize,
    /// `LP_UNUSED` 0, `LP_NORMAL` 1, `LP_REDIRECT` 2, `LP_DEAD` 3.
    pub flags: u8,
    /// Bytes of the tuple.
    pub length: usize,
}

/// Whether a file name is that of a relation's file: number, fork, segment. Returns the fork's name, `main` without suffix.
pub fn fork_of(path: &Path) -> Option<&'static str> {
    let name = path.file_name()?.to_str()?;
    let name = name.split_once('.').map_or(name, |(name, _)| name);
    let (number, fork) = name.split_once('_').unwrap_or((name, "main"));
    let known = ["main", "fsm", "vm", "init"].into_iter().find(|known| *known == fork)?;
    let numeric = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let in_database = path.parent().and_then(Path::file_name).and_then(|parent| parent.to_str()).is_some_and(|parent| {
        // `base/<database>`, `pg_tblspc/<tablespace>/PG_…/<database>`, `global`; `pg_xact` and its like have numbers too.
        numeric(parent) || parent == "global"
    });
    (in_database && numeric(number)).then_some(known)
}
