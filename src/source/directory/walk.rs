//! The sorted walk: every entry of a tree in the order of [`RelPath`]s, each directory before what it holds.
//!
//! Invariants:
//! - Links are never followed; a directory is opened below its parent's open file and is then the one that is told of.
//! - Memory does not grow with the tree: of a directory [`BATCH`] names are looked at together and the rest wait sorted
//!   ([`super::names`]), at most [`FOLDERS_AHEAD`] directories are listed ahead, and of a deep tree only the
//!   [`FOLDERS_OPEN`] lowest directories stay open; one that was closed is opened again from the top and must be the same.
//! - What cannot be listed or looked at is told, each by its path and error number, and the walk goes on. Only what would
//!   make the whole walk a lie (no scratch space, no file descriptors, the top gone) ends it with an error.
//! - Threads look ahead: while one batch is handed out, the next one and the directories in it are read.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use super::beneath::{Root, open_directory};
use super::entry::{Entry, Identity, Kind, Left, Look, Mark, Node, Reason, look, look_open, read_link};
use super::exclude::Excludes;
use super::names::{self, Names};
use super::pool::{Pending, Pool};
use crate::base::{Error, RelPath, Result};

/// Names of one directory that are looked at together.
const BATCH: usize = 256;
/// Directories listed before their turn, in the whole walk and in one batch.
const FOLDERS_AHEAD: usize = 64;
const FOLDERS_AHEAD_IN_BATCH: usize = 8;
/// Levels whose directory stays open, counted from the lowest.
const FOLDERS_OPEN: usize = 64;

/// How to walk.
#[derive(Clone, Debug)]
pub struct WalkOptions {
    /// What to leave out.
    pub excludes: Excludes,
    /// Whether directories on other devices are stored without what they hold.
    pub one_file_system: bool,
    /// Threads that look ahead.
    pub threads: usize,
    /// Directory for names that do not fit into memory.
    pub scratch: PathBuf,
}

/// One step of a walk.
#[derive(Debug)]
pub enum Step {
    /// Something to store.
    Found(Box<Found>),
    /// Something that is not.
    Left(Left),
}

/// An entry, as the walk saw it: without attributes and content.
#[derive(Debug)]
pub struct Found {
    /// What it is.
    pub entry: Entry,
    /// The directory that holds it.
    pub parent: Parent,
    /// Of a directory that was listed: the file that its names came from.
    pub opened: Option<Arc<OwnedFd>>,
    /// A directory of another file system, which is stored empty.
    pub is_other_file_system: bool,
}

/// A directory that the walk has open: it stays the one that was listed, whatever it is called by now.
#[derive(Clone, Debug)]
pub struct Parent {
    /// The open directory.
    pub fd: Arc<OwnedFd>,
    /// What tells it from another one in its place.
    pub identity: Identity,
}

/// The walk: an iterator of steps. After an error it is over.
#[derive(Debug)]
pub struct Walk {
    root: Arc<Root>,
    root_node: Node,
    options: Arc<WalkOptions>,
    pool: Pool,
    levels: Vec<Level>,
    /// Path of the lowest level, to which names are appended.
    path: Vec<u8>,
    folders_ahead: usize,
    /// A directory that is not the one that was looked at: that may be where the walk has been already. Told after it.
    replaced: Option<RelPath>,
}

/// One directory being handed out.
#[derive(Debug)]
struct Level {
    /// None when it was closed because the tree is deep.
    folder: Option<Arc<OwnedFd>>,
    identity: Identity,
    path_len: usize,
    batch: VecDeque<Seen>,
    coming: Option<Pending<Result<Filled>>>,
}

/// A name that was looked at.
#[derive(Debug)]
struct Seen {
    name: OsString,
    looked: io::Result<Look>,
    is_excluded: bool,
    ahead: Option<Pending<Result<io::Result<Folder>>>>,
}

/// Names looked at, and those that wait.
#[derive(Debug)]
struct Filled {
    seen: Vec<(OsString, io::Result<Look>)>,
    rest: Option<Names>,
}

