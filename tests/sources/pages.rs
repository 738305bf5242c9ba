//! Pages that were damaged on the protected host: kept and reported, or a reason to have no backup.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use super::support::majors::on_majors;
use super::support::postgres::Stop;
use super::support::scenario::{SOURCE, Scenario};
use super::{backups, scenario};

on_majors! {
    bad_pages_are_reported_or_refused: pg15 15, pg17 17;
}

const PAGE_BYTES: u64 = 8192;

/// Flips one bit in a page of `relation`, behind the server's back.
fn flip_a_bit(scenario: &mut Scenario, relation: &str, block: u64) {
    let mut sql = scenario.cluster.sql();
    sql.execute("CHECKPOINT");
    let path = scenario.cluster.data.join(sql.value(&format!("SELECT pg_relation_filepath('{relation}')")));
    drop(sql);
    scenario.cluster.stop(Stop::Fast);
    let file = OpenOptions::new().read(true).write(true).open(&path).expect("own file");
    let mut byte = [0];
    let at = block * PAGE_BYTES + 5000;
    file.read_exact_at(&mut byte, at).expect("the page is there");
    file.write_all_at(&[byte[0] ^ 0x10], at).expect("own file");
    scenario.cluster.start();
}

fn bad_pages_are_reported_or_refused(major: u32) {
    let Some(mut scenario) = scenario(major) else { return };
    scenario.cluster.sql().execute(
        "CREATE TABLE damaged AS SELECT n, repeat('d', 300) t FROM generate_series(1, 2000) n;
         CREATE TABLE whole AS SELECT n FROM generate_series(1, 2000) n",
    );
    scenario.full_backup();
    flip_a_bit(&mut scenario, "damaged", 3);
    flip_a_bit(&mut scenario, "damaged", 40);

    let output = scenario.protected.run(&["backup", SOURCE, "--type", "full", "--page-errors", "fail"]).exits(22);
    assert!(output.stderr.contains("2 pages of orders fail their checksum"), "{output}");
    assert!(output.stderr.contains("the backup before this one may hold them intact"), "{output}");
    assert_eq!(backups(&scenario.rescue).len(), 1, "a refused backup is listed");

    let output = scenario.protected.ok(&["backup", SOURCE, "--type", "full"]);
    assert!(output.stderr.contains("warning") && output.stderr.contains("2 pages of orders fail their checksum"), "{output}");
    let taken = backups(&scenario.rescue);
    assert_eq!(taken.iter().map(|backup| backup["bad_pages"].as_u64()).collect::<Vec<_>>(), [Some(0), Some(2)]);
    let listed = scenario.rescue.ok(&["list", SOURCE]).stdout;
    assert_eq!(listed.matches("2 bad pages").count(), 1, "{listed}");

    // The damage is kept as it is, and the backup before it is intact.
    let restored = scenario.restore_and_start("damaged", &[]);
    let error = restored.sql().try_rows("SELECT count(t) FROM damaged").expect_err("the page is damaged");
    assert!(error.message.contains("invalid page"), "{error}");
    assert_eq!(restored.sql().number("SELECT count(*) FROM whole"), 2000);
    let id = taken[0]["id"].as_str().expect("an id");
    let restored = scenario.restore_and_start("intact", &["--backup", id, "--to-immediate"]);
    assert_eq!(restored.sql().number("SELECT count(t) FROM damaged"), 2000);
}
