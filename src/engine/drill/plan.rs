//! What a drill is going to need and where it goes, before anything is written. Pure.

use std::path::Path;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::base::units::format_bytes;
use crate::base::{DrillLevel, Error, Result, Timestamp};
use crate::engine::restore::plan::RestorePlan;
use crate::engine::window::Interval;
use crate::repo::BackupSummary;
use crate::repo::evidence::Record;

/// What a restored server writes besides: its log, temporary files, the first checkpoint.
const SLACK_BYTES: u64 = 64 << 20;

/// Bytes that the scratch disk must have free: the restored tree, the log that is replayed, and slack for what both grow by.
pub fn needed_bytes(plan: &RestorePlan) -> u64 {
    let segment_bytes = plan.backup.segment_bytes.bytes();
    // One more is what `archive get` keeps of the segment before.
    let log_bytes = (plan.segments.len() as u64 + 3) * segment_bytes;
    needed_for(&plan.backup, log_bytes)
}

/// The same of what has no server, with `log_bytes` of log.
pub fn needed_for(backup: &BackupSummary, log_bytes: u64) -> u64 {
    backup.raw_bytes + backup.raw_bytes / 20 + log_bytes + SLACK_BYTES
}

/// Refuses a scratch disk that is too small.
///
/// # Errors
/// With both numbers, and another place to try.
pub fn check_space(directory: &Path, needed_bytes: u64, free_bytes: u64) -> Result<()> {
    if free_bytes >= needed_bytes {
        return Ok(());
    }
    Err(Error::failed(format!("the drill does not fit into {}", directory.display()))
        .detail("needed", format!("{} with the log and some slack", format_bytes(needed_bytes)))
        .detail("free", format_bytes(free_bytes))
        .hint("add --scratch DIR   on a disk with more room"))
}

/// A moment inside the intervals, each as likely as any other; none when there is no interval.
pub fn random_moment(intervals: &[Interval], seed: u64) -> Option<Timestamp> {
    let micros = |interval: &Interval| interval.to.since(interval.from).as_micros() as u64;
    // Each interval holds its own end: one of no length is one moment.
    let total_micros: u64 = intervals.iter().map(|interval| micros(interval) + 1).sum();
    if total_micros == 0 {
        return None;
    }
    let mut left = StdRng::seed_from_u64(seed).random_range(0..total_micros);
    for interval in intervals {
        let own = micros(interval) + 1;
        if left < own {
            return Some(interval.from.plus(std::time::Duration::from_micros(left)));
        }
        left -= own;
    }
    None
}

/// Of several levels the one that was drilled the longest ago, or never; in doubt the first.
pub fn next_level(levels: &[DrillLevel], record: &Record) -> DrillLevel {
    let last = |level: &DrillLevel| record.kept.iter().rposition(|kept| kept.evidence.level == *level);
    levels.iter().copied().min_by_key(last).unwrap_or(DrillLevel::Component)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Lsn, Segment, TimelineId};

    fn interval(from: i64, to: i64) -> Interval {
        let at = |micros| Timestamp::from_unix_micros(micros).unwrap();
        let missing = Segment { timeline: TimelineId(1), number: 1 };
        Interval { from: at(from), to: at(to), end_lsn: Lsn(1), backups: Vec::new(), missing }
    }

    #[test]
    fn a_random_moment_lies_in_an_interval_never_in_a_gap_and_every_part_comes_up() {
        let intervals = [interval(1000, 1009), interval(5000, 5000), interval(9000, 9099)];
        let mut seen = [0; 3];
        for seed in 0..4000 {
            let moment = random_moment(&intervals, seed).unwrap();
            assert_eq!(random_moment(&intervals, seed), Some(moment), "seed {seed}");
            let at = intervals.iter().position(|interval| (interval.from..=interval.to).contains(&moment));
            seen[at.unwrap_or_else(|| panic!("seed {seed}: {moment} lies in a gap"))] += 1;
        }
        assert!(seen[0] > 250 && seen[1] > 10 && seen[2] > 3000, "{seen:?}");
        assert_eq!(random_moment(&[], 1), None);
    }

    #[test]
    fn a_disk_that_is_too_small_by_a_byte_is_refused() {
        let directory = Path::new("/scratch");
        assert!(check_space(directory, 100, 100).is_ok());
        let error = check_space(directory, 100, 99).unwrap_err();
        assert!(error.message().contains("/scratch"), "{error:?}");
    }
}
