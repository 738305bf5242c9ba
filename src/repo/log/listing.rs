//! The listing of a log, remembered on this host: a run asks only about what may have come since.
//!
//! For readers that show and decide nothing: `list`, and the recovery window that `check` tells. Whatever decides lists
//! afresh, because a name may be gone by now: a restore, `archive get`, the looks of `archive push` for a second primary,
//! what a backup builds on, what expires and what is deleted, `copy` and `verify`.
//!
//! Names are never given twice, so a remembered one says today what it said then. What else can change, and how it is seen:
//!
//! | change | seen |
//! |---|---|
//! | a segment, a timeline or a history arrives | at once: the listing goes on at the newest [`MARGIN_SEGMENTS`] of each timeline, up to the first segment of the next one |
//! | a segment arrives late, where one was missing | at once: every hole is asked about |
//! | log expires | at once: what the tombstones let go is forgotten, and what is left of it is asked for |
//! | the repository is wound back, or is another one | at once: the last commit entry seen then is not in the log any more |
//! | a second content of a segment that lies further back, or one that is deleted without a tombstone | within [`WHOLE_AFTER`], when everything is listed again; by whatever decides, at once |
//!
//! Requests: the whole listing takes one for 1,000 objects, a later one two, and one more for each further timeline and each
//! hole; when that is no less than a whole one takes, everything is listed. A repository in a directory is always listed
//! whole: to read it is as quick as to read what was remembered.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::LogCatalog;
use crate::base::{Error, Incarnation, Result, Segment, SegmentSize, SourceName, Timestamp, durable};
use crate::codec::Sha256Digest;
use crate::codec::compress;
use crate::repo::host_state::{HostState, RememberedHead};
use crate::repo::{CommitLog, Repository, layout};
use crate::store::{LIST_PAGE_OBJECTS, ObjectInfo, Store, StoreResult, is_directory};

/// After this everything is listed again.
pub const WHOLE_AFTER: Duration = Duration::from_secs(24 * 3600);

/// So many of the newest segments of each timeline are asked for again: segments need not arrive in order.
pub const MARGIN_SEGMENTS: usize = 64;

/// Version of the file; others are not used.
const VERSION: u32 = 1;
/// zstd level of the lines: they are read at the next run.
const LEVEL: i32 = 1;
/// Digits of a segment's name.
const SEGMENT_NAME_BYTES: usize = 24;

/// Whose log is listed, and on what host.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The repository.
    pub repository: &'a Repository,
    /// What this host remembers of it.
    pub state: &'a HostState,
    /// The source.
    pub source: &'a SourceName,
    /// The incarnation.
    pub incarnation: &'a Incarnation,
    /// Size of its segments.
    pub size: SegmentSize,
}

/// What the lines belong to: the second line of the file; the first is the digest of all that follows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Facts {
    version: u32,
    repository: String,
    source: SourceName,
    incarnation: Incarnation,
    /// The last commit entry that verified; none when there was none.
    head: Option<RememberedHead>,
    /// When everything was listed, by this host's clock before it began.
    listed_whole: Timestamp,
}

/// An object: its key below the log's prefix, its size in bytes and its time.
#[derive(Serialize, Deserialize)]
struct Line(String, u64, Timestamp);

/// A part of the key space that is asked about: after the first key, before the second.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Question {
    after: Option<String>,
    before: String,
}

/// The log at `place` as this host knows it, brought up to date; `log` is the source's commit log as it is now.
///
/// What cannot be remembered on this host costs requests at the next run, and nothing else.
///
/// # Errors
/// When the repository does not answer or a resolution is damaged.
pub async fn catalog(place: Place<'_>, log: &CommitLog) -> Result<LogCatalog> {
    let Place { repository, state, source, incarnation, size } = place;
    if is_directory(repository.store()) {
        return LogCatalog::load(repository, source, incarnation, size).await;
    }
    let prefix = layout::log(source, incarnation);
    let path = state.listing_path(source, incarnation);
    let (head, now) = (log.last_entry(), Timestamp::now());
    let fresh = Facts {
        version: VERSION,
        repository: repository.id().to_owned(),
        source: source.clone(),
        incarnation: incarnation.clone(),
        head: head.map(|(number, sha256)| RememberedHead { number, sha256 }),
        listed_whole: now,
    };
    let known = read(&path, &prefix).filter(|(facts, _)| fits(facts, &fresh, log, now));
    let (listed_whole, before) = known.map_or((now, Vec::new()), |(facts, objects)| (facts.listed_whole, objects));
    let cut = log.log_cut(incarnation);
    let is_needed = |segment: Segment| !cut.covers_segment(segment, size);
    let mut objects = before.clone();
    objects.retain(|object| segment_of(&object.key[prefix.len()..], size).is_none_or(is_needed));
    let questions = questions(&prefix, &objects, size);
    let is_whole = questions == [everything(&prefix)];
    let objects = answered(repository.store(), &prefix, objects, questions).await?;
    if is_whole || objects != before {
        let facts = Facts { listed_whole: if is_whole { now } else { listed_whole }, ..fresh };
        // Nobody waits for a warning about this: see above.
        let _ = write(&path, &facts, &prefix, &objects);
    }
    LogCatalog::of_listing(repository, source, incarnation, size, objects).await
}

/// Everything that a catalogue speaks of: what comes later are digests, keys and resolutions.
fn everything(prefix: &str) -> Question {
    Question { after: None, before: format!("{prefix}index/") }
}

/// Whether what is remembered can be gone on with.
fn fits(facts: &Facts, fresh: &Facts, log: &CommitLog, now: Timestamp) -> bool {
    let same = Facts { head: fresh.head, listed_whole: fresh.listed_whole, ..facts.clone() } == *fresh;
    let in_log = facts.head.is_none_or(|head| log.digests.get(&head.number) == Some(&head.sha256));
    same && in_log && facts.listed_whole <= now && now.since(facts.listed_whole) < WHOLE_AFTER
}

