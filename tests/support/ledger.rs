//! A load that knows what it did: several writers on a ledger, with aborts, subtransactions and prepared transactions.
//!
//! `ledger(id, writer, amount, note)` and `account(id, balance)`: every transaction keeps the sum of the balances equal
//! to the sum of the amounts. Row ids are unique and known to the writer. The writers all rest for a while in every
//! second, so that there are idle moments.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lifeboat::base::{Lsn, Timestamp};
use rand::RngExt;
use rand::rngs::StdRng;

use super::oracle::{Oracle, Tables, read_tables};
use super::pgoutput::Decoder;
use super::postgres::Cluster;
use super::random;
use super::sql::{Sql, SqlError};

/// Ids of one writer start at its number times this.
const IDS_PER_WRITER: i64 = 10_000_000;

/// What became of a transaction, as far as its client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Committed, with at least one row in the ledger.
    Committed,
    /// Aborted, wholly or (with no ids) in a subtransaction; or ended without touching the compared tables.
    Aborted,
    /// The connection was lost: committed or not.
    Unknown,
}

/// One transaction end.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The ledger rows it inserted.
    pub ids: Vec<i64>,
    /// What became of it.
    pub outcome: Outcome,
    /// Before the statement that ended it was sent.
    pub began: Timestamp,
    /// After its answer came, or after the server had closed the connection: no record follows that.
    pub ended: Timestamp,
}

/// A named restore point and what its function returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestorePoint {
    /// Its name.
    pub name: String,
    /// The end of its record.
    pub lsn: Lsn,
}

#[derive(Debug, Default)]
struct Record {
    attempts: Vec<Attempt>,
    restore_points: Vec<RestorePoint>,
}

type SharedRecord = Arc<Mutex<Record>>;

/// How hard the load works.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// Concurrent writers.
    pub writers: u32,
    /// A writer waits up to this long between two transactions.
    pub think: Duration,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { writers: 4, think: Duration::from_millis(6) }
    }
}

/// The ledger in one cluster, watched from one moment on.
#[derive(Debug)]
pub struct Ledger {
    conninfo: String,
    slot: String,
    seed: u64,
    base: Tables,
    next_writer: u32,
    record: SharedRecord,
}

/// A load under way.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<Result<(), SqlError>>>,
}

impl Ledger {
    /// Creates the tables and watches them. The cluster needs `wal_level = logical`.
    #[track_caller]
    pub fn create(cluster: &Cluster, seed: u64) -> Self {
        cluster.sql().execute(
            "CREATE TABLE ledger (id bigint PRIMARY KEY, writer int NOT NULL, amount bigint NOT NULL, note text);
             CREATE INDEX ledger_by_writer ON ledger (writer, amount);
             CREATE TABLE account (id bigint PRIMARY KEY, balance bigint NOT NULL);
             CREATE PUBLICATION ledger_oracle FOR TABLE ledger, account;",
        );
        Self::attach(cluster, seed)
    }

    /// Watches the tables that are already there, say in a restored cluster, from now on. No load may be running.
    ///
    /// Prepared transactions that a recovery brought back are rolled back first.
    #[track_caller]
    pub fn attach(cluster: &Cluster, seed: u64) -> Self {
        let mut sql = cluster.sql();
        roll_back_prepared(&mut sql);
        let slot = format!("ledger_oracle_{:08x}", rand::random::<u32>());
        sql.execute(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"));
        let next_writer = sql.number("SELECT coalesce(max(id) / 10000000, 0) + 1 FROM ledger");
        Self {
            conninfo: cluster.conninfo(),
            slot,
            seed,
            base: read_tables(&mut sql),
            next_writer: u32::try_from(next_writer).expect("writers are few"),
            record: SharedRecord::default(),
        }
    }

    /// Starts writers and a housekeeper (VACUUM, ANALYZE, CHECKPOINT, DDL, restore points) in the background.
    pub fn start(&mut self, options: LoadOptions) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let started = Instant::now();
        let mut workers = Vec::new();
        for number in self.next_writer..self.next_writer + options.writers {
            let (conninfo, record, stop) = (self.conninfo.clone(), self.record.clone(), stop.clone());
            let random = random::generator(self.seed, u64::from(number));
            workers.push(std::thread::spawn(move || {
                let mut writer = Writer::new(number, &conninfo, random, record)?;
                while !stop.load(Ordering::Relaxed) {
                    writer.rest(started, options.think);
                    writer.transaction()?;
                }
                writer.finish_prepared()
            }));
        }
        self.next_writer += options.writers;
        let (conninfo, record, stopped) = (self.conninfo.clone(), self.record.clone(), stop.clone());
        let random = random::generator(self.seed, u64::from(self.next_writer) << 32);
        workers.push(std::thread::spawn(move || keep_house(&conninfo, random, &record, &stopped)));
        Load { stop, workers }
    }

