//! Digests of objects that this process did not write, and is about to sign for.
//!
//! A read that is damaged on its way, by a store, a line or this host's memory, must not become what every later
//! verification compares with: such an object is read twice.

use crate::base::{Error, Result};
use crate::codec::Sha256Digest;
use crate::store::Store;

/// Digest and length of the object `key`, which two reads agree upon.
///
/// # Errors
/// When the repository does not answer; damaged when the reads differ.
pub(crate) async fn digest_to_sign(store: &dyn Store, key: &str) -> Result<(Sha256Digest, u64)> {
    let first = digest(store, key).await?;
    if digest(store, key).await? == first {
        return Ok(first);
    }
    Err(Error::damaged(format!(
        "two reads of {key} gave two contents: the repository, or the way to it, damages what it carries"
    ))
    .hint("lifeboat verify   reads everything and compares it with what was signed"))
}

/// Digest and length of the object `key` as one read gives it.
pub(crate) async fn digest(store: &dyn Store, key: &str) -> Result<(Sha256Digest, u64)> {
    let content = store.get(key).await?;
    Ok((Sha256Digest::of(&content), content.len() as u64))
}
