//! What a drill's server may not replay: the creation of a tablespace, whose directory is the source's own.
//!
//! The backup's own tablespaces are restored elsewhere, but one that was created later is in the log only: its replay
//! would link to the real directory and write there, and where the drill runs on the source's host that is production's.
//! So every segment is looked through before the drill's server gets it. Recovery asks for segments in their order; the
//! one before is kept, for a record that straddles. One that straddles into the first is not replayed from there: either
//! it is before the backup, or recovery asks for that segment again after the one before.

use std::ffi::OsString;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::tablespaces::{self, Replayed};
use crate::base::{Error, Lsn, Result, Segment, SegmentSize};
use crate::source::postgres::wal::{Carry, SegmentEnd, SegmentReader, WalError};

/// The variable that names the drill's directory to `archive get`, which the drill's server runs.
const VARIABLE: &str = "LIFEBOAT_DRILL";
/// In that directory: what is replayed, why a segment was refused, and the segment before.
const STRETCH_FILE: &str = "replayed.json";
const REFUSAL_FILE: &str = "refused.txt";
const BEFORE: &str = "before-";

/// A drill's directory, and the stretch of the log that its server replays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rehearsal {
    /// The drill's directory.
    pub directory: PathBuf,
    /// Where replay begins.
    pub from: Lsn,
    /// The last record that is replayed starts here at the latest; none when all there is is replayed.
    pub last: Option<Lsn>,
}

impl Rehearsal {
    /// The drill whose server runs this process; none when no drill does.
    ///
    /// # Errors
    /// When there is one, and what it replays cannot be read.
    pub fn of_environment() -> Result<Option<Self>> {
        let Some(directory) = std::env::var_os(VARIABLE) else { return Ok(None) };
        let path = Path::new(&directory).join(STRETCH_FILE);
        let text = fs::read(&path).map_err(|error| Error::io("read", &path, error))?;
        let read = serde_json::from_slice(&text);
        read.map(Some).map_err(|error| Error::failed(format!("{} cannot be read", path.display())).caused_by(error))
    }

