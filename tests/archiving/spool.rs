//! Recovery with segments fetched ahead: the rows are what they would be without, whatever becomes of what was fetched.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;

use crate::support::dirs;
use crate::support::postgres::{Cluster, Options, RECOVERY_TIMEOUT, Stop};
use crate::support::process;
use crate::support::scenario::{Scenario, restore_command_of};

const ROWS: usize = 24;

/// A log of `ROWS` segments, a row each, the last third on timeline 2; and a restored directory that was never started.
struct Stage {
    scenario: Scenario,
    restored: PathBuf,
    segments: Vec<String>,
}

impl Stage {
    fn start() -> Option<Self> {
        let mut scenario = Scenario::on(15, &Options { wal_segment_mib: 1, ..Options::default() })?;
        scenario.cluster.sql().execute("CREATE TABLE rows (n int)");
        scenario.full_backup();
        let mut segments: Vec<String> = (0..ROWS * 2 / 3).map(|n| add_row(&scenario.cluster, n)).collect();
        scenario.cluster.wait_archived(&segments[segments.len() - 1], RECOVERY_TIMEOUT);
        scenario.cluster.stop(Stop::Fast);
        let mut second = scenario.open(&scenario.restore("second", &[]));
        segments.extend((ROWS * 2 / 3..ROWS).map(|n| add_row(&second, n)));
        second.wait_archived(&segments[ROWS - 1], RECOVERY_TIMEOUT);
        second.stop(Stop::Fast);
        let restored = scenario.restore("never-started", &["--clone"]);
        Some(Self { scenario, restored, segments })
    }

    /// A cluster on a copy of the restored directory that recovers to the newest timeline's end; each segment is fetched by
    /// `script`, which is given `"$1"` and `"$2"` and may run `$GET`.
    fn recovering(&self, name: &str, script: &str) -> Cluster {
        let data = self.scenario.restored.join(name);
        dirs::copy_tree(&self.restored, &data);
        let get = restore_command_of(&self.restored).replace("%f", "\"$1\"").replace("%p", "\"$2\"");
        let path = self.scenario.restored.write(format!("{name}.sh"), script.replace("$GET", &get));
        Cluster::open(&self.scenario.cluster.installation, &data)
            .with_override("recovery_target_timeline=latest")
            .with_override(format!("restore_command=sh {} %f %p", path.display()))
    }

    #[track_caller]
    fn assert_recovers(&self, mut cluster: Cluster) {
        cluster.launch();
        self.assert_recovered(cluster);
    }

    #[track_caller]
    fn assert_recovered(&self, mut cluster: Cluster) {
        cluster.wait_recovered(RECOVERY_TIMEOUT);
        let rows = cluster.sql().rows("SELECT n FROM rows ORDER BY n");
        let rows: Vec<usize> = rows.iter().map(|row| row[0].as_deref().and_then(|n| n.parse().ok()).expect("a number")).collect();
        assert_eq!(rows, (0..ROWS).collect::<Vec<_>>());
        let wal = cluster.data.join("pg_wal");
        process::wait_until("those that fetch ahead have ended", RECOVERY_TIMEOUT, || prefetchers(&wal).is_empty());
        let left: Vec<_> = std::fs::read_dir(&wal).expect("readable").flatten().map(|entry| entry.file_name()).collect();
        assert!(!left.iter().any(|name| name.to_string_lossy().contains(".tmp")), "{left:?}");
        let sockets = self.scenario.rescue.state_dir().join("get");
        process::wait_until("their sockets are gone", RECOVERY_TIMEOUT, || {
            std::fs::read_dir(&sockets).is_ok_and(|entries| entries.count() == 0)
        });
        cluster.stop(Stop::Fast);
    }
}

fn add_row(cluster: &Cluster, n: usize) -> String {
    cluster.sql().execute(&format!("INSERT INTO rows VALUES ({n})"));
    cluster.switch_wal()
}

/// The processes that fetch ahead for the cluster with this log.
fn prefetchers(wal: &Path) -> Vec<u32> {
    let wal = wal.display().to_string();
    let processes = std::fs::read_dir("/proc").expect("readable").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).into_owned();
        words.contains("--fetch-ahead") && words.contains(&wal) && process::is_alive(*pid)
    })
    .collect()
}

