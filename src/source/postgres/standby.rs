//! A server of somebody's own on this host: where it listens, how it is stopped and started again as it was, and what a
//! standby says of its replay.
//!
//! Invariants: it is stopped and started by `pg_ctl` of its own major version, as the owner of its directory, with the
//! options of its last start (`postmaster.opts`); nothing is signalled by a number from a file.
//!
//! Source: PostgreSQL `src/include/utils/pidfile.h` (lines of `postmaster.pid`), `pg_ctl.c` (`read_post_opts`), 13 to 18.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::connect::{Session, column, connect};
use super::control::ControlFile;
use super::live::{leader, live_server};
use super::scratch_server::{Account, Installation, run};
use super::server::parse_lsn;
use crate::base::{Error, Lsn, Result, Timestamp};

/// The server of one data directory on this host.
#[derive(Debug)]
pub struct LocalServer {
    /// Its data directory.
    pub data: PathBuf,
    /// The major version in `PG_VERSION`.
    pub major: u32,
    account: Account,
}

/// How far a standby is, and what holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Following {
    /// Whether it still recovers or follows.
    pub in_recovery: bool,
    /// End of the last record that was replayed.
    pub replay_lsn: Option<Lsn>,
    /// Time of the last transaction end that was replayed since the server started.
    pub last_commit: Option<Timestamp>,
    /// Whether somebody has paused its replay.
    pub is_paused: bool,
    /// `recovery_min_apply_delay`.
    pub delay: Duration,
}

impl LocalServer {
    /// The server of `data`; started or not.
    ///
    /// # Errors
    /// When that is no data directory, or this user is neither its owner nor root.
    pub fn of(data: &Path) -> Result<Self> {
        let version = data.join("PG_VERSION");
        let none = |why: String| {
            Error::failed(format!("{} is no PostgreSQL data directory: {why}", data.display()))
                .hint("name the directory in which PG_VERSION lies")
        };
        let text = fs::read_to_string(&version).map_err(|error| none(format!("{}: {error}", version.display())))?;
        let major = text.trim().parse().map_err(|_| none("PG_VERSION holds no version".to_owned()))?;
        Ok(Self { data: data.to_owned(), major, account: Account::owner_of(data)? })
    }

    /// What its control file says.
    ///
    /// # Errors
    /// When it cannot be read, also when it was torn several times by a server that writes it.
    pub fn control(&self) -> Result<ControlFile> {
        let mut read = ControlFile::read(&self.data);
        for _ in 0..5 {
            if read.is_ok() {
                break;
            }
            read = ControlFile::read(&self.data);
        }
        read
    }

