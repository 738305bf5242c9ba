//! One drill of what has no server: restored into the scratch directory, looked at there, and gone again.
//!
//! The restore has compared every piece with its digest. What is asked here is asked without its help: a directory is walked
//! through and counted, a database is opened as any program would.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::checks::STATEMENT_TIMEOUT;
use super::judge::judge;
use super::plan::{check_space, needed_for};
use super::run::{Drilled, free_bytes, kept};
use super::scene::Scene;
use super::{Noted, Stopwatch};
use crate::base::progress::Progress;
use crate::base::units::format_bytes;
use crate::base::{Cancel, Engine, Error, ErrorKind, Result, SourceName, Timestamp, killpoint};
use crate::policy::{DrillPolicy, SqlCheck};
use crate::repo::BackupSummary;
use crate::repo::evidence::{PhaseKind, Restored};
use crate::source::sqlite::check::{integrity_problems, query};

/// The check of a directory's entries, by this name in results.
pub const TREE: &str = "the restored tree";
/// The check of a whole database.
pub const INTEGRITY: &str = "integrity_check";

/// What a drill is to do.
pub struct Job<'a> {
    /// The source.
    pub source: &'a SourceName,
    /// The backup that is restored, or with which the restore begins.
    pub backup: &'a BackupSummary,
    /// Bytes of log that follow it, as far as known.
    pub log_bytes: u64,
    /// The moment asked for; none for the newest.
    pub target_time: Option<Timestamp>,
    /// When the disaster was declared.
    pub declared: Timestamp,
    /// The checks.
    pub policy: &'a DrillPolicy,
    /// Below this the scratch directory is made.
    pub scratch: &'a Path,
    /// Where this host remembers what it does.
    pub state_dir: &'a Path,
    /// Leave the directory.
    pub keep: bool,
    /// Who listens.
    pub progress: Arc<dyn Progress>,
    /// The wish to stop.
    pub cancel: Cancel,
}

/// What was restored.
#[derive(Clone, Debug)]
pub struct Written {
    /// The database file, or the directory.
    pub path: PathBuf,
    /// The moment that it is of.
    pub reaches: Timestamp,
    /// What could not be given back as it was, in sentences.
    pub notes: Vec<String>,
}

/// Carries a drill out; `stopwatch` has measured the planning already. `restore` restores into the directory that it is
/// given, which does not exist yet.
///
/// # Errors
/// When this host cannot drill (no room, no directory), and on the wish to stop. The scratch directory is gone then.
pub async fn run(
    job: &Job<'_>,
    mut stopwatch: Stopwatch,
    restore: impl AsyncFnOnce(&Path) -> Result<Written>,
) -> Result<Drilled> {
    fs::create_dir_all(job.scratch).map_err(|error| Error::io("create", job.scratch, error))?;
    check_space(job.scratch, needed_for(job.backup, job.log_bytes), free_bytes(job.scratch)?)?;
    let mut scene = Scene::make(job.scratch, job.state_dir, job.source, None)?;
    killpoint::reach("drill.scene-made");
    let mut drilled = Drilled::new(Vec::new());
    let outcome = act(job, &scene, &mut stopwatch, &mut drilled, restore).await;
    drilled.phases = stopwatch.phases;
    if let Err(error) = outcome {
        if error.kind() == ErrorKind::Interrupted {
            return Err(error);
        }
        drilled.why.push(error.summary());
        drilled.why.extend(error.details().iter().map(|(label, value)| format!("{label}: {value}")));
    }
    if job.keep {
        drilled.kept = Some(kept(&mut scene, None)?);
    }
    Ok(drilled)
}

async fn act(
    job: &Job<'_>,
    scene: &Scene,
    stopwatch: &mut Stopwatch,
    drilled: &mut Drilled,
    restore: impl AsyncFnOnce(&Path) -> Result<Written>,
) -> Result<()> {
    let written = restore(&scene.data()).await?;
    stopwatch.lap(PhaseKind::Fetch, Some(job.backup.raw_bytes));
    killpoint::reach("drill.restored");
    drilled.restored = Some(Restored {
        backup: job.backup.id.clone(),
        incarnation: job.backup.incarnation.clone(),
        timeline: job.backup.timeline,
        reached_lsn: None,
        last_commit: Some(written.reaches),
        raw_bytes: job.backup.raw_bytes,
        replay_bytes: job.log_bytes,
    });
    drilled.notes.extend(written.notes.iter().cloned());
    job.progress.phase("checking", None);
    let mut noted = Noted::new(stopwatch);
    let checked = tokio::task::block_in_place(|| match job.backup.incarnation.engine() {
        Engine::Directory => check_tree(job, &written, &mut noted),
        Engine::Sqlite | Engine::Postgres => check_database(job, &written, &mut noted),
    });
    (drilled.checks, drilled.rto_seconds) = (noted.results, noted.rto_seconds);
    checked?;
    killpoint::reach("drill.checked");
    stopwatch.lap(PhaseKind::Checks, None);
    job.cancel.check()
}

