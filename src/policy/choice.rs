//! Which backup `--type auto` takes when a source has a policy. Pure: what was measured is passed in.
//!
//! The schedule names the type; the recovery time may ask for more:
//!
//! - an incremental now instead of a heavier one that is not due, when replaying the log since the newest backup would take
//!   what would be left of the RTO: it is done soonest;
//! - a diff or a full instead of another incremental, when fetching the chain would: a diff makes it two links long.
//!
//! "What would be left" is [`SHARE_OF_RTO`]. Without measured rates nothing is predicted and the schedule alone decides.
//! When a full by itself takes longer than that, no type of backup helps, and the schedule decides as well.

use std::time::Duration;

use super::Objectives;
use crate::base::BackupType;
use crate::base::units::{format_bytes, format_duration};

/// The part of the RTO that a recovery may be predicted to take.
const SHARE_OF_RTO: f64 = 0.8;

/// What this source's own drills measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// Bytes of the restored tree a second.
    pub fetch_bytes_per_second: Option<f64>,
    /// Bytes of log a second.
    pub replay_bytes_per_second: Option<f64>,
    /// What a recovery takes besides: start, promotion, the first check.
    pub besides: Duration,
}

/// What was declared and measured, for one backup to be taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AutoTerms {
    /// The type whose slot is due.
    pub due: Option<BackupType>,
    /// The lightest type of the schedule; an incremental when it has none.
    pub lightest: BackupType,
    /// What a recovery must achieve.
    pub objectives: Objectives,
    /// What was measured.
    pub rates: Rates,
}

/// The newest backup that a restore would use, and the log since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Newest {
    /// Bytes of its restored tree.
    pub raw_bytes: u64,
    /// Bytes stored of its full.
    pub full_stored_bytes: u64,
    /// Bytes stored of all that builds on that full, up to and with it …
    pub links_stored_bytes: u64,
    /// … and of the largest of them.
    pub largest_link_stored_bytes: u64,
    /// How many there are.
    pub links: usize,
    /// Bytes of log from where its replay begins to here.
    pub wal_bytes: u64,
}

/// What to take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The type.
    pub backup_type: BackupType,
    /// Why it is not what the schedule asks for.
    pub reason: Option<String>,
}

/// Chooses; `newest` is none while there is no backup.
pub fn choose(terms: &AutoTerms, newest: Option<&Newest>) -> Choice {
    let by_schedule = |backup_type| Choice { backup_type, reason: None };
    let scheduled = terms.due.unwrap_or(terms.lightest);
    let Some(newest) = newest else { return by_schedule(scheduled) };
    let limit = terms.objectives.rto.as_secs_f64() * SHARE_OF_RTO;
    let so_far = (terms.objectives.detection + terms.rates.besides).as_secs_f64();
    // The work of a fetch grows with what is stored: links overlap, and their parts are read too.
    let fetch = |links_stored_bytes: u64| {
        let full = newest.raw_bytes as f64 / terms.rates.fetch_bytes_per_second?;
        Some(full * (1.0 + links_stored_bytes as f64 / newest.full_stored_bytes.max(1) as f64))
    };
    let fits = |seconds: Option<f64>| seconds.is_none_or(|seconds| so_far + seconds <= limit);
    let replay = terms.rates.replay_bytes_per_second.map(|rate| newest.wal_bytes as f64 / rate);
    let chain = fetch(newest.links_stored_bytes);
    let is_sooner = terms.due.is_none() && scheduled != BackupType::Incr;
    let with_replay = replay.map(|replay| replay + chain.unwrap_or_default());
    if is_sooner && fits(chain) && !fits(with_replay) {
        let log = format_bytes(newest.wal_bytes);
        let why = because(terms, so_far + with_replay.unwrap_or_default(), &format!("with {log} of log to replay"));
        return Choice { backup_type: BackupType::Incr, reason: Some(format!("an incr now: {why}")) };
    }
    if scheduled != BackupType::Incr || fits(chain) || !fits(fetch(0)) {
        return by_schedule(scheduled);
    }
    let why = because(terms, so_far + chain.unwrap_or_default(), &format!("with a chain of {}", newest.links + 1));
    let a_diff_helps = newest.links > 1 && fits(fetch(newest.largest_link_stored_bytes));
    let (backup_type, name) = if a_diff_helps { (BackupType::Diff, "a diff") } else { (BackupType::Full, "a full") };
    Choice { backup_type, reason: Some(format!("{name} instead of an incr: {why}")) }
}

