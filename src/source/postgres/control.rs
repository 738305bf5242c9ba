//! The control file, `global/pg_control`: a cluster's identity and where its recovery starts.
//!
//! Invariant: a [`ControlFile`] exists only for bytes whose CRC-32C is right, of a supported version, in this machine's
//! layout. Source: PostgreSQL `src/include/catalog/pg_control.h` (`ControlFileData`, `CheckPoint`), 13 to 18 on a 64-bit
//! little-endian machine: version 1300 (13 to 16), 1700 (17; a field in what was padding), 1800 (18; one more byte
//! before the nonce, which moves the CRC by four).

use std::path::Path;

use crate::base::{Error, Lsn, Result, SegmentSize, TimelineId, Timestamp};

use super::page::PAGE_BYTES;

/// Where the control file lies below the data directory.
pub const CONTROL_PATH: &str = "global/pg_control";

/// Bytes that matter of the file, which is padded with zeros to 8192.
const LONGEST_LAYOUT_BYTES: usize = 296;

/// Written by the server's machine; reads differently with another byte order or float format.
const FLOAT_FORMAT: f64 = 1_234_567.0;

/// What the cluster was doing when the file was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterState {
    /// Being created or upgraded.
    StartingUp,
    /// Shut down cleanly.
    ShutDown,
    /// Shut down cleanly as a standby.
    ShutDownInRecovery,
    /// Shutting down.
    ShuttingDown,
    /// Recovering from a crash.
    CrashRecovery,
    /// Recovering from an archive, or a standby.
    ArchiveRecovery,
    /// In production.
    InProduction,
}

pub use super::wal::WalLevel;

/// The fields a backup needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlFile {
    /// Names the cluster; shared by all its standbys and restored copies.
    pub system_identifier: u64,
    /// `1300`, `1700` or `1800`.
    pub control_version: u32,
    /// `202209061`: part of the name of a tablespace's directory.
    pub catalog_version: u32,
    /// What the cluster was doing.
    pub state: ClusterState,
    /// When the file was written, to the second.
    pub modified: Timestamp,
    /// The latest checkpoint record.
    pub checkpoint_lsn: Lsn,
    /// Where recovery from that checkpoint starts.
    pub redo_lsn: Lsn,
    /// The checkpoint's timeline.
    pub timeline: TimelineId,
    /// The timeline before it; the same unless the checkpoint is the first of its timeline.
    pub previous_timeline: TimelineId,
    /// When the checkpoint was made, to the second.
    pub checkpoint_time: Timestamp,
    /// `full_page_writes` at the checkpoint.
    pub full_page_writes: bool,
    /// How far recovery must go before the files are consistent; zero on a primary.
    pub min_recovery_lsn: Lsn,
    /// Timeline of [`ControlFile::min_recovery_lsn`]; `None` on a primary.
    pub min_recovery_timeline: Option<TimelineId>,
    /// `wal_level`.
    pub wal_level: WalLevel,
    /// `wal_log_hints`.
    pub wal_log_hints: bool,
    /// Pages in one file of a relation.
    pub pages_per_file: u32,
    /// Size of a WAL segment.
    pub wal_segment_size: SegmentSize,
    /// Version of the page checksum, zero when off.
    pub data_checksum_version: u32,
}

impl ControlFile {
    /// Reads and checks `global/pg_control` below `data_directory`.
    ///
    /// The server writes the file in one system call, yet a reader may see it torn: a caller that gets
    /// [`crate::base::ErrorKind::Damaged`] from a running cluster should try again.
    pub fn read(data_directory: &Path) -> Result<Self> {
        let path = data_directory.join(CONTROL_PATH);
        let bytes = std::fs::read(&path).map_err(|error| {
            let missing = error.kind() == std::io::ErrorKind::NotFound;
            let failed = Error::io("read", &path, error);
            if missing { failed.hint("check that the data directory is that of a PostgreSQL cluster") } else { failed }
        })?;
        Self::parse(&bytes).map_err(|error| error.context(path.display()))
    }

    /// Parses the file's bytes.
    ///
    /// A wrong CRC or impossible values are [`crate::base::ErrorKind::Damaged`]; a version, byte order or block size
    /// this program does not know fails plainly.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let fields = Fields(bytes.get(..LONGEST_LAYOUT_BYTES).ok_or_else(|| damaged("it is too short"))?);
        let control_version = fields.word(8);
        let crc_at = crc_offset(control_version).ok_or_else(|| unsupported(control_version))?;
        let computed = crc32c::crc32c(&fields.0[..crc_at]);
        if computed != fields.word(crc_at) {
            let stored = fields.word(crc_at);
            return Err(damaged("its checksum is wrong").detail("checksum", format!("{stored:08x}, not {computed:08x}")));
        }
        if f64::from_bits(fields.long(208)) != FLOAT_FORMAT {
            return Err(Error::failed("the cluster was made on a machine of another byte order"));
        }
        check_block_size("data", fields.word(216))?;
        check_block_size("WAL", fields.word(224))?;
        let wal_segment_size = SegmentSize::new(fields.word(228)).ok_or_else(|| damaged("its WAL segment size is impossible"))?;
        Ok(Self {
            system_identifier: fields.long(0),
            control_version,
            catalog_version: fields.word(12),
            state: cluster_state(fields.word(16))?,
            modified: fields.time(24)?,
            checkpoint_lsn: Lsn(fields.long(32)),
            redo_lsn: Lsn(fields.long(40)),
            timeline: TimelineId(fields.word(48)),
            previous_timeline: TimelineId(fields.word(52)),
            full_page_writes: fields.flag(56),
            checkpoint_time: fields.time(104)?,
            min_recovery_lsn: Lsn(fields.long(136)),
            min_recovery_timeline: Some(TimelineId(fields.word(144))).filter(|timeline| timeline.0 > 0),
            wal_level: wal_level(fields.word(172))?,
            wal_log_hints: fields.flag(176),
            pages_per_file: fields.word(220),
            wal_segment_size,
            data_checksum_version: fields.word(252),
        })
    }

    /// True when pages carry checksums.
    pub fn has_data_checksums(&self) -> bool {
        self.data_checksum_version > 0
    }
}

