//! Who may write and who may expire: the versions of the public keys, each signed by the one before.
//!
//! Version 1 is signed by one of its own administrators and pinned by its digest in `lifeboat.toml`
//! (`root = "…"`); from there every later version follows.

use serde::{Deserialize, Serialize};

use super::signed::{self, FORMAT, KeyId, Place, PublicKey, SignedError, Signer};
use super::{layout, read_error};
use crate::base::{Error, Result, Timestamp};
use crate::codec::Sha256Digest;
use crate::store::{Store, list_all};

/// What a key may sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Backups and logs: held by protected hosts.
    Write,
    /// Expiries and resolutions of split brains: held by operators, on no protected host.
    Expire,
    /// The next version of the keys: held offline.
    Admin,
}

impl Role {
    fn as_str(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Expire => "expire",
            Self::Admin => "admin",
        }
    }
}

/// A public key and what it may sign.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyEntry {
    /// Whose key it is, for people.
    pub name: String,
    /// The key.
    pub public_key: PublicKey,
    /// What it may sign.
    pub roles: Vec<Role>,
}

#[derive(Serialize, Deserialize)]
struct Body {
    version: u32,
    created: Timestamp,
    /// SHA-256 of the version before, as stored.
    previous: Option<Sha256Digest>,
    keys: Vec<KeyEntry>,
}

/// The keys in force.
#[derive(Clone, Debug)]
pub struct Keyring {
    /// SHA-256 of version 1 as stored: what `lifeboat.toml` pins.
    pub root: Sha256Digest,
    /// The version in force.
    pub version: u32,
    keys: Vec<KeyEntry>,
    /// Keys of earlier versions: what they signed then stays valid.
    retired: Vec<KeyEntry>,
    /// Objects among the keys that no administrator made, and that are not used: key and why.
    pub problems: Vec<(String, String)>,
}

fn place(repository: &str) -> Place {
    Place { format: FORMAT, document: "keys".into(), repository: repository.into(), source: None }
}

impl Keyring {
    /// The bytes of version 1, signed by `admin`, which must be among `keys` with the role `admin`.
    pub fn first(repository: &str, created: Timestamp, keys: Vec<KeyEntry>, admin: &Signer) -> Vec<u8> {
        signed::sign(place(repository), &Body { version: 1, created, previous: None, keys }, admin)
    }

    /// Reads and verifies every version. What no administrator signed is not used: whoever may put objects could put one
    /// here, and must not make the repository unreadable by it.
    ///
    /// # Errors
    /// Damaged when version 1 is not sound, or when an administrator signed a version that does not follow.
    pub async fn load(store: &dyn Store, repository: &str) -> Result<Self> {
        let mut versions: Vec<u32> = Vec::new();
        for object in list_all(store, layout::KEYS, None).await? {
            let number = object.key[layout::KEYS.len()..].strip_suffix(".json").and_then(|number| number.parse::<u32>().ok());
            versions.extend(number);
        }
        versions.sort_unstable();
        versions.dedup();
        if versions.first() != Some(&1) {
            return Err(Error::damaged(format!("{} is missing from {}", layout::keyring(1), store.url())));
        }
        let mut documents = Vec::new();
        for version in versions {
            match store.get(&layout::keyring(version)).await {
                Ok(document) => documents.push((version, document)),
                // Named otherwise than versions are, as `02.json`.
                Err(error) if error.is_not_found() && version > 1 => {}
                Err(error) => return Err(error.into()),
            }
        }
        Self::from_documents(repository, &documents).map_err(|(version, error)| read_error(&layout::keyring(version), error))
    }

    fn from_documents<B: AsRef<[u8]>>(repository: &str, documents: &[(u32, B)]) -> Result<Self, (u32, SignedError)> {
        let malformed = |version: u32, why: &str| (version, SignedError::Malformed(why.to_owned()));
        let first = documents.first().ok_or_else(|| malformed(1, "it does not exist"))?.1.as_ref();
        // Version 1 vouches for itself; the pin vouches for it.
        let own: Body = {
            let mut keys = Vec::new();
            let line = first.split(|b| *b == b'\n').next().unwrap_or_default();
            if let Ok(body) = serde_json::from_slice::<Body>(line) {
                keys = body.keys;
            }
            signed::verify(first, &place(repository), |id| find(&keys, id, Role::Admin)).map_err(|error| (1, error))?
        };
        let mut keyring =
            Self { root: Sha256Digest::of(first), version: 1, keys: own.keys, retired: Vec::new(), problems: Vec::new() };
        let mut previous = keyring.root;
        for (version, document) in &documents[1..] {
            let (version, document) = (*version, document.as_ref());
            let by_admin = |id: &KeyId| find(&keyring.keys, id, Role::Admin).or_else(|| find(&keyring.retired, id, Role::Admin));
            let body = match signed::verify::<Body>(document, &place(repository), by_admin) {
                Ok(body) if body.version == version => body,
                Ok(body) => {
                    let why = format!("it is a copy of version {}", body.version);
                    keyring.problems.push((layout::keyring(version), why));
                    continue;
                }
                Err(error) => {
                    keyring.problems.push((layout::keyring(version), error.to_string()));
                    continue;
                }
            };
            let in_force = signed::verify::<Body>(document, &place(repository), |id| find(&keyring.keys, id, Role::Admin));
            if in_force.is_err() || body.previous != Some(previous) {
                return Err(malformed(version, "it does not follow the version before: one between is missing or was replaced"));
            }
            previous = Sha256Digest::of(document);
            let replaced = std::mem::replace(&mut keyring.keys, body.keys);
            keyring.retired.extend(replaced);
            keyring.version = version;
        }
        Ok(keyring)
    }

