//! Somebody has taken over the backup host: its credentials and its signing key. What was committed before stays, and
//! comes back byte for byte.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lifeboat::base::{BackupId, Timestamp};
use lifeboat::codec::Sha256Digest;
use lifeboat::repo::commit::{CommitEntry, Committed};
use lifeboat::repo::signed::{self, Place as SignedPlace};
use lifeboat::repo::{BackupSummary, CommitLog, Repository, Signer, Tombstone, layout};
use lifeboat::store::s3::{S3Options, S3Store};
use serde_json::json;

use crate::bucket::{LOCKING, Stranger, VERSIONED, block_on, spoil_everything};
use crate::support::listing::{backups, contents};
use crate::support::postgres::{Installation, Options};
use crate::support::s3::{Keeping, Rights};
use crate::support::scenario::{Place, SOURCE, Scenario};

const PREFIX: &str = "backups/main/";

/// A bucket that refuses to overwrite.
const POLICY: Keeping = Keeping { versions: false, object_lock: false, refuses_overwrites: true, sham_locks: false };

/// What a restore of `id` brings back, by path.
fn restored(scenario: &Scenario, name: &str, id: &str) -> BTreeMap<PathBuf, Sha256Digest> {
    let data = scenario.restore(name, &["--backup", id, "--to-immediate"]);
    let relative = |path: &Path| path.strip_prefix(&data).expect("below it").to_owned();
    contents(&data).iter().map(|(path, digest)| (relative(path), *digest)).collect()
}

/// Everything a holder of the host's signing key can write that claims something about what is committed: name below the
/// repository, content.
async fn forgeries(scenario: &Scenario, full: &str, incr: &str) -> Vec<(String, Vec<u8>)> {
    let server = scenario.server.as_ref().expect("in a bucket");
    let key = std::fs::read_to_string(scenario.protected.dir().join("signing.key")).expect("own file");
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), key).expect("own file");
    let signer = Signer::read(file.path()).expect("the host's key");
    let options =
        S3Options { versions: server.versions().iter().any(|(_, versions)| versions[0].id != "null"), ..server.options() };
    let store = Arc::new(S3Store::new(&server.url("backups/main"), options).expect("a right address"));
    let repository = Repository::open("main", store, None).await.expect("a repository");
    let source = SOURCE.parse().expect("a name");
    let log = CommitLog::load(&repository, &source).await.expect("it answers");
    let (full, incr): (BackupId, BackupId) = (full.parse().expect("an id"), incr.parse().expect("an id"));
    let mut last = log.entries.last().expect("a backup").number;
    let mut entry = |committed: Committed, lease_token: u64| {
        last += 1;
        let (host, written) = ("host".to_owned(), Timestamp::now());
        let entry =
            CommitEntry { number: last, previous: log.digests.get(&(last - 1)).copied(), lease_token, host, written, committed };
        let document = signed::sign(SignedPlace::of_source("commit", repository.id(), &source), &entry, &signer);
        (layout::commit(&source, last), document)
    };
    let other = |id: &BackupId| {
        let nothing = Sha256Digest::of(b"nothing");
        let found = log.find(id).expect("committed").clone();
        Committed::Backup(Box::new(BackupSummary { manifest_sha256: nothing, packs_sha256: nothing, ..found }))
    };
    let tombstone = Tombstone {
        backups: vec![full.clone(), incr.clone()],
        marks: vec!["m".into()],
        log_floors: Vec::new(),
        log_ranges: Vec::new(),
    };
    let mut planted = vec![
        entry(Committed::Tombstone(tombstone), 0),
        entry(other(&full), 0),
        entry(other(&incr), u64::MAX),
        (layout::commit(&source, 90_000_000), b"junk".to_vec()),
    ];
    let name = "20261120T214002Z-aaaa";
    let mark = json!({
        "name": name,
        "mark": {"backups": [full, incr], "marked": Timestamp::now(), "grace_seconds": 0, "host": "host"},
    });
    let place = SignedPlace::of_source("expire", repository.id(), &source);
    planted.push((layout::expiry(&source, name), signed::sign(place, &mark, &signer)));
    let thief = Signer::generate();
    let keys = json!({
        "version": 2, "created": Timestamp::now(), "previous": repository.keyring().root,
        "keys": [{"name": "thief", "public_key": thief.public_key(), "roles": ["write", "expire", "admin"]}],
    });
    let place = SignedPlace { source: None, ..SignedPlace::of_source("keys", repository.id(), &source) };
    planted.push((layout::keyring(2), signed::sign(place, &keys, &signer)));
    let incarnation = log.backups().next().expect("one").incarnation.clone();
    for key in [
        layout::backup_key(&source, &full, 9),
        layout::log_key(&source, &incarnation, 9, 1),
        format!("{}junk.json", layout::log_indexes(&source, &incarnation)),
        format!("{}junk", layout::log(&source, &incarnation)),
        format!("{}pg99-1.json", layout::identities(&source)),
        format!("{}junk", layout::backup(&source, &incr)),
        "orders/backup/20261120T214002Z-full-zzzz/begin.json".to_owned(),
        "probe/20991120T214002Z-aaaaaaaa.json".to_owned(),
    ] {
        planted.push((key, b"junk".to_vec()));
    }
    planted
}

