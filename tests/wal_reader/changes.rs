//! What a record does, as PostgreSQL describes it.

use lifeboat::source::Fork;
use lifeboat::source::postgres::wal::{Change, EndKind, List, Record, Relation, RowKind};

/// Path of a relation's file below the data directory, as PostgreSQL writes it; `None` outside the default tablespaces.
fn path(relation: Relation, fork: Fork) -> Option<String> {
    let suffix = match fork {
        Fork::Main => "",
        Fork::FreeSpaceMap => "_fsm",
        Fork::VisibilityMap => "_vm",
        Fork::Init => "_init",
    };
    match relation.tablespace {
        1663 => Some(format!("base/{}/{}{suffix}", relation.database, relation.file_node)),
        1664 => Some(format!("global/{}{suffix}", relation.file_node)),
        _ => None,
    }
}

/// The words after `label` up to the next semicolon; none when there is no such label.
fn listed(description: &str, label: &str) -> Vec<String> {
    let Some((_, rest)) = description.split_once(label) else { return Vec::new() };
    rest.split(';').next().unwrap_or_default().split_whitespace().map(str::to_string).collect()
}

/// The numbers after `label`, up to the end.
fn numbers(description: &str, label: &str) -> Vec<u32> {
    let rest = description.split_once(label).map_or("", |(_, rest)| rest);
    rest.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect()
}

fn paths(relations: List<'_, Relation>) -> Vec<String> {
    relations.iter().map(|relation| path(relation, Fork::Main).expect("in a default tablespace")).collect()
}

fn words(xids: List<'_, u32>) -> Vec<String> {
    xids.iter().map(|xid| xid.to_string()).collect()
}

fn flags(description: &str) -> u8 {
    let digits = description.split_once("0x").expect("flags").1;
    u8::from_str_radix(&digits[..2], 16).expect("two hex digits")
}

