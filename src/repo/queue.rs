//! What one repository of a source still lacks: a queue on this host's disk, one small file an item.
//!
//! An item is queued, durably, before the verb that leaves it to be delivered later says that it is done, and goes only
//! once the repository holds it. What fails for good stays, marked as given up, until somebody looks at it. Two items
//! never share a file; whoever delivers holds the queue's lock, so an item has one deliverer.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::base::{BackupId, Error, Incarnation, Result, SourceName, Timestamp, durable};
use crate::codec::Sha256Digest;

/// What a repository lacks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Item {
    /// A file of the log.
    Log {
        /// The cluster it belongs to.
        incarnation: Incarnation,
        /// As PostgreSQL calls it.
        file: String,
        /// The object that holds it, under the same name in every repository.
        key: String,
        /// SHA-256 of the raw file.
        raw_sha256: Sha256Digest,
    },
    /// A backup, with what it builds on.
    Backup {
        /// Its id.
        id: BackupId,
    },
}

impl Item {
    /// A name that no other item of the queue has.
    fn name(&self) -> String {
        match self {
            Self::Log { incarnation, file, raw_sha256, .. } => format!("{incarnation}_{file}_{}.json", raw_sha256.short()),
            Self::Backup { id } => format!("{id}.json"),
        }
    }

    /// As an operator calls it: the file's name or the backup's id.
    pub fn label(&self) -> String {
        match self {
            Self::Log { file, .. } => file.clone(),
            Self::Backup { id } => id.to_string(),
        }
    }
}

/// An item and what has come of it so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queued {
    /// What is lacking.
    pub item: Item,
    /// Since when, by this host's clock.
    pub since: Timestamp,
    /// How often it was tried.
    pub attempts: u32,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
    /// Whether another attempt would fail as well: it is not made before somebody asks for it.
    pub given_up: bool,
}

/// The queue of one source for one repository. Nothing is created before something is queued.
#[derive(Clone, Debug)]
pub struct Queue {
    dir: PathBuf,
}

impl Queue {
    /// The queue below `state_dir` for the repository that the configuration calls `repository`: it may be away, and
    /// then nothing else of it is known.
    pub fn new(state_dir: &Path, source: &SourceName, repository: &str) -> Self {
        Self { dir: state_dir.join("queue").join(source.to_string()).join(repository) }
    }

