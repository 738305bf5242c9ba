//! The commit log, compared with what this host saw of it last: so that a repository which was wound back, or one of
//! whose entries was replaced, is noticed although every entry in it verifies.

use crate::base::{Error, Result};
use crate::codec::Sha256Digest;
use crate::engine::Scope;
use crate::repo::CommitLog;
use crate::repo::host_state::RememberedHead;

/// A commit log, and what this host remembers of it.
#[derive(Debug)]
pub struct Seen {
    /// The log as it is now.
    pub log: CommitLog,
    /// How it contradicts what this host remembers.
    pub wound_back: Option<WoundBack>,
    /// What this host could not look up or remember; reading goes on.
    pub warning: Option<String>,
}

/// How a commit log contradicts what was seen of it before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WoundBack {
    /// Number of the last entry seen before.
    pub number: u32,
    /// Whether another entry stands under that number now; else none does.
    pub replaced: bool,
}

impl WoundBack {
    /// In one line, for people: `entry 7, which this host saw, is gone`.
    pub fn text(&self) -> String {
        let what = if self.replaced { "was replaced" } else { "is gone" };
        format!("entry {}, which this host saw, {what}: the repository was wound back or replaced", self.number)
    }
}

impl Seen {
    /// The log, for a verb that must not go on with a repository that was wound back.
    ///
    /// # Errors
    /// Damaged when it was.
    pub fn trusted(self, scope: &Scope) -> Result<CommitLog> {
        let Some(wound_back) = self.wound_back else { return Ok(self.log) };
        let file = scope.state.head_path(&scope.source);
        Err(Error::damaged(format!("the commit log of {} is not the one seen before: {}", scope.source, wound_back.text()))
            .detail("repository", scope.repository.store().url())
            .hint(format!("lifeboat verify {}   shows what is there now", scope.source))
            .hint(format!("if it was put back on purpose: rm {}", file.display())))
    }
}

/// Reads the commit log of a source, compares it with what this host remembers, and remembers it when it follows.
///
/// # Errors
/// When the repository does not answer.
pub async fn look(scope: &Scope) -> Result<Seen> {
    // Before the log is listed: what another process of this host commits and remembers meanwhile is not in the list.
    let remembered = scope.state.head(&scope.source);
    let log = CommitLog::load(&scope.repository, &scope.source).await?;
    let remembered = match remembered {
        Ok(remembered) => remembered,
        Err(error) => {
            let warning = Some(format!("the commit log was not compared with what was seen before: {}", error.summary()));
            return Ok(Seen { log, wound_back: None, warning });
        }
    };
    let wound_back = remembered.and_then(|remembered| compare(&log, remembered));
    let mut warning = None;
    if wound_back.is_none()
        && let Some(head) = to_remember(&log)
        && remembered != Some(head)
        && let Err(error) = scope.state.remember_head(&scope.source, head)
    {
        warning = Some(format!("the commit log's head was not remembered: {}", error.summary()));
    }
    Ok(Seen { log, wound_back, warning })
}

/// The head of `log` as this host remembers it. None when it did not verify: it may have been damaged on the way here, and
/// whoever remembers the digest of that takes the sound entry for a forgery from then on.
pub fn to_remember(log: &CommitLog) -> Option<RememberedHead> {
    let (number, sha256) = log.head?;
    log.entries.last().is_some_and(|entry| entry.number == number).then_some(RememberedHead { number, sha256 })
}

/// How `log` contradicts what was seen before, if it does.
pub fn compare(log: &CommitLog, remembered: RememberedHead) -> Option<WoundBack> {
    let gone = WoundBack { number: remembered.number, replaced: false };
    let replaced = WoundBack { replaced: true, ..gone.clone() };
    let differs = |found: Option<Sha256Digest>| (found != Some(remembered.sha256)).then_some(replaced);
    match log.head {
        None => Some(gone),
        Some((number, _)) if number < remembered.number => Some(gone),
        Some((number, sha256)) if number == remembered.number => differs(Some(sha256)),
        Some(_) if !log.digests.contains_key(&remembered.number) => Some(gone),
        // A later entry that verifies names the digest of the one before it.
        Some(_) => log.entries.iter().find(|entry| entry.number == remembered.number + 1).and_then(|next| differs(next.previous)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::repo::{KeyEntry, Repository, Role, Signer};
    use crate::store::Store;
    use crate::store::faulty::FaultyStore;
    use crate::store::memory::MemoryStore;

    /// Another process of this host commits while this one lists: its entry is no sign that the repository was wound back.
    #[tokio::test]
    async fn what_is_remembered_while_the_log_is_listed_is_not_missed() {
        let dir = tempfile::tempdir().unwrap();
        let signer = Signer::generate();
        let entry = KeyEntry { name: "host".into(), public_key: signer.public_key(), roles: vec![Role::Write, Role::Admin] };
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let repository = Repository::create("main", store.clone(), vec![entry], &signer).await.unwrap();
        let scope = Scope::new(repository, "orders".parse().unwrap(), dir.path());
        let later = RememberedHead { number: 4, sha256: Sha256Digest::of(b"entry") };

        let (state, source) = (scope.state.clone(), scope.source.clone());
        let meanwhile = FaultyStore::interrupted(store, 0, move || state.remember_head(&source, later).unwrap());
        let beside = Scope { repository: scope.repository.clone().reading_from(Arc::new(meanwhile)), ..scope.clone() };
        assert_eq!(look(&beside).await.unwrap().wound_back, None);
        let gone = WoundBack { number: 4, replaced: false };
        assert_eq!(look(&scope).await.unwrap().wound_back, Some(gone), "it was remembered before");

        let earlier = RememberedHead { number: 3, ..later };
        scope.state.remember_head(&scope.source, earlier).unwrap();
        assert_eq!(scope.state.head(&scope.source).unwrap(), Some(later), "what is later stays");
    }
}
