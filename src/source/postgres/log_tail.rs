//! What a server committed after a position, read from its own `pg_wal`: SQL cannot tell whether a longer log holds commits.

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use super::wal::{Carry, Event, Stop, WAL_PAGE_BYTES, scan};
use crate::base::{Error, Lsn, Result, Segment, SegmentSize, TimelineId, Timestamp};

const PAGE: u64 = WAL_PAGE_BYTES as u64;

/// The time of the first transaction whose end was recorded from `after` up to `until` on `timeline`; `Ok(None)` when none did.
///
/// `data_directory` must be that of a running primary, and `until` a position up to which it had written.
///
/// # Errors
/// When a segment is not there any more, or cannot be read: then nothing is known.
pub fn first_commit_between(
    data_directory: &Path,
    timeline: TimelineId,
    (after, until): (Lsn, Lsn),
    size: SegmentSize,
) -> Result<Option<Timestamp>> {
    let (mut segment, mut carry) = (Segment::containing(timeline, after, size), Carry::Unknown);
    while segment.start(size) < until {
        let path = data_directory.join("pg_wal").join(segment.name(size));
        let bytes = fs::read(&path).map_err(|error: io::Error| Error::io("read", &path, error))?;
        let found = scan(segment, size, &bytes, &carry, |record, event| match event {
            Event::TransactionEnd(end) if record.start >= after && record.start < until => ControlFlow::Break(end.time),
            _ => ControlFlow::Continue(()),
        });
        let end = match found.map_err(|error| Error::failed(format!("cannot read {}", path.display())).caused_by(error))? {
            ControlFlow::Break(time) => return Ok(Some(time)),
            ControlFlow::Continue(end) => end,
        };
        // A record that straddles in, and ends here, may be a commit's.
        if segment.start(size) >= after && end.head_unknown {
            return Err(Error::failed(format!("{} begins inside a record whose beginning is not known", path.display())));
        }
        match end.stop {
            Stop::SegmentEnd => {}
            Stop::EndOfLog { at, .. } if at >= until => return Ok(None),
            // Pages are written as they fill up, so the last record may be there in part: it is nobody's commit yet.
            Stop::EndOfLog { .. } if until.0.is_multiple_of(PAGE) && until <= segment.end(size) => return Ok(None),
            Stop::EndOfLog { at, .. } | Stop::Damaged { at, .. } => {
                return Err(Error::failed(format!("{} cannot be read beyond {at}", path.display())));
            }
        }
        carry = end.carry;
        segment = Segment { number: segment.number + 1, ..segment };
    }
    Ok(None)
}
