//! One file of the log in as many repositories as must hold it, and in the queues of the others.

use std::path::Path;

use super::joined;
use crate::base::{Error, ErrorKind, Result};
use crate::cli::config::{RepositorySettings, Settings, SourceSettings};
use crate::cli::scope;
use crate::codec::Sha256Digest;
use crate::engine::archive::handover::{Archived, Durable, Under};
use crate::engine::archive::push::Pushed;
use crate::engine::enough;
use crate::repo::queue::{Item, Queue};

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

    /// What whoever asks another process for a file's archiving must be able to rely on.
    pub fn under(&self) -> Under {
        let repositories = self.repositories.iter().map(|chosen| chosen.name.clone()).collect();
        Under { config_sha256: self.settings.config_sha256, repositories, needed: self.needed }
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
            async move { (chosen, pushing.await) }
        };
        let attempts = |chosen: Vec<&'a RepositorySettings>| chosen.into_iter().map(&attempt).collect::<Vec<_>>();
        let (mut archived, mut errors) = (Vec::new(), Vec::new());
        let note = |(chosen, outcome): (&'a RepositorySettings, Result<Pushed>)| {
            if spare {
                let is_trouble = outcome.as_ref().is_err_and(|error| error.kind() != ErrorKind::Contradicted);
                state(chosen).note_trouble(is_trouble);
            }
            let succeeded = outcome.is_ok();
            match outcome {
                Ok(pushed) => archived.push((chosen, pushed)),
                Err(error) => errors.push((chosen.name.clone(), error)),
            }
            succeeded
        };
        enough::collect(needed, attempts(well), attempts(troubled), note).await;
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
