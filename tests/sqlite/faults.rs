//! Every call to the repository fails once, in every way, while a backup is taken and while a segment is stored.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lifeboat::base::progress::{Progress, Silent};
use lifeboat::base::{BackupType, Cancel, Result, SourceName};
use lifeboat::engine::archive::stream::Surroundings;
use lifeboat::engine::backup::Wish;
use lifeboat::engine::restore::Target;
use lifeboat::engine::sqlite::backup::{self, BackupOptions};
use lifeboat::engine::sqlite::log::{self, Followed, Options};
use lifeboat::engine::sqlite::restore::{self, Request, RestoreOptions};
use lifeboat::engine::{Scope, Writing};
use lifeboat::repo::queue::Queue;
use lifeboat::repo::{CommitLog, KeyEntry, Repository, Role, Signer};
use lifeboat::source::sqlite::Options as WatchOptions;
use lifeboat::store::faulty::{Fault, FaultyStore};
use lifeboat::store::memory::MemoryStore;
use lifeboat::store::{Store, list_all};
use rusqlite::Connection;
use tempfile::TempDir;

const FAULTS: [Fault; 4] = [Fault::ErrorBefore, Fault::ErrorAfter, Fault::TruncatedBody, Fault::FlippedBit];

/// A database, a program that writes it, and a repository in memory.
pub struct Stage {
    dir: TempDir,
    pub program: Connection,
    pub store: Arc<MemoryStore>,
    writing: Writing,
    pub rows: u32,
}

fn source() -> SourceName {
    "app".parse().unwrap()
}

impl Stage {
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = Connection::open(dir.path().join("data.db")).unwrap();
        program
            .execute_batch("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; CREATE TABLE t (n INTEGER PRIMARY KEY, x)")
            .unwrap();
        let signer = Signer::generate();
        let writing = Writing { signer: signer.clone(), recipients: None, compression_level: 1 };
        let store = Arc::new(MemoryStore::new());
        let keys = vec![KeyEntry { name: "host".into(), public_key: signer.public_key(), roles: vec![Role::Write, Role::Admin] }];
        Repository::create("main", store.clone(), keys, &signer).await.unwrap();
        Self { dir, program, store, writing, rows: 0 }
    }

    pub fn insert(&mut self) {
        self.rows += 1;
        self.program.execute("INSERT INTO t VALUES (?1, randomblob(300))", [self.rows]).unwrap();
    }

    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub fn database(&self) -> PathBuf {
        self.dir.path().join("data.db")
    }

    async fn scope(&self, store: Arc<dyn Store>) -> Result<Scope> {
        Here { state: self.state(), store }.open("main").await
    }

    async fn backup(&self, store: Arc<dyn Store>, kind: BackupType) -> Result<()> {
        self.backup_told(store, kind, Arc::new(Silent)).await
    }

    pub async fn backup_told(&self, store: Arc<dyn Store>, kind: BackupType, progress: Arc<dyn Progress>) -> Result<()> {
        let options = BackupOptions {
            wish: Wish::Type(kind),
            path: self.database(),
            workers: 2,
            pack_bytes: None,
            lease: None,
            admit_in: Vec::new(),
        };
        let scope = self.scope(store).await?;
        backup::run(&scope, &self.writing, &options, progress, Cancel::new()).await.map(|_| ())
    }

    /// Follows until `cancel`; told before it begins, it stores what was committed until then.
    async fn follow(&self, store: Arc<dyn Store>, cancel: Cancel) -> Result<Followed> {
        let state_dir = self.state();
        let options = Options {
            source: source(),
            path: self.database(),
            flush: Duration::from_millis(1),
            repositories: vec![("main".to_owned(), Queue::new(&state_dir, &source(), "main"))],
            state_dir,
            needed: 1,
            longest_pause: Duration::from_millis(1),
            workers: 1,
            pack_bytes: None,
            lease: None,
            watch: WatchOptions::default(),
        };
        let here = Here { state: self.state(), store };
        log::run(&options, &here, &self.writing, Arc::new(Silent), cancel).await
    }

    /// Stores what was committed.
    async fn follow_once(&self, store: Arc<dyn Store>) -> Result<Followed> {
        let cancel = Cancel::new();
        cancel.cancel();
        self.follow(store, cancel).await
    }

    /// Keys of the log's segments.
    async fn segments(&self) -> Vec<String> {
        let listed = list_all(self.store.as_ref(), "app/log/", None).await.unwrap();
        listed.into_iter().map(|object| object.key).filter(|key| key.contains("/00000001/")).collect()
    }

    async fn backups(&self) -> usize {
        list_all(self.store.as_ref(), "app/commit/", None).await.unwrap().len()
    }

    /// What is restored by whoever has only the repository.
    pub async fn restored(&self) -> Option<u32> {
        let scope = self.scope(self.store.clone()).await.unwrap();
        let log = CommitLog::load(&scope.repository, &scope.source).await.unwrap();
        let request = Request { target: Target::Latest, incarnation: None, backup: None };
        let prepared = restore::prepare(&scope, &log, &Vec::new(), &request).await.ok()?;
        let into = self.dir.path().join("restored.db");
        let options = RestoreOptions { into: into.clone(), workers: 1 };
        restore::run(&scope, &prepared, &options, Arc::new(Silent), Cancel::new()).await.unwrap();
        let rows = rows(&into);
        std::fs::remove_file(into).unwrap();
        Some(rows)
    }
}

