//! A failover as it really happens: a streaming standby takes over from a primary that was killed.

use std::time::Duration;

use lifeboat::base::Timestamp;

use super::support::amcheck;
use super::support::ledger::Ledger;
use super::support::majors::on_majors;
use super::support::postgres::RECOVERY_TIMEOUT;
use super::support::{process, random};
use super::{load_and_archive, objects, plan, protect_instead, scenario, timeline_of, wait_for_object};

on_majors! {
    a_promoted_standby_goes_on: pg15 15, pg16 16;
}

fn a_promoted_standby_goes_on(major: u32) {
    let Some(mut scenario) = scenario(major, 16) else { return };
    let seed = random::seed("standby");
    let mut ledger = Ledger::create(&scenario.cluster, seed);
    scenario.full_backup();
    let began = Timestamp::now();
    let mut standby = scenario.standby(&[], &["hot_standby=on"]);
    load_and_archive(&scenario.cluster, &mut ledger, Duration::from_millis(1500));
    // The last stretch is not archived: only the standby has it.
    ledger.run(Duration::from_millis(700));
    let first = ledger.oracle();
    let flushed = scenario.cluster.sql().value("SELECT pg_current_wal_lsn()");
    process::wait_until("the standby's replay", RECOVERY_TIMEOUT, || {
        standby.sql().value(&format!("SELECT pg_last_wal_replay_lsn() >= '{flushed}'")) == "t"
    });
    scenario.cluster.kill9();
    standby.sql().execute("SELECT pg_promote()");
    standby.wait_recovered(RECOVERY_TIMEOUT);
    assert_eq!(timeline_of(&standby), 2);
    wait_for_object(&scenario, "00000002_from-00000001-");
    // The new primary archives the segment that it left, unless it left between two.
    let switch = standby.sql().value("SELECT split_part(pg_read_file('pg_wal/00000002.history'), E'\\t', 2)");
    let offset = switch.split_once('/').and_then(|(_, low)| u64::from_str_radix(low, 16).ok()).expect("an LSN") % (16 << 20);
    process::wait_until("the partial segment", RECOVERY_TIMEOUT, || {
        offset == 0 || objects(&scenario, "00000001").iter().any(|key| key.contains(".partial_"))
    });

    protect_instead(&scenario, &scenario.cluster, &standby);
    let mut ledger = Ledger::attach(&standby, seed + 1);
    let promoted = Timestamp::now();
    load_and_archive(&standby, &mut ledger, Duration::from_millis(1000));
    let second = ledger.oracle();
    let mut random = random::generator(seed, 1);
    let mut moments: Vec<_> =
        first.pick_moments(3, began..=*first.span().end(), &mut random).into_iter().map(|moment| (moment, &first)).collect();
    moments
        .extend(second.pick_moments(2, promoted..=*second.span().end(), &mut random).into_iter().map(|moment| (moment, &second)));
    // The segment that the old primary never finished is read from the new timeline.
    let last = first.commits().iter().rev().nth(1).expect("commits").time;
    if !first.is_ambiguous(last) {
        moments.push((last, &first));
    }
    for (number, (moment, oracle)) in moments.iter().enumerate() {
        // Recovery follows the timeline on which it ends.
        let timeline = plan(&scenario, &["--to", &moment.rfc3339()])["timeline"].clone();
        assert!(timeline == 2 || (timeline == 1 && *moment < promoted), "{moment} on timeline {timeline}");
        let restored = scenario.restore_and_start(&format!("moment-{number}"), &["--to", &moment.rfc3339()]);
        oracle.assert_at(&mut restored.sql(), *moment);
        amcheck::assert_clean(&restored);
    }
}
