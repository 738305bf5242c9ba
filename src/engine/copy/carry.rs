//! One object from one store to another, compared with what it must be on the way.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use tempfile::TempPath;

use crate::base::cancel::Cancel;
use crate::base::progress::Progress;
use crate::base::{Error, Result};
use crate::codec::Sha256Digest;
use crate::codec::digest::DigestingWriter;
use crate::store::{Body, PutOutcome, Store};

/// Bytes fetched at one time; what is longer goes through a file.
const PIECE_BYTES: u64 = 8 << 20;
/// How often an object is read that is not as expected, or of which nobody says how it must be.
const READS: usize = 3;

/// Two stores and a place for what is on its way.
#[derive(Clone)]
pub(in crate::engine) struct Carrier {
    pub from: Arc<dyn Store>,
    pub to: Arc<dyn Store>,
    pub scratch: PathBuf,
    pub progress: Arc<dyn Progress>,
    pub cancel: Cancel,
}

/// An object to carry.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Load {
    pub key: String,
    /// Its name in the other store.
    pub new_key: String,
    /// What it may be; empty when nobody says.
    pub expected: Vec<Sha256Digest>,
}

/// What came of a load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Carried {
    /// It is there, durably.
    Stored { sha256: Sha256Digest, bytes: u64 },
    /// An object of that name and length was there; encrypted by somebody else it may have other bytes.
    Present,
    /// It is not what it must be, and was not stored.
    Damaged { why: String },
}

/// What was read of an object; a file of it goes with this value.
struct Fetched {
    body: Body,
    sha256: Sha256Digest,
    bytes: u64,
    _file: Option<TempPath>,
}

impl Carrier {
    /// Carries one object. One that is there under its new name is compared by its length. A read may be damaged on its
    /// way: one that is not as expected is made again, and of what nobody vouches for two must agree.
    ///
    /// # Errors
    /// When a store does not answer; damaged when another object has the new name.
    pub async fn carry(&self, load: &Load) -> Result<Carried> {
        let Load { key, new_key, expected } = load;
        let mut seen: Vec<Sha256Digest> = Vec::new();
        loop {
            self.cancel.check()?;
            let Some(Fetched { body, sha256, bytes, _file }) = self.fetch(key).await? else {
                return Ok(Carried::Damaged { why: "it is missing".to_owned() });
            };
            let is_steady = seen.contains(&sha256);
            let is_right = expected.contains(&sha256) || (expected.is_empty() && is_steady);
            seen.push(sha256);
            if !is_right && !is_steady && seen.len() < READS {
                continue;
            }
            self.progress.advance(bytes);
            if is_right {
                return Ok(match self.put(new_key, body, bytes).await? {
                    true => Carried::Stored { sha256, bytes },
                    false => Carried::Present,
                });
            }
            return Ok(Carried::Damaged { why: format!("it is not what was stored: {sha256}, {bytes} bytes") });
        }
    }

    /// Reads an object; none when it is not there.
    async fn fetch(&self, key: &str) -> Result<Option<Fetched>> {
        let mut piece = match self.from.get_range(key, 0..PIECE_BYTES).await {
            Ok(piece) => piece,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if (piece.len() as u64) < PIECE_BYTES {
            let (sha256, bytes) = (Sha256Digest::of(&piece), piece.len() as u64);
            return Ok(Some(Fetched { body: Body::Bytes(piece), sha256, bytes, _file: None }));
        }
        let path = self.scratch.join(format!("{:032x}", rand::random::<u128>()));
        let failed = |error: std::io::Error| Error::io("write", &path, error);
        let mut out = DigestingWriter::new(File::create(&path).map_err(failed)?);
        let file = TempPath::try_from_path(&path).map_err(failed)?;
        loop {
            out.write_all(&piece).map_err(failed)?;
            if (piece.len() as u64) < PIECE_BYTES {
                break;
            }
            self.cancel.check()?;
            let at = out.written_bytes();
            piece = self.from.get_range(key, at..at + PIECE_BYTES).await?;
        }
        let (_, sha256, bytes) = out.finish();
        Ok(Some(Fetched { body: Body::File(path), sha256, bytes, _file: Some(file) }))
    }

    /// Whether it was not there before.
    async fn put(&self, key: &str, body: Body, bytes: u64) -> Result<bool> {
        if self.to.put_if_absent(key, body.clone()).await? == PutOutcome::Created {
            return Ok(true);
        }
        let there = self.to.head(key).await?.size_bytes;
        match there == bytes {
            true => Ok(false),
            false => Err(Error::damaged(format!("{key} is there with {there} bytes, and should have {bytes}"))
                .hint("lifeboat verify   shows what else is wrong in that repository")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::progress::Silent;
    use crate::store::memory::MemoryStore;

    fn carrier(scratch: &std::path::Path) -> Carrier {
        let (from, to) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
        Carrier { from, to, scratch: scratch.to_owned(), progress: Arc::new(Silent), cancel: Cancel::new() }
    }

    #[tokio::test]
    async fn objects_of_any_length_arrive_as_they_are_or_not_at_all() {
        let scratch = tempfile::tempdir().unwrap();
        let carrier = carrier(scratch.path());
        for length in [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 2 * PIECE_BYTES, 2 * PIECE_BYTES + 9] {
            let content: Vec<u8> = (0..length).map(|n| ((n * n) >> 5) as u8).collect();
            let (key, sha256) = (format!("a/{length}"), Sha256Digest::of(&content));
            carrier.from.put_if_absent(&key, content.clone().into()).await.unwrap();
            let load =
                |new: &str, expected: Vec<Sha256Digest>| Load { key: key.clone(), new_key: format!("{new}/{length}"), expected };
            let wrong = carrier.carry(&load("wrong", vec![Sha256Digest::of(b"other")])).await.unwrap();
            assert!(matches!(wrong, Carried::Damaged { .. }), "{length}");
            assert!(carrier.to.head(&format!("wrong/{length}")).await.unwrap_err().is_not_found());
            for (new, expected) in [("any", vec![]), ("right", vec![Sha256Digest::of(b"other"), sha256])] {
                let carried = carrier.carry(&load(new, expected.clone())).await.unwrap();
                assert_eq!(carried, Carried::Stored { sha256, bytes: length });
                assert_eq!(carrier.carry(&load(new, expected)).await.unwrap(), Carried::Present);
            }
            assert_eq!(carrier.to.get(&format!("right/{length}")).await.unwrap(), content);
        }
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "nothing is left on its way");
        let gone = carrier.carry(&Load { key: "a/none".into(), new_key: "b".into(), expected: vec![] }).await.unwrap();
        assert!(matches!(gone, Carried::Damaged { why } if why.contains("missing")));
    }

    #[tokio::test]
    async fn another_object_of_that_name_is_noticed() {
        let scratch = tempfile::tempdir().unwrap();
        let carrier = carrier(scratch.path());
        carrier.from.put_if_absent("a", b"abc".to_vec().into()).await.unwrap();
        carrier.to.put_if_absent("a", b"abcd".to_vec().into()).await.unwrap();
        let error = carrier.carry(&Load { key: "a".into(), new_key: "a".into(), expected: vec![] }).await.unwrap_err();
        assert_eq!(error.kind(), crate::base::ErrorKind::Damaged);
    }
}
