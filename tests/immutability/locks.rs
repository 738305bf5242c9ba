//! Locks: set at every put but the exempt ones, extended when a chain outlives them, never touched otherwise.

use std::time::Duration;

use lifeboat::base::Timestamp;
use lifeboat::engine::locks::{self, Extension};
use lifeboat::repo::{BackupSummary, CommitLog, layout};
use lifeboat::store::{Lock, LockMode, LockTerms, Store, StoreError};

use crate::bucket::{LOCKING, TERMS, VERSIONED, block_on, store};
use crate::fabricated::{Fabricated, incarnation, put, source};
use crate::support::s3::S3Server;

const DAY: Duration = Duration::from_secs(86_400);

const FULL: &str = "20261120T214002Z-full-aaaa";
const INCR: &str = "20261121T214002Z-incr-aaaa";

async fn lock_of(store: &dyn Store, key: &str) -> Lock {
    store.lock_of(key).await.unwrap().unwrap_or_else(|| panic!("{key} is not locked"))
}

/// Seconds from `from` to the end of the lock on `key`.
async fn locked_seconds(store: &dyn Store, key: &str, from: Timestamp) -> u64 {
    lock_of(store, key).await.until.since(from).as_secs()
}

async fn extended(made: &Fabricated, backup: &BackupSummary, now: Timestamp) -> Extension {
    let scope = made.scope(Some(TERMS)).await;
    let log = CommitLog::load(&scope.repository, &source()).await.unwrap();
    assert!(log.problems.is_empty(), "{:?}", log.problems);
    locks::extend(&scope, &log, backup, now).await.unwrap()
}

#[test]
fn every_put_is_locked_for_the_time_and_the_chain_but_what_is_exempt() {
    let server = S3Server::keeping(LOCKING);
    block_on(async {
        let store = store(&server, Some(TERMS));
        let before = Timestamp::now();
        let locked = ["lifeboat.json", "keys/1.json", "orders/commit/00000001.json", "tail/commit/00000001.json"];
        let exempt = ["probe/x.json", "probe/canary-0/a", "orders/tail/pg15-1/00000001/s/0-1"];
        for key in locked.iter().chain(&exempt) {
            put(&store, key).await;
        }
        store.replace_if("orders/lease.json", "{}".into(), None).await.unwrap().expect("free");
        for key in locked {
            let lock = lock_of(&store, key).await;
            assert_eq!(lock.mode, LockMode::Governance);
            let left = lock.until.since(before);
            assert!(left >= 43 * DAY && left < 43 * DAY + Duration::from_secs(60), "{key}: {left:?}");
            let refused = store.delete(key).await.unwrap_err();
            assert!(matches!(refused, StoreError::Permanent { .. }) && refused.to_string().contains("denied"), "{refused}");
            assert_eq!(store.get(key).await.unwrap(), key);
        }
        for key in exempt.iter().chain(&["orders/lease.json"]) {
            assert_eq!(store.lock_of(key).await.unwrap(), None, "{key}");
            store.delete(key).await.unwrap();
        }
        // One without locks asks none, and is told of none that there are not.
        let plain = crate::bucket::store(&server, None);
        put(&plain, "later").await;
        assert_eq!(plain.lock_of("later").await.unwrap(), None);
        assert!(plain.lock_of("lifeboat.json").await.unwrap().is_some());
        assert!(plain.lock_of("missing").await.unwrap_err().is_not_found());
    });
}

#[test]
fn a_bucket_that_cannot_lock_refuses_and_is_told() {
    let server = S3Server::keeping(VERSIONED);
    let store = store(&server, Some(TERMS));
    let error = block_on(store.put_if_absent("a", vec![1].into())).unwrap_err();
    assert!(!error.is_retryable() && error.to_string().contains("Object Lock"), "{error}");
}

