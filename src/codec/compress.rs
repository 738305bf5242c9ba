//! zstd (RFC 8878): every frame carries its content size and a checksum, and can be decoded alone.

use std::io::{self, BufReader, Read, Write};

use zstd::zstd_safe::CParameter;

use super::CodecError;

/// Compresses one frame at a time; keeps its working memory between calls.
pub struct Compressor(zstd::bulk::Compressor<'static>);

impl Compressor {
    /// A compressor at zstd `level` (1 to 19; negative levels are faster still).
    ///
    /// # Errors
    /// When zstd refuses the level.
    pub fn new(level: i32) -> io::Result<Self> {
        let mut inner = zstd::bulk::Compressor::new(level)?;
        inner.set_parameter(CParameter::ChecksumFlag(true))?;
        Ok(Self(inner))
    }

    /// One frame holding `raw`.
    ///
    /// # Errors
    /// Only when zstd runs out of memory.
    pub fn compress(&mut self, raw: &[u8]) -> io::Result<Vec<u8>> {
        self.0.compress(raw)
    }
}

/// Decodes one frame at a time; keeps its working memory between calls.
pub struct Decompressor(zstd::bulk::Decompressor<'static>);

impl Decompressor {
    /// A fresh decompressor.
    ///
    /// # Errors
    /// Only when zstd runs out of memory.
    pub fn new() -> io::Result<Self> {
        Ok(Self(zstd::bulk::Decompressor::new()?))
    }

    /// The content of the one frame in `frame`, which must be exactly `raw_len` bytes long.
    ///
    /// # Errors
    /// [`CodecError::Compression`] when the frame is damaged or of another length; never allocates more than `raw_len`.
    pub fn decompress(&mut self, frame: &[u8], raw_len: usize) -> Result<Vec<u8>, CodecError> {
        let raw = self.0.decompress(frame, raw_len).map_err(|error| CodecError::Compression(error.to_string()))?;
        if raw.len() == raw_len {
            Ok(raw)
        } else {
            Err(CodecError::Compression(format!("{} bytes where {raw_len} were written", raw.len())))
        }
    }
}

/// A writer that compresses a stream into one frame; call `finish` on it.
///
/// # Errors
/// When zstd refuses the level.
pub fn stream_writer<W: Write>(inner: W, level: i32) -> io::Result<zstd::stream::Encoder<'static, W>> {
    let mut encoder = zstd::stream::Encoder::new(inner, level)?;
    encoder.include_checksum(true)?;
    Ok(encoder)
}

/// A reader of a stream written by [`stream_writer`], or of frames laid end to end.
///
/// # Errors
/// Only when zstd runs out of memory.
pub fn stream_reader<R: Read>(inner: R) -> io::Result<zstd::stream::Decoder<'static, BufReader<R>>> {
    zstd::stream::Decoder::new(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_round_trip_alone_and_end_to_end() {
        let mut compressor = Compressor::new(3).unwrap();
        let (a, b) = (vec![7u8; 300_000], (0..=255u8).collect::<Vec<_>>());
        let (fa, fb) = (compressor.compress(&a).unwrap(), compressor.compress(&b).unwrap());
        let mut decompressor = Decompressor::new().unwrap();
        assert_eq!(decompressor.decompress(&fb, b.len()).unwrap(), b);
        assert_eq!(decompressor.decompress(&fa, a.len()).unwrap(), a);
        let mut joined = Vec::new();
        stream_reader([fa, fb].concat().as_slice()).unwrap().read_to_end(&mut joined).unwrap();
        assert_eq!(joined, [a, b].concat());
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let raw: Vec<u8> = (0..2000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let frame = Compressor::new(3).unwrap().compress(&raw).unwrap();
        let mut decompressor = Decompressor::new().unwrap();
        for bit in (0..frame.len() * 8).step_by(7) {
            let mut damaged = frame.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            // Bits that zstd ignores (reserved, content size hints) leave the content intact.
            if let Ok(decoded) = decompressor.decompress(&damaged, raw.len()) {
                assert_eq!(decoded, raw, "bit {bit}");
            }
        }
        assert!(decompressor.decompress(&frame, raw.len() - 1).is_err());
        assert!(decompressor.decompress(&frame, raw.len() + 1).is_err());
        assert!(decompressor.decompress(&frame[..frame.len() - 1], raw.len()).is_err());
    }
}
