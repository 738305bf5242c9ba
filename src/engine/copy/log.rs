//! The log of one incarnation: keys, objects, signed digests.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::Serialize;
use tokio::task::JoinSet;

use super::carry::{Carried, Load};
use super::run::{CONCURRENT, Run};
use crate::base::{Cancel, Incarnation, Result, Segment, SegmentSize, SourceName, Timestamp};
use crate::codec::Sha256Digest;
use crate::engine::reread::content_to_store;
use crate::engine::{Scope, joined};
use crate::repo::log::index::{self, IndexLine};
use crate::repo::log::name::parse_auxiliary;
use crate::repo::log::{LogCatalog, LogCut};
use crate::repo::{Repository, layout};
use crate::store::{ObjectInfo, PutOutcome, list_all};

/// Signed digests stored in one object.
const INDEX_BATCH: usize = 256;

/// What was copied of the log of one incarnation, or would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogAccount {
    /// The incarnation.
    pub incarnation: Incarnation,
    /// Files that were copied.
    pub copied_files: u64,
    /// Their bytes as stored.
    pub copied_bytes: u64,
    /// Files that are there already.
    pub present_files: u64,
    /// Files whose signed digest is not there: the archiving host has not signed it yet, or they have none.
    pub unsigned_files: u64,
}

/// A file of the log in the first repository.
#[derive(Clone, Debug, PartialEq, Eq)]
struct LogFile {
    /// As PostgreSQL calls it.
    file: String,
    key: String,
    stored_bytes: u64,
    /// When it arrived, by the store's clock.
    arrived: Timestamp,
    digest: String,
    /// None for what is no segment.
    segment: Option<Segment>,
}

/// Everything of a log, by name, with what cannot be used.
#[derive(Default)]
struct LogFiles {
    files: Vec<LogFile>,
    /// Files of which there are two contents that nobody decided between.
    contradicted: BTreeSet<String>,
}

impl LogFiles {
    async fn load(repository: &Repository, source: &SourceName, incarnation: &Incarnation, size: SegmentSize) -> Result<Self> {
        let catalog = LogCatalog::load(repository, source, incarnation, size).await?;
        let contradicted = catalog.split_brains.iter().map(|split| split.file.clone()).collect();
        let mut files = Vec::new();
        for (timeline, history) in &catalog.histories {
            let file = format!("{}.history", timeline.hex());
            files.push((history.key.clone(), file, history.name.digest.clone(), None));
        }
        for (segment, object) in &catalog.segments {
            files.push((object.key.clone(), segment.name(size), object.name.digest.clone(), Some(*segment)));
        }
        let prefix = layout::log(source, incarnation);
        let mut listed: BTreeMap<String, ObjectInfo> = BTreeMap::new();
        for object in list_all(repository.store(), &prefix, None).await? {
            let relative = &object.key[prefix.len()..];
            if let Some((file, digest)) = relative.rsplit('/').next().and_then(parse_auxiliary)
                && relative.split('/').count() == 2
            {
                files.push((object.key.clone(), file.to_owned(), digest.to_owned(), None));
            }
            listed.insert(object.key.clone(), object);
        }
        let described = files.into_iter().filter_map(|(key, file, digest, segment)| {
            let object = listed.get(&key)?;
            Some(LogFile { file, stored_bytes: object.size_bytes, arrived: object.modified, key, digest, segment })
        });
        Ok(Self { files: described.collect(), contradicted })
    }

    /// Whether this content of a file is there.
    fn holds(&self, file: &LogFile) -> bool {
        self.files.iter().any(|own| (&own.file, &own.digest) == (&file.file, &file.digest))
    }
}

