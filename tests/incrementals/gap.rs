//! A log that is archived out of its order: what is still to come is waited for, and what is lost makes a full.

use std::fs;
use std::path::PathBuf;

use crate::stage;
use crate::support::dirs;
use crate::support::listing;
use crate::support::postgres::{Options, RECOVERY_TIMEOUT};
use crate::support::process;
use crate::support::scenario::{SOURCE, Scenario};

/// A cluster whose archiver fails at one segment, while the next one was stored already; and the note that PostgreSQL has
/// still to hand over the one that is delayed.
fn delayed() -> Option<(Scenario, String, PathBuf)> {
    let scenario = stage::start(&Options::default())?;
    let cluster = &scenario.cluster;
    cluster.configure(["archive_command = 'false'"]);
    process::wait_until("the configuration", RECOVERY_TIMEOUT, || cluster.sql().value("SHOW archive_command") == "false");
    stage::scatter(&scenario, 700);
    let delayed = cluster.switch_wal();
    process::wait_until("the archiver fails", RECOVERY_TIMEOUT, || {
        cluster.sql().value("SELECT coalesce(last_failed_wal, '') FROM pg_stat_archiver") == delayed
    });
    stage::scatter(&scenario, 900);
    let wal = cluster.data.join("pg_wal");
    let later = wal.join(cluster.switch_wal());
    scenario.protected.ok(&["archive".as_ref(), "push".as_ref(), SOURCE.as_ref(), later.as_os_str()]);
    let ready = wal.join(format!("archive_status/{delayed}.ready"));
    assert!(ready.exists(), "{delayed} is not archived");
    Some((scenario, delayed, ready))
}

#[test]
fn a_segment_that_is_on_its_way_is_waited_for() {
    let Some((scenario, delayed, ready)) = delayed() else { return };
    let planned = || scenario.protected.json(&["backup", SOURCE, "--type", "incr", "--dry-run"])["plans"][0].clone();
    assert_eq!(planned()["type"], "incr", "{:#}", planned());
    // Nobody will hand it over any more.
    fs::remove_file(&ready).expect("own cluster");
    let lost = planned();
    assert_eq!(lost["type"], "full", "{lost:#}");
    assert!(lost["reason"].as_str().expect("a reason").contains(&format!("has a gap at {delayed}")), "{lost:#}");
    fs::write(&ready, "").expect("own cluster");
    dirs::give(&ready);

    let mut running = scenario.protected.start(&["backup", SOURCE, "--type", "incr"]);
    let begun = || scenario.repository.names().iter().any(|key| key.contains("-incr-") && key.ends_with("/begin.json"));
    process::wait_until("the incr begins", RECOVERY_TIMEOUT, || {
        assert!(!running.has_ended(), "{}", running.stderr_so_far());
        begun()
    });
    scenario.cluster.configure([scenario.protected.archive_command(SOURCE)]);
    running.finish(RECOVERY_TIMEOUT).success();
    let id = listing::backups(&scenario.protected).pop().expect("the incr");
    assert!(id.contains("-incr-"), "{id}");
    let files = stage::relation_files(&scenario.cluster.data);
    stage::assert_same(&stage::restore(&scenario, &id, "delayed"), &files);
    scenario.rescue.ok(&["verify", SOURCE]);
}
