//! The pages of a snapshot as the manifest has them: frames of 256 KiB, and patches of 8 KiB where a base has the rest.
//!
//! One thread reads the snapshot, in order, and compares each 8 KiB of it with the base by a digest of 16 bytes; others
//! compress and store what changed. Scattered changes are stored as patches, so that a diff or an incr is about as large as
//! the pages that changed; where half of a frame or more did, the frame is stored whole. Of 8 KiB rather than of the
//! database's own pages, so that they are the manifest's, whatever the size of a page.

use std::fs::File;
use std::io::{BufWriter, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use super::DATABASE;
use super::base::OpenBase;
use crate::base::{Error, FileStamp, RelPath, Result, Timestamp};
use crate::codec::FrameDigest;
use crate::codec::frame::FRAME_RAW_BYTES;
use crate::engine::backup::collect::base_line;
use crate::engine::backup::worker::{PatchBuffer, Position, Shared, Stored, Worker};
use crate::repo::base_cache::BaseLine;
use crate::repo::manifest::{PAGES_IN_FRAME, PATCH_PAGE_BYTES, Patch};
use crate::source::sqlite::digests::PageComparison;
use crate::source::{Entry, EntryKind, Fork};

/// So many changed pages of a frame are stored apart; with more of them it is stored whole.
const MOST_PATCHED: u32 = PAGES_IN_FRAME / 2;
/// Frames read ahead of the threads that compress them.
const READ_AHEAD: usize = 8;

/// Something of the snapshot to be stored.
enum Task {
    Whole { index: usize, raw: Vec<u8> },
    Pages { index: usize, raw: Vec<u8>, changed: u32 },
}

/// Takes the pages of a snapshot, in order.
pub(super) type EachPage<'a> = dyn FnMut(&[u8]) -> Result<()> + 'a;

/// Stores what `copy` hands over, every page of a snapshot, and `base` has not. Gives the one line of the manifest; writes a
/// digest of every 8 KiB into a new file at `digests`. `path` is the database's.
///
/// # Errors
/// Those of `copy`, and when packs are no longer stored.
pub(super) fn store(
    copy: impl FnOnce(&mut EachPage<'_>) -> Result<()>,
    base: Option<OpenBase>,
    shared: &Shared,
    workers: usize,
    (path, digests): (&Path, &Path),
) -> Result<BaseLine> {
    let (old, base_digests) = base.map_or((None, None), |base| (Some(base.line), Some(base.digests)));
    let file = File::create(digests).map_err(|error| Error::io("create", digests, error))?;
    let comparison = PageComparison::new(base_digests, BufWriter::new(file));
    let entry = entry(path)?;
    let stored = std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel(READ_AHEAD);
        // Goes with the last thread: then nobody waits to hand something over.
        let receiver = Arc::new(Mutex::new(receiver));
        let start = |receiver: Arc<Mutex<Receiver<Task>>>| scope.spawn(move || store_all(&receiver, shared));
        let storing: Vec<_> = (1..workers.max(1)).map(|_| start(Arc::clone(&receiver))).collect();
        let last = start(receiver);
        let reading = Reading { old: old.as_ref(), comparison, raw: Vec::new(), positions: Vec::new(), sender, shared, digests };
        let read = reading.run(copy);
        let mut stored = Vec::new();
        for thread in storing.into_iter().chain([last]) {
            stored.push(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        // A thread that could not store is why the reading ended.
        let stored: Vec<Done> = stored.into_iter().collect::<Result<_>>()?;
        read.map(|positions| (positions, stored))
    })
    .map(|(positions, stored)| assembled(positions, stored))?;
    shared.pool.finish()?;
    Ok(base_line(&entry, stored, old.as_ref()))
}

/// What one thread stored.
#[derive(Default)]
struct Done {
    frames: Vec<(usize, Position)>,
    patches: Vec<Patch>,
}

fn store_all(tasks: &Mutex<Receiver<Task>>, shared: &Shared) -> Result<Done> {
    let mut worker = Worker::new(shared)?;
    let (mut done, mut patch) = (Done::default(), PatchBuffer::default());
    loop {
        let task = tasks.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match task {
            Ok(Task::Whole { index, raw }) => {
                let frame = worker.frame(&raw, FrameDigest::of(&raw))?;
                done.frames.push((index, Position::Stored(frame)));
            }
            Ok(Task::Pages { index, raw, changed }) => {
                worker.patch(&mut patch, &mut done.patches, &raw, (index * FRAME_RAW_BYTES) as u64, changed)?;
                done.frames.push((index, Position::Patched(FrameDigest::of(&raw))));
            }
            // All were read.
            Err(_) => break,
        }
    }
    worker.flush_patch(&mut patch, &mut done.patches)?;
    Ok(done)
}

fn assembled(mut positions: Vec<Position>, stored: Vec<Done>) -> Stored {
    let mut patches = Vec::new();
    for done in stored {
        done.frames.into_iter().for_each(|(index, position)| positions[index] = position);
        patches.extend(done.patches);
    }
    Stored { positions, patches, ..Stored::default() }
}

/// The reading thread.
struct Reading<'a> {
    old: Option<&'a BaseLine>,
    comparison: PageComparison<Box<dyn Read + Send>, BufWriter<File>>,
    /// What was read of the frame that is being read.
    raw: Vec<u8>,
    /// Of each frame that was read: the base's, until its thread says otherwise.
    positions: Vec<Position>,
    sender: SyncSender<Task>,
    shared: &'a Shared,
    digests: &'a Path,
}

impl Reading<'_> {
    fn run(mut self, copy: impl FnOnce(&mut EachPage<'_>) -> Result<()>) -> Result<Vec<Position>> {
        copy(&mut |page| {
            // Pages and frames are powers of two: a frame ends where a page does.
            self.raw.extend_from_slice(page);
            if self.raw.len() >= FRAME_RAW_BYTES { self.frame() } else { Ok(()) }
        })?;
        if !self.raw.is_empty() {
            self.frame()?;
        }
        self.comparison.finish().map_err(|error| Error::io("write", self.digests, error))?;
        Ok(self.positions)
    }

    /// Compares the frame that was read, and has it stored as far as it changed.
    fn frame(&mut self) -> Result<()> {
        self.shared.cancel.check()?;
        let (raw, index) = (std::mem::take(&mut self.raw), self.positions.len());
        let mut changed = 0u32;
        for (bit, unit) in raw.chunks(PATCH_PAGE_BYTES as usize).enumerate() {
            let is_changed = self.comparison.is_changed(unit).map_err(|error| Error::io("write", self.digests, error))?;
            changed |= u32::from(is_changed) << bit;
        }
        self.shared.read_bytes.fetch_add(raw.len() as u64, std::sync::atomic::Ordering::Relaxed);
        self.shared.progress.advance(raw.len() as u64);
        self.positions.push(Position::Inherited);
        let is_there = self.old.and_then(|old| old.line.frames.get(index)).is_some_and(|old| old.raw_len as usize == raw.len());
        // Only whole pages can be patches.
        let tail = raw.len() % PATCH_PAGE_BYTES as usize != 0 && changed >> (raw.len() / PATCH_PAGE_BYTES as usize) != 0;
        let task = match changed {
            0 if is_there => return Ok(()),
            _ if !is_there || tail || changed.count_ones() > MOST_PATCHED => Task::Whole { index, raw },
            _ => Task::Pages { index, raw, changed },
        };
        // A thread that failed says why itself.
        self.sender.send(task).map_err(|_| Error::interrupted())
    }
}

/// The database file, as the manifest has it.
fn entry(path: &Path) -> Result<Entry> {
    let metadata = std::fs::metadata(path).map_err(|error| Error::io("look at", path, error))?;
    let modified = metadata.modified().map_or_else(|_| Timestamp::now(), Timestamp::from_system_time);
    Ok(Entry {
        path: RelPath::new(DATABASE).map_err(Error::failed)?,
        location: path.to_owned(),
        kind: EntryKind::Pages { first_block: 0, fork: Fork::Main },
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        modified,
        stamp: Some(FileStamp::of(&metadata)),
        size_bytes: metadata.len(),
    })
}
