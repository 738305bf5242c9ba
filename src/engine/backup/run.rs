//! `backup`, from start to commit.
//!
//! Write order, each step durable before the next: `begin.json` once the server is in backup mode and it is known what
//! to build on, the wrapped key, the packs, the log up to the stop (archived by the server itself), `packs.jsonl`, the
//! manifest, the commit entry; last of all, on this host, what the next backup needs to build on this one.
//! A crash anywhere before the commit leaves an orphan that no reader looks at.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::assemble::{Assembled, assemble};
use super::audit;
use super::base::{self, Chosen, Moment, OpenBase};
use super::begin::begin;
use super::collect::base_line;
use super::copy::{Base, Copied, copy};
use super::draft::{Draft, leased};
use super::how::{self, Detection, Reading};
use super::late::{control_entry, late_entries};
use super::packs::joined;
use super::plan::{self, Wish};
use super::prepare::{Server, examine, prepare};
use super::underway::Witnesses;
use super::wait::{Wanted, wait_for_log};
use super::worker::{Stored, Worker};
use crate::base::cancel::Cancel;
use crate::base::progress::Progress;
use crate::base::{BackupId, BackupType, Error, Lsn, Result, TimelineId, Timestamp, killpoint};
use crate::codec::Sha256Digest;
use crate::engine::lease::{Held, Terms};
use crate::engine::{Scope, Writing, accounts, archive};
use crate::repo::Role;
use crate::repo::base_cache::{BaseFacts, BaseLine};
use crate::repo::commit::{BackupSummary, CommitLog};
use crate::repo::host_state::Scratch;
use crate::repo::manifest::{Facts, Header, PostgresFacts};
use crate::repo::pack::PackLine;
use crate::repo::queue::Queue;
use crate::repo::resume::ResumeDir;
use crate::source::Entry;
use crate::source::postgres::connect::Session;
use crate::source::postgres::control::ControlFile;
use crate::source::postgres::history;
use crate::source::postgres::server::ServerInfo;
use crate::source::postgres::session::{RunningBackup, Started, Stopped};
use crate::source::postgres::unlogged::UnloggedNow;
use crate::source::postgres::walk::{Walk, WalkOptions};

/// How a backup is taken.
#[derive(Clone)]
pub struct BackupOptions {
    /// What was asked for.
    pub wish: Wish,
    /// How to connect to the server.
    pub conninfo: String,
    /// How to connect to its primary, when the server is a standby.
    pub primary_conninfo: Option<String>,
    /// Where the data directory is, when not where the server says.
    pub data_directory: Option<PathBuf>,
    /// Checkpoint at once instead of spread over minutes.
    pub fast_checkpoint: bool,
    /// How a diff or an incr gets to know which pages changed.
    pub reading: Reading,
    /// Fail, instead of reporting, when a page stays bad.
    pub fail_on_bad_pages: bool,
    /// Threads that read and compress.
    pub workers: usize,
    /// Bytes of frames in a pack, [`plan::LARGEST_PACK_BYTES`] at most; none leaves the choice to the size of the source.
    pub pack_bytes: Option<u64>,
    /// How long to wait for the log to be archived.
    pub archive_timeout: Duration,
    /// The log is streamed: the server need not archive it.
    pub log_is_streamed: bool,
    /// What this host is to bring to the repository.
    pub queue: Option<Queue>,
    /// How the lease is taken; none to go without, where no other host can back up the same source.
    pub lease: Option<Terms>,
    /// Other repositories of the source: the cluster is put on record there too, so that its log can be archived there.
    pub admit_in: Vec<Scope>,
}

/// What a backup did.
#[derive(Clone, Debug)]
pub struct BackupReport {
    /// What was committed.
    pub summary: BackupSummary,
    /// Why the type is not the one that was asked for.
    pub reason: Option<String>,
    /// What the operator should know.
    pub warnings: Vec<String>,
    /// How changed pages were known; none for a full.
    pub detection: Option<Detection>,
    /// Bytes read of the source's files.
    pub read_bytes: u64,
}

/// A backup of a cluster being taken.
struct Run<'a> {
    draft: Draft<'a>,
    options: &'a BackupOptions,
    detection: Option<Detection>,
    read_bytes: u64,
    info: ServerInfo,
    data_directory: PathBuf,
    /// This host's clock before the backup was started on the server.
    host_time: Timestamp,
    scratch: Scratch,
    pack_bytes: u64,
    /// The copied lines, which an interrupted run leaves to the next.
    spill: PathBuf,
}

