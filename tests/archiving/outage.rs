//! A repository that is away, and an `archive push` that panics: PostgreSQL keeps its log and catches up.

use std::path::PathBuf;

use crate::support::postgres::{Installation, Options, RECOVERY_TIMEOUT};
use crate::support::process;
use crate::support::scenario::{SOURCE, Scenario};

const SEGMENTS: i64 = 4;

fn stage(major: u32) -> Option<Scenario> {
    let installation = Installation::require(major)?;
    let scenario = Scenario::start(&installation, &Options { wal_segment_mib: 1, ..Options::default() });
    scenario.cluster.sql().execute("CREATE TABLE rows (n int)");
    scenario.full_backup();
    Some(scenario)
}

/// Fills segments and waits until the archiver has failed; returns their paths.
fn fill_in_vain(scenario: &Scenario) -> Vec<PathBuf> {
    let mut sql = scenario.cluster.sql();
    let before = sql.number("SELECT failed_count FROM pg_stat_archiver");
    let mut segments = Vec::new();
    for number in 0..SEGMENTS {
        sql.execute(&format!("INSERT INTO rows VALUES ({number})"));
        segments.push(scenario.cluster.data.join("pg_wal").join(scenario.cluster.switch_wal()));
    }
    process::wait_until("the archiver fails twice", RECOVERY_TIMEOUT, || {
        sql.number("SELECT failed_count FROM pg_stat_archiver") >= before + 2
    });
    // Recycling would show at a checkpoint.
    sql.execute("CHECKPOINT");
    for segment in &segments {
        assert!(segment.exists(), "{} is gone and was never archived", segment.display());
    }
    segments
}

#[track_caller]
fn assert_caught_up(scenario: &Scenario, segments: &[PathBuf]) {
    // A new segment wakes the archiver, which sleeps up to a minute after failures.
    scenario.cluster.sql().execute("INSERT INTO rows VALUES (-1)");
    scenario.archive_now();
    let objects = scenario.repository.log_objects();
    // In no order: segments that wait are stored together, and acknowledged one after the other.
    for segment in segments {
        let name = segment.file_name().expect("a segment").to_string_lossy().into_owned();
        let found: Vec<_> = objects.iter().filter(|object| object.contains(&format!("/{name}_"))).collect();
        assert_eq!(found.len(), 1, "{name}: {found:?}");
    }
    let restored = scenario.restore_and_start("caught-up", &[]);
    assert_eq!(restored.sql().number("SELECT count(*) FROM rows"), SEGMENTS + 1);
}

#[test]
fn a_repository_that_was_away_gets_everything() {
    let Some(scenario) = stage(18) else { return };
    let told = scenario.repository.take_away();
    let segments = fill_in_vain(&scenario);
    assert!(scenario.cluster.log().contains(told), "{}", scenario.cluster.log_tail());
    scenario.repository.bring_back();
    assert_caught_up(&scenario, &segments);
}

#[test]
fn a_panic_in_push_leaves_the_archiver_alive() {
    let Some(scenario) = stage(15) else { return };
    let archiver = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'archiver'";
    let pid = scenario.cluster.sql().number(archiver);
    let panicking =
        scenario.protected.server_command("archive_command", &["archive", "push", SOURCE, "%p"], "LIFEBOAT_PANIC_AT=push.start");
    scenario.cluster.configure([panicking]);
    let segments = fill_in_vain(&scenario);
    let log = scenario.cluster.log();
    assert!(log.contains("lifeboat ran into a bug of its own") && log.contains("exit code 1"), "{log}");
    assert_eq!(scenario.cluster.sql().number(archiver), pid, "the archiver died");
    scenario.cluster.configure([scenario.protected.archive_command(SOURCE)]);
    assert_caught_up(&scenario, &segments);
}
