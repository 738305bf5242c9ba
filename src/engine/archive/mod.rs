//! The archive of a source's log: one file in (`push`), one file out (`get`), the log as it is written (`stream`), and
//! the operator's word on a split brain.

mod ahead;
pub mod contents;
pub mod get;
pub mod handover;
pub(in crate::engine) mod named;
pub mod push;
mod read;
pub mod rehearsal;
pub mod resolve;
pub mod slot;
pub mod socket;
pub mod spool;
pub mod stream;
mod tablespaces;
pub(crate) mod tail;
#[cfg(test)]
mod tests;

use crate::base::{Segment, SegmentSize, TimelineId};
use crate::source::postgres::history;

/// What PostgreSQL asks to archive, told by its file name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// `000000010000000000000003`.
    Segment,
    /// `00000002.history`.
    History(TimelineId),
    /// `000000010000000000000003.partial`, or the label of a backup, `000000010000000000000003.00000028.backup`.
    Auxiliary,
}

/// Tells the kind of a file from its name; `None` when PostgreSQL archives no such file.
pub fn file_kind(name: &str) -> Option<FileKind> {
    if let Some(timeline) = history::parse_file_name(name) {
        return Some(FileKind::History(timeline));
    }
    let (segment, rest) = (name.get(..24)?, name.get(24..)?);
    // Every name of a segment is one for segments of 1 MiB too.
    Segment::parse(segment, SegmentSize::new(1 << 20)?)?;
    let offset = |text: &str| text.len() == 8 && text.bytes().all(|b| b.is_ascii_hexdigit());
    match rest {
        "" => Some(FileKind::Segment),
        ".partial" => Some(FileKind::Auxiliary),
        label => {
            let label = label.strip_prefix('.')?.strip_suffix(".backup")?;
            offset(label).then_some(FileKind::Auxiliary)
        }
    }
}
