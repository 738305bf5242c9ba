//! Listing, in the byte order of keys whatever the store makes of `start-after`.

use std::cmp::Ordering;
use std::time::{Duration, UNIX_EPOCH};

use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::EncodingType;
use percent_encoding::percent_decode_str;

use super::S3Store;
use super::failure::Failure;
use crate::base::Timestamp;
use crate::store::key::{MAX_COMPONENT_BYTES, MAX_KEY_BYTES, can_hold_objects, check_directory_prefix};
use crate::store::{ListPage, ObjectInfo, RequestKind, StoreResult};

/// The latest second of the year 9999.
const MAX_UNIX_SECONDS: u64 = 253_402_300_799;

/// One listing under way, page by page of the store's own.
struct Listing<'s> {
    store: &'s S3Store,
    /// What names begin with.
    start: String,
    /// Names begin after this.
    after: Option<String>,
    delimiter: Option<&'static str>,
    token: Option<String>,
    ended: bool,
}

impl S3Store {
    /// The objects of a listing, at most `limit`; `more` may be said where only foreign objects follow.
    pub(super) async fn list_some(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> StoreResult<ListPage> {
        let mut page = ListPage::default();
        if !can_match(prefix) || self.address.name_start(prefix).len() > MAX_KEY_BYTES {
            return Ok(page);
        }
        if self.keeps_versions() {
            return self.list_oldest(prefix, start_after, limit).await;
        }
        let mut listing = Listing {
            store: self,
            start: self.address.name_start(prefix),
            after: start_after.filter(|after| *after >= prefix).and_then(|after| self.asked_after(after)),
            delimiter: None,
            token: None,
            ended: false,
        };
        while let Some(found) = listing.next_page().await.map_err(|failure| failure.of_call("list", prefix, &self.address))? {
            for (name, object) in found.names().zip(found.answer.contents()) {
                let key = name.as_deref().and_then(|name| self.address.key_of(name));
                // Foreign objects, and those before the start where a store does not know `start-after`.
                let Some(key) = key.filter(|key| key.starts_with(prefix) && start_after.is_none_or(|after| *key > after)) else {
                    continue;
                };
                match page.objects.last().map(|last| last.key.as_str().cmp(key)) {
                    None | Some(Ordering::Less) => {}
                    // Listed twice, as by gateways while the object is being written.
                    Some(Ordering::Equal) => continue,
                    Some(Ordering::Greater) => return Err(out_of_order().of_call("list", prefix, &self.address)),
                }
                if page.objects.len() == limit {
                    page.more = true;
                    return Ok(page);
                }
                let size_bytes = object.size().and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
                page.objects.push(ObjectInfo { key: key.to_owned(), size_bytes, modified: timestamp(object.last_modified) });
            }
            if page.objects.len() == limit {
                page.more = !listing.ended;
                return Ok(page);
            }
        }
        Ok(page)
    }

    pub(super) async fn list_directories(&self, prefix: &str) -> StoreResult<Vec<String>> {
        check_directory_prefix(prefix)?;
        if self.keeps_versions() {
            return self.list_directories_of_versions(prefix).await;
        }
        let mut listing = Listing {
            store: self,
            start: self.address.name_start(prefix),
            after: None,
            delimiter: Some("/"),
            token: None,
            ended: false,
        };
        let mut names = Vec::new();
        while let Some(found) = listing.next_page().await.map_err(|failure| failure.of_call("list", prefix, &self.address))? {
            let directories = found.answer.common_prefixes().iter().filter_map(|directory| found.plain(directory.prefix()?));
            names.extend(directories.filter_map(|name| self.directory_below(prefix, &name)));
        }
        Ok(in_order(names))
    }

    /// What follows `prefix` in the name of a directory as the store lists it, ending in a slash.
    pub(super) fn directory_below(&self, prefix: &str, name: &str) -> Option<String> {
        let key = self.address.key_of(name.strip_suffix('/')?)?;
        key.strip_prefix(prefix).map(str::to_owned)
    }

    /// What to ask the store to start after: a beginning of it, where a request cannot carry all of it.
    pub(super) fn asked_after(&self, after: &str) -> Option<String> {
        let whole = self.address.name_start(after);
        let plain = whole.split(char::is_control).next().unwrap_or_default();
        let end = (0..=plain.len().min(MAX_KEY_BYTES)).rev().find(|end| plain.is_char_boundary(*end)).unwrap_or(0);
        Some(plain[..end].to_owned()).filter(|after| !after.is_empty())
    }
}

/// Whether a key can begin like this.
fn can_match(prefix: &str) -> bool {
    let (directory, last) = prefix.rsplit_once('/').map_or(("", prefix), |(before, last)| (&prefix[..=before.len()], last));
    can_hold_objects(directory) && !last.contains('\0') && last.len() <= MAX_COMPONENT_BYTES
}

/// Names of directories in their own order. The store's is that of `name/`: `a-b/` comes before `a/`.
pub(super) fn in_order(mut names: Vec<String>) -> Vec<String> {
    names.sort_unstable();
    names.dedup();
    names
}

pub(super) fn out_of_order() -> Failure {
    Failure::lasting(
        "the store lists its objects out of order",
        "use an ordinary bucket: directory buckets and gateways to file systems cannot hold a repository",
    )
}

/// A page as the store sent it.
struct Page {
    answer: ListObjectsV2Output,
}

/// A name without the encoding that the store says it used; `None` when it is no text.
pub(super) fn decoded(encoding: Option<&EncodingType>, name: &str) -> Option<String> {
    if encoding != Some(&EncodingType::Url) {
        return Some(name.to_owned());
    }
    let spaced = name.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().ok().map(|name| name.into_owned())
}

impl Page {
    fn plain(&self, name: &str) -> Option<String> {
        decoded(self.answer.encoding_type(), name)
    }

