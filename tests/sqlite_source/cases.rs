//! Known cases, one by one: what is followed, and what must be answered with a fresh snapshot.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rand::RngExt;

use lifeboat::base::ErrorKind;
use lifeboat::source::sqlite::digests::PageComparison;
use lifeboat::source::sqlite::wal::{WalHeader, add_to_checksum};
use lifeboat::source::sqlite::{Discontinuity, Moment, Options, Poll, Probe, SegmentHeader, Watch};

use super::part::Part;
use super::program::Program;
use super::stage::{STILL, Stage, beside};
use super::{random, store};

#[test]
fn every_commit_is_followed_while_the_log_is_begun_again_and_again() {
    let mut stage = Stage::new(STILL);
    let mut program = Program::with_table(&stage.path);
    assert_eq!(stage.lost(), Discontinuity::NoSnapshot);
    let mut moments = vec![(0, stage.snapshot())];
    for n in 1..=24 {
        program.insert(n, 3000);
        moments.push((n, stage.capture()));
        assert!(matches!(stage.poll(), Poll::Unchanged { .. }));
        if n % 3 == 0 {
            let modes = ["PASSIVE", "RESTART", "TRUNCATE"];
            let checkpoint = format!("PRAGMA wal_checkpoint({})", modes[n as usize / 3 % 3]);
            // The first one fills the file; then the guard steps aside, and the second one finds nobody in its way.
            program.run(&checkpoint);
            stage.watch.maintain().unwrap();
            assert_eq!(program.run(&checkpoint), "0", "{checkpoint} has to wait");
            assert!(matches!(stage.poll(), Poll::Unchanged { .. }));
        }
    }
    assert!(stage.generations() >= 6, "{} generations", stage.generations());
    for (n, moment) in &moments {
        assert_eq!(stage.rows_at(moment), *n);
    }
}

#[test]
fn the_guard_keeps_what_is_not_stored_yet() {
    let mut stage = Stage::new(STILL);
    let mut program = Program::with_table(&stage.path);
    stage.snapshot();
    program.insert(1, 100);
    // Captured, but the store fails; programs checkpoint meanwhile as they like.
    assert!(matches!(stage.poll(), Poll::Batch(_)));
    for n in 2..6 {
        program.run("PRAGMA wal_checkpoint(TRUNCATE)");
        stage.watch.maintain().unwrap();
        program.run("PRAGMA wal_checkpoint(TRUNCATE)");
        program.insert(n, 100);
        stage.watch.maintain().unwrap();
    }
    let moment = stage.capture();
    assert_eq!(stage.rows_at(&moment), 5);
}

/// The guard moves on in two steps, and what is committed between them is not lost either.
#[test]
fn the_guard_does_not_run_ahead_of_what_is_stored() {
    let mut stage = Stage::new(STILL);
    let mut program = Program::with_table(&stage.path);
    stage.snapshot();
    program.insert(1, 100);
    let Poll::Batch(batch) = stage.poll() else { panic!("no batch") };
    store::put_batch(&stage.storage, &stage.watch, &batch).unwrap();
    stage.watch.stored(&batch.to);
    program.insert(2, 100);
    for _ in 0..3 {
        stage.watch.maintain().unwrap();
        assert_eq!(program.run("PRAGMA wal_checkpoint(TRUNCATE)"), "1", "what is not stored is kept");
    }
    program.insert(3, 100);
    let moment = stage.capture();
    assert_eq!(stage.rows_at(&moment), 3);
    assert!(matches!(stage.poll(), Poll::Unchanged { .. }));
    let steps_aside = (0..4).any(|_| {
        stage.watch.maintain().unwrap();
        program.run("PRAGMA wal_checkpoint(TRUNCATE)") == "0"
    });
    assert!(steps_aside, "and then it is in nobody's way");
}

