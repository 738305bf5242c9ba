//! The way of a real segment from the server into the repository and back.

use std::time::{Duration, Instant};

use super::server::Found;
use super::{Cluster, Finding, Level, Subject};
use crate::base::units::format_duration;
use crate::base::{Error, Incarnation, Result, Segment};
use crate::engine::Scope;
use crate::engine::archive::get;
use crate::repo::layout;
use crate::repo::log::SegmentName;
use crate::source::postgres::server::ArchiveMode;
use crate::source::postgres::wal::{Carry, summarise};
use crate::store::{ObjectInfo, list_all};

const SUBJECT: &str = "archive";
const POLL: Duration = Duration::from_millis(200);

pub(super) async fn check(scope: &Scope, subject: &Subject<'_>, cluster: &Cluster<'_>, server: &Found) -> Vec<Finding> {
    if server.info.in_recovery {
        return vec![
            Finding::warning(SUBJECT, "not tried: a standby does not switch segments").hint("run the check on the primary"),
        ];
    }
    if server.info.archive_mode == ArchiveMode::Off {
        return Vec::new();
    }
    match round_trip(scope, subject, cluster, server).await {
        Ok(finding) => vec![finding],
        Err(error) => vec![Finding::of_error(Level::Fault, SUBJECT, &error)],
    }
}

/// Has a segment archived, and reads it back when this host has a key.
async fn round_trip(scope: &Scope, subject: &Subject<'_>, cluster: &Cluster<'_>, server: &Found) -> Result<Finding> {
    let size = server.info.wal_segment_size;
    // The restore point gives the segment a record of its own; a switch of an empty segment does nothing.
    server.session.create_restore_point("lifeboat check").await?;
    let lsn = server.session.switch_wal().await?;
    let segment = Segment::ending_at(server.info.timeline, lsn, size);
    let incarnation = Incarnation::postgres(server.info.major, server.info.system_identifier);
    let began = Instant::now();
    let object = wait(scope, cluster.archive_timeout, &incarnation, segment, &segment.name(size)).await?;
    let took = format_duration(began.elapsed());
    let archived = format!("segment {} arrived {took} after its switch", segment.name(size));
    let identities = subject.identities.identities()?;
    if object.key.ends_with(".age") && identities.is_empty() {
        return Ok(Finding::ok(SUBJECT, archived));
    }
    let name = object.key.rsplit('/').next().and_then(|name| SegmentName::parse(name, size));
    let name = name.ok_or_else(|| Error::damaged(format!("{} is not a name that lifeboat gives", object.key)))?;
    let opener = get::opener(scope, subject.identities, &incarnation, &object.key).await?;
    let raw = get::fetch(scope, &object.key, &opener, &name.digest, size.bytes()).await?;
    summarise(segment, size, &raw, &Carry::Unknown)?;
    Ok(Finding::ok(SUBJECT, format!("{archived}, and reads back whole")))
}

async fn wait(scope: &Scope, patience: Duration, incarnation: &Incarnation, segment: Segment, name: &str) -> Result<ObjectInfo> {
    let prefix = format!("{}{name}_", layout::log_timeline(&scope.source, incarnation, segment.timeline));
    let began = Instant::now();
    loop {
        if let Some(object) = list_all(scope.repository.store(), &prefix, None).await?.into_iter().next() {
            return Ok(object);
        }
        if began.elapsed() >= patience {
            return Err(Error::failed(format!("segment {name} was not archived within {}", format_duration(patience)))
                .hint(format!("archive_command should be: lifeboat archive push {} %p", scope.source))
                .hint("the server's log says what its archive_command printed"));
        }
        tokio::time::sleep(POLL).await;
    }
}
