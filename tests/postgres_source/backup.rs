//! A copy made as the walk lists it, between start and stop, recovers; from a primary and from a standby.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lifeboat::base::{Lsn, Segment, TimelineId};
use lifeboat::source::postgres::control::ControlFile;
use lifeboat::source::postgres::history::{self, History};
use lifeboat::source::postgres::label::{BackupLabel, format_tablespace_map, parse_tablespace_map};
use lifeboat::source::postgres::recovery_config::{RecoverySettings, RecoveryTarget, TargetAction, write_recovery_settings};
use lifeboat::source::postgres::server::check_is_primary_of;
use lifeboat::source::postgres::session::{Started, Stopped};
use lifeboat::source::postgres::walk::is_control_file;
use lifeboat::source::{Entry, EntryKind};

use super::support::amcheck;
use super::support::dirs;
use super::support::postgres::{Cluster, Options};
use super::support::process;
use super::walking::walk;
use super::{cluster, each_major, run, session};

const RECOVERY_TIMEOUT: Duration = Duration::from_secs(60);

each_major!(a_copy_recovers_to_its_target, a_standby_is_backed_up, a_standby_promoted_meanwhile_is_refused);

/// A stored copy: entries with contents, as a repository would hold them.
struct Copy {
    entries: Vec<(Entry, Vec<u8>)>,
    started: Started,
    stopped: Stopped,
}

/// Starts, copies with the control file last, and stops.
fn back_up(cluster: &Cluster, during: impl FnOnce()) -> Copy {
    let running = run(session(cluster).start_backup("a 'test'", true)).unwrap();
    let mut listed = walk(cluster);
    during();
    listed.sort_by_key(|entry| is_control_file(&entry.path));
    let read = |entry: Entry| {
        let plain = matches!(entry.kind, EntryKind::File | EntryKind::Pages { .. });
        let content = if plain { fs::read(&entry.location).unwrap_or_default() } else { Vec::new() };
        (entry, content)
    };
    let entries: Vec<_> = listed.into_iter().map(read).collect();
    let started = running.started().clone();
    let (_, stopped) = run(running.stop()).unwrap();
    let label = BackupLabel::parse(&stopped.backup_label).unwrap();
    assert_eq!((label.start_lsn, label.start_timeline), (started.start_lsn, started.timeline));
    assert_eq!((label.label.as_str(), label.from_standby), ("a 'test'", started.from_standby));
    assert!(stopped.stop_lsn > started.start_lsn && stopped.stop_time >= started.start_time);
    let control = ControlFile::parse(&entries.last().expect("control file").1).unwrap();
    assert_eq!(
        label.start_file,
        Segment::containing(started.timeline, started.start_lsn, control.wal_segment_size).name(control.wal_segment_size)
    );
    Copy { entries, started, stopped }
}

