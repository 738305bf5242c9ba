//! Whatever is damaged in the repository, a restore fails and leaves nothing that could start: it is never silently wrong.

mod support;

use std::fs;
use std::path::Path;

use support::listing::files;
use support::postgres::{Installation, Options};
use support::scenario::{SOURCE, Scenario};

/// Objects that a restore does not need: what tells a backup in flight, and the digests that only `verify` reads.
const NOT_NEEDED: [&str; 2] = ["begin.json", "/index/"];

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
    for object in files(scenario.repository.path()) {
        let path = object.to_string_lossy().into_owned();
        // Of the log a plan reads the newest segment; the others are refused by `archive get`, in recovery.
        let is_log_segment = path.contains("/log/") && path.contains("/00000001/");
        if NOT_NEEDED.iter().any(|part| path.contains(part)) || is_log_segment {
            continue;
        }
        let whole = fs::read(&object).expect("readable");
        for (what, damage) in DAMAGES {
            put(&scenario, &object, damage(&whole).as_deref());
            assert_refused(&scenario, &format!("{what} {path}"));
            tried += 1;
        }
        put(&scenario, &object, Some(&whole));
    }
    // Descriptor, keys, identity, log key, commit entry; the backup's key, list, manifest and at least one pack.
    assert!(tried >= 3 * 9, "only {tried} damages were tried");
    let restored = scenario.restore_and_start("whole", &[]);
    assert_eq!(restored.sql().number("SELECT count(*) FROM rows"), 1000);
}

/// Rewritten in place, or set aside: the object keeps its owner.
fn put(scenario: &Scenario, object: &Path, content: Option<&[u8]>) {
    let aside = scenario.restored.join("aside");
    match content {
        Some(content) => {
            if aside.exists() {
                fs::rename(&aside, object).expect("own directory");
            }
            fs::write(object, content).expect("own object");
        }
        None => fs::rename(object, &aside).expect("own directory"),
    }
}

#[track_caller]
fn assert_refused(scenario: &Scenario, what: &str) {
    let into = scenario.restored.join("refused");
    let output = scenario.rescue.run(&["restore", SOURCE, "--into", into.to_str().expect("plain")]);
    assert!(matches!(output.code, Some(1 | 20 | 22)), "{what}: {output}");
    assert!(output.stderr.contains("error:"), "{what}: {output}");
    if what.contains("/pack-") {
        // Whatever goes wrong first in a damaged pack: what is said is what `verify` says.
        let said = ["is damaged: it is not what was stored", "is missing from the repository"];
        assert!(output.code == Some(22) && said.iter().any(|said| output.stderr.contains(said)), "{what}: {output}");
    }
    assert!(!into.join("global/pg_control").exists(), "{what}: a server could start there");
    if into.exists() {
        fs::remove_dir_all(&into).expect("own directory");
    }
}
