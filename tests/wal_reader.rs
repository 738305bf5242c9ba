//! The WAL reader against real servers, 13 to 18: record by record as `pg_walinspect` (15 and later) and `pg_waldump` tell it,
//! with every page that it refers to and what it does, and the events as SQL tells them.
//!
//! There is no `pg_waldump` of 13 and 14 at hand. Their records have the form of 15's except for page images, and no checksum covers
//! a page's magic number: so copies of their segments get the magic number of 15, and 15's `pg_waldump` reads them, page images left out.

#[path = "wal_reader/blocks.rs"]
mod blocks;
#[path = "wal_reader/changes.rs"]
mod changes;
#[path = "wal_reader/oracle.rs"]
mod oracle;
#[path = "wal_reader/server.rs"]
mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;

use lifeboat::base::{Lsn, Segment, SegmentSize, TimelineId, Timestamp};
use lifeboat::source::postgres::wal::{
    Carry, Change, EndKind, Event, Prepare, Record, RowKind, SegmentEnd, Stop, scan, summarise,
};

use oracle::Told;
use server::Server;

const SETTINGS: &str = "
wal_keep_size = '4GB'
max_wal_size = '8GB'
min_wal_size = '2MB'
wal_level = logical
max_prepared_transactions = 10
track_commit_timestamp = on
full_page_writes = off
wal_log_hints = off
autovacuum = off
checkpoint_timeout = '1h'
";

/// A record without its body, and what it means.
#[derive(Clone, Debug)]
struct Seen {
    start: Lsn,
    end: Lsn,
    event: Event,
}

/// Segments in `wal` by number and timeline, with their bytes.
fn segments(wal: &Path, size: SegmentSize) -> BTreeMap<(u64, TimelineId), Vec<u8>> {
    let names = std::fs::read_dir(wal).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let found = names.filter_map(|name| Some((Segment::parse(&name, size)?, name)));
    found.map(|(segment, name)| ((segment.number, segment.timeline), std::fs::read(wal.join(name)).unwrap())).collect()
}

