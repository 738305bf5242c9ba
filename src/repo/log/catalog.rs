//! What the archive holds, read from object names alone: no key needed.

use std::collections::BTreeMap;

use super::name::{CommitTime, HistoryName, SegmentName};
use super::resolution::{self, Resolution};
use super::tail::{ContradictedPieces, Tail};
use crate::base::{Error, Incarnation, Lsn, Result, Segment, SegmentSize, SourceName, TimelineId, Timestamp};
use crate::repo::{Repository, layout};
use crate::store::{ObjectInfo, list_all};

/// One archived segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentObject {
    /// The object's full key.
    pub key: String,
    /// What its name says.
    pub name: SegmentName,
    /// Stored size in bytes.
    pub stored_bytes: u64,
    /// When it arrived, by the store's clock.
    pub arrived: Timestamp,
}

/// Where a timeline branched from its parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineHistory {
    /// The history object's full key.
    pub key: String,
    /// What its name says.
    pub name: HistoryName,
    /// When it arrived, by the store's clock.
    pub arrived: Timestamp,
}

/// Two contents archived under one name: two primaries, or a disk that was rolled back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitBrain {
    /// Segment or history file name.
    pub file: String,
    /// The digests found.
    pub digests: Vec<String>,
}

/// The archived log of one incarnation.
#[derive(Clone, Debug, Default)]
pub struct LogCatalog {
    /// Segments by timeline and number, split brains left out. With those in `tail`, where it was asked for.
    pub segments: BTreeMap<Segment, SegmentObject>,
    /// Segments that are not there whole, in pieces: [`LogCatalog::load_with_tail`].
    pub tail: BTreeMap<Segment, Tail>,
    /// Histories by the timeline they describe, split brains left out.
    pub histories: BTreeMap<TimelineId, TimelineHistory>,
    /// Contradictions that no resolution has ended. Readers refuse to use these files.
    pub split_brains: Vec<SplitBrain>,
    /// Pieces that cannot both be right. Their segments are not used before they are whole.
    pub contradicted_pieces: Vec<ContradictedPieces>,
    /// Objects whose names are not understood.
    pub strangers: Vec<String>,
}

impl LogCatalog {
    /// Lists the log of `incarnation`.
    ///
    /// # Errors
    /// When the repository does not answer or a resolution is damaged.
    pub async fn load(
        repository: &Repository,
        source: &SourceName,
        incarnation: &Incarnation,
        size: SegmentSize,
    ) -> Result<Self> {
        let listing = list_all(repository.store(), &layout::log(source, incarnation), None).await?;
        Self::of_listing(repository, source, incarnation, size, listing).await
    }

    /// The catalogue that a listing of the log of `incarnation` tells.
    ///
    /// # Errors
    /// When there is something to resolve, and the repository does not answer or a resolution is damaged.
    pub(super) async fn of_listing(
        repository: &Repository,
        source: &SourceName,
        incarnation: &Incarnation,
        size: SegmentSize,
        listing: Vec<ObjectInfo>,
    ) -> Result<Self> {
        let prefix = layout::log(source, incarnation);
        let mut segments: BTreeMap<Segment, Vec<SegmentObject>> = BTreeMap::new();
        let mut histories: BTreeMap<TimelineId, Vec<TimelineHistory>> = BTreeMap::new();
        let mut catalog = Self::default();
        for object in listing {
            let relative = &object.key[prefix.len()..];
            if relative.starts_with("key/") || relative.starts_with("index/") || relative.starts_with("resolution/") {
                continue;
            }
            let file = relative.rsplit('/').next().unwrap_or(relative);
            if let Some(name) =
                SegmentName::parse(file, size).filter(|name| relative == format!("{}/{file}", name.segment.timeline.hex()))
            {
                let found = SegmentObject { key: object.key, name, stored_bytes: object.size_bytes, arrived: object.modified };
                segments.entry(found.name.segment).or_default().push(found);
            } else if let Some(name) = HistoryName::parse(file).filter(|_| !relative.contains('/')) {
                let found = TimelineHistory { key: object.key, name, arrived: object.modified };
                histories.entry(found.name.timeline).or_default().push(found);
            } else if super::name::parse_auxiliary(file).is_none() {
                catalog.strangers.push(object.key);
            }
        }
        let contradicted = segments.values().any(|found| distinct(found, |object| &object.name.digest).len() > 1)
            || histories.values().any(|found| distinct(found, |object| &object.name.digest).len() > 1);
        // Resolutions are read only when there is something to resolve.
        let resolutions = if contradicted { resolution::load(repository, source, incarnation).await? } else { Vec::new() };
        for (segment, mut found) in segments {
            if found.len() > 1 {
                believe_what_agrees(&mut found);
            }
            if let Some(object) = catalog.choose(segment.name(size), found, &resolutions, |object| &object.name.digest) {
                catalog.segments.insert(segment, object);
            }
        }
        for (timeline, found) in histories {
            if let Some(object) =
                catalog.choose(format!("{}.history", timeline.hex()), found, &resolutions, |object| &object.name.digest)
            {
                catalog.histories.insert(timeline, object);
            }
        }
        Ok(catalog)
    }

