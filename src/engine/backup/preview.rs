//! What a backup would do, found out without doing any of it.

use std::path::PathBuf;

use super::base::{self, Moment};
use super::how::Detection;
use super::plan::Decision;
use super::prepare::examine;
use super::run::{BackupOptions, Total, pack_bytes, total};
use super::underway::Witnesses;
use crate::base::{Incarnation, Result, Timestamp};
use crate::engine::Scope;
use crate::source::postgres::walk::WalkOptions;

/// What a backup would do.
#[derive(Clone, Debug)]
pub struct Preview {
    /// The type, and why it is not the one asked for.
    pub decision: Decision,
    /// What the operator should know of how changes would be found.
    pub notes: Vec<String>,
    /// How changed pages would be known; none for a full.
    pub detection: Option<Detection>,
    /// The cluster.
    pub incarnation: Incarnation,
    /// The server's version, in its own words.
    pub server_version: String,
    /// Whether the server is a standby.
    pub from_standby: bool,
    /// What would be read.
    pub data_directory: PathBuf,
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes in them.
    pub raw_bytes: u64,
    /// Bytes of frames in a pack.
    pub pack_bytes: u64,
    /// Number of packs if nothing could be compressed.
    pub packs_at_most: u64,
}

/// Connects, looks at the data directory and counts; changes nothing on the server or in the repository.
///
/// # Errors
/// Those that a backup would meet before it begins.
pub async fn preview(scope: &Scope, options: &BackupOptions) -> Result<Preview> {
    let server = examine(scope, options).await?;
    let mut walk = WalkOptions::new(server.info.major, &server.control);
    walk.stats_temp_directory = server.info.stats_temp_directory.clone();
    let Total { entries, raw_bytes } = total(&server.data_directory, &walk)?;
    let pack_bytes = pack_bytes(options.pack_bytes, raw_bytes);
    let now = server.session.clock().await?;
    let (data_directory, queue) = (&server.data_directory, options.queue.as_ref());
    let witnesses = Witnesses { data_directory, primary: server.primary.as_ref(), queue };
    let moment = Moment {
        info: &server.info,
        incarnation: &server.incarnation,
        data_directory,
        timeline: server.info.timeline,
        start_lsn: server.session.log_end().await?,
        is_preview: true,
        start_time: now,
        host_time: Timestamp::now(),
        underway: witnesses.segments(&server.incarnation, server.info.wal_segment_size).await,
    };
    let chosen = base::choose(scope, options.wish, &options.reading, &moment).await?;
    Ok(Preview {
        decision: chosen.decision,
        notes: chosen.notes,
        detection: chosen.detection,
        incarnation: server.incarnation,
        server_version: server.info.version.clone(),
        from_standby: server.info.in_recovery,
        data_directory: server.data_directory,
        entries,
        raw_bytes,
        pack_bytes,
        packs_at_most: raw_bytes.div_ceil(pack_bytes),
    })
}
