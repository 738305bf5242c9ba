//! A cluster with one archived row and one backup, and the proof that a failure has cost nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;

use lifeboat::codec::Sha256Digest;

use crate::support::listing::{backups, contents};
use crate::support::postgres::{Installation, Options};
use crate::support::process::Output;
use crate::support::scenario::{SOURCE, Scenario};

/// A full backup.
pub const BACKUP: [&str; 4] = ["backup", SOURCE, "--type", "full"];

/// A cluster of 1 MiB segments with the row 1 in `rows`, backed up and archived.
pub fn one_row(major: u32) -> Option<Scenario> {
    let installation = Installation::require(major)?;
    let scenario = Scenario::start(&installation, &Options { wal_segment_mib: 1, ..Options::default() });
    scenario.cluster.sql().execute("CREATE TABLE rows AS SELECT 1 AS n");
    scenario.full_backup();
    scenario.archive_now();
    Some(scenario)
}

/// What was stored of backups: all but what the archiver adds by itself.
pub fn stored(scenario: &Scenario) -> BTreeMap<PathBuf, Sha256Digest> {
    let mut stored = contents(scenario.repository.path());
    stored.retain(|path, _| !path.to_string_lossy().contains("/log/"));
    stored
}

/// A backup that must be refused without a trace.
#[track_caller]
pub fn refuse_backup(scenario: &Scenario, code: i32, words: &[&str]) -> Output {
    let before = stored(scenario);
    let output = scenario.protected.run(&BACKUP).refuses(code, words);
    assert_eq!(stored(scenario), before, "a refused backup has left something\n{output}");
    output
}

/// The next backup succeeds, and it restores to all the rows.
#[track_caller]
pub fn assert_all_is_well(scenario: &Scenario, name: &str, rows: i64) {
    let before = backups(&scenario.protected).len();
    scenario.full_backup();
    assert_eq!(backups(&scenario.protected).len(), before + 1);
    let restored = scenario.restore_and_start(name, &[]);
    assert_eq!(restored.sql().number("SELECT count(*) FROM rows"), rows);
}
