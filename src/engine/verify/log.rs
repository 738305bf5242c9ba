//! The archived log of one incarnation: every object that a signed digest names, contradictions, and continuity.

use std::collections::{BTreeMap, BTreeSet};

use super::finding::{Finding, LogVerdict};
use super::keys::Openers;
use super::plan::{self, Check, LogKind, LogObject, Stored};
use super::run::Run;
use crate::base::{BackupId, ErrorKind, Incarnation, Result, Segment, SegmentSize, TimelineId};
use crate::codec::encrypt::Opener;
use crate::repo::log::index::{self, IndexLine};
use crate::repo::log::resolution::{self, Resolution};
use crate::repo::log::{LogCatalog, LogCut};
use crate::repo::{BackupSummary, layout};
use crate::store::list_all;

/// An object of the log with what is signed of it.
pub(super) struct Signed<'l> {
    pub object: LogObject,
    pub lines: Vec<&'l IndexLine>,
    pub check: Check,
}

impl Run<'_> {
    /// Verifies one incarnation's log; in a deep run decodes it too.
    ///
    /// # Errors
    /// When the repository does not answer.
    pub(super) async fn log(
        &mut self,
        incarnation: &Incarnation,
        size: SegmentSize,
        backups: &[&BackupSummary],
        openers: &Openers,
    ) -> Result<()> {
        let (repository, source) = (&self.scope.repository, self.source().clone());
        let resolutions = match resolution::load(repository, &source, incarnation).await {
            Ok(resolutions) => resolutions,
            Err(error) if error.kind() == ErrorKind::Damaged => {
                self.find(Finding::damage(layout::log_resolutions(&source, incarnation), error.summary()));
                Vec::new()
            }
            Err(error) => return Err(error),
        };
        let catalog = match LogCatalog::load(&self.scope.repository, &source, incarnation, size).await {
            Ok(catalog) => catalog,
            // A damaged resolution, which is reported already: what it resolves stays out of use.
            Err(error) if error.kind() == ErrorKind::Damaged => LogCatalog::default(),
            Err(error) => return Err(error),
        };
        let index = index::load(&self.scope.repository, &source, incarnation).await?;
        self.report.checked_objects += index.problems.len() as u64;
        for (key, error) in &index.problems {
            self.find(Finding::damage(key, error.to_string()));
        }
        let prefix = layout::log(&source, incarnation);
        let listing = list_all(self.store(), &prefix, None).await?;
        let objects = plan::log_objects(&prefix, &listing, size, &catalog.strangers);
        let (lines, mut gone) = plan::match_index(&objects, &index.lines);
        // What no backup needed any more was deleted, by right of a tombstone.
        let cut = self.cuts.get(incarnation).cloned().unwrap_or_default();
        gone.retain(|line| !was_let_go(&line.file, size, &cut));
        self.contradictions(&catalog, &prefix, size, backups);
        let segments: BTreeSet<Segment> = catalog.segments.keys().copied().collect();
        self.absent(&prefix, size, backups, &segments, &gone, &resolutions);
        self.keys_of_log(incarnation, &objects, openers);
        let opener = openers.logs.get(incarnation).filter(|_| self.identities.is_some());
        self.tail(incarnation, size, &segments, opener).await?;
        let histories: Vec<_> = catalog.histories.values().map(|history| history.name.clone()).collect();
        let from = backups.iter().map(|backup| *plan::needed(backup).start()).min().unwrap_or(0);
        let mut gaps = plan::gaps(&segments, &histories, from, size);
        gaps.retain(|gap| !gap_was_let_go(gap, size, &cut));
        self.report.logs.push(LogVerdict {
            incarnation: incarnation.clone(),
            segments: segments.len() as u64,
            uncovered: lines.iter().filter(|lines| lines.is_empty()).count() as u64,
            gaps,
        });
        let signed: Vec<Signed<'_>> =
            objects.into_iter().zip(lines).map(|(object, lines)| signed(object, lines, backups)).collect();
        match opener {
            Some(opener) => {
                let keys = openers.stretches.get(incarnation).map_or(0, BTreeSet::len);
                let all_keys = matches!(opener, Opener::Age(unwrapped) if unwrapped.len() >= keys);
                self.deep_log(incarnation.engine(), size, signed, &histories, opener, all_keys).await
            }
            None => {
                let signed: Vec<Signed<'_>> = signed.into_iter().filter(|signed| !signed.lines.is_empty()).collect();
                let total = signed.iter().map(|signed| signed.object.stored_bytes).sum();
                self.progress.phase(&format!("verifying the log of {source}"), Some(total));
                self.look_at(signed.into_iter().map(|signed| signed.check).collect()).await
            }
        }
    }

    /// Two contents under one name, names nobody gives, histories that are lacking.
    fn contradictions(&mut self, catalog: &LogCatalog, prefix: &str, size: SegmentSize, backups: &[&BackupSummary]) {
        for split in &catalog.split_brains {
            let what = format!(
                "was archived with different contents, by two servers or after a roll-back: {}",
                split.digests.join(", ")
            );
            let useless = Segment::parse(&split.file, size).map(|segment| needed_by(segment, backups)).unwrap_or_default();
            self.find(Finding::damage(pattern(prefix, &split.file, "*"), what).affecting(useless));
        }
        for stranger in &catalog.strangers {
            self.find(Finding::notice(stranger, "has no name that lifeboat gives"));
        }
        let timelines: BTreeSet<TimelineId> = catalog.segments.keys().map(|segment| segment.timeline).collect();
        for timeline in timelines.iter().skip(1).filter(|timeline| !catalog.histories.contains_key(timeline)) {
            let file = format!("{}.history", timeline.hex());
            let what = "is not in the archive: nothing can be restored across the change of timeline";
            self.find(Finding::notice(pattern(prefix, &file, "*"), what));
        }
    }

    /// What signed digests name and backups need, and what is not there.
    fn absent(
        &mut self,
        prefix: &str,
        size: SegmentSize,
        backups: &[&BackupSummary],
        segments: &BTreeSet<Segment>,
        gone: &[&IndexLine],
        resolutions: &[Resolution],
    ) {
        let mut told: BTreeSet<String> = BTreeSet::new();
        for line in gone {
            let digest = line.raw_sha256.short();
            // What an operator decided against may have been removed.
            if resolution::kept(resolutions, &line.file).is_some_and(|kept| *kept != digest) {
                continue;
            }
            let useless = Segment::parse(&line.file, size).map(|segment| needed_by(segment, backups)).unwrap_or_default();
            self.find(Finding::damage(pattern(prefix, &line.file, &digest), "is missing").affecting(useless));
            told.insert(line.file.clone());
        }
        let mut missing: BTreeMap<String, Vec<&BackupId>> = BTreeMap::new();
        for backup in backups {
            for segment in plan::missing_for(backup, segments) {
                missing.entry(segment.name(size)).or_default().push(&backup.id);
            }
        }
        for (file, useless) in missing.into_iter().filter(|(file, _)| !told.contains(file)) {
            let what = "is not in the archive, or contradicted: the backup cannot be restored without it";
            self.find(Finding::damage(pattern(prefix, &file, "*"), what).affecting(useless));
        }
    }

    /// Without its key a log is lost. Stretches are numbered without gaps.
    fn keys_of_log(&mut self, incarnation: &Incarnation, objects: &[LogObject], openers: &Openers) {
        let numbers = openers.stretches.get(incarnation).cloned().unwrap_or_default();
        let sealed = objects.iter().any(|object| object.key.ends_with(".age"));
        let last = numbers.last().copied().unwrap_or(u32::from(sealed));
        for missing in (1..=last).filter(|number| !numbers.contains(number)) {
            self.find(Finding::damage(layout::log_key(self.source(), incarnation, missing, 1), "is missing"));
        }
    }
}

