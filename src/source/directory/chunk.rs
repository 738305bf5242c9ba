//! Content-defined chunks: where a file is cut depends on its bytes alone, so a byte inserted at its head changes one or two
//! chunks and not all.
//!
//! FastCDC of 2020 (Xia et al., "The Design of Fast Content-Defined Chunking", IEEE TPDS 31/9), by the `fastcdc` crate, with
//! normalisation level 1. A chunk has 64 to 256 KiB, about 150 KiB on average: the upper limit is what a frame of the
//! repository's format may hold, so that each chunk is one frame and can be fetched alone. Nothing but deduplication depends
//! on where the cuts are: other cuts would store content anew, never restore it wrongly.

use std::fmt;

use fastcdc::v2020::FastCDC;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

/// Shortest chunk, but for the last of a run of data.
pub const MIN_BYTES: usize = 64 << 10;
/// Where the rule for a cut becomes looser.
pub const AVERAGE_BYTES: usize = 128 << 10;
/// Longest chunk.
pub const MAX_BYTES: usize = 256 << 10;

/// SHA-256 of a chunk: its address, whatever file it is in. Text form: 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub [u8; 32]);

impl Address {
    /// The address of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(self.0))
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(&text, &mut bytes).map_err(|_| serde::de::Error::custom("not 64 hex digits"))?;
        Ok(Self(bytes))
    }
}

/// A chunk's place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// Where it begins in the file, in bytes.
    pub offset: u64,
    /// At most [`MAX_BYTES`].
    pub len_bytes: u32,
    /// Its content.
    pub address: Address,
}

/// Length in bytes of the first chunk of `bytes`, which must hold [`MAX_BYTES`] or reach to the end of a run of data.
///
/// 0 for nothing.
pub fn first_len(bytes: &[u8]) -> usize {
    let (_, end) = FastCDC::new(bytes, MIN_BYTES, AVERAGE_BYTES, MAX_BYTES).cut(0, bytes.len());
    end
}

/// Tells a file's content from any other in 32 bytes: SHA-256 over offset (8 bytes, little-endian), length (4) and address of
/// each chunk, and then the file's length (8).
///
/// Two files with the same id have the same bytes. Two with different ids may still, when one has zeros where the other has
/// a hole.
#[derive(Clone, Default)]
pub struct ContentId(Sha256);

impl ContentId {
    /// Of nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next chunk.
    pub fn add(&mut self, piece: &Piece) {
        self.0.update(piece.offset.to_le_bytes());
        self.0.update(piece.len_bytes.to_le_bytes());
        self.0.update(piece.address.0);
    }

    /// The id of a file of `size_bytes` with all chunks that were added.
    pub fn finish(mut self, size_bytes: u64) -> Address {
        self.0.update(size_bytes.to_le_bytes());
        Address(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use std::collections::HashSet;

    fn chunks(mut bytes: &[u8]) -> Vec<&[u8]> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let (chunk, rest) = bytes.split_at(first_len(bytes));
            found.push(chunk);
            bytes = rest;
        }
        found
    }

    #[test]
    fn a_byte_at_the_head_leaves_almost_all_chunks_as_they_were() {
        let mut bytes = vec![0; 16 << 20];
        StdRng::seed_from_u64(7).fill_bytes(&mut bytes);
        let before = chunks(&bytes);
        assert_eq!(before.concat(), bytes);
        let (last, others) = before.split_last().unwrap();
        assert!(others.iter().all(|chunk| (MIN_BYTES..=MAX_BYTES).contains(&chunk.len())) && last.len() <= MAX_BYTES);
        let known: HashSet<Address> = before.iter().map(|chunk| Address::of(chunk)).collect();
        bytes.insert(0, b'x');
        let after = chunks(&bytes);
        let new = after.iter().filter(|chunk| !known.contains(&Address::of(chunk))).count();
        assert!((1..=3).contains(&new), "{new} of {} chunks are new", after.len());
    }

    #[test]
    fn where_a_chunk_ends_does_not_depend_on_what_follows_the_longest_chunk() {
        let mut bytes = vec![0; 1 << 20];
        StdRng::seed_from_u64(8).fill_bytes(&mut bytes);
        assert_eq!(first_len(&bytes), first_len(&bytes[..MAX_BYTES]));
        assert_eq!((first_len(&[]), first_len(b"x"), first_len(&vec![0; 1 << 20])), (0, 1, MAX_BYTES));
    }
}
