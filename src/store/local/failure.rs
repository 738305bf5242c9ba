//! Which failed system calls are worth a retry, and how they are told.

use std::io;
use std::path::Path;

use rustix::io::Errno;

use crate::store::StoreError;

/// A failed call on a file or directory of the store: `cannot write /srv/backups/x: Permission denied …`.
///
/// Permanent: what an operator must change first (rights, space, the file system's limits). Retryable:
/// everything else, for a disk or server that is away may come back.
pub(super) fn failure(action: &str, path: &Path, error: impl Into<io::Error>) -> StoreError {
    let error = error.into();
    let errno = Errno::from_io_error(&error);
    let why = match errno {
        Some(Errno::NOSPC) => format!("the disk is full: {error}"),
        Some(Errno::DQUOT) => format!("the disk quota is used up: {error}"),
        Some(Errno::ACCESS | Errno::PERM) => format!("{error}, as user id {}", rustix::process::geteuid().as_raw()),
        Some(Errno::XDEV) => format!("a directory of the store lies on another file system: {error}"),
        _ => error.to_string(),
    };
    let message = format!("cannot {action} {}: {why}", path.display());
    let source = Some(error.into());
    if errno.is_some_and(is_permanent) {
        StoreError::Permanent { message, source }
    } else {
        StoreError::Retryable { message, source }
    }
}

fn is_permanent(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::NOSPC
            | Errno::DQUOT
            | Errno::ACCESS
            | Errno::PERM
            | Errno::ROFS
            | Errno::FBIG
            | Errno::XDEV
            | Errno::NAMETOOLONG
            | Errno::LOOP
            | Errno::NOTDIR
            | Errno::ISDIR
            | Errno::INVAL
            | Errno::ILSEQ
            | Errno::MLINK
            | Errno::OPNOTSUPP
            | Errno::NOSYS
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_operator_must_change_is_permanent_and_what_may_pass_is_not() {
        for errno in [Errno::NOSPC, Errno::DQUOT, Errno::ACCESS, Errno::PERM, Errno::ROFS] {
            let error = failure("write", Path::new("/srv/x"), errno);
            assert!(!error.is_retryable(), "{error}");
            assert!(error.to_string().starts_with("cannot write /srv/x: "), "{error}");
        }
        for errno in [Errno::IO, Errno::STALE, Errno::NOTCONN, Errno::TIMEDOUT, Errno::MFILE, Errno::NODEV] {
            assert!(failure("read", Path::new("/srv/x"), errno).is_retryable(), "{errno}");
        }
    }

    #[test]
    fn the_reason_is_told_once() {
        let error: crate::base::Error = failure("write", Path::new("/srv/x"), Errno::NOSPC).into();
        assert_eq!(error.summary(), "cannot write /srv/x: the disk is full: No space left on device (os error 28)");
    }
}
