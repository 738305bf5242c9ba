//! Between an entry of the tree and its line in the manifest.

use crate::base::{Error, Result, Timestamp};
use crate::codec::Sha256Digest;
use crate::repo::manifest::tree::{Blob, TreeLine, TreeMark, TreeRoot, TreeTime};
use crate::repo::manifest::{FileKind, FileLine};
use crate::repo::pack::FrameRef;
use crate::source::directory::attributes::Attribute;
use crate::source::directory::chunk::{Address, Piece};
use crate::source::directory::entry::{Entry, FileTime, Kind, Mark, Node};
use crate::source::directory::read::Hole;

/// First and last moments that a [`Timestamp`] can say, in microseconds.
const TIMESTAMPS: (i128, i128) = (-62_135_596_800_000_000, 253_402_300_799_999_999);

/// Where a file's content lies.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Content {
    /// One frame a chunk, in the order of the file.
    pub frames: Vec<FrameRef>,
    /// The chunks' addresses.
    pub addresses: Vec<Sha256Digest>,
    /// Where they begin in the file.
    pub offsets: Vec<u64>,
    /// Holes within them.
    pub holes: Vec<(u64, u64)>,
}

impl Content {
    /// Forgets everything.
    pub fn clear(&mut self) {
        self.frames.clear();
        self.addresses.clear();
        self.offsets.clear();
        self.holes.clear();
    }
}

/// The line of `entry`, whose content lies in `content`.
pub(super) fn line_of(entry: Entry, content: Content) -> FileLine {
    let Entry { path, node, first_link, content: id, marks } = entry;
    let Content { frames, addresses, mut offsets, holes } = content;
    let mut end = 0;
    let follow = offsets.iter().zip(&frames).all(|(offset, frame)| {
        let follows = *offset == end;
        end += u64::from(frame.raw_len);
        follows
    });
    if follow {
        offsets.clear();
    }
    let tree = TreeLine {
        length_bytes: node.size_bytes,
        modified: tree_time(node.modified),
        changed: tree_time(node.changed),
        born: node.born.map(tree_time),
        device: node.device,
        links: node.links,
        attributes: blobs(node.attributes),
        content: id.map(|address| Sha256Digest(address.0)),
        addresses,
        offsets,
        holes,
        link: first_link,
        marks: marks.into_iter().map(tree_mark).collect(),
    };
    FileLine {
        path,
        kind: file_kind(&node.kind),
        mode: node.mode,
        uid: node.uid,
        gid: node.gid,
        modified: timestamp(node.modified),
        inode: node.inode,
        size_bytes: frames.iter().map(|frame| u64::from(frame.raw_len)).sum(),
        frames,
        patches: Vec::new(),
        states: Vec::new(),
        bad_blocks: Vec::new(),
        tree: Some(Box::new(tree)),
    }
}

/// The entry that `line` is of.
///
/// # Errors
/// Damaged when it is none of a directory.
pub(in crate::engine) fn entry_of(line: &FileLine) -> Result<Entry> {
    let foreign = || Error::damaged(format!("{} is no entry of a directory", line.path));
    let tree = line.tree.as_deref().ok_or_else(foreign)?;
    let kind = match &line.kind {
        FileKind::Directory => Kind::Directory,
        FileKind::File => Kind::File,
        FileKind::Symlink { target } => Kind::Symlink { target: FileKind::decode_target(target).map_err(Error::damaged)? },
        FileKind::Fifo => Kind::Fifo,
        FileKind::CharacterDevice { major, minor } => Kind::CharacterDevice { major: *major, minor: *minor },
        FileKind::BlockDevice { major, minor } => Kind::BlockDevice { major: *major, minor: *minor },
        FileKind::Pages | FileKind::Tablespace { .. } => return Err(foreign()),
    };
    let node = Node {
        kind,
        mode: line.mode,
        uid: line.uid,
        gid: line.gid,
        links: tree.links,
        size_bytes: tree.length_bytes,
        modified: time(tree.modified),
        changed: time(tree.changed),
        born: tree.born.map(time),
        device: tree.device,
        inode: line.inode,
        attributes: attributes(&tree.attributes),
    };
    Ok(Entry {
        path: line.path.clone(),
        node,
        first_link: tree.link.clone(),
        content: tree.content.map(|id| Address(id.0)),
        marks: tree.marks.iter().map(mark).collect(),
    })
}

