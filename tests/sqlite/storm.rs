//! Writers that never stop, and everything that happens to them and to whoever follows them, in random order; then every
//! captured moment is judged by the ledger that the writers kept.
//!
//! `LIFEBOAT_SQLITE_RUNS` says how many storms, `LIFEBOAT_SQLITE_EVENTS` how long each is; `LIFEBOAT_TEST_SEED` repeats one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use lifeboat::base::{Lsn, Timestamp};
use lifeboat::source::sqlite::position::{FileId, Salts};
use lifeboat::source::sqlite::{Moment, Position};
use rand::RngExt;
use rand::rngs::StdRng;
use rusqlite::Connection;

use crate::oracle::Oracle;
use crate::part::Part;
use crate::support::{process, random};
use crate::world::{Following, PATIENCE, SOURCE, World, time};
use crate::{model, writer};

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn whatever_happens_every_captured_moment_holds_what_was_committed() {
    let seed = random::seed("sqlite storm");
    for run in 0..number("LIFEBOAT_SQLITE_RUNS", 1) as u64 {
        Storm::new(seed.wrapping_add(run)).rage(number("LIFEBOAT_SQLITE_EVENTS", 14));
    }
}

struct Storm {
    seed: u64,
    random: StdRng,
    world: World,
    writers: Vec<Part>,
    following: Option<Following>,
    epoch: u64,
    page_size: u32,
    streams: u64,
}

impl Storm {
    fn new(seed: u64) -> Self {
        let mut random = random::generator(seed, 1);
        let page_size = [512, 1024, 4096, 16_384][random.random_range(0..4)];
        println!("storm: seed {seed}, pages of {page_size}");
        let world = World::new();
        let mut storm = Self { seed, random, world, writers: Vec::new(), following: None, epoch: 1, page_size, streams: 0 };
        storm.note_epoch();
        storm.start_writers();
        storm.start_following();
        storm
    }

    /// The ledger knows of a database before its first transaction.
    fn note_epoch(&self) {
        let mut ledger = writer::open_ledger(self.world.data.path());
        writer::note(&mut ledger, &format!("r {} {}", self.epoch, writer::now_micros()));
    }

    fn start_writers(&mut self) {
        for _ in 0..self.random.random_range(1..3) {
            self.streams += 1;
            let settings = [
                ("SQLITE_SEED", self.seed.to_string()),
                ("SQLITE_EPOCH", self.epoch.to_string()),
                ("SQLITE_PAGE_SIZE", self.page_size.to_string()),
                ("SQLITE_AUTO_VACUUM", self.random.random_range(0..3).to_string()),
                ("SQLITE_PAUSE_MICROS", [0, 2_000, 30_000][self.random.random_range(0..3)].to_string()),
                ("SQLITE_STREAM", self.streams.to_string()),
            ];
            self.writers.push(Part::start("writer", self.world.data.path(), &settings));
        }
    }

    fn start_following(&mut self) {
        let flush = ["100ms", "150ms", "300ms"][self.random.random_range(0..3)];
        self.following = Some(self.world.follow(flush));
    }

    fn kill_writers(&mut self) {
        self.writers.drain(..).for_each(Part::kill);
    }

    fn kill_following(&mut self) {
        self.following.take().into_iter().for_each(Following::kill);
    }

    /// Lets the writers come on by some transactions.
    fn go_on(&mut self) {
        let acknowledged = || writer::ledger_lines(self.world.data.path()).iter().filter(|line| line.starts_with("a ")).count();
        let enough = acknowledged() + self.random.random_range(5..60);
        process::wait_until("the writers come on", PATIENCE, || acknowledged() >= enough);
    }

