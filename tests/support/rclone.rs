//! `rclone serve s3` as a process of its own: a store that takes `If-None-Match` and overwrites all the same.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// How long the server may take to start.
const START: Duration = Duration::from_secs(30);

/// The only bucket.
pub const BUCKET: &str = "bucket";

/// What signs requests: as in `s3.rs`, for all tests of a binary share one environment.
pub const ACCESS_KEY: &str = "LIFEBOATTESTKEY";
/// Its secret.
pub const SECRET_KEY: &str = "lifeboat-test-secret";

/// A server process that ends with this value.
#[derive(Debug)]
pub struct Rclone {
    /// `http://127.0.0.1:PORT`.
    pub endpoint: String,
    child: Child,
    directory: tempfile::TempDir,
}

impl Drop for Rclone {
    fn drop(&mut self) {
        // Only fails when it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program that tests/run installs; without it, where it should be.
pub fn program() -> Result<PathBuf, PathBuf> {
    let beside = std::env::var_os("LIFEBOAT_TEST_PG_DIR").unwrap_or("/var/tmp/lifeboat-tests/postgresql".into());
    let program = PathBuf::from(beside).parent().map(|parent| parent.join("rclone/rclone")).unwrap_or_default();
    if program.exists() { Ok(program) } else { Err(program) }
}

impl Rclone {
    /// A server with an empty bucket.
    pub fn start(program: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("data").join(BUCKET)).unwrap();
        let key = format!("{ACCESS_KEY},{SECRET_KEY}");
        let mut child = Command::new(program)
            .args(["serve", "s3", "--auth-key", &key, "--addr", "127.0.0.1:0", "--vfs-cache-mode", "off", "--config", ""])
            .arg(directory.path().join("data"))
            .env("RCLONE_CACHE_DIR", directory.path().join("cache"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (tell, told) = mpsc::channel();
        let log = BufReader::new(child.stderr.take().unwrap());
        // Read to its end, so that the server is never held up by what it writes.
        std::thread::spawn(move || {
            let lines = log.lines().map_while(Result::ok);
            lines.for_each(|line| {
                if let Some(address) = line.split_once("[http://").and_then(|(_, rest)| rest.split(['/', ']']).next()) {
                    let _ = tell.send(address.to_owned());
                }
            });
        });
        let mut server = Self { endpoint: String::new(), child, directory };
        let address = told.recv_timeout(START).expect("rclone says where it listens");
        server.endpoint = format!("http://{address}");
        server
    }

    /// Where it keeps the bucket's objects.
    pub fn bucket_directory(&self) -> PathBuf {
        self.directory.path().join("data").join(BUCKET)
    }
}
