//! Each format of one status, and the ways in which it is told.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use rustix::process::Signal;

use crate::exposition;
use crate::stage::Stage;
use crate::support::postgres::RECOVERY_TIMEOUT;
use crate::support::process;
use crate::support::scenario::SOURCE;

/// `LIFEBOAT STATE - text | 'label'=value[s];warning;critical;0 …`.
#[track_caller]
fn assert_nagios(line: &str, state: &str) {
    let line = line.strip_suffix('\n').expect("one line");
    assert!(!line.contains('\n'), "one line: {line}");
    let (told, measured) = line.split_once(" | ").unwrap_or_else(|| panic!("no performance data: {line}"));
    assert!(told.starts_with(&format!("LIFEBOAT {state} - {SOURCE} ")), "{line}");
    for one in measured.split(' ') {
        let (label, value) = one.split_once('=').unwrap_or_else(|| panic!("{one}"));
        assert!(label.len() > 2 && label.starts_with('\'') && label.ends_with('\''), "{one}");
        let fields: Vec<&str> = value.split(';').collect();
        assert_eq!((fields.len(), fields[3]), (4, "0"), "{one}");
        assert!(fields[0] == "U" || fields[0].strip_suffix('s').is_some_and(|number| number.parse::<f64>().is_ok()), "{one}");
        assert!(fields[1..3].iter().all(|field| field.is_empty() || field.parse::<f64>().is_ok()), "{one}");
    }
}

#[test]
fn every_format_tells_the_same() {
    let Some(mut stage) = Stage::start("rpo = \"1h\"\nrto = \"30min\"\n[schedule]\nfull = \"0 2 * * 0\"") else { return };
    stage.commit();
    let host = stage.host();

    let document = stage.status();
    assert_eq!((&document["source"], &document["verdict"]), (&SOURCE.into(), &"unproven".into()));
    assert_eq!(document["objectives"]["rpo_seconds"], 3600.0);
    assert_eq!((&document["backups"][0]["type"], &document["backups"][0]["missed"]), (&"full".into(), &0.into()));
    assert_eq!((&document["window"].as_array().map(Vec::len), &document["repositories"][0]["gaps"]), (&Some(1), &0.into()));
    let as_format = host.ok(&["status", "--format", "json"]).stdout;
    let as_format: serde_json::Value = serde_json::from_str(&as_format).expect("JSON");
    let names = |status: &serde_json::Value| status.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&as_format["sources"][0]), names(&document));

    let text = host.ok(&["status"]).stdout;
    println!("{text}");
    assert!(text.starts_with("orders: UNPROVEN at "), "{text}");
    assert!(text.contains("\nwhat to do next\n") && text.contains("lifeboat drill orders"), "{text}");
    let wide: Vec<&str> = text.lines().filter(|line| line.chars().count() > 80 && !line.contains("lifeboat ")).collect();
    assert!(wide.is_empty(), "{wide:#?}");

    let samples = exposition::parse(&host.ok(&["status", "--format", "prometheus"]).stdout);
    let value = |name: &str, labels: &[(&str, &str)]| {
        let all = [&[("source", SOURCE)], labels].concat();
        let labels = all.into_iter().map(|(label, value)| (label.to_owned(), value.to_owned())).collect();
        samples.get(&(name.to_owned(), labels)).copied()
    };
    assert_eq!(value("lifeboat_verdict", &[("verdict", "unproven")]), Some(1.0));
    assert_eq!(value("lifeboat_verdict", &[("verdict", "ok")]), Some(0.0));
    assert_eq!(value("lifeboat_rpo_objective_seconds", &[]), Some(3600.0));
    assert!(value("lifeboat_rpo_seconds", &[("scope", "host_lost")]).is_some_and(|seconds| seconds > 0.0 && seconds < 60.0));
    assert_eq!(value("lifeboat_rpo_seconds", &[("scope", "credentials_stolen")]), Some(f64::INFINITY));
    assert_eq!(value("lifeboat_rpo_seconds", &[("scope", "site_lost")]), None, "not assessed");
    assert_eq!(value("lifeboat_repository_up", &[("repository", "main")]), Some(1.0));
    assert_eq!(value("lifeboat_rto_predicted_seconds", &[]), None, "never rehearsed");

    let nagios = host.run(&["status", SOURCE, "--format", "nagios"]).exits(1);
    println!("{}", nagios.stdout);
    assert_nagios(&nagios.stdout, "WARNING");

    let textfile = host.dir().join("lifeboat.prom");
    host.ok(&["status", "--textfile", textfile.to_str().expect("plain")]);
    assert_eq!(exposition::parse(&fs::read_to_string(&textfile).expect("it was written")).len(), samples.len());
    assert_eq!(fs::metadata(&textfile).expect("it was written").permissions().mode() & 0o777, 0o644);
    host.run(&["status", "--textfile", "/proc/nowhere.prom"]).exits(1);
    assert!(
        fs::read_to_string(host.state_dir().join("status/orders.jsonl")).expect("a history").lines().count() == 1,
        "one a minute"
    );
}

#[test]
fn a_watch_tells_block_after_block_until_it_is_interrupted() {
    let Some(stage) = Stage::start("rpo = \"1h\"\nrto = \"30min\"") else { return };
    let textfile = stage.host().dir().join("watched.prom");
    let running = stage.host().start(&["status", SOURCE, "--watch", "1", "--textfile", textfile.to_str().expect("plain")]);
    let written = || fs::metadata(&textfile).and_then(|metadata| metadata.modified()).ok();
    process::wait_until("the first block", RECOVERY_TIMEOUT, || written().is_some());
    let first = written();
    process::wait_until("the next block", RECOVERY_TIMEOUT, || written() > first);
    running.signal(Signal::INT);
    let output = running.finish(Duration::from_secs(20)).success();
    let blocks = output.stdout.matches("orders: UNPROVEN at ").count();
    assert!(blocks >= 2 && output.stdout.contains("\n\norders: "), "{output}");
    assert!(!output.stdout.contains('\x1b'), "no terminal is there to be redrawn: {output}");
}
