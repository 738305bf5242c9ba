//! The pages that a record refers to, as PostgreSQL tells them.

use std::collections::BTreeMap;

use lifeboat::base::Lsn;
use lifeboat::source::Fork;
use lifeboat::source::postgres::wal::{BlockRef, Compression, Record};

use super::server::Server;

/// A page in PostgreSQL's words. What a tool does not tell is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToldBlock {
    pub id: u8,
    pub relation: String,
    pub fork: String,
    pub block: u32,
    pub image: Option<ToldImage>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToldImage {
    pub applied: bool,
    /// Offset and length of the hole, and the method.
    pub details: Option<(u16, u16, Option<String>)>,
}

fn fork_name(fork: Fork) -> &'static str {
    match fork {
        Fork::Main => "main",
        Fork::FreeSpaceMap => "fsm",
        Fork::VisibilityMap => "vm",
        Fork::Init => "init",
    }
}

/// `blkref #0: rel 1663/5/16384 fork vm blk 0 (FPW); hole: offset: 24, length: 8096, compression saved: 9, method: pglz blkref #1: …`,
/// or the short form `, blkref #0: rel 1663/5/16384 blk 0 FPW, blkref #1: …`.
pub fn parse(text: &str) -> Vec<ToldBlock> {
    text.split("blkref #").skip(1).map(|text| parse_one(text.trim().trim_end_matches(','))).collect()
}

fn parse_one(text: &str) -> ToldBlock {
    let (id, rest) = text.split_once(": rel ").unwrap_or_else(|| no_reference(text));
    let mut words = rest.split_whitespace();
    let relation = words.next().unwrap_or_else(|| no_reference(text)).to_string();
    let (fork, block) = match (words.next(), words.next(), words.clone().next()) {
        (Some("fork"), Some(fork), Some("blk")) => (fork, words.nth(1)),
        (Some("blk"), block @ Some(_), _) => ("main", block),
        _ => no_reference(text),
    };
    let block = block.and_then(|block| block.parse().ok()).unwrap_or_else(|| no_reference(text));
    let rest: Vec<&str> = words.collect();
    let number = |after: &str| {
        let at = rest.iter().position(|word| *word == after)?;
        rest[at + 1].trim_end_matches(',').parse::<u16>().ok()
    };
    let image = match rest.first() {
        None => None,
        Some(word) if word.trim_start_matches('(').starts_with("FPW") => {
            let method = rest.iter().position(|word| *word == "method:").map(|at| rest[at + 1].to_string());
            let details = number("offset:").zip(number("length:")).map(|(offset, length)| (offset, length, method));
            Some(ToldImage { applied: !text.contains("for WAL verification"), details })
        }
        Some(_) => no_reference(text),
    };
    let id = id.parse().unwrap_or_else(|_| no_reference(text));
    ToldBlock { id, relation, fork: fork.to_string(), block, image }
}

fn no_reference(text: &str) -> ! {
    panic!("no block reference: {text}")
}

fn method_name(compression: Compression) -> String {
    match compression {
        Compression::Pglz => "pglz".into(),
        Compression::Lz4 => "lz4".into(),
        Compression::Zstd => "zstd".into(),
        Compression::Unknown(flags) => panic!("unknown compression {flags:02X}"),
    }
}

/// Panics unless the record refers to exactly these pages.
pub fn assert_are(told: &[ToldBlock], record: &Record<'_>, context: &str) {
    let found: Vec<BlockRef<'_>> = record.parts().unwrap_or_else(|error| panic!("{error} in {context}")).blocks().collect();
    assert_eq!(found.len(), told.len(), "{found:?} in {context}");
    for (found, told) in found.iter().zip(told) {
        let seen = (found.id, found.relation.to_string(), fork_name(found.fork).to_string(), found.block);
        assert_eq!(seen, (told.id, told.relation.clone(), told.fork.clone(), told.block), "{context}");
        assert_eq!(found.image.is_some(), told.image.is_some(), "{context}");
        let (Some(image), Some(told)) = (&found.image, &told.image) else { continue };
        assert_eq!(image.applied, told.applied, "{context}");
        assert!(!record.is_whole() || image.bytes.len() == usize::from(image.stored_bytes), "{context}");
        if let Some(details) = &told.details {
            let seen = (image.hole_offset, image.hole_bytes, image.compression.map(method_name));
            assert_eq!(seen, *details, "{context}");
        }
    }
}

/// Lengths of data and image of each page by record and number: what `pg_get_wal_block_info` (16 and later) tells.
pub fn lengths(server: &Server, start: Lsn) -> BTreeMap<(Lsn, u8), (u16, u16)> {
    let query = format!(
        "SELECT start_lsn, block_id, block_data_length, block_fpi_length
         FROM pg_get_wal_block_info('{start}', pg_current_wal_flush_lsn(), false)"
    );
    let number = |text: &String| text.parse().unwrap_or(0);
    let rows = server.query(&query).into_iter();
    rows.map(|row| ((row[0].parse().unwrap(), row[1].parse().unwrap()), (number(&row[2]), number(&row[3])))).collect()
}

/// Panics unless the lengths of the record's pages are these.
pub fn assert_lengths(lengths: &BTreeMap<(Lsn, u8), (u16, u16)>, record: &Record<'_>) -> usize {
    let blocks: Vec<BlockRef<'_>> = record.parts().unwrap().blocks().collect();
    for block in &blocks {
        let seen = (block.data_bytes, block.image.map_or(0, |image| image.stored_bytes));
        assert_eq!(lengths.get(&(record.start, block.id)), Some(&seen), "{record:?}");
    }
    blocks.len()
}
