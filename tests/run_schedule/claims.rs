//! Claims called directly: one winner, on stores that honour conditions and on stores that do not.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use lifeboat::base::{Job, Timestamp};
use lifeboat::engine::Scope;
use lifeboat::engine::slots::{self, Claimed};
use lifeboat::policy::turn::Turn;
use lifeboat::repo::{KeyEntry, Repository, Role, Signer, layout};
use lifeboat::store::memory::MemoryStore;
use lifeboat::store::{Body, ListPage, ObjectInfo, PutOutcome, Store, StoreResult};

const JOB: Job = Job::Incr;

/// A store that takes every write, and each a little later.
struct Careless(MemoryStore);

#[async_trait]
impl Store for Careless {
    fn url(&self) -> &str {
        self.0.url()
    }
    async fn put_if_absent(&self, key: &str, body: Body) -> StoreResult<PutOutcome> {
        tokio::time::sleep(Duration::from_millis(u64::from(rand::random::<u8>() % 50))).await;
        self.0.put_if_absent(key, body).await.map(|_| PutOutcome::Created)
    }
    async fn replace_if(&self, key: &str, content: Bytes, _: Option<&str>) -> StoreResult<Option<String>> {
        self.0.replace_if(key, content, None).await
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
    async fn honours_conditions(&self) -> StoreResult<bool> {
        Ok(false)
    }
}

struct Hosts {
    dir: tempfile::TempDir,
    repository: Repository,
    signer: Signer,
}

impl Hosts {
    async fn new(store: Arc<dyn Store>) -> Self {
        let signer = Signer::generate();
        let roles = vec![Role::Write, Role::Expire, Role::Admin];
        let entry = KeyEntry { name: "host".into(), public_key: signer.public_key(), roles };
        let repository = Repository::create("main", store, vec![entry], &signer).await.unwrap();
        Self { dir: tempfile::tempdir().unwrap(), repository, signer }
    }

    fn scope(&self, host: &str) -> Scope {
        Scope::new(self.repository.clone(), "orders".parse().unwrap(), &Path::new(self.dir.path()).join(host))
    }

    /// All hosts claim attempt `number` at one time; those that got it.
    async fn race(&self, hosts: usize, number: u32) -> Vec<(Scope, Claimed)> {
        let claims = (0..hosts).map(|host| async move {
            let scope = self.scope(&format!("host{host}"));
            let settle = Some(Duration::from_millis(300));
            let claimed = slots::claim(&scope, &self.signer, JOB, slot(), number, settle).await.unwrap();
            claimed.map(|claimed| (scope, claimed))
        });
        join_all(claims).await.into_iter().flatten().collect()
    }

    async fn turn(&self, host: &str) -> Turn {
        slots::look(&self.scope(host), JOB, slot(), Timestamp::now()).await.unwrap().turn
    }
}

fn slot() -> Timestamp {
    Timestamp::parse_compact("20261120T214000Z").unwrap()
}

async fn one_winner_each_time(store: Arc<dyn Store>) {
    let hosts = Hosts::new(store).await;
    assert_eq!(hosts.turn("host0").await, Turn::Take(1));
    for number in 1..=3 {
        let winners = hosts.race(8, number).await;
        let [(scope, claimed)] = &winners[..] else { panic!("{} winners of attempt {number}", winners.len()) };
        assert!(matches!(hosts.turn("stranger").await, Turn::Busy(_)), "it is at work");
        // Interrupted: the next attempt needs no pause after the first, and one after the second.
        claimed.end(scope, &hosts.signer, Some(if number < 3 { 130 } else { 0 })).await.unwrap();
        match (number, hosts.turn("stranger").await) {
            (1, Turn::Take(2)) | (2, Turn::Wait(_)) | (3, Turn::Settled) => {}
            (number, turn) => panic!("after attempt {number}: {turn:?}"),
        }
    }
}

#[tokio::test]
async fn one_host_alone_has_each_attempt() {
    one_winner_each_time(Arc::new(MemoryStore::new())).await;
}

#[tokio::test]
async fn also_where_the_store_takes_every_write() {
    one_winner_each_time(Arc::new(Careless(MemoryStore::new()))).await;
}

#[tokio::test]
async fn claims_go_after_a_month_and_the_young_ones_stay() {
    let hosts = Hosts::new(Arc::new(MemoryStore::new())).await;
    let scope = hosts.scope("host");
    let before = |days: u64| slot().minus(Duration::from_secs(days * 86_400));
    for days in [0, 1, 400] {
        slots::claim(&scope, &hosts.signer, JOB, before(days), 1, None).await.unwrap().expect("the only one");
    }
    let prefix = layout::run_job(&scope.source, JOB);
    let left = async |now| {
        slots::forget_old(&scope, JOB, slot(), now).await.unwrap();
        hosts.repository.store().list(&prefix, None).await.unwrap().objects.len()
    };
    let now = Timestamp::now();
    // Claims of old slots that were made a moment ago.
    assert_eq!(left(now.plus(Duration::from_secs(30 * 86_400))).await, 3);
    // All are old then; the present slot's stays.
    assert_eq!(left(now.plus(Duration::from_secs(32 * 86_400))).await, 1);
}
