//! Directories: what is walked, read and restored, beside an oracle that knows none of the code.
//!
//! `LIFEBOAT_TEST_SCALE_FILES` and `LIFEBOAT_TEST_SCALE_BYTES` make the tests of size larger, and
//! `LIFEBOAT_TEST_TREE` names a tree to take and compare; they print what they measured.

#[path = "directory_source/faults.rs"]
mod faults;
#[path = "directory_source/metadata.rs"]
mod metadata;
#[path = "directory_source/oracle.rs"]
mod oracle;
#[path = "directory_source/placing.rs"]
mod placing;
#[path = "support/random.rs"]
#[allow(dead_code)] // Shared, and used in part.
mod random;
#[path = "directory_source/scale.rs"]
mod scale;
#[path = "directory_source/trees.rs"]
mod trees;
#[path = "directory_source/vault.rs"]
mod vault;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use lifeboat::source::directory::diff::{Aspect, Change, Diff};
use lifeboat::source::directory::restore::Existing;
use lifeboat::source::directory::scan::Tally;
use oracle::{Thing, assert_same, snapshot};
use rand::RngExt;
use vault::{Backup, Plan, Vault};

/// A directory to work in, with one for the source and fresh ones for targets.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("source")).unwrap();
        Self { dir }
    }

    fn source(&self) -> PathBuf {
        self.dir.path().join("source")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// Restores all of `backup` into a fresh directory and compares it with `expected`.
fn assert_restores(vault: &Vault, backup: &Backup, place: &Place, expected: &std::collections::BTreeMap<PathBuf, Thing>) {
    let target = place.path("target");
    let shortfalls = vault.restore(backup, &target, &[], Existing::Refuse).unwrap();
    assert_eq!((shortfalls.count, shortfalls.first), (0, vec![]));
    assert_same(expected, &snapshot(&target), "restore");
    std::fs::remove_dir_all(&target).unwrap();
}

/// Random trees are backed up, changed, backed up beside the first backup, and both are restored.
#[test]
fn random_trees_and_their_changes_restore_to_the_same_content_and_metadata() {
    let seed = random::seed("random trees");
    for round in 0..12 {
        let mut random = random::generator(seed, round);
        let place = Place::new();
        let source = place.source();
        for _ in 0..random.random_range(1..60) {
            trees::add(&mut random, &source);
        }
        let mut vault = Vault::default();
        let before = snapshot(&source);
        let full = vault.backup(&source, Plan::default());
        assert_eq!((full.left.len(), full.stored.len()), (0, before.len() - 1), "round {round}");
        assert_restores(&vault, &full, &place, &before);

        let unchanged = vault.backup(&source, Plan { base: Some(&full), ..Plan::default() });
        let Tally { kept, linked, read, .. } = unchanged.tally;
        assert_eq!((kept + linked, linked, read), (full.stored.len() as u64, full.tally.linked, 0), "round {round}");
        assert_eq!(unchanged.new_chunks, 0);

        for _ in 0..random.random_range(1..12) {
            trees::change(&mut random, &source);
        }
        let after = snapshot(&source);
        let incr = vault.backup(&source, Plan { base: Some(&full), ..Plan::default() });
        assert_restores(&vault, &incr, &place, &after);
        assert_restores(&vault, &full, &place, &before);
        assert_differences(&before, &after, &full, &incr, round);
    }
}

/// The differences told are those that the oracle sees.
fn assert_differences(
    before: &std::collections::BTreeMap<PathBuf, Thing>,
    after: &std::collections::BTreeMap<PathBuf, Thing>,
    full: &Backup,
    incr: &Backup,
    round: u64,
) {
    let (mut added, mut removed, mut changed) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for difference in Diff::new(full.entries(), incr.entries()) {
        let difference = difference.unwrap();
        let path = difference.path.as_path().to_owned();
        match difference.change {
            Change::Added(_) => assert!(added.insert(path)),
            Change::Removed(_) => assert!(removed.insert(path)),
            Change::Changed(aspects) => {
                let (then, now) = (&before[&path], &after[&path]);
                let content = aspects.contains(&Aspect::Content) || aspects.contains(&Aspect::Target);
                // Of a later name of a file the first one tells; of a name that became one, nobody knows.
                let is_later = now.same_as == then.same_as && now.same_as.as_ref().is_some_and(|first| *first != path);
                let may_not_know = is_later || aspects.contains(&Aspect::Link);
                assert!(content == (then.content != now.content) || aspects == [Aspect::Kind] || may_not_know, "{path:?}");
                assert_eq!(aspects.contains(&Aspect::Kind), then.kind != now.kind, "round {round} {path:?}");
                changed.insert(path);
            }
        }
    }
    let only = |these: &std::collections::BTreeMap<PathBuf, Thing>, others: &std::collections::BTreeMap<PathBuf, Thing>| {
        these.keys().filter(|path| !others.contains_key(*path)).cloned().collect::<BTreeSet<PathBuf>>()
    };
    assert_eq!(added, only(after, before), "round {round}");
    assert_eq!(removed, only(before, after), "round {round}");
    for (path, now) in after {
        let Some(then) = before.get(path) else { continue };
        let is_told = changed.contains(path) || path == Path::new("");
        // A directory's own time is not told, and of several names of one file the first tells.
        let first_of = |thing: &Thing| thing.same_as.clone().filter(|first| first != path);
        let is_later_name = first_of(then).is_some() && first_of(then) == first_of(now);
        let blank = |thing: &Thing| {
            let modified = if now.kind == "directory" { (0, 0) } else { thing.modified };
            Thing { same_as: first_of(thing), modified, ..thing.clone() }
        };
        if blank(then) != blank(now) && !is_told && !is_later_name {
            panic!("round {round}: {path:?} differs and nothing tells\n{:?}\n{:?}", then.modified, now.modified);
        }
        if changed.contains(path) {
            let is_moved = now.same_as.is_some() || then.same_as.is_some();
            assert!(then != now || is_moved, "round {round}: {path:?} is told to differ and does not");
        }
    }
}
