//! A pack of which little is needed: only the ranges that hold it are fetched.
//!
//! What is fetched is authenticated by age part by part, and every frame is compared with its digest; the digest of the
//! whole pack, which needs the whole pack, is left to `verify`.

use std::io::{self, BufRead, Read, Seek, SeekFrom};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, Bytes};
use tokio::runtime::Handle;

use super::parts::Pack;
use crate::base::Error;
use crate::store::Store;

/// A pack is fetched in ranges when less than this part of it is needed.
const LITTLE: u64 = 4;
/// Bytes fetched at one time: a few parts of age, a frame or two.
const RANGE_BYTES: u64 = 256 << 10;

/// Whether so little of `pack` is needed that it is fetched in ranges.
pub(super) fn is_sparse(pack: &Pack) -> bool {
    // A frame that goes to several places is fetched once.
    let frames = pack.frames.chunk_by(|one, next| one.frame.offset == next.frame.offset);
    let needed: u64 = frames.map(|places| u64::from(places[0].frame.stored_len)).sum();
    needed < pack.expected.stored_bytes / LITTLE
}

/// Reads a stored object range by range, from wherever it is asked to. Blocks; for threads that are no runtime workers.
pub(super) struct RangeReader {
    store: Arc<dyn Store>,
    key: String,
    stored_bytes: u64,
    /// Offset in the object of the first byte of `range`.
    position: u64,
    range: Bytes,
    failure: Failure,
}

/// Why the store failed, if it did: a reader's errors cannot carry it through age.
pub(super) type Failure = Arc<Mutex<Option<Error>>>;

impl RangeReader {
    pub fn new(store: Arc<dyn Store>, pack: &Pack) -> Self {
        let (key, stored_bytes) = (pack.key.clone(), pack.expected.stored_bytes);
        Self { store, key, stored_bytes, position: 0, range: Bytes::new(), failure: Failure::default() }
    }

    /// Where the store's error is found after a read has failed.
    pub fn failure(&self) -> Failure {
        Arc::clone(&self.failure)
    }
}

impl BufRead for RangeReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.range.is_empty() && self.position < self.stored_bytes {
            let end = self.stored_bytes.min(self.position + RANGE_BYTES);
            let fetching = self.store.get_range(&self.key, self.position..end);
            self.range = Handle::current().block_on(fetching).map_err(|error| {
                *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.into());
                io::Error::other("the repository failed")
            })?;
        }
        Ok(&self.range)
    }

    fn consume(&mut self, count: usize) {
        self.range.advance(count);
        self.position += count as u64;
    }
}

impl Read for RangeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

impl Seek for RangeReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
            SeekFrom::End(offset) => self.stored_bytes.checked_add_signed(offset),
        };
        let position = position.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        match position.checked_sub(self.position) {
            Some(ahead) if ahead <= self.range.len() as u64 => self.range.advance(ahead as usize),
            _ => self.range = Bytes::new(),
        }
        self.position = position;
        Ok(position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Sha256Digest;
    use crate::codec::encrypt::{DataKey, Opener, Seal};
    use crate::repo::pack::PackLine;
    use crate::store::faulty::FaultyStore;
    use crate::store::memory::MemoryStore;

    #[test]
    fn any_part_is_read_from_few_ranges() {
        let raw: Vec<u8> = (0..5_000_000u32).map(|n| ((n * 7) >> 5) as u8).collect();
        let key = DataKey::generate();
        for (seal, opener) in
            [(Seal::Age(key.recipient()), Opener::Age(vec![key.identity().clone()])), (Seal::Plain, Opener::Plain)]
        {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let _entered = runtime.enter();
            let sealed = seal.seal(&raw).unwrap();
            let expected = PackLine { pack: 1, stored_bytes: sealed.len() as u64, sha256: Sha256Digest::of(&sealed) };
            let store = Arc::new(FaultyStore::counting(Arc::new(MemoryStore::new())));
            runtime.block_on(store.put_if_absent("p", sealed.into())).unwrap();
            let pack = Pack { key: "p".into(), expected, opener, frames: Vec::new() };
            let mut reader = pack.opener.reader(RangeReader::new(Arc::clone(&store) as Arc<dyn Store>, &pack)).unwrap();
            for at in [3_000_000, 3_000_100, 4_999_990, 10, 65_536, 65_535, 4_194_304] {
                let mut part = [0; 10];
                reader.seek(SeekFrom::Start(at as u64)).unwrap();
                reader.read_exact(&mut part).unwrap();
                assert_eq!(part, raw[at..at + 10], "{at}");
            }
            let ranges = store.calls().iter().filter(|call| call.starts_with("get_range")).count();
            assert!(ranges <= 14, "{ranges} ranges were fetched");
        }
    }
}
