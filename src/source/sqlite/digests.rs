//! A digest of each page of a snapshot, so that the next one stores only the pages that changed.
//!
//! One XXH3-128 digest a page, 16 bytes big-endian, in the order of pages. Read and written as a stream beside the
//! snapshot: memory does not grow with the database.

use std::io::{self, Read, Write};

use xxhash_rust::xxh3::xxh3_128;

/// Compares pages, in order from the first, with those of a base, and records the digests for the next comparison.
pub struct PageComparison<B, D> {
    base: Option<B>,
    digests: D,
}

impl<B: Read, D: Write> PageComparison<B, D> {
    /// Compares with the digests in `base` (all pages differ without one) and writes the new ones to `digests`.
    ///
    /// A base is of use only if it has the same page size.
    pub fn new(base: Option<B>, digests: D) -> Self {
        Self { base, digests }
    }

    /// Whether the next page differs from the base's, or lies beyond its end.
    pub fn is_changed(&mut self, page: &[u8]) -> io::Result<bool> {
        let digest = xxh3_128(page).to_be_bytes();
        self.digests.write_all(&digest)?;
        let Some(base) = &mut self.base else { return Ok(true) };
        let mut before = [0; 16];
        match base.read_exact(&mut before) {
            Ok(()) => Ok(before != digest),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.base = None;
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    /// Flushes the digests and hands them back.
    pub fn finish(mut self) -> io::Result<D> {
        self.digests.flush()?;
        Ok(self.digests)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(base: Option<&[u8]>, pages: &[&[u8]]) -> (Vec<bool>, Vec<u8>) {
        let mut comparison = PageComparison::new(base, Vec::new());
        let changed = pages.iter().map(|page| comparison.is_changed(page).unwrap()).collect();
        (changed, comparison.finish().unwrap())
    }

    #[test]
    fn pages_that_differ_or_are_new_are_told() {
        let (all, base) = changed(None, &[b"one", b"two", b"three"]);
        assert_eq!((all, base.len()), (vec![true; 3], 48));
        let (some, digests) = changed(Some(&base), &[b"one", b"TWO", b"three", b"four"]);
        assert_eq!((some, digests.len()), (vec![false, true, false, true], 64));
        assert_eq!(changed(Some(&digests), &[b"one", b"TWO"]).0, [false, false], "a database that shrank");
    }
}
