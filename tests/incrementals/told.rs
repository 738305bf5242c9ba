//! Incrementals that read what the log told: how little that is, that they restore to the same bytes, and that no hole, no
//! damage and no lie goes unnoticed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::stage;
use crate::support::listing;
use crate::support::postgres::{Installation, Options, RECOVERY_TIMEOUT, Stop};
use crate::support::process::{self, Output};
use crate::support::scenario::{SOURCE, Scenario};

fn number(report: &Value, key: &str) -> u64 {
    report[key].as_u64().unwrap_or_else(|| panic!("no {key} in {report:#}"))
}

/// An incr whose changed pages the log told.
#[track_caller]
fn told(scenario: &Scenario) -> Value {
    let report = stage::exactly(scenario, "incr");
    assert_eq!(report["detection"]["changed_pages"], "log", "{report:#}");
    report
}

/// An incr that reads the data; why.
#[track_caller]
fn read(scenario: &Scenario) -> (Value, String) {
    let report = stage::exactly(scenario, "incr");
    assert_eq!(report["detection"]["changed_pages"], "read", "{report:#}");
    let reason = report["detection"]["reason"].as_str().unwrap_or_default().to_owned();
    (report, reason)
}

#[track_caller]
fn assert_restores(scenario: &Scenario, report: &Value, name: &str) {
    let expected = stage::relation_files(&scenario.cluster.data);
    let restored = stage::restore(scenario, report["id"].as_str().expect("an id"), name);
    stage::assert_same(&restored, &expected);
}

/// Waits until everything in the data directory was written so long ago that its times can be trusted.
fn let_settle(scenario: &Scenario) {
    scenario.cluster.sql().execute("CHECKPOINT");
    process::wait_until("no file is fresh", Duration::from_secs(60), || {
        let files = ["base", "global"].map(|part| listing::files(&scenario.cluster.data.join(part))).concat();
        let is_old = |path: &PathBuf| {
            let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
            modified.is_ok_and(|modified| modified + Duration::from_millis(2200) < SystemTime::now())
        };
        files.iter().all(is_old)
    });
}

#[test]
fn an_incr_reads_about_what_changed() {
    let Some(installation) = Installation::require(15) else { return };
    let scenario = Scenario::start(&installation, &Options::default().with("autovacuum = off"));
    let mut sql = scenario.cluster.sql();
    sql.execute(
        "CREATE TABLE wide WITH (fillfactor = 80) AS SELECT n, 0 AS moves, repeat('x', 900) FROM generate_series(1, 64000) AS n",
    );
    sql.execute("VACUUM (ANALYZE, FREEZE)");
    let_settle(&scenario);
    scenario.full_backup();
    let nothing = told(&scenario);
    let pages = sql.number("SELECT pg_relation_size('wide') / 8192");
    sql.execute("UPDATE wide SET moves = 1 WHERE (ctid::text::point)[0]::bigint % 100 = 7 AND (ctid::text::point)[1] = 1");
    let scattered = told(&scenario);
    let share = |report: &Value| number(report, "read_bytes") as f64 / number(report, "raw_bytes") as f64;
    println!(
        "of {} bytes: nothing changed {:.4} %, one of 100 pages of {pages} {:.4} %",
        number(&scattered, "raw_bytes"),
        share(&nothing) * 100.0,
        share(&scattered) * 100.0
    );
    assert!(share(&nothing) < 0.01, "{nothing:#}");
    assert!(number(&scattered, "read_bytes") >= pages as u64 / 101 * 8192, "{scattered:#}");
    assert!(share(&scattered) < 0.02, "{scattered:#}");
    assert_restores(&scenario, &scattered, "scattered");
}