/// SQLite has four marks for readers; a fifth one shares another's, which is older.
#[test]
fn a_guard_that_found_no_mark_of_its_own_is_not_in_the_way_for_ever() {
    let mut stage = Stage::new(STILL);
    let mut program = Program::with_table(&stage.path);
    program.insert(1, 100);
    stage.snapshot();
    let mut readers = Vec::new();
    for n in 2..=4 {
        program.insert(n, 100);
        let mut reader = Program::open(&stage.path);
        reader.run("BEGIN; SELECT count(*) FROM t");
        readers.push(reader);
    }
    program.insert(5, 100);
    stage.capture();
    readers.iter_mut().for_each(|reader| drop(reader.run("COMMIT")));
    let deadline = Instant::now() + Duration::from_secs(20);
    while program.run("PRAGMA wal_checkpoint(TRUNCATE)") != "0" {
        stage.watch.maintain().unwrap();
        assert!(Instant::now() < deadline, "the guard is in the way");
    }
    program.insert(6, 100);
    let moment = stage.capture();
    assert_eq!(stage.rows_at(&moment), 6);
}

/// By SQLite's own count of transactions, should its locks ever fail.
#[test]
fn commits_that_slip_past_a_lost_lock_are_missed() {
    let mut stage = Stage::new(STILL);
    let mut program = Program::with_table(&stage.path);
    stage.snapshot();
    program.insert(1, 100);
    stage.capture();
    // POSIX drops a process's locks on a file when it closes any descriptor of it.
    drop((fs::File::open(&stage.path).unwrap(), fs::File::open(stage.beside("-shm")).unwrap()));
    program.insert(2, 100);
    assert_eq!(program.run("PRAGMA wal_checkpoint(TRUNCATE)"), "0", "nothing is in its way any more");
    program.insert(3, 100);
    assert_eq!(stage.lost(), Discontinuity::Missed);
    let moment = stage.snapshot();
    assert_eq!(stage.rows_at(&moment), 3);
}

#[test]
fn a_snapshot_that_was_written_into_is_not_one() {
    for is_in_log in [false, true] {
        let mut stage = Stage::new(STILL);
        let mut program = Program::with_table(&stage.path);
        (1..=20).for_each(|n| program.insert(n, 3000));
        if !is_in_log {
            program.run("PRAGMA wal_checkpoint(TRUNCATE)");
        }
        let snapshot = stage.watch.snapshot().unwrap();
        let (path, index) = (stage.path.clone(), stage.beside("-shm"));
        let result = stage.watch.copy_snapshot(&snapshot, |page, _| {
            if page == 3 {
                drop((fs::File::open(&path).unwrap(), fs::File::open(&index).unwrap()));
                program.run("UPDATE t SET x = randomblob(3000); PRAGMA wal_checkpoint(PASSIVE)");
            }
            Ok(())
        });
        let error = result.unwrap_err();
        assert!(error.message().contains("heeds no locks"), "{error:?}");
        assert_eq!(stage.lost(), Discontinuity::ForeignWrite);
        let moment = stage.snapshot();
        assert_eq!(stage.rows_at(&moment), 20);
    }
}

/// A writer that dies between writing its commit and counting it leaves frames that the next one overwrites.
#[test]
fn frames_that_are_not_counted_as_committed_are_not_captured() {
    let mut stage = Stage::new(STILL);
    let mut program = Program::with_table(&stage.path);
    stage.snapshot();
    program.insert(1, 100);
    let moment = stage.capture();
    let log = fs::OpenOptions::new().read(true).write(true).open(stage.beside("-wal")).unwrap();
    let header = WalHeader::read(&log, moment.at.salts).unwrap();
    let mut frame = [7_u32.to_be_bytes(), 7_u32.to_be_bytes()].concat();
    let page = vec![0xEE; header.page_size as usize];
    let sum = add_to_checksum(header.is_big_endian, moment.at.checksum, &frame);
    let sum = add_to_checksum(header.is_big_endian, sum, &page);
    frame.extend(moment.at.salts.0.to_be_bytes());
    frame.extend(sum.iter().flat_map(|word| word.to_be_bytes()));
    frame.extend(page);
    log.write_all_at(&frame, 32 + u64::from(moment.at.frame) * frame.len() as u64).unwrap();
    assert!(matches!(stage.poll(), Poll::Unchanged { .. }), "a frame that nobody counted");
    program.insert(2, 100);
    let moment = stage.capture();
    assert_eq!(stage.rows_at(&moment), 2);
}