    /// The key with this id if it has, or in an earlier version had, the right to sign for `role`.
    pub fn key_for(&self, id: &KeyId, role: Role) -> Option<PublicKey> {
        find(&self.keys, id, role).or_else(|| find(&self.retired, id, role))
    }

    /// Checks that `signer` may now sign for `role`.
    ///
    /// # Errors
    /// Usage, naming the keys that may.
    pub fn require(&self, signer: &Signer, role: Role) -> Result<()> {
        if find(&self.keys, &signer.id(), role).is_some() {
            return Ok(());
        }
        let allowed = self.keys.iter().filter(|key| key.roles.contains(&role));
        let allowed: Vec<String> = allowed.map(|key| format!("{} ({})", key.public_key.id(), key.name)).collect();
        Err(Error::usage(format!("signing key {} has no '{}' right in this repository", signer.id(), role.as_str()))
            .detail("keys that have", if allowed.is_empty() { "none".to_owned() } else { allowed.join(", ") })
            .hint(match role {
                Role::Write => "set [signing] key_file in lifeboat.toml to the key that lifeboat init made for this host",
                Role::Expire | Role::Admin => "sign with the operator's key, which is kept offline: --key FILE",
            }))
    }

    /// The keys in force.
    pub fn keys(&self) -> &[KeyEntry] {
        &self.keys
    }
}

fn find(keys: &[KeyEntry], id: &KeyId, role: Role) -> Option<PublicKey> {
    let entry = keys.iter().find(|key| key.public_key.id() == *id && key.roles.contains(&role))?;
    Some(entry.public_key.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(signer: &Signer, roles: &[Role]) -> KeyEntry {
        KeyEntry { name: "test".into(), public_key: signer.public_key(), roles: roles.to_vec() }
    }

    fn next(version: u32, previous: &[u8], keys: Vec<KeyEntry>, signer: &Signer) -> Vec<u8> {
        let body = Body { version, created: Timestamp::now(), previous: Some(Sha256Digest::of(previous)), keys };
        signed::sign(place("r"), &body, signer)
    }

    #[test]
    fn versions_follow_each_other_through_administrators_only() {
        let (admin, host, new_host) = (Signer::generate(), Signer::generate(), Signer::generate());
        let both = vec![entry(&admin, &[Role::Admin, Role::Expire]), entry(&host, &[Role::Write])];
        let first = Keyring::first("r", Timestamp::now(), both, &admin);
        let keys = vec![entry(&admin, &[Role::Admin]), entry(&new_host, &[Role::Write])];
        let second = next(2, &first, keys.clone(), &admin);
        let ring = Keyring::from_documents("r", &[(1, &first), (2, &second)]).unwrap();
        assert_eq!((ring.version, ring.root), (2, Sha256Digest::of(&first)));
        assert!(ring.require(&new_host, Role::Write).is_ok());
        assert!(ring.require(&host, Role::Write).is_err(), "a retired key signs no more");
        assert!(ring.key_for(&host.id(), Role::Write).is_some(), "what it signed stays valid");
        assert!(ring.key_for(&host.id(), Role::Expire).is_none());
        assert!(Keyring::from_documents("other", &[(1, &first)]).is_err());
        let unsigned_admin = Keyring::first("r", Timestamp::now(), vec![entry(&host, &[Role::Write])], &host);
        assert!(Keyring::from_documents("r", &[(1, unsigned_admin)]).is_err());
        // An administrator's version whose predecessor is not there: something was taken away.
        let third = next(3, &second, keys.clone(), &admin);
        assert!(Keyring::from_documents("r", &[(1, &first), (3, &third)]).is_err());
        assert_eq!(Keyring::from_documents("r", &[(1, &first), (2, &second), (3, &third)]).unwrap().version, 3);
    }

    #[test]
    fn what_no_administrator_made_is_told_and_not_used() {
        let (admin, host, thief) = (Signer::generate(), Signer::generate(), Signer::generate());
        let keys = vec![entry(&admin, &[Role::Admin, Role::Expire]), entry(&host, &[Role::Write])];
        let first = Keyring::first("r", Timestamp::now(), keys, &admin);
        let wanted = vec![entry(&thief, &[Role::Write, Role::Expire, Role::Admin])];
        let (by_host, by_thief) = (next(2, &first, wanted.clone(), &host), next(2, &first, wanted, &thief));
        for planted in [by_host, by_thief, first.clone(), b"junk".to_vec(), Vec::new()] {
            for version in [2, 7] {
                let ring = Keyring::from_documents("r", &[(1, &first), (version, &planted)]).unwrap();
                assert_eq!((ring.version, ring.problems.len()), (1, 1));
                assert!(ring.key_for(&thief.id(), Role::Write).is_none() && ring.require(&host, Role::Write).is_ok());
                // What an administrator makes under the next free number counts.
                let next = next(version + 1, &first, ring.keys().to_vec(), &admin);
                let ring = Keyring::from_documents("r", &[(1, &first), (version, &planted), (version + 1, &next)]).unwrap();
                assert_eq!((ring.version, ring.problems.len()), (version + 1, 1));
            }
        }
    }
}
