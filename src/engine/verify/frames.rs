//! The frames of a manifest, put in the order of the packs that hold them, on disk: memory stays small however many
//! there are.
//!
//! Packs are dealt to a few files by their numbers; one file's frames fit in memory.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use crate::codec::{FrameDigest, Sha256Digest};
use crate::repo::pack::FrameRef;

/// Files that frames are dealt to, at most.
const BUCKETS: u32 = 64;
/// Bytes of one frame's record: owner, pack, offset, two lengths, digest, address.
const RECORD_BYTES: usize = 72;

/// A frame as a manifest names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub frame: FrameRef,
    /// Of a directory's: SHA-256 of what it holds.
    pub address: Option<Sha256Digest>,
}

/// Frames being sorted.
pub(super) struct FrameSorter {
    packs: u32,
    packs_in_bucket: u32,
    buckets: Vec<(PathBuf, BufWriter<File>)>,
}

impl FrameSorter {
    /// For frames of packs numbered from 1 to `packs`, in new files in `dir`.
    ///
    /// # Errors
    /// When a file cannot be made.
    pub fn new(dir: &Path, packs: u32) -> io::Result<Self> {
        let packs_in_bucket = packs.div_ceil(BUCKETS).max(1);
        let bucket = |number: u32| {
            let path = dir.join(format!("frames-{number}"));
            File::create(&path).map(|file| (path, BufWriter::new(file)))
        };
        let buckets = (0..packs.div_ceil(packs_in_bucket)).map(bucket).collect::<io::Result<_>>()?;
        Ok(Self { packs, packs_in_bucket, buckets })
    }

    /// Adds a frame. False when its pack is none of those announced.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn add(&mut self, named: &Named) -> io::Result<bool> {
        let Named { frame, address } = named;
        let Some(index) = frame.pack.checked_sub(1).filter(|index| *index < self.packs) else { return Ok(false) };
        let (_, out) = &mut self.buckets[(index / self.packs_in_bucket) as usize];
        let mut record = [0; RECORD_BYTES];
        record[..4].copy_from_slice(&frame.pack.to_le_bytes());
        record[4..12].copy_from_slice(&frame.offset.to_le_bytes());
        record[12..16].copy_from_slice(&frame.stored_len.to_le_bytes());
        record[16..20].copy_from_slice(&frame.raw_len.to_le_bytes());
        record[20..36].copy_from_slice(&frame.digest.0);
        record[36..40].copy_from_slice(&frame.owner.to_le_bytes());
        // No content has this address.
        record[40..].copy_from_slice(&address.map_or([0; 32], |address| address.0));
        out.write_all(&record).map(|()| true)
    }

    /// The frames, to be read pack by pack.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn finish(self) -> io::Result<SortedFrames> {
        let finish = |(path, mut out): (PathBuf, BufWriter<File>)| out.flush().map(|()| path);
        let paths = self.buckets.into_iter().map(finish).collect::<io::Result<_>>()?;
        Ok(SortedFrames { packs_in_bucket: self.packs_in_bucket, paths, loaded: None })
    }
}

/// Frames by pack. Holds those of a sixty-fourth of all packs in memory.
#[derive(Clone)]
pub(super) struct SortedFrames {
    packs_in_bucket: u32,
    paths: Vec<PathBuf>,
    loaded: Option<(u32, Vec<Named>)>,
}

impl SortedFrames {
    /// Removes the files.
    ///
    /// # Errors
    /// When one cannot be removed.
    pub fn remove(self) -> io::Result<()> {
        match self.paths.first().and_then(|path| path.parent()) {
            Some(dir) => std::fs::remove_dir_all(dir),
            None => Ok(()),
        }
    }

    /// The frames of one pack, by offset. Quick when packs are asked for in ascending order.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn of_pack(&mut self, pack: u32) -> io::Result<Vec<Named>> {
        let bucket = pack.saturating_sub(1) / self.packs_in_bucket;
        let frames = match self.loaded.take() {
            Some((number, frames)) if number == bucket => frames,
            _ => self.paths.get(bucket as usize).map(|path| sorted(path)).transpose()?.unwrap_or_default(),
        };
        let start = frames.partition_point(|named| named.frame.pack < pack);
        let end = frames.partition_point(|named| named.frame.pack <= pack);
        let found = frames[start..end].to_vec();
        self.loaded = Some((bucket, frames));
        Ok(found)
    }
}

fn sorted(path: &Path) -> io::Result<Vec<Named>> {
    let mut file = BufReader::new(File::open(path)?);
    let count = file.get_ref().metadata()?.len() / RECORD_BYTES as u64;
    let mut frames = Vec::new();
    let mut record = [0; RECORD_BYTES];
    for _ in 0..count {
        file.read_exact(&mut record)?;
        frames.push(frame(&record));
    }
    frames.sort_unstable_by_key(|named: &Named| (named.frame.pack, named.frame.offset));
    Ok(frames)
}

fn frame(record: &[u8; RECORD_BYTES]) -> Named {
    let number = |at: usize| u32::from_le_bytes(std::array::from_fn(|index| record[at + index]));
    let address: [u8; 32] = std::array::from_fn(|index| record[40 + index]);
    let frame = FrameRef {
        owner: number(36),
        pack: number(0),
        offset: u64::from_le_bytes(std::array::from_fn(|index| record[4 + index])),
        stored_len: number(12),
        raw_len: number(16),
        digest: FrameDigest(std::array::from_fn(|index| record[20 + index])),
    };
    Named { frame, address: (address != [0; 32]).then_some(Sha256Digest(address)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_by_pack_and_offset() {
        let dir = tempfile::tempdir().unwrap();
        let frame = |pack: u32, offset: u64| Named {
            frame: FrameRef {
                owner: pack % 3,
                pack,
                offset,
                stored_len: pack + 7,
                raw_len: 1 << 31,
                digest: FrameDigest::of(&offset.to_le_bytes()),
            },
            address: (pack.is_multiple_of(2)).then(|| Sha256Digest::of(&offset.to_le_bytes())),
        };
        let mut frames: Vec<Named> = (0..600).map(|n| frame(n * 7 % 200 + 1, u64::from(n) << 33)).collect();
        let mut sorter = FrameSorter::new(dir.path(), 199).unwrap();
        for frame in &frames {
            assert_eq!(sorter.add(frame).unwrap(), frame.frame.pack < 200);
        }
        assert!(!sorter.add(&frame(0, 0)).unwrap());
        let mut found = sorter.finish().unwrap();
        assert!(found.paths.len() as u32 <= BUCKETS);
        frames.sort_by_key(|named| (named.frame.pack, named.frame.offset));
        for pack in (1..200).chain([7]) {
            let expected: Vec<Named> = frames.iter().filter(|named| named.frame.pack == pack).copied().collect();
            assert_eq!(found.of_pack(pack).unwrap(), expected, "pack {pack}");
        }
        assert_eq!(found.of_pack(1000).unwrap(), []);
        assert_eq!(FrameSorter::new(dir.path(), 0).unwrap().finish().unwrap().of_pack(1).unwrap(), []);
    }
}
