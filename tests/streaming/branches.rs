//! A promotion under a running stream: the branch is followed, and what was streamed before it is not left behind.

use std::time::Duration;

use rustix::process::Signal;

use super::support::postgres::{Cluster, RECOVERY_TIMEOUT};
use super::support::process;
use super::support::scenario::Scenario;
use super::{Writer, assert_same_log, last_row, scenario, stop_archiving, stream, wait_stored};

fn wait_replayed(primary: &Cluster, standby: &Cluster) {
    let flushed = primary.sql().value("SELECT pg_current_wal_flush_lsn()");
    let asked = format!("SELECT pg_last_wal_replay_lsn() >= '{flushed}'");
    process::wait_until("the standby's replay", RECOVERY_TIMEOUT, || standby.sql().value(&asked) == "t");
}

fn protect_instead(scenario: &Scenario, from: &Cluster, to: &Cluster) {
    let own = scenario.protected.configuration();
    scenario.protected.configure_text(&own.replace(&from.conninfo(), &to.conninfo()));
}

#[test]
fn a_stream_follows_a_promotion_onto_the_new_timeline() {
    let Some(mut scenario) = scenario(17) else { return };
    scenario.full_backup();
    stop_archiving(&scenario.cluster);
    let standby = scenario.standby(&[], &["hot_standby=on", "archive_command=false"]);
    let first = stream(&scenario, &scenario.cluster, "200ms");
    Writer::run(&scenario.cluster, Duration::from_millis(600));
    first.signal(Signal::TERM);
    first.finish(Duration::from_secs(60)).success();

    // Goes on from the standby, with a slot of its own there.
    protect_instead(&scenario, &scenario.cluster, &standby);
    let mut second = stream(&scenario, &standby, "200ms");
    Writer::run(&scenario.cluster, Duration::from_millis(600));
    wait_replayed(&scenario.cluster, &standby);
    let before = last_row(&scenario.cluster);
    scenario.cluster.kill9();
    standby.sql().execute("SELECT pg_promote()");
    process::wait_until("the promotion", RECOVERY_TIMEOUT, || standby.sql().value("SELECT pg_is_in_recovery()") == "f");
    Writer::run(&standby, Duration::from_millis(600));
    wait_stored(&standby, &mut second);
    println!("{}", second.stderr_so_far());
    let branch: String = standby.sql().value("SELECT split_part(pg_read_file('pg_wal/00000002.history'), E'\\t', 2)");
    let names = scenario.repository.names();
    assert!(names.iter().any(|key| key.contains("/00000002_from-00000001-")), "no history: {names:#?}");
    let first_of_branch = standby.sql().value(&format!("SELECT '00000002' || substr(pg_walfile_name('{branch}'), 9)"));
    assert_same_log(&scenario, &standby, &first_of_branch);

    let last = last_row(&standby);
    let restored = scenario.restore_and_start("latest", &["--to", "latest"]);
    assert!(last_row(&restored) == last && last > before, "{last} rows, {before} before the promotion");
    second.signal(Signal::TERM);
    second.finish(Duration::from_secs(60)).success();
}

/// What the archive has of a segment is less than what the standby has received itself: it keeps its own.
#[test]
fn a_standby_keeps_what_it_has_received_beyond_what_was_streamed() {
    let Some(mut scenario) = scenario(17) else { return };
    scenario.full_backup();
    stop_archiving(&scenario.cluster);
    let mut running = stream(&scenario, &scenario.cluster, "200ms");
    Writer::run(&scenario.cluster, Duration::from_millis(600));
    wait_stored(&scenario.cluster, &mut running);
    running.signal(Signal::TERM);
    running.finish(Duration::from_secs(60)).success();
    let mut standby = scenario.standby(&[], &["hot_standby=on", "archive_command=false"]);
    let streamed: String = scenario.cluster.sql().value("SELECT pg_walfile_name(pg_current_wal_lsn())");
    let mut sql = scenario.cluster.sql();
    let first = last_row(&scenario.cluster) + 1;
    (first..first + 5).for_each(|id| sql.execute(&format!("INSERT INTO kept VALUES ({id}, '')")));
    let names = scenario.repository.names();
    assert!(names.iter().any(|key| key.contains("/tail/") && key.contains(&format!("/{streamed}/"))), "{names:#?}");
    wait_replayed(&scenario.cluster, &standby);
    let before = last_row(&scenario.cluster);
    scenario.cluster.kill9();
    // Begins with what the archive gives.
    standby.kill9();
    standby.start();
    standby.sql().execute("SELECT pg_promote()");
    process::wait_until("the promotion", RECOVERY_TIMEOUT, || standby.sql().value("SELECT pg_is_in_recovery()") == "f");
    assert_eq!(last_row(&standby), before, "rows that were committed, of {first} and later");
}
