//! Drills of what is sound: every level, random moments, what is measured, and a source that does not notice.

use std::collections::BTreeSet;
use std::sync::Mutex;

use lifeboat::base::Timestamp;
use rand::RngExt;
use serde_json::Value;

use crate::stage::{CHECKS, OBJECTIVES, Stage, checks};
use crate::support::majors::on_majors;
use crate::support::postgres::{Options, Stop};
use crate::support::random;

on_majors! {
    a_component_drill_passes_and_the_source_does_not_notice: v13 13, v18 18;
    a_failover_drill_passes: v13 13, v15 15;
}

fn seconds(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("no number: {value}"))
}

fn time(value: &Value) -> Timestamp {
    let text = value.as_str().unwrap_or_else(|| panic!("no time: {value}"));
    Timestamp::parse_human(text, Timestamp::now()).expect("a time")
}

fn phases(document: &Value) -> Vec<&str> {
    let phases = document["evidence"]["phases"].as_array().expect("a list");
    phases.iter().map(|phase| phase["phase"].as_str().expect("text")).collect()
}

/// What a drill must not change: files outside the log, rows, the archiver's count, other sessions, the archive.
fn look_at_source(stage: &Stage) -> (BTreeSet<String>, Vec<String>, Vec<String>) {
    let mut sql = stage.scenario.cluster.sql();
    let facts = [
        "SELECT count(*) FROM ledger",
        "SELECT archived_count FROM pg_stat_archiver",
        "SELECT failed_count FROM pg_stat_archiver",
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type IN ('client backend', 'walsender')",
        "SELECT pg_current_wal_insert_lsn()",
    ];
    let facts = facts.iter().map(|fact| sql.value(fact)).collect();
    let files = sql.rows(
        "SELECT path FROM (SELECT d || '/' || f AS path FROM unnest(ARRAY['.', 'base', 'global', 'pg_tblspc', 'pg_replslot']) AS d, pg_ls_dir(d) AS f) t",
    );
    let files = files.into_iter().filter_map(|row| row[0].clone()).collect();
    (files, facts, stage.scenario.repository.log_objects())
}

fn a_component_drill_passes_and_the_source_does_not_notice(major: u32) {
    let Some(stage) = Stage::start(major) else { return };
    // What must not work in the copy; here it would count from the next start on.
    for setting in ["listen_addresses = '*'", "primary_conninfo = 'host=203.0.113.1'", "synchronous_standby_names = 'nobody'"] {
        stage.scenario.cluster.sql().execute(&format!("ALTER SYSTEM SET {setting}"));
    }
    stage.scenario.full_backup();
    stage.book(5);
    stage.scenario.archive_now();
    stage.scenario.cluster.sql().execute("CHECKPOINT");
    let before = look_at_source(&stage);

    let document = stage.json(&[], 0);

    assert_eq!(look_at_source(&stage), before);
    let evidence = &document["evidence"];
    assert_eq!(
        (&evidence["outcome"], &evidence["key_use"], &evidence["policy"]),
        (&"passed".into(), &"file".into(), &"gold".into())
    );
    assert_eq!(phases(&document), ["plan", "fetch", "start", "replay", "promote", "firstcheck", "checks"]);
    let sum: f64 = evidence["phases"].as_array().unwrap()[..6].iter().map(|phase| seconds(&phase["seconds"])).sum();
    assert!((sum - seconds(&evidence["rto_seconds"])).abs() < 0.05, "the phases up to the first check are the RTO: {evidence:#}");
    assert!(
        seconds(&evidence["rpo_seconds"]) == 0.0 && evidence["rpo_is_upper_bound"] == false,
        "nothing was lost: {evidence:#}"
    );
    let names: Vec<String> = checks(&document)
        .into_iter()
        .map(|(name, passed)| {
            assert!(passed, "{name}");
            name
        })
        .collect();
    for name in
        ["takes writes", "replay reached the target", "the ledger is balanced", "amcheck of database postgres", "page checksums"]
    {
        assert!(names.iter().any(|found| found == name), "{name} is missing: {names:?}");
    }
    assert_eq!(document["objectives"], "met");
}