    /// Whether a server runs on the directory; in doubt it does.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn is_running(&self) -> Result<bool> {
        live_server(&self.data).map(|server| server.is_some())
    }

    /// Connection strings, without a user, that lead to it by what it wrote when it started; none while it does not run.
    pub fn addresses(&self) -> Vec<String> {
        let text = fs::read_to_string(self.data.join("postmaster.pid")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let [_, _, _, port, sockets, listens, ..] = lines.as_slice() else { return Vec::new() };
        let quoted = |host: &str| format!("host='{}' port={port}", host.replace('\\', r"\\").replace('\'', r"\'"));
        let listens = match *listens {
            "*" | "0.0.0.0" | "::" => "localhost",
            other => other,
        };
        [*sockets, listens].iter().filter(|host| !host.is_empty()).map(|host| quoted(host)).collect()
    }

    /// A session with it, by the first of `users` who is let in. The file that says where it listens counts only while the
    /// process that it names leads a server on this very directory, and whoever answers must be of its cluster.
    ///
    /// # Errors
    /// The last refusal.
    pub async fn session(&self, users: &[String]) -> Result<Session> {
        if leader(&self.data)?.is_none() {
            let runs =
                if self.is_running()? { "the server that runs on it is none of this host's" } else { "no server runs on it" };
            return Err(Error::failed(format!("{runs}: {}", self.data.display())));
        }
        let mut refused = Error::failed(format!("no server answers for {}", self.data.display()));
        let wanted = self.control()?.system_identifier;
        for address in self.addresses() {
            for user in users {
                let asked = async {
                    let session = connect(&format!("{address} user='{user}' dbname=postgres sslmode=prefer")).await?;
                    let found = session.info().await?.system_identifier;
                    Ok::<_, Error>((session, found))
                };
                match asked.await {
                    Ok((session, found)) if found == wanted => return Ok(session),
                    Ok((session, found)) => {
                        refused = Error::failed(format!("another cluster answers for {}", self.data.display()))
                            .detail("server", session.describe())
                            .detail("its system identifier", found.to_string());
                    }
                    Err(error) => refused = error,
                }
            }
        }
        Err(refused)
    }

    /// Ends its sessions and waits for its end, as long as `patience`.
    ///
    /// # Errors
    /// With the words of `pg_ctl`.
    pub fn stop(&self, patience: Duration) -> Result<()> {
        // pg_ctl signals whoever the file names.
        if leader(&self.data)?.is_none() {
            let named = self.data.join("postmaster.pid");
            return Err(Error::failed(format!(
                "a server runs on {}, and is not the one of {}",
                self.data.display(),
                named.display()
            ))
            .hint("stop it where it was started: its container, or the host that shares the directory"));
        }
        let seconds = patience.as_secs().max(1).to_string();
        let mut command = self.pg_ctl()?;
        command.args(["-m", "fast", "-w", "-t", &seconds, "stop"]);
        run(&mut command, &format!("stop the PostgreSQL server on {}", self.data.display()))
    }

    /// Starts it with the options of its last start and does not wait for it; what it writes before it has a log of its own
    /// goes to `log`.
    ///
    /// # Errors
    /// With the words of `pg_ctl`, when it does not even begin.
    pub fn start(&self, log: &File) -> Result<()> {
        let mut command = self.pg_ctl()?;
        command.args(["-s", "-W"]);
        // Never a restart: it would signal whoever a file left by a crash names.
        if let Some(options) = self.last_options()? {
            command.arg("-o").arg(options);
        }
        command.arg("start");
        let file = || log.try_clone().map_err(|error| Error::failed("cannot write the server's log").caused_by(error));
        command.stdout(Stdio::from(file()?)).stderr(Stdio::from(file()?));
        let failed = || Error::failed(format!("cannot start the PostgreSQL server on {}", self.data.display()));
        let status = command.status().map_err(|error| failed().caused_by(error))?;
        if status.success() { Ok(()) } else { Err(failed()) }
    }

    /// The options of its last start, quoted for a shell as the server wrote them; none when it never started.
    fn last_options(&self) -> Result<Option<String>> {
        let path = self.data.join("postmaster.opts");
        match fs::read_to_string(&path) {
            Ok(text) => {
                let line = text.lines().next().unwrap_or_default();
                Ok(line.find(" \"").map(|at| line[at + 1..].to_owned()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read", &path, error)),
        }
    }

    /// A program beside that of its last start, which `postmaster.opts` begins with.
    fn own_program(&self, name: &str) -> Option<PathBuf> {
        let options = fs::read_to_string(self.data.join("postmaster.opts")).ok()?;
        let started = options.split(" \"").next().unwrap_or(&options).trim();
        let program = Path::new(started).with_file_name(name);
        (program.is_absolute() && program.is_file()).then_some(program)
    }

    fn pg_ctl(&self) -> Result<Command> {
        let program = match self.own_program("pg_ctl") {
            Some(program) => program,
            None => Installation::of_major(self.major)?.program("pg_ctl"),
        };
        let mut command = self.account.command(&program);
        command.current_dir("/").arg("-D").arg(&self.data);
        Ok(command)
    }
}

/// Whether `name` stands in the data directory.
///
/// # Errors
/// When the directory cannot be looked at.
pub fn has_signal(data: &Path, name: &str) -> Result<bool> {
    let path = data.join(name);
    match fs::symlink_metadata(&path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io("look at", &path, error)),
    }
}

/// On a primary no function may be asked for a pause.
const FOLLOWING: &str = "SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn()::text, \
    pg_last_xact_replay_timestamp(), \
    CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() ELSE false END, \
    (SELECT setting::int8 FROM pg_settings WHERE name = 'recovery_min_apply_delay')";

impl Session {
    /// How far the standby is, and what holds it.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn following(&self) -> Result<Following> {
        let row = self.row("ask for the replay of", FOLLOWING, &[]).await?;
        let replay_lsn = column::<Option<String>>(&row, 1)?.map(|text| parse_lsn(&text)).transpose()?;
        let last_commit = column::<Option<std::time::SystemTime>>(&row, 2)?.map(Timestamp::from_system_time);
        let delay_millis = column::<Option<i64>>(&row, 4)?.unwrap_or(0).unsigned_abs();
        Ok(Following {
            in_recovery: column(&row, 0)?,
            replay_lsn,
            last_commit,
            is_paused: column(&row, 3)?,
            delay: Duration::from_millis(delay_millis),
        })
    }

    /// Has the standby note in its control file how far it is, and on which timeline.
    ///
    /// # Errors
    /// With the server's words.
    pub async fn checkpoint(&self) -> Result<()> {
        self.rows("ask for a checkpoint of", "CHECKPOINT", &[]).await.map(drop)
    }

    /// Sets by how much the standby's replay lags on purpose, from now on.
    ///
    /// # Errors
    /// With the server's words.
    pub async fn set_apply_delay(&self, delay: Duration) -> Result<()> {
        let set = format!("ALTER SYSTEM SET recovery_min_apply_delay = {}", delay.as_millis());
        self.rows("change the delay of", &set, &[]).await?;
        self.rows("change the delay of", "SELECT pg_reload_conf()", &[]).await.map(drop)
    }

    /// Lets a paused replay go on.
    ///
    /// # Errors
    /// With the server's words.
    pub async fn resume_replay(&self) -> Result<()> {
        self.rows("resume the replay of", "SELECT pg_wal_replay_resume()", &[]).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_server_listens_stands_in_its_file() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("PG_VERSION"), "15\n").unwrap();
        let server = LocalServer::of(dir.path()).unwrap();
        assert_eq!((server.major, server.addresses()), (15, Vec::new()));
        let file = |text: &str| fs::write(dir.path().join("postmaster.pid"), text).unwrap();
        file("12\n/data\n1700000000\n5433\n/run/o'x\n*\n  5433001 4\nready   \n");
        assert_eq!(server.addresses(), [r"host='/run/o\'x' port=5433", "host='localhost' port=5433"]);
        file("12\n/data\n1700000000\n5433\n\n10.0.0.1\n");
        assert_eq!(server.addresses(), ["host='10.0.0.1' port=5433"]);
        assert!(LocalServer::of(&dir.path().join("none")).is_err());

        assert_eq!(server.own_program("pg_ctl"), None);
        let bin = dir.path().join("a b");
        fs::create_dir(&bin).unwrap();
        fs::write(bin.join("pg_ctl"), "").unwrap();
        assert_eq!(server.last_options().unwrap(), None);
        let options = format!("{} \"-D\" \"/data\" \"-c\" \"port=5433\"\n", bin.join("postgres").display());
        fs::write(dir.path().join("postmaster.opts"), options).unwrap();
        assert_eq!(server.own_program("pg_ctl"), Some(bin.join("pg_ctl")));
        assert_eq!(server.last_options().unwrap().as_deref(), Some(r#""-D" "/data" "-c" "port=5433""#));
    }

    /// After a crash the number may be another server's, of the same user.
    #[test]
    fn nobody_is_signalled_by_a_number_that_a_crash_left() {
        let dir = tempfile::tempdir().unwrap();
        let (data, bin) = (dir.path().join("data"), dir.path().join("bin"));
        fs::create_dir(&data).unwrap();
        fs::create_dir(&bin).unwrap();
        fs::write(data.join("PG_VERSION"), "15\n").unwrap();
        // Says what it was asked for instead of doing it.
        let (program, asked) = (bin.join("pg_ctl"), dir.path().join("asked"));
        fs::write(&program, format!("#!/bin/sh\nprintf '%s|' \"$@\" > '{}'\n", asked.display())).unwrap();
        fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let options = format!("{} \"-D\" \"/data\"\n", bin.join("postgres").display());
        fs::write(data.join("postmaster.opts"), options).unwrap();
        fs::write(data.join("postmaster.pid"), format!("{}\n", std::process::id())).unwrap();
        let server = LocalServer::of(&data).unwrap();
        assert!(server.stop(Duration::from_secs(1)).unwrap_err().message().contains("is not the one of"));
        assert!(!asked.exists(), "pg_ctl was asked to stop it");
        server.start(&File::create(dir.path().join("log")).unwrap()).unwrap();
        let words = fs::read_to_string(&asked).unwrap();
        assert_eq!(words, format!(r#"-D|{}|-s|-W|-o|"-D" "/data"|start|"#, data.display()));
    }
}
