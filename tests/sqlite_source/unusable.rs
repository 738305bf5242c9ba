//! Files that cannot be backed up, restores that must be refused: clear words, and nothing left behind.

use std::fs;
use std::path::Path;

use rand::RngExt;

use lifeboat::base::{Error, ErrorKind};
use lifeboat::source::sqlite::{Restore, SegmentHeader, Watch, check, probe};

use super::program::Program;
use super::stage::{STILL, Stage, beside};
use super::{random, store};

fn refusal(path: &Path) -> Error {
    let told = probe(path).unwrap().refusal(path).expect("it is refused");
    let acted = Watch::new(path, STILL).snapshot().unwrap_err();
    assert_eq!(told.message(), acted.message());
    assert!(!told.hints().is_empty(), "{told:?}");
    told
}

#[test]
fn what_is_no_database_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file.db");
    let says = |content: Option<&[u8]>, expected: &str| {
        match content {
            Some(content) => fs::write(&path, content).unwrap(),
            None => drop(fs::remove_file(&path)),
        }
        let error = refusal(&path);
        assert!(error.message().contains(expected), "{error:?}");
    };
    let mut seeded = random::generator(random::seed("an encrypted database"), 1);
    let noise: Vec<u8> = (0..8192).map(|_| seeded.random()).collect();
    let mut half = noise.clone();
    half[16..24].copy_from_slice(&[16, 0, 1, 1, 32, 64, 32, 32]);
    says(None, "there is no such file");
    says(Some(b""), "nothing was ever committed");
    says(Some(b"SQLite format 3\0"), "cut off");
    says(Some(&b"PGDMP and other text, ".repeat(400)), "does not begin as a SQLite database");
    says(Some(&noise), "encrypted");
    says(Some(&half), "encrypted");
    let good = dir.path().join("good.db");
    Program::open(&good).run("CREATE TABLE t (n)");
    let good = fs::read(good).unwrap();
    for (at, value, expected) in [(16, 3, "page size"), (21, 0, "payload fractions"), (19, 9, "newer SQLite")] {
        let mut bad = good.clone();
        bad[at] = value;
        says(Some(&bad), expected);
    }
    let error = Watch::new(dir.path(), STILL).poll().unwrap_err();
    assert!(error.message().contains("it is no file"), "{error:?}");
}

#[test]
fn a_program_that_keeps_everybody_out_is_named() {
    let mut stage = Stage::new(STILL);
    let mut program = Program::open(&stage.path);
    program.run("PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; CREATE TABLE t (n INTEGER PRIMARY KEY, x)");
    let error = stage.watch.snapshot().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.hints()[0].contains("locking_mode"), "{error:?}");
    drop(program);
    stage.snapshot();
}

#[test]
fn a_transaction_that_was_cut_off_is_left_to_its_program() {
    let mut stage = Stage::new(STILL);
    let mut program = Program::open(&stage.path);
    program.run("CREATE TABLE t (n INTEGER PRIMARY KEY, x); INSERT INTO t VALUES (1, randomblob(90000))");
    // A small cache spills into the file before the commit; the program dies before it.
    program.run("PRAGMA cache_size = 2; BEGIN; UPDATE t SET x = randomblob(90000); INSERT INTO t VALUES (2, randomblob(90000))");
    drop(program);
    let before = fs::read(&stage.path).unwrap();
    let error = stage.watch.snapshot().unwrap_err();
    assert!(error.message().contains("rolled back first"), "{error:?}");
    assert!(fs::read(&stage.path).unwrap() == before && stage.beside("-journal").exists(), "nothing was touched");
    Program::open(&stage.path).run("SELECT count(*) FROM t");
    let moment = stage.snapshot();
    assert_eq!(stage.rows_at(&moment), 1);
}

