//! Which pages of relations' main forks a stretch of the log touches. Pure.
//!
//! Invariants:
//! - Every page that a record refers to counts, whatever the record does to it: full-page images, and the heap page of a
//!   visibility record, too. A record counts in the segment in which it ends.
//! - What changes files beside its block references is known by kind (files made or cut, databases made or dropped), or
//!   makes all of it unknown ([`Touched::unknown`]). PostgreSQL marks such records (`XLR_SPECIAL_REL_UPDATE`).
//! - The other forks are not told: the free space map is never logged, and row changes clear bits of the visibility map
//!   without naming its page. Nor is what lies in no relation's file (`pg_xact`, the relation map, the control file).
//! - A page is written after its record, but one that a bulk writer logged and held back outside the buffers through a whole
//!   checkpoint and the base's reading is told in no later stretch. It is PostgreSQL's own hole: the base lacks it, too.
//!
//! Sources: PostgreSQL `src/include/access/xlogrecord.h`, `src/include/catalog/storage_xlog.h`.

use std::collections::{BTreeMap, BTreeSet};

use super::changes::PageSet;
use super::filenames::parse_relation_file;
use super::wal::{Body, Change, Event, Record, Relation, WalLevel, resource_manager as manager};
use crate::source::Fork;

/// Memory that what a stretch touches may take, in bytes: with more, nothing is known of it.
pub const MOST_BYTES: u64 = 64 << 20;
/// What a relation takes, and each of its chunks beside its words, about, in bytes.
const ENTRY_BYTES: u64 = 96;
/// Pages in a chunk of a [`BlockSet`]: 32 MiB of a relation in 512 bytes.
const CHUNK_PAGES: u32 = CHUNK_WORDS as u32 * PageSet::BITS;
const CHUNK_WORDS: usize = 128;
/// A record that changes files in a way that its block references do not tell.
const SPECIAL_UPDATE: u8 = 0x01;
/// In the lower half of the info: the only flags known.
const KNOWN_LOW_BITS: u8 = 0x03;
/// Id of the tablespace below `base/` (`DEFAULTTABLESPACE_OID`) …
const DEFAULT_TABLESPACE: u32 = 1663;
/// … and of `global/` (`GLOBALTABLESPACE_OID`).
const GLOBAL_TABLESPACE: u32 = 1664;

/// Numbers of pages of one relation's main fork.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockSet {
    chunks: BTreeMap<u32, Box<[PageSet; CHUNK_WORDS]>>,
    /// Every page from here on.
    from: Option<u32>,
}

impl BlockSet {
    /// Adds one page.
    pub fn insert(&mut self, block: u32) {
        let chunk = self.chunks.entry(block / CHUNK_PAGES).or_insert_with(|| Box::new([0; CHUNK_WORDS]));
        chunk[(block % CHUNK_PAGES / PageSet::BITS) as usize] |= 1 << (block % PageSet::BITS);
    }

    /// Adds every page from `first` on.
    pub fn insert_from(&mut self, first: u32) {
        self.from = Some(self.from.map_or(first, |from| from.min(first)));
    }

