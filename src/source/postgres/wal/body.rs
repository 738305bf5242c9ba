//! A record's body: a list of small headers, then the data they describe in the same order, main data last.
//!
//! Source: PostgreSQL `src/include/access/xlogrecord.h` and `DecodeXLogRecord` in `xlogreader.c`.

use super::bytes::{u16_at, u32_at};
use super::error::WalError;
use super::record::{RECORD_HEADER_BYTES, Record};

const MAX_BLOCK_ID: u8 = 32;
const TOP_LEVEL_XID: u8 = 252;
const ORIGIN: u8 = 253;
const MAIN_DATA_LONG: u8 = 254;
const MAIN_DATA_SHORT: u8 = 255;

const BLOCK_HAS_IMAGE: u8 = 0x10;
const BLOCK_SAME_RELATION: u8 = 0x80;
const IMAGE_HAS_HOLE: u8 = 0x01;

/// Where the body's headers end and how much data they announce.
struct Layout {
    headers_bytes: usize,
    data_bytes: usize,
    main_data_bytes: usize,
}

/// See [`Record::main_data`].
pub(super) fn main_data<'a>(record: &Record<'a>) -> Result<&'a [u8], WalError> {
    let layout =
        layout(record).ok_or_else(|| record.malformed("body", "a header that ends outside it", "block and data headers"))?;
    let body_bytes = record.total_length as usize - RECORD_HEADER_BYTES;
    if layout.headers_bytes + layout.data_bytes != body_bytes {
        let found = format!("{} + {} bytes of headers and data", layout.headers_bytes, layout.data_bytes);
        return Err(record.malformed("body", found, format!("{body_bytes} bytes")));
    }
    if !record.is_whole() {
        return Err(record.malformed("body", format!("{} bytes kept", record.body.len()), format!("{body_bytes} bytes")));
    }
    Ok(&record.body[body_bytes - layout.main_data_bytes..])
}

/// Walks the headers; `None` when one ends outside the body or has an unknown id.
fn layout(record: &Record<'_>) -> Option<Layout> {
    let body = record.body;
    let body_bytes = (record.total_length as usize).checked_sub(RECORD_HEADER_BYTES)?;
    let mut layout = Layout { headers_bytes: 0, data_bytes: 0, main_data_bytes: 0 };
    // As xlogreader.c does: the headers end where what is left is just the data announced.
    while body_bytes > layout.headers_bytes + layout.data_bytes {
        let at = layout.headers_bytes;
        match *body.get(at)? {
            MAIN_DATA_SHORT => {
                layout.main_data_bytes = usize::from(*body.get(at + 1)?);
                layout.headers_bytes = at + 2;
            }
            MAIN_DATA_LONG => {
                layout.main_data_bytes = u32_at(body, at + 1)? as usize;
                layout.headers_bytes = at + 5;
            }
            ORIGIN => layout.headers_bytes = at + 3,
            TOP_LEVEL_XID => layout.headers_bytes = at + 5,
            id if id <= MAX_BLOCK_ID => {
                let (header_bytes, data_bytes) = block_header(body.get(at..)?, record.major_version)?;
                layout.headers_bytes = at + header_bytes;
                layout.data_bytes += data_bytes;
            }
            _ => return None,
        }
        if matches!(body[at], MAIN_DATA_SHORT | MAIN_DATA_LONG) {
            // Main data is always last.
            layout.data_bytes += layout.main_data_bytes;
            break;
        }
    }
    Some(layout)
}

/// Length of the block header at the start of `header`, and of the image and data it announces.
fn block_header(header: &[u8], major_version: u16) -> Option<(usize, usize)> {
    let flags = *header.get(1)?;
    let mut data_bytes = usize::from(u16_at(header, 2)?);
    let mut header_bytes = 4;
    if flags & BLOCK_HAS_IMAGE != 0 {
        data_bytes += usize::from(u16_at(header, 4)?);
        let image = *header.get(8)?;
        header_bytes = 9;
        // Compression: one flag up to 14, one a method from 15 on.
        let compressed = if major_version >= 15 { image & 0x1C != 0 } else { image & 0x02 != 0 };
        if compressed && image & IMAGE_HAS_HOLE != 0 {
            header_bytes += 2;
        }
    }
    if flags & BLOCK_SAME_RELATION == 0 {
        header_bytes += 12;
    }
    header_bytes += 4;
    (header.len() >= header_bytes).then_some((header_bytes, data_bytes))
}
