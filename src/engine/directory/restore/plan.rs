//! Which backup comes back. Pure.

use crate::base::units::format_duration;
use crate::base::{BackupId, Error, Result, Timestamp};
use crate::engine::restore::Target;
use crate::repo::BackupSummary;

/// What a restore will do.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The backup.
    pub backup: BackupSummary,
    /// Why this one, for people.
    pub because: String,
    /// The moment that comes back: the backup's end.
    pub moment: Timestamp,
    /// What the operator should know.
    pub notes: Vec<String>,
}

/// Chooses one of `backups` of `source`, which are in the order of their commits: `only` that one when given, else the last
/// for the latest, and for a time the newest that had ended by then.
///
/// # Errors
/// When there is none, with the nearest moments that there are; when the target is one that only databases have.
pub fn plan(source: &str, backups: &[&BackupSummary], target: &Target, only: Option<&BackupId>) -> Result<Plan> {
    let Some(last) = backups.last().copied() else {
        return Err(Error::failed(format!("{source} has no backup that can be restored"))
            .hint(format!("lifeboat backup {source} --type full")));
    };
    let mut backups = backups.to_vec();
    backups.sort_by_key(|backup| (backup.stop_time, backup.start_time));
    let until = match target {
        Target::Latest | Target::Immediate => None,
        Target::Time(time) => Some(*time),
        Target::Lsn { .. } | Target::Xid { .. } | Target::Name(_) => return Err(foreign_target(source, target)),
    };
    let chosen = match only {
        Some(id) => asked_for(source, &backups, id, until)?,
        None => match until {
            // Whatever a clock said that was set back since.
            None => last,
            Some(until) => match backups.iter().rfind(|backup| backup.stop_time <= until) {
                Some(newest) => *newest,
                None => return Err(too_early(source, &backups, until)),
            },
        },
    };
    let because = match (only, until) {
        (Some(_), _) => "it was asked for",
        (None, None) => "the newest",
        (None, Some(_)) => "the newest that had ended by then",
    };
    let mut notes: Vec<String> = until.and_then(|until| between(&backups, chosen, until)).into_iter().collect();
    if let Some(latest) = backups.last().filter(|latest| latest.id != last.id) {
        notes.push(format!(
            "the clock was set back: {} was taken last, although {} says that it ended later, at {}",
            last.id,
            latest.id,
            latest.stop_time.human()
        ));
    }
    Ok(Plan { backup: chosen.clone(), because: because.to_owned(), moment: chosen.stop_time, notes })
}

fn asked_for<'a>(
    source: &str,
    backups: &[&'a BackupSummary],
    id: &BackupId,
    until: Option<Timestamp>,
) -> Result<&'a BackupSummary> {
    let found = backups.iter().find(|backup| backup.id == *id).ok_or_else(|| {
        Error::failed(format!("{source} has no backup {id} that can be restored"))
            .hint(format!("lifeboat list {source}   shows what there is"))
    })?;
    match until {
        Some(until) if found.stop_time > until => {
            Err(Error::failed(format!("backup {id} of {source} ended after {}", until.human()))
                .detail("ended", found.stop_time.human())
                .hint("leave --backup out: then the newest backup that had ended by then is taken"))
        }
        _ => Ok(found),
    }
}

/// A directory has no log; so it comes back as it was when a backup ended, and that is said.
fn between(backups: &[&BackupSummary], chosen: &BackupSummary, until: Timestamp) -> Option<String> {
    let before = until.since(chosen.stop_time);
    if before.is_zero() {
        return None;
    }
    let next = backups.iter().map(|backup| backup.stop_time).find(|moment| *moment > until);
    let next = next.map_or_else(|| "there is no later backup".to_owned(), |next| format!("the next moment is {}", next.human()));
    Some(format!(
        "a directory has only the moments of its backups: it comes back as it was at {}, {} before the time asked for; {next}",
        chosen.stop_time.human(),
        format_duration(before)
    ))
}

fn too_early(source: &str, backups: &[&BackupSummary], until: Timestamp) -> Error {
    let error = Error::failed(format!("cannot restore {source} to {}: no backup had ended by then", until.human()));
    let first = &backups[0];
    error
        .detail("first moment", first.stop_time.human())
        .detail("moments", format!("{}, of one backup each", backups.len()))
        .hint(format!("lifeboat restore {source} --to '{}' --into DIR", first.stop_time.human()))
        .hint(format!("lifeboat list {source}   shows all moments"))
}

