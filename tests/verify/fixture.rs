//! A small repository with two backups and a log, made without a server: by `lifeboat init` and `archive push`, and by
//! the library's own writers where only a server could say more.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use lifeboat::base::{BackupId, BackupType, Incarnation, Lsn, RelPath, Segment, SegmentSize, SourceName, TimelineId, Timestamp};
use lifeboat::codec::compress::{self, Compressor};
use lifeboat::codec::encrypt::Recipient;
use lifeboat::codec::{FrameDigest, Sha256Digest, frame};
use lifeboat::engine::{Scope, Writing, archive};
use lifeboat::repo::backup::{self, Begin};
use lifeboat::repo::manifest::{Facts, FileKind, FileLine, Header, ManifestWriter, PostgresFacts};
use lifeboat::repo::pack::{FrameRef, PackBuilder, PackLine};
use lifeboat::repo::{BackupSummary, Repository, Signer, commit, layout};
use lifeboat::store::{self, Store};
use tempfile::TempDir;

/// Segments are 1 MiB long.
pub const SIZE_BYTES: u32 = 1 << 20;
const SYSTEM_IDENTIFIER: u64 = 7_312_345_678_901_234_567;
/// Where the records of a hand-made segment begin: after the long page header.
const FIRST_RECORD: u64 = 40;
/// Length of the commit record there, and so the distance to the next.
const COMMIT_BYTES: u64 = 40;

/// A host with a configuration, keys and a repository.
pub struct Fixture {
    pub dir: TempDir,
}

impl Fixture {
    /// An empty repository, made by `lifeboat init`.
    pub fn new() -> Self {
        let fixture = Self { dir: tempfile::Builder::new().prefix("lifeboat verify ").tempdir().unwrap() };
        let url = store::file_url(&fixture.path("repo"));
        let start = format!("state_dir = \"state\"\n[repository.main]\nurl = \"{url}\"\n");
        fs::write(fixture.path("lifeboat.toml"), &start).unwrap();
        let made = fixture.json("init --generate-keys keys", 0);
        let lines = made["configuration"].as_str().unwrap();
        let lines = lines.replace("[signing]", "identity_file = \"keys/identity.age\"\n\n[signing]");
        let sources = "[source.orders]\nkind = \"postgres\"\nconninfo = \"host=/nowhere\"\n";
        fs::write(fixture.path("lifeboat.toml"), format!("state_dir = \"state\"\n{lines}\n{sources}")).unwrap();
        fixture
    }

