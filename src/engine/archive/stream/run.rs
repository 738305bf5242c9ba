//! What a stream is given, and how it goes on after it was interrupted.

use std::time::Duration;

use async_trait::async_trait;
use rand::RngExt;
use serde::Serialize;
use tokio::time::Instant;

use super::growing::Snapshot;
use super::session;
use super::trust::Trust;
use crate::base::progress::Progress;
use crate::base::{Cancel, Lsn, Result, SegmentSize, TimelineId};
use crate::engine::{Scope, Writing};
use crate::repo::identity::Identity;
use crate::repo::queue::Queue;
use crate::source::postgres::replication::Failure;

/// So long a server that does not take us is asked again before the first stream has begun: the connection before may
/// not be over yet.
const PATIENCE_AT_FIRST: Duration = Duration::from_secs(5);
/// First wait after an interruption, and the longest.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What is streamed, and how.
pub struct Options {
    /// Connection string of the server. May hold a password: never print it.
    pub conninfo: String,
    /// The slot, and what the server calls us: name it in `synchronous_standby_names`.
    pub slot: String,
    /// Longest time that a byte waits before it is stored.
    pub flush: Duration,
    /// The repositories by name, each with the queue of what it lacks.
    pub repositories: Vec<(String, Queue)>,
    /// How many of them must hold the log.
    pub needed: usize,
    /// Longest pause after a failure: a part of what may be lost.
    pub longest_pause: Duration,
}

/// Where a stream runs.
#[async_trait]
pub trait Surroundings: Sync {
    /// Opens a repository by its name.
    ///
    /// # Errors
    /// When it cannot be opened now.
    async fn open(&self, repository: &str) -> Result<Scope>;

    /// The same for a backup, for which more time is taken.
    ///
    /// # Errors
    /// As [`Surroundings::open`].
    async fn open_for_backup(&self, repository: &str) -> Result<Scope> {
        self.open(repository).await
    }

    /// Something was queued for a repository.
    fn deliver(&self);
}

/// What a stream came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Streamed {
    /// The timeline that was followed last; none when nothing was.
    pub timeline: Option<TimelineId>,
    /// Everything before is durable in the repositories.
    pub safe_lsn: Lsn,
    /// Bytes of log received.
    pub received_bytes: u64,
    /// How often pieces were stored.
    pub flushes: u64,
    /// Whole segments stored.
    pub segments: u64,
    /// How often the stream was interrupted, and went on.
    pub interruptions: u64,
}

/// What all of one connection share.
pub(super) struct World<'a> {
    pub surroundings: &'a dyn Surroundings,
    pub writing: &'a Writing,
    pub progress: &'a dyn Progress,
    pub needed: usize,
    pub trust: &'a Trust,
    pub identity: Identity,
    /// Of a primary: the timeline that it writes, and up to where it had when the connection began.
    pub written: Option<(TimelineId, Lsn)>,
    /// A segment of this cluster, for messages.
    pub first_file: String,
}

impl World<'_> {
    pub fn size(&self) -> SegmentSize {
        self.identity.segment_bytes
    }

    /// The segment's name.
    pub fn file(&self, snapshot: &Snapshot) -> String {
        snapshot.segment.name(snapshot.size)
    }
}

/// What a connection is made with.
pub(super) struct Setting<'a> {
    pub options: &'a Options,
    pub surroundings: &'a dyn Surroundings,
    pub writing: &'a Writing,
    pub progress: &'a dyn Progress,
    pub cancel: &'a Cancel,
    pub trust: &'a Trust,
}

/// Streams until somebody asks to stop.
///
/// # Errors
/// When the server or a repository refuses for good, or never took us; when two servers write the same log.
pub async fn run(
    options: &Options,
    surroundings: &dyn Surroundings,
    writing: &Writing,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Streamed> {
    let trust = Trust::default();
    let setting = Setting { options, surroundings, writing, progress, cancel, trust: &trust };
    let longest_pause = options.longest_pause.clamp(PAUSE, LONGEST_PAUSE);
    let (mut streamed, mut pause, began) = (Streamed::default(), PAUSE, Instant::now());
    let mut from_slot = false;
    while !cancel.is_cancelled() {
        let before = streamed.received_bytes;
        let ended = session::run(&setting, &mut streamed, from_slot).await;
        let has_received = streamed.received_bytes > before;
        from_slot = matches!(ended, Err(Failure::Removed(_))) || from_slot && !has_received;
        let interruption = match ended {
            Ok(()) => break,
            // What is missing was told.
            Err(Failure::Removed(_)) => None,
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Passing(error)) if streamed.timeline.is_none() && began.elapsed() >= PATIENCE_AT_FIRST => {
                return Err(error);
            }
            Err(Failure::Passing(error)) => Some(error),
        };
        if let Some(error) = interruption.filter(|_| streamed.timeline.is_some()) {
            streamed.interruptions += 1;
            progress.warn(&format!("the stream was interrupted, and is tried again: {}", error.summary()));
        }
        pause = if has_received { PAUSE } else { (pause * 2).min(longest_pause) };
        tokio::select! {
            () = cancel.cancelled() => {}
            () = tokio::time::sleep(pause.mul_f64(rand::rng().random_range(0.75..1.25))) => {}
        }
    }
    Ok(streamed)
}
