use std::sync::Arc;

use super::*;
use crate::codec::Sha256Digest;
use crate::engine::pages::{Kept, keep};
use crate::repo::{KeyEntry, Repository, Role, Signer};
use crate::source::postgres::wal::fixture::{Log, SYSTEM_IDENTIFIER, body_with_pages};
use crate::source::postgres::wal::{Relation, resource_manager};
use crate::store::memory::MemoryStore;

const TABLE: Relation = Relation { tablespace: 1663, database: 5, file_node: 16384 };

/// A host with a log of three segments in `pg_wal`, each but the last with a record that straddles out of it.
struct Stage {
    dir: tempfile::TempDir,
    scope: Scope,
    incarnation: Incarnation,
    log: Log,
    /// Pages that records touch, in order.
    pages: u32,
}

impl Stage {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let signer = Signer::generate();
        let key = KeyEntry { name: "host".into(), public_key: signer.public_key(), roles: vec![Role::Write, Role::Admin] };
        let repository = Repository::create("main", Arc::new(MemoryStore::new()), vec![key], &signer).await.unwrap();
        let scope = Scope::new(repository, "orders".parse().unwrap(), &dir.path().join("state"));
        let (mut log, mut pages) = (Log::new(), 0);
        let size_bytes = log.size.bytes() as usize;
        // Records of an odd length: none ends where a segment does.
        while log.bytes.len() < 2 * size_bytes + size_bytes / 2 {
            log.append_raw(resource_manager::HEAP, 0x00, 7, &body_with_pages(&[(0, TABLE, pages)], &[1; 3001]));
            pages += 1;
        }
        let stage = Self { dir, scope, incarnation: Incarnation::postgres(15, SYSTEM_IDENTIFIER), log, pages };
        std::fs::create_dir(stage.pg_wal()).unwrap();
        stage.log.segments().iter().for_each(|(segment, raw)| stage.write(*segment, raw));
        stage
    }

    fn pg_wal(&self) -> PathBuf {
        self.dir.path().join("pg_wal")
    }

    fn write(&self, segment: Segment, raw: &[u8]) {
        std::fs::write(self.pg_wal().join(segment.name(self.log.size)), raw).unwrap();
    }

    fn remove(&self, segment: Segment) {
        std::fs::remove_file(self.pg_wal().join(segment.name(self.log.size))).unwrap();
    }

    /// Segment 0, 1 or 2 and its content.
    fn segment(&self, index: usize) -> (Segment, Vec<u8>) {
        self.log.segments().swap_remove(index)
    }

    /// Keeps what a segment touches, as archiving it does.
    fn keep(&self, index: usize) {
        let (segment, raw) = self.segment(index);
        let mut touched = Touched::default();
        let note = |record: &crate::source::postgres::wal::Record<'_>| touched.note(record);
        summarise_with(segment, self.log.size, &raw, &Carry::Unknown, note).unwrap();
        let kept = Kept::of(segment, self.log.size, &self.incarnation, Sha256Digest::of(&raw), &touched);
        assert_eq!(keep(&self.scope, &kept), None);
    }

    /// The log from segment `first` to its end; of those in `archived` the repository has the segment.
    fn stretch(&self, first: usize, archived: &[usize]) -> Stretch {
        let digest = |index: usize, raw: &[u8]| archived.contains(&index).then(|| Sha256Digest::of(raw).short());
        let segments = self.log.segments().into_iter().enumerate().skip(first);
        Stretch {
            incarnation: self.incarnation.clone(),
            size: self.log.size,
            segments: segments.map(|(index, (segment, raw))| (segment, digest(index, &raw))).collect(),
            until: self.log.lsn(self.log.bytes.len()),
            pg_wal: self.pg_wal(),
            may_end_early: false,
        }
    }

    /// Pages of the table that are told.
    #[track_caller]
    fn told(&self, stretch: &Stretch) -> Vec<u32> {
        let told = gather(&self.scope, stretch).unwrap();
        (0..self.pages).filter(|page| told.pages(TABLE, *page) & 1 != 0).collect()
    }

    #[track_caller]
    fn assert_hole(&self, stretch: &Stretch, words: &[&str]) {
        let Err(Hole(why)) = gather(&self.scope, stretch) else { panic!("no hole: {words:?}") };
        assert!(words.iter().all(|word| why.contains(word)), "{words:?} not in: {why}");
    }
}

