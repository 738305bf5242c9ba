//! What must be there, worked out from what signed documents and listings say. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::iter;
use std::ops::RangeInclusive;

use serde::Serialize;

use super::finding::Finding;
use crate::base::{BackupId, Segment, SegmentSize, SourceName, TimelineId};
use crate::codec::Sha256Digest;
use crate::repo::log::index::IndexLine;
use crate::repo::log::name::{self, HistoryName, SegmentName};
use crate::repo::pack::PackLine;
use crate::repo::{BackupSummary, CommitLog, layout};
use crate::source::postgres::history;
use crate::store::ObjectInfo;

/// What a stored object must look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub bytes: u64,
    pub sha256: Sha256Digest,
}

/// One object to look at.
#[derive(Clone, Debug)]
pub(super) struct Check {
    pub key: String,
    /// Any of these will do; without one there is nothing to compare with.
    pub expected: Vec<Stored>,
    /// The backups that are useless without it.
    pub backups: Vec<BackupId>,
}

impl Check {
    /// What is wrong with the object, given what was found of it.
    pub fn judge(&self, found: Option<Stored>) -> Option<String> {
        let Some(found) = found else { return Some("is missing".to_owned()) };
        let expected = self.expected.first()?;
        if self.expected.contains(&found) {
            return None;
        }
        if self.expected.iter().all(|expected| expected.bytes != found.bytes) {
            return Some(format!("is {} bytes long where {} were stored", found.bytes, expected.bytes));
        }
        Some("does not match its signed digest: it was altered".to_owned())
    }
}

/// The packs of a backup.
pub(super) fn pack_checks(source: &SourceName, summary: &BackupSummary, packs: &[PackLine]) -> Vec<Check> {
    let check = |pack: &PackLine| Check {
        key: layout::pack(source, &summary.id, pack.pack, suffix(summary)),
        expected: vec![Stored { bytes: pack.stored_bytes, sha256: pack.sha256 }],
        backups: vec![summary.id.clone()],
    };
    packs.iter().map(check).collect()
}

/// The manifest of a backup.
pub(super) fn manifest_check(source: &SourceName, summary: &BackupSummary) -> Check {
    Check {
        key: layout::manifest(source, &summary.id, suffix(summary)),
        expected: vec![Stored { bytes: summary.manifest_bytes, sha256: summary.manifest_sha256 }],
        backups: vec![summary.id.clone()],
    }
}

fn suffix(summary: &BackupSummary) -> &'static str {
    if summary.encrypted { ".age" } else { "" }
}

/// The backups of a source whose chains are sound, each with its base.
#[derive(Debug, Default)]
pub(super) struct Chains(BTreeMap<BackupId, Option<BackupId>>);

impl Chains {
    /// Those in `log`.
    pub fn of(log: &CommitLog) -> Self {
        let mut bases = BTreeMap::new();
        for backup in log.restorable() {
            bases.entry(backup.id.clone()).or_insert_with(|| backup.base.clone());
        }
        Self(bases)
    }

    /// What a backup builds on, nearest first; `None` when its chain is broken.
    pub fn bases(&self, id: &BackupId) -> Option<impl Iterator<Item = &BackupId>> {
        let base = self.0.get(id)?.as_ref();
        // Ids that somebody used twice may lead in a circle.
        Some(iter::successors(base, |id| self.0.get(*id)?.as_ref()).take(self.0.len()))
    }

    /// For each backup that others build on, the place among `backups` of the last of these.
    pub fn last_uses(&self, backups: &[BackupSummary]) -> BTreeMap<BackupId, usize> {
        let mut last = BTreeMap::new();
        for (index, backup) in backups.iter().enumerate() {
            last.extend(self.bases(&backup.id).into_iter().flatten().map(|base| (base.clone(), index)));
        }
        last
    }

    /// Adds to the damage found in a backup's own objects the backups that build on it. The log that a base needs is of no
    /// concern to them: each needs its own.
    pub fn spread(&self, source: &SourceName, findings: &mut [Finding]) {
        for finding in findings.iter_mut().filter(|finding| finding.is_damage()) {
            let is_its_own = |id: &&BackupId| finding.key.starts_with(&layout::backup(source, id));
            let Some(backup) = finding.backup.as_ref().filter(is_its_own) else { continue };
            let builds_on = |id: &&BackupId| self.bases(id).into_iter().flatten().any(|base| base == backup);
            let dependants: Vec<BackupId> = self.0.keys().filter(builds_on).cloned().collect();
            finding.others.extend(dependants);
        }
    }
}

