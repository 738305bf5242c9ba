//! Errors as people and programs read them, on stderr.
//!
//! Text: one line with the causes, each once; labelled facts with their values in one column; hints. What came from
//! outside (paths, server messages) cannot send control sequences to the terminal.

use std::io::{self, IsTerminal, Write};
use std::panic::PanicHookInfo;

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use super::args::OutputFormat;
use super::exit;
use super::output::document_line;
use crate::base::{Error, ErrorKind};

/// How stderr is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Console {
    /// Text or JSON.
    pub format: OutputFormat,
    /// Whether words may be coloured.
    pub colours: bool,
}

impl Console {
    /// Colours when stderr is a terminal, `NO_COLOR` is not set and `TERM` is not `dumb`.
    pub fn of_process(format: OutputFormat) -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { format, colours: io::stderr().is_terminal() && !set("NO_COLOR") && !dumb }
    }

    /// Shows `error` on stderr; `exit_code` is what the process will end with.
    pub fn show(self, error: &Error, exit_code: u8) {
        match self.format {
            OutputFormat::Text => write_stderr(&self.text(error)),
            OutputFormat::Json => write_stderr(&(json(error, exit_code) + "\n")),
        }
    }

    /// The text form, ending in a newline.
    pub fn text(self, error: &Error) -> String {
        let mut text = format!("{} {}\n", self.paint("error:", AnsiColor::Red), indent(&error.summary(), 2));
        let width = error.details().iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
        for (label, value) in error.details() {
            text += &format!("  {:width$}  {}\n", printable(label), indent(value, width + 4));
        }
        for hint in error.hints() {
            text += &format!("{} {}\n", self.paint("hint:", AnsiColor::Cyan), indent(hint, 6));
        }
        text
    }

    /// `word`, bold and coloured where that is allowed.
    pub fn paint(self, word: &str, colour: AnsiColor) -> String {
        if !self.colours {
            return word.to_owned();
        }
        let style = Style::new().bold().fg_color(Some(colour.into()));
        format!("{style}{word}{style:#}")
    }
}

/// `text` with the lines after the first indented.
fn indent(text: &str, columns: usize) -> String {
    printable(text.trim_end()).replace('\n', &format!("\n{:columns$}", ""))
}

/// `text` with control characters other than line ends spelled out.
pub(super) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() && character != '\n' {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

#[derive(Serialize)]
struct ErrorDocument<'e> {
    error: ErrorBody<'e>,
}

#[derive(Serialize)]
struct ErrorBody<'e> {
    kind: &'static str,
    exit_code: u8,
    message: String,
    details: Vec<Detail<'e>>,
    hints: &'e [String],
}

#[derive(Serialize)]
struct Detail<'e> {
    label: &'e str,
    value: &'e str,
}

/// The JSON form: document `error`, version 1.
fn json(error: &Error, exit_code: u8) -> String {
    let kind = match error.kind() {
        ErrorKind::Failed => "failed",
        ErrorKind::Usage => "usage",
        ErrorKind::Unreachable => "unreachable",
        ErrorKind::Busy => "busy",
        ErrorKind::Damaged => "damaged",
        ErrorKind::Contradicted => "contradicted",
        ErrorKind::Interrupted => "interrupted",
    };
    let details = error.details().iter().map(|(label, value)| Detail { label, value }).collect();
    let body = ErrorBody { kind, exit_code, message: error.summary(), details, hints: error.hints() };
    document_line("error", 1, &ErrorDocument { error: body })
}

/// Writes to stderr. When that fails there is nowhere left to tell; the exit code still speaks.
pub(super) fn write_stderr(text: &str) {
    let mut stderr = io::stderr().lock();
    let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}

/// Shows what is wrong with the command line, in the parser's own words.
pub(super) fn show_usage(console: Console, error: &clap::Error) {
    let text = error.render();
    write_stderr(&if console.colours { text.ansi().to_string() } else { text.to_string() });
}

/// Makes every panic, on whichever thread, tell that it is a bug and ask for a report.
pub fn install_panic_hook(console: Console) {
    std::panic::set_hook(Box::new(move |info| {
        let mut error = panic_error(info);
        // Empty unless RUST_BACKTRACE asks for it.
        let backtrace = std::backtrace::Backtrace::capture();
        if backtrace.status() == std::backtrace::BacktraceStatus::Captured {
            error = error.detail("trace", backtrace.to_string());
        }
        console.show(&error, exit::PANIC);
    }));
}

fn panic_error(info: &PanicHookInfo<'_>) -> Error {
    let message = info.payload_as_str().unwrap_or("no message");
    let place = info.location().map(ToString::to_string).unwrap_or_else(|| "unknown".into());
    Error::failed(format!("lifeboat ran into a bug of its own: {message}"))
        .detail("at", place)
        .detail("version", env!("CARGO_PKG_VERSION"))
        .hint("please report this: these lines and what you ran; RUST_BACKTRACE=1 adds how it came to it")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Console = Console { format: OutputFormat::Text, colours: false };

    fn gap() -> Error {
        Error::failed("cannot restore orders to 2026-11-20 21:40:00 UTC: the log has a gap")
            .detail("missing", "00000001000000A3000000F1 … F4 (4 segments, 21:31:07 to 21:44:52)")
            .detail("nearest", "21:31:07 UTC (before the gap), or any moment from 21:58:10 UTC (next backup)")
            .hint("lifeboat restore orders --to '2026-11-20 21:31:07Z' --into DIR")
    }

    #[test]
    fn the_text_is_as_the_contract_shows_it() {
        assert_eq!(
            PLAIN.text(&gap()),
            "error: cannot restore orders to 2026-11-20 21:40:00 UTC: the log has a gap\n\
             \x20 missing  00000001000000A3000000F1 … F4 (4 segments, 21:31:07 to 21:44:52)\n\
             \x20 nearest  21:31:07 UTC (before the gap), or any moment from 21:58:10 UTC (next backup)\n\
             hint: lifeboat restore orders --to '2026-11-20 21:31:07Z' --into DIR\n"
        );
    }

    #[test]
    fn labels_have_one_width_and_longer_values_stay_in_their_column() {
        let error = Error::failed("no").detail("a", "1\n2").detail("größer", "3").caused_by(io::Error::other("disk is full"));
        assert_eq!(PLAIN.text(&error), "error: no: disk is full\n  a       1\n          2\n  größer  3\n");
    }

    #[test]
    fn a_name_cannot_drive_the_terminal() {
        let text = PLAIN.text(&Error::failed("cannot read \x1b[2J\u{9b}x").detail("a\rb", "\x07"));
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        assert!(text.contains("\\u{1b}[2J"), "{text}");
    }

    #[test]
    fn colours_only_where_allowed() {
        let coloured = Console { colours: true, ..PLAIN }.text(&gap());
        assert!(coloured.starts_with("\x1b[1m\x1b[31merror:\x1b[0m cannot"), "{coloured:?}");
        assert!(!PLAIN.text(&gap()).contains('\x1b'));
    }

    #[test]
    fn the_document_says_the_same() {
        let value: serde_json::Value = serde_json::from_str(&json(&gap(), 1)).unwrap();
        assert_eq!(value["lifeboat"], serde_json::json!({"document": "error", "version": 1}));
        assert_eq!(value["error"]["kind"], "failed");
        assert_eq!(value["error"]["exit_code"], 1);
        assert_eq!(value["error"]["details"][0]["label"], "missing");
        assert_eq!(value["error"]["hints"][0], "lifeboat restore orders --to '2026-11-20 21:31:07Z' --into DIR");
    }
}
