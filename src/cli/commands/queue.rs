//! `lifeboat queue [SOURCE]`: what some repositories still lack, and its delivery.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future;
use serde::Serialize;

use crate::base::{Error, ErrorKind, Result, Timestamp};
use crate::cli::args::QueueArgs;
use crate::cli::config::{RepositorySettings, Settings, SourceSettings};
use crate::cli::context::Context;
use crate::cli::exit::Outcome;
use crate::cli::scope::{self, Use};
use crate::engine::deliver::{Account, Delivery};
use crate::engine::lease::Terms;
use crate::repo::queue::{Item, Queue, Queued};

/// Pauses between two deliveries in the background double from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How long a process waits before it tries to lock a queue again …
const LOCK_PAUSE: Duration = Duration::from_millis(50);
/// … and how long somebody may have it who only looks.
pub(super) const LONGEST_LOOK: Duration = Duration::from_secs(2);

/// The document `queue`, version 1.
#[derive(Serialize)]
struct Document {
    queues: Vec<Listed>,
}

#[derive(Serialize)]
struct Listed {
    source: String,
    repository: String,
    /// Items that the repository got just now.
    delivered: usize,
    /// Why nothing could be delivered.
    error: Option<String>,
    items: Vec<Queued>,
}

/// Shows what is queued, and delivers it when asked to.
///
/// # Errors
/// When a queue cannot be read; what cannot be delivered is in the result. None in the background: nobody reads them, and
/// each item keeps its own.
pub async fn run(args: &QueueArgs, context: &Context) -> Result<Outcome> {
    let outcome = show(args, context).await;
    if args.background { Ok(Outcome::Done) } else { outcome }
}

async fn show(args: &QueueArgs, context: &Context) -> Result<Outcome> {
    let settings = context.settings()?;
    let sources = match &args.source {
        Some(name) => vec![settings.source(name)?],
        None => settings.sources.values().collect(),
    };
    let mut document = Document { queues: Vec::new() };
    for source in sources {
        let repositories = settings.repositories_of(source, context.global.repository.as_deref())?;
        let handled = repositories.into_iter().map(|chosen| handle(args, context, &settings, source, chosen));
        // All to their end, whatever becomes of one.
        for listed in future::join_all(handled).await {
            document.queues.push(listed?);
        }
    }
    if args.background {
        return Ok(Outcome::Done);
    }
    context.result("queue", 1, &document, || text(&document))?;
    let items = || document.queues.iter().flat_map(|queue| &queue.items);
    match args.deliver {
        true if items().any(|queued| queued.given_up) => Ok(Outcome::Faults),
        true if items().next().is_some() => Err(Error::unreachable("something still waits to be delivered: it is listed above")
            .hint("run the same command again, or let the next push or backup go on with it")),
        _ => Ok(Outcome::Done),
    }
}

/// What one repository lacks, after the delivery that was asked for.
async fn handle(
    args: &QueueArgs,
    context: &Context,
    settings: &Settings,
    source: &SourceSettings,
    chosen: &RepositorySettings,
) -> Result<Listed> {
    let queue = Queue::new(&settings.state_dir, &source.name, &chosen.name);
    if args.retry {
        queue.take_up_again()?;
    }
    let (mut delivered, mut error) = (0, None);
    if args.background {
        go_on(context, settings, source, chosen, &queue).await?;
    } else if args.deliver && !queue.is_empty()? {
        let outcome = match lock(context, &queue, |waited| waited > LONGEST_LOOK).await? {
            Some(_held) => deliver(context, settings, source, chosen, &queue).await,
            None => Err(Error::busy("another process delivers it")),
        };
        match outcome {
            Ok(account) => delivered = account.delivered,
            Err(failed) if failed.kind() == ErrorKind::Interrupted => return Err(failed),
            Err(failed) => error = Some(failed.summary()),
        }
    }
    let (source, repository) = (source.name.to_string(), chosen.name.clone());
    Ok(Listed { source, repository, delivered, error, items: queue.items()? })
}

/// The queue's lock, once whoever has it is done; none when `gives_up` says so of the time that was waited.
///
/// # Errors
/// When the lock cannot be made, or somebody asked to stop.
pub(super) async fn lock(context: &Context, queue: &Queue, gives_up: impl Fn(Duration) -> bool) -> Result<Option<File>> {
    let began = tokio::time::Instant::now();
    loop {
        match queue.lock()? {
            Some(held) => return Ok(Some(held)),
            None if gives_up(began.elapsed()) => return Ok(None),
            None => tokio::select! {
                () = tokio::time::sleep(LOCK_PAUSE) => {}
                () = context.cancel.cancelled() => return Err(Error::interrupted()),
            },
        }
    }
}

