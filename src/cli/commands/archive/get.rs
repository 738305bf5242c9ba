//! `lifeboat archive get SOURCE NAME DEST`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use rustix::process::{Pid, getppid};

use super::prefetch::Ahead;
use super::{joined, prefetch};
use crate::base::{Error, ErrorKind, Result, killpoint};
use crate::cli::args::ArchiveGetArgs;
use crate::cli::config::{RepositorySettings, Settings};
use crate::cli::context::Context;
use crate::cli::exit::Outcome;
use crate::cli::runtime::brief;
use crate::cli::scope::{self, Use};
use crate::engine::Scope;
use crate::engine::archive::contents::Sealed;
use crate::engine::archive::get::{self, Got, Look, Part, Pieces};
use crate::engine::archive::rehearsal::Rehearsal;
use crate::engine::archive::spool;
use crate::engine::list;

/// How long a repository is waited for alone, before the next is asked as well.
const HEAD_START: Duration = Duration::from_secs(2);

/// How long a standby's command waits before it asks again.
const WAIT: Duration = Duration::from_secs(2);

/// Fetches one file from the first repository that gives it, unless it was fetched ahead.
///
/// With `--wait` a repository that does not answer is waited for, until PostgreSQL ends this process, or is gone itself.
///
/// # Errors
/// Whenever it is not certain that the file is not archived.
pub fn run(args: &ArchiveGetArgs, context: &Context) -> Result<Outcome> {
    killpoint::reach("get.start");
    let settings = context.settings()?;
    if args.fetch_ahead {
        return prefetch::run(args, context, &settings).map(|()| Outcome::Done);
    }
    let ahead = Ahead::new(args, context, &settings);
    let handed_over = ahead.as_ref().and_then(|ahead| ahead.ask(args, context));
    if handed_over == Some(true) {
        return Ok(Outcome::Done);
    }
    let asking = Asking::new(args, context, &settings)?;
    let (outcome, whole) = brief(&context.cancel, patiently(&asking))?;
    if let (Some(ahead), None, true) = (ahead, handed_over, whole) {
        ahead.start(args, context, &settings);
    }
    Ok(outcome)
}

/// Whoever wants the file: a process of PostgreSQL's, or a shell that it started.
struct Asker {
    parent: Option<Pid>,
    is_recovery: bool,
}

impl Asker {
    fn now() -> Self {
        Self { parent: getppid(), is_recovery: spool::is_recovering() }
    }

    /// Whether nobody wants it any more: a server that is killed leaves behind what it has started.
    fn is_gone(&self) -> bool {
        getppid() != self.parent || self.is_recovery && !spool::is_recovering()
    }
}

/// Fetches the file, with `--wait` as soon as a repository answers.
async fn patiently(asking: &Asking<'_>) -> Result<(Outcome, bool)> {
    let (args, asker, mut was_told) = (asking.args, Asker::now(), false);
    loop {
        match fetch(asking).await {
            // All are asked again, also those that did not have it: a standby goes on with what arrives meanwhile.
            Err(error) if args.wait && error.kind() == ErrorKind::Unreachable => {
                if !was_told {
                    asking.context.progress.warn(&format!("{} is waited for: {}", args.name, error.summary()));
                    was_told = true;
                }
                tokio::time::sleep(WAIT).await;
                if asker.is_gone() {
                    return Err(Error::interrupted());
                }
            }
            outcome => return outcome,
        }
    }
}

/// Fetches the file, and hands it over; with whether it is whole.
async fn fetch(asking: &Asking<'_>) -> Result<(Outcome, bool)> {
    let args = asking.args;
    let pieces = pieces(&args.without_pieces_of, &args.name)?;
    match asking.ask(|chosen| asking.get_from(chosen, &args.name, pieces)).await? {
        Asked::Whole(raw) => get::hand_over(&raw, &args.dest).map(|()| (Outcome::Done, true)),
        Asked::Else { error, lacking, longest } => conclude(error, lacking, longest, args).map(|outcome| (outcome, false)),
    }
}

/// The repositories that are asked for files, and those of them that are open.
pub(super) struct Asking<'a> {
    args: &'a ArchiveGetArgs,
    context: &'a Context,
    settings: &'a Settings,
    repositories: Vec<&'a RepositorySettings>,
    /// Whether the configuration does not describe the source.
    undeclared: bool,
    open: Mutex<BTreeMap<String, Scope>>,
}

/// What came of asking all.
enum Asked<'a, W> {
    Whole(W),
    Else { error: Option<Error>, lacking: Option<&'a RepositorySettings>, longest: Option<Part> },
}

impl<'a> Asking<'a> {
    /// A host that only restores need not describe the source; then some repository must know it, because a misspelt name
    /// must not read as the end of the log.
    ///
    /// # Errors
    /// Usage errors, when no repository can be asked.
    pub(super) fn new(args: &'a ArchiveGetArgs, context: &'a Context, settings: &'a Settings) -> Result<Self> {
        let wanted = context.global.repository.as_deref();
        let (repositories, undeclared) = match settings.source(&args.source) {
            Ok(source) => {
                source.postgres("archive get")?;
                (settings.repositories_of(source, wanted)?, false)
            }
            Err(_) if wanted.is_none() => (settings.repositories.values().collect(), true),
            Err(_) => (vec![settings.repository(wanted)?], true),
        };
        Ok(Self { args, context, settings, repositories, undeclared, open: Mutex::default() })
    }

