//! A file of the log under the name that it has in every repository, and what stands there under that name.
//!
//! Split brain: names differ by content, so two primaries never overwrite each other; the directory is listed before
//! and after a put, and whoever sees two contents under one name refuses. Of two that put at the same instant at least
//! one lists after both objects are there.

use std::time::Duration;

use super::{FileKind, file_kind};
use crate::base::{Error, ErrorKind, Incarnation, Result, SourceName, TimelineId, Timestamp};
use crate::codec::Sha256Digest;
use crate::engine::reread::digest_to_sign;
use crate::engine::{Scope, Writing};
use crate::repo::host_state::Journal;
use crate::repo::identity::{self, Identity};
use crate::repo::layout;
use crate::repo::log::index::{self, IndexLine};
use crate::repo::log::name::HistoryName;
use crate::repo::log::resolution;
use crate::store::list_all;

/// The journal is stored when it holds so many lines …
const INDEX_BATCH: usize = 16;
/// … or when its oldest line is as old as this.
const INDEX_AGE: Duration = Duration::from_secs(60);

/// A file of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::engine) struct Named {
    /// As PostgreSQL calls it.
    pub file: String,
    /// SHA-256 of its content.
    pub digest: Sha256Digest,
    /// The cluster it belongs to.
    pub incarnation: Incarnation,
    kind: FileKind,
    /// Directory and beginning of the object names that stand for the same file.
    prefix: String,
}

/// How a segment arrived before it was whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) struct Streamed {
    /// The longest time between a transaction end in a piece and the piece's arrival.
    pub pieces: Duration,
    /// The first transaction end that no piece holds.
    pub rest: Option<Timestamp>,
}

impl Streamed {
    /// The longest time that a transaction end waited, when the segment arrived at `arrived`.
    fn within(self, arrived: Timestamp) -> Duration {
        self.rest.map_or(self.pieces, |rest| self.pieces.max(arrived.since(rest)))
    }
}

/// What a look at the archive found under a file's name.
pub(in crate::engine) enum Found {
    /// Nothing, or (`resolved`) only what an operator decided against.
    Nothing { resolved: bool },
    /// The same content.
    Same { key: String },
}

impl Named {
    /// The file `file` of `source` with the content that `digest` names; none when PostgreSQL archives no such file.
    pub fn new(source: &SourceName, incarnation: Incarnation, file: &str, digest: Sha256Digest) -> Option<Self> {
        let kind = file_kind(file)?;
        let prefix = match kind {
            FileKind::History(timeline) => format!("{}{}_from-", layout::log(source, &incarnation), timeline.hex()),
            FileKind::Segment | FileKind::Auxiliary => {
                let timeline = TimelineId::parse_hex(file.get(..8)?)?;
                format!("{}{file}_", layout::log_timeline(source, &incarnation, timeline))
            }
        };
        Some(Self { file: file.to_owned(), digest, incarnation, kind, prefix })
    }

    /// Where its objects are, ending in `/`.
    pub fn directory(&self) -> &str {
        &self.prefix[..=self.prefix.rfind('/').unwrap_or(0)]
    }

    /// The digest in the name of an object that stands for this file; none where several contents may stand side by side.
    fn digest_in(&self, name: &str) -> Option<String> {
        match self.kind {
            FileKind::Segment => Some(name.split('_').nth(4)?.split('.').next()?.to_owned()),
            FileKind::History(_) => HistoryName::parse(name).map(|name| name.digest),
            // Two servers may rightly archive different partial segments or labels: nothing is ever restored from them.
            FileKind::Auxiliary => None,
        }
    }

    /// What stands under this file's name.
    ///
    /// # Errors
    /// When the repository does not answer; contradicted when another content stands there and nobody decided between them.
    pub async fn look(&self, scope: &Scope) -> Result<Found> {
        let store = scope.repository.store();
        let found = list_all(store, &self.prefix, None).await?;
        let own = self.digest.short();
        let mut others = Vec::new();
        let mut same = None;
        for object in found {
            let name = object.key.rsplit('/').next().unwrap_or_default();
            match self.digest_in(name) {
                Some(digest) if digest == own => same = same.or(Some(object.key)),
                Some(digest) => others.push(digest),
                None if object.key.contains(&own) => same = same.or(Some(object.key)),
                None => {}
            }
        }
        if others.is_empty() {
            return Ok(same.map_or(Found::Nothing { resolved: false }, |key| Found::Same { key }));
        }
        let resolutions = resolution::load(&scope.repository, &scope.source, &self.incarnation).await?;
        match resolution::kept(&resolutions, &self.file) {
            Some(kept) if *kept == own => Ok(same.map_or(Found::Nothing { resolved: true }, |key| Found::Same { key })),
            _ => Err(self.split_brain(scope, &own, &others)),
        }
    }

