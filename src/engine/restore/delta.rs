//! A restore into what is there already: after a failed upgrade, over a half restore, to rewind a standby.
//!
//! Write order: the marker; `pg_control` out of the way, so that nothing starts; what the backup does not have goes;
//! then every file is compared with the backup frame by frame, and only what differs is fetched and written. Nothing
//! outside the data directory and its own tablespaces is touched, and no file is trusted for its times.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::iter::Peekable;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use super::spill::Spill;
use super::target_dir::{MARKER, marked_incarnation};
use super::tree::Tree;
use crate::base::cancel::Cancel;
use crate::base::progress::Progress;
use crate::base::{Error, ErrorKind, Incarnation, RelPath, Result, durable};
use crate::codec::FrameDigest;
use crate::codec::frame::FRAME_RAW_BYTES;
use crate::engine::chain::Entries;
use crate::engine::standby::marker::Marker;
use crate::repo::manifest::{FileKind, FileLine};
use crate::source::postgres::control::{CONTROL_PATH, ClusterState, ControlFile};
use crate::source::postgres::live::live_server;
use crate::source::postgres::recovery_config::{STANDBY_SIGNAL, configured};
use crate::source::postgres::standby::has_signal;

/// Frames that one thread compares at a time.
const FRAMES_IN_JOB: usize = 64;

/// Makes sure that `dir` is the data directory of `incarnation` and holds no log that exists nowhere else. False when it
/// is absent or empty: then there is nothing to compare with.
///
/// # Errors
/// Says what it is instead, and what to do.
pub(super) fn check(dir: &Path, incarnation: &Incarnation, discard_log: bool) -> Result<bool> {
    let listed = match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(Error::io("list", dir, error)),
    };
    if !listed {
        return Ok(false);
    }
    if let Some(server) = live_server(dir)? {
        return Err(Error::failed(format!("a PostgreSQL server is running on {} (process {})", dir.display(), server.pid))
            .hint(format!("pg_ctl -D '{}' stop   and restore again", dir.display())));
    }
    let (found, crashed) = match marked_incarnation(dir)? {
        Some(marked) => (marked, false),
        None => look(dir)?,
    };
    if found != *incarnation {
        return Err(Error::failed(format!("{} belongs to another cluster: nothing in it is overwritten", dir.display()))
            .detail("there", found.to_string())
            .detail("backup", incarnation.to_string())
            .hint("restore into another directory, or without --delta into an empty one"));
    }
    let mut unarchived = waiting_log(dir)?;
    if crashed {
        unarchived.extend(last_segment(dir)?);
    }
    match unarchived.as_slice() {
        [first, others @ ..] if !discard_log => Err(log_in_the_way(dir, first, others.len(), crashed)),
        _ => Ok(true),
    }
}

fn log_in_the_way(dir: &Path, first: &str, others: usize, crashed: bool) -> Error {
    let (dir, more) = (dir.display(), if others > 0 { format!(" and {others} more") } else { String::new() });
    let error = Error::failed(format!(
        "log in {dir}/pg_wal was never archived: it may hold the newest commits, and this restore would remove it"
    ))
    .detail("files", format!("{first}{more}"));
    let error = if crashed {
        error.hint(format!("pg_ctl -D '{dir}' -w start; pg_ctl -D '{dir}' stop   a primary that starts archives what it has"))
    } else {
        error.hint(format!("lifeboat archive push SOURCE '{dir}/pg_wal/{first}'   and so on, then restore again"))
    };
    error.hint("add --discard-log   if it is not wanted")
}

