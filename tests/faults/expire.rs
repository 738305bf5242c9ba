//! Faults while backups expire: nothing goes that a run without faults keeps, what is listed restores byte for byte, and
//! the next run leaves what one without faults leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lifeboat::base::progress::Silent;
use lifeboat::base::{BackupId, BackupType, Cancel, Result};
use lifeboat::engine::backup::Wish;
use lifeboat::engine::expire::mark::{self, mark};
use lifeboat::engine::expire::run;
use lifeboat::repo::{CommitLog, layout};
use lifeboat::store::Store;
use lifeboat::store::faulty::{Fault, FaultyStore};

use crate::plant::{Between, Plan, plans};
use crate::prove::Prover;
use crate::stage::{Place, Stage, source};
use crate::support::random;

/// A repository with a chain that is to go, a full that stays although it was marked once, and one that was begun.
struct Before {
    stage: Stage,
    place: Place,
    objects: BTreeMap<String, Bytes>,
    doomed: Vec<BackupId>,
    kept: BackupId,
}

impl Before {
    async fn start(prover: &mut Prover) -> Option<Self> {
        let (stage, mut place) = Stage::start().await?;
        let mut ids = Vec::new();
        for wish in [BackupType::Full, BackupType::Incr, BackupType::Full] {
            let store = place.store.clone();
            let taken = stage.backup(&mut place, store, Wish::Type(wish)).await.expect("a backup").summary;
            assert_eq!(taken.backup_type, wish);
            prover.expect(&taken.id, stage.expected());
            ids.push(taken.id);
            stage.execute("UPDATE rows SET noise = sha256(noise) WHERE n % 500 = 0");
            stage.settle();
        }
        let kept = ids.pop().expect("three");
        let begun = Plan { call: begun_call(&stage, &place).await, fault: Fault::Outage, between: Between::Nothing, seed: 0 };
        let (store, _) = begun.store(place.store.clone());
        stage.backup(&mut place, store, Wish::Type(BackupType::Full)).await.expect_err("the repository went away");
        stage.take_log(&mut place).await;
        let before = Self { stage, objects: BTreeMap::new(), place, doomed: ids, kept };
        before.mark(before.place.store.clone(), &before.place, std::slice::from_ref(&before.kept)).await.expect("it answers");
        let scope = before.stage.scope(before.place.store.clone(), before.place.archiver_state()).await.expect("a repository");
        let signer = &before.stage.writing.signer;
        mark::withdraw(&scope, Some(signer), std::slice::from_ref(&before.kept)).await.expect("it is marked");
        Some(Self { objects: before.place.objects().await, ..before })
    }

    async fn mark(&self, store: Arc<dyn Store>, place: &Place, ids: &[BackupId]) -> Result<()> {
        let scope = self.stage.scope(store, place.archiver_state()).await?;
        let wish = mark::Wish { backups: ids.to_vec(), chain: true, grace: Duration::ZERO, allow_none: true };
        mark(&scope, Some(&self.stage.writing.signer), &wish).await.map(drop)
    }

    /// Marks the chain that is to go, unless it is gone, and carries out what is due.
    async fn expire(&self, store: Arc<dyn Store>, place: &Place) -> Result<()> {
        let scope = self.stage.scope(store.clone(), place.archiver_state()).await?;
        if CommitLog::load(&scope.repository, &source()).await?.find(&self.doomed[0]).is_some() {
            self.mark(store, place, &self.doomed[..1]).await?;
        }
        let signer = &self.stage.writing.signer;
        run::run(&scope, Some(signer), &run::Wish::default(), Arc::new(Silent), &Cancel::new()).await.map(drop)
    }

