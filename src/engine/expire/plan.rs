//! Which backups go and which stay, and from where on the log is needed. Pure.
//!
//! What goes is closed under "builds on": a backup goes only with everything that builds on it. Of all sets of due backups
//! that are closed, the largest goes, less the chain of the newest restorable backup when nothing restorable would be left.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::base::{BackupId, Incarnation, Lsn, Timestamp};
use crate::repo::BackupSummary;
use crate::repo::commit::LogFloor;
use crate::repo::expiry::Standing;
use crate::store::Lock;

/// Everything that decides.
pub struct Situation<'a> {
    /// The backups that have not expired, oldest first.
    pub backups: Vec<&'a BackupSummary>,
    /// Those that can be restored: chain and log are there.
    pub restorable: BTreeSet<BackupId>,
    /// The marks that stand, by backup.
    pub marks: &'a BTreeMap<BackupId, Standing>,
    /// Locks that hold on what is due, by backup: the one that ends last.
    pub locked: &'a BTreeMap<BackupId, Lock>,
    /// The present moment.
    pub now: Timestamp,
    /// Whether to go on when nothing restorable is left.
    pub allow_none: bool,
}

/// What becomes of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// It stays.
    Kept,
    /// It stays until its grace is over.
    Pending,
    /// It goes.
    Expired,
}

/// What becomes of one backup, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The backup.
    pub id: BackupId,
    /// What becomes of it.
    pub fate: Fate,
    /// Why, as the end of a sentence that begins with the id.
    pub why: String,
}

/// Decides on every backup, oldest first.
pub fn decide(now: &Situation<'_>) -> Vec<Verdict> {
    let is_due = |id: &BackupId| now.marks.get(id).is_some_and(|mark| mark.due <= now.now) && !now.locked.contains_key(id);
    let mut going: BTreeSet<&BackupId> = BTreeSet::new();
    let mut obstacle: BTreeMap<&BackupId, BackupId> = BTreeMap::new();
    for backup in now.backups.iter().filter(|backup| is_due(&backup.id)) {
        match descendants(&now.backups, &backup.id).into_iter().find(|id| !is_due(id)) {
            Some(id) => {
                obstacle.insert(&backup.id, id);
            }
            None => {
                going.insert(&backup.id);
            }
        }
    }
    let held = held_back(now, &going);
    let verdict = |backup: &&BackupSummary| {
        let id = &backup.id;
        let (fate, why) = match now.marks.get(id) {
            None => (Fate::Kept, "is not marked".to_owned()),
            Some(mark) if mark.due > now.now => {
                let since = format!("is marked ({}), and may go from {} on", mark.mark, mark.due.human_seconds());
                (Fate::Pending, since)
            }
            Some(_) if let Some(lock) = now.locked.get(id) => (Fate::Kept, format!("is due, but {lock}: it can go then")),
            Some(_) if held.contains(id) => {
                (Fate::Kept, "is due, but nothing that can be restored would be left without it".to_owned())
            }
            Some(mark) => match obstacle.get(id) {
                Some(other) => (Fate::Kept, format!("is due, but {other} builds on it and {}", undue(now, other))),
                None => (Fate::Expired, format!("was marked ({}), and its grace is over", mark.mark)),
            },
        };
        Verdict { id: id.clone(), fate, why }
    };
    now.backups.iter().map(verdict).collect()
}

/// Why a backup is not due.
fn undue(now: &Situation<'_>, id: &BackupId) -> String {
    match now.marks.get(id) {
        Some(mark) if mark.due <= now.now => match now.locked.get(id) {
            Some(lock) => format!("is {lock}"),
            None => "stays as well".to_owned(),
        },
        Some(mark) => format!("may go only from {} on", mark.due.human_seconds()),
        None => "is not marked".to_owned(),
    }
}

/// The chain of the newest restorable backup, when without what is going nothing restorable is left.
fn held_back(now: &Situation<'_>, going: &BTreeSet<&BackupId>) -> BTreeSet<BackupId> {
    let something_is_left = now.backups.iter().any(|backup| now.restorable.contains(&backup.id) && !going.contains(&backup.id));
    if something_is_left || now.allow_none {
        return BTreeSet::new();
    }
    match now.backups.iter().rfind(|backup| now.restorable.contains(&backup.id)) {
        Some(newest) => bases(&now.backups, &newest.id).into_iter().chain([newest.id.clone()]).collect(),
        // Then one that looks hopeless today is all there is.
        None => going.iter().map(|id| (*id).clone()).collect(),
    }
}

