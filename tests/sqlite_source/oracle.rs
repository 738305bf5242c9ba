//! What a captured moment must hold, from the ledger that the writers kept outside of the database.

use std::collections::BTreeMap;
use std::path::Path;

use lifeboat::source::sqlite::Moment;

use super::{model, writer};

/// Epoch and number of a transaction; number 0 is a database without any.
pub type Place = (u64, u64);

/// The ledger, read.
pub struct Oracle {
    begun: BTreeMap<Place, i64>,
    acknowledged: Vec<(i64, Place)>,
    digests: BTreeMap<u64, Vec<u64>>,
}

impl Oracle {
    pub fn read(dir: &Path, seed: u64) -> Self {
        let (mut begun, mut acknowledged) = (BTreeMap::new(), Vec::new());
        for line in writer::ledger_lines(dir) {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |index: usize| words[index].parse::<u64>().unwrap();
            match words[0] {
                "r" => drop(begun.entry((number(1), 0)).or_insert(number(2) as i64)),
                "b" => drop(begun.entry((number(1), number(2))).or_insert(number(3) as i64)),
                "a" => acknowledged.push((number(3) as i64, (number(1), number(2)))),
                other => panic!("a line of the ledger begins with {other}"),
            }
        }
        let mut digests: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        let last_of = |epoch| begun.range((epoch, 0)..=(epoch, u64::MAX)).next_back().map_or(0, |((_, n), _)| *n);
        for epoch in begun.keys().map(|(epoch, _)| *epoch) {
            digests.entry(epoch).or_insert_with(|| {
                let mut state = model::State::default();
                let mut digests = vec![state.digest()];
                for n in 1..=last_of(epoch) {
                    state.apply(n, &model::steps(seed, epoch, n));
                    digests.push(state.digest());
                }
                digests
            });
        }
        Self { begun, acknowledged, digests }
    }

    /// The last transaction that was acknowledged.
    pub fn last(&self) -> Option<Place> {
        self.acknowledged.iter().map(|(_, place)| *place).max()
    }

    /// Says what is wrong with a database that claims to be what `moment` captured; returns where it stands.
    pub fn judge(&self, moment: &Moment, found: Option<(u64, u64, u64)>) -> Result<Place, String> {
        let (complete_at, captured_at) = (moment.complete_at.unix_micros(), moment.captured_at.unix_micros());
        let at_least = self.acknowledged.iter().filter(|(time, _)| *time <= complete_at).map(|(_, place)| *place).max();
        let newest_epoch = self.begun.iter().filter(|(_, time)| **time <= captured_at).map(|((epoch, _), _)| *epoch).max();
        // Tables are made before the first transaction: a database without them is its epoch's beginning.
        let (epoch, n, digest) = found.unwrap_or((newest_epoch.unwrap_or(0), 0, model::State::default().digest()));
        let place = (epoch, n);
        if at_least.is_some_and(|least| place < least) {
            return Err(format!("{place:?} is restored, but {at_least:?} had been acknowledged by {complete_at}"));
        }
        match self.begun.get(&place) {
            Some(begun) if *begun <= captured_at => {}
            begun => return Err(format!("{place:?} is restored, begun {begun:?}, captured {captured_at}")),
        }
        match self.digests.get(&epoch).and_then(|digests| digests.get(n as usize)) {
            Some(expected) if *expected == digest => Ok(place),
            expected => Err(format!("{place:?} holds {digest:x}, expected {expected:x?}")),
        }
    }
}
