//! Whatever is damaged in the repository, a restore fails and leaves nothing that could start: it is never silently wrong.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use lifeboat::codec::Sha256Digest;
use serde_json::Value;

use support::listing::contents;
use support::postgres::{Installation, Options};
use support::process::Output;
use support::scenario::{SOURCE, Scenario};

/// Objects that a restore does not need: what tells a backup in flight, who may write, the digests that only `verify` reads,
/// and what is known of the store.
const NOT_NEEDED: [&str; 4] = ["begin.json", "lease.json", "/index/", "probe/"];

/// Makes of an object's content a damaged one, or none.
type Damage = fn(&[u8]) -> Option<Vec<u8>>;

/// What is done to an object.
const DAMAGES: [(&str, Damage); 3] = [
    ("missing", |_| None),
    ("truncated", |whole| Some(whole[..whole.len() / 2].to_vec())),
    ("flipped", |whole| {
        let mut damaged = whole.to_vec();
        damaged[whole.len() / 2] ^= 1;
        Some(damaged)
    }),
];

#[test]
fn no_damage_restores_silently() {
    let Some(installation) = Installation::require(15) else { return };
    let scenario = Scenario::start(&installation, &Options::default());
    scenario.cluster.sql().execute("CREATE TABLE rows AS SELECT generate_series(1, 1000) n");
    scenario.full_backup();
    scenario.archive_now();
    let mut tried = 0;
    for key in scenario.repository.names() {
        // Of the log a plan reads the newest segment; the others are refused by `archive get`, in recovery.
        let is_log_segment = key.contains("/log/") && key.contains("/00000001/");
        if NOT_NEEDED.iter().any(|part| key.contains(part)) || is_log_segment {
            continue;
        }
        let whole = scenario.repository.read(&key);
        for (what, damage) in DAMAGES {
            put(&scenario, &key, damage(&whole).as_deref());
            let restored = restore(&scenario, &[], &format!("{what} {key}"));
            assert!(restored.is_none(), "{what} {key}: restored in silence");
            tried += 1;
        }
        put(&scenario, &key, Some(&whole));
    }
    // Descriptor, keys, identity, log key, commit entry; the backup's key, list, manifest and at least one pack.
    assert!(tried >= 3 * 9, "only {tried} damages were tried");
    let restored = scenario.restore_and_start("whole", &[]);
    assert_eq!(restored.sql().number("SELECT count(*) FROM rows"), 1000);
}

#[test]
fn no_damage_in_a_chain_restores_silently() {
    let Some(installation) = Installation::require(15) else { return };
    let scenario = Scenario::start(&installation, &Options::default());
    scenario.cluster.sql().execute("CREATE TABLE rows AS SELECT n, 0 AS changed FROM generate_series(1, 20000) AS n");
    let take = |(number, backup_type): (i32, &str)| {
        scenario.cluster.sql().execute(&format!("UPDATE rows SET changed = {number} WHERE n % 1000 = {number}"));
        let report = scenario.protected.json(&["backup", SOURCE, "--type", backup_type])["backups"][0].clone();
        assert_eq!(report["type"], backup_type, "{report:#}");
        report["id"].as_str().expect("an id").to_owned()
    };
    let ids: Vec<String> = (1..).zip(["full", "incr", "incr", "diff"]).map(take).collect();
    scenario.archive_now();
    let last = ["--to-immediate", "--backup", ids[2].as_str()];
    let expected = tree(&scenario.restore("sound", &last));
    let (mut tried, mut refused) = (0, 0);
    for key in scenario.repository.names() {
        let is_commit = (1..=3).any(|number| key.ends_with(&format!("/commit/0000000{number}.json")));
        let is_in_chain = ids[..3].iter().any(|id| key.contains(id)) && !key.ends_with("begin.json");
        if !is_commit && !is_in_chain {
            continue;
        }
        let whole = scenario.repository.read(&key);
        for (what, damage) in DAMAGES {
            put(&scenario, &key, damage(&whole).as_deref());
            match restore(&scenario, &last, &format!("{what} {key}")) {
                None => refused += 1,
                // Of a pack nothing may be in use any more, or not what was damaged.
                Some(found) => assert!(key.contains("/pack-") && found == expected, "{what} {key}: something else was restored"),
            }
            // Inside a wrapped key only an identity sees.
            let deep = what == "flipped" && key.contains("/key-");
            assert_found(&scenario, &key, &ids[2], deep);
            tried += 1;
        }
        put(&scenario, &key, Some(&whole));
    }
    // Of three backups the commit entry, the key, the list, the manifest and at least one pack.
    assert!(tried >= 3 * 3 * 5 && refused > 3 * 3 * 4, "{refused} of {tried} damages were refused");
    scenario.rescue.ok(&["verify", SOURCE, "--deep"]);
    for (name, id, changed) in [("incr", &ids[2], [20, 20, 0]), ("diff", &ids[3], [20, 20, 20])] {
        let restored = scenario.restore_and_start(name, &["--to-immediate", "--backup", id]);
        let count = |number: i32| restored.sql().number(&format!("SELECT count(*) FROM rows WHERE changed = {number}"));
        assert_eq!([2, 3, 4].map(count), changed, "{name}");
    }
}

