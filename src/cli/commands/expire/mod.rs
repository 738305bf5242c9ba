//! `lifeboat expire [SOURCE]`: what a policy lets go, marks, withdrawals, what is due, and what crashed backups left.

mod text;

use serde::Serialize;

use crate::base::{BackupId, Error, ErrorKind, Result, Timestamp};
use crate::cli::args::ExpireArgs;
use crate::cli::config::{RepositorySettings, Settings, SourceSettings};
use crate::cli::context::Context;
use crate::cli::exit::Outcome;
use crate::cli::scope::{self, Use};
use crate::engine::Scope;
use crate::engine::expire::mark::{self, Marked};
use crate::engine::expire::orphans::{self, Orphan};
use crate::engine::expire::rules::{self, Judgement, Ruled};
use crate::engine::expire::run::{self as carry_out, Report};
use crate::engine::lease::Terms;
use crate::engine::retention::Rules;
use crate::policy::Policy;
use crate::repo::Signer;
use crate::repo::log::LogRange;

/// The document `expire`, version 1.
#[derive(Serialize)]
struct Document {
    /// The source that was named; none when all are meant.
    source: Option<String>,
    dry_run: bool,
    #[serde(skip)]
    explain: bool,
    repositories: Vec<Part>,
}

/// What was done in one repository, or would be.
#[derive(Default, Serialize)]
struct Part {
    source: String,
    repository: String,
    policy: Option<ByPolicy>,
    marked: Option<Marking>,
    withdrawn: Option<Withdrawing>,
    carried_out: Option<Report>,
    orphans: Option<Vec<Orphan>>,
    /// Why it was not done, or not to its end.
    error: Option<String>,
}

/// A source in one repository.
struct Target<'a> {
    source: &'a SourceSettings,
    policy: Option<Policy>,
    chosen: &'a RepositorySettings,
}

#[derive(Serialize)]
struct Marking {
    /// The mark's name; none when nothing was to be done.
    mark: Option<String>,
    backups: Vec<BackupId>,
    due: Timestamp,
    /// Backups that were marked before.
    standing: Vec<StandingMark>,
    log_ranges: Vec<LogRange>,
}

/// What the policy makes of the repository.
#[derive(Serialize)]
struct ByPolicy {
    policy: String,
    /// The first moment of the window.
    window_from: Timestamp,
    #[serde(flatten)]
    judgement: Judgement,
    /// Backups that the policy had marked and wants to keep.
    withdrawn: Vec<BackupId>,
}

#[derive(Serialize)]
struct StandingMark {
    backup: BackupId,
    due: Timestamp,
}

#[derive(Serialize)]
struct Withdrawing {
    /// The withdrawal's name; none when nothing was to be done.
    withdrawal: Option<String>,
    backups: Vec<BackupId>,
}

/// Marks, withdraws, carries out or sweeps, in every repository of the source.
///
/// # Errors
/// That of the first repository that fails, after the others were seen to and all is told; running it again is harmless.
/// What is wrong with the configuration is told before anything is done.
pub async fn run(args: &ExpireArgs, context: &Context) -> Result<Outcome> {
    let settings = context.settings()?;
    let dry_run = args.dry_run || args.explain;
    let operator = match (&args.key, dry_run) {
        (Some(file), false) => Some(Signer::read(file)?),
        _ => None,
    };
    let named = args.source.as_ref().map(ToString::to_string);
    let mut document = Document { source: named, dry_run, explain: args.explain, repositories: Vec::new() };
    let mut first_error = None;
    for Target { source, policy, chosen } in targets(args, context, &settings)? {
        let one = async {
            let layers = scope::layers(context, chosen, Use::Long { limit_rate_bytes: None });
            let scope = scope::open(context, &settings, chosen, &source.name, &layers).await?;
            let desk = Desk { args, context, settings: &settings, scope: &scope, operator: operator.as_ref() };
            desk.one_repository(policy.as_ref()).await
        };
        let (part, failed) = part_of(&source.name.to_string(), &chosen.name, one.await);
        document.repositories.push(part);
        let is_over = failed.as_ref().is_some_and(|error| error.kind() == ErrorKind::Interrupted);
        first_error = first_error.or(failed);
        if is_over {
            break;
        }
    }
    match first_error {
        // Of one place alone the error says everything.
        Some(error) if document.repositories.len() == 1 => Err(error),
        first_error => {
            context.result("expire", 1, &document, || text::text(&document))?;
            first_error.map_or(Ok(Outcome::Done), Err)
        }
    }
}

/// What is told of one source in one repository, and its error with the place.
fn part_of(source: &str, repository: &str, outcome: Result<Part>) -> (Part, Option<Error>) {
    let place = Part { source: source.to_owned(), repository: repository.to_owned(), ..Part::default() };
    match outcome {
        Ok(part) => (Part { source: place.source, repository: place.repository, ..part }, None),
        Err(error) => {
            let part = Part { error: Some(error.summary()), ..place };
            (part, Some(error.context(format!("{source} in repository {repository}"))))
        }
    }
}