#[test]
fn a_new_process_goes_on_within_a_generation_and_with_a_snapshot_after_it() {
    let mut stage = Stage::new(STILL);
    let mut program = Program::with_table(&stage.path);
    stage.snapshot();
    program.insert(1, 100);
    stage.capture();
    stage.restart_watch(STILL);
    program.insert(2, 100);
    let moment = stage.capture();
    assert_eq!(stage.rows_at(&moment), 2, "within a generation");

    stage.watch = Watch::new(&stage.path, STILL);
    program.insert(3, 100);
    assert_eq!(program.run("PRAGMA wal_checkpoint(TRUNCATE)"), "0", "nobody watches");
    program.insert(4, 100);
    stage.restart_watch(STILL);
    assert_eq!(stage.lost(), Discontinuity::Restarted);
    let moment = stage.snapshot();
    assert_eq!(stage.rows_at(&moment), 4);
    program.insert(5, 100);
    let later = stage.capture();
    assert_eq!(stage.rows_at(&later), 5);
    assert!(later.captured_at > moment.captured_at);
}

#[test]
fn a_log_that_lost_its_tail_is_noticed_also_when_it_has_grown_again() {
    for grows in [false, true] {
        let mut stage = Stage::new(STILL);
        let mut program = Program::with_table(&stage.path);
        stage.snapshot();
        program.insert(1, 100);
        let kept = fs::metadata(stage.beside("-wal")).unwrap().len();
        program.insert(2, 100);
        let moment = stage.capture();
        // As after a power cut: the last commits never reached the disk.
        stage.watch = Watch::new(&stage.path, STILL);
        drop(program);
        fs::OpenOptions::new().write(true).open(stage.beside("-wal")).unwrap().set_len(kept).unwrap();
        fs::remove_file(stage.beside("-shm")).unwrap();
        let mut program = Program::open(&stage.path);
        program.run("PRAGMA wal_autocheckpoint = 0");
        assert_eq!(program.run("SELECT count(*) FROM t"), "1");
        if grows {
            (2..6).for_each(|n| program.insert(n, 100));
        }
        stage.restart_watch(STILL);
        assert_eq!(stage.lost(), if grows { Discontinuity::Diverged } else { Discontinuity::Rewound });
        let fresh = stage.snapshot();
        assert_eq!((stage.rows_at(&moment), stage.rows_at(&fresh)), (2, if grows { 5 } else { 1 }));
    }
}

/// The judge is SQLite's own recovery, in another process.
#[test]
fn of_a_damaged_log_as_much_is_captured_as_sqlite_itself_recovers() {
    let stage = Stage::new(STILL);
    let mut program = Program::with_table(&stage.path);
    (1..=30).for_each(|n| program.insert(n, 700));
    drop(program);
    let (file, log) = (fs::read(&stage.path).unwrap(), fs::read(stage.beside("-wal")).unwrap());
    let mut random = random::generator(random::seed("a damaged log"), 1);
    let mut counts = BTreeSet::new();
    for _ in 0..25 {
        let mut stage = Stage::new(STILL);
        let mut bad = log.clone();
        let at = random.random_range(32..bad.len());
        match random.random_bool(0.5) {
            true => bad[at] ^= 1 << random.random_range(0..8),
            false => bad.truncate(at),
        }
        fs::write(&stage.path, &file).unwrap();
        fs::write(stage.beside("-wal"), &bad).unwrap();
        let mut program = Program::open(&stage.path);
        let count: Result<u32, String> = program.try_run("SELECT count(*) FROM t").map(|count| count.parse().unwrap());
        let moment = stage.snapshot();
        let captured = stage.query_at(&moment, "SELECT count(*) FROM sqlite_schema");
        match &count {
            Ok(count) => assert_eq!(stage.rows_at(&moment), *count),
            Err(error) => assert!(error.contains("no such table") && captured == "0", "{error}"),
        }
        counts.insert(count.ok());
    }
    assert!(counts.len() > 5, "{counts:?}");
}

