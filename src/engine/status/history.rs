//! What earlier runs of `status` saw: a line of JSON each, below the state directory.
//!
//! For trends, and for the worst value of a time whose log has expired. Losing it loses only those. A line that cannot be
//! read is passed over; a run that finds a line younger than a minute adds none.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::rpo::Scope;
use super::verdict::Verdict;
use crate::base::{Error, Result, SourceName, Timestamp, durable};

/// Lines that are kept.
const MAX_LINES: usize = 100_000;
/// Lines beyond that before the file is rewritten: not at every run.
const SLACK_LINES: usize = 1_000;
/// At most one line is added in this time.
const INTERVAL: Duration = Duration::from_secs(60);

/// What one run saw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// When.
    pub time: Timestamp,
    /// What losing the host would have lost, where it was known and not only bounded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_lost_seconds: Option<f64>,
    /// What losing the site would have lost, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site_lost_seconds: Option<f64>,
    /// What somebody with the host's credentials could have destroyed, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_stolen_seconds: Option<f64>,
    /// The RTO that was predicted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rto_predicted_seconds: Option<f64>,
    /// Bytes that a restore would have written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw_bytes: Option<u64>,
    /// The verdict.
    pub verdict: Verdict,
}

impl Sample {
    /// The exposure that was seen in one scope.
    pub fn exposure_of(&self, scope: Scope) -> Option<Duration> {
        let seconds = match scope {
            Scope::HostLost => self.host_lost_seconds,
            Scope::SiteLost => self.site_lost_seconds,
            Scope::CredentialsStolen => self.credentials_stolen_seconds,
        };
        Duration::try_from_secs_f64(seconds?).ok()
    }
}

/// The history of `source`, below `state_dir`.
pub fn path(state_dir: &Path, source: &SourceName) -> PathBuf {
    state_dir.join("status").join(format!("{source}.jsonl"))
}

/// Every line that can be read, in the order in which they were written.
///
/// # Errors
/// When the file is there and cannot be read.
pub fn load(path: &Path) -> Result<Vec<Sample>> {
    match fs::read(path) {
        Ok(content) => Ok(content.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::io("read", path, error)),
    }
}

/// Adds `sample` to what `known` says is there, unless the last line is too young.
///
/// # Errors
/// When the file cannot be written.
pub fn append(path: &Path, known: &[Sample], sample: &Sample) -> Result<()> {
    // A clock that was set back must not silence the history: then the last line is younger than now.
    let too_soon = |last: &Sample| last.time <= sample.time && sample.time.since(last.time) < INTERVAL;
    if known.last().is_some_and(too_soon) {
        return Ok(());
    }
    let line = |sample: &Sample| {
        let mut line = serde_json::to_vec(sample).expect("a sample is a plain struct");
        line.push(b'\n');
        line
    };
    let failed = |error| Error::io("write", path, error);
    durable::create_dir_all(path.parent().unwrap_or(path)).map_err(failed)?;
    if known.len() >= MAX_LINES + SLACK_LINES {
        let kept = &known[known.len() + 1 - MAX_LINES..];
        let content: Vec<u8> = kept.iter().chain([sample]).flat_map(line).collect();
        return durable::write_file(path, &content, 0o600).map_err(failed);
    }
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(&line(sample)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(seconds: i64) -> Sample {
        Sample {
            time: Timestamp::from_unix_micros(seconds * 1_000_000).unwrap(),
            host_lost_seconds: Some(1.5),
            site_lost_seconds: None,
            credentials_stolen_seconds: None,
            rto_predicted_seconds: None,
            raw_bytes: Some(7),
            verdict: Verdict::Ok,
        }
    }

    #[test]
    fn at_most_a_line_a_minute_is_added_and_torn_lines_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = path(dir.path(), &"orders".parse().unwrap());
        assert_eq!(load(&path).unwrap(), []);
        for seconds in [0, 59, 60, 61, 130, 20] {
            append(&path, &load(&path).unwrap(), &sample(seconds)).unwrap();
        }
        assert_eq!(load(&path).unwrap(), [sample(0), sample(60), sample(130), sample(20)], "the clock was set back");
        fs::write(&path, [fs::read(&path).unwrap(), b"{\"time\":\"2026\n".to_vec()].concat()).unwrap();
        assert_eq!(load(&path).unwrap().len(), 4);
    }

    #[test]
    fn the_oldest_lines_go_when_there_are_too_many() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.jsonl");
        let known: Vec<Sample> = (0..(MAX_LINES + SLACK_LINES) as i64).map(|minute| sample(minute * 60)).collect();
        let next = sample(known.len() as i64 * 60);
        append(&path, &known, &next).unwrap();
        let kept = load(&path).unwrap();
        assert_eq!((kept.len(), kept.last()), (MAX_LINES, Some(&next)));
    }
}
