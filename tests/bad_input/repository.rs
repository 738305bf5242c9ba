//! Repositories that are away, replaced or wound back, and two backups at one time.

use std::fs;
use std::time::Duration;

use crate::stage::{BACKUP, assert_all_is_well, one_row};
use crate::support::dirs;
use crate::support::listing::backups;
use crate::support::postgres::RECOVERY_TIMEOUT;
use crate::support::process;
use crate::support::scenario::SOURCE;

#[test]
fn a_repository_that_is_away_replaced_or_wound_back_is_noticed() {
    let Some(scenario) = one_row(15) else { return };
    let repository = scenario.repository.path();
    let (away, older) = (repository.with_extension("away"), repository.with_extension("older"));
    dirs::copy_tree(repository, &older);
    let known = backups(&scenario.protected);
    // The restore host, too, has seen it before.
    assert_eq!(backups(&scenario.rescue), known);
    scenario.full_backup();
    fs::rename(repository, &away).expect("own directory");

    scenario.protected.run(&BACKUP).refuses(20, &["does not exist", "not mounted?"]);
    scenario.rescue.run(&["list"]).refuses(20, &["does not exist"]);
    let into = scenario.restored.join("refused");
    scenario.rescue.run(&["restore", SOURCE, "--into", into.to_str().expect("plain")]).refuses(20, &["does not exist"]);
    assert!(!repository.exists() && !into.exists());

    // Somebody has made another one in its place.
    let stranger = scenario.protected.twin();
    let key = lifeboat::repo::signed::Signer::generate().to_pem();
    let key_file = stranger.write("stranger.key", &key).display().to_string();
    let own_key = scenario.protected.dir().join("signing.key").display().to_string();
    stranger.configure_text(&stranger.configuration().replace(&own_key, &key_file));
    fs::create_dir(repository).expect("own directory");
    dirs::give(repository);
    stranger.ok(&["init"]);
    scenario.protected.run(&BACKUP).refuses(22, &["replaced or forged", "first seen", "root = "]);
    let segment = scenario.cluster.data.join("pg_wal").join(scenario.cluster.switch_wal());
    scenario.protected.run(&["archive", "push", SOURCE, segment.to_str().expect("plain")]).refuses(22, &["replaced or forged"]);
    scenario.rescue.run(&["list"]).refuses(22, &["replaced or forged"]);
    fs::remove_dir_all(repository).expect("own directory");

    // Somebody has put back the copy of an older day: everything in it verifies.
    fs::rename(&older, repository).expect("own directory");
    scenario.protected.run(&BACKUP).refuses(22, &["is gone: the repository was wound back", "head.json"]);
    let list = scenario.protected.ok(&["list"]);
    assert!(list.stderr.contains("the repository was wound back"), "{list}");
    assert_eq!(backups(&scenario.protected), known, "nothing was added to it");
    fs::remove_dir_all(repository).expect("own directory");
    fs::rename(&away, repository).expect("own directory");
    scenario.archive_now();
    assert_all_is_well(&scenario, "after", 1);
}

#[test]
fn of_two_backups_at_one_time_the_second_is_told_to_wait() {
    let Some(scenario) = one_row(15) else { return };
    let before = backups(&scenario.protected).len();
    // The first one waits for its log as long as the test wants.
    scenario.cluster.configure(["archive_command = 'false'"]);
    let mut sql = scenario.cluster.sql();
    process::wait_until("the setting is read", RECOVERY_TIMEOUT, || sql.value("SHOW archive_command") == "false");
    let first = scenario.protected.start(&BACKUP);
    process::wait_until("the first backup waits", RECOVERY_TIMEOUT, || first.stderr_so_far().contains("waiting for the log"));
    scenario.protected.run(&BACKUP).refuses(21, &["another process", "is taking a backup"]);
    assert_eq!(backups(&scenario.protected).len(), before);
    scenario.cluster.configure([scenario.protected.archive_command(SOURCE)]);
    scenario.archive_now();
    first.finish(Duration::from_secs(90)).success();
    assert_eq!(backups(&scenario.protected).len(), before + 1);
    assert_all_is_well(&scenario, "after", 1);
}
