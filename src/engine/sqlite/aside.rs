//! A copy of a database with a rollback journal, on this host: its writers wait while it is read, and so they wait for a disk
//! and not for a repository.
//!
//! It has no name, lies where only this user may read, and goes with whoever has it open.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, Write};
use std::path::Path;

use super::pages::EachPage;
use crate::base::{Cancel, Error, Result, durable};
use crate::source::sqlite::{Snapshot, Watch};

/// Copies `snapshot` into a file in the directory `dir`, and lets its writers go on; none, and nothing is done, when that would
/// take more than half of what is left on the disk.
///
/// # Errors
/// Those of [`Watch::copy_snapshot`], and when the copy cannot be written.
pub(super) fn set_aside(watch: &mut Watch, snapshot: &Snapshot, dir: &Path, cancel: &Cancel) -> Result<Option<File>> {
    let bytes = u64::from(snapshot.moment.at.pages) * u64::from(snapshot.moment.at.page_size);
    let failed = |error| Error::io("write a copy of the database in", dir, error);
    if durable::free_bytes(dir).map_err(failed)? / 2 < bytes {
        return Ok(None);
    }
    let mut copy = BufWriter::new(tempfile::tempfile_in(dir).map_err(failed)?);
    watch.copy_snapshot(snapshot, |_, page| {
        cancel.check()?;
        copy.write_all(page).map_err(failed)
    })?;
    let mut copy = copy.into_inner().map_err(|error| failed(error.into_error()))?;
    copy.rewind().map_err(failed)?;
    Ok(Some(copy))
}

/// Calls `each` with every page of what was set aside, in order. `dir` is where it lies.
///
/// # Errors
/// When it cannot be read, and those of `each`.
pub(super) fn hand_over(copy: File, snapshot: &Snapshot, dir: &Path, each: &mut EachPage<'_>) -> Result<()> {
    let mut copy = BufReader::new(copy);
    let mut page = vec![0; snapshot.moment.at.page_size as usize];
    for _ in 0..snapshot.moment.at.pages {
        copy.read_exact(&mut page).map_err(|error| Error::io("read a copy of the database in", dir, error))?;
        each(&page)?;
    }
    Ok(())
}
