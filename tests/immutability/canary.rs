//! What `check` finds out about the credentials in use, and says in plain words.

use std::sync::Arc;
use std::time::Duration;

use lifeboat::engine::check::{Level, probe};
use lifeboat::repo::probe::{Answer, LockSeen, Recorded};
use lifeboat::repo::{KeyEntry, Repository, Role, Signer, layout};
use lifeboat::store::s3::{S3Options, S3Store};
use lifeboat::store::{LockMode, LockTerms, Store};

use crate::bucket::{LOCKING, TERMS, VERSIONED, block_on};
use crate::support::s3::{Keeping, Rights, S3Server};

/// What was found by credentials of these rights in a bucket like this, and what is told: level and text.
fn probed(keeping: Keeping, rights: Rights, versions: bool, lock: Option<LockTerms>) -> (Recorded, Vec<(Level, String)>) {
    let server = S3Server::keeping(keeping);
    let (recorded, _) = probed_at(&server, rights, versions, lock);
    let findings = probe::findings("s3://lifeboat-test", Ok(&recorded));
    (recorded, findings.into_iter().map(|finding| (finding.level, finding.message)).collect())
}

fn probed_at(server: &S3Server, rights: Rights, versions: bool, lock: Option<LockTerms>) -> (Recorded, Repository) {
    let options = S3Options { versions, lock, lifetimes: layout::LIFETIMES, ..server.options_of(rights) };
    let store: Arc<dyn Store> = Arc::new(S3Store::new(&server.url("main"), options).unwrap());
    block_on(async {
        let signer = Signer::generate();
        let roles = vec![Role::Write, Role::Admin];
        let keys = vec![KeyEntry { name: "host".into(), public_key: signer.public_key(), roles }];
        // Put without a lock, for what refuses locks.
        let plain = S3Options { lock: None, ..server.options() };
        let plain: Arc<dyn Store> = Arc::new(S3Store::new(&server.url("main"), plain).unwrap());
        let _ = Repository::create("main", plain, keys, &signer).await;
        let repository = Repository::open("main", store, None).await.unwrap();
        (probe::probe(&repository).await.unwrap(), repository)
    })
}

const DESTROY: &str = "whoever takes over this host could destroy the backups";
const SAFE: &str = "no committed backup can be destroyed";

#[track_caller]
fn assert_says(told: &[(Level, String)], level: Level, words: &str) {
    let is_said = told.iter().any(|(found, text)| *found == level && text.contains(words));
    assert!(is_said, "'{words}' is not said as {level:?}: {told:#?}");
}

#[test]
fn a_bucket_without_any_protection_is_told_in_plain_words() {
    for rights in [Rights::All, Rights::PutAndGet] {
        let (recorded, told) = probed(Keeping::default(), rights, false, None);
        assert_says(&told, Level::Warning, DESTROY);
        let abilities = &recorded.report.abilities;
        assert_eq!(
            (abilities.overwrite_protection, abilities.versioning, abilities.object_lock),
            (Answer::No, Answer::No, Answer::No)
        );
        assert_eq!(abilities.delete, if rights == Rights::All { Answer::Yes } else { Answer::No });
    }
}

#[test]
fn a_policy_against_overwriting_protects_with_credentials_that_cannot_delete() {
    let policy = Keeping { refuses_overwrites: true, ..Keeping::default() };
    let (recorded, told) = probed(policy, Rights::PutAndGet, false, None);
    assert_says(&told, Level::Ok, SAFE);
    assert_eq!(recorded.report.abilities.overwrite_protection, Answer::Yes);
    let (_, told) = probed(policy, Rights::All, false, None);
    assert_says(&told, Level::Warning, DESTROY);
}

#[test]
fn versions_protect_when_they_are_read_and_cannot_be_deleted() {
    let (recorded, told) = probed(VERSIONED, Rights::PutAndGet, true, None);
    assert_says(&told, Level::Ok, SAFE);
    assert_eq!((recorded.report.abilities.versioning, recorded.report.guard.deletes_versions), (Answer::Yes, Answer::No));
    let (_, told) = probed(VERSIONED, Rights::PutAndGet, false, None);
    assert_says(&told, Level::Warning, "the newest is read");
    assert_says(&told, Level::Warning, DESTROY);
    let (_, told) = probed(VERSIONED, Rights::All, true, None);
    assert_says(&told, Level::Ok, "these credentials may delete versions");
    assert_says(&told, Level::Warning, DESTROY);
}

#[test]
fn a_lock_is_proven_by_a_canary_that_cannot_be_deleted() {
    let (recorded, told) = probed(LOCKING, Rights::All, true, Some(TERMS));
    assert_says(&told, Level::Ok, "lock proven");
    assert_says(&told, Level::Ok, SAFE);
    assert_eq!(recorded.report.guard.lock, Some(LockSeen::Proven { mode: "governance".into() }));
    let (recorded, told) = probed(LOCKING, Rights::PutAndGet, true, Some(TERMS));
    assert_says(&told, Level::Ok, "on record");
    assert_says(&told, Level::Ok, SAFE);
    assert_eq!(recorded.report.guard.lock, Some(LockSeen::Recorded { mode: "governance".into() }));
    // Credentials that may end a lock are told, and what nobody may end holds against them as well.
    let (_, told) = probed(LOCKING, Rights::Bypass, true, Some(TERMS));
    assert_says(&told, Level::Fault, "the lock does not hold");
    let compliance = LockTerms { mode: LockMode::Compliance, ..TERMS };
    let (recorded, _) = probed(LOCKING, Rights::Bypass, true, Some(compliance));
    assert_eq!(recorded.report.guard.lock, Some(LockSeen::Proven { mode: "compliance".into() }));
    let sham = Keeping { sham_locks: true, ..LOCKING };
    let (_, told) = probed(sham, Rights::All, true, Some(TERMS));
    assert_says(&told, Level::Fault, "the lock does not hold");
    assert_says(&told, Level::Warning, DESTROY);
    let (_, told) = probed(VERSIONED, Rights::All, true, Some(TERMS));
    assert_says(&told, Level::Fault, "cannot be locked as lifeboat.toml says");
}

#[test]
fn canaries_whose_lock_is_over_are_removed_by_the_next_check() {
    let server = S3Server::keeping(LOCKING);
    let locked = || server.versions().iter().filter(|(name, _)| name.ends_with("-held/locked")).count();
    let others = || server.versions().iter().filter(|(name, _)| name.contains("canary")).count() - locked();
    probed_at(&server, Rights::All, true, Some(TERMS));
    assert_eq!((locked(), others()), (1, 0), "{:?}", server.names());
    probed_at(&server, Rights::All, true, Some(TERMS));
    assert_eq!(locked(), 2, "one of a moment ago may be in use");
    // Old by the store's clock; the locks are not over, and nothing is made of it.
    server.backdate("main/probe/canary-", Duration::from_secs(7200));
    probed_at(&server, Rights::All, true, Some(TERMS));
    assert_eq!(locked(), 3);
    server.end_locks("main/probe/canary-");
    server.backdate("main/probe/canary-", Duration::from_secs(7200));
    probed_at(&server, Rights::All, true, Some(TERMS));
    assert_eq!((locked(), others()), (1, 0));
}
