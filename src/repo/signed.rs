//! Signed documents: plain JSON that anyone can read and nobody can alter.
//!
//! A document is two lines. The first is a JSON object, the payload; the second is
//! `{"key":"<key id>","signature":"<base64>"}`, an Ed25519 signature (RFC 8032) over the exact bytes of the first
//! line without its line feed. So no canonical form of JSON is needed, and stock tools verify it.
//! The payload names its kind, repository and source: a document moved elsewhere is noticed.

use std::fmt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use ed25519_dalek::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::base::{Error, Result, SourceName};
use crate::codec::Sha256Digest;
use crate::store::{Store, StoreResult};

/// The repository format this program reads and writes.
pub const FORMAT: u32 = 1;

/// First 16 hex digits of the SHA-256 of a public key's 32 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(String);

impl KeyId {
    fn of(key: &VerifyingKey) -> Self {
        Self(Sha256Digest::of(key.as_bytes()).short())
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A public key, as base64 of its DER SubjectPublicKeyInfo (RFC 8410): the body of a PEM public key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Its id.
    pub fn id(&self) -> KeyId {
        KeyId::of(&self.0)
    }
}

impl Serialize for PublicKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let der = self.0.to_public_key_der().map_err(serde::ser::Error::custom)?;
        serializer.serialize_str(&BASE64.encode(der.as_bytes()))
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let der = BASE64.decode(text).map_err(serde::de::Error::custom)?;
        VerifyingKey::from_public_key_der(&der).map(Self).map_err(serde::de::Error::custom)
    }
}

/// A private signing key.
#[derive(Clone)]
pub struct Signer(SigningKey);

impl Signer {
    /// A fresh one from the system's randomness.
    pub fn generate() -> Self {
        Self(SigningKey::from_bytes(&rand::random()))
    }

    /// Reads a PKCS #8 PEM file, as `openssl genpkey -algorithm ed25519` writes one.
    ///
    /// # Errors
    /// When the file cannot be read or holds no Ed25519 key.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Error::usage(format!("cannot read the signing key {}", path.display()))
                .caused_by(error)
                .hint("[signing] key_file in lifeboat.toml names it; it belongs to the user that runs lifeboat")
        })?;
        SigningKey::from_pkcs8_pem(&text).map(Self).map_err(|error| {
            Error::usage(format!("{} holds no Ed25519 private key in PEM form: {error}", path.display()))
                .hint("lifeboat init --generate-keys DIR   makes one")
        })
    }

    /// The key as a PKCS #8 PEM file's text.
    pub fn to_pem(&self) -> String {
        // Encoding 32 bytes in memory cannot fail.
        self.0.to_pkcs8_pem(Default::default()).expect("an Ed25519 key has a PEM form").to_string()
    }

    /// What verifies its signatures.
    pub fn public_key(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// Its id.
    pub fn id(&self) -> KeyId {
        KeyId::of(&self.0.verifying_key())
    }
}

/// Kind and place of a document; a part of what is signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Repository format.
    pub format: u32,
    /// `keys`, `commit`, `identity`, `begin`, `log-index`, `log-resolution`, `expire`, `drill`,
    /// `run-claim`, `run-end` or `lease`.
    pub document: String,
    /// The repository's id.
    pub repository: String,
    /// The source, where the document belongs to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceName>,
}

impl Place {
    /// The place of a document of `source` in the repository called `repository`.
    pub fn of_source(document: &str, repository: &str, source: &SourceName) -> Self {
        Self { format: FORMAT, document: document.into(), repository: repository.into(), source: Some(source.clone()) }
    }
}

#[derive(Serialize, Deserialize)]
struct Payload<T> {
    #[serde(flatten)]
    place: Place,
    #[serde(flatten)]
    body: T,
}

#[derive(Serialize, Deserialize)]
struct SignatureLine {
    key: KeyId,
    signature: String,
}

/// Why a document is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum SignedError {
    /// Not two lines of JSON of the expected form.
    #[error("it is not a signed document: {0}")]
    Malformed(String),
    /// Written by a later version of this program.
    #[error("it has format {0}; this version of lifeboat reads format {FORMAT}")]
    UnknownFormat(u32),
    /// Moved here from another place.
    #[error("it belongs elsewhere: it is a '{found}' where '{expected}' is expected")]
    WrongPlace {
        /// Kind, repository and source it was written for.
        found: String,
        /// Kind, repository and source it was read from.
        expected: String,
    },
    /// Signed by a key that has no right to.
    #[error("its signing key {0} has no right to sign it")]
    UnknownKey(KeyId),
    /// The signature does not fit the payload.
    #[error("its signature by key {0} does not match: it was altered or forged")]
    BadSignature(KeyId),
}

/// Signs `body` for `place`.
///
/// # Panics
/// When `body` does not serialise to a JSON object: a bug.
pub fn sign<T: Serialize>(place: Place, body: &T, signer: &Signer) -> Vec<u8> {
    let mut document = serde_json::to_vec(&Payload { place, body }).expect("documents are plain structs");
    let signature = BASE64.encode(signer.0.sign(&document).to_bytes());
    document.push(b'\n');
    let line = SignatureLine { key: signer.id(), signature };
    document.extend(serde_json::to_vec(&line).expect("a signature line is a plain struct"));
    document.push(b'\n');
    document
}

