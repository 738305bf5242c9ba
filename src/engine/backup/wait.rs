//! A backup is worth nothing before the log from its start to its stop is archived: waiting for it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::base::cancel::Cancel;
use crate::base::progress::Progress;
use crate::base::units::format_duration;
use crate::base::{Error, Incarnation, Lsn, Result, Segment, SegmentSize, TimelineId};
use crate::engine::Scope;
use crate::engine::retry::{Patience, retrying};
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
    /// Where the log begins that is needed.
    pub from: Lsn,
    /// The segment that holds it, on the timeline it was written on.
    pub first: Segment,
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
    let mut missing: BTreeSet<u64> = (wanted.first.number..=wanted.last.number).collect();
    progress.phase("waiting for the log to be archived", None);
    let mut pause = FIRST_PAUSE;
    loop {
        for timeline in wanted.first.timeline.0..=wanted.last.timeline.0 {
            forget_archived(scope, wanted, TimelineId(timeline), &mut missing).await?;
        }
        if missing.is_empty() {
            return check_usable(scope, wanted).await;
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

/// A segment that was archived with two contents is no use to a restore, nor is one of another branch.
async fn check_usable(scope: &Scope, wanted: &Wanted) -> Result<()> {
    let catalog = LogCatalog::load(&scope.repository, &scope.source, &wanted.incarnation, wanted.size).await?;
    let needed = |file: &str| {
        let segment = Segment::parse(file, wanted.size);
        segment.is_some_and(|segment| (wanted.first.number..=wanted.last.number).contains(&segment.number))
    };
    match catalog.split_brains.iter().find(|split| needed(&split.file)) {
        None => check_continuous(scope, wanted, &catalog),
        Some(split) => Err(Error::damaged(format!(
            "backup of {} is not usable: two servers archived {} with different contents",
            scope.source, split.file
        ))
        .detail("digests", split.digests.join(", "))
        .hint(format!("lifeboat archive resolve {} {} --keep DIGEST --key FILE", scope.source, split.file))),
    }
}

/// Every segment must be there on the way to the last one's timeline.
fn check_continuous(scope: &Scope, wanted: &Wanted, catalog: &LogCatalog) -> Result<()> {
    let missing = TimelinePath::to(wanted.last.timeline, catalog, wanted.size)?.run(catalog, wanted.from).missing;
    if missing.number > wanted.last.number {
        return Ok(());
    }
    Err(Error::failed(format!(
        "backup of {} is not usable: {} is not archived, and the log from {} on is needed",
        scope.source,
        missing.name(wanted.size),
        wanted.from
    ))
    .hint(format!("lifeboat backup {} --type full   needs only the log from its own start on", scope.source)))
}

/// Takes what is archived on `timeline` off the list. One listing from the first missing segment on.
async fn forget_archived(scope: &Scope, wanted: &Wanted, timeline: TimelineId, missing: &mut BTreeSet<u64>) -> Result<()> {
    let (Some(first), store) = (missing.first().copied(), scope.repository.store()) else { return Ok(()) };
    let prefix = layout::log_timeline(&scope.source, &wanted.incarnation, timeline);
    // Names sort as numbers do; whatever starts with the first missing name sorts after the bare name.
    let after = format!("{prefix}{}", Segment { timeline, number: first }.name(wanted.size));
    for object in retrying(Patience::LONG, || list_all(store, &prefix, Some(&after))).await? {
        if let Some(name) = SegmentName::parse(&object.key[prefix.len()..], wanted.size) {
            missing.remove(&name.segment.number);
        }
    }
    Ok(())
}

async fn not_archived(scope: &Scope, wanted: &Wanted, missing: &BTreeSet<u64>, session: &Session) -> Error {
    let name =
        |number: Option<&u64>| number.map(|number| Segment { timeline: wanted.last.timeline, number: *number }.name(wanted.size));
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
