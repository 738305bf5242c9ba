//! What every verb that restores needs: the repository to restore from, the plan, and the command that fetches the log.

use std::path::Path;
use std::sync::Arc;

use super::config::{RepositorySettings, Settings};
use super::context::Context;
use super::scope::{self, Use};
use crate::base::{BackupId, Engine, Error, ErrorKind, Incarnation, Result, SourceName};
use crate::engine::restore::Target;
use crate::engine::restore::plan::RestorePlan;
use crate::engine::restore::prepare::{Prepared, Request, prepare};
use crate::engine::{IdentitySource, Scope, head};
use crate::repo::CommitLog;
use crate::store::layer::any_of;
use crate::store::layer::metrics::Metrics;
use crate::store::{self, StoreError};

/// What is to be restored, and how fast at most.
pub struct Wanted<'a> {
    /// The source.
    pub source: &'a SourceName,
    /// Which backup of it, and to where.
    pub request: Request,
    /// Bytes a second from the repository.
    pub limit_rate: Option<u64>,
    /// What opens it.
    pub identities: &'a dyn IdentitySource,
}

/// A plan, and where the requests of its repository are counted.
pub struct Plan {
    /// The source in the repository that the plan is of.
    pub scope: Scope,
    /// Its commit log.
    pub log: CommitLog,
    /// The plan, and what opens the data it names.
    pub prepared: Prepared,
    /// The requests.
    pub metrics: Arc<Metrics>,
    /// Repositories that were asked and did not answer: they may hold newer log.
    pub away: Vec<String>,
}

/// Where the source is kept.
///
/// # Errors
/// When the configuration does not say.
pub fn repositories<'a>(source: &SourceName, context: &Context, settings: &'a Settings) -> Result<Vec<&'a RepositorySettings>> {
    let only = context.global.repository.as_deref();
    match settings.source(source) {
        Ok(source) => settings.repositories_of(source, only),
        // A host that only restores need not describe the source.
        Err(_) => Ok(vec![settings.repository(only)?]),
    }
}

/// What kind of system is to be restored: that of the incarnation or backup that was asked for, else what the configuration
/// says, else, on a host that only restores, that of the newest backup in the first repository that has one.
///
/// # Errors
/// On the wish to stop. A repository that does not answer is told of by whoever plans.
pub async fn engine(
    source: &SourceName,
    (incarnation, backup): (Option<&Incarnation>, Option<&BackupId>),
    context: &Context,
    settings: &Settings,
    repositories: &[&RepositorySettings],
) -> Result<Engine> {
    match (incarnation, backup, settings.source(source)) {
        (Some(incarnation), _, _) => return Ok(incarnation.engine()),
        (None, None, Ok(configured)) => return Ok(configured.kind.engine()),
        _ => {}
    }
    for chosen in repositories {
        let asking = async {
            let layers = scope::layers(context, chosen, Use::Brief);
            let scope = scope::open(context, settings, chosen, source, &layers).await?;
            let log = CommitLog::load(&scope.repository, &scope.source).await?;
            let found = backup.map_or_else(|| log.backups().last(), |id| log.find(id));
            Ok::<_, Error>(found.map(|backup| backup.incarnation.engine()))
        };
        let found = tokio::select! {
            found = asking => found,
            () = context.cancel.cancelled() => return Err(Error::interrupted()),
        };
        if let Ok(Some(engine)) = found {
            return Ok(engine);
        }
    }
    Ok(settings.source(source).map_or(Engine::Postgres, |configured| configured.kind.engine()))
}

