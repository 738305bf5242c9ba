//! What a backup of a directory would do, found out without reading a file or writing anything to the repository.

use std::sync::Arc;

use super::backup::{BackupOptions, examine, trust};
use super::base::{self, Chosen, Moment};
use super::gather::base_entries;
use super::trouble::Trouble;
use crate::base::cancel::Cancel;
use crate::base::{Result, Timestamp};
use crate::engine::backup::Decision;
use crate::engine::{Scope, joined};
use crate::source::directory::exclude::Excludes;
use crate::source::directory::scan::{Scan, Tally, Task};
use crate::source::directory::walk::WalkOptions;

/// What a backup would do.
#[derive(Clone, Debug)]
pub struct Preview {
    /// The type, and why it is not the one asked for.
    pub decision: Decision,
    /// What the operator should know.
    pub notes: Vec<String>,
    /// What is in the directory.
    pub tally: Tally,
    /// Bytes of the files that would be read, holes included.
    pub read_bytes: u64,
    /// What could not be looked at.
    pub trouble: Trouble,
}

/// Walks beside the base, and counts.
///
/// # Errors
/// Those that a backup would meet before it begins.
pub async fn preview(scope: &Scope, options: &BackupOptions, cancel: &Cancel) -> Result<Preview> {
    let (root, excludes) = examine(options)?;
    let scratch = scope.state.scratch()?;
    let (started, place) = (Timestamp::now(), base::place(&options.path)?);
    let moment = Moment { place: &place, started, identities: &options.identities, scratch: scratch.path() };
    let Chosen { decision, base, notes, newest, .. } = base::choose(scope, options.wish, &moment).await?;
    let walk = WalkOptions {
        excludes: Excludes::new(&excludes)?,
        one_file_system: options.one_file_system,
        threads: options.workers,
        scratch: scratch.path().to_owned(),
    };
    let base = base.map(|base| Ok::<_, crate::base::Error>((base_entries(&base.lines)?, trust(&base, started)))).transpose()?;
    let cancel = cancel.clone();
    let work = tokio::task::spawn_blocking(move || {
        let mut scan = Scan::new(Arc::new(root), walk, base)?;
        let (mut read_bytes, mut trouble) = (0, Trouble::default());
        for task in scan.by_ref() {
            cancel.check()?;
            match task? {
                Task::Read(entry, _) => read_bytes += entry.node.size_bytes,
                Task::Left(left) => trouble.note_left(&left),
                Task::Store(entry) => trouble.note_entry(&entry),
                Task::Keep(_) | Task::Link(..) => {}
            }
        }
        Ok((scan.tally(), read_bytes, trouble))
    });
    let (tally, read_bytes, trouble) = joined(work.await)?;
    let Tally { kept, read, linked, stored, left, .. } = tally;
    base::refuse_emptied(&options.path, newest.as_ref(), kept + read + linked + stored, left)?;
    Ok(Preview { decision, notes, tally, read_bytes, trouble })
}
