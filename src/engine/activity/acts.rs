//! What a transaction did to whole tables, as far as the log tells. Pure.
//!
//! A transaction that removes relations and makes none has dropped them. One that makes as many has replaced them, each by
//! a new one (and its rows of `pg_class` balance, too), and what the new ones are filled with tells why:
//!
//! | among the new relations | then it was |
//! |---|---|
//! | one with rows, or with pages of a table | rewritten (VACUUM FULL, CLUSTER, ALTER TABLE), or emptied and filled again |
//! | none of these, and one without any page | truncated (or an empty table was rewritten) |
//! | only some with pages of another form | an index or a sequence, rebuilt |
//! | one whose pages the log does not show: compressed, or unlogged | replaced, one of the three |
//!
//! Where the numbers differ, something was dropped, and something else made or replaced: replaced, too. So is what a
//! transaction removed whose beginning was not read: it may have made the successors there.

use std::collections::BTreeMap;

use crate::source::postgres::wal::Relation;

use super::collect::{RowCounts, Table};

/// So many rows of one relation deleted by one transaction are worth a word.
pub const MANY_ROWS: u64 = 1000;

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ActKind {
    /// Relations were dropped.
    Dropped,
    /// A database was dropped.
    DatabaseDropped,
    /// Tables were emptied.
    Truncated,
    /// Many rows were deleted.
    Deleted,
    /// Tables were written anew; or emptied and filled again.
    Rewritten,
    /// Relations were dropped or replaced; the log does not show which, or whether by empty ones.
    Replaced,
    /// Indexes or sequences were made anew.
    Rebuilt,
    /// Indexes or sequences were dropped; REINDEX CONCURRENTLY drops those that it has replaced.
    IndexDropped,
    /// A database was made.
    DatabaseCreated,
}

impl ActKind {
    /// Whether rows may be gone for good.
    pub fn loses_rows(self) -> bool {
        matches!(self, Self::Dropped | Self::DatabaseDropped | Self::Truncated | Self::Deleted | Self::Replaced)
    }
}

/// One thing done to whole tables, or to many rows of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    /// What.
    pub kind: ActKind,
    /// The relations whose files were removed, or the one whose rows were deleted.
    pub relations: Vec<Relation>,
    /// The tables meant, where the log names them; their indexes may be among them. None where something was dropped: a
    /// lock does not tell that from what it refers to, belongs to or was changed with, which is still there.
    pub tables: Vec<Table>,
    /// Tables that were locked against every other use, where something was dropped or replaced and the log does not show which.
    pub locked: Vec<Table>,
    /// Rows deleted.
    pub rows: Option<u64>,
    /// The database that was made or dropped.
    pub database: Option<u32>,
}

impl Act {
    /// Of this kind, to nothing yet.
    pub(super) fn of(kind: ActKind) -> Self {
        Self { kind, relations: Vec::new(), tables: Vec::new(), locked: Vec::new(), rows: None, database: None }
    }
}

/// The catalogue of relations, as `initdb` makes it.
const PG_CLASS: u32 = 1259;
/// The catalogue of types, as `initdb` makes it. Each table and each materialized view has a row type there; an index has
/// none, and a sequence has none from 14 on.
const PG_TYPE: u32 = 1247;

/// What is known of a relation that the transaction made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Made {
    /// Pages of its main fork that records refer to, each as often as it is.
    pub pages: u64,
    /// One of them has the form of a table's.
    pub table_pages: bool,
    /// The form of one of them is not known.
    pub unknown_pages: bool,
    /// Its pages are not in the log.
    pub unlogged: bool,
}

/// What a transaction did, relation by relation.
pub struct Done<'a> {
    /// Rows written.
    pub rows: &'a BTreeMap<Relation, RowCounts>,
    /// Relations made that stay.
    pub created: &'a BTreeMap<Relation, Made>,
    /// Relations of before that are removed.
    pub dropped: &'a [Relation],
    /// Tables that a TRUNCATE named.
    pub truncated: &'a [Table],
    /// Tables that were locked against every other use.
    pub locked: &'a [Table],
    /// A database made.
    pub database_created: Option<u32>,
    /// A database dropped.
    pub database_dropped: Option<u32>,
    /// Whether all of it was read.
    pub is_whole: bool,
}

