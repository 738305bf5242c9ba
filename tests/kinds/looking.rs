//! What is told of a database and a directory: list, status, timeline, report, runbook, check.

use lifeboat::base::Timestamp;
use rusqlite::Connection;
use serde_json::Value;

use crate::support::dirs;
use crate::world::{APP, DOCS, HOUR, World, assert_no_words_of_clusters};

/// A policy for a directory that is backed up every hour.
const DOCUMENTS: &str = "[objectives]\nrto = '1h'\nrpo = '4h'\n[schedule]\nfull = '@weekly'\nincr = '@hourly'\ndrill = '@weekly'\n\
                         [log]\nmode = 'none'\n[retention]\nkeep_for = '35d'\n[copies]\nbackup = 1\n";

fn time(value: &Value) -> Timestamp {
    Timestamp::parse_human(value.as_str().expect("text"), Timestamp::now()).expect("RFC 3339")
}

/// In one line: text for people is wrapped.
fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn a_directory_has_moments_and_a_database_stretches() {
    let mut world = World::new("", "");
    let (app, docs) = (world.years_of_app(), world.years_of_docs());
    let listed = world.host.ok(&["list", DOCS, "--repository", "main"]).stdout;
    assert_no_words_of_clusters(&listed);
    assert!(listed.contains("restores to the moments of its backups") && !listed.contains("gap"), "{listed}");
    assert!(docs.iter().all(|backup| listed.contains(backup.id.as_str())), "{listed}");

    let document = world.host.json(&["list", DOCS, "--repository", "main"]);
    let incarnation = &document["repositories"][0]["sources"][0]["incarnations"][0];
    assert_eq!(incarnation["kind"], "directory");
    let window = incarnation["timelines"][0]["window"].as_array().expect("a list");
    let moments: Vec<(Timestamp, Timestamp)> =
        window.iter().map(|interval| (time(&interval["from"]), time(&interval["to"]))).collect();
    let ends: Vec<(Timestamp, Timestamp)> = docs.iter().map(|backup| (backup.stop_time, backup.stop_time)).collect();
    assert_eq!(moments, ends);
    assert!(window[0].get("end_lsn").is_none() && window[0].get("missing").is_none(), "{window:?}");
    assert!(incarnation["backups"].as_array().expect("a list").iter().all(|backup| backup["restorable"] == true));
    assert!(incarnation["backups"][0].get("wal_level").is_none(), "{incarnation:#}");

    let listed = world.host.ok(&["list", APP, "--repository", "main"]).stdout;
    assert_no_words_of_clusters(&listed);
    assert_eq!(listed.matches("gap: its commits were not followed without a break").count(), 1, "{listed}");
    assert!(listed.contains("log: 5 pieces"), "{listed}");
    let document = world.host.json(&["list", APP, "--repository", "main"]);
    let window = &document["repositories"][0]["sources"][0]["incarnations"][0]["timelines"][0]["window"];
    let window: Vec<(Timestamp, Timestamp)> =
        window.as_array().expect("a list").iter().map(|interval| (time(&interval["from"]), time(&interval["to"]))).collect();
    let [alone, full, after, _] = &app;
    let day = 24 * HOUR;
    assert_eq!(
        window,
        [
            (alone.stop_time, alone.stop_time),
            (full.stop_time, world.ago(8 * day - 3 * HOUR)),
            (after.stop_time, world.ago(day - HOUR)),
        ]
    );
}

