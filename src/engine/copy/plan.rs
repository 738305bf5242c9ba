//! Which backups are copied. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::base::BackupId;
use crate::repo::{BackupSummary, CommitLog};

/// What becomes of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "fate", rename_all = "snake_case")]
pub enum Fate {
    /// It is copied.
    Copied,
    /// It is there already.
    Present,
    /// It was there and has expired there.
    Expired,
    /// It is not copied; why.
    LeftOut {
        /// The reason, for people.
        why: String,
    },
}

/// A backup and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The backup.
    pub id: BackupId,
    /// Bytes of its own objects.
    pub stored_bytes: u64,
    /// What becomes of it.
    #[serde(flatten)]
    pub fate: Fate,
}

impl Fate {
    /// Whether the backup will be in the other repository.
    fn arrives(&self) -> bool {
        matches!(self, Self::Copied | Self::Present)
    }
}

/// Decides on every backup of `from` that has not expired there, oldest first.
pub fn decide(from: &CommitLog, to: &CommitLog) -> Vec<Verdict> {
    let broken: BTreeMap<&BackupId, String> = from.broken().map(|(backup, why)| (&backup.id, why.to_string())).collect();
    let mut verdicts: Vec<Verdict> = Vec::new();
    for backup in from.backups() {
        let base = backup.base.as_ref().and_then(|base| verdicts.iter().find(|verdict| verdict.id == *base));
        let base_arrives = backup.base.is_none() || base.is_some_and(|base| base.fate.arrives());
        let fate = match (to.find(&backup.id), &backup.base) {
            (Some(there), _) if there == backup => Fate::Present,
            (Some(_), _) => left_out("another backup of this id is there"),
            (None, _) if to.was_committed(&backup.id) => Fate::Expired,
            (None, _) if broken.contains_key(&backup.id) => left_out(&broken[&backup.id]),
            (None, Some(base)) if !base_arrives => left_out(&format!("{base}, which it builds on, is not copied")),
            (None, _) => Fate::Copied,
        };
        verdicts.push(Verdict { id: backup.id.clone(), stored_bytes: backup.stored_bytes, fate });
    }
    verdicts
}

/// Leaves of `verdicts` those on the backup `only` and on what it builds on.
pub fn narrow(verdicts: &mut Vec<Verdict>, from: &CommitLog, only: &BackupId) {
    let mut wanted = vec![only.clone()];
    while let Some(base) = wanted.last().and_then(|id| from.find(id)).and_then(|backup| backup.base.clone()) {
        wanted.push(base);
    }
    verdicts.retain(|verdict| wanted.contains(&verdict.id));
}

fn left_out(why: &str) -> Fate {
    Fate::LeftOut { why: why.to_owned() }
}

/// The backups that are copied, in the order in which they are committed.
pub fn copied<'a>(from: &'a CommitLog, verdicts: &[Verdict]) -> Vec<&'a BackupSummary> {
    let wanted = |backup: &&BackupSummary| verdicts.iter().any(|verdict| verdict.id == backup.id && verdict.fate == Fate::Copied);
    from.backups().filter(wanted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{BackupType, Lsn};
    use crate::repo::Tombstone;
    use crate::repo::commit::Committed;

    const NAMES: [&str; 4] =
        ["20261120T214001Z-full-aaaa", "20261120T214002Z-incr-aaaa", "20261120T214003Z-incr-aaaa", "20261120T214004Z-full-aaaa"];

    /// The backup of this index: a full, two incrs on it, one more full.
    fn backup(index: usize) -> BackupSummary {
        let lsn = 100 * (index as u64 + 1);
        let sample = BackupSummary::sample(NAMES[index], (Lsn(lsn), Lsn(lsn + 50)));
        let base = matches!(index, 1 | 2).then(|| NAMES[index - 1].parse().unwrap());
        let backup_type = if base.is_some() { BackupType::Incr } else { BackupType::Full };
        BackupSummary { backup_type, base, ..sample }
    }

    fn backups(indices: &[usize]) -> Vec<Committed> {
        indices.iter().map(|index| Committed::Backup(Box::new(backup(*index)))).collect()
    }

    fn fates(from: &CommitLog, to: &CommitLog) -> Vec<(usize, Fate)> {
        let index = |id: &BackupId| NAMES.iter().position(|name| *name == id.to_string()).unwrap();
        decide(from, to).into_iter().map(|verdict| (index(&verdict.id), verdict.fate)).collect()
    }

    #[test]
    fn what_is_missing_is_copied_in_the_order_of_its_commits() {
        let (all, none) = (CommitLog::of(backups(&[0, 1, 2, 3])), CommitLog::default());
        let every = |fate: Fate| (0..4).map(|index| (index, fate.clone())).collect::<Vec<_>>();
        assert_eq!(fates(&all, &none), every(Fate::Copied));
        assert_eq!(fates(&all, &all), every(Fate::Present));
        assert_eq!(fates(&none, &all), []);
        let some = CommitLog::of(backups(&[0, 3]));
        let ids: Vec<_> = copied(&all, &decide(&all, &some)).iter().map(|backup| backup.id.to_string()).collect();
        assert_eq!(ids, [NAMES[1], NAMES[2]]);
    }

    #[test]
    fn one_backup_comes_with_what_it_builds_on() {
        let all = CommitLog::of(backups(&[0, 1, 2, 3]));
        for (only, wanted) in [(0, vec![0]), (2, vec![0, 1, 2]), (3, vec![3])] {
            let mut verdicts = decide(&all, &CommitLog::default());
            narrow(&mut verdicts, &all, &NAMES[only].parse().unwrap());
            let ids: Vec<String> = verdicts.iter().map(|verdict| verdict.id.to_string()).collect();
            assert_eq!(ids, wanted.iter().map(|index: &usize| NAMES[*index].to_owned()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_expired_there_stays_expired_with_all_that_builds_on_it() {
        let all = CommitLog::of(backups(&[0, 1, 2, 3]));
        let gone =
            Tombstone { backups: vec![NAMES[1].parse().unwrap()], marks: vec![], log_floors: vec![], log_ranges: Vec::new() };
        let there = CommitLog::of([backups(&[0, 1]), vec![Committed::Tombstone(gone)]].concat());
        let found = fates(&all, &there);
        assert_eq!((&found[0].1, &found[1].1, &found[3].1), (&Fate::Present, &Fate::Expired, &Fate::Copied));
        assert!(matches!(&found[2].1, Fate::LeftOut { why } if why.contains("is not copied")), "{found:?}");
    }

    #[test]
    fn what_cannot_be_restored_is_left_out() {
        let found = fates(&CommitLog::of(backups(&[1, 2, 3])), &CommitLog::default());
        assert!(matches!(&found[0].1, Fate::LeftOut { why } if why.contains("is gone")), "{found:?}");
        assert!(matches!(&found[1].1, Fate::LeftOut { .. }), "{found:?}");
        assert_eq!(found[2].1, Fate::Copied);
        let mut other = backup(0);
        other.raw_bytes += 1;
        let found = fates(&CommitLog::of(backups(&[0])), &CommitLog::of(vec![Committed::Backup(Box::new(other))]));
        assert!(matches!(&found[0].1, Fate::LeftOut { why } if why.contains("another backup")), "{found:?}");
    }
}
