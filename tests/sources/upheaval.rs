//! A backup while files grow, shrink and vanish under it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::support::amcheck;
use super::support::ledger::{Ledger, LoadOptions};
use super::support::majors::on_majors;
use super::support::postgres::{Options, RECOVERY_TIMEOUT};
use super::support::random;
use super::support::scenario::Scenario;
use super::support::sql::{Sql, SqlError};

on_majors! {
    files_may_grow_shrink_and_vanish: pg15 15, pg18 18;
}

/// Between two rounds, so that the archive can follow.
const REST: Duration = Duration::from_millis(40);

/// Each with its own connection, over and over again.
const UPHEAVALS: [&str; 4] = [
    "CREATE TABLE dropped AS SELECT n, repeat('d', 500) t FROM generate_series(1, 1500) n; DROP TABLE dropped",
    "INSERT INTO truncated SELECT n, repeat('t', 300) FROM generate_series(1, 1500) n; TRUNCATE truncated",
    "UPDATE rewritten SET t = t || 'x' WHERE n % 7 = 0; VACUUM FULL rewritten; CHECKPOINT",
    "INSERT INTO shrinking SELECT n, repeat('s', 300) FROM generate_series(1, 2000) n; DELETE FROM shrinking; VACUUM shrinking",
];

fn files_may_grow_shrink_and_vanish(major: u32) {
    let Some(scenario) = Scenario::on(major, &Options::default()) else { return };
    let seed = random::seed("upheaval");
    scenario.cluster.sql().execute(
        "CREATE TABLE truncated (n int, t text); CREATE TABLE shrinking (n int, t text);
         CREATE TABLE rewritten (n int PRIMARY KEY, t text);
         INSERT INTO rewritten SELECT n, repeat('r', 100) FROM generate_series(1, 5000) n;
         CREATE TABLE still AS SELECT n, md5(n::text) t FROM generate_series(1, 60000) n; CREATE INDEX ON still (t)",
    );
    let mut ledger = Ledger::create(&scenario.cluster, seed);
    let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let start = |sql: &'static str| -> JoinHandle<Result<(), SqlError>> {
        let (conninfo, stop, rounds) = (scenario.cluster.conninfo(), stop.clone(), rounds.clone());
        std::thread::spawn(move || {
            let mut connection = Sql::connect(&conninfo)?;
            while !stop.load(Ordering::Relaxed) {
                // One statement a time: VACUUM runs in no transaction block.
                sql.split("; ").try_for_each(|statement| connection.try_execute(statement))?;
                rounds.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(REST);
            }
            Ok(())
        })
    };
    let upheavals: Vec<_> = UPHEAVALS.into_iter().map(start).collect();
    let load = ledger.start(LoadOptions { writers: 2, ..LoadOptions::default() });
    for _ in 0..2 {
        scenario.full_backup();
    }
    std::thread::sleep(Duration::from_millis(300));
    load.stop();
    stop.store(true, Ordering::Relaxed);
    for upheaval in upheavals {
        upheaval.join().expect("no panic").unwrap_or_else(|error| panic!("{error}"));
    }
    println!("{} upheavals", rounds.load(Ordering::Relaxed));
    assert!(rounds.load(Ordering::Relaxed) > 20, "too little happened");
    ledger.commit_one();
    let segment = scenario.cluster.switch_wal();
    scenario.cluster.wait_archived(&segment, RECOVERY_TIMEOUT);

    let oracle = ledger.oracle();
    for (number, backup) in super::backups(&scenario.rescue).iter().enumerate() {
        let id = backup["id"].as_str().expect("an id");
        let restored = scenario.restore_and_start(&format!("latest-{number}"), &["--backup", id]);
        oracle.assert_tables(&mut restored.sql(), &oracle.rows_at_end(), "at the end");
        assert_eq!(restored.sql().number("SELECT count(*) FROM still WHERE t = md5(n::text)"), 60000);
        assert_eq!(restored.sql().number("SELECT count(*) FROM rewritten"), 5000);
        amcheck::assert_clean(&restored);
        drop(restored);
        let restored = scenario.restore_and_start(&format!("immediate-{number}"), &["--backup", id, "--to-immediate"]);
        amcheck::assert_clean(&restored);
    }
}
