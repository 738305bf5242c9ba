//! The identity that a drill opens the backup with: from a command, as in a disaster, or from a file at hand.

use std::process::{Command, Stdio};

use crate::base::{Error, Result};
use crate::cli::args::DrillArgs;
use crate::cli::config::{Encryption, Settings, parse_identities};
use crate::codec::encrypt::Identity;
use crate::engine::IdentitySource;
use crate::repo::evidence::KeyUse;

/// Where the identity comes from. Has no `Debug`: it may hold the secret.
pub(super) enum Key<'a> {
    /// A command's output.
    Fetched { secret: String, identities: Vec<Identity> },
    /// The files that the configuration names.
    AtHand(&'a Encryption),
}

impl<'a> Key<'a> {
    /// Runs the command, where there is one. What it prints is never shown.
    pub fn fetch(args: &DrillArgs, settings: &'a Settings) -> Result<Self> {
        let command = args.identity_command.as_ref().or(settings.encryption.identity_command.as_ref());
        let Some(command) = command else { return Ok(Self::AtHand(&settings.encryption)) };
        let output = Command::new("sh").arg("-c").arg(command).stderr(Stdio::inherit()).output();
        let output = output.map_err(|error| Error::failed("cannot run the identity command").caused_by(error))?;
        if !output.status.success() {
            return Err(Error::failed(format!("the identity command failed ({})", output.status))
                .hint("in a disaster it would fail, too: run it by hand and see"));
        }
        let secret = String::from_utf8(output.stdout)
            .map_err(|_| Error::usage("the identity command printed something else than an age identity"))?;
        let identities = parse_identities("the identity command's output", &secret)
            .map_err(|error| error.hint("it must print AGE-SECRET-KEY-1…, as age-keygen writes it, and nothing else"))?;
        Ok(Self::Fetched { secret, identities })
    }

    /// The identity's text, for the server that fetches its log by itself.
    pub fn secret(&self) -> Option<&str> {
        match self {
            Self::Fetched { secret, .. } => Some(secret),
            Self::AtHand(_) => None,
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

impl IdentitySource for Key<'_> {
    fn identities(&self) -> Result<Vec<Identity>> {
        match self {
            Self::Fetched { identities, .. } => Ok(identities.clone()),
            Self::AtHand(encryption) => encryption.identities(),
        }
    }
}
