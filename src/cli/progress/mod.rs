//! Progress on stderr: bars on a terminal, plain lines elsewhere, nothing but warnings when quiet.
//!
//! With `--output json` a stderr that is no terminal holds only documents, one a line.

mod bars;
mod lines;

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::time::Duration;

use anstyle::AnsiColor;
use serde::Serialize;

use super::args::OutputFormat;
use super::diagnostics::{Console, printable, write_stderr};
use super::output::document_line;
use crate::base::progress::Progress;
use crate::base::units::{format_bytes, format_duration};

/// The listener that fits this process's stderr.
pub fn for_process(console: Console, quiet: bool) -> Arc<dyn Progress> {
    let terminal = io::stderr().is_terminal();
    match console.format {
        _ if quiet => Arc::new(Warnings(console)),
        _ if terminal => Arc::new(bars::Bars::new(console)),
        OutputFormat::Text => Arc::new(lines::Lines::new(console, write_stderr)),
        OutputFormat::Json => Arc::new(Warnings(console)),
    }
}

/// Tells of warnings only.
struct Warnings(Console);

impl Progress for Warnings {
    fn phase(&self, _name: &str, _total_bytes: Option<u64>) {}
    fn advance(&self, _bytes: u64) {}
    fn note(&self, _text: &str) {}
    fn warn(&self, text: &str) {
        write_stderr(&warning(self.0, text));
    }
}

/// A warning as a line of text, or as the document `warning`, version 1.
fn warning(console: Console, text: &str) -> String {
    #[derive(Serialize)]
    struct Warning<'t> {
        warning: &'t str,
    }
    match console.format {
        OutputFormat::Text => format!("{} {}\n", console.paint("warning:", AnsiColor::Yellow), printable(text)),
        OutputFormat::Json => document_line("warning", 1, &Warning { warning: text }) + "\n",
    }
}

/// What a phase came to: `copying files: 1.25 GiB in 12 s, 107 MiB/s`.
fn summary(name: &str, done_bytes: u64, elapsed: Duration) -> String {
    let time = format_duration(elapsed);
    match rate(done_bytes, elapsed) {
        Some(bytes_per_second) => {
            format!("{name}: {} in {time}, {}/s", format_bytes(done_bytes), format_bytes(bytes_per_second))
        }
        None if done_bytes > 0 => format!("{name}: {} in {time}", format_bytes(done_bytes)),
        None => format!("{name}: {time}"),
    }
}

/// Bytes a second; `None` when too little was done or too short a time passed to tell.
fn rate(done_bytes: u64, elapsed: Duration) -> Option<u64> {
    let seconds = elapsed.as_secs_f64();
    (seconds >= 0.5 && done_bytes > 0).then(|| (done_bytes as f64 / seconds) as u64)
}
