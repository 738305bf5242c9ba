//! A bucket that keeps versions: of each name the oldest version is the object.
//!
//! Objects are written once, so whatever lies over the first version of a name was put there by somebody who may put and
//! had no business to: an overwrite or a delete marker. The oldest version is the one whose digest the lists name, and
//! is found without knowing a digest. Three rules follow:
//!
//! - a name whose first version is hidden behind a marker is taken: whether a put created the object is decided by
//!   looking which version came first, which also settles races where the store itself does not;
//! - a deletion names every version, the oldest last: a plain DELETE would add a marker and free nothing, and an
//!   interrupted one must not bring a later version to the front;
//! - what is rewritten (the lease) is read by its newest version, as everywhere.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use aws_sdk_s3::operation::list_object_versions::ListObjectVersionsOutput;
use aws_sdk_s3::types::{EncodingType, ObjectVersion};

use super::S3Store;
use super::failure::{Failure, Kind};
use super::list::{decoded, in_order, timestamp};
use crate::store::{Lifetime, ListPage, ObjectInfo, RequestKind, StoreError, StoreResult};

/// So many version ids are remembered, to read an object without asking for its versions again.
const REMEMBERED: usize = 50_000;

/// The version of an object that counts.
#[derive(Clone, Debug)]
pub(super) struct True {
    pub(super) info: ObjectInfo,
    pub(super) version: String,
}

/// Ids of oldest versions, which never change while they are there.
#[derive(Default)]
pub(super) struct Remembered(Mutex<HashMap<String, String>>);

impl Remembered {
    fn get(&self, key: &str) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    fn put(&self, found: &True) {
        let mut ids = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if ids.len() >= REMEMBERED {
            ids.clear();
        }
        ids.insert(found.info.key.clone(), found.version.clone());
    }

    fn forget(&self, key: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

/// One listing of versions under way, page by page of the store's own.
struct Listing<'s> {
    store: &'s S3Store,
    start: String,
    delimiter: Option<&'static str>,
    /// Name and version after which it goes on.
    after: (Option<String>, Option<String>),
    ended: bool,
}

impl Listing<'_> {
    async fn next_page(&mut self) -> Result<Option<ListObjectVersionsOutput>, Failure> {
        if self.ended {
            return Ok(None);
        }
        let client = self.store.client().await?;
        let request = || {
            let request = client.list_object_versions().bucket(&self.store.address.bucket).prefix(&self.start);
            let request = request.set_key_marker(self.after.0.clone()).set_version_id_marker(self.after.1.clone());
            request.set_delimiter(self.delimiter.map(str::to_owned)).encoding_type(EncodingType::Url).send()
        };
        let answer = self.store.call(RequestKind::List, request).await?;
        self.ended = answer.is_truncated() != Some(true);
        if !self.ended {
            let key = answer.next_key_marker().and_then(|name| decoded(answer.encoding_type(), name));
            let next = (key, answer.next_version_id_marker().filter(|id| !id.is_empty()).map(str::to_owned));
            if next.0.is_none() {
                return Err(Failure::passing("the store does not say how its listing of versions goes on"));
            }
            if next == self.after {
                return Err(Failure::passing("the store lists the same page of versions again and again"));
            }
            self.after = next;
        }
        Ok(Some(answer))
    }
}

impl S3Store {
    /// Whether objects of this name are read by their oldest version.
    pub(super) fn reads_oldest(&self, key: &str) -> bool {
        self.keeps_versions() && self.options.lifetimes.of(key) != Lifetime::Rewritten
    }

    pub(super) fn keeps_versions(&self) -> bool {
        self.options.versions || self.options.lock.is_some()
    }

