//! Tablespaces that a replay would create.
//!
//! PostgreSQL replays `CREATE TABLESPACE` by removing whatever the location holds for its version, and beginning anew
//! (`create_tablespace_directories` in `src/backend/commands/tablespace.c`). Where a cluster is restored beside the one
//! that it is a copy of, and the tablespace is younger than the backup, that is the other cluster's data. So a segment
//! is handed over only when every tablespace that its replay creates lies where this cluster has one already, or where no
//! cluster of its version ever had one: one that is empty today is full tomorrow, when the record is replayed again.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use crate::base::{Error, Lsn, Result, Segment, SegmentSize};
use crate::source::postgres::control::ControlFile;
use crate::source::postgres::label::BackupLabel;
use crate::source::postgres::live::server_with_tablespace;
use crate::source::postgres::recovery_config;
use crate::source::postgres::wal::{Carry, Event, SegmentEnd, SegmentHeader, SegmentReader, WalError, resource_manager};

/// A record of `CREATE TABLESPACE` is not longer than this: its header, a number, and a path of 1,024 bytes.
const LONGEST_RECORD_BYTES: u32 = 1_100;

/// The records that are replayed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Replayed {
    /// The first one starts here or later.
    pub from: Lsn,
    /// The last one starts here at the latest; none when all there is is replayed.
    pub last: Option<Lsn>,
}

/// The location of the first tablespace whose creation is replayed and whose location `is_forbidden`; else how the segment
/// ends.
pub(super) fn created(
    mut reader: SegmentReader<'_>,
    replayed: Replayed,
    is_forbidden: impl Fn(&str) -> bool,
) -> Result<ControlFlow<String, SegmentEnd>, WalError> {
    while let Some(record) = reader.next_record() {
        let is_replayed = record.start >= replayed.from && replayed.last.is_none_or(|last| record.start <= last);
        if !is_replayed || record.resource_manager != resource_manager::TABLESPACE {
            continue;
        }
        if let Event::TablespaceCreate { path, .. } = Event::decode(&record)?
            && is_forbidden(&path)
        {
            return Ok(ControlFlow::Break(path));
        }
    }
    Ok(ControlFlow::Continue(reader.finish()))
}

/// What the replay of one segment may create, as far as the segment tells by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Creations {
    /// Whether a record that begins in it creates a tablespace; or that is not known.
    within: bool,
    /// Whether the end of a record lies in it that begins before, and may be one.
    straddles: bool,
    /// Whether the record that straddles out of it may be one.
    pub leaves: bool,
}

impl Creations {
    /// Reads `raw`, the whole of `segment`.
    pub fn of(segment: Segment, size: SegmentSize, raw: &[u8]) -> Self {
        let unknown = Self { within: true, straddles: true, leaves: true };
        let Ok(reader) = SegmentReader::new(segment, size, raw, Carry::Unknown) else { return unknown };
        let straddles = (1..=LONGEST_RECORD_BYTES).contains(&reader.header().continued_bytes);
        match created(reader, Replayed { from: Lsn(0), last: None }, |path| !path.is_empty()) {
            Ok(ControlFlow::Continue(SegmentEnd { carry, .. })) => {
                let leaves = match carry {
                    Carry::Nothing { .. } => false,
                    Carry::Partial { partial, .. } => partial.may_be_of(resource_manager::TABLESPACE),
                    Carry::Unknown => true,
                };
                Self { within: false, straddles, leaves }
            }
            Ok(ControlFlow::Break(_)) | Err(_) => unknown,
        }
    }

    /// Whether its replay may create a tablespace, when that is what the segment before it `leaves`, as far as that is known.
    pub fn may_create(&self, leaves: Option<bool>) -> bool {
        self.within || (self.straddles && leaves.unwrap_or(true))
    }
}

/// Looks through the segment `name` for tablespaces of another cluster that its replay by the cluster in `data` would
/// empty. What cannot be read is PostgreSQL's to judge: it does not replay what it cannot read.
///
/// # Errors
/// When there is one.
pub(super) fn spare(data: &Path, name: &str, raw: &[u8]) -> Result<()> {
    let Ok(control) = ControlFile::read(data) else { return Ok(()) };
    let size = control.wal_segment_size;
    let (Some(segment), Ok(header)) = (Segment::parse(name, size), SegmentHeader::parse(raw)) else { return Ok(()) };
    let replayed = replayed(data, &control);
    let reader = |carry: Carry| SegmentReader::new(segment, size, raw, carry);
    let carry = carry_into(data, segment, size, header.continued_bytes);
    let Ok(reader) = reader(carry).or_else(|_| reader(Carry::Unknown)) else { return Ok(()) };
    let version = format!("PG_{}_{}", header.major_version, control.catalog_version);
    let is_taken = |path: &str| {
        let taken = || fs::symlink_metadata(Path::new(path).join(&version)).is_ok();
        !path.is_empty() && !has_tablespace_at(data, Path::new(path)) && taken()
    };
    match created(reader, replayed, is_taken) {
        Ok(ControlFlow::Break(path)) => Err(refusal(name, &path, &version)),
        Ok(ControlFlow::Continue(_)) | Err(_) => Ok(()),
    }
}

