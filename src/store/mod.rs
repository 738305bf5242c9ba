//! Object stores behind one trait.
//!
//! Keys are `/`-separated UTF-8 paths without empty, `.` or `..` components ([`check_key`]); no object has the name
//! of another's directory. Objects are immutable: written once with put-if-absent. A put has happened durably, or
//! it has not: no reader ever sees part of one. The one kind of object that is ever rewritten, a lease, is rewritten
//! under a condition ([`Store::replace_if`]), and as whole.

use std::io;
use std::ops::Range;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::base::Timestamp;

mod counts;
pub mod fallback;
pub mod faulty;
pub mod hiding;
mod key;
pub mod layer;
pub mod local;
mod lock;
pub mod memory;
mod open;
pub mod probe;
pub mod s3;

pub use counts::{RequestCounts, RequestKind};
pub use key::{MAX_COMPONENT_BYTES, MAX_KEY_BYTES, check_key};
pub use lock::{Lifetime, LifetimeRule, Lock, LockMode, LockTerms, LockTrial, Protection};
pub use open::{StoreOptions, create_root, file_url, open};

/// One object of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// The full key.
    pub key: String,
    /// Stored size in bytes.
    pub size_bytes: u64,
    /// When the object was written, by the store's clock.
    pub modified: Timestamp,
}

/// One page of a listing.
#[derive(Clone, Debug, Default)]
pub struct ListPage {
    /// Objects in byte order of their keys.
    pub objects: Vec<ObjectInfo>,
    /// Whether objects follow after the last one here.
    pub more: bool,
}

/// What a put-if-absent found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    /// The object is now there, durably, with the given content.
    Created,
    /// An object of that name was there before; it is unchanged.
    AlreadyExists,
}

