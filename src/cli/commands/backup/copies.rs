//! A backup on its way to the other repositories of its source: queued first, so that nothing of it is forgotten, then
//! delivered at once to as many as must hold it.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::base::{BackupId, Error, ErrorKind, Result};
use crate::cli::background;
use crate::cli::commands::queue::{LONGEST_LOOK, deliver, lock};
use crate::cli::config::{RepositorySettings, Settings, SourceSettings};
use crate::cli::context::Context;
use crate::cli::scope;
use crate::repo::queue::{Item, Queue};

/// How long a delivery in the background is waited for that has the queue.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// How long a repository is given that answers and cannot take the backup yet: its own copy of the log's last segment may
/// arrive a moment after the first repository's.
const LOG_GRACE: Duration = Duration::from_secs(15);

/// Pause between two attempts within [`LOG_GRACE`].
const PAUSE: Duration = Duration::from_millis(200);

/// What became of the backup in another repository.
#[derive(Serialize)]
pub(super) struct Copied {
    /// Its name.
    pub repository: String,
    /// Whether it holds the backup; else the backup is queued for it.
    pub held: bool,
    /// Why it does not.
    pub error: Option<String>,
}

impl Copied {
    /// As a labelled line.
    pub fn line(&self) -> (&'static str, String) {
        match (self.held, &self.error) {
            (true, _) => ("copied to", self.repository.clone()),
            (false, None) => ("queued for", self.repository.clone()),
            (false, Some(error)) => ("queued for", format!("{}: {error}", self.repository)),
        }
    }
}

/// Copies the backup `id` to `others` until `needed` repositories hold it, with the one that has it already, and leaves the rest to the background.
///
/// # Errors
/// When it cannot be queued, or somebody asked to stop.
pub(super) async fn spread(
    context: &Context,
    settings: &Settings,
    source: &SourceSettings,
    others: impl Iterator<Item = &RepositorySettings>,
    id: &BackupId,
    needed: usize,
) -> Result<Vec<Copied>> {
    let item = Item::Backup { id: id.clone() };
    let queue_of = |chosen: &RepositorySettings| Queue::new(&settings.state_dir, &source.name, &chosen.name);
    let others: Vec<&RepositorySettings> = others.collect();
    for chosen in &others {
        queue_of(chosen).add(&item)?;
    }
    let (mut copies, mut held) = (Vec::new(), 1);
    for chosen in others {
        let mut copy = Copied { repository: chosen.name.clone(), held: false, error: None };
        if held < needed {
            match deliver_one(context, settings, source, chosen, &queue_of(chosen), &item).await {
                Ok(None) => copy.held = true,
                Ok(why) => copy.error = why,
                Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
                Err(error) => copy.error = Some(error.summary()),
            }
            held += usize::from(copy.held);
        }
        copies.push(copy);
    }
    background::deliver(context, settings, source);
    Ok(copies)
}

/// Delivers what `chosen` lacks; why it lacks `item` still, if it does.
async fn deliver_one(
    context: &Context,
    settings: &Settings,
    source: &SourceSettings,
    chosen: &RepositorySettings,
    queue: &Queue,
    item: &Item,
) -> Result<Option<String>> {
    let left = || -> Result<Option<String>> {
        let left = queue.items()?.into_iter().find(|queued| queued.item == *item);
        Ok(left.map(|queued| queued.last_error.unwrap_or_else(|| "it was not tried yet".to_owned())))
    };
    let state = scope::state_by_name(settings, chosen);
    // With the repository away, a delivery in the background goes on until it is back.
    let gives_up = |waited| waited > LONGEST_WAIT || (waited > LONGEST_LOOK && state.had_trouble());
    let Some(_held) = lock(context, queue, gives_up).await? else { return left() };
    let began = Instant::now();
    loop {
        let account = deliver(context, settings, source, chosen, queue).await?;
        if account.waiting == 0 || began.elapsed() >= LOG_GRACE {
            return left();
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = context.cancel.cancelled() => return Err(Error::interrupted()),
        }
    }
}

/// The error for a backup that stands in too few repositories.
pub(super) fn too_few(source: &str, id: &BackupId, held: usize, needed: usize) -> Error {
    Error::unreachable(format!("backup {id} is in {held} of the {needed} repositories that must hold it"))
        .hint(format!("it can be restored from there, and is delivered to the others: lifeboat queue {source} --deliver"))
}
