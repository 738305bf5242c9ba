use super::super::acts::ActKind;
use super::*;
use crate::source::postgres::wal::fixture::{Log, Written, body_with_pages};
use crate::source::postgres::wal::{Carry, SegmentReader};

const INSERT: u8 = 0x00;
const DELETE: u8 = 0x10;
const IN_PLACE: u8 = 0x70;

fn relation(file_node: u32) -> Relation {
    Relation { tablespace: 1663, database: 5, file_node }
}

fn numbers(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn rows(log: &mut Log, xid: u32, kind: u8, relation: Relation, count: usize) {
    for _ in 0..count {
        log.append_raw(resource_manager::HEAP, kind, xid, &body_with_pages(&[(0, relation, 0)], &[0; 14]));
    }
}

fn create(log: &mut Log, xid: u32, file_node: u32) {
    log.append(resource_manager::STORAGE, 0x10, xid, &numbers(&[1663, 5, file_node, 0]));
}

/// The end of a transaction: subtransactions, relations dropped, and which prepared one it ends.
fn end(log: &mut Log, xid: u32, kind: u8, subtransactions: &[u32], dropped: &[u32], prepared: Option<u32>) -> Written {
    let flags = 1 << 1 | 1 << 2 | if prepared.is_some() { 1 << 4 } else { 0 };
    let mut parts = vec![flags, subtransactions.len() as u32];
    parts.extend(subtransactions);
    parts.push(dropped.len() as u32);
    parts.extend(dropped.iter().flat_map(|file_node| [1663, 5, *file_node]));
    parts.extend(prepared);
    let data = [&1_000_000_i64.to_le_bytes()[..], &numbers(&parts)].concat();
    log.append(resource_manager::TRANSACTION, kind | 0x80, xid, &data)
}

fn shutdown_checkpoint(log: &mut Log) {
    log.append(resource_manager::XLOG, 0x00, 0, &[0; 88]);
}

fn running(log: &mut Log, next_xid: u32, oldest_xid: u32) {
    log.append(resource_manager::STANDBY, 0x10, 0, &numbers(&[0, 0, 0, next_xid, oldest_xid, 0]));
}

/// The transactions of a log, and what is left of it.
fn collect(log: &Log) -> (Vec<Transaction>, Collector) {
    let (mut collector, mut ended) = (Collector::default(), Vec::new());
    for (segment, bytes) in log.segments() {
        let mut reader = SegmentReader::new(segment, log.size, &bytes, Carry::Unknown).unwrap();
        while let Some(record) = reader.next_record() {
            let event = Event::decode(&record).unwrap();
            collector.note(&record, &event, |happening| {
                if let Happening::Ended(transaction) = happening {
                    ended.push(transaction);
                }
            });
        }
    }
    (ended, collector)
}

fn counts(transaction: &Transaction, file_node: u32) -> (u64, u64) {
    transaction.rows.get(&relation(file_node)).map_or((0, 0), |counts| (counts.inserted, counts.deleted))
}

#[test]
fn what_a_subtransaction_did_belongs_to_its_top_level_transaction_unless_it_was_rolled_back() {
    let mut log = Log::new();
    rows(&mut log, 10, INSERT, relation(20000), 3);
    rows(&mut log, 11, DELETE, relation(20000), 2);
    rows(&mut log, 12, INSERT, relation(20000), 5);
    end(&mut log, 12, 0x20, &[], &[], None);
    rows(&mut log, 13, INSERT, relation(20000), 7);
    let commit = end(&mut log, 10, 0x00, &[11], &[], None);
    let (ended, collector) = collect(&log);
    assert_eq!((ended[0].kind, ended[0].xid), (EndKind::Abort, 12));
    assert_eq!((counts(&ended[1], 20000), ended[1].lsn, ended[1].before.lsn), ((3, 2), commit.start, commit.start));
    assert_eq!(collector.works.keys().collect::<Vec<_>>(), [&13], "what goes on is kept, and nothing else");
}

#[test]
fn a_prepared_transaction_outlives_a_restart_and_others_do_not() {
    let mut log = Log::new();
    rows(&mut log, 20, INSERT, relation(20000), 3);
    rows(&mut log, 21, INSERT, relation(20000), 4);
    create(&mut log, 22, 30000);
    // xl_xact_prepare of 15: magic, length, transaction, database, time, owner, counts, length of the name; the name.
    let mut prepare = numbers(&[0, 0, 20, 5, 0, 0, 0, 1, 0, 0, 0, 0, 0]);
    prepare.resize(72, 0);
    prepare[54..56].copy_from_slice(&5_u16.to_le_bytes());
    prepare.extend(b"cash\0\0\0\0");
    prepare.extend(21_u64.to_le_bytes());
    log.append(resource_manager::TRANSACTION, 0x10, 20, &prepare);
    rows(&mut log, 40, INSERT, relation(20000), 1);
    shutdown_checkpoint(&mut log);
    end(&mut log, 99, 0x30, &[], &[], Some(20));
    let (ended, collector) = collect(&log);
    assert_eq!((ended[0].xid, ended[0].kind, counts(&ended[0], 20000)), (20, EndKind::CommitPrepared, (7, 0)));
    assert_eq!((collector.entries, collector.works.len(), collector.made.len()), (0, 0, 0));
    assert_eq!(ended[0].before.leftover, Some(Leftover::Prepared { xid: 20, gid: Some("cash".into()) }));

    let mut log = Log::new();
    end(&mut log, 99, 0x30, &[], &[], Some(20));
    end(&mut log, 99, 0x40, &[], &[], Some(21));
    log.commit(22, 0);
    let leftovers = collect(&log).0.into_iter().map(|ended| ended.before.leftover).collect::<Vec<_>>();
    assert_eq!(leftovers, [Some(Leftover::Prepared { xid: 20, gid: None }), None, None], "its PREPARE was not read");
}

#[test]
fn what_may_have_begun_before_the_reading_is_not_called_whole() {
    let mut log = Log::new();
    end(&mut log, 90, 0x00, &[], &[], None);
    rows(&mut log, 80, INSERT, relation(20000), 1);
    running(&mut log, 100, 95);
    end(&mut log, 99, 0x00, &[], &[], None);
    end(&mut log, 100, 0x00, &[], &[], None);
    let (ended, collector) = collect(&log);
    let whole: Vec<(u32, bool)> = ended.iter().map(|transaction| (transaction.xid, transaction.is_whole)).collect();
    assert_eq!(whole, [(90, false), (99, false), (100, true)]);
    assert!(collector.works.is_empty(), "a crash ended what is older than all that run");
    assert!(precedes(u32::MAX, 5) && !precedes(5, u32::MAX) && !precedes(5, 5));
}

#[test]
fn memory_is_bounded_and_what_finds_no_room_is_counted() {
    let mut collector = Collector { whole_from: Some(3), ..Collector::bounded(100) };
    for xid in 3..103 {
        collector.rows(xid, relation(20000), RowKind::Deleted, 2);
    }
    assert_eq!((collector.entries, collector.works.len(), collector.unattributed_rows), (100, 50, 100));
    assert_eq!(collector.whole_from, None, "nobody is called whole any more");
    collector.interrupt();
    assert_eq!((collector.entries, collector.room, collector.unattributed_rows), (0, 100, 100));
}

#[test]
fn relations_of_its_own_are_no_loss_and_replaced_ones_are() {
    let mut log = Log::new();
    running(&mut log, 50, 50);
    create(&mut log, 50, 30000);
    end(&mut log, 50, 0x00, &[], &[30000], None);
    create(&mut log, 51, 30001);
    end(&mut log, 51, 0x00, &[], &[20000], None);
    create(&mut log, 52, 30002);
    rows(&mut log, 52, INSERT, relation(30002), 1);
    end(&mut log, 52, 0x00, &[], &[30001], None);
    create(&mut log, 53, 30003);
    end(&mut log, 53, 0x20, &[], &[30003], None);
    log.append(200, 0, 0, &[1]);
    let (ended, collector) = collect(&log);
    let kinds: Vec<Vec<ActKind>> = ended.iter().map(|ended| ended.acts.iter().map(|act| act.kind).collect()).collect();
    assert_eq!(kinds, [vec![], vec![ActKind::Truncated], vec![ActKind::Rewritten], vec![]]);
    assert_eq!((ended[0].created, ended[1].created, ended[1].dropped.as_slice()), (0, 1, &[relation(20000)][..]));
    assert_eq!((collector.unknown_records, collector.made.len(), collector.entries), (1, 0, 0));
}

#[test]
fn what_was_removed_by_a_transaction_whose_beginning_was_not_read_may_have_been_replaced() {
    let mut log = Log::new();
    running(&mut log, 50, 49);
    // VACUUM FULL, say, that made the successor before; and one that has none.
    end(&mut log, 49, 0x00, &[], &[20000], None);
    create(&mut log, 48, 30000);
    end(&mut log, 48, 0x00, &[], &[20001], None);
    end(&mut log, 50, 0x00, &[], &[20002], None);
    let (ended, _) = collect(&log);
    let kinds: Vec<ActKind> = ended.iter().flat_map(|ended| ended.acts.iter().map(|act| act.kind)).collect();
    assert_eq!(kinds, [ActKind::Replaced, ActKind::Replaced, ActKind::Dropped]);
}

#[test]
fn a_relation_made_before_its_transaction_had_an_id_is_its_own() {
    let lock =
        |log: &mut Log, xid, file_node| log.append(resource_manager::STANDBY, 0x00, xid, &numbers(&[1, xid, 5, file_node]));
    let mut log = Log::new();
    running(&mut log, 50, 50);
    create(&mut log, 0, 30000);
    create(&mut log, 0, 30001);
    lock(&mut log, 50, 30000);
    end(&mut log, 50, 0x00, &[], &[30000], None);
    // What was made before a restart has another maker, who is gone.
    shutdown_checkpoint(&mut log);
    lock(&mut log, 51, 30001);
    end(&mut log, 51, 0x00, &[], &[30001], None);
    let (ended, collector) = collect(&log);
    assert_eq!((ended[0].acts.len(), ended[0].dropped.len()), (0, 0), "{:?}", ended[0]);
    assert_eq!(ended[1].dropped, [relation(30001)]);
    assert_eq!((collector.unowned.len(), collector.made.len(), collector.entries), (0, 0, 0));

    let mut collector = Collector { whole_from: Some(3), ..Collector::default() };
    for number in 0..=MOST_UNOWNED as u32 {
        collector.created(0, relation(20000 + number), Fork::Main);
    }
    assert_eq!((collector.unowned.len(), collector.whole_from), (1, None), "memory is bounded, and nobody is called whole");
}

#[test]
fn before_a_dropped_database_is_before_it_was_marked() {
    let pg_database = Relation { tablespace: 1664, database: 0, file_node: PG_DATABASE };
    let mut log = Log::new();
    // Changes in place, of the row with this number: DROP DATABASE's own, and VACUUM's of others' rows.
    let change = |log: &mut Log, row| {
        log.append_raw(resource_manager::HEAP, IN_PLACE, 0, &body_with_pages(&[(0, pg_database, 0)], &[row, 0]))
    };
    change(&mut log, 7);
    let mark = change(&mut log, 7);
    change(&mut log, 8);
    log.append(10, 0x60, 62, &vec![0; 3 << 20]);
    let delete = |log: &mut Log, xid, row| {
        log.append_raw(
            resource_manager::HEAP,
            DELETE,
            xid,
            &body_with_pages(&[(0, pg_database, 0)], &[0, 0, 0, 0, row, 0, 0, 0]),
        );
    };
    delete(&mut log, 60, 7);
    change(&mut log, 7);
    log.commit(61, 0);
    log.append(resource_manager::DATABASE, 0x20, 60, &numbers(&[16390, 1, 1663]));
    let commit = log.commit(60, 1_000_000);
    let (ended, _) = collect(&log);
    assert_eq!((ended[1].lsn, &ended[1].before), (commit.start, &Before { lsn: mark.start, leftover: None }));
    assert_eq!((ended[1].acts[0].kind, ended[1].acts[0].database), (ActKind::DatabaseDropped, Some(16390)));
}

#[test]
fn without_a_mark_the_database_may_come_back_invalid() {
    let pg_database = Relation { tablespace: 1664, database: 0, file_node: PG_DATABASE };
    for (major, magic, leftover) in [(15, 0xD110, None), (16, 0xD113, Some(Leftover::InvalidDatabase))] {
        let mut log = Log::of_version(magic);
        log.append_raw(resource_manager::HEAP, IN_PLACE, 0, &body_with_pages(&[(0, pg_database, 1)], &[7, 0]));
        log.append_raw(resource_manager::HEAP, DELETE, 60, &body_with_pages(&[(0, pg_database, 0)], &[0, 0, 0, 0, 7, 0, 0, 0]));
        let drop = log.append(resource_manager::DATABASE, 0x20, 60, &numbers(&[16390, 1, 1663]));
        log.commit(60, 1_000_000);
        assert_eq!(collect(&log).0[0].before, Before { lsn: drop.start, leftover }, "{major}: the mark is another row's");
    }
}