/// Takes one backup.
///
/// # Errors
/// When anything fails before the commit; then there is no backup, and the next run needs no cleaning up.
pub async fn run(
    scope: &Scope,
    writing: &Writing,
    options: &BackupOptions,
    progress: Arc<dyn Progress>,
    cancel: Cancel,
) -> Result<BackupReport> {
    let _lock = scope.state.lock_backup(&scope.source)?;
    scope.repository.keyring().require(&writing.signer, Role::Write)?;
    if options.lease.is_some() {
        // What cannot be backed up must not keep another host from it, nor leave a trace. Looked at again afterwards, for
        // the wait may be long.
        drop(examine(scope, options).await?);
    }
    let work =
        async |held: Option<&Held>, cancel| under_lease(scope, writing, options, held, Arc::clone(&progress), cancel).await;
    leased((scope, writing), options.lease, &progress, cancel, work).await
}

/// Takes a backup while `held` is held.
async fn under_lease(
    scope: &Scope,
    writing: &Writing,
    options: &BackupOptions,
    held: Option<&Held>,
    progress: Arc<dyn Progress>,
    cancel: Cancel,
) -> Result<BackupReport> {
    let server = prepare(scope, writing, options, progress.as_ref()).await?;
    let Server { session, primary, info, data_directory, control, incarnation } = server;
    let mut warnings = Vec::new();
    let facts = facts(&session, &info, &data_directory, &mut warnings).await;
    let (host_time, began) = (Timestamp::now(), Instant::now());
    progress.phase("starting the backup (checkpoint)", None);
    let label = format!("lifeboat backup {}", scope.source);
    let running = tokio::select! {
        running = session.start_backup(&label, options.fast_checkpoint) => running?,
        () = cancel.cancelled() => return Err(Error::interrupted()),
    };
    killpoint::reach("backup.started");
    let started = running.started().clone();
    archive_history(scope, writing, &data_directory, &started, &mut warnings).await?;
    let queue = options.queue.as_ref();
    let witnesses = Witnesses { data_directory: &data_directory, primary: primary.as_ref(), queue };
    let moment = Moment {
        info: &info,
        incarnation: &incarnation,
        data_directory: &data_directory,
        timeline: started.timeline,
        start_lsn: started.start_lsn,
        is_preview: false,
        start_time: started.start_time,
        host_time,
        underway: witnesses.segments(&incarnation, info.wal_segment_size).await,
    };
    let chosen = base::choose(scope, options.wish, &options.reading, &moment).await?;
    let audit = chosen.is_audit(options.reading.audit);
    let Chosen { decision, base, notes, detection } = chosen;
    warnings.extend(notes);
    let token = held.map_or(0, Held::token);
    let begun = begin(scope, writing, &decision, audit, &moment, token).await?;
    warnings.extend(begun.note);
    let spill = begun.resume.lines_path();
    let draft = Draft {
        scope,
        writing,
        held,
        progress,
        cancel,
        id: begun.id,
        seal: begun.seal,
        numbers: Arc::new(begun.numbers),
        decision,
        incarnation,
        began,
        warnings,
        resume: Some(begun.resume),
    };
    let run = Run {
        draft,
        options,
        detection,
        read_bytes: 0,
        info,
        data_directory,
        host_time,
        scratch: scope.state.scratch()?,
        pack_bytes: pack_bytes(options.pack_bytes, 0),
        spill,
    };
    run.take(running, primary, &control, facts, (begun.packs, begun.earlier), base).await
}

/// A restore needs the history of the backup's timeline, which the server archived when the timeline began: perhaps
/// before it archived here.
async fn archive_history(
    scope: &Scope,
    writing: &Writing,
    data_directory: &Path,
    started: &Started,
    warnings: &mut Vec<String>,
) -> Result<()> {
    if started.timeline == TimelineId(1) {
        return Ok(());
    }
    let file = data_directory.join("pg_wal").join(history::file_name(started.timeline));
    if !file.exists() {
        warnings.push(format!(
            "{} is not on the server: if it was never archived here, this backup cannot be restored",
            history::file_name(started.timeline)
        ));
        return Ok(());
    }
    let pushed = archive::push::run(scope, writing, &file).await?;
    warnings.extend(pushed.warnings);
    Ok(())
}

