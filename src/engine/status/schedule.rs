//! Backups against their schedule: which runs were due and did not come to a backup. Pure.

use std::time::Duration;

use crate::base::{BackupType, Timestamp};
use crate::policy::Schedule;
use crate::policy::cron::Cron;

use super::facts::BackupPoint;

/// How long a run may take before it counts as missed, at most half of the time until the next; a run that is known to take
/// longer may take twice what the last one took.
const GRACE: Duration = Duration::from_secs(3600);
/// The scheduler's clock and the database's may differ by as much.
const TOLERANCE: Duration = Duration::from_secs(60);
/// More missed runs than this are not counted.
const MOST: usize = 1000;

/// The backups of one type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The type.
    pub backup_type: BackupType,
    /// The newest of this type, if there is one.
    pub newest: Option<BackupPoint>,
    /// When it is due next, if it is scheduled.
    pub next_due: Option<Timestamp>,
    /// Runs that were due since and came to no backup of this type, nor to one that holds more.
    pub missed: usize,
}

/// Each type that is scheduled or has a backup. `backups` are those that have not expired.
pub fn standings(schedule: Option<&Schedule>, backups: &[BackupPoint], now: Timestamp) -> Vec<Standing> {
    let mut standings = Vec::new();
    for (backup_type, cron) in [
        (BackupType::Full, schedule.and_then(|schedule| schedule.full.as_ref())),
        (BackupType::Diff, schedule.and_then(|schedule| schedule.diff.as_ref())),
        (BackupType::Incr, schedule.and_then(|schedule| schedule.incr.as_ref())),
    ] {
        let newest = backups.iter().filter(|backup| backup.backup_type == backup_type).max_by_key(|backup| backup.stopped);
        if newest.is_none() && cron.is_none() {
            continue;
        }
        let due = schedule.zip(cron);
        standings.push(Standing {
            backup_type,
            newest: newest.cloned(),
            next_due: due.and_then(|(schedule, cron)| cron.next_after(now, schedule.timezone)),
            missed: due.map_or(0, |(schedule, cron)| missed(schedule, cron, backup_type, backups, now)),
        });
    }
    standings
}

fn missed(schedule: &Schedule, cron: &Cron, backup_type: BackupType, backups: &[BackupPoint], now: Timestamp) -> usize {
    let holds_as_much = |backup: &&BackupPoint| rank(backup.backup_type) >= rank(backup_type);
    let Some(last) = backups.iter().filter(holds_as_much).max_by_key(|backup| backup.started) else { return 0 };
    let of_type = backups.iter().filter(|backup| backup.backup_type == backup_type).max_by_key(|backup| backup.started);
    let took = of_type.map_or(Duration::ZERO, |backup| backup.stopped.since(backup.started));
    let mut missed = 0;
    let mut after = last.started.plus(TOLERANCE);
    while let Some(due) = cron.next_after(after, schedule.timezone).filter(|due| *due <= now && missed < MOST) {
        let pause = cron.next_after(due, schedule.timezone).map_or(GRACE * 2, |next| next.since(due));
        if due.plus((pause / 2).min(GRACE).max(took * 2)) <= now {
            missed += 1;
        }
        after = due;
    }
    missed
}

fn rank(backup_type: BackupType) -> u8 {
    match backup_type {
        BackupType::Full => 2,
        BackupType::Diff => 1,
        BackupType::Incr => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse_compact(text).unwrap()
    }

    fn schedule(full: &str, incr: &str) -> Schedule {
        Schedule {
            timezone: chrono_tz::Tz::UTC,
            full: Some(full.parse().unwrap()),
            diff: None,
            incr: Some(incr.parse().unwrap()),
            verify: None,
            drill: None,
        }
    }

    fn point(backup_type: BackupType, started: &str) -> BackupPoint {
        let started = at(started);
        let id = crate::base::BackupId::fresh(started, backup_type);
        BackupPoint { id, backup_type, started, stopped: started.plus(Duration::from_secs(60)), raw_bytes: 1, expired: false }
    }

    fn missed(backups: &[BackupPoint], now: &str) -> Vec<(BackupType, usize)> {
        let standings = standings(Some(&schedule("0 2 * * 0", "0 * * * *")), backups, at(now));
        standings.into_iter().map(|standing| (standing.backup_type, standing.missed)).collect()
    }

    #[test]
    fn a_run_is_missed_when_nothing_came_of_it_in_time() {
        use BackupType::{Full, Incr};
        // 2026-11-15 is a Sunday.
        let backups = [point(Full, "20261115T020001Z"), point(Incr, "20261115T030002Z")];
        assert_eq!(missed(&backups, "20261115T032000Z"), [(Full, 0), (Incr, 0)]);
        assert_eq!(missed(&backups, "20261115T042900Z"), [(Full, 0), (Incr, 0)], "half of the pause is left to it");
        assert_eq!(missed(&backups, "20261115T043100Z"), [(Full, 0), (Incr, 1)]);
        assert_eq!(missed(&backups, "20261122T033000Z"), [(Full, 1), (Incr, 168)]);
        let full_again = [&backups[..], &[point(Full, "20261122T020001Z")]].concat();
        assert_eq!(missed(&full_again, "20261122T022000Z"), [(Full, 0), (Incr, 0)], "a full holds what an incr would");
    }

    #[test]
    fn a_run_that_takes_long_is_waited_for() {
        let long = BackupPoint { stopped: at("20261115T060000Z"), ..point(BackupType::Full, "20261115T020001Z") };
        let standings = |now| standings(Some(&schedule("0 2 * * 0", "0 0 1 1 *")), std::slice::from_ref(&long), at(now));
        assert_eq!(standings("20261122T090000Z")[0].missed, 0);
        assert_eq!(standings("20261122T110000Z")[0].missed, 1);
    }

    #[test]
    fn without_a_schedule_nothing_is_missed() {
        let backups = [point(BackupType::Full, "20200101T000000Z")];
        let standings = standings(None, &backups, at("20261115T000000Z"));
        assert_eq!((standings.len(), standings[0].missed, standings[0].next_due), (1, 0, None));
    }
}
