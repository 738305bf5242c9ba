//! More than one repository, `lifeboat run`, and repositories that are away.

use crate::support::process;
use crate::world::{PATIENCE, SOURCE, World, insert, numbers, segments_in};

#[test]
fn what_the_second_repository_lacks_is_brought_there() {
    let mut world = World::new();
    let far = world.add_far("repositories = [\"main\", \"far\"]\nlog_copies = 1\nbackup_copies = 1\n");
    let program = world.program();
    insert(&program, 1);
    let mut following = world.follow("100ms");
    following.until("the backup is in both", || !far.names_below("app/commit/").is_empty());
    far.take_away();
    for n in 2..=4 {
        let before = world.segments().len();
        insert(&program, n);
        following.until("stored in one", || world.segments().len() > before);
    }
    following.end().success();
    far.bring_back();
    // What the follower started in the background may be at it still.
    process::wait_until("it is delivered", PATIENCE, || world.host.run(&["queue", SOURCE, "--deliver"]).code == Some(0));
    assert_eq!(numbers(&segments_in(&far)), numbers(&world.segments()));
    world.repository.take_away();
    assert_eq!(world.rows(&[]), 4);
    world.repository.bring_back();
}

#[test]
fn nothing_is_let_go_while_too_few_repositories_hold_it() {
    let mut world = World::new();
    let far = world.add_far("repositories = [\"main\", \"far\"]\nlog_copies = 2\nbackup_copies = 1\n");
    let program = world.program();
    let mut following = world.follow("100ms");
    following.until("the backup is in both", || !far.names_below("app/commit/").is_empty());
    insert(&program, 1);
    following.until("stored in both", || segments_in(&far).len() == 1);
    far.take_away();
    insert(&program, 2);
    following.until_said("is not followed for now");
    (3..=9).for_each(|n| insert(&program, n));
    following.kill();
    far.bring_back();
    let mut following = world.follow("100ms");
    following.until("all is stored", || segments_in(&far).len() >= 3);
    following.end().success();
    assert_eq!(numbers(&segments_in(&far)), numbers(&world.segments()));
    let count = segments_in(&far).len() as u64;
    assert_eq!(numbers(&world.segments()), (1..=count).collect::<Vec<_>>());
    assert_eq!(world.rows(&[]), 9);
}

#[test]
fn run_follows_where_the_policy_streams_the_log() {
    let world = World::with("policy = \"own\"");
    let program = world.program();
    insert(&program, 1);
    world.host.dir().create_dir("policies");
    world
        .host
        .write("policies/own.toml", "[objectives]\nrpo = \"1m\"\nrto = \"1h\"\n[log]\nmode = \"stream\"\nmax_lag = \"5s\"\n");
    let running = world.host.start(&["run"]);
    process::wait_until("a backup", PATIENCE, || world.repository.names_below("app/commit/").len() == 1);
    insert(&program, 2);
    process::wait_until("stored", PATIENCE, || world.segments().len() == 1);
    running.signal(rustix::process::Signal::TERM);
    let output = running.finish(PATIENCE).success();
    assert!(output.stderr.contains("following") || output.stdout.contains("following"), "{output}");
    assert_eq!(world.rows(&[]), 2);
}
