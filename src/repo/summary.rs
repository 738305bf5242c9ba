//! What a commit entry says of its backup.
//!
//! In memory it has one form for every kind of source; as written, only what that kind has. A position is PostgreSQL's LSN;
//! of SQLite it counts the segments of the log that Lifeboat itself keeps of it, 16 MiB each whatever their size; of a
//! directory, which has no log, it is the moment, which the times tell already.

use serde::{Deserialize, Serialize};

use crate::base::{BackupId, BackupType, Engine, Incarnation, Lsn, SegmentSize, TimelineId, Timestamp};
use crate::codec::Sha256Digest;

/// What a commit entry says of its backup. No user data: times, positions, sizes, digests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "Written", try_from = "Written")]
pub struct BackupSummary {
    /// Its id.
    pub id: BackupId,
    /// Its type.
    pub backup_type: BackupType,
    /// The backup it builds on; none for a full.
    pub base: Option<BackupId>,
    /// The source's incarnation.
    pub incarnation: Incarnation,
    /// Timeline on which it was taken; 1 where there are none.
    pub timeline: TimelineId,
    /// Redo LSN that the start returned: replay begins here. Of a directory, [`Lsn::of_moment`] of `start_time`.
    pub start_lsn: Lsn,
    /// LSN that replay must reach before the cluster is consistent; of a directory, [`Lsn::of_moment`] of `stop_time`.
    pub stop_lsn: Lsn,
    /// When it started, by the server's clock. It holds whatever was committed before.
    pub start_time: Timestamp,
    /// When it stopped, by the server's clock: every moment from here on is restorable from it.
    pub stop_time: Timestamp,
    /// WAL segment size. This and the next five are of PostgreSQL alone; of others they are neither written nor read.
    pub segment_bytes: SegmentSize,
    /// Whether it was taken from a standby.
    pub from_standby: bool,
    /// Server version number, `150018`.
    pub server_version: u32,
    /// Whether data checksums were on.
    pub data_checksums: bool,
    /// `wal_log_hints` at the start.
    pub wal_log_hints: bool,
    /// `wal_level` at the start.
    pub wal_level: String,
    /// Whether the packs and the manifest are encrypted.
    pub encrypted: bool,
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes in the restored tree.
    pub raw_bytes: u64,
    /// Bytes of packs and manifest as stored by this backup.
    pub stored_bytes: u64,
    /// Number of packs.
    pub packs: u32,
    /// SHA-256 of `packs.jsonl`.
    pub packs_sha256: Sha256Digest,
    /// SHA-256 of the stored manifest.
    pub manifest_sha256: Sha256Digest,
    /// Length of the stored manifest.
    pub manifest_bytes: u64,
    /// Pages that failed their checksum and stayed bad; of a directory, what is in it and not whole in the backup.
    pub bad_pages: u64,
    /// Seconds from start to commit, by this host's clock.
    pub duration_seconds: f64,
}

impl BackupSummary {
    /// Whether log was written while it was taken, without which it cannot be restored. Only of PostgreSQL's there is.
    pub fn needs_log(&self) -> bool {
        self.incarnation.engine() == Engine::Postgres && self.start_lsn < self.stop_lsn
    }
}

/// A [`BackupSummary`] as its JSON has it.
#[derive(Serialize, Deserialize)]
struct Written {
    id: BackupId,
    #[serde(rename = "type")]
    backup_type: BackupType,
    base: Option<BackupId>,
    incarnation: Incarnation,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeline: Option<TimelineId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    start_lsn: Option<Lsn>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stop_lsn: Option<Lsn>,
    start_time: Timestamp,
    stop_time: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    segment_bytes: Option<SegmentSize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from_standby: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    server_version: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data_checksums: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    wal_log_hints: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    wal_level: Option<String>,
    encrypted: bool,
    entries: u64,
    raw_bytes: u64,
    stored_bytes: u64,
    packs: u32,
    packs_sha256: Sha256Digest,
    manifest_sha256: Sha256Digest,
    manifest_bytes: u64,
    bad_pages: u64,
    duration_seconds: f64,
}

impl From<BackupSummary> for Written {
    fn from(summary: BackupSummary) -> Self {
        let (is_postgres, has_log) = match summary.incarnation.engine() {
            Engine::Postgres => (true, true),
            Engine::Sqlite => (false, true),
            Engine::Directory => (false, false),
        };
        Self {
            id: summary.id,
            backup_type: summary.backup_type,
            base: summary.base,
            incarnation: summary.incarnation,
            timeline: is_postgres.then_some(summary.timeline),
            start_lsn: has_log.then_some(summary.start_lsn),
            stop_lsn: has_log.then_some(summary.stop_lsn),
            start_time: summary.start_time,
            stop_time: summary.stop_time,
            segment_bytes: is_postgres.then_some(summary.segment_bytes),
            from_standby: is_postgres.then_some(summary.from_standby),
            server_version: is_postgres.then_some(summary.server_version),
            data_checksums: is_postgres.then_some(summary.data_checksums),
            wal_log_hints: is_postgres.then_some(summary.wal_log_hints),
            wal_level: is_postgres.then_some(summary.wal_level),
            encrypted: summary.encrypted,
            entries: summary.entries,
            raw_bytes: summary.raw_bytes,
            stored_bytes: summary.stored_bytes,
            packs: summary.packs,
            packs_sha256: summary.packs_sha256,
            manifest_sha256: summary.manifest_sha256,
            manifest_bytes: summary.manifest_bytes,
            bad_pages: summary.bad_pages,
            duration_seconds: summary.duration_seconds,
        }
    }
}

