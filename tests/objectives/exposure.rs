//! What would be lost, against the server's own commit times.

use std::time::Duration;

use lifeboat::base::Timestamp;

use crate::stage::{Stage, add_keys, assert_near, has_reason, scope};
use crate::support::postgres::{RECOVERY_TIMEOUT, Stop};
use crate::support::process;

const OBJECTIVES: &str = "rpo = \"6s\"\nrto = \"30min\"";

#[test]
fn a_stopped_archiver_is_a_risk_then_a_breach_and_is_remembered_once_it_works_again() {
    let Some(mut stage) = Stage::start(OBJECTIVES) else { return };
    let before = stage.status();
    assert_eq!(
        (&scope(&before, "host_lost")["rpo_seconds"], &before["verdict"]),
        (&0.0.into(), &"unproven".into()),
        "{before:#}"
    );

    stage.stop_archiving();
    let first_lost = stage.commit();
    let mut seen: Vec<String> = Vec::new();
    process::wait_until("a breach", RECOVERY_TIMEOUT, || {
        stage.commit();
        let earliest = stage.clock();
        let status = stage.status();
        let latest = stage.clock();
        let host_lost = scope(&status, "host_lost");
        assert_eq!(host_lost["kind"], "exact", "{status:#}");
        assert_near(&host_lost["rpo_seconds"], earliest.since(first_lost), latest.since(first_lost), "exposure");
        let verdict = host_lost["verdict"].as_str().expect("a verdict").to_owned();
        if seen.last() != Some(&verdict) {
            seen.push(verdict);
        }
        seen.last().is_some_and(|verdict| verdict == "breach")
    });
    assert_eq!(seen, ["ok", "at_risk", "breach"]);
    let gate = stage.gate().exits(10);
    assert!(gate.stdout.contains("orders: BREACH") && gate.stdout.contains("lifeboat check orders"), "{gate}");
    stage.scenario.cluster.switch_wal();
    process::wait_until("the archiver fails", RECOVERY_TIMEOUT, || has_reason(&stage.status(), "archiver"));

    let not_yet = stage.clock();
    stage.archive_again();
    stage.scenario.archive_now();
    let arrived = stage.clock();
    let after = stage.status();
    let host_lost = scope(&after, "host_lost");
    assert_eq!((&host_lost["kind"], &host_lost["rpo_seconds"]), (&"exact".into(), &0.0.into()), "{after:#}");
    for worst in ["worst_24h_seconds", "worst_30d_seconds"] {
        assert_near(&host_lost[worst], not_yet.since(first_lost), arrived.since(first_lost), worst);
    }
    assert!(!has_reason(&after, "archiver") && !has_reason(&after, "rpo"), "{after:#}");
}

/// Whatever an idle server writes, nothing of it can be lost.
#[test]
fn an_idle_database_loses_nothing_and_what_is_not_a_commit_neither() {
    let Some(mut stage) = Stage::start("rpo = \"1s\"\nrto = \"30min\"") else { return };
    stage.sql.execute("INSERT INTO kept SELECT generate_series(1, 1000); DELETE FROM kept WHERE n % 2 = 0");
    stage.scenario.archive_now();
    stage.stop_archiving();
    let idle_since = stage.clock();
    process::wait_until("the RPO has passed twice", RECOVERY_TIMEOUT, || {
        stage.sql.execute("CHECKPOINT; SELECT pg_create_restore_point('idle')");
        stage.sql.execute("VACUUM kept");
        stage.sql.execute("BEGIN; INSERT INTO kept VALUES (7); ROLLBACK");
        let status = stage.status();
        let host_lost = scope(&status, "host_lost");
        assert_eq!((&host_lost["kind"], &host_lost["rpo_seconds"]), (&"exact".into(), &0.0.into()), "{status:#}");
        assert_eq!(host_lost["verdict"], "ok");
        stage.clock().since(idle_since) > Duration::from_secs(2)
    });
    // A client was told of it: it would be missed.
    stage.sql.execute("BEGIN; INSERT INTO kept VALUES (8); PREPARE TRANSACTION 'told'");
    let prepared = stage.clock();
    process::wait_until("the PREPARE is seen", RECOVERY_TIMEOUT, || {
        let status = stage.status();
        let now = stage.clock();
        assert_near(&scope(&status, "host_lost")["rpo_seconds"], Duration::ZERO, now.since(prepared), "exposure");
        scope(&status, "host_lost")["rpo_seconds"].as_f64() > Some(0.0)
    });
    stage.sql.execute("ROLLBACK PREPARED 'told'");
}

