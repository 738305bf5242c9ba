//! What follows from where the capture stands and what SQLite says is committed. Pure.

use super::position::{Discontinuity, Position};
use super::walindex::WalIndex;

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing was committed since.
    Unchanged,
    /// Frames of the same generation follow; the chain of checksums will prove it.
    Continue,
    /// A new generation has begun; SQLite's count of transactions must prove that the old one was captured whole.
    NewGeneration,
    /// Only a snapshot goes on.
    Lost(Discontinuity),
}

/// Decides from the last stored position and the index as it is now.
///
/// `is_guarded`: a read transaction of ours has kept the log from being begun again unnoticed since `at`. Without it
/// only frames of the same generation count, for a rebuilt index counts transactions from 0 again.
pub fn next_step(at: &Position, now: &WalIndex, is_guarded: bool) -> Step {
    if at.salts == now.salts && at.frame > 0 {
        return match now.frames {
            0 => Step::Lost(Discontinuity::Rewound),
            frames if frames < at.frame => Step::Lost(Discontinuity::Rewound),
            frames if frames > at.frame => Step::Continue,
            _ if now.checksum == at.checksum => Step::Unchanged,
            _ => Step::Lost(Discontinuity::Diverged),
        };
    }
    if !is_guarded {
        return Step::Lost(Discontinuity::Restarted);
    }
    match (now.frames, now.change_counter == at.change_counter) {
        (0, true) => Step::Unchanged,
        (0, false) => Step::Lost(Discontinuity::Missed),
        _ => Step::NewGeneration,
    }
}

/// Whether `commits` transactions lead from `at` to `now`, by SQLite's own count.
pub fn counts_fit(at: &Position, now: &WalIndex, commits: u32) -> bool {
    at.change_counter.wrapping_add(commits) == now.change_counter
}

#[cfg(test)]
mod tests {
    use super::super::position::{FileId, Salts};
    use super::*;

    fn at(salts: u64, frame: u32, checksum: u32, change_counter: u32) -> Position {
        let file = FileId { device: 1, inode: 2, born_nanos: None };
        Position {
            file,
            salts: Salts(salts),
            frame,
            checksum: [checksum; 2],
            change_counter,
            page_size: 4096,
            pages: 3,
            boot: None,
        }
    }

    fn now(salts: u64, frames: u32, checksum: u32, change_counter: u32) -> WalIndex {
        let (salts, checksum) = (Salts(salts), [checksum; 2]);
        WalIndex { change_counter, frames, pages: 3, checksum, salts, backfilled: 0, backfill_attempted: 0 }
    }

    #[test]
    fn within_a_generation_the_chain_decides() {
        for is_guarded in [false, true] {
            let step = |now: WalIndex| next_step(&at(7, 10, 55, 3), &now, is_guarded);
            assert_eq!(step(now(7, 10, 55, 3)), Step::Unchanged);
            assert_eq!(step(now(7, 11, 56, 4)), Step::Continue);
            assert_eq!(step(now(7, 10, 56, 3)), Step::Lost(Discontinuity::Diverged));
            assert_eq!(step(now(7, 9, 54, 2)), Step::Lost(Discontinuity::Rewound));
            assert_eq!(step(now(7, 0, 0, 0)), Step::Lost(Discontinuity::Rewound));
        }
    }

    #[test]
    fn a_new_generation_counts_only_when_it_was_guarded_and_no_transaction_is_missing() {
        let at = at(7, 10, 55, 3);
        assert_eq!(next_step(&at, &now(8, 4, 99, 5), false), Step::Lost(Discontinuity::Restarted));
        assert_eq!(next_step(&at, &now(8, 4, 99, 5), true), Step::NewGeneration);
        assert_eq!(next_step(&at, &now(8, 0, 0, 3), true), Step::Unchanged);
        assert_eq!(next_step(&at, &now(8, 0, 0, 4), true), Step::Lost(Discontinuity::Missed));
        assert!(counts_fit(&at, &now(8, 4, 99, 5), 2));
        assert!(!counts_fit(&at, &now(8, 4, 99, 5), 1));
    }

    #[test]
    fn an_empty_log_has_no_identity() {
        let at = at(0, 0, 0, 0);
        assert_eq!(next_step(&at, &now(0, 0, 0, 0), false), Step::Lost(Discontinuity::Restarted));
        assert_eq!(next_step(&at, &now(0, 0, 0, 0), true), Step::Unchanged);
        assert_eq!(next_step(&at, &now(9, 4, 1, 2), true), Step::NewGeneration);
    }
}
