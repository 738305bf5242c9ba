//! A segment that is open for long: its small pieces are put together, and whoever is killed, nothing is lost by it.

use std::time::{Duration, Instant};

use lifeboat::base::killpoint;
use rustix::process::Signal;

use super::support::postgres::{Cluster, RECOVERY_TIMEOUT};
use super::support::process::{self, Running};
use super::support::scenario::{SOURCE, Scenario};
use super::{assert_same_log, scenario, stop_archiving, wait_stored};

fn pieces(scenario: &Scenario) -> Vec<String> {
    scenario.repository.names().into_iter().filter(|key| key.contains("/tail/")).collect()
}

/// One that was put together of others has a sixth part in its name.
fn is_together(key: &str) -> bool {
    key.rsplit('/').next().is_some_and(|name| name.split('_').count() == 6)
}

/// A row each time that something was stored, `count` times.
fn trickle(cluster: &Cluster, stream: &mut Running, count: usize) {
    let mut sql = cluster.sql();
    for _ in 0..count {
        sql.execute("INSERT INTO kept SELECT coalesce(max(id), 0) + 1, '' FROM kept");
        wait_stored(cluster, stream);
    }
}

#[test]
fn small_pieces_do_not_pile_up_and_a_crash_in_between_costs_nothing() {
    let Some(scenario) = scenario(18) else { return };
    let cluster = &scenario.cluster;
    scenario.full_backup();
    stop_archiving(cluster);
    cluster.switch_wal();
    let first: String = cluster.sql().value("SELECT pg_walfile_name(pg_current_wal_lsn())");

    let shortened = |point: &str| {
        let mut command = scenario.protected.command(&["archive", "stream", SOURCE, "--flush", "100ms"]);
        command.env("LIFEBOAT_LISTING_LASTS_MS", "2000").env("LIFEBOAT_KILL_AT", point);
        let mut running = Running::start(command);
        super::wait_streaming(cluster, &mut running);
        running
    };
    let mut left = Vec::new();
    for point in killpoint::ALL.iter().filter(|point| point.starts_with("settle.")) {
        let mut killed = shortened(point);
        let mut sql = cluster.sql();
        process::wait_until(point, RECOVERY_TIMEOUT, || {
            sql.execute("INSERT INTO kept SELECT coalesce(max(id), 0) + 1, '' FROM kept");
            std::thread::sleep(Duration::from_millis(120));
            killed.has_ended()
        });
        killed.finish(Duration::from_secs(1)).killed();
        left = pieces(&scenario);
        println!("{point}: {left:#?}");
        assert!(left.iter().any(|key| is_together(key)) && left.len() >= 8, "{left:#?}");
        assert_same_log(&scenario, cluster, &first);
    }

    let (began, mut second) = (Instant::now(), shortened("none"));
    trickle(cluster, &mut second, 10);
    // What lies inside a larger piece goes after a while.
    process::wait_until("the small pieces are gone", RECOVERY_TIMEOUT, || {
        trickle(cluster, &mut second, 1);
        left.iter().filter(|key| !is_together(key)).all(|key| !scenario.repository.has(key))
    });
    println!("{:?}: {:#?}\n{}", began.elapsed(), pieces(&scenario), second.stderr_so_far());
    second.signal(Signal::TERM);
    second.finish(Duration::from_secs(60)).success();
    assert_same_log(&scenario, cluster, &first);
    scenario.rescue.ok(&["verify", "--deep"]);
}