/// What the transaction, which committed, did to whole tables.
pub fn recognise(done: &Done<'_>) -> Vec<Act> {
    let mut acts = Vec::new();
    if !done.truncated.is_empty() {
        let (relations, tables) = (done.dropped.to_vec(), done.truncated.to_vec());
        acts.push(Act { relations, tables, ..Act::of(ActKind::Truncated) });
    }
    // What TRUNCATE names accounts for relations that were replaced one by one, and for no others.
    if !done.dropped.is_empty() && (done.truncated.is_empty() || !is_one_for_one(done)) {
        let kind = match (done.is_whole, done.created.is_empty()) {
            (false, _) => ActKind::Replaced,
            (true, true) if !drops_row_types(done) => ActKind::IndexDropped,
            (true, true) => ActKind::Dropped,
            (true, false) => replaced(done),
        };
        let (tables, locked) = match kind {
            ActKind::Dropped | ActKind::IndexDropped => (Vec::new(), Vec::new()),
            ActKind::Replaced => (Vec::new(), done.locked.to_vec()),
            _ => (done.locked.to_vec(), Vec::new()),
        };
        acts.push(Act { relations: done.dropped.to_vec(), tables, locked, ..Act::of(kind) });
    }
    let many = done.rows.iter().filter(|(relation, counts)| counts.deleted >= MANY_ROWS && !relation.is_from_initdb());
    acts.extend(many.map(|(relation, counts)| {
        let (relations, rows) = (vec![*relation], Some(counts.deleted));
        Act { relations, rows, ..Act::of(ActKind::Deleted) }
    }));
    acts.extend(done.database_dropped.map(|id| Act { database: Some(id), ..Act::of(ActKind::DatabaseDropped) }));
    acts.extend(done.database_created.map(|id| Act { database: Some(id), ..Act::of(ActKind::DatabaseCreated) }));
    acts
}

/// Whether a table's or a materialized view's row type may be among what was deleted. Rows deleted from a relation that
/// `initdb` did not make may be those of a catalogue that was rewritten.
fn drops_row_types(done: &Done<'_>) -> bool {
    let mut deleted = done.rows.iter().filter(|(_, counts)| counts.deleted > 0).map(|(relation, _)| relation).peekable();
    deleted.peek().is_none() || deleted.any(|relation| relation.file_node == PG_TYPE || !relation.is_from_initdb())
}

/// Whether each relation that is removed may have a successor among those made.
fn is_one_for_one(done: &Done<'_>) -> bool {
    let of_pg_class = done.rows.iter().filter(|(relation, _)| relation.file_node == PG_CLASS);
    done.created.len() == done.dropped.len() && of_pg_class.map(|(_, rows)| rows).all(|rows| rows.inserted == rows.deleted)
}

