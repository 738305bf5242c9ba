//! The log, decoded and read record by record. What straddles out of a segment is carried into the next, also across a
//! change of timeline.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::deep_database::{self, Ended};
use super::fetch;
use super::finding::Finding;
use super::log::Signed;
use super::plan::{LogKind, LogObject, Stored};
use super::run::Run;
use crate::base::{Engine, ErrorKind, Result, Segment, SegmentSize, TimelineId};
use crate::codec::Sha256Digest;
use crate::codec::encrypt::Opener;
use crate::engine::archive::contents;
use crate::engine::joined;
use crate::repo::log::name::{CommitTime, HistoryName, SegmentName};
use crate::source::postgres::history::History;
use crate::source::postgres::wal::{Carry, EndTime, SegmentSummary, Stop, summarise};
use crate::store::Store;

/// Segments decoded ahead of the one being read, when segments are at most this large; else one.
const SMALL_SEGMENT_BYTES: u64 = 64 << 20;

/// An object as fetched: what it looks like, and what it holds or why that cannot be told.
struct Decoded {
    found: Option<Stored>,
    raw: std::result::Result<Vec<u8>, Unread>,
}

/// Why the content of an object cannot be told.
enum Unread {
    /// No key of the log opens it.
    NoKey,
    /// It is damaged.
    Broken(String),
}

/// What straddles from one segment into the next.
struct Carries {
    /// Segments in which a timeline goes over into another: what is carried into them is kept.
    switches: BTreeSet<Segment>,
    kept: HashMap<Segment, Carry>,
    next: Option<(Segment, Carry)>,
    /// Of a database's log, in which nothing straddles.
    ended: Ended,
}

impl Carries {
    fn new(histories: &[HistoryName], size: SegmentSize) -> Self {
        let switch = |history: &HistoryName| Segment::containing(history.parent, history.switch_lsn, size);
        Self { switches: histories.iter().map(switch).collect(), kept: HashMap::new(), next: None, ended: Ended::default() }
    }

    /// What is carried into `segment`.
    fn before(&self, segment: Segment, histories: &[HistoryName]) -> Carry {
        if let Some((next, carry)) = &self.next
            && *next == segment
        {
            return carry.clone();
        }
        // The first segment of a timeline begins with what its parent had written of it.
        let parent = histories.iter().find(|history| history.timeline == segment.timeline).map(|history| history.parent);
        let in_parent = parent.and_then(|timeline| self.kept.get(&Segment { timeline, ..segment }));
        in_parent.cloned().unwrap_or(Carry::Unknown)
    }

    fn remember(&mut self, segment: Segment, carry: Carry) {
        let next = segment.next();
        if self.switches.contains(&next) {
            self.kept.insert(next, carry.clone());
        }
        self.next = Some((next, carry));
    }
}

impl Run<'_> {
    /// Decodes the objects of one incarnation's log. Without `all_keys` some of its keys are damaged, which is told
    /// already: an object that none of the others opens is no damage of its own.
    ///
    /// # Errors
    /// When the repository does not answer; damage is reported.
    pub(super) async fn deep_log(
        &mut self,
        engine: Engine,
        size: SegmentSize,
        mut objects: Vec<Signed<'_>>,
        histories: &[HistoryName],
        opener: &Opener,
        all_keys: bool,
    ) -> Result<()> {
        objects.sort_by_key(|signed| order(&signed.object));
        let total = objects.iter().map(|signed| signed.object.stored_bytes).sum();
        self.progress.phase(&format!("reading the log of {}", self.source()), Some(total));
        let ahead = if size.bytes() <= SMALL_SEGMENT_BYTES { 2 } else { 1 };
        let limit_bytes = if engine == Engine::Sqlite { deep_database::LIMIT_BYTES } else { size.bytes() };
        let mut carries = Carries::new(histories, size);
        let mut waiting: VecDeque<(&Signed<'_>, JoinHandle<Result<Decoded>>)> = VecDeque::new();
        let mut coming = objects.iter();
        loop {
            self.cancel.check()?;
            while waiting.len() < ahead
                && let Some(signed) = coming.next()
            {
                let fetching = decode(self.scope.repository.shared_store(), signed.object.clone(), opener.clone(), limit_bytes);
                waiting.push_back((signed, tokio::spawn(fetching)));
            }
            let Some((signed, task)) = waiting.pop_front() else { return Ok(()) };
            let Decoded { found, raw } = joined(task.await)?;
            if !self.conclude(&signed.check, found) {
                continue;
            }
            let judged = match raw {
                Ok(raw) => self.content(engine, signed, raw, size, histories, &mut carries).await?,
                Err(Unread::Broken(what)) => Some(what),
                Err(Unread::NoKey) if !all_keys => None,
                Err(Unread::NoKey) => {
                    Some("is opened by no key of this log: its key is missing, or somebody else put it there".to_owned())
                }
            };
            if let Some(what) = judged {
                self.find(Finding::damage(&signed.object.key, what).affecting(&signed.check.backups));
            }
        }
    }

    /// What is wrong with the content of one object, if anything is.
    async fn content(
        &self,
        engine: Engine,
        signed: &Signed<'_>,
        raw: Vec<u8>,
        size: SegmentSize,
        histories: &[HistoryName],
        carries: &mut Carries,
    ) -> Result<Option<String>> {
        let digest = Sha256Digest::of(&raw);
        if !signed.lines.is_empty() && signed.lines.iter().all(|line| line.raw_sha256 != digest) {
            return Ok(Some(format!("holds other content than is signed for: SHA-256 {digest}")));
        }
        match &signed.object.kind {
            LogKind::Auxiliary => Ok(None),
            LogKind::History(name) => Ok(judge_history(name, &raw)),
            LogKind::Segment(name) if engine == Engine::Sqlite => {
                let (name, mut ended) = (name.clone(), std::mem::take(&mut carries.ended));
                let reading = tokio::task::spawn_blocking(move || {
                    let wrong = ended.read(&name, &raw);
                    Ok((ended, wrong))
                });
                let wrong;
                (carries.ended, wrong) = joined(reading.await)?;
                Ok(wrong)
            }
            LogKind::Segment(name) => {
                let carry = carries.before(name.segment, histories);
                let name = name.clone();
                let reading = tokio::task::spawn_blocking(move || Ok(read(&name, size, &raw, &carry)));
                let (next, wrong) = joined(reading.await)?;
                if let LogKind::Segment(name) = &signed.object.kind {
                    carries.remember(name.segment, next);
                }
                Ok(wrong)
            }
        }
    }
}

