//! One thread's work: read, check pages, compare with the base, compress, and append to one of the packs that all threads
//! share.
//!
//! A file is stored at the length it had when it was listed: what has meanwhile been cut off is stored as zeros, as
//! PostgreSQL's own base backup does; replaying the log sets it right.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::compare::{Change, Prior, Seen};
use super::pool::{Pool, Reserved};
use crate::base::cancel::Cancel;
use crate::base::progress::Progress;
use crate::base::{Error, FileStamp, Lsn, Result};
use crate::codec::compress::Compressor;
use crate::codec::frame::{self, FRAME_RAW_BYTES};
use crate::codec::{FrameDigest, Sha256Digest, digest};
use crate::repo::manifest::{PAGES_IN_FRAME, Patch};
use crate::repo::pack::FrameRef;
use crate::source::postgres::changes::PageSet;
use crate::source::postgres::page::{PAGE_BYTES, Page, PageState, verify_page};
use crate::source::{Entry, EntryKind};

/// Looks at a page that fails its checksum before it is called bad …
const PAGE_READS: u32 = 5;
/// … and the pause between two of them: a torn page is being written at this moment.
const PAGE_PAUSE: Duration = Duration::from_millis(20);
/// Bad pages in one part of a file for which that is done.
const PATIENT_PAGES: usize = 16;

/// A finished pack on its way to the repository.
pub(in crate::engine) struct FinishedPack {
    pub number: u32,
    pub stored: Bytes,
    pub sha256: Sha256Digest,
    /// Its part of the budget, given back when it has been stored.
    pub reserved: Reserved,
}

/// What all threads of one copy share.
pub(in crate::engine) struct Shared {
    pub pool: Pool,
    pub compression_level: i32,
    /// Whether pages carry checksums.
    pub checksums: bool,
    pub progress: Arc<dyn Progress>,
    pub cancel: Cancel,
    /// Bytes read of files so far.
    pub read_bytes: AtomicU64,
}

/// A part of one file, which begins where a frame does.
pub(super) struct Chunk {
    pub entry: Arc<Entry>,
    pub file: Arc<File>,
    pub offset: u64,
    pub len_bytes: u64,
    /// What the base has of the file.
    pub prior: Option<Prior>,
}

/// What became of one frame of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Position {
    /// It was stored.
    Stored(FrameRef),
    /// It is the base's.
    Inherited,
    /// It is the base's but for pages that were stored apart; all of it has this digest.
    Patched(FrameDigest),
}

/// What became of a chunk.
#[derive(Default)]
pub(in crate::engine) struct Stored {
    pub positions: Vec<Position>,
    pub patches: Vec<Patch>,
    pub bad_blocks: Vec<u32>,
    pub marks: Vec<u16>,
    /// Pages of the file that changed though change detection says that they did not.
    pub missed: Vec<u32>,
    /// Pages of the file that a record changed although the log told of none, and their LSNs.
    pub untold: Vec<(u32, Lsn)>,
}

impl Stored {
    /// Adds what became of the next chunk of the same file.
    pub fn append(&mut self, next: Stored) {
        self.positions.extend(next.positions);
        self.patches.extend(next.patches);
        self.bad_blocks.extend(next.bad_blocks);
        self.marks.extend(next.marks);
        self.missed.extend(next.missed);
        self.untold.extend(next.untold);
    }

    /// `frames` and nothing else.
    pub fn of_frames(frames: Vec<FrameRef>) -> Self {
        Self { positions: frames.into_iter().map(Position::Stored).collect(), ..Self::default() }
    }
}

/// Pages of one file that are stored together.
#[derive(Default)]
pub(in crate::engine) struct PatchBuffer {
    raw: Vec<u8>,
    runs: Vec<(u32, u32)>,
}

impl PatchBuffer {
    fn add(&mut self, page: u32, raw: &[u8]) {
        self.raw.extend_from_slice(raw);
        match self.runs.last_mut() {
            Some((first, count)) if *first + *count == page => *count += 1,
            _ => self.runs.push((page, 1)),
        }
    }
}

/// One thread's state.
pub(in crate::engine) struct Worker<'a> {
    shared: &'a Shared,
    compressor: Compressor,
    buffer: Vec<u8>,
}