/// What the server says of itself; a database that cannot be looked into is a warning, not a reason to have no backup.
async fn facts(session: &Session, info: &ServerInfo, data_directory: &Path, warnings: &mut Vec<String>) -> PostgresFacts {
    let mut facts = PostgresFacts {
        version: info.version.clone(),
        data_directory: data_directory.display().to_string(),
        collations: BTreeMap::new(),
        extensions: BTreeMap::new(),
    };
    match session.inventory().await {
        Ok(inventory) => {
            for database in inventory.databases {
                let collations = database.collations.into_iter().map(|collation| (collation.provider, collation.version));
                facts.collations.insert(database.name.clone(), collations.collect());
                let extensions = database.extensions.into_iter().map(|extension| (extension.name, extension.version));
                facts.extensions.insert(database.name, extensions.collect());
            }
        }
        Err(error) => warnings.push(format!("collation and extension versions were not recorded: {}", error.summary())),
    }
    facts
}

impl Run<'_> {
    async fn take(
        mut self,
        running: RunningBackup,
        primary: Option<Session>,
        control: &ControlFile,
        facts: PostgresFacts,
        (mut packs, earlier): (Vec<PackLine>, Option<Base>),
        base: Option<OpenBase>,
    ) -> Result<BackupReport> {
        let started = running.started().clone();
        let mut options = WalkOptions::new(self.info.major, control);
        options.stats_temp_directory = self.info.stats_temp_directory.clone();
        let raw_bytes = total(&self.data_directory, &options)?.raw_bytes;
        self.pack_bytes = pack_bytes(self.options.pack_bytes, raw_bytes);
        self.draft.progress.phase("copying", Some(raw_bytes));
        let walk = Walk::new(&self.data_directory, options)?;
        let (owners, since, base) = match base {
            Some(OpenBase { summary, owners, copied }) => (owners, summary.start_lsn, Some(copied)),
            None => (Vec::new(), started.start_lsn, None),
        };
        let (copied, new_packs) = self.copy_and_store(walk, earlier.into_iter().chain(base).collect()).await?;
        packs.extend(new_packs);
        self.read_bytes = copied.read_bytes;
        killpoint::reach("backup.copied");
        self.judge_detection(&copied).await?;

        // Last of all files: on a standby it says how far the log must be replayed.
        let control = control_entry(&self.data_directory)?;
        let (session, stopped) = running.stop().await?;
        killpoint::reach("backup.stopped");
        check_timeline(&started, &stopped)?;
        if let Some(primary) = &primary {
            primary.switch_wal().await?;
        }
        let late = late_entries(control, &stopped, &self.info)?;
        let (late, late_packs) = self.store_late(late).await?;
        packs.extend(late_packs);

        self.wait_for_log(since, &stopped, &session).await?;
        killpoint::reach("backup.archived");
        if let Err(error) = archive::push::flush_index(self.draft.scope, self.draft.writing, &self.draft.incarnation).await {
            self.draft.warnings.push(format!("digests of the newest segments are not signed yet: {}", error.summary()));
        }

        for skipped in &copied.skipped {
            self.draft.warnings.push(format!("{} was not stored: {}", skipped.path, skipped.what));
        }
        let header = self.header(facts, &copied, &owners);
        let owners = header.owners.clone();
        let assembled = self.assemble(header, copied.collected.entries, late).await?;
        self.judge_pages(&assembled)?;
        self.draft.progress.phase("committing", None);
        let (packs, packs_sha256) = self.draft.store_lists(packs, &assembled.path).await?;
        let summary = self.summary(&started, &stopped, &assembled, &packs, packs_sha256);
        self.commit(summary, &assembled, owners).await
    }

    /// Copies on dedicated threads while this task stores the finished packs.
    async fn copy_and_store(&self, walk: Walk, bases: Vec<Base>) -> Result<(Copied, Vec<PackLine>)> {
        let (shared, packs) = self.draft.shared(self.pack_bytes, self.info.data_checksums);
        let (workers, spill) = (self.options.workers, self.spill.clone());
        let copying = tokio::task::spawn_blocking(move || copy(walk, bases, &shared, workers, &spill));
        self.draft.store_while(copying, packs).await
    }

    async fn store_late(&self, late: Vec<(Entry, Vec<u8>)>) -> Result<(Vec<BaseLine>, Vec<PackLine>)> {
        let (shared, packs) = self.draft.shared(self.pack_bytes, false);
        let work = tokio::task::spawn_blocking(move || {
            let mut worker = Worker::new(&shared)?;
            let mut lines = Vec::new();
            for (entry, content) in late {
                lines.push(base_line(&entry, Stored::of_frames(worker.content(&content)?), None));
            }
            shared.pool.finish()?;
            shared.pool.fill_holes()?;
            Ok(lines)
        });
        self.draft.store_while(work, packs).await
    }

    /// Waits for the log from `since`: the start, or that of the base, without which nobody knows what changed in between.
    async fn wait_for_log(&self, since: Lsn, stopped: &Stopped, session: &Session) -> Result<()> {
        let size = self.info.wal_segment_size;
        let wanted = Wanted {
            incarnation: self.draft.incarnation.clone(),
            first: since.0 / size.bytes(),
            last: stopped.stop_segment,
            size,
            timeout: self.options.archive_timeout,
        };
        wait_for_log(self.draft.scope, &wanted, session, self.draft.progress.as_ref(), &self.draft.cancel).await
    }

    fn header(&self, postgres: PostgresFacts, copied: &Copied, owners: &[BackupId]) -> Header {
        Header {
            users: accounts::user_names(&copied.collected.uids),
            groups: accounts::group_names(&copied.collected.gids),
            ..self.draft.header(Facts::Postgres(postgres), owners)
        }
    }

    async fn assemble(&self, header: Header, entries: u64, late: Vec<BaseLine>) -> Result<Assembled> {
        let (scratch, spill) = (self.scratch.path().to_owned(), self.spill.clone());
        let (seal, level) = (self.draft.seal.clone(), self.draft.writing.compression_level);
        let unlogged = UnloggedNow::new(self.data_directory.clone());
        let assembling =
            tokio::task::spawn_blocking(move || assemble(&scratch, &header, (&spill, entries), late, unlogged, &seal, level));
        joined(assembling.await)
    }

    /// A page that changed and that change detection did not find: an audit ends here, any other backup holds the page.
    async fn judge_detection(&mut self, copied: &Copied) -> Result<()> {
        let missed = &copied.collected.missed;
        let base = self.draft.decision.base.as_ref().map(|base| &base.id);
        // The finding first: evidence of it is stored whatever becomes of this host's directories.
        if let Err(found) = audit::judge_log(self.draft.scope, self.draft.writing, missed, base).await {
            return Err(self.forget_stored(found));
        }
        if missed.pages == 0 {
            return Ok(());
        }
        let source = &self.draft.scope.source;
        let evidence: Vec<String> = missed.evidence.iter().map(|(path, page)| format!("{path}, page {page}")).collect();
        // An audit that nobody asked for is one of the log; what LSNs miss is the warning that it always is.
        if self.options.reading.audit {
            let found = Error::damaged(format!("change detection missed {} changed pages of {source}", missed.pages))
                .detail("pages", evidence.join("\n"))
                .detail("base", self.draft.decision.base.as_ref().map_or_else(String::new, |base| base.id.to_string()))
                .hint(format!("lifeboat backup {source} --type full   depends on no change detection; take it now"))
                .hint("diffs and incrs since the last full may lack these changes: tell the makers of lifeboat");
            return Err(self.forget_stored(found));
        }
        self.draft.warnings.push(format!(
            "{} pages changed without moving their LSN, first {}: this backup holds them; lifeboat backup {source} --type full \
             depends on no LSN",
            missed.pages,
            evidence.first().map_or("", String::as_str)
        ));
        Ok(())
    }

    /// Nothing is gone on with that was stored by a detection that misses changes; where that cannot be removed, `found`
    /// says so.
    fn forget_stored(&self, found: Error) -> Error {
        match self.draft.resume.as_ref().map_or(Ok(()), ResumeDir::clear) {
            Ok(()) => found,
            Err(error) => found.detail("not removed", error.summary()),
        }
    }

    fn judge_pages(&mut self, assembled: &Assembled) -> Result<()> {
        let bad = assembled.tree.bad_pages;
        if bad == 0 {
            return Ok(());
        }
        let message = format!(
            "{bad} pages of {} fail their checksum and did not change while they were read again",
            self.draft.scope.source
        );
        if self.options.fail_on_bad_pages {
            return Err(Error::damaged(message)
                .hint("find them with amcheck or pg_checksums; the backup before this one may hold them intact"));
        }
        self.draft.warnings.push(format!("{message}; the backup holds them as they are"));
        Ok(())
    }

    fn summary(
        &self,
        started: &Started,
        stopped: &Stopped,
        assembled: &Assembled,
        packs: &[PackLine],
        packs_sha256: Sha256Digest,
    ) -> BackupSummary {
        let info = &self.info;
        BackupSummary {
            id: self.draft.id.clone(),
            backup_type: self.draft.decision.backup_type,
            base: self.draft.decision.base.as_ref().map(|base| base.id.clone()),
            incarnation: self.draft.incarnation.clone(),
            timeline: started.timeline,
            start_lsn: started.start_lsn,
            stop_lsn: stopped.stop_lsn,
            start_time: started.start_time,
            stop_time: stopped.stop_time,
            segment_bytes: info.wal_segment_size,
            from_standby: started.from_standby,
            server_version: info.version_num,
            data_checksums: info.data_checksums,
            wal_log_hints: info.wal_log_hints,
            wal_level: info.wal_level.to_string(),
            encrypted: self.draft.writing.recipients.is_some(),
            entries: assembled.tree.entries,
            raw_bytes: assembled.tree.raw_bytes,
            stored_bytes: packs.iter().map(|pack| pack.stored_bytes).sum::<u64>() + assembled.stored_bytes,
            packs: u32::try_from(packs.len()).unwrap_or(u32::MAX),
            packs_sha256,
            manifest_sha256: assembled.sha256,
            manifest_bytes: assembled.stored_bytes,
            bad_pages: assembled.tree.bad_pages,
            duration_seconds: self.draft.began.elapsed().as_secs_f64(),
        }
    }

    async fn commit(mut self, summary: BackupSummary, assembled: &Assembled, owners: Vec<BackupId>) -> Result<BackupReport> {
        if let Some(log) = self.draft.commit(&summary).await?
            && let Err(error) = self.remember_base(&log, &summary, assembled, owners)
        {
            self.draft.warnings.push(format!("the next diff or incr will be a full: {}", error.summary()));
        }
        let scope = self.draft.scope;
        if let Err(error) = how::remember(&scope.state, &scope.source, self.detection.as_ref(), self.host_time) {
            self.draft.warnings.push(format!("when changed pages were audited is not remembered: {}", error.summary()));
        }
        let Self { draft: Draft { decision, warnings, .. }, detection, read_bytes, .. } = self;
        Ok(BackupReport { summary, reason: decision.reason, warnings, detection, read_bytes })
    }

    /// Keeps what the next backup needs to build on this one, and on the last full.
    fn remember_base(
        &self,
        log: &CommitLog,
        summary: &BackupSummary,
        assembled: &Assembled,
        owners: Vec<BackupId>,
    ) -> Result<()> {
        let facts = BaseFacts {
            version: BaseFacts::VERSION,
            repository: self.draft.scope.repository.id().to_owned(),
            source: self.draft.scope.source.clone(),
            backup: self.draft.id.clone(),
            manifest_sha256: summary.manifest_sha256,
            owners,
            place: base::place(&self.data_directory)?,
            timeline: summary.timeline,
            started: self.host_time,
            server_started: self.info.started,
            lines_sha256: assembled.lines.1,
        };
        let last_full = log.backups().rfind(|backup| backup.backup_type == BackupType::Full);
        let keep: BTreeSet<BackupId> = last_full.map(|full| full.id.clone()).into_iter().chain([self.draft.id.clone()]).collect();
        self.draft.scope.state.remember_base(&facts, &assembled.lines.0, &keep.into_iter().collect::<Vec<_>>())?;
        // Nothing builds on what is older, and no log from before it is asked.
        let oldest = last_full.map_or(summary.start_lsn, |full| full.start_lsn.min(summary.start_lsn));
        let (size, source) = (self.info.wal_segment_size, &self.draft.scope.source);
        self.draft.scope.state.forget_pages(source, &self.draft.incarnation, oldest.0 / size.bytes(), size)
    }
}

