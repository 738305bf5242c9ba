//! The transactions around a moment, and the one that a restore should leave out. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::base::{Lsn, Timestamp};

use super::acts::{Act, ActKind};
use super::collect::{Happening, Transaction};
use super::run::Listener;

/// Most transactions that are kept for what they did to whole tables.
const MOST_LOSSES: usize = 100;

/// Keeps the committed transactions next to a moment, and within a time of it all that lost rows.
#[derive(Clone, Debug)]
pub struct Around {
    time: Timestamp,
    within: Duration,
    /// So many on each side.
    count: usize,
    /// Kept wherever it is.
    wanted: Option<u32>,
    before: VecDeque<Transaction>,
    after: Vec<Transaction>,
    kept: Vec<Transaction>,
    found: Option<Transaction>,
    /// Commits within the time.
    commits: u64,
}

/// See [`Around`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// In log order.
    pub transactions: Vec<Transaction>,
    /// The one that a restore should leave out, by its place among them: the one asked for; else the nearest one that lost
    /// rows; else the nearest one that may have, its beginning unread; else the first one at or after the moment.
    pub chosen: Option<usize>,
    /// Commits within the time that are not listed.
    pub more_commits: u64,
}

impl Around {
    /// Around `time`: `count` transactions on each side, those that lost rows `within` that time of it, and `wanted`.
    pub fn new(time: Timestamp, within: Duration, count: usize, wanted: Option<u32>) -> Self {
        let (before, after, kept) = (VecDeque::new(), Vec::new(), Vec::new());
        Self { time, within, count, wanted, before, after, kept, found: None, commits: 0 }
    }

    fn distance(&self, transaction: &Transaction) -> Duration {
        transaction.time.since(self.time).max(self.time.since(transaction.time))
    }

    fn keep(&mut self, transaction: &Transaction) {
        if self.kept.len() == MOST_LOSSES {
            let farthest = (0..self.kept.len()).max_by_key(|at| self.distance(&self.kept[*at])).unwrap_or(0);
            self.kept.swap_remove(farthest);
        }
        self.kept.push(transaction.clone());
    }

    /// What was found.
    pub fn listing(self) -> Listing {
        let near: Vec<&Transaction> = self.before.iter().chain(&self.after).collect();
        let any_within = near.iter().any(|transaction| self.distance(transaction) <= self.within);
        let shown = near.into_iter().filter(|transaction| !any_within || self.distance(transaction) <= self.within);
        let by_lsn: BTreeMap<Lsn, Transaction> =
            shown.chain(&self.kept).chain(&self.found).map(|transaction| (transaction.lsn, transaction.clone())).collect();
        let transactions: Vec<Transaction> = by_lsn.into_values().collect();
        let places = || 0..transactions.len();
        let chosen = match self.wanted {
            Some(xid) => places().find(|at| transactions[*at].xid == xid),
            None => places()
                .filter(|at| loses_rows(&transactions[*at]))
                .min_by_key(|at| (is_in_doubt(&transactions[*at]), self.distance(&transactions[*at])))
                .or_else(|| places().find(|at| transactions[*at].time >= self.time)),
        };
        let listed = transactions.iter().filter(|transaction| self.distance(transaction) <= self.within).count();
        Listing { chosen, more_commits: self.commits.saturating_sub(listed as u64), transactions }
    }
}

fn loses_rows(transaction: &Transaction) -> bool {
    transaction.acts.iter().any(|act| act.kind.loses_rows())
}

/// Whether nothing is sure but that files were removed, and their successors may lie in what was not read.
fn is_in_doubt(transaction: &Transaction) -> bool {
    let is_sure = |act: &Act| act.kind.loses_rows() && act.kind != ActKind::Replaced;
    !transaction.is_whole && !transaction.acts.iter().any(is_sure)
}

