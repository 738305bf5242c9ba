//! One database, watched: what the engine calls, in this order, again and again.
//!
//! 1. [`Watch::resume`] with the moment that was stored last, if there is one.
//! 2. [`Watch::poll`], every 250 ms or more often.
//! 3. [`Poll::Batch`]: [`Watch::copy_batch`], store it durably, then [`Watch::stored`]. What could not be stored is not
//!    acknowledged; the next poll captures it again, with whatever followed.
//! 4. [`Poll::SnapshotNeeded`]: [`Watch::snapshot`], [`Watch::copy_snapshot`], store it, [`Watch::stored`].
//! 5. [`Watch::maintain`]: moves the guard on and checkpoints. It may fail without harm; the next one tries again.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::Connection;

use super::attach::Attachment;
use super::capture::{Batch, Pages, capture, position, read_page, scan};
use super::claim::Claim;
use super::connection::{begin_read, beside, explain, open_reader};
use super::position::{Boot, Discontinuity, FileId, Moment, Position, Salts};
use super::probe::{Probe, probe};
use super::snapshot::{Snapshot, copy_pages, pages_of, read_header};
use super::track::{Step, next_step};
use super::wal::{Broken, LogFile};
use super::walindex::WalIndex;
use crate::base::units::format_bytes;
use crate::base::{Error, FileStamp, Result, Timestamp, durable};

/// How many bytes of the log are read at most while writers wait for a checkpoint, and how many of pages held in memory.
const ALONE_LOG_BYTES: u64 = 64 << 20;
const ALONE_PAGE_BYTES: u64 = 16 << 20;
/// The disk of a log below this is not asked what it has left.
const SMALL_LOG_BYTES: u64 = 64 << 20;
/// So much of a snapshot is copied between two looks at the log that grows meanwhile.
const LOOK_EVERY_BYTES: u64 = 1 << 20;
/// How often a log that changes under the reading of a snapshot is read again.
const SNAPSHOT_ATTEMPTS: u32 = 5;

/// When the log is made small again; each in bytes of the log, `None` for never.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Above this a passive checkpoint runs, which nobody waits for.
    pub checkpoint_above_bytes: Option<u64>,
    /// Above this a checkpoint runs for which writers wait, some milliseconds: for one that never leaves a gap.
    pub checkpoint_alone_above_bytes: Option<u64>,
    /// Above this a log that cannot be stored is let go, so that it does not fill the disk; then a snapshot is needed. A smaller
    /// one, too, when it is large and its disk has little more left than it takes to move it into the database; while a
    /// snapshot is copied only then, for without one nothing is backed up.
    pub let_go_above_bytes: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            checkpoint_above_bytes: Some(4 << 20),
            checkpoint_alone_above_bytes: Some(64 << 20),
            let_go_above_bytes: Some(4 << 30),
        }
    }
}

/// What there is to do.
#[derive(Clone, Debug)]
pub enum Poll {
    /// Nothing can be backed up there now; see [`Probe::refusal`]. It is looked at again with the next poll.
    Unready(Probe),
    /// The database keeps a rollback journal: its commits cannot be followed, only snapshots taken.
    SnapshotOnly {
        /// Changes with every transaction.
        change_counter: u32,
    },
    /// Only a fresh snapshot goes on.
    SnapshotNeeded(Discontinuity),
    /// Nothing was committed since what was stored last.
    Unchanged {
        /// Until when that is known.
        complete_at: Timestamp,
    },
    /// Transactions to store.
    Batch(Arc<Batch>),
}

/// One watched database.
pub struct Watch {
    path: PathBuf,
    options: Options,
    attachment: Option<Attachment>,
    /// The lock under which a snapshot of a database with a rollback journal is copied.
    still: Option<Still>,
    /// What was stored last.
    stored: Option<Moment>,
    /// Whether the guard has kept everything since then.
    is_guarded: bool,
    /// Why a snapshot is needed, when nothing is stored to go on from.
    lost: Discontinuity,
    /// The snapshot that the guard covers.
    snapshot_at: Option<Position>,
    /// Captured while writers waited; comes before anything else.
    ahead: Option<Arc<Batch>>,
    was_offered: bool,
    /// The log of the file that another one replaced under its name.
    left_behind: Option<LogFile>,
    last_captured: Option<Timestamp>,
}

