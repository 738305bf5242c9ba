//! What is no standby of the source is not touched, and a source that lives is not doubled.

use super::stage::{Standby, archive, promote, scenario};
use super::support::scenario::SOURCE;

#[test]
fn a_source_that_lives_is_not_doubled() {
    let Some(scenario) = scenario(15) else { return };
    scenario.cluster.sql().execute("CREATE TABLE kept AS SELECT 1 AS n");
    scenario.full_backup();
    archive(&scenario.cluster);
    let standby = Standby::start(&scenario, "standby", &[], &[]);
    let refused = standby.promote(&scenario, &[]);
    refused.refuses(1, &["the source orders lives: its server takes writes", "on timeline 1", "stop it first", "--force"]);
    assert!(standby.in_recovery());
    let document = standby.promoted(&scenario, &["--force"]);
    assert!(document["notes"].to_string().contains("two servers take writes"), "{document}");
    assert_eq!(scenario.cluster.sql().value("SELECT pg_is_in_recovery()"), "f");
}

#[test]
fn what_is_no_standby_of_it_is_not_touched() {
    let Some(scenario) = scenario(15) else { return };
    scenario.full_backup();
    archive(&scenario.cluster);
    let promote =
        |source: &str, dir: &std::path::Path| scenario.rescue.run(&["promote", source, "--dir", &dir.display().to_string()]);
    promote(SOURCE, &scenario.cluster.data).refuses(1, &["is no standby of orders: a server runs there that takes writes"]);
    promote(SOURCE, scenario.restored.path()).refuses(1, &["is no PostgreSQL data directory"]);
    let plain = scenario.restore("plain", &["--clone"]);
    promote(SOURCE, &plain).refuses(1, &["is no standby of orders: it was not restored as a standby", "--standby"]);
    let data = scenario.restore("standby", &["--standby"]);
    promote("others", &data).refuses(1, &["is a standby of orders, not of others", "lifeboat promote orders --dir"]);
    scenario.rescue.run(&["promote", SOURCE]).refuses(2, &["where the standby of orders is", "standby = \"DIR\""]);
    assert!(scenario.rescue.run(&["promote"]).exits(2).stderr.contains("<SOURCE>"));
    assert!(data.join("standby.signal").exists() && scenario.cluster.sql().value("SELECT pg_is_in_recovery()") == "f");

    let into = scenario.restored.join("moment").display().to_string();
    let restore = |more: &[&str]| scenario.rescue.run(&[&["restore", SOURCE, "--into", &into, "--standby"], more].concat());
    restore(&["--to", "2020-01-01 00:00:00Z"]).refuses(2, &["a standby follows the archive", "lifeboat promote --to TIME"]);
    assert!(restore(&["--to-xid", "700"]).exits(2).stderr.contains("cannot be used with"));
    let lags_alone = scenario.rescue.run(&["restore", SOURCE, "--into", &into, "--delay", "1h"]).exits(2);
    assert!(lags_alone.stderr.contains("--standby"), "{lags_alone}");
    assert!(!std::path::Path::new(&into).exists());
    // A backup of a promoted standby is no standby, whatever lay beside it.
    std::fs::write(scenario.cluster.data.join("lifeboat-standby.json"), "{}").expect("own directory");
    scenario.full_backup();
    assert!(!scenario.restore("copy", &["--clone"]).join("lifeboat-standby.json").exists());
}

/// A server that was stopped, or never started, is promoted all the same.
#[test]
fn a_standby_that_does_not_run_is_started() {
    let Some(mut scenario) = scenario(15) else { return };
    scenario.cluster.sql().execute("CREATE TABLE kept AS SELECT 1 AS n");
    scenario.full_backup();
    scenario.cluster.sql().execute("INSERT INTO kept VALUES (2)");
    super::stage::lose_source(&mut scenario);
    let mut standby = Standby::start(&scenario, "standby", &[], &[]);
    standby.cluster.stop(super::support::postgres::Stop::Fast);
    let document = standby.promoted(&scenario, &[]);
    assert_eq!(document["way"], "restart");
    assert_eq!(standby.cluster.sql().number("SELECT sum(n) FROM kept"), 3);
}

/// Declared by the connection string to its server, which is down when it matters.
#[test]
fn a_standby_is_found_where_its_server_was_seen_last() {
    let Some(mut scenario) = scenario(15) else { return };
    scenario.cluster.sql().execute("CREATE TABLE kept AS SELECT 1 AS n");
    scenario.full_backup();
    super::stage::lose_source(&mut scenario);
    let mut standby = Standby::start(&scenario, "standby", &[], &[]);
    let declared = format!("kind = \"postgres\"\nstandby = \"{}\"", standby.cluster.conninfo());
    let text = scenario.rescue.configuration();
    scenario.rescue.configure_text(&text.replace("kind = \"postgres\"", &declared));
    promote(&scenario, &["--dry-run"]).success();
    standby.cluster.stop(super::support::postgres::Stop::Fast);
    let output = promote(&scenario, &["--output", "json"]).success();
    assert!(output.stderr.contains("it does not answer") && output.stdout.contains("restart"), "{output}");
    assert_eq!((standby.in_recovery(), standby.cluster.sql().number("SELECT sum(n) FROM kept")), (false, 1));
    // It is one no longer.
    let again = promote(&scenario, &[]);
    assert_ne!(again.code, Some(0), "{again}");
}

/// The archive left timeline 1 ahead of a standby that lags, and has more log of it than of timeline 2: what counts is the
/// way, not how far a position is.
#[test]
fn a_lagging_standby_goes_the_way_of_the_archive() {
    let Some(mut scenario) = scenario(15) else { return };
    scenario.cluster.sql().execute("CREATE TABLE kept (n int)");
    scenario.full_backup();
    archive(&scenario.cluster);
    let standby = Standby::start(&scenario, "standby", &["--delay", "1h"], &[]);
    scenario.cluster.sql().execute("INSERT INTO kept VALUES (1)");
    scenario.cluster.sql().value("SELECT pg_create_restore_point('good')");
    scenario.cluster.sql().execute("DELETE FROM kept");
    for _ in 0..4 {
        archive(&scenario.cluster);
    }
    super::stage::lose_source(&mut scenario);
    let data = scenario.restore("elsewhere", &["--to-name", "good"]);
    let mut second = scenario.open(&data);
    second.sql().execute("INSERT INTO kept VALUES (2)");
    archive(&second);
    second.stop(super::support::postgres::Stop::Fast);
    let document = standby.promoted(&scenario, &[]);
    assert_eq!((&document["way"], &document["timeline"]), (&"restart".into(), &3.into()), "{document}");
    assert_eq!(standby.cluster.sql().number("SELECT sum(n) FROM kept"), 3);
}
