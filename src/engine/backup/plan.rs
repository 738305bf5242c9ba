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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_that_cannot_be_had_is_replaced_by_a_full_and_said() {
        assert_eq!(decide(Wish::Auto), Decision { backup_type: BackupType::Full, reason: None });
        let decision = decide(Wish::Type(BackupType::Incr));
        assert_eq!(decision.backup_type, BackupType::Full);
        assert!(decision.reason.unwrap().contains("incr"));
    }
}
