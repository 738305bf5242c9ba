//! A cluster whose source is kept in two repositories, `main` and `second`, either of which can go away.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::support::dirs::Dir;
use crate::support::lifeboat::Host;
use crate::support::listing::log_objects;
use crate::support::postgres::{Cluster, Options, RECOVERY_TIMEOUT};
use crate::support::process;
use crate::support::scenario::{SOURCE, Scenario};

/// A delivery in the background tries again after a minute at most.
pub const DELIVERY_TIMEOUT: Duration = Duration::from_secs(120);

/// See the module's header.
pub struct Stage {
    pub scenario: Scenario,
    second: Dir,
}

/// A repository of the stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    Main,
    Second,
}

impl Which {
    pub fn name(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Second => "second",
        }
    }
}

impl Stage {
    /// With `keys` in the source's section, such as `log_copies = 1`; none when PostgreSQL is missing.
    #[track_caller]
    pub fn start(keys: &str) -> Option<Self> {
        let scenario = Scenario::on(15, &Options { wal_segment_mib: 1, ..Options::default() })?;
        let second = Dir::new();
        for host in [&scenario.protected, &scenario.rescue] {
            let text = host.configuration().replace("kind = \"postgres\"\n", &format!("kind = \"postgres\"\n{keys}\n"));
            host.configure_text(&format!("{text}\n[repository.second]\nurl = \"file://{}\"\n", second.path().display()));
        }
        let keys = scenario.rescue.dir().join("keys-of-second");
        scenario.protected.ok(&["init", "--repository", "second", "--generate-keys", keys.to_str().expect("plain")]);
        scenario.cluster.sql().execute("CREATE TABLE kept (n int)");
        Some(Self { scenario, second })
    }

    pub fn path(&self, which: Which) -> PathBuf {
        match which {
            Which::Main => self.scenario.repository.path().to_owned(),
            Which::Second => self.second.path().to_owned(),
        }
    }

    fn hidden(&self, which: Which) -> PathBuf {
        self.path(which).with_extension("away")
    }

    /// As when its disk is not mounted.
    pub fn take_away(&self, which: Which) {
        fs::rename(self.path(which), self.hidden(which)).expect("own directory");
    }

    pub fn bring_back(&self, which: Which) {
        fs::rename(self.hidden(which), self.path(which)).expect("own directory");
    }

    /// Commits a row and closes the segment that it is in; that segment's name.
    pub fn add_row(&self) -> String {
        self.scenario.cluster.sql().execute("INSERT INTO kept VALUES (1)");
        self.scenario.cluster.switch_wal()
    }

    /// [`Stage::add_row`], and waits until PostgreSQL takes the segment for archived.
    #[track_caller]
    pub fn archive_row(&self) -> String {
        let segment = self.add_row();
        self.scenario.cluster.wait_archived(&segment, RECOVERY_TIMEOUT);
        segment
    }

    pub fn rows(cluster: &Cluster) -> i64 {
        cluster.sql().number("SELECT count(*) FROM kept")
    }

    /// Names of the archived files in a repository that begin so.
    pub fn archived(&self, which: Which, beginning: &str) -> usize {
        let is_it = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(beginning));
        log_objects(&self.path(which)).iter().filter(|path| is_it(path)).count()
    }

    /// File and digest of everything archived in a repository. The times between them may be unknown in one of the two.
    pub fn archive(&self, which: Which) -> BTreeSet<(String, String)> {
        let described = |path: PathBuf| {
            let name = path.file_name()?.to_string_lossy().into_owned();
            Some((name.split('_').next()?.to_owned(), name.split('_').next_back()?.to_owned()))
        };
        log_objects(&self.path(which)).into_iter().filter_map(described).collect()
    }

    /// What is queued for `which`.
    #[track_caller]
    pub fn queued(&self, which: Which) -> Vec<Value> {
        let listed = self.scenario.protected.json(&["queue", SOURCE, "--repository", which.name()]);
        listed["queues"][0]["items"].as_array().expect("a list").clone()
    }

    /// Waits until the background has delivered everything.
    #[track_caller]
    pub fn wait_delivered(&self, which: Which) {
        process::wait_until("everything is delivered", DELIVERY_TIMEOUT, || self.queued(which).is_empty());
    }

    /// Restores from that repository alone, to the end of the log, and starts what was restored.
    #[track_caller]
    pub fn restore_from(&self, which: Which, name: &str) -> Cluster {
        self.scenario.restore_and_start(name, &["--repository", which.name()])
    }

    /// The only incarnation, as the second repository has it on record.
    #[track_caller]
    pub fn incarnation(&self) -> String {
        let list = self.scenario.rescue.json(&["list", SOURCE, "--repository", "second"]);
        let incarnation = &list["repositories"][0]["sources"][0]["incarnations"][0]["incarnation"];
        incarnation.as_str().expect("a name").to_owned()
    }

    /// The host that archives and backs up.
    pub fn host(&self) -> &Host {
        &self.scenario.protected
    }
}
