//! What a schedule names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One kind of scheduled work; the names are part of keys in the repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Job {
    /// A full backup.
    Full,
    /// A differential backup.
    Diff,
    /// An incremental backup.
    Incr,
    /// Letting backups go.
    Expire,
    /// A drill that restores.
    Drill,
    /// Reading what is stored.
    Verify,
}

impl Job {
    /// All of them; of those that can be due together, what does more comes first.
    pub const ALL: [Self; 6] = [Self::Full, Self::Diff, Self::Incr, Self::Expire, Self::Drill, Self::Verify];

    /// `full`, `diff`, `incr`, `expire`, `drill` or `verify`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Diff => "diff",
            Self::Incr => "incr",
            Self::Expire => "expire",
            Self::Drill => "drill",
            Self::Verify => "verify",
        }
    }

    /// Whether a run of this job does all that one of `other` would have done.
    pub fn covers(self, other: Self) -> bool {
        self == other || matches!((self, other), (Self::Full, Self::Diff | Self::Incr) | (Self::Diff, Self::Incr))
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Job {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|job| job.as_str() == text).ok_or_else(|| format!("'{text}' is no scheduled job"))
    }
}