/// A directory that was opened and listed.
#[derive(Debug)]
struct Folder {
    fd: Arc<OwnedFd>,
    node: Node,
    filled: Filled,
    early_end: Option<Errno>,
}

impl Walk {
    /// Starts a walk over `root`.
    ///
    /// # Errors
    /// When it cannot be listed.
    pub fn new(root: Arc<Root>, options: WalkOptions) -> Result<Self> {
        let failed = |error: io::Error| Error::io("list", root.location(), error);
        let fd = root.directory(&[]).map_err(failed)?;
        let folder = Folder::read(Arc::new(fd), &options.scratch)?.map_err(failed)?;
        if let Some(error) = folder.early_end {
            return Err(failed(error.into()).hint("run lifeboat as a user who may read it, for example: sudo lifeboat …"));
        }
        let pool = Pool::new(options.threads)?;
        let root_node = folder.node.clone();
        let (levels, path) = (Vec::new(), Vec::new());
        let replaced = None;
        let mut walk = Self { root, root_node, options: Arc::new(options), pool, levels, path, folders_ahead: 0, replaced };
        walk.enter(folder)?;
        Ok(walk)
    }

    /// What the file system says of the protected directory itself; without attributes.
    pub fn root_node(&self) -> &Node {
        &self.root_node
    }

    /// Makes `folder`, whose path is `self.path`, the lowest level.
    fn enter(&mut self, folder: Folder) -> Result<()> {
        let identity = folder.node.identity();
        let path_len = self.path.len();
        let folder_fd = Some(folder.fd);
        self.levels.push(Level { folder: folder_fd, identity, path_len, batch: VecDeque::new(), coming: None });
        if let Some(level) = self.levels.len().checked_sub(FOLDERS_OPEN + 1) {
            self.levels[level].folder = None;
        }
        self.accept(folder.filled)
    }

    /// Takes a batch for the lowest level, and begins the next one.
    fn accept(&mut self, filled: Filled) -> Result<()> {
        let Self { levels, path, options, pool, .. } = self;
        let Some(level) = levels.last_mut() else { return Ok(()) };
        if let Some(rest) = filled.rest {
            let closed = || Error::failed("a directory was closed while names in it were waiting");
            let folder = level.folder.clone().ok_or_else(closed)?;
            level.coming = Some(pool.begin(move || Filled::next(&folder, rest)));
        }
        path.truncate(level.path_len);
        for (name, looked) in filled.seen {
            push(path, &name);
            let is_excluded = is_excluded(&options.excludes, path, &looked);
            path.truncate(level.path_len);
            level.batch.push_back(Seen { name, looked, is_excluded, ahead: None });
        }
        self.look_ahead();
        Ok(())
    }

    /// Begins to list the next few directories of the lowest level.
    fn look_ahead(&mut self) {
        let device = self.root_node.device;
        let Some(level) = self.levels.last_mut() else { return };
        let Some(folder) = &level.folder else { return };
        let may_enter = |seen: &&mut Seen| {
            matches!(&seen.looked, Ok(Look::Node(node)) if node.kind == Kind::Directory
            && !seen.is_excluded && !(self.options.one_file_system && node.device != device))
        };
        for seen in level.batch.iter_mut().take(BATCH).filter(may_enter).take(FOLDERS_AHEAD_IN_BATCH) {
            if seen.ahead.is_some() {
                continue;
            }
            if self.folders_ahead >= FOLDERS_AHEAD {
                return;
            }
            self.folders_ahead += 1;
            seen.ahead = Some(begin_folder(&self.pool, folder, &seen.name, &self.options));
        }
    }

