//! What an entry of a directory's backup has besides, in an object `tree` of its own, so that the lines of other kinds of
//! source stay as they are.
//!
//! Here is the form alone; what a file system says, and whether a file's content is right, `source/directory` knows.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::line::{FileKind, FileLine, is_zero};
use crate::base::RelPath;
use crate::codec::Sha256Digest;
use crate::codec::frame::FRAME_RAW_BYTES;
use crate::repo::pack::FrameRef;

/// A moment as file systems keep it: seconds since 1970, possibly negative, and nanoseconds after that second.
pub type TreeTime = (i64, u32);

/// What the file system says of an entry, and which content is its.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeLine {
    /// Length of a file in bytes, holes included.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub length_bytes: u64,
    /// Last modification, exactly; the line's `modified` is the same as far as it can be said there.
    pub modified: TreeTime,
    /// Last change of content or attributes. For the next comparison, like the three after it: none is restored.
    pub changed: TreeTime,
    /// When the inode was made, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub born: Option<TreeTime>,
    /// Number of the device that holds it.
    pub device: u64,
    /// Names that the inode has.
    pub links: u32,
    /// Extended attributes: name and value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<(Blob, Blob)>,
    /// What tells a file's content from any other; none for what has no content of its own, or whose content is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Sha256Digest>,
    /// SHA-256 of what each frame holds, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Sha256Digest>,
    /// Where each frame begins in the file, when they do not follow each other from its start; what lies between is a hole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub offsets: Vec<u64>,
    /// Holes within frames, where these hold zeros: offset in the file and length.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holes: Vec<(u64, u64)>,
    /// The first name of the same file; such an entry has no content of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<RelPath>,
    /// What is wrong with it; empty for what is whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub marks: Vec<TreeMark>,
}

/// The protected directory itself, for which no line stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeRoot {
    /// Permission bits.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Last modification.
    pub modified: TreeTime,
    /// Extended attributes: name and value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<(Blob, Blob)>,
}

/// What a backup could not hold as it should; with the error number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TreeMark {
    /// Its content may mix several of its states.
    Unsteady,
    /// Its content is not in the backup.
    Unread(i32),
    /// What the directory holds is not in the backup, or not all of it.
    Unlisted(i32),
    /// Its extended attributes are not in the backup.
    Bare(i32),
}

/// Any bytes; base64 in JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blob(pub Vec<u8>);

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        STANDARD.decode(text.as_bytes()).map(Self).map_err(serde::de::Error::custom)
    }
}

/// One frame of a file in a directory's backup, and where it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Offset in the file.
    pub offset: u64,
    /// The frame.
    pub frame: FrameRef,
    /// SHA-256 of what it holds.
    pub address: Sha256Digest,
}

