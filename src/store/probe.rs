//! What a store really does, tried out with three small objects.
//!
//! Believe the probe, not the vendor: some popular stores accept a conditional put and overwrite all the same. The
//! objects lie below the prefix that the caller names, which must be fresh, and are removed afterwards where the
//! credentials allow it. A probe costs [`REQUESTS`] requests.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::{ObjectInfo, PutOutcome, Store, StoreError, StoreResult};
use crate::base::Timestamp;

/// Requests of a probe of a store that lacks nothing: six puts, three of which must find the object there, two gets, two
/// listings, three deletes, and a get and a listing after them.
pub const REQUESTS: u64 = 15;

/// Writers that race for one name.
const WRITERS: u8 = 3;

/// Bytes of the content that the writers race with; each has its own.
const CONTENT_BYTES: usize = 64;

/// Whether a store does something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ability {
    /// It was seen to.
    Yes,
    /// It was seen not to.
    No,
    /// It could not be tried.
    Unknown,
}

impl Ability {
    fn of(seen: bool) -> Self {
        if seen { Self::Yes } else { Self::No }
    }
}

/// What a probe saw.
#[derive(Clone, Debug, PartialEq)]
pub struct Probed {
    /// Of several writers of one name exactly one creates it, and its content stays.
    pub conditional_put: Ability,
    /// What was put is read at once.
    pub read_after_write: Ability,
    /// What was put is listed at once.
    pub list_after_write: Ability,
    /// Listings are in byte order and go on after any key.
    pub listing_order: Ability,
    /// A part of an object can be read.
    pub ranged_read: Ability,
    /// These credentials may delete.
    pub delete: Ability,
    /// What was deleted is neither read nor listed.
    pub delete_visibility: Ability,
    /// The store's clock minus this host's, in seconds; zero when they agree within what can be measured. None when no
    /// object could be looked at.
    pub clock_skew_seconds: Option<f64>,
    /// Why the three objects were left, when they were.
    pub left: Option<String>,
}

/// Names whose byte order is neither that of a dictionary nor that of a walk through directories.
const NAMES: [&str; 3] = ["B", "a-x", "a/x"];
/// The one that is raced for.
const RACED: usize = 1;

/// Tries out `store` below `prefix`, which ends in `/`.
///
/// # Errors
/// The store's, when objects cannot be written, read or listed at all.
pub async fn probe(store: &Arc<dyn Store>, prefix: &str) -> StoreResult<Probed> {
    let keys = NAMES.map(|name| format!("{prefix}{name}"));
    let outcome = try_out(store, prefix, &keys).await;
    let removed = remove(store.as_ref(), prefix, &keys).await;
    let (mut probed, removed) = (outcome?, removed?);
    (probed.delete, probed.delete_visibility, probed.left) = removed;
    Ok(probed)
}