#[tokio::test]
async fn all_is_told_that_pg_wal_holds_and_indexes_tell() {
    let stage = Stage::new().await;
    let all: Vec<u32> = (0..stage.pages).collect();
    assert_eq!(stage.told(&stage.stretch(0, &[])), all, "from pg_wal alone");
    stage.keep(0);
    assert_eq!(stage.told(&stage.stretch(0, &[0])), all, "what straddles out of a segment with an index is read again");
    stage.keep(1);
    stage.remove(stage.segment(0).0);
    // The index of the second segment was made without knowing what straddles into it: a record that ends there.
    let missing = stage.told(&stage.stretch(0, &[0, 1]));
    assert!(all.len() - missing.len() <= 1, "{} of {}", missing.len(), all.len());
}

#[tokio::test]
async fn a_record_of_which_the_beginning_is_lost_is_a_hole_but_in_the_first_segment() {
    let stage = Stage::new().await;
    let (first, raw) = stage.segment(0);
    stage.keep(0);
    stage.remove(first);
    stage.assert_hole(&stage.stretch(0, &[0]), &["000000010000000000000004", "the record that begins before it is lost"]);
    // No record begins before the start of a base and ends behind it.
    let told = stage.told(&stage.stretch(1, &[]));
    assert!(told.len() < stage.pages as usize && told.last() == Some(&(stage.pages - 1)));
    // What was kept of the record when the segment passed.
    let carry = summarise(first, stage.log.size, &raw, &Carry::Unknown).unwrap().end.carry;
    let remember = |bytes: &[u8]| {
        let name = stage.segment(1).0.name(stage.log.size);
        stage.scope.state.remember_carry(&stage.scope.source, &stage.incarnation, &name, bytes).unwrap();
    };
    remember(&carry.to_bytes());
    assert_eq!(stage.told(&stage.stretch(0, &[0])).len(), stage.pages as usize);
    // Another record's beginning is no better than none.
    let mut other = Log::new();
    while other.bytes.len() < other.size.bytes() as usize {
        other.append_raw(resource_manager::HEAP, 0x00, 9, &body_with_pages(&[(0, TABLE, 1)], &[2; 2003]));
    }
    let (segment, raw) = other.segments().swap_remove(0);
    remember(&summarise(segment, other.size, &raw, &Carry::Unknown).unwrap().end.carry.to_bytes());
    stage.assert_hole(&stage.stretch(0, &[0]), &["the record that begins before it is lost"]);
}

#[tokio::test]
async fn a_segment_that_is_not_all_there_is_a_hole() {
    let stage = Stage::new().await;
    for (index, at) in [(0, 1 << 19), (1, 1 << 19), (1, (1 << 20) - 4), (2, 1 << 18)] {
        let (segment, raw) = stage.segment(index);
        let mut torn = raw.clone();
        torn[at..].fill(0);
        for spoilt in [&raw[..at], &torn] {
            stage.write(segment, spoilt);
            // Of what straddles out of a segment the next one shows that it is torn.
            stage.assert_hole(&stage.stretch(0, &[]), &["in pg_wal it ends at"]);
        }
        stage.remove(segment);
        stage.assert_hole(&stage.stretch(0, &[]), &[&segment.name(stage.log.size), "not in pg_wal any more"]);
        stage.write(segment, &raw);
    }
    assert_eq!(stage.told(&stage.stretch(0, &[])).len(), stage.pages as usize, "all is there again");
    let other = Incarnation::postgres(15, SYSTEM_IDENTIFIER + 1);
    stage.assert_hole(&Stretch { incarnation: other, ..stage.stretch(0, &[]) }, &["another cluster's"]);
}

#[tokio::test]
async fn a_look_at_a_log_that_is_being_written_ends_with_its_last_record() {
    let stage = Stage::new().await;
    let whole = stage.stretch(0, &[]);
    let within = Stretch { until: Lsn(whole.until.0 - 1000), ..whole.clone() };
    stage.assert_hole(&within, &["in pg_wal it ends at"]);
    let mut look = Stretch { may_end_early: true, ..within };
    assert_eq!(stage.told(&look).len(), stage.pages as usize - 1);
    look.until = whole.until;
    assert_eq!(stage.told(&look).len(), stage.pages as usize);
    // Bytes that are missing before the position are a hole all the same.
    let (segment, mut raw) = stage.segment(2);
    raw[1 << 18..].fill(0);
    stage.write(segment, &raw);
    stage.assert_hole(&look, &["in pg_wal it ends at"]);
}
