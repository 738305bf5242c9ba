//! A frame: at most [`FRAME_RAW_BYTES`] of one file, compressed on its own, with the digest of what it holds.

use super::compress::{Compressor, Decompressor};
use super::{CodecError, FrameDigest};

/// Raw bytes in a full frame: 32 pages of 8 KiB.
pub const FRAME_RAW_BYTES: usize = 256 << 10;

/// One encoded frame.
pub struct Frame {
    /// The zstd frame.
    pub stored: Vec<u8>,
    /// Length of what it holds.
    pub raw_len: u32,
    /// Digest of what it holds.
    pub digest: FrameDigest,
}

/// Encodes `raw`, which must not be longer than [`FRAME_RAW_BYTES`].
///
/// # Errors
/// Only when zstd runs out of memory.
pub fn encode(compressor: &mut Compressor, raw: &[u8]) -> std::io::Result<Frame> {
    encode_digested(compressor, raw, FrameDigest::of(raw))
}

/// [`encode`] where the digest of `raw` is known already.
///
/// # Errors
/// Only when zstd runs out of memory.
pub fn encode_digested(compressor: &mut Compressor, raw: &[u8], digest: FrameDigest) -> std::io::Result<Frame> {
    assert!(raw.len() <= FRAME_RAW_BYTES, "a frame of {} bytes", raw.len());
    Ok(Frame { stored: compressor.compress(raw)?, raw_len: raw.len() as u32, digest })
}

/// Decodes a frame and checks it against its digest.
///
/// # Errors
/// [`CodecError`] when it is damaged, of another length or of other content.
pub fn decode(decompressor: &mut Decompressor, stored: &[u8], raw_len: u32, digest: FrameDigest) -> Result<Vec<u8>, CodecError> {
    let raw = decompressor.decompress(stored, raw_len as usize)?;
    let found = FrameDigest::of(&raw);
    if found == digest { Ok(raw) } else { Err(CodecError::Digest { stored: digest.to_string(), found: found.to_string() }) }
}
