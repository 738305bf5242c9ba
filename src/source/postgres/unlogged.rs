//! Unlogged relations, also those that came to be while a backup was taken.
//!
//! Of an unlogged relation only the init fork may be stored. A server that ends a recovery copies it to the other forks,
//! and gives up when one of them is there already. Whether a relation is unlogged is told by its init fork; but that of a
//! new one comes after its first file, of an index after all of its pages. So the walk, which lists a directory before
//! its files are read, can take a new relation for a logged one. Looked at again when everything has been copied, it has
//! its init fork, or the log of the backup drops it, or its init fork is still to come: then a restore to a moment after
//! that ends like one from `pg_basebackup`, with the server's "File exists".

use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::filenames::{is_number, parse_relation_file};
use super::walk::{list_error, list_sorted};
use crate::base::{RelPath, Result};
use crate::source::Fork;

/// Numbers of the unlogged relations of one directory: those with an init fork.
#[derive(Debug, Default)]
pub(super) struct UnloggedRelations(HashSet<Vec<u8>>);

impl UnloggedRelations {
    /// Those among the names in a directory of a database.
    pub fn among(names: &[OsString]) -> Self {
        let init = |name: &OsString| {
            let file = parse_relation_file(name.as_bytes())?;
            (file.fork == Fork::Init && file.segment == 0).then(|| file.number.to_vec())
        };
        Self(names.iter().filter_map(init).collect())
    }

    /// Whether a file of this name belongs to one of them and is not its init fork.
    pub fn hold(&self, name: &[u8]) -> bool {
        parse_relation_file(name).is_some_and(|file| file.fork != Fork::Init && self.0.contains(file.number))
    }
}

/// A second look at directories of databases, each listed once for files that come in the order of their paths.
pub struct UnloggedNow {
    data_directory: PathBuf,
    /// The directory that was listed last, and what is unlogged in it.
    listed: (Vec<u8>, UnloggedRelations),
}

impl UnloggedNow {
    /// Looks below `data_directory`.
    pub fn new(data_directory: PathBuf) -> Self {
        Self { data_directory, listed: (Vec::new(), UnloggedRelations::default()) }
    }

    /// Whether `path` is a file of an unlogged relation other than its init fork.
    ///
    /// # Errors
    /// When its directory cannot be listed.
    pub fn holds(&mut self, path: &RelPath) -> Result<bool> {
        let bytes = path.as_bytes();
        let Some(slash) = bytes.iter().rposition(|byte| *byte == b'/') else { return Ok(false) };
        let (directory, name) = (&bytes[..slash], &bytes[slash + 1..]);
        // Databases have numbers for names; `global` holds no unlogged relations.
        if !directory.rsplit(|byte| *byte == b'/').next().is_some_and(is_number) {
            return Ok(false);
        }
        if self.listed.0 != directory {
            self.listed = (directory.to_vec(), self.list(path)?);
        }
        Ok(self.listed.1.hold(name))
    }

    fn list(&self, path: &RelPath) -> Result<UnloggedRelations> {
        let location = self.data_directory.join(path.as_path());
        let directory = location.parent().unwrap_or(&self.data_directory);
        match list_sorted(directory) {
            Ok(names) => Ok(UnloggedRelations::among(names.as_slice())),
            // Dropped since, with its database.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(UnloggedRelations::default()),
            Err(error) => Err(list_error(directory, error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

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