    /// A repository with backups 1 and 2 of `orders`, segments 3 to 6, of which 6 is not covered by signed digests yet.
    pub fn with_backups() -> Self {
        let fixture = Self::new();
        fixture.push_segments(3..=5);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let (scope, writing) = fixture.scope().await;
            archive::push::flush_index(&scope, &writing, &incarnation()).await.unwrap();
            fixture.backup(&scope, &writing, 3, &FrameDigest::of).await;
            fixture.backup(&scope, &writing, 4, &FrameDigest::of).await;
        });
        fixture.push_segments(6..=6);
        fixture
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// An object of the repository.
    pub fn object(&self, key: &str) -> PathBuf {
        self.path("repo").join(key)
    }

    /// The key of the one object that begins with `prefix` and contains `part`.
    pub fn find(&self, prefix: &str, part: &str) -> String {
        let dir = self.object(prefix);
        let names = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut found: Vec<String> = names.filter(|name| name.contains(part)).collect();
        assert_eq!(found.len(), 1, "{part} in {}: {found:?}", dir.display());
        format!("{prefix}{}", found.remove(0))
    }

    pub fn run(&self, line: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        command.args(line.split_whitespace()).current_dir(self.dir.path()).stdin(Stdio::null());
        command.env_clear().env("HOME", self.path("home"));
        command.output().unwrap()
    }

    /// Runs `line --output json`, which must exit with `code`, and parses its stdout.
    pub fn json(&self, line: &str, code: i32) -> serde_json::Value {
        let output = self.run(&format!("{line} --output json"));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{line}: {stderr}{}", String::from_utf8_lossy(&output.stdout));
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{line}: {error}: {stderr}"))
    }

    /// Archives hand-made segments by the command PostgreSQL calls.
    pub fn push_segments(&self, numbers: std::ops::RangeInclusive<u64>) {
        for number in numbers {
            let (name, content) = segment(number);
            fs::write(self.path(&name), content).unwrap();
            let output = self.run(&format!("archive push orders {name}"));
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
        }
    }

    /// The repository, opened by the library on this host.
    pub async fn scope(&self) -> (Scope, Writing) {
        let store: Arc<dyn Store> = store::open(&store::file_url(&self.path("repo")), &store::StoreOptions::default()).unwrap();
        let repository = Repository::open("main", store, None).await.unwrap();
        let identity = fs::read_to_string(self.path("keys/identity.age")).unwrap();
        let recipient = identity.lines().find_map(|line| line.strip_prefix("# public key: ")).unwrap();
        let recipients: Vec<Recipient> = vec![recipient.parse().unwrap()];
        let signer = Signer::read(&self.path("keys/signing.key")).unwrap();
        let writing = Writing { signer, recipients: Some(recipients), compression_level: 3 };
        (Scope::new(repository, source(), &self.path("state")), writing)
    }

    /// Writes and commits a backup whose log is segment `number` alone. `digest` makes the frames' digests.
    pub async fn backup(&self, scope: &Scope, writing: &Writing, number: u64, digest: &dyn Fn(&[u8]) -> FrameDigest) -> BackupId {
        let (repository, source) = (&scope.repository, source());
        let id = BackupId::fresh(Timestamp::now(), BackupType::Full);
        begin(scope, writing, &id).await;
        let seal = backup::store_key(repository, &source, &id, writing.recipients.as_deref()).await.unwrap();
        let (mut packs, mut lines) = (Vec::new(), Vec::new());
        for pack in 1..=2 {
            let mut builder = PackBuilder::new(&seal, 1 << 20).unwrap();
            for file in 0..3u32 {
                let raw: Vec<u8> = (0..9000).map(|n: u32| ((n * (file + pack)) >> 3) as u8).collect();
                let encoded = frame::encode(&mut Compressor::new(3).unwrap(), &raw).unwrap();
                let offset = builder.add(&encoded).unwrap();
                let stored_len = encoded.stored.len() as u32;
                let frame = FrameRef { owner: 0, pack, offset, stored_len, raw_len: encoded.raw_len, digest: digest(&raw) };
                lines.push(file_line(&format!("base/{pack}/{file}"), frame));
            }
            let (stored, sha256) = builder.finish().unwrap();
            packs.push(PackLine { pack, stored_bytes: stored.len() as u64, sha256 });
            put(scope, &layout::pack(&source, &id, pack, ".age"), stored.to_vec()).await;
        }
        let text = backup::packs_text(&packs);
        let packs_sha256 = Sha256Digest::of(&text);
        put(scope, &layout::packs_list(&source, &id), text).await;
        let compressed = compress::stream_writer(seal.writer(Vec::new()).unwrap(), 3).unwrap();
        let mut manifest = ManifestWriter::new(compressed, &header(&id)).unwrap();
        lines.iter().for_each(|line| manifest.entry(line).unwrap());
        let (compressed, footer) = manifest.finish().unwrap();
        let manifest = compressed.finish().unwrap().finish().unwrap();
        let summary = BackupSummary {
            packs_sha256,
            manifest_sha256: Sha256Digest::of(&manifest),
            manifest_bytes: manifest.len() as u64,
            entries: footer.entries,
            raw_bytes: footer.raw_bytes,
            stored_bytes: packs.iter().map(|pack| pack.stored_bytes).sum::<u64>() + manifest.len() as u64,
            ..summary(&id, number)
        };
        put(scope, &layout::manifest(&source, &id, ".age"), manifest).await;
        commit::append(repository, &source, &writing.signer, "here", &summary).await.unwrap();
        id
    }
}

/// Announces a backup.
pub async fn begin(scope: &Scope, writing: &Writing, id: &BackupId) {
    let (host, started) = ("here".into(), Timestamp::now());
    let begin = Begin { id: id.clone(), base: None, host, process: 1, lease_token: 0, started, log_start: None };
    backup::begin(&scope.repository, &source(), &writing.signer, &begin).await.unwrap();
}

/// Stores an object.
pub async fn put(scope: &Scope, key: &str, content: Vec<u8>) {
    scope.repository.store().put_if_absent(key, content.into()).await.unwrap();
}

