//! What the log tells where things are not as usual: the oldest and the newest server, a standby, after a promotion, in a
//! directory that was restored in place, and after an interruption with a lie in it.

use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use serde_json::Value;

use crate::stage;
use crate::support::amcheck;
use crate::support::majors::on_majors;
use crate::support::postgres::{Cluster, Options, RECOVERY_TIMEOUT, Stop};
use crate::support::process;
use crate::support::scenario::{SOURCE, Scenario};

on_majors! {
    the_log_tells_what_changed: pg13 13, pg18 18;
}

fn detected(report: &Value) -> (&str, &str) {
    let text = |key: &str| report["detection"][key].as_str().unwrap_or_default();
    (text("changed_pages"), text("reason"))
}

fn the_log_tells_what_changed(major: u32) {
    let Some(scenario) = stage::start_on(major, &Options::default()) else { return };
    let steps = [
        "DELETE FROM stock WHERE item % 7 = 0; CREATE INDEX ON stock (name)",
        "VACUUM stock",
        "TRUNCATE still; INSERT INTO still SELECT n, md5(n::text) FROM generate_series(1, 500) AS n; CREATE TABLE made AS TABLE stock",
        "VACUUM FULL stock",
        "DROP TABLE made; UPDATE still SET n = n + 1; CHECKPOINT",
    ];
    for (step, statements) in steps.into_iter().enumerate() {
        scenario.cluster.sql().execute(statements);
        if step % 2 == 0 {
            scenario.archive_now();
        }
        let report = stage::exactly(&scenario, "incr");
        assert_eq!(detected(&report), ("log", ""), "{report:#}");
        let expected = stage::relation_files(&scenario.cluster.data);
        let restored = stage::restore(&scenario, report["id"].as_str().expect("an id"), &format!("step-{step}"));
        stage::assert_same(&restored, &expected);
    }
    let audited = stage::backup(&scenario, "incr", &["--audit"]);
    assert_eq!(audited["detection"]["audited"], true, "{audited:#}");
}

/// What the tables hold.
fn content(cluster: &Cluster) -> String {
    let of = |table: &str, columns: &str| {
        cluster.sql().value(&format!("SELECT count(*) || md5(string_agg(md5(({columns})::text), '' ORDER BY 1)) FROM {table}"))
    };
    of("stock", "item, name, moves") + &of("still", "n, md5")
}

/// The newest backup and all that was archived since restore to what `cluster` holds.
#[track_caller]
fn assert_restores_to(scenario: &Scenario, cluster: &Cluster, name: &str) {
    let restored = scenario.restore_and_start(name, &[]);
    assert_eq!(content(&restored), content(cluster), "{name}");
    amcheck::assert_clean(&restored);
}

