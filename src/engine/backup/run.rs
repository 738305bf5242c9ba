//! `backup`, from start to commit.
//!
//! Write order, each step durable before the next: `begin.json`, the wrapped key, the packs while the server is in
//! backup mode, the log up to the stop (archived by the server itself), `packs.jsonl`, the manifest, the commit entry.
//! A crash anywhere before the last leaves an orphan that no reader looks at.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::assemble::{Assembled, assemble};
use super::collect::line;
use super::copy::{Copied, copy};
use super::late::{control_entry, late_entries};
use super::packs::{joined, ordered, put_new, store_while};
use super::plan::{self, Decision, Wish, decide};
use super::pool::{BUDGET_BYTES, Pool};
use super::prepare::{Server, prepare};
use super::wait::{Wanted, wait_for_log};
use super::worker::{FinishedPack, Shared, Stored, Worker};
use crate::base::cancel::Cancel;
use crate::base::progress::Progress;
use crate::base::{BackupId, BackupType, Error, Incarnation, Result, TimelineId, Timestamp, killpoint};
use crate::codec::Sha256Digest;
use crate::codec::encrypt::Seal;
use crate::engine::{Scope, Writing, accounts, archive};
use crate::repo::backup::{self, Begin};
use crate::repo::commit::{self, BackupSummary, CommitEntry, CommitLog};
use crate::repo::host_state::{RememberedHead, Scratch};
use crate::repo::manifest::{FileLine, Header, PostgresFacts};
use crate::repo::pack::PackLine;
use crate::repo::{Role, layout, signed};
use crate::source::Entry;
use crate::source::postgres::connect::Session;
use crate::source::postgres::history;
use crate::source::postgres::server::ServerInfo;
use crate::source::postgres::session::{Started, Stopped};
use crate::source::postgres::walk::{Walk, WalkOptions};
use crate::store::Body;

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
    /// Fail, instead of reporting, when a page stays bad.
    pub fail_on_bad_pages: bool,
    /// Threads that read and compress.
    pub workers: usize,
    /// Bytes of frames in a pack, [`plan::LARGEST_PACK_BYTES`] at most; none leaves the choice to the size of the source.
    pub pack_bytes: Option<u64>,
    /// How long to wait for the log to be archived.
    pub archive_timeout: Duration,
}

/// What a backup did.
#[derive(Clone, Debug)]
pub struct BackupReport {
    /// The commit entry.
    pub entry: CommitEntry,
    /// Why the type is not the one that was asked for.
    pub reason: Option<String>,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

/// A backup being taken.
struct Run<'a> {
    scope: &'a Scope,
    writing: &'a Writing,
    options: &'a BackupOptions,
    progress: Arc<dyn Progress>,
    cancel: Cancel,
    id: BackupId,
    began: Instant,
    scratch: Scratch,
    pack_bytes: u64,
    warnings: Vec<String>,
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
    let decision = decide(options.wish);
    let server = prepare(scope, writing, options).await?;
    let run = Run {
        scope,
        writing,
        options,
        progress,
        cancel,
        id: BackupId::fresh(Timestamp::now(), decision.backup_type),
        began: Instant::now(),
        scratch: scope.state.scratch()?,
        pack_bytes: pack_bytes(options, 0),
        warnings: Vec::new(),
    };
    run.take(server, decision).await
}

