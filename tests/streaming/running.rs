//! The stream that `lifeboat run` keeps going where the policy says so.

use std::time::Duration;

use rustix::process::Signal;

use super::support::postgres::{Options, RECOVERY_TIMEOUT, Stop};
use super::support::process::{self, Running};
use super::support::scenario::{SOURCE, Scenario};
use super::{SLOT, Writer, assert_same_log, wait_stored, wait_streaming};

const POLICY: &str = "[objectives]\nrto = \"30min\"\nrpo = \"1min\"\n";

/// A cluster without an archiver, whose policy says how the log travels.
fn with_policy(mode: &str) -> Option<Scenario> {
    let options = Options { wal_segment_mib: 1, ..Options::default() }.with("wal_keep_size = 1GB");
    let mut scenario = Scenario::on(17, &options)?;
    scenario.cluster.sql().execute("CREATE TABLE kept (id bigint PRIMARY KEY, filler text)");
    declare(&scenario, mode);
    let file = scenario.protected.dir().join("p.toml");
    let with_policy = format!("kind = \"postgres\"\nflush = \"200ms\"\npolicy = \"{}\"", file.display());
    scenario.protected.configure_text(&scenario.protected.configuration().replace("kind = \"postgres\"", &with_policy));
    scenario.cluster.configure(["archive_mode = off"]);
    scenario.cluster.restart();
    Some(scenario)
}

fn declare(scenario: &Scenario, mode: &str) {
    scenario.protected.write("p.toml", &format!("{POLICY}[log]\nmode = \"{mode}\"\n"));
}

#[track_caller]
fn wait_said(running: &mut Running, words: &str) {
    process::wait_until(words, RECOVERY_TIMEOUT, || {
        let said = running.stderr_so_far().contains(words);
        assert!(said || !running.has_ended(), "{}", running.stderr_so_far());
        said
    });
}

/// What `status` says of the slot.
fn told_of_slot(scenario: &Scenario) -> String {
    let document = scenario.protected.json(&["status", SOURCE]);
    let reasons = document["sources"][0]["reasons"].as_array().expect("a list");
    let of_slot = reasons.iter().filter(|reason| reason["class"] == "slot");
    of_slot.map(|reason| format!("{} {}\n", reason["message"], reason["command"])).collect()
}

/// What `check` says of it.
fn checked(scenario: &Scenario) -> String {
    let output = scenario.protected.run(&["check", SOURCE]);
    output.stdout.lines().skip_while(|line| !line.contains("replication slot")).take(4).collect::<Vec<_>>().join("\n")
}

/// Of a source whose standby is backed up: the stream's slot is the standby's, whatever slots the primary has.
#[test]
fn the_slot_of_a_stream_from_a_standby_is_asked_there() {
    let Some(scenario) = super::scenario(17) else { return };
    scenario.full_backup();
    let mut standby = scenario.standby(&["--clone"], &["archive_mode=on"]);
    declare(&scenario, "stream");
    let quoted = |conninfo: String| toml::Value::String(conninfo).to_string();
    let of_primary = format!("conninfo = {}", quoted(scenario.cluster.conninfo()));
    let of_standby = format!("conninfo = {}\nprimary_{of_primary}\npolicy = \"p.toml\"", quoted(standby.conninfo()));
    let text = scenario.protected.configuration();
    assert!(text.contains(&of_primary), "{text}");
    scenario.protected.configure_text(&text.replace(&of_primary, &of_standby));
    let slot = || scenario.protected.json(&["status", SOURCE])["sources"][0]["server"]["slot"].clone();

    scenario.cluster.sql().execute(&format!("SELECT pg_create_physical_replication_slot('{SLOT}')"));
    assert!(told_of_slot(&scenario).contains("the server has no slot lifeboat_orders"), "{}", told_of_slot(&scenario));
    assert!(slot().is_null(), "{}", slot());
    let running = super::stream(&scenario, &standby, "200ms");
    assert_eq!((told_of_slot(&scenario).as_str(), &slot()["active"]), ("", &true.into()), "{}", slot());
    drop(running);
    process::wait_until("the slot is free", RECOVERY_TIMEOUT, || slot()["active"] == false);
    assert!(told_of_slot(&scenario).contains("is not used"), "{}", told_of_slot(&scenario));
    standby.stop(Stop::Fast);
    let told = told_of_slot(&scenario);
    assert!(told.contains("the slot of the stream cannot be looked at") && told.contains("check orders"), "{told}");
}

