//! Following a database: each batch of commits becomes the next segment of its log.
//!
//! Invariants:
//! - The database's own log is let go only behind what is durable in as many repositories as must hold it.
//! - A segment goes on from the one before it, or a number is left out and a backup taken, and the operator told why.
//! - What is remembered on this host is written in the order that [`super::bookmark`] says; that nothing goes on any more,
//!   before anything is done about it.
//! - A repository that is away stops nothing else: the database is polled meanwhile, so that its log is guarded, and let go
//!   when it grows too large. That is so from the beginning: what this host remembers is enough to guard it.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use serde::Serialize;

use super::backup::{self, BackupOptions, Shared, go_on_from};
use super::base::{self, newest_segment};
use super::bookmark::{self, Bookmark, Pending};
use super::store::{self, Destination};
use super::{SIZE, number};
use crate::base::progress::Progress;
use crate::base::units::format_bytes;
use crate::base::{Cancel, Engine, Error, ErrorKind, Incarnation, Result, SourceName, Timestamp, killpoint};
use crate::engine::archive::push::flush_index;
use crate::engine::archive::stream::Surroundings;
use crate::engine::backup::Wish;
use crate::engine::lease::Terms;
use crate::engine::{Scope, Writing, head};
use crate::repo::log::LogCatalog;
use crate::repo::queue::{Item, Queue};
use crate::repo::{BackupSummary, CommitLog};
use crate::source::sqlite::{Batch, Moment, Options as WatchOptions, Poll, SegmentHeader, SegmentWriter, Watch};

/// Pages of a batch that one segment may hold, in bytes; what is larger, be it of one transaction or of many since the moment
/// stored last, is stored as a backup, a pack at a time.
const LARGEST_SEGMENT_BYTES: u64 = 128 << 20;
/// First wait after a failure, and the longest.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What is followed, and how.
pub struct Options {
    /// The source.
    pub source: SourceName,
    /// The database file.
    pub path: PathBuf,
    /// Where this host remembers things.
    pub state_dir: PathBuf,
    /// Longest time that a commit waits before it is stored.
    pub flush: Duration,
    /// The repositories by name, each with the queue of what it lacks.
    pub repositories: Vec<(String, Queue)>,
    /// How many of them must hold the log.
    pub needed: usize,
    /// Longest pause after a failure: a part of what may be lost.
    pub longest_pause: Duration,
    /// Threads that compress a backup.
    pub workers: usize,
    /// Bytes of frames in a pack of a backup; none leaves the choice to the size of the database.
    pub pack_bytes: Option<u64>,
    /// How the lease is taken for a backup.
    pub lease: Option<Terms>,
    /// When the database's log is made small.
    pub watch: WatchOptions,
}

/// What following came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Followed {
    /// Everything whose commit had returned by then is durable in the repositories; none when nothing is known.
    pub complete_at: Option<Timestamp>,
    /// Segments stored.
    pub segments: u64,
    /// Transactions in them.
    pub transactions: u64,
    /// Backups that were taken because the log did not go on.
    pub backups: u64,
}

/// Where the log of the database stands.
struct At {
    incarnation: Incarnation,
    /// The segment that was stored last, or that before the first.
    segment: u64,
    /// The moment that the next one goes on from; none when none does.
    last: Option<Moment>,
    pending: Option<Pending>,
}

/// What a look at the database came to.
struct Round {
    /// Whether everything is stored that was committed before it, as far as anybody can follow it.
    is_all: bool,
    /// Whether the database can be followed now: then what the operator was told is over.
    is_followed: bool,
}

impl Round {
    /// There is nothing to follow.
    const UNFOLLOWED: Self = Self { is_all: true, is_followed: false };
}

