//! A small cluster, and a repository in memory that can be copied in an instant.
//!
//! The server's archiver leaves segments in a directory, from which each copy of the repository takes what it lacks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lifeboat::base::progress::Silent;
use lifeboat::base::{BackupId, Cancel, Result, SourceName};
use lifeboat::codec::Sha256Digest;
use lifeboat::codec::encrypt::{DataKey, Identity};
use lifeboat::engine::archive::push;
use lifeboat::engine::backup::{self, BackupOptions, BackupReport, Reading, Wish};
use lifeboat::engine::lease::Terms;
use lifeboat::engine::restore::Target;
use lifeboat::engine::restore::prepare::{Request, prepare};
use lifeboat::engine::restore::run::{self as restore, RestoreOptions};
use lifeboat::engine::{Scope, Writing, head, verify};
use lifeboat::repo::{CommitLog, KeyEntry, Repository, Role, Signer, layout};
use lifeboat::source::postgres::recovery_config::TargetAction;
use lifeboat::store::memory::MemoryStore;
use lifeboat::store::{PutOutcome, Store};
use tempfile::TempDir;

use crate::support::dirs::Dir;
use crate::support::listing;
use crate::support::postgres::{Cluster, Installation, Options, RECOVERY_TIMEOUT};
use crate::support::process;

/// What lies below a directory, by path.
pub type Tree = BTreeMap<PathBuf, Sha256Digest>;

/// The cluster, and whoever backs it up.
pub struct Stage {
    pub cluster: Cluster,
    incoming: Dir,
    pub writing: Writing,
    pub identities: Vec<Identity>,
}

/// A repository and what one host remembers of it.
pub struct Place {
    pub store: Arc<MemoryStore>,
    pub state: TempDir,
    archiver_state: PathBuf,
    /// Segments that are in the repository.
    taken: BTreeSet<PathBuf>,
}

pub fn source() -> SourceName {
    "orders".parse().expect("a name")
}

impl Stage {
    /// A cluster with little in it, and an empty repository.
    pub async fn start() -> Option<(Self, Place)> {
        let installation = Installation::require(15)?;
        let incoming = Dir::new();
        let path = incoming.path().display().to_string();
        let options = Options { wal_segment_mib: 1, ..Options::default() }
            .with("archive_mode = on")
            .with(format!("archive_command = 'cp \"%p\" {path}/.%f && mv {path}/.%f {path}/%f'"));
        let cluster = apart(|| {
            let cluster = Cluster::running(&installation, &options);
            let mut sql = cluster.sql();
            sql.execute("UPDATE pg_database SET datistemplate = false");
            for template in ["template0", "template1"] {
                sql.execute(&format!("DROP DATABASE {template}"));
            }
            sql.execute("CREATE TABLE rows AS SELECT n, sha256(n::text::bytea) AS noise FROM generate_series(1, 20000) AS n");
            drop(sql);
            cluster
        });
        let key = DataKey::generate();
        let signer = Signer::generate();
        let writing = Writing { signer, recipients: Some(vec![key.recipient()]), compression_level: 1 };
        let identities = vec![key.identity().clone()];
        let stage = Self { cluster, incoming, writing, identities };
        stage.settle();
        let place = stage.empty_repository().await;
        Some((stage, place))
    }

    /// A repository that holds nothing yet, and a host that remembers nothing of it.
    pub async fn empty_repository(&self) -> Place {
        let place = Place::empty(Arc::new(MemoryStore::new()));
        let roles = vec![Role::Write, Role::Expire, Role::Admin];
        let keys = vec![KeyEntry { name: "host".into(), public_key: self.writing.signer.public_key(), roles }];
        Repository::create("main", place.store.clone(), keys, &self.writing.signer).await.expect("an empty store");
        place
    }

    /// Brings every file to the state that it keeps until something is written.
    pub fn settle(&self) {
        self.execute("VACUUM (FREEZE)");
        self.execute("CHECKPOINT");
    }

    /// Runs a statement.
    pub fn execute(&self, sql: &str) {
        apart(|| self.cluster.sql().execute(sql));
    }

    /// Content of the files that a backup of the cluster as it is must hold, whatever the log adds.
    pub fn expected(&self) -> Tree {
        relations(&self.cluster.data)
    }

