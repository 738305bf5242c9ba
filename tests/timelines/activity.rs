//! `timeline` finds the moment before the disaster, and what it prints brings the rows back.

use lifeboat::base::{Lsn, TimelineId, Timestamp};
use lifeboat::source::postgres::names::{Wanted, look_up};
use serde_json::Value;

use super::support::majors::on_majors;
use super::support::postgres::{Cluster, RECOVERY_TIMEOUT};
use super::support::scenario::{SOURCE, Scenario};
use super::support::sql::Sql;
use super::{archive, assert_says, objects, scenario};

on_majors! {
    what_was_lost_is_found_and_comes_back: pg15 15, pg18 18;
}

/// A statement that loses rows, and what there was before it.
struct Disaster {
    kind: &'static str,
    xid: u32,
    time: Timestamp,
    /// Rows of the journal, which grows by one right before and right after.
    journal: i64,
    rows: i64,
    table: &'static str,
}

fn journal(sql: &mut Sql) {
    sql.execute("INSERT INTO journal (note) VALUES ('between')");
}

/// Runs a statement between two others, in a transaction whose id is known.
fn strike(sql: &mut Sql, kind: &'static str, table: &'static str, statement: &str) -> Disaster {
    journal(sql);
    let rows = sql.number(&format!("SELECT count(*) FROM {table}"));
    let before = sql.number("SELECT count(*) FROM journal");
    sql.execute("BEGIN");
    let xid = sql.number("SELECT pg_current_xact_id()::text::bigint") as u32;
    sql.execute(statement);
    sql.execute("COMMIT");
    let time = Timestamp::now();
    journal(sql);
    Disaster { kind, xid, time, journal: before, rows, table }
}

/// Load, a backup, load, and three disasters among it, one of them in a subtransaction.
fn plant(scenario: &Scenario) -> Vec<Disaster> {
    let mut sql = scenario.cluster.sql();
    for statement in [
        "CREATE TABLE journal (id serial PRIMARY KEY, note text)",
        "CREATE TABLE goods (id int PRIMARY KEY, note text)",
        "INSERT INTO goods SELECT i, repeat('g', 100) FROM generate_series(1, 6000) i",
        "CREATE TABLE visits (id int PRIMARY KEY, note text)",
        "INSERT INTO visits SELECT i, 'v' FROM generate_series(1, 700) i",
        "CREATE TABLE doomed (id int PRIMARY KEY, note text, goods_id int REFERENCES goods)",
        "INSERT INTO doomed SELECT i, 'd' FROM generate_series(1, 800) i",
        "CREATE TABLE rewritten AS SELECT i FROM generate_series(1, 900) i",
        "CREATE DATABASE passing STRATEGY file_copy",
    ] {
        sql.execute(statement);
    }
    scenario.full_backup();
    sql.execute("DO $$ BEGIN FOR i IN 1..200 LOOP INSERT INTO journal (note) VALUES ('load'); COMMIT; END LOOP; END $$");
    sql.execute("SELECT pg_create_restore_point('before it all')");
    sql.execute("DROP DATABASE passing");
    // Neither of these loses anything.
    for statement in ["BEGIN", "CREATE TABLE staging (id int)", "DROP TABLE staging", "COMMIT"] {
        sql.execute(statement);
    }
    sql.execute("REINDEX INDEX CONCURRENTLY goods_pkey");
    let delete = "SAVEPOINT a; DELETE FROM goods WHERE id % 10 <> 0; RELEASE a";
    let deleted = strike(&mut sql, "delete", "goods", delete);
    sql.execute("VACUUM FULL rewritten");
    sql.execute("REINDEX TABLE goods");
    let truncated = strike(&mut sql, "truncate", "visits", "TRUNCATE visits");
    sql.execute("CREATE TABLE passing (id int)");
    let dropped = strike(&mut sql, "drop", "doomed", "DROP TABLE doomed");
    sql.execute("DO $$ BEGIN FOR i IN 1..200 LOOP INSERT INTO journal (note) VALUES ('load'); COMMIT; END LOOP; END $$");
    archive(&scenario.cluster);
    vec![deleted, truncated, dropped]
}

