//! What records do to relations, databases and transactions, beside what they mean to a restore ([`super::Event`]).
//!
//! Decoded only where somebody asks: whoever wants the ends of transactions alone does not pay for it. What is not known
//! is said to be unknown ([`Change::Unknown`]), never guessed.
//!
//! A page that a record changes is among its blocks, with two exceptions, both in the visibility map: row changes that
//! clear a bit of it, and the cutting of a relation, do not name the map's page.
//!
//! Sources: PostgreSQL `src/include/catalog/storage_xlog.h`, `src/include/commands/dbcommands_xlog.h`,
//! `src/include/access/heapam_xlog.h`, `src/include/storage/standbydefs.h`, `src/include/access/rmgrlist.h`.

use super::body::{Body, Relation};
use super::bytes::{u16_at, u32_at};
use super::error::WalError;
use super::list::{Item, List};
use super::record::{Record, resource_manager as manager};
use super::transaction::{self, Assignment, Ended, PreparedDetails};
use crate::source::Fork;

/// What a record does.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// Files of a relation were made.
    RelationCreated {
        /// Whose.
        relation: Relation,
        /// Of which fork.
        fork: Fork,
    },
    /// A relation was cut off after so many pages.
    RelationCut {
        /// Which.
        relation: Relation,
        /// Pages that stay, of the main fork.
        blocks: u32,
        /// Which forks were cut.
        forks: CutForks,
    },
    /// A database was made.
    DatabaseCreated {
        /// Its id.
        database: u32,
        /// Its default tablespace.
        tablespace: u32,
        /// Database and tablespace whose directory was copied; none when each page of it is in the log (from 15 on).
        copy_of: Option<(u32, u32)>,
    },
    /// A database was dropped: at once, whatever becomes of the transaction.
    DatabaseDropped {
        /// Its id.
        database: u32,
        /// Where it had files.
        tablespaces: List<'a, u32>,
    },
    /// Rows of a table, a catalogue or a TOAST table were written.
    Rows {
        /// Which.
        relation: Relation,
        /// How.
        kind: RowKind,
        /// How many.
        rows: u32,
    },
    /// TRUNCATE, as logical decoding is told: only with `wal_level = logical`.
    TableTruncated {
        /// The database's id.
        database: u32,
        /// With CASCADE.
        cascades: bool,
        /// With RESTART IDENTITY.
        restarts_identity: bool,
        /// Ids of the tables (not the numbers of their files).
        tables: List<'a, u32>,
    },
    /// A page's rows became visible to all: a bit of the visibility map, and the page's own flag, were set.
    Visible {
        /// The table.
        relation: Relation,
        /// The table's page. It counts as touched.
        block: u32,
        /// The map's page.
        map_block: u32,
        /// Flags set: 1 all visible, 2 all frozen.
        flags: u8,
    },
    /// A row of a system catalogue was changed in place, outside any transaction.
    InPlace {
        /// The catalogue.
        relation: Relation,
    },
    /// A transaction ended.
    Ended(Ended<'a>),
    /// A transaction was prepared.
    Prepared(PreparedDetails<'a>),
    /// Subtransactions were assigned to their top-level transaction.
    Assigned(Assignment<'a>),
    /// Relations were locked against every other use, as TRUNCATE, DROP, ALTER and VACUUM FULL do.
    Locked(List<'a, ExclusiveLock>),
    /// Which transactions run.
    Running {
        /// The next transaction id.
        next_xid: u32,
        /// The oldest one that runs or is prepared.
        oldest_xid: u32,
    },
    /// Something known that does none of these.
    Other,
    /// Not known: another kind, or other flags, than this version of the server is known to write; or an extension's.
    Unknown,
}

/// What happened to rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RowKind {
    /// INSERT and COPY.
    Inserted,
    /// UPDATE.
    Updated,
    /// DELETE, and the old place of a row that an UPDATE moved to another partition.
    Deleted,
    /// An INSERT … ON CONFLICT took back what it had tried.
    TakenBack,
}

/// Which forks of a relation were cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutForks {
    /// The main fork.
    pub main: bool,
    /// The visibility map.
    pub visibility_map: bool,
    /// The free space map.
    pub free_space_map: bool,
}

/// An `ACCESS EXCLUSIVE` lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExclusiveLock {
    /// The transaction that holds it.
    pub xid: u32,
    /// The database's id; 0 for what all databases share.
    pub database: u32,
    /// The relation's id (not the number of its files).
    pub relation: u32,
}

