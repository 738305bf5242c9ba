//! What the configuration file says, checked and with every default filled in.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use age::x25519::Recipient;

use crate::base::document::nearest;
use crate::base::{Engine, Error, Result, SourceName};
use crate::codec::Sha256Digest;
use crate::policy::cron::Cron;
use crate::store::StoreOptions;

/// Everything a verb may ask of the configuration. Has no `Debug`: connection strings may hold passwords.
pub struct Settings {
    /// The file all this comes from, as an absolute path.
    pub config_file: PathBuf,
    /// SHA-256 of its text.
    pub config_sha256: Sha256Digest,
    /// Where this host keeps what it must remember between two runs.
    pub state_dir: PathBuf,
    /// The repositories by name.
    pub repositories: BTreeMap<String, RepositorySettings>,
    /// Whom backups are encrypted to, and how to read them.
    pub encryption: Encryption,
    /// The key with which this host signs what it commits.
    pub signing_key_file: Option<PathBuf>,
    /// The protected systems by name.
    pub sources: BTreeMap<SourceName, SourceSettings>,
    /// How backups are taken.
    pub backup: BackupSettings,
    /// How the scheduler works.
    pub run: RunSettings,
    /// Where drills restore, unless their command line says otherwise.
    pub drill_scratch_dir: Option<PathBuf>,
    /// Whom to call in a disaster, in the order of the file.
    pub contacts: Vec<Contact>,
}

/// One `[[contact]]`, for the runbook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    /// Who.
    pub name: String,
    /// What for: `on call`, `holds the recovery key`.
    pub role: String,
    /// How to reach them: a telephone number, an address.
    pub reach: String,
}

/// One `[repository.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepositorySettings {
    /// Its name in the configuration.
    pub name: String,
    /// Its address, `file:///srv/backups` or `s3://bucket/prefix`.
    pub url: String,
    /// The pinned SHA-256 of its `keys/1.json`.
    pub root: Option<[u8; 32]>,
    /// Bytes a second of backups, restores and whatever else is not the archive's.
    pub limit_rate_bytes: Option<u64>,
    /// Bytes a second of `archive push` and `archive get`, each process by itself.
    pub archive_limit_rate_bytes: Option<u64>,
    /// The site that it stands on: what is lost together with everything else there.
    pub site: Option<String>,
    /// How its store is reached, beside the address.
    pub options: StoreOptions,
}

/// `[encryption]`.
#[derive(Clone, Default)]
pub struct Encryption {
    /// Whether the file says `mode = "off"`.
    pub off: bool,
    /// Who can decrypt; empty when the file names nobody.
    pub recipients: Vec<Recipient>,
    /// Files with age identities, read only when something must be decrypted.
    pub identity_files: Vec<PathBuf>,
    /// For drills: a shell command that prints an age identity.
    pub identity_command: Option<String>,
}

/// What a verb that writes does to the bytes.
pub enum Sealing<'a> {
    /// Encrypts to these; at least one.
    To(&'a [Recipient]),
    /// Writes in the clear, as the file asks for in so many words.
    Off,
}

/// One `[source.NAME]`.
pub struct SourceSettings {
    /// Its name.
    pub name: SourceName,
    /// What it is, with what only this kind needs.
    pub kind: SourceKind,
    /// The site that it stands on: what is lost together with everything else there.
    pub site: Option<String>,
    /// The policy that declares its objectives.
    pub policy: Option<String>,
    /// Names of the repositories that hold it, each a key of [`Settings::repositories`], in the order given.
    pub repositories: Vec<String>,
    /// How many of them must hold a file of the log before it counts as archived, and a backup before it counts as taken,
    /// where the file says so: ask [`Settings::log_copies`] and [`Settings::backup_copies`].
    pub copies: Copies,
}

/// How many repositories must hold what before a verb says that it is done; the others get it in the background.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copies {
    /// A file of the log.
    pub log: Option<usize>,
    /// A backup.
    pub backup: Option<usize>,
}

/// What a source is.
pub enum SourceKind {
    /// A PostgreSQL cluster.
    Postgres(PostgresSettings),
    /// A SQLite database.
    Sqlite(SqliteSettings),
    /// A directory of files.
    Directory(DirectorySettings),
}

impl SourceKind {
    /// What kind it is.
    pub fn engine(&self) -> Engine {
        match self {
            Self::Postgres(_) => Engine::Postgres,
            Self::Sqlite(_) => Engine::Sqlite,
            Self::Directory(_) => Engine::Directory,
        }
    }
}

/// What a SQLite source needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqliteSettings {
    /// The database file.
    pub path: PathBuf,
    /// Longest time that a commit waits before it is stored, while its log is followed.
    pub flush: Duration,
}

/// What a directory needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectorySettings {
    /// The directory.
    pub path: PathBuf,
    /// What is left out, as gitignore lines.
    pub exclude: Vec<String>,
    /// Leave out what other file systems hold that are mounted below.
    pub one_file_system: bool,
}

/// What a PostgreSQL source needs.
pub struct PostgresSettings {
    /// Connection string of the server to back up. May hold a password: never print it.
    pub conninfo: String,
    /// Connection string of the primary, when `conninfo` names a standby.
    pub primary_conninfo: Option<String>,
    /// The data directory, when it is not where the server says.
    pub data_directory: Option<PathBuf>,
    /// A warm standby of it.
    pub standby: Option<StandbyPlace>,
    /// How long a backup waits for its last segment to be archived.
    pub archive_timeout: Duration,
    /// The replication slot of `archive stream`, which is also what the server calls it.
    pub slot: String,
    /// Longest time that anything waits in `archive stream` before it is stored.
    pub flush: Duration,
}

