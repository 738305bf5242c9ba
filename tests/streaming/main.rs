//! `archive stream`: what a lost server costs, that nothing is lost or stored twice whoever is killed, and whom it refuses.

mod branches;
mod forged;
mod interruptions;
mod kills;
mod loss;
mod malformed;
mod refusals;
mod running;
mod settling;
mod several;
#[path = "../support/mod.rs"]
mod support;
mod tampering;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use support::postgres::{Cluster, Options, RECOVERY_TIMEOUT};
use support::process::{self, Running};
use support::scenario::{SOURCE, Scenario};
use support::sql::Sql;

/// The slot of [`SOURCE`], and the name that the server knows the stream by.
pub const SLOT: &str = "lifeboat_orders";

/// Small segments, so that many are completed; the server keeps them all to be compared with.
pub fn scenario(major: u32) -> Option<Scenario> {
    let options = Options { wal_segment_mib: 1, ..Options::default() }.with("wal_keep_size = 1GB");
    let scenario = Scenario::on(major, &options)?;
    scenario.cluster.sql().execute("CREATE TABLE kept (id bigint PRIMARY KEY, filler text)");
    Some(scenario)
}

/// Starts a stream on the protected host and waits until it streams.
#[track_caller]
pub fn stream(scenario: &Scenario, cluster: &Cluster, flush: &str) -> Running {
    let mut stream = scenario.protected.start(&["archive", "stream", SOURCE, "--flush", flush]);
    wait_streaming(cluster, &mut stream);
    stream
}

/// Waits until the server streams to us.
#[track_caller]
pub fn wait_streaming(cluster: &Cluster, stream: &mut Running) {
    let asked = format!("SELECT count(*) FROM pg_stat_replication WHERE application_name = '{SLOT}' AND state = 'streaming'");
    process::wait_until("streaming", RECOVERY_TIMEOUT, || {
        assert!(!stream.has_ended(), "the stream ended: {}", stream.stderr_so_far());
        Sql::connect(&cluster.conninfo()).is_ok_and(|mut sql| sql.number(&asked) == 1)
    });
}

/// Waits until everything that the server has written is in the repository; returns how far that is.
#[track_caller]
pub fn wait_stored(cluster: &Cluster, stream: &mut Running) {
    let flushed = cluster.sql().value("SELECT pg_current_wal_flush_lsn()");
    process::wait_until("the stream", RECOVERY_TIMEOUT, || {
        assert!(!stream.has_ended(), "the stream ended: {}", stream.stderr_so_far());
        let asked = format!(
            "SELECT coalesce(bool_or(restart_lsn >= '{flushed}'), false) FROM pg_replication_slots WHERE slot_name = '{SLOT}'"
        );
        cluster.sql().value(&asked) == "t"
    });
}

/// From now on only the stream stores the log.
pub fn stop_archiving(cluster: &Cluster) {
    cluster.configure(["archive_command = 'false'"]);
    process::wait_until("the configuration", RECOVERY_TIMEOUT, || cluster.sql().value("SHOW archive_command") == "false");
}

/// A client that writes one row after the other.
pub struct Writer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<(i64, Instant)>>,
}

impl Writer {
    /// Begins with the row after the last one.
    #[track_caller]
    pub fn start(cluster: &Cluster) -> Self {
        let mut sql = cluster.sql();
        let first = sql.number("SELECT coalesce(max(id), 0) + 1 FROM kept");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut seen = Vec::new();
            for id in first.. {
                let insert =
                    format!("INSERT INTO kept SELECT {id}, string_agg(md5(random()::text), '') FROM generate_series(1, 60)");
                if stopped.load(Ordering::Relaxed) || sql.try_execute(&insert).is_err() {
                    break;
                }
                seen.push((id, Instant::now()));
            }
            seen
        });
        Self { stop, thread }
    }

    /// Ends it, or waits for its end when the server is gone: each row that it saw committed, and when.
    pub fn finish(self) -> Vec<(i64, Instant)> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the writer does not panic")
    }

    /// Writes for `duration`.
    #[track_caller]
    pub fn run(cluster: &Cluster, duration: Duration) -> Vec<(i64, Instant)> {
        let writer = Self::start(cluster);
        std::thread::sleep(duration);
        writer.finish()
    }
}

/// The last row; asserts that none before it is missing.
#[track_caller]
pub fn last_row(cluster: &Cluster) -> i64 {
    let mut sql = cluster.sql();
    let (count, last) = (sql.number("SELECT count(*) FROM kept"), sql.number("SELECT coalesce(max(id), 0) FROM kept"));
    assert_eq!(count, last, "a row in between is missing");
    last
}

