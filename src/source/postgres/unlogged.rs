//! Unlogged relations that came to be while a backup was taken.
//!
//! Of an unlogged relation only the init fork may be stored. A server that ends a recovery copies it to the other forks,
//! and gives up when one of them is there already. Whether a relation is unlogged is told by its init fork; but that of a
//! new one comes after its first file, of an index after all of its pages. So the walk, which lists a directory before
//! its files are read, can take a new relation for a logged one. Looked at again when everything has been copied, it has
//! its init fork, or the log of the backup drops it, or its init fork is still to come: then a restore to a moment after
//! that ends like one from `pg_basebackup`, with the server's "File exists".

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::filenames::{is_number, parse_relation_file};
use crate::base::{Error, RelPath, Result};
use crate::source::Fork;

/// A second look at directories of databases, each listed once for files that come in the order of their paths.
pub struct UnloggedNow {
    data_directory: PathBuf,
    /// The directory that was listed last, and the numbers that have an init fork in it.
    listed: (Vec<u8>, HashSet<Vec<u8>>),
}

impl UnloggedNow {
    /// Looks below `data_directory`.
    pub fn new(data_directory: PathBuf) -> Self {
        Self { data_directory, listed: (Vec::new(), HashSet::new()) }
    }

    /// Whether `path` is a file of an unlogged relation other than its init fork.
    ///
    /// # Errors
    /// When its directory cannot be listed.
    pub fn holds(&mut self, path: &RelPath) -> Result<bool> {
        let bytes = path.as_bytes();
        let Some(slash) = bytes.iter().rposition(|byte| *byte == b'/') else { return Ok(false) };
        let (directory, name) = (&bytes[..slash], &bytes[slash + 1..]);
        let Some(file) = parse_relation_file(name).filter(|file| file.fork != Fork::Init) else { return Ok(false) };
        // Databases have numbers for names; `global` holds no unlogged relations.
        if !directory.rsplit(|byte| *byte == b'/').next().is_some_and(is_number) {
            return Ok(false);
        }
        if self.listed.0 != directory {
            self.listed = (directory.to_vec(), self.list(path)?);
        }
        Ok(self.listed.1.contains(file.number))
    }

    fn list(&self, path: &RelPath) -> Result<HashSet<Vec<u8>>> {
        let location = self.data_directory.join(path.as_path());
        let directory = location.parent().unwrap_or(&self.data_directory);
        let found = match fs::read_dir(directory) {
            Ok(found) => found,
            // Dropped since, with its database.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(HashSet::new()),
            Err(error) => return Err(Error::io("list", directory, error)),
        };
        let mut unlogged = HashSet::new();
        for name in found {
            let name = name.map_err(|error| Error::io("list", directory, error))?.file_name();
            if let Some(file) = parse_relation_file(name.as_bytes()).filter(|file| file.fork == Fork::Init) {
                unlogged.insert(file.number.to_vec());
            }
        }
        Ok(unlogged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_an_init_fork_now_is_unlogged() {
        let data = tempfile::tempdir().unwrap();
        for file in ["base/5/16384", "base/5/16384_init", "base/5/16385", "pg_tblspc/9/PG_15_1/5/16384", "global/1260"] {
            let location = data.path().join(file);
            fs::create_dir_all(location.parent().unwrap()).unwrap();
            fs::write(location, "").unwrap();
        }
        let mut unlogged = UnloggedNow::new(data.path().to_owned());
        let mut holds = |path: &str| unlogged.holds(&RelPath::new(path).unwrap()).unwrap();
        for path in ["base/5/16384", "base/5/16384.1", "base/5/16384_fsm", "base/5/16384_vm"] {
            assert!(holds(path), "{path}");
        }
        for path in ["base/5/16384_init", "base/5/16385", "base/5/PG_VERSION", "pg_tblspc/9/PG_15_1/5/16384", "base/6/16384"] {
            assert!(!holds(path), "{path}");
        }
        assert!(!holds("global/1260") && !holds("PG_VERSION"));
        fs::write(data.path().join("base/5/16385_init"), "").unwrap();
        assert!(holds("base/5/16385"), "each time its directory comes up it is listed anew");
    }
}