    /// Writes down what is replayed; the variable that the server must inherit.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn begin(&self) -> Result<(OsString, OsString)> {
        let path = self.directory.join(STRETCH_FILE);
        let text = serde_json::to_vec(self).map_err(|error| Error::failed("cannot write a record").caused_by(error))?;
        fs::write(&path, text).map_err(|error| Error::io("write", &path, error))?;
        Ok((VARIABLE.into(), self.directory.clone().into()))
    }

    /// Why a segment was refused; none when none was.
    pub fn refusal(directory: &Path) -> Option<String> {
        fs::read_to_string(directory.join(REFUSAL_FILE)).ok()
    }

    /// Looks through the segment `name` before it is handed over.
    ///
    /// # Errors
    /// When its replay would write outside the drill's directory, or that cannot be known.
    pub fn examine(&self, name: &str, raw: &[u8]) -> Result<()> {
        let size = u32::try_from(raw.len()).ok().and_then(SegmentSize::new);
        let segment = size.and_then(|size| Some((Segment::parse(name, size)?, size)));
        let (segment, size) =
            segment.ok_or_else(|| Error::damaged(format!("{name} is no segment: it has {} bytes", raw.len())))?;
        let unreadable = |error| Error::failed(format!("{name} cannot be looked through")).caused_by(error);
        let found = match self.scan(segment, size, raw, self.carry_into(segment, size)?) {
            // Another timeline's copy of the segment before: then the record that straddles is not this one's.
            Err(WalError::CarryMismatch { .. }) => self.scan(segment, size, raw, Carry::Unknown),
            found => found,
        };
        if let ControlFlow::Break(path) = found.map_err(unreadable)? {
            let why = format!("the log creates a tablespace at {path}: a drill would write there; take a newer backup");
            let file = self.directory.join(REFUSAL_FILE);
            fs::write(&file, &why).map_err(|error| Error::io("write", &file, error))?;
            return Err(Error::failed(why));
        }
        self.remember(name, raw)
    }

    /// The location of a tablespace whose creation is replayed.
    fn scan(
        &self,
        segment: Segment,
        size: SegmentSize,
        raw: &[u8],
        carry: Carry,
    ) -> Result<ControlFlow<String, SegmentEnd>, WalError> {
        let replayed = Replayed { from: self.from, last: self.last };
        let reader = SegmentReader::new(segment, size, raw, carry)?;
        tablespaces::created(reader, replayed, |path| !path.is_empty())
    }

    /// What straddles out of the segment before, as far as it is known.
    fn carry_into(&self, segment: Segment, size: SegmentSize) -> Result<Carry> {
        for (before, path) in self.remembered(size)? {
            if before.number + 1 == segment.number {
                let raw = fs::read(&path).map_err(|error| Error::io("read", &path, error))?;
                let reader = SegmentReader::new(before, size, &raw, Carry::Unknown);
                return Ok(reader.map_or(Carry::Unknown, |reader| reader.finish().carry));
            }
        }
        Ok(Carry::Unknown)
    }

    fn remembered(&self, size: SegmentSize) -> Result<Vec<(Segment, PathBuf)>> {
        let failed = |error| Error::io("list", &self.directory, error);
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let segment = name.to_str().and_then(|name| Segment::parse(name.strip_prefix(BEFORE)?, size));
            found.extend(segment.map(|segment| (segment, entry.path())));
        }
        Ok(found)
    }

    /// Keeps the segment for the next one, in place of the one before.
    fn remember(&self, name: &str, raw: &[u8]) -> Result<()> {
        let size = SegmentSize::new(raw.len() as u32).unwrap_or(SegmentSize::DEFAULT);
        for (_, path) in self.remembered(size)? {
            fs::remove_file(&path).map_err(|error| Error::io("remove", &path, error))?;
        }
        let path = self.directory.join(format!("{BEFORE}{name}"));
        fs::write(&path, raw).map_err(|error| Error::io("write", &path, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::postgres::wal::fixture::Log;
    use crate::source::postgres::wal::resource_manager;

    const FILLER: u8 = 10;

    fn create(path: &str) -> Vec<u8> {
        [&16_400_u32.to_le_bytes()[..], path.as_bytes(), &[0]].concat()
    }

    fn examine(log: &Log, from: Lsn, last: Option<Lsn>) -> Vec<Result<()>> {
        let dir = tempfile::tempdir().unwrap();
        let rehearsal = Rehearsal { directory: dir.path().to_owned(), from, last };
        rehearsal.begin().unwrap();
        let examined: Vec<_> =
            log.segments().iter().map(|(segment, raw)| rehearsal.examine(&segment.name(log.size), raw)).collect();
        assert_eq!(Rehearsal::refusal(dir.path()).is_some(), examined.iter().any(Result::is_err));
        examined
    }

    #[test]
    fn a_tablespace_that_is_replayed_is_refused_and_no_other() {
        let mut log = Log::new();
        log.commit(1, 1);
        let made = log.append(resource_manager::TABLESPACE, 0, 1, &create("/srv/space"));
        log.append(resource_manager::TABLESPACE, 0, 1, &create(""));
        log.append(resource_manager::TABLESPACE, 0x10, 1, &create("/srv/dropped"));
        let error = examine(&log, made.start, None).remove(0).unwrap_err();
        assert!(error.message().contains("creates a tablespace at /srv/space"), "{error:?}");
        assert!(examine(&log, made.end, None)[0].is_ok(), "before the replay begins");
        assert!(examine(&log, Lsn(0), Some(Lsn(made.start.0 - 8)))[0].is_ok(), "after it ends");
        assert!(examine(&log, Lsn(0), Some(made.start))[0].is_err());
    }

    #[test]
    fn one_that_straddles_two_segments_is_seen_with_the_second() {
        let mut log = Log::new();
        let size_bytes = log.size.bytes() as usize;
        while log.bytes.len() + 16_384 < size_bytes {
            log.append(FILLER, 0, 1, &[7; 4_000]);
        }
        while log.bytes.len() + 80 < size_bytes {
            log.append(FILLER, 0, 1, &[7; 8]);
        }
        log.append(resource_manager::TABLESPACE, 0, 1, &create(&format!("/srv/{}", "s".repeat(200))));
        let examined = examine(&log, Lsn(0), None);
        assert_eq!(examined.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false]);
    }
}