impl Run<'_> {
    /// Copies what is missing of the log of `incarnation`, but not what has expired there.
    pub(super) async fn copy_log(&mut self, incarnation: &Incarnation, size: SegmentSize, cut: &LogCut) -> Result<LogAccount> {
        let source = self.from.source.clone();
        self.carrier.progress.phase(&format!("listing the log of {incarnation}"), None);
        let ours = LogFiles::load(&self.from.repository, &source, incarnation, size).await?;
        let theirs = LogFiles::load(&self.to.repository, &source, incarnation, size).await?;
        let (missing, mut present) = self.sort_out(&ours, &theirs, cut, size);
        let total_bytes = missing.iter().map(|file| file.stored_bytes).sum();
        let mut account = LogAccount {
            incarnation: incarnation.clone(),
            copied_files: missing.len() as u64,
            copied_bytes: total_bytes,
            present_files: present.len() as u64,
            unsigned_files: 0,
        };
        if self.dry_run {
            return Ok(account);
        }
        adopt_keys(self.from, self.to, incarnation, &self.carrier.cancel).await?;
        let lines = self.lines(&self.from.repository, incarnation).await?;
        self.carrier.progress.phase(&format!("copying the log of {incarnation}"), Some(total_bytes));
        let carried = self.carry_files(&missing, &lines, &mut present).await?;
        account.copied_files = carried.len() as u64;
        account.present_files = present.len() as u64;
        account.copied_bytes = carried.iter().map(|(_, _, bytes)| bytes).sum();
        account.unsigned_files = self.sign(incarnation, &lines, &carried, &present).await?;
        Ok(account)
    }

    /// What is to be copied, and what is there. What is contradicted is found fault with.
    fn sort_out(&mut self, ours: &LogFiles, theirs: &LogFiles, cut: &LogCut, size: SegmentSize) -> (Vec<LogFile>, Vec<LogFile>) {
        for file in &ours.contradicted {
            self.fault(file.clone(), "it was archived with different contents, and nobody decided between them".to_owned());
        }
        // A file may have any number of auxiliary contents; of the others the catalog knows one.
        let mut known: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for file in &theirs.files {
            known.entry(&file.file).or_default().insert(&file.digest);
        }
        let (mut missing, mut present) = (Vec::new(), Vec::new());
        for file in &ours.files {
            let there = known.get(file.file.as_str());
            let is_auxiliary = file.segment.is_none() && !file.file.ends_with(".history");
            if there.is_some_and(|digests| digests.contains(file.digest.as_str())) {
                present.push(file.clone());
            } else if theirs.contradicted.contains(&file.file) || (there.is_some() && !is_auxiliary) {
                self.fault(file.key.clone(), "the other repository has another content of this file".to_owned());
            } else if file.segment.is_none_or(|segment| !cut.covers_segment(segment, size)) {
                missing.push(file.clone());
            }
        }
        debug_assert!(missing.iter().all(|file| !theirs.holds(file)));
        (missing, present)
    }

    /// The signed digests of a log, by file.
    async fn lines(&self, repository: &Repository, incarnation: &Incarnation) -> Result<BTreeMap<String, Vec<IndexLine>>> {
        let mut lines: BTreeMap<String, Vec<IndexLine>> = BTreeMap::new();
        for line in index::load(repository, &self.from.source, incarnation).await?.lines {
            lines.entry(line.file.clone()).or_default().push(line);
        }
        Ok(lines)
    }

    /// Carries files, a few at one time; each that arrived with its digest and length. What somebody else put there a
    /// moment before is added to `present`.
    async fn carry_files(
        &mut self,
        files: &[LogFile],
        lines: &BTreeMap<String, Vec<IndexLine>>,
        present: &mut Vec<LogFile>,
    ) -> Result<Vec<(LogFile, Sha256Digest, u64)>> {
        let mut carrying: JoinSet<Result<(LogFile, Carried)>> = JoinSet::new();
        let (mut arrived, mut waiting) = (Vec::new(), files.iter());
        loop {
            while carrying.len() < CONCURRENT
                && let Some(file) = waiting.next()
            {
                let signed = lines.get(&file.file).into_iter().flatten();
                let expected = signed.map(|line| line.stored_sha256).collect();
                let load = Load { key: file.key.clone(), new_key: file.key.clone(), expected };
                let (carrier, file) = (self.carrier.clone(), file.clone());
                carrying.spawn(async move { Ok((file, carrier.carry(&load).await?)) });
            }
            let Some(outcome) = carrying.join_next().await else { return Ok(arrived) };
            match joined(outcome)? {
                (file, Carried::Stored { sha256, bytes }) => {
                    self.copied_objects += 1;
                    arrived.push((file, sha256, bytes));
                }
                (file, Carried::Present) => present.push(file),
                (file, Carried::Damaged { why }) => self.fault(file.key, why),
            }
        }
    }

    /// Signs for the other repository what was signed for the first; returns how many files have no signed digest there.
    async fn sign(
        &self,
        incarnation: &Incarnation,
        lines: &BTreeMap<String, Vec<IndexLine>>,
        carried: &[(LogFile, Sha256Digest, u64)],
        present: &[LogFile],
    ) -> Result<u64> {
        let mut signed: Vec<IndexLine> = Vec::new();
        let mut unsigned = 0;
        let line_of = |file: &str, sha256: Sha256Digest| {
            lines.get(file).into_iter().flatten().find(|line| line.stored_sha256 == sha256).map(of_copy)
        };
        for (file, sha256, _) in carried {
            match line_of(&file.file, *sha256) {
                Some(line) => signed.push(line),
                None => unsigned += 1,
            }
        }
        // An earlier copy may have been interrupted between a file and its digest.
        let there = self.lines(&self.to.repository, incarnation).await?;
        for file in present.iter().filter(|file| !there.contains_key(&file.file)) {
            let content = match self.to.repository.store().get(&file.key).await {
                Ok(content) => content,
                // The same content under another name: archived there by another host.
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(error.into()),
            };
            match line_of(&file.file, Sha256Digest::of(&content)) {
                Some(line) => signed.push(line),
                None => unsigned += 1,
            }
        }
        for batch in signed.chunks(INDEX_BATCH) {
            index::store(&self.to.repository, &self.from.source, incarnation, &self.writing.signer, batch.to_vec()).await?;
        }
        Ok(unsigned)
    }
}