    /// Closes the present segment, and waits until the archiver has left it.
    pub fn close_segment(&self) -> PathBuf {
        self.execute("SELECT pg_create_restore_point('close')");
        let path = self.incoming.join(apart(|| self.cluster.switch_wal()));
        process::wait_until("the segment to be left", RECOVERY_TIMEOUT, || path.exists());
        path
    }

    /// The source in a repository, through `store`.
    pub async fn scope(&self, store: Arc<dyn Store>, state: &Path) -> Result<Scope> {
        Ok(Scope::new(Repository::open("main", store, None).await?, source(), state))
    }

    /// Archives in `place` what the archiver has left.
    pub async fn take_log(&self, place: &mut Place) {
        let left = listing::files(self.incoming.path());
        let is_whole = |path: &PathBuf| !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        for path in left.into_iter().filter(is_whole) {
            if !place.taken.contains(&path) {
                let scope = self.scope(place.store.clone(), place.archiver_state()).await.expect("a repository");
                push::run(&scope, &self.writing, &path).await.expect("a sound segment");
                place.taken.insert(path);
            }
        }
    }

    /// What `lifeboat backup` does, through `store`.
    async fn backup_through(&self, store: Arc<dyn Store>, state: &Path, wish: Wish) -> Result<BackupReport> {
        let scope = self.scope(store, state).await?;
        head::look(&scope).await?.trusted(&scope)?;
        let options = BackupOptions {
            wish,
            conninfo: self.cluster.conninfo(),
            primary_conninfo: None,
            data_directory: None,
            fast_checkpoint: true,
            reading: Reading { audit: false, from_log: true, audit_every: Duration::from_secs(7 * 86_400) },
            fail_on_bad_pages: true,
            workers: 1,
            pack_bytes: Some(256 << 10),
            archive_timeout: Duration::from_secs(30),
            lease: Some(Terms::new(Terms::TTL)),
            log_is_streamed: false,
            queue: None,
            admit_in: Vec::new(),
        };
        backup::run(&scope, &self.writing, &options, Arc::new(Silent), Cancel::new()).await
    }

    /// Takes a backup through `store`, which leads to the repository of `place`, while that one's log is archived.
    pub async fn backup(&self, place: &mut Place, store: Arc<dyn Store>, wish: Wish) -> Result<BackupReport> {
        let state = place.state.path().to_owned();
        let backup = self.backup_through(store, &state, wish);
        tokio::pin!(backup);
        loop {
            tokio::select! {
                outcome = &mut backup => return outcome,
                () = tokio::time::sleep(Duration::from_millis(5)) => self.take_log(place).await,
            }
        }
    }

    /// Restores backup `id` into `into`, through `store`.
    pub async fn restore(&self, store: Arc<dyn Store>, state: &Path, id: &BackupId, into: &Path) -> Result<()> {
        let scope = self.scope(store, state).await?;
        let seen = head::look(&scope).await?;
        let request = Request { target: Target::Immediate, timeline: None, incarnation: None, backup: Some(id.clone()) };
        let prepared = prepare(&scope, &seen.log, &self.identities, &request).await?;
        let options = RestoreOptions {
            into: into.to_owned(),
            tablespaces: Vec::new(),
            other_tablespaces_below: None,
            action: TargetAction::Promote,
            delta: false,
            discard_log: false,
            clone: true,
            follow: None,
            restore_command: "false %f %p".to_owned(),
            workers: 1,
        };
        restore::run(&scope, &prepared, &options, Arc::new(Silent), Cancel::new()).await.map(drop)
    }

    /// Asserts that backup `id` restores to exactly `expected`.
    pub async fn assert_restores(&self, place: &Place, id: &BackupId, expected: &Tree, what: &str) {
        let into = tempfile::tempdir().expect("a directory");
        let into = into.path().join("data");
        let restored = self.restore(place.store.clone(), place.archiver_state(), id, &into).await;
        restored.unwrap_or_else(|error| panic!("{what}: {id} does not restore: {error:?}"));
        self.assert_tree(&into, expected, what);
    }

    /// Asserts that the relations restored below `into` are exactly `expected`.
    pub fn assert_tree(&self, into: &Path, expected: &Tree, what: &str) {
        let found = relations(into);
        let differs = |path: &&PathBuf| found.get(*path) != expected.get(*path);
        let differing: Vec<&PathBuf> = found.keys().chain(expected.keys()).filter(differs).collect();
        assert!(differing.is_empty(), "{what}: {differing:?} are restored otherwise");
    }