impl TryFrom<Written> for BackupSummary {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let engine = written.incarnation.engine();
        let other = (engine != Engine::Postgres).then_some(());
        let moment = |moment| (engine == Engine::Directory).then(|| Lsn::of_moment(moment));
        let missing = |name: &str| format!("missing field `{name}`");
        Ok(Self {
            id: written.id,
            backup_type: written.backup_type,
            base: written.base,
            incarnation: written.incarnation,
            timeline: written.timeline.or(other.map(|_| TimelineId(1))).ok_or_else(|| missing("timeline"))?,
            start_lsn: written.start_lsn.or(moment(written.start_time)).ok_or_else(|| missing("start_lsn"))?,
            stop_lsn: written.stop_lsn.or(moment(written.stop_time)).ok_or_else(|| missing("stop_lsn"))?,
            start_time: written.start_time,
            stop_time: written.stop_time,
            segment_bytes: written
                .segment_bytes
                .or(other.map(|_| SegmentSize::DEFAULT))
                .ok_or_else(|| missing("segment_bytes"))?,
            from_standby: written.from_standby.or(other.map(|_| false)).ok_or_else(|| missing("from_standby"))?,
            server_version: written.server_version.or(other.map(|_| 0)).ok_or_else(|| missing("server_version"))?,
            data_checksums: written.data_checksums.or(other.map(|_| false)).ok_or_else(|| missing("data_checksums"))?,
            wal_log_hints: written.wal_log_hints.or(other.map(|_| false)).ok_or_else(|| missing("wal_log_hints"))?,
            wal_level: written.wal_level.or(other.map(|_| String::new())).ok_or_else(|| missing("wal_level"))?,
            encrypted: written.encrypted,
            entries: written.entries,
            raw_bytes: written.raw_bytes,
            stored_bytes: written.stored_bytes,
            packs: written.packs,
            packs_sha256: written.packs_sha256,
            manifest_sha256: written.manifest_sha256,
            manifest_bytes: written.manifest_bytes,
            bad_pages: written.bad_pages,
            duration_seconds: written.duration_seconds,
        })
    }
}

#[cfg(test)]
impl BackupSummary {
    /// A full backup of timeline 1 from `start_lsn` to `stop_lsn`, for tests that change what they are about.
    pub(crate) fn sample(id: &str, (start_lsn, stop_lsn): (Lsn, Lsn)) -> Self {
        let id: BackupId = id.parse().expect("a backup id");
        Self {
            backup_type: BackupType::Full,
            base: None,
            incarnation: Incarnation::postgres(15, 1),
            timeline: TimelineId(1),
            start_lsn,
            stop_lsn,
            start_time: id.start(),
            stop_time: id.start(),
            id,
            segment_bytes: SegmentSize::DEFAULT,
            from_standby: false,
            server_version: 150_000,
            data_checksums: true,
            wal_log_hints: false,
            wal_level: "replica".to_owned(),
            encrypted: false,
            entries: 0,
            raw_bytes: 0,
            stored_bytes: 0,
            packs: 0,
            packs_sha256: Sha256Digest::of(b""),
            manifest_sha256: Sha256Digest::of(b""),
            manifest_bytes: 0,
            bad_pages: 0,
            duration_seconds: 0.0,
        }
    }

    /// The same of another incarnation, without what is PostgreSQL's alone.
    pub(crate) fn sample_of(incarnation: Incarnation, id: &str, positions: (Lsn, Lsn)) -> Self {
        let sample = Self::sample(id, positions);
        Self { incarnation, server_version: 0, data_checksums: false, wal_level: String::new(), ..sample }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_has_only_what_its_kind_of_source_has() {
        let cluster = BackupSummary::sample("20261120T030000Z-full-aaaa", (Lsn(7), Lsn(9)));
        let text = serde_json::to_string(&cluster).unwrap();
        assert!(text.contains(r#""timeline":1,"start_lsn":"0/7","stop_lsn":"0/9","start_time""#), "{text}");
        assert_eq!(serde_json::from_str::<BackupSummary>(&text).unwrap(), cluster);

        let moment = cluster.start_time;
        for (engine, position) in [(Engine::Sqlite, Lsn(7 << 24)), (Engine::Directory, Lsn::of_moment(moment))] {
            let incarnation = Incarnation::dated(engine, moment);
            let other = BackupSummary::sample_of(incarnation, cluster.id.as_str(), (position, position));
            let text = serde_json::to_string(&other).unwrap();
            assert_eq!(text.contains("lsn"), engine == Engine::Sqlite, "{text}");
            assert!(!text.contains("wal_level") && !text.contains("timeline"), "{text}");
            assert_eq!(serde_json::from_str::<BackupSummary>(&text).unwrap(), other);
        }
    }

    #[test]
    fn an_entry_of_a_cluster_must_be_whole() {
        let cluster = BackupSummary::sample("20261120T030000Z-full-aaaa", (Lsn(7), Lsn(9)));
        let whole = serde_json::to_value(&cluster).unwrap();
        for name in ["timeline", "start_lsn", "stop_lsn", "segment_bytes", "server_version", "wal_level", "start_time"] {
            let mut part = whole.clone();
            part.as_object_mut().unwrap().remove(name);
            let error = serde_json::from_value::<BackupSummary>(part).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
