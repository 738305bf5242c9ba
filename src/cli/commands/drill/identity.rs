//! The identity that a drill opens the backup with: from a command, as in a disaster, or from a file at hand.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::base::units::format_duration;
use crate::base::{Cancel, Error, Result};
use crate::cli::args::DrillArgs;
use crate::cli::config::{Encryption, Settings, parse_identities};
use crate::codec::encrypt::Identity;
use crate::engine::IdentitySource;
use crate::repo::evidence::KeyUse;
use crate::source::postgres::scratch_server::Account;

/// How long the command may take: somebody may have to unlock the safe.
const LIMIT: Duration = Duration::from_secs(300);
/// How often waiting looks again.
const POLL: Duration = Duration::from_millis(20);

/// Where the identity comes from. Has no `Debug`: it may hold the secret.
pub(super) enum Key<'a> {
    /// A command's output.
    Fetched { secret: String, identities: Vec<Identity> },
    /// The files that the configuration names.
    AtHand(&'a Encryption),
}

impl<'a> Key<'a> {
    /// Runs the command, where there is one. What it prints is never shown.
    pub fn fetch(args: &DrillArgs, settings: &'a Settings, cancel: &Cancel) -> Result<Self> {
        let command = args.identity_command.as_ref().or(settings.encryption.identity_command.as_ref());
        let Some(command) = command else { return Ok(Self::AtHand(&settings.encryption)) };
        let secret = String::from_utf8(output(command, LIMIT, cancel)?)
            .map_err(|_| Error::usage("the identity command printed something else than an age identity"))?;
        let identities = parse_identities("the identity command's output", &secret)
            .map_err(|error| error.hint("it must print AGE-SECRET-KEY-1…, as age-keygen writes it, and nothing else"))?;
        Ok(Self::Fetched { secret, identities })
    }

    /// The identity's text, for the server that fetches its log by itself; none where `account`, which runs it, can read it
    /// as this process can.
    ///
    /// # Errors
    /// When a file with it cannot be read.
    pub fn secret(&self, account: &Account) -> Result<Option<String>> {
        match self {
            Self::Fetched { secret, .. } => Ok(Some(secret.clone())),
            Self::AtHand(encryption) if account.is_another() && !encryption.identity_files.is_empty() => {
                let texts = encryption
                    .identity_files
                    .iter()
                    .map(|file| std::fs::read_to_string(file).map_err(|error| Error::io("read", file, error)));
                Ok(Some(texts.collect::<Result<Vec<_>>>()?.join("\n")))
            }
            Self::AtHand(_) => Ok(None),
        }
    }

    /// What evidence says of it.
    pub fn key_use(&self, encrypted: bool) -> KeyUse {
        match self {
            _ if !encrypted => KeyUse::None,
            Self::Fetched { .. } => KeyUse::Command,
            Self::AtHand(_) => KeyUse::File,
        }
    }
}

/// What a shell command prints; it and all that it started are gone afterwards.
fn output(command: &str, limit: Duration, cancel: &Cancel) -> Result<Vec<u8>> {
    let by_hand = "in a disaster it would fail, too: run it by hand and see";
    let failed = |error| Error::failed("cannot run the identity command").caused_by(error);
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command).stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
    let mut group = Group(shell.spawn().map_err(failed)?);
    let (sender, printed) = mpsc::channel();
    if let Some(mut stdout) = group.0.stdout.take() {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let read = stdout.read_to_end(&mut bytes).map(|_| bytes);
            // Nobody waits any more when the limit has passed.
            let _ = sender.send(read);
        });
    }
    let deadline = Instant::now() + limit;
    let (mut bytes, mut status) = (None, None);
    loop {
        cancel.check()?;
        status = status.or(group.0.try_wait().map_err(failed)?);
        if status.is_some_and(|status| !status.success()) {
            break;
        }
        bytes = bytes.or(printed.try_recv().ok());
        if status.is_some() && bytes.is_some() {
            break;
        }
        if Instant::now() > deadline {
            let limit = format_duration(limit);
            return Err(Error::failed(format!("the identity command has not ended after {limit}")).hint(by_hand));
        }
        std::thread::sleep(POLL);
    }
    match (status, bytes) {
        (Some(status), Some(bytes)) if status.success() => bytes.map_err(failed),
        (status, _) => {
            let status = status.map(|status| format!(" ({status})")).unwrap_or_default();
            Err(Error::failed(format!("the identity command failed{status}")).hint(by_hand))
        }
    }
}

/// A command that leads a process group of its own, which ends with it.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // Fails only when nothing of it is left.
        let _ = kill_process_group(Pid::from_child(&self.0), Signal::KILL);
        let _ = self.0.wait();
    }
}

impl IdentitySource for Key<'_> {
    fn identities(&self) -> Result<Vec<Identity>> {
        match self {
            Self::Fetched { identities, .. } => Ok(identities.clone()),
            Self::AtHand(encryption) => encryption.identities(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ErrorKind;

    #[test]
    fn a_command_that_hangs_is_ended_with_all_that_it_started() {
        let cancel = Cancel::new();
        let within = Duration::from_secs(20);
        assert_eq!(output("echo text", within, &cancel).unwrap(), b"text\n");
        assert!(output("echo text; exit 3", within, &cancel).unwrap_err().message().contains("failed"));

        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let hangs = format!("sleep 60 & echo $! > {}; wait", file.display());
        let error = output(&hangs, Duration::from_secs(3), &cancel).unwrap_err();
        assert!(error.message().contains("has not ended after"), "{error:?}");
        let pid: u32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        let lives = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
        };
        let deadline = Instant::now() + within;
        while lives() {
            assert!(Instant::now() < deadline, "what it started lives");
            std::thread::sleep(POLL);
        }
        cancel.cancel();
        assert_eq!(output("sleep 60", within, &cancel).unwrap_err().kind(), ErrorKind::Interrupted);
    }
}