/// Asserts that `verify` names the object `key`, and does not call the backup `id` intact.
#[track_caller]
fn assert_found(scenario: &Scenario, key: &str, id: &str, deep: bool) {
    let arguments = ["verify", SOURCE, "--output", "json", "--deep"];
    let output = scenario.rescue.run(&arguments[..if deep { 5 } else { 4 }]).exits(22);
    let document: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{key}: {error}: {output}"));
    let source = &document["repositories"][0]["sources"][0];
    let list = |what: &str| source[what].as_array().expect("a list").clone();
    let named = |finding: &Value| finding["severity"] == "damage" && finding["key"] == key;
    assert!(list("findings").iter().any(named), "{key} is not named: {document:#}");
    let intact = |backup: &Value| backup["id"] == id && backup["intact"] == true;
    assert!(!list("backups").iter().any(intact), "{key}: {document:#}");
}

/// Replaces an object, or removes it.
fn put(scenario: &Scenario, key: &str, content: Option<&[u8]>) {
    match content {
        Some(content) => scenario.repository.write(key, content),
        None => scenario.repository.remove(key),
    }
}

/// What lies below a restored directory, but for the settings that name the directory itself.
fn tree(data: &Path) -> BTreeMap<PathBuf, Sha256Digest> {
    let relative = |(path, digest): (PathBuf, Sha256Digest)| (path.strip_prefix(data).expect("below it").to_owned(), digest);
    contents(data).into_iter().map(relative).filter(|(path, _)| !path.ends_with("postgresql.auto.conf")).collect()
}

/// Restores; `None` when that is refused, as it must be, else what was restored.
#[track_caller]
fn restore(scenario: &Scenario, arguments: &[&str], what: &str) -> Option<BTreeMap<PathBuf, Sha256Digest>> {
    let into = scenario.restored.join("refused");
    let fixed = ["restore", SOURCE, "--into", into.to_str().expect("plain")];
    let output = scenario.rescue.run(&[&fixed, arguments].concat());
    let restored = (output.code == Some(0)).then(|| tree(&into));
    if restored.is_none() {
        assert_sound_refusal(&into, &output, what);
    }
    if into.exists() {
        fs::remove_dir_all(&into).expect("own directory");
    }
    restored
}

#[track_caller]
fn assert_sound_refusal(into: &Path, output: &Output, what: &str) {
    assert!(matches!(output.code, Some(1 | 20 | 22)), "{what}: {output}");
    assert!(output.stderr.contains("error:") && !output.stderr.contains("a bug of its own"), "{what}: {output}");
    if what.contains("/pack-") {
        // Whatever goes wrong first in a damaged pack: what is said is what `verify` says, where all of it was fetched.
        let said = ["is damaged: it is not what was stored", "is missing from the repository", "cannot be used"];
        assert!(output.code == Some(22) && said.iter().any(|said| output.stderr.contains(said)), "{what}: {output}");
    }
    assert!(!into.join("global/pg_control").exists(), "{what}: a server could start there");
}
