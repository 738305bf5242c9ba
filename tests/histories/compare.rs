//! Two restored trees, file by file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::mask::{Kind, kind_of, masked};
use super::page::{ALL_VISIBLE, PAGE_BYTES, flags, fork_of, is_new, lsn};

/// Files in which two backups of the same moment differ by their nature, and why.
const OWN: [(&str, &str); 4] = [
    ("backup_label", "each backup's own start and times"),
    ("tablespace_map", "each restore places the tablespaces elsewhere"),
    ("global/pg_control", "each backup's own checkpoint"),
    ("postgresql.auto.conf", "each restore's own restore_command and end of its backup; its other lines are compared"),
];

/// How many differences are shown.
const SHOWN: usize = 25;

/// Fails the test unless both trees, restored and not started, have the same files with the same bytes and modes.
/// Returns how many files were compared.
#[track_caller]
pub fn assert_identical(ours: &Path, twin: &Path) -> usize {
    assert_alike(ours, twin, |_, a, b| a == b)
}

/// [`assert_identical`] but for hints on pages of main forks, which are not logged: a backup that reads only what the log
/// told does not see them. That a page is all-visible is no hint here.
#[track_caller]
pub fn assert_identical_but_hints(ours: &Path, twin: &Path) -> usize {
    let same_page = |(a, b): (&[u8], &[u8])| {
        a == b || a.len() == b.len() && masked(a) == masked(b) && (flags(a) ^ flags(b)) & ALL_VISIBLE == 0
    };
    assert_alike(ours, twin, |path, a, b| {
        let whole = a.len() == b.len() && a.len().is_multiple_of(PAGE_BYTES) && fork_of(path) == Some("main");
        a == b || whole && a.chunks(PAGE_BYTES).zip(b.chunks(PAGE_BYTES)).all(same_page)
    })
}

#[track_caller]
fn assert_alike(ours: &Path, twin: &Path, same: impl Fn(&Path, &[u8], &[u8]) -> bool) -> usize {
    let (left, right) = (all_files(ours), all_files(twin));
    let mut differences = missing(&left, &right);
    let mut compared = 0;
    for (path, location) in &left {
        let Some(other) = right.get(path) else { continue };
        let (a, b) = (fs::symlink_metadata(location).expect("own file"), fs::symlink_metadata(other).expect("own file"));
        if a.permissions().mode() != b.permissions().mode() || a.is_dir() != b.is_dir() {
            differences.push(format!("{}: mode {:o}, twin {:o}", path.display(), a.permissions().mode(), b.permissions().mode()));
        }
        if a.is_dir() {
            continue;
        }
        let (a, b) = (read(path, location), read(path, other));
        compared += 1;
        if !is_own(path) && !same(path, &a, &b) {
            differences.push(describe(path, &a, &b));
        }
    }
    assert!(compared > 500, "only {compared} files were compared");
    report(&differences);
    compared
}

/// Fails the test unless the main forks of both clusters, recovered to the same position and shut down, are the same but
/// for what is not logged. Returns the pages compared, by kind.
#[track_caller]
pub fn assert_same_pages(ours: &Path, twin: &Path) -> BTreeMap<Kind, usize> {
    let (left, right) = (relation_files(ours), relation_files(twin));
    let (mut differences, mut counts) = (Vec::new(), BTreeMap::new());
    let all: BTreeSet<&PathBuf> = left.keys().chain(right.keys()).collect();
    for path in all.into_iter().filter(|path| fork_of(path) == Some("main")) {
        // A file may be there with nothing in it on one side only: dropped, or made by a transaction that was aborted.
        let read =
            |files: &BTreeMap<PathBuf, PathBuf>| files.get(path).map(|at| fs::read(at).expect("own file")).unwrap_or_default();
        let (a, b) = (read(&left), read(&right));
        let blank = vec![0; PAGE_BYTES];
        for block in 0..a.len().max(b.len()).div_ceil(PAGE_BYTES) {
            let (a, b) = (page(&a, block).unwrap_or(&blank), page(&b, block).unwrap_or(&blank));
            *counts.entry(kind_of(if is_new(a) { b } else { a })).or_default() += 1;
            if a != b && masked(a) != masked(b) {
                let at = first_difference(&masked(a), &masked(b));
                differences.push(format!(
                    "{} block {block} ({:?}): LSN {:X}, twin {:X}; differs from byte {at} on: {:X?}, twin {:X?}",
                    path.display(),
                    kind_of(a),
                    lsn(a),
                    lsn(b),
                    &a[at..(at + 8).min(PAGE_BYTES)],
                    &b[at..(at + 8).min(PAGE_BYTES)]
                ));
            }
        }
    }
    report(&differences);
    assert!(counts.get(&Kind::Heap).is_some_and(|pages| *pages > 200), "too few pages were compared: {counts:?}");
    counts
}

