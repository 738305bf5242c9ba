//! What kind of backup to take, and on which base. Pure.

use crate::base::BackupType;

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// A certain type.
    Type(BackupType),
    /// Whatever serves best.
    Auto,
}

/// What will be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The type.
    pub backup_type: BackupType,
    /// Why it is not the type that was asked for.
    pub reason: Option<String>,
}

/// Decides on the type of the next backup.
pub fn decide(wish: Wish) -> Decision {
    let reason = match wish {
        Wish::Type(BackupType::Full) | Wish::Auto => None,
        Wish::Type(other) => Some(format!("this version takes full backups only: a full instead of a {other}")),
    };
    Decision { backup_type: BackupType::Full, reason }
}

/// Smallest pack chosen for a source, in bytes of frames …
const SMALLEST_PACK_BYTES: u64 = 32 << 20;
/// … and largest, which is also the largest that may be configured: one being stored and the next being filled are held
/// in memory …
pub const LARGEST_PACK_BYTES: u64 = 64 << 20;
/// … and how many of them a source may have before they grow.
const MANY_PACKS: u64 = 100_000;

/// Bytes of frames in a pack, for a source of `raw_bytes`: 32 MiB, and twice that when there would be more than a hundred
/// thousand. Larger sources have more packs.
pub fn pack_bytes(raw_bytes: u64) -> u64 {
    let mut pack_bytes = SMALLEST_PACK_BYTES;
    while pack_bytes < LARGEST_PACK_BYTES && raw_bytes / pack_bytes > MANY_PACKS {
        pack_bytes *= 2;
    }
    pack_bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_grow_with_the_source_within_limits() {
        for (raw_bytes, expected) in [(0, 32 << 20), (3 << 40, 32 << 20), (4 << 40, 64 << 20), (u64::MAX, 64 << 20)] {
            assert_eq!(pack_bytes(raw_bytes), expected, "{raw_bytes}");
        }
    }

    #[test]
    fn a_type_that_cannot_be_had_is_replaced_by_a_full_and_said() {
        assert_eq!(decide(Wish::Auto), Decision { backup_type: BackupType::Full, reason: None });
        let decision = decide(Wish::Type(BackupType::Incr));
        assert_eq!(decision.backup_type, BackupType::Full);
        assert!(decision.reason.unwrap().contains("incr"));
    }
}