    fn versions_of(&self, start: String, after: Option<String>) -> Listing<'_> {
        Listing { store: self, start, delimiter: None, after: (after, None), ended: false }
    }

    /// As [`S3Store::list_some`], of oldest versions.
    pub(super) async fn list_oldest(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> StoreResult<ListPage> {
        let failed = |failure: Failure| of_listing(failure).of_call("list versions of", prefix, &self.address);
        let asked_after = start_after.filter(|after| *after >= prefix).and_then(|after| self.asked_after(after));
        let mut listing = self.versions_of(self.address.name_start(prefix), asked_after);
        let (mut page, mut pending): (ListPage, Option<True>) = (ListPage::default(), None);
        while let Some(answer) = listing.next_page().await.map_err(failed)? {
            for version in answer.versions() {
                let name = version.key().and_then(|name| decoded(answer.encoding_type(), name));
                let key = name.as_deref().and_then(|name| self.address.key_of(name));
                let Some(key) = key.filter(|key| key.starts_with(prefix) && start_after.is_none_or(|after| *key > after)) else {
                    continue;
                };
                if let Some(last) = pending.as_ref().map(|last| last.info.key.as_str())
                    && last != key
                {
                    if last > key {
                        return Err(failed(super::list::out_of_order()));
                    }
                    self.settle(&mut pending, &mut page);
                    if page.objects.len() == limit {
                        page.more = true;
                        return Ok(page);
                    }
                }
                // Newest first: the last one of a name that comes is the oldest.
                pending = Some(true_of(key, version));
            }
        }
        self.settle(&mut pending, &mut page);
        Ok(page)
    }

    fn settle(&self, pending: &mut Option<True>, page: &mut ListPage) {
        if let Some(found) = pending.take() {
            self.remembered.put(&found);
            page.objects.push(found.info);
        }
    }

    /// As [`S3Store::list_directories`]; also those in which only delete markers are left.
    pub(super) async fn list_directories_of_versions(&self, prefix: &str) -> StoreResult<Vec<String>> {
        let failed = |failure: Failure| of_listing(failure).of_call("list versions of", prefix, &self.address);
        let mut listing = self.versions_of(self.address.name_start(prefix), None);
        listing.delimiter = Some("/");
        let mut names = Vec::new();
        while let Some(answer) = listing.next_page().await.map_err(failed)? {
            let directories = answer.common_prefixes().iter();
            let directories = directories.filter_map(|directory| decoded(answer.encoding_type(), directory.prefix()?));
            names.extend(directories.filter_map(|name| self.directory_below(prefix, &name)));
        }
        Ok(in_order(names))
    }

    /// Every version and delete marker of one object, newest first among the versions: ids of versions, ids of markers.
    async fn all_versions(&self, key: &str) -> StoreResult<(Vec<True>, Vec<String>)> {
        let name = self.address.name_of(key)?;
        let failed = |failure: Failure| of_listing(failure).of_call("list versions of", key, &self.address);
        let (mut versions, mut markers) = (Vec::new(), Vec::new());
        // Names that only begin like this one come after it.
        let mut listing = self.versions_of(name.clone(), None);
        while let Some(answer) = listing.next_page().await.map_err(failed)? {
            let is_ours = |found: Option<&str>| {
                found.and_then(|found| decoded(answer.encoding_type(), found)).is_some_and(|found| found == name)
            };
            let ours = answer.versions().iter().filter(|version| is_ours(version.key()));
            versions.extend(ours.map(|version| true_of(key, version)));
            let ours = answer.delete_markers().iter().filter(|marker| is_ours(marker.key()));
            markers.extend(ours.filter_map(|marker| marker.version_id().map(str::to_owned)));
            if listing.after.0.as_ref().is_some_and(|next| *next != name) {
                break;
            }
        }
        Ok((versions, markers))
    }

    /// The version of an object that counts.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is none.
    pub(super) async fn oldest(&self, key: &str) -> StoreResult<True> {
        match self.all_versions(key).await?.0.pop() {
            Some(found) => {
                self.remembered.put(&found);
                Ok(found)
            }
            None => {
                self.remembered.forget(key);
                Err(StoreError::NotFound { key: key.to_owned() })
            }
        }
    }

    /// The id of the version that counts, from memory where it is remembered.
    pub(super) async fn oldest_id(&self, key: &str) -> StoreResult<String> {
        match self.remembered.get(key) {
            Some(version) => Ok(version),
            None => Ok(self.oldest(key).await?.version),
        }
    }

    /// Which of several puts came first: whether the version that was just put is the object. If not it is removed again,
    /// where that is allowed.
    pub(super) async fn came_first(&self, key: &str, version: Option<&str>) -> StoreResult<bool> {
        let Some(version) = version else {
            let why = Failure::lasting(
                "the bucket keeps no versions",
                "turn versioning on for the bucket, or take 'versions' out of lifeboat.toml",
            );
            return Err(why.of_call("rely on versions of", key, &self.address));
        };
        if self.oldest(key).await?.version == version {
            return Ok(true);
        }
        // Left where it is not allowed: it is no more than what any put could leave.
        let _ = self.delete_version(key, version).await;
        Ok(false)
    }

    /// Removes an object with all its versions and markers, the version that counts last.
    pub(super) async fn delete_all_versions(&self, key: &str) -> StoreResult<()> {
        let (versions, markers) = self.all_versions(key).await?;
        let ids = markers.iter().chain(versions.iter().map(|version| &version.version));
        for id in ids {
            match self.delete_version(key, id).await {
                Ok(()) => {}
                Err(failure) if failure.kind == Kind::Missing => {}
                Err(failure) => {
                    let failure = if failure.is_denied() { of_deletion(&failure) } else { failure };
                    return Err(failure.of_call("delete", key, &self.address));
                }
            }
        }
        self.remembered.forget(key);
        Ok(())
    }

    /// Removes one version, or fails as the store does.
    pub(super) async fn delete_version(&self, key: &str, version: &str) -> Result<(), Failure> {
        let name = self.address.name_of(key).map_err(|error| Failure::lasting(error.to_string(), "use another name"))?;
        let client = self.client().await?;
        let request = || client.delete_object().bucket(&self.address.bucket).key(&name).version_id(version).send();
        self.call(RequestKind::Delete, request).await.map(|_| ())
    }
}

fn true_of(key: &str, version: &ObjectVersion) -> True {
    let size_bytes = version.size().and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
    let info = ObjectInfo { key: key.to_owned(), size_bytes, modified: timestamp(version.last_modified().copied()) };
    // What was stored before versions were kept has the id "null".
    True { info, version: version.version_id().unwrap_or("null").to_owned() }
}

/// A refused listing of versions wants another right than one of objects.
fn of_listing(failure: Failure) -> Failure {
    if !failure.is_denied() {
        return failure;
    }
    Failure::lasting(failure.why(), "allow s3:ListBucketVersions on the bucket and s3:GetObjectVersion below the prefix")
}

fn of_deletion(failure: &Failure) -> Failure {
    Failure::lasting(
        failure.why(),
        "a lock holds it, or these credentials lack s3:DeleteObjectVersion: lifeboat expire --dry-run   shows what is locked",
    )
}
