//! Packs on their way from the repository to the threads that decode them: in parts, under one byte budget.
//!
//! A lane is a task that fetches and a thread that decodes, with a channel between them. It holds two parts at most: the
//! one being decoded, and the next, which is fetched meanwhile. So memory depends neither on the number of threads nor on
//! the size of a pack.

use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use tokio::sync::{Mutex, mpsc};

use super::sparse::is_sparse;
use super::spill::Placed;
use crate::base::cancel::Cancel;
use crate::base::{Error, Result};
use crate::codec::digest::DigestingWriter;
use crate::codec::encrypt::Opener;
use crate::repo::pack::PackLine;
use crate::store::Store;

/// Bytes of packs in memory at one time, in all lanes together.
const BUDGET_BYTES: u64 = 32 << 20;
/// Parts of a lane at one time.
const PARTS_IN_LANE: u64 = 2;
/// Smaller parts cost more in requests than they save in memory …
const SMALLEST_PART_BYTES: u64 = 1 << 20;
/// … and larger ones are not fetched faster.
const LARGEST_PART_BYTES: u64 = 8 << 20;

/// How many packs are decoded at one time with so many workers: no more than the budget has parts for.
pub(super) fn lanes(workers: usize) -> usize {
    workers.clamp(1, (BUDGET_BYTES / PARTS_IN_LANE / SMALLEST_PART_BYTES) as usize)
}

/// Bytes of a part with so many workers.
pub(super) fn part_bytes(workers: usize) -> u64 {
    (BUDGET_BYTES / PARTS_IN_LANE / lanes(workers) as u64).clamp(SMALLEST_PART_BYTES, LARGEST_PART_BYTES)
}

/// A pack to fetch and the places of its frames, in the order of their offsets.
pub(super) struct Pack {
    pub key: String,
    pub expected: PackLine,
    pub opener: Opener,
    pub frames: Vec<Placed>,
}

/// A part of a pack.
pub(super) struct Part {
    /// The pack, if it begins with this part.
    begins: Option<Pack>,
    bytes: Bytes,
    /// Whether the pack ends with this part.
    last: bool,
}

/// The fetching end of a lane.
pub(super) struct Source {
    pub store: Arc<dyn Store>,
    pub cancel: Cancel,
    pub part_bytes: u64,
}

impl Source {
    /// Fetches packs from `queue` until there are no more. When that fails, the other lanes stop too.
    ///
    /// # Errors
    /// The store's; interrupted when the decoding end or another lane has failed.
    pub async fn fetch_all(&self, queue: &Mutex<mpsc::Receiver<Pack>>, parts: &mpsc::Sender<Part>) -> Result<()> {
        let outcome = self.fetch_packs(queue, parts).await;
        if outcome.is_err() {
            self.cancel.cancel();
        }
        outcome
    }

    async fn fetch_packs(&self, queue: &Mutex<mpsc::Receiver<Pack>>, parts: &mpsc::Sender<Part>) -> Result<()> {
        loop {
            // A pack is taken when its first part may be fetched, lest it wait here while another lane is idle.
            let slot = parts.reserve().await.map_err(|_| Error::interrupted())?;
            let Some(pack) = queue.lock().await.recv().await else { return Ok(()) };
            self.fetch(pack, parts, slot).await?;
        }
    }

    async fn fetch(&self, pack: Pack, parts: &mpsc::Sender<Part>, slot: mpsc::Permit<'_, Part>) -> Result<()> {
        if is_sparse(&pack) {
            // The decoding end fetches what it needs.
            slot.send(Part { begins: Some(pack), bytes: Bytes::new(), last: true });
            return Ok(());
        }
        let (key, expected_bytes) = (pack.key.clone(), pack.expected.stored_bytes);
        let (mut begins, mut slot) = (Some(pack), Some(slot));
        let mut at = 0;
        loop {
            // The leave to send comes first: what has been fetched already counts against the budget.
            let slot = match slot.take() {
                Some(slot) => slot,
                None => parts.reserve().await.map_err(|_| Error::interrupted())?,
            };
            // A byte more than there should be is asked for at the end, so that a pack which is too long shows.
            let is_end = expected_bytes - at <= self.part_bytes;
            let end = if is_end { expected_bytes.saturating_add(1) } else { at + self.part_bytes };
            let bytes = tokio::select! {
                bytes = self.store.get_range(&key, at..end) => bytes?,
                () = self.cancel.cancelled() => return Err(Error::interrupted()),
            };
            let last = is_end || (bytes.len() as u64) < end - at;
            at = end;
            slot.send(Part { begins: begins.take(), bytes, last });
            if last {
                return Ok(());
            }
        }
    }
}