impl Listener for Around {
    fn happened(&mut self, happening: Happening) {
        let Happening::Ended(transaction) = happening else { return };
        // One without an id has written nothing that a restore could lack.
        if !transaction.kind.is_commit() || transaction.xid == 0 {
            return;
        }
        let is_within = self.distance(&transaction) <= self.within;
        self.commits += u64::from(is_within);
        if self.wanted == Some(transaction.xid) {
            self.found = Some(transaction.clone());
        } else if is_within && loses_rows(&transaction) {
            self.keep(&transaction);
        }
        if transaction.time < self.time {
            self.before.push_back(transaction);
            if self.before.len() > self.count {
                self.before.pop_front();
            }
        } else if self.after.len() < self.count {
            self.after.push(transaction);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::activity::collect::Before;
    use crate::source::postgres::wal::EndKind;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_micros(seconds * 1_000_000).unwrap()
    }

    fn commit(xid: u32, seconds: i64, kind: Option<ActKind>) -> Happening {
        let lsn = Lsn(u64::from(xid) * 100);
        Happening::Ended(Transaction {
            xid,
            kind: EndKind::Commit,
            time: at(seconds),
            lsn,
            before: Before { lsn, leftover: None },
            database: None,
            rows: BTreeMap::new(),
            created: 0,
            dropped: Vec::new(),
            acts: kind.map(Act::of).into_iter().collect(),
            is_whole: true,
        })
    }

    fn listing(happenings: Vec<Happening>, wanted: Option<u32>) -> (Vec<u32>, Option<u32>, u64) {
        let mut around = Around::new(at(1000), Duration::from_secs(300), 2, wanted);
        happenings.into_iter().for_each(|happening| around.happened(happening));
        let listing = around.listing();
        let xids: Vec<u32> = listing.transactions.iter().map(|transaction| transaction.xid).collect();
        let chosen = listing.chosen.map(|at| xids[at]);
        (xids, chosen, listing.more_commits)
    }

    #[test]
    fn the_nearest_ones_and_every_loss_are_listed() {
        let plain: Vec<Happening> = (0..20).map(|n| commit(n + 10, 900 + i64::from(n) * 10, None)).collect();
        assert_eq!(listing(plain.clone(), None), (vec![18, 19, 20, 21], Some(20), 16));
        assert_eq!(listing(plain.clone(), Some(11)), (vec![11, 18, 19, 20, 21], Some(11), 15));
        assert_eq!(listing(plain.clone(), Some(99)).1, None);
        let with_drop =
            [plain, vec![commit(40, 1250, Some(ActKind::Dropped)), commit(41, 1301, Some(ActKind::Truncated))]].concat();
        assert_eq!(listing(with_drop, None), (vec![18, 19, 20, 21, 40], Some(40), 16));
    }

    #[test]
    fn a_loss_that_is_sure_is_chosen_before_a_nearer_one_that_is_not() {
        let unread = |happening| match happening {
            Happening::Ended(transaction) => Happening::Ended(Transaction { is_whole: false, ..transaction }),
            other => other,
        };
        let doubtful = unread(commit(5, 1001, Some(ActKind::Replaced)));
        assert_eq!(listing(vec![doubtful.clone(), commit(6, 1010, Some(ActKind::Dropped))], None).1, Some(6));
        assert_eq!(listing(vec![doubtful.clone(), unread(commit(6, 1010, Some(ActKind::Deleted)))], None).1, Some(6));
        assert_eq!(listing(vec![doubtful, commit(6, 1010, None)], None).1, Some(5));
    }

    #[test]
    fn what_is_asked_for_is_listed_however_much_is_lost_nearer_to_the_moment() {
        let losses = (0..2 * MOST_LOSSES as u32).map(|n| commit(n + 10, 900 + i64::from(n), Some(ActKind::Truncated)));
        let all = std::iter::once(commit(5, 710, Some(ActKind::Dropped))).chain(losses).collect();
        let (xids, chosen, _) = listing(all, Some(5));
        assert_eq!((xids[0], chosen), (5, Some(5)));
        assert!(xids.len() <= 1 + MOST_LOSSES + 4, "{}", xids.len());
    }

    #[test]
    fn far_from_everything_the_nearest_are_listed() {
        let far = vec![commit(5, 10, None), commit(6, 20, None), commit(7, 5000, None)];
        assert_eq!(listing(far, None), (vec![5, 6, 7], Some(7), 0));
        assert_eq!(listing(vec![commit(5, 10, None)], None), (vec![5], None, 0));
        assert_eq!(listing(Vec::new(), None), (Vec::new(), None, 0));
    }
}
