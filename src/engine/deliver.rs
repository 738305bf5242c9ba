//! A delivery: brings to one repository what its queue says it lacks, from the repositories that hold it.
//!
//! Nothing is decrypted. An item leaves the queue only once the repository holds it, durably; a file of the log passes
//! the same looks for another content under its name as in a push. What no repository can give, and what is contradicted,
//! is given up and stays in the queue; what may be a matter of time is tried again. Write order of a file: the cluster's
//! identity, the keys of its log, the file, this host's journal, and then the queue.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};

use super::archive::named::{Found, Named};
use super::copy::carry::{Carried, Carrier, Load};
use super::copy::log::adopt_keys;
use super::copy::{self, CopyOptions, Fate};
use super::lease::Terms;
use super::{Scope, Writing, head};
use crate::base::cancel::Cancel;
use crate::base::progress::Progress;
use crate::base::{BackupId, Error, ErrorKind, Incarnation, Result, Segment, SegmentSize, Timestamp, killpoint};
use crate::codec::Sha256Digest;
use crate::repo::identity;
use crate::repo::log::index::{self, IndexLine};
use crate::repo::queue::{Item, Queue, Queued};

/// Files carried at one time.
const CONCURRENT: usize = 8;

/// How long the log that a backup needs may take to arrive, before the backup is given up for the want of it.
const LOG_IS_LATE: Duration = Duration::from_secs(24 * 3600);

/// What came of one delivery.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Items that the repository holds now.
    pub delivered: usize,
    /// Items that wait for another attempt.
    pub waiting: usize,
    /// Items that were given up.
    pub given_up: usize,
}

/// A repository that lacks what is in `queue`, and those that may hold it.
pub struct Delivery<'a> {
    /// The repository that lacks it.
    pub to: &'a Scope,
    /// Where to look for it, in this order.
    pub holders: &'a [Scope],
    /// Whether that is every repository that may hold it: otherwise nothing is given up for being nowhere.
    pub all_holders: bool,
    /// What is lacking. The caller holds its lock.
    pub queue: &'a Queue,
    /// What writing needs.
    pub writing: &'a Writing,
    /// How the lease of the repository is taken for a backup.
    pub lease: Terms,
    /// Who listens.
    pub progress: Arc<dyn Progress>,
    /// Ends the delivery between two items.
    pub cancel: Cancel,
}

/// A file of the log that is lacking.
struct Lacking {
    queued: Queued,
    named: Named,
    /// The object that holds it elsewhere.
    key: String,
    /// What the holders asked so far have against it.
    failure: Option<Failure>,
    /// Whether one of them has let it go.
    expired: bool,
}

impl Lacking {
    /// The same after another holder failed.
    fn failed(self, failure: Failure) -> Self {
        Self { failure: Some(failure.after(self.failure)), ..self }
    }
}

/// A file that is durable in the repository.
struct Arrived {
    /// The object that holds it there.
    key: String,
    /// Digest and length as stored; none when it was there before.
    line: Option<(Sha256Digest, u64)>,
}

/// Why an item was not delivered.
#[derive(Clone)]
struct Failure {
    why: String,
    for_good: bool,
}

impl Failure {
    /// This one after that of an earlier holder: it is for good only when both are.
    fn after(self, earlier: Option<Self>) -> Self {
        match earlier {
            None => self,
            Some(earlier) if earlier.for_good && !self.for_good => self,
            Some(earlier) if self.for_good && !earlier.for_good => earlier,
            Some(earlier) => Self { why: format!("{}; {}", earlier.why, self.why), for_good: self.for_good },
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let for_good = !matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Busy | ErrorKind::Interrupted);
        Self { why: error.summary(), for_good }
    }
}

