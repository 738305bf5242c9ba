//! Why a target cannot be reached, and the nearest moments that can.

use crate::base::{Error, Lsn, Segment, SegmentSize, TimelineId, Timestamp};
use crate::engine::window::Window;
use crate::repo::BackupSummary;

use super::Target;
use super::plan::{RecoveryStop, RestorePlan, Situation};

/// Refuses `target`; `too_late` are candidates in whose log it lies before their own end.
pub(super) fn refuse(
    situation: &Situation<'_>,
    target: &Target,
    window: &Window,
    candidates: Vec<&BackupSummary>,
    too_late: &[&BackupSummary],
) -> Error {
    let cannot = format!("cannot restore {} to {target}", situation.source);
    let error = match target {
        Target::Time(time) => return refuse_time(situation, &cannot, *time, window),
        Target::Lsn { lsn, .. } => refuse_lsn(&cannot, *lsn, window, &candidates, too_late),
        Target::Xid { .. } | Target::Name(_) if !too_late.is_empty() => {
            Error::failed(format!("{cannot}: it lies before the end of the oldest usable backup"))
        }
        Target::Xid { .. } => Error::failed(format!(
            "{cannot}: no such transaction ended in the archived log on timeline {}",
            situation.path.timeline()
        )),
        Target::Name(_) => Error::failed(format!(
            "{cannot}: there is no such restore point in the archived log on timeline {}",
            situation.path.timeline()
        )),
        Target::Latest | Target::Immediate => Error::failed(format!("{cannot}: the archived log holds no complete record")),
    };
    with_window(error, situation, window)
        .hint(format!("lifeboat list {}   shows the recovery window and other timelines", situation.source))
}

fn refuse_lsn(cannot: &str, lsn: Lsn, window: &Window, candidates: &[&BackupSummary], too_late: &[&BackupSummary]) -> Error {
    let oldest = candidates.iter().map(|backup| backup.stop_lsn).min();
    let end = window.intervals.iter().map(|interval| interval.end_lsn).max();
    let error = if too_late.is_empty() {
        Error::failed(format!("{cannot}: the archived log does not reach it"))
    } else {
        Error::failed(format!("{cannot}: it lies before the end of the oldest usable backup"))
    };
    match (oldest, end) {
        (Some(oldest), Some(end)) if lsn < oldest || lsn >= end => error.detail("reachable", format!("{oldest} to {end}")),
        _ => error,
    }
}

fn refuse_time(situation: &Situation<'_>, cannot: &str, time: Timestamp, window: &Window) -> Error {
    let (before, after) = (window.nearest_before(time), window.nearest_after(time));
    let last = window.intervals.last();
    let error = match (before, last) {
        (None, _) => Error::failed(format!("{cannot}: it lies before the end of the oldest usable backup")),
        (Some(_), Some(last)) if time > last.to => {
            let gap = missing_after(situation, last.missing);
            let error = match &gap {
                Some(_) => Error::failed(format!("{cannot}: the log has a gap")),
                None => Error::failed(format!("{cannot}: the archived log does not reach it")),
            };
            match gap {
                Some(gap) => error.detail("missing", gap),
                None => error
                    .detail("waiting for", format!("{} (not archived yet)", last.missing.name(situation.path.segment_size()))),
            }
        }
        _ => {
            let error = Error::failed(format!("{cannot}: the log has a gap"));
            let open = window.intervals.iter().rfind(|interval| interval.from <= time);
            match open.and_then(|interval| missing_after(situation, interval.missing)) {
                Some(gap) => error.detail("missing", gap),
                None => error,
            }
        }
    };
    let nearest = match (before, after) {
        (Some(before), Some(after)) => format!("{before} (before it), or any moment from {after} (next backup)"),
        (Some(before), None) => format!("{before} (the end of the archived log)"),
        (None, Some(after)) => format!("any moment from {after} (the end of the oldest usable backup)"),
        (None, None) => "none".to_owned(),
    };
    let error = error.detail("nearest", nearest);
    let error = other_timelines(error, situation);
    match before.or(after) {
        Some(moment) => error.hint(format!("lifeboat restore {} --to '{}' --into DIR", situation.source, moment.rfc3339())),
        None => error,
    }
}