fn rows(path: &Path) -> u32 {
    crate::world::rows_in(path)
}

struct Here {
    state: PathBuf,
    store: Arc<dyn Store>,
}

#[async_trait]
impl Surroundings for Here {
    async fn open(&self, _repository: &str) -> Result<Scope> {
        Ok(Scope::new(Repository::open("main", self.store.clone(), None).await?, source(), &self.state))
    }

    fn deliver(&self) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_faults_stands_or_does_not() {
    let mut stage = Stage::new().await;
    for _ in 0..40 {
        stage.insert();
    }
    for kind in [BackupType::Full, BackupType::Incr] {
        stage.insert();
        let counting = Arc::new(FaultyStore::counting(stage.store.clone()));
        stage.backup(counting.clone(), kind).await.unwrap();
        assert_eq!(stage.restored().await, Some(stage.rows));
        let calls = counting.calls().len();
        assert!(calls > 8, "{calls}");
        let mut before = stage.rows;
        for fault in FAULTS {
            for call in 0..calls {
                stage.insert();
                let faulty = Arc::new(FaultyStore::failing(stage.store.clone(), call, fault, 7));
                let taken = stage.backup(faulty.clone(), kind).await;
                let restored = stage.restored().await.unwrap();
                match taken {
                    Ok(()) => assert_eq!(restored, stage.rows, "{kind:?}, call {call}, {fault:?}"),
                    // Then either nothing became of it, or all of it but the answer.
                    Err(error) => assert!([before, stage.rows].contains(&restored), "{kind:?}, {call}: {restored}, {error}"),
                }
                before = restored;
            }
        }
        stage.backup(stage.store.clone(), kind).await.unwrap();
        assert_eq!(stage.restored().await, Some(stage.rows));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_under_faults_is_stored_once() {
    let mut stage = Stage::new().await;
    stage.insert();
    let cancel = Cancel::new();
    let first_backup = async {
        while stage.backups().await == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        cancel.cancel();
    };
    let (followed, ()) = tokio::join!(stage.follow(stage.store.clone(), cancel.clone()), first_backup);
    assert_eq!(followed.unwrap().backups, 1);
    stage.insert();
    let counting = Arc::new(FaultyStore::counting(stage.store.clone()));
    assert_eq!(stage.follow_once(counting.clone()).await.unwrap().segments, 1);
    let calls = counting.calls().len();
    assert!(calls > 5, "{calls}");
    for fault in FAULTS {
        for call in 0..calls {
            stage.insert();
            let faulty = Arc::new(FaultyStore::failing(stage.store.clone(), call, fault, 7));
            let _ = stage.follow_once(faulty.clone()).await;
            // More than what was on its way: one after the other, and all of it before the end.
            stage.insert();
            stage.follow_once(stage.store.clone()).await.unwrap();
            assert_eq!(stage.restored().await, Some(stage.rows), "call {call}, {fault:?}");
        }
    }
    assert_eq!(stage.backups().await, 1, "everything goes on from the first backup");
    let segments = stage.segments().await;
    let mut numbers: Vec<&str> = segments.iter().map(|key| &key.rsplit('/').next().unwrap()[..24]).collect();
    numbers.dedup();
    assert_eq!(numbers.len(), segments.len(), "two contents under one number: {segments:?}");
}
