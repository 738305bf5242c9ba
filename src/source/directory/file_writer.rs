//! One file being restored: chunks in any order, from any thread; then all that belongs to it, and its name.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{AtFlags, renameat, unlinkat};
use rustix::io::{Errno, pwrite};

use super::beneath::split;
use super::chunk::{Address, ContentId, Piece};
use super::entry::Entry;
use super::read::{Chunk, Hole, is_zero};
use super::restore::Restorer;
use super::settle;
use crate::base::{Error, RelPath, Result};

/// A file that has its length and no data yet. Dropped before [`FileWriter::finish`], it is removed.
#[derive(Debug)]
pub struct FileWriter {
    file: OwnedFd,
    parent: OwnedFd,
    /// The name it is written under when that is not its own.
    temporary: Option<OsString>,
    entry: Entry,
    holes: Vec<Hole>,
    data_bytes: u64,
    written_bytes: AtomicU64,
    is_finished: AtomicBool,
}

/// The sum in bytes of `pieces`, which must be the content that `entry` says.
///
/// # Errors
/// Damaged, when they are not, overlap, or the backup lacks the content.
pub(super) fn check(entry: &Entry, pieces: impl IntoIterator<Item = Piece>) -> Result<u64> {
    let damaged = |why: &str| Error::damaged(format!("{} cannot be restored: {why}", entry.path));
    let expected = entry.content.ok_or_else(|| damaged("its content is not in this backup"))?;
    let (mut id, mut end, mut data_bytes) = (ContentId::new(), 0, 0);
    for piece in pieces {
        if piece.offset < end {
            return Err(damaged("its list of chunks is out of order"));
        }
        end = piece.offset.checked_add(piece.len_bytes.into()).ok_or_else(|| damaged("a chunk lies beyond all files"))?;
        data_bytes += u64::from(piece.len_bytes);
        id.add(&piece);
    }
    if end > entry.node.size_bytes || id.finish(entry.node.size_bytes) != expected {
        return Err(damaged("its list of chunks is not the one that was stored"));
    }
    Ok(data_bytes)
}

impl FileWriter {
    pub(super) fn new(
        file: OwnedFd,
        parent: OwnedFd,
        temporary: Option<OsString>,
        entry: Entry,
        holes: Vec<Hole>,
        data_bytes: u64,
    ) -> io::Result<Self> {
        let (written_bytes, is_finished) = (AtomicU64::new(0), AtomicBool::new(false));
        Ok(Self { file, parent, temporary, entry, holes, data_bytes, written_bytes, is_finished })
    }

    /// Writes one chunk, but for those of its zeros that were a hole. Each piece of the file must be written once.
    ///
    /// # Errors
    /// Damaged, when the bytes are not those of the address; or the disk's.
    pub fn write(&self, chunk: &Chunk<'_>) -> Result<()> {
        write_chunk(&self.file, (&self.entry.path, self.entry.node.size_bytes), &self.holes, chunk)?;
        self.written_bytes.fetch_add(chunk.bytes.len() as u64, Ordering::SeqCst);
        Ok(())
    }

    /// Sets what belongs to the file and gives it its name.
    ///
    /// # Errors
    /// Damaged, when chunks were not written; or the disk's.
    pub fn finish(self, restorer: &Restorer) -> Result<()> {
        let written_bytes = self.written_bytes.load(Ordering::SeqCst);
        if written_bytes != self.data_bytes {
            return Err(Error::damaged(format!("{} is not whole", self.entry.path))
                .detail("written", format!("{written_bytes} of {} bytes", self.data_bytes)));
        }
        let settled = settle::open(&self.file, &self.entry.node, restorer.options.owners.as_ref());
        restorer.take_up(Some(&self.entry.path), settled)?;
        if let Some(temporary) = &self.temporary {
            let (_, name) = split(&self.entry.path);
            renameat(&self.parent, temporary, &self.parent, name)
                .map_err(|error| restorer.failed(Some(&self.entry.path), error.into()))?;
        }
        self.is_finished.store(true, Ordering::SeqCst);
        Ok(())
    }
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        if !self.is_finished.load(Ordering::SeqCst) {
            let (_, name) = split(&self.entry.path);
            // Whoever failed before has told why; half a file under its name would not.
            let _ = unlinkat(&self.parent, self.temporary.as_deref().unwrap_or(name), AtFlags::empty());
        }
    }
}

/// Writes one chunk of the file at `path`, which is open as `file` and `size_bytes` long, but for those of its zeros that
/// were one of `holes`.
///
/// # Errors
/// Damaged, when the bytes are not those of the address or lie beyond the end; or the disk's.
pub fn write_chunk(file: impl AsFd, (path, size_bytes): (&RelPath, u64), holes: &[Hole], chunk: &Chunk<'_>) -> Result<()> {
    let failed = |error: io::Error| {
        let is_full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        let failed = Error::failed(format!("cannot write {path}")).caused_by(error);
        if is_full { failed.hint("free space there, or restore into a directory on a larger disk") } else { failed }
    };
    if Address::of(chunk.bytes) != chunk.address {
        return Err(Error::damaged(format!("a chunk of {path} holds other bytes than were stored"))
            .detail("chunk", chunk.address.to_string()));
    }
    let end = chunk.offset.saturating_add(chunk.bytes.len() as u64);
    if end > size_bytes {
        return Err(Error::damaged(format!("a chunk of {path} lies beyond its end")));
    }
    let mut at = chunk.offset;
    let first = holes.partition_point(|hole| hole.offset.saturating_add(hole.len_bytes) <= at);
    for hole in holes[first..].iter().take_while(|hole| hole.offset < end) {
        let (from, to) = (hole.offset.max(at), end.min(hole.offset.saturating_add(hole.len_bytes)));
        if from < to && is_zero(&chunk.bytes[span(chunk.offset, from, to)]) {
            write_at(&file, &chunk.bytes[span(chunk.offset, at, from)], at).map_err(failed)?;
            at = to;
        }
    }
    write_at(&file, &chunk.bytes[span(chunk.offset, at, end)], at).map_err(failed)
}

fn write_at(file: impl AsFd, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match pwrite(&file, bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                bytes = &bytes[count..];
                offset += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Where the file's bytes `from..to` lie in a chunk that begins at `offset`.
fn span(offset: u64, from: u64, to: u64) -> std::ops::Range<usize> {
    let at = |position: u64| usize::try_from(position - offset).unwrap_or(usize::MAX);
    at(from)..at(to.max(from))
}
