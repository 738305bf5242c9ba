//! One thread that reads files: each chunk is looked up in the chain, and stored when it is not there.
//!
//! Invariant: the index names only frames that an entry of this backup's manifest names. A frame of a reading that came to
//! nothing, because the file changed or failed, stays in its pack and is forgotten; so whoever verifies a later backup finds
//! every frame that it has of this one in this one's manifest.
//!
//! What one thread has stored and not yet noted in the index, another one that meets the same content uses all the same: then
//! an entry of its own names the frame.
//!
//! Memory: the list of a file's chunks, about 100 bytes for 150 KiB of it.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::line::Content;
use crate::base::{BackupId, Error, Result};
use crate::codec::compress::Compressor;
use crate::codec::{FrameDigest, Sha256Digest, frame};
use crate::engine::backup::worker::Shared;
use crate::repo::pack::FrameRef;
use crate::source::directory::beneath::Root;
use crate::source::directory::chunk::Address;
use crate::source::directory::entry::Entry;
use crate::source::directory::index::{Index, Place};
use crate::source::directory::read::{Chunk, Hole, LONG_HOLE_BYTES, Reader, Reading, Sink, Within};

/// Chunks of files that are being read, by their address: the frame, or none while it is being stored.
///
/// Nobody waits forever: whoever stores a chunk waits for no other one meanwhile, and says so in the end whatever comes of it.
#[derive(Default)]
pub(super) struct Pending {
    frames: Mutex<HashMap<Address, Option<FrameRef>>>,
    changed: Condvar,
}

impl Pending {
    fn lock(&self) -> MutexGuard<'_, HashMap<Address, Option<FrameRef>>> {
        // Whole after every statement.
        self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The frame of another file that is being read; or the claim to store the chunk, for which all others wait.
    fn claim(&self, address: &Address) -> Result<FrameRef, Claim<'_>> {
        let mut frames = self.lock();
        loop {
            match frames.get(address) {
                Some(Some(frame)) => return Ok(*frame),
                Some(None) => frames = self.changed.wait(frames).unwrap_or_else(PoisonError::into_inner),
                None => break,
            }
        }
        frames.insert(*address, None);
        Err(Claim { pending: self, address: *address, frame: None })
    }
}

/// The claim to store a chunk, given back when it is dropped.
struct Claim<'p> {
    pending: &'p Pending,
    address: Address,
    frame: Option<FrameRef>,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut frames = self.pending.lock();
        match self.frame {
            Some(frame) => frames.insert(self.address, Some(frame)),
            None => frames.remove(&self.address),
        };
        self.pending.changed.notify_all();
    }
}

/// What all threads have in common.
#[derive(Clone, Copy)]
pub(super) struct Storing<'s> {
    /// The protected directory.
    pub root: &'s Root,
    /// Packs, progress, the wish to stop.
    pub shared: &'s Shared,
    /// Where chunks are.
    pub index: &'s Index,
    /// What was stored and is not in the index yet.
    pub pending: &'s Pending,
    /// This backup and its chain, as the manifest numbers them.
    pub owners: &'s [BackupId],
}

/// One thread's tools.
pub(super) struct Worker<'s> {
    storing: Storing<'s>,
    reader: Reader,
    compressor: Compressor,
}

impl<'s> Worker<'s> {
    /// # Errors
    /// When zstd does not start.
    pub fn new(storing: Storing<'s>) -> Result<Self> {
        let compressor = Compressor::new(storing.shared.compression_level);
        let compressor = compressor.map_err(|error| Error::failed("cannot start zstd").caused_by(error))?;
        Ok(Self { storing, reader: Reader::new(), compressor })
    }

    /// Reads the file of `entry`, which lies in the directory `within`, and stores of it what the chain lacks.
    ///
    /// # Errors
    /// When packs are no longer stored, the index fails, or on the wish to stop. What is the file's fault is in the reading.
    pub fn read(&mut self, within: &Within, entry: Entry) -> Result<(Reading, Content)> {
        let Self { storing, reader, compressor } = self;
        let mut chunks = Chunks { storing: *storing, compressor, fresh: HashMap::new(), content: Content::default() };
        let reading = reader.read(storing.root, within, entry, &mut chunks)?;
        let content = match &reading {
            Reading::Read(_) => chunks.finish()?,
            Reading::Unread(_) | Reading::Left(_) => Content::default(),
        };
        Ok((reading, content))
    }
}

