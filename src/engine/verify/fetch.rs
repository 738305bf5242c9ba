//! Reading objects: in pieces where only their digest is wanted, whole where they are decoded.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use bytes::Bytes;

use super::plan::Stored;
use crate::base::{Error, Result};
use crate::codec::Sha256Digest;
use crate::codec::digest::DigestingWriter;
use crate::store::Store;

/// Bytes asked for at one time.
const PIECE_BYTES: u64 = 8 << 20;

/// Length and digest of an object, and with `copy` its content in that file; `None` when it does not exist.
///
/// # Errors
/// When the repository does not answer, or the copy cannot be written.
pub(super) async fn digest(store: &dyn Store, key: &str, copy: Option<&Path>) -> Result<Option<Stored>> {
    let out: Box<dyn Write + Send> = match copy {
        Some(path) => Box::new(File::create(path).map_err(|error| Error::io("create", path, error))?),
        None => Box::new(io::sink()),
    };
    let mut out = DigestingWriter::new(out);
    loop {
        let at = out.written_bytes();
        let piece = match store.get_range(key, at..at + PIECE_BYTES).await {
            Ok(piece) => piece,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        out.write_all(&piece).map_err(|error| Error::io("write", copy.unwrap_or(Path::new("")), error))?;
        if (piece.len() as u64) < PIECE_BYTES {
            let (_, sha256, bytes) = out.finish();
            return Ok(Some(Stored { bytes, sha256 }));
        }
    }
}

/// A whole object with its length and digest; `None` when it does not exist.
///
/// # Errors
/// When the repository does not answer.
pub(super) async fn whole(store: &dyn Store, key: &str) -> Result<Option<(Bytes, Stored)>> {
    match store.get(key).await {
        Ok(content) => {
            let stored = Stored { bytes: content.len() as u64, sha256: Sha256Digest::of(&content) };
            Ok(Some((content, stored)))
        }
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}
