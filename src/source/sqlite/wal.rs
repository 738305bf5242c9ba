//! The write-ahead log file: header, frames, running checksums.
//!
//! Source: <https://www.sqlite.org/fileformat2.html>, section 4. A frame's checksum runs over every frame before it, so a
//! frame that fits the chain proves all that came before; the salts tell one generation of the file from the next, which
//! overwrites it from the beginning.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use super::position::Salts;

/// Bytes before the first frame.
pub const WAL_HEADER_BYTES: usize = 32;
/// Bytes before each frame's page.
pub const FRAME_HEADER_BYTES: usize = 24;

const MAGIC_LITTLE: u32 = 0x377F_0682;
const VERSION: u32 = 3_007_000;
/// Frames are read this many bytes at a time.
const READ_BYTES: usize = 256 << 10;

/// A running checksum.
pub type Checksum = [u32; 2];

/// What the file's first 32 bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalHeader {
    /// Whether checksums take their words in big-endian order; else little-endian. All other numbers are big-endian.
    pub is_big_endian: bool,
    /// Bytes a page.
    pub page_size: u32,
    /// What every frame of this generation repeats.
    pub salts: Salts,
    /// Checksum of the header itself, from which the first frame's goes on.
    pub checksum: Checksum,
}

/// A log with frames: the file, and its generation, for it may be begun again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogFile {
    file: (u64, u64),
    salts: Salts,
}

impl LogFile {
    /// Looks at `log`; none when it has no frame.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(log: &File) -> io::Result<Option<Self>> {
        let metadata = log.metadata()?;
        let mut header = [0; WAL_HEADER_BYTES];
        if metadata.len() <= header.len() as u64 {
            return Ok(None);
        }
        log.read_exact_at(&mut header, 0)?;
        Ok(Some(Self { file: (metadata.dev(), metadata.ino()), salts: Salts::from_bytes(&header, 16) }))
    }
}

/// One frame of a chain that fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Counted from 1.
    pub number: u32,
    /// The page it holds, counted from 1.
    pub page: u32,
    /// Size of the database in pages if a transaction ends here, else `None`.
    pub commit_pages: Option<u32>,
    /// Running checksum up to here.
    pub checksum: Checksum,
}

/// Why the file does not go on as it should.
#[derive(Debug)]
pub enum Broken {
    /// The file cannot be read.
    Io(io::Error),
    /// The header is not one, or of another generation.
    Header(&'static str),
    /// This frame is missing, of another generation, or does not fit the chain.
    Frame(u32),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl WalHeader {
    /// Parses and verifies a header.
    pub fn parse(bytes: &[u8; WAL_HEADER_BYTES]) -> Result<Self, &'static str> {
        let magic = number(bytes, 0);
        if magic & !1 != MAGIC_LITTLE {
            return Err("the first bytes are not a write-ahead log's");
        }
        let is_big_endian = magic & 1 == 1;
        if number(bytes, 4) != VERSION {
            return Err("its version is unknown");
        }
        let page_size = number(bytes, 8);
        if !(512..=65_536).contains(&page_size) || !page_size.is_power_of_two() {
            return Err("its page size is impossible");
        }
        let checksum = [number(bytes, 24), number(bytes, 28)];
        if add_to_checksum(is_big_endian, [0, 0], &bytes[..24]) != checksum {
            return Err("its checksum does not fit");
        }
        Ok(Self { is_big_endian, page_size, salts: Salts::from_bytes(bytes, 16), checksum })
    }

    /// Reads and verifies the header of `file`, which must be of the generation `salts`.
    pub fn read(file: &File, salts: Salts) -> Result<Self, Broken> {
        let mut bytes = [0; WAL_HEADER_BYTES];
        match file.read_exact_at(&mut bytes, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(Broken::Header("it is cut off")),
            read => read?,
        }
        let header = Self::parse(&bytes).map_err(Broken::Header)?;
        if header.salts != salts { Err(Broken::Header("it is of another generation")) } else { Ok(header) }
    }
}

/// Where the page of frame `number` begins.
pub fn page_offset(number: u32, page_size: u32) -> u64 {
    frame_offset(number, page_size) + FRAME_HEADER_BYTES as u64
}

fn frame_offset(number: u32, page_size: u32) -> u64 {
    WAL_HEADER_BYTES as u64 + u64::from(number - 1) * (FRAME_HEADER_BYTES as u64 + u64::from(page_size))
}

/// Where a chain begins or goes on: a number of frames, and the running checksum there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Frames before it.
    pub frames: u32,
    /// Checksum of the last of them, or of the header.
    pub checksum: Checksum,
}

/// Reads the frames after `from` up to `last`, verifies salts and chain, and calls `each` with every frame and its page.
///
/// All of them must be there and fit, else [`Broken`]; `each` may have been called for some by then.
pub fn read_frames(
    file: &File,
    header: &WalHeader,
    from: Link,
    last: u32,
    mut each: impl FnMut(Frame, &[u8]),
) -> Result<(), Broken> {
    let frame_bytes = FRAME_HEADER_BYTES + header.page_size as usize;
    let at_once = (READ_BYTES / frame_bytes).max(1);
    let mut buffer = vec![0; at_once * frame_bytes];
    let mut checksum = from.checksum;
    let mut number = from.frames + 1;
    while number <= last {
        let frames = at_once.min((last - number + 1) as usize);
        let bytes = &mut buffer[..frames * frame_bytes];
        match file.read_exact_at(bytes, frame_offset(number, header.page_size)) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                let whole = file.metadata()?.len().saturating_sub(WAL_HEADER_BYTES as u64) / frame_bytes as u64;
                return Err(Broken::Frame(u32::try_from(whole + 1).unwrap_or(last).clamp(number, last)));
            }
            read => read?,
        }
        for raw in bytes.chunks_exact(frame_bytes) {
            let frame = next_frame(header, number, checksum, raw).ok_or(Broken::Frame(number))?;
            checksum = frame.checksum;
            each(frame, &raw[FRAME_HEADER_BYTES..]);
            number += 1;
        }
    }
    Ok(())
}

