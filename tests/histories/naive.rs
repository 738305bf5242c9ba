//! What an incremental that trusts page LSNs alone would restore: the judge must see that it is wrong.

use std::fs;
use std::path::Path;

use super::compare::relation_files;
use super::page::{PAGE_BYTES, fork_of, lsn};

/// Turns `full`, the restored later full, into what such an incremental gives: every page of a main fork whose LSN is
/// below `base_lsn` comes from `base`, the restored earlier full. Returns how many pages thereby changed.
pub fn wind_back(full: &Path, base: &Path, base_lsn: u64) -> usize {
    let (old, mut changed) = (relation_files(base), 0);
    for (path, location) in relation_files(full).iter().filter(|(path, _)| fork_of(path) == Some("main")) {
        let Some(old) = old.get(path) else { continue };
        let (mut content, old) = (fs::read(location).expect("own file"), fs::read(old).expect("own file"));
        for (page, old) in content.chunks_exact_mut(PAGE_BYTES).zip(old.chunks_exact(PAGE_BYTES)) {
            let zero = page.iter().all(|byte| *byte == 0);
            if !zero && lsn(page) < base_lsn && page != old {
                page.copy_from_slice(old);
                changed += 1;
            }
        }
        fs::write(location, content).expect("own file");
    }
    changed
}
