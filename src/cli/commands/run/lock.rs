//! Who works: the lock of the jobs of a source that take no lease.
//!
//! The job's process inherits the descriptor, as its stdin, and the kernel lets go of the lock when the last holder ends.
//! So a job that outlives its scheduler is seen by the next one on this host, and not started a second time beside itself.

use std::fs::{self, File, OpenOptions, TryLockError};
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
    let lock = of_kind(state_dir, source, STREAM)?;
    if let Lock::Held(file) = &lock {
        let path = path(state_dir, source, STREAM);
        // The process that is noted there has ended.
        file.set_len(0).map_err(|error| Error::io("write", &path, error))?;
    }
    Ok(lock)
}

/// Notes beside the lock which process holds it.
///
/// # Errors
/// When that cannot be written.
pub(super) fn note_stream(state_dir: &Path, source: &SourceName, process: u32) -> Result<()> {
    let path = path(state_dir, source, STREAM);
    fs::write(&path, process.to_string()).map_err(|error| Error::io("write", &path, error))
}

/// The process that was noted; none when there is none yet.
pub(super) fn streaming_process(state_dir: &Path, source: &SourceName) -> Option<u32> {
    fs::read_to_string(path(state_dir, source, STREAM)).ok()?.trim().parse().ok()
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
    fn the_process_of_a_stream_is_known_while_it_holds_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let source: SourceName = "orders".parse().unwrap();
        let Lock::Held(file) = of_stream(dir.path(), &source).unwrap() else { panic!("it is free") };
        note_stream(dir.path(), &source, 4711).unwrap();
        assert!(matches!(of_stream(dir.path(), &source).unwrap(), Lock::Busy));
        assert_eq!(streaming_process(dir.path(), &source), Some(4711));
        drop(file);
        assert!(matches!(of_stream(dir.path(), &source).unwrap(), Lock::Held(_)));
        assert_eq!(streaming_process(dir.path(), &source), None, "that of the stream before");
    }

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