/// How many segments those that fetch ahead hold: files without a name.
fn held(wal: &Path) -> usize {
    let files = prefetchers(wal).into_iter().flat_map(|pid| std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten());
    let names = files.flatten().filter_map(|file| std::fs::read_link(file.path()).ok());
    names.filter(|name| name.to_string_lossy().contains("/#") && name.to_string_lossy().ends_with("(deleted)")).count()
}

/// With the repository away a recovery goes on, across the switch to the other timeline, with what was fetched ahead.
#[test]
fn a_recovery_across_timelines_is_fed_from_the_spool() {
    let Some(stage) = Stage::start() else { return };
    let path = |name| stage.scenario.restored.join(name);
    let (here, go, log) = (path("here"), path("go"), path("gets"));
    let (first, last) = (&stage.segments[ROWS * 2 / 3 - 2], &stage.segments[ROWS * 2 / 3 + 1]);
    let script = format!(
        "if [ $1 = {first} ]; then : > {}; until [ -e {} ]; do sleep 0.02; done; fi\n\
         $GET; code=$?; echo $1 $code >> {}; exit $code\n",
        here.display(),
        go.display(),
        log.display()
    );
    let mut cluster = stage.recovering("plain", &script);
    cluster.launch();
    let wal = cluster.data.join("pg_wal");
    process::wait_until("the next ones are fetched ahead", RECOVERY_TIMEOUT, || here.exists() && held(&wal) >= 8);
    stage.scenario.repository.take_away();
    std::fs::write(&go, "").expect("own directory");
    let gets = || std::fs::read_to_string(&log).unwrap_or_default();
    process::wait_until("they are handed over", RECOVERY_TIMEOUT, || gets().contains(&format!("{last} ")));
    assert!(gets().contains(&format!("{first} 0\n")) && gets().contains(&format!("{last} 0\n")), "{}", gets());
    stage.scenario.repository.bring_back();
    stage.assert_recovered(cluster);
}

/// Two at one time, from one source and one host: neither is given the other's.
#[test]
fn two_recoveries_do_not_share_a_spool() {
    let Some(stage) = Stage::start() else { return };
    let (mut one, two) = (stage.recovering("one", "exec $GET\n"), stage.recovering("two", "exec $GET\n"));
    one.launch();
    stage.assert_recovers(two);
    one.wait_recovered(RECOVERY_TIMEOUT);
    assert_eq!(one.sql().number("SELECT count(*) FROM rows"), ROWS as i64);
    one.stop(Stop::Fast);
}

/// Whoever fetches ahead is killed over and over, and the files that a careless one might trust are planted.
#[test]
fn one_that_is_killed_costs_nothing_and_forged_files_are_not_looked_at() {
    let Some(stage) = Stage::start() else { return };
    let cluster = stage.recovering("killed", "exec $GET\n");
    let wal = cluster.data.join("pg_wal");
    for directory in [wal.clone(), dirs_below(&wal, "spool"), dirs_below(&wal, "lifeboat-spool")] {
        for segment in &stage.segments[2..6] {
            std::fs::write(directory.join(format!(".{segment}.tmp.forged")), vec![0; 1 << 20]).expect("own directory");
            std::fs::write(directory.join(format!("{segment}.torn")), b"torn").expect("own directory");
        }
    }
    dirs::give_tree(&wal);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let killing = scope.spawn(|| {
            let mut killed = 0;
            process::poll(2 * RECOVERY_TIMEOUT, || {
                let found = prefetchers(&wal);
                killed += found.len();
                found.into_iter().for_each(|pid| process::signal_pid(pid, Signal::KILL));
                done.load(Ordering::SeqCst).then_some(())
            });
            killed
        });
        let (_end, mut cluster) = (SetAtEnd(&done), cluster);
        cluster.launch();
        cluster.wait_recovered(RECOVERY_TIMEOUT);
        done.store(true, Ordering::SeqCst);
        assert!(killing.join().expect("it kills") > 0, "nobody fetched ahead");
        assert_eq!(cluster.sql().number("SELECT count(*) FROM rows"), ROWS as i64);
        cluster.stop(Stop::Fast);
    });
}

/// Set when it is dropped, also by a test that fails.
struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn dirs_below(directory: &Path, name: &str) -> PathBuf {
    let path = directory.join(name);
    std::fs::create_dir(&path).expect("own directory");
    path
}
