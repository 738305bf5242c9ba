//! Whether what the walk sees is what the base backup saw, so that it need not be read.
//!
//! Pure. A file is left unread only when every one of these holds, and everything else is read:
//! - the base was taken on this host, and the clock is not behind it;
//! - kind, size, mtime and ctime to the nanosecond, inode and device are the base's, and so is birth where both know it;
//! - mtime and ctime lie at least [`GRANULE_NANOS`] before the base began, a file's
//!   [`FRESH_NANOS`](super::read::FRESH_NANOS): a change within the granularity of times leaves no trace in them, and a clock
//!   that runs ahead would hide one;
//! - the base holds the content whole, without a mark.
//!
//! ctime is the witness: no program can set it, and every write, truncation, change of mode, owner, name or attribute moves it.
//! It has three gaps, and a full sees what slips through them:
//! - a shared memory mapping: a page that was made writable before the base read the file, and was not written back since,
//!   takes further writes without moving ctime until the kernel writes it back: after 30 seconds by default, hence a minute. On
//!   tmpfs, or where the kernel was told to wait longer, that never ends or later;
//! - file systems without a ctime of their own (vfat, exFAT, sshfs and others by FUSE), which tell mtime or the moment of the
//!   look in its place: `cp -p` of as many bytes over a file leaves no trace there;
//! - a crash of the host, which may lose a ctime that was not written out yet: of up to 24 hours with `lazytime`.

use super::entry::{Entry, FileTime, Kind};

/// What changed this shortly before the base began is looked at again: 2 seconds, the coarsest granularity in use (FAT).
pub const GRANULE_NANOS: i128 = 2_000_000_000;

/// How far the base's word goes.
#[derive(Clone, Copy, Debug)]
pub struct Trust {
    /// When the base began to read, by this host's clock.
    pub base_started: FileTime,
    /// When this backup began, by the same clock.
    pub started: FileTime,
    /// Whether the base was taken on this host, of this directory.
    pub is_same_place: bool,
    /// The device that held the protected directory itself then; none when that is not known.
    pub root_device: Option<u64>,
    /// A file that changed this shortly before the base began is read: [`FRESH_NANOS`](super::read::FRESH_NANOS).
    pub fresh_nanos: i128,
}

impl Trust {
    /// Whether nothing of `now` can have changed since it was stored as `base`.
    pub fn is_unchanged(&self, now: &Entry, base: &Entry) -> bool {
        let (node, then) = (&now.node, &base.node);
        let age = if now.node.kind == Kind::File { self.fresh_nanos.max(GRANULE_NANOS) } else { GRANULE_NANOS };
        let is_old = |time: FileTime| self.base_started.nanos_since(time) >= age;
        let agree = |one: Option<FileTime>, other: Option<FileTime>| one.is_none() || other.is_none() || one == other;
        self.is_same_place
            && self.started >= self.base_started
            && now.path == base.path
            && now.marks.is_empty()
            && base.marks.is_empty()
            && now.first_link == base.first_link
            && holds_content(base)
            && node.kind == then.kind
            && (node.mode, node.uid, node.gid, node.links) == (then.mode, then.uid, then.gid, then.links)
            && (node.size_bytes, node.inode, node.device) == (then.size_bytes, then.inode, then.device)
            && (node.modified, node.changed) == (then.modified, then.changed)
            && agree(node.born, then.born)
            && is_old(then.modified)
            && is_old(then.changed)
    }
}

/// Whether what belongs to the entry is in the base: of a file that has content of its own, its id.
fn holds_content(base: &Entry) -> bool {
    base.node.kind != Kind::File || base.first_link.is_some() || base.content.is_some()
}

#[cfg(test)]
mod tests {
    use super::super::chunk::Address;
    use super::super::entry::{Mark, Node};
    use super::super::read::FRESH_NANOS;
    use super::*;
    use crate::base::RelPath;

