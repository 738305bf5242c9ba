//! `backup` of a SQLite database, from snapshot to commit.
//!
//! Write order, each step durable before the next: the identity (the first time), `begin.json`, the wrapped key; then the
//! snapshot is taken; the packs, `packs.jsonl`, the manifest, the commit entry; last of all, on this host, what the next
//! backup builds on. A crash anywhere before the commit leaves an orphan that no reader looks at.
//!
//! Where the log goes on behind the backup is decided before the snapshot is taken, and the repository is asked for nothing
//! while it is copied but to take packs. A database with a rollback journal has its writers wait while it is read: it is copied
//! aside before anything of it is stored, where there is room.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::aside::{hand_over, set_aside};
use super::base::{self, Chosen, OpenBase, Wanted};
use super::pages::{self, EachPage};
use super::{SIZE, TIMELINE, path_text, position};
use crate::base::cancel::Cancel;
use crate::base::progress::Progress;
use crate::base::{BackupId, BackupType, Error, Incarnation, Result, Timestamp, killpoint};
use crate::codec::Sha256Digest;
use crate::codec::compress;
use crate::codec::digest::DigestingWriter;
use crate::engine::backup::Wish;
use crate::engine::backup::draft::{Draft, leased};
use crate::engine::backup::host_name;
use crate::engine::backup::run::pack_bytes;
use crate::engine::lease::{Held, Terms};
use crate::engine::{Scope, Writing, joined};
use crate::repo::Role;
use crate::repo::base_cache::{BaseFacts, BaseLine, BaseWriter, Place, seal_digests};
use crate::repo::commit::{BackupSummary, CommitLog, LogFloor};
use crate::repo::host_state::Scratch;
use crate::repo::identity::{self, Identity};
use crate::repo::manifest::{Facts, ManifestWriter, SqliteFacts};
use crate::repo::pack::PackLine;
use crate::source::sqlite::header::Header;
use crate::source::sqlite::{Moment, Options as WatchOptions, Probe, Snapshot, Watch, probe};

/// How a backup is taken.
#[derive(Clone)]
pub struct BackupOptions {
    /// What was asked for.
    pub wish: Wish,
    /// The database file.
    pub path: PathBuf,
    /// Threads that compress.
    pub workers: usize,
    /// Bytes of frames in a pack; none leaves the choice to the size of the database.
    pub pack_bytes: Option<u64>,
    /// How the lease is taken; none to go without.
    pub lease: Option<Terms>,
    /// Other repositories of the source: it is put on record there too.
    pub admit_in: Vec<Scope>,
}

/// What a backup did.
#[derive(Clone, Debug)]
pub struct BackupReport {
    /// What was committed.
    pub summary: BackupSummary,
    /// The state that it holds.
    pub moment: Moment,
    /// Whether commits after it can be followed: the database keeps a write-ahead log.
    pub is_wal: bool,
    /// Why the type is not the one that was asked for.
    pub reason: Option<String>,
    /// What the operator should know.
    pub warnings: Vec<String>,
    /// Bytes read of the database.
    pub read_bytes: u64,
}

/// What a backup would do.
#[derive(Clone, Debug)]
pub struct Preview {
    /// The type that would be taken.
    pub backup_type: BackupType,
    /// What it would build on.
    pub base: Option<BackupId>,
    /// Why it is not the type that was asked for.
    pub reason: Option<String>,
    /// Whether the database keeps a write-ahead log.
    pub is_wal: bool,
    /// Bytes of the database file.
    pub raw_bytes: u64,
}

/// A database that is held by one thread at a time.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<Watch>>);

impl Shared {
    pub fn new(watch: Watch) -> Self {
        Self(Arc::new(Mutex::new(watch)))
    }

    pub fn lock(&self) -> MutexGuard<'_, Watch> {
        // A panic in it goes on in the task that waits for it; nobody looks afterwards.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `work` done with the database on a thread that may wait.
    pub async fn with<T: Send + 'static>(&self, work: impl FnOnce(&mut Watch) -> Result<T> + Send + 'static) -> Result<T> {
        let own = self.clone();
        joined(tokio::task::spawn_blocking(move || work(&mut own.lock())).await)
    }
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
    let watch = Shared::new(Watch::new(&options.path, WatchOptions::default()));
    run_with(scope, writing, options, (&watch, None), progress, cancel).await
}

