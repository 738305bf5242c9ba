//! A primary that archives, and standbys that follow.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::support::postgres::{Cluster, Options, RECOVERY_TIMEOUT, Stop};
use super::support::process::{self, Output};
use super::support::scenario::{SOURCE, Scenario};
use rustix::process::Signal;

/// Small segments, and a standby that asks for the next one at once.
pub fn scenario(major: u32) -> Option<Scenario> {
    let options = Options { wal_segment_mib: 1, ..Options::default() }.with("wal_retrieve_retry_interval = 200ms");
    Scenario::on(major, &options)
}

/// A standby: its directory, and its server as the test started it. Whoever promotes it may start another one there.
pub struct Standby {
    pub data: PathBuf,
    pub cluster: Cluster,
}

impl Standby {
    /// Restored, and started with these settings of its own.
    #[track_caller]
    pub fn start(scenario: &Scenario, name: &str, arguments: &[&str], overrides: &[&str]) -> Self {
        let data = scenario.restore(name, &[&["--standby"], arguments].concat());
        Self::open(scenario, data, overrides)
    }

    /// In a directory that is a standby already.
    #[track_caller]
    pub fn open(scenario: &Scenario, data: PathBuf, overrides: &[&str]) -> Self {
        let cluster = Cluster::open(&scenario.cluster.installation, &data);
        let mut cluster = overrides.iter().fold(cluster, |cluster, setting| cluster.with_override(*setting));
        cluster.start();
        Self { data, cluster }
    }

    /// `lifeboat promote` for it, on its own host.
    pub fn promote(&self, scenario: &Scenario, arguments: &[&str]) -> Output {
        let dir = self.data.display().to_string();
        promote(scenario, &[&["--dir", &dir], arguments].concat())
    }

    /// [`Standby::promote`], which must succeed: its document.
    #[track_caller]
    pub fn promoted(&self, scenario: &Scenario, arguments: &[&str]) -> Value {
        let output = self.promote(scenario, &[arguments, &["--output", "json"]].concat()).success();
        let document: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}\n{output}"));
        assert_eq!((&document["done"], self.in_recovery()), (&Value::Bool(true), false), "{document}");
        assert!(!self.data.join("lifeboat-standby.json").exists(), "its marker is still there");
        document
    }

    /// Whether its server follows; it must answer.
    #[track_caller]
    pub fn in_recovery(&self) -> bool {
        self.cluster.sql().value("SELECT pg_is_in_recovery()") == "t"
    }

    /// Waits until it has replayed everything that `scenario`'s cluster has written by now, which is archived.
    #[track_caller]
    pub fn wait_replayed(&self, lsn: &str) {
        process::wait_until(&format!("replay of {lsn}"), RECOVERY_TIMEOUT, || {
            self.cluster.sql().value(&format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'")) == "t"
        });
    }

    /// The process that leads the server which runs there now, whoever started it.
    pub fn pid(&self) -> Option<u32> {
        pid_of(&self.data)
    }
}

/// `lifeboat promote`, on the host of the standbys.
pub fn promote(scenario: &Scenario, arguments: &[&str]) -> Output {
    let mut command = scenario.rescue.command(&[&["promote", SOURCE], arguments].concat());
    // The server's own programs are those of its last start; what never ran has none.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let bin = scenario.cluster.installation.bin.clone();
    let path = std::env::join_paths(std::iter::once(bin).chain(std::env::split_paths(&path))).expect("plain paths");
    command.env("PATH", path);
    process::run(command, RECOVERY_TIMEOUT)
}

impl Drop for Standby {
    fn drop(&mut self) {
        // A promotion starts a server that is no child of this test.
        if let Some(pid) = self.pid().filter(|pid| Some(*pid) != self.cluster.pid()) {
            process::signal_pid(pid, Signal::QUIT);
            process::wait_until("the promoted server ends", RECOVERY_TIMEOUT, || !process::is_alive(pid));
        }
    }
}

/// From `postmaster.pid`, borne out by the process's working directory.
fn pid_of(data: &Path) -> Option<u32> {
    let text = std::fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let pid: u32 = text.lines().next()?.trim().parse().ok()?;
    let works_in = std::fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
    (works_in == std::fs::canonicalize(data).ok()?).then_some(pid)
}

/// Closes the segment and waits until it is archived; the position up to which everything is.
#[track_caller]
pub fn archive(cluster: &Cluster) -> String {
    let lsn = cluster.sql().value("SELECT pg_create_restore_point('archived')");
    let segment = cluster.switch_wal();
    cluster.wait_archived(&segment, RECOVERY_TIMEOUT);
    lsn
}

/// The disaster, such that nothing is lost: a server that is shut down archives what it has.
#[track_caller]
pub fn lose_source(scenario: &mut Scenario) {
    archive(&scenario.cluster);
    scenario.cluster.stop(Stop::Fast);
}
