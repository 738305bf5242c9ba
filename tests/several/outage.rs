//! A repository that is away for a long time under continuous load: nothing is lost, nothing is reordered, and what was
//! missed arrives by itself. `LIFEBOAT_TEST_OUTAGE_SECONDS` makes the outage longer.

use std::time::{Duration, Instant};

use crate::stage::{Stage, Which};
use crate::support::ledger::{Ledger, LoadOptions};
use crate::support::postgres::RECOVERY_TIMEOUT;
use crate::support::process;
use crate::support::random;

fn outage() -> Duration {
    let asked = std::env::var("LIFEBOAT_TEST_OUTAGE_SECONDS").ok();
    Duration::from_secs(asked.map_or(12, |seconds| seconds.parse().expect("a number of seconds")))
}

fn nothing_is_lost(keys: &str, away: Which) {
    let Some(stage) = Stage::start(keys) else { return };
    let seed = random::seed("outage");
    let cluster = &stage.scenario.cluster;
    let mut ledger = Ledger::create(cluster, seed);
    stage.scenario.full_backup();
    let load = ledger.start(LoadOptions::default());
    stage.take_away(away);
    let began = Instant::now();
    let mut segments = Vec::new();
    while began.elapsed() < outage() {
        segments.push(cluster.switch_wal());
        std::thread::sleep(Duration::from_millis(300));
    }
    let failures = cluster.sql().number("SELECT failed_count FROM pg_stat_archiver");
    stage.bring_back(away);
    let back = Instant::now();
    load.stop();
    ledger.commit_one();
    let last = cluster.switch_wal();
    cluster.wait_archived(&last, RECOVERY_TIMEOUT);
    if keys.is_empty() {
        assert!(failures > 0, "PostgreSQL waits for both");
    } else {
        assert_eq!(failures, 0, "{}", cluster.log_tail());
    }
    process::wait_until("both have the same", crate::stage::DELIVERY_TIMEOUT, || {
        let [main, second] = [Which::Main, Which::Second].map(|which| stage.archive(which));
        let nothing_waits = [Which::Main, Which::Second].iter().all(|which| stage.queued(*which).is_empty());
        nothing_waits && main == second && main.iter().any(|(file, _)| *file == last)
    });
    println!("{} segments in {:?} of outage, all there {:.1?} after it", segments.len(), outage(), back.elapsed());
    stage.scenario.rescue.ok(&["verify", "--deep"]);
    let oracle = ledger.oracle();
    for which in [Which::Main, Which::Second] {
        let restored = stage.restore_from(which, which.name());
        oracle.assert_tables(&mut restored.sql(), &oracle.rows_at_end(), which.name());
    }
}

#[test]
fn with_one_copy_enough_archiving_does_not_notice() {
    nothing_is_lost("log_copies = 1", Which::Main);
}

#[test]
fn with_all_copies_needed_postgresql_keeps_its_log() {
    nothing_is_lost("", Which::Main);
}
