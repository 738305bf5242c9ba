//! What the source's own server had committed when the disaster was declared: what a recovery would have lost.
//!
//! Asked with one session and by reading its `pg_wal`; nothing is written there.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::base::{Incarnation, Lsn, Result, SegmentSize, TimelineId, Timestamp};
use crate::cli::config::{SourceKind, SourceSettings};
use crate::engine::drill::evidence::Loss;
use crate::engine::drill::run::Drilled;
use crate::engine::restore::plan::{RecoveryStop, RestorePlan};
use crate::engine::status::rpo::Exposure;
use crate::engine::status::unarchived::{Known, OwnLog, Reached, exposure};
use crate::source::postgres::connect::connect;
use crate::source::postgres::control::{ClusterState, ControlFile};
use crate::source::postgres::live::leader;

/// A server that does not answer in this time is as good as lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// The server as it was just before the declaration.
#[derive(Clone, Debug)]
pub(super) struct Production {
    incarnation: Incarnation,
    major: u32,
    timeline: TimelineId,
    log_end: Lsn,
    segment_size: SegmentSize,
    data_directory: PathBuf,
}

impl Production {
    /// Asks the server; none when it cannot be reached.
    pub async fn ask(source: Option<&SourceSettings>) -> Option<Self> {
        let SourceKind::Postgres(postgres) = &source?.kind else { return None };
        // The configured directory is that of the server that is backed up, which may be a standby.
        let (conninfo, configured) = match &postgres.primary_conninfo {
            Some(primary) => (primary, None),
            None => (&postgres.conninfo, postgres.data_directory.clone()),
        };
        let ask = async {
            let session = connect(conninfo).await?;
            let info = session.info().await?;
            let log_end = session.log_end().await?;
            Result::<Self>::Ok(Self {
                incarnation: Incarnation::postgres(info.major, info.system_identifier),
                major: info.major,
                timeline: info.timeline,
                log_end,
                segment_size: info.wal_segment_size,
                data_directory: configured.unwrap_or(info.data_directory),
            })
        };
        tokio::time::timeout(PATIENCE, ask).await.ok()?.ok()
    }

    /// The first commit that `plan` does not bring back; none when it cannot be known.
    pub fn first_lost(&self, plan: &RestorePlan) -> Option<FirstLost> {
        if self.incarnation != plan.backup.incarnation || self.timeline != plan.timeline {
            return None;
        }
        // The server may be another host's, and the directory of that name here another cluster's.
        let here = ControlFile::read(&self.data_directory).ok()?;
        let same = Incarnation::postgres(self.major, here.system_identifier) == self.incarnation;
        if !same || here.state != ClusterState::InProduction || leader(&self.data_directory).ok()?.is_none() {
            return None;
        }
        let own = OwnLog {
            directory: Some(self.data_directory.join("pg_wal")),
            system_identifier: here.system_identifier,
            timeline: self.timeline,
            end_lsn: Some(self.log_end),
            is_whole: true,
            size: self.segment_size,
        };
        let reached = Reached { timeline: plan.timeline, end_lsn: self.reached(plan)?, time: plan.backup.stop_time };
        let known = Known { named: BTreeMap::new(), carry_into: |_| None };
        match exposure(&own, reached, &known) {
            Exposure::Nothing => Some(FirstLost(None)),
            Exposure::Since(first) => Some(FirstLost(Some(first))),
            Exposure::AtMostSince { .. } => None,
        }
    }

    /// Up to where `plan` brings the server's own timeline back; none when it ends in a segment of its parent.
    fn reached(&self, plan: &RestorePlan) -> Option<Lsn> {
        match plan.stop {
            RecoveryStop::Record { lsn, inclusive: false } => Some(lsn),
            RecoveryStop::Record { inclusive: true, .. } => {
                let last = plan.segments.last().filter(|last| last.timeline == self.timeline)?;
                Some(last.end(self.segment_size))
            }
            _ => None,
        }
    }
}

/// When the first commit was made that would be lost; none when none would be.
#[derive(Clone, Copy, Debug)]
pub(super) struct FirstLost(Option<Timestamp>);

/// What would have been lost; none when nothing was restored.
pub(super) fn loss(declared: Timestamp, plan: &RestorePlan, first_lost: Option<FirstLost>, drilled: &Drilled) -> Option<Loss> {
    let restored = drilled.restored.as_ref().filter(|restored| restored.reached_lsn.is_some())?;
    if let Some(FirstLost(first)) = first_lost {
        let seconds = first.map_or(0.0, |first| declared.since(first).as_secs_f64());
        return Some(Loss { seconds, is_upper_bound: false });
    }
    // Without a commit in the log, everything up to the backup's end is there.
    let last = restored.last_commit.unwrap_or(plan.backup.stop_time);
    Some(Loss { seconds: declared.since(last).as_secs_f64(), is_upper_bound: true })
}
