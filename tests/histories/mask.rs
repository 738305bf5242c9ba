//! What two pages of the same log position may differ in, blanked: hints that are not logged, and space that is not used.
//!
//! Written after PostgreSQL's own rules for comparing a replayed page with the primary's (`bufmask.c`, and `heap_mask`,
//! `btree_mask`, `hash_mask`, `gin_mask`, `gist_mask`, `spg_mask`, `brin_mask`). The kind of a page is read from the page.
//! `PD_ALL_VISIBLE` is blanked as there; [`super::visibility`] looks at it, page by page, against the map.

use super::page::{
    ALL_VISIBLE, HEADER_BYTES, HINT_FLAGS, PAGE_BYTES, flags, is_sane, line_pointers, lower, put_flags, put_u16, special, u16_at,
    u32_at, upper,
};

/// The access method whose page it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A table's.
    Heap,
    /// A B-tree's.
    BTree,
    /// A hash index's.
    Hash,
    /// A GIN index's.
    Gin,
    /// A GiST index's.
    Gist,
    /// An SP-GiST index's.
    SpGist,
    /// A BRIN index's.
    Brin,
    /// A sequence's: the page on disk lags behind what was logged ahead, so it cannot be compared.
    Sequence,
    /// A header that makes no sense.
    Unknown,
}

/// What kind of page it is, as its special space tells.
pub fn kind_of(page: &[u8]) -> Kind {
    if !is_sane(page) {
        return Kind::Unknown;
    }
    let last = u16_at(page, PAGE_BYTES - 2);
    match PAGE_BYTES - special(page) {
        0 => Kind::Heap,
        8 if u32_at(page, special(page)) == 0x1717 && lower(page) == HEADER_BYTES + 4 => Kind::Sequence,
        8 if (0xF091..=0xF093).contains(&last) => Kind::Brin,
        8 if last == 0xFF82 => Kind::SpGist,
        8 => Kind::Gin,
        16 if last == 0xFF80 => Kind::Hash,
        16 if last == 0xFF81 => Kind::Gist,
        16 => Kind::BTree,
        _ => Kind::Unknown,
    }
}

/// The page with everything blanked in which it may differ. A page that was only initialised, without a log record, is
/// all zero: extending a relation is not logged.
pub fn masked(page: &[u8]) -> Vec<u8> {
    let mut page = page.to_vec();
    let kind = kind_of(&page);
    if kind == Kind::Unknown {
        return page;
    }
    if kind == Kind::Heap && lower(&page) == HEADER_BYTES && upper(&page) == PAGE_BYTES {
        page.fill(0);
        return page;
    }
    page[0..10].fill(0); // pd_lsn, pd_checksum
    let kept = flags(&page) & !(HINT_FLAGS | ALL_VISIBLE);
    put_flags(&mut page, kept);
    page[20..24].fill(0); // pd_prune_xid
    match kind {
        Kind::Heap => heap(&mut page),
        Kind::BTree => btree(&mut page),
        Kind::Hash => hash(&mut page),
        Kind::Gin => gin(&mut page),
        Kind::Gist => gist(&mut page),
        // The metapage is a cache of where there was room last, and is not logged.
        Kind::SpGist if u32_at(&page, HEADER_BYTES) == 0xBA0B_ABEE => content(&mut page),
        Kind::SpGist => unused_space_if_known(&mut page),
        Kind::Brin => brin(&mut page),
        Kind::Sequence => content(&mut page),
        Kind::Unknown => {}
    }
    page
}

fn unused_space(page: &mut [u8]) {
    let (from, to) = (lower(page), upper(page));
    page[from..to].fill(0);
}

fn unused_space_if_known(page: &mut [u8]) {
    if lower(page) > HEADER_BYTES {
        unused_space(page);
    }
}

/// Everything but the header's sizes and the special space.
fn content(page: &mut [u8]) {
    let special = special(page);
    page[12..16].fill(0); // pd_lower, pd_upper
    page[HEADER_BYTES..special].fill(0);
}

fn line_pointer_flags(page: &mut [u8]) {
    for pointer in line_pointers(page) {
        if pointer.flags != 0 {
            let word = u32_at(page, pointer.at) & !(3 << 15);
            page[pointer.at..pointer.at + 4].copy_from_slice(&word.to_le_bytes());
        }
    }
}

const HEAP_XACT_MASK: u16 = 0xFFF0;
const HEAP_XMIN_FROZEN: u16 = 0x0300;
const HEAP_XMAX_COMMITTED: u16 = 0x0400;
const HEAP_XMAX_INVALID: u16 = 0x0800;
/// `t_infomask` follows `t_xmin`, `t_xmax`, `t_cid`, `t_ctid` and `t_infomask2`.
const INFOMASK_AT: usize = 20;

fn heap(page: &mut [u8]) {
    unused_space(page);
    for pointer in line_pointers(page) {
        if pointer.flags != 1 || pointer.offset + pointer.length > PAGE_BYTES {
            continue;
        }
        let tuple = &mut page[pointer.offset..pointer.offset + pointer.length];
        let infomask = u16_at(tuple, INFOMASK_AT);
        let hints = if infomask & HEAP_XMIN_FROZEN == HEAP_XMIN_FROZEN {
            HEAP_XMAX_COMMITTED | HEAP_XMAX_INVALID
        } else {
            HEAP_XACT_MASK
        };
        put_u16(tuple, INFOMASK_AT, infomask & !hints);
        tuple[8..12].fill(0); // t_cid: replay writes the first
        let speculative = u16_at(tuple, 16) == 0xFFFE;
        if speculative {
            tuple[12..18].fill(0); // t_ctid
        }
        let end = pointer.offset + pointer.length;
        page[end..end.next_multiple_of(8).min(PAGE_BYTES)].fill(0);
    }
}