fn events<'a>(detail: &'a Value, kind: &str) -> Vec<&'a Value> {
    let events = detail["detail"]["events"].as_array().expect("events");
    events.iter().filter(|event| event["kind"] == kind).collect()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("no {name} in {value}"))
}

/// Runs a printed command in the rescue host's own directory, where `DIR` is.
fn paste(scenario: &Scenario, line: &str, name: &str) -> std::path::PathBuf {
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[0], "lifeboat", "{line}");
    scenario.rescue.ok(&words[1..]);
    let data = scenario.restored.join(name);
    std::fs::rename(scenario.rescue.dir().join("DIR"), &data).expect("the same file system");
    data
}

fn what_was_lost_is_found_and_comes_back(major: u32) {
    let Some(scenario) = scenario(major, 1) else { return };
    let disasters = plant(&scenario);
    names_alone(&scenario);

    let detail = scenario.rescue.json(&["timeline", SOURCE, "--detail"]);
    println!("{}", scenario.rescue.ok(&["timeline", SOURCE, "--detail"]).stdout);
    assert_eq!((&detail["unknown_records"], &detail["unattributed_rows"]), (&0.into(), &0.into()), "{detail}");
    assert_eq!(text(events(&detail, "restore_point")[0], "name"), "before it all");
    assert_eq!(events(&detail, "rewrite").len(), 1, "{detail}");
    assert_eq!(events(&detail, "rewrite")[0]["tables"], serde_json::json!(["public.rewritten"]), "{detail}");
    assert_eq!(events(&detail, "rebuild").len(), 1, "{detail}");
    assert_eq!(events(&detail, "drop_index").len(), 1, "{detail}");
    let database = events(&detail, "drop_database");
    let restore = &database.first().expect("one")["restore"];
    let lsn = |value: &Value, name| text(value, name).parse::<Lsn>().expect("an LSN");
    assert!(restore["then"].is_null() && lsn(restore, "to_lsn") < lsn(database[0], "lsn"), "marked before: {detail}");
    let mut restored = Vec::new();
    for disaster in &disasters {
        let found = events(&detail, disaster.kind);
        assert_eq!(found.len(), 1, "{} in {detail}", disaster.kind);
        assert_eq!(found[0]["xid"], disaster.xid, "{}", found[0]);
        named(disaster, found[0]);
        let line = text(&found[0]["restore"], "command");
        around(&scenario, disaster, line);
        restored.push(paste(&scenario, line, disaster.kind));
    }
    // Only now: a restored server goes on under the same name.
    for (disaster, data) in disasters.iter().zip(&restored) {
        let mut cluster = Cluster::open(&scenario.cluster.installation, data).with_override("archive_mode=off");
        cluster.launch();
        cluster.wait_recovered(RECOVERY_TIMEOUT);
        let mut sql = cluster.sql();
        let Disaster { kind, table, rows, journal, .. } = disaster;
        assert_eq!(sql.number(&format!("SELECT count(*) FROM {table}")), *rows, "{kind}");
        assert_eq!(sql.number("SELECT count(*) FROM journal"), *journal, "exactly what came before the {kind}");
    }
    refusals(&scenario, &disasters);
    names_of_another_timeline_are_not_given(&scenario);
    a_missing_segment_is_named(&scenario);
}

