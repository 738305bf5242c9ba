//! The commit log: one signed entry a backup. The entry is the commit point and the summary.
//!
//! Entry n names the digest of entry n−1 and is put if absent under its number. A backup exists when its entry does,
//! and not before: everything it names was stored first. An entry that does not verify is never used; the others are,
//! each vouching for itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::keyring::Role;
use super::signed::{self, Place, Signer};
use super::{Repository, layout};
use crate::base::{BackupId, BackupType, Error, Incarnation, Lsn, Result, SegmentSize, SourceName, TimelineId, Timestamp};
use crate::codec::Sha256Digest;
use crate::store::{PutOutcome, list_all};

/// What a commit entry says of its backup. No user data: times, positions, sizes, digests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackupSummary {
    /// Its id.
    pub id: BackupId,
    /// Its type.
    #[serde(rename = "type")]
    pub backup_type: BackupType,
    /// The backup it builds on; none for a full.
    pub base: Option<BackupId>,
    /// The source's incarnation.
    pub incarnation: Incarnation,
    /// Timeline on which it was taken.
    pub timeline: TimelineId,
    /// Redo LSN that the start returned: replay begins here.
    pub start_lsn: Lsn,
    /// LSN that replay must reach before the cluster is consistent.
    pub stop_lsn: Lsn,
    /// When it started, by the server's clock.
    pub start_time: Timestamp,
    /// When it stopped, by the server's clock: every moment from here on is restorable from it.
    pub stop_time: Timestamp,
    /// WAL segment size.
    pub segment_bytes: SegmentSize,
    /// Whether it was taken from a standby.
    pub from_standby: bool,
    /// Server version number, `150018`.
    pub server_version: u32,
    /// Whether data checksums were on.
    pub data_checksums: bool,
    /// `wal_log_hints` at the start.
    pub wal_log_hints: bool,
    /// `wal_level` at the start.
    pub wal_level: String,
    /// Whether the packs and the manifest are encrypted.
    pub encrypted: bool,
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes in the restored tree.
    pub raw_bytes: u64,
    /// Bytes of packs and manifest as stored by this backup.
    pub stored_bytes: u64,
    /// Number of packs.
    pub packs: u32,
    /// SHA-256 of `packs.jsonl`.
    pub packs_sha256: Sha256Digest,
    /// SHA-256 of the stored manifest.
    pub manifest_sha256: Sha256Digest,
    /// Length of the stored manifest.
    pub manifest_bytes: u64,
    /// Pages that failed their checksum and stayed bad.
    pub bad_pages: u64,
    /// Seconds from start to commit, by this host's clock.
    pub duration_seconds: f64,
}

/// One entry of the commit log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CommitEntry {
    /// Its number, counted from 1.
    pub number: u32,
    /// SHA-256 of the entry before, as stored; none for the first.
    pub previous: Option<Sha256Digest>,
    /// The scheduler's lease token under which it was written; 0 without a lease.
    pub lease_token: u64,
    /// Host that wrote it.
    pub host: String,
    /// When it was written, by that host's clock.
    pub written: Timestamp,
    /// The backup.
    pub backup: BackupSummary,
}

/// The commit log of one source as read: what verified, and what is wrong with it.
#[derive(Clone, Debug, Default)]
pub struct CommitLog {
    /// Entries that verified, by number.
    pub entries: Vec<CommitEntry>,
    /// What did not: the object's key and why.
    pub problems: Vec<(String, String)>,
    /// SHA-256 of every object, verified or not, by its number.
    pub digests: BTreeMap<u32, Sha256Digest>,
    /// Number and SHA-256 of the last object, verified or not.
    pub head: Option<(u32, Sha256Digest)>,
}

