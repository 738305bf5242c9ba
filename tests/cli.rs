//! The command line as a user meets it: exit code, stdout and stderr together in one snapshot.
//!
//! After a wanted change: `INSTA_UPDATE=always cargo test --test cli`, then read the diff.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const VERBS: &[&str] = &[
    "",
    "init",
    "check",
    "backup",
    "list",
    "status",
    "report",
    "runbook",
    "archive",
    "archive push",
    "archive get",
    "archive resolve",
    "restore",
    "promote",
    "verify",
    "expire",
    "copy",
    "queue",
    "drill",
    "policy",
    "policy check",
    "policy show",
    "policy list",
    "run",
    "schedule",
    "schedule print",
    "demo",
    "completions",
    "man",
];

/// An empty directory to run in, with nothing of this machine's environment.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::Builder::new().prefix("lifeboat cli ").tempdir().unwrap() }
    }

    /// A place whose `lifeboat.toml` says `config`.
    fn with_config(config: &str) -> Self {
        let place = Self::new();
        fs::write(place.path("lifeboat.toml"), config).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `lifeboat` with `line` split at spaces.
    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        command.args(line.split_whitespace()).current_dir(self.dir.path()).stdin(Stdio::null());
        command.env_clear().env("HOME", self.dir.path().join("home")).env("TZ", "UTC");
        command
    }

    fn run(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    fn code(&self, line: &str) -> i32 {
        self.run(line).status.code().unwrap()
    }

    /// What the user sees of `lifeboat line`, with this machine's paths taken out.
    fn shown(&self, line: &str) -> String {
        self.show(line, &self.run(line))
    }

    fn show(&self, line: &str, output: &Output) -> String {
        let text = |bytes: &[u8]| {
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            text.replace(self.dir.path().to_str().unwrap(), "[DIR]")
        };
        format!(
            "$ lifeboat {line}\nexit code: {}\n----- stdout -----\n{}----- stderr -----\n{}",
            output.status.code().unwrap(),
            text(&output.stdout),
            text(&output.stderr)
        )
    }
}

#[test]
fn help_of_every_verb() {
    let place = Place::new();
    for verb in VERBS {
        let shown = place.shown(&format!("{verb} --help"));
        for line in shown.lines() {
            assert!(line.chars().count() <= 80, "help of '{verb}' is too wide: {line}");
        }
        insta::assert_snapshot!(format!("help {verb}").trim().replace(' ', "-"), shown);
    }
    insta::assert_snapshot!("help-short", place.shown("-h"));
}

#[test]
fn usage_errors() {
    let place = Place::new();
    for (name, line) in [
        ("unknown-verb", "bakcup orders"),
        ("unknown-option", "backup orders --tpye full"),
        ("bad-value", "backup orders --type huge"),
        ("bad-source-name", "list ../etc"),
        ("two-targets", "restore orders --into DIR --to latest --to-xid 7"),
        ("bad-time", "restore orders --into DIR --to yesterday"),
        ("missing-option", "restore orders"),
        ("missing-option-json", "restore orders --output json"),
    ] {
        insta::assert_snapshot!(format!("usage-{name}"), place.shown(line));
    }
}

#[test]
fn configuration_errors() {
    for (name, config, line) in [
        ("unknown-key", "[encryption]\nrecipient = []\n", "list"),
        ("wrong-type", "\nstate_dir = 7\n", "list"),
        ("several", "[repository.main]\nurl = \"/srv/b\"\n[source.a]\nkind = \"postgres\"\nworkers = 2\n", "list"),
        ("not-toml", "state_dir = \"a\nb\"\n", "list"),
        ("json", "[backup]\nwokers = 4\n", "list --output json"),
        ("missing-named", "", "list --config other.toml"),
        ("unreadable", "", "list --config ."),
    ] {
        insta::assert_snapshot!(format!("config-{name}"), Place::with_config(config).shown(line));
    }
    let place = Place::new();
    insta::assert_snapshot!("config-none", place.shown("list"));
    let output = place.command("list").env("LIFEBOAT_CONFIG", "from-environment.toml").output().unwrap();
    insta::assert_snapshot!("config-missing-in-environment", place.show("list", &output));
}