/// Without a key: commits, backups, and the sum of it all.
fn names_alone(scenario: &Scenario) {
    let all = scenario.protected.json(&["timeline", SOURCE]);
    let rows = all["rows"].as_array().expect("rows");
    let commits: u64 = rows.iter().map(|row| row["commits"].as_u64().expect("a number")).sum();
    assert!(rows.len() <= 25 && commits > 400, "{all}");
    assert_eq!(rows.iter().map(|row| row["backups"].as_array().expect("a list").len()).sum::<usize>(), 1);
    let shown = scenario.protected.ok(&["timeline", SOURCE]).stdout;
    assert!(shown.contains('#') && shown.contains("backup ") && shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
}

/// What still has a name has it.
fn named(disaster: &Disaster, event: &Value) {
    match disaster.kind {
        "delete" => {
            assert_eq!((&event["rows"], &event["relations"][0]["name"]), (&5400.into(), &"public.goods".into()), "{event}");
        }
        "truncate" => assert_eq!(event["tables"], serde_json::json!(["public.visits"]), "{event}"),
        _ => {
            assert_eq!(event["relations"].as_array().map(Vec::len), Some(4), "table, index, and the TOAST table's two: {event}");
            assert_eq!(event["tables"], serde_json::json!([]), "goods was locked, and is still there: {event}");
        }
    }
}

/// The listing around it ends with the same command.
fn around(scenario: &Scenario, disaster: &Disaster, line: &str) {
    let time = disaster.time.rfc3339();
    // Near it there are the others: the nearest is meant, or the one asked for.
    let xid = disaster.xid.to_string();
    for more in [&[][..], &["--before", &xid]] {
        let arguments = [&["timeline", SOURCE, "--around", &time, "--count", "2"], more].concat();
        let shown = scenario.rescue.ok(&arguments).stdout;
        assert_eq!(shown.lines().last(), Some(line), "{shown}");
        assert_says(&shown, &[&format!("xid {xid}\n")]);
    }
}

/// There the same numbers may belong to other relations.
fn names_of_another_timeline_are_not_given(scenario: &Scenario) {
    let system_identifier = scenario.cluster.sql().number("SELECT system_identifier FROM pg_control_system()") as u64;
    let (conninfo, runtime) = (scenario.cluster.conninfo(), tokio::runtime::Runtime::new().expect("a runtime"));
    let ask = |timeline| runtime.block_on(look_up(&conninfo, system_identifier, TimelineId(timeline), &Wanted::default()));
    assert!(ask(1).is_ok_and(|names| names.databases.values().any(|name| name == "postgres")));
    assert_says(&ask(2).expect_err("it is on timeline 1").summary(), &["the server is on timeline 1"]);
}

fn refusals(scenario: &Scenario, disasters: &[Disaster]) {
    let time = disasters[0].time.rfc3339();
    for arguments in [&["--detail"][..], &["--around", &time]] {
        let refused = scenario.protected.run(&[&["timeline", SOURCE], arguments].concat());
        refused.refuses(2, &["no age identity", "identity_file", "needs no key"]);
    }
    let outside = scenario.rescue.run(&["timeline", SOURCE, "--from", "2001-01-01Z", "--to", "2001-01-02Z"]);
    outside.refuses(1, &["has nothing of 2001-01-01", "archived"]);
    let turned = scenario.rescue.run(&["timeline", SOURCE, "--from", "1m ago", "--to", "2m ago"]);
    turned.refuses(2, &["lies after --to"]);
    let nobody = scenario.rescue.run(&["timeline", SOURCE, "--around", &time, "--before", "3999999999"]);
    nobody.refuses(1, &["no transaction 3999999999 committed"]);
    scenario.rescue.run(&["timeline", "nothing"]).refuses(1, &["nothing of nothing is in repository"]);
}

/// Segments that are gone or damaged are named, and the rest is shown.
fn a_missing_segment_is_named(scenario: &Scenario) {
    let file = |key: &String| key.rsplit('/').next().and_then(|name| name.split('_').next()).unwrap_or_default().to_owned();
    let mut segments = objects(scenario, "00000001");
    segments.retain(|key| file(key).len() == 24);
    segments.sort();
    let [_, gone, damaged, ..] = segments.as_slice() else { panic!("too few: {segments:?}") };
    scenario.repository.remove(gone);
    for arguments in [&[][..], &["--detail"]] {
        let shown = scenario.rescue.ok(&[&["timeline", SOURCE], arguments].concat()).stdout;
        assert_says(&shown, &[&format!("gap: {} missing", file(gone))]);
    }
    let detail = scenario.rescue.json(&["timeline", SOURCE, "--detail"]);
    assert!(detail["detail"]["commits"].as_u64().is_some_and(|commits| commits > 100), "{detail}");

    scenario.repository.flip(damaged);
    let told = scenario.rescue.run(&["timeline", SOURCE, "--detail"]).exits(22);
    assert_says(&told.stdout, &[&format!("damaged: {}: ", file(damaged)), "commits"]);
}