/// Delivers until nothing waits, unless another process does.
async fn go_on(
    context: &Context,
    settings: &Settings,
    source: &SourceSettings,
    chosen: &RepositorySettings,
    queue: &Queue,
) -> Result<()> {
    let waits = || queue.waiting().map(|waiting| !waiting.is_empty());
    // Looked at again once the lock is free: whoever queued something in between saw it held, and started nobody.
    while waits()? {
        let Some(held) = queue.lock()? else { return Ok(()) };
        let mut pause = FIRST_PAUSE;
        while waits()? {
            context.cancel.check()?;
            match deliver(context, settings, source, chosen, queue).await {
                Ok(account) if account.waiting == 0 => pause = FIRST_PAUSE,
                _ => {
                    sleep(context, queue, pause.mul_f64(rand::random_range(0.75..1.25))).await?;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
        drop(held);
    }
    Ok(())
}

/// Waits, but no longer than anything is queued.
async fn sleep(context: &Context, queue: &Queue, pause: Duration) -> Result<()> {
    let end = tokio::time::Instant::now() + pause;
    while tokio::time::Instant::now() < end && !queue.is_empty()? {
        tokio::select! {
            () = tokio::time::sleep(pause.min(Duration::from_secs(1))) => {}
            () = context.cancel.cancelled() => return Err(Error::interrupted()),
        }
    }
    Ok(())
}

/// One delivery of what waits for `chosen`. The caller holds the queue's lock.
///
/// # Errors
/// When `chosen` cannot be opened, or the queue not be read; what becomes of an item is in the account.
pub(super) async fn deliver(
    context: &Context,
    settings: &Settings,
    source: &SourceSettings,
    chosen: &RepositorySettings,
    queue: &Queue,
) -> Result<Account> {
    let open = async |chosen: &RepositorySettings| {
        let layers = scope::layers(context, chosen, Use::Delivery);
        scope::open(context, settings, chosen, &source.name, &layers).await
    };
    let state = scope::state_by_name(settings, chosen);
    let to = open(chosen).await;
    state.note_trouble(to.is_err());
    let (to, writing) = (to?, scope::writing(settings)?);
    let others: Vec<_> = source.repositories.iter().filter(|name| **name != chosen.name).collect();
    let mut holders = Vec::new();
    for name in &others {
        match open(settings.repository(Some(name))?).await {
            Ok(holder) => holders.push(holder),
            Err(error) => context.progress.warn(&format!("repository {name} is not asked: {}", error.summary())),
        }
    }
    let delivery = Delivery {
        to: &to,
        holders: &holders,
        all_holders: holders.len() == others.len(),
        queue,
        writing: &writing,
        lease: Terms::new(settings.backup.lease_ttl),
        progress: Arc::clone(&context.progress),
        cancel: context.cancel.clone(),
    };
    delivery.run().await
}

fn text(document: &Document) -> String {
    let mut text = String::new();
    for Listed { source, repository, delivered, error, items } in &document.queues {
        if *delivered > 0 {
            text += &format!("{source}: delivered {delivered} to {repository}\n");
        }
        let (given_up, waiting): (Vec<&Queued>, Vec<&Queued>) = items.iter().partition(|queued| queued.given_up);
        if let Some(oldest) = waiting.first() {
            text += &format!("{source}: repository {repository} lacks {}\n", counted(&waiting));
            text += &format!("  since       {}\n", oldest.since.human_seconds());
            let last_error = error.clone().or_else(|| waiting.iter().rev().find_map(|queued| queued.last_error.clone()));
            text += &last_error.map(|error| format!("  last error  {error}\n")).unwrap_or_default();
        }
        if !given_up.is_empty() {
            text += &format!("{source}: given up for repository {repository}: {}\n", counted(&given_up));
            text += &given_up.iter().map(|queued| given_up_text(queued)).collect::<String>();
        }
    }
    if text.is_empty() { "nothing is queued: every repository has what it should\n".to_owned() } else { text }
}

fn given_up_text(queued: &Queued) -> String {
    let since: Timestamp = queued.since;
    let why = queued.last_error.as_deref().unwrap_or("no reason was noted");
    format!("  {}, queued {}: {why}\n", queued.item.label(), since.human_seconds())
}

/// `3 files of the log and 1 backup`.
fn counted(items: &[&Queued]) -> String {
    let files = items.iter().filter(|queued| matches!(queued.item, Item::Log { .. })).count();
    let plural = |count: usize, one: &str, many: &str| format!("{count} {}", if count == 1 { one } else { many });
    let parts = [(files, plural(files, "file of the log", "files of the log"))];
    let backups = items.len() - files;
    let parts = parts.into_iter().chain([(backups, plural(backups, "backup", "backups"))]);
    parts.filter(|(count, _)| *count > 0).map(|(_, text)| text).collect::<Vec<_>>().join(" and ")
}
