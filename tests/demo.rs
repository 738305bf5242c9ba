//! The first command of the README: it ends well, brings everything back, and leaves nothing behind.

mod support;

use std::process::Command;

use serde_json::Value;
use support::dirs::Dir;
use support::postgres::Installation;

/// Plays the demo in a temporary directory of its own; its document, and what is left there.
fn play(arguments: &[&str]) -> (Value, usize) {
    let dir = Dir::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
    let output = command.args(["--output", "json", "demo"]).args(arguments).env("TMPDIR", dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let left = std::fs::read_dir(dir.path()).unwrap().count();
    (serde_json::from_slice(&output.stdout).unwrap(), left)
}

fn assert_all_is_back(told: &Value, engine: &str) {
    assert!(told["engine"].as_str().unwrap().starts_with(engine), "{told}");
    let (before, after) = (told["entries_before"].as_i64().unwrap(), told["entries_after"].as_i64().unwrap());
    assert!(before > 0 && before == after && told["lost_entries"] == 0, "{told}");
    assert_eq!(before, 2 * told["transactions"].as_i64().unwrap(), "{told}");
    assert!(told["recovery_time_seconds"].as_f64().unwrap() > 0.0, "{told}");
}

#[test]
fn on_sqlite_it_needs_nothing_else() {
    let (told, left) = play(&[]);
    assert_all_is_back(&told, "SQLite 3.");
    assert!(told["drilled_seconds"].as_f64().unwrap() > 0.0, "{told}");
    assert_eq!(left, 0, "it cleans up");
}

#[test]
fn on_a_cluster_it_is_the_same_story() {
    if Installation::require(15).is_none() {
        return;
    }
    let (told, left) = play(&["--engine", "postgres"]);
    assert_all_is_back(&told, "PostgreSQL ");
    assert_eq!(left, 0, "it cleans up");
}
