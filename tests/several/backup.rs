//! What `backup` waits for, and where it goes.

use serde_json::Value;

use crate::stage::{Stage, Which};
use crate::support::listing;
use crate::support::scenario::SOURCE;

fn ids(stage: &Stage, which: Which) -> Vec<String> {
    let list = stage.host().json(&["list", SOURCE, "--repository", which.name()]);
    listing::backups_in(&list)
}

fn backup(stage: &Stage, backup_type: &str) -> Value {
    stage.host().json(&["backup", SOURCE, "--type", backup_type])
}

#[test]
fn one_backup_is_taken_and_copied_to_the_other_repository() {
    let Some(stage) = Stage::start("") else { return };
    for backup_type in ["full", "incr"] {
        stage.archive_row();
        let taken = backup(&stage, backup_type);
        assert_eq!(taken["backups"].as_array().map(Vec::len), Some(1), "{taken:#}");
        assert_eq!((&taken["backups"][0]["type"], &taken["backups"][0]["repository"]), (&backup_type.into(), &"main".into()));
        assert_eq!((&taken["copies"][0]["repository"], &taken["copies"][0]["held"]), (&"second".into(), &true.into()));
        assert_eq!(ids(&stage, Which::Main), ids(&stage, Which::Second));
    }
    assert_eq!(ids(&stage, Which::Second).len(), 2);
    stage.archive_row();
    stage.scenario.rescue.ok(&["verify", "--deep"]);
    assert_eq!(Stage::rows(&stage.restore_from(Which::Second, "alone")), 3);
}

#[test]
fn a_backup_counts_when_enough_have_it_and_the_others_get_it_later() {
    let Some(stage) = Stage::start("log_copies = 1\nbackup_copies = 1") else { return };
    stage.archive_row();
    stage.wait_delivered(Which::Second);
    stage.take_away(Which::Second);
    let taken = backup(&stage, "full");
    assert_eq!(taken["copies"][0]["held"], false, "{taken:#}");
    stage.archive_row();
    assert!(stage.queued(Which::Second).iter().any(|item| item["item"]["kind"] == "backup"));
    let told = stage.host().ok(&["queue"]).stdout;
    assert!(told.contains("and 1 backup"), "{told}");
    stage.bring_back(Which::Second);
    stage.wait_delivered(Which::Second);
    assert_eq!(ids(&stage, Which::Main), ids(&stage, Which::Second));
    assert_eq!(Stage::rows(&stage.restore_from(Which::Second, "alone")), 2);
}

#[test]
fn a_backup_that_too_few_have_stands_and_is_an_error() {
    let Some(stage) = Stage::start("log_copies = 1") else { return };
    stage.archive_row();
    stage.wait_delivered(Which::Second);
    stage.take_away(Which::Second);
    let told = stage.host().run(&["backup", SOURCE, "--type", "full"]).exits(20);
    assert!(told.stderr.contains("is in 1 of the 2 repositories that must hold it"), "{told}");
    assert!(told.stderr.contains("lifeboat queue orders --deliver"), "{told}");
    assert_eq!(ids(&stage, Which::Main).len(), 1);
    stage.bring_back(Which::Second);
    stage.wait_delivered(Which::Second);
    assert_eq!(ids(&stage, Which::Main), ids(&stage, Which::Second));
}

#[test]
fn a_backup_goes_to_the_repository_that_answers() {
    let Some(stage) = Stage::start("log_copies = 1\nbackup_copies = 1") else { return };
    stage.archive_row();
    stage.wait_delivered(Which::Second);
    stage.take_away(Which::Main);
    let told = stage.host().run(&["backup", SOURCE, "--type", "full"]).success();
    assert!(told.stderr.contains("repository main is passed over"), "{told}");
    stage.archive_row();
    stage.bring_back(Which::Main);
    stage.wait_delivered(Which::Main);
    assert_eq!(ids(&stage, Which::Main), ids(&stage, Which::Second));
    assert_eq!(ids(&stage, Which::Main).len(), 1);
    assert_eq!(Stage::rows(&stage.restore_from(Which::Main, "alone")), 2);
}