#[test]
fn a_stream_is_kept_going_restarted_reloaded_and_ended() {
    let Some(scenario) = with_policy("stream") else { return };
    let cluster = &scenario.cluster;
    assert!(told_of_slot(&scenario).contains("the server has no slot lifeboat_orders"), "{}", told_of_slot(&scenario));
    let first: String = cluster.sql().value("SELECT pg_walfile_name(pg_current_wal_lsn())");
    let mut run = scenario.protected.start(&["run"]);
    wait_streaming(cluster, &mut run);
    // No archiver, and a backup is one all the same.
    scenario.full_backup();
    Writer::run(cluster, Duration::from_millis(400));
    wait_stored(cluster, &mut run);
    assert_eq!(told_of_slot(&scenario), "");
    assert!(checked(&scenario).contains("is used by a stream"), "{}", checked(&scenario));
    let list = scenario.protected.json(&["run", "--list"]);
    assert_eq!((&list["streams"][0]["running"], &list["streams"][0]["slot"]), (&true.into(), &SLOT.into()), "{list:#}");

    // A second one is told who holds the slot.
    scenario.protected.run(&["archive", "stream", SOURCE]).refuses(21, &["is used by another process", "lifeboat_orders from"]);

    let stream_of = |run: &Running| process::children_of(run.pid()).first().copied();
    let child = stream_of(&run).expect("a stream");
    process::signal_pid(child, Signal::KILL);
    wait_said(&mut run, "the log is not streamed: killed by signal 9");
    process::wait_until("another stream", RECOVERY_TIMEOUT, || stream_of(&run).is_some_and(|other| other != child));
    wait_streaming(cluster, &mut run);

    // The slot is another one from now on.
    let text = scenario.protected.configuration();
    scenario.protected.configure_text(&text.replace("flush = \"200ms\"", "flush = \"100ms\"\nslot = \"other\""));
    run.signal(Signal::HUP);
    wait_said(&mut run, "streaming the log through slot other");
    process::wait_until("the other slot", RECOVERY_TIMEOUT, || {
        cluster.sql().number("SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'other' AND active") == 1
    });
    assert!(run.stderr_so_far().contains("the stream ended, and what it had is stored"), "{}", run.stderr_so_far());
    scenario.protected.configure_text(&text);
    run.signal(Signal::HUP);
    process::wait_until("the first slot", RECOVERY_TIMEOUT, || {
        cluster.sql().number(&format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{SLOT}' AND active")) == 1
    });
    cluster.sql().execute("SELECT pg_drop_replication_slot('other')");

    Writer::run(cluster, Duration::from_millis(200));
    run.signal(Signal::TERM);
    let ended = run.finish(Duration::from_secs(60)).success();
    assert!(ended.stderr.contains("the stream ended, and what it had is stored"), "{ended}");
    assert_same_log(&scenario, cluster, &first);
    let told = told_of_slot(&scenario);
    assert!(told.contains("slot lifeboat_orders is not used") && told.contains("lifeboat run"), "{told}");

    declare(&scenario, "segments");
    let told = told_of_slot(&scenario);
    assert!(told.contains("is an orphan") && told.contains("pg_drop_replication_slot('lifeboat_orders')"), "{told}");
    assert!(checked(&scenario).contains("is an orphan"), "{}", checked(&scenario));
}

/// A scheduler that is killed leaves its stream at work; the next one leaves it there, and goes on when it ends.
#[test]
fn a_stream_that_outlives_its_scheduler_is_left_at_work() {
    let Some(scenario) = with_policy("stream") else { return };
    let cluster = &scenario.cluster;
    let mut first = scenario.protected.start(&["run"]);
    wait_streaming(cluster, &mut first);
    let stream = process::children_of(first.pid()).first().copied().expect("a stream");
    first.signal(Signal::KILL);
    first.finish(Duration::from_secs(10)).killed();
    assert!(process::is_alive(stream));
    let mut second = scenario.protected.start(&["run"]);
    wait_said(&mut second, "the stream that an earlier scheduler started is at work");
    process::signal_pid(stream, Signal::TERM);
    wait_said(&mut second, "streaming the log through slot");
    wait_streaming(cluster, &mut second);
    second.signal(Signal::TERM);
    second.finish(Duration::from_secs(60)).success();
}
