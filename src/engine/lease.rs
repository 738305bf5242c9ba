//! Taking the lease of a source, keeping it while a verb works, and being sure of it before a commit.
//!
//! A lease that is held by a run that ended without giving it back is taken over: at once by the next run from the same
//! state directory, which has its lock and so knows that the other one is dead; by anybody else when the object has not
//! been rewritten for the lease's life and a third of it. How long that is, is told by the store's time of the object and
//! this host's clock, or, where these disagree, by watching: the holder's own clock is never asked, and a wrong clock
//! anywhere costs time or doubles work, and no more, because the commit log refuses the token of a lease that was lost.
//!
//! A holder trusts no clock either: right before a commit it renews under the condition that nothing changed. A process
//! that was stopped past its lease's life and goes on later either finds the lease still its own, or does not commit.
//!
//! Without conditional writes ([`Ability::None`]) each write is followed by a pause and a look at what stands there. Two
//! that write in the same instant see the same winner then, unless one of them was slower than the pause; the commit log
//! still refuses whoever has the older token, but two may work under the same one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::Scope;
use super::backup::host_name;
use crate::base::cancel::Cancel;
use crate::base::units::format_duration;
use crate::base::{Error, ErrorKind, Result, Timestamp};
use crate::repo::lease::{self, Holder, Lease};
use crate::repo::{CommitLog, Signer, layout};
use crate::store::{PutOutcome, StoreError, StoreResult};

/// How long a holder tries to make sure that it still is one, before it gives up.
const CHECK_PATIENCE: Duration = Duration::from_secs(20);
/// Longest pause between two looks at a lease that another run holds.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a store can do for a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ability {
    /// It writes under a condition.
    Conditional,
    /// It has no conditional writes, or accepts conditions and ignores them.
    None,
}

/// How a lease is taken.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// How long it counts after each renewal.
    pub ttl: Duration,
    /// How long to wait for another run.
    pub wait: Duration,
    /// What the store can do; none to ask it.
    pub ability: Option<Ability>,
    /// Without conditional writes: longer than any write takes.
    pub settle: Duration,
}

impl Terms {
    /// Life of a lease when nothing else is asked for.
    pub const TTL: Duration = Duration::from_secs(120);

    /// For a store with conditional writes, without waiting.
    pub fn new(ttl: Duration) -> Self {
        Self { ttl, wait: Duration::ZERO, ability: None, settle: Duration::from_secs(2) }
    }

    /// After what time without a renewal others take the lease.
    fn patience(ttl: Duration) -> Duration {
        ttl + ttl / 3
    }
}

/// A lease that this process holds and renews until it is given back. Dropped, it is left to run out.
pub struct Held {
    keeper: Arc<Keeper>,
    renewing: JoinHandle<()>,
}

struct Keeper {
    scope: Scope,
    signer: Signer,
    terms: Terms,
    token: u64,
    holder: Holder,
    acquired: Timestamp,
    /// Version of the object as this run wrote it last. Locked for the whole of a renewal.
    version: tokio::sync::Mutex<String>,
    /// Who has it now, once it is lost.
    lost_to: Mutex<Option<String>>,
    lost: Cancel,
}

/// Takes the lease of `scope` for `purpose`.
///
/// The caller holds this host's lock of the source ([`crate::repo::host_state::HostState::lock_backup`]), and goes on
/// holding it as long as the lease.
///
/// # Errors
/// Busy, naming the holder, when another run has it for longer than `terms` wait; interrupted by `cancel`; when the
/// repository does not answer.
pub async fn acquire(scope: &Scope, signer: &Signer, purpose: &str, terms: Terms, cancel: &Cancel) -> Result<Held> {
    let holder = Holder {
        id: hex::encode(rand::random::<[u8; 16]>()),
        host: host_name(),
        process: std::process::id(),
        purpose: purpose.to_owned(),
        installation: scope.state.installation(&scope.source)?,
        boot: boot(),
    };
    let terms = Terms { ability: Some(ability(scope, terms).await?), ..terms };
    let began = Instant::now();
    let mut watched: Option<(String, Instant)> = None;
    loop {
        cancel.check()?;
        let found = lease::load(&scope.repository, &scope.source).await?;
        let version = found.as_ref().map(|(_, version)| version.clone());
        if watched.as_ref().map(|(version, _)| version) != version.as_ref() {
            watched = version.clone().map(|version| (version, Instant::now()));
        }
        let since = watched.as_ref().map(|(_, since)| since.elapsed()).unwrap_or_default();
        let found = found.map(|(lease, _)| lease);
        if is_free(scope, found.as_ref(), &holder, since).await? {
            let used = CommitLog::load(&scope.repository, &scope.source).await?.newest_token();
            let token = found.as_ref().map_or(0, |lease| lease.token).max(used) + 1;
            if let Some(held) = take(scope, signer, terms, token, &holder, version.as_deref()).await? {
                return Ok(held);
            }
        } else if began.elapsed() >= terms.wait {
            return Err(busy(scope, found.as_ref(), terms.wait));
        }
        let pause = LOOK_EVERY.min(terms.ttl / 6).mul_f64(rand::random_range(0.75..1.25));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = cancel.cancelled() => return Err(Error::interrupted()),
        }
    }
}

