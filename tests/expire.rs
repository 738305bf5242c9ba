//! `expire` with a real cluster: chains go whole, what stays restores to any moment, marks can be withdrawn and not be
//! forged, and a backup whose base was marked meanwhile does not become one.

mod support;

#[path = "expire/faults.rs"]
mod faults;
#[allow(dead_code)]
#[path = "verify/fixture.rs"]
mod fixture;
#[path = "expire/policy.rs"]
mod policy;
#[path = "expire/thinned.rs"]
mod thinned;

use lifeboat::base::{BackupId, SourceName, Timestamp};
use lifeboat::repo::commit::{CommitEntry, Committed};
use lifeboat::repo::signed::{self, Place};
use lifeboat::repo::{Signer, Tombstone};
use serde_json::Value;

use support::ledger::Ledger;
use support::listing::backups;
use support::postgres::{Options, RECOVERY_TIMEOUT};
use support::process;
use support::random;
use support::scenario::{SOURCE, Scenario};

fn small() -> Options {
    Options { wal_segment_mib: 1, ..Options::default() }
}

/// Takes a backup, which must be of the type asked for; gives its id.
#[track_caller]
fn taken(scenario: &Scenario, backup_type: &str) -> String {
    let report = scenario.protected.json(&["backup", SOURCE, "--type", backup_type]);
    let backup = &report["backups"][0];
    assert_eq!(backup["type"], backup_type, "{report:#}");
    backup["id"].as_str().expect("an id").to_owned()
}

/// `expire` with the operator's key, on the host that has it.
fn with_key(scenario: &Scenario, arguments: &[&str]) -> Vec<String> {
    let key = scenario.operator_key.display().to_string();
    let words = ["expire", SOURCE, "--key", &key];
    words.iter().chain(arguments).map(|word| (*word).to_owned()).collect()
}

#[track_caller]
fn expire(scenario: &Scenario, arguments: &[&str]) -> Value {
    scenario.rescue.json(&with_key(scenario, arguments))["repositories"][0].clone()
}

/// Fate of each backup in a report, in order.
fn fates(part: &Value) -> Vec<(String, String)> {
    let verdicts = part["carried_out"]["backups"].as_array().unwrap_or_else(|| panic!("nothing was carried out: {part:#}"));
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    verdicts.iter().map(|verdict| (text(&verdict["id"]), text(&verdict["fate"]))).collect()
}

fn directory(scenario: &Scenario, id: &str) -> Vec<String> {
    scenario.repository.names_below(&format!("{SOURCE}/backup/{id}/"))
}