/// Every source that is meant in every repository that is.
fn targets<'a>(args: &ExpireArgs, context: &Context, settings: &'a Settings) -> Result<Vec<Target<'a>>> {
    let sources: Vec<&SourceSettings> = match &args.source {
        Some(name) => vec![settings.source(name)?],
        None => settings.sources.values().collect(),
    };
    let mut found = Vec::new();
    for source in sources {
        let policy = settings.policy_of(source)?;
        if args.explain && policy.is_none() && args.source.is_some() {
            return Err(Error::usage(format!("{} has no policy: there is nothing to explain", source.name))
                .hint(format!("lifeboat expire {} --dry-run   shows what is marked", source.name)));
        }
        let chosen = settings.repositories_of(source, context.global.repository.as_deref())?;
        found.extend(chosen.into_iter().map(|chosen| Target { source, policy: policy.clone(), chosen }));
    }
    Ok(found)
}

/// One source in one repository, and what is wanted of it.
struct Desk<'a> {
    args: &'a ExpireArgs,
    context: &'a Context,
    settings: &'a Settings,
    scope: &'a Scope,
    operator: Option<&'a Signer>,
}

impl Desk<'_> {
    async fn one_repository(&self, policy: Option<&Policy>) -> Result<Part> {
        let (args, mut part) = (self.args, Part::default());
        if args.orphans {
            part.orphans = Some(self.sweep().await?);
            return Ok(part);
        }
        if args.withdraw {
            let done = mark::withdraw(self.scope, self.operator, &args.backups).await?;
            part.withdrawn = Some(Withdrawing { withdrawal: done.name, backups: done.backups });
            return Ok(part);
        }
        let rules = policy.map(|policy| Rules { policy: &policy.name, retention: &policy.retention });
        let mut wish = carry_out::Wish { allow_none: args.allow_none, rules, ..carry_out::Wish::default() };
        if !args.backups.is_empty() {
            let marking = self.mark().await?;
            wish.only.extend(marking.standing.iter().map(|standing| standing.backup.clone()));
            // A run that marks deletes nothing, however short the grace.
            let marks_something = !marking.backups.is_empty();
            part.marked = Some(marking);
            if marks_something {
                return Ok(part);
            }
        } else if let Some(rules) = rules {
            let (by_policy, marking) = self.by_policy(rules).await?;
            // Nor what it just marked.
            wish.except = marking.mark.clone();
            (part.policy, part.marked) = (Some(by_policy), Some(marking));
        }
        let report =
            carry_out::run(self.scope, self.operator, &wish, self.context.progress.clone(), &self.context.cancel).await?;
        for (key, why) in &report.unused_marks {
            self.context.progress.warn(&format!("{key} is not used: {why}"));
        }
        part.carried_out = Some(report);
        Ok(part)
    }

    async fn sweep(&self) -> Result<Vec<Orphan>> {
        let (args, context) = (self.args, self.context);
        let terms = Terms { wait: args.wait.unwrap_or_default(), ..Terms::new(self.settings.backup.lease_ttl) };
        let acting = self.operator.map(|operator| (operator, terms));
        orphans::run(self.scope, acting, args.older_than, context.progress.clone(), &context.cancel).await
    }

    async fn mark(&self) -> Result<Marking> {
        let args = self.args;
        let wish =
            mark::Wish { backups: args.backups.clone(), chain: args.chain, grace: args.grace, allow_none: args.allow_none };
        let Marked { name, backups, due, standing } = mark::mark(self.scope, self.operator, &wish).await?;
        Ok(Marking { mark: name, backups, due, standing: standing_marks(standing), log_ranges: Vec::new() })
    }

    async fn by_policy(&self, rules: Rules<'_>) -> Result<(ByPolicy, Marking)> {
        let window_from = rules.retention.window_start(Timestamp::now());
        let done = rules::apply(self.scope, self.operator, rules, self.args.grace).await?;
        let Ruled { judgement, mark, marked, marked_log, due, standing, withdrawn } = done;
        let by_policy = ByPolicy { policy: rules.policy.to_owned(), window_from, judgement, withdrawn };
        let standing = standing_marks(standing);
        Ok((by_policy, Marking { mark, backups: marked, due, standing, log_ranges: marked_log }))
    }
}

fn standing_marks(standing: Vec<(BackupId, Timestamp)>) -> Vec<StandingMark> {
    standing.into_iter().map(|(backup, due)| StandingMark { backup, due }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_before_a_repository_failed_is_told() {
        let orphans = Some(Vec::new());
        let (done, failed) = part_of("orders", "main", Ok(Part { orphans, ..Part::default() }));
        assert!(failed.is_none() && done.error.is_none() && done.orphans.is_some());
        let (part, failed) = part_of("orders", "far", Err(Error::damaged("its keys are forged")));
        let error = failed.expect("an error");
        assert_eq!((error.kind(), error.message()), (ErrorKind::Damaged, "orders in repository far: its keys are forged"));
        let document = Document { source: None, dry_run: false, explain: false, repositories: vec![done, part] };
        let text = text::text(&document);
        assert!(text.contains("orders in repository main\n  no backup was left"), "{text}");
        assert!(text.ends_with("orders in repository far\n  failed: its keys are forged\n"), "{text}");
    }
}