    fn rage(mut self, events: usize) {
        self.go_on();
        for _ in 0..events {
            let event = self.random.random_range(0..12);
            println!("event {event}");
            match event {
                0 | 1 => {
                    self.kill_following();
                    self.start_following();
                }
                2 => {
                    self.kill_writers();
                    self.start_writers();
                }
                3 => self.foreign("PRAGMA wal_checkpoint(TRUNCATE)"),
                4 => self.foreign("VACUUM"),
                5..8 => self.backup(),
                8 => {
                    let output = self.following.take().unwrap().end();
                    // It may have begun a moment ago, and not heed signals yet.
                    assert!(matches!(output.code, Some(0 | 130)) || output.signal == Some(15), "{output}");
                    self.foreign("PRAGMA wal_checkpoint(TRUNCATE)");
                    self.start_following();
                }
                9 => self.replace(),
                10 => self.change_page_size(),
                _ => {
                    self.kill_following();
                    self.kill_writers();
                    self.start_writers();
                    self.start_following();
                }
            }
            self.go_on();
        }
        self.settle();
        self.judge();
    }

    /// What another program does; where it finds the database busy, it does not.
    fn foreign(&self, sql: &str) {
        let connection = Connection::open(self.world.database()).unwrap();
        connection.busy_timeout(Duration::from_secs(3)).unwrap();
        let _ = connection.execute_batch(sql);
    }

    fn backup(&mut self) {
        let kind = ["full", "diff", "incr", "auto"][self.random.random_range(0..4)];
        let output = self.world.host.run(&["backup", SOURCE, "--type", kind]);
        // The follower may be taking one at this moment.
        assert!(matches!(output.code, Some(0 | 21)), "{output}");
    }

    /// A new database under the name, by rename.
    fn replace(&mut self) {
        self.kill_writers();
        self.epoch += 1;
        let fresh = self.world.data.write("fresh.db", "");
        let shape = writer::Shape { page_size: self.page_size, auto_vacuum: 0, epoch: self.epoch };
        drop(writer::create(&fresh, shape).unwrap());
        self.note_epoch();
        for suffix in ["-wal", "-shm"] {
            let _ = fs::remove_file(self.world.data.join(format!("data.db{suffix}")));
        }
        fs::rename(&fresh, self.world.database()).unwrap();
        self.start_writers();
    }

    fn change_page_size(&mut self) {
        self.kill_writers();
        self.kill_following();
        let connection = Connection::open(self.world.database()).unwrap();
        connection.busy_timeout(Duration::from_secs(20)).unwrap();
        self.page_size = if self.page_size == 4096 { 1024 } else { 4096 };
        let batch =
            format!("PRAGMA journal_mode = DELETE; PRAGMA page_size = {}; VACUUM; PRAGMA journal_mode = WAL", self.page_size);
        connection.execute_batch(&batch).unwrap();
        drop(connection);
        self.start_writers();
        self.start_following();
    }

    /// Stops the writers, and has all of it stored.
    fn settle(&mut self) {
        self.kill_writers();
        // Whoever was cut off within a commit leaves it to the next that opens the database.
        drop(Connection::open(self.world.database()).unwrap().execute_batch("SELECT * FROM sqlite_schema"));
        let oracle = Oracle::read(self.world.data.path(), self.seed);
        let wanted = oracle.last().expect("something was committed");
        let following = self.following.as_mut().unwrap();
        let world = &self.world;
        let mut rounds = 0;
        following.until("all is stored", || {
            rounds += 1;
            if rounds % 20 != 0 {
                return false;
            }
            let into = world.restored.join("settled.db");
            let _ = fs::remove_file(&into);
            let output = world.rescue.run(&["restore", SOURCE, "--into", into.to_str().unwrap()]);
            assert!(matches!(output.code, Some(0)), "{output}");
            model::read(&Connection::open(&into).unwrap()).is_some_and(|(epoch, n, _)| (epoch, n) >= wanted)
        });
        let output = self.following.take().unwrap().end().success();
        println!("{}", output.stdout);
    }

