//! From what the operator asked to a plan and the keys that open it. Reads the repository, touches nothing else.

use super::plan::{Plan, plan};
use crate::base::{BackupId, Engine, Incarnation, Result};
use crate::engine::chain::{self, Link};
use crate::engine::restore::Target;
use crate::engine::{IdentitySource, Scope};
use crate::repo::{BackupSummary, CommitLog};

/// What to restore.
#[derive(Clone, Debug)]
pub struct Request {
    /// Which moment.
    pub target: Target,
    /// Of which life of the source; of any when none is given.
    pub incarnation: Option<Incarnation>,
    /// The backup; the newest that serves when none is given.
    pub backup: Option<BackupId>,
}

/// A plan and what opens the data it names.
pub struct Prepared {
    /// The plan.
    pub plan: Plan,
    /// The backup and what it builds on, itself first.
    pub links: Vec<Link>,
}

impl Prepared {
    /// Stored bytes of all packs and manifests that a restore may have to fetch.
    pub fn fetch_bytes(&self) -> u64 {
        self.links.iter().map(|link| link.summary.stored_bytes).sum()
    }
}

/// Makes the plan for `request` from the backups in `log` and unwraps the keys it needs.
///
/// # Errors
/// When the target cannot be reached, or no identity fits.
pub async fn prepare(scope: &Scope, log: &CommitLog, identities: &dyn IdentitySource, request: &Request) -> Result<Prepared> {
    if let Some(backup) = request.backup.as_ref().and_then(|id| log.find(id)) {
        // Why its chain is broken, rather than that it is.
        chain::summaries(scope, log, backup)?;
    }
    let is_wanted = |backup: &&BackupSummary| match &request.incarnation {
        Some(incarnation) => backup.incarnation == *incarnation,
        None => backup.incarnation.engine() == Engine::Directory,
    };
    let backups: Vec<&BackupSummary> = log.restorable().filter(is_wanted).collect();
    let mut plan = plan(&scope.source.to_string(), &backups, &request.target, request.backup.as_ref())?;
    plan.notes.extend(log.problems.iter().map(|(key, problem)| format!("{key} is not used: {problem}")));
    plan.notes.extend(log.broken().map(|(backup, broken)| format!("{} is not used: {broken}", backup.id)));
    let unwrapped = if plan.backup.encrypted { identities.identities()? } else { Vec::new() };
    let links = chain::links(scope, log, &plan.backup, &unwrapped).await?;
    Ok(Prepared { plan, links })
}
