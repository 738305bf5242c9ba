//! Restores across promotions, back onto abandoned timelines, on idle servers, and the refusals of what cannot be reached.

#[path = "../support/mod.rs"]
mod support;

mod activity;
mod idle;
mod promotions;
mod refusals;
mod standby;

use std::fs;

use std::time::Duration;

use lifeboat::base::{Lsn, Timestamp};
use serde_json::Value;

use support::ledger::{Ledger, LoadOptions};
use support::postgres::{Cluster, Options, RECOVERY_TIMEOUT};
use support::process;
use support::scenario::{SOURCE, Scenario};

/// A backup as `list` shows it.
#[derive(Clone, Debug)]
pub struct Backup {
    /// Its id.
    pub id: String,
    /// Where it was taken.
    pub timeline: u64,
    /// When it began.
    pub start_time: Timestamp,
    /// When it ended.
    pub stop_time: Timestamp,
    /// Where it is consistent.
    pub stop_lsn: Lsn,
}

/// A running scenario of `major`; `None`, said aloud, when that major is missing.
pub fn scenario(major: u32, wal_segment_mib: u32) -> Option<Scenario> {
    Scenario::on(major, &Options { wal_segment_mib, ..Options::default() })
}

/// Every backup, oldest first.
#[track_caller]
pub fn backups(scenario: &Scenario) -> Vec<Backup> {
    let list = scenario.rescue.json(&["list", SOURCE]);
    let backups = list["repositories"][0]["sources"][0]["incarnations"][0]["backups"].as_array().expect("backups");
    let text = |backup: &Value, name: &str| backup[name].as_str().unwrap_or_else(|| panic!("no {name}: {backup}")).to_owned();
    let read = |backup: &Value| Backup {
        id: text(backup, "id"),
        timeline: backup["timeline"].as_u64().expect("a timeline"),
        start_time: time(&text(backup, "start_time")),
        stop_time: time(&text(backup, "stop_time")),
        stop_lsn: text(backup, "stop_lsn").parse().expect("an LSN"),
    };
    backups.iter().map(read).collect()
}

/// A time as Lifeboat and the tests write it.
#[track_caller]
pub fn time(text: &str) -> Timestamp {
    Timestamp::parse_human(text, Timestamp::now()).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// The plan of a restore, from a dry run.
#[track_caller]
pub fn plan(scenario: &Scenario, arguments: &[&str]) -> Value {
    let into = scenario.restored.join("planned").display().to_string();
    let plan = scenario.rescue.json(&[&["restore", SOURCE, "--into", &into, "--dry-run"], arguments].concat());
    assert!(!scenario.restored.join("planned").exists(), "a dry run touched the target");
    plan
}

/// A restore that must be refused with exit code 1 before anything is written; returns what it said.
#[track_caller]
pub fn refused(scenario: &Scenario, arguments: &[&str]) -> String {
    let into = scenario.restored.join("refused");
    let into_text = into.display().to_string();
    let output = scenario.rescue.run(&[&["restore", SOURCE, "--into", &into_text], arguments].concat()).exits(1);
    assert!(!into.exists(), "{arguments:?} was refused, but {} is there", into.display());
    assert_eq!(output.stdout, "", "{arguments:?}");
    println!("{arguments:?}\n{}", output.stderr);
    output.stderr
}

/// Fails the test unless `text` has every one of `parts`, in that order.
#[track_caller]
pub fn assert_says(text: &str, parts: &[&str]) {
    let mut rest = text;
    for part in parts {
        let at = rest.find(part).unwrap_or_else(|| panic!("'{part}' is missing, or not in its place, in:\n{text}"));
        rest = &rest[at + part.len()..];
    }
}

/// Runs a load for `duration`, then closes and archives the segment.
#[track_caller]
pub fn load_and_archive(cluster: &Cluster, ledger: &mut Ledger, duration: Duration) {
    let load = ledger.start(LoadOptions::default());
    std::thread::sleep(duration);
    load.stop();
    // Every moment that is picked lies before a commit.
    ledger.commit_one();
    archive(cluster);
}

/// Closes the present segment and waits until it is archived; returns its name.
#[track_caller]
pub fn archive(cluster: &Cluster) -> String {
    let segment = cluster.switch_wal();
    cluster.wait_archived(&segment, RECOVERY_TIMEOUT);
    segment
}

/// Has the protected host look after `to` from now on, under the same name.
pub fn protect_instead(scenario: &Scenario, from: &Cluster, to: &Cluster) {
    let text = fs::read_to_string(&scenario.protected.config).expect("own file");
    assert!(text.contains(&from.conninfo()), "{text}");
    scenario.protected.configure_text(&text.replace(&from.conninfo(), &to.conninfo()));
}

/// Keys of the repository's objects whose file name begins with `start`.
pub fn objects(scenario: &Scenario, start: &str) -> Vec<String> {
    let file_name = |key: &str| key.rsplit('/').next().is_some_and(|name| name.starts_with(start));
    scenario.repository.names().into_iter().filter(|key| file_name(key)).collect()
}

/// Waits until an object whose file name begins with `start` is in the repository.
#[track_caller]
pub fn wait_for_object(scenario: &Scenario, start: &str) {
    process::wait_until(start, RECOVERY_TIMEOUT, || !objects(scenario, start).is_empty());
}

/// The timeline that a running cluster writes.
#[track_caller]
pub fn timeline_of(cluster: &Cluster) -> i64 {
    cluster.sql().number("SELECT ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int")
}
