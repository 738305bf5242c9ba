//! A repository as tests look into it and break it, wherever it lies: in a directory, or in a bucket.
//!
//! Tests that speak of objects by their keys run over both, unchanged: `LIFEBOAT_TEST_STORE=s3` has every
//! [`super::scenario::Scenario`] keep its repository in a bucket. [`Repository::path`] is for tests that are about directories.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lifeboat::codec::Sha256Digest;
use lifeboat::store::Store;
use lifeboat::store::local::LocalStore;
use lifeboat::store::s3::{Credentials, S3Options, S3Store};

use super::dirs::{self, Dir};
use super::listing::files;
use super::postgres;
use super::process;
use super::rclone::{self, Rclone};
use super::s3::{Keeping, Rights, S3Server};

/// What holds no objects in a directory.
const STAGING: &str = ".lifeboat-tmp/";

/// Where a scenario's repository lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a directory.
    Directory,
    /// In a bucket of an S3 server inside the test's process.
    Bucket,
    /// In such a bucket that is set up in this way, with more keys for `[repository.main]`, by credentials of such rights.
    Kept(Keeping, &'static str, Rights),
    /// In a bucket of `rclone serve s3`, which ignores conditions.
    Rclone,
}

impl Place {
    /// Whether its server is installed; says aloud when it is not, and fails when `REQUIRE_SERVERS=1`.
    pub fn is_there(self) -> bool {
        let missing = if self == Self::Rclone { rclone::program().err() } else { None };
        missing.iter().for_each(|program| postgres::skip(&format!("there is no {}", program.display())));
        missing.is_none()
    }

    /// What `LIFEBOAT_TEST_STORE` says (`directory`, `s3` or `rclone`); a directory without it. Nothing else reads it.
    pub fn from_environment() -> Self {
        match std::env::var("LIFEBOAT_TEST_STORE").as_deref() {
            Err(_) | Ok("" | "directory") => Self::Directory,
            Ok("s3") => Self::Bucket,
            Ok("rclone") => Self::Rclone,
            Ok(other) => panic!("LIFEBOAT_TEST_STORE={other}: it may be directory, s3 or rclone"),
        }
    }
}

/// A place for a repository; see the module.
#[derive(Debug)]
pub struct Repository(Kept);

#[derive(Debug)]
enum Kept {
    Directory(Dir),
    Bucket { server: Arc<S3Server>, prefix: String, keys: &'static str },
    Rclone { server: Arc<Rclone>, prefix: String },
}

/// A repository's objects as files below `path`, until this is dropped.
#[derive(Debug)]
pub struct Files {
    /// The directory.
    pub path: PathBuf,
    _downloaded: Option<Dir>,
}

impl Repository {
    /// An empty place.
    ///
    /// # Panics
    /// When its server is missing: ask [`Place::is_there`].
    pub fn empty(place: Place) -> Self {
        let kept = match place {
            Place::Directory => Kept::Directory(Dir::new()),
            Place::Bucket => Kept::Bucket { server: Arc::new(S3Server::start()), prefix: "backups/main".into(), keys: "" },
            Place::Kept(keeping, keys, _) => {
                Kept::Bucket { server: Arc::new(S3Server::keeping(keeping)), prefix: "backups/main".into(), keys }
            }
            Place::Rclone => {
                let program = rclone::program().unwrap_or_else(|missing| panic!("there is no {}", missing.display()));
                Kept::Rclone { server: Arc::new(Rclone::start(&program)), prefix: "backups/main".into() }
            }
        };
        let rights = if let Place::Kept(_, _, rights) = place { rights } else { Rights::All };
        match &kept {
            Kept::Directory(_) => {}
            Kept::Bucket { server, .. } => process::add_environment(server.environment_of(rights)),
            Kept::Rclone { .. } => process::add_environment([
                ("AWS_ACCESS_KEY_ID", rclone::ACCESS_KEY),
                ("AWS_SECRET_ACCESS_KEY", rclone::SECRET_KEY),
            ]),
        }
        Self(kept)
    }

    /// Another empty place of the same kind; in a bucket it is a prefix called `name` beside this one.
    #[must_use]
    pub fn another(&self, name: &str) -> Self {
        let prefix = format!("backups/{name}");
        Self(match &self.0 {
            Kept::Directory(_) => Kept::Directory(Dir::new()),
            Kept::Bucket { server, keys, .. } => Kept::Bucket { server: Arc::clone(server), prefix, keys },
            Kept::Rclone { server, .. } => Kept::Rclone { server: Arc::clone(server), prefix },
        })
    }

