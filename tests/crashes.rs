//! SIGKILL at every named point: no torn backup is ever listed, no segment is lost, a half-restored directory does not
//! start, and the same command, given again, succeeds.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lifeboat::base::killpoint;
use lifeboat::codec::Sha256Digest;

use support::lifeboat::Host;
use support::listing::{backups, contents, files};
use support::postgres::{Cluster, Installation, Options, RECOVERY_TIMEOUT};
use support::process;
use support::scenario::{SOURCE, Scenario, restore_command_of};

/// The point that only a restore over what is there passes.
const DELTA_ONLY: &str = "restore.cleared";

/// Points that are passed once a pack; they are also tried at the second and third pass.
const ONCE_A_PACK: [&str; 2] = ["backup.pack-stored", "restore.pack-written"];

/// The points of one verb, in the order in which it passes them.
fn points(verb: &str) -> Vec<String> {
    let of_verb = killpoint::ALL.iter().filter(|name| name.split('.').next() == Some(verb));
    let passes = of_verb.flat_map(|name| {
        let last = if ONCE_A_PACK.contains(name) { 3 } else { 1 };
        (1..=last).map(move |pass| format!("{name}:{pass}"))
    });
    let points: Vec<String> = passes.collect();
    assert!(!points.is_empty(), "{verb} has no points");
    points
}

/// `store.temporary-written` at each of these passes.
fn store_passes(passes: impl IntoIterator<Item = u32>) -> impl Iterator<Item = String> {
    passes.into_iter().map(|pass| format!("store.temporary-written:{pass}"))
}

/// A small cluster whose backup has several packs.
fn small_packs(installation: &Installation) -> Scenario {
    let scenario = Scenario::start(installation, &Options { wal_segment_mib: 1, ..Options::default() });
    scenario.add_sections("[backup]\npack_size_mib = 1\nworkers = 2\n");
    scenario.cluster.sql().execute("CREATE TABLE kept (what text PRIMARY KEY)");
    scenario
}

fn keep(cluster: &Cluster, what: &str) {
    cluster.sql().execute(&format!("INSERT INTO kept VALUES ('{what}')"));
}

fn kept(cluster: &Cluster) -> i64 {
    cluster.sql().number("SELECT count(*) FROM kept")
}

#[test]
fn every_point_belongs_to_a_verb_that_is_killed_here() {
    let strangers: Vec<_> = killpoint::ALL
        .iter()
        .filter(|name| {
            // Those of a copy: tests/copy.rs; of a delivery: tests/several/delivery.rs; of a drill: tests/drills/cleanup.rs;
            // of a stream and what settles it: tests/streaming/; of a promotion: tests/standby/interruptions.rs; of a
            // directory's files: tests/directories/races.rs; of the log of a database: tests/sqlite/kills.rs.
            const VERBS: [&str; 14] = [
                "backup", "push", "get", "restore", "promote", "expire", "copy", "deliver", "drill", "stream", "settle", "store",
                "tree", "follow",
            ];
            !VERBS.contains(&name.split('.').next().unwrap_or_default())
        })
        .collect();
    assert!(strangers.is_empty(), "nobody is killed at {strangers:?}");
}

/// A table of its own file that fills several packs, none of which the backup before has.
fn fill_packs(cluster: &Cluster, seed: &str) {
    cluster.sql().execute(&format!(
        "DROP TABLE IF EXISTS bulk;
         CREATE TABLE bulk AS SELECT n, sha256(('{seed}' || n)::bytea) || sha256((n || '{seed}')::bytea) AS noise
             FROM generate_series(1, 50000) AS n"
    ));
}

/// A number that is another one when anything in that table is.
fn bulk(cluster: &Cluster) -> i64 {
    cluster.sql().number("SELECT sum(hashtext(n || noise::text)) FROM bulk")
}

/// Takes a backup; gives the type it has become.
#[track_caller]
fn backup(scenario: &Scenario, backup_type: &str) -> String {
    let report = scenario.protected.json(&["backup", SOURCE, "--type", backup_type]);
    report["backups"][0]["type"].as_str().expect("a type").to_owned()
}

#[test]
fn a_killed_backup_is_never_listed_and_the_next_one_succeeds() {
    let Some(installation) = Installation::require(15) else { return };
    kill_backups(&small_packs(&installation), "full");
}

