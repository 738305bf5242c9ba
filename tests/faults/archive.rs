//! Faults while the log is archived, and while it is fetched back.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use lifeboat::base::Incarnation;
use lifeboat::engine::archive::get::{self, Got, Look};
use lifeboat::engine::archive::push::{self, Pushed};
use lifeboat::repo::identity;
use lifeboat::store::Store;
use lifeboat::store::faulty::FaultyStore;

use crate::plant::plans;
use crate::stage::{Place, Stage, source};
use crate::support::random;

async fn push(stage: &Stage, store: Arc<dyn Store>, place: &Place, file: &Path) -> lifeboat::base::Result<Pushed> {
    let scope = stage.scope(store, place.archiver_state()).await?;
    push::run(&scope, &stage.writing, file).await
}

async fn get(stage: &Stage, store: Arc<dyn Store>, place: &Place, name: &str, to: &Path) -> lifeboat::base::Result<Got> {
    let scope = stage.scope(store, place.archiver_state()).await?;
    let incarnation = Some(incarnation(stage, place).await);
    let got = get::run(&scope, &stage.identities, incarnation, name, get::Pieces::All, Look::Here).await?;
    if let Got::Whole(raw) = &got {
        get::hand_over(raw, to)?;
    }
    Ok(got)
}

/// The only cluster on record.
async fn incarnation(stage: &Stage, place: &Place) -> Incarnation {
    let scope = stage.scope(place.store.clone(), place.archiver_state()).await.expect("a repository");
    let (mut known, problems) = identity::survey(&scope.repository, &source()).await.expect("it answers");
    assert!(problems.is_empty() && known.len() == 1, "{problems:?}");
    known.remove(0).incarnation
}

