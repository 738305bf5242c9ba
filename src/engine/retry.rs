//! Trying again what may succeed later.

use std::time::{Duration, Instant};

use crate::store::{StoreError, StoreResult};

/// First pause between two attempts.
const BASE: Duration = Duration::from_secs(1);

/// How long a verb tries before it gives up.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Time from the first attempt to the last.
    pub limit: Duration,
    /// Longest pause between two attempts.
    pub longest_pause: Duration,
}

impl Patience {
    /// For a verb that somebody or some server waits for.
    pub const SHORT: Patience = Patience { limit: Duration::from_secs(20), longest_pause: Duration::from_secs(5) };
    /// For a verb that runs for minutes or hours anyway.
    pub const LONG: Patience = Patience { limit: Duration::from_secs(300), longest_pause: Duration::from_secs(60) };
}

/// Calls `attempt` until it succeeds, fails for good, or `patience` ends: exponential pauses with ±25 % of chance.
///
/// # Errors
/// The last attempt's.
pub async fn retrying<T, F>(patience: Patience, mut attempt: impl FnMut() -> F) -> StoreResult<T>
where
    F: Future<Output = StoreResult<T>>,
{
    let began = Instant::now();
    let mut pause = BASE;
    loop {
        match attempt().await {
            Err(error @ StoreError::Retryable { .. }) => {
                let jittered = pause.mul_f64(rand::random_range(0.75..1.25));
                if began.elapsed() + jittered > patience.limit {
                    return Err(error);
                }
                tokio::time::sleep(jittered).await;
                pause = (pause * 2).min(patience.longest_pause);
            }
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retryable() -> StoreError {
        StoreError::Retryable { message: "busy".into(), source: None }
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_may_succeed_is_tried_again() {
        let mut calls = 0;
        let outcome = retrying(Patience::SHORT, || {
            calls += 1;
            let now = calls;
            async move { if now < 3 { Err(retryable()) } else { Ok(now) } }
        })
        .await;
        assert_eq!(outcome.unwrap(), 3);
        let mut calls = 0;
        let outcome: StoreResult<()> = retrying(Patience::SHORT, || {
            calls += 1;
            async { Err(StoreError::NotFound { key: "x".into() }) }
        })
        .await;
        assert!(outcome.is_err() && calls == 1);
    }

    #[tokio::test]
    async fn patience_ends() {
        let patience = Patience { limit: Duration::from_millis(1), longest_pause: BASE };
        let outcome: StoreResult<()> = retrying(patience, || async { Err(retryable()) }).await;
        assert!(outcome.is_err());
    }
}
