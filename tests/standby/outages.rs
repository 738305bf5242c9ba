//! Repositories that go away: the standby's server lives on, and it is promoted with what the other one holds.

use std::fs;

use super::stage::{Standby, archive, lose_source, scenario};
use super::support::dirs::Dir;
use super::support::postgres::RECOVERY_TIMEOUT;
use super::support::process;

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
    // With it PostgreSQL reads ahead, and asks for segment after segment before it replays the first.
    let standby = Standby::start(&scenario, "standby", &[], &["recovery_prefetch=off"]);
    let pid = standby.pid();

    let away = second.path().with_extension("away");
    fs::rename(second.path(), &away).expect("own directory");
    process::wait_until("the outage", RECOVERY_TIMEOUT, || standby.cluster.log().contains("is waited for: repository second"));
    scenario.cluster.sql().execute("INSERT INTO kept VALUES (1)");
    // PostgreSQL asks for the next segment before it replays the last records of the one before.
    for _ in 0..2 {
        archive(&scenario.cluster);
    }
    let followed = || standby.cluster.sql().number("SELECT count(*) FROM kept") == 1;
    process::wait_until("what the other one holds", RECOVERY_TIMEOUT, followed);
    scenario.cluster.sql().execute("INSERT INTO kept VALUES (2)");
    lose_source(&mut scenario);
    assert_eq!(standby.pid(), pid, "its server has ended");
    let output = standby.promote(&scenario, &["--output", "json"]).success();
    assert!(output.stderr.contains("repository second was not taken into account; it may hold newer log"), "{output}");
    assert!(output.stdout.contains("\"way\": \"restart\"") || output.stdout.contains("\"way\":\"restart\""), "{output}");
    assert_eq!(standby.cluster.sql().number("SELECT sum(n) FROM kept"), 3);
    fs::rename(&away, second.path()).expect("own directory");
}