fn signed<'l>(object: LogObject, lines: Vec<&'l IndexLine>, backups: &[&BackupSummary]) -> Signed<'l> {
    let useless = match &object.kind {
        LogKind::Segment(name) => needed_by(name.segment, backups).into_iter().cloned().collect(),
        LogKind::History(_) | LogKind::Auxiliary => Vec::new(),
    };
    let expected = lines.iter().map(|line| Stored { bytes: line.stored_bytes, sha256: line.stored_sha256 }).collect();
    Signed { check: Check { key: object.key.clone(), expected, backups: useless }, object, lines }
}

/// Whether a segment, or a partial one or a label of one, was let go.
pub(super) fn was_let_go(file: &str, size: SegmentSize, cut: &LogCut) -> bool {
    let segment = file.get(..24).and_then(|name| Segment::parse(name, size));
    segment.is_some_and(|segment| cut.covers_segment(segment, size))
}

/// Whether every segment of a gap was let go: between two ranges that were, a kept backup's own log may be lost.
pub(super) fn gap_was_let_go(gap: &plan::Gap, size: SegmentSize, cut: &LogCut) -> bool {
    let (Some(first), Some(last)) = (Segment::parse(&gap.first, size), Segment::parse(&gap.last, size)) else { return false };
    // Ranges that touch are one.
    cut.segments(first.timeline, size).any(|gone| gone.start <= first.number && last.number < gone.end)
}

/// The backups that cannot be restored without `segment`.
fn needed_by<'b>(segment: Segment, backups: &[&'b BackupSummary]) -> Vec<&'b BackupId> {
    let needs = |backup: &&&BackupSummary| backup.timeline == segment.timeline && plan::needed(backup).contains(&segment.number);
    backups.iter().filter(needs).map(|backup| &backup.id).collect()
}

/// A shell pattern for the objects of `file`, whose whole names nobody knows any more.
fn pattern(prefix: &str, file: &str, digest: &str) -> String {
    match file.strip_suffix(".history") {
        Some(timeline) => format!("{prefix}{timeline}_from-*_{digest}.history.zst*"),
        None => format!("{prefix}{}/{file}_*{digest}.zst*", file.get(..8).unwrap_or_default()),
    }
}
