//! The demo's directory, its configuration, and running this program in it as an operator would.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

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

    /// Makes repository and keys, and completes the configuration with `source`, the lines of the source's section.
    pub fn init(&self, source: &str) -> Result<()> {
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
             [source.{SOURCE}]\n{source}",
            identity.display(),
            keys.join("signing.key").display()
        );
        self.write(&self.config, &format!("{base}{rest}"))
    }

    /// Runs this program with `arguments`, as the demo's account.
    pub fn lifeboat(&self, arguments: &[&str]) -> Result<()> {
        run(&mut self.command(arguments), &format!("run lifeboat {}", arguments.join(" ")))
    }

    /// Starts this program with `arguments`, to work beside the demo until it is told to end.
    pub fn begin(&self, arguments: &[&str]) -> Result<Beside> {
        let log = self.home.join(format!("{}.log", arguments.join("-")));
        let output = File::create(&log).map_err(|error| Error::io("create", &log, error))?;
        let mut command = self.command(arguments);
        // Ctrl-C is this process's to handle.
        let begun = command.stdout(Stdio::null()).stderr(output).process_group(0).spawn();
        let child =
            begun.map_err(|error| Error::failed(format!("cannot run lifeboat {}", arguments.join(" "))).caused_by(error))?;
        Ok(Beside { child, log })
    }

    /// Runs this program and gives its document, in JSON.
    pub fn ask(&self, arguments: &[&str]) -> Result<serde_json::Value> {
        let what = format!("run lifeboat {}", arguments.join(" "));
        let mut command = self.command(arguments);
        let output = command.args(["--output", "json"]).output();
        let output = output.map_err(|error| Error::failed(format!("cannot {what}")).caused_by(error))?;
        serde_json::from_slice(&output.stdout).map_err(|error| {
            Error::failed(format!("cannot {what}")).detail("stderr", String::from_utf8_lossy(&output.stderr)).caused_by(error)
        })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.account.command(&self.program);
        command.arg("--config").arg(&self.config).arg("--quiet").args(arguments).current_dir(&self.home);
        command
    }

    /// The `archive_command` of the demo's server.
    pub fn archive_command(&self) -> String {
        format!("{} --config {} archive push {SOURCE} %p", self.program.display(), self.config.display())
    }

    /// Leaves the directory where it is, and tells where that is.
    pub fn keep(&mut self) -> String {
        if let Some(dir) = self.dir.take() {
            let _ = dir.keep();
        }
        self.home.display().to_string()
    }
}

/// This program at work beside the demo; it ends at the latest when this is dropped.
pub(super) struct Beside {
    child: Child,
    /// What it said.
    pub log: PathBuf,
}

impl Beside {
    /// Fails when it ended by itself.
    pub fn still_runs(&mut self) -> Result<()> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            _ => Err(Error::failed("what worked beside the demo has ended")
                .detail("it said", fs::read_to_string(&self.log).unwrap_or_default())),
        }
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id())
            && let Some(pid) = Pid::from_raw(pid)
        {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.child.wait();
    }
}
