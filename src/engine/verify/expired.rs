//! What expired while it was verified is no damage.
//!
//! A tombstone is put before anything of what it names is deleted. So whatever an expiry has taken from under a
//! verification stands in the commit log by the time that the verification looks there once more, at its end.

use std::collections::{BTreeMap, BTreeSet};

use super::finding::{Finding, SourceReport};
use super::log::{gap_was_let_go, was_let_go};
use super::run::Run;
use crate::base::{BackupId, Incarnation, Result, SegmentSize, SourceName, TimelineId};
use crate::engine::head;
use crate::repo::log::LogCut;
use crate::repo::{BackupSummary, layout};

/// What is gone by right.
struct Gone {
    backups: BTreeSet<BackupId>,
    logs: BTreeMap<Incarnation, (SegmentSize, LogCut)>,
}

impl Run<'_> {
    /// Leaves out of the report, and of `backups`, what has expired since the commit log was read.
    ///
    /// # Errors
    /// When the repository does not answer.
    pub(super) async fn leave_out_expired(
        &mut self,
        backups: &mut Vec<BackupSummary>,
        sizes: &BTreeMap<Incarnation, SegmentSize>,
    ) -> Result<()> {
        if !self.report.is_damaged() && self.report.logs.iter().all(|log| log.gaps.is_empty()) {
            return Ok(());
        }
        let log = head::look(self.scope).await?.log;
        let gone = Gone {
            backups: log.expired().map(|backup| backup.id.clone()).collect(),
            logs: sizes.iter().map(|(name, size)| (name.clone(), (*size, log.log_cut(name)))).collect(),
        };
        backups.retain(|backup| !gone.backups.contains(&backup.id));
        gone.leave_out_of(&mut self.report);
        Ok(())
    }
}

impl Gone {
    fn leave_out_of(&self, report: &mut SourceReport) {
        let source = report.source.clone();
        report.findings.retain(|finding| !self.explains(finding, &source));
        for finding in &mut report.findings {
            let mut useless = finding.backup.take().into_iter().chain(std::mem::take(&mut finding.others));
            let mut left = useless.by_ref().filter(|id| !self.backups.contains(id));
            finding.backup = left.next();
            finding.others = left.collect();
        }
        for log in &mut report.logs {
            let Some((size, cut)) = self.logs.get(&log.incarnation) else { continue };
            log.gaps.retain(|gap| !gap_was_let_go(gap, *size, cut));
        }
    }

    /// Whether what was found lies in a backup, or is of log, that is gone.
    fn explains(&self, finding: &Finding, source: &SourceName) -> bool {
        let of_backup = self.backups.iter().any(|id| finding.key.starts_with(&layout::backup(source, id)));
        let of_log = self.logs.iter().any(|(incarnation, (size, cut))| {
            let below = finding.key.strip_prefix(&layout::log(source, incarnation));
            // An index object speaks of more than the segment that it is named after; one that is gone is no finding.
            let of_timeline = below.and_then(|below| below.split_once('/'));
            let file = of_timeline.filter(|(directory, _)| TimelineId::parse_hex(directory).is_some()).map(|(_, file)| file);
            file.is_some_and(|file| was_let_go(file, *size, cut))
        });
        of_backup || (of_log && finding.useless().all(|id| self.backups.contains(id)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Lsn;
    use crate::engine::verify::finding::LogVerdict;
    use crate::engine::verify::plan::Gap;

    #[test]
    fn only_what_is_gone_by_right_is_left_out() {
        let (source, incarnation): (SourceName, _) = ("orders".parse().unwrap(), Incarnation::postgres(15, 1));
        let [gone, kept]: [BackupId; 2] =
            ["20261120T214002Z-full-k3fq", "20261121T214002Z-full-k3fr"].map(|id| id.parse().unwrap());
        let size = SegmentSize::DEFAULT;
        let at = |number| Lsn(number * size.bytes());
        let cut = LogCut::on([TimelineId(1)], [(at(0), at(4)), (at(6), at(9))]);
        let by_right =
            Gone { backups: BTreeSet::from([gone.clone()]), logs: BTreeMap::from([(incarnation.clone(), (size, cut))]) };
        let mut report = SourceReport::new(&source);
        let segment = |name: &str| format!("orders/log/pg15-1/{}/{name}_*0123456789abcdef.zst*", &name[..8]);
        report.findings = vec![
            Finding::damage(layout::packs_list(&source, &gone), "is missing").affecting([&gone]),
            Finding::damage(layout::packs_list(&source, &kept), "is missing").affecting([&kept]),
            Finding::damage(segment("000000010000000000000003"), "is missing").affecting([&gone]),
            Finding::damage(segment("000000010000000000000004"), "is missing").affecting([&gone, &kept]),
            Finding::damage(segment("000000020000000000000003"), "is missing"),
            Finding::damage(segment("000000010000000000000002"), "is missing").affecting([&kept]),
            Finding::damage("orders/log/pg15-1/index/000000010000000000000003-000000010000000000000009_x.json", "is forged"),
        ];
        let gap = |first: &str, last: &str| Gap { first: first.to_owned(), last: last.to_owned(), segments: 2 };
        let gaps = vec![
            gap("000000010000000000000001", "000000010000000000000003"),
            gap("000000010000000000000003", "000000010000000000000004"),
            gap("000000010000000000000001", "000000010000000000000007"),
        ];
        report.logs = vec![LogVerdict { incarnation, segments: 1, uncovered: 0, gaps: gaps.clone() }];
        by_right.leave_out_of(&mut report);
        let left: Vec<(&str, Vec<&BackupId>)> =
            report.findings.iter().map(|finding| (finding.key.as_str(), finding.useless().collect())).collect();
        let expected = [
            (layout::packs_list(&source, &kept), vec![&kept]),
            (segment("000000010000000000000004"), vec![&kept]),
            (segment("000000020000000000000003"), vec![]),
            (segment("000000010000000000000002"), vec![&kept]),
            ("orders/log/pg15-1/index/000000010000000000000003-000000010000000000000009_x.json".to_owned(), vec![]),
        ];
        assert_eq!(left, expected.iter().map(|(key, useless)| (key.as_str(), useless.clone())).collect::<Vec<_>>());
        assert_eq!(report.logs[0].gaps, gaps[1..]);
    }
}
