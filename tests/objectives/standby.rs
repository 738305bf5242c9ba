//! A warm standby: what `status`, the report and the runbook make of it, and what they do not when it cannot be relied on.

use std::path::Path;
use std::time::Duration;

use lifeboat::base::DrillLevel::Component;
use lifeboat::repo::evidence::DrillOutcome::Passed;
use serde_json::Value;

use crate::stage::{Stage, add_keys, has_reason, phases};
use crate::support::postgres::{Cluster, RECOVERY_TIMEOUT, Stop};
use crate::support::process;

const MIB: f64 = 1048576.0;

#[test]
fn a_standby_shortens_the_recovery_as_long_as_it_follows() {
    let Some(mut stage) = Stage::start("rpo = \"10min\"\nrto = \"1min\"\ndetection = \"10s\"") else { return };
    let data = stage.scenario.restore("standby", &["--standby"]);
    add_keys(stage.host(), &format!("standby = \"{}\"", data.display()));
    let down = stage.status();
    assert_eq!(down["standby"]["counts"], false, "{down:#}");
    assert!(has_reason(&down, "standby") && down["standby"]["why_not"].to_string().contains("no server runs"), "{down:#}");

    let standby = Cluster::open(&stage.scenario.cluster.installation, &data);
    let mut standby = standby.with_override("wal_retrieve_retry_interval=200ms");
    standby.start();
    stage.commit();
    stage.scenario.archive_now();
    let status = caught_up(&stage);
    assert!(status["standby"]["predicted_seconds"].is_null() && status["rto"]["by"].is_null(), "never measured: {status:#}");
    assert!(!has_reason(&status, "standby") && has_reason(&status, "stale_drill"), "{status:#}");

    // So slow that a restore breaks the RTO: the promotion replays nothing, and does not.
    stage.sign_drill(Component, Passed, phases(8 << 20, 8 << 20, 0.12 * MIB), Duration::from_secs(3600));
    stage.sign_drill(Component, Passed, phases(4 << 20, 4 << 20, 0.12 * MIB), Duration::from_secs(1800));
    let status = stage.status();
    let rto = &status["rto"];
    assert_eq!(rto["by"], "standby", "{status:#}");
    assert_eq!(rto["predicted_seconds"], status["standby"]["predicted_seconds"]);
    let (predicted, restore) = (rto["predicted_seconds"].as_f64(), rto["restore_seconds"].as_f64());
    assert!(predicted < Some(60.0) && restore > Some(60.0), "{status:#}");
    papers(&stage, &data);

    standby.stop(Stop::Fast);
    let gone = stage.status();
    assert_eq!((&gone["rto"]["by"], &gone["rto"]["predicted_seconds"]), (&"restore".into(), &gone["rto"]["restore_seconds"]));
    assert!(has_reason(&gone, "standby") && has_reason(&gone, "rto"), "{gone:#}");
    let page = stage.host().run(&["status"]).success();
    assert!(page.stdout.contains("counts for nothing: no server runs"), "{page}");
    assert!(page.stdout.lines().filter(|line| !line.contains("lifeboat ")).all(|line| line.chars().count() <= 80), "{page}");
}

/// The status once the standby has all that is archived.
#[track_caller]
fn caught_up(stage: &Stage) -> Value {
    let mut last = Value::Null;
    process::wait_until("the standby", RECOVERY_TIMEOUT, || {
        last = stage.status();
        last["standby"]["lag_seconds"] == 0.0
    });
    assert_eq!((&last["standby"]["counts"], &last["standby"]["timeline"]), (&true.into(), &1.into()), "{last:#}");
    last
}

#[track_caller]
fn papers(stage: &Stage, data: &Path) {
    let host = stage.host();
    let text = host.ok(&["status"]).stdout;
    for told in ["by promoting the standby", "  standby             has all that is archived; promoted in about"] {
        assert!(text.contains(told), "{told}: {text}");
    }
    let metrics = host.ok(&["status", "--format", "prometheus"]).stdout;
    for told in ["lifeboat_standby_counts{source=\"orders\"} 1", "lifeboat_standby_lag_seconds{source=\"orders\"} 0"] {
        assert!(metrics.contains(told), "{told}: {metrics}");
    }
    let book = host.ok(&["runbook", "orders"]).stdout;
    for told in ["## 2a. Or promote the standby (about", "lifeboat promote orders --dry-run", &data.display().to_string()] {
        assert!(book.contains(told), "{told}: {book}");
    }
    host.ok(&["report", "--file", "page.html"]);
    let page = std::fs::read_to_string(host.dir().join("page.html")).expect("the page");
    for told in ["Warm standby", "its promotion would take about", "What happened when", "▲", "Commits in each "] {
        assert!(page.contains(told), "{told}");
    }
}

/// No key, no server: names alone tell what happened when.
#[test]
fn the_report_tells_what_happened_when() {
    let Some(mut stage) = Stage::start("rpo = \"10min\"\nrto = \"1min\"") else { return };
    let commits = 7;
    for _ in 0..commits {
        stage.commit();
    }
    stage.scenario.archive_now();
    let timeline = stage.host().json(&["timeline", "orders"]);
    let expected: u64 = timeline["rows"].as_array().expect("rows").iter().filter_map(|row| row["commits"].as_u64()).sum();
    assert!(expected >= commits, "{timeline:#}");
    stage.scenario.cluster.stop(Stop::Fast);
    stage.host().ok(&["report", "--file", "page.html"]);
    let page = std::fs::read_to_string(stage.host().dir().join("page.html")).expect("the page");
    let section = page.split("What happened when").nth(1).expect("the section").split("What can be restored").next();
    let section = section.expect("it ends");
    assert!(section.contains("<svg") && section.contains("</svg>"), "{section}");
    let told = section.split("</figure>").nth(1).and_then(|text| text.split(" commits").next()?.rsplit('>').next());
    let told: u64 = told.expect("a number").parse().unwrap_or_else(|error| panic!("{error}: {section}"));
    // Stopping the server has archived a little more, none of it a commit.
    assert_eq!(told, expected, "{section}");
}
