//! Reading a directory: one thread walks beside the base's entries, several read files, and everything is spilled in the
//! order of paths.
//!
//! Invariants:
//! - Every task of the walk has its place in a window; what is done at its lower end is written. The window has
//!   [`WINDOW`] places and room for [`WINDOW_CHUNKS`], so memory does not grow with the tree; with the largest file it does,
//!   by about 100 bytes for 150 KiB.
//! - Each reading is [settled](Scan::settle) by the thread that walks, before it walks on. A further name of a file that is
//!   being read waits for that: when it came to nothing, the next name is read in its place and the others wait for that one.
//! - The window's lower end always moves: whatever a place waits for is being read, and was handed out before.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError, channel, sync_channel};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use super::line::{Content, entry_of, line_of};
use super::store::{Pending, Storing, Worker};
use super::trouble::Trouble;
use crate::base::{BackupId, Error, ErrorKind, RelPath, Result, killpoint};
use crate::engine::backup::worker::Shared;
use crate::repo::base_cache::BaseReader;
use crate::repo::manifest::FileLine;
use crate::source::directory::beneath::Root;
use crate::source::directory::compare::Trust;
use crate::source::directory::entry::{Entry, Identity, Node};
use crate::source::directory::index::Index;
use crate::source::directory::owners::Owners;
use crate::source::directory::read::{Reading, Within};
use crate::source::directory::scan::{BaseEntries, Scan, Tally, Task};
use crate::source::directory::walk::WalkOptions;

/// Tasks at hand at one time.
const WINDOW: usize = 8192;
/// Chunks of files that were read and wait for an earlier one, at one time: about 30 MiB of lines for 40 GB of files. One
/// file's may be more: 1 TB has seven million.
const WINDOW_CHUNKS: usize = 1 << 18;

/// Files that wait for a reading thread: each of them may hold a directory open.
const MOST_QUEUED: usize = 64;

/// What is to be read, and beside what.
pub(super) struct Job {
    /// The protected directory.
    pub root: Arc<Root>,
    /// How it is walked.
    pub walk: WalkOptions,
    /// The base's lines, and how far they are believed.
    pub base: Option<(PathBuf, Trust)>,
    /// This backup and its chain.
    pub owners: Vec<BackupId>,
    /// Threads that read.
    pub workers: usize,
    /// The file for the lines.
    pub spill: PathBuf,
}

/// What came of it.
pub(super) struct Gathered {
    /// What was met.
    pub tally: Tally,
    /// Lines in the spill file.
    pub lines: u64,
    /// Who owns things there.
    pub owners: Owners,
    /// What is not whole.
    pub trouble: Trouble,
    /// The directory itself.
    pub root: Node,
}

/// A line of the spill file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Spilled {
    /// The base's line for this path holds.
    Kept(RelPath),
    /// This one does.
    Line(Box<FileLine>),
}

impl Spilled {
    fn chunks(&self) -> usize {
        match self {
            Self::Kept(_) => 0,
            Self::Line(line) => line.frames.len(),
        }
    }
}

/// Entries of the base whose lines are in the file `path`.
///
/// # Errors
/// When it cannot be opened.
pub(super) fn base_entries(path: &Path) -> Result<BaseEntries<'static>> {
    Ok(Box::new(BaseReader::open(path)?.map(|line| entry_of(&line?.line))))
}

/// Walks and reads. Blocks; must not run on a runtime's worker.
///
/// # Errors
/// The first error of any thread; the others then stop.
pub(super) fn gather(job: &Job, shared: &Shared, index: &Index) -> Result<Gathered> {
    let base = job.base.as_ref().map(|(path, trust)| Ok::<_, Error>((base_entries(path)?, *trust))).transpose()?;
    let scan = Scan::new(Arc::clone(&job.root), job.walk.clone(), base)?;
    let pending = Pending::default();
    let storing = Storing { root: &job.root, shared, index, pending: &pending, owners: &job.owners };
    let (jobs, work) = sync_channel::<ToRead>((job.workers * 4).min(MOST_QUEUED));
    let (done, results) = channel();
    let work = Mutex::new(work);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..job.workers.max(1))
            .map(|_| {
                let (work, done) = (&work, done.clone());
                scope.spawn(move || read_all(storing, work, &done))
            })
            .collect();
        drop(done);
        let gathered = Gathering::new(scan, jobs, results, &job.spill).and_then(|gathering| gathering.run(shared));
        let mut errors: Vec<Error> = Vec::new();
        for reader in readers {
            errors.extend(reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).err());
        }
        let gathered = gathered.map_err(|error| errors.push(error)).ok();
        if errors.is_empty() {
            errors.extend(shared.pool.finish().err());
        }
        // Whoever stopped because another one failed says "interrupted": the cause comes first.
        errors.sort_by_key(|error| error.kind() == ErrorKind::Interrupted);
        match (errors.into_iter().next(), gathered) {
            (None, Some(gathered)) => Ok(gathered),
            (error, _) => Err(error.unwrap_or_else(Error::interrupted)),
        }
    })
}

