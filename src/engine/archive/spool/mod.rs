//! Segments that a recovery will ask for next, fetched ahead of it by a process that lives as long as the recovery.
//!
//! How this could end a recovery too early, or hand over what is wrong, and what stands against it:
//!
//! | danger | against it |
//! |---|---|
//! | a segment is said not to be in the archive because it was not fetched ahead | the spool says "here it is" or "fetch it yourself", nothing else; only `archive get`'s own listing says that it is not there |
//! | a torn, old or forged file is handed over | the spool has no files: what it holds was fetched and compared with its digest by this process, lies in files without a name ([`held`]), and is gone with the process |
//! | a late answer replaces the next segment | the spool links a file to the fresh name that the one who asks gave it; renaming it is that one's own |
//! | another cluster's spool | a socket for each directory that segments are put into, and the data directory's inode in each question |
//! | replay of a segment empties another cluster's tablespace | what a segment may create is read when it is fetched; one that may create any is looked at again when it is handed over, by the rules of `archive get` |
//! | the target's disk is filled | [`SPOOL_BYTES`], and a part of the disk that is left alone |

mod held;
mod plan;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use self::held::Held;
use super::contents::Sealed;
use super::tablespaces::{self, Creations};
use crate::base::{Error, Result, Segment, SegmentSize, TimelineId, durable};
use crate::source::postgres::control::ControlFile;
use crate::source::postgres::history::{self, History};

/// Bytes that are held, at most; one segment when that is larger.
const SPOOL_BYTES: u64 = 256 << 20;
/// Segments that are held, at most.
const MOST_SEGMENTS: u64 = 16;
/// So many more segments must fit on the disk, or nothing is held.
const LEFT_FREE: u64 = 8;
/// What was fetched longer ago is fetched again: another content of the same name may have come to light since.
const HELD_FOR: Duration = Duration::from_secs(300);
/// Bytes of segments that are fetched at one time, at most: they are held in memory. And so many segments.
const FETCHED_BYTES: u64 = 64 << 20;
const MOST_FETCHED: u64 = 4;

/// What `archive get` asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The segment.
    pub name: String,
    /// A fresh name in the directory that it goes to, as an absolute path.
    pub landing: PathBuf,
    /// Device and inode of the data directory.
    pub data: (u64, u64),
}

/// What it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "reply")]
pub enum Reply {
    /// The segment lies at the landing, and has so many bytes.
    Landed {
        /// Bytes.
        bytes: u64,
    },
    /// Whoever asks fetches it.
    Yourself,
}

/// What came of fetching a segment.
pub enum Fetched {
    /// The segment of this name.
    Whole(String, Sealed),
    /// None of those asked for is in the archive.
    Absent,
    /// It is not known.
    Failed,
}

enum Slot {
    Fetching(Vec<String>),
    Here(String, Held, Creations, Instant),
    /// Absent, or not to be had: nothing behind it is fetched.
    Nothing,
}

struct State {
    /// The segment that was asked for last.
    position: Segment,
    history: Option<History>,
    /// No newer timeline's segments are taken: the recovery goes on on this one.
    newest: Option<TimelineId>,
    slots: BTreeMap<u64, Slot>,
    /// Whether the record that straddles out of a segment may create a tablespace.
    leaves: BTreeMap<Segment, bool>,
    /// Names under which segments were handed over and may lie still.
    landings: Vec<PathBuf>,
    asked: Instant,
    closed: bool,
}

/// The spool of one recovery.
pub struct Spool {
    /// Where segments are put: what is held lies on its file system.
    directory: PathBuf,
    size: SegmentSize,
    data: (u64, u64),
    state: Mutex<State>,
    changed: Condvar,
}

/// A segment to fetch; given up when it is dropped.
pub struct Task {
    spool: Arc<Spool>,
    number: u64,
    /// The names it may have, the likeliest first.
    pub names: Vec<String>,
    began: Instant,
    outcome: Option<Slot>,
}

