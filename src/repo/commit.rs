//! The commit log: one signed entry a backup, a tombstone an expiry. An entry is the commit point and the summary.
//!
//! Entry n names the digest of entry n−1 and is put if absent under its number. A backup exists when its entry does,
//! and not before: everything it names was stored first; it is gone when a later tombstone names it, and not before:
//! nothing of it was deleted yet. An entry that does not verify is never used; the others are, each vouching for itself.
//!
//! Fencing: an entry written under a lease carries its token. Tokens of leases only grow, so one that is smaller than an
//! earlier entry's was written by somebody who had lost the lease without knowing: writers do not write such an entry and
//! readers do not use it. Token 0 says that no lease was held (a backup by hand on the only host of a source); it is
//! compared with nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::keyring::Role;
use super::log::{LogCut, LogRange};
use super::signed::{self, Place, SignedError, Signer};
pub use super::summary::BackupSummary;
use super::{Repository, layout};
use crate::base::{BackupId, BackupType, Error, Incarnation, Lsn, Result, SourceName, TimelineId, Timestamp};
use crate::codec::Sha256Digest;
use crate::store::{PutOutcome, list_all};

/// An expiry: from here on these backups are gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// The backups.
    pub backups: Vec<BackupId>,
    /// Names of the marks that it carries out.
    pub marks: Vec<String>,
    /// The log that no backup needs any more.
    pub log_floors: Vec<LogFloor>,
    /// Log between backups that stay, which none of them needs; what is missing there is a gap, and not damage.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log_ranges: Vec<LogRange>,
}

/// Where the log of one incarnation begins to be needed, on every timeline: what lies before may be deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFloor {
    /// The incarnation.
    pub incarnation: Incarnation,
    /// Segments that end here or before are not needed.
    pub lsn: Lsn,
}

/// What an entry of the commit log does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Committed {
    /// A backup comes to be.
    Backup(Box<BackupSummary>),
    /// Backups cease to be.
    Tombstone(Tombstone),
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
    /// What it does: a field `backup` or a field `tombstone`.
    #[serde(flatten)]
    pub committed: Committed,
}

impl CommitEntry {
    /// The backup, if that is what it is about.
    pub fn backup(&self) -> Option<&BackupSummary> {
        match &self.committed {
            Committed::Backup(backup) => Some(backup),
            Committed::Tombstone(_) => None,
        }
    }

    /// The expiry, if that is what it is about.
    pub fn tombstone(&self) -> Option<&Tombstone> {
        match &self.committed {
            Committed::Backup(_) => None,
            Committed::Tombstone(tombstone) => Some(tombstone),
        }
    }
}

/// The commit log of one source as read: what verified, and what is wrong with it.
#[derive(Clone, Debug, Default)]
pub struct CommitLog {
    /// Entries that verified, by number.
    pub entries: Vec<CommitEntry>,
    /// What did not, and what is not used although it did: the object's key and why.
    pub problems: Vec<(String, String)>,
    /// Numbers of entries that verified but were written under a lease that was lost. They are among the problems too.
    pub fenced: BTreeSet<u32>,
    /// Backups that a tombstone names, by id, with the number of their own entry.
    expired: BTreeMap<BackupId, u32>,
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
            let judge = |document: &[u8]| verified(repository, source, document);
            let (document, entry) = match signed::read_judged(repository.store(), &object.key, judge).await {
                Ok(read) => read,
                Err(error) if error.is_not_found() => {
                    log.problems.push((object.key, "it vanished while the log was being read".to_owned()));
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            log.accept(source, &object.key, number, entry, previous);
            previous = Some((number, Sha256Digest::of(&document)));
            log.digests.extend(previous);
        }
        log.head = previous;
        Ok(log)
    }