#[test]
fn what_is_written_over_the_file_in_place_is_noticed() {
    let mut stage = Stage::new(STILL);
    let mut program = Program::with_table(&stage.path);
    program.insert(1, 100);
    stage.snapshot();
    assert!(matches!(stage.poll(), Poll::Unchanged { .. }));
    let file = fs::OpenOptions::new().read(true).write(true).open(&stage.path).unwrap();
    let later = std::time::SystemTime::now() + Duration::from_secs(2);
    file.write_all_at(b"x", 90).unwrap();
    file.set_modified(later).unwrap();
    // This process must not close another descriptor of a watched file.
    std::mem::forget(file);
    assert_eq!(stage.lost(), Discontinuity::ForeignWrite);
}

#[test]
fn a_writer_that_never_stops_does_not_make_the_log_grow_for_ever() {
    let limits =
        Options { checkpoint_above_bytes: Some(100_000), checkpoint_alone_above_bytes: Some(400_000), let_go_above_bytes: None };
    let mut stage = Stage::new(limits);
    drop(Program::with_table(&stage.path));
    let settings = ["SQLITE_SEED", "SQLITE_EPOCH", "SQLITE_STREAM", "SQLITE_PAUSE_MICROS", "SQLITE_AUTO_VACUUM"];
    let mut settings: Vec<(&str, String)> = settings.map(|name| (name, "0".to_owned())).to_vec();
    settings.push(("SQLITE_PAGE_SIZE", "4096".to_owned()));
    let mut program = Program::open(&stage.path);
    program.run("CREATE TABLE meta (epoch); CREATE TABLE ledger (n INTEGER PRIMARY KEY); CREATE TABLE kv (k INTEGER PRIMARY KEY, v); INSERT INTO meta VALUES (0)");
    stage.snapshot();
    let writer = Part::start("writer", stage.dir.path(), &settings);
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut last = None;
    while stage.generations() < 5 {
        assert!(Instant::now() < deadline, "{} generations; {last:?}", stage.generations());
        match stage.poll() {
            Poll::Batch(batch) => {
                store::put_batch(&stage.storage, &stage.watch, &batch).unwrap();
                stage.watch.stored(&batch.to);
                last = Some(batch.to);
            }
            Poll::Unchanged { .. } => {}
            other => panic!("{other:?}"),
        }
        stage.watch.maintain().unwrap();
    }
    drop(writer);
    assert_eq!(stage.query_at(&last.unwrap(), "SELECT count(*) = max(n) FROM ledger"), "1");
}

#[test]
fn a_log_that_cannot_be_stored_is_let_go_before_it_fills_the_disk() {
    let limits = Options { let_go_above_bytes: Some(100_000), ..STILL };
    let mut stage = Stage::new(limits);
    let mut program = Program::with_table(&stage.path);
    stage.snapshot();
    program.insert(1, 200_000);
    assert!(matches!(stage.poll(), Poll::Batch(_)), "a large transaction is not let go at once");
    assert_eq!(stage.lost(), Discontinuity::LetGo);
    assert_eq!(stage.lost(), Discontinuity::LetGo);
    assert_eq!(program.run("PRAGMA wal_checkpoint(TRUNCATE)"), "0", "it is let go");
    let moment = stage.snapshot();
    assert_eq!(stage.rows_at(&moment), 1);
}

#[test]
fn vacuum_and_shrinking_are_followed() {
    let mut stage = Stage::new(STILL);
    let mut program = Program::with_table(&stage.path);
    (1..=40).for_each(|n| program.insert(n, 5000));
    let before = stage.snapshot();
    program.run("DELETE FROM t WHERE n > 3; VACUUM");
    let after = stage.capture();
    assert!(after.at.pages < before.at.pages / 4, "{} of {} pages", after.at.pages, before.at.pages);
    (4..=20).for_each(|n| program.insert(n, 5000));
    let grown = stage.capture();
    assert_eq!([&before, &after, &grown].map(|moment| stage.rows_at(moment)), [40, 3, 20]);
}