impl<'a> Worker<'a> {
    pub fn new(shared: &'a Shared) -> Result<Self> {
        let compressor =
            Compressor::new(shared.compression_level).map_err(|error| Error::failed("cannot start zstd").caused_by(error))?;
        Ok(Self { shared, compressor, buffer: vec![0; FRAME_RAW_BYTES] })
    }

    /// Stores what changed in one chunk.
    pub(super) fn chunk(&mut self, chunk: &Chunk) -> Result<Stored> {
        let mut stored = Stored::default();
        let mut patch = PatchBuffer::default();
        let mut done: u64 = 0;
        let mut buffer = std::mem::take(&mut self.buffer);
        while done < chunk.len_bytes {
            self.shared.cancel.check()?;
            let wanted = usize::try_from(chunk.len_bytes - done).unwrap_or(usize::MAX).min(FRAME_RAW_BYTES);
            let (raw, at) = (&mut buffer[..wanted], chunk.offset + done);
            if !self.told_frame(chunk, (at, raw), &mut stored, &mut patch)? {
                self.read_frame(chunk, (at, raw), &mut stored, &mut patch)?;
            }
            self.shared.progress.advance(wanted as u64);
            done += wanted as u64;
        }
        self.flush_patch(&mut patch, &mut stored.patches)?;
        self.buffer = buffer;
        Ok(stored)
    }

    /// Reads one frame, which lies at `at` of its file, and stores what changed in it.
    fn read_frame(
        &mut self,
        chunk: &Chunk,
        (at, raw): (u64, &mut [u8]),
        stored: &mut Stored,
        patch: &mut PatchBuffer,
    ) -> Result<()> {
        let read = read_at(&chunk.file, raw, at).map_err(|error| Error::io("read", &chunk.entry.location, error))?;
        raw[read..].fill(0);
        self.note_read(read);
        let mut suspicious = 0;
        let marked = stored.marks.len();
        if let EntryKind::Pages { first_block, .. } = chunk.entry.kind {
            suspicious = check_pages(chunk, raw, at, first_block, self.shared.checksums, &mut stored.bad_blocks)?;
            stored.marks.extend(raw.chunks(PAGE_BYTES).map(digest::mark));
        }
        let digest = FrameDigest::of(raw);
        let change = match &chunk.prior {
            None => Change::Whole,
            Some(prior) => {
                let index = usize::try_from(at / FRAME_RAW_BYTES as u64).unwrap_or(usize::MAX);
                if let EntryKind::Pages { first_block, .. } = chunk.entry.kind {
                    suspicious |= prior.bad_pages(first_block, index);
                }
                let seen = Seen { index, raw, digest, marks: &stored.marks[marked..], suspicious };
                let verdict = prior.judge(&seen);
                stored.missed.extend(missed_pages(chunk, prior, index, verdict.missed));
                if let Some(told) = prior.told.as_ref().filter(|_| prior.audit) {
                    stored.untold.extend(told.untold(index, raw, suspicious));
                }
                verdict.change
            }
        };
        stored.positions.push(match change {
            Change::Same => Position::Inherited,
            Change::Whole => Position::Stored(self.frame(raw, digest)?),
            Change::Pages(pages) => {
                self.patch(patch, &mut stored.patches, raw, at, pages)?;
                Position::Patched(digest)
            }
        });
        Ok(())
    }

    /// Whether pages carry checksums.
    pub(super) fn checksums(&self) -> bool {
        self.shared.checksums
    }

