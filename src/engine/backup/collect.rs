//! Puts the finished parts back in the order of their paths and spills them to disk, so that memory holds only what is
//! in flight.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use super::worker::{Position, Stored};
use crate::base::{Error, Lsn, RelPath, Result};
use crate::repo::base_cache::{BaseLine, PageMarks};
use crate::repo::manifest::{FileKind, FileLine};
use crate::repo::resume::LineWriter;
use crate::source::{Entry, EntryKind};

/// Missed pages of which the places are kept as evidence.
const EVIDENCE: usize = 8;

/// A part of one entry, numbered in the order of the walk.
pub(super) struct Part {
    pub sequence: u64,
    pub entry: Arc<Entry>,
    /// What the base has of it, when it was compared with that or left unread.
    pub base: Option<Arc<BaseLine>>,
    /// What was stored; none when the entry is the base's, unread.
    pub stored: Option<Stored>,
    /// Whether the entry is complete with this part.
    pub last: bool,
}

/// Changes that change detection did not see.
#[derive(Clone, Debug, Default)]
pub(super) struct Missed {
    /// How many pages.
    pub pages: u64,
    /// The first of them: file and page in it.
    pub evidence: Vec<(RelPath, u32)>,
    /// How many pages a record changed although the log told of none.
    pub untold_pages: u64,
    /// The first of those: file, page in it and its LSN.
    pub untold: Vec<(RelPath, u32, Lsn)>,
}

/// Orders parts and writes complete entries as JSON lines.
pub(super) struct Collector {
    out: LineWriter,
    next: u64,
    waiting: BTreeMap<u64, Part>,
    current: Stored,
    collected: Collected,
}

/// What was collected.
#[derive(Default)]
pub(super) struct Collected {
    /// Numeric owners of the entries.
    pub uids: BTreeSet<u32>,
    /// Numeric groups of the entries.
    pub gids: BTreeSet<u32>,
    /// Number of entries.
    pub entries: u64,
    /// Changes that were not detected as such.
    pub missed: Missed,
}

impl Collector {
    pub fn new(path: &Path) -> Result<Self> {
        Ok(Self {
            out: LineWriter::create(path)?,
            next: 0,
            waiting: BTreeMap::new(),
            current: Stored::default(),
            collected: Collected::default(),
        })
    }

    pub fn accept(&mut self, part: Part) -> Result<()> {
        self.waiting.insert(part.sequence, part);
        while let Some(part) = self.waiting.remove(&self.next) {
            self.next += 1;
            self.collected.uids.insert(part.entry.uid);
            self.collected.gids.insert(part.entry.gid);
            let Some(stored) = part.stored else {
                if let Some(base) = &part.base {
                    self.write(base)?;
                }
                continue;
            };
            self.note_missed(&part.entry.path, &stored);
            self.current.append(stored);
            if part.last {
                let stored = std::mem::take(&mut self.current);
                self.write(&base_line(&part.entry, stored, part.base.as_deref()))?;
            }
        }
        Ok(())
    }

    fn note_missed(&mut self, path: &RelPath, stored: &Stored) {
        let missed = &mut self.collected.missed;
        missed.pages += stored.missed.len() as u64;
        let room = EVIDENCE.saturating_sub(missed.evidence.len());
        missed.evidence.extend(stored.missed.iter().take(room).map(|page| (path.clone(), *page)));
        missed.untold_pages += stored.untold.len() as u64;
        let room = EVIDENCE.saturating_sub(missed.untold.len());
        missed.untold.extend(stored.untold.iter().take(room).map(|(page, lsn)| (path.clone(), *page, *lsn)));
    }

    fn write(&mut self, line: &BaseLine) -> Result<()> {
        self.collected.entries += 1;
        self.out.line(line)
    }

    /// Completes the spill file. Fails when a part is missing: the thread that had it reports why.
    pub fn finish(self) -> Result<Collected> {
        if !self.waiting.is_empty() {
            return Err(Error::interrupted());
        }
        self.out.finish().map(|()| self.collected)
    }
}

/// The line for `entry` with what was stored of it, the rest being what `base` has; held by the manifest that has it
/// already when nothing of it changed.
pub(in crate::engine) fn base_line(entry: &Entry, stored: Stored, base: Option<&BaseLine>) -> BaseLine {
    let mut line = FileLine {
        path: entry.path.clone(),
        kind: kind(&entry.kind),
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        modified: entry.modified,
        inode: entry.stamp.map_or(0, |stamp| stamp.inode),
        size_bytes: 0,
        frames: Vec::with_capacity(stored.positions.len()),
        patches: base.map(|base| base.line.patches.clone()).unwrap_or_default(),
        states: Vec::new(),
        bad_blocks: stored.bad_blocks,
        tree: None,
    };
    for (index, position) in stored.positions.iter().enumerate() {
        let inherited = base.and_then(|base| base.line.frames.get(index));
        let state = match position {
            Position::Stored(_) => None,
            Position::Inherited => base.and_then(|base| base.line.state(index)),
            Position::Patched(digest) => Some(*digest),
        };
        let frame = match position {
            Position::Stored(frame) => *frame,
            _ => *inherited.expect("only what the base has is inherited"),
        };
        line.states.extend(state.filter(|state| *state != frame.digest).map(|state| (index as u32, state)));
        line.size_bytes += u64::from(frame.raw_len);
        line.frames.push(frame);
    }
    line.patches.extend(stored.patches);
    line.drop_superseded();
    let holder = base.filter(|base| base.line == line).map_or(0, |base| base.holder);
    BaseLine { line, holder, stamp: entry.stamp, marks: PageMarks(stored.marks) }
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
