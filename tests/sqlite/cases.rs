//! Known cases, one by one.

use std::fs;

use rusqlite::Connection;

use crate::support::process;
use crate::world::{Following, PATIENCE, SOURCE, World, give, insert, numbers, rows_in, time};

#[test]
fn a_chain_of_backups_restores_each_of_its_moments_and_stores_only_what_changed() {
    let world = World::new();
    let program = world.program();
    program.execute_batch("WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 20000) INSERT INTO t SELECT n, randomblob(400) FROM n").unwrap();
    let full = world.backup("full");
    let mut moments = vec![(full["captured_at"].clone(), 20_000)];
    let (mut last, mut incrs) = (20_000, Vec::new());
    for kind in ["incr", "diff", "incr", "incr"] {
        for n in 1..=3 {
            insert(&program, last + n);
        }
        program.execute("UPDATE t SET x = randomblob(400) WHERE n % 4000 = 7", []).unwrap();
        last += 3;
        let backup = world.backup(kind);
        assert_eq!((&backup["type"], &backup["reason"]), (&kind.into(), &serde_json::Value::Null), "{backup}");
        incrs.push(backup["stored_bytes"].as_u64().unwrap());
        moments.push((backup["captured_at"].clone(), last));
    }
    let stored = full["stored_bytes"].as_u64().unwrap();
    assert!(incrs.iter().all(|bytes| bytes * 20 < stored), "the full has {stored}, the others {incrs:?}");
    for (moment, rows) in &moments {
        assert_eq!(world.rows(&["--to", moment.as_str().unwrap()]), *rows, "{moment}");
    }
    assert_eq!(world.rows(&[]), last);
    // Smaller and larger, with other pages everywhere.
    program.execute_batch("DELETE FROM t WHERE n > 5; VACUUM").unwrap();
    assert_eq!(world.backup("incr")["type"], "incr");
    assert_eq!(world.rows(&[]), 5);
    for n in 6..3000 {
        insert(&program, n);
    }
    world.backup("diff");
    assert_eq!(world.rows(&[]), 2999);
    // Nothing changed: nothing is stored but the list of it.
    let idle = world.backup("incr");
    assert!(idle["stored_bytes"].as_u64().unwrap() < 10_000, "{idle}");
    assert_eq!(world.rows(&[]), 2999);
    // The record of the base is gone: said, and a full.
    fs::remove_dir_all(world.host.state_dir()).unwrap();
    world.host.dir().create_dir("state");
    let again = world.backup("incr");
    assert_eq!(again["type"], "full");
    assert!(again["reason"].as_str().unwrap().contains("keeps no record"), "{again}");
}

#[test]
fn every_captured_moment_comes_back_and_between_two_the_earlier_one() {
    let world = World::new();
    let program = world.program();
    let mut following = world.follow("100ms");
    following.until("the first backup", || !world.repository.names_below("app/commit/").is_empty());
    let mut known = Vec::new();
    for n in 1..=6 {
        let before = world.segments().len();
        insert(&program, n);
        following.until("it is stored", || world.segments().len() > before);
        known.push((world.segments().last().unwrap().last.known().unwrap(), n));
        if n == 3 {
            world.backup("incr");
        }
    }
    let output = following.end().success();
    let report: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!((&report["segments"], &report["transactions"], &report["backups"]), (&6.into(), &6.into(), &1.into()), "{report}");
    assert_eq!(numbers(&world.segments()), [1, 2, 3, 4, 5, 6]);
    for (at, rows) in &known {
        let (document, path) = world.restore(&["--to", &at.rfc3339()]);
        assert_eq!((rows_in(&path), time(&document["captured_at"])), (*rows, *at), "{document}");
        assert!(time(&document["complete_at"]) <= *at);
        let shortly_before = at.minus(std::time::Duration::from_micros(1)).rfc3339();
        assert_eq!(world.rows(&["--to", &shortly_before]), rows - 1);
    }
    // Into a directory, under its own name; not over anything, nor beside an old log.
    let dir = world.restored.path().display().to_string();
    world.rescue.ok(&["restore", SOURCE, "--into", &dir]);
    assert_eq!(rows_in(&world.restored.join("data.db")), 6);
    world.rescue.run(&["restore", SOURCE, "--into", &dir]).refuses(1, &["data.db exists"]);
    world.restored.write("other.db-wal", "x");
    let other = world.restored.join("other.db").display().to_string();
    world.rescue.run(&["restore", SOURCE, "--into", &other]).refuses(1, &["other.db-wal exists"]);
    let plan = world.rescue.ok(&["restore", SOURCE, "--into", &dir.replace("lb-", "lb-x"), "--dry-run"]).stdout;
    assert!(plan.starts_with("would restore app to the end of the archived log as "), "{plan}");
    world.refused(&["--to", "2001-01-01 00:00:00Z"]);
    world.rescue.run(&["restore", SOURCE, "--into", &other, "--delta"]).exits(2);
    world.rescue.run(&["restore", SOURCE, "--into", &other, "--to-lsn", "0/7"]).exits(2);
}

