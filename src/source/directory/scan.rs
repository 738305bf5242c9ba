//! The walk beside the base backup: what to do with each thing found.
//!
//! Walk and base are both in the order of paths and are joined as streams. No file's content is read here; the order of
//! tasks is that of paths, and carrying them out may be spread over threads as long as each reading is told to
//! [`Scan::settle`] and a [`Task::Link`] is believed only after its first name was read: when that came to nothing, or
//! found another file in its place, this name must be read instead. A file of which one name goes away is not lost with it.

use std::ffi::OsStr;
use std::io;
use std::iter::Peekable;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::attributes;
use super::beneath::{Root, split};
use super::compare::Trust;
use super::entry::{Entry, Identity, Kind, Left, Mark, Node, Reason, look};
use super::links::Links;
use super::read::Reading;
use super::walk::{Found, Parent, Step, Walk, WalkOptions};
use crate::base::{Error, RelPath, Result};

/// Entries of a base backup, in the order of paths.
pub type BaseEntries<'b> = Box<dyn Iterator<Item = Result<Entry>> + Send + 'b>;

/// What to do with one thing.
#[derive(Debug)]
pub enum Task {
    /// Unchanged, and no further name of another: the base's entry is this backup's.
    Keep(Entry),
    /// A file whose content and attributes must be read ([`super::read`]), and the directory it lies in.
    Read(Entry, Parent),
    /// One more name of the file at `first_link`; complete unless that one comes to nothing. It does not hold its directory
    /// open, only what tells that from another: many may wait.
    Link(Entry, Identity),
    /// Everything else: complete, attributes included.
    Store(Entry),
    /// Nothing to store, and why.
    Left(Left),
}

/// What a scan met so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Tasks of each kind.
    pub kept: u64,
    /// Files to read; those that were gone then are taken off ([`Scan::settle`]).
    pub read: u64,
    /// Further names of files.
    pub linked: u64,
    /// Directories, links, devices and pipes.
    pub stored: u64,
    /// What has no entry.
    pub left: u64,
    /// Entries of the base that are not in the tree any more, or were left out.
    pub gone: u64,
    /// Directories of other file systems, stored empty.
    pub other_file_systems: u64,
    /// Sum of all files' lengths in bytes, each counted once.
    pub file_bytes: u64,
}

/// A running scan: an iterator of tasks. After an error it is over.
pub struct Scan<'b> {
    walk: Walk,
    root_node: Node,
    base: Option<Base<'b>>,
    links: Links,
    tally: Tally,
    /// Of the directories on the way to what is found, the root first.
    devices: Vec<Devices>,
    /// To be told after the directory itself.
    unmounted: Option<RelPath>,
}

/// On which device a directory lies. Numbers change when a host starts anew, so only those of one backup are compared.
#[derive(Clone, Copy)]
struct Devices {
    now: u64,
    /// In the base; none where that has no such directory.
    then: Option<u64>,
}

struct Base<'b> {
    entries: Peekable<BaseEntries<'b>>,
    last: Option<RelPath>,
    trust: Trust,
}

