//! What threatens a stream's slot, or the server's disk because of it. Pure, but for the look at the disk.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::base::units::format_bytes;
use crate::base::{SegmentSize, Timestamp};
use crate::policy::LogMode;
use crate::source::postgres::control::{ClusterState, ControlFile};
use crate::source::postgres::replication::{SlotState, WalStatus};

/// The operator is told when fewer segments than this may be written before the slot is lost, or the disk is full.
const FEW_SEGMENTS: u64 = 8;
/// Or a part of what the server may keep: one in so many.
const LAST_PART: u64 = 8;

/// `pg_wal` below `data`, if what is there belongs to the primary `system_identifier`. On another host the same path may
/// hold another cluster, or a standby of this one.
pub fn own_log(data: &Path, system_identifier: u64) -> Option<PathBuf> {
    let control = ControlFile::read(data).ok()?;
    let is_its_own = control.system_identifier == system_identifier && control.state == ClusterState::InProduction;
    is_its_own.then(|| data.join("pg_wal"))
}

/// A slot, and what it depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// What the server says of it; none when there is none.
    pub state: Option<SlotState>,
    /// Free bytes on the disk of `pg_wal`, where that is this host's.
    pub free_bytes: Option<u64>,
    /// Size of a segment.
    pub size: SegmentSize,
}

/// What threatens, and what to type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Threat {
    /// Which: it stays the same while the numbers in the message grow.
    pub kind: &'static str,
    /// In a sentence.
    pub message: String,
    /// The next command.
    pub command: String,
}