#[test]
fn a_damaged_database_does_not_get_a_restored_ones_name() {
    let mut stage = Stage::new(STILL);
    let mut program = Program::with_table(&stage.path);
    program.run("CREATE INDEX i ON t (x)");
    (1..=50).for_each(|n| program.insert(n, 300));
    let snapshot = stage.watch.snapshot().unwrap();
    let header = SegmentHeader { from: None, to: snapshot.moment };
    let watch = &mut stage.watch;
    store::put(&stage.storage, &header, |writer| {
        watch.copy_snapshot(&snapshot, |page, bytes| {
            let zeros = vec![0; bytes.len()];
            writer.page(page, if page == 5 { &zeros } else { bytes }).unwrap();
            Ok(())
        })
    })
    .unwrap();
    let target = stage.dir.path().join("restored.db");
    let error = store::restore(&store::segments(&stage.storage), &snapshot.moment, &target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert!(error.message().contains("integrity_check"), "{error:?}");
    // Under its own name nobody takes it for whole.
    fs::remove_file(beside(&target, ".damaged")).unwrap();
    nothing_is_left(&stage);
}

#[test]
fn a_restore_refuses_gaps_and_what_is_in_its_way() {
    let mut stage = Stage::new(STILL);
    let mut program = Program::with_table(&stage.path);
    // Two snapshots of one position: what goes on from one of them does not go on from the other.
    let (other, snapshot) = (stage.snapshot(), stage.snapshot());
    assert_eq!(other.at, snapshot.at);
    (1..=3).for_each(|n| {
        program.insert(n, 100);
        stage.capture();
    });
    let segments = store::segments(&stage.storage);
    let open = |index: usize| std::io::BufReader::new(fs::File::open(&segments[index].0).unwrap());
    let target = stage.dir.path().join("restored.db");

    for wrong in [vec![2], vec![0, 2], vec![1, 2, 4], vec![1, 3], vec![1, 1], vec![1, 2, 2]] {
        let mut restore = Restore::begin(&target).unwrap();
        let (last, before) = wrong.split_last().unwrap();
        before.iter().for_each(|index| restore.apply(open(*index)).unwrap());
        let error = restore.apply(open(*last)).unwrap_err();
        assert!(error.message().contains("the log has a gap"), "{wrong:?}: {error:?}");
        assert!(restore.apply(open(2)).is_err() && restore.finish().is_err(), "after an error nothing goes on");
    }
    let mut restore = Restore::begin(&target).unwrap();
    let whole = fs::read(&segments[0].0).unwrap();
    assert_eq!(restore.apply(&whole[..whole.len() - 5]).unwrap_err().kind(), ErrorKind::Damaged);
    drop(restore);
    nothing_is_left(&stage);

    for name in ["restored.db", "restored.db-wal", "restored.db-journal"] {
        let path = stage.dir.path().join(name);
        fs::write(&path, b"in the way").unwrap();
        let Err(error) = Restore::begin(&target) else { panic!("{name} is in the way") };
        assert!(error.message().contains(name), "{error:?}");
        fs::remove_file(path).unwrap();
    }
    // A file that appears meanwhile is not replaced either.
    let mut restore = Restore::begin(&target).unwrap();
    restore.apply(open(0)).unwrap();
    fs::write(&target, b"mine").unwrap();
    restore.finish().unwrap_err();
    assert_eq!(fs::read(&target).unwrap(), b"mine");
    fs::remove_file(&target).unwrap();
    nothing_is_left(&stage);
}

#[test]
fn users_ask_a_restored_database_what_they_like_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("with space & 100%?#.db");
    Program::open(&path).run("CREATE TABLE t (n, x); INSERT INTO t VALUES (1, NULL), (2.5, x'00ff'), ('a', 'b')");
    let rows = check::query(&path, "SELECT * FROM t").unwrap();
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(rows, [vec![text("1"), None], vec![text("2.5"), text("00ff")], vec![text("a"), text("b")]]);
    assert_eq!(check::integrity(&path).unwrap(), check::Checked::default());
    assert!(check::query(&path, "DELETE FROM t").is_err());
    let error = check::query(&path, "SELECT missing FROM t").unwrap_err();
    assert!(error.summary().contains("no such column"), "{error:?}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing was written beside it");
}

fn nothing_is_left(stage: &Stage) {
    let names = fs::read_dir(stage.dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let left: Vec<String> = names.filter(|name| name.contains("restored")).collect();
    assert!(left.is_empty(), "{left:?}");
}