/// More log than one segment, with a commit that lies across two of them.
#[test]
fn the_first_commit_is_found_however_far_behind_the_archive_is() {
    let Some(mut stage) = Stage::start(OBJECTIVES) else { return };
    stage.stop_archiving();
    stage.sql.execute("BEGIN; INSERT INTO kept SELECT generate_series(1, 60000)");
    let status = stage.status();
    assert_eq!(scope(&status, "host_lost")["rpo_seconds"], 0.0, "nothing is committed yet: {status:#}");
    stage.sql.execute("COMMIT");
    let first_lost = last_commit(&mut stage);
    stage.sql.execute("INSERT INTO kept SELECT generate_series(1, 60000)");
    let earliest = stage.clock();
    let status = stage.status();
    let latest = stage.clock();
    let host_lost = scope(&status, "host_lost");
    assert_eq!(host_lost["kind"], "exact");
    assert_near(&host_lost["rpo_seconds"], earliest.since(first_lost), latest.since(first_lost), "exposure");
}

fn last_commit(stage: &mut Stage) -> Timestamp {
    let micros = "SELECT (extract(epoch FROM timestamp) * 1000000)::bigint FROM pg_last_committed_xact()";
    Timestamp::from_unix_micros(stage.sql.number(micros)).expect("a time of today")
}

#[test]
fn a_server_that_is_down_leaves_a_bound_or_its_own_log() {
    let Some(mut stage) = Stage::start(OBJECTIVES) else { return };
    stage.commit();
    stage.scenario.archive_now();
    stage.stop_archiving();
    let first_lost = stage.commit();
    stage.scenario.cluster.stop(Stop::Immediate);

    let earliest = Timestamp::now();
    let status = stage.status();
    let host_lost = scope(&status, "host_lost");
    assert_eq!(host_lost["kind"], "upper_bound", "{status:#}");
    assert!(host_lost["rpo_seconds"].as_f64() >= Some(earliest.since(first_lost).as_secs_f64()), "{status:#}");
    assert!(status["server"]["error"].is_string(), "{status:#}");
    let text = stage.host().ok(&["status"]).stdout;
    assert!(text.contains("at most") && text.contains("server              no answer"), "{text}");

    let data = stage.scenario.cluster.data.display().to_string();
    add_keys(stage.host(), &format!("data_directory = \"{data}\""));
    let earliest = Timestamp::now();
    let status = stage.status();
    let host_lost = scope(&status, "host_lost");
    assert_eq!(host_lost["kind"], "exact", "its log is still there: {status:#}");
    assert_near(&host_lost["rpo_seconds"], earliest.since(first_lost), Timestamp::now().since(first_lost), "exposure");
}

#[test]
fn without_a_backup_everything_would_be_lost_and_log_from_before_the_first_does_not_count() {
    let Some(mut stage) = Stage::without_backup(OBJECTIVES) else { return };
    stage.stop_archiving();
    stage.commit();
    let status = stage.status();
    let host_lost = scope(&status, "host_lost");
    assert_eq!((&host_lost["kind"], &host_lost["rpo_seconds"]), (&"infinite".into(), &serde_json::Value::Null), "{status:#}");
    assert_eq!((&status["verdict"], &status["reasons"][0]["class"]), (&"breach".into(), &"backup".into()));
    assert_eq!(status["reasons"][0]["command"], "lifeboat backup orders --type full");

    // The commit above has waited for longer than the RPO when its segment arrives; nobody could have restored it before.
    let waited_from = stage.clock();
    process::wait_until("the RPO has passed", RECOVERY_TIMEOUT, || stage.clock().since(waited_from) > Duration::from_secs(7));
    stage.archive_again();
    stage.scenario.full_backup();
    let status = stage.status();
    let worst = scope(&status, "host_lost")["worst_30d_seconds"].as_f64().expect("known");
    assert!(worst < 6.0, "{status:#}");
}
