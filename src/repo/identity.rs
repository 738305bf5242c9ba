//! What identifies one incarnation of a source, as its own log says.

use serde::{Deserialize, Serialize};

use super::keyring::Role;
use super::signed::{self, KeyId, Place, Signer};
use super::{Repository, layout, read_error};
use crate::base::{Error, Incarnation, Result, SegmentSize, SourceName, Timestamp};
use crate::store::{PutOutcome, StoreResult, list_all};

/// One incarnation of a PostgreSQL source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its name, which is made of the next two.
    pub incarnation: Incarnation,
    /// `postgres`.
    pub engine: String,
    /// Major version.
    pub major_version: u32,
    /// The cluster's system identifier, in decimal.
    pub system_identifier: String,
    /// WAL segment size in bytes.
    pub segment_bytes: SegmentSize,
    /// Page size in bytes.
    pub block_bytes: u32,
    /// When this repository first saw it, by the writing host's clock.
    pub first_seen: Timestamp,
}

fn place(repository: &Repository, source: &SourceName) -> Place {
    Place::of_source("identity", repository.id(), source)
}

/// Makes sure that `identity` is on record, and that what is on record agrees with it.
///
/// # Errors
/// Failed when the record disagrees; damaged when it does not verify.
pub async fn ensure(repository: &Repository, source: &SourceName, signer: &Signer, identity: &Identity) -> Result<()> {
    let key = layout::identity(source, &identity.incarnation);
    let known = match read(repository, source, &key).await {
        Ok(known) => known?,
        Err(error) if error.is_not_found() => {
            let document = signed::sign(place(repository, source), identity, signer);
            match repository.store().put_if_absent(&key, document.into()).await? {
                PutOutcome::Created => return Ok(()),
                PutOutcome::AlreadyExists => read(repository, source, &key).await??,
            }
        }
        Err(error) => return Err(error.into()),
    };
    if (known.segment_bytes, known.block_bytes) != (identity.segment_bytes, identity.block_bytes) {
        return Err(Error::failed(format!("{source} has other segment or page sizes than {key} says"))
            .detail("recorded", format!("segments of {} bytes, pages of {}", known.segment_bytes.bytes(), known.block_bytes))
            .detail(
                "found",
                format!("segments of {} bytes, pages of {}", identity.segment_bytes.bytes(), identity.block_bytes),
            ));
    }
    Ok(())
}

/// All incarnations of `source` whose records verify, in the order in which they were first seen, and of the others the
/// key and why they do not.
///
/// # Errors
/// Only when the repository does not answer.
pub async fn survey(repository: &Repository, source: &SourceName) -> Result<(Vec<Identity>, Vec<(String, String)>)> {
    let (mut all, mut problems) = (Vec::new(), Vec::new());
    for object in list_all(repository.store(), &layout::identities(source), None).await? {
        match read(repository, source, &object.key).await? {
            Ok(identity) => all.push(identity),
            Err(error) => problems.push((object.key, error.summary())),
        }
    }
    all.sort_by_key(|identity| identity.first_seen);
    Ok((all, problems))
}

/// The one of `known` that was asked for.
///
/// # Errors
/// When it is not among them; the error names those that are.
pub fn require<'k>(known: &'k [Identity], source: &SourceName, wanted: &Incarnation) -> Result<&'k Identity> {
    known.iter().find(|identity| identity.incarnation == *wanted).ok_or_else(|| {
        let names: Vec<String> = known.iter().map(|identity| identity.incarnation.to_string()).collect();
        Error::failed(format!("{source} has no incarnation {wanted}")).detail("known", names.join(", "))
    })
}

/// Reads one record; the inner error says why it is not used.
async fn read(repository: &Repository, source: &SourceName, key: &str) -> StoreResult<Result<Identity>> {
    let judge = |document: &[u8]| parse(repository, source, key, document);
    signed::read_judged(repository.store(), key, judge).await.map(|(_, identity)| identity)
}

fn parse(repository: &Repository, source: &SourceName, key: &str, document: &[u8]) -> Result<Identity> {
    let key_of = |id: &KeyId| repository.keyring().key_for(id, Role::Write);
    let identity: Identity =
        signed::verify(document, &place(repository, source), key_of).map_err(|error| read_error(key, error))?;
    if layout::identity(source, &identity.incarnation) == key {
        Ok(identity)
    } else {
        Err(Error::damaged(format!("{key} is a copy of the identity of {}", identity.incarnation)))
    }
}