/// An object of the log, told by its name.
#[derive(Clone, Debug)]
pub(super) struct LogObject {
    pub key: String,
    /// As PostgreSQL calls it.
    pub file: String,
    /// First 16 hex digits of the SHA-256 of the raw file.
    pub digest: String,
    pub stored_bytes: u64,
    pub kind: LogKind,
}

/// What a [`LogObject`] holds.
#[derive(Clone, Debug)]
pub(super) enum LogKind {
    Segment(SegmentName),
    History(HistoryName),
    Auxiliary,
}

/// The objects of a log whose names are understood and which lie where they belong.
pub(super) fn log_objects(prefix: &str, listing: &[ObjectInfo], size: SegmentSize, strangers: &[String]) -> Vec<LogObject> {
    let strangers: BTreeSet<&String> = strangers.iter().collect();
    let ours = |object: &&ObjectInfo| {
        let relative = &object.key[prefix.len()..];
        let apart = ["key/", "index/", "resolution/"].iter().any(|directory| relative.starts_with(directory));
        !apart && !strangers.contains(&object.key)
    };
    listing.iter().filter(ours).filter_map(|object| log_object(object, size)).collect()
}

fn log_object(object: &ObjectInfo, size: SegmentSize) -> Option<LogObject> {
    let base = object.key.rsplit('/').next()?;
    let (file, digest, kind) = if let Some(name) = SegmentName::parse(base, size) {
        (name.segment.name(size), name.digest.clone(), LogKind::Segment(name))
    } else if let Some(name) = HistoryName::parse(base) {
        (history::file_name(name.timeline), name.digest.clone(), LogKind::History(name))
    } else {
        let (file, digest) = name::parse_auxiliary(base)?;
        (file.to_owned(), digest.to_owned(), LogKind::Auxiliary)
    };
    Some(LogObject { key: object.key.clone(), file, digest, stored_bytes: object.size_bytes, kind })
}

/// What the signed digests say of each object, in the order of `objects`, and the files that are signed for but gone.
pub(super) fn match_index<'l>(objects: &[LogObject], lines: &'l [IndexLine]) -> (Vec<Vec<&'l IndexLine>>, Vec<&'l IndexLine>) {
    let mut by_content: HashMap<(&str, String), Vec<&IndexLine>> = HashMap::new();
    for line in lines {
        by_content.entry((line.file.as_str(), line.raw_sha256.short())).or_default().push(line);
    }
    let of_object = |object: &LogObject| by_content.get(&(object.file.as_str(), object.digest.clone())).cloned();
    let matched = objects.iter().map(|object| of_object(object).unwrap_or_default()).collect();
    let there: BTreeSet<(&str, &str)> = objects.iter().map(|object| (object.file.as_str(), object.digest.as_str())).collect();
    let mut gone: Vec<&IndexLine> = by_content
        .iter()
        .filter(|((file, digest), _)| !there.contains(&(*file, digest.as_str())))
        .filter_map(|(_, lines)| lines.first().copied())
        .collect();
    gone.sort_by(|a, b| a.file.cmp(&b.file));
    (matched, gone)
}

/// Numbers of the segments without which a backup cannot be restored.
pub(super) fn needed(summary: &BackupSummary) -> RangeInclusive<u64> {
    let (timeline, size) = (summary.timeline, summary.segment_bytes);
    let first = Segment::containing(timeline, summary.start_lsn, size).number;
    match summary.needs_log() {
        true => first..=Segment::ending_at(timeline, summary.stop_lsn, size).number,
        // None, and yet the number from which on its log would go on.
        #[allow(clippy::reversed_empty_ranges)]
        false => first..=first.saturating_sub(1),
    }
}

/// The segments a backup needs that are not there. A standby may have followed its primary to a later timeline.
pub(super) fn missing_for(summary: &BackupSummary, segments: &BTreeSet<Segment>) -> Vec<Segment> {
    let last_timeline = match summary.from_standby {
        true => segments.last().map_or(summary.timeline, |last| last.timeline.max(summary.timeline)),
        false => summary.timeline,
    };
    let is_there = |number: u64| {
        (summary.timeline.0..=last_timeline.0).any(|id| segments.contains(&Segment { timeline: TimelineId(id), number }))
    };
    let missing = needed(summary).filter(|number| !is_there(*number));
    missing.map(|number| Segment { timeline: summary.timeline, number }).collect()
}

/// Consecutive segments that are not in the archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// Name of the first missing segment.
    pub first: String,
    /// Name of the last missing segment.
    pub last: String,
    /// How many there are.
    pub segments: u64,
}

