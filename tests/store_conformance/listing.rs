//! Listings of random trees against an ordered map.

use std::collections::BTreeSet;

use proptest::prelude::*;

use lifeboat::store::Store;
use lifeboat::store::memory::MemoryStore;

use crate::support::{block_on, keys, local_at, put};

fn component() -> impl Strategy<Value = String> {
    let fixed = prop::sample::select(vec!["a", "b", "a-b", "a.b", "a0", "ab", ".a", " ", "ü", "%", "\n", "\\", "a\u{1}", "zz"]);
    prop_oneof![4 => fixed.prop_map(str::to_owned), 1 => "[a-c.]{1,3}[-b]"]
}

fn key() -> impl Strategy<Value = String> {
    prop::collection::vec(component(), 1..5).prop_map(|components| components.join("/"))
}

/// A place to start or a prefix: part of a key, a key with something after it, or anything.
fn odd_place() -> impl Strategy<Value = String> {
    let cut = (key(), any::<prop::sample::Index>()).prop_map(|(key, at)| {
        let length = at.index(key.chars().count() + 1);
        key.chars().take(length).collect()
    });
    let extended = (key(), prop::sample::select(vec!["/", "//", "-", "\u{0}", "\u{10ffff}", "/.", "/..", ""]));
    prop_oneof![3 => cut, 3 => extended.prop_map(|(key, end)| key + end), 1 => any::<String>()]
}

/// Keys that can lie beside each other in a file system.
fn without_conflicts(candidates: Vec<String>) -> BTreeSet<String> {
    let mut kept: BTreeSet<String> = BTreeSet::new();
    for key in candidates {
        let below = |a: &str, b: &str| a.strip_prefix(b).is_some_and(|rest| rest.starts_with('/'));
        if kept.iter().all(|other| !below(&key, other) && !below(other, &key)) {
            kept.insert(key);
        }
    }
    kept
}

fn check_listings(store: &dyn Store, expected: &BTreeSet<String>, places: &[(String, Option<String>)]) {
    block_on(async {
        for (prefix, after) in places {
            let wanted = |key: &&String| key.starts_with(prefix) && after.as_ref().is_none_or(|after| *key > after);
            let oracle: Vec<String> = expected.iter().filter(wanted).cloned().collect();
            assert_eq!(keys(store, prefix, after.as_deref()).await, oracle, "{prefix:?} after {after:?}");
        }
        let directories = expected.iter().flat_map(|key| key.match_indices('/').map(|(slash, _)| &key[..=slash]));
        for directory in directories.chain([""]).collect::<BTreeSet<_>>() {
            let below = expected.iter().filter_map(|key| key.strip_prefix(directory)?.split_once('/'));
            let oracle: BTreeSet<&str> = below.map(|(name, _)| name).collect();
            assert_eq!(store.list_dirs(directory).await.unwrap(), oracle.into_iter().collect::<Vec<_>>(), "{directory:?}");
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn listings_are_those_of_an_ordered_map(
        candidates in prop::collection::vec(key(), 0..40),
        deleted in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        places in prop::collection::vec((odd_place(), prop::option::of(odd_place())), 1..30),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let (local, memory) = (local_at(directory.path()), MemoryStore::new());
        let mut expected = without_conflicts(candidates);
        for store in [&local as &dyn Store, &memory] {
            block_on(async { for key in &expected { put(store, key, b"x").await; } });
        }
        for index in deleted.iter().filter(|_| !expected.is_empty()).map(|index| index.index(expected.len())).collect::<Vec<_>>() {
            if let Some(key) = expected.iter().nth(index).cloned() {
                block_on(async { local.delete(&key).await.unwrap(); memory.delete(&key).await.unwrap(); });
                expected.remove(&key);
            }
        }
        check_listings(&local, &expected, &places);
        check_listings(&memory, &expected, &places);
    }
}

proptest! {
    // Few and little shrunk, because each writes thousands of files.
    #![proptest_config(ProptestConfig { cases: 2, max_shrink_iters: 30, ..ProptestConfig::default() })]

    /// Many pages; the files are made by hand, since it is the listing that is tested.
    #[test]
    fn long_listings_are_those_of_an_ordered_map(
        candidates in prop::collection::vec(prop_oneof![key(), "(a|b)/[a-h]{3}(-|/)?[a-h]{1,2}"], 6000..9000),
        empty in prop::collection::vec("(a|b)/[a-h]{3}", 0..1500),
        places in prop::collection::vec((odd_place(), prop::option::of(odd_place())), 1..10),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let local = local_at(directory.path());
        let mut expected = BTreeSet::new();
        for key in candidates {
            let path = directory.path().join(&key);
            // A name that is taken by the other kind is left out.
            if std::fs::create_dir_all(path.parent().unwrap()).is_ok() && std::fs::write(&path, b"x").is_ok() {
                expected.insert(key);
            }
        }
        for name in empty {
            let _ = std::fs::create_dir_all(directory.path().join(name));
        }
        prop_assert!(expected.len() > 2_500, "only {} keys", expected.len());
        let mut places = places;
        places.extend([(String::new(), None), ("a/".to_owned(), None), ("b/".to_owned(), Some("b/b".to_owned()))]);
        check_listings(&local, &expected, &places);
    }
}
