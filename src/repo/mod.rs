//! The repository: every persisted struct and every object name.
//!
//! A backup is written in this order, each step durable before the next: `begin.json`, the wrapped key, packs,
//! `packs.jsonl`, the manifest, the commit entry. Only the last makes it a backup; whatever a crash leaves before
//! that is an orphan that no reader looks at. `docs/FORMAT.md` is the byte-level description.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::base::{Error, Result, Timestamp};
use crate::codec::{CodecError, Sha256Digest};
use crate::store::{PutOutcome, Store};

pub mod backup;
pub mod base_cache;
pub mod commit;
pub mod evidence;
pub mod expiry;
pub mod host_state;
pub mod identity;
pub mod keyring;
pub mod layout;
pub mod lease;
pub mod log;
pub mod manifest;
pub mod pack;
pub mod page_index;
pub mod probe;
pub mod queue;
pub mod resume;
pub mod run_claim;
pub mod run_record;
pub mod signed;
mod summary;

pub use commit::{BackupSummary, CommitLog, Tombstone};
pub use keyring::{KeyEntry, Keyring, Role};
pub use signed::Signer;

/// `lifeboat.json`: says that this place is a repository, and which.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// Repository format.
    pub format: u32,
    /// The repository's id: 32 random hex digits.
    pub id: String,
    /// When it was created.
    pub created: Timestamp,
}

/// An open repository.
#[derive(Clone)]
pub struct Repository {
    name: String,
    store: Arc<dyn Store>,
    descriptor: Descriptor,
    keyring: Keyring,
}

impl Repository {
    /// Opens the repository in `store`, called `name` in the configuration, and checks its keys against the pin.
    ///
    /// # Errors
    /// Unreachable when the store does not answer, failed when there is no repository or one of a later format,
    /// damaged when its keys do not verify or are not the pinned ones.
    pub async fn open(name: &str, store: Arc<dyn Store>, pinned_root: Option<Sha256Digest>) -> Result<Self> {
        let document = store.get(layout::DESCRIPTOR).await.map_err(|error| match error.is_not_found() {
            true => Error::failed(format!("there is no repository at {} (repository {name})", store.url()))
                .hint(format!("lifeboat init --repository {name}   makes one"))
                .hint("if there was one, the disk may not be mounted or the address may be wrong"),
            false => Error::from(error).context(format!("cannot open repository {name}")),
        })?;
        let descriptor = parse_descriptor(&document)?;
        let keyring = Keyring::load(store.as_ref(), &descriptor.id).await?;
        if let Some(pinned) = pinned_root.filter(|pinned| *pinned != keyring.root) {
            return Err(Error::damaged(format!(
                "the keys of repository {name} are not the pinned ones: it was replaced or forged"
            ))
            .detail("pinned", pinned.to_string())
            .detail("found", keyring.root.to_string())
            .hint(format!("if the repository was made anew on purpose, correct root in [repository.{name}]")));
        }
        Ok(Self { name: name.to_owned(), store, descriptor, keyring })
    }

    /// Makes a repository in `store`: first its keys, last its descriptor, without which it does not exist.
    ///
    /// # Errors
    /// Failed when there is one already or another process makes one right now.
    pub async fn create(name: &str, store: Arc<dyn Store>, keys: Vec<KeyEntry>, admin: &Signer) -> Result<Self> {
        let existing = || {
            Error::failed(format!("there is a repository at {} already", store.url()))
                .hint(format!("lifeboat check   looks at repository {name}"))
        };
        let descriptor =
            Descriptor { format: signed::FORMAT, id: hex::encode(rand::random::<[u8; 16]>()), created: Timestamp::now() };
        match store.head(layout::DESCRIPTOR).await {
            Ok(_) => return Err(existing()),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
        let keyring = Keyring::first(&descriptor.id, descriptor.created, keys, admin);
        if store.put_if_absent(&layout::keyring(1), keyring.into()).await? == PutOutcome::AlreadyExists {
            return Err(Error::failed(format!(
                "{} holds keys but no repository: an earlier init was interrupted there",
                store.url()
            ))
            .hint(format!("remove {} there and run lifeboat init again", layout::keyring(1))));
        }
        let mut document = serde_json::to_vec(&descriptor).expect("a descriptor is a plain struct");
        document.push(b'\n');
        match store.put_if_absent(layout::DESCRIPTOR, document.into()).await? {
            PutOutcome::Created => Self::open(name, store, None).await,
            PutOutcome::AlreadyExists => Err(existing()),
        }
    }

    /// The same repository, whose objects are read from `store`: for readers that know what they must be.
    #[must_use]
    pub fn reading_from(self, store: Arc<dyn Store>) -> Self {
        Self { store, ..self }
    }

    /// What the configuration calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.descriptor.id
    }

    /// Its store.
    pub fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }

    /// Its store, to be shared with other tasks.
    pub fn shared_store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }

    /// Its keys.
    pub fn keyring(&self) -> &Keyring {
        &self.keyring
    }
}

fn parse_descriptor(document: &[u8]) -> Result<Descriptor> {
    #[derive(Deserialize)]
    struct Version {
        format: u32,
    }
    let damaged = |error: serde_json::Error| read_error(layout::DESCRIPTOR, error);
    let version: Version = serde_json::from_slice(document).map_err(damaged)?;
    if version.format != signed::FORMAT {
        let format = version.format;
        return Err(Error::failed(format!(
            "the repository has format {format}; this version of lifeboat reads format {}",
            signed::FORMAT
        ))
        .hint("install the version of lifeboat that wrote it, or a later one"));
    }
    let descriptor: Descriptor = serde_json::from_slice(document).map_err(damaged)?;
    // The id becomes part of paths on this host.
    let plain = descriptor.id.len() == 32 && descriptor.id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if plain { Ok(descriptor) } else { Err(Error::damaged(format!("{} holds no repository id", layout::DESCRIPTOR))) }
}

/// The error for an object that was read but cannot be used.
pub fn read_error(key: &str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::damaged(format!("{key} cannot be used: {error}"))
}

/// The error for an object that could not be decoded: a missing identity is no damage.
pub fn decode_error(key: &str, error: CodecError) -> Error {
    match error {
        CodecError::NoMatchingIdentity => Error::failed(format!("none of the identities at hand opens {key}"))
            .hint("set [encryption] identity_file in lifeboat.toml to the age identity that belongs to one of the recipients"),
        other => read_error(key, other),
    }
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "repository {} at {}", self.name, self.store.url())
    }
}
