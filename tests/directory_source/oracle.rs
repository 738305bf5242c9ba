//! What a tree is, found out without the code under test: the standard library's calls on full paths.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// What there is to compare of one thing.
#[derive(Debug, PartialEq, Eq, Clone)]
pub struct Thing {
    pub kind: &'static str,
    pub mode: u32,
    pub owner: (u32, u32),
    pub modified: (i64, i64),
    pub content: Vec<u8>,
    pub device: u64,
    pub attributes: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first path of the same inode.
    pub same_as: Option<PathBuf>,
}

/// Everything below `top`, and `top` itself under the empty path.
pub fn snapshot(top: &Path) -> BTreeMap<PathBuf, Thing> {
    let mut things = BTreeMap::new();
    let mut paths = vec![top.to_owned()];
    while let Some(path) = paths.pop() {
        things.insert(path.strip_prefix(top).unwrap().to_owned(), thing(&path));
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            paths.extend(fs::read_dir(&path).unwrap().map(|found| found.unwrap().path()));
        }
    }
    let mut first: BTreeMap<(u64, u64), PathBuf> = BTreeMap::new();
    for (path, thing) in &mut things {
        let metadata = fs::symlink_metadata(top.join(path)).unwrap();
        if metadata.nlink() > 1 && !metadata.is_dir() {
            thing.same_as = Some(first.entry((metadata.dev(), metadata.ino())).or_insert_with(|| path.clone()).clone());
        }
    }
    things
}

fn thing(path: &Path) -> Thing {
    let metadata = fs::symlink_metadata(path).unwrap();
    let kind = metadata.file_type();
    let (kind, content) = if kind.is_dir() {
        ("directory", vec![])
    } else if kind.is_symlink() {
        ("link", fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec())
    } else if kind.is_file() {
        ("file", fs::read(path).unwrap())
    } else if kind.is_fifo() {
        ("pipe", vec![])
    } else if kind.is_socket() {
        ("socket", vec![])
    } else {
        ("device", vec![])
    };
    Thing {
        kind,
        mode: if kind == "link" { 0 } else { metadata.mode() },
        owner: (metadata.uid(), metadata.gid()),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        content,
        device: metadata.rdev(),
        attributes: attributes(path),
        same_as: None,
    }
}

fn attributes(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 65_536];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let value = |name: &[u8]| {
        let mut value = vec![0; 65_536];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        value.truncate(length);
        value
    };
    names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(|name| (name.to_vec(), value(name))).collect()
}

/// Fails with the first few differences.
pub fn assert_same(expected: &BTreeMap<PathBuf, Thing>, found: &BTreeMap<PathBuf, Thing>, what: &str) {
    let shorten = |thing: Option<&Thing>| {
        thing.map(|thing| {
            let digest = thing.content.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
            let start: Vec<u8> = thing.content.iter().take(20).copied().collect();
            (digest, thing.content.len(), Thing { content: start, ..thing.clone() })
        })
    };
    let paths: std::collections::BTreeSet<&PathBuf> = expected.keys().chain(found.keys()).collect();
    let different: Vec<String> = paths
        .into_iter()
        .filter(|path| expected.get(*path) != found.get(*path))
        .take(5)
        .map(|path| format!("{path:?}:\n  {:?}\n  {:?}", shorten(expected.get(path)), shorten(found.get(path))))
        .collect();
    assert!(different.is_empty(), "{what}: the trees differ\n{}", different.join("\n"));
}
