//! A protected host with a database, a host that restores, and a repository between them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use lifeboat::base::{Segment, SegmentSize, Timestamp};
use lifeboat::repo::log::SegmentName;
use rusqlite::Connection;
use rustix::process::Signal;

use crate::support::dirs::{self, Dir};
use crate::support::lifeboat::{Config, Host, Identity};
use crate::support::process::{self, Output, Running};
use crate::support::repository::{Place, Repository};

pub const SOURCE: &str = "app";
/// Nothing that is waited for takes longer.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct World {
    pub host: Host,
    pub rescue: Host,
    pub repository: Repository,
    /// Where the database lies.
    pub data: Dir,
    pub restored: Dir,
    configs: [Config; 2],
}

impl World {
    /// A repository, keys, and one SQLite source, whose database is `data.db`, empty yet.
    pub fn new() -> Self {
        Self::with("")
    }

    /// The same with more keys for the source, as they are.
    pub fn with(keys: &str) -> Self {
        let repository = Repository::empty(Place::from_environment());
        let (data, identity) = (Dir::new(), Identity::generate());
        data.write("data.db", "");
        let host = Host::new(&Config::default());
        let sections = format!("[source.{SOURCE}]\nkind = \"sqlite\"\npath = \"{}/data.db\"\n{keys}\n", data.path().display());
        let mut config = Config { sections, ..Config::of(&repository).recipient(&identity) };
        config.signing_key_file = Some(host.dir().join("keys/signing.key"));
        host.configure(&config);
        let rescue = Host::new(&Config::default());
        let mut restores = config.clone();
        restores.identity_file = Some(rescue.write("identity.age", &identity.secret));
        rescue.configure(&restores);
        host.ok(&["init".as_ref(), "--generate-keys".as_ref(), host.dir().join("keys").as_os_str()]);
        Self { host, rescue, repository, data, restored: Dir::new(), configs: [config, restores] }
    }

    /// Adds a second repository called `far`, and more keys to the source.
    pub fn add_far(&mut self, keys: &str) -> Repository {
        let far = self.repository.another("far");
        for config in &mut self.configs {
            config.repositories.push(("far".to_owned(), far.url(), far.settings()));
            config.sections += keys;
        }
        self.host.configure(&self.configs[0]);
        self.rescue.configure(&self.configs[1]);
        let keys = self.host.dir().join("keys");
        self.host.ok(&["init".as_ref(), "--repository".as_ref(), "far".as_ref(), "--generate-keys".as_ref(), keys.as_os_str()]);
        far
    }

    pub fn database(&self) -> PathBuf {
        self.data.join("data.db")
    }

    /// A connection to the database, in WAL mode, with the table `t (n INTEGER PRIMARY KEY, x)`.
    pub fn program(&self) -> Connection {
        let connection = self.connect();
        connection.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, x)").unwrap();
        connection
    }

    pub fn connect(&self) -> Connection {
        let connection = Connection::open(self.database()).unwrap();
        connection.busy_timeout(Duration::from_secs(20)).unwrap();
        connection
    }

    /// Takes a backup of a type; its document's only backup.
    #[track_caller]
    pub fn backup(&self, kind: &str) -> serde_json::Value {
        let document = self.host.json(&["backup", SOURCE, "--type", kind]);
        document["backups"][0].clone()
    }

    /// Starts `archive stream`, which stores every `flush`.
    pub fn follow(&self, flush: &str) -> Following {
        Following::of(&self.host, flush)
    }

    /// Restores to a moment, or to the latest; the document and the file. The file goes with the next restore.
    #[track_caller]
    pub fn restore(&self, arguments: &[&str]) -> (serde_json::Value, PathBuf) {
        let into = self.restored.join("restored.db");
        let _ = std::fs::remove_file(&into);
        let path = into.display().to_string();
        let document = self.rescue.json(&[&["restore", SOURCE, "--into", &path], arguments].concat());
        (document, into)
    }

    /// A restore that must fail.
    #[track_caller]
    pub fn refused(&self, arguments: &[&str]) -> Output {
        let path = self.restored.join("refused.db");
        let text = path.display().to_string();
        let output = self.rescue.run(&[&["restore", SOURCE, "--into", &text], arguments].concat());
        assert!(!path.exists(), "a file was left\n{output}");
        assert_ne!(output.code, Some(0), "{output}");
        output
    }

    /// The numbers in `t` of the restored state, which must be 1, 2, … without a hole.
    #[track_caller]
    pub fn rows(&self, arguments: &[&str]) -> u32 {
        let (_, path) = self.restore(arguments);
        rows_in(&path)
    }

    /// Names in the log of all incarnations, in order.
    pub fn segments(&self) -> Vec<SegmentName> {
        segments_in(&self.repository)
    }
}

