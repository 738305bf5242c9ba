//! What the credentials in use could do to what is stored, tried out with canaries.

use std::time::Duration;

use bytes::Bytes;

use super::S3Store;
use super::body::Payload;
use super::failure::{Failure, Kind};
use super::get::Stamp;
use super::put::Condition;
use crate::base::Timestamp;
use crate::store::{Body, Lock, LockTrial, Protection, RequestKind, StoreResult};

/// How long a canary is locked: long enough to try to delete it, and it must be removable some day.
const CANARY_LOCKED_FOR: Duration = Duration::from_secs(60);

impl S3Store {
    /// See [`crate::store::Store::probe_protection`].
    pub(super) async fn try_protection(&self, prefix: &str) -> StoreResult<Protection> {
        let (plain, locked) = (format!("{prefix}plain"), format!("{prefix}locked"));
        let first = match self.put_canary(&plain, "first", Some(Condition::Absent), None).await? {
            Ok(stamp) => stamp,
            Err(failure) => return Err(failure.of_call("write", &plain, &self.address)),
        };
        let refuses_overwrite = match self.put_canary(&plain, "second", None, None).await? {
            Ok(_) => Some(false),
            Err(failure) if failure.is_denied() || failure.kind == Kind::Refused => Some(true),
            Err(_) => None,
        };
        let mut protection = Protection {
            refuses_overwrite,
            keeps_versions: Some(first.version.is_some()),
            can_lock: self.bucket_can_lock().await,
            reads_oldest: self.keeps_versions(),
            ..Protection::default()
        };
        if let Some(version) = &first.version {
            protection.deletes_versions = self.try_deletion(&plain, version).await;
            protection.lock = self.try_lock(&locked, protection.deletes_versions == Some(true)).await?;
            let is_locked = matches!(protection.lock, Some(LockTrial::Proven(_) | LockTrial::Recorded(_)));
            protection.can_lock = if is_locked { Some(true) } else { protection.can_lock };
        }
        // What may not be removed is left, as by any probe.
        let _ = match first.version.is_some() {
            true => self.delete_all_versions(&plain).await,
            false => self.delete_plainly(&plain).await,
        };
        Ok(protection)
    }

    /// Whether a version can be deleted; none when that is not known.
    async fn try_deletion(&self, key: &str, version: &str) -> Option<bool> {
        match self.delete_version(key, version).await {
            Ok(()) => Some(true),
            Err(failure) if failure.is_denied() => Some(false),
            Err(_) => None,
        }
    }

    /// Locks a canary and tries to delete it; nothing where no lock is configured.
    async fn try_lock(&self, key: &str, may_delete: bool) -> StoreResult<Option<LockTrial>> {
        let Some(terms) = self.options.lock else { return Ok(None) };
        let lock = Lock { mode: terms.mode, until: Timestamp::now().plus(CANARY_LOCKED_FOR) };
        let stamp = match self.put_canary(key, "locked", Some(Condition::Absent), Some(lock)).await? {
            Ok(stamp) => stamp,
            Err(failure) if failure.kind == Kind::Lasting => return Ok(Some(LockTrial::Refused(failure.why().to_owned()))),
            Err(failure) => return Err(failure.of_call("write", key, &self.address)),
        };
        let Some(version) = stamp.version else { return Ok(Some(LockTrial::Refused("it has no version".to_owned()))) };
        match self.delete_past_lock(key, &version).await {
            Ok(()) => return Ok(Some(LockTrial::Broken)),
            Err(failure) if failure.is_denied() || failure.kind == Kind::Lasting => {}
            Err(failure) => return Err(failure.of_call("delete", key, &self.address)),
        }
        if may_delete {
            return Ok(Some(LockTrial::Proven(terms.mode)));
        }
        match self.lock_on_version(key, &version).await {
            Ok(Some(found)) if found.holds_at(Timestamp::now()) => Ok(Some(LockTrial::Recorded(found.mode))),
            Ok(_) => Ok(Some(LockTrial::Refused("the store took the lock and does not know of it".to_owned()))),
            Err(error) => Ok(Some(LockTrial::Refused(error.to_string()))),
        }
    }

    /// Tries to delete a locked version as somebody would who wants it gone: past governance, where that is allowed.
    async fn delete_past_lock(&self, key: &str, version: &str) -> Result<(), Failure> {
        let name = self.address.name_of(key).map_err(|error| Failure::lasting(error.to_string(), "use another name"))?;
        let client = self.client().await?;
        let request = || {
            let request = client.delete_object().bucket(&self.address.bucket).key(&name).version_id(version);
            request.bypass_governance_retention(true).send()
        };
        let Err(failure) = self.call(RequestKind::Delete, request).await else { return Ok(()) };
        // A store that does not know the wish is asked without it.
        if failure.is_denied() { self.delete_version(key, version).await } else { Err(failure) }
    }

    async fn put_canary(
        &self,
        key: &str,
        content: &'static str,
        condition: Option<Condition<'_>>,
        lock: Option<Lock>,
    ) -> StoreResult<Result<Stamp, Failure>> {
        let name = self.address.name_of(key)?;
        let payload = Payload::describe(Body::Bytes(Bytes::from_static(content.as_bytes()))).await?;
        self.put(&name, &payload, condition, lock).await
    }

    async fn bucket_can_lock(&self) -> Option<bool> {
        let client = self.client().await.ok()?;
        let request = || client.get_object_lock_configuration().bucket(&self.address.bucket).send();
        match self.call(RequestKind::Head, request).await {
            Ok(answer) => Some(answer.object_lock_configuration().is_some_and(|found| found.object_lock_enabled().is_some())),
            Err(failure) if failure.is_called(&["ObjectLockConfigurationNotFoundError"]) => Some(false),
            Err(_) => None,
        }
    }

    pub(super) async fn delete_plainly(&self, key: &str) -> StoreResult<()> {
        let name = self.address.name_of(key)?;
        let failed = |failure: Failure| failure.of_call("delete", key, &self.address);
        let client = self.client().await.map_err(failed)?;
        let request = || client.delete_object().bucket(&self.address.bucket).key(&name).send();
        match self.call(RequestKind::Delete, request).await {
            Ok(_) => Ok(()),
            Err(failure) if failure.kind == Kind::Missing => Ok(()),
            Err(failure) => Err(failed(failure)),
        }
    }
}