/// [`run`] by whoever follows the database with `watch`, and lets the segment `first_segment`, or a later one, follow it.
pub(super) async fn run_with(
    scope: &Scope,
    writing: &Writing,
    options: &BackupOptions,
    (watch, first_segment): (&Shared, Option<u64>),
    progress: Arc<dyn Progress>,
    cancel: Cancel,
) -> Result<BackupReport> {
    let _lock = scope.state.lock_backup(&scope.source)?;
    scope.repository.keyring().require(&writing.signer, Role::Write)?;
    // What cannot be backed up must not keep another host from it, nor leave a trace.
    page_bytes(watch, &options.path).await?;
    let work = async |held: Option<&Held>, cancel| {
        under_lease(scope, writing, options, (watch, first_segment), held, Arc::clone(&progress), cancel).await
    };
    leased((scope, writing), options.lease, &progress, cancel, work).await
}

/// Says what a backup would do, and does nothing.
///
/// # Errors
/// Those that a backup would meet before it begins.
pub async fn preview(scope: &Scope, options: &BackupOptions) -> Result<Preview> {
    let header = examine(&options.path)?;
    let wanted = Wanted { wish: options.wish, page_bytes: header.page_size, started: Timestamp::now(), first_segment: None };
    let Chosen { decision, .. } = base::choose(scope, &wanted).await?;
    let metadata = std::fs::metadata(&options.path).map_err(|error| Error::io("look at", &options.path, error))?;
    Ok(Preview {
        backup_type: decision.backup_type,
        base: decision.base.map(|base| base.id),
        reason: decision.reason,
        is_wal: header.is_wal,
        raw_bytes: metadata.len(),
    })
}

/// What the database's header says.
///
/// # Errors
/// When nothing can be backed up there, and why.
fn examine(path: &Path) -> Result<Header> {
    let found = probe(path)?;
    match (found.refusal(path), found) {
        (None, Probe::Wal(header) | Probe::Rollback(header)) => Ok(header),
        (Some(refusal), _) => Err(refusal),
        (None, other) => Err(Error::failed(format!("cannot back up {}: {other:?}", path.display()))),
    }
}

/// A backup of a database being taken.
struct Run<'a> {
    draft: Draft<'a>,
    options: &'a BackupOptions,
    scratch: Scratch,
    /// The first segment that follows.
    first_segment: u64,
    started: Timestamp,
}

/// What was copied.
struct Copied {
    snapshot: Snapshot,
    line: BaseLine,
    packs: Vec<PackLine>,
    read_bytes: u64,
}

/// The manifest as it will be stored, and the line for this host's cache.
struct Assembled {
    path: PathBuf,
    sha256: Sha256Digest,
    stored_bytes: u64,
    lines: (PathBuf, Sha256Digest),
}

async fn under_lease(
    scope: &Scope,
    writing: &Writing,
    options: &BackupOptions,
    (watch, first_segment): (&Shared, Option<u64>),
    held: Option<&Held>,
    progress: Arc<dyn Progress>,
    cancel: Cancel,
) -> Result<BackupReport> {
    let page_bytes = page_bytes(watch, &options.path).await?;
    let started = Timestamp::now();
    let wanted = Wanted { wish: options.wish, page_bytes, started, first_segment };
    let Chosen { decision, incarnation, first_segment, latest, base } = base::choose(scope, &wanted).await?;
    let ahead = latest.and_then(|latest| go_on_from(watch, latest));
    admit(scope, writing, options, (&incarnation, page_bytes), progress.as_ref()).await?;
    let log_start = LogFloor { incarnation, lsn: position(first_segment) };
    let mut draft = Draft::begin((scope, writing, held), decision, log_start, started, (progress, cancel)).await?;
    draft.warnings.extend(ahead);
    let run = Run { draft, options, scratch: scope.state.scratch()?, first_segment, started };
    run.take(watch, page_bytes, base).await
}

/// Has what is captured from now on count as later than `latest`, which is stored; what the operator should know of that.
pub(super) fn go_on_from(watch: &Shared, latest: Timestamp) -> Option<String> {
    watch.lock().only_later_than(latest);
    (latest > Timestamp::now()).then(|| {
        format!(
            "what is stored goes up to {latest}, which this host's clock has not reached: times go on from there until it has"
        )
    })
}

/// Bytes of a page now. Of a database that is held by a watch nobody else may open the file.
async fn page_bytes(watch: &Shared, path: &Path) -> Result<u32> {
    let path = path.to_owned();
    let size = watch.with(move |watch| match watch.stored_moment() {
        Some(moment) => Ok(moment.at.page_size),
        None => {
            // Nothing is gone on from: what may still be held is let go, so that the file can be looked at.
            watch.let_go();
            Ok(examine(&path)?.page_size)
        }
    });
    size.await
}

