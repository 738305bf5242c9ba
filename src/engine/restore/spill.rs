//! Where each frame goes, on disk and grouped by pack: every pack is fetched once, and memory does not grow with the data.
//!
//! Packs are grouped in the order in which the tree needs them, so that a file's frames and the pages that later backups
//! changed of it are at hand at about the same time.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::base::{Error, RelPath, Result};
use crate::codec::Sha256Digest;
use crate::engine::chain::Member;
use crate::repo::manifest::{FileLine, Stretch};
use crate::repo::pack::FrameRef;

/// Packs whose frames are held in memory together …
const PACKS_IN_GROUP: u32 = 64;
/// … of packs that are full of small files …
const PACKS_OF_SMALL_FRAMES_IN_GROUP: u32 = 4;
/// … but never more groups than this: each is an open file.
const MOST_GROUPS: u32 = 256;

/// A frame and the places of its bytes in one file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::engine) struct Placed {
    pub frame: FrameRef,
    pub path: RelPath,
    /// Bytes of the whole file.
    pub file_bytes: u64,
    #[serde(with = "tuples")]
    pub stretches: Vec<Stretch>,
    /// Of a directory's file: SHA-256 of what the frame holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Sha256Digest>,
    /// Of a directory's file: holes in these bytes, offset in the file and length.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holes: Vec<(u64, u64)>,
}

/// Stretches without the names of their fields: a frame of which single pages are patched has many.
mod tuples {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::Stretch;

    pub fn serialize<S: Serializer>(stretches: &[Stretch], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(stretches.iter().map(|stretch| (stretch.raw_offset, stretch.file_offset, stretch.len_bytes)))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Stretch>, D::Error> {
        let tuples = Vec::<(u32, u64, u32)>::deserialize(deserializer)?;
        let stretch = |(raw_offset, file_offset, len_bytes)| Stretch { raw_offset, file_offset, len_bytes };
        Ok(tuples.into_iter().map(stretch).collect())
    }
}

/// One pack: index of its owner in the chain, and its number.
pub(in crate::engine) type PackId = (u32, u32);

/// Places being spilled.
pub(in crate::engine) struct Spill {
    dir: PathBuf,
    /// The group of every pack seen so far.
    group_of: HashMap<PackId, u32>,
    packs_in_group: u32,
    groups: BTreeMap<u32, BufWriter<File>>,
    raw_bytes: u64,
}

impl Spill {
    /// For frames in the packs of `members`, into new files in `dir`.
    pub fn new(dir: &Path, members: &[Member]) -> Self {
        Self::grouped(dir, members, PACKS_IN_GROUP)
    }

    /// The same where a pack may hold tens of thousands of small frames.
    pub fn of_small_frames(dir: &Path, members: &[Member]) -> Self {
        Self::grouped(dir, members, PACKS_OF_SMALL_FRAMES_IN_GROUP)
    }

    fn grouped(dir: &Path, members: &[Member], packs_in_group: u32) -> Self {
        let packs = members.iter().map(|member| member.packs.len() as u32).sum::<u32>();
        Self {
            dir: dir.to_owned(),
            group_of: HashMap::new(),
            packs_in_group: packs_in_group.max(packs / MOST_GROUPS + 1),
            groups: BTreeMap::new(),
            raw_bytes: 0,
        }
    }

    /// Notes where the frames of `line` go, as far as `wanted` accepts their index.
    pub fn place(&mut self, line: &FileLine, wanted: impl Fn(usize) -> bool) -> Result<()> {
        let mut placements = line.placements_in(wanted);
        placements.sort_by_key(|placement| placement.stretches.first().map(|stretch| stretch.file_offset));
        for placement in placements {
            let (frame, stretches) = (placement.frame, placement.stretches);
            let (path, file_bytes) = (line.path.clone(), line.size_bytes);
            self.add(Placed { frame, path, file_bytes, stretches, address: None, holes: Vec::new() })?;
        }
        Ok(())
    }

