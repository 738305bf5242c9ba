//! Where the chunks of a chain of backups are stored, by their addresses: a file on the protected host.
//!
//! It lives and ends with a chain: a full begins an empty one, so a full stores anew all it needs. Losing it costs space,
//! never data: what is not found is stored again.
//!
//! How it could lose data, and why it does not:
//! - It names a chunk of a backup that was never committed, or has expired. Each record says which backup holds the chunk,
//!   and only those that the new backup's chain names count; the chain is read from the repository's commit log.
//! - A crash leaves half of a backup's records. They are one transaction, committed after the backup itself.
//! - A flipped bit leads to another frame. Each record carries a check of its address and value; one that fails it is not
//!   used, and counted.
//!
//! A redb B-tree: its memory is the cache's [`CACHE_BYTES`], its transactions survive a crash. A chunk takes 64 bytes and the
//! tree's slack, 134 in all as measured: about 1 GiB for 1 TiB of new data.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::{Builder, Database, ReadableTable, TableDefinition, WriteTransaction};
use sha2::{Digest, Sha256};

use super::chunk::Address;
use crate::base::{BackupId, Error, Result};

/// Address → record.
const CHUNKS: TableDefinition<[u8; 32], [u8; RECORD_BYTES]> = TableDefinition::new("chunks-1");
/// Number used in records → backup.
const OWNERS: TableDefinition<u32, &str> = TableDefinition::new("owners-1");
/// Owner, pack, offset, stored length, raw length, and eight bytes of check.
const RECORD_BYTES: usize = 4 + 4 + 8 + 4 + 4 + CHECK_BYTES;
const CHECK_BYTES: usize = 8;
/// Of the tree held in memory.
pub const CACHE_BYTES: usize = 32 << 20;

/// A frame that holds a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The backup that holds it.
    pub owner: BackupId,
    /// Number of its pack.
    pub pack: u32,
    /// Where the frame begins in the pack's raw bytes.
    pub offset: u64,
    /// Length of the frame.
    pub stored_bytes: u32,
    /// Length of the chunk.
    pub raw_bytes: u32,
}

/// An index open for one backup. Threads may share it.
pub struct Index {
    /// Goes before the database.
    transaction: Mutex<WriteTransaction>,
    _database: Database,
    path: PathBuf,
    /// Backups whose chunks may be used, this one among them.
    owners: BTreeMap<u32, BackupId>,
    own: u32,
    damaged: AtomicU64,
}

