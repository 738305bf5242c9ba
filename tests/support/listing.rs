//! What `lifeboat list` shows, and what lies in a repository's directory.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use lifeboat::codec::Sha256Digest;
use serde_json::Value;

use super::lifeboat::Host;
use super::scenario::SOURCE;

/// The ids of the backups that are listed, oldest first. Fails the test when `list` fails.
#[track_caller]
pub fn backups(host: &Host) -> Vec<String> {
    of_incarnations(host, "backups").iter().map(|backup| backup["id"].as_str().expect("an id").to_owned()).collect()
}

/// The split brains that are listed, as file name and digests.
#[track_caller]
pub fn split_brains(host: &Host) -> BTreeMap<String, Vec<String>> {
    let split = |found: &Value| {
        let (file, digests) = found.as_str().expect("text").split_once(": ").expect("file: digests");
        (file.to_owned(), digests.split(", ").map(str::to_owned).collect())
    };
    of_incarnations(host, "split_brains").iter().map(split).collect()
}

/// The ids of the backups in the document of a `list` of one repository, oldest first.
pub fn backups_in(list: &Value) -> Vec<String> {
    in_incarnations(list, "backups").iter().map(|backup| backup["id"].as_str().expect("an id").to_owned()).collect()
}

#[track_caller]
fn of_incarnations(host: &Host, what: &str) -> Vec<Value> {
    in_incarnations(&host.json(&["list", SOURCE]), what)
}

fn in_incarnations(list: &Value, what: &str) -> Vec<Value> {
    let sources = list["repositories"][0]["sources"].as_array().expect("sources").iter();
    let incarnations = sources.flat_map(|source| source["incarnations"].as_array().expect("incarnations"));
    incarnations.flat_map(|incarnation| incarnation[what].as_array().expect("a list").clone()).collect()
}

/// Every file below `root` with the digest of its content.
pub fn contents(root: &Path) -> BTreeMap<PathBuf, Sha256Digest> {
    files(root).into_iter().map(|path| (path.clone(), Sha256Digest::of(&fs::read(&path).expect("readable")))).collect()
}

/// Every file below `root`, in order.
pub fn files(root: &Path) -> Vec<PathBuf> {
    let (mut found, mut pending) = (Vec::new(), vec![root.to_owned()]);
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display())) {
            let path = entry.expect("readable").path();
            if path.is_dir() { pending.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

/// The archived log's objects: segments, histories and the rest, not keys, indexes and resolutions.
pub fn log_objects(repository: &Path) -> Vec<PathBuf> {
    let is_log = |path: &PathBuf| {
        let text = path.to_string_lossy();
        text.contains("/log/") && !["/key/", "/index/", "/resolution/"].iter().any(|other| text.contains(other))
    };
    files(repository).into_iter().filter(is_log).collect()
}
