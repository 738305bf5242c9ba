//! Reads what `timeline` tells: names, and the log itself, segment by segment, a few ahead.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use tokio::task::JoinHandle;

use crate::base::progress::Progress;
use crate::base::{BackupId, Cancel, Engine, Error, ErrorKind, Incarnation, Lsn, Result, SegmentSize, TimelineId, Timestamp};
use crate::codec::encrypt::Opener;
use crate::engine::archive::{contents, get};
use crate::engine::restore::plan::newest_timeline;
use crate::engine::timeline::{Runs, TimelinePath};
use crate::engine::{IdentitySource, Scope, joined};
use crate::repo::identity::{self, Identity};
use crate::repo::log::LogCatalog;
use crate::repo::log::listing::{self, Place};
use crate::repo::{BackupSummary, CommitLog};
use crate::source::postgres::wal::{Carry, Event, SegmentReader, Stop};
use crate::store::Store;

use super::collect::{Collector, Happening};
use super::plan::{Elsewhere, Item, Track};

/// Segments fetched and opened ahead of the one being read.
const AHEAD: usize = 2;

/// Who is told what happened, in log order.
pub trait Listener: Send + 'static {
    /// Something happened.
    fn happened(&mut self, happening: Happening);
}

/// What there is of one source on one path of timelines.
pub struct Archive {
    /// Which cluster.
    pub identity: Identity,
    /// The names of its log.
    pub catalog: LogCatalog,
    /// The way to the timeline.
    pub path: TimelinePath,
    /// Whether it is the newest cluster of this name.
    pub is_newest_incarnation: bool,
    /// The log on the path.
    pub track: Track,
    /// Backups that can be restored, oldest first.
    pub backups: Vec<BackupSummary>,
    reaches: Vec<Reach>,
}

/// The positions to which a backup leads.
struct Reach {
    backup: BackupId,
    from: Lsn,
    to: Lsn,
}

/// Looks up the names; the newest incarnation and its newest timeline when none is asked for.
///
/// # Errors
/// When the repository does not answer; when there is no such incarnation or timeline, or nothing at all.
pub async fn look(
    scope: &Scope,
    log: &CommitLog,
    incarnation: Option<&Incarnation>,
    timeline: Option<TimelineId>,
) -> Result<Archive> {
    let source = &scope.source;
    let (known, _) = identity::survey(&scope.repository, source).await?;
    let identity = match incarnation {
        Some(wanted) => identity::require(&known, source, wanted)?,
        None => known.last().ok_or_else(|| {
            Error::failed(format!("nothing of {source} is in repository {}", scope.repository.name()))
                .hint("lifeboat list   shows what there is")
        })?,
    };
    let place = Place {
        repository: &scope.repository,
        state: &scope.state,
        source,
        incarnation: &identity.incarnation,
        size: identity.segment_bytes,
    };
    let catalog = listing::catalog(place, log).await?;
    let backups: Vec<BackupSummary> =
        log.restorable().filter(|backup| backup.incarnation == identity.incarnation).cloned().collect();
    let chosen = timeline
        .or_else(|| newest_timeline(&backups.iter().collect::<Vec<_>>(), &catalog))
        .ok_or_else(|| Error::failed(format!("nothing of the log of {source} is archived yet")).hint("lifeboat check"))?;
    if !catalog.timelines().contains(&chosen) && !backups.iter().any(|backup| backup.timeline == chosen) {
        return Err(Error::failed(format!("{source} has no timeline {chosen}"))
            .hint(format!("lifeboat list {source}   shows the timelines")));
    }
    let path = TimelinePath::to(chosen, &catalog, identity.segment_bytes)?;
    let cut = log.log_cut(&identity.incarnation);
    let track = Track::on(&path, &catalog, |segment| cut.covers_segment(segment, identity.segment_bytes));
    let runs = Runs::on(&path, &catalog);
    let serving = backups.iter().filter(|backup| path.serves(&catalog, backup));
    let reach = |backup: &BackupSummary| Reach {
        backup: backup.id.clone(),
        from: backup.stop_lsn,
        to: runs.from(backup.start_lsn).end_lsn,
    };
    let reaches = serving.map(reach).collect();
    Ok(Archive {
        reaches,
        is_newest_incarnation: known.last() == Some(identity),
        identity: identity.clone(),
        catalog,
        path,
        track,
        backups,
    })
}

