//! Writing a tree back: below one directory, never through a link, each thing whole or told.
//!
//! Write order: the target is empty or absent ([`Existing::Refuse`]), or files are written under temporary names and take the
//! place of what is there by rename ([`Existing::Replace`]). A file: its length, data, owner, attributes, mode, times, then its
//! name. Directories are made with mode 0700 and get owner, attributes, mode and times last, the lowest first: a directory's
//! time changes with what is put into it, and one without write permission takes nothing more. The order of files and
//! directories among each other is the caller's, and any: what lies above a path is made when it is missing. A restore that
//! was killed leaves what it wrote; that it is not complete is for the caller to mark, outside the tree.
//!
//! Invariants:
//! - Every path is resolved below the target's open directory without following links, also those planted meanwhile.
//! - A file's list of pieces must have the id that its entry carries, each chunk the address that the list carries, and all
//!   of them must be written, or the file is refused: a chunk that is missing or another never becomes zeros in silence.
//! - Attributes that the target's file system or an inherited access control list added are taken away, owners are set
//!   before set-uid bits and capabilities (setting an owner clears those), and without owners set-uid bits are not set.
//! - What could not be set (owner, attribute, device), or was not kept, is named and counted ([`Shortfall`]); a full disk is an
//!   error.
//! - Two directories of a backup never become one: where the file system takes their names for one name, or somebody else
//!   makes one meanwhile, that is an error, unless things are replaced.
//! - Memory: directories wait on disk, in `scratch`; those made before their turn, for what lies in them, are known by name.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, linkat, mkdirat, mknodat, openat, renameat, symlinkat, unlinkat};
use rustix::io::Errno;

use super::beneath::{Root, open_directory, split};
use super::chunk::Piece;
use super::entry::{Entry, Kind, Mark, Node};
use super::file_writer::FileWriter;
use super::owners::OwnerMap;
use super::read::Hole;
use super::settle::{self, What};
use super::waiting::Waiting;
use crate::base::{Error, RelPath, Result};

/// What to do with what is in the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// The target must be empty or absent.
    Refuse,
    /// Restored things take the place of what is there; everything else stays.
    Replace,
}

/// How to restore.
#[derive(Clone, Debug)]
pub struct RestoreOptions {
    /// What to do with what is in the target.
    pub existing: Existing,
    /// Owners to set; none leaves everything to this user.
    pub owners: Option<OwnerMap>,
    /// Directory for the list of directories.
    pub scratch: PathBuf,
}

/// Something that is not as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortfall {
    /// Where; none for the target itself.
    pub path: Option<RelPath>,
    /// What is not as it was.
    pub what: What,
    /// Why, as an error number; 0 where it is by rule.
    pub errno: i32,
}

/// All that is not as it was: counted, the first few by name.
#[derive(Debug, Default)]
pub struct Shortfalls {
    /// How many.
    pub count: u64,
    /// Of these, how many are not there at all: files without content, what a directory held, devices.
    pub missing: u64,
    /// At most [`MOST_SHORTFALLS`].
    pub first: Vec<Shortfall>,
}

/// Shortfalls kept by name.
pub const MOST_SHORTFALLS: usize = 1000;

/// For a file that must not be there yet.
const NEW_FILE: OFlags = OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A restore under way. Threads may share it.
#[derive(Debug)]
pub struct Restorer {
    pub(super) root: Root,
    pub(super) options: RestoreOptions,
    /// Directories, and whether they are wanted themselves.
    directories: Mutex<Waiting>,
    /// Directories that were made for what lies in them, and whose turn may come.
    stand_ins: Mutex<BTreeSet<RelPath>>,
    shortfalls: Mutex<Shortfalls>,
    are_times_coarse: AtomicBool,
}

impl Restorer {
    /// Opens the target, and makes it when it is absent.
    ///
    /// # Errors
    /// When it is not empty and must be, or cannot be made.
    pub fn new(target: &Path, options: RestoreOptions) -> Result<Self> {
        fs::create_dir_all(target).map_err(|error| Error::io("create", target, error))?;
        let mut found = fs::read_dir(target).map_err(|error| Error::io("list", target, error))?;
        if options.existing == Existing::Refuse && found.next().is_some() {
            return Err(Error::failed(format!("{} is not empty", target.display()))
                .hint("restore into another directory, or move this one away first"));
        }
        let directories = Mutex::new(Waiting::new(&options.scratch)?);
        Ok(Self {
            root: Root::open(target)?,
            options,
            directories,
            stand_ins: Mutex::default(),
            shortfalls: Mutex::default(),
            are_times_coarse: AtomicBool::new(false),
        })
    }