/// The missing segments from `first` to the next one that is archived, with the times around them; `None` when nothing follows.
fn missing_after(situation: &Situation<'_>, first: Segment) -> Option<String> {
    let size = situation.path.segment_size();
    let next = situation
        .catalog
        .segments
        .range(first..)
        .map(|(segment, _)| *segment)
        .find(|segment| segment.timeline == first.timeline && *segment != first)?;
    let count = next.number - first.number;
    let time = |segment: Option<Segment>, pick: fn(&crate::repo::log::SegmentName) -> Option<Timestamp>| {
        segment.and_then(|segment| pick(&situation.catalog.segments.get(&segment)?.name)).map(Timestamp::human_seconds)
    };
    let around = match (time(first.previous(), |name| name.last.known()), time(Some(next), |name| name.first.known())) {
        (Some(from), Some(to)) => format!(", {from} to {to}"),
        _ => String::new(),
    };
    Some(format!("{} ({count} segment{}{around})", range(first, count, size), if count == 1 { "" } else { "s" }))
}

fn range(first: Segment, count: u64, size: SegmentSize) -> String {
    let name = first.name(size);
    match count {
        0 | 1 => name,
        _ => format!(
            "{name} … {}",
            &Segment { number: first.number + count - 1, ..first }.name(size)[16..].trim_start_matches('0')
        ),
    }
}

fn other_timelines(error: Error, situation: &Situation<'_>) -> Error {
    let others: Vec<String> = situation
        .catalog
        .timelines()
        .into_iter()
        .filter(|timeline| *timeline != situation.path.timeline())
        .map(|timeline| timeline.to_string())
        .collect();
    match others.is_empty() {
        true => error,
        false => {
            error.detail("timeline", format!("{}; --timeline {} leads elsewhere", situation.path.timeline(), others.join(" or ")))
        }
    }
}

fn with_window(error: Error, situation: &Situation<'_>, window: &Window) -> Error {
    let error = match (window.intervals.first(), window.intervals.last()) {
        (Some(first), Some(last)) => error.detail("window", format!("{} to {}", first.from, last.to)),
        _ => error,
    };
    other_timelines(error, situation)
}

/// A backup that was asked for by its id but lies on an abandoned branch.
pub(super) fn abandoned(situation: &Situation<'_>, backup: &BackupSummary) -> Error {
    let timeline = situation.path.timeline();
    Error::failed(format!(
        "backup {} lies on timeline {}, beyond the point where timeline {timeline} left it",
        backup.id, backup.timeline
    ))
    .hint(format!("lifeboat restore {} --backup {} --timeline {} --into DIR", situation.source, backup.id, backup.timeline))
}

/// There are no usable backups.
pub(super) fn nothing_restorable(situation: &Situation<'_>, window: &Window) -> Error {
    let (source, timeline) = (situation.source, situation.path.timeline());
    let error = if window.unusable.is_empty() {
        Error::failed(format!("{source} has no backup on timeline {timeline}"))
    } else {
        let ids: Vec<String> = window.unusable.iter().map(ToString::to_string).collect();
        Error::failed(format!(
            "no backup of {source} can be restored: the log between start and end of each is not archived whole"
        ))
        .detail("backups", ids.join("\n"))
    };
    other_timelines(error, situation)
        .hint(format!("lifeboat list {source}   shows backups and timelines"))
        .hint(format!("lifeboat backup {source} --type full"))
}

/// Two restore points of one name.
pub(super) fn ambiguous_name(situation: &Situation<'_>, name: &str, found: &[(Lsn, Timestamp)]) -> Error {
    let points: Vec<String> = found.iter().map(|(lsn, time)| format!("{lsn} at {time}")).collect();
    let error = Error::failed(format!("{} has {} restore points called '{name}'", situation.source, found.len()))
        .detail("found", points.join("\n"));
    found
        .iter()
        .fold(error, |error, (lsn, _)| error.hint(format!("lifeboat restore {} --to-lsn {lsn} --into DIR", situation.source)))
}

