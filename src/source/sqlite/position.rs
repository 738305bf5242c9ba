//! Points in a database's log, and the reasons for which one does not lead to the next. Pure.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::wal::Checksum;
use crate::base::{FileStamp, Timestamp};

/// What tells one generation of a log file from the next: eight random bytes. Shown as 16 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Salts(pub u64);

impl Salts {
    /// The eight bytes of `bytes` that begin at `at`.
    pub fn from_bytes(bytes: &[u8], at: usize) -> Self {
        let mut salts = [0; 8];
        salts.copy_from_slice(&bytes[at..at + 8]);
        Self(u64::from_be_bytes(salts))
    }
}

impl Serialize for Salts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{:016x}", self.0))
    }
}

impl<'de> Deserialize<'de> for Salts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let value = (text.len() == 16).then(|| u64::from_str_radix(&text, 16).ok()).flatten();
        value.map(Self).ok_or_else(|| serde::de::Error::custom(format!("'{text}' is not 16 hex digits")))
    }
}

/// Which file a database is, so that another one under its name is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileId {
    /// Number of the device.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// When the inode was made, in nanoseconds since 1970, where the file system knows it.
    pub born_nanos: Option<i64>,
}

impl From<&FileStamp> for FileId {
    fn from(stamp: &FileStamp) -> Self {
        Self { device: stamp.device, inode: stamp.inode, born_nanos: stamp.born_nanos }
    }
}

/// A committed state of a database, as a point in its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The database file.
    pub file: FileId,
    /// Generation of the log.
    pub salts: Salts,
    /// Committed frames in it; 0 when everything is in the database file.
    pub frame: u32,
    /// Running checksum after the last of them.
    pub checksum: Checksum,
    /// SQLite's count of transactions since the index was built.
    pub change_counter: u32,
    /// Bytes a page.
    pub page_size: u32,
    /// Size of the database in pages.
    pub pages: u32,
}

/// A state that was captured, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Every transaction whose commit had returned by then is in it.
    pub complete_at: Timestamp,
    /// No transaction that was committed later is in it. Grows from moment to moment, whatever the clock does.
    pub captured_at: Timestamp,
    /// The state.
    pub at: Position,
}

/// Why what comes next cannot be told from what was stored last, so that only a fresh snapshot goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discontinuity {
    /// There is no snapshot yet.
    NoSnapshot,
    /// Another file has the database's name.
    Replaced,
    /// The log or its index was removed or replaced under its name.
    LogReplaced,
    /// The log was begun again while nobody watched.
    Restarted,
    /// The log was begun again, and transactions before that are missing by SQLite's own count.
    Missed,
    /// The log ends before what was captured: a crash lost its tail, or an older state came back.
    Rewound,
    /// The log goes on from something other than what was captured.
    Diverged,
    /// The database file was written by something other than a checkpoint.
    ForeignWrite,
    /// The log grew beyond what was allowed while nothing could be stored, and was let go.
    LetGo,
    /// The database leaves or left WAL mode.
    OtherMode,
}

impl fmt::Display for Discontinuity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSnapshot => "there is no snapshot yet",
            Self::Replaced => "another file has its name now",
            Self::LogReplaced => "its write-ahead log was removed or replaced",
            Self::Restarted => "its write-ahead log was begun again while it was not watched",
            Self::Missed => "its write-ahead log was begun again before all of it could be captured",
            Self::Rewound => "its write-ahead log ends before what was captured",
            Self::Diverged => "its write-ahead log does not go on from what was captured",
            Self::ForeignWrite => "its file was written by something other than SQLite's checkpoints",
            Self::LetGo => "its write-ahead log grew too large while nothing could be stored, and was let go",
            Self::OtherMode => "it was not in WAL mode all the time",
        })
    }
}