    /// Makes a directory; what belongs to it follows in [`Restorer::finish`].
    ///
    /// # Errors
    /// When something else is in its place, or the disk fails.
    pub fn directory(&self, entry: &Entry) -> Result<()> {
        self.with_parent(&entry.path, |parent, name| {
            let mut stand_ins = self.stand_ins();
            let is_mine = make_directory(&parent, name)? || stand_ins.remove(&entry.path);
            if is_mine || self.options.existing == Existing::Replace { Ok(()) } else { Err(Errno::EXIST.into()) }
        })?;
        self.waiting().add(&(entry, true))
    }

    /// Takes note of a directory that is not wanted itself: should something wanted lie in it, it will look as it did.
    /// Where things are replaced, it stays as it is.
    ///
    /// # Errors
    /// When the scratch file fails.
    pub fn directory_on_the_way(&self, entry: &Entry) -> Result<()> {
        if self.options.existing == Existing::Replace { Ok(()) } else { self.waiting().add(&(entry, false)) }
    }

    /// Begins a file of `entry` with the content `pieces` and the short and long `holes`, all ascending.
    ///
    /// # Errors
    /// Damaged, when the pieces are not what the entry says, or the backup lacks them; or the disk's.
    pub fn file(&self, entry: &Entry, pieces: impl IntoIterator<Item = Piece>, holes: &[Hole]) -> Result<FileWriter> {
        let data_bytes = super::file_writer::check(entry, pieces)?;
        self.with_parent(&entry.path, |parent, name| {
            let temporary = (self.options.existing == Existing::Replace).then(temporary_name);
            let file = openat(&parent, temporary.as_deref().unwrap_or(name), NEW_FILE, Mode::RUSR | Mode::WUSR)?;
            rustix::fs::ftruncate(&file, entry.node.size_bytes)?;
            FileWriter::new(file, parent, temporary, entry.clone(), holes.to_vec(), data_bytes)
        })
    }

    /// Makes a file of `entry` that has its length and no data yet, and whose content is to be `pieces`, ascending. The caller
    /// writes each of them once, in any order, through [`Restorer::reopen`] and [`write_chunk`](super::file_writer::write_chunk),
    /// and then has it [settled](Restorer::settle): for restores in which the chunks of many files come in one order.
    ///
    /// # Errors
    /// As [`Restorer::file`].
    pub fn make_file(&self, entry: &Entry, pieces: impl IntoIterator<Item = Piece>) -> Result<()> {
        super::file_writer::check(entry, pieces)?;
        self.with_parent(&entry.path, |parent, name| {
            let file = openat(&parent, name, NEW_FILE, Mode::RUSR | Mode::WUSR)?;
            Ok(rustix::fs::ftruncate(&file, entry.node.size_bytes)?)
        })
    }

    /// Opens a file that [`Restorer::make_file`] made, for writing.
    ///
    /// # Errors
    /// When it is not there any more, or the disk's.
    pub fn reopen(&self, path: &RelPath) -> Result<OwnedFd> {
        let opened = self.root.parent(path).and_then(|(parent, name)| {
            Ok(openat(&parent, name, OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
        });
        opened.map_err(|error| self.failed(Some(path), error))
    }

    /// Sets what belongs to a file that [`Restorer::make_file`] made and whose content is complete.
    ///
    /// # Errors
    /// As [`Restorer::reopen`].
    pub fn settle(&self, entry: &Entry) -> Result<()> {
        let settled = settle::open(self.reopen(&entry.path)?, &entry.node, self.options.owners.as_ref());
        self.take_up(Some(&entry.path), settled)
    }

    /// Makes the file at `first`, which is complete, appear at `entry.path` as well. Where `first` could not be restored, a
    /// shortfall: this name is missing with it.
    ///
    /// # Errors
    /// The disk's.
    pub fn link(&self, entry: &Entry, first: &RelPath) -> Result<()> {
        let linked = self.root.parent(first).and_then(|(from, name)| {
            self.make_raw(entry, |parent, new_name| Ok(linkat(&from, name, parent, new_name, AtFlags::empty())?))
        });
        match linked {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.missing(entry);
                Ok(())
            }
            linked => linked.map_err(|error| self.failed(Some(&entry.path), error)),
        }
    }

    /// Makes a symbolic link, a pipe or a device, with all that belongs to it. A device that this user may not make is a
    /// shortfall.
    ///
    /// # Errors
    /// The disk's.
    pub fn other(&self, entry: &Entry) -> Result<()> {
        let made = self.make_raw(entry, |parent, name| make_other(&entry.node, parent, name));
        match made {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::PERM) && is_device(&entry.node) => {
                self.fall_short(Some(&entry.path), What::Device, &error);
                return Ok(());
            }
            outcome => outcome.map_err(|error| self.failed(Some(&entry.path), error))?,
        }
        let (parent, name) = self.root.parent(&entry.path).map_err(|error| self.failed(Some(&entry.path), error))?;
        let settled = settle::by_name(&parent, name, &entry.node, self.options.owners.as_ref());
        self.take_up(Some(&entry.path), settled)
    }

