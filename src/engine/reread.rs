//! Objects that this process did not write, and is about to sign for or to store once more.
//!
//! A read that is damaged on its way, by a store, a line or this host's memory, must not become what every later
//! verification compares with, nor a copy that nothing vouches for: such an object is read twice.

use bytes::Bytes;

use crate::base::{Error, Result};
use crate::codec::Sha256Digest;
use crate::store::{Store, StoreResult};

/// Digest and length of the object `key`, which two reads agree upon.
///
/// # Errors
/// When the repository does not answer; damaged when the reads differ.
pub(crate) async fn digest_to_sign(store: &dyn Store, key: &str) -> Result<(Sha256Digest, u64)> {
    let first = digest(store, key).await?;
    match digest(store, key).await? == first {
        true => Ok(first),
        false => Err(differ(key)),
    }
}

/// The content of the small object `key`, which two reads agree upon.
///
/// # Errors
/// As [`digest_to_sign`].
pub(crate) async fn content_to_store(store: &dyn Store, key: &str) -> Result<Bytes> {
    let first = store.get(key).await?;
    match store.get(key).await? == first {
        true => Ok(first),
        false => Err(differ(key)),
    }
}

fn differ(key: &str) -> Error {
    Error::damaged(format!("two reads of {key} gave two contents: the repository, or the way to it, damages what it carries"))
        .hint("lifeboat verify   reads everything and compares it with what was signed")
}

async fn digest(store: &dyn Store, key: &str) -> StoreResult<(Sha256Digest, u64)> {
    let content = store.get(key).await?;
    Ok((Sha256Digest::of(&content), content.len() as u64))
}
