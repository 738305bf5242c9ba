//! Keys of the log: one age identity for each stretch of it, wrapped to the operators' recipients.
//!
//! A stretch begins when a host first archives, when the recipients change, and after [`STRETCH_DAYS`]. Two hosts
//! never share one: each takes the next free number.

use crate::base::{Error, Incarnation, Result, SourceName};
use crate::codec::encrypt::{DataKey, Identity, Opener, Recipient};
use crate::repo::{Repository, decode_error, layout};
use crate::store::{ObjectInfo, PutOutcome, list_all};

/// Longest age of a stretch's key, in days.
pub const STRETCH_DAYS: u64 = 7;

/// Makes a key for a new stretch and stores it wrapped to `recipients`. Returns the stretch's number and what encrypts to it.
///
/// # Errors
/// When there are no recipients or the repository does not answer.
pub async fn begin_stretch(
    repository: &Repository,
    source: &SourceName,
    incarnation: &Incarnation,
    recipients: &[Recipient],
) -> Result<(u32, Recipient)> {
    let key = DataKey::generate();
    let wrapped = key.wrap(recipients).map_err(|error| Error::usage("cannot wrap the log's key").caused_by(error))?;
    let mut stretch = 1 + numbers(repository, source, incarnation).await?.last().copied().unwrap_or(0);
    // Where no condition protects a name two hosts could take one at the same moment, and one key would be lost with all
    // that is encrypted to it: there the name is made unique.
    let wrapping = if repository.store().may_overwrite() { rand::random_range(1..=u32::MAX) } else { 1 };
    loop {
        let name = layout::log_key(source, incarnation, stretch, wrapping);
        match repository.store().put_if_absent(&name, wrapped.clone().into()).await? {
            PutOutcome::Created => return Ok((stretch, key.recipient())),
            PutOutcome::AlreadyExists => stretch += 1,
        }
    }
}

async fn numbers(repository: &Repository, source: &SourceName, incarnation: &Incarnation) -> Result<Vec<u32>> {
    let objects = list_all(repository.store(), &layout::log_keys(source, incarnation), None).await?;
    let stretch = |object: &ObjectInfo| Some(layout::log_key_numbers(source, incarnation, &object.key)?.0);
    Ok(objects.iter().filter_map(stretch).collect())
}

/// What opens the log of one incarnation, every stretch of it that `identities` can unwrap, newest stretch first.
///
/// # Errors
/// When the repository does not answer, or there are stretches and none can be unwrapped.
pub async fn opener(
    repository: &Repository,
    source: &SourceName,
    incarnation: &Incarnation,
    identities: &[Identity],
) -> Result<Opener> {
    let mut unwrapped = Vec::new();
    let mut refused = None;
    for object in list_all(repository.store(), &layout::log_keys(source, incarnation), None).await?.into_iter().rev() {
        if layout::log_key_numbers(source, incarnation, &object.key).is_none() {
            continue;
        }
        let wrapped = repository.store().get(&object.key).await?;
        match DataKey::unwrap(&wrapped, identities) {
            Ok(key) => unwrapped.push(key.identity().clone()),
            // One bad wrapping must not lock up the stretches whose keys are whole; its own do not open, and say so.
            Err(error) => refused = refused.or(Some(decode_error(&object.key, error))),
        }
    }
    match refused {
        Some(error) if unwrapped.is_empty() => Err(error),
        _ => Ok(Opener::Age(unwrapped)),
    }
}
