//! Rewriting an object on a file system, under a condition: for leases, the only objects that ever change.
//!
//! Order: lock, compare the content that is there, write and sync a temporary file, rename it over the object, sync the
//! directory. The lock is an `flock` on a file of its own below `.lifeboat-tmp/`: it ends with its process, however that
//! dies, and a crash at any point leaves the old object or the new one, never a part. A process that is stopped while it
//! holds the lock keeps all others out until it goes on: they give up after a while, retryably.
//!
//! Over NFS the kernel turns `flock` into a lock of the server (Linux 2.6.12 and later); mounted with `nolock` or
//! `local_lock=all` it holds within one host only, and two hosts can both believe that they changed the object. What a
//! lease protects is fenced once more by the commit log, whose entries are put by links.

use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::fs::{Mode, OFlags};

use super::failure::failure;
use super::put::{FILE_MODE, LOCK_PREFIX, Memory, Temporary, create_temporary_directory, is_taken};
use super::root::Root;
use super::whole;
use crate::base::killpoint;
use crate::store::key::TEMPORARY_DIRECTORY;
use crate::store::{Body, PutOutcome, StoreError, StoreResult, version_of};

/// How long to wait for another process that is changing the same object. It needs milliseconds.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// Pause between two tries to get the lock.
const LOCK_PAUSE: Duration = Duration::from_millis(2);

/// See [`crate::store::Store::replace_if`]; `key` is valid.
pub(super) fn replace_if(
    root: &Root,
    memory: &Memory,
    key: &str,
    content: Bytes,
    expected: Option<&str>,
) -> StoreResult<Option<String>> {
    let _lock = lock(root, key)?;
    let found = match is_taken(root, key)? {
        true => Some(version_of(&whole(root, key)?)),
        false => None,
    };
    if found.as_deref() != expected {
        return Ok(None);
    }
    let version = version_of(&content);
    let temporary = Temporary::create(root)?;
    temporary.fill(&Body::Bytes(content))?;
    killpoint::reach("store.temporary-written");
    let replaced = match expected {
        Some(_) => temporary.replace(key).map(|()| true)?,
        None => {
            memory.create_directories(root, key)?;
            temporary.publish(key)? == PutOutcome::Created
        }
    };
    memory.make_durable(root, key)?;
    Ok(replaced.then_some(version))
}

/// The lock of one key, held as long as the file is open.
fn lock(root: &Root, key: &str) -> StoreResult<File> {
    create_temporary_directory(root)?;
    let name = format!("{TEMPORARY_DIRECTORY}/{LOCK_PREFIX}{}", &version_of(key.as_bytes())[..32]);
    let path = root.full_path(&name);
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&root.directory, &name, flags, Mode::from_raw_mode(FILE_MODE));
        let file = File::from(file.map_err(|errno| failure("open", &path, errno))?);
        match file.try_lock() {
            // Somebody may have removed the file between the two calls: then another process can lock another file.
            Ok(()) if is_still_there(root, &name, &file)? => return Ok(file),
            Ok(()) | Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(failure("lock", &path, error)),
        }
        if Instant::now() > deadline {
            return Err(StoreError::Retryable {
                message: format!("{} is being changed by another process, which holds {}", key, path.display()),
                source: None,
            });
        }
        std::thread::sleep(LOCK_PAUSE);
    }
}

fn is_still_there(root: &Root, name: &str, file: &File) -> StoreResult<bool> {
    let own = file.metadata().map_err(|error| failure("look up", &root.full_path(name), error))?;
    let there = root.status(name)?;
    Ok(there.is_some_and(|there| (there.st_dev, there.st_ino) == (own.dev(), own.ino())))
}