impl Delivery<'_> {
    /// Delivers what waits, the log before the backups: no backup is of use without its own log.
    ///
    /// # Errors
    /// When the queue cannot be read or written, or somebody asked to stop; what becomes of an item is in the account.
    pub async fn run(&self) -> Result<Account> {
        let mut account = Account::default();
        let mut logs: BTreeMap<Incarnation, Vec<Lacking>> = BTreeMap::new();
        let mut backups: Vec<(BackupId, Queued)> = Vec::new();
        for queued in self.queue.waiting()? {
            match queued.item.clone() {
                Item::Log { incarnation, file, key, raw_sha256 } => {
                    match Named::new(&self.to.source, incarnation.clone(), &file, raw_sha256) {
                        Some(named) => logs.entry(incarnation).or_default().push(Lacking {
                            queued,
                            named,
                            key,
                            failure: None,
                            expired: false,
                        }),
                        None => {
                            let why = format!("{file} is no file that PostgreSQL archives");
                            self.settle(&queued, Err(Failure { why, for_good: true }), &mut account)?;
                        }
                    }
                }
                Item::Backup { id } => backups.push((id, queued)),
            }
        }
        for (incarnation, lacking) in logs {
            self.deliver_log(&incarnation, lacking, &mut account).await?;
        }
        for (id, queued) in backups {
            self.cancel.check()?;
            let outcome = self.deliver_backup(&id, &queued).await;
            self.settle(&queued, outcome, &mut account)?;
        }
        Ok(account)
    }

    /// Puts what came of an item on record.
    fn settle(&self, queued: &Queued, outcome: Result<(), Failure>, account: &mut Account) -> Result<()> {
        match outcome {
            Ok(()) => {
                self.queue.done(&queued.item)?;
                account.delivered += 1;
            }
            Err(Failure { why, for_good }) => {
                self.queue.failed(queued, &why, for_good)?;
                account.given_up += usize::from(for_good);
                account.waiting += usize::from(!for_good);
            }
        }
        Ok(())
    }

    /// Asks one holder after the other for the files of one cluster.
    async fn deliver_log(&self, incarnation: &Incarnation, mut lacking: Vec<Lacking>, account: &mut Account) -> Result<()> {
        for holder in self.holders {
            if lacking.is_empty() {
                break;
            }
            lacking = match self.prepare(holder, incarnation).await {
                Ok(size) => {
                    let mut left = self.carry_all(holder, incarnation, lacking, account).await?;
                    note_expired(holder, incarnation, size, &mut left).await;
                    left
                }
                Err(failure) => lacking.into_iter().map(|lacking| lacking.failed(failure.clone())).collect(),
            };
        }
        for Lacking { queued, failure, expired, .. } in lacking {
            self.settle(&queued, last_word(failure, expired, self.all_holders), account)?;
        }
        Ok(())
    }

    /// What goes before any file: the cluster is on record, as the holder has it, and the keys of its log are there. The
    /// size of its segments.
    async fn prepare(&self, holder: &Scope, incarnation: &Incarnation) -> Result<SegmentSize, Failure> {
        let (known, _) = identity::survey(&holder.repository, &holder.source).await?;
        let Some(own) = known.iter().find(|identity| identity.incarnation == *incarnation) else {
            let why = format!("{incarnation} is not on record in repository {}", holder.repository.name());
            return Err(Failure { why, for_good: true });
        };
        identity::ensure(&self.to.repository, &self.to.source, &self.writing.signer, own).await?;
        adopt_keys(holder, self.to, incarnation, &self.cancel).await?;
        Ok(own.segment_bytes)
    }

    /// Carries files from one holder, many at one time; those that it cannot give are left.
    async fn carry_all(
        &self,
        holder: &Scope,
        incarnation: &Incarnation,
        lacking: Vec<Lacking>,
        account: &mut Account,
    ) -> Result<Vec<Lacking>> {
        let lines = match self.lines(holder, incarnation, &lacking).await {
            Ok(lines) => lines,
            Err(error) => {
                let failure = Failure::from(error);
                return Ok(lacking.into_iter().map(|lacking| lacking.failed(failure.clone())).collect());
            }
        };
        let scratch = self.to.state.scratch()?;
        let carrier = Carrier {
            from: holder.repository.shared_store(),
            to: self.to.repository.shared_store(),
            scratch: scratch.path().to_owned(),
            progress: Arc::clone(&self.progress),
            cancel: self.cancel.clone(),
        };
        let carrying = lacking.into_iter().map(async |lacking| {
            let outcome = self.carry(&carrier, holder, &lines, &lacking).await;
            (lacking, outcome)
        });
        let mut carrying = stream::iter(carrying).buffer_unordered(CONCURRENT);
        let mut left = Vec::new();
        while let Some((lacking, outcome)) = carrying.next().await {
            self.cancel.check()?;
            let Arrived { key, line } = match outcome {
                Ok(arrived) => arrived,
                Err(failure) => {
                    left.push(lacking.failed(failure));
                    continue;
                }
            };
            killpoint::reach("deliver.log-stored");
            // One after the other: they share a lock. A file that is not signed is covered by `verify --deep` alone.
            if let Err(error) = lacking.named.note(self.to, self.writing, &key, line, None).await {
                self.progress.warn(&format!("{key} has no signed digest: {}", error.summary()));
            }
            killpoint::reach("deliver.noted");
            self.settle(&lacking.queued, Ok(()), account)?;
        }
        Ok(left)
    }

    /// What is known of the stored files that are lacking: signed in the holder's index, or waiting on this host to be.
    async fn lines(&self, holder: &Scope, incarnation: &Incarnation, lacking: &[Lacking]) -> Result<Vec<IndexLine>> {
        let files: Vec<&str> = lacking.iter().map(|lacking| lacking.named.file.as_str()).collect();
        let mut lines = index::load_of(&holder.repository, &holder.source, incarnation, &files).await?.lines;
        lines.extend(holder.state.journal(&holder.source, incarnation).await?.lines()?);
        Ok(lines)
    }

    /// Carries one file. What is not as it was signed for is not carried; of what nobody signed for, two reads must agree.
    async fn carry(&self, carrier: &Carrier, holder: &Scope, lines: &[IndexLine], file: &Lacking) -> Result<Arrived, Failure> {
        let Lacking { named, key, .. } = file;
        let (resolved, there) = match named.look(self.to).await? {
            Found::Nothing { resolved } => (resolved, None),
            Found::Same { key } => (false, Some(key)),
        };
        if let Some(other) = there.as_ref().filter(|there| *there != key) {
            // Stored by somebody else, whose push answers for it.
            return Ok(Arrived { key: other.clone(), line: None });
        }
        let of_file = lines.iter().filter(|line| line.file == named.file && line.raw_sha256 == named.digest);
        let expected = of_file.map(|line| line.stored_sha256).collect();
        // Also when it is listed, which is not yet durable: whoever put it may have died before its last sync.
        let carried = carrier.carry(&Load { key: key.clone(), new_key: key.clone(), expected }).await;
        match carried {
            Ok(Carried::Stored { sha256, bytes }) => {
                if !resolved {
                    named.look(self.to).await?;
                }
                Ok(Arrived { key: key.clone(), line: Some((sha256, bytes)) })
            }
            Ok(Carried::Present) => Ok(Arrived { key: key.clone(), line: None }),
            // A push put it there, encrypted otherwise, or the holder lost it since.
            Ok(Carried::Damaged { .. }) if there.is_some() => Ok(Arrived { key: key.clone(), line: None }),
            Ok(Carried::Damaged { why }) => {
                let why = format!("repository {} does not hold it: {why}", holder.repository.name());
                Err(Failure { why, for_good: true })
            }
            Err(error) if error.kind() == ErrorKind::Damaged => match named.look(self.to).await? {
                Found::Same { key } => Ok(Arrived { key, line: None }),
                Found::Nothing { .. } => Err(error.into()),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// Copies a backup and what it builds on from the first holder that has it.
    async fn deliver_backup(&self, id: &BackupId, queued: &Queued) -> Result<(), Failure> {
        let (mut failure, mut expired): (Option<Failure>, bool) = (None, false);
        for holder in self.holders {
            match self.copy_backup(holder, id, queued).await {
                Ok(true) => return Ok(()),
                Ok(false) => expired = true,
                Err(other) => failure = Some(other.after(failure)),
            }
        }
        last_word(failure, expired, self.all_holders)
    }

    /// Whether the repository has the backup now; it has not when the holder has let it go.
    async fn copy_backup(&self, holder: &Scope, id: &BackupId, queued: &Queued) -> Result<bool, Failure> {
        let name = holder.repository.name();
        let log = head::look(holder).await?.trusted(holder)?;
        if log.find(id).is_none() {
            let failure = || Failure { why: format!("repository {name} does not hold it"), for_good: true };
            return if log.was_committed(id) { Ok(false) } else { Err(failure()) };
        }
        let options = CopyOptions { dry_run: false, only: Some(id.clone()), lease: self.lease };
        let progress = Arc::clone(&self.progress);
        let report = copy::run(holder, self.to, self.writing, options, progress, &self.cancel).await?;
        match report.backups.into_iter().find(|verdict| verdict.id == *id).map(|verdict| verdict.fate) {
            // Expired there means that it was there, and nobody wants it back.
            Some(Fate::Copied | Fate::Present | Fate::Expired) => Ok(true),
            // Its log may still be on the way, by a push or from a queue.
            Some(Fate::LeftOut { why }) => Err(Failure { why, for_good: Timestamp::now().since(queued.since) > LOG_IS_LATE }),
            None => Err(Failure { why: format!("repository {name} does not hold it"), for_good: true }),
        }
    }
}

/// Notes what of it a holder does not have because it has let it go. Another may have it still: it is asked as well.
async fn note_expired(holder: &Scope, incarnation: &Incarnation, size: SegmentSize, left: &mut [Lacking]) {
    let is_missing = |lacking: &Lacking| lacking.failure.as_ref().is_some_and(|failure| failure.for_good);
    if !left.iter().any(is_missing) {
        return;
    }
    let Ok(seen) = head::look(holder).await else { return };
    let cut = seen.log.log_cut(incarnation);
    for lacking in left.iter_mut().filter(|lacking| is_missing(lacking)) {
        let segment = lacking.named.file.get(..24).and_then(|name| Segment::parse(name, size));
        lacking.expired |= segment.is_some_and(|segment| cut.covers_segment(segment, size));
    }
}

/// What becomes of an item once every holder was asked. One that was let go of where it was, and that nobody has, is no
/// longer wanted.
fn last_word(failure: Option<Failure>, expired: bool, all_holders: bool) -> Result<(), Failure> {
    match failure {
        failure if expired && all_holders && failure.as_ref().is_none_or(|failure| failure.for_good) => Ok(()),
        Some(failure) if all_holders => Err(failure),
        Some(failure) => Err(Failure { for_good: false, ..failure }),
        None => Err(Failure { why: "no repository that may hold it answers".to_owned(), for_good: false }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_holder_let_go_is_wanted_until_all_were_asked() {
        let failure = |for_good| Failure { why: "it is not there".to_owned(), for_good };
        let both = |first, second| failure(second).after(Some(failure(first)));
        let is_settled = |failure, all_holders| last_word(failure, true, all_holders).is_ok();
        assert!(is_settled(Some(both(true, true)), true) && is_settled(None, true));
        // The other one does not answer now, or was not asked.
        assert!(!is_settled(Some(both(true, false)), true) && !is_settled(Some(both(false, true)), true));
        assert!(!is_settled(Some(failure(true)), false) && !is_settled(None, false));
        assert!(last_word(Some(failure(true)), false, true).is_err_and(|failure| failure.for_good));
        assert!(last_word(Some(failure(true)), false, false).is_err_and(|failure| !failure.for_good));
    }
}
