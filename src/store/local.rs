//! Objects as files below one directory: `file:///srv/backups`.
//!
//! An object is a regular file whose path below the root is its key; it appears whole and durable, by a link
//! (`put.rs`), and is never written to again. The root is never created by a call: a root that is missing or
//! empty is a disk that is not mounted, and every call says so, retryably (`root.rs`). Because keys are paths, no
//! object can have the name of another's directory. The one object that may be rewritten is replaced by a rename, under
//! a lock (`replace.rs`).

mod failure;
mod list;
mod put;
mod replace;
mod root;

use std::fs::DirBuilder;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use rustix::fs::AtFlags;
use rustix::io::Errno;

use self::failure::failure;
use self::root::Root;
use super::key::{TEMPORARY_DIRECTORY, check_directory_prefix, check_key};
use super::{Body, ListPage, ObjectInfo, PutOutcome, Store, StoreError, StoreResult, file_url, version_of};
use crate::base::durable;

/// A store in a directory of a local or mounted file system.
///
/// Files get mode 0640 and directories 0750, less the umask. File system calls run on the runtime's blocking
/// threads; a put whose future is dropped may still happen.
pub struct LocalStore {
    url: String,
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    memory: put::Memory,
}

impl LocalStore {
    /// The store below the directory `path`, which is looked at only when a call is made.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self::with_url(path.clone(), file_url(&path))
    }

    /// As [`LocalStore::new`], with the address as the operator wrote it.
    pub(super) fn with_url(path: PathBuf, url: String) -> Self {
        Self { url, inner: Arc::new(Inner { path, memory: put::Memory::default() }) }
    }

    /// Creates the directory that a store needs, with what is missing above it, durably; succeeds when it is there.
    ///
    /// # Errors
    /// As [`Store::put_if_absent`].
    pub fn create_root(path: &Path) -> StoreResult<()> {
        let temporary = path.join(TEMPORARY_DIRECTORY);
        create_directory(&temporary).map_err(|error| failure("create directory", &temporary, error))
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Root, &Inner) -> StoreResult<T> + Send + 'static,
    ) -> StoreResult<T> {
        let inner = Arc::clone(&self.inner);
        let task = tokio::task::spawn_blocking(move || work(&Root::open(&inner.path)?, &inner));
        match task.await {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(error) => {
                Err(StoreError::Retryable { message: format!("{} is being closed", self.url), source: Some(error.into()) })
            }
        }
    }
}

fn create_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        create_directory(parent)?;
    }
    match DirBuilder::new().mode(put::DIRECTORY_MODE).create(path) {
        Ok(()) => durable::sync_parent(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

/// The content of an object.
fn whole(root: &Root, key: &str) -> StoreResult<Bytes> {
    let (mut file, size_bytes) = root.open_object(key)?;
    let mut content = Vec::with_capacity(usize::try_from(size_bytes).unwrap_or(0));
    file.read_to_end(&mut content).map_err(|error| failure("read", &root.full_path(key), error))?;
    Ok(content.into())
}

#[async_trait]
impl Store for LocalStore {
    fn url(&self) -> &str {
        &self.url
    }

    async fn put_if_absent(&self, key: &str, body: Body) -> StoreResult<PutOutcome> {
        check_key(key)?;
        let key = key.to_owned();
        self.run(move |root, inner| put::put_if_absent(root, &inner.memory, &key, &body)).await
    }

    async fn replace_if(&self, key: &str, content: Bytes, expected: Option<&str>) -> StoreResult<Option<String>> {
        check_key(key)?;
        let (key, expected) = (key.to_owned(), expected.map(str::to_owned));
        self.run(move |root, inner| replace::replace_if(root, &inner.memory, &key, content, expected.as_deref())).await
    }

    async fn get(&self, key: &str) -> StoreResult<Bytes> {
        check_key(key)?;
        let key = key.to_owned();
        self.run(move |root, _| whole(root, &key)).await
    }

    async fn get_versioned(&self, key: &str) -> StoreResult<(Bytes, String)> {
        let content = self.get(key).await?;
        let version = version_of(&content);
        Ok((content, version))
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> StoreResult<Bytes> {
        check_key(key)?;
        let key = key.to_owned();
        self.run(move |root, _| {
            let (file, size_bytes) = root.open_object(&key)?;
            let failed = |error: io::Error| failure("read", &root.full_path(&key), error);
            let wanted_bytes = range.end.min(size_bytes).saturating_sub(range.start);
            let mut content = vec![0; usize::try_from(wanted_bytes).map_err(|_| failed(Errno::FBIG.into()))?];
            file.read_exact_at(&mut content, range.start).map_err(failed)?;
            Ok(content.into())
        })
        .await
    }

    async fn head(&self, key: &str) -> StoreResult<ObjectInfo> {
        check_key(key)?;
        let key = key.to_owned();
        self.run(move |root, _| root.object(&key)?.ok_or(StoreError::NotFound { key })).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>) -> StoreResult<ListPage> {
        let (prefix, start_after) = (prefix.to_owned(), start_after.map(str::to_owned));
        self.run(move |root, _| list::list(root, &prefix, start_after.as_deref())).await
    }

    async fn list_all(&self, prefix: &str, start_after: Option<&str>) -> StoreResult<Vec<ObjectInfo>> {
        let (prefix, start_after) = (prefix.to_owned(), start_after.map(str::to_owned));
        self.run(move |root, _| list::list_all(root, &prefix, start_after.as_deref())).await
    }

    async fn list_dirs(&self, prefix: &str) -> StoreResult<Vec<String>> {
        check_directory_prefix(prefix)?;
        let prefix = prefix.to_owned();
        self.run(move |root, _| list::list_dirs(root, &prefix)).await
    }

    async fn delete(&self, key: &str) -> StoreResult<()> {
        check_key(key)?;
        let key = key.to_owned();
        self.run(move |root, _| match rustix::fs::unlinkat(&root.directory, &key, AtFlags::empty()) {
            // The directories stay: a put may be about to use them.
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::ISDIR) => Ok(()),
            Err(errno) => Err(failure("delete", &root.full_path(&key), errno)),
        })
        .await
    }
}
