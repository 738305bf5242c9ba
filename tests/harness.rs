//! The tests' own tools, tested: a server of each major, the load, and the oracle against PostgreSQL's own recovery.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use support::dirs::{Dir, copy_tree};
use support::ledger::Ledger;
use support::lifeboat::{Config, Host, Identity};
use support::postgres::{Cluster, Installation, Options, RECOVERY_TIMEOUT, Stop, skip};
use support::{amcheck, process, random};

/// A cold copy, a load, a crash, more load; then PostgreSQL's own recovery to a few moments must agree with the oracle.
fn oracle_agrees_with_the_servers_own_recovery(major: u32) {
    let Some(installation) = Installation::require(major) else { return };
    let seed = random::seed("harness");
    let mut cluster = Cluster::running(&installation, &Options { checksums: major.is_multiple_of(2), ..Options::default() });
    let mut ledger = Ledger::create(&cluster, seed);
    cluster.stop(Stop::Fast);
    let copies = Dir::new();
    copy_tree(&cluster.data, &copies.join("base"));

    cluster.start();
    ledger.run(Duration::from_millis(1200));
    let load = ledger.start(Default::default());
    std::thread::sleep(Duration::from_millis(700));
    cluster.kill9();
    load.abandon();
    cluster.start();
    support::ledger::roll_back_prepared(&mut cluster.sql());
    ledger.run(Duration::from_millis(1200));
    ledger.commit_one();
    cluster.switch_wal();

    let oracle = ledger.oracle();
    let (committed, aborted, unknown) = ledger.outcomes();
    println!("{committed} commits, {aborted} aborts, {unknown} unknown; {} commits in the log", oracle.commits().len());
    assert!(committed > 100 && aborted > 20 && !ledger.restore_points().is_empty());
    oracle.assert_tables(&mut cluster.sql(), &oracle.rows_at_end(), "at the end");
    amcheck::assert_clean(&cluster);

    let mut random = random::generator(seed, 0);
    let moments = oracle.pick_moments(3, oracle.span(), &mut random);
    let mut targets: Vec<_> =
        moments.iter().map(|moment| (format!("recovery_target_time = '{}'", moment.human()), oracle.rows_at(*moment))).collect();
    let middle = &oracle.commits()[oracle.commits().len() / 2];
    targets.push((format!("recovery_target_xid = '{}'", middle.xid), oracle.rows_through_xid(middle.xid)));
    targets.push((format!("recovery_target_lsn = '{}'", middle.start), oracle.rows_through_lsn(middle.start)));
    let point = &ledger.restore_points()[0];
    targets.push((format!("recovery_target_name = '{}'", point.name), oracle.rows_before_lsn(point.lsn)));
    for (number, (target, expected)) in targets.iter().enumerate() {
        let data = copies.join(format!("restored-{number}"));
        copy_tree(&copies.join("base"), &data);
        copies.write(format!("restored-{number}/recovery.signal"), "");
        let mut restored = Cluster::open(&installation, &data);
        let restore = format!("restore_command = 'cp {}/pg_wal/%f \"%p\"'", cluster.data.display());
        restored.configure([restore, target.clone(), "recovery_target_action = promote".to_owned()]);
        restored.launch();
        restored.wait_recovered(RECOVERY_TIMEOUT);
        oracle.assert_tables(&mut restored.sql(), expected, target);
        restored.stop(Stop::Fast);
    }
}

macro_rules! for_each_major {
    ($test:ident: $($name:ident $major:literal),*) => {
        mod $test {
            $(#[test] fn $name() { super::$test($major) })*
        }
    };
}

for_each_major!(oracle_agrees_with_the_servers_own_recovery: pg13 13, pg14 14, pg15 15, pg16 16, pg17 17, pg18 18);

#[test]
fn a_restored_cluster_can_be_watched_further_and_ends_with_its_own_log() {
    let Some(installation) = Installation::require(15) else { return };
    let seed = random::seed("harness");
    let cluster = Cluster::running(&installation, &Options::default().with("log_statement = ddl"));
    let mut first = Ledger::create(&cluster, seed);
    first.run(Duration::from_millis(400));
    let before = first.oracle().rows_at_end();
    let mut second = Ledger::attach(&cluster, seed);
    let id = second.commit_one();
    let oracle = second.oracle();
    assert_eq!(oracle.rows_after(0), before);
    assert!(oracle.rows_at_end()["ledger"].contains_key(&id.to_string()));
    assert_eq!(oracle.commits().len(), 1);
    assert!(cluster.log().contains("CREATE TABLE ledger"));
}

#[test]
fn a_server_that_cannot_start_tells_why() {
    let Some(installation) = Installation::require(15) else { return };
    let mut cluster = Cluster::create(&installation, &Options::default().with("no_such_setting = on"));
    cluster.launch();
    let (code, log) = cluster.wait_exit(Duration::from_secs(20));
    assert_eq!(code, Some(1));
    assert!(log.contains("no_such_setting"), "{log}");
}

#[test]
fn a_host_runs_the_binary_by_hand_and_from_a_server() {
    let Some(installation) = Installation::require(15) else { return };
    let repository = Dir::new();
    let identity = Identity::generate();
    let mut cluster = Cluster::create(&installation, &Options::default().with("archive_mode = on"));
    let config = Config::local(repository.path()).recipient(&identity).source("orders", &cluster.conninfo());
    let host = Host::new(&config);
    host.ok(&["--version"]);
    // Succeeds for any segment, if the server's shell finds the program; the prefix takes quotes through both parsers.
    cluster.configure([host.server_command("archive_command", &["--version"], r#"test "it's" = 'it'\''s' &&"#)]);
    cluster.start();
    let segment = cluster.switch_wal();
    cluster.wait_archived(&segment, RECOVERY_TIMEOUT);
}

/// The comparison with other tools, whose times no test asserts: its programs are whole, and it explains itself.
#[test]
fn the_comparison_compiles_and_knows_its_tools() {
    if Command::new("python3").arg("--version").output().is_err() {
        return skip("python3 is not installed");
    }
    let compiled = Dir::new();
    let python = |arguments: &[&str]| {
        let mut command = Command::new("python3");
        // Compiled modules go to the test's directory, not beside the sources.
        command.env("PYTHONPYCACHEPREFIX", compiled.path()).args(arguments).stdin(Stdio::null());
        process::run(command, Duration::from_secs(60))
    };
    let benches = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches");
    let files = fs::read_dir(&benches).expect("benches is there").map(|entry| entry.expect("a readable entry").path());
    let is_program = |path: &PathBuf| path.extension().map_or(path.ends_with("compare"), |extension| extension == "py");
    let programs: Vec<String> = files.filter(is_program).map(|path| path.display().to_string()).collect();
    assert!(programs.len() > 4, "{programs:?}");
    for program in &programs {
        python(&["-m", "py_compile", program]).success();
    }

    let compare = benches.join("compare").display().to_string();
    let help = python(&[&compare, "--help"]).success();
    for word in ["--mixed", "--repeat", "lifeboat,pgbackrest,restic,zstd"] {
        assert!(help.stdout.contains(word), "{}", help.stdout);
    }
    let refused = python(&[&compare, "--tools", "lifeboat,tar"]).exits(2);
    assert!(refused.stderr.contains("'tar' is none of lifeboat, pgbackrest, restic, zstd"), "{}", refused.stderr);
}
