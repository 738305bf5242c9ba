//! Private PostgreSQL clusters: unix socket only, temporary directory, ended by process id on drop.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use super::dirs::{self, Dir};
use super::process;
use super::sql::Sql;

const START_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
const INITDB_TIMEOUT: Duration = Duration::from_secs(120);

/// No recovery of a test takes longer.
pub const RECOVERY_TIMEOUT: Duration = Duration::from_secs(120);

/// Every major version that Lifeboat supports.
pub const MAJORS: [u32; 6] = [13, 14, 15, 16, 17, 18];

/// An installed PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Installation {
    /// Major version, 13 to 18.
    pub major: u32,
    /// Where `initdb` and `postgres` are. Only the distribution's has the clients too.
    pub bin: PathBuf,
}

impl Installation {
    /// Every supported major that is installed, in order; the distribution's packages come before those of `tests/run`.
    pub fn all() -> Vec<Self> {
        MAJORS.iter().filter_map(|major| Self::find(*major)).collect()
    }

    fn find(major: u32) -> Option<Self> {
        let unpacked = std::env::var_os("LIFEBOAT_TEST_PG_DIR").unwrap_or_else(|| "/var/tmp/lifeboat-tests/postgresql".into());
        let parents = [PathBuf::from("/usr/lib/postgresql"), PathBuf::from(unpacked)];
        let candidates = parents.iter().map(|parent| parent.join(major.to_string()).join("bin"));
        candidates.into_iter().find(|bin| bin.join("postgres").is_file()).map(|bin| Self { major, bin })
    }

    /// The installation of one major. When it is missing: says so and returns `None`, or fails when `REQUIRE_SERVERS=1`.
    pub fn require(major: u32) -> Option<Self> {
        let found = Self::find(major);
        if found.is_none() {
            skip(&format!("PostgreSQL {major} is not installed"));
        }
        found
    }

    /// The newest installed major that has the client program `name` beside it (`pg_waldump`, `pg_basebackup`, …).
    pub fn with_program(name: &str) -> Option<Self> {
        let found = Self::all().into_iter().rev().find(|installation| installation.bin.join(name).is_file());
        if found.is_none() {
            skip(&format!("{name} is not installed"));
        }
        found
    }

    /// The path of one of its programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }
}

/// Says aloud that a test cannot run, or fails when `REQUIRE_SERVERS=1`.
pub fn skip(reason: &str) {
    let message = format!("skipped: {reason}; run tests/run");
    assert!(std::env::var("REQUIRE_SERVERS").as_deref() != Ok("1"), "{message}");
    println!("{message}");
}

/// How a cluster is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// Data checksums on or off, whatever the version's default is.
    pub checksums: bool,
    /// WAL segment size in MiB.
    pub wal_segment_mib: u32,
    /// Lines added to `postgresql.conf`.
    pub config: Vec<String>,
}

impl Default for Options {
    /// Checksums on, 16 MiB segments, logical WAL, prepared transactions, no autovacuum, no fsync.
    fn default() -> Self {
        Self { checksums: true, wal_segment_mib: 16, config: Vec::new() }
    }
}

impl Options {
    /// Adds a line to `postgresql.conf`.
    #[must_use]
    pub fn with(mut self, line: impl Into<String>) -> Self {
        self.config.push(line.into());
        self
    }
}

/// How a server is asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Disconnects clients and writes a shutdown checkpoint.
    Fast,
    /// Ends without a checkpoint: the next start recovers.
    Immediate,
}

/// A cluster's directory and, while it runs, its server.
#[derive(Debug)]
pub struct Cluster {
    /// Whose server this is.
    pub installation: Installation,
    /// The data directory.
    pub data: PathBuf,
    /// Socket, log and, for a cluster made here, the data directory.
    dir: Dir,
    server: Option<Child>,
    /// Given to the server as `-c`, so that they win over whatever a restored configuration says.
    overrides: Vec<String>,
}

