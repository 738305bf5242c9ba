//! Expiry leaves what is locked, says until when, and goes on when the locks are over.

use std::sync::Arc;
use std::time::Duration;

use lifeboat::base::progress::Silent;
use lifeboat::base::{Cancel, Lsn, Timestamp};
use lifeboat::engine::expire::Fate;
use lifeboat::engine::expire::mark::{self, Wish as MarkWish};
use lifeboat::engine::expire::orphans;
use lifeboat::engine::expire::run::{self as carry_out, Report, Wish};
use lifeboat::engine::head;
use lifeboat::engine::lease::Terms;
use lifeboat::repo::commit::{self, Author, Committed, LogFloor};
use lifeboat::repo::{BackupSummary, CommitLog, Tombstone, layout};
use lifeboat::store::{LockMode, LockTerms, Store};

use crate::bucket::{LOCKING, Stranger, TERMS, block_on, store};
use crate::fabricated::{Fabricated, SEGMENT, incarnation, put, source};
use crate::support::s3::{Rights, S3Server};

const FULL: &str = "20261120T214002Z-full-aaaa";
const INCR: &str = "20261121T214002Z-incr-aaaa";

/// Over within a test.
const SHORT: LockTerms =
    LockTerms { mode: LockMode::Governance, lock_for: Duration::from_secs(4), chain_for: Duration::from_secs(1) };

/// Longer than any lock of a test.
const PATIENCE: Duration = Duration::from_secs(60);

async fn marked(made: &Fabricated, backup: &BackupSummary) {
    let scope = made.scope(Some(TERMS)).await;
    let wish = MarkWish { backups: vec![backup.id.clone()], chain: true, grace: Duration::ZERO, allow_none: true };
    mark::mark(&scope, Some(&made.signer), &wish).await.unwrap();
}

async fn carried_out(made: &Fabricated, acting: bool) -> Report {
    let scope = made.scope(Some(TERMS)).await;
    let wish = Wish { allow_none: true, ..Wish::default() };
    let operator = acting.then_some(&made.signer);
    carry_out::run(&scope, operator, &wish, Arc::new(Silent), &Cancel::new()).await.unwrap()
}

