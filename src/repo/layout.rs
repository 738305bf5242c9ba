//! Where everything lies: the names of a repository's objects, in one place.
//!
//! See `docs/FORMAT.md` for what each object holds. Names are unique or carry a digest of their content, so
//! nothing is ever overwritten.

use crate::base::{BackupId, Incarnation, SourceName, TimelineId};

/// The descriptor.
pub const DESCRIPTOR: &str = "lifeboat.json";

/// Prefix of the versions of the public keys.
pub const KEYS: &str = "keys/";

/// Version `n` of the public keys, counted from 1.
pub fn keyring(version: u32) -> String {
    format!("{KEYS}{version}.json")
}

/// What identifies one incarnation of a source.
pub fn identity(source: &SourceName, incarnation: &Incarnation) -> String {
    format!("{}{incarnation}.json", identities(source))
}

/// Prefix of a source's identities.
pub fn identities(source: &SourceName) -> String {
    format!("{source}/identity/")
}

/// Prefix of a source's commit log.
pub fn commits(source: &SourceName) -> String {
    format!("{source}/commit/")
}

/// Entry `number` of the commit log, counted from 1.
pub fn commit(source: &SourceName, number: u32) -> String {
    format!("{source}/commit/{number:08}.json")
}

/// Prefix of all backups of a source.
pub fn backups(source: &SourceName) -> String {
    format!("{source}/backup/")
}

/// Prefix of one backup's objects.
pub fn backup(source: &SourceName, id: &BackupId) -> String {
    format!("{source}/backup/{id}/")
}

/// What tells a backup in flight from an orphan.
pub fn begin(source: &SourceName, id: &BackupId) -> String {
    format!("{}begin.json", backup(source, id))
}

/// Prefix of the wrappings of a backup's own identity.
pub fn backup_keys(source: &SourceName, id: &BackupId) -> String {
    format!("{}key-", backup(source, id))
}

/// Wrapping `n` of a backup's own identity, counted from 1.
pub fn backup_key(source: &SourceName, id: &BackupId, wrapping: u32) -> String {
    format!("{}{wrapping}.age", backup_keys(source, id))
}

/// Pack `number`, counted from 1; `suffix` is `.age` or empty.
pub fn pack(source: &SourceName, id: &BackupId, number: u32, suffix: &str) -> String {
    format!("{}pack-{number:08}.zst{suffix}", backup(source, id))
}

/// Length and digest of every pack.
pub fn packs_list(source: &SourceName, id: &BackupId) -> String {
    format!("{}packs.jsonl", backup(source, id))
}

/// The file list; `suffix` is `.age` or empty.
pub fn manifest(source: &SourceName, id: &BackupId, suffix: &str) -> String {
    format!("{}manifest.jsonl.zst{suffix}", backup(source, id))
}

/// Prefix of a source's logs of all incarnations.
pub fn logs(source: &SourceName) -> String {
    format!("{source}/log/")
}

/// Prefix of one incarnation's log.
pub fn log(source: &SourceName, incarnation: &Incarnation) -> String {
    format!("{source}/log/{incarnation}/")
}

/// Prefix of one timeline's segments.
pub fn log_timeline(source: &SourceName, incarnation: &Incarnation, timeline: TimelineId) -> String {
    format!("{}{}/", log(source, incarnation), timeline.hex())
}

/// Prefix of the log keys.
pub fn log_keys(source: &SourceName, incarnation: &Incarnation) -> String {
    format!("{}key/", log(source, incarnation))
}

/// Wrapping `wrapping` of the key of stretch `stretch`, both counted from 1.
pub fn log_key(source: &SourceName, incarnation: &Incarnation, stretch: u32, wrapping: u32) -> String {
    format!("{}{stretch:08}-{wrapping}.age", log_keys(source, incarnation))
}

/// Prefix of the signed digests of a log.
pub fn log_indexes(source: &SourceName, incarnation: &Incarnation) -> String {
    format!("{}index/", log(source, incarnation))
}

/// Prefix of the operators' resolutions of split brains.
pub fn log_resolutions(source: &SourceName, incarnation: &Incarnation) -> String {
    format!("{}resolution/", log(source, incarnation))
}
