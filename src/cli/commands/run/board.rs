//! What the scheduler shows of itself: a row a job, for metrics and the health check.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::base::{Job, SourceName, Timestamp};
use crate::repo::run_record::{Event, Line};

/// After so long without a sign of life it counts as stuck.
const ALIVE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, Default)]
struct Row {
    last_success: Option<Timestamp>,
    next: Option<Timestamp>,
    missed: u64,
    failed: u64,
    running: bool,
    blocked: bool,
}

/// The stream of a source's log.
#[derive(Clone, Debug, Default)]
struct Stream {
    running: bool,
    starts: u64,
    failures: u64,
    /// Why the last one ended; none while one runs.
    error: Option<String>,
}

#[derive(Default)]
struct Rows {
    rows: BTreeMap<(SourceName, Job), Row>,
    streams: BTreeMap<SourceName, Stream>,
    left: BTreeSet<String>,
}

/// The board; all lanes write on it.
pub(super) struct Board {
    rows: Mutex<Rows>,
    alive: Mutex<Instant>,
}

impl Board {
    /// A board that goes on from what was recorded.
    pub(super) fn new(before: &[Line]) -> Self {
        let board = Self { rows: Mutex::default(), alive: Mutex::new(Instant::now()) };
        before.iter().for_each(|line| board.note(line));
        board
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, source: &SourceName, job: Job, change: impl FnOnce(&mut Row)) {
        change(self.rows().rows.entry((source.clone(), job)).or_default());
    }

    /// What a line of the record says.
    pub(super) fn note(&self, line: &Line) {
        self.change(&line.source, line.job, |row| match &line.event {
            Event::Ended { exit_code: Some(0), .. } => row.last_success = Some(line.time),
            Event::Ended { .. } => row.failed += 1,
            Event::Missed { count, .. } => row.missed += u64::from(*count),
            Event::Blocked { .. } => row.blocked = true,
            Event::Unblocked => row.blocked = false,
            Event::Started { .. } | Event::Elsewhere => {}
        });
    }

    /// The next slot of a job.
    pub(super) fn next(&self, source: &SourceName, job: Job, next: Option<Timestamp>) {
        self.change(source, job, |row| row.next = next);
    }

    /// Whether a job runs.
    pub(super) fn running(&self, source: &SourceName, job: Job, running: bool) {
        self.change(source, job, |row| row.running = running);
    }

    /// A job that did not stop when it was told to.
    pub(super) fn leave_behind(&self, source: &SourceName, job: Job, process: u32) {
        self.rows().left.insert(format!("{job} of {source} (process {process})"));
    }

    /// Jobs that did not stop.
    pub(super) fn left_behind(&self) -> Vec<String> {
        self.rows().left.iter().cloned().collect()
    }

    /// The source is scheduled no more.
    pub(super) fn forget(&self, source: &SourceName) {
        self.rows().rows.retain(|(of, _), _| of != source);
    }

    fn change_stream(&self, source: &SourceName, change: impl FnOnce(&mut Stream)) {
        change(self.rows().streams.entry(source.clone()).or_default());
    }

    /// A stream was started.
    pub(super) fn stream_started(&self, source: &SourceName) {
        self.change_stream(source, |stream| (stream.running, stream.starts, stream.error) = (true, stream.starts + 1, None));
    }

    /// Whether a stream runs.
    pub(super) fn stream_running(&self, source: &SourceName, running: bool) {
        if let Some(stream) = self.rows().streams.get_mut(source) {
            stream.running = running;
        } else if running {
            self.change_stream(source, |stream| stream.running = true);
        }
    }

    /// A stream ended though nobody asked it to.
    pub(super) fn stream_failed(&self, source: &SourceName, why: &str) {
        self.change_stream(source, |stream| {
            (stream.running, stream.failures, stream.error) = (false, stream.failures + 1, Some(why.to_owned()));
        });
    }

    /// Another host's stream is at work: that is no failure of this one.
    pub(super) fn stream_waits(&self, source: &SourceName) {
        self.change_stream(source, |stream| (stream.running, stream.error) = (false, None));
    }

    /// A stream that did not stop when it was told to.
    pub(super) fn stream_left_behind(&self, source: &SourceName, process: u32) {
        self.rows().left.insert(format!("the stream of {source} (process {process})"));
    }

    /// The log of the source is not streamed any more.
    pub(super) fn stream_forget(&self, source: &SourceName) {
        self.rows().streams.remove(source);
    }

    /// A line for each stream that should run and does not.
    pub(super) fn streams_down(&self) -> Vec<String> {
        let down = |(source, stream): (&SourceName, &Stream)| {
            let why = stream.error.as_ref().filter(|_| !stream.running)?;
            Some(format!("the log of {source} is not streamed: {why}"))
        };
        self.rows().streams.iter().filter_map(down).collect()
    }