#[test]
fn whatever_becomes_of_relations_restores_to_the_same_bytes() {
    let Some(mut scenario) = stage::start(&Options::default()) else { return };
    let space = crate::support::dirs::Dir::new();
    let tablespace = format!("CREATE TABLESPACE space LOCATION '{}'", space.path().display());
    let steps: [&[&str]; 7] = [
        &["DELETE FROM stock WHERE item % 7 = 0", "VACUUM stock", "CREATE INDEX ON stock (name)"],
        &[
            "DELETE FROM stock WHERE item > 150000",
            "VACUUM stock",
            "INSERT INTO still SELECT n, '' FROM generate_series(1, 9000) AS n",
        ],
        &[
            "TRUNCATE still",
            "INSERT INTO still SELECT n, md5(n::text) FROM generate_series(1, 500) AS n",
            "CREATE DATABASE other",
        ],
        &[
            "BEGIN; CREATE TABLE made AS SELECT * FROM stock; TRUNCATE made; INSERT INTO made SELECT * FROM stock LIMIT 99; COMMIT",
        ],
        &[
            "DROP TABLE made",
            "CREATE UNLOGGED TABLE light AS SELECT * FROM stock",
            "ALTER TABLE light SET LOGGED",
            "REINDEX TABLE stock",
        ],
        &[&tablespace, "ALTER TABLE still SET TABLESPACE space", "VACUUM FULL stock", "DROP DATABASE other"],
        &["UPDATE still SET n = n + 1", "CREATE DATABASE more TABLESPACE space", "SELECT count(*) FROM stock"],
    ];
    for (step, statements) in steps.into_iter().enumerate() {
        statements.iter().for_each(|statement| scenario.cluster.sql().execute(statement));
        if step % 3 == 1 {
            scenario.archive_now();
        }
        if step % 2 == 1 {
            scenario.cluster.stop(Stop::Immediate);
            scenario.cluster.start();
        }
        let report = told(&scenario);
        // The tablespace's links lead to where the server has its own.
        if step < 5 {
            assert_restores(&scenario, &report, &format!("step-{step}"));
        }
    }
    stage::backup(&scenario, "incr", &["--audit"]);
}

/// Where this host keeps the indexes of segments.
fn indexes(scenario: &Scenario) -> PathBuf {
    let all = listing::files(&scenario.protected.state_dir());
    let one = all.iter().find(|path| path.parent().is_some_and(|dir| dir.ends_with("pages"))).expect("an index");
    one.parent().expect("a directory").to_owned()
}

/// Changes rows and archives that: the segment's index.
fn changed_and_archived(scenario: &Scenario) -> PathBuf {
    stage::scatter(scenario, 500);
    let segment = scenario.archive_now();
    indexes(scenario).join(format!("{segment}.zst"))
}

/// What is said of an index, and what has been done to it.
type Spoiling<'a> = (&'a str, &'a dyn Fn(&Path));

#[test]
fn a_hole_in_what_the_log_tells_makes_a_backup_read() {
    let Some(scenario) = stage::start(&Options::default()) else { return };
    let other = changed_and_archived(&scenario);
    told(&scenario);
    let cut = |path: &Path| fs::write(path, &fs::read(path).expect("there")[..40]).expect("writable");
    let spoilings: [Spoiling<'_>; 4] = [
        ("no index", &|path| fs::remove_file(path).expect("there")),
        ("damaged", &cut),
        ("another segment", &|path| assert!(fs::copy(&other, path).is_ok())),
        ("damaged", &|path| fs::write(path, b"").expect("writable")),
    ];
    let kept = fs::read(&other).expect("there");
    for (number, (expected, spoil)) in spoilings.iter().enumerate() {
        // Removed with the base that it belongs to.
        fs::write(&other, &kept).expect("writable");
        let path = changed_and_archived(&scenario);
        spoil(&path);
        let (report, reason) = read(&scenario);
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        assert!(reason.contains(expected) && reason.contains(&name), "{expected}: {reason}");
        assert_restores(&scenario, &report, &format!("hole-{number}"));
        let _ = fs::remove_file(&path);
        changed_and_archived(&scenario);
        told(&scenario);
    }
    stage::policy(&scenario, "changed_pages = \"read\"");
    changed_and_archived(&scenario);
    assert_eq!(read(&scenario).1, "");
}

fn lying(scenario: &Scenario, more: &[&str]) -> Output {
    let mut command = scenario.protected.command(&[&["backup", SOURCE, "--type", "incr"], more].concat());
    command.env("LIFEBOAT_LIE", "log");
    process::run(command, RECOVERY_TIMEOUT)
}

