//! The beginning of the shared-memory file (`-shm`): what is committed. Pure.
//!
//! Source: <https://www.sqlite.org/walformat.html>, sections 2.1 and 2.2. Numbers are in the machine's byte order. A
//! writer first writes its frames and then this header, twice; so frames in the log that the header does not count are
//! not committed, and may still be overwritten when their writer died in between.

use super::position::Salts;
use super::wal::{Checksum, add_to_checksum};

/// Bytes that are read: both copies of the header, then what checkpoints say of themselves.
pub const WAL_INDEX_BYTES: usize = 136;

const COPY_BYTES: usize = 48;
const VERSION: u32 = 3_007_000;

/// What the header says at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalIndex {
    /// Counts transactions, across generations of the log; begins at 0 again when the index is rebuilt.
    pub change_counter: u32,
    /// Frames of the log that are committed.
    pub frames: u32,
    /// Size of the database in pages after the last of them.
    pub pages: u32,
    /// Checksum of the last of them.
    pub checksum: Checksum,
    /// The log's generation; of no meaning before its first frame.
    pub salts: Salts,
    /// Frames that are known to be in the database file too.
    pub backfilled: u32,
    /// Frames that a checkpoint has begun to copy there.
    pub backfill_attempted: u32,
}

impl WalIndex {
    /// Parses the file's first bytes; `None` while it is being written, or when a writer died over it.
    pub fn parse(bytes: &[u8; WAL_INDEX_BYTES]) -> Option<Self> {
        let number = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let is_big_endian = cfg!(target_endian = "big");
        let sum = add_to_checksum(is_big_endian, [0, 0], &bytes[..40]);
        let is_whole = bytes[..COPY_BYTES] == bytes[COPY_BYTES..2 * COPY_BYTES]
            && number(0) == VERSION
            && bytes[12] == 1
            && sum == [number(40), number(44)];
        let index = Self {
            change_counter: number(8),
            frames: number(16),
            pages: number(20),
            checksum: [number(24), number(28)],
            salts: Salts::from_bytes(bytes, 32),
            backfilled: number(96),
            backfill_attempted: number(128),
        };
        // A restart sets the header first and this number after it.
        (is_whole && index.backfilled <= index.frames).then_some(index)
    }

    /// Whether no checkpoint has begun what it has not finished.
    pub fn is_quiet(&self) -> bool {
        self.backfill_attempted <= self.backfilled
    }
}
