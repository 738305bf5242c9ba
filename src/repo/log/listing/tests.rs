use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::base::{Lsn, TimelineId};
use crate::repo::commit::{Committed, LogFloor, Tombstone};
use crate::repo::log::name::{CommitTime, HistoryName, SegmentName};
use crate::repo::{KeyEntry, Role, Signer};
use crate::store::faulty::FaultyStore;
use crate::store::local::LocalStore;
use crate::store::memory::MemoryStore;

const SIZE: SegmentSize = SegmentSize::DEFAULT;

/// A repository whose calls are counted, and a host.
struct Stage {
    repository: Repository,
    counting: Arc<FaultyStore>,
    dir: tempfile::TempDir,
    source: SourceName,
    incarnation: Incarnation,
    log: CommitLog,
}

impl Stage {
    async fn on(store: Arc<dyn Store>) -> Self {
        let signer = Signer::generate();
        let roles = vec![Role::Write, Role::Expire, Role::Admin];
        let keys = vec![KeyEntry { name: "host".into(), public_key: signer.public_key(), roles }];
        let counting = Arc::new(FaultyStore::counting(store));
        let repository = Repository::create("main", counting.clone(), keys, &signer).await.unwrap();
        let (source, incarnation) = ("orders".parse().unwrap(), Incarnation::postgres(15, 1));
        Self { repository, counting, dir: tempfile::tempdir().unwrap(), source, incarnation, log: CommitLog::default() }
    }

    async fn new() -> Self {
        Self::on(Arc::new(MemoryStore::new())).await
    }

    fn state(&self) -> HostState {
        HostState::new(self.dir.path(), self.repository.id())
    }

    fn file(&self) -> PathBuf {
        self.state().listing_path(&self.source, &self.incarnation)
    }

    fn key(&self, timeline: u32, number: u64, content: char) -> String {
        let segment = Segment { timeline: TimelineId(timeline), number };
        let digest = content.to_string().repeat(16);
        let name = SegmentName { segment, first: CommitTime::None, last: CommitTime::None, commits: Some(0), digest };
        let directory = layout::log_timeline(&self.source, &self.incarnation, segment.timeline);
        format!("{directory}{}", name.text(SIZE, ".age"))
    }

    async fn put(&self, key: &str) {
        self.repository.store().put_if_absent(key, b"x".to_vec().into()).await.unwrap();
    }

    async fn segments(&self, timeline: u32, numbers: std::ops::Range<u64>) {
        for number in numbers {
            self.put(&self.key(timeline, number, 'a')).await;
        }
    }

    async fn history(&self, timeline: u32, parent: u32) {
        let name = HistoryName {
            timeline: TimelineId(timeline),
            parent: TimelineId(parent),
            switch_lsn: Lsn(u64::from(timeline) << 24),
            digest: "b".repeat(16),
        };
        self.put(&format!("{}{}", layout::log(&self.source, &self.incarnation), name.text(""))).await;
    }

    /// Has everything before segment `number` expire, in the commit log alone.
    fn expire_before(&mut self, number: u64) {
        let floor = LogFloor { incarnation: self.incarnation.clone(), lsn: Lsn(number * SIZE.bytes()) };
        let tombstone = Tombstone { backups: vec![], marks: vec![], log_floors: vec![floor], log_ranges: Vec::new() };
        self.log = CommitLog::of(vec![Committed::Tombstone(tombstone)]);
    }

    /// The catalogue, and how many pages were listed for it.
    async fn look(&self) -> (LogCatalog, usize) {
        let before = self.counting.calls().len();
        let state = self.state();
        let (repository, source, incarnation) = (&self.repository, &self.source, &self.incarnation);
        let place = Place { repository, state: &state, source, incarnation, size: SIZE };
        let found = catalog(place, &self.log).await.unwrap();
        let page = format!("list {}", layout::log(&self.source, &self.incarnation));
        (found, self.counting.calls()[before..].iter().filter(|call| **call == page).count())
    }