#[test]
fn archive_get_never_reads_as_the_end_of_the_log() {
    let place = Place::with_config("[oops]\n");
    for line in [
        "archive get",
        "archive get orders 000000010000000000000001",
        "archive get orders 000000010000000000000001 pg_wal/x extra",
        "archive get ../orders 000000010000000000000001 pg_wal/x",
        "archive get orders 000000010000000000000001 pg_wal/x",
        "archive get orders 000000010000000000000001 pg_wal/x --config none.toml",
        "archive get orders 000000010000000000000001 pg_wal/x --help",
        "archive get orders 000000010000000000000001 pg_wal/x --output yaml",
        "--oops archive get orders 000000010000000000000001 pg_wal/x",
        "archive gte orders 000000010000000000000001 pg_wal/x",
        "arcive get orders 000000010000000000000001 pg_wal/x",
        "archive",
    ] {
        assert_eq!(place.code(line), 255, "{line}");
    }
    assert_eq!(place.code("archive get --help"), 0);
    insta::assert_snapshot!("guard-get-usage", place.shown("archive get orders"));
    insta::assert_snapshot!("guard-get-config", place.shown("archive get orders 000000010000000000000001 pg_wal/x"));
}

#[test]
fn init_makes_keys_and_a_repository_once() {
    let place = Place::new();
    let url = format!("file://{}/repo", place.path("").to_str().unwrap().trim_end_matches('/').replace(' ', "%20"));
    fs::write(place.path("lifeboat.toml"), format!("state_dir = \"state\"\n[repository.main]\nurl = \"{url}\"\n")).unwrap();
    let shown = |line: &str| {
        let shown = place.shown(line).replace(&place.dir.path().to_str().unwrap().replace(' ', "%20"), "[DIR]");
        let secret = shown.split('"').filter(|word| word.len() == 64 || word.starts_with("age1"));
        let shown = secret
            .fold(shown.clone(), |shown, word| shown.replace(word, if word.len() == 64 { "[ROOT]" } else { "[RECIPIENT]" }));
        let note = shown
            .find("\nThe repository's directory belongs to root.")
            .map(|at| (at, at + shown[at + 1..].find("\n\n").unwrap() + 2));
        note.map_or(shown.clone(), |(from, to)| shown[..from].to_owned() + &shown[to..])
    };
    insta::assert_snapshot!("init-without-keys", shown("init"));
    insta::assert_snapshot!("init-dry-run", shown("init --generate-keys keys --dry-run"));
    assert!(!place.path("keys").exists() && !place.path("repo").exists(), "a dry run makes nothing");
    insta::assert_snapshot!("init", shown("init --generate-keys keys"));
    let mode = |name: &str| fs::metadata(place.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("keys"), 0o700);
    for name in ["keys/identity.age", "keys/operator.key", "keys/signing.key"] {
        assert_eq!(mode(name), 0o600, "{name}");
    }
    let before = fs::read(place.path("keys/signing.key")).unwrap();
    insta::assert_snapshot!("init-again", shown("init --generate-keys keys"));
    assert_eq!(fs::read(place.path("keys/signing.key")).unwrap(), before);
}

#[test]
fn archive_push_never_kills_the_archiver() {
    let place = Place::with_config("[oops]\n");
    for line in ["archive push", "archive push orders", "archive push orders get", "archive push orders x --config none.toml"] {
        let code = place.code(line);
        assert!((1..=125).contains(&code), "{line}: {code}");
    }
}

