//! Tablespaces, with spaces and other letters in every path, are restored elsewhere, and nothing is ever overwritten.

use std::fs;
use std::path::{Path, PathBuf};

use super::scenario;
use super::support::amcheck;
use super::support::dirs;
use super::support::majors::on_majors;
use super::support::postgres::Stop;
use super::support::scenario::{SOURCE, Scenario};

on_majors! {
    tablespaces_are_restored_elsewhere: pg13 13, pg15 15;
    a_data_directory_with_an_odd_name: pg15 15, pg18 18;
}

const ODD: &str = "Größe – Plätze 空間";

fn filled_tablespace(scenario: &Scenario, name: &str, directory: &str) -> PathBuf {
    let place = scenario.cluster.dir().create_dir(directory);
    let mut sql = scenario.cluster.sql();
    sql.execute(&format!("CREATE TABLESPACE {name} LOCATION '{}'", place.display()));
    sql.execute(&format!(
        "CREATE TABLE in_{name} (n int PRIMARY KEY, t text) TABLESPACE {name};
         INSERT INTO in_{name} SELECT n, repeat('x', n % 90) FROM generate_series(1, 5000) n;
         CREATE INDEX ON in_{name} (t) TABLESPACE {name}"
    ));
    place
}

fn mapping(old: &Path, new: &Path) -> String {
    format!("{}={}", old.display(), new.display())
}

/// A restore that must fail with `code` and write nothing; returns what it said.
#[track_caller]
fn refused(scenario: &Scenario, code: i32, arguments: &[&str]) -> String {
    let into = scenario.restored.join("refused");
    let output = scenario.rescue.run(&[&["restore", SOURCE, "--into", &into.display().to_string()], arguments].concat());
    let said = output.exits(code).stderr;
    assert!(!into.exists(), "refused, but {} is there", into.display());
    said
}

fn tablespaces_are_restored_elsewhere(major: u32) {
    let Some(mut scenario) = scenario(major) else { return };
    let (plain, odd) = (filled_tablespace(&scenario, "plain", "fast"), filled_tablespace(&scenario, "odd", ODD));
    scenario.full_backup();
    scenario.cluster.sql().execute("INSERT INTO in_odd SELECT n, 'later' FROM generate_series(6001, 7000) n");
    scenario.full_backup();

    // The old places are in use: they are another cluster's.
    let said = refused(&scenario, 1, &[]);
    assert!(said.contains("is not empty") && said.contains("place it elsewhere: --tablespace '"), "{said}");
    let (new_plain, new_odd) = (scenario.restored.join("plain"), scenario.restored.join(format!("{ODD} neu")));
    let to_plain = mapping(&plain, &new_plain);
    let said = refused(&scenario, 1, &["--tablespace", &to_plain]);
    assert!(said.contains(&odd.display().to_string()) && said.contains("is not empty"), "{said}");
    assert!(!new_plain.exists(), "nothing is written before everything is known to fit");
    let to_odd = mapping(&odd, &new_odd);
    let stranger = mapping(Path::new("/nowhere/at all"), Path::new("/tmp/x"));
    let said = refused(&scenario, 2, &["--tablespace", &to_plain, "--tablespace", &to_odd, "--tablespace", &stranger]);
    assert!(said.contains("no tablespace at /nowhere/at all") && said.contains(&plain.display().to_string()), "{said}");
    let same = mapping(&odd, &new_plain);
    let said = refused(&scenario, 2, &["--tablespace", &to_plain, "--tablespace", &same]);
    assert!(said.contains("would share"), "{said}");

    let restored = scenario.restore_and_start("elsewhere", &["--tablespace", &to_plain, "--tablespace", &to_odd]);
    let mut sql = restored.sql();
    assert_eq!(sql.number("SELECT count(*) FROM in_plain"), 5000);
    assert_eq!(sql.number("SELECT count(*) FROM in_odd"), 6000);
    let location = |name| format!("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = '{name}'");
    assert_eq!(sql.value(&location("odd")), new_odd.display().to_string());
    assert_eq!(sql.value(&location("plain")), new_plain.display().to_string());
    sql.execute("INSERT INTO in_odd VALUES (0, 'writable'); CHECKPOINT");
    amcheck::assert_clean(&restored);
    drop(restored);

    // The host was lost: at the old places there is room, and no mapping is needed.
    scenario.cluster.stop(Stop::Fast);
    for place in [&plain, &odd] {
        fs::remove_dir_all(place).expect("own directory");
    }
    fs::create_dir(&plain).expect("own directory");
    dirs::give(&plain);
    let restored = scenario.restore_and_start("in-place", &[]);
    assert_eq!(restored.sql().number("SELECT count(*) FROM in_odd"), 6000);
    amcheck::assert_clean(&restored);
}

/// Both the protected and the restored data directory have spaces and letters beyond ASCII in their names.
fn a_data_directory_with_an_odd_name(major: u32) {
    let Some(mut scenario) = scenario(major) else { return };
    scenario.cluster.stop(Stop::Fast);
    let odd = scenario.cluster.dir().join(ODD);
    fs::rename(&scenario.cluster.data, &odd).expect("own directory");
    scenario.cluster.data = odd;
    scenario.cluster.start();
    scenario.cluster.sql().execute("CREATE TABLE t AS SELECT generate_series(1, 1000) n");
    scenario.full_backup();
    let restored = scenario.restore_and_start(&format!("{ODD} 'zurück'"), &["--to", "latest"]);
    assert_eq!(restored.sql().number("SELECT count(*) FROM t"), 1000);
    amcheck::assert_clean(&restored);
}
