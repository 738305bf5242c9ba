//! A standby follows the archive, also onto another timeline, and is promoted with nothing lost.

use std::fs;
use std::time::Duration;

use super::stage::{Standby, archive, lose_source, scenario};
use super::support::ledger::Ledger;
use super::support::majors::on_majors;
use super::support::oracle::read_tables;
use super::support::postgres::{RECOVERY_TIMEOUT, Stop};
use super::support::process;
use super::support::random;
use super::support::scenario::SOURCE;

on_majors! {
    a_standby_is_promoted_with_nothing_lost: pg13 13, pg15 15, pg18 18;
}

fn a_standby_is_promoted_with_nothing_lost(major: u32) {
    let Some(mut scenario) = scenario(major) else { return };
    let mut ledger = Ledger::create(&scenario.cluster, random::seed("warm standby"));
    scenario.full_backup();
    let standby = Standby::start(&scenario, "standby", &[], &[]);
    ledger.run(Duration::from_millis(800));
    standby.wait_replayed(&archive(&scenario.cluster));
    assert!(standby.in_recovery());
    assert!(standby.cluster.sql().try_execute("CREATE TABLE t ()").is_err(), "it takes writes");
    // What was archived while nobody looked is replayed as well.
    ledger.run(Duration::from_millis(400));
    let oracle = ledger.oracle();
    lose_source(&mut scenario);

    let pid = standby.pid();
    let would = standby.promote(&scenario, &["--dry-run"]).success();
    assert!(would.stdout.contains("would promote the standby of orders") && standby.in_recovery(), "{would}");
    let document = standby.promoted(&scenario, &[]);
    assert_eq!((&document["way"], &document["timeline"]), (&"signal".into(), &2.into()), "{document}");
    assert_eq!(pid, standby.pid(), "its server was stopped");
    let mut sql = standby.cluster.sql();
    oracle.assert_tables(&mut sql, &oracle.rows_at_end(), "after the promotion");
    let last = oracle.commits().last().expect("commits").time.rfc3339();
    assert!(document["last_commit"].as_str() >= Some(&last), "{document}: {last}");
    // What it writes from now on is its own, and archived as the source's was: by the settings that it has of it.
    super::support::ledger::roll_back_prepared(&mut sql);
    sql.execute("INSERT INTO account VALUES (-1, 7)");
    let again = standby.promote(&scenario, &[]).exits(1);
    assert!(again.stderr.contains("is no standby of orders: a server runs there that takes writes"), "{again}");
}

#[test]
fn it_follows_a_source_that_failed_over() {
    let Some(mut scenario) = scenario(15) else { return };
    let mut ledger = Ledger::create(&scenario.cluster, random::seed("failed over"));
    scenario.full_backup();
    let standby = Standby::start(&scenario, "standby", &[], &[]);
    ledger.run(Duration::from_millis(400));
    standby.wait_replayed(&archive(&scenario.cluster));
    lose_source(&mut scenario);

    let data = scenario.restore("elsewhere", &[]);
    let mut second = scenario.open(&data);
    second.sql().execute("CREATE TABLE of_second AS SELECT 1 AS n");
    standby.wait_replayed(&archive(&second));
    assert_eq!(standby.cluster.sql().number("SELECT count(*) FROM of_second"), 1);
    let expected = read_tables(&mut second.sql());
    second.sql().execute("INSERT INTO of_second VALUES (2)");
    archive(&second);
    second.stop(Stop::Fast);
    let document = standby.promoted(&scenario, &[]);
    assert_eq!((&document["replayed_timeline"], &document["timeline"]), (&2.into(), &3.into()), "{document}");
    let mut sql = standby.cluster.sql();
    assert_eq!(sql.number("SELECT count(*) FROM of_second"), 2);
    assert!(read_tables(&mut sql) == expected, "rows of the first timeline differ");
}

/// The archive goes on from before what the standby has: it is told so, not promoted, and follows again once it is seeded.
#[test]
fn a_standby_that_was_left_behind_is_refused_and_seeded_again() {
    let Some(scenario) = scenario(15) else { return };
    scenario.cluster.sql().execute("CREATE TABLE kept (what text)");
    scenario.full_backup();
    let name = "fork";
    scenario.cluster.sql().execute(&format!("SELECT pg_create_restore_point('{name}'); INSERT INTO kept VALUES ('abandoned')"));
    let standby = Standby::start(&scenario, "standby", &[], &[]);
    standby.wait_replayed(&archive(&scenario.cluster));
    let mut scenario = scenario;
    scenario.cluster.stop(Stop::Fast);
    let data = scenario.restore("elsewhere", &["--to-name", name]);
    let mut second = scenario.open(&data);
    second.sql().execute("INSERT INTO kept VALUES ('true')");
    archive(&second);
    let fresh = second.sql().value("SELECT pg_current_wal_lsn()");
    second.stop(Stop::Fast);

    let refused = standby.promote(&scenario, &[]);
    refused.refuses(1, &["went on without this standby", "timeline 2 left timeline 1", "--standby --delta"]);
    assert!(standby.in_recovery() && standby.data.join("standby.signal").exists());
    let Standby { data: ref into, .. } = standby;
    let into = into.clone();
    let refused = scenario.rescue.run(&["restore", SOURCE, "--into", &into.display().to_string(), "--standby", "--delta"]);
    refused.refuses(1, &["a PostgreSQL server is running"]);
    drop(standby);
    scenario.restore("standby", &["--standby", "--delta"]);
    let standby = Standby::open(&scenario, into, &[]);
    standby.wait_replayed(&fresh);
    let what = "SELECT string_agg(what, ',') FROM kept";
    process::wait_until("the new timeline", RECOVERY_TIMEOUT, || standby.cluster.sql().value(what) == "true");
    standby.promoted(&scenario, &[]);
    assert_eq!(standby.cluster.sql().value(what), "true");
}

#[test]
fn it_is_restored_without_anything_that_would_lead_it_astray() {
    let Some(scenario) = scenario(15) else { return };
    scenario.cluster.configure(["archive_mode = always".to_owned(), "primary_slot_name = 'of_another'".to_owned()]);
    scenario.cluster.sql().execute("ALTER SYSTEM SET recovery_min_apply_delay = '3h'");
    scenario.full_backup();
    let data = scenario.restore("standby", &["--standby", "--delay", "90m"]);
    let settings = fs::read_to_string(data.join("postgresql.auto.conf")).expect("own file");
    let last = |name: &str| settings.lines().rfind(|line| line.starts_with(name)).unwrap_or_default().to_owned();
    for (name, value) in [
        ("recovery_target_timeline", "latest"),
        ("recovery_target_lsn", ""),
        ("recovery_min_apply_delay", "5400000"),
        ("archive_mode", "on"),
        ("primary_slot_name", ""),
        ("primary_conninfo", ""),
        ("hot_standby", "on"),
    ] {
        assert_eq!(last(name), format!("{name} = '{value}'"), "{settings}");
    }
    assert!(last("restore_command").contains(" --wait") && last("restore_command").contains(" --config "), "{settings}");
    assert!(data.join("standby.signal").exists() && !data.join("recovery.signal").exists());
    // Neither a restore nor a drill waits for hours because its source's standby does.
    let restored = scenario.restore("restored", &["--clone"]);
    let settings = fs::read_to_string(restored.join("postgresql.auto.conf")).expect("own file");
    assert!(settings.contains("recovery_min_apply_delay = '0'") && !settings.contains("3h"), "{settings}");
}
