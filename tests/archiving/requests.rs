//! What the verbs tell of their requests and of the repository's store.

use crate::support::postgres::Options;
use crate::support::scenario::{SOURCE, Scenario};

#[test]
fn requests_are_counted_and_the_store_is_on_record_once() {
    let Some(scenario) = Scenario::on(15, &Options { wal_segment_mib: 1, ..Options::default() }) else { return };
    let backup = scenario.protected.json(&["backup", SOURCE, "--type", "full", "--limit-rate", "100MiB"]);
    let taken = &backup["backups"][0];
    let requests = &taken["requests"];
    // Begin, key, list, manifest and commit entry beside the packs, and perhaps an index of the log.
    let puts = requests["operations"]["put"]["requests"].as_u64();
    assert!(puts >= taken["packs"].as_u64().map(|packs| packs + 5), "{backup:#}");
    assert!(requests["sent_bytes"].as_u64() > taken["stored_bytes"].as_u64(), "{backup:#}");
    assert_eq!((&requests["retries"], &requests["failures"]), (&0.into(), &0.into()), "{backup:#}");

    let into = scenario.restored.join("data").display().to_string();
    let restore = scenario.rescue.json(&["restore", SOURCE, "--into", &into, "--to-immediate", "--limit-rate", "100MiB"]);
    assert!(restore["requests"]["received_bytes"].as_u64() > taken["stored_bytes"].as_u64(), "{restore:#}");

    for _ in 0..2 {
        let check = scenario.protected.json(&["check", SOURCE]);
        assert_eq!(check["checks"][0]["probe"]["abilities"]["conditional_put"], "yes", "{check:#}");
        assert_eq!(check["faults"], 0, "{check:#}");
    }
    let left = scenario.repository.names_below("probe/");
    assert_eq!(left.len(), 1, "one report by init, which the others repeat: {left:?}");
    scenario.protected.ok(&["verify"]);
}