    /// Runs a load for `duration`, and commits twice alone after it: however slowly the writers were answered, there are
    /// moments then at which the rows are certain.
    #[track_caller]
    pub fn run(&mut self, duration: Duration) {
        let load = self.start(LoadOptions::default());
        std::thread::sleep(duration);
        load.stop();
        self.commit_one();
        self.commit_one();
    }

    /// One transaction that inserts one row; returns its id. For a commit at a place of the test's choosing.
    #[track_caller]
    pub fn commit_one(&mut self) -> i64 {
        let random = random::generator(self.seed, u64::from(self.next_writer));
        let mut writer = Writer::new(self.next_writer, &self.conninfo, random, self.record.clone()).expect("a connection");
        self.next_writer += 1;
        writer.plain(Outcome::Committed).expect("a commit");
        writer.next_id - 1
    }

    /// Every restore point that the housekeeper has made, in order.
    pub fn restore_points(&self) -> Vec<RestorePoint> {
        self.record.lock().expect("no worker panicked").restore_points.clone()
    }

    /// The truth up to now. The server must be running and the load stopped.
    #[track_caller]
    pub fn oracle(&self) -> Oracle {
        let mut sql = Sql::connect(&self.conninfo).unwrap_or_else(|error| panic!("cannot connect: {error}"));
        let messages = sql.rows(&format!(
            "SELECT encode(data, 'hex') FROM pg_logical_slot_peek_binary_changes('{}', NULL, NULL,
               'proto_version', '1', 'publication_names', 'ledger_oracle')",
            self.slot
        ));
        let mut decoder = Decoder::default();
        for message in messages {
            let text = message[0].as_ref().expect("a message");
            decoder.message(&hex::decode(text).expect("the server writes hex"));
        }
        let record = self.record.lock().expect("no worker panicked");
        Oracle::new(self.base.clone(), decoder.finish(), &record.attempts)
    }

    /// How many transactions of each outcome there were: committed, aborted, unknown.
    pub fn outcomes(&self) -> (usize, usize, usize) {
        let record = self.record.lock().expect("no worker panicked");
        let count = |outcome| record.attempts.iter().filter(|attempt| attempt.outcome == outcome).count();
        (count(Outcome::Committed), count(Outcome::Aborted), count(Outcome::Unknown))
    }
}

/// Rolls back every prepared transaction of this database.
#[track_caller]
pub fn roll_back_prepared(sql: &mut Sql) {
    for row in sql.rows("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()") {
        sql.execute(&format!("ROLLBACK PREPARED '{}'", row[0].as_ref().expect("a gid")));
    }
}

impl Load {
    /// Ends the load; fails the test when a writer had failed.
    #[track_caller]
    pub fn stop(mut self) {
        let failures = self.join();
        assert!(failures.is_empty(), "writers failed: {failures:?}");
    }

    /// Ends the load of a server that was killed: writers have lost their connections.
    pub fn abandon(mut self) {
        for failure in self.join() {
            println!("a writer ended: {failure}");
        }
    }

