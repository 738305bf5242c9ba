//! What was streamed of segments: it goes once the segment is there whole, or nothing needs it any more.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::delete::delete;
use crate::base::cancel::Cancel;
use crate::base::progress::Progress;
use crate::base::units::format_bytes;
use crate::base::{Incarnation, Result, Segment, SegmentSize};
use crate::engine::Scope;
use crate::repo::log::{LogCatalog, tail};
use crate::repo::{BackupSummary, CommitLog};
use crate::store::ObjectInfo;

/// Deletes, or counts, pieces that are redundant. A sentence on what went, or would; none when nothing does.
pub(super) async fn delete_redundant(
    scope: &Scope,
    log: &CommitLog,
    acting: bool,
    progress: &Arc<dyn Progress>,
    cancel: &Cancel,
) -> Result<Option<String>> {
    let sizes: BTreeMap<&Incarnation, SegmentSize> =
        log.expired().chain(log.backups()).map(|backup| (&backup.incarnation, backup.segment_bytes)).collect();
    let mut going: Vec<ObjectInfo> = Vec::new();
    for (incarnation, size) in sizes {
        let tails = tail::load(&scope.repository, &scope.source, incarnation, size).await?;
        if tails.segments.is_empty() {
            continue;
        }
        // Listed after the pieces: what is whole now was stored by somebody who knew that it is.
        let catalog = LogCatalog::load(&scope.repository, &scope.source, incarnation, size).await?;
        let kept: Vec<&BackupSummary> = log.backups().filter(|backup| backup.incarnation == *incarnation).collect();
        let cut = log.log_cut(incarnation);
        let is_let_go = |segment: Segment| {
            cut.covers_segment(segment, size) && kept.iter().all(|backup| backup.start_lsn >= segment.end(size))
        };
        let redundant = |segment: &Segment| catalog.segments.contains_key(segment) || is_let_go(*segment);
        let pieces = tails.segments.into_iter().filter(|(segment, _)| redundant(segment)).flat_map(|(_, pieces)| pieces);
        going.extend(pieces.map(|piece| ObjectInfo { key: piece.key, size_bytes: piece.stored_bytes, modified: piece.arrived }));
    }
    if going.is_empty() {
        return Ok(None);
    }
    let bytes = going.iter().map(|object| object.size_bytes).sum();
    let told = format!("{} streamed pieces of log ({}) that nothing needs go as well", going.len(), format_bytes(bytes));
    if acting {
        progress.phase("deleting streamed pieces of log", Some(bytes));
        delete(scope, &going, "expire.log-object-deleted", progress.as_ref(), cancel).await?;
    }
    Ok(Some(told))
}
