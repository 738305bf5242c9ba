//! `lifeboat archive stream SOURCE`.

use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;

use crate::base::{Cancel, Error, Lsn, Result};
use crate::cli::args::ArchiveStreamArgs;
use crate::cli::background;
use crate::cli::config::{Settings, SourceKind, SourceSettings};
use crate::cli::context::Context;
use crate::cli::exit::Outcome;
use crate::cli::scope::{self, Use};
use crate::engine::Scope;
use crate::engine::archive::stream::{self, Options, Streamed, Surroundings};
use crate::repo::queue::Queue;

#[derive(Serialize)]
struct Document {
    source: String,
    slot: String,
    #[serde(flatten)]
    streamed: Streamed,
}

/// Streams until a signal comes; then stores what was received, and ends.
///
/// # Errors
/// When the server refuses replication, its slot is lost or another's, or it is not the server of this source; when two
/// servers write the same log.
pub async fn run(args: &ArchiveStreamArgs, context: &Context) -> Result<Outcome> {
    let settings = context.settings()?;
    let source = settings.source(&args.source)?;
    if let SourceKind::Sqlite(sqlite) = &source.kind {
        return super::follow::run(args, context, &settings, source, sqlite).await;
    }
    let postgres = source.postgres("archive stream")?;
    let repositories = settings.repositories_of(source, context.global.repository.as_deref())?;
    let copies = settings.log_copies(source);
    if let Some(doubt) = &copies.doubt {
        context.progress.warn(doubt);
    }
    let queue = |name: &String| Queue::new(&settings.state_dir, &source.name, name);
    let options = Options {
        conninfo: postgres.conninfo.clone(),
        slot: postgres.slot.clone(),
        flush: args.flush.unwrap_or(postgres.flush),
        needed: copies.repositories.clamp(1, repositories.len()),
        longest_pause: longest_pause(&settings, source),
        repositories: repositories.iter().map(|chosen| (chosen.name.clone(), queue(&chosen.name))).collect(),
    };
    let here = Here { context, settings: &settings, source };
    let writing = scope::writing(&settings)?;
    let streamed = stream::run(&options, &here, &writing, context.progress.as_ref(), &context.cancel).await?;
    let document = Document { source: source.name.to_string(), slot: options.slot, streamed };
    context.result("archive_stream", 1, &document, || text(&document)).map(|()| Outcome::Done)
}

/// A quarter of what may be lost, where a policy says how much that is.
fn longest_pause(settings: &Settings, source: &SourceSettings) -> Duration {
    let policy = settings.policy_of(source).ok().flatten();
    policy.map_or(Duration::MAX, |policy| policy.objectives.rpo / 4)
}

fn text(document: &Document) -> String {
    let Document { source, slot, streamed } = document;
    match streamed.timeline {
        Some(timeline) if streamed.safe_lsn > Lsn(0) => {
            format!("the log of {source} is stored up to {} on timeline {timeline}\n", streamed.safe_lsn)
        }
        _ => format!("nothing of {source} was stored; slot {slot} keeps its log\n"),
    }
}

/// This process's repositories.
pub(super) struct Here<'a> {
    pub context: &'a Context,
    pub settings: &'a Settings,
    pub source: &'a SourceSettings,
}

#[async_trait]
impl Surroundings for Here<'_> {
    async fn open(&self, repository: &str) -> Result<Scope> {
        let chosen = self.settings.repositories.get(repository);
        let chosen = chosen.ok_or_else(|| Error::usage(format!("there is no [repository.{repository}]")))?;
        let mut layers = scope::layers(self.context, chosen, Use::ArchivePush);
        // Whoever asks to stop wants what was received to be stored first.
        layers.cancel = Cancel::new();
        scope::open(self.context, self.settings, chosen, &self.source.name, &layers).await
    }

    async fn open_for_backup(&self, repository: &str) -> Result<Scope> {
        let chosen = self.settings.repositories.get(repository);
        let chosen = chosen.ok_or_else(|| Error::usage(format!("there is no [repository.{repository}]")))?;
        let layers = scope::layers(self.context, chosen, Use::Long { limit_rate_bytes: None });
        scope::open(self.context, self.settings, chosen, &self.source.name, &layers).await
    }

    fn deliver(&self) {
        background::deliver(self.context, self.settings, self.source);
    }
}
