//! Names of log objects, which are their index entries.
//!
//! `<segment>_<first>_<last>_<n>_<digest>.zst[.age]`: the 24-digit segment name; the times of the first and of the
//! latest transaction end (COMMIT, ABORT and their prepared forms) that end in it, `-` when there is none, `?` when
//! unknown; the number of commits, `?` when unknown; the first 16 hex digits of the SHA-256 of the raw segment.

use crate::base::{Lsn, Segment, SegmentSize, TimelineId, Timestamp};

/// A time in a segment's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitTime {
    /// No transaction ends in the segment.
    None,
    /// It could not be read.
    Unknown,
    /// The time, to the microsecond.
    At(Timestamp),
}

impl CommitTime {
    pub(super) fn text(self) -> String {
        match self {
            Self::None => "-".to_owned(),
            Self::Unknown => "?".to_owned(),
            Self::At(time) => time.compact(),
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "-" => Some(Self::None),
            "?" => Some(Self::Unknown),
            time => Timestamp::parse_compact(time).map(Self::At),
        }
    }

    /// The time when it is known and there is one.
    pub fn known(self) -> Option<Timestamp> {
        match self {
            Self::At(time) => Some(time),
            Self::None | Self::Unknown => None,
        }
    }
}

/// The name of a segment's object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentName {
    /// Which segment.
    pub segment: Segment,
    /// First transaction end in log order.
    pub first: CommitTime,
    /// Latest transaction end by time.
    pub last: CommitTime,
    /// Number of COMMIT and COMMIT PREPARED records; `None` when unknown.
    pub commits: Option<u32>,
    /// First 16 hex digits of the SHA-256 of the raw segment.
    pub digest: String,
}

impl SegmentName {
    /// The object's name without its directory; `suffix` is `.age` or empty.
    pub fn text(&self, size: SegmentSize, suffix: &str) -> String {
        let commits = self.commits.map_or("?".to_owned(), |commits| commits.to_string());
        let (segment, first, last) = (self.segment.name(size), self.first.text(), self.last.text());
        format!("{segment}_{first}_{last}_{commits}_{}.zst{suffix}", self.digest)
    }

    /// Parses a name with or without `.age`; `None` when it is none.
    pub fn parse(text: &str, size: SegmentSize) -> Option<Self> {
        let mut parts = strip_suffix(text)?.split('_');
        let mut next = || parts.next();
        let segment = Segment::parse(next()?, size)?;
        let (first, last) = (CommitTime::parse(next()?)?, CommitTime::parse(next()?)?);
        let commits = match next()? {
            "?" => None,
            number => Some(parse_decimal(number)?),
        };
        let digest = next().filter(|digest| is_short_digest(digest))?.to_owned();
        next().is_none().then_some(Self { segment, first, last, commits, digest })
    }
}

/// The name of a timeline history's object: `<timeline>_from-<parent>-<switch LSN>_<digest>.history.zst[.age]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryName {
    /// The timeline that the history describes.
    pub timeline: TimelineId,
    /// The timeline it branched from.
    pub parent: TimelineId,
    /// Where it branched: the first byte that belongs to the new timeline.
    pub switch_lsn: Lsn,
    /// First 16 hex digits of the SHA-256 of the history file.
    pub digest: String,
}

impl HistoryName {
    /// The object's name without its directory; `suffix` is `.age` or empty.
    pub fn text(&self, suffix: &str) -> String {
        let (timeline, parent, lsn) = (self.timeline.hex(), self.parent.hex(), self.switch_lsn.0);
        format!("{timeline}_from-{parent}-{lsn:016X}_{}.history.zst{suffix}", self.digest)
    }

