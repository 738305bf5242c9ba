//! From what a segment touches to the form that is kept of it, and back.

use crate::base::{Incarnation, Segment, SegmentSize};
use crate::codec::Sha256Digest;
use crate::engine::Scope;
use crate::repo::page_index::{PageIndex, TouchedRelation};
use crate::source::postgres::touched::{BlockSet, Touched};
use crate::source::postgres::wal::Relation;

/// So many runs of pages are kept of a segment, at most; one of the usual size never has as many.
const MOST_RUNS: usize = 1 << 20;

/// What a segment that passes touches.
pub(in crate::engine) struct Kept {
    segment: Segment,
    size: SegmentSize,
    index: PageIndex,
}

impl Kept {
    /// Of `segment`, which has the content `raw_sha256`.
    pub fn of(
        segment: Segment,
        size: SegmentSize,
        incarnation: &Incarnation,
        raw_sha256: Sha256Digest,
        touched: &Touched,
    ) -> Self {
        let (mut relations, mut unknown, mut count) = (Vec::new(), touched.unknown.clone(), 0);
        for (relation, blocks) in touched.relations() {
            let (runs, from) = blocks.runs();
            count += runs.len();
            relations.push(TouchedRelation {
                relation: (relation.tablespace, relation.database, relation.file_node),
                runs,
                from,
            });
            if count > MOST_RUNS {
                (relations, unknown) = (Vec::new(), Some("more has changed than is worth keeping".to_owned()));
                break;
            }
        }
        let index = PageIndex {
            version: PageIndex::VERSION,
            incarnation: incarnation.clone(),
            segment: segment.name(size),
            raw_sha256,
            unknown,
            databases: touched.databases.iter().copied().collect(),
            relations,
        };
        Self { segment, size, index }
    }
}

/// Keeps what a segment touches, on this host. What fails is a hole, found and said by the backup that needs it.
pub(in crate::engine) fn keep(scope: &Scope, kept: &Kept) -> Option<String> {
    let written = scope.state.remember_pages(&scope.source, kept.segment, kept.size, &kept.index);
    written.err().map(|error| format!("the next incremental reads the data: {}", error.summary()))
}

/// What an index says; none when it says what cannot be.
pub(super) fn touched(index: &PageIndex) -> Option<Touched> {
    let relations = index.relations.iter().map(|touched| {
        let (tablespace, database, file_node) = touched.relation;
        Some((Relation { tablespace, database, file_node }, BlockSet::from_runs(&touched.runs, touched.from)?))
    });
    let mut touched = Touched::of(relations.collect::<Option<Vec<_>>>()?);
    touched.databases.extend(&index.databases);
    touched.unknown = index.unknown.clone().or(touched.unknown);
    Some(touched)
}
