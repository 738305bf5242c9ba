//! Timeline history files: where a timeline branched off its parents.
//!
//! Invariant of a parsed [`History`]: its steps go from the oldest ancestor to the direct parent, with growing
//! timelines. Switch points may go back: PostgreSQL writes the recovery's target timeline as the parent even when it
//! stopped before that timeline began. Then nothing of it is in the new timeline's past, and the ancestors before it were
//! left at the same point.
//! Source: PostgreSQL `src/backend/access/transam/timeline.c`.

use crate::base::{Error, Lsn, Result, TimelineId};

/// One step of a timeline's ancestry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryStep {
    /// The ancestor.
    pub timeline: TimelineId,
    /// Where it was left: the log before this LSN is the ancestor's.
    pub switch_lsn: Lsn,
    /// Why, in the server's words (`no recovery target specified`); may be empty.
    pub reason: String,
}

/// The ancestry of one timeline, oldest first. Timeline 1 has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    timeline: TimelineId,
    steps: Vec<HistoryStep>,
}

impl History {
    /// The history of a timeline without ancestors.
    pub fn root(timeline: TimelineId) -> Self {
        Self { timeline, steps: Vec::new() }
    }

    /// Parses the content of `<timeline>.history`.
    ///
    /// Lines are `parent TAB switch LSN TAB reason`; empty lines and `#` comments are skipped. Anything else, or an
    /// order that PostgreSQL would refuse, is [`crate::base::ErrorKind::Damaged`].
    pub fn parse(timeline: TimelineId, content: &[u8]) -> Result<Self> {
        let mut steps: Vec<HistoryStep> = Vec::new();
        for (number, line) in content.split(|byte| *byte == b'\n').enumerate() {
            let line = String::from_utf8_lossy(line);
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let damaged = |why: &str| {
                Error::damaged(format!("history of timeline {timeline} is damaged in line {}: {why}", number + 1))
                    .detail("line", line)
            };
            let step = parse_line(line).map_err(|why| damaged(&why))?;
            // Only the timelines must grow: after a recovery that ended before its target timeline began, PostgreSQL writes
            // a switch that lies before the one above it.
            let ascending = steps.last().is_none_or(|last| last.timeline < step.timeline);
            if !ascending || step.timeline >= timeline {
                return Err(damaged("timelines must grow from ancestor to descendant"));
            }
            steps.push(step);
        }
        Ok(Self { timeline, steps })
    }

    /// A file with this content. PostgreSQL's own may hold blank lines besides; it skips them as we do.
    pub fn format(&self) -> Vec<u8> {
        let line = |step: &HistoryStep| format!("{}\t{}\t{}\n", step.timeline, step.switch_lsn, step.reason);
        self.steps.iter().map(line).collect::<String>().into_bytes()
    }

    /// Whose history this is.
    pub fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// The ancestors, oldest first.
    pub fn steps(&self) -> &[HistoryStep] {
        &self.steps
    }

    /// The direct parent and the switch LSN; `None` for a timeline without one.
    pub fn parent(&self) -> Option<&HistoryStep> {
        self.steps.last()
    }

    /// Where `ancestor` was left on the way here; `None` when it is not an ancestor.
    pub fn switch_point(&self, ancestor: TimelineId) -> Option<Lsn> {
        let at = self.steps.iter().position(|step| step.timeline == ancestor)?;
        self.left_at(at)
    }

    /// The timeline whose log holds the byte at `lsn`, on the way to this timeline.
    pub fn timeline_at(&self, lsn: Lsn) -> TimelineId {
        let holds = |at: &usize| self.left_at(*at).is_some_and(|left| lsn < left);
        (0..self.steps.len()).find(holds).map_or(self.timeline, |at| self.steps[at].timeline)
    }

    /// Where the log stops to be that of a step and of those before it.
    fn left_at(&self, step: usize) -> Option<Lsn> {
        self.steps[step..].iter().map(|step| step.switch_lsn).min()
    }

    /// True when the log up to `lsn` on `timeline` is part of this timeline's past (or of itself).
    pub fn contains(&self, timeline: TimelineId, lsn: Lsn) -> bool {
        timeline == self.timeline || self.switch_point(timeline).is_some_and(|switch| lsn <= switch)
    }
}

