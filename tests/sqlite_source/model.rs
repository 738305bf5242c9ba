//! What transaction n does, and what the database holds after it: from seed, epoch and n alone.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use rusqlite::{Connection, OptionalExtension};

/// One step of a transaction.
pub enum Step {
    Put { key: u32, bytes: usize, fill: u8 },
    Delete { key: u32 },
    Table,
    DropTable { of: u64 },
}

/// The steps of transaction `n` of `epoch`.
pub fn steps(seed: u64, epoch: u64, n: u64) -> Vec<Step> {
    let mut random =
        StdRng::seed_from_u64(seed ^ epoch.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ n.wrapping_mul(0xD1B5_4A32_D192_ED03));
    let count = if random.random_bool(0.03) { 120 } else { random.random_range(1..6) };
    let mut steps: Vec<Step> = (0..count).map(|_| step(&mut random)).collect();
    if n.is_multiple_of(23) {
        steps.push(Step::Table);
    }
    if n.is_multiple_of(41) {
        steps.push(Step::DropTable { of: n / 23 * 23 });
    }
    steps
}

fn step(random: &mut StdRng) -> Step {
    let key = random.random_range(0..150);
    if random.random_bool(0.35) {
        return Step::Delete { key };
    }
    let bytes = if random.random_bool(0.05) { random.random_range(0..20_000) } else { random.random_range(0..900) };
    Step::Put { key, bytes, fill: random.random() }
}

/// What the database holds.
#[derive(Clone, Default, Hash, PartialEq, Eq, Debug)]
pub struct State {
    rows: BTreeMap<u32, (usize, u8)>,
    tables: BTreeSet<String>,
}

impl State {
    pub fn apply(&mut self, n: u64, steps: &[Step]) {
        for step in steps {
            match step {
                Step::Put { key, bytes, fill } => drop(self.rows.insert(*key, (*bytes, if *bytes == 0 { 0 } else { *fill }))),
                Step::Delete { key } => drop(self.rows.remove(key)),
                Step::Table => drop(self.tables.insert(format!("extra_{n}"))),
                Step::DropTable { of } => drop(self.tables.remove(&format!("extra_{of}"))),
            }
        }
    }

    pub fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

/// Executes the steps within an open transaction.
pub fn execute(connection: &Connection, n: u64, steps: &[Step]) -> rusqlite::Result<()> {
    for step in steps {
        match step {
            Step::Put { key, bytes, fill } => {
                let mut put = connection.prepare_cached("INSERT OR REPLACE INTO kv VALUES (?1, ?2)")?;
                put.execute((key, vec![*fill; *bytes]))?;
            }
            Step::Delete { key } => drop(connection.prepare_cached("DELETE FROM kv WHERE k = ?1")?.execute([key])?),
            Step::Table => {
                connection.execute_batch(&format!("CREATE TABLE extra_{n} (x); INSERT INTO extra_{n} VALUES ({n})"))?;
            }
            Step::DropTable { of } => connection.execute_batch(&format!("DROP TABLE IF EXISTS extra_{of}"))?,
        }
    }
    Ok(())
}

/// What a database holds, read with SQL: epoch, number of the last transaction and digest of its state.
///
/// `None` when its tables are not there yet. Panics when the numbers have a hole, or a row is not what was written.
pub fn read(connection: &Connection) -> Option<(u64, u64, u64)> {
    let has_meta = "SELECT 1 FROM sqlite_schema WHERE name = 'meta'";
    connection.query_row(has_meta, [], |_| Ok(())).optional().unwrap()?;
    let epoch: i64 = connection.query_row("SELECT epoch FROM meta", [], |row| row.get(0)).unwrap();
    let count = "SELECT count(*), coalesce(max(n), 0) FROM ledger";
    let (rows, last): (i64, i64) = connection.query_row(count, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    assert_eq!(rows, last, "the ledger has a hole");
    let mut state = State::default();
    let mut statement = connection.prepare("SELECT k, v FROM kv").unwrap();
    let mut found = statement.query([]).unwrap();
    while let Some(row) = found.next().unwrap() {
        let value: Vec<u8> = row.get(1).unwrap();
        let fill = value.first().copied().unwrap_or(0);
        assert!(value.iter().all(|byte| *byte == fill), "a row of two values");
        state.rows.insert(row.get(0).unwrap(), (value.len(), fill));
    }
    let mut statement = connection.prepare("SELECT name FROM sqlite_schema WHERE name LIKE 'extra%'").unwrap();
    let names = statement.query_map([], |row| row.get(0)).unwrap();
    state.tables = names.collect::<rusqlite::Result<_>>().unwrap();
    Some((epoch as u64, last as u64, state.digest()))
}