#[test]
fn a_killed_incr_is_never_listed_and_the_next_one_succeeds() {
    let Some(installation) = Installation::require(15) else { return };
    let scenario = small_packs(&installation);
    scenario.full_backup();
    kill_backups(&scenario, "incr");
    // What killed runs left spoils nothing that builds on anything.
    scenario.rescue.ok(&["verify", SOURCE, "--deep"]);
}

/// Kills a backup of this type at every point, each after a change of its own, and takes one to its end after each.
fn kill_backups(scenario: &Scenario, backup_type: &str) {
    let mut committed = backups(&scenario.protected);
    let mut rows = 0;
    let mut survivor = None;
    for point in points("backup").into_iter().chain(store_passes([1, 2, 3, 5])) {
        keep(&scenario.cluster, &point);
        fill_packs(&scenario.cluster, &point);
        rows += 1;
        scenario.protected.run_killed_at(&point, &["backup", SOURCE, "--type", backup_type]).killed();
        let listed = backups(&scenario.protected);
        let mut next = backup_type;
        if point.starts_with("backup.committed") {
            assert_eq!(listed.len(), committed.len() + 1, "{point}: the entry is the commit point");
            survivor = listed.last().cloned();
            // It stands, but this host had no time to note what an incr must know of it.
            next = "full";
        } else {
            assert_eq!(listed, committed, "{point}: a torn backup is listed");
        }
        assert_eq!(backup(scenario, backup_type), next, "{point}");
        committed = backups(&scenario.protected);
        assert_eq!(committed.len(), listed.len() + 1, "{point}");
        assert_no_leftovers(&scenario.protected);
    }
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'lifeboat%'";
    process::wait_until("the killed backups' sessions end", RECOVERY_TIMEOUT, || scenario.cluster.sql().number(sessions) == 0);
    scenario.archive_now();
    let survivor = survivor.expect("one run was killed after its commit");
    for (name, arguments) in [("newest", vec![]), ("survivor", vec!["--backup", survivor.as_str()])] {
        let restored = scenario.restore_and_start(name, &arguments);
        assert_eq!((kept(&restored), bulk(&restored)), (rows, bulk(&scenario.cluster)), "{name}");
    }
}