    /// Parses a name with or without `.age`; `None` when it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = strip_suffix(text)?.strip_suffix(".history")?.split('_');
        let timeline = TimelineId::parse_hex(parts.next()?)?;
        let (parent, lsn) = parts.next()?.strip_prefix("from-")?.split_once('-')?;
        let parent = TimelineId::parse_hex(parent).filter(|parent| *parent < timeline)?;
        let upper = lsn.len() == 16 && lsn.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
        let switch_lsn = Lsn(u64::from_str_radix(lsn, 16).ok().filter(|_| upper)?);
        let digest = parts.next().filter(|digest| is_short_digest(digest))?.to_owned();
        parts.next().is_none().then_some(Self { timeline, parent, switch_lsn, digest })
    }
}

/// The name of what PostgreSQL archives beside segments and histories, `<file>_<digest>.zst[.age]`:
/// `.partial` segments and `.backup` labels. Kept, never needed for a restore.
pub fn auxiliary_text(file: &str, digest: &str, suffix: &str) -> String {
    format!("{file}_{digest}.zst{suffix}")
}

/// The archived file's name and digest, from [`auxiliary_text`].
pub fn parse_auxiliary(text: &str) -> Option<(&str, &str)> {
    let (file, digest) = strip_suffix(text)?.rsplit_once('_')?;
    let auxiliary = file.ends_with(".partial") || file.ends_with(".backup");
    (auxiliary && !file.contains('_') && is_short_digest(digest)).then_some((file, digest))
}

pub(super) fn strip_suffix(text: &str) -> Option<&str> {
    text.strip_suffix(".age").unwrap_or(text).strip_suffix(".zst")
}

/// Whether `text` is 16 lower-case hex digits.
pub fn is_short_digest(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

pub(super) fn parse_decimal(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number: &u32| number.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    #[test]
    fn segment_names_round_trip() {
        let segment = Segment::parse("00000001000000A3000000F1", SIZE).unwrap();
        let time = Timestamp::parse_compact("20261120T214002.123456Z").unwrap();
        for (first, last, commits) in [
            (CommitTime::At(time), CommitTime::At(time), Some(17)),
            (CommitTime::None, CommitTime::None, Some(0)),
            (CommitTime::Unknown, CommitTime::Unknown, None),
        ] {
            let name = SegmentName { segment, first, last, commits, digest: "0123456789abcdef".into() };
            for suffix in ["", ".age"] {
                assert_eq!(SegmentName::parse(&name.text(SIZE, suffix), SIZE).as_ref(), Some(&name));
            }
        }
        for bad in [
            "",
            "00000001000000A3000000F1",
            "00000001000000A3000000F1_-_-_0_0123456789ABCDEF.zst",
            "00000001000000A3000000F1_-_-_00_0123456789abcdef.zst",
            "00000001000000A3000000F1_-_-_0_0123456789abcdef.zst.gpg",
            "00000001000000A3000000F1_-_-_0_0123456789abcdef_x.zst",
        ] {
            assert_eq!(SegmentName::parse(bad, SIZE), None, "{bad}");
        }
    }

    #[test]
    fn history_names_carry_the_timeline_graph() {
        let name = HistoryName {
            timeline: TimelineId(3),
            parent: TimelineId(1),
            switch_lsn: "A3/F1000028".parse().unwrap(),
            digest: "0123456789abcdef".into(),
        };
        assert_eq!(name.text(".age"), "00000003_from-00000001-000000A3F1000028_0123456789abcdef.history.zst.age");
        assert_eq!(HistoryName::parse(&name.text(".age")), Some(name.clone()));
        assert_eq!(HistoryName::parse(&name.text("").replace("00000003_", "00000001_")), None, "a timeline cannot follow itself");
    }

    #[test]
    fn auxiliary_names_keep_the_file_name() {
        let text = auxiliary_text("000000010000000000000003.partial", "0123456789abcdef", ".age");
        assert_eq!(parse_auxiliary(&text), Some(("000000010000000000000003.partial", "0123456789abcdef")));
        assert_eq!(parse_auxiliary("000000010000000000000003_0123456789abcdef.zst"), None);
    }
}
