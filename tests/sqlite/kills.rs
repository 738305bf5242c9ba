//! Killed at every named point: the next run converges, and nothing that was stored is lost or stored in two ways.

use std::collections::BTreeSet;

use crate::support::process;
use crate::world::{Following, PATIENCE, SOURCE, World, insert, numbers};

/// `archive stream` that is killed at a point.
fn killed_at(world: &World, point: &str) {
    let mut command = world.host.command(&["archive", "stream", SOURCE, "--flush", "100ms"]);
    command.env("LIFEBOAT_KILL_AT", point);
    process::run(command, PATIENCE).killed();
}

/// Restores hold what was committed; no number has two contents.
#[track_caller]
fn is_sound(world: &World, rows: u32, point: &str) {
    let segments = world.segments();
    let unique: BTreeSet<u64> = numbers(&segments).into_iter().collect();
    assert_eq!(unique.len(), segments.len(), "{point}: two contents under one number");
    assert_eq!(world.rows(&[]), rows, "{point}");
}

#[test]
fn a_segment_that_is_on_its_way_is_stored_once() {
    let world = World::new();
    let program = world.program();
    let mut following = world.follow("100ms");
    following.until("the first backup", || world.repository.names_below("app/commit/").len() == 1);
    following.end().success();
    let mut rows = 0;
    let points =
        ["follow.segment-kept", "push.encoded", "push.stored", "push.recorded", "follow.segment-stored", "follow.segment-noted"];
    for point in points {
        rows += 1;
        insert(&program, rows);
        killed_at(&world, point);
        // More than what was on its way: it must not go into the same segment.
        rows += 1;
        insert(&program, rows);
        let mut following = world.follow("100ms");
        let stored = || numbers(&world.segments()).len() as u32 == rows;
        following.until("both are stored, one after the other", stored);
        following.end().success();
        is_sound(&world, rows, point);
    }
    assert_eq!(numbers(&world.segments()), (1..=u64::from(rows)).collect::<Vec<_>>(), "without a gap");
    assert_eq!(world.repository.names_below("app/commit/").len(), 1, "and without another backup");
}

#[test]
fn a_backup_from_which_the_log_goes_on_is_taken_again_when_it_was_cut_off() {
    let world = World::new();
    let program = world.program();
    let mut rows = 0;
    for point in [
        "backup.begun",
        "backup.started",
        "backup.pack-stored",
        "backup.copied",
        "backup.packs-listed",
        "backup.manifest-stored",
        "backup.committed",
        "follow.backup-noted",
    ] {
        rows += 1;
        insert(&program, rows);
        // The log is begun again while nobody looks: only a backup goes on.
        program.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        rows += 1;
        insert(&program, rows);
        killed_at(&world, point);
        let before = world.segments().len();
        let mut following = world.follow("100ms");
        // Known to be followed when a commit is stored.
        process::wait_until("followed", PATIENCE, || {
            rows += 1;
            insert(&program, rows);
            std::thread::yield_now();
            world.segments().len() > before || following.has_ended()
        });
        following.end().success();
        is_sound(&world, rows, point);
    }
}

#[test]
fn what_was_lost_is_not_forgotten_with_the_process_that_saw_it() {
    let world = World::new();
    let program = world.program();
    insert(&program, 1);
    let mut following = world.follow("100ms");
    following.until("the first backup", || world.repository.names_below("app/commit/").len() == 1);
    insert(&program, 2);
    following.until("stored", || world.segments().len() == 1);
    following.kill();
    let mut command = world.host.command(&["archive", "stream", SOURCE, "--flush", "100ms"]);
    command.env("LIFEBOAT_KILL_AT", "follow.lost");
    program.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    insert(&program, 3);
    process::run(command, PATIENCE).killed();
    let mut following = Following::of(&world.host, "100ms");
    following.until("another backup", || world.repository.names_below("app/commit/").len() == 2);
    insert(&program, 4);
    following.until("stored", || world.segments().len() == 2);
    following.end().success();
    assert_eq!(numbers(&world.segments()), [1, 3]);
    assert_eq!(world.rows(&[]), 4);
}

#[test]
fn a_restore_that_is_cut_off_leaves_no_file_under_the_name() {
    let world = World::new();
    let program = world.program();
    let mut following = world.follow("100ms");
    following.until("the first backup", || world.repository.names_below("app/commit/").len() == 1);
    insert(&program, 1);
    following.until("stored", || world.segments().len() == 1);
    following.end().success();
    for point in ["restore.marked", "restore.created", "restore.pack-written", "restore.synced"] {
        let into = world.restored.join("cut-off.db");
        world.rescue.run_killed_at(point, &["restore", SOURCE, "--into", into.to_str().unwrap()]).killed();
        assert!(!into.exists(), "{point}");
        world.rescue.ok(&["restore", SOURCE, "--into", into.to_str().unwrap()]);
        std::fs::remove_file(into).unwrap();
    }
}