    /// Notes what a backup could not read, or a further name of what could not be made: it is not there after the restore.
    pub fn missing(&self, entry: &Entry) {
        let what = if is_device(&entry.node) { What::Device } else { What::Content };
        self.fall_short(Some(&entry.path), what, &Errno::NODATA.into());
    }

    /// Notes what the marks of `entry` say: it comes back with less than there was, or with content of no one moment. That it
    /// has no content is [noted](Restorer::missing) by itself.
    pub fn marked(&self, entry: &Entry) {
        for mark in &entry.marks {
            let (what, errno) = match mark {
                Mark::Unread(_) => continue,
                Mark::Unlisted(errno) => (What::Held, *errno),
                Mark::Bare(errno) => (What::Attributes, *errno),
                Mark::Unsteady => (What::Moment, 0),
            };
            self.fall_short(Some(&entry.path), what, &io::Error::from_raw_os_error(errno));
        }
    }

    /// Sets what belongs to the directories, the lowest first, and to the target itself when `top` says how it was; then
    /// has the file system write everything out. Tells what is not as it was.
    ///
    /// # Errors
    /// The disk's.
    pub fn finish(self, top: Option<&Node>) -> Result<Shortfalls> {
        let mut waiting = std::mem::replace(&mut *self.waiting(), Waiting::none());
        while let Some((entry, is_wanted)) = waiting.take_last::<(Entry, bool)>()? {
            // On the way to nothing that was wanted. What is found there all the same is another directory, for whose name
            // the file system takes this one.
            if !is_wanted && !self.stand_ins().contains(&entry.path) {
                continue;
            }
            let opened = self.root.parent(&entry.path).and_then(|(parent, name)| open_directory(&parent, name));
            let directory = opened.map_err(|error| self.failed(Some(&entry.path), error))?;
            let settled = settle::open(&directory, &entry.node, self.options.owners.as_ref());
            self.take_up(Some(&entry.path), settled)?;
        }
        if let Some(node) = top {
            let settled = settle::open(&self.root, node, self.options.owners.as_ref());
            self.take_up(None, settled)?;
        }
        rustix::fs::syncfs(&self.root).map_err(|error| Error::io("write out", self.root.location(), error.into()))?;
        Ok(self.shortfalls.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts what could not be set at `path`; a full or broken disk is an error.
    pub(super) fn take_up(&self, path: Option<&RelPath>, settled: Vec<(What, io::Error)>) -> Result<()> {
        for (what, error) in settled {
            match Errno::from_io_error(&error) {
                // File systems say so too of an attribute that is too long for them.
                Some(Errno::NOSPC | Errno::DQUOT) if what == What::Attributes => self.fall_short(path, what, &error),
                Some(Errno::NOSPC | Errno::DQUOT | Errno::IO | Errno::ROFS | Errno::STALE) => {
                    return Err(self.failed(path, error));
                }
                _ => self.fall_short(path, what, &error),
            }
        }
        Ok(())
    }

    fn fall_short(&self, path: Option<&RelPath>, what: What, error: &io::Error) {
        if what == What::Exactness && self.are_times_coarse.swap(true, Ordering::Relaxed) {
            return;
        }
        let mut shortfalls = self.shortfalls.lock().unwrap_or_else(PoisonError::into_inner);
        shortfalls.count += 1;
        shortfalls.missing += u64::from(matches!(what, What::Content | What::Held | What::Device));
        if shortfalls.first.len() < MOST_SHORTFALLS {
            let errno = error.raw_os_error().unwrap_or(0);
            shortfalls.first.push(Shortfall { path: path.cloned(), what, errno });
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.directories.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stand_ins(&self) -> MutexGuard<'_, BTreeSet<RelPath>> {
        self.stand_ins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn failed(&self, path: Option<&RelPath>, error: io::Error) -> Error {
        let is_in_the_way = matches!(
            Errno::from_io_error(&error),
            Some(Errno::LOOP | Errno::NOTDIR | Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST)
        );
        let location = path.map_or_else(|| self.root.location().to_owned(), |path| self.root.locate(path));
        let is_doubled = self.options.existing == Existing::Refuse && error.kind() == io::ErrorKind::AlreadyExists;
        let failed = Error::io("restore", &location, error);
        if is_doubled {
            // The directory was empty.
            failed
                .hint("two names of the backup are one there: restore onto a file system that tells upper from lower case")
                .hint("or somebody else writes there: restore into a directory of your own")
        } else if is_in_the_way {
            failed.hint("something else lies there: move it away, or restore into an empty directory")
        } else {
            failed
        }
    }

    /// Opens the directory of `path`, made if need be, and does `work` in it.
    fn with_parent<T>(&self, path: &RelPath, work: impl FnOnce(OwnedFd, &OsStr) -> io::Result<T>) -> Result<T> {
        let made = self.parent_made(path).and_then(|(parent, name)| work(parent, name));
        made.map_err(|error| self.failed(Some(path), error))
    }

    fn parent_made<'p>(&self, path: &'p RelPath) -> io::Result<(OwnedFd, &'p OsStr)> {
        match self.root.parent(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            outcome => return outcome,
        }
        let (above, name) = split(path);
        let mut at = self.root.directory(&[])?;
        let ends = above.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end).chain([above.len()]);
        for end in ends {
            let stand_in = RelPath::new(&above[..end]).map_err(io::Error::other)?;
            let (_, part) = split(&stand_in);
            // Nobody may meet it before it is known.
            let mut stand_ins = self.stand_ins();
            let is_new = make_directory(&at, part)?;
            at = open_directory(&at, part)?;
            if is_new && self.options.existing == Existing::Refuse {
                stand_ins.insert(stand_in);
            }
        }
        Ok((at, name))
    }

    /// Has `make` make something under its name, or under a temporary one that then takes the place of what is there.
    fn make_raw(&self, entry: &Entry, make: impl Fn(&OwnedFd, &OsStr) -> io::Result<()>) -> io::Result<()> {
        let (parent, name) = self.parent_made(&entry.path)?;
        if self.options.existing == Existing::Refuse {
            return make(&parent, name);
        }
        let temporary = temporary_name();
        make(&parent, &temporary)?;
        let renamed = renameat(&parent, &temporary, &parent, name);
        // Two names of one file are not renamed onto each other: the temporary one is left, and removed.
        match unlinkat(&parent, &temporary, AtFlags::empty()) {
            Err(Errno::NOENT) | Ok(()) => Ok(renamed?),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether it was not there yet.
fn make_directory(parent: &OwnedFd, name: &OsStr) -> io::Result<bool> {
    match mkdirat(parent, name, Mode::RWXU) {
        // A link in its place is refused.
        Err(Errno::EXIST) => open_directory(parent, name).map(|_| false),
        outcome => Ok(outcome.map(|()| true)?),
    }
}

fn make_other(node: &Node, parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    let (kind, device) = match &node.kind {
        Kind::Symlink { target } => return Ok(symlinkat(target.as_slice(), parent, name)?),
        Kind::Fifo => (FileType::Fifo, 0),
        Kind::CharacterDevice { major, minor } => (FileType::CharacterDevice, rustix::fs::makedev(*major, *minor)),
        Kind::BlockDevice { major, minor } => (FileType::BlockDevice, rustix::fs::makedev(*major, *minor)),
        Kind::Directory | Kind::File => return Err(Errno::INVAL.into()),
    };
    Ok(mknodat(parent, name, kind, Mode::RUSR | Mode::WUSR, device)?)
}

fn is_device(node: &Node) -> bool {
    matches!(node.kind, Kind::CharacterDevice { .. } | Kind::BlockDevice { .. })
}

/// A name that nothing in a backup has, short enough for every file system.
fn temporary_name() -> OsString {
    OsString::from(format!(".lifeboat-{:016x}.tmp", rand::random::<u64>()))
}