impl FileLine {
    /// The frames of an entry of a directory's backup, each with its place, ascending; nothing for other entries.
    pub fn placed(&self) -> impl Iterator<Item = Placed> + '_ {
        let mut end = 0;
        let tree = self.tree.as_deref();
        let addresses = tree.map(|tree| tree.addresses.as_slice()).unwrap_or_default();
        self.frames.iter().zip(addresses).enumerate().map(move |(index, (frame, address))| {
            let offset = tree.and_then(|tree| tree.offsets.get(index)).copied().unwrap_or(end);
            end = offset.saturating_add(frame.raw_len.into());
            Placed { offset, frame: *frame, address: *address }
        })
    }

    /// Checks that the entry has the form that a directory's has.
    pub(super) fn check_tree(&self) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("{} {what}", self.path));
        let Some(tree) = &self.tree else { return wrong("has no 'tree', as an entry of a directory has") };
        if matches!(self.kind, FileKind::Pages | FileKind::Tablespace { .. }) || !self.patches.is_empty() {
            return wrong("is of a kind that no directory has");
        }
        let is_bare = self.kind != FileKind::File || tree.link.is_some() || tree.content.is_none();
        if is_bare && !(self.frames.is_empty() && tree.content.is_none()) {
            return wrong("has content that it cannot have");
        }
        let counts = (tree.addresses.len(), tree.offsets.len());
        if counts.0 != self.frames.len() || !(counts.1 == 0 || counts.1 == self.frames.len()) {
            return wrong("does not say of every frame what it holds and where");
        }
        let mut end = 0;
        for placed in self.placed() {
            if placed.offset < end || placed.frame.raw_len as usize > FRAME_RAW_BYTES {
                return wrong("has frames that overlap or are too long");
            }
            end = placed.offset.saturating_add(placed.frame.raw_len.into());
        }
        if end > tree.length_bytes && !is_bare {
            return wrong("has frames beyond its end");
        }
        Ok(())
    }

    /// How much of the entry is not as it should be in the backup: bad pages, or the entry itself.
    pub fn flaws(&self) -> u64 {
        let is_marked = self.tree.as_ref().is_some_and(|tree| !tree.marks.is_empty());
        self.bad_blocks.len() as u64 + u64::from(is_marked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::FrameDigest;

    fn file(lens: &[u32], offsets: &[u64], length_bytes: u64) -> FileLine {
        let frame = |raw_len: &u32| FrameRef {
            owner: 0,
            pack: 1,
            offset: 0,
            stored_len: 5,
            raw_len: *raw_len,
            digest: FrameDigest::of(b""),
        };
        let tree = TreeLine {
            length_bytes,
            content: Some(Sha256Digest::of(b"all")),
            addresses: lens.iter().map(|len| Sha256Digest::of(&len.to_le_bytes())).collect(),
            offsets: offsets.to_vec(),
            ..TreeLine::default()
        };
        let line = FileLine::bare(RelPath::new("a").unwrap(), FileKind::File);
        FileLine { frames: lens.iter().map(frame).collect(), tree: Some(Box::new(tree)), ..line }
    }

    #[test]
    fn frames_follow_each_other_or_lie_where_they_are_told_to() {
        let offsets = |line: &FileLine| line.placed().map(|placed| placed.offset).collect::<Vec<_>>();
        let (dense, sparse) = (file(&[7, 9], &[], 16), file(&[7, 9], &[100, 300], 5000));
        assert_eq!((offsets(&dense), offsets(&sparse)), (vec![0, 7], vec![100, 300]));
        for (line, is_right) in [
            (dense.clone(), true),
            (sparse, true),
            (file(&[], &[], 4096), true),
            (file(&[7, 9], &[], 15), false),
            (file(&[7, 9], &[0, 6], 100), false),
            (file(&[7, 9], &[0], 100), false),
            (file(&[300_000], &[], 300_000), false),
            (FileLine { kind: FileKind::Fifo, ..dense.clone() }, false),
            (FileLine { kind: FileKind::Pages, ..dense.clone() }, false),
            (FileLine { tree: None, ..dense.clone() }, false),
        ] {
            assert_eq!(line.check_tree().is_ok(), is_right, "{line:?}");
        }
        let mut unread = dense;
        unread.tree.as_mut().unwrap().content = None;
        assert!(unread.check_tree().is_err(), "frames of which nobody knows what they are");
    }

    #[test]
    fn a_tree_reads_as_it_was_written() {
        let mut line = file(&[7], &[65_536], 1 << 40);
        let tree = line.tree.as_mut().unwrap();
        tree.modified = (i64::MIN, 999_999_999);
        tree.attributes = vec![(Blob(b"user.\xff".to_vec()), Blob(vec![0, 1, 255]))];
        tree.holes = vec![(65_537, 4)];
        tree.marks = vec![TreeMark::Unsteady, TreeMark::Bare(13)];
        tree.link = Some(RelPath::new(b"odd/\xff".to_vec()).unwrap());
        for kind in [FileKind::File, FileKind::Fifo, FileKind::CharacterDevice { major: 8, minor: 1 << 19 }] {
            let line = FileLine { kind, ..line.clone() };
            let text = serde_json::to_string(&line).unwrap();
            assert_eq!(serde_json::from_str::<FileLine>(&text).unwrap(), line, "{text}");
        }
        assert_eq!(line.flaws(), 1);
    }
}
