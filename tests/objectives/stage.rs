//! A cluster with a policy, whose commit times are asked of the server itself.

use std::time::Duration;

use lifeboat::base::{DrillLevel, Timestamp};
use lifeboat::repo::evidence::{DrillOutcome, Evidence, KeyUse, Phase, PhaseKind, Record};
use lifeboat::repo::{Repository, Signer};
use serde_json::Value;

use crate::support::dirs;
use crate::support::lifeboat::Host;
use crate::support::postgres::{Options, RECOVERY_TIMEOUT};
use crate::support::process::{self, Output};
use crate::support::scenario::{Place, SOURCE, Scenario};
use crate::support::sql::Sql;

/// How far what is told may be from the truth.
pub const TOLERANCE_SECONDS: f64 = 1.0;

/// See the module's header.
pub struct Stage {
    pub scenario: Scenario,
    pub sql: Sql,
}

impl Stage {
    /// With these objectives, a full backup and everything archived; none when PostgreSQL is missing.
    #[track_caller]
    pub fn start(objectives: &str) -> Option<Self> {
        let stage = Self::without_backup(objectives)?;
        stage.scenario.full_backup();
        stage.scenario.archive_now();
        Some(stage)
    }

    /// As [`Stage::start`], without the backup.
    #[track_caller]
    pub fn without_backup(objectives: &str) -> Option<Self> {
        Self::with_segments(1, objectives)
    }

    /// As [`Stage::without_backup`], with segments of so many MiB.
    #[track_caller]
    pub fn with_segments(wal_segment_mib: u32, objectives: &str) -> Option<Self> {
        let options = Options { wal_segment_mib, ..Options::default() }.with("track_commit_timestamp = on");
        let installation = crate::support::postgres::Installation::require(15)?;
        let scenario = Scenario::start_in(Place::Directory, &installation, &options);
        for host in [&scenario.protected, &scenario.rescue] {
            host.write("policy.toml", &format!("[objectives]\n{objectives}\n"));
            add_keys(host, "policy = \"policy.toml\"");
        }
        let mut sql = scenario.cluster.sql();
        sql.execute("CREATE TABLE kept (n int)");
        Some(Self { scenario, sql })
    }

    pub fn host(&self) -> &Host {
        &self.scenario.protected
    }

    /// Inserts a row; when that was committed, by the server's own record.
    #[track_caller]
    pub fn commit(&mut self) -> Timestamp {
        self.sql.execute("INSERT INTO kept VALUES (1)");
        self.time("SELECT timestamp FROM pg_last_committed_xact()")
    }

    /// The server's clock.
    #[track_caller]
    pub fn clock(&mut self) -> Timestamp {
        self.time("SELECT clock_timestamp()")
    }

    #[track_caller]
    fn time(&mut self, query: &str) -> Timestamp {
        let micros = self.sql.number(&format!("SELECT (extract(epoch FROM ({query})) * 1000000)::bigint"));
        Timestamp::from_unix_micros(micros).expect("a time of today")
    }

    /// Nothing is archived any more, from the next segment on.
    pub fn stop_archiving(&mut self) {
        self.archive_by("archive_command = 'false'".to_owned());
    }

    /// Everything is archived again.
    pub fn archive_again(&mut self) {
        self.archive_by(self.host().archive_command(SOURCE));
    }

    /// Archives with this line of `postgresql.conf`, once the server has read it.
    pub fn archive_by(&mut self, line: String) {
        let before = self.sql.value("SELECT pg_conf_load_time()");
        self.scenario.cluster.configure([line]);
        let sql = &mut self.sql;
        process::wait_until("the server reads its configuration", RECOVERY_TIMEOUT, || {
            sql.value("SELECT pg_conf_load_time()") != before
        });
    }

    /// The status as a document, with more arguments.
    #[track_caller]
    pub fn status_with(&self, arguments: &[&str]) -> Value {
        let mut document = self.host().json(&[&["status", SOURCE], arguments].concat());
        assert_eq!(document["lifeboat"], serde_json::json!({"document": "status", "version": 1}));
        document["sources"][0].take()
    }