    fn judge(&mut self) {
        let oracle = Oracle::read(self.world.data.path(), self.seed);
        let stored = self.stored();
        let moments = stored.moments();
        let most = number("LIFEBOAT_SQLITE_MOMENTS", 25);
        println!("{} moments, of which {} are judged", moments.len(), most.min(moments.len()));
        let mut chosen: Vec<Timestamp> = moments.iter().copied().collect();
        while chosen.len() > most {
            chosen.remove(self.random.random_range(0..chosen.len()));
        }
        for moment in chosen {
            let (document, path) = self.world.restore(&["--to", &moment.rfc3339()]);
            assert!(self.is_reached(&stored, moment, &document, &path), "seed {}: {moment}\n{document}", self.seed);
            self.judge_one(&oracle, &document, &path);
        }
        let (first, last) = (*moments.first().unwrap(), *moments.last().unwrap());
        let mut refused = 0;
        for _ in 0..most {
            let span = last.since(first).as_micros() as u64;
            let target = first.plus(Duration::from_micros(self.random.random_range(0..=span)));
            refused += u32::from(!self.judge_between(&oracle, &stored, target));
        }
        println!("of {most} times in between {refused} lie in gaps");
    }

    /// Restores to a time between two moments; whether it could be. Where the log was followed it must.
    fn judge_between(&self, oracle: &Oracle, stored: &Stored, target: Timestamp) -> bool {
        let expected = *stored.moments().range(..=target).next_back().unwrap();
        let is_followed = stored.is_followed_at(target);
        let into = self.world.restored.join("restored.db");
        let _ = fs::remove_file(&into);
        let words = ["restore", SOURCE, "--into", into.to_str().unwrap(), "--to", &target.rfc3339(), "--output", "json"];
        let output = self.world.rescue.run(&words);
        if output.code != Some(0) {
            assert!(!is_followed, "seed {}: {target} lies in no gap\n{output}", self.seed);
            assert!(output.stderr.contains("the log has a gap"), "{output}");
            return false;
        }
        let document: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
        assert!(self.is_reached(stored, expected, &document, &into), "seed {}: {target}\n{document}", self.seed);
        let unknown = if is_followed || target == expected { serde_json::Value::Null } else { document["captured_at"].clone() };
        assert_eq!(document["unknown_after"], unknown, "seed {}: {target}\n{document}", self.seed);
        self.judge_one(oracle, &document, &into);
        true
    }

    /// Whether what was restored to `path` is what was stored last by `expected`. Of two that looked at the database in the same
    /// moment the one that looked later may have told its time first: a backup then holds all of a segment that names a later
    /// time, as a restore of that segment from another backup shows.
    fn is_reached(&self, stored: &Stored, expected: Timestamp, document: &serde_json::Value, path: &std::path::Path) -> bool {
        let found = time(&document["captured_at"]);
        if stored.is_reached(expected, found) {
            return true;
        }
        let leads_there = |backup: &&Backup| backup.moment != found && stored.run(backup).any(|moment| moment == expected);
        let into = self.world.restored.join("other.db").display().to_string();
        stored.backups.iter().filter(leads_there).any(|backup| {
            let _ = fs::remove_file(&into);
            let words = ["restore", SOURCE, "--into", &into, "--to", &expected.rfc3339(), "--backup", &backup.id];
            let other = self.world.rescue.json(&words);
            let state = |path: &std::path::Path| model::read(&Connection::open(path).unwrap()).map(|(epoch, n, _)| (epoch, n));
            time(&other["captured_at"]) == expected && found < expected && state(path) >= state(into.as_ref())
        })
    }

    fn judge_one(&self, oracle: &Oracle, document: &serde_json::Value, path: &std::path::Path) {
        let found = model::read(&Connection::open(path).unwrap());
        let moment = moment(time(&document["complete_at"]), time(&document["captured_at"]));
        if let Err(why) = oracle.judge(&moment, found) {
            panic!("seed {}: {why}\n{document}", self.seed);
        }
    }

