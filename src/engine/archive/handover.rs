//! What a long-lived process stored of the log ahead of PostgreSQL's archiver, and what it says to each `archive push`.
//!
//! How this could lose log, and what stands against it:
//!
//! | danger | against it |
//! |---|---|
//! | a file is said to be archived, and other bytes of its name were | [`Stored`] knows device, inode, birth and both times from before and after the reading; a file that was touched within [`SETTLED_AFTER`] before it is read again and its digest compared |
//! | the one who asks has another configuration, or needs more copies | the request carries the configuration's digest |
//! | a file was stored as an older configuration says: elsewhere, or for other recipients | each entry carries the digest of the configuration it was stored by, and the ids of the repositories that hold it; [`Under`] must name the same when the answer is given, whatever happened in between |
//! | a repository is made anew, or loses what it held | the id that a repository had when it was opened last is compared; what was stored longer ago than [`COUNTS_FOR`] is looked at again |
//! | the process dies with an answer under way | an answer is given after the file is durable and what repositories lack is queued; half an answer is none |
//! | it fails, hangs, or is away | the one who asks stores the file itself, as if there were nobody |
//! | whoever answers is another: one that works for another host or cluster on the same paths, one gone mad | the answer carries what was asked, the file's stamp, and a digest of the bytes that are stored; the one who asks compares all of it with its own file and its own configuration ([`Assurance::objection`]) |
//!
//! Nothing here is kept on a disk: a process that starts knows nothing, and says nothing of what it did not store.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::{FileKind, ahead, file_kind};
use crate::base::SourceName;
use crate::base::file_stamp::FileStamp;
use crate::codec::{FrameDigest, Sha256Digest};
use crate::repo::layout;

/// A file whose times are younger than this when it is read may be written again without their changing: file systems
/// count time in steps, of two seconds at most.
const SETTLED_AFTER: Duration = Duration::from_secs(2);
/// After a failure whoever asks is left to it for so long.
const REST: Duration = Duration::from_secs(10);
/// What was stored longer ago is looked for in the repositories again, by whoever asks.
const COUNTS_FOR: Duration = Duration::from_secs(300);
/// So many files are looked for ahead in one reading of the directory.
const LOOK_AHEAD: usize = 1024;

/// What `archive push` asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The program's version: another one may mean something else.
    pub version: String,
    /// The source.
    pub source: SourceName,
    /// The configuration file, as an absolute path.
    pub config_file: PathBuf,
    /// SHA-256 of its text, as the one who asks read it.
    pub config_sha256: Sha256Digest,
    /// The file to archive, as an absolute path.
    pub file: PathBuf,
}

/// What it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "answer")]
pub enum Answer {
    /// The file, as it is now, is durable in enough repositories, and the others have it in their queues.
    Durable(Assurance),
    /// It is not; whoever asks does it, and learns what is wrong.
    Yourself {
        /// Why.
        why: String,
    },
}

impl Answer {
    /// [`Answer::Yourself`].
    pub fn yourself(why: impl Into<String>) -> Self {
        Self::Yourself { why: why.into() }
    }
}

/// That a file is durable, and what whoever asked compares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assurance {
    /// The file.
    pub file: PathBuf,
    /// SHA-256 of the configuration that it was stored by.
    pub config_sha256: Sha256Digest,
    /// What the file system says of it.
    pub stamp: FileStamp,
    /// XXH3-128 of the bytes that were stored.
    pub content: FrameDigest,
    /// Where it is.
    #[serde(flatten)]
    pub durable: Durable,
}

/// Where a file of the log is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Durable {
    /// The repositories that hold it.
    pub archived: Vec<Archived>,
    /// Those that get it in the background.
    pub queued: Vec<String>,
    /// What went wrong beside the archiving itself.
    pub warnings: Vec<String>,
}

/// A file in a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archived {
    /// The repository, as the configuration calls it.
    pub repository: String,
    /// The object that holds it.
    pub key: String,
    /// Whether it was there before, with the same content.
    pub already_there: bool,
}

impl Assurance {
    /// Why it is nothing to whoever asked `request` and relies on `under`; none when it is what was asked for.
    pub fn objection(&self, request: &Request, under: &Under) -> Option<&'static str> {
        if (&self.file, self.config_sha256) != (&request.file, request.config_sha256) {
            return Some("it was not asked that");
        }
        let (objection, logs) = (self.durable.objection(under), layout::logs(&request.source));
        if objection.is_some() || self.durable.archived.iter().any(|archived| !archived.key.starts_with(&logs)) {
            return objection.or(Some("it is stored as another source's"));
        }
        let found = |file: &Path| -> io::Result<bool> {
            let same = stamp(file)? == self.stamp && FrameDigest::of_reader(fs::File::open(file)?)? == self.content;
            Ok(same && stamp(file)? == self.stamp)
        };
        (!found(&self.file).unwrap_or(false)).then_some("it stored something else")
    }
}

