//! Restores into what is there already.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::stage;
use crate::support::dirs::Dir;
use crate::support::postgres::{Cluster, Installation, Options, Stop};
use crate::support::process::Output;
use crate::support::scenario::{SOURCE, Scenario};

fn arguments<'a>(into: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let into = into.to_str().expect("plain");
    [&["restore", SOURCE, "--into", into, "--delta", "--clone"], more].concat()
}

/// A restore with `--delta`; gives what was reported.
#[track_caller]
fn delta(scenario: &Scenario, into: &Path, more: &[&str]) -> Value {
    scenario.rescue.json(&arguments(into, more))
}

#[track_caller]
fn refused(scenario: &Scenario, into: &Path, more: &[&str]) -> Output {
    let before = crate::support::listing::contents(into);
    let output = scenario.rescue.run(&arguments(into, more));
    assert_eq!(crate::support::listing::contents(into), before, "a refusal touches nothing");
    output
}

/// A chain of a full and two incrs, and a fresh restore of it.
fn restored_chain() -> Option<(Scenario, PathBuf)> {
    let scenario = stage::start(&Options::default())?;
    let fresh = chain_on(&scenario);
    Some((scenario, fresh))
}

/// Two incrs, and a fresh restore of them.
fn chain_on(scenario: &Scenario) -> PathBuf {
    for every in [300, 70] {
        stage::scatter(scenario, every);
        stage::exactly(scenario, "incr");
    }
    scenario.restore("fresh", &["--clone", "--to-immediate"])
}

#[test]
fn what_does_not_differ_is_not_written() {
    let Some(scenario) = stage::start(&Options::default()) else { return };
    // Of a part of a file of which only pages were read it is not known what all of it is.
    stage::policy(&scenario, "changed_pages = \"read\"");
    chain_on(&scenario);
    let into = scenario.restored.join("again");
    let first = delta(&scenario, &into, &["--to-immediate"]);
    assert_eq!(first["written_bytes"], first["write_bytes"], "into nothing everything is written: {first:#}");
    let second = delta(&scenario, &into, &["--to-immediate"]);
    let written = second["written_bytes"].as_u64().expect("a number");
    assert!(written < 64 << 10, "{written} bytes were written again");
    let expected = stage::relation_files(&scenario.restored.join("fresh"));
    stage::assert_same(&into, &expected);
}

#[test]
fn one_page_that_differs_is_fetched_alone() {
    let Some((scenario, fresh)) = restored_chain() else { return };
    let expected = stage::relation_files(&fresh);
    let table = expected.keys().max_by_key(|path| expected[*path].len()).expect("the table").clone();
    let file = fs::File::options().write(true).open(fresh.join(&table)).expect("there");
    file.write_all_at(b"a page that nobody wrote", 5_000_000).expect("writable");
    let report = delta(&scenario, &fresh, &["--to-immediate"]);
    assert!(report["written_bytes"].as_u64().expect("a number") < 512 << 10, "{report:#}");
    stage::assert_same(&fresh, &expected);
}

#[test]
fn whatever_was_done_to_a_directory_is_undone() {
    let Some((scenario, fresh)) = restored_chain() else { return };
    let expected = stage::relation_files(&fresh);
    let into = scenario.restore("used", &["--clone"]);
    let mut cluster = scenario.open(&into);
    cluster.sql().execute("DELETE FROM stock WHERE item % 3 = 0; CREATE TABLE junk AS SELECT * FROM stock; DROP TABLE still");
    cluster.sql().execute("CHECKPOINT");
    cluster.stop(Stop::Fast);
    drop(cluster);
    let table = expected.keys().max_by_key(|path| expected[*path].len()).expect("the table").clone();
    let file = fs::File::options().write(true).open(into.join(&table)).expect("there");
    file.write_all_at(b"a page that nobody wrote", 300_000).expect("writable");
    file.set_len(file.metadata().expect("there").len() - 8192 * 3).expect("writable");
    fs::write(into.join("base/99999"), b"a file where a directory might be").expect("writable");
    fs::create_dir(into.join("left over")).expect("writable");
    fs::write(into.join("left over/file"), b"").expect("writable");
    crate::support::dirs::give_tree(&into.join("left over"));
    fs::remove_file(into.join("pg_hba.conf")).expect("there");
    fs::create_dir(into.join("pg_hba.conf")).expect("writable");
    let report = delta(&scenario, &into, &["--to-immediate"]);
    assert!(report["written_bytes"].as_u64() < report["write_bytes"].as_u64(), "{report:#}");
    stage::assert_same(&into, &expected);
    let all = |dir: &Path| {
        let files = crate::support::listing::contents(dir).into_iter();
        let relative = files.map(|(path, digest)| (path.strip_prefix(dir).expect("below").to_owned(), digest));
        relative.filter(|(path, _)| !path.ends_with("postgresql.auto.conf")).collect::<Vec<_>>()
    };
    assert_eq!(all(&into), all(&fresh), "nothing is left over and nothing is missing");
    let cluster = scenario.open(&into);
    assert_eq!(cluster.sql().number("SELECT count(*) FROM stock"), i64::from(stage::ROWS));
    crate::support::amcheck::assert_clean(&cluster);
}

