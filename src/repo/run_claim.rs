//! Who runs a slot of the schedule: claims, and notes of how the runs ended. Signed, and never changed.
//!
//! Below `<source>/run/<job>/` an attempt has a claim, `<slot>-<n>.json`, and once it is over an end beside it,
//! `<slot>-<n>.end.json`. Whoever creates the claim runs the attempt. Where the store cannot refuse a second writer the
//! names carry random letters, `<slot>-<n>-<letters>.json`, and the claim that the store got first counts, of those of one
//! moment the one with the lowest name. Nothing depends on them but who does what: after some weeks they are removed.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::keyring::Role;
use super::signed::{self, KeyId, Place, Signer};
use super::{Repository, layout};
use crate::base::{Job, Result, SourceName, Timestamp};
use crate::store::list_all;

/// What a claim says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The job.
    pub job: Job,
    /// The scheduled moment.
    pub slot: Timestamp,
    /// The attempt, from 1.
    pub attempt: u32,
    /// The host that runs it, for people.
    pub host: String,
    /// Random, for the state directory of that host.
    pub installation: String,
    /// When it was claimed, by that host's clock.
    pub claimed: Timestamp,
}

/// What an end says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Whose end.
    #[serde(flatten)]
    pub claim: Claim,
    /// When, by the same clock.
    pub ended: Timestamp,
    /// The exit code of what ran, 130 when it was stopped; none when something killed it.
    pub exit_code: Option<i32>,
}

/// One attempt as the repository knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Key of the claim.
    pub key: String,
    /// What it says; none when it does not verify: then it only uses up its number.
    pub claim: Option<Claim>,
    /// Its number.
    pub attempt: u32,
    /// When the store got it.
    pub stored: Timestamp,
    /// How it ended.
    pub end: Option<End>,
}

/// The attempts at one slot, oldest first, and what does not verify: key and why.
pub type Attempts = (Vec<Found>, Vec<(String, String)>);

/// Reads all attempts at `slot` of `job`.
///
/// # Errors
/// Only when the repository does not answer.
pub async fn load(repository: &Repository, source: &SourceName, job: Job, slot: Timestamp) -> Result<Attempts> {
    let prefix = layout::run_slot(source, job, slot);
    let (mut found, mut ends) = (BTreeMap::<u32, Found>::new(), BTreeMap::new());
    let mut problems = Vec::new();
    for object in list_all(repository.store(), &prefix, None).await? {
        let Some((attempt, is_end)) = parse_name(&object.key[prefix.len()..]) else {
            problems.push((object.key, "it is neither a claim nor an end".to_owned()));
            continue;
        };
        let read = if is_end {
            let end = read::<End>(repository, source, &object.key, "run-end").await?;
            end.map(|end| drop(ends.insert(claim_of(&object.key), end)))
        } else {
            let claim = read::<Claim>(repository, source, &object.key, "run-claim").await?;
            let (why, claim) = claim.map_or_else(|why| (Err(why), None), |claim| (Ok(()), Some(claim)));
            let is_here = claim.as_ref().is_none_or(|claim| (claim.job, claim.slot, claim.attempt) == (job, slot, attempt));
            let claim = claim.filter(|_| is_here);
            let new = Found { key: object.key.clone(), claim, attempt, stored: object.modified, end: None };
            let first = found.entry(attempt).or_insert_with(|| new.clone());
            if new.counts_before(first) {
                *first = new;
            }
            why.and(if is_here { Ok(()) } else { Err("it was moved here from another slot".to_owned()) })
        };
        problems.extend(read.err().map(|why| (object.key, why)));
    }
    let with_end = |found: Found| {
        let end = ends.remove(&found.key).filter(|end: &End| Some(&end.claim) == found.claim.as_ref());
        Found { end, ..found }
    };
    Ok((found.into_values().map(with_end).collect(), problems))
}

impl Found {
    /// Whether it wins against another claim of the same attempt, where the store takes both.
    fn counts_before(&self, other: &Self) -> bool {
        let order = |found: &Self| (found.claim.is_none(), found.stored, found.key.clone());
        order(self) < order(other)
    }
}

/// The document at `key`, or why it is not accepted. One that vanished while it was looked for is none.
async fn read<T: serde::de::DeserializeOwned>(
    repository: &Repository,
    source: &SourceName,
    key: &str,
    kind: &str,
) -> Result<Result<T, String>> {
    let key_of = |id: &KeyId| repository.keyring().key_for(id, Role::Write);
    let place = Place::of_source(kind, repository.id(), source);
    let judge = |document: &[u8]| signed::verify::<T>(document, &place, key_of);
    match signed::read_judged(repository.store(), key, judge).await {
        Ok((_, judged)) => Ok(judged.map_err(|error| error.to_string())),
        Err(error) if error.is_not_found() => Ok(Err("it vanished while it was read".to_owned())),
        Err(error) => Err(error.into()),
    }
}

/// The attempt's number, and whether it is an end.
fn parse_name(name: &str) -> Option<(u32, bool)> {
    let stem = name.strip_suffix(".json")?;
    let (stem, is_end) = stem.strip_suffix(".end").map_or((stem, false), |stem| (stem, true));
    let (number, letters) = stem.split_once('-').unwrap_or((stem, ""));
    let digits = number.len() == 4 && number.bytes().all(|byte| byte.is_ascii_digit());
    let plain = letters.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (digits && plain).then(|| Some((number.parse().ok()?, is_end))).flatten()
}

/// The key of the end of the claim at `key`.
pub fn end_of(key: &str) -> String {
    format!("{}.end.json", key.strip_suffix(".json").unwrap_or(key))
}

fn claim_of(end: &str) -> String {
    end.replace(".end.json", ".json")
}

/// The bytes of a claim.
pub fn claim_document(repository: &Repository, source: &SourceName, signer: &Signer, claim: &Claim) -> Bytes {
    signed::sign(Place::of_source("run-claim", repository.id(), source), claim, signer).into()
}

/// The bytes of an end.
pub fn end_document(repository: &Repository, source: &SourceName, signer: &Signer, end: &End) -> Bytes {
    signed::sign(Place::of_source("run-end", repository.id(), source), end, signer).into()
}

/// The slot that a key below `<source>/run/<job>/` belongs to.
pub fn slot_of(source: &SourceName, job: Job, key: &str) -> Option<Timestamp> {
    Timestamp::parse_compact(key.strip_prefix(&layout::run_job(source, job))?.get(..16)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_the_attempt_and_whether_it_is_over() {
        assert_eq!(parse_name("0001.json"), Some((1, false)));
        assert_eq!(parse_name("0012.end.json"), Some((12, true)));
        assert_eq!(parse_name("0001-k3fq.json"), Some((1, false)));
        assert_eq!(parse_name("0001-k3fq.end.json"), Some((1, true)));
        for strange in ["1.json", "0001", "0001.end", "000a.json", "+001.json", "0001-a/b.json", ".json", ""] {
            assert_eq!(parse_name(strange), None, "{strange}");
        }
        assert_eq!(claim_of(&end_of("orders/run/full/x-0001.json")), "orders/run/full/x-0001.json");
    }
}