impl Durable {
    /// Why this is not where a file must be.
    fn objection(&self, under: &Under) -> Option<&'static str> {
        let mut held: BTreeSet<&String> = self.archived.iter().map(|archived| &archived.repository).collect();
        if held.len() < under.needed.max(1) {
            return Some("more repositories must have it now");
        }
        held.extend(&self.queued);
        (!held.into_iter().eq(&under.repositories)).then_some("other repositories must have it now")
    }
}

/// A file as it was read and stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// What the file system said of it before and after it was read.
    pub stamp: FileStamp,
    /// Whether nothing can have changed it since without changing that.
    pub settled: bool,
    /// SHA-256 of what was stored …
    pub raw_sha256: Sha256Digest,
    /// … and XXH3-128.
    pub content: FrameDigest,
    /// Where it is.
    pub durable: Durable,
    /// SHA-256 of the configuration that it was stored by.
    pub config_sha256: Sha256Digest,
    /// The ids of the repositories that hold it, by their names.
    pub repository_ids: BTreeMap<String, String>,
    /// When it was durable.
    pub since: Instant,
}

/// What whoever asks must be able to rely on, as the configuration that both have says it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Under {
    /// SHA-256 of the configuration.
    pub config_sha256: Sha256Digest,
    /// The names of all repositories that the file goes to.
    pub repositories: BTreeSet<String>,
    /// So many of them must hold it.
    pub needed: usize,
}

impl Stored {
    /// Why it does not count under this configuration, whose repositories have these `ids` as far as is known.
    fn objection(&self, under: &Under, ids: &BTreeMap<(Sha256Digest, String), String>) -> Option<&'static str> {
        if self.config_sha256 != under.config_sha256 {
            return Some("it was stored by another configuration");
        }
        let objection = self.durable.objection(under);
        let is_known = |archived: &Archived| {
            let now = ids.get(&(under.config_sha256, archived.repository.clone()));
            now.is_some() && now == self.repository_ids.get(&archived.repository)
        };
        if objection.is_some() || !self.durable.archived.iter().all(is_known) {
            return objection.or(Some("a repository is another than when it was stored"));
        }
        (self.since.elapsed() > COUNTS_FOR).then_some("it was stored a while ago")
    }

    /// Whether `file` holds what was stored.
    ///
    /// # Errors
    /// When it cannot be read.
    fn is_still(&self, file: &Path) -> io::Result<bool> {
        if stamp(file)? != self.stamp {
            return Ok(false);
        }
        if self.settled {
            return Ok(true);
        }
        let same = Sha256Digest::of(&fs::read(file)?) == self.raw_sha256;
        Ok(same && stamp(file)? == self.stamp)
    }
}

/// What the file system says of `file`.
///
/// # Errors
/// When it is not there.
pub fn stamp(file: &Path) -> io::Result<FileStamp> {
    // Of what is read: through a link, that is what it leads to.
    fs::metadata(file).map(|metadata| FileStamp::of(&metadata))
}

/// Whether a file with this stamp, read at `read` and later, cannot have been written since without a change of its times.
pub fn is_settled(stamp: &FileStamp, read: SystemTime) -> bool {
    let nanos = read.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let newest = u128::try_from(stamp.changed_nanos.max(stamp.modified_nanos)).unwrap_or(u128::MAX);
    newest.saturating_add(SETTLED_AFTER.as_nanos()) <= nanos
}

/// What becomes of a file.
enum Entry {
    /// It is stored, or will be: somebody waits for it, or soon will.
    Waiting,
    Stored(Box<Stored>),
    Failed(String),
}

#[derive(Default)]
struct State {
    entries: HashMap<PathBuf, Entry>,
    /// Files that somebody asked for and that are not begun.
    wanted: VecDeque<PathBuf>,
    /// Files that nobody asked for yet.
    ahead: VecDeque<PathBuf>,
    /// The file behind which more are to be looked for.
    look_behind: Option<PathBuf>,
    rests_until: Option<Instant>,
    /// The id that a repository had when it was opened last, by the configuration and its name there.
    ids: BTreeMap<(Sha256Digest, String), String>,
    /// Counted up whenever everything is forgotten: what was begun before does not count.
    age: u64,
    closed: bool,
}

/// What is known of the files of one source; shared by the one who stores and those who answer.
#[derive(Default)]
pub struct Ledger {
    state: Mutex<State>,
    changed: Condvar,
    /// Wakes the one who stores.
    pub asked: Notify,
}

