//! One backup's own objects: the mark that it began, its key, the list of its packs.

use serde::{Deserialize, Serialize};

use super::commit::LogFloor;
use super::keyring::Role;
use super::pack::PackLine;
use super::signed::{self, Place, Signer};
use super::{Repository, decode_error, layout, read_error};
use crate::base::{BackupId, Error, Result, SourceName, Timestamp};
use crate::codec::encrypt::{DataKey, Identity, Opener, Recipient, Seal};
use crate::codec::{CodecError, Sha256Digest};
use crate::store::{PutOutcome, list_all};

/// `begin.json`: tells a backup in flight from an orphan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// The backup's id.
    pub id: BackupId,
    /// The backup it builds on.
    pub base: Option<BackupId>,
    /// Host and process that take it.
    pub host: String,
    /// Process id on that host.
    pub process: u32,
    /// The scheduler's lease token; 0 without a lease.
    pub lease_token: u64,
    /// When it began, by that host's clock.
    pub started: Timestamp,
    /// The incarnation, and the LSN from which its log is needed; unknown in documents of earlier versions.
    #[serde(default)]
    pub log_start: Option<LogFloor>,
}

/// Announces a backup.
///
/// # Errors
/// Failed when the id is taken: two backups in one second with the same letters; a retry takes another id.
pub async fn begin(repository: &Repository, source: &SourceName, signer: &Signer, begin: &Begin) -> Result<()> {
    let place = Place::of_source("begin", repository.id(), source);
    let key = layout::begin(source, &begin.id);
    match repository.store().put_if_absent(&key, signed::sign(place, begin, signer).into()).await? {
        PutOutcome::Created => Ok(()),
        PutOutcome::AlreadyExists => Err(Error::busy(format!("{key} exists already")).hint("run the same command again")),
    }
}

/// What a backup announced; `None` when it did not.
///
/// # Errors
/// Damaged when the announcement does not verify.
pub async fn load_begin(repository: &Repository, source: &SourceName, id: &BackupId) -> Result<Option<Begin>> {
    let key = layout::begin(source, id);
    let place = Place::of_source("begin", repository.id(), source);
    let judge = |document: &[u8]| signed::verify::<Begin>(document, &place, |id| repository.keyring().key_for(id, Role::Write));
    let begin = match signed::read_judged(repository.store(), &key, judge).await {
        Ok((_, begin)) => begin.map_err(|error| read_error(&key, error))?,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if begin.id == *id { Ok(Some(begin)) } else { Err(Error::damaged(format!("{key} is a copy of that of backup {}", begin.id))) }
}

/// How the data of a new backup is sealed: to an identity of its own, which is wrapped to `recipients`, stored and forgotten.
/// Without recipients nothing is encrypted.
///
/// # Errors
/// When the repository does not answer.
pub async fn store_key(
    repository: &Repository,
    source: &SourceName,
    id: &BackupId,
    recipients: Option<&[Recipient]>,
) -> Result<Seal> {
    let Some(recipients) = recipients else { return Ok(Seal::Plain) };
    let data_key = DataKey::generate();
    let wrapped = data_key.wrap(recipients).map_err(|error| Error::usage("cannot wrap the backup's key").caused_by(error))?;
    let key = layout::backup_key(source, id, 1);
    match repository.store().put_if_absent(&key, wrapped.into()).await? {
        PutOutcome::Created => Ok(Seal::Age(data_key.recipient())),
        PutOutcome::AlreadyExists => Err(Error::busy(format!("{key} exists already")).hint("run the same command again")),
    }
}

/// What opens the data of a backup.
///
/// # Errors
/// Failed when no identity at hand fits, damaged when the wrapped key is missing or altered.
pub async fn opener(
    repository: &Repository,
    source: &SourceName,
    id: &BackupId,
    encrypted: bool,
    identities: &[Identity],
) -> Result<Opener> {
    if !encrypted {
        return Ok(Opener::Plain);
    }
    let (mut unwrapped, mut refused) = (Vec::new(), None);
    // The latest wrapping first: it is the one for the recipients of today.
    for object in list_all(repository.store(), &layout::backup_keys(source, id), None).await?.into_iter().rev() {
        if layout::backup_key_wrapping(source, id, &object.key).is_none() {
            continue;
        }
        let wrapped = repository.store().get(&object.key).await?;
        match DataKey::unwrap(&wrapped, identities) {
            Ok(key) => unwrapped.push(key.identity().clone()),
            Err(error) => refused = refused.or(Some(decode_error(&object.key, error))),
        }
    }
    // Whoever knows the recipients can forge a wrapping, which then opens nothing: all that unwrap are tried.
    if !unwrapped.is_empty() {
        return Ok(Opener::Age(unwrapped));
    }
    Err(refused
        .unwrap_or_else(|| Error::damaged(format!("the key of backup {id} ({}) is missing", layout::backup_key(source, id, 1)))))
}

/// The text of `packs.jsonl`.
pub fn packs_text(packs: &[PackLine]) -> Vec<u8> {
    let lines = packs.iter().map(|pack| serde_json::to_string(pack).expect("a pack line is a plain struct") + "\n");
    lines.collect::<String>().into_bytes()
}

/// Reads `packs.jsonl` and checks it against the commit entry's digest.
///
/// # Errors
/// Damaged when it is missing, altered or not of the expected form.
pub async fn load_packs(
    repository: &Repository,
    source: &SourceName,
    id: &BackupId,
    expected: Sha256Digest,
) -> Result<Vec<PackLine>> {
    let key = layout::packs_list(source, id);
    let text = repository.store().get(&key).await?;
    let found = Sha256Digest::of(&text);
    if found != expected {
        return Err(read_error(&key, CodecError::Digest { stored: expected.to_string(), found: found.to_string() }));
    }
    let lines = text.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    let packs: Vec<PackLine> =
        lines.map(serde_json::from_slice).collect::<Result<_, _>>().map_err(|error| read_error(&key, error))?;
    match (1..).zip(&packs).find(|(number, pack)| *number != pack.pack) {
        None => Ok(packs),
        Some((number, _)) => Err(Error::damaged(format!("{key} has no line for pack {number}"))),
    }
}