/// Puts the database on record, here and where else it is kept.
async fn admit(
    scope: &Scope,
    writing: &Writing,
    options: &BackupOptions,
    (incarnation, page_bytes): (&Incarnation, u32),
    progress: &dyn Progress,
) -> Result<()> {
    let identity = identity_of(incarnation, page_bytes);
    identity::ensure(&scope.repository, &scope.source, &writing.signer, &identity).await?;
    for other in &options.admit_in {
        if let Err(error) = identity::ensure(&other.repository, &other.source, &writing.signer, &identity).await {
            let name = other.repository.name();
            progress.warn(&format!("{incarnation} is not on record in repository {name}: {}", error.summary()));
        }
    }
    Ok(())
}

/// What puts `incarnation` on record.
pub(super) fn identity_of(incarnation: &Incarnation, page_bytes: u32) -> Identity {
    let number = incarnation.to_string().split_once('-').map(|(_, number)| number.to_owned()).unwrap_or_default();
    Identity {
        incarnation: incarnation.clone(),
        engine: incarnation.engine().as_str().to_owned(),
        major_version: 3,
        system_identifier: number,
        segment_bytes: SIZE,
        block_bytes: page_bytes,
        first_seen: Timestamp::now(),
    }
}

impl Run<'_> {
    async fn take(mut self, watch: &Shared, page_bytes: u32, base: Option<OpenBase>) -> Result<BackupReport> {
        let owners = base.as_ref().map(|base| base.owners.clone()).unwrap_or_default();
        let Copied { snapshot, line, packs, read_bytes } = self.copy_and_store(watch, page_bytes, base).await?;
        killpoint::reach("backup.copied");
        let moment = snapshot.moment;
        if !snapshot.continues {
            self.draft.warnings.push(format!(
                "{} keeps a rollback journal: its commits cannot be followed, and only the moments of its backups come back; \
                 PRAGMA journal_mode = WAL   changes that",
                self.options.path.display()
            ));
        }
        let assembled = self.assemble(&moment, &line, &owners)?;
        self.draft.progress.phase("committing", None);
        let (packs, packs_sha256) = self.draft.store_lists(packs, &assembled.path).await?;
        let summary = self.summary(&moment, &line, &assembled, &packs, packs_sha256);
        if let Some(log) = self.draft.commit(&summary).await?
            && let Err(error) = self.remember(&log, &summary, &assembled, owners)
        {
            self.draft.warnings.push(format!("the next diff or incr will be a full: {}", error.summary()));
        }
        let Draft { decision, warnings, .. } = self.draft;
        Ok(BackupReport { summary, moment, is_wal: snapshot.continues, reason: decision.reason, warnings, read_bytes })
    }

    /// Takes the snapshot and copies it on threads of their own while this task stores the finished packs.
    async fn copy_and_store(&self, watch: &Shared, page_bytes: u32, base: Option<OpenBase>) -> Result<Copied> {
        let length = std::fs::metadata(&self.options.path).map_or(0, |metadata| metadata.len());
        self.draft.progress.phase("copying", Some(length));
        let (shared, packs) = self.draft.shared(pack_bytes(self.options.pack_bytes, length), false);
        let (watch, workers, path) = (watch.clone(), self.options.workers, self.options.path.clone());
        let (scratch, digests) = (self.scratch.path().to_owned(), self.digests());
        let copying = tokio::task::spawn_blocking(move || {
            let mut watch = watch.lock();
            let snapshot = watch.snapshot()?;
            killpoint::reach("backup.started");
            if snapshot.moment.at.page_size != page_bytes {
                let message = format!("cannot back up {}: its page size changes at this moment", path.display());
                return Err(Error::busy(message).hint("try again in a moment"));
            }
            let aside = match snapshot.continues {
                true => None,
                false => set_aside(&mut watch, &snapshot, &scratch, &shared.cancel)?,
            };
            if aside.is_none() && !snapshot.continues {
                let (path, dir) = (path.display(), scratch.display());
                let why = format!("who writes to {path} waits until all of it is stored: {dir} has no room for a copy");
                shared.progress.warn(&why);
            }
            let copy = |each: &mut EachPage<'_>| match aside {
                Some(copy) => hand_over(copy, &snapshot, &scratch, each),
                None => watch.copy_snapshot(&snapshot, |_, page| each(page)),
            };
            let line = pages::store(copy, base, &shared, workers, (&path, &digests))?;
            let expected = u64::from(snapshot.moment.at.pages) * u64::from(page_bytes);
            if line.line.size_bytes != expected {
                let found = line.line.size_bytes;
                return Err(Error::failed(format!("{found} of {expected} bytes were copied: this is a bug")));
            }
            Ok((snapshot, line, shared.read_bytes.load(Ordering::Relaxed)))
        });
        let ((snapshot, line, read_bytes), packs) = self.draft.store_while(copying, packs).await?;
        Ok(Copied { snapshot, line, packs, read_bytes })
    }

    fn digests(&self) -> PathBuf {
        self.scratch.path().join("digests")
    }

    /// Writes the manifest, and the line that this host keeps.
    fn assemble(&self, moment: &Moment, line: &BaseLine, owners: &[BackupId]) -> Result<Assembled> {
        let facts = SqliteFacts {
            path: path_text(&self.options.path),
            page_bytes: moment.at.page_size,
            complete_at: moment.complete_at,
            captured_at: moment.captured_at,
            position: serde_json::to_value(moment.at)
                .map_err(|error| Error::failed("cannot write a position").caused_by(error))?,
        };
        let header = self.draft.header(Facts::Sqlite(facts), owners);
        let path = self.scratch.path().join("manifest");
        let write = || {
            let file = std::fs::File::create(&path)?;
            let sealed = self.draft.seal.writer(DigestingWriter::new(std::io::BufWriter::new(file)))?;
            let compressed = compress::stream_writer(sealed, self.draft.writing.compression_level)?;
            let mut manifest = ManifestWriter::new(compressed, &header)?;
            match line.holder {
                0 => manifest.entry(&line.line)?,
                holder => manifest.reference(&line.line.path, holder)?,
            }
            let (compressed, _) = manifest.finish()?;
            let (mut out, sha256, stored_bytes) = compressed.finish()?.finish()?.finish();
            std::io::Write::flush(&mut out).map(|()| (sha256, stored_bytes))
        };
        let (sha256, stored_bytes) = write().map_err(|error| Error::io("write", &path, error))?;
        let lines_path = self.scratch.path().join("base");
        let mut lines = BaseWriter::create(&lines_path)?;
        lines.line(line)?;
        let lines = (lines_path, lines.finish()?);
        Ok(Assembled { path, sha256, stored_bytes, lines })
    }

    fn summary(
        &self,
        moment: &Moment,
        line: &BaseLine,
        assembled: &Assembled,
        packs: &[PackLine],
        packs_sha256: Sha256Digest,
    ) -> BackupSummary {
        let position = position(self.first_segment);
        BackupSummary {
            id: self.draft.id.clone(),
            backup_type: self.draft.decision.backup_type,
            base: self.draft.decision.base.as_ref().map(|base| base.id.clone()),
            incarnation: self.draft.incarnation.clone(),
            timeline: TIMELINE,
            start_lsn: position,
            stop_lsn: position,
            start_time: moment.complete_at,
            stop_time: moment.captured_at,
            segment_bytes: SIZE,
            from_standby: false,
            server_version: 0,
            data_checksums: false,
            wal_log_hints: false,
            wal_level: String::new(),
            encrypted: self.draft.writing.recipients.is_some(),
            entries: 1,
            raw_bytes: line.line.size_bytes,
            stored_bytes: packs.iter().map(|pack| pack.stored_bytes).sum::<u64>() + assembled.stored_bytes,
            packs: u32::try_from(packs.len()).unwrap_or(u32::MAX),
            packs_sha256,
            manifest_sha256: assembled.sha256,
            manifest_bytes: assembled.stored_bytes,
            bad_pages: 0,
            duration_seconds: self.draft.began.elapsed().as_secs_f64(),
        }
    }

    /// Keeps what the next backup needs to build on this one, and on the last full.
    fn remember(&self, log: &CommitLog, summary: &BackupSummary, assembled: &Assembled, owners: Vec<BackupId>) -> Result<()> {
        let state = &self.draft.scope.state;
        let facts = BaseFacts {
            version: BaseFacts::VERSION,
            repository: self.draft.scope.repository.id().to_owned(),
            source: self.draft.scope.source.clone(),
            backup: summary.id.clone(),
            manifest_sha256: summary.manifest_sha256,
            owners: [std::slice::from_ref(&summary.id), &owners].concat(),
            place: Place { host: host_name(), data_directory: path_text(&self.options.path), directory: (0, 0) },
            timeline: TIMELINE,
            started: self.started,
            server_started: self.started,
            lines_sha256: assembled.lines.1,
        };
        let last_full = log.backups().rfind(|backup| backup.backup_type == BackupType::Full);
        let keep: BTreeSet<BackupId> = last_full.map(|full| full.id.clone()).into_iter().chain([summary.id.clone()]).collect();
        seal_digests(&self.digests(), summary.manifest_sha256)?;
        state.remember_digests(&self.draft.scope.source, &summary.id, &self.digests())?;
        state.remember_base(&facts, &assembled.lines.0, &keep.into_iter().collect::<Vec<_>>())
    }
}