/// Writes the copy below `dir`, tablespaces beside the data directory; returns the data directory.
fn lay_out(copy: &Copy, dir: &Path) -> PathBuf {
    let data = dir.join("data");
    fs::create_dir(&data).unwrap();
    let mut map = parse_tablespace_map(&copy.stopped.tablespace_map).unwrap();
    for mapping in &mut map {
        let space = dir.join(format!("space-{}", mapping.oid));
        fs::create_dir(&space).unwrap();
        dirs::give(&space);
        mapping.directory = space.as_os_str().as_encoded_bytes().to_vec();
    }
    for (entry, content) in &copy.entries {
        let path = data.join(entry.path.as_path());
        match &entry.kind {
            EntryKind::Directory => fs::create_dir(&path).unwrap(),
            EntryKind::File | EntryKind::Pages { .. } => fs::write(&path, content).unwrap(),
            EntryKind::Symlink { target } => symlink(Path::new(std::str::from_utf8(target).unwrap()), &path).unwrap(),
            EntryKind::Tablespace { .. } => {
                let oid = path.file_name().unwrap().to_str().unwrap();
                symlink(dir.join(format!("space-{oid}")), &path).unwrap();
            }
        }
    }
    fs::write(data.join("backup_label"), &copy.stopped.backup_label).unwrap();
    if !map.is_empty() {
        fs::write(data.join("tablespace_map"), format_tablespace_map(&map)).unwrap();
    }
    fs::set_permissions(&data, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    dirs::give_tree(dir);
    data
}

fn settings(archive: &Path, target: RecoveryTarget) -> RecoverySettings {
    RecoverySettings {
        restore_command: format!("cp '{}/%f' \"%p\"", archive.display()),
        target,
        timeline: TimelineId(1),
        action: TargetAction::Promote,
        standby: false,
        clone: true,
        extra: Vec::new(),
    }
}

fn archiving_cluster(major: u32) -> Option<(Cluster, PathBuf)> {
    let mut cluster = cluster(major, &Options::default().with("archive_mode = on"))?;
    let archive = cluster.dir().create_dir("archive");
    cluster.configure([format!("archive_command = 'cp \"%p\" \"{}/%f\"'", archive.display())]);
    cluster.restart();
    Some((cluster, archive))
}

fn archive_all(cluster: &Cluster) {
    let segment = cluster.switch_wal();
    cluster.wait_archived(&segment, Duration::from_secs(60));
}

fn a_copy_recovers_to_its_target(major: u32) {
    let Some((cluster, archive)) = archiving_cluster(major) else { return };
    let space = cluster.dir().create_dir("space");
    let mut sql = cluster.sql();
    sql.execute(&format!("CREATE TABLESPACE space LOCATION '{}'", space.display()));
    sql.execute("CREATE TABLE t TABLESPACE space AS SELECT generate_series(1, 1000) n");
    sql.execute("CREATE UNLOGGED TABLE u AS SELECT generate_series(1, 1000) n");
    let copy = back_up(&cluster, || {
        cluster.sql().execute("INSERT INTO t SELECT generate_series(1001, 2000); CHECKPOINT; CREATE TABLE later (n int)");
    });
    assert!(!copy.started.from_standby && copy.stopped.stop_segment.timeline == TimelineId(1));
    sql.execute("INSERT INTO t VALUES (2001)");
    let target: Lsn = sql.value("SELECT pg_current_wal_insert_lsn()").parse().unwrap();
    sql.execute("DROP TABLE t");
    let point = run(session(&cluster).create_restore_point("after the drop")).unwrap();
    assert!(point > target);
    archive_all(&cluster);

    let targets = [
        (RecoveryTarget::Lsn { lsn: target, inclusive: false }, Some("2001")),
        (RecoveryTarget::Immediate { backup_end: Lsn(0) }, Some("2000")),
        (RecoveryTarget::Name("after the drop".into()), None),
        (RecoveryTarget::Latest, None),
    ];
    for (target, rows) in targets {
        println!("{target:?}");
        let dir = dirs::Dir::new();
        let data = lay_out(&copy, dir.path());
        // Leftovers that would stop or mislead recovery if they were not overridden or removed.
        dir.write("data/standby.signal", "");
        let mut restored = Cluster::open(&cluster.installation, &data);
        restored.configure(["recovery_target_xid = '5'", "recovery_end_command = 'touch ended'", "restore_command = 'false'"]);
        let auto = data.join("postgresql.auto.conf");
        let old = fs::read_to_string(&auto).unwrap() + "recovery_target_time = '2020-01-01'\nwork_mem = '5MB'";
        dir.write("data/postgresql.auto.conf", old);
        write_recovery_settings(&data, &settings(&archive, target)).unwrap();
        restored.launch();
        restored.wait_recovered(RECOVERY_TIMEOUT);
        let mut sql = restored.sql();
        let found = sql.try_rows("SELECT count(*) FROM t").ok().and_then(|rows| rows[0][0].clone());
        assert_eq!(found.as_deref(), rows);
        assert_eq!(sql.value("SELECT count(*) FROM u"), "0", "unlogged tables are emptied");
        assert_eq!(sql.value("SELECT current_setting('archive_mode') || current_setting('work_mem')"), "off5MB");
        assert!(!data.join("ended").exists());
        amcheck::assert_clean(&restored);
        let info = run(session(&restored).info()).unwrap();
        assert_eq!((info.timeline, info.in_recovery), (TimelineId(2), false));
        let content = fs::read(data.join("pg_wal").join(history::file_name(info.timeline))).unwrap();
        let history = History::parse(info.timeline, &content).unwrap();
        assert!(history.contains(TimelineId(1), copy.stopped.stop_lsn));
        assert_eq!(History::parse(info.timeline, &history.format()).unwrap(), history);
    }
}

/// A hot standby of `primary`, made from a copy of it.
fn standby_of(primary: &Cluster, archive: &Path) -> (Cluster, dirs::Dir) {
    let copy = back_up(primary, || {});
    let dir = dirs::Dir::new();
    let data = lay_out(&copy, dir.path());
    let streaming = vec![("primary_conninfo".to_owned(), primary.conninfo())];
    let settings = RecoverySettings { standby: true, extra: streaming, ..settings(archive, RecoveryTarget::Latest) };
    write_recovery_settings(&data, &settings).unwrap();
    let mut standby = Cluster::open(&primary.installation, &data);
    standby.start();
    (standby, dir)
}

fn catch_up(standby: &Cluster, primary: &Cluster) {
    let end = primary.sql().value("SELECT pg_current_wal_lsn()");
    process::wait_until("the standby to catch up", Duration::from_secs(60), || {
        standby.sql().value(&format!("SELECT coalesce(pg_last_wal_replay_lsn() >= '{end}', false)")) == "t"
    });
}

fn a_standby_is_backed_up(major: u32) {
    let Some((primary, archive)) = archiving_cluster(major) else { return };
    primary.sql().execute("CREATE TABLE t AS SELECT generate_series(1, 1000) n");
    let (standby, _dir) = standby_of(&primary, &archive);
    primary.sql().execute("CHECKPOINT");
    catch_up(&standby, &primary);
    let copy = back_up(&standby, || {
        primary.sql().execute("INSERT INTO t SELECT generate_series(1001, 2000); CHECKPOINT");
        catch_up(&standby, &primary);
        standby.sql().execute("CHECKPOINT");
    });
    assert!(copy.started.from_standby);
    let control = ControlFile::parse(&copy.entries.last().unwrap().1).unwrap();
    assert!(control.min_recovery_lsn > Lsn(0) && control.min_recovery_lsn <= copy.stopped.stop_lsn);
    assert_eq!(control.min_recovery_timeline, Some(TimelineId(1)));

    let (on_standby, on_primary) = (session(&standby), session(&primary));
    assert!(run(on_standby.switch_wal()).is_err(), "a standby cannot switch");
    let (standby_info, primary_info) = (run(on_standby.info()).unwrap(), run(on_primary.info()).unwrap());
    check_is_primary_of(&standby_info, &primary_info).unwrap();
    assert!(check_is_primary_of(&standby_info, &standby_info).is_err());
    run(on_primary.switch_wal()).unwrap();
    let stop_segment = copy.stopped.stop_segment.name(standby_info.wal_segment_size);
    primary.wait_archived(&stop_segment, Duration::from_secs(60));

    let dir = dirs::Dir::new();
    let data = lay_out(&copy, dir.path());
    write_recovery_settings(&data, &settings(&archive, RecoveryTarget::Immediate { backup_end: Lsn(0) })).unwrap();
    let mut restored = Cluster::open(&primary.installation, &data);
    restored.launch();
    restored.wait_recovered(RECOVERY_TIMEOUT);
    assert_eq!(restored.sql().value("SELECT count(*) FROM t"), "2000");
    amcheck::assert_clean(&restored);
}

fn a_standby_promoted_meanwhile_is_refused(major: u32) {
    let Some((primary, archive)) = archiving_cluster(major) else { return };
    let (mut standby, _dir) = standby_of(&primary, &archive);
    primary.sql().execute("CHECKPOINT");
    catch_up(&standby, &primary);
    let running = run(session(&standby).start_backup("promoted", true)).unwrap();
    standby.sql().execute("SELECT pg_promote()");
    standby.wait_recovered(RECOVERY_TIMEOUT);
    let error = run(running.stop()).err().expect("the copy is worthless");
    assert!(error.message().contains("promoted during the backup"), "{error:?}");
}

#[test]
fn minimal_wal_is_refused_and_a_dropped_backup_is_aborted() {
    let Some(mut cluster) = cluster(15, &Options::default()) else { return };
    let running = run(session(&cluster).start_backup("dropped", true)).unwrap();
    drop(running);
    let count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'lifeboat'";
    process::wait_until("the session's end", Duration::from_secs(30), || cluster.sql().value(count) == "0");
    assert!(!cluster.data.join("backup_label").exists());

    cluster.configure(["wal_level = minimal", "max_wal_senders = 0"]);
    cluster.restart();
    let error = run(session(&cluster).start_backup("minimal", true)).err().expect("the log is not enough");
    assert!(error.message().contains("wal_level is minimal") && !error.hints().is_empty(), "{error:?}");
}
