//! One file of the log in as many repositories as must hold it, and in the queues of the others.

use std::path::Path;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::Instant;

use super::joined;
use crate::base::{Error, ErrorKind, Result};
use crate::cli::config::{RepositorySettings, Settings, SourceSettings};
use crate::cli::scope;
use crate::codec::Sha256Digest;
use crate::engine::archive::handover::{Archived, Durable};
use crate::engine::archive::push::Pushed;
use crate::repo::queue::{Item, Queue};

/// Once enough repositories have the file, the others have as long again, and at least this.
const GRACE: Duration = Duration::from_millis(500);

/// A repository and what became of the file there.
type Attempt<'a> = (&'a RepositorySettings, Result<Pushed>);

/// Where a source's log goes.
pub(in crate::cli::commands) struct Wanted<'a> {
    pub settings: &'a Settings,
    pub source: &'a SourceSettings,
    pub repositories: Vec<&'a RepositorySettings>,
    /// So many of them must have a file before it counts as archived.
    pub needed: usize,
    /// What is odd about that number.
    pub doubt: Option<String>,
}

impl<'a> Wanted<'a> {
    /// Where the log of `source` goes, or what of it the repository called `only` gets.
    ///
    /// # Errors
    /// Usage errors, as [`Settings::repositories_of`].
    pub fn new(settings: &'a Settings, source: &'a SourceSettings, only: Option<&str>) -> Result<Self> {
        let repositories = settings.repositories_of(source, only)?;
        let copies = settings.log_copies(source);
        let needed = copies.repositories.min(repositories.len());
        Ok(Self { settings, source, repositories, needed, doubt: copies.doubt })
    }

    /// Archives `file`, each time by `push`; with the digest of what was stored.
    ///
    /// # Errors
    /// When the file is not durable in enough repositories. The others are tried all the same.
    pub async fn store<F>(&self, file: &Path, push: impl Fn(&'a RepositorySettings) -> F) -> Result<(Durable, Sha256Digest)>
    where
        F: Future<Output = Result<Pushed>>,
    {
        let (archived, mut errors) = self.push_to_enough(push).await;
        // Two servers that write one log must not go on, however many repositories have seen only one of them.
        if let Some(at) = errors.iter().position(|(_, error)| error.kind() == ErrorKind::Contradicted) {
            let (name, error) = errors.swap_remove(at);
            return Err(error.context(format!("repository {name}")));
        }
        let Some((_, pushed)) = archived.first().filter(|_| archived.len() >= self.needed) else {
            return Err(joined(errors).unwrap_or_else(|| Error::usage(format!("{} names no repository", self.source.name))));
        };
        if archived.iter().any(|(_, other)| other.raw_sha256 != pushed.raw_sha256) {
            return Err(Error::failed(format!("{} changed while it was read", file.display()))
                .hint("is it finished? archive only what archive_command names"));
        }
        let mut warnings: Vec<String> = self.doubt.iter().cloned().collect();
        for (chosen, pushed) in &archived {
            warnings.extend(pushed.warnings.iter().map(|warning| format!("repository {}: {warning}", chosen.name)));
        }
        for (name, error) in &errors {
            warnings.push(format!("repository {name} gets {} later: {}", file.display(), error.summary()));
        }
        let mut queued = Vec::new();
        for chosen in &self.repositories {
            if !archived.iter().any(|(has, _)| has.name == chosen.name) {
                self.queue(chosen, pushed)?;
                queued.push(chosen.name.clone());
            }
        }
        let raw_sha256 = pushed.raw_sha256;
        let archived = archived.into_iter().map(|(chosen, pushed)| {
            let Pushed { key, already_there, .. } = pushed;
            Archived { repository: chosen.name.clone(), key, already_there }
        });
        Ok((Durable { archived: archived.collect(), queued, warnings }, raw_sha256))
    }

    /// Pushes to all at the same time, and waits until `needed` have the file and the others had their chance. Those that
    /// failed a moment ago are asked only when the others are not enough.
    async fn push_to_enough<F>(
        &self,
        push: impl Fn(&'a RepositorySettings) -> F,
    ) -> (Vec<(&'a RepositorySettings, Pushed)>, Vec<(String, Error)>)
    where
        F: Future<Output = Result<Pushed>>,
    {
        let (settings, needed) = (self.settings, self.needed);
        let state = |chosen: &RepositorySettings| scope::state_by_name(settings, chosen);
        let spare = self.repositories.len() > needed;
        let (troubled, well): (Vec<_>, Vec<_>) =
            self.repositories.iter().copied().partition(|chosen| spare && state(chosen).had_trouble());
        let attempt = |chosen: &'a RepositorySettings| {
            let pushing = push(chosen);
            async move {
                let outcome: Attempt<'a> = (chosen, pushing.await);
                outcome
            }
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

    /// Leaves the file to be delivered to `chosen` later. PostgreSQL may forget it then: the queue is durable first.
    fn queue(&self, chosen: &RepositorySettings, pushed: &Pushed) -> Result<()> {
        let Pushed { incarnation, file, key, raw_sha256, .. } = pushed.clone();
        let queue = Queue::new(&self.settings.state_dir, &self.source.name, &chosen.name);
        let queued = queue.add(&Item::Log { incarnation, file, key, raw_sha256 });
        queued.map_err(|error| error.context(format!("{} cannot be queued for repository {}", pushed.file, chosen.name)))
    }
}
