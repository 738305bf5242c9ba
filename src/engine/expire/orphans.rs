//! What crashed backups left: begun, stored in part, never committed.
//!
//! They are told from backups in flight by the lease, which this holds while it looks and deletes (a backup that has the
//! lease keeps this out, and the other way round), and by time: what was written to lately may belong to a backup that
//! was taken without a lease, or to one that its host will go on with.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::delete::{delete, ordered, total_bytes, without_locked};
use super::survey::{self, require_whole};
use crate::base::cancel::Cancel;
use crate::base::progress::Progress;
use crate::base::{BackupId, Result, Timestamp};
use crate::engine::lease::{self, Terms};
use crate::engine::{Scope, head};
use crate::repo::{Role, Signer};

/// Something that was begun and never committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Orphan {
    /// What would have been its id.
    pub id: BackupId,
    /// Who took it, as far as it says.
    pub host: Option<String>,
    /// When its newest object was written, by the store's clock.
    pub last_written: Timestamp,
    /// Its objects.
    pub objects: u64,
    /// Their bytes.
    pub stored_bytes: u64,
    /// Whether it goes; else it may still be in flight, or is locked.
    pub removed: bool,
    /// When the last lock on it ends, when it would go without.
    pub locked_until: Option<Timestamp>,
}

/// Removes what was last written to longer than `older_than` ago; without an `operator` says what would be removed.
///
/// # Errors
/// Busy while a backup is being taken; usage when the operator's key has no right to; damaged when the commit log is, for
/// then a backup could look like an orphan; when the repository does not answer.
pub async fn run(
    scope: &Scope,
    operator: Option<(&Signer, Terms)>,
    older_than: Duration,
    progress: Arc<dyn Progress>,
    cancel: &Cancel,
) -> Result<Vec<Orphan>> {
    let Some((operator, terms)) = operator else { return sweep(scope, older_than, None, cancel).await };
    scope.repository.keyring().require(operator, Role::Expire)?;
    let _lock = scope.state.lock_backup(&scope.source)?;
    let held = lease::acquire(scope, operator, "expire", terms, cancel).await?;
    let outcome = tokio::select! {
        outcome = sweep(scope, older_than, Some(progress.as_ref()), cancel) => outcome,
        () = held.lost() => held.check_not_lost().map(|()| Vec::new()),
    };
    held.release().await;
    outcome
}

async fn sweep(scope: &Scope, older_than: Duration, acting: Option<&dyn Progress>, cancel: &Cancel) -> Result<Vec<Orphan>> {
    let log = head::look(scope).await?.trusted(scope)?;
    require_whole(scope, &log)?;
    let now = Timestamp::now();
    let mut found = Vec::new();
    for begun in survey::uncommitted(scope, &log).await? {
        let is_left = !begun.may_be_in_flight(older_than, now);
        let lock = match is_left {
            true => without_locked(scope, begun.objects.clone()).await?.1.map(|(_, lock)| lock),
            false => None,
        };
        let removed = is_left && lock.is_none();
        found.push(Orphan {
            id: begun.id.clone(),
            host: begun.host,
            last_written: begun.newest,
            objects: begun.objects.len() as u64,
            stored_bytes: total_bytes(&begun.objects),
            removed,
            locked_until: lock.map(|lock| lock.until),
        });
        if let (Some(progress), true) = (acting, removed) {
            progress.phase(&format!("removing what is left of {}", begun.id), Some(total_bytes(&begun.objects)));
            let objects = ordered(&scope.source, &begun.id, begun.objects);
            delete(scope, &objects, "expire.object-deleted", progress, cancel).await?;
        }
    }
    Ok(found)
}
