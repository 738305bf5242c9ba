//! One scheduler from its start to its end: signals, crashes, reloads, its record and its metrics.

use std::io::{Read, Write};
use std::net::TcpStream;

use rustix::process::Signal;

use crate::stage::{LONG, MISSED_FULL, assert_one_backup, claims, events, policy, scheduled, stop, wait_said, wait_settled};
use crate::support::listing::backups;
use crate::support::process::{self, Running};
use crate::support::scenario::{SOURCE, Scenario};

/// A scheduler whose backup cannot end before the archive works again; with the backup's process.
fn stuck(scenario: &Scenario) -> (Running, u32) {
    scenario.cluster.configure(["archive_command = 'false'"]);
    let mut running = scenario.protected.start(&["run"]);
    wait_said(&mut running, "full started: attempt 1");
    let mut child = None;
    process::wait_until("the backup has stored its files", LONG, || {
        child = process::children_of(running.pid()).first().copied();
        scenario.repository.names_below(&format!("{SOURCE}/backup/")).iter().any(|name| name.contains("/pack-"))
    });
    (running, child.expect("a job under way"))
}

fn mend(scenario: &Scenario) {
    scenario.cluster.configure([scenario.protected.archive_command(SOURCE)]);
}

#[test]
fn to_stop_ends_the_backup_cleanly_and_the_next_start_goes_on() {
    let Some(scenario) = scheduled(MISSED_FULL, "") else { return };
    let (running, child) = stuck(&scenario);
    let ended = stop(running);
    assert!(ended.stderr.contains("full interrupted"), "{ended}");
    assert!(!process::is_alive(child));
    mend(&scenario);
    assert_eq!(backups(&scenario.protected), Vec::<String>::new());
    let running = scenario.protected.start(&["run"]);
    wait_settled(&scenario.protected, "full");
    stop(running);
    assert_one_backup(&scenario, 2);
    assert!(claims(&scenario, "full").iter().any(|name| name.ends_with("-0002.end.json")));
}

#[test]
fn killed_with_its_backup_the_slot_is_run_once_more_and_no_more() {
    let Some(scenario) = scheduled(MISSED_FULL, "") else { return };
    let (running, child) = stuck(&scenario);
    running.signal(Signal::KILL);
    process::signal_pid(child, Signal::KILL);
    running.finish(LONG).killed();
    process::wait_until("the backup is dead", LONG, || !process::is_alive(child));
    let list = scenario.protected.json(&["run", "--list"]);
    assert_eq!((&list["running"], &list["jobs"][0]["last"]["ended"]), (&false.into(), &serde_json::Value::Null));
    mend(&scenario);
    for _ in 0..2 {
        let running = scenario.protected.start(&["run"]);
        wait_settled(&scenario.protected, "full");
        stop(running);
    }
    assert_one_backup(&scenario, 2);
}

/// The backup lives on, and commits; whoever comes next sees that by its lease, and then by the fact.
#[test]
fn killed_without_its_backup_the_slot_is_not_run_again() {
    let Some(scenario) = scheduled(MISSED_FULL, "") else { return };
    let (running, child) = stuck(&scenario);
    running.signal(Signal::KILL);
    running.finish(LONG).killed();
    assert!(process::is_alive(child));
    let mut running = scenario.protected.start(&["run"]);
    wait_said(&mut running, "started, with");
    let other = scenario.protected.twin();
    let elsewhere = other.start(&["run"]);
    mend(&scenario);
    wait_settled(&scenario.protected, "full");
    wait_settled(&other, "full");
    stop(running);
    stop(elsewhere);
    assert_one_backup(&scenario, 1);
}

#[test]
fn a_failure_is_recorded_shown_and_not_repeated_at_once() {
    let Some(scenario) = scheduled(&format!("{MISSED_FULL}\nincr = \"0 0 2 1 *\""), "") else { return };
    let conninfo = scenario.cluster.conninfo();
    let sound = scenario.protected.configuration();
    scenario.protected.configure_text(&sound.replace(&conninfo, "host=/nonexistent user=postgres"));
    let mut running = scenario.protected.start(&["run"]);
    // Both types fail, the light one after the heavy one; then both wait.
    wait_said(&mut running, "full failed");
    wait_said(&mut running, "incr failed");
    let second = scenario.protected.run(&["run"]).refuses(21, &["another scheduler", "run --list"]);
    assert!(second.stdout.is_empty());
    let list = scenario.protected.ok(&["run", "--list"]).stdout;
    assert!(list.lines().all(|line| line.chars().count() <= 80), "{list}");
    assert!(list.contains("failed") && list.contains("orders full: "), "{list}");
    let json = scenario.protected.json(&["run", "--list"]);
    assert_eq!(json["running"], true);
    assert!(json["jobs"][0]["last"]["error"].as_str().is_some_and(|error| error.contains("connect")), "{json}");
    stop(running);
    // The pause outlives a restart.
    let before = events(&scenario.protected, "full").len();
    let mut running = scenario.protected.start(&["run"]);
    wait_said(&mut running, "started, with");
    let began = std::time::Instant::now();
    process::wait_until("it would have tried again", LONG, || began.elapsed().as_secs() > 3);
    assert_eq!(events(&scenario.protected, "full").len(), before);
    stop(running);
}

#[test]
fn the_configuration_is_read_again_unless_it_is_broken() {
    let Some(scenario) = scheduled("", "") else { return };
    let host = &scenario.protected;
    let mut running = host.start(&["run"]);
    wait_said(&mut running, "started, with");
    let sound = host.configuration();
    host.configure_text(&format!("{sound}\n[nonsense]\n"));
    running.signal(Signal::HUP);
    wait_said(&mut running, "the old one stays: ");
    host.configure_text(&sound);
    host.write("p.toml", &policy(MISSED_FULL));
    running.signal(Signal::HUP);
    wait_said(&mut running, "configuration read again");
    wait_settled(host, "full");
    stop(running);
    assert_one_backup(&scenario, 1);
}

