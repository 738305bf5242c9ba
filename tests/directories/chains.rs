//! Chains of backups of random trees, and what they cost.

use rand::{Rng, RngExt};

use crate::oracle::{assert_same, snapshot};
use crate::stage::{SOURCE, Stage, Tree, id, number, section};
use crate::support::random;
use crate::trees;

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    random::generator(seed, 7).fill_bytes(&mut bytes);
    bytes
}

/// Full, incr, diff and incr again over trees that change at random: every one of them comes back as the tree was.
#[test]
fn every_backup_of_a_chain_comes_back_as_the_tree_was() {
    let seed = random::seed("chains of random trees");
    let (mut kept, mut read) = (0, 0);
    for round in 0..3 {
        let mut random = random::generator(seed, round);
        let stage = Stage::as_root("");
        for _ in 0..random.random_range(20..80) {
            trees::add(&mut random, &stage.tree);
        }
        let mut taken: Vec<(String, Tree)> = Vec::new();
        for (step, backup_type) in ["full", "incr", "incr", "diff", "incr"].iter().enumerate() {
            // So that the next one finds files that it need not read.
            stage.settle();
            let expected = snapshot(&stage.tree);
            let report = stage.backup(backup_type);
            assert_eq!(report["type"], *backup_type, "round {round}: {report:#}");
            if step > 0 {
                kept += number(&report["files"]["kept"]);
                read += number(&report["files"]["read"]);
            }
            assert_eq!(report["not_whole"]["count"], 0, "{report:#}");
            taken.push((id(&report), expected));
            for _ in 0..random.random_range(0..8) {
                trees::change(&mut random, &stage.tree);
            }
        }
        for (id, expected) in &taken {
            stage.assert_restores(id, expected, &format!("round {round}: {id}"));
        }
        stage.assert_verifies();
        assert_eq!(stage.listed(), taken.iter().map(|(id, _)| id.clone()).collect::<Vec<_>>());
    }
    assert!(kept > 0 && read > 0, "{kept} kept and {read} read: one of the ways was not taken");
}

#[test]
fn an_unchanged_tree_is_not_read_and_costs_nothing() {
    let stage = Stage::as_root("");
    for n in 0..40 {
        stage.write(&format!("d{}/f{n}", n % 4), &noise(n, 50_000));
    }
    stage.settle();
    let full = stage.backup("full");
    let incr = stage.backup("incr");
    assert_eq!((number(&incr["files"]["read"]), number(&incr["read_bytes"])), (0, 0), "{incr:#}");
    assert_eq!(number(&incr["files"]["kept"]), 44, "{incr:#}");
    assert!(number(&incr["stored_bytes"]) * 50 < number(&full["stored_bytes"]), "{incr:#}");
    assert_eq!(incr["raw_bytes"], full["raw_bytes"]);
    stage.assert_restores(&id(&incr), &snapshot(&stage.tree), "an incr of which every line leads elsewhere");
    stage.assert_verifies();
}

#[test]
fn what_is_stored_once_is_not_stored_again_under_any_name() {
    let stage = Stage::as_root("");
    let (one, other) = (noise(1, 3_000_000), noise(2, 3_000_000));
    stage.write("a", &one);
    stage.write("deep/er/a", &one);
    let full = stage.backup("full");
    let stored = number(&full["stored_bytes"]);
    assert!((3_000_000..3_200_000).contains(&stored), "two files of one content: {stored}");
    stage.write("moved", &one);
    stage.write("prefixed", &[b"a few bytes before".as_slice(), &one].concat());
    std::fs::remove_file(stage.tree.join("a")).expect("own file");
    let incr = stage.backup("incr");
    assert!(number(&incr["stored_bytes"]) < 700_000, "one or two chunks: {}", incr["stored_bytes"]);
    stage.write("new", &other);
    let second = stage.backup("incr");
    assert!((3_000_000..3_200_000).contains(&number(&second["stored_bytes"])), "{}", second["stored_bytes"]);
    // A diff does not know what came since the full.
    let diff = stage.backup("diff");
    assert!(number(&diff["stored_bytes"]) > 3_000_000, "{}", diff["stored_bytes"]);
    for taken in [&incr, &second, &diff] {
        assert!(number(&taken["read_bytes"]) > 0);
    }
    stage.assert_restores(&id(&second), &snapshot(&stage.tree), "frames of the whole chain");
    stage.assert_restores(&id(&diff), &snapshot(&stage.tree), "frames of the full alone");
    stage.assert_verifies();
}

/// The index of chunks is lost, and then all that the host keeps: it costs time, then a full, and never data.
#[test]
fn what_the_host_forgets_costs_time_or_space_and_no_data() {
    let stage = Stage::as_root("");
    stage.write("a", &noise(1, 2_000_000));
    stage.settle();
    stage.backup("full");
    let chunks = find(&stage.protected.state_dir(), "chunks");
    std::fs::remove_dir_all(&chunks).expect("there is an index");
    stage.write("b", &noise(1, 2_000_000));
    let incr = stage.backup("incr");
    assert!(incr["type"] == "incr" && number(&incr["stored_bytes"]) < 100_000, "made anew from the base: {incr:#}");

    for file in std::fs::read_dir(&chunks).expect("there is an index again") {
        std::fs::write(file.expect("own directory").path(), b"no index").expect("own file");
    }
    stage.write("c", &noise(1, 2_000_000));
    let incr = stage.backup("incr");
    assert!(number(&incr["stored_bytes"]) < 100_000 && incr["warnings"][0].as_str().unwrap().contains("made anew"), "{incr:#}");

    std::fs::remove_dir_all(find(&stage.protected.state_dir(), "base")).expect("there is a base");
    let full = stage.backup("incr");
    assert_eq!(full["type"], "full");
    let reason = full["reason"].as_str().expect("a reason");
    assert!(reason.contains("keeps no record") && reason.contains("without an identity"), "{reason}");
    stage.assert_restores(&id(&full), &snapshot(&stage.tree), "the full");
    stage.assert_verifies();
}

