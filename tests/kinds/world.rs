//! A host with a database and a directory, and two repositories that hold years of both.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use lifeboat::base::{BackupId, BackupType, Engine, Incarnation, Lsn, Segment, SegmentSize, SourceName, TimelineId, Timestamp};
use lifeboat::codec::{Sha256Digest, compress};
use lifeboat::repo::backup::{self, Begin};
use lifeboat::repo::commit::{self, LogFloor};
use lifeboat::repo::identity::{self, Identity};
use lifeboat::repo::log::{CommitTime, SegmentName};
use lifeboat::repo::{BackupSummary, Repository, Signer, layout};
use lifeboat::source::sqlite::position::{FileId, Salts};
use lifeboat::source::sqlite::{Moment, Position, SegmentHeader, SegmentWriter};
use lifeboat::store::{self, Body, PutOutcome, StoreOptions};
use rusqlite::Connection;

use crate::support::dirs::{self, Dir};
use crate::support::lifeboat::{self as support, Config, Host};

const SIZE: SegmentSize = SegmentSize::DEFAULT;
pub const HOUR: u64 = 3600;

/// The database's source, and the directory's.
pub const APP: &str = "app";
pub const DOCS: &str = "docs";

pub struct World {
    pub host: Host,
    /// The repositories `main` and `far`.
    pub main: Dir,
    pub far: Dir,
    pub now: Timestamp,
    signer: Signer,
    runtime: tokio::runtime::Runtime,
    incarnations: BTreeMap<&'static str, Incarnation>,
}

/// Which log follows a database's backup: the number of its first segment.
pub type From = u64;

impl World {
    /// Empty repositories; `app` and `docs` are lines for the two sources, such as `policy = "own"`.
    pub fn new(app: &str, docs: &str) -> Self {
        let (main, far) = (Dir::new(), Dir::new());
        let host = Host::new(&Config::default());
        host.dir().create_dir("policies");
        let (data, tree) = (host.dir().create_dir("data"), host.dir().create_dir("tree"));
        host.write("tree/one.txt", "one");
        let url = |dir: &Dir| format!("file://{}", dir.path().display());
        let key = host.dir().join("keys/signing.key");
        let identity = host.write("identity.age", &support::Identity::generate().secret);
        host.append_configuration(&format!(
            "[repository.main]\nurl = \"{}\"\n[repository.far]\nurl = \"{}\"\n[encryption]\nmode = \"off\"\nidentity_file = \"{}\"\n\
             [signing]\nkey_file = \"{}\"\n[source.{APP}]\nkind = \"sqlite\"\npath = \"{}/app.db\"\n{app}\n\
             [source.{DOCS}]\nkind = \"directory\"\npath = \"{}\"\n{docs}\n",
            url(&main),
            url(&far),
            identity.display(),
            key.display(),
            data.display(),
            tree.display(),
        ));
        for name in ["main", "far"] {
            host.ok(&["init", "--repository", name, "--generate-keys", host.dir().join("keys").to_str().expect("plain")]);
        }
        let signer = Signer::read(&key).expect("made a moment ago");
        let runtime = tokio::runtime::Runtime::new().expect("threads");
        let world = Self { host, main, far, now: Timestamp::now(), signer, runtime, incarnations: BTreeMap::new() };
        world.database("wal");
        world
    }

    /// The database file.
    pub fn database_file(&self) -> PathBuf {
        self.host.dir().join("data/app.db")
    }

    /// Makes the database anew, and keeps no program running on it.
    pub fn database(&self, journal: &str) {
        for suffix in ["", "-wal", "-shm", "-journal"] {
            let _ = std::fs::remove_file(self.host.dir().join(format!("data/app.db{suffix}")));
        }
        let connection = Connection::open(self.database_file()).expect("own directory");
        connection.query_row(&format!("PRAGMA journal_mode = {journal}"), [], |_| Ok(())).expect("a mode");
        connection.execute_batch("CREATE TABLE user (name); INSERT INTO user VALUES ('a')").expect("SQL");
        drop(connection);
        dirs::give_tree(&self.host.dir().join("data"));
    }

    pub fn ago(&self, seconds: u64) -> Timestamp {
        self.now.minus(Duration::from_secs(seconds))
    }

