//! Faults while a repository is copied, on either side: what is committed in the second one restores byte for byte, the
//! first one is never touched, and the next copy leaves what one without faults leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use lifeboat::base::progress::Silent;
use lifeboat::base::{BackupId, BackupType, Cancel, Result};
use lifeboat::engine::archive::push;
use lifeboat::engine::backup::Wish;
use lifeboat::engine::copy::{self, CopyOptions, Report};
use lifeboat::engine::lease::Terms;
use lifeboat::repo::identity;
use lifeboat::repo::log::index;
use lifeboat::store::Store;
use lifeboat::store::faulty::FaultyStore;

use crate::plant::{Plan, plans};
use crate::prove::Prover;
use crate::stage::{Place, Stage, source};
use crate::support::random;

/// Which repository fails.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Side {
    Reading,
    Writing,
}

/// A repository with two backups, and what a copy of it must be.
struct Original {
    stage: Stage,
    place: Place,
    objects: BTreeMap<String, Bytes>,
    ids: Vec<BackupId>,
}

impl Original {
    async fn start(prover: &mut Prover) -> Option<Self> {
        let (stage, mut place) = Stage::start().await?;
        let store = place.store.clone();
        let full = stage.backup(&mut place, store.clone(), Wish::Type(BackupType::Full)).await.expect("a full");
        prover.expect(&full.summary.id, stage.expected());
        // Of the log so far there are signed digests, of the rest there are none yet.
        let scope = stage.scope(store.clone(), place.archiver_state()).await.expect("a repository");
        push::flush_index(&scope, &stage.writing, &full.summary.incarnation).await.expect("it answers");
        stage.execute("UPDATE rows SET noise = sha256(noise) WHERE n % 500 = 0");
        stage.settle();
        let incr = stage.backup(&mut place, store, Wish::Type(BackupType::Incr)).await.expect("an incr");
        prover.expect(&incr.summary.id, stage.expected());
        stage.close_segment();
        stage.take_log(&mut place).await;
        let (ids, objects) = (vec![full.summary.id, incr.summary.id], place.objects().await);
        Some(Self { stage, place, objects, ids })
    }

    /// Copies through these two stores, the second of which leads to the repository of `to`.
    async fn copy(&self, from: Arc<dyn Store>, to: Arc<dyn Store>, place: &Place) -> Result<Report> {
        let from = self.stage.scope(from, place.archiver_state()).await?;
        let to = self.stage.scope(to, place.archiver_state()).await?;
        let options = CopyOptions { dry_run: false, only: None, lease: Terms::new(Terms::TTL) };
        copy::run(&from, &to, &self.stage.writing, options, Arc::new(Silent), &Cancel::new()).await
    }

    /// Every name in a copy, but for those of signed digests of the log, which are random; instead of these the files that
    /// they speak of.
    async fn names(&self, copy: &Place) -> BTreeSet<String> {
        let names = copy.objects().await.into_keys().filter(|name| !name.contains("/index/"));
        let mut names: BTreeSet<String> = names.collect();
        let scope = self.stage.scope(copy.store.clone(), copy.archiver_state()).await.expect("a repository");
        for identity in identity::survey(&scope.repository, &source()).await.expect("it answers").0 {
            let index = index::load(&scope.repository, &source(), &identity.incarnation).await.expect("it answers");
            assert!(index.problems.is_empty(), "{:?}", index.problems);
            names.extend(index.lines.into_iter().map(|line| format!("signed {}", line.file)));
        }
        names
    }

    /// One fault, and everything that must hold afterwards. Whether it happened.
    async fn fault(&self, side: Side, plan: Plan, clean: &BTreeSet<String>, prover: &mut Prover) -> bool {
        let place = self.stage.empty_repository().await;
        let (from, to): (Arc<dyn Store>, Arc<dyn Store>) = (self.place.store.clone(), place.store.clone());
        let (from, to, faulty) = match side {
            Side::Reading => {
                let (from, faulty) = plan.store(from);
                (from, to, faulty)
            }
            Side::Writing => {
                let (to, faulty) = plan.store(to);
                (from, to, faulty)
            }
        };
        let outcome = self.copy(from, to, &place).await;
        let what = format!("{side:?} {plan:?} at {}", plan.failed_call(&faulty));
        assert!(outcome.is_ok() || faulty.fired(), "{what}: {outcome:?}");
        if plan.is_survived(&plan.failed_call(&faulty)) {
            let report = outcome.as_ref().unwrap_or_else(|error| panic!("{what}: {error:?}"));
            assert!(report.faults.is_empty(), "{what}: {:?}", report.faults);
        }
        let committed = prover.assert_restore(&self.stage, &place, &what).await;
        assert!(self.ids.starts_with(&committed), "{what}: {committed:?}");
        let again = self.copy(self.place.store.clone(), place.store.clone(), &place).await;
        let again = again.unwrap_or_else(|error| panic!("{what}: it does not succeed when run again: {error:?}"));
        assert!(again.faults.is_empty(), "{what}: {:?}", again.faults);
        assert_eq!(prover.assert_restore(&self.stage, &place, &what).await, self.ids, "{what}");
        assert_eq!(self.names(&place).await, *clean, "{what}");
        assert!(self.place.objects().await == self.objects, "{what}: the first repository changed");
        faulty.fired()
    }
}

async fn every_fault(side: Side) {
    let seed = random::seed("faults in a copy");
    let mut prover = Prover::default();
    let Some(original) = Original::start(&mut prover).await else { return };
    let clean = original.stage.empty_repository().await;
    let (from, to): (Arc<dyn Store>, Arc<dyn Store>) = (original.place.store.clone(), clean.store.clone());
    let counting = Arc::new(FaultyStore::counting(if side == Side::Reading { from.clone() } else { to.clone() }));
    let report = match side {
        Side::Reading => original.copy(counting.clone(), to, &clean).await,
        Side::Writing => original.copy(from, counting.clone(), &clean).await,
    };
    assert!(report.expect("nothing fails").faults.is_empty());
    assert_eq!(prover.assert_restore(&original.stage, &clean, "nothing fails").await, original.ids);
    let names = original.names(&clean).await;
    let calls = counting.calls();
    let plans = plans(&calls, seed);
    println!("{} calls, {} plans:\n  {}", calls.len(), plans.len(), calls.join("\n  "));
    let (began, mut happened) = (Instant::now(), 0);
    for plan in &plans {
        happened += usize::from(original.fault(side, *plan, &names, &mut prover).await);
    }
    println!("{happened} faults and {} restores in {:.1} s", prover.restores(), began.elapsed().as_secs_f64());
    // A body that is empty cannot be damaged, and objects that are carried at one time change places.
    assert!(happened * 10 >= plans.len() * 9, "only {happened} of {} faults happened", plans.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_fault_in_what_a_copy_reads_costs_more_than_another_run() {
    every_fault(Side::Reading).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_fault_in_what_a_copy_writes_costs_more_than_another_run() {
    every_fault(Side::Writing).await;
}
