//! Chains restore to exactly what was there, and store little more than what changed.

use crate::stage::{self, ROWS};
use crate::support::amcheck;
use crate::support::postgres::Options;

#[test]
fn every_backup_of_a_chain_restores_to_the_files_it_was_taken_from() {
    let Some(scenario) = stage::start(&Options::default()) else { return };
    let data = scenario.cluster.data.clone();
    let mut taken = Vec::new();
    for (step, (backup_type, every)) in
        [("incr", 2000), ("incr", 1), ("diff", 7000), ("incr", 50), ("incr", 20000)].into_iter().enumerate()
    {
        stage::scatter(&scenario, every);
        if step == 1 {
            scenario.cluster.sql().execute("VACUUM stock");
            scenario.cluster.sql().execute("DELETE FROM stock WHERE item > 150000");
        }
        if step == 3 {
            scenario.cluster.sql().execute("VACUUM stock");
            scenario.cluster.sql().execute("CREATE TABLE late AS SELECT * FROM still; TRUNCATE still");
        }
        let report = stage::exactly(&scenario, backup_type);
        taken.push((report["id"].as_str().expect("an id").to_owned(), stage::relation_files(&data)));
    }
    for (number, (id, files)) in taken.iter().enumerate() {
        let restored = stage::restore(&scenario, id, &format!("chain-{number}"));
        stage::assert_same(&restored, files);
    }
    let cluster = scenario.restore_and_start("latest", &[]);
    amcheck::assert_clean(&cluster);
    assert_eq!(cluster.sql().number("SELECT count(*) FROM stock"), 150_000);
}

#[test]
fn an_incr_stores_little_more_than_the_changed_pages() {
    let Some(scenario) = stage::start(&Options::default()) else { return };
    let full = stage::exactly(&scenario, "full");
    let nothing = stage::exactly(&scenario, "incr");
    scenario.cluster.sql().execute("UPDATE stock SET moves = 1 WHERE item = 77");
    let one_row = stage::exactly(&scenario, "incr");
    stage::scatter(&scenario, ROWS / 50);
    let fifty = stage::exactly(&scenario, "incr");
    let stored = |report: &serde_json::Value| report["stored_bytes"].as_u64().expect("a number");
    println!("full {}, nothing {}, one row {}, fifty {}", stored(&full), stored(&nothing), stored(&one_row), stored(&fifty));
    assert!(stored(&nothing) < 128 << 10, "{nothing:#}");
    assert!(stored(&one_row) < stored(&nothing) + (96 << 10), "{one_row:#}");
    // Two pages a row, heap and perhaps a new one, and not the 256 KiB around each of them.
    assert!(stored(&fifty) < stored(&nothing) + 50 * (16 << 10), "{fifty:#}");
    assert!(stored(&full) > 3 << 20, "the table is large enough to tell: {full:#}");
}