fn a_failover_drill_passes(major: u32) {
    let Some(stage) = Stage::start(major) else { return };
    let document = stage.json(&["--level", "failover"], 0);
    assert_eq!(document["evidence"]["outcome"], "passed");
    assert_eq!(phases(&document), ["plan", "fetch", "start", "replay", "promote", "firstcheck", "checks"]);
    stage.drill(&["--level", "failover", "--to", "random"]).refuses(2, &["failover", "--level component"]);
}

#[test]
fn what_was_lost_is_measured_where_it_can_be_and_bounded_where_not() {
    let Some(mut stage) = Stage::start(15) else { return };
    stage.book(1);
    let lost =
        stage.scenario.cluster.sql().value("SELECT min(booked) FROM (SELECT booked FROM ledger ORDER BY id DESC LIMIT 2) t");
    let lost = Timestamp::parse_human(&format!("{lost}:00"), Timestamp::now()).expect("a time");
    let evidence = stage.json(&[], 0)["evidence"].clone();
    let (rpo, since) = (seconds(&evidence["rpo_seconds"]), time(&evidence["declared"]).since(lost).as_secs_f64());
    assert!((rpo - since).abs() < 0.5 && rpo > 0.0, "{rpo} instead of {since}");
    assert_eq!(evidence["rpo_is_upper_bound"], false);

    stage.scenario.cluster.stop(Stop::Immediate);
    let evidence = stage.json(&[], 0)["evidence"].clone();
    assert_eq!(evidence["rpo_is_upper_bound"], true);
    let since = time(&evidence["declared"]).since(time(&evidence["restored"]["last_commit"])).as_secs_f64();
    assert!((seconds(&evidence["rpo_seconds"]) - since).abs() < 0.01);
}

#[test]
fn random_moments_are_reached_exactly_and_a_seed_brings_one_back() {
    let options = Options { wal_segment_mib: 1, ..Options::default() }.with("track_commit_timestamp = on");
    let Some(stage) = Stage::without_backup(15, &options) else { return };
    stage.scenario.full_backup();
    for _ in 0..6 {
        stage.book(30);
        stage.scenario.archive_now();
    }
    let commits = stage.scenario.cluster.sql().rows("SELECT DISTINCT to_char(pg_xact_commit_timestamp(xmin) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') FROM ledger ORDER BY 1");
    let commits: Vec<Timestamp> = commits.iter().map(|row| time(&Value::from(row[0].clone()))).collect();
    let backed_up = commits[199];
    let seed = random::seed("random moments");
    let mut generator = random::generator(seed, 0);
    let seeds: Mutex<Vec<u32>> = Mutex::new((0..20).map(|_| generator.random()).collect());
    let drill = || {
        while let Some(seed) = { seeds.lock().unwrap().pop() } {
            let output = stage.drill(&["--to", "random", "--seed", &seed.to_string(), "--output", "json"]).success();
            let document: Value = serde_json::from_str(&output.stdout).expect("JSON");
            let evidence = &document["evidence"];
            assert_eq!((&evidence["outcome"], &evidence["seed"]), (&"passed".into(), &seed.into()));
            let target = time(&evidence["target"]);
            // Without a commit in the log there is what the backup brought.
            let last = evidence["restored"]["last_commit"].as_str().map_or(backed_up, |last| time(&last.into()));
            let skipped: Vec<&Timestamp> = commits.iter().filter(|commit| **commit > last && **commit <= target).collect();
            assert!(last <= target && skipped.is_empty(), "seed {seed}: {target} and not {skipped:?}, last {last}");
        }
    };
    std::thread::scope(|scope| (0..2).for_each(|_| drop(scope.spawn(drill))));
    stage.assert_nothing_left();
    assert_eq!(stage.stored_evidence().len(), 20);
    let again = |seed: &str| stage.json(&["--to", "random", "--seed", seed], 0)["evidence"]["target"].clone();
    assert_eq!(again("7"), again("7"));
}

