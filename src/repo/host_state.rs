//! What a host remembers of a repository, below `state_dir`: public things only, readable by its owner alone.
//!
//! Losing it costs time and never data: the keys seen first, the head of each commit log (so that a repository that
//! was wound back is noticed), the key of the present stretch of log, what straddles out of the last archived
//! segment, the digests that wait to be signed in a batch, and the names in the log when it was listed last.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::log::index::IndexLine;
use crate::base::{BackupId, Error, Incarnation, Result, SourceName, Timestamp, durable};
use crate::codec::Sha256Digest;

/// How the names of scratch directories begin.
const SCRATCH_PREFIX: &str = "run-";

/// How long a process waits before it tries to lock the journal again.
const JOURNAL_PAUSE: Duration = Duration::from_millis(5);

/// How long a repository that failed is asked last.
const TROUBLE_LASTS: Duration = Duration::from_secs(60);

/// The state of one repository on this host.
#[derive(Clone, Debug)]
pub struct HostState {
    dir: PathBuf,
}

/// The last commit entry a host saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RememberedHead {
    /// Its number.
    pub number: u32,
    /// SHA-256 of the entry as stored.
    pub sha256: Sha256Digest,
}

/// The stretch of log this host is writing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stretch {
    /// Its number in the repository.
    pub number: u32,
    /// What its segments are encrypted to.
    pub recipient: String,
    /// The recipients its key is wrapped to.
    pub wrapped_to: Vec<String>,
    /// When it began, by this host's clock.
    pub began: Timestamp,
}

impl HostState {
    /// The state for the repository with id `repository`, below `state_dir`. Nothing is created yet.
    pub fn new(state_dir: &Path, repository: &str) -> Self {
        Self { dir: state_dir.join(repository) }
    }

    /// Where what belongs to `source` lies.
    pub(super) fn of_source(&self, source: &SourceName) -> PathBuf {
        self.dir.join(source.to_string())
    }

    /// Where what this host remembers of following `source` lies, whatever repository it goes to.
    pub fn follow_dir(&self, source: &SourceName) -> PathBuf {
        self.dir.parent().unwrap_or(&self.dir).join("follow").join(source.to_string())
    }

    pub(super) fn log_dir(&self, source: &SourceName, incarnation: &Incarnation) -> PathBuf {
        self.of_source(source).join(incarnation.to_string())
    }