/// After a failover another host, which has the identity, goes on with the chain: it reads everything and stores what is new.
#[test]
fn another_host_with_an_identity_goes_on_with_the_chain() {
    let stage = Stage::as_root("");
    let kept = stage.write("a", &noise(1, 2_000_000));
    stage.settle();
    stage.backup("full");
    let twin = stage.protected.twin();
    let text = twin.configuration();
    let identity = std::fs::read_to_string(stage.rescue.dir().join("identity.txt")).expect("own file");
    let file = twin.write("identity.txt", &identity);
    let line = format!("[encryption]\nidentity_file = {}\n", toml::Value::String(file.display().to_string()));
    twin.configure_text(&text.replace("[encryption]\n", &line));
    stage.write("b", &noise(2, 50_000));
    let incr = stage.json(&twin, &["backup", SOURCE, "--type", "incr"])["backups"][0].clone();
    assert_eq!(incr["type"], "incr", "{incr:#}");
    assert!(incr["warnings"][0].as_str().unwrap().contains("every file is read"), "{incr:#}");
    assert_eq!(number(&incr["read_bytes"]), 2_050_000);
    assert!(number(&incr["stored_bytes"]) < 100_000, "{incr:#}");
    assert!(kept.exists());
    stage.assert_restores(&id(&incr), &snapshot(&stage.tree), "of the other host");
    stage.assert_verifies();
}

/// The directory is mounted elsewhere: nothing is believed unread, everything is found again.
#[test]
fn a_directory_that_moved_is_read_again_and_stored_once() {
    let stage = Stage::as_root("");
    stage.write("a", &noise(1, 2_000_000));
    stage.settle();
    stage.backup("full");
    let moved = stage.tree.with_file_name("moved");
    std::fs::rename(&stage.tree, &moved).expect("own directory");
    let text = stage.protected.configuration();
    stage.protected.configure_text(&text.replace(&section(&stage.tree, ""), &section(&moved, "")));
    let incr = stage.backup("incr");
    assert!(incr["type"] == "incr" && number(&incr["read_bytes"]) == 2_000_000, "{incr:#}");
    assert!(number(&incr["stored_bytes"]) < 100_000, "{incr:#}");
    stage.assert_restores(&id(&incr), &snapshot(&moved), "moved");
}

/// What expires takes nothing with it that stays.
#[test]
fn a_chain_goes_and_the_one_that_stays_is_whole() {
    let stage = Stage::as_root("");
    stage.write("a", &noise(1, 2_000_000));
    let first = id(&stage.backup("full"));
    stage.write("b", &noise(2, 100_000));
    stage.backup("incr");
    let kept = id(&stage.backup("full"));
    stage.write("c", &noise(3, 100_000));
    let last = id(&stage.backup("incr"));
    let expected = snapshot(&stage.tree);
    let key = stage.operator_key.display().to_string();
    stage.json(&stage.rescue, &["expire", SOURCE, "--key", &key, "--backup", &first, "--chain", "--grace", "0s"]);
    stage.json(&stage.rescue, &["expire", SOURCE, "--key", &key]);
    assert_eq!(stage.listed(), [kept, last.clone()]);
    stage.assert_restores(&last, &expected, "what stays");
    stage.assert_verifies();
}

/// All that is in a tree of many names, sizes and kinds, as the user that owns it.
#[test]
fn a_user_gets_back_what_is_theirs() {
    let stage = Stage::as_user("");
    stage.write("docs/a", b"a");
    std::fs::hard_link(stage.tree.join("docs/a"), stage.tree.join("b")).expect("own file");
    std::os::unix::fs::symlink("docs/../docs", stage.tree.join("loop")).expect("own directory");
    std::fs::create_dir(stage.tree.join("empty")).expect("own directory");
    stage.own();
    crate::support::dirs::give(&stage.tree.join("loop"));
    let taken = stage.backup("full");
    assert_eq!(taken["not_whole"]["count"], 0, "{taken:#}");
    assert_eq!(number(&taken["files"]["hard_links"]), 1);
    let into = stage.restore("all", &[]);
    assert_same(&snapshot(&stage.tree), &snapshot(&into), "as a user");
}

fn find(below: &std::path::Path, name: &str) -> std::path::PathBuf {
    let mut pending = vec![below.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(&dir).expect("own directory") {
            let path = entry.expect("own directory").path();
            if path.file_name().is_some_and(|found| found == name) {
                return path;
            }
            if path.is_dir() {
                pending.push(path);
            }
        }
    }
    panic!("there is no {name} below {}", below.display());
}
