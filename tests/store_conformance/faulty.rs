//! The layer that plants faults does what it says.

use std::sync::Arc;

use lifeboat::store::faulty::{Fault, FaultyStore};
use lifeboat::store::memory::MemoryStore;
use lifeboat::store::{Body, PutOutcome, Store};

use crate::support::{block_on, put};

const CONTENT: &[u8] = b"what was stored";

/// A memory store, and a layer over it that fails one call.
fn with_fault(call: usize, fault: Fault, seed: u64) -> (Arc<MemoryStore>, FaultyStore) {
    let inner = Arc::new(MemoryStore::new());
    let faulty = FaultyStore::failing(inner.clone(), call, fault, seed);
    (inner, faulty)
}

#[test]
fn errors_come_before_or_after_the_deed() {
    for (fault, done) in [(Fault::ErrorBefore, false), (Fault::ErrorAfter, true)] {
        let (inner, faulty) = with_fault(1, fault, 0);
        block_on(async {
            assert_eq!(put(&faulty, "a", CONTENT).await, PutOutcome::Created);
            assert!(!faulty.fired());
            let error = faulty.put_if_absent("b", Body::from(CONTENT.to_vec())).await.unwrap_err();
            assert!(error.is_retryable() && error.to_string().contains("put_if_absent b"), "{error}");
            assert!(faulty.fired());
            assert_eq!(inner.head("b").await.is_ok(), done);
            let outcome = if done { PutOutcome::AlreadyExists } else { PutOutcome::Created };
            assert_eq!(put(&faulty, "b", CONTENT).await, outcome);
            assert_eq!(faulty.list("", None).await.unwrap().objects.len(), 2);
        });
        assert_eq!(faulty.calls(), ["put_if_absent a", "put_if_absent b", "put_if_absent b", "list "]);
    }
}

#[test]
fn an_outage_stays() {
    let (_, faulty) = with_fault(1, Fault::Outage, 0);
    block_on(async {
        put(&faulty, "a", CONTENT).await;
        for _ in 0..3 {
            assert!(faulty.get("a").await.unwrap_err().is_retryable());
            assert!(faulty.list("", None).await.unwrap_err().is_retryable());
        }
    });
}

#[test]
fn bodies_are_cut_or_flipped_in_silence_and_the_same_way_for_a_seed() {
    for seed in 0..50 {
        let damaged = |fault| {
            let (_, faulty) = with_fault(1, fault, seed);
            let body = block_on(async {
                put(&faulty, "a", CONTENT).await;
                let body = faulty.get("a").await.unwrap();
                assert_eq!(faulty.get("a").await.unwrap(), CONTENT, "the store itself is unharmed");
                body
            });
            assert!(faulty.fired());
            body
        };
        let (cut, flipped) = (damaged(Fault::TruncatedBody), damaged(Fault::FlippedBit));
        assert!(cut.len() < CONTENT.len() && CONTENT.starts_with(&cut), "seed {seed}");
        let bits: u32 = flipped.iter().zip(CONTENT).map(|(a, b)| (a ^ b).count_ones()).sum();
        assert_eq!((flipped.len(), bits), (CONTENT.len(), 1), "seed {seed}");
        assert_eq!((cut, flipped), (damaged(Fault::TruncatedBody), damaged(Fault::FlippedBit)), "seed {seed}");
    }
}

#[test]
fn a_body_fault_without_a_body_does_not_fire() {
    let (inner, faulty) = with_fault(0, Fault::FlippedBit, 1);
    block_on(put(&faulty, "a", CONTENT));
    assert!(!faulty.fired());
    assert_eq!(block_on(inner.get("a")).unwrap(), CONTENT);
}

#[test]
fn a_stalled_call_does_not_return() {
    let (_, faulty) = with_fault(0, Fault::Stall, 0);
    block_on(async {
        tokio::select! {
            biased;
            result = faulty.get("a") => panic!("returned {result:?}"),
            () = std::future::ready(()) => {}
        }
    });
    assert!(faulty.fired());
}
