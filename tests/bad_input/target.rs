//! Targets that a restore must not touch.

use std::fs;

use crate::stage::one_row;
use crate::support::listing::contents;
use crate::support::postgres::Stop;
use crate::support::scenario::SOURCE;

#[test]
fn what_is_there_is_never_overwritten() {
    let Some(mut scenario) = one_row(15) else { return };
    let restore = |into: &std::path::Path| scenario.rescue.run(&["restore", SOURCE, "--into", into.to_str().expect("plain")]);
    let keepsake = scenario.restored.create_dir("in-use");
    scenario.restored.write("in-use/keepsake", "the only copy");
    restore(&keepsake).refuses(1, &["is not empty", "move this one away", "--delta"]);
    assert_eq!(contents(&keepsake).len(), 1);

    let file = scenario.restored.write("file", "the only copy");
    let output = restore(&file).exits(1);
    assert!(output.stderr.contains("is not a directory"), "{output}");
    assert_eq!(fs::read_to_string(&file).expect("own file"), "the only copy");

    let data = scenario.cluster.data.clone();
    restore(&data).refuses(1, &["a PostgreSQL server is running on", "another directory"]);
    fs::remove_file(data.join("postmaster.pid")).expect("own file");
    restore(&data).refuses(1, &["a PostgreSQL server is running on"]);
    // The server minds the loss of that file by itself after a minute; it still answers now.
    assert_eq!(scenario.cluster.sql().number("SELECT n FROM rows"), 1);
    scenario.cluster.stop(Stop::Immediate);
    let output = scenario.rescue.run(&["restore", SOURCE, "--into", data.to_str().expect("plain")]);
    output.refuses(1, &["is not empty"]);
    scenario.cluster.start();
    assert_eq!(scenario.cluster.sql().number("SELECT n FROM rows"), 1);
}

#[test]
fn a_target_that_cannot_be_written_is_told() {
    let Some(scenario) = one_row(15) else { return };
    let into = "/proc/lifeboat-restored";
    let output = scenario.rescue.run(&["restore", SOURCE, "--into", into]).exits(1);
    assert!(output.stderr.contains(into), "{output}");
}
