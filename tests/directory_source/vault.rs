//! A repository small enough to see through: chunks by address in memory, entries in a list.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use lifeboat::base::{RelPath, Result};
use lifeboat::source::directory::beneath::Root;
use lifeboat::source::directory::chunk::{Address, Piece};
use lifeboat::source::directory::compare::Trust;
use lifeboat::source::directory::entry::{Entry, FileTime, Kind, Left, Node};
use lifeboat::source::directory::exclude::Excludes;
use lifeboat::source::directory::owners::OwnerMap;
use lifeboat::source::directory::read::{Chunk, Hole, Reader, Reading, Sink, Within};
use lifeboat::source::directory::restore::{Existing, RestoreOptions, Restorer, Shortfalls};
use lifeboat::source::directory::scan::{Scan, Tally, Task};
use lifeboat::source::directory::select::{Selection, StandIns};
use lifeboat::source::directory::walk::WalkOptions;

/// One entry with its content.
#[derive(Clone, Debug)]
pub struct Stored {
    pub entry: Entry,
    pub pieces: Vec<Piece>,
    pub holes: Vec<Hole>,
}

/// One backup.
#[derive(Debug)]
pub struct Backup {
    pub root: Node,
    pub stored: Vec<Stored>,
    pub left: Vec<Left>,
    pub tally: Tally,
    pub new_chunks: usize,
}

/// All chunks of all backups.
#[derive(Default)]
pub struct Vault {
    pub chunks: HashMap<Address, Vec<u8>>,
}

/// Takes a file's chunks, and can do something to the file at each, of which it is told the offset.
pub struct Collector<'v> {
    pub vault: &'v mut Vault,
    pub pieces: Vec<Piece>,
    pub holes: Vec<Hole>,
    pub new_chunks: usize,
    pub restarts: usize,
    pub on_chunk: Box<dyn FnMut(u64) + 'v>,
}

impl<'v> Collector<'v> {
    pub fn new(vault: &'v mut Vault) -> Self {
        Self { vault, pieces: vec![], holes: vec![], new_chunks: 0, restarts: 0, on_chunk: Box::new(|_| {}) }
    }
}

impl Sink for Collector<'_> {
    fn restart(&mut self) -> Result<()> {
        self.restarts += 1;
        self.pieces.clear();
        self.holes.clear();
        Ok(())
    }

    fn chunk(&mut self, chunk: Chunk<'_>) -> Result<()> {
        self.pieces.push(chunk.piece());
        let known = self.vault.chunks.insert(chunk.address, chunk.bytes.to_vec());
        assert!(known.as_deref().is_none_or(|known| known == chunk.bytes), "two contents of one address");
        self.new_chunks += usize::from(known.is_none());
        (self.on_chunk)(chunk.offset);
        Ok(())
    }

    fn hole(&mut self, hole: Hole) -> Result<()> {
        self.holes.push(hole);
        Ok(())
    }
}

pub fn walk_options(scratch: &Path) -> WalkOptions {
    WalkOptions { excludes: Excludes::none(), one_file_system: true, threads: 2, scratch: scratch.to_owned() }
}

/// Trust as if everything that is there now were older than the base.
pub fn trust_all() -> Trust {
    let now = FileTime::now();
    let later = |seconds| FileTime { seconds: now.seconds + seconds, ..now };
    Trust { base_started: later(65), started: later(66), is_same_place: true, root_device: None, fresh_nanos: 60_000_000_000 }
}

/// How a backup is to be taken.
#[derive(Default)]
pub struct Plan<'p> {
    pub base: Option<&'p Backup>,
    pub excludes: &'p [&'p str],
    /// Called before each file is read.
    pub before_read: Option<&'p mut dyn FnMut(&RelPath)>,
}

