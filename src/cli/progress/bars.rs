//! Progress as a bar on a terminal: bytes, rate and time left; a finished phase leaves one line.

use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

use super::{summary, warning};
use crate::base::progress::Progress;
use crate::base::units::{format_bytes, format_duration};
use crate::cli::diagnostics::{Console, printable, write_stderr};

const TICK: Duration = Duration::from_millis(200);

const BAR: &str = "{msg} [{wide_bar}] {done}{rate}{left}";
const COLOURED_BAR: &str = "{msg} [{wide_bar:.green}] {done}{rate}{left}";
const SPINNER: &str = "{spinner} {msg} {done}{rate}{since}";

/// Draws one bar at a time.
pub(super) struct Bars {
    console: Console,
    phase: Mutex<Option<Phase>>,
}

struct Phase {
    name: String,
    bar: ProgressBar,
    started: Instant,
}

impl Bars {
    pub(super) fn new(console: Console) -> Self {
        Self { console, phase: Mutex::default() }
    }

    fn current(&self) -> MutexGuard<'_, Option<Phase>> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a line above the bar.
    fn write_above(&self, line: &str) {
        match self.current().as_ref() {
            Some(phase) => phase.bar.suspend(|| write_stderr(line)),
            None => write_stderr(line),
        }
    }
}

impl Phase {
    fn end(self) {
        self.bar.finish_and_clear();
        let (done_bytes, elapsed) = (self.bar.position(), self.started.elapsed());
        if done_bytes > 0 || elapsed >= Duration::from_secs(1) {
            write_stderr(&format!("{}\n", summary(&self.name, done_bytes, elapsed)));
        }
    }
}

impl Progress for Bars {
    fn phase(&self, name: &str, total_bytes: Option<u64>) {
        let name = printable(name);
        let mut current = self.current();
        if let Some(before) = current.take() {
            before.end();
        }
        let bar = match total_bytes {
            Some(total) => ProgressBar::new(total).with_style(style(if self.console.colours { COLOURED_BAR } else { BAR })),
            None => ProgressBar::new_spinner().with_style(style(SPINNER)),
        };
        bar.set_message(name.clone());
        bar.enable_steady_tick(TICK);
        *current = Some(Phase { name, bar, started: Instant::now() });
    }

    fn advance(&self, bytes: u64) {
        if let Some(phase) = self.current().as_ref() {
            phase.bar.inc(bytes);
        }
    }

    fn finish(&self) {
        if let Some(phase) = self.current().take() {
            phase.end();
        }
    }

    fn note(&self, text: &str) {
        self.write_above(&format!("{}\n", printable(text)));
    }

    fn warn(&self, text: &str) {
        self.write_above(&warning(self.console, text));
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        self.finish();
    }
}

/// A bar's look, with this program's own units.
fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).expect("the templates of this file are sound");
    style
        .progress_chars("=> ")
        .with_key("done", |state: &ProgressState, out: &mut dyn Write| {
            let total = state.len().map(|total| format!(" of {}", format_bytes(total))).unwrap_or_default();
            put(out, state.pos() > 0 || state.len().is_some(), || format!("{}{total}", format_bytes(state.pos())));
        })
        .with_key("rate", |state: &ProgressState, out: &mut dyn Write| {
            put(out, state.pos() > 0, || format!(", {}/s", format_bytes(state.per_sec() as u64)));
        })
        .with_key("left", |state: &ProgressState, out: &mut dyn Write| {
            put(out, state.pos() > 0, || format!(", {} left", format_duration(whole_seconds(state.eta()))));
        })
        .with_key("since", |state: &ProgressState, out: &mut dyn Write| {
            let comma = if state.pos() > 0 { ", " } else { "" };
            put(out, true, || format!("{comma}{}", format_duration(whole_seconds(state.elapsed()))));
        })
}

/// Fractions of a second would only flicker.
fn whole_seconds(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_secs())
}

fn put(out: &mut dyn Write, wanted: bool, text: impl FnOnce() -> String) {
    if wanted {
        // Writing to indicatif's line buffer, a String, cannot fail.
        let _ = out.write_str(&text());
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use indicatif::{ProgressDrawTarget, TermLike};

    use super::*;

    /// A terminal of 80 columns that keeps what is drawn.
    #[derive(Clone, Debug, Default)]
    struct Paper(Arc<Mutex<String>>);

    impl TermLike for Paper {
        fn width(&self) -> u16 {
            80
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap().push_str(text);
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn drawn(total_bytes: Option<u64>, done_bytes: u64, template: &str) -> String {
        let paper = Paper::default();
        let bar = match total_bytes {
            Some(total) => ProgressBar::new(total),
            None => ProgressBar::new_spinner(),
        };
        bar.set_style(style(template));
        bar.set_message("copying files");
        bar.set_position(done_bytes);
        bar.set_draw_target(ProgressDrawTarget::term_like(Box::new(paper.clone())));
        bar.tick();
        paper.0.lock().unwrap().clone()
    }

    #[test]
    fn a_bar_shows_bytes_rate_and_time_left_in_80_columns() {
        let line = drawn(Some(4 << 30), 1 << 30, BAR);
        assert_eq!(line.trim_end().chars().count(), 80, "{line}");
        assert!(line.starts_with("copying files [==") && line.contains("] 1.00 GiB of 4.00 GiB, "), "{line}");
        assert!(line.contains("/s, ") && line.trim_end().ends_with(" left"), "{line}");
    }

    #[test]
    fn a_phase_without_bytes_shows_no_bytes() {
        let line = drawn(None, 0, SPINNER);
        assert!(line.contains("copying files 0.00 s") && !line.contains(" B"), "{line}");
    }
}
