//! The directory to restore into: refused unless it is certain that nothing is lost there.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::base::{Error, Incarnation, Result, durable};
use crate::source::postgres::live::live_server;

/// Stands in a directory from before the first file is written until all of them are there.
pub(super) const MARKER: &str = "lifeboat-restore.incomplete";
/// Begins the marker's line that says of which cluster the restore is.
const MARKED_CLUSTER: &str = "cluster: ";

/// Makes sure that `dir` is absent or empty, and belongs to no running server.
///
/// # Errors
/// Says what is there and what to do.
pub(super) fn check(dir: &Path) -> Result<()> {
    let mut entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(Error::failed(format!("{} is not a directory", dir.display())));
        }
        Err(error) => return Err(Error::io("list", dir, error)),
    };
    if entries.next().is_none() {
        return Ok(());
    }
    if let Some(server) = live_server(dir)? {
        return Err(Error::failed(format!("a PostgreSQL server is running on {} (process {})", dir.display(), server.pid))
            .hint("restore into another directory; stop that server only if you mean to replace it"));
    }
    if dir.join(MARKER).exists() {
        return Err(Error::failed(format!("{} holds an unfinished restore", dir.display()))
            .hint("add --delta   to go on from what is there")
            .hint(format!("rm -r '{}'   and restore again", dir.display())));
    }
    Err(Error::failed(format!("{} is not empty", dir.display()))
        .hint("restore into another directory, or move this one away first")
        .hint("add --delta   to replace this cluster's own data directory, as far as it differs"))
}

/// Makes sure that a tablespace's new directory is absent or empty.
///
/// # Errors
/// Says how to place it elsewhere.
pub(super) fn check_tablespace(directory: &Path) -> Result<()> {
    match fs::read_dir(directory).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::failed(format!("the tablespace directory {} is not empty", directory.display()))
            .hint(format!("place it elsewhere: --tablespace '{}=/new/directory'", directory.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io("list", directory, error)
            .hint(format!("place it elsewhere: --tablespace '{}=/new/directory'", directory.display()))),
    }
}

/// Creates the directory and puts the marker into it, durably.
///
/// # Errors
/// When it cannot be written.
pub(super) fn mark(dir: &Path, incarnation: &Incarnation) -> Result<()> {
    let marker = dir.join(MARKER);
    let text = format!(
        "A restore into this directory has begun and not ended. PostgreSQL cannot start here, and must not.\n\
         {MARKED_CLUSTER}{incarnation}\n"
    );
    durable::create_dir_all(dir)
        // PostgreSQL starts only in a directory that nobody else may enter.
        .and_then(|()| fs::set_permissions(dir, fs::Permissions::from_mode(0o700)))
        .and_then(|()| durable::write_file(&marker, text.as_bytes(), 0o600))
        .map_err(|error| Error::io("write", &marker, error))
}

/// The cluster that an unfinished restore was of; none when there is no such marker.
///
/// # Errors
/// When it cannot be read.
pub(super) fn marked_incarnation(dir: &Path) -> Result<Option<Incarnation>> {
    let marker = dir.join(MARKER);
    match fs::read_to_string(&marker) {
        Ok(text) => Ok(text.lines().find_map(|line| line.strip_prefix(MARKED_CLUSTER)?.parse().ok())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", &marker, error)),
    }
}

/// Takes the marker away.
///
/// # Errors
/// When it cannot be removed.
pub(super) fn unmark(dir: &Path) -> Result<()> {
    let marker = dir.join(MARKER);
    fs::remove_file(&marker).map_err(|error| Error::io("remove", &marker, error))
}