/// The pieces of a file's content, ascending.
pub(super) fn pieces_of(line: &FileLine) -> impl Iterator<Item = Piece> + '_ {
    line.placed().map(|placed| Piece {
        offset: placed.offset,
        len_bytes: placed.frame.raw_len,
        address: Address(placed.address.0),
    })
}

/// The holes of `line` that lie in the bytes from `from` up to `to`.
pub(super) fn holes_within(holes: &[(u64, u64)], from: u64, to: u64) -> Vec<(u64, u64)> {
    let first = holes.partition_point(|(offset, len)| offset.saturating_add(*len) <= from);
    holes[first..].iter().take_while(|(offset, _)| *offset < to).copied().collect()
}

/// Holes as the restorer takes them.
pub(super) fn hole((offset, len_bytes): (u64, u64)) -> Hole {
    Hole { offset, len_bytes }
}

/// The protected directory itself.
pub(super) fn root_of(node: &Node) -> TreeRoot {
    TreeRoot {
        mode: node.mode,
        uid: node.uid,
        gid: node.gid,
        modified: tree_time(node.modified),
        attributes: blobs(node.attributes.clone()),
    }
}

/// Undoes [`root_of`], as far as a restore needs it.
pub(super) fn root_node(root: &TreeRoot) -> Node {
    Node {
        kind: Kind::Directory,
        mode: root.mode,
        uid: root.uid,
        gid: root.gid,
        links: 0,
        size_bytes: 0,
        modified: time(root.modified),
        changed: FileTime::default(),
        born: None,
        device: 0,
        inode: 0,
        attributes: attributes(&root.attributes),
    }
}

fn file_kind(kind: &Kind) -> FileKind {
    match kind {
        Kind::Directory => FileKind::Directory,
        Kind::File => FileKind::File,
        Kind::Symlink { target } => FileKind::Symlink { target: FileKind::encode_target(target) },
        Kind::Fifo => FileKind::Fifo,
        Kind::CharacterDevice { major, minor } => FileKind::CharacterDevice { major: *major, minor: *minor },
        Kind::BlockDevice { major, minor } => FileKind::BlockDevice { major: *major, minor: *minor },
    }
}

fn tree_time(time: FileTime) -> TreeTime {
    (time.seconds, time.nanos)
}

fn time((seconds, nanos): TreeTime) -> FileTime {
    FileTime { seconds, nanos }
}

/// As near as a timestamp comes to it.
fn timestamp(time: FileTime) -> Timestamp {
    let micros = i128::from(time.seconds) * 1_000_000 + i128::from(time.nanos / 1000);
    let micros = i64::try_from(micros.clamp(TIMESTAMPS.0, TIMESTAMPS.1)).unwrap_or_default();
    Timestamp::from_unix_micros(micros).expect("within what it can say")
}

fn blobs(attributes: Vec<Attribute>) -> Vec<(Blob, Blob)> {
    attributes.into_iter().map(|attribute| (Blob(attribute.name), Blob(attribute.value))).collect()
}

fn attributes(blobs: &[(Blob, Blob)]) -> Vec<Attribute> {
    blobs.iter().map(|(name, value)| Attribute { name: name.0.clone(), value: value.0.clone() }).collect()
}

fn tree_mark(mark: Mark) -> TreeMark {
    match mark {
        Mark::Unsteady => TreeMark::Unsteady,
        Mark::Unread(errno) => TreeMark::Unread(errno),
        Mark::Unlisted(errno) => TreeMark::Unlisted(errno),
        Mark::Bare(errno) => TreeMark::Bare(errno),
    }
}

