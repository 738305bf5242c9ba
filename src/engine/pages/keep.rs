//! From what a segment touches to the form that is kept of it, and back.

use crate::base::{Incarnation, Segment, SegmentSize};
use crate::codec::Sha256Digest;
use crate::engine::Scope;
use crate::repo::page_index::{PageIndex, TouchedRelation};
use crate::source::postgres::touched::{BlockSet, Touched};
use crate::source::postgres::wal::Relation;

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
        let relations = touched.relations.iter().map(|(relation, blocks)| {
            let (runs, from) = blocks.runs();
            TouchedRelation { relation: (relation.tablespace, relation.database, relation.file_node), runs, from }
        });
        let index = PageIndex {
            version: PageIndex::VERSION,
            incarnation: incarnation.clone(),
            segment: segment.name(size),
            raw_sha256,
            unknown: touched.unknown.clone(),
            databases: touched.databases.iter().copied().collect(),
            relations: relations.collect(),
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
    Some(Touched {
        relations: relations.collect::<Option<_>>()?,
        databases: index.databases.iter().copied().collect(),
        unknown: index.unknown.clone(),
    })
}