    /// The ids of all backups that a reader of `place` sees, each of them intact. Nothing there is damaged.
    pub async fn committed(&self, place: &Place, what: &str) -> Vec<BackupId> {
        let scope = self.scope(place.store.clone(), place.archiver_state()).await.expect("a repository");
        let log = CommitLog::load(&scope.repository, &scope.source).await.expect("it answers");
        assert!(log.problems.is_empty(), "{what}: {:?}", log.problems);
        assert_eq!(log.broken().count(), 0, "{what}");
        let report = verify::run(&scope, None, Arc::new(Silent), &Cancel::new()).await.expect("it answers");
        let damage: Vec<_> = report.findings.iter().filter(|finding| finding.is_damage()).collect();
        assert!(damage.is_empty(), "{what}: {damage:?}");
        assert!(report.backups.iter().all(|backup| backup.intact), "{what}: {:?}", report.backups);
        log.backups().map(|backup| backup.id.clone()).collect()
    }
}

impl Place {
    fn empty(store: Arc<MemoryStore>) -> Self {
        Self::new(store, tempfile::tempdir().expect("a directory"), BTreeSet::new())
    }

    fn new(store: Arc<MemoryStore>, state: TempDir, taken: BTreeSet<PathBuf>) -> Self {
        let archiver_state = state.path().join("archiver");
        fs::create_dir_all(&archiver_state).expect("own directory");
        Self { store, state, archiver_state, taken }
    }

    /// What the host that archives remembers; no part of what a backup does.
    pub fn archiver_state(&self) -> &Path {
        &self.archiver_state
    }

    /// Another repository with the same content, and another host with the same memory.
    pub async fn copy(&self) -> Self {
        let store = Arc::new(MemoryStore::new());
        for (key, content) in self.objects().await {
            assert_eq!(store.put_if_absent(&key, content.into()).await.expect("room"), PutOutcome::Created);
        }
        let state = tempfile::tempdir().expect("a directory");
        copy_tree(self.state.path(), state.path());
        Self::new(store, state, self.taken.clone())
    }

    /// Another repository with the same content, and a host that remembers nothing.
    pub async fn copy_without_memory(&self) -> Self {
        Self::new(self.copy().await.store, tempfile::tempdir().expect("a directory"), BTreeSet::new())
    }

    /// Every object with its content.
    pub async fn objects(&self) -> BTreeMap<String, Bytes> {
        let mut objects = BTreeMap::new();
        for object in self.store.list_all("", None).await.expect("it answers") {
            let content = self.store.get(&object.key).await.expect("it is there");
            objects.insert(object.key, content);
        }
        objects
    }

    /// Asserts that every object of `before` is there as it was, but for the lease, the only one that is ever rewritten.
    pub async fn assert_kept(&self, before: &BTreeMap<String, Bytes>, what: &str) {
        let now = self.objects().await;
        for (key, content) in before.iter().filter(|(key, _)| **key != layout::lease(&source())) {
            assert!(now.get(key) == Some(content), "{what}: {key} is not what it was");
        }
    }
}

/// Runs on a thread of its own what has a runtime of its own.
fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn copy_tree(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("own directory") {
        let entry = entry.expect("own directory");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("own directory").is_dir() {
            fs::create_dir_all(&target).expect("own directory");
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).expect("own file");
        }
    }
}

/// Content of the relations below a data directory, and of what lies beside them; not what each server writes anew.
fn relations(data: &Path) -> Tree {
    let is_content = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        !matches!(name.as_str(), "pg_control" | "pg_internal.init") && !name.starts_with("pgsql_tmp")
    };
    let mut tree = Tree::new();
    for part in ["base", "global", "PG_VERSION"] {
        let path = data.join(part);
        let files = if path.is_dir() { listing::files(&path) } else { vec![path] };
        for file in files.into_iter().filter(|file| is_content(file)) {
            let digest = Sha256Digest::of(&fs::read(&file).expect("readable"));
            tree.insert(file.strip_prefix(data).expect("below it").to_owned(), digest);
        }
    }
    tree
}