#[test]
fn what_nothing_goes_on_from_is_a_gap_that_is_told_and_a_backup() {
    let world = World::new();
    let program = world.program();
    insert(&program, 1);
    let backups = || world.repository.names_below("app/commit/").len();
    let mut following = world.follow("100ms");
    following.until("the first backup", || backups() == 1);
    insert(&program, 2);
    following.until("stored", || world.segments().len() == 1);
    following.kill();
    let first = world.segments()[0].last.known().unwrap();
    // Another database takes its place while nobody looks.
    drop(program);
    let other = world.data.write("other.db", "");
    let program = Connection::open(&other).unwrap();
    program.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (n INTEGER PRIMARY KEY, x)").unwrap();
    (1..=9).for_each(|n| insert(&program, n));
    drop(program);
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(world.data.join(format!("data.db{suffix}")));
    }
    fs::rename(&other, world.database()).unwrap();
    let mut following = world.follow("100ms");
    following.until("another backup", || backups() == 2);
    let program = world.program();
    insert(&program, 10);
    following.until("stored", || world.segments().len() == 2);
    let said = following.said();
    assert!(said.contains("its log has a gap here"), "{said}");
    following.end().success();
    assert_eq!(numbers(&world.segments()), [1, 3], "a number is left out");
    assert_eq!(world.rows(&["--to", &first.rfc3339()]), 2);
    assert_eq!(world.rows(&[]), 10);
    let within = first.plus(std::time::Duration::from_micros(1));
    let refused =
        world.refused(&["--to", &within.rfc3339()]).refuses(1, &["the log has a gap", "followed up to", "goes on from"]);
    let is_time = |word: &&str| word.trim_matches('\'').starts_with(|c: char| c.is_ascii_digit()) && word.contains(['-', ':']);
    let mask = |line: &str| line.split(' ').map(|word| if is_time(&word) { "TIME" } else { word }).collect::<Vec<_>>().join(" ");
    insta::assert_snapshot!("gap", refused.stderr.lines().map(mask).collect::<Vec<_>>().join("\n"));
}

#[test]
fn another_page_size_begins_another_life() {
    let world = World::new();
    let program = world.program();
    insert(&program, 1);
    let first = world.backup("full");
    program.execute_batch("PRAGMA journal_mode = DELETE; PRAGMA page_size = 1024; VACUUM").unwrap();
    insert(&program, 2);
    let second = world.backup("incr");
    assert_ne!(first["incarnation"], second["incarnation"]);
    assert_eq!((&second["type"], &second["is_wal"]), (&"full".into(), &false.into()));
    assert!(second["warnings"][0].as_str().unwrap().contains("rollback journal"), "{second}");
    assert_eq!(world.rows(&["--to", first["captured_at"].as_str().unwrap()]), 1);
    assert_eq!(world.rows(&[]), 2);
    let within = time(&first["captured_at"]).plus(std::time::Duration::from_micros(1));
    world.refused(&["--to", &within.rfc3339()]).refuses(1, &["gap"]);
}

#[test]
fn a_rollback_journal_has_snapshots_and_no_log() {
    let world = World::new();
    let connection = world.connect();
    connection.execute_batch("CREATE TABLE t (n INTEGER PRIMARY KEY, x)").unwrap();
    insert(&connection, 1);
    let first = world.backup("full");
    insert(&connection, 2);
    world.backup("incr");
    let mut following = world.follow("100ms");
    following.until_said("keeps a rollback journal");
    // Turned on, it is followed.
    connection.execute_batch("PRAGMA journal_mode = WAL").unwrap();
    following.until("a backup", || world.repository.names_below("app/commit/").len() == 3);
    insert(&connection, 3);
    following.until("stored", || world.segments().len() == 1);
    following.end().success();
    assert_eq!(world.rows(&[]), 3);
    assert_eq!(world.rows(&["--to", first["captured_at"].as_str().unwrap()]), 1);
}