/// Verifies a document read from `place` and returns its body. `key_of` gives the public key for an id when that key
/// has the right to sign such a document.
///
/// # Errors
/// [`SignedError`] says why it is not accepted.
pub fn verify<T: DeserializeOwned>(
    document: &[u8],
    place: &Place,
    key_of: impl FnOnce(&KeyId) -> Option<PublicKey>,
) -> std::result::Result<T, SignedError> {
    let malformed = |why: &str| SignedError::Malformed(why.to_owned());
    let end = document.iter().position(|b| *b == b'\n').ok_or_else(|| malformed("it has no second line"))?;
    let (payload, rest) = (&document[..end], &document[end + 1..]);
    // Whoever names the digest of this document must not name that of one that was cut short.
    if !rest.ends_with(b"\n") {
        return Err(malformed("its last line is cut short"));
    }
    let line: SignatureLine = serde_json::from_slice(rest).map_err(|error| malformed(&error.to_string()))?;
    let found: Place = serde_json::from_slice(payload).map_err(|error| malformed(&error.to_string()))?;
    if found.format != FORMAT {
        return Err(SignedError::UnknownFormat(found.format));
    }
    let key = key_of(&line.key).ok_or_else(|| SignedError::UnknownKey(line.key.clone()))?;
    let bytes: [u8; 64] = BASE64
        .decode(&line.signature)
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| malformed("its signature is not 64 bytes of base64"))?;
    key.0.verify_strict(payload, &Signature::from_bytes(&bytes)).map_err(|_| SignedError::BadSignature(line.key))?;
    if found != *place {
        return Err(SignedError::WrongPlace { found: describe(&found), expected: describe(place) });
    }
    serde_json::from_slice::<Payload<T>>(payload).map(|payload| payload.body).map_err(|error| malformed(&error.to_string()))
}

/// Reads the object `key` and has it judged; one that is not accepted is read once more, for it may have been damaged on its
/// way here and not where it lies. The document and the judgement of the last read.
///
/// # Errors
/// The store's.
pub(super) async fn read_judged<T, E>(
    store: &dyn Store,
    key: &str,
    judge: impl Fn(&[u8]) -> std::result::Result<T, E>,
) -> StoreResult<(Bytes, std::result::Result<T, E>)> {
    let first = store.get(key).await?;
    let judged = judge(&first);
    if judged.is_ok() {
        return Ok((first, judged));
    }
    let second = store.get(key).await?;
    let judged = judge(&second);
    Ok((second, judged))
}

fn describe(place: &Place) -> String {
    let source = place.source.as_ref().map(|source| format!(" of {source}")).unwrap_or_default();
    format!("{}{source} in repository {}", place.document, place.repository)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Body {
        number: u32,
    }

    fn place(source: &str) -> Place {
        Place::of_source("commit", "r1", &source.parse().unwrap())
    }

    #[test]
    fn documents_are_accepted_only_whole_in_place_and_from_known_keys() {
        let (signer, stranger) = (Signer::generate(), Signer::generate());
        let document = sign(place("orders"), &Body { number: 7 }, &signer);
        let read = |document: &[u8], place: &Place, key: &Signer| {
            verify::<Body>(document, place, |id| (*id == key.id()).then(|| key.public_key()))
        };
        assert_eq!(read(&document, &place("orders"), &signer).unwrap(), Body { number: 7 });
        assert!(matches!(read(&document, &place("users"), &signer), Err(SignedError::WrongPlace { .. })));
        assert!(matches!(read(&document, &place("orders"), &stranger), Err(SignedError::UnknownKey(_))));
        let forged = sign(place("orders"), &Body { number: 7 }, &stranger);
        assert!(matches!(read(&forged, &place("orders"), &signer), Err(SignedError::UnknownKey(_))));
        let lying = verify::<Body>(&forged, &place("orders"), |_| Some(signer.public_key()));
        assert!(matches!(lying, Err(SignedError::BadSignature(_))));
        for at in 0..document.len() {
            for bit in 0..8 {
                let mut altered = document.clone();
                altered[at] ^= 1 << bit;
                assert!(read(&altered, &place("orders"), &signer).is_err(), "bit {bit} of byte {at}");
            }
            assert!(read(&document[..at], &place("orders"), &signer).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn keys_survive_their_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("signing.key");
        let signer = Signer::generate();
        std::fs::write(&path, signer.to_pem()).unwrap();
        assert_eq!(Signer::read(&path).unwrap().id(), signer.id());
        let json = serde_json::to_string(&signer.public_key()).unwrap();
        assert_eq!(serde_json::from_str::<PublicKey>(&json).unwrap(), signer.public_key());
        std::fs::write(&path, "nonsense").unwrap();
        assert!(Signer::read(&path).is_err());
    }

    #[test]
    fn a_later_format_is_refused_with_its_number() {
        let signer = Signer::generate();
        let document = sign(Place { format: 2, ..place("orders") }, &Body { number: 7 }, &signer);
        let error = verify::<Body>(&document, &place("orders"), |_| Some(signer.public_key())).unwrap_err();
        assert!(error.to_string().contains("format 2"), "{error}");
    }
}
