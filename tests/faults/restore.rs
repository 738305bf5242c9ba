//! Faults while a backup is restored.

use lifeboat::base::BackupType;
use lifeboat::engine::backup::Wish;
use lifeboat::store::faulty::FaultyStore;

use crate::plant::plans;
use crate::stage::Stage;
use crate::support::random;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_fault_in_a_restore_leaves_anything_that_could_start() {
    let seed = random::seed("faults in a restore");
    let Some((stage, mut place)) = Stage::start().await else { return };
    let store = place.store.clone();
    stage.backup(&mut place, store.clone(), Wish::Type(BackupType::Full)).await.expect("a full");
    stage.execute("UPDATE rows SET noise = sha256(noise) WHERE n % 500 = 0");
    stage.settle();
    let expected = stage.expected();
    let incr = stage.backup(&mut place, store.clone(), Wish::Type(BackupType::Incr)).await.expect("an incr");
    assert_eq!(incr.summary.backup_type, BackupType::Incr, "{:?}", incr.reason);
    let id = incr.summary.id;
    stage.assert_restores(&place, &id, &expected, "nothing fails").await;
    let before = place.objects().await;

    let dir = tempfile::tempdir().expect("a directory");
    let counting = std::sync::Arc::new(FaultyStore::counting(store.clone()));
    stage.restore(counting.clone(), place.archiver_state(), &id, &dir.path().join("counted")).await.expect("nothing fails");
    let calls = counting.calls();
    let plans = plans(&calls, seed);
    println!("{} calls, {} plans:\n  {}", calls.len(), plans.len(), calls.join("\n  "));
    let mut happened = 0;
    for plan in &plans {
        let into = dir.path().join("data");
        let (faulty_store, faulty) = plan.store(store.clone());
        let outcome = stage.restore(faulty_store, place.archiver_state(), &id, &into).await;
        let what = format!("{plan:?} at {}", plan.failed_call(&faulty));
        assert!(outcome.is_ok() || faulty.fired(), "{what}: {outcome:?}");
        if plan.is_survived(&plan.failed_call(&faulty)) {
            assert!(outcome.is_ok(), "{what}: {outcome:?}");
        }
        match outcome {
            Ok(()) => stage.assert_tree(&into, &expected, &what),
            Err(_) => assert!(!into.join("global/pg_control").exists(), "{what}: it could start"),
        }
        if into.exists() {
            std::fs::remove_dir_all(&into).expect("own directory");
        }
        place.assert_kept(&before, &what).await;
        happened += usize::from(faulty.fired());
    }
    // A body that is empty cannot be damaged.
    assert!(happened * 10 >= plans.len() * 9, "only {happened} of {} faults happened", plans.len());
    stage.assert_restores(&place, &id, &expected, "afterwards").await;
}
