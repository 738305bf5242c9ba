//! Trying again what may succeed later.
//!
//! Only errors marked retryable are tried again, with pauses that double, ±25 % of chance, so that many hosts that lost
//! one repository do not come back in step.
//!
//! A put whose answer was lost may have happened. When a later attempt then finds an object of that name, it is compared
//! with what was to be put: the same content is our own success.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::around::{Answer, Around, Attempt, Call};
use super::metrics::Metrics;
use crate::base::Cancel;
use crate::store::{Body, PutOutcome, RequestKind, Store, StoreError, StoreResult};

/// No pause is longer, however long the patience.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Pauses vary by this part, up and down.
const JITTER: f64 = 0.25;

/// Bytes of a stored object that are compared at one time.
const COMPARED_BYTES: u64 = 8 << 20;

/// How long a call is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// First pause between two attempts.
    pub first_pause: Duration,
    /// Longest pause between two attempts; 300 s at most.
    pub longest_pause: Duration,
    /// Time from the first failure to the last attempt, of a store that has answered this process before.
    pub limit: Duration,
    /// The same of one that has not answered yet: a wrong address, or a disk that is not mounted, is told soon.
    pub unanswered_limit: Duration,
}

impl Patience {
    /// For a verb that somebody or some server waits for.
    pub const SHORT: Self = Self {
        first_pause: Duration::from_secs(1),
        longest_pause: Duration::from_secs(5),
        limit: Duration::from_secs(20),
        unanswered_limit: Duration::ZERO,
    };
    /// For a verb that runs for minutes or hours anyway.
    pub const LONG: Self = Self {
        first_pause: Duration::from_secs(1),
        longest_pause: Duration::from_secs(60),
        limit: Duration::from_secs(300),
        unanswered_limit: Duration::from_secs(5),
    };

    /// For one of several stores that hold the same.
    pub const BEFORE_THE_NEXT: Self = Self {
        first_pause: Duration::from_millis(500),
        longest_pause: Duration::from_secs(2),
        limit: Duration::from_secs(3),
        unanswered_limit: Duration::ZERO,
    };

    /// The same for a store that has not answered yet.
    #[must_use]
    pub fn also_unanswered(self) -> Self {
        Self { unanswered_limit: self.limit, ..self }
    }

    /// No pause longer than a quarter of `rpo`, the declared recovery point objective: for what the log waits for.
    #[must_use]
    pub fn within_rpo(self, rpo: Duration) -> Self {
        Self { longest_pause: self.longest_pause.min(rpo / 4), ..self }
    }
}

/// The layer.
pub(super) struct Retry {
    patience: Patience,
    metrics: Arc<Metrics>,
    cancel: Cancel,
    answered: AtomicBool,
}

/// Failures of one call so far.
struct Trouble {
    began: Instant,
    next_pause: Duration,
}

impl Retry {
    pub fn new(patience: Patience, metrics: Arc<Metrics>, cancel: Cancel) -> Self {
        Self { patience, metrics, cancel, answered: AtomicBool::new(false) }
    }

    /// Waits before the next attempt, after one that failed with `error`.
    ///
    /// # Errors
    /// That error, when it is permanent, the patience ends, or somebody asked to stop.
    async fn pause(&self, kind: RequestKind, trouble: &mut Option<Trouble>, error: StoreError) -> StoreResult<()> {
        if !error.is_retryable() {
            return Err(error);
        }
        let longest = self.patience.longest_pause.min(LONGEST_PAUSE);
        let trouble = trouble.get_or_insert(Trouble { began: Instant::now(), next_pause: self.patience.first_pause });
        let pause = trouble.next_pause.mul_f64(rand::random_range(1.0 - JITTER..1.0 + JITTER)).min(longest);
        let answered = self.answered.load(Ordering::Relaxed);
        let limit = if answered { self.patience.limit } else { self.patience.unanswered_limit };
        if trouble.began.elapsed() + pause > limit {
            return Err(error);
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.cancel.cancelled() => return Err(error),
        }
        trouble.next_pause = (trouble.next_pause * 2).min(longest);
        self.metrics.retried(kind);
        Ok(())
    }

