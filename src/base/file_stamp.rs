//! What a file system says of a file, precisely enough to tell whether it is the same and untouched.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Identity and times of a file at one moment, as `statx` gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStamp {
    /// Number of the device that holds it.
    pub device: u64,
    /// Inode number; given to another file when this one is gone.
    pub inode: u64,
    /// When the inode was made, in nanoseconds since 1970; none where the file system does not record it.
    pub born_nanos: Option<i64>,
    /// When its content last changed, in nanoseconds since 1970.
    pub modified_nanos: i64,
    /// When content or attributes last changed, in nanoseconds since 1970; no program can set it.
    pub changed_nanos: i64,
}

impl FileStamp {
    /// The stamp of the file that `metadata` describes.
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            born_nanos: metadata.created().ok().map(nanos),
            modified_nanos: metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec(),
            changed_nanos: metadata.ctime() * 1_000_000_000 + metadata.ctime_nsec(),
        }
    }

    /// Whether both are certainly of one file: an inode number alone is soon given to the next file.
    pub fn is_same_file(&self, other: &Self) -> bool {
        self.born_nanos.is_some() && (self.device, self.inode, self.born_nanos) == (other.device, other.inode, other.born_nanos)
    }
}

fn nanos(time: SystemTime) -> i64 {
    let signed = |duration: std::time::Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => signed(after),
        Err(before) => -signed(before.duration()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_replaced_under_its_name_is_another_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("16384");
        let stamp = || FileStamp::of(&std::fs::metadata(&path).unwrap());
        std::fs::write(&path, b"one").unwrap();
        let first = stamp();
        assert_eq!(first, stamp());
        std::fs::write(&path, b"two").unwrap();
        assert_eq!(first.is_same_file(&stamp()), first.born_nanos.is_some());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, b"three").unwrap();
        assert!(!first.is_same_file(&stamp()));
        assert!(!first.is_same_file(&FileStamp { born_nanos: None, ..first }));
    }
}
