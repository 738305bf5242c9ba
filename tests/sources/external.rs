//! What lies beside the data directory, and what is not worth storing.

use std::fs;

use super::scenario;
use super::support::dirs;
use super::support::majors::on_majors;
use super::support::postgres::Stop;

on_majors! {
    configuration_elsewhere_is_kept: pg15 15;
    unlogged_and_temporary_tables_come_back_empty: pg14 14, pg15 15;
}

/// As Debian lays a cluster out: the data directory has no configuration of its own.
fn configuration_elsewhere_is_kept(major: u32) {
    let Some(mut scenario) = scenario(major) else { return };
    scenario.cluster.stop(Stop::Fast);
    let etc = scenario.cluster.dir().create_dir("etc main");
    scenario.cluster.dir().create_dir("etc main/conf.d");
    for file in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
        fs::rename(scenario.cluster.data.join(file), etc.join(file)).expect("own file");
    }
    let conf = fs::read_to_string(etc.join("postgresql.conf")).expect("own file");
    let (data, place) = (scenario.cluster.data.display(), etc.display());
    let moved = format!(
        "{conf}\ndata_directory = '{data}'\nhba_file = '{place}/pg_hba.conf'\nident_file = '{place}/pg_ident.conf'\ninclude_dir = 'conf.d'\n"
    );
    fs::write(etc.join("postgresql.conf"), &moved).expect("own file");
    scenario.cluster.dir().write("etc main/conf.d/10-work.conf", "work_mem = '7MB'\n");
    // The server is started with the directory of its configuration, as Debian's wrapper does.
    let at_home = std::mem::replace(&mut scenario.cluster.data, etc.clone());
    scenario.cluster.start();
    assert_eq!(scenario.cluster.sql().value("SHOW work_mem"), "7MB");
    scenario.cluster.sql().execute("CREATE TABLE t AS SELECT generate_series(1, 100) n");
    scenario.full_backup();

    let restored = scenario.restore("restored", &["--clone"]);
    assert!(!restored.join("postgresql.conf").exists() && !restored.join("pg_hba.conf").exists());
    let kept = restored.join(format!("lifeboat-external-config{}", etc.canonicalize().expect("there").display()));
    assert_eq!(fs::read_to_string(kept.join("postgresql.conf")).expect("kept"), moved);
    assert_eq!(fs::read_to_string(kept.join("conf.d/10-work.conf")).expect("kept"), "work_mem = '7MB'\n");
    assert_eq!(fs::read(kept.join("pg_hba.conf")).expect("kept"), fs::read(etc.join("pg_hba.conf")).expect("own file"));

    // A restored cluster keeps that copy; its own backups store the files in force, once.
    let folder = "lifeboat-external-config";
    dirs::copy_tree(&restored.join(folder), &at_home);
    dirs::give_tree(&at_home.join(folder));
    scenario.full_backup();
    let again = scenario.restore("again", &["--clone"]);
    assert_eq!(
        fs::read_to_string(again.join(kept.strip_prefix(&restored).expect("below")).join("postgresql.conf")).expect("kept"),
        moved
    );

    // The operator puts them back.
    for file in ["pg_hba.conf", "pg_ident.conf"] {
        fs::copy(kept.join(file), restored.join(file)).expect("own file");
    }
    let plain: String = moved
        .lines()
        .filter(|line| !["data_directory", "hba_file", "ident_file", "include_dir"].iter().any(|name| line.starts_with(name)))
        .map(|line| format!("{line}\n"))
        .collect();
    fs::write(restored.join("postgresql.conf"), plain).expect("own directory");
    dirs::give_tree(&restored);
    assert_eq!(scenario.open(&restored).sql().number("SELECT count(*) FROM t"), 100);
    scenario.cluster.stop(Stop::Fast);
    scenario.cluster.data = at_home;
}

/// Their contents are neither stored nor missed; the tables themselves work.
fn unlogged_and_temporary_tables_come_back_empty(major: u32) {
    let Some(scenario) = scenario(major) else { return };
    let mut sql = scenario.cluster.sql();
    sql.execute(
        "CREATE UNLOGGED TABLE unlogged (n int PRIMARY KEY, t text);
         INSERT INTO unlogged SELECT n, repeat('u', 400) FROM generate_series(1, 20000) n;
         CREATE TABLE logged (n int PRIMARY KEY); INSERT INTO logged SELECT generate_series(1, 10);
         CREATE TEMPORARY TABLE temporary AS SELECT n, repeat('t', 400) t FROM generate_series(1, 20000) n;
         CHECKPOINT",
    );
    let report = scenario.protected.json(&["backup", "orders", "--type", "full"]);
    let size = sql.number("SELECT sum(pg_database_size(oid)) FROM pg_database");
    let stored = report["backups"][0]["raw_bytes"].as_i64().expect("a size");
    assert!(stored < size - 15_000_000, "{stored} of {size} bytes were stored: those tables alone have 20 MB");
    let restored = scenario.restore_and_start("restored", &[]);
    let mut sql = restored.sql();
    assert_eq!(sql.number("SELECT count(*) FROM logged"), 10);
    assert_eq!(sql.number("SELECT count(*) FROM unlogged"), 0);
    sql.execute("INSERT INTO unlogged VALUES (1, 'again')");
    assert_eq!(
        sql.number("SELECT count(*) FROM pg_class WHERE relname = 'temporary' AND relfilenode <> 0"),
        1,
        "a leftover name"
    );
    sql.execute("CREATE TEMPORARY TABLE temporary AS SELECT 1 n");
}
