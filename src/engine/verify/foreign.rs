//! The frames that a directory's backup has of those it builds on: each must be one that they list as their own.
//!
//! A directory's chunks are found by their content, so such a frame may belong to any file there. On disk, like all frames:
//! they are compared pack by pack, a sixty-fourth of all at a time.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use super::frames::{FrameSorter, Named, SortedFrames};
use crate::base::BackupId;
use crate::codec::Sha256Digest;
use crate::repo::manifest::FileLine;
use crate::repo::pack::FrameRef;

/// Every frame that `line` names, with its address where it has one.
pub(super) fn named(line: &FileLine) -> impl Iterator<Item = Named> + '_ {
    let tree = line.tree.as_deref();
    let address = move |index: usize| -> Option<Sha256Digest> { tree?.addresses.get(index).copied() };
    let frames = line.frames.iter().enumerate().map(move |(index, frame)| Named { frame: *frame, address: address(index) });
    frames.chain(line.patches.iter().map(|patch| Named { frame: patch.frame, address: None }))
}

/// Frames of other backups being collected.
pub(super) struct Foreign {
    sorter: FrameSorter,
    packs: u32,
    dir: PathBuf,
}

impl Foreign {
    /// For frames in packs numbered up to `packs`, in new files in `dir`, which is removed in the end.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(dir: &Path, packs: u32) -> io::Result<Self> {
        std::fs::create_dir(dir)?;
        Ok(Self { sorter: FrameSorter::new(dir, packs)?, packs, dir: dir.to_owned() })
    }

    /// Adds the frames that `line` has of other backups.
    ///
    /// # Errors
    /// Says which pack is none.
    pub fn add(&mut self, line: &FileLine) -> Result<(), String> {
        for named in named(line).filter(|named| named.frame.owner > 0) {
            if !self.sorter.add(&named).map_err(|error| error.to_string())? {
                return Err(format!("{} lies in pack {}, which does not exist", line.path, named.frame.pack));
            }
        }
        Ok(())
    }

    /// Compares them with the frames of the backups `ids` from the second on; of one whose manifest is damaged, which is told
    /// with that, there are none.
    ///
    /// # Errors
    /// Says which frame is none of theirs.
    pub fn compare(self, ids: &[BackupId], mut theirs: Vec<Option<SortedFrames>>) -> Result<(), String> {
        let mut ours = self.sorter.finish().map_err(|error| error.to_string())?;
        for pack in 1..=self.packs {
            let wanted = ours.of_pack(pack).map_err(|error| error.to_string())?;
            let owners: HashSet<u32> = wanted.iter().map(|named| named.frame.owner).collect();
            for owner in owners {
                let Some(Some(known)) = theirs.get_mut(owner as usize - 1) else { continue };
                let known = known.of_pack(pack).map_err(|error| error.to_string())?;
                let known: HashSet<_> = known.iter().map(key).collect();
                if let Some(stranger) = wanted.iter().find(|named| named.frame.owner == owner && !known.contains(&key(named))) {
                    let FrameRef { offset, .. } = stranger.frame;
                    let id = ids.get(owner as usize).map(ToString::to_string).unwrap_or_default();
                    return Err(format!("has a frame at {offset} in pack {pack} of {id}, which that backup does not have"));
                }
            }
        }
        std::fs::remove_dir_all(&self.dir).map_err(|error| error.to_string())
    }
}

/// What makes two frames of one pack the same, whoever names them.
fn key(named: &Named) -> (u64, u32, u32, [u8; 16], Option<[u8; 32]>) {
    let FrameRef { offset, stored_len, raw_len, digest, .. } = named.frame;
    (offset, stored_len, raw_len, digest.0, named.address.map(|address| address.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::RelPath;
    use crate::codec::FrameDigest;
    use crate::repo::manifest::FileKind;
    use crate::repo::manifest::tree::TreeLine;

    fn line(frames: &[(u32, u32, u64)]) -> FileLine {
        let frame = |(owner, pack, offset): &(u32, u32, u64)| FrameRef {
            owner: *owner,
            pack: *pack,
            offset: *offset,
            stored_len: 5,
            raw_len: 9,
            digest: FrameDigest::of(&offset.to_le_bytes()),
        };
        let addresses = frames.iter().map(|(_, _, offset)| Sha256Digest::of(&offset.to_le_bytes())).collect();
        let tree = Box::new(TreeLine { addresses, ..TreeLine::default() });
        let bare = FileLine::bare(RelPath::new("a").unwrap(), FileKind::File);
        FileLine { frames: frames.iter().map(frame).collect(), tree: Some(tree), ..bare }
    }

    #[test]
    fn a_frame_of_another_backup_must_be_its_own() {
        let ids: Vec<BackupId> = ["20261120T030002Z-incr-aaaa", "20261120T030001Z-incr-aaaa", "20261120T030000Z-full-aaaa"]
            .map(|id| id.parse().unwrap())
            .to_vec();
        let own = |dir: &Path, frames: &[(u32, u32, u64)]| {
            std::fs::create_dir(dir).unwrap();
            let mut sorter = FrameSorter::new(dir, 3).unwrap();
            named(&line(frames)).for_each(|named| assert!(sorter.add(&named).unwrap()));
            Some(sorter.finish().unwrap())
        };
        let compared = |line: &FileLine| {
            let dir = tempfile::tempdir().unwrap();
            let theirs = vec![own(&dir.path().join("1"), &[(0, 1, 10), (0, 1, 20)]), own(&dir.path().join("2"), &[(0, 3, 30)])];
            let mut foreign = Foreign::new(&dir.path().join("foreign"), 3).unwrap();
            foreign.add(line).and_then(|()| foreign.compare(&ids, theirs))
        };
        assert_eq!(compared(&line(&[(0, 2, 77), (1, 1, 20), (2, 3, 30), (1, 1, 20)])), Ok(()));
        for stranger in [(1, 1, 30), (1, 2, 10), (2, 1, 10), (2, 3, 10)] {
            let told = compared(&line(&[(1, 1, 10), stranger])).unwrap_err();
            assert!(told.contains("does not have") && told.contains(ids[stranger.0 as usize].as_str()), "{told}");
        }
        assert!(compared(&line(&[(1, 4, 10)])).unwrap_err().contains("does not exist"));
        let mut lying = line(&[(1, 1, 10)]);
        lying.tree.as_mut().unwrap().addresses[0] = Sha256Digest::of(b"another");
        assert!(compared(&lying).unwrap_err().contains("does not have"));
    }
}
