//! Layers around a store: patience, and what keeps one user of a repository from harming another.
//!
//! [`layered`] is the one place where they are put together. From the caller to the store:
//!
//! | layer | what it does | why it stands there |
//! |---|---|---|
//! | [`retry`] | tries again what may succeed later | each attempt passes everything below anew, and a pause holds no permit |
//! | [`breaker`] | leaves a repository that keeps failing alone | counts attempts, not calls, and answers without waiting below |
//! | [`limit`] | paces bytes | time spent waiting is no time of the call |
//! | [`bulkhead`] | limits concurrent calls, for the log and for the rest apart | held for the call alone |
//! | [`metrics`] | counts and times requests | each attempt is one; waiting above is not measured |
//! | [`timeout`] | ends calls that hang | nearest to the store: what it allows is the store's time only |
//!
//! Times nest: a store's own timeouts (connect, no byte for a while) are shorter than those of [`timeout`], which without
//! bytes to move are at most half of the patience of the [`retry`] above; that patience begins with the first failure, so
//! that a call which failed by hanging is tried again too. A verb that must end earlier drops the call.
//!
//! Breaker and bulkhead belong to a process that serves several streams for days. A verb of minutes has neither: its own
//! calls are all of one stream, and to fail a backup of an hour at once because five calls failed within ten seconds is
//! worse than to wait.

mod around;
pub mod breaker;
pub mod bulkhead;
pub mod limit;
pub mod metrics;
pub mod retry;
pub mod timeout;

use std::sync::Arc;

use self::around::Layered;
use self::breaker::Breaker;
use self::bulkhead::{Bulkhead, Stream};
use self::limit::Bucket;
use self::metrics::Metrics;
use self::retry::{Patience, Retry};
use self::timeout::Timeouts;
use super::Store;
use super::fallback::{Fallback, Told};
use crate::base::Cancel;

/// Which layers a store gets, and what they share with other users of the same repository.
#[derive(Clone)]
pub struct LayerOptions {
    /// How long a call is tried.
    pub patience: Patience,
    /// How long one attempt may take.
    pub timeouts: Timeouts,
    /// Paces the bytes of everybody who has this bucket.
    pub limit: Option<Arc<Bucket>>,
    /// The repository's breaker, shared by all streams of a long-lived process.
    pub breaker: Option<Arc<Breaker>>,
    /// The repository's permits, shared likewise, and the stream these calls belong to.
    pub bulkhead: Option<(Arc<Bulkhead>, Stream)>,
    /// Where requests are counted.
    pub metrics: Arc<Metrics>,
    /// Ends the pauses between attempts.
    pub cancel: Cancel,
}

impl LayerOptions {
    /// Patience and timeouts alone.
    pub fn new(patience: Patience, timeouts: Timeouts) -> Self {
        Self { patience, timeouts, limit: None, breaker: None, bulkhead: None, metrics: Arc::default(), cancel: Cancel::new() }
    }

    /// For a verb that somebody or some server waits for.
    pub fn short() -> Self {
        Self::new(Patience::SHORT, Timeouts::SHORT)
    }

    /// For a verb that runs for minutes or hours anyway.
    pub fn long() -> Self {
        Self::new(Patience::LONG, Timeouts::LONG)
    }
}

/// `store` inside the layers that `options` name, in the order of this module's header.
pub fn layered(store: Arc<dyn Store>, options: &LayerOptions) -> Arc<dyn Store> {
    let mut store: Arc<dyn Store> = Arc::new(Layered::new(store, options.timeouts));
    store = Arc::new(Layered::new(store, Arc::clone(&options.metrics)));
    if let Some((bulkhead, stream)) = &options.bulkhead {
        store = Arc::new(Layered::new(store, bulkhead.of(*stream)));
    }
    if let Some(bucket) = &options.limit {
        store = Arc::new(Layered::new(store, Arc::clone(bucket)));
    }
    if let Some(breaker) = &options.breaker {
        store = Arc::new(Layered::new(store, Arc::clone(breaker)));
    }
    Arc::new(Layered::new(store, Retry::new(options.patience, Arc::clone(&options.metrics), options.cancel.clone())))
}

/// Several stores that hold the same objects, the first with `options` whole; a read that fails is made of the next soon,
/// and patience begins when none of them could give it.
pub fn any_of(first: (Arc<dyn Store>, LayerOptions), others: Vec<(Arc<dyn Store>, LayerOptions)>, told: Told) -> Arc<dyn Store> {
    let (patience, metrics, cancel) = (first.1.patience, Arc::clone(&first.1.metrics), first.1.cancel.clone());
    let hasty = |(store, options)| layered(store, &LayerOptions { patience: Patience::BEFORE_THE_NEXT, ..options });
    let fallback = Fallback::new(hasty(first), others.into_iter().map(hasty).collect(), told);
    Arc::new(Layered::new(Arc::new(fallback), Retry::new(patience.also_unanswered(), metrics, cancel)))
}

#[cfg(test)]
mod tests;
