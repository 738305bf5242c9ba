//! The operator's word on a split brain: which of two contents archived under one name is the right one.
//!
//! Signed by a key with the right to expire, which no protected host holds. `archive push` then accepts the kept
//! content, and readers use it; the other stays in the repository and is ignored.

use serde::{Deserialize, Serialize};

use crate::base::{Incarnation, Result, SourceName, Timestamp};
use crate::codec::Sha256Digest;
use crate::repo::keyring::Role;
use crate::repo::signed::{self, Place, Signer};
use crate::repo::{Repository, layout, read_error};
use crate::store::list_all;

/// One resolution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolution {
    /// The incarnation whose log it speaks of.
    pub incarnation: Incarnation,
    /// Segment or history file name.
    pub file: String,
    /// Digest (16 hex digits) of the content to keep.
    pub keep: String,
    /// When it was decided; a later one replaces an earlier one.
    pub decided: Timestamp,
}

fn place(repository: &Repository, source: &SourceName) -> Place {
    Place::of_source("log-resolution", repository.id(), source)
}

/// Every resolution of one incarnation's log, in the order they were decided.
///
/// # Errors
/// Damaged when one does not verify: what it resolves must not be guessed.
pub async fn load(repository: &Repository, source: &SourceName, incarnation: &Incarnation) -> Result<Vec<Resolution>> {
    let mut all = Vec::new();
    for object in list_all(repository.store(), &layout::log_resolutions(source, incarnation), None).await? {
        let document = repository.store().get(&object.key).await?;
        let key_of = |id: &signed::KeyId| repository.keyring().key_for(id, Role::Expire);
        let resolution: Resolution =
            signed::verify(&document, &place(repository, source), key_of).map_err(|error| read_error(&object.key, error))?;
        if resolution.incarnation == *incarnation {
            all.push(resolution);
        }
    }
    all.sort_by_key(|resolution| resolution.decided);
    Ok(all)
}

/// The digest to keep for `file`, if an operator decided.
pub fn kept<'a>(resolutions: &'a [Resolution], file: &str) -> Option<&'a String> {
    resolutions.iter().rfind(|resolution| resolution.file == file).map(|resolution| &resolution.keep)
}

/// Signs and stores a resolution; returns its key.
///
/// # Errors
/// When the signer has no right to, or the repository does not answer.
pub async fn store(repository: &Repository, source: &SourceName, signer: &Signer, resolution: &Resolution) -> Result<String> {
    repository.keyring().require(signer, Role::Expire)?;
    let document = signed::sign(place(repository, source), resolution, signer);
    let (prefix, digest) = (layout::log_resolutions(source, &resolution.incarnation), Sha256Digest::of(&document).short());
    let key = format!("{prefix}{}_{digest}.json", resolution.file);
    repository.store().put_if_absent(&key, document.into()).await?;
    Ok(key)
}