/// The segment that an object belongs to, by its key below the log's prefix; none of histories.
fn segment_of(relative: &str, size: SegmentSize) -> Option<Segment> {
    let (directory, file) = relative.split_once('/')?;
    let segment = Segment::parse(file.get(..SEGMENT_NAME_BYTES)?, size)?;
    (segment.timeline.hex() == directory).then_some(segment)
}

/// What must be asked when these objects are known, in order and apart; one question about everything when that costs no
/// more requests.
fn questions(prefix: &str, objects: &[ObjectInfo], size: SegmentSize) -> Vec<Question> {
    let segments: Vec<(&str, Segment)> =
        objects.iter().filter_map(|object| Some((object.key.as_str(), segment_of(&object.key[prefix.len()..], size)?))).collect();
    let everything = everything(prefix);
    let end = everything.before.as_str();
    let first = segments.first().map_or(end, |(key, _)| key);
    let mut questions = vec![Question { after: None, before: first.to_owned() }];
    let mut timeline_begin = 0;
    for (at, (key, segment)) in segments.iter().enumerate() {
        let next = segments.get(at + 1);
        let next_key = next.map_or(end, |(key, _)| key);
        match next {
            Some((_, next)) if next.timeline == segment.timeline => {
                if next.number > segment.number + 1 {
                    ask(&mut questions, key, next_key);
                }
            }
            _ => {
                let resume = (at + 1).saturating_sub(MARGIN_SEGMENTS).max(timeline_begin);
                ask(&mut questions, segments[resume].0, next_key);
                timeline_begin = at + 1;
            }
        }
    }
    if questions.len() > objects.len() / LIST_PAGE_OBJECTS { vec![everything] } else { questions }
}

/// Adds a question that ends after all others do, together with those that it overlaps.
fn ask(questions: &mut Vec<Question>, after: &str, before: &str) {
    let mut after = Some(after.to_owned());
    while let Some(last) = questions.pop_if(|last| after.as_ref().is_some_and(|after| last.before >= *after)) {
        after = last.after.min(after);
    }
    questions.push(Question { after, before: before.to_owned() });
}

/// `objects`, with what the store says to the questions.
async fn answered(
    store: &dyn Store,
    prefix: &str,
    objects: Vec<ObjectInfo>,
    questions: Vec<Question>,
) -> Result<Vec<ObjectInfo>> {
    let mut objects: BTreeMap<String, ObjectInfo> = objects.into_iter().map(|object| (object.key.clone(), object)).collect();
    for question in questions {
        let listed = list_between(store, prefix, &question).await?;
        let mut later = objects.split_off(&question.before);
        let asked = question.after.map_or_else(String::new, |after| after + "\0");
        drop(objects.split_off(&asked));
        objects.extend(listed.into_iter().map(|object| (object.key.clone(), object)));
        objects.append(&mut later);
    }
    Ok(objects.into_values().collect())
}

async fn list_between(store: &dyn Store, prefix: &str, question: &Question) -> StoreResult<Vec<ObjectInfo>> {
    let mut found: Vec<ObjectInfo> = Vec::new();
    loop {
        let after = found.last().map(|object| object.key.as_str()).or(question.after.as_deref());
        let page = store.list(prefix, after).await?;
        let is_last = !page.more || page.objects.is_empty();
        for object in page.objects {
            if object.key >= question.before {
                return Ok(found);
            }
            found.push(object);
        }
        if is_last {
            return Ok(found);
        }
    }
}

/// What is remembered at `path`; none when there is nothing, or it is not whole.
fn read(path: &Path, prefix: &str) -> Option<(Facts, Vec<ObjectInfo>)> {
    let content = fs::read(path).ok()?;
    let (digest, rest) = split_line(&content)?;
    if std::str::from_utf8(digest).ok()?.parse() != Ok(Sha256Digest::of(rest)) {
        return None;
    }
    let (facts, lines) = split_line(rest)?;
    let facts = serde_json::from_slice(facts).ok()?;
    let mut objects: Vec<ObjectInfo> = Vec::new();
    for line in BufReader::new(compress::stream_reader(lines).ok()?).lines() {
        let Line(relative, size_bytes, modified) = serde_json::from_str(&line.ok()?).ok()?;
        objects.push(ObjectInfo { key: format!("{prefix}{relative}"), size_bytes, modified });
    }
    Some((facts, objects))
}

fn split_line(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = text.iter().position(|byte| *byte == b'\n')?;
    Some((&text[..end], &text[end + 1..]))
}

/// Remembers a listing, readable by its owner alone.
fn write(path: &Path, facts: &Facts, prefix: &str, objects: &[ObjectInfo]) -> Result<()> {
    let failed = |error: std::io::Error| Error::io("write", path, error);
    let mut content = serde_json::to_vec(facts).expect("facts are plain structs");
    content.push(b'\n');
    let mut out = compress::stream_writer(content, LEVEL).map_err(failed)?;
    for object in objects {
        let line = Line(object.key[prefix.len()..].to_owned(), object.size_bytes, object.modified);
        serde_json::to_writer(&mut out, &line).map_err(|error| failed(error.into()))?;
        out.write_all(b"\n").map_err(failed)?;
    }
    let content = out.finish().map_err(failed)?;
    let mut file = format!("{}\n", Sha256Digest::of(&content)).into_bytes();
    file.extend(content);
    let directory = path.parent().unwrap_or(path);
    durable::create_dir_all(directory).and_then(|()| durable::write_file(path, &file, 0o600)).map_err(failed)
}

#[cfg(test)]
mod tests;
