//! A restored database, asked whether it is whole, and asked the user's own questions.
//!
//! It is opened as immutable: nothing is written beside it, nothing locked.

use std::path::Path;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::connection::explain;
use crate::base::{Error, Result};

/// Findings that are reported at most.
const MAX_FINDINGS: usize = 100;

/// What `PRAGMA integrity_check` finds wrong with a database that nobody writes; empty when it is whole.
///
/// A database in which SQLite cannot even begin to look has that as its finding.
pub fn integrity_problems(path: &Path) -> Result<Vec<String>> {
    match rows(path, &format!("PRAGMA integrity_check({MAX_FINDINGS})")) {
        Ok(rows) => Ok(rows.into_iter().flatten().flatten().filter(|finding| finding != "ok").collect()),
        Err(error) => match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Ok(vec![error.to_string()]),
            _ => Err(explain("check", path, error)),
        },
    }
}

/// Rows as text, `None` for NULL; one inner list a row.
pub type Rows = Vec<Vec<Option<String>>>;

/// What one statement returns, on a database that nobody writes. Statements that write are refused by SQLite.
pub fn query(path: &Path, sql: &str) -> Result<Rows> {
    rows(path, sql).map_err(|error| match error {
        rusqlite::Error::SqlInputError { .. } => Error::failed(format!("cannot run '{sql}'")).caused_by(error),
        error => explain("check", path, error),
    })
}

fn rows(path: &Path, sql: &str) -> rusqlite::Result<Rows> {
    let connection = open(path)?;
    let mut statement = connection.prepare(sql)?;
    let columns = statement.column_count();
    let rows = statement.query_map([], |row| (0..columns).map(|column| Ok(text(row.get_ref(column)?))).collect())?;
    rows.collect()
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(format!("file:{}?immutable=1", escape(path)), flags)
}

/// A path within a `file:` URI: all but the plainest bytes as `%XX`.
fn escape(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let mut escaped = String::new();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => escaped.push(char::from(*byte)),
            other => escaped.push_str(&format!("%{other:02X}")),
        }
    }
    escaped
}

fn text(value: ValueRef<'_>) -> Option<String> {
    Some(match value {
        ValueRef::Null => return None,
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
        ValueRef::Blob(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
    })
}
