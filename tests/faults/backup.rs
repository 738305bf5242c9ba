//! Faults while a backup is taken.

use std::sync::Arc;
use std::time::Instant;

use lifeboat::base::{BackupId, BackupType};
use lifeboat::engine::backup::Wish;
use lifeboat::store::faulty::{Fault, FaultyStore};

use crate::plant::{Between, Plan, plans};
use crate::stage::{Place, Stage, Tree};
use crate::support::random;

/// One fault, and everything that must hold afterwards. Whether it happened.
async fn fault(stage: &Stage, base: &Place, wish: Wish, plan: Plan, expected: &Tree) -> bool {
    let what = format!("{plan:?}");
    let mut place = base.copy().await;
    let before = place.objects().await;
    let known = stage.committed(&place, &what).await;
    let (store, faulty) = plan.store(place.store.clone());
    let outcome = stage.backup(&mut place, store, wish).await;
    let failed_call = plan.failed_call(&faulty);
    let what = format!("{what} at {failed_call}");
    assert!(outcome.is_ok() || faulty.fired(), "{what}: {outcome:?}");
    if plan.is_survived(&failed_call) {
        assert!(outcome.is_ok(), "{what}: {outcome:?}");
    }
    place.assert_kept(&before, &what).await;
    let committed = stage.committed(&place, &what).await;
    let fresh: Vec<&BackupId> = committed.iter().filter(|id| !known.contains(id)).collect();
    match &outcome {
        Ok(report) => assert_eq!(fresh, [&report.summary.id], "{what}"),
        // The answer to the commit may have been lost: then it is a backup, and a whole one.
        Err(_) => assert!(fresh.len() <= 1, "{what}: {fresh:?}"),
    }
    for id in fresh {
        stage.assert_restores(&place, id, expected, &what).await;
    }
    let clean = place.store.clone();
    let again = stage.backup(&mut place, clean, wish).await;
    let again = again.unwrap_or_else(|error| panic!("{what}: it does not succeed when run again: {error:?}"));
    assert!(stage.committed(&place, &what).await.contains(&again.summary.id));
    stage.assert_restores(&place, &again.summary.id, expected, &what).await;
    place.assert_kept(&before, &what).await;
    faulty.fired()
}

/// Faults in every call of a backup; with `interrupted` of one that goes on where another was interrupted.
async fn every_fault(wish: Wish, interrupted: bool) {
    let seed = random::seed("faults in a backup");
    let Some((stage, mut base)) = Stage::start().await else { return };
    let store = base.store.clone();
    let first = stage.backup(&mut base, store, Wish::Type(BackupType::Full)).await.expect("a first backup");
    stage.assert_restores(&base, &first.summary.id, &stage.expected(), "the first").await;
    stage.execute("UPDATE rows SET noise = sha256(noise) WHERE n % 500 = 0");
    stage.settle();
    let expected = stage.expected();
    if interrupted {
        interrupt(&stage, &mut base, wish).await;
    }
    let mut clean = base.copy().await;
    let counting = Arc::new(FaultyStore::counting(clean.store.clone()));
    let report = stage.backup(&mut clean, counting.clone(), wish).await.expect("nothing fails");
    assert_eq!(report.warnings.iter().any(|note| note.contains("goes on with")), interrupted, "{:?}", report.warnings);
    stage.assert_restores(&clean, &report.summary.id, &expected, "nothing fails").await;
    let calls = counting.calls();
    let plans = plans(&calls, seed);
    println!("{} calls, {} plans:\n  {}", calls.len(), plans.len(), calls.join("\n  "));
    let (began, mut happened) = (Instant::now(), 0);
    for plan in &plans {
        // The log goes on; whoever begins now finds it archived.
        stage.take_log(&mut base).await;
        happened += usize::from(fault(&stage, &base, wish, *plan, &expected).await);
    }
    println!("{happened} faults in {:.1} s", began.elapsed().as_secs_f64());
    // A run may wait for its log a call more or less than the one that was counted.
    assert!(happened * 10 >= plans.len() * 9, "only {happened} of {} faults happened", plans.len());
}

/// A backup that ends with its third pack, which is stored and not noted.
async fn interrupt(stage: &Stage, base: &mut Place, wish: Wish) {
    let mut counted = base.copy().await;
    let counting = Arc::new(FaultyStore::counting(counted.store.clone()));
    stage.backup(&mut counted, counting.clone(), wish).await.expect("nothing fails");
    let call = counting.calls().iter().position(|call| call.contains("pack-00000003")).expect("there are so many packs");
    let plan = Plan { call, fault: Fault::ErrorAfter, between: Between::Nothing, seed: 0 };
    let (store, faulty) = plan.store(base.store.clone());
    let outcome = stage.backup(base, store, wish).await;
    assert!(outcome.is_err() && faulty.fired(), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_fault_in_a_full_backup_costs_more_than_that_backup() {
    every_fault(Wish::Type(BackupType::Full), false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_fault_in_an_incremental_backup_costs_more_than_that_backup() {
    every_fault(Wish::Type(BackupType::Incr), false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_fault_in_a_backup_that_goes_on_costs_more_than_that_backup() {
    every_fault(Wish::Type(BackupType::Full), true).await;
}