    /// Asserts that the remembered catalogue is the true one; how many pages were listed for it.
    async fn assert_true(&self, what: &str) -> usize {
        let (found, pages) = self.look().await;
        let truth = LogCatalog::load(&self.repository, &self.source, &self.incarnation, SIZE).await.unwrap();
        assert!(found.segments == truth.segments, "{what}: segments");
        assert_eq!(found.histories, truth.histories, "{what}");
        assert_eq!(found.split_brains, truth.split_brains, "{what}");
        pages
    }
}

#[tokio::test]
async fn a_later_look_asks_only_about_what_may_have_come() {
    let mut stage = Stage::new().await;
    stage.segments(1, 1..3501).await;
    assert_eq!(stage.assert_true("the first look").await, 4);
    assert_eq!(stage.assert_true("nothing came").await, 2);
    assert_eq!(std::fs::metadata(stage.file()).unwrap().permissions().mode() & 0o777, 0o600);
    // More of the same timeline, a promotion, and digests and keys that no catalogue speaks of.
    stage.segments(1, 3501..3511).await;
    stage.history(2, 1).await;
    stage.segments(2, 3505..3508).await;
    stage.put(&format!("{}00000001-1.age", layout::log_keys(&stage.source, &stage.incarnation))).await;
    assert_eq!(stage.assert_true("a promotion").await, 2);
    assert_eq!(stage.assert_true("two timelines, of which one is short").await, 2);
    // Two holes, of which one is filled later on.
    for number in [1000, 2000] {
        stage.repository.store().delete(&stage.key(1, number, 'a')).await.unwrap();
    }
    std::fs::remove_file(stage.file()).unwrap();
    assert_eq!(stage.assert_true("everything").await, 4);
    stage.segments(1, 1000..1001).await;
    // Four questions would be no less than what everything takes.
    assert_eq!(stage.assert_true("a hole was filled").await, 4);
    stage.segments(1, 3511..6000).await;
    assert_eq!(stage.assert_true("much came at once").await, 1 + 1 + 3);
    assert_eq!(stage.assert_true("one hole").await, 3);
    stage.segments(1, 2000..2001).await;
    stage.assert_true("the other hole was filled").await;
    // A second primary where the log grows.
    stage.put(&stage.key(1, 5990, 'c')).await;
    stage.assert_true("a split brain").await;
    // What expired is deleted bit by bit.
    stage.expire_before(3000);
    for number in 1..1500 {
        stage.repository.store().delete(&stage.key(1, number, 'a')).await.unwrap();
    }
    stage.assert_true("an expiry half done").await;
    for number in 1500..3000 {
        stage.repository.store().delete(&stage.key(1, number, 'a')).await.unwrap();
    }
    assert_eq!(stage.assert_true("an expiry").await, 2);
}

/// What arrives in any order is seen at once, as long as no content is given to a number a second time far back.
#[tokio::test]
async fn whatever_arrives_is_seen_at_the_next_look() {
    for seed in 0..6 {
        let mut random = StdRng::seed_from_u64(seed);
        let stage = Stage::new().await;
        let mut waiting: Vec<String> = Vec::new();
        for timeline in 1..=random.random_range(1..4u32) {
            let begin = u64::from(timeline) * random.random_range(1..1500);
            for number in begin..begin + random.random_range(1..2500) {
                let key = stage.key(timeline, number, 'a');
                // Some come late, in any order.
                if random.random_bool(0.002) { waiting.push(key) } else { stage.put(&key).await }
            }
            if timeline > 1 && random.random_bool(0.7) {
                stage.history(timeline, timeline - 1).await;
            }
        }
        stage.assert_true(&format!("seed {seed}, the first look")).await;
        while !waiting.is_empty() {
            stage.put(&waiting.swap_remove(random.random_range(0..waiting.len()))).await;
            stage.assert_true(&format!("seed {seed}, {} to come", waiting.len())).await;
        }
    }
}

