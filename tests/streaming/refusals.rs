//! Servers that do not take us, and servers that are not the source's.

use std::time::Duration;

use rustix::process::Signal;

use super::support::postgres::{Cluster, Options, RECOVERY_TIMEOUT};
use super::support::process;
use super::support::scenario::{SOURCE, Scenario};
use super::{SLOT, Writer, assert_same_log, scenario, stop_archiving, stored_end, stream, wait_stored};

fn refused(scenario: &Scenario, code: i32, words: &[&str]) {
    scenario.protected.run(&["archive", "stream", SOURCE]).refuses(code, words);
}

#[test]
fn a_stream_that_cannot_be_is_refused_with_the_next_step() {
    let Some(scenario) = scenario(15) else { return };
    let cluster = &scenario.cluster;
    let own = scenario.protected.configuration();
    let instead = |conninfo: &str| scenario.protected.configure_text(&own.replace(&cluster.conninfo(), conninfo));

    let running = stream(&scenario, cluster, "1s");
    refused(&scenario, 21, &["slot lifeboat_orders is used by another process", "hint:"]);
    drop(running);

    cluster.sql().execute("CREATE ROLE backup LOGIN");
    instead(&cluster.conninfo().replace("user=postgres", "user=backup"));
    refused(&scenario, 1, &["cannot connect for replication", "ALTER ROLE \"backup\" REPLICATION"]);
    cluster.sql().execute("ALTER ROLE backup REPLICATION");
    let hba = cluster.data.join("pg_hba.conf");
    let rules = std::fs::read_to_string(&hba).expect("own file");
    std::fs::write(&hba, rules.lines().filter(|line| !line.contains("replication")).collect::<Vec<_>>().join("\n") + "\n")
        .expect("own file");
    cluster.sql().execute("SELECT pg_reload_conf()");
    process::wait_until("the rules", RECOVERY_TIMEOUT, || {
        let output = scenario.protected.run(&["archive", "stream", SOURCE]);
        output.stderr.contains("no pg_hba.conf entry for replication connection")
    });
    refused(&scenario, 1, &["cannot connect for replication", "local replication backup peer"]);

    let other = Cluster::running(&cluster.installation, &Options { wal_segment_mib: 1, ..Options::default() });
    instead(&other.conninfo());
    refused(&scenario, 1, &["belongs to another cluster than orders"]);
    assert_eq!(other.sql().number("SELECT count(*) FROM pg_replication_slots"), 0, "a server that is not ours is left as it is");

    let logical = format!("SELECT pg_drop_replication_slot('{SLOT}'), pg_create_logical_replication_slot('{SLOT}', 'pgoutput')");
    scenario.protected.configure_text(&own);
    std::fs::write(&hba, rules).expect("own file");
    cluster.sql().execute("SELECT pg_reload_conf()");
    process::wait_until("the slot", RECOVERY_TIMEOUT, || cluster.sql().try_execute(&logical).is_ok());
    refused(&scenario, 1, &["is one for logical replication"]);
}

