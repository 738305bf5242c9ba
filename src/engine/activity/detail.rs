//! What is kept of an interval: marks, what was done to whole tables, and rows by relation. Pure.

use std::collections::BTreeMap;

use crate::base::{Lsn, Timestamp};
use crate::source::postgres::wal::Relation;

use super::acts::Act;
use super::collect::{Before, Happening, RowCounts, Transaction};
use super::run::Listener;

/// Most marks and most acts that are kept, each.
const MOST_EVENTS: usize = 5_000;
/// Most relations whose rows are counted one by one.
const MOST_RELATIONS: usize = 20_000;

/// Something at one point of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noted {
    /// When.
    pub time: Timestamp,
    /// First byte of its record.
    pub lsn: Lsn,
    /// What.
    pub what: What,
}

/// See [`Noted`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A restore point of this name.
    RestorePoint(String),
    /// A checkpoint.
    Checkpoint {
        /// Of a server that shuts down, or ends its recovery.
        shutdown: bool,
    },
    /// A transaction did something to whole tables.
    Act {
        /// Its id.
        xid: u32,
        /// The moment before it.
        before: Before,
        /// What.
        act: Act,
        /// Whether all of the transaction was read; else its rows are at least so many.
        is_whole: bool,
    },
}

/// What is kept of an interval.
#[derive(Clone, Debug)]
pub struct Detail {
    from: Timestamp,
    to: Timestamp,
    acts: Vec<Noted>,
    marks: Vec<Noted>,
    /// Marks and acts that found no room.
    pub more_events: u64,
    /// Rows of transactions that committed, by relation.
    pub writes: BTreeMap<Relation, RowCounts>,
    /// Those of relations that found no room.
    pub other_writes: RowCounts,
    /// Transactions that committed.
    pub commits: u64,
    /// Transactions and subtransactions that were rolled back: the log does not tell them apart.
    pub aborts: u64,
    /// Whether all of every one of them was read.
    pub is_whole: bool,
}

impl Detail {
    /// Of the interval from `from` to `to`.
    pub fn new(from: Timestamp, to: Timestamp) -> Self {
        Self {
            from,
            to,
            acts: Vec::new(),
            marks: Vec::new(),
            more_events: 0,
            writes: BTreeMap::new(),
            other_writes: RowCounts::default(),
            commits: 0,
            aborts: 0,
            is_whole: true,
        }
    }

    /// Marks and acts, in log order.
    pub fn events(&self) -> Vec<&Noted> {
        let mut events: Vec<&Noted> = self.acts.iter().chain(&self.marks).collect();
        events.sort_by_key(|noted| noted.lsn);
        events
    }

    fn mark(&mut self, time: Timestamp, lsn: Lsn, what: What) {
        let is_act = matches!(what, What::Act { .. });
        // Checkpoints must not take the room of what was dropped.
        let list = if is_act { &mut self.acts } else { &mut self.marks };
        if list.len() < MOST_EVENTS {
            list.push(Noted { time, lsn, what });
        } else {
            self.more_events += 1;
        }
    }

    fn ended(&mut self, transaction: Transaction) {
        if !transaction.kind.is_commit() {
            self.aborts += 1;
            return;
        }
        self.commits += 1;
        self.is_whole &= transaction.is_whole;
        for (relation, counts) in &transaction.rows {
            if self.writes.contains_key(relation) || self.writes.len() < MOST_RELATIONS {
                self.writes.entry(*relation).or_default().add(*counts);
            } else {
                self.other_writes.add(*counts);
            }
        }
        let Transaction { xid, before, is_whole, time, lsn, .. } = transaction;
        for act in transaction.acts {
            self.mark(time, lsn, What::Act { xid, before: before.clone(), act, is_whole });
        }
    }
}

impl Listener for Detail {
    fn happened(&mut self, happening: Happening) {
        let inside = self.from..=self.to;
        match happening {
            Happening::Ended(transaction) if inside.contains(&transaction.time) => self.ended(transaction),
            Happening::RestorePoint { name, time, lsn } if inside.contains(&time) => {
                self.mark(time, lsn, What::RestorePoint(name));
            }
            Happening::Checkpoint { checkpoint, lsn } if inside.contains(&checkpoint.time) => {
                self.mark(checkpoint.time, lsn, What::Checkpoint { shutdown: checkpoint.shutdown });
            }
            _ => {}
        }
    }
}
