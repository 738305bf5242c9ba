//! From records to transactions: what each one wrote, put together from its records and told when it ends. Pure.
//!
//! Memory is bounded by [`MOST_ENTRIES`], whatever the log's size: what finds no room is counted and said.
//! What a subtransaction did belongs to its top-level transaction once that ends; what a rolled-back one did, to nobody.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::base::{Lsn, Timestamp};
use crate::source::Fork;
use crate::source::postgres::wal::{
    Body, Change, Checkpoint, EndKind, Ended, Event, Record, Relation, RowKind, RowPlace, TransactionEnd, changed_row,
    resource_manager,
};

use super::acts::{self, Act, Done, Made};

/// Numbers of transactions, relations and locks that are remembered at one time, together.
const MOST_ENTRIES: usize = 200_000;
/// Relations made by nobody yet that are remembered at one time.
const MOST_UNOWNED: usize = 10_000;

/// `pg_database`: DROP DATABASE first marks the row as that of an invalid database, in place, then deletes it (from 16 on,
/// and in late releases before).
const PG_DATABASE: u32 = 1262;
/// From this major on every release sets the mark.
const MARKS_SINCE_MAJOR: u16 = 16;
/// The mark lies at most so many bytes before the deletion; what changed the row in place before that was VACUUM.
const MARK_REACH_BYTES: u64 = 64 << 20;
/// Rows of `pg_database` whose latest change in place is remembered.
const MOST_MARKS: usize = 10_000;

/// Rows written, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowCounts {
    /// By INSERT and COPY.
    pub inserted: u64,
    /// By UPDATE.
    pub updated: u64,
    /// By DELETE.
    pub deleted: u64,
}

impl RowCounts {
    /// Adds others.
    pub fn add(&mut self, other: RowCounts) {
        self.inserted += other.inserted;
        self.updated += other.updated;
        self.deleted += other.deleted;
    }

    /// All together.
    pub fn total(self) -> u64 {
        self.inserted + self.updated + self.deleted
    }

    fn note(&mut self, kind: RowKind, rows: u64) {
        match kind {
            RowKind::Inserted => self.inserted += rows,
            RowKind::Updated => self.updated += rows,
            RowKind::Deleted => self.deleted += rows,
            RowKind::TakenBack => self.inserted = self.inserted.saturating_sub(rows),
        }
    }
}

/// A table by its id, which stays the same when its files are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Table {
    /// The database's id; 0 for what all databases share.
    pub database: u32,
    /// Its own id.
    pub id: u32,
}

/// The moment before a transaction ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Before {
    /// Where a restore must stop, exclusive, to have all that came before and nothing that the transaction committed: as a
    /// rule the first byte of the record that ended it.
    pub lsn: Lsn,
    /// What a server restored to there still holds of it.
    pub leftover: Option<Leftover>,
}

/// See [`Before::leftover`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leftover {
    /// The prepared transaction, with its locks; a transaction manager would commit it again.
    Prepared {
        /// Its id.
        xid: u32,
        /// Its name; none when its PREPARE was not read.
        gid: Option<String>,
    },
    /// The mark that the database is invalid, for where it was set was not read: nobody can connect to it.
    InvalidDatabase,
}

/// A transaction that ended, and what it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// Its id; 0 for one that had none.
    pub xid: u32,
    /// How it ended.
    pub kind: EndKind,
    /// When, by the server's clock.
    pub time: Timestamp,
    /// First byte of the record that ended it.
    pub lsn: Lsn,
    /// The moment before it.
    pub before: Before,
    /// Its database, where told.
    pub database: Option<u32>,
    /// Rows written, by relation: tables, catalogues, TOAST tables.
    pub rows: BTreeMap<Relation, RowCounts>,
    /// Relations made that stay.
    pub created: usize,
    /// Relations whose files are removed, without those it had made itself.
    pub dropped: Vec<Relation>,
    /// What it did to whole tables.
    pub acts: Vec<Act>,
    /// Whether all of it was read. Else it may have begun before what was read, or too much went on at one time: then
    /// its rows are at least so many.
    pub is_whole: bool,
}

/// What is told while the log is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happening {
    /// A transaction ended.
    Ended(Transaction),
    /// A restore point was made.
    RestorePoint {
        /// Its name.
        name: String,
        /// When.
        time: Timestamp,
        /// First byte of its record.
        lsn: Lsn,
    },
    /// A checkpoint was completed.
    Checkpoint {
        /// What it says.
        checkpoint: Checkpoint,
        /// First byte of its record.
        lsn: Lsn,
    },
}

