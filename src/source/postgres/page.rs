//! Pages of relation files: checksums, header sanity and page LSNs.
//!
//! Invariant: a page is called [`PageState::Good`] only when PostgreSQL itself would accept it into its buffers.
//! Source: PostgreSQL `src/include/storage/checksum_impl.h` (algorithm), `bufpage.h` (header layout) and
//! `bufpage.c` (`PageIsVerified`). Integers are in the server's byte order; only little-endian servers are supported
//! (`pg_control` of another is refused, see [`super::control`]).

use crate::base::Lsn;

/// Bytes in one page. Servers built with another block size are refused when their control file is read.
pub const PAGE_BYTES: usize = 8192;

/// One page.
pub type Page = [u8; PAGE_BYTES];

/// Parallel sums of the checksum: as many as fit the widest vector units.
const SUMS: usize = 32;
const ROWS: usize = PAGE_BYTES / (4 * SUMS);
const FNV_PRIME: u32 = 16_777_619;
const VALID_FLAGS: u16 = 0x0007;

/// Initial values of the parallel sums, chosen at random by PostgreSQL's authors.
const BASE_OFFSETS: [u32; SUMS] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// What a look at one page says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageState {
    /// Every byte is zero: allocated, never written. Fine.
    AllZero,
    /// Initialised; checksum (when asked for) and header are right.
    Good,
    /// `pd_upper` is zero though not every byte is: PostgreSQL treats the page as new and checks no checksum, and its
    /// own tools skip it, but the server would refuse to read it.
    New,
    /// The stored checksum is not that of the page at this block number.
    BadChecksum {
        /// As in the header.
        stored: u16,
        /// As it should be.
        computed: u16,
    },
    /// The header's offsets or flags are impossible.
    BadHeader,
}

impl PageState {
    /// True for what a backup should report when it stays so after a second read.
    pub fn is_bad(self) -> bool {
        matches!(self, PageState::New | PageState::BadChecksum { .. } | PageState::BadHeader)
    }
}

/// Checks one page as PostgreSQL does when it reads it.
///
/// `block_number` counts from the start of the relation fork, across its files. `checksums` says whether the cluster
/// has data checksums; without them only the header is judged.
pub fn verify_page(page: &Page, block_number: u32, checksums: bool) -> PageState {
    if upper(page) == 0 {
        return if page.iter().all(|byte| *byte == 0) { PageState::AllZero } else { PageState::New };
    }
    if checksums {
        let (stored, computed) = (stored_checksum(page), page_checksum(page, block_number));
        if stored != computed {
            return PageState::BadChecksum { stored, computed };
        }
    }
    if header_is_sane(page) { PageState::Good } else { PageState::BadHeader }
}

/// The end of the log record that last changed the page, as its header says; zero for a new page.
pub fn page_lsn(page: &Page) -> Lsn {
    Lsn(u64::from(word(page, 0)) << 32 | u64::from(word(page, 4)))
}

/// The checksum in the page's header.
pub fn stored_checksum(page: &Page) -> u16 {
    half(page, 8)
}

/// The checksum the page should carry at `block_number` of its relation fork; never 0.
pub fn page_checksum(page: &Page, block_number: u32) -> u16 {
    let mixed = block_hash(page) ^ block_number;
    (mixed % 65_535) as u16 + 1
}

/// The 32-bit hash over the page with its checksum field taken as zero: 32 FNV-1a sums side by side, folded.
fn block_hash(page: &Page) -> u32 {
    let (rows, _) = page.as_chunks::<{ 4 * SUMS }>();
    // The checksum is the low half of the third word.
    let mut first = rows[0];
    first[8] = 0;
    first[9] = 0;
    let mut sums = BASE_OFFSETS;
    mix_row(&mut sums, &first);
    for row in &rows[1..ROWS] {
        mix_row(&mut sums, row);
    }
    for _ in 0..2 {
        mix_row(&mut sums, &[0; 4 * SUMS]);
    }
    sums.iter().fold(0, |folded, sum| folded ^ sum)
}

#[inline(always)]
fn mix_row(sums: &mut [u32; SUMS], row: &[u8; 4 * SUMS]) {
    let (words, _) = row.as_chunks::<4>();
    for (sum, word) in sums.iter_mut().zip(words) {
        let mixed = *sum ^ u32::from_le_bytes(*word);
        *sum = mixed.wrapping_mul(FNV_PRIME) ^ (mixed >> 17);
    }
}

