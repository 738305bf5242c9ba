//! Writers on a history's tables while a backup runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rand::RngExt;

use super::rows;
use super::support::sql::{Sql, SqlError};
use super::support::{process, random};

/// How long the writers may take to begin.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two changes of a writer …
const REST: Duration = Duration::from_millis(15);
/// … of which the first may be large, and the rest are small, so that the archive can follow.
const WILD: u32 = 40;

/// Writers under way.
#[derive(Debug)]
pub struct Storm {
    stop: Arc<AtomicBool>,
    changes: Arc<AtomicU32>,
    writers: Vec<JoinHandle<Result<(), SqlError>>>,
}

impl Storm {
    /// Starts two writers of rows and a housekeeper, and waits until each of them has done something.
    #[track_caller]
    pub fn start(conninfo: &str, tables: &[String], seed: u64) -> Self {
        let (stop, changes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let writer = |number: u64| {
            let (conninfo, tables, stop, changes) = (conninfo.to_owned(), tables.to_vec(), stop.clone(), changes.clone());
            std::thread::spawn(move || {
                let (mut sql, mut random) = (Sql::connect(&conninfo)?, random::generator(seed, number));
                let mut count = 0;
                while !stop.load(Ordering::Relaxed) {
                    let table = &tables[random.random_range(0..tables.len())];
                    let statements = match count {
                        WILD.. => vec![format!("UPDATE {table} SET v = md5(v) WHERE id % 500 = {}", count % 500)],
                        _ if number == 2 => keep_house(table, random.random()),
                        _ => rows::change(&mut random, table),
                    };
                    tolerate_deadlock(&mut sql, &statements)?;
                    count += 1;
                    changes.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(REST);
                }
                Ok(())
            })
        };
        let storm = Self { writers: (0..3).map(writer).collect(), stop, changes };
        process::wait_until("the writers", BEGIN_TIMEOUT, || storm.changes.load(Ordering::Relaxed) > 5);
        storm
    }

    /// Ends the storm; returns how many changes there were.
    #[track_caller]
    pub fn stop(mut self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers.drain(..) {
            writer.join().expect("no panic").unwrap_or_else(|error| panic!("a writer failed: {error}"));
        }
        self.changes.load(Ordering::Relaxed)
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Relations that come, go, shrink and are rewritten.
fn keep_house(table: &str, dice: u32) -> Vec<String> {
    let statements: &[&str] = match dice % 6 {
        0 => &["CREATE TABLE passing AS SELECT n, md5(n::text) t FROM generate_series(1, 500) n", "DROP TABLE passing"],
        1 => &["VACUUM {}"],
        2 => &["VACUUM FULL {}"],
        3 => &["BEGIN", "TRUNCATE {}", "ROLLBACK"],
        4 => &["CREATE INDEX passing ON {} (v)", "DROP INDEX passing"],
        _ => &["CHECKPOINT"],
    };
    statements.iter().map(|statement| statement.replace("{}", table)).collect()
}

/// Two writers may lock the same rows in another order: the server ends one of them, which is no failure.
fn tolerate_deadlock(sql: &mut Sql, statements: &[String]) -> Result<(), SqlError> {
    for statement in statements {
        match sql.try_execute(statement) {
            Err(error) if error.code.as_deref() == Some("40P01") => return sql.try_execute("ROLLBACK"),
            other => other?,
        }
    }
    Ok(())
}
