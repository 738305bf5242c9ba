//! Who works: the lock of the jobs of a source that take no lease.
//!
//! The job's process inherits the descriptor, as its stdin, and the kernel lets go of the lock when the last holder ends.
//! So a job that outlives its scheduler is seen by the next one on this host, and not started a second time beside itself.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::base::{Error, Job, Result, SourceName};

/// What came of the attempt to lock.
pub(super) enum Lock {
    /// The job takes the lease, and needs none.
    NotNeeded,
    /// To be inherited by the job.
    Held(File),
    /// A job is at work.
    Busy,
}

/// Locks what `job` of `source` must have for itself on this host.
///
/// # Errors
/// When the file in `state_dir` cannot be made.
pub(super) fn lock(state_dir: &Path, source: &SourceName, job: Job) -> Result<Lock> {
    let kind = match job {
        Job::Full | Job::Diff | Job::Incr => return Ok(Lock::NotNeeded),
        Job::Drill | Job::Verify => "drills",
        Job::Expire => "expire",
    };
    of_kind(state_dir, source, kind)
}

/// Locks the stream of the log of `source` on this host.
///
/// # Errors
/// As [`lock`].
pub(super) fn of_stream(state_dir: &Path, source: &SourceName) -> Result<Lock> {
    of_kind(state_dir, source, STREAM)
}

/// Whether a scheduler's stream of `source` is at work on this host.
pub(super) fn is_streaming(state_dir: &Path, source: &SourceName) -> bool {
    let file = File::open(path(state_dir, source, STREAM));
    file.is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

const STREAM: &str = "stream";

fn path(state_dir: &Path, source: &SourceName, kind: &str) -> PathBuf {
    state_dir.join(format!("run-{source}-{kind}.lock"))
}

fn of_kind(state_dir: &Path, source: &SourceName, kind: &str) -> Result<Lock> {
    let path = path(state_dir, source, kind);
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(|error| Error::io("open", &path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock::Held(file)),
        Err(TryLockError::WouldBlock) => Ok(Lock::Busy),
        Err(TryLockError::Error(error)) => Err(Error::io("lock", &path, error)),
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_job_that_outlives_its_scheduler_keeps_the_lock_until_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let source: SourceName = "orders".parse().unwrap();
        let lock = |job| lock(dir.path(), &source, job).unwrap();
        let Lock::Held(file) = lock(Job::Drill) else { panic!("it is free") };
        let mut job = Command::new("sleep").arg("600").stdin(Stdio::from(file)).spawn().unwrap();
        // The command, and with it this process's descriptor, is gone.
        assert!(matches!(lock(Job::Drill), Lock::Busy));
        assert!(matches!(lock(Job::Verify), Lock::Busy));
        assert!(matches!(lock(Job::Expire), Lock::Held(_)));
        assert!(matches!(lock(Job::Full), Lock::NotNeeded));
        job.kill().unwrap();
        job.wait().unwrap();
        assert!(matches!(lock(Job::Verify), Lock::Held(_)));
    }
}
