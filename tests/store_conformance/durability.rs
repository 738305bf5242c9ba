//! The order in which a put reaches the disk, as the kernel sees it.

use std::collections::BTreeMap;
use std::process::Command;

use lifeboat::store::Store;

use crate::child::Call;
use crate::support::{block_on, local_at, put};

/// The system calls of a put in a process of its own, with descriptors shown as paths; `None`, said aloud,
/// where that cannot be traced.
fn trace_put(root: &std::path::Path, key: &str) -> Option<(String, Vec<String>)> {
    let trace = tempfile::NamedTempFile::new().unwrap();
    let file = trace.path().to_str().unwrap();
    let calls = "trace=write,fsync,fdatasync,linkat,unlinkat,mkdirat,renameat2";
    let options = ["-f", "-y", "-s", "0", "-e", calls, "-o", file];
    if !Command::new("strace").args(["-o", "/dev/null", "true"]).status().is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: strace cannot be used here");
        return None;
    }
    let result = Call::new("put", root, key, "content ").under("strace", &options).run();
    let root = root.to_str().unwrap();
    let text = std::fs::read_to_string(file).unwrap();
    let calls = text.lines().filter(|line| line.contains(root)).map(|line| line.replace(root, "ROOT")).collect();
    Some((result, calls))
}

fn position(calls: &[String], name: &str, what: &str) -> usize {
    let found = calls.iter().position(|call| call.contains(&format!(" {name}(")) && call.contains(what));
    found.unwrap_or_else(|| panic!("no {name} of {what} in {calls:#?}"))
}

#[test]
fn content_is_synced_before_the_name_and_every_directory_after_it() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    local_at(&root);
    let Some((result, calls)) = trace_put(&root, "orders/log/x") else { return };
    assert_eq!(result, "Ok(Created)");
    let order = [
        position(&calls, "write", "<ROOT/.lifeboat-tmp/"),
        position(&calls, "fsync", "<ROOT/.lifeboat-tmp/"),
        position(&calls, "linkat", "orders/log/x"),
        position(&calls, "fsync", "<ROOT/orders/log>"),
        position(&calls, "fsync", "<ROOT/orders>"),
        position(&calls, "fsync", "<ROOT>"),
    ];
    assert!(order.is_sorted(), "{order:?} in {calls:#?}");
    assert!(position(&calls, "mkdirat", "\"orders/log\"") < order[2], "{calls:#?}");
}

#[test]
fn already_there_waits_for_the_same_syncs() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    let store = local_at(&root);
    block_on(put(&store, "orders/log/x", b"x"));
    let Some((result, calls)) = trace_put(&root, "orders/log/x") else { return };
    assert_eq!(result, "Ok(AlreadyExists)");
    for synced in ["<ROOT/orders/log>", "<ROOT/orders>", "<ROOT>"] {
        position(&calls, "fsync", synced);
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for call in &calls {
        *counts.entry(call.split_whitespace().nth(1).and_then(|call| call.split('(').next()).unwrap_or("")).or_default() += 1;
    }
    assert_eq!(counts, BTreeMap::from([("fsync", 3)]), "nothing is written for an object that is there: {calls:#?}");
    assert_eq!(block_on(store.get("orders/log/x")).unwrap(), "x");
}
