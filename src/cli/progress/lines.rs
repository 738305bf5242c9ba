//! Progress as plain lines, for logs: when a phase starts, every ten seconds while it moves, and what it came to.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{rate, summary, warning};
use crate::base::progress::Progress;
use crate::base::units::{format_bytes, format_duration};
use crate::cli::diagnostics::{Console, printable};

const LINE_EVERY: Duration = Duration::from_secs(10);

/// Writes lines through `write`.
pub(super) struct Lines<W: Fn(&str) + Send + Sync> {
    console: Console,
    every: Duration,
    phase: Mutex<Option<Phase>>,
    write: W,
}

struct Phase {
    name: String,
    total_bytes: Option<u64>,
    done_bytes: u64,
    started: Instant,
    last_line: Instant,
}

impl<W: Fn(&str) + Send + Sync> Lines<W> {
    pub(super) fn new(console: Console, write: W) -> Self {
        Self::with_interval(console, write, LINE_EVERY)
    }

    fn with_interval(console: Console, write: W, every: Duration) -> Self {
        Self { console, every, phase: Mutex::default(), write }
    }

    fn current(&self) -> MutexGuard<'_, Option<Phase>> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what the phase came to, if it took long enough to be asked about.
    fn end(&self, phase: Option<Phase>) {
        if let Some(phase) = phase
            && (phase.done_bytes > 0 || phase.started.elapsed() >= Duration::from_secs(1))
        {
            (self.write)(&format!("{}\n", summary(&phase.name, phase.done_bytes, phase.started.elapsed())));
        }
    }
}

impl Phase {
    /// `copying files: 1.25 GiB of 4.00 GiB (31 %), 103 MiB/s, about 26 s left`.
    fn line(&self) -> String {
        let mut line = format!("{}: {}", self.name, format_bytes(self.done_bytes));
        let percent = |total: u64| u128::from(self.done_bytes) * 100 / u128::from(total);
        if let Some(total) = self.total_bytes.filter(|total| *total > 0) {
            line += &format!(" of {} ({} %)", format_bytes(total), percent(total));
        }
        if let Some(bytes_per_second) = rate(self.done_bytes, self.started.elapsed()).filter(|rate| *rate > 0) {
            line += &format!(", {}/s", format_bytes(bytes_per_second));
            if let Some(left) = self.total_bytes.and_then(|total| total.checked_sub(self.done_bytes)) {
                line += &format!(", about {} left", format_duration(Duration::from_secs(left / bytes_per_second)));
            }
        }
        line + "\n"
    }
}

impl<W: Fn(&str) + Send + Sync> Progress for Lines<W> {
    fn phase(&self, name: &str, total_bytes: Option<u64>) {
        let now = Instant::now();
        let phase = Phase { name: printable(name), total_bytes, done_bytes: 0, started: now, last_line: now };
        let size = total_bytes.map(|total| format!(", {}", format_bytes(total))).unwrap_or_default();
        let start = format!("{}{size}\n", phase.name);
        let before = self.current().replace(phase);
        self.end(before);
        (self.write)(&start);
    }

    fn advance(&self, bytes: u64) {
        let mut current = self.current();
        let Some(phase) = current.as_mut() else { return };
        phase.done_bytes = phase.done_bytes.saturating_add(bytes);
        if phase.last_line.elapsed() >= self.every {
            phase.last_line = Instant::now();
            (self.write)(&phase.line());
        }
    }

    fn finish(&self) {
        let last = self.current().take();
        self.end(last);
    }

    fn note(&self, text: &str) {
        (self.write)(&format!("{}\n", printable(text)));
    }

    fn warn(&self, text: &str) {
        (self.write)(&warning(self.console, text));
    }
}

impl<W: Fn(&str) + Send + Sync> Drop for Lines<W> {
    fn drop(&mut self) {
        self.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::OutputFormat;

    const PLAIN: Console = Console { format: OutputFormat::Text, colours: false };

    #[test]
    fn a_log_tells_phases_notes_and_warnings_in_order() {
        let log = Mutex::new(String::new());
        let lines = Lines::new(PLAIN, |text: &str| log.lock().unwrap().push_str(text));
        lines.phase("copying files", Some(32 << 20));
        lines.advance(16 << 20);
        lines.note("base/5/1259 vanished\x1b");
        lines.advance(16 << 20);
        lines.phase("waiting for the archive", None);
        lines.warn("2 pages have a wrong checksum");
        drop(lines);
        let log = log.into_inner().unwrap();
        let shown: Vec<&str> = log.lines().collect();
        assert_eq!(shown[0], "copying files, 32.0 MiB");
        assert_eq!(shown[1], "base/5/1259 vanished\\u{1b}");
        assert!(shown[2].starts_with("copying files: 32.0 MiB in "), "{log}");
        assert_eq!(&shown[3..], ["waiting for the archive", "warning: 2 pages have a wrong checksum"]);
    }

    #[test]
    fn a_long_phase_tells_how_far_it_is() {
        let log = Mutex::new(String::new());
        let write = |text: &str| log.lock().unwrap().push_str(text);
        let lines = Lines::with_interval(PLAIN, write, Duration::ZERO);
        let started = Instant::now().checked_sub(Duration::from_secs(10)).unwrap();
        *lines.current() =
            Some(Phase { name: "copying".into(), total_bytes: Some(100 << 20), done_bytes: 0, started, last_line: started });
        lines.advance(25 << 20);
        let line = log.lock().unwrap().clone();
        assert!(line.starts_with("copying: 25.0 MiB of 100.0 MiB (25 %), 2.50 MiB/s, about 30 s left"), "{line}");
    }

    #[test]
    fn bytes_without_a_phase_and_more_bytes_than_announced_do_no_harm() {
        let lines = Lines::with_interval(PLAIN, |_: &str| {}, Duration::ZERO);
        lines.advance(5);
        lines.phase("x", Some(1));
        lines.advance(u64::MAX);
        lines.advance(u64::MAX);
        lines.phase("y", Some(0));
        lines.advance(1);
    }
}
