//! Which pages of a relation's main fork may have changed since a base backup. Pure.
//!
//! A page's LSN is the end of the record that last changed it, and every change after the base's redo LSN ends beyond
//! it: so "at or after" is on the safe side. That holds only while every change moves the LSN, which hint bits and the
//! visibility map do with data checksums or `wal_log_hints` on (PostgreSQL `bufmgr.c` `MarkBufferDirtyHint`,
//! `visibilitymap.c` `visibilitymap_set`); the caller must have made sure of it. Pages without an LSN of their own (new,
//! all zero, damaged, or of an index that is being built: GIN and SP-GiST leave it zero and GiST writes 1 until the whole
//! index is logged at the end, `gist.h` `GistBuildLSN`) always count as changed, and so does the metapage of an SP-GiST index, in which PostgreSQL keeps a
//! cache that it never logs (`spgutils.c` `SpGistUpdateMetaPage`).

use super::page::{PAGE_BYTES, Page, page_lsn};
use crate::base::Lsn;

/// What a page carries at most that was built without being logged; no record ends there.
const BUILD_LSN: Lsn = Lsn(1);

/// Pages of one frame, the first one in the lowest bit.
pub type PageSet = u32;

/// The pages in `raw` that may have changed since `base_lsn`; `suspicious` are those that are all zero, new, or failed
/// their checksum when they were read. A part of a page at the end counts as a page.
pub fn changed_pages(raw: &[u8], base_lsn: Lsn, suspicious: PageSet) -> PageSet {
    let (pages, rest) = raw.as_chunks::<PAGE_BYTES>();
    debug_assert!(pages.len() + usize::from(!rest.is_empty()) <= PageSet::BITS as usize);
    let mut changed = suspicious;
    for (index, page) in pages.iter().enumerate() {
        let lsn = page_lsn(page);
        if lsn >= base_lsn || lsn <= BUILD_LSN || is_spgist_metapage(page) {
            changed |= 1 << index;
        }
    }
    if !rest.is_empty() {
        changed |= 1 << pages.len();
    }
    changed
}

/// By what PostgreSQL's `spgist_private.h` says: the page id at the end of the page, the magic number after its header.
fn is_spgist_metapage(page: &Page) -> bool {
    const PAGE_ID: [u8; 2] = 0xFF82_u16.to_le_bytes();
    const MAGIC: [u8; 4] = 0xBA0B_ABEE_u32.to_le_bytes();
    page[PAGE_BYTES - 2..] == PAGE_ID && page[24..28] == MAGIC
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(lsns: &[u64]) -> Vec<u8> {
        let page = |lsn: &u64| {
            let mut page = vec![7; PAGE_BYTES];
            page[..4].copy_from_slice(&((lsn >> 32) as u32).to_le_bytes());
            page[4..8].copy_from_slice(&(*lsn as u32).to_le_bytes());
            page
        };
        lsns.iter().flat_map(page).collect()
    }

    #[test]
    fn a_page_at_or_after_the_base_counts_as_changed() {
        let base = Lsn(0x5_0000_0028);
        let raw = pages(&[base.0 - 1, base.0, base.0 + 1, 0x4_FFFF_FFFF, 0x6_0000_0000, 2]);
        assert_eq!(changed_pages(&raw, base, 0), 0b01_0110);
        assert_eq!(changed_pages(&raw, base, 0b10_0001), 0b11_0111);
        assert_eq!(changed_pages(&raw[..PAGE_BYTES + 5], base, 0), 0b10, "a torn end");
        assert_eq!(changed_pages(&[], base, 0), 0);
    }

    #[test]
    fn a_page_of_an_index_that_is_being_built_always_counts() {
        assert_eq!(changed_pages(&pages(&[0, 1, 2]), Lsn(11), 0), 0b011);
    }

    #[test]
    fn a_page_that_changes_without_being_logged_always_counts() {
        let mut raw = pages(&[10, 10, 10]);
        raw[PAGE_BYTES + 24..][..4].copy_from_slice(&[0xEE, 0xAB, 0x0B, 0xBA]);
        assert_eq!(changed_pages(&raw, Lsn(11), 0), 0, "the magic number alone is data like any other");
        raw[2 * PAGE_BYTES - 2..][..2].copy_from_slice(&[0x82, 0xFF]);
        assert_eq!(changed_pages(&raw, Lsn(11), 0), 0b10);
    }
}