#[test]
fn in_a_tablespace_only_what_is_of_this_cluster_is_touched() {
    let Some(scenario) = stage::start(&Options::default()) else { return };
    let (there, here) = (Dir::new(), Dir::new());
    let mut sql = scenario.cluster.sql();
    sql.execute(&format!("CREATE TABLESPACE space LOCATION '{}'", there.path().display()));
    sql.execute("CREATE TABLE apart TABLESPACE space AS SELECT n, md5(n::text) FROM generate_series(1, 20000) AS n");
    drop(sql);
    scenario.full_backup();
    let expected = stage::relation_files(&scenario.cluster.data);
    let moved = format!("{}={}", there.path().display(), here.path().display());
    let mapped = ["--to-immediate", "--tablespace", &moved];
    let into = scenario.restore("apart", &[&["--clone"], &mapped[..]].concat());
    // What pg_upgrade leaves there for the new cluster, and damage to what is ours.
    let other = here.join("PG_99_209901011/5");
    fs::create_dir_all(&other).expect("writable");
    fs::write(other.join("16384"), b"another cluster's").expect("writable");
    let ours = crate::support::listing::files(here.path()).into_iter().find(|path| !path.starts_with(&other)).expect("a file");
    fs::write(&ours, b"damaged").expect("writable");
    fs::write(ours.with_file_name("99999"), b"left over").expect("writable");
    crate::support::dirs::give_tree(here.path());
    delta(&scenario, &into, &mapped);
    stage::assert_same(&into, &expected);
    assert_eq!(fs::read(other.join("16384")).expect("still there"), b"another cluster's");
    // A copy of the running server's directory: its links lead to the server's own tablespaces.
    let copy = scenario.restored.join("copy");
    crate::support::dirs::copy_tree(&scenario.cluster.data, &copy);
    fs::remove_file(copy.join("postmaster.pid")).expect("a server's");
    crate::support::dirs::give_tree(&copy);
    refused(&scenario, &copy, &["--to-immediate", "--discard-log"]).refuses(1, &["in use by a running", "--tablespace"]);
    let elsewhere = Dir::new();
    fs::write(elsewhere.join("file"), b"somebody's").expect("writable");
    let taken = format!("{}={}", there.path().display(), elsewhere.path().display());
    refused(&scenario, &into, &["--to-immediate", "--tablespace", &taken]).refuses(1, &["is not empty"]);
}

#[test]
fn a_half_restore_goes_on_from_what_is_there() {
    let Some((scenario, fresh)) = restored_chain() else { return };
    let expected = stage::relation_files(&fresh);
    for point in ["restore.marked", "restore.created", "restore.pack-written", "restore.configured", "restore.synced"] {
        let into = scenario.restored.join(point);
        let text = into.to_str().expect("plain");
        let plain = ["restore", SOURCE, "--into", text, "--clone", "--to-immediate"];
        scenario.rescue.run_killed_at(point, &plain).killed();
        delta(&scenario, &into, &["--to-immediate"]);
        stage::assert_same(&into, &expected);
        // And a delta that is killed in turn.
        scenario.rescue.run_killed_at("restore.cleared", &arguments(&into, &["--to-immediate"])).killed();
        let mut cluster = Cluster::open(&scenario.cluster.installation, &into);
        cluster.launch();
        assert_ne!(cluster.wait_exit(std::time::Duration::from_secs(20)).0, Some(0), "a half restore does not start");
        scenario.rescue.run(&plain).refuses(1, &["unfinished restore", "--delta"]);
        delta(&scenario, &into, &["--to-immediate"]);
        stage::assert_same(&into, &expected);
        fs::remove_dir_all(&into).expect("own directory");
    }
}

#[test]
fn other_directories_are_refused_untouched() {
    let Some((scenario, _)) = restored_chain() else { return };
    let installation = Installation::require(15).expect("used above");
    let immediate = ["--to-immediate"];
    let strange = scenario.restored.join("strange");
    fs::create_dir(&strange).expect("writable");
    fs::write(strange.join("thesis.txt"), b"ten years of work").expect("writable");
    refused(&scenario, &strange, &immediate).refuses(1, &["no PostgreSQL data directory"]);
    let other = Cluster::create(&installation, &Options::default());
    refused(&scenario, &other.data, &immediate).refuses(1, &["another cluster"]);
    let live = scenario.restore_and_start("live", &["--to-immediate"]);
    scenario.rescue.run(&arguments(&live.data, &immediate)).refuses(1, &["running"]);
    drop(live);
    // The log of the last minutes, which only this disk has.
    let into = scenario.restored.join("live");
    fs::write(into.join("pg_wal/archive_status/0000000100000000000000AA.ready"), b"").expect("writable");
    refused(&scenario, &into, &immediate).refuses(1, &["never archived", "0000000100000000000000AA", "--discard-log"]);
    delta(&scenario, &into, &["--to-immediate", "--discard-log"]);
    // A server that ended without a word leaves its last segment unmarked.
    let mut cluster = scenario.open(&into);
    cluster.sql().execute("CREATE TABLE last_words ()");
    cluster.kill9();
    drop(cluster);
    refused(&scenario, &into, &immediate).refuses(1, &["never archived", "-w start", "--discard-log"]);
    delta(&scenario, &into, &["--to-immediate", "--discard-log"]);
}