    /// The segment `name`, not yet opened, when it is archived whole.
    ///
    /// # Errors
    /// Whenever it is not certain that it is not.
    pub(super) async fn sealed(&self, name: &str) -> Result<Option<Sealed>> {
        match self.ask(|chosen| self.sealed_from(chosen, name)).await? {
            Asked::Whole(sealed) => Ok(Some(sealed)),
            Asked::Else { error: Some(error), .. } => Err(error),
            Asked::Else { error: None, .. } => Ok(None),
        }
    }

    /// A file from the first repository that gives it, as `get_from` asks for it. One that fails, or keeps silent, does not hide the file in
    /// the next; "not there" is said only when every repository says so. Those that failed a moment ago are asked last.
    /// A segment that none has whole is the longest part that any gives.
    async fn ask<W, F>(&self, get_from: impl Fn(&'a RepositorySettings) -> F) -> Result<Asked<'a, W>>
    where
        F: Future<Output = Result<Option<Got<W>>>>,
    {
        let (settings, context) = (self.settings, self.context);
        let mut unknown = if self.undeclared { settings.source(&self.args.source).err() } else { None };
        let several = self.repositories.len() > 1;
        let state = |chosen: &RepositorySettings| scope::state_by_name(settings, chosen);
        let mut waiting = VecDeque::from(self.repositories.clone());
        if several {
            waiting.make_contiguous().sort_by_key(|chosen| state(chosen).had_trouble());
        }
        let ask = |chosen: &'a RepositorySettings| get_from(chosen).map(move |got| (chosen, got));
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
                    if several {
                        // Whoever was asked before and did not answer is asked last from now on.
                        errors
                            .iter()
                            .map(|(failed, _)| *failed)
                            .chain(silent)
                            .for_each(|failed| state(failed).note_trouble(true));
                        state(chosen).note_trouble(false);
                    }
                    for (failed, error) in errors {
                        context.progress.warn(&format!("repository {} was passed over: {}", failed.name, error.summary()));
                    }
                    return Ok(Asked::Whole(raw));
                }
                // The next repository may have more of it.
                Ok(Some(Got::Part(part))) => {
                    (unknown, lacking) = (None, Some(chosen));
                    longest = longest.into_iter().chain([part]).max_by_key(|part| part.bytes);
                }
                Ok(Some(Got::NotThere)) => (unknown, lacking) = (None, Some(chosen)),
                Ok(None) => {}
                // The next repository may hold the wrong server's content alone, and would hand it over.
                Err(error) if error.kind() == ErrorKind::Contradicted => return Err(error),
                Err(error) => errors.push((chosen, error)),
            }
        }
        let errors = errors.into_iter().map(|(chosen, error)| (chosen.name.clone(), error)).collect();
        Ok(Asked::Else { error: joined(errors).or(unknown), lacking, longest })
    }

    /// `None` when the source is undeclared and the repository does not know it either.
    async fn known_to(&self, chosen: &'a RepositorySettings) -> Result<Option<Scope>> {
        let scope = self.scope(chosen).await?;
        let is_unknown = self.undeclared && !list::sources(&scope.repository).await?.contains(&self.args.source);
        Ok((!is_unknown).then_some(scope))
    }

    async fn sealed_from(&self, chosen: &'a RepositorySettings, name: &str) -> Result<Option<Got<Sealed>>> {
        let Some(scope) = self.known_to(chosen).await? else { return Ok(None) };
        get::sealed(&scope, &self.settings.encryption, self.args.incarnation.clone(), name).await.map(Some)
    }

    /// With as much of what was streamed as `pieces` lets count.
    async fn get_from(&self, chosen: &'a RepositorySettings, name: &str, pieces: Pieces) -> Result<Option<Got>> {
        let Some(scope) = self.known_to(chosen).await? else { return Ok(None) };
        let (incarnation, rehearsal) = (self.args.incarnation.clone(), Rehearsal::of_environment()?);
        let look = match &rehearsal {
            Some(rehearsal) => Look::Rehearsal(rehearsal),
            None => Look::Here,
        };
        get::run(&scope, &self.settings.encryption, incarnation, name, pieces, look).await.map(Some)
    }

    async fn scope(&self, chosen: &RepositorySettings) -> Result<Scope> {
        let open = || self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(scope) = open().get(&chosen.name) {
            return Ok(scope.clone());
        }
        // Patient from the first call on: PostgreSQL gives up recovery at the first error.
        let layers = scope::layers(self.context, chosen, if self.args.wait { Use::ArchiveFollow } else { Use::ArchiveGet });
        let scope = scope::open(self.context, self.settings, chosen, &self.args.source, &layers).await?;
        open().insert(chosen.name.clone(), scope.clone());
        Ok(scope)
    }
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