    fn repository(&self, dir: &Dir) -> Repository {
        let store = store::open(&format!("file://{}", dir.path().display()), &StoreOptions::default()).expect("an address");
        self.runtime.block_on(Repository::open("any", store, None)).expect("a repository")
    }

    /// The incarnation of a source, on record in `main` with its first backup, which began at `moment`.
    fn incarnation(&mut self, source: &'static str, moment: Timestamp) -> Incarnation {
        let engine = engine_of(source);
        let known = self.incarnations.entry(source).or_insert_with(|| Incarnation::dated(engine, moment)).clone();
        let identity = Identity {
            engine: engine.to_string(),
            major_version: if engine == Engine::Sqlite { 3 } else { 1 },
            system_identifier: known.to_string().rsplit('-').next().expect("a number").to_owned(),
            segment_bytes: SIZE,
            block_bytes: if engine == Engine::Sqlite { 4096 } else { 0 },
            first_seen: self.ago(400 * 24 * HOUR),
            incarnation: known.clone(),
        };
        let (source, repository) = (name(source), self.repository(&self.main));
        let ensuring = identity::ensure(&repository, &source, &self.signer, &identity);
        self.runtime.block_on(ensuring).expect("a right to write");
        known
    }

    /// A backup of `source` in `main`, that began `seconds` ago and took a minute; of a database `from` is the first
    /// segment of the log that follows it.
    pub fn backup(&mut self, source: &'static str, seconds: u64, base: Option<&BackupSummary>, from: From) -> BackupSummary {
        let start = self.ago(seconds);
        let stop = start.plus(Duration::from_secs(60));
        let incarnation = self.incarnation(source, start);
        let kind = if base.is_some() { BackupType::Incr } else { BackupType::Full };
        let id = BackupId::fresh(start, kind);
        let manifest = format!("manifest of {id}").into_bytes();
        let (start_lsn, stop_lsn) = match engine_of(source) {
            Engine::Directory => (Lsn::of_moment(start), Lsn::of_moment(stop)),
            _ => (Lsn(from * SIZE.bytes()), Lsn(from * SIZE.bytes())),
        };
        let summary = BackupSummary {
            backup_type: kind,
            base: base.map(|base| base.id.clone()),
            incarnation: incarnation.clone(),
            timeline: TimelineId(1),
            start_lsn,
            stop_lsn,
            start_time: start,
            stop_time: stop,
            segment_bytes: SIZE,
            from_standby: false,
            server_version: 0,
            data_checksums: false,
            wal_log_hints: false,
            wal_level: String::new(),
            encrypted: false,
            entries: 3,
            raw_bytes: 1 << 20,
            stored_bytes: manifest.len() as u64,
            packs: 0,
            packs_sha256: Sha256Digest::of(&backup::packs_text(&[])),
            manifest_sha256: Sha256Digest::of(&manifest),
            manifest_bytes: manifest.len() as u64,
            bad_pages: 0,
            duration_seconds: 60.0,
            id,
        };
        let begin = Begin {
            id: summary.id.clone(),
            base: summary.base.clone(),
            host: "host".into(),
            process: 1,
            lease_token: 0,
            started: start,
            log_start: Some(LogFloor { incarnation, lsn: start_lsn }),
        };
        let (repository, source) = (self.repository(&self.main), name(source));
        self.runtime.block_on(async {
            backup::begin(&repository, &source, &self.signer, &begin).await.expect("a fresh id");
            put(&repository, &layout::packs_list(&source, &summary.id), backup::packs_text(&[])).await;
            put(&repository, &layout::manifest(&source, &summary.id, ""), manifest).await;
            commit::append(&repository, &source, &self.signer, "host", &summary).await.expect("committed");
        });
        dirs::give_tree(self.main.path());
        summary
    }