    /// Adds every page of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (number, words) in &other.chunks {
            let chunk = self.chunks.entry(*number).or_insert_with(|| Box::new([0; CHUNK_WORDS]));
            chunk.iter_mut().zip(words.iter()).for_each(|(word, other)| *word |= other);
        }
        if let Some(first) = other.from {
            self.insert_from(first);
        }
    }

    /// Which of the 32 pages from `first` on are in the set, the first one in the lowest bit.
    pub fn pages(&self, first: u32) -> PageSet {
        let word = |index: u32| {
            let chunk = self.chunks.get(&(index / CHUNK_WORDS as u32));
            chunk.map_or(0, |chunk| chunk[(index % CHUNK_WORDS as u32) as usize])
        };
        let (index, shift) = (first / PageSet::BITS, first % PageSet::BITS);
        let found = match shift {
            0 => word(index),
            _ => word(index) >> shift | word(index.saturating_add(1)) << (PageSet::BITS - shift),
        };
        let beyond = match self.from {
            Some(from) if from <= first => PageSet::MAX,
            Some(from) if from - first < PageSet::BITS => PageSet::MAX << (from - first),
            _ => 0,
        };
        found | beyond
    }

    /// Whether any page in the set lies in `first..end`.
    pub fn touches(&self, first: u32, end: u32) -> bool {
        if self.from.is_some_and(|from| from < end) && first < end {
            return true;
        }
        (first..end).step_by(PageSet::BITS as usize).any(|at| {
            let count = (end - at).min(PageSet::BITS);
            self.pages(at) & (PageSet::MAX >> (PageSet::BITS - count)) != 0
        })
    }

    /// First page and number of pages of each run of the set, ascending, not touching each other; and from where on every
    /// page is in it.
    pub fn runs(&self) -> (Vec<(u32, u32)>, Option<u32>) {
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for (number, words) in &self.chunks {
            for (index, word) in (0..).zip(words.iter()).filter(|(_, word)| **word != 0) {
                for bit in (0..PageSet::BITS).filter(|bit| word & (1 << bit) != 0) {
                    let block = number * CHUNK_PAGES + index * PageSet::BITS + bit;
                    match runs.last_mut() {
                        Some((first, count)) if *first + *count == block => *count += 1,
                        _ => runs.push((block, 1)),
                    }
                }
            }
        }
        (runs, self.from)
    }

    /// Undoes [`BlockSet::runs`]; none when a run goes beyond the last page that there can be, or the set would take more
    /// than [`MOST_BYTES`].
    pub fn from_runs(runs: &[(u32, u32)], from: Option<u32>) -> Option<Self> {
        let mut set = Self { chunks: BTreeMap::new(), from };
        let pages: u64 = runs.iter().map(|(_, count)| u64::from(*count)).sum();
        if pages > MOST_BYTES * 8 {
            return None;
        }
        for (first, count) in runs {
            (*first..first.checked_add(*count)?).for_each(|block| set.insert(block));
        }
        Some(set)
    }

    /// Bytes of memory that its chunks take.
    fn chunk_bytes(&self) -> u64 {
        self.chunks.len() as u64 * ((CHUNK_WORDS * size_of::<PageSet>()) as u64 + ENTRY_BYTES)
    }
}

/// What a stretch of log touches; in no more memory than [`MOST_BYTES`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Pages of main forks.
    relations: BTreeMap<Relation, BlockSet>,
    /// Tablespace and id of databases that were made or dropped: nothing is known of their files.
    pub databases: BTreeSet<(u32, u32)>,
    /// Why nothing at all is known; none when the rest holds.
    pub unknown: Option<String>,
    /// Memory that the relations take, about.
    bytes: u64,
}

impl Touched {
    /// With these pages of relations' main forks.
    pub fn of(relations: impl IntoIterator<Item = (Relation, BlockSet)>) -> Self {
        let mut touched = Self::default();
        relations.into_iter().for_each(|(relation, blocks)| touched.change(relation, |own| own.merge(&blocks)));
        touched
    }

    /// Pages of main forks.
    pub fn relations(&self) -> &BTreeMap<Relation, BlockSet> {
        &self.relations
    }

    /// Adds what one record touches.
    pub fn note(&mut self, record: &Record<'_>) {
        if self.unknown.is_some() {
            return;
        }
        if let Err(why) = self.try_note(record) {
            self.unknown = Some(why);
        }
    }

    /// Adds to what is known of `relation`, unless that takes too much.
    fn change(&mut self, relation: Relation, add: impl FnOnce(&mut BlockSet)) {
        if self.unknown.is_some() {
            return;
        }
        let Self { relations, bytes, .. } = self;
        let blocks = relations.entry(relation).or_insert_with(|| {
            *bytes += ENTRY_BYTES;
            BlockSet::default()
        });
        let before = blocks.chunk_bytes();
        add(blocks);
        *bytes += blocks.chunk_bytes() - before;
        if *bytes > MOST_BYTES {
            *self = Self { unknown: Some("more has changed than is worth telling".to_owned()), ..Self::default() };
        }
    }

