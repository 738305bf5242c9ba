//! What a server and its control file say must agree.

use std::time::Duration;

use lifeboat::base::{Lsn, SegmentSize, TimelineId};
use lifeboat::source::postgres::control::{ClusterState, ControlFile, WalLevel};
use lifeboat::source::postgres::external_config::{EXTERNAL_CONFIG_FOLDER, external_config};
use lifeboat::source::postgres::live::live_server;
use lifeboat::source::postgres::server::ArchiveMode;

use super::support::postgres::{Cluster, Installation, Options, Stop, skip};
use super::support::process;
use super::{cluster, each_major, run, session};

each_major!(the_control_file_agrees_with_the_server, settings_and_inventory_are_read);

fn the_control_file_agrees_with_the_server(major: u32) {
    let options = Options { wal_segment_mib: 4, ..Options::default() }.with("wal_log_hints = on");
    let Some(mut cluster) = cluster(major, &options) else { return };
    let mut sql = cluster.sql();
    sql.execute("CREATE TABLE t AS SELECT generate_series(1, 1000); CHECKPOINT");
    let control = ControlFile::read(&cluster.data).unwrap();
    let shown = format!(
        "{} {} {} {} {} {} {} {}",
        control.system_identifier,
        control.control_version,
        control.catalog_version,
        control.checkpoint_lsn,
        control.redo_lsn,
        control.timeline,
        control.previous_timeline,
        control.checkpoint_time.unix_micros() / 1_000_000,
    );
    let expected = sql.value(
        "SELECT concat_ws(' ', system_identifier, pg_control_version, catalog_version_no, checkpoint_lsn, redo_lsn, \
         timeline_id, prev_timeline_id, extract(epoch FROM checkpoint_time)::bigint) \
         FROM pg_control_system(), pg_control_checkpoint()",
    );
    assert_eq!(shown, expected);
    assert_eq!((control.state, control.wal_level), (ClusterState::InProduction, WalLevel::Logical));
    assert_eq!(control.wal_segment_size, SegmentSize::new(4 << 20).unwrap());
    assert_eq!((control.min_recovery_lsn, control.min_recovery_timeline), (Lsn(0), None));
    assert!(control.wal_log_hints && control.has_data_checksums() && control.full_page_writes);
    assert_eq!(control.pages_per_file, 131_072);
    assert_eq!(live_server(&cluster.data).unwrap().map(|live| live.pid > 0), Some(true));
    cluster.stop(Stop::Fast);
    assert_eq!(ControlFile::read(&cluster.data).unwrap().state, ClusterState::ShutDown);
    assert_eq!(live_server(&cluster.data).unwrap(), None);
}

#[test]
fn the_control_file_agrees_with_pg_controldata() {
    let Some(installation) = Installation::with_program("pg_controldata") else { return };
    let cluster = Cluster::create(&installation, &Options { checksums: false, ..Options::default() });
    let mut command = process::command(&installation.program("pg_controldata"), cluster.dir().path());
    command.arg("-D").arg(&cluster.data);
    let text = process::run(command, Duration::from_secs(30)).success().stdout;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}")).trim().to_owned()
    };
    let control = ControlFile::read(&cluster.data).unwrap();
    assert_eq!(control.system_identifier.to_string(), field("Database system identifier"));
    assert_eq!(control.control_version.to_string(), field("pg_control version number"));
    assert_eq!(control.checkpoint_lsn.to_string(), field("Latest checkpoint location"));
    assert_eq!(control.redo_lsn.to_string(), field("Latest checkpoint's REDO location"));
    assert_eq!(control.min_recovery_lsn.to_string(), field("Minimum recovery ending location"));
    assert_eq!(control.pages_per_file.to_string(), field("Blocks per segment of large relation"));
    assert_eq!(control.wal_segment_size.bytes().to_string(), field("Bytes per WAL segment"));
    assert_eq!(control.data_checksum_version.to_string(), field("Data page checksum version"));
    assert_eq!(field("wal_log_hints setting"), if control.wal_log_hints { "on" } else { "off" });
    assert_eq!(field("Database cluster state"), "shut down");
    assert_eq!(control.state, ClusterState::ShutDown);
}

fn settings_and_inventory_are_read(major: u32) {
    let options = Options::default().with("cluster_name = 'kräne'").with("archive_mode = on").with("archive_timeout = 2min");
    let Some(installation) = Installation::require(major) else { return };
    let mut cluster = Cluster::create(&installation, &options);
    let etc = cluster.dir().create_dir("etc");
    let hba = cluster.dir().write("etc/pg_hba.conf", "local all all trust\n");
    cluster.configure([format!("hba_file = '{}'", hba.display()), "archive_command = 'false'".to_owned()]);
    cluster.start();
    cluster.sql().execute("CREATE DATABASE second");
    let session = session(&cluster);
    let info = run(session.info()).unwrap();
    assert_eq!((info.major, info.version_num / 10_000), (major, major));
    assert!(info.version.starts_with(&major.to_string()), "{}", info.version);
    assert_eq!(info.data_directory, cluster.data);
    assert_eq!(info.system_identifier, ControlFile::read(&cluster.data).unwrap().system_identifier);
    assert_eq!((info.timeline, info.in_recovery), (TimelineId(1), false));
    assert_eq!((info.archive_mode, info.archive_command.as_str()), (ArchiveMode::On, "false"));
    assert_eq!((info.archive_timeout_seconds, info.block_size_bytes), (120, 8192));
    assert_eq!((info.wal_level, info.cluster_name.is_empty()), (WalLevel::Logical, false));
    assert!(info.data_checksums && info.full_page_writes && !info.wal_log_hints);
    assert_eq!(info.stats_temp_directory.is_some(), major < 15);

    let outside: Vec<String> = external_config(&info).unwrap().iter().map(|entry| entry.path.to_string()).collect();
    assert_eq!(outside, [format!("{EXTERNAL_CONFIG_FOLDER}{}/pg_hba.conf", etc.display())]);

    let inventory = run(session.inventory()).unwrap();
    let names: Vec<&str> = inventory.databases.iter().map(|database| database.name.as_str()).collect();
    assert_eq!(names, ["postgres", "second", "template1"]);
    assert_eq!(inventory.unreadable[0].0, "template0");
    let first = &inventory.databases[0];
    assert!(first.extensions.iter().any(|extension| extension.name == "plpgsql"), "{first:?}");
    assert!(first.collations.iter().any(|collation| collation.provider == "icu"), "{first:?}");

    let end = run(session.switch_wal()).unwrap();
    assert!(end > Lsn(0));
    process::wait_until("a failure of the archiver", Duration::from_secs(30), || {
        run(session.archiver_status()).unwrap().is_failing()
    });
    let status = run(session.archiver_status()).unwrap();
    assert!(status.failed_count > 0 && status.last_failed_file.is_some_and(|file| file.len() == 24));
    assert!(run(session.create_restore_point("before lunch")).unwrap() > end);
    let too_long = run(session.create_restore_point(&"x".repeat(64))).unwrap_err();
    assert!(too_long.summary().contains("too long"), "{too_long:?}");
}

#[test]
fn every_supported_major_is_installed() {
    let missing: Vec<u32> = (13..=18).filter(|major| !Installation::all().iter().any(|found| found.major == *major)).collect();
    if !missing.is_empty() {
        skip(&format!("PostgreSQL {missing:?} not installed"));
    }
}
