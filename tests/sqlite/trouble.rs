//! Trouble around a database: two files under one name, damage in the repository, what SQLite cannot check, a repository that is
//! away, a disk that is full, writers that wait.

use std::fs;
use std::sync::{Arc, Mutex};

use lifeboat::base::BackupType;
use lifeboat::base::progress::Progress;
use lifeboat::source::sqlite::{Discontinuity, Options, Poll, Watch};
use rusqlite::Connection;

use crate::faults::Stage;
use crate::program::Program;
use crate::support::dirs::{self, Dir};
use crate::support::tmpfs::Tmpfs;
use crate::world::{SOURCE, World, give, insert, numbers, rows_in, time};

/// The keys of the log's segments, in order.
fn segment_keys(world: &World) -> Vec<String> {
    world.repository.names_below("app/log/").into_iter().filter(|key| key.contains("/00000001/")).collect()
}

fn backups(world: &World) -> usize {
    world.repository.names_below("app/commit/").len()
}

/// A database of which `rows` are stored, each by a segment of its own after the first backup, and nobody follows it.
fn stored_in_segments(world: &World, rows: u32) -> Connection {
    let program = world.program();
    let mut following = world.follow("100ms");
    following.until("the first backup", || backups(world) == 1);
    for n in 1..=rows {
        insert(&program, n);
        following.until("stored", || numbers(&world.segments()).len() == n as usize);
    }
    following.end().success();
    program
}

#[track_caller]
fn notes_contain(document: &serde_json::Value, words: &str) {
    let notes = document["notes"].as_array().unwrap();
    assert!(notes.iter().any(|note| note.as_str().unwrap().contains(words)), "{words}: {document}");
}

#[test]
fn a_copy_that_another_host_backs_up_is_not_mixed_with_the_database() {
    let world = World::new();
    let program = stored_in_segments(&world, 3);
    // Another host has a copy, on which it went its own way.
    let (twin, data) = (world.host.twin(), Dir::new());
    let (from, to) = (world.data.path().display().to_string(), data.path().display().to_string());
    twin.configure_text(&twin.configuration().replace(&from, &to));
    let copy = data.write("data.db", "");
    program.execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
    let other = Connection::open(&copy).unwrap();
    other.execute_batch("PRAGMA journal_mode = WAL").unwrap();
    (4..=60).for_each(|n| insert(&other, n));
    give(&copy);
    let strange = twin.json(&["backup", SOURCE])["backups"][0].clone();
    // What is stored last is a state of the copy; that it is of another file is said.
    let (document, path) = world.restore(&[]);
    assert_eq!((rows_in(&path), &document["backup"]), (60, &strange["id"]), "{document}");
    notes_contain(&document, "is of another database file than the log before it");
    // The database's own log goes on behind it: its pages are not written over those of the copy.
    let mut following = world.follow("100ms");
    insert(&program, 4);
    following.until("stored", || numbers(&world.segments()) == [1, 2, 3, 4]);
    following.end().success();
    let (document, path) = world.restore(&[]);
    assert_eq!(rows_in(&path), 4, "{document}");
    notes_contain(&document, "is of another database file than backup");
    assert_eq!(world.rows(&["--to", strange["captured_at"].as_str().unwrap()]), 60);
    assert_eq!(backups(&world), 2, "the log went on");
}

