//! `archive push`: one file of PostgreSQL's log into the repository, and those that wait behind it.
//!
//! Returns only once the file is durable there. Write order: identity (first time), the stretch's key, the file under a
//! name that carries its digest, then this host's journal, which is stored as a signed index in batches. Segments that
//! PostgreSQL will hand over next are stored at the same time ([`super::ahead`]); what goes wrong with them is told when
//! their own turn comes. Against two servers that write one log: [`super::named`].

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex as StdMutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::{Mutex, OnceCell};

use crate::base::{Error, Incarnation, Result, SegmentSize, Timestamp, killpoint};
use crate::codec::Sha256Digest;
use crate::codec::encrypt::{Recipient, Seal};
use crate::engine::pages::{self, Kept};
use crate::engine::{Scope, Writing};
use crate::repo::Role;
use crate::repo::host_state::Stretch;
use crate::repo::log::SegmentName;
use crate::repo::log::keys::{STRETCH_DAYS, begin_stretch};
use crate::store::PutOutcome;

use super::ahead;
pub use super::named::flush_index;
use super::named::{Found, Named, Streamed};
use super::read::LogFile;

/// What became of a pushed file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The object that holds it.
    pub key: String,
    /// The cluster it belongs to.
    pub incarnation: Incarnation,
    /// As PostgreSQL calls it.
    pub file: String,
    /// SHA-256 of its content.
    pub raw_sha256: Sha256Digest,
    /// Whether it was there before, with the same content.
    pub already_there: bool,
    /// What went wrong beside the archiving itself; the file is safe all the same.
    pub warnings: Vec<String>,
}

impl Pushed {
    fn new(named: Named, key: String, already_there: bool, warnings: Vec<String>) -> Self {
        let Named { incarnation, file, digest: raw_sha256, .. } = named;
        Self { key, incarnation, file, raw_sha256, already_there, warnings }
    }
}

/// Archives `file`, and at the same time segments that wait behind it.
///
/// # Errors
/// Whenever the file is not durable in the repository, and on any contradiction with what is there.
pub async fn run(scope: &Scope, writing: &Writing, file: &Path) -> Result<Pushed> {
    with(scope, writing, file, ahead::waiting_behind(file)).await
}

/// Archives `file`, and leaves those behind it to whoever is storing them.
///
/// # Errors
/// As [`run`].
pub async fn alone(scope: &Scope, writing: &Writing, file: &Path) -> Result<Pushed> {
    with(scope, writing, file, Vec::new()).await
}

async fn with(scope: &Scope, writing: &Writing, file: &Path, behind: Vec<PathBuf>) -> Result<Pushed> {
    killpoint::reach("push.start");
    scope.repository.keyring().require(&writing.signer, Role::Write)?;
    let own = LogFile::read(scope, writing, file, None).await?;
    if let Some(key) = ahead::take(scope, &own.named) {
        return Ok(Pushed::new(own.named, key, true, own.warnings));
    }
    own.named.require_known(scope, writing, own.identity.as_ref()).await?;
    let mut files = vec![own];
    for next in behind {
        match LogFile::read(scope, writing, &next, files.last()).await {
            Ok(next) if next.named.incarnation == files[0].named.incarnation => files.push(next),
            // What is wrong with it is told when its turn comes.
            Ok(_) | Err(_) => break,
        }
    }
    store_all(scope, writing, files).await
}

/// What pushes share that go on at the same time in one process.
#[derive(Default)]
pub struct Company {
    /// Held while a file is read: in their order, so that what straddles out of one is known to the next.
    turn: Mutex<()>,
    /// Clusters that are on record.
    known: StdMutex<BTreeSet<Incarnation>>,
    seal: OnceCell<Seal>,
}

impl Company {
    async fn require_known(&self, scope: &Scope, writing: &Writing, file: &LogFile) -> Result<()> {
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !known().contains(&file.named.incarnation) {
            file.named.require_known(scope, writing, file.identity.as_ref()).await?;
            known().insert(file.named.incarnation.clone());
        }
        Ok(())
    }
}