/// What the store of `scope` can do, unless `terms` say so.
async fn ability(scope: &Scope, terms: Terms) -> Result<Ability> {
    match terms.ability {
        Some(ability) => Ok(ability),
        None if scope.repository.store().honours_conditions().await? => Ok(Ability::Conditional),
        None => Ok(Ability::None),
    }
}

/// Whether the lease, which has not been rewritten for as long as this run `watched` it, may be taken.
async fn is_free(scope: &Scope, found: Option<&Lease>, own: &Holder, watched: Duration) -> Result<bool> {
    let Some(lease) = found else { return Ok(true) };
    let Some(holder) = &lease.holder else { return Ok(true) };
    // This run has the lock that the holder had: the holder is dead.
    if (&holder.installation, &holder.boot) == (&own.installation, &own.boot) {
        return Ok(true);
    }
    let patience = Terms::patience(Duration::from_secs(lease.ttl_seconds));
    if watched >= patience {
        return Ok(true);
    }
    let key = layout::lease(&scope.source);
    match scope.repository.store().head(&key).await {
        Ok(info) => Ok(Timestamp::now().since(info.modified) >= patience),
        Err(error) if error.is_not_found() => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Whether some run holds the lease of `scope` and may be at work. A run of this host that died holds it no more: its
/// lock is free.
///
/// # Errors
/// When the repository does not answer, or the lease is damaged.
pub async fn is_held(scope: &Scope) -> Result<bool> {
    let found = lease::load(&scope.repository, &scope.source).await?.map(|(lease, _)| lease);
    let Some(holder) = found.as_ref().and_then(|lease| lease.holder.as_ref()) else { return Ok(false) };
    let own = Holder { installation: scope.state.installation(&scope.source)?, boot: boot(), ..holder.clone() };
    if own == *holder {
        return Ok(scope.state.lock_backup(&scope.source).is_err());
    }
    Ok(!is_free(scope, found.as_ref(), &own, Duration::ZERO).await?)
}

fn busy(scope: &Scope, found: Option<&Lease>, waited: Duration) -> Error {
    let source = &scope.source;
    let error = match found.and_then(|lease| Some((lease, lease.holder.as_ref()?))) {
        Some((lease, holder)) => Error::busy(format!(
            "{source} is busy in repository {}: {} on {} holds its lease",
            scope.repository.name(),
            holder.purpose,
            holder.host
        ))
        .detail("holder", format!("process {} on {}", holder.process, holder.host))
        .detail("since", lease.acquired.human_seconds())
        .detail("until", format!("{} unless it is renewed, by that host's clock", lease.expires.human_seconds())),
        None => Error::busy(format!("others took the lease of {source} in repository {} first", scope.repository.name())),
    };
    let error = match waited.is_zero() {
        true => error,
        false => error.detail("waited", format_duration(waited)),
    };
    error.hint("wait for it to end, or let this run wait: --wait 30m")
}

/// Writes the lease; none when somebody else was faster.
async fn take(
    scope: &Scope,
    signer: &Signer,
    terms: Terms,
    token: u64,
    holder: &Holder,
    expected: Option<&str>,
) -> Result<Option<Held>> {
    let keeper = Keeper {
        scope: scope.clone(),
        signer: signer.clone(),
        terms,
        token,
        holder: holder.clone(),
        acquired: Timestamp::now(),
        version: tokio::sync::Mutex::new(String::new()),
        lost_to: Mutex::new(None),
        lost: Cancel::new(),
    };
    match keeper.write(Some(holder.clone()), expected).await? {
        Written::Ours(version) => *keeper.version.lock().await = version,
        Written::NotOurs => return Ok(None),
    }
    let keeper = Arc::new(keeper);
    let renewing = tokio::spawn(keep(Arc::clone(&keeper)));
    Ok(Some(Held { keeper, renewing }))
}

/// Renews until the lease is lost.
async fn keep(keeper: Arc<Keeper>) {
    let mut pause = keeper.terms.ttl / 3;
    while !keeper.lost.is_cancelled() {
        tokio::time::sleep(pause).await;
        // While the repository does not answer the lease may run out; it is still ours until somebody takes it.
        pause = match keeper.renew().await {
            Ok(()) => keeper.terms.ttl / 3,
            Err(_) => (keeper.terms.ttl / 12).max(Duration::from_millis(100)),
        };
    }
}

/// What came of a write.
enum Written {
    /// The object is as this run wrote it, in this version.
    Ours(String),
    /// It is not.
    NotOurs,
}

impl Keeper {
    /// Writes the lease with `holder` over the version `expected`.
    async fn write(&self, holder: Option<Holder>, expected: Option<&str>) -> Result<Written> {
        let (repository, source) = (&self.scope.repository, &self.scope.source);
        let lease = Lease {
            token: self.token,
            holder,
            acquired: self.acquired,
            expires: Timestamp::now().plus(self.terms.ttl),
            ttl_seconds: self.terms.ttl.as_secs().max(1),
        };
        let document = lease::document(repository, source, &self.signer, &lease);
        let key = layout::lease(source);
        let outcome = match self.terms.ability {
            Some(Ability::Conditional) | None => repository.store().replace_if(&key, document, expected).await,
            Some(Ability::None) => {
                let outcome = overwrite(&self.scope, &key, document, expected).await;
                tokio::time::sleep(self.terms.settle).await;
                // Whatever the store said: what stands there now counts.
                outcome.map(|_| None)
            }
        };
        match outcome {
            Ok(Some(version)) => Ok(Written::Ours(version)),
            // An error may come after the deed, and a condition may have failed because of an earlier write of our own.
            Ok(None) => self.look(&lease).await,
            Err(error) if error.is_retryable() => match self.look(&lease).await? {
                Written::Ours(version) => Ok(Written::Ours(version)),
                Written::NotOurs => Err(error.into()),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// Whether exactly `wanted` stands there.
    async fn look(&self, wanted: &Lease) -> Result<Written> {
        Ok(match lease::load(&self.scope.repository, &self.scope.source).await? {
            Some((lease, version)) if lease == *wanted => Written::Ours(version),
            _ => Written::NotOurs,
        })
    }

    /// Makes the lease count for its whole life from now on.
    async fn renew(&self) -> Result<()> {
        let mut version = self.version.lock().await;
        for _ in 0..3 {
            self.check_not_lost()?;
            if self.terms.ability == Some(Ability::None) {
                self.refresh(&mut version).await?;
            }
            match self.write(Some(self.holder.clone()), Some(version.as_str())).await? {
                Written::Ours(written) => {
                    *version = written;
                    return Ok(());
                }
                // A renewal of our own may have happened although it was answered by an error.
                Written::NotOurs => self.refresh(&mut version).await?,
            }
        }
        Err(Error::unreachable(format!("the lease of {} cannot be renewed", self.scope.source)))
    }

    /// Learns the version of the object, if it is still ours.
    async fn refresh(&self, version: &mut String) -> Result<()> {
        let found = lease::load(&self.scope.repository, &self.scope.source).await?;
        match found {
            Some((lease, found)) if lease.token == self.token && lease.holder.as_ref() == Some(&self.holder) => {
                *version = found;
                Ok(())
            }
            other => {
                let now = other.and_then(|(lease, _)| Some(format!("{} (token {})", lease.holder?.host, lease.token)));
                let now = now.unwrap_or_else(|| "nobody".to_owned());
                *self.lost_to.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
                self.lost.cancel();
                self.check_not_lost()
            }
        }
    }

    fn check_not_lost(&self) -> Result<()> {
        match self.lost_to.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            None => Ok(()),
            Some(now) => Err(Error::busy(format!(
                "the lease of {} was lost: this host did not renew it for too long, and another run took it",
                self.scope.source
            ))
            .detail("held now by", now.clone())
            .hint("nothing was committed; run the same command again when the other run has ended")),
        }
    }
}

/// Writes over what is there, on a store that knows no conditions.
async fn overwrite(scope: &Scope, key: &str, document: bytes::Bytes, expected: Option<&str>) -> StoreResult<()> {
    let store = scope.repository.store();
    match store.replace_if(key, document.clone(), expected).await {
        Ok(_) => Ok(()),
        Err(StoreError::Permanent { .. }) => {
            store.delete(key).await?;
            match store.put_if_absent(key, document.into()).await? {
                PutOutcome::Created | PutOutcome::AlreadyExists => Ok(()),
            }
        }
        Err(error) => Err(error),
    }
}

impl Held {
    /// Its token.
    pub fn token(&self) -> u64 {
        self.keeper.token
    }

    /// Makes sure that this run still holds the lease, and will for its whole life from now on.
    ///
    /// # Errors
    /// Busy when another run took it; when the repository does not answer, so that nobody can be sure.
    pub async fn check(&self) -> Result<()> {
        let began = Instant::now();
        loop {
            match self.keeper.renew().await {
                Err(error) if error.kind() == ErrorKind::Unreachable && began.elapsed() < CHECK_PATIENCE => {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// Waits until the lease is lost.
    pub async fn lost(&self) {
        self.keeper.lost.cancelled().await;
    }

    /// Why a verb that was told to stop must stop, if it is because of the lease.
    ///
    /// # Errors
    /// Busy when another run took it.
    pub fn check_not_lost(&self) -> Result<()> {
        self.keeper.check_not_lost()
    }

    /// Gives the lease back, so that the next run need not wait. A failure is no harm: it runs out.
    pub async fn release(self) {
        self.renewing.abort();
        let mut version = self.keeper.version.lock().await;
        // The renewal that was cut off may have been written.
        if let Ok(Written::NotOurs) = self.keeper.write(None, Some(version.as_str())).await
            && self.keeper.refresh(&mut version).await.is_ok()
        {
            let _ = self.keeper.write(None, Some(version.as_str())).await;
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

/// This host's boot; empty where the system does not tell.
pub(in crate::engine) fn boot() -> String {
    crate::base::boot_id().unwrap_or_default()
}
