//! A file's content, read whole and of one moment, or marked.
//!
//! Invariants:
//! - The file is opened in the directory that the walk listed, whatever that is called by now, without following links; by its
//!   path only where that directory is not open any more, and then another directory there is not taken for it ([`Within`]).
//!   What became something else is not read.
//! - Size, mtime and ctime before and after the reading must agree, and it must end where its size says. When that is not so,
//!   it is read again, [`ATTEMPTS`] times in all; the last reading then stands, marked [`Mark::Unsteady`]. What a reading gave
//!   before it is repeated is void ([`Sink::restart`]).
//! - Times move in ticks of the kernel's clock: two writes within one tick look like one. So a file that changed within the
//!   last [`TICK_NANOS`] is left to rest that long before it is read, and one that does not rest is unsteady. (A file system
//!   whose times are coarser, FAT or a remote one, can hide a write within its own granule; the next backup reads such a file
//!   again.)
//! - Holes are not read, but for a file that changed within [`FRESH_NANOS`]: file systems have told holes where data was not
//!   yet written out, so there a hole counts only when it reads as zeros.
//! - What cannot be read gets [`Mark::Unread`] with the error number, and has no content: never a part of it.
//! - Memory: one buffer, whatever the file's length.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, SeekFrom, openat, seek};
use rustix::io::{Errno, pread};

use super::attributes;
use super::beneath::{Root, split};
use super::chunk::{Address, ContentId, MAX_BYTES, Piece, first_len};
use super::entry::{Entry, FileTime, Identity, Kind, Left, Mark, Node, Reason, look_open};
use crate::base::{Error, Result};

/// Readings of a file that keeps changing.
pub const ATTEMPTS: u32 = 3;
/// Longer than the kernel's clock for file times stands still: 10 ms at 100 Hz.
pub const TICK_NANOS: i128 = 20_000_000;
/// For how long after a change a hole is looked into: longer than file systems keep data before they write it out.
pub const FRESH_NANOS: i128 = 60_000_000_000;
/// A hole at least this long ends a chunk; shorter ones are zeros in it, so that a file of many holes has few chunks.
pub const LONG_HOLE_BYTES: u64 = 64 << 10;
/// Holes told of one file; those beyond are restored as zeros, or as holes when they are long.
pub const MOST_HOLES: u32 = 65_536;
/// Read at once, after what is left of the chunk before.
const READ_BYTES: usize = 1 << 20;

/// Whoever takes what is read.
pub trait Sink {
    /// Forget all that came of this file: it is read again from its beginning.
    ///
    /// # Errors
    /// Whatever ends the backup.
    fn restart(&mut self) -> Result<()>;

    /// The next chunk of data, in the order of offsets. What lies between two chunks is a hole.
    ///
    /// # Errors
    /// Whatever ends the backup.
    fn chunk(&mut self, chunk: Chunk<'_>) -> Result<()>;

    /// A hole of the file, in the order of offsets; short ones lie within a chunk, as zeros.
    ///
    /// # Errors
    /// Whatever ends the backup.
    fn hole(&mut self, hole: Hole) -> Result<()>;
}

/// A piece of a file's data.
#[derive(Debug)]
pub struct Chunk<'a> {
    /// Where it begins in the file, in bytes.
    pub offset: u64,
    /// SHA-256 of `bytes`.
    pub address: Address,
    /// At most [`MAX_BYTES`].
    pub bytes: &'a [u8],
}

impl Chunk<'_> {
    /// Where it belongs, without its bytes.
    pub fn piece(&self) -> Piece {
        Piece { offset: self.offset, len_bytes: self.bytes.len() as u32, address: self.address }
    }
}

/// A stretch of a file that no block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Hole {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub len_bytes: u64,
}

/// What came of reading a file.
#[derive(Debug)]
pub enum Reading {
    /// It was read, perhaps with a mark; the entry is of the last reading's moment and has attributes and content.
    Read(Entry),
    /// It could not be read: the entry says why, and has no content.
    Unread(Entry),
    /// It is not there any more, or not a file any more.
    Left(Left),
}

