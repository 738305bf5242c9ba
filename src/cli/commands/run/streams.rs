//! The lane of a stream: where the policy says `[log] mode = "stream"`, one `archive stream` of the source is kept going.
//!
//! It is a process of its own, as every job. One that ends is started again after a pause that doubles, up to a quarter of
//! what may be lost; one whose configuration was read again is stopped, which stores what it has, and started anew. The
//! slot lets one stream in: a second one, on another host, is told who holds it, and waits for its turn. A stream that
//! outlived its scheduler holds the lock in `state_dir`, and is left at work.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::RngExt;
use tokio::sync::watch;

use super::lock::{self, Lock};
use super::log::Level;
use super::{Config, Shared, child, pause};
use crate::base::{Cancel, Error, Result, SourceName};
use crate::cli::config::SourceKind;
use crate::cli::exit::BUSY;
use crate::policy::{LogMode, Policy};

/// First pause after a stream that ended, and the longest.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// A stream that lasted so long was a good one: the next pause is the first again.
const LASTED: Duration = Duration::from_secs(60);
/// A lock that is held is tried once more after this.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How often to look whether one is wanted, or whether one that an earlier scheduler left behind has ended.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The pause after so many failures in a row where `rpo` may be lost, before jitter.
fn backoff(failures: u32, rpo: Duration) -> Duration {
    let pause = PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16));
    pause.min(LONGEST_PAUSE).min((rpo / 4).max(Duration::from_millis(100)))
}

struct Lane<'s, 'c> {
    shared: &'s Shared<'c>,
    source: &'s SourceName,
    failures: u32,
    /// Why the last stream ended, so that the same is told once.
    told: Option<String>,
    /// What else was told last.
    noted: Option<String>,
}

/// Keeps the stream of `source` going while its policy wants one.
pub(super) async fn run(shared: &Shared<'_>, source: &SourceName) {
    let mut watched = shared.config.clone();
    let mut lane = Lane { shared, source, failures: 0, told: None, noted: None };
    while !shared.context.cancel.is_cancelled() {
        let config = watched.borrow_and_update().clone();
        let policy = config.policies.get(source).filter(|policy| policy.log.mode == LogMode::Stream);
        let Some(policy) = policy else {
            shared.board.stream_forget(source);
            (lane.failures, lane.told, lane.noted) = (0, None, None);
            pause(shared, &mut watched, None, LOOK_EVERY).await;
            continue;
        };
        let wait = lane.round(&config, policy, &mut watched).await;
        pause(shared, &mut watched, None, wait).await;
    }
    shared.board.stream_running(source, false);
}

impl Lane<'_, '_> {
    /// Runs one stream to its end. How long to wait before the next.
    async fn round(&mut self, config: &Arc<Config>, policy: &Policy, watched: &mut watch::Receiver<Arc<Config>>) -> Duration {
        let (began, rpo) = (Instant::now(), policy.objectives.rpo);
        let why = match self.stream(config, policy, watched).await {
            Ok(Ran::Left) => return LOOK_EVERY,
            // The configuration changed, or all ends.
            Ok(Ran::Stopped) => return Duration::ZERO,
            // Another host's stream holds the slot: this one waits for its turn.
            Ok(Ran::Waits(why)) => {
                self.failures = self.failures.saturating_add(1);
                self.shared.board.stream_waits(self.source);
                self.tell_once(&format!("waiting for the stream's turn: {why}"));
                return backoff(self.failures, rpo).mul_f64(rand::rng().random_range(0.75..1.25));
            }
            Ok(Ran::Ended(why)) => why,
            Err(error) => error.summary(),
        };
        if began.elapsed() >= LASTED {
            (self.failures, self.told) = (0, None);
        }
        self.failures = self.failures.saturating_add(1);
        self.shared.board.stream_failed(self.source, &why);
        if self.told.as_ref() != Some(&why) {
            self.say(Level::Error, &format!("the log is not streamed: {why}"));
            self.told = Some(why);
        }
        backoff(self.failures, rpo).mul_f64(rand::rng().random_range(0.75..1.25))
    }