/// Device and inode of the working directory, in which PostgreSQL runs its commands.
///
/// # Errors
/// When it is gone.
pub fn data_directory() -> io::Result<(u64, u64)> {
    fs::metadata(".").map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Whether a server recovers from its archive in the working directory.
pub fn is_recovering() -> bool {
    let is_there = |name: &str| Path::new(name).exists();
    (is_there("recovery.signal") || is_there("standby.signal")) && server_lives(Path::new("postmaster.pid"))
}

/// Whether the process that this file names is there: one that was killed leaves the file behind.
fn server_lives(file: &Path) -> bool {
    let Ok(text) = fs::read_to_string(file) else { return false };
    // Unreadable, it is about to be written.
    let number = text.lines().next().and_then(|line| line.trim().parse::<i32>().ok());
    let pid = number.and_then(|number| Pid::from_raw(number.abs()));
    pid.is_none_or(|pid| rustix::process::test_kill_process(pid) != Err(Errno::SRCH))
}

/// Whether the file system of `directory` has files without names, which can be given one.
pub fn can_hold(directory: &Path) -> bool {
    let name = durable::temporary_beside(&directory.join("held"));
    let can = Held::new(directory).and_then(|held| held.link(&name)).is_ok();
    // Also after a failure: it may have the name all the same.
    let _ = fs::remove_file(&name);
    can
}

impl Spool {
    /// A spool for the cluster in the working directory, which was given the segment `name` in `directory`.
    ///
    /// # Errors
    /// When there is no cluster, `name` is no segment of it, or its file system has no files without names.
    pub fn new(directory: &Path, name: &str) -> Result<Arc<Self>> {
        let size = ControlFile::read(Path::new("."))?.wal_segment_size;
        let position = Segment::parse(name, size).ok_or_else(|| Error::usage(format!("{name} is no segment")))?;
        let data = data_directory().map_err(|error| Error::io("read", Path::new("."), error))?;
        Held::new(directory)?;
        let spool =
            Self { directory: directory.to_owned(), size, data, state: Mutex::new(State::at(position)), changed: Condvar::new() };
        spool.state().history = spool.history(position);
        Ok(Arc::new(spool))
    }

    /// How many segments are fetched at one time.
    pub fn fetched_at_once(&self) -> u64 {
        (FETCHED_BYTES / self.size.bytes()).clamp(1, MOST_FETCHED)
    }

    /// When somebody asked last.
    pub fn asked(&self) -> Instant {
        self.state().asked
    }

    fn depth(&self) -> u64 {
        (SPOOL_BYTES / self.size.bytes()).clamp(1, MOST_SEGMENTS)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The history of the newest timeline that the log at `position` is part of. PostgreSQL keeps those it has read beside
    /// its log.
    fn history(&self, position: Segment) -> Option<History> {
        let names = fs::read_dir(&self.directory).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let histories = names.filter_map(|name| {
            // The name first: what lies beside the histories is large.
            let timeline = history::parse_file_name(&name)?;
            History::parse(timeline, &fs::read(self.directory.join(&name)).ok()?).ok()
        });
        let leads_on = |history: &History| history.contains(position.timeline, position.start(self.size));
        histories.filter(leads_on).max_by_key(History::timeline)
    }

    /// What to say to `question`; none after `patience` while the segment is being fetched.
    pub fn answer(self: &Arc<Self>, question: &Question, patience: Duration) -> Option<Reply> {
        let deadline = Instant::now() + patience;
        let Some(segment) = Segment::parse(&question.name, self.size) else { return Some(Reply::Yourself) };
        let here = question.landing.parent() == Some(&self.directory) && question.data == self.data;
        if !here || data_directory().ok() != Some(self.data) {
            return Some(Reply::Yourself);
        }
        let is_new = self.state().position != segment;
        let history = is_new.then(|| self.history(segment)).flatten();
        let mut state = self.state();
        let landings = state.go_to(segment, history, is_new, self.depth());
        self.changed.notify_all();
        // Nearly always renamed by now; the one that asked for it and is gone wants it no more.
        landings.iter().for_each(|landing| drop(fs::remove_file(landing)));
        loop {
            match state.slots.get(&segment.number) {
                Some(Slot::Fetching(names)) if names.contains(&question.name) && !state.closed => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
                }
                Some(Slot::Here(name, ..)) if *name == question.name => break,
                Some(Slot::Here(name, ..)) => {
                    let newest = Segment::parse(name, self.size).map(|here| here.timeline);
                    if newest > Some(segment.timeline) {
                        state.newest = Some(segment.timeline);
                    }
                    return Some(Reply::Yourself);
                }
                _ => return Some(Reply::Yourself),
            }
        }
        let Some(Slot::Here(name, held, creations, since)) = state.slots.remove(&segment.number) else {
            return Some(Reply::Yourself);
        };
        let carried = segment.previous().and_then(|before| state.leaves.get(&before).copied());
        drop(state);
        self.changed.notify_all();
        if since.elapsed() > HELD_FOR {
            return Some(Reply::Yourself);
        }
        Some(self.hand_over(&name, &held, creations.may_create(carried), question))
    }

    fn hand_over(&self, name: &str, held: &Held, may_create: bool, question: &Question) -> Reply {
        let land = || {
            if may_create {
                tablespaces::spare(Path::new("."), name, &held.read()?)?;
            }
            held.link(&question.landing)
        };
        match land() {
            Ok(()) => {
                self.state().landings.push(question.landing.clone());
                Reply::Landed { bytes: held.bytes() }
            }
            // Whoever asked finds out as well, and tells.
            Err(_) => Reply::Yourself,
        }
    }

    /// Removes what was handed over to nobody.
    pub fn sweep(&self) {
        // Nearly always renamed by now.
        std::mem::take(&mut self.state().landings).iter().for_each(|landing| drop(fs::remove_file(landing)));
    }

    /// The next segment to fetch, once there is one; none at the end.
    pub fn next(self: &Arc<Self>) -> Option<Task> {
        let mut state = self.state();
        while !state.closed {
            if let Some((number, names)) = state.wanted(self.depth(), self.size) {
                state.slots.insert(number, Slot::Fetching(names.clone()));
                return Some(Task { spool: Arc::clone(self), number, names, began: Instant::now(), outcome: None });
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        None
    }

    /// Nobody is answered and nothing is fetched any more.
    pub fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }

    fn has_room(&self) -> bool {
        let free = rustix::fs::statvfs(&self.directory).map_or(0, |fs| fs.f_bavail.saturating_mul(fs.f_frsize));
        free >= LEFT_FREE * self.size.bytes()
    }
}

impl Task {
    /// Opens what was fetched, in the memory of `raw`, and keeps it when it is what it should be.
    pub fn done(mut self, fetched: Fetched, raw: &mut Vec<u8>) {
        if let Fetched::Whole(name, sealed) = fetched
            && let Some(segment) = Segment::parse(&name, self.spool.size)
            && self.spool.has_room()
            && let Ok(mut held) = Held::new(&self.spool.directory)
            && sealed.open_into(raw, &mut held, self.spool.size.bytes()).is_ok()
            && held.bytes() == self.spool.size.bytes()
        {
            let (creations, began) = (Creations::of(segment, self.spool.size, raw), self.began);
            self.spool.state().leaves.insert(segment, creations.leaves);
            self.outcome = Some(Slot::Here(name, held, creations, began));
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let mut state = self.spool.state();
        // It was passed by meanwhile: nobody asks for it any more.
        if let Some(slot) = state.slots.get_mut(&self.number) {
            *slot = self.outcome.take().unwrap_or(Slot::Nothing);
        }
        drop(state);
        self.spool.changed.notify_all();
    }
}

impl State {
    fn at(position: Segment) -> Self {
        Self {
            position,
            history: None,
            newest: None,
            slots: BTreeMap::new(),
            leaves: BTreeMap::new(),
            landings: Vec::new(),
            asked: Instant::now(),
            closed: false,
        }
    }

    /// The recovery asks for `segment` now: what comes before is done with, and what failed is tried again.
    /// Returns the names under which earlier segments were handed over.
    fn go_to(&mut self, segment: Segment, history: Option<History>, is_new: bool, depth: u64) -> Vec<PathBuf> {
        self.asked = Instant::now();
        if !is_new {
            return Vec::new();
        }
        self.position = segment;
        self.history = history;
        self.newest = self.newest.filter(|newest| *newest >= segment.timeline);
        let near = segment.number..=segment.number + depth;
        self.slots.retain(|number, slot| near.contains(number) && !matches!(slot, Slot::Nothing));
        self.leaves.retain(|known, _| (segment.number.saturating_sub(1)..=segment.number + depth).contains(&known.number));
        std::mem::take(&mut self.landings)
    }

    /// The next segment to fetch, by its number and the names it may have.
    fn wanted(&self, depth: u64, size: SegmentSize) -> Option<(u64, Vec<String>)> {
        for number in (self.position.number + 1..).take(depth as usize) {
            match self.slots.get(&number) {
                Some(Slot::Nothing) => return None,
                Some(Slot::Here(..) | Slot::Fetching(_)) => {}
                None => {
                    let segments = plan::candidates(self.position.timeline, number, self.history.as_ref(), size);
                    let newest = |segment: &Segment| self.newest.is_none_or(|newest| segment.timeline <= newest);
                    let names: Vec<String> = segments.into_iter().filter(newest).map(|segment| segment.name(size)).collect();
                    return (!names.is_empty()).then_some((number, names));
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
