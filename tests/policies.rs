//! Policies as people write them: what is wrong is said with its line, what contradicts itself with its sum, and no
//! policy, however broken, costs a file of the log.

mod support;

use std::fs;
use std::path::Path;
use std::time::Duration;

use lifeboat::base::units::parse_duration;
use lifeboat::base::{Engine, Timestamp};
use lifeboat::cli::config::policies::{self, READY};
use lifeboat::policy::contradictions::{against_engine, contradictions};
use serde_json::Value;

use support::dirs::Dir;
use support::lifeboat::{Config, Host};
use support::postgres::Options;
use support::process::{self, Output};
use support::scenario::{SOURCE, Scenario};

const SOUND: &str = "[objectives]\nrto = '1h'\nrpo = '15min'\n";
/// Refused: nothing can be read in time.
const THAWS: &str = "[objectives]\nrto = '1h'\nrpo = '15min'\ndetection = '5min'\n[copies]\nthaw = '4h'\n";

/// A host without any source, with the policy `own`.
fn host(policy: &str) -> Host {
    let host = Host::new(&Config::default());
    host.dir().create_dir("policies");
    host.write("policies/own.toml", policy);
    host
}

/// `policy check own`, which must refuse `policy` in these words.
#[track_caller]
fn refused(policy: &str, words: &[&str]) {
    let output = host(policy).run(&["policy", "check", "own"]).exits(2);
    for word in words {
        assert!(output.stdout.contains(word), "{word} is not in\n{output}");
    }
    assert!(output.stdout.contains("\n1 refused") && output.stderr.contains("hint:"), "{output}");
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    refused(
        &SOUND.replace("rto", "rtto"),
        &["own.toml:2: unknown key 'rtto' in [objectives]", "did you mean 'rto'?", "lacks 'rto'"],
    );
    refused(&SOUND.replace("'1h'", "1"), &["own.toml:2: 'rto' in [objectives] must be a string, not the number 1"]);
    refused(&SOUND.replace("1h", "1 fortnight"), &["own.toml:2: 'rto': '1 fortnight' is not a duration"]);
    let with = |more: &str| format!("{SOUND}{more}\n");
    refused(&with("[schedule]\ntimezone = 'Europe/Zuerich'"), &["own.toml:5: 'timezone': 'Europe/Zuerich' is no time zone"]);
    refused(&with("[schedule]\nfull = '0 0 3 * * SUN'"), &["own.toml:5: 'full'", "has 6 fields", "minute, hour, day of month"]);
    refused(&with("[schedule]\nfull = '0 25 * * *'"), &["'full': the hour '25': '25' is not 0 to 23"]);
    refused(&with("[log]\nmode = 'streaming'"), &["must be one of none, segments, stream", "did you mean 'stream'?"]);
    refused(&with("[retentoin]"), &["unknown key 'retentoin'", "did you mean 'retention'?"]);
    refused(&with("[[drill.check]]\nsql = 'SELECT 1'"), &["says one thing that its query must answer"]);
    refused("", &["there is no [objectives]", "add rto ="]);
    refused("[objectives\n", &["own.toml"]);
    refused(THAWS, &["copies.thaw", "detection 5 min + thaw 4 h = 4 h 5 min, and the RTO is 1 h"]);
}

#[test]
fn all_that_is_wrong_is_told_and_what_is_right_beside_it() {
    let host = host(THAWS);
    host.write("policies/broken.toml", "[objectives]\nrto = 5\nrpo = 'x'\n");
    let output = host.run(&["policy", "check", "own", "broken", "e-commerce", "archvie", "--output", "json"]).exits(2);
    let document: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}\n{output}"));
    assert_eq!(document["refused"], 3, "{output}");
    let policies = document["policies"].as_array().expect("a list");
    assert_eq!(policies[0]["findings"][0]["key"], "copies.thaw");
    assert_eq!(policies[1]["error"]["details"].as_array().expect("a list").len(), 1, "{output}");
    assert_eq!((&policies[2]["error"], &policies[2]["file"]), (&Value::Null, &Value::Null));
    assert_eq!(policies[3]["error"]["hints"][0], "did you mean 'archive'?");

    let listed = host.run(&["policy", "list"]).exits(2);
    assert!(listed.stdout.contains("e-commerce") && listed.stdout.contains("own"), "{listed}");
    assert!(listed.stderr.contains("policy broken cannot be used"), "{listed}");
}

#[test]
fn neither_a_configuration_nor_a_sound_one_is_needed() {
    let nowhere = Dir::new();
    let file = nowhere.write("mine.toml", SOUND).display().to_string();
    let alone = |arguments: &[&str]| -> Output {
        let mut command = process::command(support::lifeboat::binary(), nowhere.path());
        command.args(arguments).current_dir(nowhere.path());
        process::run(command, Duration::from_secs(60))
    };
    let output = alone(&["policy", "check", "mine.toml", &file, "archive"]).success();
    assert!(output.stdout.contains("archive (comes with lifeboat)"), "{output}");
    alone(&["policy", "show", "analytics"]).success();
    assert!(alone(&["policy", "list"]).success().stdout.contains("critical-banking"));
    // A file of that name goes before a ready one, and a broken configuration beside it changes nothing.
    let host = host(SOUND);
    host.write("policies/archive.toml", THAWS);
    host.configure_text("[repository.\n");
    host.run(&["policy", "check", "archive"]).exits(2);
    let output = host.ok(&["policy", "check", "own"]);
    assert!(output.stdout.contains("no drill in [schedule]"), "a warning is no failure: {output}");
}

