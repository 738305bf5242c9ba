//! A repository that keeps failing is left alone for a while: calls fail at once, and it can recover.
//!
//! For a process that lives long and serves several streams (the header of [`super`] says why only there): one breaker a
//! repository, shared by all of them. It opens after 5 failures within 10 s and lets one call through 30 s later; that
//! one's outcome closes it or opens it for another 30 s. Only what may pass counts as a failure: a store that says no,
//! or that there is no such object, has answered.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::around::{Answer, Around, Attempt, Call};
use crate::base::Timestamp;
use crate::store::{Store, StoreError, StoreResult};

/// So many failures …
const FAILURES: usize = 5;
/// … within this time open the breaker …
const WINDOW: Duration = Duration::from_secs(10);
/// … for this long.
const REST: Duration = Duration::from_secs(30);

/// The breaker of one repository; also the layer.
#[derive(Debug, Default)]
pub struct Breaker {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The latest failures, oldest first.
    failures: VecDeque<Instant>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    since: Timestamp,
    /// The failure that opened it.
    why: String,
    /// When the next trial may be made.
    trial_at: Instant,
    /// Whether one is being made.
    trying: bool,
}

impl Breaker {
    /// A closed breaker.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Consistent after every statement.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Since when and why the repository is left alone; none while the breaker is closed.
    pub fn open_since(&self) -> Option<(Timestamp, String)> {
        self.state().open.as_ref().map(|open| (open.since, open.why.clone()))
    }

    /// Leave to make a call: none when the breaker is closed, else that for the one trial.
    ///
    /// # Errors
    /// Retryable while the breaker is open and it is not time for a trial, or another call is it.
    fn enter(&self, url: &str) -> StoreResult<Option<Trial<'_>>> {
        let mut state = self.state();
        let Some(open) = &mut state.open else { return Ok(None) };
        if open.trying || Instant::now() < open.trial_at {
            let since = open.since.human_seconds();
            return Err(StoreError::Retryable {
                message: format!("{url} is left alone since {since}, after {FAILURES} failures; the last: {}", open.why),
                source: None,
            });
        }
        open.trying = true;
        Ok(Some(Trial { breaker: self }))
    }

    /// Notes how a call ended. While the breaker is open only the trial's end counts: others began before it opened.
    fn note(&self, failure: Option<String>, is_trial: bool) {
        let mut state = self.state();
        let now = Instant::now();
        match (failure, &mut state.open) {
            (None, Some(_)) if is_trial => *state = State::default(),
            (Some(why), Some(open)) if is_trial => (open.why, open.trial_at) = (why, now + REST),
            (None, _) | (_, Some(_)) => {}
            (Some(why), None) => {
                state.failures.push_back(now);
                while state.failures.front().is_some_and(|first| now.duration_since(*first) > WINDOW) {
                    state.failures.pop_front();
                }
                if state.failures.len() >= FAILURES {
                    let (since, trial_at) = (Timestamp::now(), now + REST);
                    state.open = Some(Open { since, why, trial_at, trying: false });
                    state.failures.clear();
                }
            }
        }
    }
}

/// The one call that an open breaker lets through. Dropped without an answer it leaves the place to the next.
struct Trial<'a> {
    breaker: &'a Breaker,
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        if let Some(open) = &mut self.breaker.state().open {
            open.trying = false;
        }
    }
}

impl Around for Breaker {
    async fn around<'a, T: Answer, F>(&'a self, below: &'a dyn Store, _: Call<'a>, attempt: F) -> StoreResult<T>
    where
        F: Fn() -> Attempt<'a, T> + Send + Sync + 'a,
    {
        let trial = self.enter(below.url())?;
        let outcome = attempt().await;
        let failure = outcome.as_ref().err().filter(|error| error.is_retryable()).map(ToString::to_string);
        self.note(failure, trial.is_some());
        drop(trial);
        outcome
    }
}