/// What a transaction, or a subtransaction, has done so far.
#[derive(Debug, Default)]
struct Work {
    rows: BTreeMap<Relation, RowCounts>,
    created: Vec<Relation>,
    truncated: Vec<Table>,
    locked: BTreeSet<Table>,
    database_created: Option<u32>,
    database_dropped: Option<u32>,
    /// Where the row of the database was marked.
    database_mark: Option<Lsn>,
    /// The moment in which the dropped database was still whole.
    before_database_dropped: Option<Before>,
    prepared: bool,
    gid: Option<String>,
}

impl Work {
    fn entries(&self) -> usize {
        1 + self.rows.len() + self.created.len() + self.truncated.len() + self.locked.len()
    }
}

/// Puts transactions together.
#[derive(Debug)]
pub struct Collector {
    /// Most entries at one time.
    room: usize,
    works: HashMap<u32, Work>,
    /// Relations made by transactions under way.
    made: HashMap<Relation, Made>,
    /// Relations, by database and number, that were made before the transaction had an id. Up to 15 a CREATE takes one
    /// only then; it locks the relation next, whose id is the number of its first files.
    unowned: HashMap<(u32, u32), (Relation, Made)>,
    entries: usize,
    /// Transactions from this one on began after the reading did.
    whole_from: Option<u32>,
    /// Where rows of `pg_database` were last changed in place.
    database_marks: HashMap<RowPlace, Lsn>,
    /// Rows that found no room.
    pub unattributed_rows: u64,
    /// Records of a kind or form that is not known: an extension's, or a later server's.
    pub unknown_records: u64,
}

impl Default for Collector {
    fn default() -> Self {
        Self::bounded(MOST_ENTRIES)
    }
}

impl Collector {
    /// One that remembers at most so many transactions, relations and locks.
    fn bounded(room: usize) -> Self {
        Self {
            room,
            works: HashMap::new(),
            made: HashMap::new(),
            unowned: HashMap::new(),
            entries: 0,
            whole_from: None,
            database_marks: HashMap::new(),
            unattributed_rows: 0,
            unknown_records: 0,
        }
    }

    /// Notes the next record; what it brings to an end goes to `tell`.
    pub fn note(&mut self, record: &Record<'_>, event: &Event, mut tell: impl FnMut(Happening)) {
        match record.parts().and_then(|body| Ok((Change::decode(record, &body)?, body))) {
            Ok((Change::Ended(ended), _)) => {
                if let Event::TransactionEnd(end) = event {
                    tell(Happening::Ended(self.end(record, end, &ended)));
                }
            }
            Ok((change, body)) => self.change(record, &change, &body),
            Err(_) => self.unknown_records += 1,
        }
        let lsn = record.start;
        match event {
            Event::RestorePoint { name, time } => tell(Happening::RestorePoint { name: name.clone(), time: *time, lsn }),
            Event::Checkpoint(checkpoint) => {
                if checkpoint.shutdown {
                    self.restarted();
                }
                tell(Happening::Checkpoint { checkpoint: *checkpoint, lsn });
            }
            Event::EndOfRecovery { .. } => self.restarted(),
            Event::Prepare(prepare) => {
                if let Some(work) = self.works.get_mut(&prepare.xid) {
                    work.gid = Some(prepare.gid.clone());
                }
            }
            _ => {}
        }
    }

    /// Only what was prepared goes on.
    fn restarted(&mut self) {
        self.forget(|_, work| !work.prepared);
        self.unowned.clear();
    }

    /// What follows does not follow what was read so far: a part of the log is missing.
    pub fn interrupt(&mut self) {
        let (unattributed_rows, unknown_records) = (self.unattributed_rows, self.unknown_records);
        *self = Self { unattributed_rows, unknown_records, ..Self::bounded(self.room) };
    }

