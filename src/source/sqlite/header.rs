//! The first hundred bytes of a database file. Pure.
//!
//! Source: <https://www.sqlite.org/fileformat2.html>, section 1.3.

use std::fmt;

/// Bytes that a header takes.
pub const HEADER_BYTES: usize = 100;

const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// What a database's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes a page: a power of two from 512 to 65,536.
    pub page_size: u32,
    /// Whether readers and writers use a write-ahead log.
    pub is_wal: bool,
    /// Counts transactions in rollback-journal mode; stands still in WAL mode.
    pub change_counter: u32,
    /// Size in pages; `None` when a very old SQLite wrote last, and only the file's length tells.
    pub pages: Option<u32>,
}

/// Why bytes are not a header that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderFault {
    /// They do not begin as every SQLite database does.
    NotSqlite,
    /// They look encrypted: by an extension that leaves the header's middle in the clear.
    Encrypted,
    /// Only a newer SQLite may read it; the number is the header's read version.
    TooNew(u8),
    /// The beginning is right, and the named field impossible.
    Corrupt(&'static str),
}

impl Header {
    /// Parses the beginning of a database file.
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Self, HeaderFault> {
        let number = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let page_size = match u16::from_be_bytes([bytes[16], bytes[17]]) {
            1 => Some(65_536),
            size if size >= 512 && size.is_power_of_two() => Some(u32::from(size)),
            _ => None,
        };
        let fractions_fit = bytes[21..24] == [64, 32, 32];
        if &bytes[..16] != MAGIC {
            let in_the_clear = page_size.is_some() && fractions_fit && matches!(bytes[18..20], [1 | 2, 1 | 2]);
            return Err(if in_the_clear { HeaderFault::Encrypted } else { HeaderFault::NotSqlite });
        }
        let page_size = page_size.ok_or(HeaderFault::Corrupt("page size"))?;
        if !fractions_fit {
            return Err(HeaderFault::Corrupt("payload fractions"));
        }
        if bytes[19] > 2 {
            return Err(HeaderFault::TooNew(bytes[19]));
        }
        if bytes[19] == 0 || bytes[18] == 0 {
            return Err(HeaderFault::Corrupt("read and write version"));
        }
        if page_size - u32::from(bytes[20]) < 480 {
            return Err(HeaderFault::Corrupt("reserved bytes"));
        }
        let (change_counter, pages) = (number(24), number(28));
        let pages = (pages != 0 && change_counter == number(92)).then_some(pages);
        Ok(Self { page_size, is_wal: bytes[19] == 2, change_counter, pages })
    }
}

impl fmt::Display for HeaderFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSqlite => write!(f, "it does not begin as a SQLite database does"),
            Self::Encrypted => write!(f, "it is encrypted"),
            Self::TooNew(version) => write!(f, "its read version is {version}, which only a newer SQLite understands"),
            Self::Corrupt(field) => write!(f, "its header is damaged ({field})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..16].copy_from_slice(MAGIC);
        bytes[16..24].copy_from_slice(&[16, 0, 2, 2, 0, 64, 32, 32]);
        bytes[27] = 7;
        bytes[31] = 9;
        bytes[95] = 7;
        bytes
    }

    #[test]
    fn a_header_tells_mode_and_sizes() {
        let expected = Header { page_size: 4096, is_wal: true, change_counter: 7, pages: Some(9) };
        assert_eq!(Header::parse(&sample()), Ok(expected));
        let mut old = sample();
        old[95] = 6;
        assert_eq!(Header::parse(&old), Ok(Header { pages: None, ..expected }));
        let mut large = sample();
        large[16..20].copy_from_slice(&[0, 1, 1, 1]);
        assert_eq!(Header::parse(&large), Ok(Header { page_size: 65_536, is_wal: false, ..expected }));
    }

    #[test]
    fn whatever_is_wrong_is_named() {
        let with = |at: usize, value: u8| {
            let mut bytes = sample();
            bytes[at] = value;
            Header::parse(&bytes)
        };
        assert_eq!(with(16, 3), Err(HeaderFault::Corrupt("page size")));
        assert_eq!(with(22, 3), Err(HeaderFault::Corrupt("payload fractions")));
        assert_eq!(with(19, 3), Err(HeaderFault::TooNew(3)));
        assert_eq!(with(18, 0), Err(HeaderFault::Corrupt("read and write version")));
        assert_eq!(with(0, b'x'), Err(HeaderFault::Encrypted), "the middle is in the clear");
        assert_eq!(Header::parse(&[b'x'; HEADER_BYTES]), Err(HeaderFault::NotSqlite));
    }
}