    /// One fault, and everything that must hold afterwards. Whether it happened.
    async fn fault(&self, plan: Plan, clean: &BTreeSet<String>, prover: &mut Prover) -> bool {
        let place = self.place.copy().await;
        let (store, faulty) = plan.store(place.store.clone());
        let outcome = self.expire(store, &place).await;
        let what = format!("{plan:?} at {}", plan.failed_call(&faulty));
        assert!(outcome.is_ok() || faulty.fired(), "{what}: {outcome:?}");
        if plan.is_survived(&plan.failed_call(&faulty)) {
            assert!(outcome.is_ok(), "{what}: {outcome:?}");
        }
        let stays: BTreeMap<String, Bytes> =
            self.objects.iter().filter(|(key, _)| clean.contains(&named(key))).map(|(key, c)| (key.clone(), c.clone())).collect();
        place.assert_kept(&stays, &what).await;
        let listed = prover.assert_restore(&self.stage, &place, &what).await;
        assert!(listed.contains(&self.kept), "{what}: {listed:?}");
        let again = self.expire(place.store.clone(), &place).await;
        again.unwrap_or_else(|error| panic!("{what}: it does not succeed when run again: {error:?}"));
        place.assert_kept(&stays, &what).await;
        let listed = prover.assert_restore(&self.stage, &place, &what).await;
        assert_eq!(listed, std::slice::from_ref(&self.kept), "{what}");
        assert_eq!(names(&place).await, *clean, "{what}");
        faulty.fired()
    }
}

/// The call of a backup that stores its second pack.
async fn begun_call(stage: &Stage, place: &Place) -> usize {
    let mut counted = place.copy().await;
    let counting = Arc::new(FaultyStore::counting(counted.store.clone()));
    stage.backup(&mut counted, counting.clone(), Wish::Type(BackupType::Full)).await.expect("nothing fails");
    counting.calls().iter().position(|call| call.contains("pack-00000002")).expect("there are so many packs")
}

/// A name without its random part: marks and withdrawals are called by time and chance.
fn named(key: &str) -> String {
    match key.strip_prefix(&layout::expiries(&source())) {
        Some(_) => "a mark or a withdrawal".to_owned(),
        None => key.to_owned(),
    }
}

async fn names(place: &Place) -> BTreeSet<String> {
    place.objects().await.into_keys().map(|key| named(&key)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_fault_in_an_expiry_costs_anything_that_is_kept() {
    let seed = random::seed("faults in an expiry");
    let mut prover = Prover::default();
    let Some(before) = Before::start(&mut prover).await else { return };
    let listed = prover.assert_restore(&before.stage, &before.place, "before").await;
    assert_eq!(listed, [&before.doomed[..], std::slice::from_ref(&before.kept)].concat());
    let clean = before.place.copy().await;
    let counting = Arc::new(FaultyStore::counting(clean.store.clone()));
    before.expire(counting.clone(), &clean).await.expect("nothing fails");
    assert_eq!(prover.assert_restore(&before.stage, &clean, "nothing fails").await, std::slice::from_ref(&before.kept));
    let names = names(&clean).await;
    // Of the doomed ones everything, of the log what lies before, and of what was begun nothing.
    let gone: Vec<&String> = before.objects.keys().filter(|key| !names.contains(&named(key))).collect();
    let below = |id: &BackupId| layout::backup(&source(), id);
    let is_doomed = |key: &str| before.doomed.iter().any(|id| key.starts_with(&below(id)));
    assert!(before.objects.keys().filter(|key| is_doomed(key)).all(|key| gone.contains(&key)));
    assert!(gone.iter().any(|key| key.contains("/log/")), "{gone:?}");
    assert!(gone.iter().all(|key| is_doomed(key) || key.contains("/log/")), "{gone:?}");
    let calls = counting.calls();
    let plans = plans(&calls, seed);
    println!("{} calls, {} plans:\n  {}", calls.len(), plans.len(), calls.join("\n  "));
    let (began, mut happened) = (Instant::now(), 0);
    for plan in &plans {
        happened += usize::from(before.fault(*plan, &names, &mut prover).await);
    }
    println!("{happened} faults and {} restores in {:.1} s", prover.restores(), began.elapsed().as_secs_f64());
    assert_eq!(happened, plans.len(), "all faults happen");
}
