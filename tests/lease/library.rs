//! The lease and the fence, called directly.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat::base::{Cancel, ErrorKind, Timestamp};
use lifeboat::codec::Sha256Digest;
use lifeboat::engine::Scope;
use lifeboat::engine::lease::{Ability, Terms, acquire};
use lifeboat::repo::commit::{self, Author, CommitEntry, Committed};
use lifeboat::repo::lease::Lease;
use lifeboat::repo::signed::{self, Place};
use lifeboat::repo::{CommitLog, layout, lease};
use lifeboat::store::memory::MemoryStore;
use lifeboat::store::{Body, ListPage, ObjectInfo, PutOutcome, Store, StoreResult};

use crate::child::{self, TTL};
use crate::stage::{LEASE, Stage, block_on, summary, terms};

const SOON: Duration = Duration::from_secs(100);

#[test]
fn twenty_processes_have_one_holder_at_a_time_and_tokens_that_grow() {
    const ROUNDS: u32 = 2;
    let stage = Stage::new();
    let children: Vec<_> = (0..20).map(|number| child::spawn(stage.dir.path(), &format!("host{number}"), ROUNDS)).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let turns = std::fs::read_to_string(stage.dir.path().join("turns")).unwrap();
    let turns: Vec<[i64; 3]> = turns
        .lines()
        .map(|line| {
            let numbers: Vec<i64> = line.split(' ').take(3).map(|number| number.parse().unwrap()).collect();
            numbers.try_into().unwrap()
        })
        .collect();
    assert_eq!(turns.len(), 20 * ROUNDS as usize);
    for pair in turns.windows(2) {
        assert!(pair[0][0] < pair[1][0], "tokens grow in the order of the turns: {turns:?}");
        assert!(pair[0][2] <= pair[1][1], "no turn begins before the one before it ends: {turns:?}");
    }
}

#[test]
fn a_killed_holder_is_waited_for_and_then_succeeded() {
    let stage = Stage::new();
    let mut killed = child::spawn(stage.dir.path(), "killed", 0);
    let deadline = Instant::now() + SOON;
    while !stage.dir.path().join("inside").exists() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    let began = Instant::now();
    block_on(async {
        let busy = stage.acquire("other", terms(TTL, Duration::ZERO)).await.err().expect("it may be alive");
        assert_eq!(busy.kind(), ErrorKind::Busy);
        assert!(busy.details().iter().any(|(label, value)| label == "holder" && value.contains("process")), "{busy:?}");
        let held = stage.acquire("other", terms(TTL, SOON)).await.unwrap();
        assert_eq!(held.token(), 2);
        held.release().await;
    });
    assert!(began.elapsed() >= TTL - Duration::from_millis(100), "after {:?}", began.elapsed());
}

#[test]
fn the_next_run_from_the_same_state_directory_need_not_wait() {
    let stage = Stage::new();
    block_on(async {
        let left = stage.acquire("host", terms(SOON, Duration::ZERO)).await.unwrap();
        drop(left);
        let held = stage.acquire("host", terms(SOON, Duration::ZERO)).await.unwrap();
        assert_eq!(held.token(), 2);
        assert_eq!(stage.acquire("other", terms(SOON, Duration::ZERO)).await.err().unwrap().kind(), ErrorKind::Busy);
    });
}

#[test]
fn a_holder_that_lost_its_lease_knows_before_it_commits() {
    let stage = Stage::new();
    block_on(async {
        let first = stage.acquire("host", terms(TTL, Duration::ZERO)).await.unwrap();
        first.check().await.unwrap();
        // As if this process had been stopped: the other one does not see it renew.
        let second = stage.acquire("host", terms(TTL, Duration::ZERO)).await.unwrap();
        let lost = first.check().await.unwrap_err();
        assert_eq!(lost.kind(), ErrorKind::Busy);
        assert!(lost.message().contains("was lost"), "{lost:?}");
        first.lost().await;
        assert!(first.check_not_lost().is_err());
        first.release().await;
        second.check().await.unwrap();
        second.release().await;
        let third = stage.acquire("other", terms(TTL, Duration::ZERO)).await.unwrap();
        assert_eq!(third.token(), 3, "tokens are not given again after a release");
    });
}

#[test]
fn a_lease_that_ran_out_unseen_is_still_the_holders() {
    let stage = Stage::new();
    block_on(async {
        let held = stage.acquire("host", terms(TTL, Duration::ZERO)).await.unwrap();
        set_age(&stage, Duration::from_secs(3600));
        held.check().await.unwrap();
        assert_eq!(stage.acquire("other", terms(TTL, Duration::ZERO)).await.err().unwrap().kind(), ErrorKind::Busy);
    });
}

