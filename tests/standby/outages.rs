//! Repositories that go away: the standby's server lives on, and it is promoted with what the other one holds.

use std::fs;
use std::path::Path;

use super::stage::{Standby, archive, lose_source, scenario};
use super::support::dirs::Dir;
use super::support::postgres::RECOVERY_TIMEOUT;
use super::support::process;
use super::support::scenario::restore_command_of;

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

/// The processes of `archive get` that work in `data`.
fn gets(data: &Path) -> Vec<u32> {
    let data = fs::canonicalize(data).expect("it is there");
    let processes = fs::read_dir("/proc").expect("readable").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).into_owned();
        let works_in = fs::read_link(format!("/proc/{pid}/cwd")).ok();
        words.contains("\0get\0") && works_in.as_ref() == Some(&data) && process::is_alive(*pid)
    })
    .collect()
}

/// Whether PostgreSQL started the command itself, or a script of the operator's did.
#[test]
fn nobody_waits_for_a_server_that_was_killed() {
    let Some(scenario) = scenario(15) else { return };
    scenario.full_backup();
    archive(&scenario.cluster);
    for (name, with_script) in [("plain", false), ("script", true)] {
        let data = scenario.restore(name, &["--standby"]);
        let mut overrides = Vec::new();
        if with_script {
            let command = restore_command_of(&data).replace("%f", "\"$1\"").replace("%p", "\"$2\"");
            let script = scenario.restored.write("script.sh", format!("{command}\nexit $?\n"));
            overrides.push(format!("restore_command=sh {} %f %p", script.display()));
        }
        let overrides: Vec<&str> = overrides.iter().map(String::as_str).collect();
        let mut standby = Standby::open(&scenario, data, &overrides);
        scenario.repository.take_away();
        process::wait_until("the outage", RECOVERY_TIMEOUT, || standby.cluster.log().contains("is waited for: "));
        assert!(!gets(&standby.data).is_empty(), "nobody waits");
        standby.cluster.kill9();
        process::wait_until("the command ends", RECOVERY_TIMEOUT, || gets(&standby.data).is_empty());
        scenario.repository.bring_back();
    }
}
