//! Looking for a record in the archived log: decodes only segments that the names cannot rule out.

use std::ops::ControlFlow;

use async_trait::async_trait;

use crate::base::{Error, Lsn, Result, Segment, SegmentSize, Timestamp};
use crate::engine::archive::get::ArchivedLog;
use crate::engine::timeline::Run;
use crate::source::postgres::wal::{Carry, Event, SegmentHeader, Stop, scan, summarise};

/// Gives the raw bytes of archived segments.
#[async_trait]
pub trait LogReader: Sync {
    /// The bytes of a segment that is known to be archived.
    ///
    /// # Errors
    /// When it cannot be fetched or is damaged.
    async fn segment(&self, segment: Segment) -> Result<Vec<u8>>;
}

#[async_trait]
impl LogReader for ArchivedLog<'_> {
    async fn segment(&self, segment: Segment) -> Result<Vec<u8>> {
        let name = segment.name(self.size);
        self.read(segment).await?.ok_or_else(|| Error::damaged(format!("segment {name} vanished from the archive")))
    }
}

/// A record that was looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Its first byte.
    pub start: Lsn,
    /// One past its end.
    pub end: Lsn,
    /// What it means.
    pub event: Event,
    /// Time of the last transaction end before it in the same segment.
    pub end_before: Option<Timestamp>,
}

/// Where a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastRecord {
    /// The first byte of its last complete record.
    pub start: Lsn,
    /// One past that record's end.
    pub end: Lsn,
    /// The latest time that a record of the last segment with times carries: up to it, the run tells everything.
    pub evidence: Option<Timestamp>,
    /// The latest transaction end in the segments that were read for it.
    pub latest_end: Option<Timestamp>,
}

/// Reads a run of segments in order, as far as it must.
pub struct Search<'a> {
    reader: &'a dyn LogReader,
    run: &'a Run,
    size: SegmentSize,
    /// Index in the run of the segment that `carry` straddles into.
    carry_for: usize,
    carry: Carry,
}

impl<'a> Search<'a> {
    /// A search in `run`.
    pub fn new(reader: &'a dyn LogReader, run: &'a Run, size: SegmentSize) -> Self {
        Self { reader, run, size, carry_for: 0, carry: Carry::Unknown }
    }

    /// The first record, in the segments that `wanted` lets pass, for which `matches` says yes.
    ///
    /// # Errors
    /// When a segment cannot be read, or is damaged.
    pub async fn first(
        &mut self,
        mut wanted: impl FnMut(Segment) -> bool + Send,
        mut matches: impl FnMut(Lsn, &Event) -> bool + Send,
    ) -> Result<Option<Hit>> {
        for index in 0..self.run.segments.len() {
            if !wanted(self.run.segments[index]) {
                continue;
            }
            let hit = self.visit(index, |start, end, event, end_before| {
                if matches(start, event) {
                    return ControlFlow::Break(Hit { start, end, event: event.clone(), end_before });
                }
                ControlFlow::Continue(())
            });
            if let Some(hit) = hit.await? {
                return Ok(Some(hit));
            }
        }
        Ok(None)
    }

    /// The last complete record of the run, and how far the run's records tell the time.
    ///
    /// # Errors
    /// As [`Search::first`].
    pub async fn last_record(&mut self) -> Result<Option<LastRecord>> {
        let mut last: Option<LastRecord> = None;
        // Only a record longer than a segment leaves one without a record that ends in it, and only a long transaction
        // on an otherwise idle server one without a time.
        for index in (0..self.run.segments.len()).rev() {
            let mut here: Option<LastRecord> = None;
            let none: Option<()> = self
                .visit(index, |start, end, event, _| {
                    let (mut evidence, mut latest_end) = here.map_or((None, None), |here| (here.evidence, here.latest_end));
                    evidence = evidence.max(event.time());
                    if let Event::TransactionEnd(end) = event {
                        latest_end = latest_end.max(Some(end.time));
                    }
                    here = Some(LastRecord { start, end, evidence, latest_end });
                    ControlFlow::Continue(())
                })
                .await?;
            debug_assert!(none.is_none());
            last = match (last, here) {
                (Some(last), Some(here)) => Some(LastRecord { start: last.start, end: last.end, ..here }),
                (last, here) => last.or(here),
            };
            if last.is_some_and(|last| last.evidence.is_some()) {
                break;
            }
        }
        Ok(last)
    }

    /// Calls `visit` with the records that end in one segment and lie before the run's limit.
    async fn visit<B: Send>(
        &mut self,
        index: usize,
        mut visit: impl FnMut(Lsn, Lsn, &Event, Option<Timestamp>) -> ControlFlow<B> + Send,
    ) -> Result<Option<B>> {
        let segment = self.run.segments[index];
        let bytes = self.reader.segment(segment).await?;
        let carry = self.carry_into(index, &bytes).await?;
        let limit = self.run.limit.unwrap_or(Lsn(u64::MAX));
        let mut end_before = None;
        let outcome = scan(segment, self.size, &bytes, &carry, |record, event| {
            if record.start >= limit {
                return ControlFlow::Break(None);
            }
            let flow = visit(record.start, record.end, event, end_before);
            if let Event::TransactionEnd(end) = event {
                end_before = Some(end.time);
            }
            match flow {
                ControlFlow::Break(found) => ControlFlow::Break(Some(found)),
                ControlFlow::Continue(()) => ControlFlow::Continue(()),
            }
        })?;
        Ok(match outcome {
            ControlFlow::Break(found) => found,
            ControlFlow::Continue(end) => {
                self.check_whole(index, &end.stop)?;
                (self.carry_for, self.carry) = (index + 1, end.carry);
                None
            }
        })
    }

    /// PostgreSQL would end its recovery where a segment ends early; only the newest one of a run may.
    fn check_whole(&self, index: usize, stop: &Stop) -> Result<()> {
        let (at, fault) = match stop {
            Stop::SegmentEnd => return Ok(()),
            Stop::EndOfLog { .. } if index + 1 == self.run.segments.len() => return Ok(()),
            Stop::EndOfLog { at, fault } | Stop::Damaged { at, fault } => (at, fault),
        };
        let name = self.run.segments[index].name(self.size);
        Err(Error::damaged(format!("archived segment {name} cannot be replayed beyond {at}: {fault}")))
    }

    /// What straddles into a segment: from the one read before, else by reading back as far as the record reaches.
    async fn carry_into(&mut self, index: usize, bytes: &[u8]) -> Result<Carry> {
        if self.carry_for == index && self.carry != Carry::Unknown {
            return Ok(self.carry.clone());
        }
        if SegmentHeader::parse(bytes)?.continued_bytes == 0 {
            return Ok(Carry::Unknown);
        }
        let mut first = index;
        while first > 0 {
            first -= 1;
            let previous = self.reader.segment(self.run.segments[first]).await?;
            let mut carry = summarise(self.run.segments[first], self.size, &previous, &Carry::Unknown)?.end.carry;
            if carry == Carry::Unknown {
                continue;
            }
            for between in first + 1..index {
                let bytes = self.reader.segment(self.run.segments[between]).await?;
                carry = summarise(self.run.segments[between], self.size, &bytes, &carry)?.end.carry;
            }
            return Ok(carry);
        }
        // The run begins inside the record: its head lies before the backup's start and is never replayed.
        Ok(Carry::Unknown)
    }
}
