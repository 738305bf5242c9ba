//! Points in a database's log, and the reasons for which one does not lead to the next. Pure, but for [`Boot::current`].

use std::borrow::Cow;
use std::fmt;
use std::sync::LazyLock;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::wal::Checksum;
use crate::base::{FileStamp, Timestamp, boot_id};

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
        deserialize_hex(deserializer, 16).map(|value| Self(value as u64))
    }
}

fn parse_hex(text: &str, digits: usize) -> Option<u128> {
    (text.len() == digits).then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

fn deserialize_hex<'de, D: Deserializer<'de>>(deserializer: D, digits: usize) -> Result<u128, D::Error> {
    let text = Cow::<'de, str>::deserialize(deserializer)?;
    parse_hex(&text, digits).ok_or_else(|| serde::de::Error::custom(format!("'{text}' is not {digits} hex digits")))
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

/// One run of a machine: of a clone of it, whose files are the same, it is another. Shown as 32 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boot(u128);

impl Boot {
    /// This run; none where the kernel does not tell.
    pub fn current() -> Option<Self> {
        static CURRENT: LazyLock<Option<Boot>> = LazyLock::new(|| parse_hex(&boot_id()?.replace('-', ""), 32).map(Boot));
        *CURRENT
    }
}

impl Serialize for Boot {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{:032x}", self.0))
    }
}

impl<'de> Deserialize<'de> for Boot {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize_hex(deserializer, 32).map(Self)
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
    /// The run of the machine in which it was looked at; none where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<Boot>,
}

impl Position {
    /// Whether both may have been looked at in one run of one machine.
    pub fn may_be_of_one_boot(&self, other: &Self) -> bool {
        self.boot.is_none() || other.boot.is_none() || self.boot == other.boot
    }
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

impl Moment {
    /// Whether everything is in this state that is in `other`'s; `None` when nobody can tell.
    ///
    /// Within one generation of one file's log the frames tell. Between two the times do, where they do not overlap: what had
    /// been committed by `complete_at` is in a state, and what was committed after `captured_at` is not.
    pub fn holds(&self, other: &Self) -> Option<bool> {
        let (own, its) = (&self.at, &other.at);
        let is_one_generation = (own.file, own.salts) == (its.file, its.salts) && own.frame > 0 && its.frame > 0;
        if is_one_generation {
            return Some(own.frame >= its.frame);
        }
        if self.complete_at >= other.captured_at {
            return Some(true);
        }
        (self.captured_at <= other.complete_at).then_some(false)
    }

    /// Whether pages of what goes on from `from` may be written over an image of this state: they are of one file, and nothing
    /// lies between the two that this state lacks. Of a file that a machine and its clone have, each went its own way: what one
    /// run of a machine saw goes on only from what the same run saw.
    pub fn may_be_followed_from(&self, from: &Self) -> bool {
        let is_of_one = self.at.file == from.at.file && self.at.may_be_of_one_boot(&from.at);
        self == from || (is_of_one && self.holds(from) != Some(false))
    }
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

#[cfg(test)]
impl Moment {
    /// A state of that many frames, of that second, of one file and generation.
    pub(crate) fn sample(second: i64) -> Self {
        let file = FileId { device: 1, inode: 2, born_nanos: None };
        let (salts, frame, checksum, page_size) = (Salts(9), second as u32, [0, 0], 512);
        let at = Position { file, salts, frame, checksum, change_counter: frame, page_size, pages: 3, boot: None };
        let time = Timestamp::from_unix_micros(second * 1_000_000).unwrap();
        Self { complete_at: time, captured_at: time, at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(complete: i64, captured: i64, salts: u64, frame: u32) -> Moment {
        let time = |micros| Timestamp::from_unix_micros(micros).unwrap();
        let file = FileId { device: 1, inode: 2, born_nanos: None };
        let at = Position {
            file,
            salts: Salts(salts),
            frame,
            checksum: [0; 2],
            change_counter: 0,
            page_size: 512,
            pages: 1,
            boot: None,
        };
        Moment { complete_at: time(complete), captured_at: time(captured), at }
    }

    #[test]
    fn frames_tell_within_a_generation_and_times_between_two() {
        assert_eq!(moment(5, 9, 1, 7).holds(&moment(6, 8, 1, 7)), Some(true), "the same state, looked at in the same instant");
        assert_eq!(moment(5, 9, 1, 6).holds(&moment(1, 2, 1, 7)), Some(false), "whatever the clocks say");
        assert_eq!(moment(9, 10, 2, 1).holds(&moment(5, 9, 1, 7)), Some(true));
        assert_eq!(moment(4, 5, 2, 1).holds(&moment(5, 9, 1, 7)), Some(false));
        assert_eq!(moment(6, 7, 2, 1).holds(&moment(5, 9, 1, 7)), None, "they overlap");
        assert_eq!(moment(6, 7, 1, 0).holds(&moment(5, 9, 1, 0)), None, "an empty log has no identity");
        let mut other = moment(9, 9, 1, 7);
        other.at.file.inode = 3;
        assert_eq!(moment(5, 5, 1, 9).holds(&other), Some(false), "another file");
        let image = moment(20, 21, 1, 3);
        assert!(image.may_be_followed_from(&moment(5, 9, 1, 3)) && !image.may_be_followed_from(&moment(5, 9, 1, 4)));
        let of_boot = |boot: u128, mut moment: Moment| {
            moment.at.boot = Some(Boot(boot));
            moment
        };
        let (first, clone) = (of_boot(1, moment(5, 9, 1, 3)), of_boot(2, image));
        assert!(of_boot(1, image).may_be_followed_from(&first) && clone.may_be_followed_from(&clone));
        assert!(!clone.may_be_followed_from(&first), "the clone went its own way");
        assert!(image.holds(&other) == Some(true) && !image.may_be_followed_from(&other), "another file, whatever the times say");
    }
}
