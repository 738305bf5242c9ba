//! The pool under a repository that stores nothing until it is told to.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::*;
use crate::base::{BackupId, BackupType, ErrorKind, Timestamp};
use crate::codec::FrameDigest;
use crate::engine::Scope;
use crate::engine::backup::packs::{ordered, store_while};
use crate::repo::pack::PackLine;
use crate::repo::{KeyEntry, Repository, Role, Signer};
use crate::store::memory::MemoryStore;
use crate::store::{Body, ListPage, ObjectInfo, PutOutcome, Store, StoreError, StoreResult};

const THREADS: u64 = 24;
const PACK_BYTES: u64 = 1 << 20;
const BUDGET: u64 = 3 << 20;
const FRAME_BYTES: u64 = 100_000;
const FRAMES_PER_THREAD: u64 = 20;

/// What a put does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Gate {
    Closed,
    Open,
    Failing,
}

/// A store whose puts wait at a gate.
struct GatedStore {
    inner: MemoryStore,
    gate: watch::Sender<Gate>,
    stored_bytes: AtomicU64,
}

#[async_trait]
impl Store for GatedStore {
    fn url(&self) -> &str {
        self.inner.url()
    }

    async fn put_if_absent(&self, key: &str, body: Body) -> StoreResult<PutOutcome> {
        if !key.contains("/pack-") {
            return self.inner.put_if_absent(key, body).await;
        }
        let gate = *self.gate.subscribe().wait_for(|gate| *gate != Gate::Closed).await.expect("the sender is here");
        if gate == Gate::Failing {
            return Err(StoreError::Permanent { message: "the disk is gone".to_owned(), source: None });
        }
        let Body::Bytes(bytes) = &body else { unreachable!("packs lie in memory") };
        let stored_bytes = bytes.len() as u64;
        let outcome = self.inner.put_if_absent(key, body).await?;
        self.stored_bytes.fetch_add(stored_bytes, Ordering::SeqCst);
        Ok(outcome)
    }

    async fn replace_if(&self, key: &str, content: Bytes, expected: Option<&str>) -> StoreResult<Option<String>> {
        self.inner.replace_if(key, content, expected).await
    }

    async fn get(&self, key: &str) -> StoreResult<Bytes> {
        self.inner.get(key).await
    }

    async fn get_versioned(&self, key: &str) -> StoreResult<(Bytes, String)> {
        self.inner.get_versioned(key).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> StoreResult<Bytes> {
        self.inner.get_range(key, range).await
    }

    async fn head(&self, key: &str) -> StoreResult<ObjectInfo> {
        self.inner.head(key).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>) -> StoreResult<ListPage> {
        self.inner.list(prefix, start_after).await
    }

    async fn list_dirs(&self, prefix: &str) -> StoreResult<Vec<String>> {
        self.inner.list_dirs(prefix).await
    }

    async fn delete(&self, key: &str) -> StoreResult<()> {
        self.inner.delete(key).await
    }
}

impl GatedStore {
    fn new() -> Arc<Self> {
        let gate = watch::Sender::new(Gate::Closed);
        Arc::new(Self { inner: MemoryStore::new(), gate, stored_bytes: AtomicU64::new(0) })
    }
}

/// What the appending threads have done.
#[derive(Default)]
struct Appended {
    bytes: AtomicU64,
    /// The most bytes that were appended and not yet stored.
    most_in_memory: AtomicU64,
}

impl Appended {
    /// Waits until not one frame more fits into the budget.
    fn wait_until_full<T>(&self, work: &JoinHandle<T>) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.bytes.load(Ordering::SeqCst) + FRAME_BYTES <= BUDGET {
            assert!(!work.is_finished() && Instant::now() < deadline, "only {:?} bytes were appended", self.bytes);
            thread::yield_now();
        }
    }
}

fn append_all(pool: &Pool, store: &GatedStore, appended: &Appended) -> Result<()> {
    let append = || -> Result<()> {
        for _ in 0..FRAMES_PER_THREAD {
            let raw = vec![7; FRAME_BYTES as usize];
            let digest = FrameDigest::of(&raw);
            pool.append(&Frame { stored: raw, raw_len: FRAME_BYTES as u32, digest })?;
            // In this order the difference is never more than what is in memory.
            let bytes = appended.bytes.fetch_add(FRAME_BYTES, Ordering::SeqCst) + FRAME_BYTES;
            let stored_bytes = store.stored_bytes.load(Ordering::SeqCst);
            appended.most_in_memory.fetch_max(bytes.saturating_sub(stored_bytes), Ordering::SeqCst);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(append)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    })
    .into_iter()
    .collect::<Result<()>>()?;
    pool.finish()
}

