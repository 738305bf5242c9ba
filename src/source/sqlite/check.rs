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

/// What SQLite's own check of a database came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// What is wrong; empty when nothing was found.
    pub problems: Vec<String>,
    /// What could not be looked at, and why: the database needs something that only its own program has.
    pub unchecked: Vec<String>,
}

/// What `PRAGMA integrity_check` finds wrong with a database that nobody writes.
///
/// A database in which SQLite cannot even begin to look has that as its finding. One that needs a collation or a function of
/// its own program is looked at table by table, each as closely as that allows.
pub fn integrity(path: &Path) -> Result<Checked> {
    match findings(path, &format!("PRAGMA integrity_check({MAX_FINDINGS})"))? {
        Ok(problems) => Ok(Checked { problems, unchecked: Vec::new() }),
        Err(why) => table_by_table(path, why),
    }
}

fn table_by_table(path: &Path, why: String) -> Result<Checked> {
    let mut checked = Checked { problems: Vec::new(), unchecked: vec![format!("the database as a whole: {why}")] };
    let tables = match rows(path, "SELECT name FROM sqlite_schema WHERE type = 'table'") {
        Ok(rows) => rows.into_iter().flatten().flatten(),
        Err(error) => return Err(explain("check", path, error)),
    };
    for table in tables {
        let (text, name) = (table.replace('\'', "''"), table.replace('"', "\"\""));
        // The last one walks its pages, and needs nothing that an index or a constraint asks for.
        let ways = [
            format!("PRAGMA integrity_check('{text}')"),
            format!("PRAGMA quick_check('{text}')"),
            format!("SELECT 'ok' WHERE (SELECT count(*) FROM \"{name}\" NOT INDEXED) >= 0"),
        ];
        for (way, sql) in ways.iter().enumerate() {
            match findings(path, sql)? {
                Ok(problems) => {
                    checked.problems.extend(problems);
                    break;
                }
                Err(why) if way == 0 => checked.unchecked.push(format!("table {table}: {why}")),
                Err(_) => {}
            }
        }
    }
    checked.problems.truncate(MAX_FINDINGS);
    Ok(checked)
}

/// What a check finds; inside, why SQLite cannot run it here: what the statement or the schema asks for is not there.
fn findings(path: &Path, sql: &str) -> Result<Result<Vec<String>, String>> {
    match rows(path, sql) {
        Ok(rows) => Ok(Ok(rows.into_iter().flatten().flatten().filter(|finding| finding != "ok").collect())),
        Err(error @ rusqlite::Error::SqlInputError { .. }) => Ok(Err(reason(&error))),
        Err(error) => match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Ok(Ok(vec![error.to_string()])),
            // The plain SQLITE_ERROR.
            Some(ErrorCode::Unknown) => Ok(Err(reason(&error))),
            _ => Err(explain("check", path, error)),
        },
    }
}

fn reason(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqliteFailure(_, Some(message)) => message.clone(),
        rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
        error => error.to_string(),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A database as a program leaves it that has what SQLite has not: `what` of its own, called `mine`.
    fn made_with(dir: &Path, sql: &str, what: &str) -> std::path::PathBuf {
        let path = dir.join("of its own.db");
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch("CREATE TABLE \"it's\" (n INTEGER PRIMARY KEY, x); CREATE TABLE plain (y)").unwrap();
        connection.execute_batch(sql).unwrap();
        for n in 0..400 {
            connection.execute("INSERT INTO \"it's\" VALUES (?1, -?1)", [n]).unwrap();
            connection.execute("INSERT INTO plain VALUES (randomblob(300))", []).unwrap();
        }
        let rename = format!("UPDATE sqlite_schema SET sql = replace(sql, '{what}', 'mine')");
        connection.execute_batch(&format!("PRAGMA writable_schema = ON; {rename}; PRAGMA writable_schema = OFF")).unwrap();
        path
    }

    #[test]
    fn what_only_its_own_program_has_is_not_checked_and_no_damage() {
        for (sql, what, why) in [
            ("CREATE INDEX i ON \"it's\" (x COLLATE NOCASE)", "NOCASE", "no such collation sequence: mine"),
            ("CREATE INDEX i ON \"it's\" (abs(x))", "abs", "mine"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let path = made_with(dir.path(), sql, what);
            let checked = integrity(&path).unwrap();
            assert_eq!(checked.problems, [""; 0], "{what}");
            assert_eq!(checked.unchecked.len(), 2, "{what}: {checked:?}");
            assert!(checked.unchecked[1].starts_with("table it's: ") && checked.unchecked[1].contains(why), "{checked:?}");
            // What can be looked at is: both tables.
            for table in ["it's", "plain"] {
                let root =
                    query(&path, &format!("SELECT rootpage FROM sqlite_schema WHERE name = '{}'", table.replace('\'', "''")));
                let root: usize = root.unwrap()[0][0].as_ref().unwrap().parse().unwrap();
                let good = std::fs::read(&path).unwrap();
                let mut bad = good.clone();
                bad[(root - 1) * 4096..][..64].fill(0xAB);
                std::fs::write(&path, bad).unwrap();
                assert!(!integrity(&path).unwrap().problems.is_empty(), "{what}: {table} is damaged");
                std::fs::write(&path, good).unwrap();
            }
        }
    }
}
