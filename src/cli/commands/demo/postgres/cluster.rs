//! The demo's cluster: made, configured, and run as a scratch server.

use std::fs;
use std::path::Path;

use crate::base::{Error, Result};
use crate::source::postgres::scratch_server::{Account, Installation, ScratchServer, run};

/// A cluster, running or not.
#[derive(Debug)]
pub(super) struct Cluster {
    server: ScratchServer,
}

impl Cluster {
    /// Makes a new cluster in `home/name`.
    pub fn create(installation: &Installation, account: &Account, home: &Path, name: &str) -> Result<Self> {
        let cluster = Self::at(installation, account, home, &home.join(name), name);
        let mut initdb = account.command(&installation.program("initdb"));
        initdb.args(["--auth=trust", "--username=demo", "--encoding=UTF8", "--no-locale", "--no-sync", "--data-checksums", "-D"]);
        run(initdb.arg(&cluster.server.data), "make a PostgreSQL cluster")?;
        Ok(cluster)
    }

    /// The cluster in an existing data directory.
    pub fn at(installation: &Installation, account: &Account, home: &Path, data: &Path, name: &str) -> Self {
        Self { server: ScratchServer::new(installation, account, data, home, &home.join(format!("{name}.log"))) }
    }

    /// Appends lines to `postgresql.conf`.
    pub fn configure(&self, lines: &str) -> Result<()> {
        use std::io::Write;
        let path = self.server.data.join("postgresql.conf");
        let append = || fs::OpenOptions::new().append(true).open(&path)?.write_all(lines.as_bytes());
        append().map_err(|error| Error::io("write", &path, error))
    }

    /// How to connect.
    pub fn conninfo(&self) -> String {
        format!("host={} user=demo dbname=postgres", self.server.sockets.display())
    }

    /// Starts the server and waits until it takes connections.
    pub fn start(&mut self) -> Result<()> {
        self.server.start()
    }

    /// Stops the server at once, as if the power had gone.
    pub fn stop(&mut self) -> Result<()> {
        self.server.stop_at_once()
    }
}
