//! Relations that change their persistence, shrink and grow again, and are rewritten, with crashes in between.

use super::super::expect::assert_type;
use super::super::judge::Pair;
use super::super::on_majors;
use super::super::support::postgres::{Options, Stop};
use super::{fill, scene, touch};

on_majors! {
    unlogged_and_back: pg13 13, pg17 17;
    truncated_and_extended_again: pg15 15, pg18 18;
}

fn unlogged_and_back(major: u32) {
    let Some(mut stage) = scene(major, &Options { checksums: major == 13, ..Options::default() }) else { return };
    fill(&stage, "comes", 1200);
    fill(&stage, "goes", 1200);
    stage.run(&["CREATE UNLOGGED TABLE never (id int PRIMARY KEY)", "INSERT INTO never SELECT generate_series(1, 5000)"]);
    stage.run(&["ALTER TABLE comes SET UNLOGGED"]);
    let base = Pair::quiet(&stage, "full");
    stage.run(&["ALTER TABLE comes SET LOGGED", "ALTER TABLE goes SET UNLOGGED"]);
    touch(&stage, "goes", 2);
    let swapped = Pair::quiet(&stage, "incr");
    assert_type(&swapped.ours, "incr");
    stage.run(&["ALTER TABLE goes SET LOGGED", "ALTER TABLE comes SET UNLOGGED", "ALTER TABLE comes SET LOGGED"]);
    touch(&stage, "comes", 3);
    let logged = Pair::quiet(&stage, "incr");
    // A crash empties unlogged tables: their init forks become their main forks.
    stage.run(&["ALTER TABLE goes SET UNLOGGED"]);
    stage.cluster.kill9();
    stage.cluster.start();
    stage.run(&["ALTER TABLE goes SET LOGGED", "ALTER TABLE never SET LOGGED"]);
    let crashed = Pair::quiet(&stage, "incr");
    let diff = Pair::quiet(&stage, "diff");
    assert_type(&diff.ours, "diff");
    [base, swapped, logged, crashed, diff].iter().for_each(|pair| pair.judge(&stage));
}

fn truncated_and_extended_again(major: u32) {
    let options = Options { checksums: major == 15, ..Options::default() }.with("wal_log_hints = on");
    let Some(mut stage) = scene(major, &options) else { return };
    fill(&stage, "shrinks", 4000);
    fill(&stage, "empties", 2000);
    fill(&stage, "rewritten", 2000);
    let base = Pair::quiet(&stage, "full");

    // Shorter than in the base, with a base that is longer than what follows.
    stage.run(&["DELETE FROM shrinks WHERE id > 500", "VACUUM shrinks", "DELETE FROM empties", "VACUUM empties"]);
    stage.run(&["TRUNCATE rewritten", "VACUUM FULL second", "CLUSTER first USING first_pkey"]);
    let shorter = Pair::quiet(&stage, "incr");
    assert_type(&shorter.ours, "incr");

    // The same blocks hold other rows; then a crash between the truncation and the next checkpoint.
    let grow = |table: &str| format!("INSERT INTO {table} (k, v) SELECT n, md5(n::text) FROM generate_series(1, 3000) n");
    stage.run(&[&grow("shrinks"), &grow("empties"), &grow("rewritten")]);
    let longer = Pair::quiet(&stage, "incr");
    stage.run(&["DELETE FROM shrinks WHERE id > 300", "VACUUM shrinks", &grow("shrinks"), "BEGIN; TRUNCATE empties; ROLLBACK"]);
    stage.cluster.stop(Stop::Immediate);
    stage.cluster.start();
    let crashed = Pair::quiet(&stage, "incr");
    let diff = Pair::quiet(&stage, "diff");
    assert_type(&diff.ours, "diff");
    [base, shorter, longer, crashed, diff].iter().for_each(|pair| pair.judge(&stage));
}
