//! A private server for one test: unix socket only, in a directory of its own, run as `postgres` when the test runs as root.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const DEBIAN: &str = "/usr/lib/postgresql";
const DEADLINE: Duration = Duration::from_secs(30);

/// The programs of a major version, or of none: then the test is to be skipped, aloud.
pub fn programs(major: u16) -> Option<PathBuf> {
    let own = std::env::var_os("LIFEBOAT_TEST_PG_DIR").map(PathBuf::from);
    let places = own.into_iter().chain([PathBuf::from(DEBIAN)]);
    let found = places.map(|place| place.join(major.to_string()).join("bin")).find(|bin| bin.join("postgres").exists());
    if found.is_none() {
        let why = format!("skipped: PostgreSQL {major} is not in $LIFEBOAT_TEST_PG_DIR or {DEBIAN}");
        assert!(std::env::var("REQUIRE_SERVERS").as_deref() != Ok("1"), "{why}");
        println!("{why}");
    }
    found
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A command to be run as the user who may run servers.
fn unprivileged(program: &Path) -> Command {
    let mut command = if is_root() {
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.env("TZ", "UTC").env("LC_ALL", "C").current_dir("/");
    command
}

/// Runs to the end; panics with what the program said when it fails.
pub fn run(command: &mut Command) -> Output {
    let output = command.output().expect("program starts");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

pub struct Server {
    pub major: u16,
    pub bin: PathBuf,
    home: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
}

impl Server {
    /// A new cluster with segments of `segment_megabytes`, not started.
    pub fn create(major: u16, bin: PathBuf, segment_megabytes: u32, settings: &str) -> Self {
        let home = tempfile::Builder::new().prefix("lifeboat-wal-").tempdir_in("/tmp").expect("temporary directory");
        if is_root() {
            run(Command::new("chown").arg("postgres").arg(home.path()));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let server = Self { major, bin, home, runtime };
        let size = format!("--wal-segsize={segment_megabytes}");
        let mut initdb = unprivileged(&server.bin.join("initdb"));
        run(initdb.args(["-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync", &size, "-D"]).arg(server.data()));
        let common = format!(
            "listen_addresses = ''\nunix_socket_directories = '{}'\nfsync = off\ntimezone = 'UTC'\nlog_timezone = 'UTC'\n",
            server.home.path().display()
        );
        server.add_settings(&(common + settings));
        server
    }

    pub fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    pub fn wal(&self) -> PathBuf {
        self.data().join("pg_wal")
    }

    pub fn add_settings(&self, settings: &str) {
        let path = self.data().join("postgresql.conf");
        let text = std::fs::read_to_string(&path).expect("configuration");
        std::fs::write(&path, text + settings).expect("configuration is written");
    }

    fn control(&self, arguments: &[&str]) -> bool {
        let mut command = unprivileged(&self.bin.join("pg_ctl"));
        command.args(arguments).arg("-D").arg(self.data()).arg("-l").arg(self.home.path().join("log"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().expect("pg_ctl starts").success()
    }

    pub fn start(&self) {
        // After a kill −9 the orphans must first let go of the shared memory.
        let began = Instant::now();
        while !self.control(&["start", "-w"]) {
            let log = std::fs::read_to_string(self.home.path().join("log")).unwrap_or_default();
            assert!(began.elapsed() < DEADLINE, "server {} does not start: {log}", self.major);
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    pub fn stop(&self, mode: &str) {
        assert!(self.control(&["stop", "-w", "-m", mode]), "server {} does not stop", self.major);
    }

    /// Kills the postmaster, by its own process id, without a warning.
    pub fn kill(&self) {
        let text = std::fs::read_to_string(self.data().join("postmaster.pid")).expect("server runs");
        let pid = text.lines().next().and_then(|line| line.parse().ok()).and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(pid.expect("process id"), rustix::process::Signal::KILL).expect("server is killed");
    }

    /// Makes the stopped cluster a standby of nothing, and promotes it: a new timeline begins.
    pub fn promote(&self) {
        std::fs::write(self.data().join("standby.signal"), "").expect("signal file");
        if is_root() {
            run(Command::new("chown").arg("postgres").arg(self.data().join("standby.signal")));
        }
        self.start();
        assert!(self.control(&["promote", "-w"]), "server {} is not promoted", self.major);
    }

    /// Runs `pgbench`, which only the distribution's packages have.
    pub fn pgbench(&self, arguments: &[&str]) {
        run(unprivileged(&self.bin.join("pgbench"))
            .arg("-h")
            .arg(self.home.path())
            .args(["-U", "postgres"])
            .args(arguments)
            .arg("postgres"));
    }

    /// Runs statements in a session of their own.
    pub fn execute(&self, statements: &[&str]) {
        self.session(async |client| {
            for statement in statements {
                client.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
            }
        });
    }

    /// Rows of a query, all columns as text (the query sees to that by the simple protocol).
    pub fn query(&self, query: &str) -> Vec<Vec<String>> {
        let messages = self.session(async |client| client.simple_query(query).await);
        let messages = messages.unwrap_or_else(|error| panic!("{query}: {error:?}"));
        let rows = messages.iter().filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        rows.map(|row| (0..row.len()).map(|column| row.get(column).unwrap_or_default().to_string()).collect()).collect()
    }

    /// The first column of the only row.
    pub fn value(&self, query: &str) -> String {
        self.query(query)[0][0].clone()
    }

    fn session<T>(&self, work: impl AsyncFnOnce(&tokio_postgres::Client) -> T) -> T {
        self.runtime.block_on(async {
            let mut config = tokio_postgres::Config::new();
            config.host_path(self.home.path()).user("postgres").dbname("postgres");
            let (client, connection) = config.connect(tokio_postgres::NoTls).await.expect("server accepts connections");
            let connection = tokio::spawn(connection);
            let result = work(&client).await;
            drop(client);
            // The connection ends with an error when the server went away, which the statement has already told.
            drop(connection.await);
            result
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.data().join("postmaster.pid").exists() {
            self.control(&["stop", "-w", "-m", "immediate"]);
        }
    }
}
