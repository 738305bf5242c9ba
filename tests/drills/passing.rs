//! Drills of what is sound.

use crate::stage::{Stage, checks};
use crate::support::majors::on_majors;

on_majors! {
    a_component_drill_passes_and_is_timed: v13 13, v15 15, v18 18;
}

fn a_component_drill_passes_and_is_timed(major: u32) {
    let Some(stage) = Stage::start(major) else { return };
    let document = stage.json(&[], 0);
    println!("{document:#}");
    let evidence = &document["evidence"];
    assert_eq!(evidence["outcome"], "passed");
    assert!(checks(&document).iter().all(|(_, passed)| *passed));
}
