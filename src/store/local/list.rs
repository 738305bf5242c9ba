//! Listing a directory tree in byte order of whole keys.
//!
//! A file sorts as its name, a directory as its name and a `/`: then `a-b` < `a.b` < `a/b`, and all keys below
//! one directory lie together. Only directories that can hold a wanted key are read. Memory is bounded by the
//! objects asked for, not by the directory: of its names only the smallest that can be among them are kept.

use std::collections::BinaryHeap;

use rustix::fs::{DirEntry, FileType};

use super::failure::failure;
use super::root::{Root, is_file};
use crate::store::key::{MAX_KEY_BYTES, RESERVED, can_hold_objects};
use crate::store::{LIST_PAGE_OBJECTS, ListPage, ObjectInfo, StoreResult};

/// See [`crate::store::Store::list`].
pub(super) fn list(root: &Root, prefix: &str, start_after: Option<&str>) -> StoreResult<ListPage> {
    let mut objects = first_objects(root, prefix, start_after, LIST_PAGE_OBJECTS + 1)?;
    let more = objects.len() > LIST_PAGE_OBJECTS;
    objects.truncate(LIST_PAGE_OBJECTS);
    Ok(ListPage { objects, more })
}

/// See [`crate::store::Store::list_all`]: reads every directory once, where pages would read it for each of them.
pub(super) fn list_all(root: &Root, prefix: &str, start_after: Option<&str>) -> StoreResult<Vec<ObjectInfo>> {
    first_objects(root, prefix, start_after, usize::MAX)
}

fn first_objects(root: &Root, prefix: &str, start_after: Option<&str>, limit: usize) -> StoreResult<Vec<ObjectInfo>> {
    let directory = &prefix[..prefix.rfind('/').map_or(0, |slash| slash + 1)];
    let mut walk = Walk { root, prefix, start_after: start_after.unwrap_or(""), limit, objects: Vec::new() };
    if can_hold_objects(directory) {
        walk.directory(directory)?;
    }
    Ok(walk.objects)
}

/// See [`crate::store::Store::list_dirs`].
pub(super) fn list_dirs(root: &Root, prefix: &str) -> StoreResult<Vec<String>> {
    let mut names = Vec::new();
    for_each_entry(root, prefix, |entry| {
        if let Some(name) = entry.strip_suffix('/') {
            names.push(name.to_owned());
        }
        true
    })?;
    let mut found = Vec::new();
    for name in names {
        if holds_objects(root, &format!("{prefix}{name}/"))? {
            found.push(name);
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn holds_objects(root: &Root, directory: &str) -> StoreResult<bool> {
    let (mut found, mut below) = (false, Vec::new());
    for_each_entry(root, directory, |entry| {
        found = !entry.ends_with('/');
        if !found {
            below.push(format!("{directory}{entry}"));
        }
        !found
    })?;
    if found {
        return Ok(true);
    }
    for directory in below {
        if holds_objects(root, &directory)? {
            return Ok(true);
        }
    }
    Ok(false)
}

struct Walk<'a> {
    root: &'a Root,
    prefix: &'a str,
    start_after: &'a str,
    /// How many objects to find at most.
    limit: usize,
    objects: Vec<ObjectInfo>,
}

impl Walk<'_> {
    fn missing(&self) -> usize {
        self.limit.saturating_sub(self.objects.len())
    }

    fn directory(&mut self, directory: &str) -> StoreResult<()> {
        let mut after = None;
        while self.missing() > 0 {
            let (entries, dropped) = self.smallest_entries(directory, after.as_deref())?;
            for entry in &entries {
                if self.missing() == 0 {
                    return Ok(());
                }
                let key = format!("{directory}{entry}");
                if entry.ends_with('/') {
                    self.directory(&key)?;
                } else {
                    // One that was deleted meanwhile is not there.
                    self.objects.extend(self.root.object(&key)?);
                }
            }
            if !dropped {
                break;
            }
            after = entries.into_iter().next_back();
        }
        Ok(())
    }

    /// The first entries of a directory after `after` in sorting form, as many as are missing, and whether
    /// there are others after them.
    fn smallest_entries(&self, directory: &str, after: Option<&str>) -> StoreResult<(Vec<String>, bool)> {
        let limit = self.missing();
        let mut smallest: BinaryHeap<String> = BinaryHeap::new();
        let mut dropped = false;
        let mut key = directory.to_owned();
        for_each_entry(self.root, directory, |entry| {
            key.truncate(directory.len());
            key.push_str(entry);
            if after.is_some_and(|after| entry <= after) || !self.may_matter(&key) {
                return true;
            }
            if smallest.len() < limit {
                smallest.push(entry.to_owned());
            } else if let Some(mut largest) = smallest.peek_mut() {
                dropped = true;
                if entry < largest.as_str() {
                    *largest = entry.to_owned();
                }
            }
            true
        })?;
        Ok((smallest.into_sorted_vec(), dropped))
    }

    /// Whether this is a wanted key, or a directory (ending in `/`) that can hold one.
    fn may_matter(&self, key: &str) -> bool {
        if key.ends_with('/') {
            let matches = key.starts_with(self.prefix) || self.prefix.starts_with(key);
            matches && (key > self.start_after || self.start_after.starts_with(key))
        } else {
            key.starts_with(self.prefix) && key > self.start_after
        }
    }
}

/// Calls `visit` with each entry's name, directories with a `/` at their end, until it returns false.
/// Passes over what cannot be part of a key, and over what is neither a file nor a directory.
fn for_each_entry(root: &Root, directory: &str, mut visit: impl FnMut(&str) -> bool) -> StoreResult<()> {
    let Some(entries) = root.read_directory(directory)? else { return Ok(()) };
    let mut text = String::new();
    for entry in entries {
        let entry = entry.map_err(|errno| failure("list", &root.full_path(directory), errno))?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        let reserved = directory.is_empty() && RESERVED.contains(&name);
        if matches!(name, "." | "..") || reserved || directory.len() + name.len() > MAX_KEY_BYTES {
            continue;
        }
        text.clear();
        text.push_str(name);
        match kind(root, directory, name, &entry)? {
            Some(FileType::Directory) => text.push('/'),
            Some(FileType::RegularFile) => {}
            _ => continue,
        }
        if !visit(&text) {
            break;
        }
    }
    Ok(())
}

/// What an entry is, links followed: a directory may have been moved to where there is more room.
fn kind(root: &Root, directory: &str, name: &str, entry: &DirEntry) -> StoreResult<Option<FileType>> {
    match entry.file_type() {
        FileType::Symlink | FileType::Unknown => {
            let status = root.status(&format!("{directory}{name}"))?;
            Ok(status
                .map(|status| if is_file(&status) { FileType::RegularFile } else { FileType::from_raw_mode(status.st_mode) }))
        }
        known => Ok(Some(known)),
    }
}
