//! The visibility map's trap: with neither data checksums nor `wal_log_hints`, VACUUM marks pages all-visible and leaves
//! their LSNs as they are. Each test proves first that the trap is there, by falling into it.

use std::fs;

use super::compare::assert_identical;
use super::expect::assert_type;
use super::judge::{self, Pair};
use super::page::{ALL_VISIBLE, PAGE_BYTES, flags, lsn};
use super::stage::{Stage, Target};
use super::support::postgres::{Installation, Options, Stop};
use super::support::process;
use super::{facts, naive, on_majors, visibility};

on_majors! {
    a_vacuum_without_lsns: pg13 13, pg14 14, pg15 15, pg16 16, pg17 17, pg18 18;
    hints_logged_then_not_then_again: pg13 13, pg18 18;
    checksums_on_then_off_then_on: pg15 15;
}

const PROGRAM_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(60);

/// A stage with tables whose pages no VACUUM has seen.
fn stage(installation: &Installation, checksums: bool, hints: &str) -> Stage {
    let options = Options { checksums, ..Options::default() }.with(format!("wal_log_hints = {hints}"));
    let stage = Stage::start(installation, &options);
    stage.run(&[
        "CREATE TABLE trap (n int PRIMARY KEY, t text)",
        "INSERT INTO trap SELECT n, md5(n::text) FROM generate_series(1, 20000) n",
        "CREATE TABLE other AS SELECT n, md5(n::text) t FROM generate_series(1, 5000) n",
        "CREATE INDEX ON other (t)",
        // Whoever reads a row first sets its hint bits, and that may be logged: not what is meant here.
        "SELECT count(t) FROM trap",
        "SELECT count(t) FROM other",
        "CHECKPOINT",
    ]);
    stage
}

/// The bytes of the table `trap` on disk.
fn trap_file(stage: &Stage) -> Vec<u8> {
    stage.run(&["CHECKPOINT"]);
    let path = stage.cluster.sql().value("SELECT pg_relation_filepath('trap')");
    fs::read(stage.cluster.data.join(path)).expect("own file")
}

/// Pages that became all-visible while their LSN stayed.
fn marked_in_silence(before: &[u8], after: &[u8]) -> usize {
    let pages = before.chunks_exact(PAGE_BYTES).zip(after.chunks_exact(PAGE_BYTES));
    pages.filter(|(old, new)| lsn(old) == lsn(new) && (flags(new) & !flags(old)) & ALL_VISIBLE != 0).count()
}

/// An incremental that trusts page LSNs alone, made from the two twins: it must be wrong, and the judge must see it.
#[track_caller]
fn fall_into_it(stage: &Stage, base: &Pair, later: &Pair) {
    let old = stage.restore(&stage.twin, &base.twin, &Target::Immediate, &[], "old");
    let right = stage.restore(&stage.twin, &later.twin, &Target::Immediate, &[], "right");
    let wrong = stage.restore(&stage.twin, &later.twin, &Target::Immediate, &[], "wrong");
    assert_identical(&right, &wrong);
    let pages = naive::wind_back(&wrong, &old, base.ours.start_lsn);
    println!("{pages} pages would be missing from an incremental that trusts page LSNs");
    assert!(pages > 50, "there is no trap: only {pages} pages changed under their LSN");
    assert!(std::panic::catch_unwind(|| assert_identical(&wrong, &right)).is_err(), "the comparison is blind");
    let mut opened = judge::open(stage, &wrong);
    facts::delete_some_rows(&opened);
    let (answers, _) = facts::wrong_index_answers(&opened);
    println!("and then {} indexes answer wrongly: {:?}", answers.len(), answers.first());
    assert!(!answers.is_empty(), "the questions are blind: index-only scans are right over a map that is ahead of its table");
    opened.stop(Stop::Fast);
    assert!(!visibility::violations(&wrong).0.is_empty(), "the look at the maps is blind");
    ["old", "right", "wrong"].iter().for_each(|name| stage.remove(name));
}

fn a_vacuum_without_lsns(major: u32) {
    let Some(installation) = Installation::require(major) else { return };
    let stage = stage(&installation, false, "off");
    let base = Pair::quiet(&stage, "full");
    let before = trap_file(&stage);
    stage.run(&["VACUUM trap", "VACUUM other"]);
    let silent = marked_in_silence(&before, &trap_file(&stage));
    println!("{silent} pages became all-visible while their LSN stayed");
    assert!(silent > 50, "VACUUM marked only {silent} pages in silence");
    let later = Pair::quiet(&stage, "incr");
    assert_type(&later.ours, "incr");
    fall_into_it(&stage, &base, &later);
    stage.run(&["DELETE FROM trap WHERE n % 4 = 0", "VACUUM (INDEX_CLEANUP off) trap"]);
    let diff = Pair::quiet(&stage, "diff");
    assert_type(&diff.ours, "diff");
    [later, diff].iter().for_each(|pair| pair.judge(&stage));
}

/// On at the base, on now, and off in between.
fn hints_logged_then_not_then_again(major: u32) {
    let Some(installation) = Installation::require(major) else { return };
    let mut stage = stage(&installation, false, "on");
    let base = Pair::quiet(&stage, "full");
    let before = trap_file(&stage);
    stage.cluster.configure(["wal_log_hints = off"]);
    stage.cluster.restart();
    stage.run(&["VACUUM trap", "VACUUM other"]);
    stage.cluster.configure(["wal_log_hints = on"]);
    stage.cluster.restart();
    assert!(marked_in_silence(&before, &trap_file(&stage)) > 50, "there is no trap");
    let later = Pair::quiet(&stage, "incr");
    fall_into_it(&stage, &base, &later);
    later.judge(&stage);
}

/// The same with data checksums, by `pg_checksums`, which leaves no record in the log.
fn checksums_on_then_off_then_on(_: u32) {
    let Some(installation) = Installation::with_program("pg_checksums") else { return };
    let mut stage = stage(&installation, true, "off");
    let base = Pair::quiet(&stage, "full");
    let before = trap_file(&stage);
    let pg_checksums = |stage: &mut Stage, what: &str| {
        stage.cluster.stop(Stop::Fast);
        let mut command = process::command(&installation.program("pg_checksums"), stage.cluster.dir().path());
        command.arg(what).arg("--no-sync").arg("-D").arg(&stage.cluster.data);
        process::run(command, PROGRAM_TIMEOUT).success();
        stage.cluster.start();
    };
    pg_checksums(&mut stage, "--disable");
    stage.run(&["VACUUM trap", "VACUUM other"]);
    pg_checksums(&mut stage, "--enable");
    assert!(marked_in_silence(&before, &trap_file(&stage)) > 50, "there is no trap");
    let later = Pair::quiet(&stage, "incr");
    fall_into_it(&stage, &base, &later);
    later.judge(&stage);
    // Off again for good: the pages' LSNs tell nothing from here on.
    pg_checksums(&mut stage, "--disable");
    stage.run(&["INSERT INTO trap SELECT n, 'new' FROM generate_series(20001, 26000) n"]);
    let off = Pair::quiet(&stage, "incr");
    stage.run(&["VACUUM trap"]);
    let vacuumed = Pair::quiet(&stage, "incr");
    [off, vacuumed].iter().for_each(|pair| pair.judge(&stage));
}
