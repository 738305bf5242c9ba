//! The raw form in which snapshots and batches are stored, before compression and encryption.
//!
//! ```text
//! lifeboat sqlite 1\n
//! <one line of JSON: SegmentHeader>\n
//! <page number, 4 bytes big-endian> <page, page_size bytes>      again and again, page numbers rising
//! <0, 4 bytes> <XXH3-128 of everything before it, 16 bytes big-endian>
//! ```
//!
//! A reader trusts nothing before it has seen the digest: [`SegmentReader::next_page`] verifies order and sizes as it
//! goes, and says that the segment is whole only at its end.

use std::io::{self, BufRead, Read, Write};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::position::Moment;
use crate::base::{Error, Result};

const MAGIC: &[u8] = b"lifeboat sqlite 1\n";
const MAX_HEADER_BYTES: u64 = 64 << 10;

/// What a segment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentHeader {
    /// The moment that it goes on from; `None` for a snapshot of every page. A moment, not only its position: two logs that
    /// are empty look the same.
    pub from: Option<Moment>,
    /// The state that it leads to.
    pub to: Moment,
}

/// Writes a segment.
pub struct SegmentWriter<W> {
    inner: W,
    digest: Xxh3,
    page_size: usize,
    last_page: u32,
}

impl<W: Write> SegmentWriter<W> {
    /// Begins a segment.
    pub fn begin(inner: W, header: &SegmentHeader) -> io::Result<Self> {
        let page_size = header.to.at.page_size as usize;
        let mut writer = Self { inner, digest: Xxh3::new(), page_size, last_page: 0 };
        writer.put(MAGIC)?;
        let mut line = serde_json::to_vec(header)?;
        line.push(b'\n');
        writer.put(&line)?;
        Ok(writer)
    }

    /// Appends a page; numbers must rise.
    pub fn page(&mut self, number: u32, page: &[u8]) -> io::Result<()> {
        assert!(number > self.last_page && page.len() == self.page_size, "pages rise, and have one size");
        self.last_page = number;
        self.put(&number.to_be_bytes())?;
        self.put(page)
    }

    /// Ends the segment and flushes it.
    pub fn finish(mut self) -> io::Result<W> {
        self.put(&[0; 4])?;
        self.inner.write_all(&self.digest.digest128().to_be_bytes())?;
        self.inner.flush()?;
        Ok(self.inner)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.digest.update(bytes);
        self.inner.write_all(bytes)
    }
}

/// Reads a segment, and verifies it.
pub struct SegmentReader<R> {
    inner: R,
    digest: Xxh3,
    header: SegmentHeader,
    last_page: u32,
}

impl<R: BufRead> SegmentReader<R> {
    /// Reads the header.
    pub fn begin(mut inner: R) -> Result<Self> {
        let mut magic = [0; MAGIC.len()];
        inner.read_exact(&mut magic).map_err(cut_off)?;
        if magic != MAGIC {
            return Err(Error::damaged("cannot read a SQLite segment: it does not begin as one of format 1"));
        }
        let mut line = Vec::new();
        (&mut inner).take(MAX_HEADER_BYTES).read_until(b'\n', &mut line).map_err(cut_off)?;
        let header: SegmentHeader = serde_json::from_slice(&line)
            .map_err(|error| Error::damaged("cannot read a SQLite segment's header").caused_by(error))?;
        let (page_size, pages) = (header.to.at.page_size, header.to.at.pages);
        if !(512..=65_536).contains(&page_size) || !page_size.is_power_of_two() || pages == 0 {
            return Err(Error::damaged("cannot read a SQLite segment: its sizes are impossible"));
        }
        let mut digest = Xxh3::new();
        digest.update(MAGIC);
        digest.update(&line);
        Ok(Self { inner, digest, header, last_page: 0 })
    }

    /// What it holds.
    pub fn header(&self) -> &SegmentHeader {
        &self.header
    }

    /// The next page's number, its bytes in `buffer`; `None` at the end, when the digest was right.
    pub fn next_page(&mut self, buffer: &mut Vec<u8>) -> Result<Option<u32>> {
        let mut number = [0; 4];
        self.read(&mut number)?;
        let number = u32::from_be_bytes(number);
        if number == 0 {
            let computed = self.digest.digest128();
            let mut stored = [0; 16];
            self.inner.read_exact(&mut stored).map_err(cut_off)?;
            let is_right = u128::from_be_bytes(stored) == computed;
            return if is_right { Ok(None) } else { Err(Error::damaged("a SQLite segment's digest does not fit its content")) };
        }
        if number <= self.last_page || number > self.header.to.at.pages {
            return Err(Error::damaged(format!("a SQLite segment has page {number} where it cannot be")));
        }
        self.last_page = number;
        buffer.resize(self.header.to.at.page_size as usize, 0);
        let mut page = std::mem::take(buffer);
        let read = self.read(&mut page);
        *buffer = page;
        read.map(|()| Some(number))
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.inner.read_exact(bytes).map_err(cut_off)?;
        self.digest.update(bytes);
        Ok(())
    }
}

fn cut_off(error: io::Error) -> Error {
    Error::damaged("cannot read a SQLite segment to its end").caused_by(error)
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::position::{FileId, Position, Salts};
    use super::*;
    use crate::base::Timestamp;

    pub(in super::super) fn header(from: Option<u32>, frame: u32, pages: u32) -> SegmentHeader {
        let file = FileId { device: 1, inode: 2, born_nanos: Some(3) };
        let at = |frame| Position {
            file,
            salts: Salts(9),
            frame,
            checksum: [frame, 5],
            change_counter: frame,
            page_size: 512,
            pages,
            boot: None,
        };
        let time = |frame| Timestamp::from_unix_micros(i64::from(frame) * 1_000_000).unwrap();
        let moment = |frame| Moment { complete_at: time(frame), captured_at: time(frame), at: at(frame) };
        SegmentHeader { from: from.map(moment), to: moment(frame) }
    }

    #[test]
    fn what_was_written_is_read_and_every_flipped_bit_is_found() {
        let mut writer = SegmentWriter::begin(Vec::new(), &header(Some(3), 7, 9)).unwrap();
        writer.page(2, &[7; 512]).unwrap();
        writer.page(9, &[8; 512]).unwrap();
        let bytes = writer.finish().unwrap();
        let read = |bytes: &[u8]| -> Result<Vec<(u32, u8)>> {
            let mut reader = SegmentReader::begin(bytes)?;
            let (mut found, mut page) = (Vec::new(), Vec::new());
            while let Some(number) = reader.next_page(&mut page)? {
                found.push((number, page[0]));
            }
            Ok(found)
        };
        assert_eq!(read(&bytes).unwrap(), [(2, 7), (9, 8)]);
        assert_eq!(*SegmentReader::begin(bytes.as_slice()).unwrap().header(), header(Some(3), 7, 9));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 4;
            assert!(read(&bad).is_err(), "byte {at}");
            assert!(read(&bytes[..at]).is_err(), "cut off at {at}");
        }
    }
}