/// The frame in `raw` (header and page), if it goes on from `checksum`.
pub fn next_frame(header: &WalHeader, frame_number: u32, checksum: Checksum, raw: &[u8]) -> Option<Frame> {
    let (head, page) = raw.split_at(FRAME_HEADER_BYTES);
    let page_number = number(head, 0);
    let checksum = add_to_checksum(header.is_big_endian, checksum, &head[..8]);
    let checksum = add_to_checksum(header.is_big_endian, checksum, page);
    let fits = page_number != 0 && Salts::from_bytes(head, 8) == header.salts && checksum == [number(head, 16), number(head, 20)];
    let commit_pages = Some(number(head, 4)).filter(|pages| *pages != 0);
    fits.then_some(Frame { number: frame_number, page: page_number, commit_pages, checksum })
}

/// Adds `bytes`, a multiple of eight, to a running checksum.
pub fn add_to_checksum(is_big_endian: bool, [mut first, mut second]: Checksum, bytes: &[u8]) -> Checksum {
    let (pairs, rest) = bytes.as_chunks::<8>();
    debug_assert!(rest.is_empty());
    let word = |bytes: [u8; 4]| if is_big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) };
    for [a, b, c, d, e, f, g, h] in pairs.iter().copied() {
        first = first.wrapping_add(word([a, b, c, d])).wrapping_add(second);
        second = second.wrapping_add(word([e, f, g, h])).wrapping_add(first);
    }
    [first, second]
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write;

    use super::*;

    /// A log as SQLite would write it: (page, size after a commit or 0, first byte of the page) a frame.
    pub(in super::super) fn log(is_big_endian: bool, salts: u64, page_size: u32, frames: &[(u32, u32, u8)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [MAGIC_LITTLE | u32::from(is_big_endian), VERSION, page_size, 0] {
            bytes.extend_from_slice(&word.to_be_bytes());
        }
        bytes.extend_from_slice(&salts.to_be_bytes());
        let mut sum = add_to_checksum(is_big_endian, [0, 0], &bytes);
        let put = |bytes: &mut Vec<u8>, sum: Checksum| sum.iter().for_each(|word| bytes.extend(word.to_be_bytes()));
        put(&mut bytes, sum);
        for (page, commit, fill) in frames {
            let head = [page.to_be_bytes(), commit.to_be_bytes()].concat();
            let content = vec![*fill; page_size as usize];
            sum = add_to_checksum(is_big_endian, add_to_checksum(is_big_endian, sum, &head), &content);
            bytes.extend_from_slice(&head);
            bytes.extend_from_slice(&salts.to_be_bytes());
            put(&mut bytes, sum);
            bytes.extend_from_slice(&content);
        }
        bytes
    }

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn read_all(bytes: &[u8], salts: u64, last: u32) -> Result<Vec<(Frame, u8)>, Broken> {
        let file = file(bytes);
        let header = WalHeader::read(&file, Salts(salts))?;
        let mut found = Vec::new();
        let from = Link { frames: 0, checksum: header.checksum };
        read_frames(&file, &header, from, last, |frame, page| found.push((frame, page[0])))?;
        Ok(found)
    }

    #[test]
    fn frames_of_both_byte_orders_are_read_and_go_on_from_the_middle() {
        for is_big_endian in [false, true] {
            let bytes = log(is_big_endian, 77, 512, &[(1, 0, 5), (2, 2, 6), (9, 9, 7)]);
            let found = read_all(&bytes, 77, 3).unwrap();
            let told: Vec<_> = found.iter().map(|(frame, fill)| (frame.page, frame.commit_pages, *fill)).collect();
            assert_eq!(told, [(1, None, 5), (2, Some(2), 6), (9, Some(9), 7)]);
            let file = file(&bytes);
            let header = WalHeader::read(&file, Salts(77)).unwrap();
            let mut later = Vec::new();
            let from = Link { frames: 2, checksum: found[1].0.checksum };
            read_frames(&file, &header, from, 3, |frame, page| later.push((frame, page[0]))).unwrap();
            assert_eq!(later, found[2..]);
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_breaks_the_chain() {
        let good = log(false, 77, 512, &[(1, 0, 5), (2, 2, 6)]);
        for at in 0..good.len() {
            // Neither the checkpoint sequence's meaning nor its checksum is free: every byte is covered.
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(read_all(&bad, 77, 2).is_err(), "byte {at}");
        }
        assert!(matches!(read_all(&good, 78, 2), Err(Broken::Header(_))), "another generation");
        assert!(matches!(read_all(&good, 77, 3), Err(Broken::Frame(3))), "beyond the end");
        assert!(matches!(read_all(&good[..good.len() - 1], 77, 2), Err(Broken::Frame(_))), "cut off");
    }

    #[test]
    fn frames_that_an_earlier_generation_left_do_not_count() {
        let mut bytes = log(false, 77, 512, &[(1, 0, 5), (2, 2, 6), (3, 3, 7)]);
        let newer = log(false, 78, 512, &[(4, 4, 8)]);
        bytes[..newer.len()].copy_from_slice(&newer);
        assert_eq!(read_all(&bytes, 78, 1).unwrap().len(), 1);
        assert!(matches!(read_all(&bytes, 78, 2), Err(Broken::Frame(2))));
    }
}
