//! The bucket of the test server: versions, delete markers, locks, and who may do what.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use s3s::dto::*;
use s3s::{S3Result, s3_error};

use super::Quirks;

/// The name of the only version where none are kept.
const NULL_VERSION: &str = "null";

/// How the bucket is set up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keeping {
    /// Overwritten and deleted versions are kept.
    pub versions: bool,
    /// Objects can be locked; only with versions.
    pub object_lock: bool,
    /// A bucket policy refuses every put without `If-None-Match`, but for the lease.
    pub refuses_overwrites: bool,
    /// Takes locks, tells of them, and deletes what is locked all the same.
    pub sham_locks: bool,
}

/// What an access key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// Everything but bypassing governance.
    All,
    /// List, get, put, and lock for longer; nothing is deleted.
    PutAndGet,
    /// As [`Rights::PutAndGet`], and hide objects behind delete markers.
    NoVersionDeletion,
    /// Everything, locks in governance mode notwithstanding.
    Bypass,
}

/// One version of an object, or a delete marker.
#[derive(Clone)]
pub struct Version {
    pub id: String,
    /// None for a delete marker.
    pub content: Option<Bytes>,
    pub etag: String,
    pub modified: SystemTime,
    /// Mode and end of its lock.
    pub lock: Option<(String, Timestamp)>,
}

impl Version {
    fn is_locked(&self) -> bool {
        self.lock.as_ref().is_some_and(|(_, until)| *until > Timestamp::from(SystemTime::now()))
    }
}

/// All versions of one name, oldest first.
type Versions = Vec<Version>;

#[derive(Default)]
pub struct Bucket {
    stored: Mutex<BTreeMap<String, Versions>>,
    conflicts: Mutex<BTreeMap<String, u64>>,
    etags: AtomicU64,
    pub quirks: Quirks,
    pub keeping: Keeping,
}

impl Bucket {
    pub fn with(quirks: Quirks, keeping: Keeping) -> Self {
        Self { quirks, keeping, ..Self::default() }
    }

    pub fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Versions>> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_etag(&self) -> String {
        format!("{:032x}", self.etags.fetch_add(1, Ordering::SeqCst))
    }

    /// The newest versions that are no markers, by name.
    pub fn current(&self) -> Vec<(String, Version)> {
        let stored = self.lock();
        let newest = stored.iter().filter_map(|(name, versions)| Some((name.clone(), versions.last()?.clone())));
        newest.filter(|(_, version)| version.content.is_some()).collect()
    }

    /// Puts or replaces an object behind everybody's back.
    pub fn insert(&self, name: String, content: Bytes) {
        let etag = self.next_etag();
        let version = self.version(Some(content), etag, None);
        self.keep(&mut self.lock(), &name, version);
    }

    fn version(&self, content: Option<Bytes>, etag: String, lock: Option<(String, Timestamp)>) -> Version {
        let id = if self.keeping.versions { format!("v{etag}") } else { NULL_VERSION.to_owned() };
        Version { id, content, etag, modified: SystemTime::now(), lock }
    }

    fn keep(&self, stored: &mut BTreeMap<String, Versions>, name: &str, version: Version) {
        let versions = stored.entry(name.to_owned()).or_default();
        if !self.keeping.versions {
            versions.clear();
        }
        versions.push(version);
    }

    /// Puts under one lock, so that of two conditional puts one is refused.
    pub fn put(&self, input: &PutObjectInput, content: Bytes) -> S3Result<Version> {
        let is_lease = input.key.ends_with("/lease.json");
        if self.keeping.refuses_overwrites && input.if_none_match.is_none() && !is_lease {
            return Err(s3_error!(AccessDenied, "refused by the bucket's policy"));
        }
        let lock = self.asked_lock(input)?;
        if !self.quirks.ignores_conditions {
            self.check_conflict(&input.key)?;
        }
        let etag = self.next_etag();
        let mut stored = self.lock();
        let there = stored.get(&input.key).and_then(|versions| versions.last()).filter(|last| last.content.is_some());
        if !self.quirks.ignores_conditions {
            if input.if_none_match.is_some() && there.is_some() {
                return Err(s3_error!(PreconditionFailed));
            }
            match (&input.if_match, there) {
                (Some(_), None) => return Err(s3_error!(NoSuchKey)),
                (Some(expected), Some(there)) if !matches(expected, &there.etag) => return Err(s3_error!(PreconditionFailed)),
                _ => {}
            }
        }
        let version = self.version(Some(content), etag, lock);
        self.keep(&mut stored, &input.key, version.clone());
        Ok(version)
    }

    /// The lock that a put asks for, refused as AWS does.
    fn asked_lock(&self, input: &PutObjectInput) -> S3Result<Option<(String, Timestamp)>> {
        let (mode, until) = match (&input.object_lock_mode, &input.object_lock_retain_until_date) {
            (None, None) => return Ok(None),
            (Some(mode), Some(until)) => (mode.as_str().to_owned(), until.clone()),
            _ => return Err(s3_error!(InvalidArgument, "mode and date belong together")),
        };
        if !self.keeping.object_lock {
            return Err(s3_error!(InvalidRequest, "Bucket is missing Object Lock Configuration"));
        }
        let is_checked = input.content_md5.is_some() || input.checksum_crc32c.is_some() || input.checksum_sha256.is_some();
        if !is_checked {
            return Err(s3_error!(InvalidRequest, "Content-MD5 OR x-amz-checksum- HTTP header is required"));
        }
        if until <= Timestamp::from(SystemTime::now()) {
            return Err(s3_error!(InvalidArgument, "The retain until date must be in the future!"));
        }
        Ok(Some((mode, until)))
    }