/// Whether the byte at `offset` belongs to a row: these grow from the special space down.
pub fn is_in_rows(page: &Page, offset: usize) -> bool {
    (usize::from(upper(page))..usize::from(half(page, 16))).contains(&offset)
}

fn header_is_sane(page: &Page) -> bool {
    let (flags, lower, upper, special) = (half(page, 10), half(page, 12), upper(page), half(page, 16));
    flags & !VALID_FLAGS == 0
        && lower <= upper
        && upper <= special
        && usize::from(special) <= PAGE_BYTES
        && special.is_multiple_of(8)
}

fn upper(page: &Page) -> u16 {
    half(page, 14)
}

fn half(page: &Page, at: usize) -> u16 {
    u16::from_le_bytes([page[at], page[at + 1]])
}

fn word(page: &Page, at: usize) -> u32 {
    u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An empty heap page as `PageInit` makes it, with a checksum for block 7.
    fn empty_page() -> Page {
        let mut page = [0; PAGE_BYTES];
        page[0..4].copy_from_slice(&0xA3_u32.to_le_bytes());
        page[4..8].copy_from_slice(&0xF100_0028_u32.to_le_bytes());
        page[12..14].copy_from_slice(&24_u16.to_le_bytes());
        page[14..16].copy_from_slice(&8192_u16.to_le_bytes());
        page[16..18].copy_from_slice(&8192_u16.to_le_bytes());
        page[18..20].copy_from_slice(&(8192_u16 | 4).to_le_bytes());
        let checksum = page_checksum(&page, 7);
        page[8..10].copy_from_slice(&checksum.to_le_bytes());
        page
    }

    #[test]
    fn a_good_page_is_good_only_at_its_own_block() {
        let page = empty_page();
        assert_eq!(verify_page(&page, 7, true), PageState::Good);
        assert!(matches!(verify_page(&page, 8, true), PageState::BadChecksum { .. }));
        assert_eq!(page_lsn(&page), Lsn(0xA3_F100_0028));
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let page = empty_page();
        for bit in 0..PAGE_BYTES * 8 {
            let mut flipped = page;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(verify_page(&flipped, 7, true).is_bad(), "bit {bit}");
        }
    }

    #[test]
    fn zero_and_new_pages_are_told_apart() {
        let mut page = [0; PAGE_BYTES];
        assert_eq!(verify_page(&page, 0, true), PageState::AllZero);
        page[8000] = 1;
        assert_eq!(verify_page(&page, 0, true), PageState::New);
    }

    #[test]
    fn without_checksums_the_header_still_counts() {
        let mut page = empty_page();
        page[8..10].fill(0);
        assert_eq!(verify_page(&page, 7, false), PageState::Good);
        for (at, value) in [(12, 8193_u16), (14, 8200), (16, 8196), (10, 0x8)] {
            let mut broken = page;
            broken[at..at + 2].copy_from_slice(&value.to_le_bytes());
            assert_eq!(verify_page(&broken, 7, false), PageState::BadHeader, "offset {at}");
        }
    }

    #[test]
    fn the_vector_form_agrees_with_the_plain_one() {
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let mut state = seed;
        let mut page = [0_u8; PAGE_BYTES];
        for byte in &mut page {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (state >> 56) as u8;
        }
        assert_eq!(page_checksum(&page, 3), plain_checksum(page, 3));
    }

    /// The algorithm word by word, as the comment in `checksum_impl.h` describes it.
    fn plain_checksum(mut page: Page, block_number: u32) -> u16 {
        page[8..10].fill(0);
        let mut folded = block_number;
        for (column, offset) in BASE_OFFSETS.iter().enumerate() {
            let mut sum = *offset;
            for row in 0..ROWS + 2 {
                let value = if row < ROWS { word(&page, (row * SUMS + column) * 4) } else { 0 };
                let mixed = sum ^ value;
                sum = mixed.wrapping_mul(FNV_PRIME) ^ (mixed >> 17);
            }
            folded ^= sum;
        }
        (folded % 65_535) as u16 + 1
    }
}
