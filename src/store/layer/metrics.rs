//! Requests counted and timed, by operation.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::around::{Answer, Around, Attempt, Call};
use crate::store::{RequestCounts, RequestKind, Store, StoreResult};

/// Running counters; also the layer that counts.
#[derive(Debug, Default)]
pub struct Metrics {
    requests: RequestCounts,
    counters: [Counters; RequestKind::ALL.len()],
}

#[derive(Debug, Default)]
struct Counters {
    retries: AtomicU64,
    failures: AtomicU64,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    micros: AtomicU64,
}

/// What was asked of a repository; `requests` in the documents `backup` and `restore`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Requests {
    /// Requests made, each attempt by itself.
    pub requests: u64,
    /// Those of them that repeated one that had failed.
    pub retries: u64,
    /// Those that failed; an object that is not there is an answer, not a failure.
    pub failures: u64,
    /// Bytes of objects sent by requests that succeeded.
    pub sent_bytes: u64,
    /// Bytes of objects received.
    pub received_bytes: u64,
    /// Seconds from request to answer, added up: more than the time that passed where several ran at a time.
    pub seconds: f64,
    /// The same by operation: `put`, `get`, `head`, `list`, `delete`; only those that were used.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub operations: BTreeMap<&'static str, Requests>,
}

impl Metrics {
    fn of(&self, kind: RequestKind) -> &Counters {
        &self.counters[kind as usize]
    }

    /// Notes that a failed request is made again.
    pub(super) fn retried(&self, kind: RequestKind) {
        self.of(kind).retries.fetch_add(1, Ordering::Relaxed);
    }

    fn note<T: Answer>(&self, call: &Call<'_>, outcome: &StoreResult<T>, took: Duration) {
        let counters = self.of(call.kind);
        let add = |counter: &AtomicU64, count: u64| counter.fetch_add(count, Ordering::Relaxed);
        add(&counters.micros, u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        match outcome {
            Ok(answer) => {
                add(&counters.sent_bytes, call.sent_bytes);
                add(&counters.received_bytes, answer.received_bytes());
            }
            Err(error) if error.is_not_found() => {}
            Err(_) => {
                add(&counters.failures, 1);
            }
        }
    }

    /// The counts so far.
    pub fn requests(&self) -> Requests {
        let mut total = Requests::default();
        for kind in RequestKind::ALL {
            let one = self.of(kind).requests(self.requests.of(kind));
            if one.requests == 0 {
                continue;
            }
            total.requests += one.requests;
            total.retries += one.retries;
            total.failures += one.failures;
            total.sent_bytes += one.sent_bytes;
            total.received_bytes += one.received_bytes;
            total.seconds += one.seconds;
            total.operations.insert(kind.as_str(), one);
        }
        total
    }
}

impl Counters {
    fn requests(&self, requests: u64) -> Requests {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Requests {
            requests,
            retries: value(&self.retries),
            failures: value(&self.failures),
            sent_bytes: value(&self.sent_bytes),
            received_bytes: value(&self.received_bytes),
            seconds: Duration::from_micros(value(&self.micros)).as_secs_f64(),
            operations: BTreeMap::new(),
        }
    }
}

impl Around for Metrics {
    async fn around<'a, T: Answer, F>(&'a self, _: &'a dyn Store, call: Call<'a>, attempt: F) -> StoreResult<T>
    where
        F: Fn() -> Attempt<'a, T> + Send + Sync + 'a,
    {
        // Counted at once: a call that is dropped was a request all the same.
        self.requests.add(call.kind);
        let began = Instant::now();
        let outcome = attempt().await;
        self.note(&call, &outcome, began.elapsed());
        outcome
    }
}
