//! SIGKILL at every named point of a backup and of a restore.

use std::process::Command;
use std::time::Duration;

use rand::Rng;

use crate::oracle::{assert_same, snapshot};
use crate::stage::{SOURCE, Stage, id};
use crate::support::process::{self, Output};
use crate::support::random;

const BACKUP: [&str; 9] = [
    "backup.leased",
    "backup.begun",
    "backup.pack-stored",
    "backup.pack-stored:2",
    "backup.copied",
    "backup.packs-listed",
    "backup.manifest-stored",
    "backup.lease-checked",
    "backup.committed",
];
const RESTORE: [&str; 5] = ["restore.marked", "restore.created", "restore.pack-written", "restore.synced", "restore.complete"];

fn killed_at(point: &str, mut command: Command) -> Output {
    command.env("LIFEBOAT_KILL_AT", point);
    process::run(command, Duration::from_secs(120)).killed()
}

fn fill(stage: &Stage, seed: u64, name: &str) {
    let mut bytes = vec![0; 2_500_000];
    random::generator(seed, 1).fill_bytes(&mut bytes);
    stage.write(&format!("{name}/large"), &bytes);
    for n in 0..20 {
        stage.write(&format!("{name}/f{n}"), format!("{name} {n}").as_bytes());
    }
}

#[test]
fn a_killed_backup_is_never_listed_and_the_next_one_is_whole() {
    let stage = Stage::as_root("");
    fill(&stage, 1, "first");
    let first = (id(&stage.backup("full")), snapshot(&stage.tree));
    for (number, point) in BACKUP.iter().enumerate() {
        fill(&stage, 10 + number as u64, point);
        let before = stage.listed();
        killed_at(point, stage.command(&stage.protected, &["backup", SOURCE, "--type", "incr"]));
        let listed = stage.listed();
        assert_eq!(listed.len(), before.len() + usize::from(*point == "backup.committed"), "{point}");
        let again = stage.backup("incr");
        let expected = snapshot(&stage.tree);
        // After a commit of which nothing is remembered here nobody knows what to build on.
        assert_eq!(again["type"] == "full", *point == "backup.committed", "{point}: {again:#}");
        stage.assert_restores(&id(&again), &expected, point);
        if let Some(committed) = listed.get(before.len()) {
            stage.assert_restores(committed, &expected, "the one that was committed");
        }
    }
    stage.assert_restores(&first.0, &first.1, "the first");
    stage.assert_verifies();
}

#[test]
fn a_killed_restore_is_not_taken_for_a_whole_one() {
    let stage = Stage::as_root("");
    fill(&stage, 1, "a");
    stage.backup("full");
    let expected = snapshot(&stage.tree);
    for point in RESTORE {
        let into = stage.restored.join(point);
        let text = into.display().to_string();
        killed_at(point, stage.command(&stage.rescue, &["restore", SOURCE, "--into", &text]));
        let marker = stage.restored.join(format!(".{point}.lifeboat-incomplete"));
        assert_eq!(marker.exists(), point != "restore.complete", "{point}");
        if point == "restore.complete" {
            assert_same(&expected, &snapshot(&into), point);
            continue;
        }
        if into.exists() {
            stage.run(&stage.rescue, &["restore", SOURCE, "--into", &text]).refuses(1, &["unfinished restore", "rm -r"]);
            std::fs::remove_dir_all(&into).expect("own directory");
        }
        assert_same(&expected, &snapshot(&stage.restore(point, &[])), point);
        assert!(!marker.exists(), "{point}");
    }
}