impl Index {
    /// Begins the index of a new chain, for the full backup `full`, at `path`, where an older one is removed.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(path: &Path, full: &BackupId) -> Result<Self> {
        Self::anew(path, &[], full)
    }

    /// Begins the index of the committed backups `chain` anew, for the backup `new`: whoever knows what they hold
    /// [records](Index::record) it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn anew(path: &Path, chain: &[BackupId], new: &BackupId) -> Result<Self> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::io("remove", path, error)),
            _ => {}
        }
        let mut index = Self::open(path, &[], new)?;
        index.admit(chain).map_err(|error| failure(path, error))?;
        Ok(index)
    }

    fn admit(&mut self, chain: &[BackupId]) -> Result<(), redb::Error> {
        let transaction = self.transaction.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut table = transaction.open_table(OWNERS)?;
        for (number, id) in (self.own + 1..).zip(chain) {
            table.insert(number, id.to_string().as_str())?;
            self.owners.insert(number, id.clone());
        }
        Ok(())
    }

    /// Opens the index at `path` for the backup `new`, which builds on the committed backups `chain`.
    ///
    /// # Errors
    /// When it cannot be read or written; removing it costs space, not data.
    pub fn open(path: &Path, chain: &[BackupId], new: &BackupId) -> Result<Self> {
        let opened = || -> Result<_, redb::Error> {
            let database = Builder::new().set_cache_size(CACHE_BYTES).create(path)?;
            let transaction = database.begin_write()?;
            let (owners, own) = own_number(&transaction, chain, new)?;
            // The table is made here, so that looking something up never has to.
            transaction.open_table(CHUNKS)?;
            Ok((database, transaction, owners, own))
        };
        let (database, transaction, mut owners, own) = opened().map_err(|error| failure(path, error))?;
        owners.insert(own, new.clone());
        let (path, damaged) = (path.to_owned(), AtomicU64::new(0));
        Ok(Self { transaction: Mutex::new(transaction), _database: database, path, owners, own, damaged })
    }

    /// Where a chunk of `raw_bytes` with this address is stored, if it is in this chain.
    ///
    /// # Errors
    /// When the file fails.
    pub fn find(&self, address: &Address, raw_bytes: usize) -> Result<Option<Place>> {
        let record =
            || -> Result<_, redb::Error> { Ok(self.lock().open_table(CHUNKS)?.get(address.0)?.map(|record| record.value())) };
        let Some(record) = record().map_err(|error| failure(&self.path, error))? else { return Ok(None) };
        Ok(self.place(address, &record).filter(|place| place.raw_bytes as usize == raw_bytes))
    }

    /// Notes where the chunk is stored: by this backup, or by one of its chain.
    ///
    /// # Errors
    /// When the file fails, or the backup that holds it is none of these.
    pub fn record(&self, address: &Address, place: &Place) -> Result<()> {
        let owner = self.owners.iter().find(|(_, id)| **id == place.owner).map(|(number, _)| *number);
        let owner = owner.ok_or_else(|| Error::failed(format!("{} is not of this chain", place.owner)))?;
        let record = encode(address, owner, place);
        let insert = || -> Result<_, redb::Error> { Ok(self.lock().open_table(CHUNKS)?.insert(address.0, record).map(|_| ())?) };
        insert().map_err(|error| failure(&self.path, error))
    }

    /// Records that failed their check and were not used.
    pub fn damaged_records(&self) -> u64 {
        self.damaged.load(Ordering::Relaxed)
    }

    /// Makes this backup's records durable. To be called once the backup is committed; dropped instead, they are forgotten.
    ///
    /// # Errors
    /// When the file fails.
    pub fn commit(self) -> Result<()> {
        let transaction = self.transaction.into_inner().unwrap_or_else(PoisonError::into_inner);
        transaction.commit().map_err(|error| failure(&self.path, error.into()))
    }

    fn lock(&self) -> MutexGuard<'_, WriteTransaction> {
        self.transaction.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a record says; none when its owner is not of this chain or its check fails.
    fn place(&self, address: &Address, record: &[u8; RECORD_BYTES]) -> Option<Place> {
        let (value, check) = record.split_at(RECORD_BYTES - CHECK_BYTES);
        if check != check_of(address, value) {
            self.damaged.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let number = |at: usize| value[at..at + 4].try_into().map(u32::from_le_bytes);
        let offset = value[8..16].try_into().map(u64::from_le_bytes);
        let (owner, pack, stored, raw) = (number(0).ok()?, number(4).ok()?, number(16).ok()?, number(20).ok()?);
        let owner = self.owners.get(&owner)?.clone();
        Some(Place { owner, pack, offset: offset.ok()?, stored_bytes: stored, raw_bytes: raw })
    }
}

/// The numbers of the backups in `chain`, and a number that no backup had before, noted for `new`.
fn own_number(
    transaction: &WriteTransaction,
    chain: &[BackupId],
    new: &BackupId,
) -> Result<(BTreeMap<u32, BackupId>, u32), redb::Error> {
    let mut table = transaction.open_table(OWNERS)?;
    let (mut owners, mut next) = (BTreeMap::new(), 0);
    for known in table.iter()? {
        let (number, name) = known?;
        if let Some(id) = chain.iter().find(|id| id.to_string() == name.value()) {
            owners.insert(number.value(), id.clone());
        }
        next = number.value() + 1;
    }
    table.insert(next, new.to_string().as_str())?;
    Ok((owners, next))
}

fn encode(address: &Address, owner: u32, place: &Place) -> [u8; RECORD_BYTES] {
    let mut record = [0; RECORD_BYTES];
    record[0..4].copy_from_slice(&owner.to_le_bytes());
    record[4..8].copy_from_slice(&place.pack.to_le_bytes());
    record[8..16].copy_from_slice(&place.offset.to_le_bytes());
    record[16..20].copy_from_slice(&place.stored_bytes.to_le_bytes());
    record[20..24].copy_from_slice(&place.raw_bytes.to_le_bytes());
    let check = check_of(address, &record[..24]);
    record[24..].copy_from_slice(&check);
    record
}

