//! `lifeboat verify` on a small repository: whatever is done to it, the object is named and the exit code is 22.

#[path = "verify/chain.rs"]
mod chain;
#[path = "verify/chains.rs"]
mod chains;
#[path = "verify/fixture.rs"]
mod fixture;

use std::collections::BTreeMap;
use std::fs;

use fixture::{Fixture, copy_tree, incarnation, source, summary};
use lifeboat::base::{BackupId, BackupType, Timestamp};
use lifeboat::codec::{FrameDigest, Sha256Digest};
use lifeboat::repo::commit::{CommitEntry, Committed};
use lifeboat::repo::signed::{self, Place};
use lifeboat::repo::{Signer, layout};
use serde_json::Value;

const DEEP: &str = "verify --deep";

/// Key and message of everything damaged.
fn damage(document: &Value) -> Vec<(String, String)> {
    let repository = &document["repositories"][0];
    let of = |part: &Value| part["findings"].as_array().unwrap().clone();
    let mut all = of(repository);
    repository["sources"].as_array().unwrap().iter().for_each(|source| all.extend(of(source)));
    let damaged = all.iter().filter(|finding| finding["severity"] == "damage");
    damaged.map(|finding| (finding["key"].as_str().unwrap().into(), finding["what"].as_str().unwrap().into())).collect()
}

/// Backup ids and whether they are intact.
fn backups(document: &Value) -> BTreeMap<String, bool> {
    let list = document["repositories"][0]["sources"][0]["backups"].as_array().unwrap();
    list.iter().map(|backup| (backup["id"].as_str().unwrap().into(), backup["intact"].as_bool().unwrap())).collect()
}