/// Reads the log as a restore to its youngest timeline does, calling `visit` for every record; the end is that of the last segment.
fn read_log(wal: &Path, size: SegmentSize, mut visit: impl FnMut(&Record<'_>, &Event)) -> SegmentEnd {
    let all = segments(wal, size);
    let youngest: BTreeMap<u64, (TimelineId, &Vec<u8>)> =
        all.iter().map(|((number, timeline), bytes)| (*number, (*timeline, bytes))).collect();
    let mut carry = Carry::Unknown;
    let mut last = None;
    for (number, (timeline, bytes)) in youngest {
        let segment = Segment { timeline, number };
        let scanned = scan(segment, size, bytes, &carry, |record, event| {
            // The headers of every body add up, whether or not anything is compared below.
            assert!(!record.is_whole() || record.main_data().is_ok(), "{:?}", record.main_data());
            visit(record, event);
            ControlFlow::<()>::Continue(())
        });
        let Ok(ControlFlow::Continue(end)) = scanned else {
            // Segments made in advance still hold what they were recycled from.
            let why = scanned.unwrap_err().to_string();
            assert!(why.contains("page address") || why.contains("magic number is 0000"), "{why}");
            break;
        };
        carry = Carry::from_bytes(&end.carry.to_bytes()).unwrap();
        // Only of the oldest segment that the server kept may the beginning be missing.
        assert!(!end.head_unknown || last.is_none());
        let ended = end.stop != Stop::SegmentEnd;
        last = Some(end);
        if ended {
            break;
        }
    }
    last.expect("there is a log")
}

/// Writes everything the reader must tell apart: plain, failed, nested and prepared transactions, long records, marks, a crash.
fn load(server: &Server) {
    server.start();
    server.execute(&[
        "CREATE TABLE ledger (id bigserial PRIMARY KEY, note text)",
        "CREATE TABLE doomed (id int PRIMARY KEY)",
        "CREATE TABLE scratch AS SELECT i, repeat('s', 200) FROM generate_series(1, 2000) i",
        "CREATE TABLE wide (id int, note text)",
        "ALTER TABLE wide ALTER note SET STORAGE EXTERNAL",
        "DO $$ BEGIN FOR i IN 1..300 LOOP INSERT INTO ledger (note) VALUES (repeat('x', i)); COMMIT; END LOOP; END $$",
        "DO $$ BEGIN FOR i IN 1..50 LOOP INSERT INTO ledger (note) VALUES ('gone'); ROLLBACK; END LOOP; END $$",
        "INSERT INTO wide SELECT i, repeat(md5(i::text), 2000) FROM generate_series(1, 60) i",
        "DO $$ BEGIN FOR i IN 1..200 LOOP BEGIN INSERT INTO ledger (note) VALUES ('sub'); EXCEPTION WHEN division_by_zero THEN NULL; END;
         END LOOP; END $$",
        "SELECT pg_create_restore_point('before the long records')",
        "SELECT pg_logical_emit_message(false, 'lifeboat', repeat('y', 300000))",
        "BEGIN; SELECT pg_logical_emit_message(true, 'lifeboat', repeat('z', 3500000)); COMMIT",
        "SELECT pg_switch_wal()",
        "BEGIN; INSERT INTO ledger (note) VALUES ('first half'); DROP TABLE doomed; CREATE TABLE kept (id int);
         SAVEPOINT a; INSERT INTO ledger (note) VALUES ('nested'); RELEASE a; PREPARE TRANSACTION 'köln 1'",
        "BEGIN; INSERT INTO ledger (note) VALUES ('never'); CREATE TABLE unborn (id int);
         SAVEPOINT a; CREATE TABLE unborn2 (id int); RELEASE a; PREPARE TRANSACTION 'second'",
        "CHECKPOINT",
    ]);
    load_relations(server);
}

/// Makes, fills, empties, rewrites and drops relations and databases.
fn load_relations(server: &Server) {
    server.execute(&[
        "CREATE TABLE many (id int, note text)",
        "CREATE INDEX ON many (id)",
        "COPY many (id) FROM PROGRAM 'seq 1 3000'",
        "DELETE FROM many WHERE id % 10 <> 0",
        "VACUUM many",
        "DELETE FROM many WHERE id > 1000",
        "VACUUM FREEZE many",
        "VACUUM FULL many",
        "CREATE TABLE emptied (id serial PRIMARY KEY, other int)",
        "CREATE TABLE leaning (id int REFERENCES emptied)",
        "INSERT INTO emptied (other) SELECT i FROM generate_series(1, 500) i",
        "TRUNCATE emptied RESTART IDENTITY CASCADE",
        "TRUNCATE many",
        "BEGIN; CREATE TABLE passing (id int); INSERT INTO passing SELECT generate_series(1, 500); TRUNCATE passing; COMMIT",
        "CREATE UNLOGGED TABLE unlogged (id int)",
        "DROP TABLE unlogged, leaning, emptied",
        "INSERT INTO ledger (id, note) VALUES (1, 'again') ON CONFLICT DO NOTHING",
        "CREATE DATABASE other",
        "DROP DATABASE other",
    ]);
    if server.major >= 15 {
        server.execute(&["CREATE DATABASE copied STRATEGY file_copy", "DROP DATABASE copied"]);
    }
}

/// Ends what [`load`] left prepared, takes a backup, crashes, changes settings, shuts down.
fn load_more(server: &Server) {
    let (start, stop) = match server.major {
        13 | 14 => ("pg_start_backup('b', true, false)", "pg_stop_backup(false, false)"),
        _ => ("pg_backup_start('b', true)", "pg_backup_stop(false)"),
    };
    server.execute(&[
        "COMMIT PREPARED 'köln 1'",
        "ROLLBACK PREPARED 'second'",
        // Prepared transactions kept rows from being visible to all.
        "VACUUM scratch",
        &format!("SELECT {start}"),
        "INSERT INTO ledger (note) VALUES ('during a backup')",
        &format!("SELECT {stop}"),
        "ALTER SYSTEM SET full_page_writes = on",
        "ALTER SYSTEM SET wal_compression = on",
        "SELECT pg_reload_conf()",
        "CHECKPOINT",
        "UPDATE scratch SET i = i + 1",
        "ALTER SYSTEM RESET wal_compression",
        "SELECT pg_reload_conf()",
        "CHECKPOINT",
        "UPDATE scratch SET i = i + 1",
        "ALTER SYSTEM RESET full_page_writes",
        "SELECT pg_reload_conf()",
        "INSERT INTO ledger (note) VALUES ('before the crash')",
    ]);
    server.kill();
    server.start();
    server.execute(&["INSERT INTO ledger (note) VALUES ('after the crash')", "SELECT pg_create_restore_point('last on 1')"]);
}

/// Crashes in the middle of a record that goes on in the next segment, which is then lost.
fn abandon_a_record(server: &Server, size: SegmentSize) {
    server.execute(&["SELECT pg_switch_wal()", "INSERT INTO ledger (note) VALUES ('last complete')", "CHECKPOINT"]);
    let begin: Lsn = server.value("SELECT pg_current_wal_insert_lsn()").parse().unwrap();
    server.execute(&["BEGIN; SELECT pg_logical_emit_message(true, 'lost', repeat('w', 1500000)); COMMIT"]);
    let end: Lsn = server.value("SELECT pg_current_wal_insert_lsn()").parse().unwrap();
    server.stop("immediate");
    let first = Segment::containing(TimelineId(1), begin, size);
    let last = Segment::containing(TimelineId(1), end, size);
    assert!(first < last);
    for number in first.number + 1..=last.number {
        std::fs::remove_file(server.wal().join(Segment { number, ..first }.name(size))).unwrap();
    }
    server.start();
    server.execute(&["INSERT INTO ledger (note) VALUES ('after the loss')"]);
}

/// Commit times of the ledger's rows in microseconds since 1970, by transaction, from the server's own record of them.
fn commit_times(server: &Server) -> BTreeMap<u32, i64> {
    let rows = server.query(
        "SELECT DISTINCT xmin::text, (extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000000)::bigint FROM ledger
         WHERE pg_xact_commit_timestamp(xmin) IS NOT NULL",
    );
    rows.iter().map(|row| (row[0].parse().unwrap(), row[1].parse().unwrap())).collect()
}

/// Compares the youngest timeline's path through the log with what the oracle tells of it.
fn compare(wal: &Path, size: SegmentSize, told: &[Told]) -> usize {
    let mut rest = told.iter().peekable();
    let mut compared = 0;
    read_log(wal, size, |record, event| {
        if let Some(next) = rest.peek()
            && record.start >= told[0].start
        {
            next.assert_is(record, event);
            compared += 1;
            rest.next();
        }
    });
    assert_eq!(compared, told.len(), "records that only PostgreSQL sees: {:?}", rest.next());
    compared
}

/// Runs the whole story on one major version.
fn story(major: u16) {
    let Some(bin) = server::programs(major) else { return };
    let size = SegmentSize::new(1 << 20).unwrap();
    let server = Server::create(major, bin, 1, SETTINGS);
    let began = Timestamp::now();
    load(&server);
    let prepared = server.query(
        "SELECT transaction, gid, (extract(epoch FROM prepared) * 1000000)::bigint FROM pg_prepared_xacts ORDER BY prepared",
    );
    let control = server.query(
        "SELECT checkpoint_lsn, redo_lsn, timeline_id, extract(epoch FROM checkpoint_time)::bigint * 1000000 FROM pg_control_checkpoint()",
    );
    load_more(&server);
    let restore_point: Lsn = server.value("SELECT pg_create_restore_point('the end is known')").parse().unwrap();
    abandon_a_record(&server, size);
    let times = commit_times(&server);
    server.stop("fast");
    server.add_settings("max_connections = 110\n");
    server.promote();
    server.execute(&["INSERT INTO ledger (note) VALUES ('on timeline 2')", "CHECKPOINT"]);

    let mut seen = Vec::new();
    if major >= 15 {
        server.execute(&[
            "CREATE EXTENSION pg_walinspect",
            "SELECT pg_switch_wal()",
            "INSERT INTO ledger (note) VALUES ('flush')",
        ]);
        let mut first = None;
        read_log(&server.wal(), size, |record, _| first = first.or(Some(record.start)));
        let first = first.expect("a record");
        let told = oracle::walinspect(&server, first);
        println!("{major}: {} records agree with pg_walinspect", compare(&server.wal(), size, &told));
        if major >= 16 {
            check_lengths(&server, size, first);
        }
    }
    server.stop("fast");
    let mut families = Families::default();
    let end = read_log(&server.wal(), size, |record, event| {
        seen.push(Seen { start: record.start, end: record.end, event: event.clone() });
        families.note(record);
    });
    families.check(major);
    assert!(matches!(end.stop, Stop::EndOfLog { at, .. } if Some(at) >= seen.last().map(|last| last.end)), "{:?}", end.stop);
    check_facts(&seen, &prepared, &control, restore_point, &times, (began, Timestamp::now()));
    check_summaries(&server.wal(), size);
    check_waldump(&server, size);
}

/// The lengths of what is in the records for each page.
fn check_lengths(server: &Server, size: SegmentSize, first: Lsn) {
    let lengths = blocks::lengths(server, first);
    let mut compared = 0;
    read_log(&server.wal(), size, |record, _| {
        if record.start >= first && compared < lengths.len() {
            compared += blocks::assert_lengths(&lengths, record);
        }
    });
    println!("{}: lengths of {compared} pages agree with pg_walinspect", server.major);
    assert!(compared > 1000 && compared == lengths.len());
}

/// Which kinds of changes were seen, and who belongs to whom.
#[derive(Default)]
struct Families {
    kinds: BTreeSet<&'static str>,
    /// Top-level transaction by subtransaction, as told on the way.
    told: BTreeMap<u32, u32>,
    /// The same, as told at the end.
    ended: BTreeMap<u32, u32>,
}

impl Families {
    fn note(&mut self, record: &Record<'_>) {
        let body = record.parts().unwrap();
        if let Some(top) = body.top_level_xid {
            self.told.insert(record.xid, top);
            self.kinds.insert("top-level id");
        }
        if !record.is_whole() {
            return;
        }
        self.kinds.insert(match Change::decode(record, &body).unwrap() {
            Change::RelationCreated { .. } => "created",
            Change::RelationCut { .. } => "cut",
            Change::DatabaseCreated { copy_of: Some(_), .. } => "database copied",
            Change::DatabaseCreated { copy_of: None, .. } => "database created",
            Change::DatabaseDropped { .. } => "database dropped",
            Change::Rows { kind: RowKind::Inserted, rows: 2.., .. } => "several inserted",
            Change::Rows { .. } => "rows",
            Change::TableTruncated { .. } => "truncated",
            Change::Visible { .. } => "visible",
            Change::InPlace { .. } => "in place",
            Change::Ended(ended) => {
                self.ended.extend(ended.subtransactions.iter().map(|xid| (xid, ended.xid)));
                if ended.dropped.is_empty() { "ended" } else { "dropped" }
            }
            Change::Prepared(_) => "prepared",
            Change::Assigned(assignment) => {
                self.told.extend(assignment.subtransactions.iter().map(|xid| (xid, assignment.top_level_xid)));
                "assigned"
            }
            Change::Locked(_) => "locked",
            Change::Running { .. } => "running",
            Change::Other => "other",
            Change::Unknown => panic!("unknown: {record:?}"),
        });
    }

    fn check(&self, major: u16) {
        let mut expected = BTreeSet::from([
            "created",
            "cut",
            "database copied",
            "database dropped",
            "several inserted",
            "rows",
            "truncated",
            "visible",
            "in place",
            "ended",
            "dropped",
            "prepared",
            "assigned",
            "locked",
            "running",
            "other",
        ]);
        if major >= 14 {
            expected.insert("top-level id");
        }
        if major >= 15 {
            expected.insert("database created");
        }
        assert_eq!(self.kinds, expected);
        assert!(self.told.len() > 60 && self.ended.len() > 60);
        for (xid, top) in &self.ended {
            // Only those that are told on the way; in 13, 64 at a time.
            assert!(self.told.get(xid).is_none_or(|told| told == top), "{xid} of {top}");
        }
    }
}

/// The events against what SQL said at the time.
fn check_facts(
    seen: &[Seen],
    prepared: &[Vec<String>],
    control: &[Vec<String>],
    restore_point: Lsn,
    times: &BTreeMap<u32, i64>,
    (began, ended): (Timestamp, Timestamp),
) {
    let mut committed = BTreeMap::new();
    let (mut prepares, mut kinds, mut points) = (Vec::new(), BTreeSet::new(), Vec::new());
    let mut abandoned = None;
    for Seen { start, end, event } in seen {
        if let Some(time) = event.time() {
            let second = std::time::Duration::from_secs(1);
            assert!(time >= began.minus(60 * second) && time <= ended.plus(second), "{start}: {event:?}");
        }
        match event {
            Event::TransactionEnd(end) => {
                kinds.insert(format!("{:?}", end.kind));
                if end.kind.is_commit() {
                    committed.insert(end.xid, end.time.unix_micros());
                }
            }
            Event::Prepare(Prepare { xid, gid, time }) => {
                prepares.push(vec![xid.to_string(), gid.clone(), time.unix_micros().to_string()]);
            }
            Event::RestorePoint { name, .. } => points.push((name.clone(), *end)),
            Event::Checkpoint(checkpoint) if start.to_string() == control[0][0] => {
                let facts =
                    [checkpoint.redo.to_string(), checkpoint.timeline.to_string(), checkpoint.time.unix_micros().to_string()];
                assert_eq!(facts.as_slice(), &control[0][1..]);
                kinds.insert("control".into());
            }
            Event::ContinuationOverwritten { abandoned: lsn, .. } => abandoned = Some(*lsn),
            Event::EndOfRecovery { timeline, previous_timeline, .. } => {
                assert_eq!((*timeline, *previous_timeline), (TimelineId(2), TimelineId(1)));
                kinds.insert("EndOfRecovery".into());
            }
            Event::BackupEnd { start } => assert!(seen.iter().any(|other| other.start >= *start)),
            Event::ParameterChange { .. } => drop(kinds.insert("ParameterChange".into())),
            _ => {}
        }
    }
    for kind in [EndKind::Commit, EndKind::Abort, EndKind::CommitPrepared, EndKind::AbortPrepared] {
        assert!(kinds.contains(&format!("{kind:?}")), "{kind:?} in {kinds:?}");
    }
    for kind in ["control", "EndOfRecovery", "ParameterChange"] {
        assert!(kinds.contains(kind), "{kind} in {kinds:?}");
    }
    assert_eq!(prepares, prepared);
    assert!(points.contains(&("the end is known".into(), restore_point)), "{points:?}");
    assert_eq!(points.len(), 3);
    assert!(abandoned.is_some_and(|lsn| !seen.iter().any(|record| record.start == lsn)), "{abandoned:?}");
    assert!(times.len() > 300);
    for (xid, micros) in times {
        // Subtransactions are not named in the events; their rows carry the same time as the parent's.
        match committed.get(xid) {
            Some(found) => assert_eq!(found, micros, "transaction {xid}"),
            None => assert!(committed.values().any(|found| found == micros), "transaction {xid} at {micros}"),
        }
    }
}

/// A segment's summary says the same with its carry, and admits what it cannot know without.
/// The last one of timeline 1 ends where timeline 2 begins.
fn check_summaries(wal: &Path, size: SegmentSize) {
    let mut carry = Carry::Unknown;
    let mut last_end = None;
    for ((number, timeline), bytes) in segments(wal, size).iter().filter(|((_, timeline), _)| timeline.0 == 1) {
        let segment = Segment { timeline: *timeline, number: *number };
        let Ok(summary) = summarise(segment, size, bytes, &carry) else { break };
        let blind = summarise(segment, size, bytes, &Carry::Unknown).unwrap();
        if blind.end.head_unknown && !summary.header.overwrites_continuation {
            assert!(!blind.is_complete());
        } else {
            assert_eq!((blind.first_time(), blind.latest_time()), (summary.first_time(), summary.latest_time()));
        }
        assert!(summary.commits - blind.commits <= 1);
        last_end = summary.last_record().map(|span| span.end).or(last_end);
        carry = summary.end.carry;
    }
    let history = std::fs::read_to_string(wal.join("00000002.history")).unwrap();
    let switch: Lsn = history.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert_eq!(last_end, Some(switch));
}

/// Both timelines against 15's `pg_waldump`, where it is there and can read them.
fn check_waldump(server: &Server, size: SegmentSize) {
    if server.major > 15 {
        return;
    }
    let Some(program) = server::programs(15).map(|bin| bin.join("pg_waldump")) else { return };
    let copy = tempfile::tempdir().unwrap();
    for ((number, timeline), mut bytes) in segments(&server.wal(), size) {
        for page in bytes.chunks_mut(8192).filter(|page| page[1] == 0xD1) {
            page[..2].copy_from_slice(&0xD110_u16.to_le_bytes());
        }
        std::fs::write(copy.path().join(Segment { timeline, number }.name(size)), bytes).unwrap();
    }
    for timeline in [TimelineId(1), TimelineId(2)] {
        let (compared, skipped) = compare_waldump(server, size, &program, copy.path(), timeline);
        println!("{} timeline {timeline}: {compared} records agree with pg_waldump, {skipped} not decoded by it", server.major);
        assert!(compared > if timeline.0 == 1 { 4000 } else { 10 });
        assert!(skipped == 0 || server.major < 15);
    }
}

/// Goes on after each record that `pg_waldump` cannot decode, as it does not itself.
fn compare_waldump(server: &Server, size: SegmentSize, program: &Path, copy: &Path, timeline: TimelineId) -> (usize, usize) {
    let (mut told, mut from, mut skipped) = (Vec::new().into_iter(), None, 0);
    let (mut compared, mut carry) = (0, Carry::Unknown);
    for ((number, _), bytes) in segments(&server.wal(), size).iter().filter(|((_, of), _)| *of == timeline) {
        let segment = Segment { timeline, number: *number };
        let Ok(scanned) = scan(segment, size, bytes, &carry, |record, event| {
            if from.is_none() {
                from = Some(record.start);
                told = oracle::waldump(program, copy, timeline.0, record.start).into_iter();
            }
            match told.next() {
                Some(next) => {
                    next.assert_is(record, event);
                    compared += 1;
                }
                None => {
                    skipped += 1;
                    told = oracle::waldump(program, copy, timeline.0, record.end).into_iter();
                }
            }
            ControlFlow::<()>::Continue(())
        }) else {
            break;
        };
        let ControlFlow::Continue(end) = scanned else { unreachable!("the visitor never breaks") };
        carry = end.carry;
    }
    assert_eq!(told.next().map(|next| next.start), None, "records that only pg_waldump sees");
    (compared, skipped)
}

/// In segments that are used again, the log ends before what they held in their former life, where the server says it does.
#[test]
fn recycled_segments_are_read_to_the_end_of_the_log() {
    let Some(bin) = server::programs(15) else { return };
    let server = Server::create(15, bin, 1, "max_wal_size = '4MB'\nmin_wal_size = '4MB'\nautovacuum = off\n");
    server.start();
    server.execute(&["CREATE TABLE filler (note text)"]);
    let size = SegmentSize::new(1 << 20).unwrap();
    // The log ends in this segment, and a page that was written behind its end long ago is still there.
    let recycled = |(&(number, timeline), bytes): (&(u64, TimelineId), &Vec<u8>)| {
        let summary = summarise(Segment { timeline, number }, size, bytes, &Carry::Unknown);
        let ended = summary.is_ok_and(|summary| matches!(summary.end.stop, Stop::EndOfLog { .. }));
        ended && bytes.chunks(8192).next_back().is_some_and(|page| page.starts_with(&0xD110_u16.to_le_bytes()))
    };
    for _ in 0..40 {
        server.execute(&["INSERT INTO filler SELECT repeat('f', 100) FROM generate_series(1, 2500)", "CHECKPOINT"]);
        let before = server.value("SELECT pg_current_wal_insert_lsn()");
        let all = segments(&server.wal(), size);
        let mut last_end = None;
        read_log(&server.wal(), size, |record, _| last_end = Some(record.end.to_string()));
        if server.value("SELECT pg_current_wal_insert_lsn()") == before && all.iter().any(recycled) {
            assert_eq!(last_end, Some(before));
            return;
        }
    }
    panic!("the server used no segment again");
}

/// Default segments under `pgbench`, read against the clock too.
#[test]
fn agrees_on_segments_of_16_megabytes() {
    let Some(bin) = server::programs(15) else { return };
    let server = Server::create(15, bin, 16, "wal_keep_size = '4GB'\nmax_wal_size = '8GB'\n");
    server.start();
    server.pgbench(&["-i", "-q", "-s", "5"]);
    server.pgbench(&["-c", "4", "-t", "300"]);
    server.execute(&["CHECKPOINT", "UPDATE pgbench_accounts SET abalance = 1 WHERE aid % 9 = 0"]);
    server.stop("fast");
    let size = SegmentSize::DEFAULT;
    let (mut took, mut bytes_read) = (std::time::Duration::ZERO, 0);
    let mut carry = Carry::Unknown;
    for ((number, timeline), bytes) in segments(&server.wal(), size) {
        let began = std::time::Instant::now();
        let Ok(summary) = summarise(Segment { timeline, number }, size, &bytes, &carry) else { break };
        took += began.elapsed();
        bytes_read += bytes.len();
        carry = summary.end.carry;
    }
    let milliseconds = took.as_secs_f64() * 1e3 * size.bytes() as f64 / bytes_read as f64;
    println!("{} MiB summarised, {milliseconds:.1} ms a segment", bytes_read >> 20);
    let program = server.bin.join("pg_waldump");
    let (compared, skipped) = compare_waldump(&server, size, &program, &server.wal(), TimelineId(1));
    println!("{compared} records agree with pg_waldump");
    assert!(bytes_read > 3 * size.bytes() as usize && compared > 50_000 && skipped == 0, "{bytes_read} {compared} {skipped}");
}

#[test]
fn agrees_with_postgresql_13() {
    story(13);
}

#[test]
fn agrees_with_postgresql_14() {
    story(14);
}

#[test]
fn agrees_with_postgresql_15() {
    story(15);
}

#[test]
fn agrees_with_postgresql_16() {
    story(16);
}

#[test]
fn agrees_with_postgresql_17() {
    story(17);
}

#[test]
fn agrees_with_postgresql_18() {
    story(18);
}
