//! Stores to test, and what tests need around them.

use std::any::Any;
use std::ops::Deref;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use lifeboat::store::faulty::FaultyStore;
use lifeboat::store::layer::breaker::Breaker;
use lifeboat::store::layer::bulkhead::{Bulkhead, Stream};
use lifeboat::store::layer::limit::Bucket;
use lifeboat::store::layer::{LayerOptions, layered};
use lifeboat::store::local::LocalStore;
use lifeboat::store::memory::MemoryStore;
use lifeboat::store::{Body, LIST_PAGE_OBJECTS, MAX_KEY_BYTES, ObjectInfo, PutOutcome, Store};
use tokio::runtime::Runtime;

/// A store, what may be expected of it, and what keeps it alive.
pub struct Fixture {
    pub store: Arc<dyn Store>,
    pub traits: Traits,
    pub kept: Box<dyn Any + Send + Sync>,
}

/// Where stores may differ; everything else is the same for all.
#[derive(Clone, Copy, Debug)]
pub struct Traits {
    /// What becomes of an object that has the name of another's directory.
    pub conflicts: Conflicts,
    /// What becomes of several puts of one name at one moment.
    pub racing: Racing,
    /// The longest key.
    pub key_bytes: usize,
    /// Which names it can keep.
    pub names: Names,
}

/// What becomes of an object that has the name of another's directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflicts {
    /// It is refused.
    Refused,
    /// Both are there.
    Kept,
    /// The other one stays; nothing else is known.
    Undefined,
}

/// What becomes of several puts of one name at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Racing {
    /// One creates the object, the others are told that it exists.
    OneWinner,
    /// Several may be told that they created it; what is there is always one of them, whole.
    LastStays,
    /// Nothing is sure: they write into one file, and what is there may be parts of several, even afterwards.
    Undefined,
}

/// Which names a store can keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// All.
    Any,
    /// All but those in which nothing is visible.
    Visible,
    /// Those that a file system behind it takes and that an XML listing can show.
    FilesInXml,
}

impl Traits {
    const LOCAL: Self =
        Self { conflicts: Conflicts::Refused, racing: Racing::OneWinner, key_bytes: MAX_KEY_BYTES, names: Names::Any };
    pub const S3: Self = Self { conflicts: Conflicts::Kept, ..Self::LOCAL };
}

impl Deref for Fixture {
    type Target = dyn Store;

    fn deref(&self) -> &Self::Target {
        &*self.store
    }
}

impl Fixture {
    pub fn new(store: impl Store + 'static, traits: Traits, kept: impl Any + Send + Sync) -> Self {
        Self { store: Arc::new(store), traits, kept: Box::new(kept) }
    }
}

pub use crate::buckets::{elsewhere, rclone, s3, s3_below_a_prefix, s3_that_falls_short, s3_with_versions};

pub fn local() -> Option<Fixture> {
    let directory = tempfile::tempdir().unwrap();
    Some(Fixture::new(local_at(directory.path()), Traits::LOCAL, directory))
}

pub fn memory() -> Option<Fixture> {
    Some(Fixture::new(MemoryStore::new(), Traits::LOCAL, ()))
}

pub fn counted() -> Option<Fixture> {
    Some(Fixture::new(FaultyStore::counting(Arc::new(MemoryStore::new())), Traits::LOCAL, ()))
}

/// A local store inside every layer there is.
pub fn layered_local() -> Option<Fixture> {
    let local = local()?;
    Some(Fixture { store: layered(local.store, &every_layer()), ..local })
}

/// A store that lists page by page, inside every layer there is.
pub fn layered_memory() -> Option<Fixture> {
    let memory = memory()?;
    Some(Fixture { store: layered(memory.store, &every_layer()), ..memory })
}

fn every_layer() -> LayerOptions {
    LayerOptions {
        limit: Some(Arc::new(Bucket::new(1 << 40))),
        breaker: Some(Arc::new(Breaker::new())),
        bulkhead: Some((Arc::new(Bulkhead::new(4, 4)), Stream::Log)),
        ..LayerOptions::short()
    }
}

/// A local store in a directory, prepared as `init` does.
pub fn local_at(root: &Path) -> LocalStore {
    LocalStore::create_root(root).unwrap();
    LocalStore::new(root)
}

/// Runs a test's body as the short commands run theirs.
/// Runs `work` on the runtime that all threads of this process share: one that ended with its work would take the
/// connections with it that others have come to use.
pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());
    RUNTIME.block_on(work)
}

pub async fn put(store: &dyn Store, key: &str, content: &[u8]) -> PutOutcome {
    store.put_if_absent(key, Body::from(content.to_vec())).await.unwrap_or_else(|error| panic!("put {key:?}: {error:?}"))
}

/// The number that [`count_up`] left in an object.
pub fn count_in(content: &[u8]) -> u64 {
    let (number, _writer) = std::str::from_utf8(content).unwrap().split_once(' ').expect("a number and its writer");
    number.parse().unwrap()
}

/// Adds one to the number that an object holds, however often others change it in between. No two writers write the same
/// content: that is how a store tells its own replacement from another's when an answer was lost.
pub async fn count_up(store: &dyn Store, key: &str) {
    let writer = format!("{}-{:?}", std::process::id(), std::thread::current().id());
    loop {
        let (number, version) = match store.get_versioned(key).await {
            Ok((content, version)) => (count_in(&content), Some(version)),
            Err(error) if error.is_not_found() => (0, None),
            Err(error) => panic!("{key}: {error}"),
        };
        let next = format!("{} {writer}", number + 1);
        if store.replace_if(key, next.into(), version.as_deref()).await.unwrap().is_some() {
            return;
        }
    }
}

/// All keys below a prefix, the same whether listed at once or page by page.
pub async fn keys(store: &dyn Store, prefix: &str, start_after: Option<&str>) -> Vec<String> {
    let objects = store.list_all(prefix, start_after).await.unwrap();
    let (mut paged, mut more) = (Vec::<ObjectInfo>::new(), true);
    while more {
        let after = paged.last().map(|object| object.key.as_str()).or(start_after);
        let page = store.list(prefix, after).await.unwrap();
        assert!(page.objects.len() == LIST_PAGE_OBJECTS || (!page.more && page.objects.len() < LIST_PAGE_OBJECTS));
        paged.extend(page.objects);
        more = page.more;
    }
    assert_eq!(objects, paged, "{prefix:?} after {start_after:?}");
    objects.into_iter().map(|object| object.key).collect()
}

/// Waits until a condition holds; panics with `what` after half a minute.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "timed out waiting until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Says aloud that a test cannot run here, and fails where everything must run.
pub fn skip(why: &str) {
    assert!(std::env::var_os("REQUIRE_SERVERS").is_none_or(|value| value != "1"), "cannot run here: {why}");
    eprintln!("SKIPPED: {why}");
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
