//! Digests: SHA-256 for stored objects and log segments, XXH3-128 for frames of raw data.

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

/// SHA-256. Text form: 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256Digest(pub [u8; 32]);

/// XXH3-128 with seed 0, in the canonical (big-endian) byte order. Text form: 32 lower-case hex digits.
///
/// Finds accidents, not attackers: those are held off by the age file around it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameDigest(pub [u8; 16]);

impl Sha256Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The first 16 hex digits: what log object names carry.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..8])
    }
}

impl FrameDigest {
    /// Stands for a digest that is not known: no content is ever taken to have it.
    pub const UNKNOWN: Self = Self([0; 16]);

    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(xxhash_rust::xxh3::xxh3_128(bytes).to_be_bytes())
    }

    /// The digest of all that `reader` gives.
    ///
    /// # Errors
    /// Those of `reader`.
    pub fn of_reader(mut reader: impl Read) -> io::Result<Self> {
        let (mut hasher, mut chunk) = (xxhash_rust::xxh3::Xxh3::new(), vec![0; 256 << 10]);
        loop {
            match reader.read(&mut chunk) {
                Ok(0) => return Ok(Self(hasher.digest128().to_be_bytes())),
                Ok(read) => hasher.update(&chunk[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The low sixteen bits of the XXH3-64 of `bytes` with seed 0: tells that something changed, never that nothing did.
pub fn mark(bytes: &[u8]) -> u16 {
    checksum(bytes) as u16
}

/// The XXH3-64 of `bytes` with seed 0.
pub fn checksum(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bytes)
}

/// Counts and digests what passes through on its way to `inner`.
pub struct DigestingWriter<W> {
    inner: W,
    hasher: Sha256,
    written_bytes: u64,
}

impl<W: Write> DigestingWriter<W> {
    /// A writer in front of `inner`.
    pub fn new(inner: W) -> Self {
        Self { inner, hasher: Sha256::new(), written_bytes: 0 }
    }

    /// Bytes written so far.
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    /// The inner writer, the digest and the length of all that was written.
    pub fn finish(self) -> (W, Sha256Digest, u64) {
        (self.inner, Sha256Digest(self.hasher.finalize().into()), self.written_bytes)
    }
}

impl<W: Write> Write for DigestingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.written_bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

macro_rules! hex_text {
    ($name:ident, $bytes:literal) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }
        impl FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                let mut bytes = [0; $bytes];
                let lower = !text.bytes().any(|b| b.is_ascii_uppercase());
                match hex::decode_to_slice(text, &mut bytes) {
                    Ok(()) if lower => Ok(Self(bytes)),
                    _ => Err(format!("'{text}' is not a digest of {} lower-case hex digits", 2 * $bytes)),
                }
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&hex::encode(self.0))
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                /// Takes the text as it stands in the document: a manifest has millions of digests.
                struct Text;
                impl serde::de::Visitor<'_> for Text {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        write!(f, "{} hex digits", 2 * $bytes)
                    }

                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Text)
            }
        }
    };
}
hex_text!(Sha256Digest, 32);
hex_text!(FrameDigest, 16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_agree_with_published_vectors() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Sha256Digest::of(b"").to_string(), empty);
        assert_eq!(Sha256Digest::of(b"").short(), &empty[..16]);
        // xxhsum -H2 of an empty input.
        assert_eq!(FrameDigest::of(b"").to_string(), "99aa06d3014798d86001c324468d497f");
    }

    #[test]
    fn what_is_read_has_the_digest_of_its_bytes() {
        let bytes: Vec<u8> = (0..600_001_u32).map(|n| (n % 251) as u8).collect();
        for length in [0, 1, 240, 256 << 10, bytes.len()] {
            assert_eq!(FrameDigest::of_reader(&bytes[..length]).unwrap(), FrameDigest::of(&bytes[..length]), "{length}");
        }
    }

    #[test]
    fn text_round_trips_and_rejects_other_forms() {
        let digest = Sha256Digest::of(b"x");
        assert_eq!(digest.to_string().parse::<Sha256Digest>().unwrap(), digest);
        assert!(digest.to_string().to_uppercase().parse::<Sha256Digest>().is_err());
        assert!("00".parse::<FrameDigest>().is_err());
    }

    #[test]
    fn the_writer_digests_what_it_passes_on() {
        let mut writer = DigestingWriter::new(Vec::new());
        writer.write_all(b"abc").unwrap();
        let (inner, digest, length) = writer.finish();
        assert_eq!((inner.as_slice(), digest, length), (b"abc".as_slice(), Sha256Digest::of(b"abc"), 3));
    }
}