/// Everything that builds on `id`, directly or not, oldest first; not `id` itself.
pub fn descendants(backups: &[&BackupSummary], id: &BackupId) -> Vec<BackupId> {
    let mut found: Vec<BackupId> = Vec::new();
    // Until nothing is added: a base may have been committed after what builds on it, by mistake or mischief.
    loop {
        let before = found.len();
        for backup in backups {
            let builds_on = backup.base.as_ref().is_some_and(|base| base == id || found.contains(base));
            if builds_on && backup.id != *id && !found.contains(&backup.id) {
                found.push(backup.id.clone());
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

/// Everything that `id` builds on, directly or not, nearest first.
pub fn bases(backups: &[&BackupSummary], id: &BackupId) -> Vec<BackupId> {
    let base_of = |id: &BackupId| backups.iter().find(|backup| backup.id == *id)?.base.clone();
    let mut found: Vec<BackupId> = Vec::new();
    let mut next = base_of(id);
    while let Some(base) = next.filter(|base| base != id && !found.contains(base)) {
        next = base_of(&base);
        found.push(base);
    }
    found
}

/// From where on the log of each incarnation that lost backups is needed, where that is later than `recorded`.
///
/// By positions, whatever the timeline: a backup needs the log from its own start on, and no branch is older than that.
/// `in_flight` are the starts of backups being taken. With nothing left of an incarnation its log goes up to the end of
/// the last backup that is gone: what was archived after that may belong to a backup to come.
pub fn log_floors(
    remaining: &[&BackupSummary],
    gone: &[&BackupSummary],
    in_flight: &[LogFloor],
    recorded: impl Fn(&Incarnation) -> Lsn,
) -> Vec<LogFloor> {
    let incarnations: BTreeSet<&Incarnation> = gone.iter().map(|backup| &backup.incarnation).collect();
    let floor = |incarnation: &Incarnation| {
        let starts = remaining.iter().filter(|backup| backup.incarnation == *incarnation).map(|backup| backup.start_lsn);
        let flying = in_flight.iter().filter(|flight| flight.incarnation == *incarnation).map(|flight| flight.lsn);
        let ends = gone.iter().filter(|backup| backup.incarnation == *incarnation).map(|backup| backup.stop_lsn);
        starts.chain(flying).min().or_else(|| ends.max()).unwrap_or_default()
    };
    let floors =
        incarnations.into_iter().map(|incarnation| LogFloor { incarnation: incarnation.clone(), lsn: floor(incarnation) });
    floors.filter(|floor| floor.lsn > recorded(&floor.incarnation)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::base::BackupType;
    use crate::store::LockMode;

    fn moment(seconds: u64) -> Timestamp {
        Timestamp::parse_compact("20261120T000000Z").unwrap().plus(Duration::from_secs(seconds))
    }

    fn lock() -> Lock {
        Lock { mode: LockMode::Governance, until: moment(86_400) }
    }

    /// What a random backup is made of: its base among those before it, whether it can be restored by itself, its mark.
    #[derive(Clone, Debug)]
    struct Seed {
        base: Option<usize>,
        sound: bool,
        due_seconds: Option<u64>,
        second_cluster: bool,
        locked: bool,
    }

    fn seeds() -> impl Strategy<Value = Vec<Seed>> {
        let due = prop::option::weighted(0.8, 0u64..4);
        let seed = (any::<u8>(), any::<bool>(), due, prop::bool::weighted(0.2), prop::bool::weighted(0.2));
        prop::collection::vec(seed, 0..9).prop_map(|seeds| {
            type Parts = (u8, bool, Option<u64>, bool, bool);
            let build = |(index, (base, sound, due_seconds, second_cluster, locked)): (usize, Parts)| Seed {
                base: Some(usize::from(base) % (index + 1)).filter(|base| *base < index),
                sound,
                due_seconds,
                second_cluster,
                locked,
            };
            seeds.into_iter().enumerate().map(build).collect()
        })
    }

    fn backups_of(seeds: &[Seed]) -> Vec<BackupSummary> {
        let id = |index: usize, full: bool| format!("20261120T0000{index:02}Z-{}-aaaa", if full { "full" } else { "incr" });
        let id_of = |index: usize| id(index, seeds[index].base.is_none());
        let build = |(index, seed): (usize, &Seed)| {
            let start = 1000 * (index as u64 + 1);
            let base = seed.base.map(|base| id_of(base).parse().unwrap());
            let backup_type = if base.is_none() { BackupType::Full } else { BackupType::Incr };
            let incarnation = Incarnation::postgres(15, if seed.second_cluster { 2 } else { 1 });
            let sample = BackupSummary::sample(&id_of(index), (Lsn(start), Lsn(start + 500)));
            BackupSummary { backup_type, base, incarnation, ..sample }
        };
        seeds.iter().enumerate().map(build).collect()
    }

    /// Every subset of the due backups, tried: the union of those that are closed and leave `spared` alone.
    fn by_brute_force(backups: &[&BackupSummary], due: &[BackupId], spared: Option<&BackupId>) -> BTreeSet<BackupId> {
        let candidates: Vec<&BackupId> = due.iter().filter(|id| Some(*id) != spared).collect();
        let mut union = BTreeSet::new();
        for bits in 0..1u32 << candidates.len() {
            let chosen: BTreeSet<&BackupId> =
                candidates.iter().enumerate().filter(|(index, _)| bits >> index & 1 == 1).map(|(_, id)| *id).collect();
            let is_closed = backups
                .iter()
                .all(|backup| backup.base.as_ref().is_none_or(|base| !chosen.contains(base) || chosen.contains(&backup.id)));
            if is_closed {
                union.extend(chosen.into_iter().cloned());
            }
        }
        union
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

        #[test]
        fn what_goes_is_what_trying_everything_says(seeds in seeds(), allow_none in any::<bool>()) {
            let backups = backups_of(&seeds);
            let all: Vec<&BackupSummary> = backups.iter().collect();
            let sound = |id: &BackupId| seeds[backups.iter().position(|backup| backup.id == *id).unwrap()].sound;
            let is_restorable = |id: &BackupId| sound(id) && bases(&all, id).iter().all(sound);
            let restorable: BTreeSet<BackupId> = backups.iter().map(|backup| backup.id.clone()).filter(is_restorable).collect();
            let marks: BTreeMap<BackupId, Standing> = backups.iter().zip(&seeds).filter_map(|(backup, seed)| {
                Some((backup.id.clone(), Standing { mark: "m".into(), due: moment(seed.due_seconds?), by_policy: false }))
            }).collect();
            let locked: BTreeMap<BackupId, Lock> =
                backups.iter().zip(&seeds).filter(|(_, seed)| seed.locked).map(|(backup, _)| (backup.id.clone(), lock())).collect();
            let now = moment(2);
            let situation = Situation {
                backups: all.clone(),
                restorable: restorable.clone(),
                marks: &marks,
                locked: &locked,
                now,
                allow_none,
            };
            let verdicts = decide(&situation);
            prop_assert_eq!(verdicts.len(), backups.len());
            let with = |fate: Fate| verdicts.iter().filter(move |verdict| verdict.fate == fate).map(|verdict| verdict.id.clone());
            let gone: BTreeSet<BackupId> = with(Fate::Expired).collect();

            prop_assert!(gone.iter().all(|id| !locked.contains_key(id)));
            let is_due = |(id, mark): &(&BackupId, &Standing)| mark.due <= now && !locked.contains_key(*id);
            let due: Vec<BackupId> = marks.iter().filter(is_due).map(|(id, _)| id.clone()).collect();
            let unhindered = by_brute_force(&all, &due, None);
            let leaves_something = restorable.iter().any(|id| !unhindered.contains(id));
            let expected = if allow_none || leaves_something {
                unhindered
            } else {
                match backups.iter().rfind(|backup| restorable.contains(&backup.id)) {
                    Some(newest) => by_brute_force(&all, &due, Some(&newest.id)),
                    None => BTreeSet::new(),
                }
            };
            prop_assert_eq!(&gone, &expected);
            let pending: BTreeSet<BackupId> = with(Fate::Pending).collect();
            prop_assert!(pending.iter().all(|id| marks[id].due > now));
        }

        #[test]
        fn the_log_that_anything_needs_is_never_below_a_floor(seeds in seeds(), flight in prop::option::of(0u64..9000)) {
            let backups = backups_of(&seeds);
            let (gone, remaining): (Vec<_>, Vec<_>) =
                backups.iter().zip(&seeds).partition(|(_, seed)| seed.due_seconds.is_some());
            let gone: Vec<&BackupSummary> = gone.into_iter().map(|(backup, _)| backup).collect();
            let remaining: Vec<&BackupSummary> = remaining.into_iter().map(|(backup, _)| backup).collect();
            let in_flight: Vec<LogFloor> =
                flight.map(|lsn| LogFloor { incarnation: Incarnation::postgres(15, 1), lsn: Lsn(lsn) }).into_iter().collect();
            let recorded = Lsn(1500);
            let floors = log_floors(&remaining, &gone, &in_flight, |_| recorded);
            for floor in &floors {
                prop_assert!(floor.lsn > recorded);
                prop_assert!(gone.iter().any(|backup| backup.incarnation == floor.incarnation));
                let own = |incarnation: &Incarnation| *incarnation == floor.incarnation;
                prop_assert!(remaining.iter().all(|backup| !own(&backup.incarnation) || floor.lsn <= backup.start_lsn));
                prop_assert!(in_flight.iter().all(|flight| !own(&flight.incarnation) || floor.lsn <= flight.lsn));
                // And what nothing needs is below it.
                let needed = remaining.iter().filter(|backup| own(&backup.incarnation)).map(|backup| backup.start_lsn)
                    .chain(in_flight.iter().filter(|flight| own(&flight.incarnation)).map(|flight| flight.lsn)).min();
                let end = gone.iter().filter(|backup| own(&backup.incarnation)).map(|backup| backup.stop_lsn).max();
                prop_assert_eq!(Some(floor.lsn), needed.or(end));
            }
        }
    }

    #[test]
    fn why_a_backup_stays_is_told() {
        let seed = |base, due_seconds| Seed { base, sound: true, due_seconds, second_cluster: false, locked: false };
        let seeds = [
            seed(None, Some(0)),
            seed(Some(0), None),
            seed(None, Some(0)),
            seed(None, Some(9)),
            seed(None, None),
            seed(None, Some(0)),
            seed(Some(5), Some(0)),
        ];
        let backups = backups_of(&seeds);
        let marks = backups.iter().zip(&seeds).filter_map(|(backup, seed)| {
            Some((backup.id.clone(), Standing { mark: "m".into(), due: moment(seed.due_seconds?), by_policy: false }))
        });
        let marks = marks.collect();
        let restorable = backups.iter().map(|backup| backup.id.clone()).collect();
        let situation = Situation {
            backups: backups.iter().collect(),
            restorable,
            marks: &marks,
            locked: &BTreeMap::from([(backups[6].id.clone(), lock())]),
            now: moment(5),
            allow_none: false,
        };
        let told: Vec<(Fate, String)> = decide(&situation).into_iter().map(|verdict| (verdict.fate, verdict.why)).collect();
        assert_eq!(told[0], (Fate::Kept, format!("is due, but {} builds on it and is not marked", backups[1].id)));
        assert_eq!(told[1], (Fate::Kept, "is not marked".to_owned()));
        assert_eq!(told[2].0, Fate::Expired);
        assert_eq!(told[3].0, Fate::Pending);
        let locked = "locked until 2026-11-21 00:00:00 UTC (governance)";
        assert_eq!(told[6], (Fate::Kept, format!("is due, but {locked}: it can go then")));
        assert_eq!(told[5], (Fate::Kept, format!("is due, but {} builds on it and is {locked}", backups[6].id)));
        assert_eq!(descendants(&situation.backups, &backups[0].id), [backups[1].id.clone()]);
    }
}
