//! Running programs as the server's user, with deadlines, and ending only what was started here.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::dirs;

/// How often waiting looks again.
const POLL: Duration = Duration::from_millis(10);

/// What every command has in its environment besides.
static AMBIENT: Mutex<BTreeMap<&'static str, &'static str>> = Mutex::new(BTreeMap::new());

/// Adds variables to the environment of every command from here on, servers included: the same in all tests of a binary.
pub fn add_environment(variables: impl IntoIterator<Item = (&'static str, &'static str)>) {
    AMBIENT.lock().unwrap_or_else(PoisonError::into_inner).extend(variables);
}

/// A command for the server's user with an environment of its own: `PATH`, `HOME`, a UTF-8 locale and UTC, and what [`add_environment`] named; nothing else.
pub fn command(program: &Path, home: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().envs(std::env::vars_os().filter(|(name, _)| name == "PATH" || name == "LLVM_PROFILE_FILE"));
    command.envs(AMBIENT.lock().unwrap_or_else(PoisonError::into_inner).iter());
    command.env("HOME", home).env("LC_ALL", "C.UTF-8").env("TZ", "UTC").current_dir(home).stdin(Stdio::null());
    if let Some((uid, gid)) = dirs::server_user() {
        command.uid(uid).gid(gid);
    }
    command
}

/// What a finished program left.
#[derive(Clone, Debug)]
pub struct Output {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Wall time.
    pub elapsed: Duration,
}

impl Output {
    /// Asserts exit code 0 and returns self.
    #[track_caller]
    pub fn success(self) -> Self {
        self.exits(0)
    }

    /// Asserts the exit code and returns self.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "expected exit code {code}\n{self}");
        self
    }

    /// Asserts the exit code, and that the error and a hint name all of `words`; returns self.
    #[track_caller]
    pub fn refuses(self, code: i32, words: &[&str]) -> Self {
        let output = self.exits(code);
        assert!(output.stderr.starts_with("error: ") || output.stderr.contains("\nerror: "), "no error is told\n{output}");
        assert!(output.stderr.contains("\nhint: "), "no hint is given\n{output}");
        for word in words {
            assert!(output.stderr.contains(word), "'{word}' is not told\n{output}");
        }
        output
    }

    /// Asserts that SIGKILL ended it, as at a kill point.
    #[track_caller]
    pub fn killed(self) -> Self {
        assert_eq!(self.signal, Some(Signal::KILL.as_raw()), "expected to be killed\n{self}");
        self
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "exit code {:?}, signal {:?}, after {:?}", self.code, self.signal, self.elapsed)?;
        write!(f, "--- stdout\n{}--- stderr\n{}---", self.stdout, self.stderr)
    }
}

/// A program under way; killed by its process id on drop.
#[derive(Debug)]
pub struct Running {
    child: Child,
    started: Instant,
    stdout: File,
    stderr: File,
}

impl Running {
    /// Starts `command` with its output going to unnamed files, so that no pipe can fill up.
    pub fn start(mut command: Command) -> Self {
        let (stdout, stderr) = (tempfile::tempfile().expect("temporary file"), tempfile::tempfile().expect("temporary file"));
        command.stdout(stdout.try_clone().expect("duplicate")).stderr(stderr.try_clone().expect("duplicate"));
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
        Self { child, started: Instant::now(), stdout, stderr }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        signal_pid(self.pid(), signal);
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("own child").is_some()
    }

    /// What it has written to standard error so far.
    pub fn stderr_so_far(&self) -> String {
        read_all(&self.stderr)
    }

    /// Waits for its end; after `timeout` it is killed and the test fails.
    #[track_caller]
    pub fn finish(mut self, timeout: Duration) -> Output {
        let status = wait_child(&mut self.child, timeout);
        let elapsed = self.started.elapsed();
        let (stdout, stderr) = (read_all(&self.stdout), read_all(&self.stderr));
        let Some(status) = status else {
            panic!("still running after {timeout:?}\n--- stdout\n{stdout}--- stderr\n{stderr}---");
        };
        Output { code: status.code(), signal: status.signal(), stdout, stderr, elapsed }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Only fails when it has just ended by itself.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Runs `command` to its end; after `timeout` it is killed and the test fails.
#[track_caller]
pub fn run(command: Command, timeout: Duration) -> Output {
    Running::start(command).finish(timeout)
}

/// Waits for a child's end; `None` when `timeout` passes first.
pub fn wait_child(child: &mut Child, timeout: Duration) -> Option<ExitStatus> {
    poll(timeout, || child.try_wait().expect("own child"))
}

/// Asks again and again until there is an answer; `None` when `timeout` passes first.
pub fn poll<T>(timeout: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(POLL);
    }
}

/// Waits until `done` holds; the test fails, naming `what`, when `timeout` passes first.
#[track_caller]
pub fn wait_until(what: &str, timeout: Duration, mut done: impl FnMut() -> bool) {
    assert!(poll(timeout, || done().then_some(())).is_some(), "{what}: not within {timeout:?}");
}

/// Sends a signal to one process; a process that has ended is no error.
pub fn signal_pid(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    if let Err(error) = kill_process(pid, signal) {
        assert_eq!(error, rustix::io::Errno::SRCH, "signal {signal:?} to {pid:?}");
    }
}

/// The ids of `parent`'s living children.
pub fn children_of(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("/proc is readable").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| state_and_parent(*pid).is_some_and(|(state, ppid)| state != 'Z' && ppid == parent)).collect()
}

/// Whether a process is there and no zombie.
pub fn is_alive(pid: u32) -> bool {
    state_and_parent(pid).is_some_and(|(state, _)| state != 'Z')
}

fn state_and_parent(pid: u32) -> Option<(char, u32)> {
    // "pid (name) state ppid …"; the name may hold anything, so look after the last parenthesis.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn read_all(file: &File) -> String {
    use std::os::unix::fs::FileExt;
    let length = file.metadata().expect("own file").len();
    let mut bytes = vec![0; usize::try_from(length).expect("fits in memory")];
    file.read_exact_at(&mut bytes, 0).expect("own file");
    String::from_utf8_lossy(&bytes).into_owned()
}
