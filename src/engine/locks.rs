//! Locks of what a backup needs: asked for by expiry, extended when a backup commits.
//!
//! Every object is locked when it is written, for the time a backup is to be locked and for as long as a chain is
//! expected to be built on. So an extension is only needed for a chain older than that, or one that was written before
//! locks were configured. Of each member `begin.json` is extended last: its lock vouches for the others', and in the
//! steady state one question a member is all there is.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::{Scope, joined};
use crate::base::{BackupId, Error, Incarnation, Result, Timestamp};
use crate::repo::{BackupSummary, CommitLog, commit, layout};
use crate::store::{Lock, ObjectInfo, Store, list_all};

/// Requests under way at one time.
const CONCURRENT: usize = 16;

/// What became of the locks of what a backup needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extension {
    /// Objects whose lock was set or extended.
    pub extended_objects: u64,
    /// Objects whose lock could not be: key and why.
    pub refused: Vec<(String, String)>,
}

impl Extension {
    /// What an operator must be told; none when all is well.
    pub fn warning(&self, id: &BackupId) -> Option<String> {
        let (key, why) = self.refused.first()?;
        Some(format!(
            "the backup stands, but the locks of {} objects that {id} needs were not extended: they may be deleted before its \
             time; first {key}: {why}",
            self.refused.len()
        ))
    }
}

/// The locks on these objects that hold at `now`, by key.
///
/// # Errors
/// When the store does not answer, or these credentials may not ask.
pub async fn held(store: &Arc<dyn Store>, objects: &[ObjectInfo], now: Timestamp) -> Result<BTreeMap<String, Lock>> {
    let mut held = BTreeMap::new();
    if !store.may_lock() {
        return Ok(held);
    }
    let keys = objects.iter().map(|object| object.key.clone());
    let ask = |store: Arc<dyn Store>, key: String| async move {
        match store.lock_of(&key).await {
            Ok(lock) => Ok((key, lock)),
            Err(error) if error.is_not_found() => Ok((key, None)),
            Err(error) => Err(Error::from(error)),
        }
    };
    for (key, lock) in at_once(store, keys, ask).await? {
        held.extend(lock.filter(|lock| lock.holds_at(now)).map(|lock| (key, lock)));
    }
    Ok(held)
}

/// The lock that ends last.
pub fn latest<'l>(locks: impl IntoIterator<Item = &'l Lock>) -> Option<Lock> {
    locks.into_iter().max_by_key(|lock| lock.until).copied()
}

/// Extends the locks of everything that `backup`, just committed, needs, where they end before it may be lost. Nothing is
/// done in a repository without locks.
///
/// # Errors
/// When the repository cannot be listed; what is refused of a single object is in the result.
pub async fn extend(scope: &Scope, log: &CommitLog, backup: &BackupSummary, now: Timestamp) -> Result<Extension> {
    let store = scope.repository.shared_store();
    let Some(terms) = store.lock_terms() else { return Ok(Extension::default()) };
    let mut extending = Extending { needed: terms.needed(now), until: terms.until(now), store, done: Extension::default() };
    let all: Vec<&BackupSummary> = log.backups().collect();
    let chain = commit::chain(backup, &all)
        .map_err(|broken| Error::damaged(format!("the locks of {} are not extended: {broken}", backup.id)))?;
    extending.objects(shared(scope, log, &chain, &backup.incarnation).await?).await?;
    for member in chain {
        extending.member(scope, &member.id).await?;
    }
    Ok(extending.done)
}

/// What more than one backup needs: descriptor, keys, identity, the entries of the chain; keys, histories and resolutions
/// of the log.
async fn shared(scope: &Scope, log: &CommitLog, chain: &[&BackupSummary], incarnation: &Incarnation) -> Result<Vec<String>> {
    let (store, source) = (scope.repository.store(), &scope.source);
    let mut keys = vec![layout::DESCRIPTOR.to_owned(), layout::identity(source, incarnation)];
    let is_member = |id: &BackupId| chain.iter().any(|member| member.id == *id);
    let entries = log.entries.iter().filter(|entry| entry.backup().is_some_and(|backup| is_member(&backup.id)));
    keys.extend(entries.map(|entry| layout::commit(source, entry.number)));
    let log_prefix = layout::log(source, incarnation);
    let mut prefixes =
        vec![layout::KEYS.to_owned(), layout::log_keys(source, incarnation), layout::log_resolutions(source, incarnation)];
    // The histories lie beside the directories of the timelines.
    let timelines = store.list_dirs(&log_prefix).await?;
    prefixes.extend(timelines.iter().map(|timeline| format!("{log_prefix}{timeline}_")));
    for prefix in prefixes {
        keys.extend(list_all(store, &prefix, None).await?.into_iter().map(|object| object.key));
    }
    Ok(keys)
}

struct Extending {
    store: Arc<dyn Store>,
    /// What is locked until then is left alone.
    needed: Timestamp,
    /// Until when the others are locked.
    until: Timestamp,
    done: Extension,
}

impl Extending {
    /// Extends the locks of one backup's objects, `begin.json` last.
    async fn member(&mut self, scope: &Scope, id: &BackupId) -> Result<()> {
        let begin = layout::begin(&scope.source, id);
        // One that lasts longer than any of ours was set by somebody else, and vouches for nothing.
        if matches!(self.store.lock_of(&begin).await, Ok(Some(lock)) if (self.needed..=self.until).contains(&lock.until)) {
            return Ok(());
        }
        let objects = list_all(self.store.as_ref(), &layout::backup(&scope.source, id), None).await?;
        let refused = self.done.refused.len();
        self.objects(objects.into_iter().map(|object| object.key).filter(|key| *key != begin).collect()).await?;
        // Otherwise it must not vouch for the others.
        if self.done.refused.len() == refused {
            self.objects(vec![begin]).await?;
        }
        Ok(())
    }

    async fn objects(&mut self, keys: Vec<String>) -> Result<()> {
        let (needed, until) = (self.needed, self.until);
        let extend = move |store: Arc<dyn Store>, key: String| async move {
            let extended = async {
                if store.lock_of(&key).await?.is_some_and(|lock| lock.until >= needed) {
                    return Ok(false);
                }
                store.extend_lock(&key, until).await.map(|()| true)
            };
            let outcome = extended.await;
            Ok((key, outcome))
        };
        for (key, outcome) in at_once(&self.store, keys.into_iter(), extend).await? {
            match outcome {
                Ok(extended) => self.done.extended_objects += u64::from(extended),
                // The identity of a cluster may not be on record.
                Err(error) if error.is_not_found() => {}
                Err(error) => self.done.refused.push((key, Error::from(error).summary())),
            }
        }
        Ok(())
    }
}

/// Does `what` for each key, a few at one time; the results in the order of the keys.
async fn at_once<T: Send + 'static, F>(
    store: &Arc<dyn Store>,
    keys: impl Iterator<Item = String>,
    what: impl Fn(Arc<dyn Store>, String) -> F,
) -> Result<Vec<T>>
where
    F: Future<Output = Result<T>> + Send + 'static,
{
    let (mut tasks, mut results) = (JoinSet::new(), BTreeMap::new());
    let mut waiting = keys.enumerate();
    loop {
        while tasks.len() < CONCURRENT
            && let Some((at, key)) = waiting.next()
        {
            let doing = what(Arc::clone(store), key);
            tasks.spawn(async move { Ok((at, doing.await?)) });
        }
        let Some(outcome) = tasks.join_next().await else { break };
        let (at, result) = joined(outcome)?;
        results.insert(at, result);
    }
    Ok(results.into_values().collect())
}