/// The file's name: `00000002.history`.
pub fn file_name(timeline: TimelineId) -> String {
    format!("{}.history", timeline.hex())
}

/// Parses [`file_name`].
pub fn parse_file_name(name: &str) -> Option<TimelineId> {
    name.strip_suffix(".history").and_then(TimelineId::parse_hex)
}

fn parse_line(line: &str) -> Result<HistoryStep, String> {
    let mut fields = line.splitn(3, char::is_whitespace);
    let timeline = fields.next().and_then(|field| field.parse().ok()).filter(|timeline| *timeline > 0);
    let timeline = TimelineId(timeline.ok_or("expected a timeline number")?);
    // PostgreSQL reads with scanf, so any run of blanks separates; it writes one tab.
    let rest = line.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start();
    let (lsn, reason) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    Ok(HistoryStep { timeline, switch_lsn: lsn.parse()?, reason: reason.trim_start().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const THIRD: &[u8] = b"1\t0/3000148\tno recovery target specified\n\n2\t0/5000000\tbefore 2026-11-20 21:40:02+00\n";

    #[test]
    fn a_history_round_trips_and_answers() {
        let history = History::parse(TimelineId(3), THIRD).unwrap();
        assert_eq!(history.parent().unwrap().timeline, TimelineId(2));
        assert_eq!(history.switch_point(TimelineId(1)), Some(Lsn(0x300_0148)));
        assert_eq!(history.timeline_at(Lsn(0x300_0147)), TimelineId(1));
        assert_eq!(history.timeline_at(Lsn(0x300_0148)), TimelineId(2));
        assert_eq!(history.timeline_at(Lsn(0x500_0000)), TimelineId(3));
        assert!(history.contains(TimelineId(1), Lsn(0x300_0148)));
        assert!(!history.contains(TimelineId(1), Lsn(0x300_0149)));
        assert!(!history.contains(TimelineId(4), Lsn(1)));
        assert!(History::root(TimelineId(1)).contains(TimelineId(1), Lsn(u64::MAX)));
        assert_eq!(History::parse(TimelineId(3), &history.format()).unwrap(), history);
    }

    #[test]
    fn a_recovery_may_stop_before_its_target_timeline_began() {
        let history = History::parse(TimelineId(3), b"1\t0/5000\tr\n2\t0/3000\tbefore LSN 0/3000\n").unwrap();
        assert_eq!(history.parent().unwrap().switch_lsn, Lsn(0x3000));
        assert_eq!((history.timeline_at(Lsn(0x2FFF)), history.timeline_at(Lsn(0x3000))), (TimelineId(1), TimelineId(3)));
        assert!(history.contains(TimelineId(1), Lsn(0x3000)) && !history.contains(TimelineId(1), Lsn(0x3001)));
    }

    #[test]
    fn damaged_histories_are_refused_with_their_line() {
        for bad in [&b"x\t0/1\treason\n"[..], b"1\n", b"1 0-1 reason", b"0\t0/1\tr", b"2\t0/2\tr\n1\t0/3\tr\n", b"3\t0/2\tr\n"] {
            assert!(History::parse(TimelineId(3), bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
        let error = History::parse(TimelineId(3), b"1\t0/2\tr\nbroken\n").unwrap_err();
        assert!(error.message().contains("line 2"), "{error}");
    }

    #[test]
    fn a_switch_may_lie_before_the_one_above_it() {
        // Written by PostgreSQL after a recovery along timeline 2 that ended before timeline 2 began.
        let history = History::parse(TimelineId(3), b"1\t0/5000\tr\n2\t0/4000\tr\n").unwrap();
        assert_eq!(history.parent().unwrap().switch_lsn, Lsn(0x4000));
    }

    #[test]
    fn file_names_are_hexadecimal() {
        assert_eq!(file_name(TimelineId(26)), "0000001A.history");
        assert_eq!(parse_file_name("0000001A.history"), Some(TimelineId(26)));
        assert_eq!(parse_file_name("1A.history"), None);
    }
}
