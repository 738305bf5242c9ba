//! An archive with two timelines, a directory to recover from it, and every way in which `archive get` can fail.
//!
//! Row n of `rows` is the only one in the n-th closed segment; the last was written on timeline 2.

use std::cell::RefCell;
use std::path::PathBuf;

use crate::support::dirs::{self, Dir};
use crate::support::lifeboat::{Config, Host, Identity};
use crate::support::postgres::{Cluster, Installation, Options, RECOVERY_TIMEOUT, Stop};
use crate::support::repository::Repository;
use crate::support::scenario::{SOURCE, Scenario, restore_command_of};

/// Rows on timeline 1.
pub const ROWS: usize = 3;

/// See the module's header.
pub struct Stage {
    pub scenario: Scenario,
    /// The closed segments of timeline 1; the n-th holds row n.
    pub segments: Vec<String>,
    /// A restored directory that was never started.
    pub restored: PathBuf,
    /// What fetches as it should, with `"$1"` and `"$2"` for `%f` and `%p`.
    pub good: String,
    work: Dir,
    hosts: RefCell<Vec<Host>>,
    /// Kept until the stage is dropped, like the hosts.
    broken: RefCell<Vec<Repository>>,
}

/// One way in which `archive get` fails.
pub struct Trouble {
    pub name: &'static str,
    /// A shell command like [`Stage::good`].
    pub command: String,
    /// What it says.
    pub says: &'static str,
}

impl Stage {
    pub fn start(major: u32) -> Option<Self> {
        let installation = Installation::require(major)?;
        let mut scenario = Scenario::start(&installation, &Options { wal_segment_mib: 1, ..Options::default() });
        scenario.cluster.sql().execute("CREATE TABLE rows (n int)");
        scenario.full_backup();
        let segments: Vec<String> = (1..=ROWS).map(|n| add_row(&scenario.cluster, n)).collect();
        scenario.cluster.wait_archived(&segments[ROWS - 1], RECOVERY_TIMEOUT);
        scenario.cluster.stop(Stop::Fast);

        let mut second = scenario.open(&scenario.restore("second", &[]));
        let last = add_row(&second, ROWS + 1);
        second.wait_archived(&last, RECOVERY_TIMEOUT);
        second.stop(Stop::Fast);
        let restored = scenario.restore("never-started", &["--clone"]);
        let good = restore_command_of(&restored).replace("%f", "\"$1\"").replace("%p", "\"$2\"");
        Some(Self { scenario, segments, restored, good, work: Dir::new(), hosts: RefCell::default(), broken: RefCell::default() })
    }

    /// A cluster on a fresh copy of the restored directory that fetches with [`Stage::fetch_with`]'s script, to no target.
    pub fn recovering(&self, name: &str, timeline: &str) -> Cluster {
        let data = self.work.join(name);
        dirs::copy_tree(&self.restored, &data);
        Cluster::open(&self.scenario.cluster.installation, &data)
            .with_override("recovery_target_lsn=")
            .with_override(format!("recovery_target_timeline={timeline}"))
            .with_override(format!("restore_command=sh {} %f %p", self.script(name).display()))
    }

    /// Has the cluster called `name` fetch files that match the shell pattern with `command`, all others as it should.
    pub fn fetch_with(&self, name: &str, pattern: &str, command: &str) {
        let script = format!("case \"$1\" in\n{pattern}) {command} ;;\n*) exec {} ;;\nesac\n", self.good);
        self.work.write(self.script(name), script);
    }

    fn script(&self, name: &str) -> PathBuf {
        self.work.join(format!("{name}.sh"))
    }

    /// Every way to fail, each with a configuration and, where needed, a broken copy of the repository of its own.
    pub fn troubles(&self) -> Vec<Trouble> {
        let config = self.scenario.rescue.config.display().to_string();
        let with_config = |text: &str| self.good.replace(&config, &self.configured(text));
        let plain = |name, says, command: String| Trouble { name, says, command };
        let broken = |name, breaks: &dyn Fn(&Repository) -> &'static str| {
            let repository = self.scenario.repository.copy(name);
            let says = breaks(&repository);
            let configuration = self.scenario.rescue.configuration();
            let trouble =
                plain(name, says, with_config(&configuration.replace(&self.scenario.repository.url(), &repository.url())));
            self.broken.borrow_mut().push(repository);
            trouble
        };
        let configuration = self.scenario.rescue.configuration();
        let stranger = self.work.write("stranger.txt", Identity::generate().secret);
        let wrong_identity = replace_identity(&configuration, &format!("identity_file = '{}'", stranger.display()));
        vec![
            broken("unreachable", &Repository::take_away),
            broken("forbidden", &Repository::forbid),
            broken("damaged", &damage_log),
            broken("split-brain", &contradict_log),
            broken("no-repository", &|repository| {
                repository.remove("lifeboat.json");
                "no repository"
            }),
            plain("wrong-identity", "identity", with_config(&wrong_identity)),
            plain("no-identity", "no age identity", with_config(&replace_identity(&configuration, ""))),
            plain("unknown-key", "unknown key", with_config(&format!("oops = 1\n{configuration}"))),
            plain("no-configuration", "no configuration file", self.good.replace(&config, "/nowhere/lifeboat.toml")),
            plain("missing-argument", "<DEST>", self.good.replace(" \"$2\"", "")),
            plain("unknown-option", "--oops", format!("{} --oops", self.good)),
            plain("unknown-source", "no [source.", self.good.replace(&format!("get {SOURCE}"), "get ordres")),
            plain("panic", "bug of its own", format!("LIFEBOAT_PANIC_AT=get.start {}", self.good)),
        ]
    }

    /// The path of this configuration on a host of its own, which is kept until the stage is dropped.
    fn configured(&self, configuration: &str) -> String {
        let host = Host::new(&Config::default());
        let state_dir = |host: &Host| host.state_dir().display().to_string();
        host.configure_text(&configuration.replace(&state_dir(&self.scenario.rescue), &state_dir(&host)));
        let path = host.config.display().to_string();
        self.hosts.borrow_mut().push(host);
        path
    }
}

/// Inserts row `n` and closes its segment, whose name is returned.
#[track_caller]
fn add_row(cluster: &Cluster, n: usize) -> String {
    cluster.sql().execute(&format!("INSERT INTO rows VALUES ({n})"));
    cluster.switch_wal()
}

/// The rows, in order.
#[track_caller]
pub fn rows(cluster: &Cluster) -> Vec<usize> {
    let rows = cluster.sql().rows("SELECT n FROM rows ORDER BY n");
    rows.iter().map(|row| row[0].as_deref().and_then(|n| n.parse().ok()).expect("a number")).collect()
}

/// `configuration` with another line (or none) that names the identity.
fn replace_identity(configuration: &str, line: &str) -> String {
    let is_identity = |line: &&str| line.starts_with("identity_file");
    let old = configuration.lines().find(is_identity).expect("the restore host has one");
    configuration.replace(old, line)
}

/// Flips a bit in every object of the log.
fn damage_log(repository: &Repository) -> &'static str {
    for key in repository.log_objects() {
        let mut bytes = repository.read(&key);
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        repository.write(&key, bytes);
    }
    "damaged"
}

/// Puts an object of another digest beside every object of the log.
fn contradict_log(repository: &Repository) -> &'static str {
    for key in repository.log_objects() {
        let digest = key.rfind('_').expect("a digest") + 1;
        let other = format!("{}{}{}", &key[..digest], "0123456789abcdef", &key[digest + 16..]);
        repository.write(&other, repository.read(&key));
    }
    "two servers"
}
