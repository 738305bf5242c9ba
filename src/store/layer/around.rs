//! What all layers share: the one place where a layer is a store.
//!
//! A layer says what happens around a call ([`Around`]); [`Layered`] makes a store of it, method by method.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::base::Timestamp;
use crate::store::{
    Body, ListPage, Lock, LockTerms, ObjectInfo, Protection, PutOutcome, RequestKind, Store, StoreResult, is_directory,
    list_by_page,
};

/// How much a call that lists everything at once may move: as much as a large object.
const WHOLE_LISTING_BYTES: u64 = 64 << 20;

/// One call, as a layer sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'a> {
    pub kind: RequestKind,
    /// The object's key, or the prefix that is listed.
    pub key: &'a str,
    /// Bytes of the body that is sent.
    pub sent_bytes: u64,
    /// Bytes that the answer has at most; none when the call does not say, as when a whole object is read.
    pub wanted_bytes: Option<u64>,
    /// Whether to make it twice is the same as to make it once.
    pub repeatable: bool,
}

/// What a call answers.
pub(super) trait Answer: Send + 'static {
    /// Bytes of a body in it.
    fn received_bytes(&self) -> u64 {
        0
    }
}

impl Answer for Bytes {
    fn received_bytes(&self) -> u64 {
        self.len() as u64
    }
}

impl Answer for (Bytes, String) {
    fn received_bytes(&self) -> u64 {
        self.0.len() as u64
    }
}

impl Answer for PutOutcome {}
impl Answer for Option<String> {}
impl Answer for ObjectInfo {}
impl Answer for ListPage {}
impl Answer for Vec<ObjectInfo> {}
impl Answer for Vec<String> {}
impl Answer for () {}
impl Answer for Option<Lock> {}

/// One attempt at a call of the store below.
pub(super) type Attempt<'a, T> = Pin<Box<dyn Future<Output = StoreResult<T>> + Send + 'a>>;

/// What a layer does around the calls of the store below it.
pub(super) trait Around: Send + Sync {
    /// Makes `call` by `attempt`: once, several times, later, or not at all.
    fn around<'a, T: Answer, F>(
        &'a self,
        below: &'a dyn Store,
        call: Call<'a>,
        attempt: F,
    ) -> impl Future<Output = StoreResult<T>> + Send
    where
        F: Fn() -> Attempt<'a, T> + Send + Sync + 'a;

    /// As [`Around::around`], for a put: its outcome may need a second look.
    fn put<'a>(
        &'a self,
        below: &'a dyn Store,
        call: Call<'a>,
        body: &'a Body,
    ) -> impl Future<Output = StoreResult<PutOutcome>> + Send {
        self.around(below, call, move || below.put_if_absent(call.key, body.clone()))
    }
}

impl<A: Around> Around for Arc<A> {
    fn around<'a, T: Answer, F>(
        &'a self,
        below: &'a dyn Store,
        call: Call<'a>,
        attempt: F,
    ) -> impl Future<Output = StoreResult<T>> + Send
    where
        F: Fn() -> Attempt<'a, T> + Send + Sync + 'a,
    {
        A::around(self, below, call, attempt)
    }
}

/// A store inside one layer.
pub(super) struct Layered<A> {
    below: Arc<dyn Store>,
    layer: A,
    lists_at_once: bool,
}

impl<A> Layered<A> {
    pub fn new(below: Arc<dyn Store>, layer: A) -> Self {
        // Elsewhere a page is a request: retried, timed and counted by itself.
        let lists_at_once = is_directory(below.as_ref());
        Self { below, layer, lists_at_once }
    }
}

fn body_bytes(body: &Body) -> u64 {
    match body {
        Body::Bytes(bytes) => bytes.len() as u64,
        // The store will say what is wrong with the file.
        Body::File(path) => std::fs::metadata(path).map_or(0, |metadata| metadata.len()),
    }
}

#[async_trait]
impl<A: Around> Store for Layered<A> {
    fn url(&self) -> &str {
        self.below.url()
    }

    async fn put_if_absent(&self, key: &str, body: Body) -> StoreResult<PutOutcome> {
        let call = Call { kind: RequestKind::Put, key, sent_bytes: body_bytes(&body), wanted_bytes: Some(0), repeatable: true };
        self.layer.put(self.below.as_ref(), call, &body).await
    }

