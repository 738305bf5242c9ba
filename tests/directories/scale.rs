//! Many files: what an incr of an unchanged tree takes.

use std::fs;
use std::time::{Duration, Instant};

use crate::oracle::{assert_same, snapshot};
use crate::stage::{SOURCE, Stage, wrapped};
use crate::support::process::{self, Running};

fn files() -> usize {
    std::env::var("LIFEBOAT_TEST_FILES").ok().map_or(10_000, |text| text.parse().expect("a number"))
}

/// Runs a backup, and gives its peak memory in KiB and how long it took.
fn measured(stage: &Stage, backup_type: &str) -> (u64, Duration) {
    let began = Instant::now();
    let mut running = Running::start(stage.command(&stage.protected, &["backup", SOURCE, "--type", backup_type]));
    let status_file = format!("/proc/{}/status", running.pid());
    let mut peak_kib = 0;
    process::wait_until("the backup ends", Duration::from_secs(600), || {
        let status = fs::read_to_string(&status_file).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let now = line.and_then(|text| text.trim().strip_suffix(" kB")?.trim().parse().ok()).unwrap_or(0);
        peak_kib = peak_kib.max(now);
        running.has_ended()
    });
    running.finish(Duration::from_secs(1)).success();
    (peak_kib, began.elapsed())
}

#[test]
fn an_incr_of_many_unchanged_files_takes_little_memory() {
    let stage = Stage::as_root("");
    let files = files();
    for n in 0..files {
        let dir = stage.tree.join(format!("d{}", n / 1000));
        if n % 1000 == 0 {
            fs::create_dir(&dir).expect("own directory");
        }
        fs::write(dir.join(format!("file-{n}")), format!("content of {n}")).expect("own file");
    }
    stage.settle();
    let (full_kib, full) = measured(&stage, "full");
    let (incr_kib, incr) = measured(&stage, "incr");
    println!("{files} files: full {full:?}, {full_kib} KiB; unchanged incr {incr:?}, {incr_kib} KiB");
    assert!(full_kib.max(incr_kib) < 256 << 10, "{full_kib} and {incr_kib} KiB");
    let into = stage.restore("all", &[]);
    assert_same(&snapshot(&stage.tree), &snapshot(&into), "many files");
}

/// Every file that waits to be read, or is, may hold a directory of its own open.
#[test]
fn many_reading_threads_hold_few_files_open() {
    let stage = Stage::as_root("");
    stage.protected.configure_text(&stage.protected.configuration().replace("workers = 2", "workers = 64"));
    (0..900).for_each(|n| drop(stage.write(&format!("d{n}/file"), format!("{n}").repeat(5000).as_bytes())));
    stage.own();
    let inner = stage.command(&stage.protected, &["backup", SOURCE]);
    let mut wrapper = std::process::Command::new("sh");
    wrapper.args(["-c", "ulimit -n 400 && exec \"$@\"", "sh"]);
    process::run(wrapped(wrapper, &inner), Duration::from_secs(120)).success();
}
