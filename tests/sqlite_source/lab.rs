//! The laboratory: writers that are killed, a keeper that is killed, and everything that may happen to a database.
//!
//! Each run is drawn from a seed. At its end every captured moment is restored and judged, and the last of them must be
//! what the database holds. `LIFEBOAT_SQLITE_RUNS` sets the number of runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::{RngExt, rngs::StdRng};
use rusqlite::{Connection, OpenFlags};

use super::oracle::Oracle;
use super::part::Part;
use super::writer::{Shape, connect, create, ledger_lines, note, now_micros, open_ledger, transact};
use super::{model, random, store};

const EVENTS: usize = 14;
const PATIENCE: Duration = Duration::from_secs(40);

#[test]
fn whatever_happens_every_captured_moment_is_what_the_writers_wrote_up_to_it() {
    let runs = std::env::var("LIFEBOAT_SQLITE_RUNS").map_or(2, |text| text.parse().unwrap());
    let first_seed = random::seed("the laboratory of SQLite");
    let mut total = Tally::default();
    for run in 0..runs {
        let seed = first_seed.wrapping_add(run);
        let mut lab = Lab::new(seed);
        let judged = lab.run();
        println!("run {run}: LIFEBOAT_TEST_SEED={seed}: {judged:?}; {}", lab.events.join(", "));
        total.snapshots += judged.snapshots;
        total.batches += judged.batches;
        total.across_generations += judged.across_generations;
    }
    println!("{runs} runs: {total:?}");
    assert!(total.snapshots > 0 && total.batches > 0);
}

/// Moments that were restored and judged, by what leads to them.
#[derive(Debug, Default)]
struct Tally {
    snapshots: usize,
    batches: usize,
    /// Batches that begin in one generation of the log and end in another.
    across_generations: usize,
}

struct Lab {
    seed: u64,
    dir: tempfile::TempDir,
    random: StdRng,
    shape: Shape,
    writers: Vec<Part>,
    keeper: Option<Part>,
    started: u64,
    pause_micros: u64,
    events: Vec<String>,
}

impl Lab {
    fn new(seed: u64) -> Self {
        let mut random = random::generator(seed, 1);
        let shape = Shape { page_size: page_size(&mut random), auto_vacuum: random.random_range(0..3), epoch: 1 };
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("store")).unwrap();
        note(&mut open_ledger(dir.path()), &format!("r 1 {}", now_micros()));
        let pause_micros = [0, 500, 5_000][random.random_range(0..3)];
        Self { seed, dir, random, shape, writers: Vec::new(), keeper: None, started: 0, pause_micros, events: Vec::new() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("data.db")
    }

    fn run(&mut self) -> Tally {
        self.start_keeper();
        self.start_writers();
        for _ in 0..EVENTS {
            let wait = self.random.random_range(0..120);
            std::thread::sleep(Duration::from_millis(wait));
            self.event();
            for part in self.writers.iter_mut().chain(&mut self.keeper) {
                assert!(!part.has_ended(), "seed {}: a part failed; {}", self.seed, self.events.join(", "));
            }
        }
        self.writers.clear();
        let last = self.wait_for_the_keeper();
        drop(self.keeper.take());
        self.judge(last)
    }

    fn event(&mut self) {
        let event = self.random.random_range(0..100);
        let name = match event {
            0..18 => self.restart_writers(),
            18..36 => self.restart_keeper(),
            36..50 => self.checkpoint(),
            50..58 => self.vacuum(),
            58..66 => self.halt_keeper(),
            66..75 => self.change_page_size(),
            75..84 => self.rename_another_into_place(),
            84..91 => self.create_anew(),
            _ => self.without_log_for_a_while(),
        };
        self.events.push(name.to_owned());
    }

    fn start_writers(&mut self) {
        for _ in 0..self.random.random_range(1..3) {
            self.started += 1;
            let settings = [
                ("SQLITE_SEED", self.seed.to_string()),
                ("SQLITE_EPOCH", self.shape.epoch.to_string()),
                ("SQLITE_PAGE_SIZE", self.shape.page_size.to_string()),
                ("SQLITE_AUTO_VACUUM", self.shape.auto_vacuum.to_string()),
                ("SQLITE_PAUSE_MICROS", self.pause_micros.to_string()),
                ("SQLITE_STREAM", self.started.to_string()),
            ];
            self.writers.push(Part::start("writer", self.dir.path(), &settings));
        }
    }