async fn try_out(store: &Arc<dyn Store>, prefix: &str, keys: &[String; 3]) -> StoreResult<Probed> {
    let before = Timestamp::now();
    let (winners, contents) = race(store, &keys[RACED]).await?;
    let after = Timestamp::now();
    // Late enough to be no race: a store that only takes turns badly is told from one that overwrites.
    let late = store.put_if_absent(&keys[RACED], content(WRITERS).into()).await?;
    for (at, key) in keys.iter().enumerate().filter(|(at, _)| *at != RACED) {
        store.put_if_absent(key, content(at as u8).into()).await?;
    }
    let read = found(store.get(&keys[RACED]).await)?;
    let one_won = winners.iter().filter(|won| **won).count() == 1;
    let winner = winners.iter().position(|won| *won);
    // What cannot be read yet is not known to be another's.
    let is_winners = read.as_ref().zip(winner).is_none_or(|(read, winner)| *read == contents[winner]);
    let is_somebodys = read.as_ref().is_some_and(|read| contents.contains(read) || *read == content(WRITERS));
    let range = found(store.get_range(&keys[RACED], 7..19).await)?;
    let ranged = range.zip(read.as_ref()).map(|(range, read)| read.get(7..19).is_some_and(|part| part == range));
    let listed = store.list(prefix, None).await?.objects;
    let rest = store.list(prefix, Some(&keys[0])).await?.objects;
    let all = names(&listed) == keys.iter().map(String::as_str).collect::<Vec<_>>();
    let is_listed = keys.iter().all(|key| names(&listed).contains(&key.as_str()));
    Ok(Probed {
        conditional_put: Ability::of(one_won && is_winners && late == PutOutcome::AlreadyExists),
        read_after_write: Ability::of(is_somebodys),
        list_after_write: Ability::of(is_listed),
        // Of a listing that lacks something the order tells nothing.
        listing_order: if is_listed { Ability::of(all && names(&rest) == names(&listed)[1..]) } else { Ability::Unknown },
        ranged_read: ranged.map_or(Ability::Unknown, Ability::of),
        delete: Ability::Unknown,
        delete_visibility: Ability::Unknown,
        clock_skew_seconds: listed.iter().find(|object| object.key == keys[RACED]).map(|object| skew(object, before, after)),
        left: None,
    })
}

/// Several writers put different contents under one name at one time. Who of them created it, and what each put.
async fn race(store: &Arc<dyn Store>, key: &str) -> StoreResult<(Vec<bool>, Vec<Bytes>)> {
    let contents: Vec<Bytes> = (0..WRITERS).map(content).collect();
    let mut writers = JoinSet::new();
    for (number, content) in contents.iter().cloned().enumerate() {
        let (store, key) = (Arc::clone(store), key.to_owned());
        writers.spawn(async move { (number, store.put_if_absent(&key, content.into()).await) });
    }
    let mut won = vec![false; contents.len()];
    while let Some(ended) = writers.join_next().await {
        match ended {
            Ok((number, outcome)) => won[number] = outcome? == PutOutcome::Created,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(error) => {
                let message = format!("writing {key} was given up");
                return Err(StoreError::Retryable { message, source: Some(error.into()) });
            }
        }
    }
    Ok((won, contents))
}

/// The content of writer `number`, different at every place.
fn content(number: u8) -> Bytes {
    (0..CONTENT_BYTES as u8).map(|at| at.wrapping_mul(7).wrapping_add(number)).collect()
}

/// `None` for what is not there.
fn found<T>(outcome: StoreResult<T>) -> StoreResult<Option<T>> {
    match outcome {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

fn names(objects: &[ObjectInfo]) -> Vec<&str> {
    objects.iter().map(|object| object.key.as_str()).collect()
}

/// Seconds by which the store's clock is ahead, given the host's clock before and after the object was written. Stores
/// tell whole seconds, cut off.
fn skew(object: &ObjectInfo, before: Timestamp, after: Timestamp) -> f64 {
    let earliest = before.minus(Duration::from_secs(1));
    let (early, late) = (earliest.since(object.modified), object.modified.since(after));
    late.as_secs_f64() - early.as_secs_f64()
}

/// Removes the objects, and looks whether they are gone: whether it is allowed, whether it shows, and why they are left.
async fn remove(store: &dyn Store, prefix: &str, keys: &[String; 3]) -> StoreResult<(Ability, Ability, Option<String>)> {
    for key in keys {
        match store.delete(key).await {
            Ok(()) => {}
            // These credentials may not, and need not.
            Err(StoreError::Permanent { message, .. }) => return Ok((Ability::No, Ability::Unknown, Some(message))),
            Err(error) => return Err(error),
        }
    }
    let is_read = found(store.get(&keys[RACED]).await)?.is_some();
    let is_listed = !store.list(prefix, None).await?.objects.is_empty();
    Ok((Ability::Yes, Ability::of(!is_read && !is_listed), None))
}
