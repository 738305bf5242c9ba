//! The rule that index-only scans rest on, checked on the files of a cluster that was shut down: where the visibility
//! map says "all visible", the page says so too. A restored page that is older than its map breaks it, and the next
//! DELETE on that page leaves the map wrong.
//!
//! Source: `visibilitymap.c`: two bits a page, all-visible and all-frozen, from the page header on.

use std::fs;
use std::path::Path;

use super::compare::relation_files;
use super::page::{ALL_VISIBLE, HEADER_BYTES, PAGE_BYTES, flags, is_new};

const PAGES_PER_BYTE: usize = 4;
const MAP_BYTES: usize = PAGE_BYTES - HEADER_BYTES;

/// Every page of a table that its map calls all-visible and that does not say so itself, and how many the maps call so.
pub fn violations(data: &Path) -> (Vec<String>, usize) {
    let (mut violations, mut marked) = (Vec::new(), 0);
    let files = relation_files(data);
    for (path, location) in files.iter().filter(|(path, _)| path.to_string_lossy().ends_with("_vm")) {
        let main = path.to_string_lossy().trim_end_matches("_vm").to_owned();
        let Some(location_of_main) = files.get(Path::new(&main)) else { continue };
        let map = fs::read(location).expect("own file");
        let pages = fs::read(location_of_main).expect("own file");
        for (block, page) in pages.chunks(PAGE_BYTES).enumerate().filter(|(block, _)| is_marked(&map, *block)) {
            marked += 1;
            if is_new(page) || flags(page) & ALL_VISIBLE == 0 {
                violations.push(format!("{main} block {block}: the map says all-visible, the page does not"));
            }
        }
    }
    (violations, marked)
}

fn is_marked(map: &[u8], block: usize) -> bool {
    let (byte, shift) = (block / PAGES_PER_BYTE, block % PAGES_PER_BYTE * 2);
    let at = byte / MAP_BYTES * PAGE_BYTES + HEADER_BYTES + byte % MAP_BYTES;
    map.get(at).is_some_and(|bits| bits >> shift & 1 == 1)
}

/// Fails the test when a map of the cluster, which must have been shut down, is ahead of its table.
#[track_caller]
pub fn assert_maps_hold(data: &Path) -> usize {
    let (violations, marked) = violations(data);
    let shown = &violations[..violations.len().min(20)];
    assert!(violations.is_empty(), "{} pages, the first:\n  {}", violations.len(), shown.join("\n  "));
    marked
}