#[test]
fn a_rollback_journal_allows_snapshots_and_nothing_else() {
    let mut stage = Stage::new(STILL);
    let mut program = Program::open(&stage.path);
    program.run("PRAGMA page_size = 1024; CREATE TABLE t (n INTEGER PRIMARY KEY, x)");
    program.insert(1, 5000);
    let Poll::SnapshotOnly { change_counter } = stage.poll() else { panic!("{:?}", stage.poll()) };
    let snapshot = stage.watch.snapshot().unwrap();
    assert!(!snapshot.continues);
    assert!(program.try_run("INSERT INTO t VALUES (2, 'x')").unwrap_err().contains("locked"), "commits wait");
    store::put_snapshot(&stage.storage, &mut stage.watch, &snapshot).unwrap();
    stage.watch.stored(&snapshot.moment);
    program.insert(2, 10);
    assert_eq!(stage.rows_at(&snapshot.moment), 1);
    assert!(matches!(stage.poll(), Poll::SnapshotOnly { change_counter: now } if now != change_counter));
    program.run("PRAGMA journal_mode = WAL");
    assert_eq!(stage.lost(), Discontinuity::OtherMode);
    stage.snapshot();
    program.insert(3, 10);
    let moment = stage.capture();
    assert_eq!(stage.rows_at(&moment), 3);
}

/// Another database beside that of `stage`, with three rows and nothing in a log.
fn another(stage: &Stage) -> PathBuf {
    let path = stage.dir.path().join("other.db");
    let mut program = Program::with_table(&path);
    (1..=3).for_each(|n| program.insert(n, 10));
    program.run("PRAGMA wal_checkpoint(TRUNCATE)");
    drop(program);
    ["-wal", "-shm"].iter().for_each(|suffix| fs::remove_file(beside(&path, suffix)).unwrap());
    path
}

#[test]
fn a_database_may_come_go_and_come_back_as_another() {
    let mut stage = Stage::new(STILL);
    assert!(matches!(stage.poll(), Poll::Unready(Probe::Missing)));
    fs::write(&stage.path, b"").unwrap();
    assert!(matches!(stage.poll(), Poll::Unready(Probe::Empty)));
    let mut program = Program::with_table(&stage.path);
    assert_eq!(stage.lost(), Discontinuity::NoSnapshot);
    stage.snapshot();
    program.insert(1, 10);
    let first = stage.capture();
    drop(program);
    ["", "-wal", "-shm"].iter().for_each(|suffix| fs::remove_file(stage.beside(suffix)).unwrap());
    assert!(matches!(stage.poll(), Poll::Unready(Probe::Missing)));
    fs::rename(another(&stage), &stage.path).unwrap();
    assert_eq!(stage.lost(), Discontinuity::Replaced);
    let second = stage.snapshot();
    assert_eq!((stage.rows_at(&first), stage.rows_at(&second)), (1, 3));
}

/// SQLite ties a log to a database by name alone.
#[test]
fn a_file_beside_the_log_of_another_is_not_touched() {
    let mut stage = Stage::new(STILL);
    let mut program = Program::with_table(&stage.path);
    stage.snapshot();
    program.insert(1, 10);
    let first = stage.capture();
    drop(program);
    let other = another(&stage);
    let content = fs::read(&other).unwrap();
    fs::rename(&other, &stage.path).unwrap();
    for _ in 0..2 {
        assert!(matches!(stage.poll(), Poll::Unready(Probe::StrangeLog)));
        assert!(stage.watch.snapshot().unwrap_err().message().contains("whose log lies beside it"));
        stage.watch.maintain().unwrap();
    }
    assert_eq!(fs::read(&stage.path).unwrap(), content, "nothing was written into it");
    ["-wal", "-shm"].iter().for_each(|suffix| fs::remove_file(stage.beside(suffix)).unwrap());
    assert_eq!(stage.lost(), Discontinuity::Replaced);
    let second = stage.snapshot();
    assert_eq!((stage.rows_at(&first), stage.rows_at(&second)), (1, 3));
}

