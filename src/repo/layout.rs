//! Where everything lies: the names of a repository's objects, in one place.
//!
//! See `docs/FORMAT.md` for what each object holds. Names are unique or carry a digest of their content, so
//! nothing is ever overwritten, but for the lease.

use crate::base::{BackupId, Incarnation, Job, SourceName, TimelineId, Timestamp};
use crate::store::{Lifetime, LifetimeRule};

/// The descriptor.
pub const DESCRIPTOR: &str = "lifeboat.json";

/// Prefix of the versions of the public keys.
pub const KEYS: &str = "keys/";

/// How long each object lives: only the lease is rewritten; what a probe leaves, the pieces of a segment that is not
/// yet whole and the claims of scheduled runs are short-lived, everything else is there for as long as a backup.
pub const LIFETIMES: LifetimeRule = LifetimeRule(lifetime);

fn lifetime(key: &str) -> Lifetime {
    let mut components = key.split('/');
    let (first, second, third) = (components.next(), components.next(), components.next());
    match (first, second, third) {
        (_, Some("lease.json"), None) => Lifetime::Rewritten,
        (Some("probe"), Some(_), _) | (_, Some("tail" | "run"), Some(_)) => Lifetime::Short,
        _ => Lifetime::Lasting,
    }
}

/// Prefix of what was found out about the store: reports, and what a probe tries it out with.
pub const PROBES: &str = "probe/";

/// The report of a probe made at `time`; random letters tell those of one second apart.
pub fn probe(time: Timestamp, letters: &str) -> String {
    format!("{PROBES}{}-{letters}.json", time.compact_seconds())
}

/// What the names of objects begin with that probes try a store out with.
pub const PROBE_CANARIES: &str = "probe/canary-";

/// Prefix of the objects that one probe tries a store out with.
pub fn probe_canary(letters: &str) -> String {
    format!("{PROBE_CANARIES}{letters}/")
}

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

/// Prefix of a source's marks and withdrawals.
pub fn expiries(source: &SourceName) -> String {
    format!("{source}/expire/")
}

/// The mark or withdrawal called `name`.
pub fn expiry(source: &SourceName, name: &str) -> String {
    format!("{}{name}.json", expiries(source))
}

/// Prefix of a source's evidence.
pub fn drills(source: &SourceName) -> String {
    format!("{source}/drill/")
}

/// The evidence that was appended at `time`, with the beginning of its own digest.
pub fn drill(source: &SourceName, time: Timestamp, digest: &str) -> String {
    format!("{}{}-{digest}.json", drills(source), time.compact())
}

/// Prefix of the claims of all slots of a job.
pub fn run_job(source: &SourceName, job: Job) -> String {
    format!("{source}/run/{job}/")
}

/// What the keys of all claims of one slot begin with.
pub fn run_slot(source: &SourceName, job: Job, slot: Timestamp) -> String {
    format!("{}{}-", run_job(source, job), slot.compact_seconds())
}

/// The claim of attempt `number` of a slot; `letters` where the store cannot refuse a second writer.
pub fn run_claim(source: &SourceName, job: Job, slot: Timestamp, number: u32, letters: Option<&str>) -> String {
    let letters = letters.map(|letters| format!("-{letters}")).unwrap_or_default();
    format!("{}{number:04}{letters}.json", run_slot(source, job, slot))
}

