//! Processes that die while they put, and processes that put at the same time.

use std::os::unix::process::ExitStatusExt;

use lifeboat::store::{PutOutcome, Store};

use crate::child::{Call, REPEATS};
use crate::support::{block_on, count_in, keys, local_at, put};

#[test]
fn a_put_that_dies_before_the_name_leaves_nothing_to_see() {
    let directory = tempfile::tempdir().unwrap();
    let store = local_at(directory.path());
    let call = || Call::new("put", directory.path(), "orders/log/x", "torn ");
    let mut killed = call().env("LIFEBOAT_KILL_AT", "store.temporary-written").spawn();
    assert_eq!(killed.status().signal(), Some(9));
    let leftovers = || std::fs::read_dir(directory.path().join(".lifeboat-tmp")).unwrap().count();
    assert_eq!(leftovers(), 1, "the child was to die with its temporary file written");
    block_on(async {
        assert_eq!(keys(&store, "", None).await, [""; 0]);
        assert_eq!(store.list_dirs("").await.unwrap(), [""; 0]);
        assert!(store.get("orders/log/x").await.unwrap_err().is_not_found());
        assert!(store.head("orders/log/x").await.unwrap_err().is_not_found());
    });
    // By another process, and then seen by this one.
    assert_eq!(call().run(), "Ok(Created)");
    block_on(async {
        assert_eq!(store.get("orders/log/x").await.unwrap(), "torn ".repeat(REPEATS));
        assert_eq!(put(&store, "orders/log/x", b"other").await, PutOutcome::AlreadyExists);
        assert_eq!(keys(&store, "", None).await, ["orders/log/x"]);
    });
    assert_eq!(leftovers(), 1, "a young leftover may belong to a process at work");
}

#[test]
fn a_later_put_removes_what_a_crash_left_long_ago() {
    let directory = tempfile::tempdir().unwrap();
    let store = local_at(directory.path());
    let leftover = directory.path().join(".lifeboat-tmp/0123456789abcdef");
    let file = std::fs::File::create(&leftover).unwrap();
    file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(25 * 3600)).unwrap();
    block_on(put(&store, "x", b"x"));
    assert!(!leftover.exists());
}

#[test]
fn a_panic_while_putting_reaches_the_caller_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = local_at(directory.path());
    let mut panicked = Call::new("put", directory.path(), "x", "y").env("LIFEBOAT_PANIC_AT", "store.temporary-written").spawn();
    assert_eq!(panicked.status().code(), Some(101));
    assert_eq!(block_on(keys(&store, "", None)), [""; 0]);
    assert_eq!(std::fs::read_dir(directory.path().join(".lifeboat-tmp")).unwrap().count(), 0);
}

#[test]
fn racing_processes_have_one_winner_and_its_whole_content() {
    const PROCESSES: usize = 6;
    let directory = tempfile::tempdir().unwrap();
    let store = local_at(directory.path());
    let outside = tempfile::tempdir().unwrap();
    for round in 0..4 {
        let (key, go) = (format!("orders/{round}/segment"), outside.path().join(format!("go-{round}")));
        let content = |process: usize| format!("written by process {process} ");
        let children: Vec<_> = (0..PROCESSES)
            .map(|process| Call::new("put", directory.path(), &key, &content(process)).after(&go).spawn())
            .collect();
        std::fs::write(&go, b"").unwrap();
        let results: Vec<String> = children.into_iter().map(|child| child.result()).collect();
        let winners: Vec<usize> = (0..PROCESSES).filter(|process| results[*process] == "Ok(Created)").collect();
        assert_eq!(winners.len(), 1, "{results:?}");
        assert_eq!(results.iter().filter(|result| *result == "Ok(AlreadyExists)").count(), PROCESSES - 1, "{results:?}");
        assert_eq!(block_on(store.get(&key)).unwrap(), content(winners[0]).repeat(REPEATS));
    }
}

#[test]
fn racing_processes_lose_no_update() {
    const PROCESSES: u64 = 6;
    let directory = tempfile::tempdir().unwrap();
    let store = local_at(directory.path());
    let outside = tempfile::tempdir().unwrap();
    let go = outside.path().join("go");
    let call = || Call::new("count", directory.path(), "orders/counter", "").after(&go).spawn();
    let children: Vec<_> = (0..PROCESSES).map(|_| call()).collect();
    std::fs::write(&go, b"").unwrap();
    for child in children {
        assert_eq!(child.result(), "counted");
    }
    assert_eq!(count_in(&block_on(store.get("orders/counter")).unwrap()), PROCESSES * 10);
}

#[test]
fn a_replacement_that_dies_leaves_what_was_there_and_no_lock() {
    let directory = tempfile::tempdir().unwrap();
    let store = local_at(directory.path());
    let first = block_on(store.replace_if("orders/lease.json", "first".into(), None)).unwrap();
    assert!(first.is_some());
    let call = || Call::new("replace", directory.path(), "orders/lease.json", "other ");
    let mut killed = call().env("LIFEBOAT_KILL_AT", "store.temporary-written").spawn();
    assert_eq!(killed.status().signal(), Some(9));
    let there = block_on(store.get_versioned("orders/lease.json")).unwrap();
    assert_eq!((there.0.as_ref(), Some(there.1)), (b"first".as_slice(), first));
    assert_eq!(call().run(), "Ok(true)");
    assert_eq!(block_on(store.get("orders/lease.json")).unwrap(), "other ".repeat(REPEATS));
}
