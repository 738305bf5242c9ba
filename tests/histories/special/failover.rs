//! A standby that took over goes on under the same name: on its own data directory, with and without what the lost host
//! remembered.

use std::fs;

use super::super::expect::{assert_full_and_why, assert_type};
use super::super::judge::Pair;
use super::super::on_majors;
use super::super::stage::{Stage, Taken, Target};
use super::super::support::postgres::{Cluster, Options, RECOVERY_TIMEOUT};
use super::super::support::process;
use super::{scene, touch};

on_majors! {
    a_promoted_standby_goes_on: pg13 13, pg15 15;
}

/// A streaming standby made from `taken`, a backup in the twin's repository; it archives from its promotion on.
#[track_caller]
pub fn standby_of(stage: &Stage, taken: &Taken, name: &str) -> Cluster {
    let data = stage.restore(&stage.twin, taken, &Target::Immediate, &[], name);
    fs::rename(data.join("recovery.signal"), data.join("standby.signal")).expect("a restored cluster recovers");
    let mut standby = Cluster::open(&stage.cluster.installation, &data)
        .with_override(format!("primary_conninfo={}", stage.cluster.conninfo()))
        .with_override("recovery_target=")
        .with_override("recovery_target_timeline=latest")
        .with_override("archive_mode=on");
    standby.start();
    process::wait_until("streaming", RECOVERY_TIMEOUT, || {
        stage.cluster.sql().number("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == 1
    });
    standby
}

/// Waits until `standby` has replayed everything that `primary` has written.
#[track_caller]
pub fn wait_replayed(primary: &Cluster, standby: &Cluster) {
    let written = primary.sql().value("SELECT pg_current_wal_lsn()");
    process::wait_until("the standby's replay", RECOVERY_TIMEOUT, || {
        standby.sql().value(&format!("SELECT pg_last_wal_replay_lsn() >= '{written}'")) == "t"
    });
}

/// Makes a standby a primary.
#[track_caller]
pub fn promote(standby: &mut Cluster) {
    standby.sql().execute("SELECT pg_promote()");
    standby.wait_recovered(RECOVERY_TIMEOUT);
}

fn a_promoted_standby_goes_on(major: u32) {
    // Where a standby sets hint bits it dirties no page, and where it may, LSNs are not trusted: both.
    let checksums = major != 15;
    let Some(mut stage) = scene(major, &Options { checksums, ..Options::default() }) else { return };
    let base = Pair::quiet(&stage, "full");
    let mut standby = standby_of(&stage, &base.twin, "standby");
    touch(&stage, "first", 7);
    stage.run(&["VACUUM first", "CREATE TABLE late AS SELECT n FROM generate_series(1, 9000) n"]);
    let before = Pair::quiet(&stage, "incr");
    assert_type(&before.ours, "incr");
    touch(&stage, "second", 3);
    wait_replayed(&stage.cluster, &standby);
    stage.cluster.kill9();
    promote(&mut standby);
    let _lost = stage.look_after(standby);

    touch(&stage, "first", 11);
    let after = Pair::quiet(&stage, "incr");
    println!("after the failover: a {} ({:?})", after.ours.kind, after.ours.reason);
    touch(&stage, "second", 5);
    let second = Pair::quiet(&stage, "incr");
    assert_type(&second.ours, "incr");

    // A host that remembers nothing, and has no identity to look it up with.
    let fresh = stage.ours.host.twin();
    let _remembers = std::mem::replace(&mut stage.ours.host, fresh);
    touch(&stage, "first", 5);
    let forgotten = Pair::quiet(&stage, "incr");
    assert_full_and_why(&forgotten.ours);
    touch(&stage, "first", 3);
    stage.run(&["VACUUM"]);
    let last = Pair::quiet(&stage, "incr");
    assert_type(&last.ours, "incr");
    [base, before, after, second, forgotten, last].iter().for_each(|pair| pair.judge(&stage));
}