impl Cluster {
    /// `initdb` in a directory of its own; not yet started.
    pub fn create(installation: &Installation, options: &Options) -> Self {
        let dir = Dir::new();
        let data = dir.join("data");
        let mut initdb = process::command(&installation.program("initdb"), dir.path());
        initdb.args(["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "--pgdata"]).arg(&data);
        initdb.arg(format!("--wal-segsize={}", options.wal_segment_mib));
        match (options.checksums, installation.major) {
            (true, _) => drop(initdb.arg("--data-checksums")),
            (false, 18..) => drop(initdb.arg("--no-data-checksums")),
            (false, _) => {}
        }
        process::run(initdb, INITDB_TIMEOUT).success();
        let cluster = Self { installation: installation.clone(), data, dir, server: None, overrides: Vec::new() };
        cluster.configure_file(BASE_CONFIG.lines().map(str::to_owned).chain(options.config.iter().cloned()));
        cluster
    }

    /// [`Cluster::create`] and [`Cluster::start`].
    pub fn running(installation: &Installation, options: &Options) -> Self {
        let mut cluster = Self::create(installation, options);
        cluster.start();
        cluster
    }

    /// A data directory that is already there, say a restored one; not yet started. The directory is left on drop.
    pub fn open(installation: &Installation, data: &Path) -> Self {
        Self { installation: installation.clone(), data: data.to_owned(), dir: Dir::new(), server: None, overrides: Vec::new() }
    }

    /// Starts the server with `setting` (`name=value`), whatever its configuration files say.
    #[must_use]
    pub fn with_override(mut self, setting: impl Into<String>) -> Self {
        self.overrides.push(setting.into());
        self
    }

    /// A place for a test's own files beside the data directory.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// libpq connection string of the database `postgres`, as the superuser.
    pub fn conninfo(&self) -> String {
        self.conninfo_of("postgres")
    }

    /// libpq connection string of another database.
    pub fn conninfo_of(&self, database: &str) -> String {
        format!("host={} port=5432 user=postgres dbname={database}", self.dir.path().display())
    }

    /// A new connection to the database `postgres`, which must succeed.
    #[track_caller]
    pub fn sql(&self) -> Sql {
        Sql::connect(&self.conninfo()).unwrap_or_else(|error| panic!("cannot connect: {error}\n{}", self.log_tail()))
    }

    /// Starts the server without waiting for it. See [`Cluster::wait_ready`] and [`Cluster::wait_exit`].
    pub fn launch(&mut self) {
        assert!(self.server.is_none(), "the server is already running");
        let log = OpenOptions::new().create(true).append(true).open(self.log_path()).expect("own log file");
        let mut server = process::command(&self.installation.program("postgres"), self.dir.path());
        server.arg("-D").arg(&self.data).arg("-k").arg(self.dir.path()).args(["-p", "5432", "-c", "listen_addresses="]);
        server.args(["-c", "logging_collector=off", "-c", "log_destination=stderr"]);
        for setting in &self.overrides {
            server.arg("-c").arg(setting);
        }
        server.stdout(Stdio::null()).stderr(log);
        let child = server.spawn().unwrap_or_else(|error| panic!("cannot run {server:?}: {error}"));
        self.server = Some(child);
    }

    /// Starts the server and waits until it accepts connections.
    #[track_caller]
    pub fn start(&mut self) {
        self.launch();
        self.wait_ready(START_TIMEOUT);
    }

    /// Waits until the server accepts connections, as a hot standby or read-write.
    #[track_caller]
    pub fn wait_ready(&mut self, timeout: Duration) {
        self.wait_for("no connection", timeout, |cluster| Sql::connect(&cluster.conninfo()).is_ok());
    }

    /// Waits until recovery has ended and the server is read-write.
    #[track_caller]
    pub fn wait_recovered(&mut self, timeout: Duration) {
        self.wait_for("recovery has not ended", timeout, |cluster| {
            let in_recovery = Sql::connect(&cluster.conninfo()).and_then(|mut sql| sql.try_rows("SELECT pg_is_in_recovery()"));
            in_recovery.is_ok_and(|rows| rows == [[Some("f".to_owned())]])
        });
    }

    #[track_caller]
    fn wait_for(&mut self, unmet: &str, timeout: Duration, done: impl Fn(&Self) -> bool) {
        let outcome = process::poll(timeout, || {
            let exited = self.server.as_mut().expect("a running server").try_wait().expect("own child");
            if done(self) { Some(Ok(())) } else { exited.map(Err) }
        });
        match outcome {
            Some(Ok(())) => {}
            Some(Err(status)) => {
                self.server = None;
                panic!("{unmet}: the server ended: {status}\n{}", self.log_tail())
            }
            None => panic!("{unmet} after {timeout:?}\n{}", self.log_tail()),
        }
    }

    /// Waits for the server to end by itself; returns its exit code and its log.
    #[track_caller]
    pub fn wait_exit(&mut self, timeout: Duration) -> (Option<i32>, String) {
        let mut child = self.server.take().expect("a running server");
        let Some(status) = process::wait_child(&mut child, timeout) else {
            self.server = Some(child);
            panic!("the server still runs after {timeout:?}\n{}", self.log_tail());
        };
        (status.code(), self.log())
    }

    /// Stops the server and waits for its end.
    #[track_caller]
    pub fn stop(&mut self, how: Stop) {
        let mut child = self.server.take().expect("a running server");
        process::signal_pid(child.id(), if how == Stop::Fast { Signal::INT } else { Signal::QUIT });
        if process::wait_child(&mut child, STOP_TIMEOUT).is_none() {
            self.server = Some(child);
            panic!("the server did not stop within {STOP_TIMEOUT:?}\n{}", self.log_tail());
        }
    }

    /// Stops fast and starts again.
    #[track_caller]
    pub fn restart(&mut self) {
        self.stop(Stop::Fast);
        self.start();
    }

    /// Ends every process of the server with SIGKILL, as a power cut would.
    pub fn kill9(&mut self) {
        let mut child = self.server.take().expect("a running server");
        // Stopped first, so that it starts no further process while they are counted.
        process::signal_pid(child.id(), Signal::STOP);
        let children = process::children_of(child.id());
        process::signal_pid(child.id(), Signal::KILL);
        children.iter().for_each(|pid| process::signal_pid(*pid, Signal::KILL));
        child.wait().expect("own child");
        process::wait_until("the killed server's processes", STOP_TIMEOUT, || {
            !children.iter().any(|pid| process::is_alive(*pid))
        });
    }

    /// The postmaster's process id while the server runs.
    pub fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(Child::id)
    }

    /// Adds lines to `postgresql.conf` and has a running server read it again; the last line for a setting wins.
    pub fn configure<S: Into<String>>(&self, lines: impl IntoIterator<Item = S>) {
        self.configure_file(lines.into_iter().map(Into::into));
        if let Some(pid) = self.pid() {
            process::signal_pid(pid, Signal::HUP);
        }
    }

    fn configure_file(&self, lines: impl Iterator<Item = String>) {
        let path = self.data.join("postgresql.conf");
        let mut file = OpenOptions::new().append(true).open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for line in lines {
            writeln!(file, "{line}").expect("own configuration file");
        }
    }

    /// Everything the server has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The end of the log, for a failed test.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        format!("--- end of the server's log\n{}\n---", lines[lines.len().saturating_sub(40)..].join("\n"))
    }

