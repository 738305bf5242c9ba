//! Connections to a database that somebody else owns.
//!
//! Readers are opened read-only, so that SQLite itself refuses to write the database through them. No connection of ours
//! checkpoints when it is closed, and none deletes the log.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};

use crate::base::{Error, Result};

/// How long a reader waits for a lock; none is held for long by a healthy writer.
const READER_PATIENCE: Duration = Duration::from_secs(5);
/// How long, and how often, a writer's lock is tried: one that never stops leaves it for microseconds.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);
const LOCK_INTERVAL: Duration = Duration::from_micros(50);

/// `path` with `suffix` appended to its name: SQLite's `-wal`, `-shm` and `-journal`.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

/// Opens a connection that can only read.
pub fn open_reader(path: &Path) -> Result<Connection> {
    open(path, OpenFlags::SQLITE_OPEN_READ_ONLY, READER_PATIENCE)
}

/// Opens a connection for checkpoints: the one thing for which SQLite wants the right to write.
pub fn open_checkpointer(path: &Path) -> Result<Connection> {
    let mut connection = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE, LOCK_PATIENCE)?;
    let try_again = |tries: i32| {
        std::thread::sleep(LOCK_INTERVAL);
        // The system sleeps longer than it was asked to, by about as much again.
        u128::from(tries.unsigned_abs()) < LOCK_PATIENCE.as_micros() / (2 * LOCK_INTERVAL.as_micros())
    };
    connection.busy_handler(Some(try_again)).map_err(|error| explain("open", path, error))?;
    Ok(connection)
}

fn open(path: &Path, access: OpenFlags, patience: Duration) -> Result<Connection> {
    let open = || -> rusqlite::Result<Connection> {
        let connection = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.busy_timeout(patience)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        Ok(connection)
    };
    open().map_err(|error| explain("open", path, error))
}

/// Begins a transaction and reads something, so that the read lock is really taken.
pub fn begin_read(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("BEGIN")?;
    let read = connection.query_row("PRAGMA schema_version", [], |row| row.get::<_, i64>(0));
    if let Err(error) = read {
        end_read(connection)?;
        return Err(error);
    }
    Ok(())
}

/// Ends what [`begin_read`] began; nothing when there is none.
pub fn end_read(connection: &Connection) -> rusqlite::Result<()> {
    if connection.is_autocommit() { Ok(()) } else { connection.execute_batch("ROLLBACK") }
}

/// SQLite's error as this program's, with what to do where that is known.
pub fn explain(action: &str, path: &Path, error: rusqlite::Error) -> Error {
    let shown = path.display();
    let extended = error.sqlite_error().map_or(0, |error| error.extended_code);
    let cannot = |why: &str| format!("cannot {action} {shown}: {why}");
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            let why = cannot("another program holds its lock");
            Error::busy(why)
                .caused_by(error)
                .hint("a program with PRAGMA locking_mode = EXCLUSIVE lets nobody else read; set it to NORMAL")
        }
        Some(ErrorCode::ReadOnly) if extended == ffi::SQLITE_READONLY_ROLLBACK => {
            let why = cannot("a transaction was cut off in the middle, and its journal must be rolled back first");
            let hint = format!("let its program open it once, or: sqlite3 {shown} 'PRAGMA schema_version'");
            Error::failed(why).caused_by(error).hint(hint)
        }
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            let why = cannot("this user may not take part in its locks");
            let hint = format!("run as the user who owns {shown}; its -shm file, and the directory, must be writable");
            Error::failed(why).caused_by(error).hint(hint)
        }
        Some(ErrorCode::NotADatabase) => {
            let hint = "it may be encrypted, or damaged in its first page: lifeboat list names backups from before";
            Error::damaged(cannot("it is no SQLite database")).caused_by(error).hint(hint)
        }
        Some(ErrorCode::DatabaseCorrupt) => {
            let hint = format!("sqlite3 {shown} 'PRAGMA integrity_check' tells more; lifeboat list names backups from before");
            Error::damaged(cannot("it is damaged")).caused_by(error).hint(hint)
        }
        _ => Error::failed(format!("cannot {action} {shown}")).caused_by(error),
    }
}