    /// The digest of the repository's first keys as this host first saw them: the pin when none is configured.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn pin_root(&self, root: Sha256Digest) -> Result<Sha256Digest> {
        let path = self.dir.join("root.json");
        match read_json(&path)? {
            Some(remembered) => Ok(remembered),
            None => write_json(&path, &root).map(|()| root),
        }
    }

    /// Whether the repository failed this host a moment ago: others are asked first then. Best effort, like
    /// [`HostState::note_trouble`]: not to know it costs time.
    pub fn had_trouble(&self) -> bool {
        let noted: Option<Timestamp> = read_json(&self.dir.join("trouble.json")).ok().flatten();
        noted.is_some_and(|noted| Timestamp::now().since(noted) < TROUBLE_LASTS)
    }

    /// Remembers whether the repository failed this host just now.
    pub fn note_trouble(&self, failed: bool) {
        let path = self.dir.join("trouble.json");
        let _ = match failed {
            true => write_json(&path, &Timestamp::now()),
            false => fs::remove_file(&path).map_err(|error| Error::io("remove", &path, error)),
        };
    }

    /// The head of the commit log of `source` that this host saw last.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn head(&self, source: &SourceName) -> Result<Option<RememberedHead>> {
        read_json(&self.head_path(source))
    }

    /// The file that remembers the head of the commit log of `source`.
    pub fn head_path(&self, source: &SourceName) -> PathBuf {
        self.of_source(source).join("head.json")
    }

    /// Remembers the head of the commit log of `source`, unless another process has remembered a later one.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn remember_head(&self, source: &SourceName, head: RememberedHead) -> Result<()> {
        if matches!(self.head(source), Ok(Some(known)) if known.number > head.number) {
            return Ok(());
        }
        write_json(&self.head_path(source), &head)
    }

    /// What tells this state directory from that of any other host: random, and made when it is first asked for.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn installation(&self, source: &SourceName) -> Result<String> {
        let path = self.of_source(source).join("installation.json");
        match read_json(&path)? {
            Some(known) => Ok(known),
            None => {
                let fresh = hex::encode(rand::random::<[u8; 16]>());
                write_json(&path, &fresh).map(|()| fresh)
            }
        }
    }

    /// The stretch of log this host is writing; none when it must begin one.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn stretch(&self, source: &SourceName, incarnation: &Incarnation) -> Result<Option<Stretch>> {
        read_json(&self.log_dir(source, incarnation).join("stretch.json"))
    }

    /// Remembers the stretch of log this host is writing.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn remember_stretch(&self, source: &SourceName, incarnation: &Incarnation, stretch: &Stretch) -> Result<()> {
        write_json(&self.log_dir(source, incarnation).join("stretch.json"), stretch)
    }

    /// What straddles out of the segment before `segment_name`, as the log reader encoded it.
    pub fn carry_into(&self, source: &SourceName, incarnation: &Incarnation, segment_name: &str) -> Option<Vec<u8>> {
        // Unreadable is as good as absent: the head of the straddling record is then looked up elsewhere.
        fs::read(self.log_dir(source, incarnation).join(format!("carry-{segment_name}"))).ok()
    }

    /// Remembers what straddles into `segment_name`. Not made durable: it carries its own checksum, and without it the
    /// segment before is read again.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn remember_carry(&self, source: &SourceName, incarnation: &Incarnation, segment_name: &str, carry: &[u8]) -> Result<()> {
        let path = self.log_dir(source, incarnation).join(format!("carry-{segment_name}"));
        let temporary = durable::temporary_beside(&path);
        prepare(&path)
            .and_then(|()| fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary))
            .and_then(|mut file| file.write_all(carry))
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(|error| Error::io("write", &path, error))
    }

    /// Forgets what straddled into `segment_name`, which must be durable by now: until then a second attempt needs it, for
    /// the segment before may be gone.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn forget_carry(&self, source: &SourceName, incarnation: &Incarnation, segment_name: &str) -> Result<()> {
        let path = self.log_dir(source, incarnation).join(format!("carry-{segment_name}"));
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", &path, error)),
            _ => Ok(()),
        }
    }

    /// Remembers that the object `key` holds `file`, whose turn to be archived has not come. Not made durable: forgotten,
    /// it is looked up in the repository.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn remember_pushed_ahead(
        &self,
        source: &SourceName,
        incarnation: &Incarnation,
        file: &str,
        raw_sha256: Sha256Digest,
        key: &str,
    ) -> Result<()> {
        let path = self.log_dir(source, incarnation).join(format!("ahead-{file}"));
        let write = || {
            prepare(&path)?;
            fs::write(&path, digested(&(raw_sha256, key)))
        };
        write().map_err(|error| Error::io("write", &path, error))
    }

    /// Forgets what was stored of `file` ahead of its turn; the object, when it holds the content `raw_sha256`.
    pub fn take_pushed_ahead(
        &self,
        source: &SourceName,
        incarnation: &Incarnation,
        file: &str,
        raw_sha256: Sha256Digest,
    ) -> Option<String> {
        let path = self.log_dir(source, incarnation).join(format!("ahead-{file}"));
        let text = fs::read_to_string(&path).ok()?;
        // Left behind it would say no more than is true.
        let _ = fs::remove_file(&path);
        let (digest, key): (Sha256Digest, String) = parse_digested(&text)?;
        (digest == raw_sha256).then_some(key)
    }

    /// The file with the listing of one log; see [`super::log::listing`].
    pub(super) fn listing_path(&self, source: &SourceName, incarnation: &Incarnation) -> PathBuf {
        self.log_dir(source, incarnation).join("listing")
    }

    /// Locks the journal of one log on this host, waiting for another process that holds it: it may be storing what it
    /// found there, and the waiting must not keep this process from its other repositories.
    ///
    /// # Errors
    /// When the lock file cannot be made.
    pub async fn journal(&self, source: &SourceName, incarnation: &Incarnation) -> Result<Journal> {
        let path = self.log_dir(source, incarnation).join("journal.jsonl");
        let failed = |error: io::Error| Error::io("lock", &path, error);
        let open = || {
            prepare(&path)?;
            fs::OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path)
        };
        let file = open().map_err(failed)?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Journal { path: path.clone(), file }),
                Err(fs::TryLockError::WouldBlock) => tokio::time::sleep(JOURNAL_PAUSE).await,
                Err(fs::TryLockError::Error(error)) => return Err(failed(error)),
            }
        }
    }

    /// What waits in the journal of one log, for readers that show it: without its lock, and nothing is made.
    pub fn unsigned_lines(&self, source: &SourceName, incarnation: &Incarnation) -> Vec<IndexLine> {
        journal_lines(&fs::read(self.log_dir(source, incarnation).join("journal.jsonl")).unwrap_or_default())
    }

    /// Where it is noted in which frames of the chain of `full` the chunks of `source`, a directory, are stored. Its directory
    /// is made.
    ///
    /// # Errors
    /// When that cannot be made.
    pub fn chunk_index(&self, source: &SourceName, full: &BackupId) -> Result<PathBuf> {
        let path = self.of_source(source).join("chunks").join(format!("{full}.redb"));
        prepare(&path).map_err(|error| Error::io("create the directory of", &path, error))?;
        Ok(path)
    }

    /// Forgets the [chunks](HostState::chunk_index) of all chains but that of `full`.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn forget_other_chunks(&self, source: &SourceName, full: &BackupId) -> Result<()> {
        let kept = self.chunk_index(source, full)?;
        let dir = self.of_source(source).join("chunks");
        let forget = || {
            for entry in fs::read_dir(&dir)? {
                let path = entry?.path();
                if path != kept {
                    fs::remove_file(path)?;
                }
            }
            Ok(())
        };
        forget().map_err(|error| Error::io("clear", &dir, error))
    }

    /// Makes sure that this host takes one backup of `source` at a time.
    ///
    /// # Errors
    /// Busy when another process takes one now.
    pub fn lock_backup(&self, source: &SourceName) -> Result<File> {
        let path = self.of_source(source).join("backup.lock");
        let open = || {
            prepare(&path)?;
            fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path)
        };
        let file = open().map_err(|error| {
            Error::io("open", &path, error).hint("set state_dir in lifeboat.toml to a directory this user may write")
        })?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(fs::TryLockError::WouldBlock) => {
                Err(Error::busy(format!("another process on this host is taking a backup of {source}"))
                    .hint("wait for it, or find it: fuser -v ".to_owned() + &path.display().to_string()))
            }
            Err(fs::TryLockError::Error(error)) => Err(Error::io("lock", &path, error)),
        }
    }

    /// A fresh directory for files that live as long as one run. What runs that were killed left is removed first.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn scratch(&self) -> Result<Scratch> {
        let parent = self.dir.join("scratch");
        let make = || {
            durable::create_dir_all(&parent)?;
            // Held while looking and making, so that a directory is never seen before its owner has locked it.
            let guard = File::open(&parent)?;
            guard.lock()?;
            sweep(&parent)?;
            let dir = tempfile::Builder::new().prefix(SCRATCH_PREFIX).tempdir_in(&parent)?;
            let lock = File::open(dir.path())?;
            lock.lock()?;
            Ok(Scratch { dir, _lock: lock })
        };
        make().map_err(|error| {
            Error::io("create a scratch directory in", &parent, error)
                .hint("set state_dir in lifeboat.toml to a directory this user may write")
        })
    }
}