/// Every relation file below a data directory, with tablespaces: path in the tree, and where it is.
pub fn relation_files(data: &Path) -> BTreeMap<PathBuf, PathBuf> {
    all_files(data).into_iter().filter(|(path, location)| fork_of(path).is_some() && location.is_file()).collect()
}

/// Everything below a data directory, the links of tablespaces followed: path in the tree, and where it is.
fn all_files(data: &Path) -> BTreeMap<PathBuf, PathBuf> {
    let (mut found, mut pending) = (BTreeMap::new(), vec![data.to_owned()]);
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display())) {
            let path = entry.expect("own directory").path();
            if path.is_dir() {
                pending.push(path.clone());
            }
            found.insert(path.strip_prefix(data).expect("below").to_owned(), path);
        }
    }
    // What a tablespace's link leads to is compared; where it leads to is the restore's choice.
    found.retain(|path, location| !(path.starts_with("pg_tblspc") && location.is_symlink()));
    found
}

fn missing(left: &BTreeMap<PathBuf, PathBuf>, right: &BTreeMap<PathBuf, PathBuf>) -> Vec<String> {
    let only = |a: &BTreeMap<PathBuf, PathBuf>, b: &BTreeMap<PathBuf, PathBuf>, whose: &str| -> Vec<String> {
        a.keys().filter(|path| !b.contains_key(*path)).map(|path| format!("{}: only in {whose}", path.display())).collect()
    };
    [only(left, right, "ours"), only(right, left, "the twin")].concat()
}

fn is_own(path: &Path) -> bool {
    OWN[..3].iter().any(|(own, _)| Path::new(own) == path)
}

fn read(path: &Path, location: &Path) -> Vec<u8> {
    let content = fs::read(location).unwrap_or_else(|error| panic!("{}: {error}", location.display()));
    if path != Path::new(OWN[3].0) {
        return content;
    }
    let text = String::from_utf8(content).expect("the server writes text");
    let own = ["restore_command", "# The backup ends at "];
    let common = text.lines().filter(|line| !own.iter().any(|own| line.starts_with(own)));
    common.collect::<Vec<_>>().join("\n").into_bytes()
}

fn page(file: &[u8], block: usize) -> Option<&[u8]> {
    file.get(block * PAGE_BYTES..(block + 1) * PAGE_BYTES)
}

fn first_difference(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).position(|(a, b)| a != b).unwrap_or(a.len().min(b.len()))
}

/// One line about two files that differ: lengths, and for a relation the first pages with their LSNs.
fn describe(path: &Path, a: &[u8], b: &[u8]) -> String {
    let mut text = format!("{}: {} bytes, twin {} bytes", path.display(), a.len(), b.len());
    if fork_of(path).is_none() {
        return text + &format!("; differs from byte {} on", first_difference(a, b));
    }
    let blocks = a.len().min(b.len()) / PAGE_BYTES;
    let differing: Vec<usize> = (0..blocks).filter(|block| page(a, *block) != page(b, *block)).collect();
    text += &format!("; {} pages differ:", differing.len());
    for block in differing.into_iter().take(5) {
        let (a, b) = (page(a, block).expect("in both"), page(b, block).expect("in both"));
        let hints = if masked(a) == masked(b) { ", in hints only" } else { "" };
        let at = first_difference(a, b);
        text += &format!(" {block} ({:?}, LSN {:X}, twin {:X}, from byte {at} on{hints})", kind_of(a), lsn(a), lsn(b));
    }
    text
}

#[track_caller]
fn report(differences: &[String]) {
    let shown = &differences[..differences.len().min(SHOWN)];
    assert!(differences.is_empty(), "{} differences from the twin, the first:\n  {}", differences.len(), shown.join("\n  "));
}
