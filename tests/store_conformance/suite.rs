//! The conformance suite: what is true of every store.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};

use lifeboat::base::Timestamp;
use lifeboat::store::{Body, LIST_PAGE_OBJECTS, PutOutcome, StoreError, list_all};

use crate::support::{Conflicts, Fixture, Names, Racing, block_on, count_in, count_up, keys, put};

macro_rules! over_every_store {
    ($($test:ident),* $(,)?) => {
        over_every_store!(@store local $($test)*);
        over_every_store!(@store memory $($test)*);
        over_every_store!(@store counted $($test)*);
        over_every_store!(@store layered_local $($test)*);
        over_every_store!(@store layered_memory $($test)*);
        over_every_store!(@store s3 $($test)*);
        over_every_store!(@store s3_below_a_prefix $($test)*);
        over_every_store!(@store s3_with_versions $($test)*);
        over_every_store!(@store s3_that_falls_short $($test)*);
        over_every_store!(@store rclone $($test)*);
        over_every_store!(@store elsewhere $($test)*);
    };
    (@store $store:ident $($test:ident)*) => {
        mod $store {
            $(#[test] fn $test() {
                let Some(fixture) = crate::support::$store() else { return };
                super::$test(&fixture);
            })*
        }
    };
}

over_every_store!(
    what_was_put_is_there,
    the_first_put_wins,
    racing_puts_have_one_winner_and_its_whole_content,
    ranges_stop_at_the_end,
    missing_objects_are_told_apart,
    invalid_keys_are_refused_everywhere,
    an_object_cannot_be_a_directory,
    odd_names_survive,
    long_names_survive,
    keys_sort_by_bytes_across_components,
    pages_join_without_gap_or_overlap,
    prefixes_that_match_nothing_find_nothing,
    directories_are_those_with_objects,
    deleting_is_final_and_repeatable,
    a_file_is_put_whole,
    listings_while_putting_miss_nothing_older,
    an_object_is_replaced_only_while_it_is_what_was_seen,
    racing_replacements_lose_no_update,
);

type Shared = Fixture;

fn what_was_put_is_there(store: &Shared) {
    block_on(async {
        let before = Timestamp::now();
        assert_eq!(put(&**store, "orders/x.json", b"content").await, PutOutcome::Created);
        assert_eq!(put(&**store, "orders/empty", b"").await, PutOutcome::Created);
        assert_eq!(store.get("orders/x.json").await.unwrap(), "content");
        assert_eq!(store.get("orders/empty").await.unwrap(), "");
        let info = store.head("orders/x.json").await.unwrap();
        assert_eq!((info.key.as_str(), info.size_bytes), ("orders/x.json", 7));
        let clock_skew = before.since(info.modified).max(info.modified.since(Timestamp::now()));
        assert!(clock_skew.as_secs() < 5, "{info:?}");
        assert_eq!(list_all(&**store, "orders/x", None).await.unwrap(), [info]);
    });
}

fn the_first_put_wins(store: &Shared) {
    block_on(async {
        assert_eq!(put(&**store, "a/b/c", b"first").await, PutOutcome::Created);
        assert_eq!(put(&**store, "a/b/c", b"second, and longer").await, PutOutcome::AlreadyExists);
        assert_eq!(put(&**store, "a/b/c", b"first").await, PutOutcome::AlreadyExists);
        assert_eq!(store.get("a/b/c").await.unwrap(), "first");
    });
}

fn racing_puts_have_one_winner_and_its_whole_content(store: &Shared) {
    let threads = writers_at_one_moment(store, 8);
    for round in 0..10 {
        let key = format!("race/{round}/object");
        let (barrier, winners) = (Barrier::new(threads), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let (key, barrier, winners) = (&key, &barrier, &winners);
                scope.spawn(move || {
                    let content = vec![thread as u8; 100_000 + thread];
                    barrier.wait();
                    if block_on(put(&**store, key, &content)) == PutOutcome::Created {
                        winners.lock().unwrap().push(content);
                    }
                    // Whoever lost sees the winner's object at once.
                    let there = read_at_last(store, key);
                    assert_eq!(there.len(), 100_000 + usize::from(there[0]));
                    assert!(there.iter().all(|byte| *byte == there[0]));
                });
            }
        });
        let winners = winners.into_inner().unwrap();
        // A store that ignores conditions may tell several that they were first; the content of one of these stays.
        assert!(winners.len() == 1 || (store.traits.racing != Racing::OneWinner && !winners.is_empty()), "{key}");
        let there = read_at_last(store, &key);
        assert!(winners.iter().any(|winner| there == winner), "{key}");
    }
}

