//! One question and one answer over a unix socket, between what PostgreSQL calls and a process that works ahead of it.
//!
//! A line of JSON each way. Whoever cannot answer yet says so twice a second, so that one who died is told from one who
//! works; whoever asks gives up on silence, and does the work itself. Each line must come whole within the same time: one
//! that trickles in, or a listener that was stopped, holds nobody. Nobody but the user who asks, and root, is listened to;
//! the file has mode 0600 and appears under its name with it, in place of what a killed process left there.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::base::Cancel;

/// How often one who cannot answer yet says that it lives.
const SIGN_OF_LIFE: Duration = Duration::from_millis(500);
/// Whoever says nothing for so long is not waited for.
const SILENCE: Duration = Duration::from_secs(3);
/// Longest line.
const LINE_BYTES: usize = 256 << 10;
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
            let line = answers.next().map_err(|_| Unanswered::Nobody)?;
            if line != WAIT {
                return serde_json::from_str(&line).map_err(|_| Unanswered::Nobody);
            }
        }
        Err(Unanswered::StillAtIt)
    }

    fn question(&self, request: &impl Serialize) -> Option<Lines> {
        let mut stream = connect(&self.path).ok()?;
        // Another user who listens could say anything.
        let listener = sockopt::socket_peercred(&stream).ok()?.uid;
        if listener != rustix::process::geteuid() && !listener.is_root() {
            return None;
        }
        stream.set_write_timeout(Some(SILENCE)).ok()?;
        write_line(&mut stream, &serde_json::to_string(request).ok()?).ok()?;
        Some(Lines::of(stream))
    }
}

/// Connects at once or not at all: where nobody accepts, and enough wait already, another would wait for ever.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
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
    stream.set_write_timeout(Some(SILENCE))?;
    let question = Lines::of(stream.try_clone()?).next()?;
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

/// What comes over a socket, line by line.
struct Lines {
    stream: UnixStream,
    /// What came behind the last line.
    rest: Vec<u8>,
}

impl Lines {
    fn of(stream: UnixStream) -> Self {
        Self { stream, rest: Vec::new() }
    }

    /// The next line, within [`SILENCE`]: what a process that dies leaves unfinished is none.
    fn next(&mut self) -> io::Result<String> {
        let deadline = Instant::now() + SILENCE;
        let mut chunk = [0; 4096];
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.rest.drain(..=end).collect();
                line.pop();
                return String::from_utf8(line).map_err(|_| io::ErrorKind::InvalidData.into());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.rest.len() > LINE_BYTES {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => self.rest.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
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

    /// As of a process that was stopped: it accepts nobody, and all who may wait there do.
    #[test]
    fn where_nobody_accepts_nobody_waits() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("line.sock");
        let listener = bind(&path).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let began = Instant::now();
        assert_eq!(ask(&path), None, "it does not answer");
        // More than one may fit in.
        let waiting: Vec<UnixStream> = std::iter::from_fn(|| connect(&path).ok()).collect();
        assert!(waiting.len() < 100, "{} wait", waiting.len());
        assert_eq!(ask(&path), None, "there is no room to wait");
        assert!(began.elapsed() < SILENCE * 2);
    }

    #[test]
    fn a_line_that_trickles_in_holds_nobody_for_long() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("line.sock");
        let trickle = |stream: &UnixStream| {
            // Until the other side has had enough.
            while (&*stream).write_all(b" ").is_ok() {
                std::thread::park_timeout(SILENCE / 30);
            }
        };
        let listener = bind(&path).unwrap();
        let began = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| trickle(&listener.accept().unwrap().0));
            assert_eq!(ask(&path), None, "an answer that trickles in");
        });
        std::thread::scope(|scope| {
            scope.spawn(|| trickle(&connect(&path).unwrap()));
            let served = serve(listener.accept().unwrap().0, |_: &u32, _| Some(1));
            assert!(served.is_err(), "a question that trickles in");
        });
        assert!(began.elapsed() < SILENCE * 3);
    }

    #[test]
    fn several_lines_may_come_at_once() {
        let (here, mut there) = UnixStream::pair().unwrap();
        there.write_all("wait\nwait\n12\nhalf".as_bytes()).unwrap();
        drop(there);
        let mut lines = Lines::of(here);
        let read: Vec<String> = std::iter::from_fn(|| lines.next().ok()).collect();
        assert_eq!(read, ["wait", "wait", "12"]);
    }

    #[test]
    fn half_an_answer_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("line.sock");
        for words in ["", "wait\n", "8", "wait\nnonsense\n", "{\"a\":1}\n"] {
            let listener = bind(&path).unwrap();
            let serving = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                Lines::of(stream.try_clone().unwrap()).next().unwrap();
                stream.write_all(words.as_bytes()).unwrap();
            });
            assert_eq!(ask(&path), None, "{words}");
            serving.join().unwrap();
        }
    }
}
