//! Segments that PostgreSQL looks for under an older timeline's name.
//!
//! A segment in which a timeline begins is replayed from that timeline's own copy. But what a prepared transaction has
//! done is read back from the log, in `pg_wal`, under the name of the timeline that is being replayed at that moment: up
//! to the switch the older one, whose file recovery never fetches. The server would end with "requested WAL segment … has
//! already been removed". So the copy is placed there under the older name, too (up to the switch they are the same), and
//! marked as archived, so that it is never taken for the older timeline's own.
//!
//! Source: PostgreSQL `XlogReadTwoPhaseData` in `twophase.c`, `read_local_xlog_page` in `xlogutils.c`, 13 to 18.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use super::plan::RestorePlan;
use super::search::LogReader;
use crate::base::{Error, Result};
use crate::engine::timeline::TimelinePath;

/// A segment and the older name that it needs.
pub(super) struct Head {
    name: String,
    raw: Vec<u8>,
}

/// Fetches what `plan` needs: one segment for each switch of timelines inside one that is replayed.
///
/// # Errors
/// When a segment cannot be read.
pub(super) async fn fetch(plan: &RestorePlan, path: &TimelinePath, reader: &dyn LogReader) -> Result<Vec<Head>> {
    let mut heads = Vec::new();
    for segment in &plan.segments {
        for older in path.left_within(*segment).into_iter().filter(|(_, left)| *left > plan.backup.start_lsn) {
            heads.push(Head { name: older.0.name(path.segment_size()), raw: reader.segment(*segment).await? });
        }
    }
    Ok(heads)
}

/// Writes them below the restored data directory, as the owner of that directory.
///
/// # Errors
/// When they cannot be written.
pub(super) fn place(into: &Path, heads: &[Head]) -> Result<()> {
    let (log, status) = (into.join("pg_wal"), into.join("pg_wal/archive_status"));
    for head in heads {
        fs::create_dir_all(&status).map_err(|error| Error::io("create", &status, error))?;
        let (segment, mark) = (log.join(&head.name), status.join(format!("{}.done", head.name)));
        write(into, &mark, b"").map_err(|error| Error::io("write", &mark, error))?;
        write(into, &segment, &head.raw).map_err(|error| Error::io("write", &segment, error))?;
    }
    Ok(())
}

fn write(into: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    fs::write(path, content)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    let (owner, own) = (fs::metadata(into)?, fs::metadata(path)?);
    if (owner.uid(), owner.gid()) != (own.uid(), own.gid()) {
        chown(path, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(())
}
