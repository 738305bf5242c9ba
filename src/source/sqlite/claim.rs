//! Each database file is held by one part of this process at a time.
//!
//! POSIX drops all locks that a process has on a file as soon as it closes any descriptor of it (fcntl(2)). So while one
//! of our connections has locks on a database, nothing else here may open it, not even to look: it would, by closing it,
//! let writers and checkpoints pass that the locks were to stop. Whoever opens a database in this room claims it first.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::base::{Error, Result};

static CLAIMED: Mutex<BTreeSet<(u64, u64)>> = Mutex::new(BTreeSet::new());

/// One file, opened for reading, and the sole right to it. Connections to it must be closed before this is dropped.
#[derive(Debug)]
pub struct Claim {
    // Dropped in this order: the file is closed before anybody else may open it.
    /// The file.
    pub file: File,
    _key: Key,
}

#[derive(Debug)]
struct Key((u64, u64));

impl Claim {
    /// Claims the file that `path` names now and opens it for reading; `None` when there is none.
    ///
    /// [`Error::busy`] when this process has it open already.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        let cannot = |error: io::Error| match error.kind() {
            io::ErrorKind::PermissionDenied => Error::io("open", path, error).hint("run as the user who owns the database"),
            _ => Error::io("open", path, error),
        };
        // The name may be given to another file in between; then the right one is claimed in the next round.
        for _ in 0..100 {
            let metadata = match std::fs::metadata(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                result => result.map_err(cannot)?,
            };
            if !metadata.is_file() {
                return Err(Error::failed(format!("cannot open {} as a SQLite database: it is no file", path.display())));
            }
            let key = Key::take((metadata.dev(), metadata.ino()), path)?;
            let file = match File::open(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                result => result.map_err(cannot)?,
            };
            let opened = file.metadata().map_err(cannot)?;
            if key.0 == (opened.dev(), opened.ino()) {
                return Ok(Some(Self { file, _key: key }));
            }
        }
        Err(Error::failed(format!("cannot open {}: it is replaced by another file again and again", path.display())))
    }
}

impl Key {
    fn take(key: (u64, u64), path: &Path) -> Result<Self> {
        // A panic elsewhere leaves the set as it was.
        let mut claimed = CLAIMED.lock().unwrap_or_else(PoisonError::into_inner);
        if claimed.insert(key) {
            return Ok(Self(key));
        }
        let message = format!("cannot open {}: this process watches it already, perhaps by another name", path.display());
        Err(Error::busy(message).hint("name each SQLite database once in lifeboat.toml"))
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        CLAIMED.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ErrorKind;

    #[test]
    fn a_file_is_claimed_once_by_whatever_name() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("a"), dir.path().join("b"));
        assert!(Claim::open(&path).unwrap().is_none());
        std::fs::write(&path, b"x").unwrap();
        std::fs::hard_link(&path, &other).unwrap();
        let held = Claim::open(&path).unwrap().unwrap();
        assert_eq!(Claim::open(&other).unwrap_err().kind(), ErrorKind::Busy);
        drop(held);
        assert!(Claim::open(&other).unwrap().is_some());
        assert!(Claim::open(dir.path()).is_err(), "a directory");
    }
}