    /// What is named in the repository.
    fn stored(&self) -> Stored {
        let list = self.world.host.json(&["backup", SOURCE, "--dry-run"]);
        assert!(list["plans"][0]["base"].is_string() || list["plans"][0]["type"] == "full", "{list}");
        let store = self.world.repository.names_below("app/commit/");
        let mut stored = Stored { backups: Vec::new(), log: BTreeMap::new() };
        for key in store {
            let text = String::from_utf8(self.world.repository.read(&key)).unwrap();
            // The signature comes after it, on a line of its own.
            let entry: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
            let backup = find(&entry, "start_lsn").unwrap_or_else(|| panic!("{text}"));
            let lsn: Lsn = serde_json::from_value(backup["start_lsn"].clone()).unwrap();
            let incarnation = backup["incarnation"].as_str().unwrap().to_owned();
            let id = backup["id"].as_str().unwrap().to_owned();
            let [begun, moment] = ["start_time", "stop_time"].map(|name| time(&backup[name]));
            stored.backups.push(Backup { id, begun, moment, incarnation, start: lsn.0 >> 24 });
        }
        for key in self.world.repository.names_below("app/log/") {
            let mut parts = key.split('/').skip(2);
            let incarnation = parts.next().unwrap().to_owned();
            let name =
                lifeboat::repo::log::SegmentName::parse(key.rsplit('/').next().unwrap(), lifeboat::base::SegmentSize::DEFAULT);
            let Some(name) = name else { continue };
            stored.log.insert((incarnation, name.segment.number), name.last.known().unwrap());
        }
        stored
    }
}

/// What is named in the repository: backups, and moments of segments.
struct Stored {
    backups: Vec<Backup>,
    log: BTreeMap<(String, u64), Timestamp>,
}

/// Its state was taken hold of between two times, and a segment may follow it.
struct Backup {
    id: String,
    begun: Timestamp,
    moment: Timestamp,
    incarnation: String,
    start: u64,
}

impl Stored {
    /// Moments of the segments that lead on from a backup, without a gap.
    fn run<'s>(&'s self, backup: &'s Backup) -> impl Iterator<Item = Timestamp> + 's {
        (backup.start..).map_while(|number| self.log.get(&(backup.incarnation.clone(), number)).copied())
    }

    /// Whether `found` is the moment `expected`, or was captured while the backup of that moment was being taken hold of: then
    /// its state may be the later one.
    fn is_reached(&self, expected: Timestamp, found: Timestamp) -> bool {
        let meanwhile = |backup: &Backup| backup.moment == expected && (backup.begun..expected).contains(&found);
        found == expected || self.backups.iter().any(meanwhile)
    }

    /// Those that can be reached: of backups, and of segments that lead on from one.
    fn moments(&self) -> BTreeSet<Timestamp> {
        let followed = self.backups.iter().flat_map(|backup| self.run(backup));
        self.backups.iter().map(|backup| backup.moment).chain(followed).collect()
    }

    /// Whether the log leads on from a backup before `target` to a moment behind it.
    fn is_followed_at(&self, target: Timestamp) -> bool {
        let before = self.backups.iter().filter(|backup| backup.moment <= target);
        before.flat_map(|backup| self.run(backup)).any(|moment| moment > target)
    }
}

/// The object that has a member `name`, anywhere in `value`.
fn find<'v>(value: &'v serde_json::Value, name: &str) -> Option<&'v serde_json::Value> {
    match value {
        serde_json::Value::Object(members) if members.contains_key(name) => Some(value),
        serde_json::Value::Object(members) => members.values().find_map(|member| find(member, name)),
        _ => None,
    }
}

fn moment(complete_at: Timestamp, captured_at: Timestamp) -> Moment {
    let file = FileId { device: 0, inode: 0, born_nanos: None };
    let at =
        Position { file, salts: Salts(0), frame: 0, checksum: [0; 2], change_counter: 0, page_size: 512, pages: 1, boot: None };
    Moment { complete_at, captured_at, at }
}