/// One kind of mischief done to an object's file.
type Mischief = (&'static str, fn(&std::path::Path));

const MISCHIEF: [Mischief; 3] = [
    ("missing", |file| fs::remove_file(file).unwrap()),
    ("truncated", |file| {
        let length = fs::metadata(file).unwrap().len();
        fs::OpenOptions::new().write(true).open(file).unwrap().set_len(length - length / 3).unwrap();
    }),
    ("flipped", |file| {
        let mut content = fs::read(file).unwrap();
        let middle = content.len() / 2;
        content[middle] ^= 0x10;
        fs::write(file, content).unwrap();
    }),
];

/// Every object once, by what it is.
fn objects(fixture: &Fixture) -> Vec<(&'static str, String)> {
    let log = layout::log(&source(), &incarnation());
    let mut ids: Vec<String> = backups(&fixture.json("verify", 0)).into_keys().collect();
    let id: BackupId = ids.remove(0).parse().unwrap();
    let segments = format!("{log}00000001/");
    vec![
        ("descriptor", layout::DESCRIPTOR.to_owned()),
        ("keys", layout::keyring(1)),
        ("identity", layout::identity(&source(), &incarnation())),
        ("commit entry", layout::commit(&source(), 1)),
        ("last commit entry", layout::commit(&source(), 2)),
        ("wrapped key", layout::backup_key(&source(), &id, 1)),
        ("pack", layout::pack(&source(), &id, 2, ".age")),
        ("list of packs", layout::packs_list(&source(), &id)),
        ("manifest", layout::manifest(&source(), &id, ".age")),
        ("needed segment", fixture.find(&segments, "000000010000000000000003_")),
        ("other segment", fixture.find(&segments, "000000010000000000000005_")),
        ("index", fixture.find(&layout::log_indexes(&source(), &incarnation()), "-")),
        ("log key", layout::log_key(&source(), &incarnation(), 1, 1)),
    ]
}

#[test]
fn a_sound_repository_is_found_sound() {
    let fixture = Fixture::with_backups();
    for line in ["verify", "verify orders", DEEP] {
        let document = fixture.json(line, 0);
        assert_eq!(damage(&document), [], "{line}");
        assert_eq!(backups(&document).values().collect::<Vec<_>>(), [&true, &true], "{line}");
        let log = &document["repositories"][0]["sources"][0]["logs"][0];
        assert_eq!((&log["segments"], &log["uncovered"]), (&4.into(), &1.into()), "{line}: {log}");
        assert_eq!(log["gaps"].as_array().unwrap().len(), 0);
    }
}

#[test]
fn missing_truncated_and_flipped_objects_are_named() {
    let fixture = Fixture::with_backups();
    let objects = objects(&fixture);
    let sound = fixture.path("sound");
    copy_tree(&fixture.path("repo"), &sound);
    for (what, key) in objects {
        for (how, mischief) in MISCHIEF {
            mischief(&fixture.object(&key));
            // An unsigned index entry less is no damage: what it covered is told to be uncovered.
            let hidden = (what, how) == ("index", "missing");
            // Inside a wrapped key only an identity sees.
            let line =
                if (what, how) == ("wrapped key", "flipped") || (what, how) == ("log key", "flipped") { DEEP } else { "verify" };
            let document = fixture.json(line, if hidden { 0 } else { 22 });
            let found = damage(&document);
            let prefix = key.split("_2").next().unwrap();
            // With another id in the descriptor it is the keys that do not belong here.
            let named = key == layout::DESCRIPTOR && found[0].0 == layout::KEYS
                || found.iter().any(|(found, _)| found.starts_with(prefix) || key.starts_with(found.as_str()));
            assert!(named || hidden, "{how} {what} {key}: {found:?}");
            assert!(found.len() <= 2, "{how} {what}: one cause, few findings: {found:?}");
            if what == "pack" || what == "manifest" || what == "list of packs" || what == "needed segment" {
                assert_eq!(backups(&document).values().filter(|intact| !**intact).count(), 1, "{how} {what}");
            }
            fs::remove_dir_all(fixture.path("repo")).unwrap();
            copy_tree(&sound, &fixture.path("repo"));
        }
    }
    assert_eq!(damage(&fixture.json(DEEP, 0)), []);
}

#[test]
fn forged_and_replayed_entries_are_named_and_not_believed() {
    let fixture = Fixture::with_backups();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (scope, _) = runtime.block_on(fixture.scope());
    let stranger = Signer::generate();
    let id = BackupId::fresh(Timestamp::now(), BackupType::Full);
    let last = fs::read(fixture.object(&layout::commit(&source(), 2))).unwrap();
    let entry = CommitEntry {
        number: 3,
        previous: Some(Sha256Digest::of(&last)),
        lease_token: 0,
        host: "elsewhere".into(),
        written: Timestamp::now(),
        committed: Committed::Backup(Box::new(summary(&id, 3))),
    };
    let forged = signed::sign(Place::of_source("commit", scope.repository.id(), &source()), &entry, &stranger);
    fs::write(fixture.object("orders/commit/00000003.json"), forged).unwrap();
    let document = fixture.json("verify", 22);
    assert_eq!(backups(&document).len(), 2, "a forged backup is not believed");
    let found = damage(&document);
    assert_eq!(found[0].0, "orders/commit/00000003.json");
    assert!(found[0].1.contains("has no right to sign"), "{found:?}");

    let replayed = fixture.object("orders/commit/00000003.json");
    fs::copy(fixture.object("orders/commit/00000001.json"), &replayed).unwrap();
    let found = damage(&fixture.json("verify", 22));
    assert!(found.iter().any(|(key, what)| key.ends_with("/00000003.json") && what.contains("replayed")), "{found:?}");
    fs::remove_file(replayed).unwrap();

    fs::create_dir_all(fixture.object("users/commit")).unwrap();
    fs::copy(fixture.object("orders/commit/00000001.json"), fixture.object("users/commit/00000001.json")).unwrap();
    let found = damage(&fixture.json("verify", 22));
    assert!(
        found.iter().any(|(key, what)| key == "users/commit/00000001.json" && what.contains("belongs elsewhere")),
        "{found:?}"
    );
}

#[test]
fn a_repository_wound_back_or_exchanged_is_noticed() {
    let fixture = Fixture::with_backups();
    copy_tree(&fixture.path("repo"), &fixture.path("older"));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (scope, writing) = fixture.scope().await;
        fixture.backup(&scope, &writing, 5, &FrameDigest::of).await;
    });
    fixture.json("verify", 0);
    fs::remove_dir_all(fixture.path("repo")).unwrap();
    copy_tree(&fixture.path("older"), &fixture.path("repo"));
    let found = damage(&fixture.json("verify", 22));
    assert_eq!(found[0].0, "orders/commit/00000003.json");
    assert!(found[0].1.contains("wound back"), "{found:?}");

    let other = Fixture::with_backups();
    fs::remove_dir_all(fixture.path("repo")).unwrap();
    copy_tree(&other.path("repo"), &fixture.path("repo"));
    let found = damage(&fixture.json("verify", 22));
    assert!(found[0].0 == "keys/" && found[0].1.contains("pinned"), "{found:?}");
    // Without a pin in the configuration this host's own memory serves.
    let text = fs::read_to_string(fixture.path("lifeboat.toml")).unwrap();
    let unpinned: String = text.lines().filter(|line| !line.starts_with("root = ")).map(|line| format!("{line}\n")).collect();
    fs::write(fixture.path("lifeboat.toml"), unpinned).unwrap();
    assert_eq!(damage(&fixture.json("verify", 0)), [], "first use");
    fs::remove_dir_all(fixture.path("repo")).unwrap();
    copy_tree(&fixture.path("older"), &fixture.path("repo"));
    let found = damage(&fixture.json("verify", 22));
    assert!(found[0].1.contains("saw first"), "{found:?}");
}