    /// Counts bytes that were read.
    pub(super) fn note_read(&self, bytes: usize) {
        self.shared.read_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Adds `pages` of `raw`, which lies at `offset` of its file, to `patch`; stores it when it is full.
    pub(in crate::engine) fn patch(
        &mut self,
        patch: &mut PatchBuffer,
        patches: &mut Vec<Patch>,
        raw: &[u8],
        offset: u64,
        pages: PageSet,
    ) -> Result<()> {
        let first = u32::try_from(offset / PAGE_BYTES as u64).map_err(|_| Error::failed("a relation's file is too large"))?;
        for (index, page) in (0..PageSet::BITS).zip(raw.chunks(PAGE_BYTES)) {
            if pages & (1 << index) != 0 {
                patch.add(first + index, page);
                if patch.raw.len() >= FRAME_RAW_BYTES {
                    self.flush_patch(patch, patches)?;
                }
            }
        }
        Ok(())
    }

    /// Stores what is left in `patch`.
    pub fn flush_patch(&mut self, patch: &mut PatchBuffer, patches: &mut Vec<Patch>) -> Result<()> {
        let PatchBuffer { raw, runs } = std::mem::take(patch);
        if !raw.is_empty() {
            patches.push(Patch { frame: self.frame(&raw, FrameDigest::of(&raw))?, runs });
        }
        Ok(())
    }

    /// Stores `content`, which lies in memory.
    pub fn content(&mut self, content: &[u8]) -> Result<Vec<FrameRef>> {
        content.chunks(FRAME_RAW_BYTES).map(|raw| self.frame(raw, FrameDigest::of(raw))).collect()
    }

    /// Stores one frame.
    pub fn frame(&mut self, raw: &[u8], digest: FrameDigest) -> Result<FrameRef> {
        let encode = |error: io::Error| Error::failed("cannot encode a frame").caused_by(error);
        let encoded = frame::encode_digested(&mut self.compressor, raw, digest).map_err(encode)?;
        let stored_len = u32::try_from(encoded.stored.len()).map_err(|_| Error::failed("a frame grew beyond 4 GiB"))?;
        let (pack, offset) = self.shared.pool.append(&encoded)?;
        Ok(FrameRef { owner: 0, pack, offset, stored_len, raw_len: encoded.raw_len, digest: encoded.digest })
    }
}

/// Reads until `buffer` is full or the file ends.
pub(super) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], offset + read as u64) {
            Ok(0) => break,
            Ok(count) => read += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

/// The missed pages of frame `index`, counted in the file. One in a file that is touched only now was not missed: the log
/// holds what changes while a backup runs.
fn missed_pages(chunk: &Chunk, prior: &Prior, index: usize, missed: PageSet) -> Vec<u32> {
    let stamp = || chunk.file.metadata().ok().map(|metadata| FileStamp::of(&metadata));
    if missed == 0 || (prior.claimed_untouched && stamp() != chunk.entry.stamp) {
        return Vec::new();
    }
    let first = u32::try_from(index).unwrap_or(u32::MAX).saturating_mul(PAGES_IN_FRAME);
    (0..PageSet::BITS).filter(|bit| missed & (1 << bit) != 0).map(|bit| first.saturating_add(bit)).collect()
}

/// Checks every whole page in `raw`, which lies at `offset` of the file, and replaces those that were being written.
/// Gives the pages that cannot be told unchanged by their LSN: all zero, or damaged when first read.
pub(super) fn check_pages(
    chunk: &Chunk,
    raw: &mut [u8],
    offset: u64,
    first_block: u32,
    checksums: bool,
    bad: &mut Vec<u32>,
) -> Result<PageSet> {
    let mut suspicious = 0;
    let (pages, _) = raw.as_chunks_mut::<PAGE_BYTES>();
    for (index, page) in pages.iter_mut().enumerate() {
        let at = offset + (index * PAGE_BYTES) as u64;
        let block = first_block.wrapping_add(u32::try_from(at / PAGE_BYTES as u64).unwrap_or(u32::MAX));
        let state = verify_page(page, block, checksums);
        if state != PageState::Good {
            suspicious |= 1 << index;
        }
        // Where many pages are bad, the disk is, and waiting for each would take days.
        let patient = bad.len() < PATIENT_PAGES;
        if state.is_bad() && !settle(chunk, page, at, block, checksums, patient)? {
            bad.push(block);
        }
    }
    Ok(suspicious)
}

/// Reads a failing page again. True when it is right now, or has changed meanwhile: then it was being written, and the
/// log repairs it with the page image that every first change after the backup's start carries.
fn settle(chunk: &Chunk, page: &mut Page, at: u64, block: u32, checksums: bool, patient: bool) -> Result<bool> {
    for _ in 0..if patient { PAGE_READS } else { 1 } {
        if patient {
            std::thread::sleep(PAGE_PAUSE);
        }
        let mut again: Page = [0; PAGE_BYTES];
        let read = read_at(&chunk.file, &mut again, at).map_err(|error| Error::io("read", &chunk.entry.location, error))?;
        if again != *page || read < PAGE_BYTES {
            *page = again;
            return Ok(true);
        }
        if !verify_page(&again, block, checksums).is_bad() {
            return Ok(true);
        }
    }
    Ok(false)
}
