//! Put-if-absent on a file system.
//!
//! Order: a temporary file below the same root is written and synced, then linked to its name (`link(2)` fails
//! when the name is taken: that decides a race), then every directory on the way is synced. The answer
//! "already exists" waits for the same syncs: whoever won the race may not have come to them yet.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::failure::failure;
use super::root::{Root, is_file};
use crate::base::killpoint;
use crate::store::key::TEMPORARY_DIRECTORY;
use crate::store::{Body, PutOutcome, StoreError, StoreResult};

pub(super) const FILE_MODE: u32 = 0o640;
pub(super) const DIRECTORY_MODE: u32 = 0o750;

/// How the names of lock files begin, which lie among the temporary files and are never removed.
pub(super) const LOCK_PREFIX: &str = "lock-";

const COPY_BUFFER_BYTES: usize = 1 << 20;

/// A temporary file that nobody wrote to for so long belongs to a process that crashed.
const STALE_AFTER: Duration = Duration::from_secs(24 * 3600);

/// How often one process looks for stale temporary files.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);

/// What one process remembers from put to put.
#[derive(Default)]
pub(super) struct Memory {
    /// Directories whose own entry in their parent is known to be durable.
    durable_directories: Mutex<HashSet<String>>,
    last_sweep: Mutex<Option<Instant>>,
}

/// See [`crate::store::Store::put_if_absent`]; `key` is valid.
pub(super) fn put_if_absent(root: &Root, memory: &Memory, key: &str, body: &Body) -> StoreResult<PutOutcome> {
    let outcome = if is_taken(root, key)? {
        PutOutcome::AlreadyExists
    } else {
        memory.sweep_now_and_then(root);
        let temporary = Temporary::create(root)?;
        temporary.fill(body)?;
        killpoint::reach("store.temporary-written");
        memory.create_directories(root, key)?;
        temporary.publish(key)?
    };
    memory.make_durable(root, key)?;
    Ok(outcome)
}

/// Whether an object has this name; an error when something else does, or when an object is on the way.
pub(super) fn is_taken(root: &Root, key: &str) -> StoreResult<bool> {
    match rustix::fs::statat(&root.directory, key, AtFlags::empty()) {
        Ok(status) if is_file(&status) => Ok(true),
        Ok(_) => Err(in_the_way(root, key, "something that is no object has this name")),
        Err(Errno::NOENT) => Ok(false),
        Err(Errno::NOTDIR) => Err(in_the_way(root, key, "an object has the name of its directory")),
        Err(errno) => Err(failure("look up", &root.full_path(key), errno)),
    }
}

fn in_the_way(root: &Root, key: &str, what: &str) -> StoreError {
    StoreError::Permanent { message: format!("cannot write {}: {what}", root.full_path(key).display()), source: None }
}

/// The directories of a key, deepest first, down to the root: `a/b/`, `a/`, `""`.
fn directories(key: &str) -> impl Iterator<Item = &str> {
    let slashes = key.rmatch_indices('/').map(|(slash, _)| &key[..=slash]);
    slashes.chain(std::iter::once(""))
}

impl Memory {
    /// Creates the directories of a key below the root, never the root itself.
    pub(super) fn create_directories(&self, root: &Root, key: &str) -> StoreResult<()> {
        for (slash, _) in key.match_indices('/') {
            let directory = &key[..slash];
            match rustix::fs::mkdirat(&root.directory, directory, Mode::from_raw_mode(DIRECTORY_MODE)) {
                Ok(()) => {
                    self.durable_directories.lock().unwrap_or_else(PoisonError::into_inner).remove(&key[..=slash]);
                }
                Err(Errno::EXIST) => {}
                Err(Errno::NOTDIR) => return Err(in_the_way(root, key, "an object has the name of its directory")),
                Err(errno) => return Err(failure("create directory", &root.full_path(directory), errno)),
            }
        }
        Ok(())
    }

