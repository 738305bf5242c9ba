//! `lifeboat archive push SOURCE FILE`.

use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use serde::Serialize;
use tokio::time::Instant;

use super::joined;
use crate::base::{Error, ErrorKind, Result};
use crate::cli::args::ArchivePushArgs;
use crate::cli::background;
use crate::cli::config::{RepositorySettings, Settings, SourceSettings};
use crate::cli::context::Context;
use crate::cli::exit::Outcome;
use crate::cli::scope::{self, Use};
use crate::engine::archive::push::{self, Pushed};
use crate::repo::queue::{Item, Queue};

/// Once enough repositories have the file, the others have as long again, and at least this.
const GRACE: Duration = Duration::from_millis(500);

#[derive(Serialize)]
struct Document {
    source: String,
    archived: Vec<Archived>,
    /// Repositories that get it in the background.
    queued: Vec<String>,
}

#[derive(Serialize)]
struct Archived {
    repository: String,
    key: String,
    already_there: bool,
}

/// A repository and what became of the file there.
type Attempt<'a> = (&'a RepositorySettings, Result<Pushed>);

/// Archives one file in as many repositories of the source as must hold it, and leaves the others to the background.
/// Silent when all went well: PostgreSQL's log is no place for good news.
///
/// # Errors
/// When the file is not durable in enough of them. The others are tried all the same.
pub async fn run(args: &ArchivePushArgs, context: &Context) -> Result<Outcome> {
    let settings = context.settings()?;
    let source = settings.source(&args.source)?;
    let repositories = settings.repositories_of(source, context.global.repository.as_deref())?;
    let copies = settings.log_copies(source);
    if let Some(doubt) = &copies.doubt {
        context.progress.warn(doubt);
    }
    let needed = copies.repositories.min(repositories.len());
    let (archived, mut errors) = push_to_enough(args, context, &settings, &repositories, needed).await;
    // Two servers that write one log must not go on, however many repositories have seen only one of them.
    if let Some(at) = errors.iter().position(|(_, error)| error.kind() == ErrorKind::Contradicted) {
        let (name, error) = errors.swap_remove(at);
        return Err(error.context(format!("repository {name}")));
    }
    for (chosen, pushed) in &archived {
        for warning in &pushed.warnings {
            context.progress.warn(&format!("repository {}: {warning}", chosen.name));
        }
    }
    let Some((_, pushed)) = archived.first().filter(|_| archived.len() >= needed) else {
        return Err(joined(errors).unwrap_or_else(|| Error::usage(format!("{} names no repository", source.name))));
    };
    for (name, error) in &errors {
        context.progress.warn(&format!("repository {name} gets {} later: {}", args.file.display(), error.summary()));
    }
    let lacking = repositories.iter().filter(|chosen| !archived.iter().any(|(has, _)| has.name == chosen.name));
    let mut queued = Vec::new();
    for chosen in lacking {
        queue(&settings, source, chosen, pushed)?;
        queued.push(chosen.name.clone());
    }
    background::deliver(context, &settings, source);
    let archived = archived.iter().map(|(chosen, pushed)| {
        let Pushed { key, already_there, .. } = pushed;
        Archived { repository: chosen.name.clone(), key: key.clone(), already_there: *already_there }
    });
    let document = Document { source: source.name.to_string(), archived: archived.collect(), queued };
    context.result("archive_push", 1, &document, String::new).map(|()| Outcome::Done)
}

/// Pushes to all at the same time, and waits until `needed` have the file and the others had their chance. Those that
/// failed a moment ago are asked only when the others are not enough.
async fn push_to_enough<'a>(
    args: &ArchivePushArgs,
    context: &Context,
    settings: &Settings,
    repositories: &[&'a RepositorySettings],
    needed: usize,
) -> (Vec<(&'a RepositorySettings, Pushed)>, Vec<(String, Error)>) {
    let state = |chosen: &RepositorySettings| scope::state_by_name(settings, chosen);
    let spare = repositories.len() > needed;
    let (troubled, well): (Vec<_>, Vec<_>) =
        repositories.iter().copied().partition(|chosen| spare && state(chosen).had_trouble());
    let attempt = |chosen: &'a RepositorySettings| async move {
        let outcome: Attempt<'a> = (chosen, push_to(args, context, settings, chosen).await);
        outcome
    };
    let mut pushing: FuturesUnordered<_> = well.into_iter().map(attempt).collect();
    let (mut troubled, mut archived, mut errors) = (Some(troubled), Vec::new(), Vec::new());
    let (began, mut deadline) = (Instant::now(), None);
    loop {
        let waited = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            next = pushing.next() => match next {
                Some((chosen, Ok(pushed))) => {
                    if spare {
                        state(chosen).note_trouble(false);
                    }
                    archived.push((chosen, pushed));
                    if archived.len() >= needed && deadline.is_none() {
                        deadline = Some(Instant::now() + began.elapsed().max(GRACE));
                    }
                }
                Some((chosen, Err(error))) => {
                    if spare {
                        state(chosen).note_trouble(error.kind() != ErrorKind::Contradicted);
                    }
                    errors.push((chosen.name.clone(), error));
                }
                None if archived.len() >= needed => break,
                None => match troubled.take() {
                    Some(more) => pushing.extend(more.into_iter().map(attempt)),
                    None => break,
                },
            },
            () = waited => break,
        }
    }
    (archived, errors)
}

async fn push_to(args: &ArchivePushArgs, context: &Context, settings: &Settings, chosen: &RepositorySettings) -> Result<Pushed> {
    let layers = scope::layers(context, chosen, Use::ArchivePush);
    let scope = scope::open(context, settings, chosen, &args.source, &layers).await?;
    push::run(&scope, &scope::writing(settings)?, &args.file).await
}

/// Leaves the file to be delivered to `chosen` later. PostgreSQL may forget it then: the queue is durable first.
fn queue(settings: &Settings, source: &SourceSettings, chosen: &RepositorySettings, pushed: &Pushed) -> Result<()> {
    let Pushed { incarnation, file, key, raw_sha256, .. } = pushed.clone();
    let queue = Queue::new(&settings.state_dir, &source.name, &chosen.name);
    let queued = queue.add(&Item::Log { incarnation, file, key, raw_sha256 });
    queued.map_err(|error| error.context(format!("{} cannot be queued for repository {}", pushed.file, chosen.name)))
}