    /// A segment of the database's log in `main`: commits from a moment to a later one, in seconds ago.
    pub fn segment(&mut self, number: u64, (from, to): (u64, u64), commits: u32) {
        let incarnation = self.incarnations[APP].clone();
        let header = SegmentHeader { from: Some(self.moment(from)), to: self.moment(to) };
        let mut writer = SegmentWriter::begin(Vec::new(), &header).expect("memory");
        writer.page(1, &[7; 4096]).expect("memory");
        let raw = writer.finish().expect("memory");
        let mut encoder = compress::stream_writer(Vec::new(), 3).expect("memory");
        encoder.write_all(&raw).expect("memory");
        let stored = encoder.finish().expect("memory");
        let time = CommitTime::At(header.to.captured_at);
        let segment = Segment { timeline: TimelineId(1), number };
        let digest = Sha256Digest::of(&raw).short();
        let object = SegmentName { segment, first: time, last: time, commits: Some(commits), digest };
        let key = format!("{}{}", layout::log_timeline(&name(APP), &incarnation, TimelineId(1)), object.text(SIZE, ""));
        let repository = self.repository(&self.main);
        self.runtime.block_on(put(&repository, &key, stored));
        dirs::give_tree(self.main.path());
    }

    fn moment(&self, seconds: u64) -> Moment {
        let file = FileId { device: 1, inode: 2, born_nanos: None };
        let at = Position {
            file,
            salts: Salts(9),
            frame: 1,
            checksum: [0, 0],
            change_counter: 1,
            page_size: 4096,
            pages: 3,
            boot: None,
        };
        let time = self.ago(seconds);
        Moment { complete_at: time, captured_at: time, at }
    }

    /// Names of the objects of the database's log in `dir`, by segment.
    pub fn log_in(&self, dir: &Dir) -> Vec<u64> {
        let at = dir.path().join(APP).join("log").join(self.incarnations[APP].to_string()).join("00000001");
        let entries = std::fs::read_dir(at).into_iter().flatten().flatten();
        let number = |name: String| Segment::parse(name.get(..24)?, SIZE).map(|segment| segment.number);
        let mut numbers: Vec<u64> =
            entries.filter_map(|entry| number(entry.file_name().to_string_lossy().into_owned())).collect();
        numbers.sort_unstable();
        numbers
    }

    /// Two chains of the database: snapshots nobody followed, a week with its log, a break, and the days since then.
    pub fn years_of_app(&mut self) -> [BackupSummary; 4] {
        let day = 24 * HOUR;
        let alone = self.backup(APP, 10 * day, None, 1);
        let full = self.backup(APP, 8 * day, None, 2);
        for hour in 0..3 {
            let from = if hour == 0 { 8 * day - 60 } else { 8 * day - hour * HOUR };
            self.segment(2 + hour, (from, 8 * day - (hour + 1) * HOUR), 5);
        }
        // Segment 5 is left out: something was not followed.
        let after = self.backup(APP, 2 * day, None, 6);
        self.segment(6, (2 * day - 60, 2 * day - HOUR), 7);
        let incr = self.backup(APP, day, Some(&after), 7);
        self.segment(7, (2 * day - HOUR, day - HOUR), 9);
        [alone, full, after, incr]
    }

    /// A full of the directory a week ago and one two days ago, each with two incrs a day later.
    pub fn years_of_docs(&mut self) -> Vec<BackupSummary> {
        let day = 24 * HOUR;
        let mut all = Vec::new();
        for ago in [9, 3] {
            let full = self.backup(DOCS, ago * day, None, 0);
            let first = self.backup(DOCS, (ago - 1) * day, Some(&full), 0);
            let second = self.backup(DOCS, (ago - 2) * day, Some(&first), 0);
            all.extend([full, first, second]);
        }
        all
    }

    /// Writes `policies/NAME.toml` on the host.
    pub fn policy(&self, name: &str, text: &str) {
        self.host.write(&format!("policies/{name}.toml"), text);
    }
}

fn engine_of(source: &str) -> Engine {
    if source == APP { Engine::Sqlite } else { Engine::Directory }
}

pub fn name(source: &str) -> SourceName {
    source.parse().expect("a name")
}

async fn put(repository: &Repository, key: &str, content: Vec<u8>) {
    let outcome = repository.store().put_if_absent(key, Body::from(content)).await.expect("room");
    assert_eq!(outcome, PutOutcome::Created, "{key}");
}

/// Asserts that no word of PostgreSQL's is in `text`.
#[track_caller]
pub fn assert_no_words_of_clusters(text: &str) {
    for word in ["LSN", "lsn", "WAL", "timeline", "segment", "PostgreSQL", "server", "archiver", "00000001"] {
        assert!(!text.contains(word), "{word} in\n{text}");
    }
}
