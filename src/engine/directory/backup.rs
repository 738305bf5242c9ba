//! `backup` of a directory, from start to commit.
//!
//! Write order, each step durable before the next: the identity (the first time), `begin.json`, the wrapped key, the packs,
//! `packs.jsonl`, the manifest, the commit entry; last of all, on this host, the index of chunks and what the next backup
//! builds on. A crash anywhere before the commit leaves an orphan that no reader looks at; one after it costs the next backup
//! space or time, never data: an index without this backup's chunks has them stored again, a host without its lines takes a
//! full.
//!
//! Of what changed before the start everything is in the backup, and nothing of what changed after its end. What changes in
//! between may be in it or not, each file as it was at one moment, or marked; the tree as a whole is of no single moment.
//! What is moved meanwhile from where the walk has not been to where it has is not met at all (`mv z a`): a directory that is
//! gone, or another one, when its turn comes counts as trouble for that, a file does not, for files come and go. What the walk
//! has listed is read from the directories that it listed, whatever they are called by then. Who cannot have that backs up a
//! snapshot of the file system.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::assemble::{Assembled, assemble};
use super::base::{self, Chosen, Moment, OpenBase};
use super::gather::{Gathered, Job, gather};
use super::line::root_of;
use super::trouble::Trouble;
use super::{file_time, path_text};
use crate::base::cancel::Cancel;
use crate::base::progress::Progress;
use crate::base::{BackupId, BackupType, Error, Incarnation, Lsn, Result, SegmentSize, TimelineId, Timestamp, killpoint};
use crate::codec::Sha256Digest;
use crate::codec::encrypt::Identity as Opening;
use crate::engine::backup::Wish;
use crate::engine::backup::draft::{Draft, leased};
use crate::engine::backup::run::pack_bytes;
use crate::engine::lease::{Held, Terms};
use crate::engine::{Scope, Writing, joined};
use crate::repo::Role;
use crate::repo::base_cache::{BaseFacts, Place};
use crate::repo::commit::{BackupSummary, CommitLog, LogFloor};
use crate::repo::host_state::Scratch;
use crate::repo::identity::{self, Identity};
use crate::repo::manifest::{DirectoryFacts, Facts, Header};
use crate::repo::pack::PackLine;
use crate::source::directory::beneath::Root;
use crate::source::directory::compare::Trust;
use crate::source::directory::exclude::Excludes;
use crate::source::directory::index::Index;
use crate::source::directory::owners::Names;
use crate::source::directory::read::FRESH_NANOS;
use crate::source::directory::scan::Tally;
use crate::source::directory::walk::WalkOptions;

/// How a backup is taken.
#[derive(Clone)]
pub struct BackupOptions {
    /// What was asked for.
    pub wish: Wish,
    /// The directory.
    pub path: PathBuf,
    /// What is left out, as gitignore lines.
    pub exclude: Vec<String>,
    /// Places of lifeboat's own, which are left out when they lie in the directory: they change while it works.
    pub own_places: Vec<PathBuf>,
    /// Leave out what other file systems hold that are mounted below.
    pub one_file_system: bool,
    /// Fail, instead of reporting, when something is not whole.
    pub fail_on_trouble: bool,
    /// Threads that read and compress.
    pub workers: usize,
    /// Bytes of frames in a pack; none leaves the choice to the size of the source.
    pub pack_bytes: Option<u64>,
    /// How the lease is taken; none to go without.
    pub lease: Option<Terms>,
    /// Other repositories of the source: it is put on record there too.
    pub admit_in: Vec<Scope>,
    /// What opens a base's manifest when this host keeps no record of it; empty on most hosts.
    pub identities: Vec<Opening>,
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
    /// What was met in the directory.
    pub tally: Tally,
    /// What is not whole.
    pub trouble: Trouble,
    /// Bytes read of files.
    pub read_bytes: u64,
}

/// A backup of a directory being taken.
struct Run<'a> {
    draft: Draft<'a>,
    options: &'a BackupOptions,
    scratch: Scratch,
    excludes: Vec<String>,
    place: Place,
    /// This host's clock before anything was looked at.
    started: Timestamp,
    base: Option<OpenBase>,
    newest: Option<BackupSummary>,
    pack_bytes: u64,
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
    // What cannot be backed up must not keep another host from it, nor leave a trace.
    examine(options)?;
    let work =
        async |held: Option<&Held>, cancel| under_lease(scope, writing, options, held, Arc::clone(&progress), cancel).await;
    leased((scope, writing), options.lease, &progress, cancel, work).await
}