/// A thread of the engine's own may hold it.
const _: () = {
    const fn is_send<T: Send>() {}
    is_send::<Watch>();
};

struct Still {
    // Dropped in this order, see `Claim`.
    _reader: Connection,
    claim: Claim,
}

impl Watch {
    /// Watches `path`, where a database need not exist yet.
    pub fn new(path: impl Into<PathBuf>, options: Options) -> Self {
        Self {
            path: path.into(),
            options,
            attachment: None,
            still: None,
            stored: None,
            is_guarded: false,
            lost: Discontinuity::NoSnapshot,
            snapshot_at: None,
            ahead: None,
            was_offered: false,
            left_behind: None,
            last_captured: None,
        }
    }

    /// Goes on from what an earlier process stored last, if the log still leads on from there.
    pub fn resume(&mut self, moment: Moment) {
        self.detach(Discontinuity::Restarted);
        self.stored = Some(moment);
        self.only_later_than(moment.captured_at);
    }

    /// Nothing goes on from what [`Watch::resume`] was told.
    pub fn forget(&mut self) {
        if self.stored.is_some() {
            self.lose(Discontinuity::NoSnapshot);
            self.detach(Discontinuity::NoSnapshot);
        }
    }

    /// Has every moment from now on be captured later than `captured_at`, whatever the clock says.
    pub fn only_later_than(&mut self, captured_at: Timestamp) {
        self.last_captured = self.last_captured.max(Some(captured_at));
    }

    /// Looks what was committed since what was stored last.
    pub fn poll(&mut self) -> Result<Poll> {
        self.still = None;
        if let Some(ahead) = &self.ahead {
            return Ok(Poll::Batch(ahead.clone()));
        }
        // Before anything is looked at: what is committed from now on need not be seen.
        let complete_at = Timestamp::now();
        self.let_go_if_replaced()?;
        if self.attachment.is_none() {
            if self.has_log_of_another()? {
                return Ok(Poll::Unready(Probe::StrangeLog));
            }
            match probe(&self.path)? {
                Probe::Wal(_) if self.stored.is_none() => return Ok(Poll::SnapshotNeeded(self.lost)),
                Probe::Wal(_) => {
                    if !self.attach()? {
                        return Ok(Poll::Unready(Probe::Changing));
                    }
                }
                Probe::Rollback(header) => {
                    self.lose(Discontinuity::OtherMode);
                    return Ok(Poll::SnapshotOnly { change_counter: header.change_counter });
                }
                unready => return Ok(Poll::Unready(unready)),
            }
        }
        self.poll_attached(complete_at)
    }

    fn poll_attached(&mut self, complete_at: Timestamp) -> Result<Poll> {
        let attachment = self.attachment.as_mut().expect("attached by the caller");
        let is_foreign = attachment.was_written_by_others()?;
        let index = attachment.read_index()?;
        let Some(stored) = self.stored else { return self.lost_now(&index) };
        let step = match next_step(&stored.at, &index, self.is_guarded) {
            _ if is_foreign => Step::Lost(Discontinuity::ForeignWrite),
            _ if attachment.file_id()? != stored.at.file => Step::Lost(Discontinuity::Replaced),
            step => step,
        };
        let is_new_generation = match step {
            Step::Unchanged => {
                self.is_guarded |= attachment.guards(&stored.at);
                return Ok(Poll::Unchanged { complete_at });
            }
            Step::Lost(reason) => return Ok(self.give_up(reason)),
            Step::Continue => false,
            Step::NewGeneration => true,
        };
        if self.was_offered && self.is_too_large(&index)? {
            return Ok(self.give_up(Discontinuity::LetGo));
        }
        let attachment = self.attachment.as_ref().expect("attached by the caller");
        let scan = match capture(attachment.log(), &stored.at, &index, is_new_generation) {
            Ok(scan) => scan,
            Err(Ok(reason)) => return Ok(self.give_up(reason)),
            Err(Err(broken)) => return Err(self.cannot_read_log(broken)),
        };
        let at = position(stored.at.file, &index, stored.at.page_size, index.pages);
        let to = Moment { complete_at, captured_at: next_capture(&mut self.last_captured, complete_at), at };
        self.was_offered = true;
        Ok(Poll::Batch(Arc::new(Batch { from: stored, to, commits: scan.commits, pages: Pages::Log(scan.index) })))
    }

