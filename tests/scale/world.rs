//! A repository as it is after years, made without a server: names, and signed entries.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lifeboat::base::{BackupId, BackupType, Incarnation, Lsn, Segment, SegmentSize, SourceName, TimelineId, Timestamp};
use lifeboat::codec::Sha256Digest;
use lifeboat::repo::commit::{CommitEntry, Committed, LogFloor};
use lifeboat::repo::identity::{self, Identity};
use lifeboat::repo::log::{CommitTime, SegmentName};
use lifeboat::repo::signed::{self, Place};
use lifeboat::repo::{BackupSummary, KeyEntry, Repository, Role, Signer, Tombstone, layout};
use lifeboat::store::Store;
use lifeboat::store::memory::MemoryStore;

/// Backups that were ever committed: fulls, one after the other.
pub const BACKUPS: usize = 400;

/// The oldest of them have expired.
pub const EXPIRED: usize = 150;

const SIZE: SegmentSize = SegmentSize::DEFAULT;

/// The segment in which the log begins: that of the first backup that is left.
const FIRST: u64 = 1000;

pub fn source() -> SourceName {
    "orders".parse().expect("a name")
}

pub fn end_of_log(segments: u64) -> Lsn {
    Lsn((FIRST + segments) * SIZE.bytes())
}

pub struct World {
    pub objects: BTreeMap<String, Vec<u8>>,
    pub signer: Signer,
}

impl World {
    /// A repository with so many segments of log, over which the backups that are left lie evenly.
    pub async fn of(segments: u64) -> Self {
        let (store, signer) = (Arc::new(MemoryStore::new()), Signer::generate());
        let roles = vec![Role::Write, Role::Expire, Role::Admin];
        let keys = vec![KeyEntry { name: "host".into(), public_key: signer.public_key(), roles }];
        let repository = Repository::create("main", store.clone(), keys, &signer).await.expect("an empty store");
        let incarnation = Incarnation::postgres(15, 7_312_345_678_901_234_567);
        let began = Timestamp::now().minus(Duration::from_secs(segments * 60));
        let identity = Identity {
            incarnation: incarnation.clone(),
            engine: "postgres".to_owned(),
            major_version: 15,
            system_identifier: "7312345678901234567".to_owned(),
            segment_bytes: SIZE,
            block_bytes: 8192,
            first_seen: began,
        };
        identity::ensure(&repository, &source(), &signer, &identity).await.expect("it answers");
        let mut objects = BTreeMap::new();
        for number in FIRST..FIRST + segments {
            let time = began.plus(Duration::from_secs((number - FIRST) * 60));
            objects.insert(segment_key(&incarnation, number, time), b"x".to_vec());
        }
        let every = segments / (BACKUPS - EXPIRED) as u64;
        let left = |index: usize| index.checked_sub(EXPIRED).map(|index| FIRST + index as u64 * every);
        let summaries: Vec<BackupSummary> =
            (0..BACKUPS).map(|index| summary(&incarnation, index, left(index).unwrap_or(index as u64), began)).collect();
        for backup in &summaries[EXPIRED..] {
            for name in ["begin.json", "packs.jsonl", "manifest.jsonl.zst"] {
                objects.insert(format!("{}{name}", layout::backup(&source(), &backup.id)), b"x".to_vec());
            }
        }
        let gone = summaries[..EXPIRED].iter().map(|backup| backup.id.clone()).collect();
        let floor = LogFloor { incarnation, lsn: Lsn(FIRST * SIZE.bytes()) };
        let tombstone = Tombstone { backups: gone, marks: vec![], log_floors: vec![floor], log_ranges: Vec::new() };
        let committed = summaries.into_iter().map(|backup| Committed::Backup(Box::new(backup)));
        let committed = committed.chain([Committed::Tombstone(tombstone)]).collect();
        objects.extend(entries(&repository, &signer, committed));
        for object in store.list_all("", None).await.expect("it answers") {
            let content = store.get(&object.key).await.expect("it is there");
            objects.insert(object.key, content.to_vec());
        }
        Self { objects, signer }
    }

    /// Puts all of it into `store`.
    pub async fn put(&self, store: &dyn Store) {
        for (key, content) in &self.objects {
            store.put_if_absent(key, content.clone().into()).await.expect("room");
        }
    }
}

fn segment_key(incarnation: &Incarnation, number: u64, time: Timestamp) -> String {
    let segment = Segment { timeline: TimelineId(1), number };
    let digest = Sha256Digest::of(&number.to_be_bytes()).short();
    let name = SegmentName { segment, first: CommitTime::At(time), last: CommitTime::At(time), commits: Some(17), digest };
    format!("{}{}", layout::log_timeline(&source(), incarnation, segment.timeline), name.text(SIZE, ".age"))
}

/// The full number `index`, which begins in segment `begin`.
fn summary(incarnation: &Incarnation, index: usize, begin: u64, began: Timestamp) -> BackupSummary {
    let time = began.plus(Duration::from_secs(60 * begin.saturating_sub(FIRST) + index as u64));
    let id: BackupId = format!("{}-full-aaaa", time.compact_seconds()).parse().expect("an id");
    BackupSummary {
        id,
        backup_type: BackupType::Full,
        base: None,
        incarnation: incarnation.clone(),
        timeline: TimelineId(1),
        start_lsn: Lsn(begin * SIZE.bytes() + 40),
        stop_lsn: Lsn(begin * SIZE.bytes() + 4000),
        start_time: time,
        stop_time: time.plus(Duration::from_secs(1)),
        segment_bytes: SIZE,
        from_standby: false,
        server_version: 150_000,
        data_checksums: true,
        wal_log_hints: false,
        wal_level: "replica".to_owned(),
        encrypted: false,
        entries: 1000,
        raw_bytes: 1 << 30,
        stored_bytes: 1 << 28,
        packs: 8,
        packs_sha256: Sha256Digest::of(b"x"),
        manifest_sha256: Sha256Digest::of(b"x"),
        manifest_bytes: 1,
        bad_pages: 0,
        duration_seconds: 1.0,
    }
}

/// The commit log, signed and chained.
fn entries(repository: &Repository, signer: &Signer, committed: Vec<Committed>) -> Vec<(String, Vec<u8>)> {
    let (mut entries, mut previous) = (Vec::new(), None);
    for (number, committed) in (1..).zip(committed) {
        let entry =
            CommitEntry { number, previous, lease_token: 0, host: "host".to_owned(), written: Timestamp::now(), committed };
        let document = signed::sign(Place::of_source("commit", repository.id(), &source()), &entry, signer);
        previous = Some(Sha256Digest::of(&document));
        entries.push((layout::commit(&source(), number), document));
    }
    entries
}
