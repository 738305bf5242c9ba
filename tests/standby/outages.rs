//! Repositories that go away: the standby's server lives on, and it is promoted with what the other one holds.

use std::fs;

use super::stage::{Standby, archive, lose_source, scenario};
use super::support::dirs::Dir;

#[test]
fn a_standby_outlives_an_outage_and_is_promoted_in_one() {
    let Some(mut scenario) = scenario(15) else { return };
    let second = Dir::new();
    for host in [&scenario.protected, &scenario.rescue] {
        let text =
            host.configuration().replace("kind = \"postgres\"\n", "kind = \"postgres\"\nlog_copies = 1\nbackup_copies = 1\n");
        host.configure_text(&format!("{text}\n[repository.second]\nurl = \"file://{}\"\n", second.path().display()));
    }
    let keys = scenario.rescue.dir().join("keys-of-second");
    scenario.protected.ok(&["init", "--repository", "second", "--generate-keys", keys.to_str().expect("plain")]);
    scenario.cluster.sql().execute("CREATE TABLE kept (n int)");
    scenario.protected.ok(&["backup", "orders", "--type", "full"]);
    archive(&scenario.cluster);
    let standby = Standby::start(&scenario, "standby", &[], &[]);
    let pid = standby.pid();

    let away = second.path().with_extension("away");
    fs::rename(second.path(), &away).expect("own directory");
    scenario.cluster.sql().execute("INSERT INTO kept VALUES (1)");
    let lsn = archive(&scenario.cluster);
    standby.wait_replayed(&lsn);
    scenario.cluster.sql().execute("INSERT INTO kept VALUES (2)");
    lose_source(&mut scenario);
    assert_eq!(standby.pid(), pid, "its server has ended");
    let output = standby.promote(&scenario, &["--output", "json"]).success();
    assert!(output.stderr.contains("repository second was not taken into account; it may hold newer log"), "{output}");
    assert!(output.stdout.contains("\"way\": \"restart\"") || output.stdout.contains("\"way\":\"restart\""), "{output}");
    assert_eq!(standby.cluster.sql().number("SELECT sum(n) FROM kept"), 3);
    fs::rename(&away, second.path()).expect("own directory");
}
