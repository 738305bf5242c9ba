//! A segment in as many repositories as must hold it, and in the others if they are quick: those that lack it then get it
//! from their queue.

use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::Instant;

use super::backup::identity_of;
use super::bookmark::Pending;
use super::{SIZE, TIMELINE};
use crate::base::{Error, ErrorKind, Incarnation, Result, Segment, killpoint};
use crate::engine::archive::push::{self, Pushed};
use crate::engine::archive::stream::Surroundings;
use crate::engine::{Scope, Writing};
use crate::repo::Role;
use crate::repo::identity;
use crate::repo::log::CommitTime;
use crate::repo::log::name::SegmentName;
use crate::repo::queue::{Item, Queue};

/// Once enough repositories have it, the others have as long again, and at least this.
const GRACE: Duration = Duration::from_millis(500);
/// A repository that failed is left alone so long while the others are enough.
const REST: Duration = Duration::from_secs(30);

/// A repository of the source.
pub(super) struct Destination {
    pub name: String,
    pub queue: Queue,
    scope: Option<Scope>,
    /// The incarnation that is on record there.
    known: Option<Incarnation>,
    rests_until: Option<Instant>,
}

/// What storing a segment came to.
#[derive(Default)]
pub(super) struct Stored {
    /// In how many repositories it is.
    pub count: usize,
    /// What else should be known.
    pub warnings: Vec<String>,
    /// What the others have against it.
    pub errors: Vec<(String, Error)>,
}

impl Destination {
    pub fn new(name: String, queue: Queue) -> Self {
        Self { name, queue, scope: None, known: None, rests_until: None }
    }

    /// The open repository.
    ///
    /// # Errors
    /// When it does not answer, or this host may not write there.
    pub async fn open(&mut self, surroundings: &dyn Surroundings, writing: &Writing) -> Result<Scope> {
        if let Some(scope) = &self.scope {
            return Ok(scope.clone());
        }
        let scope = surroundings.open(&self.name).await?;
        scope.repository.keyring().require(&writing.signer, Role::Write)?;
        Ok(self.scope.insert(scope).clone())
    }

    /// Whether the last attempt to store something there failed.
    pub fn has_failed(&self) -> bool {
        self.rests_until.is_some()
    }

    /// Whether it failed so shortly ago that it is left alone.
    pub fn is_resting(&self) -> bool {
        self.rests_until.is_some_and(|until| until > Instant::now())
    }

    async fn store(
        &mut self,
        surroundings: &dyn Surroundings,
        writing: &Writing,
        incarnation: &Incarnation,
        pending: &Pending,
    ) -> Result<Pushed> {
        let scope = self.open(surroundings, writing).await?;
        if self.known.as_ref() != Some(incarnation) {
            let identity = identity_of(incarnation, pending.to.at.page_size);
            identity::ensure(&scope.repository, &scope.source, &writing.signer, &identity).await?;
            self.known = Some(incarnation.clone());
        }
        let name = (name_of(pending), SIZE);
        let pushed = push::own(&scope, writing, incarnation.clone(), name, pending.raw.clone()).await?;
        killpoint::reach("follow.segment-stored");
        Ok(pushed)
    }
}

/// The segment's name, but for the digest.
fn name_of(pending: &Pending) -> SegmentName {
    let time = CommitTime::At(pending.to.captured_at);
    let segment = Segment { timeline: TIMELINE, number: pending.segment };
    SegmentName { segment, first: time, last: time, commits: Some(pending.commits), digest: String::new() }
}

/// Stores `pending` in `needed` of `to`; where that succeeds the others have it queued.
///
/// # Errors
/// Contradicted when one of them holds something else under its number; when what others lack cannot be queued.
pub(super) async fn store(
    to: &mut [Destination],
    (surroundings, writing): (&dyn Surroundings, &Writing),
    incarnation: &Incarnation,
    pending: &Pending,
    needed: usize,
) -> Result<Stored> {
    let now = Instant::now();
    let rested = to.iter().filter(|one| one.rests_until.is_none_or(|until| until <= now)).count();
    let mut pushed: Vec<Option<Pushed>> = vec![None; to.len()];
    let mut stored = Stored::default();
    {
        let mut storing: FuturesUnordered<_> = to
            .iter_mut()
            .enumerate()
            .filter(|(_, one)| rested < needed || one.rests_until.is_none_or(|until| until <= now))
            .map(async |(at, one)| {
                let outcome = one.store(surroundings, writing, incarnation, pending).await;
                one.rests_until = outcome.is_err().then(|| Instant::now() + REST);
                (at, one.name.clone(), outcome)
            })
            .collect();
        let mut deadline: Option<Instant> = None;
        loop {
            let waited = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                next = storing.next() => match next {
                    Some((at, name, Ok(outcome))) => {
                        stored.warnings.extend(outcome.warnings.iter().map(|why| format!("repository {name}: {why}")));
                        stored.count += 1;
                        pushed[at] = Some(outcome);
                        if stored.count >= needed && deadline.is_none() {
                            deadline = Some(Instant::now() + now.elapsed().max(GRACE));
                        }
                    }
                    Some((_, name, Err(error))) => stored.errors.push((name, error)),
                    None => break,
                },
                () = waited => break,
            }
        }
    }
    if let Some(at) = stored.errors.iter().position(|(_, error)| error.kind() == ErrorKind::Contradicted) {
        let (name, error) = stored.errors.swap_remove(at);
        return Err(error.context(format!("repository {name}")));
    }
    if stored.count >= needed {
        queue(to, surroundings, &pushed)?;
    }
    Ok(stored)
}

/// Leaves the segment to be delivered to the repositories that lack it. It is forgotten here then: the queue is durable first.
fn queue(to: &[Destination], surroundings: &dyn Surroundings, pushed: &[Option<Pushed>]) -> Result<()> {
    let Some(there) = pushed.iter().flatten().next() else { return Ok(()) };
    let mut queued = false;
    for (one, _) in to.iter().zip(pushed).filter(|(_, stored)| stored.is_none()) {
        let Pushed { incarnation, file, key, raw_sha256, .. } = there.clone();
        let added = one.queue.add(&Item::Log { incarnation, file, key, raw_sha256 });
        added.map_err(|error| error.context(format!("{} cannot be queued for repository {}", there.file, one.name)))?;
        queued = true;
    }
    if queued {
        surroundings.deliver();
    }
    Ok(())
}
