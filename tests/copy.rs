//! `copy` with a real cluster: what was carried over restores to the same moments, is signed for its new repository, and
//! holds nothing that was damaged; interrupted anywhere, the next copy goes on.

mod support;

use std::collections::BTreeMap;

use lifeboat::base::killpoint;
use lifeboat::repo::Repository;
use lifeboat::repo::log::index::{self, IndexLine};
use serde_json::Value;

use support::ledger::Ledger;
use support::postgres::{Installation, Options};
use support::random;
use support::repository::Repository as Stored;
use support::scenario::{SOURCE, Scenario};

const COPY: [&str; 6] = ["copy", "--from", "main", "--to", "second", SOURCE];

/// A scenario that archives to `main`, and a second repository, `second`, beside it.
struct Stage {
    scenario: Scenario,
    second: Stored,
}

impl Stage {
    fn on(major: u32) -> Option<Self> {
        let installation = Installation::require(major)?;
        let scenario = Scenario::start(&installation, &Options { wal_segment_mib: 1, ..Options::default() });
        let second = scenario.repository.another("second");
        // The source stays in the first repository alone until a test says otherwise.
        for host in [&scenario.protected, &scenario.rescue] {
            let text = host.configuration();
            let only = format!("[source.{SOURCE}]\nrepositories = [\"main\"]\n");
            let text = text.replace(&format!("[source.{SOURCE}]\n"), &only);
            assert!(text.contains(&only), "{text}");
            host.configure_text(&format!("{text}\n{}", second.section("second")));
        }
        let keys = scenario.rescue.dir().join("keys-of-second").display().to_string();
        scenario.protected.ok(&["init", "--repository", "second", "--generate-keys", &keys]);
        Some(Self { scenario, second })
    }

    /// The source is in both repositories from now on.
    fn keep_in_both(&self) {
        for host in [&self.scenario.protected, &self.scenario.rescue] {
            let text = host.configuration();
            host.configure_text(&text.replace("repositories = [\"main\"]", "repositories = [\"main\", \"second\"]"));
        }
    }

    #[track_caller]
    fn backup(&self, backup_type: &str) -> String {
        let report = self.scenario.protected.json(&["backup", SOURCE, "--type", backup_type, "--repository", "main"]);
        assert_eq!(report["backups"][0]["type"], backup_type, "{report:#}");
        report["backups"][0]["id"].as_str().expect("an id").to_owned()
    }

    #[track_caller]
    fn copy(&self) -> Value {
        self.scenario.protected.json(&COPY)["sources"][0].clone()
    }

    /// The second repository holds nothing that is damaged, decoded to the last frame, and can be read by everybody.
    #[track_caller]
    fn verify(&self) {
        self.keep_in_both();
        self.scenario.rescue.ok(&["verify", SOURCE, "--repository", "second", "--deep"]);
    }
}

/// What became of each backup, in order.
fn fates(part: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let backups = part["backups"].as_array().unwrap_or_else(|| panic!("no backups: {part:#}"));
    backups.iter().map(|backup| (text(&backup["id"]), text(&backup["fate"]))).collect()
}

/// The signed digests of the log in a repository, by file.
fn signed_digests(stored: &Stored) -> BTreeMap<String, IndexLine> {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let repository = Repository::open("r", stored.store(), None).await.expect("a repository");
        let source = SOURCE.parse().expect("a name");
        let logs = stored.log_objects();
        let incarnation = logs.last().and_then(|key| key.split('/').nth(2)).expect("a log");
        let incarnation = incarnation.parse().expect("an incarnation");
        let index = index::load(&repository, &source, &incarnation).await.expect("it answers");
        assert!(index.problems.is_empty(), "{:?}", index.problems);
        index.lines.into_iter().map(|line| (line.file.clone(), line)).collect()
    })
}

