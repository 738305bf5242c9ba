//! A database at one commit, page by page, while others write.
//!
//! With a write-ahead log: our read transaction is open, and what is committed is read after it began. From then on no
//! checkpoint copies anything newer into the database file than what had been committed when the transaction began. So a
//! page is its last committed frame, or, without one, what the database file holds, where nobody writes it. When all of
//! the log is in the file already, the file alone is read: then the log may be begun again any time, and the file still
//! is not written. Without a log (rollback journal), a shared lock keeps the file as it is, and commits wait.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::capture::{PageIndex, read_page};
use super::header::{HEADER_BYTES, Header};
use super::position::Moment;
use crate::base::{Error, Result};

/// Offset of the page that SQLite keeps for locks and never writes.
const LOCK_PAGE_OFFSET: u64 = 0x4000_0000;

/// A committed state, ready to be copied ([`super::Watch::copy_snapshot`]).
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Which state, and when.
    pub moment: Moment,
    /// Whether batches can go on from it; not in rollback-journal mode.
    pub continues: bool,
    pub(super) in_log: PageIndex,
    /// The database file's time of modification after the state was taken hold of.
    pub(super) modified: (i64, i64),
}

/// The header of an open database file.
pub(super) fn read_header(database: &File, path: &Path) -> Result<Header> {
    let mut bytes = [0; HEADER_BYTES];
    database.read_exact_at(&mut bytes, 0).map_err(|error| Error::io("read", path, error))?;
    parse_header(&bytes, path)
}

fn parse_header(bytes: &[u8; HEADER_BYTES], path: &Path) -> Result<Header> {
    Header::parse(bytes).map_err(|fault| Error::damaged(format!("cannot read {}: {fault}", path.display())))
}

/// Size of a database in pages by its header, or by its length where the header does not tell.
pub(super) fn pages_of(database: &File, path: &Path, header: &Header) -> Result<u32> {
    let bytes = database.metadata().map_err(|error| Error::io("look at", path, error))?.len();
    let by_length = u32::try_from(bytes / u64::from(header.page_size)).unwrap_or(u32::MAX);
    Ok(header.pages.unwrap_or(by_length))
}

/// Calls `each` with every page (counted from 1) in order.
pub(super) fn copy_pages(
    snapshot: &Snapshot,
    (database, log): (&File, Option<&File>),
    path: &Path,
    each: &mut dyn FnMut(u32, &[u8]) -> Result<()>,
) -> Result<()> {
    let at = &snapshot.moment.at;
    let mut buffer = vec![0; at.page_size as usize];
    for page in 1..=at.pages {
        match (snapshot.in_log.get(&page), log) {
            (Some(place), Some(log)) => read_page(log, path, page, *place, &mut buffer)?,
            (Some(_), None) => return Err(Error::failed("a snapshot with frames is copied without its log")),
            (None, _) => read_from_file(database, path, page, &mut buffer)?,
        }
        if page == 1 {
            check_first_page(snapshot, &buffer, path)?;
        }
        each(page, &buffer)?;
    }
    Ok(())
}

/// A page that never got into the file is one that SQLite never wrote: a free one at its end, or the lock page.
fn read_from_file(database: &File, path: &Path, page: u32, buffer: &mut [u8]) -> Result<()> {
    let offset = u64::from(page - 1) * buffer.len() as u64;
    let mut filled = 0;
    while filled < buffer.len() {
        match database.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io("read", path, error)),
        }
    }
    buffer[filled..].fill(0);
    if offset == LOCK_PAGE_OFFSET {
        buffer.fill(0);
    }
    Ok(())
}

/// The first page tells page size and size as well: they must be those of the commit.
fn check_first_page(snapshot: &Snapshot, page: &[u8], path: &Path) -> Result<()> {
    let at = &snapshot.moment.at;
    let header = parse_header(page.first_chunk().expect("a page has 512 bytes at least"), path)?;
    if header.page_size == at.page_size && header.pages.is_none_or(|pages| pages == at.pages) {
        return Ok(());
    }
    let size = |pages: Option<u32>| pages.map_or("unknown".to_owned(), |pages| pages.to_string());
    Err(Error::damaged(format!("cannot back up {}: its first page does not fit its last commit", path.display()))
        .detail("pages", format!("{} by the first page, {} by the commit", size(header.pages), at.pages))
        .detail("bytes a page", format!("{} by the first page, {} by the commit", header.page_size, at.page_size))
        .hint(format!("sqlite3 {} 'PRAGMA integrity_check' tells more", path.display())))
}