pub fn segments_in(repository: &Repository) -> Vec<SegmentName> {
    let names = repository.names_below(&format!("{SOURCE}/log/"));
    names.iter().filter_map(|name| SegmentName::parse(name.rsplit('/').next()?, SegmentSize::DEFAULT)).collect()
}

/// Numbers of segments.
pub fn numbers(segments: &[SegmentName]) -> Vec<u64> {
    segments.iter().map(|name| name.segment).map(|Segment { number, .. }| number).collect()
}

#[track_caller]
pub fn rows_in(path: &Path) -> u32 {
    let connection = Connection::open(path).unwrap();
    let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, u32>(0)?, row.get::<_, u32>(1)?));
    let (count, last) = connection.query_row("SELECT count(*), coalesce(max(n), 0) FROM t", [], row).unwrap();
    assert_eq!(count, last, "rows are missing");
    count
}

pub fn insert(connection: &Connection, n: u32) {
    connection.execute("INSERT INTO t VALUES (?1, randomblob(200))", [n]).unwrap();
}

/// As a command line and its answers have it.
pub fn time(value: &serde_json::Value) -> Timestamp {
    serde_json::from_value(value.clone()).unwrap()
}

/// `archive stream`, killed on drop.
pub struct Following(Running);

impl Following {
    pub fn of(host: &Host, flush: &str) -> Self {
        Self(host.start(&["archive", "stream", SOURCE, "--flush", flush, "--output", "json"]))
    }

    /// As a power cut would end it, from the process's point of view.
    pub fn kill(self) {
        self.0.signal(Signal::KILL);
        self.0.finish(PATIENCE).killed();
    }

    /// Asks it to end; what was committed is stored then.
    #[track_caller]
    pub fn end(self) -> Output {
        self.0.signal(Signal::TERM);
        self.0.finish(PATIENCE)
    }

    #[track_caller]
    pub fn ends_by_itself(self) -> Output {
        self.0.finish(PATIENCE)
    }

    pub fn has_ended(&mut self) -> bool {
        self.0.has_ended()
    }

    pub fn said(&self) -> String {
        self.0.stderr_so_far()
    }

    /// Waits until it said `words`; fails when it ends without.
    #[track_caller]
    pub fn until_said(&mut self, words: &str) {
        let running = &mut self.0;
        process::wait_until(words, PATIENCE, || {
            let said = running.stderr_so_far();
            assert!(said.contains(words) || !running.has_ended(), "it ended before it said: {words}\n{said}");
            said.contains(words)
        });
    }

    /// Waits until `done`; fails with what was said when the process ends first.
    #[track_caller]
    pub fn until(&mut self, what: &str, mut done: impl FnMut() -> bool) {
        let running = &mut self.0;
        process::wait_until(what, PATIENCE, || {
            let is_done = done();
            assert!(is_done || !running.has_ended(), "it ended before: {what}\n{}", running.stderr_so_far());
            is_done
        });
    }
}

/// Gives a file that root made to the user that runs lifeboat.
pub fn give(path: &Path) {
    dirs::give(path);
}
