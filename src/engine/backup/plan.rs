//! What kind of backup to take, and on which base. Pure.
//!
//! A diff or an incr is right only when everything that changed since its base is found. Where that is not certain, a
//! full is taken instead, and the reason said: nothing here is ever a matter of luck.

use std::collections::BTreeSet;
use std::time::Duration;

use super::auto;
use crate::base::{BackupId, BackupType, Incarnation, Lsn, Segment, SegmentSize, Timestamp};
use crate::engine::timeline::TimelinePath;
use crate::policy::choice::{self, AutoTerms, Newest};
use crate::repo::BackupSummary;
use crate::repo::commit;
use crate::repo::log::LogCatalog;

/// Age of the last full from which on `auto` takes another one.
const FULL_EVERY: Duration = Duration::from_secs(7 * 24 * 3600);

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wish {
    /// A certain type.
    Type(BackupType),
    /// A full when the last one is a week old or there is none to build on, otherwise an incr.
    Auto,
    /// What the policy's schedule asks for, and more when the recovery time does.
    ByPolicy(AutoTerms),
}

/// What will be taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The type.
    pub backup_type: BackupType,
    /// What it builds on; none for a full.
    pub base: Option<BackupSummary>,
    /// Why it is not the type that was asked for or scheduled.
    pub reason: Option<String>,
}

/// The server and the archive at the moment when a backup starts.
pub struct Situation<'a> {
    /// The committed backups of the source, oldest first.
    pub backups: Vec<&'a BackupSummary>,
    /// Backups that are marked to be expired.
    pub marked: BTreeSet<&'a BackupId>,
    /// The cluster.
    pub incarnation: &'a Incarnation,
    /// The way to the server's timeline; none when a history is missing.
    pub path: Option<&'a TimelinePath>,
    /// The archived log.
    pub catalog: &'a LogCatalog,
    /// Segments that are on their way there.
    pub underway: &'a BTreeSet<Segment>,
    /// Size of a segment.
    pub size: SegmentSize,
    /// Redo LSN from which this backup starts.
    pub start_lsn: Lsn,
    /// When, by the server's clock.
    pub start_time: Timestamp,
    /// Whether data checksums are on.
    pub data_checksums: bool,
    /// `wal_level`.
    pub wal_level: &'a str,
}

impl Decision {
    /// A full, because `reason`.
    pub fn full(wish: Wish, reason: impl Into<String>) -> Self {
        let wanted = match wish {
            Wish::Type(BackupType::Full) => return Self { backup_type: BackupType::Full, base: None, reason: None },
            Wish::Type(other) => other,
            Wish::Auto | Wish::ByPolicy(_) => BackupType::Incr,
        };
        let reason = Some(format!("a full instead of {}: {}", with_article(wanted), reason.into()));
        Self { backup_type: BackupType::Full, base: None, reason }
    }
}

fn with_article(backup_type: BackupType) -> &'static str {
    match backup_type {
        BackupType::Full => "a full",
        BackupType::Diff => "a diff",
        BackupType::Incr => "an incr",
    }
}

/// What every choice of a type and a base is made from.
pub(in crate::engine) struct Choice<'a> {
    /// The committed backups of the source, oldest first.
    pub backups: &'a [&'a BackupSummary],
    /// When this one starts.
    pub start_time: Timestamp,
    /// The newest backup that a restore would use, for what a policy says.
    pub newest: Option<Newest>,
}

/// Decides on the type of the next backup and its base: of those that fit, the newest.
pub fn decide(wish: Wish, now: &Situation<'_>) -> Decision {
    let newest = auto::newest(&now.backups, now.incarnation, Some(now.start_lsn));
    let choice = Choice { backups: &now.backups, start_time: now.start_time, newest };
    decide_by(wish, &choice, |base| unfit(base, now))
}

