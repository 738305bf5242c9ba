//! The `lifeboat` binary as its users run it: as the cluster's user, with a configuration and state of its own.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, UNIX_EPOCH};

use age::secrecy::ExposeSecret;

use super::dirs::{self, Dir};
use super::process::{self, Output, Running};
use super::repository::Repository;
use super::s3::S3Server;

/// No command of a test takes longer.
const RUN_TIMEOUT: Duration = Duration::from_secs(180);

/// Copies of the binary older than this are of no test that still runs.
const COPY_LIFE: Duration = Duration::from_secs(3 * 3600);

/// Where root puts copies of the binary: what is below `target/` may be hidden from the server's user.
const COPIES: &str = "/var/tmp/lifeboat-tests/bin";

/// The binary at a path that the server's user can read.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let built = Path::new(env!("CARGO_BIN_EXE_lifeboat"));
        if dirs::server_user().is_none() { built.to_owned() } else { copy_of(built) }
    })
}

/// One copy a build, shared by all test processes; copies of builds long gone are removed.
fn copy_of(built: &Path) -> PathBuf {
    let modified = fs::metadata(built).and_then(|metadata| metadata.modified()).expect("the binary is built");
    let stamp = modified.duration_since(UNIX_EPOCH).expect("built after 1970").as_nanos();
    let copies = Path::new(COPIES);
    fs::create_dir_all(copies).expect("root can write below /var/tmp");
    let copy = copies.join(format!("lifeboat-{stamp:x}"));
    if copy.exists() {
        return copy;
    }
    for entry in fs::read_dir(copies).expect("own directory").flatten() {
        let age = entry.metadata().and_then(|metadata| metadata.modified()).map(|modified| modified.elapsed());
        if matches!(age, Ok(Ok(age)) if age > COPY_LIFE) {
            // Another test process may have been quicker.
            let _ = fs::remove_file(entry.path());
        }
    }
    let staged = tempfile::Builder::new().prefix(".staged-").tempfile_in(copies).expect("own directory").into_temp_path();
    fs::copy(built, &staged).expect("the binary can be copied");
    fs::set_permissions(&staged, fs::Permissions::from_mode(0o755)).expect("own file");
    staged.persist(&copy).expect("same directory");
    copy
}

/// An age identity made for a test.
#[derive(Clone, Debug)]
pub struct Identity {
    /// `age1…`, what the protected host may know.
    pub recipient: String,
    /// `AGE-SECRET-KEY-1…`.
    pub secret: String,
}

impl Identity {
    /// A fresh one.
    pub fn generate() -> Self {
        let identity = age::x25519::Identity::generate();
        Self { recipient: identity.to_public().to_string(), secret: identity.to_string().expose_secret().to_owned() }
    }
}

/// What goes into `lifeboat.toml`.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Keys above all sections, as they are.
    pub top: String,
    /// Name, URL and more keys (as they are) of each repository.
    pub repositories: Vec<(String, String, String)>,
    /// age recipients; with none there is no `[encryption]` unless `sections` has it.
    pub recipients: Vec<String>,
    /// File with the age identity, on a restore host.
    pub identity_file: Option<PathBuf>,
    /// File with the signing key, on a host that writes.
    pub signing_key_file: Option<PathBuf>,
    /// Name, connection string and more keys (as they are) of each PostgreSQL source.
    pub sources: Vec<(String, String, String)>,
    /// More sections, as they are.
    pub sections: String,
}

impl Config {
    /// One repository named `main` where `repository` is.
    pub fn of(repository: &Repository) -> Self {
        Self { repositories: vec![("main".to_owned(), repository.url(), repository.settings())], ..Self::default() }
    }

    /// One repository named `main` in a local directory.
    pub fn local(repository: &Path) -> Self {
        let url = format!("file://{}", repository.display());
        Self { repositories: vec![("main".to_owned(), url, String::new())], ..Self::default() }
    }

    /// One repository named `main` in a bucket.
    pub fn bucket(server: &S3Server, prefix: &str) -> Self {
        Self { repositories: vec![("main".to_owned(), server.url(prefix), server.settings())], ..Self::default() }
    }

    /// Adds a recipient.
    #[must_use]
    pub fn recipient(mut self, identity: &Identity) -> Self {
        self.recipients.push(identity.recipient.clone());
        self
    }

    /// Adds a PostgreSQL source.
    #[must_use]
    pub fn source(mut self, name: &str, conninfo: &str) -> Self {
        self.sources.push((name.to_owned(), conninfo.to_owned(), String::new()));
        self
    }

    /// The file's text. A host adds its `state_dir`.
    pub fn to_toml(&self) -> String {
        let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
        let file = |path: &Path| quoted(&path.display().to_string());
        let mut text = format!("{}\n", self.top);
        for (name, url, extra) in &self.repositories {
            text += &format!("[repository.{name}]\nurl = {}\n{extra}\n", quoted(url));
        }
        if !self.recipients.is_empty() || self.identity_file.is_some() {
            let recipients: Vec<String> = self.recipients.iter().map(|recipient| quoted(recipient)).collect();
            text += &format!("[encryption]\nrecipients = [{}]\n", recipients.join(", "));
            text += &self.identity_file.as_deref().map(|path| format!("identity_file = {}\n", file(path))).unwrap_or_default();
        }
        if let Some(path) = &self.signing_key_file {
            text += &format!("[signing]\nkey_file = {}\n", file(path));
        }
        for (name, conninfo, extra) in &self.sources {
            text += &format!("[source.{name}]\nkind = \"postgres\"\nconninfo = {}\n{extra}\n", quoted(conninfo));
        }
        text + &self.sections
    }
}