    /// Syncs the directory of a key, and those above as far as this process has not seen them durable.
    pub(super) fn make_durable(&self, root: &Root, key: &str) -> StoreResult<()> {
        let mut child = None;
        for directory in directories(key) {
            let known = |child: &str| self.durable_directories.lock().unwrap_or_else(PoisonError::into_inner).contains(child);
            if !child.is_some_and(known) {
                root.sync_directory(directory)?;
            }
            if let Some(child) = child {
                self.durable_directories.lock().unwrap_or_else(PoisonError::into_inner).insert(child.to_owned());
            }
            child = Some(directory);
        }
        Ok(())
    }

    fn sweep_now_and_then(&self, root: &Root) {
        let mut last_sweep = self.last_sweep.lock().unwrap_or_else(PoisonError::into_inner);
        if last_sweep.is_none_or(|last| last.elapsed() >= SWEEP_EVERY) {
            *last_sweep = Some(Instant::now());
            drop(last_sweep);
            // Left for a later put when it fails, as for the files of another user: no reader minds them.
            let _ = remove_stale(root, SystemTime::now());
        }
    }
}

/// Removes temporary files that were last written more than [`STALE_AFTER`] before `now`.
fn remove_stale(root: &Root, now: SystemTime) -> StoreResult<()> {
    let Some(entries) = root.read_directory(&format!("{TEMPORARY_DIRECTORY}/"))? else { return Ok(()) };
    let stale_before = now.checked_sub(STALE_AFTER).and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let stale_before = i64::try_from(stale_before.as_secs()).unwrap_or(0);
    for entry in entries {
        let entry = entry.map_err(|errno| failure("list", &root.full_path(TEMPORARY_DIRECTORY), errno))?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        if name.starts_with(LOCK_PREFIX) {
            continue;
        }
        let path = format!("{TEMPORARY_DIRECTORY}/{name}");
        if root.status(&path)?.is_some_and(|status| is_file(&status) && status.st_mtime < stale_before) {
            match rustix::fs::unlinkat(&root.directory, &path, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(failure("remove", &root.full_path(&path), errno)),
            }
        }
    }
    Ok(())
}

/// Creates the directory of temporary files and locks; succeeds when it is there.
pub(super) fn create_temporary_directory(root: &Root) -> StoreResult<()> {
    match rustix::fs::mkdirat(&root.directory, TEMPORARY_DIRECTORY, Mode::from_raw_mode(DIRECTORY_MODE)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(failure("create directory", &root.full_path(TEMPORARY_DIRECTORY), errno)),
    }
}

/// A file that is being written, removed when it goes out of scope.
pub(super) struct Temporary<'a> {
    root: &'a Root,
    name: String,
    file: File,
}

impl<'a> Temporary<'a> {
    pub(super) fn create(root: &'a Root) -> StoreResult<Self> {
        create_temporary_directory(root)?;
        let name = format!("{TEMPORARY_DIRECTORY}/{:032x}", rand::random::<u128>());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&root.directory, &name, flags, Mode::from_raw_mode(FILE_MODE))
            .map_err(|errno| failure("create", &root.full_path(&name), errno))?;
        Ok(Self { root, name, file: File::from(file) })
    }

    /// Writes the body and syncs it.
    pub(super) fn fill(&self, body: &Body) -> StoreResult<()> {
        let failed = |error| failure("write", &self.root.full_path(&self.name), error);
        let mut file = &self.file;
        match body {
            Body::Bytes(bytes) => file.write_all(bytes).map_err(failed)?,
            Body::File(path) => copy(path, |part| file.write_all(part).map_err(failed))?,
        }
        file.sync_all().map_err(failed)
    }

    /// Gives the file its name, unless that is taken.
    pub(super) fn publish(&self, key: &str) -> StoreResult<PutOutcome> {
        let directory = &self.root.directory;
        match rustix::fs::linkat(directory, &self.name, directory, key, AtFlags::empty()) {
            Ok(()) => Ok(PutOutcome::Created),
            Err(Errno::EXIST) => self.taken(key),
            // File systems without hard links say one of these.
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) => self.publish_by_rename(key),
            Err(errno) => Err(failure("write", &self.root.full_path(key), errno)),
        }
    }

    /// Gives the file its name, whoever has it.
    pub(super) fn replace(&self, key: &str) -> StoreResult<()> {
        let directory = &self.root.directory;
        rustix::fs::renameat(directory, &self.name, directory, key)
            .map_err(|errno| failure("write", &self.root.full_path(key), errno))
    }

    fn publish_by_rename(&self, key: &str) -> StoreResult<PutOutcome> {
        let directory = &self.root.directory;
        match rustix::fs::renameat_with(directory, &self.name, directory, key, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(PutOutcome::Created),
            Err(Errno::EXIST) => self.taken(key),
            Err(errno) => Err(failure("write", &self.root.full_path(key), errno)),
        }
    }

    /// Who took the name: over NFS a repeated request can fail because its first copy succeeded.
    fn taken(&self, key: &str) -> StoreResult<PutOutcome> {
        let own = rustix::fs::fstat(&self.file).map_err(|errno| failure("look up", &self.root.full_path(&self.name), errno))?;
        match self.root.status(key)? {
            Some(there) if (there.st_dev, there.st_ino) == (own.st_dev, own.st_ino) => Ok(PutOutcome::Created),
            _ if is_taken(self.root, key)? => Ok(PutOutcome::AlreadyExists),
            _ => Err(StoreError::Retryable {
                message: format!("{} was deleted while it was written", self.root.full_path(key).display()),
                source: None,
            }),
        }
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        // Gone already after a rename; what stays after another failure is removed by a later put.
        let _ = rustix::fs::unlinkat(&self.root.directory, &self.name, AtFlags::empty());
    }
}

