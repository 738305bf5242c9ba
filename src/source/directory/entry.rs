//! What a backup knows of one thing in the tree, and how it is asked of the file system.
//!
//! Invariant: everything but attributes, content and marks comes from one `statx`, so that it is of one moment.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, FileType, Statx, StatxFlags, StatxTimestamp, statx};
use serde::{Deserialize, Serialize};

use super::attributes::Attribute;
use super::chunk::Address;
use crate::base::RelPath;

/// A moment as file systems keep it; wider than 64 bits of nanoseconds, for some accept any number of seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileTime {
    /// Seconds since 1970, possibly negative.
    pub seconds: i64,
    /// Nanoseconds after that second, below 1,000,000,000.
    pub nanos: u32,
}

impl FileTime {
    /// The system's clock now.
    pub fn now() -> Self {
        // A clock before 1970 makes everything look new, and nothing is trusted.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { seconds: i64::try_from(now.as_secs()).unwrap_or(i64::MAX), nanos: now.subsec_nanos() }
    }

    /// Nanoseconds from `earlier` to here; negative when `earlier` is the later one.
    pub fn nanos_since(self, earlier: Self) -> i128 {
        let whole = |time: Self| i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
        whole(self) - whole(earlier)
    }
}

impl From<StatxTimestamp> for FileTime {
    fn from(time: StatxTimestamp) -> Self {
        Self { seconds: time.tv_sec, nanos: time.tv_nsec }
    }
}

/// What something is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link, never followed.
    Symlink {
        /// Its target, byte for byte.
        target: Vec<u8>,
    },
    /// A named pipe.
    Fifo,
    /// A character device.
    CharacterDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}

/// What the file system says of an inode at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Permission bits with set-uid, set-gid and sticky: `0o7777` at most.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Names that the inode has, in this tree and elsewhere.
    pub links: u32,
    /// Length of a file in bytes, holes included; 0 for everything else.
    pub size_bytes: u64,
    /// When content last changed; anybody who may write can set it.
    pub modified: FileTime,
    /// When content or attributes last changed; set by the kernel alone.
    pub changed: FileTime,
    /// When the inode was made, where the file system records it.
    pub born: Option<FileTime>,
    /// Number of the device that holds it.
    pub device: u64,
    /// Inode number on that device.
    pub inode: u64,
    /// Extended attributes, POSIX ACLs among them, in the order of their names.
    pub attributes: Vec<Attribute>,
}

/// What tells one inode from another. An inode number alone does not: it is given anew once its file is gone, and where several
/// file systems appear as one device two things have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
    born: Option<FileTime>,
}

impl Identity {
    /// Whether both can be of the same inode: numbers agree, and birth where both know it.
    pub fn agrees(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
            && (self.born.is_none() || other.born.is_none() || self.born == other.born)
    }

    /// Whether both are of the same inode for certain: birth is known as well.
    pub fn is_proven_by(&self, other: &Self) -> bool {
        self == other && self.born.is_some()
    }
}

impl Node {
    /// What tells it from others.
    pub fn identity(&self) -> Identity {
        Identity { device: self.device, inode: self.inode, born: self.born }
    }
}

/// What a backup could not hold as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// The file changed each time it was read: its content may mix several of its states.
    Unsteady,
    /// The file's content is not in the backup: reading it failed with this error number.
    Unread(i32),
    /// What the directory holds is not in the backup, or not all of it: listing it failed with this error number.
    Unlisted(i32),
    /// Its extended attributes are not in the backup: reading them failed with this error number.
    Bare(i32),
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = |errno: &i32| io::Error::from_raw_os_error(*errno);
        match self {
            Self::Unsteady => f.write_str("changed each time it was read"),
            Self::Unread(errno) => write!(f, "cannot be read: {}", why(errno)),
            Self::Unlisted(errno) => write!(f, "cannot be listed: {}", why(errno)),
            Self::Bare(errno) => write!(f, "its extended attributes cannot be read: {}", why(errno)),
        }
    }
}

/// One thing in the tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Where it is, below the protected directory.
    pub path: RelPath,
    /// What the file system says of it.
    pub node: Node,
    /// Of a file that has several names in this tree: the first of them in the order of paths, which holds the content.
    pub first_link: Option<RelPath>,
    /// Identity of a file's content ([`super::chunk::ContentId`]); none for what has no content of its own.
    pub content: Option<Address>,
    /// What is wrong with it; empty for what is whole.
    pub marks: Vec<Mark>,
}

impl Entry {
    /// An entry of which only the file system was asked.
    pub fn new(path: RelPath, node: Node) -> Self {
        Self { path, node, first_link: None, content: None, marks: Vec::new() }
    }

    /// Whether the backup lacks its content.
    pub fn is_unread(&self) -> bool {
        self.marks.iter().any(|mark| matches!(mark, Mark::Unread(_)))
    }
}

/// Something found that has no entry, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// Where it is.
    pub path: RelPath,
    /// Why it is left out.
    pub why: Reason,
}

