//! What a server committed after a position, read from its own `pg_wal`: SQL cannot tell whether a longer log holds commits.

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use super::wal::{Carry, Event, Stop, WAL_PAGE_BYTES, scan};
use crate::base::{Error, Lsn, Result, Segment, SegmentSize, TimelineId, Timestamp};

const PAGE: u64 = WAL_PAGE_BYTES as u64;

/// The time of the first commit, or preparation of one, that was recorded from `after` up to `until` on `timeline`; `Ok(None)`
/// when there is none. A transaction that was rolled back is nobody's loss.
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
            _ if record.start < after || record.start >= until => ControlFlow::Continue(()),
            Event::TransactionEnd(end) if end.kind.is_commit() => ControlFlow::Break(end.time),
            // Somebody was promised that it can be committed.
            Event::Prepare(prepare) => ControlFlow::Break(prepare.time),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::postgres::wal::fixture::Log;
    use crate::source::postgres::wal::resource_manager::TRANSACTION;

    #[test]
    fn rollbacks_are_no_loss_and_what_was_prepared_is() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("pg_wal")).unwrap();
        let first = |log: &Log| {
            for (segment, raw) in log.segments() {
                fs::write(dir.path().join("pg_wal").join(segment.name(log.size)), raw).unwrap();
            }
            let (after, until) = (log.lsn(0), log.lsn(log.bytes.len()));
            let found = first_commit_between(dir.path(), log.timeline, (after, until), log.size).unwrap();
            found.map(|time| time.unix_micros() - 946_684_800_000_000)
        };
        let mut log = Log::new();
        log.append(TRANSACTION, 0x20, 1, &5_i64.to_le_bytes());
        assert_eq!(first(&log), None, "a rollback");
        let mut committed = log.clone();
        committed.commit(2, 7);
        assert_eq!(first(&committed), Some(7));
        // As PostgreSQL 15 writes it: the transaction at 8, the time at 16, the name's length at 54, the name at 72.
        let mut prepared = [0; 76];
        (prepared[8], prepared[16], prepared[54]) = (3, 8, 4);
        prepared[72..].copy_from_slice(b"gid\0");
        log.append(TRANSACTION, 0x10, 3, &prepared);
        assert_eq!(first(&log), Some(8));
    }
}
