//! What is protected, one folder a kind.
//!
//! A kind tells what there is to store ([`Entry`]) and how to read its log; it knows nothing of stores and repositories.

use std::path::PathBuf;

use crate::base::{FileStamp, RelPath, Timestamp};

pub mod directory;
pub mod postgres;
pub mod sqlite;

/// One thing a backup stores, as found on the protected host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it belongs in the restored tree.
    pub path: RelPath,
    /// Where it is now. For a directory, file or link.
    pub location: PathBuf,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits, `0o7777` at most.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Last modification.
    pub modified: Timestamp,
    /// Identity and times as the file system has them; none for what no file system holds.
    pub stamp: Option<FileStamp>,
    /// Size in bytes when listed; a file may grow, shrink or vanish until it is read. 0 for a directory.
    pub size_bytes: u64,
}

/// What an [`Entry`] is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A regular file with bytes in no particular form.
    File,
    /// A relation's file: 8 KiB pages, the first of which has the given block number in its relation fork.
    Pages {
        /// Block number of the file's first page (segment number × pages a segment).
        first_block: u32,
        /// `main`, `fsm`, `vm` or `init`.
        fork: Fork,
    },
    /// A symbolic link that is kept as it is.
    Symlink {
        /// Its target.
        target: Vec<u8>,
    },
    /// A link out of the tree to a tablespace; the files below it are listed as if it were a directory.
    Tablespace {
        /// The directory the link names.
        target: PathBuf,
    },
}

/// A relation's fork.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fork {
    /// The data itself.
    Main,
    /// Free space map.
    FreeSpaceMap,
    /// Visibility map.
    VisibilityMap,
    /// What an unlogged relation is reset to.
    Init,
}