/// The chunks of one file.
struct Chunks<'w, 's> {
    storing: Storing<'s>,
    compressor: &'w mut Compressor,
    /// Frames of this backup that were stored for this file, also in readings that were given up, or for one that is being
    /// read as well.
    fresh: HashMap<Address, FrameRef>,
    content: Content,
}

impl Chunks<'_, '_> {
    /// The frame that holds the chunk.
    fn frame(&mut self, address: &Address, bytes: &[u8]) -> Result<FrameRef> {
        if let Some(frame) = self.fresh.get(address).filter(|frame| frame.raw_len as usize == bytes.len()) {
            return Ok(*frame);
        }
        let mut claim = match self.storing.pending.claim(address) {
            Err(claim) => claim,
            Ok(frame) => {
                self.fresh.insert(*address, frame);
                return Ok(frame);
            }
        };
        let digest = FrameDigest::of(bytes);
        if let Some(place) = self.storing.index.find(address, bytes.len())?
            && let Some(owner) = self.storing.owners.iter().position(|id| *id == place.owner)
        {
            let Place { pack, offset, stored_bytes, raw_bytes, .. } = place;
            return Ok(FrameRef { owner: owner as u32, pack, offset, stored_len: stored_bytes, raw_len: raw_bytes, digest });
        }
        let encoded = frame::encode_digested(self.compressor, bytes, digest)
            .map_err(|error| Error::failed("cannot encode a frame").caused_by(error))?;
        let (pack, offset) = self.storing.shared.pool.append(&encoded)?;
        let stored_len = u32::try_from(encoded.stored.len()).map_err(|_| Error::failed("a frame grew beyond 4 GiB"))?;
        let frame = FrameRef { owner: 0, pack, offset, stored_len, raw_len: encoded.raw_len, digest };
        self.fresh.insert(*address, frame);
        claim.frame = Some(frame);
        Ok(frame)
    }

    /// Notes what was stored of the reading that stands.
    fn finish(&mut self) -> Result<Content> {
        let own = &self.storing.owners[0];
        let mut noted: HashSet<Address> = HashSet::new();
        for address in self.content.addresses.iter().map(|address| Address(address.0)) {
            let Some(frame) = self.fresh.get(&address) else { continue };
            if noted.insert(address) {
                let place = Place {
                    owner: own.clone(),
                    pack: frame.pack,
                    offset: frame.offset,
                    stored_bytes: frame.stored_len,
                    raw_bytes: frame.raw_len,
                };
                self.storing.index.record(&address, &place)?;
            }
        }
        Ok(std::mem::take(&mut self.content))
    }
}

impl Drop for Chunks<'_, '_> {
    fn drop(&mut self) {
        // In the index by now, or of a reading that came to nothing.
        let mut pending = self.storing.pending.lock();
        for address in self.fresh.keys() {
            pending.remove(address);
        }
    }
}

impl Sink for Chunks<'_, '_> {
    fn restart(&mut self) -> Result<()> {
        self.content.clear();
        Ok(())
    }

    fn chunk(&mut self, chunk: Chunk<'_>) -> Result<()> {
        let Storing { shared, .. } = self.storing;
        shared.cancel.check()?;
        let frame = self.frame(&chunk.address, chunk.bytes)?;
        self.content.frames.push(frame);
        self.content.addresses.push(Sha256Digest(chunk.address.0));
        self.content.offsets.push(chunk.offset);
        shared.read_bytes.fetch_add(chunk.bytes.len() as u64, Ordering::Relaxed);
        shared.progress.advance(chunk.bytes.len() as u64);
        Ok(())
    }

    fn hole(&mut self, hole: Hole) -> Result<()> {
        // A long one lies between chunks, and is seen from their places.
        if hole.len_bytes < LONG_HOLE_BYTES {
            self.content.holes.push((hole.offset, hole.len_bytes));
        }
        Ok(())
    }
}
