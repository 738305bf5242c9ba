//! Reading only what the log told was touched, and in an audit comparing what is found with what it told.
//!
//! Only main forks of relations, of a file that is certainly the base's (device, inode, birth), on the host and in the data
//! directory of the base, that no restore or `pg_rewind` wrote since ([`super::base`]); every other file is read, or
//! compared by digest. A frame of another length than the base's is read whole. Pages that are read are checked as any.
//! - A frame of which no page was touched is the base's, and so are its pages' marks; but for pages that were bad in the
//!   base, which are read as if they had been touched: the disk may be good again.
//! - Of the others only these pages are read and stored; what a restore makes of the frame has no known digest then.
//! - Changes after the backup's start need not be told: the log that it is restored with brings them back.

use std::ops::Range;
use std::sync::Arc;

use super::compare::{NEARLY_ALL_PAGES, Prior};
use super::worker::{Chunk, PatchBuffer, Position, Stored, Worker, check_pages, read_at};
use crate::base::{Error, Lsn, Result};
use crate::codec::frame::FRAME_RAW_BYTES;
use crate::codec::{FrameDigest, digest};
use crate::engine::pages::Told;
use crate::repo::manifest::PAGES_IN_FRAME;
use crate::source::postgres::changes::PageSet;
use crate::source::postgres::page::{PAGE_BYTES, page_lsn};
use crate::source::postgres::wal::Relation;
use crate::source::{Entry, EntryKind, Fork};

/// What the log told between the base's start and the backup's.
#[derive(Clone, Debug)]
pub(super) struct LogTold {
    pub told: Arc<Told>,
    pub since: Lsn,
    pub until: Lsn,
}

/// What it told of one file.
#[derive(Clone, Debug)]
pub(super) struct ToldFile {
    log: LogTold,
    relation: Relation,
    first_block: u32,
    /// Whether any page was touched.
    pub touched: bool,
}

impl LogTold {
    /// What was told of `entry`; none where the log tells nothing.
    pub fn of(&self, entry: &Entry) -> Option<ToldFile> {
        let EntryKind::Pages { first_block, fork: Fork::Main } = entry.kind else { return None };
        let relation = self.told.relation(&entry.path)?;
        let touched = self.told.touches(relation, first_block, entry.size_bytes);
        Some(ToldFile { log: self.clone(), relation, first_block, touched })
    }
}

impl ToldFile {
    /// The pages of frame `index` that were touched.
    fn frame(&self, index: usize) -> PageSet {
        let first = u32::try_from(index).unwrap_or(u32::MAX).saturating_mul(PAGES_IN_FRAME);
        self.log.told.pages(self.relation, self.first_block.saturating_add(first))
    }

    /// Pages of frame `index`, which is `raw`, that a record changed in the stretch although it told of none: page of the
    /// file, and its LSN. A page that was changed later too does not show it.
    pub fn untold(&self, index: usize, raw: &[u8], suspicious: PageSet) -> Vec<(u32, Lsn)> {
        let told = self.frame(index) | suspicious;
        let first = u32::try_from(index).unwrap_or(u32::MAX).saturating_mul(PAGES_IN_FRAME);
        let (pages, _) = raw.as_chunks::<PAGE_BYTES>();
        let lsns = (0..).zip(pages).filter(|(bit, _)| told & (1 << bit) == 0).map(|(bit, page)| (first + bit, page_lsn(page)));
        lsns.filter(|(_, lsn)| *lsn > self.log.since && *lsn <= self.log.until).collect()
    }
}

