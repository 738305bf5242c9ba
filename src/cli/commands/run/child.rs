//! One job as a child process: started with this process's configuration, told to stop when this one is, its error kept.
//!
//! It is in a process group of its own, so that Ctrl-C reaches it once, from here. When this process dies it works on.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

use crate::base::{Cancel, Error, Result};
use crate::cli::exit::INTERRUPTED;

/// How long a job that was told to stop is waited for.
const STOP_WITHIN: Duration = Duration::from_secs(60);

/// What is kept of its output: what comes after is read and forgotten.
const KEPT_BYTES: usize = 256 << 10;

/// Longest error that is kept, in characters.
const ERROR_CHARACTERS: usize = 500;

/// What became of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// Its exit code; none when something killed it, or it did not end.
    pub exit_code: Option<i32>,
    /// Why it failed.
    pub error: Option<String>,
    /// Its process id, if it still runs although it was told to stop.
    pub left_running: Option<u32>,
}

/// `lifeboat` with `config_file` and `arguments`.
fn command(config_file: &Path, arguments: &[&str]) -> Result<Command> {
    let program = std::env::current_exe().map_err(|error| Error::failed("cannot find this program").caused_by(error))?;
    let mut command = Command::new(program);
    command.arg("--config").arg(config_file).arg("--quiet").args(arguments);
    command.stdin(Stdio::null()).process_group(0);
    Ok(command)
}

/// Runs a job to its end; it inherits `lock`.
///
/// # Errors
/// When it cannot be started.
pub(super) async fn run(config_file: &Path, arguments: &[&str], lock: Option<File>, cancel: &Cancel) -> Result<Ended> {
    let mut command = command(config_file, &[&["--output", "json"], arguments].concat())?;
    command.stdin(lock.map_or_else(Stdio::null, Stdio::from));
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(cannot_start)?;
    let stderr = child.stderr.take();
    // What it left in the background may hold its stderr: the end of the process counts, not that of its words.
    let words = tokio::spawn(async move { kept(stderr).await });
    let (status, was_asked) = tokio::select! {
        status = child.wait() => (Some(status), false),
        () = cancel.cancelled() => (stop(&mut child).await, true),
    };
    let Some(status) = status else {
        let error = Some(format!("it did not stop within {} seconds", STOP_WITHIN.as_secs()));
        return Ok(Ended { exit_code: None, error, left_running: child.id() });
    };
    let status = status.map_err(|error| Error::failed("cannot wait for a job").caused_by(error))?;
    if status.success() {
        return Ok(Ended { exit_code: Some(0), error: None, left_running: None });
    }
    let words = tokio::time::timeout(Duration::from_secs(2), words).await;
    let words = words.ok().and_then(|joined| joined.ok()).unwrap_or_default();
    Ok(failed(status, was_asked, &String::from_utf8_lossy(&words)))
}