    fn accept(
        &mut self,
        source: &SourceName,
        key: &str,
        number: u32,
        entry: Result<CommitEntry, SignedError>,
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
        let entry = match entry {
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
        let newest_token = self.newest_token();
        if entry.lease_token != 0 && entry.lease_token < newest_token {
            self.fenced.insert(number);
            let why = format!(
                "it was written by {} under lease {}, when lease {newest_token} had been used already: by a writer that had lost \
                 its lease",
                entry.host, entry.lease_token
            );
            return self.problems.push((key.to_owned(), why));
        }
        match self.repeated(&entry) {
            None => self.admit(entry),
            // Written again by a writer that had not seen its own success.
            Some((_, true)) => {}
            Some((first, false)) => {
                let why = format!("it says otherwise of a backup that entry {first} committed: only that entry is used");
                self.problems.push((key.to_owned(), why));
            }
        }
    }

    /// The number of the entry that committed the same backup before and was not expired since, and whether it says the
    /// same. Whoever may sign must not be able to take the place of what is committed.
    fn repeated(&self, entry: &CommitEntry) -> Option<(u32, bool)> {
        let backup = entry.backup()?;
        let earlier = self.entries.iter().rfind(|earlier| earlier.backup().is_some_and(|other| other.id == backup.id))?;
        let is_gone = self.expired.get(&backup.id).is_some_and(|number| earlier.number <= *number);
        (!is_gone).then(|| (earlier.number, earlier.backup() == Some(backup)))
    }

    /// The digest that entry `number` has to name. One of an object that did not verify is not taken from a single read: it
    /// may be sound where it lies.
    async fn previous_of(&self, repository: &Repository, source: &SourceName, number: u32) -> Result<Option<Sha256Digest>> {
        let Some(digest) = self.digests.get(&(number - 1)) else { return Ok(None) };
        let is_known = self.fenced.contains(&(number - 1)) || self.entries.iter().any(|entry| entry.number == number - 1);
        let key = layout::commit(source, number - 1);
        if is_known || Sha256Digest::of(&repository.store().get(&key).await?) == *digest {
            return Ok(Some(*digest));
        }
        Err(Error::damaged(format!(
            "nothing was committed to {source}: two reads of {key} gave two contents, of which none is a commit entry"
        ))
        .hint(format!("lifeboat verify {source}   reads everything and compares it with what was signed")))
    }

    /// Takes up an entry that verified.
    fn admit(&mut self, entry: CommitEntry) {
        if let Some(tombstone) = entry.tombstone() {
            let committed = self.entries.iter().filter_map(|entry| Some((entry.backup()?.id.clone(), entry.number)));
            self.expired.extend(committed.filter(|(id, _)| tombstone.backups.contains(id)));
        }
        self.entries.push(entry);
    }

    /// A log of these entries, for tests that are about what is made of it.
    #[cfg(test)]
    pub(crate) fn of(committed: Vec<Committed>) -> Self {
        let mut log = Self::default();
        for (number, committed) in (1..).zip(committed) {
            let (previous, lease_token, host, written) = (None, 0, "host".to_owned(), Timestamp::now());
            log.admit(CommitEntry { number, previous, lease_token, host, written, committed });
        }
        log
    }

    /// Number and digest of the last entry that verified.
    pub fn last_entry(&self) -> Option<(u32, Sha256Digest)> {
        let number = self.entries.last()?.number;
        Some((number, *self.digests.get(&number)?))
    }

    /// The largest token of a lease under which an entry was written; 0 when none was.
    pub fn newest_token(&self) -> u64 {
        self.entries.iter().map(|entry| entry.lease_token).max().unwrap_or(0)
    }

    /// Whether every entry was read and verified, so that nothing can build on a backup that nobody knows of. An entry
    /// that is fenced off was read as well.
    pub fn is_whole(&self) -> bool {
        self.problems.len() == self.fenced.len()
    }

    /// Summaries of the backups that have not expired, oldest first.
    pub fn backups(&self) -> impl DoubleEndedIterator<Item = &BackupSummary> {
        self.entries.iter().filter_map(|entry| {
            let backup = entry.backup()?;
            let is_gone = self.expired.get(&backup.id).is_some_and(|number| entry.number <= *number);
            (!is_gone).then_some(backup)
        })
    }

    /// Summaries of the backups that have expired, oldest first.
    pub fn expired(&self) -> impl Iterator<Item = &BackupSummary> {
        let is_gone = |backup: &&BackupSummary| self.expired.contains_key(&backup.id);
        self.entries.iter().filter_map(CommitEntry::backup).filter(is_gone)
    }

    /// Whether a backup with this id was ever committed, also when it has expired since.
    pub fn was_committed(&self, id: &BackupId) -> bool {
        self.entries.iter().filter_map(CommitEntry::backup).any(|backup| backup.id == *id)
    }

    /// Where the log of `incarnation` begins to be needed, by the tombstones; 0 when nothing of it has expired.
    pub fn log_floor(&self, incarnation: &Incarnation) -> Lsn {
        let floors = self.entries.iter().filter_map(CommitEntry::tombstone).flat_map(|tombstone| &tombstone.log_floors);
        floors.filter(|floor| floor.incarnation == *incarnation).map(|floor| floor.lsn).max().unwrap_or_default()
    }

    /// All log of `incarnation` that was let go, by the tombstones. A backup may have come to lie before a floor since, of a
    /// server that was wound back or by a copy: from its start on nothing is, but on timelines older than its own.
    pub fn log_cut(&self, incarnation: &Incarnation) -> LogCut {
        let ranges = self.entries.iter().filter_map(CommitEntry::tombstone).flat_map(|tombstone| &tombstone.log_ranges);
        let floor = self.log_floor(incarnation);
        let below = || self.backups().filter(|backup| backup.incarnation == *incarnation && backup.start_lsn < floor);
        let needed = below().map(|backup| backup.start_lsn).min().unwrap_or(floor);
        let oldest = below().map(|backup| backup.timeline.0).min().unwrap_or(0);
        let older = LogCut::on((1..oldest).map(TimelineId), [(Lsn(0), floor)]);
        LogCut::before(needed).or(&older).or(&LogCut::of(incarnation, ranges))
    }

    /// Backups of which nothing that they build on is missing, oldest first: those that can be restored.
    pub fn restorable(&self) -> impl DoubleEndedIterator<Item = &BackupSummary> {
        let all: Vec<&BackupSummary> = self.backups().collect();
        self.backups().filter(move |backup| chain(backup, &all).is_ok())
    }

    /// The other ones, each with what is wrong with its chain.
    pub fn broken(&self) -> impl Iterator<Item = (&BackupSummary, BrokenChain)> {
        let all: Vec<&BackupSummary> = self.backups().collect();
        self.backups().filter_map(move |backup| Some((backup, chain(backup, &all).err()?)))
    }

    /// The backup with this id.
    pub fn find(&self, id: &BackupId) -> Option<&BackupSummary> {
        self.backups().find(|backup| backup.id == *id)
    }
}

/// Why a backup cannot be restored although its own entry is sound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BrokenChain {
    /// A backup that it builds on has no entry that verifies.
    Gone(BackupId),
    /// The backup, it or one that it builds on, names a base that cannot be one.
    Unsound {
        /// The backup whose entry is wrong.
        backup: BackupId,
        /// What is wrong with it.
        why: String,
    },
}

