//! A cluster with a policy, and schedulers at work.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::lifeboat::Host;
use crate::support::listing::backups;
use crate::support::postgres::Options;
use crate::support::process::{self, Output, Running};
use crate::support::scenario::{SOURCE, Scenario};

pub const LONG: Duration = Duration::from_secs(120);

/// A full on New Year's Day: its slot has passed whenever the test runs, and no other comes while it does.
pub const MISSED_FULL: &str = "full = \"0 0 1 1 *\"";

/// A policy with this schedule.
pub fn policy(schedule: &str) -> String {
    format!("[objectives]\nrto = \"30min\"\nrpo = \"15min\"\n\n[schedule]\n{schedule}\n")
}

/// A cluster whose source has a policy with this schedule; `sections` are added to the configuration.
pub fn scheduled(schedule: &str, sections: &str) -> Option<Scenario> {
    let scenario = Scenario::on(15, &Options { wal_segment_mib: 1, ..Options::default() })?;
    scenario.protected.write("p.toml", &policy(schedule));
    let file = scenario.protected.dir().join("p.toml");
    let with_policy = format!("kind = \"postgres\"\npolicy = \"{}\"", file.display());
    let text = scenario.protected.configuration().replace("kind = \"postgres\"", &with_policy);
    scenario.protected.configure_text(&format!("{text}\n{sections}"));
    Some(scenario)
}

/// Waits until the scheduler's log says `words`.
#[track_caller]
pub fn wait_said(running: &mut Running, words: &str) {
    process::wait_until(words, LONG, || {
        let said = running.stderr_so_far().contains(words);
        assert!(said || !running.has_ended(), "{}", running.stderr_so_far());
        said
    });
}

/// Asks the scheduler to stop, and waits for its clean end.
#[track_caller]
pub fn stop(mut running: Running) -> Output {
    // Before that a signal ends it without a word.
    wait_said(&mut running, "started, with");
    running.signal(Signal::TERM);
    running.finish(LONG).success()
}

/// Waits until this host knows that the slot of `job` needs no run: it ran it, or saw that another did.
#[track_caller]
pub fn wait_settled(host: &Host, job: &str) {
    process::wait_until("the slot is settled", LONG, || events(host, job).iter().any(is_settled));
}

fn is_settled(event: &Value) -> bool {
    event["event"] == "elsewhere" || event["settled"] == true
}

/// What this host's scheduler recorded of `job`.
pub fn events(host: &Host, job: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(host.state_dir().join("run.jsonl")).unwrap_or_default();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["job"] == job).collect()
}

/// Claims and ends of `job` in the repository.
pub fn claims(scenario: &Scenario, job: &str) -> Vec<String> {
    scenario.repository.names_below(&format!("{SOURCE}/run/{job}/"))
}

/// Asserts that there is one backup, sound, and as many attempts at `job` as said, the last of which came to its end.
#[track_caller]
pub fn assert_one_backup(scenario: &Scenario, attempts: usize) {
    let found = backups(&scenario.protected);
    assert_eq!(found.len(), 1, "{found:?}");
    scenario.rescue.ok(&["verify", SOURCE]);
    let claims = claims(scenario, "full");
    assert_eq!(claims.iter().filter(|name| !name.ends_with(".end.json")).count(), attempts, "{claims:?}");
}