/// Runs a job that goes on until it is told to stop, and passes on every warning as it comes; it inherits `lock`, and
/// its process id is given to `started`.
///
/// # Errors
/// When it cannot be started.
pub(super) async fn follow(
    config_file: &Path,
    arguments: &[&str],
    lock: File,
    cancel: &Cancel,
    started: impl FnOnce(u32),
    said: impl Fn(&str),
) -> Result<Ended> {
    let mut command = command(config_file, &[&["--output", "json"], arguments].concat())?;
    command.stdin(Stdio::from(lock)).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(cannot_start)?;
    // The command holds the lock's descriptor as well.
    drop(command);
    if let Some(process) = child.id() {
        started(process);
    }
    let mut lines = child.stderr.take().map(|stderr| BufReader::new(stderr).lines());
    let mut words = String::new();
    let mut hear = |line: String| match warning_in(&line) {
        Some(warning) => said(&warning),
        None if words.len() + line.len() < KEPT_BYTES => words += &format!("{line}\n"),
        None => {}
    };
    let (status, was_asked) = loop {
        tokio::select! {
            // What it said before it ended is told first.
            biased;
            line = next_line(&mut lines) => hear(line),
            status = child.wait() => break (Some(status), false),
            () = cancel.cancelled() => break (stop(&mut child).await, true),
        }
    };
    // What it said last: of a process that it left behind nothing is waited for.
    let rest = async {
        while lines.is_some() {
            if let Ok(line) = tokio::time::timeout(Duration::from_millis(200), next_line(&mut lines)).await {
                hear(line);
            } else {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(2), rest).await;
    let Some(status) = status else {
        let error = Some(format!("it did not stop within {} seconds", STOP_WITHIN.as_secs()));
        return Ok(Ended { exit_code: None, error, left_running: child.id() });
    };
    let status = status.map_err(|error| Error::failed("cannot wait for a job").caused_by(error))?;
    Ok(match status.success() {
        true => Ended { exit_code: Some(0), error: None, left_running: None },
        false => failed(status, was_asked, &words),
    })
}

/// The next line; never any once there are no more.
async fn next_line(lines: &mut Option<Lines<BufReader<ChildStderr>>>) -> String {
    if let Some(reader) = lines.as_mut() {
        if let Ok(Some(line)) = reader.next_line().await {
            return line;
        }
        *lines = None;
    }
    std::future::pending().await
}

/// The warning that a line of stderr is.
fn warning_in(line: &str) -> Option<String> {
    let document: serde_json::Value = serde_json::from_str(line).ok()?;
    document["warning"].as_str().map(str::to_owned)
}

/// The end of a job that did not succeed. One that a signal ended was interrupted only when it was asked to stop from here;
/// else something killed it.
fn failed(status: ExitStatus, was_asked: bool, words: &str) -> Ended {
    let (exit_code, error) = match status.signal() {
        Some(_) if was_asked => (Some(i32::from(INTERRUPTED)), "stopped".to_owned()),
        Some(signal) => (None, format!("killed by signal {signal}")),
        None => (status.code(), first_error(words).unwrap_or_else(|| status.to_string())),
    };
    Ended { exit_code, error: Some(error), left_running: None }
}

/// Asks it to stop, and waits for it; none when that takes too long.
async fn stop(child: &mut Child) -> Option<std::io::Result<std::process::ExitStatus>> {
    if let Some(pid) = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
        // It may have ended just now; then waiting tells.
        let _ = kill_process(pid, Signal::TERM);
    }
    tokio::time::timeout(STOP_WITHIN, child.wait()).await.ok()
}

/// Runs a command for its output, for `at_most` so long; it is killed then.
///
/// # Errors
/// When it cannot be started, fails, says too much or takes too long.
pub(super) async fn output(config_file: &Path, arguments: &[&str], at_most: Duration) -> Result<String> {
    let mut command = command(config_file, arguments)?;
    command.kill_on_drop(true).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(cannot_start)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let both = async { tokio::join!(kept(stdout), kept(stderr), child.wait()) };
    let Ok((stdout, stderr, status)) = tokio::time::timeout(at_most, both).await else {
        return Err(Error::failed(format!("it took longer than {} seconds", at_most.as_secs())));
    };
    let status = status.map_err(|error| Error::failed("cannot wait for it").caused_by(error))?;
    if !is_told(status.code(), &stdout) {
        let why = first_error(&String::from_utf8_lossy(&stderr)).unwrap_or_else(|| status.to_string());
        return Err(Error::failed(why));
    }
    match stdout.len() < KEPT_BYTES {
        true => Ok(String::from_utf8_lossy(&stdout).into_owned()),
        false => Err(Error::failed("it says too much")),
    }
}

/// Whether it said what was asked for: objectives that are missed are that, and no failure, and so is a repository that
/// does not answer when the output says so.
fn is_told(exit_code: Option<i32>, stdout: &[u8]) -> bool {
    matches!(exit_code, Some(0 | 10..=12)) || (exit_code == Some(20) && !stdout.is_empty())
}

fn cannot_start(error: std::io::Error) -> Error {
    Error::failed("cannot start a job").caused_by(error)
}

/// The beginning of what comes, once all has come.
async fn kept(pipe: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let (mut kept, mut buffer) = (Vec::new(), [0; 8192]);
    let Some(mut pipe) = pipe else { return kept };
    while let Ok(read @ 1..) = pipe.read(&mut buffer).await {
        let room = KEPT_BYTES - kept.len();
        kept.extend_from_slice(&buffer[..read.min(room)]);
    }
    kept
}

/// The error in what a job wrote to stderr: its error document, else its last line.
fn first_error(words: &str) -> Option<String> {
    let message = |line: &str| {
        let document: serde_json::Value = serde_json::from_str(line).ok()?;
        document["error"]["message"].as_str().map(str::to_owned)
    };
    let last = || words.lines().rfind(|line| !line.trim().is_empty()).map(|line| line.trim().to_owned());
    let error = words.lines().find_map(message).or_else(last)?;
    Some(error.chars().take(ERROR_CHARACTERS).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Job;
    use crate::engine::slots::ending;
    use crate::policy::turn::Ending;

    #[test]
    fn a_repository_that_is_down_is_told_and_not_kept_quiet() {
        assert!(is_told(Some(0), b"") && is_told(Some(11), b"x") && is_told(Some(20), b"lifeboat_up 0\n"));
        assert!(!is_told(Some(20), b"") && !is_told(Some(2), b"x") && !is_told(None, b"x"));
    }

    #[test]
    fn a_job_that_was_killed_has_failed_unless_it_was_asked_to_stop() {
        let killed = |was_asked| failed(ExitStatus::from_raw(9), was_asked, "warning: a word\n");
        let by_stranger = killed(false);
        assert_eq!((by_stranger.exit_code, by_stranger.error.as_deref()), (None, Some("killed by signal 9")));
        assert_eq!(ending(Job::Full, by_stranger.exit_code), Ending::Failed);
        assert_eq!(ending(Job::Full, killed(true).exit_code), Ending::Interrupted);
        let exited = failed(ExitStatus::from_raw(20 << 8), false, "no room\n");
        assert_eq!((exited.exit_code, exited.error.as_deref()), (Some(20), Some("no room")));
    }

    #[test]
    fn the_error_is_found_among_other_words() {
        let words = "warning: something\n{\"lifeboat\":{\"document\":\"error\"},\"error\":{\"message\":\"no room\"}}\n";
        assert_eq!(first_error(words), Some("no room".to_owned()));
        assert_eq!(first_error("one\n two \n\n"), Some("two".to_owned()));
        assert_eq!(first_error("\n"), None);
        assert_eq!(first_error(&"x".repeat(5000)).unwrap().len(), ERROR_CHARACTERS);
    }
}