/// Opens the directory and reads the exclude rules, of which it gives all.
///
/// # Errors
/// When it is not there, is none, or may not be read; when a rule is none.
pub(super) fn examine(options: &BackupOptions) -> Result<(Root, Vec<String>)> {
    let root = Root::open(&options.path)?;
    let mut excludes = options.exclude.clone();
    excludes.extend(own_rules(&options.path, &options.own_places)?);
    Excludes::new(&excludes)?;
    Ok((root, excludes))
}

/// Rules that leave out those of `places` that lie below `path`.
fn own_rules(path: &Path, places: &[PathBuf]) -> Result<Vec<String>> {
    let Ok(top) = path.canonicalize() else { return Ok(Vec::new()) };
    let mut rules = Vec::new();
    for place in places {
        let Ok(place) = place.canonicalize() else { continue };
        let Some(relative) = place.strip_prefix(&top).ok().filter(|relative| !relative.as_os_str().is_empty()) else { continue };
        let relative = relative.to_str().ok_or_else(|| {
            Error::failed(format!("{} lies in the directory to back up, and its name is not UTF-8", place.display()))
                .detail("why", "lifeboat leaves out its own files by a rule, and rules are text")
                .hint("give that directory another name, or put it elsewhere")
        })?;
        rules.push(format!("/{}", escaped(relative)));
    }
    Ok(rules)
}

/// `path` as a gitignore line that means nothing else.
fn escaped(path: &str) -> String {
    let special = |c: char| matches!(c, '\\' | '*' | '?' | '[' | ']' | '{' | '}' | '!' | '#' | ' ');
    path.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
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
    let (root, excludes) = examine(options)?;
    let scratch = scope.state.scratch()?;
    let (started, place) = (Timestamp::now(), base::place(&options.path)?);
    let moment = Moment { place: &place, started, identities: &options.identities, scratch: scratch.path() };
    let Chosen { decision, incarnation, base, notes, newest } = base::choose(scope, options.wish, &moment).await?;
    admit(scope, writing, options, &incarnation, progress.as_ref()).await?;
    let log_start = LogFloor { incarnation, lsn: Lsn::of_moment(started) };
    let mut draft = Draft::begin((scope, writing, held), decision, log_start, started, (progress, cancel)).await?;
    draft.warnings.extend(notes);
    // Of a source that was never seen the usual size of packs is as good a guess as any.
    let raw_bytes = newest.as_ref().map_or(u64::from(u32::MAX) * 4, |newest| newest.raw_bytes);
    let pack_bytes = pack_bytes(options.pack_bytes, raw_bytes);
    let run = Run { draft, options, scratch, excludes, place, started, base, newest, pack_bytes };
    run.take(root).await
}

/// Puts the source on record, here and where else it is kept.
async fn admit(
    scope: &Scope,
    writing: &Writing,
    options: &BackupOptions,
    incarnation: &Incarnation,
    progress: &dyn Progress,
) -> Result<()> {
    let number = incarnation.to_string().split_once('-').map(|(_, number)| number.to_owned()).unwrap_or_default();
    let identity = Identity {
        incarnation: incarnation.clone(),
        engine: incarnation.engine().as_str().to_owned(),
        major_version: 1,
        system_identifier: number,
        segment_bytes: SegmentSize::DEFAULT,
        block_bytes: 0,
        first_seen: Timestamp::now(),
    };
    identity::ensure(&scope.repository, &scope.source, &writing.signer, &identity).await?;
    for other in &options.admit_in {
        if let Err(error) = identity::ensure(&other.repository, &other.source, &writing.signer, &identity).await {
            let name = other.repository.name();
            progress.warn(&format!("{incarnation} is not on record in repository {name}: {}", error.summary()));
        }
    }
    Ok(())
}

