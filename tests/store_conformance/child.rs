//! Calls made in a process of their own: this test binary, started again.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use lifeboat::store::Body;
use lifeboat::store::Store;
use lifeboat::store::local::LocalStore;

use crate::support::{block_on, count_up, wait_until};

const TASK: &str = "LIFEBOAT_STORE_TEST_TASK";
const ROOT: &str = "LIFEBOAT_STORE_TEST_ROOT";
const KEY: &str = "LIFEBOAT_STORE_TEST_KEY";
const CONTENT: &str = "LIFEBOAT_STORE_TEST_CONTENT";
const GO: &str = "LIFEBOAT_STORE_TEST_GO";

/// How often the text is repeated in the object, so that a put takes a while.
pub const REPEATS: usize = 20_000;

/// A process that makes one call, prints its result as `result: …` and ends.
pub struct Call {
    command: Command,
}

impl Call {
    /// `task` is `put`, `get`, `list`, `replace` (what is there) or `count` (up, ten times); `content` is repeated [`REPEATS`] times.
    pub fn new(task: &str, root: &Path, key: &str, content: &str) -> Self {
        // This link can be followed by other users too, wherever the binary lies.
        let mut command = Command::new("/proc/self/exe");
        command.args(["child::entry", "--exact", "--nocapture", "--test-threads=1"]);
        command.env(TASK, task).env(ROOT, root).env(KEY, key).env(CONTENT, content);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { command }
    }

    pub fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Waits for this file before the call.
    pub fn after(self, go: &Path) -> Self {
        self.env(GO, go)
    }

    pub fn run_by(mut self, user_id: u32) -> Self {
        self.command.uid(user_id).gid(user_id);
        self
    }

    /// Runs under another program: `strace -o FILE`.
    pub fn under(self, program: &str, arguments: &[&str]) -> Self {
        let mut outer = Command::new(program);
        // The link would name the other program now.
        outer.args(arguments).arg(std::env::current_exe().unwrap()).args(self.command.get_args());
        outer.envs(self.command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        outer.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { command: outer }
    }

    pub fn spawn(mut self) -> Running {
        Running(self.command.spawn().unwrap())
    }

    /// The printed result; panics when there is none.
    pub fn run(self) -> String {
        self.spawn().result()
    }
}

/// A started [`Call`], killed when it goes out of scope before its end.
pub struct Running(Child);

impl Running {
    pub fn status(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until("the child ends", || {
            status = self.0.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    pub fn result(mut self) -> String {
        let status = self.status();
        let (mut output, mut errors) = (String::new(), String::new());
        self.0.stdout.take().unwrap().read_to_string(&mut output).unwrap();
        self.0.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        let result = output.lines().find_map(|line| Some(line.split_once("result: ")?.1.to_owned()));
        result.unwrap_or_else(|| panic!("no result, {status}: {output}{errors}"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// What the child runs; without a task it is a test that has nothing to do.
#[test]
fn entry() {
    let Ok(task) = std::env::var(TASK) else { return };
    let variable = |name: &str| std::env::var(name).unwrap();
    if let Some(go) = std::env::var_os(GO) {
        wait_until("the parent says go", || Path::new(&go).exists());
    }
    let store = LocalStore::new(variable(ROOT));
    let (key, content) = (variable(KEY), variable(CONTENT).repeat(REPEATS));
    let result = block_on(async {
        match task.as_str() {
            "put" => format!("{:?}", store.put_if_absent(&key, Body::from(content.into_bytes())).await),
            "get" => format!("{:?}", store.get(&key).await.map(|content| content.len())),
            "list" => format!("{:?}", store.list(&key, None).await.map(|page| page.objects.len())),
            "replace" => {
                let (_, version) = store.get_versioned(&key).await.unwrap();
                format!("{:?}", store.replace_if(&key, content.into(), Some(&version)).await.map(|version| version.is_some()))
            }
            "count" => {
                for _ in 0..10 {
                    count_up(&store, &key).await;
                }
                "counted".to_owned()
            }
            other => panic!("unknown task {other}"),
        }
    });
    println!("result: {result}");
}