    const BEGAN: FileTime = FileTime { seconds: 1000, nanos: 500 };

    fn entry() -> Entry {
        let time = FileTime { seconds: 900, nanos: 7 };
        let node = Node {
            kind: Kind::File,
            mode: 0o644,
            uid: 1,
            gid: 2,
            links: 1,
            size_bytes: 10,
            modified: time,
            changed: time,
            born: Some(time),
            device: 3,
            inode: 4,
            attributes: Vec::new(),
        };
        Entry { content: Some(Address([1; 32])), ..Entry::new(RelPath::new("a").unwrap(), node) }
    }

    #[test]
    fn each_single_difference_has_the_file_read() {
        let trust = Trust {
            base_started: BEGAN,
            started: FileTime { seconds: 2000, nanos: 0 },
            is_same_place: true,
            root_device: None,
            fresh_nanos: FRESH_NANOS,
        };
        let base = entry();
        let now = Entry { content: None, ..entry() };
        assert!(trust.is_unchanged(&now, &base));
        let differences: &[fn(&mut Entry)] = &[
            |e| e.node.size_bytes += 1,
            |e| e.node.modified.nanos += 1,
            |e| e.node.changed.nanos += 1,
            |e| e.node.inode += 1,
            |e| e.node.device += 1,
            |e| e.node.born = Some(BEGAN),
            |e| e.node.mode = 0o600,
            |e| e.node.uid += 1,
            |e| e.node.gid += 1,
            |e| e.node.links += 1,
            |e| e.node.kind = Kind::Fifo,
            |e| e.first_link = Some(RelPath::new("0").unwrap()),
            |e| e.marks.push(Mark::Unsteady),
            |e| e.path = RelPath::new("b").unwrap(),
        ];
        for (index, differ) in differences.iter().enumerate() {
            let mut other = now.clone();
            differ(&mut other);
            assert!(!trust.is_unchanged(&other, &base), "difference {index} in the file");
            let mut other = base.clone();
            differ(&mut other);
            assert!(!trust.is_unchanged(&now, &other), "difference {index} in the base");
        }
        assert!(!trust.is_unchanged(&now, &Entry { content: None, ..entry() }), "a base without content");
        assert!(!Trust { is_same_place: false, ..trust }.is_unchanged(&now, &base));
        assert!(!Trust { started: FileTime { seconds: 999, nanos: 0 }, ..trust }.is_unchanged(&now, &base));
    }

    #[test]
    fn what_changed_just_before_the_base_began_or_in_the_future_is_not_trusted() {
        let trust = Trust {
            base_started: BEGAN,
            started: FileTime { seconds: 2000, nanos: 0 },
            is_same_place: true,
            root_device: None,
            fresh_nanos: FRESH_NANOS,
        };
        for (time, expected) in [
            (FileTime { seconds: 940, nanos: 500 }, true),
            (FileTime { seconds: 940, nanos: 501 }, false),
            (FileTime { seconds: 1000, nanos: 500 }, false),
            (FileTime { seconds: i64::MAX, nanos: 0 }, false),
            (FileTime { seconds: i64::MIN, nanos: 0 }, true),
        ] {
            let (mut modified, mut changed) = (entry(), entry());
            (modified.node.modified, changed.node.changed) = (time, time);
            assert_eq!(trust.is_unchanged(&modified, &modified), expected, "mtime {time:?}");
            assert_eq!(trust.is_unchanged(&changed, &changed), expected, "ctime {time:?}");
        }
        // What has no content cannot be written to.
        for (nanos, expected) in [(500, true), (501, false)] {
            let mut link = Entry { content: None, ..entry() };
            link.node.kind = Kind::Symlink { target: b"x".to_vec() };
            link.node.changed = FileTime { seconds: 998, nanos };
            assert_eq!(trust.is_unchanged(&link, &link), expected, "a link, {nanos}");
        }
    }
}