    /// Opens the lowest level's directory again when it was closed; false when it is not there any more.
    fn reopen(&mut self) -> Result<bool> {
        let Some(level) = self.levels.last_mut() else { return Ok(false) };
        if level.folder.is_some() {
            return Ok(true);
        }
        let opened = self.root.directory(&self.path[..level.path_len]).and_then(|fd| Ok((look_open(&fd)?, fd)));
        match opened {
            Ok((node, fd)) if node.identity().agrees(&level.identity) => level.folder = Some(Arc::new(fd)),
            Err(error) if is_ours(&error) => return Err(Error::io("open again a directory of", self.root.location(), error)),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The next step, none when the walk is over.
    fn advance(&mut self) -> Result<Option<Step>> {
        if let Some(path) = self.replaced.take() {
            return Ok(Some(Step::Left(Left { path, why: Reason::Replaced })));
        }
        loop {
            let Some(level) = self.levels.last_mut() else { return Ok(None) };
            self.path.truncate(level.path_len);
            let is_done = level.batch.is_empty() && level.coming.is_none();
            if is_done {
                self.levels.pop();
                continue;
            }
            if !self.reopen()? {
                let lost = self.levels.pop();
                self.folders_ahead -= lost.map_or(0, |level| level.batch.iter().filter(|seen| seen.ahead.is_some()).count());
                return Ok(Some(Step::Left(Left { path: rel_path(&self.path)?, why: Reason::Replaced })));
            }
            let Some(level) = self.levels.last_mut() else { return Ok(None) };
            if let Some(seen) = level.batch.pop_front() {
                let Some(fd) = level.folder.clone() else { continue };
                let parent = Parent { fd, identity: level.identity };
                return self.visit(seen, parent).map(Some);
            }
            if let Some(coming) = level.coming.take() {
                let filled = coming.wait()??;
                self.accept(filled)?;
            }
        }
    }

    fn visit(&mut self, seen: Seen, parent: Parent) -> Result<Step> {
        push(&mut self.path, &seen.name);
        let path = rel_path(&self.path)?;
        let left = |why| Ok(Step::Left(Left { path: path.clone(), why }));
        if seen.is_excluded {
            return left(Reason::Excluded);
        }
        let node = match seen.looked {
            Ok(Look::Node(node)) => *node,
            Ok(Look::Socket) => return left(Reason::Socket),
            Err(error) => return left(reason_unseen(&error)),
        };
        if node.kind != Kind::Directory {
            return Ok(found(Entry::new(path, node), parent));
        }
        self.visit_directory(path, seen.name, node, seen.ahead, parent)
    }

    fn visit_directory(
        &mut self,
        path: RelPath,
        name: OsString,
        node: Node,
        ahead: Option<Pending<Result<io::Result<Folder>>>>,
        parent: Parent,
    ) -> Result<Step> {
        if self.is_elsewhere(&node) {
            let entry = Entry::new(path, node);
            return Ok(Step::Found(Box::new(Found { entry, parent, opened: None, is_other_file_system: true })));
        }
        let was_ahead = ahead.is_some();
        let pending = ahead.unwrap_or_else(|| begin_folder(&self.pool, &parent.fd, &name, &self.options));
        let opened = pending.wait()?;
        self.folders_ahead -= usize::from(was_ahead);
        // The list of directories to read ahead moves on.
        self.look_ahead();
        let folder = match opened? {
            Ok(folder) => folder,
            Err(error) if is_ours(&error) => return Err(Error::io("list", &self.root.locate(&path), error)),
            Err(error) => return Ok(unlisted(path, node, &error, parent)),
        };
        let identity = folder.node.identity();
        // Another device may have been mounted by the opening itself.
        let is_replaced = folder.node.device == node.device && !identity.agrees(&node.identity());
        self.replaced = is_replaced.then(|| path.clone());
        let mut entry = Entry::new(path, folder.node.clone());
        let opened = Some(Arc::clone(&folder.fd));
        if self.is_elsewhere(&entry.node) {
            return Ok(Step::Found(Box::new(Found { entry, parent, opened, is_other_file_system: true })));
        }
        if self.levels.iter().any(|level| level.identity.agrees(&identity)) {
            return Ok(Step::Left(Left { path: entry.path, why: Reason::Loop }));
        }
        entry.marks.extend(folder.early_end.map(|error| Mark::Unlisted(error.raw_os_error())));
        self.enter(folder)?;
        Ok(Step::Found(Box::new(Found { entry, parent, opened, is_other_file_system: false })))
    }
}

impl Walk {
    /// Whether a directory is not entered, being of another file system.
    fn is_elsewhere(&self, node: &Node) -> bool {
        self.options.one_file_system && node.device != self.root_node.device
    }
}

impl Iterator for Walk {
    type Item = Result<Step>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.advance().transpose();
        if matches!(step, Some(Err(_))) {
            self.levels.clear();
        }
        step
    }
}

impl Filled {
    /// Looks at the next names of `folder`.
    fn next(folder: &OwnedFd, mut rest: Names) -> Result<Self> {
        let mut seen = Vec::new();
        while seen.len() < BATCH {
            let Some(name) = rest.take_next()? else { return Ok(Self { seen, rest: None }) };
            let looked = look_whole(folder, &name);
            seen.push((name, looked));
        }
        Ok(Self { seen, rest: Some(rest) })
    }
}

impl Folder {
    /// Lists the open directory `fd` and looks at the first names.
    fn read(fd: Arc<OwnedFd>, scratch: &Path) -> Result<io::Result<Self>> {
        let node = match look_open(&fd) {
            Ok(node) => node,
            Err(error) => return Ok(Err(error)),
        };
        let (names, early_end) = names::list(&fd, scratch)?;
        let filled = Filled::next(&fd, names)?;
        Ok(Ok(Self { fd, node, filled, early_end }))
    }
}

fn begin_folder(
    pool: &Pool,
    parent: &Arc<OwnedFd>,
    name: &OsStr,
    options: &Arc<WalkOptions>,
) -> Pending<Result<io::Result<Folder>>> {
    let (parent, name, options) = (Arc::clone(parent), name.to_owned(), Arc::clone(options));
    pool.begin(move || match open_directory(&parent, &name) {
        Ok(fd) => Folder::read(Arc::new(fd), &options.scratch),
        Err(error) => Ok(Err(error)),
    })
}

/// Looks at `name`; of a link also where it leads.
fn look_whole(folder: &OwnedFd, name: &OsStr) -> io::Result<Look> {
    let mut looked = look(folder, name)?;
    if let Look::Node(node) = &mut looked
        && let Kind::Symlink { target } = &mut node.kind
    {
        *target = read_link(folder, Path::new(name))?;
    }
    Ok(looked)
}

/// Whether the rules leave it out; what could not be looked at is left out when either kind of it would be.
fn is_excluded(excludes: &Excludes, path: &[u8], looked: &io::Result<Look>) -> bool {
    let path = Path::new(OsStr::from_bytes(path));
    match looked {
        Ok(Look::Node(node)) => excludes.leave_out(path, node.kind == Kind::Directory),
        Ok(Look::Socket) => excludes.leave_out(path, false),
        Err(_) => excludes.leave_out(path, false) || excludes.leave_out(path, true),
    }
}

/// Something that was not opened.
fn found(entry: Entry, parent: Parent) -> Step {
    Step::Found(Box::new(Found { entry, parent, opened: None, is_other_file_system: false }))
}

/// A directory that could be looked at and not be listed.
fn unlisted(path: RelPath, node: Node, error: &io::Error, parent: Parent) -> Step {
    match Errno::from_io_error(error) {
        Some(Errno::NOENT) => Step::Left(Left { path, why: Reason::Moved }),
        Some(Errno::LOOP | Errno::NOTDIR | Errno::STALE) => Step::Left(Left { path, why: Reason::Replaced }),
        other => {
            let mut entry = Entry::new(path, node);
            entry.marks.push(Mark::Unlisted(other.map_or(0, Errno::raw_os_error)));
            found(entry, parent)
        }
    }
}

fn reason_unseen(error: &io::Error) -> Reason {
    match Errno::from_io_error(error) {
        Some(Errno::NOENT) => Reason::Vanished,
        // A link that became something else between the look and the reading of its target.
        Some(Errno::INVAL) => Reason::Replaced,
        other => Reason::Unseen(other.map_or(0, Errno::raw_os_error)),
    }
}

/// Errors that are not about the object: nothing that follows would be told right.
fn is_ours(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM))
}

fn push(path: &mut Vec<u8>, name: &OsStr) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name.as_bytes());
}

fn rel_path(bytes: &[u8]) -> Result<RelPath> {
    RelPath::new(bytes).map_err(Error::failed)
}