/// Makes the lease look as if it had been written so long ago by the store's clock.
fn set_age(stage: &Stage, age: Duration) {
    let file = std::fs::File::open(stage.object(LEASE)).unwrap();
    file.set_modified(SystemTime::now() - age).unwrap();
}

#[test]
fn the_holders_clock_is_not_asked() {
    for (skew_hours, name) in [(-240i64, "far behind"), (240, "far ahead")] {
        let stage = Stage::new();
        block_on(async {
            let held = stage.acquire("host", terms(TTL, Duration::ZERO)).await.unwrap();
            drop(held);
            let scope = stage.scope("other").await;
            let (found, version) = lease::load(&scope.repository, &scope.source).await.unwrap().unwrap();
            let hours = Duration::from_secs(3600 * skew_hours.unsigned_abs());
            let shifted = |time: Timestamp| if skew_hours < 0 { time.minus(hours) } else { time.plus(hours) };
            let skewed = Lease { acquired: shifted(found.acquired), expires: shifted(found.expires), ..found };
            let document = lease::document(&scope.repository, &scope.source, &stage.signer(), &skewed);
            scope.repository.store().replace_if(LEASE, document, Some(&version)).await.unwrap().unwrap();
            let busy = stage.acquire("other", terms(TTL, Duration::ZERO)).await.err().expect(name);
            assert_eq!(busy.kind(), ErrorKind::Busy, "{name}");
            set_age(&stage, Duration::from_secs(5));
            assert_eq!(stage.acquire("other", terms(TTL, Duration::ZERO)).await.unwrap().token(), 2, "{name}");
        });
    }
}

#[test]
fn where_the_stores_clock_is_wrong_watching_tells() {
    let stage = Stage::new();
    block_on(async {
        drop(stage.acquire("host", terms(TTL, Duration::ZERO)).await.unwrap());
        let file = std::fs::File::open(stage.object(LEASE)).unwrap();
        file.set_modified(SystemTime::now() + Duration::from_secs(86_400)).unwrap();
        let began = Instant::now();
        let held = stage.acquire("other", terms(TTL, SOON)).await.unwrap();
        assert!(held.token() == 2 && began.elapsed() >= TTL, "{:?}", began.elapsed());
    });
}

#[test]
fn tokens_grow_even_when_the_lease_is_deleted() {
    let stage = Stage::new();
    block_on(async {
        let scope = stage.scope("host").await;
        commit_under(&scope, &stage, 7, 1).await.unwrap();
        scope.repository.store().delete(LEASE).await.unwrap();
        assert_eq!(stage.acquire("host", terms(TTL, Duration::ZERO)).await.unwrap().token(), 8);
    });
}

#[test]
fn a_lease_that_nobody_with_a_key_wrote_is_refused() {
    let stage = Stage::new();
    block_on(async {
        let scope = stage.scope("host").await;
        scope.repository.store().replace_if(LEASE, "{}\n".into(), None).await.unwrap().unwrap();
        let refused = stage.acquire("host", terms(TTL, Duration::ZERO)).await.err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::Damaged);
        assert!(refused.hints().iter().any(|hint| hint.contains(LEASE)), "{refused:?}");
    });
}

async fn commit_under(scope: &Scope, stage: &Stage, lease_token: u64, number: u32) -> lifeboat::base::Result<CommitEntry> {
    let signer = stage.signer();
    let author = Author { signer: &signer, host: "here", lease_token };
    let backup = Committed::Backup(Box::new(summary(number)));
    commit::append_decided(&scope.repository, &scope.source, author, async |_| Ok(backup.clone())).await
}