#[test]
fn an_old_chain_goes_whole_and_the_rest_restores_to_any_moment() {
    let Some(scenario) = Scenario::on(15, &small()) else { return };
    let mut ledger = Ledger::create(&scenario.cluster, random::seed("expire"));
    let mut old = vec![taken(&scenario, "full")];
    for _ in 0..2 {
        ledger.commit_one();
        old.push(taken(&scenario, "incr"));
    }
    ledger.commit_one();
    let kept = taken(&scenario, "full");
    ledger.commit_one();
    ledger.commit_one();
    scenario.archive_now();
    let oracle = ledger.oracle();
    let segments = scenario.repository.log_objects().len();

    // Refused: not whole, not by the protected host, and without a key only told.
    let first = old[0].as_str();
    let not_whole = with_key(&scenario, &["--backup", first]);
    scenario.rescue.run(&not_whole).refuses(1, &["build on", &old[1], &old[2], "--chain"]);
    let signing_key = scenario.protected.dir().join("signing.key").display().to_string();
    let by_host = ["expire", SOURCE, "--backup", first, "--chain", "--key", &signing_key];
    scenario.protected.run(&by_host).refuses(2, &["has no 'expire' right"]);
    let told = scenario.rescue.json(&["expire", SOURCE, "--backup", first, "--chain", "--dry-run"]);
    assert_eq!(told["repositories"][0]["marked"]["mark"], Value::Null);
    assert_eq!(scenario.repository.names_below(&format!("{SOURCE}/expire/")), [""; 0]);

    // Marked: nothing changes until it is carried out.
    let marked = expire(&scenario, &["--backup", first, "--chain", "--grace", "0s"]);
    assert_eq!(marked["marked"]["backups"].as_array().map(Vec::len), Some(3), "{marked:#}");
    assert_eq!(backups(&scenario.rescue).len(), 4);
    let text = scenario.rescue.ok(&["expire", SOURCE, "--dry-run"]).stdout;
    assert!(text.contains(&format!("would go  {first}: was marked")) && text.contains(&format!("kept      {kept}")), "{text}");
    assert_eq!(scenario.repository.log_objects().len(), segments);

    let done = expire(&scenario, &[]);
    let expected: Vec<(String, String)> =
        old.iter().map(|id| (id.clone(), "expired".to_owned())).chain([(kept.clone(), "kept".to_owned())]).collect();
    assert_eq!(fates(&done), expected);
    assert_eq!(backups(&scenario.rescue), std::slice::from_ref(&kept));
    assert!(old.iter().all(|id| directory(&scenario, id).is_empty()), "nothing of them is left");
    let log = &done["carried_out"]["logs"][0];
    assert_eq!(log["needed_by"], kept.as_str(), "{done:#}");
    assert!(log["deleted_objects"].as_u64().expect("a number") > 0 && scenario.repository.log_objects().len() < segments);
    assert_eq!(expire(&scenario, &[])["carried_out"]["tombstone"], Value::Null, "there is nothing more to do");

    // Gone is gone, and not damaged.
    for verify in [&["verify", SOURCE][..], &["verify", SOURCE, "--deep"]] {
        let found = scenario.rescue.json(verify);
        let source = &found["repositories"][0]["sources"][0];
        assert_eq!(
            (source["findings"].as_array().map(Vec::len), source["backups"].as_array().map(Vec::len)),
            (Some(0), Some(1)),
            "{found:#}"
        );
    }
    let into = scenario.restored.join("gone").display().to_string();
    scenario.rescue.run(&["restore", SOURCE, "--into", &into, "--backup", first]).refuses(1, &["has expired"]);
    let early = oracle.span().start().rfc3339();
    scenario.rescue.run(&["restore", SOURCE, "--into", &into, "--to", &early]).refuses(1, &["before the end of the oldest"]);

    // What stays restores, to moments and to the end, and can be built on.
    let end = *oracle.span().end();
    let restored = scenario.restore_and_start("moment", &["--to", &end.rfc3339()]);
    oracle.assert_at(&mut restored.sql(), end);
    drop(restored);
    ledger.commit_one();
    let incr = taken(&scenario, "incr");
    scenario.archive_now();
    let oracle = ledger.oracle();
    let restored = scenario.restore_and_start("end", &["--backup", &incr]);
    oracle.assert_tables(&mut restored.sql(), &oracle.rows_at_end(), "after the incr");
    scenario.rescue.ok(&["verify", SOURCE, "--deep"]);

    // The last of all stays.
    let last = with_key(&scenario, &["--backup", &kept, "--chain"]);
    scenario.rescue.run(&last).refuses(1, &["nothing that can be restored would be left", "--allow-none"]);
    expire(&scenario, &["--backup", &kept, "--chain", "--grace", "0s", "--allow-none"]);
    let held = expire(&scenario, &[]);
    assert_eq!(fates(&held), [(kept.clone(), "kept".to_owned()), (incr.clone(), "kept".to_owned())]);
    let gone = expire(&scenario, &["--allow-none"]);
    assert_eq!(fates(&gone), [(kept, "expired".to_owned()), (incr, "expired".to_owned())]);
    assert!(backups(&scenario.rescue).is_empty());
    scenario.rescue.ok(&["verify", SOURCE]);
    let again = taken(&scenario, "full");
    assert_eq!(backups(&scenario.rescue), [again]);
    scenario.rescue.ok(&["verify", SOURCE, "--deep"]);
}

