//! Private directories that the server's user can use, with paths short enough for a unix socket.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use tempfile::TempDir;

use super::process;

/// How long a directory's removal is tried.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Who runs servers and `lifeboat`: `Some((uid, gid))` of `postgres` when the tests run as root.
pub fn server_user() -> Option<(u32, u32)> {
    static USER: OnceLock<Option<(u32, u32)>> = OnceLock::new();
    *USER.get_or_init(|| rustix::process::geteuid().is_root().then(postgres_ids))
}

fn postgres_ids() -> (u32, u32) {
    let users = fs::read_to_string("/etc/passwd").expect("/etc/passwd is readable");
    users
        .lines()
        .find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            (fields.first() == Some(&"postgres")).then(|| Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?)))?
        })
        .expect("PostgreSQL refuses to run as root, and there is no user postgres; run tests/run or: useradd --system postgres")
}

/// Gives `path` (not what is below it) to the server's user.
pub fn give(path: &Path) {
    if let Some((uid, gid)) = server_user() {
        std::os::unix::fs::lchown(path, Some(uid), Some(gid)).unwrap_or_else(|error| panic!("chown {}: {error}", path.display()));
    }
}

/// A temporary directory, mode 0700, owned by the server's user, removed on drop.
///
/// Always directly below `/tmp` (or `LIFEBOAT_TEST_TMP`): a socket's path has 107 bytes at most.
/// `LIFEBOAT_TEST_KEEP=1` keeps it and prints where it is.
#[derive(Debug)]
pub struct Dir(Option<TempDir>);

impl Dir {
    /// A fresh directory.
    pub fn new() -> Self {
        let parent = std::env::var_os("LIFEBOAT_TEST_TMP").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
        let dir = tempfile::Builder::new().prefix("lb-").tempdir_in(&parent).expect("a temporary directory can be made");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).expect("own directory");
        give(dir.path());
        Self(Some(dir))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.as_ref().expect("only drop takes it").path()
    }

    /// A path below it, which need not exist.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }

    /// Creates a directory (one level) below it, mode 0700, for the server's user.
    pub fn create_dir(&self, name: impl AsRef<Path>) -> PathBuf {
        let path = self.join(name);
        fs::create_dir(&path).unwrap_or_else(|error| panic!("create {}: {error}", path.display()));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("own directory");
        give(&path);
        path
    }

    /// Writes a file below it, mode 0600, for the server's user.
    pub fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        fs::write(&path, content).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("own file");
        give(&path);
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let Some(dir) = self.0.take() else { return };
        let path = dir.keep();
        if std::env::var_os("LIFEBOAT_TEST_KEEP").is_some() {
            println!("kept: {}", path.display());
            return;
        }
        // A program that was killed may take a moment to let go of its files.
        let mut last_error = None;
        let removed = process::poll(REMOVE_TIMEOUT, || match fs::remove_dir_all(&path) {
            Ok(()) => Some(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !path.exists() => Some(()),
            Err(error) => {
                last_error = Some(error);
                None
            }
        });
        if let (None, Some(error)) = (removed, last_error) {
            println!("not removed: {}: {error}", path.display());
        }
    }
}

/// Copies a tree with links, modes, owners and times, like `cp -a`; `to` must not exist.
pub fn copy_tree(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp runs");
    assert!(status.success(), "cp -a {} {}: {status}", from.display(), to.display());
}

/// Gives `path` and everything below it to the server's user.
pub fn give_tree(path: &Path) {
    let Some((uid, gid)) = server_user() else { return };
    let mut pending = vec![path.to_owned()];
    while let Some(path) = pending.pop() {
        if path.is_symlink() {
            continue;
        }
        chown(&path, Some(uid), Some(gid)).unwrap_or_else(|error| panic!("chown {}: {error}", path.display()));
        if path.is_dir() {
            pending.extend(fs::read_dir(&path).expect("readable").map(|entry| entry.expect("readable").path()));
        }
    }
}