/// Archives `file` while others, of the same cluster, are archived by the same process.
///
/// # Errors
/// As [`run`].
pub async fn beside(scope: &Scope, writing: &Writing, file: &Path, company: &Company) -> Result<Pushed> {
    killpoint::reach("push.start");
    scope.repository.keyring().require(&writing.signer, Role::Write)?;
    let mut own = {
        let _turn = company.turn.lock().await;
        let mut own = LogFile::read(scope, writing, file, None).await?;
        // For the next one, which is read before this one is stored; and is read all the same without it. What straddles
        // into this one is kept until it is durable: a second attempt may have nothing else to know it from.
        if let Some((carry, next)) = own.carry.take() {
            let incarnation = &own.named.incarnation;
            let remembered = scope.state.remember_carry(&scope.source, incarnation, &next, &carry.to_bytes());
            own.warnings.extend(remembered.err().map(|error| error.summary()));
        }
        own
    };
    if let Some(key) = ahead::take(scope, &own.named) {
        own.warnings.extend(forget_carry(scope, &own.named));
        return Ok(Pushed::new(own.named, key, true, own.warnings));
    }
    company.require_known(scope, writing, &own).await?;
    let stored = store(scope, writing, own, &company.seal).await?.remember(scope, writing).await;
    killpoint::reach("push.recorded");
    Ok(stored)
}

/// Archives a file that was received from the server.
///
/// # Errors
/// As [`run`].
pub(super) async fn received(scope: &Scope, writing: &Writing, file: LogFile) -> Result<Pushed> {
    scope.repository.keyring().require(&writing.signer, Role::Write)?;
    file.named.require_known(scope, writing, file.identity.as_ref()).await?;
    store_all(scope, writing, vec![file]).await
}

/// Archives a segment of a log that Lifeboat keeps itself; `name` lacks nothing but the digest of `raw`.
///
/// # Errors
/// As [`run`].
pub(in crate::engine) async fn own(
    scope: &Scope,
    writing: &Writing,
    incarnation: Incarnation,
    (name, size): (SegmentName, SegmentSize),
    raw: Bytes,
) -> Result<Pushed> {
    received(scope, writing, LogFile::of_own(scope, writing, incarnation, (name, size), raw)?).await
}

/// Stores files at the same time, and remembers them in their order. What becomes of the first is the outcome.
async fn store_all(scope: &Scope, writing: &Writing, files: Vec<LogFile>) -> Result<Pushed> {
    let (seal, count) = (OnceCell::new(), files.len());
    let storing = files.into_iter().map(|file| store(scope, writing, file, &seal));
    let mut storing = futures_util::stream::iter(storing).buffered(count);
    let first = storing.next().await.unwrap_or_else(|| Err(Error::failed("no file was given: this is a bug")))?;
    let own = first.remember(scope, writing).await;
    killpoint::reach("push.recorded");
    // After a failure those that follow are looked at when their turn comes.
    while let Some(Ok(next)) = storing.next().await {
        let named = next.named.clone();
        let pushed = next.remember(scope, writing).await;
        ahead::remember(scope, &named, &pushed.key);
    }
    Ok(own)
}

/// A file that is durable in the repository.
struct Stored {
    named: Named,
    key: String,
    /// Digest and length of the object, when this process stored it.
    line: Option<(Sha256Digest, u64)>,
    already_there: bool,
    /// For a segment: what straddles out of it, encoded, and the next segment's name.
    carry: Option<(Vec<u8>, String)>,
    warnings: Vec<String>,
    streamed: Option<Streamed>,
    pages: Option<Kept>,
}