fn check_of(address: &Address, value: &[u8]) -> [u8; CHECK_BYTES] {
    let digest = Sha256::new().chain_update(address.0).chain_update(value).finalize();
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&digest[..CHECK_BYTES]);
    check
}

fn failure(path: &Path, error: redb::Error) -> Error {
    Error::failed(format!("the index of chunks {} fails", path.display()))
        .caused_by(error)
        .hint(format!("rm '{}'   costs a full backup, no data", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{BackupType, Timestamp};

    fn id(seconds: i64) -> BackupId {
        BackupId::fresh(Timestamp::from_unix_micros(seconds * 1_000_000).unwrap(), BackupType::Incr)
    }

    fn place(owner: &BackupId, pack: u32) -> Place {
        Place { owner: owner.clone(), pack, offset: u64::from(pack) << 33, stored_bytes: 7, raw_bytes: 1000 }
    }

    #[test]
    fn only_committed_backups_of_the_chain_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chunks");
        let (full, torn, first, second, other) = (id(1), id(2), id(3), id(4), id(5));
        let address = |n: u8| Address([n; 32]);
        let index = Index::create(&path, &full).unwrap();
        index.record(&address(1), &place(&full, 1)).unwrap();
        assert_eq!(index.find(&address(1), 1000).unwrap(), Some(place(&full, 1)), "its own at once");
        assert_eq!(index.find(&address(1), 999).unwrap(), None, "another length is another chunk");
        index.commit().unwrap();
        let index = Index::open(&path, std::slice::from_ref(&full), &torn).unwrap();
        index.record(&address(2), &place(&torn, 2)).unwrap();
        drop(index);
        let index = Index::open(&path, std::slice::from_ref(&full), &first).unwrap();
        assert_eq!(index.find(&address(2), 1000).unwrap(), None, "never committed");
        index.record(&address(3), &place(&first, 3)).unwrap();
        index.commit().unwrap();
        let index = Index::open(&path, &[full.clone(), first.clone()], &second).unwrap();
        assert_eq!(index.find(&address(1), 1000).unwrap(), Some(place(&full, 1)));
        assert_eq!(index.find(&address(3), 1000).unwrap(), Some(place(&first, 3)));
        drop(index);
        // A diff builds on the full alone, whatever came between.
        let index = Index::open(&path, std::slice::from_ref(&full), &other).unwrap();
        assert_eq!(index.find(&address(3), 1000).unwrap(), None);
        drop(index);
        let index = Index::create(&path, &other).unwrap();
        assert_eq!(index.find(&address(1), 1000).unwrap(), None, "a full begins anew");
    }

    #[test]
    fn an_index_that_is_made_anew_serves_as_the_old_one_did() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chunks");
        let (full, first, second, stranger) = (id(1), id(2), id(3), id(4));
        std::fs::write(&path, b"no index at all").unwrap();
        assert!(Index::open(&path, std::slice::from_ref(&full), &first).is_err());
        let index = Index::anew(&path, std::slice::from_ref(&full), &first).unwrap();
        index.record(&Address([1; 32]), &place(&full, 1)).unwrap();
        index.record(&Address([2; 32]), &place(&first, 2)).unwrap();
        assert!(index.record(&Address([3; 32]), &place(&stranger, 3)).is_err());
        index.commit().unwrap();
        let index = Index::open(&path, &[first.clone(), full.clone()], &second).unwrap();
        assert_eq!(index.find(&Address([1; 32]), 1000).unwrap(), Some(place(&full, 1)));
        assert_eq!(index.find(&Address([2; 32]), 1000).unwrap(), Some(place(&first, 2)));
        assert_eq!(index.find(&Address([3; 32]), 1000).unwrap(), None);
    }

    #[test]
    fn a_flipped_bit_is_noticed_wherever_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let full = id(1);
        let index = Index::create(&dir.path().join("chunks"), &full).unwrap();
        let address = Address([9; 32]);
        let whole = encode(&address, index.own, &place(&full, 6));
        assert_eq!(index.place(&address, &whole), Some(place(&full, 6)));
        for bit in 0..RECORD_BYTES * 8 {
            let mut record = whole;
            record[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(index.place(&address, &record), None, "bit {bit}");
        }
        assert_eq!(index.place(&Address([8; 32]), &whole), None);
        assert_eq!(index.damaged_records(), RECORD_BYTES as u64 * 8 + 1);
    }
}