/// Whether the cluster in `data` has a tablespace at `path`: this one, or one that is dropped before it is created.
fn has_tablespace_at(data: &Path, path: &Path) -> bool {
    let mut links = fs::read_dir(data.join("pg_tblspc")).into_iter().flatten().flatten();
    links.any(|link| fs::read_link(link.path()).is_ok_and(|leads_to| leads_to == path))
}

fn refusal(name: &str, path: &str, version: &str) -> Error {
    let elsewhere = "restore on another host, to a moment before that (--to), or from a backup taken after it";
    match server_with_tablespace(Path::new(path)) {
        Ok(Some(pid)) => Error::failed(format!(
            "{name} creates a tablespace at {path}, which another server on this host uses (process {pid}): replay would \
             empty it"
        ))
        .hint(elsewhere),
        _ => {
            let place = Path::new(path).join(version);
            let place = place.display();
            Error::failed(format!("{name} creates a tablespace at {path}, and replay would empty {place}, which is there"))
                .hint(format!("mv '{place}' '{place}.old'   when no cluster needs it any more; then start the server again"))
                .hint(elsewhere)
        }
    }
}

/// What the cluster in `data` replays, by its label and its settings.
fn replayed(data: &Path, control: &ControlFile) -> Replayed {
    // While the label is there `pg_control` may be of a later checkpoint.
    let label = fs::read(data.join("backup_label")).ok().and_then(|content| BackupLabel::parse(&content).ok());
    let from = label.map_or(control.redo_lsn, |label| label.start_lsn.min(control.redo_lsn));
    let settings = fs::read(data.join(recovery_config::AUTO_CONF)).unwrap_or_default();
    let until = recovery_config::replayed_until(&settings);
    let last = until.map(|(lsn, inclusive)| if inclusive { lsn } else { Lsn(lsn.0.saturating_sub(1)) });
    Replayed { from, last }
}