/// Histories and labels first, then segments as they follow each other.
fn order(object: &LogObject) -> Option<(TimelineId, u64)> {
    match &object.kind {
        LogKind::Segment(name) => Some((name.segment.timeline, name.segment.number)),
        LogKind::History(_) | LogKind::Auxiliary => None,
    }
}

async fn decode(store: Arc<dyn Store>, object: LogObject, opener: Opener, segment_bytes: u64) -> Result<Decoded> {
    let Some((content, found)) = fetch::whole(store.as_ref(), &object.key).await? else {
        return Ok(Decoded { found: None, raw: Err(Unread::NoKey) });
    };
    let raw = joined(tokio::task::spawn_blocking(move || Ok(open(&object, &content, &opener, segment_bytes))).await)?;
    Ok(Decoded { found: Some(found), raw })
}

fn open(object: &LogObject, content: &Bytes, opener: &Opener, segment_bytes: u64) -> std::result::Result<Vec<u8>, Unread> {
    contents::open(&object.key, content, opener, &object.digest, segment_bytes).map_err(|error| match error.kind() {
        ErrorKind::Failed => Unread::NoKey,
        // The message begins with the key, which is shown anyway.
        _ => Unread::Broken(error.summary().trim_start_matches(object.key.as_str()).trim_start().to_owned()),
    })
}

fn judge_history(name: &HistoryName, raw: &[u8]) -> Option<String> {
    match History::parse(name.timeline, raw) {
        Err(error) => Some(format!("cannot be read: {}", error.summary())),
        Ok(history) => match history.parent() {
            Some(parent) if (parent.timeline, parent.switch_lsn) == (name.parent, name.switch_lsn) => None,
            _ => Some("holds another branch than its name says".to_owned()),
        },
    }
}

/// Reads a segment: what it hands to the next, and what is wrong with it.
fn read(name: &SegmentName, size: SegmentSize, raw: &[u8], carry: &Carry) -> (Carry, Option<String>) {
    let known = *carry != Carry::Unknown;
    let (summary, broken) = match summarise(name.segment, size, raw, carry) {
        Err(error) if error.is_carry_mismatch() => (summarise(name.segment, size, raw, &Carry::Unknown), Some(error.to_string())),
        outcome => (outcome, None),
    };
    let summary = match summary {
        Ok(summary) => summary,
        Err(error) => return (Carry::Unknown, Some(format!("is no readable log: {error}"))),
    };
    let wrong = broken.or_else(|| judge_segment(name, &summary, known));
    (summary.end.carry, wrong)
}

fn judge_segment(name: &SegmentName, summary: &SegmentSummary, carry_known: bool) -> Option<String> {
    match summary.end.stop {
        Stop::EndOfLog { at, fault } | Stop::Damaged { at, fault } => Some(format!("cannot be read on from {at}: {fault}")),
        Stop::SegmentEnd if carry_known && summary.end.head_unknown => {
            Some("begins with a record whose beginning is not in the segment before".to_owned())
        }
        Stop::SegmentEnd if name_lies(name, summary) => Some("holds other transactions than its name says".to_owned()),
        Stop::SegmentEnd => None,
    }
}

/// Whether the times and the count in the name contradict the content, as far as both are known in full.
fn name_lies(name: &SegmentName, summary: &SegmentSummary) -> bool {
    let Some(commits) = name.commits.filter(|_| !summary.end.head_unknown) else { return false };
    let same = |named: CommitTime, found: EndTime| match (named, found) {
        (CommitTime::At(named), EndTime::At(found)) => named == found,
        (CommitTime::None, EndTime::None) | (CommitTime::Unknown, _) | (_, EndTime::Unknown) => true,
        _ => false,
    };
    u64::from(commits) != summary.commits || !same(name.first, summary.first_time()) || !same(name.last, summary.latest_time())
}