fn because(terms: &AutoTerms, seconds: f64, what: &str) -> String {
    let predicted = format_duration(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX));
    format!("a recovery is predicted to take {predicted} {what}; the RTO is {}", format_duration(terms.objectives.rto))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    /// 100 GiB fetched in 1000 s, 100 s besides and for detection; an RTO of 2000 s leaves 1600 s.
    fn terms(due: Option<BackupType>) -> AutoTerms {
        let rates = Rates {
            fetch_bytes_per_second: Some(GIB as f64 / 10.0),
            replay_bytes_per_second: Some(GIB as f64 / 20.0),
            besides: Duration::from_secs(40),
        };
        let objectives = Objectives {
            rto: Duration::from_secs(2000),
            rpo: Duration::from_secs(60),
            detection: Duration::from_secs(60),
            drill_max_age: Duration::ZERO,
        };
        AutoTerms { due, lightest: BackupType::Incr, objectives, rates }
    }

    fn newest(links: usize, link_gib: u64, wal_gib: u64) -> Newest {
        Newest {
            raw_bytes: 100 * GIB,
            full_stored_bytes: 50 * GIB,
            links_stored_bytes: links as u64 * link_gib * GIB,
            largest_link_stored_bytes: if links > 0 { link_gib * GIB } else { 0 },
            links,
            wal_bytes: wal_gib * GIB,
        }
    }

    #[track_caller]
    fn chosen(terms: AutoTerms, newest: &Newest) -> (BackupType, bool) {
        let choice = choose(&terms, Some(newest));
        (choice.backup_type, choice.reason.is_some())
    }

    #[test]
    fn the_schedule_decides_while_a_recovery_fits() {
        for due in [BackupType::Full, BackupType::Diff, BackupType::Incr] {
            assert_eq!(chosen(terms(Some(due)), &newest(3, 5, 500)), (due, false));
        }
        assert_eq!(chosen(terms(None), &newest(3, 5, 500)), (BackupType::Incr, false));
        assert_eq!(choose(&terms(Some(BackupType::Diff)), None).backup_type, BackupType::Diff);
    }

    #[test]
    fn much_log_asks_for_an_incremental_before_a_heavier_one_is_due() {
        let weekly = AutoTerms { lightest: BackupType::Full, ..terms(None) };
        assert_eq!(chosen(weekly, &newest(0, 0, 24)), (BackupType::Full, false));
        assert_eq!(chosen(weekly, &newest(0, 0, 26)), (BackupType::Incr, true));
        let due = AutoTerms { due: Some(BackupType::Full), ..weekly };
        assert_eq!(chosen(due, &newest(0, 0, 26)), (BackupType::Full, false));
    }

    #[test]
    fn a_long_chain_asks_for_a_diff_and_a_fat_one_for_a_full() {
        assert_eq!(chosen(terms(None), &newest(5, 5, 0)), (BackupType::Incr, false), "1500 s of fetching fit exactly");
        assert_eq!(chosen(terms(None), &newest(6, 5, 0)), (BackupType::Diff, true));
        assert_eq!(chosen(terms(None), &newest(1, 30, 0)), (BackupType::Full, true), "a diff would be as large");
        assert_eq!(chosen(terms(None), &newest(3, 26, 0)), (BackupType::Full, true));
    }

    #[test]
    fn where_nothing_helps_or_nothing_was_measured_nothing_is_forced() {
        let hopeless = Newest { raw_bytes: 1000 * GIB, ..newest(9, 9, 999) };
        assert_eq!(chosen(terms(None), &hopeless), (BackupType::Incr, false));
        let unmeasured = AutoTerms { rates: Rates::default(), ..terms(None) };
        assert_eq!(chosen(unmeasured, &newest(99, 99, 9999)), (BackupType::Incr, false));
    }
}
