//! The file in a data directory that says: this is a standby which follows an archive.
//!
//! It is written by a restore before `pg_control` gets its name, rewritten before a promotion begins, and removed when
//! the server takes writes. No backup of this program holds it; whoever copies the
//! directory by other means copies it, too.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::base::{BackupId, Error, Incarnation, Lsn, Result, SourceName, Timestamp, durable};
use crate::source::postgres::filenames::STANDBY_MARKER;
use crate::source::postgres::recovery_config::write_owned;

/// The version that this program writes and reads.
const FORMAT: u32 = 1;

/// What a standby is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    format: u32,
    /// The source that it follows.
    pub source: SourceName,
    /// The cluster.
    pub incarnation: Incarnation,
    /// The only repository that it asks; all of the source's when there is none.
    pub repository: Option<String>,
    /// The backup that it was restored from.
    pub backup: BackupId,
    /// Where that backup is consistent: no recovery can end before.
    pub consistent_lsn: Lsn,
    /// When it was restored.
    pub restored: Timestamp,
    /// By how much its replay lags on purpose, in seconds.
    pub delay_seconds: u64,
    /// The promotion that has begun.
    pub promoting: Option<Promoting>,
}

/// A promotion that has begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promoting {
    /// Its target, as the operator is told it.
    pub target: String,
    /// When it began.
    pub began: Timestamp,
}

impl Marker {
    /// That of a standby restored from `backup`, which is consistent at `consistent_lsn`.
    pub fn new(source: &SourceName, incarnation: &Incarnation, backup: &BackupId, consistent_lsn: Lsn) -> Self {
        Self {
            format: FORMAT,
            source: source.clone(),
            incarnation: incarnation.clone(),
            repository: None,
            backup: backup.clone(),
            consistent_lsn,
            restored: Timestamp::now(),
            delay_seconds: 0,
            promoting: None,
        }
    }

    /// That of `data`; none when there is none.
    ///
    /// # Errors
    /// When it cannot be read, or is of a later version of this program.
    pub fn read(data: &Path) -> Result<Option<Self>> {
        let path = data.join(STANDBY_MARKER);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("read", &path, error)),
        };
        let unreadable = |why: String| {
            Error::failed(format!("{} does not say what this standby is: {why}", path.display()))
                .hint("restore it again with --standby --delta")
        };
        let marker: Self = serde_json::from_str(&text).map_err(|error| unreadable(error.to_string()))?;
        match marker.format {
            FORMAT => Ok(Some(marker)),
            other => Err(unreadable(format!("it is of format {other}, this program knows {FORMAT}"))),
        }
    }

    /// Writes it durably below `data`, as the owner of that directory.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, data: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|error| Error::failed(error.to_string()))? + "\n";
        write_owned(data, STANDBY_MARKER, text.as_bytes(), 0o600)
    }

    /// Takes the one of `data` away.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(data: &Path) -> Result<()> {
        let path = data.join(STANDBY_MARKER);
        fs::remove_file(&path).and_then(|()| durable::sync_parent(&path)).map_err(|error| Error::io("remove", &path, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back_as_it_was_and_a_strange_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Marker::read(dir.path()).unwrap(), None);
        let backup = BackupId::fresh(Timestamp::now(), crate::base::BackupType::Full);
        let mut marker = Marker::new(&"orders".parse().unwrap(), &Incarnation::postgres(15, 7), &backup, Lsn(0x900_0100));
        marker.promoting = Some(Promoting { target: "LSN 0/1".to_owned(), began: marker.restored });
        marker.write(dir.path()).unwrap();
        assert_eq!(Marker::read(dir.path()).unwrap(), Some(marker));
        for (text, why) in [("{}", "missing field"), ("{\"format\": 2", "EOF")] {
            fs::write(dir.path().join(STANDBY_MARKER), text).unwrap();
            assert!(Marker::read(dir.path()).unwrap_err().message().contains(why));
        }
        Marker::remove(dir.path()).unwrap();
        assert_eq!(Marker::read(dir.path()).unwrap(), None);
    }
}