impl Ledger {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to say to whoever pushes `file` under this configuration; none after `patience` without an answer.
    pub fn ask(&self, file: &Path, under: &Under, patience: Duration) -> Option<Answer> {
        let deadline = Instant::now() + patience;
        let mut state = self.state();
        loop {
            if state.closed {
                return Some(Answer::yourself("it is stopping"));
            }
            match state.entries.get(file) {
                Some(Entry::Stored(stored)) => {
                    let stored = stored.clone();
                    let objection = stored.objection(under, &state.ids);
                    drop(state);
                    let answer = objection.map_or_else(|| judge(&stored, file), Answer::yourself);
                    // Told or not, this is the last word on it: asked again, it is looked at afresh.
                    self.forget(file, &stored);
                    return Some(answer);
                }
                Some(Entry::Failed(why)) => {
                    let answer = Answer::yourself(why.clone());
                    state.entries.remove(file);
                    return Some(answer);
                }
                Some(Entry::Waiting) => {
                    // It may be far behind in the list of those that nobody asked for.
                    if let Some(at) = state.ahead.iter().position(|waiting| waiting == file) {
                        state.ahead.remove(at);
                        state.wanted.push_back(file.to_owned());
                        self.asked.notify_one();
                    }
                }
                None if state.rests_until.is_some_and(|until| Instant::now() < until) => {
                    return Some(Answer::yourself("it failed a moment ago"));
                }
                None => {
                    state.entries.insert(file.to_owned(), Entry::Waiting);
                    state.wanted.push_back(file.to_owned());
                    state.look_behind = Some(file.to_owned());
                    self.asked.notify_one();
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Notes which repository a configuration's name was found to stand for.
    pub fn note_repository(&self, config_sha256: Sha256Digest, name: &str, id: &str) {
        self.state().ids.insert((config_sha256, name.to_owned()), id.to_owned());
    }

    fn forget(&self, file: &Path, stored: &Stored) {
        let mut state = self.state();
        if matches!(state.entries.get(file), Some(Entry::Stored(known)) if **known == *stored) {
            state.entries.remove(file);
        }
    }

    /// The next file to store, with the age to [`Ledger::settle`] it with; what is asked for comes first.
    pub fn next(&self) -> Option<(PathBuf, u64)> {
        let behind = {
            let mut state = self.state();
            if let Some(file) = state.wanted.pop_front() {
                return Some((file, state.age));
            }
            state.ahead.is_empty().then(|| state.look_behind.take()).flatten()
        };
        // Not under the lock: after a long outage the directory is large.
        let (found, present) = behind.map(|file| ahead::ready_behind(&file, LOOK_AHEAD)).unwrap_or_default();
        let mut state = self.state();
        if !present.is_empty() {
            let present: HashSet<PathBuf> = present.into_iter().collect();
            // What PostgreSQL does not list as ready any more is not asked for again.
            state.entries.retain(|file, entry| !matches!(entry, Entry::Stored(_)) || present.contains(file));
        }
        for file in found {
            if !state.entries.contains_key(&file) {
                state.entries.insert(file.clone(), Entry::Waiting);
                state.ahead.push_back(file);
            }
        }
        state.ahead.pop_front().map(|file| (file, state.age))
    }

    /// Notes what became of a file that was begun at `age`.
    pub fn settle(&self, file: PathBuf, age: u64, outcome: Result<Stored, String>) {
        let mut state = self.state();
        if state.age != age {
            return;
        }
        match outcome {
            Ok(stored) => drop(state.entries.insert(file, Entry::Stored(Box::new(stored)))),
            Err(why) => {
                // Those that nobody asked for are looked at when they are.
                let unasked = std::mem::take(&mut state.ahead);
                unasked.iter().for_each(|file| drop(state.entries.remove(file)));
                state.rests_until = Some(Instant::now() + REST);
                state.entries.insert(file, Entry::Failed(why));
            }
        }
        self.changed.notify_all();
    }

    /// Forgets everything: the configuration is another. Whoever waits is told to do it. This frees memory and hands begun
    /// work back early; that nothing counts for a configuration it was not stored by is [`Stored`]'s own doing.
    pub fn start_anew(&self) {
        let mut state = self.state();
        let waiting: Vec<PathBuf> = state.entries.drain().map(|(file, _)| file).collect();
        *state = State { age: state.age + 1, closed: state.closed, ..State::default() };
        // Found again by those that wait, and by nobody else for long.
        state.entries.extend(waiting.into_iter().map(|file| (file, Entry::Failed("its configuration changed".to_owned()))));
        self.changed.notify_all();
    }

    /// From now on everybody is told to do it.
    pub fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }

    /// Whether it is.
    pub fn is_closed(&self) -> bool {
        self.state().closed
    }
}

fn judge(stored: &Stored, file: &Path) -> Answer {
    match stored.is_still(file) {
        Ok(true) => {
            let Stored { stamp, content, config_sha256, durable, .. } = stored.clone();
            Answer::Durable(Assurance { file: file.to_owned(), config_sha256, stamp, content, durable })
        }
        Ok(false) => Answer::yourself("it changed since it was stored"),
        Err(error) => Answer::yourself(error.to_string()),
    }
}

/// Whether `file` is one that PostgreSQL archives, by its name.
pub fn is_of_the_log(file: &Path) -> bool {
    let name = file.file_name().and_then(|name| name.to_str());
    let kind = name.and_then(file_kind);
    matches!(kind, Some(FileKind::Segment | FileKind::History(_) | FileKind::Auxiliary))
}

#[cfg(test)]
#[path = "handover/tests.rs"]
mod tests;