    fn change(&mut self, record: &Record<'_>, change: &Change<'_>, body: &Body<'_>) {
        self.note_pages(record, body);
        let xid = record.xid;
        match *change {
            Change::Rows { relation, kind, rows } => {
                self.rows(xid, relation, kind, u64::from(rows));
                if kind == RowKind::Deleted && is_pg_database(relation) {
                    let near = |mark: &Lsn| record.start.bytes_since(*mark) < MARK_REACH_BYTES;
                    let mark = changed_row(record, body).and_then(|row| self.database_marks.remove(&row)).filter(near);
                    self.with_room(xid, 0, |work| work.database_mark = mark);
                }
            }
            Change::RelationCreated { relation, fork } => self.created(xid, relation, fork),
            Change::TableTruncated { database, tables, .. } => {
                let tables: Vec<Table> = tables.iter().map(|id| Table { database, id }).collect();
                self.with_room(xid, tables.len(), |work| work.truncated.extend(tables));
            }
            Change::Locked(locks) => {
                for lock in locks.iter() {
                    if let Some((relation, made)) = self.unowned.remove(&(lock.database, lock.relation)) {
                        self.owned(lock.xid, relation, made);
                    }
                    let table = Table { database: lock.database, id: lock.relation };
                    let is_new = self.works.get(&lock.xid).is_none_or(|work| !work.locked.contains(&table));
                    if is_new {
                        self.with_room(lock.xid, 1, |work| work.locked.extend([table]));
                    }
                }
            }
            Change::DatabaseCreated { database, .. } => {
                self.with_room(xid, 0, |work| work.database_created = Some(database));
            }
            Change::DatabaseDropped { database, .. } => {
                let unmarked_lsn = record.start;
                let may_be_invalid = record.major_version >= MARKS_SINCE_MAJOR;
                self.with_room(xid, 0, |work| {
                    work.database_dropped = Some(database);
                    work.before_database_dropped = Some(match work.database_mark {
                        Some(lsn) => Before { lsn, leftover: None },
                        None => Before { lsn: unmarked_lsn, leftover: may_be_invalid.then_some(Leftover::InvalidDatabase) },
                    });
                });
            }
            Change::InPlace { relation } if is_pg_database(relation) => {
                if self.database_marks.len() == MOST_MARKS {
                    self.database_marks.clear();
                }
                self.database_marks.extend(changed_row(record, body).map(|row| (row, record.start)));
            }
            Change::Prepared(prepared) => self.prepared(prepared.xid, prepared.subtransactions.iter()),
            Change::Running { next_xid, oldest_xid } => {
                self.whole_from = self.whole_from.or(Some(next_xid));
                // What is left of transactions that a crash ended.
                self.forget(|xid, _| precedes(xid, oldest_xid));
            }
            Change::Unknown => self.unknown_records += 1,
            _ => {}
        }
    }

    /// A prepared transaction outlives a restart; its subtransactions are one with it from now on.
    fn prepared(&mut self, xid: u32, subtransactions: impl Iterator<Item = u32>) {
        let whole = self.gather(xid, subtransactions);
        self.entries += whole.entries();
        self.works.insert(xid, Work { prepared: true, ..whole });
    }

    /// What a relation that was just made is filled with tells what became of the old one.
    fn note_pages(&mut self, record: &Record<'_>, body: &Body<'_>) {
        if self.made.is_empty() {
            return;
        }
        for block in body.blocks().filter(|block| block.fork == Fork::Main) {
            let Some(made) = self.made.get_mut(&block.relation) else { continue };
            made.pages += 1;
            if record.resource_manager == resource_manager::XLOG {
                match block.image.and_then(|image| image.has_special_space()) {
                    Some(true) => {}
                    Some(false) => made.table_pages = true,
                    None => made.unknown_pages = true,
                }
            }
        }
    }

    fn rows(&mut self, xid: u32, relation: Relation, kind: RowKind, rows: u64) {
        if let Some(counts) = self.works.get_mut(&xid).and_then(|work| work.rows.get_mut(&relation)) {
            return counts.note(kind, rows);
        }
        let noted = self.with_room(xid, 1, |work| work.rows.entry(relation).or_default().note(kind, rows));
        if !noted {
            self.unattributed_rows += rows;
        }
    }

    fn created(&mut self, xid: u32, relation: Relation, fork: Fork) {
        let made = Made { unlogged: fork == Fork::Init, ..Made::default() };
        let number = (relation.database, relation.file_node);
        let known = self.made.get_mut(&relation).or_else(|| self.unowned.get_mut(&number).map(|(_, made)| made));
        match known {
            Some(known) => known.unlogged |= made.unlogged,
            None if !matches!(fork, Fork::Main | Fork::Init) => {}
            None if xid != 0 => self.owned(xid, relation, made),
            None => {
                if self.unowned.len() == MOST_UNOWNED {
                    self.unowned.clear();
                    self.whole_from = None;
                }
                self.unowned.insert(number, (relation, made));
            }
        }
    }