/// The directory in which a file is looked for.
#[derive(Clone, Debug)]
pub enum Within {
    /// The one that the walk has open.
    Open(Arc<OwnedFd>),
    /// The one at the file's path, if it is still this one.
    Path(Identity),
}

/// Reads files one after the other with one buffer.
pub struct Reader {
    buffer: Vec<u8>,
}

/// What one reading found.
struct Content {
    id: Address,
    /// Where the file ended, or where it should have.
    size_bytes: u64,
    /// Whether it went on there.
    goes_on: bool,
}

/// Why a reading ended early.
enum Stop {
    /// The file or its file system.
    File(io::Error),
    /// The backup itself.
    Ours(Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::File(error)
    }
}

impl From<Errno> for Stop {
    fn from(error: Errno) -> Self {
        Self::File(error.into())
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Ours(error)
    }
}

impl Default for Reader {
    fn default() -> Self {
        Self::new()
    }
}

impl Reader {
    /// A reader with its buffer.
    pub fn new() -> Self {
        Self { buffer: vec![0; MAX_BYTES + READ_BYTES] }
    }

    /// Reads the file at `entry.path`, which lies in the directory `within`, into `sink`.
    ///
    /// # Errors
    /// The sink's, and a lack of file descriptors or memory; everything that is the file's own fault is in the [`Reading`].
    pub fn read(&mut self, root: &Root, within: &Within, entry: Entry, sink: &mut dyn Sink) -> Result<Reading> {
        let parent = match folder(root, within, &entry) {
            Ok(Some(parent)) => parent,
            Ok(None) => return Ok(Reading::Left(Left { path: entry.path, why: Reason::Moved })),
            Err(error) => return came_to_nothing((root, None), entry, error),
        };
        let place = (root, Some(parent.as_ref()));
        let file = match open(&parent, &entry) {
            Ok(file) => file,
            Err(error) => return came_to_nothing(place, entry, error),
        };
        let (mut before, mut did_rest) = match steady_look(&file) {
            Ok((node, did_rest)) if node.kind == Kind::File => (node, did_rest),
            Ok(_) => return Ok(Reading::Left(Left { path: entry.path, why: Reason::Replaced })),
            Err(error) => return came_to_nothing(place, entry, error),
        };
        for attempt in 1.. {
            let content = match self.content(&file, &before, sink) {
                Ok(content) => content,
                Err(Stop::Ours(error)) => return Err(error),
                Err(Stop::File(error)) => {
                    sink.restart()?;
                    return came_to_nothing(place, entry, error);
                }
            };
            let after = match look_open(&file) {
                Ok(node) => node,
                Err(error) => return came_to_nothing(place, entry, error),
            };
            let is_all = content.size_bytes == before.size_bytes && !content.goes_on;
            let is_steady = did_rest && is_all && is_same_moment(&before, &after);
            if is_steady || attempt == ATTEMPTS {
                // What was read of a growing file has the length that it had when the reading began.
                let node = Node { size_bytes: content.size_bytes, ..after };
                let mut entry = complete(entry, node, content.id, &file);
                if !is_steady {
                    entry.marks.push(Mark::Unsteady);
                }
                return Ok(Reading::Read(entry));
            }
            sink.restart()?;
            (before, did_rest) = match steady_look(&file) {
                Ok(looked) => looked,
                Err(error) => return came_to_nothing(place, entry, error),
            };
        }
        unreachable!("the last attempt returns")
    }