/// The decoding end of a lane: reads one pack after the other and digests what passes. Blocks.
pub(super) struct PartReader {
    received: mpsc::Receiver<Part>,
    rest: Bytes,
    digest: DigestingWriter<io::Sink>,
    last: bool,
    broken: bool,
}

impl PartReader {
    pub fn new(received: mpsc::Receiver<Part>) -> Self {
        Self { received, rest: Bytes::new(), digest: DigestingWriter::new(io::sink()), last: true, broken: false }
    }

    /// The next pack, of which nothing has been read yet; none when all are done.
    ///
    /// # Errors
    /// Interrupted when the last pack has not been read to its end.
    pub fn next_pack(&mut self) -> Result<Option<Pack>> {
        assert!(self.last, "the pack before this one was not read to its end");
        self.digest = DigestingWriter::new(io::sink());
        let Some(mut part) = self.receive() else { return Ok(None) };
        let pack = part.begins.take().expect("a pack begins after the end of another");
        self.accept(part);
        Ok(Some(pack))
    }

    /// Reads what is left of a pack and compares the whole with what was stored.
    ///
    /// # Errors
    /// Damaged when it differs; interrupted when the fetching end has failed.
    pub fn check_rest(&mut self, pack: &Pack) -> Result<()> {
        while !self.last {
            let part = self.receive().ok_or_else(Error::interrupted)?;
            self.accept(part);
        }
        self.rest = Bytes::new();
        let digest = std::mem::replace(&mut self.digest, DigestingWriter::new(io::sink()));
        let (_, sha256, stored_bytes) = digest.finish();
        let expected = &pack.expected;
        if (sha256, stored_bytes) == (expected.sha256, expected.stored_bytes) {
            return Ok(());
        }
        let found = match stored_bytes {
            more if more > expected.stored_bytes => format!("more than {} bytes", expected.stored_bytes),
            _ => format!("{sha256}, {stored_bytes} bytes"),
        };
        Err(Error::damaged(format!("{} is damaged: it is not what was stored", pack.key))
            .detail("expected", format!("{}, {} bytes", expected.sha256, expected.stored_bytes))
            .detail("found", found)
            .hint("lifeboat verify   shows what else is damaged; an older backup may still be whole"))
    }

    /// Whether the fetching end stopped in the middle of a pack: its own error says why.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    fn receive(&mut self) -> Option<Part> {
        // What has been read is released before the next part may come.
        self.rest = Bytes::new();
        let part = self.received.blocking_recv();
        self.broken = part.is_none() && !self.last;
        part
    }

    fn accept(&mut self, part: Part) {
        self.digest.write_all(&part.bytes).expect("a sink takes everything");
        (self.rest, self.last) = (part.bytes, part.last);
    }
}

