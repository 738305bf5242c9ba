//! Drills of a database: restored as it would be in a disaster, looked at by SQLite and by the policy's queries, timed, gone.

use std::fs;

use crate::support::dirs;
use crate::world::{SOURCE, World, insert};

const POLICY: &str = "[objectives]\nrto = '1h'\nrpo = '1h'\n[schedule]\nfull = '@yearly'\n[log]\nmode = 'stream'\n\
                      [retention]\nkeep_for = '2y'\n[copies]\nlog = 1\nbackup = 1\n[drill]\nlevels = ['component']\n\
                      [[drill.check]]\nname = 'ten rows'\nsql = 'SELECT count(*) FROM t'\nat_least = 10\n";

/// A database with ten rows in a backup and five more in its log, and a policy that wants ten.
fn drillable() -> World {
    let world = World::with("policy = \"own\"\n");
    for host in [&world.host, &world.rescue] {
        fs::create_dir_all(host.dir().join("policies")).unwrap();
        fs::write(host.dir().join("policies/own.toml"), POLICY).unwrap();
        dirs::give_tree(&host.dir().join("policies"));
    }
    let program = world.program();
    (1..=10).for_each(|n| insert(&program, n));
    let mut following = world.follow("100ms");
    following.until("the log is followed", || !world.repository.names_below(&format!("{SOURCE}/commit/")).is_empty());
    (11..=15).for_each(|n| insert(&program, n));
    following.until("the log has the last rows", || !world.segments().is_empty());
    following.end();
    world
}

#[test]
fn a_database_is_rehearsed_with_its_log_and_asked_what_the_policy_asks() {
    let world = drillable();
    let report = world.rescue.json(&["drill", SOURCE]);
    let evidence = &report["evidence"];
    assert_eq!(evidence["outcome"], "passed", "{report:#}");
    let checks: Vec<(&str, bool)> = evidence["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|check| (check["name"].as_str().unwrap(), check["passed"].as_bool().unwrap()))
        .collect();
    assert_eq!(checks, [("integrity_check", true), ("ten rows", true)], "{report:#}");
    assert!(evidence["rto_seconds"].as_f64().unwrap() > 0.0, "{report:#}");
    let left = fs::read_dir(world.rescue.state_dir().join("scratch")).map_or(0, Iterator::count);
    assert_eq!(left, 0, "nothing is left");
}

#[test]
fn a_moment_in_which_too_little_was_there_fails() {
    let world = drillable();
    let connection = world.connect();
    connection.execute("DELETE FROM t WHERE n > 3", []).unwrap();
    world.backup("incr");
    let failed = world.rescue.run(&["drill", SOURCE, "--output", "json"]).exits(1);
    let report: serde_json::Value = serde_json::from_str(&failed.stdout).unwrap_or_else(|error| panic!("{error}\n{failed}"));
    assert_eq!(
        (&report["evidence"]["outcome"], &report["evidence"]["rto_seconds"]),
        (&"failed".into(), &serde_json::Value::Null)
    );
    assert!(report["evidence_key"].is_string(), "it is on record: {report:#}");
}