impl Vault {
    pub fn backup(&mut self, dir: &Path, mut plan: Plan<'_>) -> Backup {
        let scratch = tempfile::tempdir().unwrap();
        let root = Arc::new(Root::open(dir).unwrap());
        let options = WalkOptions { excludes: Excludes::new(plan.excludes).unwrap(), ..walk_options(scratch.path()) };
        let base = plan.base.map(|base| {
            let entries: Vec<_> = base.stored.iter().map(|stored| Ok(stored.entry.clone())).collect();
            (Box::new(entries.into_iter()) as Box<_>, Trust { root_device: Some(base.root.device), ..trust_all() })
        });
        let mut scan = Scan::new(Arc::clone(&root), options, base).unwrap();
        let mut backup =
            Backup { root: scan.root_node().clone(), stored: vec![], left: vec![], tally: scan.tally(), new_chunks: 0 };
        let mut reader = Reader::new();
        while let Some(task) = scan.next() {
            match task.unwrap() {
                Task::Keep(entry) => {
                    let kept = plan.base.unwrap().find(&entry.path).unwrap().clone();
                    assert_eq!(kept.entry, entry);
                    backup.stored.push(kept);
                }
                Task::Link(entry, _) | Task::Store(entry) => {
                    backup.stored.push(Stored { entry, pieces: vec![], holes: vec![] });
                }
                Task::Left(left) => backup.left.push(left),
                Task::Read(walked, parent) => {
                    if let Some(before_read) = &mut plan.before_read {
                        before_read(&walked.path);
                    }
                    let mut sink = Collector::new(self);
                    let reading = reader.read(&root, &Within::Open(parent.fd), walked.clone(), &mut sink).unwrap();
                    scan.settle(&walked, &reading).unwrap();
                    let (pieces, holes) = (std::mem::take(&mut sink.pieces), std::mem::take(&mut sink.holes));
                    backup.new_chunks += sink.new_chunks;
                    match reading {
                        Reading::Read(entry) => backup.stored.push(Stored { entry, pieces, holes }),
                        Reading::Unread(entry) => {
                            assert!(entry.content.is_none());
                            backup.stored.push(Stored { entry, pieces: vec![], holes: vec![] });
                        }
                        Reading::Left(left) => backup.left.push(left),
                    }
                }
            }
        }
        backup.tally = scan.tally();
        let ascending = backup.stored.windows(2).all(|pair| pair[0].entry.path < pair[1].entry.path);
        assert!(ascending, "entries out of order");
        backup
    }

    /// Restores what `patterns` select of `backup` into `target`, with owners when run as root.
    pub fn restore(&self, backup: &Backup, target: &Path, patterns: &[&str], existing: Existing) -> Result<Shortfalls> {
        let scratch = tempfile::tempdir().unwrap();
        let owners = rustix::process::geteuid().is_root().then(OwnerMap::by_number);
        let options = RestoreOptions { existing, owners, scratch: scratch.path().to_owned() };
        let restorer = Restorer::new(target, options)?;
        let selection = Selection::new(patterns)?;
        let mut stand_ins = StandIns::default();
        for stored in &backup.stored {
            let entry = &stored.entry;
            if !selection.wants(&entry.path) {
                if entry.node.kind == Kind::Directory {
                    restorer.directory_on_the_way(entry)?;
                }
                continue;
            }
            match (&entry.node.kind, &entry.first_link) {
                (Kind::Directory, _) => restorer.directory(entry)?,
                (_, Some(first)) => match stand_ins.place(&selection, entry) {
                    Some(present) => restorer.link(entry, &present)?,
                    None => self.file(&restorer, &backup.find(first).unwrap().renamed(&entry.path))?,
                },
                (Kind::File, None) if entry.is_unread() => restorer.missing(entry),
                (Kind::File, None) => self.file(&restorer, stored)?,
                _ => restorer.other(entry)?,
            }
        }
        restorer.finish(patterns.is_empty().then_some(&backup.root))
    }

    pub fn file(&self, restorer: &Restorer, stored: &Stored) -> Result<()> {
        let writer = restorer.file(&stored.entry, stored.pieces.iter().copied(), &stored.holes)?;
        // Any order will do.
        for piece in stored.pieces.iter().rev() {
            let bytes = self.chunks[&piece.address].as_slice();
            writer.write(&Chunk { offset: piece.offset, address: piece.address, bytes })?;
        }
        writer.finish(restorer)
    }
}

impl Stored {
    fn renamed(&self, path: &RelPath) -> Self {
        Self { entry: Entry { path: path.clone(), ..self.entry.clone() }, ..self.clone() }
    }
}

impl Backup {
    pub fn find(&self, path: &RelPath) -> Option<&Stored> {
        let at = self.stored.binary_search_by(|stored| stored.entry.path.cmp(path)).ok()?;
        Some(&self.stored[at])
    }

    pub fn get(&self, path: &str) -> &Stored {
        self.find(&RelPath::new(path).unwrap()).unwrap_or_else(|| panic!("{path} is not in the backup"))
    }

    pub fn entries(&self) -> impl Iterator<Item = Result<Entry>> + '_ {
        self.stored.iter().map(|stored| Ok(stored.entry.clone()))
    }
}
