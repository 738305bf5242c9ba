//! What the scheduler of a host did and saw, below `state_dir`: one line of JSON an event, oldest first, bounded.
//!
//! For people, for the count of missed slots and for pauses after failures; lost, it costs no more than that: what was run
//! is in the repository. The scheduler alone writes it, under its lock.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::base::{Error, Job, Result, SourceName, Timestamp, durable};

/// The record is shortened when it is longer than this …
const LONGEST_BYTES: u64 = 1 << 20;
/// … to so many of the last lines of each job of each source.
const KEPT_OF_EACH: usize = 100;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// When, by this host's clock.
    pub time: Timestamp,
    /// The source.
    pub source: SourceName,
    /// The job.
    pub job: Job,
    /// Its scheduled moment.
    pub slot: Timestamp,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// A run began here.
    Started {
        /// Which attempt at the slot.
        attempt: u32,
    },
    /// It ended.
    Ended {
        /// When it had begun.
        began: Timestamp,
        /// Its exit code, 130 when it was stopped; none when something killed it.
        exit_code: Option<i32>,
        /// Whether the slot needs no other run.
        settled: bool,
        /// Why it failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// The slot is due and cannot be started.
    Blocked {
        /// Why.
        error: String,
    },
    /// It can be again.
    Unblocked,
    /// The slot was run elsewhere or by hand.
    Elsewhere,
    /// Slots before this one were not run by anybody.
    Missed {
        /// How many.
        count: u32,
        /// The first.
        first: Timestamp,
        /// The last.
        last: Timestamp,
    },
}

/// The record, held by the one scheduler of this state directory.
pub struct RunRecord {
    path: PathBuf,
    file: File,
    _lock: File,
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("run.jsonl")
}

fn lock_path(state_dir: &Path) -> PathBuf {
    state_dir.join("run.lock")
}

/// Everything that was recorded. A line that a crash cut short is left out.
///
/// # Errors
/// When the file cannot be read.
pub fn read(state_dir: &Path) -> Result<Vec<Line>> {
    let path = path(state_dir);
    match fs::read(&path) {
        Ok(text) => Ok(text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::io("read", &path, error)),
    }
}

/// Whether a scheduler works with this state directory now.
pub fn is_held(state_dir: &Path) -> bool {
    let Ok(file) = File::open(lock_path(state_dir)) else { return false };
    matches!(file.try_lock_shared(), Err(fs::TryLockError::WouldBlock))
}

impl RunRecord {
    /// Opens the record for the one scheduler of `state_dir`.
    ///
    /// # Errors
    /// Busy when there is another; when the directory cannot be written.
    pub fn open(state_dir: &Path) -> Result<Self> {
        let (path, lock_path) = (path(state_dir), lock_path(state_dir));
        let failed = |error| {
            Error::io("open", &lock_path, error).hint("set state_dir in lifeboat.toml to a directory this user may write")
        };
        durable::create_dir_all(state_dir).map_err(failed)?;
        let lock = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&lock_path);
        let lock = lock.map_err(failed)?;
        match patiently(|| lock.try_lock()) {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                return Err(Error::busy(format!("another scheduler works with {}", state_dir.display()))
                    .hint("lifeboat run --list   shows what it does")
                    .hint(format!("to find it: fuser -v {}", lock_path.display())));
            }
            Err(fs::TryLockError::Error(error)) => return Err(failed(error)),
        }
        let file = open_file(&path)?;
        Ok(Self { path, file, _lock: lock })
    }

    /// Adds a line. Not made durable: see the module's header.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn append(&mut self, line: &Line) -> Result<()> {
        let failed = |error| Error::io("write", &self.path, error);
        if self.file.metadata().map_err(failed)?.len() > LONGEST_BYTES {
            self.shorten()?;
        }
        // A line that a crash cut short must not swallow this one: it begins with a line feed, and empty lines are none.
        let text = format!("\n{}\n", serde_json::to_string(line).expect("a line is a plain struct"));
        self.file.write_all(text.as_bytes()).map_err(|error| Error::io("write", &self.path, error))
    }

    fn shorten(&mut self) -> Result<()> {
        let lines = read(self.path.parent().unwrap_or(&self.path))?;
        let mut left: BTreeMap<(&SourceName, Job), usize> = BTreeMap::new();
        let mut kept: Vec<&Line> = Vec::new();
        for line in lines.iter().rev() {
            let count = left.entry((&line.source, line.job)).or_default();
            *count += 1;
            if *count <= KEPT_OF_EACH {
                kept.push(line);
            }
        }
        let text: String =
            kept.iter().rev().map(|line| serde_json::to_string(line).expect("a line is a plain struct") + "\n").collect();
        durable::write_file(&self.path, text.as_bytes(), 0o600).map_err(|error| Error::io("write", &self.path, error))?;
        self.file = open_file(&self.path)?;
        Ok(())
    }
}

/// Tries for a moment: [`is_held`] has the lock while it looks.
fn patiently(attempt: impl Fn() -> Result<(), fs::TryLockError>) -> Result<(), fs::TryLockError> {
    for _ in 0..20 {
        match attempt() {
            Err(fs::TryLockError::WouldBlock) => std::thread::sleep(std::time::Duration::from_millis(5)),
            outcome => return outcome,
        }
    }
    attempt()
}

fn open_file(path: &Path) -> Result<File> {
    let file = fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    file.map_err(|error| Error::io("open", path, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ErrorKind;

    #[test]
    fn the_record_stays_short_and_keeps_the_last_of_every_job() {
        let dir = tempfile::tempdir().unwrap();
        let mut record = RunRecord::open(dir.path()).unwrap();
        assert!(is_held(dir.path()));
        assert_eq!(RunRecord::open(dir.path()).err().unwrap().kind(), ErrorKind::Busy);
        let start = Timestamp::parse_compact("20261120T000000Z").unwrap();
        let at = |minutes: u64| start.plus(std::time::Duration::from_secs(60 * minutes));
        let source: SourceName = "orders".parse().unwrap();
        let line = |job, slot| Line { time: slot, source: source.clone(), job, slot, event: Event::Elsewhere };
        record.append(&line(Job::Full, at(0))).unwrap();
        for minute in 0..12_000 {
            record.append(&line(Job::Incr, at(minute))).unwrap();
        }
        assert!(fs::metadata(path(dir.path())).unwrap().len() < LONGEST_BYTES + 1000);
        // A torn line costs itself alone.
        record.file.write_all(b"{\"time\":\"2026-").unwrap();
        record.append(&line(Job::Incr, at(20_000))).unwrap();
        let lines = read(dir.path()).unwrap();
        assert_eq!(lines.first(), Some(&line(Job::Full, at(0))));
        assert_eq!(lines.last(), Some(&line(Job::Incr, at(20_000))));
        drop(record);
        assert!(!is_held(dir.path()));
    }
}