/// The cluster whose data directory `dir` is, and whether its server ended without a word: then the last of its log is
/// marked neither as archived nor as waiting.
fn look(dir: &Path) -> Result<(Incarnation, bool)> {
    let none = |what: String| {
        Error::failed(format!("{} is no PostgreSQL data directory ({what}): nothing in it is overwritten", dir.display()))
            .hint("--delta needs the data directory of the same cluster; restore into an empty directory instead")
    };
    let version = dir.join("PG_VERSION");
    let text = fs::read_to_string(&version).map_err(|error| none(format!("{}: {error}", version.display())))?;
    let major = text.trim().parse().map_err(|_| none("PG_VERSION holds no version".to_owned()))?;
    // pg_upgrade renames the old cluster's when it links files.
    let candidates = [CONTROL_PATH.to_owned(), format!("{CONTROL_PATH}.old")].map(|name| dir.join(name));
    let read = candidates.iter().find_map(|path| fs::read(path).ok()).ok_or_else(|| none("it has no pg_control".to_owned()))?;
    let control = ControlFile::parse(&read).map_err(|error| none(error.summary()))?;
    // What was restored and never started says what the server said of which it is a copy. A label of somebody else's may
    // stand in a directory in use.
    let label = fs::read_to_string(dir.join("backup_label")).unwrap_or_default();
    let never_started = label.lines().any(|line| line.starts_with("LABEL: lifeboat backup "));
    // One that follows the archive has no log but what it fetched there, unless it is told where to stream from.
    let streams = configured(dir, "primary_conninfo")?.is_some_and(|value| !value.is_empty());
    let only_follows = has_signal(dir, STANDBY_SIGNAL)? && Marker::read(dir)?.is_some() && !streams;
    let crashed = control.state != ClusterState::ShutDown && !never_started && !only_follows;
    Ok((Incarnation::postgres(major, control.system_identifier), crashed))
}

/// The segment that was modified last, unless it is known to be archived.
fn last_segment(dir: &Path) -> Result<Option<String>> {
    let wal = dir.join("pg_wal");
    let failed = |error: io::Error| Error::io("list", &wal, error);
    let mut last = None;
    for entry in fs::read_dir(&wal).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.len() == 24 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let modified = entry.metadata().and_then(|metadata| metadata.modified()).map_err(failed)?;
            last = last.max(Some((modified, name)));
        }
    }
    let is_archived = |name: &String| wal.join(format!("archive_status/{name}.done")).exists();
    Ok(last.map(|(_, name)| name).filter(|name| !is_archived(name)))
}

/// Files of the log that wait to be archived.
fn waiting_log(dir: &Path) -> Result<Vec<String>> {
    let status = dir.join("pg_wal/archive_status");
    let entries = match fs::read_dir(&status) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("list", &status, error)),
    };
    let mut names = BTreeSet::new();
    for entry in entries {
        let name = entry.map_err(|error| Error::io("list", &status, error))?.file_name();
        names.extend(name.to_string_lossy().strip_suffix(".ready").map(str::to_owned));
    }
    Ok(names.into_iter().collect())
}

/// Takes `pg_control` its name, durably: from here on nothing starts in `root`.
///
/// # Errors
/// When it cannot be renamed.
pub(super) fn disarm(root: &Path) -> Result<()> {
    let control = RelPath::new(CONTROL_PATH).map_err(Error::failed)?;
    let (named, temporary) = (root.join(CONTROL_PATH), Tree::location(root, &control));
    match fs::rename(&named, &temporary) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome.and_then(|()| durable::sync_parent(&temporary)).map_err(|error| Error::io("rename", &named, error)),
    }
}

/// Removes what is in the way of `entries`: what the backup does not have, or has of another kind.
///
/// # Errors
/// When something cannot be listed or removed.
pub(super) fn clear(root: &Path, entries: Entries, tree: &Tree) -> Result<()> {
    Clearing { root, tree, expected: entries.peekable() }.directory(root, None)
}

struct Clearing<'a> {
    root: &'a Path,
    tree: &'a Tree,
    expected: Peekable<Entries>,
}

/// What becomes of something found.
enum Fate {
    Keep,
    Descend,
    Remove,
}

