//! One line of a manifest, and where each byte of a file lies.

use serde::{Deserialize, Serialize};

use super::tree::TreeLine;
use crate::base::{RelPath, Timestamp};
use crate::codec::FrameDigest;
use crate::codec::frame::FRAME_RAW_BYTES;
use crate::repo::pack::FrameRef;

/// Bytes of a page in a [`Patch`].
pub const PATCH_PAGE_BYTES: u32 = 8192;
/// Pages in a full frame of a file that has patches.
pub const PAGES_IN_FRAME: u32 = FRAME_RAW_BYTES as u32 / PATCH_PAGE_BYTES;

/// One file, directory or link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "FlatLine")]
pub struct FileLine {
    /// Where it belongs in the restored tree.
    pub path: RelPath,
    /// What it is.
    #[serde(flatten)]
    pub kind: FileKind,
    /// Permission bits.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Last modification.
    pub modified: Timestamp,
    /// Inode number; 0 for what lifeboat itself made, such as `backup_label`.
    pub inode: u64,
    /// Bytes stored: the sum of the frames' raw lengths.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub size_bytes: u64,
    /// Content in order: frame n holds the bytes from the end of frame n−1 on, but for the pages that patches hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub frames: Vec<FrameRef>,
    /// Pages stored apart, oldest first. A page counts only when its owner is later than that of the frame it lies in;
    /// among those the last one does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub patches: Vec<Patch>,
    /// Digests of what a restore makes of the frames with patched pages: index in [`FileLine::frames`] and digest,
    /// ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<(u32, FrameDigest)>,
    /// Block numbers of pages that failed their checksum and stayed bad.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bad_blocks: Vec<u32>,
    /// What an entry of a directory's backup has besides, and no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree: Option<Box<TreeLine>>,
}

pub(super) fn is_zero(size: &u64) -> bool {
    *size == 0
}

/// What a [`FileLine`] is.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum FileKind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A relation's file of 8 KiB pages.
    Pages,
    /// A symbolic link kept as it is.
    Symlink {
        /// Its target; bytes that are not UTF-8 are hex after `hex:`.
        target: String,
    },
    /// A link to a tablespace, which a restore may place elsewhere.
    Tablespace {
        /// The directory it named on the protected host, encoded likewise.
        target: String,
    },
    /// A named pipe. It and devices are of directories alone.
    Fifo,
    /// A character device.
    #[serde(rename = "character_device")]
    CharacterDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    #[serde(rename = "block_device")]
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}

/// A [`FileLine`] as its JSON has it. To read it through a flattened enum takes serde several times as long: it would
/// keep every value of the line until it knows the kind.
#[derive(Deserialize)]
struct FlatLine {
    path: RelPath,
    kind: FlatKind,
    target: Option<String>,
    major: Option<u32>,
    minor: Option<u32>,
    mode: u32,
    uid: u32,
    gid: u32,
    modified: Timestamp,
    inode: u64,
    #[serde(default)]
    size_bytes: u64,
    #[serde(default)]
    frames: Vec<FrameRef>,
    #[serde(default)]
    patches: Vec<Patch>,
    #[serde(default)]
    states: Vec<(u32, FrameDigest)>,
    #[serde(default)]
    bad_blocks: Vec<u32>,
    tree: Option<Box<TreeLine>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum FlatKind {
    Directory,
    File,
    Pages,
    Symlink,
    Tablespace,
    Fifo,
    CharacterDevice,
    BlockDevice,
}

impl TryFrom<FlatLine> for FileLine {
    type Error = &'static str;

