//! `restore`: a backup and its log, back to a chosen moment.
//!
//! The plan is made, and an impossible target refused, before anything is touched.

mod delta;
mod heads;
#[cfg(test)]
mod model;
pub(in crate::engine) mod parts;
pub mod plan;
pub mod prepare;
mod refuse;
pub mod run;
pub mod search;
mod settle;
mod sparse;
pub(in crate::engine) mod spill;
mod target_dir;
mod tree;
pub(in crate::engine) mod write;

use std::fmt;

use crate::base::{Lsn, Timestamp};

/// Where the operator wants the restored cluster to stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// At the end of the archived log.
    Latest,
    /// At a moment: every transaction whose end comes, in log order, before the first one that ended after it.
    Time(Timestamp),
    /// After the record at, or the first one after, a position; `inclusive = false`: before it.
    Lsn {
        /// The position.
        lsn: Lsn,
        /// Whether the record there is replayed.
        inclusive: bool,
    },
    /// After (`inclusive = false`: before) the end of one transaction.
    Xid {
        /// Its number; an epoch in the upper half is ignored.
        xid: u64,
        /// Whether the transaction itself is replayed.
        inclusive: bool,
    },
    /// At a named restore point.
    Name(String),
    /// As soon as the backup is consistent.
    Immediate,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("the end of the archived log"),
            Self::Time(time) => write!(f, "{time}"),
            Self::Lsn { lsn, inclusive: true } => write!(f, "LSN {lsn}"),
            Self::Lsn { lsn, inclusive: false } => write!(f, "just before LSN {lsn}"),
            Self::Xid { xid, inclusive: true } => write!(f, "transaction {xid}"),
            Self::Xid { xid, inclusive: false } => write!(f, "just before transaction {xid}"),
            Self::Name(name) => write!(f, "restore point '{name}'"),
            Self::Immediate => f.write_str("the end of the backup"),
        }
    }
}
