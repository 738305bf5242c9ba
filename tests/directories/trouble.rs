//! What a backup cannot store whole: named, counted, and a failure on request.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::oracle::snapshot;
use crate::stage::{SOURCE, Stage, id, number, wrapped};
use crate::support::process;
use crate::trees::is_root;

#[test]
fn what_may_not_be_read_is_named_and_the_rest_comes_back() {
    let stage = Stage::as_user("");
    stage.write("docs/open.txt", b"open");
    stage.own();
    if !is_root() {
        return println!("skipped: only root can make files that another user may not read");
    }
    let secret = stage.write("docs/secret.txt", b"secret");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).expect("own file");
    let closed = stage.tree.join("closed");
    std::fs::create_dir(&closed).expect("own directory");
    std::fs::write(closed.join("inner"), b"inner").expect("own file");
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).expect("own directory");

    let output = stage.run(&stage.protected, &["backup", SOURCE, "--errors", "fail"]);
    output.refuses(1, &["2 things of docs", "docs/secret.txt", "closed", "Permission denied", "no backup is kept"]);
    assert_eq!(stage.listed(), [""; 0]);

    let taken = stage.backup("full");
    let incarnations = stage.repository.path().join(SOURCE).join("identity");
    assert_eq!(std::fs::read_dir(incarnations).expect("on record").count(), 1, "the one that failed left no other");
    assert_eq!((number(&taken["bad_pages"]), number(&taken["not_whole"]["count"])), (2, 2), "{taken:#}");
    let named = taken["not_whole"]["first"].to_string();
    assert!(named.contains("docs/secret.txt: cannot be read") && named.contains("closed: cannot be listed"), "{named}");
    let text = stage.run(&stage.rescue, &["ls", SOURCE, "--recursive"]).success().stdout;
    assert!(text.contains("docs/secret.txt  (unread)\n") && text.contains("closed/  (unlisted)\n"), "{text}");

    let into = stage.restored.join("part");
    let output = stage.run(&stage.rescue, &["restore", SOURCE, "--into", &into.display().to_string()]).exits(1);
    assert!(output.stdout.contains("3, named above; 2 of them are not there at all"), "{output}");
    assert!(output.stderr.contains("docs/secret.txt: its content is not as it was"), "{output}");
    let told = "closed: what it held is not in the backup, or not all of it, for it could not be listed: Permission denied";
    assert!(output.stderr.contains(told), "{output}");
    let into = stage.restored.join("docs").display().to_string();
    let output = stage.run(&stage.rescue, &["restore", SOURCE, "--into", &into, "--path", "docs/open.txt"]).success();
    assert!(!output.stderr.contains("closed") && !output.stdout.contains("note"), "it was not asked for: {output}");
    let into = stage.restored.join("part");
    assert_eq!(std::fs::read(into.join("docs/open.txt")).expect("restored"), b"open");
    assert!(!into.join("docs/secret.txt").exists(), "an empty file would be a lie");
    stage.assert_verifies();

    // Once it may be read it is, although nothing else of it changed.
    std::os::unix::fs::chown(&secret, crate::support::dirs::server_user().map(|user| user.0), None).expect("own file");
    std::fs::remove_dir_all(&closed).expect("own directory");
    let taken = stage.backup("incr");
    assert_eq!(number(&taken["not_whole"]["count"]), 0, "{taken:#}");
    let into = stage.restore("whole", &[]);
    assert_eq!(std::fs::read(into.join("docs/secret.txt")).expect("restored"), b"secret");
}

/// A directory that may be listed and not entered: what it holds has a name there, and no entry in the backup.
#[test]
fn what_has_no_entry_at_all_is_missing_after_a_restore_of_everything() {
    let stage = Stage::as_user("");
    stage.write("docs/open.txt", b"open");
    stage.own();
    if !is_root() {
        return println!("skipped: only root can make files that another user may not look at");
    }
    stage.write("half/inner", b"inner");
    std::fs::set_permissions(stage.tree.join("half"), PermissionsExt::from_mode(0o744)).expect("own directory");
    let taken = stage.backup("full");
    assert_eq!(taken["not_whole"]["count"], 1, "{taken:#}");
    let restore = |name: &str, arguments: &[&str]| {
        let into = stage.restored.join(name).display().to_string();
        stage.run(&stage.rescue, &[&["restore", SOURCE, "--into", &into], arguments].concat())
    };
    let output = restore("all", &[]).exits(1);
    // The other is the owner of what holds it, whom only root can set.
    assert!(output.stdout.contains("not as it was  2") && output.stdout.contains("1 of them are not there at all"), "{output}");
    assert!(output.stdout.contains("1 of what was there has no entry in the backup"), "{output}");
    // Where it was nobody knows any more, so a part may lack it or not.
    let output = restore("part", &["--path", "docs"]).success();
    assert!(output.stdout.contains("1 of what was there has no entry in the backup"), "{output}");
}