/// The content of a put.
#[derive(Clone, Debug)]
pub enum Body {
    /// Held in memory.
    Bytes(Bytes),
    /// Read from a file that does not change meanwhile: for what may be larger than memory.
    File(PathBuf),
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

/// Why a store call failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No object of that name.
    #[error("{key} does not exist")]
    NotFound {
        /// The key asked for.
        key: String,
    },
    /// The same call may succeed later: connection, timeout, throttling, server fault.
    #[error("{message}")]
    Retryable {
        /// What failed and on which object.
        message: String,
        /// The underlying failure.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The same call will fail again: permission, invalid key, full disk.
    #[error("{message}")]
    Permanent {
        /// What failed and on which object.
        message: String,
        /// The underlying failure.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
}

/// What an operator can do about a failure, where the store knows: the source of a [`StoreError`].
#[derive(Debug)]
pub struct Guidance(String);

impl Guidance {
    /// As the source of an error.
    pub fn boxed(hint: impl Into<String>) -> Box<dyn std::error::Error + Send + Sync> {
        Box::new(Self(hint.into()))
    }
}

impl std::fmt::Display for Guidance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Guidance {}

/// Shorthand for results of store calls.
pub type StoreResult<T> = std::result::Result<T, StoreError>;

/// Largest number of objects in one [`ListPage`].
pub const LIST_PAGE_OBJECTS: usize = 1000;

/// A flat space of immutable objects.
#[async_trait]
pub trait Store: Send + Sync {
    /// The address as an operator wrote it, without secrets: `file:///srv/backups`.
    fn url(&self) -> &str;

    /// Writes an object unless one of that name exists. Durable when it returns, whatever the outcome.
    ///
    /// An error does not say that nothing was written: the object may be there, whole, as after a timeout.
    async fn put_if_absent(&self, key: &str, body: Body) -> StoreResult<PutOutcome>;

    /// Writes an object that may be rewritten, if it still has the version `expected`; with none, if there is no object.
    /// Durable when it returns. The new version; none, and nothing of it there, when the condition did not hold. Where an
    /// answer was lost, none also when it held and the object was replaced since.
    ///
    /// No two writers may write the same content: where an answer was lost, it tells whose replacement it was.
    ///
    /// An error does not say that nothing was written, as with a put: whoever needs to know reads the object again.
    async fn replace_if(&self, key: &str, content: Bytes, expected: Option<&str>) -> StoreResult<Option<String>>;

    /// The whole object.
    async fn get(&self, key: &str) -> StoreResult<Bytes>;

    /// The whole object and its version, for [`Store::replace_if`]: a text that is another one whenever the content is.
    async fn get_versioned(&self, key: &str) -> StoreResult<(Bytes, String)>;

    /// Bytes `range` of the object; shorter when the object ends before the range does, empty when the
    /// range starts at or after its end.
    async fn get_range(&self, key: &str, range: Range<u64>) -> StoreResult<Bytes>;

    /// Size and time of one object.
    async fn head(&self, key: &str) -> StoreResult<ObjectInfo>;

    /// Up to [`LIST_PAGE_OBJECTS`] objects whose keys start with `prefix` (any string, not only whole
    /// components) and sort after `start_after` (any string too), in byte order. What is listed was put whole;
    /// what was put before the call and not deleted since is listed.
    async fn list(&self, prefix: &str, start_after: Option<&str>) -> StoreResult<ListPage>;

    /// All objects of [`Store::list`]: page by page, unless a store knows a faster way.
    async fn list_all(&self, prefix: &str, start_after: Option<&str>) -> StoreResult<Vec<ObjectInfo>> {
        list_by_page(self, prefix, start_after).await
    }

    /// The distinct next components below `prefix` (empty, or ending in `/`) that have objects below
    /// them, without slashes, in byte order: `["orders", "users"]`. Another prefix is a permanent error.
    async fn list_dirs(&self, prefix: &str) -> StoreResult<Vec<String>>;

    /// Whether a put can overwrite what another writer puts under the same name at the same moment, and both be told
    /// that they created it: true for a store that is not known to refuse.
    fn may_overwrite(&self) -> bool {
        false
    }

    /// Whether writes under a condition are refused when it does not hold. A store that is not known to do so is tried
    /// out, with an object that is removed again.
    async fn honours_conditions(&self) -> StoreResult<bool> {
        Ok(true)
    }

    /// Removes an object; succeeds when there is none. A crash of the store's machine may undo it. Where the repository is
    /// read by its oldest versions every version goes, the one that counts last.
    async fn delete(&self, key: &str) -> StoreResult<()>;

    /// How objects are locked when they are written; none when they are not.
    fn lock_terms(&self) -> Option<LockTerms> {
        None
    }

    /// Whether the store may hold locks, so that it is worth asking for them.
    fn may_lock(&self) -> bool {
        self.lock_terms().is_some()
    }

    /// The lock on an object, also one that is over; none when there is none.
    async fn lock_of(&self, _key: &str) -> StoreResult<Option<Lock>> {
        Ok(None)
    }

    /// Locks an object until `until` in the mode of [`Store::lock_terms`]; never for a shorter time than it is.
    async fn extend_lock(&self, _key: &str, _until: Timestamp) -> StoreResult<()> {
        Ok(())
    }

    /// Tries out what the credentials in use can do to what is stored, with small objects below `prefix`, which ends in
    /// `/` and must be fresh. What cannot be removed again is left.
    async fn probe_protection(&self, _prefix: &str) -> StoreResult<Protection> {
        Ok(Protection::default())
    }
}

/// The version of a content where a store has no versions of its own: its SHA-256 in hex.
pub(crate) fn version_of(content: &[u8]) -> String {
    hex::encode(Sha256::digest(content))
}

/// Whether a store is a directory: it is walked once for a whole listing, and would be walked again for every page.
/// Elsewhere a page is a request.
pub fn is_directory(store: &dyn Store) -> bool {
    store.url().get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("file:"))
}

/// All objects of [`Store::list`], one page after the other.
pub(crate) async fn list_by_page<S: Store + ?Sized>(
    store: &S,
    prefix: &str,
    start_after: Option<&str>,
) -> StoreResult<Vec<ObjectInfo>> {
    let mut all: Vec<ObjectInfo> = Vec::new();
    loop {
        let after = all.last().map(|object| object.key.as_str()).or(start_after);
        let page = store.list(prefix, after).await?;
        let done = !page.more || page.objects.is_empty();
        all.extend(page.objects);
        if done {
            return Ok(all);
        }
    }
}

/// As [`Store::list_all`].
pub async fn list_all(store: &dyn Store, prefix: &str, start_after: Option<&str>) -> StoreResult<Vec<ObjectInfo>> {
    store.list_all(prefix, start_after).await
}

impl StoreError {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Retryable { .. })
    }

    /// Whether the object does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

impl From<StoreError> for crate::base::Error {
    /// A missing object becomes `Damaged` (exit 22: whoever asks for an object by name was told that it
    /// exists), everything else `Unreachable` (exit 20).
    fn from(error: StoreError) -> Self {
        use crate::base::Error;
        match error {
            StoreError::NotFound { key } => Error::damaged(format!("{key} is missing from the repository")),
            StoreError::Retryable { message, source } | StoreError::Permanent { message, source } => {
                let error = Error::unreachable(message);
                let guidance = source.as_ref().and_then(|source| source.downcast_ref::<Guidance>());
                if let Some(Guidance(hint)) = guidance {
                    return error.hint(hint);
                }
                let kind = source.as_ref().and_then(|source| source.downcast_ref::<io::Error>()).map(io::Error::kind);
                let error = error.hint(match kind {
                    Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                        "make room where the repository is and run this again: nothing stored before is lost"
                    }
                    Some(io::ErrorKind::PermissionDenied) => "run lifeboat as the user that the repository belongs to",
                    _ => "lifeboat check   tries every step of the way to the repository",
                });
                match source {
                    Some(source) => error.caused_by(source),
                    None => error,
                }
            }
        }
    }
}