async fn store(scope: &Scope, writing: &Writing, file: LogFile, shared_seal: &OnceCell<Seal>) -> Result<Stored> {
    let LogFile { named, object, compressing, warnings, carry, streamed, pages, .. } = file;
    let carry = carry.map(|(carry, next)| (carry.to_bytes(), next));
    let repository = scope.repository.store();
    let found = named.look(scope).await?;
    let seal = shared_seal.get_or_try_init(|| seal(scope, writing, &named.incarnation)).await?;
    let (own_key, resolved) = match &found {
        Found::Nothing { resolved } => (format!("{}{}", named.directory(), object(seal.suffix())), *resolved),
        Found::Same { key } => (key.clone(), false),
    };
    let already_there = matches!(found, Found::Same { .. });
    if already_there && own_key.ends_with(".age") != matches!(seal, Seal::Age(_)) {
        // Encryption was turned on or off since: what is there cannot be put again under its name.
        return Ok(Stored { named, key: own_key, line: None, already_there, carry, warnings, streamed, pages });
    }
    let stored =
        compressing.seal(seal).await.map_err(|error| Error::failed(format!("cannot encode {}", named.file)).caused_by(error))?;
    killpoint::reach("push.encoded");
    let (key, stored) = (own_key, Bytes::from(stored));
    // Also when it is listed: that is not yet durable, for whoever put it may have died before its last sync, and it may
    // be gone by now. A put of the same content finds it there and makes it so, or brings it back.
    let outcome = repository.put_if_absent(&key, stored.clone().into()).await?;
    killpoint::reach("push.stored");
    // Whoever put at the same instant is seen now, by us or by them.
    if !resolved && outcome == PutOutcome::Created {
        named.look(scope).await?;
    }
    // Another process may have stored the same content, encrypted otherwise, a moment before: its object is looked at.
    let line = (outcome == PutOutcome::Created).then(|| (Sha256Digest::of(&stored), stored.len() as u64));
    Ok(Stored {
        named,
        key,
        line,
        already_there: already_there && outcome == PutOutcome::AlreadyExists,
        carry,
        warnings,
        streamed,
        pages,
    })
}

/// Forgets what straddles into a file that is durable; what went wrong.
fn forget_carry(scope: &Scope, named: &Named) -> Option<String> {
    scope.state.forget_carry(&scope.source, &named.incarnation, &named.file).err().map(|error| error.summary())
}

impl Stored {
    /// Notes the stored object's digest, what straddles out of the segment and which pages it touches. The file is safe already: what fails
    /// here is a warning.
    async fn remember(self, scope: &Scope, writing: &Writing) -> Pushed {
        let Self { named, key, line, already_there, carry, mut warnings, streamed, pages } = self;
        warnings.extend(pages.and_then(|pages| pages::keep(scope, &pages)));
        if let Some((carry, next)) = carry
            && let Err(error) = scope.state.remember_carry(&scope.source, &named.incarnation, &next, &carry)
        {
            warnings.push(error.summary());
        }
        warnings.extend(forget_carry(scope, &named));
        if let Err(error) = named.note(scope, writing, &key, line, streamed).await {
            warnings.push(format!("{} is archived, but its digest is not signed yet: {}", named.file, error.summary()));
        }
        Pushed::new(named, key, already_there, warnings)
    }
}

/// What the log is sealed with now: the key of the present stretch of it, or of a new one.
///
/// # Errors
/// When the repository does not answer, or what is remembered of the stretch cannot be read.
pub(super) async fn seal(scope: &Scope, writing: &Writing, incarnation: &Incarnation) -> Result<Seal> {
    let Some(recipients) = &writing.recipients else { return Ok(Seal::Plain) };
    let wrapped_to: Vec<String> = recipients.iter().map(ToString::to_string).collect();
    let now = Timestamp::now();
    let longest = Duration::from_secs(STRETCH_DAYS * 86_400);
    if let Some(stretch) = scope.state.stretch(&scope.source, incarnation)?
        && stretch.wrapped_to == wrapped_to
        && now.since(stretch.began) < longest
        && let Ok(recipient) = stretch.recipient.parse::<Recipient>()
    {
        return Ok(Seal::Age(recipient));
    }
    // Without a place to remember it every push would begin a stretch of its own.
    drop(scope.state.journal(&scope.source, incarnation).await?);
    let (number, recipient) = begin_stretch(&scope.repository, &scope.source, incarnation, recipients).await?;
    let stretch = Stretch { number, recipient: recipient.to_string(), wrapped_to, began: now };
    scope.state.remember_stretch(&scope.source, incarnation, &stretch)?;
    killpoint::reach("push.key-stored");
    Ok(Seal::Age(recipient))
}
