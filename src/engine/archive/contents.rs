//! Opening an archived file: fetched, decrypted, decompressed and compared with the digest in its name.

use std::borrow::Cow;
use std::cell::Cell;

use crate::base::Result;
use crate::codec::compress;
use crate::codec::encrypt::{Opener, Seal};
use crate::codec::{CodecError, Sha256Digest};
use crate::repo::{decode_error, read_error};

thread_local! {
    /// Memory that the next file on this thread is opened into: a page of memory costs as much as decoding what it holds.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Leaves the memory of a file that is done with to the next one that this thread opens.
pub(in crate::engine) fn give_back(raw: Vec<u8>) {
    SPARE.set(raw);
}

/// The raw file in the stored object `stored`, called `key`, at most `limit_bytes` long. `opener` opens it if it is
/// encrypted, as its name tells: a repository may have changed between plain and encrypted.
///
/// # Errors
/// Damaged when it is altered, cut short, longer than `limit_bytes`, or not the content that `digest` (16 hex digits) names.
pub(in crate::engine) fn open(key: &str, stored: &[u8], opener: &Opener, digest: &str, limit_bytes: u64) -> Result<Vec<u8>> {
    let frames = match key.ends_with(".age") {
        true => Cow::Owned(opener.open(stored).map_err(|error| decode_error(key, error))?),
        false => Cow::Borrowed(stored),
    };
    let raw = compress::decode(&frames, limit_bytes, SPARE.take()).map_err(|error| read_error(key, error))?;
    let found = Sha256Digest::of(&raw).short();
    if found == digest { Ok(raw) } else { Err(read_error(key, CodecError::Digest { stored: digest.to_owned(), found })) }
}

/// A file being compressed on a thread of its own, while the caller reads and digests it.
pub(super) struct Compressing(std::thread::JoinHandle<std::io::Result<Vec<u8>>>);

impl Compressing {
    /// Starts to compress `raw`.
    pub fn start(raw: bytes::Bytes, level: i32) -> Self {
        Self(std::thread::spawn(move || compress::Compressor::new(level)?.compress(&raw)))
    }

    /// The stored object: what was compressed, sealed. Waits for it beside the runtime's other tasks.
    ///
    /// # Errors
    /// Only when memory runs out.
    pub async fn seal(self, seal: &Seal) -> std::io::Result<Vec<u8>> {
        let seal = seal.clone();
        let sealing = move || seal.seal(&self.0.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        tokio::task::spawn_blocking(sealing).await.map_err(std::io::Error::other)?
    }
}
