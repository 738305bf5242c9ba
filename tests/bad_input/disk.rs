//! Full disks: a tmpfs of a few MiB below the repository, and below the restore's target. Needs root.

use std::path::Path;
use std::process::Command;

use crate::stage::{BACKUP, assert_all_is_well, one_row};
use crate::support::listing::backups;
use crate::support::postgres::{Cluster, RECOVERY_TIMEOUT};
use crate::support::scenario::SOURCE;
use crate::support::tmpfs::Tmpfs;

#[test]
fn a_full_repository_commits_nothing() {
    let Some(scenario) = one_row(15) else { return };
    let repository = scenario.repository.path().to_owned();
    let kept = repository.with_extension("kept");
    std::fs::rename(&repository, &kept).expect("own directory");
    std::fs::create_dir(&repository).expect("own directory");
    let used_mib = used_mib(&kept);
    let Some(tmpfs) = Tmpfs::mount(&repository, used_mib + 2) else {
        std::fs::remove_dir(&repository).expect("own directory");
        return std::fs::rename(&kept, &repository).expect("own directory");
    };
    let status = Command::new("cp").arg("-a").arg(kept.join(".")).arg(&repository).status().expect("cp runs");
    assert!(status.success());
    std::fs::remove_dir_all(&kept).expect("own directory");
    let before = backups(&scenario.protected);
    scenario.protected.run(&BACKUP).refuses(20, &["the disk is full", "make room"]);
    assert_eq!(backups(&scenario.protected), before);
    tmpfs.grow(used_mib + 100);
    scenario.archive_now();
    assert_all_is_well(&scenario, "after", 1);
}

fn used_mib(directory: &Path) -> u32 {
    let output = Command::new("du").arg("-sm").arg(directory).output().expect("du runs");
    let text = String::from_utf8(output.stdout).expect("plain");
    text.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
}

#[test]
fn a_full_disk_at_the_target_leaves_nothing_that_starts() {
    let Some(scenario) = one_row(15) else { return };
    let mount_point = scenario.restored.create_dir("small disk");
    let Some(tmpfs) = Tmpfs::mount(&mount_point, 12) else { return };
    let into = mount_point.join("restored");
    let restore = ["restore", SOURCE, "--clone", "--into", into.to_str().expect("plain")];
    scenario.rescue.run(&restore).refuses(1, &["No space left on device", "larger disk"]);
    let mut cluster = Cluster::open(&scenario.cluster.installation, &into);
    cluster.launch();
    let (code, log) = cluster.wait_exit(RECOVERY_TIMEOUT);
    assert_ne!(code, Some(0), "{log}");
    tmpfs.grow(200);
    std::fs::remove_dir_all(&into).expect("own directory");
    scenario.rescue.ok(&restore);
    let restored = scenario.open(&into);
    assert_eq!(restored.sql().number("SELECT n FROM rows"), 1);
}