#[test]
fn a_segment_that_is_damaged_ends_the_way_and_is_told() {
    let world = World::new();
    let program = stored_in_segments(&world, 4);
    let keys = segment_keys(&world);
    let moments: Vec<_> = world.segments().iter().map(|name| name.last.known().unwrap()).collect();
    world.repository.flip(&keys[3]);
    for arguments in [vec![], vec!["--to".to_owned(), moments[3].rfc3339()]] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let (document, path) = world.restore(&arguments);
        assert_eq!((rows_in(&path), time(&document["captured_at"])), (3, moments[2]), "{document}");
        assert_eq!(time(&document["unknown_after"]), moments[2], "{document}");
        notes_contain(&document, "cannot be used, nor what goes on from it");
    }
    let into = world.restored.join("told.db").display().to_string();
    let told = world.rescue.ok(&["restore", SOURCE, "--into", &into]).stdout;
    assert!(told.contains(&format!("{} cannot be used", keys[3])), "{told}");
    // One in between is found when it is needed: what lies before it is the way out.
    world.repository.flip(&keys[1]);
    let before = format!("--to '{}' --into", moments[0].rfc3339());
    let refused = world.refused(&[]).refuses(22, &[&keys[1], &before]);
    assert!(refused.stderr.contains("shows other backups"), "{refused}");
    assert_eq!(world.rows(&["--to", &moments[0].rfc3339()]), 1);
    // A backup leads past both.
    insert(&program, 5);
    world.backup("auto");
    let (document, path) = world.restore(&[]);
    assert_eq!((rows_in(&path), &document["unknown_after"]), (5, &serde_json::Value::Null), "{document}");
}

#[test]
fn what_is_missing_amid_the_log_is_told_by_every_restore_behind_it() {
    let world = World::new();
    let program = stored_in_segments(&world, 4);
    let keys = segment_keys(&world);
    let moments: Vec<_> = world.segments().iter().map(|name| name.last.known().unwrap()).collect();
    world.repository.remove(&keys[1]);
    for arguments in [vec![], vec!["--to".to_owned(), moments[3].rfc3339()]] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let (document, path) = world.restore(&arguments);
        assert_eq!((rows_in(&path), time(&document["unknown_after"])), (1, moments[0]), "{document}");
        notes_contain(&document, "segment 000000010000000000000002 is missing");
        notes_contain(&document, &moments[3].to_string());
    }
    let (document, _) = world.restore(&["--to", &moments[0].rfc3339()]);
    assert_eq!(document["unknown_after"], serde_json::Value::Null, "{document}");
    insert(&program, 5);
    world.backup("auto");
    assert_eq!(world.rows(&[]), 5);
}

#[test]
fn a_repository_that_lost_the_newest_segments_is_not_followed_upon() {
    let world = World::new();
    let program = stored_in_segments(&world, 3);
    for key in &segment_keys(&world)[1..] {
        world.repository.remove(key);
    }
    let mut following = world.follow("100ms");
    following.until_said("its repositories lack what was stored of its log last");
    following.until("a backup", || backups(&world) == 2);
    insert(&program, 4);
    following.until("stored", || world.segments().len() == 2);
    following.end().success();
    assert_eq!(world.rows(&[]), 4);
    // One that lacks nothing is gone on with.
    let mut following = world.follow("100ms");
    insert(&program, 5);
    following.until("stored", || world.segments().len() == 3);
    following.end().success();
    assert_eq!((world.rows(&[]), backups(&world)), (5, 2));
}

#[test]
fn nothing_is_made_beside_a_database_of_another_user() {
    if dirs::server_user().is_none() {
        return println!("skipped: only root can own a database that lifeboat does not");
    }
    let world = World::new();
    let program = Connection::open(world.data.join("other.db")).unwrap();
    program.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (n INTEGER PRIMARY KEY, x)").unwrap();
    drop(program);
    fs::rename(world.data.join("other.db"), world.database()).unwrap();
    world.host.run(&["backup", SOURCE]).refuses(21, &["data.db-wal is not there", "run as the user who owns"]);
    for suffix in ["-wal", "-shm"] {
        assert!(!world.data.join(format!("data.db{suffix}")).exists(), "{suffix}");
    }
    assert_eq!(backups(&world), 0);
}