impl Prior {
    /// The pages to read of the frame of `len_bytes` at `offset` of the file, the rest being the base's; none when the frame
    /// is to be read whole.
    fn told_pages(&self, offset: u64, len_bytes: usize) -> Option<(usize, PageSet)> {
        let told = self.told.as_ref().filter(|_| !self.audit)?;
        let index = usize::try_from(offset / FRAME_RAW_BYTES as u64).ok()?;
        let frame = self.base.line.frames.get(index)?;
        let pages = u32::try_from(len_bytes / PAGE_BYTES).ok()?;
        let has_marks = self.base.marks.0.len() >= index * PAGES_IN_FRAME as usize + pages as usize;
        if frame.raw_len as usize != len_bytes || !len_bytes.is_multiple_of(PAGE_BYTES) || pages == 0 || !has_marks {
            return None;
        }
        // The first page of an SP-GiST index holds a cache that is never logged; it is always read.
        let unlogged = PageSet::from(index == 0 && told.first_block == 0);
        let bad = self.bad_pages(told.first_block, index);
        let touched = (told.frame(index) | unlogged | bad) & (PageSet::MAX >> (PageSet::BITS - pages));
        (touched.count_ones() < NEARLY_ALL_PAGES.min(pages)).then_some((index, touched))
    }
}

impl Worker<'_> {
    /// Stores what was touched of the frame of `len_bytes` at `offset`, read into `buffer`; false when the log does not
    /// tell, and the frame is to be read.
    pub(super) fn told_frame(
        &mut self,
        chunk: &Chunk,
        (offset, buffer): (u64, &mut [u8]),
        stored: &mut Stored,
        patch: &mut PatchBuffer,
    ) -> Result<bool> {
        let EntryKind::Pages { first_block, .. } = chunk.entry.kind else { return Ok(false) };
        let Some(prior) = &chunk.prior else { return Ok(false) };
        let Some((index, touched)) = prior.told_pages(offset, buffer.len()) else { return Ok(false) };
        let pages = buffer.len() / PAGE_BYTES;
        let first = index * PAGES_IN_FRAME as usize;
        let marked = stored.marks.len();
        stored.marks.extend(&prior.base.marks.0[first..first + pages]);
        let is_read = |block: u32| {
            let page = block.wrapping_sub(first_block).wrapping_sub(first as u32);
            page >= pages as u32 || touched & (1 << page) != 0
        };
        stored.bad_blocks.extend(prior.base.line.bad_blocks.iter().filter(|block| !is_read(**block)));
        for run in runs(touched) {
            let bytes = run.start * PAGE_BYTES..run.end * PAGE_BYTES;
            let (raw, at) = (&mut buffer[bytes.clone()], offset + bytes.start as u64);
            let read = read_at(&chunk.file, raw, at).map_err(|error| Error::io("read", &chunk.entry.location, error))?;
            raw[read..].fill(0);
            self.note_read(read);
            check_pages(chunk, raw, at, first_block, self.checksums(), &mut stored.bad_blocks)?;
            let marks = raw.chunks(PAGE_BYTES).map(digest::mark);
            stored.marks[marked + run.start..].iter_mut().zip(marks).for_each(|(mark, now)| *mark = now);
        }
        stored.bad_blocks.sort_unstable();
        if touched == 0 {
            stored.positions.push(Position::Inherited);
            return Ok(true);
        }
        self.patch(patch, &mut stored.patches, buffer, offset, touched)?;
        stored.positions.push(Position::Patched(FrameDigest::UNKNOWN));
        Ok(true)
    }
}

/// Runs of set bits.
fn runs(pages: PageSet) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for bit in (0..PageSet::BITS as usize).filter(|bit| pages & (1 << bit) != 0) {
        match runs.last_mut() {
            Some(run) if run.end == bit => run.end += 1,
            _ => runs.push(bit..bit + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_bits_fall_into_runs() {
        let found = |pages| runs(pages).into_iter().map(|run| (run.start, run.end)).collect::<Vec<_>>();
        assert_eq!(found(0), []);
        assert_eq!(found(0b1011_0001), [(0, 1), (4, 6), (7, 8)]);
        assert_eq!(found(PageSet::MAX), [(0, 32)]);
        assert_eq!(found(1 << 31), [(31, 32)]);
    }
}