impl CommitLog {
    /// Reads and verifies the whole log of `source`.
    ///
    /// # Errors
    /// Only when the repository does not answer; what is damaged is in [`CommitLog::problems`].
    pub async fn load(repository: &Repository, source: &SourceName) -> Result<Self> {
        let prefix = layout::commits(source);
        let mut log = Self::default();
        let mut previous: Option<(u32, Sha256Digest)> = None;
        for object in list_all(repository.store(), &prefix, None).await? {
            let Some(number) = parse_number(&object.key[prefix.len()..]) else {
                log.problems.push((object.key, "it is not a commit entry".to_owned()));
                continue;
            };
            let document = match repository.store().get(&object.key).await {
                Ok(document) => document,
                Err(error) if error.is_not_found() => {
                    log.problems.push((object.key, "it vanished while the log was being read".to_owned()));
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            log.accept(repository, source, &object.key, number, &document, previous);
            previous = Some((number, Sha256Digest::of(&document)));
            log.digests.extend(previous);
        }
        log.head = previous;
        Ok(log)
    }

    fn accept(
        &mut self,
        repository: &Repository,
        source: &SourceName,
        key: &str,
        number: u32,
        document: &[u8],
        previous: Option<(u32, Sha256Digest)>,
    ) {
        let expected_number = previous.map_or(1, |(number, _)| number + 1);
        match number - expected_number {
            0 => {}
            1 => self.problems.push((layout::commit(source, expected_number), "it is missing".to_owned())),
            count => {
                let why = format!("it and the {} entries after it are missing", count - 1);
                self.problems.push((layout::commit(source, expected_number), why));
            }
        }
        let place = place(repository, source);
        let entry = match signed::verify::<CommitEntry>(document, &place, |id| repository.keyring().key_for(id, Role::Write)) {
            Ok(entry) => entry,
            Err(error) => return self.problems.push((key.to_owned(), error.to_string())),
        };
        if entry.number != number {
            let why = format!("it is a copy of entry {}: replayed under another number", entry.number);
            return self.problems.push((key.to_owned(), why));
        }
        // After a gap there is nothing to compare with, and the gap is reported already.
        if expected_number == number && entry.previous != previous.map(|(_, digest)| digest) {
            self.problems
                .push((key.to_owned(), "it does not follow the entry before it: one of the two was replaced".to_owned()));
        }
        self.entries.push(entry);
    }

    /// Summaries of the backups, oldest first.
    pub fn backups(&self) -> impl DoubleEndedIterator<Item = &BackupSummary> {
        self.entries.iter().map(|entry| &entry.backup)
    }

    /// Backups of which nothing that they build on is missing, oldest first: those that can be restored.
    pub fn restorable(&self) -> impl DoubleEndedIterator<Item = &BackupSummary> {
        let all: Vec<&BackupSummary> = self.backups().collect();
        self.backups().filter(move |backup| chain(backup, &all).is_ok())
    }

    /// The other ones, each with what it lacks.
    pub fn broken(&self) -> impl Iterator<Item = (&BackupSummary, BackupId)> {
        let all: Vec<&BackupSummary> = self.backups().collect();
        self.backups().filter_map(move |backup| Some((backup, chain(backup, &all).err()?)))
    }

    /// The backup with this id.
    pub fn find(&self, id: &BackupId) -> Option<&BackupSummary> {
        self.backups().find(|backup| backup.id == *id)
    }
}

/// `backup` and what it builds on, itself first and a full last, among `backups`.
///
/// # Errors
/// The first that is missing.
pub fn chain<'a>(backup: &'a BackupSummary, backups: &[&'a BackupSummary]) -> Result<Vec<&'a BackupSummary>, BackupId> {
    let mut chain = vec![backup];
    let mut current = backup;
    while let Some(id) = &current.base {
        match backups.iter().find(|backup| backup.id == *id) {
            // A base is always earlier: this ends even when somebody signed a circle.
            Some(base)
                if base.stop_lsn <= current.start_lsn && base.id != current.id && base.incarnation == current.incarnation =>
            {
                current = base;
                chain.push(base);
            }
            _ => return Err(id.clone()),
        }
    }
    if current.backup_type == BackupType::Full { Ok(chain) } else { Err(current.id.clone()) }
}

fn parse_number(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".json")?;
    (digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_digit()))
        .then(|| digits.parse().ok())
        .flatten()
        .filter(|number| *number > 0)
}

fn place(repository: &Repository, source: &SourceName) -> Place {
    Place::of_source("commit", repository.id(), source)
}

/// Appends an entry for `backup`: the commit point. When another writer takes the number first, the next one is tried.
///
/// # Errors
/// When the repository does not answer or refuses.
pub async fn append(
    repository: &Repository,
    source: &SourceName,
    signer: &Signer,
    host: &str,
    backup: &BackupSummary,
) -> Result<CommitEntry> {
    const ATTEMPTS: u32 = 16;
    for attempt in 0..ATTEMPTS {
        let log = CommitLog::load(repository, source).await?;
        // After the last entry that verified: an object that somebody planted far ahead must not use up the numbers.
        let number = log.entries.last().map_or(0, |entry| entry.number) + 1 + attempt;
        let entry = CommitEntry {
            number,
            previous: log.digests.get(&(number - 1)).copied(),
            lease_token: 0,
            host: host.to_owned(),
            written: Timestamp::now(),
            backup: backup.clone(),
        };
        let (key, document) = (layout::commit(source, number), signed::sign(place(repository, source), &entry, signer));
        match repository.store().put_if_absent(&key, document.clone().into()).await {
            Ok(PutOutcome::Created) => return Ok(entry),
            // An error may come after the deed: then what is there is ours.
            Ok(PutOutcome::AlreadyExists) => {}
            Err(error) if error.is_retryable() => match repository.store().get(&key).await {
                Ok(found) if found == document => return Ok(entry),
                Ok(_) => {}
                Err(_) => return Err(error.into()),
            },
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::busy(format!("cannot commit backup {} of {source}: other writers took {ATTEMPTS} numbers in a row", backup.id))
        .hint(format!("lifeboat list {source}   shows who writes")))
}

#[cfg(test)]
impl BackupSummary {
    /// A full backup of timeline 1 from `start_lsn` to `stop_lsn`, for tests that change what they are about.
    pub(crate) fn sample(id: &str, (start_lsn, stop_lsn): (Lsn, Lsn)) -> Self {
        let id: BackupId = id.parse().expect("a backup id");
        Self {
            backup_type: BackupType::Full,
            base: None,
            incarnation: Incarnation::postgres(15, 1),
            timeline: TimelineId(1),
            start_lsn,
            stop_lsn,
            start_time: id.start(),
            stop_time: id.start(),
            id,
            segment_bytes: SegmentSize::DEFAULT,
            from_standby: false,
            server_version: 150_000,
            data_checksums: true,
            wal_log_hints: false,
            wal_level: "replica".to_owned(),
            encrypted: false,
            entries: 0,
            raw_bytes: 0,
            stored_bytes: 0,
            packs: 0,
            packs_sha256: Sha256Digest::of(b""),
            manifest_sha256: Sha256Digest::of(b""),
            manifest_bytes: 0,
            bad_pages: 0,
            duration_seconds: 0.0,
        }
    }
}