/// Runs `expire` until nothing is left below `prefix`; the last report.
async fn until_gone(made: &Fabricated, prefix: &str) -> Report {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let report = carried_out(made, true).await;
        if !made.keys().iter().any(|key| key.starts_with(prefix)) {
            return report;
        }
        assert!(std::time::Instant::now() < deadline, "it never goes: {report:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn segment(number: u64) -> String {
    let log = layout::log(&source(), &incarnation());
    format!("{log}00000001/0000000100000000{number:08X}_-_-_0_0123456789abcdef.zst.age")
}

#[test]
fn what_is_locked_stays_with_its_reason_and_goes_when_the_lock_is_over() {
    block_on(async {
        let made = Fabricated::create(S3Server::keeping(LOCKING), None).await;
        let full = made.backup(FULL, None, None, true).await;
        let incr = made.backup(INCR, Some(&full), Some(SHORT), true).await;
        marked(&made, &full).await;
        let before = made.keys();
        for acting in [false, true] {
            let report = carried_out(&made, acting).await;
            let told: Vec<(Fate, &str)> = report.backups.iter().map(|verdict| (verdict.fate, verdict.why.as_str())).collect();
            assert!(told[1].0 == Fate::Kept && told[1].1.contains("is due, but locked until 20"), "{told:?}");
            assert!(told[1].1.contains("(governance)") && told[1].1.contains("can go then"), "{told:?}");
            let builds_on = format!("is due, but {} builds on it and is locked until", incr.id);
            assert!(told[0].0 == Fate::Kept && told[0].1.starts_with(&builds_on), "{told:?}");
            assert_eq!((report.tombstone, report.deleted_backup_objects, report.logs.len()), (None, 0, 0));
            assert_eq!(made.keys(), before, "nothing is deleted and no tombstone put");
        }
        let report = until_gone(&made, &layout::backups(&source())).await;
        assert!(report.backups.iter().all(|verdict| verdict.fate == Fate::Expired), "{report:?}");
        assert_eq!((report.tombstone, report.deleted_backup_objects), (Some(3), 12));
        let log = head::look(&made.scope(None).await).await.unwrap().log;
        assert!(log.problems.is_empty() && log.backups().count() == 0);
    });
}

#[test]
fn every_version_goes_and_what_was_put_over_it() {
    block_on(async {
        let made = Fabricated::create(S3Server::keeping(LOCKING), None).await;
        let full = made.backup(FULL, None, None, true).await;
        marked(&made, &full).await;
        let thief = Stranger::with(&made.server, Rights::NoVersionDeletion);
        let own = layout::backup(&source(), &full.id);
        for key in made.keys().iter().filter(|key| key.starts_with(&own)) {
            assert!(thief.put(key, b"spoilt", false).await && thief.hide(key).await);
        }
        let report = carried_out(&made, true).await;
        assert_eq!((report.tombstone, report.deleted_backup_objects), (Some(2), 6), "{report:?}");
        assert!(made.keys().iter().all(|key| !key.starts_with(&own)), "{:?}", made.keys());
    });
}

#[test]
fn log_that_nothing_needs_waits_for_its_lock() {
    block_on(async {
        let made = Fabricated::create(S3Server::keeping(LOCKING), None).await;
        let full = made.backup(FULL, None, None, true).await;
        let (free, locked) = (store(&made.server, None), store(&made.server, Some(SHORT)));
        put(&free, &segment(1)).await;
        put(&locked, &segment(2)).await;
        put(&free, &segment(12)).await;
        marked(&made, &full).await;
        let before = made.keys();
        for acting in [false, true] {
            let report = carried_out(&made, acting).await;
            let log = &report.logs[0];
            assert_eq!((log.deleted_objects, log.locked_objects, log.kept_objects), (1, 1, 2), "{report:?}");
            assert!(log.locked_until.is_some_and(|until| until > Timestamp::now()), "{report:?}");
            assert_eq!(made.keys() == before, !acting);
        }
        assert!(!made.keys().contains(&segment(1)) && made.keys().contains(&segment(2)));
        let report = until_gone(&made, &segment(2)).await;
        assert_eq!((report.logs[0].deleted_objects, report.logs[0].locked_objects, report.logs[0].locked_until), (1, 0, None));
        assert!(made.keys().contains(&segment(12)));
    });
}

/// A lock that was set after the decision, as by a backup that committed at the same moment on another host.
#[test]
fn a_run_that_finds_its_tombstone_overtaken_by_a_lock_goes_on_later() {
    block_on(async {
        let made = Fabricated::create(S3Server::keeping(LOCKING), None).await;
        let full = made.backup(FULL, None, None, true).await;
        let scope = made.scope(None).await;
        let floor = LogFloor { incarnation: incarnation(), lsn: Lsn(11 * SEGMENT.bytes()) };
        let tombstone =
            Tombstone { backups: vec![full.id.clone()], marks: Vec::new(), log_floors: vec![floor], log_ranges: Vec::new() };
        let author = Author { signer: &made.signer, host: "operator", lease_token: 0 };
        commit::append_decided(&scope.repository, &source(), author, async |_| Ok(Committed::Tombstone(tombstone.clone())))
            .await
            .unwrap();
        let pack = layout::pack(&source(), &full.id, 1, ".age");
        store(&made.server, Some(SHORT)).extend_lock(&pack, Timestamp::now().plus(Duration::from_secs(4))).await.unwrap();
        let report = carried_out(&made, true).await;
        assert_eq!((report.tombstone, report.deleted_backup_objects), (None, 5), "{report:?}");
        assert!(report.notes.iter().any(|note| note.contains("1 objects of") && note.contains("locked until")), "{report:?}");
        let own = layout::backup(&source(), &full.id);
        assert_eq!(made.keys().iter().filter(|key| key.starts_with(&own)).collect::<Vec<_>>(), [&pack]);
        until_gone(&made, &own).await;
        let log = CommitLog::load(&scope.repository, &source()).await.unwrap();
        assert!(log.problems.is_empty() && log.backups().count() == 0);
    });
}

#[test]
fn what_a_crash_left_waits_for_its_lock() {
    block_on(async {
        let made = Fabricated::create(S3Server::keeping(LOCKING), None).await;
        let left = made.backup(FULL, None, Some(SHORT), false).await;
        let scope = made.scope(Some(TERMS)).await;
        let sweep = async || {
            let acting = Some((&made.signer, Terms::new(Terms::TTL)));
            orphans::run(&scope, acting, Duration::ZERO, Arc::new(Silent), &Cancel::new()).await.unwrap()
        };
        let found = sweep().await;
        assert!(found.len() == 1 && !found[0].removed && found[0].locked_until.is_some(), "{found:?}");
        let own = layout::backup(&source(), &left.id);
        assert_eq!(made.keys().iter().filter(|key| key.starts_with(&own)).count(), 6);
        let deadline = std::time::Instant::now() + PATIENCE;
        while !sweep().await[0].removed {
            assert!(std::time::Instant::now() < deadline, "it never goes");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert!(!made.keys().iter().any(|key| key.starts_with(&own)));
    });
}
