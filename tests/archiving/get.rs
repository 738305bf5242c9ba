//! Exit codes of `archive get`, asked directly: 0 found, 1 only when a listing shows that it is absent, 255 otherwise.

use std::process::Command;

use crate::stage::Stage;
use crate::support::postgres::RECOVERY_TIMEOUT;
use crate::support::process::{self, Output};

const HISTORY: &str = "00000002.history";

/// Runs a shell command as `restore_command` would be, for `file`; the destination must be written only by a success.
#[track_caller]
fn fetch(stage: &Stage, command: &str, file: &str) -> Output {
    let destination = stage.scenario.rescue.dir().join("fetched");
    let mut shell: Command = process::command("/bin/sh".as_ref(), stage.scenario.rescue.dir().path());
    shell.args(["-c", command, "sh", file]).arg(&destination);
    let output = process::run(shell, RECOVERY_TIMEOUT);
    assert_eq!(destination.exists(), output.code == Some(0), "{command}\n{output}");
    if output.code == Some(0) {
        std::fs::remove_file(&destination).expect("own file");
    }
    output
}

#[test]
fn only_a_listing_that_shows_it_says_absent() {
    let Some(stage) = Stage::start(15) else { return };
    let troubles = stage.troubles();
    for file in [stage.segments[0].as_str(), HISTORY] {
        fetch(&stage, &stage.good, file).exits(0);
        for trouble in &troubles {
            let output = fetch(&stage, &trouble.command, file);
            assert_eq!(output.code, Some(255), "{} of {file}\n{output}", trouble.name);
            assert!(output.stderr.contains(trouble.says), "{} of {file} does not say '{}'\n{output}", trouble.name, trouble.says);
        }
    }
    for absent in ["00000003.history", "0000000100000009000000FF", "0000000900000000000000FF", "000000010000000000000003.partial"]
    {
        let output = fetch(&stage, &stage.good, absent).exits(1);
        assert!(!output.stderr.contains("error"), "that is an answer, not an error: {output}");
    }
    fetch(&stage, &stage.good, "pg_control").exits(255);
}