#[test]
fn a_host_that_signs_lies_is_found_out_by_a_deep_run_only() {
    let fixture = Fixture::with_backups();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let id = runtime.block_on(async {
        let (scope, writing) = fixture.scope().await;
        fixture.backup(&scope, &writing, 5, &|raw| FrameDigest::of(&raw[1..])).await
    });
    assert_eq!(damage(&fixture.json("verify", 0)), []);
    let document = fixture.json(DEEP, 22);
    let found = damage(&document);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.iter().all(|(key, what)| key.contains(id.as_str()) && what.contains("and 2 more frames")), "{found:?}");
    assert!(!backups(&document)[id.as_str()]);
}

#[test]
fn a_segment_under_anothers_name_is_found_by_a_deep_run() {
    let fixture = Fixture::with_backups();
    let segments = format!("{}00000001/", layout::log(&source(), &incarnation()));
    let sixth = fixture.find(&segments, "000000010000000000000006_");
    let seventh = sixth.replace("000000010000000000000006_", "000000010000000000000007_");
    fs::copy(fixture.object(&sixth), fixture.object(&seventh)).unwrap();
    let found = damage(&fixture.json(DEEP, 22));
    assert!(matches!(found.as_slice(), [(key, _)] if *key == seventh), "{found:?}");
    fs::remove_file(fixture.object(&seventh)).unwrap();

    // Two contents under one name: what a second primary would have archived.
    let digest = sixth.rsplit('_').next().unwrap();
    fs::copy(fixture.object(&sixth), fixture.object(&sixth.replace(digest, "0123456789abcdef.zst.age"))).unwrap();
    let found = damage(&fixture.json("verify", 22));
    assert!(found[0].0.contains("000000010000000000000006_") && found[0].1.contains("0123456789abcdef"), "{found:?}");
}

#[test]
fn a_segment_that_two_backups_need_spoils_both() {
    let fixture = Fixture::with_backups();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let beside = runtime.block_on(async {
        let (scope, writing) = fixture.scope().await;
        fixture.backup(&scope, &writing, 4, &FrameDigest::of).await
    });
    let segments = format!("{}00000001/", layout::log(&source(), &incarnation()));
    let segment = fixture.object(&fixture.find(&segments, "000000010000000000000004_"));
    for (how, mischief) in MISCHIEF {
        let whole = fs::read(&segment).unwrap();
        mischief(&segment);
        let document = fixture.json("verify", 22);
        assert_eq!(damage(&document).len(), 1, "{how}");
        let intact = backups(&document);
        assert!(!intact[beside.as_str()] && intact.values().filter(|intact| !**intact).count() == 2, "{how}: {intact:?}");
        fs::write(&segment, whole).unwrap();
    }
}

