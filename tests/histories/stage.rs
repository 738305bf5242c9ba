//! A cluster whose log goes to two repositories: ours, with chains, and the twin's, with fulls only.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::support::dirs::Dir;
use super::support::lifeboat::{Config, Host, Identity, binary};
use super::support::postgres::{Cluster, Installation, Options, RECOVERY_TIMEOUT};
use super::support::process::Output;
use super::support::scenario::SOURCE;
use super::support::sql::Sql;

/// One repository with the host that writes it and the host that reads it.
#[derive(Debug)]
pub struct Protection {
    /// Takes the backups and archives: knows recipients and a signing key, and no identity.
    pub host: Host,
    /// Restores: has the identity.
    pub rescue: Host,
    /// Where the repository is.
    pub repository: Dir,
}

impl Protection {
    fn new(conninfo: &str) -> Self {
        let (repository, identity) = (Dir::new(), Identity::generate());
        let mut config = Config::local(repository.path()).recipient(&identity).source(SOURCE, conninfo);
        let (host, rescue) = (Host::new(&config), Host::new(&config));
        let signing_key = lifeboat::repo::signed::Signer::generate();
        config.signing_key_file = Some(host.write("signing.key", &signing_key.to_pem()));
        host.configure(&config);
        config.signing_key_file = None;
        config.identity_file = Some(rescue.write("identity.txt", &format!("{}\n", identity.secret)));
        rescue.configure(&config);
        let keys = rescue.dir().join("keys");
        host.ok(&["init".as_ref(), "--generate-keys".as_ref(), keys.as_os_str()]);
        Self { host, rescue, repository }
    }

    /// Looks after the server at another connection string from now on, under the same name.
    #[track_caller]
    pub fn look_after(&self, from: &str, to: &str) {
        for host in [&self.host, &self.rescue] {
            let text = host.configuration();
            assert!(text.contains(from), "{from} is not in {text}");
            host.configure_text(&text.replace(from, to));
        }
    }

    /// Takes a backup of the type that is asked for, or what `lifeboat` takes instead; or it is refused.
    ///
    /// # Errors
    /// What it said.
    #[track_caller]
    pub fn try_backup(&self, kind: &str, data: &Path) -> Result<Taken, Box<Output>> {
        let output = self.host.run(&["backup", SOURCE, "--type", kind, "--output", "json"]);
        if output.code != Some(0) {
            return Err(Box::new(output));
        }
        let report = serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("no JSON: {error}\n{output}"));
        let taken = Taken::read(&report, tablespaces_of(data));
        println!(
            "backup --type {kind}: {} on {:?}, {} bytes stored; {:?}; {}",
            taken.id, taken.base, taken.stored_bytes, taken.reason, report["backups"][0]["detection"]
        );
        Ok(taken)
    }

    /// [`Protection::try_backup`] that must succeed.
    #[track_caller]
    pub fn backup(&self, kind: &str, data: &Path) -> Taken {
        self.try_backup(kind, data).unwrap_or_else(|output| panic!("{output}"))
    }
}

/// A backup that was taken, as the report of `lifeboat backup` tells it.
#[derive(Clone, Debug)]
pub struct Taken {
    /// Its id.
    pub id: String,
    /// `full`, `diff` or `incr`: what was really taken.
    pub kind: String,
    /// The backup it builds on.
    pub base: Option<String>,
    /// Why it is not what was asked for.
    pub reason: Option<String>,
    /// Where it was taken.
    pub timeline: u64,
    /// Whose it is.
    pub incarnation: String,
    /// The redo position of its start.
    pub start_lsn: u64,
    /// What it added to the repository.
    pub stored_bytes: u64,
    /// Where the cluster's tablespaces were.
    pub tablespaces: Vec<PathBuf>,
}

impl Taken {
    #[track_caller]
    fn read(report: &Value, tablespaces: Vec<PathBuf>) -> Self {
        let backups = report["backups"].as_array().expect("backups");
        assert_eq!(backups.len(), 1, "one repository, one backup: {report}");
        let text = |name: &str| backups[0][name].as_str().map(str::to_owned);
        let must = |name: &str| text(name).unwrap_or_else(|| panic!("no {name} in {report}"));
        Self {
            id: must("id"),
            kind: must("type"),
            base: text("base"),
            reason: text("reason"),
            timeline: backups[0]["timeline"].as_u64().expect("a timeline"),
            incarnation: must("incarnation"),
            start_lsn: must("start_lsn").parse::<lifeboat::base::Lsn>().expect("an LSN").0,
            stored_bytes: backups[0]["stored_bytes"].as_u64().expect("a size"),
            tablespaces,
        }
    }
}

/// How far a restored cluster recovers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// To the backup's own end.
    Immediate,
    /// To a position.
    Lsn(String),
}