#[test]
fn a_standby_and_its_promotion_cost_a_reading_and_no_change() {
    let Some(mut scenario) = stage::start(&Options::default().with("wal_keep_size = '1GB'")) else { return };
    let standby = scenario.standby(&[], &["archive_mode=on"]);
    let quoted = |conninfo: String| toml::Value::String(conninfo).to_string();
    let of_primary = format!("conninfo = {}", quoted(scenario.cluster.conninfo()));
    let of_standby = format!("conninfo = {}", quoted(standby.conninfo()));
    let text = scenario.protected.configuration();
    assert!(text.contains(&of_primary), "{text}");
    scenario.protected.configure_text(&text.replace(&of_primary, &format!("{of_standby}\nprimary_{of_primary}")));
    scenario.full_backup();
    for every in [70, 900] {
        stage::scatter(&scenario, every);
        // A standby's backup begins at the primary's last checkpoint.
        ["VACUUM stock", "CHECKPOINT"].iter().for_each(|sql| scenario.cluster.sql().execute(sql));
        scenario.archive_now();
        let lsn = scenario.cluster.sql().value("SELECT pg_current_wal_lsn()");
        process::wait_until("the standby replays it", RECOVERY_TIMEOUT, || {
            standby.sql().value(&format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'")) == "t"
        });
        let report = stage::exactly(&scenario, "incr");
        println!("on a standby: {:?}", detected(&report));
        assert_eq!(report["from_standby"], true, "{report:#}");
        assert_restores_to(&scenario, &scenario.cluster, &format!("of-standby-{every}"));
    }
    // What this host holds of the standby's directory is compared with what the log tells of it.
    stage::scatter(&scenario, 800);
    scenario.cluster.sql().execute("CHECKPOINT");
    scenario.archive_now();
    stage::backup(&scenario, "incr", &["--audit"]);

    scenario.cluster.stop(Stop::Fast);
    process::wait_until("all is replayed", RECOVERY_TIMEOUT, || {
        standby.sql().value("SELECT pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn()") == "t"
    });
    standby.sql().execute("SELECT pg_promote()");
    scenario.protected.configure_text(&text.replace(&of_primary, &of_standby));
    let old = std::mem::replace(&mut scenario.cluster, standby);
    drop(old);
    for (step, every) in [60, 700].into_iter().enumerate() {
        stage::scatter(&scenario, every);
        scenario.cluster.sql().execute("VACUUM stock");
        let report = stage::backup(&scenario, "incr", &[]);
        println!("after a promotion: a {} {:?}; {:?}", report["type"], detected(&report), report["reason"]);
        assert_eq!(report["timeline"], 2, "{report:#}");
        scenario.archive_now();
        assert_restores_to(&scenario, &scenario.cluster, &format!("promoted-{step}"));
    }
}

#[test]
fn a_directory_that_was_restored_in_place_is_read_once() {
    let Some(mut scenario) = stage::start(&Options::default()) else { return };
    stage::scatter(&scenario, 300);
    assert_eq!(detected(&stage::exactly(&scenario, "incr")).0, "log");
    scenario.cluster.sql().execute("SELECT pg_create_restore_point('good')");
    stage::scatter(&scenario, 2);
    scenario.cluster.sql().execute("DELETE FROM still");
    scenario.archive_now();
    scenario.cluster.stop(Stop::Fast);
    let data = scenario.cluster.data.display().to_string();
    scenario.rescue.ok(&["restore", SOURCE, "--into", &data, "--delta", "--to-name", "good"]);
    scenario.cluster.launch();
    scenario.cluster.wait_recovered(RECOVERY_TIMEOUT);
    assert_eq!(scenario.cluster.sql().number("SELECT count(*) FROM still"), 50_000);
    // Of what happened within two seconds before a base nothing is said.
    let label = scenario.cluster.data.join("backup_label.old");
    process::wait_until("the restore is past", RECOVERY_TIMEOUT, || {
        // It got this name when the recovery ended.
        let renamed = std::fs::metadata(&label).expect("it was restored").ctime();
        UNIX_EPOCH + Duration::from_secs(renamed.unsigned_abs() + 4) < SystemTime::now()
    });
    for expected in ["read", "log"] {
        stage::scatter(&scenario, 400);
        scenario.archive_now();
        let report = stage::exactly(&scenario, "incr");
        let (how, why) = detected(&report);
        assert_eq!(how, expected, "{report:#}");
        assert_eq!(why.contains("restored or rewound"), expected == "read", "{report:#}");
        let files = stage::relation_files(&scenario.cluster.data);
        stage::assert_same(&stage::restore(&scenario, report["id"].as_str().expect("an id"), expected), &files);
    }
}

/// A lie was told to a backup that was interrupted; the audit that follows builds on nothing of it, and finds the next lie.
#[test]
fn an_audit_after_an_interruption_finds_a_lie() {
    let Some(scenario) = stage::start(&Options::default()) else { return };
    scenario.add_sections("[backup]\nworkers = 2\npack_size_mib = 1\n");
    let lying = |more: &[&str], point: Option<&str>| {
        let mut command = scenario.protected.command(&[&["backup", SOURCE, "--type", "incr"], more].concat());
        command.env("LIFEBOAT_LIE", "log").envs(point.map(|point| ("LIFEBOAT_KILL_AT", point)));
        process::run(command, RECOVERY_TIMEOUT)
    };
    stage::scatter(&scenario, 9);
    scenario.archive_now();
    let interrupted = lying(&[], Some("backup.pack-stored:2"));
    assert_eq!(interrupted.signal, Some(Signal::KILL.as_raw()), "{interrupted}");
    let evidence = || scenario.repository.names_below(&format!("{SOURCE}/drill/")).len();
    assert_eq!(evidence(), 0);
    lying(&["--audit"], None).refuses(22, &["the log did not tell of", "base/", ", page ", "LSN ", "evidence"]);
    assert_eq!(evidence(), 1, "evidence was stored");
    stage::scatter(&scenario, 90);
    scenario.archive_now();
    let report = stage::exactly(&scenario, "incr");
    let (how, why) = detected(&report);
    assert!(how == "read" && why.contains("an audit found"), "{report:#}");
    let files = stage::relation_files(&scenario.cluster.data);
    stage::assert_same(&stage::restore(&scenario, report["id"].as_str().expect("an id"), "after"), &files);
    scenario.rescue.ok(&["verify", SOURCE, "--deep"]);
}
