//! `lifeboat copy --from NAME --to NAME [SOURCE…]`.

use serde::Serialize;

use crate::base::units::format_bytes;
use crate::base::{Error, Result, SourceName};
use crate::cli::args::CopyArgs;
use crate::cli::context::Context;
use crate::cli::exit::Outcome;
use crate::cli::scope::{self, Use};
use crate::engine::copy::{self, CopyOptions, Fate, LogAccount, Report, Verdict};
use crate::engine::lease::Terms;
use crate::engine::{Scope, verify};

/// The document `copy`, version 1.
#[derive(Serialize)]
struct Document {
    from: String,
    to: String,
    dry_run: bool,
    sources: Vec<Part>,
}

#[derive(Serialize)]
struct Part {
    source: SourceName,
    #[serde(flatten)]
    report: Report,
}

/// Fills one repository from another.
///
/// # Errors
/// When a repository does not answer or is written to by another run; damage in the first one is the outcome
/// [`Outcome::Damaged`].
pub async fn run(args: &CopyArgs, context: &Context) -> Result<Outcome> {
    if context.global.repository.is_some() {
        return Err(Error::usage("copy names its repositories with --from and --to").hint("leave out --repository"));
    }
    let settings = context.settings()?;
    let open = async |name: &str| {
        let chosen = settings.repository(Some(name))?;
        let layers = scope::layers(context, chosen, Use::Long { limit_rate_bytes: args.limit_rate });
        scope::open_repository(context, &settings, chosen, &layers).await
    };
    let (from, to) = (open(&args.from).await?, open(&args.to).await?);
    let writing = scope::writing(&settings)?;
    let sources = match args.sources.as_slice() {
        [] => verify::sources(&from).await?.0,
        named => named.to_vec(),
    };
    let lease = Terms { wait: args.wait.unwrap_or_default(), ..Terms::new(settings.backup.lease_ttl) };
    let options = CopyOptions { dry_run: args.dry_run, only: None, lease };
    let (mut document, mut damaged) =
        (Document { from: args.from.clone(), to: args.to.clone(), dry_run: args.dry_run, sources: Vec::new() }, false);
    for source in sources {
        let here = Scope::new(from.clone(), source.clone(), &settings.state_dir);
        let there = Scope::new(to.clone(), source.clone(), &settings.state_dir);
        let report = copy::run(&here, &there, &writing, options.clone(), context.progress.clone(), &context.cancel);
        let report =
            report.await.map_err(|error| error.context(format!("copying {source} from {} to {}", args.from, args.to)))?;
        damaged |= !report.faults.is_empty();
        document.sources.push(Part { source, report });
    }
    context.result("copy", 1, &document, || text(&document))?;
    Ok(if damaged { Outcome::Damaged } else { Outcome::Done })
}

fn text(document: &Document) -> String {
    let Document { from, to, dry_run, sources } = document;
    if sources.is_empty() {
        return format!("repository {from} holds nothing to copy\n");
    }
    let done = if *dry_run { "would copy" } else { "copied" };
    sources
        .iter()
        .map(|part| format!("{done} {} from {from} to {to}\n{}", part.source, part_text(&part.report, *dry_run)))
        .collect()
}

fn part_text(report: &Report, dry_run: bool) -> String {
    let mut lines: Vec<String> = report.backups.iter().map(|verdict| backup_text(verdict, dry_run)).collect();
    if report.backups.is_empty() {
        lines.push("there is no backup".to_owned());
    }
    lines.extend(report.logs.iter().map(log_text));
    lines.extend(report.faults.iter().map(|(key, why)| format!("not copied  {key}: {why}")));
    lines.into_iter().map(|line| format!("  {line}\n")).collect()
}

fn backup_text(verdict: &Verdict, dry_run: bool) -> String {
    let Verdict { id, stored_bytes, fate } = verdict;
    match fate {
        Fate::Copied if dry_run => format!("would copy  {id}, {}", format_bytes(*stored_bytes)),
        Fate::Copied => format!("copied      {id}, {}", format_bytes(*stored_bytes)),
        Fate::Present => format!("there       {id}"),
        Fate::Expired => format!("expired     {id}: it was there, and was let go"),
        Fate::LeftOut { why } => format!("left out    {id}: {why}"),
    }
}

fn log_text(log: &LogAccount) -> String {
    let LogAccount { incarnation, copied_files, copied_bytes, present_files, unsigned_files } = log;
    let unsigned = match unsigned_files {
        0 => String::new(),
        count => format!("; {count} not signed by the archiving host yet"),
    };
    format!("log of {incarnation}: {copied_files} files, {}; {present_files} there{unsigned}", format_bytes(*copied_bytes))
}