struct Follower<'a> {
    options: &'a Options,
    surroundings: &'a dyn Surroundings,
    writing: &'a Writing,
    progress: Arc<dyn Progress>,
    cancel: Cancel,
    dir: PathBuf,
    to: Vec<Destination>,
    watch: Shared,
    at: Option<At>,
    /// Whether the repositories were asked what became of the log meanwhile.
    is_taken_up: bool,
    /// Why a backup is due.
    due: Option<String>,
    /// What the operator was told since all was well last, so that it is told once.
    said: BTreeSet<String>,
    followed: Followed,
    _lock: File,
}

/// Follows the database until somebody asks to stop; then stores what was committed, and ends.
///
/// # Errors
/// When another process of this host follows it; when this host may not write to the repositories; when somebody else stores
/// its log, too; when something that was committed before the stop could not be stored.
pub async fn run(
    options: &Options,
    surroundings: &dyn Surroundings,
    writing: &Writing,
    progress: Arc<dyn Progress>,
    cancel: Cancel,
) -> Result<Followed> {
    let dir = options.state_dir.join("follow").join(options.source.to_string());
    let lock = bookmark::lock(&dir, &options.source)?;
    let to = options.repositories.iter().map(|(name, queue)| Destination::new(name.clone(), queue.clone())).collect();
    let watch = Shared::new(Watch::new(&options.path, options.watch));
    let mut follower = Follower {
        options,
        surroundings,
        writing,
        progress,
        cancel,
        dir,
        to,
        watch,
        at: None,
        is_taken_up: false,
        due: None,
        said: BTreeSet::new(),
        followed: Followed::default(),
        _lock: lock,
    };
    follower.guard()?;
    follower.follow().await
}

