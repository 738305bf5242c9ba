//! A policy decides with a real cluster: what it promises restores, of thinned log both islands are left, and what it wants
//! again stays.

use lifeboat::base::{BackupId, DrillLevel, SourceName, Timestamp};
use lifeboat::repo::evidence::{DrillOutcome, Evidence, KeyUse};
use lifeboat::repo::signed::{self, Place};
use lifeboat::repo::{Signer, layout};
use serde_json::Value;

use super::{directory, expire, fates, small, taken, with_key};
use crate::support::ledger::Ledger;
use crate::support::listing::backups;
use crate::support::postgres::RECOVERY_TIMEOUT;
use crate::support::process;
use crate::support::random;
use crate::support::scenario::{SOURCE, Scenario};

/// Writes the policy that the source names.
fn declare(scenario: &Scenario, retention: &str) {
    let text = format!("[objectives]\nrto = \"30min\"\nrpo = \"15min\"\n[retention]\n{retention}\n");
    for host in [&scenario.protected, &scenario.rescue] {
        host.write("short.toml", &text);
    }
}

/// Puts on record that a drill restored `id`.
fn prove(scenario: &Scenario, id: &str) {
    let signer = Signer::read(&scenario.protected.dir().join("signing.key")).expect("its own key");
    let (now, source): (Timestamp, SourceName) = (Timestamp::now(), SOURCE.parse().expect("a name"));
    let evidence = Evidence {
        previous: None,
        host: "here".into(),
        program_version: "0".into(),
        level: DrillLevel::Component,
        outcome: DrillOutcome::Passed,
        declared: now,
        finished: now,
        policy: None,
        seed: None,
        target: "latest".into(),
        restored: None,
        verified: vec![id.parse::<BackupId>().expect("an id")],
        phases: vec![],
        rto_seconds: None,
        rpo_seconds: None,
        rpo_is_upper_bound: false,
        checks: vec![],
        key_use: KeyUse::File,
        why: vec![],
    };
    let descriptor: Value = serde_json::from_slice(&scenario.repository.read(layout::DESCRIPTOR)).expect("JSON");
    let place = Place::of_source("drill", descriptor["id"].as_str().expect("an id"), &source);
    scenario.repository.write(&layout::drill(&source, now, "0123456789abcdef"), signed::sign(place, &evidence, &signer));
}

fn wait_until_older_than_the_window() {
    let taken = Timestamp::now();
    process::wait_until("the window moves on", RECOVERY_TIMEOUT, || Timestamp::now().since(taken).as_millis() > 2100);
}

/// What the policy makes of each backup, in order.
fn judged(part: &Value) -> Vec<(String, bool)> {
    let verdicts = part["policy"]["backups"].as_array().unwrap_or_else(|| panic!("no policy decided: {part:#}"));
    verdicts.iter().map(|verdict| (verdict["id"].as_str().expect("an id").to_owned(), verdict["kept"] == true)).collect()
}

