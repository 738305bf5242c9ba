//! A repository in a bucket whose backups are made of a few small objects: enough to lock, expire and look at.

use std::path::Path;
use std::sync::Arc;

use lifeboat::base::{BackupId, BackupType, Incarnation, Lsn, SegmentSize, SourceName, TimelineId, Timestamp};
use lifeboat::codec::Sha256Digest;
use lifeboat::engine::Scope;
use lifeboat::repo::backup::{self, Begin};
use lifeboat::repo::commit::{self, LogFloor};
use lifeboat::repo::{BackupSummary, KeyEntry, Repository, Role, Signer, layout};
use lifeboat::store::{Body, LockTerms, PutOutcome, Store};
use tempfile::TempDir;

use crate::bucket::store;
use crate::support::s3::S3Server;

pub const SEGMENT: SegmentSize = SegmentSize::DEFAULT;

/// The repository, and who may do everything in it.
pub struct Fabricated {
    pub server: S3Server,
    pub signer: Signer,
    state: TempDir,
}

pub fn source() -> SourceName {
    "orders".parse().expect("a name")
}

pub fn incarnation() -> Incarnation {
    Incarnation::postgres(15, 1)
}

impl Fabricated {
    /// An empty repository, made with this lock.
    pub async fn create(server: S3Server, lock: Option<LockTerms>) -> Self {
        let signer = Signer::generate();
        let roles = vec![Role::Write, Role::Expire, Role::Admin];
        let keys = vec![KeyEntry { name: "all".into(), public_key: signer.public_key(), roles }];
        Repository::create("main", Arc::new(store(&server, lock)), keys, &signer).await.expect("an empty bucket");
        Self { server, signer, state: tempfile::tempdir().expect("a directory") }
    }

    /// The source as a host sees it whose configuration has this lock.
    pub async fn scope(&self, lock: Option<LockTerms>) -> Scope {
        self.scope_through(Arc::new(store(&self.server, lock)), self.state.path()).await
    }

    pub async fn scope_through(&self, store: Arc<dyn Store>, state: &Path) -> Scope {
        Scope::new(Repository::open("main", store, None).await.expect("a repository"), source(), state)
    }

    /// Begins and stores a backup, with this lock, and commits it where `is_whole`; its keys.
    pub async fn backup(&self, id: &str, base: Option<&BackupSummary>, lock: Option<LockTerms>, is_whole: bool) -> BackupSummary {
        let scope = self.scope(lock).await;
        let repository = &scope.repository;
        let start = base.map_or(Lsn(10 * SEGMENT.bytes()), |base| base.stop_lsn);
        let summary = summary(id.parse().expect("an id"), base, start);
        let begin = Begin {
            id: summary.id.clone(),
            base: summary.base.clone(),
            host: "host".into(),
            process: 1,
            lease_token: 0,
            started: Timestamp::now(),
            log_start: Some(LogFloor { incarnation: incarnation(), lsn: start }),
        };
        backup::begin(repository, &source(), &self.signer, &begin).await.expect("a fresh id");
        for name in ["key-1.age", "pack-00000001.zst.age", "pack-00000002.zst.age", "packs.jsonl", "manifest.jsonl.zst.age"] {
            put(repository.store(), &format!("{}{name}", layout::backup(&source(), &summary.id))).await;
        }
        if is_whole {
            commit::append(repository, &source(), &self.signer, "host", &summary).await.expect("committed");
        }
        summary
    }

    /// Keys of everything in the bucket, whatever hides it, and how many versions there are.
    pub fn keys(&self) -> Vec<String> {
        self.server.versions().into_iter().map(|(name, _)| name).collect()
    }
}

/// Puts an object whose content is its key.
pub async fn put(store: &dyn Store, key: &str) {
    let outcome = store.put_if_absent(key, Body::from(key.as_bytes().to_vec())).await.expect("room");
    assert_eq!(outcome, PutOutcome::Created, "{key}");
}

fn summary(id: BackupId, base: Option<&BackupSummary>, start_lsn: Lsn) -> BackupSummary {
    BackupSummary {
        backup_type: if base.is_some() { BackupType::Incr } else { BackupType::Full },
        base: base.map(|base| base.id.clone()),
        incarnation: incarnation(),
        timeline: TimelineId(1),
        start_lsn,
        stop_lsn: Lsn(start_lsn.0 + 100),
        start_time: id.start(),
        stop_time: id.start(),
        id,
        segment_bytes: SEGMENT,
        from_standby: false,
        server_version: 150_000,
        data_checksums: true,
        wal_log_hints: false,
        wal_level: "replica".to_owned(),
        encrypted: true,
        entries: 0,
        raw_bytes: 0,
        stored_bytes: 0,
        packs: 2,
        packs_sha256: Sha256Digest::of(b""),
        manifest_sha256: Sha256Digest::of(b""),
        manifest_bytes: 0,
        bad_pages: 0,
        duration_seconds: 0.0,
    }
}