    /// Gives chunks and holes to `sink`.
    fn content(&mut self, file: &OwnedFd, node: &Node, sink: &mut dyn Sink) -> Result<Content, Stop> {
        let size = node.size_bytes;
        let trusts_holes = FileTime::now().nanos_since(node.changed) >= FRESH_NANOS;
        let mut id = ContentId::new();
        let (mut at, mut run_start, mut holes) = (0, 0, 0);
        while at < size {
            let data = match seek(file, SeekFrom::Data(at)) {
                Ok(data) => data.min(size),
                Err(Errno::NXIO) => size,
                // A file system that knows no holes.
                Err(Errno::INVAL | Errno::NOTSUP) => at,
                Err(error) => return Err(error.into()),
            };
            if data > at && (trusts_holes || self.is_zero(file, at, data)?) {
                let hole = Hole { offset: at, len_bytes: data - at };
                if hole.len_bytes >= LONG_HOLE_BYTES {
                    let end = self.run(file, run_start, at, &mut id, sink)?;
                    if end < at {
                        return Ok(Content { id: id.finish(end), size_bytes: end, goes_on: false });
                    }
                    run_start = data;
                }
                holes += 1;
                if holes <= MOST_HOLES {
                    sink.hole(hole)?;
                }
            }
            at = match seek(file, SeekFrom::Hole(data)) {
                Ok(hole) if data < size => hole.min(size),
                Err(Errno::NXIO | Errno::INVAL | Errno::NOTSUP) | Ok(_) => size,
                Err(error) => return Err(error.into()),
            };
        }
        let end = self.run(file, run_start, size, &mut id, sink)?;
        // Attributes may lag behind, or say nothing at all, as in /proc.
        let goes_on = fill(file, &mut self.buffer[..1], end)? > 0;
        Ok(Content { id: id.finish(end), size_bytes: end, goes_on })
    }

    /// Cuts the bytes from `start` to `end` into chunks; returns where the file really ended when that comes first.
    fn run(&mut self, file: &OwnedFd, start: u64, end: u64, id: &mut ContentId, sink: &mut dyn Sink) -> Result<u64, Stop> {
        let (mut offset, mut end, mut held) = (start, end, 0..0);
        while offset < end {
            let unread = end - (offset + held.len() as u64);
            if held.len() < MAX_BYTES && unread > 0 {
                self.buffer.copy_within(held.clone(), 0);
                held = 0..held.len();
                let room = usize::try_from(unread).unwrap_or(usize::MAX).min(READ_BYTES);
                let count = fill(file, &mut self.buffer[held.end..held.end + room], offset + held.end as u64)?;
                held.end += count;
                if count < room {
                    end = offset + held.end as u64;
                    continue;
                }
            }
            let bytes = &self.buffer[held.clone()];
            let bytes = &bytes[..first_len(bytes)];
            let address = Address::of(bytes);
            let chunk = Chunk { offset, address, bytes };
            id.add(&chunk.piece());
            sink.chunk(chunk)?;
            offset += bytes.len() as u64;
            held.start += bytes.len();
        }
        Ok(end)
    }

    fn is_zero(&mut self, file: &OwnedFd, from: u64, to: u64) -> Result<bool, Stop> {
        let mut at = from;
        while at < to {
            let room = usize::try_from(to - at).unwrap_or(usize::MAX).min(READ_BYTES);
            let count = fill(file, &mut self.buffer[..room], at)?;
            if !is_zero(&self.buffer[..count]) {
                return Ok(false);
            }
            if count < room {
                return Ok(true);
            }
            at += room as u64;
        }
        Ok(true)
    }
}

/// Whether all of `bytes` are zeros; compared in blocks, which is as fast as memory in any build.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    static ZEROS: [u8; 16 << 10] = [0; 16 << 10];
    bytes.chunks(ZEROS.len()).all(|block| *block == ZEROS[..block.len()])
}

