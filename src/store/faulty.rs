//! Test support: a layer around any store that counts its calls and makes one of them fail.
//!
//! A test counts the N calls of a clean run, then fails call 0…N−1 in turn and looks at what is left.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{Body, ListPage, Lock, LockTerms, ObjectInfo, Protection, PutOutcome, Store, StoreError, StoreResult};
use crate::base::Timestamp;

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A retryable error, and nothing done.
    ErrorBefore,
    /// A retryable error although everything was done, as when an answer is lost.
    ErrorAfter,
    /// A get that returns fewer bytes than there are and says nothing.
    TruncatedBody,
    /// A get that returns the right number of bytes, one bit of them wrong.
    FlippedBit,
    /// A call that never returns.
    Stall,
    /// A retryable error for this call and all that follow.
    Outage,
}

/// What somebody else does meanwhile.
type Meanwhile = Box<dyn FnOnce() + Send>;

/// A store that fails at one call, chosen by its number.
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    plan: Option<(usize, Fault)>,
    meanwhile: Mutex<Option<(usize, Meanwhile)>>,
    seed: u64,
    calls: Mutex<Vec<String>>,
    fired: AtomicBool,
}

impl FaultyStore {
    /// A layer that only counts.
    pub fn counting(inner: Arc<dyn Store>) -> Self {
        Self {
            inner,
            plan: None,
            meanwhile: Mutex::new(None),
            seed: 0,
            calls: Mutex::new(Vec::new()),
            fired: AtomicBool::new(false),
        }
    }

    /// A layer that fails call number `call` (from 0) in the given way; `seed` chooses the byte or bit that is hit.
    pub fn failing(inner: Arc<dyn Store>, call: usize, fault: Fault, seed: u64) -> Self {
        Self { plan: Some((call, fault)), seed, ..Self::counting(inner) }
    }

    /// A layer that lets somebody else do something right before call number `call` (from 0).
    pub fn interrupted(inner: Arc<dyn Store>, call: usize, meanwhile: impl FnOnce() + Send + 'static) -> Self {
        Self { meanwhile: Mutex::new(Some((call, Box::new(meanwhile)))), ..Self::counting(inner) }
    }

    /// The calls so far, in order: `put_if_absent orders/…`.
    pub fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the fault has happened. A body fault on a call without a body, or with an empty one, never does.
    pub fn fired(&self) -> bool {
        self.fired.load(Ordering::SeqCst)
    }

    /// Counts a call; the fault that is to hit it, if any.
    fn count(&self, operation: &str, key: &str) -> Option<Fault> {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let number = calls.len();
        calls.push(format!("{operation} {key}"));
        let (planned, fault) = self.plan?;
        (number == planned || (fault == Fault::Outage && number > planned)).then_some(fault)
    }

    /// Does what somebody else does before the call that was counted last.
    fn let_happen(&self) {
        let counted = self.calls.lock().unwrap_or_else(PoisonError::into_inner).len();
        let due = self.meanwhile.lock().unwrap_or_else(PoisonError::into_inner).take_if(|(call, _)| *call < counted);
        if let Some((_, meanwhile)) = due {
            meanwhile();
            self.fired.store(true, Ordering::SeqCst);
        }
    }

    fn planted(&self, operation: &str, key: &str) -> StoreError {
        self.fired.store(true, Ordering::SeqCst);
        StoreError::Retryable { message: format!("planted fault at {operation} {key}"), source: None }
    }

    /// Runs a call with the fault that is to hit it; `spoil` damages its result.
    async fn call<T>(
        &self,
        operation: &str,
        key: &str,
        inner: impl Future<Output = StoreResult<T>> + Send,
        spoil: impl FnOnce(T, Fault) -> T + Send,
    ) -> StoreResult<T> {
        let fault = self.count(operation, key);
        self.let_happen();
        match fault {
            None => inner.await,
            Some(Fault::ErrorBefore | Fault::Outage) => Err(self.planted(operation, key)),
            Some(Fault::ErrorAfter) => {
                inner.await?;
                Err(self.planted(operation, key))
            }
            Some(Fault::Stall) => {
                self.fired.store(true, Ordering::SeqCst);
                std::future::pending().await
            }
            Some(fault @ (Fault::TruncatedBody | Fault::FlippedBit)) => Ok(spoil(inner.await?, fault)),
        }
    }

    fn spoil_body(&self, body: Bytes, fault: Fault) -> Bytes {
        if body.is_empty() {
            return body;
        }
        self.fired.store(true, Ordering::SeqCst);
        let hit = StdRng::seed_from_u64(self.seed).random_range(0..body.len());
        if fault == Fault::TruncatedBody {
            return body.slice(..hit);
        }
        let mut damaged = BytesMut::from(body);
        damaged[hit] ^= 1 << (self.seed % 8);
        damaged.freeze()
    }
}

fn unspoiled<T>(result: T, _: Fault) -> T {
    result
}

#[async_trait]
impl Store for FaultyStore {
    fn url(&self) -> &str {
        self.inner.url()
    }

    async fn put_if_absent(&self, key: &str, body: Body) -> StoreResult<PutOutcome> {
        self.call("put_if_absent", key, self.inner.put_if_absent(key, body), unspoiled).await
    }

    async fn replace_if(&self, key: &str, content: Bytes, expected: Option<&str>) -> StoreResult<Option<String>> {
        self.call("replace_if", key, self.inner.replace_if(key, content, expected), unspoiled).await
    }

    async fn get(&self, key: &str) -> StoreResult<Bytes> {
        self.call("get", key, self.inner.get(key), |body, fault| self.spoil_body(body, fault)).await
    }

    async fn get_versioned(&self, key: &str) -> StoreResult<(Bytes, String)> {
        let spoil = |(body, version): (Bytes, String), fault| (self.spoil_body(body, fault), version);
        self.call("get_versioned", key, self.inner.get_versioned(key), spoil).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> StoreResult<Bytes> {
        self.call("get_range", key, self.inner.get_range(key, range), |body, fault| self.spoil_body(body, fault)).await
    }

    async fn head(&self, key: &str) -> StoreResult<ObjectInfo> {
        self.call("head", key, self.inner.head(key), unspoiled).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>) -> StoreResult<ListPage> {
        self.call("list", prefix, self.inner.list(prefix, start_after), unspoiled).await
    }

    async fn list_dirs(&self, prefix: &str) -> StoreResult<Vec<String>> {
        self.call("list_dirs", prefix, self.inner.list_dirs(prefix), unspoiled).await
    }

    fn may_overwrite(&self) -> bool {
        self.inner.may_overwrite()
    }

    async fn honours_conditions(&self) -> StoreResult<bool> {
        self.inner.honours_conditions().await
    }

    async fn delete(&self, key: &str) -> StoreResult<()> {
        self.call("delete", key, self.inner.delete(key), unspoiled).await
    }

    fn lock_terms(&self) -> Option<LockTerms> {
        self.inner.lock_terms()
    }

    fn may_lock(&self) -> bool {
        self.inner.may_lock()
    }

    async fn lock_of(&self, key: &str) -> StoreResult<Option<Lock>> {
        self.call("lock_of", key, self.inner.lock_of(key), unspoiled).await
    }

    async fn extend_lock(&self, key: &str, until: Timestamp) -> StoreResult<()> {
        self.call("extend_lock", key, self.inner.extend_lock(key, until), unspoiled).await
    }

    async fn probe_protection(&self, prefix: &str) -> StoreResult<Protection> {
        self.inner.probe_protection(prefix).await
    }
}
