//! Objects in memory, for tests: the semantics of [`super::local::LocalStore`] without a disk.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::key::{check_directory_prefix, check_key};
use super::{Body, LIST_PAGE_OBJECTS, ListPage, ObjectInfo, PutOutcome, Store, StoreError, StoreResult, version_of};
use crate::base::Timestamp;

/// A store that lives as long as the value; for tests.
#[derive(Default)]
pub struct MemoryStore {
    objects: Mutex<BTreeMap<String, Object>>,
}

struct Object {
    content: Bytes,
    modified: Timestamp,
}

impl Object {
    fn info(&self, key: &str) -> ObjectInfo {
        ObjectInfo { key: key.to_owned(), size_bytes: self.content.len() as u64, modified: self.modified }
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Object>> {
        // The map is consistent after every statement, so a panicking test thread leaves nothing half done.
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_object<T>(&self, key: &str, work: impl FnOnce(&Object) -> T) -> StoreResult<T> {
        check_key(key)?;
        self.objects().get(key).map(work).ok_or_else(|| StoreError::NotFound { key: key.to_owned() })
    }
}

/// What a file system could not hold beside each other: an object with the name of another's directory.
fn refuse_conflict(objects: &BTreeMap<String, Object>, key: &str) -> StoreResult<()> {
    let below = format!("{key}/");
    let is_directory = objects.range(below.clone()..).next().is_some_and(|(next, _)| next.starts_with(&below));
    let what = if is_directory {
        "something that is no object has this name"
    } else if key.match_indices('/').any(|(slash, _)| objects.contains_key(&key[..slash])) {
        "an object has the name of its directory"
    } else {
        return Ok(());
    };
    Err(StoreError::Permanent { message: format!("cannot write {key}: {what}"), source: None })
}

#[async_trait]
impl Store for MemoryStore {
    fn url(&self) -> &str {
        "memory:"
    }

    async fn put_if_absent(&self, key: &str, body: Body) -> StoreResult<PutOutcome> {
        check_key(key)?;
        let content = match body {
            Body::Bytes(bytes) => bytes,
            Body::File(path) => std::fs::read(&path).map(Bytes::from).map_err(|error| StoreError::Permanent {
                message: format!("cannot read {}: {error}", path.display()),
                source: Some(error.into()),
            })?,
        };
        let mut objects = self.objects();
        if objects.contains_key(key) {
            return Ok(PutOutcome::AlreadyExists);
        }
        refuse_conflict(&objects, key)?;
        objects.insert(key.to_owned(), Object { content, modified: Timestamp::now() });
        Ok(PutOutcome::Created)
    }

    async fn replace_if(&self, key: &str, content: Bytes, expected: Option<&str>) -> StoreResult<Option<String>> {
        check_key(key)?;
        let mut objects = self.objects();
        let found = objects.get(key).map(|object| version_of(&object.content));
        if found.as_deref() != expected {
            return Ok(None);
        }
        refuse_conflict(&objects, key)?;
        let version = version_of(&content);
        objects.insert(key.to_owned(), Object { content, modified: Timestamp::now() });
        Ok(Some(version))
    }

    async fn get(&self, key: &str) -> StoreResult<Bytes> {
        self.with_object(key, |object| object.content.clone())
    }

    async fn get_versioned(&self, key: &str) -> StoreResult<(Bytes, String)> {
        self.with_object(key, |object| (object.content.clone(), version_of(&object.content)))
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> StoreResult<Bytes> {
        self.with_object(key, |object| {
            let within = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX).min(object.content.len());
            let (start, end) = (within(range.start), within(range.end));
            object.content.slice(start..end.max(start))
        })
    }

    async fn head(&self, key: &str) -> StoreResult<ObjectInfo> {
        self.with_object(key, |object| object.info(key))
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>) -> StoreResult<ListPage> {
        let from = match start_after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let objects = self.objects();
        let mut found = objects
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, object)| object.info(key));
        let page = found.by_ref().take(LIST_PAGE_OBJECTS).collect();
        Ok(ListPage { objects: page, more: found.next().is_some() })
    }

    async fn list_dirs(&self, prefix: &str) -> StoreResult<Vec<String>> {
        check_directory_prefix(prefix)?;
        let objects = self.objects();
        let mut names: Vec<String> = objects
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .map_while(|(key, _)| key.strip_prefix(prefix))
            .filter_map(|rest| rest.split_once('/').map(|(name, _)| name.to_owned()))
            .collect();
        // Keys come in the order of `name/`, which is not that of the names: `a-b/` comes before `a/`.
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    async fn delete(&self, key: &str) -> StoreResult<()> {
        check_key(key)?;
        self.objects().remove(key);
        Ok(())
    }
}
