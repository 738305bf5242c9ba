//! `lifeboat timeline SOURCE`: what happened when, and the moment before it.

mod document;
mod names;
mod text;

use std::sync::Arc;
use std::time::Duration;

use self::document::{Document, RestoreCommand};
use crate::base::{Engine, Error, ErrorKind, Result, Timestamp};
use crate::cli::args::TimelineArgs;
use crate::cli::config::{RepositorySettings, Settings};
use crate::cli::context::Context;
use crate::cli::exit::Outcome;
use crate::cli::restoring;
use crate::cli::scope::{self, Use};
use crate::engine::activity::around::{Around, Listing};
use crate::engine::activity::collect::Before;
use crate::engine::activity::detail::Detail;
use crate::engine::activity::plan::{self, Elsewhere};
use crate::engine::activity::run::{self, Account, Archive, Listener};
use crate::engine::{Scope, head};

/// How far from `--around` transactions are looked for.
const WITHIN: Duration = Duration::from_secs(300);

/// Tells what happened, from the first repository of the source that answers.
///
/// # Errors
/// When none answers or holds the source, the interval lies outside the archive, or there is no identity for what is asked.
pub async fn run(args: &TimelineArgs, context: &Context) -> Result<Outcome> {
    let settings = context.settings()?;
    let (chosen, scope, archive) = open(args, context, &settings).await?;
    let source = args.source.to_string();
    refuse_for_kind(args, archive.engine())?;
    let (from, to) = interval(args, &archive)?;
    let elsewhere = elsewhere(args, &archive, (from, to));
    archive.check_interval(&source, from, to, &elsewhere)?;
    if let Some(time) = args.around {
        archive.refuse_ambiguous(&source, time, &elsewhere)?;
    }
    let mut document = Document::new(&source, chosen, &archive, (from, to));
    document.elsewhere(&elsewhere);
    let mut account = Account::default();
    if let Some(time) = args.around {
        let around = Around::new(time, to.since(time), usize::from(args.count), args.before);
        let (around, read) = listen(around, args, context, &settings, (&scope, &archive), (from, to)).await?;
        account = read;
        let listing = around.listing();
        let naming = names::of_listing(&listing, &archive, args, context, &settings).await;
        let restore = restore_of(&listing, args, context, &archive)?;
        document.around(time, &listing, &naming, restore);
    } else {
        let length = args.interval.unwrap_or_else(|| plan::round_interval(from, to));
        refuse_too_many_rows(&source, from, to, length)?;
        document.axis(&plan::axis(&archive.track, &archive.backups_on_path(), from, to, length));
    }
    if args.detail {
        // Marks are also made before the first and after the last transaction.
        let (begin, end) = as_far_as_asked(args, (from, to));
        let detail = Detail::new(begin, end);
        let (detail, read) = listen(detail, args, context, &settings, (&scope, &archive), (from, to)).await?;
        account = read;
        let naming = names::of_detail(&detail, &archive, args, context, &settings).await;
        document.detail(&detail, &naming, |before| command(before, args, context, &archive));
    }
    document.account(&account);
    context.result("timeline", 1, &document, || document.text())?;
    Ok(if account.unread.is_empty() { Outcome::Done } else { Outcome::Damaged })
}