impl Slot {
    /// Free bytes on the disk of the log of the primary `system_identifier`, whose data directory is `data`, if it can be
    /// looked at from here.
    pub fn free_bytes(data: &Path, system_identifier: u64) -> Option<u64> {
        let disk = rustix::fs::statvfs(own_log(data, system_identifier)?).ok()?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    fn drop_it(&self) -> String {
        format!("SELECT pg_drop_replication_slot('{}');", self.name)
    }

    /// What threatens at `now`, while a stream uses the slot or not.
    pub fn threats(&self, now: Timestamp) -> Vec<Threat> {
        let Some(state) = &self.state else { return Vec::new() };
        let few_bytes = FEW_SEGMENTS * self.size.bytes();
        let kept = u64::try_from(state.retained_bytes.unwrap_or_default()).unwrap_or_default();
        let threat = |kind, message: String, command: &str| Threat { kind, message, command: command.to_owned() };
        let behind = "is the stream at work? lifeboat status   says what its repositories lack";
        let name = &self.name;
        if state.is_lost() {
            let why = state.invalidation.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
            let message = format!("slot {name} is lost{why}: the server has removed log that it kept");
            return vec![threat(
                "lost",
                message,
                &format!("{}   then start the stream again, and take a full backup", self.drop_it()),
            )];
        }
        let mut threats = Vec::new();
        let lasts = state.safe_wal_bytes.map(|left| u64::try_from(left).unwrap_or_default());
        match (state.wal_status, lasts) {
            (Some(WalStatus::Unreserved), _) => {
                let message =
                    format!("slot {name} is about to be lost: the server removes the log that it keeps at its next checkpoint");
                threats.push(threat(
                    "soon_lost",
                    message,
                    "ALTER SYSTEM RESET max_slot_wal_keep_size; SELECT pg_reload_conf();   keeps it",
                ));
            }
            (_, Some(left)) if left < few_bytes.max((kept + left) / LAST_PART) => {
                let message = format!(
                    "slot {name} keeps {} of log, and is lost after less than {} more (max_slot_wal_keep_size)",
                    format_bytes(kept),
                    format_bytes(few_bytes.max((kept + left) / LAST_PART))
                );
                threats.push(threat("few_left", message, behind));
            }
            (Some(WalStatus::Extended), None) if self.free_bytes.is_none() => {
                let message = format!(
                    "slot {name} keeps {} of log, more than max_wal_size, and without max_slot_wal_keep_size until the \
                     server's disk is full",
                    format_bytes(kept)
                );
                threats.push(threat("unbounded", message, behind));
            }
            _ => {}
        }
        threats.extend(self.disk(kept, lasts).map(|message| threat("disk", message, behind)));
        let soon = |at: &Timestamp| state.active_pid.is_none() && at.since(now) < std::time::Duration::from_secs(3600);
        if let Some(at) = state.dropped_when_idle.filter(soon) {
            let message = format!(
                "slot {name} is not used, and the server drops what it keeps at {} (idle_replication_slot_timeout)",
                at.human_seconds()
            );
            threats.push(threat("idle", message, "lifeboat run   or: lifeboat archive stream SOURCE"));
        }
        threats
    }

    /// Whether what is kept fills the disk, where the disk can be looked at.
    fn disk(&self, kept: u64, lasts: Option<u64>) -> Option<String> {
        let free = self.free_bytes?;
        let few_bytes = FEW_SEGMENTS * self.size.bytes();
        let (name, free_text) = (&self.name, format_bytes(free));
        // A disk that others fill is not the slot's to tell.
        let is_large = kept > few_bytes;
        match lasts {
            Some(left) if is_large && free < left => Some(format!(
                "slot {name} keeps {} of log, and the disk of pg_wal, with {free_text} free, is full before \
                 max_slot_wal_keep_size is reached",
                format_bytes(kept)
            )),
            None if is_large && free < kept.max(few_bytes) => Some(format!(
                "slot {name} keeps {} of log, and the disk of pg_wal has {free_text} left: when it is full the server stops",
                format_bytes(kept)
            )),
            _ => None,
        }
    }

    /// What is wrong with the slot of a source whose policy says `mode`, if it has one, at `now`.
    pub fn judged(&self, mode: Option<LogMode>, now: Timestamp) -> Vec<Threat> {
        let name = &self.name;
        let start = "lifeboat run   or: lifeboat archive stream SOURCE";
        let mut threats = self.threats(now);
        let one = |message, command: String| Threat { kind: "unused", message, command };
        match (&self.state, mode) {
            (None, Some(LogMode::Stream)) => {
                let message = format!("the log is not streamed: the server has no slot {name}");
                threats.push(one(message, start.to_owned()));
            }
            (Some(state), _) if state.active_pid.is_some() || state.is_lost() => {}
            (Some(state), mode) => {
                let kept = format_bytes(u64::try_from(state.retained_bytes.unwrap_or_default()).unwrap_or_default());
                threats.push(match mode {
                    Some(LogMode::Stream) => {
                        one(format!("the log is not streamed now: slot {name} is not used, and keeps {kept}"), start.to_owned())
                    }
                    Some(mode) => one(
                        format!(
                            "slot {name} is an orphan: the policy's log mode is {}, nobody uses it, and the server keeps {kept} \
                             for it",
                            mode.as_str()
                        ),
                        self.drop_it(),
                    ),
                    None => one(
                        format!("slot {name} is not used, and the server keeps {kept} for it"),
                        format!("lifeboat archive stream SOURCE   or: {}", self.drop_it()),
                    ),
                });
            }
            (None, _) => {}
        }
        threats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn slot(change: impl FnOnce(&mut SlotState), free_bytes: Option<u64>) -> Slot {
        let mut state = SlotState {
            is_physical: true,
            active_pid: Some(7),
            restart_lsn: None,
            wal_status: Some(WalStatus::Reserved),
            safe_wal_bytes: None,
            invalidation: None,
            retained_bytes: Some(1 << 20),
            dropped_when_idle: None,
        };
        change(&mut state);
        Slot { name: "s".to_owned(), state: Some(state), free_bytes, size: SegmentSize::DEFAULT }
    }

    fn told(slot: &Slot) -> String {
        slot.threats(Timestamp::now()).into_iter().map(|threat| threat.message).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn what_threatens_the_slot_or_the_disk_is_told() {
        let of = |wal_status, safe_wal_bytes| {
            told(&slot(|state| (state.wal_status, state.safe_wal_bytes) = (Some(wal_status), safe_wal_bytes), None))
        };
        assert_eq!(of(WalStatus::Reserved, None), "");
        assert_eq!(of(WalStatus::Extended, Some(1 << 40)), "");
        assert!(of(WalStatus::Extended, None).contains("disk is full"));
        assert!(of(WalStatus::Reserved, Some(1 << 20)).contains("max_slot_wal_keep_size"));
        assert!(of(WalStatus::Unreserved, Some(-5)).contains("about to be lost"));
        assert!(of(WalStatus::Lost, None).contains("is lost"));
        let idled = slot(|state| state.invalidation = Some("idle_timeout".to_owned()), None);
        assert!(told(&idled).contains("is lost (idle_timeout)"));
    }

    #[test]
    fn the_disk_is_told_of_before_it_is_full() {
        let kept = |bytes: u64, lasts: Option<u64>| {
            move |state: &mut SlotState| {
                (state.retained_bytes, state.safe_wal_bytes) = (Some(bytes as i64), lasts.map(|lasts| lasts as i64));
            }
        };
        assert_eq!(told(&slot(kept(10 * GIB, None), Some(11 * GIB))), "");
        assert!(told(&slot(kept(10 * GIB, None), Some(9 * GIB))).contains("when it is full the server stops"));
        assert!(told(&slot(kept(10 * GIB, Some(20 * GIB)), Some(19 * GIB))).contains("before max_slot_wal_keep_size"));
        assert_eq!(told(&slot(kept(10 * GIB, Some(20 * GIB)), Some(21 * GIB))), "");
        assert_eq!(told(&slot(kept(1 << 20, None), Some(1))), "", "others fill that disk");
        let many = told(&slot(kept(100 * GIB, Some(10 * GIB)), None));
        assert!(many.contains("less than 13.8 GiB more"), "{many}");
    }

    #[test]
    fn a_slot_that_nobody_uses_is_told_of_and_dropped_when_idle() {
        let now = Timestamp::parse_compact("20261120T000000Z").unwrap();
        let after = |seconds| Some(now.plus(std::time::Duration::from_secs(seconds)));
        let unused = |at| slot(|state| (state.active_pid, state.dropped_when_idle) = (None, at), None);
        let messages = |slot: &Slot, mode| {
            slot.judged(mode, now).into_iter().map(|threat| threat.message + " " + &threat.command).collect::<Vec<_>>()
        };
        let idle = messages(&unused(after(600)), Some(LogMode::Stream));
        assert!(idle.len() == 2 && idle[0].contains("idle_replication_slot_timeout") && idle[1].contains("lifeboat run"));
        assert_eq!(messages(&unused(after(7200)), Some(LogMode::Stream)).len(), 1);
        let orphan = messages(&unused(None), Some(LogMode::Segments));
        assert!(orphan.len() == 1 && orphan[0].contains("orphan") && orphan[0].contains("pg_drop_replication_slot('s')"));
        assert_eq!(messages(&slot(|_| {}, None), Some(LogMode::Segments)), Vec::<String>::new(), "somebody streams");
        let none = Slot { state: None, ..unused(None) };
        assert!(messages(&none, Some(LogMode::Stream))[0].contains("no slot s"));
        assert_eq!(messages(&none, Some(LogMode::Segments)).len() + messages(&none, None).len(), 0);
        assert_eq!(messages(&unused(None), None).len(), 1);
    }
}
