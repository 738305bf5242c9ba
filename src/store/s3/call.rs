//! One call to the store: attempts with limits in time, the failed ones repeated when they failed quickly.
//!
//! Only what fails within seconds is repeated here, where it costs a caller little: a connection that was reset, a
//! store that asks to come back. What takes longer is for layers above, which know how patient their caller is.

use std::time::Duration;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::S3Store;
use super::body::Progress;
use super::failure::{Failure, Kind};
use crate::store::RequestKind;

/// Attempts of one call.
pub(super) const ATTEMPTS: usize = 3;

/// A failure that took longer is not repeated here.
const QUICKLY: Duration = Duration::from_secs(5);

const FIRST_PAUSE: Duration = Duration::from_millis(100);

const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Counts the attempts of one call, and pauses between them.
pub(super) struct Attempts {
    left: usize,
    pause: Duration,
    began: Instant,
}

impl Attempts {
    pub(super) fn new() -> Self {
        Self { left: ATTEMPTS, pause: FIRST_PAUSE, began: Instant::now() }
    }

    /// Begins the next attempt.
    pub(super) fn begin(&mut self) {
        self.left -= 1;
        self.began = Instant::now();
    }

    /// Waits, and says `true`, when the attempt that just failed is worth another one.
    pub(super) async fn again(&mut self, failure: &Failure) -> bool {
        if failure.kind != Kind::Passing || self.left == 0 || self.began.elapsed() > QUICKLY {
            return false;
        }
        self.rest().await;
        true
    }

    /// A pause that grows from one to the next, ±25 % by chance.
    pub(super) async fn rest(&mut self) {
        sleep(self.pause.mul_f64(rand::random_range(0.75..1.25))).await;
        self.pause = (self.pause * 4).min(LONGEST_PAUSE);
    }
}

impl S3Store {
    /// Sends a request without a body, a few times at most. `request` is called once an attempt.
    pub(super) async fn call<T, E, F>(&self, kind: RequestKind, mut request: impl FnMut() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let mut attempts = Attempts::new();
        loop {
            attempts.begin();
            self.counts.add(kind);
            let limit = self.options.timeouts.answer;
            let failure = match timeout(limit, request()).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => Failure::of_sdk(error, &self.address),
                Err(_) => Failure::passing(format!("no answer within {} s", limit.as_secs_f32())),
            };
            if !attempts.again(&failure).await {
                return Err(failure);
            }
        }
    }

    /// Sends one request with a body, for as long as the body moves and the whole is not slower than any link is.
    pub(super) async fn upload<T, E>(
        &self,
        progress: &Progress,
        length_bytes: u64,
        request: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T, Failure>
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        self.counts.add(RequestKind::Put);
        let timeouts = &self.options.timeouts;
        let began = Instant::now();
        let last_moment = began + timeouts.whole(length_bytes) + timeouts.answer;
        tokio::pin!(request);
        loop {
            let deadline = progress.deadline(timeouts).min(last_moment);
            tokio::select! {
                answer = &mut request => return answer.map_err(|error| Failure::of_sdk(error, &self.address)),
                () = sleep_until(deadline) => {}
            }
            if Instant::now() >= last_moment {
                return Err(Failure::passing(format!("not sent within {} s", began.elapsed().as_secs())));
            }
            if progress.deadline(timeouts) <= Instant::now() {
                return Err(Failure::passing("the connection stalled while sending"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_quick_failures_that_may_pass_are_repeated_and_few_times() {
        let (passing, lasting) = (Failure::passing("busy"), Failure::lasting("denied", "allow it"));
        let mut attempts = Attempts::new();
        for expected in [true, true, false] {
            attempts.begin();
            assert_eq!(attempts.again(&passing).await, expected);
        }
        let mut attempts = Attempts::new();
        attempts.begin();
        assert!(!attempts.again(&lasting).await);
        let mut attempts = Attempts::new();
        attempts.begin();
        tokio::time::advance(QUICKLY * 2).await;
        assert!(!attempts.again(&passing).await);
    }
}
