//! A database in WAL mode that is held: our read transactions, the open files, the checkpoints.
//!
//! **The guard.** One read transaction is always open. While it is, SQLite begins the log again only when the whole log
//! was in the database file already at the time the transaction began, and copies nothing newer there. To move the guard
//! on, a second transaction begins on the other connection before the first one ends. Its *bound* is what was committed
//! right after it began: once everything up to the bound is captured, nothing can get lost behind it, and the first one
//! may end. So a writer that never stops cannot get between the two.
//!
//! **Checkpoints.** The guard always lags a little, so the program's own checkpoints never reach the log's end, and the
//! log would grow for ever. When it is large, [`Attachment::checkpoint`] does what any connection does at times: a
//! passive checkpoint, which waits for nobody. It moves committed pages from the log into the database file and changes
//! nothing that a reader could see.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::capture::PageIndex;
use super::claim::Claim;
use super::connection::{begin_read, beside, end_read, explain, open_checkpointer, open_reader};
use super::position::{Discontinuity, FileId, Position, Salts};
use super::snapshot::read_header;
use super::walindex::{WAL_INDEX_BYTES, WalIndex};
use crate::base::{Error, FileStamp, Result};

/// How long the index may stay torn before it is taken for one that a writer died over.
const TORN_PATIENCE: Duration = Duration::from_millis(200);
/// How often the guard is taken anew where it stands while part of the log is not in the file. SQLite has four marks for
/// all readers; one that found none free shares an older one, and would hold back checkpoints until the next commit.
const RENEWAL: Duration = Duration::from_millis(500);

/// A held database. Fields are dropped in this order: connections, files, claim (see [`Claim`]).
pub struct Attachment {
    readers: [Connection; 2],
    /// Opened with the first checkpoint.
    checkpointers: Option<[Connection; 2]>,
    log: File,
    index: File,
    claim: Claim,
    path: PathBuf,
    /// Stays as it is while we hold on: it could change only in another journal mode.
    page_size: u32,
    /// Which of `readers` is the guard.
    guard: usize,
    guard_bound: Bound,
    /// Where the other reader's transaction began, if it has one.
    next_bound: Option<Bound>,
    /// When the guard moved last.
    moved: Instant,
    seen: Option<Quiet>,
}

/// What was committed right after a read transaction began.
#[derive(Clone, Copy)]
struct Bound {
    salts: Salts,
    frames: u32,
    /// Whether all of it was in the database file already: then the transaction does not keep the log from being begun
    /// again, and need not.
    lets_restart: bool,
}

/// The database file's time of modification, and the state of checkpoints that goes with it.
#[derive(Clone, Copy, PartialEq)]
struct Quiet {
    modified: (i64, i64),
    salts: Salts,
    backfilled: u32,
}

impl Bound {
    /// Whether everything up to here is in what `at` captured.
    fn is_behind(self, at: &Position) -> bool {
        self.salts == at.salts && self.frames <= at.frame
    }
}

/// Refuses where connecting would make a log or index that belongs to this user, and that the database's program, which is
/// another's, could not write. Of root's SQLite sees to that itself.
fn refuse_to_make_strange_files(database: &File, path: &Path) -> Result<()> {
    let owner = database.metadata().map_err(|error| Error::io("look at", path, error))?.uid();
    let own = rustix::process::geteuid();
    if own.is_root() || own.as_raw() == owner {
        return Ok(());
    }
    for suffix in ["-wal", "-shm"] {
        let beside = beside(path, suffix);
        let is_there = beside.try_exists().map_err(|error| Error::io("look at", &beside, error))?;
        if !is_there {
            let message =
                format!("cannot read {}: {} is not there, and is not this user's to make", path.display(), beside.display());
            return Err(Error::busy(message)
                .hint(format!("run as the user who owns {}, or while its program has it open", path.display())));
        }
    }
    Ok(())
}

