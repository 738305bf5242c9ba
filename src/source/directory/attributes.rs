//! Extended attributes, and with them POSIX ACLs and file capabilities, which are attributes of the names `system.posix_acl_*`
//! and `security.capability`.
//!
//! Invariant: a link is never followed. The kernel has no call for an attribute of a name in an open directory, so the name
//! is reached through `/proc/self/fd`, whose last component the `l…` calls do not follow.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fsetxattr, lgetxattr, llistxattr, lremovexattr, lsetxattr};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// Room tried first; a list or value that needs more is asked for its length.
const ROOM_BYTES: usize = 512;
/// The kernel's limit for a list of names and for a value is 64 KiB.
const MOST_BYTES: usize = 64 << 10;

/// One extended attribute.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Attribute {
    /// Its full name with the namespace, `user.comment`; any bytes but zero.
    pub name: Vec<u8>,
    /// Its value, 64 KiB at most.
    pub value: Vec<u8>,
}

/// All attributes of an open file or directory that this process may see, in the order of their names.
///
/// # Errors
/// The kernel's. A file system without attributes has none.
pub fn of_open(file: impl AsFd) -> io::Result<Vec<Attribute>> {
    collect(|room| flistxattr(&file, room), |name, room| fgetxattr(&file, name, room))
}

/// All attributes of `name` in `parent`, a link's own, in the order of their names.
///
/// # Errors
/// As [`of_open`]; a missing `/proc` is told as such.
pub fn of_name(parent: impl AsFd, name: &OsStr) -> io::Result<Vec<Attribute>> {
    let path = through_proc(parent, name)?;
    collect(|room| llistxattr(&path, room), |name, room| lgetxattr(&path, name, room))
}

/// Sets an attribute of an open file or directory.
///
/// # Errors
/// The kernel's: `ENOTSUP` where the file system has no such attributes, `EPERM` where this user may not set it.
pub fn set_open(file: impl AsFd, attribute: &Attribute) -> io::Result<()> {
    Ok(fsetxattr(file, attribute.name.as_slice(), &attribute.value, XattrFlags::empty())?)
}

/// Sets an attribute of `name` in `parent`, a link's own.
///
/// # Errors
/// As [`set_open`].
pub fn set_name(parent: impl AsFd, name: &OsStr, attribute: &Attribute) -> io::Result<()> {
    let path = through_proc(parent, name)?;
    Ok(lsetxattr(&path, attribute.name.as_slice(), &attribute.value, XattrFlags::empty())?)
}

/// Removes an attribute of `name` in `parent`, a link's own.
///
/// # Errors
/// As [`set_open`].
pub fn remove_name(parent: impl AsFd, name: &OsStr, attribute: &Attribute) -> io::Result<()> {
    let path = through_proc(parent, name)?;
    Ok(lremovexattr(&path, attribute.name.as_slice())?)
}

fn through_proc(parent: impl AsFd, name: &OsStr) -> io::Result<PathBuf> {
    let path = PathBuf::from(format!("/proc/self/fd/{}", parent.as_fd().as_raw_fd()));
    Ok(path.join(name))
}

/// Lists names and gets values with two calls that fill the room they are given.
fn collect(
    mut list: impl FnMut(&mut [u8]) -> Result<usize, Errno>,
    mut get: impl FnMut(&[u8], &mut [u8]) -> Result<usize, Errno>,
) -> io::Result<Vec<Attribute>> {
    let names = match with_room(&mut list) {
        Ok(names) => names,
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut attributes = Vec::new();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        match with_room(|room| get(name, room)) {
            Ok(value) => attributes.push(Attribute { name: name.to_vec(), value }),
            // Removed since it was listed.
            Err(Errno::NODATA) => {}
            Err(error) => return Err(error.into()),
        }
    }
    attributes.sort_unstable();
    Ok(attributes)
}

/// What `fill` has to say, first with a little room and then with as much as the kernel ever needs.
fn with_room(mut fill: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut room = [0; ROOM_BYTES];
    match fill(&mut room) {
        Ok(length) => Ok(room[..length].to_vec()),
        Err(Errno::RANGE) => {
            let mut room = vec![0; MOST_BYTES];
            let length = fill(&mut room)?;
            room.truncate(length);
            Ok(room)
        }
        Err(error) => Err(error),
    }
}

/// The name for people; bytes that are not text are replaced.
impl std::fmt::Display for Attribute {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", OsStr::from_bytes(&self.name).display())
    }
}
