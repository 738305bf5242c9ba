//! Signed digests of archived segments: what each stored object must look like, checkable without any key.
//!
//! `archive push` notes each segment on its own host and stores the notes in batches; so the newest few segments may
//! not be covered yet. An object's name carries the digest of its own content: two hosts never collide.

use serde::{Deserialize, Serialize};

use crate::base::{Incarnation, Result, SourceName, Timestamp};
use crate::codec::Sha256Digest;
use crate::repo::keyring::Role;
use crate::repo::signed::{self, Place, SignedError, Signer};
use crate::repo::{Repository, layout};
use crate::store::list_all;

/// What is known of one stored log object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexLine {
    /// Segment, history, partial or label file name as PostgreSQL calls it.
    pub file: String,
    /// SHA-256 of the raw file.
    pub raw_sha256: Sha256Digest,
    /// SHA-256 of the stored object.
    pub stored_sha256: Sha256Digest,
    /// Length of the stored object in bytes.
    pub stored_bytes: u64,
    /// When it was durable in the repository, by the archiving host's clock.
    pub arrived: Timestamp,
    /// Of a segment that was streamed before it was whole: the longest time, in microseconds, between a transaction end in
    /// it and its arrival.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub streamed_within_micros: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct Body {
    incarnation: Incarnation,
    segments: Vec<IndexLine>,
}

/// All that verified, and what did not: the object's key and why.
#[derive(Debug, Default)]
pub struct Index {
    /// In the order of the objects' names.
    pub lines: Vec<IndexLine>,
    /// Index objects that cannot be trusted.
    pub problems: Vec<(String, SignedError)>,
}

fn place(repository: &Repository, source: &SourceName) -> Place {
    Place::of_source("log-index", repository.id(), source)
}

/// Signs and stores `lines`, which must not be empty.
///
/// # Errors
/// When the repository does not answer.
pub async fn store(
    repository: &Repository,
    source: &SourceName,
    incarnation: &Incarnation,
    signer: &Signer,
    lines: Vec<IndexLine>,
) -> Result<()> {
    let file = |line: Option<&IndexLine>| line.map(|line| line.file.clone()).unwrap_or_default();
    let (from, to) = (file(lines.iter().min_by_key(|line| &line.file)), file(lines.iter().max_by_key(|line| &line.file)));
    let document = signed::sign(place(repository, source), &Body { incarnation: incarnation.clone(), segments: lines }, signer);
    let key = format!("{}{from}-{to}_{}.json", layout::log_indexes(source, incarnation), Sha256Digest::of(&document).short());
    repository.store().put_if_absent(&key, document.into()).await?;
    Ok(())
}

/// Reads and verifies the whole index of one incarnation's log.
///
/// # Errors
/// Only when the repository does not answer.
pub async fn load(repository: &Repository, source: &SourceName, incarnation: &Incarnation) -> Result<Index> {
    load_where(repository, source, incarnation, |_, _| true).await
}

/// Reads and verifies what of the index was stored after `since`, by the store's clock.
///
/// # Errors
/// When the repository does not answer.
pub async fn load_since(
    repository: &Repository,
    source: &SourceName,
    incarnation: &Incarnation,
    since: Timestamp,
) -> Result<Index> {
    load_where(repository, source, incarnation, |_, stored| stored > since).await
}

/// Reads and verifies what of the index may speak of `files`, by the objects' names.
///
/// # Errors
/// Only when the repository does not answer.
pub async fn load_of(repository: &Repository, source: &SourceName, incarnation: &Incarnation, files: &[&str]) -> Result<Index> {
    load_where(repository, source, incarnation, |name, _| {
        let range = name.split_once('_').and_then(|(range, _)| range.split_once('-'));
        range.is_none_or(|(from, to)| files.iter().any(|file| (from..=to).contains(file)))
    })
    .await
}

async fn load_where(
    repository: &Repository,
    source: &SourceName,
    incarnation: &Incarnation,
    wanted: impl Fn(&str, Timestamp) -> bool,
) -> Result<Index> {
    let mut index = Index::default();
    let prefix = layout::log_indexes(source, incarnation);
    let listed = list_all(repository.store(), &prefix, None).await?;
    for object in listed.into_iter().filter(|object| wanted(&object.key[prefix.len()..], object.modified)) {
        let document = match repository.store().get(&object.key).await {
            Ok(document) => document,
            // It went with the log that it speaks of, after it was listed.
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(error.into()),
        };
        let verified =
            signed::verify::<Body>(&document, &place(repository, source), |id| repository.keyring().key_for(id, Role::Write));
        match verified {
            Ok(body) if body.incarnation == *incarnation => index.lines.extend(body.segments),
            Ok(body) => {
                let why = format!("it speaks of incarnation {}", body.incarnation);
                index.problems.push((object.key, SignedError::Malformed(why)));
            }
            Err(error) => index.problems.push((object.key, error)),
        }
    }
    Ok(index)
}