/// Asserts that the repository has `file` once, and hands it back as it is.
async fn assert_archived(stage: &Stage, place: &Place, file: &Path, what: &str) {
    let name = file.file_name().expect("a segment").to_str().expect("plain");
    let dir = tempfile::tempdir().expect("a directory");
    let to = dir.path().join("fetched");
    let got = get(stage, place.store.clone(), place, name, &to).await;
    assert!(matches!(got.unwrap_or_else(|error| panic!("{what}: {error:?}")), Got::Whole(_)), "{what}");
    assert!(fs::read(&to).expect("own file") == fs::read(file).expect("readable"), "{what}: another content");
    let copies = place.objects().await.into_keys().filter(|key| key.contains(&format!("/{name}_"))).count();
    assert_eq!(copies, 1, "{what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_fault_in_a_push_loses_or_forges_a_segment() {
    let seed = random::seed("faults in a push");
    let Some((stage, mut base)) = Stage::start().await else { return };
    let (first, second) = (stage.close_segment(), stage.close_segment());
    // Into an empty repository, with identity and key to be made, and into one that has them.
    for file in [&first, &second] {
        let clean = base.copy().await;
        let counting = Arc::new(FaultyStore::counting(clean.store.clone()));
        push(&stage, counting.clone(), &clean, file).await.expect("nothing fails");
        assert_archived(&stage, &clean, file, "nothing fails").await;
        let calls = counting.calls();
        let plans = plans(&calls, seed);
        println!("{} calls, {} plans:\n  {}", calls.len(), plans.len(), calls.join("\n  "));
        for plan in plans {
            let place = base.copy().await;
            let before = place.objects().await;
            let (store, faulty) = plan.store(place.store.clone());
            let outcome = push(&stage, store, &place, file).await;
            let what = format!("{plan:?} at {}", plan.failed_call(&faulty));
            // What is not there has no answer that could be lost, and no body.
            assert!(faulty.fired() || what.contains("/identity/"), "{what}");
            if plan.is_survived(&plan.failed_call(&faulty)) {
                assert!(outcome.is_ok(), "{what}: {outcome:?}");
            }
            if outcome.is_ok() {
                assert_archived(&stage, &place, file, &what).await;
            }
            // PostgreSQL tries again until it succeeds.
            let again = push(&stage, place.store.clone(), &place, file).await;
            again.unwrap_or_else(|error| panic!("{what}: it does not succeed when run again: {error:?}"));
            assert_archived(&stage, &place, file, &what).await;
            place.assert_kept(&before, &what).await;
        }
        push(&stage, base.store.clone(), &base, file).await.expect("nothing fails");
    }
    stage.take_log(&mut base).await;
}

/// A crash after the put: the segment is there, and this host has not noted its digest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_fault_in_a_second_push_signs_for_what_is_not_stored() {
    let seed = random::seed("faults in a second push");
    let Some((stage, base)) = Stage::start().await else { return };
    let file = stage.close_segment();
    push(&stage, base.store.clone(), &base, &file).await.expect("nothing fails");
    let base = base.copy_without_memory().await;
    let clean = base.copy().await;
    let counting = Arc::new(FaultyStore::counting(clean.store.clone()));
    assert!(push(&stage, counting.clone(), &clean, &file).await.expect("nothing fails").already_there);
    let calls = counting.calls();
    let plans = plans(&calls, seed);
    println!("{} calls, {} plans:\n  {}", calls.len(), plans.len(), calls.join("\n  "));
    for plan in plans {
        let place = base.copy().await;
        let (store, faulty) = plan.store(place.store.clone());
        let outcome = push(&stage, store, &place, &file).await;
        let what = format!("{plan:?} at {}", plan.failed_call(&faulty));
        assert!(faulty.fired(), "{what}");
        if plan.is_survived(&plan.failed_call(&faulty)) {
            assert!(outcome.is_ok(), "{what}: {outcome:?}");
        }
        push(&stage, place.store.clone(), &place, &file).await.unwrap_or_else(|error| panic!("{what}: {error:?}"));
        let scope = stage.scope(place.store.clone(), place.archiver_state()).await.expect("a repository");
        push::flush_index(&scope, &stage.writing, &incarnation(&stage, &place).await).await.expect("it answers");
        stage.committed(&place, &what).await;
        assert_archived(&stage, &place, &file, &what).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_fault_in_a_get_reads_as_the_end_of_the_log_or_hands_over_another_content() {
    let seed = random::seed("faults in a get");
    let Some((stage, mut place)) = Stage::start().await else { return };
    let file = stage.close_segment();
    stage.take_log(&mut place).await;
    let name = file.file_name().expect("a segment").to_str().expect("plain").to_owned();
    let never = "0000000100000000000000FF";
    let dir = tempfile::tempdir().expect("a directory");
    let to = dir.path().join("fetched");
    let whole = Got::Whole(fs::read(&file).expect("readable"));
    for (wanted, got) in [(name.as_str(), whole), (never, Got::NotThere)] {
        let counting = Arc::new(FaultyStore::counting(place.store.clone()));
        assert!(get(&stage, counting.clone(), &place, wanted, &to).await.expect("nothing fails") == got, "{wanted}");
        let calls = counting.calls();
        let plans = plans(&calls, seed);
        println!("{} calls, {} plans:\n  {}", calls.len(), plans.len(), calls.join("\n  "));
        for plan in plans {
            let _ = fs::remove_file(&to);
            let (store, faulty) = plan.store(place.store.clone());
            let outcome = get(&stage, store, &place, wanted, &to).await;
            let what = format!("{plan:?} at {}", plan.failed_call(&faulty));
            match &outcome {
                Ok(found) => assert!(*found == got, "{what}"),
                Err(_) => assert!(!plan.is_survived(&plan.failed_call(&faulty)), "{what}: {outcome:?}"),
            }
            assert!(faulty.fired() || what.contains("/identity/"), "{what}");
            if to.exists() {
                assert!(fs::read(&to).expect("own file") == fs::read(&file).expect("readable"), "{what}: another content");
            }
            assert_eq!(to.exists(), matches!(outcome, Ok(Got::Whole(_))), "{what}");
        }
    }
}