impl Clearing<'_> {
    fn directory(&mut self, dir: &Path, parent: Option<&RelPath>) -> Result<()> {
        let control = RelPath::new(CONTROL_PATH).map_err(Error::failed)?;
        let set_aside = Tree::location(self.root, &control);
        for name in sorted_names(dir)? {
            let location = dir.join(&name);
            let path = match parent {
                Some(parent) => parent.child(&name),
                None => RelPath::new(name.as_bytes()).map_err(Error::failed)?,
            };
            // The file system's own folder is found wherever a disk of its own is mounted.
            if location == set_aside || name == "lost+found" || (parent.is_none() && name == MARKER) {
                continue;
            }
            let metadata = fs::symlink_metadata(&location).map_err(|error| Error::io("look at", &location, error))?;
            match self.fate(&path, &location, &metadata)? {
                Fate::Keep => {}
                Fate::Descend => self.directory(&location, Some(&path))?,
                Fate::Remove => {
                    let removed = if metadata.is_dir() { fs::remove_dir_all(&location) } else { fs::remove_file(&location) };
                    removed.map_err(|error| Error::io("remove", &location, error))?;
                }
            }
        }
        Ok(())
    }

    fn fate(&mut self, path: &RelPath, location: &Path, metadata: &Metadata) -> Result<Fate> {
        while self.expected.next_if(|entry| entry.as_ref().is_ok_and(|entry| entry.line.path < *path)).is_some() {}
        let line = match self.expected.peek() {
            Some(Ok(entry)) => &entry.line,
            Some(Err(_)) => return Err(self.expected.next().and_then(Result::err).unwrap_or_else(Error::interrupted)),
            None => return Ok(leftover(path)),
        };
        let below = line.path.as_bytes().strip_prefix(path.as_bytes()).is_some_and(|rest| rest.starts_with(b"/"));
        if below {
            // A directory that is not listed itself.
            return Ok(if metadata.is_dir() { Fate::Descend } else { Fate::Remove });
        }
        if line.path != *path {
            return Ok(leftover(path));
        }
        let leads_to = |target: &Path| fs::read_link(location).is_ok_and(|found| found == target);
        Ok(match &line.kind {
            FileKind::Directory if metadata.is_dir() => Fate::Descend,
            // The server's own directories may lie elsewhere, such as pg_wal on a disk of its own.
            FileKind::Directory if metadata.is_symlink() && location.is_dir() && !path.as_bytes().contains(&b'/') => {
                Fate::Descend
            }
            // What another name leads to as well may be another cluster's: pg_upgrade links.
            FileKind::File | FileKind::Pages if metadata.is_file() && metadata.nlink() == 1 => Fate::Keep,
            FileKind::Symlink { target } if leads_to(&super::tree::decode(target)?) => Fate::Keep,
            FileKind::Tablespace { target } if leads_to(&self.tree.tablespace(target)?) && location.is_dir() => Fate::Descend,
            _ => Fate::Remove,
        })
    }
}

/// What becomes of something that the backup does not have. In a tablespace's directory other clusters have theirs, such
/// as the one that `pg_upgrade` made: only this cluster's is known to the backup, and the others are left alone.
fn leftover(path: &RelPath) -> Fate {
    let mut parts = path.as_bytes().split(|byte| *byte == b'/');
    if parts.next() == Some(b"pg_tblspc") && parts.count() == 2 { Fate::Keep } else { Fate::Remove }
}

fn sorted_names(dir: &Path) -> Result<Vec<OsString>> {
    let list = || fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<Vec<_>>>();
    let mut names = list().map_err(|error| Error::io("list", dir, error))?;
    names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    Ok(names)
}

/// Frames of one file to compare.
struct Job {
    line: Arc<FileLine>,
    location: PathBuf,
    first: usize,
}

/// Compares files with the backup on several threads and notes in a spill what differs.
pub(super) struct Comparison<'a> {
    root: &'a Path,
    spill: Mutex<Spill>,
    progress: Arc<dyn Progress>,
    cancel: Cancel,
}