#[test]
fn a_lock_is_only_ever_made_longer_and_stricter() {
    let server = S3Server::keeping(LOCKING);
    block_on(async {
        let terms = |mode| LockTerms { mode, ..TERMS };
        let (governance, compliance) =
            (store(&server, Some(terms(LockMode::Governance))), store(&server, Some(terms(LockMode::Compliance))));
        put(&compliance, "a").await;
        let first = lock_of(&compliance, "a").await;
        governance.extend_lock("a", Timestamp::now()).await.unwrap();
        assert_eq!(lock_of(&governance, "a").await, first, "a shorter time changes nothing");
        let later = first.until.plus(DAY);
        governance.extend_lock("a", later).await.unwrap();
        assert_eq!(lock_of(&governance, "a").await, Lock { mode: LockMode::Compliance, until: later });
    });
}

#[test]
fn locks_of_a_chain_are_extended_when_its_allowance_is_over_and_not_before() {
    block_on(async {
        let began = Timestamp::now();
        let made = Fabricated::create(S3Server::keeping(LOCKING), Some(TERMS)).await;
        let full = made.backup(FULL, None, Some(TERMS), true).await;
        let store = store(&made.server, Some(TERMS));
        let (log_key, history) = (
            layout::log_key(&source(), &incarnation(), 1, 1),
            format!(
                "{}00000001_from-00000000-0000000000000000_0123456789abcdef.history.zst.age",
                layout::log(&source(), &incarnation())
            ),
        );
        let segment =
            format!("{}00000001/000000010000000000000001_-_-_0_0123456789abcdef.zst.age", layout::log(&source(), &incarnation()));
        for key in [log_key.as_str(), &history, &segment] {
            put(&store, key).await;
        }
        let incr = made.backup(INCR, Some(&full), Some(TERMS), true).await;

        assert_eq!(extended(&made, &incr, began.plus(7 * DAY)).await, Extension::default(), "the allowance covers it");
        // Whatever is needed: both backups' six objects and entries, descriptor, keys, log key, history.
        let now = began.plus(9 * DAY);
        let done = extended(&made, &incr, now).await;
        assert_eq!((done.extended_objects, done.refused.len()), (18, 0), "{done:?}");
        for key in made.keys() {
            let seconds = locked_seconds(&store, &key, now).await;
            let is_extended = seconds == (43 * DAY).as_secs();
            assert_eq!(is_extended, key != segment, "{key}: {seconds}");
        }
        assert_eq!(extended(&made, &incr, now.plus(DAY)).await, Extension::default());
        // Only the chain of the backup that commits: the full alone.
        let later = now.plus(20 * DAY);
        let done = extended(&made, &full, later).await;
        assert_eq!((done.extended_objects, done.refused.len()), (11, 0), "{done:?}");
        let of_incr = layout::begin(&source(), &incr.id);
        assert!(locked_seconds(&store, &of_incr, now).await == (43 * DAY).as_secs());
    });
}

#[test]
fn what_was_written_before_there_were_locks_is_locked_by_the_next_backup() {
    block_on(async {
        let made = Fabricated::create(S3Server::keeping(LOCKING), None).await;
        let full = made.backup(FULL, None, None, true).await;
        let incr = made.backup(INCR, Some(&full), Some(TERMS), true).await;
        let now = Timestamp::now();
        // The full's six objects, its entry, descriptor and keys; the incr's own are locked.
        let done = extended(&made, &incr, now).await;
        assert_eq!((done.extended_objects, done.refused.len()), (9, 0), "{done:?}");
        let store = store(&made.server, Some(TERMS));
        for key in made.keys() {
            assert!(lock_of(&store, &key).await.until >= now.plus(35 * DAY), "{key}");
        }
    });
}

#[test]
fn a_refused_extension_is_a_warning_and_the_next_run_tries_again() {
    block_on(async {
        let made = Fabricated::create(S3Server::keeping(VERSIONED), None).await;
        let full = made.backup(FULL, None, None, true).await;
        for _ in 0..2 {
            let done = extended(&made, &full, Timestamp::now()).await;
            assert_eq!(done.extended_objects, 0);
            // All but begin.json, which must not vouch for what is not locked.
            assert_eq!(done.refused.len(), 8, "{done:?}");
            let warning = done.warning(&full.id).unwrap();
            assert!(warning.contains("the backup stands") && warning.contains("8 objects"), "{warning}");
        }
    });
}