#[cfg(debug_assertions)]
#[test]
fn a_panic_is_a_failure_that_asks_for_a_report() {
    let place = Place::with_config("");
    let config = format!(
        "state_dir = \"state\"\n[repository.main]\nurl = \"{}\"\n[encryption]\nmode = \"off\"\n\
         [signing]\nkey_file = \"keys/signing.key\"\n[source.orders]\nkind = \"postgres\"\nconninfo = \"host=/nowhere\"\n",
        lifeboat::store::file_url(&place.path("repository"))
    );
    fs::write(place.path("lifeboat.toml"), config).unwrap();
    assert_eq!(place.code("init --generate-keys keys"), 0);
    for (line, point, code) in
        [("archive get orders 00000002.history x", "get.start", 255), ("archive push orders x", "push.start", 1)]
    {
        let output = place.command(line).env("LIFEBOAT_PANIC_AT", point).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{line}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        let bug = format!("error: lifeboat ran into a bug of its own: panic planted at {point}\n  at ");
        assert!(stderr.starts_with(&bug) && stderr.contains("hint: please report this"), "{stderr}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    for line in ["completions bash", "--help"] {
        let output = Place::new().command(line).stdout(writer.try_clone().unwrap()).output().unwrap();
        assert_eq!((output.status.code(), output.status.signal()), (Some(0), None), "{line}");
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn results_that_cannot_be_written_are_an_error() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = Place::new().command("completions bash").stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.starts_with("error: cannot write to standard output: "), "{stderr}");
}

/// The configuration is a pipe that nobody writes to, so the verb hangs where it cannot look at the token.
#[test]
fn the_second_signal_ends_at_once() {
    let place = Place::new();
    let fifo = place.path("lifeboat.toml");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    for (line, signal, code) in [
        ("check", Signal::INT, 130),
        ("check", Signal::TERM, 130),
        ("archive get orders 00000002.history x", Signal::TERM, 255),
        ("archive push orders x", Signal::TERM, 1),
    ] {
        let mut child = place.command(line).stderr(Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_child(&child);
        let catches = || catches_signal(pid, signal);
        until("the process listens for signals", catches);
        kill_process(pid, signal).unwrap();
        let mut told = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut told).unwrap();
        assert_eq!(told, "warning: stopping; once more (Ctrl-C) stops at once\n", "{line}");
        assert_eq!(child.try_wait().unwrap(), None, "the first signal must not end the process");
        kill_process(pid, signal).unwrap();
        let mut status = None;
        until("the process ends", || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        assert_eq!(status.unwrap().code(), Some(code), "{line}");
    }
}

/// Whether the process has a handler for the signal, from `SigCgt` in `/proc/PID/status`.
fn catches_signal(pid: Pid, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask & (1 << (signal.as_raw() - 1)) != 0
}

/// Waits for `condition`, ten seconds at most.
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn manual_pages_are_fresh() {
    let place = Place::new();
    let fresh = place.path("man");
    assert_eq!(place.code("man man"), 0);
    assert_same_files(&root().join("man"), &fresh, "cargo run -- man man");
}

#[test]
fn completions_are_fresh() {
    let place = Place::new();
    let fresh = place.path("completions");
    fs::create_dir(&fresh).unwrap();
    for (shell, file) in [("bash", "lifeboat.bash"), ("zsh", "_lifeboat"), ("fish", "lifeboat.fish")] {
        let output = place.run(&format!("completions {shell}"));
        assert!(output.status.success());
        fs::write(fresh.join(file), output.stdout).unwrap();
    }
    let regenerate = "cargo run -- completions bash > completions/lifeboat.bash; \
                      cargo run -- completions zsh > completions/_lifeboat; \
                      cargo run -- completions fish > completions/lifeboat.fish";
    assert_same_files(&root().join("completions"), &fresh, regenerate);
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn assert_same_files(committed: &Path, fresh: &Path, regenerate: &str) {
    let names = |dir: &Path| {
        let entries = fs::read_dir(dir).into_iter().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(committed), names(fresh), "{} is stale; run: {regenerate}", committed.display());
    for name in names(fresh) {
        let same = fs::read(committed.join(&name)).unwrap() == fs::read(fresh.join(&name)).unwrap();
        assert!(same, "{} is stale; run: {regenerate}", committed.join(&name).display());
    }
}