/// How many may write one object at one moment: where nothing is sure of what they leave, one.
fn writers_at_one_moment(store: &Shared, many: usize) -> usize {
    if store.traits.racing == Racing::Undefined { 1 } else { many }
}

/// What an object holds: where others may overwrite it, a read that met one of them is repeated.
fn read_at_last(store: &Shared, key: &str) -> bytes::Bytes {
    for _ in 0..100 {
        match block_on(store.get(key)) {
            Err(error) if error.is_retryable() && store.traits.racing != Racing::OneWinner => {}
            read => return read.unwrap(),
        }
    }
    panic!("{key} cannot be read")
}

fn ranges_stop_at_the_end(store: &Shared) {
    let content: Vec<u8> = (0..200_000u32).map(|index| (index % 251) as u8).collect();
    let end = content.len() as u64;
    block_on(async {
        put(&**store, "ranged", &content).await;
        put(&**store, "empty", b"").await;
        for range in [0..0, 0..1, 5..10, 0..end, 100_000..end, end - 1..end, 7..7] {
            let expected = &content[range.start as usize..range.end as usize];
            assert_eq!(store.get_range("ranged", range.clone()).await.unwrap(), expected, "{range:?}");
        }
        assert_eq!(store.get_range("ranged", end - 3..end + 3).await.unwrap(), content[content.len() - 3..]);
        assert_eq!(store.get_range("ranged", 0..u64::MAX).await.unwrap(), content);
        #[allow(clippy::reversed_empty_ranges)]
        for range in [end..end + 1, end + 5..end + 9, u64::MAX - 1..u64::MAX, 10..5] {
            assert_eq!(store.get_range("ranged", range.clone()).await.unwrap(), "", "{range:?}");
        }
        assert_eq!(store.get_range("empty", 0..10).await.unwrap(), "");
    });
}

fn missing_objects_are_told_apart(store: &Shared) {
    block_on(async {
        put(&**store, "a/b", b"x").await;
        // Nothing, a directory, and below an object.
        for key in ["nothing", "a", "a/c", "a/b/c"] {
            assert!(store.get(key).await.unwrap_err().is_not_found(), "{key}");
            assert!(store.get_versioned(key).await.unwrap_err().is_not_found(), "{key}");
            assert!(store.get_range(key, 0..5).await.unwrap_err().is_not_found(), "{key}");
            assert!(store.head(key).await.unwrap_err().is_not_found(), "{key}");
            // A gateway may take the name of a directory for the directory, with all that is in it.
            if key == "nothing" || store.traits.conflicts != Conflicts::Undefined {
                store.delete(key).await.unwrap();
            }
        }
        assert_eq!(keys(&**store, "", None).await, ["a/b"]);
    });
}

fn invalid_keys_are_refused_everywhere(store: &Shared) {
    let (wide, deep) = ("x".repeat(256), "x/".repeat(512) + "x");
    block_on(async {
        for key in ["", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", "a\0b", ".lifeboat-tmp/x", &wide, &deep] {
            let errors = [
                store.put_if_absent(key, Body::from(vec![1])).await.unwrap_err(),
                store.replace_if(key, "x".into(), None).await.unwrap_err(),
                store.get(key).await.unwrap_err(),
                store.get_versioned(key).await.unwrap_err(),
                store.get_range(key, 0..1).await.unwrap_err(),
                store.head(key).await.unwrap_err(),
                store.delete(key).await.unwrap_err(),
            ];
            for error in errors {
                assert!(matches!(error, StoreError::Permanent { .. }), "{key:?}: {error:?}");
            }
        }
        assert!(matches!(store.list_dirs("a").await.unwrap_err(), StoreError::Permanent { .. }));
        assert_eq!(keys(&**store, "", None).await, [""; 0]);
    });
}

fn an_object_cannot_be_a_directory(store: &Shared) {
    block_on(async {
        put(&**store, "a/b", b"object").await;
        for key in ["a", "a/b/c", "a/b/c/d"] {
            let outcome = store.put_if_absent(key, Body::from(vec![1])).await;
            match store.traits.conflicts {
                Conflicts::Refused => {
                    assert!(matches!(outcome, Err(StoreError::Permanent { .. })), "{key}: {outcome:?}");
                    let error = store.replace_if(key, "x".into(), None).await.unwrap_err();
                    assert!(matches!(error, StoreError::Permanent { .. }), "{key}: {error:?}");
                }
                Conflicts::Kept => {
                    assert_eq!(outcome.unwrap(), PutOutcome::Created, "{key}");
                    assert_eq!(store.get(key).await.unwrap(), [1][..], "{key}");
                    store.delete(key).await.unwrap();
                }
                Conflicts::Undefined => {}
            }
        }
        if store.traits.conflicts != Conflicts::Undefined {
            assert_eq!(keys(&**store, "", None).await, ["a/b"]);
        }
        assert_eq!(store.get("a/b").await.unwrap(), "object");
    });
}

