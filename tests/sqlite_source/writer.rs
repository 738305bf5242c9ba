//! A program that writes through its own SQLite, and tells a ledger outside of it when.
//!
//! Lines of the ledger, times in microseconds since 1970: `b EPOCH N TIME` before the COMMIT of transaction N, `a EPOCH N
//! TIME` after it returned, `r EPOCH TIME` before the database of EPOCH takes another one's place.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use rusqlite::Connection;

use super::{model, part::setting};

/// How a database is created.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub page_size: u32,
    pub auto_vacuum: u32,
    pub epoch: u64,
}

pub fn now_micros() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as i64
}

/// Appends a line. A kill may cut it off in the middle of the write: whole ones begin with a line feed and end with a dot.
pub fn note(ledger: &mut File, line: &str) {
    ledger.write_all(format!("\n{line} .").as_bytes()).unwrap();
}

/// The whole lines of the ledger in `dir`, without what marks them.
pub fn ledger_lines(dir: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(dir.join("ledger")).unwrap();
    text.lines().filter_map(|line| line.strip_suffix(" .")).map(str::to_owned).collect()
}

pub fn open_ledger(dir: &Path) -> File {
    OpenOptions::new().append(true).create(true).open(dir.join("ledger")).unwrap()
}

/// Creates what is missing of a database.
pub fn create(path: &Path, shape: Shape) -> rusqlite::Result<Connection> {
    let connection = connect(path)?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables == 0 {
        let Shape { page_size, auto_vacuum, epoch } = shape;
        connection.execute_batch(&format!("PRAGMA page_size = {page_size}; PRAGMA auto_vacuum = {auto_vacuum}"))?;
        connection.execute_batch("PRAGMA journal_mode = WAL")?;
        connection.execute_batch(&format!(
            "BEGIN IMMEDIATE; CREATE TABLE IF NOT EXISTS meta (epoch INTEGER); CREATE TABLE IF NOT EXISTS ledger (n INTEGER PRIMARY KEY);
             CREATE TABLE IF NOT EXISTS kv (k INTEGER PRIMARY KEY, v BLOB); CREATE INDEX IF NOT EXISTS lengths ON kv (length(v));
             INSERT INTO meta SELECT {epoch} WHERE NOT EXISTS (SELECT 1 FROM meta); COMMIT"
        ))?;
    }
    Ok(connection)
}

pub fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(20))?;
    Ok(connection)
}

/// One transaction: number and steps by the model, times to the ledger.
pub fn transact(connection: &Connection, ledger: &mut File, seed: u64) -> rusqlite::Result<()> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let run = || -> rusqlite::Result<(i64, i64)> {
        let epoch: i64 = connection.query_row("SELECT epoch FROM meta", [], |row| row.get(0))?;
        let n: i64 = connection.query_row("SELECT coalesce(max(n), 0) + 1 FROM ledger", [], |row| row.get(0))?;
        connection.execute("INSERT INTO ledger VALUES (?1)", [n])?;
        model::execute(connection, n as u64, &model::steps(seed, epoch as u64, n as u64))?;
        Ok((epoch, n))
    };
    let done = run().and_then(|(epoch, n)| {
        note(ledger, &format!("b {epoch} {n} {}", now_micros()));
        connection.execute_batch("COMMIT")?;
        note(ledger, &format!("a {epoch} {n} {}", now_micros()));
        Ok(())
    });
    if done.is_err() && !connection.is_autocommit() {
        connection.execute_batch("ROLLBACK")?;
    }
    done
}

/// The part `writer`: `SQLITE_SEED`, `SQLITE_EPOCH`, `SQLITE_PAGE_SIZE`, `SQLITE_AUTO_VACUUM`, `SQLITE_PAUSE_MICROS` (0:
/// it never stops), `SQLITE_STREAM` (tells two writers apart).
pub fn write_for_ever(dir: &Path) {
    let shape = Shape {
        page_size: setting("SQLITE_PAGE_SIZE"),
        auto_vacuum: setting("SQLITE_AUTO_VACUUM"),
        epoch: setting("SQLITE_EPOCH"),
    };
    let (seed, pause): (u64, u64) = (setting("SQLITE_SEED"), setting("SQLITE_PAUSE_MICROS"));
    let mut random = StdRng::seed_from_u64(seed ^ setting::<u64>("SQLITE_STREAM"));
    let mut ledger = open_ledger(dir);
    let path = dir.join("data.db");
    loop {
        // Locks of others are waited for; a database that is just being made is tried again.
        let Ok(connection) = create(&path, shape) else { continue };
        let settings = format!(
            "PRAGMA synchronous = {}; PRAGMA wal_autocheckpoint = {}; PRAGMA cache_size = {}",
            ["OFF", "NORMAL", "FULL"][random.random_range(0..3)],
            [0, 10, 100, 1000][random.random_range(0..4)],
            [8, 2000][random.random_range(0..2)],
        );
        if connection.execute_batch(&settings).is_err() {
            continue;
        }
        while random.random_bool(0.995) {
            if random.random_bool(0.04) && connection.execute_batch("BEGIN IMMEDIATE").is_ok() {
                // What is rolled back has perhaps been in the log already.
                let junk = [model::Step::Put { key: 999_999, bytes: 60_000, fill: 9 }];
                let _ = model::execute(&connection, 0, &junk);
                let _ = connection.execute_batch("ROLLBACK");
            }
            if transact(&connection, &mut ledger, seed).is_err() {
                break;
            }
            if pause > 0 {
                std::thread::sleep(Duration::from_micros(random.random_range(0..2 * pause)));
            }
        }
    }
}