pub fn source() -> SourceName {
    "orders".parse().unwrap()
}

pub fn incarnation() -> Incarnation {
    Incarnation::postgres(15, SYSTEM_IDENTIFIER)
}

/// What the commit entry of a backup says whose log is segment `number` alone.
pub fn summary(id: &BackupId, number: u64) -> BackupSummary {
    let start = number * u64::from(SIZE_BYTES);
    BackupSummary {
        id: id.clone(),
        backup_type: BackupType::Full,
        base: None,
        incarnation: incarnation(),
        timeline: TimelineId(1),
        start_lsn: Lsn(start + FIRST_RECORD),
        stop_lsn: Lsn(start + FIRST_RECORD + COMMIT_BYTES),
        start_time: Timestamp::now(),
        stop_time: Timestamp::now(),
        segment_bytes: SegmentSize::new(SIZE_BYTES).unwrap(),
        from_standby: false,
        server_version: 150_018,
        data_checksums: true,
        wal_log_hints: false,
        wal_level: "replica".into(),
        encrypted: true,
        entries: 0,
        raw_bytes: 0,
        stored_bytes: 0,
        packs: 2,
        packs_sha256: Sha256Digest::of(b""),
        manifest_sha256: Sha256Digest::of(b""),
        manifest_bytes: 0,
        bad_pages: 0,
        duration_seconds: 1.5,
    }
}

fn header(id: &BackupId) -> Header {
    Header {
        format: 1,
        backup: id.clone(),
        backup_type: BackupType::Full,
        source: source(),
        incarnation: incarnation(),
        owners: vec![id.clone()],
        users: Default::default(),
        groups: Default::default(),
        facts: Facts::Postgres(PostgresFacts::default()),
    }
}

fn file_line(path: &str, frame: FrameRef) -> FileLine {
    FileLine {
        path: RelPath::new(path).unwrap(),
        kind: FileKind::File,
        mode: 0o600,
        uid: 26,
        gid: 26,
        modified: Timestamp::now(),
        inode: 5,
        size_bytes: u64::from(frame.raw_len),
        frames: vec![frame],
        patches: vec![],
        states: vec![],
        bad_blocks: Vec::new(),
        tree: None,
    }
}

/// Segment `number` of timeline 1: one COMMIT, then a switch to the next segment. Name and content.
pub fn segment(number: u64) -> (String, Vec<u8>) {
    let start = number * u64::from(SIZE_BYTES);
    let mut bytes = Vec::new();
    bytes.extend(0xD110u16.to_le_bytes()); // version 15
    bytes.extend(2u16.to_le_bytes()); // long header
    bytes.extend(1u32.to_le_bytes()); // timeline
    bytes.extend(start.to_le_bytes());
    bytes.extend([0; 8]); // no continuation
    bytes.extend(SYSTEM_IDENTIFIER.to_le_bytes());
    bytes.extend(SIZE_BYTES.to_le_bytes());
    bytes.extend(8192u32.to_le_bytes());
    let (commit, switch) = (start + FIRST_RECORD, start + FIRST_RECORD + COMMIT_BYTES);
    let before = switch - u64::from(SIZE_BYTES);
    let micros_since_2000 = 800_000_000_000_000 + number as i64;
    bytes.extend(record(1, 0x00, before, &[&[255, 8][..], &micros_since_2000.to_le_bytes()].concat()));
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    assert_eq!(bytes.len() as u64 + start, switch);
    bytes.extend(record(0, 0x40, commit, &[]));
    bytes.resize(SIZE_BYTES as usize, 0);
    let name = Segment { timeline: TimelineId(1), number }.name(SegmentSize::new(SIZE_BYTES).unwrap());
    (name, bytes)
}

fn record(resource_manager: u8, info: u8, previous: u64, body: &[u8]) -> Vec<u8> {
    let mut record = Vec::new();
    record.extend((24 + body.len() as u32).to_le_bytes());
    record.extend(7u32.to_le_bytes());
    record.extend(previous.to_le_bytes());
    record.extend([info, resource_manager, 0, 0]);
    let checksum = crc32c::crc32c_append(crc32c::crc32c(body), &record);
    record.extend(checksum.to_le_bytes());
    record.extend(body);
    record
}

/// Copies a tree.
pub fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
