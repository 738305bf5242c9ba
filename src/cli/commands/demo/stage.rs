//! The demo's directory, its configuration, and running this program in it as an operator would.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::base::{Error, Result};
use crate::source::postgres::scratch_server::{Account, run};
use crate::store::file_url;

/// The source's name in the demo.
pub(super) const SOURCE: &str = "ledger";

/// A private directory with a copy of this program; removed when dropped unless it is kept.
pub(super) struct Stage {
    dir: Option<tempfile::TempDir>,
    pub home: PathBuf,
    pub program: PathBuf,
    pub config: PathBuf,
    account: Account,
}

impl Stage {
    pub fn set(account: &Account) -> Result<Self> {
        let base = std::env::temp_dir();
        let dir = tempfile::Builder::new()
            .prefix("lifeboat-demo-")
            .tempdir_in(&base)
            .map_err(|error| Error::io("create a directory in", &base, error))?;
        let home = dir.path().to_owned();
        let chmod = fs::set_permissions(&home, fs::Permissions::from_mode(0o700));
        chmod.map_err(|error| Error::io("protect", &home, error))?;
        let (program, config) = (home.join("lifeboat"), home.join("lifeboat.toml"));
        let own =
            std::env::current_exe().map_err(|error| Error::failed("cannot find this program's own path").caused_by(error))?;
        // The server's account may not be able to read the directory this program was built in.
        fs::copy(&own, &program).map_err(|error| Error::io("copy this program to", &program, error))?;
        account.give(&home)?;
        Ok(Self { dir: Some(dir), home, program, config, account: account.clone() })
    }

    /// Writes a file for the demo's account.
    pub fn write(&self, path: &Path, text: &str) -> Result<()> {
        fs::write(path, text).map_err(|error| Error::io("write", path, error))?;
        self.account.give(path)
    }

    /// Makes repository and keys, and completes the configuration.
    pub fn init(&self, conninfo: &str) -> Result<()> {
        let (repository, keys) = (self.home.join("repository"), self.home.join("keys"));
        let url = file_url(&repository);
        let base = format!("state_dir = \"{}\"\n\n[repository.main]\nurl = \"{url}\"\n", self.home.join("state").display());
        self.write(&self.config, &base)?;
        self.lifeboat(&["init", "--generate-keys", &keys.display().to_string()])?;
        let identity = keys.join("identity.age");
        let text = fs::read_to_string(&identity).map_err(|error| Error::io("read", &identity, error))?;
        let recipient = text.lines().find_map(|line| line.strip_prefix("# public key: "));
        let recipient = recipient.ok_or_else(|| Error::failed(format!("{} names no public key", identity.display())))?;
        let rest = format!(
            "\n[encryption]\nrecipients = [\"{recipient}\"]\nidentity_file = \"{}\"\n\n[signing]\nkey_file = \"{}\"\n\n\
             [source.{SOURCE}]\nkind = \"postgres\"\nconninfo = \"{conninfo}\"\n",
            identity.display(),
            keys.join("signing.key").display()
        );
        self.write(&self.config, &format!("{base}{rest}"))
    }

    /// Runs this program with `arguments`, as the demo's account.
    pub fn lifeboat(&self, arguments: &[&str]) -> Result<()> {
        let mut command = self.account.command(&self.program);
        command.arg("--config").arg(&self.config).arg("--quiet").args(arguments).current_dir(&self.home);
        run(&mut command, &format!("run lifeboat {}", arguments.join(" ")))
    }

    /// The `archive_command` of the demo's server.
    pub fn archive_command(&self) -> String {
        format!("{} --config {} archive push {SOURCE} %p", self.program.display(), self.config.display())
    }

    /// Leaves the directory where it is.
    pub fn keep(&mut self) {
        if let Some(dir) = self.dir.take() {
            let _ = dir.keep();
        }
    }
}