/// What killed runs left on the host is gone after the next run.
#[track_caller]
fn assert_no_leftovers(host: &Host) {
    let left: Vec<_> = files(&host.state_dir()).into_iter().filter(|path| path.to_string_lossy().contains("/scratch/")).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

#[test]
fn a_killed_push_loses_nothing_and_postgresql_tries_again() {
    let Some(installation) = Installation::require(15) else { return };
    let scenario = small_packs(&installation);
    scenario.full_backup();
    scenario.cluster.configure(["archive_command = 'false'"]);
    // As on a host that has lost its state: only then a new key is stored.
    fs::remove_dir_all(scenario.protected.state_dir()).expect("own directory");
    let mut rows = 0;
    for point in points("push").into_iter().chain(store_passes([1])) {
        let segment = closed_segment(&scenario, &point);
        rows += 1;
        scenario.protected.run_killed_at(&point, &["archive", "push", SOURCE, &segment]).killed();
        backups(&scenario.protected);
    }
    // The signed index is stored with the sixteenth segment: the second object of that push.
    let killed = (0..17).any(|number| {
        let segment = closed_segment(&scenario, &format!("index {number}"));
        rows += 1;
        let push = ["archive", "push", SOURCE, &segment];
        let output = scenario.protected.run_killed_at("store.temporary-written:2", &push);
        if output.signal.is_none() {
            output.success();
            return false;
        }
        true
    });
    assert!(killed, "no push stored an index");
    scenario.cluster.configure([scenario.protected.archive_command(SOURCE)]);
    scenario.archive_now();
    let failed = "SELECT count(*) FROM pg_ls_dir('pg_wal/archive_status') AS file WHERE file LIKE '%.ready'";
    assert_eq!(scenario.cluster.sql().number(failed), 0, "{}", scenario.cluster.log_tail());
    assert_eq!(kept(&scenario.restore_and_start("all", &[])), rows);
}

/// Commits a row, closes the segment it is in and returns that segment's path.
fn closed_segment(scenario: &Scenario, row: &str) -> String {
    keep(&scenario.cluster, row);
    let segment = scenario.cluster.switch_wal();
    scenario.cluster.data.join("pg_wal").join(segment).display().to_string()
}

#[test]
fn a_killed_get_stops_recovery_and_hands_over_nothing() {
    let Some(installation) = Installation::require(15) else { return };
    let scenario = small_packs(&installation);
    scenario.full_backup();
    keep(&scenario.cluster, "after the backup");
    let segment = scenario.archive_now();
    let data = scenario.restore("killed", &["--clone"]);
    let destination = scenario.rescue.dir().join("fetched");
    let get = ["archive", "get", SOURCE, &segment, destination.to_str().expect("plain")];
    let mut cluster = Cluster::open(&installation, &data);
    for point in points("get") {
        scenario.rescue.run_killed_at(&point, &get).killed();
        assert!(!destination.exists(), "{point}: half a segment was handed over");
        let restore_command = restore_command_of(&data);
        cluster = cluster.with_override(format!("restore_command=LIFEBOAT_KILL_AT={point} {restore_command}"));
        cluster.launch();
        let (_, log) = cluster.wait_exit(RECOVERY_TIMEOUT);
        assert!(log.contains("FATAL:  could not restore file"), "{point}: {log}");
        assert!(!log.contains("archive recovery complete"), "{point}: {log}");
        cluster = cluster.with_override(format!("restore_command={restore_command}"));
    }
    scenario.rescue.ok(&get);
    let original = fs::read(scenario.cluster.data.join("pg_wal").join(&segment)).expect("still there");
    assert!(fs::read(&destination).expect("fetched") == original);
    cluster.launch();
    cluster.wait_recovered(RECOVERY_TIMEOUT);
    assert_eq!(kept(&cluster), 1);
}

#[test]
fn a_half_restored_directory_does_not_start() {
    let Some(installation) = Installation::require(15) else { return };
    let scenario = small_packs(&installation);
    scenario.full_backup();
    keep(&scenario.cluster, "after the backup");
    scenario.archive_now();
    for point in points("restore").into_iter().filter(|point| !point.starts_with(DELTA_ONLY)) {
        let data = scenario.restored.join(point.replace(':', "-"));
        let restore = ["restore", SOURCE, "--clone", "--into", data.to_str().expect("plain")];
        scenario.rescue.run_killed_at(&point, &restore).killed();
        let is_complete = point.starts_with("restore.complete");
        assert_eq!(data.join("global/pg_control").exists(), is_complete, "{point}");
        if is_complete {
            assert_eq!(kept(&scenario.open(&data)), 1, "{point}");
            continue;
        }
        let mut cluster = Cluster::open(&installation, &data);
        cluster.launch();
        let (code, log) = cluster.wait_exit(Duration::from_secs(30));
        assert_ne!(code, Some(0), "{point}: {log}");
        assert!(!log.contains("ready to accept"), "{point}: {log}");
        let refused = scenario.rescue.run(&restore).refuses(1, &["unfinished restore", "rm -r"]);
        assert!(refused.stdout.is_empty(), "{refused}");
        fs::remove_dir_all(&data).expect("own directory");
        scenario.rescue.ok(&restore);
        assert_no_leftovers(&scenario.rescue);
        assert!(data.join("global/pg_control").exists(), "{point}");
        fs::remove_dir_all(&data).expect("own directory");
    }
    assert_eq!(kept(&scenario.restore_and_start("at the end", &[])), 1);
}

/// Every file below a restored directory but its settings, which name the restore's own target.
fn restored_files(data: &Path) -> BTreeMap<PathBuf, Sha256Digest> {
    let relative = |(path, digest): (PathBuf, Sha256Digest)| (path.strip_prefix(data).expect("below it").to_owned(), digest);
    contents(data).into_iter().map(relative).filter(|(path, _)| !path.ends_with("postgresql.auto.conf")).collect()
}

#[test]
fn a_killed_delta_restore_does_not_start_and_the_next_one_restores_what_was_there() {
    let Some(installation) = Installation::require(15) else { return };
    let scenario = small_packs(&installation);
    keep(&scenario.cluster, "in the full");
    fill_packs(&scenario.cluster, "full");
    scenario.full_backup();
    keep(&scenario.cluster, "in the incr");
    fill_packs(&scenario.cluster, "incr");
    assert_eq!(backup(&scenario, "incr"), "incr");
    let ids = backups(&scenario.protected);
    let [before, after] = [0, 1].map(|at| vec!["--to-immediate", "--backup", ids[at].as_str()]);
    let expected = restored_files(&scenario.restore("fresh", &[&["--clone"], after.as_slice()].concat()));
    // The same directory is led from the full to the incr and back again.
    let data = scenario.restore("used", &[&["--clone"], before.as_slice()].concat());
    let delta = ["restore", SOURCE, "--delta", "--clone", "--into", data.to_str().expect("plain")];
    let forth = [&delta, after.as_slice()].concat();
    for point in points("restore") {
        assert_ne!(restored_files(&data), expected, "{point}: there is something to do");
        scenario.rescue.run_killed_at(&point, &forth).killed();
        let is_complete = point.starts_with("restore.complete");
        // Nothing has been touched yet when the marker is all there is.
        let is_armed = is_complete || point.starts_with("restore.marked");
        assert_eq!(data.join("global/pg_control").exists(), is_armed, "{point}");
        if !is_armed {
            let mut cluster = Cluster::open(&installation, &data);
            cluster.launch();
            let (code, log) = cluster.wait_exit(Duration::from_secs(30));
            assert!(code != Some(0) && !log.contains("ready to accept"), "{point}: {log}");
        }
        scenario.rescue.ok(&forth);
        assert_no_leftovers(&scenario.rescue);
        assert_eq!(restored_files(&data), expected, "{point}");
        scenario.rescue.ok(&[&delta, before.as_slice()].concat());
    }
    scenario.rescue.ok(&forth);
    let restored = scenario.open(&data);
    assert_eq!((kept(&restored), bulk(&restored)), (2, bulk(&scenario.cluster)));
}

#[test]
fn a_killed_expiry_is_gone_on_with_and_never_leaves_half_a_backup() {
    let Some(installation) = Installation::require(15) else { return };
    let scenario = small_packs(&installation);
    let key = scenario.operator_key.display().to_string();
    let expire = |more: &[&str]| -> Vec<String> {
        ["expire", SOURCE, "--key", &key].iter().chain(more).map(|word| (*word).to_owned()).collect()
    };
    let mut rows = 0;
    let mut keep_one = || {
        rows += 1;
        keep(&scenario.cluster, &format!("row {rows}"));
        rows
    };
    keep_one();
    scenario.full_backup();
    let once_an_object = ["expire.object-deleted:2", "expire.object-deleted:4", "expire.log-object-deleted:2"];
    for point in points("expire").into_iter().chain(once_an_object.map(str::to_owned)) {
        let doomed = backups(&scenario.rescue).remove(0);
        let rows = keep_one();
        scenario.full_backup();
        scenario.archive_now();
        let mark = expire(&["--backup", &doomed, "--grace", "0s"]);
        if point.starts_with("expire.marked") {
            scenario.rescue.run_killed_at(&point, &mark).killed();
        } else {
            scenario.rescue.ok(&mark);
            scenario.rescue.run_killed_at(&point, &expire(&[])).killed();
            assert!(!backups(&scenario.rescue).contains(&doomed), "{point}: it was gone before anything was deleted");
        }
        // Whatever was deleted, nothing that is listed lacks it, and what is gone is not missed.
        scenario.rescue.ok(&["verify", SOURCE]);
        scenario.rescue.ok(&expire(&[]));
        assert_eq!(backups(&scenario.rescue).len(), 1, "{point}");
        let left = scenario.repository.names_below(&format!("{SOURCE}/backup/{doomed}/"));
        assert!(left.is_empty(), "{point}: {left:?}");
        let found = scenario.rescue.json(&["verify", SOURCE, "--deep"]);
        let findings = &found["repositories"][0]["sources"][0]["findings"];
        assert_eq!(findings.as_array().map(Vec::len), Some(0), "{point}: {findings:#}");
        if point.starts_with("expire.committed") || point.starts_with("expire.log") {
            let restored = scenario.restore_and_start(&point.replace(':', "-"), &[]);
            assert_eq!(kept(&restored), rows, "{point}");
        }
    }
}
