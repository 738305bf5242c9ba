//! Whether a SQLite database holds commits beyond what was stored of it, by its own log.
//!
//! Looked at as any reader of the database would, and never written to: what SQLite would have to make first, the log and
//! its index, must be there already. What was stored last is what this host remembers; another one cannot tell.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::base::{FileStamp, Result, Timestamp};
use crate::source::sqlite::connection::beside;
use crate::source::sqlite::header::Header;
use crate::source::sqlite::position::{FileId, Salts};
use crate::source::sqlite::{Moment, Options, Poll, Position, Probe, Watch, probe};

use super::super::rpo::Exposure;

/// What was found beyond the moment that was stored last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// That moment; none where this host does not remember one.
    stored: Option<Moment>,
    found: Found,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    /// Nothing was committed since.
    Nothing,
    /// Something was, by then.
    Commits { count: u32, by: Timestamp },
    /// Nobody can tell: why.
    Unknown(String),
}

impl Seen {
    /// What the database at `path` tells; `stored` is what was stored of it last. No longer than `patience`.
    pub async fn look(path: &Path, stored: Option<Moment>, patience: Duration) -> Self {
        let Some(moment) = stored else {
            let why = "this host does not remember what was stored last".to_owned();
            return Self { stored, found: Found::Unknown(why) };
        };
        let path = path.to_owned();
        let looking = tokio::task::spawn_blocking(move || look(&path, moment).map_err(|error| error.summary()));
        let found = match tokio::time::timeout(patience, looking).await {
            Ok(Ok(found)) => found.unwrap_or_else(Found::Unknown),
            Ok(Err(_)) => Found::Unknown("reading its log was broken off".to_owned()),
            Err(_) => Found::Unknown("its log does not answer".to_owned()),
        };
        Self { stored, found }
    }

    /// What would be lost with the host where everything is stored that was committed by `frontier`.
    pub fn exposure(&self, frontier: Timestamp) -> Exposure {
        let bound = |frontier, why: String, lost| Exposure::AtMostSince { frontier, why, lost };
        match (&self.found, &self.stored) {
            // What is remembered was committed by then, and this repository has not got it.
            (_, Some(stored)) if stored.captured_at > frontier => {
                bound(frontier, "what was stored last has not arrived there".to_owned(), None)
            }
            (Found::Nothing, _) => Exposure::Nothing,
            (Found::Commits { count, by }, Some(stored)) if stored.captured_at == frontier => {
                let why = if *count == 1 { "a transaction waits".to_owned() } else { format!("{count} transactions wait") };
                bound(stored.complete_at, format!("{why} to be stored"), Some(*by))
            }
            (Found::Commits { .. }, _) => bound(frontier, "a backup holds more than the log that was stored".to_owned(), None),
            (Found::Unknown(why), _) => bound(frontier, why.clone(), None),
        }
    }
}

/// The one look: it begins no checkpoint, and makes no file.
fn look(path: &Path, stored: Moment) -> Result<Found> {
    Ok(match probe(path)? {
        Probe::Wal(_) if !["-wal", "-shm"].iter().all(|suffix| beside(path, suffix).exists()) => {
            Found::Unknown("no program has it open, and its log is gone".to_owned())
        }
        Probe::Wal(_) => look_into_log(path, stored)?,
        Probe::Rollback(header) if is_still(path, &header, &stored.at) => Found::Nothing,
        Probe::Rollback(_) => {
            Found::Unknown("it keeps a rollback journal, which does not tell when something was committed".to_owned())
        }
        unusable => refused(&unusable, path),
    })
}

fn look_into_log(path: &Path, stored: Moment) -> Result<Found> {
    let never = Options { checkpoint_above_bytes: None, checkpoint_alone_above_bytes: None, let_go_above_bytes: None };
    let mut watch = Watch::new(path, never);
    watch.resume(stored);
    Ok(match watch.poll()? {
        Poll::Unchanged { .. } => Found::Nothing,
        Poll::Batch(batch) => Found::Commits { count: batch.commits, by: Timestamp::now() },
        Poll::SnapshotNeeded(why) => Found::Unknown(why.to_string()),
        Poll::SnapshotOnly { .. } => refused(&Probe::Changing, path),
        Poll::Unready(probe) => refused(&probe, path),
    })
}