/// The gaps of a log: between the segments of each timeline, and where one timeline goes over into the next. What
/// lies before segment number `from` is of no use to any backup and is left out.
pub(super) fn gaps(segments: &BTreeSet<Segment>, histories: &[HistoryName], from: u64, size: SegmentSize) -> Vec<Gap> {
    let mut numbers: BTreeMap<TimelineId, BTreeSet<u64>> = BTreeMap::new();
    for segment in segments {
        numbers.entry(segment.timeline).or_default().insert(segment.number);
    }
    let mut gaps: BTreeSet<(TimelineId, u64, u64)> = BTreeSet::new();
    for (timeline, numbers) in &numbers {
        for (before, after) in numbers.iter().zip(numbers.iter().skip(1)) {
            gaps.insert((*timeline, before + 1, *after));
        }
    }
    for history in histories {
        // The new timeline's first segment begins with a copy of what the old one had written of it.
        let switch = history.switch_lsn.0 / size.bytes();
        if let Some(first) = numbers.get(&history.timeline).and_then(|numbers| numbers.first()) {
            gaps.insert((history.timeline, switch, *first));
        }
        if let Some(last) = numbers.get(&history.parent).and_then(|numbers| numbers.range(..switch).next_back()) {
            gaps.insert((history.parent, last + 1, switch));
        }
    }
    let gap = |(timeline, first, end): (TimelineId, u64, u64)| {
        let first = first.max(from);
        let name = |number: u64| Segment { timeline, number }.name(size);
        (first < end).then(|| Gap { first: name(first), last: name(end - 1), segments: end - first })
    };
    gaps.into_iter().filter_map(gap).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Lsn;

    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    fn segments(numbers: &[(u32, u64)]) -> BTreeSet<Segment> {
        numbers.iter().map(|(timeline, number)| Segment { timeline: TimelineId(*timeline), number: *number }).collect()
    }

    fn found(numbers: &[(u32, u64)], histories: &[HistoryName], from: u64) -> Vec<(String, u64)> {
        gaps(&segments(numbers), histories, from, SIZE).into_iter().map(|gap| (gap.first, gap.segments)).collect()
    }

    fn branch(timeline: u32, parent: u32, switch_lsn: u64) -> HistoryName {
        HistoryName {
            timeline: TimelineId(timeline),
            parent: TimelineId(parent),
            switch_lsn: Lsn(switch_lsn),
            digest: "0123456789abcdef".into(),
        }
    }

    #[test]
    fn gaps_are_found_within_timelines() {
        assert_eq!(found(&[(1, 3), (1, 4), (1, 5)], &[], 0), []);
        assert_eq!(
            found(&[(1, 3), (1, 6), (1, 7), (1, 9)], &[], 0),
            [("000000010000000000000004".to_owned(), 2), ("000000010000000000000008".to_owned(), 1)]
        );
        assert_eq!(found(&[(1, 3), (1, 6)], &[], 5), [("000000010000000000000005".to_owned(), 1)]);
        assert_eq!(found(&[(1, 3), (1, 6)], &[], 6), []);
    }

    #[test]
    fn what_has_no_log_of_its_own_needs_no_segment() {
        use crate::base::{Engine, Incarnation};
        let id = "20261120T030000Z-full-aaaa";
        let (start, taken) = (id.parse::<BackupId>().unwrap().start(), std::time::Duration::from_secs(3600));
        let directory = (Lsn::of_moment(start), Lsn::of_moment(start.plus(taken)));
        for (engine, positions) in [(Engine::Directory, directory), (Engine::Sqlite, (Lsn(7 << 24), Lsn(7 << 24)))] {
            let backup = BackupSummary::sample_of(Incarnation::dated(engine, start), id, positions);
            assert_eq!((missing_for(&backup, &BTreeSet::new()), needed(&backup).count()), (vec![], 0), "{engine}");
            assert_eq!(*needed(&backup).start(), positions.0.0 >> 24);
        }
    }

    #[test]
    fn a_timeline_goes_on_where_its_parent_was_left() {
        let middle = 5 * SIZE.bytes() + 100;
        assert_eq!(found(&[(1, 3), (1, 4), (2, 5), (2, 6)], &[branch(2, 1, middle)], 0), []);
        let abandoned = [(1, 3), (1, 4), (1, 5), (1, 6), (2, 5)];
        assert_eq!(found(&abandoned, &[branch(2, 1, middle)], 0), [], "what the parent wrote after the switch is of no concern");
        let late = found(&[(1, 3), (2, 7)], &[branch(2, 1, middle)], 0);
        assert_eq!(late, [("000000010000000000000004".to_owned(), 1), ("000000020000000000000005".to_owned(), 2)]);
        assert_eq!(found(&[(1, 4), (2, 5)], &[branch(2, 1, 5 * SIZE.bytes())], 0), [], "a switch on a boundary");
    }
}