/// Appends on many threads and stores what they hand over.
fn start(runtime: &Runtime, store: &Arc<GatedStore>, appended: &Arc<Appended>) -> JoinHandle<Result<Vec<PackLine>>> {
    let (store, appended) = (Arc::clone(store), Arc::clone(appended));
    runtime.spawn(async move {
        let signer = Signer::generate();
        let keys = vec![KeyEntry { name: "host".into(), public_key: signer.public_key(), roles: vec![Role::Write, Role::Admin] }];
        let repository = Repository::create("main", Arc::clone(&store) as Arc<dyn Store>, keys, &signer).await?;
        let scope = Scope::new(repository, "orders".parse().unwrap(), Path::new("/nowhere"));
        let id = BackupId::fresh(Timestamp::now(), BackupType::Full);
        let (sender, receiver) = mpsc::channel(1);
        let pool = Pool::new(Seal::Plain, PACK_BYTES, BUDGET, Arc::new(PackNumbers::beside(std::iter::empty())), sender);
        let work = tokio::task::spawn_blocking(move || append_all(&pool, &store, &appended));
        let ((), lines) = store_while(&scope, &id, "", work, receiver, Some(&scope.state.resume(&scope.source))).await?;
        ordered(lines)
    })
}

#[test]
fn numbers_left_out_are_given_first_and_none_twice() {
    let numbers = PackNumbers::beside([2, 3, 6].into_iter());
    assert_eq!([numbers.take(), numbers.take()], [1, 4]);
    assert_eq!(numbers.take_hole(), Some(5));
    assert_eq!((numbers.take_hole(), numbers.take(), numbers.take()), (None, 7, 8));
    assert_eq!(PackNumbers::beside(std::iter::empty()).take(), 1);
}

#[track_caller]
fn ended<T>(runtime: &Runtime, work: JoinHandle<T>) -> T {
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), work).await }).expect("it never ends").unwrap()
}

#[test]
fn packs_in_memory_never_exceed_the_budget_however_slow_the_repository() {
    let (runtime, store, appended) = (Runtime::new().unwrap(), GatedStore::new(), Arc::default());
    let work = start(&runtime, &store, &appended);
    appended.wait_until_full(&work);
    assert_eq!(store.stored_bytes.load(Ordering::SeqCst), 0);
    store.gate.send_replace(Gate::Open);
    let lines = ended(&runtime, work).unwrap();
    let bytes = THREADS * FRAMES_PER_THREAD * FRAME_BYTES;
    assert_eq!(lines.iter().map(|line| line.stored_bytes).sum::<u64>(), bytes);
    // Full packs, but for those that were open at the end.
    assert!(lines.iter().filter(|line| line.stored_bytes < PACK_BYTES).count() <= MOST_OPEN as usize, "{lines:?}");
    let most = appended.most_in_memory.load(Ordering::SeqCst);
    assert!(most <= BUDGET, "{most} bytes were in memory");
}

#[test]
fn threads_that_wait_for_the_repository_end_when_it_fails() {
    let (runtime, store, appended) = (Runtime::new().unwrap(), GatedStore::new(), Arc::default());
    let work = start(&runtime, &store, &appended);
    appended.wait_until_full(&work);
    store.gate.send_replace(Gate::Failing);
    let error = ended(&runtime, work).unwrap_err();
    assert!(error.summary().contains("the disk is gone"), "{}", error.summary());
}

#[test]
fn threads_that_wait_for_a_pack_end_when_the_thread_that_has_it_fails() {
    let (sender, _receiver) = mpsc::channel(1);
    let pool = Pool::new(Seal::Plain, PACK_BYTES, BUDGET, Arc::new(PackNumbers::beside(std::iter::empty())), sender);
    let take = || pool.take(pool.budget.reserve(1, || false).unwrap()).unwrap();
    let taken: Vec<_> = (0..MOST_OPEN).map(|_| take()).collect();
    let frame = Frame { stored: vec![7; 10], raw_len: 10, digest: FrameDigest::of(&[7; 10]) };
    thread::scope(|scope| {
        let waiting = scope.spawn(|| pool.append(&frame));
        drop(taken);
        assert_eq!(waiting.join().unwrap().unwrap_err().kind(), ErrorKind::Interrupted);
    });
}
