//! Drills: what they prove, for how long, and what they predict.

use std::time::Duration;

use lifeboat::base::DrillLevel::{Component, Verify};
use lifeboat::repo::evidence::DrillOutcome::{Failed, Inconclusive, Passed};
use serde_json::Value;

use crate::stage::{Stage, has_reason, phases};

const HOUR: Duration = Duration::from_secs(3600);
const MIB: f64 = 1048576.0;

#[test]
fn drills_prove_predict_grow_old_and_fail() {
    let Some(stage) = Stage::start("rpo = \"10min\"\nrto = \"1min\"\ndetection = \"10s\"\ndrill_max_age = \"2h\"") else {
        return;
    };
    let status = stage.status();
    assert!(has_reason(&status, "stale_drill") && status["rto"]["predicted_seconds"].is_null(), "{status:#}");
    stage.gate().exits(12);
    stage.host().run(&["status", "--format", "nagios"]).exits(1);

    // Reading objects restores nothing, and what checked no data proves nothing.
    stage.sign_drill(Verify, Passed, Vec::new(), 5 * HOUR);
    assert!(has_reason(&stage.status(), "stale_drill"));
    stage.sign_drill(Component, Inconclusive, phases(1 << 20, 1 << 20, MIB), 4 * HOUR);
    assert!(has_reason(&stage.status(), "inconclusive"));
    stage.gate().exits(12);

    // Two of different sizes: a line, which today's size is put into.
    stage.sign_drill(Component, Passed, phases(4 << 20, 4 << 20, 4.0 * MIB), 3 * HOUR);
    let old = stage.status();
    assert!(has_reason(&old, "stale_drill") && !has_reason(&old, "inconclusive"), "three hours are too old: {old:#}");
    stage.sign_drill(Component, Passed, phases(8 << 20, 8 << 20, 4.0 * MIB), HOUR);
    let proven = stage.status();
    assert_eq!((&proven["verdict"], &proven["reasons"]), (&"ok".into(), &Value::Array(Vec::new())), "{proven:#}");
    let bytes = |name: &str| proven["rto"][name].as_f64().expect("known");
    let expected = 10.0 + 2.5 + (bytes("write_bytes") + bytes("replay_bytes")) / (4.0 * MIB);
    let predicted = bytes("predicted_seconds");
    assert!((predicted - expected).abs() < 0.01, "predicted {predicted}, expected {expected}: {proven:#}");
    stage.gate().exits(0);
    let ok = stage.host().run(&["status", "--format", "nagios"]).exits(0);
    assert!(ok.stdout.starts_with("LIFEBOAT OK - orders ok |"), "{ok}");

    // Four times slower: about half a minute for what took eight seconds.
    stage.sign_drill(Component, Passed, phases(8 << 20, 8 << 20, 0.12 * MIB), HOUR / 2);
    let slow = stage.status();
    assert_eq!((&slow["verdict"], has_reason(&slow, "rto")), (&"breach".into(), true), "{slow:#}");
    stage.gate().exits(10);
    stage.host().run(&["status", "--format", "nagios"]).exits(2);

    stage.sign_drill(Component, Failed, Vec::new(), HOUR / 4);
    assert!(has_reason(&stage.status(), "drill_failed"));
    let repository = &stage.scenario.repository;
    let first = repository.names_below("orders/drill/").into_iter().next().expect("evidence");
    repository.remove(&first);
    assert!(has_reason(&stage.status(), "evidence"), "somebody removed the first one");
}
