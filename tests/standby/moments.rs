//! A standby that lags is ended at a moment, as a restore would be.

use std::time::Duration;

use super::stage::{Standby, lose_source, scenario};
use super::support::ledger::Ledger;
use super::support::majors::on_majors;
use super::support::postgres::RECOVERY_TIMEOUT;
use super::support::process;
use super::support::random;

on_majors! {
    a_standby_ends_at_a_moment: pg13 13, pg17 17;
}

fn a_standby_ends_at_a_moment(major: u32) {
    let Some(mut scenario) = scenario(major) else { return };
    let seed = random::seed("standby to a moment");
    let mut ledger = Ledger::create(&scenario.cluster, seed);
    scenario.full_backup();
    let delayed = Standby::start(&scenario, "delayed", &["--delay", "1h"], &[]);
    let begun = lifeboat::base::Timestamp::now();
    ledger.run(Duration::from_millis(1200));
    let oracle = ledger.oracle();
    lose_source(&mut scenario);
    let moment = oracle.pick_moments(1, begun..=*oracle.span().end(), &mut random::generator(seed, 1))[0];
    let document = delayed.promoted(&scenario, &["--to", &moment.rfc3339()]);
    assert_eq!((&document["way"], &document["timeline"]), (&"restart".into(), &2.into()), "{document}");
    oracle.assert_at(&mut delayed.cluster.sql(), moment);
    assert_eq!(delayed.cluster.sql().value("SHOW recovery_min_apply_delay"), "0");
}

/// What was replayed cannot be undone: refused before anything is touched, and the way to it shown.
#[test]
fn what_lies_behind_is_refused() {
    let Some(mut scenario) = scenario(15) else { return };
    scenario.cluster.sql().execute("CREATE TABLE kept (n int)");
    scenario.full_backup();
    scenario.cluster.sql().execute("SELECT pg_create_restore_point('early')");
    scenario.cluster.sql().execute("INSERT INTO kept VALUES (1)");
    let standby = Standby::start(&scenario, "standby", &[], &[]);
    let lsn = super::stage::archive(&scenario.cluster);
    standby.wait_replayed(&lsn);
    lose_source(&mut scenario);
    let pid = standby.pid();
    let refused = standby.promote(&scenario, &["--to-name", "early"]);
    refused.refuses(1, &["has already replayed beyond restore point 'early'", "reachable", "lifeboat restore orders --into"]);
    assert_eq!((standby.pid(), standby.in_recovery()), (pid, true));
}

/// The lag is lifted for a promotion to the end; a time that is up promotes nothing, and the standby lags again.
#[test]
fn a_lag_is_lifted_and_put_back() {
    let Some(mut scenario) = scenario(15) else { return };
    scenario.cluster.sql().execute("CREATE TABLE kept (n int)");
    scenario.full_backup();
    let starved = Standby::start(&scenario, "starved", &["--delay", "1h"], &[]);
    let delayed = Standby::start(&scenario, "delayed", &["--delay", "1h"], &[]);
    // From now on the first one is given no log: as if it took longer than anybody waits.
    starved.cluster.sql().execute("ALTER SYSTEM SET restore_command = 'false'");
    starved.cluster.sql().execute("SELECT pg_reload_conf()");
    process::wait_until("the configuration", RECOVERY_TIMEOUT, || starved.cluster.sql().value("SHOW restore_command") == "false");
    scenario.cluster.sql().execute("INSERT INTO kept VALUES (1)");
    lose_source(&mut scenario);
    let late = starved.promote(&scenario, &["--timeout", "2s"]);
    late.refuses(1, &["has not replayed what is archived within 2.0 s", "was not promoted", "would be lost", "--timeout 20s"]);
    assert!(starved.in_recovery());
    assert_eq!(starved.cluster.sql().value("SHOW recovery_min_apply_delay"), "1h");

    assert_eq!(delayed.cluster.sql().number("SELECT count(*) FROM kept"), 0);
    let document = delayed.promoted(&scenario, &[]);
    assert_eq!(document["way"], "signal");
    assert_eq!(delayed.cluster.sql().number("SELECT count(*) FROM kept"), 1);
}
