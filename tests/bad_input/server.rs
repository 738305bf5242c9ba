//! Servers that archive nothing, or whose last segment never arrives.

use crate::stage::{BACKUP, assert_all_is_well, one_row, refuse_backup};
use crate::support::listing::backups;
use crate::support::postgres::RECOVERY_TIMEOUT;
use crate::support::process;
use crate::support::scenario::SOURCE;

#[test]
fn a_server_that_does_not_archive_is_not_backed_up() {
    let Some(mut scenario) = one_row(18) else { return };
    scenario.cluster.configure(["archive_mode = off"]);
    scenario.cluster.restart();
    refuse_backup(&scenario, 1, &["archive_mode is off", "ALTER SYSTEM SET archive_mode = on", "archive push orders %p"]);
    scenario.cluster.configure(["wal_level = minimal", "max_wal_senders = 0"]);
    scenario.cluster.restart();
    refuse_backup(&scenario, 1, &["archive_mode is off", "ALTER SYSTEM SET wal_level = replica"]);
    scenario.cluster.configure(["wal_level = replica", "max_wal_senders = 5", "archive_mode = on", "archive_command = ''"]);
    scenario.cluster.restart();
    refuse_backup(&scenario, 1, &["archive_command is empty", "archive push orders %p", "pg_reload_conf"]);
    scenario.cluster.configure([scenario.protected.archive_command(SOURCE)]);
    scenario.archive_now();
    assert_all_is_well(&scenario, "after", 1);
}

#[test]
fn a_backup_whose_last_segment_never_arrives_names_it_and_the_archivers_failure() {
    let Some(scenario) = one_row(15) else { return };
    let before = backups(&scenario.protected);
    scenario.protected.append_configuration("archive_timeout_seconds = 4\n");
    scenario.cluster.configure(["archive_command = 'false'"]);
    let mut sql = scenario.cluster.sql();
    process::wait_until("the server has read its settings", RECOVERY_TIMEOUT, || sql.value("SHOW archive_command") == "false");
    let output = scenario.protected.run(&BACKUP);
    let failed = sql.value("SELECT last_failed_wal FROM pg_stat_archiver");
    let missing = format!("missing   {failed}");
    output.refuses(1, &["was not archived within 4", &missing, "archiver  failed", "archive_command should be"]);
    assert_eq!(backups(&scenario.protected), before);
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'lifeboat%'";
    assert_eq!(sql.number(sessions), 0, "the session of the failed backup is still there");
    scenario.cluster.configure([scenario.protected.archive_command(SOURCE)]);
    assert_all_is_well(&scenario, "after", 1);
}
