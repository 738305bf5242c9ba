//! Tablespaces made, moved, dropped and made again between a base and its incrementals.

use std::fs;

use super::super::expect::assert_type;
use super::super::judge::Pair;
use super::super::on_majors;
use super::super::stage::Stage;
use super::super::support::dirs;
use super::super::support::postgres::{Options, Stop};
use super::{fill, scene, touch};

on_majors! {
    made_moved_and_dropped: pg14 14, pg18 18;
}

#[track_caller]
fn create(stage: &Stage, name: &str) {
    let place = stage.cluster.dir().create_dir(name);
    stage.run(&[&format!("CREATE TABLESPACE {name} LOCATION '{}'", place.display())]);
}

/// With the server stopped: the directory goes elsewhere, and the link follows.
#[track_caller]
fn relocate(stage: &mut Stage, name: &str) {
    let oid = stage.cluster.sql().value(&format!("SELECT oid FROM pg_tablespace WHERE spcname = '{name}'"));
    stage.cluster.stop(Stop::Fast);
    let link = stage.cluster.data.join("pg_tblspc").join(oid);
    let old = fs::read_link(&link).expect("a link");
    let new = old.with_extension("moved");
    fs::rename(&old, &new).and_then(|()| fs::remove_file(&link)).expect("own directory");
    std::os::unix::fs::symlink(&new, &link).expect("own directory");
    dirs::give(&link);
    stage.cluster.start();
}

fn made_moved_and_dropped(major: u32) {
    let Some(mut stage) = scene(major, &Options { checksums: major == 18, ..Options::default() }) else { return };
    for name in ["stays", "goes", "moves"] {
        create(&stage, name);
        fill(&stage, &format!("in_{name}"), 800);
        stage.run(&[&format!("ALTER TABLE in_{name} SET TABLESPACE {name}")]);
    }
    stage.run(&["CREATE DATABASE nomad TABLESPACE stays"]);
    let base = Pair::quiet(&stage, "full");

    create(&stage, "comes");
    fill(&stage, "in_comes", 500);
    stage.run(&[
        "ALTER TABLE in_comes SET TABLESPACE comes",
        "ALTER TABLE in_goes SET TABLESPACE pg_default",
        "DROP TABLESPACE goes",
    ]);
    stage.run(&["ALTER DATABASE nomad SET TABLESPACE comes"]);
    relocate(&mut stage, "moves");
    touch(&stage, "in_moves", 10);
    let moved = Pair::quiet(&stage, "incr");
    assert_type(&moved.ours, "incr");

    // Another tablespace in the directory of one that was dropped, and a database back where it came from.
    stage.run(&["ALTER DATABASE nomad SET TABLESPACE stays", "DROP TABLE in_comes", "DROP TABLESPACE comes"]);
    let again = format!("CREATE TABLESPACE again LOCATION '{}'", stage.cluster.dir().join("comes").display());
    stage.run(&[&again, "ALTER TABLE in_stays SET TABLESPACE again"]);
    relocate(&mut stage, "stays");
    let again = Pair::quiet(&stage, "incr");
    assert_type(&again.ours, "incr");
    touch(&stage, "in_stays", 4);
    let diff = Pair::quiet(&stage, "diff");
    assert_type(&diff.ours, "diff");
    [base, moved, again, diff].iter().for_each(|pair| pair.judge(&stage));
}
