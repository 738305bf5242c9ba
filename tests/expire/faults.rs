//! Every call to the store fails once, before or after the deed: what is listed is whole, and the next run converges.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lifeboat::base::progress::Silent;
use lifeboat::base::{BackupId, Cancel, Result};
use lifeboat::engine::expire::mark::{self, mark};
use lifeboat::engine::expire::run;
use lifeboat::engine::{Scope, verify};
use lifeboat::repo::{CommitLog, Repository, Signer, layout};
use lifeboat::store::faulty::{Fault, FaultyStore};
use lifeboat::store::memory::MemoryStore;
use lifeboat::store::{Store, list_all};

use crate::fixture::{Fixture, source};
use crate::support::listing::files;

/// The repository of a fixture, and what an operator does with it.
struct Stage {
    objects: BTreeMap<String, Vec<u8>>,
    operator: Signer,
    doomed: BackupId,
    kept: BackupId,
}

impl Stage {
    fn new() -> Self {
        let fixture = Fixture::with_backups();
        let root = fixture.path("repo");
        let key = |path: &Path| path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        let objects = files(&root).into_iter().map(|path| (key(&path), std::fs::read(&path).unwrap()));
        let objects: BTreeMap<String, Vec<u8>> = objects.filter(|(key, _)| !key.starts_with('.')).collect();
        let operator = Signer::read(&fixture.path("keys/operator.key")).unwrap();
        let prefix = layout::backups(&source());
        let mut ids: Vec<BackupId> =
            objects.keys().filter_map(|key| key.strip_prefix(&prefix)?.split('/').next()?.parse().ok()).collect();
        ids.dedup();
        assert_eq!(ids.len(), 2);
        // In the order of the commit log.
        let first = String::from_utf8(objects["orders/commit/00000001.json"].clone()).unwrap();
        ids.sort_by_key(|id| !first.contains(id.as_str()));
        let kept = ids.remove(1);
        Self { objects, operator, doomed: ids.remove(0), kept }
    }

    /// A fresh copy of the repository.
    async fn copy(&self) -> Arc<MemoryStore> {
        let store = MemoryStore::new();
        for (key, content) in &self.objects {
            store.put_if_absent(key, content.clone().into()).await.unwrap();
        }
        Arc::new(store)
    }

    /// Marks the first backup, unless it is gone, and carries out what is due.
    async fn expire(&self, store: Arc<dyn Store>, state: &Path) -> Result<()> {
        let scope = Scope::new(Repository::open("main", store, None).await?, source(), state);
        if CommitLog::load(&scope.repository, &scope.source).await?.find(&self.doomed).is_some() {
            let backups = vec![self.doomed.clone()];
            let wish = mark::Wish { backups, chain: false, grace: Duration::ZERO, allow_none: false };
            mark(&scope, Some(&self.operator), &wish).await?;
        }
        run::run(&scope, Some(&self.operator), &run::Wish::default(), Arc::new(Silent), &Cancel::new()).await.map(drop)
    }

    /// Whether nothing that is listed lacks anything, and which backups are listed.
    async fn look(&self, store: Arc<dyn Store>) -> Vec<BackupId> {
        let state = tempfile::tempdir().unwrap();
        let scope = Scope::new(Repository::open("main", store, None).await.unwrap(), source(), state.path());
        let report = verify::run(&scope, None, Arc::new(Silent), &Cancel::new()).await.unwrap();
        assert!(!report.is_damaged(), "{:#?}", report.findings);
        report.backups.into_iter().map(|backup| backup.id).collect()
    }
}

#[test]
fn whatever_call_fails_nothing_listed_lacks_anything_and_the_next_run_converges() {
    let stage = Stage::new();
    // Pauses between two attempts take no time.
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().start_paused(true).build().unwrap().block_on(fail_every_call(&stage));
}

async fn fail_every_call(stage: &Stage) {
    let counting = FaultyStore::counting(stage.copy().await);
    let counting = Arc::new(counting);
    let state = tempfile::tempdir().unwrap();
    stage.expire(counting.clone(), state.path()).await.unwrap();
    let calls = counting.calls();
    assert!(calls.iter().filter(|call| call.starts_with("delete")).count() > 5, "{calls:?}");
    for fault in [Fault::ErrorBefore, Fault::ErrorAfter] {
        for (number, call) in calls.iter().enumerate() {
            let store = stage.copy().await;
            let state = tempfile::tempdir().unwrap();
            let faulty = Arc::new(FaultyStore::failing(store.clone(), number, fault, 1));
            // Some calls are tried again by themselves.
            let _ = stage.expire(faulty.clone(), state.path()).await;
            assert!(faulty.fired(), "{fault:?} at {call}");
            let listed = stage.look(store.clone()).await;
            assert!(listed.contains(&stage.kept), "{fault:?} at {call}");
            stage.expire(store.clone(), state.path()).await.unwrap_or_else(|error| panic!("{fault:?} at {call}: {error:?}"));
            assert_eq!(stage.look(store.clone()).await, std::slice::from_ref(&stage.kept), "{fault:?} at {call}");
            let left = list_all(&*store, &layout::backup(&source(), &stage.doomed), None).await.unwrap();
            assert!(left.is_empty(), "{fault:?} at {call}: {left:?}");
        }
    }
}
