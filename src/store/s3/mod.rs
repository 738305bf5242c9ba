//! Objects in a bucket: `s3://bucket/prefix`, on AWS and on stores that speak its protocol.
//!
//! **Conditional puts.** An object is written with `If-None-Match: *`, one PUT each. AWS refuses a name that is taken.
//! Some stores (rclone, Garage, older Ceph and MinIO) take the header and overwrite all the same. No answer tells
//! which kind a store is, so with a custom endpoint every put is preceded by a HEAD, until the store has once been seen
//! to refuse: a name that is taken is then answered as such anywhere. What remains on the degraded kind: of two writers
//! of one name *at one moment* both are told that they created it, and the later content stays. Repository format 1
//! can bear that: names are unique, or carry the digest of what they hold. [`Store::may_overwrite`] says whether
//! this is so, [`S3Store::probe_conditional_puts`] finds it out.
//!
//! **Versions and locks.** In a bucket that keeps versions the oldest one of each name is the object (`versions.rs`);
//! objects may be put under a lock (`lock.rs`).
//!
//! **Integrity.** The SHA-256 of every body is part of the request's signature, so a store refuses what was damaged on
//! the way; AWS also keeps a CRC-32C. What is read is checked for length here and for content by the reader.
//!
//! **Time.** Connecting, waiting for an answer, a body that stands still and a body that crawls each have a limit
//! ([`Timeouts`]); failures within seconds are repeated twice, anything else is for the layers above.

mod address;
mod body;
mod call;
mod client;
mod failure;
mod get;
mod list;
mod lock;
mod options;
mod protection;
mod put;
mod versions;

use std::ops::Range;
use std::sync::atomic::{AtomicU8, Ordering};

use async_trait::async_trait;
use aws_sdk_s3::Client;
use bytes::Bytes;
use tokio::sync::OnceCell;

use self::address::Address;
use self::failure::Failure;
use super::{
    Body, LIST_PAGE_OBJECTS, ListPage, Lock, LockTerms, ObjectInfo, Protection, PutOutcome, RequestCounts, Store, StoreError,
    StoreResult,
};
use crate::base::Timestamp;

pub use options::{Credentials, S3Options, ServerSideEncryption, Timeouts};

/// Below the prefix, where [`S3Store::probe_conditional_puts`] writes.
const PROBES: &str = "probe/conditional";

/// A store in a bucket. Nothing is asked of it, and no credentials are looked for, before the first call.
pub struct S3Store {
    address: Address,
    options: S3Options,
    client: OnceCell<Client>,
    counts: RequestCounts,
    conditions: AtomicU8,
    remembered: versions::Remembered,
}

/// What is known of a store's conditional puts.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Conditions {
    Unknown,
    Honoured,
    Ignored,
}

/// Says what is wrong with the address of a bucket, and what to write instead.
///
/// # Errors
/// Message and hint.
pub fn check_url(url: &str) -> Result<(), (String, String)> {
    Address::parse(url).map(|_| ())
}

impl S3Store {
    /// The store at `s3://bucket/prefix`.
    ///
    /// # Errors
    /// What is wrong with the address, and what to write instead.
    pub fn new(url: &str, options: S3Options) -> Result<Self, (String, String)> {
        let known = if options.endpoint.is_none() { Conditions::Honoured } else { Conditions::Unknown };
        Ok(Self {
            address: Address::parse(url)?,
            options,
            client: OnceCell::new(),
            counts: RequestCounts::default(),
            conditions: AtomicU8::new(known as u8),
            remembered: versions::Remembered::default(),
        })
    }

    /// The requests sent so far.
    pub fn requests(&self) -> &RequestCounts {
        &self.counts
    }

    /// Finds out whether the store honours conditional puts, by writing one object twice and removing it where that is
    /// allowed.
    ///
    /// # Errors
    /// When it cannot be written to.
    pub async fn probe_conditional_puts(&self) -> StoreResult<bool> {
        let key = format!("{PROBES}-{:016x}", rand::random::<u64>());
        let first = self.put_blindly(&key, "first").await?;
        let second = self.put_blindly(&key, "second").await;
        match self.delete(&key).await {
            // These credentials may not, and need not: six bytes are left.
            Ok(()) | Err(StoreError::Permanent { .. }) => {}
            Err(error) => return Err(error),
        }
        let honoured = first && !second?;
        let known = if honoured { Conditions::Honoured } else { Conditions::Ignored };
        self.conditions.store(known as u8, Ordering::Relaxed);
        Ok(honoured)
    }

    fn saw_condition_honoured(&self) {
        self.conditions.store(Conditions::Honoured as u8, Ordering::Relaxed);
    }

    fn is_aws(&self) -> bool {
        self.options.endpoint.is_none()
    }

    async fn client(&self) -> Result<&Client, Failure> {
        self.client.get_or_try_init(|| client::connect(&self.options)).await
    }
}

#[async_trait]
impl Store for S3Store {
    fn url(&self) -> &str {
        &self.address.url
    }

    async fn put_if_absent(&self, key: &str, body: Body) -> StoreResult<PutOutcome> {
        self.put_new(key, body).await
    }

    async fn get(&self, key: &str) -> StoreResult<Bytes> {
        self.get_whole(key).await
    }

    async fn get_versioned(&self, key: &str) -> StoreResult<(Bytes, String)> {
        self.read_versioned(key).await
    }

    async fn replace_if(&self, key: &str, content: Bytes, expected: Option<&str>) -> StoreResult<Option<String>> {
        self.replace(key, content, expected).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> StoreResult<Bytes> {
        self.get_part(key, range).await
    }

    async fn head(&self, key: &str) -> StoreResult<ObjectInfo> {
        self.look_up(key).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>) -> StoreResult<ListPage> {
        self.list_some(prefix, start_after, LIST_PAGE_OBJECTS).await
    }

    async fn list_all(&self, prefix: &str, start_after: Option<&str>) -> StoreResult<Vec<ObjectInfo>> {
        Ok(self.list_some(prefix, start_after, usize::MAX).await?.objects)
    }

    async fn list_dirs(&self, prefix: &str) -> StoreResult<Vec<String>> {
        self.list_directories(prefix).await
    }

    /// True until the store was seen to refuse a put, for any but AWS.
    fn may_overwrite(&self) -> bool {
        self.conditions.load(Ordering::Relaxed) != Conditions::Honoured as u8
    }

    async fn honours_conditions(&self) -> StoreResult<bool> {
        match self.conditions.load(Ordering::Relaxed) {
            known if known == Conditions::Unknown as u8 => self.probe_conditional_puts().await,
            known => Ok(known == Conditions::Honoured as u8),
        }
    }

    async fn delete(&self, key: &str) -> StoreResult<()> {
        if self.keeps_versions() {
            return self.delete_all_versions(key).await;
        }
        self.delete_plainly(key).await
    }

    fn lock_terms(&self) -> Option<LockTerms> {
        self.options.lock
    }

    fn may_lock(&self) -> bool {
        self.keeps_versions()
    }

    async fn lock_of(&self, key: &str) -> StoreResult<Option<Lock>> {
        if self.keeps_versions() { self.lock_on(key).await } else { Ok(None) }
    }

    async fn extend_lock(&self, key: &str, until: Timestamp) -> StoreResult<()> {
        match self.options.lock {
            Some(terms) => self.lock_longer(key, terms, until).await,
            None => Ok(()),
        }
    }

    async fn probe_protection(&self, prefix: &str) -> StoreResult<Protection> {
        self.try_protection(prefix).await
    }
}
