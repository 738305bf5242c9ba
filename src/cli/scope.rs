//! From settings to what the engine works on: an open repository whose keys are the pinned ones, and what writing needs.

use super::config::{Encryption, RepositorySettings, Sealing, Settings};
use super::context::Context;
use crate::base::{Error, Result, SourceName};
use crate::codec::Sha256Digest;
use crate::codec::encrypt::Identity;
use crate::engine::{IdentitySource, Scope, Writing};
use crate::repo::host_state::HostState;
use crate::repo::{Repository, Signer};
use crate::store;

impl IdentitySource for Encryption {
    fn identities(&self) -> Result<Vec<Identity>> {
        Encryption::identities(self)
    }
}

/// Opens a repository and checks its keys: against `root` in the configuration, else against what this host saw when
/// it first opened a repository under this name.
///
/// # Errors
/// Those of [`Repository::open`]; damaged when the keys are others than before.
pub async fn open_repository(context: &Context, settings: &Settings, chosen: &RepositorySettings) -> Result<Repository> {
    let store = store::open(&chosen.url, &chosen.options)?;
    let repository = Repository::open(&chosen.name, store, chosen.root.map(Sha256Digest)).await?;
    if chosen.root.is_some() {
        return Ok(repository);
    }
    let found = repository.keyring().root;
    // Kept under the name in the configuration: a forged repository may have any id.
    match HostState::new(&settings.state_dir, &chosen.name).pin_root(found) {
        Ok(first_seen) if first_seen == found => Ok(repository),
        Ok(first_seen) => Err(Error::damaged(format!(
            "the keys of repository {} are not those that this host saw first: it was replaced or forged",
            chosen.name
        ))
        .detail("first seen", first_seen.to_string())
        .detail("found", found.to_string())
        .hint(format!("if it was made anew on purpose: root = \"{found}\" in [repository.{}]", chosen.name))),
        Err(error) => {
            // Nothing else can be compared with; a restore must not fail for it.
            context.progress.warn(&format!("the keys of repository {} were not compared: {}", chosen.name, error.summary()));
            Ok(repository)
        }
    }
}

/// `source` in the repository `chosen`.
///
/// # Errors
/// As [`open_repository`].
pub async fn open(context: &Context, settings: &Settings, chosen: &RepositorySettings, source: &SourceName) -> Result<Scope> {
    let repository = open_repository(context, settings, chosen).await?;
    Ok(Scope::new(repository, source.clone(), &settings.state_dir))
}

/// What a verb that writes needs: this host's signing key, and whom to encrypt to.
///
/// # Errors
/// Usage errors when the configuration names no key or nobody to encrypt to, or the key cannot be read.
pub fn writing(settings: &Settings) -> Result<Writing> {
    let recipients = match settings.sealing()? {
        Sealing::To(recipients) => Some(recipients.to_vec()),
        Sealing::Off => None,
    };
    let Some(key_file) = &settings.signing_key_file else {
        return Err(Error::usage(format!("{} names no signing key", settings.config_file.display()))
            .detail("needed", "[signing] key_file = \"…\", the key that this host signs with")
            .hint("lifeboat init --generate-keys DIR   makes one"));
    };
    Ok(Writing { signer: Signer::read(key_file)?, recipients, compression_level: settings.backup.compression_level })
}