#[test]
fn what_a_directory_may_have_lost_is_a_bound_and_never_a_breach() {
    let mut world = World::new("", "policy = \"own\"\n");
    world.policy("own", DOCUMENTS);
    let infinite = world.host.json(&["status", DOCS]);
    assert_eq!((&infinite["sources"][0]["scopes"][0]["kind"], &infinite["verdict"]), (&"infinite".into(), &"breach".into()));

    let full = world.backup(DOCS, 2 * HOUR, None, 0);
    let status = |repository: &[&str]| world.host.json(&[&["status", DOCS][..], repository].concat());
    let report = &status(&[])["sources"][0];
    assert_eq!((&report["kind"], &report["server"], &report["path"]["error"]), (&"directory".into(), &Value::Null, &Value::Null));
    let lost = &report["scopes"][0];
    assert_eq!((&lost["kind"], &lost["rpo_at_least_seconds"]), (&"upper_bound".into(), &0.0.into()), "{lost:#}");
    let seconds = lost["rpo_seconds"].as_f64().expect("a number");
    assert!((2.0 * HOUR as f64..2.1 * HOUR as f64).contains(&seconds), "from the beginning of the backup: {seconds}");
    assert_eq!((&report["copies"]["log_wanted"], &report["copies"]["backup_held"]), (&0.into(), &1.into()));
    assert_eq!(report["repositories"][0]["gaps"], 0);
    assert!(report["repositories"][0]["frontier_lsn"].is_null() && report["window"][0].get("missing").is_none());
    assert_eq!(report["verdict"], "at_risk", "hourly runs came to nothing: {report:#}");

    // With one an hour, and nothing else wrong, only the drill is missing.
    let hourly = DOCUMENTS.replace("incr = '@hourly'\n", "");
    world.policy("own", &hourly.replace("full = '@weekly'", "full = '@yearly'").replace("drill = '@weekly'\n", ""));
    let sound = &status(&[])["sources"][0];
    assert_eq!(sound["verdict"], "unproven", "{sound:#}");
    assert_eq!(sound["scopes"][0]["verdict"], "ok", "{sound:#}");
    world.policy("own", &hourly.replace("rpo = '4h'", "rpo = '1h'").replace("full = '@weekly'", "full = '@hourly'"));
    let late = &status(&[])["sources"][0];
    let of_rpo: Vec<&Value> =
        late["reasons"].as_array().expect("a list").iter().filter(|reason| reason["class"] == "rpo").collect();
    assert_eq!((of_rpo.len(), &of_rpo[0]["verdict"]), (1, &"at_risk".into()), "a bound is no breach: {late:#}");
    assert!(of_rpo[0]["command"].as_str().expect("text").contains("lifeboat backup docs"), "{of_rpo:?}");

    let text = world.host.ok(&["status", DOCS]).stdout;
    assert_no_words_of_clusters(&text);
    assert!(flat(&text).contains("changes since then are not looked for") && text.contains("directory"), "{text}");
    let exposition = world.host.ok(&["status", DOCS, "--format", "prometheus"]).stdout;
    assert!(exposition.contains("lifeboat_path_readable{source=\"docs\"} 1"), "{exposition}");
    for absent in ["lifeboat_server_up", "what=\"log\"", "lifeboat_archiver"] {
        assert!(!exposition.contains(absent), "{absent}: {exposition}");
    }
    let line = world.host.run(&["status", DOCS, "--format", "nagios"]).stdout;
    assert!(line.starts_with("LIFEBOAT WARNING") && line.contains("'docs_host_lost_rpo'="), "{line}");
    assert!(flat(&text).contains(&full.start_time.human_seconds()), "{text}");
}

#[test]
fn the_worst_of_a_directory_is_from_one_backup_to_the_next() {
    let mut world = World::new("", "");
    world.backup(DOCS, 20 * HOUR, None, 0);
    world.backup(DOCS, 14 * HOUR, None, 0);
    let text = world.host.ok(&["status", DOCS, "--repository", "main"]).stdout;
    // Committed just now, in a fabricated world: so long after the first began.
    assert!(flat(&text).contains("worst in 24 h at most 20 h"), "{text}");
}

#[test]
fn a_database_is_told_by_what_was_stored_of_it() {
    let mut world = World::new("", "");
    world.years_of_app();
    let report = &world.host.json(&["status", APP, "--repository", "main"])["sources"][0];
    let (lost, day) = (&report["scopes"][0], 24 * HOUR);
    assert_eq!((&report["kind"], &lost["kind"]), (&"sqlite".into(), &"upper_bound".into()), "{report:#}");
    let seconds = lost["rpo_seconds"].as_f64().expect("a number");
    let since = (day - HOUR) as f64;
    assert!((since..since + 600.0).contains(&seconds), "since the last stored moment: {seconds}");
    assert!(lost["worst_24h_seconds"].is_null(), "nobody tells when its commits were made: {lost:#}");
    assert_eq!((&report["repositories"][0]["gaps"], &report["server"]), (&1.into(), &Value::Null));
    assert!(report["rto"]["replay_bytes"].as_u64().expect("a number") > 0, "{report:#}");
    let gaps = report["reasons"].as_array().expect("a list").iter().filter(|reason| reason["class"] == "gap").count();
    assert_eq!(gaps, 1, "a snapshot that nobody followed is no gap: {report:#}");
    let text = world.host.ok(&["status", APP, "--repository", "main"]).stdout;
    assert_no_words_of_clusters(&text);
    assert!(flat(&text).contains("this host does not remember what was stored last"), "{text}");
}

#[test]
fn what_happened_when_is_told_as_far_as_the_kind_can() {
    let mut world = World::new("", "");
    let docs = world.years_of_docs();
    world.years_of_app();
    let text = world.host.ok(&["timeline", APP, "--repository", "main"]).stdout;
    assert_no_words_of_clusters(&text);
    assert_eq!(text.matches("gap: its commits were not followed without a break").count(), 1, "{text}");
    let document = world.host.json(&["timeline", APP, "--repository", "main"]);
    let rows = document["rows"].as_array().expect("a list");
    assert_eq!(rows.iter().map(|row| row["commits"].as_u64().expect("a number")).sum::<u64>(), 31, "{document:#}");
    assert!(document.get("timeline").is_none() && document["kind"] == "sqlite");

    let text = world.host.ok(&["timeline", DOCS, "--repository", "main"]).stdout;
    assert_no_words_of_clusters(&text);
    assert!(docs.iter().all(|backup| text.contains(backup.id.as_str())) && !text.contains("commits"), "{text}");
    assert!(text.ends_with("lifeboat diff docs OLD NEW\n"), "{text}");
    let first = docs[0].stop_time.human();
    let none = world.host.run(&["timeline", DOCS, "--to", "2020-01-01 00:00Z", "--repository", "main"]);
    none.refuses(1, &["nothing was stored of docs", &first]);

    for (source, why) in [(APP, "changed pages"), (DOCS, "the moments of its backups")] {
        for option in [&["--around", "1h ago"][..], &["--detail"], &["--timeline", "1"]] {
            let refused = world.host.run(&[&["timeline", source, "--repository", "main"][..], option].concat());
            refused.refuses(2, &[option[0], why, &format!("lifeboat timeline {source}")]);
        }
    }
}