impl fmt::Display for BrokenChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone(id) => write!(f, "it needs {id}, which is gone"),
            Self::Unsound { backup, why } => write!(f, "its chain is unsound: {backup} {why}"),
        }
    }
}

/// `backup` and what it builds on, itself first and a full last, among `backups` in the order of their entries.
///
/// # Errors
/// What is wrong with the first link that does not hold.
pub fn chain<'a>(backup: &'a BackupSummary, backups: &[&'a BackupSummary]) -> Result<Vec<&'a BackupSummary>, BrokenChain> {
    let place = |id: &BackupId, before: usize| backups[..before].iter().rposition(|other| other.id == *id);
    let mut chain = vec![backup];
    let mut current = backup;
    let mut at = place(&backup.id, backups.len()).unwrap_or(backups.len());
    while let Some(id) = &current.base {
        // A base is always committed earlier: this ends even when somebody signed a circle.
        let base = match place(id, at) {
            Some(found) => {
                at = found;
                backups[found]
            }
            None if place(id, backups.len()).is_none() => return Err(BrokenChain::Gone(id.clone())),
            None => return Err(unsound(current, format!("was committed before its base {id}"))),
        };
        if let Some(why) = unfit(current, base) {
            return Err(unsound(current, why));
        }
        current = base;
        chain.push(base);
    }
    match current.backup_type {
        BackupType::Full => Ok(chain),
        other => Err(unsound(current, format!("is no full but {other}, and names no base"))),
    }
}

fn unsound(backup: &BackupSummary, why: String) -> BrokenChain {
    BrokenChain::Unsound { backup: backup.id.clone(), why }
}

/// Why `backup` cannot build on `base`; none when it can.
fn unfit(backup: &BackupSummary, base: &BackupSummary) -> Option<String> {
    let id = &base.id;
    match backup.backup_type {
        BackupType::Full => return Some(format!("is a full and names {id} as its base")),
        BackupType::Diff if base.backup_type != BackupType::Full => {
            return Some(format!("is a diff whose base {id} is no full"));
        }
        BackupType::Diff | BackupType::Incr => {}
    }
    if base.incarnation != backup.incarnation {
        return Some(format!("names {id} of another cluster ({}) as its base", base.incarnation));
    }
    (base.stop_lsn > backup.start_lsn)
        .then(|| format!("starts at {}, before its base {id} ends ({})", backup.start_lsn, base.stop_lsn))
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

/// Verifies an entry: a backup is signed by a key that may write, a tombstone by one that may expire.
fn verified(repository: &Repository, source: &SourceName, document: &[u8]) -> Result<CommitEntry, SignedError> {
    let place = place(repository, source);
    let by = |role| signed::verify::<CommitEntry>(document, &place, |id| repository.keyring().key_for(id, role));
    match by(Role::Write) {
        Ok(entry) if entry.backup().is_some() => Ok(entry),
        Ok(_) => by(Role::Expire),
        Err(SignedError::UnknownKey(key)) => match by(Role::Expire) {
            Ok(entry) if entry.backup().is_some() => Err(SignedError::UnknownKey(key)),
            other => other,
        },
        Err(error) => Err(error),
    }
}

/// Who appends to a commit log.
#[derive(Clone, Copy)]
pub struct Author<'a> {
    /// Signs the entry.
    pub signer: &'a Signer,
    /// Its host's name, for people.
    pub host: &'a str,
    /// Token of the lease it holds; 0 without one.
    pub lease_token: u64,
}

/// Appends an entry for `backup`, without a lease. As [`append_decided`].
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
    let author = Author { signer, host, lease_token: 0 };
    append_decided(repository, source, author, async |_| Ok(Committed::Backup(Box::new(backup.clone())))).await
}

