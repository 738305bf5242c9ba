//! Whether a standby can be ended where it was asked to. Pure.

use std::path::Path;

use crate::base::{Error, Lsn, Result, SourceName, TimelineId, Timestamp};
use crate::engine::restore::Target;
use crate::engine::restore::plan::{RecoveryStop, RestorePlan};
use crate::engine::timeline::TimelinePath;

/// How far a standby has replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The timeline that it is known to be on.
    pub timeline: TimelineId,
    /// End of the last record that was replayed; at least where its backup is consistent.
    pub replayed: Lsn,
    /// Time of the last transaction end that was replayed, where it is known.
    pub last_commit: Option<Timestamp>,
}

/// Where the standby is to end.
pub struct Goal<'a> {
    /// The source.
    pub source: &'a SourceName,
    /// The standby's directory.
    pub data: &'a Path,
    /// What was asked for.
    pub target: &'a Target,
    /// The way through the timelines of the archive.
    pub path: &'a TimelinePath,
    /// What a restore to the target would do.
    pub plan: &'a RestorePlan,
    /// Repositories that did not answer when it was made.
    pub away: &'a [String],
}

impl Goal<'_> {
    /// The record at which replay stops.
    pub fn stop(&self) -> (Lsn, bool) {
        match self.plan.stop {
            RecoveryStop::Record { lsn, inclusive } => (lsn, inclusive),
            RecoveryStop::Immediate => (self.plan.consistent_at, false),
        }
    }

    /// Bytes of log between the standby and the stop.
    pub fn remaining_bytes(&self, at: &Position) -> u64 {
        self.plan.consistent_at.bytes_since(at.replayed)
    }

    /// Whether the standby has everything that was asked for: at `latest` it may even be ahead of the repositories that
    /// answer.
    pub fn is_reached(&self, at: &Position) -> bool {
        let (stop, inclusive) = self.stop();
        if inclusive { at.replayed > stop } else { at.replayed >= stop }
    }

    /// Refuses a standby on a branch that the archive has left, and a target before what was replayed.
    ///
    /// # Errors
    /// Says where it stands, and what can be reached from there.
    pub fn check(&self, at: &Position) -> Result<()> {
        self.check_branch(at)?;
        let is_before = at.replayed > self.plan.consistent_at;
        if *self.target == Target::Latest || !is_before {
            return Ok(());
        }
        let time = |time: Option<Timestamp>| time.map(|time| format!(" ({time})")).unwrap_or_default();
        let (source, data) = (self.source, self.data.display());
        Err(Error::failed(format!("the standby of {source} has already replayed beyond {}", self.target))
            .detail("asked for", format!("{}{}", self.plan.consistent_at, time(self.plan.reaches)))
            .detail("replayed", format!("{}{}", at.replayed, time(at.last_commit)))
            .detail("reachable", format!("{} and later", at.replayed))
            .hint(format!("lifeboat promote {source} --dir '{data}' --to latest"))
            .hint(format!("lifeboat restore {source} --into ANOTHER-DIR …   goes back to any moment")))
    }

    /// Refuses a standby that holds what the archive's timeline never had.
    ///
    /// # Errors
    /// Says where that timeline branched off.
    pub fn check_branch(&self, at: &Position) -> Result<()> {
        if self.path.contains(at.timeline, at.replayed) {
            return Ok(());
        }
        let (source, newest, data) = (self.source, self.path.timeline(), self.data.display());
        if at.timeline > newest && !self.away.is_empty() {
            // It followed one that is away now: whoever overwrites it may remove the only copy within reach.
            return Err(Error::failed(format!(
                "the standby of {source} is on timeline {}, which the repositories that answer do not know",
                at.timeline
            ))
            .detail("archive", format!("goes up to timeline {newest}"))
            .detail("standby", format!("replayed up to {}", at.replayed))
            .detail("no answer", format!("repository {}: it may hold that timeline", self.away.join(", ")))
            .hint("lifeboat check   says when it answers again: then the same command once more")
            .hint(format!("pg_ctl -D '{data}' promote   waits no longer: ends a running one where it stands, with all it has")));
        }
        let left = self.path.left_at(at.timeline).map_or_else(
            || format!("timeline {newest} does not come from timeline {}", at.timeline),
            |left| format!("timeline {newest} left timeline {} at {left}", at.timeline),
        );
        Err(Error::failed(format!("the archive of {source} went on without this standby: another server was promoted"))
            .detail("archive", left)
            .detail("standby", format!("replayed up to {} on timeline {}", at.replayed, at.timeline))
            .hint(format!("lifeboat restore {source} --into DIR --standby --delta   has it follow the new timeline"))
            .hint(format!("lifeboat timeline {source}   shows what went on where")))
    }
}
