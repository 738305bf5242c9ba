//! From what the operator asked to a plan and the keys that open it. Reads the repository, touches nothing else.

use crate::base::{BackupId, Error, Incarnation, Lsn, Result, Segment, TimelineId};
use crate::engine::archive::get::{ArchivedLog, opener as log_opener};
use crate::engine::archive::tail::is_broken;
use crate::engine::chain::{self, Link};
use crate::engine::timeline::TimelinePath;
use crate::engine::{IdentitySource, Scope};
use crate::repo::identity::{self, Identity};
use crate::repo::log::LogCatalog;
use crate::repo::{BackupSummary, CommitLog};

use super::Target;
use super::heads::{self, Head};
use super::plan::{RestorePlan, Situation, newest_timeline, plan};

/// What to restore.
#[derive(Clone, Debug)]
pub struct Request {
    /// Where the cluster shall stand.
    pub target: Target,
    /// The timeline to follow; the newest when none is given.
    pub timeline: Option<TimelineId>,
    /// The incarnation; the newest that has a backup before the target when none is given.
    pub incarnation: Option<Incarnation>,
    /// The backup to use; the best one when none is given.
    pub backup: Option<BackupId>,
}

/// A plan and what opens the data it names.
pub struct Prepared {
    /// The plan.
    pub plan: RestorePlan,
    /// The backup and what it builds on, itself first.
    pub links: Vec<Link>,
    /// The way through the timelines.
    pub path: TimelinePath,
    /// Segments to place beside what recovery fetches by itself.
    pub(super) heads: Vec<Head>,
}

impl Prepared {
    /// Stored bytes of all packs and manifests that a restore may have to fetch.
    pub fn fetch_bytes(&self) -> u64 {
        self.links.iter().map(|link| link.summary.stored_bytes).sum()
    }
}

/// Makes the plan for `request` from the backups in `log` and unwraps the keys it needs.
///
/// # Errors
/// When the target cannot be reached, no identity fits, or the repository is damaged where it matters.
pub async fn prepare(scope: &Scope, log: &CommitLog, identities: &dyn IdentitySource, request: &Request) -> Result<Prepared> {
    let (known, damaged) = identity::survey(&scope.repository, &scope.source).await?;
    let identity = choose(scope, log, &known, request)?;
    let (incarnation, size) = (&identity.incarnation, identity.segment_bytes);
    let mut catalog = LogCatalog::load_with_tail(&scope.repository, &scope.source, incarnation, size).await?;
    if let Some(backup) = request.backup.as_ref().and_then(|id| log.find(id)) {
        chain::summaries(scope, log, backup)?;
    }
    let backups: Vec<_> = log.restorable().filter(|backup| backup.incarnation == identity.incarnation).collect();
    let pieces = catalog.tail.values().flat_map(|tail| &tail.pieces).map(|piece| &piece.key);
    let mut keys = catalog.segments.values().map(|object| &object.key).chain(pieces);
    let sample = keys.find(|key| key.ends_with(".age")).cloned().unwrap_or_default();
    let opener = log_opener(scope, identities, incarnation, &sample).await?;
    let mut left_out = Vec::new();
    let (mut plan, path, heads) = loop {
        let reader = ArchivedLog { scope, incarnation, catalog: &catalog, opener: opener.clone(), size };
        let error = match planned(scope, log, &backups, request, &reader).await {
            Ok(planned) => break planned,
            Err(error) => error,
        };
        // Pieces are signed by nobody: wrong ones must not keep anybody from what comes before them.
        let broken = if is_broken(&error) { broken_tails(&reader).await? } else { Vec::new() };
        if broken.is_empty() {
            return Err(error);
        }
        for (segment, at, why) in broken {
            catalog.cut_tail(segment, size, at);
            let (name, start) = (segment.name(size), segment.start(size));
            left_out.retain(|(other, ..): &(String, String, String)| *other != name);
            left_out.push(match at > start {
                true => (name.clone(), format!("{name}:{}", at.bytes_since(start)), format!("from {at} on is not used: {why}")),
                false => (name.clone(), name, format!("is not used: {why}")),
            });
        }
    };
    plan.notes.extend(left_out.iter().map(|(name, _, why)| format!("what was streamed of {name} {why}")));
    plan.without_pieces_of.extend(left_out.into_iter().map(|(_, without, _)| without));
    for (key, problem) in log.problems.iter().chain(&damaged) {
        plan.notes.push(format!("{key} is not used: {problem}"));
    }
    for split in &catalog.split_brains {
        plan.notes.push(format!(
            "{} is not used: it was archived with different contents ({})",
            split.file,
            split.digests.join(", ")
        ));
    }
    plan.without_pieces_of.extend(catalog.contradicted_pieces.iter().map(|pieces| pieces.file.clone()));
    plan.notes.extend(catalog.contradicted_pieces.iter().map(|pieces| format!("{} is not used: {pieces}", pieces.file)));
    for (backup, broken) in log.broken() {
        plan.notes.push(format!("{} is not used: {broken}", backup.id));
    }
    let unwrapped = if plan.backup.encrypted { identities.identities()? } else { Vec::new() };
    let links = chain::links(scope, log, &plan.backup, &unwrapped).await?;
    Ok(Prepared { plan, links, path, heads })
}