    fn owned(&mut self, xid: u32, relation: Relation, made: Made) {
        if self.with_room(xid, 1, |work| work.created.push(relation)) {
            self.made.insert(relation, made);
        }
    }

    /// Changes the work of `xid` by so many entries; `false` when there is no room.
    fn with_room(&mut self, xid: u32, entries: usize, change: impl FnOnce(&mut Work)) -> bool {
        let is_new = !self.works.contains_key(&xid);
        let more = entries + usize::from(is_new);
        if self.entries + more > self.room {
            // Until the reading is sure again, no transaction is known to be whole.
            self.whole_from = None;
            return false;
        }
        self.entries += more;
        change(self.works.entry(xid).or_default());
        true
    }

    fn forget(&mut self, mut gone: impl FnMut(u32, &Work) -> bool) {
        let (made, entries) = (&mut self.made, &mut self.entries);
        self.works.retain(|xid, work| {
            let goes = gone(*xid, work);
            if goes {
                for relation in &work.created {
                    made.remove(relation);
                }
                *entries -= work.entries();
            }
            !goes
        });
    }

    /// Takes the work of a transaction and of its subtransactions.
    fn gather(&mut self, xid: u32, subtransactions: impl Iterator<Item = u32>) -> Work {
        let mut whole = Work::default();
        for xid in std::iter::once(xid).chain(subtransactions) {
            let Some(work) = self.works.remove(&xid) else { continue };
            self.entries -= work.entries();
            for (relation, counts) in work.rows {
                whole.rows.entry(relation).or_default().add(counts);
            }
            whole.created.extend(work.created);
            whole.truncated.extend(work.truncated);
            whole.locked.extend(work.locked);
            whole.database_created = whole.database_created.or(work.database_created);
            whole.database_dropped = whole.database_dropped.or(work.database_dropped);
            whole.database_mark = whole.database_mark.or(work.database_mark);
            whole.before_database_dropped = whole.before_database_dropped.or(work.before_database_dropped);
        }
        whole
    }

    fn end(&mut self, record: &Record<'_>, end: &TransactionEnd, ended: &Ended<'_>) -> Transaction {
        let gid = self.works.get_mut(&end.xid).and_then(|work| work.gid.take());
        let work = self.gather(end.xid, ended.subtransactions.iter());
        let made: BTreeMap<Relation, Made> =
            work.created.iter().filter_map(|relation| Some((*relation, self.made.remove(relation)?))).collect();
        let mut dropped: Vec<Relation> = ended.dropped.iter().filter(|relation| !made.contains_key(relation)).collect();
        dropped.sort_unstable();
        let gone: BTreeSet<Relation> = ended.dropped.iter().collect();
        let created = made.into_iter().filter(|(relation, _)| !gone.contains(relation)).collect();
        let is_whole = end.xid == 0 || self.whole_from.is_some_and(|first| !precedes(end.xid, first));
        let locked: Vec<Table> = work.locked.into_iter().collect();
        let done = Done {
            rows: &work.rows,
            created: &created,
            dropped: &dropped,
            truncated: &work.truncated,
            locked: &locked,
            database_created: work.database_created,
            database_dropped: work.database_dropped,
            is_whole,
        };
        let acts = if end.kind.is_commit() { acts::recognise(&done) } else { Vec::new() };
        Transaction {
            xid: end.xid,
            kind: end.kind,
            time: end.time,
            lsn: record.start,
            // The files of a database go before the transaction ends.
            before: work.before_database_dropped.unwrap_or(Before {
                lsn: record.start,
                leftover: (end.kind == EndKind::CommitPrepared).then_some(Leftover::Prepared { xid: end.xid, gid }),
            }),
            database: ended.database.or_else(|| work.rows.keys().map(|relation| relation.database).find(|id| *id != 0)),
            created: created.len(),
            dropped,
            acts,
            is_whole,
            rows: work.rows,
        }
    }
}

fn is_pg_database(relation: Relation) -> bool {
    relation.database == 0 && relation.file_node == PG_DATABASE
}

/// Whether transaction `a` is older than `b`: the ids go round (`TransactionIdPrecedes`).
fn precedes(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

#[cfg(test)]
mod tests;