/// What straddles into `segment` when it may be the creation of a tablespace, out of the segment before, which recovery
/// keeps until it has replayed the next.
fn carry_into(data: &Path, segment: Segment, size: SegmentSize, continued_bytes: u32) -> Carry {
    let before = Segment { number: segment.number.saturating_sub(1), ..segment };
    let carry = || {
        let raw = fs::read(data.join("pg_wal").join(before.name(size))).ok()?;
        Some(SegmentReader::new(before, size, &raw, Carry::Unknown).ok()?.finish().carry)
    };
    let may_be_one = (1..=LONGEST_RECORD_BYTES).contains(&continued_bytes);
    may_be_one.then(carry).flatten().unwrap_or(Carry::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::postgres::control::tests::{sample, seal};
    use crate::source::postgres::wal::fixture::Log;

    const OID: u32 = 16_400;

    #[test]
    fn what_a_segment_may_create_is_told_by_it_and_by_the_one_before() {
        let create = |path: &str| [&OID.to_le_bytes()[..], path.as_bytes(), &[0]].concat();
        let of = |log: &Log, at: usize| {
            let (segment, raw) = &log.segments()[at];
            Creations::of(*segment, log.size, raw)
        };
        let mut log = Log::new();
        log.commit(1, 1);
        assert!(!of(&log, 0).may_create(Some(false)) && !of(&log, 0).may_create(None));
        log.append(resource_manager::TABLESPACE, 0, 1, &create(""));
        assert!(!of(&log, 0).may_create(None), "in place: within the data directory");
        log.append(resource_manager::TABLESPACE, 0, 1, &create("/srv/space"));
        assert!(of(&log, 0).may_create(Some(false)));
        for (manager, expected) in [(10, false), (resource_manager::TABLESPACE, true)] {
            let (mut log, size_bytes) = (Log::new(), Log::new().size.bytes() as usize);
            while log.bytes.len() + 16_384 < size_bytes {
                log.append(10, 0, 1, &[7; 4_000]);
            }
            while log.bytes.len() + 80 < size_bytes {
                log.append(10, 0, 1, &[7; 8]);
            }
            log.append(manager, 0, 1, &create(&format!("/srv/{}", "s".repeat(200))));
            let (first, second) = (of(&log, 0), of(&log, 1));
            assert_eq!((first.may_create(None), first.leaves), (false, expected));
            assert!(!second.may_create(Some(false)) && second.may_create(Some(true)) && second.may_create(None));
        }
    }

    /// A recovering cluster, and the location of a tablespace that its log creates.
    struct Stage {
        data: tempfile::TempDir,
        location: tempfile::TempDir,
        log: Log,
        created: Lsn,
    }

    impl Stage {
        fn new(filler_bytes: usize) -> Self {
            let [data, location] = [(); 2].map(|()| tempfile::tempdir().unwrap());
            for directory in ["global", "pg_tblspc", "pg_wal"] {
                fs::create_dir(data.path().join(directory)).unwrap();
            }
            let mut log = Log::new();
            let mut control = sample(1300);
            control[40..48].copy_from_slice(&log.lsn(0).0.to_le_bytes());
            control[228..232].copy_from_slice(&(1_u32 << 20).to_le_bytes());
            seal(&mut control);
            fs::write(data.path().join("global/pg_control"), control).unwrap();
            if filler_bytes > 0 {
                log.append(10, 0, 1, &vec![7; filler_bytes]);
            }
            let path = location.path().to_str().unwrap().as_bytes();
            let record = [&OID.to_le_bytes()[..], path, &[0]].concat();
            let created = log.append(resource_manager::TABLESPACE, 0, 1, &record).start;
            let stage = Self { data, location, log, created };
            fs::create_dir_all(stage.location.path().join("PG_15_202209061/5")).unwrap();
            stage
        }

        /// Looks at every segment in turn, as recovery gets them.
        fn all_spared(&self) -> bool {
            self.log.segments().iter().all(|(segment, raw)| {
                let name = segment.name(self.log.size);
                let spared = spare(self.data.path(), &name, raw);
                fs::write(self.data.path().join("pg_wal").join(&name), raw).unwrap();
                spared.is_ok()
            })
        }

        fn set(&self, target: &str) {
            fs::write(self.data.path().join("postgresql.auto.conf"), target).unwrap();
        }
    }

    #[test]
    fn another_clusters_tablespace_is_not_emptied() {
        let stage = Stage::new(0);
        assert!(!stage.all_spared());
        std::os::unix::fs::symlink(stage.location.path(), stage.data.path().join("pg_tblspc/16400")).unwrap();
        assert!(stage.all_spared(), "its own, which it replays anew");
        fs::remove_file(stage.data.path().join("pg_tblspc/16400")).unwrap();
        std::os::unix::fs::symlink("/elsewhere", stage.data.path().join("pg_tblspc/16400")).unwrap();
        assert!(!stage.all_spared(), "its own lies elsewhere");
        fs::remove_dir(stage.location.path().join("PG_15_202209061/5")).unwrap();
        assert!(!stage.all_spared(), "another's, which is empty still");
        std::os::unix::fs::symlink(stage.location.path(), stage.data.path().join("pg_tblspc/16390")).unwrap();
        assert!(stage.all_spared(), "its own of another number, dropped before");
        fs::remove_file(stage.data.path().join("pg_tblspc/16390")).unwrap();
        fs::remove_dir(stage.location.path().join("PG_15_202209061")).unwrap();
        assert!(stage.all_spared(), "nobody's");
    }

    #[test]
    fn only_what_is_replayed_counts() {
        let stage = Stage::new(100);
        stage.set(&format!("recovery_target_lsn = '{}'\nrecovery_target_inclusive = 'off'\n", stage.created));
        assert!(stage.all_spared(), "recovery ends before it");
        stage.set(&format!("recovery_target_lsn = '{}'\nrecovery_target_inclusive = 'on'\n", stage.created));
        assert!(!stage.all_spared());
        stage.set("recovery_target_lsn = ''\n");
        assert!(!stage.all_spared());
        stage.set("recovery_target = 'immediate'\n");
        assert!(!stage.all_spared(), "it is not known where the backup ends");
        stage.set(&format!("# The backup ends at {}\nrecovery_target = 'immediate'\n", stage.created));
        assert!(stage.all_spared(), "recovery ends with the backup");
        let mut control = fs::read(stage.data.path().join("global/pg_control")).unwrap();
        control[40..48].copy_from_slice(&(stage.created.0 + 8).to_le_bytes());
        seal(&mut control);
        fs::write(stage.data.path().join("global/pg_control"), control).unwrap();
        assert!(stage.all_spared(), "it is older than where replay begins");
    }

    #[test]
    fn one_that_straddles_two_segments_is_seen_with_the_second() {
        // The record begins in the last bytes of the first segment.
        let stage = Stage::new((1 << 20) - 40 - 127 * 24 - 24 - 5 - 32);
        assert_eq!(stage.log.segments().len(), 2);
        assert!(stage.created < stage.log.first.end(stage.log.size));
        assert!(!stage.all_spared());
    }
}