/// What is signed of a copy: no piece of the segment was ever where the copy is.
fn of_copy(line: &IndexLine) -> IndexLine {
    IndexLine { streamed_within_micros: None, ..line.clone() }
}

/// Stores those wrapped keys of the log that are not there, each stretch under a number of its own.
///
/// # Errors
/// When a repository does not answer.
pub(in crate::engine) async fn adopt_keys(from: &Scope, to: &Scope, incarnation: &Incarnation, cancel: &Cancel) -> Result<()> {
    let source = &from.source;
    let theirs = wrapped_keys(&to.repository, source, incarnation).await?;
    let mut next = theirs.keys().map(|(stretch, _)| stretch + 1).max().unwrap_or(1);
    let mut stretches: BTreeMap<u32, Vec<Bytes>> = BTreeMap::new();
    for ((stretch, _), wrapped) in wrapped_keys(&from.repository, source, incarnation).await? {
        stretches.entry(stretch).or_default().push(wrapped);
    }
    for wrappings in stretches.into_values() {
        let known = theirs.iter().find(|(_, wrapped)| wrappings.contains(wrapped)).map(|((stretch, _), _)| *stretch);
        for wrapped in wrappings.iter().filter(|wrapped| !theirs.values().any(|known| known == *wrapped)) {
            let key = |stretch, wrapping| layout::log_key(source, incarnation, stretch, wrapping);
            match known {
                // Wrapped anew to other recipients since it was copied.
                Some(stretch) => put_first_free(to, cancel, wrapped, (1..).map(|wrapping| key(stretch, wrapping))).await?,
                None => put_first_free(to, cancel, wrapped, (1..).map(|wrapping| key(next, wrapping))).await?,
            }
        }
        next += u32::from(known.is_none());
    }
    Ok(())
}

async fn put_first_free(to: &Scope, cancel: &Cancel, wrapped: &Bytes, keys: impl Iterator<Item = String>) -> Result<()> {
    let store = to.repository.store();
    for key in keys {
        cancel.check()?;
        if store.put_if_absent(&key, wrapped.clone().into()).await? == PutOutcome::Created {
            break;
        }
        // After an attempt whose answer was lost it is ours.
        if store.get(&key).await? == *wrapped {
            break;
        }
    }
    Ok(())
}

async fn wrapped_keys(
    repository: &Repository,
    source: &SourceName,
    incarnation: &Incarnation,
) -> Result<BTreeMap<(u32, u32), Bytes>> {
    let mut keys = BTreeMap::new();
    for object in list_all(repository.store(), &layout::log_keys(source, incarnation), None).await? {
        if let Some(numbers) = layout::log_key_numbers(source, incarnation, &object.key) {
            keys.insert(numbers, content_to_store(repository.store(), &object.key).await?);
        }
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Timestamp;

    #[test]
    fn what_is_signed_of_a_copy_speaks_of_no_pieces() {
        let digest = Sha256Digest::of(b"segment");
        let line = IndexLine {
            file: "000000010000000000000002".to_owned(),
            raw_sha256: digest,
            stored_sha256: digest,
            stored_bytes: 7,
            arrived: Timestamp::from_unix_micros(1).unwrap(),
            streamed_within_micros: Some(2_000_000),
        };
        assert_eq!(of_copy(&line), IndexLine { streamed_within_micros: None, ..line });
    }
}
