//! Hard links: which names in the tree are one file, in bounded memory however many there are.
//!
//! The first name in the order of paths holds the content, later ones point to it. An inode number alone does not prove that
//! two names are one file, for it is given to another file as soon as the first is gone: its birth must agree as well, or,
//! where the file system knows none, its ctime. What is not proven is stored as a file of its own: twice the space, never
//! another file's bytes.
//!
//! The table is a redb B-tree in an unlinked scratch file, made when the first such file is met and never committed.

use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{Builder, Database, ReadableTable, TableDefinition, WriteTransaction};

use super::entry::{Entry, FileTime, Kind, Node};
use crate::base::{Error, RelPath, Result};

/// Device, inode, and its birth or ctime → first name.
const FIRST: TableDefinition<(u64, u64, i64, u32), &[u8]> = TableDefinition::new("first");
/// First name → what it is.
const HELD: TableDefinition<&[u8], u8> = TableDefinition::new("held");
/// Of the table held in memory.
const CACHE_BYTES: usize = 8 << 20;

/// The names met so far of files that have several.
pub struct Links {
    scratch: PathBuf,
    table: Option<Table>,
}

/// The transaction goes before its database.
struct Table {
    transaction: WriteTransaction,
    _database: Database,
}

impl Links {
    /// No names yet; the table will lie in the directory `scratch`.
    pub fn new(scratch: &Path) -> Self {
        Self { scratch: scratch.to_owned(), table: None }
    }

    /// The first name of the file that `node`, found at `path`, is; none when this is its first or only one.
    ///
    /// # Errors
    /// When the scratch file fails.
    pub fn first(&mut self, path: &RelPath, node: &Node) -> Result<Option<RelPath>> {
        if node.links < 2 || node.kind == Kind::Directory {
            return Ok(None);
        }
        let known = self.with(|table| {
            let known = table.get(identity(node))?.map(|path| path.value().to_vec());
            if known.is_none() {
                table.insert(identity(node), path.as_bytes())?;
            }
            Ok(known)
        })?;
        known.map(|bytes| RelPath::new(bytes).map_err(Error::failed)).transpose()
    }

    /// Forgets the file that `node` is, because its first name came to nothing: the next name will be the first.
    ///
    /// # Errors
    /// When the scratch file fails.
    pub fn forget(&mut self, node: &Node) -> Result<()> {
        self.with(|table| table.remove(identity(node)).map(|_| ()))
    }

    fn with<T>(
        &mut self,
        work: impl FnOnce(&mut redb::Table<'_, (u64, u64, i64, u32), &'static [u8]>) -> Result<T, redb::StorageError>,
    ) -> Result<T> {
        with(&mut self.table, &self.scratch, FIRST, work)
    }
}

/// Whether the entries of one backup, in their order, link to what they have.
pub struct LinkCheck {
    scratch: PathBuf,
    table: Option<Table>,
}

impl LinkCheck {
    /// Nothing seen yet; the table will lie in the directory `scratch`.
    pub fn new(scratch: &Path) -> Self {
        Self { scratch: scratch.to_owned(), table: None }
    }

    /// Takes note of the next entry. One that links must link to an entry before it, of the same kind, that has several names
    /// and does not link itself.
    ///
    /// # Errors
    /// Damaged when it does not; or when the scratch file fails.
    pub fn check(&mut self, entry: &Entry) -> Result<()> {
        let kind = kind_number(&entry.node.kind);
        let Some(first) = &entry.first_link else {
            if entry.node.links > 1 && entry.node.kind != Kind::Directory {
                with(&mut self.table, &self.scratch, HELD, |table| table.insert(entry.path.as_bytes(), kind).map(drop))?;
            }
            return Ok(());
        };
        let held = with(&mut self.table, &self.scratch, HELD, |table| Ok(table.get(first.as_bytes())?.map(|kind| kind.value())))?;
        match held == Some(kind) {
            true => Ok(()),
            false => Err(Error::damaged(format!("{} is said to be the same as {first}, which is no such entry", entry.path))),
        }
    }
}

fn kind_number(kind: &Kind) -> u8 {
    match kind {
        Kind::File => 0,
        Kind::Symlink { .. } => 1,
        Kind::Fifo => 2,
        Kind::CharacterDevice { .. } => 3,
        Kind::BlockDevice { .. } => 4,
        Kind::Directory => 5,
    }
}