impl Follower<'_> {
    async fn follow(mut self) -> Result<Followed> {
        let longest_pause = self.options.longest_pause.clamp(PAUSE, LONGEST_PAUSE);
        let (mut pause, mut stopped) = (PAUSE, None);
        loop {
            if stopped.is_none() && self.cancel.is_cancelled() {
                stopped = Some(Timestamp::now());
            }
            let wait = match (self.round().await, stopped) {
                (Ok(round), Some(stopped)) if round.is_all || self.followed.complete_at >= Some(stopped) => break,
                // What was committed before the stop is stored before the end.
                (Ok(_), Some(_)) => continue,
                (Ok(round), None) => {
                    if round.is_followed && !self.to.iter().any(Destination::has_failed) {
                        self.said.clear();
                    }
                    pause = PAUSE;
                    self.options.flush
                }
                (Err(error), None) if self.is_passing(&error) => {
                    self.say(&format!("{} is not followed for now: {}", self.options.source, error.summary()));
                    pause = (pause * 2).min(longest_pause);
                    pause.mul_f64(rand::rng().random_range(0.75..1.25))
                }
                // Told to stop while a backup was being taken.
                (Err(error), None) if error.kind() == ErrorKind::Interrupted => Duration::ZERO,
                (Err(error), _) => {
                    self.sign().await;
                    return Err(error);
                }
            };
            tokio::select! {
                () = self.cancel.cancelled() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
        self.sign().await;
        Ok(self.followed)
    }

    /// Whether another try may succeed. At first only what is away is waited for: an operator looks on then.
    fn is_passing(&self, error: &Error) -> bool {
        match error.kind() {
            ErrorKind::Contradicted | ErrorKind::Usage | ErrorKind::Interrupted => false,
            ErrorKind::Unreachable | ErrorKind::Busy => true,
            ErrorKind::Failed | ErrorKind::Damaged => self.is_taken_up,
        }
    }

    /// Looks what was committed, and stores it.
    async fn round(&mut self) -> Result<Round> {
        if !self.is_taken_up {
            // Guards the log while no repository answers; what else it finds, and fails with, is found again below.
            let looked = self.watch.with(|watch| watch.poll()).await;
            if matches!(looked, Ok(Poll::SnapshotNeeded(_) | Poll::SnapshotOnly { .. })) {
                self.lose()?;
            }
            self.take_up().await?;
            self.is_taken_up = true;
        }
        let polled = match self.watch.with(|watch| watch.poll()).await {
            Ok(polled) => polled,
            Err(error) => {
                // What was captured before needs nothing of the database any more.
                self.store_pending().await?;
                return Err(error);
            }
        };
        let is_all = !matches!(polled, Poll::Batch(_) | Poll::SnapshotNeeded(_));
        match polled {
            Poll::Unready(probe) => {
                if let Some(refusal) = probe.refusal(&self.options.path) {
                    self.say(&format!("{} is not followed for now: {}", self.options.source, refusal.summary()));
                }
                return self.store_pending().await.map(|()| Round::UNFOLLOWED);
            }
            Poll::SnapshotOnly { .. } => {
                self.lose()?;
                self.say(&format!(
                    "{} keeps a rollback journal: its commits cannot be followed, only backups be taken; \
                     PRAGMA journal_mode = WAL   changes that",
                    self.options.path.display()
                ));
                return self.store_pending().await.map(|()| Round::UNFOLLOWED);
            }
            Poll::SnapshotNeeded(reason) => {
                self.lose()?;
                self.due = Some(reason.to_string());
            }
            Poll::Unchanged { complete_at } => {
                if self.at.as_ref().is_some_and(|at| at.pending.is_none()) {
                    self.followed.complete_at = Some(complete_at);
                }
            }
            Poll::Batch(batch) => self.take(batch).await?,
        }
        self.store_pending().await?;
        if let Some(why) = self.due.clone() {
            let source = &self.options.source;
            self.cancel.check().map_err(|error| error.context(format!("{source}: {why}, and no backup was taken since")))?;
            self.back_up(&why).await?;
            self.due = None;
        }
        // Fails without harm, and is tried again.
        if let Err(error) = self.watch.with(|watch| watch.maintain()).await {
            self.say(&format!("the write-ahead log of {} is not made small: {}", self.options.source, error.summary()));
            return Ok(Round { is_all, is_followed: false });
        }
        Ok(Round { is_all, is_followed: true })
    }

    /// Makes a segment of `batch`, unless another is on its way.
    async fn take(&mut self, batch: Arc<Batch>) -> Result<()> {
        let Some(at) = self.at.as_mut().filter(|at| at.pending.is_none()) else { return Ok(()) };
        let bytes = batch.pages() as u64 * u64::from(batch.to.at.page_size);
        if bytes > LARGEST_SEGMENT_BYTES {
            self.lose()?;
            self.due =
                Some(format!("{} changed since what was stored last, more than a segment of its log holds", format_bytes(bytes)));
            return Ok(());
        }
        let segment = at.segment + 1;
        let pending = self.watch.with(move |watch| pending(watch, &batch, segment)).await?;
        pending.remember(&self.dir, &at.incarnation)?;
        killpoint::reach("follow.segment-kept");
        at.pending = Some(pending);
        Ok(())
    }

    /// Stores the segment that is on its way, if there is one.
    async fn store_pending(&mut self) -> Result<()> {
        let Some(at) = &mut self.at else { return Ok(()) };
        let Some(pending) = &at.pending else { return Ok(()) };
        let (place, needed) = ((self.surroundings, self.writing), self.options.needed);
        let stored = store::store(&mut self.to, place, &at.incarnation, pending, needed).await?;
        let what = if stored.count >= needed { "not everywhere" } else { "not" };
        let told =
            stored.errors.iter().map(|(name, error)| format!("the log is {what} stored: repository {name}: {}", error.summary()));
        let told: Vec<String> = told.chain(stored.warnings).collect();
        if stored.count < needed {
            let first = stored.errors.into_iter().next().map(|(_, error)| error);
            return Err(first.unwrap_or_else(|| Error::unreachable("too few repositories took the log")));
        }
        let Pending { segment, commits, from, to, .. } = pending.clone();
        let last = (at.last == Some(from)).then_some(to);
        Bookmark::new(&at.incarnation, segment, last).remember(&self.dir)?;
        killpoint::reach("follow.segment-noted");
        (at.segment, at.last, at.pending) = (segment, last, None);
        let incarnation = at.incarnation.clone();
        {
            let mut watch = self.watch.lock();
            if watch.stored_moment() == Some(&from) {
                watch.stored(&to);
            }
        }
        Pending::forget(&self.dir, &incarnation)?;
        self.followed.segments += 1;
        self.followed.transactions += u64::from(commits);
        self.followed.complete_at = Some(to.complete_at);
        told.iter().for_each(|text| self.say(text));
        Ok(())
    }

    /// Nothing goes on from what was stored: remembered before anything is done about it.
    fn lose(&mut self) -> Result<()> {
        let Some(at) = self.at.as_mut().filter(|at| at.last.is_some()) else { return Ok(()) };
        Bookmark::new(&at.incarnation, at.segment, None).remember(&self.dir)?;
        at.last = None;
        killpoint::reach("follow.lost");
        Ok(())
    }

    /// Takes the backup from which the log goes on, and tells why.
    async fn back_up(&mut self, why: &str) -> Result<()> {
        let (name, others) = self.open_all().await?;
        // Packs are larger than segments, and nobody waits for one of them.
        let home = self.surroundings.open_for_backup(&name).await?;
        // Nothing is built on a repository that was wound back: it may lack what this host's database goes on from.
        let seen = head::look(&home).await?;
        seen.warning.iter().for_each(|warning| self.progress.warn(warning));
        seen.trusted(&home)?;
        let first_segment = self.first_segment(&home, &others).await?;
        let source = &self.options.source;
        match first_segment {
            1 => self.say(&format!("{source}: {why}; a backup is taken, and its log goes on from there")),
            _ => self.say(&format!("{source}: {why}; its log has a gap here, and goes on from a backup that is taken now")),
        }
        let options = BackupOptions {
            wish: Wish::Auto,
            path: self.options.path.clone(),
            workers: self.options.workers,
            pack_bytes: self.options.pack_bytes,
            lease: self.options.lease,
            admit_in: others.iter().map(|(_, scope)| scope.clone()).collect(),
        };
        let watch = (&self.watch, Some(first_segment));
        let taken = backup::run_with(&home, self.writing, &options, watch, Arc::clone(&self.progress), self.cancel.clone()).await;
        let report = taken.map_err(|error| error.context(format!("repository {}", home.repository.name())))?;
        report.warnings.iter().for_each(|warning| self.progress.warn(warning));
        let (incarnation, segment) = (report.summary.incarnation.clone(), number(report.summary.start_lsn) - 1);
        let last = report.is_wal.then_some(report.moment);
        Bookmark::new(&incarnation, segment, last).remember(&self.dir)?;
        killpoint::reach("follow.backup-noted");
        self.at = Some(At { incarnation, segment, last, pending: None });
        if last.is_some() {
            self.watch.lock().stored(&report.moment);
        }
        self.followed.backups += 1;
        self.followed.complete_at = Some(report.moment.complete_at);
        let item = Item::Backup { id: report.summary.id };
        let elsewhere: Vec<&Destination> = self.to.iter().filter(|one| one.name != home.repository.name()).collect();
        for one in &elsewhere {
            one.queue.add(&item)?;
        }
        if !elsewhere.is_empty() {
            self.surroundings.deliver();
        }
        Ok(())
    }

    /// The name of the first repository that answers, and the others that do.
    async fn open_all(&mut self) -> Result<(String, Vec<(String, Scope)>)> {
        let (mut open, mut failures) = (Vec::new(), Vec::new());
        for one in &mut self.to {
            match one.open(self.surroundings, self.writing).await {
                Ok(scope) => open.push((one.name.clone(), scope)),
                Err(error) => failures.push((one.name.clone(), error)),
            }
        }
        if open.is_empty() {
            let first = failures.into_iter().next().map(|(_, error)| error);
            return Err(first.unwrap_or_else(|| Error::usage(format!("{} names no repository", self.options.source))));
        }
        let (home, _) = open.remove(0);
        Ok((home, open))
    }

    /// The number for what goes on from a backup that is taken now: a number behind all that were given, to segments and to
    /// what follows backups, is left out.
    async fn first_segment(&self, home: &Scope, others: &[(String, Scope)]) -> Result<u64> {
        let log = CommitLog::load(&home.repository, &home.source).await?;
        let newest = newest(&log).map(|backup| backup.incarnation.clone());
        let Some(incarnation) = newest.or_else(|| self.at.as_ref().map(|at| at.incarnation.clone())) else { return Ok(1) };
        let mut given = told_segment(&log, &incarnation).unwrap_or(0);
        let at = self.at.as_ref().filter(|at| at.incarnation == incarnation);
        given = given.max(at.map_or(0, |at| at.segment + 1 + u64::from(at.pending.is_some())));
        let behind = |catalog: &LogCatalog| newest_segment(catalog).map_or(0, |newest| newest + 1);
        given = given.max(behind(&listed(home, &incarnation).await?));
        for (name, scope) in others {
            match listed(scope, &incarnation).await {
                Ok(catalog) => given = given.max(behind(&catalog)),
                Err(error) => self.progress.warn(&format!("repository {name}: {}", error.summary())),
            }
        }
        Ok(given + 1)
    }

    /// Holds the database's log from what this host remembers on.
    fn guard(&mut self) -> Result<()> {
        let Some(Bookmark { incarnation, segment, last, .. }) = Bookmark::newest(&self.dir) else { return Ok(()) };
        let pending = Pending::load(&self.dir, &incarnation)?.filter(|pending| pending.segment == segment + 1);
        if let Some(last) = last {
            self.watch.lock().resume(last);
        }
        self.at = Some(At { incarnation, segment, last, pending });
        Ok(())
    }

    /// Goes on from what an earlier process stored, as far as the repositories have nothing against it.
    async fn take_up(&mut self) -> Result<()> {
        let (home, others) = self.open_all().await?;
        let home = self.surroundings.open(&home).await?;
        let log = CommitLog::load(&home.repository, &home.source).await?;
        let incarnation = newest(&log).map(|backup| backup.incarnation.clone());
        let bookmark = match &incarnation {
            Some(incarnation) => Bookmark::load(&self.dir, incarnation)?,
            None => None,
        };
        let (Some(incarnation), Some(bookmark)) = (incarnation, bookmark) else {
            self.at = None;
            self.watch.lock().forget();
            return Ok(());
        };
        let pending = Pending::load(&self.dir, &incarnation)?.filter(|pending| pending.segment == bookmark.segment + 1);
        let own = bookmark.segment + u64::from(pending.is_some());
        let catalog = listed(&home, &incarnation).await?;
        let (mut newest, mut latest) = (newest_segment(&catalog), base::latest_segment(&catalog).max(base::latest_backup(&log)));
        let (mut asked, mut all_asked) = (vec![log], others.len() + 1 == self.to.len());
        for (_, scope) in &others {
            match listed(scope, &incarnation).await {
                Ok(catalog) => {
                    (newest, latest) = (newest.max(newest_segment(&catalog)), latest.max(base::latest_segment(&catalog)));
                }
                Err(_) => all_asked = false,
            }
            match CommitLog::load(&scope.repository, &scope.source).await {
                Ok(log) => asked.push(log),
                Err(_) => all_asked = false,
            }
        }
        latest = asked.iter().filter_map(base::latest_backup).max().max(latest);
        let is_later =
            |backup: &BackupSummary, last: &Moment| backup.incarnation == incarnation && backup.stop_time > last.captured_at;
        let told = asked.iter().filter_map(|log| told_segment(log, &incarnation)).max();
        let reached = told.map(|told| told.saturating_sub(1)).max(newest);
        let why = match &bookmark.last {
            Some(_) if all_asked && reached < Some(bookmark.segment) => {
                Some("its repositories lack what was stored of its log last: they were put back, or lost it")
            }
            Some(_) if newest > Some(own) => Some("another host stored a part of its log meanwhile"),
            Some(last) if !bookmark.is_of_this_boot() => {
                let any_later = asked.iter().any(|log| log.backups().any(|backup| is_later(backup, last)));
                unsure_after_boot(any_later, all_asked)
            }
            _ => None,
        };
        let (last, segment) = (bookmark.last.filter(|_| why.is_none()), bookmark.segment);
        if let Some(why) = why {
            Bookmark::new(&incarnation, segment, None).remember(&self.dir)?;
            self.say(&format!("{}: {why}", self.options.source));
        }
        {
            let mut watch = self.watch.lock();
            match last {
                Some(last) if watch.stored_moment() == Some(&last) => {}
                Some(last) => watch.resume(last),
                None => watch.forget(),
            }
        }
        if let Some(warning) = latest.and_then(|latest| go_on_from(&self.watch, latest)) {
            self.progress.warn(&warning);
        }
        self.at = Some(At { incarnation, segment, last, pending });
        Ok(())
    }

    /// Has the digests signed that wait on this host, as far as repositories answer; at the end nobody waits for one that just
    /// did not.
    async fn sign(&mut self) {
        let Some(at) = &self.at else { return };
        for one in self.to.iter_mut().filter(|one| !one.is_resting()) {
            if let Ok(scope) = one.open(self.surroundings, self.writing).await
                && let Err(error) = flush_index(&scope, self.writing, &at.incarnation).await
            {
                self.progress.warn(&format!("digests of the newest segments are not signed yet: {}", error.summary()));
            }
        }
    }

    /// Tells the operator, once.
    fn say(&mut self, text: &str) {
        if self.said.insert(text.to_owned()) {
            self.progress.warn(text);
        }
    }
}

/// The newest backup of a database.
fn newest(log: &CommitLog) -> Option<&BackupSummary> {
    log.backups().rfind(|backup| backup.incarnation.engine() == Engine::Sqlite)
}

/// The largest number that a backup was told for the segment that follows it.
fn told_segment(log: &CommitLog, incarnation: &Incarnation) -> Option<u64> {
    log.backups().filter(|backup| backup.incarnation == *incarnation).map(|backup| number(backup.start_lsn)).max()
}

/// The log of `incarnation`.
async fn listed(scope: &Scope, incarnation: &Incarnation) -> Result<LogCatalog> {
    LogCatalog::load(&scope.repository, &scope.source, incarnation, SIZE).await
}

/// Why nothing goes on from what was stored in an earlier run of the machine, whose crash may have taken the tail of the
/// database's log: a later backup may hold more than the log that goes on.
fn unsure_after_boot(any_later: bool, all_asked: bool) -> Option<&'static str> {
    match (any_later, all_asked) {
        (true, _) => Some("this machine was started anew since its last backup, and its log may have lost what that holds"),
        (false, false) => Some(
            "this machine was started anew, and not every repository could be asked for a backup that holds more than its log",
        ),
        (false, true) => None,
    }
}

/// `batch` as segment number `segment`.
fn pending(watch: &Watch, batch: &Batch, segment: u64) -> Result<Pending> {
    let failed = |error: std::io::Error| Error::failed("cannot make a segment").caused_by(error);
    let header = SegmentHeader { from: Some(batch.from), to: batch.to };
    let mut writer = SegmentWriter::begin(Vec::new(), &header).map_err(failed)?;
    watch.copy_batch(batch, |page, content| writer.page(page, content).map_err(failed))?;
    let raw = writer.finish().map_err(failed)?.into();
    Ok(Pending { segment, commits: batch.commits, from: batch.from, to: batch.to, raw })
}