#[test]
fn what_only_its_own_program_has_is_restored_and_said_to_be_unchecked() {
    let indices = [("CREATE INDEX i ON t (x COLLATE NOCASE)", "NOCASE"), ("CREATE INDEX i ON t (abs(x))", "abs")];
    for (sql, what) in indices {
        let world = World::new();
        let program = world.program();
        (1..=20).for_each(|n| insert(&program, n));
        // As a program leaves it that brings a collation, or a function, of its own.
        let rename = format!("PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = replace(sql, '{what}', 'mine')");
        program.execute_batch(&format!("{sql}; {rename}; PRAGMA writable_schema = OFF")).unwrap();
        world.backup("full");
        let (document, path) = world.restore(&[]);
        notes_contain(&document, "not checked: ");
        notes_contain(&document, "mine");
        let restored = Connection::open(&path).unwrap();
        let rows: u32 = restored.query_row("SELECT count(*) FROM t NOT INDEXED", [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 20, "{what}");
        let into = world.restored.join("told.db").display().to_string();
        let told = world.rescue.ok(&["restore", SOURCE, "--into", &into]).stdout;
        assert!(told.contains("not checked: "), "{told}");
    }
}

#[test]
fn what_is_left_unstored_at_the_stop_is_no_success() {
    let world = World::new();
    let program = stored_in_segments(&world, 1);
    let mut following = world.follow("100ms");
    insert(&program, 2);
    following.until("stored", || world.segments().len() == 2);
    let absence = world.repository.take_away();
    insert(&program, 3);
    following.until_said(absence);
    let output = following.end();
    assert!(!matches!(output.code, None | Some(0)), "{output}");
    assert!(output.stderr.contains(absence), "{output}");
    // With nothing left to store there is nothing to fail.
    world.repository.bring_back();
    let mut following = world.follow("100ms");
    following.until("stored", || world.segments().len() == 3);
    following.end().success();
    assert_eq!((world.rows(&[]), backups(&world)), (3, 1));
}

#[test]
fn the_log_is_guarded_before_a_repository_answers() {
    let world = World::new();
    let program = stored_in_segments(&world, 1);
    let absence = world.repository.take_away();
    insert(&program, 2);
    let mut following = world.follow("100ms");
    following.until_said(absence);
    insert(&program, 3);
    // Another program would have the log begin anew: what is not stored stays in it.
    let foreign = world.connect();
    foreign.busy_timeout(std::time::Duration::from_millis(300)).unwrap();
    let busy: u32 = foreign.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).unwrap();
    assert_eq!(busy, 1, "the log is held");
    insert(&program, 4);
    world.repository.bring_back();
    // Known to be followed again when it is stored.
    following.until("all is stored", || {
        let stored = world.segments();
        stored.iter().filter_map(|name| name.commits).sum::<u32>() == 4
    });
    following.end().success();
    assert_eq!((world.rows(&[]), backups(&world)), (4, 1), "nothing was lost, nor another backup needed");
}

#[test]
fn a_log_that_would_fill_its_disk_is_let_go_while_a_backup_is_copied() {
    let dir = Dir::new();
    let Some(disk) = Tmpfs::mount(dir.path(), 32) else { return };
    let path = dir.path().join("data.db");
    let mut program = Program::with_table(&path);
    (1..=8).for_each(|n| program.insert(n, 500_000));
    program.run("PRAGMA wal_checkpoint(TRUNCATE)");
    let limits = Options { checkpoint_above_bytes: None, checkpoint_alone_above_bytes: None, let_go_above_bytes: Some(1 << 20) };
    let mut watch = Watch::new(&path, limits);
    let snapshot = watch.snapshot().unwrap();
    let mut n = 8;
    let copied = watch.copy_snapshot(&snapshot, |page, _| {
        if page % 100 == 0 {
            n += 1;
            program.insert(n, 500_000);
        }
        Ok(())
    });
    copied.expect("its disk has room for the log");
    assert!(n > 16, "{n}: the log is above the limit");
    // With as much as the log has, and less left, it is let go.
    disk.grow(12);
    let snapshot = watch.snapshot().unwrap();
    let error = watch.copy_snapshot(&snapshot, |_, _| Ok(())).unwrap_err();
    assert!(error.message().contains("its write-ahead log grew"), "{error:?}");
    assert!(watch.log_frames().unwrap().is_none(), "it is let go");
    disk.grow(32);
    assert_eq!(program.run("PRAGMA wal_checkpoint(TRUNCATE)"), "0");
    let snapshot = watch.snapshot().unwrap();
    watch.copy_snapshot(&snapshot, |_, _| Ok(())).unwrap();
}