#[test]
fn a_link_that_points_elsewhere_now_is_another_database() {
    let mut stage = Stage::new(STILL);
    let names = ["a.db", "b.db"].map(|name| stage.dir.path().join(name));
    let mut programs = names.each_ref().map(|name| Program::with_table(name));
    programs[1].insert(1, 10);
    std::os::unix::fs::symlink(&names[0], &stage.path).unwrap();
    assert_eq!(stage.snapshot().at.pages, 2);
    let link = stage.dir.path().join("link");
    std::os::unix::fs::symlink(&names[1], &link).unwrap();
    fs::rename(&link, &stage.path).unwrap();
    assert_eq!(stage.lost(), Discontinuity::Replaced);
    let moment = stage.snapshot();
    assert_eq!(stage.rows_at(&moment), 1);
}

#[test]
fn many_databases_are_watched_by_one_process_each_of_them_once() {
    let mut stages: Vec<Stage> = (0..12).map(|_| Stage::new(STILL)).collect();
    let mut programs: Vec<Program> = stages.iter().map(|stage| Program::with_table(&stage.path)).collect();
    for stage in &mut stages {
        stage.snapshot();
    }
    let mut moments: Vec<Vec<Moment>> = vec![Vec::new(); stages.len()];
    for n in 1..=4 {
        programs.iter_mut().for_each(|program| program.insert(n, 2000));
        for (stage, moments) in stages.iter_mut().zip(&mut moments) {
            moments.push(stage.capture());
        }
    }
    for (stage, moments) in stages.iter().zip(&moments) {
        let rows: Vec<u32> = moments.iter().map(|moment| stage.rows_at(moment)).collect();
        assert_eq!(rows, [1, 2, 3, 4]);
    }
    let error = Watch::new(&stages[0].path, STILL).snapshot().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.message().contains("watches it already"), "{error:?}");
}

#[test]
fn pages_that_did_not_change_need_not_be_stored_again() {
    let mut stage = Stage::new(STILL);
    let mut program = Program::with_table(&stage.path);
    (1..=100).for_each(|n| program.insert(n, 4000));
    let mut digests: Option<Vec<u8>> = None;
    let mut from = None;
    let mut stored = Vec::new();
    for round in 0..3 {
        let snapshot = stage.watch.snapshot().unwrap();
        let mut comparison = PageComparison::new(digests.as_deref(), Vec::new());
        let (watch, mut count) = (&mut stage.watch, 0);
        store::put(&stage.storage, &SegmentHeader { from, to: snapshot.moment }, |writer| {
            watch.copy_snapshot(&snapshot, |page, bytes| {
                if comparison.is_changed(bytes).unwrap() {
                    writer.page(page, bytes).unwrap();
                    count += 1;
                }
                Ok(())
            })
        })
        .unwrap();
        let new = comparison.finish().unwrap();
        digests = Some(new);
        from = Some(snapshot.moment);
        stored.push((count, snapshot.moment));
        program.run("UPDATE t SET x = randomblob(4000) WHERE n = 50; DELETE FROM t WHERE n > 90");
        if round == 1 {
            program.run("VACUUM");
        }
    }
    let (full, incr) = (stored[0].0, stored[1].0);
    assert!(full > 100 && incr < 20, "{full} pages, then {incr}");
    let rows: Vec<u32> = stored.iter().map(|(_, moment)| stage.rows_at(moment)).collect();
    assert_eq!(rows, [100, 90, 90]);
}

#[test]
fn nothing_of_the_databases_own_is_written_or_removed() {
    let mut stage = Stage::new(STILL);
    let mut program = Program::with_table(&stage.path);
    program.insert(1, 100);
    program.run("PRAGMA wal_checkpoint(TRUNCATE)");
    let before = fs::read(&stage.path).unwrap();
    stage.snapshot();
    program.insert(2, 100);
    let log = fs::read(stage.beside("-wal")).unwrap();
    stage.capture();
    drop(program);
    // The last connection of all closes: the log stays, and nothing is checkpointed.
    stage.watch = Watch::new(&stage.path, STILL);
    assert_eq!((fs::read(&stage.path).unwrap(), fs::read(stage.beside("-wal")).unwrap()), (before, log));
    let mut names: Vec<_> = fs::read_dir(stage.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["data.db", "data.db-shm", "data.db-wal", "store"]);
}
