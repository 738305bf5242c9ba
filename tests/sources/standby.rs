//! A backup taken from a streaming standby while the primary works.

use std::fs;
use std::time::Duration;

use lifeboat::base::Timestamp;

use super::support::amcheck;
use super::support::ledger::{Ledger, LoadOptions};
use super::support::majors::on_majors;
use super::support::postgres::RECOVERY_TIMEOUT;
use super::support::random;
use super::support::scenario::SOURCE;
use super::{backups, scenario};

on_majors! {
    a_backup_from_a_standby_is_as_good: pg13 13, pg15 15;
}

fn a_backup_from_a_standby_is_as_good(major: u32) {
    let Some(scenario) = scenario(major) else { return };
    let seed = random::seed("standby backup");
    let mut ledger = Ledger::create(&scenario.cluster, seed);
    scenario.full_backup();
    let standby = scenario.standby(&["--clone"], &["archive_mode=on"]);
    let text = fs::read_to_string(&scenario.protected.config).expect("own file");
    let quoted = |conninfo: &str| toml::Value::String(conninfo.to_owned()).to_string();
    let of_primary = format!("conninfo = {}", quoted(&scenario.cluster.conninfo()));
    assert!(text.contains(&of_primary), "{text}");
    let of_standby = format!("conninfo = {}", quoted(&standby.conninfo()));
    scenario.protected.configure_text(&text.replace(&of_primary, &of_standby));
    let output = scenario.protected.run(&["backup", SOURCE, "--type", "full"]).exits(2);
    assert!(output.stderr.contains("set primary_conninfo in [source.orders]"), "{output}");
    scenario.protected.configure_text(&text.replace(&of_primary, &format!("{of_standby}\nprimary_{of_primary}")));

    let load = ledger.start(LoadOptions::default());
    std::thread::sleep(Duration::from_millis(800));
    scenario.full_backup();
    let after = Timestamp::now();
    std::thread::sleep(Duration::from_millis(1200));
    load.stop();
    ledger.commit_one();
    let segment = scenario.cluster.switch_wal();
    scenario.cluster.wait_archived(&segment, RECOVERY_TIMEOUT);
    let taken = backups(&scenario.rescue);
    assert_eq!(taken.iter().map(|backup| backup["from_standby"].as_bool()).collect::<Vec<_>>(), [Some(false), Some(true)]);

    let oracle = ledger.oracle();
    let id = taken[1]["id"].as_str().expect("an id");
    let moments = oracle.pick_moments(3, after..=*oracle.span().end(), &mut random::generator(seed, 1));
    for (number, moment) in moments.iter().enumerate() {
        let restored = scenario.restore_and_start(&format!("moment-{number}"), &["--to", &moment.rfc3339(), "--backup", id]);
        oracle.assert_at(&mut restored.sql(), *moment);
        amcheck::assert_clean(&restored);
    }
    let restored = scenario.restore_and_start("immediate", &["--to-immediate", "--backup", id]);
    amcheck::assert_clean(&restored);
}