/// [`decide`] for any kind of source: `unfit` says why nothing can build on a backup.
pub(in crate::engine) fn decide_by(wish: Wish, now: &Choice<'_>, unfit: impl Fn(&BackupSummary) -> Option<String>) -> Decision {
    let last_full = now.backups.iter().rfind(|backup| backup.backup_type == BackupType::Full);
    let mut why = None;
    let backup_type = match wish {
        Wish::Type(BackupType::Full) => return Decision::full(wish, ""),
        Wish::Type(backup_type) => backup_type,
        Wish::ByPolicy(terms) => {
            let choice = choice::choose(&terms, now.newest.as_ref());
            if choice.backup_type == BackupType::Full {
                return Decision { backup_type: BackupType::Full, base: None, reason: choice.reason };
            }
            why = choice.reason;
            choice.backup_type
        }
        Wish::Auto => {
            let is_recent = |full: &&&BackupSummary| full.start_time.plus(FULL_EVERY) > now.start_time;
            if last_full.filter(is_recent).is_none() {
                return Decision { backup_type: BackupType::Full, base: None, reason: None };
            }
            BackupType::Incr
        }
    };
    let candidates =
        now.backups.iter().rev().filter(|backup| backup_type == BackupType::Incr || backup.backup_type == BackupType::Full);
    let mut first_reason = None;
    for base in candidates {
        match unfit(base) {
            None => return Decision { backup_type, base: Some((*base).clone()), reason: why },
            Some(reason) => first_reason = first_reason.or(Some(reason)),
        }
    }
    Decision::full(Wish::Type(backup_type), first_reason.unwrap_or_else(|| "there is no backup to build on".to_owned()))
}

/// Why nothing of any kind can build on `base` any more: its chain is broken, or a part of it is about to expire.
pub(in crate::engine) fn unfit_chain(
    base: &BackupSummary,
    backups: &[&BackupSummary],
    marked: &BTreeSet<&BackupId>,
) -> Option<String> {
    match commit::chain(base, backups) {
        Err(broken) => Some(format!("{} cannot be restored: {broken}", base.id)),
        Ok(chain) => {
            let marked = chain.iter().find(|link| marked.contains(&link.id))?;
            Some(format!("{} is marked to be expired", marked.id))
        }
    }
}

/// Why nothing can build on `base` now; none when something can.
fn unfit(base: &BackupSummary, now: &Situation<'_>) -> Option<String> {
    let id = &base.id;
    if base.incarnation != *now.incarnation {
        return Some(format!("{id} is of another cluster ({})", base.incarnation));
    }
    if let Some(why) = unfit_chain(base, &now.backups, &now.marked) {
        return Some(why);
    }
    let Some(path) = now.path else { return Some("the history of the server's timeline is not archived".to_owned()) };
    if !path.contains(base.timeline, base.stop_lsn) {
        return Some(format!("the server's timeline {} does not come from {id}", path.timeline()));
    }
    if now.start_lsn < base.stop_lsn {
        return Some(format!("the log starts at {}, before the end of {id}", now.start_lsn));
    }
    if base.data_checksums != now.data_checksums {
        return Some(format!("data checksums were {} when {id} was taken", if base.data_checksums { "on" } else { "off" }));
    }
    if base.wal_level != now.wal_level {
        return Some(format!("wal_level was {} when {id} was taken", base.wal_level));
    }
    gap(base, path, now)
}

/// A segment since `base` that is missing although later ones are archived. Those at the end may still be on their way; so
/// may others, where that is known: the backup waits for them.
fn gap(base: &BackupSummary, path: &TimelinePath, now: &Situation<'_>) -> Option<String> {
    let last = now.start_lsn.0 / now.size.bytes();
    let is_archived = |number| now.catalog.segments.contains_key(&path.segment(number));
    let mut from = base.start_lsn;
    loop {
        let missing = path.run(now.catalog, from).missing;
        if !(missing.number + 1..=last).any(is_archived) {
            return None;
        }
        if !now.underway.contains(&missing) {
            return Some(format!("the archived log since {} has a gap at {}", base.id, missing.name(now.size)));
        }
        from = missing.end(now.size);
    }
}

/// Smallest pack chosen for a source, in bytes of frames …
const SMALLEST_PACK_BYTES: u64 = 8 << 20;
/// … the usual one …
const USUAL_PACK_BYTES: u64 = 32 << 20;
/// … and the largest, which is also the largest that may be configured: one being stored and the next being filled are
/// held in memory.
pub const LARGEST_PACK_BYTES: u64 = 64 << 20;
/// Packs below which they are smaller than usual, so that several threads have something to restore …
const FEW_PACKS: u64 = 256;
/// … and above which they are larger.
const MANY_PACKS: u64 = 100_000;

