//! The prediction against a real drill of a database that has grown tenfold since the last one.

use std::ffi::OsString;
use std::fs;
use std::time::Duration;

use serde_json::Value;

use crate::stage::{Stage, has_reason};
use crate::support::process;
use crate::support::scenario::SOURCE;

/// How far the two may be apart: a quarter on a machine that does nothing else (`LIFEBOAT_TEST_QUIET=1`), more while
/// other tests run.
fn tolerance() -> f64 {
    if std::env::var_os("LIFEBOAT_TEST_QUIET").is_some() { 1.25 } else { 2.5 }
}

const DRILL_TIMEOUT: Duration = Duration::from_secs(180);

/// Adds so many copies of what nothing can compress, 6 MiB each, and a full backup with everything archived.
fn grow(stage: &mut Stage, copies: u32) {
    stage.sql.execute(&format!("INSERT INTO filler SELECT payload FROM seed, generate_series(1, {copies})"));
    stage.scenario.full_backup();
    stage.scenario.archive_now();
}

/// Drills on the host that restores; what it measured.
fn drill(stage: &Stage) -> f64 {
    let mut command = stage.scenario.rescue.command(&["drill", SOURCE, "--level", "component", "--output", "json"]);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = stage.scenario.cluster.installation.bin.clone();
    let path: OsString = std::env::join_paths(std::iter::once(own).chain(std::env::split_paths(&path))).expect("plain paths");
    command.env("PATH", path);
    let output = process::run(command, DRILL_TIMEOUT).success();
    let document: Value = serde_json::from_str(&output.stdout).expect("JSON");
    println!("{:#}", document["evidence"]["phases"]);
    document["evidence"]["rto_seconds"].as_f64().expect("measured")
}

#[test]
fn two_drills_predict_the_third_on_a_database_grown_tenfold() {
    let policy = "rpo = \"10min\"\nrto = \"10min\"\n[[drill.check]]\nsql = \"SELECT count(*) FROM filler\"\nat_least = 1";
    let Some(mut stage) = Stage::with_segments(16, policy) else { return };
    let signing = fs::read_to_string(stage.host().dir().join("signing.key")).expect("own file");
    let signing = stage.scenario.rescue.write("signing.key", &signing);
    stage.scenario.rescue.append_configuration(&format!("[signing]\nkey_file = \"{}\"", signing.display()));
    stage.sql.execute(
        "CREATE TABLE filler (payload text);
         CREATE TABLE seed AS SELECT string_agg(md5(random()::text), '') AS payload
         FROM generate_series(1, 20000) n, generate_series(1, 8) m GROUP BY n",
    );
    for copies in [1, 2] {
        grow(&mut stage, copies);
        drill(&stage);
    }
    grow(&mut stage, 48);
    let status = stage.status();
    let predicted = status["rto"]["predicted_seconds"].as_f64().expect("predicted");
    assert!(!has_reason(&status, "stale_drill") && has_reason(&status, "key"), "a file at hand proves no key: {status:#}");
    let real = drill(&stage);
    println!("predicted {predicted:.2} s, measured {real:.2} s: {:+.0} %\n{:#}", (predicted / real - 1.0) * 100.0, status["rto"]);
    assert!(
        (1.0 / tolerance()..tolerance()).contains(&(predicted / real)),
        "predicted {predicted}, measured {real}: {:#}",
        status["rto"]
    );
}