#[test]
fn an_audit_finds_what_the_log_did_not_tell_and_nothing_is_told_until_the_next_full() {
    let Some(scenario) = stage::start(&Options::default()) else { return };
    stage::scatter(&scenario, 100);
    scenario.archive_now();
    let honest = stage::backup(&scenario, "incr", &["--audit"]);
    assert_eq!((&honest["type"], &honest["detection"]["audited"]), (&"incr".into(), &true.into()), "{honest:#}");
    stage::scatter(&scenario, 100);
    scenario.archive_now();
    lying(&scenario, &[]).success();
    let id = listing::backups(&scenario.protected).pop().expect("the lying one");
    let there = stage::relation_files(&scenario.cluster.data);
    let restored = stage::restore(&scenario, &id, "lied");
    let outcome = std::panic::catch_unwind(|| stage::assert_same(&restored, &there));
    assert!(outcome.is_err(), "the comparison of files did not see the lie");

    stage::scatter(&scenario, 90);
    scenario.archive_now();
    let evidence = || scenario.repository.names_below(&format!("{SOURCE}/drill/")).len();
    let before = evidence();
    lying(&scenario, &["--audit"]).refuses(22, &["the log did not tell of", "base/", ", page ", "LSN ", "evidence"]);
    assert_eq!(evidence(), before + 1, "evidence was stored");
    let (_, reason) = read(&scenario);
    assert!(reason.contains("an audit found"), "{reason}");
    scenario.full_backup();
    stage::scatter(&scenario, 80);
    scenario.archive_now();
    let healed = told(&scenario);
    assert_restores(&scenario, &healed, "healed");
}

#[test]
fn an_audit_comes_when_the_last_one_is_old() {
    let Some(scenario) = stage::start(&Options::default()) else { return };
    stage::policy(&scenario, "audit = \"3d\"");
    told(&scenario);
    let all = listing::files(&scenario.protected.state_dir());
    let noted = all.iter().find(|path| path.ends_with("changed-pages.json")).expect("noted at the first use");
    fs::write(noted, "{\"audited\":\"2026-01-01T00:00:00Z\"}").expect("writable");
    stage::scatter(&scenario, 300);
    let audit = stage::exactly(&scenario, "incr");
    assert_eq!(audit["detection"]["audited"], true, "{audit:#}");
    let reason = audit["detection"]["reason"].as_str().expect("a reason");
    assert!(reason.contains("older than 3 d"), "{reason}");
    assert_restores(&scenario, &audit, "audited");
    told(&scenario);
}

/// What this host remembers of audits is spoilt: nothing is told until a full has replaced it.
#[test]
fn a_full_replaces_what_cannot_be_read_of_audits() {
    let Some(scenario) = stage::start(&Options::default()) else { return };
    told(&scenario);
    let all = listing::files(&scenario.protected.state_dir());
    let noted = all.iter().find(|path| path.ends_with("changed-pages.json")).expect("noted at the first use");
    fs::write(noted, "{\"audited\":").expect("writable");
    for _ in 0..2 {
        let (_, reason) = read(&scenario);
        assert!(reason.contains("changed-pages.json") && reason.contains("a full replaces it"), "{reason}");
    }
    scenario.full_backup();
    stage::scatter(&scenario, 300);
    let healed = told(&scenario);
    assert_restores(&scenario, &healed, "healed");
}

#[test]
fn a_restored_data_directory_is_read() {
    let Some(scenario) = stage::start(&Options::default()) else { return };
    fs::write(scenario.cluster.data.join("backup_label.old"), b"of a restore").expect("writable");
    let (_, reason) = read(&scenario);
    assert!(reason.contains("restored or rewound"), "{reason}");
}

