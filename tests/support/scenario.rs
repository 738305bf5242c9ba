//! The stage of most end-to-end tests: a cluster that archives, a repository, the host that protects it and the
//! host that restores it.

use std::path::{Path, PathBuf};

use super::dirs::Dir;
use super::lifeboat::{Config, Host, Identity};
use super::postgres::{Cluster, Installation, Options};
use super::process;
use super::s3::{Keeping, Rights, S3Server};

/// The source's name in both configurations.
pub const SOURCE: &str = "orders";

/// Where a scenario's repository lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a directory.
    Directory,
    /// In a bucket of an S3 server inside the test's process.
    Bucket,
    /// In such a bucket that is set up in this way, with more keys for `[repository.main]`, by credentials of such rights.
    Kept(Keeping, &'static str, Rights),
}

/// A running cluster whose log goes to a fresh repository.
#[derive(Debug)]
pub struct Scenario {
    /// The protected cluster.
    pub cluster: Cluster,
    /// The protected host: knows recipients and a signing key, and no identity.
    pub protected: Host,
    /// The restore host: has the identity.
    pub rescue: Host,
    /// Where the repository is, in a directory; empty otherwise.
    pub repository: Dir,
    /// The server with the repository's bucket, in a bucket.
    pub server: Option<S3Server>,
    /// Where restores go.
    pub restored: Dir,
    /// The only recipient.
    pub identity: Identity,
    /// The operator's private key, which the protected host does not have.
    pub operator_key: PathBuf,
}

impl Scenario {
    /// Makes keys, cluster and a repository in a directory, and starts the cluster.
    #[track_caller]
    pub fn start(installation: &Installation, options: &Options) -> Self {
        Self::start_in(Place::Directory, installation, options)
    }

    /// Makes keys, cluster and repository, and starts the cluster.
    #[track_caller]
    pub fn start_in(place: Place, installation: &Installation, options: &Options) -> Self {
        let (repository, identity) = (Dir::new(), Identity::generate());
        let (server, keys, rights) = match place {
            Place::Directory => (None, "", Rights::All),
            Place::Bucket => (Some(S3Server::start()), "", Rights::All),
            Place::Kept(keeping, keys, rights) => (Some(S3Server::keeping(keeping)), keys, rights),
        };
        let config = match &server {
            Some(server) => {
                process::add_environment(server.environment_of(rights));
                let mut config = Config::bucket(server, "backups/main");
                config.repositories[0].2 += keys;
                config
            }
            None => Config::local(repository.path()),
        };
        let mut cluster = Cluster::create(installation, options);
        let mut config = config.recipient(&identity).source(SOURCE, &cluster.conninfo());
        let rescue = Host::new(&config);
        let protected = Host::new(&config);
        let signing_key = lifeboat::repo::signed::Signer::generate();
        config.signing_key_file = Some(protected.write("signing.key", &signing_key.to_pem()));
        protected.configure(&config);
        config.signing_key_file = None;
        config.identity_file = Some(rescue.write("identity.txt", &format!("{}\n", identity.secret)));
        rescue.configure(&config);
        let keys = rescue.dir().join("keys");
        protected.ok(&["init".as_ref(), "--generate-keys".as_ref(), keys.as_os_str()]);
        cluster.configure(["archive_mode = on".to_owned(), protected.archive_command(SOURCE)]);
        cluster.start();
        let (restored, operator_key) = (Dir::new(), keys.join("operator.key"));
        Self { cluster, protected, rescue, repository, server, restored, identity, operator_key }
    }

    /// [`Scenario::start`] on `major`; `None`, said aloud, when that major is missing.
    #[track_caller]
    pub fn on(major: u32, options: &Options) -> Option<Self> {
        Installation::require(major).map(|installation| Self::start(&installation, options))
    }

    /// A streaming standby made from the newest backup, and running. `arguments` of the restore say whether the log's
    /// archive lies behind it; `overrides` are settings of its own.
    #[track_caller]
    pub fn standby(&self, arguments: &[&str], overrides: &[&str]) -> Cluster {
        let data = self.restore("standby", &[&["--to-immediate"], arguments].concat());
        std::fs::rename(data.join("recovery.signal"), data.join("standby.signal")).expect("a restored cluster recovers");
        let primary = format!("primary_conninfo={}", self.cluster.conninfo());
        let fixed = [primary.as_str(), "recovery_target=", "recovery_target_timeline=latest"];
        let standby = Cluster::open(&self.cluster.installation, &data);
        let mut standby = fixed.iter().chain(overrides).fold(standby, |standby, setting| standby.with_override(*setting));
        standby.start();
        process::wait_until("streaming", super::postgres::RECOVERY_TIMEOUT, || {
            self.cluster.sql().number("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == 1
        });
        standby
    }

    /// Adds sections to the configuration of both hosts.
    pub fn add_sections(&self, sections: &str) {
        self.protected.append_configuration(sections);
        self.rescue.append_configuration(sections);
    }

    /// Writes a little log, switches it and waits until the closed segment is archived; returns its name.
    #[track_caller]
    pub fn archive_now(&self) -> String {
        self.cluster.sql().execute("SELECT pg_create_restore_point('archive now')");
        let segment = self.cluster.switch_wal();
        self.cluster.wait_archived(&segment, super::postgres::RECOVERY_TIMEOUT);
        segment
    }

    /// Takes a full backup.
    #[track_caller]
    pub fn full_backup(&self) {
        self.protected.ok(&["backup", SOURCE, "--type", "full"]);
    }

    /// Restores on the rescue host into a fresh directory called `name`; `arguments` name the target.
    #[track_caller]
    pub fn restore(&self, name: &str, arguments: &[&str]) -> PathBuf {
        let into = self.restored.join(name);
        let into_text = into.display().to_string();
        let fixed = ["restore", SOURCE, "--into", &into_text];
        self.rescue.ok(&[&fixed, arguments].concat());
        into
    }

    /// [`Scenario::restore`] as a clone that never archives, started and read-write.
    #[track_caller]
    pub fn restore_and_start(&self, name: &str, arguments: &[&str]) -> Cluster {
        let data = self.restore(name, &[&["--clone"], arguments].concat());
        self.open(&data)
    }

    /// Starts what was restored and waits until it is read-write.
    #[track_caller]
    pub fn open(&self, data: &Path) -> Cluster {
        let mut cluster = Cluster::open(&self.cluster.installation, data);
        cluster.launch();
        cluster.wait_recovered(super::postgres::RECOVERY_TIMEOUT);
        cluster
    }
}

/// The command in the settings that a restore wrote, with `%f` and `%p`.
#[track_caller]
pub fn restore_command_of(data: &Path) -> String {
    let settings = std::fs::read_to_string(data.join("postgresql.auto.conf")).expect("own file");
    let line = settings.lines().rfind(|line| line.starts_with("restore_command")).expect("restore writes it");
    let value = line.split_once('=').expect("name = value").1.trim();
    let text = value.strip_prefix('\'').and_then(|value| value.strip_suffix('\'')).expect("a quoted value");
    text.replace("''", "'").replace(r"\\", r"\")
}