/// A file that is never at rest: marked, and what is stored of it has one of its lengths.
#[test]
fn a_file_that_is_rewritten_all_the_time_is_told() {
    let stage = Stage::as_root("");
    let path = stage.write("busy", &[0; 8 << 20]);
    stage.write("calm", b"calm");
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (stop, path) = (Arc::clone(&stop), path.clone());
        std::thread::spawn(move || {
            use std::os::unix::fs::FileExt;
            let file = std::fs::File::options().write(true).open(path).expect("own file");
            let mut round = 0_u64;
            while !stop.load(Ordering::SeqCst) {
                round += 1;
                file.write_all_at(&round.to_le_bytes(), round * 4096 % (8 << 20)).expect("room");
            }
        })
    };
    let failed = stage.run(&stage.protected, &["backup", SOURCE, "--page-errors", "fail"]);
    let taken = stage.backup("full");
    stop.store(true, Ordering::SeqCst);
    writer.join().expect("the writer");
    failed.refuses(1, &["1 thing of docs", "busy: changed each time it was read"]);
    assert_eq!(taken["not_whole"]["first"][0], "busy: changed each time it was read", "{taken:#}");
    let into = stage.restored.join("busy");
    let output = stage.run(&stage.rescue, &["restore", SOURCE, "--into", &into.display().to_string()]).success();
    assert!(output.stderr.contains("busy: its content may mix several of its states"), "it is there, but: {output}");
    assert_eq!(std::fs::metadata(into.join("busy")).expect("restored").len(), 8 << 20);
    assert_eq!(std::fs::read(into.join("calm")).expect("restored"), b"calm");
    // It rests now: the next backup holds it as it is.
    let incr = stage.backup("incr");
    assert_eq!(number(&incr["not_whole"]["count"]), 0, "{incr:#}");
    stage.assert_restores(&id(&incr), &snapshot(&stage.tree), "at rest");
    stage.assert_verifies();
}

#[test]
fn rules_leave_out_what_they_name_and_lifeboat_leaves_out_itself() {
    let stage = Stage::as_root("exclude = [\"*.tmp\", \"!keep.tmp\", \"/cache/\"]");
    for path in ["a.txt", "a.tmp", "keep.tmp", "cache/x", "deep/cache/x", "deep/b.tmp"] {
        stage.write(path, path.as_bytes());
    }
    let taken = stage.backup("full");
    assert_eq!(number(&taken["files"]["left_out"]), 3, "{taken:#}");
    let into = stage.restore("rules", &[]);
    let there: Vec<String> = snapshot(&into).keys().map(|path| path.display().to_string()).collect();
    assert_eq!(there, ["", "a.txt", "deep", "deep/cache", "deep/cache/x", "keep.tmp"]);

    // The state directory and the repository in the very directory that is protected.
    let inside = stage.tree.join("state [x]");
    std::fs::create_dir(&inside).expect("own directory");
    let state = stage.protected.state_dir();
    let text = stage.protected.configuration();
    stage.protected.configure_text(&text.replace(&state.display().to_string(), &inside.display().to_string()));
    let taken = stage.backup("full");
    assert_eq!(number(&taken["not_whole"]["count"]), 0, "{taken:#}");
    let into = stage.restore("itself", &[]);
    assert!(!into.join("state [x]").exists() && into.join("a.txt").exists());
}

/// Takes a backup in a mount namespace of its own in which `mount`, a shell command on the directory `$1`, was run before; none
/// where that is not allowed.
fn backup_with(stage: &Stage, mount: &str, at: &str, backup_type: &str) -> Option<Value> {
    if !is_root() || !Command::new("unshare").args(["--mount", "true"]).status().is_ok_and(|status| status.success()) {
        println!("skipped: no mounts can be made here");
        return None;
    }
    let inner = stage.command(&stage.protected, &["backup", SOURCE, "--type", backup_type, "--output", "json"]);
    let mut wrapper = Command::new("unshare");
    wrapper.args(["--mount", "sh", "-c", &format!("{mount} && shift && exec \"$@\""), "sh"]).arg(stage.tree.join(at));
    let output = process::run(wrapped(wrapper, &inner), Duration::from_secs(120)).success();
    let document: Value = serde_json::from_str(&output.stdout).expect("JSON");
    Some(document["backups"][0].clone())
}

/// What was on it must not look like removed files.
#[test]
fn a_file_system_that_is_not_mounted_this_time_is_told() {
    let stage = Stage::as_root("");
    stage.write("other", b"other");
    std::fs::create_dir(stage.tree.join("disk")).expect("own directory");
    let mount = "mount -t tmpfs none \"$1\" && echo precious > \"$1/file\"";
    let Some(full) = backup_with(&stage, mount, "disk", "full") else { return };
    assert_eq!(number(&full["not_whole"]["count"]), 0, "{full:#}");
    let output = stage.run(&stage.protected, &["backup", SOURCE, "--type", "incr", "--errors", "fail"]);
    output.refuses(1, &["1 thing of docs", "disk: was a mount point when the base was taken", "is its file system mounted?"]);
    let incr = stage.backup("incr");
    assert_eq!((number(&incr["not_whole"]["count"]), number(&incr["bad_pages"])), (1, 1), "{incr:#}");
    let again = backup_with(&stage, mount, "disk", "incr").expect("as before");
    assert_eq!(number(&again["not_whole"]["count"]), 0, "{again:#}");
    let into = stage.restore("again", &["--backup", &id(&again)]);
    assert_eq!(std::fs::read(into.join("disk/file")).expect("restored"), b"precious\n");
    stage.assert_verifies();
}

#[test]
fn a_directory_that_is_not_entered_for_it_looks_like_one_above_is_told() {
    let stage = Stage::as_root("");
    stage.write("deep/file", b"file");
    std::fs::create_dir(stage.tree.join("deep/loop")).expect("own directory");
    let Some(full) = backup_with(&stage, "mount --bind \"$1/..\" \"$1\"", "deep/loop", "full") else { return };
    let told = full["not_whole"]["first"][0].as_str().unwrap_or_default().to_owned();
    assert_eq!(number(&full["not_whole"]["count"]), 1, "{full:#}");
    assert!(told.starts_with("deep/loop: has the numbers of a directory that it lies in") && told.contains("exclude"), "{told}");
    stage.assert_verifies();
}
