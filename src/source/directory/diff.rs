//! What differs between two backups of a directory: both streams of entries in the order of paths, joined.
//!
//! Pure, and in constant memory. Two files are told to be of the same content only when their ids agree, which proves it;
//! where either was not read, that is told instead of guessed, and so it is of what a directory held that could not be
//! listed. A further name of a file has no id; when it was no such name before, or of another file, its content is told to
//! differ.

use std::cmp::Ordering;
use std::fmt;

use super::entry::{Entry, Kind, Mark};
use crate::base::{Error, RelPath, Result};

/// One path that is not the same in both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Where.
    pub path: RelPath,
    /// What.
    pub change: Change,
}

/// How a path differs between the older and the newer backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Only in the newer one.
    Added(Box<Entry>),
    /// Only in the older one.
    Removed(Box<Entry>),
    /// In both.
    Changed(Vec<Aspect>),
}

/// In what a path differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aspect {
    /// It is another kind of thing; nothing else is compared then.
    Kind,
    /// The bytes of a file, or a device's numbers.
    Content,
    /// Nobody knows: one of the backups, or both, could not read the file.
    Unread,
    /// Nobody knows what it holds: one of the backups, or both, could not list the directory. What only the other one has
    /// below it is not told of.
    Unlisted,
    /// Where a link leads.
    Target,
    /// Which other path is the same file.
    Link,
    /// Permission bits.
    Mode,
    /// Owner or group.
    Owner,
    /// Time of last modification.
    Modified,
    /// Extended attributes, access control lists among them.
    Attributes,
}

impl fmt::Display for Aspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kind => "kind",
            Self::Content => "content",
            Self::Unread => "unread",
            Self::Unlisted => "unlisted",
            Self::Target => "target",
            Self::Link => "hard link",
            Self::Mode => "mode",
            Self::Owner => "owner",
            Self::Modified => "modified",
            Self::Attributes => "attributes",
        })
    }
}

/// The differences, in the order of paths. After an error it is over.
pub struct Diff<A: Iterator<Item = Result<Entry>>, B: Iterator<Item = Result<Entry>>> {
    older: Sorted<A>,
    newer: Sorted<B>,
    /// The last directory that each could not list, but for those within.
    unlisted: (Option<RelPath>, Option<RelPath>),
}

impl<A: Iterator<Item = Result<Entry>>, B: Iterator<Item = Result<Entry>>> Diff<A, B> {
    /// Compares two backups' entries.
    pub fn new(older: A, newer: B) -> Self {
        Self { older: Sorted::new(older), newer: Sorted::new(newer), unlisted: (None, None) }
    }

    fn advance(&mut self) -> Result<Option<Difference>> {
        loop {
            let order = match (self.older.head()?, self.newer.head()?) {
                (None, None) => return Ok(None),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(older), Some(newer)) => older.path.cmp(&newer.path),
            };
            let older = self.older.head.take_if(|_| order.is_le());
            let newer = self.newer.head.take_if(|_| order.is_ge());
            remember(&mut self.unlisted.0, older.as_ref());
            remember(&mut self.unlisted.1, newer.as_ref());
            let (path, change) = match (older, newer) {
                (None, None) => return Ok(None),
                (Some(older), None) if is_below(&older, self.unlisted.1.as_ref()) => continue,
                (None, Some(newer)) if is_below(&newer, self.unlisted.0.as_ref()) => continue,
                (Some(older), None) => (older.path.clone(), Change::Removed(Box::new(older))),
                (None, Some(newer)) => (newer.path.clone(), Change::Added(Box::new(newer))),
                (Some(older), Some(newer)) => {
                    let aspects = aspects(&older, &newer);
                    if aspects.is_empty() {
                        continue;
                    }
                    (newer.path, Change::Changed(aspects))
                }
            };
            return Ok(Some(Difference { path, change }));
        }
    }
}

impl<A: Iterator<Item = Result<Entry>>, B: Iterator<Item = Result<Entry>>> Iterator for Diff<A, B> {
    type Item = Result<Difference>;

    fn next(&mut self) -> Option<Self::Item> {
        let found = self.advance().transpose();
        if matches!(found, Some(Err(_))) {
            self.older.end();
            self.newer.end();
        }
        found
    }
}

