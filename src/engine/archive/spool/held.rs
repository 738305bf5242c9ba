//! A segment on the file system it will be handed over on, in a file that has no name yet (`O_TMPFILE`).
//!
//! Nobody else can open it, and nothing is left of it when the process ends, however it does.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use crate::base::{Error, Result};

/// See the module's header.
#[derive(Debug)]
pub(super) struct Held {
    file: File,
    bytes: u64,
}

impl Held {
    /// An empty file without a name on the file system of `directory`; its content is written to it.
    ///
    /// # Errors
    /// When that knows no such files.
    pub fn new(directory: &Path) -> Result<Self> {
        // As any other file of the server: its umask decides.
        let mode = Mode::from_raw_mode(0o666);
        let file = rustix::fs::open(directory, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, mode);
        let file = file.map_err(|error| Error::io("create a file without a name in", directory, error.into()))?;
        Ok(Self { file: File::from(file), bytes: 0 })
    }

    /// Its length.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Its content.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self) -> Result<Vec<u8>> {
        let mut raw = vec![0; self.bytes as usize];
        let read = self.file.read_exact_at(&mut raw, 0);
        read.map(|()| raw).map_err(|error| Error::failed("cannot read a segment that was fetched ahead").caused_by(error))
    }

    /// Gives it a name, which must be free.
    ///
    /// # Errors
    /// When that lies on another file system or is taken.
    pub fn link(&self, name: &Path) -> Result<()> {
        let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        rustix::fs::linkat(CWD, own.as_str(), CWD, name, AtFlags::SYMLINK_FOLLOW)
            .map_err(|error| Error::io("link", name, error.into()))?;
        // It is the whole file, or it is none.
        match fs::metadata(name) {
            Ok(metadata) if metadata.len() == self.bytes => Ok(()),
            _ => Err(Error::failed(format!("{} is not what was linked to it", name.display()))),
        }
    }
}

impl Write for Held {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_no_name_before_it_is_given_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut held = Held::new(dir.path()).unwrap();
        held.write_all(b"content").unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let name = dir.path().join("name");
        held.link(&name).unwrap();
        assert_eq!((fs::read(&name).unwrap(), held.read().unwrap()), (b"content".to_vec(), b"content".to_vec()));
        assert!(held.link(&name).is_err(), "nothing is replaced");
        drop(held);
        assert_eq!(fs::read(&name).unwrap(), b"content");
    }
}