impl Read for PartReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for PartReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.rest.is_empty() && !self.last {
            let part = self.receive().ok_or_else(|| io::Error::other("the rest was not fetched"))?;
            self.accept(part);
        }
        Ok(&self.rest)
    }

    fn consume(&mut self, count: usize) {
        self.rest.advance(count);
    }
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Runtime;

    use super::*;
    use crate::base::{ErrorKind, RelPath};
    use crate::codec::{FrameDigest, Sha256Digest};
    use crate::repo::pack::FrameRef;
    use crate::store::faulty::FaultyStore;
    use crate::store::memory::MemoryStore;

    const PART_BYTES: u64 = 1000;

    #[test]
    fn the_budget_holds_with_any_number_of_workers() {
        for workers in 1..=256 {
            let bytes = lanes(workers) as u64 * PARTS_IN_LANE * part_bytes(workers);
            assert!(bytes <= BUDGET_BYTES, "{workers} workers: {bytes} bytes");
        }
    }

    /// A frame that is the whole pack.
    fn all(length: u64) -> Placed {
        let (raw_len, digest) = (0, FrameDigest::of(b""));
        let frame = FrameRef { owner: 0, pack: 1, offset: 0, stored_len: length as u32, raw_len, digest };
        Placed { frame, path: RelPath::new("x").unwrap(), file_bytes: 0, stretches: Vec::new(), address: None, holes: Vec::new() }
    }

    fn content(length: u64) -> Vec<u8> {
        (0..length).map(|n| ((n * n) >> 3) as u8).collect()
    }

    /// A lane whose queue holds one pack, `stored` where `length` bytes of [`content`] are expected.
    fn lane(stored: &[u8], length: u64) -> (Arc<FaultyStore>, impl Future<Output = Result<()>> + use<>, PartReader) {
        let store = Arc::new(FaultyStore::counting(Arc::new(MemoryStore::new())));
        let expected = PackLine { pack: 1, stored_bytes: length, sha256: Sha256Digest::of(&content(length)) };
        let (queue, packs) = mpsc::channel(1);
        queue.try_send(Pack { key: "p".to_owned(), expected, opener: Opener::Plain, frames: vec![all(length)] }).ok().unwrap();
        let (parts, received) = mpsc::channel(1);
        let source = Source { store: Arc::clone(&store) as Arc<dyn Store>, cancel: Cancel::new(), part_bytes: PART_BYTES };
        let stored = stored.to_vec();
        let fetching = async move {
            source.store.put_if_absent("p", stored.into()).await?;
            source.fetch_all(&Mutex::new(packs), &parts).await
        };
        drop(queue);
        (store, fetching, PartReader::new(received))
    }

    #[test]
    fn a_pack_is_read_as_it_was_stored_and_any_other_is_named() {
        for length in [1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES, 3 * PART_BYTES + 7] {
            let whole = content(length);
            let mut flipped = whole.clone();
            *flipped.last_mut().unwrap() ^= 1;
            let shorter = &whole[..whole.len() - 1];
            let longer = [&whole[..], b"x"].concat();
            for (stored, is_right) in [(&whole[..], true), (&flipped, false), (shorter, false), (&longer, false), (&[], false)] {
                // Read to its end, or not at all as after a frame that could not be decoded.
                for read in [true, false] {
                    let runtime = Runtime::new().unwrap();
                    let (_, fetching, mut reader) = lane(stored, length);
                    let fetching = runtime.spawn(fetching);
                    let pack = reader.next_pack().unwrap().unwrap();
                    let mut seen = Vec::new();
                    if read {
                        reader.read_to_end(&mut seen).unwrap();
                        assert!(!is_right || seen == whole, "{length}");
                    }
                    match reader.check_rest(&pack) {
                        Ok(()) => assert!(is_right, "{length}"),
                        Err(error) => assert!(!is_right && error.kind() == ErrorKind::Damaged, "{length}: {}", error.summary()),
                    }
                    assert!(reader.next_pack().unwrap().is_none());
                    runtime.block_on(fetching).unwrap().unwrap();
                }
            }
        }
    }

    #[test]
    fn a_lane_fetches_one_part_ahead_and_no_more() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let whole = content(5 * PART_BYTES);
        let (store, fetching, mut reader) = lane(&whole, 5 * PART_BYTES);
        let fetching = runtime.spawn(fetching);
        let fetched = || {
            // The store answers at once: after so many turns the task has come as far as it can.
            runtime.block_on(async {
                for _ in 0..1000 {
                    tokio::task::yield_now().await;
                }
            });
            store.calls().iter().filter(|call| call.starts_with("get_range")).count()
        };
        assert_eq!(fetched(), 1);
        let pack = reader.next_pack().unwrap().unwrap();
        for part in 1..5 {
            assert_eq!(fetched(), part + 1, "part {part} is being decoded");
            io::copy(&mut (&mut reader).take(PART_BYTES), &mut io::sink()).unwrap();
            // The next part replaces this one when it is asked for.
            reader.fill_buf().unwrap();
        }
        assert_eq!(fetched(), 5);
        reader.check_rest(&pack).unwrap();
        runtime.block_on(fetching).unwrap().unwrap();
    }

    #[test]
    fn a_pack_that_is_not_fetched_to_its_end_is_no_damage() {
        let runtime = Runtime::new().unwrap();
        let (_, fetching, mut reader) = lane(&content(3 * PART_BYTES), 3 * PART_BYTES);
        let fetching = runtime.spawn(fetching);
        let pack = reader.next_pack().unwrap().unwrap();
        fetching.abort();
        assert!(runtime.block_on(fetching).unwrap_err().is_cancelled());
        assert!(reader.read_to_end(&mut Vec::new()).is_err() && reader.is_broken());
        assert_eq!(reader.check_rest(&pack).unwrap_err().kind(), ErrorKind::Interrupted);
    }
}