    /// Notes where the bytes of one frame go.
    pub fn add(&mut self, placed: Placed) -> Result<()> {
        let frame = placed.frame;
        let next = self.group_of.len() as u32 / self.packs_in_group;
        let group = *self.group_of.entry((frame.owner, frame.pack)).or_insert(next);
        let path = self.dir.join(format!("frames-{group}"));
        let failed = |error: io::Error| Error::io("write", &path, error);
        let out = match self.groups.entry(group) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(BufWriter::new(File::create(&path).map_err(failed)?))
            }
        };
        self.raw_bytes += placed.stretches.iter().map(|stretch| u64::from(stretch.len_bytes)).sum::<u64>();
        serde_json::to_writer(&mut *out, &placed).map_err(|error| failed(error.into()))?;
        out.write_all(b"\n").map_err(failed)
    }

    /// Completes the spill: its files, to be read one after the other, and how many bytes they place.
    pub fn finish(self) -> Result<(Vec<PathBuf>, u64)> {
        let mut paths = Vec::new();
        for (group, mut out) in self.groups {
            let path = self.dir.join(format!("frames-{group}"));
            out.flush().map_err(|error| Error::io("write", &path, error))?;
            paths.push(path);
        }
        Ok((paths, self.raw_bytes))
    }
}

/// The places in one file of a spill: pack by pack, in the order in which they were first needed, each with its frames in
/// the order of their offsets.
pub(super) fn read_group(path: &Path) -> Result<Vec<(PackId, Vec<Placed>)>> {
    let file = File::open(path).map_err(|error| Error::io("read", path, error))?;
    let mut packs: Vec<(PackId, Vec<Placed>)> = Vec::new();
    let mut index_of: HashMap<PackId, usize> = HashMap::new();
    for line in BufReader::new(file).split(b'\n') {
        let line = line.map_err(|error| Error::io("read", path, error))?;
        let placed: Placed = serde_json::from_slice(&line).map_err(|error| Error::io("read", path, error.into()))?;
        let pack = (placed.frame.owner, placed.frame.pack);
        let index = *index_of.entry(pack).or_insert(packs.len());
        if index == packs.len() {
            packs.push((pack, Vec::new()));
        }
        packs[index].1.push(placed);
    }
    for (_, frames) in &mut packs {
        frames.sort_by_key(|placed| placed.frame.offset);
        // A frame of patches is noted once by every thread that compared a part of its file.
        frames.dedup_by(|next, kept| {
            let same = (next.frame, &next.path) == (kept.frame, &kept.path) && next.address.is_none();
            if same {
                kept.stretches.append(&mut next.stretches);
            }
            same
        });
    }
    Ok(packs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::FrameDigest;

    #[test]
    fn a_frame_that_is_placed_in_parts_is_read_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("frames-0");
        let frame = |offset| FrameRef { owner: 1, pack: 2, offset, stored_len: 5, raw_len: 9, digest: FrameDigest::of(b"") };
        let stretch = |file_offset| Stretch { raw_offset: 0, file_offset, len_bytes: 1 };
        let placed = |offset, file_offset| {
            let path = RelPath::new("base/5/16384").unwrap();
            let stretches = vec![stretch(file_offset)];
            let placed = Placed { frame: frame(offset), path, file_bytes: 400, stretches, address: None, holes: vec![] };
            serde_json::to_string(&placed).unwrap() + "\n"
        };
        std::fs::write(&path, [placed(7, 100), placed(3, 200), placed(7, 300)].concat()).unwrap();
        let packs = read_group(&path).unwrap();
        let (pack, frames) = &packs[0];
        assert_eq!((packs.len(), *pack), (1, (1, 2)));
        let found: Vec<(u64, Vec<Stretch>)> =
            frames.iter().map(|placed| (placed.frame.offset, placed.stretches.clone())).collect();
        assert_eq!(found, [(3, vec![stretch(200)]), (7, vec![stretch(100), stretch(300)])]);
    }
}