/// What somebody who knows nothing of backups counts in a tree.
#[derive(Debug, Default)]
struct Counted {
    /// Files, directories, links and the rest, but for the top.
    entries: u64,
    /// Lengths of files, holes included, each counted once whatever its names.
    bytes: u64,
}

fn count(top: &Path, cancel: &Cancel) -> Result<Counted> {
    let (mut counted, mut linked) = (Counted::default(), HashSet::new());
    let mut directories = vec![top.to_owned()];
    while let Some(directory) = directories.pop() {
        cancel.check()?;
        let failed = |error| Error::io("list", &directory, error);
        for entry in fs::read_dir(&directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            // Of a link itself, not of what it leads to.
            let metadata = entry.metadata().map_err(|error| Error::io("look at", &entry.path(), error))?;
            counted.entries += 1;
            let is_first = metadata.nlink() == 1 || linked.insert((metadata.dev(), metadata.ino()));
            counted.bytes += if metadata.is_file() && is_first { metadata.len() } else { 0 };
            if metadata.is_dir() {
                directories.push(entry.path());
            }
        }
    }
    Ok(counted)
}

fn check_tree(job: &Job<'_>, written: &Written, noted: &mut Noted<'_>) -> Result<()> {
    let began = Instant::now();
    let Counted { entries, bytes } = count(&written.path, &job.cancel)?;
    let (expected, data_bytes, lacking) = (job.backup.entries, job.backup.raw_bytes, job.backup.bad_pages);
    let found = format!("{entries} entries, {}", format_bytes(bytes));
    // Holes are no data, and make files longer than what is stored of them. What could not be read when the backup was
    // taken is not made up now: the backup itself says how much that is.
    let judged = match entries {
        _ if bytes < data_bytes => Err(format!("{found}, where the backup has {} of data", format_bytes(data_bytes))),
        _ if entries == expected => Ok(format!("{found}, as the backup says")),
        _ if entries < expected && expected - entries <= lacking => {
            Ok(format!("{found}; {lacking} were not whole in the backup"))
        }
        _ => Err(format!("{found}, where the backup has {expected} entries")),
    };
    noted.note(TREE, true, began, judged);
    Ok(())
}

fn check_database(job: &Job<'_>, written: &Written, noted: &mut Noted<'_>) -> Result<()> {
    let began = Instant::now();
    let problems = integrity_problems(&written.path).map_err(|error| error.summary());
    let judged = problems.and_then(|problems| match problems.first() {
        None => Ok("SQLite finds nothing wrong".to_owned()),
        Some(first) => Err(format!("{} findings, the first: {first}", problems.len())),
    });
    noted.note(INTEGRITY, true, began, judged);
    for check in &job.policy.checks {
        job.cancel.check()?;
        let began = Instant::now();
        noted.note(&check.name, true, began, ask(job, written, check));
    }
    Ok(())
}

