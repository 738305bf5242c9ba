//! Whoever is killed, restarted or away for a while: everything is there once, and is what the server has.

use std::time::{Duration, Instant};

use lifeboat::base::killpoint;
use rustix::process::Signal;

use super::support::postgres::{Cluster, RECOVERY_TIMEOUT, Stop};
use super::support::process::{self, Running};
use super::support::scenario::{SOURCE, Scenario};
use super::{SLOT, Writer, assert_same_log, last_row, scenario, stop_archiving, stream, wait_stored, wait_streaming};

#[test]
fn whoever_is_interrupted_nothing_is_lost_or_stored_twice() {
    let Some(mut scenario) = scenario(16) else { return };
    stop_archiving(&scenario.cluster);
    let first: String = scenario.cluster.sql().value("SELECT pg_walfile_name(pg_current_wal_lsn())");
    for point in killpoint::ALL.iter().filter(|point| point.starts_with("stream.")) {
        let mut command = scenario.protected.command(&["archive", "stream", SOURCE, "--flush", "100ms"]);
        command.env("LIFEBOAT_KILL_AT", point);
        let mut killed = Running::start(command);
        let writer = Writer::start(&scenario.cluster);
        process::wait_until(point, RECOVERY_TIMEOUT, || killed.has_ended());
        assert!(writer.finish().len() > 1, "{point}");
        println!("{point}");
        killed.finish(Duration::from_secs(1)).killed();
    }
    let mut running = stream(&scenario, &scenario.cluster, "100ms");
    Writer::run(&scenario.cluster, Duration::from_millis(700));
    scenario.cluster.restart();
    wait_streaming(&scenario.cluster, &mut running);
    Writer::run(&scenario.cluster, Duration::from_millis(300));
    scenario.repository.take_away();
    Writer::run(&scenario.cluster, Duration::from_millis(1200));
    scenario.repository.bring_back();
    wait_stored(&scenario.cluster, &mut running);
    let (whole, pieces) = assert_same_log(&scenario, &scenario.cluster, &first);
    println!("{whole} whole segments, {pieces} pieces\n{}", running.stderr_so_far());
    assert!(whole > 2 && pieces > 0, "{whole} whole segments, {pieces} pieces");

    // The last rows wait for nobody: what was received is stored before the end.
    Writer::run(&scenario.cluster, Duration::from_millis(100));
    running.signal(Signal::TERM);
    let ended = running.finish(Duration::from_secs(60)).success();
    assert!(ended.stdout.starts_with("the log of orders is stored up to "), "{ended}");
    assert_same_log(&scenario, &scenario.cluster, &first);
}

/// What would be lost, and what would have been at the worst moment of the day, in seconds.
fn exposure(scenario: &Scenario) -> (f64, f64) {
    let document = scenario.protected.json(&["status", SOURCE]);
    let scopes = document["sources"][0]["scopes"].as_array().expect("a list");
    let host_lost = scopes.iter().find(|scope| scope["scope"] == "host_lost").expect("a scope");
    let seconds = |name: &str| host_lost[name].as_f64().unwrap_or_else(|| panic!("{name}: {document:#}"));
    (seconds("rpo_seconds"), seconds("worst_24h_seconds"))
}

/// A segment that is open for long does not make its commits wait.
#[test]
fn status_counts_what_was_streamed() {
    let Some(scenario) = scenario(15) else { return };
    let mut running = stream(&scenario, &scenario.cluster, "200ms");
    scenario.full_backup();
    stop_archiving(&scenario.cluster);
    let began = Instant::now();
    let mut sql = scenario.cluster.sql();
    for id in 0..40 {
        sql.execute(&format!("INSERT INTO kept VALUES ({id}, '')"));
        std::thread::sleep(Duration::from_millis(200));
    }
    let open_for = began.elapsed().as_secs_f64();
    wait_stored(&scenario.cluster, &mut running);
    let (now, worst) = exposure(&scenario);
    assert!(now == 0.0 && worst < open_for / 2.0, "open for {open_for} s: {now} s now, {worst} s at worst");
    scenario.cluster.switch_wal();
    wait_stored(&scenario.cluster, &mut running);
    let (now, worst) = exposure(&scenario);
    assert!(now == 0.0 && worst < open_for / 2.0, "whole after {open_for} s: {now} s now, {worst} s at worst");
}