#[test]
fn a_policy_is_shown_with_its_defaults_and_its_next_runs() {
    let host = host(&format!("{SOUND}[schedule]\ntimezone = 'Europe/Zurich'\nfull = '30 2 * * SUN'\n"));
    let text = host.ok(&["policy", "show", "own"]).stdout;
    for line in
        ["\n  rto              1 h\n", "\n  max_lag          7 min 30 s\n", "\n  log              all\n", "policy check own\n"]
    {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let document = host.json(&["policy", "show", "own"]);
    assert_eq!(document["objectives"]["rpo_seconds"], 900.0);
    let runs = document["runs"].as_array().expect("a list");
    assert_eq!(runs.len(), 5);
    for run in runs {
        let local = run["local"].as_str().expect("text");
        // In this season or the other; on a Sunday of March it is skipped.
        assert!(local.contains("T02:30:00+0") || local.contains("T03:00:00+02:00"), "{local}");
        let time = |text: &str| Timestamp::parse_human(text, Timestamp::now()).expect("RFC 3339");
        assert_eq!(time(local), time(run["time"].as_str().expect("text")));
    }
}

/// A configuration with no policies beside it.
const ELSEWHERE: &str = "/nowhere/lifeboat.toml";

/// Name, RTO and RPO of each ready policy.
const PROMISES: [(&str, &str, &str); 9] = [
    ("critical-banking", "1min", "1min"),
    ("e-commerce", "30min", "15min"),
    ("corporate-site", "4h", "1h"),
    ("analytics", "24h", "24h"),
    ("archive", "1w", "1d"),
    ("internet-bank-transactions", "5min", "30s"),
    ("internet-bank-documents", "1h", "4h"),
    ("shared-files", "12h", "4h"),
    ("app-database", "1h", "1min"),
];

#[test]
fn the_ready_policies_keep_what_they_promise_and_contradict_nothing() {
    assert_eq!(READY.len(), PROMISES.len());
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
    let files = fs::read_dir(directory).expect("there is a directory").flatten();
    let files = files.filter(|file| file.path().extension().is_some_and(|extension| extension == "toml")).count();
    assert_eq!(files, READY.len(), "every file in policies/ comes with the program");
    for (name, rto, rpo) in PROMISES {
        let (policy, file) = policies::load(name, Some(Path::new(ELSEWHERE))).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(file, None, "{name}");
        let wanted = (parse_duration(rto).expect("a duration"), parse_duration(rpo).expect("a duration"));
        assert_eq!((policy.objectives.rto, policy.objectives.rpo), wanted, "{name}");
        let engine = match name {
            "shared-files" => Engine::Directory,
            "app-database" => Engine::Sqlite,
            _ => Engine::Postgres,
        };
        let looks = !policy.drill.checks.is_empty() || engine == Engine::Directory;
        assert!(looks, "{name} rehearses without looking at the data");
        let mut findings = contradictions(&policy, Timestamp::now());
        findings.extend(against_engine(&policy, &"any".parse().expect("a name"), engine));
        assert!(findings.is_empty(), "{name}: {findings:?}");
    }
    for name in ["internet-bank-transactions", "internet-bank-documents"] {
        let policy = policies::load(name, Some(Path::new(ELSEWHERE))).expect("read above").0;
        assert_eq!(policy.retention.legal_minimum, Some(Duration::from_secs(7 * 366 * 86_400)), "{name}");
        assert_eq!(policy.copies.repositories, ["primary", "second", "archive"], "{name}");
    }
}

/// A cluster kept in `main` and in `second`, by the policy `own`.
struct Kept {
    scenario: Scenario,
    second: Dir,
}

impl Kept {
    fn start(policy: &str) -> Option<Self> {
        let scenario = Scenario::on(15, &Options { wal_segment_mib: 1, ..Options::default() })?;
        let second = Dir::new();
        let host = &scenario.protected;
        host.dir().create_dir("policies");
        host.write("policies/own.toml", policy);
        let text = host.configuration().replace("kind = \"postgres\"\n", "kind = \"postgres\"\npolicy = \"own\"\n");
        host.configure_text(&format!("{text}\n[repository.second]\nurl = \"file://{}\"\n", second.path().display()));
        let keys = scenario.rescue.dir().join("keys-of-second");
        host.ok(&["init", "--repository", "second", "--generate-keys", keys.to_str().expect("plain")]);
        scenario.cluster.sql().execute("CREATE TABLE kept (n int)");
        Some(Self { scenario, second })
    }

    /// Closes a segment and pushes it by hand: the server, which does the same, does not show what it was told.
    fn push(&self) -> Output {
        self.scenario.cluster.sql().execute("INSERT INTO kept VALUES (1)");
        let segment = self.scenario.cluster.switch_wal();
        let path = self.scenario.cluster.data.join("pg_wal").join(segment).display().to_string();
        self.scenario.protected.run(&["archive", "push", SOURCE, &path])
    }

    fn take_second_away(&self) {
        fs::rename(self.second.path(), self.second.path().with_extension("away")).expect("own directory");
    }

    fn bring_second_back(&self) {
        fs::rename(self.second.path().with_extension("away"), self.second.path()).expect("own directory");
    }

    /// `check` as JSON: levels and messages of its findings about the policy.
    fn checked(&self) -> (Option<i32>, Vec<(String, String)>) {
        let output = self.scenario.protected.run(&["check", SOURCE, "--output", "json"]);
        let document: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}\n{output}"));
        let checks = document["checks"].as_array().expect("a list").iter();
        let findings = checks.flat_map(|check| check["findings"].as_array().expect("a list"));
        let of_policy = findings.filter(|finding| finding["subject"] == "policy");
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        (output.code, of_policy.map(|finding| (text(&finding["level"]), text(&finding["message"]))).collect())
    }
}

