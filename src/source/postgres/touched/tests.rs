use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::wal::fixture::{Log, body_with_pages, main_data_body};
use super::super::wal::{Carry, SegmentReader};
use super::*;

const TABLE: Relation = Relation { tablespace: 1663, database: 5, file_node: 16384 };
const INDEX: Relation = Relation { tablespace: 1663, database: 5, file_node: 16400 };

/// What the records in `log`, one segment, touch.
fn touched(log: &Log) -> Touched {
    let (segment, bytes) = log.segments().swap_remove(0);
    let mut reader = SegmentReader::new(segment, log.size, &bytes, Carry::Unknown).unwrap();
    let mut touched = Touched::default();
    while let Some(record) = reader.next_record() {
        touched.note(&record);
    }
    touched
}

fn of_record(resource_manager: u8, info: u8, body: &[u8]) -> Touched {
    let mut log = Log::new();
    log.append_raw(resource_manager, info, 7, body);
    touched(&log)
}

fn numbers(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn pages(touched: &Touched, relation: Relation) -> Vec<(u32, u32)> {
    touched.relations.get(&relation).map(|blocks| blocks.runs().0).unwrap_or_default()
}

#[test]
fn every_page_of_a_main_fork_counts_and_no_other_fork() {
    const VISIBILITY_MAP: u8 = 2;
    let body = body_with_pages(&[(0, TABLE, 3), (0, INDEX, 40_000), (VISIBILITY_MAP, TABLE, 9)], &[0; 3]);
    let found = of_record(manager::HEAP, 0x00, &body);
    assert_eq!((pages(&found, TABLE), pages(&found, INDEX)), (vec![(3, 1)], vec![(40_000, 1)]));
    assert_eq!(found.unknown, None);
    // Made visible to all: the map's page first, then the table's.
    let body = body_with_pages(&[(VISIBILITY_MAP, TABLE, 0), (0, TABLE, 77)], &[0, 0, 0, 0, 1]);
    let found = of_record(manager::HEAP2, 0x40, &body);
    assert_eq!((pages(&found, TABLE), found.unknown), (vec![(77, 1)], None));
}

#[test]
fn files_that_are_made_or_cut_count_from_there_on() {
    let relation = [TABLE.tablespace, TABLE.database, TABLE.file_node];
    let created = |fork: u32| of_record(manager::STORAGE, 0x11, &main_data_body(&numbers(&[&relation[..], &[fork]].concat())));
    assert_eq!(created(0).relations[&TABLE].runs(), (vec![], Some(0)));
    assert!(created(1).relations.is_empty(), "the free space map is never asked");
    let cut =
        |flags: u32| of_record(manager::STORAGE, 0x21, &main_data_body(&numbers(&[&[20], &relation[..], &[flags]].concat())));
    assert_eq!(cut(7).relations[&TABLE].runs(), (vec![], Some(20)));
    assert!(cut(6).relations.is_empty());
}

#[test]
fn of_databases_that_are_made_or_dropped_nothing_is_known() {
    let copied = of_record(manager::DATABASE, 0x01, &main_data_body(&numbers(&[30, 1663, 1, 1663])));
    assert_eq!(copied.databases, BTreeSet::from([(1663, 30)]));
    let logged = of_record(manager::DATABASE, 0x10, &main_data_body(&numbers(&[31, 1700])));
    assert_eq!(logged.databases, BTreeSet::from([(1700, 31)]));
    let dropped = of_record(manager::DATABASE, 0x21, &main_data_body(&numbers(&[30, 2, 1663, 1700])));
    assert_eq!(dropped.databases, BTreeSet::from([(1663, 30), (1700, 30)]));
}

#[test]
fn what_cannot_be_interpreted_makes_everything_unknown() {
    let body = body_with_pages(&[(0, TABLE, 3)], &[0; 3]);
    for (what, resource_manager, info) in [
        ("an extension's", 130, 0x00),
        ("special", manager::HEAP, SPECIAL_UPDATE),
        ("unknown flags", manager::HEAP, 0x04),
        ("an unknown kind of its own", manager::XLOG, 0xF0),
        ("an unknown kind of storage", manager::STORAGE, 0x30),
    ] {
        assert!(of_record(resource_manager, info, &body).unknown.is_some(), "{what}");
    }
    assert_eq!(of_record(manager::HEAP, 0x00, &body).unknown, None);
    let parameters = |level: u32| {
        let data = [numbers(&[100, 8, 10, 0, 64, level]), vec![1, 0, 0, 0]].concat();
        of_record(manager::XLOG, 0x60, &main_data_body(&data)).unknown
    };
    assert!(parameters(0).unwrap().contains("minimal"));
    assert_eq!((parameters(1), parameters(2)), (None, None));
    let mut merged = Touched::default();
    merged.merge(&of_record(130, 0, &body));
    merged.merge(&of_record(manager::HEAP, 0, &body));
    assert!(merged.unknown.is_some() && pages(&merged, TABLE) == [(3, 1)]);
}

/// As of a restore of a hundred thousand tables, or of updates all over many large ones.
#[test]
fn what_would_take_too_much_memory_is_unknown() {
    type Add = fn(&mut BlockSet, u32);
    let adds: [Add; 3] =
        [|blocks, _| blocks.insert(0), |blocks, _| blocks.insert_from(0), |blocks, n| blocks.insert(n.wrapping_mul(CHUNK_PAGES))];
    for (kind, add) in adds.into_iter().enumerate() {
        let (mut touched, mut added) = (Touched::default(), 0);
        while touched.unknown.is_none() {
            let file_node = if kind == 2 { 16384 + added % 7 } else { 16384 + added };
            touched.change(Relation { file_node, ..TABLE }, |blocks| add(blocks, added));
            assert!(touched.bytes <= MOST_BYTES && added < 1_000_000, "{kind}: {added}");
            added += 1;
        }
        assert!(added > 90_000, "{kind}: {added}");
        assert!(touched.unknown.as_ref().is_some_and(|why| why.contains("worth telling")), "{touched:?}");
        assert!(touched.relations.is_empty() && touched.bytes == 0, "{kind}");
        // It stays so, whatever comes.
        touched.merge(&Touched::of([(TABLE, BlockSet::from_runs(&[(3, 2)], None).unwrap())]));
        assert!(touched.relations.is_empty() && touched.unknown.is_some(), "{kind}");
    }
    assert_eq!(BlockSet::from_runs(&[(0, u32::MAX)], None), None);
}

#[test]
fn only_files_of_main_forks_are_found_by_their_paths() {
    let relation = |tablespace, database, file_node| Some(Relation { tablespace, database, file_node });
    for (path, expected) in [
        ("base/5/16384", relation(1663, 5, 16384)),
        ("base/5/16384.3", relation(1663, 5, 16384)),
        ("global/1262", relation(1664, 0, 1262)),
        ("pg_tblspc/16500/PG_15_202209061/5/16384.1", relation(16500, 5, 16384)),
        ("base/5/16384_fsm", None),
        ("base/5/16384_vm.1", None),
        ("base/5/16384_init", None),
        ("base/5/PG_VERSION", None),
        ("global/pg_control", None),
        ("global/pg_filenode.map", None),
        ("pg_xact/0000", None),
        ("pg_tblspc/16500/16384", None),
        ("base/x/16384", None),
    ] {
        assert_eq!(relation_at(path.as_bytes()), expected, "{path}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Beside a plain set of numbers.
    #[test]
    fn a_block_set_is_a_set_of_blocks(
        left in prop::collection::vec(prop_oneof![0u32..200, 32_700u32..32_900, any::<u32>()], 0..60),
        right in prop::collection::vec(prop_oneof![0u32..200, 32_700u32..32_900], 0..60),
        from in prop::option::of(prop_oneof![0u32..200, 32_700u32..32_900]),
        asked in prop::collection::vec(prop_oneof![0u32..260, 32_600u32..32_900], 1..20),
    ) {
        let set = |blocks: &[u32]| {
            let mut set = BlockSet::default();
            blocks.iter().for_each(|block| set.insert(*block));
            set
        };
        let mut merged = set(&left);
        let mut other = set(&right);
        from.iter().for_each(|from| other.insert_from(*from));
        merged.merge(&other);
        let listed: BTreeSet<u32> = left.iter().chain(&right).copied().collect();
        let holds = |block: u32| listed.contains(&block) || from.is_some_and(|from| block >= from);
        for first in asked {
            let pages = merged.pages(first);
            for bit in 0..32 {
                prop_assert_eq!(pages & (1 << bit) != 0, holds(first + bit), "page {} from {}", bit, first);
            }
            for count in [0, 1, 31, 33, 100] {
                prop_assert_eq!(merged.touches(first, first + count), (first..first + count).any(holds), "{} {}", first, count);
            }
        }
        let (runs, begin) = merged.runs();
        let unrolled: BTreeSet<u32> = runs.iter().flat_map(|(first, count)| *first..=*first + (count - 1)).collect();
        prop_assert_eq!((unrolled, begin), (listed, from));
        prop_assert!(runs.windows(2).all(|pair| u64::from(pair[0].0) + u64::from(pair[0].1) < u64::from(pair[1].0)));
        if !left.contains(&u32::MAX) {
            prop_assert_eq!(BlockSet::from_runs(&runs, begin), Some(merged));
        }
    }
}