impl<'a> Comparison<'a> {
    /// A comparison of what lies below `root`, which notes differences in `spill`.
    pub fn new(root: &'a Path, spill: Spill, progress: Arc<dyn Progress>, cancel: Cancel) -> Self {
        Self { root, spill: Mutex::new(spill), progress, cancel }
    }

    /// Compares every line that `lines` gives on `workers` threads; gives the spill back. Blocks.
    ///
    /// # Errors
    /// The first error of `lines` or of a thread.
    pub fn run(self, lines: impl Iterator<Item = Result<FileLine>>, workers: usize) -> Result<Spill> {
        let (jobs, work) = sync_channel::<Job>(workers * 2);
        let work = Mutex::new(work);
        let outcome = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..workers.max(1)).map(|_| scope.spawn(|| self.compare_all(&work))).collect();
            let fed = self.feed(lines, &jobs);
            drop(jobs);
            let compared =
                threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            let mut errors: Vec<Error> = compared.chain([fed]).filter_map(Result::err).collect();
            // Whoever stopped because another failed says "interrupted": the cause comes first.
            errors.sort_by_key(|error| error.kind() == ErrorKind::Interrupted);
            errors.into_iter().next().map_or(Ok(()), Err)
        });
        outcome.map(|()| self.spill.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn feed(&self, lines: impl Iterator<Item = Result<FileLine>>, jobs: &SyncSender<Job>) -> Result<()> {
        for line in lines {
            self.cancel.check()?;
            let line = Arc::new(line?);
            for first in (0..line.frames.len()).step_by(FRAMES_IN_JOB) {
                let job = Job { location: Tree::location(self.root, &line.path), line: Arc::clone(&line), first };
                jobs.send(job).map_err(|_| Error::interrupted())?;
            }
        }
        Ok(())
    }

    fn compare_all(&self, work: &Mutex<Receiver<Job>>) -> Result<()> {
        let mut buffer = vec![0; FRAME_RAW_BYTES];
        let mut first_error = Ok(());
        loop {
            let job = work.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(job) = job else { return first_error };
            // After an error work is only taken, so that whoever hands it out ends.
            if first_error.is_ok() && !self.cancel.is_cancelled() {
                first_error = self.compare(&job, &mut buffer);
                if first_error.is_err() {
                    self.cancel.cancel();
                }
            }
        }
    }

    fn compare(&self, job: &Job, buffer: &mut [u8]) -> Result<()> {
        let frames = &job.line.frames;
        let last = frames.len().min(job.first + FRAMES_IN_JOB);
        let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let failed = |error: io::Error| Error::io("read", &job.location, error);
        let file = OpenOptions::new().read(true).custom_flags(flags).open(&job.location).map_err(failed)?;
        let mut offset: u64 = frames[..job.first].iter().map(|frame| u64::from(frame.raw_len)).sum();
        let mut differing = vec![false; last - job.first];
        for (index, frame) in frames[job.first..last].iter().enumerate() {
            self.cancel.check()?;
            let length = frame.raw_len as usize;
            // Frames are never longer than one: the manifest's reader refuses others only where there are patches.
            let there = buffer.get_mut(..length).map(|raw| read_whole(&file, raw, offset)).transpose().map_err(failed)?;
            let same = there == Some(true) && Some(FrameDigest::of(&buffer[..length])) == job.line.state(job.first + index);
            differing[index] = !same;
            offset += u64::from(frame.raw_len);
            self.progress.advance(u64::from(frame.raw_len));
        }
        if differing.contains(&true) {
            let wanted = |index: usize| index.checked_sub(job.first).is_some_and(|at| differing.get(at) == Some(&true));
            self.spill.lock().unwrap_or_else(PoisonError::into_inner).place(&job.line, wanted)?;
        }
        Ok(())
    }
}

/// Fills `raw` from `offset` of `file`; false when the file ends before.
fn read_whole(file: &File, raw: &mut [u8], offset: u64) -> io::Result<bool> {
    match file.read_exact_at(raw, offset) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
