//! One thread's work: read, check pages, compress, and append to one of the packs that all threads share.
//!
//! A file is stored at the length it had when it was listed: what has meanwhile been cut off is stored as zeros, as
//! PostgreSQL's own base backup does; replaying the log sets it right.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::pool::{Pool, Reserved};
use crate::base::cancel::Cancel;
use crate::base::progress::Progress;
use crate::base::{Error, Result};
use crate::codec::Sha256Digest;
use crate::codec::compress::Compressor;
use crate::codec::frame::{self, FRAME_RAW_BYTES};
use crate::repo::pack::FrameRef;
use crate::source::postgres::page::{PAGE_BYTES, Page, verify_page};
use crate::source::{Entry, EntryKind};

/// Looks at a page that fails its checksum before it is called bad …
const PAGE_READS: u32 = 5;
/// … and the pause between two of them: a torn page is being written at this moment.
const PAGE_PAUSE: Duration = Duration::from_millis(20);
/// Bad pages in one part of a file for which that is done.
const PATIENT_PAGES: usize = 16;

/// A finished pack on its way to the repository.
pub(super) struct FinishedPack {
    pub number: u32,
    pub stored: Bytes,
    pub sha256: Sha256Digest,
    /// Its part of the budget, given back when it has been stored.
    pub reserved: Reserved,
}

/// What all threads of one copy share.
pub(super) struct Shared {
    pub pool: Pool,
    pub compression_level: i32,
    /// Whether pages carry checksums.
    pub checksums: bool,
    pub progress: Arc<dyn Progress>,
    pub cancel: Cancel,
}

/// A part of one file.
pub(super) struct Chunk {
    pub entry: Arc<Entry>,
    pub file: Arc<File>,
    pub offset: u64,
    pub len_bytes: u64,
}

/// What became of a chunk.
#[derive(Default)]
pub(super) struct Stored {
    pub frames: Vec<FrameRef>,
    pub bad_blocks: Vec<u32>,
}

/// One thread's state.
pub(super) struct Worker<'a> {
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

    /// Stores one chunk.
    pub fn chunk(&mut self, chunk: &Chunk) -> Result<Stored> {
        let mut stored = Stored::default();
        let mut done: u64 = 0;
        let mut buffer = std::mem::take(&mut self.buffer);
        while done < chunk.len_bytes {
            self.shared.cancel.check()?;
            let wanted = usize::try_from(chunk.len_bytes - done).unwrap_or(usize::MAX).min(FRAME_RAW_BYTES);
            let raw = &mut buffer[..wanted];
            let at = chunk.offset + done;
            let read = read_at(&chunk.file, raw, at).map_err(|error| Error::io("read", &chunk.entry.location, error))?;
            raw[read..].fill(0);
            if let EntryKind::Pages { first_block, .. } = chunk.entry.kind {
                check_pages(chunk, raw, at, first_block, self.shared.checksums, &mut stored.bad_blocks)?;
            }
            stored.frames.push(self.frame(raw)?);
            self.shared.progress.advance(wanted as u64);
            done += wanted as u64;
        }
        self.buffer = buffer;
        Ok(stored)
    }

    /// Stores `content`, which lies in memory.
    pub fn content(&mut self, content: &[u8]) -> Result<Vec<FrameRef>> {
        content.chunks(FRAME_RAW_BYTES).map(|raw| self.frame(raw)).collect()
    }

    fn frame(&mut self, raw: &[u8]) -> Result<FrameRef> {
        let encode = |error: io::Error| Error::failed("cannot encode a frame").caused_by(error);
        let encoded = frame::encode(&mut self.compressor, raw).map_err(encode)?;
        let stored_len = u32::try_from(encoded.stored.len()).map_err(|_| Error::failed("a frame grew beyond 4 GiB"))?;
        let (pack, offset) = self.shared.pool.append(&encoded)?;
        Ok(FrameRef { owner: 0, pack, offset, stored_len, raw_len: encoded.raw_len, digest: encoded.digest })
    }
}

/// Reads until `buffer` is full or the file ends.
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
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

/// Checks every whole page in `raw`, which lies at `offset` of the file, and replaces those that were being written.
fn check_pages(chunk: &Chunk, raw: &mut [u8], offset: u64, first_block: u32, checksums: bool, bad: &mut Vec<u32>) -> Result<()> {
    let (pages, _) = raw.as_chunks_mut::<PAGE_BYTES>();
    for (index, page) in pages.iter_mut().enumerate() {
        let at = offset + (index * PAGE_BYTES) as u64;
        let block = first_block.wrapping_add(u32::try_from(at / PAGE_BYTES as u64).unwrap_or(u32::MAX));
        // Where many pages are bad, the disk is, and waiting for each would take days.
        let patient = bad.len() < PATIENT_PAGES;
        if verify_page(page, block, checksums).is_bad() && !settle(chunk, page, at, block, checksums, patient)? {
            bad.push(block);
        }
    }
    Ok(())
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
