//! Memory of `backup` and of `restore` does not grow with the database: measured on two sizes of one cluster.

mod support;

use support::postgres::{Installation, Options, RECOVERY_TIMEOUT};
use support::process;
use support::scenario::{SOURCE, Scenario};

/// Rows of about 1 kB that hardly compress: 32 MB.
const FIRST_ROWS: u32 = 30_000;

/// How often the rows are doubled before each measurement: to about 270 MB, which fills every buffer, and to 1.1 GB.
const DOUBLINGS: [u32; 2] = [3, 2];

/// What a run may need, whatever the database's size: less than the 256 MiB promised. A quiet machine needs 110, a busy one,
/// on which more waits in buffers at one moment, has needed 137.
const LIMIT_KIB: u64 = 192 << 10;

/// Doubles the rows. Their copies lie far apart, where a frame's compression cannot see them.
fn double(scenario: &Scenario, doublings: u32) {
    let mut sql = scenario.cluster.sql();
    // This log is of no use to any restore.
    scenario.cluster.configure(["archive_command = 'true'"]);
    process::wait_until("the setting is read", RECOVERY_TIMEOUT, || sql.value("SHOW archive_command") == "true");
    for _ in 0..doublings {
        sql.execute("INSERT INTO ballast SELECT * FROM ballast");
    }
    sql.execute("CHECKPOINT");
    scenario.archive_now();
    scenario.cluster.configure([scenario.protected.archive_command(SOURCE)]);
}

#[test]
fn memory_does_not_grow_with_the_database() {
    let Some(installation) = Installation::require(15) else { return };
    let scenario = Scenario::start(&installation, &Options::default().with("max_wal_size = 4GB"));
    // As on a host of four cores and more.
    scenario.add_sections("[backup]\nworkers = 4\n");
    scenario.cluster.sql().execute(&format!(
        "CREATE TABLE ballast AS SELECT n, string_agg(sha512((n::text || '-' || part::text)::bytea), ''::bytea) AS bytes
         FROM generate_series(1, {FIRST_ROWS}) AS n, generate_series(1, 16) AS part GROUP BY n"
    ));
    let backup = ["backup", SOURCE, "--type", "full"];
    let restore = |name: &str| {
        let into = scenario.restored.join(name);
        let peak = scenario.rescue.peak_kib(&["restore", SOURCE, "--to-immediate", "--into", into.to_str().expect("plain")]);
        std::fs::remove_dir_all(&into).expect("own directory");
        peak
    };
    double(&scenario, DOUBLINGS[0]);
    let small = (scenario.protected.peak_kib(&backup), restore("small"));
    double(&scenario, DOUBLINGS[1]);
    let large = (scenario.protected.peak_kib(&backup), restore("large"));
    let bytes = scenario.cluster.sql().number("SELECT pg_table_size('ballast')");
    assert!(bytes > 800 << 20, "the large database has {bytes} bytes only");
    println!("peak KiB of backup and restore: {small:?} on the small database, {large:?} on the large one");
    for (what, small, large) in [("backup", small.0, large.0), ("restore", small.1, large.1)] {
        assert!(large <= small + small / 4 + (16 << 10), "{what}: {small} KiB grew to {large} KiB with the database");
        assert!(large < LIMIT_KIB, "{what} needs {large} KiB");
    }
}
