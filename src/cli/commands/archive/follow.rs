//! `lifeboat archive stream` of a SQLite database: its commits, as segments of a log.

use std::time::Duration;

use serde::Serialize;

use super::stream::Here;
use crate::base::Result;
use crate::cli::args::ArchiveStreamArgs;
use crate::cli::config::{Settings, SourceSettings, SqliteSettings};
use crate::cli::context::Context;
use crate::cli::exit::Outcome;
use crate::cli::scope;
use crate::engine::lease::Terms;
use crate::engine::sqlite::log::{self, Followed, Options};
use crate::repo::queue::Queue;
use crate::source::sqlite::Options as WatchOptions;

#[derive(Serialize)]
struct Document {
    source: String,
    #[serde(flatten)]
    followed: Followed,
}

/// Follows until a signal comes; then stores what was committed, and ends.
///
/// # Errors
/// When another process of this host follows the database, another host stores its log as well, or something that was committed
/// before the signal could not be stored.
pub(super) async fn run(
    args: &ArchiveStreamArgs,
    context: &Context,
    settings: &Settings,
    source: &SourceSettings,
    sqlite: &SqliteSettings,
) -> Result<Outcome> {
    let repositories = settings.repositories_of(source, context.global.repository.as_deref())?;
    let copies = settings.log_copies(source);
    if let Some(doubt) = &copies.doubt {
        context.progress.warn(doubt);
    }
    let queue = |name: &String| Queue::new(&settings.state_dir, &source.name, name);
    let options = Options {
        source: source.name.clone(),
        path: sqlite.path.clone(),
        state_dir: settings.state_dir.clone(),
        flush: args.flush.unwrap_or(sqlite.flush),
        needed: copies.repositories.clamp(1, repositories.len()),
        longest_pause: longest_pause(settings, source),
        repositories: repositories.iter().map(|chosen| (chosen.name.clone(), queue(&chosen.name))).collect(),
        workers: settings.backup.workers,
        pack_bytes: settings.backup.pack_size_bytes,
        lease: Some(Terms::new(settings.backup.lease_ttl)),
        watch: WatchOptions::default(),
    };
    let here = Here { context, settings, source };
    let writing = scope::writing(settings)?;
    let followed = log::run(&options, &here, &writing, context.progress.clone(), context.cancel.clone()).await?;
    let document = Document { source: source.name.to_string(), followed };
    context.result("archive_stream", 1, &document, || text(&document)).map(|()| Outcome::Done)
}

/// A quarter of what may be lost, where a policy says how much that is.
fn longest_pause(settings: &Settings, source: &SourceSettings) -> Duration {
    let policy = settings.policy_of(source).ok().flatten();
    policy.map_or(Duration::MAX, |policy| policy.objectives.rpo / 4)
}

fn text(document: &Document) -> String {
    let Document { source, followed } = document;
    match followed.complete_at {
        Some(complete_at) => format!(
            "every commit to {source} that was acknowledged by {} is stored: {} transactions in {} segments\n",
            complete_at.human(),
            followed.transactions,
            followed.segments
        ),
        None => format!("nothing of {source} was stored\n"),
    }
}