/// Offset of the CRC, which covers everything before it.
fn crc_offset(control_version: u32) -> Option<usize> {
    match control_version {
        1300 | 1700 => Some(288),
        1800 => Some(292),
        _ => None,
    }
}

fn unsupported(control_version: u32) -> Error {
    Error::failed(format!("control file version {control_version} is not that of PostgreSQL 13 to 18"))
        .hint("lifeboat supports PostgreSQL 13, 14, 15, 16, 17 and 18")
}

fn damaged(why: &str) -> Error {
    Error::damaged(format!("the control file is damaged: {why}"))
}

fn check_block_size(what: &str, size_bytes: u32) -> Result<()> {
    if size_bytes as usize == PAGE_BYTES {
        return Ok(());
    }
    Err(Error::failed(format!("the cluster was built with {what} blocks of {size_bytes} bytes; only {PAGE_BYTES} is supported")))
}

fn cluster_state(value: u32) -> Result<ClusterState> {
    Ok(match value {
        0 => ClusterState::StartingUp,
        1 => ClusterState::ShutDown,
        2 => ClusterState::ShutDownInRecovery,
        3 => ClusterState::ShuttingDown,
        4 => ClusterState::CrashRecovery,
        5 => ClusterState::ArchiveRecovery,
        6 => ClusterState::InProduction,
        _ => return Err(damaged("its cluster state is impossible")),
    })
}

fn wal_level(value: u32) -> Result<WalLevel> {
    Ok(match value {
        0 => WalLevel::Minimal,
        1 => WalLevel::Replica,
        2 => WalLevel::Logical,
        _ => return Err(damaged("its wal_level is impossible")),
    })
}

/// The layout's bytes, at least [`LONGEST_LAYOUT_BYTES`] of them.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.0[at..at + N]);
        bytes
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }

    fn long(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }

    fn flag(&self, at: usize) -> bool {
        self.0[at] != 0
    }

    /// Seconds since the Unix epoch.
    fn time(&self, at: usize) -> Result<Timestamp> {
        let seconds = i64::from_le_bytes(self.array(at));
        seconds
            .checked_mul(1_000_000)
            .and_then(Timestamp::from_unix_micros)
            .ok_or_else(|| damaged("one of its times is impossible"))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::base::ErrorKind;

    /// A control file of each layout with values that differ from field to field; real ones are in tests/.
    pub(crate) fn sample(control_version: u32) -> Vec<u8> {
        let mut bytes = vec![0_u8; 8192];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &7_312_345_678_901_234_567_u64.to_le_bytes());
        put(8, &control_version.to_le_bytes());
        put(12, &202_209_061_u32.to_le_bytes());
        put(16, &6_u32.to_le_bytes());
        put(32, &0x300_0060_u64.to_le_bytes());
        put(40, &0x300_0028_u64.to_le_bytes());
        put(48, &1_u32.to_le_bytes());
        put(172, &1_u32.to_le_bytes());
        put(208, &FLOAT_FORMAT.to_le_bytes());
        put(216, &8192_u32.to_le_bytes());
        put(220, &131_072_u32.to_le_bytes());
        put(224, &8192_u32.to_le_bytes());
        put(228, &(16_u32 << 20).to_le_bytes());
        put(252, &1_u32.to_le_bytes());
        seal(&mut bytes);
        bytes
    }

    pub(crate) fn seal(bytes: &mut [u8]) {
        let version = Fields(bytes).word(8);
        let at = crc_offset(version).unwrap_or(288);
        let crc = crc32c::crc32c(&bytes[..at]);
        bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    }

    #[test]
    fn every_layout_is_read() {
        for version in [1300, 1700, 1800] {
            let control = ControlFile::parse(&sample(version)).unwrap();
            assert_eq!(control.system_identifier, 7_312_345_678_901_234_567);
            assert_eq!((control.checkpoint_lsn, control.redo_lsn), (Lsn(0x300_0060), Lsn(0x300_0028)));
            assert_eq!(control.wal_segment_size, SegmentSize::DEFAULT);
            assert_eq!(control.min_recovery_timeline, None);
            assert!(control.has_data_checksums());
        }
    }

    #[test]
    fn any_flipped_bit_before_the_checksum_is_refused() {
        let bytes = sample(1800);
        for at in 0..296 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            assert!(ControlFile::parse(&flipped).is_err(), "byte {at}");
        }
        assert_eq!(ControlFile::parse(&bytes[..100]).unwrap_err().kind(), ErrorKind::Damaged);
    }

    #[test]
    fn other_versions_and_builds_are_refused_plainly() {
        let refuse = |at: usize, value: u32, expected: &str| {
            let mut bytes = sample(1300);
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            seal(&mut bytes);
            let error = ControlFile::parse(&bytes).unwrap_err();
            assert!(error.message().contains(expected), "{error}");
        };
        refuse(8, 1201, "version 1201");
        refuse(216, 32_768, "32768 bytes");
        refuse(228, 12_345, "segment size");
        refuse(16, 9, "state");
    }
}
