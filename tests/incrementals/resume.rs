//! A backup that was interrupted is gone on with, and holds what the files are now.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::stage;
use crate::support::listing;
use crate::support::postgres::Options;
use crate::support::scenario::{SOURCE, Scenario};

/// A cluster whose backups have several packs.
fn start() -> Option<Scenario> {
    let scenario = stage::start(&Options::default())?;
    scenario.add_sections("[backup]\nworkers = 2\npack_size_mib = 1\n");
    Some(scenario)
}

fn full(scenario: &Scenario, point: &str) {
    scenario.protected.run_killed_at(point, &["backup", SOURCE, "--type", "full"]).killed();
}

/// Packs in the repository.
fn packs(scenario: &Scenario) -> Vec<String> {
    scenario.repository.names().into_iter().filter(|key| key.contains("/pack-")).collect()
}

#[track_caller]
fn went_on(report: &Value) -> bool {
    report["warnings"].as_array().expect("a list").iter().any(|warning| warning.as_str().expect("text").contains("interrupted"))
}

#[test]
fn what_was_stored_is_used_and_what_changed_meanwhile_is_read_again() {
    let Some(scenario) = start() else { return };
    let before = packs(&scenario).len();
    // In the middle, in the middle again, with everything copied, and shortly before the end.
    for point in ["backup.pack-stored:3", "backup.pack-stored:1", "backup.copied", "backup.stopped", "backup.archived"] {
        full(&scenario, point);
        assert_eq!(listing::backups(&scenario.protected).len(), 1, "no torn backup is listed");
        stage::scatter(&scenario, 900);
        scenario.cluster.sql().execute("CREATE TABLE IF NOT EXISTS late AS SELECT * FROM still");
    }
    scenario.cluster.sql().execute("DELETE FROM still WHERE n > 10000");
    scenario.cluster.sql().execute("VACUUM still");
    let stored = packs(&scenario).len();
    assert!(stored > before + 3, "{stored} packs");
    let report = stage::exactly(&scenario, "full");
    assert!(went_on(&report), "{report:#}");
    let files = stage::relation_files(&scenario.cluster.data);
    let restored = stage::restore(&scenario, report["id"].as_str().expect("an id"), "resumed");
    stage::assert_same(&restored, &files);
    scenario.rescue.ok(&["verify", SOURCE, "--deep"]);
    let next = stage::exactly(&scenario, "full");
    assert!(!went_on(&next), "a committed backup is not gone on with: {next:#}");
    stage::scatter(&scenario, 500);
    let incr = stage::exactly(&scenario, "incr");
    let files = stage::relation_files(&scenario.cluster.data);
    stage::assert_same(&stage::restore(&scenario, incr["id"].as_str().expect("an id"), "after"), &files);
}

#[test]
fn the_number_of_a_lost_pack_is_used_again_and_its_frames_are_not() {
    let Some(scenario) = start() else { return };
    for (round, point) in ["backup.pack-stored:2", "backup.pack-stored:1", "backup.pack-stored:3"].into_iter().enumerate() {
        full(&scenario, point);
        // Other content for the packs that get the numbers of those that were lost, and one file that stays as it was.
        stage::scatter(&scenario, 1 + round as u32);
        scenario
            .cluster
            .sql()
            .execute("CREATE TABLE IF NOT EXISTS noise AS SELECT sha512(n::text::bytea) FROM generate_series(1, 40000) n");
    }
    let report = stage::exactly(&scenario, "full");
    assert!(went_on(&report), "{report:#}");
    scenario.rescue.ok(&["verify", SOURCE, "--deep"]);
    let files = stage::relation_files(&scenario.cluster.data);
    stage::assert_same(&stage::restore(&scenario, report["id"].as_str().expect("an id"), "again"), &files);
}

#[test]
fn an_interrupted_incr_goes_on_and_one_of_another_kind_does_not() {
    let Some(scenario) = start() else { return };
    stage::scatter(&scenario, 5);
    let incr = ["backup", SOURCE, "--type", "incr"];
    scenario.protected.run_killed_at("backup.pack-stored:2", &incr).killed();
    stage::scatter(&scenario, 7);
    let report = stage::exactly(&scenario, "incr");
    assert!(went_on(&report), "{report:#}");
    let files = stage::relation_files(&scenario.cluster.data);
    stage::assert_same(&stage::restore(&scenario, report["id"].as_str().expect("an id"), "incr"), &files);
    stage::scatter(&scenario, 5);
    scenario.protected.run_killed_at("backup.pack-stored:2", &incr).killed();
    assert!(!went_on(&stage::exactly(&scenario, "full")));
    // Everything was stored but the commit: nothing is gone on with, and nothing clashes.
    full(&scenario, "backup.manifest-stored");
    assert!(!went_on(&stage::exactly(&scenario, "full")));
}

#[test]
fn damaged_memory_of_an_interrupted_backup_does_no_harm() {
    let Some(scenario) = start() else { return };
    let is_memory = |path: &PathBuf| path.to_string_lossy().contains("/resume/");
    for number in 0..4 {
        full(&scenario, "backup.pack-stored:3");
        let memory: Vec<PathBuf> = listing::files(&scenario.protected.state_dir()).into_iter().filter(is_memory).collect();
        assert_eq!(memory.len(), 3, "facts, packs, lines: {memory:?}");
        for path in &memory {
            let mut content = fs::read(path).expect("readable");
            match number {
                0 => content.truncate(content.len() / 2),
                1 => content.iter_mut().step_by(97).for_each(|byte| *byte ^= 8),
                2 if path.ends_with("packs.jsonl") => content.clear(),
                3 if path.ends_with("lines.jsonl") => content.clear(),
                _ => {}
            }
            fs::write(path, content).expect("writable");
        }
        stage::scatter(&scenario, 300);
        let report = stage::exactly(&scenario, "full");
        let files = stage::relation_files(&scenario.cluster.data);
        let restored = stage::restore(&scenario, report["id"].as_str().expect("an id"), &format!("damaged-{number}"));
        stage::assert_same(&restored, &files);
    }
}