    /// The one object to use for `file`, or none and a split brain on record.
    fn choose<T>(
        &mut self,
        file: String,
        found: Vec<T>,
        resolutions: &[Resolution],
        digest: impl Fn(&T) -> &String,
    ) -> Option<T> {
        let digests = distinct(&found, &digest);
        if digests.len() == 1 {
            return found.into_iter().next();
        }
        match resolution::kept(resolutions, &file) {
            Some(kept) => found.into_iter().find(|object| digest(object) == kept),
            None => {
                self.split_brains.push(SplitBrain { file, digests });
                None
            }
        }
    }

    /// Timelines that have segments or a history, ascending.
    pub fn timelines(&self) -> Vec<TimelineId> {
        let mut timelines: Vec<TimelineId> = self.segments.keys().map(|segment| segment.timeline).collect();
        timelines.extend(self.histories.keys());
        timelines.sort_unstable();
        timelines.dedup();
        timelines
    }

    /// The ancestry of `timeline`, itself first: each with the LSN where its child branched off (none for itself).
    ///
    /// It ends at timeline 1, or where the archive itself begins.
    ///
    /// # Errors
    /// When a history between `timeline` and its oldest archived ancestor is missing or contradicted.
    pub fn ancestry(&self, timeline: TimelineId) -> Result<Vec<(TimelineId, Option<Lsn>)>> {
        let mut path = vec![(timeline, None)];
        let mut current = timeline;
        while current > TimelineId(1) {
            let Some(history) = self.histories.get(&current) else {
                // The archive may have begun on a later timeline than the first.
                let is_oldest = self.segments.keys().next().is_none_or(|segment| segment.timeline >= current);
                if is_oldest {
                    break;
                }
                return Err(Error::damaged(format!(
                    "the history of timeline {current} ({}.history) is not in the archive",
                    current.hex()
                ))
                .hint("on the server that has it: lifeboat archive push SOURCE pg_wal/NNNNNNNN.history"));
            };
            // A name in which the parent is not the smaller timeline does not parse: this ends.
            current = history.name.parent;
            path.push((current, Some(history.name.switch_lsn)));
        }
        Ok(path)
    }
}

/// One content may have several names: archived again when less or more was known, or put by somebody. Where they disagree
/// none is believed, and what it holds has to be read.
fn believe_what_agrees(found: &mut [SegmentObject]) {
    let names: Vec<SegmentName> = found.iter().map(|object| object.name.clone()).collect();
    for object in found {
        if names.iter().any(|other| other.digest == object.name.digest && *other != object.name) {
            (object.name.first, object.name.last, object.name.commits) = (CommitTime::Unknown, CommitTime::Unknown, None);
        }
    }
}

fn distinct<T>(found: &[T], digest: impl Fn(&T) -> &String) -> Vec<String> {
    let mut digests: Vec<String> = found.iter().map(|object| digest(object).clone()).collect();
    digests.sort_unstable();
    digests.dedup();
    digests
}