const ONE_COPY: &str = "[objectives]\nrto = '1h'\nrpo = '15min'\n[schedule]\nfull = '@weekly'\ndrill = '@weekly'\n\
                        [copies]\nlog = 1\nbackup = 1\n";

#[test]
fn the_policy_says_how_many_copies_are_needed_and_a_broken_one_wants_all() {
    let Some(kept) = Kept::start(ONE_COPY) else { return };
    let host = &kept.scenario.protected;
    kept.push().success();
    assert_eq!(kept.checked().1, [], "nothing contradicts");
    kept.take_second_away();
    kept.push().success();
    host.ok(&["backup", SOURCE, "--type", "full"]);

    // The configuration goes before the policy.
    let configuration = host.configuration();
    host.configure_text(&configuration.replace("policy = \"own\"", "policy = \"own\"\nlog_copies = 2"));
    kept.push().refuses(20, &["repository second"]);
    host.configure_text(&configuration);

    // Whatever is wrong with the policy: all repositories, as without one, and the reason.
    let broken = [
        (ONE_COPY.replace("log = 1", "log = 'one'"), "must be a whole number"),
        (ONE_COPY.replace("log = 1", "log = 3"), "3 copies, 2 repositories"),
        (ONE_COPY.replace("log = 1", "log = 1\nrepositories = ['main', 'thrid']"), "the source is not kept in thrid"),
        (String::new(), "there is no [objectives]"),
    ];
    for (policy, why) in &broken {
        host.write("policies/own.toml", policy);
        let refused = kept.push().exits(20);
        assert!(refused.stderr.contains("all repositories are needed") && refused.stderr.contains(why), "{why}: {refused}");
    }
    // The log goes on, so that the backup need not wait for it.
    host.configure_text(&configuration.replace("policy = \"own\"", "policy = \"own\"\nlog_copies = 1"));
    let refused = host.run(&["backup", SOURCE, "--type", "full"]).exits(20);
    host.configure_text(&configuration);
    assert!(refused.stderr.contains("all repositories are needed"), "the backup stands, and is told of: {refused}");
    fs::remove_file(host.dir().join("policies/own.toml")).expect("own file");
    let refused = kept.push().exits(20);
    assert!(refused.stderr.contains("there is no policy 'own'"), "{refused}");

    kept.bring_second_back();
    let archived = kept.push().success();
    assert!(archived.stderr.contains("all repositories are needed"), "{archived}");
}

#[test]
fn check_counts_a_policy_that_is_refused_as_a_fault() {
    let Some(kept) = Kept::start(THAWS) else { return };
    let host = &kept.scenario.protected;
    kept.scenario.full_backup();
    let (code, findings) = kept.checked();
    let faults: Vec<&(String, String)> = findings.iter().filter(|(level, _)| level == "fault").collect();
    assert_eq!((code, faults.len()), (Some(1), 1), "{findings:?}");
    assert!(faults[0].1.contains("own: copies.thaw:") && faults[0].1.contains("= 4 h 5 min"), "{findings:?}");
    host.write("policies/own.toml", "[objectives]\nrto = '1h'\n");
    let (code, findings) = kept.checked();
    assert_eq!((code, findings.len()), (Some(1), 1), "{findings:?}");
    assert!(findings[0].1.contains("lacks 'rpo'"), "{findings:?}");
    let refused = host.run(&["policy", "check"]).exits(2);
    assert!(refused.stdout.contains(&format!("own, source {SOURCE}")), "{refused}");
    // Fewer copies than the policy wants: that counts, and is told.
    host.write("policies/own.toml", &ONE_COPY.replace("log = 1", "log = 2"));
    host.configure_text(&host.configuration().replace("policy = \"own\"", "policy = \"own\"\nlog_copies = 1"));
    let (_, findings) = kept.checked();
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(findings[0].0 == "warning" && findings[0].1.contains("log_copies 1, less than the 2 of the policy"), "{findings:?}");
}