impl Run<'_> {
    async fn take(mut self, root: Root) -> Result<BackupReport> {
        let (index, note) = base::open_index(self.draft.scope, self.base.as_ref(), &self.draft.id)?;
        self.draft.warnings.extend(note);
        self.draft.progress.phase("reading", None);
        let (gathered, index, read_bytes, packs) = self.gather_and_store(root, index).await?;
        let stop_time = Timestamp::now();
        killpoint::reach("backup.copied");
        base::refuse_emptied(&self.options.path, self.newest.as_ref(), gathered.lines, gathered.tally.left)?;
        self.judge(&gathered, &index)?;
        let assembled = self.assemble(&gathered).await?;
        self.draft.progress.phase("committing", None);
        let (packs, packs_sha256) = self.draft.store_lists(packs, &assembled.path).await?;
        let summary = self.summary(stop_time, &gathered, &assembled, &packs, packs_sha256);
        if let Some(log) = self.draft.commit(&summary).await? {
            self.remember(&log, &summary, &assembled, index);
        }
        let Self { draft: Draft { decision, warnings, .. }, .. } = self;
        let Gathered { tally, trouble, .. } = gathered;
        Ok(BackupReport { summary, reason: decision.reason, warnings, tally, trouble, read_bytes })
    }

    /// Reads on dedicated threads while this task stores the finished packs.
    async fn gather_and_store(&self, root: Root, index: Index) -> Result<(Gathered, Index, u64, Vec<PackLine>)> {
        let (shared, packs) = self.draft.shared(self.pack_bytes, false);
        let job = Job {
            root: Arc::new(root),
            walk: WalkOptions {
                excludes: Excludes::new(&self.excludes)?,
                one_file_system: self.options.one_file_system,
                threads: self.options.workers,
                scratch: self.scratch.path().to_owned(),
            },
            base: self.base.as_ref().map(|base| (base.lines.clone(), trust(base, self.started))),
            owners: self.owners(),
            workers: self.options.workers,
            spill: self.scratch.path().join("lines"),
        };
        let work = tokio::task::spawn_blocking(move || {
            let gathered = gather(&job, &shared, &index)?;
            let read_bytes = shared.read_bytes.load(std::sync::atomic::Ordering::Relaxed);
            Ok((gathered, index, read_bytes))
        });
        let ((gathered, index, read_bytes), packs) = self.draft.store_while(work, packs).await?;
        Ok((gathered, index, read_bytes, packs))
    }

    /// This backup and what it builds on.
    fn owners(&self) -> Vec<BackupId> {
        let chain = self.base.as_ref().map(|base| base.owners.as_slice()).unwrap_or_default();
        [std::slice::from_ref(&self.draft.id), chain].concat()
    }

    /// Tells what is not whole, or fails for it.
    fn judge(&mut self, gathered: &Gathered, index: &Index) -> Result<()> {
        let damaged = index.damaged_records();
        if damaged > 0 {
            self.draft.warnings.push(format!("{damaged} records of the index of chunks are damaged and were not used"));
        }
        let trouble = &gathered.trouble;
        if trouble.count == 0 {
            return Ok(());
        }
        let message = format!("{} of {} could not be stored whole", things(trouble.count), self.draft.scope.source);
        if self.options.fail_on_trouble {
            let error = Error::failed(format!("{message}, and no backup is kept"));
            let error = trouble.first.iter().fold(error, |error, one| error.detail("not whole", one.clone()));
            let error = if trouble.others() > 0 { error.detail("and", format!("{} more", trouble.others())) } else { error };
            return Err(error
                .hint("run lifeboat as a user who may read everything, or leave out what is not wanted: exclude = [\"…\"]")
                .hint("without --errors fail the backup is kept, and this is reported"));
        }
        self.draft.warnings.push(format!("{message}; the backup holds the rest"));
        self.draft.warnings.extend(trouble.first.iter().cloned());
        if trouble.others() > 0 {
            self.draft.warnings.push(format!("and {} more", things(trouble.others())));
        }
        Ok(())
    }

    async fn assemble(&mut self, gathered: &Gathered) -> Result<Assembled> {
        let Names { users, groups, unanswered } = gathered.owners.names();
        self.draft.warnings.extend(unanswered.map(|told| format!("{told}; the backup keeps numbers without names")));
        let facts = DirectoryFacts {
            path: path_text(&self.options.path),
            exclude: self.excludes.clone(),
            root: root_of(&gathered.root),
            not_stored: gathered.trouble.not_stored,
        };
        let base_owners = self.base.as_ref().map(|base| base.owners.clone()).unwrap_or_default();
        let header = Header { users, groups, ..self.draft.header(Facts::Directory(facts), &base_owners) };
        let (scratch, lines) = (self.scratch.path().to_owned(), gathered.lines);
        let base = self.base.as_ref().map(|base| base.lines.clone());
        let (seal, level) = (self.draft.seal.clone(), self.draft.writing.compression_level);
        let work = tokio::task::spawn_blocking(move || {
            assemble(&scratch, &header, (&scratch.join("lines"), lines), base.as_deref(), &seal, level)
        });
        joined(work.await)
    }

    fn summary(
        &self,
        stop_time: Timestamp,
        gathered: &Gathered,
        assembled: &Assembled,
        packs: &[PackLine],
        packs_sha256: Sha256Digest,
    ) -> BackupSummary {
        BackupSummary {
            id: self.draft.id.clone(),
            backup_type: self.draft.decision.backup_type,
            base: self.draft.decision.base.as_ref().map(|base| base.id.clone()),
            incarnation: self.draft.incarnation.clone(),
            timeline: TimelineId(1),
            start_lsn: Lsn::of_moment(self.started),
            stop_lsn: Lsn::of_moment(stop_time),
            start_time: self.started,
            stop_time,
            segment_bytes: SegmentSize::DEFAULT,
            from_standby: false,
            server_version: 0,
            data_checksums: false,
            wal_log_hints: false,
            wal_level: String::new(),
            encrypted: self.draft.writing.recipients.is_some(),
            entries: assembled.entries,
            raw_bytes: assembled.raw_bytes,
            stored_bytes: packs.iter().map(|pack| pack.stored_bytes).sum::<u64>() + assembled.stored_bytes,
            packs: u32::try_from(packs.len()).unwrap_or(u32::MAX),
            packs_sha256,
            manifest_sha256: assembled.sha256,
            manifest_bytes: assembled.stored_bytes,
            bad_pages: assembled.flaws + gathered.trouble.not_stored,
            duration_seconds: self.draft.began.elapsed().as_secs_f64(),
        }
    }

    /// Keeps what the next backup needs to build on this one, and on the last full. The backup stands whatever becomes of that.
    fn remember(&mut self, log: &CommitLog, summary: &BackupSummary, assembled: &Assembled, index: Index) {
        let (scope, owners) = (self.draft.scope, self.owners());
        let full = owners.last().unwrap_or(&summary.id).clone();
        let noted = index.commit().and_then(|()| scope.state.forget_other_chunks(&scope.source, &full));
        if let Err(error) = noted {
            self.draft.warnings.push(format!("the next backup may store some chunks again: {}", error.summary()));
        }
        let facts = BaseFacts {
            version: BaseFacts::VERSION,
            repository: scope.repository.id().to_owned(),
            source: scope.source.clone(),
            backup: summary.id.clone(),
            manifest_sha256: summary.manifest_sha256,
            owners,
            place: self.place.clone(),
            timeline: summary.timeline,
            started: self.started,
            server_started: self.started,
            lines_sha256: assembled.lines.1,
        };
        let last_full = log.backups().rfind(|backup| backup.backup_type == BackupType::Full);
        let keep: BTreeSet<BackupId> = last_full.map(|full| full.id.clone()).into_iter().chain([summary.id.clone()]).collect();
        let kept = scope.state.remember_base(&facts, &assembled.lines.0, &keep.into_iter().collect::<Vec<_>>());
        if let Err(error) = kept {
            self.draft.warnings.push(format!("the next diff or incr will be a full: {}", error.summary()));
        }
    }
}

