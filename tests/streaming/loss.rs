//! Server and stream are killed at one moment, and the server's disk is gone: what the repository brings back.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::support::postgres::RECOVERY_TIMEOUT;
use super::support::process::{self, Running};
use super::support::scenario::{SOURCE, Scenario};
use super::{SLOT, Writer, last_row, scenario, stop_archiving, stream};

const FLUSH: Duration = Duration::from_millis(500);
/// What storing takes, on a machine that is busy with other tests.
const MARGIN: Duration = Duration::from_millis(2500);

/// Kills both while `writer` writes. The rows that were seen committed, and the moment.
fn lose(scenario: &mut Scenario, stream: Running, writer: Writer) -> (Vec<(i64, Instant)>, Instant) {
    let lost = Instant::now();
    stream.signal(Signal::KILL);
    scenario.cluster.kill9();
    fs::remove_dir_all(&scenario.cluster.data).expect("own directory");
    println!("{}", stream.finish(Duration::from_secs(10)).killed());
    (writer.finish(), lost)
}

#[test]
fn a_lost_site_loses_what_was_committed_since_the_last_flush() {
    for (major, seconds) in [(13, 2.3), (16, 3.1), (18, 1.7)] {
        let Some(mut scenario) = scenario(major) else { continue };
        let stream = stream(&scenario, &scenario.cluster, "500ms");
        scenario.full_backup();
        stop_archiving(&scenario.cluster);
        let writer = Writer::start(&scenario.cluster);
        std::thread::sleep(Duration::from_secs_f64(seconds));
        let (seen, lost) = lose(&mut scenario, stream, writer);
        let restored = scenario.restore_and_start("lost", &["--to", "latest"]);
        let last = last_row(&restored);
        let missed: Vec<_> = seen.iter().filter(|(id, _)| *id > last).collect();
        let first_missed = missed.first().map_or(Duration::ZERO, |(_, at)| lost.saturating_duration_since(*at));
        println!("{major}: {} rows, {} lost, the first {first_missed:?} before the end", seen.len(), missed.len());
        assert!(seen.len() > 10, "{major}: only {} rows were written", seen.len());
        assert!(first_missed <= FLUSH + MARGIN, "{major}: {} rows lost, {first_missed:?}", missed.len());
    }
}

#[test]
fn a_synchronous_stream_loses_nothing_that_a_client_saw() {
    let Some(mut scenario) = scenario(17) else { return };
    let stream = stream(&scenario, &scenario.cluster, "200ms");
    Writer::run(&scenario.cluster, Duration::from_millis(300));
    scenario.full_backup();
    stop_archiving(&scenario.cluster);
    scenario.cluster.configure([format!("synchronous_standby_names = '{SLOT}'")]);
    let asked = format!("SELECT count(*) FROM pg_stat_replication WHERE application_name = '{SLOT}' AND sync_state = 'sync'");
    process::wait_until("synchronous replication", RECOVERY_TIMEOUT, || scenario.cluster.sql().number(&asked) == 1);
    let writer = Writer::start(&scenario.cluster);
    std::thread::sleep(Duration::from_secs(4));
    let (seen, _) = lose(&mut scenario, stream, writer);
    let restored = scenario.restore_and_start("lost", &["--to", "latest"]);
    let (last, last_seen) = (last_row(&restored), seen.last().map_or(0, |(id, _)| *id));
    println!("{last_seen} rows were seen committed, {last} came back");
    assert!(last_seen > 3 && last >= last_seen, "{last_seen} rows were seen committed, {last} came back");

    // Pieces of a segment that is whole are redundant; those that stand in for one are not.
    scenario.rescue.ok(&["expire", SOURCE, "--key", &scenario.operator_key.display().to_string()]);
    let names = scenario.repository.names();
    let left = names.iter().filter_map(|key| key.split_once("/tail/")?.1.split('/').nth(2)).collect::<BTreeSet<_>>();
    let is_whole = |segment: &&str| names.iter().any(|key| key.contains("/log/") && key.contains(&format!("/{segment}_")));
    assert!(left.len() == 1 && !left.iter().any(is_whole), "{names:#?}");

    scenario.rescue.ok(&["verify", "--deep"]);
    let piece = scenario.repository.names().into_iter().filter(|key| key.contains("/tail/")).max().expect("a piece");
    scenario.repository.flip(&piece);
    let verified = scenario.rescue.run(&["verify", "--deep"]).exits(22);
    assert!(verified.stdout.contains("/tail/"), "{verified}");

    // What was streamed of the last segment is of no use now; what comes before it is restored all the same.
    let planned = scenario.rescue.ok(&["restore", SOURCE, "--to", "latest", "--into", "/nowhere", "--dry-run"]);
    assert!(planned.stdout.contains("what was streamed of 0000"), "{planned}");
    let restored = scenario.restore_and_start("damaged", &["--to", "latest"]);
    let without = last_row(&restored);
    assert!(without > 0 && without < last, "{without} of {last} rows");
}