/// The cluster and both its protections.
#[derive(Debug)]
pub struct Stage {
    /// The protected cluster.
    pub cluster: Cluster,
    /// The chains that are judged.
    pub ours: Protection,
    /// Fulls of the same moments.
    pub twin: Protection,
    /// Where restores go.
    pub restored: Dir,
}

impl Stage {
    /// Makes both repositories and the cluster, and starts it.
    #[track_caller]
    pub fn start(installation: &Installation, options: &Options) -> Self {
        let mut cluster = Cluster::create(installation, options);
        let (ours, twin) = (Protection::new(&cluster.conninfo()), Protection::new(&cluster.conninfo()));
        cluster.configure(["archive_mode = on".to_owned(), archive_command(&ours, &twin)]);
        cluster.start();
        Self { cluster, ours, twin, restored: Dir::new() }
    }

    /// Has both protections look after `cluster` from now on; returns the cluster they looked after before.
    #[track_caller]
    pub fn look_after(&mut self, cluster: Cluster) -> Cluster {
        for protection in [&self.ours, &self.twin] {
            protection.look_after(&self.cluster.conninfo(), &cluster.conninfo());
        }
        std::mem::replace(&mut self.cluster, cluster)
    }

    /// A backup in our repository.
    #[track_caller]
    pub fn backup(&self, kind: &str) -> Taken {
        self.ours.backup(kind, &self.cluster.data)
    }

    /// A full in the twin's repository.
    #[track_caller]
    pub fn twin_backup(&self) -> Taken {
        self.twin.backup("full", &self.cluster.data)
    }

    /// Restores a backup of `protection` into a fresh directory `name`, tablespaces beside it; a clone, not started.
    #[track_caller]
    pub fn restore(&self, protection: &Protection, taken: &Taken, target: &Target, more: &[&str], name: &str) -> PathBuf {
        let into = self.restored.join(name);
        let (into_text, timeline) = (into.display().to_string(), taken.timeline.to_string());
        let mut arguments = vec!["restore", SOURCE, "--clone", "--into", &into_text, "--backup", &taken.id];
        arguments.extend(["--timeline", &timeline, "--incarnation", &taken.incarnation]);
        match target {
            Target::Immediate => arguments.push("--to-immediate"),
            Target::Lsn(lsn) => arguments.extend(["--to-lsn", lsn]),
        }
        let place = |(number, old): (usize, &PathBuf)| {
            format!("{}={}", old.display(), self.restored.join(format!("{name}-tablespace-{number}")).display())
        };
        let places: Vec<String> = taken.tablespaces.iter().enumerate().map(place).collect();
        places.iter().for_each(|place| arguments.extend(["--tablespace", place]));
        arguments.extend(more);
        protection.rescue.ok(&arguments);
        into
    }

    /// Removes a restored cluster and its tablespaces.
    pub fn remove(&self, name: &str) {
        for entry in fs::read_dir(self.restored.path()).expect("own directory").map(|entry| entry.expect("own directory")) {
            let found = entry.file_name().to_string_lossy().into_owned();
            if found == name || found.starts_with(&format!("{name}-tablespace-")) {
                fs::remove_dir_all(entry.path()).unwrap_or_else(|error| panic!("{}: {error}", entry.path().display()));
            }
        }
    }

    /// Closes the present segment and waits until it is archived in both repositories.
    #[track_caller]
    pub fn archive(&self) {
        let segment = self.cluster.switch_wal();
        self.cluster.wait_archived(&segment, RECOVERY_TIMEOUT);
    }

    /// Runs statements one after the other on a connection of their own to the database `postgres`.
    #[track_caller]
    pub fn run(&self, statements: &[&str]) {
        run(&self.cluster.conninfo(), statements);
    }
}

/// Runs statements one after the other on a connection of their own: each may be one that runs in no transaction block.
#[track_caller]
pub fn run<S: AsRef<str>>(conninfo: &str, statements: &[S]) {
    let mut sql = Sql::connect(conninfo).unwrap_or_else(|error| panic!("cannot connect: {error}"));
    statements.iter().for_each(|statement| sql.execute(statement.as_ref()));
}

/// A line for `postgresql.conf`: a segment is archived once both repositories have it.
pub fn archive_command(ours: &Protection, twin: &Protection) -> String {
    let (program, config) = (binary().display(), ours.host.config.display());
    let first = format!("{program} --config {config} archive push {SOURCE} \"%p\" &&");
    twin.host.server_command("archive_command", &["archive", "push", SOURCE, "%p"], &first)
}

/// Where the tablespaces of a data directory are, in no certain order.
pub fn tablespaces_of(data: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(data.join("pg_tblspc")).expect("own directory");
    entries.map(|entry| fs::read_link(entry.expect("own directory").path()).expect("a link")).collect()
}