/// Fills `buffer` from `offset` on; returns how much the file had.
fn fill(file: &OwnedFd, buffer: &mut [u8], offset: u64) -> Result<usize, Stop> {
    let mut filled = 0;
    while filled < buffer.len() {
        match pread(file, &mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(filled)
}

/// The directory that holds the file; none when it is not at its place any more, or another one is.
fn folder(root: &Root, within: &Within, entry: &Entry) -> io::Result<Option<Arc<OwnedFd>>> {
    let expected = match within {
        Within::Open(fd) => return Ok(Some(Arc::clone(fd))),
        Within::Path(expected) => expected,
    };
    match root.parent(&entry.path) {
        Ok((fd, _)) => Ok(look_open(&fd)?.identity().agrees(expected).then(|| Arc::new(fd))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens for reading; without moving the access time where this user may ask for that.
fn open(parent: &OwnedFd, entry: &Entry) -> io::Result<OwnedFd> {
    let (_, name) = split(&entry.path);
    // A pipe that took the file's place must not be waited for.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    match openat(parent, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => Ok(openat(parent, name, flags, Mode::empty())?),
        outcome => Ok(outcome?),
    }
}

/// What the file is now, and whether it has rested for a tick of the clock.
fn steady_look(file: &OwnedFd) -> io::Result<(Node, bool)> {
    for _ in 0..ATTEMPTS {
        let node = look_open(file)?;
        let Some(rest) = lacking_rest(&node, FileTime::now()) else { return Ok((node, true)) };
        std::thread::sleep(rest);
    }
    let node = look_open(file)?;
    let did_rest = lacking_rest(&node, FileTime::now()).is_none();
    Ok((node, did_rest))
}

/// How long the file has to rest yet, if at all. A time in the future is somebody's wish or of another clock: no rest helps.
fn lacking_rest(node: &Node, now: FileTime) -> Option<Duration> {
    let ages = [node.changed, node.modified].map(|time| now.nanos_since(time));
    let youngest = ages.into_iter().filter(|age| (0..TICK_NANOS).contains(age)).min()?;
    Some(Duration::from_nanos(u64::try_from(TICK_NANOS - youngest).unwrap_or(0)))
}

fn is_same_moment(before: &Node, after: &Node) -> bool {
    (before.size_bytes, before.modified, before.changed) == (after.size_bytes, after.modified, after.changed)
}

fn complete(mut entry: Entry, node: Node, content: Address, file: impl AsFd) -> Entry {
    entry.node = node;
    match attributes::of_open(file) {
        Ok(attributes) => entry.node.attributes = attributes,
        Err(error) => entry.marks.push(Mark::Bare(error.raw_os_error().unwrap_or(0))),
    }
    entry.content = Some(content);
    entry
}

/// What to say of a file that could not be opened or read, or whose directory could not.
fn came_to_nothing((root, parent): (&Root, Option<&OwnedFd>), mut entry: Entry, error: io::Error) -> Result<Reading> {
    match Errno::from_io_error(&error) {
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM) => Err(Error::io("read", &root.locate(&entry.path), error)),
        Some(Errno::NOENT) => Ok(Reading::Left(Left { path: entry.path, why: Reason::Vanished })),
        Some(Errno::LOOP | Errno::NOTDIR | Errno::NXIO | Errno::NODEV | Errno::STALE) => {
            Ok(Reading::Left(Left { path: entry.path, why: Reason::Replaced }))
        }
        other => {
            entry.marks.push(Mark::Unread(other.map_or(0, Errno::raw_os_error)));
            match parent.map(|parent| attributes::of_name(parent, split(&entry.path).1)) {
                Some(Ok(attributes)) => entry.node.attributes = attributes,
                None => entry.marks.push(Mark::Bare(other.map_or(0, Errno::raw_os_error))),
                Some(Err(error)) => entry.marks.push(Mark::Bare(error.raw_os_error().unwrap_or(0))),
            }
            Ok(Reading::Unread(entry))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::directory::entry::{Look, look};

    #[test]
    fn whatever_changed_within_the_last_tick_has_not_rested() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), "a").unwrap();
        let Look::Node(node) = look(std::fs::File::open(dir.path()).unwrap(), "a").unwrap() else { panic!("a socket") };
        let at = |nanos| FileTime { seconds: 1000, nanos };
        let now = at(500_000_000);
        let rest = |changed, modified| {
            let rest = lacking_rest(&Node { changed, modified, ..(*node).clone() }, now);
            rest.map_or(0, |rest| rest.as_millis())
        };
        let (old, future) = (FileTime::default(), FileTime { seconds: 2000, nanos: 0 });
        assert_eq!([rest(old, old), rest(old, at(480_000_000)), rest(old, at(481_000_000))], [0, 0, 1]);
        assert_eq!([rest(at(499_000_000), old), rest(at(499_000_000), at(490_000_000)), rest(now, old)], [19, 19, 20]);
        assert_eq!(rest(at(499_000_000), future), 19, "an mtime that was set ahead hides no change");
        assert_eq!(rest(future, future), 0);
    }
}
