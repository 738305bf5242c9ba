//! Owner, attributes, mode and times of something restored, in the one order that works.
//!
//! Owner first: setting it clears set-uid bits and capabilities. Then attributes: what the new file inherited goes, what the
//! old one had comes. Then the mode, which also is the mask of an access control list. Times last. Then one look: a kernel or
//! a file system that cannot keep what was set (the modes of FAT, a time beyond what an inode has room for) may say that it did.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, chmodat, chownat, fchmod, fchown, futimens, openat,
    utimensat,
};
use rustix::io::Errno;

use super::attributes::{self, Attribute};
use super::entry::{FileTime, Kind, Look, Node, look};
use super::owners::OwnerMap;

/// What a restore could not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A file's content, which the backup lacks.
    Content,
    /// What a directory held, or some of it, which the backup lacks.
    Held,
    /// That content is of one moment: it may mix several of the file's states.
    Moment,
    /// Owner or group.
    Owner,
    /// Extended attributes or access control lists.
    Attributes,
    /// Permission bits; set-uid bits of a file whose owner is not set, by rule.
    Mode,
    /// Time of last modification.
    Modified,
    /// The exact time of last modification, where the file system keeps a coarser one; told once, for it is so of all.
    Exactness,
    /// The thing itself, a device.
    Device,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Content => "content",
            Self::Held => "list of what it holds",
            Self::Moment => "moment",
            Self::Owner => "owner",
            Self::Attributes => "attributes",
            Self::Mode => "mode",
            Self::Modified => "time of modification",
            Self::Exactness => "exact time of modification",
            Self::Device => "device",
        })
    }
}

const SET_ID_BITS: u32 = 0o6000;
/// FAT keeps every second second, the coarsest there is.
const COARSEST_NANOS: i128 = 2_000_000_000;

/// Settles an open file or directory. What fails is told; the rest is set all the same.
pub(super) fn open(file: impl AsFd, node: &Node, owners: Option<&OwnerMap>) -> Vec<(What, io::Error)> {
    let mut failures = Failures::default();
    let (uid, gid) = owner_of(node, owners);
    let owned = owners.is_some() && failures.check(What::Owner, fchown(&file, uid, gid));
    match attributes::of_open(&file) {
        Ok(found) => {
            for extra in found.iter().filter(|found| is_inherited(found, node)) {
                failures.check(What::Attributes, rustix::fs::fremovexattr(&file, extra.name.as_slice()));
            }
            for attribute in attributes_of(node, owners).filter(|attribute| !found.contains(attribute)) {
                failures.check_io(What::Attributes, attributes::set_open(&file, &attribute));
            }
        }
        Err(error) => failures.0.push((What::Attributes, error)),
    }
    let mode = failures.mode(node, owned);
    let has_mode = failures.check(What::Mode, fchmod(&file, mode));
    let has_time = failures.check(What::Modified, futimens(&file, &times(node)));
    let set =
        Set { owner: owned.then_some((uid, gid)), mode: has_mode.then_some(mode), modified: has_time.then_some(node.modified) };
    failures.compare(&set, look(&file, ""));
    failures.0
}

/// Settles `name` in `parent`: a link, a pipe or a device, which must not be opened.
pub(super) fn by_name(parent: impl AsFd, name: &OsStr, node: &Node, owners: Option<&OwnerMap>) -> Vec<(What, io::Error)> {
    let mut failures = Failures::default();
    let (uid, gid) = owner_of(node, owners);
    let no_follow = AtFlags::SYMLINK_NOFOLLOW;
    let owned = owners.is_some() && failures.check(What::Owner, chownat(&parent, name, uid, gid, no_follow));
    let is_link = matches!(node.kind, Kind::Symlink { .. });
    // A link inherits nothing.
    let found = if is_link { Ok(Vec::new()) } else { attributes::of_name(&parent, name) };
    match found {
        Ok(found) => {
            for extra in found.iter().filter(|found| is_inherited(found, node)) {
                failures.check_io(What::Attributes, attributes::remove_name(&parent, name, extra));
            }
            for attribute in attributes_of(node, owners).filter(|attribute| !found.contains(attribute)) {
                failures.check_io(What::Attributes, attributes::set_name(&parent, name, &attribute));
            }
        }
        Err(error) => failures.0.push((What::Attributes, error)),
    }
    // A link has no mode of its own.
    let mode = (!is_link).then(|| failures.mode(node, owned));
    let has_mode = mode.is_some_and(|mode| failures.check(What::Mode, change_mode(&parent, name, mode)));
    let has_time = failures.check(What::Modified, utimensat(&parent, name, &times(node), no_follow));
    let set =
        Set { owner: owned.then_some((uid, gid)), mode: mode.filter(|_| has_mode), modified: has_time.then_some(node.modified) };
    failures.compare(&set, look(&parent, name));
    failures.0
}

