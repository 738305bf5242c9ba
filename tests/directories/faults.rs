//! Every call to the repository fails once, in every way: what was committed before restores, nothing torn is taken for a
//! backup, and the same verb, run again, succeeds.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use lifeboat::base::progress::Silent;
use lifeboat::base::{BackupId, BackupType, Cancel, Result, SourceName};
use lifeboat::codec::encrypt::{DataKey, Identity};
use lifeboat::engine::backup::Wish;
use lifeboat::engine::directory::backup::{self, BackupOptions, BackupReport};
use lifeboat::engine::directory::restore::{self, Request, RestoreOptions};
use lifeboat::engine::lease::Terms;
use lifeboat::engine::restore::Target;
use lifeboat::engine::{Scope, Writing, head, verify};
use lifeboat::repo::{CommitLog, KeyEntry, Repository, Role, Signer};
use lifeboat::store::faulty::FaultyStore;
use lifeboat::store::memory::MemoryStore;
use lifeboat::store::{PutOutcome, Store};
use rand::Rng;
use tempfile::TempDir;

use crate::oracle::{assert_same, snapshot};
use crate::plant::plans;
use crate::stage::Tree;
use crate::support::random;

struct World {
    tree: TempDir,
    writing: Writing,
    identities: Vec<Identity>,
}

/// A repository, and what one host remembers of it.
struct Place {
    store: Arc<MemoryStore>,
    state: TempDir,
}

impl World {
    async fn new(seed: u64) -> (Self, Place) {
        let tree = tempfile::tempdir().unwrap();
        let mut large = vec![0; 900_000];
        random::generator(seed, 1).fill_bytes(&mut large);
        fs::write(tree.path().join("large"), large).unwrap();
        for n in 0..5 {
            fs::create_dir_all(tree.path().join("d")).unwrap();
            fs::write(tree.path().join(format!("d/{n}")), format!("{n}")).unwrap();
        }
        let (key, signer) = (DataKey::generate(), Signer::generate());
        let roles = vec![Role::Write, Role::Expire, Role::Admin];
        let keys = vec![KeyEntry { name: "host".into(), public_key: signer.public_key(), roles }];
        let place = Place { store: Arc::new(MemoryStore::new()), state: tempfile::tempdir().unwrap() };
        Repository::create("main", place.store.clone(), keys, &signer).await.unwrap();
        let writing = Writing { signer, recipients: Some(vec![key.recipient()]), compression_level: 1 };
        (Self { tree, writing, identities: vec![key.identity().clone()] }, place)
    }

    async fn scope(&self, store: Arc<dyn Store>, state: &Path) -> Result<Scope> {
        let source: SourceName = "docs".parse().unwrap();
        Ok(Scope::new(Repository::open("main", store, None).await?, source, state))
    }

    async fn backup(&self, store: Arc<dyn Store>, state: &Path, backup_type: BackupType) -> Result<BackupReport> {
        let scope = self.scope(store, state).await?;
        head::look(&scope).await?.trusted(&scope)?;
        let options = BackupOptions {
            wish: Wish::Type(backup_type),
            path: self.tree.path().to_owned(),
            exclude: Vec::new(),
            own_places: Vec::new(),
            one_file_system: false,
            fail_on_trouble: true,
            workers: 1,
            pack_bytes: Some(256 << 10),
            lease: Some(Terms::new(Terms::TTL)),
            admit_in: Vec::new(),
            identities: Vec::new(),
        };
        backup::run(&scope, &self.writing, &options, Arc::new(Silent), Cancel::new()).await
    }

    async fn restore(&self, store: Arc<dyn Store>, id: &BackupId, into: &Path) -> Result<()> {
        let state = tempfile::tempdir().unwrap();
        let scope = self.scope(store, state.path()).await?;
        let log = head::look(&scope).await?.log;
        let request = Request { target: Target::Latest, incarnation: None, backup: Some(id.clone()) };
        let prepared = restore::prepare(&scope, &log, &self.identities, &request).await?;
        let options = RestoreOptions { into: into.to_owned(), paths: Vec::new(), workers: 1 };
        let report = restore::run(&scope, &prepared, &options, Arc::new(Silent), Cancel::new()).await?;
        assert_eq!(report.shortfalls, 0, "{:?}", report.first_shortfalls);
        Ok(())
    }

    async fn assert_restores(&self, place: &Place, id: &BackupId, expected: &Tree, what: &str) {
        let dir = tempfile::tempdir().unwrap();
        let into = dir.path().join("restored");
        let restored = self.restore(place.store.clone(), id, &into).await;
        restored.unwrap_or_else(|error| panic!("{what}: {id} does not restore: {error:?}"));
        assert_same(expected, &snapshot(&into), what);
    }