/// While the backup runs on, so that one lane alone is there when the policy comes back.
#[test]
fn a_policy_that_is_taken_away_and_put_back_is_followed_again() {
    let schedule = format!("{MISSED_FULL}\nverify = \"0 0 2 1 *\"");
    let other = "[source.other]\nkind = \"postgres\"\nconninfo = \"host=/nonexistent\"\npolicy = \"other.toml\"\n";
    let Some(scenario) = scheduled(&schedule, &format!("{other}[run]\nmetrics_listen = \"0\"\n")) else { return };
    let host = &scenario.protected;
    host.write("other.toml", &policy(""));
    let (mut running, _) = stuck(&scenario);
    let address = metrics_address(&mut running);
    let shown = || get(&address, "GET", "/metrics").contains("next_run_timestamp_seconds{source=\"orders\",job=\"verify\"}");
    process::wait_until("the verification is scheduled", LONG, &shown);
    let with = host.configuration();
    let own = with.lines().find(|line| line.starts_with("policy = ")).expect("its policy").to_owned();
    host.configure_text(&with.replacen(&own, "", 1));
    running.signal(Signal::HUP);
    process::wait_until("it is scheduled no more", LONG, || !shown());
    host.configure_text(&with);
    running.signal(Signal::HUP);
    process::wait_until("it is scheduled again", LONG, &shown);
    stop(running);
}

#[test]
fn slots_that_nobody_ran_are_told_once() {
    let Some(scenario) = scheduled("full = \"0 0 1 1 *\"\ntimezone = \"UTC\"", "") else { return };
    let host = &scenario.protected;
    // As if this scheduler had last lived nine hours ago.
    let now = lifeboat::base::Timestamp::now();
    let then = now.minus(std::time::Duration::from_secs(9 * 3600));
    let line =
        |job: &str, slot| serde_json::json!({"time": then, "source": SOURCE, "job": job, "slot": slot, "event": "elsewhere"});
    let new_year = lifeboat::base::Timestamp::parse_compact(&format!("{}0101T000000Z", &now.compact()[..4])).expect("a time");
    host.dir().write("state/run.jsonl", format!("{}\n{}\n", line("full", new_year), line("incr", then)));
    // Half an hour from now: no slot comes while this runs.
    let minute = (now.unix_micros() / 60_000_000 + 30) % 60;
    host.write("p.toml", &policy(&format!("full = \"0 0 1 1 *\"\ntimezone = \"UTC\"\nincr = \"{minute} * * * *\"")));
    for _ in 0..2 {
        let mut running = host.start(&["run"]);
        wait_said(&mut running, "started, with");
        process::wait_until("the slot is settled", LONG, || events(host, "incr").iter().any(|event| event["settled"] == true));
        stop(running);
    }
    let missed: Vec<_> = events(host, "incr").into_iter().filter(|event| event["event"] == "missed").collect();
    assert_eq!(missed.len(), 1, "{missed:?}");
    // Nine slots have come since then, the newest of which was run.
    assert_eq!(missed[0]["count"], 8, "{missed:?}");
    let list = host.json(&["run", "--list"]);
    let listed: Vec<_> = list["jobs"].as_array().expect("jobs").iter().map(|row| (&row["job"], &row["missed"])).collect();
    assert_eq!(listed, [(&"full".into(), &0.into()), (&"incr".into(), &8.into())]);
}

#[test]
fn metrics_and_health_are_served_and_nothing_else() {
    let Some(scenario) = scheduled(MISSED_FULL, "[run]\nmetrics_listen = \"0\"\n") else { return };
    let mut running = scenario.protected.start(&["run", "--output", "json"]);
    let address = metrics_address(&mut running);
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    wait_settled(&scenario.protected, "full");
    let metrics = get(&address, "GET", "/metrics");
    assert!(metrics.starts_with("HTTP/1.1 200 OK\r\n") && metrics.contains("text/plain; version=0.0.4"), "{metrics}");
    for wanted in [
        "lifeboat_run_last_success_timestamp_seconds{source=\"orders\",job=\"full\"} 1",
        "lifeboat_run_next_run_timestamp_seconds{source=\"orders\",job=\"full\"} 1",
        "lifeboat_run_missed_total{source=\"orders\",job=\"full\"} 0\n",
        "lifeboat_run_running{source=\"orders\",job=\"full\"} 0\n",
        "lifeboat_run_status_up ",
    ] {
        assert!(metrics.contains(wanted), "{wanted} is not in\n{metrics}");
    }
    assert!(get(&address, "GET", "/healthz").ends_with("\r\n\r\nok\n"));
    assert!(get(&address, "GET", "/etc/passwd").starts_with("HTTP/1.1 404 "));
    assert!(get(&address, "POST", "/metrics").starts_with("HTTP/1.1 405 "));
    let log = stop(running).stderr;
    let messages: Vec<serde_json::Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert!(messages.iter().any(|line| line["job"] == "full" && line["level"] == "info"), "{log}");
}

/// Where the scheduler serves its metrics.
fn metrics_address(running: &mut Running) -> String {
    wait_said(running, "metrics on http://");
    let said = running.stderr_so_far();
    said.split("http://").nth(1).and_then(|rest| rest.split('/').next()).expect("an address").to_owned()
}

/// The whole answer to a request.
fn get(address: &str, method: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("the scheduler listens");
    stream.set_read_timeout(Some(LONG)).expect("a socket");
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("a connection");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}
