//! One thing stored in as many repositories as must hold it, and in the others if they are quick.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::destination::Destination;
use super::growing::Snapshot;
use super::run::World;
use super::trust::{Examined, Extent};
use crate::base::{Error, ErrorKind, Result};
use crate::engine::archive::push::Pushed;
use crate::engine::enough;
use crate::repo::queue::Item;
use crate::source::postgres::history::History;
use crate::source::postgres::replication::Failure;

/// A repository that failed is left alone so long while the others are enough.
const REST: Duration = Duration::from_secs(30);

/// What is stored.
#[derive(Clone)]
pub(super) enum Job {
    /// What was received of a segment.
    Pieces(Snapshot),
    /// A whole segment.
    Whole(Snapshot),
    /// A timeline's history, and the file that tells it.
    History(History, Bytes),
}

/// What came of it.
#[derive(Default)]
pub(super) struct Outcome {
    /// The repositories in which it is.
    pub stored: Vec<String>,
    /// What else should be known.
    pub warnings: Vec<String>,
    /// What the others have against it.
    pub errors: Vec<(String, Error)>,
    /// Of a whole segment only the beginning was stored: the rest is no log, and the server is gone.
    pub is_cut: bool,
    /// Nothing was stored, because what the server sent is not log that can be read.
    pub refused: Option<Failure>,
}

/// What the operator was told last of each repository that fails.
#[derive(Default)]
pub(super) struct Told(BTreeMap<String, String>);

impl Told {
    /// What is new: each failure once, until that repository takes something again. One that rests says nothing.
    pub fn news(&mut self, outcome: &Outcome, needed: usize) -> Vec<String> {
        self.0.retain(|name, _| !outcome.stored.contains(name));
        let what = if outcome.stored.len() >= needed { "not everywhere" } else { "not" };
        let texts = outcome
            .errors
            .iter()
            .map(|(name, error)| (name.clone(), format!("the log is {what} stored: repository {name}: {}", error.summary())));
        texts
            .filter(|(name, text)| self.0.insert(name.clone(), text.clone()).as_ref() != Some(text))
            .map(|(_, text)| text)
            .collect()
    }
}

/// Stores `job`, of a server that `is_there` or gone, and gives the repositories back. A file that is in enough of them, but not in all, is queued for the others.
///
/// # Errors
/// Contradicted when one of them holds something else; when what others lack cannot be queued.
pub(super) async fn run(
    mut to: Vec<Destination>,
    world: &World<'_>,
    job: Job,
    is_there: bool,
) -> (Vec<Destination>, Result<Outcome>) {
    let outcome = attempt(&mut to, world, &job, is_there).await;
    (to, outcome)
}

async fn attempt(to: &mut [Destination], world: &World<'_>, job: &Job, is_there: bool) -> Result<Outcome> {
    let (needed, count) = (world.needed, to.len());
    let now = Instant::now();
    let rested = to.iter().filter(|one| one.rests_until.is_none_or(|until| until <= now)).count();
    let mut outcome = Outcome::default();
    let mut extent = Extent::default();
    if let Job::Pieces(snapshot) | Job::Whole(snapshot) = job {
        match world.trust.examine(&world.identity, snapshot, is_there).await? {
            Examined::Store(so_much, warning) => {
                extent = so_much;
                outcome.is_cut = extent.until < snapshot.raw.len() as u64;
                outcome.warnings.extend(warning);
            }
            Examined::Refuse(failure) => return Ok(Outcome { refused: Some(failure), ..outcome }),
        }
    }
    let mut pushed: Vec<Option<Pushed>> = vec![None; count];
    let storing = to
        .iter_mut()
        .enumerate()
        .filter(|(_, one)| rested < needed || one.rests_until.is_none_or(|until| until <= now))
        .map(async |(at, one)| {
            let stored = store(one, world, job, extent).await;
            one.rests_until = stored.is_err().then(|| Instant::now() + REST);
            (at, one.name.clone(), stored)
        })
        .collect();
    let note = |(at, name, stored): (usize, String, Result<Option<Pushed>>)| {
        let succeeded = stored.is_ok();
        match stored {
            Ok(stored) => {
                let warnings = stored.iter().flat_map(|stored| &stored.warnings);
                outcome.warnings.extend(warnings.map(|why| format!("repository {name}: {why}")));
                outcome.stored.push(name);
                pushed[at] = stored;
            }
            Err(error) => outcome.errors.push((name, error)),
        }
        succeeded
    };
    enough::collect(needed, storing, Vec::new(), note).await;
    if let Some(at) = outcome.errors.iter().position(|(_, error)| error.kind() == ErrorKind::Contradicted) {
        let (name, error) = outcome.errors.swap_remove(at);
        return Err(error.context(format!("repository {name}")));
    }
    if outcome.stored.len() >= needed {
        queue(to, world, &pushed)?;
    }
    Ok(outcome)
}

async fn store(to: &mut Destination, world: &World<'_>, job: &Job, extent: Extent) -> Result<Option<Pushed>> {
    match job {
        Job::Pieces(snapshot) => to.store_pieces(world, snapshot, extent).await.map(|()| None),
        Job::Whole(snapshot) if extent.until < snapshot.raw.len() as u64 => {
            to.store_pieces(world, snapshot, extent).await.map(|()| None)
        }
        Job::Whole(snapshot) => to.store_whole(world, snapshot).await.map(Some),
        Job::History(history, raw) => to.store_history(world, history, raw.clone()).await.map(Some),
    }
}

/// Leaves a file to be delivered to the repositories that lack it. The server may forget it then: the queue is durable first.
fn queue(to: &[Destination], world: &World<'_>, pushed: &[Option<Pushed>]) -> Result<()> {
    let Some(there) = pushed.iter().flatten().next() else { return Ok(()) };
    let mut queued = false;
    for (one, _) in to.iter().zip(pushed).filter(|(_, stored)| stored.is_none()) {
        let Pushed { incarnation, file, key, raw_sha256, .. } = there.clone();
        let item = Item::Log { incarnation, file, key, raw_sha256 };
        let added = one.queue.add(&item);
        added.map_err(|error| error.context(format!("{} cannot be queued for repository {}", there.file, one.name)))?;
        queued = true;
    }
    if queued {
        world.surroundings.deliver();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_that_fails_is_told_once_until_it_takes_something() {
        let outcome = |stored: &[&str], failed: &[&str]| Outcome {
            stored: stored.iter().map(|name| (*name).to_owned()).collect(),
            errors: failed.iter().map(|name| ((*name).to_owned(), Error::unreachable("away"))).collect(),
            ..Outcome::default()
        };
        let mut told = Told::default();
        assert_eq!(told.news(&outcome(&["a"], &["b"]), 1), ["the log is not everywhere stored: repository b: away"]);
        assert!(told.news(&outcome(&["a"], &[]), 1).is_empty(), "b rests");
        assert!(told.news(&outcome(&["a"], &["b"]), 1).is_empty(), "and fails as before");
        assert_eq!(told.news(&outcome(&[], &["b"]), 1), ["the log is not stored: repository b: away"]);
        assert!(told.news(&outcome(&["a", "b"], &[]), 1).is_empty());
        assert_eq!(told.news(&outcome(&["a"], &["b"]), 1).len(), 1);
    }
}