    /// [`Repository::another`] with the objects that are here now.
    #[must_use]
    pub fn copy(&self, name: &str) -> Self {
        let copy = self.another(name);
        for key in self.names() {
            copy.write(&key, self.read(&key));
        }
        copy
    }

    /// The server, in a bucket of this process.
    pub fn server(&self) -> Option<Arc<S3Server>> {
        match &self.0 {
            Kept::Bucket { server, .. } => Some(Arc::clone(server)),
            _ => None,
        }
    }

    /// Its address in `lifeboat.toml`.
    pub fn url(&self) -> String {
        match &self.0 {
            Kept::Directory(dir) => format!("file://{}", dir.path().display()),
            Kept::Bucket { server, prefix, .. } => server.url(prefix),
            Kept::Rclone { prefix, .. } => format!("s3://{}/{prefix}", rclone::BUCKET),
        }
    }

    /// What `[repository.NAME]` says beside the address.
    pub fn settings(&self) -> String {
        match &self.0 {
            Kept::Directory(_) => String::new(),
            Kept::Bucket { server, keys, .. } => server.settings() + keys,
            Kept::Rclone { server, .. } => format!("endpoint = \"{}\"\n", server.endpoint),
        }
    }

    /// A section of `lifeboat.toml` that calls it `name`.
    pub fn section(&self, name: &str) -> String {
        format!("[repository.{name}]\nurl = \"{}\"\n{}", self.url(), self.settings())
    }

    /// A store of this process.
    pub fn store(&self) -> Arc<dyn Store> {
        match &self.0 {
            Kept::Directory(dir) => Arc::new(LocalStore::new(dir.path())),
            Kept::Bucket { server, prefix, .. } => Arc::new(server.store(prefix)),
            Kept::Rclone { server, .. } => {
                let credentials = Some(Credentials::new(rclone::ACCESS_KEY, rclone::SECRET_KEY));
                let options = S3Options { endpoint: Some(server.endpoint.clone()), credentials, ..S3Options::default() };
                Arc::new(S3Store::new(&self.url(), options).expect("a right address"))
            }
        }
    }

    /// The directory itself, for tests that are about directories.
    #[track_caller]
    pub fn path(&self) -> &Path {
        match &self.0 {
            Kept::Directory(dir) => dir.path(),
            _ => panic!("this test is about a directory: it does not run with LIFEBOAT_TEST_STORE set"),
        }
    }

    /// A path below [`Repository::path`].
    #[track_caller]
    pub fn join(&self, key: impl AsRef<Path>) -> PathBuf {
        self.path().join(key)
    }

    /// Every object as a file: the directory itself, or one as a stock tool would have downloaded it.
    pub fn as_files(&self) -> Files {
        if let Kept::Directory(dir) = &self.0 {
            return Files { path: dir.path().to_owned(), _downloaded: None };
        }
        let downloaded = Dir::new();
        self.names().iter().for_each(|key| write_below(downloaded.path(), key, &self.read(key)));
        Files { path: downloaded.path().to_owned(), _downloaded: Some(downloaded) }
    }

