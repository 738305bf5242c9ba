//! The lease of a source: which run, on which host, may write backups now. The only document that is ever rewritten.
//!
//! Its token grows by one or more whenever it changes hands and is never given twice: not after a release, an expiry or a
//! deletion, for it also exceeds every token in the commit log. What keeps a holder that lost its lease from harm is the
//! commit log, which refuses older tokens ([`super::commit`]); the lease itself only keeps two hosts from doing the same
//! work.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::keyring::Role;
use super::signed::{self, KeyId, Place, Signer};
use super::{Repository, layout};
use crate::base::{Error, Result, SourceName, Timestamp};

/// `lease.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Grows with every holder.
    pub token: u64,
    /// Who holds it; none after a release.
    pub holder: Option<Holder>,
    /// When this holder got it, by its host's clock.
    pub acquired: Timestamp,
    /// When it runs out unless it is renewed, by the same clock: for people. Others go by the store's clock and their own.
    pub expires: Timestamp,
    /// How long after its last renewal it counts.
    pub ttl_seconds: u64,
}

/// One run of one verb.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Random, for this run alone.
    pub id: String,
    /// Its host's name, for people.
    pub host: String,
    /// Process id on that host, for people.
    pub process: u32,
    /// What it does: `backup` or `expire`.
    pub purpose: String,
    /// Random, for the state directory of that host: a later run from there that has its lock knows that this one ended.
    pub installation: String,
    /// That host's boot: a copy of its state directory on another host is none of its own.
    pub boot: String,
}

fn place(repository: &Repository, source: &SourceName) -> Place {
    Place::of_source("lease", repository.id(), source)
}

/// The lease and the version of its object; none when nobody ever held it.
///
/// # Errors
/// Damaged when it does not verify; when the repository does not answer.
pub async fn load(repository: &Repository, source: &SourceName) -> Result<Option<(Lease, String)>> {
    let key = layout::lease(source);
    let (document, version) = match repository.store().get_versioned(&key).await {
        Ok(found) => found,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let key_of = |id: &KeyId| {
        let keyring = repository.keyring();
        keyring.key_for(id, Role::Write).or_else(|| keyring.key_for(id, Role::Expire))
    };
    match signed::verify(&document, &place(repository, source), key_of) {
        Ok(lease) => Ok(Some((lease, version))),
        Err(error) => Err(Error::damaged(format!("{key} cannot be used: {error}"))
            .hint("somebody wrote it who has no key of this repository: find out who")
            .hint(format!("then remove {key} from {}; nothing is lost with it", repository.store().url()))),
    }
}

/// The bytes of a lease.
pub fn document(repository: &Repository, source: &SourceName, signer: &Signer, lease: &Lease) -> Bytes {
    signed::sign(place(repository, source), lease, signer).into()
}
