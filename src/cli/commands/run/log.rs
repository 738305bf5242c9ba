//! The scheduler's log on stderr: `time level source job message`, or one JSON object a line.

use serde::Serialize;

use crate::base::{Job, SourceName, Timestamp};
use crate::cli::args::OutputFormat;
use crate::cli::diagnostics::{printable, write_stderr};

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// All is as it should be.
    Info,
    /// Somebody should know.
    Warn,
    /// Something was not done.
    Error,
}

/// Writes the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Log(OutputFormat);

#[derive(Serialize)]
struct Entry<'a> {
    time: Timestamp,
    level: Level,
    source: Option<&'a SourceName>,
    job: Option<Job>,
    message: &'a str,
}

impl Log {
    pub(super) fn new(format: OutputFormat) -> Self {
        Self(format)
    }

    /// Writes one line; `source` and `job` are `-` where a line concerns none.
    pub(super) fn say(self, level: Level, source: Option<&SourceName>, job: Option<Job>, message: &str) {
        write_stderr(&(line(self.0, &Entry { time: Timestamp::now(), level, source, job, message }) + "\n"));
    }
}

fn line(format: OutputFormat, entry: &Entry<'_>) -> String {
    match format {
        OutputFormat::Json => serde_json::to_string(entry).expect("an entry is a plain struct"),
        OutputFormat::Text => {
            let level = match entry.level {
                Level::Info => "info",
                Level::Warn => "warn",
                Level::Error => "error",
            };
            let source = entry.source.map_or("-".to_owned(), ToString::to_string);
            let job = entry.job.map_or("-", Job::as_str);
            let message = printable(entry.message).replace('\n', "; ");
            format!("{} {level} {source} {job} {message}", time(entry.time))
        }
    }
}

/// `2026-11-20T21:40:02Z`.
fn time(moment: Timestamp) -> String {
    format!("{}Z", &moment.rfc3339()[..19])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line_in_both_forms() {
        let source: SourceName = "orders".parse().unwrap();
        let time = Timestamp::parse_compact("20261120T214002Z").unwrap();
        let entry =
            Entry { time, level: Level::Warn, source: Some(&source), job: Some(Job::Incr), message: "failed: no\nroom \x1b[2J" };
        let text = line(OutputFormat::Text, &entry);
        assert_eq!(text, "2026-11-20T21:40:02Z warn orders incr failed: no; room \\u{1b}[2J");
        let json: serde_json::Value = serde_json::from_str(&line(OutputFormat::Json, &entry)).unwrap();
        assert_eq!((&json["level"], &json["source"], &json["job"]), (&"warn".into(), &"orders".into(), &"incr".into()));
        let bare = Entry { source: None, job: None, message: "started", ..entry };
        assert_eq!(line(OutputFormat::Text, &bare), "2026-11-20T21:40:02Z warn - - started");
    }
}
