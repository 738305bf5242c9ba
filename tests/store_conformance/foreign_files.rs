//! What lies in a local store's directory without being an object, and directories that need not be read.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lifeboat::store::{PutOutcome, Store};

use crate::support::{block_on, keys, local_at, put};

#[test]
fn what_is_no_object_is_not_listed() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let store = local_at(root);
    block_on(put(&store, "a/x", b"x"));
    std::fs::create_dir_all(root.join("lost+found")).unwrap();
    std::fs::write(root.join("lost+found/#123"), b"").unwrap();
    std::fs::write(root.join(".lifeboat-tmp/writing"), b"half").unwrap();
    std::fs::create_dir_all(root.join("empty/deeper")).unwrap();
    std::fs::write(root.join("a").join(std::ffi::OsStr::from_bytes(b"\xff")), b"").unwrap();
    std::os::unix::fs::symlink("nowhere", root.join("a/dangling")).unwrap();
    std::os::unix::fs::symlink("loop", root.join("a/loop")).unwrap();
    let pipe = rustix::fs::mkfifoat(rustix::fs::CWD, root.join("a/pipe"), rustix::fs::Mode::RUSR);
    pipe.unwrap();
    block_on(async {
        assert_eq!(keys(&store, "", None).await, ["a/x"]);
        assert_eq!(store.list_dirs("").await.unwrap(), ["a"]);
        for key in ["a/pipe", "a/dangling"] {
            assert!(store.get(key).await.unwrap_err().is_not_found(), "{key}");
            assert!(store.head(key).await.unwrap_err().is_not_found(), "{key}");
            let error = store.put_if_absent(key, vec![1].into()).await.unwrap_err();
            assert!(error.to_string().contains(key), "{error:?}");
        }
    });
}

#[test]
fn a_directory_that_was_moved_and_linked_still_serves() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("backups");
    let store = local_at(&root);
    block_on(put(&store, "orders/log/x", b"x"));
    std::fs::rename(root.join("orders"), directory.path().join("roomier")).unwrap();
    std::os::unix::fs::symlink(directory.path().join("roomier"), root.join("orders")).unwrap();
    block_on(async {
        assert_eq!(keys(&store, "", None).await, ["orders/log/x"]);
        assert_eq!(put(&store, "orders/log/x", b"y").await, PutOutcome::AlreadyExists);
        assert_eq!(put(&store, "orders/log/y", b"y").await, PutOutcome::Created);
        assert_eq!(store.list_dirs("").await.unwrap(), ["orders"]);
    });
}

fn set_access_time(directory: &Path, time: SystemTime) {
    std::fs::File::open(directory).unwrap().set_times(std::fs::FileTimes::new().set_accessed(time)).unwrap();
}

/// Seen by access times: a file system sets them when a directory is read.
#[test]
fn a_listing_reads_only_directories_that_can_matter() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let store = local_at(root);
    let all = ["a", "b", "b/1", "b/2", "b/3", "c"];
    block_on(async {
        for name in all.iter().filter(|name| **name != "b") {
            put(&store, &format!("{name}/x"), b"x").await;
        }
    });
    let long_ago = UNIX_EPOCH + Duration::from_secs(1_000_000);
    for (prefix, after, expected) in [
        ("", None, &["a", "b", "b/1", "b/2", "b/3", "c"][..]),
        ("b/", None, &["b", "b/1", "b/2", "b/3"]),
        ("b/2", None, &["b", "b/2"]),
        ("b/2/", None, &["b/2"]),
        ("b/2/y", None, &["b/2"]),
        ("b/", Some("b/2/y"), &["b", "b/2", "b/3"]),
        ("b/", Some("b/20"), &["b", "b/3"]),
        ("b/", Some("b/3/"), &["b", "b/3"]),
        ("", Some("b/3/y"), &["b", "b/3", "c"]),
        ("", Some("d"), &[]),
        ("d/", None, &[]),
    ] {
        all.iter().for_each(|name| set_access_time(&root.join(name), long_ago));
        block_on(store.list(prefix, after)).unwrap();
        let was_read = |name: &&&str| std::fs::metadata(root.join(name)).unwrap().accessed().unwrap() != long_ago;
        let read: Vec<&str> = all.iter().filter(was_read).copied().collect();
        if prefix.is_empty() && after.is_none() && read.is_empty() {
            eprintln!("SKIPPED: this file system keeps no access times");
            return;
        }
        assert_eq!(read, expected, "{prefix:?} after {after:?}");
    }
}
