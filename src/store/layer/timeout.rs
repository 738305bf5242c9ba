//! The time that one attempt may take: a fixed part, and more for the bytes it moves at a floor rate.
//!
//! A call that hangs ends as a retryable error. What it was doing is given up, not undone: a put may still happen.

use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::around::{Answer, Around, Attempt, Call};
use crate::base::units::format_duration;
use crate::store::{RequestKind, Store, StoreError, StoreResult};

/// How long one attempt may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Whatever it does.
    pub call: Duration,
    /// Slowest acceptable rate, in bytes a second: so much longer may it take for the bytes it moves.
    pub floor_rate_bytes: u64,
}

/// Slow enough for two packs at a time through a line of one Mbit/s.
const FLOOR_RATE_BYTES: u64 = 64 << 10;

impl Timeouts {
    /// Beside [`super::retry::Patience::SHORT`].
    pub const SHORT: Self = Self { call: Duration::from_secs(10), floor_rate_bytes: FLOOR_RATE_BYTES };
    /// Beside [`super::retry::Patience::LONG`].
    pub const LONG: Self = Self { call: Duration::from_secs(30), floor_rate_bytes: FLOOR_RATE_BYTES };

    /// The longest that a call which moves `bytes` may take.
    pub fn of_bytes(&self, bytes: u64) -> Duration {
        self.call + Duration::from_secs_f64(bytes as f64 / self.floor_rate_bytes.max(1) as f64)
    }
}

impl Around for Timeouts {
    async fn around<'a, T: Answer, F>(&'a self, below: &'a dyn Store, call: Call<'a>, attempt: F) -> StoreResult<T>
    where
        F: Fn() -> Attempt<'a, T> + Send + Sync + 'a,
    {
        let began = Instant::now();
        let mut allowed = self.of_bytes(call.sent_bytes + call.wanted_bytes.unwrap_or(0));
        let mut attempt = attempt();
        if let Ok(outcome) = timeout(allowed, &mut attempt).await {
            return outcome;
        }
        if call.wanted_bytes.is_none() {
            // The call does not say how much it moves; the object does.
            let size = tokio::select! {
                biased;
                outcome = &mut attempt => return outcome,
                info = timeout(self.call, below.head(call.key)) => info.ok().and_then(Result::ok).map_or(0, |info| info.size_bytes),
            };
            allowed = self.of_bytes(size);
            if let Ok(outcome) = timeout_at(began + allowed, attempt).await {
                return outcome;
            }
        }
        Err(StoreError::Retryable {
            message: format!("{} did not end within {}", described(&call), format_duration(allowed)),
            source: None,
        })
    }
}

fn described(call: &Call<'_>) -> String {
    let Call { kind, key, .. } = call;
    match kind {
        RequestKind::Put => format!("writing {key}"),
        RequestKind::Get => format!("reading {key}"),
        RequestKind::Head => format!("looking at {key}"),
        RequestKind::List if key.is_empty() => "listing the repository".to_owned(),
        RequestKind::List => format!("listing {key}"),
        RequestKind::Delete => format!("removing {key}"),
    }
}
