//! A cluster with tables large enough for pages to matter, and comparisons of what was restored with what was there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::postgres::{Installation, Options};
use crate::support::scenario::{SOURCE, Scenario};

/// Rows of the table: about 30 MB.
pub const ROWS: u32 = 200_000;

/// A cluster with a table, an index and a full backup.
pub fn start(options: &Options) -> Option<Scenario> {
    start_on(15, options)
}

/// [`start`] on another major.
pub fn start_on(major: u32, options: &Options) -> Option<Scenario> {
    let installation = Installation::require(major)?;
    let scenario = Scenario::start(&installation, &options.clone().with("autovacuum = off"));
    scenario.cluster.sql().execute(&format!(
        "CREATE TABLE stock AS SELECT n AS item, md5(n::text) AS name, 0 AS moves FROM generate_series(1, {ROWS}) AS n;
         ALTER TABLE stock ADD PRIMARY KEY (item);
         CREATE TABLE still AS SELECT n, md5(n::text) FROM generate_series(1, 50000) AS n;"
    ));
    scenario.cluster.sql().execute("VACUUM (ANALYZE, FREEZE)");
    scenario.full_backup();
    Some(scenario)
}

/// Gives the source a policy with this `[backup]`.
pub fn policy(scenario: &Scenario, backup: &str) {
    let text = format!("[objectives]\nrto = \"1h\"\nrpo = \"1h\"\n[backup]\n{backup}\n");
    scenario.protected.write("policy.toml", &text);
    let text = scenario.protected.configuration();
    if !text.contains("policy.toml") {
        scenario.protected.configure_text(&text.replace("kind = \"postgres\"", "kind = \"postgres\"\npolicy = \"policy.toml\""));
    }
}

/// Takes a backup; gives what was reported of it.
#[track_caller]
pub fn backup(scenario: &Scenario, backup_type: &str, more: &[&str]) -> Value {
    let arguments = [&["backup", SOURCE, "--type", backup_type], more].concat();
    scenario.protected.json(&arguments)["backups"][0].clone()
}

/// Takes a backup that must be of the type asked for.
#[track_caller]
pub fn exactly(scenario: &Scenario, backup_type: &str) -> Value {
    let taken = backup(scenario, backup_type, &[]);
    assert_eq!(taken["type"], backup_type, "{taken:#}");
    taken
}

/// Changes one row in `every`, scattered over the table.
pub fn scatter(scenario: &Scenario, every: u32) {
    let mut sql = scenario.cluster.sql();
    sql.execute(&format!("UPDATE stock SET moves = moves + 1 WHERE item % {every} = 0"));
}

/// Every relation file below `data`, by its relative path. Called on a quiet server right after a backup, whose start
/// wrote everything to disk, it is what the backup must hold.
pub fn relation_files(data: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for part in ["base", "global", "pg_tblspc", "pg_xact", "pg_multixact"] {
        for path in crate::support::listing::files(&data.join(part)) {
            let name = path.file_name().expect("a file").to_string_lossy().into_owned();
            // Rewritten at any time, excluded by PostgreSQL's own base backup, or checked on its own.
            if name.starts_with("pg_internal.init") || name.starts_with("pg_control") || name == "PG_VERSION" {
                continue;
            }
            // Another cluster's folder in a tablespace.
            if part == "pg_tblspc" && !path.to_string_lossy().contains("/PG_15_") {
                continue;
            }
            files.insert(path.strip_prefix(data).expect("below it").to_owned(), fs::read(&path).expect("readable"));
        }
    }
    assert!(files.len() > 500, "only {} files", files.len());
    files
}

/// Fails the test when a file is missing, left over or different.
#[track_caller]
pub fn assert_same(restored: &Path, expected: &BTreeMap<PathBuf, Vec<u8>>) {
    let found = relation_files(restored);
    let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&found), names(expected));
    for (path, content) in expected {
        let other = &found[path];
        let differs = content.chunks(8192).zip(other.chunks(8192)).position(|(a, b)| a != b);
        assert!(content.len() == other.len() && differs.is_none(), "{} differs at page {differs:?}", path.display());
    }
}

/// Restores a backup without starting it.
#[track_caller]
pub fn restore(scenario: &Scenario, id: &str, name: &str) -> PathBuf {
    scenario.restore(name, &["--backup", id, "--to-immediate"])
}
