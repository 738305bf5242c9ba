//! What cannot be, refused in plain words before anything is touched.

use lifeboat::base::Timestamp;

use crate::oracle::snapshot;
use crate::stage::{SOURCE, Stage, id, section};

#[test]
fn a_directory_that_is_not_there_is_no_empty_one() {
    let stage = Stage::as_root("");
    let configured = |path: &str, keys: &str| {
        let text = stage.protected.configuration();
        let at = text.find("[source.").expect("a source");
        let (head, rest) = text.split_at(at);
        let signing = rest.find("[signing]").map(|at| &rest[at..]).unwrap_or_default();
        let head = if head.contains("[signing]") { head.to_owned() } else { format!("{head}{signing}\n") };
        stage.protected.configure_text(&format!("{head}{}", section(&stage.tree.join(path), keys)));
    };
    configured("nothing", "");
    let gone = stage.run(&stage.protected, &["backup", SOURCE]).exits(1);
    assert!(gone.stderr.contains("hint: correct its path"), "{gone}");
    stage.write("file", b"");
    configured("file", "");
    stage.run(&stage.protected, &["backup", SOURCE]).refuses(1, &["file", "Not a directory"]);
    configured("", "exclude = [\"a{b\"]");
    stage.run(&stage.protected, &["backup", SOURCE]).refuses(2, &["a{b", "not a pattern"]);
    assert!(!stage.repository.path().join(SOURCE).exists(), "nothing was begun");
}

#[test]
fn moments_that_a_directory_does_not_have_are_refused_or_told() {
    let stage = Stage::as_root("");
    stage.write("a", b"1");
    let before = Timestamp::now();
    let first = id(&stage.backup("full"));
    let between = Timestamp::now();
    stage.write("a", b"2");
    stage.backup("incr");
    // A host that only restores need not know the source.
    let text = stage.rescue.configuration();
    stage.rescue.configure_text(&text[..text.find("[source.").expect("a source")]);
    let into = stage.restored.join("x").display().to_string();
    let restore = |more: &[&str]| stage.run(&stage.rescue, &[&["restore", SOURCE, "--into", &into], more].concat());

    restore(&["--to", &before.rfc3339()]).refuses(1, &["no backup had ended by then", "first moment", "lifeboat list docs"]);
    for more in [["--to-lsn", "0/1"], ["--to-xid", "7"], ["--to-name", "x"]] {
        restore(&more).refuses(2, &["is a directory", "moments of its backups"]);
    }
    for more in [&["--standby"][..], &["--delta"], &["--clone"], &["--tablespace", "/a=/b"], &["--action", "pause"]] {
        restore(more).refuses(2, &["is a directory", "PostgreSQL"]);
    }
    assert!(!std::path::Path::new(&into).exists(), "nothing was touched");
    let told = stage.json(&stage.rescue, &["restore", SOURCE, "--into", &into, "--to", &between.rfc3339()]);
    assert_eq!(told["backup"], first.as_str());
    let note = told["notes"][0].as_str().expect("a note");
    assert!(note.contains("only the moments of its backups") && note.contains("the next moment is"), "{note}");
    assert_eq!(std::fs::read(format!("{into}/a")).expect("restored"), b"1");
    // It is there now.
    restore(&[]).refuses(1, &["is not empty"]);

    for more in [&["--audit"][..], &["--checkpoint", "spread"]] {
        stage.run(&stage.protected, &[&["backup", SOURCE], more].concat()).refuses(2, &["is a directory"]);
    }
    let planned = stage.run(&stage.protected, &["backup", SOURCE, "--type", "incr", "--dry-run"]).success();
    assert!(planned.stdout.starts_with("would take an incr backup of docs\n"), "{planned}");
    let planned = stage.run(&stage.rescue, &["restore", SOURCE, "--into", &format!("{into}2"), "--dry-run"]).success();
    assert!(planned.stdout.starts_with("would restore docs to its newest backup"), "{planned}");
    assert!(!std::path::Path::new(&format!("{into}2")).exists());
}

/// A disk that is not mounted leaves an empty directory.
#[test]
fn an_emptied_directory_is_not_backed_up_by_itself() {
    let stage = Stage::as_root("");
    stage.backup("full");
    stage.backup("incr");
    let path = stage.write("a", b"1");
    stage.backup("incr");
    std::fs::remove_file(path).expect("own file");
    let before = stage.listed();
    for more in [&["--type", "incr"][..], &["--type", "full"], &["--dry-run"]] {
        let refused = stage.run(&stage.protected, &[&["backup", SOURCE], more].concat());
        refused.refuses(1, &["there is nothing in", "no backup of that is kept", before[2].as_str(), "mounted?", "touch"]);
    }
    assert_eq!(stage.listed(), before);
    stage.write("EMPTIED", b"");
    let taken = stage.backup("incr");
    stage.assert_restores(&id(&taken), &snapshot(&stage.tree), "emptied on purpose");
}

/// What is printed as a moment leads back to the backup of that moment.
#[test]
fn a_moment_that_was_printed_brings_that_backup_back() {
    let stage = Stage::as_root("");
    for content in [b"1", b"2", b"3"] {
        stage.write("a", content);
        let told = stage.run(&stage.protected, &["backup", SOURCE]).success().stdout;
        let label = "restores to";
        let line = told.lines().find_map(|line| line.trim().strip_prefix(label)).unwrap_or_else(|| panic!("{told}"));
        let newest = stage.listed().pop().expect("a backup");
        leads_to(&stage, line.trim(), &newest);
    }
    let text = stage.run(&stage.rescue, &["list", SOURCE]).success().stdout;
    for id in stage.listed() {
        let line = text.lines().find(|line| line.contains(&id)).unwrap_or_else(|| panic!("{text}"));
        let words: Vec<&str> = line.split_whitespace().collect();
        let at = words.iter().position(|word| word.len() == 10 && word.matches('-').count() == 2).expect("a date");
        leads_to(&stage, &format!("{} {} UTC", words[at], words[at + 1]), &id);
    }
}

#[track_caller]
fn leads_to(stage: &Stage, moment: &str, id: &str) {
    let into = stage.restored.join("nothing").display().to_string();
    let planned = stage.json(&stage.rescue, &["restore", SOURCE, "--into", &into, "--to", moment, "--dry-run"]);
    assert_eq!(planned["backup"], id, "{moment}");
}