/// The plan by what `reader` reads, and the segments to place.
async fn planned(
    scope: &Scope,
    log: &CommitLog,
    backups: &[&BackupSummary],
    request: &Request,
    reader: &ArchivedLog<'_>,
) -> Result<(RestorePlan, TimelinePath, Vec<Head>)> {
    let (catalog, incarnation, source) = (reader.catalog, reader.incarnation, scope.source.to_string());
    let timeline = timeline(scope, log, catalog, backups, request)?;
    let path = TimelinePath::to(timeline, catalog, reader.size)?;
    let timeline_chosen = request.timeline.is_some();
    let situation = Situation { source: &source, backups: backups.to_vec(), incarnation, catalog, path, timeline_chosen };
    let plan = plan(&situation, &request.target, request.backup.as_ref(), reader).await?;
    let heads = heads::fetch(&plan, &situation.path, reader).await?;
    Ok((plan, situation.path, heads))
}

/// The segments whose pieces are not what they should be, from where on, and why.
async fn broken_tails(reader: &ArchivedLog<'_>) -> Result<Vec<(Segment, Lsn, String)>> {
    let mut broken = Vec::new();
    for (segment, tail) in &reader.catalog.tail {
        let wrong = reader.wrong_from(*segment, tail.pieces.clone()).await?;
        // One that was cut there before is as it should be.
        if let Some((at, error)) = wrong.filter(|(at, _)| !tail.is_cut || *at < tail.end) {
            broken.push((*segment, at, error.summary()));
        }
    }
    Ok(broken)
}

fn choose<'a>(scope: &Scope, log: &CommitLog, known: &'a [Identity], request: &Request) -> Result<&'a Identity> {
    let find = |incarnation: &Incarnation| known.iter().find(|identity| identity.incarnation == *incarnation);
    let source = &scope.source;
    let chosen = match (&request.incarnation, &request.backup) {
        (Some(incarnation), _) => identity::require(known, source, incarnation)?,
        (None, Some(id)) => {
            let backup = log.find(id).ok_or_else(|| {
                let what = match log.was_committed(id) {
                    true => format!("backup {id} of {source} has expired"),
                    false => format!("{source} has no backup {id}"),
                };
                Error::failed(what).hint(format!("lifeboat list {source}   shows what there is"))
            })?;
            find(&backup.incarnation)
                .ok_or_else(|| Error::damaged(format!("the identity of incarnation {} is missing", backup.incarnation)))?
        }
        (None, None) => {
            let began = |identity: &Identity| {
                let before =
                    |time| log.restorable().any(|backup| backup.incarnation == identity.incarnation && backup.start_time <= time);
                match request.target {
                    Target::Time(time) => before(time),
                    _ => log.restorable().any(|backup| backup.incarnation == identity.incarnation),
                }
            };
            let newest_with = |wanted: &dyn Fn(&Identity) -> bool| known.iter().rfind(|identity| wanted(identity));
            let any = |identity: &Identity| log.restorable().any(|backup| backup.incarnation == identity.incarnation);
            let chosen = newest_with(&began).or_else(|| newest_with(&any));
            if let (Some(chosen), Some(newer)) = (chosen, known.last())
                && superseded(chosen, newer, &request.target)
            {
                return Err(Error::failed(format!("{source} became another cluster, which has no backup yet"))
                    .detail(
                        "newest",
                        format!("{} since {}, without a backup", newer.incarnation, newer.first_seen.human_seconds()),
                    )
                    .detail("before it", format!("{}, which can be restored", chosen.incarnation))
                    .hint(format!(
                        "lifeboat restore {source} --incarnation {} …   if the older cluster is meant",
                        chosen.incarnation
                    )));
            }
            chosen.ok_or_else(|| {
                let error = Error::failed(format!("{source} has no backup in repository {}", scope.repository.name()));
                let error =
                    log.problems.iter().fold(error, |error, (key, why)| error.detail("unusable", format!("{key}: {why}")));
                let error = log
                    .broken()
                    .fold(error, |error, (backup, broken)| error.detail("unusable", format!("{}: {broken}", backup.id)));
                error
                    .hint(format!("lifeboat backup {source} --type full"))
                    .hint("lifeboat list   shows the sources that have backups")
            })?
        }
    };
    Ok(chosen)
}

/// Whether the target may lie in a newer cluster than the one that would be restored.
fn superseded(chosen: &Identity, newer: &Identity, target: &Target) -> bool {
    newer.incarnation != chosen.incarnation
        && newer.first_seen > chosen.first_seen
        && match target {
            Target::Time(time) => *time >= newer.first_seen,
            Target::Latest | Target::Immediate => true,
            Target::Lsn { .. } | Target::Xid { .. } | Target::Name(_) => false,
        }
}

fn timeline(
    scope: &Scope,
    log: &CommitLog,
    catalog: &LogCatalog,
    backups: &[&BackupSummary],
    request: &Request,
) -> Result<TimelineId> {
    if let Some(timeline) = request.timeline {
        let mut known: Vec<TimelineId> = backups.iter().map(|backup| backup.timeline).chain(catalog.timelines()).collect();
        known.sort_unstable();
        known.dedup();
        if known.contains(&timeline) {
            return Ok(timeline);
        }
        let known: Vec<String> = known.iter().map(ToString::to_string).collect();
        return Err(Error::failed(format!("{} has no timeline {timeline}", scope.source))
            .detail("known", if known.is_empty() { "none".to_owned() } else { known.join(", ") })
            .hint(format!("lifeboat list {}   shows the recovery window of each", scope.source)));
    }
    // "As soon as the backup is consistent" asks for that backup's own timeline.
    if let (Target::Immediate, Some(backup)) = (&request.target, request.backup.as_ref().and_then(|id| log.find(id))) {
        return Ok(backup.timeline);
    }
    newest_timeline(backups, catalog).ok_or_else(|| {
        Error::failed(format!("{} has no backup and no log in repository {}", scope.source, scope.repository.name()))
    })
}