/// Compares everything in the repository, from the segment `first` on, with the server's own log. Returns how many whole
/// segments and how many pieces there are.
#[track_caller]
pub fn assert_same_log(scenario: &Scenario, cluster: &Cluster, first: &str) -> (usize, usize) {
    assert_stored(scenario, cluster, first, true)
}

/// [`assert_same_log`] of what is there; unless it `is_all`, later segments may be missing, or not be whole.
#[track_caller]
pub fn assert_stored(scenario: &Scenario, cluster: &Cluster, first: &str, is_all: bool) -> (usize, usize) {
    let current: String = cluster.sql().value("SELECT pg_walfile_name(pg_current_wal_flush_lsn())");
    let mut names: Vec<String> = std::fs::read_dir(cluster.data.join("pg_wal"))
        .expect("a directory")
        .filter_map(|entry| entry.expect("an entry").file_name().into_string().ok())
        .filter(|name| name.len() == 24 && name[..8] == current[..8] && **name >= *first && **name <= *current)
        .collect();
    names.sort_unstable();
    let objects = scenario.repository.names();
    let (mut whole, mut pieces) = (0, 0);
    for name in &names {
        if !is_all && !objects.iter().any(|key| key.contains(&format!("/{name}_")) || key.contains(&format!("/{name}/"))) {
            break;
        }
        let to = scenario.rescue.dir().join("fetched");
        let incarnation = objects.iter().find_map(|key| key.split_once("/log/")?.1.split('/').next()).expect("a log");
        let arguments = ["archive", "get", SOURCE, name, &to.display().to_string(), "--incarnation", incarnation];
        scenario.rescue.ok(&arguments);
        let (own, got) = (std::fs::read(cluster.data.join("pg_wal").join(name)), std::fs::read(&to));
        let (own, got) = (own.expect("the server keeps it"), got.expect("fetched"));
        let stored = objects.iter().filter(|key| key.contains("/log/") && key.contains(&format!("/{name}_"))).count();
        let parts: Vec<(usize, usize)> = objects.iter().filter_map(|key| span(key, name)).collect();
        assert!(stored <= 1, "{name} is there {stored} times");
        whole += stored;
        pieces += parts.len();
        if stored == 1 {
            assert!(own == got, "{name} is not what the server has");
            continue;
        }
        let end = assert_joined(name, parts);
        assert!(own[..end] == got[..end], "{name} up to {end:X} is not what the server has");
        // More may have come since the names were read.
        let is_log_or_nothing = got[end..].iter().zip(&own[end..]).all(|(got, own)| *got == 0 || got == own);
        assert!(is_log_or_nothing && got.len() == own.len(), "{name} after {end:X}");
        assert!(!is_all || *name == current, "{name} is not whole");
    }
    (whole, pieces)
}

/// The end of what the repository holds of the log, in segments of 1 MiB.
pub fn stored_end(scenario: &Scenario) -> u64 {
    let number = |text: &str| u64::from_str_radix(text, 16).ok();
    let begin = |segment: &str| Some((number(segment.get(8..16)?)? << 32) + (number(segment.get(16..24)?)? << 20));
    let piece = |key: &str| {
        let (segment, name) = key.split_once("/tail/")?.1.rsplit_once('/')?;
        Some(begin(segment.rsplit('/').next()?)? + number(name.get(9..17)?)?)
    };
    let whole = |key: &str| Some(begin(key.split_once("/log/")?.1.split('/').nth(2)?)? + (1 << 20));
    scenario.repository.names().iter().filter_map(|key| piece(key).or_else(|| whole(key))).max().unwrap_or_default()
}

/// The stretch that a piece of the segment `name` holds.
fn span(key: &str, name: &str) -> Option<(usize, usize)> {
    let piece = key.split_once("/tail/")?.1.split_once(&format!("/{name}/"))?.1;
    let (from, to) = piece.split('_').next()?.split_once('-')?;
    Some((usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?))
}

/// Asserts that pieces follow each other without a gap or an overlap, but for those that lie inside a larger one; where
/// they end.
#[track_caller]
fn assert_joined(name: &str, parts: Vec<(usize, usize)>) -> usize {
    let lies_in = |one: &(usize, usize), other: &(usize, usize)| one != other && other.0 <= one.0 && one.1 <= other.1;
    let mut large: Vec<_> = parts.iter().filter(|one| !parts.iter().any(|other| lies_in(one, other))).collect();
    large.sort_unstable();
    large.iter().fold(0, |end, (from, to)| {
        assert_eq!(*from, end, "{name}: {parts:?}");
        *to
    })
}
