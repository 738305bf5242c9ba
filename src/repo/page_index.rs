//! What this host keeps of the pages that each segment of the log touched, so that an incremental reads only those.
//!
//! One file a segment below `state_dir`, mode 0600, written durably under a temporary name and renamed: one zstd frame
//! of a line with the SHA-256 of the rest, then JSON. It is a hint: a file that is missing, of another version, of another
//! content of the segment, or damaged is a hole, and nothing is concluded from a hole but that files are read.
//! Local, because the protected host could not decrypt it in the repository. Lost, it costs a reading of the data.

use std::fs::{self, DirEntry};
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::host_state::{HostState, digested, parse_digested, read_json, write_json};
use crate::base::{Error, Incarnation, Result, Segment, SegmentSize, SourceName, Timestamp, durable};
use crate::codec::Sha256Digest;
use crate::codec::compress::{self, Compressor};

/// zstd level of the files.
const LEVEL: i32 = 1;
/// No file is longer when it is unpacked: more than every page of 256 relations would take.
const LONGEST_BYTES: u64 = 256 << 20;
/// So many of the newest segments are kept on a host that takes no backups …
const KEPT_WITHOUT_BASE: u64 = 1024;
/// … and on one that took any: it may have been long ago, and whoever takes them now removes nothing here.
const KEPT_WITH_BASE: u64 = 32 * 1024;
/// That is looked at once in so many segments.
const LOOK_EVERY: u64 = 64;
/// Age from which on a file that is no index was left by a crash while it was written.
const LEFT_AFTER: Duration = Duration::from_secs(24 * 3600);

/// What one segment of the log touches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageIndex {
    /// Version of the file.
    pub version: u32,
    /// The cluster.
    pub incarnation: Incarnation,
    /// The segment as PostgreSQL calls it: timeline and number.
    pub segment: String,
    /// SHA-256 of the segment.
    pub raw_sha256: Sha256Digest,
    /// Why nothing is known of the segment; none when the rest holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
    /// Tablespace and id of databases that were made or dropped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub databases: Vec<(u32, u32)>,
    /// Relations of which pages of the main fork were touched, ascending.
    pub relations: Vec<TouchedRelation>,
}

/// Pages of one relation's main fork.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TouchedRelation {
    /// Tablespace, database, number of the files.
    pub relation: (u32, u32, u32),
    /// First page and number of pages.
    pub runs: Vec<(u32, u32)>,
    /// Every page from here on: the files were made, or cut here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u32>,
}

/// How far this host trusts what the log tells, and when it was audited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageTrust {
    /// The last audit, or the first use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audited: Option<Timestamp>,
    /// Set when an audit found a miss: files are read until the next full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missed: Option<Timestamp>,
}

impl PageIndex {
    /// The version that this program writes.
    pub const VERSION: u32 = 1;

    fn to_bytes(&self) -> io::Result<Vec<u8>> {
        Compressor::new(LEVEL)?.compress(digested(self).as_bytes())
    }

    fn from_bytes(bytes: &[u8]) -> std::result::Result<Self, String> {
        let mut text = String::new();
        let unpacked = compress::stream_reader(bytes).map(|reader| reader.take(LONGEST_BYTES));
        unpacked.and_then(|mut reader| reader.read_to_string(&mut text)).map_err(|error| format!("it is damaged: {error}"))?;
        parse_digested(&text).ok_or_else(|| "it is damaged".to_owned())
    }
}

impl HostState {
    fn pages_dir(&self, source: &SourceName, incarnation: &Incarnation) -> PathBuf {
        self.log_dir(source, incarnation).join("pages")
    }

    /// Keeps what `segment` touches. What is older than anything here can use is removed now and then.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn remember_pages(&self, source: &SourceName, segment: Segment, size: SegmentSize, index: &PageIndex) -> Result<()> {
        let dir = self.pages_dir(source, &index.incarnation);
        let path = dir.join(format!("{}.zst", index.segment));
        let write = || {
            durable::create_dir_all(&dir)?;
            durable::write_file(&path, &index.to_bytes()?, 0o600)
        };
        write().map_err(|error| Error::io("write", &path, error))?;
        if segment.number.is_multiple_of(LOOK_EVERY) {
            let most = if self.of_source(source).join("base").exists() { KEPT_WITH_BASE } else { KEPT_WITHOUT_BASE };
            self.forget_pages(source, &index.incarnation, segment.number.saturating_sub(most), size)?;
        }
        Ok(())
    }

    /// What is kept of the segment called `segment`, of which the raw content's digest begins with `raw_sha256`.
    ///
    /// # Errors
    /// In words: why there is nothing that can be used.
    pub fn pages_of(
        &self,
        source: &SourceName,
        incarnation: &Incarnation,
        segment: &str,
        raw_sha256: &str,
    ) -> std::result::Result<PageIndex, String> {
        let path = self.pages_dir(source, incarnation).join(format!("{segment}.zst"));
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err("this host has no index of it".to_owned()),
            Err(error) => return Err(format!("{} cannot be read: {error}", path.display())),
        };
        let index = PageIndex::from_bytes(&bytes).map_err(|why| format!("{}: {why}", path.display()))?;
        if index.version != PageIndex::VERSION {
            return Err(format!("{} is of version {}", path.display(), index.version));
        }
        if (&index.incarnation, index.segment.as_str()) != (incarnation, segment) {
            return Err(format!("{} is the index of another segment", path.display()));
        }
        if index.raw_sha256.short() != raw_sha256 {
            return Err(format!("{} is the index of another content than the archived one", path.display()));
        }
        Ok(index)
    }

    /// Removes what is kept of segments with a number below `number`, on any timeline, and what crashes left.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn forget_pages(&self, source: &SourceName, incarnation: &Incarnation, number: u64, size: SegmentSize) -> Result<()> {
        let dir = self.pages_dir(source, incarnation);
        let failed = |error: io::Error| Error::io("clear", &dir, error);
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let segment = name.to_str().and_then(|name| Segment::parse(name.strip_suffix(".zst")?, size));
            let is_old = match segment {
                Some(segment) => segment.number < number,
                None => was_left(&entry),
            };
            if is_old {
                match fs::remove_file(dir.join(name)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn page_trust_path(&self, source: &SourceName) -> PathBuf {
        self.of_source(source).join("changed-pages.json")
    }

    /// How far what the log tells is trusted here.
    ///
    /// # Errors
    /// When the file cannot be read: then it is not trusted.
    pub fn page_trust(&self, source: &SourceName) -> Result<PageTrust> {
        read_json(&self.page_trust_path(source)).map(Option::unwrap_or_default)
    }

    /// Remembers it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn remember_page_trust(&self, source: &SourceName, trust: &PageTrust) -> Result<()> {
        write_json(&self.page_trust_path(source), trust)
    }
}

