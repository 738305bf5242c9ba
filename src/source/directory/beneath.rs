//! A directory held open, and everything below it reached without ever following a symbolic link.
//!
//! Invariant: what a [`Root`] opens lies below the directory that was opened, whatever is renamed or planted meanwhile.
//! No component may be a link; `RelPath` has no `..`. Paths of any length are walked in parts of less than `PATH_MAX`.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

use crate::base::{Error, RelPath, Result};

/// Bytes of a path given to the kernel at once; its own limit is 4,096 with the terminating zero.
const PART_BYTES: usize = 3072;

/// For the directories on the way.
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The top of a tree: a protected directory, or the target of a restore.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    location: PathBuf,
}

impl Root {
    /// Opens the directory at `location`; a link there is followed, for it is what the operator wrote.
    ///
    /// # Errors
    /// When it is no directory or may not be listed.
    pub fn open(location: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat(CWD, location, flags, Mode::empty()).map_err(|error| {
            let failed = Error::io("open the directory", location, error.into());
            match error {
                Errno::NOTDIR => failed.hint("name the directory to protect, not a file in it"),
                Errno::NOENT => failed.hint("correct its path, or mount what belongs there"),
                Errno::ACCESS => failed.hint("run lifeboat as a user who may read it, for example: sudo lifeboat …"),
                _ => failed,
            }
        })?;
        Ok(Self { fd, location: location.to_owned() })
    }

    /// Where it was opened.
    pub fn location(&self) -> &Path {
        &self.location
    }

    /// Where `path` lies, for messages.
    pub fn locate(&self, path: &RelPath) -> PathBuf {
        self.location.join(path.as_path())
    }

    /// The directory that holds `path`, and the last component of `path`.
    ///
    /// # Errors
    /// `ELOOP` or `ENOTDIR` when a component is a link or no directory, and whatever else the kernel says.
    pub fn parent<'p>(&self, path: &'p RelPath) -> io::Result<(OwnedFd, &'p OsStr)> {
        let (parent, name) = split(path);
        Ok((self.directory(parent)?, name))
    }

    /// Opens the directory at `path`, a slash between components; the root itself when it is empty.
    ///
    /// # Errors
    /// As [`Root::parent`].
    pub fn directory(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let mut at: Option<OwnedFd> = None;
        let mut rest = path;
        while !rest.is_empty() {
            let (part, after) = first_part(rest);
            let from = at.as_ref().map_or(self.fd.as_fd(), AsFd::as_fd);
            at = Some(open_part(from, part)?);
            rest = after;
        }
        // Not a duplicate: that would share its place in the listing.
        at.map_or_else(|| Ok(openat(&self.fd, ".", DIRECTORY, Mode::empty())?), Ok)
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Opens the directory `name`, one component, below `parent`.
///
/// # Errors
/// `ELOOP` or `ENOTDIR` when it is a link or no directory.
pub fn open_directory(parent: impl AsFd, name: &OsStr) -> io::Result<OwnedFd> {
    Ok(openat(parent, name, DIRECTORY, Mode::empty())?)
}

/// The bytes of the directory that holds `path` (empty for the root), and its last component.
pub fn split(path: &RelPath) -> (&[u8], &OsStr) {
    let bytes = path.as_bytes();
    match bytes.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&bytes[..at], OsStr::from_bytes(&bytes[at + 1..])),
        None => (&[], OsStr::from_bytes(bytes)),
    }
}

/// As many whole components as fit, and what follows them.
fn first_part(path: &[u8]) -> (&[u8], &[u8]) {
    if path.len() <= PART_BYTES {
        return (path, &[]);
    }
    // A component has 255 bytes at most, so there is a slash; were there none, the kernel would refuse the whole.
    let at = path[..PART_BYTES].iter().rposition(|byte| *byte == b'/').unwrap_or(path.len());
    (&path[..at], path.get(at + 1..).unwrap_or_default())
}

fn open_part(from: impl AsFd, part: &[u8]) -> io::Result<OwnedFd> {
    let rules = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match openat2(&from, part, DIRECTORY, Mode::empty(), rules) {
        Ok(fd) => Ok(fd),
        // An older kernel or a sandbox without openat2, or renames while it looked: one component after the other.
        Err(Errno::NOSYS | Errno::PERM | Errno::AGAIN) => component_by_component(from, part),
        Err(error) => Err(error.into()),
    }
}

fn component_by_component(from: impl AsFd, part: &[u8]) -> io::Result<OwnedFd> {
    let mut at: Option<OwnedFd> = None;
    for name in part.split(|byte| *byte == b'/') {
        let parent = at.as_ref().map_or(from.as_fd(), AsFd::as_fd);
        at = Some(open_directory(parent, OsStr::from_bytes(name))?);
    }
    at.ok_or_else(|| Errno::NOENT.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn both_ways_down_refuse_links_and_reach_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b/c")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        std::os::unix::fs::symlink("../outside", dir.path().join("a/link")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        assert!(root.directory(b"a/b/c").is_ok() && component_by_component(&root, b"a/b/c").is_ok());
        for planted in [&b"a/link"[..], b"a/link/x"] {
            assert!(root.directory(planted).is_err());
            assert!(component_by_component(&root, planted).is_err());
        }
    }

    #[test]
    fn long_paths_are_cut_between_components() {
        let path = vec![b"0123456789".as_slice(); 700].join(&b'/');
        let (mut rest, mut parts) = (path.as_slice(), Vec::new());
        while !rest.is_empty() {
            let (part, after) = first_part(rest);
            assert!(part.len() <= PART_BYTES);
            parts.push(part);
            rest = after;
        }
        assert_eq!(parts.join(&b'/'), path);
    }
}