    fn check_conflict(&self, name: &str) -> S3Result<()> {
        let mut conflicts = self.conflicts.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = conflicts.entry(name.to_owned()).or_default();
        if *seen >= self.quirks.conflicts {
            return Ok(());
        }
        *seen += 1;
        Err(s3_error!(ConditionalRequestConflict))
    }

    /// The version asked for; the newest without one.
    pub fn get(&self, name: &str, version: Option<&str>) -> S3Result<Version> {
        let stored = self.lock();
        let versions = stored.get(name).ok_or_else(|| s3_error!(NoSuchKey))?;
        let found = match version {
            None => versions.last().filter(|version| version.content.is_some()).ok_or_else(|| s3_error!(NoSuchKey))?,
            Some(id) => versions.iter().find(|found| found.id == id).ok_or_else(|| s3_error!(NoSuchVersion))?,
        };
        if found.content.is_none() { Err(s3_error!(MethodNotAllowed)) } else { Ok(found.clone()) }
    }

    /// Deletes a version, or what a name shows: by a marker where versions are kept.
    pub fn delete(&self, name: &str, version: Option<&str>, bypasses: bool, rights: Rights) -> S3Result<()> {
        let is_allowed = match rights {
            Rights::All | Rights::Bypass => true,
            Rights::PutAndGet => false,
            Rights::NoVersionDeletion => version.is_none() && self.keeping.versions,
        };
        if !is_allowed {
            return Err(s3_error!(AccessDenied));
        }
        let etag = self.next_etag();
        let mut stored = self.lock();
        let Some(id) = version else {
            if self.keeping.versions {
                let marker = self.version(None, etag, None);
                self.keep(&mut stored, name, marker);
            } else {
                stored.remove(name);
            }
            return Ok(());
        };
        let Some(versions) = stored.get_mut(name) else { return Ok(()) };
        let bypasses = bypasses && rights == Rights::Bypass;
        let is_bypassed = |found: &Version| bypasses && found.lock.as_ref().is_some_and(|(mode, _)| mode == "GOVERNANCE");
        let is_held = |found: &Version| found.id == id && found.is_locked() && !is_bypassed(found) && !self.keeping.sham_locks;
        if versions.iter().any(is_held) {
            return Err(s3_error!(AccessDenied, "Access Denied because object protected by object lock."));
        }
        versions.retain(|found| found.id != id);
        if versions.is_empty() {
            stored.remove(name);
        }
        Ok(())
    }

    /// Locks a version for longer; anything else is refused, whoever asks.
    pub fn retain(&self, input: &PutObjectRetentionInput) -> S3Result<()> {
        if !self.keeping.object_lock {
            return Err(s3_error!(InvalidRequest, "Bucket is missing Object Lock Configuration"));
        }
        let wanted = input.retention.as_ref();
        let (mode, until) = wanted.and_then(|wanted| Some((wanted.mode.clone()?, wanted.retain_until_date.clone()?))).unzip();
        let mut stored = self.lock();
        let versions = stored.get_mut(&input.key).ok_or_else(|| s3_error!(NoSuchKey))?;
        let id = input.version_id.as_deref();
        let found = versions.iter_mut().rev().find(|found| id.is_none_or(|id| found.id == id));
        let found = found.ok_or_else(|| s3_error!(NoSuchVersion))?;
        let is_weaker = |mode: &ObjectLockRetentionMode, until: &Timestamp| {
            let held = found.lock.as_ref();
            held.is_some_and(|(held, held_until)| held_until > until || held == "COMPLIANCE" && mode.as_str() != "COMPLIANCE")
        };
        match (mode, until) {
            (Some(mode), Some(until)) if !(found.is_locked() && is_weaker(&mode, &until)) => {
                found.lock = Some((mode.as_str().to_owned(), until));
                Ok(())
            }
            (None, None) if !found.is_locked() => {
                found.lock = None;
                Ok(())
            }
            _ => Err(s3_error!(AccessDenied, "Access Denied because object protected by object lock.")),
        }
    }

    pub fn retention(&self, input: &GetObjectRetentionInput) -> S3Result<ObjectLockRetention> {
        if !self.keeping.object_lock {
            return Err(s3_error!(InvalidRequest, "Bucket is missing Object Lock Configuration"));
        }
        let found = self.get(&input.key, input.version_id.as_deref())?;
        let (mode, until) = found.lock.ok_or_else(|| s3_error!(NoSuchObjectLockConfiguration))?;
        Ok(ObjectLockRetention { mode: Some(mode.into()), retain_until_date: Some(until) })
    }

    /// Versions and markers in the order of AWS: by name, newest first; those after a name, or after one of its versions.
    pub fn versions_after(&self, prefix: &str, after: Option<(&str, Option<&str>)>) -> Vec<(String, Version, bool)> {
        let mut found = Vec::new();
        for (name, versions) in self.lock().iter().filter(|(name, _)| name.starts_with(prefix)) {
            let mut waiting = false;
            match after {
                Some((marker, _)) if name.as_str() < marker => continue,
                Some((marker, None)) if name == marker => continue,
                Some((marker, Some(_))) if name == marker => waiting = true,
                _ => {}
            }
            for (at, version) in versions.iter().enumerate().rev() {
                if !waiting {
                    found.push((name.clone(), version.clone(), at + 1 == versions.len()));
                }
                waiting &= after.and_then(|(_, id)| id) != Some(version.id.as_str());
            }
        }
        found
    }
}

pub fn matches(expected: &ETagCondition, etag: &str) -> bool {
    match expected {
        ETagCondition::Any => true,
        ETagCondition::ETag(expected) => expected.value() == etag,
    }
}