/// `list` tells these backups and marks, with the time from which on they may go, and no others.
#[track_caller]
fn assert_listed_marks(scenario: &Scenario, expected: &[(&str, &str)]) {
    let list = scenario.protected.json(&["list", SOURCE]);
    let listed = list["repositories"][0]["sources"][0]["incarnations"][0]["backups"].as_array().expect("backups").clone();
    let marked: Vec<&Value> = listed.iter().filter(|backup| !backup["marked"].is_null()).collect();
    let found: Vec<(&str, &str)> =
        marked.iter().filter_map(|backup| Some((backup["id"].as_str()?, backup["marked"]["mark"].as_str()?))).collect();
    assert_eq!(found, expected, "{list:#}");
    let text = scenario.protected.ok(&["list", SOURCE]).stdout;
    for backup in &marked {
        let due: Timestamp = serde_json::from_value(backup["marked"]["due"].clone()).expect("a time");
        assert!(due > Timestamp::now(), "it may go in an hour: {due}");
        let told =
            format!("  marked to be expired; may go from {} on\n    {}\n", due.human_seconds(), backup["id"].as_str().unwrap());
        assert!(text.contains(&told), "{told}{text}");
    }
    assert_eq!(text.matches("marked to be expired").count(), usize::from(!expected.is_empty()), "{text}");
}

#[test]
fn marks_wait_for_their_grace_can_be_withdrawn_and_cannot_be_forged() {
    let Some(scenario) = Scenario::on(15, &small()) else { return };
    let [first, second, third] = [(); 3].map(|()| taken(&scenario, "full"));
    let marked = expire(&scenario, &["--backup", &first, "--grace", "1h"]);
    let name = marked["marked"]["mark"].as_str().expect("a mark").to_owned();
    let pending = expire(&scenario, &[]);
    assert_eq!(fates(&pending)[0], (first.clone(), "pending".to_owned()));
    assert_listed_marks(&scenario, &[(&first, &name)]);
    // Marked once more with no grace at all: the shorter one counts only for what is not marked already.
    let again = expire(&scenario, &["--backup", &first, "--grace", "0s"]);
    assert_eq!(again["marked"]["mark"], Value::Null, "{again:#}");
    assert_eq!(fates(&again)[0].1, "pending");

    let told = scenario.rescue.json(&["expire", SOURCE, "--backup", &first, "--withdraw", "--dry-run"]);
    assert_eq!(told["repositories"][0]["withdrawn"]["backups"][0], first.as_str());
    assert_eq!(fates(&expire(&scenario, &[]))[0].1, "pending", "only told");
    expire(&scenario, &["--backup", &first, "--withdraw"]);
    assert_eq!(fates(&expire(&scenario, &[]))[0].1, "kept");
    assert_listed_marks(&scenario, &[]);
    let nothing = with_key(&scenario, &["--backup", &first, "--withdraw"]);
    scenario.rescue.run(&nothing).refuses(1, &["is not marked"]);

    // A mark, and a tombstone, by the key of the protected host; and a copy of a withdrawn mark under another name.
    let expiry = |name: &str| format!("{SOURCE}/expire/{name}.json");
    let genuine = String::from_utf8(scenario.repository.read(&expiry(&name))).expect("text");
    scenario.repository.write(&expiry("20200101T000000.000000Z-copy"), &genuine);
    let signer = Signer::read(&scenario.protected.dir().join("signing.key")).expect("its own key");
    let payload: Value = serde_json::from_str(genuine.lines().next().expect("two lines")).expect("JSON");
    let repository = payload["repository"].as_str().expect("an id").to_owned();
    let source: SourceName = SOURCE.parse().expect("a name");
    let body = serde_json::json!({
        "name": "20200101T000000.000000Z-forg",
        "mark": {"backups": [first, second], "marked": "2020-01-01T00:00:00.000000Z", "grace_seconds": 0, "host": "x"},
    });
    let forged = signed::sign(Place::of_source("expire", &repository, &source), &body, &signer);
    scenario.repository.write(&expiry("20200101T000000.000000Z-forg"), forged);
    let part = expire(&scenario, &[]);
    assert!(fates(&part).iter().all(|(_, fate)| fate == "kept"), "{part:#}");
    let unused = part["carried_out"]["unused_marks"].to_string();
    assert!(unused.contains("has no right to sign") && unused.contains("it is a copy of"), "{unused}");
    let warned = scenario.rescue.ok(&with_key(&scenario, &[])).stderr;
    assert!(warned.contains("is not used"), "{warned}");
    let verified = scenario.rescue.ok(&["verify", SOURCE]).stdout;
    assert!(verified.contains("20200101T000000.000000Z-forg.json") && verified.contains("counts for nothing"), "{verified}");

    let head = scenario.repository.read(&format!("{SOURCE}/commit/00000003.json"));
    let tombstone = Tombstone {
        backups: vec![first.parse::<BackupId>().expect("an id")],
        marks: Vec::new(),
        log_floors: Vec::new(),
        log_ranges: Vec::new(),
    };
    let entry = CommitEntry {
        number: 4,
        previous: Some(lifeboat::codec::Sha256Digest::of(&head)),
        lease_token: 0,
        host: "x".into(),
        written: Timestamp::now(),
        committed: Committed::Tombstone(tombstone),
    };
    let planted = format!("{SOURCE}/commit/00000004.json");
    scenario.repository.write(&planted, signed::sign(Place::of_source("commit", &repository, &source), &entry, &signer));
    assert_eq!(backups(&scenario.rescue), [first, second, third], "a tombstone by the wrong key buries nobody");
    scenario.rescue.run(&["verify", SOURCE]).exits(22);
    scenario.rescue.run(&with_key(&scenario, &[])).refuses(22, &["00000004.json", "has no right to sign"]);
    scenario.repository.remove(&planted);
}

