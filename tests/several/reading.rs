//! Readers that go on in another repository.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::stage::{Stage, Which};
use crate::support::postgres::RECOVERY_TIMEOUT;
use crate::support::process::{self, Running};
use crate::support::scenario::SOURCE;

#[test]
fn a_restore_whose_repository_goes_away_reads_on_from_the_other() {
    let Some(stage) = Stage::start("") else { return };
    stage
        .scenario
        .cluster
        .sql()
        .execute("CREATE TABLE bulk AS SELECT n, md5(n::text) AS text FROM generate_series(1, 50000) AS n");
    stage.scenario.full_backup();
    stage.archive_row();
    for point in ["restore.marked", "restore.created", "restore.pack-written"] {
        let into = stage.scenario.restored.join(point);
        let restore = ["restore", SOURCE, "--clone", "--into", into.to_str().expect("plain")];
        let mut command = stage.scenario.rescue.command(&restore);
        command.env("LIFEBOAT_STOP_AT", point);
        let running = Running::start(command);
        process::wait_until("it stops", RECOVERY_TIMEOUT, || is_stopped(running.pid()));
        stage.take_away(Which::Main);
        running.signal(Signal::CONT);
        let output = running.finish(RECOVERY_TIMEOUT).success();
        if point != "restore.pack-written" {
            assert!(output.stderr.contains("does not answer, reading on from file://"), "{point}: {output}");
        }
        stage.bring_back(Which::Main);
        let restored = stage.scenario.open(&into);
        assert_eq!((Stage::rows(&restored), restored.sql().number("SELECT count(*) FROM bulk")), (1, 50000), "{point}");
    }
}

/// What follows may be in the other one alone.
#[test]
fn where_the_log_ends_cannot_be_told_while_a_repository_is_away() {
    let Some(stage) = Stage::start("") else { return };
    stage.scenario.full_backup();
    let last = stage.archive_row();
    let incarnation = stage.incarnation();
    stage.take_away(Which::Main);
    let get = |name: &str| {
        let arguments = ["archive", "get", SOURCE, name, "fetched", "--incarnation", &incarnation];
        stage.scenario.rescue.run(&arguments)
    };
    get(&last).success();
    let refused = get("0000000100000000000000FF").exits(255);
    assert!(refused.stderr.contains("add --repository second to restore_command"), "{refused}");
}

fn is_stopped(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && line.contains("T (stopped)"))
}

#[test]
fn a_repository_that_keeps_silent_delays_recovery_once_and_not_for_every_segment() {
    let Some(stage) = Stage::start("") else { return };
    stage.scenario.full_backup();
    let segments: Vec<String> = (0..4).map(|_| stage.archive_row()).collect();
    // Accepts connections, and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    let endpoint = format!("http://{}", silent.local_addr().expect("bound"));
    let own = format!("url = \"file://{}\"", stage.path(Which::Main).display());
    let bucket = format!("url = \"s3://silent/main\"\nendpoint = \"{endpoint}\"\nregion = \"eu-central-1\"");
    let rescue = &stage.scenario.rescue;
    assert!(rescue.configuration().contains(&own), "{}", rescue.configuration());
    rescue.configure_text(&rescue.configuration().replace(&own, &bucket));
    let incarnation = stage.incarnation();
    let seconds: Vec<f64> = segments
        .iter()
        .map(|segment| {
            let fetched = rescue.dir().join(format!("fetched-{segment}"));
            let get = ["archive", "get", SOURCE, segment, fetched.to_str().expect("plain"), "--incarnation"];
            let mut command = rescue.command(&[&get[..], &[incarnation.as_str()]].concat());
            command.env("AWS_ACCESS_KEY_ID", "someone").env("AWS_SECRET_ACCESS_KEY", "secret");
            let began = Instant::now();
            process::run(command, Duration::from_secs(60)).success();
            let original = std::fs::read(stage.scenario.cluster.data.join("pg_wal").join(segment)).expect("still there");
            assert!(std::fs::read(&fetched).expect("fetched") == original);
            began.elapsed().as_secs_f64()
        })
        .collect();
    println!("seconds for each segment: {seconds:.2?}");
    assert!((1.5..15.0).contains(&seconds[0]), "the silent one is asked first: {seconds:?}");
    assert!(seconds[1..].iter().all(|later| *later < 1.5), "{seconds:?}");
}

#[test]
fn what_one_repository_lost_the_other_gives() {
    let Some(stage) = Stage::start("") else { return };
    stage.scenario.full_backup();
    stage.archive_row();
    for path in crate::support::listing::log_objects(&stage.path(Which::Main)) {
        std::fs::remove_file(path).expect("own directory");
    }
    // A plan from the first repository ends where its log does; the second one's does not.
    let restored = stage.restore_from(Which::Second, "second");
    assert_eq!(Stage::rows(&restored), 1);
}

#[test]
fn the_end_of_the_log_is_looked_for_in_every_repository() {
    let Some(stage) = Stage::start("log_copies = 1") else { return };
    stage.scenario.full_backup();
    stage.archive_row();
    stage.wait_delivered(Which::Main);
    stage.wait_delivered(Which::Second);
    stage.take_away(Which::Main);
    (0..3).for_each(|_| drop(stage.archive_row()));
    // The host is lost, and with it what it still had to deliver.
    std::fs::remove_dir_all(stage.host().state_dir().join("queue")).expect("own directory");
    stage.bring_back(Which::Main);
    let restored = stage.scenario.restore_and_start("farthest", &[]);
    assert_eq!(Stage::rows(&restored), 4, "the first repository has only the first of them");
}