impl Run<'_> {
    async fn take(mut self, server: Server, decision: Decision) -> Result<BackupReport> {
        let seal = self.begin().await?;
        let Server { session, primary, info, data_directory, control, incarnation } = server;
        let facts = self.facts(&session, &info, &data_directory).await;
        self.progress.phase("starting the backup (checkpoint)", None);
        let label = format!("lifeboat {}", self.id);
        let running = tokio::select! {
            running = session.start_backup(&label, self.options.fast_checkpoint) => running?,
            () = self.cancel.cancelled() => return Err(Error::interrupted()),
        };
        let started = running.started().clone();
        killpoint::reach("backup.started");
        self.archive_history(&data_directory, &started).await?;

        let mut options = WalkOptions::new(info.major, &control);
        options.stats_temp_directory = info.stats_temp_directory.clone();
        let raw_bytes = total(&data_directory, &options)?.raw_bytes;
        self.pack_bytes = pack_bytes(self.options, raw_bytes);
        self.progress.phase("copying", Some(raw_bytes));
        let walk = Walk::new(&data_directory, options)?;
        let (copied, mut packs) = self.copy_and_store(walk, &seal, info.data_checksums).await?;
        killpoint::reach("backup.copied");

        // Last of all files: on a standby it says how far the log must be replayed.
        let control = control_entry(&data_directory)?;
        let (session, stopped) = running.stop().await?;
        killpoint::reach("backup.stopped");
        if stopped.stop_segment.timeline != started.timeline {
            let (from, to) = (started.timeline, stopped.stop_segment.timeline);
            return Err(Error::failed(format!(
                "the standby followed its primary from timeline {from} to {to} during the backup"
            ))
            .hint("run the same command again: PostgreSQL cannot restore a backup that spans two timelines"));
        }
        if let Some(primary) = &primary {
            primary.switch_wal().await?;
        }
        let late = late_entries(control, &stopped, &info)?;
        let (late, late_packs) = self.store_late(late, &seal, packs.len()).await?;
        packs.extend(late_packs);
        let packs = ordered(packs)?;

        let wanted = Wanted {
            incarnation: incarnation.clone(),
            first: started.start_segment,
            last: stopped.stop_segment,
            size: info.wal_segment_size,
            timeout: self.options.archive_timeout,
        };
        wait_for_log(self.scope, &wanted, &session, self.progress.as_ref(), &self.cancel).await?;
        killpoint::reach("backup.archived");
        if let Err(error) = archive::push::flush_index(self.scope, self.writing, &incarnation).await {
            self.warnings.push(format!("digests of the newest segments are not signed yet: {}", error.summary()));
        }

        self.note_skipped(&copied);
        let header = self.header(&incarnation, decision.backup_type, facts, &copied);
        let assembled = self.assemble(header, copied.spill, late, &seal).await?;
        self.judge_pages(&assembled)?;
        self.progress.phase("committing", None);
        let packs_sha256 = self.store_lists(&packs, &assembled, &seal).await?;
        let summary = self.summary(&started, &stopped, &info, &incarnation, &assembled, &packs, packs_sha256);
        self.commit(summary, decision).await
    }

    async fn begin(&self) -> Result<Seal> {
        let begin = Begin {
            id: self.id.clone(),
            base: None,
            host: host_name(),
            process: std::process::id(),
            lease_token: 0,
            started: Timestamp::now(),
        };
        backup::begin(&self.scope.repository, &self.scope.source, &self.writing.signer, &begin).await?;
        killpoint::reach("backup.begun");
        backup::store_key(&self.scope.repository, &self.scope.source, &self.id, self.writing.recipients.as_deref()).await
    }

    /// A restore needs the history of the backup's timeline, which the server archived when the timeline began: perhaps
    /// before it archived here.
    async fn archive_history(&mut self, data_directory: &Path, started: &Started) -> Result<()> {
        if started.timeline == TimelineId(1) {
            return Ok(());
        }
        let file = data_directory.join("pg_wal").join(history::file_name(started.timeline));
        if !file.exists() {
            self.warnings.push(format!(
                "{} is not on the server: if it was never archived here, this backup cannot be restored",
                history::file_name(started.timeline)
            ));
            return Ok(());
        }
        let pushed = archive::push::run(self.scope, self.writing, &file).await?;
        self.warnings.extend(pushed.warnings);
        Ok(())
    }

    /// What the server says of itself; a database that cannot be looked into is a warning, not a reason to have no backup.
    async fn facts(&mut self, session: &Session, info: &ServerInfo, data_directory: &Path) -> PostgresFacts {
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
            Err(error) => self.warnings.push(format!("collation and extension versions were not recorded: {}", error.summary())),
        }
        facts
    }

    /// What the copying threads share; packs are numbered on from `stored_packs`.
    fn shared(&self, seal: &Seal, checksums: bool, stored_packs: usize) -> (Shared, mpsc::Receiver<FinishedPack>) {
        let (sender, receiver) = mpsc::channel(1);
        let first_number = u32::try_from(stored_packs + 1).unwrap_or(u32::MAX);
        let shared = Shared {
            pool: Pool::new(seal.clone(), self.pack_bytes, BUDGET_BYTES, first_number, sender),
            compression_level: self.writing.compression_level,
            checksums,
            progress: Arc::clone(&self.progress),
            cancel: self.cancel.clone(),
        };
        (shared, receiver)
    }

    /// Copies on dedicated threads while this task stores the finished packs.
    async fn copy_and_store(&self, walk: Walk, seal: &Seal, checksums: bool) -> Result<(Copied, Vec<PackLine>)> {
        let (shared, packs) = self.shared(seal, checksums, 0);
        let (workers, spill) = (self.options.workers, self.scratch.path().join("lines.jsonl"));
        let copying = tokio::task::spawn_blocking(move || copy(walk, &shared, workers, &spill));
        store_while(self.scope, &self.id, seal.suffix(), copying, packs).await
    }

    async fn store_late(
        &self,
        late: Vec<(Entry, Vec<u8>)>,
        seal: &Seal,
        stored_packs: usize,
    ) -> Result<(Vec<FileLine>, Vec<PackLine>)> {
        let (shared, packs) = self.shared(seal, false, stored_packs);
        let work = tokio::task::spawn_blocking(move || {
            let mut worker = Worker::new(&shared)?;
            let mut lines = Vec::new();
            for (entry, content) in late {
                lines.push(line(&entry, Stored { frames: worker.content(&content)?, bad_blocks: Vec::new() }));
            }
            shared.pool.finish()?;
            Ok(lines)
        });
        store_while(self.scope, &self.id, seal.suffix(), work, packs).await
    }

    fn note_skipped(&mut self, copied: &Copied) {
        for skipped in &copied.skipped {
            self.warnings.push(format!("{} was not stored: {}", skipped.path, skipped.what));
        }
    }

    fn header(&self, incarnation: &Incarnation, backup_type: BackupType, postgres: PostgresFacts, copied: &Copied) -> Header {
        Header {
            format: signed::FORMAT,
            backup: self.id.clone(),
            backup_type,
            source: self.scope.source.clone(),
            incarnation: incarnation.clone(),
            owners: vec![self.id.clone()],
            users: accounts::user_names(&copied.uids),
            groups: accounts::group_names(&copied.gids),
            postgres,
        }
    }

    async fn assemble(&self, header: Header, spill: PathBuf, late: Vec<FileLine>, seal: &Seal) -> Result<Assembled> {
        let path = self.scratch.path().join("manifest");
        let (seal, level) = (seal.clone(), self.writing.compression_level);
        let assembling = tokio::task::spawn_blocking(move || assemble(&path, &header, &spill, late, &seal, level));
        joined(assembling.await)
    }

    fn judge_pages(&mut self, assembled: &Assembled) -> Result<()> {
        let bad = assembled.footer.bad_pages;
        if bad == 0 {
            return Ok(());
        }
        let message =
            format!("{bad} pages of {} fail their checksum and did not change while they were read again", self.scope.source);
        if self.options.fail_on_bad_pages {
            return Err(Error::damaged(message)
                .hint("find them with amcheck or pg_checksums; the backup before this one may hold them intact"));
        }
        self.warnings.push(format!("{message}; the backup holds them as they are"));
        Ok(())
    }

    /// Stores `packs.jsonl` and the manifest; returns the digest of the former.
    async fn store_lists(&self, packs: &[PackLine], assembled: &Assembled, seal: &Seal) -> Result<Sha256Digest> {
        let text = backup::packs_text(packs);
        let sha256 = Sha256Digest::of(&text);
        let (source, id) = (&self.scope.source, &self.id);
        put_new(self.scope, &layout::packs_list(source, id), text.into()).await?;
        killpoint::reach("backup.packs-listed");
        put_new(self.scope, &layout::manifest(source, id, seal.suffix()), Body::File(assembled.path.clone())).await?;
        killpoint::reach("backup.manifest-stored");
        Ok(sha256)
    }

    #[expect(clippy::too_many_arguments, reason = "the summary is made of all of them")]
    fn summary(
        &self,
        started: &Started,
        stopped: &Stopped,
        info: &ServerInfo,
        incarnation: &Incarnation,
        assembled: &Assembled,
        packs: &[PackLine],
        packs_sha256: Sha256Digest,
    ) -> BackupSummary {
        BackupSummary {
            id: self.id.clone(),
            backup_type: BackupType::Full,
            base: None,
            incarnation: incarnation.clone(),
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
            encrypted: self.writing.recipients.is_some(),
            entries: assembled.footer.entries,
            raw_bytes: assembled.footer.raw_bytes,
            stored_bytes: packs.iter().map(|pack| pack.stored_bytes).sum::<u64>() + assembled.stored_bytes,
            packs: u32::try_from(packs.len()).unwrap_or(u32::MAX),
            packs_sha256,
            manifest_sha256: assembled.sha256,
            manifest_bytes: assembled.stored_bytes,
            bad_pages: assembled.footer.bad_pages,
            duration_seconds: self.began.elapsed().as_secs_f64(),
        }
    }

    async fn commit(mut self, summary: BackupSummary, decision: Decision) -> Result<BackupReport> {
        self.cancel.check()?;
        let (repository, source) = (&self.scope.repository, &self.scope.source);
        let entry = commit::append(repository, source, &self.writing.signer, &host_name(), &summary).await?;
        killpoint::reach("backup.committed");
        // The backup stands: what fails from here on is a warning.
        let remembered = CommitLog::load(repository, source).await.and_then(|log| match log.head {
            Some((number, sha256)) => self.scope.state.remember_head(source, RememberedHead { number, sha256 }),
            None => Ok(()),
        });
        if let Err(error) = remembered {
            self.warnings.push(format!("the commit log's head was not remembered: {}", error.summary()));
        }
        Ok(BackupReport { entry, reason: decision.reason, warnings: self.warnings })
    }
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

/// Bytes of frames in a pack of a source of `raw_bytes`.
pub(super) fn pack_bytes(options: &BackupOptions, raw_bytes: u64) -> u64 {
    options.pack_bytes.map_or_else(|| plan::pack_bytes(raw_bytes), |bytes| bytes.min(plan::LARGEST_PACK_BYTES))
}

/// This host's name, for people.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
