//! Names of sources, backups and incarnations: parts of object keys, so restricted to safe characters.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::clock::Timestamp;

/// The name of a protected system: 1 to 63 of `a-z A-Z 0-9 - _ .`, starting with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceName(String);

/// First components of keys that belong to the repository itself.
const RESERVED: [&str; 2] = ["keys", "probe"];

impl FromStr for SourceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let letters = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        let starts = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        if RESERVED.contains(&text) || text == "lifeboat.json" {
            return Err(format!("'{text}' is reserved; choose another name for the source"));
        }
        if !letters || !starts || text.len() > 63 {
            return Err(format!(
                "'{text}' cannot name a source: use 1 to 63 letters, digits, '-', '_' or '.', starting with a letter or digit"
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

/// What a backup holds: everything, or the changes since an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackupType {
    /// Everything.
    Full,
    /// Changes since the last full.
    Diff,
    /// Changes since the last backup of any type.
    Incr,
}

impl BackupType {
    /// `full`, `diff` or `incr`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Diff => "diff",
            Self::Incr => "incr",
        }
    }
}

impl fmt::Display for BackupType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A backup's id, `20261120T214002Z-full-k3fq`: UTC start, type, four random base32 letters.
///
/// Text order is order of start.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackupId(String);

/// RFC 4648 base32 in lower case.
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Four random letters of base32, to tell apart what has the same time.
pub fn random_letters() -> String {
    let random: u32 = rand::random();
    (0..4).map(|i| char::from(BASE32[(random >> (5 * i) & 31) as usize])).collect()
}

impl BackupId {
    /// A fresh id for a backup that starts at `start`.
    pub fn fresh(start: Timestamp, backup_type: BackupType) -> Self {
        Self(format!("{}-{backup_type}-{}", start.compact_seconds(), random_letters()))
    }

    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// When the backup started, to the second.
    pub fn start(&self) -> Timestamp {
        Timestamp::parse_compact(&self.0[..16]).expect("checked on construction")
    }
}

impl FromStr for BackupId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split('-');
        let time = parts.next().filter(|time| time.len() == 16).and_then(Timestamp::parse_compact);
        let kind = parts.next().filter(|kind| matches!(*kind, "full" | "diff" | "incr"));
        let letters = parts.next().filter(|letters| letters.len() == 4 && letters.bytes().all(|b| BASE32.contains(&b)));
        if time.is_none() || kind.is_none() || letters.is_none() || parts.next().is_some() {
            return Err(format!("'{text}' is not a backup id such as 20261120T214002Z-full-k3fq"));
        }
        Ok(Self(text.to_owned()))
    }
}

/// What kind of system a source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// A PostgreSQL cluster.
    Postgres,
    /// A SQLite database.
    Sqlite,
    /// A directory of files.
    Directory,
}

impl Engine {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Postgres, Self::Sqlite, Self::Directory];

    /// `postgres`, `sqlite` or `directory`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Sqlite => "sqlite",
            Self::Directory => "directory",
        }
    }

    /// What of it there is to be looked at: `server`, `database` or `directory`.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Postgres => "server",
            Self::Sqlite => "database",
            Self::Directory => "directory",
        }
    }

    /// For a sentence: `a SQLite database`.
    pub fn with_article(self) -> &'static str {
        match self {
            Self::Postgres => "a PostgreSQL cluster",
            Self::Sqlite => "a SQLite database",
            Self::Directory => "a directory",
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One life of a source, in which positions of its log can be compared.
///
/// Of PostgreSQL it is what a system identifier and major version name, `pg15-7312345678901234567`: `pg_upgrade` or a new
/// `initdb` starts a new one. Of what has no such number it is the moment in which its first backup was taken, in
/// microseconds since 1970: `sqlite-1763674802123456`. Logs of two incarnations never mix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(String);

impl Incarnation {
    /// The incarnation of a PostgreSQL cluster.
    pub fn postgres(major_version: u32, system_identifier: u64) -> Self {
        Self(format!("pg{major_version}-{system_identifier}"))
    }

    /// The incarnation of what has no number of its own, and was first backed up at `moment`.
    pub fn dated(engine: Engine, moment: Timestamp) -> Self {
        Self(format!("{engine}-{}", moment.unix_micros()))
    }

    /// What kind of system it is of; what no other engine's name begins with is PostgreSQL's.
    pub fn engine(&self) -> Engine {
        let is_of = |engine: &Engine| self.0.split_once('-').is_some_and(|(name, _)| name == engine.as_str());
        Engine::ALL.into_iter().find(is_of).unwrap_or(Engine::Postgres)
    }

    /// The major version of a PostgreSQL cluster's incarnation; none of another engine's.
    pub fn postgres_major(&self) -> Option<u32> {
        self.0.strip_prefix("pg")?.split_once('-')?.0.parse().ok()
    }
}

impl FromStr for Incarnation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let valid = text.split_once('-').is_some_and(|(engine, number)| {
            let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
            word(engine) && word(number)
        });
        if valid && text.len() <= 63 {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("'{text}' is not an incarnation such as pg15-7312345678901234567"))
        }
    }
}

macro_rules! text_newtype {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                std::borrow::Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
text_newtype!(SourceName);
text_newtype!(BackupId);
text_newtype!(Incarnation);

impl fmt::Debug for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_names_are_safe_key_components() {
        for good in ["orders", "Orders-2.eu_west", "1"] {
            assert!(good.parse::<SourceName>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "-x", "keys", "probe", "lifeboat.json", "naïve", "a b", &"x".repeat(64)] {
            assert!(bad.parse::<SourceName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn backup_ids_sort_by_time_and_parse_strictly() {
        let early = Timestamp::from_unix_micros(1_000_000_000_000_000).unwrap();
        let a = BackupId::fresh(early, BackupType::Incr);
        let b = BackupId::fresh(early.plus(std::time::Duration::from_secs(1)), BackupType::Full);
        assert!(a < b);
        assert_eq!(a.as_str().parse::<BackupId>().unwrap(), a);
        assert_eq!(a.start(), early);
        for bad in [
            "",
            "20261120T214002Z-full",
            "20261120T214002Z-full-K3FQ",
            "20261120T214002Z-huge-k3fq",
            "20261120T214002Z-full-k3fq-x",
            "../../etc",
        ] {
            assert!(bad.parse::<BackupId>().is_err(), "{bad}");
        }
    }
}
