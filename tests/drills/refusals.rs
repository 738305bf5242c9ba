//! A host that cannot drill says so, before anything is written, and leaves the record alone.

use std::fs;

use crate::stage::Stage;
use crate::support::postgres::{Installation, skip};
use crate::support::process;
use crate::support::tmpfs::Tmpfs;

#[test]
fn a_scratch_disk_that_is_too_small_is_refused_before_anything_is_written() {
    let Some(stage) = Stage::start(15) else { return };
    let small = stage.scenario.rescue.dir().create_dir("small");
    let Some(_tmpfs) = Tmpfs::mount(&small, 16) else { return };
    let output = stage.drill(&["--scratch", small.to_str().expect("plain")]).refuses(1, &["does not fit", "needed", "free"]);
    assert!(output.stderr.contains("--scratch"), "{output}");
    assert_eq!(fs::read_dir(&small).expect("readable").count(), 0);
    stage.assert_nothing_left();
    assert!(stage.stored_evidence().is_empty());
}

#[test]
fn a_host_without_that_postgresql_says_which_package_has_it() {
    let elsewhere = Installation::all().into_iter().find(|found| !found.bin.starts_with("/usr"));
    let Some(elsewhere) = elsewhere else { return skip("every PostgreSQL here is the distribution's") };
    let Some(stage) = Stage::start(elsewhere.major) else { return };
    let mut command = stage.command(&[]);
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let package = format!("apt-get install postgresql-{}", elsewhere.major);
    process::run(command, std::time::Duration::from_secs(60)).refuses(1, &["is not on this host", &package]);
    stage.assert_nothing_left();
}

#[test]
fn keys_come_from_a_command_and_are_never_shown_or_kept() {
    let Some(stage) = Stage::start(15) else { return };
    let host = &stage.scenario.rescue;
    let identity = host.dir().join("identity.txt");
    let secret = fs::read_to_string(&identity).expect("own file").trim().to_owned();
    let hidden = host.write("safe.txt", &format!("{secret}\n"));
    fs::remove_file(&identity).expect("own file");
    let without = host
        .configuration()
        .lines()
        .filter(|line| !line.starts_with("identity_file"))
        .map(|line| format!("{line}\n"))
        .collect::<String>();
    host.configure_text(&without);

    stage.drill(&[]).refuses(2, &["no age identity"]);
    stage.assert_nothing_left();
    let failing = stage.drill(&["--identity-command", &format!("cat {}; exit 3", hidden.display())]);
    assert!(!failing.to_string().contains(&secret), "the secret is shown");
    failing.refuses(1, &["identity command failed"]);
    stage.drill(&["--identity-command", "echo nonsense"]).refuses(2, &["not an age identity"]);

    host.configure_text(
        &without.replace("[encryption]\n", &format!("[encryption]\nidentity_command = \"cat {}\"\n", hidden.display())),
    );
    let running = stage.start_drill(&["--output", "json"]);
    let output = running.finish(std::time::Duration::from_secs(60)).success();
    assert!(output.stdout.contains("\"key_use\": \"command\"") && !output.to_string().contains(&secret), "{output}");
    assert!(!output.stdout.contains("recovery key itself was not tested"));
    stage.assert_nothing_left();
    let left = fs::read_dir("/dev/shm").map(|entries| {
        entries.flatten().filter(|entry| fs::read_to_string(entry.path()).is_ok_and(|text| text.contains(&secret))).count()
    });
    assert_eq!(left.unwrap_or_default(), 0, "the key is still in memory");
}

#[test]
fn gates_and_signatures_need_what_they_need() {
    let Some(stage) = Stage::start(15) else { return };
    let host = &stage.scenario.rescue;
    let whole = host.configuration();
    host.configure_text(&whole.replace("policy = \"gold\"\n", ""));
    stage.drill(&["--gate"]).refuses(2, &["--gate", "policy"]);
    let unsigned: String = whole.lines().filter(|line| !line.contains("signing")).map(|line| format!("{line}\n")).collect();
    host.configure_text(&unsigned);
    stage.drill(&[]).refuses(2, &["signing key"]);
    host.configure_text(&whole);
    let deep = format!("/tmp/{}", "d".repeat(90));
    stage.drill(&["--scratch", &deep]).refuses(2, &["107 bytes"]);
    stage.assert_nothing_left();
}

#[test]
fn a_file_that_cannot_be_written_is_noticed_before_and_never_costs_the_result() {
    let Some(stage) = Stage::start(15) else { return };
    let place = stage.scenario.rescue.dir().create_dir("reports");
    let text = |path: &std::path::Path| path.to_str().expect("plain").to_owned();
    for option in ["--junit", "--evidence"] {
        let output = stage.drill(&[option, &text(&place.join("nowhere/drill.xml"))]).exits(1);
        assert!(output.stderr.contains("cannot write") && output.stderr.contains("nowhere"), "{}", output.stderr);
    }
    assert!(stage.stored_evidence().is_empty());
    // A directory: only the writing itself fails.
    let output = stage.drill(&["--junit", &text(&place), "--output", "json"]).exits(1);
    let document: serde_json::Value = serde_json::from_str(&output.stdout).expect("the result is shown");
    assert_eq!(document["evidence"]["outcome"], "passed");
    assert_eq!(vec![document["evidence_key"].as_str().expect("a key")], stage.stored_evidence());
    assert_eq!(fs::read_dir(&place).expect("readable").count(), 0);
}