    /// What comes next is not proven. The locks are let go too: they may be what failed, and the snapshot needs new ones.
    fn give_up(&mut self, reason: Discontinuity) -> Poll {
        self.lose(reason);
        self.detach(reason);
        Poll::SnapshotNeeded(reason)
    }

    /// A snapshot is needed: but a log that grows meanwhile is not held for ever.
    fn lost_now(&mut self, index: &WalIndex) -> Result<Poll> {
        if self.is_too_large(index)? {
            self.detach(self.lost);
        }
        Ok(Poll::SnapshotNeeded(self.lost))
    }

    /// Whether a log that cannot be stored now must be let go.
    fn is_too_large(&self, index: &WalIndex) -> Result<bool> {
        let (Some(attachment), Some(limit)) = (&self.attachment, self.options.let_go_above_bytes) else { return Ok(false) };
        Ok(attachment.log_bytes(index) > limit || self.fills_its_disk(attachment, index)?.is_some())
    }

    /// Bytes of a large log whose disk has less left than that and half as much again, and what it has: a checkpoint may have
    /// to write all of it, while more is committed.
    fn fills_its_disk(&self, attachment: &Attachment, index: &WalIndex) -> Result<Option<(u64, u64)>> {
        let size = attachment.log_bytes(index);
        if self.options.let_go_above_bytes.is_none_or(|limit| size <= limit.min(SMALL_LOG_BYTES)) {
            return Ok(None);
        }
        let dir = durable::directory_of(attachment.path());
        let free = durable::free_bytes(dir).map_err(|error| Error::io("look at the disk of", dir, error))?;
        Ok((size + size / 2 > free).then_some((size, free)))
    }

    /// Calls `each` with every page of a batch (number counted from 1, content), numbers rising.
    ///
    /// An error when the log is no longer what it was: then the batch must not be stored.
    pub fn copy_batch(&self, batch: &Batch, mut each: impl FnMut(u32, &[u8]) -> Result<()>) -> Result<()> {
        match &batch.pages {
            Pages::Memory(pages) => pages.iter().try_for_each(|(page, content)| each(*page, content)),
            Pages::Log(index) => {
                let attachment = self.attachment_of(&batch.to.at)?;
                let mut buffer = vec![0; batch.to.at.page_size as usize];
                index.iter().try_for_each(|(page, place)| {
                    read_page(attachment.log(), &self.path, *page, *place, &mut buffer)?;
                    each(*page, &buffer)
                })
            }
        }
    }

    /// Takes hold of the database's present state.
    ///
    /// With a rollback journal, commits wait from now until [`Watch::copy_snapshot`] has returned.
    pub fn snapshot(&mut self) -> Result<Snapshot> {
        (self.ahead, self.still) = (None, None);
        let complete_at = Timestamp::now();
        self.let_go_if_replaced()?;
        if self.attachment.is_none() {
            if self.has_log_of_another()? {
                return Err(self.refusal(Probe::StrangeLog));
            }
            match probe(&self.path)? {
                Probe::Wal(_) if self.attach()? => {}
                Probe::Rollback(_) => return self.still_snapshot(complete_at),
                Probe::Wal(_) => return Err(self.refusal(Probe::Changing)),
                other => return Err(self.refusal(other)),
            }
        }
        self.log_snapshot(complete_at)
    }

