//! A store that hides one object, as if it had been lost: for a self-test that must notice. Nothing can be written through it.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Body, ListPage, ObjectInfo, PutOutcome, Store, StoreError, StoreResult};

/// See the module's header.
pub struct Hiding {
    store: Arc<dyn Store>,
    hidden: String,
}

impl Hiding {
    /// `store` without the object `hidden`.
    pub fn new(store: Arc<dyn Store>, hidden: &str) -> Self {
        Self { store, hidden: hidden.to_owned() }
    }

    fn look(&self, key: &str) -> StoreResult<()> {
        if key == self.hidden { Err(StoreError::NotFound { key: key.to_owned() }) } else { Ok(()) }
    }

    fn refuse<T>(&self, key: &str) -> StoreResult<T> {
        Err(StoreError::Permanent { message: format!("{key} must not be written in a self-test"), source: None })
    }
}

#[async_trait]
impl Store for Hiding {
    fn url(&self) -> &str {
        self.store.url()
    }

    async fn put_if_absent(&self, key: &str, _body: Body) -> StoreResult<PutOutcome> {
        self.refuse(key)
    }

    async fn replace_if(&self, key: &str, _content: Bytes, _expected: Option<&str>) -> StoreResult<Option<String>> {
        self.refuse(key)
    }

    async fn get(&self, key: &str) -> StoreResult<Bytes> {
        self.look(key)?;
        self.store.get(key).await
    }

    async fn get_versioned(&self, key: &str) -> StoreResult<(Bytes, String)> {
        self.look(key)?;
        self.store.get_versioned(key).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> StoreResult<Bytes> {
        self.look(key)?;
        self.store.get_range(key, range).await
    }

    async fn head(&self, key: &str) -> StoreResult<ObjectInfo> {
        self.look(key)?;
        self.store.head(key).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>) -> StoreResult<ListPage> {
        let mut page = self.store.list(prefix, start_after).await?;
        page.objects.retain(|object| object.key != self.hidden);
        Ok(page)
    }

    async fn list_all(&self, prefix: &str, start_after: Option<&str>) -> StoreResult<Vec<ObjectInfo>> {
        let mut objects = self.store.list_all(prefix, start_after).await?;
        objects.retain(|object| object.key != self.hidden);
        Ok(objects)
    }

    async fn list_dirs(&self, prefix: &str) -> StoreResult<Vec<String>> {
        self.store.list_dirs(prefix).await
    }

    async fn delete(&self, key: &str) -> StoreResult<()> {
        self.refuse(key)
    }
}
