//! Ctrl-C and SIGTERM in the middle of a backup and of a restore.

use std::time::Duration;

use rustix::process::Signal;

use crate::stage::{BACKUP, assert_all_is_well, one_row};
use crate::support::listing::backups;
use crate::support::postgres::{Cluster, RECOVERY_TIMEOUT};
use crate::support::process;
use crate::support::scenario::SOURCE;

const SIGNALS: [Signal; 2] = [Signal::INT, Signal::TERM];
const PROMPT: Duration = Duration::from_secs(20);

#[test]
fn an_interrupted_backup_leaves_nothing() {
    let Some(scenario) = one_row(15) else { return };
    let before = backups(&scenario.protected);
    // Without its log no backup can end before the signal comes.
    scenario.cluster.configure(["archive_command = 'false'"]);
    let mut sql = scenario.cluster.sql();
    process::wait_until("the setting is read", RECOVERY_TIMEOUT, || sql.value("SHOW archive_command") == "false");
    for phase in ["starting the backup", "copying", "waiting for the log"] {
        for signal in SIGNALS {
            let running = scenario.protected.start(&BACKUP);
            process::wait_until(phase, RECOVERY_TIMEOUT, || running.stderr_so_far().contains(phase));
            running.signal(signal);
            let output = running.finish(PROMPT).exits(130);
            assert!(output.stderr.contains("interrupted"), "{phase}: {output}");
            assert_eq!(backups(&scenario.protected), before, "{phase}");
            let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'lifeboat%'";
            process::wait_until("the backup's session ends", PROMPT, || sql.number(sessions) == 0);
        }
    }
    scenario.cluster.configure([scenario.protected.archive_command(SOURCE)]);
    scenario.archive_now();
    assert_all_is_well(&scenario, "after", 1);
}

#[test]
fn an_interrupted_restore_cannot_be_started_and_is_repeated() {
    let Some(scenario) = one_row(15) else { return };
    // Enough that writing it takes longer than sending a signal.
    scenario.cluster.sql().execute(
        "CREATE TABLE ballast AS SELECT n, md5(n::text) || md5((-n)::text) AS text FROM generate_series(1, 600000) AS n",
    );
    scenario.full_backup();
    scenario.archive_now();
    scenario.rescue.append_configuration("[backup]\nworkers = 1\n");
    for signal in SIGNALS {
        let into = scenario.restored.join(format!("interrupted-{}", signal.as_raw()));
        let restore = ["restore", SOURCE, "--clone", "--into", into.to_str().expect("plain")];
        let running = scenario.rescue.start(&restore);
        process::wait_until("the restore writes", RECOVERY_TIMEOUT, || into.join("base").exists());
        running.signal(signal);
        let output = running.finish(PROMPT).exits(130);
        assert!(output.stderr.contains("interrupted"), "{output}");
        let mut cluster = Cluster::open(&scenario.cluster.installation, &into);
        cluster.launch();
        let (code, log) = cluster.wait_exit(PROMPT);
        assert_ne!(code, Some(0), "{log}");
        scenario.rescue.run(&restore).refuses(1, &["unfinished restore", "rm -r"]);
        std::fs::remove_dir_all(&into).expect("own directory");
        scenario.rescue.ok(&restore);
    }
    assert_all_is_well(&scenario, "after", 1);
}
