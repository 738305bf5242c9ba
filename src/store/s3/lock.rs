//! Locks: set with the put, asked for, extended. Never shortened, and never bypassed.

use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{ObjectLockMode, ObjectLockRetention, ObjectLockRetentionMode};

use super::S3Store;
use super::failure::Failure;
use super::list::timestamp;
use crate::base::Timestamp;
use crate::store::{Lifetime, Lock, LockMode, LockTerms, RequestKind, StoreResult};

const MICROS: i64 = 1_000_000;

/// What stores call the absence of a lock: on the object, or in the bucket altogether.
const NO_LOCK: &[&str] = &["NoSuchObjectLockConfiguration", "ObjectLockConfigurationNotFoundError", "InvalidRequest"];

impl S3Store {
    /// The lock to put an object of this name with.
    pub(super) fn lock_at_put(&self, key: &str) -> Option<Lock> {
        let terms = self.options.lock.filter(|_| self.options.lifetimes.of(key) == Lifetime::Lasting)?;
        Some(Lock { mode: terms.mode, until: terms.until(Timestamp::now()) })
    }

    pub(super) async fn lock_on(&self, key: &str) -> StoreResult<Option<Lock>> {
        let version = self.oldest_id(key).await?;
        self.lock_on_version(key, &version).await
    }

    pub(super) async fn lock_on_version(&self, key: &str, version: &str) -> StoreResult<Option<Lock>> {
        let name = self.address.name_of(key)?;
        let failed = |failure: Failure| {
            let failure = if failure.is_denied() { needs(&failure, "s3:GetObjectRetention") } else { failure };
            failure.of_call("look up the lock of", key, &self.address)
        };
        let client = self.client().await.map_err(failed)?;
        let request = || client.get_object_retention().bucket(&self.address.bucket).key(&name).version_id(version).send();
        let answer = match self.call(RequestKind::Head, request).await {
            Ok(answer) => answer,
            Err(failure) if failure.is_called(NO_LOCK) => return Ok(None),
            Err(failure) => return Err(failed(failure)),
        };
        Ok(answer.retention().and_then(|retention| {
            let mode = LockMode::parse(retention.mode()?.as_str())?;
            Some(Lock { mode, until: timestamp(retention.retain_until_date().copied()) })
        }))
    }

    /// Locks the version that counts until `until`, unless it is locked for longer.
    pub(super) async fn lock_longer(&self, key: &str, terms: LockTerms, until: Timestamp) -> StoreResult<()> {
        let version = self.oldest_id(key).await?;
        // A shorter time would be refused; a mode can be made stricter only.
        let mut mode = terms.mode;
        if let Some(lock) = self.lock_on_version(key, &version).await? {
            if lock.until >= until {
                return Ok(());
            }
            if lock.mode == LockMode::Compliance {
                mode = LockMode::Compliance;
            }
        }
        let name = self.address.name_of(key)?;
        let failed = |failure: Failure| {
            let failure = if failure.is_denied() { needs(&failure, "s3:PutObjectRetention") } else { failure };
            failure.of_call("extend the lock of", key, &self.address)
        };
        let client = self.client().await.map_err(failed)?;
        let retention = ObjectLockRetention::builder().mode(retention_mode(mode)).retain_until_date(date(until)).build();
        let request = || {
            let request = client.put_object_retention().bucket(&self.address.bucket).key(&name).version_id(&version);
            request.retention(retention.clone()).send()
        };
        self.call(RequestKind::Put, request).await.map(|_| ()).map_err(failed)
    }
}

fn needs(failure: &Failure, right: &str) -> Failure {
    Failure::lasting(failure.why(), format!("allow {right} below the prefix"))
}

pub(super) fn put_mode(mode: LockMode) -> ObjectLockMode {
    match mode {
        LockMode::Governance => ObjectLockMode::Governance,
        LockMode::Compliance => ObjectLockMode::Compliance,
    }
}

fn retention_mode(mode: LockMode) -> ObjectLockRetentionMode {
    match mode {
        LockMode::Governance => ObjectLockRetentionMode::Governance,
        LockMode::Compliance => ObjectLockRetentionMode::Compliance,
    }
}

/// A moment in whole seconds, never earlier.
pub(super) fn date(time: Timestamp) -> DateTime {
    DateTime::from_secs(time.unix_micros().saturating_add(MICROS - 1).div_euclid(MICROS))
}