    async fn replace_if(&self, key: &str, content: Bytes, expected: Option<&str>) -> StoreResult<Option<String>> {
        let below = self.below.as_ref();
        let (kind, sent_bytes) = (RequestKind::Put, content.len() as u64);
        // After an answer that was lost the condition would fail because of the first attempt.
        let call = Call { kind, key, sent_bytes, wanted_bytes: Some(0), repeatable: false };
        self.layer.around(below, call, move || below.replace_if(key, content.clone(), expected)).await
    }

    async fn get_versioned(&self, key: &str) -> StoreResult<(Bytes, String)> {
        let below = self.below.as_ref();
        let call = Call { kind: RequestKind::Get, key, sent_bytes: 0, wanted_bytes: None, repeatable: true };
        self.layer.around(below, call, move || below.get_versioned(key)).await
    }

    async fn get(&self, key: &str) -> StoreResult<Bytes> {
        let (below, call) =
            (self.below.as_ref(), Call { kind: RequestKind::Get, key, sent_bytes: 0, wanted_bytes: None, repeatable: true });
        self.layer.around(below, call, move || below.get(key)).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> StoreResult<Bytes> {
        let wanted_bytes = Some(range.end.saturating_sub(range.start));
        let (below, call) =
            (self.below.as_ref(), Call { kind: RequestKind::Get, key, sent_bytes: 0, wanted_bytes, repeatable: true });
        self.layer.around(below, call, move || below.get_range(key, range.clone())).await
    }

    async fn head(&self, key: &str) -> StoreResult<ObjectInfo> {
        let (below, call) =
            (self.below.as_ref(), Call { kind: RequestKind::Head, key, sent_bytes: 0, wanted_bytes: Some(0), repeatable: true });
        self.layer.around(below, call, move || below.head(key)).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>) -> StoreResult<ListPage> {
        let below = self.below.as_ref();
        let call = Call { kind: RequestKind::List, key: prefix, sent_bytes: 0, wanted_bytes: Some(0), repeatable: true };
        self.layer.around(below, call, move || below.list(prefix, start_after)).await
    }

    async fn list_all(&self, prefix: &str, start_after: Option<&str>) -> StoreResult<Vec<ObjectInfo>> {
        if !self.lists_at_once {
            return list_by_page(self, prefix, start_after).await;
        }
        let below = self.below.as_ref();
        let wanted_bytes = Some(WHOLE_LISTING_BYTES);
        let call = Call { kind: RequestKind::List, key: prefix, sent_bytes: 0, wanted_bytes, repeatable: true };
        self.layer.around(below, call, move || below.list_all(prefix, start_after)).await
    }

    async fn list_dirs(&self, prefix: &str) -> StoreResult<Vec<String>> {
        let below = self.below.as_ref();
        let call = Call {
            kind: RequestKind::List,
            key: prefix,
            sent_bytes: 0,
            wanted_bytes: Some(WHOLE_LISTING_BYTES),
            repeatable: true,
        };
        self.layer.around(below, call, move || below.list_dirs(prefix)).await
    }

    fn may_overwrite(&self) -> bool {
        self.below.may_overwrite()
    }

    async fn honours_conditions(&self) -> StoreResult<bool> {
        self.below.honours_conditions().await
    }

    async fn delete(&self, key: &str) -> StoreResult<()> {
        let call = Call { kind: RequestKind::Delete, key, sent_bytes: 0, wanted_bytes: Some(0), repeatable: true };
        let below = self.below.as_ref();
        self.layer.around(below, call, move || below.delete(key)).await
    }

    fn lock_terms(&self) -> Option<LockTerms> {
        self.below.lock_terms()
    }

    fn may_lock(&self) -> bool {
        self.below.may_lock()
    }

    async fn lock_of(&self, key: &str) -> StoreResult<Option<Lock>> {
        let call = Call { kind: RequestKind::Head, key, sent_bytes: 0, wanted_bytes: Some(0), repeatable: true };
        let below = self.below.as_ref();
        self.layer.around(below, call, move || below.lock_of(key)).await
    }

    async fn extend_lock(&self, key: &str, until: Timestamp) -> StoreResult<()> {
        let call = Call { kind: RequestKind::Put, key, sent_bytes: 0, wanted_bytes: Some(0), repeatable: true };
        let below = self.below.as_ref();
        self.layer.around(below, call, move || below.extend_lock(key, until)).await
    }

    async fn probe_protection(&self, prefix: &str) -> StoreResult<Protection> {
        self.below.probe_protection(prefix).await
    }
}