/// Hands the bytes of a file to `write`, part by part.
fn copy(path: &Path, mut write: impl FnMut(&[u8]) -> StoreResult<()>) -> StoreResult<()> {
    let unreadable = |error: std::io::Error| StoreError::Permanent {
        message: format!("cannot read {}: {error}", path.display()),
        source: Some(error.into()),
    };
    let mut source = File::open(path).map_err(unreadable)?;
    let mut buffer = vec![0; COPY_BUFFER_BYTES];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read_bytes) => write(&buffer[..read_bytes])?,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::local::LocalStore;

    fn root() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        LocalStore::create_root(dir.path()).unwrap();
        let root = Root::open(dir.path()).unwrap();
        (dir, root)
    }

    #[test]
    fn a_file_system_without_links_keeps_what_was_there_first() {
        let (dir, root) = root();
        for (content, expected) in [("first", PutOutcome::Created), ("second", PutOutcome::AlreadyExists)] {
            let temporary = Temporary::create(&root).unwrap();
            temporary.fill(&Body::from(content.as_bytes().to_vec())).unwrap();
            assert_eq!(temporary.publish_by_rename("x").unwrap(), expected);
        }
        assert_eq!(std::fs::read(dir.path().join("x")).unwrap(), b"first");
        assert_eq!(std::fs::read_dir(dir.path().join(TEMPORARY_DIRECTORY)).unwrap().count(), 0);
    }

    #[test]
    fn a_link_that_succeeded_unseen_is_our_own() {
        let (_dir, root) = root();
        let temporary = Temporary::create(&root).unwrap();
        assert_eq!(temporary.publish("x").unwrap(), PutOutcome::Created);
        assert_eq!(temporary.publish("x").unwrap(), PutOutcome::Created);
    }

    #[test]
    fn only_old_temporary_files_are_removed() {
        let (dir, root) = root();
        let temporary_files = dir.path().join(TEMPORARY_DIRECTORY);
        let now = SystemTime::now();
        for (name, age_hours) in [("fresh", 23), ("stale", 25)] {
            let file = File::create(temporary_files.join(name)).unwrap();
            file.set_modified(now - Duration::from_secs(age_hours * 3600)).unwrap();
        }
        remove_stale(&root, now).unwrap();
        assert!(temporary_files.join("fresh").exists());
        assert!(!temporary_files.join("stale").exists());
    }

    #[test]
    fn directories_are_synced_from_the_deepest_to_the_root() {
        assert_eq!(directories("a/b/c").collect::<Vec<_>>(), ["a/b/", "a/", ""]);
        assert_eq!(directories("c").collect::<Vec<_>>(), [""]);
    }
}
