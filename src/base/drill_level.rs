//! How far a drill goes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How far a drill goes; each level proves more than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DrillLevel {
    /// Objects are read and compared with their digests; nothing is restored.
    Verify,
    /// Restored into a scratch directory, started, replayed and checked.
    Component,
    /// Restored as a standby that follows the archive, promoted and checked.
    Failover,
}

impl DrillLevel {
    /// All of them, the shallowest first.
    pub const ALL: [Self; 3] = [Self::Verify, Self::Component, Self::Failover];

    /// `verify`, `component` or `failover`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Verify => "verify",
            Self::Component => "component",
            Self::Failover => "failover",
        }
    }
}

impl fmt::Display for DrillLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for DrillLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|level| level.as_str() == text);
        found.ok_or_else(|| format!("'{text}' is no level of a drill; the levels are verify, component and failover"))
    }
}
