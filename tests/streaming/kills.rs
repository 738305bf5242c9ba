//! A server under load, killed with its disk: what comes back is what was committed before the last flush, and all that a
//! client saw where the server waits for us. `LIFEBOAT_TEST_KILLS` says how many times each; two suffice for every day.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::support::postgres::{Cluster, RECOVERY_TIMEOUT};
use super::support::process;
use super::{SLOT, scenario, stop_archiving, stream};

const FLUSH: Duration = Duration::from_secs(2);
/// What storing takes, on a machine that is busy with other tests.
const MARGIN: Duration = Duration::from_millis(2500);
const CLIENTS: i64 = 4;

fn kills() -> u32 {
    std::env::var("LIFEBOAT_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(2)
}

/// What one client saw committed: the numbers of its transactions, from 1 on, and when.
type Seen = Vec<(i64, Instant)>;

/// Clients that move money until the server is gone.
struct Load {
    stop: Arc<AtomicBool>,
    /// Commits that were seen so far.
    count: Arc<AtomicU64>,
    clients: Vec<std::thread::JoinHandle<Seen>>,
}

impl Load {
    fn start(cluster: &Cluster) -> Self {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let clients = (0..CLIENTS).map(|client| {
            let (mut sql, stop, count) = (cluster.sql(), Arc::clone(&stop), Arc::clone(&count));
            std::thread::spawn(move || {
                let mut seen = Seen::new();
                for number in 1.. {
                    let (from, to) = (number * 7 % 100, (number * 13 + client) % 100);
                    let transaction = format!(
                        "BEGIN; UPDATE account SET held = held - 1 WHERE id = {from}; \
                         UPDATE account SET held = held + 1 WHERE id = {to}; INSERT INTO moved VALUES ({client}, {number}); COMMIT"
                    );
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    match sql.try_execute(&transaction) {
                        Ok(()) => seen.push((number, Instant::now())),
                        // Two that wait for each other: one of them did nothing.
                        Err(_) if sql.try_execute("ROLLBACK; SELECT 1").is_ok() => {
                            let again = format!("INSERT INTO moved VALUES ({client}, {number})");
                            match sql.try_execute(&again) {
                                Ok(()) => seen.push((number, Instant::now())),
                                Err(_) => break,
                            }
                        }
                        Err(_) => break,
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                }
                seen
            })
        });
        let clients = clients.collect();
        Self { stop, count, clients }
    }

    fn finish(self) -> Vec<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.into_iter().map(|client| client.join().expect("it does not panic")).collect()
    }
}

/// How many transactions of each client came back; asserts that they are its first ones, and that no money is gone.
fn came_back(cluster: &Cluster) -> Vec<i64> {
    let mut sql = cluster.sql();
    assert_eq!(sql.number("SELECT sum(held) FROM account"), 0, "half a transaction");
    let of = |client: i64, what: &str| format!("SELECT {what} FROM moved WHERE client = {client}");
    (0..CLIENTS)
        .map(|client| {
            let last = sql.number(&of(client, "coalesce(max(number), 0)"));
            assert_eq!(sql.number(&of(client, "count(*)")), last, "a transaction in between is missing");
            last
        })
        .collect()
}

/// One server, loaded and lost. Commits that were seen and are lost, of how many, and how long before the end the first of
/// them was.
fn lose_one(major: u32, is_synchronous: bool, after: Duration) -> Option<(usize, usize, Duration)> {
    let mut scenario = scenario(major)?;
    let cluster = &scenario.cluster;
    cluster.sql().execute("CREATE TABLE account AS SELECT id, 0 AS held FROM generate_series(0, 99) id");
    cluster.sql().execute("CREATE TABLE moved (client int, number bigint)");
    let flush = format!("{}ms", FLUSH.as_millis());
    let running = stream(&scenario, cluster, &flush);
    scenario.full_backup();
    stop_archiving(cluster);
    if is_synchronous {
        cluster.configure([format!("synchronous_standby_names = '{SLOT}'")]);
        let asked = format!("SELECT count(*) FROM pg_stat_replication WHERE application_name = '{SLOT}' AND sync_state = 'sync'");
        process::wait_until("synchronous replication", RECOVERY_TIMEOUT, || cluster.sql().number(&asked) == 1);
    }
    let load = Load::start(cluster);
    std::thread::sleep(after);
    process::wait_until("a load", RECOVERY_TIMEOUT, || load.count.load(Ordering::Relaxed) > 40);
    let lost_at = Instant::now();
    running.signal(Signal::KILL);
    scenario.cluster.kill9();
    fs::remove_dir_all(&scenario.cluster.data).expect("own directory");
    running.finish(Duration::from_secs(10)).killed();
    let seen = load.finish();
    let last = came_back(&scenario.restore_and_start("lost", &["--to", "latest"]));
    let missed = seen.iter().zip(&last).flat_map(|(seen, last)| seen.iter().filter(|(number, _)| number > last));
    let first = missed.clone().map(|(_, at)| *at).min();
    let lost_for = first.map_or(Duration::ZERO, |at| lost_at.saturating_duration_since(at));
    Some((missed.count(), seen.iter().map(Vec::len).sum(), lost_for))
}

/// Loses `kills` servers in one way; the commits that were lost of all that were seen, and the longest time before the end.
fn lose(is_synchronous: bool) -> Option<(usize, usize, Duration)> {
    let (mut lost, mut seen, mut longest) = (0, 0, Duration::ZERO);
    for kill in 0..kills() {
        let major = [16, 18, 13, 17, 15, 14][kill as usize % 6];
        // Anywhere between two flushes.
        let after = Duration::from_millis(2300 + u64::from(kill) * 637 % 2000);
        let (missed, of, lost_for) = lose_one(major, is_synchronous, after)?;
        println!("{major}, killed after {after:?}: {missed} of {of} commits lost, the first {lost_for:?} before the end");
        assert!(of > 20, "only {of} commits");
        (lost, seen, longest) = (lost + missed, seen + of, longest.max(lost_for));
    }
    println!("{} kills: {lost} of {seen} commits lost, the first at most {longest:?} before the end", kills());
    Some((lost, seen, longest))
}

#[test]
fn what_is_lost_was_committed_since_the_last_flush() {
    let Some((_, _, longest)) = lose(false) else { return };
    assert!(longest <= FLUSH + MARGIN, "{longest:?}");
}

#[test]
fn nothing_is_lost_that_a_client_saw_where_the_server_waits_for_us() {
    let Some((lost, seen, _)) = lose(true) else { return };
    assert_eq!(lost, 0, "of {seen}");
}