    fn names(&self) -> impl Iterator<Item = Option<String>> {
        self.answer.contents().iter().map(|object| self.plain(object.key()?))
    }
}

impl Listing<'_> {
    /// The next page; `None` after the last.
    async fn next_page(&mut self) -> Result<Option<Page>, Failure> {
        if self.ended {
            return Ok(None);
        }
        let client = self.store.client().await?;
        let request = || {
            let request = client.list_objects_v2().bucket(&self.store.address.bucket).prefix(&self.start);
            let request = request.set_start_after(self.after.clone()).set_continuation_token(self.token.clone());
            request.set_delimiter(self.delimiter.map(str::to_owned)).encoding_type(EncodingType::Url).send()
        };
        let answer = self.store.call(RequestKind::List, request).await?;
        let token = answer.next_continuation_token.clone().filter(|token| !token.is_empty());
        if answer.is_truncated() == Some(true) && token.is_none() {
            return Err(Failure::passing("the store does not say how its listing goes on"));
        }
        if token.is_some() && token == self.token {
            return Err(Failure::passing("the store lists the same page again and again"));
        }
        self.ended = answer.is_truncated() != Some(true);
        self.token = token;
        Ok(Some(Page { answer }))
    }
}

/// A time of the store's, in whole seconds: a HEAD tells no more, and one object has one time. The epoch for none.
pub(super) fn timestamp(time: Option<DateTime>) -> Timestamp {
    let seconds = time.and_then(|time| u64::try_from(time.secs()).ok()).unwrap_or(0);
    Timestamp::from_system_time(UNIX_EPOCH + Duration::from_secs(seconds.min(MAX_UNIX_SECONDS)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_that_no_key_can_have_are_not_asked_for() {
        for possible in ["", "a", "a/", "a/b", "..", "a/.", "-", "ü/日"] {
            assert!(can_match(possible), "{possible:?}");
        }
        for impossible in ["/", "a//", "../", "a/./b", "a\0", "\0/x", ".lifeboat-tmp/", "/a"] {
            assert!(!can_match(impossible), "{impossible:?}");
        }
    }

    #[test]
    fn names_are_decoded_only_where_the_store_encoded_them() {
        let page = |encoding| Page { answer: ListObjectsV2Output::builder().set_encoding_type(encoding).build() };
        assert_eq!(page(Some(EncodingType::Url)).plain("a+b%2Bc%25").as_deref(), Some("a b+c%"));
        assert_eq!(page(None).plain("a+b%2B").as_deref(), Some("a+b%2B"));
        assert_eq!(page(Some(EncodingType::Url)).plain("%ff"), None);
    }
}
