//! Bytes in, bytes out, no I/O: digests, compression, encryption and frames.
//!
//! On its way to the repository a byte is framed, digested and compressed (one zstd frame), laid end to end with
//! others, and encrypted (one age file over all). Every stage is undone with stock tools: `age -d … | zstd -d`.

pub mod compress;
pub mod digest;
pub mod encrypt;
pub mod frame;

pub use digest::{FrameDigest, Sha256Digest};

/// Why bytes could not be decoded.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Not zstd, or its checksum does not match, or not of the promised length.
    #[error("compressed data is damaged: {0}")]
    Compression(String),
    /// Not age, altered, or cut short.
    #[error("encrypted data is damaged: {0}")]
    Encryption(String),
    /// None of the identities at hand opens this file.
    #[error("none of the identities at hand opens it")]
    NoMatchingIdentity,
    /// The content is not what its digest says.
    #[error("content does not match its digest: stored {stored}, found {found}")]
    Digest {
        /// Digest written at the backup, in hex.
        stored: String,
        /// Digest of what was read, in hex.
        found: String,
    },
}