    fn try_note(&mut self, record: &Record<'_>) -> Result<(), String> {
        let body = record.parts().map_err(|error| error.to_string())?;
        for block in body.blocks().filter(|block| block.fork == Fork::Main) {
            self.change(block.relation, |blocks| blocks.insert(block.block));
        }
        let strange = |what: &str| Err(format!("the record at {} {what}", record.start));
        if record.resource_manager > manager::LAST_BUILT_IN {
            return strange("is an extension's");
        }
        if record.info & 0x0F & !KNOWN_LOW_BITS != 0 {
            return strange("has unknown flags");
        }
        match record.resource_manager {
            manager::STORAGE | manager::DATABASE | manager::XLOG => self.note_change(record, &body),
            // Its files are dropped; what takes their place is made anew.
            manager::TRANSACTION => Ok(()),
            _ if record.info & SPECIAL_UPDATE != 0 => strange("changes files in a way that is not known"),
            _ => Ok(()),
        }
    }

    fn note_change(&mut self, record: &Record<'_>, body: &Body<'_>) -> Result<(), String> {
        let told = |error: &dyn std::fmt::Display| error.to_string();
        if record.resource_manager == manager::XLOG {
            let level = match Event::decode(record).map_err(|error| told(&error))? {
                Event::ParameterChange { wal_level, .. } | Event::CheckpointRedo { wal_level } => Some(wal_level),
                Event::Checkpoint(checkpoint) => checkpoint.wal_level,
                Event::EndOfRecovery { wal_level, .. } => wal_level,
                _ => None,
            };
            if level == Some(WalLevel::Minimal) {
                return Err(format!("wal_level was minimal at {}", record.start));
            }
        }
        match Change::decode(record, body).map_err(|error| told(&error))? {
            Change::RelationCreated { relation, fork: Fork::Main } => self.change(relation, |blocks| blocks.insert_from(0)),
            // What it grows to again may be zeros that no record tells.
            Change::RelationCut { relation, blocks, forks } if forks.main => {
                self.change(relation, |own| own.insert_from(blocks));
            }
            Change::DatabaseCreated { database, tablespace, .. } => drop(self.databases.insert((tablespace, database))),
            Change::DatabaseDropped { database, tablespaces } => {
                self.databases.extend(tablespaces.iter().map(|tablespace| (tablespace, database)));
            }
            Change::Unknown => return Err(format!("the record at {} is of an unknown kind", record.start)),
            _ => {}
        }
        Ok(())
    }

    /// Adds all that `other` touches; nothing where all of it is unknown.
    pub fn merge(&mut self, other: &Self) {
        for (relation, blocks) in &other.relations {
            self.change(*relation, |own| own.merge(blocks));
        }
        self.databases.extend(&other.databases);
        if self.unknown.is_none() {
            self.unknown.clone_from(&other.unknown);
        }
    }
}

/// The relation whose main fork has a file at `path` below the data directory; none for every other file.
pub fn relation_at(path: &[u8]) -> Option<Relation> {
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<u32>().ok();
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    let (tablespace, database, name) = match parts[..] {
        [b"global", name] => (GLOBAL_TABLESPACE, 0, name),
        [b"base", database, name] => (DEFAULT_TABLESPACE, number(database)?, name),
        [b"pg_tblspc", tablespace, _, database, name] => (number(tablespace)?, number(database)?, name),
        _ => return None,
    };
    let file = parse_relation_file(name).filter(|file| file.fork == Fork::Main)?;
    Some(Relation { tablespace, database, file_node: number(file.number)? })
}

#[cfg(test)]
#[path = "touched/tests.rs"]
mod tests;