/// Whether a crash left this file while it was written: the writer renames it within moments.
fn was_left(entry: &DirEntry) -> bool {
    let modified = entry.metadata().and_then(|metadata| metadata.modified());
    modified.is_ok_and(|modified| modified.elapsed().is_ok_and(|age| age > LEFT_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::TimelineId;

    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    fn index(number: u64) -> PageIndex {
        PageIndex {
            version: PageIndex::VERSION,
            incarnation: Incarnation::postgres(15, 7),
            segment: Segment { timeline: TimelineId(1), number }.name(SIZE),
            raw_sha256: Sha256Digest::of(&number.to_le_bytes()),
            unknown: None,
            databases: vec![(1663, 5)],
            relations: vec![TouchedRelation { relation: (1663, 5, 16384), runs: vec![(3, 2)], from: Some(9) }],
        }
    }

    #[test]
    fn only_the_index_of_this_very_segment_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let (state, source) = (HostState::new(dir.path(), "r"), "orders".parse::<SourceName>().unwrap());
        let remember = |number: u64, index: &PageIndex| {
            state.remember_pages(&source, Segment { timeline: TimelineId(1), number }, SIZE, index).unwrap();
        };
        let kept = index(7);
        remember(7, &kept);
        let load = |incarnation: &Incarnation, name: &str, digest: &Sha256Digest| {
            state.pages_of(&source, incarnation, name, &digest.short())
        };
        assert_eq!(load(&kept.incarnation, &kept.segment, &kept.raw_sha256), Ok(kept.clone()));
        assert!(load(&kept.incarnation, &index(8).segment, &kept.raw_sha256).unwrap_err().contains("no index"));
        assert!(load(&kept.incarnation, &kept.segment, &index(8).raw_sha256).unwrap_err().contains("another content"));
        assert!(load(&Incarnation::postgres(15, 8), &kept.segment, &kept.raw_sha256).is_err());
        let path = state.pages_dir(&source, &kept.incarnation).join(format!("{}.zst", kept.segment));
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            for bytes in [&bad[..], &good[..at]] {
                fs::write(&path, bytes).unwrap();
                let loaded = load(&kept.incarnation, &kept.segment, &kept.raw_sha256);
                assert!(loaded.is_err() || loaded == Ok(kept.clone()), "byte {at}");
            }
            fs::write(&path, &good[..at]).unwrap();
            assert!(load(&kept.incarnation, &kept.segment, &kept.raw_sha256).is_err(), "cut at {at}");
        }
        for (what, other) in [
            ("version", PageIndex { version: 2, ..kept.clone() }),
            ("another segment", PageIndex { segment: index(8).segment, ..kept.clone() }),
            ("another segment", PageIndex { incarnation: Incarnation::postgres(15, 8), ..kept.clone() }),
        ] {
            fs::write(&path, other.to_bytes().unwrap()).unwrap();
            assert!(load(&kept.incarnation, &kept.segment, &kept.raw_sha256).unwrap_err().contains(what));
        }
    }

    #[test]
    fn what_no_base_can_use_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (state, source) = (HostState::new(dir.path(), "r"), "orders".parse::<SourceName>().unwrap());
        let incarnation = index(1).incarnation;
        let there = || fs::read_dir(state.pages_dir(&source, &incarnation)).unwrap().count();
        let remember = |number: u64| {
            let segment = Segment { timeline: TimelineId(1), number };
            state.remember_pages(&source, segment, SIZE, &index(number)).unwrap();
        };
        (1..=5).for_each(remember);
        state.forget_pages(&source, &incarnation, 4, SIZE).unwrap();
        assert_eq!(there(), 2);
        remember(KEPT_WITHOUT_BASE + LOOK_EVERY);
        assert_eq!(there(), 1, "a host without a base keeps the newest alone");
        fs::create_dir_all(state.of_source(&source).join("base")).unwrap();
        remember(KEPT_WITHOUT_BASE * 3);
        assert_eq!(there(), 2, "with a base older ones stay");
        let pages = state.pages_dir(&source, &incarnation);
        let (left, fresh) = (pages.join(".0000.zst.17.tmp"), pages.join(".0000.zst.18.tmp"));
        fs::write(&left, b"").unwrap();
        fs::write(&fresh, b"").unwrap();
        let long_ago = std::time::SystemTime::now() - LEFT_AFTER - Duration::from_secs(60);
        fs::File::options().write(true).open(&left).unwrap().set_modified(long_ago).unwrap();
        remember(KEPT_WITH_BASE + KEPT_WITHOUT_BASE * 3);
        assert_eq!((there(), left.exists(), fresh.exists()), (3, false, true), "not for ever, whoever takes the backups now");
    }
}