#[test]
fn gaps_and_unfinished_backups_are_told_and_no_damage() {
    let fixture = Fixture::with_backups();
    fixture.push_segments(9..=9);
    let id = BackupId::fresh(Timestamp::now(), BackupType::Full);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (scope, writing) = fixture.scope().await;
        fixture::begin(&scope, &writing, &id).await;
    });
    let document = fixture.json("verify", 0);
    let orders = &document["repositories"][0]["sources"][0];
    let gap = &orders["logs"][0]["gaps"][0];
    assert_eq!((&gap["first"], &gap["segments"]), (&"000000010000000000000007".into(), &2.into()));
    assert_eq!(orders["uncommitted"][0]["id"], id.as_str());
    let output = fixture.run("verify");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("gap: 000000010000000000000007 to 000000010000000000000008 (2)"), "{text}");
    assert!(text.contains(&format!("not committed: {id}\n    begun ")), "{text}");
}

#[test]
fn keys_that_the_identities_at_hand_do_not_open_are_named_and_the_rest_is_verified() {
    let fixture = Fixture::with_backups();
    let other = Fixture::new();
    fs::copy(other.path("keys/identity.age"), fixture.path("keys/identity.age")).unwrap();
    let document = fixture.json(DEEP, 22);
    let found = damage(&document);
    let keys: Vec<&str> = found.iter().map(|(key, _)| key.as_str()).collect();
    assert!(keys.len() == 3 && keys.iter().filter(|key| key.ends_with("/key-1.age")).count() == 2, "{found:?}");
    assert!(keys.contains(&layout::log_key(&source(), &incarnation(), 1, 1).as_str()), "{found:?}");
    let hint = "none of the identities at hand, and nor is any other key: set [encryption] identity_file";
    assert!(found.iter().all(|(_, what)| what.contains(hint)), "{found:?}");
    assert!(backups(&document).values().all(|intact| !intact), "a backup that cannot be opened is not shown to be intact");
    let orders = &document["repositories"][0]["sources"][0];
    assert_eq!(orders["logs"][0]["segments"], 4);
    // What needs no key is found beside it.
    let (_, pack) = objects(&fixture).into_iter().find(|(what, _)| *what == "pack").unwrap();
    let mut content = fs::read(fixture.object(&pack)).unwrap();
    *content.last_mut().unwrap() ^= 1;
    fs::write(fixture.object(&pack), content).unwrap();
    let found = damage(&fixture.json(DEEP, 22));
    assert!(found.len() == 4 && found.iter().any(|(key, _)| *key == pack), "{found:?}");
    assert_eq!(damage(&fixture.json("verify", 22)).len(), 1);
}

#[test]
fn what_lies_beside_the_keys_is_no_key() {
    let fixture = Fixture::with_backups();
    let (_, backup_key) = objects(&fixture).into_iter().find(|(what, _)| *what == "wrapped key").unwrap();
    let log_key = layout::log_key(&source(), &incarnation(), 1, 1);
    let strangers = [
        format!("{backup_key}.bak"),
        backup_key.replace("key-1.age", "key-old.age"),
        format!("{log_key}.bak"),
        log_key.replace("00000001-1", "7-1"),
    ];
    for stranger in &strangers {
        fs::write(fixture.object(stranger), "no key\n").unwrap();
    }
    for line in ["verify", DEEP] {
        let document = fixture.json(line, 0);
        let findings = document["repositories"][0]["sources"][0]["findings"].as_array().unwrap();
        let told: Vec<&str> = findings.iter().map(|finding| finding["key"].as_str().unwrap()).collect();
        assert!(strangers.iter().all(|stranger| told.contains(&stranger.as_str())), "{line}: {told:?}");
    }
    // The next stretch has the next number.
    fs::remove_dir_all(fixture.path("state")).unwrap();
    fixture.push_segments(7..=7);
    assert!(fixture.object(&layout::log_key(&source(), &incarnation(), 2, 1)).exists());
    fixture.json(DEEP, 0);
}
