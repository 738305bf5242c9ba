//! What a backup says of itself: its type, and why it is not the one that was asked for.

use super::stage::Taken;

/// Whether `--type diff` and `--type incr` really take differentials and incrementals. While they take fulls and say so,
/// what only a real one can show is not asserted; the files are compared all the same.
pub const REAL_INCREMENTALS: bool = true;

/// Fails the test unless the backup is of the type `expected`.
#[track_caller]
pub fn assert_type(taken: &Taken, expected: &str) {
    if expected == "full" || REAL_INCREMENTALS {
        assert_eq!(taken.kind, expected, "{} ({:?})", taken.id, taken.reason);
    }
}

/// Fails the test unless a full was taken instead of what was asked for, with a reason that is told.
#[track_caller]
pub fn assert_full_and_why(taken: &Taken) {
    assert_eq!(taken.kind, "full", "{} ({:?})", taken.id, taken.reason);
    assert!(
        taken.reason.as_deref().is_some_and(|reason| reason.len() > 20),
        "{}: no reason, or none worth it: {:?}",
        taken.id,
        taken.reason
    );
}