    fn note_answer<T>(&self, outcome: &StoreResult<T>) {
        if outcome.as_ref().is_ok() || outcome.as_ref().is_err_and(StoreError::is_not_found) {
            self.answered.store(true, Ordering::Relaxed);
        }
    }
}

impl Around for Retry {
    async fn around<'a, T: Answer, F>(&'a self, _: &'a dyn Store, call: Call<'a>, attempt: F) -> StoreResult<T>
    where
        F: Fn() -> Attempt<'a, T> + Send + Sync + 'a,
    {
        let mut trouble = None;
        loop {
            let outcome = attempt().await;
            self.note_answer(&outcome);
            match outcome {
                Ok(answer) => return Ok(answer),
                Err(error) if !call.repeatable => return Err(error),
                Err(error) => self.pause(call.kind, &mut trouble, error).await?,
            }
        }
    }

    async fn put<'a>(&'a self, below: &'a dyn Store, call: Call<'a>, body: &'a Body) -> StoreResult<PutOutcome> {
        let mut trouble = None;
        loop {
            let mut outcome = below.put_if_absent(call.key, body.clone()).await;
            self.note_answer(&outcome);
            if trouble.is_some() && matches!(outcome, Ok(PutOutcome::AlreadyExists)) {
                outcome = whose(below, call.key, body).await;
            }
            match outcome {
                Ok(outcome) => return Ok(outcome),
                Err(error) => self.pause(call.kind, &mut trouble, error).await?,
            }
        }
    }
}

/// Whose the object is that a repeated put found.
async fn whose(below: &dyn Store, key: &str, body: &Body) -> StoreResult<PutOutcome> {
    match is_same(below, key, body).await {
        Ok(true) => Ok(PutOutcome::Created),
        Ok(false) => Ok(PutOutcome::AlreadyExists),
        // Said to exist and not to be found: a store that has not settled yet.
        Err(error) if error.is_not_found() => Err(StoreError::Retryable {
            message: format!("{key} exists and cannot be read: it may be our own, stored by an attempt whose answer was lost"),
            source: Some(error.into()),
        }),
        Err(error) => Err(error),
    }
}

/// Whether the stored object is `body`, to the byte.
async fn is_same(below: &dyn Store, key: &str, body: &Body) -> StoreResult<bool> {
    let own = Own::open(body)?;
    let length = own.length()?;
    let mut at = 0;
    loop {
        // One byte more than there should be, so that a longer object shows.
        let end = (at + COMPARED_BYTES).min(length + 1);
        let stored = below.get_range(key, at..end).await?;
        let next = at + stored.len() as u64;
        if next != end.min(length) || own.piece(at..next)? != stored {
            return Ok(false);
        }
        if end > length {
            return Ok(true);
        }
        at = next;
    }
}

/// What was to be put.
enum Own<'a> {
    Bytes(&'a Bytes),
    File(&'a Path, File),
}

impl<'a> Own<'a> {
    fn open(body: &'a Body) -> StoreResult<Self> {
        match body {
            Body::Bytes(bytes) => Ok(Self::Bytes(bytes)),
            Body::File(path) => File::open(path).map(|file| Self::File(path, file)).map_err(|error| unreadable(path, error)),
        }
    }

    fn length(&self) -> StoreResult<u64> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.len() as u64),
            Self::File(path, file) => file.metadata().map(|metadata| metadata.len()).map_err(|error| unreadable(path, error)),
        }
    }

    fn piece(&self, range: Range<u64>) -> StoreResult<Bytes> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.slice(range.start as usize..range.end as usize)),
            Self::File(path, file) => {
                let mut piece = vec![0; (range.end - range.start) as usize];
                file.read_exact_at(&mut piece, range.start).map_err(|error| unreadable(path, error))?;
                Ok(piece.into())
            }
        }
    }
}

fn unreadable(path: &Path, error: std::io::Error) -> StoreError {
    StoreError::Permanent { message: format!("cannot read {}: {error}", path.display()), source: Some(error.into()) }
}