/// Bytes of frames in a pack, for a source of `raw_bytes`: 32 MiB; less when there would be few of them, and twice that
/// when there would be more than a hundred thousand. Larger sources have more packs.
pub fn pack_bytes(raw_bytes: u64) -> u64 {
    if raw_bytes / USUAL_PACK_BYTES > MANY_PACKS {
        return LARGEST_PACK_BYTES;
    }
    (raw_bytes / FEW_PACKS).next_power_of_two().clamp(SMALLEST_PACK_BYTES, USUAL_PACK_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::TimelineId;
    use crate::repo::log::name::{CommitTime, HistoryName, SegmentName};
    use crate::repo::log::{SegmentObject, TimelineHistory};

    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    fn at(segment: u64) -> Lsn {
        Lsn(segment * SIZE.bytes() + 40)
    }

    fn taken(number: u32, backup_type: BackupType, base: Option<u32>) -> BackupSummary {
        let id =
            |number: u32| format!("202611{number:02}T000000Z-{}-aaaa", if number == 1 { "full" } else { backup_type.as_str() });
        let lsn = at(u64::from(number) * 10);
        let base = base.map(|base| id(base).parse().unwrap());
        BackupSummary { backup_type, base, ..BackupSummary::sample(&id(number), (lsn, Lsn(lsn.0 + 100))) }
    }

    struct Case {
        backups: Vec<BackupSummary>,
        archived: Vec<(u32, u64)>,
        underway: Vec<(u32, u64)>,
        timeline: u32,
        switch: Option<Lsn>,
        start: u64,
        data_checksums: bool,
        wal_level: &'static str,
        incarnation: Incarnation,
        marked: Vec<BackupId>,
    }

    impl Case {
        /// A full at segment 10, an incr at 20, archived up to 28; now at 30.
        fn new() -> Self {
            Self {
                backups: vec![taken(1, BackupType::Full, None), taken(2, BackupType::Incr, Some(1))],
                archived: (10..29).map(|number| (1, number)).collect(),
                underway: Vec::new(),
                timeline: 1,
                switch: None,
                start: 30,
                data_checksums: true,
                wal_level: "replica",
                incarnation: Incarnation::postgres(15, 1),
                marked: Vec::new(),
            }
        }

        fn decide(&self, wish: Wish) -> Decision {
            let mut catalog = LogCatalog::default();
            let now = Timestamp::now();
            for (timeline, number) in &self.archived {
                let segment = Segment { timeline: TimelineId(*timeline), number: *number };
                let (first, last) = (CommitTime::None, CommitTime::None);
                let name = SegmentName { segment, first, last, commits: Some(0), digest: "0".repeat(16) };
                let object = SegmentObject { key: String::new(), name, stored_bytes: 1, arrived: now };
                catalog.segments.insert(segment, object);
            }
            let timeline = TimelineId(self.timeline);
            if let Some(switch_lsn) = self.switch {
                let name = HistoryName { timeline, parent: TimelineId(1), switch_lsn, digest: "0".repeat(16) };
                catalog.histories.insert(timeline, TimelineHistory { key: String::new(), name, arrived: now });
            }
            let path = TimelinePath::to(timeline, &catalog, SIZE).ok();
            let segment = |(timeline, number): &(u32, u64)| Segment { timeline: TimelineId(*timeline), number: *number };
            let underway = self.underway.iter().map(segment).collect();
            let situation = Situation {
                backups: self.backups.iter().collect(),
                marked: self.marked.iter().collect(),
                incarnation: &self.incarnation,
                path: path.as_ref(),
                catalog: &catalog,
                underway: &underway,
                size: SIZE,
                start_lsn: at(self.start),
                start_time: Timestamp::parse_compact("20261103T000000Z").unwrap(),
                data_checksums: self.data_checksums,
                wal_level: self.wal_level,
            };
            decide(wish, &situation)
        }

        fn base(&self, backup_type: BackupType) -> Result<String, String> {
            let decision = self.decide(Wish::Type(backup_type));
            match decision.base {
                Some(base) => {
                    assert_eq!((decision.backup_type, decision.reason), (backup_type, None));
                    Ok(base.id.to_string())
                }
                None => {
                    assert_eq!(decision.backup_type, BackupType::Full);
                    Err(decision.reason.unwrap())
                }
            }
        }
    }

    #[test]
    fn an_incr_builds_on_the_newest_and_a_diff_on_the_last_full() {
        let mut case = Case::new();
        assert_eq!(case.base(BackupType::Incr), Ok(case.backups[1].id.to_string()));
        assert_eq!(case.base(BackupType::Diff), Ok(case.backups[0].id.to_string()));
        assert_eq!(case.decide(Wish::Auto).base, Some(case.backups[1].clone()));
        assert_eq!(
            case.decide(Wish::Type(BackupType::Full)),
            Decision { backup_type: BackupType::Full, base: None, reason: None }
        );
        case.backups.clear();
        assert!(case.base(BackupType::Diff).unwrap_err().contains("no backup to build on"));
        assert_eq!(case.decide(Wish::Auto).reason, None);
    }

    #[test]
    fn auto_takes_a_full_every_week() {
        let mut case = Case::new();
        case.backups[0].start_time = Timestamp::parse_compact("20261026T000000Z").unwrap();
        assert_eq!(case.decide(Wish::Auto), Decision { backup_type: BackupType::Full, base: None, reason: None });
    }

    #[test]
    fn where_it_is_not_certain_what_changed_a_full_is_taken() {
        let refused = |why: &str, change: &dyn Fn(&mut Case)| {
            let mut case = Case::new();
            change(&mut case);
            let reason = case.base(BackupType::Incr).unwrap_err();
            assert!(reason.starts_with("a full instead of an incr: ") && reason.contains(why), "{reason}");
        };
        refused("another cluster", &|case| case.incarnation = Incarnation::postgres(16, 1));
        refused("which is gone", &|case| drop(case.backups.remove(0)));
        refused("data checksums were on", &|case| case.data_checksums = false);
        refused("wal_level was replica", &|case| case.wal_level = "logical");
        refused("the log starts at", &|case| case.start = 5);
        refused("has a gap at 000000010000000000000015", &|case| {
            case.archived.retain(|(_, number)| *number != 11 && *number != 21)
        });
        refused("has a gap", &|case| case.archived.retain(|(_, number)| *number == 28));
        refused("does not come from", &|case| {
            (case.timeline, case.switch) = (2, Some(at(9)));
            case.archived.push((2, 9));
        });
        refused("history", &|case| case.timeline = 3);
        refused("marked to be expired", &|case| case.marked = case.backups.iter().map(|backup| backup.id.clone()).collect());
        refused("marked to be expired", &|case| case.marked = vec![case.backups[0].id.clone()]);
    }

    #[test]
    fn a_segment_that_is_on_its_way_is_no_gap() {
        let mut case = Case::new();
        case.archived.retain(|(_, number)| ![21, 23, 24].contains(number));
        case.underway = vec![(1, 21), (1, 23), (1, 24)];
        assert_eq!(case.base(BackupType::Incr), Ok(case.backups[1].id.to_string()));
        for lost in [21, 23, 24] {
            let mut case = Case { backups: case.backups.clone(), archived: case.archived.clone(), ..Case::new() };
            case.underway = [21, 23, 24].into_iter().filter(|number| *number != lost).map(|number| (1, number)).collect();
            let reason = case.base(BackupType::Incr).unwrap_err();
            assert!(reason.contains(&format!("has a gap at 0000000100000000000000{lost:02X}")), "{reason}");
        }
        // Another timeline's of that number is another segment.
        case.underway = vec![(2, 21), (1, 23), (1, 24)];
        assert!(case.base(BackupType::Incr).unwrap_err().contains("has a gap"));
    }

    #[test]
    fn an_older_base_serves_where_the_newest_does_not() {
        let mut case = Case::new();
        (case.timeline, case.switch) = (2, Some(at(15)));
        case.archived.extend((15..29).map(|number| (2, number)));
        assert_eq!(case.base(BackupType::Incr), Ok(case.backups[0].id.to_string()), "the incr is on the branch that was left");
        let mut case = Case::new();
        case.backups[1].wal_level = "logical".to_owned();
        assert_eq!(case.base(BackupType::Incr), Ok(case.backups[0].id.to_string()));
        let mut case = Case::new();
        case.marked = vec![case.backups[1].id.clone()];
        assert_eq!(case.base(BackupType::Incr), Ok(case.backups[0].id.to_string()), "one that is to stay");
    }

    #[test]
    fn what_is_still_on_its_way_to_the_archive_is_no_gap() {
        let mut case = Case::new();
        case.archived.retain(|(_, number)| *number < 21);
        assert!(case.base(BackupType::Incr).is_ok());
        case.backups[1].timeline = TimelineId(1);
        (case.timeline, case.switch) = (2, Some(at(29)));
        assert!(case.base(BackupType::Incr).is_ok(), "the timeline has just begun");
    }

    #[test]
    fn packs_grow_with_the_source_within_limits() {
        for (raw_bytes, expected) in [
            (0, 8 << 20),
            (1500 << 20, 8 << 20),
            (9 << 30, 32 << 20),
            (3 << 40, 32 << 20),
            (4 << 40, 64 << 20),
            (u64::MAX, 64 << 20),
        ] {
            assert_eq!(pack_bytes(raw_bytes), expected, "{raw_bytes}");
        }
    }
}
