//! Servers of this program's own: PostgreSQL's programs found on this host, and a private server started and stopped.
//!
//! Invariants: a server is a child of this process in a process group of its own, so that Ctrl-C is this program's to
//! handle; it is stopped by its own process id, at the latest when dropped; it runs as an account that is not root.

use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::User;
use rustix::process::{Pid, Signal, kill_process};

use super::connect::SUPPORTED_MAJORS;
use crate::base::{Cancel, Error, Result};

/// How often waiting looks again.
const POLL: Duration = Duration::from_millis(10);
/// How long a server may take to come up where nothing has to be recovered, or to stop at once.
const PATIENCE: Duration = Duration::from_secs(60);

/// PostgreSQL's programs of one major version on this host.
#[derive(Clone, Debug)]
pub struct Installation {
    /// The major version.
    pub major: u32,
    bin: PathBuf,
}

impl Installation {
    /// The newest supported PostgreSQL on this host.
    ///
    /// # Errors
    /// When there is none; says which package has it.
    pub fn newest() -> Result<Self> {
        all().max_by_key(|found| found.major).ok_or_else(|| {
            Error::failed("there is no PostgreSQL server (13 to 18) on this host")
                .hint("apt-get install postgresql        (Debian, Ubuntu)")
                .hint("dnf install postgresql-server     (Fedora, RHEL)")
        })
    }

    /// The installation of one major version.
    ///
    /// # Errors
    /// When it is not on this host; says which package has it.
    pub fn of_major(major: u32) -> Result<Self> {
        all().find(|found| found.major == major).ok_or_else(|| {
            let mut others: Vec<u32> = all().map(|found| found.major).collect();
            others.sort_unstable();
            others.dedup();
            let others: Vec<String> = others.iter().map(u32::to_string).collect();
            Error::failed(format!("PostgreSQL {major} is not on this host"))
                .detail("found", if others.is_empty() { "none".to_owned() } else { others.join(", ") })
                .hint(format!("apt-get install postgresql-{major}         (Debian, Ubuntu; apt.postgresql.org has all majors)"))
                .hint(format!("dnf install postgresql{major}-server       (Fedora, RHEL; yum.postgresql.org has all majors)"))
                .hint("where it is elsewhere, put the directory with its programs into PATH")
        })
    }

    /// The path of one of its programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }
}

/// What the usual places and `PATH` hold.
fn all() -> impl Iterator<Item = Installation> {
    let mut candidates: Vec<PathBuf> = Vec::new();
    let places = [("/usr/lib/postgresql", "bin"), ("/usr", "bin"), ("/usr/local", "pgsql/bin"), ("/opt/homebrew/opt", "bin")];
    for (root, below) in places {
        candidates.extend(fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path().join(below)));
        candidates.push(Path::new(root).join(below));
    }
    candidates.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
    let found = candidates.into_iter().filter_map(|bin| Some(Installation { major: major(&bin)?, bin }));
    found.filter(|found| SUPPORTED_MAJORS.contains(&found.major))
}

/// The major version of the server whose programs lie in `bin`; `None` when they do not.
fn major(bin: &Path) -> Option<u32> {
    if !["initdb", "pg_ctl", "postgres"].iter().all(|program| bin.join(program).is_file()) {
        return None;
    }
    let output = Command::new(bin.join("postgres")).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.split_whitespace().find_map(|word| word.split('.').next()?.parse().ok())
}

/// The account that runs servers: PostgreSQL refuses root.
#[derive(Clone, Debug)]
pub struct Account {
    /// Set when this process is root and must become somebody else.
    switch_to: Option<(u32, u32)>,
    /// Its name.
    pub name: String,
}