fn odd_names_survive(store: &Shared) {
    let odd = [
        " ",
        "a b",
        "%",
        "%2f",
        "%00",
        "ü/日本語/🛟",
        ".hidden",
        "..x",
        "...",
        "x\ny",
        "x\r",
        "\\",
        "a\\..\\b",
        "-rf",
        "*",
        "?",
        "'\"",
        "$HOME",
        "~",
        "#",
        "a:b",
        "a;b",
        "\u{1}",
        "\u{7f}",
        "\u{feff}",
        "e\u{301}",
        "é",
        "a.tmp",
        "A",
        "a",
    ];
    block_on(async {
        let odd: Vec<&str> = odd.into_iter().filter(|key| can_keep(store.traits.names, key)).collect();
        for (number, key) in odd.iter().enumerate() {
            assert_eq!(put(&**store, key, key.as_bytes()).await, PutOutcome::Created, "{number} {key:?}");
        }
        let mut expected = odd.clone();
        expected.sort_unstable();
        assert_eq!(keys(&**store, "", None).await, expected);
        for key in &odd {
            let key = *key;
            assert_eq!(store.get(key).await.unwrap(), key.as_bytes(), "{key:?}");
            assert_eq!(store.head(key).await.unwrap().key, key);
            assert_eq!(
                keys(&**store, key, None).await,
                expected.iter().filter(|k| k.starts_with(key)).copied().collect::<Vec<_>>()
            );
        }
        for key in odd {
            store.delete(key).await.unwrap();
        }
        assert_eq!(keys(&**store, "", None).await, [""; 0]);
    });
}

fn can_keep(names: Names, key: &str) -> bool {
    match names {
        Names::Any => true,
        Names::Visible => !key.trim().is_empty(),
        // Gateways make one of the two ways to write an é.
        Names::FilesInXml => !key.chars().any(char::is_control) && !key.contains('\u{301}'),
    }
}

fn long_names_survive(store: &Shared) {
    let key_bytes = store.traits.key_bytes;
    let wide = format!("wide/{}", "w".repeat(255));
    let deep = format!("{}d", "d/".repeat(key_bytes / 2 - 1));
    let long = vec!["ü".repeat(127); 3].join("/");
    let long = format!("{long}/{}", "l".repeat((key_bytes - long.len() - 1).min(255)));
    assert!(deep.len() <= key_bytes && long.len() > 960);
    block_on(async {
        for key in [&wide, &deep, &long] {
            assert_eq!(put(&**store, key, b"x").await, PutOutcome::Created);
            assert_eq!(store.get(key).await.unwrap(), "x");
        }
        assert_eq!(keys(&**store, "", None).await, [&deep, &wide, &long].map(String::clone));
        assert_eq!(keys(&**store, &deep, None).await, std::slice::from_ref(&deep));
        assert_eq!(keys(&**store, "", Some(&wide)).await, [long]);
        assert_eq!(store.list_dirs("d/").await.unwrap(), ["d"]);
        // A prefix and a starting point longer than any key can be.
        assert_eq!(keys(&**store, &"d/".repeat(2000), None).await, [""; 0]);
        assert_eq!(keys(&**store, "d", Some(&"d/".repeat(2000))).await, [""; 0]);
    });
}

fn keys_sort_by_bytes_across_components(store: &Shared) {
    let sorted = ["a-b", "a-b-c/x", "a.b", "a/a", "a/b-c/d", "a/b/c", "a/c", "a0", "aa/x", "ab", "b"];
    block_on(async {
        for key in sorted.iter().rev() {
            put(&**store, key, b"x").await;
        }
        assert_eq!(keys(&**store, "", None).await, sorted);
        for (index, after) in sorted.iter().enumerate() {
            assert_eq!(keys(&**store, "", Some(after)).await, sorted[index + 1..], "after {after}");
        }
        for (after, first) in [
            ("", "a-b"),
            ("a", "a-b"),
            ("a.", "a.b"),
            ("a/", "a/a"),
            ("a/b", "a/b-c/d"),
            ("a//", "a/a"),
            ("a/b/", "a/b/c"),
            ("a/\u{10ffff}", "a0"),
        ] {
            assert_eq!(keys(&**store, "", Some(after)).await[0], first, "after {after:?}");
        }
        assert_eq!(keys(&**store, "a/b", Some("a/b-c/d")).await, ["a/b/c"]);
        assert_eq!(keys(&**store, "a/", Some("a-b")).await, ["a/a", "a/b-c/d", "a/b/c", "a/c"]);
        assert_eq!(keys(&**store, "a-b", Some("a-b-c/x")).await, [""; 0]);
        assert_eq!(keys(&**store, "", Some("b")).await, [""; 0]);
    });
}

