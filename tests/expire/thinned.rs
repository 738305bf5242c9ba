//! Log between two backups goes by policy, and every call to the store fails once: what is listed is whole, and the next
//! run converges.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lifeboat::base::progress::Silent;
use lifeboat::base::{Cancel, Result, Segment, SegmentSize, TimelineId, Timestamp};
use lifeboat::codec::FrameDigest;
use lifeboat::engine::expire::{rules, run};
use lifeboat::engine::retention::Rules;
use lifeboat::engine::{Scope, archive, verify};
use lifeboat::policy::Retention;
use lifeboat::repo::{CommitLog, Repository, Signer};
use lifeboat::store::Store;
use lifeboat::store::faulty::{Fault, FaultyStore};
use lifeboat::store::memory::MemoryStore;

use crate::fixture::{Fixture, incarnation, source};
use crate::support::listing::files;

/// Everything before now lies before the window, and both chains stay.
const RETENTION: Retention = Retention { keep_chains: 2, thin_log: true, ..Retention::NOTHING };

/// A repository with a backup in segment 3, one in segment 5, and segments 3 to 7.
struct Stage {
    objects: BTreeMap<String, Vec<u8>>,
    operator: Signer,
}

impl Stage {
    fn new() -> Self {
        let fixture = Fixture::new();
        fixture.push_segments(3..=6);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let (scope, writing) = fixture.scope().await;
            archive::push::flush_index(&scope, &writing, &incarnation()).await.unwrap();
            fixture.backup(&scope, &writing, 3, &FrameDigest::of).await;
            fixture.backup(&scope, &writing, 5, &FrameDigest::of).await;
        });
        fixture.push_segments(7..=7);
        let root = fixture.path("repo");
        let key = |path: &Path| path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        let objects = files(&root).into_iter().map(|path| (key(&path), std::fs::read(&path).unwrap()));
        let objects = objects.filter(|(key, _)| !key.starts_with('.')).collect();
        Self { objects, operator: Signer::read(&fixture.path("keys/operator.key")).unwrap() }
    }

    async fn copy(&self) -> Arc<MemoryStore> {
        let store = MemoryStore::new();
        for (key, content) in &self.objects {
            store.put_if_absent(key, content.clone().into()).await.unwrap();
        }
        Arc::new(store)
    }

    async fn scope(&self, store: Arc<dyn Store>, state: &Path) -> Result<Scope> {
        Ok(Scope::new(Repository::open("main", store, None).await?, source(), state))
    }

    /// Marks what `retention` does not keep and carries out what is due.
    async fn expire(&self, store: Arc<dyn Store>, state: &Path, retention: &Retention) -> Result<run::Report> {
        let scope = self.scope(store, state).await?;
        let rules = Rules { policy: "thin", retention };
        rules::apply(&scope, Some(&self.operator), rules, Duration::ZERO).await?;
        let wish = run::Wish { rules: Some(rules), ..run::Wish::default() };
        run::run(&scope, Some(&self.operator), &wish, Arc::new(Silent), &Cancel::new()).await
    }

    /// Whether nothing that is listed lacks anything; the segments that are there.
    async fn look(&self, store: Arc<dyn Store>) -> BTreeSet<u64> {
        let state = tempfile::tempdir().unwrap();
        let scope = self.scope(store.clone(), state.path()).await.unwrap();
        let report = verify::run(&scope, None, Arc::new(Silent), &Cancel::new()).await.unwrap();
        assert!(!report.is_damaged(), "{:#?}", report.findings);
        assert!(report.logs.iter().all(|log| log.gaps.is_empty()), "{:#?}", report.logs);
        assert_eq!(report.backups.len(), 2);
        let prefix = format!("orders/log/{}/00000001/", incarnation());
        let listed = lifeboat::store::list_all(&*store, &prefix, None).await.unwrap();
        let number = |key: &str| u64::from_str_radix(&key[prefix.len() + 16..prefix.len() + 24], 16).unwrap();
        listed.iter().map(|object| number(&object.key)).collect()
    }
}

fn paused() -> tokio::runtime::Runtime {
    // Pauses between two attempts take no time.
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().start_paused(true).build().unwrap()
}

#[test]
fn whatever_call_fails_only_log_that_nothing_needs_goes() {
    let stage = Stage::new();
    paused().block_on(async {
        let counting = Arc::new(FaultyStore::counting(stage.copy().await));
        let state = tempfile::tempdir().unwrap();
        let report = stage.expire(counting.clone(), state.path(), &RETENTION).await.unwrap();
        assert_eq!((report.deleted_backup_objects, report.logs[0].deleted_objects), (0, 1), "{report:#?}");
        let calls = counting.calls();
        assert_eq!(calls.iter().filter(|call| call.starts_with("delete")).count(), 1, "{calls:?}");
        for fault in [Fault::ErrorBefore, Fault::ErrorAfter] {
            for (number, call) in calls.iter().enumerate() {
                let (store, state) = (stage.copy().await, tempfile::tempdir().unwrap());
                let faulty = Arc::new(FaultyStore::failing(store.clone(), number, fault, 1));
                // Some calls are tried again by themselves.
                let _ = stage.expire(faulty.clone(), state.path(), &RETENTION).await;
                assert!(faulty.fired(), "{fault:?} at {call}");
                assert!(stage.look(store.clone()).await.is_superset(&BTreeSet::from([3, 5, 6, 7])), "{fault:?} at {call}");
                let again = stage.expire(store.clone(), state.path(), &RETENTION).await;
                again.unwrap_or_else(|error| panic!("{fault:?} at {call}: {error:?}"));
                assert_eq!(stage.look(store).await, BTreeSet::from([3, 5, 6, 7]), "{fault:?} at {call}");
            }
        }
    });
}

