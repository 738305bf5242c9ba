//! What the log touched from one position to another: from the indexes that were kept as its segments were archived, and
//! from `pg_wal` itself for those that are not archived yet or of which nothing was kept.
//!
//! How this could lie, and what stands against it:
//! - An index of another content of the segment, of another cluster, cut short or damaged: it carries digests of itself and
//!   of the segment, which must be the archived one's.
//! - A segment in `pg_wal` that is recycled, or not all there: every record up to its end (of the last, up to the position)
//!   must be read, checksums and all; also the one that straddles into it.
//! - A record that cannot be interpreted: the segment says that it is unknown.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use super::keep::touched;
use super::told::Told;
use crate::base::{Incarnation, Lsn, Segment, SegmentSize};
use crate::engine::Scope;
use crate::engine::timeline::TimelinePath;
use crate::repo::log::LogCatalog;
use crate::source::postgres::touched::Touched;
use crate::source::postgres::wal::{Carry, Fault, SegmentSummary, Stop, summarise, summarise_with};

/// Why a stretch of log does not tell what it touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hole(pub String);

/// The log from the start of a base to the start of a backup.
#[derive(Clone, Debug)]
pub struct Stretch {
    incarnation: Incarnation,
    size: SegmentSize,
    /// Each with the digest of the archived one, where that is whole.
    segments: Vec<(Segment, Option<String>)>,
    until: Lsn,
    pg_wal: PathBuf,
    /// Whether it may end with the last record that is complete before `until`: for a look at a log that is being written.
    pub may_end_early: bool,
}

impl Stretch {
    /// The log on `path` from `since` to `until`, archived as `catalog` says or still in `pg_wal`.
    pub fn new(
        incarnation: &Incarnation,
        path: &TimelinePath,
        catalog: &LogCatalog,
        (since, until): (Lsn, Lsn),
        pg_wal: PathBuf,
    ) -> Self {
        let size = path.segment_size();
        let digest = |segment: Segment| {
            let whole = catalog.streamed_end(segment, size).is_none();
            catalog.segments.get(&segment).filter(|_| whole).map(|object| object.name.digest.clone())
        };
        let numbers = since.0 / size.bytes()..=until.0.saturating_sub(1) / size.bytes();
        let segments = numbers.map(|number| path.segment(number)).map(|segment| (segment, digest(segment))).collect();
        Self { incarnation: incarnation.clone(), size, segments, until, pg_wal, may_end_early: false }
    }
}

/// Reads what is told. Blocks; must not run on a runtime's worker.
///
/// # Errors
/// The first hole: then nothing is told.
pub fn gather(scope: &Scope, stretch: &Stretch) -> Result<Told, Hole> {
    let mut all = Touched::default();
    let mut carry = Carry::Unknown;
    for (at, (segment, digest)) in stretch.segments.iter().enumerate() {
        let name = segment.name(stretch.size);
        let kept = match digest {
            Some(digest) => scope.state.pages_of(&scope.source, &stretch.incarnation, &name, digest),
            None => Err("it is not archived yet".to_owned()),
        };
        let found = match kept.and_then(|index| touched(&index).ok_or_else(|| "its index cannot be".to_owned())) {
            Ok(found) => {
                carry = Carry::Unknown;
                found
            }
            Err(why) => {
                let live = stretch.live(scope, at, std::mem::replace(&mut carry, Carry::Unknown));
                let (found, next) = live.map_err(|also| Hole(format!("{name}: {why}, and {also}")))?;
                carry = next;
                found
            }
        };
        if let Some(why) = found.unknown {
            return Err(Hole(format!("{name} does not tell which pages it touches: {why}")));
        }
        all.merge(&found);
        if let Some(why) = all.unknown {
            return Err(Hole(why));
        }
    }
    Ok(Told::new(all))
}

impl Stretch {
    /// What the segment with the index `at` touches, read from `pg_wal`, and what straddles out of it.
    fn live(&self, scope: &Scope, at: usize, before: Carry) -> Result<(Touched, Carry), String> {
        let (segment, is_last) = (self.segments[at].0, at + 1 == self.segments.len());
        let name = segment.name(self.size);
        let most = if is_last { self.until.bytes_since(segment.start(self.size)) } else { self.size.bytes() };
        let raw = self.read(segment, most)?;
        let read = |carry: &Carry| {
            let mut touched = Touched::default();
            summarise_with(segment, self.size, &raw, carry, |record| touched.note(record)).map(|summary| (summary, touched))
        };
        let remembered = || {
            let bytes = scope.state.carry_into(&scope.source, &self.incarnation, &name)?;
            Carry::from_bytes(&bytes)
        };
        let carry = match before {
            Carry::Unknown => remembered().unwrap_or_else(|| self.carry_into(at)),
            known => known,
        };
        let outcome = match read(&carry) {
            Err(error) if error.is_carry_mismatch() => read(&Carry::Unknown),
            outcome => outcome,
        };
        let (summary, touched) = outcome.map_err(|error| format!("it cannot be read from pg_wal: {error}"))?;
        let header = summary.header;
        if Incarnation::postgres(u32::from(header.major_version), header.system_identifier) != self.incarnation {
            return Err("pg_wal holds another cluster's".to_owned());
        }
        self.check_whole(&summary, at == 0, is_last)?;
        Ok((touched, summary.end.carry))
    }

    /// Up to `most` bytes of a segment in `pg_wal`.
    fn read(&self, segment: Segment, most: u64) -> Result<Vec<u8>, String> {
        let mut raw = Vec::new();
        let read = File::open(self.pg_wal.join(segment.name(self.size))).and_then(|file| file.take(most).read_to_end(&mut raw));
        match read {
            Ok(_) => Ok(raw),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err("it is not in pg_wal any more".to_owned()),
            Err(error) => Err(format!("it cannot be read from pg_wal: {error}")),
        }
    }

    /// What straddles into a segment, from the one before it in `pg_wal`.
    fn carry_into(&self, at: usize) -> Carry {
        let Some((previous, _)) = at.checked_sub(1).map(|before| &self.segments[before]) else { return Carry::Unknown };
        let read = self.read(*previous, self.size.bytes()).ok();
        let summary = read.and_then(|raw| summarise(*previous, self.size, &raw, &Carry::Unknown).ok());
        summary.map_or(Carry::Unknown, |summary| summary.end.carry)
    }

    /// Whether the log stops only because the bytes up to the position do.
    fn is_half_written(stop: &Stop) -> bool {
        matches!(stop, Stop::EndOfLog { fault: Fault::NoMoreBytes, .. })
    }

    /// Whether every record was read. What straddles into the first segment ends before the base's start: no record ever
    /// begins before the position where replay does and ends after it.
    fn check_whole(&self, summary: &SegmentSummary, is_first: bool, is_last: bool) -> Result<(), String> {
        if summary.end.head_unknown && !is_first {
            return Err("the record that begins before it is lost".to_owned());
        }
        let through = match is_last {
            true if self.may_end_early && Self::is_half_written(&summary.end.stop) => true,
            true => summary.end.valid_end >= self.until,
            false => summary.end.stop == Stop::SegmentEnd,
        };
        if through { Ok(()) } else { Err(format!("in pg_wal it ends at {}", summary.end.valid_end)) }
    }
}

#[cfg(test)]
#[path = "gather/tests.rs"]
mod tests;