/// Removes the scratch directories below `parent` that no living process holds.
fn sweep(parent: &Path) -> io::Result<()> {
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(SCRATCH_PREFIX) {
            continue;
        }
        // A run that ends just now removes its own.
        let Ok(left) = File::open(entry.path()) else { continue };
        if left.try_lock().is_ok() {
            match fs::remove_dir_all(entry.path()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

/// A directory of one run, removed when it ends; locked, so that the next run can tell it from one left by a killed run.
#[derive(Debug)]
pub struct Scratch {
    dir: tempfile::TempDir,
    _lock: File,
}

impl Scratch {
    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

fn journal_lines(text: &[u8]) -> Vec<IndexLine> {
    text.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
}

/// Digests of archived segments that wait to be signed, locked for this process.
pub struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// What waits. A last line that a crash cut short is left out: its segment is found by `verify --deep`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn lines(&self) -> Result<Vec<IndexLine>> {
        let text = fs::read(&self.path).map_err(|error| Error::io("read", &self.path, error))?;
        Ok(journal_lines(&text))
    }

    /// Adds one line. Not made durable, because PostgreSQL's archiver waits for it: after a power cut the segments of the
    /// lost lines are archived all the same, and verified by `verify --deep` alone.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn append(&mut self, line: &IndexLine) -> Result<()> {
        // After a crash the last line may be torn: it must not swallow this one.
        let torn =
            fs::read(&self.path).map_err(|error| Error::io("read", &self.path, error))?.last().is_some_and(|byte| *byte != b'\n');
        let mut text = if torn { vec![b'\n'] } else { Vec::new() };
        serde_json::to_writer(&mut text, line).expect("an index line is a plain struct");
        text.push(b'\n');
        self.file.write_all(&text).map_err(|error| Error::io("write", &self.path, error))
    }

    /// Forgets everything, after it was stored signed.
    ///
    /// # Errors
    /// When the file cannot be cut.
    pub fn clear(&mut self) -> Result<()> {
        self.file.set_len(0).and_then(|()| self.file.sync_data()).map_err(|error| Error::io("clear", &self.path, error))
    }
}

fn prepare(path: &Path) -> io::Result<()> {
    durable::create_dir_all(path.parent().unwrap_or(path))
}

/// `facts` as text whose first line is the digest of the second: damage shows.
pub(super) fn digested<T: Serialize>(facts: &T) -> String {
    let text = serde_json::to_string(facts).expect("facts are plain structs");
    format!("{}\n{text}\n", Sha256Digest::of(text.as_bytes()))
}

/// Undoes [`digested`]; none when it is damaged.
pub(super) fn parse_digested<T: DeserializeOwned>(text: &str) -> Option<T> {
    let (digest, facts) = text.strip_suffix('\n')?.split_once('\n')?;
    let sound = digest.parse() == Ok(Sha256Digest::of(facts.as_bytes()));
    sound.then(|| serde_json::from_str(facts).ok()).flatten()
}

pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| {
            Error::failed(format!("{} is damaged", path.display()))
                .caused_by(error)
                .hint(format!("rm {}   (it is made anew)", path.display()))
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", path, error)),
    }
}

pub(super) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let text = serde_json::to_vec(value).expect("state is plain structs");
    prepare(path).and_then(|()| durable::write_file(path, &text, 0o600)).map_err(|error| {
        Error::io("write", path, error).hint("set state_dir in lifeboat.toml to a directory this user may write")
    })
}
