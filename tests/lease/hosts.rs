//! Two hosts that can both back up one cluster, as in a cluster with failover.

use std::time::Duration;

use rustix::process::Signal;

use crate::support::lifeboat::Host;
use crate::support::listing::backups;
use crate::support::postgres::Options;
use crate::support::process::{self, Running};
use crate::support::scenario::{SOURCE, Scenario};

const FULL: [&str; 4] = ["backup", SOURCE, "--type", "full"];
const LONG: Duration = Duration::from_secs(120);

/// A cluster with two hosts, whose leases live for three seconds.
fn two_hosts() -> Option<(Scenario, Host)> {
    let scenario = Scenario::on(15, &Options { wal_segment_mib: 1, ..Options::default() })?;
    scenario.add_sections("[backup]\nlease_ttl_seconds = 3\n");
    scenario.full_backup();
    let other = scenario.protected.twin();
    Some((scenario, other))
}

/// Starts a full backup on the first host that cannot end before the archive works again.
fn stuck_backup(scenario: &Scenario) -> Running {
    scenario.cluster.configure(["archive_command = 'false'"]);
    let mut running = scenario.protected.start(&FULL);
    process::wait_until("the backup waits for its log", LONG, || {
        assert!(!running.has_ended(), "{}", running.stderr_so_far());
        running.stderr_so_far().contains("waiting for the log")
    });
    running
}

fn mend(scenario: &Scenario) {
    scenario.cluster.configure([scenario.protected.archive_command(SOURCE)]);
}

#[test]
fn two_hosts_never_back_up_at_once() {
    let Some((scenario, other)) = two_hosts() else { return };
    let first = stuck_backup(&scenario);
    // Longer than a lease lives: it is renewed.
    let began = std::time::Instant::now();
    process::wait_until("the lease would have run out", LONG, || began.elapsed() > Duration::from_secs(5));
    let host = lifeboat::engine::backup::host_name();
    other.run(&FULL).refuses(21, &["holds its lease", &host, "until", "--wait"]);
    let waiting = other.start(&[&FULL[..], &["--wait", "100s"]].concat());
    // The log is archived whoever has the lease.
    mend(&scenario);
    first.finish(LONG).success();
    waiting.finish(LONG).success();
    assert_eq!(backups(&scenario.protected).len(), 3);
    scenario.rescue.ok(&["verify", SOURCE]);
}

#[test]
fn a_killed_backup_on_another_host_is_waited_for_and_on_the_same_host_not() {
    let Some((scenario, other)) = two_hosts() else { return };
    scenario.protected.run_killed_at("backup.leased", &FULL).killed();
    other.run(&FULL).refuses(21, &["holds its lease"]);
    scenario.protected.ok(&FULL);
    scenario.protected.run_killed_at("backup.lease-checked", &FULL).killed();
    other.ok(&[&FULL[..], &["--wait", "100s"]].concat());
    assert_eq!(backups(&scenario.protected).len(), 3);
    // Without a lease nobody is waited for.
    scenario.protected.run_killed_at("backup.leased", &FULL).killed();
    other.ok(&[&FULL[..], &["--no-lease"]].concat());
}

#[test]
fn a_host_that_slept_through_its_lease_does_not_commit() {
    let Some((scenario, other)) = two_hosts() else { return };
    let first = stuck_backup(&scenario);
    first.signal(Signal::STOP);
    mend(&scenario);
    other.ok(&[&FULL[..], &["--wait", "100s"]].concat());
    let committed = backups(&scenario.protected);
    assert_eq!(committed.len(), 2);
    first.signal(Signal::CONT);
    first.finish(LONG).refuses(21, &["lease", "was lost"]);
    assert_eq!(backups(&scenario.protected), committed);
    // What it left is no backup, and spoils none, nor does somebody's scribbling, but it is told.
    let lease = format!("{SOURCE}/lease.json");
    let sound = scenario.repository.read(&lease);
    scenario.repository.write(&lease, "scribbled\n");
    assert!(scenario.rescue.run(&["verify", SOURCE]).exits(22).stdout.contains("keeps every backup out"));
    scenario.protected.run(&FULL).refuses(22, &["lease.json", "remove"]);
    scenario.repository.write(&lease, sound);
    scenario.rescue.ok(&["verify", SOURCE, "--deep"]);
    scenario.protected.ok(&FULL);
}

/// The worst moment: it has just made sure of its lease.
#[test]
fn a_host_that_sleeps_between_the_last_look_and_the_commit_is_fenced_off() {
    let Some((scenario, other)) = two_hosts() else { return };
    let mut command = scenario.protected.command(&FULL);
    command.env("LIFEBOAT_STOP_AT", "backup.lease-checked");
    let first = Running::start(command);
    process::wait_until("the first host sleeps", LONG, || is_stopped(first.pid()));
    other.ok(&[&FULL[..], &["--wait", "100s"]].concat());
    let committed = backups(&scenario.protected);
    assert_eq!(committed.len(), 2);
    first.signal(Signal::CONT);
    first.finish(LONG).refuses(21, &["cannot commit", "lease", "lost"]);
    assert_eq!(backups(&scenario.protected), committed);
    scenario.rescue.ok(&["verify", SOURCE, "--deep"]);
}

/// Whether a process is stopped by a signal.
fn is_stopped(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it has not ended");
    status.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
}