    fn log_path(&self) -> PathBuf {
        let path = self.dir.join("log");
        if !path.exists() {
            File::create(&path).expect("own directory");
            dirs::give(&path);
        }
        path
    }

    /// Closes the present WAL segment; returns its name, or the one before when nothing was written since.
    #[track_caller]
    pub fn switch_wal(&self) -> String {
        self.sql().value("SELECT pg_walfile_name(pg_switch_wal())")
    }

    /// Waits until the archiver has archived `segment` or a later one of the same timeline.
    #[track_caller]
    pub fn wait_archived(&self, segment: &str, timeout: Duration) {
        let mut sql = self.sql();
        let mut last = String::new();
        let archived = process::poll(timeout, || {
            last = sql.value("SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver");
            (last.get(..24).is_some_and(|last| last[..8] == segment[..8] && last >= segment)).then_some(())
        });
        assert!(archived.is_some(), "{segment} was not archived within {timeout:?}; the last was '{last}'\n{}", self.log_tail());
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.log_tail());
        }
        if let Some(mut child) = self.server.take() {
            process::signal_pid(child.id(), Signal::QUIT);
            if process::wait_child(&mut child, Duration::from_secs(10)).is_none() {
                // Fails only when it has ended meanwhile.
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

/// Small, quick and quiet; autovacuum's own transactions would be unknown to the oracle.
const BASE_CONFIG: &str = "
listen_addresses = ''
fsync = off
shared_buffers = 32MB
max_connections = 40
wal_level = logical
max_wal_senders = 5
max_prepared_transactions = 30
max_replication_slots = 5
autovacuum = off
log_line_prefix = '%m [%p] '
log_checkpoints = on
timezone = 'UTC'
log_timezone = 'UTC'
lc_messages = 'C'
";