    /// Queues `item`, durably. One that waits already is left as it is; one that was given up waits again.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn add(&self, item: &Item) -> Result<()> {
        let path = self.dir.join(item.name());
        // One that cannot be read is written anew: what it was about is known again.
        if matches!(self.read(&path), Ok(Some(queued)) if !queued.given_up && queued.item == *item) {
            // Whoever wrote it may have died before it was durable.
            return durable::sync_parent(&path).map_err(|error| Error::io("sync", &path, error));
        }
        let queued = Queued { item: item.clone(), since: Timestamp::now(), attempts: 0, last_error: None, given_up: false };
        durable::create_dir_all(&self.dir).map_err(|error| Error::io("create", &self.dir, error))?;
        self.write(&path, &queued)
    }

    /// Everything that is queued, the oldest first.
    ///
    /// # Errors
    /// When the queue cannot be read, or an item is damaged.
    pub fn items(&self) -> Result<Vec<Queued>> {
        let mut items = Vec::new();
        for name in self.names()? {
            items.extend(self.read(&self.dir.join(name))?);
        }
        items.sort_by_key(|queued| (queued.since, queued.item.name()));
        Ok(items)
    }

    /// What is queued and was not given up, the oldest first.
    ///
    /// # Errors
    /// As [`Queue::items`].
    pub fn waiting(&self) -> Result<Vec<Queued>> {
        Ok(self.items()?.into_iter().filter(|queued| !queued.given_up).collect())
    }

    /// Whether nothing is queued at all.
    ///
    /// # Errors
    /// When the queue cannot be read.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.names()?.is_empty())
    }

    /// Forgets `item`: the repository holds it, or does not need it any more.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn done(&self, item: &Item) -> Result<()> {
        let path = self.dir.join(item.name());
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", &path, error)),
            _ => Ok(()),
        }
    }

    /// Notes that an attempt failed; with `for_good` no other is made.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn failed(&self, queued: &Queued, why: &str, for_good: bool) -> Result<()> {
        let noted =
            Queued { attempts: queued.attempts + 1, last_error: Some(why.to_owned()), given_up: for_good, ..queued.clone() };
        self.write(&self.dir.join(queued.item.name()), &noted)
    }

    /// Makes everything that was given up wait again; how many items that is.
    ///
    /// # Errors
    /// When the queue cannot be read or written.
    pub fn take_up_again(&self) -> Result<usize> {
        let given_up: Vec<Queued> = self.items()?.into_iter().filter(|queued| queued.given_up).collect();
        for queued in &given_up {
            self.write(&self.dir.join(queued.item.name()), &Queued { given_up: false, ..queued.clone() })?;
        }
        Ok(given_up.len())
    }

    /// The right to deliver what is queued; none while another process has it, or when nothing was ever queued.
    ///
    /// # Errors
    /// When the lock cannot be made.
    pub fn lock(&self) -> Result<Option<File>> {
        let path = self.dir.join("deliverer.lock");
        match fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path) {
            Ok(file) => match file.try_lock() {
                Ok(()) => Ok(Some(file)),
                Err(fs::TryLockError::WouldBlock) => Ok(None),
                Err(fs::TryLockError::Error(error)) => Err(Error::io("lock", &path, error)),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("open", &path, error)),
        }
    }

    fn names(&self) -> Result<Vec<String>> {
        let found = match fs::read_dir(&self.dir) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::io("list", &self.dir, error)),
        };
        let mut names = Vec::new();
        for entry in found {
            let name = entry.map_err(|error| Error::io("list", &self.dir, error))?.file_name();
            // Not those that are being written: they begin with a dot.
            names.extend(name.into_string().ok().filter(|name| name.ends_with(".json") && !name.starts_with('.')));
        }
        Ok(names)
    }

    fn read(&self, path: &Path) -> Result<Option<Queued>> {
        match fs::read(path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| {
                Error::failed(format!("{} is damaged", path.display()))
                    .caused_by(error)
                    .hint("rm the file, then fill the repository with 'lifeboat copy': it compares everything")
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read", path, error)),
        }
    }

    fn write(&self, path: &Path, queued: &Queued) -> Result<()> {
        let text = serde_json::to_vec(queued).expect("a queued item is a plain struct");
        durable::write_file(path, &text, 0o600).map_err(|error| {
            Error::io("write", path, error).hint("set state_dir in lifeboat.toml to a directory this user may write")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(number: u8) -> Item {
        Item::Log {
            incarnation: Incarnation::postgres(15, 7),
            file: format!("0000000100000000000000{number:02X}"),
            key: format!("orders/log/pg15-7/00000001/{number}"),
            raw_sha256: Sha256Digest::of(&[number]),
        }
    }

    #[test]
    fn items_wait_until_they_are_done_and_survive_every_process() {
        let dir = tempfile::tempdir().unwrap();
        let queue = || Queue::new(dir.path(), &"orders".parse().unwrap(), "second");
        assert!(queue().is_empty().unwrap() && queue().lock().unwrap().is_none());
        let backup = Item::Backup { id: "20261120T214001Z-full-aaaa".parse().unwrap() };
        for item in [&log(1), &log(2), &backup, &log(1)] {
            queue().add(item).unwrap();
        }
        let items = queue().items().unwrap();
        assert_eq!(items.iter().map(|queued| queued.item.clone()).collect::<Vec<_>>(), [log(1), log(2), backup.clone()]);
        assert!(items.is_sorted_by_key(|queued| queued.since));
        queue().failed(&items[0], "away", false).unwrap();
        let noted = &queue().items().unwrap()[0];
        assert_eq!((noted.attempts, noted.last_error.as_deref(), noted.given_up), (1, Some("away"), false));
        queue().done(&log(1)).unwrap();
        queue().done(&log(1)).unwrap();
        assert_eq!(queue().items().unwrap().len(), 2);
    }

    #[test]
    fn what_was_given_up_stays_in_sight_until_it_is_taken_up_again() {
        let dir = tempfile::tempdir().unwrap();
        let queue = Queue::new(dir.path(), &"orders".parse().unwrap(), "second");
        queue.add(&log(1)).unwrap();
        queue.failed(&queue.items().unwrap()[0], "gone", true).unwrap();
        assert!(queue.items().unwrap()[0].given_up && !queue.is_empty().unwrap());
        assert_eq!((queue.take_up_again().unwrap(), queue.take_up_again().unwrap()), (1, 0));
        let again = &queue.items().unwrap()[0];
        assert_eq!((again.given_up, again.attempts, again.last_error.as_deref()), (false, 1, Some("gone")));
    }

    #[test]
    fn one_process_delivers_and_damage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let queue = Queue::new(dir.path(), &"orders".parse().unwrap(), "second");
        queue.add(&log(1)).unwrap();
        let held = queue.lock().unwrap();
        assert!(held.is_some() && queue.lock().unwrap().is_none());
        drop(held);
        assert!(queue.lock().unwrap().is_some());
        let path = queue.dir.join(log(1).name());
        fs::write(&path, "{").unwrap();
        assert!(queue.items().unwrap_err().message().contains("is damaged"));
    }
}