impl Attachment {
    /// Takes hold of the database at `path`, an absolute path without links, which is in WAL mode.
    ///
    /// `None` when it is gone, or when it turns out to have left WAL mode.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        let Some(claim) = Claim::open(path)? else { return Ok(None) };
        refuse_to_make_strange_files(&claim.file, path)?;
        let readers = [open_reader(path)?, open_reader(path)?];
        begin_read(&readers[0]).map_err(|error| explain("read", path, error))?;
        let mode: String =
            readers[0].query_row("PRAGMA journal_mode", [], |row| row.get(0)).map_err(|error| explain("read", path, error))?;
        if mode != "wal" {
            drop(readers);
            return Ok(None);
        }
        let page_size = read_header(&claim.file, path)?.page_size;
        let open = |suffix| {
            let path = beside(path, suffix);
            File::open(&path).map_err(|error| Error::io("open", &path, error))
        };
        let (log, index) = (open("-wal")?, open("-shm")?);
        let guard_bound = Bound { salts: Salts(0), frames: u32::MAX, lets_restart: true };
        let mut attachment = Self {
            readers,
            checkpointers: None,
            log,
            index,
            claim,
            path: path.to_owned(),
            page_size,
            guard: 0,
            guard_bound,
            next_bound: None,
            moved: Instant::now(),
            seen: None,
        };
        if attachment.replaced()?.is_some() {
            return Ok(None);
        }
        let WalIndex { salts, frames, .. } = attachment.read_index()?;
        attachment.guard_bound = Bound { salts, frames, lets_restart: false };
        Ok(Some(attachment))
    }

    /// Whether other files have the names of the database, its log or its index now.
    pub fn replaced(&self) -> Result<Option<Discontinuity>> {
        let cases = [
            (&self.claim.file, "", Discontinuity::Replaced),
            (&self.log, "-wal", Discontinuity::LogReplaced),
            (&self.index, "-shm", Discontinuity::LogReplaced),
        ];
        for (file, suffix, what) in cases {
            let path = beside(&self.path, suffix);
            let ours = file.metadata().map_err(|error| Error::io("look at", &path, error))?;
            match std::fs::metadata(&path) {
                Ok(named) if (named.dev(), named.ino()) == (ours.dev(), ours.ino()) => {}
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::io("look at", &path, error)),
                _ => return Ok(Some(what)),
            }
        }
        Ok(None)
    }

    /// The database file's identity.
    pub fn file_id(&self) -> Result<FileId> {
        Ok(FileId::from(&FileStamp::of(&self.metadata()?)))
    }

    /// Where it lies, without links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The database file.
    pub fn database(&self) -> &File {
        &self.claim.file
    }

    /// The log.
    pub fn log(&self) -> &File {
        &self.log
    }

    fn metadata(&self) -> Result<Metadata> {
        self.claim.file.metadata().map_err(|error| Error::io("look at", &self.path, error))
    }

    /// What is committed now.
    pub fn read_index(&self) -> Result<WalIndex> {
        let deadline = Instant::now() + TORN_PATIENCE;
        let mut is_mended = false;
        loop {
            // Two equal readings: neither was taken while something was written.
            if let (Some(first), Some(second)) = (self.try_index()?, self.try_index()?)
                && first == second
            {
                return Ok(first);
            }
            if Instant::now() < deadline {
                std::thread::sleep(Duration::from_micros(200));
            } else if is_mended {
                let path = beside(&self.path, "-shm");
                return Err(Error::busy(format!("cannot read {}: it keeps changing", path.display())));
            } else {
                if self.replaced()?.is_some() {
                    return Err(Error::busy(format!("cannot read {}: it was replaced meanwhile", self.path.display())));
                }
                // A reader that finds the index torn rebuilds it from the log, under SQLite's own locks.
                begin_read(&open_reader(&self.path)?).map_err(|error| explain("read", &self.path, error))?;
                is_mended = true;
            }
        }
    }

    fn try_index(&self) -> Result<Option<WalIndex>> {
        let mut bytes = [0; WAL_INDEX_BYTES];
        match self.index.read_exact_at(&mut bytes, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(Error::io("read", &beside(&self.path, "-shm"), error)),
            Ok(()) => Ok(WalIndex::parse(&bytes)),
        }
    }

    /// Whether the guard has kept everything since `at`.
    pub fn guards(&self, at: &Position) -> bool {
        self.guard_bound.is_behind(at)
    }

    /// Moves the guard on, as far as `at`, up to which everything is captured, allows; and to where it stands in nobody's
    /// way, once the whole log is in the database file.
    pub fn advance(&mut self, at: &Position) -> Result<()> {
        let other = 1 - self.guard;
        if self.next_bound.is_some_and(|bound| bound.salts != at.salts) {
            self.end(other)?;
            self.next_bound = None;
        }
        if self.next_bound.is_none() {
            let before = self.read_index()?;
            let is_complete = before.backfilled == before.frames;
            let is_there = (self.guard_bound.salts, self.guard_bound.frames) == (at.salts, at.frame);
            let is_settled = self.guard_bound.lets_restart || (!is_complete && self.moved.elapsed() < RENEWAL);
            if is_there && is_settled {
                return Ok(());
            }
            begin_read(&self.readers[other]).map_err(|error| explain("read", &self.path, error))?;
            let WalIndex { salts, frames, .. } = self.read_index()?;
            // Only if nothing was committed meanwhile did it begin with the whole log in the file.
            let lets_restart = is_complete && (salts, frames) == (before.salts, before.frames);
            self.next_bound = Some(Bound { salts, frames, lets_restart });
        }
        if let Some(bound) = self.next_bound.filter(|bound| bound.is_behind(at)) {
            self.end(self.guard)?;
            (self.guard, self.guard_bound, self.next_bound) = (other, bound, None);
            self.moved = Instant::now();
        }
        Ok(())
    }

    fn end(&self, reader: usize) -> Result<()> {
        end_read(&self.readers[reader]).map_err(|error| explain("leave", &self.path, error))
    }

    /// Whether the database file was written although no checkpoint ran since this was asked last.
    pub fn was_written_by_others(&mut self) -> Result<bool> {
        let before = self.read_index()?;
        let metadata = self.metadata()?;
        let after = self.read_index()?;
        if !before.is_quiet() || (before.salts, before.backfilled) != (after.salts, after.backfilled) || !after.is_quiet() {
            self.seen = None;
            return Ok(false);
        }
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        let now = Quiet { modified, salts: after.salts, backfilled: after.backfilled };
        let before = self.seen.replace(now);
        Ok(before.is_some_and(|before| {
            (before.salts, before.backfilled) == (now.salts, now.backfilled) && before.modified != now.modified
        }))
    }

    /// The database file's time of modification.
    pub fn modified(&self) -> Result<(i64, i64)> {
        self.metadata().map(|metadata| (metadata.mtime(), metadata.mtime_nsec()))
    }

    /// Whether the database file stayed, for a snapshot of `at`, what it was when its time of modification was `modified`:
    /// what the guard is for, looked at afterwards.
    ///
    /// With all of the log in the file (`in_log` is empty) nothing may have been written to it; else nothing newer.
    pub(super) fn kept_still(&self, at: &Position, in_log: &PageIndex, modified: (i64, i64)) -> Result<bool> {
        if in_log.is_empty() {
            return Ok(self.modified()? == modified);
        }
        let index = self.read_index()?;
        Ok(index.salts == at.salts && index.backfill_attempted <= at.frame)
    }

    /// Bytes of the log that are in use.
    pub fn log_bytes(&self, index: &WalIndex) -> u64 {
        u64::from(index.frames) * (u64::from(self.page_size) + super::wal::FRAME_HEADER_BYTES as u64)
    }

    /// A passive checkpoint, and the guard moved to where it lets the next writer begin the log again.
    ///
    /// `at` is what is captured. Says whether all of the log is in the database file now.
    pub fn checkpoint(&mut self, at: &Position) -> Result<bool> {
        self.advance(at)?;
        self.passive()?;
        self.advance(at)?;
        let index = self.read_index()?;
        Ok(index.backfilled == index.frames)
    }

    fn passive(&mut self) -> Result<()> {
        let path = self.path.clone();
        let run = |connection: &Connection| connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        run(&self.checkpointers()?[0]).map_err(|error| explain("checkpoint", &path, error))
    }

    /// The same while writers wait, for one that never leaves a gap: `capture` must bring the capture up to the index it
    /// is given, in memory, and return the new position; `None` gives up. Writers wait for the length of this call.
    pub fn checkpoint_alone(&mut self, capture: &mut dyn FnMut(&Self, &WalIndex) -> Result<Option<Position>>) -> Result<bool> {
        let begun = self.checkpointers()?[1].execute_batch("BEGIN IMMEDIATE");
        match begun {
            Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) => return Ok(false),
            result => result.map_err(|error| explain("checkpoint", &self.path, error))?,
        }
        let result = self.checkpoint_locked(capture);
        let ended = end_read(&self.checkpointers()?[1]).map_err(|error| explain("checkpoint", &self.path, error));
        result.and_then(|done| ended.map(|()| done))
    }

    fn checkpoint_locked(&mut self, capture: &mut dyn FnMut(&Self, &WalIndex) -> Result<Option<Position>>) -> Result<bool> {
        let index = self.read_index()?;
        let Some(at) = capture(self, &index)? else { return Ok(false) };
        // A transaction that waits with an older bound would hold the checkpoint back.
        self.end(1 - self.guard)?;
        self.next_bound = None;
        self.checkpoint(&at)
    }

    fn checkpointers(&mut self) -> Result<&[Connection; 2]> {
        if self.checkpointers.is_none() {
            self.checkpointers = Some([open_checkpointer(&self.path)?, open_checkpointer(&self.path)?]);
        }
        Ok(self.checkpointers.as_ref().expect("opened above"))
    }
}