impl Item for ExclusiveLock {
    const BYTES: usize = 12;

    fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self { xid: u32_at(bytes, 0)?, database: u32_at(bytes, 4)?, relation: u32_at(bytes, 8)? })
    }
}

/// In the lower half of the info: the only flags known (`XLR_SPECIAL_REL_UPDATE`, `XLR_CHECK_CONSISTENCY`).
const KNOWN_LOW_BITS: u8 = 0x03;
/// In the upper half, for changes of rows: the page is made anew.
const INIT_PAGE: u8 = 0x80;

impl<'a> Change<'a> {
    /// Interprets a record, given its body.
    ///
    /// # Errors
    /// [`WalError::Malformed`] when a record of a known kind has not the form of its version.
    pub fn decode(record: &Record<'a>, body: &Body<'a>) -> Result<Self, WalError> {
        if record.info & 0x0F & !KNOWN_LOW_BITS != 0 {
            return Ok(Change::Unknown);
        }
        let kind = record.info & 0xF0;
        let main_data = || body.main_data().ok_or_else(|| record.malformed("body", "only its beginning", "all of it"));
        let decoded = match record.resource_manager {
            manager::XLOG => Some(if is_known_mark(kind, record.major_version) { Change::Other } else { Change::Unknown }),
            manager::TRANSACTION => return transaction::decode_change(record, main_data()?),
            manager::STORAGE => storage(kind, main_data()?),
            manager::DATABASE => database(kind, record.major_version, main_data()?),
            manager::TABLESPACE => Some(if matches!(kind, 0x00 | 0x10) { Change::Other } else { Change::Unknown }),
            manager::STANDBY => standby(kind, main_data()?),
            manager::HEAP => heap(kind, body, main_data()?),
            manager::HEAP2 => heap2(kind, record.major_version, body, main_data()?),
            other if other <= manager::LAST_BUILT_IN => Some(Change::Other),
            _ => Some(Change::Unknown),
        };
        decoded.ok_or_else(|| {
            let what = format!("resource manager {}, kind {kind:02X}", record.resource_manager);
            record.malformed("record", format!("{what}, in another form"), format!("that of version {}", record.major_version))
        })
    }
}

/// A row's place in its relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RowPlace {
    /// Number of its page.
    pub block: u32,
    /// Its number on the page, from 1 on.
    pub row: u16,
}

/// The row that a DELETE, or a change in place, is about; `None` for other records.
pub fn changed_row(record: &Record<'_>, body: &Body<'_>) -> Option<RowPlace> {
    // xl_heap_delete begins with a transaction's id, xl_heap_inplace with the row's number.
    let at = match (record.resource_manager, record.info & 0xF0) {
        (manager::HEAP, 0x10) => 4,
        (manager::HEAP, 0x70) => 0,
        _ => return None,
    };
    Some(RowPlace { block: body.block(0)?.block, row: u16_at(body.main_data()?, at)? })
}

fn is_known_mark(kind: u8, major_version: u16) -> bool {
    match kind {
        0x00..=0xB0 | 0xD0 => true,
        0xE0 => major_version >= 17,
        _ => false,
    }
}

fn relation_at(data: &[u8], at: usize) -> Option<Relation> {
    Relation::read(data.get(at..)?)
}

fn storage(kind: u8, data: &[u8]) -> Option<Change<'_>> {
    match kind {
        0x10 => {
            let fork = match u32_at(data, 12)? {
                0 => Fork::Main,
                1 => Fork::FreeSpaceMap,
                2 => Fork::VisibilityMap,
                3 => Fork::Init,
                _ => return Some(Change::Unknown),
            };
            Some(Change::RelationCreated { relation: relation_at(data, 0)?, fork })
        }
        0x20 => {
            let flags = u32_at(data, 16)?;
            if flags & !0x07 != 0 {
                return Some(Change::Unknown);
            }
            let forks = CutForks { main: flags & 1 != 0, visibility_map: flags & 2 != 0, free_space_map: flags & 4 != 0 };
            Some(Change::RelationCut { blocks: u32_at(data, 0)?, relation: relation_at(data, 4)?, forks })
        }
        _ => Some(Change::Unknown),
    }
}