/// Refuses to choose between timelines: a branch that the way leaves behind holds commits that are later than what the
/// restore would reach, and belong to the target as well. A cluster restored for a look and promoted is newer than
/// production, and has less.
pub(super) fn later_elsewhere(situation: &Situation<'_>, target: &Target, plan: &RestorePlan) -> Option<Error> {
    let size = situation.path.segment_size();
    let until = match target {
        Target::Latest => None,
        Target::Time(time) => Some(*time),
        Target::Lsn { lsn, .. } => return same_lsn_elsewhere(situation, *lsn),
        Target::Xid { .. } | Target::Name(_) | Target::Immediate => return None,
    };
    let mut elsewhere: Option<(TimelineId, Timestamp)> = None;
    for timeline in situation.catalog.timelines() {
        let Some(left) = situation.path.left_at(timeline) else { continue };
        // What lies before the branch is common to both.
        let RecoveryStop::Record { lsn, .. } = plan.stop else { return None };
        if lsn < left && plan.leaves_out.is_some() {
            continue;
        }
        for (segment, object) in &situation.catalog.segments {
            if segment.timeline != timeline || segment.end(size) <= left {
                continue;
            }
            let begins_in_time = until.is_none_or(|until| object.name.first.known().is_none_or(|first| first <= until));
            let last = object.name.last.known().filter(|_| begins_in_time);
            let last = last.map(|last| until.map_or(last, |until| last.min(until)));
            if let Some(last) = last.filter(|last| elsewhere.is_none_or(|(_, latest)| *last > latest)) {
                elsewhere = Some((timeline, last));
            }
        }
    }
    let reaches = reached(situation, plan);
    let (timeline, last) = elsewhere.filter(|(_, last)| reaches.is_none_or(|reaches| *last > reaches))?;
    let (source, newest) = (situation.source, situation.path.timeline());
    let reaches = reaches.map_or_else(|| "no commit".to_owned(), |reaches| format!("its last commit at {reaches}"));
    Some(
        Error::failed(format!(
            "cannot tell which history of {source} is meant: timelines {newest} and {timeline} both lead to {target}"
        ))
        .detail(format!("timeline {newest}"), format!("is the newest, with {reaches}"))
        .detail(format!("timeline {timeline}"), format!("went on without it, with commits until {last}"))
        .hint(format!("lifeboat restore {source} --timeline {timeline} …   if that was production"))
        .hint(format!("lifeboat restore {source} --timeline {newest} …   if it took over from {timeline}")),
    )
}

/// The latest transaction end that a restore brings back: one that is replayed, else one that the backup holds already.
fn reached(situation: &Situation<'_>, plan: &RestorePlan) -> Option<Timestamp> {
    let size = situation.path.segment_size();
    let in_backup = |segment: &Segment| {
        let end = segment.end(size);
        end <= plan.backup.start_lsn && situation.path.contains(segment.timeline, end)
    };
    let segments = || situation.catalog.segments.iter().filter(|(segment, _)| in_backup(segment));
    plan.reaches.or_else(|| segments().filter_map(|(_, object)| object.name.last.known()).max())
}

/// Refuses a position that two timelines have: after a branch each counts on with positions of its own.
fn same_lsn_elsewhere(situation: &Situation<'_>, lsn: Lsn) -> Option<Error> {
    let (size, newest) = (situation.path.segment_size(), situation.path.timeline());
    let has = |timeline: &TimelineId| situation.catalog.segments.contains_key(&Segment::containing(*timeline, lsn, size));
    let left = |timeline: &TimelineId| situation.path.left_at(*timeline).is_some_and(|left| lsn >= left);
    let other = situation.catalog.timelines().into_iter().find(|timeline| left(timeline) && has(timeline))?;
    let source = situation.source;
    Some(
        Error::failed(format!("cannot tell which LSN {lsn} of {source} is meant: timelines {newest} and {other} both have it"))
            .hint(format!("lifeboat restore {source} --to-lsn {lsn} --timeline {other} …   or --timeline {newest}")),
    )
}