impl Account {
    /// This user, or for root an account without rights.
    ///
    /// # Errors
    /// When root has nobody to become.
    pub fn choose() -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self::own());
        }
        let known = ["postgres", "nobody"].iter().find_map(|name| User::from_name(name).ok().flatten());
        let user =
            known.ok_or_else(|| Error::failed("PostgreSQL does not run as root, and there is no user 'postgres' or 'nobody'"))?;
        Ok(Self { switch_to: Some((user.uid.as_raw(), user.gid.as_raw())), name: user.name })
    }

    /// This user, whoever that is.
    pub fn own() -> Self {
        let name = User::from_uid(nix::unistd::Uid::effective()).ok().flatten().map(|user| user.name);
        Self { switch_to: None, name: name.unwrap_or_else(|| "you".to_owned()) }
    }

    /// The owner of `path`, whom this process must be, or may become.
    ///
    /// # Errors
    /// When this user is neither the owner nor root.
    pub fn owner_of(path: &Path) -> Result<Self> {
        use std::os::unix::fs::MetadataExt;
        let owner = fs::metadata(path).map_err(|error| Error::io("look at", path, error))?;
        let name = User::from_uid(nix::unistd::Uid::from_raw(owner.uid())).ok().flatten().map(|user| user.name);
        let name = name.unwrap_or_else(|| format!("with the number {}", owner.uid()));
        let own = rustix::process::geteuid();
        match own.as_raw() == owner.uid() {
            true => Ok(Self { switch_to: None, name }),
            false if own.is_root() => Ok(Self { switch_to: Some((owner.uid(), owner.gid())), name }),
            false => Err(Error::failed(format!("{} belongs to the user {name}", path.display()))
                .hint(format!("run this as that user: sudo -u {name} lifeboat …"))),
        }
    }

    /// A command that runs as this account.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.stdin(Stdio::null());
        if let Some((uid, gid)) = self.switch_to {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Whether it is another than the one that runs this process.
    pub fn is_another(&self) -> bool {
        self.switch_to.is_some()
    }

    /// Whether it may do with `path` what an operator of test(1) asks for: `-r`, `-x`.
    ///
    /// # Errors
    /// When that cannot be tried.
    pub fn may(&self, operator: &str, path: &Path) -> Result<bool> {
        let mut shell = self.command(Path::new("/bin/sh"));
        let tried = shell.args(["-c", "test \"$1\" \"$2\"", "sh", operator]).arg(path).current_dir("/").status();
        let tried = tried.map_err(|error| Error::failed(format!("cannot become user {}", self.name)).caused_by(error))?;
        Ok(tried.success())
    }

    /// Gives `path`, not what is below it, to this account.
    ///
    /// # Errors
    /// When it cannot be given away.
    pub fn give(&self, path: &Path) -> Result<()> {
        let Some((uid, gid)) = self.switch_to else { return Ok(()) };
        std::os::unix::fs::lchown(path, Some(uid), Some(gid)).map_err(|error| Error::io("give away", path, error))
    }

    /// Gives `directory` and everything below it to this account; links are not followed.
    ///
    /// # Errors
    /// When something cannot be given away.
    pub fn give_tree(&self, directory: &Path) -> Result<()> {
        let Some((uid, gid)) = self.switch_to else { return Ok(()) };
        let mut pending = vec![directory.to_owned()];
        while let Some(directory) = pending.pop() {
            let failed = |error| Error::io("give away", &directory, error);
            chown(&directory, Some(uid), Some(gid)).map_err(failed)?;
            for entry in fs::read_dir(&directory).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                match entry.file_type().map_err(failed)?.is_dir() {
                    true => pending.push(entry.path()),
                    false => self.give(&entry.path())?,
                }
            }
        }
        Ok(())
    }
}

/// A private server, running or not.
#[derive(Debug)]
pub struct ScratchServer {
    /// Whose programs it is.
    pub installation: Installation,
    /// Who runs it.
    pub account: Account,
    /// Its data directory.
    pub data: PathBuf,
    /// The directory with its only socket.
    pub sockets: PathBuf,
    /// What it writes to standard output and error.
    pub log: PathBuf,
    /// Settings that win over whatever its configuration files say.
    pub settings: Vec<(String, String)>,
    /// Variables added to its environment; what it runs inherits them.
    pub environment: Vec<(OsString, OsString)>,
    child: Option<Child>,
}