/// Whether a database with a rollback journal is the file of which `at` was stored, with as many transactions.
fn is_still(path: &Path, header: &Header, at: &Position) -> bool {
    let file = fs::metadata(path).map(|metadata| FileId::from(&FileStamp::of(&metadata)));
    let is_of_journal = at.salts == Salts(0) && at.frame == 0;
    is_of_journal && file.is_ok_and(|file| file == at.file) && header.change_counter == at.change_counter
}

fn refused(probe: &Probe, path: &Path) -> Found {
    let refusal = probe.refusal(path).map(|error| error.summary());
    Found::Unknown(refusal.unwrap_or_else(|| "it cannot be read now".to_owned()))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use rusqlite::Connection;

    use super::*;

    fn database(mode: &str) -> (tempfile::TempDir, PathBuf, Connection) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let program = Connection::open(&path).unwrap();
        program.query_row(&format!("PRAGMA journal_mode = {mode}"), [], |row| row.get::<_, String>(0)).unwrap();
        program.execute_batch("CREATE TABLE t (n); INSERT INTO t VALUES (1)").unwrap();
        (dir, path, program)
    }

    /// A snapshot, taken for stored.
    fn stored(path: &Path) -> Moment {
        let mut watch = Watch::new(path, Options::default());
        let snapshot = watch.snapshot().unwrap();
        watch.copy_snapshot(&snapshot, |_, _| Ok(())).unwrap();
        snapshot.moment
    }

    fn exposure(path: &Path, moment: Moment, frontier: Timestamp) -> Exposure {
        Seen { stored: Some(moment), found: look(path, moment).unwrap() }.exposure(frontier)
    }

    fn files(dir: &Path) -> Vec<(std::ffi::OsString, Vec<u8>)> {
        let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
        // The index holds the marks of readers, which come and go.
        let entries = entries.filter(|entry| !entry.file_name().to_string_lossy().ends_with("-shm"));
        let mut files: Vec<_> = entries.map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap())).collect();
        files.sort();
        files
    }

    #[test]
    fn an_idle_database_loses_nothing_and_a_commit_that_is_not_stored_is_lost_for_certain() {
        for mode in ["wal", "delete"] {
            let (dir, path, program) = database(mode);
            let moment = stored(&path);
            let before = files(dir.path());
            assert_eq!(exposure(&path, moment, moment.captured_at), Exposure::Nothing, "{mode}");
            assert_eq!(files(dir.path()), before, "a look changes nothing");
            let earlier = moment.captured_at.minus(Duration::from_secs(60));
            let lacking = exposure(&path, moment, earlier);
            assert!(matches!(lacking, Exposure::AtMostSince { frontier, lost: None, .. } if frontier == earlier), "{lacking:?}");

            program.execute_batch("INSERT INTO t VALUES (2)").unwrap();
            let lost = exposure(&path, moment, moment.captured_at);
            match (mode, &lost) {
                ("wal", Exposure::AtMostSince { frontier, why, lost: Some(_) }) => {
                    assert_eq!((*frontier, why.as_str()), (moment.complete_at, "a transaction waits to be stored"));
                }
                (_, Exposure::AtMostSince { frontier, lost: None, .. }) => assert_eq!(*frontier, moment.captured_at),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn what_is_closed_replaced_or_gone_is_not_taken_for_idle() {
        let (dir, path, program) = database("wal");
        let moment = stored(&path);
        drop(program);
        let before = files(dir.path());
        let unknown = exposure(&path, moment, moment.captured_at);
        assert!(
            matches!(&unknown, Exposure::AtMostSince { why, lost: None, .. } if why.contains("its log is gone")),
            "{unknown:?}"
        );
        assert_eq!(files(dir.path()), before, "neither log nor index is made");
        fs::remove_file(&path).unwrap();
        let gone = exposure(&path, moment, moment.captured_at);
        assert!(matches!(&gone, Exposure::AtMostSince { why, .. } if why.contains("there is no such file")), "{gone:?}");

        let (_dir, path, _program) = database("delete");
        let moment = stored(&path);
        let (_other_dir, other, _other) = database("delete");
        fs::rename(other, &path).unwrap();
        let replaced = exposure(&path, moment, moment.captured_at);
        assert!(matches!(replaced, Exposure::AtMostSince { .. }), "as many transactions, and another file: {replaced:?}");
    }
}