/// Why relations were replaced: the table in the module's header, from top to bottom.
fn replaced(done: &Done<'_>) -> ActKind {
    if !is_one_for_one(done) {
        return ActKind::Replaced;
    }
    let inserted = |relation: &Relation| done.rows.get(relation).is_some_and(|counts| counts.inserted > 0);
    let any = |matches: &dyn Fn(&Relation, &Made) -> bool| done.created.iter().any(|(relation, made)| matches(relation, made));
    if any(&|relation, made| made.table_pages || inserted(relation)) {
        ActKind::Rewritten
    } else if any(&|_, made| made.unknown_pages || made.unlogged) {
        ActKind::Replaced
    } else if any(&|_, made| made.pages == 0) {
        ActKind::Truncated
    } else {
        ActKind::Rebuilt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relation(file_node: u32) -> Relation {
        Relation { tablespace: 1663, database: 5, file_node }
    }

    fn kinds(created: &[(u32, Made)], dropped: &[u32], rows: &[(u32, RowCounts)]) -> Vec<ActKind> {
        acts(created, dropped, rows, &[]).iter().map(|act| act.kind).collect()
    }

    fn acts(created: &[(u32, Made)], dropped: &[u32], rows: &[(u32, RowCounts)], locked: &[Table]) -> Vec<Act> {
        let created = created.iter().map(|(number, made)| (relation(*number), *made)).collect();
        let rows = rows.iter().map(|(number, counts)| (relation(*number), *counts)).collect();
        let dropped: Vec<Relation> = dropped.iter().map(|number| relation(*number)).collect();
        let done = Done {
            rows: &rows,
            created: &created,
            dropped: &dropped,
            truncated: &[],
            locked,
            database_created: None,
            database_dropped: None,
            is_whole: true,
        };
        recognise(&done)
    }

    #[test]
    fn what_replaces_a_relation_tells_what_was_done() {
        let pages = |pages| Made { pages, ..Made::default() };
        let table = Made { table_pages: true, ..pages(1) };
        let compressed = Made { unknown_pages: true, ..pages(1) };
        let unlogged = Made { unlogged: true, ..pages(0) };
        let filled = RowCounts { inserted: 1, ..RowCounts::default() };
        for (created, rows, expected) in [
            (vec![], vec![], ActKind::Dropped),
            (vec![(20001, pages(0)), (20002, pages(1))], vec![], ActKind::Truncated),
            (vec![(20001, pages(0)), (20002, table)], vec![], ActKind::Rewritten),
            (vec![(20001, pages(1))], vec![(20001, filled)], ActKind::Rewritten),
            (vec![(20001, pages(7))], vec![], ActKind::Rebuilt),
            (vec![(20001, pages(0)), (20002, compressed)], vec![], ActKind::Replaced),
            (vec![(20001, unlogged)], vec![], ActKind::Replaced),
        ] {
            let dropped: Vec<u32> = (0..created.len().max(1)).map(|number| 20000 - number as u32).collect();
            assert_eq!(kinds(&created, &dropped, &rows), [expected], "{created:?}");
        }
        assert_eq!(kinds(&[(20001, table)], &[20000, 19999], &[]), [ActKind::Replaced], "one of them has no successor");
        let one_more = RowCounts { inserted: 3, updated: 1, deleted: 4 };
        assert_eq!(kinds(&[(20001, table)], &[20000], &[(PG_CLASS, one_more)]), [ActKind::Replaced], "nor here");
        assert_eq!(kinds(&[(20001, pages(0))], &[], &[]), [], "a new table replaces nothing");
    }

    #[test]
    fn what_has_no_row_type_is_no_table() {
        let deleted = |numbers: &[u32]| -> Vec<(u32, RowCounts)> {
            numbers.iter().map(|number| (*number, RowCounts { deleted: 1, ..RowCounts::default() })).collect()
        };
        let of_index = [PG_CLASS, 1249, 2608, 2610];
        assert_eq!(kinds(&[], &[20000], &deleted(&of_index)), [ActKind::IndexDropped]);
        for more in [PG_TYPE, 16500] {
            let of_table = [&of_index[..], &[more]].concat();
            assert_eq!(kinds(&[], &[20000], &deleted(&of_table)), [ActKind::Dropped], "pg_type, or where it lies now");
        }
        assert_eq!(kinds(&[], &[20000], &[]), [ActKind::Dropped], "nothing is known");
        assert!(!ActKind::IndexDropped.loses_rows());
    }

    #[test]
    fn a_lock_does_not_tell_what_was_dropped() {
        let locked = [16384, 16390].map(|id| Table { database: 5, id });
        let empty = (20001, Made::default());
        for (created, dropped, kind, tables, told) in [
            (&[][..], &[20000][..], ActKind::Dropped, &[][..], &[][..]),
            (&[empty], &[20000, 19999], ActKind::Replaced, &[], &locked),
            (&[empty], &[20000], ActKind::Truncated, &locked, &[]),
        ] {
            let found = acts(created, dropped, &[], &locked);
            assert_eq!((found[0].kind, &found[0].tables[..], &found[0].locked[..]), (kind, tables, told));
            assert_eq!(found[0].relations.len(), dropped.len());
        }
    }

    #[test]
    fn many_deleted_rows_are_told_but_not_those_of_a_catalogue() {
        let deleted = |deleted| RowCounts { deleted, ..RowCounts::default() };
        assert_eq!(kinds(&[], &[], &[(20000, deleted(1000))]), [ActKind::Deleted]);
        assert_eq!(kinds(&[], &[], &[(20000, deleted(999)), (1249, deleted(5000))]), []);
    }
}