/// The slot was dropped, and what the repository lacks is not on the server any more.
#[test]
fn what_the_server_has_removed_is_told_and_the_stream_goes_on_behind_it() {
    let options = Options { wal_segment_mib: 1, ..Options::default() };
    let Some(scenario) =
        Scenario::on(17, &options.with("wal_keep_size = 0").with("min_wal_size = 2MB").with("max_wal_size = 2MB"))
    else {
        return;
    };
    let cluster = &scenario.cluster;
    cluster.sql().execute("CREATE TABLE kept (id bigint PRIMARY KEY, filler text)");
    let first = stream(&scenario, cluster, "200ms");
    stop_archiving(cluster);
    Writer::run(cluster, Duration::from_millis(300));
    first.signal(Signal::TERM);
    first.finish(Duration::from_secs(60)).success();
    let begun: String = cluster.sql().value("SELECT pg_walfile_name(pg_current_wal_flush_lsn())");
    cluster.configure(["archive_mode = off"]);
    cluster.sql().execute(&format!("SELECT pg_drop_replication_slot('{SLOT}')"));
    let mut scenario = scenario;
    scenario.cluster.restart();
    let cluster = &scenario.cluster;
    for _ in 0..4 {
        Writer::run(cluster, Duration::from_millis(50));
        cluster.switch_wal();
        cluster.sql().execute("CHECKPOINT");
    }
    assert!(!cluster.data.join("pg_wal").join(&begun).exists(), "{begun} is still there");

    let mut second = stream(&scenario, cluster, "200ms");
    Writer::run(cluster, Duration::from_millis(300));
    wait_stored(cluster, &mut second);
    let told = second.stderr_so_far();
    assert!(told.contains("is not on the server any more, nor in every repository"), "{told}");
    let kept: String = cluster.sql().value("SELECT pg_walfile_name(pg_current_wal_flush_lsn())");
    assert_same_log(&scenario, cluster, &kept);
    second.signal(Signal::TERM);
    second.finish(Duration::from_secs(60)).success();

    cluster.configure(["max_slot_wal_keep_size = 1MB"]);
    process::wait_until("the lost slot", RECOVERY_TIMEOUT, || {
        Writer::run(cluster, Duration::from_millis(50));
        cluster.switch_wal();
        cluster.sql().execute("CHECKPOINT");
        cluster.sql().value("SELECT wal_status FROM pg_replication_slots") == "lost"
    });
    let lsn = |at: u64| format!("{:X}/{:X}", at >> 32, at & 0xFFFF_FFFF);
    let stored = lsn(stored_end(&scenario));
    let oldest: String = cluster.sql().value("SELECT min(substr(name, 9)) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'");
    let oldest = lsn((hex(&oldest[..8]) << 32) + (hex(&oldest[8..]) << 20));
    let (stored, lost) = (format!("the log up to {stored}\n"), format!("the log from {stored} to {oldest}, unless"));
    refused(&scenario, 1, &["slot lifeboat_orders is lost", &stored, &lost, "pg_drop_replication_slot('lifeboat_orders')"]);
    let document = scenario.protected.json(&["status", SOURCE]);
    let reasons = document["sources"][0]["reasons"].as_array().expect("a list");
    assert!(reasons.iter().any(|reason| reason["class"] == "slot" && reason["message"].to_string().contains("is lost")));
}

fn hex(text: &str) -> u64 {
    u64::from_str_radix(text, 16).expect("a number")
}

/// Two servers wrote the same segment; the right one then archives it.
#[test]
fn contradicting_pieces_are_settled_by_the_whole_segment() {
    let Some(scenario) = scenario(16) else { return };
    let cluster = &scenario.cluster;
    stop_archiving(cluster);
    let mut first = stream(&scenario, cluster, "100ms");
    Writer::run(cluster, Duration::from_millis(200));
    wait_stored(cluster, &mut first);
    first.signal(Signal::TERM);
    first.finish(Duration::from_secs(60)).success();
    let piece = scenario.repository.names().into_iter().filter(|key| key.contains("/tail/")).max().expect("a piece");
    let (name, digest) = piece.rsplit_once('_').expect("a digest");
    scenario.repository.write(&format!("{name}_{:016}{}", 0, &digest[16..]), scenario.repository.read(&piece));
    refused(&scenario, 22, &["is in the repository with other content", "hint:", "lifeboat archive push orders pg_wal/"]);

    let begun = piece.rsplit('/').nth(1).expect("a segment").to_owned();
    Writer::run(cluster, Duration::from_millis(100));
    cluster.switch_wal();
    scenario.protected.ok(&["archive", "push", SOURCE, cluster.data.join("pg_wal").join(&begun).to_str().expect("plain")]);
    let mut second = stream(&scenario, cluster, "100ms");
    Writer::run(cluster, Duration::from_millis(100));
    wait_stored(cluster, &mut second);
    assert_same_log(&scenario, cluster, &begun);
    second.signal(Signal::TERM);
    second.finish(Duration::from_secs(60)).success();
}
