//! The main job on real servers of every major: back up under load, archive, lose it, get any moment back.

mod support;

use std::time::Duration;

use lifeboat::base::{Lsn, Timestamp};

use support::ledger::{Ledger, LoadOptions};
use support::postgres::{Installation, Options, RECOVERY_TIMEOUT};
use support::scenario::Scenario;
use support::{amcheck, process, random};

/// Full, load, full, load; then random moments, and every kind of target, give exactly PostgreSQL's rows.
fn any_moment_comes_back(major: u32) {
    let Some(installation) = Installation::require(major) else { return };
    let seed = random::seed("end to end");
    // Half of the majors without checksums, whatever the version's default.
    let scenario = Scenario::start(&installation, &Options { checksums: major.is_multiple_of(2), ..Options::default() });
    let mut ledger = Ledger::create(&scenario.cluster, seed);
    let load = ledger.start(LoadOptions::default());
    scenario.full_backup();
    let protected_from = Timestamp::now();
    let points = ledger.restore_points().len();
    std::thread::sleep(Duration::from_millis(2500));
    scenario.full_backup();
    std::thread::sleep(Duration::from_millis(2500));
    // The housekeeper makes them by chance.
    process::wait_until("a restore point that can be reached", RECOVERY_TIMEOUT, || ledger.restore_points().len() > points);
    load.stop();
    ledger.commit_one();
    let last = scenario.cluster.switch_wal();
    scenario.cluster.wait_archived(&last, RECOVERY_TIMEOUT);

    let oracle = ledger.oracle();
    let mut random = random::generator(seed, 0);
    let moments = oracle.pick_moments(10, protected_from..=*oracle.span().end(), &mut random);
    for (number, moment) in moments.iter().enumerate() {
        let restored = scenario.restore_and_start(&format!("moment-{number}"), &["--to", &moment.rfc3339()]);
        oracle.assert_at(&mut restored.sql(), *moment);
        amcheck::assert_clean(&restored);
    }
    let commit = oracle.commits().iter().rfind(|commit| commit.time > protected_from && !commit.changes.is_empty());
    let commit = commit.expect("the load went on after the backup");
    let (lsn, xid) = (commit.start.to_string(), commit.xid.to_string());
    let point = ledger.restore_points().pop().expect("the housekeeper made restore points");
    let targets = [
        (vec!["--to", "latest"], oracle.rows_at_end()),
        (vec!["--to-lsn", lsn.as_str()], oracle.rows_through_lsn(commit.start)),
        (vec!["--to-lsn", lsn.as_str(), "--exclusive"], oracle.rows_before_lsn(commit.start)),
        (vec!["--to-xid", xid.as_str()], oracle.rows_through_xid(commit.xid)),
        (vec!["--to-name", point.name.as_str()], oracle.rows_before_lsn(point.lsn)),
    ];
    let stop: Lsn = newest_backup(&scenario)["stop_lsn"].as_str().expect("a position").parse().expect("an LSN");
    let immediate = (vec!["--to-immediate"], oracle.rows_before_lsn(stop));
    for (number, (target, expected)) in targets.iter().chain([&immediate]).enumerate() {
        let restored = scenario.restore_and_start(&format!("target-{number}"), target);
        oracle.assert_tables(&mut restored.sql(), expected, &target.join(" "));
    }
}

fn newest_backup(scenario: &Scenario) -> serde_json::Value {
    let list = scenario.rescue.json(&["list"]);
    let backups = &list["repositories"][0]["sources"][0]["incarnations"][0]["backups"];
    backups.as_array().and_then(|backups| backups.last()).expect("there are backups").clone()
}

macro_rules! for_each_major {
    ($test:ident: $($name:ident $major:literal),*) => {
        mod $test {
            $(
                #[test]
                fn $name() {
                    super::$test($major)
                }
            )*
        }
    };
}

for_each_major!(any_moment_comes_back: pg13 13, pg14 14, pg15 15, pg16 16, pg17 17, pg18 18);