/// Panics unless `change` is what the record of this kind and description does.
pub fn assert_is(record: &Record<'_>, change: &Change<'_>, kind: &str, description: &str, context: &str) {
    let plain = kind.trim_end_matches("+INIT");
    match *change {
        Change::Unknown => panic!("unknown: {context}"),
        Change::Other => assert!(!is_interpreted(record, plain), "{context}"),
        Change::RelationCreated { relation, fork } => {
            assert_eq!((plain, path(relation, fork).as_deref()), ("CREATE", Some(description)), "{context}");
        }
        Change::RelationCut { relation, blocks, forks } => {
            let flags = u8::from(forks.main) | u8::from(forks.visibility_map) << 1 | u8::from(forks.free_space_map) << 2;
            let expected = format!("{} to {blocks} blocks flags {flags}", path(relation, Fork::Main).expect("default"));
            assert_eq!((plain, expected.as_str()), ("TRUNCATE", description), "{context}");
        }
        Change::DatabaseCreated { database, tablespace, copy_of } => {
            let expected = match copy_of {
                Some((database_from, tablespace_from)) => {
                    format!("copy dir {tablespace_from}/{database_from} to {tablespace}/{database}")
                }
                None => format!("create dir {tablespace}/{database}"),
            };
            assert_eq!(description, expected, "{context}");
        }
        Change::DatabaseDropped { database, tablespaces } => {
            // 15's pg_waldump takes the number that 13 and 14 gave it for that of a creation.
            if record.major_version >= 15 {
                let expected: Vec<String> = tablespaces.iter().map(|tablespace| format!("{tablespace}/{database}")).collect();
                let told: Vec<&str> = description.split_whitespace().filter(|word| word.contains('/')).collect();
                assert_eq!((plain, told), ("DROP", expected.iter().map(String::as_str).collect()), "{context}");
            }
        }
        Change::Rows { kind: rows_kind, rows, .. } => assert_rows(rows_kind, rows, plain, description, context),
        Change::TableTruncated { tables, cascades, restarts_identity, .. } => {
            assert_eq!(plain, "TRUNCATE", "{context}");
            let label = if description.contains("relids:") { " relids:" } else { " relids" };
            assert_eq!(numbers(description, label), tables.iter().collect::<Vec<u32>>(), "{context}");
            let said = |word: &str| description.to_lowercase().contains(word);
            assert_eq!((cascades, restarts_identity), (said("cascade"), said("restart_seqs")), "{context}");
        }
        Change::Visible { flags: set, .. } => assert_eq!((plain, flags(description) & 3), ("VISIBLE", set), "{context}"),
        Change::InPlace { .. } => assert_eq!(plain, "INPLACE", "{context}"),
        Change::Ended(ended) => {
            let kinds = match ended.kind {
                EndKind::Commit => "COMMIT",
                EndKind::Abort => "ABORT",
                EndKind::CommitPrepared => "COMMIT_PREPARED",
                EndKind::AbortPrepared => "ABORT_PREPARED",
            };
            assert_eq!(plain, kinds, "{context}");
            assert_eq!(listed(description, "; rels:"), paths(ended.dropped), "{context}");
            assert_eq!(listed(description, "; subxacts:"), words(ended.subtransactions), "{context}");
        }
        Change::Prepared(prepared) => {
            assert_eq!(plain, "PREPARE", "{context}");
            if record.major_version >= 15 {
                assert_eq!(listed(description, "; rels(commit):"), paths(prepared.dropped_by_commit), "{context}");
                assert_eq!(listed(description, "; rels(abort):"), paths(prepared.dropped_by_abort), "{context}");
                assert_eq!(listed(description, "; subxacts:"), words(prepared.subtransactions), "{context}");
            }
        }
        Change::Assigned(assignment) => {
            assert_eq!(plain, "ASSIGNMENT", "{context}");
            assert!(description.starts_with(&format!("xtop {}:", assignment.top_level_xid)), "{context}");
            assert_eq!(listed(description, "subxacts:"), words(assignment.subtransactions), "{context}");
        }
        Change::Locked(locks) => {
            let expected: Vec<String> =
                locks.iter().map(|lock| format!("xid {} db {} rel {}", lock.xid, lock.database, lock.relation)).collect();
            assert_eq!((plain, description.trim()), ("LOCK", expected.join(" ").as_str()), "{context}");
        }
        Change::Running { next_xid, oldest_xid } => {
            assert_eq!(plain, "RUNNING_XACTS", "{context}");
            for part in [format!("nextXid {next_xid} "), format!("oldestRunningXid {oldest_xid}")] {
                assert!(description.contains(&part), "no {part} in {context}");
            }
        }
    }
}

fn assert_rows(kind: RowKind, rows: u32, plain: &str, description: &str, context: &str) {
    match (kind, plain) {
        (RowKind::Inserted, "MULTI_INSERT") => {
            let forms = [format!("{rows} tuples"), format!("ntuples: {rows},")];
            assert!(forms.iter().any(|form| description.contains(form)), "{rows} rows in {context}");
        }
        (RowKind::Inserted, "INSERT") | (RowKind::Updated, "UPDATE" | "HOT_UPDATE") => assert_eq!(rows, 1, "{context}"),
        (RowKind::Deleted | RowKind::TakenBack, "DELETE") => {
            assert_eq!((rows, flags(description) & 8 != 0), (1, kind == RowKind::TakenBack), "{context}");
        }
        _ => panic!("{kind:?} in {context}"),
    }
}

/// Kinds that must not be taken for something else, by resource manager.
fn is_interpreted(record: &Record<'_>, plain: &str) -> bool {
    match record.resource_manager {
        1 => plain != "INVALIDATION",
        2 | 4 => true,
        8 => plain != "INVALIDATIONS",
        9 => matches!(plain, "MULTI_INSERT" | "VISIBLE"),
        10 => matches!(plain, "INSERT" | "UPDATE" | "HOT_UPDATE" | "DELETE" | "TRUNCATE" | "INPLACE"),
        _ => false,
    }
}