/// Does `work` on a table in `scratch`, which is made when it is first needed.
fn with<K: redb::Key + 'static, V: redb::Value + 'static, T>(
    table: &mut Option<Table>,
    scratch: &Path,
    definition: TableDefinition<'_, K, V>,
    work: impl FnOnce(&mut redb::Table<'_, K, V>) -> Result<T, redb::StorageError>,
) -> Result<T> {
    let failed = |error: redb::Error| {
        Error::failed(format!("the table of hard links in {} fails", scratch.display()))
            .caused_by(error)
            .hint("make room there, or name another state_dir")
    };
    let table = match table {
        Some(table) => table,
        None => table.insert(Table::new(scratch).map_err(failed)?),
    };
    let mut open = table.transaction.open_table(definition).map_err(|error| failed(error.into()))?;
    work(&mut open).map_err(|error| failed(error.into()))
}

impl Table {
    fn new(scratch: &Path) -> Result<Self, redb::Error> {
        let file = tempfile::tempfile_in(scratch).map_err(redb::Error::Io)?;
        let database = Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(FileBackend::new(file)?)?;
        Ok(Self { transaction: database.begin_write()?, _database: database })
    }
}

fn identity(node: &Node) -> (u64, u64, i64, u32) {
    let FileTime { seconds, nanos } = node.born.unwrap_or(node.changed);
    (node.device, node.inode, seconds, nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(links: u32, inode: u64, born: Option<i64>, changed: i64) -> Node {
        let time = |seconds| FileTime { seconds, nanos: 0 };
        Node {
            kind: Kind::File,
            mode: 0,
            uid: 0,
            gid: 0,
            links,
            size_bytes: 0,
            modified: time(0),
            changed: time(changed),
            born: born.map(time),
            device: 1,
            inode,
            attributes: Vec::new(),
        }
    }

    #[test]
    fn an_inode_number_alone_does_not_make_two_names_one_file() {
        let scratch = tempfile::tempdir().unwrap();
        let mut links = Links::new(scratch.path());
        let mut first = |path: &str, node: &Node| {
            let first = links.first(&RelPath::new(path).unwrap(), node).unwrap();
            first.map(|path| path.to_string())
        };
        assert_eq!(first("a", &node(2, 7, Some(10), 1)), None);
        assert_eq!(first("b", &node(2, 7, Some(10), 2)).as_deref(), Some("a"), "whatever changed meanwhile");
        assert_eq!(first("c", &node(2, 7, Some(11), 1)), None, "another file with the number of one that is gone");
        assert_eq!(first("d", &node(2, 7, Some(11), 1)).as_deref(), Some("c"));
        assert_eq!(first("e", &node(1, 8, Some(10), 1)), None);
        assert_eq!(first("f", &node(1, 8, Some(10), 1)), None, "a file with one name has no other");
        assert_eq!(first("g", &node(2, 9, None, 5)), None);
        assert_eq!(first("h", &node(2, 9, None, 5)).as_deref(), Some("g"));
        assert_eq!(first("i", &node(2, 9, None, 6)), None, "without a birth, a changed file is not proven the same");
        links.forget(&node(2, 7, Some(10), 1)).unwrap();
        assert_eq!(links.first(&RelPath::new("z").unwrap(), &node(2, 7, Some(10), 1)).unwrap(), None);
    }

    #[test]
    fn a_link_leads_to_an_earlier_entry_of_its_kind() {
        let scratch = tempfile::tempdir().unwrap();
        let mut check = LinkCheck::new(scratch.path());
        let mut is_right = |path: &str, kind: Kind, links: u32, first: Option<&str>| {
            let node = Node { kind, ..node(links, 7, None, 1) };
            let first_link = first.map(|first| RelPath::new(first).unwrap());
            let checked = check.check(&Entry { first_link, ..Entry::new(RelPath::new(path).unwrap(), node) });
            assert!(
                checked.as_ref().is_ok_and(|()| true) || checked.as_ref().unwrap_err().kind() == crate::base::ErrorKind::Damaged
            );
            checked.is_ok()
        };
        assert!(is_right("a", Kind::File, 2, None));
        assert!(is_right("b", Kind::File, 2, Some("a")));
        assert!(!is_right("c", Kind::File, 2, Some("b")), "a link to a link");
        assert!(!is_right("d", Kind::Fifo, 2, Some("a")), "another kind");
        assert!(!is_right("e", Kind::File, 2, Some("z")), "nothing");
        assert!(is_right("f", Kind::File, 1, None));
        assert!(!is_right("g", Kind::File, 2, Some("f")), "a file with one name");
        assert!(!is_right("h", Kind::File, 2, Some("h")), "itself");
        assert!(is_right("i", Kind::Symlink { target: vec![] }, 2, None));
        assert!(is_right("j", Kind::Symlink { target: vec![] }, 2, Some("i")));
    }
}