fn btree(page: &mut [u8]) {
    const LEAF: u16 = 1;
    const DELETED: u16 = 4;
    const SPLIT_END: u16 = 32;
    const HAS_GARBAGE: u16 = 64;
    let flags_at = special(page) + 12;
    let flags = u16_at(page, flags_at);
    unused_space(page);
    let mut hints = SPLIT_END | HAS_GARBAGE;
    if flags & DELETED != 0 {
        content(page);
        // 13 keeps it as it deletes the page, and replays the deletion without it (`btree_xlog_unlink_page`).
        hints |= LEAF;
    } else if flags & LEAF != 0 {
        line_pointer_flags(page);
    }
    put_u16(page, flags_at, flags & !hints);
    put_u16(page, PAGE_BYTES - 2, 0); // btpo_cycleid
}

fn hash(page: &mut [u8]) {
    const OVERFLOW: u16 = 1;
    const BUCKET: u16 = 2;
    const KINDS: u16 = 0x000F;
    const HAS_DEAD_TUPLES: u16 = 0x0080;
    let flags_at = special(page) + 12;
    let flags = u16_at(page, flags_at);
    unused_space(page);
    if flags & KINDS == 0 {
        content(page); // unused: freed overflow pages
    } else if flags & (OVERFLOW | BUCKET) != 0 {
        line_pointer_flags(page);
    }
    put_u16(page, flags_at, flags & !HAS_DEAD_TUPLES);
}

fn gin(page: &mut [u8]) {
    const DELETED: u16 = 4;
    if u16_at(page, PAGE_BYTES - 2) & DELETED != 0 {
        content(page);
        // Replay makes a deleted page of the pending list anew, without the link and the count that it had
        // (`ginRedoDeleteListPages`).
        let special = special(page);
        page[special..PAGE_BYTES - 2].fill(0);
    } else {
        unused_space_if_known(page);
    }
}

fn gist(page: &mut [u8]) {
    const LEAF: u16 = 1;
    const FOLLOW_RIGHT: u16 = 8;
    const HAS_GARBAGE: u16 = 16;
    let (nsn_at, flags_at) = (special(page), special(page) + 12);
    unused_space(page);
    page[nsn_at..nsn_at + 8].fill(0);
    let flags = u16_at(page, flags_at);
    if flags & LEAF != 0 {
        line_pointer_flags(page);
    }
    put_u16(page, flags_at, (flags | FOLLOW_RIGHT) & !HAS_GARBAGE);
}

fn brin(page: &mut [u8]) {
    const REGULAR: u16 = 0xF093;
    const EVACUATE: u16 = 1;
    if u16_at(page, PAGE_BYTES - 2) == REGULAR {
        unused_space(page);
    } else {
        unused_space_if_known(page);
    }
    let flags = u16_at(page, PAGE_BYTES - 4);
    put_u16(page, PAGE_BYTES - 4, flags & !EVACUATE);
}

/// A table's page with one tuple, made by hand.
#[cfg(test)]
fn heap_page() -> Vec<u8> {
    let mut page = vec![0; PAGE_BYTES];
    let (length, offset) = (30_u32, 8152_u32);
    put_u16(&mut page, 12, 28);
    put_u16(&mut page, 14, 8152);
    put_u16(&mut page, 16, 8192);
    put_u16(&mut page, 18, 0x2004);
    page[24..28].copy_from_slice(&(offset | 1 << 15 | length << 17).to_le_bytes());
    page[8152..8182].fill(7);
    put_u16(&mut page, 8152 + INFOMASK_AT, 0x0002);
    page
}

#[test]
fn hints_are_blanked_and_rows_are_not() {
    let page = heap_page();
    assert_eq!(kind_of(&page), Kind::Heap);
    let changed = |at: usize, value: u8| {
        let mut other = page.clone();
        assert_ne!(other[at], value, "byte {at} is no change");
        other[at] = value;
        masked(&other) != masked(&page)
    };
    let infomask = 8152 + INFOMASK_AT;
    for (what, at, value) in [
        ("LSN", 5, 1),
        ("checksum", 8, 1),
        ("all-visible", 10, 4),
        ("prune xid", 20, 1),
        ("free space", 4000, 1),
        ("command id", 8152 + 8, 1),
        ("committed", infomask + 1, 1),
        ("padding", 8183, 1),
    ] {
        assert!(!changed(at, value), "{what} counts");
    }
    for (what, at, value) in [
        ("inserter", 8152, 1),
        ("deleter", 8152 + 4, 1),
        ("place", 8152 + 12, 1),
        ("has nulls", infomask, 3),
        ("data", 8152 + 25, 1),
        ("line pointer", 25, 0x5F),
        ("version", 18, 5),
    ] {
        assert!(changed(at, value), "{what} does not count");
    }
    assert!(super::page::is_new(&masked(&{
        let mut empty = vec![0; PAGE_BYTES];
        put_u16(&mut empty, 12, 24);
        put_u16(&mut empty, 14, 8192);
        put_u16(&mut empty, 16, 8192);
        empty
    })));
}
