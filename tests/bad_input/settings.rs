//! Settings that are wrong: keys, connections, identities, the data directory.

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::stage::{BACKUP, assert_all_is_well, one_row, refuse_backup};
use crate::support::dirs;
use crate::support::lifeboat::{Config, Host, Identity, binary};
use crate::support::postgres::{Cluster, Options};
use crate::support::process;
use crate::support::scenario::{SOURCE, Scenario};

/// Runs a backup with `from` replaced by `to` in the configuration.
#[track_caller]
fn refuse_with(scenario: &Scenario, from: &str, to: &str, code: i32, words: &[&str]) {
    let right = scenario.protected.configuration();
    assert!(right.contains(from), "{from} is not in\n{right}");
    scenario.protected.configure_text(&right.replace(from, to));
    refuse_backup(scenario, code, words);
    scenario.protected.configure_text(&right);
}

#[test]
fn wrong_settings_are_named_and_nothing_is_touched() {
    let Some(scenario) = one_row(15) else { return };
    refuse_with(&scenario, "conninfo =", "coninfo =", 2, &["coninfo", "did you mean 'conninfo'?", "lifeboat.toml:"]);
    refuse_with(&scenario, "recipients =", "recipient =", 2, &["did you mean 'recipients'?"]);
    refuse_with(&scenario, "host=", "host=/nowhere", 1, &["cannot connect to PostgreSQL", "/nowhere"]);
    refuse_with(&scenario, "port=5432", "port=5433", 1, &["cannot connect to PostgreSQL", "5433"]);
    refuse_with(&scenario, "user=postgres", "user=nobody", 1, &["cannot connect to PostgreSQL", "nobody"]);
    refuse_with(&scenario, "dbname=postgres", "dbname=ordres", 1, &["ordres", "dbname=postgres"]);
    refuse_with(&scenario, "dbname=postgres", "dbnam=postgres", 2, &["dbnam"]);
    refuse_with(&scenario, "signing.key", "other.key", 2, &["other.key"]);
    let other = Cluster::create(&scenario.cluster.installation, &Options::default());
    let line = format!("[source.{SOURCE}]\ndata_directory = '{}'", other.data.display());
    refuse_with(
        &scenario,
        &format!("[source.{SOURCE}]"),
        &line,
        1,
        &["is not the data directory of", "conninfo or data_directory"],
    );
    assert_all_is_well(&scenario, "after", 1);
}

#[test]
fn identities_that_are_wrong_or_missing_are_told_before_the_target_is_touched() {
    let Some(scenario) = one_row(15) else { return };
    let into = scenario.restored.join("refused");
    let restore = ["restore", SOURCE, "--into", into.to_str().expect("plain")];
    let right = scenario.rescue.configuration();
    scenario.rescue.write("identity.txt", &format!("{}\n", Identity::generate().secret));
    scenario.rescue.run(&restore).refuses(1, &["none of the identities at hand opens", "identity_file"]);
    scenario.rescue.write("identity.txt", "no identity at all\n");
    let output = scenario.rescue.run(&restore).exits(2);
    assert!(output.stderr.contains("identity.txt:1: not an age identity"), "{output}");
    std::fs::remove_file(scenario.rescue.dir().join("identity.txt")).expect("own file");
    scenario.rescue.run(&restore).refuses(2, &["cannot read the identity file", "identity_file"]);
    let line = right.lines().find(|line| line.starts_with("identity_file")).expect("the restore host has one");
    scenario.rescue.configure_text(&right.replace(line, ""));
    scenario.rescue.run(&restore).refuses(2, &["no age identity to decrypt with"]);
    assert!(!into.exists(), "a refused restore has touched its target");
    scenario.rescue.configure_text(&right);
    scenario.rescue.write("identity.txt", &format!("{}\n", scenario.identity.secret));
    assert_all_is_well(&scenario, "after", 1);
}

/// Another user can reach server and repository, but not the data directory.
#[test]
fn another_user_is_told_to_be_the_right_one() {
    let Some(scenario) = one_row(15) else { return };
    if dirs::server_user().is_none() {
        println!("skipped: only root can run a command as another user");
        return;
    }
    for readable in [scenario.repository.path(), scenario.protected.dir().path(), binary().parent().expect("a file")] {
        run_as_root("chmod", &["-R", "a+rX", readable.to_str().expect("plain")]);
    }
    run_as_root("chmod", &["a+x", scenario.cluster.dir().path().to_str().expect("plain")]);
    let nobody = Host::new(&Config::default());
    let state_dir = |host: &Host| host.state_dir().display().to_string();
    nobody.configure_text(&scenario.protected.configuration().replace(&state_dir(&scenario.protected), &state_dir(&nobody)));
    run_as_root("chown", &["-R", "65534:65534", nobody.dir().path().to_str().expect("plain")]);
    let mut command = nobody.command(&BACKUP);
    command.uid(65534).gid(65534);
    let output = process::run(command, std::time::Duration::from_secs(60));
    output.refuses(1, &["Permission denied", "global/pg_control", "as the user that owns the data directory"]);
    assert_all_is_well(&scenario, "after", 1);
}

fn run_as_root(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().expect("a standard tool");
    assert!(status.success(), "{program} {arguments:?}: {status}");
}
