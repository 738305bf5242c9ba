//! SIGKILL at every named point of a promotion: the same command goes on, and ends where the first one would have.

use super::stage::{Standby, lose_source, scenario};
use super::support::process;

/// The points, in the order in which a promotion with a restart passes them.
const POINTS: [&str; 5] = ["promote.begun", "promote.stopped", "promote.retargeted", "promote.started", "promote.promoted"];

#[test]
fn every_point_is_one_of_these() {
    let all = lifeboat::base::killpoint::ALL.iter().filter(|point| point.starts_with("promote."));
    assert!(all.eq(POINTS.iter()));
}

#[test]
fn a_killed_promotion_goes_on() {
    let Some(mut scenario) = scenario(15) else { return };
    scenario.cluster.sql().execute("CREATE TABLE kept (n int)");
    scenario.full_backup();
    for (number, name) in ["one", "two"].iter().enumerate() {
        let sql = format!("INSERT INTO kept VALUES ({number})");
        scenario.cluster.sql().execute(&sql);
        scenario.cluster.sql().execute(&format!("SELECT pg_create_restore_point('{name}')"));
    }
    lose_source(&mut scenario);
    for point in POINTS {
        let name = point.replace('.', "-");
        let standby = Standby::start(&scenario, &name, &["--delay", "1h"], &["archive_mode=off"]);
        let dir = standby.data.display().to_string();
        let arguments = ["promote", "--dir", &dir, "--to-name", "one"];
        scenario.rescue.run_killed_at(point, &arguments).killed();
        if point == "promote.retargeted" || point == "promote.promoted" {
            let other = scenario.rescue.run(&["promote", "--dir", &dir, "--to-name", "two"]);
            other.refuses(1, &["is under way to another target", "restore point 'one'"]);
        }
        let document = standby.promoted(&scenario, &["--to-name", "one"]);
        assert_eq!(document["timeline"], 2, "{point}: {document}");
        assert_eq!(standby.cluster.sql().value("SELECT string_agg(n::text, ',') FROM kept"), "0", "{point}");
    }
}

/// Told to promote, and nobody there to see it done.
#[test]
fn a_promotion_without_a_restart_is_concluded_by_the_next() {
    let Some(mut scenario) = scenario(15) else { return };
    scenario.cluster.sql().execute("CREATE TABLE kept AS SELECT 1 AS n");
    scenario.full_backup();
    lose_source(&mut scenario);
    for point in ["promote.begun", "promote.promoted"] {
        let standby = Standby::start(&scenario, &point.replace('.', "-"), &[], &["archive_mode=off"]);
        let dir = standby.data.display().to_string();
        scenario.rescue.run_killed_at(point, &["promote", "--dir", &dir]).killed();
        if point == "promote.promoted" {
            process::wait_until("writes", super::support::postgres::RECOVERY_TIMEOUT, || !standby.in_recovery());
        }
        standby.promoted(&scenario, &[]);
        assert_eq!(standby.cluster.sql().number("SELECT count(*) FROM kept"), 1);
    }
}