#[test]
fn what_is_no_database_is_refused_in_its_own_words() {
    let world = World::new();
    let refused = |content: &[u8], words: &[&str]| {
        world.data.write("data.db", content);
        world.host.run(&["backup", SOURCE]).refuses(1, words);
    };
    refused(b"", &["nothing was ever committed"]);
    refused(b"SQLite format 3\0", &["cut off"]);
    refused("words ".repeat(2000).as_bytes(), &["does not begin as a SQLite database"]);
    let noise: Vec<u8> = (0..8192u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    refused(&noise, &["encrypted"]);
    let mut header = b"SQLite format 3\0".to_vec();
    header.resize(4096, 0);
    refused(&header, &["damaged"]);
    fs::remove_file(world.database()).unwrap();
    world.host.run(&["backup", SOURCE]).refuses(1, &["there is no such file"]);
    assert!(world.repository.names_below("app/backup/").is_empty(), "no trace is left");
    // A database that is created while it is waited for is taken up.
    let mut following = world.follow("100ms");
    following.until_said("there is no such file");
    world.data.write("data.db", "");
    let program = world.program();
    insert(&program, 1);
    following.until("a backup", || world.repository.names_below("app/commit/").len() == 1);
    insert(&program, 2);
    following.until("stored", || world.segments().len() == 1);
    following.end().success();
    assert_eq!(world.rows(&[]), 2);
}

#[test]
fn a_damaged_database_is_stored_and_never_given_a_name() {
    let world = World::new();
    let connection = world.connect();
    connection.execute_batch("CREATE TABLE t (n INTEGER PRIMARY KEY, x); CREATE INDEX i ON t (x)").unwrap();
    (1..=300).for_each(|n| insert(&connection, n));
    drop(connection);
    world.backup("full");
    let mut bytes = fs::read(world.database()).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 600].fill(0xAB);
    world.data.write("data.db", &bytes);
    world.backup("full");
    // What SQLite finds damaged is kept under a name that says so, for whoever has nothing better.
    let kept = world.restored.join("refused.db.damaged");
    world.refused(&[]).refuses(22, &["integrity_check", "refused.db.damaged", ".recover"]);
    assert!(fs::read(&kept).unwrap() == bytes, "it is what was stored");
    world.refused(&[]).refuses(22, &["integrity_check", "not kept"]);
    assert!(fs::read(&kept).unwrap() == bytes, "it is not written over");
    let ids = world.host.json(&["list", SOURCE]).to_string();
    assert!(ids.contains("full"), "{ids}");
}

#[test]
fn several_databases_go_their_own_ways() {
    let world = World::new();
    let mut text = String::new();
    for name in ["one", "two", "three"] {
        world.data.write(format!("{name}.db"), "");
        text += &format!("[source.{name}]\nkind = \"sqlite\"\npath = \"{}/{name}.db\"\n", world.data.path().display());
    }
    world.host.append_configuration(&text);
    world.rescue.append_configuration(&text);
    for (rows, name) in (1..).zip(["one", "two", "three"]) {
        let connection = Connection::open(world.data.join(format!("{name}.db"))).unwrap();
        connection.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (n INTEGER PRIMARY KEY, x)").unwrap();
        (1..=rows).for_each(|n| insert(&connection, n));
        give(&world.data.join(format!("{name}.db")));
        world.host.ok(&["backup", name]);
    }
    for (rows, name) in (1..).zip(["one", "two", "three"]) {
        let into = world.restored.join(name);
        world.rescue.ok(&["restore", name, "--into", into.to_str().unwrap()]);
        assert_eq!(rows_in(&into), rows);
    }
}

#[test]
fn one_process_follows_and_two_hosts_contradict_each_other() {
    let world = World::new();
    let program = world.program();
    insert(&program, 1);
    let mut following = world.follow("100ms");
    following.until("the first backup", || world.repository.names_below("app/commit/").len() == 1);
    let second = world.host.run(&["archive", "stream", SOURCE]).exits(21);
    assert!(second.stderr.contains("follows app already"), "{second}");
    // Another host with a database of the same name.
    let twin = world.host.twin();
    let data = crate::support::dirs::Dir::new();
    data.write("data.db", "");
    let (from, to) = (world.data.path().display().to_string(), data.path().display().to_string());
    twin.configure_text(&twin.configuration().replace(&from, &to));
    let other = Connection::open(data.join("data.db")).unwrap();
    other.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (n INTEGER PRIMARY KEY, x)").unwrap();
    let mut intruder = Following::of(&twin, "100ms");
    intruder.until("its backup", || world.repository.names_below("app/commit/").len() == 2);
    // Both store; sooner or later under one number.
    let (mut n, mut ended) = (1, None);
    let mut both = [Some(following), Some(intruder)];
    process::wait_until("one is refused", PATIENCE, || {
        n += 1;
        insert(&program, n);
        other.execute("INSERT INTO t VALUES (NULL, randomblob(50))", []).unwrap();
        for one in &mut both {
            if one.as_mut().is_some_and(Following::has_ended) {
                ended = one.take();
            }
        }
        ended.is_some()
    });
    let output = ended.unwrap().ends_by_itself();
    assert_ne!(output.code, Some(0));
    assert!(output.stderr.contains("with other content"), "{output}");
    assert_eq!(
        world.segments().iter().map(|name| name.segment).collect::<std::collections::BTreeSet<_>>().len(),
        world.segments().len()
    );
}
