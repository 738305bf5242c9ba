//! Moments at which nothing happened.

use std::time::Duration;

use lifeboat::base::Timestamp;

use super::support::ledger::Ledger;
use super::support::majors::on_majors;
use super::support::process;
use super::support::random;
use super::{archive, assert_says, plan, refused, scenario};

on_majors! {
    idle_moments_come_back: pg14 14, pg15 15;
}

/// Long enough for a checkpoint's time, which has whole seconds, to fall into it.
const IDLE: Duration = Duration::from_millis(2200);

/// Between two bursts; after the last commit, up to a restore point or a checkpoint; and not beyond.
fn idle_moments_come_back(major: u32) {
    let Some(scenario) = scenario(major, 1) else { return };
    let seed = random::seed("idle");
    let mut ledger = Ledger::create(&scenario.cluster, seed);
    scenario.full_backup();
    let mut moments = Vec::new();
    for _ in 0..2 {
        ledger.run(Duration::from_millis(700));
        let last = Timestamp::now();
        std::thread::sleep(IDLE);
        moments.push(last.plus(IDLE / 3));
        moments.push(last.plus(IDLE / 2));
    }
    let oracle = ledger.oracle();
    archive(&scenario.cluster);
    let said = refused(&scenario, &["--to", &moments[2].rfc3339()]);
    assert_says(&said, &["the archived log does not reach it", "waiting for", "(not archived yet)", "nearest"]);

    scenario.cluster.sql().execute("SELECT pg_create_restore_point('idle')");
    let beyond = Timestamp::now();
    archive(&scenario.cluster);
    for (number, moment) in moments.iter().enumerate() {
        let restored = scenario.restore_and_start(&format!("idle-{number}"), &["--to", &moment.rfc3339()]);
        oracle.assert_at(&mut restored.sql(), *moment);
    }
    refused(&scenario, &["--to", &beyond.rfc3339()]);

    process::wait_until("the next second", IDLE, || Timestamp::now().since(beyond) > Duration::from_millis(1100));
    scenario.cluster.sql().execute("CHECKPOINT");
    archive(&scenario.cluster);
    // No transaction ends after it: everything archived belongs to it.
    let plan = plan(&scenario, &["--to", &beyond.rfc3339()]);
    assert_eq!((&plan["stop_inclusive"], &plan["first_left_out"]), (&true.into(), &serde_json::Value::Null));
    let restored = scenario.restore_and_start("after-checkpoint", &["--to", &beyond.rfc3339()]);
    oracle.assert_tables(&mut restored.sql(), &oracle.rows_at_end(), "after the last commit");
}