    fn log_snapshot(&mut self, complete_at: Timestamp) -> Result<Snapshot> {
        let mut attempts = 0;
        loop {
            let attachment = self.attachment.as_ref().expect("attached by the caller");
            let index = attachment.read_index()?;
            let header = read_header(attachment.database(), &self.path)?;
            let pages = match index.frames {
                0 => pages_of(attachment.database(), &self.path, &header)?,
                _ => index.pages,
            };
            let in_log = match index.backfilled == index.frames {
                true => Ok(BTreeMap::new()),
                false => scan(attachment.log(), None, &index).map(|scan| scan.index),
            };
            let in_log = match in_log {
                Ok(in_log) => in_log,
                Err(broken) if attempts == SNAPSHOT_ATTEMPTS => return Err(self.cannot_read_log(broken)),
                Err(_) => {
                    attempts += 1;
                    continue;
                }
            };
            let at = position(attachment.file_id()?, &index, header.page_size, pages);
            let moment = Moment { complete_at, captured_at: next_capture(&mut self.last_captured, complete_at), at };
            let modified = attachment.modified()?;
            self.snapshot_at = Some(at);
            return Ok(Snapshot { moment, continues: true, in_log, modified });
        }
    }

    fn still_snapshot(&mut self, complete_at: Timestamp) -> Result<Snapshot> {
        let path = std::fs::canonicalize(&self.path).map_err(|error| Error::io("find", &self.path, error))?;
        let claim = Claim::open(&path)?.ok_or_else(|| self.refusal(Probe::Changing))?;
        let reader = open_reader(&path)?;
        begin_read(&reader).map_err(|error| explain("read", &path, error))?;
        let captured_at = next_capture(&mut self.last_captured, complete_at);
        let header = read_header(&claim.file, &path)?;
        let metadata = claim.file.metadata().map_err(|error| Error::io("look at", &path, error))?;
        let named = std::fs::metadata(&path).map_err(|error| Error::io("look at", &path, error))?;
        if header.is_wal || (named.dev(), named.ino()) != (metadata.dev(), metadata.ino()) {
            drop(reader);
            return Err(self.refusal(Probe::Changing));
        }
        let at = Position {
            file: FileId::from(&FileStamp::of(&metadata)),
            salts: Salts(0),
            frame: 0,
            checksum: [0, 0],
            change_counter: header.change_counter,
            page_size: header.page_size,
            pages: pages_of(&claim.file, &path, &header)?,
            boot: Boot::current(),
        };
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        self.still = Some(Still { _reader: reader, claim });
        let moment = Moment { complete_at, captured_at, at };
        Ok(Snapshot { moment, continues: false, in_log: BTreeMap::new(), modified })
    }

    /// Calls `each` with every page of a snapshot (number counted from 1, content), in order.
    ///
    /// Only when it returns without an error were the pages of one commit. A log that grows meanwhile is looked at between
    /// two pages: before it fills its disk the database is let go, and the snapshot given up.
    pub fn copy_snapshot(&mut self, snapshot: &Snapshot, mut each: impl FnMut(u32, &[u8]) -> Result<()>) -> Result<()> {
        let foreign = |path: &Path| {
            let message = format!("cannot back up {}: it was written by something that heeds no locks", path.display());
            Error::busy(message).hint("copy nothing over a database that is in use: stop its programs, move it and its -wal and -shm away, then rename the new file")
        };
        if let Some(still) = self.still.take() {
            copy_pages(snapshot, (&still.claim.file, None), &self.path, &mut each)?;
            let metadata = still.claim.file.metadata().map_err(|error| Error::io("look at", &self.path, error))?;
            let is_same = snapshot.modified == (metadata.mtime(), metadata.mtime_nsec());
            return if is_same { Ok(()) } else { Err(foreign(&self.path)) };
        }
        let attachment = self.attachment_of(&snapshot.moment.at)?;
        let look_every = LOOK_EVERY_BYTES / u64::from(snapshot.moment.at.page_size);
        let mut is_too_large = false;
        let copied = copy_pages(snapshot, (attachment.database(), Some(attachment.log())), &self.path, &mut |page, content| {
            if u64::from(page).is_multiple_of(look_every)
                && let Some(error) = self.log_that_fills_its_disk(attachment)?
            {
                is_too_large = true;
                return Err(error);
            }
            each(page, content)
        });
        if is_too_large {
            self.give_up(Discontinuity::LetGo);
        }
        copied?;
        let attachment = self.attachment_of(&snapshot.moment.at)?;
        if attachment.kept_still(&snapshot.moment.at, &snapshot.in_log, snapshot.modified)? {
            return Ok(());
        }
        let error = foreign(&self.path);
        self.lose(Discontinuity::ForeignWrite);
        self.detach(Discontinuity::ForeignWrite);
        Err(error)
    }

