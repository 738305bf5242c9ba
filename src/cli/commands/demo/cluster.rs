//! A private PostgreSQL cluster: found, made, started, and stopped when dropped.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::User;

use crate::base::{Error, Result};

/// Majors the demo may use, newest first.
const MAJORS: std::ops::RangeInclusive<u32> = 13..=18;

/// PostgreSQL's programs on this machine.
#[derive(Clone, Debug)]
pub(super) struct Installation {
    pub major: u32,
    bin: PathBuf,
}

/// The account that runs servers: PostgreSQL refuses root.
#[derive(Clone, Debug)]
pub(super) struct Account {
    /// Set when this process is root and must become somebody else.
    pub switch_to: Option<(u32, u32)>,
    pub name: String,
}

impl Installation {
    /// The newest supported PostgreSQL on this machine.
    pub fn find() -> Result<Self> {
        let mut candidates: Vec<PathBuf> = Vec::new();
        for (root, below) in
            [("/usr/lib/postgresql", "bin"), ("/usr", "bin"), ("/usr/local", "pgsql/bin"), ("/opt/homebrew/opt", "bin")]
        {
            let dirs = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path().join(below));
            candidates.extend(dirs);
            candidates.push(Path::new(root).join(below));
        }
        candidates.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
        let found = candidates.into_iter().filter_map(|bin| Some(Self { major: major(&bin)?, bin }));
        found.filter(|found| MAJORS.contains(&found.major)).max_by_key(|found| found.major).ok_or_else(|| {
            Error::failed("the demo needs a PostgreSQL server (13 to 18) on this machine, and found none")
                .hint("apt-get install postgresql        (Debian, Ubuntu)")
                .hint("dnf install postgresql-server     (Fedora, RHEL)")
        })
    }

    fn command(&self, program: &str, account: &Account) -> Command {
        account.command(&self.bin.join(program))
    }
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

impl Account {
    /// This user, or for root an account without rights.
    pub fn choose() -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            let name = User::from_uid(nix::unistd::Uid::effective()).ok().flatten().map(|user| user.name);
            return Ok(Self { switch_to: None, name: name.unwrap_or_else(|| "you".to_owned()) });
        }
        let known = ["postgres", "nobody"].iter().find_map(|name| User::from_name(name).ok().flatten());
        let user =
            known.ok_or_else(|| Error::failed("PostgreSQL does not run as root, and there is no user 'postgres' or 'nobody'"))?;
        Ok(Self { switch_to: Some((user.uid.as_raw(), user.gid.as_raw())), name: user.name })
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

    /// Gives `path` to this account.
    pub fn give(&self, path: &Path) -> Result<()> {
        let Some((uid, gid)) = self.switch_to else { return Ok(()) };
        std::os::unix::fs::chown(path, Some(uid), Some(gid)).map_err(|error| Error::io("give away", path, error))
    }
}

/// A cluster, running or not.
#[derive(Debug)]
pub(super) struct Cluster {
    installation: Installation,
    account: Account,
    pub data: PathBuf,
    sockets: PathBuf,
    log: PathBuf,
    running: bool,
}

impl Cluster {
    /// Makes a new cluster in `home/name`.
    pub fn create(installation: &Installation, account: &Account, home: &Path, name: &str) -> Result<Self> {
        let cluster = Self::at(installation, account, home, &home.join(name), name);
        let mut initdb = installation.command("initdb", account);
        initdb.args(["--auth=trust", "--username=demo", "--encoding=UTF8", "--no-locale", "--no-sync", "--data-checksums", "-D"]);
        run(initdb.arg(&cluster.data), "make a PostgreSQL cluster")?;
        Ok(cluster)
    }

    /// The cluster in an existing data directory.
    pub fn at(installation: &Installation, account: &Account, home: &Path, data: &Path, name: &str) -> Self {
        Self {
            installation: installation.clone(),
            account: account.clone(),
            data: data.to_owned(),
            sockets: home.to_owned(),
            log: home.join(format!("{name}.log")),
            running: false,
        }
    }

    /// Appends lines to `postgresql.conf`.
    pub fn configure(&self, lines: &str) -> Result<()> {
        use std::io::Write;
        let path = self.data.join("postgresql.conf");
        let append = || fs::OpenOptions::new().append(true).open(&path)?.write_all(lines.as_bytes());
        append().map_err(|error| Error::io("write", &path, error))
    }

    /// How to connect.
    pub fn conninfo(&self) -> String {
        format!("host={} user=demo dbname=postgres", self.sockets.display())
    }

    /// Starts the server and waits until it takes connections.
    pub fn start(&mut self) -> Result<()> {
        let options = format!("-c listen_addresses='' -c unix_socket_directories='{}'", self.sockets.display());
        let mut pg_ctl = self.installation.command("pg_ctl", &self.account);
        pg_ctl.arg("-D").arg(&self.data).arg("-l").arg(&self.log).args(["-w", "-t", "60", "-o", &options, "start"]);
        // The server inherits what it is given and outlives pg_ctl: never a pipe that somebody waits on.
        let status = pg_ctl.stdout(Stdio::null()).stderr(Stdio::null()).status();
        let status = status.map_err(|error| Error::failed("cannot run pg_ctl").caused_by(error))?;
        if status.success() {
            self.running = true;
            return Ok(());
        }
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(5).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        Err(Error::failed("the demo's PostgreSQL server does not start").detail("log", tail.join("\n")))
    }

    /// Stops the server at once, as if the power had gone.
    pub fn stop(&mut self) -> Result<()> {
        if !self.running {
            return Ok(());
        }
        self.running = false;
        let mut pg_ctl = self.installation.command("pg_ctl", &self.account);
        run(pg_ctl.arg("-D").arg(&self.data).args(["-m", "immediate", "-w", "stop"]), "stop the demo's PostgreSQL server")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // On the way out of an error: that error is the one that counts.
        let _ = self.stop();
    }
}

/// Runs a command to its end; its words become the error's when it fails.
pub(super) fn run(command: &mut Command, action: &str) -> Result<()> {
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
