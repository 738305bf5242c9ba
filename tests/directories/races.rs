//! What happens to a tree while a backup reads it: the program is stopped before it reads a file, and continued afterwards.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::oracle::{assert_same, snapshot};
use crate::stage::{SOURCE, Stage, Tree, id, number};
use crate::support::process::{self, Running};

const LONG: Duration = Duration::from_secs(120);

/// A stage on which files are read one after the other, in the order of their paths.
fn in_order() -> Stage {
    let stage = Stage::as_root("");
    stage.protected.configure_text(&stage.protected.configuration().replace("workers = 2", "workers = 1"));
    stage
}

/// Takes a backup in which `meddle` is done just before file number `nth` is read.
fn meddled(stage: &Stage, backup_type: &str, nth: u32, meddle: impl FnOnce()) -> Value {
    let mut command = stage.command(&stage.protected, &["backup", SOURCE, "--type", backup_type, "--output", "json"]);
    command.env("LIFEBOAT_STOP_AT", format!("tree.read:{nth}"));
    let running = Running::start(command);
    process::wait_until("it stops", LONG, || is_stopped(running.pid()));
    meddle();
    running.signal(Signal::CONT);
    let output = running.finish(LONG).success();
    let document: Value = serde_json::from_str(&output.stdout).expect("JSON");
    document["backups"][0].clone()
}

fn is_stopped(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && line.contains("T (stopped)"))
}

/// The top's time is from before the meddling.
fn without_top(mut tree: Tree) -> Tree {
    tree.remove(Path::new(""));
    tree
}

fn linked(stage: &Stage, content: &[u8]) -> PathBuf {
    let first = stage.write("a", content);
    fs::create_dir_all(stage.tree.join("d")).expect("own directory");
    for name in ["b", "d/c"] {
        fs::hard_link(&first, stage.tree.join(name)).expect("own directory");
    }
    first
}

/// Whether its other names wait for the first one or are found later: they are one file, and its content is there.
#[test]
fn a_file_is_whole_when_its_first_name_goes_or_becomes_another_while_it_waits_to_be_read() {
    for (round, becomes) in [None, Some(b"another file".as_slice())].into_iter().enumerate() {
        let stage = in_order();
        stage.write("d/other", b"other");
        let chain = ["full", "incr", "diff"];
        for (step, backup_type) in chain.into_iter().enumerate() {
            for name in ["a", "b", "d/c"] {
                let _ = fs::remove_file(stage.tree.join(name));
            }
            let first = linked(&stage, &vec![b'0' + step as u8; 300_000]);
            let report = meddled(&stage, backup_type, 1, || {
                fs::remove_file(&first).expect("own file");
                if let Some(content) = becomes {
                    fs::write(&first, content).expect("own file");
                }
            });
            assert_eq!(number(&report["not_whole"]["count"]), 0, "{report:#}");
            let into = stage.restore(&format!("{round}-{step}"), &["--backup", &id(&report)]);
            assert_same(&without_top(snapshot(&stage.tree)), &without_top(snapshot(&into)), backup_type);
        }
        stage.assert_verifies();
    }
}

/// The second name goes as well, before it is read in place of the first.
#[test]
fn a_file_of_which_name_after_name_goes_is_read_under_the_last() {
    let stage = in_order();
    stage.write("z", b"last");
    linked(&stage, b"content");
    let report = meddled(&stage, "full", 1, || {
        fs::remove_file(stage.tree.join("a")).expect("own file");
        fs::remove_file(stage.tree.join("b")).expect("own file");
    });
    let into = stage.restore("all", &["--backup", &id(&report)]);
    assert_same(&without_top(snapshot(&stage.tree)), &without_top(snapshot(&into)), "the last name");
    assert_eq!(fs::read(into.join("d/c")).expect("restored"), b"content");
    stage.assert_verifies();
}