    /// A sign of life.
    pub(super) fn beat(&self) {
        *self.alive.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Whether there was one lately.
    pub(super) fn is_alive(&self) -> bool {
        self.alive.lock().unwrap_or_else(PoisonError::into_inner).elapsed() < ALIVE
    }

    /// As Prometheus reads it: the text format 0.0.4.
    pub(super) fn metrics(&self) -> String {
        let rows = self.rows();
        let seconds = |moment: Option<Timestamp>| moment.map(|moment| (moment.unix_micros() / 1_000_000).to_string());
        type Value<'v> = &'v dyn Fn(&Row) -> Option<String>;
        let families: [(&str, &str, &str, Value<'_>); 6] = [
            ("last_success_timestamp_seconds", "gauge", "When the job last ended well on this host.", &|row| {
                seconds(row.last_success)
            }),
            ("next_run_timestamp_seconds", "gauge", "When the job is due next.", &|row| seconds(row.next)),
            ("missed_total", "counter", "Scheduled times that nobody ran.", &|row| Some(row.missed.to_string())),
            ("failures_total", "counter", "Runs on this host that failed.", &|row| Some(row.failed.to_string())),
            ("running", "gauge", "1 while the job runs on this host.", &|row| Some(u8::from(row.running).to_string())),
            ("blocked", "gauge", "1 while the job is due and cannot be started.", &|row| Some(u8::from(row.blocked).to_string())),
        ];
        let mut text = String::new();
        for (name, kind, help, value) in families {
            text += &format!("# HELP lifeboat_run_{name} {help}\n# TYPE lifeboat_run_{name} {kind}\n");
            for ((source, job), row) in &rows.rows {
                if let Some(value) = value(row) {
                    text += &format!("lifeboat_run_{name}{{source=\"{source}\",job=\"{job}\"}} {value}\n");
                }
            }
        }
        text + &of_streams(&rows.streams)
    }
}

/// The streams, as Prometheus reads them.
fn of_streams(streams: &BTreeMap<SourceName, Stream>) -> String {
    type Value<'v> = &'v dyn Fn(&Stream) -> u64;
    let families: [(&str, &str, &str, Value<'_>); 3] = [
        ("running", "gauge", "1 while the log is streamed by this host.", &|stream| u64::from(stream.running)),
        ("starts_total", "counter", "Streams that were started.", &|stream| stream.starts),
        ("failures_total", "counter", "Streams that ended though nobody asked them to.", &|stream| stream.failures),
    ];
    let mut text = String::new();
    for (name, kind, help, value) in families.iter().filter(|_| !streams.is_empty()) {
        text += &format!("# HELP lifeboat_stream_{name} {help}\n# TYPE lifeboat_stream_{name} {kind}\n");
        for (source, stream) in streams {
            text += &format!("lifeboat_stream_{name}{{source=\"{source}\"}} {}\n", value(stream));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_complete_and_nothing_is_said_of_what_is_not_known() {
        let (source, at): (SourceName, _) = ("orders".parse().unwrap(), Timestamp::parse_compact("20261120T000000Z").unwrap());
        let line = |event| Line { time: at, source: source.clone(), job: Job::Full, slot: at, event };
        let ended = |exit_code| Event::Ended { began: at, exit_code, settled: exit_code == Some(0), error: None };
        let board =
            Board::new(&[line(ended(Some(0))), line(ended(Some(20))), line(Event::Missed { count: 3, first: at, last: at })]);
        board.running(&source, Job::Full, true);
        board.note(&line(Event::Blocked { error: "no answer".to_owned() }));
        assert!(board.metrics().contains("lifeboat_run_blocked{source=\"orders\",job=\"full\"} 1\n"));
        board.note(&line(Event::Unblocked));
        board.next(&source, Job::Incr, Some(at));
        let metrics = board.metrics();
        for wanted in [
            "lifeboat_run_last_success_timestamp_seconds{source=\"orders\",job=\"full\"} 1795132800\n",
            "lifeboat_run_next_run_timestamp_seconds{source=\"orders\",job=\"incr\"} 1795132800\n",
            "lifeboat_run_missed_total{source=\"orders\",job=\"full\"} 3\n",
            "lifeboat_run_failures_total{source=\"orders\",job=\"full\"} 1\n",
            "lifeboat_run_blocked{source=\"orders\",job=\"full\"} 0\n",
            "lifeboat_run_running{source=\"orders\",job=\"full\"} 1\n",
            "# TYPE lifeboat_run_missed_total counter\n",
        ] {
            assert!(metrics.contains(wanted), "{wanted}{metrics}");
        }
        assert!(!metrics.contains("last_success_timestamp_seconds{source=\"orders\",job=\"incr\"}"), "{metrics}");
        assert!(board.is_alive() && !metrics.contains("lifeboat_stream_"));
        board.stream_started(&source);
        assert!(board.metrics().contains("lifeboat_stream_running{source=\"orders\"} 1\n") && board.streams_down().is_empty());
        board.stream_failed(&source, "the slot is used");
        let metrics = board.metrics();
        assert!(metrics.contains("lifeboat_stream_running{source=\"orders\"} 0\n"), "{metrics}");
        assert!(metrics.contains("lifeboat_stream_failures_total{source=\"orders\"} 1\n"), "{metrics}");
        assert_eq!(board.streams_down(), ["the log of orders is not streamed: the slot is used"]);
        board.stream_forget(&source);
        board.forget(&source);
        assert!(!board.metrics().contains("orders"));
    }
}
