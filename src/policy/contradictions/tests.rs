//! Each contradiction with its sum, and policies in which there is none.

use std::path::Path;

use super::{Severity, against_repositories, contradictions};
use crate::base::Timestamp;
use crate::policy::{Policy, parse};

/// A policy in which nothing contradicts, as tables of lines: a test replaces or adds some.
const SOUND: [(&str, &str); 6] = [
    ("objectives", "rto = '1h'\nrpo = '15min'\ndetection = '5min'"),
    ("schedule", "full = '0 3 * * SUN'\nincr = '0 3 * * MON-SAT'\ndrill = '0 5 * * MON'"),
    ("log", "max_lag = '5min'"),
    ("retention", ""),
    ("copies", ""),
    ("drill", ""),
];

fn policy(changes: &[(&str, &str)]) -> Policy {
    let lines = |table: &str, lines: &'static str| -> String {
        let changed = changes.iter().find(|(changed, _)| *changed == table).map(|(_, lines)| (*lines).to_owned());
        format!("[{table}]\n{}\n", changed.unwrap_or(lines.to_owned()))
    };
    let text: String = SOUND.iter().map(|(table, sound)| lines(table, sound)).collect();
    parse::parse("test", Path::new("test.toml"), &text).unwrap_or_else(|error| panic!("{text}\n{error}"))
}

fn now() -> Timestamp {
    Timestamp::parse_human("2026-11-21 14:00:00Z", Timestamp::now()).unwrap()
}

/// Severity, key and arithmetic of what is found in the sound policy with `changes`.
fn found(changes: &[(&str, &str)]) -> Vec<(Severity, &'static str, String)> {
    let findings = contradictions(&policy(changes), now());
    for finding in &findings {
        // With the margin they are indented by, in a terminal.
        assert!(finding.sentence.len() <= 69 && finding.arithmetic.len() <= 69, "{finding:?}");
    }
    findings.into_iter().map(|finding| (finding.severity, finding.key, finding.arithmetic)).collect()
}

#[test]
fn a_sound_policy_has_no_finding() {
    assert_eq!(found(&[]), []);
    // On the verge, but met.
    assert_eq!(found(&[("log", "max_lag = '15min'")]), []);
    assert_eq!(found(&[("objectives", "rto = '6min'\nrpo = '15min'\ndetection = '5min'\ndrill_max_age = '7d'")]), []);
    assert_eq!(found(&[("copies", "repositories = ['a', 'b']\nlog = 2\nbackup = 2\nlocked = ['b']\nthaw = '54min'")]), []);
}

#[test]
fn what_can_never_be_met_is_refused_with_its_sum() {
    const HOURS: &str = "rto = '1h'\nrpo = '15min'\n";
    let without_log = |rpo: &str| format!("rto = '1w'\nrpo = '{rpo}'");
    let (day, hours) = (without_log("24h"), without_log("23h"));
    let detected_late = format!("{HOURS}detection = '1h'");
    let drilled_rarely = format!("{HOURS}drill_max_age = '6d'");
    for (changes, key, arithmetic) in [
        (vec![("objectives", "rto = '1h'\nrpo = '0s'")], "objectives.rpo", "a commit is on the host alone until"),
        (vec![("objectives", detected_late.as_str())], "objectives.detection", "detection 1 h, and the RTO is 1 h"),
        (vec![("copies", "thaw = '4h'")], "copies.thaw", "detection 5 min + thaw 4 h = 4 h 5 min, and the RTO is 1 h"),
        (vec![("copies", "thaw = '55min'")], "copies.thaw", "detection 5 min + thaw 55 min = 1 h, and the RTO is 1 h"),
        (vec![("log", "max_lag = '16min'")], "log.max_lag", "max_lag 16 min, more than the RPO of 15 min"),
        (vec![("log", "mode = 'stream'\nmax_lag = '1h'")], "log.max_lag", "max_lag 1 h, more than the RPO of 15 min"),
        (vec![("log", "max_lag = '0s'")], "log.max_lag", "max_lag 0 s"),
        (
            vec![("log", "mode = 'none'"), ("objectives", hours.as_str())],
            "schedule",
            "up to 1 d between two, more than the RPO of 23 h",
        ),
        (
            vec![("log", "mode = 'none'"), ("objectives", day.as_str()), ("retention", "window = '1d'")],
            "retention.window",
            "window 1 d, mode none",
        ),
        (
            vec![("log", "mode = 'none'"), ("objectives", day.as_str()), ("schedule", "drill = '@weekly'")],
            "log.mode",
            "no full, diff or incr, and the RPO is 1 d",
        ),
        (
            vec![("schedule", "incr = '@daily'\ndrill = '@weekly'")],
            "schedule.full",
            "no full, and each diff or incr builds on one",
        ),
        (vec![("objectives", drilled_rarely.as_str())], "schedule.drill", "up to 7 d between two, more than drill_max_age 6 d"),
        (vec![("retention", "window = '0s'\nkeep_chains = 0")], "retention", "window 0 s, keep_chains 0, and nothing else"),
        (vec![("retention", "window = '1d'\nkeep_chains = 0")], "retention", "1 d kept, up to 7 d between two full backups"),
        (vec![("retention", "legal_minimum = '7y'")], "retention.legal_minimum", "legal_minimum 2562 d, monthly 0, yearly 0"),
        (vec![("copies", "repositories = ['a', 'b']\nlog = 3")], "copies.log", "3 copies, 2 repositories"),
        (vec![("copies", "repositories = ['a']\nbackup = 2")], "copies.backup", "2 copies, 1 repositories"),
        (vec![("copies", "repositories = ['a', 'b', 'a']")], "copies.repositories", "a: 2 times"),
        (vec![("copies", "repositories = ['a', 'b']\nlocked = ['c']")], "copies.locked", "c is not among a, b"),
    ] {
        let found = found(&changes);
        let wanted = |(severity, at, sum): &&(Severity, &str, String)| {
            *severity == Severity::Refused && *at == key && sum.starts_with(arithmetic)
        };
        assert_eq!(found.iter().filter(wanted).count(), 1, "{changes:?}: {found:?}");
        assert!(found.iter().filter(|(severity, ..)| *severity == Severity::Refused).count() == 1, "{changes:?}: {found:?}");
    }
}