impl Archive {
    /// Size of a segment.
    pub fn segment_size(&self) -> SegmentSize {
        self.identity.segment_bytes
    }

    /// What kind of system it is of.
    pub fn engine(&self) -> Engine {
        self.identity.incarnation.engine()
    }

    /// From the first to the last moment that is known: of a transaction's end by the names of the log; of what is no
    /// cluster also of a backup.
    pub fn span(&self) -> Option<(Timestamp, Timestamp)> {
        let of_log = self.track.span();
        if self.engine() == Engine::Postgres {
            return of_log;
        }
        let moments = || self.backups.iter().map(|backup| backup.stop_time);
        let first = of_log.map(|(first, _)| first).into_iter().chain(moments()).min()?;
        let last = of_log.map(|(_, last)| last).into_iter().chain(moments()).max()?;
        Some((first, last))
    }

    /// The backups on the path.
    pub fn backups_on_path(&self) -> Vec<&BackupSummary> {
        self.backups.iter().filter(|backup| self.path.contains(backup.timeline, backup.stop_lsn)).collect()
    }

    /// The newest backup from which a restore to just before `lsn` is possible.
    pub fn serves(&self, lsn: Lsn) -> Option<&BackupId> {
        self.reaches.iter().rev().find(|reach| reach.from <= lsn && lsn < reach.to).map(|reach| &reach.backup)
    }

    /// Refuses an interval of which nothing is archived on the path; `elsewhere` has it.
    ///
    /// # Errors
    /// When it lies outside the archive.
    pub fn check_interval(&self, source: &str, from: Timestamp, to: Timestamp, elsewhere: &[Elsewhere]) -> Result<()> {
        match self.span() {
            Some((first, last)) if to < first || from > last => {
                let asked = if from == to { from.human() } else { format!("{from} to {to}") };
                let nothing = match self.engine() {
                    Engine::Postgres => {
                        format!("the archived log of {source} has nothing of {asked} on timeline {}", self.path.timeline())
                    }
                    Engine::Sqlite | Engine::Directory => format!("nothing was stored of {source} for {asked}"),
                };
                let error = Error::failed(nothing)
                    .detail("archived", format!("{first} to {last}"))
                    .hint(format!("lifeboat timeline {source}   shows all of it"));
                let hint =
                    |other: &Elsewhere| format!("lifeboat timeline {source} --timeline {} …   has that time", other.timeline);
                Err(elsewhere.iter().fold(error, |error, other| error.hint(hint(other))))
            }
            Some(_) => Ok(()),
            None if self.engine() != Engine::Postgres => {
                Err(Error::failed(format!("{source} has no backup yet")).hint(format!("lifeboat backup {source} --type full")))
            }
            None => Err(Error::failed(format!("no transaction has ended in what is archived of the log of {source}"))
                .hint("on the server: SELECT pg_switch_wal()")),
        }
    }

    /// Refuses to choose a history by itself when transactions next to a moment are asked for: the command that is shown
    /// in the end names the timeline, and a restore takes that for a choice.
    ///
    /// # Errors
    /// When `elsewhere` has the moment, too.
    pub fn refuse_ambiguous(&self, source: &str, around: Timestamp, elsewhere: &[Elsewhere]) -> Result<()> {
        if elsewhere.is_empty() {
            return Ok(());
        }
        let newest = self.path.timeline();
        let others = elsewhere.iter().map(|other| other.timeline.to_string()).collect::<Vec<_>>().join(", ");
        let error = Error::failed(format!(
            "cannot tell which history of {source} is meant: timelines {newest} and {others} have this time"
        ))
        .detail("around", around.human());
        let choices = std::iter::once(newest).chain(elsewhere.iter().map(|other| other.timeline));
        Err(choices.fold(error, |error, timeline| {
            error.hint(format!("lifeboat timeline {source} --around '{around}' --timeline {timeline}"))
        }))
    }
}

/// A segment, or the rest of one, that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// Its file name.
    pub segment: String,
    /// Why.
    pub why: String,
}

/// What was read, and what was not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Segments read.
    pub segments: u64,
    /// Those that are damaged.
    pub unread: Vec<Unread>,
    /// Rows that could not be counted for anybody: too much went on at one time.
    pub unattributed_rows: u64,
    /// Records of a kind or form that is not known.
    pub unknown_records: u64,
}

