//! Two repositories of which one is enough: the other one is away for a while, and gets what it missed.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use rustix::process::Signal;

use super::support::dirs::Dir;
use super::support::listing::log_objects;
use super::support::postgres::RECOVERY_TIMEOUT;
use super::support::process;
use super::support::scenario::SOURCE;
use super::{Writer, assert_same_log, last_row, scenario, stop_archiving, stream, wait_stored};

/// The whole segments below a repository's directory, from `first` on.
fn segments(repository: &std::path::Path, first: &str) -> BTreeSet<String> {
    let names = log_objects(repository).into_iter().filter_map(|path| path.file_name()?.to_str()?.get(..24).map(str::to_owned));
    names.filter(|name| **name >= *first && name.bytes().all(|byte| byte.is_ascii_hexdigit())).collect()
}

#[test]
fn one_of_two_repositories_is_enough_and_the_other_gets_the_segments_later() {
    let Some(scenario) = scenario(14) else { return };
    let (second, away) = (Dir::new(), Dir::new());
    let host = &scenario.protected;
    let text = host.configuration().replace("kind = \"postgres\"\n", "kind = \"postgres\"\nlog_copies = 1\n");
    host.configure_text(&format!("{text}\n[repository.second]\nurl = \"file://{}\"\n", second.path().display()));
    let keys = scenario.rescue.dir().join("keys-of-second");
    host.ok(&["init", "--repository", "second", "--generate-keys", keys.to_str().expect("plain")]);
    let alone = scenario.rescue.configuration();
    scenario.rescue.append_configuration(&format!("[repository.second]\nurl = \"file://{}\"\n", second.path().display()));
    scenario.full_backup();
    stop_archiving(&scenario.cluster);
    let first: String = scenario.cluster.sql().value("SELECT pg_walfile_name(pg_current_wal_lsn())");
    let mut running = stream(&scenario, &scenario.cluster, "200ms");
    Writer::run(&scenario.cluster, Duration::from_millis(500));
    wait_stored(&scenario.cluster, &mut running);
    let hidden = away.join("second");
    fs::rename(second.path(), &hidden).expect("own directory");
    while segments(scenario.repository.path(), &first).len() < 4 {
        Writer::run(&scenario.cluster, Duration::from_millis(300));
    }
    wait_stored(&scenario.cluster, &mut running);
    let last = last_row(&scenario.cluster);
    let restored = scenario.restore_and_start("one is away", &["--to", "latest"]);
    assert_eq!(last_row(&restored), last, "the last segment is there in pieces");
    scenario.rescue.configure_text(&alone);
    let (whole, _) = assert_same_log(&scenario, &scenario.cluster, &first);
    assert!(whole >= 4);
    fs::rename(&hidden, second.path()).expect("own directory");
    process::wait_until("the other repository has them", RECOVERY_TIMEOUT, || {
        host.run(&["queue", SOURCE, "--deliver"]);
        segments(second.path(), &first) == segments(scenario.repository.path(), &first)
    });
    running.signal(Signal::TERM);
    println!("{}", running.finish(Duration::from_secs(60)).success());
}
