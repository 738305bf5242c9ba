//! Packs: frames laid end to end, one age file over the whole, one put each.
//!
//! A frame is addressed by its offset in the decrypted pack. Frames of one pack may belong to many files;
//! a frame never spans two files.

use std::io::{self, Write};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::codec::digest::DigestingWriter;
use crate::codec::encrypt::{Seal, SealWriter};
use crate::codec::frame::Frame;
use crate::codec::{FrameDigest, Sha256Digest};

/// Where a frame lies and what it holds. In JSON an array: `[owner, pack, offset, stored_len, raw_len, digest]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u32, u32, u64, u32, u32, FrameDigest)", into = "(u32, u32, u64, u32, u32, FrameDigest)")]
pub struct FrameRef {
    /// Index of the backup that holds the frame, in the manifest header's table of owners.
    pub owner: u32,
    /// Number of the pack in that backup, counted from 1.
    pub pack: u32,
    /// Offset of the zstd frame in the decrypted pack, in bytes.
    pub offset: u64,
    /// Length of the zstd frame in bytes.
    pub stored_len: u32,
    /// Length of the raw data in bytes.
    pub raw_len: u32,
    /// Digest of the raw data.
    pub digest: FrameDigest,
}

impl From<(u32, u32, u64, u32, u32, FrameDigest)> for FrameRef {
    fn from((owner, pack, offset, stored_len, raw_len, digest): (u32, u32, u64, u32, u32, FrameDigest)) -> Self {
        Self { owner, pack, offset, stored_len, raw_len, digest }
    }
}

impl From<FrameRef> for (u32, u32, u64, u32, u32, FrameDigest) {
    fn from(frame: FrameRef) -> Self {
        (frame.owner, frame.pack, frame.offset, frame.stored_len, frame.raw_len, frame.digest)
    }
}

/// A line of `packs.jsonl`: what each stored pack must look like, checkable without any key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackLine {
    /// Number, counted from 1, without gaps.
    pub pack: u32,
    /// Length of the stored object in bytes.
    pub stored_bytes: u64,
    /// SHA-256 of the stored object.
    pub sha256: Sha256Digest,
}

/// A pack being filled in memory.
pub struct PackBuilder {
    writer: SealWriter<DigestingWriter<Vec<u8>>>,
    plain_bytes: u64,
}

impl PackBuilder {
    /// An empty pack that will hold about `capacity_bytes`.
    ///
    /// # Errors
    /// Only when encryption fails to start.
    pub fn new(seal: &Seal, capacity_bytes: usize) -> io::Result<Self> {
        let memory = Vec::with_capacity(capacity_bytes + capacity_bytes / 1024 + 4096);
        Ok(Self { writer: seal.writer(DigestingWriter::new(memory))?, plain_bytes: 0 })
    }

    /// Appends a frame and returns its offset.
    ///
    /// # Errors
    /// Only when memory runs out.
    pub fn add(&mut self, frame: &Frame) -> io::Result<u64> {
        let offset = self.plain_bytes;
        self.writer.write_all(&frame.stored)?;
        self.plain_bytes += frame.stored.len() as u64;
        Ok(offset)
    }

    /// Bytes of frames added so far.
    pub fn plain_bytes(&self) -> u64 {
        self.plain_bytes
    }

    /// The stored object and its digest.
    ///
    /// # Errors
    /// Only when memory runs out.
    pub fn finish(self) -> io::Result<(Bytes, Sha256Digest)> {
        let (stored, sha256, _) = self.writer.finish()?.finish();
        Ok((stored.into(), sha256))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::compress::{Compressor, Decompressor};
    use crate::codec::encrypt::{DataKey, Opener};
    use crate::codec::frame;

    #[test]
    fn frames_are_found_again_at_their_offsets() {
        let key = DataKey::generate();
        let mut builder = PackBuilder::new(&Seal::Age(key.recipient()), 1 << 20).unwrap();
        let mut compressor = Compressor::new(3).unwrap();
        let contents: Vec<Vec<u8>> = (0..40u8).map(|n| vec![n; 1000 * usize::from(n)]).collect();
        let refs: Vec<_> = contents
            .iter()
            .map(|raw| {
                let encoded = frame::encode(&mut compressor, raw).unwrap();
                (builder.add(&encoded).unwrap(), encoded)
            })
            .collect();
        let (stored, sha256) = builder.finish().unwrap();
        assert_eq!(sha256, Sha256Digest::of(&stored));
        let plain = Opener::Age(vec![key.identity().clone()]).open(&stored).unwrap();
        let mut decompressor = Decompressor::new().unwrap();
        for ((offset, encoded), raw) in refs.iter().zip(&contents) {
            let bytes = &plain[*offset as usize..][..encoded.stored.len()];
            assert_eq!(&frame::decode(&mut decompressor, bytes, encoded.raw_len, encoded.digest).unwrap(), raw);
        }
    }
}