    /// The keys of all objects, in order.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = match (&self.0, self.root()) {
            (Kept::Bucket { server, prefix, .. }, _) => {
                let below = format!("{prefix}/");
                server.names().iter().filter_map(|name| name.strip_prefix(&below).map(str::to_owned)).collect()
            }
            (_, Some(root)) if root.exists() => {
                let key = |path: PathBuf| path.strip_prefix(&root).expect("below it").to_str().expect("a key").to_owned();
                files(&root).into_iter().map(key).filter(|key| !key.starts_with(STAGING)).collect()
            }
            _ => Vec::new(),
        };
        names.sort();
        names
    }

    /// The keys that begin with `prefix`.
    pub fn names_below(&self, prefix: &str) -> Vec<String> {
        self.names().into_iter().filter(|name| name.starts_with(prefix)).collect()
    }

    /// Keys of the archived log: segments, histories and the rest, not keys, indexes and resolutions.
    pub fn log_objects(&self) -> Vec<String> {
        let other = ["/key/", "/index/", "/resolution/"];
        let is_log = |key: &String| key.contains("/log/") && !other.iter().any(|other| key.contains(other));
        self.names().into_iter().filter(is_log).collect()
    }

    /// Every key with the digest of its content.
    pub fn contents(&self) -> BTreeMap<String, Sha256Digest> {
        self.names().into_iter().map(|key| (key.clone(), Sha256Digest::of(&self.read(&key)))).collect()
    }

    /// Whether there is an object of this key.
    pub fn has(&self, key: &str) -> bool {
        self.names().iter().any(|name| name == key)
    }

    /// The content of an object.
    #[track_caller]
    pub fn read(&self, key: &str) -> Vec<u8> {
        match &self.0 {
            Kept::Bucket { server, prefix, .. } => {
                server.content(&format!("{prefix}/{key}")).expect("the object is there").to_vec()
            }
            _ => fs::read(self.file(key)).unwrap_or_else(|error| panic!("{key}: {error}")),
        }
    }

    /// Puts or replaces an object behind everybody's back.
    #[track_caller]
    pub fn write(&self, key: &str, content: impl AsRef<[u8]>) {
        match &self.0 {
            Kept::Bucket { server, prefix, .. } => server.plant(&format!("{prefix}/{key}"), content.as_ref()),
            _ => write_below(&self.root().expect("files"), key, content.as_ref()),
        }
    }

    /// Turns one bit in the middle of an object.
    #[track_caller]
    pub fn flip(&self, key: &str) {
        let mut content = self.read(key);
        let middle = content.len() / 2;
        content[middle] ^= 1;
        self.write(key, content);
    }

    /// Removes an object behind everybody's back.
    #[track_caller]
    pub fn remove(&self, key: &str) {
        match &self.0 {
            Kept::Bucket { server, prefix, .. } => {
                assert!(self.has(key), "there is no {key}");
                server.remove(&format!("{prefix}/{key}"));
            }
            _ => fs::remove_file(self.file(key)).unwrap_or_else(|error| panic!("{key}: {error}")),
        }
    }

    /// Removes every object.
    pub fn remove_all(&self) {
        for key in self.names() {
            self.remove(&key);
        }
    }

    /// Makes it as if it were not there, objects and all, until [`Repository::bring_back`]; returns what programs say then.
    pub fn take_away(&self) -> &'static str {
        match &self.0 {
            Kept::Directory(dir) => {
                fs::rename(dir.path(), Self::away(dir)).expect("own directory");
                "a disk that is not mounted?"
            }
            Kept::Bucket { server, prefix, .. } => {
                server.refuse("", &format!("{prefix}/"), "NoSuchBucket");
                "there is no bucket"
            }
            Kept::Rclone { .. } => panic!("rclone's server cannot be told to refuse"),
        }
    }

    /// Ends [`Repository::take_away`].
    pub fn bring_back(&self) {
        match &self.0 {
            Kept::Directory(dir) => {
                assert!(!dir.path().exists(), "nothing may be made beside the real one");
                fs::rename(Self::away(dir), dir.path()).expect("own directory");
            }
            Kept::Bucket { server, .. } => server.relent(),
            Kept::Rclone { .. } => panic!("rclone's server cannot be told to refuse"),
        }
    }

    /// Lets nobody in for good; returns what programs say then.
    pub fn forbid(&self) -> &'static str {
        use std::os::unix::fs::PermissionsExt;
        match &self.0 {
            Kept::Directory(dir) => {
                fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o000)).expect("own directory");
                "Permission denied"
            }
            Kept::Bucket { server, prefix, .. } => {
                server.refuse("", &format!("{prefix}/"), "AccessDenied");
                "access is denied"
            }
            Kept::Rclone { .. } => panic!("rclone's server cannot be told to refuse"),
        }
    }

    fn away(dir: &Dir) -> PathBuf {
        dir.path().with_extension("away")
    }

    /// Where objects are files below.
    fn root(&self) -> Option<PathBuf> {
        match &self.0 {
            Kept::Directory(dir) => Some(dir.path().to_owned()),
            Kept::Bucket { .. } => None,
            Kept::Rclone { server, prefix } => Some(server.bucket_directory().join(prefix)),
        }
    }

    fn file(&self, key: &str) -> PathBuf {
        self.root().expect("files").join(key)
    }
}

impl Drop for Repository {
    fn drop(&mut self) {
        if let Kept::Directory(dir) = &self.0
            && Self::away(dir).exists()
        {
            // So that it is removed with the directory.
            let _ = fs::rename(Self::away(dir), dir.path());
        }
    }
}

/// Writes a file and the directories above it for the server's user; one that is there keeps its owner.
#[track_caller]
fn write_below(root: &Path, key: &str, content: &[u8]) {
    use std::os::unix::fs::PermissionsExt;
    let path = root.join(key);
    let mut missing: Vec<&Path> = path.ancestors().skip(1).take_while(|parent| !parent.exists()).collect();
    while let Some(parent) = missing.pop() {
        fs::create_dir(parent).expect("own directory");
        dirs::give(parent);
    }
    let is_new = !path.exists();
    if !is_new {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("own file");
    }
    fs::write(&path, content).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    if is_new {
        dirs::give(&path);
    }
}