#[test]
fn papers_are_of_the_kind() {
    let mut world = World::new("", "");
    world.years_of_app();
    world.years_of_docs();
    world.host.ok(&["report", "--file", "page.html"]);
    let page = std::fs::read_to_string(world.host.dir().join("page.html")).expect("it was written");
    assert!(page.contains("moments") && page.contains("commits that were not followed without a break"), "{page}");
    assert!(page.contains("Size of the files") && !page.contains("the segment being written"), "{page}");
    let book = |source: &str| world.host.ok(&["runbook", source]).stdout;
    let (app, docs) = (book(APP), book(DOCS));
    for (text, wanted) in [
        (&app, &["restore app --into /srv/recovery/app.db", "-wal", "integrity_check", "backup app --type full"][..]),
        (&docs, &["restore docs --into /srv/recovery/docs", "--path", "lifeboat", "ls docs", "diff docs OLD NEW"]),
    ] {
        for word in wanted {
            assert!(text.contains(word), "{word} is not in\n{text}");
        }
        for foreign in ["pg_", "PostgreSQL", "archive_command", "postgres"] {
            assert!(!text.contains(foreign), "{foreign} is in\n{text}");
        }
    }
}

/// Levels and messages of one subject.
fn findings(world: &World, source: &str, subject: &str, exit: i32) -> Vec<(String, String)> {
    let output = world.host.run(&["check", source, "--repository", "main", "--output", "json"]).exits(exit);
    let document: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}\n{output}"));
    let found = document["checks"][0]["findings"].as_array().expect("a list").iter();
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    found
        .filter(|finding| finding["subject"] == subject)
        .map(|finding| (text(&finding["level"]), text(&finding["message"])))
        .collect()
}

#[test]
fn check_tries_to_read_what_is_to_be_backed_up() {
    let world = World::new("policy = \"app-database\"\n", "policy = \"shared-files\"\nexclude = [\"*.tmp\"]\n");
    world.host.write("tree/left.tmp", "out");
    let found = findings(&world, DOCS, "directory", 0);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].0 == "ok" && found[0].1.ends_with("3 B in 1 entries"), "{found:?}");

    // A file that another user keeps to himself.
    if dirs::server_user().is_some() {
        let secret = world.host.dir().join("tree/secret");
        std::fs::write(&secret, "x").expect("own directory");
        std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("own file");
        let found = findings(&world, DOCS, "directory", 1);
        assert!(found[0].0 == "fault" && found[0].1.contains("1 of it cannot be read, the first: secret"), "{found:?}");
        std::fs::remove_file(secret).expect("own file");
    }
    std::fs::remove_dir_all(world.host.dir().join("tree")).expect("own directory");
    let found = findings(&world, DOCS, "directory", 1);
    assert!(found[0].0 == "fault" && found[0].1.contains("No such file"), "{found:?}");

    assert_eq!(findings(&world, APP, "database", 0)[0].0, "ok");
    assert_eq!(
        findings(&world, APP, "journal", 0),
        [("ok".to_owned(), "is a write-ahead log: its commits can be followed".to_owned())]
    );
    world.database("delete");
    let found = findings(&world, APP, "journal", 1);
    assert!(found[0].0 == "fault" && found[0].1.contains("cannot be followed"), "the policy wants it followed: {found:?}");
    std::fs::write(world.database_file(), "no database, whatever its name").expect("own file");
    assert_eq!(findings(&world, APP, "database", 1)[0].0, "fault");
}

#[test]
fn check_disturbs_nobody_who_uses_the_database() {
    let world = World::new("", "");
    let program = Connection::open(world.database_file()).expect("own database");
    program.execute_batch("PRAGMA journal_mode = wal; INSERT INTO user VALUES ('b')").expect("SQL");
    dirs::give_tree(&world.host.dir().join("data"));
    assert_eq!(findings(&world, APP, "database", 0)[0].0, "ok");
    program.execute_batch("INSERT INTO user VALUES ('c')").expect("SQL");
    let count: i64 = program.query_row("SELECT count(*) FROM user", [], |row| row.get(0)).expect("a number");
    assert_eq!(count, 3);
}
