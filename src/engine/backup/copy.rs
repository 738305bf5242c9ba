//! Copying a data directory: one thread walks, several encode, one collects; packs leave through a bounded channel.
//!
//! Memory is bounded by the budget of the packs being filled and stored, whatever the size of the source.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use super::collect::{Collected, Collector, Part};
use super::worker::{Chunk, Shared, Stored, Worker};
use crate::base::{Error, ErrorKind, Result};
use crate::codec::frame::FRAME_RAW_BYTES;
use crate::source::postgres::walk::{Skipped, Walk, is_control_file};
use crate::source::{Entry, EntryKind};

/// Raw bytes one thread takes at a time: whole frames, so that a large file keeps all threads busy.
const CHUNK_BYTES: u64 = 64 * FRAME_RAW_BYTES as u64;

/// A numbered chunk, and whether it is the last of its entry.
struct Job {
    sequence: u64,
    chunk: Chunk,
    last: bool,
}

/// What a copy leaves behind.
pub(super) struct Copied {
    /// JSON lines of every entry, in the order of their paths.
    pub spill: PathBuf,
    /// What could not be stored and is worth a warning.
    pub skipped: Vec<Skipped>,
    /// Numeric owners of the entries.
    pub uids: BTreeSet<u32>,
    /// Numeric groups of the entries.
    pub gids: BTreeSet<u32>,
}

/// Copies everything that `walk` lists except the control file. Blocks; must not run on a runtime's worker.
///
/// # Errors
/// The first error of any thread; the others then stop.
pub(super) fn copy(walk: Walk, shared: &Shared, workers: usize, spill: &Path) -> Result<Copied> {
    let collector = Collector::new(spill)?;
    let (jobs, work) = sync_channel::<Job>(workers * 4);
    let (parts, done) = sync_channel::<Part>(1024);
    let work = Mutex::new(work);
    std::thread::scope(|scope| {
        let collecting = scope.spawn(move || collect(collector, &done));
        let encoding: Vec<_> = (0..workers)
            .map(|_| {
                let (work, parts) = (&work, parts.clone());
                scope.spawn(move || encode(shared, work, &parts))
            })
            .collect();
        let walked = feed(walk, shared, &jobs, &parts);
        drop((jobs, parts));
        let mut errors: Vec<Error> = Vec::new();
        errors.extend(encoding.into_iter().filter_map(|thread| join(thread.join()).err()));
        let spill = join(collecting.join());
        let walked = walked.map_err(|error| errors.push(error)).ok();
        let spill = spill.map_err(|error| errors.push(error)).ok();
        if errors.is_empty() {
            errors.extend(shared.pool.finish().err());
        }
        // A thread that stopped because another one failed says "interrupted": the cause comes first.
        errors.sort_by_key(|error| error.kind() == ErrorKind::Interrupted);
        match (errors.into_iter().next(), spill, walked) {
            (None, Some(Collected { spill, uids, gids }), Some(skipped)) => Ok(Copied { spill, skipped, uids, gids }),
            (error, _, _) => Err(error.unwrap_or_else(Error::interrupted)),
        }
    })
}

fn join<T>(outcome: std::thread::Result<Result<T>>) -> Result<T> {
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Numbers every entry and hands it out: files in chunks to the encoders, the rest to the collector.
fn feed(mut walk: Walk, shared: &Shared, jobs: &SyncSender<Job>, parts: &SyncSender<Part>) -> Result<Vec<Skipped>> {
    let mut sequence = 0;
    let mut number = || {
        sequence += 1;
        sequence - 1
    };
    for entry in walk.by_ref() {
        shared.cancel.check()?;
        let entry = Arc::new(entry?);
        let has_content = matches!(entry.kind, EntryKind::File | EntryKind::Pages { .. });
        if is_control_file(&entry.path) {
            continue;
        }
        if !has_content || entry.size_bytes == 0 {
            let part = Part { sequence: number(), entry, stored: Stored::default(), last: true };
            parts.send(part).map_err(|_| Error::interrupted())?;
            continue;
        }
        let Some(file) = open(&entry)? else { continue };
        let mut offset = 0;
        while offset < entry.size_bytes {
            let len_bytes = CHUNK_BYTES.min(entry.size_bytes - offset);
            let chunk = Chunk { entry: Arc::clone(&entry), file: Arc::clone(&file), offset, len_bytes };
            offset += len_bytes;
            let job = Job { sequence: number(), chunk, last: offset == entry.size_bytes };
            jobs.send(job).map_err(|_| Error::interrupted())?;
        }
    }
    Ok(walk.skipped().to_vec())
}

/// Opens a file to be read once from start to end; `None` when it vanished since it was listed.
fn open(entry: &Entry) -> Result<Option<Arc<File>>> {
    match File::open(&entry.location) {
        Ok(file) => {
            // A hint; a file system that does not know it reads as it always does.
            let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
            Ok(Some(Arc::new(file)))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            Err(Error::io("read", &entry.location, error)
                .hint("run lifeboat as the user that owns the data directory, or as root"))
        }
    }
}

/// One encoding thread. However it ends early, the walk must not wait for it: it cancels the rest and takes what work
/// is still handed out, without doing it.
fn encode(shared: &Shared, work: &Mutex<Receiver<Job>>, parts: &SyncSender<Part>) -> Result<()> {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| encode_all(shared, work, parts)));
    if !matches!(outcome, Ok(Ok(()))) {
        shared.cancel.cancel();
        while work.lock().is_ok_and(|work| work.recv().is_ok()) {}
    }
    join(outcome)
}

fn encode_all(shared: &Shared, work: &Mutex<Receiver<Job>>, parts: &SyncSender<Part>) -> Result<()> {
    let mut worker = Worker::new(shared)?;
    loop {
        let job = work.lock().map_err(|_| Error::interrupted())?.recv();
        let Ok(Job { sequence, chunk, last }) = job else { return Ok(()) };
        let stored = worker.chunk(&chunk)?;
        parts.send(Part { sequence, entry: chunk.entry, stored, last }).map_err(|_| Error::interrupted())?;
    }
}

fn collect(mut collector: Collector, done: &Receiver<Part>) -> Result<Collected> {
    for part in done {
        collector.accept(part)?;
    }
    collector.finish()
}