    /// # Errors
    /// When it cannot be started.
    async fn stream(&mut self, config: &Arc<Config>, policy: &Policy, watched: &mut watch::Receiver<Arc<Config>>) -> Result<Ran> {
        let settings = config.settings.source(self.source)?;
        let (flush, what) = match &settings.kind {
            SourceKind::Postgres(postgres) => (postgres.flush, format!("streaming the log through slot {}", postgres.slot)),
            SourceKind::Sqlite(sqlite) => (sqlite.flush, format!("following {}", sqlite.path.display())),
            SourceKind::Directory(_) => return Err(Error::usage(format!("{} is a directory: it has no log", self.source))),
        };
        let state_dir = &config.settings.state_dir;
        let mut lock = lock::of_stream(state_dir, self.source)?;
        if matches!(lock, Lock::Busy) {
            // `run --list` looks at it for a moment.
            tokio::time::sleep(LOOK_AGAIN).await;
            lock = lock::of_stream(state_dir, self.source)?;
        }
        let Lock::Held(lock) = lock else {
            self.shared.board.stream_running(self.source, true);
            let process = lock::streaming_process(state_dir, self.source);
            let kill = process.map_or("stop it".to_owned(), |process| format!("kill {process}"));
            self.tell_once(&format!(
                "the stream that an earlier scheduler started is at work, as it was configured then, and is left to it; {kill}   \
                 stores what it has, and a new one begins"
            ));
            return Ok(Ran::Left);
        };
        if flush > policy.log.max_lag {
            self.tell_once("flush is longer than the policy's [log] max_lag: a commit may wait longer than was declared");
        }
        let source = self.source.to_string();
        let mut words = vec!["archive", "stream", &source];
        words.extend(self.shared.context.global.repository.iter().flat_map(|name| ["--repository", name]));
        let (stop, shared, own) = (Cancel::new(), self.shared, self.source.clone());
        let said = &|text: &str| shared.log.say(Level::Warn, Some(&own), None, &format!("stream: {text}"));
        let noted = |process| {
            if let Err(error) = lock::note_stream(state_dir, &own, process) {
                said(&error.summary());
            }
        };
        shared.board.stream_started(self.source);
        self.say(Level::Info, &what);
        let mut running = std::pin::pin!(child::follow(&config.settings.config_file, &words, lock, &stop, noted, said));
        let (ended, is_stopped) = tokio::select! {
            ended = &mut running => (ended, false),
            () = shared.context.cancel.cancelled() => { stop.cancel(); (running.await, true) }
            _ = watched.changed() => { stop.cancel(); (running.await, true) }
        };
        shared.board.stream_running(self.source, false);
        let ended = ended?;
        if let Some(process) = ended.left_running {
            self.say(Level::Error, &format!("the stream did not stop, and is left running; kill {process}   asks it again"));
            shared.board.stream_left_behind(self.source, process);
            return Ok(Ran::Left);
        }
        match (is_stopped, ended.exit_code, ended.error) {
            (false, Some(code), error) if code == i32::from(BUSY) => return Ok(Ran::Waits(error.unwrap_or_default())),
            (true, Some(0), _) => self.say(Level::Info, "the stream ended, and what it had is stored"),
            (true, _, error) => self.say(Level::Warn, &format!("the stream ended: {}", error.unwrap_or_default())),
            (false, _, error) => return Ok(Ran::Ended(error.unwrap_or_else(|| "it ended by itself".to_owned()))),
        }
        (self.failures, self.told) = (0, None);
        Ok(Ran::Stopped)
    }

    fn say(&self, level: Level, message: &str) {
        self.shared.log.say(level, Some(self.source), None, message);
    }

    fn tell_once(&mut self, text: &str) {
        if self.noted.as_deref() != Some(text) {
            self.say(Level::Warn, text);
            self.noted = Some(text.to_owned());
        }
    }
}

/// What became of a stream.
enum Ran {
    /// Another process of this host is at it.
    Left,
    /// It was asked to stop.
    Stopped,
    /// Another stream uses the slot: which.
    Waits(String),
    /// By itself, and why.
    Ended(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_and_is_never_more_than_a_quarter_of_what_may_be_lost() {
        let hour = Duration::from_secs(3600);
        assert_eq!([1, 2, 3, 4].map(|failures| backoff(failures, hour).as_secs()), [1, 2, 4, 8]);
        assert_eq!(backoff(40, hour), LONGEST_PAUSE);
        assert_eq!(backoff(40, Duration::from_secs(20)), Duration::from_secs(5));
        assert_eq!(backoff(1, Duration::ZERO), Duration::from_millis(100), "not in a busy loop");
    }
}
