//! A directory to protect, a repository, the host that protects it and the one that restores it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::oracle::{Thing, assert_same, snapshot};
use crate::support::dirs::{self, Dir};
use crate::support::lifeboat::{Config, Host, Identity};
use crate::support::process::{self, Output};
use crate::trees::{all_paths, is_root};

pub const SOURCE: &str = "docs";
const RUN_TIMEOUT: Duration = Duration::from_secs(180);

pub type Tree = BTreeMap<PathBuf, Thing>;

/// `wrapper`, which runs the words behind its own: those of `inner`, in the environment of that.
pub fn wrapped(mut wrapper: Command, inner: &Command) -> Command {
    wrapper.arg(inner.get_program()).args(inner.get_args());
    wrapper.env_clear().envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    wrapper
}

pub struct Stage {
    pub protected: Host,
    pub rescue: Host,
    pub repository: Dir,
    pub restored: Dir,
    /// The protected directory.
    pub tree: PathBuf,
    _dir: Dir,
    runs_as_root: bool,
    pub operator_key: PathBuf,
}

impl Stage {
    /// A stage on which lifeboat runs as root where these tests do: it may read and restore everything.
    pub fn as_root(keys: &str) -> Self {
        Self::new(keys, is_root())
    }

    /// A stage on which lifeboat runs as somebody who owns the directory and nothing else.
    pub fn as_user(keys: &str) -> Self {
        Self::new(keys, false)
    }

    fn new(keys: &str, runs_as_root: bool) -> Self {
        let (dir, repository, restored, identity) = (Dir::new(), Dir::new(), Dir::new(), Identity::generate());
        let tree = dir.create_dir("tree");
        let mut config = Config::local(repository.path()).recipient(&identity);
        config.sections = section(&tree, keys);
        let (protected, rescue) = (Host::new(&config), Host::new(&config));
        let signing_key = lifeboat::repo::signed::Signer::generate();
        config.signing_key_file = Some(protected.write("signing.key", &signing_key.to_pem()));
        protected.configure(&config);
        config.signing_key_file = None;
        config.identity_file = Some(rescue.write("identity.txt", &format!("{}\n", identity.secret)));
        rescue.configure(&config);
        let keys = rescue.dir().join("keys");
        let operator_key = keys.join("operator.key");
        let stage = Self { protected, rescue, repository, restored, tree, _dir: dir, runs_as_root, operator_key };
        stage.run(&stage.protected, &["init", "--generate-keys", &keys.display().to_string()]).success();
        stage
    }

    pub fn command(&self, host: &Host, arguments: &[&str]) -> Command {
        let mut command = host.command(arguments);
        // A minute otherwise.
        command.env("LIFEBOAT_FRESH_MILLIS", "2000");
        if self.runs_as_root {
            command.uid(0).gid(0);
        }
        command
    }

    pub fn run(&self, host: &Host, arguments: &[&str]) -> Output {
        process::run(self.command(host, arguments), RUN_TIMEOUT)
    }

    pub fn json(&self, host: &Host, arguments: &[&str]) -> Value {
        let output = self.run(host, &[arguments, &["--output", "json"]].concat()).success();
        serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("no JSON: {error}\n{output}"))
    }

    /// Takes a backup; gives what is told of it.
    pub fn backup(&self, backup_type: &str) -> Value {
        self.json(&self.protected, &["backup", SOURCE, "--type", backup_type])["backups"][0].clone()
    }

    /// Restores on the other host into a fresh directory called `name`.
    pub fn restore(&self, name: &str, arguments: &[&str]) -> PathBuf {
        let into = self.restored.join(name);
        let fixed = ["restore", SOURCE, "--into", &into.display().to_string()];
        self.run(&self.rescue, &[&fixed, arguments].concat()).success();
        into
    }

    /// Asserts that backup `id` restores to exactly `expected`.
    pub fn assert_restores(&self, id: &str, expected: &Tree, what: &str) {
        let into = self.restore(&format!("of-{id}"), &["--backup", id]);
        assert_same(expected, &snapshot(&into), what);
        fs::remove_dir_all(&into).expect("own directory");
    }

    /// Waits until everything in the tree is old enough to be believed unchanged by the next backup but one.
    pub fn settle(&self) {
        let newest = all_paths(&self.tree).iter().chain([&self.tree]).map(|path| changed(path)).max().expect("the tree");
        process::wait_until("the tree to be old enough", Duration::from_secs(30), || {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
            now > newest + Duration::from_millis(2100)
        });
    }

    /// Ids of the backups that are listed, oldest first.
    pub fn listed(&self) -> Vec<String> {
        crate::support::listing::backups_in(&self.json(&self.rescue, &["list", SOURCE]))
    }

    /// Nothing in the repository is damaged, looked at as closely as can be.
    pub fn assert_verifies(&self) {
        let report = self.run(&self.rescue, &["verify", SOURCE, "--deep"]).success();
        assert!(report.stdout.contains("nothing is damaged"), "{report}");
    }

    /// Gives the tree to whoever runs lifeboat when that is not root.
    pub fn own(&self) {
        if !self.runs_as_root {
            dirs::give_tree(&self.tree);
        }
    }

    pub fn write(&self, path: &str, content: &[u8]) -> PathBuf {
        let path = self.tree.join(path);
        fs::create_dir_all(path.parent().expect("in the tree")).expect("own directory");
        fs::write(&path, content).expect("own file");
        path
    }
}

/// The configuration of the source at `path` with more `keys`.
pub fn section(path: &Path, keys: &str) -> String {
    let path = toml::Value::String(path.display().to_string());
    format!("[source.{SOURCE}]\nkind = \"directory\"\npath = {path}\n{keys}\n[backup]\npack_size_mib = 1\nworkers = 2\n")
}

fn changed(path: &Path) -> Duration {
    let metadata = fs::symlink_metadata(path).expect("it is there");
    Duration::new(metadata.ctime().try_into().unwrap_or(0), metadata.ctime_nsec() as u32)
}

pub fn id(taken: &Value) -> String {
    taken["id"].as_str().expect("an id").to_owned()
}

pub fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}