/// Who may write now: the only object that is ever rewritten.
pub fn lease(source: &SourceName) -> String {
    format!("{source}/lease.json")
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

/// The number of the wrapping of a backup's own identity that `key` is; `None` when it is something else.
pub fn backup_key_wrapping(source: &SourceName, id: &BackupId, key: &str) -> Option<u32> {
    let wrapping = key.strip_prefix(&backup_keys(source, id))?.strip_suffix(".age")?.parse().ok()?;
    (wrapping > 0 && key == backup_key(source, id, wrapping)).then_some(wrapping)
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

/// The numbers of stretch and wrapping of the log key that `key` is; `None` when it is something else.
pub fn log_key_numbers(source: &SourceName, incarnation: &Incarnation, key: &str) -> Option<(u32, u32)> {
    const LAST_STRETCH: u32 = 99_999_999;
    let name = key.strip_prefix(&log_keys(source, incarnation))?.strip_suffix(".age")?;
    let (stretch, wrapping) = name.split_once('-')?;
    let (stretch, wrapping) = (stretch.parse().ok()?, wrapping.parse().ok()?);
    let is_ours = (1..=LAST_STRETCH).contains(&stretch) && wrapping > 0;
    (is_ours && key == log_key(source, incarnation, stretch, wrapping)).then_some((stretch, wrapping))
}

/// Whether `key` names a part of the backup `id`, and not something that lies beside its parts.
pub fn belongs_to_backup(source: &SourceName, id: &BackupId, key: &str) -> bool {
    let Some(name) = key.strip_prefix(&backup(source, id)) else { return false };
    let of_kind = |beginning: &str| name.starts_with(beginning) && !name.contains('/');
    name == "begin.json" || name == "packs.jsonl" || ["manifest.jsonl.zst", "key-", "pack-"].into_iter().any(of_kind)
}

/// Prefix of the signed digests of a log.
pub fn log_indexes(source: &SourceName, incarnation: &Incarnation) -> String {
    format!("{}index/", log(source, incarnation))
}

/// Prefix of what was streamed of one incarnation's log: pieces of segments that are not yet whole.
pub fn tail(source: &SourceName, incarnation: &Incarnation) -> String {
    format!("{source}/tail/{incarnation}/")
}

/// Prefix of the pieces of the segment that PostgreSQL calls `segment`.
pub fn tail_segment(source: &SourceName, incarnation: &Incarnation, timeline: TimelineId, segment: &str) -> String {
    format!("{}{}/{segment}/", tail(source, incarnation), timeline.hex())
}

/// Prefix of the operators' resolutions of split brains.
pub fn log_resolutions(source: &SourceName, incarnation: &Incarnation) -> String {
    format!("{}resolution/", log(source, incarnation))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_lease_is_rewritten_and_little_is_short_lived() {
        for (key, lifetime) in [
            ("orders/lease.json", Lifetime::Rewritten),
            ("probe/20261120T214002Z-0123abcd.json", Lifetime::Short),
            ("probe/canary-0123abcd/B", Lifetime::Short),
            ("orders/tail/pg15-1/00000001/x/y", Lifetime::Short),
            ("orders/run/full/20261120T214000Z-0001.json", Lifetime::Short),
            ("run/commit/00000001.json", Lifetime::Lasting),
            ("tail/commit/00000001.json", Lifetime::Lasting),
            ("lifeboat.json", Lifetime::Lasting),
            ("keys/1.json", Lifetime::Lasting),
            ("orders/expire/lease.json", Lifetime::Lasting),
            ("orders/backup/20261120T214002Z-full-k3fq/begin.json", Lifetime::Lasting),
        ] {
            assert_eq!(LIFETIMES.of(key), lifetime, "{key}");
        }
    }

    #[test]
    fn only_keys_of_the_documented_names_are_keys() {
        let source: SourceName = "orders".parse().unwrap();
        let id: BackupId = "20261120T214002Z-full-k3fq".parse().unwrap();
        let incarnation: Incarnation = "pg15-7312345678901234567".parse().unwrap();
        for wrapping in [1, 2, 10, u32::MAX] {
            assert_eq!(backup_key_wrapping(&source, &id, &backup_key(&source, &id, wrapping)), Some(wrapping));
            for stretch in [1, 12, 99_999_999] {
                let key = log_key(&source, &incarnation, stretch, wrapping);
                assert_eq!(log_key_numbers(&source, &incarnation, &key), Some((stretch, wrapping)));
            }
        }
        for name in ["1", "0.age", "01.age", "+1.age", "1.age.bak", "x.age", "1/2.age", "4294967296.age", ".age", ""] {
            assert_eq!(backup_key_wrapping(&source, &id, &format!("{}{name}", backup_keys(&source, &id))), None, "{name}");
        }
        let strange = [
            "1-1.age",
            "00000001-1",
            "00000000-1.age",
            "00000001-0.age",
            "00000001-01.age",
            "00000001.age",
            "00000001-1.age~",
            "+0000001-1.age",
            "100000000-1.age",
            "00000001-1/1.age",
        ];
        for name in strange {
            let key = format!("{}{name}", log_keys(&source, &incarnation));
            assert_eq!(log_key_numbers(&source, &incarnation, &key), None, "{name}");
        }
    }
}
