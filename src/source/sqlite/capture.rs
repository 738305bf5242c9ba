//! Committed frames of the log as a batch of pages: the last version of each.
//!
//! A batch is an index into the log, not the pages themselves, so that a large transaction does not need as much memory.
//! The frames stay where they are until the guard moves on. Each page's digest was taken while the chain of checksums was
//! verified, and is compared when the page is read again.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_128;

use super::connection::beside;
use super::position::{Boot, Discontinuity, FileId, Moment, Position};
use super::track::counts_fit;
use super::wal::{Broken, Link, WalHeader, page_offset, read_frames};
use super::walindex::WalIndex;
use crate::base::{Error, Result};

/// What was committed between two positions.
#[derive(Clone, Debug)]
pub struct Batch {
    /// What it goes on from: the moment that was stored before it.
    pub from: Moment,
    /// The state that it leads to.
    pub to: Moment,
    /// Transactions in it.
    pub commits: u32,
    pub(super) pages: Pages,
}

/// Where a batch's pages are.
#[derive(Clone, Debug)]
pub(super) enum Pages {
    /// In the log: page number to frame.
    Log(PageIndex),
    /// In memory: page number to content.
    Memory(BTreeMap<u32, Vec<u8>>),
}

/// Each page's last frame.
pub(super) type PageIndex = BTreeMap<u32, InLog>;

/// A frame, and the XXH3-128 digest of its page.
#[derive(Clone, Copy, Debug)]
pub(super) struct InLog {
    frame: u32,
    digest: u128,
}

/// What was read of the log, up to the last committed frame.
pub(super) struct Scan {
    pub index: PageIndex,
    pub commits: u32,
}

impl Batch {
    /// Pages in it.
    pub fn pages(&self) -> usize {
        match &self.pages {
            Pages::Log(index) => index.len(),
            Pages::Memory(pages) => pages.len(),
        }
    }
}

/// Reads the frames after `from` up to what `now` says is committed, and verifies that they lead there.
pub(super) fn scan(log: &File, from: Option<&Position>, now: &WalIndex) -> Result<Scan, Broken> {
    let header = WalHeader::read(log, now.salts)?;
    let mut link = match from {
        Some(at) => Link { frames: at.frame, checksum: at.checksum },
        None => Link { frames: 0, checksum: header.checksum },
    };
    let mut scan = Scan { index: PageIndex::new(), commits: 0 };
    let mut ended_with = None;
    read_frames(log, &header, link, now.frames, |frame, page| {
        link = Link { frames: frame.number, checksum: frame.checksum };
        scan.index.insert(frame.page, InLog { frame: frame.number, digest: xxh3_128(page) });
        scan.commits += u32::from(frame.commit_pages.is_some());
        ended_with = frame.commit_pages;
    })?;
    let leads_there = link == Link { frames: now.frames, checksum: now.checksum } && ended_with == Some(now.pages);
    if !leads_there {
        return Err(Broken::Frame(now.frames));
    }
    // What lies beyond the end was truncated by the last commit.
    scan.index.retain(|page, _| *page <= now.pages);
    Ok(scan)
}

/// The batch from `from` to `now`, of the same generation or (`is_new_generation`) of the next.
pub(super) fn capture(
    log: &File,
    from: &Position,
    now: &WalIndex,
    is_new_generation: bool,
) -> Result<Scan, Result<Discontinuity, Broken>> {
    match scan(log, (!is_new_generation).then_some(from), now) {
        Ok(scan) if is_new_generation && !counts_fit(from, now, scan.commits) => Err(Ok(Discontinuity::Missed)),
        Ok(scan) => Ok(scan),
        Err(broken @ Broken::Io(_)) => Err(Err(broken)),
        Err(_) => Err(Ok(Discontinuity::Diverged)),
    }
}

/// The position that `now` describes.
pub(super) fn position(file: FileId, now: &WalIndex, page_size: u32, pages: u32) -> Position {
    let &WalIndex { salts, frames: frame, checksum, change_counter, .. } = now;
    Position { file, salts, frame, checksum, change_counter, page_size, pages, boot: Boot::current() }
}

/// Reads one page out of the log again; an error when it is not what it was.
pub(super) fn read_page(log: &File, path: &Path, page: u32, place: InLog, buffer: &mut [u8]) -> Result<()> {
    let name = beside(path, "-wal");
    let offset = page_offset(place.frame, u32::try_from(buffer.len()).expect("a page has 65,536 bytes at most"));
    log.read_exact_at(buffer, offset).map_err(|error| Error::io("read", &name, error))?;
    if xxh3_128(buffer) == place.digest {
        return Ok(());
    }
    let message = format!("cannot read page {page} in {}: it was overwritten while it was captured", name.display());
    Err(Error::busy(message).hint("something removes SQLite's locks on it; it is captured again with a fresh snapshot"))
}