/// The plan from the first repository that has one; the first refusal when none has. Where the plan depends on how far
/// the log goes, all are asked, and the one whose log goes farthest is taken: another may have missed the end of it.
///
/// # Errors
/// The first refusal.
pub async fn plan(
    wanted: &Wanted<'_>,
    context: &Context,
    settings: &Settings,
    repositories: &[&RepositorySettings],
) -> Result<Plan> {
    let is_latest = matches!(wanted.request.target, Target::Latest);
    let ask_all = is_latest || wanted.request.timeline.is_none();
    let (mut best, mut failures): (Option<Plan>, Vec<(&str, Error)>) = (None, Vec::new());
    for chosen in repositories {
        match plan_from(wanted, context, settings, chosen).await {
            Ok(found) if !ask_all => return Ok(found),
            Ok(found) => {
                if best.as_ref().is_none_or(|best| goes_farther(&found.prepared.plan, &best.prepared.plan, is_latest)) {
                    best = Some(found);
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
            Err(error) => failures.push((&chosen.name, error)),
        }
    }
    let Some(mut best) = best else {
        // An answer is worth more than an outage.
        failures.sort_by_key(|(_, error)| error.kind() == ErrorKind::Unreachable);
        let mut failures = failures.into_iter();
        let first = failures.next().map(|(_, error)| error);
        failures.for_each(|(name, error)| context.progress.warn(&format!("repository {name}: {}", error.summary())));
        return Err(first.unwrap_or_else(|| Error::usage(format!("{} names no repository", wanted.source))));
    };
    let is_away = |(_, error): &&(&str, Error)| error.kind() == ErrorKind::Unreachable;
    best.away = failures.iter().filter(is_away).map(|(name, _)| (*name).to_owned()).collect();
    for (name, error) in failures {
        let unknown = if error.kind() == ErrorKind::Unreachable { "; it may hold newer log" } else { "" };
        context.progress.warn(&format!("repository {name} was not taken into account{unknown}: {}", error.summary()));
    }
    Ok(best)
}

/// Whether `new` is of a later cluster or timeline than `best` or, when asked for the end of the log, goes on for longer.
fn goes_farther(new: &RestorePlan, best: &RestorePlan, is_latest: bool) -> bool {
    if new.backup.incarnation != best.backup.incarnation {
        return new.backup.start_time > best.backup.start_time;
    }
    let end = |plan: &RestorePlan| is_latest.then(|| (plan.segments.last().map(|segment| segment.number), plan.reaches));
    (new.timeline, end(new)) > (best.timeline, end(best))
}

/// The same scope, reading also from the other repositories of the source when its own fails on the way. They need not
/// hold the backup: every object is compared with what the plan's repository signed.
///
/// # Errors
/// When a repository's address is wrong.
pub fn with_others(
    limit_rate_bytes: Option<u64>,
    context: &Context,
    repositories: &[&RepositorySettings],
    scope: Scope,
    metrics: &Arc<Metrics>,
) -> Result<Scope> {
    let (own, others): (Vec<&RepositorySettings>, Vec<_>) =
        repositories.iter().partition(|chosen| chosen.name == scope.repository.name());
    let bare = |chosen: &RepositorySettings| -> Result<_> {
        let mut layers = scope::layers(context, chosen, Use::Long { limit_rate_bytes });
        layers.metrics = Arc::clone(metrics);
        Ok((store::open(&chosen.url, &chosen.options)?, layers))
    };
    let (Some(own), false) = (own.first(), others.is_empty()) else { return Ok(scope) };
    let others = others.into_iter().map(bare).collect::<Result<Vec<_>>>()?;
    let progress = Arc::clone(&context.progress);
    let told = move |from: &str, error: &StoreError, to: &str| {
        progress.warn(&format!("{from} does not answer, reading on from {to}: {error}"));
    };
    let store = any_of(bare(own)?, others, Box::new(told));
    Ok(Scope { repository: scope.repository.reading_from(store), ..scope })
}

async fn plan_from(wanted: &Wanted<'_>, context: &Context, settings: &Settings, chosen: &RepositorySettings) -> Result<Plan> {
    let planning = async {
        let layers = scope::layers(context, chosen, Use::Long { limit_rate_bytes: wanted.limit_rate });
        let scope = scope::open(context, settings, chosen, wanted.source, &layers).await?;
        let seen = head::look(&scope).await?;
        if let Some(warning) = &seen.warning {
            context.progress.warn(warning);
        }
        // Whoever restores takes what there is; but is told.
        if let Some(wound_back) = &seen.wound_back {
            context.progress.warn(&format!("repository {}: {}", chosen.name, wound_back.text()));
        }
        let prepared = prepare(&scope, &seen.log, wanted.identities, &wanted.request).await?;
        Ok(Plan { scope, log: seen.log, prepared, metrics: layers.metrics, away: Vec::new() })
    };
    tokio::select! {
        outcome = planning => outcome,
        () = context.cancel.cancelled() => Err(Error::interrupted()),
    }
}

/// What the restored server runs for each file of the log: it asks the repository that was asked for, or all; that of the
/// plan, called `planned`, where the log ends in pieces. Of a segment in pieces another one may have more as long as it does
/// not answer, and recovery would end with an error.
///
/// # Errors
/// When this program cannot be found, or a path cannot be written into a command.
pub fn restore_command(
    source: &SourceName,
    context: &Context,
    settings: &Settings,
    plan: &RestorePlan,
    planned: &str,
) -> Result<String> {
    let only = context.global.repository.as_deref().or(plan.needs_pieces.then_some(planned));
    command(source, settings, plan, only)
}

/// What a standby runs for each file of the log, as long as it follows: it waits for a repository that does not answer,
/// because PostgreSQL would end the server at the first error.
///
/// # Errors
/// As [`restore_command`].
pub fn follow_command(source: &SourceName, context: &Context, settings: &Settings, plan: &RestorePlan) -> Result<String> {
    Ok(format!("{} --wait", command(source, settings, plan, context.global.repository.as_deref())?))
}

/// The command that asks the repository `only`, or all.
///
/// # Errors
/// As [`restore_command`].
pub fn command(source: &SourceName, settings: &Settings, plan: &RestorePlan, only: Option<&str>) -> Result<String> {
    let program =
        std::env::current_exe().map_err(|error| Error::failed("cannot find this program's own path").caused_by(error))?;
    let (program, config) = (quoted(&program)?, quoted(&settings.config_file)?);
    let only = only.map(|name| quoted(Path::new(name))).transpose()?;
    let only = only.map(|name| format!(" --repository {name}")).unwrap_or_default();
    let without: String = plan.without_pieces_of.iter().map(|name| format!(" --without-pieces-of {name}")).collect();
    Ok(format!("{program} --config {config}{only} archive get {source} %f %p --incarnation {}{without}", plan.backup.incarnation))
}

/// A path as one word of a shell command in which PostgreSQL expands `%`.
fn quoted(path: &Path) -> Result<String> {
    let text = path
        .to_str()
        .ok_or_else(|| Error::usage(format!("{} is not UTF-8: a restore_command cannot name it", path.display())))?;
    Ok(format!("'{}'", text.replace('\'', r"'\''").replace('%', "%%")))
}
