//! The directory to restore into, and the mark beside it that says that it is not whole.
//!
//! A directory looks complete long before it is: nothing in it says what is missing. So from before the first file is made
//! until the last time is set a file stands beside it, which a second restore meets, and whoever looks there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::base::{Error, Result, durable};

/// The mark of one restore.
#[derive(Debug)]
pub(super) struct Target {
    dir: PathBuf,
    marker: PathBuf,
}

impl Target {
    /// That of the directory `dir`, an absolute path.
    ///
    /// # Errors
    /// When `dir` lies in no directory.
    pub fn new(dir: &Path) -> Result<Self> {
        let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else {
            return Err(Error::usage(format!("cannot restore into {}", dir.display()))
                .hint("restore into a directory below it, and move from there what is wanted"));
        };
        let mut marker = std::ffi::OsString::from(".");
        marker.push(name);
        marker.push(".lifeboat-incomplete");
        Ok(Self { dir: dir.to_owned(), marker: parent.join(marker) })
    }

    /// Makes sure that the directory is absent or empty. Touches nothing.
    ///
    /// # Errors
    /// Says what is there and what to do.
    pub fn check(&self) -> Result<()> {
        let dir = &self.dir;
        let mut found = match fs::read_dir(dir) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                return Err(Error::failed(format!("{} is not a directory", dir.display())).hint("restore into another one"));
            }
            Err(error) => return Err(Error::io("list", dir, error)),
        };
        if found.next().is_none() {
            return Ok(());
        }
        if self.marker.exists() {
            return Err(Error::failed(format!("{} holds an unfinished restore", dir.display()))
                .hint(format!("rm -r '{}'   and restore again", dir.display())));
        }
        Err(Error::failed(format!("{} is not empty", dir.display()))
            .hint("restore into another directory, or move this one away first"))
    }

    /// Puts the mark there, durably.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn mark(&self) -> Result<()> {
        let text = format!("A restore into {} has begun and not ended: what is there is not whole.\n", self.dir.display());
        let write = || {
            durable::create_dir_all(self.marker.parent().unwrap_or(&self.dir))?;
            durable::write_file(&self.marker, text.as_bytes(), 0o644)
        };
        write().map_err(|error| {
            Error::io("write", &self.marker, error)
                .detail("needed", "it stands beside the directory as long as that is not whole")
                .hint(format!("restore into a directory below: --into '{}'", self.dir.join("restored").display()))
        })
    }

    /// Takes it away.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn unmark(&self) -> Result<()> {
        let remove = || fs::remove_file(&self.marker).and_then(|()| durable::sync_parent(&self.marker));
        remove().map_err(|error| Error::io("remove", &self.marker, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_whole_is_told_from_what_is_somebody_elses() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().join("restored");
        let target = Target::new(&dir).unwrap();
        target.check().unwrap();
        target.mark().unwrap();
        target.check().unwrap();
        fs::create_dir(&dir).unwrap();
        target.check().unwrap();
        fs::write(dir.join("a"), "").unwrap();
        assert!(target.check().unwrap_err().message().contains("unfinished"));
        target.unmark().unwrap();
        assert!(target.check().unwrap_err().message().contains("not empty"));
        assert!(Target::new(&dir.join("a")).unwrap().check().unwrap_err().message().contains("not a directory"));
        assert!(Target::new(Path::new("/")).is_err());
    }
}
