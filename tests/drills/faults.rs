//! Whatever is wrong makes a drill fail, and the self-test knows whether it would.

use serde_json::Value;

use crate::stage::{CHECKS, OBJECTIVES, Stage, checks};
use crate::support::dirs::Dir;
use crate::support::postgres::{Cluster, Installation, RECOVERY_TIMEOUT, skip};
use crate::support::process;

const SPOIL: &str = "[drill]\nspoil = \"UPDATE ledger SET amount = amount + 1 WHERE id = 1\"\n";

fn faults(document: &Value) -> Vec<(&str, &str)> {
    let told = |fault: &Value| ["noticed_by", "missing", "untestable"].into_iter().find(|key| !fault[*key].is_null()).unwrap();
    let name = |fault: &Value| fault["fault"].as_str().unwrap().to_owned().leak() as &str;
    document["faults"].as_array().unwrap().iter().map(|fault| (name(fault), told(fault))).collect()
}

#[test]
fn every_planted_fault_is_noticed_and_a_missing_check_is_named() {
    let Some(stage) = Stage::start(15) else { return };
    stage.policy(&format!("{OBJECTIVES}{SPOIL}{CHECKS}"));
    let document = stage.json(&["--self-test"], 0);
    let expected = ["missing log segment", "flipped bit in a page", "wrong row"].map(|fault| (fault, "noticed_by"));
    assert_eq!(faults(&document), expected);
    assert_eq!(document["faults"][2]["noticed_by"], "the ledger is balanced");
    assert!(stage.stored_evidence().is_empty(), "a self-test is no evidence");

    // Checks that do not look at the amounts.
    stage.policy(&format!("{OBJECTIVES}{SPOIL}[[drill.check]]\nsql = \"SELECT 1 FROM ledger\"\nrows = true\n"));
    let document = stage.json(&["--self-test"], 1);
    assert_eq!(faults(&document)[2], ("wrong row", "missing"));
    assert!(document["faults"][2]["missing"].as_str().unwrap().contains("[[drill.check]]"), "{document:#}");

    // Nothing says what a wrong row is.
    stage.policy(&format!("{OBJECTIVES}{CHECKS}"));
    let document = stage.json(&["--self-test"], 12);
    assert_eq!(faults(&document)[2], ("wrong row", "untestable"));

    // A drill that fails anyway notices nothing.
    stage.policy(&format!("{OBJECTIVES}{SPOIL}[[drill.check]]\nsql = \"SELECT 1\"\nexpect = \"2\"\n"));
    let document = stage.json(&["--self-test"], 1);
    assert!(faults(&document).is_empty() && document["why"][0].as_str().unwrap().contains("answers 1, not 2"), "{document:#}");
}

#[test]
fn a_check_that_does_not_hold_or_does_not_run_fails_the_drill() {
    let Some(stage) = Stage::start(15) else { return };
    let wrong = "[[drill.check]]\nname = \"one\"\nsql = \"SELECT count(*) FROM ledger\"\nat_least = 1000000\n
        [[drill.check]]\nname = \"two\"\nsql = \"SELECT 1 FROM nowhere\"\nrows = true\n
        [[drill.check]]\nname = \"three\"\nsql = \"SELECT 1\"\ndatabase = \"nodb\"\nrows = true\n
        [[drill.check]]\nname = \"four\"\nsql = \"SELECT pg_sleep(60)\"\nrows = true\n";
    stage.policy(&format!("{OBJECTIVES}[drill]\nstatement_timeout = \"1s\"\n{wrong}"));
    let document = stage.json(&[], 1);
    let failed: Vec<String> = checks(&document).into_iter().filter(|(_, passed)| !passed).map(|(name, _)| name).collect();
    assert_eq!(failed, ["one", "two", "three", "four"]);
    let why = document["evidence"]["why"].to_string();
    for words in ["less than 1000000", "relation \\\"nowhere\\\" does not exist", "nodb", "statement timeout"] {
        assert!(why.contains(words), "{words}: {why}");
    }
    assert_eq!(document["evidence"]["rto_seconds"], Value::Null);
    assert!(!document["server_log"].as_array().unwrap().is_empty(), "the server's complaints are shown");
    stage.drill(&["--gate"]).exits(1);
}

#[test]
fn a_stale_canary_fails_the_drill() {
    let Some(stage) = Stage::start(15) else { return };
    stage.policy(&format!("{OBJECTIVES}{}", CHECKS.replace("1h", "1s")));
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let document = stage.json(&[], 1);
    assert!(document["evidence"]["why"][0].as_str().unwrap().contains("the canary lives"), "{document:#}");
}

