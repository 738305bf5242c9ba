//! Nothing is left behind, however a drill ends; what one that was killed left, the next one removes.

use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::stage::{CHECKS, OBJECTIVES, Stage};
use crate::support::process::{self, Running};
use crate::support::sql::Sql;

const TIMEOUT: Duration = Duration::from_secs(60);

/// The process id of the server on the only scene; none while there is none.
fn server_of(stage: &Stage) -> Option<u32> {
    let pid_file = stage.scenes().first()?.join("data/postmaster.pid");
    std::fs::read_to_string(pid_file).ok()?.lines().next()?.parse().ok()
}

#[test]
fn what_a_killed_drill_left_is_stopped_and_removed_by_the_next() {
    let Some(stage) = Stage::start(15) else { return };
    let mut killed_server = None;
    for (number, point) in ["drill.scene-made", "drill.restored", "drill.started", "drill.checked"].into_iter().enumerate() {
        let mut command = stage.command(&[]);
        command.env("LIFEBOAT_KILL_AT", point);
        let output = process::run(command, TIMEOUT).killed();
        assert_eq!(output.stderr.contains("left when it was killed"), number > 0, "{point}: {output}");
        assert_eq!(stage.scenes().len(), 1, "{point}");
        if let Some(pid) = killed_server.take() {
            assert!(!process::is_alive(pid), "{point}: the server of the drill before");
        }
        killed_server = server_of(&stage);
        assert_eq!(killed_server.is_some_and(process::is_alive), number > 1, "{point}: a server was orphaned");
    }
    assert!(stage.stored_evidence().is_empty());
    stage.json(&[], 0);
    assert!(!killed_server.is_some_and(process::is_alive));
}

#[test]
fn a_panic_or_a_signal_leaves_nothing() {
    let Some(stage) = Stage::start(15) else { return };
    for point in ["drill.restored", "drill.started"] {
        let mut command = stage.command(&[]);
        command.env("LIFEBOAT_PANIC_AT", point);
        process::run(command, TIMEOUT).exits(1);
        stage.assert_nothing_left();
    }
    stage.policy(&format!("{OBJECTIVES}{CHECKS}[[drill.check]]\nsql = \"SELECT pg_sleep(100)\"\nrows = true\n"));
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        if signal == Signal::HUP && ignores_hangup() {
            println!("not tried: whoever runs this test ignores SIGHUP, and so does what it starts");
            continue;
        }
        let running = stage.start_drill(&[]);
        process::wait_until("the restored server runs", TIMEOUT, || server_of(&stage).is_some());
        let server = server_of(&stage).expect("just seen");
        interrupt(running, signal);
        assert!(!process::is_alive(server));
        stage.assert_nothing_left();
    }
    assert!(stage.stored_evidence().is_empty(), "an interrupted drill says nothing");
}

fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").expect("this process");
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("its ignored signals");
    u64::from_str_radix(mask.trim(), 16).expect("a mask") & 1 != 0
}

fn interrupt(running: Running, signal: Signal) {
    running.signal(signal);
    running.finish(TIMEOUT).exits(130);
}

#[test]
fn a_kept_scene_can_be_looked_at_and_removed_as_it_says() {
    let Some(stage) = Stage::start(15) else { return };
    let output = stage.drill(&["--keep", "--output", "json"]).success();
    let document: Value = serde_json::from_str(&output.stdout).expect("JSON");
    let kept = &document["kept"];
    let directory = Path::new(kept["directory"].as_str().expect("a directory"));
    let conninfo = format!("host={} port=5432 user=postgres dbname=postgres", directory.join("socket").display());
    let mut sql = Sql::connect(&conninfo).expect("the server runs");
    assert_eq!(sql.value("SELECT sum(amount) FROM ledger"), "0");
    for (setting, value) in [("archive_mode", "off"), ("listen_addresses", ""), ("ssl", "off"), ("primary_conninfo", "")] {
        assert_eq!(sql.value(&format!("SHOW {setting}")), value, "{setting}");
    }
    assert_eq!(sql.value("SHOW data_directory"), directory.join("data").display().to_string());
    let location = sql.value("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'space'");
    assert!(Path::new(&location).starts_with(directory), "{location}");
    assert!(kept["connect"].as_str().expect("text").starts_with("psql "));
    drop(sql);

    let server = server_of(&stage).expect("it runs");
    stage.drill(&["--level", "component"]).success();
    assert!(process::is_alive(server), "the next drill leaves it alone");
    let mut remove = process::command(Path::new("/bin/sh"), stage.scenario.rescue.dir().path());
    remove.arg("-c").arg(kept["remove"].as_str().expect("a command"));
    process::run(remove, TIMEOUT).success();
    assert!(!process::is_alive(server));
    stage.assert_nothing_left();
}
