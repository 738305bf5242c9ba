//! Several stores that hold the same objects: what one cannot give is read from the next.
//!
//! For readers that know the digest of what they read: nothing here compares. The store that gave something last is asked
//! first. What is listed, and whatever writes, concerns the first store alone.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use super::{Body, ListPage, ObjectInfo, PutOutcome, Store, StoreError, StoreResult};

/// Told of the store that failed, the error, and the store that is asked first from now on.
pub type Told = Box<dyn Fn(&str, &StoreError, &str) + Send + Sync>;

/// See the module's header.
pub struct Fallback {
    stores: Vec<Arc<dyn Store>>,
    /// Which one gave something last.
    preferred: AtomicUsize,
    told: Told,
}

impl Fallback {
    /// `first`, and `others` in this order when it fails; `told` hears of each change.
    pub fn new(first: Arc<dyn Store>, others: Vec<Arc<dyn Store>>, told: Told) -> Self {
        let stores = std::iter::once(first).chain(others).collect();
        Self { stores, preferred: AtomicUsize::new(0), told }
    }

    fn first(&self) -> &dyn Store {
        self.stores[0].as_ref()
    }

    /// Asks one store after the other. What fails everywhere fails as in the first, and may succeed later when it may in any.
    async fn ask<'a, T, F>(&'a self, call: impl Fn(&'a dyn Store) -> F) -> StoreResult<T>
    where
        F: Future<Output = StoreResult<T>>,
    {
        let preferred = self.preferred.load(Ordering::Relaxed);
        let mut failures: Vec<(usize, StoreError)> = Vec::new();
        for index in (preferred..self.stores.len()).chain(0..preferred) {
            match call(self.stores[index].as_ref()).await {
                Ok(answer) => {
                    // An object that only another store has says nothing against the one that was asked before.
                    let outage = failures.iter().find(|(failed, error)| *failed == preferred && !error.is_not_found());
                    if let Some((failed, error)) = outage
                        && self.preferred.swap(index, Ordering::Relaxed) != index
                    {
                        (self.told)(self.stores[*failed].url(), error, self.stores[index].url());
                    }
                    return Ok(answer);
                }
                Err(error) => failures.push((index, error)),
            }
        }
        failures.sort_by_key(|(index, error)| (!error.is_retryable(), *index));
        let (_, error) = failures.into_iter().next().unwrap_or_else(|| (0, nothing_asked()));
        Err(error)
    }
}

fn nothing_asked() -> StoreError {
    StoreError::Permanent { message: "no store was asked".to_owned(), source: None }
}

#[async_trait]
impl Store for Fallback {
    fn url(&self) -> &str {
        self.first().url()
    }

    async fn put_if_absent(&self, key: &str, body: Body) -> StoreResult<PutOutcome> {
        self.first().put_if_absent(key, body).await
    }

    async fn replace_if(&self, key: &str, content: Bytes, expected: Option<&str>) -> StoreResult<Option<String>> {
        self.first().replace_if(key, content, expected).await
    }

    async fn get(&self, key: &str) -> StoreResult<Bytes> {
        self.ask(|store| store.get(key)).await
    }

    async fn get_versioned(&self, key: &str) -> StoreResult<(Bytes, String)> {
        self.first().get_versioned(key).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> StoreResult<Bytes> {
        self.ask(|store| store.get_range(key, range.clone())).await
    }

    async fn head(&self, key: &str) -> StoreResult<ObjectInfo> {
        self.ask(|store| store.head(key)).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>) -> StoreResult<ListPage> {
        self.first().list(prefix, start_after).await
    }

    async fn list_all(&self, prefix: &str, start_after: Option<&str>) -> StoreResult<Vec<ObjectInfo>> {
        self.first().list_all(prefix, start_after).await
    }

    async fn list_dirs(&self, prefix: &str) -> StoreResult<Vec<String>> {
        self.first().list_dirs(prefix).await
    }

    fn may_overwrite(&self) -> bool {
        self.first().may_overwrite()
    }

    async fn honours_conditions(&self) -> StoreResult<bool> {
        self.first().honours_conditions().await
    }

    async fn delete(&self, key: &str) -> StoreResult<()> {
        self.first().delete(key).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::store::faulty::{Fault, FaultyStore};
    use crate::store::memory::MemoryStore;

    async fn store_with(keys: &[&str]) -> Arc<dyn Store> {
        let store = MemoryStore::new();
        for key in keys {
            store.put_if_absent(key, key.as_bytes().to_vec().into()).await.unwrap();
        }
        Arc::new(store)
    }

    /// Away from call `call` on.
    fn away(store: Arc<dyn Store>, call: usize) -> Arc<dyn Store> {
        Arc::new(FaultyStore::failing(store, call, Fault::Outage, 0))
    }

    #[tokio::test]
    async fn what_one_store_cannot_give_the_next_does() {
        let (changes, keys) = (Arc::new(Mutex::new(0)), ["a", "b", "c"]);
        let told = Arc::clone(&changes);
        let stores = [away(store_with(&keys).await, 2), store_with(&keys[..2]).await, store_with(&keys).await];
        let [first, second, third] = stores;
        let all = Fallback::new(first, vec![second, third], Box::new(move |_, _, _| *told.lock().unwrap() += 1));
        for key in ["a", "b", "c", "a", "b"] {
            assert_eq!(all.get(key).await.unwrap(), key);
            assert_eq!(all.get_range(key, 0..1).await.unwrap(), key);
            assert_eq!(all.head(key).await.unwrap().size_bytes, 1);
        }
        assert_eq!(*changes.lock().unwrap(), 1, "told once of one outage, and never of an object that one lacks");
        assert!(all.get("d").await.unwrap_err().is_retryable(), "the store that is away may have it");
    }

    #[tokio::test]
    async fn what_no_store_has_is_not_there_and_writing_concerns_the_first() {
        let (first, second) = (store_with(&[]).await, store_with(&["b"]).await);
        let all = Fallback::new(Arc::clone(&first), vec![Arc::clone(&second)], Box::new(|_, _, _| {}));
        assert!(all.get("d").await.unwrap_err().is_not_found());
        assert_eq!(all.put_if_absent("b", b"x".to_vec().into()).await.unwrap(), PutOutcome::Created);
        assert!(first.get("b").await.is_ok() && second.get("b").await.unwrap() == "b");
        assert_eq!(all.list("", None).await.unwrap().objects.len(), 1);
    }
}