/// One host on which `lifeboat` runs: a home, a configuration, a state directory.
#[derive(Debug)]
pub struct Host {
    dir: Dir,
    /// The configuration file.
    pub config: PathBuf,
}

impl Host {
    /// A host with this configuration.
    pub fn new(config: &Config) -> Self {
        let dir = Dir::new();
        dir.create_dir("state");
        let host = Self { config: dir.join("lifeboat.toml"), dir };
        host.configure(config);
        host
    }

    /// Rewrites the configuration, with this host's state directory.
    pub fn configure(&self, config: &Config) {
        let state_dir = toml::Value::String(self.state_dir().display().to_string());
        self.configure_text(&format!("state_dir = {state_dir}\n{}", config.to_toml()));
    }

    /// Rewrites the configuration with any text, right or wrong.
    pub fn configure_text(&self, text: &str) {
        self.dir.write("lifeboat.toml", text);
    }

    /// The configuration's text.
    pub fn configuration(&self) -> String {
        fs::read_to_string(&self.config).expect("own configuration")
    }

    /// Adds sections to the configuration.
    pub fn append_configuration(&self, sections: &str) {
        self.configure_text(&format!("{}\n{sections}", self.configuration()));
    }

    /// Another host with this one's configuration and keys, and nothing of what it remembers.
    #[must_use]
    pub fn twin(&self) -> Self {
        let twin = Self::new(&Config::default());
        let path = |host: &Self| host.state_dir().display().to_string();
        twin.configure_text(&self.configuration().replace(&path(self), &path(&twin)));
        twin
    }

    /// Writes a file that only this host has, and returns its path.
    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        self.dir.write(name, content)
    }

    /// This host's own directory.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Where `lifeboat` keeps what it remembers here.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// `lifeboat` with these arguments, as a command to change further.
    pub fn command<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Command {
        let mut command = process::command(binary(), self.dir.path());
        command.env("LIFEBOAT_CONFIG", &self.config).env("RUST_BACKTRACE", "1").args(arguments);
        command
    }

    /// Runs `lifeboat` to its end.
    #[track_caller]
    pub fn run<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Output {
        process::run(self.command(arguments), RUN_TIMEOUT)
    }

    /// [`Host::run`] that must succeed.
    #[track_caller]
    pub fn ok<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Output {
        self.run(arguments).success()
    }

    /// Runs `lifeboat … --output json`, which must succeed, and parses its output.
    #[track_caller]
    pub fn json<A: AsRef<OsStr>>(&self, arguments: &[A]) -> serde_json::Value {
        let all: Vec<OsString> =
            arguments.iter().map(|a| a.as_ref().to_owned()).chain(["--output".into(), "json".into()]).collect();
        let output = self.ok(&all);
        serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("no JSON: {error}\n{output}"))
    }

    /// Starts `lifeboat` in the background.
    pub fn start<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Running {
        Running::start(self.command(arguments))
    }

    /// Runs `lifeboat`, which must succeed, and returns its peak resident memory in KiB.
    #[track_caller]
    pub fn peak_kib<A: AsRef<OsStr>>(&self, arguments: &[A]) -> u64 {
        let mut running = self.start(arguments);
        let status_file = format!("/proc/{}/status", running.pid());
        let mut peak_kib = 0;
        process::wait_until("the command ends", Duration::from_secs(300), || {
            let status = fs::read_to_string(&status_file).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let now = line.and_then(|text| text.trim().strip_suffix(" kB")?.trim().parse().ok()).unwrap_or(0);
            peak_kib = peak_kib.max(now);
            running.has_ended()
        });
        running.finish(Duration::from_secs(1)).success();
        assert!(peak_kib > 0, "nothing was measured");
        peak_kib
    }

    /// Runs `lifeboat` with a kill point armed: `NAME`, or `NAME:3` for the third pass. It may end before it gets there.
    #[track_caller]
    pub fn run_killed_at<A: AsRef<OsStr>>(&self, point: &str, arguments: &[A]) -> Output {
        let mut command = self.command(arguments);
        command.env("LIFEBOAT_KILL_AT", point);
        process::run(command, RUN_TIMEOUT)
    }

    /// Runs `lifeboat` with a panic planted at a kill point.
    #[track_caller]
    pub fn run_panicking_at<A: AsRef<OsStr>>(&self, point: &str, arguments: &[A]) -> Output {
        let mut command = self.command(arguments);
        command.env("LIFEBOAT_PANIC_AT", point);
        process::run(command, RUN_TIMEOUT)
    }

    /// A line for `postgresql.conf`: `archive_command = '…'`.
    pub fn archive_command(&self, source: &str) -> String {
        self.server_command("archive_command", &["archive", "push", source, "%p"], "")
    }

    /// A line for `postgresql.conf`: `restore_command = '…'`.
    pub fn restore_command(&self, source: &str) -> String {
        self.server_command("restore_command", &["archive", "get", source, "%f", "%p"], "")
    }

    /// A line for `postgresql.conf` that has the server run `lifeboat`; `prefix` is shell text before it (`VARIABLE=value`).
    pub fn server_command(&self, setting: &str, arguments: &[&str], prefix: &str) -> String {
        let words: Vec<String> =
            arguments.iter().map(|word| if word.starts_with('%') { format!("\"{word}\"") } else { shell(word) }).collect();
        let (program, config) = (shell(&binary().display().to_string()), shell(&self.config.display().to_string()));
        let line = format!("{prefix} {program} --config {config} {}", words.join(" "));
        format!("{setting} = '{}'", line.trim_start().replace('\\', r"\\").replace('\'', "''"))
    }
}

/// A word as `sh` and PostgreSQL's own `%` substitution leave it unchanged.
fn shell(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''").replace('%', "%%"))
}