/// Notes on commits that the chosen path leaves behind on abandoned branches.
pub(super) fn abandoned_commits(situation: &Situation<'_>, reaches: Option<Timestamp>) -> Vec<String> {
    let mut notes = Vec::new();
    for timeline in situation.catalog.timelines() {
        let Some(left) = situation.path.left_at(timeline) else { continue };
        let size = situation.path.segment_size();
        let beyond =
            situation.catalog.segments.iter().filter(|(segment, _)| segment.timeline == timeline && segment.start(size) >= left);
        let commits: u64 = beyond.clone().filter_map(|(_, object)| object.name.commits).map(u64::from).sum();
        let first = beyond.filter_map(|(_, object)| object.name.first.known()).min();
        if commits > 0 && first.is_some_and(|first| reaches.is_none_or(|reaches| first <= reaches)) {
            notes.push(format!(
                "timeline {timeline} went on after {left}, where timeline {} left it: at least {commits} commits there are not part of this restore (--timeline {timeline} leads to them)",
                situation.path.timeline()
            ));
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::{Incarnation, SegmentSize};
    use crate::engine::timeline::TimelinePath;
    use crate::repo::log::name::{CommitTime, HistoryName, SegmentName};
    use crate::repo::log::{LogCatalog, SegmentObject, TimelineHistory};

    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    fn at(segment: u64) -> Lsn {
        Lsn(segment * SIZE.bytes() + 40)
    }

    /// Timeline 1 went on in segment 5, where timeline 2 had left it; timeline 2 has a commit in segment 6 and a backup in
    /// segment 7, after which nothing happened.
    fn later_than(commit_of_2: Duration, commit_of_1: Duration) -> Option<Error> {
        let epoch = Timestamp::parse_compact("20261120T000000Z").unwrap();
        let mut catalog = LogCatalog::default();
        for (timeline, number, commit) in [
            (1, 4, None),
            (1, 5, Some(epoch.plus(commit_of_1))),
            (2, 5, None),
            (2, 6, Some(epoch.plus(commit_of_2))),
            (2, 7, None),
        ] {
            let segment = Segment { timeline: TimelineId(timeline), number };
            let time = commit.map_or(CommitTime::None, CommitTime::At);
            let name = SegmentName { segment, first: time, last: time, commits: Some(1), digest: "0".repeat(16) };
            catalog.segments.insert(segment, SegmentObject { key: String::new(), name, stored_bytes: 1, arrived: epoch });
        }
        let (timeline, parent) = (TimelineId(2), TimelineId(1));
        let name = HistoryName { timeline, parent, switch_lsn: at(5), digest: "0".repeat(16) };
        catalog.histories.insert(timeline, TimelineHistory { key: String::new(), name, arrived: epoch });
        let backup =
            BackupSummary { timeline, ..BackupSummary::sample("20261120T030000Z-incr-aaaa", (at(7), Lsn(at(7).0 + 100))) };
        let incarnation = Incarnation::postgres(15, 1);
        let situation = Situation {
            source: "orders",
            backups: vec![&backup],
            incarnation: &incarnation,
            catalog: &catalog,
            path: TimelinePath::to(timeline, &catalog, SIZE).unwrap(),
            timeline_chosen: false,
        };
        let plan = RestorePlan {
            backup: backup.clone(),
            because: String::new(),
            timeline,
            stop: RecoveryStop::Record { lsn: backup.stop_lsn, inclusive: true },
            consistent_at: backup.stop_lsn,
            reaches: None,
            leaves_out: None,
            segments: Vec::new(),
            needs_pieces: false,
            without_pieces_of: Vec::new(),
            log_stored_bytes: 0,
            replay_bytes: 0,
            notes: Vec::new(),
        };
        later_elsewhere(&situation, &Target::Latest, &plan)
    }

    #[test]
    fn what_the_backup_holds_counts_where_nothing_is_replayed() {
        let hour = Duration::from_secs(3600);
        assert!(later_than(2 * hour, hour).is_none(), "the newest timeline took over and went on");
        let refusal = later_than(hour, 2 * hour).expect("the older timeline went on for longer");
        assert!(refusal.to_string().contains("cannot tell which history"), "{refusal}");
    }
}