impl<'b> Scan<'b> {
    /// A scan of `root`, beside a base when there is one.
    ///
    /// # Errors
    /// When the top cannot be listed.
    pub fn new(root: Arc<Root>, options: WalkOptions, base: Option<(BaseEntries<'b>, Trust)>) -> Result<Self> {
        let links = Links::new(&options.scratch);
        let attributes =
            attributes::of_open(&*root).map_err(|error| Error::io("read the extended attributes of", root.location(), error))?;
        let walk = Walk::new(root, options)?;
        let root_node = Node { attributes, ..walk.root_node().clone() };
        let base = base.map(|(entries, trust)| Base { entries: entries.peekable(), last: None, trust });
        let then = base.as_ref().and_then(|base| base.trust.root_device);
        let devices = vec![Devices { now: root_node.device, then }];
        Ok(Self { walk, root_node, base, links, tally: Tally::default(), devices, unmounted: None })
    }

    /// The protected directory itself, which no entry stands for.
    pub fn root_node(&self) -> &Node {
        &self.root_node
    }

    /// What was met so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Takes note of what came of reading `walked`, an entry of [`Task::Read`]; false when names of it that were handed out
    /// as links must be read instead: it came to nothing, or another file lies there now.
    ///
    /// # Errors
    /// When the scratch file fails.
    pub fn settle(&mut self, walked: &Entry, reading: &Reading) -> Result<bool> {
        if matches!(reading, Reading::Left(_)) {
            self.tally.read -= 1;
            self.tally.left += 1;
        }
        let is_whole = matches!(reading, Reading::Read(read) if is_same_file(&walked.node, &read.node));
        if !is_whole && walked.node.links > 1 {
            self.links.forget(&walked.node)?;
        }
        Ok(is_whole)
    }

    /// Takes note that `entry`, handed out as a link to a name that came to nothing, is read itself: names of the same file
    /// that are found from here on are links to it.
    ///
    /// # Errors
    /// When the scratch file fails.
    pub fn promote(&mut self, entry: &Entry) -> Result<()> {
        self.tally.linked -= 1;
        self.tally.read += 1;
        self.links.first(&entry.path, &entry.node).map(drop)
    }

    fn task(&mut self, step: Step) -> Result<Task> {
        let found = match step {
            Step::Found(found) => found,
            Step::Left(left) => {
                self.tally.left += 1;
                return Ok(Task::Left(left));
            }
        };
        let Found { mut entry, parent, opened, is_other_file_system } = *found;
        self.tally.other_file_systems += u64::from(is_other_file_system);
        entry.first_link = self.links.first(&entry.path, &entry.node)?;
        if entry.first_link.is_none() {
            self.tally.file_bytes += entry.node.size_bytes;
        }
        let (base, gone) = self.base.as_mut().map_or(Ok((None, 0)), |base| base.at(&entry.path))?;
        self.tally.gone += gone;
        if entry.node.kind == Kind::Directory && self.was_mount_point(&entry, base.as_ref()) {
            self.unmounted = Some(entry.path.clone());
        }
        // A further name is never kept: it must not hold when its first name, which is read again, comes to nothing.
        if let (Some(base), Some(then)) = (&self.base, base)
            && entry.first_link.is_none()
            && base.trust.is_unchanged(&entry, &then)
        {
            self.tally.kept += 1;
            return Ok(Task::Keep(then));
        }
        if entry.first_link.is_some() {
            self.tally.linked += 1;
            return Ok(Task::Link(entry, parent.identity));
        }
        if entry.node.kind == Kind::File {
            self.tally.read += 1;
            return Ok(Task::Read(entry, parent));
        }
        let (_, name) = split(&entry.path);
        // Of a directory that was opened they are those of the one whose names are told.
        let attributes = opened.map_or_else(|| attributes::of_name(&parent.fd, name), attributes::of_open);
        match attributes {
            Ok(attributes) => entry.node.attributes = attributes,
            Err(_) if entry.node.kind != Kind::Directory && is_gone(&parent.fd, name) => {
                self.tally.left += 1;
                if entry.node.links > 1 {
                    self.links.forget(&entry.node)?;
                }
                return Ok(Task::Left(Left { path: entry.path, why: Reason::Vanished }));
            }
            Err(error) => entry.marks.push(Mark::Bare(error.raw_os_error().unwrap_or(0))),
        }
        self.tally.stored += 1;
        Ok(Task::Store(entry))
    }
}

impl Scan<'_> {
    /// Whether another file system was mounted on the directory, with something in it, and now none is.
    fn was_mount_point(&mut self, entry: &Entry, then: Option<&Entry>) -> bool {
        let then = then.filter(|then| then.node.kind == Kind::Directory);
        let devices = Devices { now: entry.node.device, then: then.map(|then| then.node.device) };
        self.devices.truncate(entry.path.as_bytes().split(|byte| *byte == b'/').count());
        let parent = self.devices.last().copied();
        self.devices.push(devices);
        let (Some(parent), Some(base)) = (parent, self.base.as_mut()) else { return false };
        let was_mounted = devices.then.zip(parent.then).is_some_and(|(own, parent)| own != parent);
        was_mounted && devices.now == parent.now && base.goes_on_below(&entry.path)
    }
}

impl Iterator for Scan<'_> {
    type Item = Result<Task>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(path) = self.unmounted.take() {
            self.tally.left += 1;
            return Some(Ok(Task::Left(Left { path, why: Reason::Unmounted })));
        }
        if let Some(step) = self.walk.next() {
            return Some(step.and_then(|step| self.task(step)));
        }
        // Whatever the base still has lies behind the last path of the tree.
        let mut base = self.base.take()?;
        loop {
            match base.take() {
                Ok(Some(_)) => self.tally.gone += 1,
                Ok(None) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl Base<'_> {
    /// The base's entry at `path`, and how many it has before that are not in the tree.
    fn at(&mut self, path: &RelPath) -> Result<(Option<Entry>, u64)> {
        let mut gone = 0;
        while self.entries.peek().is_some_and(|entry| entry.as_ref().map_or(true, |entry| entry.path <= *path)) {
            match self.take()? {
                Some(entry) if entry.path == *path => return Ok((Some(entry), gone)),
                _ => gone += 1,
            }
        }
        Ok((None, gone))
    }

    /// Whether the next entry lies below the directory `path`, which was the one before.
    fn goes_on_below(&mut self, path: &RelPath) -> bool {
        let next = self.entries.peek().and_then(|entry| entry.as_ref().ok());
        next.is_some_and(|next| next.path.as_bytes().strip_prefix(path.as_bytes()).is_some_and(|rest| rest.starts_with(b"/")))
    }

    /// The next entry, which must come after the one before.
    fn take(&mut self) -> Result<Option<Entry>> {
        let Some(entry) = self.entries.next().transpose()? else { return Ok(None) };
        if self.last.as_ref().is_some_and(|last| *last >= entry.path) {
            return Err(Error::damaged(format!("the base's list of files is out of order at {}", entry.path)));
        }
        self.last = Some(entry.path.clone());
        Ok(Some(entry))
    }
}

/// Whether what was read is what the walk saw. Where no birth proves it, it must have further names still: a new file that took
/// the number of one that is gone has none.
fn is_same_file(walked: &Node, read: &Node) -> bool {
    let (walked, now) = (walked.identity(), read.identity());
    now.is_proven_by(&walked) || (now.agrees(&walked) && read.links > 1)
}

/// Whether nothing of that name is there any more.
fn is_gone(parent: impl AsFd, name: &OsStr) -> bool {
    look(parent, name).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}
