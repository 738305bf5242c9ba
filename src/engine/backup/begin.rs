//! A backup's place in the repository: a fresh one, or that of an interrupted run.

use super::base::Moment;
use super::copy::Base;
use super::draft::announce;
use super::plan::Decision;
use super::pool::PackNumbers;
use super::resume;
use crate::base::{BackupId, Result};
use crate::codec::encrypt::Seal;
use crate::engine::{Scope, Writing};
use crate::repo::commit::LogFloor;
use crate::repo::pack::PackLine;
use crate::repo::resume::ResumeDir;

/// Where a backup is stored.
pub(super) struct Begun {
    pub id: BackupId,
    pub seal: Seal,
    pub numbers: PackNumbers,
    /// Packs that an interrupted run stored.
    pub packs: Vec<PackLine>,
    /// What it stored in them, to compare with.
    pub earlier: Option<Base>,
    /// Where this run is remembered.
    pub resume: ResumeDir,
    /// What to tell of it.
    pub note: Option<String>,
}

/// Goes on with an interrupted backup of the same kind, or begins one: `begin.json`, then its key.
///
/// # Errors
/// When the repository does not answer or the host's state cannot be written.
pub(super) async fn begin(
    scope: &Scope,
    writing: &Writing,
    decision: &Decision,
    audit: bool,
    moment: &Moment<'_>,
    lease_token: u64,
) -> Result<Begun> {
    if let Some(resumed) = resume::look(scope, writing, decision, audit, moment).await? {
        return Ok(resumed);
    }
    let log_start = LogFloor { incarnation: moment.incarnation.clone(), lsn: moment.start_lsn };
    let (id, seal) = announce(scope, writing, lease_token, decision, &log_start, moment.host_time).await?;
    let resume = resume::remember(scope, writing, decision, moment, &id, &seal)?;
    let numbers = PackNumbers::beside(std::iter::empty());
    Ok(Begun { id, seal, numbers, packs: Vec::new(), earlier: None, resume, note: None })
}
