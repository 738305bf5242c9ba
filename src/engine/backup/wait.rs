//! A backup is worth nothing before the log from its start to its stop is archived: waiting for it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::base::cancel::Cancel;
use crate::base::progress::Progress;
use crate::base::units::format_duration;
use crate::base::{Error, Incarnation, Result, Segment, SegmentSize, TimelineId};
use crate::engine::Scope;
use crate::engine::timeline::TimelinePath;
use crate::repo::layout;
use crate::repo::log::{LogCatalog, SegmentName};
use crate::source::postgres::connect::Session;
use crate::store::list_all;

/// Pause between two looks at the archive: first …
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// … and at most, after doubling each time.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// What to wait for.
pub(super) struct Wanted {
    pub incarnation: Incarnation,
    /// Number of the first segment that is needed, of whatever timeline leads to the last.
    pub first: u64,
    pub last: Segment,
    pub size: SegmentSize,
    pub timeout: Duration,
}

/// Waits until every segment from the first to the last is in the repository.
///
/// # Errors
/// When the time is over: names the missing segments and what the server's archiver last said.
pub(super) async fn wait_for_log(
    scope: &Scope,
    wanted: &Wanted,
    session: &Session,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<()> {
    let began = Instant::now();
    let catalog = LogCatalog::load(&scope.repository, &scope.source, &wanted.incarnation, wanted.size).await?;
    let path = TimelinePath::to(wanted.last.timeline, &catalog, wanted.size)?;
    let mut missing: BTreeSet<Segment> = (wanted.first..=wanted.last.number).map(|number| path.segment(number)).collect();
    progress.phase("waiting for the log to be archived", None);
    let mut pause = FIRST_PAUSE;
    loop {
        let timelines: BTreeSet<TimelineId> = missing.iter().map(|segment| segment.timeline).collect();
        for timeline in timelines {
            forget_archived(scope, wanted, timeline, &mut missing).await?;
        }
        if missing.is_empty() {
            return check_unambiguous(scope, wanted).await;
        }
        if began.elapsed() >= wanted.timeout {
            return Err(not_archived(scope, wanted, &missing, session).await);
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = LONGEST_PAUSE.min(pause * 2),
            () = cancel.cancelled() => return Err(Error::interrupted()),
        }
    }
}

/// A segment that was archived with two contents is no use to a restore.
async fn check_unambiguous(scope: &Scope, wanted: &Wanted) -> Result<()> {
    let catalog = LogCatalog::load(&scope.repository, &scope.source, &wanted.incarnation, wanted.size).await?;
    let needed = |file: &str| {
        let segment = Segment::parse(file, wanted.size);
        segment.is_some_and(|segment| (wanted.first..=wanted.last.number).contains(&segment.number))
    };
    match catalog.split_brains.iter().find(|split| needed(&split.file)) {
        None => Ok(()),
        Some(split) => Err(Error::damaged(format!(
            "backup of {} is not usable: two servers archived {} with different contents",
            scope.source, split.file
        ))
        .detail("digests", split.digests.join(", "))
        .hint(format!("lifeboat archive resolve {} {} --keep DIGEST --key FILE", scope.source, split.file))),
    }
}

/// Takes what is archived on `timeline` off the list. One listing from the first missing segment on.
async fn forget_archived(scope: &Scope, wanted: &Wanted, timeline: TimelineId, missing: &mut BTreeSet<Segment>) -> Result<()> {
    let first = missing.iter().find(|segment| segment.timeline == timeline).copied();
    let (Some(first), store) = (first, scope.repository.store()) else { return Ok(()) };
    let prefix = layout::log_timeline(&scope.source, &wanted.incarnation, timeline);
    // Names sort as numbers do; whatever starts with the first missing name sorts after the bare name.
    let after = format!("{prefix}{}", first.name(wanted.size));
    for object in list_all(store, &prefix, Some(&after)).await? {
        if let Some(name) = SegmentName::parse(&object.key[prefix.len()..], wanted.size) {
            missing.remove(&name.segment);
        }
    }
    Ok(())
}

async fn not_archived(scope: &Scope, wanted: &Wanted, missing: &BTreeSet<Segment>, session: &Session) -> Error {
    let name = |segment: Option<&Segment>| segment.map(|segment| segment.name(wanted.size));
    let (first, last) = (name(missing.first()).unwrap_or_default(), name(missing.last()).unwrap_or_default());
    let range = if first == last { first } else { format!("{first} to {last} ({} segments)", missing.len()) };
    let mut error = Error::failed(format!(
        "backup of {} is not usable: the log it needs was not archived within {}",
        scope.source,
        format_duration(wanted.timeout)
    ))
    .detail("missing", range);
    error = match session.archiver_status().await {
        Ok(status) if status.is_failing() => {
            let file = status.last_failed_file.unwrap_or_default();
            let time = status.last_failed_time.map(|time| time.human_seconds()).unwrap_or_default();
            error
                .detail("archiver", format!("failed {} times, last on {file} at {time}", status.failed_count))
                .hint("the server's log says why its archive_command failed")
        }
        Ok(status) => match (status.last_archived_file, status.last_archived_time) {
            (Some(file), Some(time)) => error.detail("archiver", format!("last archived {file} at {}", time.human_seconds())),
            _ => error.detail("archiver", "has archived nothing yet"),
        },
        Err(failure) => error.detail("archiver", failure.summary()),
    };
    error
        .hint(format!("archive_command should be: lifeboat archive push {} %p", scope.source))
        .hint(format!("lifeboat check {}   tests the way from the server to the repository", scope.source))
}