/// The pages of main forks that `pg_waldump` says the records of these segments refer to.
fn waldump(installation: &Installation, pg_wal: &Path, first: &str, last: &str) -> BTreeSet<(u32, u32, u32, u32)> {
    let output = Command::new(installation.program("pg_waldump")).current_dir(pg_wal).args([first, last]).output();
    let text = String::from_utf8(output.expect("pg_waldump starts").stdout).expect("text");
    let mut found = BTreeSet::new();
    for reference in text.lines().flat_map(|line| line.split("blkref #").skip(1)) {
        let mut words = reference.split([' ', ',', ';']).skip_while(|word| *word != "rel").skip(1);
        let relation: Vec<u32> =
            words.next().expect("a relation").split('/').map(|word| word.parse().expect("a number")).collect();
        let (next, block) = (words.next().expect("a word"), words.next().expect("a word"));
        if next == "blk" {
            found.insert((relation[0], relation[1], relation[2], block.parse().expect("a number")));
        }
    }
    found
}

/// Says what it takes to collect the pages of one segment beside summarising it.
fn print_cost(pg_wal: &Path, name: &str) {
    use lifeboat::base::{Segment, SegmentSize};
    use lifeboat::source::postgres::touched::Touched;
    use lifeboat::source::postgres::wal::{Carry, summarise, summarise_with};

    let (raw, size) = (fs::read(pg_wal.join(name)).expect("kept"), SegmentSize::DEFAULT);
    let segment = Segment::parse(name, size).expect("a segment");
    let began = std::time::Instant::now();
    summarise(segment, size, &raw, &Carry::Unknown).expect("readable");
    let alone = began.elapsed();
    let mut touched = Touched::default();
    let began = std::time::Instant::now();
    summarise_with(segment, size, &raw, &Carry::Unknown, |record| touched.note(record)).expect("readable");
    println!("a segment of 16 MiB: {alone:?} to summarise, {:?} with its pages", began.elapsed());
}

#[test]
fn what_is_kept_of_segments_is_what_pg_waldump_tells() {
    use lifeboat::base::{Incarnation, SegmentSize};
    use lifeboat::repo::host_state::HostState;

    let Some(installation) = Installation::with_program("pg_waldump") else { return };
    let scenario = Scenario::start(&installation, &Options::default().with("wal_keep_size = '1GB'"));
    scenario.full_backup();
    scenario.cluster.sql().execute("CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 90000) AS n");
    let first = scenario.archive_now();
    scenario.cluster.sql().execute("CREATE INDEX ON t (md5); DELETE FROM t WHERE n % 9 = 0");
    scenario.cluster.sql().execute("VACUUM t");
    let last = scenario.archive_now();
    let dir = indexes(&scenario);
    let incarnation: Incarnation = dir.parent().and_then(|dir| dir.file_name()?.to_str()?.parse().ok()).expect("its name");
    let state = dir.ancestors().nth(3).expect("of a repository");
    let state = HostState::new(state.parent().expect("above"), state.file_name().expect("its id").to_str().expect("text"));
    let pg_wal = scenario.cluster.data.join("pg_wal");
    print_cost(&pg_wal, &first);
    let segment = |name: &str| lifeboat::base::Segment::parse(name, SegmentSize::DEFAULT).expect("a segment");
    let (mut kept, mut compared) = (BTreeSet::new(), segment(&first));
    loop {
        let name = compared.name(SegmentSize::DEFAULT);
        let digest = lifeboat::codec::Sha256Digest::of(&fs::read(pg_wal.join(&name)).expect("kept"));
        let source = SOURCE.parse().expect("a name");
        let index = state.pages_of(&source, &incarnation, &name, &digest.short()).expect("kept");
        assert_eq!(index.unknown, None);
        for touched in &index.relations {
            let (tablespace, database, file) = touched.relation;
            let blocks = touched.runs.iter().flat_map(|(first, count)| *first..first + count);
            kept.extend(blocks.map(|block| (tablespace, database, file, block)));
        }
        if name == last {
            break;
        }
        compared = compared.next();
    }
    let told = waldump(&installation, &pg_wal, &first, &last);
    assert!(told.len() > 500, "only {} pages", told.len());
    // pg_waldump begins with the first record that begins in the first segment; what straddles into it is ours alone.
    let only_ours: Vec<_> = kept.difference(&told).collect();
    assert!(told.is_subset(&kept), "{:?}", told.difference(&kept).collect::<Vec<_>>());
    assert!(only_ours.len() <= 33, "{only_ours:?}");
}