    fn try_from(flat: FlatLine) -> Result<Self, Self::Error> {
        let target = flat.target.ok_or("a link without a target");
        let numbers = flat.major.zip(flat.minor).ok_or("a device without its numbers");
        let kind = match flat.kind {
            FlatKind::Directory => FileKind::Directory,
            FlatKind::File => FileKind::File,
            FlatKind::Pages => FileKind::Pages,
            FlatKind::Symlink => FileKind::Symlink { target: target? },
            FlatKind::Tablespace => FileKind::Tablespace { target: target? },
            FlatKind::Fifo => FileKind::Fifo,
            FlatKind::CharacterDevice => numbers.map(|(major, minor)| FileKind::CharacterDevice { major, minor })?,
            FlatKind::BlockDevice => numbers.map(|(major, minor)| FileKind::BlockDevice { major, minor })?,
        };
        let FlatLine { path, mode, uid, gid, modified, inode, size_bytes, frames, patches, states, bad_blocks, tree, .. } = flat;
        Ok(Self { path, kind, mode, uid, gid, modified, inode, size_bytes, frames, patches, states, bad_blocks, tree })
    }
}

impl FileKind {
    /// Whether only directories have it.
    pub(super) fn is_of_trees(&self) -> bool {
        matches!(self, Self::Fifo | Self::CharacterDevice { .. } | Self::BlockDevice { .. })
    }

    /// A link's target as text: UTF-8 as it is, other bytes as `hex:…`.
    pub fn encode_target(target: &[u8]) -> String {
        match std::str::from_utf8(target) {
            Ok(text) if !text.starts_with("hex:") => text.to_owned(),
            _ => format!("hex:{}", hex::encode(target)),
        }
    }

    /// Undoes [`FileKind::encode_target`].
    ///
    /// # Errors
    /// When what follows `hex:` is not hex.
    pub fn decode_target(text: &str) -> Result<Vec<u8>, String> {
        match text.strip_prefix("hex:") {
            Some(digits) => hex::decode(digits).map_err(|error| format!("'{text}' is no link target: {error}")),
            None => Ok(text.as_bytes().to_vec()),
        }
    }
}

/// Pages of a file stored apart from the frames they lie in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Patch {
    /// Holds the pages of all runs one after the other.
    pub frame: FrameRef,
    /// First page of the file and number of pages; ascending, not touching each other.
    pub runs: Vec<(u32, u32)>,
}

impl Patch {
    /// Every page it holds, in the order in which they lie in its frame.
    pub fn pages(&self) -> impl Iterator<Item = u32> + '_ {
        self.runs.iter().flat_map(|(first, count)| *first..first.saturating_add(*count))
    }
}

/// A frame and where its bytes go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The frame.
    pub frame: FrameRef,
    /// The parts of it that the file needs; never empty.
    pub stretches: Vec<Stretch>,
}

/// Bytes of a frame and their place in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Offset in the frame's raw data.
    pub raw_offset: u32,
    /// Offset in the file.
    pub file_offset: u64,
    /// Number of bytes.
    pub len_bytes: u32,
}

impl FileLine {
    /// An entry without content, for tests that change what they are about.
    #[cfg(test)]
    pub(crate) fn bare(path: RelPath, kind: FileKind) -> Self {
        Self {
            path,
            kind,
            mode: 0o600,
            uid: 26,
            gid: 26,
            modified: Timestamp::from_unix_micros(0).expect("1970"),
            inode: 5,
            size_bytes: 0,
            frames: vec![],
            patches: vec![],
            states: vec![],
            bad_blocks: vec![],
            tree: None,
        }
    }

    /// The digest of what a restore makes of frame `index`.
    pub fn state(&self, index: usize) -> Option<FrameDigest> {
        let patched = self.states.binary_search_by_key(&index, |(at, _)| *at as usize);
        patched.map(|at| self.states[at].1).ok().or_else(|| self.frames.get(index).map(|frame| frame.digest))
    }