    fn join(&mut self) -> Vec<SqlError> {
        self.stop.store(true, Ordering::Relaxed);
        let results = self.workers.drain(..).map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        results.filter_map(Result::err).collect()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // A test that failed elsewhere: its workers must not outlive the server.
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Writer {
    number: u32,
    sql: Sql,
    random: StdRng,
    record: SharedRecord,
    next_id: i64,
    /// Rows of this writer that can be changed later.
    settled: Vec<i64>,
    /// Prepared transactions of this writer.
    prepared: Vec<i64>,
}

impl Writer {
    fn new(number: u32, conninfo: &str, random: StdRng, record: SharedRecord) -> Result<Self, SqlError> {
        let first_id = i64::from(number) * IDS_PER_WRITER;
        let sql = Sql::connect(conninfo)?;
        Ok(Self { number, sql, random, record, next_id: first_id, settled: Vec::new(), prepared: Vec::new() })
    }

    /// A pause between two transactions; all writers rest together in the last part of each second.
    fn rest(&mut self, started: Instant, think: Duration) {
        let within_second = Duration::from_millis((started.elapsed().as_millis() % 1000) as u64);
        let rest = Duration::from_millis(850);
        std::thread::sleep(if within_second > rest {
            Duration::from_secs(1) - within_second
        } else {
            think.mul_f64(self.random.random())
        });
    }

    fn transaction(&mut self) -> Result<(), SqlError> {
        match self.random.random_range(0..100) {
            0..46 => self.plain(Outcome::Committed),
            46..56 => self.plain(Outcome::Aborted),
            56..66 => self.with_subtransactions(),
            66..78 => self.prepare(),
            78..92 => self.change_settled(),
            _ => self.finish_one_prepared(),
        }
    }

    /// SQL that inserts `rows` new rows and moves the account; the ids go to `ids`.
    fn insert(&mut self, rows: usize, account: i64, ids: &mut Vec<i64>) -> String {
        let mut total = 0;
        let values: Vec<String> = (0..rows)
            .map(|_| {
                let (id, amount) = (self.next_id, self.random.random_range(-1000..1000_i64));
                self.next_id += 1;
                total += amount;
                ids.push(id);
                let note = self.note();
                format!("({id}, {}, {amount}, {note})", self.number)
            })
            .collect();
        format!(
            "INSERT INTO ledger VALUES {}; INSERT INTO account AS a VALUES ({account}, {total})
               ON CONFLICT (id) DO UPDATE SET balance = a.balance + excluded.balance;",
            values.join(", ")
        )
    }

    /// SQL for a note: NULL, short, or so long and random that it is stored apart.
    fn note(&mut self) -> String {
        let words = match self.random.random_range(0..50) {
            0 => return "NULL".to_owned(),
            1 => self.random.random_range(160..400),
            _ => self.random.random_range(0..6),
        };
        let text: String = (0..words).map(|_| format!("{:016x} ", self.random.random::<u64>())).collect();
        format!("'{text}'")
    }

    fn plain(&mut self, outcome: Outcome) -> Result<(), SqlError> {
        let rows = self.random.random_range(1..6);
        let mut ids = Vec::new();
        let body = self.insert(rows, i64::from(self.number), &mut ids);
        self.sql.try_execute(&format!("BEGIN; {body}"))?;
        let end = if outcome == Outcome::Committed { "COMMIT" } else { "ROLLBACK" };
        if outcome == Outcome::Committed {
            self.settled.extend(&ids);
        }
        self.end(end, ids, outcome)
    }

    /// Rows before, in a released, and in a rolled-back savepoint; the last must not survive.
    fn with_subtransactions(&mut self) -> Result<(), SqlError> {
        let (mut ids, mut discarded) = (Vec::new(), Vec::new());
        let account = i64::from(self.number);
        let outer = self.insert(1, account, &mut ids);
        let released = self.insert(2, account, &mut ids);
        let rolled_back = self.insert(2, account, &mut discarded);
        self.sql.try_execute(&format!("BEGIN; {outer} SAVEPOINT a; {released} RELEASE a; SAVEPOINT b; {rolled_back}"))?;
        // Rolling back a subtransaction writes an ABORT record of its own.
        self.end("ROLLBACK TO b", Vec::new(), Outcome::Aborted)?;
        self.settled.extend(&ids);
        self.end("COMMIT", ids, Outcome::Committed)
    }

    /// Leaves a prepared transaction behind, with an account of its own so that it blocks nobody.
    fn prepare(&mut self) -> Result<(), SqlError> {
        if self.prepared.len() >= 4 {
            return self.finish_one_prepared();
        }
        let id = self.next_id;
        let body = self.insert(1, id, &mut Vec::new());
        self.sql.try_execute(&format!("BEGIN; {body} PREPARE TRANSACTION 'ledger-{id}'"))?;
        self.prepared.push(id);
        Ok(())
    }

    fn finish_one_prepared(&mut self) -> Result<(), SqlError> {
        if self.prepared.is_empty() {
            return Ok(());
        }
        let id = self.prepared.swap_remove(self.random.random_range(0..self.prepared.len()));
        let (end, outcome) =
            if self.random.random_bool(0.7) { ("COMMIT", Outcome::Committed) } else { ("ROLLBACK", Outcome::Aborted) };
        self.end(&format!("{end} PREPARED 'ledger-{id}'"), vec![id], outcome)
    }

    fn finish_prepared(&mut self) -> Result<(), SqlError> {
        while !self.prepared.is_empty() {
            self.finish_one_prepared()?;
        }
        Ok(())
    }

    /// Updates or deletes a row of an earlier transaction, and says so in a new row.
    fn change_settled(&mut self) -> Result<(), SqlError> {
        if self.settled.is_empty() {
            return self.plain(Outcome::Committed);
        }
        let at = self.random.random_range(0..self.settled.len());
        let (target, account) = (self.settled[at], i64::from(self.number));
        let mut ids = Vec::new();
        let body = self.insert(1, account, &mut ids);
        let change = if self.random.random_bool(0.3) {
            self.settled.swap_remove(at);
            format!(
                "WITH gone AS (DELETE FROM ledger WHERE id = {target} RETURNING amount)
                   UPDATE account SET balance = balance - gone.amount FROM gone WHERE account.id = {account};"
            )
        } else {
            format!(
                "UPDATE ledger SET amount = amount + 7 WHERE id = {target};
                 UPDATE account SET balance = balance + 7 WHERE id = {account};"
            )
        };
        self.sql.try_execute(&format!("BEGIN; {body} {change}"))?;
        self.settled.extend(&ids);
        self.end("COMMIT", ids, Outcome::Committed)
    }

    fn end(&mut self, statement: &str, ids: Vec<i64>, outcome: Outcome) -> Result<(), SqlError> {
        bracket(&mut self.sql, &self.record, statement, ids, outcome).map(|_| ())
    }
}

/// Runs the statement that ends a transaction and records when.
fn bracket(
    sql: &mut Sql,
    record: &SharedRecord,
    statement: &str,
    ids: Vec<i64>,
    outcome: Outcome,
) -> Result<Option<String>, SqlError> {
    let began = Timestamp::now();
    let result = sql.try_rows(statement);
    let ended = Timestamp::now();
    let outcome = if result.is_ok() { outcome } else { Outcome::Unknown };
    record.lock().expect("no worker panicked").attempts.push(Attempt { ids, outcome, began, ended });
    Ok(result?.into_iter().next().and_then(|row| row.into_iter().next().flatten()))
}

/// What goes on in any database beside its users' transactions.
fn keep_house(conninfo: &str, mut random: StdRng, record: &SharedRecord, stop: &AtomicBool) -> Result<(), SqlError> {
    let mut sql = Sql::connect(conninfo)?;
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(random.random_range(40..160)));
        let statement = match random.random_range(0..12) {
            0 => "CHECKPOINT".to_owned(),
            1 => "VACUUM ledger".to_owned(),
            2 => "VACUUM (FREEZE) account".to_owned(),
            3 => "ANALYZE ledger".to_owned(),
            4..6 => format!("CREATE TABLE scratch_{:016x} AS SELECT generate_series(1, 500) AS number", random.random::<u64>()),
            6..8 => "DO $$ DECLARE name text; BEGIN FOR name IN SELECT relname FROM pg_class WHERE relname LIKE 'scratch\\_%' AND relkind = 'r'
                  LOOP EXECUTE 'DROP TABLE ' || name; END LOOP; END $$"
                .to_owned(),
            8 => "SELECT pg_switch_wal()".to_owned(),
            _ => {
                make_restore_point(&mut sql, record)?;
                continue;
            }
        };
        bracket(&mut sql, record, &statement, Vec::new(), Outcome::Aborted)?;
    }
    Ok(())
}

fn make_restore_point(sql: &mut Sql, record: &SharedRecord) -> Result<(), SqlError> {
    let name = format!("point-{:08x}", rand::random::<u32>());
    let rows = sql.try_rows(&format!("SELECT pg_create_restore_point('{name}')"))?;
    let lsn = rows[0][0].as_ref().expect("an LSN").parse().expect("an LSN");
    record.lock().expect("no worker panicked").restore_points.push(RestorePoint { name, lsn });
    Ok(())
}