fn foreign_target(source: &str, target: &Target) -> Error {
    Error::usage(format!("{source} is a directory: it cannot be restored to {target}"))
        .detail("has", "only the moments of its backups")
        .hint(format!("lifeboat restore {source} --to TIME --into DIR"))
        .hint(format!("lifeboat restore {source} --backup ID --into DIR"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::Lsn;

    fn taken(hour: u32) -> BackupSummary {
        let incarnation = "directory-1".parse().unwrap();
        let sample = BackupSummary::sample_of(incarnation, &format!("20261120T{hour:02}0000Z-full-aaaa"), (Lsn(0), Lsn(0)));
        // A backup that takes ten minutes.
        BackupSummary { stop_time: sample.start_time.plus(Duration::from_secs(600)), ..sample }
    }

    fn at(hour: u32, minute: u32) -> Timestamp {
        Timestamp::parse_compact(&format!("20261120T{hour:02}{minute:02}00Z")).unwrap()
    }

    #[test]
    fn every_moment_leads_to_the_backup_that_had_ended_last_by_then() {
        let (first, second, third) = (taken(1), taken(2), taken(3));
        let backups = [&first, &second, &third];
        for minutes in 0..300 {
            let target = at(0, 0).plus(Duration::from_secs(minutes * 60));
            let planned = plan("docs", &backups, &Target::Time(target), None);
            let expected = backups.iter().filter(|backup| backup.stop_time <= target).max_by_key(|backup| backup.stop_time);
            match (planned, expected) {
                (Ok(plan), Some(expected)) => {
                    assert_eq!((&plan.backup.id, plan.moment), (&expected.id, expected.stop_time), "{target}");
                    assert_eq!(plan.notes.is_empty(), target == expected.stop_time, "{target}: {:?}", plan.notes);
                }
                (Err(error), None) => assert!(error.hints()[0].contains("2026-11-20 01:10:00 UTC"), "{error:?}"),
                (planned, expected) => panic!("{target}: {planned:?} where {expected:?} was expected"),
            }
        }
    }

    #[test]
    fn between_two_backups_the_earlier_one_comes_back_and_that_is_said() {
        let (first, second) = (taken(1), taken(2));
        let plan = plan("docs", &[&first, &second], &Target::Time(at(2, 5)), None).unwrap();
        assert_eq!(
            plan.notes,
            ["a directory has only the moments of its backups: it comes back as it was at 2026-11-20 01:10:00 UTC, \
              55 min before the time asked for; the next moment is 2026-11-20 02:10:00 UTC"]
        );
    }

    #[test]
    fn the_newest_is_what_was_committed_last_whatever_the_clock_said() {
        let (first, ahead, last) = (taken(1), taken(9), taken(2));
        let backups = [&first, &ahead, &last];
        for target in [Target::Latest, Target::Immediate] {
            let plan = plan("docs", &backups, &target, None).unwrap();
            assert_eq!(plan.backup.id, last.id);
            assert!(plan.notes[0].contains("the clock was set back") && plan.notes[0].contains(ahead.id.as_str()), "{plan:?}");
        }
        assert_eq!(plan("docs", &backups, &Target::Time(at(9, 30)), None).unwrap().backup.id, ahead.id);
        assert!(plan("docs", &[&first, &last], &Target::Latest, None).unwrap().notes.is_empty());
    }

    #[test]
    fn what_was_asked_for_is_taken_or_refused() {
        let (first, second) = (taken(1), taken(2));
        let backups = [&first, &second];
        assert_eq!(plan("docs", &backups, &Target::Latest, None).unwrap().backup.id, second.id);
        assert_eq!(plan("docs", &backups, &Target::Latest, Some(&first.id)).unwrap().backup.id, first.id);
        assert_eq!(plan("docs", &backups, &Target::Immediate, Some(&first.id)).unwrap().moment, first.stop_time);
        let refused = |target: Target, only: Option<&BackupId>| plan("docs", &backups, &target, only).unwrap_err();
        assert!(refused(Target::Latest, Some(&taken(3).id)).message().contains("has no backup"));
        assert!(refused(Target::Time(at(2, 5)), Some(&second.id)).message().contains("ended after"));
        assert!(refused(Target::Name("x".into()), None).message().contains("is a directory"));
        assert!(refused(Target::Lsn { lsn: Lsn(7), inclusive: true }, None).message().contains("is a directory"));
        assert!(plan("docs", &[], &Target::Latest, None).is_err());
    }
}