/// Why something found has no entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Gone between being listed and being read: as if it had been removed before.
    Vanished,
    /// A socket: the program that listens there makes it anew.
    Socket,
    /// The exclude rules name it; what it holds was not looked at.
    Excluded,
    /// A directory that is one of those it lies in, by a mount; or another one that cannot be told from it, where several file
    /// systems appear as one.
    Loop,
    /// A directory on which another file system was mounted when the base was taken, and now none is: what lay there is not in
    /// the backup. The directory itself is.
    Unmounted,
    /// A directory that was gone when it was to be listed, or that of a file which was to be read. It may have been moved to
    /// where the walk had been before: then what it holds is not in the backup.
    Moved,
    /// Became another kind of thing, or a directory moved away, while the backup was looking: not in the backup.
    Replaced,
    /// It could not even be looked at; the error number.
    Unseen(i32),
}

impl Reason {
    /// Whether something is missing in the backup that belongs there.
    pub fn is_trouble(self) -> bool {
        match self {
            Self::Vanished | Self::Socket | Self::Excluded => false,
            Self::Loop | Self::Unmounted | Self::Moved | Self::Replaced | Self::Unseen(_) => true,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vanished => f.write_str("was removed while the backup ran"),
            Self::Socket => f.write_str("is a socket, which is not stored"),
            Self::Excluded => f.write_str("is excluded"),
            Self::Loop => f.write_str(
                "has the numbers of a directory that it lies in, as by a mount, and was not entered: \
                 exclude it, or make what it holds a source of its own",
            ),
            Self::Unmounted => f.write_str(
                "was a mount point when the base was taken and is none now: is its file system mounted? \
                 if it is gone for good, a backup without --errors fail takes note of that",
            ),
            Self::Moved => f.write_str("was removed, or moved, while the backup ran"),
            Self::Replaced => f.write_str("was replaced or moved while it was being read"),
            Self::Unseen(errno) => write!(f, "cannot be looked at: {}", io::Error::from_raw_os_error(*errno)),
        }
    }
}

/// What `statx` found.
#[derive(Debug)]
pub enum Look {
    /// Something that a backup can hold. Its attributes are not read yet, nor is a link's target.
    Node(Box<Node>),
    /// A socket.
    Socket,
}

/// Looks at `name` in `parent`, or at `parent` itself when `name` is empty. Links are not followed.
///
/// # Errors
/// The kernel's.
pub fn look(parent: impl AsFd, name: impl rustix::path::Arg) -> io::Result<Look> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT;
    let stat = statx(parent, name, flags, StatxFlags::BASIC_STATS | StatxFlags::BTIME)?;
    Ok(from_stat(&stat))
}

/// Looks at an open file or directory.
///
/// # Errors
/// The kernel's; `ESTALE` when it is a socket, which no open file is.
pub fn look_open(file: impl AsFd) -> io::Result<Node> {
    match look(file, "")? {
        Look::Node(node) => Ok(*node),
        Look::Socket => Err(rustix::io::Errno::STALE.into()),
    }
}

/// The target of the link `name` in `parent`.
///
/// # Errors
/// The kernel's.
pub fn read_link(parent: impl AsFd, name: &Path) -> io::Result<Vec<u8>> {
    Ok(rustix::fs::readlinkat(parent, name, Vec::new())?.into_bytes())
}

fn from_stat(stat: &Statx) -> Look {
    let (major, minor) = (stat.stx_rdev_major, stat.stx_rdev_minor);
    let kind = match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink { target: Vec::new() },
        FileType::Fifo => Kind::Fifo,
        FileType::CharacterDevice => Kind::CharacterDevice { major, minor },
        FileType::BlockDevice => Kind::BlockDevice { major, minor },
        FileType::Socket => return Look::Socket,
        _ => Kind::File,
    };
    let is_file = kind == Kind::File;
    Look::Node(Box::new(Node {
        kind,
        mode: u32::from(stat.stx_mode) & 0o7777,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        links: stat.stx_nlink,
        size_bytes: if is_file { stat.stx_size } else { 0 },
        modified: stat.stx_mtime.into(),
        changed: stat.stx_ctime.into(),
        born: (stat.stx_mask & StatxFlags::BTIME.bits() != 0).then(|| stat.stx_btime.into()),
        device: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
        inode: stat.stx_ino,
        attributes: Vec::new(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_alone_prove_nothing_and_another_birth_proves_the_contrary() {
        let identity =
            |inode, born: Option<i64>| Identity { device: 1, inode, born: born.map(|seconds| FileTime { seconds, nanos: 0 }) };
        for (one, other, agrees, is_proven) in [
            (identity(7, Some(1)), identity(7, Some(1)), true, true),
            (identity(7, Some(1)), identity(7, Some(2)), false, false),
            (identity(7, Some(1)), identity(7, None), true, false),
            (identity(7, None), identity(7, None), true, false),
            (identity(7, Some(1)), identity(8, Some(1)), false, false),
        ] {
            for (one, other) in [(one, other), (other, one)] {
                assert_eq!((one.agrees(&other), one.is_proven_by(&other)), (agrees, is_proven), "{one:?} {other:?}");
            }
        }
    }
}
