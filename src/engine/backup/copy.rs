//! Copying a data directory: one thread walks beside the base's lines, several encode, one collects; packs leave through
//! a bounded channel.
//!
//! Memory is bounded by the budget of the packs being filled and stored, whatever the size of the source.

use std::fs::File;
use std::iter::Peekable;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use rustix::fs::Advice;

use super::collect::{Collected, Collector, Part};
use super::compare::{Rules, Treatment};
use super::worker::{Chunk, Shared, Stored, Worker};
use crate::base::{Error, ErrorKind, RelPath, Result};
use crate::codec::frame::FRAME_RAW_BYTES;
use crate::repo::base_cache::BaseLine;
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
    /// What the collector collected.
    pub collected: Collected,
    /// What could not be stored and is worth a warning.
    pub skipped: Vec<Skipped>,
    /// Bytes read of files.
    pub read_bytes: u64,
}

/// The lines of the base in the order of their paths, with owners as this backup counts them.
pub(super) type BaseLines = Box<dyn Iterator<Item = Result<BaseLine>> + Send>;

/// A backup to compare with while copying: the base, or this very one as far as an interrupted run had come.
pub(super) struct Base {
    pub lines: Peekable<BaseLines>,
    pub rules: Rules,
}

impl Base {
    /// `lines`, to be compared by `rules`.
    pub fn new(lines: BaseLines, rules: Rules) -> Self {
        Self { lines: lines.peekable(), rules }
    }

    /// The base's line for `path`; paths are asked for in ascending order.
    fn line(&mut self, path: &RelPath) -> Result<Option<BaseLine>> {
        // An error is handed out, too.
        let is_before = |line: &Result<BaseLine>| line.as_ref().is_ok_and(|line| line.line.path < *path);
        while self.lines.next_if(is_before).is_some() {}
        let is_it = |line: &Result<BaseLine>| !line.as_ref().is_ok_and(|line| line.line.path > *path);
        self.lines.next_if(is_it).transpose()
    }
}

/// How an entry is treated, of which the first of `bases` that has it decides.
fn treat(bases: &mut [Base], entry: &Entry) -> Result<Treatment> {
    let mut treatment = Treatment::Whole;
    for base in bases.iter_mut().rev() {
        // All are asked: each is read forwards.
        if let Some(line) = base.line(&entry.path)? {
            treatment = base.rules.treat(entry, line);
        }
    }
    Ok(treatment)
}

/// Copies what `walk` lists except the control file and what one of `bases` has; spills the lines of all entries, in the order
/// of their paths, to the file `spill`. Blocks; must not run on a runtime's worker.
///
/// # Errors
/// The first error of any thread; the others then stop.
pub(super) fn copy(walk: Walk, bases: Vec<Base>, shared: &Shared, workers: usize, spill: &Path) -> Result<Copied> {
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
        let walked = feed(walk, bases, shared, &jobs, &parts);
        drop((jobs, parts));
        let mut errors: Vec<Error> = Vec::new();
        errors.extend(encoding.into_iter().filter_map(|thread| join(thread.join()).err()));
        let collected = join(collecting.join());
        let walked = walked.map_err(|error| errors.push(error)).ok();
        let collected = collected.map_err(|error| errors.push(error)).ok();
        if errors.is_empty() {
            errors.extend(shared.pool.finish().err());
        }
        // A thread that stopped because another one failed says "interrupted": the cause comes first.
        errors.sort_by_key(|error| error.kind() == ErrorKind::Interrupted);
        match (errors.into_iter().next(), collected, walked) {
            (None, Some(collected), Some(skipped)) => {
                Ok(Copied { collected, skipped, read_bytes: shared.read_bytes.load(Ordering::Relaxed) })
            }
            (error, _, _) => Err(error.unwrap_or_else(Error::interrupted)),
        }
    })
}

fn join<T>(outcome: std::thread::Result<Result<T>>) -> Result<T> {
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Numbers every entry and hands it out: files in chunks to the encoders, the rest to the collector.
fn feed(
    mut walk: Walk,
    mut bases: Vec<Base>,
    shared: &Shared,
    jobs: &SyncSender<Job>,
    parts: &SyncSender<Part>,
) -> Result<Vec<Skipped>> {
    let mut sequence = 0;
    for entry in walk.by_ref() {
        shared.cancel.check()?;
        let entry = Arc::new(entry?);
        let has_content = matches!(entry.kind, EntryKind::File | EntryKind::Pages { .. });
        if is_control_file(&entry.path) {
            continue;
        }
        let treatment = if has_content { treat(&mut bases, &entry)? } else { Treatment::Whole };
        let mut tell = |base, stored| {
            sequence += 1;
            let part = Part { sequence: sequence - 1, entry: Arc::clone(&entry), base, stored, last: true };
            parts.send(part).map_err(|_| Error::interrupted())
        };
        let prior = match treatment {
            Treatment::Unread(base) => {
                shared.progress.advance(entry.size_bytes);
                tell(Some(base), None)?;
                continue;
            }
            Treatment::Compare(prior) => Some(prior),
            Treatment::Whole => None,
        };
        if !has_content || entry.size_bytes == 0 {
            tell(prior.map(|prior| prior.base), Some(Stored::default()))?;
            continue;
        }
        let is_sparse = prior.as_ref().is_some_and(|prior| prior.told.is_some() && !prior.audit);
        let advice = if is_sparse { Advice::Random } else { Advice::Sequential };
        let Some(file) = open(&entry, advice)? else { continue };
        let mut offset = 0;
        while offset < entry.size_bytes {
            let len_bytes = CHUNK_BYTES.min(entry.size_bytes - offset);
            let chunk = Chunk { entry: Arc::clone(&entry), file: Arc::clone(&file), offset, len_bytes, prior: prior.clone() };
            offset += len_bytes;
            jobs.send(Job { sequence, chunk, last: offset == entry.size_bytes }).map_err(|_| Error::interrupted())?;
            sequence += 1;
        }
    }
    Ok(walk.skipped().to_vec())
}

/// Opens a file to be read once, all of it or a page here and there; `None` when it vanished since it was listed.
fn open(entry: &Entry, advice: Advice) -> Result<Option<Arc<File>>> {
    match File::open(&entry.location) {
        Ok(file) => {
            // A hint; a file system that does not know it reads as it always does.
            let _ = rustix::fs::fadvise(&file, 0, None, advice);
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
        let stored = Some(worker.chunk(&chunk)?);
        let base = chunk.prior.map(|prior| prior.base);
        parts.send(Part { sequence, entry: chunk.entry, base, stored, last }).map_err(|_| Error::interrupted())?;
    }
}

fn collect(mut collector: Collector, done: &Receiver<Part>) -> Result<Collected> {
    for part in done {
        collector.accept(part)?;
    }
    collector.finish()
}
