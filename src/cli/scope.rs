//! From settings to what the engine works on: an open repository whose keys are the pinned ones, and what writing needs.

use std::sync::Arc;

use super::config::{Encryption, RepositorySettings, Sealing, Settings};
use super::context::Context;
use crate::base::{Error, Result, SourceName};
use crate::codec::Sha256Digest;
use crate::codec::encrypt::Identity;
use crate::engine::{IdentitySource, Scope, Writing};
use crate::repo::host_state::HostState;
use crate::repo::{Repository, Signer};
use crate::store::layer::limit::Bucket;
use crate::store::layer::retry::Patience;
use crate::store::layer::timeout::Timeouts;
use crate::store::layer::{LayerOptions, layered};
use crate::store::{self, Store};

impl IdentitySource for Encryption {
    fn identities(&self) -> Result<Vec<Identity>> {
        Encryption::identities(self)
    }
}

/// What a verb does with a repository: how patient it is, and which limit of bytes a second concerns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// PostgreSQL waits, and tries again itself.
    ArchivePush,
    /// PostgreSQL waits, and gives up recovery at the first error.
    ArchiveGet,
    /// A standby's: whoever does not answer is asked again as a whole.
    ArchiveFollow,
    /// What a repository lacks is brought there in the background, and tried again as a whole.
    Delivery,
    /// Somebody waits for an answer.
    Brief,
    /// Minutes or hours pass anyway; bytes a second, when they were limited on the command line.
    Long {
        /// Bytes a second.
        limit_rate_bytes: Option<u64>,
    },
}

/// The layers that calls of `chosen` pass in this verb. Their metrics count this repository's requests.
pub fn layers(context: &Context, chosen: &RepositorySettings, what_for: Use) -> LayerOptions {
    let mut options = match what_for {
        Use::Long { .. } => LayerOptions::long(),
        Use::ArchivePush | Use::ArchiveFollow | Use::Brief => LayerOptions::short(),
        Use::ArchiveGet => LayerOptions::new(Patience::SHORT.also_unanswered(), Timeouts::SHORT),
        Use::Delivery => LayerOptions::new(Patience::SHORT, Timeouts::LONG),
    };
    let rate_bytes = match what_for {
        Use::ArchivePush | Use::ArchiveGet | Use::ArchiveFollow => chosen.archive_limit_rate_bytes,
        Use::Brief | Use::Delivery => chosen.limit_rate_bytes,
        Use::Long { limit_rate_bytes } => limit_rate_bytes.or(chosen.limit_rate_bytes),
    };
    options.limit = rate_bytes.map(|rate_bytes| Arc::new(Bucket::new(rate_bytes)));
    options.cancel = context.cancel.clone();
    options
}

/// What this host remembers of a repository before it has been opened: by its name, for its id is not known then.
pub fn state_by_name(settings: &Settings, chosen: &RepositorySettings) -> HostState {
    HostState::new(&settings.state_dir, &chosen.name)
}

/// The store of a repository, inside `layers`.
///
/// # Errors
/// As [`store::open`].
pub fn open_store(chosen: &RepositorySettings, layers: &LayerOptions) -> Result<Arc<dyn Store>> {
    Ok(layered(store::open(&chosen.url, &chosen.options)?, layers))
}

/// Opens a repository and checks its keys: against `root` in the configuration, else against what this host saw when
/// it first opened a repository under this name.
///
/// # Errors
/// Those of [`Repository::open`]; damaged when the keys are others than before.
pub async fn open_repository(
    context: &Context,
    settings: &Settings,
    chosen: &RepositorySettings,
    layers: &LayerOptions,
) -> Result<Repository> {
    let store = open_store(chosen, layers)?;
    let repository = Repository::open(&chosen.name, store, chosen.root.map(Sha256Digest)).await?;
    for (key, why) in &repository.keyring().problems {
        context.progress.warn(&format!("{key} is not used, somebody put it there who had no right to: {why}"));
    }
    if chosen.root.is_some() {
        return Ok(repository);
    }
    let found = repository.keyring().root;
    // Kept under the name in the configuration: a forged repository may have any id.
    match state_by_name(settings, chosen).pin_root(found) {
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
pub async fn open(
    context: &Context,
    settings: &Settings,
    chosen: &RepositorySettings,
    source: &SourceName,
    layers: &LayerOptions,
) -> Result<Scope> {
    let repository = open_repository(context, settings, chosen, layers).await?;
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
    Ok(Writing { signer: signer(settings)?, recipients, compression_level: settings.backup.compression_level })
}

/// The key that this host signs with.
///
/// # Errors
/// Usage errors when the configuration names none, or it cannot be read.
pub fn signer(settings: &Settings) -> Result<Signer> {
    let Some(key_file) = &settings.signing_key_file else {
        return Err(Error::usage(format!("{} names no signing key", settings.config_file.display()))
            .detail("needed", "[signing] key_file = \"…\", the key that this host signs with")
            .hint("lifeboat init --generate-keys DIR   makes one"));
    };
    Signer::read(key_file)
}
