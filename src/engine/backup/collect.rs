//! Puts the finished parts back in the order of their paths and spills them to disk, so that memory holds only what is
//! in flight.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::worker::Stored;
use crate::base::{Error, Result};
use crate::repo::manifest::{FileKind, FileLine};
use crate::source::{Entry, EntryKind};

/// A part of one entry, numbered in the order of the walk.
pub(super) struct Part {
    pub sequence: u64,
    pub entry: Arc<Entry>,
    pub stored: Stored,
    /// Whether the entry is complete with this part.
    pub last: bool,
}

/// Orders parts and writes complete entries as JSON lines.
pub(super) struct Collector {
    path: PathBuf,
    out: BufWriter<File>,
    next: u64,
    waiting: BTreeMap<u64, Part>,
    current: Stored,
    uids: BTreeSet<u32>,
    gids: BTreeSet<u32>,
}

/// What was collected.
pub(super) struct Collected {
    pub spill: PathBuf,
    pub uids: BTreeSet<u32>,
    pub gids: BTreeSet<u32>,
}

impl Collector {
    pub fn new(path: &Path) -> Result<Self> {
        let file = File::create(path).map_err(|error| Error::io("create", path, error))?;
        Ok(Self {
            path: path.to_owned(),
            out: BufWriter::new(file),
            next: 0,
            waiting: BTreeMap::new(),
            current: Stored::default(),
            uids: BTreeSet::new(),
            gids: BTreeSet::new(),
        })
    }

    pub fn accept(&mut self, part: Part) -> Result<()> {
        self.waiting.insert(part.sequence, part);
        while let Some(part) = self.waiting.remove(&self.next) {
            self.next += 1;
            self.current.frames.extend(part.stored.frames);
            self.current.bad_blocks.extend(part.stored.bad_blocks);
            if part.last {
                let stored = std::mem::take(&mut self.current);
                self.uids.insert(part.entry.uid);
                self.gids.insert(part.entry.gid);
                self.write(&line(&part.entry, stored))?;
            }
        }
        Ok(())
    }

    fn write(&mut self, line: &FileLine) -> Result<()> {
        let write = |out: &mut BufWriter<File>| {
            serde_json::to_writer(&mut *out, line)?;
            out.write_all(b"\n")
        };
        write(&mut self.out).map_err(|error| Error::io("write", &self.path, error))
    }

    /// Completes the spill file. Fails when a part is missing: the thread that had it reports why.
    pub fn finish(mut self) -> Result<Collected> {
        if !self.waiting.is_empty() {
            return Err(Error::interrupted());
        }
        self.out.flush().map_err(|error| Error::io("write", &self.path, error))?;
        Ok(Collected { spill: self.path, uids: self.uids, gids: self.gids })
    }
}

/// The manifest's line for `entry` with what was stored of it.
pub(super) fn line(entry: &Entry, stored: Stored) -> FileLine {
    FileLine {
        path: entry.path.clone(),
        kind: kind(&entry.kind),
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        modified: entry.modified,
        inode: entry.inode,
        size_bytes: stored.frames.iter().map(|frame| u64::from(frame.raw_len)).sum(),
        frames: stored.frames,
        bad_blocks: stored.bad_blocks,
    }
}

fn kind(kind: &EntryKind) -> FileKind {
    match kind {
        EntryKind::Directory => FileKind::Directory,
        EntryKind::File => FileKind::File,
        EntryKind::Pages { .. } => FileKind::Pages,
        EntryKind::Symlink { target } => FileKind::Symlink { target: FileKind::encode_target(target) },
        EntryKind::Tablespace { target } => {
            FileKind::Tablespace { target: FileKind::encode_target(target.as_os_str().as_bytes()) }
        }
    }
}