    fn start_keeper(&mut self) {
        self.started += 1;
        let settings = [("SQLITE_SEED", self.seed.to_string()), ("SQLITE_STREAM", self.started.to_string())];
        self.keeper = Some(Part::start("keeper", self.dir.path(), &settings));
    }

    fn kill_writers(&mut self) {
        self.writers.drain(..).for_each(Part::kill);
    }

    fn restart_writers(&mut self) -> &'static str {
        self.kill_writers();
        self.start_writers();
        "writers killed"
    }

    fn restart_keeper(&mut self) -> &'static str {
        drop(self.keeper.take());
        let pause = self.random.random_range(0..60);
        std::thread::sleep(Duration::from_millis(pause));
        self.start_keeper();
        "keeper killed"
    }

    fn halt_keeper(&mut self) -> &'static str {
        let pause = self.random.random_range(0..250);
        let keeper = self.keeper.as_ref().unwrap();
        keeper.halt();
        std::thread::sleep(Duration::from_millis(pause));
        keeper.go_on();
        "keeper halted"
    }

    fn checkpoint(&mut self) -> &'static str {
        let mode = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"][self.random.random_range(0..4)];
        // It may find nothing yet, or wait in vain for a reader: then it is one that did not happen.
        let run = |connection: Connection| -> rusqlite::Result<()> {
            connection.busy_timeout(Duration::from_millis(300))?;
            connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()))
        };
        match self.existing().map(run) {
            Some(Ok(())) => "checkpoint",
            _ => "no checkpoint",
        }
    }

    fn vacuum(&mut self) -> &'static str {
        match self.existing().map(|connection| connection.execute_batch("VACUUM")) {
            Some(Ok(())) => "vacuum",
            _ => "no vacuum",
        }
    }

    /// A connection to the database, if there is one.
    fn existing(&self) -> Option<Connection> {
        let connection = Connection::open_with_flags(self.path(), OpenFlags::SQLITE_OPEN_READ_WRITE).ok()?;
        connection.busy_timeout(Duration::from_secs(20)).unwrap();
        Some(connection)
    }

    fn change_page_size(&mut self) -> &'static str {
        self.kill_writers();
        drop(self.keeper.take());
        let page_size = page_size(&mut self.random);
        let connection = create(&self.path(), self.shape).unwrap();
        connection
            .execute_batch(&format!(
                "PRAGMA journal_mode = DELETE; PRAGMA page_size = {page_size}; VACUUM; PRAGMA journal_mode = WAL"
            ))
            .unwrap();
        drop(connection);
        self.shape.page_size = page_size;
        self.start_keeper();
        self.start_writers();
        "page size"
    }

    /// The way an operator replaces a database that is watched: its log is in the file, then the names go.
    fn empty_the_log(&mut self) {
        self.kill_writers();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let connection = create(&self.path(), self.shape).unwrap();
            connection.busy_timeout(Duration::from_millis(300)).unwrap();
            let busy: i64 = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).unwrap();
            if busy == 0 {
                break;
            }
            let error = fs::read_to_string(self.dir.path().join("last-error")).unwrap_or_default();
            assert!(Instant::now() < deadline, "seed {}: the log cannot be emptied: {error}", self.seed);
        }
    }

    fn remove_log(&self) {
        for name in ["data.db-wal", "data.db-shm"] {
            let _ = fs::remove_file(self.dir.path().join(name));
        }
    }

    fn rename_another_into_place(&mut self) -> &'static str {
        self.empty_the_log();
        self.shape.page_size = page_size(&mut self.random);
        self.shape.epoch += 1;
        let another = self.dir.path().join("another.db");
        let mut ledger = open_ledger(self.dir.path());
        note(&mut ledger, &format!("r {} {}", self.shape.epoch, now_micros()));
        // Its transactions count as acknowledged once it has its name.
        let aside = tempfile::tempdir().unwrap();
        let mut aside_ledger = open_ledger(aside.path());
        let connection = create(&another, self.shape).unwrap();
        for _ in 0..self.random.random_range(0..30) {
            transact(&connection, &mut aside_ledger, self.seed).unwrap();
        }
        drop(connection);
        assert!(!self.dir.path().join("another.db-wal").exists(), "the last connection checkpoints");
        for line in ledger_lines(aside.path()).iter().filter(|line| line.starts_with('b')) {
            note(&mut ledger, line);
        }
        self.remove_log();
        fs::rename(another, self.path()).unwrap();
        self.start_writers();
        "another renamed into place"
    }

    fn create_anew(&mut self) -> &'static str {
        self.empty_the_log();
        self.remove_log();
        fs::remove_file(self.path()).unwrap();
        self.remove_log();
        self.shape.epoch += 1;
        note(&mut open_ledger(self.dir.path()), &format!("r {} {}", self.shape.epoch, now_micros()));
        let pause = self.random.random_range(0..80);
        std::thread::sleep(Duration::from_millis(pause));
        self.start_writers();
        "created anew"
    }

    fn without_log_for_a_while(&mut self) -> &'static str {
        self.kill_writers();
        drop(self.keeper.take());
        create(&self.path(), self.shape).unwrap().execute_batch("PRAGMA journal_mode = DELETE").unwrap();
        let before = self.pause_micros;
        self.pause_micros = before.max(2_000);
        self.start_keeper();
        self.start_writers();
        let pause = self.random.random_range(50..250);
        std::thread::sleep(Duration::from_millis(pause));
        self.kill_writers();
        let deadline = Instant::now() + PATIENCE;
        // A killed writer's journal is rolled back here; the keeper's snapshots are waited for.
        while connect(&self.path()).unwrap().execute_batch("PRAGMA journal_mode = WAL").is_err() {
            assert!(Instant::now() < deadline, "seed {}: the journal mode cannot be changed", self.seed);
        }
        self.pause_micros = before;
        self.start_writers();
        "without a log for a while"
    }

    /// Until the keeper has seen the database as the writers left it; returns where that is.
    ///
    /// Read while the keeper holds it: once nobody does, the next to open it may recover one commit more, of a writer that
    /// was killed before it counted it.
    fn wait_for_the_keeper(&mut self) -> Option<(u64, u64)> {
        let connection = create(&self.path(), self.shape).unwrap();
        let last = model::read(&connection).map(|(epoch, n, _)| (epoch, n));
        let (stopped, deadline) = (now_micros(), Instant::now() + PATIENCE);
        let seen = || fs::read_to_string(self.dir.path().join("status")).ok().and_then(|text| text.parse::<i64>().ok());
        while seen().is_none_or(|seen| seen <= stopped) {
            let error = fs::read_to_string(self.dir.path().join("last-error")).unwrap_or_default();
            let events = self.events.join(", ");
            assert!(Instant::now() < deadline, "seed {}: the keeper does not catch up: {error}; {events}", self.seed);
            std::thread::sleep(Duration::from_millis(5));
        }
        last
    }

    fn judge(&self, last: Option<(u64, u64)>) -> Tally {
        let oracle = Oracle::read(self.dir.path(), self.seed);
        let segments = store::segments(&self.dir.path().join("store"));
        assert!(last >= oracle.last(), "seed {}: the writers lost what was acknowledged", self.seed);
        let (mut place, mut tally) = (None, Tally::default());
        for (index, (_, header)) in segments.iter().enumerate() {
            let wrong = |why: &dyn std::fmt::Display| -> ! {
                let kept = self.keep();
                panic!("seed {}, moment {index}: {why}\n{}\nkept in {}", self.seed, self.events.join(", "), kept.display())
            };
            let target = self.dir.path().join(format!("restored-{index}.db"));
            let restored = store::restore(&segments, &header.to, &target).unwrap_or_else(|error| wrong(&format!("{error:?}")));
            if restored.moment != header.to {
                wrong(&"its chain has a gap");
            }
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
            let uri = format!("file:{}?immutable=1", target.display());
            let found = model::read(&Connection::open_with_flags(uri, flags).unwrap());
            place = Some(oracle.judge(&header.to, found).unwrap_or_else(|why| wrong(&why)));
            fs::remove_file(target).unwrap();
            tally.snapshots += usize::from(header.from.is_none());
            tally.batches += usize::from(header.from.is_some());
            tally.across_generations += usize::from(header.from.is_some_and(|from| from.at.salts != header.to.at.salts));
        }
        assert_eq!(place, last, "seed {}: the last moment is not what the database holds", self.seed);
        tally
    }

    /// Keeps a copy of what a failed run left.
    fn keep(&self) -> PathBuf {
        let kept = std::env::temp_dir().join(format!("sqlite-lab-{}", self.seed));
        let _ = copy_tree(self.dir.path(), &kept);
        kept
    }
}

fn copy_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => copy_tree(&entry.path(), &to.join(entry.file_name()))?,
            false => drop(fs::copy(entry.path(), to.join(entry.file_name()))?),
        }
    }
    Ok(())
}

fn page_size(random: &mut StdRng) -> u32 {
    [512, 1024, 4096, 4096, 8192, 65_536][random.random_range(0..6)]
}
