//! The store's directory, opened once a call: everything else is looked up relative to it, so that a disk
//! that is unmounted meanwhile can neither look empty nor send a write to the file system below.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::failure::failure;
use crate::base::Timestamp;
use crate::store::{ObjectInfo, StoreError, StoreResult};

/// The latest second of the year 9999.
const MAX_UNIX_SECONDS: i64 = 253_402_300_799;

/// The open root directory.
pub(super) struct Root {
    pub(super) directory: OwnedFd,
    path: PathBuf,
}

impl Root {
    /// Opens the root, which must exist and hold something: `create_root` leaves a directory in it, so an
    /// empty one is the mount point of a disk that is not mounted.
    ///
    /// # Errors
    /// Retryable when it is missing or empty; permanent without the right to read it.
    pub(super) fn open(path: &Path) -> StoreResult<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|errno| match errno {
            Errno::NOENT => absent(path, "does not exist", Some(errno)),
            Errno::NOTDIR => absent(path, "is not a directory", Some(errno)),
            _ => failure("open", path, errno),
        })?;
        let root = Self { directory, path: path.to_owned() };
        let Some(mut entries) = root.read_directory("")? else { return Err(absent(path, "does not exist", None)) };
        loop {
            match entries.read() {
                None => return Err(absent(path, "is empty", None)),
                Some(Err(errno)) => return Err(failure("list", path, errno)),
                Some(Ok(entry)) if [c".", c".."].contains(&entry.file_name()) => {}
                Some(Ok(_)) => return Ok(root),
            }
        }
    }

    /// The path of a key or directory, for messages.
    pub(super) fn full_path(&self, key: &str) -> PathBuf {
        self.path.join(key)
    }

    /// A directory (`""` or ending in `/`) to be read; `None` when there is none of that name.
    pub(super) fn read_directory(&self, directory: &str) -> StoreResult<Option<Dir>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let name = directory_name(directory);
        match rustix::fs::openat(&self.directory, name, flags, Mode::empty()).and_then(Dir::new) {
            Ok(entries) => Ok(Some(entries)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            // No object can lie below what the file system cannot name.
            Err(Errno::NAMETOOLONG) => Ok(None),
            Err(errno) => Err(failure("list", &self.full_path(directory), errno)),
        }
    }

    /// Status of what a key names, links followed; `None` when there is nothing.
    pub(super) fn status(&self, key: &str) -> StoreResult<Option<Stat>> {
        match rustix::fs::statat(&self.directory, key, AtFlags::empty()) {
            Ok(status) => Ok(Some(status)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(errno) => Err(failure("look up", &self.full_path(key), errno)),
        }
    }

    /// Size and time of an object; `None` when no regular file has that name.
    pub(super) fn object(&self, key: &str) -> StoreResult<Option<ObjectInfo>> {
        Ok(self.status(key)?.filter(is_file).map(|status| object_info(key, &status)))
    }

    /// An object opened for reading, and its size in bytes.
    pub(super) fn open_object(&self, key: &str) -> StoreResult<(File, u64)> {
        let not_found = || StoreError::NotFound { key: key.to_owned() };
        // Not to wait for a writer, should somebody have put a named pipe here.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match rustix::fs::openat(&self.directory, key, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(not_found()),
            Err(errno) => return Err(failure("open", &self.full_path(key), errno)),
        };
        let status = rustix::fs::fstat(&file).map_err(|errno| failure("look up", &self.full_path(key), errno))?;
        if !is_file(&status) {
            return Err(not_found());
        }
        Ok((File::from(file), size_bytes(&status)))
    }

    /// Makes what was created in a directory (`""` or ending in `/`) durable.
    pub(super) fn sync_directory(&self, directory: &str) -> StoreResult<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&self.directory, directory_name(directory), flags, Mode::empty());
        match opened.and_then(rustix::fs::fsync) {
            Ok(()) => Ok(()),
            // Some network file systems have no fsync of directories: they are durable at once, or cannot be made so.
            Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::BADF) => Ok(()),
            Err(errno) => Err(failure("sync", &self.full_path(directory), errno)),
        }
    }
}

/// Whether this is a regular file: nothing else is an object.
pub(super) fn is_file(status: &Stat) -> bool {
    FileType::from_raw_mode(status.st_mode) == FileType::RegularFile
}

fn directory_name(directory: &str) -> &str {
    match directory.strip_suffix('/') {
        Some(name) => name,
        None => ".",
    }
}

fn size_bytes(status: &Stat) -> u64 {
    u64::try_from(status.st_size).unwrap_or(0)
}

fn object_info(key: &str, status: &Stat) -> ObjectInfo {
    // Bounded, because some file systems store times that a year of four digits cannot hold.
    let seconds = u64::try_from(status.st_mtime.clamp(0, MAX_UNIX_SECONDS)).unwrap_or(0);
    let nanos = u32::try_from(status.st_mtime_nsec).unwrap_or(0);
    let modified = Timestamp::from_system_time(UNIX_EPOCH + Duration::new(seconds, nanos));
    ObjectInfo { key: key.to_owned(), size_bytes: size_bytes(status), modified }
}

fn absent(path: &Path, what: &str, errno: Option<Errno>) -> StoreError {
    let message = format!("the repository directory {} {what}: a disk that is not mounted?", path.display());
    StoreError::Retryable { message, source: errno.map(|errno| std::io::Error::from(errno).into()) }
}