    /// The status as a document.
    #[track_caller]
    pub fn status(&self) -> Value {
        self.status_with(&[])
    }

    /// What `status --gate` ends with.
    pub fn gate(&self) -> Output {
        self.host().run(&["status", SOURCE, "--gate"])
    }

    /// Signs evidence of a drill that took these phases, by this host's own key.
    pub fn sign_drill(&self, level: DrillLevel, outcome: DrillOutcome, phases: Vec<Phase>, age: Duration) {
        let repository = &self.scenario.repository;
        let (store, runtime) = (repository.store(), tokio::runtime::Runtime::new().expect("a runtime"));
        let source = SOURCE.parse().expect("a name");
        runtime.block_on(async {
            let opened = Repository::open("main", store, None).await.expect("a repository");
            let record = Record::load(&opened, &source).await.expect("its evidence");
            let signer = Signer::read(&self.host().dir().join("signing.key")).expect("the host's key");
            let evidence = evidence(level, outcome, phases, Timestamp::now().minus(age));
            record.append(&opened, &source, &signer, evidence).await.expect("it is stored");
        });
        dirs::give_tree(repository.path());
    }
}

/// Adds `keys` to the section of the source.
pub fn add_keys(host: &Host, keys: &str) {
    let text = host.configuration().replace("kind = \"postgres\"\n", &format!("kind = \"postgres\"\n{keys}\n"));
    host.configure_text(&text);
}

fn evidence(level: DrillLevel, outcome: DrillOutcome, phases: Vec<Phase>, declared: Timestamp) -> Evidence {
    let seconds = phases.iter().filter(|phase| phase.phase != PhaseKind::Checks).map(|phase| phase.seconds).sum();
    Evidence {
        previous: None,
        host: "restore1".to_owned(),
        program_version: "0.1.0".to_owned(),
        level,
        outcome,
        declared,
        finished: declared,
        policy: None,
        seed: None,
        target: "latest".to_owned(),
        restored: None,
        verified: Vec::new(),
        phases,
        rto_seconds: Some(seconds),
        rpo_seconds: None,
        rpo_is_upper_bound: false,
        checks: Vec::new(),
        key_use: KeyUse::Command,
        why: Vec::new(),
    }
}

/// The phases of a recovery that fetched and replayed at these rates.
pub fn phases(write_bytes: u64, replay_bytes: u64, bytes_per_second: f64) -> Vec<Phase> {
    let phase = |phase, seconds, bytes| Phase { phase, seconds, bytes };
    vec![
        phase(PhaseKind::Plan, 0.5, None),
        phase(PhaseKind::Fetch, 0.5 + write_bytes as f64 / bytes_per_second, Some(write_bytes)),
        phase(PhaseKind::Start, 0.5, None),
        phase(PhaseKind::Replay, replay_bytes as f64 / bytes_per_second, Some(replay_bytes)),
        phase(PhaseKind::Promote, 0.5, None),
        phase(PhaseKind::FirstCheck, 0.5, None),
    ]
}

/// One scope of a status.
#[track_caller]
pub fn scope<'s>(status: &'s Value, name: &str) -> &'s Value {
    let scopes = status["scopes"].as_array().expect("a list");
    scopes.iter().find(|scope| scope["scope"] == name).unwrap_or_else(|| panic!("no scope {name}: {status:#}"))
}

/// Whether there is a reason of this class.
pub fn has_reason(status: &Value, class: &str) -> bool {
    status["reasons"].as_array().expect("a list").iter().any(|reason| reason["class"] == class)
}

/// Asserts that a number of seconds is near the truth, which lies between two bounds.
#[track_caller]
pub fn assert_near(told: &Value, from: Duration, to: Duration, what: &str) {
    let told = told.as_f64().unwrap_or_else(|| panic!("{what}: no number but {told}"));
    let (from, to) = (from.as_secs_f64() - TOLERANCE_SECONDS, to.as_secs_f64() + TOLERANCE_SECONDS);
    assert!((from..=to).contains(&told), "{what}: told {told}, true {from} to {to}");
}