impl ScratchServer {
    /// The server of the cluster in `data`, reached by a socket in `sockets` only; not started.
    pub fn new(installation: &Installation, account: &Account, data: &Path, sockets: &Path, log: &Path) -> Self {
        let directory = sockets.display().to_string();
        let settings = [("listen_addresses", ""), ("port", "5432"), ("unix_socket_directories", &quoted_directory(&directory))];
        Self {
            installation: installation.clone(),
            account: account.clone(),
            data: data.to_owned(),
            sockets: sockets.to_owned(),
            log: log.to_owned(),
            settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
            environment: Vec::new(),
            child: None,
        }
    }

    /// Starts the server and does not wait for it.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn launch(&mut self) -> Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.map_err(|error| Error::io("write", &self.log, error))?;
        let second = log.try_clone().map_err(|error| Error::io("write", &self.log, error))?;
        let program = self.installation.program("postgres");
        let mut command = self.account.command(&program);
        command.arg("-D").arg(&self.data);
        for (name, value) in &self.settings {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdout(log).stderr(second).current_dir("/").process_group(0);
        let child = command.spawn();
        self.child = Some(child.map_err(|error| Error::failed(format!("cannot run {}", program.display())).caused_by(error))?);
        Ok(())
    }

    /// Starts the server and waits until it takes connections; for one that has little to recover.
    ///
    /// # Errors
    /// When it ends or takes too long; with the end of its log.
    pub fn start(&mut self) -> Result<()> {
        self.launch()?;
        let deadline = Instant::now() + PATIENCE;
        while !self.is_ready() {
            if self.has_ended()? || Instant::now() > deadline {
                return Err(Error::failed("the PostgreSQL server does not start").detail("log", self.log_end(5)));
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// As `pg_ctl` sees it: the eighth line of `postmaster.pid`.
    fn is_ready(&self) -> bool {
        let text = fs::read_to_string(self.data.join("postmaster.pid")).unwrap_or_default();
        let own = |line: Option<&str>| line.and_then(|pid| pid.trim().parse().ok()) == self.pid();
        own(text.lines().next()) && text.lines().nth(7).is_some_and(|state| matches!(state.trim(), "ready" | "standby"))
    }

    /// Its process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Whether it has ended by itself, or never ran.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn has_ended(&mut self) -> Result<bool> {
        let Some(child) = &mut self.child else { return Ok(true) };
        let ended = child.try_wait().map_err(|error| Error::failed("cannot watch the PostgreSQL server").caused_by(error))?;
        if ended.is_some() {
            self.child = None;
        }
        Ok(ended.is_some())
    }

    /// Ends the server's sessions, has it write a checkpoint, and waits for its end for as long as that takes: it writes
    /// all that it has in memory. Then the files are whole. One that does not run stays as it is.
    ///
    /// # Errors
    /// On the wish to stop waiting, or when the system does not tell.
    pub fn stop(&mut self, cancel: &Cancel) -> Result<()> {
        self.signal(Signal::INT);
        while !self.has_ended()? {
            cancel.check()?;
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// Stops the server at once, as if the power had gone, and waits for its end. What takes too long is killed.
    ///
    /// # Errors
    /// When it had to be killed.
    pub fn stop_at_once(&mut self) -> Result<()> {
        self.signal(Signal::QUIT);
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if !matches!(child.try_wait(), Ok(None)) {
                return Ok(());
            }
            std::thread::sleep(POLL);
        }
        let _ = child.kill();
        let _ = child.wait();
        Err(Error::failed("the PostgreSQL server did not stop and was killed").detail("log", self.log_end(5)))
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            // Fails only when it has just ended by itself.
            let _ = kill_process(Pid::from_child(child), signal);
        }
    }

    /// Leaves the server running when this program ends.
    pub fn leave(&mut self) {
        self.child = None;
    }

    /// What it has written to its log so far.
    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The last lines of its log.
    pub fn log_end(&self, lines: usize) -> String {
        let text = self.log_text();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// A connection string for `user` in `database`.
    pub fn conninfo(&self, user: &str, database: &str) -> String {
        let quoted = |text: &str| format!("'{}'", text.replace('\\', r"\\").replace('\'', r"\'"));
        let sockets = quoted(&self.sockets.display().to_string());
        format!("host={sockets} port=5432 user={} dbname={} sslmode=disable", quoted(user), quoted(database))
    }
}

impl Drop for ScratchServer {
    fn drop(&mut self) {
        // On the way out of an error: that error is the one that counts.
        let _ = self.stop_at_once();
    }
}

/// A directory in a setting that holds a list.
fn quoted_directory(directory: &str) -> String {
    format!("\"{}\"", directory.replace('"', "\"\""))
}

/// Runs a command to its end; its words become the error's when it fails.
///
/// # Errors
/// When it cannot be run, or fails.
pub fn run(command: &mut Command, action: &str) -> Result<()> {
    let output = command.output().map_err(|error| {
        Error::failed(format!("cannot {action}: {} cannot be run", Path::new(command.get_program() as &OsStr).display()))
            .caused_by(error)
    })?;
    match output.status.success() {
        true => Ok(()),
        false => {
            Err(Error::failed(format!("cannot {action}"))
                .detail("said", String::from_utf8_lossy(&output.stderr).trim().to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server whose program is a script, which has said `started` once it listens to signals.
    fn server(directory: &Path, script: &str) -> ScratchServer {
        use std::os::unix::fs::PermissionsExt;
        let (program, inner) = (directory.join("postgres"), directory.join("script"));
        fs::write(&inner, script).unwrap();
        // A shell cannot listen to a signal that was ignored when it began, as it is below some runners of tests.
        fs::write(&program, format!("#!/bin/sh\nexec env --default-signal=INT sh '{}'\n", inner.display())).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let installation = Installation { major: 15, bin: directory.to_owned() };
        let account = Account { switch_to: None, name: "me".to_owned() };
        let mut server = ScratchServer::new(&installation, &account, directory, directory, &directory.join("log"));
        server.launch().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while !server.log_text().contains("started") {
            assert!(Instant::now() < deadline, "the script does not start");
            std::thread::sleep(POLL);
        }
        server
    }

    #[test]
    fn what_an_account_may_not_is_known() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let mode = |bits| fs::set_permissions(dir.path(), fs::Permissions::from_mode(bits)).unwrap();
        let account = Account::choose().unwrap();
        mode(0o755);
        assert!(account.may("-x", dir.path()).unwrap());
        mode(0o000);
        assert!(!account.may("-x", dir.path()).unwrap() && !account.may("-r", &dir.path().join("file")).unwrap());
        mode(0o755);
    }

    #[test]
    fn a_shutdown_takes_as_long_as_it_takes_unless_somebody_asks_to_stop() {
        let dir = tempfile::tempdir().unwrap();
        let mut server = server(dir.path(), "trap 'sleep 0.3; echo whole; exit' INT; echo started; while :; do sleep 0.05; done");
        server.stop(&Cancel::new()).unwrap();
        assert!(server.log_text().contains("whole"));

        let dir = tempfile::tempdir().unwrap();
        let mut server = self::server(dir.path(), "trap '' INT; echo started; while :; do sleep 0.05; done");
        let (cancel, pid) = (Cancel::new(), server.pid().unwrap());
        let asked = cancel.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            asked.cancel();
        });
        assert_eq!(server.stop(&cancel).unwrap_err().kind(), crate::base::ErrorKind::Interrupted);
        assert_eq!(server.pid(), Some(pid), "it is still there to be stopped at once");
        server.stop_at_once().unwrap();
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }
}
