//! `lifeboat archive get SOURCE NAME DEST`.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};

use super::joined;
use crate::base::{Error, ErrorKind, Result};
use crate::cli::args::ArchiveGetArgs;
use crate::cli::config::{RepositorySettings, Settings};
use crate::cli::context::Context;
use crate::cli::exit::Outcome;
use crate::cli::scope::{self, Use};
use crate::engine::archive::get::{self, Got, Part, Pieces};
use crate::engine::archive::rehearsal::Rehearsal;
use crate::engine::list;

/// How long a repository is waited for alone, before the next is asked as well.
const HEAD_START: Duration = Duration::from_secs(2);

/// Fetches one file from the first repository that gives it. One that fails, or keeps silent, does not hide the file in
/// the next; "not there" is said only when every repository says so. Those that failed a moment ago are asked last.
///
/// A host that only restores need not describe the source; then some repository must know it, because a misspelt name
/// must not read as the end of the log. A segment that none has whole is the longest part that was streamed of it.
///
/// # Errors
/// Whenever it is not certain that the file is not archived.
pub async fn run(args: &ArchiveGetArgs, context: &Context) -> Result<Outcome> {
    let settings = context.settings()?;
    let wanted = context.global.repository.as_deref();
    let (repositories, mut unknown) = match settings.source(&args.source) {
        Ok(source) => (settings.repositories_of(source, wanted)?, None),
        Err(unknown) if wanted.is_none() => (settings.repositories.values().collect(), Some(unknown)),
        Err(unknown) => (vec![settings.repository(wanted)?], Some(unknown)),
    };
    let (undeclared, several) = (unknown.is_some(), repositories.len() > 1);
    let state = |chosen: &RepositorySettings| scope::state_by_name(&settings, chosen);
    let mut waiting = VecDeque::from(repositories);
    if several {
        waiting.make_contiguous().sort_by_key(|chosen| state(chosen).had_trouble());
    }
    let settings = &settings;
    let ask = |chosen| async move { (chosen, get_from(args, context, settings, chosen, undeclared).await) };
    let (mut asking, mut errors) = (FuturesUnordered::new(), Vec::<(&RepositorySettings, Error)>::new());
    let (mut silent, mut lacking, mut longest) = (Vec::<&RepositorySettings>::new(), None, None::<Part>);
    loop {
        if asking.is_empty() {
            let Some(next) = waiting.pop_front() else { break };
            silent.push(next);
            asking.push(ask(next));
        }
        let answer = tokio::select! {
            answer = asking.next() => answer,
            () = tokio::time::sleep(HEAD_START), if !waiting.is_empty() => {
                silent.extend(waiting.front());
                asking.extend(waiting.pop_front().map(&ask));
                continue;
            }
        };
        let Some((chosen, outcome)) = answer else { continue };
        silent.retain(|other| other.name != chosen.name);
        match outcome {
            Ok(Some(Got::Whole(raw))) => {
                get::hand_over(&raw, &args.dest)?;
                if several {
                    // Whoever was asked before and did not answer is asked last from now on.
                    errors.iter().map(|(failed, _)| *failed).chain(silent).for_each(|failed| state(failed).note_trouble(true));
                    state(chosen).note_trouble(false);
                }
                for (failed, error) in errors {
                    context.progress.warn(&format!("repository {} was passed over: {}", failed.name, error.summary()));
                }
                return Ok(Outcome::Done);
            }
            // The next repository may have more of it.
            Ok(Some(Got::Part(part))) => {
                unknown = None;
                lacking = Some(chosen);
                longest = longest.into_iter().chain([part]).max_by_key(|part| part.bytes);
            }
            Ok(Some(Got::NotThere)) => {
                unknown = None;
                lacking = Some(chosen);
            }
            Ok(None) => {}
            // The next repository may hold the wrong server's content alone, and would hand it over.
            Err(error) if error.kind() == ErrorKind::Contradicted => return Err(error),
            Err(error) => errors.push((chosen, error)),
        }
    }
    let errors = errors.into_iter().map(|(chosen, error)| (chosen.name.clone(), error)).collect();
    conclude(joined(errors).or(unknown), lacking, longest, args)
}

/// What comes of it when nobody has the whole file: `lacking` does not, and `error` says why others may.
fn conclude(
    error: Option<Error>,
    lacking: Option<&RepositorySettings>,
    longest: Option<Part>,
    args: &ArchiveGetArgs,
) -> Result<Outcome> {
    match (error, lacking) {
        (Some(error), None) => Err(error),
        // Whoever wrote it may have reached the other one alone: that it is nowhere is not certain.
        (Some(error), Some(RepositorySettings { name, .. })) => {
            let what = if longest.is_some() { "has a part of it" } else { "does not have it" };
            Err(error.hint(format!(
                "repository {name} {what}; where the other is lost for good, add --repository {name} to restore_command"
            )))
        }
        (None, _) => match longest {
            // PostgreSQL would replace its own copy, which a standby may have received farther: it reads that one now.
            Some(part) if holds(args, &part)? => Ok(Outcome::NotInArchive),
            Some(part) => get::hand_over(&part.raw, &args.dest).map(|()| Outcome::Done),
            None => Ok(Outcome::NotInArchive),
        },
    }
}

/// Whether PostgreSQL, which asks for a file beside its own copy and under another name, has as much of it already.
fn holds(args: &ArchiveGetArgs, part: &Part) -> Result<bool> {
    let own = args.dest.with_file_name(&args.name);
    if own == args.dest { Ok(false) } else { part.is_held_by(&own) }
}

/// How much of what was streamed of the segment `name` counts, where `without` leaves pieces out.
fn pieces(without: &[String], name: &str) -> Result<Pieces> {
    let mut own = without.iter().filter_map(|left_out| left_out.strip_prefix(name));
    let Some(rest) = own.next() else { return Ok(Pieces::All) };
    match rest.strip_prefix(':').map(str::parse) {
        None if rest.is_empty() => Ok(Pieces::None),
        Some(Ok(bytes)) => Ok(Pieces::UpTo(bytes)),
        _ => Err(Error::usage(format!("--without-pieces-of {name}{rest} is not understood: it is a segment, or SEGMENT:BYTES"))),
    }
}

/// `None` when the source is `undeclared` and the repository does not know it either.
async fn get_from(
    args: &ArchiveGetArgs,
    context: &Context,
    settings: &Settings,
    chosen: &RepositorySettings,
    undeclared: bool,
) -> Result<Option<Got>> {
    // Patient from the first call on: PostgreSQL gives up recovery at the first error.
    let layers = scope::layers(context, chosen, Use::ArchiveGet);
    let scope = scope::open(context, settings, chosen, &args.source, &layers).await?;
    if undeclared && !list::sources(&scope.repository).await?.contains(&args.source) {
        return Ok(None);
    }
    let rehearsal = Rehearsal::of_environment()?;
    let pieces = pieces(&args.without_pieces_of, &args.name)?;
    let (incarnation, rehearsal) = (args.incarnation.clone(), rehearsal.as_ref());
    get::run(&scope, &settings.encryption, incarnation, &args.name, pieces, rehearsal).await.map(Some)
}
