//! What kind of file lies where a database is expected, told without disturbing anyone.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::claim::Claim;
use super::connection::beside;
use super::header::{HEADER_BYTES, Header, HeaderFault};
use crate::base::{Error, Result};

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Nothing has that name.
    Missing,
    /// A file without a byte: a database in which nothing was ever committed.
    Empty,
    /// A database in WAL mode: snapshots, and every commit from its log.
    Wal(Header),
    /// A database with a rollback journal: snapshots only.
    Rollback(Header),
    /// Not SQLite, encrypted, damaged, or too new.
    Unusable(HeaderFault),
    /// Shorter than a header.
    CutOff,
    /// A file beside which the log of the one lies that it replaced: SQLite would apply that to it.
    StrangeLog,
    /// Being replaced, or given another journal mode, at this moment.
    Changing,
}

/// Looks at `path`; opens the file for a moment.
///
/// An error when it cannot be read, or when this process has it open already ([`Claim`]).
pub fn probe(path: &Path) -> Result<Probe> {
    let Some(claim) = Claim::open(path)? else { return Ok(Probe::Missing) };
    probe_file(&claim.file).map_err(|error| Error::io("read", path, error))
}

pub(super) fn probe_file(file: &File) -> io::Result<Probe> {
    let length = file.metadata()?.len();
    if length == 0 {
        return Ok(Probe::Empty);
    }
    if length < HEADER_BYTES as u64 {
        return Ok(Probe::CutOff);
    }
    let mut bytes = [0; HEADER_BYTES];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(match Header::parse(&bytes) {
        Ok(header) if header.is_wal => Probe::Wal(header),
        Ok(header) => Probe::Rollback(header),
        Err(HeaderFault::NotSqlite) if looks_random(file, length)? => Probe::Unusable(HeaderFault::Encrypted),
        Err(fault) => Probe::Unusable(fault),
    })
}

/// Whether the file is whole blocks of what only encryption (or compression without a header) produces: SQLCipher leaves
/// nothing in the clear. Random bytes have nearly all 256 values in 4 KiB; text and structures do not come close.
fn looks_random(file: &File, length: u64) -> io::Result<bool> {
    let mut bytes = [0; 4096];
    if !length.is_multiple_of(512) || length < bytes.len() as u64 {
        return Ok(false);
    }
    file.read_exact_at(&mut bytes, 0)?;
    let mut counts = [0u32; 256];
    bytes.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
    let total = bytes.len() as f64;
    let bits_a_byte: f64 =
        counts.iter().filter(|count| **count > 0).map(|count| f64::from(*count) / total).map(|p| -p * p.log2()).sum();
    Ok(bits_a_byte > 7.9)
}

impl Probe {
    /// Why nothing can be backed up from there, with what to do about it; `None` when it can.
    pub fn refusal(&self, path: &Path) -> Option<Error> {
        let cannot = |why: &dyn fmt::Display| Error::failed(format!("cannot back up {}: {why}", path.display()));
        Some(match self {
            Self::Wal(_) | Self::Rollback(_) => return None,
            Self::Missing => cannot(&"there is no such file")
                .hint("look at the source's path in lifeboat.toml; a database that is created later is taken up then"),
            Self::Empty => cannot(&"it is empty: nothing was ever committed to it")
                .hint("it is taken up with its first transaction"),
            Self::Changing => {
                let message = format!("cannot back up {}: it is being replaced, or changes its journal mode", path.display());
                Error::busy(message).hint("try again in a moment")
            }
            Self::StrangeLog => {
                let (log, index) = (beside(path, "-wal"), beside(path, "-shm"));
                let hint = format!("stop its programs, and move {} and {} away", log.display(), index.display());
                let why = "it replaced another file, whose log lies beside it still: SQLite would apply that to it";
                cannot(&why).hint(hint).hint("what a program has made of the two is nobody's state: restore it, or copy it again")
            }
            Self::CutOff => cannot(&"it is cut off within its first hundred bytes")
                .hint("restore it from a backup: lifeboat list"),
            Self::Unusable(HeaderFault::NotSqlite) => cannot(&HeaderFault::NotSqlite)
                .hint("for files of other kinds use a source with kind = \"directory\""),
            Self::Unusable(HeaderFault::Encrypted) => cannot(&"it is encrypted, or no SQLite database at all")
                .hint("SQLite without the key cannot tell its commits; back up its directory, while no program writes, with kind = \"directory\""),
            Self::Unusable(fault @ HeaderFault::TooNew(_)) => cannot(fault).hint("use a newer lifeboat"),
            Self::Unusable(fault @ HeaderFault::Corrupt(_)) => cannot(fault)
                .hint(format!("sqlite3 {} 'PRAGMA integrity_check' tells more; lifeboat list names backups from before", path.display())),
        })
    }

    /// Whether a rollback journal lies beside the database: a transaction is running, or was cut off.
    pub fn has_journal(path: &Path) -> bool {
        std::fs::metadata(beside(path, "-journal")).is_ok_and(|metadata| metadata.len() > 0)
    }
}