fn pages_join_without_gap_or_overlap(store: &Shared) {
    // One directory longer than two pages, and small ones around it.
    let mut expected = BTreeSet::new();
    expected.extend((0..2 * LIST_PAGE_OBJECTS + 1).map(|n| format!("log/1/{n:08X}_{}", n % 7)));
    expected.extend((0..400).map(|n| format!("log/{}/{n}", 2 + n % 40)));
    expected.extend((0..200).map(|n| format!("log/1-{n}")));
    block_on(async {
        for key in &expected {
            put(&**store, key, b"x").await;
        }
        let expected: Vec<String> = expected.into_iter().collect();
        assert_eq!(keys(&**store, "", None).await, expected);
        let mut seen = Vec::new();
        loop {
            let after = seen.last().cloned();
            let page = store.list("log/", after.as_deref()).await.unwrap();
            seen.extend(page.objects.into_iter().map(|object| object.key));
            assert_eq!(page.more, seen.len() < expected.len());
            if !page.more {
                break;
            }
            assert_eq!(seen.len() % LIST_PAGE_OBJECTS, 0);
        }
        assert_eq!(seen, expected);
        let last = expected.last().map(String::as_str);
        let page = store.list("", last).await.unwrap();
        assert!(page.objects.is_empty() && !page.more);
    });
}

fn prefixes_that_match_nothing_find_nothing(store: &Shared) {
    block_on(async {
        put(&**store, "a/b/c", b"x").await;
        for prefix in
            ["b", "a/b/c/", "a/b/c/d", "a//", "/", "/a", "../", "./", "a/../a/", "a/./b", "a\0", "\u{0}/x", ".lifeboat-tmp/"]
        {
            let page = store.list(prefix, None).await.unwrap();
            assert!(page.objects.is_empty() && !page.more, "{prefix:?}: {page:?}");
        }
        for prefix in ["", "a", "a/", "a/b", "a/b/", "a/b/c"] {
            assert_eq!(keys(&**store, prefix, None).await, ["a/b/c"], "{prefix:?}");
        }
        assert_eq!(store.list_dirs("nothing/").await.unwrap(), [""; 0]);
        assert_eq!(store.list_dirs("a/b/c/").await.unwrap(), [""; 0]);
    });
}

fn directories_are_those_with_objects(store: &Shared) {
    block_on(async {
        for key in ["top", "a/x", "a-b/x/y/z", "a.b/x", "ü/x", "gone/deep/x", "half/gone/x", "half/kept/x"] {
            put(&**store, key, b"x").await;
        }
        for key in ["gone/deep/x", "half/gone/x"] {
            store.delete(key).await.unwrap();
        }
        assert_eq!(store.list_dirs("").await.unwrap(), ["a", "a-b", "a.b", "half", "ü"]);
        assert_eq!(store.list_dirs("half/").await.unwrap(), ["kept"]);
        assert_eq!(store.list_dirs("a-b/").await.unwrap(), ["x"]);
        assert_eq!(store.list_dirs("a/").await.unwrap(), [""; 0]);
        assert_eq!(store.list_dirs("gone/").await.unwrap(), [""; 0]);
    });
}

fn deleting_is_final_and_repeatable(store: &Shared) {
    block_on(async {
        put(&**store, "a/b", b"old").await;
        put(&**store, "a/c", b"other").await;
        store.delete("a/b").await.unwrap();
        store.delete("a/b").await.unwrap();
        assert!(store.get("a/b").await.unwrap_err().is_not_found());
        assert_eq!(keys(&**store, "", None).await, ["a/c"]);
        assert_eq!(put(&**store, "a/b", b"new").await, PutOutcome::Created);
        assert_eq!(store.get("a/b").await.unwrap(), "new");
    });
}