/// A file for a reading thread.
struct ToRead {
    sequence: u64,
    within: Within,
    walked: Entry,
}

/// What became of a file.
struct Done {
    sequence: u64,
    walked: Entry,
    reading: Reading,
    content: Content,
}

/// One reading thread. When it ends early the walk must not wait for it: whoever has lost one stops.
fn read_all(storing: Storing<'_>, work: &Mutex<Receiver<ToRead>>, done: &Sender<Result<Done>>) -> Result<()> {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| -> Result<()> {
        let mut worker = Worker::new(storing)?;
        loop {
            let next = work.lock().map_err(|_| Error::interrupted())?.recv();
            let Ok(ToRead { sequence, within, walked }) = next else { return Ok(()) };
            killpoint::reach("tree.read");
            let (reading, content) = worker.read(&within, walked.clone())?;
            // Nobody is there to hear of it any more: the walk says why.
            let _ = done.send(Ok(Done { sequence, walked, reading, content }));
        }
    }));
    if !matches!(outcome, Ok(Ok(()))) {
        let _ = done.send(Err(Error::interrupted()));
        // The walk may be waiting to hand out work.
        while work.lock().is_ok_and(|work| work.recv().is_ok()) {}
    }
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A task's place in the window.
enum Slot {
    /// A file that is being read.
    Reading,
    /// A further name of one that is, and the directory it lies in.
    Waiting(Box<(Entry, Identity)>),
    /// Done: what is to be written, if anything.
    Done(Option<Spilled>),
}

struct Gathering<'b> {
    scan: Scan<'b>,
    jobs: SyncSender<ToRead>,
    results: Receiver<Result<Done>>,
    out: BufWriter<File>,
    spill: PathBuf,
    /// Places from number `written` on.
    window: VecDeque<Slot>,
    written: u64,
    /// Chunks in the lines of the window.
    chunks: usize,
    reading: usize,
    /// Files with several names that are being read, and the places of names that wait for them.
    firsts: BTreeMap<RelPath, Vec<u64>>,
    lines: u64,
    owners: Owners,
    trouble: Trouble,
}

impl<'b> Gathering<'b> {
    fn new(scan: Scan<'b>, jobs: SyncSender<ToRead>, results: Receiver<Result<Done>>, spill: &Path) -> Result<Self> {
        let out = BufWriter::new(File::create(spill).map_err(|error| Error::io("create", spill, error))?);
        Ok(Self {
            scan,
            jobs,
            results,
            out,
            spill: spill.to_owned(),
            window: VecDeque::new(),
            written: 0,
            chunks: 0,
            reading: 0,
            firsts: BTreeMap::new(),
            lines: 0,
            owners: Owners::default(),
            trouble: Trouble::default(),
        })
    }

    fn run(mut self, shared: &Shared) -> Result<Gathered> {
        loop {
            shared.cancel.check()?;
            self.take_results()?;
            match self.scan.next() {
                None => break,
                Some(task) => self.accept(task?)?,
            }
            self.write_done()?;
        }
        while self.reading > 0 {
            let done = self.wait()?;
            self.settle(done)?;
            self.write_done()?;
        }
        self.write_done()?;
        self.out.flush().map_err(|error| Error::io("write", &self.spill, error))?;
        let (tally, root) = (self.scan.tally(), self.scan.root_node().clone());
        self.owners.add(&root);
        Ok(Gathered { tally, lines: self.lines, owners: self.owners, trouble: self.trouble, root })
    }

    /// Settles what was read meanwhile; while the window is full, waits for more.
    fn take_results(&mut self) -> Result<()> {
        loop {
            let done = match self.results.try_recv() {
                Ok(done) => done?,
                Err(TryRecvError::Empty) if self.window.len() < WINDOW && self.chunks < WINDOW_CHUNKS => return Ok(()),
                Err(_) => self.wait()?,
            };
            self.settle(done)?;
            self.write_done()?;
        }
    }

    fn wait(&self) -> Result<Done> {
        self.results.recv().map_err(|_| Error::interrupted())?
    }

    fn accept(&mut self, task: Task) -> Result<()> {
        let sequence = self.written + self.window.len() as u64;
        let slot = match task {
            Task::Keep(entry) => {
                self.owners.add(&entry.node);
                Slot::Done(Some(Spilled::Kept(entry.path)))
            }
            Task::Store(entry) => Slot::Done(Some(self.line(entry, Content::default()))),
            Task::Left(left) => {
                self.trouble.note_left(&left);
                return Ok(());
            }
            Task::Link(entry, parent) => match entry.first_link.as_ref().and_then(|first| self.firsts.get_mut(first)) {
                Some(waiting) => {
                    waiting.push(sequence);
                    Slot::Waiting(Box::new((entry, parent)))
                }
                None => Slot::Done(Some(self.line(entry, Content::default()))),
            },
            Task::Read(entry, parent) => {
                self.read(ToRead { sequence, within: Within::Open(parent.fd), walked: entry }, Vec::new())?;
                Slot::Reading
            }
        };
        self.window.push_back(slot);
        Ok(())
    }

