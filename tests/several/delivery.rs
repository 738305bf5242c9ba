//! What is queued, given up, taken up again, and survives every death.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;

use lifeboat::base::killpoint;

use crate::stage::{Stage, Which};
use crate::support::listing::log_objects;
use crate::support::scenario::SOURCE;

/// Archives segments while `second` is away; their names.
fn queue_some(stage: &Stage, count: usize) -> Vec<String> {
    stage.take_away(Which::Second);
    let segments: Vec<String> = (0..count).map(|_| stage.archive_row()).collect();
    assert_eq!(stage.queued(Which::Second).len(), count);
    segments
}

/// Keeps the background from delivering: who holds the queue's lock is the one who does.
fn pause(stage: &Stage) -> File {
    let state = stage.host().state_dir();
    let mut dir = state.clone();
    for part in ["queue", SOURCE, "second"] {
        dir.push(part);
        if !dir.exists() {
            fs::create_dir(&dir).expect("own directory");
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).expect("own directory");
        }
    }
    let path = dir.join("deliverer.lock");
    let is_new = !path.exists();
    let lock = File::options().write(true).create(true).truncate(false).open(&path).expect("own file");
    if is_new {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("own file");
    }
    lock.lock().expect("whoever delivers has nothing to deliver");
    lock
}

#[test]
fn a_killed_delivery_is_gone_on_with() {
    let Some(stage) = Stage::start("log_copies = 1") else { return };
    stage.archive_row();
    stage.wait_delivered(Which::Second);
    let points: Vec<&str> = killpoint::ALL.iter().copied().filter(|name| name.starts_with("deliver.")).collect();
    assert_eq!(points.len(), 2, "{points:?}");
    let mut rows = 1;
    for point in points {
        let paused = pause(&stage);
        let segments = queue_some(&stage, 3);
        rows += 3;
        stage.bring_back(Which::Second);
        drop(paused);
        stage.host().run_killed_at(&format!("{point}:2"), &["queue", SOURCE, "--deliver"]).killed();
        let left = stage.queued(Which::Second).len();
        assert!((1..3).contains(&left), "{point}: {left} are left");
        stage.host().ok(&["queue", SOURCE, "--deliver"]);
        assert!(stage.queued(Which::Second).is_empty(), "{point}");
        for segment in &segments {
            assert_eq!(stage.archived(Which::Second, segment), 1, "{point}: {segment}");
        }
        stage.scenario.rescue.ok(&["verify", "--deep"]);
    }
    stage.scenario.full_backup();
    assert_eq!(Stage::rows(&stage.restore_from(Which::Second, "alone")), rows);
}

#[test]
fn what_no_repository_has_is_given_up_in_sight_and_can_be_taken_up_again() {
    let Some(stage) = Stage::start("log_copies = 1") else { return };
    stage.archive_row();
    stage.wait_delivered(Which::Second);
    let paused = pause(&stage);
    let segments = queue_some(&stage, 2);
    let lost = log_objects(&stage.path(Which::Main)).into_iter().find(|path| path.to_string_lossy().contains(&segments[0]));
    let lost = lost.expect("archived");
    let aside = stage.scenario.restored.join("aside");
    fs::rename(&lost, &aside).expect("own directory");
    stage.bring_back(Which::Second);
    drop(paused);
    let told = stage.host().run(&["queue", "--deliver"]).exits(1);
    assert!(told.stdout.contains("given up for repository second: 1 file of the log"), "{told}");
    assert!(told.stdout.contains(&segments[0]) && told.stdout.contains("does not hold it"), "{told}");
    assert_eq!(stage.archived(Which::Second, &segments[1]), 1, "the other one does not wait for it");
    let checked = stage.host().run(&["check", SOURCE, "--repository", "second"]);
    assert!(checked.stdout.contains("given up"), "{checked}");

    fs::rename(&aside, &lost).expect("own directory");
    stage.host().ok(&["queue", "--deliver", "--retry"]);
    assert!(stage.queued(Which::Second).is_empty());
    assert_eq!(stage.archived(Which::Second, &segments[0]), 1);
}

#[test]
fn another_content_in_the_second_repository_is_never_covered_up() {
    let Some(stage) = Stage::start("log_copies = 1") else { return };
    stage.archive_row();
    stage.wait_delivered(Which::Second);
    let paused = pause(&stage);
    let segments = queue_some(&stage, 1);
    stage.bring_back(Which::Second);
    let own = log_objects(&stage.path(Which::Main)).into_iter().find(|path| path.to_string_lossy().contains(&segments[0]));
    let own = own.expect("archived");
    let name = own.file_name().expect("a file").to_string_lossy().into_owned();
    let digest = name.split('_').nth(4).expect("a digest").split('.').next().expect("a digest").to_owned();
    let relative = own.strip_prefix(stage.path(Which::Main)).expect("below it");
    let stranger = stage.path(Which::Second).join(relative).with_file_name(name.replace(&digest, "0123456789abcdef"));
    fs::copy(&own, &stranger).expect("own directory");
    drop(paused);
    let told = stage.host().run(&["queue", SOURCE, "--deliver"]).exits(1);
    assert!(told.stdout.contains("two servers write the same log"), "{told}");
    assert_eq!(stage.archived(Which::Second, &segments[0]), 1, "nothing was put beside it");
}