    /// Why the database must be let go although a snapshot of it is being copied.
    fn log_that_fills_its_disk(&self, attachment: &Attachment) -> Result<Option<Error>> {
        let filled = self.fills_its_disk(attachment, &attachment.read_index()?)?;
        Ok(filled.map(|(size, free)| {
            Error::busy(format!("cannot back up {}: its write-ahead log grew while it was copied", self.path.display()))
                .detail("log", format_bytes(size))
                .detail("free on its disk", format_bytes(free))
                .hint("make room on the disk of the database, or back it up while less is written")
        }))
    }

    /// Tells that the snapshot or batch that leads to `moment` is stored durably.
    pub fn stored(&mut self, moment: &Moment) {
        (self.ahead, self.was_offered) = (None, false);
        self.is_guarded |= self.snapshot_at == Some(moment.at);
        self.stored = self.attachment.is_some().then_some(*moment);
        self.is_guarded |= self.attachment.as_ref().is_some_and(|attachment| attachment.guards(&moment.at));
    }

    /// Lets the database go, when nothing is stored that could be gone on from: others of this process may open it then.
    pub fn let_go(&mut self) {
        if self.stored.is_none() {
            self.still = None;
            self.detach(self.lost);
        }
    }

    /// Moves the guard on to what is stored, and makes a large log small again.
    pub fn maintain(&mut self) -> Result<()> {
        // Checkpoints open the file by its name: of another one there they would write this one's pages into it.
        if self.replaced()?.is_some() {
            return Ok(());
        }
        let (Some(attachment), Some(stored)) = (&mut self.attachment, self.stored) else { return Ok(()) };
        if !self.is_guarded || self.ahead.is_some() {
            return Ok(());
        }
        attachment.advance(&stored.at)?;
        let size = attachment.log_bytes(&attachment.read_index()?);
        let is_above = |limit: Option<u64>| limit.is_some_and(|limit| size > limit);
        if is_above(self.options.checkpoint_above_bytes) && attachment.checkpoint(&stored.at)? {
            return Ok(());
        }
        if !is_above(self.options.checkpoint_alone_above_bytes) {
            return Ok(());
        }
        let complete_at = Timestamp::now();
        let (path, ahead, last_captured) = (&self.path, &mut self.ahead, &mut self.last_captured);
        let mut capture = |attachment: &Attachment, index: &WalIndex| -> Result<Option<Position>> {
            match next_step(&stored.at, index, true) {
                Step::Unchanged if stored.at.salts == index.salts => return Ok(Some(stored.at)),
                Step::Continue => {}
                _ => return Ok(None),
            }
            let captured_at = next_capture(last_captured, complete_at);
            let at = position(stored.at.file, index, stored.at.page_size, index.pages);
            let batch = capture_in_memory(attachment, path, &stored, index, Moment { complete_at, captured_at, at })?;
            let at = batch.as_ref().map(|batch| batch.to.at);
            *ahead = batch.map(Arc::new);
            Ok(at)
        };
        attachment.checkpoint_alone(&mut capture).map(|_| ())
    }

    /// The moment that was stored last and is still gone on from.
    pub fn stored_moment(&self) -> Option<&Moment> {
        self.stored.as_ref()
    }

    /// Frames of the log that are committed and frames of it that are in the database file, while it is held.
    pub fn log_frames(&self) -> Result<Option<(u32, u32)>> {
        let Some(attachment) = &self.attachment else { return Ok(None) };
        attachment.read_index().map(|index| Some((index.frames, index.backfilled)))
    }

    fn refusal(&self, probe: Probe) -> Error {
        probe.refusal(&self.path).expect("what is refused has a reason")
    }