#[tokio::test]
async fn what_cannot_be_trusted_is_not_gone_on_with() {
    let mut stage = Stage::new().await;
    stage.segments(1, 1..3501).await;
    stage.look().await;
    let sound = std::fs::read(stage.file()).unwrap();
    for at in [0, 64, 65, 100, sound.len() / 2, sound.len() - 1] {
        let mut damaged = sound.clone();
        damaged[at] ^= 1;
        std::fs::write(stage.file(), damaged).unwrap();
        assert_eq!(stage.assert_true(&format!("byte {at}")).await, 4, "byte {at}");
    }
    std::fs::write(stage.file(), &sound[..sound.len() / 2]).unwrap();
    assert_eq!(stage.assert_true("cut short").await, 4);
    // A second content far back is seen when everything is listed again, by who decides at once.
    stage.put(&stage.key(1, 7, 'c')).await;
    assert!(stage.look().await.0.split_brains.is_empty());
    let prefix = layout::log(&stage.source, &stage.incarnation);
    let (facts, objects) = read(&stage.file(), &prefix).unwrap();
    let ages = [(WHOLE_AFTER - Duration::from_secs(60), 2), (WHOLE_AFTER, 4)];
    for (age, pages) in ages {
        let facts = Facts { listed_whole: Timestamp::now().minus(age), ..facts.clone() };
        write(&stage.file(), &facts, &prefix, &objects).unwrap();
        assert_eq!(stage.look().await.1, pages, "{age:?}");
    }
    stage.assert_true("a day later").await;
    // A clock that was set back, another repository, a commit log that does not hold what was seen of it.
    let (facts, objects) = read(&stage.file(), &prefix).unwrap();
    let head = Some(RememberedHead { number: 1, sha256: Sha256Digest::of(b"seen") });
    for facts in [
        Facts { listed_whole: Timestamp::now().plus(Duration::from_secs(60)), ..facts.clone() },
        Facts { repository: "another".to_owned(), ..facts.clone() },
        Facts { version: VERSION + 1, ..facts.clone() },
        Facts { head, ..facts.clone() },
    ] {
        write(&stage.file(), &facts, &prefix, &objects).unwrap();
        assert_eq!(stage.look().await.1, 4, "{facts:?}");
    }
    stage.log.digests.insert(1, Sha256Digest::of(b"seen"));
    write(&stage.file(), &Facts { head, ..facts }, &prefix, &objects).unwrap();
    assert_eq!(stage.look().await.1, 2, "it is in the log");
}

/// A name that says that nothing was committed in a segment would lead a restore past its target.
#[tokio::test]
async fn names_of_one_content_that_disagree_tell_nothing() {
    let stage = Stage::new().await;
    let told = |number: u64, time: &str| stage.key(1, number, 'a').replace("_-_-_0_", &format!("_{time}_{time}_1_"));
    for key in [stage.key(1, 3, 'a'), told(3, "20260101T000000.000000Z"), told(4, "20260101T000000.000000Z")] {
        stage.put(&key).await;
    }
    let catalog = stage.look().await.0;
    assert!(catalog.split_brains.is_empty() && catalog.strangers.is_empty(), "{catalog:?}");
    let last: Vec<CommitTime> = catalog.segments.values().map(|object| object.name.last).collect();
    let time = Timestamp::parse_compact("20260101T000000Z").unwrap();
    assert_eq!(last, [CommitTime::Unknown, CommitTime::At(time)]);
}

#[tokio::test]
async fn a_directory_is_listed_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    LocalStore::create_root(dir.path()).unwrap();
    let stage = Stage::on(Arc::new(LocalStore::new(dir.path()))).await;
    stage.segments(1, 1..20).await;
    stage.assert_true("a directory").await;
    assert!(!stage.file().exists());
}
