//! Whose turn it is to run a slot, when several hosts follow one schedule. Pure.
//!
//! Each attempt at a slot is claimed under its number, which one host alone can do, and ended by a note of what came of it.
//! The next number may be claimed once the attempt before has ended badly, or its host is taken for dead: a host is known
//! to be alive while it holds the source's lease, or, of jobs that take none, for [`Patience::LONG`].

use std::time::Duration;

use super::cadence::backoff;
use crate::base::Timestamp;

/// How often to look whether another host's attempt has ended, and of jobs that may take a day.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
const LOOK_SELDOM: Duration = Duration::from_secs(60);

/// How long a claim counts whose host gives no sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience(pub Duration);

impl Patience {
    /// For a job that takes the lease: from the claim to the lease, and from the lease's return to the end noted.
    pub const SHORT: Self = Self(Duration::from_secs(5 * 60));
    /// For a job that takes none.
    pub const LONG: Self = Self(Duration::from_secs(24 * 3600));
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It did what it was for.
    Settled,
    /// It was told to stop.
    Interrupted,
    /// It failed.
    Failed,
}

/// One attempt at a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Its number, from 1.
    pub number: u32,
    /// When it was claimed.
    pub claimed: Timestamp,
    /// Whether the run that claimed it is known to be over: it ran from this host's own state directory.
    pub is_over: bool,
    /// What came of it, and when.
    pub end: Option<(Ending, Timestamp)>,
}

/// What to do about a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing: it has been run.
    Settled,
    /// Claim the attempt of this number.
    Take(u32),
    /// Look again at this moment: it is being run.
    Busy(Timestamp),
    /// Look again at this moment: it failed a moment ago.
    Wait(Timestamp),
}

/// Whose turn it is after `attempts`, oldest first, when `leased` says whether anybody holds the lease that the job takes.
pub fn turn(attempts: &[Attempt], leased: bool, patience: Patience, now: Timestamp) -> Turn {
    let Some(last) = attempts.last() else { return Turn::Take(1) };
    if attempts.iter().any(|attempt| matches!(attempt.end, Some((Ending::Settled, _)))) {
        return Turn::Settled;
    }
    // To be interrupted says nothing against the next attempt; to die again and again does.
    let after = |ended: Timestamp, failures: u32| ended.plus(backoff(failures));
    let from = match last.end {
        Some((Ending::Failed, ended)) => after(ended, last.number),
        Some((_, ended)) => after(ended, last.number - 1),
        None if leased => return Turn::Busy(now.plus(LOOK_AGAIN)),
        None if !last.is_over && now.since(last.claimed) < patience.0 => {
            let pause = if patience == Patience::LONG { LOOK_SELDOM } else { LOOK_AGAIN };
            return Turn::Busy(now.plus(pause));
        }
        None => after(last.claimed, last.number - 1),
    };
    // Noted by a clock that was wrong: nobody waits for that moment.
    let is_believed = from <= now.plus(backoff(u32::MAX)).plus(super::cadence::CLOCK_TRUST);
    if from > now && is_believed { Turn::Wait(from) } else { Turn::Take(last.number + 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::parse_compact("20261120T000000Z").unwrap().plus(Duration::from_secs(seconds))
    }

    fn attempt(number: u32, claimed: u64, end: Option<(Ending, u64)>) -> Attempt {
        let end = end.map(|(ending, seconds)| (ending, at(seconds)));
        Attempt { number, claimed: at(claimed), is_over: false, end }
    }

    fn turn_at(attempts: &[Attempt], now: u64) -> Turn {
        turn(attempts, false, Patience::SHORT, at(now))
    }

    #[test]
    fn a_slot_is_taken_once_and_again_only_after_a_pause_that_doubles() {
        assert_eq!(turn_at(&[], 0), Turn::Take(1));
        let mut attempts = Vec::new();
        let mut ended = 10;
        for (number, pause) in (1..).zip([60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]) {
            attempts.push(attempt(number, ended - 5, Some((Ending::Failed, ended))));
            assert_eq!(turn_at(&attempts, ended + pause - 1), Turn::Wait(at(ended + pause)), "{number}");
            assert_eq!(turn_at(&attempts, ended + pause), Turn::Take(number + 1), "{number}");
            ended += pause + 5;
        }
        attempts.push(attempt(10, ended, Some((Ending::Settled, ended + 1))));
        assert_eq!(turn_at(&attempts, ended + 9_999_999), Turn::Settled);
    }

    #[test]
    fn a_claim_counts_while_its_host_may_live() {
        let other = attempt(1, 100, None);
        assert_eq!(turn_at(&[other], 399), Turn::Busy(at(409)));
        assert_eq!(turn_at(&[other], 400), Turn::Take(2));
        assert_eq!(turn(&[other], true, Patience::SHORT, at(100_000)), Turn::Busy(at(100_010)), "it holds the lease");
        assert_eq!(turn(&[other], false, Patience::LONG, at(80_000)), Turn::Busy(at(80_060)));
        let own = Attempt { is_over: true, ..other };
        assert_eq!(turn_at(&[own], 101), Turn::Take(2));
        assert_eq!(turn(&[own], true, Patience::SHORT, at(101)), Turn::Busy(at(111)), "its child may live on");
        // A second death in a row is waited after.
        let again = Attempt { is_over: true, ..attempt(2, 200, None) };
        assert_eq!(turn_at(&[own, again], 201), Turn::Wait(at(260)));
    }

    #[test]
    fn what_was_interrupted_goes_on_at_once() {
        let stopped = attempt(1, 100, Some((Ending::Interrupted, 110)));
        assert_eq!(turn_at(&[stopped], 111), Turn::Take(2));
    }

    #[test]
    fn an_end_in_the_far_future_stops_nothing() {
        let failed = attempt(1, 100, Some((Ending::Failed, 1_000_000)));
        assert_eq!(turn_at(&[failed], 200), Turn::Take(2));
        let soon = attempt(1, 100, Some((Ending::Failed, 2000)));
        assert_eq!(turn_at(&[soon], 200), Turn::Wait(at(2060)));
    }
}