    fn attach(&mut self) -> Result<bool> {
        let path = match std::fs::canonicalize(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            result => result.map_err(|error| Error::io("find", &self.path, error))?,
        };
        self.attachment = Attachment::open(&path)?;
        Ok(self.attachment.is_some())
    }

    fn replaced(&self) -> Result<Option<Discontinuity>> {
        let Some(attachment) = &self.attachment else { return Ok(None) };
        match std::fs::canonicalize(&self.path) {
            Ok(path) if path == attachment.path() => attachment.replaced(),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("find", &self.path, error)),
            _ => Ok(Some(Discontinuity::Replaced)),
        }
    }

    fn let_go_if_replaced(&mut self) -> Result<()> {
        let Some(reason) = self.replaced()? else { return Ok(()) };
        let log = self.attachment.as_ref().map(|attachment| LogFile::of(attachment.log())).transpose();
        let log = log.map_err(|error| Error::io("look at the write-ahead log of", &self.path, error))?;
        self.left_behind = log.filter(|_| reason == Discontinuity::Replaced).flatten();
        self.lose(reason);
        self.detach(reason);
        Ok(())
    }

    /// Whether the log of a file that was replaced lies beside the new one: SQLite would apply it to that.
    fn has_log_of_another(&mut self) -> Result<bool> {
        let Some(left) = self.left_behind else { return Ok(false) };
        let path = beside(&self.path, "-wal");
        let now = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            file => file.and_then(|file| LogFile::of(&file)),
        };
        let is_there = now.map_err(|error| Error::io("look at", &path, error))? == Some(left);
        self.left_behind = self.left_behind.filter(|_| is_there);
        Ok(is_there)
    }

    fn lose(&mut self, reason: Discontinuity) {
        (self.stored, self.lost, self.is_guarded, self.was_offered) = (None, reason, false, false);
    }

    fn detach(&mut self, reason: Discontinuity) {
        (self.attachment, self.snapshot_at, self.ahead, self.is_guarded) = (None, None, None, false);
        self.lost = reason;
    }

    fn attachment_of(&self, at: &Position) -> Result<&Attachment> {
        let gone = || Error::busy(format!("cannot read {}: it was replaced meanwhile", self.path.display()));
        let attachment = self.attachment.as_ref().ok_or_else(gone)?;
        if attachment.file_id()? == at.file { Ok(attachment) } else { Err(gone()) }
    }

    fn cannot_read_log(&self, broken: Broken) -> Error {
        let cannot = |why: String| Error::damaged(format!("cannot read the write-ahead log of {}: {why}", self.path.display()));
        match broken {
            Broken::Io(error) => Error::io("read the write-ahead log of", &self.path, error),
            Broken::Header(why) => cannot(why.to_owned()),
            Broken::Frame(number) => cannot(format!("frame {number}, which SQLite counts as committed, does not fit")),
        }
    }
}

/// The next time of capture: now, but later than the one before.
fn next_capture(last: &mut Option<Timestamp>, complete_at: Timestamp) -> Timestamp {
    let now = Timestamp::now().max(complete_at);
    let next = last.map_or(now, |last| now.max(last.plus(std::time::Duration::from_micros(1))));
    *last = Some(next);
    next
}

/// The batch up to `index` with its pages; `None` when it is too large or does not fit.
fn capture_in_memory(attachment: &Attachment, path: &Path, from: &Moment, index: &WalIndex, to: Moment) -> Result<Option<Batch>> {
    let bytes_of = |pages: u64| pages * u64::from(from.at.page_size);
    if bytes_of(u64::from(index.frames - from.at.frame)) > ALONE_LOG_BYTES {
        return Ok(None);
    }
    let Ok(scan) = capture(attachment.log(), &from.at, index, false) else { return Ok(None) };
    if bytes_of(scan.index.len() as u64) > ALONE_PAGE_BYTES {
        return Ok(None);
    }
    let mut pages = BTreeMap::new();
    for (page, place) in scan.index {
        let mut content = vec![0; from.at.page_size as usize];
        read_page(attachment.log(), path, page, place, &mut content)?;
        pages.insert(page, content);
    }
    Ok(Some(Batch { from: *from, to, commits: scan.commits, pages: Pages::Memory(pages) }))
}
