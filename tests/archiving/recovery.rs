//! Recovering servers whose `restore_command` fails: they stop, never promote, and reach everything once it works.

use crate::stage::{ROWS, Stage, rows};
use crate::support::postgres::{Cluster, RECOVERY_TIMEOUT, Stop};
use crate::support::process;

/// Exit codes of a `restore_command` that PostgreSQL takes for the end of the log.
const END_OF_LOG: [u8; 5] = [1, 2, 20, 101, 125];

/// Starts the server with each trouble in turn for files that match `pattern`: it must stop without promoting.
#[track_caller]
fn assert_stops(stage: &Stage, name: &str, cluster: &mut Cluster, pattern: &str) {
    for trouble in stage.troubles() {
        stage.fetch_with(name, pattern, &trouble.command);
        let told_before = cluster.log().len();
        cluster.launch();
        let (code, log) = cluster.wait_exit(RECOVERY_TIMEOUT);
        let log = &log[told_before..];
        assert_ne!(code, Some(0), "{}: {log}", trouble.name);
        assert!(log.contains("FATAL:  could not restore file"), "{}: {log}", trouble.name);
        assert!(log.contains(trouble.says), "{}: {log}", trouble.name);
        assert!(!log.contains("archive recovery complete"), "{}: {log}", trouble.name);
        assert!(!cluster.data.join("pg_wal/00000003.history").exists(), "{}", trouble.name);
    }
}

fn recovery_waits_for_the_archive(major: u32) {
    let Some(stage) = Stage::start(major) else { return };
    let mut cluster = stage.recovering("recovery", "1");
    assert_stops(&stage, "recovery", &mut cluster, &stage.segments[1]);
    stage.fetch_with("recovery", "nothing", "exit 255");
    cluster.launch();
    cluster.wait_recovered(RECOVERY_TIMEOUT);
    assert_eq!(rows(&cluster), (1..=ROWS).collect::<Vec<_>>());
}

#[test]
fn recovery_waits_for_the_archive_13() {
    recovery_waits_for_the_archive(13);
}

#[test]
fn recovery_waits_for_the_archive_18() {
    recovery_waits_for_the_archive(18);
}

#[test]
fn recovery_waits_for_a_history_file() {
    let Some(stage) = Stage::start(15) else { return };
    let mut cluster = stage.recovering("history", "latest");
    assert_stops(&stage, "history", &mut cluster, "*.history");
    stage.fetch_with("history", "nothing", "exit 255");
    cluster.launch();
    cluster.wait_recovered(RECOVERY_TIMEOUT);
    assert_eq!(rows(&cluster), (1..=ROWS + 1).collect::<Vec<_>>());
}

#[test]
fn a_standby_waits_for_the_archive() {
    let Some(stage) = Stage::start(15) else { return };
    let mut cluster = stage.recovering("standby", "latest");
    std::fs::rename(cluster.data.join("recovery.signal"), cluster.data.join("standby.signal")).expect("own directory");
    assert_stops(&stage, "standby", &mut cluster, &stage.segments[1]);
    stage.fetch_with("standby", "nothing", "exit 255");
    cluster.start();
    let all: Vec<_> = (1..=ROWS + 1).collect();
    process::wait_until("the standby replays everything", RECOVERY_TIMEOUT, || rows(&cluster) == all);
    assert_eq!(cluster.sql().value("SELECT pg_is_in_recovery()"), "t");
    cluster.stop(Stop::Fast);
}

/// Why every failure is 255: with any of these codes PostgreSQL opens a cluster that lacks committed rows.
#[test]
fn other_exit_codes_would_lose_rows() {
    let Some(stage) = Stage::start(15) else { return };
    for code in END_OF_LOG {
        let name = format!("promoted-by-{code}");
        let mut cluster = stage.recovering(&name, "1");
        stage.fetch_with(&name, &stage.segments[1], &format!("exit {code}"));
        cluster.launch();
        cluster.wait_recovered(RECOVERY_TIMEOUT);
        assert_eq!(rows(&cluster), [1], "exit code {code} no longer ends recovery: is 255 still the right one?");
    }
    let mut cluster = stage.recovering("lost-timeline", "latest");
    stage.fetch_with("lost-timeline", "*.history", "exit 1");
    cluster.launch();
    cluster.wait_recovered(RECOVERY_TIMEOUT);
    assert_eq!(rows(&cluster), (1..=ROWS).collect::<Vec<_>>(), "the other timeline is silently lost");
}