    /// Which patch holds each page that the frame it lies in does not; none for the others. Empty without patches.
    fn page_owners(&self) -> Vec<Option<u32>> {
        if self.patches.is_empty() {
            return Vec::new();
        }
        let pages = self.size_bytes / u64::from(PATCH_PAGE_BYTES);
        let mut owners = vec![None; usize::try_from(pages).unwrap_or(0)];
        for (number, patch) in (0..).zip(&self.patches) {
            for page in patch.pages() {
                let frame = self.frames.get((page / PAGES_IN_FRAME) as usize);
                let is_later = frame.is_some_and(|frame| patch.frame.owner < frame.owner);
                if let (true, Some(owner)) = (is_later, owners.get_mut(page as usize)) {
                    *owner = Some(number);
                }
            }
        }
        owners
    }

    /// Where every byte of the file comes from: disjoint stretches that cover it.
    pub fn placements(&self) -> Vec<Placement> {
        self.placements_in(|_| true)
    }

    /// [`FileLine::placements`] for the frames that `wanted` accepts by their index.
    pub fn placements_in(&self, wanted: impl Fn(usize) -> bool) -> Vec<Placement> {
        let owners = self.page_owners();
        let mut placements = Vec::with_capacity(self.frames.len() + self.patches.len());
        let mut file_offset = 0;
        for (index, frame) in self.frames.iter().enumerate() {
            if wanted(index) {
                let stretches = own_stretches(frame, file_offset, &owners);
                if !stretches.is_empty() {
                    placements.push(Placement { frame: *frame, stretches });
                }
            }
            file_offset += u64::from(frame.raw_len);
        }
        for (number, patch) in (0..).zip(&self.patches) {
            let mut stretches: Vec<Stretch> = Vec::new();
            for (raw_offset, page) in (0..).step_by(PATCH_PAGE_BYTES as usize).zip(patch.pages()) {
                let owned = owners.get(page as usize).copied().flatten() == Some(number);
                if owned && wanted((page / PAGES_IN_FRAME) as usize) {
                    let file_offset = u64::from(page) * u64::from(PATCH_PAGE_BYTES);
                    extend(&mut stretches, Stretch { raw_offset, file_offset, len_bytes: PATCH_PAGE_BYTES });
                }
            }
            if !stretches.is_empty() {
                placements.push(Placement { frame: patch.frame, stretches });
            }
        }
        placements
    }

    /// Drops patches of which no page counts any more, and states of frames without patched pages.
    pub fn drop_superseded(&mut self) {
        let owners = self.page_owners();
        let mut number = 0;
        let mut counting = vec![false; self.patches.len()];
        owners.iter().flatten().for_each(|patch| counting[*patch as usize] = true);
        self.patches.retain(|_| {
            number += 1;
            counting[number - 1]
        });
        let frame_pages = |index: u32| {
            let first = (index * PAGES_IN_FRAME) as usize;
            owners.get(first..owners.len().min(first + PAGES_IN_FRAME as usize)).unwrap_or_default()
        };
        self.states.retain(|(index, _)| frame_pages(*index).iter().any(Option::is_some));
    }

    /// Checks what the layout of patches promises.
    pub(super) fn check_patches(&self) -> Result<(), String> {
        if self.patches.is_empty() && self.states.is_empty() {
            return Ok(());
        }
        let wrong = |what: &str| Err(format!("{} {what}", self.path));
        let (full, last) = self.frames.split_at(self.frames.len().saturating_sub(1));
        let whole = |frame: &FrameRef| frame.raw_len as usize == FRAME_RAW_BYTES;
        if self.kind != FileKind::Pages
            || !full.iter().all(whole)
            || last.iter().any(|last| last.raw_len as usize > FRAME_RAW_BYTES)
        {
            return wrong("has patched pages where there can be none");
        }
        for patch in &self.patches {
            let pages: u64 = patch.runs.iter().map(|(_, count)| u64::from(*count)).sum();
            let ends = patch.runs.iter().map(|(first, count)| first.checked_add(*count));
            let starts = patch.runs.iter().skip(1).map(|(first, _)| Some(*first));
            let ascending = ends.clone().all(|end| end.is_some()) && ends.zip(starts).all(|(end, start)| end < start);
            if !ascending || pages == 0 || pages * u64::from(PATCH_PAGE_BYTES) != u64::from(patch.frame.raw_len) {
                return wrong("has a patch whose pages are not those of its frame");
            }
        }
        if !self.patches.is_sorted_by(|older, newer| older.frame.owner >= newer.frame.owner) {
            return wrong("has patches that are not in the order of their backups");
        }
        let ascending = self.states.is_sorted_by(|(a, _), (b, _)| a < b);
        if !ascending || self.states.last().is_some_and(|(index, _)| *index as usize >= self.frames.len()) {
            return wrong("has digests of frames that it does not have");
        }
        Ok(())
    }
}