fn ask(job: &Job<'_>, written: &Written, check: &SqlCheck) -> Result<String, String> {
    let (path, sql) = (written.path.clone(), check.sql.clone());
    let timeout = job.policy.statement_timeout.unwrap_or(STATEMENT_TIMEOUT);
    let (sender, answer) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // Nobody waits any more when the time is up.
        let _ = sender.send(query(&path, &sql));
    });
    let rows = answer.recv_timeout(timeout).map_err(|_| "it did not answer in time".to_owned())?;
    let rows = rows.map_err(|error| error.summary())?;
    let moment = job.target_time.unwrap_or(job.declared);
    judge(&check.expect, &rows, moment.max(written.reaches))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::progress::Silent;
    use crate::base::{Incarnation, Lsn};
    use crate::repo::evidence::DrillOutcome;

    const ID: &str = "20261120T030000Z-full-aaaa";

    fn backup(engine: Engine, entries: u64, raw_bytes: u64) -> BackupSummary {
        let start = ID.parse::<crate::base::BackupId>().unwrap().start();
        let sample = BackupSummary::sample_of(Incarnation::dated(engine, start), ID, (Lsn(1 << 24), Lsn(1 << 24)));
        BackupSummary { entries, raw_bytes, ..sample }
    }

    /// A drill of `backup`, the restore of which is `make`; what is left afterwards.
    async fn drill(backup: &BackupSummary, policy: &DrillPolicy, make: impl Fn(&Path) -> PathBuf) -> (Drilled, usize) {
        let dir = tempfile::tempdir().unwrap();
        let (scratch, state) = (dir.path().join("scratch"), dir.path().join("state"));
        let source = "docs".parse().unwrap();
        let job = Job {
            source: &source,
            backup,
            log_bytes: 0,
            target_time: None,
            declared: Timestamp::now(),
            policy,
            scratch: &scratch,
            state_dir: &state,
            keep: false,
            progress: Arc::new(Silent),
            cancel: Cancel::new(),
        };
        let restore = async |into: &Path| {
            fs::create_dir(into).unwrap();
            Ok(Written { path: make(into), reaches: backup.stop_time, notes: Vec::new() })
        };
        let drilled = run(&job, Stopwatch::start(), restore).await.unwrap();
        let left = fs::read_dir(&scratch).unwrap().count() + fs::read_dir(state.join("drills")).map_or(0, Iterator::count);
        (drilled, left)
    }

    fn tree(into: &Path) -> PathBuf {
        fs::create_dir(into.join("a")).unwrap();
        fs::write(into.join("a/one"), b"12345").unwrap();
        fs::hard_link(into.join("a/one"), into.join("two")).unwrap();
        std::os::unix::fs::symlink("/nowhere", into.join("link")).unwrap();
        into.to_owned()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_tree_passes_only_when_everything_is_there() {
        let policy = DrillPolicy::default();
        let (drilled, left) = drill(&backup(Engine::Directory, 4, 5), &policy, tree).await;
        assert_eq!((drilled.outcome(), left), (DrillOutcome::Passed, 0), "{drilled:?}");
        assert!(drilled.rto_seconds.is_some() && drilled.checks[0].of_data);
        assert_eq!(
            drilled.phases.iter().map(|phase| phase.phase).collect::<Vec<_>>(),
            [PhaseKind::Fetch, PhaseKind::FirstCheck, PhaseKind::Checks]
        );
        for (entries, bytes) in [(5, 5), (3, 5), (4, 6)] {
            let (drilled, left) = drill(&backup(Engine::Directory, entries, bytes), &policy, tree).await;
            assert_eq!((drilled.outcome(), left, drilled.rto_seconds), (DrillOutcome::Failed, 0, None), "{drilled:?}");
        }
        let unread = BackupSummary { bad_pages: 1, ..backup(Engine::Directory, 5, 5) };
        assert_eq!(drill(&unread, &policy, tree).await.0.outcome(), DrillOutcome::Passed, "it could not be read back then");
        let more = BackupSummary { bad_pages: 1, ..backup(Engine::Directory, 6, 5) };
        assert_eq!(drill(&more, &policy, tree).await.0.outcome(), DrillOutcome::Failed);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_database_is_asked_what_the_policy_asks() {
        let text = "[objectives]\nrto = '1h'\nrpo = '1h'\n[[drill.check]]\nname = 'rows'\nsql = 'SELECT count(*) FROM t'\nat_least = 2\n";
        let policy = crate::policy::parse::parse("own", Path::new("own.toml"), text).unwrap().drill;
        let database = |rows: u32, damaged: bool| {
            move |into: &Path| {
                let path = into.join("app.db");
                let connection = rusqlite::Connection::open(&path).unwrap();
                connection.execute_batch("CREATE TABLE t (n); CREATE INDEX i ON t (n)").unwrap();
                (0..rows).for_each(|n| _ = connection.execute("INSERT INTO t VALUES (?1)", [n]).unwrap());
                drop(connection);
                if damaged {
                    let mut bytes = fs::read(&path).unwrap();
                    let end = bytes.len();
                    bytes[end - 4096..].fill(0xAA);
                    fs::write(&path, bytes).unwrap();
                }
                path
            }
        };
        let own = backup(Engine::Sqlite, 1, 12_288);
        let (drilled, left) = drill(&own, &policy, database(2, false)).await;
        assert_eq!((drilled.outcome(), left, drilled.checks.len()), (DrillOutcome::Passed, 0, 2), "{drilled:?}");
        assert_eq!(drill(&own, &policy, database(1, false)).await.0.outcome(), DrillOutcome::Failed);
        assert_eq!(drill(&own, &policy, database(2, true)).await.0.outcome(), DrillOutcome::Failed);
    }
}
