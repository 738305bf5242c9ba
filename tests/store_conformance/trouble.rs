//! A local store on a disk that is full, gone, or not ours.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use lifeboat::base::{Error, ErrorKind};
use lifeboat::store::local::LocalStore;
use lifeboat::store::{Body, PutOutcome, Store, StoreError, StoreOptions, create_root, file_url, open};

use crate::child::Call;
use crate::support::{block_on, is_root, keys, local_at, put, skip};

/// A small file system of its own, unmounted when it goes out of scope.
struct SmallDisk {
    mount_point: PathBuf,
    mounted: bool,
    _directory: tempfile::TempDir,
}

impl SmallDisk {
    /// `None`, said aloud, where this user cannot mount.
    fn new(size: &str) -> Option<Self> {
        if !is_root() {
            eprintln!("SKIPPED: only root can mount a small disk");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let mount_point = directory.path().join("disk");
        std::fs::create_dir(&mount_point).unwrap();
        let option = format!("size={size}");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &option, "lifeboat-test"]).arg(&mount_point).output();
        match mount {
            Ok(output) if output.status.success() => Some(Self { mount_point, mounted: true, _directory: directory }),
            other => {
                skip(&format!("cannot mount a small disk: {other:?}"));
                None
            }
        }
    }

    fn unmount(&mut self) {
        if std::mem::take(&mut self.mounted) {
            let status = Command::new("umount").arg(&self.mount_point).status().unwrap();
            assert!(status.success() || std::thread::panicking(), "umount: {status}");
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        self.unmount();
    }
}

/// The error of each kind of call.
fn errors_of_all_calls(store: &dyn Store) -> Vec<StoreError> {
    block_on(async {
        vec![
            store.put_if_absent("orders/x", Body::from(vec![1])).await.unwrap_err(),
            store.get("orders/x").await.unwrap_err(),
            store.get_range("orders/x", 0..1).await.unwrap_err(),
            store.head("orders/x").await.unwrap_err(),
            store.list("", None).await.unwrap_err(),
            store.list("orders/x/", None).await.unwrap_err(),
            store.list_dirs("").await.unwrap_err(),
            store.delete("orders/x").await.unwrap_err(),
        ]
    })
}

fn assert_unreachable(store: &dyn Store, root: &Path) {
    for error in errors_of_all_calls(store) {
        assert!(error.is_retryable(), "{error:?}");
        assert!(error.to_string().contains(&*root.to_string_lossy()) && error.to_string().contains("not mounted"), "{error}");
        assert_eq!(Error::from(error).kind(), ErrorKind::Unreachable);
    }
}

#[test]
fn a_missing_root_is_unreachable_and_never_created() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("disk/backups");
    let store = LocalStore::new(&root);
    assert_unreachable(&store, &root);
    assert!(!directory.path().join("disk").exists());

    // An empty mount point, and a file in its place.
    std::fs::create_dir_all(&root).unwrap();
    assert_unreachable(&store, &root);
    assert_eq!(std::fs::read_dir(&root).unwrap().count(), 0);
    std::fs::remove_dir(&root).unwrap();
    std::fs::write(&root, b"").unwrap();
    assert_unreachable(&store, &root);
}

#[test]
fn a_root_is_made_once_and_then_serves() {
    let directory = tempfile::tempdir().unwrap();
    let url = file_url(&directory.path().join("two/new levels"));
    let options = StoreOptions::default();
    block_on(create_root(&url, &options)).unwrap();
    block_on(create_root(&url, &options)).unwrap();
    let store = open(&url, &options).unwrap();
    assert_eq!(store.url(), url);
    block_on(async {
        assert_eq!(keys(&*store, "", None).await, [""; 0]);
        assert_eq!(put(&*store, "a/b", b"x").await, PutOutcome::Created);
    });
    let umask = std::fs::read_to_string("/proc/self/status").unwrap();
    let umask = umask.lines().find_map(|line| line.strip_prefix("Umask:")).unwrap().trim().to_owned();
    let umask = u32::from_str_radix(&umask, 8).unwrap();
    for (path, mode) in [("", 0o750), (".lifeboat-tmp", 0o750), ("a", 0o750), ("a/b", 0o640)] {
        let metadata = std::fs::metadata(directory.path().join("two/new levels").join(path)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, mode & !umask, "{path}");
    }
}