#[test]
fn damage_in_the_repository_fails_the_drill_and_goes_on_record() {
    let Some(stage) = Stage::start(15) else { return };
    let pack = stage.scenario.repository.names().into_iter().find(|name| name.contains("/pack-")).expect("a pack");
    let sound = stage.scenario.repository.read(&pack);
    stage.scenario.repository.flip(&pack);
    let document = stage.json(&[], 1);
    assert_eq!((&document["evidence"]["outcome"], &document["evidence"]["restored"]), (&"failed".into(), &Value::Null));
    stage.drill(&["--level", "verify"]).exits(1);
    stage.scenario.repository.write(&pack, &sound);

    // Without its own log the backup cannot be restored at all: there is no plan.
    for segment in stage.scenario.repository.log_objects() {
        stage.scenario.repository.remove(&segment);
    }
    let output = stage.drill(&[]);
    assert!(matches!(output.code, Some(1 | 22)) && output.stderr.contains("evidence"), "{output}");
    stage.assert_nothing_left();
    assert_eq!(stage.stored_evidence().len(), 3);
}

#[test]
fn without_a_look_at_data_it_is_inconclusive() {
    // One that the distribution did not install: its amcheck can be taken away from a copy.
    let elsewhere = Installation::all().into_iter().find(|found| !found.bin.starts_with("/usr"));
    let Some(elsewhere) = elsewhere else { return skip("every PostgreSQL here is the distribution's") };
    let Some(stage) = Stage::start(elsewhere.major) else { return };
    stage.policy(OBJECTIVES);
    let copies = Dir::new();
    let copy = copies.join("postgresql");
    let whole = elsewhere.bin.parent().expect("bin lies in it");
    let copied = std::process::Command::new("cp").arg("-a").arg(whole).arg(&copy).status().expect("cp runs");
    assert!(copied.success());
    let gone =
        std::process::Command::new("find").arg(&copy).args(["-name", "amcheck.control", "-delete"]).status().expect("find runs");
    assert!(gone.success());
    let mut command = stage.command(&["--output", "json"]);
    let path = std::env::var("PATH").expect("a path");
    command.env("PATH", format!("{}:{path}", copy.join("bin").display()));
    let output = process::run(command, std::time::Duration::from_secs(120)).exits(12);
    let document: Value = serde_json::from_str(&output.stdout).expect("JSON");
    assert_eq!((&document["evidence"]["outcome"], &document["evidence"]["rto_seconds"]), (&"inconclusive".into(), &Value::Null));
    assert!(document["notes"].to_string().contains("amcheck is not installed"), "{document:#}");
    assert!(checks(&document).iter().all(|(_, passed)| *passed));
}

/// Every file below a directory, and when it was written.
fn files_below(directory: &std::path::Path) -> Vec<(std::path::PathBuf, std::time::SystemTime)> {
    let (mut found, mut pending) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(directory).expect("readable") {
            let entry = entry.expect("readable");
            let metadata = entry.metadata().expect("readable");
            found.push((entry.path(), metadata.modified().expect("known")));
            pending.extend(metadata.is_dir().then(|| entry.path()));
        }
    }
    found.sort();
    found
}

#[test]
fn a_tablespace_that_is_in_the_log_alone_is_left_alone_by_drills_and_by_recoveries_on_its_host() {
    let Some(stage) = Stage::start(15) else { return };
    let later = stage.scenario.cluster.dir().create_dir("later");
    let mut sql = stage.scenario.cluster.sql();
    sql.execute(&format!("CREATE TABLESPACE later LOCATION '{}'", later.display()));
    sql.execute("CREATE TABLE there TABLESPACE later AS SELECT n FROM generate_series(1, 100) AS n");
    sql.execute("CHECKPOINT");
    stage.scenario.archive_now();
    // Production's autovacuum may not write meanwhile.
    stage.scenario.cluster.sql().execute("ALTER TABLE there SET (autovacuum_enabled = off)");
    let before = files_below(&later);
    for level in ["component", "failover"] {
        let document = stage.json(&["--level", level], 1);
        let why = document["evidence"]["why"].to_string();
        assert!(why.contains("the log creates a tablespace at") && why.contains("says nothing of the backup"), "{why}");
    }
    assert_eq!(files_below(&later), before);
    // An ordinary recovery on this host would empty production's tablespace first of all.
    let space = stage.scenario.cluster.dir().path().join("space");
    let elsewhere = stage.scenario.rescue.dir().create_dir("elsewhere");
    let moved = format!("{}={}", space.display(), elsewhere.display());
    let data = stage.scenario.restore("beside", &["--to", "latest", "--tablespace", &moved]);
    let mut beside = Cluster::open(&stage.scenario.cluster.installation, &data);
    beside.launch();
    let (_, log) = beside.wait_exit(RECOVERY_TIMEOUT);
    assert!(log.contains("which another server on this host uses"), "{log}");
    assert_eq!(files_below(&later), before);
    assert_eq!(stage.scenario.cluster.sql().number("SELECT count(*) FROM there"), 100);
    stage.scenario.full_backup();
    assert_eq!(stage.json(&[], 0)["evidence"]["outcome"], "passed");
    assert_eq!(files_below(&later).len(), before.len());
}