/// Backups before, everything a thief can do, and the same backups afterwards.
fn outlives(keeping: Keeping, keys: &'static str, rights: Rights, expected_let_through: impl Fn(u64) -> bool) {
    let Some(installation) = Installation::require(15) else { return };
    let options = Options { wal_segment_mib: 1, ..Options::default() };
    let scenario = Scenario::start_in(Place::Kept(keeping, keys, rights), &installation, &options);
    scenario.cluster.sql().execute("CREATE TABLE rows AS SELECT n, md5(n::text) AS noise FROM generate_series(1, 20000) AS n");
    scenario.full_backup();
    scenario.cluster.sql().execute("UPDATE rows SET noise = 'later' WHERE n % 7 = 0");
    scenario.protected.ok(&["backup", SOURCE, "--type", "incr"]);
    scenario.archive_now();
    let checked = scenario.protected.ok(&["check", SOURCE]).stdout;
    assert!(checked.contains("no committed backup can be destroyed"), "{checked}");
    let ids = backups(&scenario.rescue);
    let before: Vec<_> = ids.iter().map(|id| restored(&scenario, &format!("before-{id}"), id)).collect();
    let server = scenario.server.as_ref().expect("in a bucket");
    if keeping.object_lock {
        assert_locked(server);
    }

    let stranger = Stranger::with(server, rights);
    let let_through = block_on(spoil_everything(server, &stranger, true));
    assert!(expected_let_through(let_through), "{let_through} attempts were let through");
    scenario.rescue.ok(&["verify", SOURCE, "--deep"]);
    let assert_all_is_there = |when: &str| {
        assert_eq!(backups(&scenario.rescue), ids, "{when}");
        for (id, before) in ids.iter().zip(&before) {
            let after = restored(&scenario, &format!("{when}-{id}"), id);
            let differing: Vec<_> =
                before.keys().chain(after.keys()).filter(|path| before.get(*path) != after.get(*path)).collect();
            assert!(differing.is_empty(), "{when}: {id} comes back otherwise: {differing:?}");
        }
    };
    assert_all_is_there("spoilt");

    block_on(async {
        for (name, content) in forgeries(&scenario, &ids[0], &ids[1]).await {
            assert!(stranger.put(&format!("{PREFIX}{name}"), &content, true).await, "{name}: anybody can put what is new");
        }
        spoil_everything(server, &stranger, false).await;
    });
    assert_all_is_there("forged");
    let operator = scenario.operator_key.display().to_string();
    let expire = scenario.rescue.run(&["expire", SOURCE, "--key", &operator]);
    assert!(!expire.stdout.contains("expired "), "a forged mark is carried out:\n{expire}");
    assert_all_is_there("expired");
}

/// Every object that lasts is locked for as long as the configuration says, and no other.
fn assert_locked(server: &crate::support::s3::S3Server) {
    for (name, versions) in server.versions() {
        let key = name.strip_prefix(PREFIX).expect("below the prefix");
        let is_exempt = key.starts_with("probe/") || key.ends_with("/lease.json");
        if !key.contains("canary") {
            assert_eq!(versions[0].lock.is_none(), is_exempt, "{key}");
        }
    }
}

#[test]
fn what_a_policy_keeps_from_being_overwritten_outlives_a_stolen_host() {
    outlives(POLICY, "", Rights::PutAndGet, |let_through| let_through == 0);
}

#[test]
fn what_is_kept_in_versions_outlives_a_stolen_host() {
    outlives(VERSIONED, "versions = true\n", Rights::NoVersionDeletion, |let_through| let_through > 100);
}

#[test]
fn what_is_locked_outlives_a_host_that_may_delete() {
    let keys = "object_lock = \"governance\"\nlock_for = \"35d\"\n";
    outlives(LOCKING, keys, Rights::All, |let_through| let_through > 100);
}