/// Appends what `decide` makes of the log: the commit point. When another writer takes the number first, the log is read
/// and decided upon again. So nothing is committed that the entries before it speak against.
///
/// # Errors
/// Those of `decide`; busy when a younger lease was used meanwhile; when the repository does not answer or refuses.
pub async fn append_decided(
    repository: &Repository,
    source: &SourceName,
    author: Author<'_>,
    mut decide: impl AsyncFnMut(&CommitLog) -> Result<Committed>,
) -> Result<CommitEntry> {
    const ATTEMPTS: u32 = 16;
    for _ in 0..ATTEMPTS {
        let log = CommitLog::load(repository, source).await?;
        if author.lease_token != 0 && author.lease_token < log.newest_token() {
            let (own, newest) = (author.lease_token, log.newest_token());
            return Err(Error::busy(format!("cannot commit to {source}: the lease was lost to another host meanwhile"))
                .detail("lease", format!("{own}; {newest} was used since"))
                .hint(format!("lifeboat list {source}   shows what the other host took")));
        }
        let committed = decide(&log).await?;
        // The first free number after the last entry that verified: an object that somebody planted far ahead must not
        // use up the numbers.
        let last = log.entries.last().map(|entry| entry.number).max(log.fenced.last().copied());
        let number = (last.unwrap_or(0) + 1..).find(|number| !log.digests.contains_key(number)).unwrap_or(u32::MAX);
        let entry = CommitEntry {
            number,
            previous: log.previous_of(repository, source, number).await?,
            lease_token: author.lease_token,
            host: author.host.to_owned(),
            written: Timestamp::now(),
            committed,
        };
        let key = layout::commit(source, number);
        let document = signed::sign(place(repository, source), &entry, author.signer);
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
    Err(Error::busy(format!("cannot commit to {source}: other writers took {ATTEMPTS} numbers in a row"))
        .hint(format!("lifeboat list {source}   shows who writes")))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::repo::KeyEntry;
    use crate::store::Store;
    use crate::store::faulty::{Fault, FaultyStore};
    use crate::store::memory::MemoryStore;

    fn taken(name: &str, base: Option<&str>, lsns: (u64, u64)) -> BackupSummary {
        let id = |name: &str| format!("20261120T2140{name}");
        let backup_type = match name {
            name if name.contains("full") => BackupType::Full,
            name if name.contains("diff") => BackupType::Diff,
            _ => BackupType::Incr,
        };
        let base = base.map(|base| id(base).parse().expect("an id"));
        BackupSummary { backup_type, base, ..BackupSummary::sample(&id(name), (Lsn(lsns.0), Lsn(lsns.1))) }
    }

    const FULL: &str = "01Z-full-aaaa";
    const INCR: &str = "02Z-incr-aaaa";
    const LAST: &str = "03Z-incr-aaaa";

    fn sound() -> [BackupSummary; 3] {
        [taken(FULL, None, (10, 20)), taken(INCR, Some(FULL), (20, 30)), taken(LAST, Some(INCR), (35, 40))]
    }

    /// What is wrong with the last of `backups`, as it is told.
    fn told(backups: &[BackupSummary]) -> String {
        let all: Vec<&BackupSummary> = backups.iter().collect();
        chain(all.last().expect("one"), &all).expect_err("broken").to_string()
    }

    #[test]
    fn a_chain_leads_from_a_backup_to_its_full() {
        let backups = sound();
        let all: Vec<&BackupSummary> = backups.iter().collect();
        assert_eq!(chain(all[2], &all), Ok(vec![all[2], all[1], all[0]]));
        assert_eq!(chain(all[0], &all), Ok(vec![all[0]]));
        let others = taken("04Z-diff-aaaa", Some(FULL), (50, 60));
        assert_eq!(chain(&others, &all), Ok(vec![&others, all[0]]), "also one that is not listed");
    }

    #[test]
    fn nothing_is_let_go_from_the_start_of_a_backup_on_that_is_there() {
        let full = taken(FULL, None, (10, 20));
        let floor = LogFloor { incarnation: full.incarnation.clone(), lsn: Lsn(500) };
        let tombstone = Tombstone { backups: vec![], marks: vec![], log_floors: vec![floor], log_ranges: vec![] };
        let log = CommitLog::of(vec![Committed::Tombstone(tombstone.clone())]);
        let covers = |log: &CommitLog, to| log.log_cut(&full.incarnation).covers(TimelineId(2), Lsn(0), Lsn(to));
        assert!(covers(&log, 500) && !covers(&log, 501));
        // The server was wound back, and a backup of it taken.
        let log = CommitLog::of(vec![Committed::Tombstone(tombstone), Committed::Backup(Box::new(full.clone()))]);
        assert!(covers(&log, 10) && !covers(&log, 11));
        let later = BackupSummary { timeline: TimelineId(2), ..full.clone() };
        let floor = log.entries[0].committed.clone();
        let log = CommitLog::of(vec![floor, Committed::Backup(Box::new(later))]);
        assert!(covers(&log, 10) && !covers(&log, 11));
        let on_older = log.log_cut(&full.incarnation).covers(TimelineId(1), Lsn(0), Lsn(500));
        assert!(on_older, "what was let go of the timeline that it left is not missing");
    }

    #[test]
    fn what_is_wrong_with_a_chain_is_told() {
        let [full, incr, last] = sound();
        let changed = |change: fn(&mut BackupSummary)| {
            let mut incr = incr.clone();
            change(&mut incr);
            told(&[full.clone(), incr, last.clone()])
        };
        assert!(told(&[incr.clone(), last.clone()]).contains(&format!("needs {}, which is gone", full.id)));
        assert!(told(&[full.clone(), last.clone()]).contains(&format!("needs {}, which is gone", incr.id)));
        assert!(changed(|incr| incr.base = None).contains("is no full but incr, and names no base"));
        assert!(changed(|incr| incr.incarnation = Incarnation::postgres(15, 2)).contains("of another cluster"));
        assert!(changed(|incr| incr.start_lsn = Lsn(19)).contains("before its base"));
        assert!(changed(|incr| incr.stop_lsn = Lsn(36)).contains(&format!("{} starts at", last.id)));
        assert!(changed(|incr| incr.backup_type = BackupType::Full).contains("is a full and names"));
        assert!(
            told(&[full.clone(), incr.clone(), BackupSummary { backup_type: BackupType::Diff, ..last.clone() }])
                .contains("is a diff whose base")
        );
        assert!(told(&[incr.clone(), full, last]).contains("was committed before its base"));
    }

    /// Every read of the log is damaged on its way, one after the other: the log is as if none were, and so is what is
    /// appended to it.
    #[tokio::test]
    async fn an_entry_that_was_misread_is_read_again() {
        let (inner, signer, source) = (Arc::new(MemoryStore::new()), Signer::generate(), "orders".parse().unwrap());
        let roles = vec![Role::Write, Role::Expire, Role::Admin];
        let keys = vec![KeyEntry { name: "host".into(), public_key: signer.public_key(), roles }];
        let repository = Repository::create("main", inner.clone(), keys, &signer).await.unwrap();
        let [full, incr, last] = sound();
        for backup in [&full, &incr] {
            append(&repository, &source, &signer, "host", backup).await.unwrap();
        }
        let (truth, keyring_calls) = (CommitLog::load(&repository, &source).await.unwrap(), 3);
        let mut hit = 0;
        for (fault, seed) in [(Fault::TruncatedBody, 0), (Fault::FlippedBit, 0), (Fault::FlippedBit, 1), (Fault::FlippedBit, 2)] {
            for call in keyring_calls..keyring_calls + 3 {
                let faulty = Arc::new(FaultyStore::failing(inner.clone(), call, fault, seed));
                let misread = Repository::open("main", faulty.clone(), None).await.unwrap();
                let log = CommitLog::load(&misread, &source).await.unwrap();
                assert!(log.is_whole(), "{fault:?} at {call}: {:?}", log.problems);
                assert_eq!((&log.digests, log.entries.len()), (&truth.digests, 2), "{fault:?} at {call}");
                hit += usize::from(faulty.fired());
                let faulty = Arc::new(FaultyStore::failing(inner.clone(), call, fault, seed));
                let misread = Repository::open("main", faulty, None).await.unwrap();
                let entry = append(&misread, &source, &signer, "host", &last).await.unwrap();
                assert_eq!((entry.number, entry.previous), (3, truth.digests.get(&2).copied()), "{fault:?} at {call}");
                inner.delete(&layout::commit(&source, 3)).await.unwrap();
            }
        }
        assert_eq!(hit, 4 * 2, "a listing has no body");
    }

    #[test]
    fn a_circle_ends() {
        let same = (5, 5);
        let circle = [taken(INCR, Some(LAST), same), taken(LAST, Some(INCR), same)];
        assert!(told(&circle).contains("was committed before its base"));
        assert!(told(&[taken(INCR, Some(INCR), same)]).contains("was committed before its base"));
    }
}
