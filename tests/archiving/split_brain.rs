//! Two hosts push different contents under one name at the same instant: never do both succeed unnoticed, and only
//! the operator's word ends it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lifeboat::repo::signed::Signer;

use crate::push::{digest, place, push, variant};
use crate::support::lifeboat::Host;
use crate::support::listing::{backups, split_brains};
use crate::support::postgres::{Options, RECOVERY_TIMEOUT};
use crate::support::process::Output;
use crate::support::scenario::{SOURCE, Scenario};

const ROUNDS: usize = 20;

/// A name and its two contents.
struct Round {
    name: String,
    ours: PathBuf,
    theirs: PathBuf,
}

/// A backed-up cluster that does not archive on its own, and a second host that pushes under the same name.
fn two_servers() -> Option<(Scenario, Host)> {
    let scenario = Scenario::on(15, &Options { wal_segment_mib: 1, ..Options::default() })?;
    scenario.cluster.sql().execute("CREATE TABLE rows (n int)");
    scenario.full_backup();
    scenario.cluster.configure(["archive_command = 'false'"]);
    let other = scenario.protected.twin();
    Some((scenario, other))
}

#[test]
fn two_servers_with_one_log_never_go_unnoticed_and_the_operator_decides() {
    let Some((scenario, other)) = two_servers() else { return };
    let rounds: Vec<Round> = (0..ROUNDS).map(|number| round(&scenario, &other, number)).collect();
    let outcomes: Vec<(Output, Output)> = rounds.iter().map(|round| race(&scenario.protected, &other, round)).collect();
    assert_noticed(&scenario, &rounds, &outcomes);

    let contested = split_brains(&scenario.rescue);
    let refused = rounds.iter().filter(|round| contested.contains_key(&round.name));
    let contested_rounds: Vec<&Round> = refused.collect();
    assert!(!contested_rounds.is_empty(), "no two pushes overlapped: the test shows nothing");
    assert_readers_refuse(&scenario, contested_rounds[0]);
    for round in &contested_rounds {
        resolve(&scenario, round);
    }
    assert_eq!(split_brains(&scenario.rescue), BTreeMap::new());
    // Where the other server was quicker, its content alone is there: the operator decides against it all the same.
    for (round, (ours, _)) in rounds.iter().zip(&outcomes) {
        if ours.code != Some(0) && !contested.contains_key(&round.name) {
            keep_ours(&scenario, round);
        }
    }
    scenario.cluster.configure([scenario.protected.archive_command(SOURCE)]);
    scenario.archive_now();
    for round in &contested_rounds {
        push(&scenario.protected, &round.ours).success();
        push(&other, &round.ours).success();
        push(&other, &round.theirs).refuses(22, &[&digest(&round.theirs)]);
    }
    let restored = scenario.restore_and_start("resolved", &[]);
    assert_eq!(restored.sql().number("SELECT count(*) FROM rows"), ROUNDS as i64);
}

fn round(scenario: &Scenario, other: &Host, number: usize) -> Round {
    scenario.cluster.sql().execute(&format!("INSERT INTO rows VALUES ({number})"));
    let name = scenario.cluster.switch_wal();
    let segment = scenario.cluster.data.join("pg_wal").join(&name);
    // Away from PostgreSQL's own list, or the segments of later rounds would be stored with this one.
    let ours = place(&scenario.protected, "ours", &name, &fs::read(&segment).expect("readable"));
    let theirs = variant(&segment, other, "theirs", 1 + number as u64);
    Round { name, ours, theirs }
}

fn race(one: &Host, two: &Host, round: &Round) -> (Output, Output) {
    let start = |host: &Host, file: &Path| host.start(&["archive".as_ref(), "push".as_ref(), SOURCE.as_ref(), file.as_os_str()]);
    let (ours, theirs) = (start(one, &round.ours), start(two, &round.theirs));
    (ours.finish(Duration::from_secs(60)), theirs.finish(Duration::from_secs(60)))
}

/// In every round one failed, and whatever both stored is told by `list`.
#[track_caller]
fn assert_noticed(scenario: &Scenario, rounds: &[Round], outcomes: &[(Output, Output)]) {
    let listed = split_brains(&scenario.rescue);
    let mut both_succeeded = 0;
    for (round, (ours, theirs)) in rounds.iter().zip(outcomes) {
        for output in [ours, theirs] {
            assert!(output.code.is_some_and(|code| code <= 125), "{output}");
        }
        if ours.code == Some(0) && theirs.code == Some(0) {
            both_succeeded += 1;
            assert!(listed.contains_key(&round.name), "{} was archived twice, and nobody knows", round.name);
        }
    }
    println!("{both_succeeded} of {ROUNDS} rounds succeeded on both sides, {} are contested", listed.len());
    assert_eq!(both_succeeded, 0, "of two that put at the same instant, at least one lists after both objects are there");
}

