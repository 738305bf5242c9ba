//! A small archived cluster with a canary, and a host that drills it: it has the identity and a signing key.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::support::postgres::Options;
use crate::support::process::{self, Output, Running};
use crate::support::scenario::{SOURCE, Scenario};

/// What a policy must say.
pub const OBJECTIVES: &str = "[objectives]\nrto = \"30min\"\nrpo = \"15min\"\n";

/// Two queries that hold of the stage's database, one of which a wrong amount breaks.
pub const CHECKS: &str = "[[drill.check]]
name = \"the ledger is balanced\"
sql = \"SELECT sum(amount) FROM ledger\"
expect = \"0\"
[[drill.check]]
name = \"the canary lives\"
sql = \"SELECT max(booked) FROM ledger\"
fresh_within = \"1h\"
";

/// See the module's header.
pub struct Stage {
    pub scenario: Scenario,
}

impl Stage {
    /// With rows before and after a full backup, all of them archived; none when that PostgreSQL is missing.
    #[track_caller]
    pub fn start(major: u32) -> Option<Self> {
        let stage = Self::without_backup(major, &Options { wal_segment_mib: 1, ..Options::default() })?;
        stage.scenario.full_backup();
        stage.book(20);
        stage.scenario.archive_now();
        Some(stage)
    }

    /// Before the first backup; with a policy of [`OBJECTIVES`] and [`CHECKS`].
    #[track_caller]
    pub fn without_backup(major: u32, options: &Options) -> Option<Self> {
        let scenario = Scenario::on(major, options)?;
        let space = scenario.cluster.dir().create_dir("space");
        scenario.cluster.sql().execute(&format!("CREATE TABLESPACE space LOCATION '{}'", space.display()));
        scenario.cluster.sql().execute(
            "CREATE TABLE far TABLESPACE space AS SELECT n FROM generate_series(1, 100) AS n;
             CREATE TABLE ledger (id bigserial PRIMARY KEY, amount bigint NOT NULL, note text, booked timestamptz DEFAULT clock_timestamp())",
        );
        let stage = Self { scenario };
        stage.book(200);
        let host = &stage.scenario.rescue;
        let signing = fs::read_to_string(stage.scenario.protected.dir().join("signing.key")).expect("own file");
        let signing = host.write("signing.key", &signing);
        let text = host.configuration().replace("kind = \"postgres\"\n", "kind = \"postgres\"\npolicy = \"gold\"\n");
        host.configure_text(&format!("{text}\n[signing]\nkey_file = \"{}\"\n", signing.display()));
        host.dir().create_dir("policies");
        stage.policy(&format!("{OBJECTIVES}{CHECKS}"));
        Some(stage)
    }

    /// Says what the policy is from now on.
    pub fn policy(&self, text: &str) {
        self.scenario.rescue.dir().write("policies/gold.toml", text);
    }

    /// Commits pairs of entries that add up to zero, each pair by itself.
    pub fn book(&self, pairs: u32) {
        let mut sql = self.scenario.cluster.sql();
        (0..pairs).for_each(|n| {
            sql.execute(&format!("INSERT INTO ledger (amount, note) VALUES ({n}, 'to'), (-{n}, 'from')"));
        });
    }

    /// `lifeboat drill orders …`, with the cluster's own PostgreSQL first on its path.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.scenario.rescue.command(&[&["drill", SOURCE], arguments].concat());
        let path = std::env::var_os("PATH").unwrap_or_default();
        let own = self.scenario.cluster.installation.bin.clone();
        let path: OsString = std::env::join_paths(std::iter::once(own).chain(std::env::split_paths(&path))).expect("plain paths");
        command.env("PATH", path);
        command
    }

    /// Drills to the end.
    #[track_caller]
    pub fn drill(&self, arguments: &[&str]) -> Output {
        process::run(self.command(arguments), std::time::Duration::from_secs(180))
    }

    /// Drills to the end, which must exit with `code`; the document. Nothing may be left.
    #[track_caller]
    pub fn json(&self, arguments: &[&str], code: i32) -> Value {
        let output = self.drill(&[arguments, &["--output", "json"]].concat()).exits(code);
        self.assert_nothing_left();
        serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("no JSON: {error}\n{output}"))
    }

    /// Starts a drill.
    pub fn start_drill(&self, arguments: &[&str]) -> Running {
        Running::start(self.command(arguments))
    }

    /// Where drills restore unless they are told otherwise.
    pub fn scratch(&self) -> PathBuf {
        self.scenario.rescue.state_dir().join("scratch")
    }

    /// The scratch directories that are there.
    pub fn scenes(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.scratch()).map(|entries| entries.map(|entry| entry.expect("readable").path()).collect());
        entries.unwrap_or_default()
    }

    /// No scratch directory, no record of one, and no key in memory.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        assert_eq!(self.scenes(), Vec::<PathBuf>::new());
        let records = fs::read_dir(self.scenario.rescue.state_dir().join("drills"));
        assert_eq!(records.map(Iterator::count).unwrap_or_default(), 0, "records of scenes");
    }

    /// The keys of the stored evidence.
    pub fn stored_evidence(&self) -> Vec<String> {
        let mut keys = self.scenario.repository.names_below(&format!("{SOURCE}/drill/"));
        keys.sort();
        keys
    }
}

/// The checks of a drill by name, and whether they passed.
pub fn checks(document: &Value) -> Vec<(String, bool)> {
    let checks = document["evidence"]["checks"].as_array().expect("a list");
    checks
        .iter()
        .map(|check| (check["name"].as_str().expect("text").to_owned(), check["passed"].as_bool().expect("a truth")))
        .collect()
}