/// Reads the segments in `range` of the track and tells `listener` what happened in them. Damage and gaps are passed over;
/// what is damaged is in the account.
///
/// # Errors
/// When no identity opens the log, or the repository does not answer.
pub async fn read<L: Listener>(
    scope: &Scope,
    archive: &Archive,
    range: Range<usize>,
    identities: &dyn IdentitySource,
    listener: L,
    (progress, cancel): (&Arc<dyn Progress>, &Cancel),
) -> Result<(L, Account)> {
    let items = &archive.track.items[range];
    let key = |item: &Item| archive.catalog.segments[&item.segment].key.clone();
    let sample = items.iter().map(key).find(|key| key.ends_with(".age")).unwrap_or_default();
    let opener = get::opener(scope, identities, &archive.identity.incarnation, &sample).await;
    let opener = opener.map_err(|error| match error.kind() {
        ErrorKind::Usage => error.hint(format!("lifeboat timeline {}   needs no key", scope.source)),
        _ => error,
    })?;
    progress.phase(&format!("reading the log of {}", scope.source), Some(items.iter().map(|item| item.stored_bytes).sum()));
    let size = archive.segment_size();
    let mut state = State { collector: Collector::default(), listener, carry: Carry::Unknown, size };
    let mut account = Account::default();
    let mut waiting: VecDeque<(&Item, JoinHandle<Result<Vec<u8>>>)> = VecDeque::new();
    let mut coming = items.iter();
    loop {
        cancel.check()?;
        while waiting.len() <= AHEAD
            && let Some(item) = coming.next()
        {
            let digest = archive.catalog.segments[&item.segment].name.digest.clone();
            let fetching = fetch(scope.repository.shared_store(), key(item), opener.clone(), digest, size.bytes());
            waiting.push_back((item, tokio::spawn(fetching)));
        }
        let Some((item, fetching)) = waiting.pop_front() else { break };
        if item.after_gap {
            state.interrupt();
        }
        let unread = match joined(fetching.await) {
            Ok(raw) => {
                let item = item.clone();
                let reading = tokio::task::spawn_blocking(move || Ok(state.segment(&item, &raw)));
                let unread;
                (state, unread) = joined(reading.await)?;
                account.segments += 1;
                unread
            }
            Err(error) if matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Interrupted) => return Err(error),
            Err(error) => Some(error.summary()),
        };
        if let Some(why) = unread {
            state.interrupt();
            account.unread.push(Unread { segment: item.segment.name(size), why });
        }
        progress.advance(item.stored_bytes);
    }
    account.unattributed_rows = state.collector.unattributed_rows;
    account.unknown_records = state.collector.unknown_records;
    Ok((state.listener, account))
}

async fn fetch(store: Arc<dyn Store>, key: String, opener: Opener, digest: String, limit_bytes: u64) -> Result<Vec<u8>> {
    let stored = store.get(&key).await?;
    joined(tokio::task::spawn_blocking(move || contents::open(&key, &stored, &opener, &digest, limit_bytes)).await)
}

struct State<L> {
    collector: Collector,
    listener: L,
    carry: Carry,
    size: SegmentSize,
}

impl<L: Listener> State<L> {
    /// What follows does not follow what was read.
    fn interrupt(&mut self) {
        self.carry = Carry::Unknown;
        self.collector.interrupt();
    }

    /// Reads one segment; says why when not all of it could be read.
    fn segment(mut self, item: &Item, raw: &[u8]) -> (Self, Option<String>) {
        let carry = std::mem::replace(&mut self.carry, Carry::Unknown);
        let reader = match SegmentReader::new(item.segment, self.size, raw, carry) {
            Err(error) if error.is_carry_mismatch() => SegmentReader::new(item.segment, self.size, raw, Carry::Unknown),
            outcome => outcome,
        };
        let mut reader = match reader {
            Ok(reader) => reader,
            Err(error) => return (self, Some(error.to_string())),
        };
        while let Some(record) = reader.next_record() {
            if item.limit.is_some_and(|limit| record.start >= limit) {
                return (self, None);
            }
            match Event::decode(&record) {
                Ok(event) => self.collector.note(&record, &event, |happening| self.listener.happened(happening)),
                Err(_) => self.collector.unknown_records += 1,
            }
        }
        let end = reader.finish();
        self.carry = end.carry;
        let why = match end.stop {
            Stop::SegmentEnd => None,
            Stop::EndOfLog { at, fault } | Stop::Damaged { at, fault } => Some(format!("cannot be read beyond {at}: {fault}")),
        };
        (self, why)
    }
}