/// A slot that keeps nothing yet, and a stream that ends before it could store anything.
#[test]
fn the_slot_does_not_move_before_anything_is_stored() {
    let Some(scenario) = scenario(14) else { return };
    scenario.cluster.sql().execute(&format!("SELECT pg_create_physical_replication_slot('{SLOT}')"));
    // No segment becomes whole.
    scenario.cluster.switch_wal();
    let running = stream(&scenario, &scenario.cluster, "10min");
    scenario.cluster.sql().execute("INSERT INTO kept VALUES (1, '')");
    scenario.repository.take_away();
    running.signal(Signal::TERM);
    let ended = running.finish(Duration::from_secs(60)).success();
    scenario.repository.bring_back();
    let kept: String = scenario.cluster.sql().value("SELECT coalesce(min(restart_lsn)::text, '') FROM pg_replication_slots");
    assert_eq!(kept, "", "reported, though nothing was stored: {ended}");
    assert!(ended.stdout.starts_with("nothing of orders was stored"), "{ended}");
}

/// Stops the server after `write`, which a repository that is away did not get; it is back then. The stream, and the last
/// row.
fn stop_while_away(scenario: &mut Scenario, write: impl FnOnce(&Cluster)) -> (Running, i64) {
    let mut running = stream(scenario, &scenario.cluster, "200ms");
    scenario.full_backup();
    stop_archiving(&scenario.cluster);
    wait_stored(&scenario.cluster, &mut running);
    scenario.repository.take_away();
    write(&scenario.cluster);
    let last = last_row(&scenario.cluster);
    process::wait_until("a failure", RECOVERY_TIMEOUT, || running.stderr_so_far().contains("the log is not stored"));
    scenario.cluster.stop(Stop::Fast);
    scenario.repository.bring_back();
    process::wait_until("the end of that stream", RECOVERY_TIMEOUT, || running.stderr_so_far().contains("was interrupted"));
    let told = running.stderr_so_far();
    assert!(!told.contains("what was received last is not stored"), "{told}");
    (running, last)
}

/// It does not wait for the repository, and what it sent last is stored all the same, though it does not come back.
#[test]
fn a_server_may_go_while_the_repository_is_away() {
    let Some(mut scenario) = scenario(17) else { return };
    let (running, last) = stop_while_away(&mut scenario, |cluster| {
        cluster.sql().execute("INSERT INTO kept SELECT n, '' FROM generate_series(1, 9) n");
    });
    let restored = scenario.restore_and_start("gone", &["--to", "latest"]);
    assert_eq!(last_row(&restored), last);
    running.signal(Signal::TERM);
    running.finish(Duration::from_secs(60)).success();
}

/// More than is held in memory: then nobody hears what the server asks.
#[test]
fn a_server_that_is_not_listened_to_may_go_as_well() {
    let Some(mut scenario) = scenario(13) else { return };
    let first: String = scenario.cluster.sql().value("SELECT pg_walfile_name(pg_current_wal_lsn())");
    let (mut running, last) = stop_while_away(&mut scenario, |cluster| {
        let filler = "SELECT string_agg(md5(n::text || m), '') FROM generate_series(1, 40) m";
        cluster.sql().execute(&format!("INSERT INTO kept SELECT n, ({filler}) FROM generate_series(1, 4000) n"));
    });
    scenario.cluster.start();
    wait_stored(&scenario.cluster, &mut running);
    assert_same_log(&scenario, &scenario.cluster, &first);
    assert_eq!(last_row(&scenario.cluster), last);
}
