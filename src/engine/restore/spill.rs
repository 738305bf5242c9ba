//! Where each frame goes, on disk and grouped by pack: every pack is fetched once, and memory does not grow with the data.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::base::{Error, RelPath, Result};
use crate::engine::chain::Member;
use crate::repo::manifest::{FileLine, Stretch};
use crate::repo::pack::FrameRef;

/// Packs whose frames are held in memory together …
const PACKS_IN_GROUP: u32 = 64;
/// … but never more groups than this: each is an open file.
const MOST_GROUPS: u32 = 256;

/// A frame and the places of its bytes in one file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Placed {
    pub frame: FrameRef,
    pub path: RelPath,
    pub stretches: Vec<Stretch>,
}

/// One pack: index of its owner in the chain, and its number.
pub(super) type PackId = (u32, u32);

/// Places being spilled.
pub(super) struct Spill {
    dir: PathBuf,
    /// For each owner, how many packs those before it have.
    packs_before: Vec<u32>,
    packs_in_group: u32,
    groups: BTreeMap<u32, BufWriter<File>>,
    totals: Totals,
}

/// What was spilled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub raw_bytes: u64,
}

impl Spill {
    /// For frames in the packs of `members`, into new files in `dir`.
    pub fn new(dir: &Path, members: &[Member]) -> Self {
        let mut packs = 0;
        let packs_before = members.iter().map(|member| {
            let before = packs;
            packs += member.packs.len() as u32;
            before
        });
        let packs_before = packs_before.collect();
        Self {
            dir: dir.to_owned(),
            packs_before,
            packs_in_group: PACKS_IN_GROUP.max(packs / MOST_GROUPS + 1),
            groups: BTreeMap::new(),
            totals: Totals::default(),
        }
    }

    /// Notes where the frames of `line` go, as far as `wanted` accepts their index.
    pub fn place(&mut self, line: &FileLine, wanted: impl Fn(usize) -> bool) -> Result<()> {
        for placement in line.placements_in(wanted) {
            let frame = placement.frame;
            let before = self.packs_before.get(frame.owner as usize).copied().unwrap_or(0);
            let group = before.saturating_add(frame.pack.saturating_sub(1)) / self.packs_in_group;
            let path = self.dir.join(format!("frames-{group}"));
            let failed = |error: io::Error| Error::io("write", &path, error);
            let out = match self.groups.entry(group) {
                std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::btree_map::Entry::Vacant(entry) => {
                    entry.insert(BufWriter::new(File::create(&path).map_err(failed)?))
                }
            };
            self.totals.raw_bytes += placement.stretches.iter().map(|stretch| u64::from(stretch.len_bytes)).sum::<u64>();
            let placed = Placed { frame, path: line.path.clone(), stretches: placement.stretches };
            serde_json::to_writer(&mut *out, &placed).map_err(|error| failed(error.into()))?;
            out.write_all(b"\n").map_err(failed)?;
        }
        Ok(())
    }

    /// Completes the spill: its files, to be read one after the other, and what they hold.
    pub fn finish(self) -> Result<(Vec<PathBuf>, Totals)> {
        let mut paths = Vec::new();
        for (group, mut out) in self.groups {
            let path = self.dir.join(format!("frames-{group}"));
            out.flush().map_err(|error| Error::io("write", &path, error))?;
            paths.push(path);
        }
        Ok((paths, self.totals))
    }
}

/// The places in one file of a spill, by pack and in the order of their offsets.
pub(super) fn read_group(path: &Path) -> Result<BTreeMap<PackId, Vec<Placed>>> {
    let file = File::open(path).map_err(|error| Error::io("read", path, error))?;
    let mut packs: BTreeMap<PackId, Vec<Placed>> = BTreeMap::new();
    for line in BufReader::new(file).split(b'\n') {
        let line = line.map_err(|error| Error::io("read", path, error))?;
        let placed: Placed = serde_json::from_slice(&line).map_err(|error| Error::io("read", path, error.into()))?;
        packs.entry((placed.frame.owner, placed.frame.pack)).or_default().push(placed);
    }
    for frames in packs.values_mut() {
        frames.sort_by_key(|placed| placed.frame.offset);
        // A frame of patches is noted once by every thread that compared a part of its file.
        frames.dedup_by(|next, kept| {
            let same = (next.frame, &next.path) == (kept.frame, &kept.path);
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
            serde_json::to_string(&Placed { frame: frame(offset), path, stretches: vec![stretch(file_offset)] }).unwrap() + "\n"
        };
        std::fs::write(&path, [placed(7, 100), placed(3, 200), placed(7, 300)].concat()).unwrap();
        let frames = &read_group(&path).unwrap()[&(1, 2)];
        let found: Vec<(u64, Vec<Stretch>)> =
            frames.iter().map(|placed| (placed.frame.offset, placed.stretches.clone())).collect();
        assert_eq!(found, [(3, vec![stretch(200)]), (7, vec![stretch(100), stretch(300)])]);
    }
}