/// An expiry goes through between any two calls of a verification.
#[test]
fn what_expires_while_it_is_verified_is_no_damage() {
    let stage = Arc::new(Stage::new());
    paused().block_on(async {
        let (counting, state) = (Arc::new(FaultyStore::counting(stage.copy().await)), tempfile::tempdir().unwrap());
        let scope = stage.scope(counting.clone(), state.path()).await.unwrap();
        verify::run(&scope, None, Arc::new(Silent), &Cancel::new()).await.unwrap();
        for retention in [RETENTION, Retention { keep_chains: 1, thin_log: false, ..RETENTION }] {
            for (number, call) in counting.calls().iter().enumerate() {
                let (store, states) = (stage.copy().await, [(); 2].map(|()| tempfile::tempdir().unwrap()));
                let (expiring, expired, state) = (stage.clone(), store.clone(), states[0].path().to_owned());
                let expiry = move || {
                    let expiry = || paused().block_on(expiring.expire(expired, &state, &retention)).unwrap();
                    let report = std::thread::scope(|threads| threads.spawn(expiry).join()).expect("it does not panic");
                    assert!(report.logs.iter().any(|log| log.deleted_objects > 0), "{report:#?}");
                };
                let interrupted = Arc::new(FaultyStore::interrupted(store, number, expiry));
                let scope = stage.scope(interrupted.clone(), states[1].path()).await.unwrap();
                let report = verify::run(&scope, None, Arc::new(Silent), &Cancel::new()).await;
                let report = report.unwrap_or_else(|error| panic!("{call}: {error:?}"));
                assert!(interrupted.fired(), "{call}");
                assert!(!report.is_damaged(), "{call}: {:#?}", report.findings);
                assert!(report.logs.iter().all(|log| log.gaps.is_empty()), "{call}: {:#?}", report.logs);
            }
        }
    });
}

/// A server that was restored into what was let go writes the same positions again, on a timeline of its own.
#[test]
fn a_timeline_that_begins_in_what_was_let_go_is_needed() {
    let stage = Stage::new();
    paused().block_on(async {
        let state = tempfile::tempdir().unwrap();
        let store = stage.copy().await;
        stage.expire(store.clone(), state.path(), &RETENTION).await.unwrap();
        let scope = stage.scope(store.clone(), state.path()).await.unwrap();
        let size = SegmentSize::new(1 << 20).unwrap();
        let [old, new] = [1, 2].map(|timeline| Segment { timeline: TimelineId(timeline), number: 4 });
        let cut = CommitLog::load(&scope.repository, &source()).await.unwrap().log_cut(&incarnation());
        assert!(cut.covers_segment(old, size) && !cut.covers_segment(new, size), "{cut:?}");
    });
}

/// What was put on record and not deleted stays when the policy wants it again, and so does what was only marked.
#[test]
fn log_that_the_policy_wants_again_stays() {
    let stage = Stage::new();
    let whole = Retention { thin_log: false, ..RETENTION };
    paused().block_on(async {
        let [counted, state] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let store = stage.copy().await;
        let counting = Arc::new(FaultyStore::counting(stage.copy().await));
        stage.expire(counting.clone(), counted.path(), &RETENTION).await.unwrap();
        let deletion = counting.calls().iter().position(|call| call.starts_with("delete")).unwrap();
        let faulty = Arc::new(FaultyStore::failing(store.clone(), deletion, Fault::Outage, 1));
        stage.expire(faulty, state.path(), &RETENTION).await.expect_err("the repository went away");
        let scope = stage.scope(store.clone(), state.path()).await.unwrap();
        let log = CommitLog::load(&scope.repository, &source()).await.unwrap();
        assert_eq!(log.entries.last().unwrap().tombstone().unwrap().log_ranges.len(), 1, "it is on record");
        stage.expire(store.clone(), state.path(), &whole).await.unwrap();
        assert_eq!(stage.look(store.clone()).await, (3..=7).collect());
        // Without a policy nothing says that it may go.
        let wish = run::Wish::default();
        run::run(&scope, Some(&stage.operator), &wish, Arc::new(Silent), &Cancel::new()).await.unwrap();
        assert_eq!(stage.look(store).await, (3..=7).collect());

        let (store, state) = (stage.copy().await, tempfile::tempdir().unwrap());
        let scope = stage.scope(store.clone(), state.path()).await.unwrap();
        let rules = Rules { policy: "thin", retention: &RETENTION };
        let ruled = rules::apply(&scope, Some(&stage.operator), rules, Duration::from_secs(3600)).await.unwrap();
        assert!(ruled.marked.is_empty() && ruled.due > Timestamp::now(), "{ruled:?}");
        assert_eq!(ruled.marked_log.len(), 1, "{ruled:?}");
        let again = rules::apply(&scope, Some(&stage.operator), rules, Duration::ZERO).await.unwrap();
        assert_eq!((again.mark, again.marked_log), (None, vec![]), "it is marked already");
        let wish = run::Wish { rules: Some(rules), ..run::Wish::default() };
        let report = run::run(&scope, Some(&stage.operator), &wish, Arc::new(Silent), &Cancel::new()).await.unwrap();
        assert_eq!(report.tombstone, None, "its grace is not over: {report:#?}");
        stage.expire(store.clone(), state.path(), &whole).await.unwrap();
        let marked = rules::apply(&scope, Some(&stage.operator), rules, Duration::from_secs(3600)).await.unwrap();
        assert_eq!(marked.marked_log.len(), 1, "the mark was withdrawn, and a grace begins anew: {marked:?}");
        assert_eq!(stage.look(store).await, (3..=7).collect());
    });
}