/// Where a warm standby is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StandbyPlace {
    /// Its data directory on this host.
    Directory(PathBuf),
    /// A connection string. May hold a password: never print it.
    Server(String),
}

/// `[backup]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupSettings {
    /// Threads that read, compress and encrypt.
    pub workers: usize,
    /// zstd level, 1 to 19.
    pub compression_level: i32,
    /// Size of a pack in bytes; `None` leaves the choice to the size of the source.
    pub pack_size_bytes: Option<u64>,
    /// How long a lease counts after each renewal.
    pub lease_ttl: Duration,
}

/// `[run]`.
#[derive(Clone, Debug, PartialEq)]
pub struct RunSettings {
    /// Where metrics are served; nowhere when the file does not say.
    pub metrics_listen: Option<SocketAddr>,
    /// The operator's key with which backups are let go; no expiry is started without one.
    pub expire_key_file: Option<PathBuf>,
    /// When that is done, in the zone of each policy.
    pub expire: Cron,
    /// How many backups may run at one time, over all sources, and as many drills beside them.
    pub jobs_at_once: usize,
}

impl SourceSettings {
    /// What it needs as a PostgreSQL source; `verb` is what only those know, such as `archive push`.
    ///
    /// # Errors
    /// A usage error that says what the source is instead.
    pub fn postgres(&self, verb: &str) -> Result<&PostgresSettings> {
        match &self.kind {
            SourceKind::Postgres(postgres) => Ok(postgres),
            other => Err(Error::usage(format!("{} is {}", self.name, other.engine().with_article()))
                .detail("not for it", format!("{verb} is for PostgreSQL clusters"))
                .hint(format!("lifeboat status {}   says how it stands, and what to do next", self.name))),
        }
    }
}

impl Settings {
    /// The source called `name`.
    ///
    /// # Errors
    /// A usage error that names the known sources.
    pub fn source(&self, name: &SourceName) -> Result<&SourceSettings> {
        self.sources.get(name).ok_or_else(|| {
            let known: Vec<String> = self.sources.keys().map(ToString::to_string).collect();
            self.unknown("source", &name.to_string(), &known)
        })
    }

    /// The repository called `name`, or the only one when `name` is `None`.
    ///
    /// # Errors
    /// A usage error when there is none of that name, none at all, or a choice to make.
    pub fn repository(&self, name: Option<&str>) -> Result<&RepositorySettings> {
        if let Some(name) = name {
            let known: Vec<String> = self.repositories.keys().cloned().collect();
            return self.repositories.get(name).ok_or_else(|| self.unknown("repository", name, &known));
        }
        let mut all = self.repositories.values();
        match (all.next(), all.next()) {
            (Some(only), None) => Ok(only),
            (None, _) => Err(Error::usage(format!("{} names no repository", self.config_file.display()))
                .hint("add [repository.main] with url = \"file:///srv/backups\"")),
            (Some(_), Some(_)) => Err(Error::usage("there are several repositories: say which one")
                .detail("known", self.repositories.keys().cloned().collect::<Vec<_>>().join(", "))
                .hint("add --repository NAME")),
        }
    }

    /// The repositories that hold `source`, or the one of them called `only`.
    ///
    /// # Errors
    /// A usage error when the source has no repository, or none called `only`.
    pub fn repositories_of(&self, source: &SourceSettings, only: Option<&str>) -> Result<Vec<&RepositorySettings>> {
        if let Some(only) = only {
            let chosen = self.repository(Some(only))?;
            if !source.repositories.contains(&chosen.name) {
                return Err(Error::usage(format!("source {} is not kept in repository {only}", source.name))
                    .detail("kept in", source.repositories.join(", ")));
            }
            return Ok(vec![chosen]);
        }
        if source.repositories.is_empty() {
            return Err(self.repository(None).err().unwrap_or_else(|| Error::usage("no repository is chosen")));
        }
        source.repositories.iter().map(|name| self.repository(Some(name))).collect()
    }

    /// What to do to the bytes of a backup or a log segment.
    ///
    /// # Errors
    /// A usage error when the file neither names recipients nor turns encryption off.
    pub fn sealing(&self) -> Result<Sealing<'_>> {
        if self.encryption.off {
            return Ok(Sealing::Off);
        }
        if self.encryption.recipients.is_empty() {
            return Err(Error::usage(format!("{} does not say whom to encrypt to", self.config_file.display()))
                .detail("needed", "[encryption] recipients = [\"age1…\"], or mode = \"off\" to store everything in the clear")
                .hint("lifeboat init --generate-keys DIR"));
        }
        Ok(Sealing::To(&self.encryption.recipients))
    }

    fn unknown(&self, what: &str, name: &str, known: &[String]) -> Error {
        let error = Error::usage(format!("there is no [{what}.{name}] in {}", self.config_file.display()));
        let error = if known.is_empty() { error } else { error.detail("known", known.join(", ")) };
        match nearest(name, known.iter().map(String::as_str)) {
            Some(near) => error.hint(format!("did you mean '{near}'?")),
            None => error.hint(format!("add a section [{what}.{name}]")),
        }
    }
}