fn check_timeline(started: &Started, stopped: &Stopped) -> Result<()> {
    let (from, to) = (started.timeline, stopped.stop_segment.timeline);
    if from == to {
        return Ok(());
    }
    Err(Error::failed(format!("the standby followed its primary from timeline {from} to {to} during the backup"))
        .hint("run the same command again: PostgreSQL cannot restore a backup that spans two timelines"))
}

/// What a walk lists.
pub(super) struct Total {
    pub entries: u64,
    pub raw_bytes: u64,
}

/// Walks once without reading: for the progress bar and the size of packs.
pub(super) fn total(data_directory: &Path, options: &WalkOptions) -> Result<Total> {
    Walk::new(data_directory, options.clone())?.try_fold(Total { entries: 0, raw_bytes: 0 }, |total, entry| {
        Ok(Total { entries: total.entries + 1, raw_bytes: total.raw_bytes + entry?.size_bytes })
    })
}

/// Bytes of frames in a pack of a source of `raw_bytes`, unless the configuration says how many.
pub(in crate::engine) fn pack_bytes(configured: Option<u64>, raw_bytes: u64) -> u64 {
    configured.map_or_else(|| plan::pack_bytes(raw_bytes), |bytes| bytes.min(plan::LARGEST_PACK_BYTES))
}

/// This host's name, for people.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