#[test]
fn objectives_are_gated_and_verification_proves_no_rto() {
    let Some(stage) = Stage::start(15) else { return };
    stage.drill(&["--gate"]).success();
    let late = "[objectives]\nrto = \"5min\"\nrpo = \"15min\"\ndetection = \"4min 59s 900ms\"\n";
    stage.policy(&format!("{late}{CHECKS}"));
    let document = stage.json(&["--gate"], 10);
    assert_eq!((&document["evidence"]["outcome"], &document["objectives"]), (&"passed".into(), &"broken".into()));
    assert!(document["objectives_why"][0].as_str().unwrap().contains("RTO"), "{document:#}");
    stage.drill(&[]).success();

    stage.policy(&format!("{OBJECTIVES}[drill]\nlevels = [\"verify\", \"component\"]\n{CHECKS}"));
    // Each level in turn: no drill of the level verify is on record yet.
    let document = stage.json(&[], 0);
    assert_eq!((&document["evidence"]["level"], &document["evidence"]["rto_seconds"]), (&"verify".into(), &Value::Null));
    assert_eq!(document["evidence"]["verified"].as_array().unwrap().len(), 1);
    assert_eq!(stage.json(&["--gate", "--level", "verify"], 12)["objectives"], "unproven");
    assert_eq!(stage.json(&[], 0)["evidence"]["level"], "component");
}

#[test]
fn a_configuration_from_outside_is_used_and_never_leads_to_the_source() {
    let options = Options { wal_segment_mib: 1, ..Options::default() };
    let Some(mut stage) = Stage::without_backup(15, &options) else { return };
    // As Debian has it: the data directory holds no configuration, and the configuration names the data directory.
    let cluster = &mut stage.scenario.cluster;
    cluster.stop(Stop::Fast);
    let (inside, data) = (cluster.data.join("postgresql.conf"), cluster.data.display().to_string());
    let text = std::fs::read_to_string(&inside).expect("own file");
    let text = format!("{text}\ndata_directory = '{data}'\nhba_file = '{data}/pg_hba.conf'\nwork_mem = '7MB'\n");
    std::fs::remove_file(&inside).expect("own file");
    cluster.dir().create_dir("etc");
    let outside = cluster.dir().write("etc/postgresql.conf", text);
    stage.scenario.cluster = stage.scenario.cluster.with_override(format!("config_file={}", outside.display()));
    stage.scenario.cluster.start();
    stage.scenario.full_backup();
    stage.book(3);
    stage.scenario.archive_now();
    let used = "[[drill.check]]\nsql = \"SELECT current_setting('work_mem')\"\nexpect = \"7MB\"\n";
    stage.policy(&format!("{OBJECTIVES}{CHECKS}{used}"));
    assert_eq!(stage.json(&[], 0)["evidence"]["outcome"], "passed");
}

#[test]
fn event_triggers_of_production_do_not_run_in_the_copy() {
    let options = Options { wal_segment_mib: 1, ..Options::default() };
    let Some(stage) = Stage::without_backup(15, &options) else { return };
    let mut sql = stage.scenario.cluster.sql();
    sql.execute(
        "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not here'; END $$;
         CREATE EVENT TRIGGER \"refuse DDL\" ON ddl_command_start EXECUTE FUNCTION refuse();
         ALTER EVENT TRIGGER \"refuse DDL\" ENABLE ALWAYS",
    );
    stage.scenario.full_backup();
    stage.scenario.archive_now();
    assert_eq!(stage.json(&[], 0)["evidence"]["outcome"], "passed");
}