    /// The ids of all committed backups, each intact.
    async fn committed(&self, place: &Place, what: &str) -> Vec<BackupId> {
        let state = tempfile::tempdir().unwrap();
        let scope = self.scope(place.store.clone(), state.path()).await.unwrap();
        let log = CommitLog::load(&scope.repository, &scope.source).await.unwrap();
        assert!(log.problems.is_empty(), "{what}: {:?}", log.problems);
        let report = verify::run(&scope, Some(&self.identities), Arc::new(Silent), &Cancel::new()).await.unwrap();
        let damage: Vec<_> = report.findings.iter().filter(|finding| finding.is_damage()).collect();
        assert!(damage.is_empty(), "{what}: {damage:?}");
        log.backups().map(|backup| backup.id.clone()).collect()
    }
}

impl Place {
    async fn copy(&self) -> Self {
        let store = Arc::new(MemoryStore::new());
        for object in self.store.list_all("", None).await.unwrap() {
            let content = self.store.get(&object.key).await.unwrap();
            assert_eq!(store.put_if_absent(&object.key, content.into()).await.unwrap(), PutOutcome::Created);
        }
        let state = tempfile::tempdir().unwrap();
        let from = format!("{}/.", self.state.path().display());
        let status = std::process::Command::new("cp").arg("-a").arg(from).arg(state.path()).status().unwrap();
        assert!(status.success());
        Self { store, state }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incr_survives_every_fault_or_leaves_nothing() {
    let seed = random::seed("faults in a directory's backup");
    let (world, base) = World::new(seed).await;
    let first = world.backup(base.store.clone(), base.state.path(), BackupType::Full).await.unwrap().summary.id;
    let before = snapshot(world.tree.path());
    fs::write(world.tree.path().join("d/new"), b"new").unwrap();
    let expected = snapshot(world.tree.path());
    let counted = base.copy().await;
    let counting = Arc::new(FaultyStore::counting(counted.store.clone()));
    world.backup(counting.clone(), counted.state.path(), BackupType::Incr).await.unwrap();
    let plans = plans(&counting.calls(), seed);
    assert!(plans.len() > 50, "{} plans", plans.len());
    let mut fired = 0;
    for plan in plans {
        let place = base.copy().await;
        let (store, faulty) = plan.store(place.store.clone());
        let outcome = world.backup(store, place.state.path(), BackupType::Incr).await;
        let failed_call = plan.failed_call(&faulty);
        let what = format!("{plan:?} at {failed_call}");
        assert!(outcome.is_ok() || faulty.fired(), "{what}: {outcome:?}");
        if plan.is_survived(&failed_call) {
            assert!(outcome.is_ok(), "{what}: {outcome:?}");
        }
        let committed = world.committed(&place, &what).await;
        let fresh: Vec<&BackupId> = committed.iter().filter(|id| **id != first).collect();
        match &outcome {
            Ok(report) => assert_eq!(fresh, [&report.summary.id], "{what}"),
            // The answer to the commit may have been lost: then it is a backup, and a whole one.
            Err(_) => assert!(fresh.len() <= 1, "{what}: {fresh:?}"),
        }
        for id in fresh {
            world.assert_restores(&place, id, &expected, &what).await;
        }
        world.assert_restores(&place, &first, &before, &what).await;
        let again = world.backup(place.store.clone(), place.state.path(), BackupType::Incr).await;
        let again = again.unwrap_or_else(|error| panic!("{what}: it does not succeed when run again: {error:?}"));
        world.assert_restores(&place, &again.summary.id, &expected, &what).await;
        fired += usize::from(faulty.fired());
    }
    assert!(fired > 50, "{fired} faults happened");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_meets_a_fault_is_whole_or_says_that_it_is_not() {
    let seed = random::seed("faults in a directory's restore");
    let (world, place) = World::new(seed).await;
    world.backup(place.store.clone(), place.state.path(), BackupType::Full).await.unwrap();
    fs::write(world.tree.path().join("d/new"), b"new").unwrap();
    let id = world.backup(place.store.clone(), place.state.path(), BackupType::Incr).await.unwrap().summary.id;
    let expected = snapshot(world.tree.path());
    let dir = tempfile::tempdir().unwrap();
    let counting = Arc::new(FaultyStore::counting(place.store.clone()));
    world.restore(counting.clone(), &id, &dir.path().join("counted")).await.unwrap();
    for (number, plan) in plans(&counting.calls(), seed).into_iter().enumerate() {
        let (store, faulty) = plan.store(place.store.clone());
        let into = dir.path().join(number.to_string());
        let outcome = world.restore(store, &id, &into).await;
        let what = format!("{plan:?} at {}", plan.failed_call(&faulty));
        let marker = dir.path().join(format!(".{number}.lifeboat-incomplete"));
        match outcome {
            Ok(()) => assert_same(&expected, &snapshot(&into), &what),
            Err(error) => {
                assert!(faulty.fired(), "{what}: {error:?}");
                assert!(marker.exists() || !into.exists(), "{what}: what is there looks whole");
            }
        }
    }
}