#[test]
fn what_was_copied_restores_to_the_same_moments() {
    let Some(stage) = Stage::on(15) else { return };
    let scenario = &stage.scenario;
    let seed = random::seed("copy");
    let mut ledger = Ledger::create(&scenario.cluster, seed);
    let full = stage.backup("full");
    ledger.run(std::time::Duration::from_millis(700));
    let incr = stage.backup("incr");
    ledger.run(std::time::Duration::from_millis(300));
    scenario.archive_now();

    let told = scenario.protected.json(&[&COPY[..], &["--dry-run"]].concat());
    let expected = |fate: &str| vec![(full.clone(), fate.to_owned()), (incr.clone(), fate.to_owned())];
    assert_eq!(fates(&told["sources"][0]), expected("copied"));
    assert_eq!(stage.second.names_below(&format!("{SOURCE}/")), [""; 0], "a dry run writes nothing");

    let copied = stage.copy();
    assert_eq!(fates(&copied), expected("copied"));
    assert_eq!(copied["faults"], Value::Array(vec![]));
    let before = stage.second.contents();
    let again = stage.copy();
    assert_eq!((fates(&again), &again["copied_objects"]), (expected("present"), &Value::from(0)));
    let changed: Vec<_> = stage.second.contents().into_iter().filter(|(key, digest)| before.get(key) != Some(digest)).collect();
    assert!(changed.iter().all(|(key, _)| key.ends_with("/lease.json")), "nothing is written twice: {changed:?}");

    // Times of arrival, which tell how much could have been lost, are kept.
    let (ours, theirs) = (signed_digests(&scenario.repository), signed_digests(&stage.second));
    assert!(!theirs.is_empty() && theirs.iter().all(|(file, line)| ours.get(file) == Some(line)), "{theirs:#?}");

    // Another backup and more log, which the second repository gets from the server itself and from the first one.
    stage.keep_in_both();
    ledger.run(std::time::Duration::from_millis(300));
    scenario.archive_now();
    let last = stage.backup("incr");
    ledger.run(std::time::Duration::from_millis(300));
    scenario.archive_now();
    let copied = stage.copy();
    assert_eq!(fates(&copied).last(), Some(&(last, "copied".to_owned())));
    let oracle = ledger.oracle();
    stage.verify();

    // The first repository is lost.
    scenario.repository.remove_all();
    let mut random = random::generator(seed, 1);
    for (number, moment) in oracle.pick_moments(3, oracle.span(), &mut random).into_iter().enumerate() {
        let to = moment.to_string();
        let mut restored = scenario.restore_and_start(&format!("r{number}"), &["--repository", "second", "--to", &to]);
        oracle.assert_at(&mut restored.sql(), moment);
        restored.stop(support::postgres::Stop::Fast);
    }
    let restored = scenario.restore_and_start("end", &["--repository", "second", "--to", "latest"]);
    oracle.assert_tables(&mut restored.sql(), &oracle.rows_at_end(), "the end of the log");
}

#[test]
fn what_is_damaged_is_not_copied_and_the_rest_is() {
    let Some(stage) = Stage::on(15) else { return };
    let scenario = &stage.scenario;
    let mut ledger = Ledger::create(&scenario.cluster, random::seed("copy"));
    let full = stage.backup("full");
    ledger.commit_one();
    let incr = stage.backup("incr");
    ledger.commit_one();
    let last = stage.backup("incr");
    scenario.archive_now();
    let victims = [format!("{SOURCE}/backup/{incr}/pack-"), format!("{SOURCE}/log/")];
    let mut flipped = Vec::new();
    for victim in &victims {
        let is_victim = |key: &String| !["/key/", "/index/"].iter().any(|other| key.contains(other));
        let key = scenario.repository.names_below(victim).into_iter().find(is_victim).expect("a pack and a segment");
        scenario.repository.flip(&key);
        flipped.push(key);
    }
    let output = scenario.protected.run(&COPY);
    assert_eq!(output.code, Some(22), "{output}");
    for key in &flipped {
        assert!(output.stdout.contains(&format!("{key}: it is not what was stored")), "{output}");
        assert!(!stage.second.has(key), "{key}");
    }
    let found = fates(
        &serde_json::from_str::<Value>(&scenario.protected.run(&[&COPY[..], &["--output", "json"]].concat()).stdout)
            .expect("JSON")["sources"][0],
    );
    let expected = [(full, "present"), (incr, "left_out"), (last, "left_out")];
    assert_eq!(found, expected.map(|(id, fate)| (id, fate.to_owned())));
}

#[test]
fn a_killed_copy_is_gone_on_with() {
    let Some(stage) = Stage::on(15) else { return };
    let scenario = &stage.scenario;
    let mut ledger = Ledger::create(&scenario.cluster, random::seed("copy"));
    let points: Vec<&str> = killpoint::ALL.iter().copied().filter(|point| point.starts_with("copy.")).collect();
    let passes =
        points.iter().map(|point| format!("{point}:1")).chain((1..12).map(|pass| format!("store.temporary-written:{pass}")));
    for (number, point) in passes.enumerate() {
        ledger.commit_one();
        stage.backup(if number == 0 { "full" } else { "incr" });
        scenario.protected.run_killed_at(&point, &COPY).killed();
    }
    let copied = stage.copy();
    let all = fates(&copied);
    assert!(all.iter().all(|(_, fate)| fate == "copied" || fate == "present"), "{copied:#}");
    let oracle = ledger.oracle();
    stage.verify();
    let restored = scenario.restore_and_start("end", &["--repository", "second", "--to-immediate"]);
    oracle.assert_tables(&mut restored.sql(), &oracle.rows_at_end(), "the end of the last backup");
}

#[test]
fn a_repository_is_not_copied_into_itself_and_names_must_be_known() {
    let Some(stage) = Stage::on(15) else { return };
    let host = &stage.scenario.protected;
    host.run(&["copy", "--from", "main", "--to", "main", SOURCE]).refuses(2, &["are the same repository"]);
    host.run(&["copy", "--from", "main", "--to", "secnd", SOURCE])
        .refuses(2, &["no [repository.secnd]", "did you mean 'second'"]);
    host.run(&["copy", "--from", "main", "--to", "second", "--repository", "main"]).refuses(2, &["--from and --to"]);
}