/// How far a base is believed.
pub(super) fn trust(base: &OpenBase, started: Timestamp) -> Trust {
    let started = file_time(started);
    let fresh_nanos = killpoint::shortened("LIFEBOAT_FRESH_MILLIS").map_or(FRESH_NANOS, |time| time.as_nanos() as i128);
    let base_started = base.read_here.map_or(started, file_time);
    let (is_same_place, root_device) = (base.read_here.is_some(), base.root_device);
    Trust { base_started, started, is_same_place, root_device, fresh_nanos }
}

/// `1 thing`, `7 things`.
fn things(count: u64) -> String {
    if count == 1 { "1 thing".to_owned() } else { format!("{count} things") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_its_own_are_left_out_whatever_they_are_called() {
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join("a [b]*!#/st\\ate ");
        std::fs::create_dir_all(odd.join("deep")).unwrap();
        let outside = tempfile::tempdir().unwrap();
        let rules = own_rules(dir.path(), &[odd.clone(), outside.path().to_owned(), dir.path().to_owned()]).unwrap();
        assert_eq!(rules.len(), 1, "{rules:?}");
        let excludes = Excludes::new(&rules).unwrap();
        let relative = odd.strip_prefix(dir.path()).unwrap();
        assert!(excludes.leave_out(relative, true), "{rules:?}");
        for other in ["a [b]*!#", "a b", "a [b]*!#/state", "st\\ate "] {
            assert!(!excludes.leave_out(Path::new(other), true), "{other}");
        }
        let unnamed = dir.path().join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"st\xff"));
        std::fs::create_dir(&unnamed).unwrap();
        assert!(own_rules(dir.path(), &[unnamed]).unwrap_err().message().contains("not UTF-8"));
    }
}