    fn split_brain(&self, scope: &Scope, own: &str, others: &[String]) -> Error {
        let what =
            format!("{} of {} is in the archive with other content: two servers write the same log", self.file, scope.source);
        Error::new(ErrorKind::Contradicted, what)
            .detail("this file", own)
            .detail("archived", others.join(", "))
            .hint("stop the server that is not the primary, or whose disk was rolled back; nothing was overwritten")
            .hint(format!(
                "then, with the operator's key: lifeboat archive resolve {} {} --keep DIGEST --key FILE",
                scope.source, self.file
            ))
    }

    /// A source's log is that of the clusters it is known to have been. A new one is admitted by its first segment
    /// when there is none yet, with the `identity` that it brings, and afterwards only by a backup, which asks the
    /// server itself.
    ///
    /// # Errors
    /// When the file belongs to another cluster, or nothing says to which.
    pub async fn require_known(&self, scope: &Scope, writing: &Writing, identity: Option<&Identity>) -> Result<()> {
        let (known, problems) = identity::survey(&scope.repository, &scope.source).await?;
        let own = layout::identity(&scope.source, &self.incarnation);
        if let Some((key, why)) = problems.into_iter().find(|(key, _)| *key == own) {
            return Err(Error::damaged(format!("{key} cannot be used: {why}")));
        }
        if known.iter().any(|identity| identity.incarnation == self.incarnation) {
            return Ok(());
        }
        match (identity, known.last()) {
            (Some(identity), None) => identity::ensure(&scope.repository, &scope.source, &writing.signer, identity).await,
            (_, Some(latest)) => Err(Error::failed(format!("{} belongs to another cluster than {}", self.file, scope.source))
                .detail("this file", self.incarnation.to_string())
                .detail("on record", format!("{} (since {})", latest.incarnation, latest.first_seen.human_seconds()))
                .hint(format!(
                    "after pg_upgrade or a new initdb: lifeboat backup {} --type full   admits the new cluster",
                    scope.source
                ))
                .hint("otherwise correct the archive_command of the server that runs this")),
            (None, None) => Err(Error::failed(format!("{} came before any segment of {}", self.file, scope.source))
                .hint("PostgreSQL archives it again after the first segment")),
        }
    }

    /// Notes the digest and length of the object `key` in this host's journal, to be signed in a batch; read from the
    /// repository where the caller does not know them. With how it was `streamed` before.
    ///
    /// # Errors
    /// When the journal cannot be written or the repository does not answer; the file is archived all the same.
    pub async fn note(
        &self,
        scope: &Scope,
        writing: &Writing,
        key: &str,
        stored: Option<(Sha256Digest, u64)>,
        streamed: Option<Streamed>,
    ) -> Result<()> {
        let mut journal = scope.state.journal(&scope.source, &self.incarnation).await?;
        let waiting = journal.lines()?;
        let (stored_sha256, stored_bytes) = match stored {
            Some(stored) => stored,
            // Archived before; a crash may have come between the object and its note. How it was streamed before it was
            // whole is known to the stream alone, whoever came first.
            None if streamed.is_none() && waiting.iter().any(|line| line.file == self.file) => return Ok(()),
            None => digest_to_sign(scope.repository.store(), key).await?,
        };
        let arrived = Timestamp::now();
        let within = streamed.map(|streamed| streamed.within(arrived));
        let line = IndexLine {
            file: self.file.clone(),
            raw_sha256: self.digest,
            stored_sha256,
            stored_bytes,
            arrived,
            streamed_within_micros: within.and_then(|within| u64::try_from(within.as_micros()).ok()),
        };
        journal.append(&line)?;
        let oldest = waiting.first().map_or(line.arrived, |line| line.arrived);
        if waiting.len() + 1 >= INDEX_BATCH || line.arrived.since(oldest) >= INDEX_AGE {
            flush(scope, writing, &self.incarnation, &mut journal).await?;
        }
        Ok(())
    }
}

/// Stores what waits in the journal as a signed index.
async fn flush(scope: &Scope, writing: &Writing, incarnation: &Incarnation, journal: &mut Journal) -> Result<()> {
    let lines = journal.lines()?;
    if lines.is_empty() {
        return Ok(());
    }
    index::store(&scope.repository, &scope.source, incarnation, &writing.signer, lines).await?;
    journal.clear()
}

/// Signs the digests that wait on this host, so that `verify` covers them without a key.
///
/// # Errors
/// When the repository or the journal does not answer.
pub async fn flush_index(scope: &Scope, writing: &Writing, incarnation: &Incarnation) -> Result<()> {
    let mut journal = scope.state.journal(&scope.source, incarnation).await?;
    flush(scope, writing, incarnation, &mut journal).await
}