#[test]
fn an_unmounted_disk_is_unreachable_and_comes_back() {
    let Some(mut disk) = SmallDisk::new("4m") else { return };
    let root = disk.mount_point.clone();
    let store = local_at(&root);
    block_on(put(&store, "orders/x", b"x"));
    disk.unmount();
    assert_unreachable(&store, &root);
    assert_eq!(std::fs::read_dir(&root).unwrap().count(), 0, "something was written below the mount point");
}

#[test]
fn a_full_disk_is_said_and_leaves_nothing_behind() {
    let Some(disk) = SmallDisk::new("1m") else { return };
    let store = local_at(&disk.mount_point);
    let big = tempfile::NamedTempFile::new().unwrap();
    big.as_file().set_len(2 << 20).unwrap();
    block_on(async {
        assert_eq!(put(&store, "fits", &[1; 300_000]).await, PutOutcome::Created);
        for body in [Body::from(vec![2; 2 << 20]), Body::File(big.path().to_owned())] {
            let error = store.put_if_absent("orders/big", body).await.unwrap_err();
            assert!(matches!(error, StoreError::Permanent { .. }), "{error:?}");
            let text = error.to_string();
            assert!(text.contains("the disk is full") && text.contains(&*disk.mount_point.to_string_lossy()), "{text}");
        }
        assert_eq!(keys(&store, "", None).await, ["fits"]);
        assert_eq!(std::fs::read_dir(disk.mount_point.join(".lifeboat-tmp")).unwrap().count(), 0);
        assert_eq!(store.get("fits").await.unwrap(), vec![1; 300_000]);
        // What fits still goes in, and so does the same object once there is room.
        assert_eq!(put(&store, "orders/small", b"x").await, PutOutcome::Created);
        let body = vec![3; 900_000];
        store.put_if_absent("orders/big", Body::from(body.clone())).await.unwrap_err();
        store.delete("fits").await.unwrap();
        assert_eq!(put(&store, "orders/big", &body).await, PutOutcome::Created);
        assert_eq!(store.get("orders/big").await.unwrap(), body);
    });
}

/// The result of a call as a user without rights, as text.
fn without_rights(task: &str, root: &Path, key: &str) -> String {
    let call = Call::new(task, root, key, "x");
    if is_root() { call.run_by(65_534).run() } else { call.run() }
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn missing_rights_are_permanent_and_name_the_path() {
    let directory = tempfile::tempdir().unwrap();
    set_mode(directory.path(), 0o755);
    let root = directory.path().join("backups");
    let store = local_at(&root);
    block_on(put(&store, "orders/log/x", b"x"));
    // Nothing may be read, then everything but the object's directory, then all of it but nothing written.
    set_mode(&root, 0o000);
    let closed = [without_rights("get", &root, "orders/log/x"), without_rights("list", &root, "")];
    set_mode(&root, 0o755);
    set_mode(&root.join("orders"), 0o755);
    set_mode(&root.join("orders/log"), 0o000);
    let partly = [without_rights("get", &root, "orders/log/x"), without_rights("list", &root, "")];
    set_mode(&root.join("orders/log"), 0o555);
    set_mode(&root.join(".lifeboat-tmp"), 0o555);
    let unwritable = without_rights("put", &root, "orders/log/y");
    let listed = without_rights("list", &root, "orders/");
    for path in ["orders/log", ".lifeboat-tmp"] {
        set_mode(&root.join(path), 0o750);
    }
    for (result, path) in
        closed.iter().map(|result| (result, "backups")).chain(partly.iter().map(|result| (result, "orders/log")))
    {
        assert!(result.starts_with("Err(Permanent") && result.contains("Permission denied"), "{result}");
        assert!(result.contains(path) && result.contains("as user id"), "{result}");
    }
    assert!(unwritable.starts_with("Err(Permanent") && unwritable.contains("/.lifeboat-tmp/"), "{unwritable}");
    assert_eq!(listed, "Ok(1)");
    assert_eq!(block_on(keys(&store, "", None)), ["orders/log/x"]);
}