/// The stretches of `frame`, which lies at `file_offset`, that no patch holds.
fn own_stretches(frame: &FrameRef, file_offset: u64, owners: &[Option<u32>]) -> Vec<Stretch> {
    let page_bytes = PATCH_PAGE_BYTES as usize;
    let mut stretches = Vec::new();
    for raw_offset in (0..frame.raw_len).step_by(page_bytes) {
        let at = file_offset + u64::from(raw_offset);
        let patched = owners.get((at / u64::from(PATCH_PAGE_BYTES)) as usize).copied().flatten();
        if patched.is_none() {
            let len_bytes = (frame.raw_len - raw_offset).min(PATCH_PAGE_BYTES);
            extend(&mut stretches, Stretch { raw_offset, file_offset: at, len_bytes });
        }
    }
    stretches
}

/// Adds a stretch, to the one before it where both follow each other in the frame and in the file.
fn extend(stretches: &mut Vec<Stretch>, next: Stretch) {
    match stretches.last_mut() {
        Some(last)
            if last.raw_offset + last.len_bytes == next.raw_offset
                && last.file_offset + u64::from(last.len_bytes) == next.file_offset =>
        {
            last.len_bytes += next.len_bytes;
        }
        _ => stretches.push(next),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(owner: u32, raw_len: u32) -> FrameRef {
        FrameRef { owner, pack: 1, offset: 0, stored_len: 10, raw_len, digest: FrameDigest::of(&owner.to_le_bytes()) }
    }

    fn patch(owner: u32, runs: &[(u32, u32)]) -> Patch {
        let pages: u32 = runs.iter().map(|(_, count)| count).sum();
        Patch { frame: frame(owner, pages * PATCH_PAGE_BYTES), runs: runs.to_vec() }
    }

    fn line(frames: Vec<FrameRef>, patches: Vec<Patch>) -> FileLine {
        let path = RelPath::new("base/5/16384").unwrap();
        let size_bytes = frames.iter().map(|frame| u64::from(frame.raw_len)).sum();
        FileLine { size_bytes, frames, patches, ..FileLine::bare(path, FileKind::Pages) }
    }

    /// Who holds each page, found page by page as the rule says, not stretch by stretch.
    fn owners_by_rule(line: &FileLine) -> Vec<u32> {
        let holder = |page: u32| {
            let frame = line.frames[(page / PAGES_IN_FRAME) as usize].owner;
            let patches = line.patches.iter().filter(|patch| patch.pages().any(|held| held == page));
            patches.map(|patch| patch.frame.owner).rfind(|owner| *owner < frame).unwrap_or(frame)
        };
        (0..(line.size_bytes / u64::from(PATCH_PAGE_BYTES)) as u32).map(holder).collect()
    }

    fn owners_by_placement(line: &FileLine) -> Vec<u32> {
        let mut owners = vec![u32::MAX; line.size_bytes as usize / PATCH_PAGE_BYTES as usize];
        for placement in line.placements() {
            for stretch in &placement.stretches {
                assert!(stretch.raw_offset + stretch.len_bytes <= placement.frame.raw_len);
                for page in 0..stretch.len_bytes / PATCH_PAGE_BYTES {
                    let at = (stretch.file_offset / u64::from(PATCH_PAGE_BYTES)) as usize + page as usize;
                    assert_eq!(owners[at], u32::MAX, "page {at} is written twice");
                    owners[at] = placement.frame.owner;
                }
            }
        }
        owners
    }

    #[test]
    fn every_page_comes_from_its_latest_owner_and_is_written_once() {
        const FULL: u32 = FRAME_RAW_BYTES as u32;
        let frames = vec![frame(3, FULL), frame(1, FULL), frame(3, 5 * PATCH_PAGE_BYTES)];
        let patches = vec![patch(2, &[(0, 2), (31, 3), (66, 1)]), patch(1, &[(1, 1), (66, 2)]), patch(0, &[(40, 1), (67, 2)])];
        let mut line = line(frames, patches);
        assert_eq!(owners_by_placement(&line), owners_by_rule(&line));
        assert_eq!(owners_by_rule(&line)[..3], [2, 1, 3]);
        assert_eq!(owners_by_rule(&line)[30..34], [3, 2, 1, 1], "a patch older than the frame does not count");
        assert_eq!(owners_by_rule(&line)[64..], [3, 3, 1, 0, 0]);
        line.check_patches().unwrap();
        line.states = vec![(0, FrameDigest::of(b"a")), (1, FrameDigest::of(b"b")), (2, FrameDigest::of(b"c"))];
        line.patches.insert(2, patch(0, &[(67, 1)]));
        let before = owners_by_rule(&line);
        line.drop_superseded();
        assert_eq!((line.patches.len(), line.states.len()), (3, 3));
        assert_eq!(owners_by_placement(&line), before);
        line.frames[0] = frame(0, FULL);
        line.frames[1] = frame(0, FULL);
        let before = owners_by_rule(&line);
        line.drop_superseded();
        assert_eq!((line.patches.len(), line.states.len()), (2, 1));
        assert_eq!(owners_by_placement(&line), before);
    }

    #[test]
    fn a_part_of_a_file_is_placed_alone() {
        const FULL: u32 = FRAME_RAW_BYTES as u32;
        let line = line(vec![frame(2, FULL), frame(2, FULL)], vec![patch(0, &[(3, 1), (40, 2)])]);
        let second = line.placements_in(|index| index == 1);
        let bytes: u32 = second.iter().flat_map(|placement| &placement.stretches).map(|stretch| stretch.len_bytes).sum();
        assert_eq!(bytes, FULL);
        assert!(second.iter().flat_map(|placement| &placement.stretches).all(|stretch| stretch.file_offset >= FULL.into()));
    }

    #[test]
    fn patches_that_cannot_be_are_refused() {
        const FULL: u32 = FRAME_RAW_BYTES as u32;
        let good = line(vec![frame(1, FULL), frame(1, 100)], vec![patch(0, &[(0, 2), (4, 1)])]);
        good.check_patches().unwrap();
        let with = |change: &dyn Fn(&mut FileLine)| {
            let mut line = good.clone();
            change(&mut line);
            line.check_patches()
        };
        assert!(with(&|line| line.kind = FileKind::File).is_err());
        assert!(with(&|line| line.frames[0].raw_len = 8192).is_err());
        assert!(with(&|line| line.patches[0].runs[1].0 = 2).is_err(), "touching runs");
        assert!(with(&|line| line.patches[0].runs[1].1 = 2).is_err(), "more pages than the frame has");
        assert!(with(&|line| line.patches[0].runs[1] = (u32::MAX, 1)).is_err());
        assert!(with(&|line| line.patches.insert(0, patch(0, &[(0, 1)]))).is_ok());
        assert!(with(&|line| line.patches.push(patch(1, &[(0, 1)]))).is_err(), "an older one after a newer");
        assert!(with(&|line| line.states = vec![(2, FrameDigest::of(b""))]).is_err());
        assert!(with(&|line| line.states = vec![(1, FrameDigest::of(b"")), (0, FrameDigest::of(b""))]).is_err());
    }
}