/// `chmod` that does not follow a link: by way of a handle that opens nothing.
fn change_mode(parent: impl AsFd, name: &OsStr, mode: Mode) -> Result<(), Errno> {
    let handle = openat(parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    chmodat(CWD, format!("/proc/self/fd/{}", handle.as_raw_fd()), mode, AtFlags::empty())
}

/// Attributes that the new file has from where it lies, and the old one had not: lists of access, and what users set. Labels
/// of the system's security belong to the place.
fn is_inherited(found: &Attribute, node: &Node) -> bool {
    let is_ours = found.name.starts_with(b"system.posix_acl_") || found.name.starts_with(b"user.");
    is_ours && !node.attributes.iter().any(|attribute| attribute.name == found.name)
}

fn owner_of(node: &Node, owners: Option<&OwnerMap>) -> (Option<Uid>, Option<Gid>) {
    let (uid, gid) = owners.map_or((node.uid, node.gid), |owners| owners.of(node));
    (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
}

fn attributes_of<'n>(node: &'n Node, owners: Option<&'n OwnerMap>) -> impl Iterator<Item = Cow<'n, Attribute>> {
    node.attributes.iter().map(move |attribute| owners.map_or(Cow::Borrowed(attribute), |owners| owners.attribute(attribute)))
}

fn times(node: &Node) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: node.modified.seconds, tv_nsec: node.modified.nanos.into() },
    }
}

/// What was set, and should be there.
struct Set {
    owner: Option<(Option<Uid>, Option<Gid>)>,
    mode: Option<Mode>,
    modified: Option<FileTime>,
}

#[derive(Default)]
struct Failures(Vec<(What, io::Error)>);

impl Failures {
    /// Notes an error; true when there is none.
    fn check(&mut self, what: What, outcome: Result<(), Errno>) -> bool {
        self.check_io(what, outcome.map_err(io::Error::from))
    }

    fn check_io(&mut self, what: What, outcome: io::Result<()>) -> bool {
        match outcome {
            Ok(()) => true,
            Err(error) => {
                self.0.push((what, error));
                false
            }
        }
    }

    /// Notes what the file system has otherwise than it was `set`, although it said that it took it.
    fn compare(&mut self, set: &Set, found: io::Result<Look>) {
        let kept = match found {
            Ok(Look::Node(kept)) => kept,
            Ok(Look::Socket) => return,
            // What cannot be looked at cannot be said to be as it was.
            Err(error) => return self.0.push((What::Mode, error)),
        };
        let mut differs = |what| self.0.push((what, io::Error::other("kept otherwise")));
        let owner = (Some(Uid::from_raw(kept.uid)), Some(Gid::from_raw(kept.gid)));
        if set.owner.is_some_and(|set| set != owner) {
            differs(What::Owner);
        }
        if set.mode.is_some_and(|set| set != Mode::from_raw_mode(kept.mode)) {
            differs(What::Mode);
        }
        match set.modified.map_or(0, |set| set.nanos_since(kept.modified).abs()) {
            0 => {}
            1..COARSEST_NANOS => differs(What::Exactness),
            _ => differs(What::Modified),
        }
    }

    /// The mode to set: a program must not run with the rights of whoever happens to restore it.
    fn mode(&mut self, node: &Node, owned: bool) -> Mode {
        let is_stripped = !owned && node.kind != Kind::Directory && node.mode & SET_ID_BITS != 0;
        if is_stripped {
            self.0.push((What::Mode, Errno::PERM.into()));
        }
        Mode::from_raw_mode(if is_stripped { node.mode & !SET_ID_BITS } else { node.mode })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_otherwise_than_it_was_set_is_told() {
        let file = tempfile::tempfile().unwrap();
        let modified = FileTime { seconds: 1_000_000_000, nanos: 500_000_000 };
        let Look::Node(kept) = look(&file, "").unwrap() else { panic!("a file") };
        let node = Node { mode: 0o640, modified, ..*kept };
        assert_eq!(open(&file, &node, None).len(), 0);
        let told = |seconds: i64, nanos: u32, mode: u32, uid: u32| {
            let mut failures = Failures::default();
            let set = Set {
                owner: Some((Some(Uid::from_raw(uid)), Some(Gid::from_raw(node.gid)))),
                mode: Some(Mode::from_raw_mode(mode)),
                modified: Some(FileTime { seconds, nanos }),
            };
            failures.compare(&set, look(&file, ""));
            failures.0.into_iter().map(|(what, _)| what).collect::<Vec<_>>()
        };
        let (seconds, nanos) = (modified.seconds, modified.nanos);
        assert_eq!(told(seconds, nanos, 0o640, node.uid), []);
        assert_eq!(told(seconds, nanos + 1, 0o640, node.uid), [What::Exactness]);
        assert_eq!(told(seconds + 2, nanos, 0o640, node.uid), [What::Modified]);
        assert_eq!(told(seconds - 3_000_000_000, nanos, 0o640, node.uid), [What::Modified]);
        assert_eq!(told(seconds, nanos, 0o4640, node.uid + 1), [What::Owner, What::Mode]);
    }
}
