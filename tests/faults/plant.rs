//! One fault after the other, planted in every call of a verb.

use std::sync::Arc;
use std::time::Duration;

use lifeboat::store::Store;
use lifeboat::store::faulty::{Fault, FaultyStore};
use lifeboat::store::layer::retry::Patience;
use lifeboat::store::layer::timeout::Timeouts;
use lifeboat::store::layer::{LayerOptions, layered};

/// Every way to fail.
const FAULTS: [Fault; 6] =
    [Fault::ErrorBefore, Fault::ErrorAfter, Fault::TruncatedBody, Fault::FlippedBit, Fault::Stall, Fault::Outage];

/// What lies between the verb and the store that fails.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Between {
    /// The layers of the program, with short times: what passes is passed over.
    Layers,
    /// Nothing: the first failure is the verb's.
    Nothing,
}

/// One fault in one call.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub call: usize,
    pub fault: Fault,
    pub between: Between,
    pub seed: u64,
}

impl Plan {
    /// The store of a verb: `inner`, failing as planned. Also the layer that fails, to ask it what it did.
    pub fn store(&self, inner: Arc<dyn Store>) -> (Arc<dyn Store>, Arc<FaultyStore>) {
        let faulty = Arc::new(FaultyStore::failing(inner, self.call, self.fault, self.seed));
        let store = faulty.clone() as Arc<dyn Store>;
        match self.between {
            Between::Nothing => (store, faulty),
            Between::Layers => (layered(store, &hasty()), faulty),
        }
    }

    /// The call that was to fail, once it was made.
    pub fn failed_call(&self, faulty: &FaultyStore) -> String {
        faulty.calls().get(self.call).cloned().unwrap_or_default()
    }

    /// Whether the verb must succeed all the same: one failure, told as one that may pass, behind the layers. These do not
    /// repeat the write of a lease, whose condition may fail because of the first attempt.
    pub fn is_survived(&self, failed_call: &str) -> bool {
        self.between == Between::Layers
            && matches!(self.fault, Fault::ErrorBefore | Fault::ErrorAfter | Fault::Stall)
            && !failed_call.starts_with("replace_if")
    }
}

/// The layers, in a hurry. The store of these tests answers at once or never, so no call is given up wrongly.
fn hasty() -> LayerOptions {
    let millis = Duration::from_millis;
    let patience = Patience { first_pause: millis(1), longest_pause: millis(4), limit: millis(30), unanswered_limit: millis(30) };
    LayerOptions::new(patience, Timeouts { call: millis(20), floor_rate_bytes: 1 << 40 })
}

/// Every plan for a verb that made these `calls` when nothing failed. Of equal calls in a row, as of waiting, the first
/// two count. `seed` chooses the bytes and bits that are hit.
pub fn plans(calls: &[String], seed: u64) -> Vec<Plan> {
    let is_new = |at: &usize| *at < 2 || calls[*at] != calls[at - 1] || calls[*at] != calls[at - 2];
    let mut plans = Vec::new();
    for call in (0..calls.len()).filter(is_new) {
        let has_body = calls[call].starts_with("get");
        for fault in FAULTS {
            let is_body_fault = matches!(fault, Fault::TruncatedBody | Fault::FlippedBit);
            if is_body_fault && !has_body {
                continue;
            }
            let seed = seed.wrapping_add(plans.len() as u64);
            plans.push(Plan { call, fault, between: Between::Layers, seed });
            // Behind the layers a single error passes; without them it ends the verb there and then.
            if fault == Fault::ErrorAfter {
                plans.push(Plan { call, fault, between: Between::Nothing, seed });
            }
        }
    }
    plans
}
