//! The log of a SQLite database, read page by page: each segment whole, and each going on from the one before.

use crate::base::Segment;
use crate::repo::log::name::{CommitTime, SegmentName};
use crate::source::sqlite::{Moment, SegmentHeader, SegmentReader};

/// The most that one segment can hold: a log that grows beyond 4 GiB before it is stored is let go.
pub(super) const LIMIT_BYTES: u64 = 5 << 30;

/// The moment to which the segment that was read last leads.
#[derive(Default)]
pub(super) struct Ended(Option<(Segment, Moment)>);

impl Ended {
    /// Reads the segment called `name`; what is wrong with it, if anything is.
    pub fn read(&mut self, name: &SegmentName, raw: &[u8]) -> Option<String> {
        let before = self.0.take().filter(|(segment, _)| segment.next() == name.segment).map(|(_, moment)| moment);
        let header = match whole(raw) {
            Ok(header) => header,
            Err(why) => return Some(why),
        };
        self.0 = Some((name.segment, header.to));
        let told = CommitTime::At(header.to.captured_at);
        match (header.from, before) {
            (None, _) => Some("is a snapshot where what follows one is kept".to_owned()),
            (Some(from), Some(before)) if from != before => {
                Some(format!("goes on from {}, and the segment before it leads to {}", from.captured_at, before.captured_at))
            }
            _ if name.last != told => Some("holds another moment than its name says".to_owned()),
            _ => None,
        }
    }
}

/// Reads a segment to its end, where its digest stands.
fn whole(raw: &[u8]) -> Result<SegmentHeader, String> {
    let told = |error: crate::base::Error| error.summary();
    let mut reader = SegmentReader::begin(raw).map_err(told)?;
    let mut page = Vec::new();
    while reader.next_page(&mut page).map_err(told)?.is_some() {}
    Ok(*reader.header())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::TimelineId;
    use crate::source::sqlite::SegmentWriter;

    fn segment(number: u64, to: i64) -> SegmentName {
        let time = CommitTime::At(Moment::sample(to).captured_at);
        let segment = Segment { timeline: TimelineId(1), number };
        SegmentName { segment, first: time, last: time, commits: Some(1), digest: "0".repeat(16) }
    }

    fn raw(from: Option<i64>, to: i64) -> Vec<u8> {
        let header = SegmentHeader { from: from.map(Moment::sample), to: Moment::sample(to) };
        let mut writer = SegmentWriter::begin(Vec::new(), &header).unwrap();
        writer.page(2, &[7; 512]).unwrap();
        writer.finish().unwrap()
    }

    #[test]
    fn each_goes_on_from_the_one_before_but_behind_a_gap() {
        let mut ended = Ended::default();
        assert_eq!(ended.read(&segment(1, 20), &raw(Some(10), 20)), None);
        assert_eq!(ended.read(&segment(2, 30), &raw(Some(20), 30)), None);
        assert_eq!(ended.read(&segment(4, 50), &raw(Some(40), 50)), None, "a number is left out");
        let wrong = ended.read(&segment(5, 60), &raw(Some(45), 60)).unwrap();
        assert!(wrong.contains("goes on from"), "{wrong}");
        assert!(ended.read(&segment(6, 71), &raw(Some(60), 70)).unwrap().contains("than its name says"));
        assert!(ended.read(&segment(7, 80), &raw(None, 80)).unwrap().contains("snapshot"));
        let mut torn = raw(Some(80), 90);
        torn.truncate(torn.len() - 1);
        assert!(ended.read(&segment(8, 90), &torn).is_some());
        assert_eq!(ended.read(&segment(9, 99), &raw(Some(90), 99)), None, "of what was torn nothing is known");
    }
}