#[test]
fn a_day_of_25_hours_counts() {
    let in_zone = |zone: &str| {
        let schedule = format!("timezone = '{zone}'\nfull = '0 3 * * *'\ndrill = '0 5 * * *'");
        found(&[("objectives", "rto = '1w'\nrpo = '24h'"), ("log", "mode = 'none'"), ("schedule", schedule.as_str())])
    };
    assert_eq!(in_zone("Asia/Tokyo"), []);
    let sum = "up to 1 d 1 h between two, more than the RPO of 1 d".to_owned();
    assert_eq!(in_zone("Europe/Zurich"), [(Severity::Refused, "schedule", sum)]);
}

#[test]
fn what_this_version_cannot_do_is_warned_about() {
    let warned = |changes: &[(&str, &str)], key: &'static str, arithmetic: &str| {
        assert_eq!(found(changes), [(Severity::Warned, key, arithmetic.to_owned())], "{changes:?}");
    };
    let fast = ("objectives", "rto = '5min'\nrpo = '30s'");
    assert_eq!(found(&[fast, ("log", "mode = 'stream'")]), [], "that is what it is for");
    let sum = "one each 15 s: 5760 a day, 90.0 GiB before compression";
    warned(&[fast, ("log", "mode = 'segments'")], "log.max_lag", sum);
    warned(&[("schedule", "full = '@weekly'")], "schedule.drill", "no drill in [schedule]");
    warned(&[("schedule", "drill = '@weekly'")], "schedule.full", "no full, diff or incr in [schedule]");
    warned(&[("drill", "levels = ['verify']")], "drill.levels", "levels: verify only");
    warned(&[("retention", "yearly = 7")], "retention.yearly", "7 with the running one: 6 full years");
    let monthly = "full = '@weekly'\ndrill = '@monthly'";
    warned(&[("schedule", monthly)], "retention", "14 d kept, up to 31 d between two drills");
}

#[test]
fn the_repositories_of_the_source_are_what_counts() {
    let kept_in = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let declared = policy(&[("copies", "repositories = ['a', 'b']\nlog = 2\nlocked = ['b']")]);
    assert_eq!(against_repositories(&declared, &kept_in(&["b", "a", "c"])), []);
    let keys = |names: &[&str]| -> Vec<&str> {
        let findings = against_repositories(&declared, &kept_in(names));
        assert!(findings.iter().all(|finding| finding.severity == Severity::Refused));
        findings.into_iter().map(|finding| finding.key).collect()
    };
    assert_eq!(keys(&["a", "c"]), ["copies.repositories", "copies.locked"]);
    assert_eq!(keys(&["a"]), ["copies.repositories", "copies.locked", "copies.log"]);
}