#[test]
fn the_commit_log_refuses_older_tokens() {
    let stage = Stage::new();
    block_on(async {
        let scope = stage.scope("host").await;
        for (token, number) in [(0, 1), (1, 2), (3, 3), (3, 4), (0, 5)] {
            commit_under(&scope, &stage, token, number).await.unwrap();
        }
        let refused = commit_under(&scope, &stage, 2, 6).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Busy);
        // A writer that had read the log before it lost its lease, on a store that takes whatever it is given.
        let log = CommitLog::load(&scope.repository, &scope.source).await.unwrap();
        let (number, head) = log.head.unwrap();
        let entry = CommitEntry {
            number: number + 1,
            previous: Some(head),
            lease_token: 2,
            host: "paused".into(),
            written: Timestamp::now(),
            committed: Committed::Backup(Box::new(summary(6))),
        };
        let place = Place::of_source("commit", scope.repository.id(), &scope.source);
        let document = signed::sign(place, &entry, &stage.signer());
        let digest = Sha256Digest::of(&document);
        let key = layout::commit(&scope.source, number + 1);
        scope.repository.store().put_if_absent(&key, document.into()).await.unwrap();
        let log = CommitLog::load(&scope.repository, &scope.source).await.unwrap();
        assert_eq!((log.backups().count(), log.problems.len(), log.fenced.len()), (5, 1, 1));
        assert!(log.problems[0].1.contains("had lost its lease") && log.problems[0].1.contains("paused"), "{:?}", log.problems);
        assert!(log.is_whole() && log.find(&summary(6).id).is_none());
        // The log goes on after it.
        let next = commit_under(&scope, &stage, 4, 7).await.unwrap();
        assert_eq!((next.number, next.previous), (number + 2, Some(digest)));
        let log = CommitLog::load(&scope.repository, &scope.source).await.unwrap();
        assert_eq!((log.backups().count(), log.problems.len()), (6, 1));
    });
}

#[test]
fn racing_writers_leave_no_gap_in_the_commit_log() {
    let stage = Stage::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let stage = &stage;
        let write = |number: u32| async move {
            let scope = stage.scope(&format!("host{number}")).await;
            commit_under(&scope, stage, 0, number).await.unwrap()
        };
        let mut numbers: Vec<u32> = Vec::new();
        let (a, b, c, d) = tokio::join!(write(1), write(2), write(3), write(4));
        numbers.extend([a, b, c, d].map(|entry| entry.number));
        numbers.sort_unstable();
        assert_eq!(numbers, [1, 2, 3, 4]);
        let log = CommitLog::load(&stage.scope("reader").await.repository, &"orders".parse().unwrap()).await.unwrap();
        assert!(log.problems.is_empty(), "{:?}", log.problems);
    });
}

/// A store that takes conditions and does not keep them, as some do.
struct Ignoring(MemoryStore);

#[async_trait]
impl Store for Ignoring {
    fn url(&self) -> &str {
        self.0.url()
    }

    async fn put_if_absent(&self, key: &str, body: Body) -> StoreResult<PutOutcome> {
        self.0.put_if_absent(key, body).await
    }

    async fn replace_if(&self, key: &str, content: Bytes, _: Option<&str>) -> StoreResult<Option<String>> {
        tokio::time::sleep(Duration::from_millis(u64::from(rand::random::<u8>() % 50))).await;
        let there = self.0.get_versioned(key).await.ok().map(|(_, version)| version);
        self.0.replace_if(key, content, there.as_deref()).await
    }

    async fn get(&self, key: &str) -> StoreResult<Bytes> {
        self.0.get(key).await
    }

    async fn get_versioned(&self, key: &str) -> StoreResult<(Bytes, String)> {
        self.0.get_versioned(key).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> StoreResult<Bytes> {
        self.0.get_range(key, range).await
    }

    async fn head(&self, key: &str) -> StoreResult<ObjectInfo> {
        self.0.head(key).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>) -> StoreResult<ListPage> {
        self.0.list(prefix, start_after).await
    }

    async fn list_dirs(&self, prefix: &str) -> StoreResult<Vec<String>> {
        self.0.list_dirs(prefix).await
    }

    async fn delete(&self, key: &str) -> StoreResult<()> {
        self.0.delete(key).await
    }
}

#[test]
fn a_store_that_ignores_conditions_still_has_one_winner() {
    let stage = Stage::new();
    block_on(async {
        let repository = stage.create_in(Arc::new(Ignoring(MemoryStore::new()))).await;
        let (signer, stage) = (stage.signer(), &stage);
        let settle = Duration::from_millis(200);
        let terms = Terms { ability: Some(Ability::None), settle, ..terms(SOON, Duration::ZERO) };
        let take = |host: &'static str| {
            let scope = Scope::new(repository.clone(), "orders".parse().unwrap(), &stage.dir.path().join(host));
            let signer = signer.clone();
            async move { acquire(&scope, &signer, "backup", terms, &Cancel::new()).await }
        };
        let (a, b, c) = tokio::join!(take("a"), take("b"), take("c"));
        let mut held: Vec<_> = [a, b, c].into_iter().flatten().collect();
        assert_eq!(held.len(), 1, "one of three");
        let winner = held.remove(0);
        winner.check().await.unwrap();
        assert_eq!(take("d").await.err().expect("it is held").kind(), ErrorKind::Busy);
        winner.release().await;
        assert_eq!(take("d").await.unwrap().token(), 2);
    });
}