#[track_caller]
fn assert_readers_refuse(scenario: &Scenario, round: &Round) {
    let destination = scenario.rescue.dir().join("contested");
    let get = scenario.rescue.run(&["archive", "get", SOURCE, &round.name, destination.to_str().expect("plain")]);
    get.refuses(255, &["two servers", &digest(&round.ours), &digest(&round.theirs), "archive resolve"]);
    assert!(!destination.exists());
    another_repository_is_not_asked_instead(scenario, round, &destination);
    let into = scenario.restored.join("contested");
    let xid = scenario.cluster.sql().value(&format!("SELECT xmin::text FROM rows WHERE n = {}", ROUNDS - 1));
    let restore = ["restore", SOURCE, "--to-xid", &xid, "--into", into.to_str().expect("plain")];
    let refused = scenario.rescue.run(&restore);
    assert!(refused.code == Some(1) || refused.code == Some(22), "{refused}");
    assert!(!into.exists(), "a refused restore has touched its target");
    assert_eq!(backups(&scenario.rescue).len(), 1);
}

/// A repository that holds one of the two alone would hand it over, right or wrong.
#[track_caller]
fn another_repository_is_not_asked_instead(scenario: &Scenario, round: &Round, destination: &Path) {
    let second = scenario.repository.copy("second");
    let held = second.log_objects().into_iter().filter(|key| key.contains(&digest(&round.ours)));
    held.for_each(|key| second.remove(&key));
    let configuration = scenario.rescue.configuration();
    scenario.rescue.append_configuration(&second.section("second"));
    let get = |repository: &[&str]| {
        let fixed = ["archive", "get", SOURCE, &round.name, destination.to_str().expect("plain")];
        scenario.rescue.run(&[repository, &fixed].concat())
    };
    get(&["--repository", "second"]).success();
    std::fs::remove_file(destination).expect("fetched");
    get(&[]).refuses(255, &["two servers", "archive resolve"]);
    assert!(!destination.exists());
    scenario.rescue.configure_text(&configuration);
}

/// The host's own key has no say; the operator's has.
#[track_caller]
fn resolve(scenario: &Scenario, round: &Round) {
    let ours = digest(&round.ours);
    let decide = |key: &Path| {
        let key = key.display().to_string();
        scenario.rescue.run(&["archive", "resolve", SOURCE, &round.name, "--keep", &ours, "--key", &key])
    };
    let host_key = scenario.protected.dir().join("signing.key");
    decide(&host_key).refuses(2, &["no 'expire' right", "operator"]);
    let unknown = scenario.rescue.write("stranger.key", &Signer::generate().to_pem());
    decide(&unknown).refuses(2, &["no 'expire' right"]);
    assert!(split_brains(&scenario.rescue).contains_key(&round.name), "a key without the right has ended a split brain");
    decide(&scenario.operator_key).success();
    assert!(!split_brains(&scenario.rescue).contains_key(&round.name));
}

#[test]
fn postgresqls_own_retries_do_not_hide_a_split_brain() {
    let Some((scenario, other)) = two_servers() else { return };
    let round = round(&scenario, &other, 0);
    // The other server was quicker.
    push(&other, &round.theirs).success();
    scenario.cluster.configure([scenario.protected.archive_command(SOURCE)]);
    let failures = "SELECT failed_count FROM pg_stat_archiver WHERE last_failed_wal = ";
    let mut sql = scenario.cluster.sql();
    let ask = format!("SELECT count(*) FROM ({failures}'{}') AS failed WHERE failed_count > 1", round.name);
    crate::support::process::wait_until("the archiver's failures", RECOVERY_TIMEOUT, || sql.number(&ask) == 1);
    let segment = scenario.cluster.data.join("pg_wal").join(&round.name);
    assert!(segment.exists(), "PostgreSQL must keep what is not archived");
    assert!(scenario.cluster.log().contains("two servers write the same log"), "{}", scenario.cluster.log_tail());
    resolve_refused_push(&scenario, &round);
}

/// A resolution in favour of a content that was refused, and so is in no object yet.
fn keep_ours(scenario: &Scenario, round: &Round) {
    let (ours, key) = (digest(&round.ours), scenario.operator_key.display().to_string());
    scenario.rescue.ok(&["archive", "resolve", SOURCE, &round.name, "--keep", &ours, "--key", &key]);
}

fn resolve_refused_push(scenario: &Scenario, round: &Round) {
    keep_ours(scenario, round);
    scenario.archive_now();
    let restored = scenario.restore_and_start("resolved", &[]);
    assert_eq!(restored.sql().number("SELECT count(*) FROM rows"), 1);
}