#[test]
fn a_log_that_cannot_be_stored_is_let_go_before_its_disk_is_full() {
    let dir = Dir::new();
    let Some(_disk) = Tmpfs::mount(dir.path(), 200) else { return };
    let path = dir.path().join("data.db");
    let mut program = Program::with_table(&path);
    let mut watch = Watch::new(&path, Options { let_go_above_bytes: Some(1 << 30), ..Options::default() });
    let snapshot = watch.snapshot().unwrap();
    watch.copy_snapshot(&snapshot, |_, _| Ok(())).unwrap();
    watch.stored(&snapshot.moment);
    let mut n = 0;
    let mut poll_after = |mib: u32| {
        (0..mib).for_each(|_| {
            n += 1;
            program.insert(n, 1 << 20);
        });
        watch.poll().unwrap()
    };
    assert!(matches!(poll_after(66), Poll::Batch(_)));
    assert!(matches!(poll_after(8), Poll::Batch(_)), "its disk has room for it");
    assert!(matches!(poll_after(10), Poll::SnapshotNeeded(Discontinuity::LetGo)));
    assert_eq!(program.run("PRAGMA wal_checkpoint(TRUNCATE)"), "0", "it is let go");
}

/// Writes to the database when the first part of a backup is stored, and hears what the operator is told.
struct WriterMeanwhile {
    program: Mutex<Option<Program>>,
    written: Mutex<Option<Result<String, String>>>,
    told: Mutex<Vec<String>>,
}

impl Progress for WriterMeanwhile {
    fn phase(&self, _name: &str, _total_bytes: Option<u64>) {}

    fn advance(&self, _bytes: u64) {
        if let Some(mut program) = self.program.lock().unwrap().take() {
            *self.written.lock().unwrap() = Some(program.try_run("INSERT INTO t VALUES (1000, 'meanwhile')"));
        }
    }

    fn note(&self, _text: &str) {}

    fn warn(&self, text: &str) {
        self.told.lock().unwrap().push(text.to_owned());
    }
}

/// A full backup of a database with a rollback journal, into which a program writes while it is stored: what came of that, and
/// what the operator was told.
async fn written_while_stored(state_mib: Option<u32>) -> Option<(Result<String, String>, Vec<String>)> {
    let mut stage = Stage::new().await;
    stage.program.execute_batch("PRAGMA journal_mode = DELETE").unwrap();
    for _ in 0..40 {
        stage.insert();
    }
    stage.program.execute("UPDATE t SET x = randomblob(100000)", []).unwrap();
    fs::create_dir_all(stage.state()).unwrap();
    let _disk = match state_mib {
        Some(size_mib) => Some(Tmpfs::mount(&stage.state(), size_mib)?),
        None => None,
    };
    let mut program = Program::open(&stage.database());
    program.run("PRAGMA busy_timeout = 100");
    let progress =
        Arc::new(WriterMeanwhile { program: Mutex::new(Some(program)), written: Mutex::default(), told: Mutex::default() });
    stage.backup_told(stage.store.clone(), BackupType::Full, progress.clone()).await.unwrap();
    assert_eq!(stage.restored().await, Some(stage.rows));
    let (written, told) = (progress.written.lock().unwrap().take(), progress.told.lock().unwrap().clone());
    Some((written.expect("a part was stored"), told))
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_of_a_rollback_journal_wait_for_the_copying_and_not_for_the_repository() {
    let (written, told) = written_while_stored(None).await.unwrap();
    assert_eq!((written, told), (Ok(String::new()), Vec::new()));
    // Without room for a copy they wait for all of it; that is said before.
    let Some((written, told)) = written_while_stored(Some(3)).await else { return };
    assert!(written.as_ref().is_err_and(|why| why.contains("locked")), "{written:?}");
    assert!(told.iter().any(|text| text.contains("until all of it is stored")), "{told:?}");
}