fn a_file_is_put_whole(store: &Shared) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    // Several buffers of 1 MiB and a rest.
    let content: Vec<u8> = (0..5_000_011u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    file.write_all(&content).unwrap();
    block_on(async {
        let body = Body::File(file.path().to_owned());
        assert_eq!(store.put_if_absent("packs/1", body.clone()).await.unwrap(), PutOutcome::Created);
        assert_eq!(store.get("packs/1").await.unwrap(), content);
        assert_eq!(store.put_if_absent("packs/1", body).await.unwrap(), PutOutcome::AlreadyExists);
        let missing = store.put_if_absent("packs/2", Body::File("/nonexistent/pack".into())).await.unwrap_err();
        assert!(
            matches!(&missing, StoreError::Permanent { message, .. } if message.contains("/nonexistent/pack")),
            "{missing:?}"
        );
        assert_eq!(keys(&**store, "", None).await, ["packs/1"]);
    });
}

fn listings_while_putting_miss_nothing_older(store: &Shared) {
    const OBJECTS: usize = 300;
    // In an order far from that of the names, in several directories.
    let names: Vec<String> = (0..OBJECTS).map(|n| format!("d{}/{:03}", n % 3, (n * 7919) % 1000)).collect();
    let (done, put_objects, finished) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            block_on(async {
                for name in &names {
                    put(&**store, name, name.repeat(1000).as_bytes()).await;
                    put_objects.fetch_add(1, Ordering::SeqCst);
                }
            });
            done.store(true, Ordering::SeqCst);
        });
        scope.spawn(|| {
            while !finished.load(Ordering::SeqCst) {
                finished.store(done.load(Ordering::SeqCst), Ordering::SeqCst);
                let older = put_objects.load(Ordering::SeqCst);
                let listed = block_on(list_all(&**store, "", None)).unwrap();
                assert!(listed.is_sorted_by(|a, b| a.key < b.key));
                assert!(listed.iter().all(|object| object.size_bytes == 1000 * object.key.len() as u64), "{listed:?}");
                let listed: BTreeSet<&str> = listed.iter().map(|object| object.key.as_str()).collect();
                assert!(names[..older].iter().all(|name| listed.contains(name.as_str())), "of {older}: {listed:?}");
            }
        });
    });
}

fn an_object_is_replaced_only_while_it_is_what_was_seen(store: &Shared) {
    let key = "orders/lease.json";
    block_on(async {
        assert_eq!(store.replace_if(key, "early".into(), Some("0")).await.unwrap(), None, "there is nothing to replace");
        assert!(store.get(key).await.unwrap_err().is_not_found());
        let first = store.replace_if(key, "first".into(), None).await.unwrap().expect("the name is free");
        assert_eq!(store.get_versioned(key).await.unwrap(), ("first".into(), first.clone()));
        assert_eq!(store.replace_if(key, "again".into(), None).await.unwrap(), None, "the name is taken");
        let second = store.replace_if(key, "second, and longer".into(), Some(&first)).await.unwrap().expect("as seen");
        assert_ne!(first, second);
        assert_eq!(store.get_versioned(key).await.unwrap(), ("second, and longer".into(), second.clone()));
        assert_eq!(store.replace_if(key, "late".into(), Some(&first)).await.unwrap(), None, "it changed meanwhile");
        assert_eq!(store.get(key).await.unwrap(), "second, and longer");
        assert_eq!(keys(&**store, "", None).await, [key]);
        // What was put can be replaced, and a replacement that is there is not put over.
        put(&**store, "orders/other", b"put").await;
        let (_, version) = store.get_versioned("orders/other").await.unwrap();
        assert!(store.replace_if("orders/other", "replaced".into(), Some(&version)).await.unwrap().is_some());
        assert_eq!(put(&**store, key, b"put").await, PutOutcome::AlreadyExists);
        store.delete(key).await.unwrap();
        assert_eq!(store.replace_if(key, "late".into(), Some(&second)).await.unwrap(), None, "it is gone");
        assert!(store.replace_if(key, "anew".into(), None).await.unwrap().is_some());
    });
}

fn racing_replacements_lose_no_update(store: &Shared) {
    const ROUNDS: usize = 15;
    let threads = writers_at_one_moment(store, 6);
    let barrier = Barrier::new(threads);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                barrier.wait();
                for _ in 0..ROUNDS {
                    block_on(count_up(&**store, "race/lease.json"));
                }
            });
        }
    });
    let counted = count_in(&block_on(store.get("race/lease.json")).unwrap()) as usize;
    match store.traits.racing {
        // Where conditions are ignored, updates of one moment undo each other; each thread's own add up all the same.
        Racing::LastStays => assert!((1..=threads * ROUNDS).contains(&counted), "{counted}"),
        Racing::OneWinner | Racing::Undefined => assert_eq!(counted, threads * ROUNDS),
    }
}