    /// Hands out a file, for which the names at the places `waiting` wait.
    fn read(&mut self, file: ToRead, waiting: Vec<u64>) -> Result<()> {
        if file.walked.node.links > 1 {
            self.firsts.insert(file.walked.path.clone(), waiting);
        }
        self.reading += 1;
        self.jobs.send(file).map_err(|_| Error::interrupted())
    }

    /// What was read takes its place, and with it whatever waited for it.
    fn settle(&mut self, done: Done) -> Result<()> {
        let Done { sequence, walked, reading, content } = done;
        self.reading -= 1;
        let is_whole = self.scan.settle(&walked, &reading)?;
        let spilled = match reading {
            Reading::Read(mut entry) | Reading::Unread(mut entry) => {
                if is_whole {
                    // Names that the walk saw link to it, although they may be gone by now.
                    entry.node.links = entry.node.links.max(walked.node.links);
                }
                Some(self.line(entry, content))
            }
            Reading::Left(left) => {
                self.trouble.note_left(&left);
                None
            }
        };
        self.place(sequence, Slot::Done(spilled));
        let mut waiting = self.firsts.remove(&walked.path).unwrap_or_default().into_iter();
        if is_whole {
            for sequence in waiting {
                let (link, _) = self.waiting(sequence)?;
                let line = self.line(link, Content::default());
                self.place(sequence, Slot::Done(Some(line)));
            }
        } else if let Some(next) = waiting.next() {
            let (link, parent) = self.waiting(next)?;
            let entry = Entry { first_link: None, ..link };
            self.scan.promote(&entry)?;
            let rest: Vec<u64> = waiting.collect();
            for sequence in &rest {
                let (link, parent) = self.waiting(*sequence)?;
                let link = Entry { first_link: Some(entry.path.clone()), ..link };
                self.place(*sequence, Slot::Waiting(Box::new((link, parent))));
            }
            self.place(next, Slot::Reading);
            self.read(ToRead { sequence: next, within: Within::Path(parent), walked: entry }, rest)?;
        }
        Ok(())
    }

    fn line(&mut self, entry: Entry, content: Content) -> Spilled {
        self.owners.add(&entry.node);
        self.trouble.note_entry(&entry);
        Spilled::Line(Box::new(line_of(entry, content)))
    }

    /// The link that waits at a place, and its directory.
    fn waiting(&mut self, sequence: u64) -> Result<(Entry, Identity)> {
        match self.slot(sequence) {
            Some(Slot::Waiting(link)) => Ok((**link).clone()),
            _ => Err(Error::failed("a hard link was lost on the way: this is a bug")),
        }
    }

    fn place(&mut self, sequence: u64, slot: Slot) {
        let chunks = if let Slot::Done(Some(spilled)) = &slot { spilled.chunks() } else { 0 };
        if let Some(place) = self.slot(sequence) {
            *place = slot;
            self.chunks += chunks;
        }
    }

    fn slot(&mut self, sequence: u64) -> Option<&mut Slot> {
        let at = usize::try_from(sequence.checked_sub(self.written)?).ok()?;
        self.window.get_mut(at)
    }

    /// Writes what is done at the lower end of the window.
    fn write_done(&mut self) -> Result<()> {
        while let Some(Slot::Done(spilled)) = self.window.front_mut() {
            if let Some(spilled) = spilled.take() {
                self.chunks -= spilled.chunks();
                let written = serde_json::to_writer(&mut self.out, &spilled).map_err(Into::into);
                written.and_then(|()| self.out.write_all(b"\n")).map_err(|error| Error::io("write", &self.spill, error))?;
                self.lines += 1;
            }
            self.window.pop_front();
            self.written += 1;
        }
        Ok(())
    }
}

/// The lines in the file `spill`, in the order of their paths.
pub(super) struct SpillReader {
    path: PathBuf,
    inner: BufReader<File>,
    buffer: Vec<u8>,
}

impl SpillReader {
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|error| Error::io("read", path, error))?;
        Ok(Self { path: path.to_owned(), inner: BufReader::with_capacity(256 << 10, file), buffer: Vec::new() })
    }
}

impl Iterator for SpillReader {
    type Item = Result<Spilled>;

    fn next(&mut self) -> Option<Self::Item> {
        self.buffer.clear();
        match self.inner.read_until(b'\n', &mut self.buffer) {
            Ok(0) => None,
            Ok(_) => Some(serde_json::from_slice(&self.buffer).map_err(|error| Error::io("read", &self.path, error.into()))),
            Err(error) => Some(Err(Error::io("read", &self.path, error))),
        }
    }
}
