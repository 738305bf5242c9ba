//! Opening an archived file: fetched, decrypted, decompressed and compared with the digest in its name.

use std::io::{self, BufReader, Read, Write};

use bytes::Bytes;

use crate::base::{Error, Result};
use crate::codec::CodecError;
use crate::codec::compress;
use crate::codec::digest::DigestingWriter;
use crate::codec::encrypt::{Opener, Seal};
use crate::repo::{decode_error, read_error};

/// So much is decoded at once: what becomes of it next finds it in the processor's cache.
const CHUNK_BYTES: usize = 256 << 10;

/// A stored file that was not opened yet.
pub struct Sealed {
    /// The object's name.
    pub key: String,
    /// The object.
    pub stored: Bytes,
    /// Opens it, if it is encrypted.
    pub opener: Opener,
    /// The first 16 hex digits of the SHA-256 of its content.
    pub digest: String,
}

impl Sealed {
    /// Its content, as by [`open`].
    ///
    /// # Errors
    /// As by [`open`].
    pub fn open(&self, limit_bytes: u64) -> Result<Vec<u8>> {
        open(&self.key, &self.stored, &self.opener, &self.digest, limit_bytes)
    }

    /// Its content, in the memory of `raw`, and written to `copy` on the way: what is there is worth nothing after an error.
    ///
    /// # Errors
    /// As by [`open`], and when `copy` cannot be written.
    pub fn open_into(&self, raw: &mut Vec<u8>, copy: impl Write, limit_bytes: u64) -> Result<()> {
        decode(&self.key, &self.stored, &self.opener, &self.digest, limit_bytes, raw, copy)
    }
}

/// The raw file in the stored object `stored`, called `key`, at most `limit_bytes` long. `opener` opens it if it is
/// encrypted, as its name tells: a repository may have changed between plain and encrypted.
///
/// # Errors
/// Damaged when it is altered, cut short, longer than `limit_bytes`, or not the content that `digest` (16 hex digits) names.
pub(in crate::engine) fn open(key: &str, stored: &[u8], opener: &Opener, digest: &str, limit_bytes: u64) -> Result<Vec<u8>> {
    let mut raw = Vec::new();
    decode(key, stored, opener, digest, limit_bytes, &mut raw, io::sink()).map(|()| raw)
}

fn decode(
    key: &str,
    stored: &[u8],
    opener: &Opener,
    digest: &str,
    limit_bytes: u64,
    raw: &mut Vec<u8>,
    copy: impl Write,
) -> Result<()> {
    let opener = if key.ends_with(".age") { opener } else { &Opener::Plain };
    let damaged = |error: io::Error| read_error(key, CodecError::Compression(error.to_string()));
    let sealed = opener.reader(stored).map_err(|error| decode_error(key, error))?;
    let mut decoder = compress::stream_reader(BufReader::with_capacity(64 << 10, sealed)).map_err(damaged)?;
    let mut copy = DigestingWriter::new(copy);
    let mut length = 0;
    loop {
        // Memory that was used before is not cleared before it is written over.
        raw.resize(raw.len().max(length + CHUNK_BYTES), 0);
        let read = match decoder.read(&mut raw[length..length + CHUNK_BYTES]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read.map_err(damaged)?,
        };
        if read == 0 {
            break;
        }
        copy.write_all(&raw[length..length + read])
            .map_err(|error| Error::failed(format!("cannot copy {key}")).caused_by(error))?;
        length += read;
        if length as u64 > limit_bytes {
            return Err(Error::damaged(format!("{key} holds more than {limit_bytes} bytes")));
        }
    }
    raw.truncate(length);
    let (_, found, _) = copy.finish();
    let found = found.short();
    if found == digest { Ok(()) } else { Err(read_error(key, CodecError::Digest { stored: digest.to_owned(), found })) }
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