fn mark(mark: &TreeMark) -> Mark {
    match *mark {
        TreeMark::Unsteady => Mark::Unsteady,
        TreeMark::Unread(errno) => Mark::Unread(errno),
        TreeMark::Unlisted(errno) => Mark::Unlisted(errno),
        TreeMark::Bare(errno) => Mark::Bare(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::RelPath;
    use crate::codec::FrameDigest;

    fn entry(kind: Kind, modified: FileTime) -> Entry {
        let attributes = vec![Attribute { name: b"user.\xff".to_vec(), value: vec![0, 255] }];
        let node = Node {
            kind,
            mode: 0o7777,
            uid: u32::MAX,
            gid: 3,
            links: 2,
            size_bytes: 0,
            modified,
            changed: FileTime { seconds: 4, nanos: 5 },
            born: Some(FileTime { seconds: -6, nanos: 7 }),
            device: 8,
            inode: u64::MAX,
            attributes,
        };
        Entry::new(RelPath::new(b"odd/\xff\xfe".to_vec()).unwrap(), node)
    }

    #[test]
    fn an_entry_comes_back_as_it_was_whatever_it_is() {
        let time = FileTime { seconds: 1_700_000_000, nanos: 123_456_789 };
        let kinds = [
            Kind::Directory,
            Kind::File,
            Kind::Symlink { target: b"\xff odd".to_vec() },
            Kind::Fifo,
            Kind::CharacterDevice { major: 1, minor: 2 },
            Kind::BlockDevice { major: 3, minor: 4 },
        ];
        for kind in kinds {
            let mut entry = entry(kind, time);
            entry.marks = vec![Mark::Unlisted(13), Mark::Bare(5)];
            entry.first_link = Some(RelPath::new("a").unwrap());
            let text = serde_json::to_string(&line_of(entry.clone(), Content::default())).unwrap();
            assert_eq!(entry_of(&serde_json::from_str(&text).unwrap()).unwrap(), entry, "{text}");
        }
    }

    #[test]
    fn no_time_of_a_file_system_is_lost() {
        let extremes = [(i64::MIN, 0), (i64::MAX, 999_999_999), (-1, 999_999_999), (0, 1)];
        for (seconds, nanos) in extremes {
            let entry = entry(Kind::File, FileTime { seconds, nanos });
            let line = line_of(entry.clone(), Content::default());
            assert_eq!(entry_of(&line).unwrap().node.modified, entry.node.modified);
        }
        let line = line_of(entry(Kind::File, FileTime { seconds: -1, nanos: 999_999_999 }), Content::default());
        assert_eq!(line.modified.unix_micros(), -1);
    }

    #[test]
    fn offsets_are_written_only_where_there_are_holes_between_frames() {
        let frame = |raw_len| FrameRef { owner: 0, pack: 1, offset: 0, stored_len: 5, raw_len, digest: FrameDigest::of(b"") };
        let content = |offsets: &[u64]| Content {
            frames: vec![frame(7), frame(9)],
            addresses: vec![Sha256Digest::of(b"a"), Sha256Digest::of(b"b")],
            offsets: offsets.to_vec(),
            holes: vec![],
        };
        let line = |offsets: &[u64]| line_of(entry(Kind::File, FileTime::default()), content(offsets));
        let offsets = |line: &FileLine| pieces_of(line).map(|piece| piece.offset).collect::<Vec<_>>();
        assert!(line(&[0, 7]).tree.unwrap().offsets.is_empty());
        assert_eq!(offsets(&line(&[0, 7])), [0, 7]);
        assert_eq!(offsets(&line(&[3, 100])), [3, 100]);
        assert_eq!(line(&[3, 100]).size_bytes, 16);
        let holes = [(10, 5), (100, 5), (200, 5)];
        assert_eq!(holes_within(&holes, 12, 100), [(10, 5)]);
        assert_eq!(holes_within(&holes, 15, 201), [(100, 5), (200, 5)]);
    }
}
