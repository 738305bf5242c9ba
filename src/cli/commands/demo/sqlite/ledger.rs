//! A ledger under load, as an application keeps it in SQLite: every transaction moves an amount between two accounts, so the
//! sum over all entries is zero.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rusqlite::{Connection, params};

use crate::base::{Error, Result};

/// Writers at the same time; SQLite lets them in one by one.
const WRITERS: u32 = 3;
/// Between two transactions of a writer: an application does something else, too.
const PAUSE: Duration = Duration::from_millis(2);
/// How long a writer waits for the others.
const BUSY: Duration = Duration::from_secs(10);

/// What the ledger holds at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Count {
    pub entries: i64,
    pub sum: i64,
}

/// Makes an empty ledger.
///
/// # Errors
/// When SQLite refuses.
pub(super) fn create(path: &Path) -> Result<()> {
    let sql = "PRAGMA journal_mode = wal; \
               CREATE TABLE ledger (id INTEGER PRIMARY KEY, account INT, amount INT, note TEXT, booked TEXT DEFAULT CURRENT_TIMESTAMP)";
    open(path)?.execute_batch(sql).map_err(failed)
}

/// Opens the ledger as the application does.
///
/// # Errors
/// When SQLite refuses.
pub(super) fn open(path: &Path) -> Result<Connection> {
    let connection = Connection::open(path).map_err(failed)?;
    connection.busy_timeout(BUSY).map_err(failed)?;
    connection.pragma_update(None, "synchronous", "normal").map_err(failed)?;
    Ok(connection)
}

/// What the ledger holds.
///
/// # Errors
/// When SQLite refuses.
pub(super) fn count(path: &Path) -> Result<Count> {
    let row = |row: &rusqlite::Row<'_>| Ok(Count { entries: row.get(0)?, sum: row.get(1)? });
    open(path)?.query_row("SELECT count(*), coalesce(sum(amount), 0) FROM ledger", [], row).map_err(failed)
}

/// Runs one statement.
///
/// # Errors
/// When SQLite refuses.
pub(super) fn execute(path: &Path, sql: &str) -> Result<()> {
    open(path)?.execute_batch(sql).map_err(failed)
}

fn failed(error: rusqlite::Error) -> Error {
    Error::failed("the demo's database refuses a statement").caused_by(error)
}

/// Writers at work until they are told to stop.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<Result<u64>>>,
}

impl Load {
    /// Sets the writers to work.
    pub fn start(path: &Path) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let write = |writer| {
            let (path, stop) = (path.to_owned(), Arc::clone(&stop));
            thread::spawn(move || write(path, writer, &stop))
        };
        let writers = (0..WRITERS).map(write).collect();
        Self { stop, writers }
    }

    /// Waits for the writers; gives the number of transactions they committed.
    ///
    /// # Errors
    /// When SQLite refused one.
    pub fn stop(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = std::mem::take(&mut self.writers)
            .into_iter()
            .map(|writer| writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        ended.sum()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn write(path: PathBuf, writer: u32, stop: &AtomicBool) -> Result<u64> {
    let connection = open(&path)?;
    let sql = "INSERT INTO ledger (account, amount, note) VALUES (?1, ?3, ?4), (?2, -?3, ?4)";
    let mut statement = connection.prepare(sql).map_err(failed)?;
    let mut transactions = 0;
    while !stop.load(Ordering::Relaxed) {
        let (from, to, amount) = (rand::random_range(0..1000), rand::random_range(0..1000), rand::random_range(1..10_000_i64));
        let note = format!("transfer {transactions} of writer {writer}");
        statement.execute(params![from, to, amount, note]).map_err(failed)?;
        transactions += 1;
        thread::sleep(PAUSE);
    }
    Ok(transactions)
}
