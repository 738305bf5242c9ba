//! The walk lists exactly what the server's own base backup delivers.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use lifeboat::base::Result;
use lifeboat::source::postgres::control::ControlFile;
use lifeboat::source::postgres::walk::{Walk, WalkOptions};
use lifeboat::source::{Entry, EntryKind};

use super::support::postgres::{Cluster, Installation, Options};
use super::support::process;
use super::{cluster, each_major};

each_major!(the_walk_lists_what_a_base_backup_delivers);

pub fn walk(cluster: &Cluster) -> Vec<Entry> {
    let control = ControlFile::read(&cluster.data).unwrap();
    let mut walk = Walk::new(&cluster.data, WalkOptions::new(cluster.installation.major, &control)).unwrap();
    let entries = walk.by_ref().collect::<Result<Vec<_>>>().unwrap();
    assert!(walk.skipped().is_empty(), "{:?}", walk.skipped());
    entries
}

fn the_walk_lists_what_a_base_backup_delivers(major: u32) {
    let options = Options::default().with("summarize_wal = on");
    let options = if major >= 17 { options } else { Options::default() };
    // The only pg_basebackup and psql on the machine may be of one major; psql speaks to all.
    let Some(clients) = Installation::with_program("pg_basebackup") else { return };
    let Some(cluster) = cluster(major, &options) else { return };
    let space = cluster.dir().create_dir("ein Raum ü");
    let mut sql = cluster.sql();
    sql.execute(&format!("CREATE TABLESPACE space LOCATION '{}'", space.display()));
    // 15 knows in-place tablespaces too, but its base backup forgets them.
    if major >= 16 {
        sql.execute("SET allow_in_place_tablespaces = on");
        sql.execute("CREATE TABLESPACE in_place LOCATION ''");
        sql.execute("CREATE TABLE placed TABLESPACE in_place AS SELECT generate_series(1, 100) n");
    }
    sql.execute(
        "CREATE TABLE plain AS SELECT generate_series(1, 10000) n;
         CREATE INDEX ON plain (n);
         CREATE TABLE far TABLESPACE space AS SELECT generate_series(1, 10000) n;
         CREATE UNLOGGED TABLE fleeting AS SELECT generate_series(1, 10000) n;
         CREATE INDEX ON fleeting (n);
         CREATE UNLOGGED TABLE far_fleeting TABLESPACE space AS SELECT generate_series(1, 10000) n;
         CREATE TEMP TABLE mine AS SELECT generate_series(1, 10000) n;
         CREATE TEMP TABLE far_mine TABLESPACE space AS SELECT generate_series(1, 10000) n;
         SELECT pg_create_physical_replication_slot('slot')",
    );
    for statement in ["CREATE DATABASE second", "VACUUM", "CHECKPOINT"] {
        sql.execute(statement);
    }
    for name in ["pgsql_tmp_left", "backup_manifest", "postgresql.auto.conf.tmp", "current_logfiles.tmp", "base/pgsql_tmp"] {
        cluster.dir().write(Path::new("data").join(name), "left");
    }
    let delivered = base_backup(&cluster, &clients);
    let entries = walk(&cluster);
    assert!(entries.is_sorted_by(|a, b| a.path < b.path));
    // A tablespace's own entry is in the tablespace_map instead, or implied by its archive.
    let is_tablespace = |entry: &&Entry| entry.location.parent() == Some(&cluster.data.join("pg_tblspc"));
    let walked: BTreeSet<String> =
        entries.iter().filter(|entry| !is_tablespace(entry)).map(|entry| entry.path.to_string()).collect();
    let missing: Vec<_> = delivered.difference(&walked).collect();
    let surplus: Vec<_> = walked.difference(&delivered).collect();
    assert!(missing.is_empty() && surplus.is_empty(), "missing {missing:?}, surplus {surplus:?}");
    assert!(walked.len() > 900, "{} entries", walked.len());
    let links = entries.iter().filter(|entry| entry.kind == EntryKind::Tablespace { target: space.clone() }).count();
    assert_eq!(links, 1);
    // The temporary tables must still have been there.
    assert_eq!(sql.value("SELECT count(*) FROM mine, far_mine WHERE mine.n = far_mine.n"), "10000");
}

/// The paths of the server's own base backup, as tar files: by `pg_basebackup` where it is new enough for the server's
/// protocol, else written by the server itself.
fn base_backup(cluster: &Cluster, clients: &Installation) -> BTreeSet<String> {
    let target = cluster.dir().join("delivered");
    let conninfo = cluster.conninfo();
    let mut command = if cluster.installation.major <= clients.major {
        let mut command = process::command(&clients.program("pg_basebackup"), cluster.dir().path());
        command.args(["-Ft", "-X", "none", "-c", "fast", "--no-manifest", "--no-sync", "-d", &conninfo, "-D"]).arg(&target);
        command
    } else {
        let mut command = process::command(&clients.program("psql"), cluster.dir().path());
        command.args(["-X", "-v", "ON_ERROR_STOP=1", "-d", &format!("{conninfo} replication=true"), "-c"]);
        command.arg(format!(
            "BASE_BACKUP (CHECKPOINT 'fast', WAL false, MANIFEST 'no', TABLESPACE_MAP true, TARGET 'server', TARGET_DETAIL '{}')",
            target.display()
        ));
        command
    };
    command.env("PGCONNECT_TIMEOUT", "30");
    let output = process::run(command, Duration::from_secs(120));
    // psql stumbles over the last of the server's results; the command's tag is there when the server was done.
    assert!(output.code == Some(0) || output.stdout.contains("BASE_BACKUP"), "{output}");
    let mut paths = BTreeSet::new();
    for archive in std::fs::read_dir(&target).expect("base backup") {
        let archive = archive.expect("base backup").path();
        let oid = archive.file_stem().and_then(|stem| stem.to_str()).expect("plain name").to_owned();
        let prefix = if oid == "base" { String::new() } else { format!("pg_tblspc/{oid}/") };
        let listed = Command::new("tar").arg("tf").arg(&archive).output().expect("tar runs");
        assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
        for line in String::from_utf8(listed.stdout).expect("plain names").lines() {
            let path = line.trim_start_matches("./").trim_end_matches('/');
            // These two the low-level interface returns instead.
            if !path.is_empty() && !matches!(path, "backup_label" | "tablespace_map") {
                paths.insert(format!("{prefix}{path}"));
            }
        }
    }
    paths
}
