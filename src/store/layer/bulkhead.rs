//! Permits for concurrent calls, for the log and for everything else apart: a backup can never starve archiving.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::around::{Answer, Around, Attempt, Call};
use crate::store::{Store, StoreError, StoreResult};

/// Who makes a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Archiving the log, and fetching it for a recovery.
    Log,
    /// Backups, copies, restores, verifications.
    Bulk,
}

/// The permits of one repository.
#[derive(Debug)]
pub struct Bulkhead {
    log: Arc<Semaphore>,
    bulk: Arc<Semaphore>,
}

impl Bulkhead {
    /// At most so many calls of each stream at one time; at least one.
    pub fn new(log_calls: usize, bulk_calls: usize) -> Self {
        let permits = |calls: usize| Arc::new(Semaphore::new(calls.clamp(1, Semaphore::MAX_PERMITS)));
        Self { log: permits(log_calls), bulk: permits(bulk_calls) }
    }

    /// The layer for one stream's calls.
    pub(super) fn of(&self, stream: Stream) -> Permits {
        Permits(Arc::clone(match stream {
            Stream::Log => &self.log,
            Stream::Bulk => &self.bulk,
        }))
    }
}

/// The layer: one stream's permits.
pub(super) struct Permits(Arc<Semaphore>);

impl Around for Permits {
    async fn around<'a, T: Answer, F>(&'a self, _: &'a dyn Store, _: Call<'a>, attempt: F) -> StoreResult<T>
    where
        F: Fn() -> Attempt<'a, T> + Send + Sync + 'a,
    {
        let _permit = self.0.acquire().await.map_err(|error| StoreError::Permanent {
            message: "the permits of this repository are gone: this is a bug".to_owned(),
            source: Some(error.into()),
        })?;
        attempt().await
    }
}