/// The first repository that answers and holds the source, and what there is.
async fn open<'s>(
    args: &TimelineArgs,
    context: &Context,
    settings: &'s Settings,
) -> Result<(&'s RepositorySettings, Scope, Archive)> {
    let (mut first, mut found) = (None, None);
    for chosen in restoring::repositories(&args.source, context, settings)? {
        match open_one(args, context, settings, chosen).await {
            Ok((scope, archive)) => {
                found = Some((chosen, scope, archive));
                break;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
            Err(error) if first.is_none() => first = Some((chosen, error)),
            Err(error) => context.progress.warn(&format!("repository {}: {}", chosen.name, error.summary())),
        }
    }
    match (found, first) {
        (Some(found), first) => {
            first.iter().for_each(|(chosen, error)| {
                context.progress.warn(&format!("repository {} was passed over: {}", chosen.name, error.summary()));
            });
            Ok(found)
        }
        (None, Some((_, error))) => Err(error),
        (None, None) => Err(Error::usage(format!("{} names no repository", args.source))),
    }
}

async fn open_one(
    args: &TimelineArgs,
    context: &Context,
    settings: &Settings,
    chosen: &RepositorySettings,
) -> Result<(Scope, Archive)> {
    let looking = async {
        let layers = scope::layers(context, chosen, Use::Long { limit_rate_bytes: None });
        let scope = scope::open(context, settings, chosen, &args.source, &layers).await?;
        let seen = head::look(&scope).await?;
        seen.warning.iter().for_each(|warning| context.progress.warn(warning));
        if let Some(wound_back) = &seen.wound_back {
            context.progress.warn(&format!("repository {}: {}", chosen.name, wound_back.text()));
        }
        let archive = run::look(&scope, &seen.log, args.incarnation.as_ref(), args.timeline).await?;
        Ok((scope, archive))
    };
    tokio::select! {
        outcome = looking => outcome,
        () = context.cancel.cancelled() => Err(Error::interrupted()),
    }
}

/// What only the log of a PostgreSQL cluster tells.
fn refuse_for_kind(args: &TimelineArgs, engine: Engine) -> Result<()> {
    let asked = [("--around", args.around.is_some()), ("--detail", args.detail), ("--timeline", args.timeline.is_some())];
    let Some((option, _)) = asked.into_iter().find(|(_, is_asked)| *is_asked) else { return Ok(()) };
    let source = &args.source;
    let why = match engine {
        Engine::Postgres => return Ok(()),
        Engine::Sqlite => "its log holds changed pages, which tell neither rows nor transactions apart",
        Engine::Directory => "it has no log: what is known are the moments of its backups",
    };
    Err(Error::usage(format!("{option} is not for {source}, {}", engine.with_article()))
        .detail("why", why)
        .hint(format!("lifeboat timeline {source}   shows what was stored when")))
}

/// What is asked for: `--from` and `--to`, or the time around `--around`; all of the archived log when neither is given.
fn interval(args: &TimelineArgs, archive: &Archive) -> Result<(Timestamp, Timestamp)> {
    if let Some(time) = args.around {
        let within = args.within.unwrap_or(WITHIN);
        return Ok((time.minus(within), time.plus(within)));
    }
    let (first, last) = archive.span().unwrap_or_else(|| (Timestamp::now(), Timestamp::now()));
    let (from, to) = (args.from.unwrap_or(first), args.to.unwrap_or(last));
    match (args.from, args.to) {
        (Some(from), Some(to)) if from > to => Err(Error::usage(format!("--from ({from}) lies after --to ({to})"))
            .hint(format!("lifeboat timeline {} --from '{to}' --to '{from}'", args.source))),
        // One end given, beyond the other one of the archive: the interval is refused as one moment.
        _ if from > to => Ok(if args.from.is_some() { (from, from) } else { (to, to) }),
        _ => Ok((from, to)),
    }
}

/// The interval, without an end where none was given.
fn as_far_as_asked(args: &TimelineArgs, (from, to): (Timestamp, Timestamp)) -> (Timestamp, Timestamp) {
    (args.from.unwrap_or(from.minus(Duration::MAX)), args.to.unwrap_or(to.plus(Duration::MAX)))
}

/// Timelines that have the time asked for, too, when none was chosen: what they have beyond the newest one counts as well.
fn elsewhere(args: &TimelineArgs, archive: &Archive, (from, to): (Timestamp, Timestamp)) -> Vec<Elsewhere> {
    if args.timeline.is_some() {
        return Vec::new();
    }
    let (from, to) = match args.around {
        Some(_) => (from, to),
        None => as_far_as_asked(args, (from, to)),
    };
    plan::elsewhere(&archive.path, &archive.catalog, from, to)
}

fn refuse_too_many_rows(source: &str, from: Timestamp, to: Timestamp, length: Duration) -> Result<()> {
    let rows = plan::rows_of(from, to, length);
    match rows > plan::MOST_ROWS {
        true => Err(Error::usage(format!("that would be {rows} rows, {} at most", plan::MOST_ROWS))
            .hint(format!("lifeboat timeline {source}   chooses an --interval by itself"))),
        false => Ok(()),
    }
}

async fn listen<L: Listener>(
    listener: L,
    args: &TimelineArgs,
    context: &Context,
    settings: &Settings,
    (scope, archive): (&Scope, &Archive),
    (from, to): (Timestamp, Timestamp),
) -> Result<(L, Account)> {
    let range = match args.around {
        Some(time) => archive.track.reading_around(time, from, to, archive.segment_size()),
        None => archive.track.reading(from, to, archive.segment_size()),
    };
    let progress = Arc::clone(&context.progress);
    run::read(scope, archive, range, &settings.encryption, listener, (&progress, &context.cancel)).await
}

/// The command for the moment before the chosen transaction.
fn restore_of(listing: &Listing, args: &TimelineArgs, context: &Context, archive: &Archive) -> Result<Option<RestoreCommand>> {
    if let Some(xid) = args.before
        && listing.chosen.is_none()
    {
        return Err(Error::failed(format!("no transaction {xid} committed in what was read of the log of {}", args.source))
            .hint(format!("lifeboat timeline {} --around TIME   lists those around another time", args.source)));
    }
    Ok(listing.chosen.map(|at| command(&listing.transactions[at].before, args, context, archive)))
}

/// What restores the moment before a transaction ended: a position means nothing without its timeline, which need not be the
/// newest one any more when the command is pasted. With the options that this command was given, where they matter.
fn command(before: &Before, args: &TimelineArgs, context: &Context, archive: &Archive) -> RestoreCommand {
    let (lsn, timeline) = (before.lsn, archive.path.timeline());
    let mut line = format!("lifeboat restore {} --to-lsn {lsn} --exclusive --timeline {timeline}", args.source);
    if !archive.is_newest_incarnation {
        line += &format!(" --incarnation {}", archive.identity.incarnation);
    }
    if let Some(repository) = &context.global.repository {
        line += &format!(" --repository {repository}");
    }
    if let Some(config) = &context.global.config {
        line += &format!(" --config '{}'", config.display());
    }
    line += " --into DIR";
    let then = before.leftover.as_ref().map(document::remedy);
    RestoreCommand { line, backup: archive.serves(lsn).map(ToString::to_string), to_lsn: lsn.to_string(), then }
}