/// Remembers `entry` when it is a directory that could not be listed and lies in none that is remembered.
fn remember(unlisted: &mut Option<RelPath>, entry: Option<&Entry>) {
    if let Some(entry) = entry.filter(|entry| is_unlisted(entry) && !is_below(entry, unlisted.as_ref())) {
        *unlisted = Some(entry.path.clone());
    }
}

fn is_unlisted(entry: &Entry) -> bool {
    entry.marks.iter().any(|mark| matches!(mark, Mark::Unlisted(_)))
}

fn is_below(entry: &Entry, directory: Option<&RelPath>) -> bool {
    directory.is_some_and(|directory| entry.path.as_path().starts_with(directory.as_path()))
}

/// In what two entries of one path differ; their content by its id.
pub fn aspects(older: &Entry, newer: &Entry) -> Vec<Aspect> {
    let (then, now) = (&older.node, &newer.node);
    if std::mem::discriminant(&then.kind) != std::mem::discriminant(&now.kind) {
        return vec![Aspect::Kind];
    }
    let is_unread = older.is_unread() || newer.is_unread();
    let content = match (&then.kind, &now.kind) {
        (Kind::File, Kind::File) if is_unread => Some(Aspect::Unread),
        (Kind::Directory, Kind::Directory) if is_unlisted(older) || is_unlisted(newer) => Some(Aspect::Unlisted),
        // Told of the first name.
        (Kind::File, Kind::File) if older.first_link.is_some() && older.first_link == newer.first_link => None,
        (Kind::File, Kind::File) => (older.content.is_none() || older.content != newer.content).then_some(Aspect::Content),
        (Kind::Symlink { .. }, Kind::Symlink { .. }) => (then.kind != now.kind).then_some(Aspect::Target),
        _ => (then.kind != now.kind).then_some(Aspect::Content),
    };
    let is_directory = then.kind == Kind::Directory;
    let rest = [
        (older.first_link != newer.first_link, Aspect::Link),
        (then.mode != now.mode, Aspect::Mode),
        ((then.uid, then.gid) != (now.uid, now.gid), Aspect::Owner),
        // A directory's time says that something in it was added or removed, which is told by itself.
        (then.modified != now.modified && !is_directory, Aspect::Modified),
        (then.attributes != now.attributes && newer.first_link.is_none() && older.first_link.is_none(), Aspect::Attributes),
    ];
    content.into_iter().chain(rest.into_iter().filter(|(differs, _)| *differs).map(|(_, aspect)| aspect)).collect()
}

/// A stream that is checked to ascend.
struct Sorted<I: Iterator<Item = Result<Entry>>> {
    entries: I,
    head: Option<Entry>,
    last: Option<RelPath>,
    is_over: bool,
}

impl<I: Iterator<Item = Result<Entry>>> Sorted<I> {
    fn new(entries: I) -> Self {
        Self { entries, head: None, last: None, is_over: false }
    }

    fn end(&mut self) {
        (self.head, self.is_over) = (None, true);
    }