/// Its other names are gone when it is read: it has one name then, and those that were seen of it lead to it.
#[test]
fn names_that_go_after_they_were_seen_do_no_harm() {
    let stage = in_order();
    let first = stage.write("a", b"content");
    fs::hard_link(first, stage.tree.join("b")).expect("own directory");
    let report = meddled(&stage, "full", 1, || fs::remove_file(stage.tree.join("b")).expect("own file"));
    let into = stage.restore("all", &["--backup", &id(&report)]);
    assert_eq!(fs::read(into.join("a")).expect("restored"), b"content");
    assert_eq!(fs::read(into.join("b")).expect("it was seen"), b"content");
    stage.assert_verifies();
}

/// What the walk has listed is read from where it lies, whatever it is called by then.
#[test]
fn a_directory_that_is_renamed_while_its_files_wait_loses_none() {
    let stage = in_order();
    ["f1", "f2", "f3", "f4", "f5"].iter().for_each(|name| drop(stage.write(&format!("m/{name}"), name.as_bytes())));
    let before = snapshot(&stage.tree);
    let renamed = || fs::rename(stage.tree.join("m"), stage.tree.join("renamed")).expect("own directory");
    let report = meddled(&stage, "full", 2, renamed);
    assert_eq!(number(&report["not_whole"]["count"]), 0, "{report:#}");
    let into = stage.restore("renamed", &["--backup", &id(&report)]);
    assert_same(&without_top(before), &without_top(snapshot(&into)), "as the walk found it");
    stage.assert_verifies();
}

/// A new release in the place of the old one, by two renames: no file of one lies among those of the other.
#[test]
fn a_directory_that_is_swapped_while_its_files_wait_is_not_mixed_with_the_other() {
    let stage = in_order();
    for release in ["cur", "cur.new"] {
        (1..=5).for_each(|n| drop(stage.write(&format!("{release}/f{n}"), release.as_bytes())));
    }
    let report = meddled(&stage, "full", 3, || {
        for (from, to) in [("cur", "cur.old"), ("cur.new", "cur")] {
            fs::rename(stage.tree.join(from), stage.tree.join(to)).expect("own directory");
        }
    });
    let into = stage.restore("swapped", &["--backup", &id(&report)]);
    let contents = (1..=5).map(|n| fs::read_to_string(into.join(format!("cur/f{n}"))).expect("restored"));
    assert_eq!(contents.collect::<Vec<_>>(), ["cur"; 5]);
    stage.assert_verifies();
}

/// A further name is read by its path when the first one is gone: another directory there is not taken for its own.
#[test]
fn a_further_name_whose_directory_was_moved_or_swapped_is_told() {
    for is_swapped in [false, true] {
        let stage = in_order();
        // While this one is read the walk comes to the end.
        stage.write("0", &vec![b'0'; 32 << 20]);
        let first = stage.write("a", b"content");
        stage.write("d/other", b"other");
        fs::hard_link(&first, stage.tree.join("d/b")).expect("own directory");
        let report = meddled(&stage, "full", 2, || {
            fs::remove_file(&first).expect("own file");
            fs::rename(stage.tree.join("d"), stage.tree.join("moved")).expect("own directory");
            if is_swapped {
                stage.write("d/b", b"of another directory");
            }
        });
        let told = report["not_whole"]["first"][0].as_str().unwrap_or_default().to_owned();
        assert_eq!(number(&report["not_whole"]["count"]), 1, "{report:#}");
        assert!(told.starts_with("d/b: was removed, or moved"), "{told}");
        assert_eq!(number(&report["files"]["left_out"]), 2, "both are counted where they have no entry: {report:#}");
        let into = stage.restored.join("rest");
        let whole = ["restore", SOURCE, "--into", &into.display().to_string(), "--backup", &id(&report)];
        let output = stage.run(&stage.rescue, &whole).exits(1);
        assert!(output.stdout.contains("1 of what was there has no entry in the backup"), "{output}");
        assert!(!into.join("d/b").exists() && fs::read(into.join("d/other")).expect("restored") == b"other");
        stage.assert_verifies();
    }
}
