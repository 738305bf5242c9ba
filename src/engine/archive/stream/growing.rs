//! A segment while it is received.

use std::ops::ControlFlow;

use bytes::Bytes;

use crate::base::{Error, Lsn, Result, Segment, SegmentSize, Timestamp};
use crate::codec::Sha256Digest;
use crate::repo::log::{CommitTime, PieceName};
use crate::source::postgres::wal::{Carry, Event, Fault, SegmentEnd, Stop, scan};

/// What was received of a segment, from its first byte on.
pub(super) struct Growing {
    pub segment: Segment,
    pub size: SegmentSize,
    raw: Vec<u8>,
    /// What straddles into it.
    pub carry: Carry,
    /// Nothing is stored before so much was received: what comes before it is the parent timeline's.
    pub begins_at: u64,
}

/// The same at one moment.
#[derive(Clone)]
pub(super) struct Snapshot {
    pub segment: Segment,
    pub size: SegmentSize,
    pub raw: Bytes,
    pub carry: Carry,
    /// What comes before this offset is the parent timeline's: nothing is stored that does not reach beyond.
    pub begins_at: u64,
}

impl Growing {
    pub fn new(segment: Segment, size: SegmentSize, carry: Carry, begins_at: u64) -> Self {
        // Room for all of it: memory that was not written to yet is none.
        Self { segment, size, raw: Vec::with_capacity(size.bytes() as usize), carry, begins_at }
    }

    /// Where the next byte belongs.
    pub fn position(&self) -> Lsn {
        self.segment.start(self.size).plus(self.raw.len() as u64)
    }

    /// Bytes received.
    pub fn received(&self) -> u64 {
        self.raw.len() as u64
    }

    /// Bytes that may be stored.
    pub fn storable(&self) -> u64 {
        if self.received() > self.begins_at { self.received() } else { 0 }
    }

    pub fn is_whole(&self) -> bool {
        self.received() == self.size.bytes()
    }

    /// Adds what belongs to this segment of `bytes`, which begin at `start`; the rest is the next one's.
    ///
    /// # Errors
    /// When they do not go on where the last ones ended.
    pub fn append(&mut self, start: Lsn, mut bytes: Bytes) -> Result<Bytes> {
        if start != self.position() {
            return Err(Error::failed(format!("the server sent the log at {start} where {} was to come", self.position())));
        }
        let room = (self.size.bytes() - self.received()) as usize;
        let own = bytes.split_to(room.min(bytes.len()));
        self.raw.extend_from_slice(&own);
        Ok(bytes)
    }

    /// What was received so far: a copy.
    pub fn snapshot(&self) -> Snapshot {
        self.with(Bytes::copy_from_slice(&self.raw))
    }

    /// Moves what was received out; nothing is to be added any more.
    pub fn take(&mut self) -> Snapshot {
        let raw = std::mem::take(&mut self.raw);
        self.with(raw.into())
    }

    fn with(&self, raw: Bytes) -> Snapshot {
        Snapshot { segment: self.segment, size: self.size, raw, carry: self.carry.clone(), begins_at: self.begins_at }
    }
}

/// What was found in a piece.
struct Tally {
    from: Lsn,
    first: Option<Timestamp>,
    latest: Option<Timestamp>,
    commits: u32,
    /// Start of the first record that could be read.
    readable_from: Option<Lsn>,
}

impl Snapshot {
    /// One past the last byte.
    pub fn end(&self) -> Lsn {
        self.segment.start(self.size).plus(self.raw.len() as u64)
    }

    /// The piece from the offset `from` up to `to`: its name tells of the records that end in it.
    pub fn piece(&self, from: u32, to: u32) -> (PieceName, Bytes) {
        let content = self.raw.slice(from as usize..to as usize);
        let digest = Sha256Digest::of(&content).short();
        let tally = self.tally(from, to);
        let time = |time: Option<Timestamp>| time.map_or(CommitTime::None, CommitTime::At);
        let (first, last, commits) = match tally {
            Some(Tally { first, latest, commits, .. }) => (time(first), time(latest), Some(commits)),
            None => (CommitTime::Unknown, CommitTime::Unknown, None),
        };
        let name = PieceName { from, to, first, last, commits, digest, within_micros: None };
        (name, content)
    }