    /// The next entry, which stays there until it is taken.
    fn head(&mut self) -> Result<Option<&Entry>> {
        if self.head.is_none() && !self.is_over {
            self.head = self.entries.next().transpose()?;
            self.is_over = self.head.is_none();
            if let Some(entry) = &self.head {
                if self.last.as_ref().is_some_and(|last| *last >= entry.path) {
                    return Err(Error::damaged(format!("the list of files is out of order at {}", entry.path)));
                }
                self.last = Some(entry.path.clone());
            }
        }
        Ok(self.head.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::super::chunk::Address;
    use super::super::entry::{FileTime, Node};
    use super::*;

    fn file(path: &str) -> Entry {
        let time = FileTime { seconds: 5, nanos: 6 };
        let node = Node {
            kind: Kind::File,
            mode: 0o644,
            uid: 1,
            gid: 2,
            links: 1,
            size_bytes: 10,
            modified: time,
            changed: time,
            born: None,
            device: 3,
            inode: 4,
            attributes: Vec::new(),
        };
        Entry { content: Some(Address([1; 32])), ..Entry::new(RelPath::new(path).unwrap(), node) }
    }

    #[test]
    fn each_aspect_is_told_and_where_a_file_lies_on_the_disk_is_none() {
        let link = |path: &str| Some(RelPath::new(path).unwrap());
        type Case = (fn(&mut Entry), &'static [Aspect]);
        let cases: &[Case] = &[
            (|e| (e.node.inode, e.node.device, e.node.changed.nanos) = (9, 9, 9), &[]),
            (|e| e.content = Some(Address([2; 32])), &[Aspect::Content]),
            (|e| e.content = None, &[Aspect::Content]),
            (|e| e.marks.push(Mark::Unread(13)), &[Aspect::Unread]),
            (|e| e.node.mode = 0o600, &[Aspect::Mode]),
            (|e| (e.node.gid, e.node.modified.nanos) = (9, 9), &[Aspect::Owner, Aspect::Modified]),
            (|e| e.node.kind = Kind::Fifo, &[Aspect::Kind]),
        ];
        for (index, (differ, expected)) in cases.iter().enumerate() {
            let mut other = file("a");
            differ(&mut other);
            assert_eq!(aspects(&file("a"), &other), *expected, "case {index}");
            assert_eq!(aspects(&other, &file("a")), *expected, "case {index} backwards");
        }
        let linked = |first: &str| Entry { first_link: link(first), content: None, ..file("b") };
        assert_eq!(aspects(&linked("a"), &linked("a")), []);
        assert_eq!(aspects(&linked("a"), &file("b")), [Aspect::Content, Aspect::Link]);
        assert_eq!(aspects(&linked("a"), &linked("aa")), [Aspect::Content, Aspect::Link]);
    }

    #[test]
    fn what_an_unlisted_directory_held_is_neither_added_nor_removed() {
        let directory = |path: &str, marks: &[Mark]| {
            let mut entry = Entry { content: None, marks: marks.to_vec(), ..file(path) };
            entry.node.kind = Kind::Directory;
            entry
        };
        let tell = |older: &[Entry], newer: &[Entry]| -> Vec<(String, String)> {
            let entries = |entries: &[Entry]| entries.iter().cloned().map(Ok).collect::<Vec<_>>().into_iter();
            let told = Diff::new(entries(older), entries(newer)).map(Result::unwrap);
            let change = |change: &Change| match change {
                Change::Added(_) => "added".to_owned(),
                Change::Removed(_) => "removed".to_owned(),
                Change::Changed(aspects) => format!("{aspects:?}"),
            };
            told.map(|one| (one.path.to_string(), change(&one.change))).collect()
        };
        let pair = |path: &str, change: &str| (path.to_owned(), change.to_owned());
        let listed = [directory("a", &[]), file("a/1"), directory("a/2", &[]), file("a/2/x"), file("a/3"), file("a-1")];
        let refused = Mark::Unlisted(13);
        assert_eq!(tell(&listed, &[directory("a", &[refused])]), [pair("a", "[Unlisted]"), pair("a-1", "removed")]);
        assert_eq!(tell(&[directory("a", &[refused])], &listed), [pair("a", "[Unlisted]"), pair("a-1", "added")]);
        // Of one that came with part of what it held, which in turn could not all be listed.
        let part = [directory("a", &[refused]), directory("a/2", &[refused]), file("a-1")];
        assert_eq!(tell(&listed, &part), [pair("a", "[Unlisted]"), pair("a/2", "[Unlisted]")]);
    }

    #[test]
    fn streams_are_joined_and_one_out_of_order_is_refused() {
        let stream = |paths: &[&str]| paths.iter().map(|path| Ok(file(path))).collect::<Vec<_>>().into_iter();
        let told = |older: &[&str], newer: &[&str]| -> Vec<String> {
            let tell = |difference: Result<Difference>| match difference {
                Ok(Difference { path, change: Change::Added(_) }) => format!("+{path}"),
                Ok(Difference { path, change: Change::Removed(_) }) => format!("-{path}"),
                Ok(other) => format!("{other:?}"),
                Err(error) => error.message().to_owned(),
            };
            Diff::new(stream(older), stream(newer)).map(tell).collect()
        };
        assert_eq!(told(&["a", "a/b", "a-b", "c"], &["a", "a-b", "b", "d"]), ["-a/b", "+b", "-c", "+d"]);
        assert_eq!(told(&[], &["a"]), ["+a"]);
        assert_eq!(told(&["b", "a"], &[]), ["-b", "the list of files is out of order at a"]);
        let broken = vec![Err(Error::failed("gone"))].into_iter();
        assert_eq!(Diff::new(broken, stream(&["a"])).filter_map(Result::err).count(), 1);
    }
}
