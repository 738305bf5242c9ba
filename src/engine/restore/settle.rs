//! Sets the disk to work while more is decoded: the sync at the end then has little left to do.
//!
//! A region of a file is sent to the disk when all of it has been written and not before: what single pages of later
//! backups are written into would go there twice, in small pieces. In a delta restore most regions are never written
//! whole; those are left to the sync at the end, which alone makes anything durable.

use std::collections::HashMap;
use std::fs::File;
use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Advice, fadvise};

use crate::base::RelPath;
use crate::repo::manifest::Stretch;

/// Bytes of a file that go to the disk together.
const REGION_BYTES: u64 = 8 << 20;

/// Which regions of which files are not whole yet.
#[derive(Default)]
pub(super) struct Settling {
    /// Of each file of which a part has been written, the bytes that every region still lacks.
    missing_bytes: Mutex<HashMap<RelPath, Vec<u64>>>,
}

impl Settling {
    /// Notes that `stretches` of `file`, which will have `file_bytes` bytes, have been written.
    pub fn wrote(&self, path: &RelPath, file_bytes: u64, stretches: &[Stretch], file: &File) {
        for region in self.completed(path, file_bytes, stretches) {
            // "Not needed" starts the write-back at once, and drops what is clean already: nothing of a region just written.
            // Where the system does not care for it, the sync at the end does all the work.
            let _ = fadvise(file, region * REGION_BYTES, NonZeroU64::new(REGION_BYTES), Advice::DontNeed);
        }
    }

    /// The regions that `stretches` made whole.
    fn completed(&self, path: &RelPath, file_bytes: u64, stretches: &[Stretch]) -> Vec<u64> {
        let mut files = self.missing_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        if !files.contains_key(path) {
            files.insert(path.clone(), region_bytes(file_bytes));
        }
        let Some(missing_bytes) = files.get_mut(path) else { return Vec::new() };
        let parts = stretches.iter().flat_map(parts);
        let completed: Vec<u64> = parts.filter(|part| fill(missing_bytes, *part)).map(|(region, _)| region).collect();
        if missing_bytes.iter().all(|missing| *missing == 0) {
            files.remove(path);
        }
        completed
    }
}

/// The length of every region of a file.
fn region_bytes(file_bytes: u64) -> Vec<u64> {
    let region = |at: u64| REGION_BYTES.min(file_bytes - at * REGION_BYTES);
    (0..file_bytes.div_ceil(REGION_BYTES)).map(region).collect()
}

/// Notes bytes of a region; whether they were the last that it lacked.
fn fill(missing_bytes: &mut [u64], (region, bytes): (u64, u64)) -> bool {
    let Some(missing) = missing_bytes.get_mut(region as usize).filter(|missing| **missing > 0) else { return false };
    *missing = missing.saturating_sub(bytes);
    *missing == 0
}

/// A stretch cut at the borders of regions: number of the region and bytes in it.
fn parts(stretch: &Stretch) -> impl Iterator<Item = (u64, u64)> {
    let (begin, end) = (stretch.file_offset, stretch.file_offset + u64::from(stretch.len_bytes));
    (begin / REGION_BYTES..end.div_ceil(REGION_BYTES)).map(move |region| {
        let (first, last) = (region * REGION_BYTES, (region + 1) * REGION_BYTES);
        (region, end.min(last) - begin.max(first))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretch(file_offset: u64, len_bytes: u64) -> Stretch {
        Stretch { raw_offset: 0, file_offset, len_bytes: len_bytes as u32 }
    }

    #[test]
    fn a_region_goes_to_the_disk_when_its_last_byte_came() {
        const PAGE: u64 = 8192;
        let (settling, path) = (Settling::default(), RelPath::new("base/5/1").unwrap());
        let wrote = |stretches: &[Stretch]| settling.completed(&path, 2 * REGION_BYTES + 5, stretches);
        let none: [u64; 0] = [];
        assert_eq!(wrote(&[stretch(0, PAGE), stretch(2 * PAGE, REGION_BYTES - 2 * PAGE)]), none);
        assert_eq!(wrote(&[stretch(2 * REGION_BYTES, 5)]), [2], "the last one is shorter");
        assert_eq!(wrote(&[stretch(PAGE, PAGE)]), [0]);
        assert_eq!(wrote(&[stretch(REGION_BYTES, REGION_BYTES - 1)]), none);
        assert_eq!(settling.missing_bytes.lock().unwrap().len(), 1);
        assert_eq!(wrote(&[stretch(2 * REGION_BYTES - 1, 1)]), [1]);
        assert!(settling.missing_bytes.lock().unwrap().is_empty(), "nothing is remembered of a whole file");
    }

    #[test]
    fn a_stretch_across_regions_counts_in_each() {
        let (settling, path) = (Settling::default(), RelPath::new("a").unwrap());
        assert_eq!(settling.completed(&path, 3 * REGION_BYTES, &[stretch(1, 2 * REGION_BYTES)]), [1]);
        assert_eq!(
            settling.completed(&path, 3 * REGION_BYTES, &[stretch(0, 1), stretch(2 * REGION_BYTES + 1, REGION_BYTES - 1)]),
            [0, 2]
        );
    }
}