#[test]
fn a_backup_whose_base_is_marked_meanwhile_is_not_committed() {
    let Some(scenario) = Scenario::on(15, &small()) else { return };
    let base = taken(&scenario, "full");
    let other = taken(&scenario, "full");
    // `other` is the base of the incr: it is the newest.
    scenario.cluster.configure(["archive_command = 'false'"]);
    let mut running = scenario.protected.start(&["backup", SOURCE, "--type", "incr"]);
    process::wait_until("the incr waits for its log", RECOVERY_TIMEOUT, || {
        assert!(!running.has_ended(), "{}", running.stderr_so_far());
        running.stderr_so_far().contains("waiting for the log")
    });
    expire(&scenario, &["--backup", &other, "--grace", "0s"]);
    scenario.cluster.configure([scenario.protected.archive_command(SOURCE)]);
    running.finish(RECOVERY_TIMEOUT).refuses(1, &["is not committed", &other, "was marked to be expired", "--withdraw"]);
    assert_eq!(backups(&scenario.rescue), [base.clone(), other.clone()]);
    // The next one does not build on it either.
    let next = scenario.protected.json(&["backup", SOURCE, "--type", "incr"]);
    assert_eq!(next["backups"][0]["type"], "full");
    // And one that is carried out while an incr on it runs.
    let newest = next["backups"][0]["id"].as_str().expect("an id").to_owned();
    scenario.cluster.configure(["archive_command = 'false'"]);
    let mut running = scenario.protected.start(&["backup", SOURCE, "--type", "incr"]);
    process::wait_until("the incr waits for its log", RECOVERY_TIMEOUT, || {
        assert!(!running.has_ended(), "{}", running.stderr_so_far());
        running.stderr_so_far().contains("waiting for the log")
    });
    expire(&scenario, &["--backup", &newest, "--grace", "0s"]);
    let done = expire(&scenario, &[]);
    let fate = |id: &str| fates(&done).into_iter().find(|(other, _)| other == id).map(|(_, fate)| fate);
    assert_eq!((fate(&other).as_deref(), fate(&newest).as_deref()), (Some("expired"), Some("expired")));
    scenario.cluster.configure([scenario.protected.archive_command(SOURCE)]);
    running.finish(RECOVERY_TIMEOUT).refuses(1, &["is not committed", &newest, "gone"]);
    assert_eq!(backups(&scenario.rescue), [base]);
    scenario.rescue.ok(&["verify", SOURCE, "--deep"]);
    scenario.archive_now();
    scenario.restore_and_start("the base", &[]);
}

