//! Bytes a second, for a line that others need too: a token bucket over put bodies and what gets return.
//!
//! A body goes out in one piece, at the speed of the line, and whoever comes next waits until it is paid for; so one that
//! is larger than the bucket passes, and the average holds. The coarser the objects, the longer the bursts: a pack of
//! 32 MiB, a part of a restore of 4 MiB.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::around::{Answer, Around, Attempt, Call};
use crate::store::{RequestKind, Store, StoreResult};

/// What may be saved up while nobody moves anything, as time at the full rate.
const SAVED: f64 = 1.0;

/// The bucket; also the layer that draws from it.
#[derive(Debug)]
pub struct Bucket {
    rate_bytes: f64,
    level: Mutex<Level>,
}

#[derive(Debug)]
struct Level {
    /// Below zero: owed.
    bytes: f64,
    at: Instant,
}

impl Bucket {
    /// A bucket that fills with `rate_bytes` a second, at least one.
    pub fn new(rate_bytes: u64) -> Self {
        Self { rate_bytes: rate_bytes.max(1) as f64, level: Mutex::new(Level { bytes: 0.0, at: Instant::now() }) }
    }

    /// The level as it is now.
    fn level(&self) -> MutexGuard<'_, Level> {
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let filled = now.duration_since(level.at).as_secs_f64() * self.rate_bytes;
        level.bytes = (level.bytes + filled).min(self.rate_bytes * SAVED);
        level.at = now;
        level
    }

    /// Waits until nothing is owed, then takes `bytes`.
    async fn take(&self, bytes: u64) {
        loop {
            let owed = {
                let mut level = self.level();
                if level.bytes >= 0.0 {
                    level.bytes -= bytes as f64;
                    return;
                }
                -level.bytes
            };
            // A little more than is owed: the last byte must not be missed for a rounding error.
            tokio::time::sleep(Duration::from_secs_f64(owed / self.rate_bytes) + Duration::from_millis(1)).await;
        }
    }

    /// Corrects an amount that was `taken` to what was really moved.
    fn settle(&self, taken: u64, moved: u64) {
        self.level().bytes += taken as f64 - moved as f64;
    }
}

impl Around for Bucket {
    async fn around<'a, T: Answer, F>(&'a self, _: &'a dyn Store, call: Call<'a>, attempt: F) -> StoreResult<T>
    where
        F: Fn() -> Attempt<'a, T> + Send + Sync + 'a,
    {
        if call.kind != RequestKind::Put && call.kind != RequestKind::Get {
            return attempt().await;
        }
        let taken = call.sent_bytes + call.wanted_bytes.unwrap_or(0);
        self.take(taken).await;
        let outcome = attempt().await;
        // A put that failed may have moved everything.
        let received = outcome.as_ref().map_or(0, Answer::received_bytes);
        self.settle(taken, call.sent_bytes + received);
        outcome
    }
}