    /// What of the piece could be read; none unless all of it was.
    fn tally(&self, from: u32, to: u32) -> Option<Tally> {
        let start = self.segment.start(self.size);
        let from = start.plus(from.into());
        let mut tally = Tally { from, first: None, latest: None, commits: 0, readable_from: None };
        let until = &self.raw[..to as usize];
        let scanned = |carry: &Carry, tally: &mut Tally| {
            scan(self.segment, self.size, until, carry, |record, event| {
                tally.note(record.start, record.unpadded_end(), event);
                ControlFlow::<()>::Continue(())
            })
        };
        let scanned = match scanned(&self.carry, &mut tally) {
            Err(error) if error.is_carry_mismatch() => scanned(&Carry::Unknown, &mut tally),
            outcome => outcome,
        };
        let Ok(ControlFlow::Continue(end)) = scanned else { return None };
        // A record whose beginning is not known ends where the first one that can be read begins.
        let head_is_here = end.head_unknown && tally.readable_from.is_none_or(|readable| readable > from);
        (is_read_through(&end) && !head_is_here).then_some(tally)
    }

    /// What straddles out of the segment, which is whole.
    pub fn carry_out(&self) -> Carry {
        let read = |carry: &Carry| scan(self.segment, self.size, &self.raw, carry, |_, _| ControlFlow::<()>::Continue(()));
        match read(&self.carry).or_else(|_| read(&Carry::Unknown)) {
            Ok(ControlFlow::Continue(end)) => end.carry,
            _ => Carry::Unknown,
        }
    }
}

impl Tally {
    fn note(&mut self, start: Lsn, end: Lsn, event: &Event) {
        self.readable_from = self.readable_from.or(Some(start));
        if let Event::TransactionEnd(transaction) = event
            && end > self.from
        {
            self.first = self.first.or(Some(transaction.time));
            self.latest = self.latest.max(Some(transaction.time));
            self.commits += u32::from(transaction.kind.is_commit());
        }
    }
}

/// Whether the log was read up to where it was cut, or to where nothing was written yet.
fn is_read_through(end: &SegmentEnd) -> bool {
    match end.stop {
        Stop::SegmentEnd => true,
        Stop::EndOfLog { fault, .. } => matches!(fault, Fault::NoMoreBytes | Fault::Empty),
        Stop::Damaged { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::postgres::wal::fixture::Log;

    fn snapshot(log: &Log, at: usize, bytes: usize) -> Snapshot {
        let (segment, raw) = log.segments().swap_remove(at);
        let mut growing = Growing::new(segment, log.size, Carry::Unknown, 0);
        assert!(growing.append(growing.position(), Bytes::from(raw[..bytes].to_vec())).unwrap().is_empty());
        growing.snapshot()
    }

    #[test]
    fn a_record_is_told_in_the_piece_in_which_it_ends() {
        let mut log = Log::new();
        let (one, two) = (log.commit(1, 100), log.commit(2, 200));
        let whole = snapshot(&log, 0, log.size.bytes() as usize);
        let offset = |lsn: Lsn| lsn.bytes_since(whole.segment.start(whole.size)) as u32;
        let inside = offset(two.start) + 8;
        let commits = |from, to| whole.piece(from, to).0.commits;
        // Padding that comes later tells nothing twice.
        let length: [u8; 4] = whole.raw[offset(two.start) as usize..][..4].try_into().unwrap();
        let unpadded = offset(two.start) + u32::from_le_bytes(length);
        assert!(unpadded < offset(two.end), "the record is padded");
        assert_eq!((commits(0, unpadded), commits(unpadded, offset(two.end))), (Some(2), Some(0)));
        assert_eq!(commits(0, inside), Some(1));
        assert_eq!(commits(inside, offset(two.end)), Some(1));
        assert_eq!(commits(0, offset(two.end)), Some(2));
        assert_eq!(commits(offset(one.end), inside), Some(0));
        let (name, content) = whole.piece(inside, offset(two.end));
        assert_eq!((name.first, content.len() as u32), (name.last, offset(two.end) - inside));
        assert!(name.first.known().is_some());
    }

    #[test]
    fn what_the_server_leaves_out_or_sends_twice_is_noticed() {
        let segment = Segment { timeline: crate::base::TimelineId(1), number: 3 };
        let size = SegmentSize::new(1 << 20).unwrap();
        let mut growing = Growing::new(segment, size, Carry::Unknown, 10);
        let start = segment.start(size);
        assert!(growing.append(start, Bytes::from_static(&[1; 10])).unwrap().is_empty());
        assert_eq!((growing.received(), growing.storable()), (10, 0), "so far it is the parent's");
        for wrong in [start, start.plus(11)] {
            assert!(growing.append(wrong, Bytes::from_static(&[1])).is_err());
        }
        let rest = growing.append(start.plus(10), Bytes::from(vec![2; 1 << 20])).unwrap();
        assert!(growing.is_whole() && rest.len() == 10 && growing.storable() == size.bytes());
        let (copied, received) = (growing.snapshot(), growing.raw.as_ptr());
        let moved = growing.take();
        assert!(moved.raw == copied.raw && moved.end() == copied.end());
        assert!(moved.raw.as_ptr() == received && copied.raw.as_ptr() != received, "a whole segment is not copied");
    }
}