#[test]
fn what_crashed_backups_left_is_removed_and_what_may_be_in_flight_is_not() {
    let Some(scenario) = Scenario::on(15, &small()) else { return };
    scenario.add_sections("[backup]\nlease_ttl_seconds = 3\n");
    let kept = taken(&scenario, "full");
    scenario.protected.run_killed_at("backup.copied", &["backup", SOURCE, "--type", "full"]).killed();
    let orphans = |part: &Value| part["orphans"].as_array().expect("a list").clone();
    let young = expire(&scenario, &["--orphans", "--wait", "100s"]);
    assert_eq!((orphans(&young).len(), &orphans(&young)[0]["removed"]), (1, &Value::Bool(false)), "{young:#}");
    let id = orphans(&young)[0]["id"].as_str().expect("an id").to_owned();
    assert!(!directory(&scenario, &id).is_empty());

    // While a backup runs, and goes on with the orphan, nothing is swept.
    scenario.cluster.configure(["archive_command = 'false'"]);
    let mut running = scenario.protected.start(&["backup", SOURCE, "--type", "full"]);
    process::wait_until("the backup waits for its log", RECOVERY_TIMEOUT, || {
        assert!(!running.has_ended(), "{}", running.stderr_so_far());
        running.stderr_so_far().contains("waiting for the log")
    });
    let sweep = with_key(&scenario, &["--orphans", "--older-than", "0s"]);
    scenario.rescue.run(&sweep).refuses(21, &["holds its lease"]);
    running.signal(rustix::process::Signal::TERM);
    running.finish(RECOVERY_TIMEOUT);
    let told = scenario.rescue.ok(&["expire", SOURCE, "--orphans", "--older-than", "0s", "--dry-run"]).stdout;
    assert!(told.contains(&format!("would go  {id}")), "{told}");
    let swept = expire(&scenario, &["--orphans", "--older-than", "0s"]);
    assert_eq!((orphans(&swept).len(), &orphans(&swept)[0]["removed"]), (1, &Value::Bool(true)), "{swept:#}");
    assert!(directory(&scenario, &id).is_empty());

    // The host that would have gone on with it starts afresh.
    scenario.cluster.configure([scenario.protected.archive_command(SOURCE)]);
    let next = taken(&scenario, "full");
    assert_ne!(next, id);
    let found = scenario.rescue.json(&["verify", SOURCE, "--deep"]);
    assert_eq!(found["repositories"][0]["sources"][0]["uncommitted"].as_array().map(Vec::len), Some(0), "{found:#}");

    // A damaged commit entry makes its backup look like an orphan: then nothing is swept.
    let entry = format!("{SOURCE}/commit/00000001.json");
    let sound = scenario.repository.read(&entry);
    scenario.repository.write(&entry, b"damaged\n");
    scenario.rescue.run(&sweep).refuses(22, &["00000001.json"]);
    assert!(!directory(&scenario, &kept).is_empty());
    scenario.repository.write(&entry, sound);
    assert_eq!(backups(&scenario.rescue), [kept, next]);
}