/// Up to 14 a new database is always a copied directory; 15 put the other way's number in between.
fn database(kind: u8, major_version: u16, data: &[u8]) -> Option<Change<'_>> {
    let number = |at| u32_at(data, at);
    let drop = if major_version >= 15 { 0x20 } else { 0x10 };
    match kind {
        0x00 => {
            let copy_of = Some((number(8)?, number(12)?));
            Some(Change::DatabaseCreated { database: number(0)?, tablespace: number(4)?, copy_of })
        }
        0x10 if major_version >= 15 => {
            Some(Change::DatabaseCreated { database: number(0)?, tablespace: number(4)?, copy_of: None })
        }
        kind if kind == drop => {
            let (tablespaces, _) = List::at(data, 8, number(4)?)?;
            Some(Change::DatabaseDropped { database: number(0)?, tablespaces })
        }
        _ => Some(Change::Unknown),
    }
}

fn standby(kind: u8, data: &[u8]) -> Option<Change<'_>> {
    match kind {
        0x00 => Some(Change::Locked(List::at(data, 4, u32_at(data, 0)?)?.0)),
        0x10 => Some(Change::Running { next_xid: u32_at(data, 12)?, oldest_xid: u32_at(data, 16)? }),
        0x20 => Some(Change::Other),
        _ => Some(Change::Unknown),
    }
}

fn heap<'a>(kind: u8, body: &Body<'a>, data: &'a [u8]) -> Option<Change<'a>> {
    let relation = || body.block(0).map(|block| block.relation);
    let rows = |kind| Some(Change::Rows { relation: relation()?, kind, rows: 1 });
    let new_page = kind & INIT_PAGE != 0;
    match kind & !INIT_PAGE {
        0x00 => rows(RowKind::Inserted),
        0x10 if !new_page => {
            // Flag 8: the row was only tried (XLH_DELETE_IS_SUPER).
            let tried = *data.get(7)? & 0x08 != 0;
            rows(if tried { RowKind::TakenBack } else { RowKind::Deleted })
        }
        0x20 | 0x40 => rows(RowKind::Updated),
        0x30 if !new_page => {
            let flags = *data.get(8)?;
            if flags & !0x03 != 0 {
                return Some(Change::Unknown);
            }
            let (tables, _) = List::at(data, 12, u32_at(data, 4)?)?;
            let (cascades, restarts_identity) = (flags & 1 != 0, flags & 2 != 0);
            Some(Change::TableTruncated { database: u32_at(data, 0)?, cascades, restarts_identity, tables })
        }
        0x70 if !new_page => Some(Change::InPlace { relation: relation()? }),
        // A tried row is confirmed, a row is locked.
        0x50 | 0x60 if !new_page => Some(Change::Other),
        _ => Some(Change::Unknown),
    }
}

fn heap2<'a>(kind: u8, major_version: u16, body: &Body<'a>, data: &'a [u8]) -> Option<Change<'a>> {
    let new_page = kind & INIT_PAGE != 0;
    match kind & !INIT_PAGE {
        0x50 => {
            let rows = u32::from(u16_at(data, 2)?);
            Some(Change::Rows { relation: body.block(0)?.relation, kind: RowKind::Inserted, rows })
        }
        0x40 if !new_page => {
            let flags = *data.get(4)?;
            // 16 added a flag for catalogues, which is not set in the map.
            let known = if major_version >= 16 { 0x07 } else { 0x03 };
            if flags & !known != 0 {
                return Some(Change::Unknown);
            }
            let (map, heap) = (body.block(0)?, body.block(1)?);
            let (block, map_block) = (heap.block, map.block);
            Some(Change::Visible { relation: heap.relation, block, map_block, flags: flags & 0x03 })
        }
        // Pruning, freezing, cleaning up under names that changed with 14 and 17; locked rows; marks for decoding.
        0x00 | 0x10 | 0x20 | 0x30 | 0x60 | 0x70 if !new_page => Some(Change::Other),
        _ => Some(Change::Unknown),
    }
}