#[test]
fn what_a_policy_promises_restores_and_the_rest_goes() {
    let Some(scenario) = Scenario::on(15, &small()) else { return };
    for host in [&scenario.protected, &scenario.rescue] {
        let named = host.configuration().replace("kind = \"postgres\"", "kind = \"postgres\"\npolicy = \"./short.toml\"");
        assert!(named.contains("short.toml"), "{named}");
        host.configure_text(&named);
    }
    let seed = random::seed("expire by policy");
    let mut ledger = Ledger::create(&scenario.cluster, seed);
    ledger.commit_one();
    let proven = taken(&scenario, "full");
    prove(&scenario, &proven);
    let at_proven = ledger.oracle();
    ledger.commit_one();
    scenario.archive_now();
    let doomed = [taken(&scenario, "full"), {
        ledger.commit_one();
        taken(&scenario, "incr")
    }];
    ledger.commit_one();
    scenario.archive_now();
    scenario.archive_now();
    let base = taken(&scenario, "full");
    wait_until_older_than_the_window();
    let window_from = Timestamp::now();
    for _ in 0..4 {
        ledger.commit_one();
    }
    scenario.archive_now();
    wait_until_older_than_the_window();
    declare(&scenario, "window = \"2s\"\nkeep_chains = 0\nthin_log = true");
    let oracle = ledger.oracle();

    // Told, without a key; nothing changes.
    let objects = scenario.repository.names_below("");
    let told = scenario.rescue.json(&["expire", "--dry-run"]);
    let part = &told["repositories"][0];
    let expected = [(&proven, true), (&doomed[0], false), (&doomed[1], false), (&base, true)];
    assert_eq!(judged(part), expected.map(|(id, kept)| (id.clone(), kept)), "{told:#}");
    let text = scenario.rescue.ok(&["expire", SOURCE, "--explain"]).stdout;
    for line in [
        format!("kept      {proven}: it is the newest that a drill has proven"),
        format!("to mark   {}: older than the 2.0 s window", doomed[0]),
        format!("kept      {base}: the 2.0 s window needs it (the newest that ended before "),
        "between kept backups, before the window".to_owned(),
    ] {
        assert!(text.contains(&line), "{line}\n{text}");
    }
    assert_eq!(scenario.repository.names_below(""), objects);

    // Marked with a grace, and carried out when it is over.
    let marked = expire(&scenario, &["--grace", "0s"]);
    assert_eq!(marked["marked"]["backups"].as_array().map(Vec::len), Some(2), "{marked:#}");
    assert_eq!(marked["carried_out"]["tombstone"], Value::Null, "a run deletes nothing of what it marks: {marked:#}");
    assert_eq!(backups(&scenario.rescue).len(), 4);
    let done = expire(&scenario, &["--grace", "0s"]);
    let fate = |id: &String| fates(&done).into_iter().find(|(other, _)| other == id).map(|(_, fate)| fate);
    assert_eq!(doomed.each_ref().map(|id| fate(id).unwrap()), ["expired", "expired"], "{done:#}");
    assert!(done["carried_out"]["logs"][0]["ranges"].as_array().is_some_and(|ranges| !ranges.is_empty()), "{done:#}");
    assert_eq!(backups(&scenario.rescue), [proven.clone(), base.clone()]);
    assert!(doomed.iter().all(|id| directory(&scenario, id).is_empty()));
    assert!(scenario.repository.log_objects().len() < objects.iter().filter(|name| name.contains("/log/")).count());

    // Both islands are left, and what lies between them is a gap and no damage.
    for verify in [&["verify", SOURCE][..], &["verify", SOURCE, "--deep"]] {
        let found = scenario.rescue.json(verify);
        let source = &found["repositories"][0]["sources"][0];
        assert_eq!(source["findings"].as_array().map(Vec::len), Some(0), "{found:#}");
    }
    let restored = scenario.restore_and_start("island", &["--backup", &proven]);
    oracle.assert_tables(&mut restored.sql(), &at_proven.rows_at_end(), "the proven one by itself");
    drop(restored);
    let end = *oracle.span().end();
    for (name, time) in [("first", window_from), ("last", end)] {
        let restored = scenario.restore_and_start(name, &["--to", &time.rfc3339()]);
        oracle.assert_at(&mut restored.sql(), time);
    }

    // What the policy marked and wants again stays, and its mark is withdrawn.
    let newest = taken(&scenario, "full");
    wait_until_older_than_the_window();
    let marked = expire(&scenario, &["--grace", "0s"]);
    assert_eq!(marked["marked"]["backups"], serde_json::json!([base]), "{marked:#}");
    declare(&scenario, "window = \"2s\"\nkeep_chains = 3");
    let text = scenario.rescue.ok(&with_key(&scenario, &[])).stdout;
    assert!(text.contains(&format!("kept      {base}: ")) && text.contains("the policy's mark is withdrawn"), "{text}");
    assert_eq!(backups(&scenario.rescue), [proven, base, newest]);
    assert!(!scenario.rescue.ok(&["list", SOURCE]).stdout.contains("marked to be expired"));
}
