//! A database dropped and made anew under the same number by copying files: the same paths, often the same inodes, hold
//! pages whose LSNs are older than the base.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::super::compare::assert_identical;
use super::super::expect::assert_type;
use super::super::judge::Pair;
use super::super::naive;
use super::super::on_majors;
use super::super::stage::{Stage, Target, run};
use super::super::support::postgres::{Options, Stop};
use super::scene;

on_majors! {
    another_template_under_the_same_number: pg15 15, pg18 18;
    moved_between_tablespaces_and_back: pg13 13, pg16 16;
}

const NUMBER: u32 = 70_000;

fn folder(stage: &Stage) -> PathBuf {
    stage.cluster.data.join(format!("base/{NUMBER}"))
}

/// Inode of every file of the database, by name.
fn inodes(stage: &Stage) -> BTreeMap<OsString, u64> {
    let entries = fs::read_dir(folder(stage)).expect("own directory").map(|entry| entry.expect("own directory"));
    entries.map(|entry| (entry.file_name(), entry.metadata().expect("own file").ino())).collect()
}

/// Drops the database and makes it anew from `template`; its files get the inodes that files of the same names had
/// before, as a file system does that hands out the freed ones first. (What cannot be had so is a new birth time: that
/// stays the old file's, so nothing but the inode's number may be relied on here.)
#[track_caller]
fn make_again(stage: &mut Stage, template: &str) {
    let kept = stage.cluster.dir().create_dir(format!("kept for {template}"));
    for name in inodes(stage).into_keys() {
        fs::hard_link(folder(stage).join(&name), kept.join(&name)).expect("own directory");
    }
    stage.run(&["DROP DATABASE target"]);
    make(stage, template);
    stage.cluster.stop(Stop::Fast);
    for name in inodes(stage).into_keys().filter(|name| kept.join(name).exists()) {
        let (new, old) = (folder(stage).join(&name), kept.join(&name));
        fs::write(&old, fs::read(&new).expect("own file")).and_then(|()| fs::rename(&old, &new)).expect("own directory");
    }
    stage.cluster.start();
}

#[track_caller]
fn make(stage: &Stage, template: &str) {
    stage.run(&[&format!("CREATE DATABASE target OID {NUMBER} TEMPLATE {template} STRATEGY file_copy")]);
}

/// Two databases with the same relation numbers and file lengths, and different rows.
#[track_caller]
fn two_templates(stage: &Stage) {
    stage.run(&["CREATE DATABASE one"]);
    let of = |name: &str| stage.cluster.conninfo_of(name);
    let fill = [
        "CREATE TABLE same (id int PRIMARY KEY, k int) WITH (fillfactor = 45)",
        "INSERT INTO same SELECT n, 1 FROM generate_series(1, 12000) n",
        "CREATE INDEX ON same (k)",
        "VACUUM same",
    ];
    run(&of("one"), &fill);
    let strategy = if stage.cluster.installation.major >= 15 { " STRATEGY file_copy" } else { "" };
    stage.run(&[&format!("CREATE DATABASE two TEMPLATE one{strategy}")]);
    run(&of("two"), &["UPDATE same SET k = 2 WHERE id % 2 = 0", "VACUUM same"]);
    stage.run(&["CHECKPOINT"]);
}

fn another_template_under_the_same_number(major: u32) {
    let Some(mut stage) = scene(major, &Options { checksums: major != 18, ..Options::default() }.with("wal_log_hints = on"))
    else {
        return;
    };
    two_templates(&stage);
    make(&stage, "one");
    let base = Pair::quiet(&stage, "full");
    let before = inodes(&stage);
    make_again(&mut stage, "two");
    let same = inodes(&stage).iter().filter(|(name, inode)| before.get(*name) == Some(inode)).count();
    println!("{same} of {} files have the path and the inode of another file in the base", before.len());
    assert!(same > 200, "only {same} of {} inodes are the old ones", before.len());
    let reborn = Pair::quiet(&stage, "incr");
    assert_type(&reborn.ours, "incr");

    // The trap is there: page LSNs alone would keep the old database's pages.
    let old = stage.restore(&stage.twin, &base.twin, &Target::Immediate, &[], "old");
    let wrong = stage.restore(&stage.twin, &reborn.twin, &Target::Immediate, &[], "wrong");
    let right = stage.restore(&stage.twin, &reborn.twin, &Target::Immediate, &[], "right");
    let pages = naive::wind_back(&wrong, &old, base.ours.start_lsn);
    println!("{pages} pages would be the old database's");
    assert!(pages > 20, "there is no trap: {pages} pages");
    assert!(std::panic::catch_unwind(|| assert_identical(&wrong, &right)).is_err(), "the comparison is blind");
    ["old", "wrong", "right"].iter().for_each(|name| stage.remove(name));

    // Back to the first template: what the base of the base held.
    make_again(&mut stage, "one");
    let back = Pair::quiet(&stage, "incr");
    stage.run(&["DROP DATABASE target"]);
    let gone = Pair::quiet(&stage, "diff");
    [base, reborn, back, gone].iter().for_each(|pair| pair.judge(&stage));
}

/// `ALTER DATABASE … SET TABLESPACE` copies files as they are.
fn moved_between_tablespaces_and_back(major: u32) {
    let Some(stage) = scene(major, &Options::default()) else { return };
    two_templates(&stage);
    let place = stage.cluster.dir().create_dir("elsewhere");
    stage.run(&[&format!("CREATE TABLESPACE elsewhere LOCATION '{}'", place.display())]);
    let base = Pair::quiet(&stage, "full");
    stage.run(&["ALTER DATABASE one SET TABLESPACE elsewhere"]);
    let away = Pair::quiet(&stage, "incr");
    assert_type(&away.ours, "incr");
    run(&stage.cluster.conninfo_of("one"), &["UPDATE same SET k = 3 WHERE id % 3 = 0"]);
    stage.run(&["ALTER DATABASE one SET TABLESPACE pg_default"]);
    let back = Pair::quiet(&stage, "incr");
    let (swap, strategy) = ("ALTER DATABASE", if major >= 15 { " STRATEGY file_copy" } else { "" });
    stage.run(&[
        &format!("{swap} one RENAME TO three"),
        &format!("{swap} two RENAME TO one"),
        &format!("CREATE DATABASE two TEMPLATE three{strategy}"),
    ]);
    let renamed = Pair::quiet(&stage, "diff");
    [base, away, back, renamed].iter().for_each(|pair| pair.judge(&stage));
}
