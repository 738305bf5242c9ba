//! A program in another process that does with databases what it is told, a statement at a time.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::fallible_iterator::FallibleIterator;

const MARK: &str = "answer: ";

/// The other process, killed on drop.
pub struct Program {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Program {
    /// Starts it; it opens `path`, which need not exist.
    pub fn open(path: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "part_of_another_test", "--ignored", "--nocapture", "--test-threads=1"]);
        command.env("SQLITE_PART", "program").env("SQLITE_PART_DIR", path);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, output }
    }

    /// Starts it with a database in WAL mode, which never checkpoints by itself, and has the empty table `t (n, x)`.
    pub fn with_table(path: &Path) -> Self {
        let mut program = Self::open(path);
        program.run("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; CREATE TABLE t (n INTEGER PRIMARY KEY, x)");
        program
    }

    /// Has `sql` executed; the last statement's first value, or SQLite's error.
    pub fn try_run(&mut self, sql: &str) -> Result<String, String> {
        writeln!(self.input, "{}", sql.replace('\n', " ")).unwrap();
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "the program ended");
            // The test harness has its own words, perhaps on the same line.
            let Some((_, answer)) = line.trim_end().split_once(MARK) else { continue };
            return match answer.split_once(' ') {
                Some(("error", why)) => Err(why.to_owned()),
                _ => Ok(answer.trim_start_matches("ok").trim().to_owned()),
            };
        }
    }

    /// As [`Program::try_run`]; must succeed.
    pub fn run(&mut self, sql: &str) -> String {
        self.try_run(sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Commits the row `n`, of `bytes` random bytes.
    pub fn insert(&mut self, n: u32, bytes: u32) {
        self.run(&format!("INSERT INTO t VALUES ({n}, randomblob({bytes}))"));
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The part `program`: a connection, and statements from standard input.
pub fn obey(path: &Path) {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(Duration::from_millis(300)).unwrap();
    for line in std::io::stdin().lines() {
        let answer = match execute(&connection, &line.unwrap()) {
            Ok(value) => format!("ok {value}"),
            Err(error) => format!("error {error}"),
        };
        println!("{MARK}{answer}");
    }
}

fn execute(connection: &Connection, sql: &str) -> rusqlite::Result<String> {
    let mut batch = rusqlite::Batch::new(connection, sql);
    let mut last = String::new();
    while let Some(mut statement) = batch.next()? {
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let value: rusqlite::types::Value = row.get(0)?;
            last = match value {
                rusqlite::types::Value::Integer(number) => number.to_string(),
                rusqlite::types::Value::Text(text) => text,
                other => format!("{other:?}"),
            };
        }
    }
    Ok(last)
}
