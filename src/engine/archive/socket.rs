//! One question and one answer over a unix socket, between what PostgreSQL calls and a process that works ahead of it.
//!
//! A line of JSON each way. Whoever cannot answer yet says so twice a second, so that one who died is told from one who
//! works; whoever asks gives up on silence, and does the work itself. Nobody but the socket's own user is listened to:
//! the file has mode 0600 and appears under its name with it, in place of what a killed process left there.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::base::Cancel;

/// How often one who cannot answer yet says that it lives.
const SIGN_OF_LIFE: Duration = Duration::from_millis(500);
/// Whoever says nothing for so long is not waited for.
const SILENCE: Duration = Duration::from_secs(3);
/// Longest line.
const LINE_BYTES: u64 = 256 << 10;
/// What a sign of life is.
const WAIT: &str = "wait";

/// Listens at `path`, in place of whoever listened there before.
///
/// # Errors
/// When the socket cannot be made: its directory may be missing, or its path longer than about a hundred bytes.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    let fresh = path.with_extension(format!("{:08x}", rand::random::<u32>()));
    let listen = || {
        let listener = UnixListener::bind(&fresh)?;
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))?;
        fs::rename(&fresh, path)?;
        Ok(listener)
    };
    listen().inspect_err(|_: &io::Error| drop(fs::remove_file(&fresh)))
}

/// Where to ask, and the wish to stop.
#[derive(Clone, Debug)]
pub struct Line<'a> {
    /// The socket's path.
    pub path: PathBuf,
    /// Ends the waiting.
    pub cancel: &'a Cancel,
    /// Longest wait for an answer that is being worked on.
    pub longest_wait: Duration,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// Nobody is there who answers.
    Nobody,
    /// Somebody works on it, and was not done within [`Line::longest_wait`].
    StillAtIt,
}

impl Line<'_> {
    /// The answer to `request`.
    ///
    /// # Errors
    /// When nobody answers in time, for whatever reason.
    pub fn ask<A: DeserializeOwned>(&self, request: &impl Serialize) -> Result<A, Unanswered> {
        let began = Instant::now();
        let mut answers = self.question(request).ok_or(Unanswered::Nobody)?;
        while began.elapsed() < self.longest_wait && !self.cancel.is_cancelled() {
            let line = read_line(&mut answers).map_err(|_| Unanswered::Nobody)?;
            if line != WAIT {
                return serde_json::from_str(&line).map_err(|_| Unanswered::Nobody);
            }
        }
        Err(Unanswered::StillAtIt)
    }

    fn question(&self, request: &impl Serialize) -> Option<BufReader<UnixStream>> {
        // Another user's socket is not asked: it could say anything.
        let owner = fs::symlink_metadata(&self.path).ok()?.uid();
        if owner != rustix::process::geteuid().as_raw() {
            return None;
        }
        let mut stream = UnixStream::connect(&self.path).ok()?;
        stream.set_write_timeout(Some(SILENCE)).ok()?;
        stream.set_read_timeout(Some(SILENCE)).ok()?;
        write_line(&mut stream, &serde_json::to_string(request).ok()?).ok()?;
        Some(BufReader::new(stream))
    }
}

/// Answers the one question that comes over `stream`. `answer` is given the question and how long it may wait, and is asked
/// again when it has none yet; it is not, once the one who asked is gone.
///
/// # Errors
/// When no question comes in time, or the answer cannot be written.
pub fn serve<R: DeserializeOwned, A: Serialize>(
    mut stream: UnixStream,
    mut answer: impl FnMut(&R, Duration) -> Option<A>,
) -> io::Result<()> {
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    let question = read_line(&mut BufReader::new(&stream))?;
    let question: R = serde_json::from_str(&question)?;
    loop {
        match answer(&question, SIGN_OF_LIFE) {
            Some(answer) => return write_line(&mut stream, &serde_json::to_string(&answer)?),
            None => write_line(&mut stream, WAIT)?,
        }
    }
}

fn write_line(stream: &mut impl Write, line: &str) -> io::Result<()> {
    stream.write_all(format!("{line}\n").as_bytes())
}

/// One whole line: what a process that dies leaves unfinished is none.
fn read_line(stream: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    stream.take(LINE_BYTES).read_line(&mut line)?;
    match line.strip_suffix('\n') {
        Some(whole) => Ok(whole.to_owned()),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(path: &Path) -> Option<u32> {
        line(path, &Cancel::new()).ask(&7_u32).ok()
    }

    fn line<'a>(path: &Path, cancel: &'a Cancel) -> Line<'a> {
        Line { path: path.to_owned(), cancel, longest_wait: Duration::from_secs(60) }
    }

    #[test]
    fn one_who_works_too_long_is_told_from_one_who_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("line.sock");
        let cancel = Cancel::new();
        let short = Line { longest_wait: Duration::from_millis(20), ..line(&path, &cancel) };
        assert_eq!(short.ask::<u32>(&7_u32), Err(Unanswered::Nobody));
        let listener = bind(&path).unwrap();
        let serving = std::thread::spawn(move || {
            serve(listener.accept().unwrap().0, |_: &u32, _| {
                std::thread::yield_now();
                None::<u32>
            })
        });
        assert_eq!(short.ask::<u32>(&7_u32), Err(Unanswered::StillAtIt));
        assert!(serving.join().unwrap().is_err(), "nobody listens any more");
    }

    #[test]
    fn an_answer_may_take_its_time_and_a_stale_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("line.sock");
        assert_eq!(ask(&path), None);
        drop(bind(&path).unwrap());
        assert_eq!(ask(&path), None, "nobody listens there any more");
        let listener = bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let serving = std::thread::spawn(move || {
            let mut waits = 2;
            serve(listener.accept().unwrap().0, |question: &u32, _| {
                waits -= 1;
                (waits == 0).then_some(question + 1)
            })
        });
        assert_eq!(ask(&path), Some(8));
        serving.join().unwrap().unwrap();
    }

    #[test]
    fn half_an_answer_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("line.sock");
        for words in ["", "wait\n", "8", "wait\nnonsense\n", "{\"a\":1}\n"] {
            let listener = bind(&path).unwrap();
            let serving = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                read_line(&mut BufReader::new(&stream)).unwrap();
                stream.write_all(words.as_bytes()).unwrap();
            });
            assert_eq!(ask(&path), None, "{words}");
            serving.join().unwrap();
        }
    }
}
